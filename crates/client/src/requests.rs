//! Reads, writes and orders: their options, their results, and what each makes of the answers it gets.

use crate::attempts::{Answer, Attempts, Certainty, Step};
use crate::drive::{Ended, Failure, Verdict, Work};
use crate::error::{AdminError, ReadError, Reason, WriteError};
use crate::lanes::OpenLane;
use bytes::Bytes;
use scatter_core::command::{Command, Condition, Found, Idempotency, Operation, Outcome};
use scatter_core::ring::Key;
use scatter_core::types::{GroupId, Version};
use scatter_wire::{AdminRequest, ClientBody, Consistency, Epoch, ReadPath, ReplyBody};
use std::time::Duration;

/// How a read is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadOptions {
    /// How fresh the value must be.
    pub consistency: Consistency,
    /// How long the read may take, retries included; `None` for the client's own limit.
    pub timeout: Option<Duration>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { consistency: Consistency::Linearizable, timeout: None }
    }
}

/// How a put or a delete is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteOptions {
    /// What must hold.
    pub condition: Condition,
    /// For puts: how long the value lives.
    pub ttl: Option<Duration>,
    /// The user's own key for repeats, with the digest of what the request asks for. The client's retries need none.
    pub idempotency: Option<Idempotency>,
    /// How long the write may take, retries included; `None` for the client's own limit.
    pub timeout: Option<Duration>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { condition: Condition::Always, ttl: None, idempotency: None, timeout: None }
    }
}

/// Who served a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Served {
    /// The group.
    pub group: GroupId,
    /// Its versions then.
    pub epoch: Epoch,
}

/// A read that was served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReadReply {
    /// The value; `None` if the key does not exist.
    pub found: Option<Found>,
    /// Who served it.
    pub served: Served,
    /// How.
    pub path: ReadPath,
    /// How old the answer may be at most: zero for linearizable reads, `None` if the replica cannot tell.
    pub staleness: Option<Duration>,
}

/// A put that was applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The key's new version.
    pub version: Version,
    /// The key did not exist before.
    pub created: bool,
    /// Who applied it.
    pub served: Served,
}

/// A delete that was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deleted {
    /// The version of the delete; `None` if there was no key to delete.
    pub version: Option<Version>,
    /// Who applied it.
    pub served: Served,
}

/// A batch that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BatchWritten {
    /// Per write, in order.
    pub versions: Vec<Version>,
    /// Who applied it.
    pub served: Served,
}

pub(crate) struct ReadWork {
    pub(crate) key: Key,
    pub(crate) consistency: Consistency,
}

impl Work for ReadWork {
    type Output = ReadReply;

    fn body(&self) -> ClientBody {
        ClientBody::Read { key: self.key.clone(), consistency: self.consistency }
    }

    fn sent(&mut self) {}

    fn ended(&mut self, ended: Ended) -> Verdict<ReadReply> {
        match ended {
            Ended::NotSent | Ended::Lost | Ended::Refused(_) => Verdict::Again,
            Ended::Reply(ReplyBody::Value { found, group, epoch, path, staleness_ms, stamp: _ }) => {
                let staleness = staleness_ms.map(Duration::from_millis);
                Verdict::Done(ReadReply { found, served: Served { group, epoch }, path, staleness })
            }
            Ended::Reply(_) => Verdict::Failed(odd_reply(Certainty::NotApplied)),
        }
    }

    fn give_up(&self) -> Certainty {
        Certainty::NotApplied
    }
}

/// A write with its lane. The command is encoded once for all attempts of one lane use.
pub(crate) struct WriteWork {
    command: Command,
    body: ClientBody,
    lane: OpenLane,
    attempts: Attempts,
}

impl WriteWork {
    pub(crate) fn new(operation: Operation, idempotency: Option<Idempotency>, lane: OpenLane) -> Self {
        let command = Command { lane: Some(lane.lane_use()), idempotency, operation };
        Self { body: ClientBody::write(&command), command, lane, attempts: Attempts::default() }
    }

    fn renew(&mut self, stamp: Version) {
        self.lane.renew(stamp);
        self.command.lane = Some(self.lane.lane_use());
        self.body = ClientBody::write(&self.command);
        self.attempts = Attempts::default();
    }
}

/// What a group recorded of a write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WriteReply {
    /// What became of it: applied, not found, a failed condition, or an idempotency key used before.
    pub outcome: Outcome,
    /// Who recorded it.
    pub served: Served,
}

impl Work for WriteWork {
    type Output = WriteReply;

    fn body(&self) -> ClientBody {
        self.body.clone()
    }

    fn sent(&mut self) {
        self.attempts.sent();
    }

    fn ended(&mut self, ended: Ended) -> Verdict<WriteReply> {
        let mut served = None;
        let answer = match ended {
            Ended::NotSent => Answer::NotSent,
            Ended::Refused(refusal) if refusal.is_definite() => Answer::Refused,
            Ended::Reply(ReplyBody::Outcome { outcome, group, epoch, stamp: _ }) => {
                served = Some(Served { group, epoch });
                Answer::Outcome(outcome)
            }
            // An answer to another question tells nothing of this one.
            Ended::Lost | Ended::Refused(_) | Ended::Reply(_) => Answer::Lost,
        };
        let malformed = answer == Answer::Outcome(Outcome::Malformed);
        let reason = || {
            if malformed { Reason::Malformed("the group does not know this command".into()) } else { Reason::Forgotten }
        };
        match (self.attempts.ended(answer), served) {
            (Step::Again, _) => Verdict::Again,
            (Step::Renew { stamp }, _) => {
                self.renew(stamp);
                Verdict::Renewed
            }
            (Step::Wait, _) => Verdict::Wait(reason()),
            (Step::Done(outcome), Some(served)) => Verdict::Done(WriteReply { outcome, served }),
            (Step::Done(_), None) => Verdict::Failed(odd_reply(Certainty::Unknown)),
            (Step::Failed(certainty), _) => Verdict::Failed(Failure { certainty, reason: reason() }),
        }
    }

    fn give_up(&self) -> Certainty {
        self.attempts.give_up()
    }
}

/// An operator's order to the leader of a group. It carries no lane. Once it may have arrived it is repeated, to whoever leads then,
/// only if it names the version of the range or of the members, so that it is carried out once at most, or if it only asks what would be done.
pub(crate) struct OrderWork {
    request: AdminRequest,
    only_asks: bool,
    names_version: bool,
    /// Attempts that may have arrived.
    unanswered: u32,
}

impl OrderWork {
    pub(crate) fn new(request: AdminRequest) -> Self {
        let only_asks = match &request {
            AdminRequest::ChangeMembers { dry_run, .. }
            | AdminRequest::TransferLeader { dry_run, .. }
            | AdminRequest::Split { dry_run, .. }
            | AdminRequest::TakeOver { dry_run, .. } => *dry_run,
            AdminRequest::Status
            | AdminRequest::Drain { .. }
            | AdminRequest::Recover { .. }
            | AdminRequest::Condemn { .. } => false,
        };
        let names_version = match &request {
            AdminRequest::Split { range_version, .. } | AdminRequest::TakeOver { range_version, .. } => {
                range_version.is_some()
            }
            AdminRequest::ChangeMembers { version, .. } => version.is_some(),
            _ => false,
        };
        Self { request, only_asks, names_version, unanswered: 0 }
    }
}

impl Work for OrderWork {
    type Output = String;

    fn body(&self) -> ClientBody {
        ClientBody::Administer { request: self.request.clone() }
    }

    fn sent(&mut self) {
        self.unanswered += u32::from(!self.only_asks);
    }

    fn may_repeat(&self) -> bool {
        self.unanswered == 0 || self.names_version
    }

    fn ended(&mut self, ended: Ended) -> Verdict<String> {
        match ended {
            Ended::Reply(ReplyBody::Administered { json }) => Verdict::Done(json),
            Ended::NotSent => {
                self.unanswered = self.unanswered.saturating_sub(1);
                Verdict::Again
            }
            Ended::Refused(refusal) if refusal.is_definite() => {
                self.unanswered = self.unanswered.saturating_sub(1);
                Verdict::Again
            }
            Ended::Refused(_) | Ended::Lost if self.only_asks || self.names_version => Verdict::Again,
            Ended::Refused(_) | Ended::Lost => {
                let reason = Reason::Unreachable("the order was sent and not answered".into());
                Verdict::Failed(Failure { certainty: Certainty::Unknown, reason })
            }
            Ended::Reply(_) => Verdict::Failed(odd_reply(self.give_up())),
        }
    }

    fn give_up(&self) -> Certainty {
        if self.unanswered > 0 { Certainty::Unknown } else { Certainty::NotApplied }
    }
}

fn odd_reply(certainty: Certainty) -> Failure {
    Failure { certainty, reason: Reason::Unavailable("it answered another question".into()) }
}

impl From<Failure> for ReadError {
    fn from(failure: Failure) -> Self {
        Self { reason: failure.reason }
    }
}

impl From<Failure> for WriteError {
    fn from(Failure { certainty, reason }: Failure) -> Self {
        match certainty {
            Certainty::NotApplied => Self::NotApplied { reason },
            Certainty::Unknown => Self::Unknown { reason },
        }
    }
}

impl From<Failure> for AdminError {
    fn from(Failure { certainty, reason }: Failure) -> Self {
        match certainty {
            Certainty::NotApplied => Self::Refused { reason },
            Certainty::Unknown => Self::Unknown { reason },
        }
    }
}

impl WriteReply {
    pub(crate) fn written(self) -> Result<Written, WriteError> {
        match self.outcome {
            Outcome::Written { version, created } => Ok(Written { version, created, served: self.served }),
            other => Err(refused_outcome(other)),
        }
    }

    pub(crate) fn deleted(self) -> Result<Deleted, WriteError> {
        match self.outcome {
            Outcome::Deleted { version } => Ok(Deleted { version: Some(version), served: self.served }),
            Outcome::NotFound => Ok(Deleted { version: None, served: self.served }),
            other => Err(refused_outcome(other)),
        }
    }

    pub(crate) fn batch_written(self) -> Result<BatchWritten, WriteError> {
        match self.outcome {
            Outcome::BatchWritten { versions } => Ok(BatchWritten { versions, served: self.served }),
            other => Err(refused_outcome(other)),
        }
    }
}

/// What a recorded outcome that is not the operation's success means to the caller.
fn refused_outcome(outcome: Outcome) -> WriteError {
    match outcome {
        Outcome::ConditionFailed { index, current } => WriteError::ConditionFailed { index, current },
        Outcome::IdempotencyMismatch => WriteError::IdempotencyMismatch,
        // Something was applied that was not asked for in this form: nothing can be promised.
        other => WriteError::Unknown { reason: Reason::Unavailable(format!("an odd outcome: {other:?}")) },
    }
}

/// A time-to-live in whole milliseconds, rounded up.
pub(crate) fn ttl_ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

/// The body of a put.
pub(crate) fn put(key: Key, value: Bytes, options: &WriteOptions) -> Operation {
    Operation::Put { key, value, ttl_ms: options.ttl.map(ttl_ms), condition: options.condition }
}

/// The key by which an operation finds its group; `None` for an empty batch.
pub(crate) fn first_key(operation: &Operation) -> Option<&Key> {
    match operation {
        Operation::Put { key, .. } | Operation::Delete { key, .. } => Some(key),
        Operation::Batch { conditions, writes } => {
            let written = writes.first().map(|write| match write {
                scatter_core::command::Write::Put { key, .. } | scatter_core::command::Write::Delete { key } => key,
            });
            conditions.first().map(|(key, _)| key).or(written)
        }
    }
}
