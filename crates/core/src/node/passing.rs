//! Replicas come and go: births, mergers, invitations, burials, and what is told of those that are gone.

use super::{AfterSync, MAX_MERGERS, Node};
use crate::durable::{Merger, Tombstone, Write};
use crate::effects::{Effects, MachineOrder, Outgoing};
use crate::group::Configuration;
use crate::input::MachineReport;
use crate::message::{Envelope, Message, PeerMessage, Refusal};
use crate::ops::Obligation;
use crate::ops::recovery::is_recovery;
use crate::paxos::acceptor::Unsynced;
use crate::planted::{self, Bug};
use crate::replica::{Replica, Role};
use crate::time::Now;
use crate::types::{Ballot, GroupId, Incarnation, NodeId, ReplicaName, Slot};

impl Node {
    /// A split gave birth to a machine here. A replica that was there before it, waiting, has its machine now.
    pub(super) fn on_born(
        &mut self,
        now: Now,
        child: ReplicaName,
        leader: NodeId,
        report: MachineReport,
        effects: &mut Effects,
    ) {
        self.heed_recoveries(&report, effects);
        match self.replicas.get(&child.group) {
            Some(replica) if replica.name == child => {
                let again = planted::on(Bug::FirstBallotLedAgain) && leader == child.node;
                self.with(now, child.group, effects, |replica, cx| {
                    replica.on_born(report, cx);
                    if again {
                        replica.promised = Ballot::ZERO;
                        replica.lead_first_ballot(cx);
                    }
                });
            }
            // However many replicas there are: what is born here may have its data nowhere else.
            None if !self.has_buried(child) => {
                // Should the machine be lost with the store, and its parent have gone on, another member has it.
                let inviter = another_member(child, Some(leader), &report.state.configuration);
                effects.writes.push(Write::Create { replica: child, after: Slot(1), inviter });
                let mut replica = Replica::blank(child, Slot(1), &mut self.context(now, effects));
                replica.inviter = inviter;
                replica.unsynced.push_back((self.next_write, Unsynced::Created));
                self.replicas.insert(child.group, Box::new(replica));
                self.with(now, child.group, effects, |replica, cx| {
                    replica.on_born(report, cx);
                    if leader == child.node {
                        replica.lead_first_ballot(cx);
                    }
                });
            }
            // It came and went before its parent was this far.
            Some(_) | None => effects.orders.push(MachineOrder::Destroy { replica: child }),
        }
    }

    /// A machine here was taken over by its gainer's.
    pub(super) fn on_merged(&mut self, now: Now, loser: ReplicaName, merger: Merger, effects: &mut Effects) {
        if self.replicas.get(&loser.group).is_some_and(|replica| replica.name == loser) {
            self.with(now, loser.group, effects, |replica, cx| replica.on_merged(merger, cx));
            self.merged.insert(loser.group);
            // The gainer here may have been buried while its machine took over.
            self.settle_merged(now, None, effects);
            if planted::on(Bug::BuriedAtOnce) {
                self.with(now, loser.group, effects, |replica, cx| replica.on_settled(merger, cx));
            }
        } else {
            effects.orders.push(MachineOrder::Destroy { replica: loser });
        }
    }

    /// Buries the replicas of groups that were merged into `gainer`, once everybody has assembled and this node's store
    /// holds what it has assembled for good.
    pub(super) fn settle_merged(&mut self, now: Now, gainer: Option<GroupId>, effects: &mut Effects) {
        let mut settled = Vec::new();
        for group in &self.merged {
            let Some(Role::Merged(merger)) = self.replicas.get(group).map(|replica| &replica.role) else { continue };
            let gained = self.replicas.get(&merger.into);
            let owed = gained.and_then(|gained| gained.report.as_ref()).is_some_and(|report| {
                report.state.outbox.iter().any(
                    |obligation| matches!(obligation, Obligation::Bury { loser, at, .. } if loser == group && *at == merger.at),
                )
            });
            let durable =
                gained.is_none_or(|gained| gained.flushed >= merger.at || planted::on(Bug::AssembledInMemory));
            if (gainer == Some(merger.into) || gained.is_none()) && durable && !owed {
                settled.push((*group, *merger));
            }
        }
        for (group, merger) in settled {
            self.merged.remove(&group);
            // Who has no part in a recovery cannot know that the survivors hold anything: it must not tell anybody that the
            // group is gone. Whoever was a member of the recovered group and has left it can: to be merged away or to do without a member
            // takes a majority that has it.
            let has_part = self.replicas.contains_key(&merger.into) || self.tombstones.contains_key(&merger.into);
            let left_out = is_recovery(merger) && !has_part;
            self.with(now, group, effects, |replica, cx| {
                if left_out { replica.on_left_out(cx) } else { replica.on_settled(merger, cx) }
            });
        }
    }

    /// Somebody has buried the group of a replica here: it was merged into another, and every member had assembled. What this
    /// one holds nobody needs, unless the gainer beside it is still to assemble.
    pub(super) fn on_gone(&mut self, now: Now, to: ReplicaName, merger: Merger, effects: &mut Effects) {
        // A newcomer to the gainer that is no member, and may never be one, was not waited for: it takes a snapshot.
        let waits =
            self.replicas.get(&merger.into).is_some_and(|gainer| !gainer.is_no_member() && gainer.flushed < merger.at);
        let named = self.replicas.get(&to.group).is_some_and(|replica| replica.name == to);
        if named && !waits {
            self.with(now, to.group, effects, |replica, cx| replica.on_gone(merger, cx));
        }
    }

    pub(super) fn bury(&mut self, group: GroupId, effects: &mut Effects) {
        let Some(replica) = self.replicas.remove(&group) else { return };
        self.eager.remove(&group);
        self.merged.remove(&group);
        if planted::on(Bug::TombstoneForgotten) {
            effects.orders.push(MachineOrder::Destroy { replica: replica.name });
            return;
        }
        self.after_sync.push_back((self.next_write, AfterSync::Destroy(replica.name)));
        let merged = replica.merger;
        let configuration = replica.configuration.clone();
        let tombstone = Tombstone { replica: replica.name, removed_by: replica.ruled_out(), merged, configuration };
        self.tombstones.entry(group).or_default().push(tombstone);
    }

    /// The group that has what `group` had, as far as this node has seen groups being merged.
    #[must_use]
    pub fn heir_of(&self, group: GroupId) -> GroupId {
        let mut heir = group;
        if planted::on(Bug::HeirUnknown) {
            return heir;
        }
        for _ in 0..MAX_MERGERS {
            let merger = match self.replicas.get(&heir).map(|replica| &replica.role) {
                Some(Role::Merged(merger)) => Some(*merger),
                Some(Role::Follower(_) | Role::Candidate(_) | Role::Leader(_) | Role::Retired(_)) => None,
                None => self.tombstones.get(&heir).and_then(|gone| gone.last()).and_then(|gone| gone.merged),
            };
            let Some(merger) = merger.or_else(|| self.absorber_of(heir)) else { break };
            heir = merger.into;
        }
        heir
    }

    /// Who has what a group had that was never here, or is forgotten: a member that came later than the merger or recovery.
    pub(super) fn absorber_of(&self, group: GroupId) -> Option<Merger> {
        if self.replicas.contains_key(&group) {
            return None;
        }
        self.replicas.values().find_map(|replica| {
            let state = &replica.report.as_ref()?.state;
            let (_, at) = state.absorbed.iter().find(|(absorbed, _)| *absorbed == group)?;
            Some(Merger { into: replica.name.group, at: *at })
        })
    }

    /// A replica comes to be here without any state, for which it may ask `inviter`. Whether there is room is asked before; a child whose
    /// parent here waits for it needs none.
    pub(super) fn invite(&mut self, now: Now, name: ReplicaName, inviter: ReplicaName, effects: &mut Effects) {
        if let Some(waiting) = self.replicas.get_mut(&name.group) {
            // Whom it knows may know nothing: it asks another as well.
            if waiting.report.is_none() && waiting.inviter != Some(inviter) {
                waiting.inviter = Some(inviter);
                waiting.ask_at = now.instant;
                self.touched.insert(name.group);
            }
            return;
        }
        if !self.may_host(name) {
            return;
        }
        // What begins a group is slot 1, which no log holds.
        let after = Slot(u64::from(name.incarnation == Incarnation(1)));
        effects.writes.push(Write::Create { replica: name, after, inviter: Some(inviter) });
        let mut replica = Replica::blank(name, after, &mut self.context(now, effects));
        replica.inviter = Some(inviter);
        replica.ask_at = now.instant;
        replica.unsynced.push_back((self.next_write, Unsynced::Created));
        self.replicas.insert(name.group, Box::new(replica));
        self.touched.insert(name.group);
    }

    /// Whether a new replica of this name may come to be here.
    pub(super) fn may_host(&self, name: ReplicaName) -> bool {
        self.record.cluster.is_some() && !self.has_buried(name)
    }

    /// Whether there is room for a replica that comes to be by what a leader or candidate says to it. One of the first
    /// incarnation is awaited as a child: its parent's data is here.
    pub(super) fn has_room_for(&self, name: ReplicaName) -> bool {
        let is_child = name.incarnation == Incarnation(1);
        !self.is_full() && (is_child || self.incoming() < self.config.max_incoming)
    }

    fn is_full(&self) -> bool {
        self.replicas.len() >= self.config.max_replicas
    }

    /// How many replicas here wait for their first state. Whoever no leader has spoken to for as long as a change of members
    /// takes does not count: its change was given up or its group is gone, and it takes nobody's room while it waits to
    /// hear so. Nor do learners that have what they came for, since one that was left over may stay.
    #[must_use]
    pub fn incoming(&self) -> usize {
        self.replicas.values().filter(|replica| self.is_incoming(replica)).count()
    }

    fn is_incoming(&self, replica: &Replica) -> bool {
        let Role::Follower(follower) = &replica.role else { return false };
        let lately = self.now.instant.since(follower.heard_at) <= self.config.change_patience;
        replica.report.is_none() && lately
    }

    /// Tells a leader at once that its newcomer has no room here.
    pub(super) fn refuse_for_room(&self, from: ReplicaName, to: ReplicaName, message: &Message, effects: &mut Effects) {
        let Message::Accept { ballot, .. } = message else { return };
        let refusal = Refusal::NoRoom;
        let message = Message::Refuse { ballot: *ballot, refusal, promised: Ballot::ZERO, decided: Slot(0) };
        let message = PeerMessage::Replica { envelope: Envelope { from: to, to: from, message } };
        effects.messages.push(Outgoing { to: from.node, address: None, bulk: false, message });
    }

    /// Whether a tombstone rules out that a replica of this name lives here.
    pub(super) fn has_buried(&self, name: ReplicaName) -> bool {
        self.tombstones.get(&name.group).is_some_and(|tombstones| {
            tombstones
                .iter()
                .any(|gone| name.incarnation <= gone.replica.incarnation.max(gone.removed_by) || gone.merged.is_some())
        })
    }

    /// Tells a replica of a group that was merged away that its group is no more.
    pub(super) fn tell_gone(&self, to: ReplicaName, effects: &mut Effects) {
        let merger = self.tombstones.get(&to.group).and_then(|gone| gone.iter().find_map(|gone| gone.merged));
        let merger = merger.filter(|_| !planted::on(Bug::GoneUntold));
        if let Some(Merger { into, at }) = merger {
            let message = PeerMessage::Gone { to, into, at };
            effects.messages.push(Outgoing { to: to.node, address: None, bulk: false, message });
        }
    }

    /// Tells a replica that asks whether it is still a member what one that lived here knew last: it may have nobody else to
    /// ask.
    pub(super) fn tell_of_removal(&self, to: ReplicaName, gone: ReplicaName, effects: &mut Effects) {
        let last = self.tombstones.get(&gone.group).and_then(|tombstones| tombstones.last());
        if let Some(Tombstone { replica, configuration: Some(configuration), .. }) = last {
            let message = Message::Membership { configuration: configuration.clone() };
            let message = PeerMessage::Replica { envelope: Envelope { from: *replica, to, message } };
            effects.messages.push(Outgoing { to: to.node, address: None, bulk: false, message });
        }
    }
}

/// Somebody else of a replica's group, if possible the one that leads.
pub(super) fn another_member(
    name: ReplicaName,
    leader: Option<NodeId>,
    configuration: &Configuration,
) -> Option<ReplicaName> {
    let others = configuration.members.iter().filter(|member| member.node != name.node);
    let other = others.max_by_key(|member| Some(member.node) == leader)?;
    Some(ReplicaName { node: other.node, incarnation: other.incarnation, ..name })
}
