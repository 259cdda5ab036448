//! A group: the replicated state machine that owns one arc of the ring.

pub mod state;

pub use state::{
    Configuration, Descriptor, Expiry, GroupState, Link, Links, Member, OutboxEntry, PendingOperation, Role, TabletMap,
};
