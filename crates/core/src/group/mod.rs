//! A group: the replicated state machine that owns one arc of the ring.

mod apply;
pub mod count;
mod expiry;
mod idempotency;
pub mod kv;
mod lanes;
mod layout;
pub mod machine;
mod middle;
pub mod read_word;
mod release;
mod reshape;
pub mod snapshot;

pub mod state;
pub mod tablets;

pub use count::{Correction, Counting};
pub use kv::{read, read_served};
pub use machine::{Applied, Limits, Machine};
pub(crate) use machine::{forget_merged, merged_replicas, was_merged};
pub use middle::middle;
pub use release::{StoreSpan, unused_spans};
pub use reshape::Beside;
pub use snapshot::{
    Chunk, Holding, SnapshotError, SnapshotHeader, SnapshotId, SnapshotSink, SnapshotSource, highest_tablet,
};
pub use state::{Configuration, Descriptor, Expiry, GroupState, Link, Links, MAX_MEMBERS, Member, Role};
pub use tablets::{Piece, TabletMap};
