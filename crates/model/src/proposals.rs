//! What a leader proposes, and who must hold it.

use crate::action::{Action, Pace};
use crate::ledger::{Ledger, Lock, Machine, Sent};
use crate::mistake::Mistake;
use crate::sets::{Data, Members, NODES, NodeIndex, Positions};
use crate::state::{Begin, Entry, GroupId, Kind, Operation, Outcome, Seen, Slot, State};

/// A leader that acts: it has applied what was decided when it was elected.
struct Acting<'a> {
    ledger: &'a Ledger,
    state: &'a State,
    group: GroupId,
    node: NodeIndex,
    applied: Slot,
    machine: &'a Machine,
}

/// The proposals that may be decided next.
pub fn proposals(ledger: &Ledger, state: &State, pace: Pace, actions: &mut Vec<Action>) {
    for group in GroupId::BOTH {
        // Who was merged away is locked for good: it votes no, and nothing it still heard would change anything.
        if ledger.ended(group).is_some() {
            continue;
        }
        let Some(leader) = acting(ledger, state, group) else { continue };
        let mut entries = Vec::new();
        leader.decisions(&mut entries);
        leader.votes(pace, &mut entries);
        leader.outcomes(pace, &mut entries);
        leader.closes(&mut entries);
        if pace == Pace::Anything {
            leader.begins(&mut entries);
            leader.writes(&mut entries);
            leader.changes(&mut entries);
        }
        for entry in entries {
            // What it has proposed and not applied yet it does not propose again.
            if state.group(group).log.from(leader.applied).contains(&entry) {
                continue;
            }
            actions.extend(leader.quorums(entry).map(|quorum| Action::Decide { group, entry, quorum }));
        }
    }
}

fn acting<'a>(ledger: &'a Ledger, state: &'a State, group: GroupId) -> Option<Acting<'a>> {
    let leader = state.group(group).leader?;
    let node = usize::from(leader.node);
    let own = state.replica(group, node);
    let acts = own.is_live() && own.store.applied >= leader.barrier;
    let applied = own.store.applied;
    acts.then(|| Acting { ledger, state, group, node, applied, machine: ledger.machine(group, applied) })
}

impl Acting<'_> {
    /// Commit, once the vote is there and the loser's replica beside this leader has applied the seal. Abort at any time.
    fn decisions(&self, entries: &mut Vec<Entry>) {
        let unseen = self.ledger.makes(Mistake::CommitWithoutTail) || self.ledger.makes(Mistake::CommitUnseen);
        let overrides = self.ledger.makes(Mistake::AbortAfterCommit);
        if let Some(Lock::Coordinates(begin)) = self.machine.lock {
            let vote = self.ledger.vote(Operation { coordinator: self.group, begin });
            let beside = self.state.replica(self.group.other(), self.node);
            if let Some(seal) = vote
                && beside.is_live()
                && (beside.store.applied > seal || unseen)
            {
                entries.push(Entry::Decide { begin, outcome: Outcome::Commit, seal });
            }
            entries.push(Entry::Decide { begin, outcome: Outcome::Abort, seal: 0 });
        } else if overrides {
            let commits = self.machine.outbox().filter(|sent| sent.outcome == Outcome::Commit);
            entries.extend(commits.map(|sent| Entry::Decide { begin: sent.begin, outcome: Outcome::Abort, seal: 0 }));
        }
    }

    /// A prepare, of any operation that the other group ever began: it may have been under way for long.
    fn votes(&self, pace: Pace, entries: &mut Vec<Entry>) {
        for operation in self.ledger.began(self.group.other()) {
            let is_sent = pace == Pace::Anything || self.neighbour_holds(Lock::Coordinates(operation.begin));
            if is_sent && self.ledger.votes_yes(self.machine, &self.ledger.begin(operation)) {
                entries.push(Entry::Prepare(operation));
            }
        }
    }

    /// The leader of the other group that acts, as far as it has applied.
    fn neighbour(&self) -> Option<&Machine> {
        acting(self.ledger, self.state, self.group.other()).map(|leader| {
            let Acting { group, applied, .. } = leader;
            self.ledger.machine(group, applied)
        })
    }

    fn neighbour_holds(&self, lock: Lock) -> bool {
        self.neighbour().is_some_and(|machine| machine.lock == Some(lock))
    }

    /// The outcome of an operation that this group takes part in, or has never heard of.
    fn outcomes(&self, pace: Pace, entries: &mut Vec<Entry>) {
        for operation in self.ledger.began(self.group.other()) {
            let holds = matches!(self.machine.lock, Some(Lock::Participates(held, _)) if held == operation);
            if holds && self.is_told_of_an_abort(operation) {
                entries.push(Entry::Resolve { operation, outcome: Outcome::Abort });
            }
            let Some(outcome) = self.ledger.outcome(operation) else { continue };
            let merged = outcome == Outcome::Commit && self.ledger.begin(operation).kind == Kind::Merge;
            let is_sent = pace == Pace::Anything
                || self.neighbour().is_some_and(|machine| machine.sent(operation.begin).is_some());
            if merged || !is_sent || (outcome == Outcome::Commit && self.waits_for_members(pace, operation)) {
                continue;
            }
            let heard = self.state.group(self.group).log.from(0);
            let is_news = !heard.contains(&Entry::Resolve { operation, outcome });
            if holds || is_news || (pace == Pace::Anything && self.state.budget.repeats > 0) {
                entries.push(Entry::Resolve { operation, outcome });
            }
        }
    }

    /// Whether the coordinator keeps the commit to itself, for one of its members has not assembled. What was said before members
    /// changed may still be under way.
    fn waits_for_members(&self, pace: Pace, operation: Operation) -> bool {
        let coordinator = operation.coordinator;
        let all_told = |members: Members| members.iter().all(|node| self.state.nodes[node].told);
        let then = self.ledger.commits(coordinator).find(|commit| commit.operation == operation);
        let then =
            then.filter(|_| pace == Pace::Anything).map(|commit| self.ledger.machine(coordinator, commit.decided));
        let now = self.ledger.decided(coordinator);
        self.ledger.rules.waits && !all_told(now.members) && !then.is_some_and(|then| all_told(then.members))
    }

    /// Planted: whoever leads the coordinator, or believes it does, says *aborted* of what it has no record of.
    fn is_told_of_an_abort(&self, operation: Operation) -> bool {
        if !self.ledger.makes(Mistake::LaggingLeaderAborts) {
            return false;
        }
        let other = self.state.group(operation.coordinator);
        let leads = |node: &NodeIndex| {
            other.stale.contains(*node) || other.leader.is_some_and(|leader| usize::from(leader.node) == *node)
        };
        (0..NODES).filter(leads).any(|node| {
            let applied = self.state.replica(operation.coordinator, node).store.applied;
            let machine = self.ledger.machine(operation.coordinator, applied);
            machine.lock != Some(Lock::Coordinates(operation.begin)) && machine.sent(operation.begin).is_none()
        })
    }

    /// Decisions that nobody needs any more.
    fn closes(&self, entries: &mut Vec<Entry>) {
        for Sent { begin, outcome, .. } in self.machine.outbox() {
            let operation = Operation { coordinator: self.group, begin };
            let merged = outcome == Outcome::Commit && self.ledger.begin(operation).kind == Kind::Merge;
            let acknowledged = if merged {
                self.machine.members.iter().all(|node| self.state.nodes[node].told)
            } else {
                let heard = self.state.group(self.group.other()).log.from(0);
                heard.contains(&Entry::Resolve { operation, outcome })
                    || self.is_acknowledged_unread(operation, outcome)
            };
            if acknowledged {
                entries.push(Entry::Close { begin });
            }
        }
    }

    /// Planted: the loser acknowledges what it does not know, and logs nothing.
    fn is_acknowledged_unread(&self, operation: Operation, outcome: Outcome) -> bool {
        let unknown =
            |machine: &Machine| !matches!(machine.lock, Some(Lock::Participates(held, _)) if held == operation);
        self.ledger.makes(Mistake::AbortNotCounted)
            && outcome == Outcome::Abort
            && self.neighbour().is_some_and(unknown)
    }

    /// An order to gain what the neighbour has. What the neighbour is, one of its leaders said, perhaps one that lags.
    fn begins(&self, entries: &mut Vec<Entry>) {
        let own = Seen { version: self.machine.version, configuration: self.machine.configuration };
        let under_way =
            self.state.group(self.group).log.from(self.applied).iter().any(|e| matches!(e, Entry::Begin(_)));
        if self.machine.lock.is_some() || under_way {
            return;
        }
        for theirs in self.inspected() {
            if theirs.members != self.machine.members || theirs.lock.is_some() || self.machine.range.meets(theirs.range)
            {
                continue;
            }
            let seen = Seen { version: theirs.version, configuration: theirs.configuration };
            let begin = |kind, moves| Entry::Begin(Begin { kind, moves, own, theirs: seen, count: theirs.count });
            let budget = &self.state.budget;
            if budget.merges[self.group.index()] > 0 && theirs.outbox().next().is_none() {
                entries.push(begin(Kind::Merge, theirs.range));
            }
            let cuttable = theirs.range.covers(Positions::BOUNDARY) && theirs.range != Positions::BOUNDARY;
            if budget.shifts[self.group.index()] > 0 && cuttable {
                entries.push(begin(Kind::Shift, Positions::BOUNDARY));
            }
        }
        entries.dedup();
    }

    /// What those who lead the other group, or believe they do, take it to be.
    fn inspected(&self) -> impl Iterator<Item = &Machine> {
        let other = self.group.other();
        let leader = acting(self.ledger, self.state, other).map(|leader| leader.node);
        let stale = self.state.group(other).stale.iter();
        leader.into_iter().chain(stale).map(move |node| {
            let applied = self.state.replica(other, node).store.applied;
            self.ledger.machine(other, applied)
        })
    }

    fn writes(&self, entries: &mut Vec<Entry>) {
        for (place, position) in [Positions::BOUNDARY, Positions::LAST].into_iter().enumerate() {
            if self.state.budget.writes[place] == 0 || !self.machine.answers(position) {
                continue;
            }
            let number = GroupId::BOTH.iter().flat_map(|group| self.state.group(*group).log.from(0));
            let number = number.filter(|entry| matches!(entry, Entry::Write(w) if w.position() == position)).count();
            let write = u8::try_from(number).ok().and_then(|number| Data::write(position, number));
            entries.extend(write.map(Entry::Write));
        }
    }

    /// A change of members: somebody who has joined comes in for somebody else.
    fn changes(&self, entries: &mut Vec<Entry>) {
        let locked = self.machine.lock.is_some() && !self.ledger.makes(Mistake::ChangeWhileLocked);
        let behind = self.applied < self.ledger.len(self.group) && !self.ledger.makes(Mistake::ChangeBeforeApplied);
        if self.state.budget.changes[self.group.index()] == 0 || locked || behind {
            return;
        }
        let members = self.machine.members;
        let joined = |node: &NodeIndex| {
            !members.contains(*node)
                && !self.ledger.was_removed(self.group, *node)
                && self.state.replica(self.group, *node).is_live()
        };
        // Groups that differ are aligning for an operation, and policies respect that.
        let neighbours = self.ledger.decided(self.group.other()).members;
        let wanted = |next: &Members| members == neighbours || *next == neighbours;
        for newcomer in (0..NODES).filter(joined) {
            let grown = members.with(newcomer);
            let nexts = members.iter().map(|out| grown.without(out)).chain([grown]);
            entries.extend(nexts.filter(|next| wanted(next) && next.count() <= 3).map(Entry::Configuration));
        }
    }

    /// Every least set of nodes by which the entry is decided. They take all that is before it from the leader.
    fn quorums(&self, entry: Entry) -> impl Iterator<Item = Members> {
        let members = self.ledger.decided(self.group).members;
        let next = match entry {
            Entry::Configuration(next) => next,
            _ => members,
        };
        let voters = (0..NODES).filter(|node| self.can_vote(*node, entry)).fold(Members::NONE, Members::with);
        let leader = self.node;
        let enough = move |set: Members| members.majority_in(set) && next.majority_in(set);
        (0..1 << NODES).map(Members).filter(move |set| {
            set.contains(leader)
                && set.within(voters)
                && enough(*set)
                && set.iter().all(|node| node == leader || !enough(set.without(node)))
        })
    }

    fn can_vote(&self, node: NodeIndex, entry: Entry) -> bool {
        let (own, leader) = (self.state.replica(self.group, node), self.state.replica(self.group, self.node));
        let counts = !matches!(entry, Entry::Configuration(_))
            || self.ledger.makes(Mistake::UnassembledCounts)
            || self.ledger.has_assembled(&self.state.nodes, self.group, node);
        own.is_live()
            && own.has >= leader.start
            && counts
            && !self.ledger.has_ended(&self.state.nodes, self.group, node)
    }
}
