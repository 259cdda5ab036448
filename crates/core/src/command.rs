//! What clients ask of a group, and what the group answers.
//!
//! A [`Command`] is encoded once, where the request enters the system, and stays those bytes through messages and log
//! until it is applied. Decoding slices the same buffer.

use crate::ring::Key;
use crate::types::{SessionId, Version};
use crate::{codec_enum, codec_struct};
use bytes::Bytes;

/// The most writes, and the most conditions, of one [`Operation::Batch`].
pub const MAX_BATCH_OPERATIONS: usize = 128;

/// The longest `Idempotency-Key`, in bytes.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 256;

/// What must hold for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key exists with exactly this version.
    VersionIs {
        /// The version.
        version: Version,
    },
    /// The key exists.
    Exists,
    /// The key does not exist.
    Absent,
}

codec_enum!(Condition { 0 => Always, 1 => VersionIs { version }, 2 => Exists, 3 => Absent });

/// One write inside a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Milliseconds of log time until it vanishes by itself.
        ttl_ms: Option<u64>,
    },
    /// Removes a key. Absence is no error.
    Delete {
        /// The key.
        key: Key,
    },
}

codec_enum!(Write { 1 => Put { key, value, ttl_ms }, 2 => Delete { key } });

/// What a command does to the keys of one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Sets a key if `condition` holds.
    Put {
        /// The key.
        key: Key,
        /// Its new value.
        value: Bytes,
        /// Milliseconds of log time until it vanishes by itself.
        ttl_ms: Option<u64>,
        /// What must hold.
        condition: Condition,
    },
    /// Removes a key if `condition` holds.
    Delete {
        /// The key.
        key: Key,
        /// What must hold.
        condition: Condition,
    },
    /// All `writes` in order, if every one of `conditions` holds; else nothing. All keys belong to one group.
    Batch {
        /// What must hold, each for its key.
        conditions: Vec<(Key, Condition)>,
        /// What is done. At most [`MAX_BATCH_OPERATIONS`].
        writes: Vec<Write>,
    },
}

codec_enum!(Operation {
    1 => Put { key, value, ttl_ms, condition },
    2 => Delete { key, condition },
    3 => Batch { conditions, writes },
});

impl Operation {
    /// Whether it writes nothing but the absence of keys, so that it takes hardly any room and gives some back.
    #[must_use]
    pub fn only_removes(&self) -> bool {
        match self {
            Self::Put { .. } => false,
            Self::Delete { .. } => true,
            Self::Batch { writes, .. } => writes.iter().all(|write| matches!(write, Write::Delete { .. })),
        }
    }

    /// Every key the operation reads or writes, in order of mention.
    pub fn keys(&self) -> Vec<&Key> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => vec![key],
            Self::Batch { conditions, writes } => {
                let written = writes.iter().map(|write| match write {
                    Write::Put { key, .. } | Write::Delete { key } => key,
                });
                conditions.iter().map(|(key, _)| key).chain(written).collect()
            }
        }
    }
}

/// Which attempt of which client session a command is, so that it is applied at most once.
///
/// A lane has one operation open at a time; `sequence` rises with each. `stamp` is the version the client held before
/// the *first* attempt and is the same in every repeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneUse {
    /// Whose lane.
    pub session: SessionId,
    /// Which of the session's lanes.
    pub lane: u32,
    /// Which operation in the lane, from 1.
    pub sequence: u64,
    /// What the client had last heard of time before its first attempt.
    pub stamp: Version,
}

codec_struct!(LaneUse { session, lane, sequence, stamp });

/// An HTTP `Idempotency-Key` with the digest of all that the request asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Idempotency {
    /// The header's value; at most [`MAX_IDEMPOTENCY_KEY_BYTES`].
    pub key: Bytes,
    /// The method, which scopes the key beside the path: one byte, `P` for PUT, `D` for DELETE, `B` for a batch.
    pub method: u8,
    /// `xxh3_128` over method, path, conditions, time-to-live and body.
    pub digest: u128,
}

codec_struct!(Idempotency { key, method, digest });

/// One client request to change data.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Command {
    /// Exactly-once bookkeeping; `None` only for requests that may be applied twice without harm.
    pub lane: Option<LaneUse>,
    /// The user's own key for repeats from anywhere. Not supported together with [`Operation::Batch`] over more than
    /// one position: the record lies beside the first key.
    pub idempotency: Option<Idempotency>,
    /// What to do.
    pub operation: Operation,
}

codec_struct!(Command { lane, idempotency, operation });

/// What became of one command. Recorded in the lane, so that a repeat hears the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A put was applied.
    Written {
        /// The key's new version.
        version: Version,
        /// The key did not exist before.
        created: bool,
    },
    /// A delete was applied.
    Deleted {
        /// The version of the delete itself.
        version: Version,
    },
    /// A delete found no key (and no condition that forbids that). Recorded.
    NotFound,
    /// A batch was applied.
    BatchWritten {
        /// Per write, in order; of a delete, the delete's own.
        versions: Vec<Version>,
    },
    /// A condition did not hold; nothing changed. Recorded.
    ConditionFailed {
        /// Which condition of a batch; 0 for single operations.
        index: u32,
        /// The version the key has, if it exists.
        current: Option<Version>,
    },
    /// The idempotency key was used before for something else; nothing changed. Recorded.
    IdempotencyMismatch,
    /// The lane has gone past this sequence, or remembers nothing: whether this attempt's operation was applied cannot be
    /// told. Not recorded.
    Unknown,
    /// The lane is not known and the stamp is not newer than what the group has forgotten: nothing was applied *by this
    /// attempt*. A first attempt takes `stamp` and tries again; a repeat is *unknown*. Not recorded.
    Forgotten {
        /// A stamp that would be accepted.
        stamp: Version,
    },
    /// The client's stamp is too far ahead of the group's clock; nothing was applied. Not recorded.
    StampAhead {
        /// A stamp that would be accepted.
        stamp: Version,
    },
    /// The group does not own a position of the command at this entry; nothing was applied. Not recorded.
    NotOwner,
    /// The bytes were not a command that this version knows; nothing was applied. Not recorded.
    Malformed,
}

codec_enum!(Outcome {
    1 => Written { version, created },
    2 => Deleted { version },
    3 => NotFound,
    4 => BatchWritten { versions },
    5 => ConditionFailed { index, current },
    6 => IdempotencyMismatch,
    7 => Unknown,
    8 => Forgotten { stamp },
    9 => StampAhead { stamp },
    10 => NotOwner,
    11 => Malformed,
});

/// A value as a read returns it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// The version of the key's last write.
    pub version: Version,
    /// The group's log time at that write, in microseconds near the Unix epoch.
    pub modified: crate::time::LogTime,
    /// The value.
    pub value: Bytes,
}

codec_struct!(Found { version, modified, value });
