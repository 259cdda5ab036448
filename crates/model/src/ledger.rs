//! The replicated state of a group: what applying a part of its log makes of it.
//!
//! A state of the model holds the logs alone. What follows from them is computed anew for each state, once, as its
//! [`Ledger`]. Data is not in a machine: that lies in the nodes' stores, and may be missing there.

use crate::mistake::Mistake;
use crate::sets::{Data, Members, Positions};
use crate::state::{Begin, Entry, Group, GroupId, Kind, LOG, Operation, Outcome, Slot};

/// How many decisions an outbox has room for; one that is over it is lost, which the invariants would show.
const OUTBOX: usize = 4;

/// How many commits of one group a run may have.
const COMMITS: usize = 3;

/// Why a group is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// It coordinates the operation that began at this slot.
    Coordinates(Slot),
    /// It voted yes, at this slot.
    Participates(Operation, Slot),
}

/// A decision that the other side has not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where the operation began.
    pub begin: Slot,
    /// How it ended.
    pub outcome: Outcome,
    /// Where that was decided.
    pub decided: Slot,
}

/// A commit that takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Of which operation.
    pub operation: Operation,
    /// What it began with.
    pub begin: Begin,
    /// The slot of the loser's yes-vote.
    pub seal: Slot,
    /// Where it is decided, in the gainer's log.
    pub decided: Slot,
}

/// A group's replicated state.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// What it owns, sealed or not.
    pub range: Positions,
    /// What of it is sealed.
    pub sealed: Positions,
    /// The range version.
    pub version: u8,
    /// The members.
    pub members: Members,
    /// The configuration's version.
    pub configuration: u8,
    /// After which slot the configuration is in force.
    pub configured: Slot,
    /// Why it is locked, if it is.
    pub lock: Option<Lock>,
    /// Yes-votes and outcomes heard.
    pub count: u8,
    /// Decisions under way.
    pub outbox: [Option<Sent>; OUTBOX],
}

impl Machine {
    /// The decision of that operation, if it is under way.
    pub fn sent(&self, begin: Slot) -> Option<Sent> {
        self.outbox.iter().flatten().find(|sent| sent.begin == begin).copied()
    }

    /// All decisions under way.
    pub fn outbox(&self) -> impl Iterator<Item = Sent> + '_ {
        self.outbox.iter().flatten().copied()
    }

    /// Whether it answers for these positions.
    pub const fn answers(&self, positions: Positions) -> bool {
        self.range.minus(self.sealed).covers(positions)
    }

    fn send(&mut self, sent: Sent) {
        if let Some(place) = self.outbox.iter_mut().find(|place| place.is_none()) {
            *place = Some(sent);
        }
    }

    fn close(&mut self, begin: Slot) {
        for place in &mut self.outbox {
            if place.is_some_and(|sent| sent.begin == begin) {
                *place = None;
            }
        }
    }
}

/// By which rules the groups play.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The mistake that is planted, if one is.
    pub mistake: Option<Mistake>,
    /// Whether replicas take every step singly. Otherwise steps that nothing can tell apart are taken together.
    pub singly: bool,
    /// Whether the loser hears of a commit only once every member of the gainer has assembled.
    pub waits: bool,
}

/// What follows from the two logs.
pub struct Ledger {
    /// By which rules.
    pub rules: Rules,
    groups: [Group; 2],
    machines: [[Machine; LOG + 1]; 2],
    due: [[Data; LOG + 1]; 2],
    commits: [[Option<Commit>; COMMITS]; 2],
}

impl Ledger {
    /// What follows from these logs.
    pub fn of(groups: &[Group; 2], rules: Rules) -> Ledger {
        let first = GroupId::BOTH.map(|group| first_machine(groups, group));
        let mut ledger = Ledger {
            rules,
            groups: *groups,
            machines: first.map(|machine| [machine; LOG + 1]),
            due: [[Data::NONE; LOG + 1]; 2],
            commits: [[None; COMMITS]; 2],
        };
        for group in GroupId::BOTH {
            let mut machine = first[group.index()];
            for slot in 0..ledger.len(group) {
                ledger.note_commit(group, slot, &machine);
                ledger.apply(group, slot, &mut machine);
                ledger.machines[group.index()][usize::from(slot) + 1] = machine;
            }
        }
        // What a gainer is due depends on what its loser was due before, and each commit is one such step.
        let commits = ledger.commits.iter().flatten().flatten().count();
        for _ in 0..=commits {
            GroupId::BOTH.into_iter().for_each(|group| ledger.fill_due(group));
        }
        ledger
    }

    /// Whether that mistake is planted.
    pub fn makes(&self, mistake: Mistake) -> bool {
        self.rules.mistake == Some(mistake)
    }

    /// How many slots of the group are decided.
    pub const fn len(&self, group: GroupId) -> Slot {
        self.groups[group.index()].log.len()
    }

    /// What is decided for the group's slot.
    pub fn entry(&self, group: GroupId, slot: Slot) -> Entry {
        self.groups[group.index()].log.at(slot)
    }

    /// What the group is after the slots before `upto`.
    pub fn machine(&self, group: GroupId, upto: Slot) -> &Machine {
        &self.machines[group.index()][usize::from(upto)]
    }

    /// What the group is after all that is decided.
    pub fn decided(&self, group: GroupId) -> &Machine {
        self.machine(group, self.len(group))
    }

    /// What a replica holds that has applied the slots before `upto`, if nothing is lost.
    pub const fn due(&self, group: GroupId, upto: Slot) -> Data {
        self.due[group.index()][upto as usize]
    }

    /// What the operation began with.
    pub fn begin(&self, operation: Operation) -> Begin {
        match self.entry(operation.coordinator, operation.begin) {
            Entry::Begin(begin) => begin,
            _ => Begin::default(),
        }
    }

    /// The commits that the group has gained by, in order.
    pub fn commits(&self, group: GroupId) -> impl DoubleEndedIterator<Item = Commit> + '_ {
        self.commits[group.index()].iter().flatten().copied()
    }

    /// The commit of the group that is decided at the slot.
    pub fn commit_at(&self, group: GroupId, slot: Slot) -> Option<Commit> {
        self.commits(group).find(|commit| commit.decided == slot)
    }

    /// The commit by which the other group has taken over all that this one had.
    pub fn ended(&self, group: GroupId) -> Option<Commit> {
        self.commits(group.other()).find(|commit| commit.begin.kind == Kind::Merge)
    }

    /// How the operation ended, if that is decided: the last word, should there be two.
    pub fn outcome(&self, operation: Operation) -> Option<Outcome> {
        let group = operation.coordinator;
        (operation.begin..self.len(group)).rev().find_map(|slot| {
            let sent = self.machine(group, slot + 1).sent(operation.begin)?;
            (sent.decided == slot).then_some(sent.outcome)
        })
    }

    /// The slot of the loser's yes-vote for the operation.
    pub fn vote(&self, operation: Operation) -> Option<Slot> {
        let group = operation.coordinator.other();
        (0..self.len(group))
            .find(|slot| self.machine(group, slot + 1).lock == Some(Lock::Participates(operation, *slot)))
    }

    /// Every operation that the group began.
    pub fn began(&self, group: GroupId) -> impl Iterator<Item = Operation> + '_ {
        (0..self.len(group))
            .filter(move |slot| self.machine(group, slot + 1).lock == Some(Lock::Coordinates(*slot)))
            .map(move |begin| Operation { coordinator: group, begin })
    }

    /// Whether the loser votes yes.
    pub fn votes_yes(&self, machine: &Machine, begin: &Begin) -> bool {
        machine.lock.is_none()
            && machine.version == begin.theirs.version
            && (machine.configuration == begin.theirs.configuration || self.makes(Mistake::PrepareIgnoresConfiguration))
            && (machine.count == begin.count || self.makes(Mistake::LatePrepareLocks))
            && (begin.kind == Kind::Shift || machine.outbox().next().is_none())
    }

    fn note_commit(&mut self, group: GroupId, slot: Slot, before: &Machine) {
        let Entry::Decide { begin, outcome: Outcome::Commit, seal } = self.entry(group, slot) else { return };
        if before.lock != Some(Lock::Coordinates(begin)) {
            return;
        }
        let operation = Operation { coordinator: group, begin };
        let commit = Commit { operation, begin: self.begin(operation), seal, decided: slot };
        if let Some(place) = self.commits[group.index()].iter_mut().find(|place| place.is_none()) {
            *place = Some(commit);
        }
    }

    fn apply(&self, group: GroupId, slot: Slot, machine: &mut Machine) {
        match self.entry(group, slot) {
            Entry::Empty | Entry::Write(_) => {}
            Entry::Begin(begin) => {
                let as_seen = machine.version == begin.own.version && machine.configuration == begin.own.configuration;
                if machine.lock.is_none() && as_seen {
                    machine.lock = Some(Lock::Coordinates(slot));
                }
            }
            Entry::Prepare(operation) => {
                let begin = self.begin(operation);
                if self.votes_yes(machine, &begin) {
                    machine.lock = Some(Lock::Participates(operation, slot));
                    machine.sealed = begin.moves;
                    machine.count += 1;
                }
            }
            Entry::Decide { begin, outcome, .. } => self.decide(group, (slot, begin, outcome), machine),
            Entry::Resolve { operation, outcome } => {
                machine.count += 1;
                if matches!(machine.lock, Some(Lock::Participates(held, _)) if held == operation) {
                    machine.lock = None;
                    machine.sealed = Positions::NONE;
                    if outcome == Outcome::Commit {
                        let begin = self.begin(operation);
                        machine.range = machine.range.minus(begin.moves);
                        machine.version = version_after(&begin);
                    }
                }
            }
            Entry::Close { begin } => machine.close(begin),
            Entry::Configuration(members) => {
                machine.members = members;
                machine.configuration += 1;
                machine.configured = slot + 1;
            }
        }
    }

    fn decide(&self, group: GroupId, decision: (Slot, Slot, Outcome), machine: &mut Machine) {
        let (slot, begin, outcome) = decision;
        if machine.lock != Some(Lock::Coordinates(begin)) {
            if self.makes(Mistake::AbortAfterCommit) && machine.sent(begin).is_some() {
                machine.close(begin);
                machine.send(Sent { begin, outcome, decided: slot });
            }
            return;
        }
        machine.lock = None;
        if outcome == Outcome::Commit {
            let began = self.begin(Operation { coordinator: group, begin });
            machine.range = machine.range.and(began.moves);
            machine.version = version_after(&began);
            // Who ends has no lock that an earlier decision could lift, and nobody is left to acknowledge one.
            if began.kind == Kind::Merge && !self.makes(Mistake::OutboxToTheDead) {
                machine.outbox = [None; OUTBOX];
            }
        }
        machine.send(Sent { begin, outcome, decided: slot });
    }

    fn fill_due(&mut self, group: GroupId) {
        let mut data = self.machine(group, 0).range.first_data();
        self.due[group.index()][0] = data;
        for slot in 0..self.len(group) {
            let before = self.machine(group, slot);
            if let Entry::Write(write) = self.entry(group, slot)
                && before.answers(write.position())
            {
                data = data.and(write);
            }
            if let Some(commit) = self.commit_at(group, slot) {
                data = data.and(self.due(group.other(), commit.seal + 1).at(commit.begin.moves));
            }
            data = data.at(self.machine(group, slot + 1).range);
            self.due[group.index()][usize::from(slot) + 1] = data;
        }
    }
}

/// What a group is before anything is decided.
fn first_machine(groups: &[Group; 2], group: GroupId) -> Machine {
    Machine {
        range: match group {
            GroupId::G => Positions::FIRST,
            GroupId::S => Positions::BOUNDARY.and(Positions::LAST),
        },
        sealed: Positions::NONE,
        version: 0,
        members: groups[group.index()].first_members,
        configuration: 0,
        configured: 0,
        lock: None,
        count: 0,
        outbox: [None; OUTBOX],
    }
}

/// The range version of both sides after a commit: above that of everybody the positions came from.
fn version_after(begin: &Begin) -> u8 {
    begin.own.version.max(begin.theirs.version) + 1
}
