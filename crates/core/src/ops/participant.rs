//! The participant's leader: votes, and learns what was decided.

use super::messages::{GroupMessage, Standing, Vote};
use super::{OperationId, Pending, Prepare, Resolve};
use crate::codec::Encode;
use crate::entry::EntryKind;
use crate::group::{GroupState, Link};
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::types::{GroupId, NodeId, Slot};

impl Replica {
    /// A message from another group's leader, to this group or to one that went up in it.
    pub(crate) fn on_group_message(
        &mut self,
        node: NodeId,
        (from, to): (GroupId, GroupId),
        message: GroupMessage,
        cx: &mut Context<'_>,
    ) {
        let Role::Leader(leader) = &self.role else { return self.point_on(node, (from, to), &message, cx) };
        let behind = self.applied < leader.barrier && !planted::on(Bug::NoRecordIsAbort);
        if behind || self.report.is_none() {
            // What is not applied yet may be the answer.
            return;
        }
        match message {
            GroupMessage::Inspect => self.on_inspect(node, from, cx),
            GroupMessage::Inspected { link, operations, leader, busy } if link.group == from => {
                self.on_inspected(link, operations, leader, busy);
            }
            GroupMessage::Align { members, leader } => self.on_align(from, &members, leader, cx),
            GroupMessage::Prepare { prepare } => self.on_group_prepare(node, from, prepare, cx),
            GroupMessage::Voted { operation, vote } => self.on_voted(operation, vote),
            GroupMessage::Resolve { operation, committed } if operation.coordinator == from => {
                self.on_resolve(node, operation, committed, cx);
            }
            GroupMessage::Resolved { operation } => self.on_resolved(operation),
            GroupMessage::Ask { operation } => self.on_ask(node, from, operation, cx),
            GroupMessage::Answer { operation, standing } if operation.coordinator == from => match standing {
                Standing::Undecided => {}
                Standing::Committed { at } => self.on_resolve(node, operation, Some(at), cx),
                Standing::Aborted => self.on_resolve(node, operation, None, cx),
            },
            GroupMessage::Neighbour { link } if link.group == from => self.on_neighbour(node, link, cx),
            GroupMessage::Heard { of, known, link } if link.group == from => self.on_heard(&of, known, link, cx),
            GroupMessage::Moved { configuration } => self.on_moved(from, configuration),
            GroupMessage::Look { level, range_version, load } => {
                self.on_look(node, from, usize::from(level), (range_version, load), cx);
            }
            GroupMessage::Seen { level, own, link, load } if own.group == from => {
                self.on_seen(usize::from(level), &own, link, load, cx);
            }
            GroupMessage::Inspected { .. }
            | GroupMessage::Resolve { .. }
            | GroupMessage::Answer { .. }
            | GroupMessage::Neighbour { .. }
            | GroupMessage::Heard { .. }
            | GroupMessage::Seen { .. } => {}
        }
    }

    /// Another group, `by`, that is to take over from this one asks it to have these members, led by that node.
    fn on_align(&mut self, by: GroupId, members: &[(NodeId, String)], leader: NodeId, cx: &mut Context<'_>) {
        let busy = self.is_locked() || self.recovery.is_some();
        let group = self.name.group;
        let Role::Leader(own) = &self.role else { return };
        let moving = own.change.is_some() || own.structural.is_some() || own.hand_over.is_some();
        let ordered = own.operations.order.as_ref().is_some_and(|order| !order.yields(group, by));
        if busy || moving || ordered || members.is_empty() {
            return;
        }
        self.give_way("a neighbour that is to take over from this group comes first", cx);
        self.align(members, leader, cx);
    }

    /// A member that does not lead tells who the members are: the leader may be one that the asker does not know.
    fn point_on(&self, node: NodeId, (from, to): (GroupId, GroupId), message: &GroupMessage, cx: &mut Context<'_>) {
        if let Some(configuration) = self.configuration.clone().filter(|_| message.asks()) {
            self.tell_as(to, (node, None), from, GroupMessage::Moved { configuration }, cx);
        }
    }

    /// Tells what this group is.
    fn on_inspect(&mut self, node: NodeId, from: GroupId, cx: &mut Context<'_>) {
        let Some(state) = self.report.as_ref().map(|report| report.state.clone()) else { return };
        let Role::Leader(leader) = &self.role else { return };
        let moving = leader.change.is_some() || leader.hand_over.is_some() || leader.structural.is_some();
        let own = self.name.group;
        let ordered = leader.operations.order.as_ref().is_some_and(|order| !order.yields(own, from));
        let locked = self.is_locked() && !planted::on(Bug::TwoPendingOperations);
        let busy = moving || ordered || locked || self.recovery.is_some();
        let (link, operations, leader) = (state.link(), state.operations, self.name.node);
        self.tell_node(node, None, from, GroupMessage::Inspected { link, operations, leader, busy }, cx);
    }

    /// A neighbour's leader asks for a vote.
    fn on_group_prepare(&mut self, node: NodeId, from: GroupId, prepare: Prepare, cx: &mut Context<'_>) {
        let Some(state) = self.report.as_ref().map(|report| report.state.clone()) else { return };
        let operation = prepare.operation;
        if operation.coordinator != from {
            return;
        }
        if let Some(Pending::Loses { operation: held, surrender, .. }) = &state.pending
            && *held == operation
        {
            let vote = Vote::Yes { surrender: surrender.clone() };
            return self.tell_node(node, None, from, GroupMessage::Voted { operation, vote }, cx);
        }
        let Role::Leader(leader) = &self.role else { return };
        let moving = leader.change.is_some() || leader.hand_over.is_some() || leader.structural.is_some();
        if self.under_way(EntryKind::Prepare) {
            // Perhaps this very one. It is asked again.
            return;
        }
        let busy = moving || self.lock_under_way() || self.recovery.is_some();
        let refusal =
            if busy { Some("the group is busy with another change") } else { state.prepare_refusal(&prepare) };
        if let Some(reason) = refusal {
            let vote = Vote::No { reason: reason.to_owned() };
            return self.tell_node(node, None, from, GroupMessage::Voted { operation, vote }, cx);
        }
        let Role::Leader(leader) = &mut self.role else { return };
        leader.operations.voting = Some((operation, node));
        leader.propose_own(EntryKind::Prepare, prepare.to_bytes());
    }

    /// Tells the vote as soon as the entry that made it is applied.
    pub(crate) fn answer_prepared(&mut self, state: &GroupState, cx: &mut Context<'_>) {
        if self.under_way(EntryKind::Prepare) {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some((operation, node)) = leader.operations.voting.take() else { return };
        let vote = match &state.pending {
            Some(Pending::Loses { operation: held, surrender, .. }) if *held == operation => {
                Vote::Yes { surrender: surrender.clone() }
            }
            Some(_) | None => Vote::No { reason: "the group has changed".to_owned() },
        };
        self.tell_node(node, None, operation.coordinator, GroupMessage::Voted { operation, vote }, cx);
    }

    /// The operation this group has voted yes on: asks what became of it, if nothing is heard.
    pub(crate) fn advance_participant(
        &mut self,
        operation: OperationId,
        gainer: &Link,
        due: bool,
        cx: &mut Context<'_>,
    ) {
        let waited = self.pending_for(operation, cx.now.instant);
        if self.recovery.is_some() && planted::on(Bug::RecoveryPresumesAbort) {
            if !self.under_way(EntryKind::Resolve) {
                let Role::Leader(leader) = &mut self.role else { return };
                leader.propose_own(EntryKind::Resolve, Resolve { operation, committed: None }.to_bytes());
            }
        } else if due && waited > cx.config.group_resend * 3 {
            self.tell_group(gainer, &GroupMessage::Ask { operation }, cx);
        }
    }

    /// The coordinator tells what was decided.
    fn on_resolve(&mut self, node: NodeId, operation: OperationId, committed: Option<Slot>, cx: &mut Context<'_>) {
        let Some(state) = self.report.as_ref().map(|report| report.state.clone()) else { return };
        let held = state.pending.as_ref().filter(|pending| pending.operation() == operation);
        match held {
            // Nothing is logged of a merge: each member of this group ends with its gainer beside it.
            Some(Pending::Loses { takeover, .. }) if takeover.merge && committed.is_some() => return,
            Some(_) => {}
            // It was applied before.
            None if committed.is_some() => {
                return self.tell_node(node, None, operation.coordinator, GroupMessage::Resolved { operation }, cx);
            }
            // Perhaps of an operation never heard of, whose Prepare is still on its way: the counter must rise.
            None => {}
        }
        if self.under_way(EntryKind::Resolve) || self.lock_under_way() {
            // It is told again.
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        leader.operations.resolving = Some((operation, node));
        leader.propose_own(EntryKind::Resolve, Resolve { operation, committed }.to_bytes());
    }

    /// Acknowledges an outcome as soon as it is applied.
    pub(crate) fn answer_resolved(&mut self, cx: &mut Context<'_>) {
        if self.under_way(EntryKind::Resolve) {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let Some((operation, node)) = leader.operations.resolving.take() else { return };
        self.tell_node(node, None, operation.coordinator, GroupMessage::Resolved { operation }, cx);
    }
}
