//! One group, described in a few words, and what it is told to do.

use crate::group::{Configuration, Descriptor, Member, Role};
use crate::policy::{
    Action, Budget, Busy, GroupFacts, GroupLoad, Health, Memory, Neighbour, NodeHint, Nodes, Proposal, RoundTrips,
    Settings, Situation, Switches, decide,
};
use crate::ring::{KeyRange, Position};
use crate::rng::Rng;
use crate::time::Instant;
use crate::types::{Ballot, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion};
use bytes::Bytes;
use std::time::Duration;

/// Long after everything that damps has passed.
const LATER: Instant = Instant(100_000 * 1_000_000_000);

pub(super) fn member(node: u64) -> Member {
    let address = format!("node-{node}:1");
    Member { node: NodeId(node), incarnation: Incarnation(1), role: Role::Voter, address }
}

pub(super) fn hint(node: u64) -> NodeHint {
    NodeHint {
        node: NodeId(node),
        address: format!("node-{node}:1"),
        zone: String::new(),
        round_trips: Vec::new(),
        health: Health::Alive,
        age: Duration::from_secs(3600),
        load_permille: 100,
        operations_per_second: 1000,
        replicas: 10,
        incoming: 0,
        leaders: 3,
        draining: false,
        free_disk_bytes: 1 << 40,
        told: Instant(0),
    }
}

pub(super) fn descriptor(group: u64, members: Vec<Member>) -> Descriptor {
    Descriptor {
        group: GroupId(group),
        configuration: Configuration { version: ConfigurationVersion(1), members },
        range_version: RangeVersion(1),
        range: KeyRange { start: Position::first(), end: Position(Bytes::from_static(&[128])) },
        leader: None,
        ballot: Ballot::ZERO,
    }
}

/// Group 1 with members 1 to 3, led by node 1; its neighbours are group 2, with the same members and much the same load.
pub(super) struct Scene {
    pub(super) members: Vec<Member>,
    pub(super) nodes: Vec<NodeHint>,
    pub(super) settings: Settings,
    pub(super) load: GroupLoad,
    pub(super) busy: Option<Busy>,
    pub(super) successor: (u64, Vec<Member>, GroupLoad),
    pub(super) round_trips: RoundTrips,
    pub(super) memory: Memory,
    pub(super) budget: Budget,
}

impl Scene {
    /// With `nodes` nodes, all alike, and nothing to do.
    pub(super) fn new(nodes: u64) -> Self {
        let load = GroupLoad { keys: 1000, bytes: 1 << 30, operations_per_second: 1000 };
        let members: Vec<_> = (1..=3).map(member).collect();
        Self {
            members: members.clone(),
            nodes: (1..=nodes).map(hint).collect(),
            settings: Settings::default(),
            load,
            busy: None,
            successor: (2, members, load),
            round_trips: RoundTrips::default(),
            memory: Memory::default(),
            budget: Budget::default(),
        }
    }

    pub(super) fn only(mut self, switch: fn(&mut Switches)) -> Self {
        self.settings.switches = Switches::OFF;
        switch(&mut self.settings.switches);
        self
    }

    pub(super) fn node(&mut self, node: u64) -> &mut NodeHint {
        self.nodes.iter_mut().find(|hint| hint.node == NodeId(node)).unwrap()
    }

    pub(super) fn zones(&mut self, zones: &[&str]) {
        for (hint, zone) in self.nodes.iter_mut().zip(zones) {
            hint.zone = (*zone).to_owned();
        }
    }

    pub(super) fn dies(&mut self, node: u64) {
        self.node(node).health = Health::Dead { since: Instant(0) };
    }

    pub(super) fn decide_at(&mut self, now: Instant, seed: u64) -> Vec<Proposal> {
        let descriptor = descriptor(1, self.members.clone());
        let (group, members, load) = &self.successor;
        let neighbour = Neighbour { group: GroupId(*group), members, load: Some(*load) };
        let group = GroupFacts {
            descriptor: &descriptor,
            load: self.load,
            busy: self.busy,
            predecessor: neighbour,
            successor: neighbour,
            round_trips: &self.round_trips,
        };
        let nodes = Nodes::new(self.nodes.iter().map(|hint| NodeHint { told: now, ..hint.clone() }).collect());
        let situation = Situation {
            group: &group,
            own: nodes.get(NodeId(1)).unwrap(),
            nodes: &nodes,
            settings: &self.settings,
            budget: &self.budget,
            now,
        };
        decide(&situation, &mut self.memory, &mut Rng::new(seed))
    }

    /// What is proposed once everything has held for long.
    pub(super) fn settled(&mut self, seed: u64) -> Vec<Proposal> {
        self.memory = Memory::default();
        let early = Instant(LATER.0 - 50_000 * 1_000_000_000);
        self.decide_at(early, seed);
        self.decide_at(LATER, seed)
    }

    /// The first proposal then: the action and the name of the reason.
    pub(super) fn first(&mut self, seed: u64) -> Option<(Action, &'static str)> {
        self.settled(seed).into_iter().next().map(|proposal| (proposal.action, proposal.reason.name()))
    }

    /// The first proposal then of whoever chance lets act.
    pub(super) fn drawn(&mut self) -> Option<(Action, &'static str)> {
        (0..200).find_map(|seed| self.first(seed))
    }

    /// A change of members then, as bare numbers.
    pub(super) fn change(&mut self, seed: u64) -> Option<(Vec<u64>, Vec<u64>, &'static str)> {
        match self.first(seed) {
            Some((Action::ChangeMembers { add, remove }, reason)) => {
                let add = add.into_iter().map(|(node, _)| node.0).collect();
                Some((add, remove.into_iter().map(|node| node.0).collect(), reason))
            }
            _ => None,
        }
    }
}
