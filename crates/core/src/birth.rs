//! Birth: how founders become a cluster exactly once, and how everybody else finds the one that exists.
//!
//! ```text
//! A (smallest id)             B                         C
//!   | who are you? --------->  | ---- who are you? ---->  |     every founder and seed must answer: no cluster
//!   | [binds itself, sync]     |                          |
//!   | Bind(x) ---------------> | [binds itself, sync]     |
//!   | Bind(x) ------------------------------------------> |     [binds itself, sync]
//!   | <------------- Bound(x)  |                          |
//!   | <---------------------------------------- Bound(x)  |
//!   | all founders are bound: slot 1 of the first group is decided; every bound founder learns it the same way
//! ```
//!
//! A binding names exact node ids and is for life; the first one a founder makes wins. So two lists of founders, or a
//! founder that lost its disk, can never make a second ring: some founder stays bound to the first, or answers that there is
//! a cluster already. Slot 1 is a function of the binding ([`crate::group::GroupState::genesis`]).

use crate::durable::Binding;
use crate::durable::Write;
use crate::effects::Outgoing;
use crate::effects::{Effects, MachineOrder};
use crate::group::GroupState;
use crate::group::{Configuration, Member, Role as MemberRole};
use crate::message::PeerMessage;
use crate::node::{AfterSync, Node};
use crate::planted::{self, Bug};
use crate::replica::{Replica, Role};
use crate::time::{Instant, LogTime, Now};
use crate::types::{ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, ReplicaName, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often founders and seeds are asked again before birth.
const PATIENCE: Duration = Duration::from_millis(200);

/// How often they are asked who lives there while a group misses its leader or a member: nodes may have moved to other
/// addresses. Asking also tells them where this node is.
const SEARCH: Duration = Duration::from_secs(1);

/// What a node is told about the beginning of its cluster.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The peer address under which others know this node.
    pub address: String,
    /// The founders' peer addresses, this node's own among them if it is one.
    pub founders: Vec<String>,
    /// Peer addresses of nodes that may know the cluster.
    pub seeds: Vec<String>,
}

/// The state of birth, until the node belongs to a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Birth {
    pub(crate) origin: Origin,
    answered: BTreeMap<String, (NodeId, Option<ClusterId>)>,
    bound: BTreeSet<NodeId>,
    /// The own binding is on disk: others may be told.
    pub(crate) is_bound_on_disk: bool,
    dial_at: Instant,
    /// One of the founders and seeds has answered since the start, and so knows where this node is, and this node whom to gossip
    /// with: a node without replicas has nobody else to hear of it.
    announced: bool,
    /// Somebody has answered since the start.
    heard: bool,
    /// Why birth cannot go on, for a person.
    pub(crate) problem: Option<String>,
}

impl Birth {
    pub(crate) fn new(origin: Origin) -> Self {
        Self { origin, ..Self::default() }
    }

    fn others(&self) -> BTreeSet<String> {
        let all = self.origin.founders.iter().chain(&self.origin.seeds);
        all.filter(|address| **address != self.origin.address).cloned().collect()
    }
}

impl Node {
    /// Founders and seeds that a founder waits for before it binds itself: nobody answered there yet.
    #[must_use]
    pub fn birth_awaits(&self) -> Vec<String> {
        let origin = &self.birth.origin;
        if self.record.cluster.is_some() || self.record.binding.is_some() || !origin.founders.contains(&origin.address)
        {
            return Vec::new();
        }
        self.birth.others().into_iter().filter(|address| !self.birth.answered.contains_key(address)).collect()
    }

    /// The seeds of which a node that founds nothing needs one: nobody answered at any of them yet. Without one it belongs to no
    /// cluster, or, started again without replicas, finds nobody of its cluster.
    #[must_use]
    pub fn seeds_awaited(&self) -> Vec<String> {
        let founds = self.birth.origin.founders.contains(&self.birth.origin.address);
        let alone = match self.record.cluster {
            None => !founds,
            Some(_) => self.replicas.is_empty(),
        };
        if alone && !self.birth.heard { self.birth.others().into_iter().collect() } else { Vec::new() }
    }
}

/// Where a binding's founders live.
fn addresses(binding: &Binding) -> BTreeSet<&String> {
    binding.founders.iter().map(|(_, address)| address).collect()
}

impl Node {
    /// When founders and seeds are asked next; `None` while there is nothing to ask.
    pub(crate) fn birth_deadline(&self) -> Option<Instant> {
        (self.record.cluster.is_none() || self.misses_somebody()).then_some(self.birth.dial_at)
    }

    /// Whether nobody has heard of this boot yet, a group here has no leader, one led here a member that is silent, or a
    /// newcomer here, who hears its leader and nobody else's address, waits for its first snapshot.
    fn misses_somebody(&self) -> bool {
        !self.birth.announced || !self.index.lonely.is_empty()
    }

    /// Whether a replica misses somebody, as of its last step.
    pub(crate) fn is_lonely(&self, replica: &Replica) -> bool {
        let silent = |since: Instant| self.now.instant.since(since) > SEARCH;
        match &replica.role {
            Role::Leader(leader) => leader.peers.values().any(|peer| silent(peer.answered_at)),
            Role::Follower(follower) => follower.leader.is_none() || replica.report.is_none(),
            Role::Candidate(_) => true,
            Role::Retired(_) | Role::Merged(_) => false,
        }
    }

    pub(crate) fn tick_birth(&mut self, now: Now, effects: &mut Effects) {
        let born = self.record.cluster.is_some();
        if now.instant < self.birth.dial_at || born && !self.misses_somebody() {
            return;
        }
        let others = self.birth.others();
        self.birth.announced |= others.is_empty();
        self.birth.dial_at = now.instant.after(if born { SEARCH } else { PATIENCE });
        effects.dials.extend(others);
        if born {
            return;
        }
        if self.birth.is_bound_on_disk || self.record.binding.is_some() && planted::on(Bug::BoundBeforeSync) {
            self.send_bind(effects);
        } else {
            self.consider_binding(now, effects);
        }
        self.consider_birth(effects);
    }

    /// Somebody lives at an address of the founders or seeds.
    pub(crate) fn on_answered(
        &mut self,
        address: String,
        node: NodeId,
        cluster: Option<ClusterId>,
        now: Now,
        effects: &mut Effects,
    ) {
        if node == self.record.node {
            return;
        }
        self.birth.heard = true;
        if self.record.cluster.is_some() {
            if cluster == self.record.cluster {
                self.birth.announced = true;
                self.ask_about_groups(node, now, effects);
            }
            return;
        }
        if let Some(cluster) = cluster {
            match &self.record.binding {
                // Some founder saw all of them bound, so all of them are.
                Some(binding) if binding.cluster == cluster => self.be_born(effects),
                Some(binding) => {
                    let ours = addresses(binding);
                    self.birth.problem = Some(format!(
                        "this founder is bound to found a cluster with {ours:?}, which is not born, and {address} belongs \
                         to another; to join that one, start this node on an empty data directory"
                    ));
                }
                None => {
                    self.birth.problem = None;
                    self.record.cluster = Some(cluster);
                    self.write_record(effects);
                }
            }
            return;
        }
        if self.birth.others().contains(&address) {
            self.birth.answered.insert(address, (node, cluster));
        }
        self.consider_binding(now, effects);
    }

    /// Replicas that have nothing yet, or hear nothing of a leader, ask somebody who was found as well: whom they know may be lost,
    /// and this one may be a member that they do not know, or know that their group is gone.
    fn ask_about_groups(&mut self, node: NodeId, now: Now, effects: &mut Effects) {
        let seeks = |replica: &Replica| replica.configuration.is_none() || matches!(replica.role, Role::Candidate(_));
        let asks = |group: &GroupId| self.replicas.get(group).is_some_and(|replica| seeks(replica));
        let asking: Vec<GroupId> = self.index.lonely.iter().copied().filter(asks).collect();
        for group in asking {
            self.with(now, group, effects, |replica, cx| {
                let name = ReplicaName { group, node, incarnation: Incarnation(1) };
                replica.ask_membership_of(name, cx);
            });
        }
    }

    /// The founder with the smallest id proposes, once everybody has answered that there is no cluster.
    fn consider_binding(&mut self, now: Now, effects: &mut Effects) {
        let origin = &self.birth.origin;
        if self.record.binding.is_some() || !origin.founders.contains(&origin.address) {
            return;
        }
        let mut founders = vec![(self.record.node, origin.address.clone())];
        for address in self.birth.others() {
            match self.birth.answered.get(&address) {
                Some((node, None)) if origin.founders.contains(&address) => founders.push((*node, address)),
                Some((_, None)) => {}
                Some((_, Some(_))) | None => return,
            }
        }
        founders.sort();
        if founders.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            self.birth.problem = Some("two founder addresses lead to one node".to_owned());
            return;
        }
        if founders.first().is_none_or(|(least, _)| *least != self.record.node) {
            return;
        }
        let cluster = ClusterId(u128::from(self.rng.next()) << 64 | u128::from(self.rng.next()));
        let group = GroupId(self.rng.next());
        self.bind_to(Binding { cluster, group, founders, log_time: LogTime(now.wall.0) }, effects);
        self.after_sync.push_back((self.next_write, AfterSync::Bind));
    }

    fn bind_to(&mut self, binding: Binding, effects: &mut Effects) {
        self.record.binding = Some(binding);
        self.write_record(effects);
    }

    /// Asks every other founder to bind itself too. The own binding is on disk.
    pub(crate) fn send_bind(&mut self, effects: &mut Effects) {
        let Some(binding) = self.record.binding.clone() else { return };
        self.birth.bound.insert(self.record.node);
        for (node, address) in &binding.founders {
            if *node != self.record.node {
                effects.messages.push(Outgoing {
                    to: *node,
                    address: Some(address.clone()),
                    bulk: false,
                    message: PeerMessage::Bind { binding: binding.clone() },
                });
            }
        }
        self.consider_birth(effects);
    }

    pub(crate) fn on_bind(&mut self, from: NodeId, binding: Binding, effects: &mut Effects) {
        let named = |node: NodeId| binding.founders.iter().any(|(founder, _)| *founder == node);
        if !named(self.record.node) || !named(from) {
            return;
        }
        let rebinds = planted::on(Bug::FounderRebinds) && self.record.cluster.is_none();
        if self.record.binding.is_none() && self.record.cluster.is_none() || rebinds {
            let theirs = addresses(&binding);
            let ours: BTreeSet<&String> = self.birth.origin.founders.iter().collect();
            if theirs != ours && !rebinds {
                self.birth.problem = Some(format!("node {from} was given another list of founders: {theirs:?}"));
                return;
            }
            self.bind_to(binding, effects);
        }
        self.after_sync.push_back((self.next_write, AfterSync::Bound(from)));
        self.force_write(effects);
    }

    pub(crate) fn send_bound(&mut self, to: NodeId, effects: &mut Effects) {
        let Some(binding) = self.record.binding.clone() else { return };
        let address = binding.founders.iter().find(|(node, _)| *node == to).map(|(_, address)| address.clone());
        effects.messages.push(Outgoing { to, address, bulk: false, message: PeerMessage::Bound { binding } });
    }

    pub(crate) fn on_bound(&mut self, from: NodeId, binding: &Binding, effects: &mut Effects) {
        let Some(own) = &self.record.binding else { return };
        if own != binding {
            // That a cluster was born elsewhere says more, and stays.
            let theirs = addresses(binding);
            self.birth.problem.get_or_insert_with(|| {
                format!("founder {from} has bound itself with {theirs:?} instead; at most one of the two can be born")
            });
            return;
        }
        self.birth.bound.insert(from);
        self.consider_birth(effects);
    }

    fn consider_birth(&mut self, effects: &mut Effects) {
        let Some(binding) = &self.record.binding else { return };
        let bound = binding.founders.iter().filter(|(node, _)| self.birth.bound.contains(node)).count();
        let all =
            if planted::on(Bug::BornBeforeAllBound) { binding.founders.len() / 2 + 1 } else { binding.founders.len() };
        if self.record.cluster.is_none() && bound >= all {
            self.be_born(effects);
        }
    }

    fn be_born(&mut self, effects: &mut Effects) {
        let Some(binding) = self.record.binding.clone() else { return };
        self.record.cluster = Some(binding.cluster);
        self.write_record(effects);
        self.birth.problem = None;
        let replica = ReplicaName { group: binding.group, node: self.record.node, incarnation: Incarnation(1) };
        effects.writes.push(Write::Create { replica, after: Slot(1), inviter: None });
        self.create_genesis(replica, effects);
    }

    /// Makes the first group's replica and its machine, if they are not there.
    pub(crate) fn create_genesis(&mut self, name: ReplicaName, effects: &mut Effects) {
        let Some(binding) = &self.record.binding else { return };
        let members = binding
            .founders
            .iter()
            .map(|(node, address)| Member {
                node: *node,
                incarnation: Incarnation(1),
                role: MemberRole::Voter,
                address: address.clone(),
            })
            .collect();
        let configuration = Configuration { version: ConfigurationVersion(1), members };
        let state = GroupState::genesis(binding.cluster, binding.group, configuration, binding.log_time);
        effects.orders.push(MachineOrder::Create { replica: name, state: Box::new(state) });
        let now = self.now;
        let mut cx = self.context(now, effects);
        let mut replica = Replica::blank(name, Slot(1), &mut cx);
        replica.on_disk = true;
        self.replicas.entry(name.group).or_insert_with(|| Box::new(replica));
    }
}
