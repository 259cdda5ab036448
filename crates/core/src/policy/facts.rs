//! What a leader knows of its own group and of the groups beside it.

use super::nodes::{Health, Nodes};
use crate::codec_struct;
use crate::group::{Descriptor, Member, Role};
use crate::types::{GroupId, NodeId};
use std::collections::BTreeMap;
use std::time::Duration;

/// Which ring neighbour.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The one whose arc ends where the own one starts.
    Predecessor,
    /// The one whose arc starts where the own one ends.
    Successor,
}

/// What load is measured by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Measure {
    /// Operations observed.
    Operations,
    /// Bytes kept.
    Bytes,
}

/// How much a group holds and does.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GroupLoad {
    /// User keys.
    pub keys: u64,
    /// Bytes of user keys and values.
    pub bytes: u64,
    /// Reads and writes, averaged over some seconds at least.
    pub operations_per_second: u64,
}

codec_struct!(GroupLoad { keys, bytes, operations_per_second });

/// Why a group is to be left alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Busy {
    /// An operation among groups holds its lock.
    Locked,
    /// It becomes like a neighbour that it is to be merged with.
    Aligning,
    /// Its members are being changed, or a configuration is not decided.
    ChangingMembers,
    /// Its leader is handing over.
    HandingOver,
}

/// A ring neighbour, as the link and the latest word from its leader tell.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour<'a> {
    /// The neighbour; the group itself on a ring of one.
    pub group: GroupId,
    /// Its members.
    pub members: &'a [Member],
    /// Its load, if it told.
    pub load: Option<GroupLoad>,
}

impl Neighbour<'_> {
    /// The nodes of its voters.
    pub(super) fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.node)
    }

    /// Whether so many of its voters answer that it can take part in anything.
    pub(super) fn answers(&self, nodes: &Nodes) -> bool {
        let alive = |node: &NodeId| nodes.get(*node).is_some_and(|hint| hint.health == Health::Alive);
        self.voters().filter(alive).count() > self.voters().count() / 2
    }
}

/// A group, as its leader sees it.
#[derive(Clone, Copy, Debug)]
pub struct GroupFacts<'a> {
    /// Members and arc.
    pub descriptor: &'a Descriptor,
    /// What it holds and does.
    pub load: GroupLoad,
    /// What keeps it from starting anything, if something does.
    pub busy: Option<Busy>,
    /// The neighbour below.
    pub predecessor: Neighbour<'a>,
    /// The neighbour above.
    pub successor: Neighbour<'a>,
    /// Round trips among the members, as far as they were measured here.
    pub round_trips: &'a RoundTrips,
}

impl<'a> GroupFacts<'a> {
    /// The neighbour on `side`, unless it is the group itself.
    #[must_use]
    pub fn neighbour(&self, side: Side) -> Option<&Neighbour<'a>> {
        let neighbour = match side {
            Side::Predecessor => &self.predecessor,
            Side::Successor => &self.successor,
        };
        (neighbour.group != self.descriptor.group).then_some(neighbour)
    }
}

/// Round-trip times, as far as they are known.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RoundTrips {
    /// By pair of nodes, the smaller id first.
    between: BTreeMap<(NodeId, NodeId), Duration>,
}

impl RoundTrips {
    /// Notes the round trip between two nodes.
    pub fn set_between(&mut self, a: NodeId, b: NodeId, round_trip: Duration) {
        self.between.insert((a.min(b), a.max(b)), round_trip);
    }

    /// The round trip between two nodes; none to oneself.
    #[must_use]
    pub fn between(&self, a: NodeId, b: NodeId) -> Option<Duration> {
        if a == b { Some(Duration::ZERO) } else { self.between.get(&(a.min(b), a.max(b))).copied() }
    }
}
