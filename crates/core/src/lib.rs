//! Scatter's protocol, without any input or output.

pub mod birth;
pub mod codec;
pub mod command;
pub mod config;
pub mod durable;
pub mod effects;
pub mod entry;
pub mod group;
pub mod input;
pub mod message;
pub mod node;
pub mod ops;
pub mod paxos;
pub mod planted;
pub mod policy;
pub mod replica;
pub mod ring;
pub mod rng;
pub mod stage;
pub mod store;
pub mod time;
pub mod types;

pub use birth::Origin;
pub use config::{Config, ReadMode};
pub use effects::Effects;
pub use input::Input;
pub use node::{Boot, Node};
