//! Scatter's client library: finds the owner of each key, keeps to one connection per node, and repeats what fails for as
//! long as the caller allows, applying every write at most once.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use scatter_client::{Client, ClientConfig, Key, ReadOptions, WriteOptions};
//!
//! let config = ClientConfig { seeds: vec!["127.0.0.1:7001".into()], ..ClientConfig::default() };
//! let client = Client::connect(config).await?;
//! let key = Key::new("users/42")?;
//! let written = client.put(key.clone(), "Ada".into(), WriteOptions::default()).await?;
//! let read = client.get(&key, ReadOptions::default()).await?;
//! assert!(read.found.is_some_and(|found| found.version >= written.version));
//! # Ok(())
//! # }
//! ```
//!
//! What a failed write says is exact: [`WriteError::NotApplied`] means that every attempt was definitely refused,
//! [`WriteError::Unknown`] that one may have been applied, or may still be.
//!
//! How it works: [`cache`] holds what is believed about the ring; a request (`drive`) goes to the group's leader, and when
//! no answer comes in time others are asked who leads (`search`) while the attempt stays open; where the cache knows no owner, a
//! `walk` along the ring finds it; [`attempts`] decides what
//! may be said of a write; `lanes` makes its repeats harmless.

pub mod attempts;
pub mod cache;
mod client;
mod config;
mod drive;
mod error;
mod lanes;
mod limits;
mod metrics;
mod nodes;
mod requests;
pub mod reshape;
mod search;
mod shared;
mod survey;
mod walk;

pub use client::Client;
pub use config::ClientConfig;
pub use error::{AdminError, ReadError, Reason, StartError, WriteError};
pub use metrics::{ClientMetrics, MOST_HOPS};
pub use requests::{BatchWritten, Deleted, ReadOptions, ReadReply, Served, WriteOptions, WriteReply, Written};
pub use reshape::{MembersOptions, ReshapeOptions};
pub use scatter_core::command::{Condition, Found, Idempotency, Operation, Outcome, Write};
pub use scatter_core::ring::{Key, Position};
pub use scatter_core::types::{GroupId, NodeId, RangeVersion, Version};
pub use scatter_wire::{
    Boundary, ConnectionMetrics, Consistency, Description, Epoch, NewMember, NodeInfo, ReadPath, Side,
};
pub use survey::Survey;
