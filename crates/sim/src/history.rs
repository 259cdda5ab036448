//! What the clients asked and heard, in a form the checkers read.
//!
//! Keys and values are small numbers: the workload names keys by index and gives every write a value of its own, so a
//! value tells which write it came from.

use std::fmt;

/// A key of the workload.
pub type KeyIndex = u32;

/// A value that exactly one write carries. Never 0.
pub type ValueId = u64;

/// A key's version as a client sees it. Never 0.
pub type VersionNumber = u64;

/// Virtual time, in nanoseconds since the run began.
pub type Time = u64;

/// What must hold of a key for a write to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Nothing.
    Always,
    /// The key exists with this version.
    VersionIs(VersionNumber),
    /// The key exists.
    Exists,
    /// The key does not exist.
    Absent,
}

/// What a write does to one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Sets it. A key that expires may vanish at any later moment.
    Put {
        /// The new value.
        value: ValueId,
        /// Whether it has a time-to-live.
        expires: bool,
    },
    /// Removes it.
    Delete,
}

/// What a client asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// The value of a key.
    Read(KeyIndex),
    /// A put or delete of one key.
    Single(KeyIndex, Guard, Change),
    /// Several changes that happen together if all guards hold.
    Batch {
        /// What must hold.
        guards: Vec<(KeyIndex, Guard)>,
        /// What is done, in order.
        changes: Vec<(KeyIndex, Change)>,
    },
}

impl Request {
    /// Every key the request mentions; one that is mentioned twice appears twice.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyIndex> {
        match self {
            Self::Read(key) | Self::Single(key, ..) => vec![*key],
            Self::Batch { guards, changes } => {
                guards.iter().map(|(key, _)| *key).chain(changes.iter().map(|(key, _)| *key)).collect()
            }
        }
    }

    /// The changes it makes if its guards hold.
    #[must_use]
    pub fn changes(&self) -> Vec<(KeyIndex, Change)> {
        match self {
            Self::Read(_) => Vec::new(),
            Self::Single(key, _, change) => vec![(*key, *change)],
            Self::Batch { changes, .. } => changes.clone(),
        }
    }

    /// Whether it only looks.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Read(_))
    }
}

/// What a client heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// A read found this.
    Value {
        /// The version of the key's last write.
        version: VersionNumber,
        /// The value.
        value: ValueId,
    },
    /// A read, or a delete, found no key.
    Absent,
    /// A put happened.
    Written {
        /// The key's new version.
        version: VersionNumber,
        /// Whether the key did not exist before.
        created: bool,
    },
    /// A delete happened.
    Deleted {
        /// The delete's own version.
        version: VersionNumber,
    },
    /// A batch happened.
    BatchWritten {
        /// Per change.
        versions: Vec<VersionNumber>,
    },
    /// A guard did not hold; nothing happened.
    ConditionFailed {
        /// Which guard.
        index: u32,
        /// The version the key has.
        current: Option<VersionNumber>,
    },
}

/// How an operation ended for its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// It heard an answer at this time.
    Answered(Time, Response),
    /// It gave up: the operation may have happened, may still happen, or may never.
    Unknown,
    /// It was told that nothing happened and nothing will.
    NotApplied,
}

/// One operation of one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// When.
    pub invoked: Time,
    /// What.
    pub request: Request,
    /// And then.
    pub end: End,
}

impl Operation {
    /// The moment after which the operation cannot take effect.
    #[must_use]
    pub fn returned(&self) -> Time {
        match self.end {
            End::Answered(at, _) => at,
            End::Unknown | End::NotApplied => Time::MAX,
        }
    }

    /// The answer, if one was heard.
    #[must_use]
    pub fn response(&self) -> Option<&Response> {
        match &self.end {
            End::Answered(_, response) => Some(response),
            End::Unknown | End::NotApplied => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} at {:.6}s {:?} -> ", self.client, self.invoked as f64 / 1e9, self.request)?;
        match &self.end {
            End::Answered(at, response) => write!(f, "{response:?} at {:.6}s", *at as f64 / 1e9),
            End::Unknown => write!(f, "unknown"),
            End::NotApplied => write!(f, "not applied"),
        }
    }
}
