//! What a node answers to clients.

use scatter_core::command::{Found, Outcome};
use scatter_core::group::Descriptor;
use scatter_core::ops::OperationId;
use scatter_core::ring::KeyRange;
use scatter_core::types::{
    Ballot, ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion, RequestId, Slot, Version,
};
use scatter_core::{codec_enum, codec_struct};
use std::fmt;

/// One reply. Several travel in a frame, in any order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientReply {
    /// The request it answers.
    pub id: RequestId,
    /// The answer.
    pub body: ReplyBody,
}

codec_struct!(ClientReply { id, body });

/// The versions of a group's members and range when it answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Epoch {
    /// Of its members.
    pub configuration: ConfigurationVersion,
    /// Of its range.
    pub range: RangeVersion,
}

codec_struct!(Epoch { configuration, range });

/// How a read was served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReadPath {
    /// By the leader, under its lease.
    Lease,
    /// By the leader, after a round of heartbeats.
    Quorum,
    /// By any replica, from what it had.
    Stale,
}

codec_enum!(ReadPath { 1 => Lease, 2 => Quorum, 3 => Stale });

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplyBody {
    /// A read was served.
    Value {
        /// What the key holds; `None` if it does not exist.
        found: Option<Found>,
        /// The group that served it.
        group: GroupId,
        /// The group's versions then.
        epoch: Epoch,
        /// How it was served.
        path: ReadPath,
        /// How old the answer may be at most, in milliseconds: 0 for linearizable reads, `None` if the replica cannot tell.
        staleness_ms: Option<u64>,
        /// The group's stamp then: what a client may carry into its next write's lane.
        stamp: Version,
    },
    /// A command was decided and applied, or found to be a repeat.
    Outcome {
        /// What became of it.
        outcome: Outcome,
        /// The group that applied it.
        group: GroupId,
        /// The group's versions then.
        epoch: Epoch,
        /// The group's stamp then.
        stamp: Version,
    },
    /// The node did not do it, or cannot say.
    Refused {
        /// Why.
        refusal: Refusal,
        /// When to try again, in milliseconds; 0 says at once (elsewhere).
        retry_after_ms: u32,
        /// The best descriptors the node has of groups that may own the key.
        descriptors: Vec<Descriptor>,
        /// The highest stamp the node knows of; 0 if none.
        stamp: Version,
    },
    /// To [`crate::request::ClientBody::Describe`].
    Description {
        /// What the node tells.
        description: Description,
    },
    /// To [`crate::request::ClientBody::Administer`]: done, or under way.
    Administered {
        /// A JSON document.
        json: String,
    },
    /// To [`crate::request::ClientBody::Locate`].
    Located {
        /// The groups here and their neighbours that own the position or lie next to it, the likeliest first. Only a few.
        descriptors: Vec<Descriptor>,
    },
}

codec_enum!(ReplyBody {
    1 => Value { found, group, epoch, path, staleness_ms, stamp },
    2 => Outcome { outcome, group, epoch, stamp },
    3 => Refused { refusal, retry_after_ms, descriptors, stamp },
    4 => Description { description },
    5 => Administered { json },
    6 => Located { descriptors },
});

impl ReplyBody {
    /// A refusal that carries nothing but its reason.
    #[must_use]
    pub const fn refused(refusal: Refusal) -> Self {
        Self::Refused { refusal, retry_after_ms: 0, descriptors: Vec::new(), stamp: Version(0) }
    }
}

/// Why a node did not do what was asked. [`Refusal::is_definite`] tells which refusals promise that *this attempt* changed
/// nothing, now or later; earlier attempts of the same request are another matter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The group lives here but another node leads it. Definitely not applied.
    NotLeader,
    /// The group lives here and nobody is known to lead it. Definitely not applied.
    NoLeader,
    /// No group on this node owns the key. Definitely not applied.
    NotOwner,
    /// Too much work is waiting. Definitely not applied.
    Overloaded,
    /// A group operation holds the key's range. Definitely not applied.
    Sealed,
    /// The disk has no room for writes. Definitely not applied.
    DiskFull,
    /// The node is about to stop. Definitely not applied.
    Draining,
    /// The request does not make sense. Definitely not applied, and never will be.
    Malformed {
        /// What is wrong with it.
        text: String,
    },
    /// The request is over a limit. Definitely not applied, and never will be.
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The budget ran out before the request was proposed. Definitely not applied.
    Deadline,
    /// The node cannot serve at all at the moment. Definitely not applied.
    Unavailable {
        /// Why.
        text: String,
    },
    /// The attempt was proposed, and the node cannot say what became of it. It may be applied, even later.
    Unknown,
    /// An administrative order conflicts with the state of the group. Nothing was done.
    Conflict {
        /// With what.
        text: String,
    },
}

codec_enum!(Refusal {
    1 => NotLeader,
    2 => NoLeader,
    3 => NotOwner,
    4 => Overloaded,
    5 => Sealed,
    6 => DiskFull,
    7 => Draining,
    8 => Malformed { text },
    9 => TooLarge { limit },
    10 => Deadline,
    11 => Unavailable { text },
    12 => Unknown,
    13 => Conflict { text },
});

impl Refusal {
    /// Whether this attempt definitely changed nothing and never will.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Whether the same request may succeed later or elsewhere.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Malformed { .. } | Self::TooLarge { .. } | Self::Conflict { .. })
    }
}

/// What a node tells about itself and what it knows. All of it hints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// The configured name of its cluster.
    pub cluster_name: String,
    /// Its cluster, once it belongs to one.
    pub cluster: Option<ClusterId>,
    /// The node itself.
    pub node: NodeInfo,
    /// The groups it hosts or knows.
    pub descriptors: Vec<Descriptor>,
    /// The other nodes it knows, without their replicas.
    pub nodes: Vec<NodeInfo>,
}

codec_struct!(Description { cluster_name, cluster, node, descriptors, nodes });

/// What state a node is in, as its teller sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum NodeState {
    /// It has no cluster yet.
    Joining,
    /// It serves.
    Alive,
    /// It was not heard from lately.
    Suspect,
    /// It was not heard from for long.
    Dead,
    /// Its replicas are moving away.
    Draining,
    /// It hosts nothing and may stop.
    Drained,
}

codec_enum!(NodeState { 1 => Joining, 2 => Alive, 3 => Suspect, 4 => Dead, 5 => Draining, 6 => Drained });

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// Its id.
    pub node: NodeId,
    /// Where it listens for peers and clients.
    pub peer_address: String,
    /// Where it serves HTTP.
    pub http_address: String,
    /// Its zone.
    pub zone: String,
    /// Its state.
    pub state: NodeState,
    /// Its replicas, if it is the teller itself.
    pub replicas: Vec<ReplicaInfo>,
}

codec_struct!(NodeInfo { node, peer_address, http_address, zone, state, replicas });

/// What a replica does in its group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReplicaRole {
    /// It proposes.
    Leader,
    /// It votes.
    Follower,
    /// It only receives.
    Learner,
    /// It holds nothing yet.
    Joining,
    /// Its group was merged into another; it is kept until every member has what it held.
    Merged,
}

codec_enum!(ReplicaRole { 1 => Leader, 2 => Follower, 3 => Learner, 4 => Joining, 5 => Merged });

/// The group operation that holds a group, as one of its replicas sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingInfo {
    /// Which operation.
    pub operation: OperationId,
    /// Whether the group is the one that gains.
    pub gains: bool,
    /// The group on the other side.
    pub other: GroupId,
    /// Whether the loser ends.
    pub merge: bool,
    /// What moves.
    pub moving: KeyRange,
    /// How long this replica has known of it, in milliseconds.
    pub age_ms: u64,
}

codec_struct!(PendingInfo { operation, gains, other, merge, moving, age_ms });

impl PendingInfo {
    /// `merge` or `repartition`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        if self.merge { "merge" } else { "repartition" }
    }
}

impl fmt::Display for PendingInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (side, kind) = (if self.gains { "gains from" } else { "loses to" }, self.kind());
        write!(f, "{kind} {}: {side} group {}", self.operation, self.other)
    }
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaInfo {
    /// Its group.
    pub group: GroupId,
    /// The configuration that added it.
    pub incarnation: Incarnation,
    /// What it does.
    pub role: ReplicaRole,
    /// The ballot it has promised.
    pub ballot: Ballot,
    /// Every slot up to here is decided.
    pub decided: Slot,
    /// Every slot up to here is applied.
    pub applied: Slot,
    /// User keys in the group.
    pub keys: u64,
    /// Bytes of user keys and values in the group.
    pub bytes: u64,
    /// Client operations in each second, lately.
    pub operations_per_second: u64,
    /// The group operation that holds the group.
    pub pending: Option<PendingInfo>,
    /// The version of the group's range that it has applied; zero if it holds nothing.
    pub range_version: RangeVersion,
}

codec_struct!(ReplicaInfo {
    group,
    incarnation,
    role,
    ballot,
    decided,
    applied,
    keys,
    bytes,
    operations_per_second,
    pending,
    range_version,
});
