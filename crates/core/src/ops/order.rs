//! Orders of operators and policies: a split of this group, or a takeover from a neighbour.
//!
//! ```text
//! TakeOver:  Inspect the neighbour --> members or leader differ? Align it, inspect again --> Begin
//!              --> committed: done.  aborted, or busy: again after a random pause that grows
//! ```
//!
//! An order lives with the leader that took it. If that leader goes, the order is given up; what was begun is brought to its
//! end by whoever leads next.

use super::messages::GroupMessage;
use super::{Begin, Obligation, OperationId, Pending, Split, Takeover};
use crate::codec::Encode;
use crate::codec_enum;
use crate::effects::{Refused, Reply};
use crate::entry::EntryKind;
use crate::group::{GroupState, Link, Role as MemberRole};
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::ring::{KeyRange, Position};
use crate::time::Instant;
use crate::types::{GroupId, NodeId, OperationCounter, RequestId, Slot};
use std::time::Duration;

/// One of the two neighbours of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Whose range ends where the group's starts.
    Predecessor,
    /// Whose range starts where the group's ends.
    Successor,
}

codec_enum!(Side { 1 => Predecessor, 2 => Successor });

/// What a group is ordered to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Give the part from a position on to a new group.
    Split {
        /// The first position of the new group.
        at: Position,
    },
    /// Take over positions of a neighbour.
    TakeOver {
        /// Which neighbour.
        from: Side,
        /// The new boundary between the two; `None` for all the neighbour has.
        boundary: Option<Position>,
    },
}

/// What the neighbour said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    link: Link,
    operations: OperationCounter,
    leader: NodeId,
    busy: bool,
}

/// How far an order is.
#[derive(Clone, Debug)]
enum Stage {
    /// A split is proposed; nothing of the kind is done before this slot is applied.
    Splitting(GroupId),
    /// The neighbour is asked what it is, and brought into line.
    Preparing,
    /// A Begin entry is proposed.
    Beginning,
    /// The operation runs.
    Running(OperationId),
}

/// An order under way.
#[derive(Clone, Debug)]
pub(crate) struct UnderWay {
    request: RequestId,
    order: Order,
    stage: Stage,
    deadline: Instant,
    /// Nothing is done before this: the neighbour was busy.
    pause_until: Instant,
    pauses: u32,
    inspected: Option<Inspected>,
    /// Why it has not come to an end yet.
    reason: String,
}

impl UnderWay {
    /// What the operator hears if this leader goes. What was begun is brought to its end by the next one, so an order that
    /// went further than questions may still be carried out: to repeat it could take over from the wrong neighbour.
    pub(crate) fn left_by_leader(self) -> (RequestId, Reply) {
        let reply = match self.stage {
            Stage::Preparing => Reply::Refused(Refused::GivenUp("the leader changed meanwhile".to_owned())),
            Stage::Splitting(_) | Stage::Beginning | Stage::Running(_) => Reply::Lost,
        };
        (self.request, reply)
    }

    /// Whether this order of `own` does not stand in the way of one that `other` has. Of two groups that are both about to take
    /// over from each other the one with the lower id goes first: if each held the other for busy, neither ever would.
    pub(crate) fn yields(&self, own: GroupId, other: GroupId) -> bool {
        matches!(self.stage, Stage::Preparing) && other < own
    }
}

impl Replica {
    /// An operator's or a policy's order.
    pub(crate) fn on_order(&mut self, request: RequestId, order: Order, cx: &mut Context<'_>) {
        let refused = match (&self.role, &self.report) {
            (Role::Leader(leader), Some(_)) if self.applied < leader.barrier => {
                Some(Refused::GivenUp("the leader has just been elected".to_owned()))
            }
            (Role::Leader(leader), Some(report)) => {
                let busy = leader.change.is_some() || leader.operations.order.is_some() || leader.structural.is_some();
                self.order_refusal(&report.state, &order, busy || leader.hand_over.is_some() || self.recovery.is_some())
            }
            _ => Some(self.refused_not_leader()),
        };
        if let Some(refused) = refused {
            cx.reply(request, Reply::Refused(refused));
            return;
        }
        let (now, node) = (cx.now.instant, self.name.node);
        let child = GroupId(cx.rng.next());
        let Some(report) = &self.report else { return };
        let range_version = report.state.range_version;
        let Role::Leader(leader) = &mut self.role else { return };
        let stage = match &order {
            Order::Split { at } => {
                let split = Split { at: at.clone(), child, leader: node, range_version };
                leader.propose_own(EntryKind::Split, split.to_bytes());
                Stage::Splitting(child)
            }
            Order::TakeOver { .. } => Stage::Preparing,
        };
        leader.operations.nudged = true;
        leader.operations.order = Some(UnderWay {
            request,
            order,
            stage,
            deadline: now.after(cx.config.order_patience),
            pause_until: now,
            pauses: 0,
            inspected: None,
            reason: "the neighbour does not answer".to_owned(),
        });
    }

    /// Why an order makes no sense, if so.
    fn order_refusal(&self, state: &GroupState, order: &Order, busy: bool) -> Option<Refused> {
        if busy || state.pending.is_some() && !planted::on(Bug::TwoPendingOperations) {
            return Some(Refused::Invalid("the group is busy with another operation".to_owned()));
        }
        let why = match order {
            Order::Split { at } => {
                let (child, leader) = (GroupId(0), self.name.node);
                state.split_refusal(&Split { at: at.clone(), child, leader, range_version: state.range_version })
            }
            Order::TakeOver { .. } if state.range.is_whole() => Some("the group has no neighbour"),
            Order::TakeOver { boundary: Some(at), .. } if state.range.contains(at) => {
                Some("the boundary lies inside the group's own range: order it of the neighbour that is to gain")
            }
            Order::TakeOver { .. } => {
                let learners = state.configuration.members.iter().any(|member| member.role == MemberRole::Learner);
                learners.then_some("the group has learners")
            }
        };
        why.map(|why| Refused::Invalid(why.to_owned()))
    }

    /// Gives up a takeover that is being prepared: nothing has begun, and something more urgent is to be done.
    pub(crate) fn give_way(&mut self, why: &str, cx: &mut Context<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.operations.order.as_ref().is_some_and(|order| matches!(order.stage, Stage::Preparing)) {
            self.end_order(Reply::Refused(Refused::GivenUp(why.to_owned())), cx);
        }
    }

    /// Ends the order under way.
    fn end_order(&mut self, reply: Reply, cx: &mut Context<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(order) = leader.operations.order.take() {
            cx.reply(order.request, reply);
        }
    }

    /// Takes the next step of the order under way. `due` says that unanswered messages are to be repeated.
    pub(crate) fn advance_order(&mut self, state: &GroupState, due: bool, cx: &mut Context<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(order) = leader.operations.order.clone() else { return };
        match order.stage {
            Stage::Splitting(child) => {
                if self.under_way(EntryKind::Split) {
                    return;
                }
                let born = state.links.successor.group == child;
                let why = || Reply::Refused(Refused::GivenUp("the group has changed meanwhile".to_owned()));
                self.end_order(if born { Reply::Born { child } } else { why() }, cx);
            }
            Stage::Beginning => {
                if self.under_way(EntryKind::Begin) {
                    return;
                }
                match &state.pending {
                    Some(Pending::Gains { operation, .. }) => self.set_order_stage(Stage::Running(*operation)),
                    Some(Pending::Loses { .. }) | None => self.pause_order("the group has changed meanwhile", cx),
                }
            }
            Stage::Running(operation) => self.conclude_order(state, operation, cx),
            Stage::Preparing if cx.now.instant >= order.deadline => {
                self.end_order(Reply::Refused(Refused::GivenUp(order.reason)), cx);
            }
            Stage::Preparing if cx.now.instant < order.pause_until => {}
            Stage::Preparing if state.pending.is_some() && !planted::on(Bug::TwoPendingOperations) => {}
            Stage::Preparing => self.prepare_takeover(state, &order, due, cx),
        }
    }

    fn set_order_stage(&mut self, stage: Stage) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(order) = &mut leader.operations.order {
            order.stage = stage;
        }
    }

    /// The operation has ended, or has not.
    fn conclude_order(&mut self, state: &GroupState, operation: OperationId, cx: &mut Context<'_>) {
        if state.pending.as_ref().is_some_and(|pending| pending.operation() == operation) {
            return;
        }
        let aborted = state.outbox.iter().any(
            |obligation| matches!(obligation, Obligation::Tell { operation: of, committed: None, .. } if *of == operation),
        );
        if aborted {
            let Role::Leader(leader) = &self.role else { return };
            let reason =
                leader.operations.no_reason.clone().unwrap_or_else(|| "the neighbour did not vote in time".to_owned());
            self.pause_order(&reason, cx);
        } else {
            self.end_order(Reply::Done, cx);
        }
    }

    /// Tries again after a random pause, longer each time, so that two that stand in each other's way part.
    fn pause_order(&mut self, reason: &str, cx: &mut Context<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(order) = &mut leader.operations.order else { return };
        let most = cx.config.group_resend * (2 << order.pauses.min(5));
        order.pauses += 1;
        order.stage = Stage::Preparing;
        order.inspected = None;
        reason.clone_into(&mut order.reason);
        order.pause_until = cx.now.instant.after(cx.rng.span(Duration::ZERO, most));
    }

    /// What the neighbour said of itself.
    pub(crate) fn on_inspected(&mut self, link: Link, operations: OperationCounter, leader: NodeId, busy: bool) {
        let Role::Leader(own) = &mut self.role else { return };
        if let Some(order) = &mut own.operations.order {
            order.inspected = Some(Inspected { link, operations, leader, busy });
            own.operations.nudged = true;
        }
    }

    /// Asks the neighbour what it is, brings it into line, and begins.
    fn prepare_takeover(&mut self, state: &GroupState, order: &UnderWay, due: bool, cx: &mut Context<'_>) {
        let Order::TakeOver { from, boundary } = &order.order else { return };
        let neighbour = match from {
            Side::Predecessor => &state.links.predecessor,
            Side::Successor => &state.links.successor,
        };
        let heard = order.inspected.as_ref().filter(|inspected| inspected.link.group == neighbour.group);
        let Some(inspected) = heard else {
            if due {
                self.tell_group(neighbour, &GroupMessage::Inspect, cx);
            }
            return;
        };
        // One that has not heard yet how the last operation ended does not lie next to this group until it has.
        if inspected.busy {
            return self.pause_order("the neighbour is busy with another operation", cx);
        }
        let begin = match begin_of(state, *from, boundary.as_ref(), inspected) {
            Ok(begin) => begin,
            Err(why) => return self.end_order(Reply::Refused(Refused::Invalid(why.to_owned())), cx),
        };
        let aligned = super::transitions::same_voters(&state.configuration.members, &inspected.link.members);
        let together = inspected.leader == self.name.node;
        if (!aligned || !together) && !planted::on(Bug::UnalignedTakeover) {
            // It is asked again and again; what it says next tells whether it has followed.
            let members = state.configuration.members.iter().map(|member| (member.node, member.address.clone()));
            let align = GroupMessage::Align { members: members.collect(), leader: self.name.node };
            let link = inspected.link.clone();
            self.forget_inspected("the neighbour's members or leader are not those of this group yet");
            self.tell_group(&link, &align, cx);
            return;
        }
        if !self.lock_under_way() {
            let Role::Leader(leader) = &mut self.role else { return };
            leader.propose_own(EntryKind::Begin, begin.to_bytes());
            self.set_order_stage(Stage::Beginning);
        }
    }

    fn forget_inspected(&mut self, reason: &str) {
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(order) = &mut leader.operations.order {
            order.inspected = None;
            reason.clone_into(&mut order.reason);
        }
    }
}

/// The Begin entry of a takeover, or why there can be none.
fn begin_of(
    state: &GroupState,
    from: Side,
    boundary: Option<&Position>,
    inspected: &Inspected,
) -> Result<Begin, &'static str> {
    let range = &inspected.link.range;
    let adjacent = match from {
        Side::Predecessor => range.end == state.range.start,
        Side::Successor => range.start == state.range.end,
    };
    if !adjacent {
        return Err("the other group is no neighbour any more");
    }
    let moving = match (boundary, from) {
        (None, _) => range.clone(),
        (Some(at), _) if !range.contains(at) || *at == range.start => {
            return Err("the boundary lies outside the neighbour's range or on its end");
        }
        (Some(at), Side::Successor) => KeyRange { start: range.start.clone(), end: at.clone() },
        (Some(at), Side::Predecessor) => KeyRange { start: at.clone(), end: range.end.clone() },
    };
    let takeover = Takeover {
        loser: inspected.link.group,
        moving,
        merge: boundary.is_none(),
        range_version: inspected.link.range_version,
        configuration_version: inspected.link.configuration_version,
        operations: inspected.operations,
    };
    Ok(Begin {
        range_version: state.range_version,
        configuration_version: state.configuration.version,
        takeover,
        loser: inspected.link.clone(),
    })
}

/// Whether everything up to `slot` was applied by a leader and all its members.
pub(crate) fn all_applied(leader: &crate::paxos::leader::Leader, own: Slot, slot: Slot) -> bool {
    own >= slot && leader.peers.values().all(|peer| peer.applied >= slot)
}
