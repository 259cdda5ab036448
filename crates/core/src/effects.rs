//! Everything a node wants done.
//!
//! The order of durability is kept inside the core: a message that tells of a promise is not in here until the disk has
//! reported it. So the shell may carry the parts out in any order and side by side, with one rule: `writes` of one
//! [`Effects`] go to the log as one batch, and batches in the order they came.

use crate::durable::Write;
use crate::entry::Entry;
use crate::group::GroupState;
use crate::message::PeerMessage;
use crate::time::LogTime;
use crate::types::{FeatureLevel, GroupId, NodeId, ReplicaName, RequestId, Slot, WriteId};
use bytes::Bytes;

/// A message on its way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// To whom.
    pub to: NodeId,
    /// Where that node is thought to listen.
    pub address: Option<String>,
    /// Large and patient: must not stand before heartbeats.
    pub bulk: bool,
    /// What.
    pub message: PeerMessage,
}

/// Why a request was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No replica of the group lives here.
    NoReplica,
    /// Another replica leads, or none does.
    NotLeader {
        /// Who, if known, with its peer address.
        leader: Option<(NodeId, String)>,
    },
    /// Too much is waiting.
    Overloaded,
    /// The log's disk has no room.
    DiskFull,
    /// The order makes no sense for the group as it is.
    Invalid(String),
    /// The order was given up half-way; what was decided stays.
    GivenUp(String),
}

/// Answers that do not come from the state machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Not taken; nothing was or will be applied.
    Refused(Refused),
    /// Taken, but leadership was lost before it was decided: it may or may not be applied.
    Lost,
    /// An operator's order is done.
    Done,
    /// A split or a recovery is done.
    Born {
        /// The group that has the upper part, or all.
        child: GroupId,
    },
    /// The read may go on: everything decided before it arrived is applied.
    ReadNow {
        /// The group to read from.
        group: GroupId,
    },
}

/// Decided entries for a group's machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Apply {
    /// The group.
    pub group: GroupId,
    /// In slot order, following those handed out before.
    pub entries: Vec<(Slot, Entry)>,
    /// Who waits for the outcomes: for a slot, one request per command in order.
    pub waiting: Vec<(Slot, Vec<RequestId>)>,
}

/// An order for a group's machine, carried out in order with its [`Apply`]s.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MachineOrder {
    /// Create the machine in this state, unless it exists; answer `Installed`.
    Create {
        /// The replica.
        replica: ReplicaName,
        /// The state.
        state: Box<GroupState>,
    },
    /// List what is due at this log time; answer `Expired`.
    Expired {
        /// The group.
        group: GroupId,
        /// The leader's estimate of log time.
        due: LogTime,
    },
    /// Count a slice of what the group holds; answer `Counted`.
    Count {
        /// The group.
        group: GroupId,
        /// What is being counted; zero to pin the state as it is and begin.
        count: u64,
    },
    /// Read a piece of a snapshot; answer `SnapshotRead`.
    ReadSnapshot {
        /// The group.
        group: GroupId,
        /// Who asked.
        to: ReplicaName,
        /// The snapshot's number; zero to pin a new one.
        snapshot: u64,
        /// Where the last piece ended.
        cursor: Option<Bytes>,
        /// The size wanted.
        bytes: usize,
    },
    /// Store a piece of a snapshot in a fresh tablet; answer `SnapshotStored`, or after the last piece, once the snapshot
    /// is switched in and flushed, `Installed`; either may take until the store has loaded what came before.
    StoreSnapshot {
        /// The replica to fill.
        replica: ReplicaName,
        /// The snapshot's number at its sender.
        snapshot: u64,
        /// The sender, to tell snapshots of different senders apart.
        from: ReplicaName,
        /// The piece.
        chunk: Bytes,
    },
    /// The replica is tombstoned: drop its data.
    Destroy {
        /// The replica.
        replica: ReplicaName,
    },
}

impl MachineOrder {
    /// The group whose machine it is for.
    #[must_use]
    pub fn group(&self) -> GroupId {
        match self {
            Self::Create { replica, .. } | Self::StoreSnapshot { replica, .. } | Self::Destroy { replica } => {
                replica.group
            }
            Self::Expired { group, .. } | Self::Count { group, .. } | Self::ReadSnapshot { group, .. } => *group,
        }
    }
}

/// Old entries to read back from the log on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRead {
    /// The group.
    pub group: GroupId,
    /// Who lags.
    pub to: ReplicaName,
    /// The first slot.
    pub first: Slot,
    /// The last slot of interest.
    pub last: Slot,
    /// About how many bytes.
    pub bytes: usize,
}

/// What must be done now.
#[derive(Default, Debug)]
pub struct Effects {
    /// One atomic batch for the log, to be answered with `Synced` of [`Effects::write`].
    pub writes: Vec<Write>,
    /// The batch's id; `None` if there are no writes.
    pub write: Option<WriteId>,
    /// The batch has a right to the log's reserve, whatever its writes are ([`Write::uses_reserve`]).
    pub presses: bool,
    /// Messages that may leave at once.
    pub messages: Vec<Outgoing>,
    /// Answers to requests.
    pub replies: Vec<(RequestId, Reply)>,
    /// Decided entries for the machines.
    pub applies: Vec<Apply>,
    /// Orders for the machines.
    pub orders: Vec<MachineOrder>,
    /// Reads of the log on disk.
    pub log_reads: Vec<LogRead>,
    /// Addresses to be asked who lives there; answered with `Answered`.
    pub dials: Vec<String>,
    /// The node has given up its id and must end.
    pub give_up: bool,
    /// A group has come to use features that this program does not know: it must end, its data stays good.
    pub too_new: Option<(GroupId, FeatureLevel)>,
}

impl Effects {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.messages.is_empty()
            && self.replies.is_empty()
            && self.applies.is_empty()
            && self.orders.is_empty()
            && self.log_reads.is_empty()
            && self.dials.is_empty()
            && !self.give_up
            && self.too_new.is_none()
    }
}
