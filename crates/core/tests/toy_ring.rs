//! Groups as bare states, and the operations between them, in any order: entries are applied on either side as leaders would
//! have them applied, messages come late, again or never, and what anybody knows of another may be long outdated.
//!
//! Nothing here is replicated. What must hold is what the entries themselves see to.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use scatter_core::group::{Configuration, GroupState, Link, Member, Role};
use scatter_core::ops::transitions::Reshaped;
use scatter_core::ops::{Begin, Decide, OperationId, Pending, Prepare, Resolve, Split, Surrender, Takeover};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::time::LogTime;
use scatter_core::types::{
    ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, OperationCounter, RangeVersion, Slot, Version,
};
use std::collections::BTreeMap;

/// Boundaries are at even numbers, and probes at all of them.
const POSITIONS: u8 = 24;

fn position(index: u8) -> Position {
    if index == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[index])) }
}

/// For most numbers a boundary inside an arc, if it has one; for the others any.
fn inside(range: &KeyRange, number: u8) -> Position {
    let boundaries = (0..POSITIONS).step_by(2).map(position);
    let within: Vec<Position> = boundaries.filter(|at| range.contains(at) && *at != range.start).collect();
    match within.len() {
        count if count > 0 && number < 18 => within[usize::from(number) % count].clone(),
        _ => position(number),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Split {
        group: usize,
        at: u8,
    },
    /// Begins a takeover; of the neighbour it uses what was inspected so many inspections ago.
    Begin {
        group: usize,
        successor: bool,
        boundary: Option<u8>,
        age: usize,
    },
    /// A Prepare that was ever sent arrives.
    Prepare {
        operation: usize,
    },
    /// A coordinator decides: commits, if it has heard a yes and wants to.
    Decide {
        operation: usize,
        commit: bool,
    },
    /// An outcome that was ever sent arrives.
    Resolve {
        operation: usize,
    },
    /// What is acknowledged is forgotten.
    Settle {
        operation: usize,
    },
    /// Nothing stands in the way of an operation.
    Finish {
        operation: usize,
    },
    /// A group tells its neighbours what it is; its word is lost on the way to one side, or to none.
    Tell {
        group: usize,
        lost: Option<bool>,
    },
    /// Members change, if nothing forbids it.
    Configure {
        group: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let group = || 0usize..8;
    let operation = || prop_oneof![5 => 0usize..3, 1 => 0usize..40];
    prop_oneof![
        3 => (group(), 0..POSITIONS / 2).prop_map(|(group, at)| Step::Split { group, at: at * 2 }),
        6 => (group(), any::<bool>(), proptest::option::of(0..POSITIONS / 2), prop_oneof![4 => Just(0usize), 1 => 0usize..6])
            .prop_map(|(group, successor, boundary, age)| {
                Step::Begin { group, successor, boundary: boundary.map(|at| at * 2), age }
            }),
        8 => operation().prop_map(|operation| Step::Prepare { operation }),
        5 => (operation(), proptest::bool::weighted(0.9))
            .prop_map(|(operation, commit)| Step::Decide { operation, commit }),
        5 => operation().prop_map(|operation| Step::Resolve { operation }),
        4 => operation().prop_map(|operation| Step::Settle { operation }),
        4 => operation().prop_map(|operation| Step::Finish { operation }),
        8 => (group(), proptest::option::weighted(0.2, any::<bool>())).prop_map(|(group, lost)| Step::Tell { group, lost }),
        1 => group().prop_map(|group| Step::Configure { group }),
    ]
}

/// A coordinator's operation, with all that was ever said of it.
#[derive(Clone, Debug)]
struct Operation {
    id: OperationId,
    prepare: Prepare,
    vote: Option<Option<Surrender>>,
    /// The outcome, once decided, and whether the loser has acknowledged it.
    outcome: Option<Option<Slot>>,
    acknowledged: bool,
    /// As both sides were before.
    before: (GroupState, GroupState),
    loser: GroupId,
}

#[derive(Default)]
struct Ring {
    groups: BTreeMap<GroupId, GroupState>,
    /// Who has what a group had that was merged away.
    heirs: BTreeMap<GroupId, GroupId>,
    operations: Vec<Operation>,
    inspections: Vec<(Link, OperationCounter)>,
    /// For each probe who served it last, under which version of its range.
    served: BTreeMap<u8, (GroupId, RangeVersion)>,
    next_group: u64,
    healing: bool,
    split: usize,
    committed: usize,
    aborted: usize,
    late: usize,
}

fn takeover(loser: &Link, operations: OperationCounter, moving: KeyRange, merge: bool) -> Takeover {
    Takeover {
        loser: loser.group,
        moving,
        merge,
        range_version: loser.range_version,
        configuration_version: loser.configuration_version,
        operations,
    }
}

impl Ring {
    fn new() -> Self {
        let member = |node| Member {
            node: NodeId(node),
            incarnation: Incarnation(1),
            role: Role::Voter,
            address: String::new(),
        };
        let configuration = Configuration { version: ConfigurationVersion(1), members: (1..4).map(member).collect() };
        let first = GroupState::genesis(ClusterId(1), GroupId(1), configuration, LogTime(1_000));
        let groups = BTreeMap::from([(GroupId(1), GroupState { keys: 1 << 20, ..first })]);
        Self { groups, next_group: 2, ..Self::default() }
    }

    /// Of any number the group.
    fn pick(&self, index: usize) -> GroupId {
        *self.groups.keys().nth(index % self.groups.len()).unwrap()
    }

    /// The slot of the next entry of a group, which is then applied.
    fn slot(&mut self, group: GroupId) -> (&mut GroupState, Slot) {
        let state = self.groups.get_mut(&group).unwrap();
        state.applied = state.applied.next();
        state.stamp = Version(state.stamp.0 + 1);
        let slot = state.applied;
        (state, slot)
    }

    /// The living group that answers for `group`.
    fn heir(&self, mut group: GroupId) -> GroupId {
        while let Some(heir) = self.heirs.get(&group) {
            group = *heir;
        }
        group
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Split { group, at } => self.split(group, at),
            Step::Begin { group, successor, boundary, age } => self.begin(group, successor, boundary, age),
            Step::Prepare { operation } => self.prepare(operation),
            Step::Decide { operation, commit } => self.decide(operation, commit),
            Step::Resolve { operation } => self.resolve(operation),
            Step::Settle { operation } => self.settle(operation),
            Step::Finish { operation } => {
                self.prepare(operation);
                self.decide(operation, true);
                self.resolve(operation);
                self.settle(operation);
            }
            Step::Tell { group, lost } => {
                let group = self.pick(group);
                for successor in [false, true] {
                    if lost != Some(successor) {
                        self.tell(group, successor);
                    }
                }
            }
            Step::Configure { group } => {
                let group = self.pick(group);
                let (state, _) = self.slot(group);
                if state.pending.is_none() {
                    state.configuration.version = state.configuration.version.next();
                }
            }
        }
    }

    fn split(&mut self, group: usize, at: u8) {
        let (group, child) = (self.pick(group), GroupId(self.next_group));
        if self.groups.len() >= 8 {
            return;
        }
        let (state, slot) = self.slot(group);
        let at = inside(&state.range, at);
        let split = Split { at, child, leader: NodeId(1), range_version: state.range_version };
        let (before, fits) = (state.clone(), state.split_refusal(&split).is_none());
        let born = state.split(&split, slot);
        assert_eq!(born.is_some(), fits);
        let Some(born) = born else { return assert_eq!(*state, before) };
        assert_eq!(state.keys + born.keys, before.keys);
        self.next_group += 1;
        self.split += 1;
        self.groups.insert(child, born);
    }

    fn begin(&mut self, group: usize, successor: bool, boundary: Option<u8>, age: usize) {
        let group = self.pick(group);
        let links = &self.groups[&group].links;
        let neighbour = self.heir(if successor { links.successor.group } else { links.predecessor.group });
        let inspected = &self.groups[&neighbour];
        self.inspections.push((inspected.link(), inspected.operations));
        let (link, operations) = self.inspections[self.inspections.len().saturating_sub(1 + age)].clone();
        let moving = match boundary.map(|at| inside(&link.range, at)) {
            None => link.range.clone(),
            Some(at) if successor => KeyRange { start: link.range.start.clone(), end: at },
            Some(at) => KeyRange { start: at, end: link.range.end.clone() },
        };
        let merge = boundary.is_none();
        let takeover = takeover(&link, operations, moving, merge);
        let loser = link.group;
        let (state, slot) = self.slot(group);
        let (range_version, configuration_version) = (state.range_version, state.configuration.version);
        let begin = Begin { range_version, configuration_version, takeover, loser: link };
        let before = state.clone();
        if !state.begin(&begin, slot) {
            return assert_eq!(*state, before);
        }
        let Some(Pending::Gains { operation: id, takeover, .. }) = state.pending.clone() else { panic!() };
        let prepare = Prepare { operation: id, takeover, gainer: state.link() };
        let loser_before = self.groups.get(&loser).unwrap_or(&before).clone();
        let before = (before, loser_before);
        let (vote, outcome, acknowledged) = (None, None, false);
        self.operations.push(Operation { id, prepare, vote, outcome, acknowledged, before, loser });
    }

    /// Operations, the latest first.
    fn operation(&self, index: usize) -> Option<usize> {
        self.operations.len().checked_sub(1 + index)
    }

    fn prepare(&mut self, index: usize) {
        let Some(index) = self.operation(index) else { return };
        let Operation { prepare, loser, outcome, acknowledged, .. } = self.operations[index].clone();
        // What is meant for a group that was merged away reaches its heir.
        let hearer = self.heir(loser);
        let held = self.groups[&hearer].pending.clone();
        if let Some(Pending::Loses { operation, surrender, .. }) =
            held.filter(|held| held.operation() == prepare.operation)
        {
            assert_eq!(operation, prepare.operation);
            self.voted(index, Some(surrender));
            return;
        }
        let (state, slot) = self.slot(hearer);
        let before = state.clone();
        let locked = state.prepare(&prepare, slot, 0, Bytes::new);
        assert!(!(locked && hearer != loser), "another group has locked");
        assert!(!(locked && acknowledged), "a late one has locked");
        let late = outcome.is_some() && !locked;
        let vote = match &state.pending {
            Some(Pending::Loses { surrender, .. }) if locked => Some(surrender.clone()),
            _ => {
                assert_eq!(*state, before);
                None
            }
        };
        self.late += usize::from(late);
        self.voted(index, vote);
    }

    /// The first vote that counts stays.
    fn voted(&mut self, index: usize, vote: Option<Surrender>) {
        let known = &mut self.operations[index].vote;
        if known.is_none() {
            *known = Some(vote);
        }
    }

    fn decide(&mut self, index: usize, commit: bool) {
        let Some(index) = self.operation(index) else { return };
        let Operation { id, vote, loser, before, .. } = self.operations[index].clone();
        let coordinator = self.heir(id.coordinator);
        if commit && vote.is_none() && !self.healing {
            // It waits.
            return;
        }
        let (state, slot) = self.slot(coordinator);
        let decided = Decide { operation: id, commit: vote.flatten().filter(|_| commit) };
        let pending = state.pending.as_ref().is_some_and(|pending| pending.operation() == id);
        let unchanged = state.clone();
        let gained = state.decide(&decided, slot);
        if !pending {
            assert_eq!((gained, &*state), (None, &unchanged));
            return;
        }
        let outcome = decided.commit.as_ref().map(|_| slot);
        assert_eq!(gained.is_some(), outcome.is_some());
        if outcome.is_none() {
            let of_before = (&before.0.range, &before.0.range_version, &before.0.links);
            assert_eq!((&state.range, &state.range_version), (of_before.0, of_before.1));
        }
        self.operations[index].outcome = Some(outcome);
        self.committed += usize::from(outcome.is_some());
        self.aborted += usize::from(outcome.is_none());
        if let Some(Reshaped::Gained { takeover, .. }) = gained
            && takeover.merge
        {
            // Each member's replica of the loser ends with its replica of the gainer.
            let ended = self.groups.remove(&loser).unwrap();
            assert!(ended.outbox.is_empty() && ended.served().is_none());
            self.heirs.insert(loser, coordinator);
            self.operations[index].acknowledged = true;
        }
    }

    fn resolve(&mut self, index: usize) {
        let Some(index) = self.operation(index) else { return };
        let Operation { id, outcome, loser, before, prepare, .. } = self.operations[index].clone();
        let Some(committed) = outcome.filter(|committed| !(prepare.takeover.merge && committed.is_some())) else {
            return;
        };
        let hearer = self.heir(loser);
        let (state, slot) = self.slot(hearer);
        let held = state.pending.as_ref().is_some_and(|pending| pending.operation() == id);
        // A commit that holds no lock was applied before; an abort of what was never heard of raises the counter.
        if held || committed.is_none() {
            let (operations, unchanged) = (state.operations, state.clone());
            let lost = state.resolve(&Resolve { operation: id, committed }, slot);
            assert_eq!(lost.is_some(), held && committed.is_some());
            assert_eq!(state.operations, operations.next());
            if committed.is_none() {
                // All but the lock and the counter is as it was; of a group that nothing else happened to, since the start.
                let pending = unchanged.pending.clone().filter(|_| !held);
                assert_eq!(*state, GroupState { pending, operations: operations.next(), ..unchanged });
                assert!(!held || (&state.range, state.range_version) == (&before.1.range, before.1.range_version));
            }
        }
        self.operations[index].acknowledged = true;
    }

    fn settle(&mut self, index: usize) {
        let Some(index) = self.operation(index) else { return };
        let Operation { id, outcome, acknowledged, .. } = self.operations[index].clone();
        let coordinator = self.heir(id.coordinator);
        if outcome.is_some() && acknowledged {
            let (state, _) = self.slot(coordinator);
            state.settle(id);
            assert!(state.outbox.iter().all(|obligation| obligation.operation() != id));
        }
    }

    /// A group tells the neighbour on one side, which answers.
    fn tell(&mut self, group: GroupId, successor: bool) {
        let state = &self.groups[&group];
        let to = if successor { &state.links.successor } else { &state.links.predecessor }.group;
        if to == group {
            return;
        }
        let (link, hearer) = (state.link(), self.heir(to));
        if hearer == group {
            return;
        }
        if self.groups[&hearer].pending.as_ref().and_then(Pending::sealed).is_none() {
            self.hear(hearer, &link);
        }
        let answer = self.groups[&hearer].link();
        self.hear(group, &answer);
    }

    /// Takes a link if it is news, which must then be so, and not be again.
    fn hear(&mut self, group: GroupId, link: &Link) {
        let state = &self.groups[&group];
        let news = state.is_news(link, false) || state.is_news(link, true);
        let (state, _) = self.slot(group);
        assert_eq!(state.relink(std::slice::from_ref(link)), news);
        assert!(!state.is_news(link, false) && !state.is_news(link, true));
    }

    /// Nobody answers for what another answers for, and who does later has a higher version.
    fn check(&mut self) {
        for probe in 0..POSITIONS {
            let at = position(probe);
            let serves = |state: &&GroupState| state.served().is_some_and(|served| served.contains(&at));
            let servers: Vec<&GroupState> = self.groups.values().filter(serves).collect();
            assert!(servers.len() <= 1, "position {probe} is served by {servers:?}");
            let has = self.groups.values().filter(|state| state.range.contains(&at)).count();
            assert!(has >= 1, "position {probe} is nobody's");
            let Some(server) = servers.first() else {
                let sealed = |state: &&GroupState| {
                    state.pending.as_ref().and_then(Pending::sealed).is_some_and(|sealed| sealed.contains(&at))
                };
                assert!(self.groups.values().any(|state| sealed(&state)), "position {probe} is served by nobody");
                continue;
            };
            let now = (server.group, server.range_version);
            if let Some(last) = self.served.insert(probe, now) {
                assert!(last.1 < now.1 || last == now || last.0 == now.0 && last.1 <= now.1, "{last:?} before {now:?}");
            }
        }
        for state in self.groups.values() {
            assert!(state.outbox.len() < 40 && state.absorbed.len() <= scatter_core::ops::MAX_ABSORBED);
        }
    }

    /// Everything under way comes to its end, and everybody hears what there is to hear.
    fn heal(&mut self) {
        self.healing = true;
        for index in 0..self.operations.len() {
            self.decide(index, true);
            self.resolve(index);
            self.settle(index);
            self.check();
        }
        for state in self.groups.values() {
            assert_eq!((&state.pending, state.outbox.len()), (&None, 0), "something outlived healing");
        }
        for probe in 0..POSITIONS {
            let owners = self.groups.values().filter(|state| state.range.contains(&position(probe))).count();
            assert_eq!(owners, 1, "position {probe} has {owners} owners");
        }
        for _ in 0..2 * self.groups.len() + 2 {
            for group in self.groups.keys().copied().collect::<Vec<_>>() {
                self.tell(group, false);
                self.tell(group, true);
            }
        }
    }

    /// Everybody knows its neighbours as they are.
    fn check_links(&self) {
        for state in self.groups.values() {
            let before = self.groups.values().find(|other| other.range.end == state.range.start).unwrap();
            let behind = self.groups.values().find(|other| other.range.start == state.range.end).unwrap();
            if before.group == state.group {
                let own = (state.links.predecessor.group, state.links.successor.group);
                assert_eq!(own, (state.group, state.group), "the only group");
                continue;
            }
            assert_eq!(state.links.predecessor, before.link(), "of {}", state.group);
            assert_eq!(state.links.successor, behind.link(), "of {}", state.group);
        }
    }
}

proptest! {
    #[test]
    fn the_ring_stays_whole(steps in proptest::collection::vec(step(), 1..150)) {
        let mut ring = Ring::new();
        for step in &steps {
            ring.take(step);
            ring.check();
        }
        ring.heal();
        ring.check();
        ring.check_links();
    }
}

/// The property above is about something: with the steps of a plain generator all that can happen happens.
#[test]
fn every_turn_is_taken() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = proptest::collection::vec(step(), 150);
    let (mut split, mut committed, mut aborted, mut late, mut merged) = (0, 0, 0, 0, 0);
    for _ in 0..50 {
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let mut ring = Ring::new();
        steps.iter().for_each(|step| ring.take(step));
        split += ring.split;
        committed += ring.committed;
        aborted += ring.aborted;
        late += ring.late;
        merged += ring.heirs.len();
    }
    let turns = [split, committed - merged, merged, aborted, late];
    assert!(turns.iter().all(|turn| *turn > 20), "splits, shifts, merges, aborts, late votes: {turns:?}");
}
