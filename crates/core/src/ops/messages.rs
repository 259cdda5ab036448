//! What groups say to each other.
//!
//! A message goes to every member of the other group that is known, or to the one that spoke for it last, and is taken by the
//! one that leads it. Each may be lost, repeated and late: it carries all it needs, and whoever takes it looks at what is
//! applied.

use super::{OperationId, Prepare, Surrender};
use crate::group::{Configuration, Descriptor, Link};
use crate::policy::GroupLoad;
use crate::types::{GroupId, NodeId, OperationCounter, RangeVersion, Slot};
use crate::{codec_enum, codec_struct};

/// A message with the groups it passes between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupEnvelope {
    /// Whose leader says it.
    pub from: GroupId,
    /// To whose leader.
    pub to: GroupId,
    /// What.
    pub message: GroupMessage,
}

codec_struct!(GroupEnvelope { from, to, message });

/// How a group votes.
#[expect(clippy::large_enum_variant, reason = "there are few of them at any time")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Vote {
    /// Locked and sealed; this is what it gives up.
    Yes {
        /// It.
        surrender: Surrender,
    },
    /// Not at these versions, or not now.
    No {
        /// Why, for a person.
        reason: String,
    },
}

codec_enum!(Vote { 1 => Yes { surrender }, 2 => No { reason } });

/// What a coordinator's leader says of one of its operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It is not decided.
    Undecided,
    /// It was committed at this slot of the coordinator.
    Committed {
        /// The slot.
        at: Slot,
    },
    /// It was aborted.
    Aborted,
}

codec_enum!(Standing { 1 => Undecided, 2 => Committed { at }, 3 => Aborted });

/// From the leader of one group to that of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupMessage {
    /// What are you?
    Inspect,
    /// What the group is, as its leader has applied it.
    Inspected {
        /// Range and members, with their versions.
        link: Link,
        /// How many operations it has heard of.
        operations: OperationCounter,
        /// Who leads it.
        leader: NodeId,
        /// Whether an operation or a change of members is under way.
        busy: bool,
    },
    /// Take these nodes as your members, and let this one lead.
    Align {
        /// The nodes, with their peer addresses.
        members: Vec<(NodeId, String)>,
        /// Who is to lead.
        leader: NodeId,
    },
    /// Phase 1.
    Prepare {
        /// What is asked.
        prepare: Prepare,
    },
    /// The answer to it.
    Voted {
        /// Of which operation.
        operation: OperationId,
        /// The vote.
        vote: Vote,
    },
    /// Phase 2.
    Resolve {
        /// Of which operation.
        operation: OperationId,
        /// The coordinator's slot that committed it; `None` if it was aborted.
        committed: Option<Slot>,
    },
    /// The outcome is applied.
    Resolved {
        /// Of which operation.
        operation: OperationId,
    },
    /// What became of it?
    Ask {
        /// Of which operation.
        operation: OperationId,
    },
    /// To the one who asked.
    Answer {
        /// Of which operation.
        operation: OperationId,
        /// How it stands.
        standing: Standing,
    },
    /// This is what your neighbour is.
    Neighbour {
        /// The teller.
        link: Link,
    },
    /// From a node that hosts the group no more: these were its members when it last knew.
    Moved {
        /// They.
        configuration: Configuration,
    },
    /// What the hearer of a [`GroupMessage::Neighbour`] made of it.
    Heard {
        /// What was told: the same link.
        of: Link,
        /// It is applied, or what is known is as new. Else it is to be told again.
        known: bool,
        /// The hearer.
        link: Link,
    },
    /// Who is your far link at this level, and how busy are you ([`super::surroundings`])?
    Look {
        /// The level.
        level: u8,
        /// The asker's range, to which its load belongs.
        range_version: RangeVersion,
        /// How busy the asker is, if its node has told it.
        load: Option<GroupLoad>,
    },
    /// The answer to it. All of it is hints.
    Seen {
        /// Which level was asked for.
        level: u8,
        /// Who answers.
        own: Descriptor,
        /// Its link at that level, if it has one.
        link: Option<Descriptor>,
        /// How busy it is, if its node has told it.
        load: Option<GroupLoad>,
    },
}

codec_enum!(GroupMessage {
    1 => Inspect,
    2 => Inspected { link, operations, leader, busy },
    3 => Align { members, leader },
    4 => Prepare { prepare },
    5 => Voted { operation, vote },
    6 => Resolve { operation, committed },
    7 => Resolved { operation },
    8 => Ask { operation },
    9 => Answer { operation, standing },
    10 => Neighbour { link },
    11 => Heard { of, known, link },
    12 => Moved { configuration },
    13 => Look { level, range_version, load },
    14 => Seen { level, own, link, load },
});

impl GroupMessage {
    /// Whether whoever says it waits for the group it is meant for, so that a node where that group is not, or is not led, tells
    /// where it is. Nothing else is answered so: two nodes that know no more of each other's group would go on for ever.
    #[must_use]
    pub fn asks(&self) -> bool {
        match self {
            Self::Inspect
            | Self::Align { .. }
            | Self::Prepare { .. }
            | Self::Resolve { .. }
            | Self::Ask { .. }
            | Self::Neighbour { .. } => true,
            Self::Inspected { .. }
            | Self::Voted { .. }
            | Self::Resolved { .. }
            | Self::Answer { .. }
            | Self::Heard { .. }
            | Self::Moved { .. }
            // Who does not find the leader asks all members, and gives up a far link that nobody answers for.
            | Self::Look { .. }
            | Self::Seen { .. } => false,
        }
    }
}
