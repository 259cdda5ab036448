//! Why a request failed, and for writes what is known of them.

use scatter_core::types::{GroupId, Version};
use std::time::Duration;

/// What stood in the way, as far as the last attempt tells.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// No node answered so far, or none knows a group that owns the key.
    #[error("no group is known that owns the key")]
    NoOwner,
    /// The group has no leader that could be found.
    #[error("the group has no leader at the moment")]
    NoLeader,
    /// The group's members could not be reached.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// Too many requests are under way, here or on the node.
    #[error("too many requests are under way")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// A group operation holds the key's range.
    #[error("a group operation holds the key's range for a moment")]
    Sealed {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disks of a majority have no room for writes.
    #[error("there is no disk space for writes")]
    DiskFull,
    /// The node cannot serve.
    #[error("the node cannot serve: {0}")]
    Unavailable(String),
    /// The time given ran out while an attempt was under way.
    #[error("the time given ran out")]
    Deadline,
    /// The request does not make sense to the node.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The request is over a limit.
    #[error("the request is over the limit of {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// An administrative order conflicts with the state of the group.
    #[error("{0}")]
    Conflict(String),
    /// The group was merged away.
    #[error("the group is no more: group {heir} has its positions")]
    Gone {
        /// Which group has what it had.
        heir: GroupId,
    },
    /// The group or the node cannot tell what became of an attempt.
    #[error("the group cannot tell what became of an earlier attempt")]
    Forgotten,
}

impl Reason {
    /// Whether the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Malformed(_) | Self::TooLarge { .. } | Self::Conflict(_) | Self::Gone { .. })
    }
}

/// A read failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the read failed: {reason}")]
pub struct ReadError {
    /// Why.
    pub reason: Reason,
}

/// A write failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WriteError {
    /// A condition does not hold; nothing changed.
    #[error("a condition does not hold")]
    ConditionFailed {
        /// Which condition of a batch; 0 for single writes.
        index: u32,
        /// The version the key has, if it exists.
        current: Option<Version>,
    },
    /// The idempotency key was used before for something else; nothing changed.
    #[error("the idempotency key was used for another request")]
    IdempotencyMismatch,
    /// Every attempt was definitely refused: nothing changed and nothing will.
    #[error("the write was not applied: {reason}")]
    NotApplied {
        /// Why.
        reason: Reason,
    },
    /// The write may have been applied, or may still be.
    #[error("it is not known whether the write was applied: {reason}")]
    Unknown {
        /// Why.
        reason: Reason,
    },
}

/// No node of the cluster could be reached.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// The settings are of no use.
    #[error("{0}")]
    Settings(&'static str),
    /// Nobody answered with a ring in time.
    #[error("no seed told of the ring within {waited:?}: {last}")]
    NoRing {
        /// How long was waited.
        waited: Duration,
        /// What the last attempt said.
        last: String,
    },
}

/// An administrative order failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    /// Nothing was done.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: Reason,
    },
    /// The order was sent, and what became of it is not known.
    #[error("it is not known whether the order was carried out: {reason}")]
    Unknown {
        /// Why.
        reason: Reason,
    },
}
