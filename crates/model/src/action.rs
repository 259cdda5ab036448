//! What may happen next.

use crate::ledger::Ledger;
use crate::mistake::Mistake;
use crate::replicas;
use crate::sets::{Members, NODES, NodeIndex, Positions, node_name};
use crate::state::{Entry, Group, GroupId, Kind, Leader, Presence, State};
use std::fmt;

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The group's leader proposes, these nodes write it to their logs, and so it is decided.
    Decide {
        /// In which group's log.
        group: GroupId,
        /// What.
        entry: Entry,
        /// Who holds it, and all before it, on disk.
        quorum: Members,
    },
    /// A replica's log is filled from the others', and it applies all that it can.
    Advance(GroupId, NodeIndex),
    /// A replica's log is filled from the others'.
    CatchUp(GroupId, NodeIndex),
    /// A replica applies its next slot.
    Apply(GroupId, NodeIndex),
    /// A replica takes another's snapshot.
    Snapshot(GroupId, NodeIndex, NodeIndex),
    /// A node becomes a learner, by another's snapshot.
    Join(GroupId, NodeIndex, NodeIndex),
    /// A node's store makes durable what it has.
    Flush(NodeIndex),
    /// A node's store makes durable what it has, and a log is cut up to that.
    Cut(GroupId, NodeIndex),
    /// A process dies and comes back.
    Crash(NodeIndex),
    /// A replica is elected.
    Elect(GroupId, NodeIndex),
    /// A removed replica is destroyed.
    Forget(GroupId, NodeIndex),
    /// A replica of a group that was merged away is destroyed.
    Bury(GroupId, NodeIndex),
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |node: &NodeIndex| node_name(*node);
        match self {
            Action::Decide { group, entry, quorum } => write!(f, "{group:?} decides {entry} on {quorum:?}"),
            Action::Advance(group, node) => write!(f, "{group:?} on {} catches up and applies", on(node)),
            Action::CatchUp(group, node) => write!(f, "{group:?} on {} catches up", on(node)),
            Action::Apply(group, node) => write!(f, "{group:?} on {} applies a slot", on(node)),
            Action::Snapshot(group, node, from) => {
                write!(f, "{group:?} on {} takes a snapshot of {}", on(node), on(from))
            }
            Action::Join(group, node, from) => write!(f, "{} joins {group:?} by a snapshot of {}", on(node), on(from)),
            Action::Flush(node) => write!(f, "{} flushes its store", on(node)),
            Action::Cut(group, node) => write!(f, "{group:?} on {} cuts its log", on(node)),
            Action::Crash(node) => write!(f, "{} crashes and restarts", on(node)),
            Action::Elect(group, node) => write!(f, "{group:?} elects {}", on(node)),
            Action::Forget(group, node) => write!(f, "{group:?} on {}, removed, forgets", on(node)),
            Action::Bury(group, node) => write!(f, "{} buries its {group:?}", on(node)),
        }
    }
}

/// Which steps are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// All that may happen: faults, orders, writes, messages from long ago.
    Anything,
    /// Only what happens by itself once nothing fails and nobody orders anything: messages that somebody still sends.
    ByItself,
}

/// The steps that single replicas can take by themselves.
pub fn of_replicas(ledger: &Ledger, state: &State, actions: &mut Vec<Action>) {
    let nodes = &state.nodes;
    for node in 0..NODES {
        for group in GroupId::BOTH {
            if !state.replica(group, node).is_live() {
                continue;
            }
            let can_apply = ledger.can_apply(nodes, group, node);
            let can_catch_up = ledger.catch_up_to(nodes, group, node) > state.replica(group, node).has;
            if ledger.rules.singly {
                actions.extend(can_apply.then_some(Action::Apply(group, node)));
                actions.extend(can_catch_up.then_some(Action::CatchUp(group, node)));
            } else if can_apply || can_catch_up {
                actions.push(Action::Advance(group, node));
            }
            if ledger.can_bury(nodes, group, node) {
                actions.push(Action::Bury(group, node));
            } else if ledger.can_forget(nodes, group, node) {
                actions.push(Action::Forget(group, node));
            }
            let sources = (0..NODES).filter(|from| ledger.can_take_snapshot(nodes, group, node, *from));
            actions.extend(sources.map(|from| Action::Snapshot(group, node, from)));
        }
        let awaited = GroupId::BOTH.into_iter().any(|group| ledger.flush_is_awaited(nodes, group, node));
        if awaited || (ledger.rules.singly && replicas::is_unflushed(nodes, node)) {
            actions.push(Action::Flush(node));
        }
    }
}

/// Elections: of somebody where nobody leads, and while the budget lasts of somebody else.
pub fn elections(ledger: &Ledger, state: &State, pace: Pace, actions: &mut Vec<Action>) {
    for group in GroupId::BOTH {
        let members = ledger.decided(group).members;
        let leader = state.group(group).leader;
        if leader.is_some() && (pace == Pace::ByItself || state.budget.elections == 0) {
            continue;
        }
        // Who was merged away has nothing left to decide.
        if ledger.ended(group).is_some() {
            continue;
        }
        let votes = |node: &NodeIndex| state.replica(group, *node).is_live();
        let voters = members.iter().filter(votes).fold(Members::NONE, Members::with);
        if !members.majority_in(voters) {
            continue;
        }
        for node in voters.iter() {
            let has_all = state.replica(group, node).has == ledger.len(group);
            if has_all && leader.is_none_or(|leader| usize::from(leader.node) != node) {
                actions.push(Action::Elect(group, node));
            }
        }
    }
}

/// What goes wrong, and what the rest of the node does when it likes.
pub fn faults(ledger: &Ledger, state: &State, nodes: usize, actions: &mut Vec<Action>) {
    for node in 0..nodes {
        let leads = |group: &GroupId| {
            let group = state.group(*group);
            group.stale.contains(node) || group.leader.is_some_and(|leader| usize::from(leader.node) == node)
        };
        let matters = replicas::is_unflushed(&state.nodes, node) || GroupId::BOTH.iter().any(leads);
        if state.budget.crashes > 0 && matters {
            actions.push(Action::Crash(node));
        }
        for group in GroupId::BOTH {
            let own = state.replica(group, node);
            let longer = own.is_live() && own.store.applied > own.start;
            if state.budget.cuts > 0 && longer && !ledger.has_ended(&state.nodes, group, node) {
                actions.push(Action::Cut(group, node));
            }
            if state.budget.changes[group.index()] > 0 && own.presence == Presence::Absent {
                joins(ledger, state, group, node, actions);
            }
        }
    }
}

fn joins(ledger: &Ledger, state: &State, group: GroupId, node: NodeIndex, actions: &mut Vec<Action>) {
    if ledger.ended(group).is_some() {
        return;
    }
    for from in state.live(group).filter(|from| ledger.decided(group).members.contains(*from)) {
        actions.push(Action::Join(group, node, from));
    }
}

impl State {
    /// The state after a step that may be taken.
    pub fn after(&self, ledger: &Ledger, action: Action) -> State {
        let mut next = *self;
        match action {
            Action::Decide { group, entry, quorum } => next.decide(ledger, group, entry, quorum),
            Action::Advance(group, node) => ledger.advance(&mut next.nodes, group, node),
            Action::CatchUp(group, node) => ledger.catch_up(&mut next.nodes, group, node),
            Action::Apply(group, node) => ledger.apply_next(&mut next.nodes, group, node),
            Action::Snapshot(group, node, from) => ledger.take_snapshot(&mut next.nodes, group, node, from),
            Action::Join(group, node, from) => ledger.take_snapshot(&mut next.nodes, group, node, from),
            Action::Flush(node) => replicas::flush(&mut next.nodes, node),
            Action::Cut(group, node) => {
                replicas::flush(&mut next.nodes, node);
                let own = next.replica_mut(group, node);
                own.start = own.flushed.applied;
                next.budget.cuts -= 1;
            }
            Action::Crash(node) => {
                replicas::lose_unflushed(&mut next.nodes, node);
                next.budget.crashes -= 1;
                GroupId::BOTH.into_iter().for_each(|group| next.stop_leading(group, node));
            }
            Action::Elect(group, node) => next.elect(ledger, group, node),
            Action::Forget(group, node) | Action::Bury(group, node) => {
                ledger.destroy(&mut next.nodes, group, node);
                next.stop_leading(group, node);
            }
        }
        if let Action::Decide { .. } = action {
            next.settle(&Ledger::of(&next.groups, ledger.rules));
        } else {
            next.settle(ledger);
        }
        next
    }

    fn decide(&mut self, ledger: &Ledger, group: GroupId, entry: Entry, quorum: Members) {
        let index = group.index();
        match entry {
            Entry::Write(write) => {
                let place = usize::from(write.position() == Positions::LAST);
                self.budget.writes[place] -= 1;
            }
            Entry::Begin(begin) => match begin.kind {
                Kind::Merge => self.budget.merges[index] -= 1,
                Kind::Shift => self.budget.shifts[index] -= 1,
            },
            Entry::Resolve { .. } if self.groups[index].log.from(0).contains(&entry) => {
                self.budget.repeats = self.budget.repeats.saturating_sub(1);
            }
            Entry::Configuration(members) => {
                self.budget.changes[index] -= 1;
                // A leader that is not among the new members hands over.
                for node in (0..NODES).filter(|node| !members.contains(*node)) {
                    if self.groups[index].leader.is_some_and(|leader| usize::from(leader.node) == node) {
                        self.groups[index].leader = None;
                    }
                }
            }
            _ => {}
        }
        self.groups[index].log.push(entry);
        for node in quorum.iter() {
            self.replica_mut(group, node).has = ledger.len(group) + 1;
        }
    }

    fn elect(&mut self, ledger: &Ledger, group: GroupId, node: NodeIndex) {
        let barrier = ledger.len(group);
        let former = self.group(group).leader;
        if let Some(former) = former {
            self.budget.elections -= 1;
            if self.replica(group, usize::from(former.node)).store.applied >= former.barrier {
                let stale = self.group(group).stale.with(usize::from(former.node));
                self.group_mut(group).stale = stale;
            }
        }
        let stale = self.group(group).stale.without(node);
        let own = self.group_mut(group);
        own.stale = stale;
        own.leader = Some(Leader { node: u8::try_from(node).unwrap_or(u8::MAX), barrier });
    }

    fn stop_leading(&mut self, group: GroupId, node: NodeIndex) {
        let own = self.group_mut(group);
        own.stale = own.stale.without(node);
        if own.leader.is_some_and(|leader| usize::from(leader.node) == node) {
            own.leader = None;
        }
    }

    /// Two states that differ only in what nothing will ever look at become one.
    fn settle(&mut self, ledger: &Ledger) {
        let orders = self.budget.merges.iter().chain(&self.budget.shifts).any(|left| *left > 0);
        let may_lag = ledger.makes(Mistake::LaggingLeaderAborts) || ledger.rules.singly;
        for group in GroupId::BOTH {
            if !orders && !may_lag {
                self.group_mut(group).stale = Members::NONE;
            }
            let Group { leader, stale, .. } = *self.group(group);
            for node in 0..NODES {
                let leads = leader.is_some_and(|leader| usize::from(leader.node) == node);
                if !leads && !stale.contains(node) && !may_lag {
                    ledger.pass_inert(&mut self.nodes, group, node);
                }
            }
            if let Some(leader) = leader {
                let reached = self.replica(group, usize::from(leader.node)).store.applied >= leader.barrier;
                let barrier = if reached { 0 } else { leader.barrier };
                self.group_mut(group).leader = Some(Leader { barrier, ..leader });
            }
        }
    }
}
