//! The ring as a whole: orders that reshape it, and whether it has come to rest.

use crate::host::Asked;
use crate::invariants::{Checked, voters};
use crate::nemesis::Undo;
use crate::plan::{MILLISECOND, SECOND};
use crate::workload::key_of;
use crate::world::{Event, World};
use bytes::{BufMut, BytesMut};
use scatter_core::group::GroupState;
use scatter_core::input::Input;
use scatter_core::ops::order::{Order, Side};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::types::{GroupId, NodeId};

impl World {
    /// A position in `range` but not its start: where a key lies, or just behind one.
    fn position_in(&mut self, range: &KeyRange) -> Option<Position> {
        let inside = |position: &Position| *position != range.start && range.contains(position);
        let mut positions: Vec<Position> = Vec::new();
        for key in self.workload.all_keys() {
            let position = key_of(key).position();
            let mut behind = BytesMut::from(&position.0[..]);
            behind.put_u8(0);
            positions.push(position);
            positions.push(Position(behind.freeze()));
        }
        positions.retain(inside);
        if positions.is_empty() { None } else { Some(self.nemesis_random().pick(&positions).clone()) }
    }

    /// Orders the leader of a group to reshape it; sometimes things happen to its members right then.
    pub(crate) fn order_reshape(&mut self, group: GroupId, order: Order) -> Checked {
        let Some(host) = (0..self.hosts.len()).rfind(|host| self.leads(*host, group)) else { return Ok(()) };
        let Some(request) = self.ask(host, Asked::Order) else { return Ok(()) };
        self.note([25, host as u64, group.0], || format!("order to {group}: {order:?}"));
        if self.nemesis_random().permille(400) {
            for _ in 0..self.nemesis_random().between(1, 3) {
                let soon = self.now + self.nemesis_random().spread(MILLISECOND, 2 * SECOND);
                self.at(soon, Event::Undo(Undo::Unseat(group)));
            }
        }
        self.input(host, Input::Reshape { request, group, order })
    }

    pub(crate) fn order_split(&mut self) -> Checked {
        let groups = self.groups();
        if groups.is_empty() {
            return Ok(());
        }
        let group = *self.nemesis_random().pick(&groups);
        self.order_split_of(group)
    }

    pub(crate) fn order_split_of(&mut self, group: GroupId) -> Checked {
        if self.groups().len() >= self.plan.most_groups {
            return Ok(());
        }
        let Some(range) = self.observer.newest(group).map(|state| state.range.clone()) else { return Ok(()) };
        let Some(at) = self.position_in(&range) else { return Ok(()) };
        self.order_reshape(group, Order::Split { at })
    }

    pub(crate) fn order_takeover(&mut self, merge: bool) -> Checked {
        let groups = self.groups();
        if groups.len() < 2 {
            return self.order_split();
        }
        let group = *self.nemesis_random().pick(&groups);
        let from = if self.nemesis_random().permille(500) { Side::Successor } else { Side::Predecessor };
        self.order_takeover_from(group, from, merge)
    }

    /// Orders a group to take over all or a part of what the neighbour on one side has.
    pub(crate) fn order_takeover_from(&mut self, group: GroupId, from: Side, merge: bool) -> Checked {
        let Some(state) = self.observer.newest(group) else { return Ok(()) };
        let link = match from {
            Side::Predecessor => &state.links.predecessor,
            Side::Successor => &state.links.successor,
        };
        let Some(range) = self.observer.newest(link.group).map(|state| state.range.clone()) else { return Ok(()) };
        let boundary = if merge { None } else { self.position_in(&range) };
        if !merge && boundary.is_none() {
            return Ok(());
        }
        self.order_reshape(group, Order::TakeOver { from, boundary })
    }

    /// I20: whether every session has had a write answered by every group that has keys.
    #[must_use]
    pub fn has_progressed(&self) -> bool {
        self.groups().into_iter().filter_map(|group| self.observer.newest(group)).all(|state| {
            let mine = |key: &u32| state.range.contains(&key_of(*key).position());
            let keys: Vec<u32> = self.workload.all_keys().filter(mine).collect();
            keys.is_empty() || self.workload.has_progressed(&keys)
        })
    }

    /// Whether all that could tell a replica of a group that is no more have lost their disks: those that were ever members, or
    /// so many of the last ones it knows that it waits for the others in vain.
    fn is_stranded(&self, host: usize, group: GroupId) -> bool {
        let was_replaced = |node: NodeId| self.nemesis.replaced.iter().any(|(_, replaced)| *replaced == node);
        let tells = |log: &crate::disk::Log| {
            let mut gone = log.tombstones.iter().filter(|gone| gone.replica.group == group);
            // Whoever was left out of a recovery says nothing.
            gone.any(|gone| gone.merged.is_some() || gone.configuration.is_some())
        };
        let others = self.hosts.iter().enumerate().filter(|(other, _)| *other != host);
        let once = self.observer.configurations(group).iter().flat_map(|(_, configuration)| &configuration.members);
        let mut lost = once.filter(|member| was_replaced(member.node));
        lost.next().is_some() && !others.into_iter().any(|(_, other)| tells(&other.disk.log))
            || self.asks_the_lost(host, group, was_replaced)
    }

    /// Whether a retired replica waits for a majority that has lost its disks, and nobody whom it asks knows what became of
    /// its group.
    fn asks_the_lost(&self, host: usize, group: GroupId, was_replaced: impl Fn(NodeId) -> bool) -> bool {
        let target = &self.hosts[host];
        let now = target.clock.now(self.now);
        let statuses = target.process.iter().flat_map(|process| process.node.status(now));
        let retired = statuses.filter(|status| status.replica.group == group && status.role == "retired");
        let mut asked = retired.filter_map(|status| status.configuration);
        asked.any(|configuration| {
            let voters = voters(&configuration);
            let silent = voters.iter().filter(|node| was_replaced(**node)).count();
            let knows = |log: &crate::disk::Log| {
                let asked = log.node.as_ref().is_some_and(|record| voters.contains(&record.node));
                let mut gone = log.tombstones.iter().filter(|gone| gone.replica.group == group);
                asked && gone.any(|gone| gone.merged.is_some())
            };
            voters.len() - silent < configuration.majority() && !self.hosts.iter().any(|other| knows(&other.disk.log))
        })
    }

    /// The groups that do not know a neighbour as it is.
    #[must_use]
    pub fn mistaken(&self) -> Vec<GroupId> {
        let groups = self.groups();
        let states: Vec<&GroupState> = groups.iter().filter_map(|group| self.observer.newest(*group)).collect();
        let linked = |state: &&&GroupState| {
            let after = states.iter().find(|other| other.range.start == state.range.end);
            let before = states.iter().find(|other| other.range.end == state.range.start);
            let known = |link: &scatter_core::group::Link, actual: Option<&&GroupState>| {
                actual.is_some_and(|actual| actual.group == state.group || *link == actual.link())
            };
            known(&state.links.successor, after) && known(&state.links.predecessor, before)
        };
        states.iter().filter(|state| !linked(state)).map(|state| state.group).collect()
    }

    /// I34: whether no lock, no obligation and no left-over is there any more, and every group knows its neighbours.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let groups = self.groups();
        let states: Vec<&GroupState> = groups.iter().filter_map(|group| self.observer.newest(*group)).collect();
        let at_rest = states.iter().all(|state| state.pending.is_none() && state.outbox.is_empty());
        let linked = self.mistaken().is_empty();
        let buried = self.hosts.iter().enumerate().all(|(host, target)| {
            let Some(process) = &target.process else { return true };
            let marks = process.stage.marks();
            let mut held = process.node.groups().chain(marks.into_iter().map(|(group, _)| group));
            held.all(|group| groups.contains(&group) || self.is_stranded(host, group))
        });
        at_rest && linked && buried
    }
}
