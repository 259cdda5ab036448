//! Operations of groups on the ring: split, and the takeover of positions by a neighbour (merge, repartition).
//!
//! ```text
//! gainer G                                  loser S
//!   Begin  [locked]
//!     | ------------- Prepare ----------------> Prepare [locked, sealed]
//!     | <------------ Voted yes, what moves --- |
//!   Decide [takes over]
//!     | ------------- Resolve ----------------> Resolve [narrows, unlocks]; of a merge nothing is left to log
//! ```
//!
//! Every arrow may be lost or repeated; every word in brackets is an entry of the group's own log, checked when it is
//! applied. `docs/protocol/group-operations.md` tells why this is safe. Here: the bodies of the entries and what a group
//! keeps of them; [`transitions`]: what they do to a group's state; [`messages`]: what groups say to each other;
//! [`coordinator`], [`participant`], [`links`], [`order`], [`recovery`]: what a leader does about it; [`surroundings`]: what it
//! hears of other groups beside that.

pub mod coordinator;
pub mod links;
pub mod messages;
pub mod order;
pub mod participant;
pub mod recovery;
pub mod surroundings;
pub mod transitions;

use crate::group::Link;
use crate::ring::{KeyRange, Position};
use crate::time::LogTime;
use crate::types::{
    ConfigurationVersion, FeatureLevel, GroupId, NodeId, OperationCounter, RangeVersion, Slot, Version,
};
use crate::{codec_enum, codec_struct};
use bytes::Bytes;
use std::fmt;

/// How many of the groups that were split off from it a group remembers.
pub const MAX_CHILDREN: usize = 16;

/// How many of its last takeovers a group remembers.
pub const MAX_GAINED: usize = 16;

/// How many of the groups that were merged into it a group remembers.
pub const MAX_ABSORBED: usize = 64;

/// How many groups that it was recovered from a group remembers.
pub const MAX_RECOVERED: usize = 8;

/// Names an operation: nobody can speak of it before the entry that began it is decided, and no other has its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OperationId {
    /// The group that coordinates it.
    pub coordinator: GroupId,
    /// The slot of its Begin entry.
    pub slot: Slot,
}

codec_struct!(OperationId { coordinator, slot });

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.coordinator, self.slot)
    }
}

/// Body of a `Split` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// The first position of the child.
    pub at: Position,
    /// The child's id, fresh.
    pub child: GroupId,
    /// Who leads the child in ballot 1.
    pub leader: NodeId,
    /// The parent's range as the proposer knew it.
    pub range_version: RangeVersion,
}

codec_struct!(Split { at, child, leader, range_version });

/// Body of a `Recover` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recover {
    /// The id of the group that the survivors go on as, fresh.
    pub child: GroupId,
    /// Who leads it in ballot 1.
    pub leader: NodeId,
    /// Its members.
    pub survivors: Vec<NodeId>,
    /// The lost group's range as the proposer knew it.
    pub range_version: RangeVersion,
}

codec_struct!(Recover { child, leader, survivors, range_version });

/// What a group keeps of the one it was recovered from: the record of the deed, and what others may still ask of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// The group that lost its majority.
    pub group: GroupId,
    /// The last slot that it came to.
    pub at: Slot,
    /// Its clock then.
    pub log_time: LogTime,
    /// The members that went on.
    pub survivors: Vec<NodeId>,
    /// The voters that did not: nobody listens to these nodes again.
    pub condemned: Vec<NodeId>,
    /// The last takeovers that it had committed, each with its slot.
    pub gained: Vec<(OperationId, Slot)>,
    /// Of the operations that it began up to this slot it no longer knew how they ended.
    pub forgotten_gains: Slot,
}

codec_struct!(Recovered { group, at, log_time, survivors, condemned, gained, forgotten_gains });

/// Which positions go from whom to whom, and under which versions of the loser.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Takeover {
    /// The group that loses them.
    pub loser: GroupId,
    /// What moves.
    pub moving: KeyRange,
    /// Whether that is all the loser has, so that it ends.
    pub merge: bool,
    /// The loser's versions when it was asked.
    pub range_version: RangeVersion,
    /// See `range_version`.
    pub configuration_version: ConfigurationVersion,
    /// How many operations it had heard of then.
    pub operations: OperationCounter,
}

codec_struct!(Takeover { loser, moving, merge, range_version, configuration_version, operations });

/// Body of a `Begin` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Begin {
    /// The coordinator's own range and members as the proposer knew them.
    pub range_version: RangeVersion,
    /// See `range_version`.
    pub configuration_version: ConfigurationVersion,
    /// What is to happen.
    pub takeover: Takeover,
    /// Where the loser is asked.
    pub loser: Link,
}

codec_struct!(Begin { range_version, configuration_version, takeover, loser });

/// Body of a `Prepare` entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// Which operation.
    pub operation: OperationId,
    /// What is to happen.
    pub takeover: Takeover,
    /// The gainer as it is while it is locked.
    pub gainer: Link,
}

codec_struct!(Prepare { operation, takeover, gainer });

/// A yes-vote: what the loser gives up, as of its seal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Surrender {
    /// The slot that sealed.
    pub seal: Slot,
    /// The version of the loser's last operation.
    pub stamp: Version,
    /// The highest stamp any lane it has forgotten could have used.
    pub forgotten: Version,
    /// Its clock.
    pub log_time: LogTime,
    /// What formats it may use.
    pub feature_level: FeatureLevel,
    /// Keys that move, perhaps an estimate.
    pub keys: u64,
    /// Bytes of those keys and their values, perhaps an estimate.
    pub bytes: u64,
    /// Idempotency records that move, perhaps an estimate.
    pub idempotency_records: u64,
    /// Of a merge: the loser's neighbour on its far side.
    pub outer: Option<Link>,
    /// Of a merge: the groups that were merged into the loser.
    pub absorbed: Vec<GroupId>,
    /// The loser's lanes, one after the other; of a merge empty, since each member has them.
    pub lanes: Bytes,
}

codec_struct!(Surrender {
    seal,
    stamp,
    forgotten,
    log_time,
    feature_level,
    keys,
    bytes,
    idempotency_records,
    outer,
    absorbed,
    lanes,
});

/// Body of a `Decide` entry, at the coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decide {
    /// Which operation.
    pub operation: OperationId,
    /// What is taken over; `None` aborts.
    pub commit: Option<Surrender>,
}

codec_struct!(Decide { operation, commit });

/// Body of a `Resolve` entry, at the participant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolve {
    /// Which operation.
    pub operation: OperationId,
    /// The coordinator's slot that committed it; `None` if it was aborted.
    pub committed: Option<Slot>,
}

codec_struct!(Resolve { operation, committed });

/// The operation that holds a group's lock.
#[expect(clippy::large_enum_variant, reason = "there are few of them at any time")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Pending {
    /// The group coordinates: it will gain.
    Gains {
        /// Which operation.
        operation: OperationId,
        /// What is to happen.
        takeover: Takeover,
        /// Where the loser is asked.
        loser: Link,
    },
    /// The group has voted yes: what is to move is sealed.
    Loses {
        /// Which operation.
        operation: OperationId,
        /// What is to happen.
        takeover: Takeover,
        /// The gainer.
        gainer: Link,
        /// What it was told.
        surrender: Surrender,
    },
}

codec_enum!(Pending {
    1 => Gains { operation, takeover, loser },
    2 => Loses { operation, takeover, gainer, surrender },
});

impl Pending {
    /// Which operation.
    #[must_use]
    pub fn operation(&self) -> OperationId {
        match self {
            Self::Gains { operation, .. } | Self::Loses { operation, .. } => *operation,
        }
    }

    /// What is to happen.
    #[must_use]
    pub fn takeover(&self) -> &Takeover {
        match self {
            Self::Gains { takeover, .. } | Self::Loses { takeover, .. } => takeover,
        }
    }

    /// The slot that sealed, if something is sealed.
    #[must_use]
    pub fn seal(&self) -> Option<Slot> {
        match self {
            Self::Gains { .. } => None,
            Self::Loses { surrender, .. } => Some(surrender.seal),
        }
    }

    /// The positions that nobody may answer for until the operation is decided.
    #[must_use]
    pub fn sealed(&self) -> Option<&KeyRange> {
        match self {
            Self::Gains { .. } => None,
            Self::Loses { takeover, .. } => Some(&takeover.moving),
        }
    }
}

/// A takeover that a group has applied. Until a node's store holds it durably, the node could come back without it, and would
/// have to assemble it again from the loser's replica beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gain {
    /// In which operation.
    pub operation: OperationId,
    /// The slot that took over.
    pub at: Slot,
    /// From whom.
    pub loser: GroupId,
    /// The loser's slot that sealed what moved.
    pub seal: Slot,
}

codec_struct!(Gain { operation, at, loser, seal });

/// What a group still owes after a decision, until it is settled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Obligation {
    /// The loser must hear the outcome.
    Tell {
        /// Of which operation.
        operation: OperationId,
        /// The loser, whose members cannot change before it has heard.
        loser: Link,
        /// The slot that committed it; `None` if it was aborted.
        committed: Option<Slot>,
    },
    /// Every member must assemble what the merged loser had, before its log may go.
    Bury {
        /// Of which operation.
        operation: OperationId,
        /// The group that was merged.
        loser: GroupId,
        /// The slot that merged it.
        at: Slot,
    },
}

codec_enum!(Obligation {
    1 => Tell { operation, loser, committed },
    2 => Bury { operation, loser, at },
});

impl Obligation {
    /// Of which operation.
    #[must_use]
    pub fn operation(&self) -> OperationId {
        match self {
            Self::Tell { operation, .. } | Self::Bury { operation, .. } => *operation,
        }
    }

    /// Whether a group that was recovered from the one that owes this owes it in its place. All its members have from its first
    /// slot on what the other had taken over.
    #[must_use]
    pub const fn is_inherited(&self) -> bool {
        match self {
            Self::Tell { .. } => true,
            Self::Bury { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;
