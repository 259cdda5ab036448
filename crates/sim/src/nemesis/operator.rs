//! The operator: changes of members and leaders, and the replacement of lost nodes.

use super::Undo;
use crate::host::Asked;
use crate::invariants::{Checked, voters};
use crate::plan::{MILLISECOND, SECOND};
use crate::world::{Event, World};
use scatter_core::input::Input;
use scatter_core::types::{GroupId, NodeId};
impl World {
    /// The operator replaces nodes that are lost.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn repair(&mut self) -> Checked {
        for group in self.groups() {
            let Some(configuration) = self.observer.configuration(group).cloned() else { continue };
            let members: Vec<NodeId> = configuration.members.iter().map(|member| member.node).collect();
            let lost: Vec<(usize, NodeId)> =
                self.nemesis.replaced.iter().copied().filter(|(_, node)| members.contains(node)).collect();
            let Some((host, gone)) = lost.first().copied() else { continue };
            let add = self.candidate(host).filter(|(node, _)| !members.contains(node));
            let left = members.iter().any(|node| lost.iter().all(|(_, gone)| gone != node));
            if add.is_some() || left {
                self.change_members(group, add.into_iter().collect(), vec![gone])?;
            }
        }
        Ok(())
    }

    /// Whether no lost node is a member any more.
    #[must_use]
    pub fn is_repaired(&self) -> bool {
        self.groups().iter().all(|group| {
            self.observer.configuration(*group).is_some_and(|configuration| {
                configuration
                    .members
                    .iter()
                    .all(|member| self.nemesis.replaced.iter().all(|(_, node)| *node != member.node))
            })
        })
    }

    /// The node of a host, if it may join groups.
    pub(super) fn candidate(&self, host: usize) -> Option<(NodeId, String)> {
        let target = &self.hosts[host];
        // An operator names a node by an address that stays.
        let home = target.address == target.home;
        let process = target.process.as_ref().filter(|_| target.speaks() && home)?;
        process.node.cluster()?;
        let lost = self.nemesis.replaced.iter().any(|(_, node)| *node == process.node.id());
        (!lost).then(|| (process.node.id(), target.address.clone()))
    }

    /// Asks the leader for other members.
    pub(super) fn change_members(
        &mut self,
        group: GroupId,
        add: Vec<(NodeId, String)>,
        remove: Vec<NodeId>,
    ) -> Checked {
        let Some(configuration) = self.observer.configuration(group) else { return Ok(()) };
        let mut set = voters(configuration);
        set.retain(|node| !remove.contains(node));
        set.extend(add.iter().map(|(node, _)| *node));
        if !self.lives_without(&set, None) {
            // A set without a living majority could be neither decided nor replaced.
            return Ok(());
        }
        self.note_ordered(group, set);
        let Some(host) = (0..self.hosts.len()).rfind(|host| self.leads(*host, group)) else { return Ok(()) };
        let Some(request) = self.ask(host, Asked::Order) else { return Ok(()) };
        self.note([22, host as u64, group.0], || format!("order to {group}: add {add:?}, remove {remove:?}"));
        self.input(host, Input::ChangeMembers { request, group, add, remove, version: None })
    }

    pub(super) fn order_members(&mut self) -> Checked {
        let Some(group) = self.any_group() else { return Ok(()) };
        self.order_members_of(group)
    }

    pub(super) fn order_members_of(&mut self, group: GroupId) -> Checked {
        let Some(configuration) = self.observer.configuration(group).cloned() else { return Ok(()) };
        let now_voting = voters(&configuration);
        let mut able: Vec<(NodeId, String)> = (0..self.hosts.len()).filter_map(|host| self.candidate(host)).collect();
        self.nemesis.random.shuffle(&mut able);
        let size = self.nemesis.random.between(1, able.len().clamp(1, 5) as u64) as usize;
        able.truncate(size);
        let add: Vec<(NodeId, String)> = able.iter().filter(|(node, _)| !now_voting.contains(node)).cloned().collect();
        let remove: Vec<NodeId> = configuration
            .members
            .iter()
            .map(|member| member.node)
            .filter(|node| able.iter().all(|(kept, _)| kept != node))
            .collect();
        if able.is_empty() || (add.is_empty() && remove.is_empty()) {
            return Ok(());
        }
        self.change_members(group, add, remove)
    }

    pub(super) fn order_removal(&mut self) -> Checked {
        let Some(group) = self.any_group() else { return Ok(()) };
        let Some(configuration) = self.observer.configuration(group).cloned() else { return Ok(()) };
        let all = voters(&configuration);
        if all.len() < 2 {
            return Ok(());
        }
        let victim = *self.nemesis.random.pick(&all);
        let Some(host) = self.directory.get(&victim).copied() else { return Ok(()) };
        let soon = self.now + self.span(20 * MILLISECOND, 2 * SECOND);
        self.at(soon, Event::Undo(Undo::Add(group, host, 5)));
        self.change_members(group, Vec::new(), vec![victim])
    }

    pub(super) fn order_hand_over(&mut self) -> Checked {
        let Some(group) = self.any_group() else { return Ok(()) };
        let Some(configuration) = self.observer.configuration(group).cloned() else { return Ok(()) };
        let all = voters(&configuration);
        let to = *self.nemesis.random.pick(&all);
        let Some(host) = (0..self.hosts.len()).rfind(|host| self.leads(*host, group)) else { return Ok(()) };
        let Some(request) = self.ask(host, Asked::Order) else { return Ok(()) };
        self.input(host, Input::HandOver { request, group, to })
    }
}
