//! What the consensus part keeps on disk: the records, and what is found after a restart.
//!
//! The core hands out [`Write`]s in batches, each under a [`crate::types::WriteId`]; the shell appends them to its log in that order and
//! answers `Synced(id)` once everything up to `id` is on disk. A failed sync ends the process: after it nobody knows what
//! the disk holds.

use crate::entry::Entry;
use crate::group::Configuration;
use crate::time::LogTime;
use crate::types::{Ballot, ClusterId, GroupId, Incarnation, NodeId, ReplicaName, Slot};
use crate::{codec_enum, codec_struct};

/// What a node knows of another node's past: enough to tell a rolled-back or cloned disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerRecord {
    /// The other node.
    pub node: NodeId,
    /// The highest boot counter it has shown.
    pub boot: u64,
    /// The nonce it showed with it.
    pub nonce: u64,
    /// A group went on without it, by an unsafe recovery: nobody listens to it again.
    pub condemned: bool,
}

codec_struct!(PeerRecord { node, boot, nonce, condemned });

/// The founders' agreement about what cluster they found. The first binding a founder makes is its last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Binding {
    /// The cluster's id, minted by the founder that proposed the binding.
    pub cluster: ClusterId,
    /// The first group's id.
    pub group: GroupId,
    /// All founders: exact node ids with their peer addresses, sorted by id.
    pub founders: Vec<(NodeId, String)>,
    /// Where the first group's clock starts.
    pub log_time: LogTime,
}

codec_struct!(Binding { cluster, group, founders, log_time });

/// How many boots back a node can show its nonces.
pub const MAX_NONCES: usize = 64;

/// What a node keeps about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Its id.
    pub node: NodeId,
    /// How often this data directory was opened; rises before the first message of each boot.
    pub boot: u64,
    /// The nonces of this boot and of those before it, newest first, at most [`MAX_NONCES`].
    pub nonces: Vec<u64>,
    /// The cluster it belongs to, once it does.
    pub cluster: Option<ClusterId>,
    /// As a founder, what it is bound to.
    pub binding: Option<Binding>,
    /// The longest lease it ever granted to anybody, in nanoseconds: how long a restart waits.
    pub longest_lease_nanos: u64,
    /// Set when a peer refused it as rolled back, cloned or condemned: it never speaks under this id again.
    pub given_up: bool,
}

codec_struct!(NodeRecord { node, boot, nonces, cluster, binding, longest_lease_nanos, given_up });

/// What a replica's acceptor has promised, beside its accepted entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HardState {
    /// No lower ballot is accepted.
    pub promised: Ballot,
    /// Every slot up to here is decided and its entry in this log (or below the truncation) is the decided one.
    pub decided: Slot,
    /// The slot of the last begun own ballot entry, to know after a restart that ballot 1 was led before.
    pub led_round: u64,
}

codec_struct!(HardState { promised, decided, led_round });

/// One durable change. Applied in order; a later record overrides an earlier one on the same thing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Replaces the node's own record.
    Node {
        /// The record.
        record: NodeRecord,
    },
    /// Remembers another node's boot counter.
    Peer {
        /// The record.
        record: PeerRecord,
    },
    /// A replica comes to be: its log starts empty above `after`.
    Create {
        /// Its name.
        replica: ReplicaName,
        /// The last slot it does not keep.
        after: Slot,
        /// Who spoke to it first, if it came to be by that.
        inviter: Option<ReplicaName>,
    },
    /// Replaces a replica's promises.
    Hard {
        /// The group.
        group: GroupId,
        /// The promises.
        state: HardState,
    },
    /// Accepts `entries` at consecutive slots from `first`, all in `ballot`, over whatever stood there. Slots above the
    /// last are untouched.
    Accept {
        /// The group.
        group: GroupId,
        /// The ballot.
        ballot: Ballot,
        /// The slot of the first entry.
        first: Slot,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// Forgets every slot up to and including `through`. Only issued below what the data store has flushed.
    Truncate {
        /// The group.
        group: GroupId,
        /// The last slot forgotten.
        through: Slot,
    },
    /// The replica is gone for good: its log is dropped, and no replica of this group of this or an earlier incarnation
    /// lives on this node again.
    Tombstone {
        /// The name that never answers again.
        replica: ReplicaName,
        /// The configuration that does without it.
        removed_by: Incarnation,
        /// Where its group went, if it was merged.
        merged: Option<Merger>,
        /// The newest configuration it knew: whom another removed replica may ask.
        configuration: Option<Configuration>,
    },
}

impl Write {
    /// Whether it has a right to the log's reserve by what it is. Clients' commands have none, nor has a decided mark, which goes with
    /// them; both may be given one ([`crate::effects::Effects::presses`]).
    #[must_use]
    pub fn uses_reserve(&self) -> bool {
        match self {
            Self::Accept { entries, .. } => entries.iter().any(|entry| entry.kind.uses_reserve()),
            Self::Hard { .. } => false,
            Self::Node { .. }
            | Self::Peer { .. }
            | Self::Create { .. }
            | Self::Truncate { .. }
            | Self::Tombstone { .. } => true,
        }
    }
}

codec_enum!(Write {
    1 => Node { record },
    2 => Peer { record },
    3 => Create { replica, after, inviter },
    4 => Hard { group, state },
    5 => Accept { group, ballot, first, entries },
    6 => Truncate { group, through },
    7 => Tombstone { replica, removed_by, merged, configuration },
});

/// Where a merged group went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Merger {
    /// The group that took over.
    pub into: GroupId,
    /// The slot at which it did.
    pub at: Slot,
}

codec_struct!(Merger { into, at });

/// The durable note that a replica is gone for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tombstone {
    /// Its name.
    pub replica: ReplicaName,
    /// The incarnation that did without it.
    pub removed_by: Incarnation,
    /// Where its group went, if it was merged.
    pub merged: Option<Merger>,
    /// The newest configuration it knew.
    pub configuration: Option<Configuration>,
}

codec_struct!(Tombstone { replica, removed_by, merged, configuration });

/// A live replica as the log remembers it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredReplica {
    /// Its name.
    pub replica: ReplicaName,
    /// Who spoke to it first, if it came to be by that.
    pub inviter: Option<ReplicaName>,
    /// Its promises.
    pub hard: HardState,
    /// The last slot forgotten.
    pub truncated: Slot,
    /// The accepted entries above it, rising; each slot once, with the ballot it was last accepted in. There may be gaps
    /// right above `truncated` only when a snapshot replaced the log.
    pub entries: Vec<(Slot, Ballot, Entry)>,
}

/// Everything the log remembers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recovered {
    /// The node's own record; `None` on an empty disk.
    pub node: Option<NodeRecord>,
    /// What is known of other nodes, by id.
    pub peers: Vec<PeerRecord>,
    /// Live replicas, by group.
    pub replicas: Vec<RecoveredReplica>,
    /// Replicas that are gone for good.
    pub tombstones: Vec<Tombstone>,
}
