//! The apply stage: every machine of a node, and how the core's [`Apply`]s and [`MachineOrder`]s reach them.
//!
//! The shell runs it on a thread of its own, in the order the effects came; the simulator runs the same code. It answers
//! with inputs for the [`crate::Node`] and outcomes for clients.
//!
//! Entries that concern two machines of the node are applied to both in one batch. A gainer whose loser beside it is not yet
//! where it must be stands still; what is decided behind waits here until the loser has moved on, or a snapshot takes
//! the place of both.

mod counts;
mod sinks;
mod sources;

pub use sources::Reading;

use crate::codec::{Decode, Encode};
use crate::command::{Found, Outcome};
use crate::durable::Merger;
use crate::effects::{Apply, MachineOrder};
use crate::entry::{Entry, EntryKind};
use crate::group::read_word::ReadWord;
use crate::group::{
    Beside, GroupState, Limits, Machine, TabletMap, forget_merged, highest_tablet, merged_replicas, was_merged,
};
use crate::input::{Input, MachineReport};
use crate::node::Machines;
use crate::ops::{Decide, Pending, Recover, Split};
use crate::planted::{self, Bug};
use crate::ring::Key;
use crate::store::{Store, StoreError};
use crate::time::Instant;
use crate::types::{GroupId, Incarnation, NodeId, ReplicaName, RequestId, Slot, TabletId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use counts::Counts;
use sinks::Sinks;
use sources::Sources;

/// Due keys listed at once.
const MAX_EXPIRED: usize = 1_000;

/// What somebody waited for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// Who asked.
    pub request: RequestId,
    /// The group that applied it.
    pub group: GroupId,
    /// Where.
    pub slot: Slot,
    /// What became of it.
    pub outcome: Outcome,
}

/// An entry that was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppliedEntry {
    /// By which group.
    pub group: GroupId,
    /// Where.
    pub slot: Slot,
    /// What.
    pub entry: Entry,
    /// What became of its commands.
    pub outcomes: Vec<Outcome>,
}

/// What came of one piece of work.
#[derive(Default, Debug)]
pub struct Done {
    /// For the node.
    pub inputs: Vec<Input>,
    /// For those who wait.
    pub outcomes: Vec<Answered>,
    /// Every entry applied, with the outcomes of its commands: for those who watch.
    pub results: Vec<AppliedEntry>,
    /// Tablets of these groups changed: whoever reads beside the loop needs the new maps, and then [`Stage::published`] is called
    /// for each.
    pub moved: Vec<GroupId>,
    /// All that the inputs tell is how far machines are.
    pub quiet: bool,
}

/// Decided entries that a machine was handed and has not applied.
#[derive(Default, Debug)]
struct Queue {
    entries: VecDeque<(Slot, Entry)>,
    waiting: BTreeMap<Slot, Vec<RequestId>>,
    /// The slot before which it stands still, and which the node was told of.
    stalled: Option<Slot>,
}

/// All machines of one node, over one store.
pub struct Stage<S: Store> {
    store: S,
    limits: Limits,
    machines: BTreeMap<GroupId, Machine<S>>,
    words: BTreeMap<GroupId, Arc<ReadWord>>,
    /// Groups whose replica here had no machine when the stage was opened and has none yet: one that was born and not flushed
    /// is born again by its parent's log.
    unborn: BTreeSet<GroupId>,
    queues: BTreeMap<GroupId, Queue>,
    /// What was done before the store failed.
    unfinished: Done,
    /// Machines that are to go once gainers here have taken over what they parted.
    leaving: BTreeSet<ReplicaName>,
    /// Replicas whose machine was taken over, as of the start.
    merged: Vec<(ReplicaName, Merger)>,
    sources: Sources<S::View>,
    sinks: Sinks<S>,
    counts: Counts<S::View>,
    next_tablet: TabletId,
}

impl<S: Store> Stage<S> {
    /// Opens every machine the store holds. `replicas` are the groups with a replica in the log. `nonce` makes the numbers of this boot's snapshots its own; snapshots nobody
    /// pulls for `patience` are let go.
    pub fn open(
        store: S,
        limits: Limits,
        replicas: &BTreeSet<GroupId>,
        nonce: u64,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let mut machines = BTreeMap::new();
        for name in Machine::<S>::list(&store)? {
            if let Some(machine) = Machine::open(store.clone(), name.group)? {
                machines.insert(name.group, machine.with_limits(limits.clone()));
            }
        }
        let next_tablet = highest_tablet(&store)?.next();
        let unborn = replicas.iter().filter(|group| !machines.contains_key(*group)).copied().collect();
        let mut stage = Self {
            unborn,
            merged: merged_replicas(&store)?,
            sinks: Sinks::open(&store, limits.holding)?,
            store,
            limits,
            machines,
            words: BTreeMap::new(),
            queues: BTreeMap::new(),
            leaving: BTreeSet::new(),
            unfinished: Done::default(),
            sources: Sources::new(nonce, patience),
            counts: Counts::new(nonce, patience),
            next_tablet,
        };
        let gainers: BTreeSet<GroupId> = stage.machines.values().flat_map(Machine::parted_for).collect();
        for gainer in gainers {
            stage.discard_parted(gainer)?;
        }
        let groups: Vec<GroupId> = stage.machines.keys().copied().collect();
        for group in groups {
            let done = stage.end_merged(group)?;
            stage.merged.extend(done.iter().filter_map(merger_of));
        }
        Ok(stage)
    }

    /// The machines' states, for [`crate::Node::recover`].
    #[must_use]
    pub fn reports(&self) -> Machines {
        let live = self.machines.values().map(|machine| (machine.name(), report(machine))).collect();
        Machines { live, merged: self.merged.clone() }
    }

    /// A replica's read word, which the stage keeps up to date from now on.
    pub fn attach(&mut self, group: GroupId, word: Arc<ReadWord>) {
        if let Some(machine) = self.machines.get(&group) {
            word.set_applied(machine.state().applied);
        }
        let former = self.words.insert(group, Arc::clone(&word)).filter(|former| !Arc::ptr_eq(former, &word));
        if let Some(former) = former {
            // It was a former self's, whose data goes: nobody else would turn its readers back.
            former.begin_move();
        }
    }

    /// The applied state of a group.
    #[must_use]
    pub fn state(&self, group: GroupId) -> Option<&GroupState> {
        self.machines.get(&group).map(Machine::state)
    }

    /// The tablets that hold a group's data.
    #[must_use]
    pub fn tablets(&self, group: GroupId) -> Option<&TabletMap> {
        self.machines.get(&group).map(Machine::tablets)
    }

    /// What readers may look at of a group's data.
    #[must_use]
    pub fn served(&self, group: GroupId) -> Option<TabletMap> {
        self.machines.get(&group).map(Machine::served)
    }

    /// A machine, to look at.
    #[must_use]
    pub fn machine(&self, group: GroupId) -> Option<&Machine<S>> {
        self.machines.get(&group)
    }

    /// The applied slot of each machine: durable once a flush begun after this call is done.
    #[must_use]
    pub fn marks(&self) -> Vec<(GroupId, Slot)> {
        self.machines.iter().map(|(group, machine)| (*group, machine.state().applied)).collect()
    }

    /// The shell has published where the data of a group lies, after [`Done::moved`]: readers beside the loop may go on.
    pub fn published(&self, group: GroupId) {
        if let Some(word) = self.words.get(&group) {
            if let Some(machine) = self.machines.get(&group) {
                word.set_applied(machine.state().applied);
            }
            word.end_move();
        }
    }

    /// Reads a key as of everything applied.
    pub fn read(&self, group: GroupId, key: &Key) -> Result<Option<Found>, StoreError> {
        match self.machines.get(&group) {
            Some(machine) => crate::group::read(&self.store, machine.tablets(), key),
            None => Ok(None),
        }
    }

    /// Applies decided entries, as far as they go. After an error the same work is handed in again.
    pub fn apply(&mut self, apply: &Apply) -> Result<Done, StoreError> {
        let Some(machine) = self.machines.get(&apply.group) else { return Ok(Done::default()) };
        let applied = machine.state().applied;
        let queue = self.queues.entry(apply.group).or_default();
        let last = queue.entries.back().map_or(applied, |(slot, _)| *slot);
        queue.entries.extend(apply.entries.iter().filter(|(slot, _)| *slot > last).cloned());
        let waiting = apply.waiting.iter().filter(|(slot, _)| *slot > applied);
        queue.waiting.extend(waiting.cloned());
        let mut done = std::mem::take(&mut self.unfinished);
        match self.work_off(apply.group, &mut done) {
            Ok(()) => {
                // How far each machine is comes first: what it marks on disk precedes what others do with what it made.
                done.inputs.sort_by_key(|input| !matches!(input, Input::Applied { .. }));
                done.quiet = done.inputs.iter().all(|input| matches!(input, Input::Applied { .. }));
                Ok(done)
            }
            Err(error) => {
                self.unfinished = done;
                Err(error)
            }
        }
    }

    /// Applies what waits for a machine, and then for those that waited for it.
    fn work_off(&mut self, group: GroupId, done: &mut Done) -> Result<(), StoreError> {
        self.work_off_one(group, done)?;
        loop {
            let before = done.inputs.len();
            let stalled = self.queues.iter().filter(|(_, queue)| queue.stalled.is_some());
            let stalled: Vec<GroupId> = stalled.map(|(group, _)| *group).collect();
            for group in stalled {
                self.work_off_one(group, done)?;
            }
            if done.inputs.len() == before {
                return Ok(());
            }
        }
    }

    fn work_off_one(&mut self, group: GroupId, done: &mut Done) -> Result<(), StoreError> {
        let Some(before) = self.machines.get(&group).map(|machine| machine.state().applied) else {
            self.queues.remove(&group);
            return Ok(());
        };
        let result = self.run_queue(group, done);
        let Some(machine) = self.machines.get(&group) else { return result };
        let applied = machine.state().applied;
        if applied > before {
            let moved = done.moved.contains(&group);
            if let Some(word) = self.words.get(&group).filter(|_| !moved) {
                word.set_applied(applied);
            }
            done.inputs.push(Input::Applied { group, report: report(machine) });
        }
        let Some(queue) = self.queues.get_mut(&group) else { return result };
        let next = queue.entries.front().map(|(slot, _)| *slot).filter(|_| result.is_ok());
        if let Some(slot) = next.filter(|slot| queue.stalled != Some(*slot)) {
            done.inputs.push(Input::Stalled { group, slot });
        }
        queue.stalled = next;
        result
    }

    /// Applies the entries that wait for a machine until one has to wait for another machine.
    fn run_queue(&mut self, group: GroupId, done: &mut Done) -> Result<(), StoreError> {
        loop {
            let (Some(queue), Some(machine)) = (self.queues.get_mut(&group), self.machines.get_mut(&group)) else {
                return Ok(());
            };
            let applied = machine.state().applied;
            while queue.entries.front().is_some_and(|(slot, _)| *slot <= applied) {
                queue.entries.pop_front();
            }
            // What a snapshot brought was applied elsewhere: what came of it nobody here can tell.
            while let Some(first) = queue.waiting.first_entry().filter(|first| *first.key() <= applied) {
                let (slot, requests) = first.remove_entry();
                let answered = requests.into_iter();
                let answered = answered.map(|request| Answered { request, group, slot, outcome: Outcome::Unknown });
                done.outcomes.extend(answered);
            }
            let alone = queue.entries.iter().take_while(|(_, entry)| !entry.kind.moves_positions()).count();
            if alone > 0 {
                let run = &queue.entries.make_contiguous()[..alone];
                let result = machine.apply(run)?;
                self.answer(group, result.outcomes, done);
                continue;
            }
            let Some((slot, entry)) = queue.entries.front().cloned() else { return Ok(()) };
            if !self.apply_with_others(group, slot, &entry, done)? {
                return Ok(());
            }
        }
    }

    /// Notes the outcomes of the first entries that wait, and gives them to those who wait for them.
    fn answer(&mut self, group: GroupId, results: Vec<(Slot, Vec<Outcome>)>, done: &mut Done) {
        let Some(queue) = self.queues.get_mut(&group) else { return };
        for (slot, outcomes) in results {
            let Some((_, entry)) = queue.entries.pop_front() else { return };
            for (index, request) in queue.waiting.remove(&slot).unwrap_or_default().into_iter().enumerate() {
                let outcome = outcomes.get(index).cloned().unwrap_or(Outcome::Unknown);
                done.outcomes.push(Answered { request, group, slot, outcome });
            }
            done.results.push(AppliedEntry { group, slot, entry, outcomes });
        }
    }

    /// Applies an entry that may concern other machines of the node. False if it has to wait for one of them.
    fn apply_with_others(
        &mut self,
        group: GroupId,
        slot: Slot,
        entry: &Entry,
        done: &mut Done,
    ) -> Result<bool, StoreError> {
        let Some(state) = self.machines.get(&group).map(|machine| machine.shape().clone()) else { return Ok(true) };
        let mut beside = Beside::nobody();
        let mut loser = None;
        match entry.kind {
            EntryKind::Split => {
                let child = Split::from_all(entry.body.clone()).ok().map(|split| split.child);
                beside.bears = child.map_or(Ok(false), |child| self.may_bear(child))?;
            }
            EntryKind::Recover => {
                // What ends takes with it what others have yet to take over.
                if self.machines.get(&group).is_some_and(|machine| self.owes(machine)) {
                    return Ok(false);
                }
                let child = Recover::from_all(entry.body.clone()).ok().map(|recover| recover.child);
                beside.bears = child.map_or(Ok(false), |child| self.may_bear(child))?;
            }
            EntryKind::Decide => {
                if let Some(Gained { loser: group, seal, merge }) = gained_from(&state, entry) {
                    let ready = self.machines.get(&group).is_some_and(|loser| {
                        // One that ends takes with it what others have yet to take over.
                        let owes = merge && self.owes(loser);
                        let surrenders = |pending: &Pending| loser.surrenders(pending.operation(), seal);
                        !owes && state.pending.as_ref().is_some_and(surrenders)
                    });
                    if !ready {
                        return Ok(false);
                    }
                    loser = self.machines.remove(&group);
                }
            }
            EntryKind::Prepare => {}
            _ => {
                let gainer = state.pending.as_ref().map(|pending| pending.operation().coordinator);
                beside.gainer = gainer.and_then(|gainer| self.gainer_applied(gainer));
            }
        }
        beside.loser = loser.as_mut();
        // Whoever reads what is about to move is turned back before it does.
        self.begin_move(group);
        let Some(machine) = self.machines.get_mut(&group) else { return Ok(true) };
        let result = machine.apply_beside(slot, entry, &mut beside);
        let Beside { born, ended, .. } = beside;
        let tried = self.settle_others(group, slot, entry, loser, born, ended && result.is_ok(), done);
        let applied = result?;
        tried?;
        self.answer(group, applied.outcomes, done);
        done.moved.push(group);
        if entry.kind == EntryKind::Recover {
            self.end_recovered(group, slot, entry, done)?;
        }
        self.end_left_over(done)?;
        Ok(true)
    }

    /// What became of the other machines that an entry concerned.
    #[expect(clippy::too_many_arguments, reason = "what one entry came to, given once")]
    fn settle_others(
        &mut self,
        group: GroupId,
        slot: Slot,
        entry: &Entry,
        loser: Option<Machine<S>>,
        born: Option<Machine<S>>,
        ended: bool,
        done: &mut Done,
    ) -> Result<(), StoreError> {
        if let Some(loser) = loser {
            let name = loser.name();
            if ended {
                self.drop_machine(name.group);
                done.moved.push(name.group);
                done.inputs.push(Input::Merged { loser: name, into: group, at: slot });
            } else {
                self.machines.insert(name.group, loser);
            }
        }
        if let Some(born) = born {
            let child = born.name();
            let leader = first_leader(entry);
            // Half a snapshot of the child is of no use any more.
            self.sinks.drop_sink(child.group)?;
            done.inputs.push(Input::Born { child, leader, report: report(&born) });
            done.moved.push(child.group);
            self.unborn.remove(&child.group);
            self.machines.insert(child.group, born);
        }
        Ok(())
    }

    /// A group that its survivors go on without ends here, too.
    fn end_recovered(&mut self, group: GroupId, slot: Slot, entry: &Entry, done: &mut Done) -> Result<(), StoreError> {
        let Ok(recover) = Recover::from_all(entry.body.clone()) else { return Ok(()) };
        if self.state(group).is_none_or(|state| state.reshaped != slot) {
            return Ok(());
        }
        let Some(machine) = self.machines.remove(&group) else { return Ok(()) };
        let (name, merger) = (machine.name(), Merger { into: recover.child, at: Slot(1) });
        machine.end(merger)?;
        self.drop_machine(group);
        done.inputs.push(Input::Merged { loser: name, into: merger.into, at: merger.at });
        Ok(())
    }

    /// Whether a split may bear this child here: nothing that is of it may be overwritten, nor what was taken over come back.
    fn may_bear(&self, child: GroupId) -> Result<bool, StoreError> {
        let awaited = self.sinks.name(child).is_none_or(|name| name.incarnation == Incarnation(1));
        let came = self.machines.contains_key(&child) || was_merged(&self.store, child)?;
        Ok(!came && awaited || planted::on(Bug::ChildOverwritten))
    }

    /// No reader beside the loop gets at the data of a group until it is published where it lies.
    fn begin_move(&self, group: GroupId) {
        if let Some(word) = self.words.get(&group) {
            word.begin_move();
        }
    }

    /// A machine is no more: nothing of it is kept in memory.
    fn drop_machine(&mut self, group: GroupId) {
        self.begin_move(group);
        self.machines.remove(&group);
        self.queues.remove(&group);
        self.sources.forget(group);
        self.counts.forget(group);
    }

    /// How far a gainer on this node is; nowhere yet, if it is still to be born again.
    fn gainer_applied(&self, gainer: GroupId) -> Option<Slot> {
        let unborn = self.unborn.contains(&gainer).then_some(Slot(0));
        self.state(gainer).map(|state| state.applied).or(unborn)
    }

    /// A gainer is gone, or came by a snapshot: it does not need what losers here had kept for it.
    fn discard_parted(&mut self, gainer: GroupId) -> Result<(), StoreError> {
        let applied = self.gainer_applied(gainer);
        self.machines.values_mut().try_for_each(|machine| machine.discard_parted(gainer, applied))
    }

    /// A group whose state came by a snapshot may have taken over groups that still have machines here.
    fn end_merged(&mut self, gainer: GroupId) -> Result<Vec<Input>, StoreError> {
        let Some(state) = self.state(gainer) else { return Ok(Vec::new()) };
        let absorbed = state.absorbed.clone();
        let mut inputs = Vec::new();
        for (loser, at) in absorbed {
            if self.machines.get(&loser).is_some_and(|machine| self.owes(machine)) {
                continue;
            }
            if let Some(machine) = self.machines.remove(&loser) {
                let name = machine.name();
                machine.end(Merger { into: gainer, at })?;
                self.drop_machine(loser);
                inputs.push(Input::Merged { loser: name, into: gainer, at });
            }
        }
        Ok(inputs)
    }

    /// Whether a gainer here has yet to take over what a machine parted for it. After a crash its entry may come back later than
    /// what the machine's own log, or another gainer's, goes on with.
    fn owes(&self, machine: &Machine<S>) -> bool {
        machine.owes(|gainer| self.gainer_applied(gainer)) && !planted::on(Bug::EndedOwing)
    }

    /// Machines that were kept for what others had yet to take over end now, if nobody needs them any more.
    fn end_left_over(&mut self, done: &mut Done) -> Result<(), StoreError> {
        let absorbs = |machine: &&Machine<S>| {
            let mut absorbed = machine.state().absorbed.iter();
            absorbed.any(|(loser, _)| self.machines.contains_key(loser))
        };
        let gainers: Vec<GroupId> =
            self.machines.values().filter(absorbs).map(|machine| machine.name().group).collect();
        for gainer in gainers {
            let ended = self.end_merged(gainer)?;
            done.moved.extend(ended.iter().filter_map(merger_of).map(|(name, _)| name.group));
            done.inputs.extend(ended);
        }
        for replica in std::mem::take(&mut self.leaving) {
            self.destroy(replica)?;
            done.moved.push(replica.group);
        }
        Ok(())
    }

    /// A machine goes, as soon as nobody here needs it.
    fn destroy(&mut self, replica: ReplicaName) -> Result<(), StoreError> {
        let Some(machine) = self.machines.get(&replica.group).filter(|machine| machine.name() == replica) else {
            return Ok(());
        };
        if self.owes(machine) {
            self.leaving.insert(replica);
            return Ok(());
        }
        let Some(machine) = self.machines.remove(&replica.group) else { return Ok(()) };
        self.drop_machine(replica.group);
        machine.destroy()?;
        self.discard_parted(replica.group)
    }

    /// Carries out an order. After an error it may be handed in again.
    pub fn order(&mut self, order: &MachineOrder, now: Instant) -> Result<Done, StoreError> {
        self.let_go(now);
        match order {
            MachineOrder::Create { replica, state } => self.create(*replica, state),
            MachineOrder::Expired { group, due } => {
                let (expired, next_expiry) = match self.machines.get_mut(group) {
                    Some(machine) => (machine.expired_at(*due, MAX_EXPIRED)?, machine.next_expiry()),
                    None => (Vec::new(), None),
                };
                Ok(Done::one(Input::Expired { group: *group, body: expired.to_bytes(), next_expiry }))
            }
            MachineOrder::Count { group, count } => {
                let counted = self.counts.advance(*group, self.machines.get(group), *count, now)?;
                Ok(Done::one(counted))
            }
            MachineOrder::ReadSnapshot { group, to, snapshot, cursor, bytes } => {
                let number = self.pinned(*group, *snapshot, now);
                Ok(Done::one(self.sources.reading((*group, *to), number, cursor.as_ref(), *bytes, now).read()?))
            }
            MachineOrder::StoreSnapshot { replica, snapshot, chunk, .. } => {
                self.store_snapshot(*replica, *snapshot, chunk)
            }
            MachineOrder::Destroy { replica } => {
                self.sinks.abandon(*replica)?;
                forget_merged(&self.store, replica.group)?;
                if self.unborn.remove(&replica.group) {
                    self.discard_parted(replica.group)?;
                }
                self.destroy(*replica)?;
                let mut done = Done { moved: vec![replica.group], ..Done::default() };
                self.end_left_over(&mut done)?;
                self.work_off(replica.group, &mut done)?;
                Ok(done)
            }
        }
    }

    fn tablet(&mut self) -> TabletId {
        let tablet = self.next_tablet;
        self.next_tablet = tablet.next();
        tablet
    }

    fn create(&mut self, name: ReplicaName, state: &GroupState) -> Result<Done, StoreError> {
        if !self.machines.contains_key(&name.group) {
            let tablet = self.tablet();
            let machine = Machine::create(self.store.clone(), name, state.clone(), tablet)?;
            self.store.flush()?;
            self.unborn.remove(&name.group);
            self.machines.insert(name.group, machine.with_limits(self.limits.clone()));
        }
        Ok(self.installed(name.group))
    }

    fn installed(&self, group: GroupId) -> Done {
        let inputs = self.machines.get(&group).map(|machine| Input::Installed { group, report: report(machine) });
        Done { inputs: inputs.into_iter().collect(), moved: vec![group], ..Done::default() }
    }

    /// A [`MachineOrder::ReadSnapshot`] that the shell lets another thread carry out.
    pub fn reading(&mut self, order: &MachineOrder, now: Instant) -> Option<Reading<S::View>> {
        let MachineOrder::ReadSnapshot { group, to, snapshot, cursor, bytes } = order else { return None };
        self.let_go(now);
        let number = self.pinned(*group, *snapshot, now);
        Some(self.sources.reading((*group, *to), number, cursor.as_ref(), *bytes, now))
    }

    /// The number of the snapshot that is asked for, of a new one if that is zero. It stays zero, which is none, if too many are
    /// read: whoever asks comes back later.
    fn pinned(&mut self, group: GroupId, snapshot: u64, now: Instant) -> u64 {
        match self.machines.get(&group).filter(|_| snapshot == 0) {
            Some(machine) => self.sources.pin(group, machine.snapshot(), now).unwrap_or(0),
            None => snapshot,
        }
    }

    /// Lets views go that nobody has asked for in a while: they keep what was overwritten since.
    fn let_go(&mut self, now: Instant) {
        self.sources.let_go(now);
        self.counts.let_go(now);
    }
}

impl Done {
    fn one(input: Input) -> Self {
        Self { inputs: vec![input], ..Self::default() }
    }
}

/// Who was taken over by whom, if an input tells that.
fn merger_of(input: &Input) -> Option<(ReplicaName, Merger)> {
    match input {
        Input::Merged { loser, into, at } => Some((*loser, Merger { into: *into, at: *at })),
        _ => None,
    }
}

/// From whom a Decide entry takes over.
struct Gained {
    loser: GroupId,
    /// It waits for this.
    seal: Slot,
    /// The loser ends.
    merge: bool,
}

/// What a Decide entry takes over; `None` if that is nothing in this state.
fn gained_from(state: &GroupState, entry: &Entry) -> Option<Gained> {
    let decide = Decide::from_all(entry.body.clone()).ok()?;
    match &state.pending {
        Some(Pending::Gains { operation, takeover, .. }) if *operation == decide.operation => {
            let (loser, merge) = (takeover.loser, takeover.merge);
            decide.commit.map(|surrender| Gained { loser, seal: surrender.seal, merge })
        }
        Some(Pending::Gains { .. } | Pending::Loses { .. }) | None => None,
    }
}

/// Who leads the group that an entry gives birth to in ballot 1.
fn first_leader(entry: &Entry) -> NodeId {
    let body = entry.body.clone();
    let leader = if entry.kind == EntryKind::Recover {
        Recover::from_all(body).map(|recover| recover.leader)
    } else {
        Split::from_all(body).map(|split| split.leader)
    };
    leader.unwrap_or_default()
}

fn report<S: Store>(machine: &Machine<S>) -> MachineReport {
    let state = machine.state();
    MachineReport {
        incarnation: machine.name().incarnation,
        applied: state.applied,
        stamp: state.stamp,
        log_time: state.log_time,
        next_expiry: machine.next_expiry(),
        feature_level: state.feature_level,
        state: machine.shape().clone(),
        counted: state.counted,
    }
}
