//! Everything that can happen to a node.

use crate::entry::Room;
use crate::group::{GroupState, Link};
use crate::message::{PeerMessage, Piece};
use crate::ops::order::Order;
use crate::time::LogTime;
use crate::types::{
    ClusterId, ConfigurationVersion, FeatureLevel, GroupId, Incarnation, NodeId, ReplicaName, RequestId, Slot, Version,
    WriteId,
};
use bytes::Bytes;
use std::sync::Arc;

/// What the state machine reports after it applied entries, or came to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineReport {
    /// Of which incarnation's machine: a report may come after its replica has gone and another has come.
    pub incarnation: Incarnation,
    /// The last slot applied.
    pub applied: Slot,
    /// The version of the last operation.
    pub stamp: Version,
    /// The replicated clock.
    pub log_time: LogTime,
    /// When the next time-to-live ends.
    pub next_expiry: Option<LogTime>,
    /// What formats the group may use.
    pub feature_level: FeatureLevel,
    /// The group state as of its last structural change: configuration, range, links, lock, obligations. Its numbers that move with every
    /// entry are outdated.
    pub state: Arc<GroupState>,
    /// Whether its counters are exact.
    pub counted: bool,
}

/// One thing that happened. None of them is trusted: stale, repeated and hostile ones are ignored or refused.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed: a deadline may have come.
    Tick,
    /// A message came over a connection whose hello was accepted.
    Message {
        /// The node at the other end.
        from: NodeId,
        /// What it said.
        message: PeerMessage,
    },
    /// Everything up to this batch of writes is on disk.
    Synced {
        /// The batch.
        write: WriteId,
    },
    /// The disk has more or less room than before.
    Room {
        /// How much.
        room: Room,
    },
    /// A client wants a command decided.
    Propose {
        /// Names the answer.
        request: RequestId,
        /// The group it is for.
        group: GroupId,
        /// The encoded command.
        command: Bytes,
    },
    /// A client wants to read, linearizably, and the read word did not allow it.
    Read {
        /// Names the answer.
        request: RequestId,
        /// The group it is for.
        group: GroupId,
    },
    /// The machine applied what it was handed.
    Applied {
        /// The group.
        group: GroupId,
        /// Its state.
        report: MachineReport,
    },
    /// A machine was created, or a snapshot was switched in; either is durable.
    Installed {
        /// The group.
        group: GroupId,
        /// Its state.
        report: MachineReport,
    },
    /// The machine stands still before this slot: what it takes over from the replica beside it is not there yet.
    Stalled {
        /// The group.
        group: GroupId,
        /// The slot that it cannot apply.
        slot: Slot,
    },
    /// A split gave birth to a machine here.
    Born {
        /// The child's replica.
        child: ReplicaName,
        /// Who leads the child in ballot 1.
        leader: NodeId,
        /// The child's state.
        report: MachineReport,
    },
    /// A machine here ended: its group was merged into another.
    Merged {
        /// The replica that has no machine any more.
        loser: ReplicaName,
        /// The group that took over.
        into: GroupId,
        /// The slot at which it did.
        at: Slot,
    },
    /// The data store is durable up to this slot.
    Flushed {
        /// The group.
        group: GroupId,
        /// The slot.
        slot: Slot,
    },
    /// The machine's answer to an order to look for what has expired.
    Expired {
        /// The group.
        group: GroupId,
        /// An encoded list of [`crate::group::Expiry`]; empty if nothing is due.
        body: Bytes,
        /// When the next time-to-live ends, at the earliest.
        next_expiry: Option<LogTime>,
    },
    /// The machine's answer to an order to count: a slice is done.
    Counted {
        /// The group.
        group: GroupId,
        /// Names what is being counted, for the next order; zero if it is no more, and counting begins anew.
        count: u64,
        /// After the last slice: an encoded [`crate::group::Correction`].
        correction: Option<Bytes>,
    },
    /// The machine's answer to an order to read a piece of a snapshot.
    SnapshotRead {
        /// The group.
        group: GroupId,
        /// Who asked.
        to: ReplicaName,
        /// It.
        piece: Piece,
    },
    /// The machine's answer to an order to store a piece of a snapshot.
    SnapshotStored {
        /// The group.
        group: GroupId,
        /// The snapshot's number at its sender.
        snapshot: u64,
        /// Where the next piece begins; `None` if the piece was refused as damaged or stale and the fetch starts over.
        cursor: Option<Bytes>,
        /// It was refused because it leaves out what this group here is still to take over.
        awaits: Option<GroupId>,
    },
    /// Entries read back from the log on disk.
    LogRead {
        /// The group.
        group: GroupId,
        /// Who lags.
        to: ReplicaName,
        /// The first slot asked for.
        first: Slot,
        /// The entries found there, consecutive from `first`; empty if they are gone.
        entries: Vec<crate::entry::Entry>,
    },
    /// An operator orders a change of members.
    ChangeMembers {
        /// Names the answer.
        request: RequestId,
        /// The group.
        group: GroupId,
        /// Nodes to add as voters, with their peer addresses.
        add: Vec<(NodeId, String)>,
        /// Nodes to remove.
        remove: Vec<NodeId>,
        /// The version that the group's configuration must have, so that of two who saw the same members only one is heard; `None`
        /// for whatever it is.
        version: Option<ConfigurationVersion>,
    },
    /// An operator orders the leader to let another member lead.
    HandOver {
        /// Names the answer.
        request: RequestId,
        /// The group.
        group: GroupId,
        /// The member that shall lead.
        to: NodeId,
    },
    /// An operator or a policy orders a group operation.
    Reshape {
        /// Names the answer.
        request: RequestId,
        /// The group that is to act: the one to split, or the one to gain.
        group: GroupId,
        /// What it is to do.
        order: Order,
    },
    /// An operator orders that a group go on with these members alone, for it has lost its majority for good. Unsafe:
    /// [`crate::ops::recovery`].
    Recover {
        /// Names the answer.
        request: RequestId,
        /// The group.
        group: GroupId,
        /// The nodes of the voters that are left, this one among them.
        survivors: Vec<NodeId>,
    },
    /// An operator tells that groups go on without these nodes: nobody is to listen to them again.
    Condemn {
        /// Names the answer, which comes once the disk knows.
        request: RequestId,
        /// The nodes.
        nodes: Vec<NodeId>,
    },
    /// Groups were heard of that may lie next to one which [`Node::seeking_neighbours`](crate::node::Node::seeking_neighbours) named: hints.
    Found {
        /// The group that is led here.
        group: GroupId,
        /// What was heard.
        links: Vec<Link>,
    },
    /// A node answered at an address of the founders or seeds.
    Answered {
        /// The address asked.
        address: String,
        /// Who lives there.
        node: NodeId,
        /// The cluster it belongs to, if any.
        cluster: Option<ClusterId>,
    },
    /// A peer refused this node's hello because its disk was rolled back or cloned, or a group went on without it.
    RolledBack {
        /// Who said so.
        by: NodeId,
    },
}
