//! Scatter's protocol, without any input or output.

pub mod codec;
pub mod command;
pub mod durable;
pub mod entry;
pub mod group;
pub mod ring;
pub mod store;
pub mod time;
pub mod types;
