//! What the REST data API asks of whatever holds the data.

use scatter_core::command::{Found, Idempotency, Operation, Outcome};
use scatter_core::ring::Key;
use scatter_core::types::{ConfigurationVersion, GroupId, RangeVersion};
use scatter_service::WriteOutcome;
use std::borrow::Cow;
use std::future::Future;
use std::time::{Duration, Instant};

/// Reads and writes keys: a node over its replicas, a gateway over the client library.
///
/// Each call must resolve by its request's deadline, within some milliseconds: the API sets no timer of its own. A call
/// is dropped when its client goes away; a write that was begun may then still happen.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Reads one key. A read that can be answered at once should be, in the first poll: the API never hands it to another
    /// task.
    fn read(&self, request: ReadRequest) -> impl Future<Output = Result<ReadReply, Failure>> + Send;

    /// Carries out one write, exactly once.
    ///
    /// The outcomes `Forgotten`, `StampAhead` and `NotOwner` are the backend's to deal with (another stamp, another
    /// attempt, another group); one that reaches the API counts as a fault.
    fn write(&self, request: WriteRequest) -> impl Future<Output = Result<WriteReply, Failure>> + Send;
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Consistency {
    /// It sees every write that was acknowledged before it began.
    #[default]
    Linearizable,
    /// It sees every write that was acknowledged longer ago than this.
    Bounded {
        /// How long.
        max_staleness: Duration,
    },
    /// Whatever the nearest replica has.
    Any,
}

impl Consistency {
    /// Its name in `?consistency=` and `Scatter-Consistency`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Bounded { .. } => "bounded",
            Self::Any => "any",
        }
    }
}

/// One read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadRequest {
    /// What to read.
    pub key: Key,
    /// How fresh.
    pub consistency: Consistency,
    /// By when to answer.
    pub deadline: Instant,
}

/// Which way a read was answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReadPath {
    /// By the leader under its lease.
    Lease,
    /// By a primary under its lease.
    Primary,
    /// After asking a majority.
    Quorum,
    /// By a replica that may lag.
    Stale,
}

impl ReadPath {
    /// Every path, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Lease, Self::Primary, Self::Quorum, Self::Stale];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Primary => "primary",
            Self::Quorum => "quorum",
            Self::Stale => "stale",
        }
    }
}

/// The versions of a group that answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Epoch {
    /// Of its members.
    pub configuration: ConfigurationVersion,
    /// Of its range.
    pub range: RangeVersion,
}

/// The answer to a read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadReply {
    /// The value, if the key has one.
    pub found: Option<Found>,
    /// Who answered.
    pub group: GroupId,
    /// At which versions.
    pub epoch: Epoch,
    /// How old the answer may be; `None` if it is linearizable.
    pub staleness: Option<Duration>,
    /// Which way it came.
    pub path: ReadPath,
}

/// One write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteRequest {
    /// A put or a delete.
    pub operation: Operation,
    /// The client's `Idempotency-Key`.
    pub idempotency: Option<Idempotency>,
    /// By when to answer.
    pub deadline: Instant,
}

/// The answer to a write that was decided.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteReply {
    /// What became of it.
    pub outcome: Outcome,
    /// Who decided.
    pub group: GroupId,
    /// At which versions.
    pub epoch: Epoch,
}

/// Why a request has no answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The request does not mean anything (400).
    Malformed,
    /// Something else is in the way (409).
    Conflict,
    /// It is over a limit that the detail names (413).
    TooLarge,
    /// Another node owns the key and this one was told not to forward (421).
    Misdirected,
    /// The client has used up what it may use (429).
    Quota,
    /// A fault (500).
    Internal,
    /// Nobody can serve the key at the moment: no leader, no majority, sealed (503).
    Unavailable,
    /// Too much work is under way (503).
    Overloaded,
    /// There is no space for writes (503).
    StorageFull,
    /// The program is about to end (503).
    Draining,
    /// The deadline passed (504).
    Deadline,
}

/// A request that has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// Why, in this case, for a person.
    pub detail: Cow<'static, str>,
    /// When to try again.
    pub retry_after: Option<Duration>,
    /// For writes, what became of it. `NotApplied` only if every attempt was definitely refused.
    pub outcome: WriteOutcome,
}

impl Failure {
    /// A failure of something that certainly did not happen: every read, and a write that was refused.
    pub fn refused(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None, outcome: WriteOutcome::NotApplied }
    }

    /// A failure of a write that may have happened or may yet.
    pub fn unknown(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into(), retry_after: None, outcome: WriteOutcome::Unknown }
    }

    /// The same failure with a time to wait.
    #[must_use]
    pub const fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}
