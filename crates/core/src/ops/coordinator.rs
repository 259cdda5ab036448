//! The coordinator's leader: asks for the vote, decides, and sees to it that what was decided is carried out.
//!
//! Everything here follows from the applied state, so the next leader goes on where this one stopped; only timers begin anew.

use super::messages::{GroupEnvelope, GroupMessage, Standing, Vote};
use super::order::{UnderWay, all_applied};
use super::recovery::slot_here;
use super::{Decide, Obligation, OperationId, Pending, Prepare, Surrender, Takeover};
use crate::codec::Encode;
use crate::effects::Outgoing;
use crate::entry::EntryKind;
use crate::group::{Configuration, GroupState, Link};
use crate::message::PeerMessage;
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::{GroupId, NodeId, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Of how many other groups a leader remembers that their members have changed.
const MAX_MOVED: usize = 16;

/// Of how many operations that others ask about a leader remembers when they did.
const MOST_ASKED: usize = 64;

/// What a leader remembers of group operations beside what is applied. All of it can be lost.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    /// The order under way.
    pub(crate) order: Option<UnderWay>,
    /// The vote heard for the pending operation.
    pub(crate) vote: Option<(OperationId, Vote)>,
    /// Members of other groups that are later than what the links say.
    pub(crate) moved: BTreeMap<GroupId, Configuration>,
    /// Why the last vote was no.
    pub(crate) no_reason: Option<String>,
    /// The pending operation, and since when this leader knows of it.
    since: Option<(OperationId, Instant)>,
    /// The Prepare made here, and who waits for the vote.
    pub(crate) voting: Option<(OperationId, NodeId)>,
    /// The Resolve made here, and who waits for the acknowledgement.
    pub(crate) resolving: Option<(OperationId, NodeId)>,
    /// Operations nobody here knows of that somebody asked about, and the last stamp before the first time.
    asked: BTreeMap<OperationId, Instant>,
    /// When unanswered messages are repeated.
    again_at: Instant,
    /// Something is outstanding.
    outstanding: bool,
    /// News came that may let something go on.
    pub(crate) nudged: bool,
    /// The applied state looked at last.
    seen: Option<Arc<GroupState>>,
    /// What the neighbours were told.
    pub(crate) telling: super::links::Telling,
    /// What was heard of the groups around.
    pub(crate) surroundings: super::surroundings::Surroundings,
}

impl Operations {
    /// When something is to be repeated.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let again = self.outstanding.then_some(self.again_at);
        again.into_iter().chain(self.telling.deadline()).chain(self.surroundings.deadline()).min()
    }
}

impl Replica {
    /// Whether an entry of this kind was made here and is not applied yet.
    pub(crate) fn under_way(&self, kind: EntryKind) -> bool {
        let queued = matches!(&self.role, Role::Leader(leader) if leader.has_own(kind));
        queued || self.log.above(self.applied).any(|(_, _, entry)| entry.kind == kind)
    }

    /// Whether an entry that may lock the group, or that a lock forbids, is not applied yet.
    pub(crate) fn lock_under_way(&self) -> bool {
        let locks = |kind: EntryKind| match kind {
            EntryKind::Begin
            | EntryKind::Prepare
            | EntryKind::Split
            | EntryKind::Configuration
            | EntryKind::Recover => true,
            EntryKind::Noop
            | EntryKind::Commands
            | EntryKind::Expire
            | EntryKind::FeatureLevel
            | EntryKind::Links
            | EntryKind::Decide
            | EntryKind::Resolve
            | EntryKind::Settle
            | EntryKind::Correct => false,
        };
        let queued = matches!(&self.role, Role::Leader(leader) if leader.own_kinds().any(locks));
        queued || self.log.above(self.applied).any(|(_, _, entry)| locks(entry.kind))
    }

    /// Whether a group operation holds this group, or is about to.
    pub(crate) fn is_locked(&self) -> bool {
        let pending = self.report.as_ref().is_some_and(|report| report.state.pending.is_some());
        (pending || self.lock_under_way()) && !planted::on(Bug::ConfigurationWhileLocked)
    }

    /// Says something to every member of another group that is known.
    pub(crate) fn tell_group(&self, to: &Link, message: &GroupMessage, cx: &mut Context<'_>) {
        self.tell_group_as(self.name.group, to, message, cx);
    }

    /// The same in the name of a group: this one, or one whose place it has taken.
    fn tell_group_as(&self, from: GroupId, to: &Link, message: &GroupMessage, cx: &mut Context<'_>) {
        let moved = match &self.role {
            Role::Leader(leader) => leader.operations.moved.get(&to.group),
            Role::Follower(_) | Role::Candidate(_) | Role::Retired(_) | Role::Merged(_) => None,
        };
        let moved = moved.filter(|moved| moved.version > to.configuration_version);
        let later = moved.into_iter().flat_map(|moved| &moved.members);
        let links = self.report.as_ref().map(|report| &report.state.links);
        let links = links.into_iter().flat_map(|links| [&links.predecessor, &links.successor]);
        let links =
            links.filter(|link| link.group == to.group && link.configuration_version > to.configuration_version);
        let later = later
            .chain(links.flat_map(|link| &link.members))
            .filter(|later| to.members.iter().all(|member| member.node != later.node));
        for member in to.members.iter().chain(later) {
            let address = Some(member.address.clone());
            self.tell_as(from, (member.node, address), to.group, message.clone(), cx);
        }
    }

    /// Says something to the node from which another group's leader spoke.
    pub(crate) fn tell_node(
        &self,
        node: NodeId,
        address: Option<String>,
        to: GroupId,
        message: GroupMessage,
        cx: &mut Context<'_>,
    ) {
        self.tell_as(self.name.group, (node, address), to, message, cx);
    }

    /// Says something in the name of a group: this one, or one whose place it has taken.
    pub(crate) fn tell_as(
        &self,
        from: GroupId,
        (node, address): (NodeId, Option<String>),
        to: GroupId,
        message: GroupMessage,
        cx: &mut Context<'_>,
    ) {
        let message = PeerMessage::Group { envelope: GroupEnvelope { from, to, message } };
        cx.effects.messages.push(Outgoing { to: node, address, bulk: false, message });
    }

    /// Goes on with whatever operation is under way, if there is news or it is time.
    pub(crate) fn advance_operations(&mut self, cx: &mut Context<'_>) {
        let Some(state) = self.report.as_ref().map(|report| report.state.clone()) else { return };
        let (applied, now) = (self.applied, cx.now.instant);
        let Role::Leader(leader) = &mut self.role else { return };
        if !leader.may_operate(applied) {
            return;
        }
        let operations = &mut leader.operations;
        let changed = operations.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, &state));
        let due = now >= operations.again_at;
        let waits = operations.outstanding || operations.order.is_some();
        let nudged = std::mem::take(&mut operations.nudged);
        let begins = changed || nudged || (due && waits) || operations.telling.is_due(now);
        if !begins {
            return;
        }
        operations.seen = Some(state.clone());
        if due {
            operations.again_at = now.after(cx.config.group_resend);
        }
        match &state.pending {
            Some(Pending::Gains { operation, takeover, loser }) => {
                self.advance_coordinator(&state, *operation, takeover, loser, due, cx);
            }
            Some(Pending::Loses { operation, gainer, .. }) => self.advance_participant(*operation, gainer, due, cx),
            None => {}
        }
        self.answer_prepared(&state, cx);
        self.answer_resolved(cx);
        self.advance_order(&state, due, cx);
        self.advance_obligations(&state, due, cx);
        self.tell_neighbours(&state, cx);
        let Role::Leader(leader) = &mut self.role else { return };
        let operations = &mut leader.operations;
        operations.outstanding = state.pending.is_some() || !state.outbox.is_empty() || operations.order.is_some();
    }

    /// A node hosts another group no more, and knew these members later than this leader does.
    pub(crate) fn on_moved(&mut self, group: GroupId, configuration: Configuration) {
        let Role::Leader(leader) = &mut self.role else { return };
        let moved = &mut leader.operations.moved;
        if moved.len() >= MAX_MOVED && !moved.contains_key(&group) {
            moved.pop_first();
        }
        let known = moved.entry(group).or_insert_with(|| configuration.clone());
        if known.version < configuration.version {
            *known = configuration;
        }
    }

    /// For how long this leader has known of the operation.
    pub(crate) fn pending_for(&mut self, operation: OperationId, now: Instant) -> std::time::Duration {
        let Role::Leader(leader) = &mut self.role else { return std::time::Duration::ZERO };
        match leader.operations.since {
            Some((known, since)) if known == operation => now.since(since),
            Some(_) | None => {
                leader.operations.since = Some((operation, now));
                leader.operations.vote = None;
                leader.operations.no_reason = None;
                std::time::Duration::ZERO
            }
        }
    }

    /// The operation this group coordinates: asks, or decides.
    fn advance_coordinator(
        &mut self,
        state: &GroupState,
        operation: OperationId,
        takeover: &Takeover,
        loser: &Link,
        due: bool,
        cx: &mut Context<'_>,
    ) {
        let waited = self.pending_for(operation, cx.now.instant);
        if self.under_way(EntryKind::Decide) {
            return;
        }
        let Role::Leader(leader) = &self.role else { return };
        let vote = leader.operations.vote.clone().filter(|(of, _)| *of == operation).map(|(_, vote)| vote);
        let commit = match vote {
            Some(Vote::Yes { surrender }) if self.may_assemble(operation, takeover.loser, &surrender, cx) => {
                Some(surrender)
            }
            Some(Vote::Yes { .. }) | None => {
                if waited > cx.config.seal_patience {
                    if planted::on(Bug::AbortToldBeforeDecided) {
                        self.tell_group(loser, &GroupMessage::Resolve { operation, committed: None }, cx);
                        return;
                    }
                    None
                } else {
                    if due {
                        let prepare = Prepare { operation, takeover: takeover.clone(), gainer: state.link() };
                        self.tell_group(loser, &GroupMessage::Prepare { prepare }, cx);
                    }
                    return;
                }
            }
            Some(Vote::No { .. }) => None,
        };
        let Role::Leader(leader) = &mut self.role else { return };
        leader.propose_own(EntryKind::Decide, Decide { operation, commit }.to_bytes());
    }

    /// Whether the replica of the loser beside this one has applied the seal: only then would the machine not stand still.
    fn may_assemble(&self, operation: OperationId, loser: GroupId, surrender: &Surrender, cx: &Context<'_>) -> bool {
        cx.beside.get(&loser).and_then(|beside| beside.report.as_ref()).is_some_and(|report| {
            let sealed = report.state.pending.as_ref().is_some_and(|pending| pending.operation() == operation);
            sealed && report.applied >= surrender.seal
        })
    }

    /// A vote was heard.
    pub(crate) fn on_voted(&mut self, operation: OperationId, vote: Vote) {
        let pending = self.report.as_ref().and_then(|report| report.state.pending.as_ref());
        if pending.is_none_or(|pending| pending.operation() != operation) {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let operations = &mut leader.operations;
        // The first that counts stays: a yes is the loser's for good, a no ends the operation.
        if operations.vote.as_ref().is_none_or(|(known, _)| *known != operation) {
            if let Vote::No { reason } = &vote {
                operations.no_reason = Some(reason.clone());
            }
            operations.vote = Some((operation, vote));
            operations.nudged = true;
        }
    }

    /// What was decided reaches whom it concerns.
    fn advance_obligations(&mut self, state: &GroupState, due: bool, cx: &mut Context<'_>) {
        let applied = self.assembled_through(cx);
        for obligation in &state.outbox {
            let Role::Leader(leader) = &mut self.role else { return };
            if planted::on(Bug::OutboxNotInherited) && obligation.operation().slot < leader.barrier {
                continue;
            }
            match obligation {
                // Until everybody has taken over what moved, the loser keeps it: its replicas are where it is taken from.
                Obligation::Tell { operation, committed: Some(at), .. }
                    if !all_applied(leader, applied, slot_here(self.name.group, operation, *at)) => {}
                Obligation::Tell { operation, loser, committed } if due => {
                    let lost = planted::on(Bug::DecisionLostAtLeaderChange);
                    let committed = committed.filter(|at| !lost || *at >= leader.barrier);
                    let message = GroupMessage::Resolve { operation: *operation, committed };
                    self.tell_group_as(operation.coordinator, loser, &message, cx);
                }
                Obligation::Tell { .. } => {}
                Obligation::Bury { operation, at, .. } => {
                    let assembled = all_applied(leader, applied, *at) || planted::on(Bug::BuriedAtOnce);
                    if assembled && !self.under_way(EntryKind::Settle) {
                        self.settle_operation(*operation);
                    }
                }
            }
        }
    }

    fn settle_operation(&mut self, operation: OperationId) {
        if let Role::Leader(leader) = &mut self.role {
            leader.propose_own(EntryKind::Settle, operation.to_bytes());
        }
    }

    /// The loser has applied the outcome.
    pub(crate) fn on_resolved(&mut self, operation: OperationId) {
        let owed = self.report.as_ref().is_some_and(|report| {
            let told = |obligation: &Obligation| matches!(obligation, Obligation::Tell { operation: of, .. } if *of == operation);
            report.state.outbox.iter().any(told)
        });
        if owed && !self.under_way(EntryKind::Settle) {
            self.settle_operation(operation);
        }
    }

    /// A participant that holds a lock asks what became of the operation. Only this group can say, and only a leader that has
    /// applied all that was decided before it.
    pub(crate) fn on_ask(&mut self, node: NodeId, group: GroupId, operation: OperationId, cx: &mut Context<'_>) {
        let Some(report) = &self.report else { return };
        let owed = report.state.outbox.iter().find(|obligation| obligation.operation() == operation);
        let pending = report.state.pending.as_ref().is_some_and(|pending| pending.operation() == operation);
        let Role::Leader(leader) = &self.role else { return };
        let own = self.name.group;
        let assembled = |at: Slot| all_applied(leader, self.assembled_through(cx), slot_here(own, &operation, at));
        let standing = match owed {
            Some(Obligation::Tell { .. }) if planted::on(Bug::AbortAfterCommit) => Standing::Aborted,
            Some(Obligation::Tell { committed: Some(at), .. }) if !assembled(*at) => Standing::Undecided,
            Some(Obligation::Tell { committed: Some(at), .. } | Obligation::Bury { at, .. }) => {
                Standing::Committed { at: *at }
            }
            Some(Obligation::Tell { committed: None, .. }) => Standing::Aborted,
            None if pending => Standing::Undecided,
            None if planted::on(Bug::NoRecordIsAbort) => Standing::Aborted,
            // Everybody has heard: the asker is behind and hears it from its own group, unless that has forgotten.
            None => {
                let current = self.knows_what_was_decided(operation, cx);
                match self.standing_of_unknown(operation, current) {
                    Some(standing) => standing,
                    None => return,
                }
            }
        };
        self.tell_as(operation.coordinator, (node, None), group, GroupMessage::Answer { operation, standing }, cx);
    }

    /// Whether this leader has applied all that was decided before it was first asked about an operation: by its lease, or, without
    /// one, because a majority has answered what it sent since. Whoever asks, asks again.
    fn knows_what_was_decided(&mut self, operation: OperationId, cx: &Context<'_>) -> bool {
        if self.applied < self.decided {
            return false;
        }
        if cx.now.instant < self.lease_deadline(cx) {
            return true;
        }
        let round = self.confirmed_stamp();
        let Role::Leader(leader) = &mut self.role else { return false };
        let asked = &mut leader.operations.asked;
        if asked.get(&operation).is_some_and(|after| round > *after) {
            asked.remove(&operation);
            return true;
        }
        if asked.len() < MOST_ASKED || asked.contains_key(&operation) {
            asked.entry(operation).or_insert(leader.last_stamp);
        } else {
            // Whoever asked about these has gone, or asks again.
            asked.clear();
        }
        leader.round_wanted = true;
        false
    }
}
