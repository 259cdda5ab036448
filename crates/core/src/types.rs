//! The small words of the protocol: ids, indexes and versions, each a type of its own.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl $name {
            /// The value after this one. Saturates, so that a hostile maximum cannot wrap to zero.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $width:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;

            /// Reads the hexadecimal form that `Display` writes.
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                <$inner>::from_str_radix(text, 16).map(Self)
            }
        }
    };
}

id! {
    /// One process with one data directory; random, never reused. A wiped disk comes back under another id.
    NodeId(u64), "16"
}
id! {
    /// One Paxos group. Minted once, never reused.
    GroupId(u64), "16"
}
id! {
    /// One deployment. Two clusters never exchange a protocol message.
    ClusterId(u128), "32"
}
id! {
    /// One client session: the owner of numbered lanes.
    SessionId(u128), "32"
}
number! {
    /// A position in one group's log, from 1. Zero means "before the first".
    Slot(u64)
}
number! {
    /// The configuration that added a replica to its group; part of the replica's name.
    Incarnation(u64)
}
number! {
    /// Rises with every change of a group's members.
    ConfigurationVersion(u64)
}
number! {
    /// Rises with every change of a group's range.
    RangeVersion(u64)
}
number! {
    /// Rises with every change of a group's links to its ring neighbours.
    LinksVersion(u64)
}
number! {
    /// Counts the group operations a group has voted on or seen aborted.
    OperationCounter(u64)
}
number! {
    /// The stamp of one operation, from the leader's hybrid clock: microseconds since the Unix epoch, pushed forward
    /// so that it rises with every operation of a group. The `ETag` of a key is the version of its last write.
    Version(u64)
}
number! {
    /// The local number under which a replica keeps the data of one of its sub-ranges. Never leaves the node.
    TabletId(u64)
}
number! {
    /// What entry kinds and formats a group may use: the least that every member understands.
    FeatureLevel(u16)
}
number! {
    /// One client request inside one process; pairs a reply with its request.
    RequestId(u64)
}
number! {
    /// One batch of log writes handed to the disk; rises by one for each.
    WriteId(u64)
}

/// A replica's full name. No replica answers for another incarnation, even on the same node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReplicaName {
    /// The group it is a copy of.
    pub group: GroupId,
    /// The node that hosts it.
    pub node: NodeId,
    /// The configuration that added it.
    pub incarnation: Incarnation,
}

impl fmt::Display for ReplicaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.group, self.node, self.incarnation)
    }
}

/// A proposal number. Ordered by round, then node, then incarnation, so no two replicas ever own the same one, and a
/// replica removed and added again never reuses a ballot of its former self.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Ballot {
    /// Rises with every election.
    pub round: u64,
    /// Who proposes.
    pub node: NodeId,
    /// As which incarnation.
    pub incarnation: Incarnation,
}

impl Ballot {
    /// Below every real ballot.
    pub const ZERO: Self = Self { round: 0, node: NodeId(0), incarnation: Incarnation(0) };
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:x}.{}", self.round, self.node.0, self.incarnation)
    }
}
