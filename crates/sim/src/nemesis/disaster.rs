//! Disasters: groups lose their majority for good, and an operator has the survivors go on.
//!
//! What only the lost members had is lost, and no protocol brings it back. So a disaster strikes only where one survivor's disk
//! holds all that was decided in every group that loses its majority: then a recovery has to lose nothing, and everything
//! that is checked must hold through it. The operator does as `docs/protocol/recovery.md` says: condemns the lost nodes everywhere,
//! and orders the recovery once all survivors know. One of the lost comes back with its disk.

use super::Undo;
use crate::host::Asked;
use crate::invariants::{Checked, holds, voters};
use crate::plan::{MILLISECOND, SECOND};
use crate::world::{Event, World};
use scatter_core::group::Role;
use scatter_core::input::Input;
use scatter_core::types::{GroupId, NodeId, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// More of them in one run would leave nobody.
const MOST: usize = 2;

/// What has been lost.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Groups without a majority, with the voters that are left.
    groups: BTreeMap<GroupId, Vec<NodeId>>,
    /// Nodes that nobody is to listen to again.
    condemned: BTreeSet<NodeId>,
    disasters: usize,
}

impl World {
    /// Some group loses its majority, if one of those who are left holds everything.
    pub(super) fn disaster(&mut self) {
        let groups = self.groups();
        if !groups.is_empty() {
            let group = *self.nemesis.random.pick(&groups);
            self.disaster_of(group);
        }
    }

    pub(super) fn disaster_of(&mut self, group: GroupId) {
        let Some(configuration) = self.observer.configuration(group).cloned() else { return };
        let mut all = voters(&configuration);
        if all.len() < 2 || !self.nemesis.lost.groups.is_empty() || self.nemesis.lost.disasters >= MOST {
            return;
        }
        self.nemesis.random.shuffle(&mut all);
        let left = self.nemesis.random.between(1, configuration.majority() as u64 - 1) as usize;
        let victims: BTreeSet<NodeId> = all.split_off(left).into_iter().collect();
        let hosts: Vec<usize> = victims.iter().filter_map(|node| self.home_of(*node)).collect();
        let lost = self.would_be_lost(&victims);
        if hosts.len() < victims.len() || !lost.contains_key(&group) || !self.is_survivable(&lost, &victims) {
            return;
        }
        self.note([31, group.0, victims.len() as u64], || {
            format!("disaster: {victims:?} are lost, and so are {lost:?}")
        });
        self.nemesis.lost.disasters += 1;
        self.nemesis.lost.condemned.extend(&victims);
        self.lose(lost);
        for (index, (host, node)) in hosts.into_iter().zip(victims).enumerate() {
            if index == 0 {
                // Alone it is never a majority, so whatever it does it has to ask somebody who knows better.
                self.crash(host);
                self.hosts[host].copy = None;
                self.observer.condemn(node);
                self.nemesis.replaced.push((host, node));
                self.come_back_later(host);
            } else {
                self.wipe(host);
                let late = self.span(SECOND, 10 * SECOND);
                self.at(self.now + late, Event::Undo(Undo::Start(host)));
            }
        }
        let soon = self.now + self.span(10 * MILLISECOND, 4 * SECOND);
        self.at(soon, Event::Undo(Undo::Recover));
    }

    fn lose(&mut self, lost: BTreeMap<GroupId, Vec<NodeId>>) {
        for (group, survivors) in &lost {
            self.observer.loses(*group, survivors);
            // Some may have been lost before, without harm then.
            let voters: BTreeSet<NodeId> = self.in_force(*group, None).into_iter().flat_map(voters).collect();
            let gone = self.nemesis.replaced.iter().map(|(_, gone)| *gone).filter(|gone| voters.contains(gone));
            self.nemesis.lost.condemned.extend(gone);
        }
        self.nemesis.lost.groups.extend(lost);
    }

    fn come_back_later(&mut self, host: usize) {
        let late = self.span(200 * MILLISECOND, 8 * SECOND);
        self.at(self.now + late, Event::Undo(Undo::ComeBack(host)));
    }

    /// A node that is lost to all others comes back with all that it had, once they know that they are not to listen to it.
    pub(super) fn come_back(&mut self, host: usize) -> Checked {
        if self.hosts.iter().enumerate().any(|(other, _)| other != host && !self.knows_condemned(other)) {
            self.come_back_later(host);
            return Ok(());
        }
        self.start(host)
    }

    /// Whether a host's disk knows whom not to listen to; if it belongs to the cluster at all.
    fn knows_condemned(&self, host: usize) -> bool {
        let log = &self.hosts[host].disk.log;
        let belongs = log.node.as_ref().is_some_and(|node| node.cluster.is_some());
        let lost = log.node.as_ref().is_some_and(|node| self.nemesis.lost.condemned.contains(&node.node));
        let knows = |node| log.peers.get(node).is_some_and(|peer| peer.condemned);
        !belongs || lost || self.nemesis.lost.condemned.iter().all(knows)
    }

    /// The operator condemns the lost, and orders the survivors to go on. Again and again, until it is done.
    pub(super) fn recover_lost(&mut self) -> Checked {
        // What ended in memory alone has not ended; children that were on their way are born without a majority.
        let hosts = &self.hosts;
        self.nemesis.lost.groups.retain(|group, _| hosts.iter().any(|host| host.disk.log.replicas.contains_key(group)));
        // A change of members that was under way may have given a group a majority again.
        let had: Vec<GroupId> = self.nemesis.lost.groups.keys().copied().collect();
        let still = self.without_majority(had.clone(), &BTreeSet::new());
        for group in had.into_iter().filter(|group| !still.contains_key(group)) {
            self.nemesis.lost.groups.remove(&group);
            self.observer.loses(group, &[]);
        }
        let mut known = self.groups();
        known.extend(self.hosts.iter().flat_map(|host| host.disk.log.replicas.keys().copied()));
        self.lose(self.without_majority(known, &BTreeSet::new()));
        let condemned: Vec<NodeId> = self.nemesis.lost.condemned.iter().copied().collect();
        let all_know = (0..self.hosts.len()).all(|host| self.knows_condemned(host));
        if self.nemesis.lost.groups.is_empty() && all_know {
            return Ok(());
        }
        let again = self.now + self.span(200 * MILLISECOND, 3 * SECOND);
        self.at(again, Event::Undo(Undo::Recover));
        for host in 0..self.hosts.len() {
            if !self.knows_condemned(host)
                && let Some(request) = self.ask(host, Asked::Order)
            {
                self.input(host, Input::Condemn { request, nodes: condemned.clone() })?;
            }
        }
        for (group, survivors) in self.nemesis.lost.groups.clone() {
            let hosts: Vec<usize> = survivors.iter().filter_map(|node| self.home_of(*node)).collect();
            if hosts.is_empty() || !hosts.iter().all(|host| self.knows_condemned(*host)) {
                continue;
            }
            let base = *self.nemesis.random.pick(&hosts);
            let Some(request) = self.ask(base, Asked::Order) else { continue };
            self.note([32, base as u64, group.0], || format!("order to {group}: recover with {survivors:?}"));
            self.input(base, Input::Recover { request, group, survivors })?;
        }
        self.recover_the_living()
    }

    /// The operator takes living members for lost: whoever is asked must see that nobody has condemned them.
    fn recover_the_living(&mut self) -> Checked {
        let Some(group) = self.any_group() else { return Ok(()) };
        let voters = self.observer.configuration(group).map(voters).unwrap_or_default();
        let hosts: Vec<usize> = voters.iter().filter_map(|node| self.home_of(*node)).collect();
        if hosts.is_empty() {
            return Ok(());
        }
        let base = *self.nemesis.random.pick(&hosts);
        let (Some(node), Some(request)) = (self.hosts[base].node_id(), self.ask(base, Asked::Order)) else {
            return Ok(());
        };
        self.input(base, Input::Recover { request, group, survivors: vec![node] })
    }

    /// The host on which a node lives.
    fn home_of(&self, node: NodeId) -> Option<usize> {
        self.directory.get(&node).copied().filter(|host| self.hosts[*host].node_id() == Some(node))
    }

    /// The groups that would have no majority without these nodes, with those of their voters that would be left.
    fn would_be_lost(&self, victims: &BTreeSet<NodeId>) -> BTreeMap<GroupId, Vec<NodeId>> {
        self.without_majority(self.groups(), victims)
    }

    fn without_majority(&self, groups: Vec<GroupId>, victims: &BTreeSet<NodeId>) -> BTreeMap<GroupId, Vec<NodeId>> {
        let gone = |node: &NodeId| victims.contains(node) || self.nemesis.replaced.iter().any(|(_, gone)| gone == node);
        let mut lost = BTreeMap::new();
        for group in groups {
            // The newest one last: it is what counts, if those who are left know of it.
            for configuration in self.in_force(group, None) {
                let mut left = voters(configuration);
                left.retain(|node| !gone(node));
                if left.len() < configuration.majority() {
                    left.sort_unstable();
                    lost.insert(group, left);
                }
            }
        }
        lost
    }

    /// Whether a recovery could bring back all that was decided: someone who is left in every lost group holds all of it on disk,
    /// and no other set of members may come to be.
    fn is_survivable(&self, lost: &BTreeMap<GroupId, Vec<NodeId>>, victims: &BTreeSet<NodeId>) -> bool {
        let moving = |set: &Vec<NodeId>| set.iter().any(|node| victims.contains(node));
        if self.nemesis.ordered.iter().any(|ordered| self.may_come_to_be(ordered) && moving(&ordered.set)) {
            return false;
        }
        let joins = |group: GroupId| {
            let members = self.observer.configuration(group).into_iter().flat_map(|known| &known.members);
            members.into_iter().any(|member| member.role == Role::Learner && victims.contains(&member.node))
        };
        if self.groups().into_iter().any(joins) || self.proposed_sets().iter().any(moving) {
            return false;
        }
        let shared = |node: &NodeId| lost.values().all(|left| left.contains(node));
        // Of a child that it has not heard of, the parent's log tells the beginning, and nothing else. Whoever has not heard that it
        // votes takes no order.
        let knows = |host: usize, group: &GroupId| {
            let began = self.observer.last_decided(*group) <= Slot(1);
            let newest = self.observer.configurations(*group).last().map(|(slot, _)| *slot).unwrap_or_default();
            let flushed = self.hosts[host].flushed.get(group).copied().unwrap_or_default();
            let replica = self.hosts[host].disk.log.replicas.get(group);
            began || replica.is_some_and(|replica| replica.hard.decided.max(flushed) >= newest)
        };
        let mut able = lost.values().flatten().filter(|node| shared(node)).filter_map(|node| self.home_of(*node));
        able.any(|host| self.holds_all(host) && lost.keys().all(|group| knows(host, group)))
    }

    /// Whether a host's disk holds all that was ever decided in the groups it is a member of, and knows that it is.
    fn holds_all(&self, host: usize) -> bool {
        let target = &self.hosts[host];
        target.disk.log.replicas.iter().all(|(group, replica)| {
            let flushed = target.flushed.get(group).copied().unwrap_or_default();
            let last = self.observer.last_decided(*group);
            let floor = replica.truncated.max(flushed);
            let decided = replica.entries.range(floor.next()..).all(|(slot, (_, entry))| {
                *slot > last || self.observer.holds_decided(host, *group, *slot, entry).is_ok()
            });
            decided && (floor.0 + 1..=last.0).all(|slot| holds(&target.disk.log, flushed, replica.replica, Slot(slot)))
        })
    }
}
