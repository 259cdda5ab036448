//! Recovery of a group that has lost its majority for good: its survivors go on as another group.
//!
//! ```text
//! operator           base B                      other survivors
//!   | recover -------> | stands --- Prepare -------> |   the quorum is *all* survivors, not a majority
//!   |                  | <------------- Promise ---- |   what any of them has accepted is adopted
//!   |                  | leads; open operations come to their end: the other groups are asked
//!   |                  | Recover(child, survivors) -> |   decided once all survivors have it on disk
//!   | <- child ------- | child is born, this group ends, as in a split and a merge
//! ```
//!
//! Unsafe, because what only the lost members had is gone, and because they may not be lost at all: then there are two
//! owners until they hear of it. `docs/protocol/recovery.md` tells what holds nevertheless. Nothing is served while it lasts.
//! It lives with the replica that took the order; what it had decided when that one goes is found by the next attempt.

use super::{OperationId, Pending, Recover};
use crate::codec::Encode;
use crate::durable::Merger;
use crate::effects::{Refused, Reply};
use crate::entry::EntryKind;
use crate::group::{Configuration, Member, Role as MemberRole};
use crate::ops::messages::Standing;
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::{ConfigurationVersion, GroupId, NodeId, RequestId, Slot};
use std::collections::BTreeSet;

/// An order to go on with these members alone, under way.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    request: RequestId,
    /// Who is left, by id.
    survivors: Vec<NodeId>,
    /// The configuration that has lost its majority.
    lost: ConfigurationVersion,
    child: GroupId,
    deadline: Instant,
    /// Why it has not come to an end yet.
    reason: String,
}

impl Recovery {
    /// Who must have promised, and accepted.
    pub(crate) fn quorum(&self, own: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.survivors.iter().copied().filter(move |node| *node == own || !planted::on(Bug::RecoveryAsksNobody))
    }

    /// Whether a member is lost: it votes, and is not among those that are left.
    pub(crate) fn has_lost(&self, member: &Member) -> bool {
        member.role == MemberRole::Voter && !self.survivors.contains(&member.node)
    }

    /// Whether these are the members that the survivors stand for. A set that was on its way to take their place may have a living
    /// majority of its own.
    pub(crate) fn stands_for(&self, configuration: &Configuration) -> bool {
        configuration.version <= self.lost
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }
}

impl Replica {
    /// An operator orders that the group go on with these members alone. `condemned` are the nodes that this one does not listen
    /// to any more.
    pub(crate) fn on_recover(
        &mut self,
        request: RequestId,
        mut survivors: Vec<NodeId>,
        condemned: &BTreeSet<NodeId>,
        cx: &mut Context<'_>,
    ) {
        survivors.sort_unstable();
        survivors.dedup();
        if let Some(why) = self.recovery_refusal(&survivors, condemned, cx) {
            cx.reply(request, Reply::Refused(Refused::Invalid(why)));
            return;
        }
        let lost = self.configuration.as_ref().map(|lost| lost.version).unwrap_or_default();
        self.recovery = Some(Recovery {
            request,
            survivors,
            lost,
            child: GroupId(cx.rng.next()),
            deadline: cx.now.instant.after(cx.config.change_patience),
            reason: "not all survivors have promised to follow this one".to_owned(),
        });
        self.step_down(None, cx);
        self.stand(cx);
    }

    /// Why an order makes no sense, or is not called for, if so.
    fn recovery_refusal(&self, survivors: &[NodeId], condemned: &BTreeSet<NodeId>, cx: &Context<'_>) -> Option<String> {
        let configuration = self.configuration.as_ref();
        let Some(configuration) = configuration.filter(|_| self.report.is_some() && self.votes()) else {
            return Some("the replica here does not vote in the group, as far as it knows".to_owned());
        };
        let heard = |member: &&Member| {
            let known = survivors.contains(&member.node) || condemned.contains(&member.node);
            !known && !planted::on(Bug::RecoversUncondemned)
        };
        if matches!(self.role, Role::Retired(_) | Role::Merged(_)) {
            Some("the replica here has left the group".to_owned())
        } else if self.recovery.is_some() {
            Some("the group is being recovered already".to_owned())
        } else if let Some(stranger) = survivors.iter().find(|node| !votes_in(configuration, **node)) {
            Some(format!("node {stranger} does not vote in the group"))
        } else if !survivors.contains(&self.name.node) {
            Some("the node that is asked is not among the survivors".to_owned())
        } else if survivors.len() >= configuration.majority() {
            Some("the survivors are a majority: the group needs no recovery".to_owned())
        } else if self.leader_lives(None, cx) {
            Some("the group has a leader".to_owned())
        } else {
            // The order may be about members of the past: these may live, and the entry would condemn them.
            let member = configuration.voters().find(heard)?;
            Some(format!("node {} is neither among the survivors nor condemned: condemn the lost first", member.node))
        }
    }

    /// Whether enough voters of a set are among those counted: a majority; in a recovery, all that are left.
    pub(crate) fn is_quorum(&self, configuration: &Configuration, counted: impl Fn(NodeId) -> bool) -> bool {
        match &self.recovery {
            None => crate::paxos::election::majority(configuration, counted),
            Some(recovery) => {
                let all = recovery.quorum(self.name.node).all(|node| votes_in(configuration, node) && counted(node));
                let own = !recovery.stands_for(configuration);
                all || own && crate::paxos::election::majority(configuration, counted)
            }
        }
    }

    /// Takes the next step: once this replica leads and nothing is open any more, the entry that ends the group.
    pub(crate) fn advance_recovery(&mut self) {
        let (Some(recovery), Some(report)) = (&self.recovery, &self.report) else { return };
        let Role::Leader(leader) = &self.role else { return };
        if self.applied < leader.barrier || leader.structural.is_some() || leader.change.is_some() {
            return;
        }
        let recover = Recover {
            child: recovery.child,
            leader: self.name.node,
            survivors: recovery.survivors.clone(),
            range_version: report.state.range_version,
        };
        let reason = match (&report.state.pending, report.state.recover_refusal(&recover)) {
            (Some(pending), _) => Some(open_operation(pending)),
            (None, Some(why)) => Some(why.to_owned()),
            (None, None) => None,
        };
        if let Some(reason) = reason {
            if let Some(recovery) = &mut self.recovery {
                recovery.reason = reason;
            }
        } else if !self.under_way(EntryKind::Recover) {
            let Role::Leader(leader) = &mut self.role else { return };
            leader.propose_own(EntryKind::Recover, recover.to_bytes());
        }
    }

    /// The order has taken too long: what is in its way is told.
    pub(crate) fn tick_recovery(&mut self, cx: &mut Context<'_>) {
        if let Some(recovery) = self.recovery.take_if(|recovery| cx.now.instant >= recovery.deadline) {
            cx.reply(recovery.request, Reply::Refused(Refused::GivenUp(recovery.reason)));
            // It led by the consent of too few.
            self.step_down(None, cx);
        }
    }

    /// A change of members that was under way is decided: perhaps the new ones need no recovery, and who is lost is another
    /// question now.
    pub(crate) fn reconsider_recovery(&mut self, cx: &mut Context<'_>) {
        let changed = |recovery: &mut Recovery| {
            self.configuration.as_ref().is_some_and(|configuration| !recovery.stands_for(configuration))
        };
        if let Some(recovery) = self.recovery.take_if(changed) {
            let why = "a change of members that was under way has been carried out: look who is a member now";
            cx.reply(recovery.request, Reply::Refused(Refused::GivenUp(why.to_owned())));
        }
    }

    /// The group has ended here: by the recovery, or because another group had taken it over.
    pub(crate) fn conclude_recovery(&mut self, merger: Merger, cx: &mut Context<'_>) {
        let Some(recovery) = self.recovery.take() else { return };
        let reply = if is_recovery(merger) {
            Reply::Born { child: merger.into }
        } else {
            Reply::Refused(Refused::GivenUp(format!("the group was merged into {}", merger.into)))
        };
        cx.reply(recovery.request, reply);
    }

    /// What is known of an operation that is neither open nor owed. `current` says that this leader has applied all that was
    /// ever decided.
    ///
    /// A participant that holds the operation has not heard how it ended: either it was recovered without having heard, or the
    /// group that began it was, without its survivors knowing of the beginning. The takeovers of old are remembered; what is
    /// not among them and not too old was aborted, or never will be anything else.
    pub(crate) fn standing_of_unknown(&self, operation: OperationId, current: bool) -> Option<Standing> {
        let state = &self.report.as_ref()?.state;
        if let Some(recovered) = state.recovered.iter().find(|recovered| recovered.group == operation.coordinator) {
            return match recovered.gained.iter().find(|(gained, _)| *gained == operation) {
                Some((_, at)) => Some(Standing::Committed { at: *at }),
                None => (operation.slot > recovered.forgotten_gains).then_some(Standing::Aborted),
            };
        }
        if operation.coordinator != self.name.group {
            return None;
        }
        match state.gained.iter().find(|gain| gain.operation == operation) {
            Some(gain) => Some(Standing::Committed { at: gain.at }),
            None => (current && operation.slot > state.forgotten_gains).then_some(Standing::Aborted),
        }
    }
}

/// Whether a group ended because its survivors go on as another: no takeover is the first entry of a group.
pub(crate) fn is_recovery(merger: Merger) -> bool {
    merger.at == Slot(1)
}

/// The slot of this group from which on its members have what an operation did at a slot of its coordinator: the first one, if
/// that is a group which this one was recovered from.
pub(crate) fn slot_here(own: GroupId, operation: &OperationId, at: Slot) -> Slot {
    if operation.coordinator == own { at } else { Slot(1) }
}

fn votes_in(configuration: &Configuration, node: NodeId) -> bool {
    configuration.voters().any(|member| member.node == node)
}

/// Why an open operation stands in the way, for a person.
fn open_operation(pending: &Pending) -> String {
    match pending {
        Pending::Gains { operation, loser, .. } => {
            format!("operation {operation} is open, and group {} has not answered", loser.group)
        }
        Pending::Loses { operation, gainer, .. } => format!(
            "operation {operation} is open, and group {} has not told how it ended: if it is lost too, recover it first",
            gainer.group
        ),
    }
}
