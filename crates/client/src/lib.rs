//! Scatter's client library.

pub mod attempts;
pub mod cache;
mod lanes;
