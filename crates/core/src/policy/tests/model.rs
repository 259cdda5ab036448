//! A toy cluster: nodes that die and come, groups without Paxos, orders that take a while and may fail. What the policies
//! propose is checked against what is true, carried out, and seen in the hints a tick later.

use super::scene::{descriptor, hint, member};
use crate::policy::{
    Action, Budget, Busy, GroupFacts, GroupLoad, Health, Memory, Neighbour, NodeHint, Nodes, Outcome, Proposal,
    RoundTrips, Settings, Side, Situation, decide,
};
use crate::rng::Rng;
use crate::time::Instant;
use crate::types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) const TICK: Duration = Duration::from_secs(5);
/// What an operation takes.
const OPERATION: Duration = Duration::from_secs(20);
/// Operations per second that make a node fully busy.
const CAPACITY: u64 = 100_000;

#[derive(Clone, Default, Debug)]
pub(super) struct Node {
    pub(super) zone: String,
    pub(super) dead_since: Option<Instant>,
    pub(super) draining: bool,
    pub(super) since: Instant,
    pub(super) budget: Budget,
}

impl Node {
    pub(super) fn is_usable(&self) -> bool {
        self.dead_since.is_none() && !self.draining
    }
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) id: u64,
    pub(super) members: BTreeSet<NodeId>,
    pub(super) leader: NodeId,
    pub(super) load: GroupLoad,
    memory: Memory,
    under_way: Option<(Instant, Action)>,
    /// Locked by another group's operation until then.
    locked_until: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// In ring order.
    pub(super) ring: Vec<Group>,
    pub(super) settings: Settings,
    pub(super) now: Instant,
    pub(super) orders: Vec<(Instant, u64, Action, &'static str)>,
    rng: Rng,
    next_group: u64,
}

impl Model {
    pub(super) fn new(zones: &[String], settings: Settings, seed: u64) -> Self {
        settings.check().unwrap();
        let mut model = Self {
            nodes: BTreeMap::new(),
            ring: Vec::new(),
            settings,
            now: Instant(0).after(Duration::from_secs(10_000)),
            orders: Vec::new(),
            rng: Rng::new(seed),
            next_group: 1,
        };
        for zone in zones {
            model.join(zone);
        }
        model
    }

    pub(super) fn join(&mut self, zone: &str) {
        let node = NodeId(self.nodes.len() as u64 + 1);
        self.nodes.insert(node, Node { zone: zone.to_owned(), since: self.now, ..Node::default() });
    }

    pub(super) fn found(&mut self, members: impl IntoIterator<Item = NodeId>, load: GroupLoad) {
        let members: BTreeSet<_> = members.into_iter().collect();
        let group = Group {
            id: self.next_group,
            leader: *members.first().unwrap(),
            members,
            load,
            memory: Memory::default(),
            under_way: None,
            locked_until: Instant(0),
        };
        self.next_group += 1;
        self.ring.push(group);
    }

    pub(super) fn is_alive(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.dead_since.is_none())
    }

    pub(super) fn has_majority(&self, group: &Group) -> bool {
        group.members.iter().filter(|node| self.is_alive(**node)).count() > group.members.len() / 2
    }

    pub(super) fn replicas(&self, node: NodeId) -> u32 {
        self.ring.iter().filter(|group| group.members.contains(&node)).count() as u32
    }

    pub(super) fn leaders(&self, node: NodeId) -> u32 {
        self.ring.iter().filter(|group| group.leader == node).count() as u32
    }

    fn hints(&self) -> Vec<NodeHint> {
        let hint_of = |(id, node): (&NodeId, &Node)| {
            let comes = |group: &&Group| match &group.under_way {
                Some((_, Action::ChangeMembers { add, .. })) => add.iter().any(|(node, _)| node == id),
                _ => false,
            };
            let incoming = self.ring.iter().filter(comes).count() as u32;
            let goes = |group: &&Group| match &group.under_way {
                Some((_, Action::ChangeMembers { remove, .. })) => group.leader == *id && remove.contains(id),
                _ => false,
            };
            let outgoing = self.ring.iter().filter(goes).count() as u32;
            let led = self.ring.iter().filter(|group| group.leader == *id);
            let operations: u64 = led.map(|group| group.load.operations_per_second).sum();
            NodeHint {
                zone: node.zone.clone(),
                health: node.dead_since.map_or(Health::Alive, |since| Health::Dead { since }),
                age: self.now.since(node.since),
                load_permille: (operations * 1000 / CAPACITY).min(1000) as u32,
                operations_per_second: operations,
                replicas: self.replicas(*id) + incoming - outgoing,
                incoming,
                leaders: self.leaders(*id),
                draining: node.draining,
                told: self.now,
                ..hint(id.0)
            }
        };
        self.nodes.iter().map(hint_of).collect()
    }

    /// One tick: what is due ends, orphans elect leaders, every group's leader decides.
    pub(super) fn tick(&mut self) {
        self.now = self.now.after(TICK);
        for id in self.ring.iter().map(|group| group.id).collect::<Vec<_>>() {
            self.finish(id);
        }
        for index in 0..self.ring.len() {
            let group = &self.ring[index];
            if self.has_majority(group) && !self.is_alive(group.leader) {
                let leader = *group.members.iter().find(|node| self.is_alive(**node)).unwrap();
                let group = &mut self.ring[index];
                group.leader = leader;
                group.memory = Memory::default();
            }
        }
        let nodes = Nodes::new(self.hints());
        let mut seen: BTreeMap<NodeId, Nodes> = BTreeMap::new();
        let mut ids: Vec<_> = self.ring.iter().map(|group| (self.rng.next(), group.id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            let Some(index) = self.index(id) else { continue };
            let leader = self.ring[index].leader;
            if self.is_alive(leader) && self.has_majority(&self.ring[index]) {
                let seen = seen.entry(leader).or_insert_with(|| nodes.clone());
                if let Some(order) = self.decide(index, seen) {
                    seen.anticipate(leader, &order);
                }
            }
        }
    }

    fn index(&self, id: u64) -> Option<usize> {
        self.ring.iter().position(|group| group.id == id)
    }

    fn beside(&self, index: usize, side: Side) -> usize {
        let count = self.ring.len();
        match side {
            Side::Predecessor => (index + count - 1) % count,
            Side::Successor => (index + 1) % count,
        }
    }

    fn busy(&self, group: &Group) -> Option<Busy> {
        if self.now < group.locked_until {
            return Some(Busy::Locked);
        }
        group.under_way.as_ref().map(|_| Busy::ChangingMembers)
    }

    fn decide(&mut self, index: usize, nodes: &Nodes) -> Option<Action> {
        let members = |index: usize| -> Vec<_> { self.ring[index].members.iter().map(|node| member(node.0)).collect() };
        let (before, after) = (self.beside(index, Side::Predecessor), self.beside(index, Side::Successor));
        let (before_members, after_members) = (members(before), members(after));
        let neighbour = |index: usize, members| {
            let group = &self.ring[index];
            Neighbour { group: GroupId(group.id), members, load: Some(group.load) }
        };
        let group = &self.ring[index];
        let facts = GroupFacts {
            descriptor: &descriptor(group.id, members(index)),
            load: group.load,
            busy: self.busy(group),
            predecessor: neighbour(before, &before_members),
            successor: neighbour(after, &after_members),
            round_trips: &RoundTrips::default(),
        };
        let mut memory = group.memory.clone();
        let budget = &self.nodes[&group.leader].budget;
        let own = nodes.get(group.leader).unwrap();
        let situation = Situation { group: &facts, own, nodes, settings: &self.settings, budget, now: self.now };
        let proposals = decide(&situation, &mut memory, &mut self.rng);
        for proposal in &proposals {
            self.check(index, facts.busy, nodes, proposal);
        }
        let first = proposals.into_iter().next().filter(|proposal| proposal.action.is_order());
        let (now, settings) = (self.now, self.settings.clone());
        let group = &mut self.ring[index];
        group.memory = memory;
        let Proposal { action, reason } = first?;
        group.memory.started();
        if let Some(node) = self.nodes.get_mut(&group.leader) {
            node.budget.take(&settings, now);
        }
        self.orders.push((now, group.id, action.clone(), reason.name()));
        self.begin(index, action.clone());
        Some(action)
    }

    /// No policy ever proposes what would be wrong to do.
    fn check(&self, index: usize, busy: Option<Busy>, nodes: &Nodes, proposal: &Proposal) {
        assert!(busy.is_none(), "a busy group proposes {proposal:?}");
        assert!(!proposal.reason.to_string().is_empty());
        let group = &self.ring[index];
        match &proposal.action {
            Action::ChangeMembers { add, remove } => {
                let named: BTreeSet<_> = add.iter().map(|(node, _)| node).chain(remove).collect();
                assert_eq!(named.len(), add.len() + remove.len(), "a node twice: {proposal:?}");
                assert!(!named.is_empty());
                assert!(remove.iter().all(|node| group.members.contains(node)), "no member: {proposal:?}");
                let left = group.members.len() + add.len() - remove.len();
                assert!(left >= self.settings.min_size.min(group.members.len()), "too small: {proposal:?}");
                for (node, _) in add {
                    assert!(!group.members.contains(node), "a member already: {proposal:?}");
                    let hint = nodes.get(*node).unwrap();
                    assert!(hint.usable(), "dead or draining: {proposal:?}");
                    assert!(hint.replicas < self.settings.max_replicas_per_node, "full: {proposal:?}");
                    assert!(hint.incoming < self.settings.max_incoming_per_node, "overrun: {proposal:?}");
                }
                let staying = group.members.iter().filter(|node| !remove.contains(node));
                let alive = staying.filter(|node| self.is_alive(**node)).count() + add.len();
                assert!(alive > left / 2, "no majority: {proposal:?}");
            }
            Action::TransferLeader { to } => {
                assert!(group.members.contains(to) && *to != group.leader, "{proposal:?}");
                assert!(self.nodes[to].is_usable(), "{proposal:?}");
            }
            Action::Split { .. } => assert!(group.load.keys > 1),
            Action::Merge { successor } => {
                assert!(self.ring.len() > 1);
                assert_eq!(successor.0, self.ring[self.beside(index, Side::Successor)].id);
            }
            Action::Repartition { take_permille, .. } => assert!((1..1000).contains(take_permille)),
            Action::Nothing => {}
        }
    }

    fn begin(&mut self, index: usize, action: Action) {
        // Handing over takes no longer than a message.
        let takes = if matches!(action, Action::TransferLeader { .. }) { Duration::ZERO } else { OPERATION };
        let until = self.now.after(takes);
        if let Some(side) = other_side(&action) {
            let other = self.beside(index, side);
            let locked = self.busy(&self.ring[other]).is_some() || !self.has_majority(&self.ring[other]);
            if locked {
                let (now, settings) = (self.now, self.settings.clone());
                self.ring[index].memory.ended(Outcome::Failed, &settings, now, &mut self.rng);
                return;
            }
            self.ring[other].locked_until = until;
        }
        self.ring[index].under_way = Some((until, action));
    }

    fn finish(&mut self, id: u64) {
        let Some(index) = self.index(id) else { return };
        if !self.has_majority(&self.ring[index]) {
            // Nobody is left who would see it through, and nobody waits for it.
            self.ring[index].under_way = None;
            return;
        }
        let Some((until, action)) = self.ring[index].under_way.clone() else { return };
        if self.now < until {
            return;
        }
        self.ring[index].under_way = None;
        let succeeded = self.carry_out(index, action);
        let (now, settings) = (self.now, self.settings.clone());
        if let Some(index) = self.index(id) {
            let outcome = if succeeded { Outcome::Done } else { Outcome::Failed };
            self.ring[index].memory.ended(outcome, &settings, now, &mut self.rng);
        }
    }

    fn carry_out(&mut self, index: usize, action: Action) -> bool {
        match action {
            Action::ChangeMembers { add, remove } => {
                if !add.iter().all(|(node, _)| self.is_alive(*node)) {
                    return false;
                }
                let group = &mut self.ring[index];
                group.members.extend(add.iter().map(|(node, _)| *node));
                group.members.retain(|node| !remove.contains(node));
                if remove.contains(&group.leader) {
                    let group = &self.ring[index];
                    let heir = group.members.iter().copied().find(|node| self.is_alive(*node)).unwrap();
                    self.lead(index, heir);
                }
            }
            Action::TransferLeader { to } => {
                if !self.is_alive(to) {
                    return false;
                }
                self.lead(index, to);
            }
            Action::Split { .. } => {
                let group = &mut self.ring[index];
                group.load = halved(group.load);
                let twin = Group { id: self.next_group, memory: Memory::default(), ..group.clone() };
                self.next_group += 1;
                self.ring.insert(index + 1, twin);
            }
            Action::Merge { .. } => {
                let other = self.beside(index, Side::Successor);
                let gone = self.ring[other].load;
                let load = &mut self.ring[index].load;
                load.keys += gone.keys;
                load.bytes += gone.bytes;
                load.operations_per_second += gone.operations_per_second;
                self.ring.remove(other);
            }
            Action::Repartition { toward, take_permille, .. } => {
                let other = self.beside(index, toward);
                let part = |value: &mut u64| {
                    let taken = *value * u64::from(take_permille) / 1000;
                    *value -= taken;
                    taken
                };
                let theirs = &mut self.ring[other].load;
                let (bytes, operations) = (part(&mut theirs.bytes), part(&mut theirs.operations_per_second));
                let mine = &mut self.ring[index].load;
                mine.bytes += bytes;
                mine.operations_per_second += operations;
            }
            Action::Nothing => {}
        }
        true
    }

    fn lead(&mut self, index: usize, leader: NodeId) {
        self.ring[index].leader = leader;
        self.ring[index].memory = Memory::default();
    }

    /// Ticks until nothing is ordered or under way for `quiet`; false if that does not come within `patience`.
    pub(super) fn settle(&mut self, quiet: Duration, patience: Duration) -> bool {
        let end = self.now.after(patience);
        let mut calm_since = self.now;
        while self.now < end {
            let ordered = self.orders.len();
            self.tick();
            let under_way = |group: &Group| group.under_way.is_some() && self.has_majority(group);
            if self.orders.len() > ordered || self.ring.iter().any(under_way) {
                calm_since = self.now;
            }
            if self.now.since(calm_since) >= quiet {
                return true;
            }
        }
        false
    }
}

fn other_side(action: &Action) -> Option<Side> {
    match action {
        Action::Merge { .. } => Some(Side::Successor),
        Action::Repartition { toward, .. } => Some(*toward),
        Action::ChangeMembers { .. } | Action::TransferLeader { .. } | Action::Split { .. } | Action::Nothing => None,
    }
}

fn halved(load: GroupLoad) -> GroupLoad {
    GroupLoad { keys: load.keys / 2, bytes: load.bytes / 2, operations_per_second: load.operations_per_second / 2 }
}
