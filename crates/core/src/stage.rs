//! The apply stage: every machine of a node, and how the core's [`Apply`]s and [`MachineOrder`]s reach them.
//!
//! The shell runs it on a thread of its own, in the order the effects came; the simulator runs the same code. It answers
//! with inputs for the [`crate::Node`] and outcomes for clients.

use crate::codec::{Decode, Encode};
use crate::command::{Found, Outcome};
use crate::effects::{Apply, MachineOrder};
use crate::group::read_word::ReadWord;
use crate::group::{
    Chunk, Counting, GroupState, Limits, Machine, SnapshotError, SnapshotSink, SnapshotSource, TabletMap,
    highest_tablet,
};
use crate::input::{Input, MachineReport};
use crate::planted::{self, Bug};
use crate::ring::Key;
use crate::store::{Store, StoreError};
use crate::time::Instant;
use crate::types::{GroupId, ReplicaName, RequestId, Slot, TabletId};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Snapshots pinned at once for others; a further one takes the place of the one longest unused.
const MAX_SOURCES: usize = 4;

/// Views pinned at once to count what a group holds; further groups wait.
const MAX_COUNTS: usize = 4;

/// What one slice of counting may look at, so that applying does not wait for long.
const COUNT_RECORDS: usize = 1_000;
/// See [`COUNT_RECORDS`].
const COUNT_BYTES: usize = 1 << 20;

/// Due keys listed at once.
const MAX_EXPIRED: usize = 1_000;

/// What came of one piece of work.
#[derive(Default, Debug)]
pub struct Done {
    /// For the node.
    pub inputs: Vec<Input>,
    /// For those who wait.
    pub outcomes: Vec<(RequestId, Outcome)>,
    /// For each entry applied its slot and the outcomes of its commands: for those who watch.
    pub results: Vec<(Slot, Vec<Outcome>)>,
    /// Tablets of the group changed: whoever reads beside the loop needs the new map, and then [`Stage::published`] is called.
    pub moved: Option<GroupId>,
}

struct Source<S: Store> {
    group: GroupId,
    used: Instant,
    source: SnapshotSource<S::View>,
}

struct Count<S: Store> {
    number: u64,
    used: Instant,
    counting: Counting<S::View>,
}

/// All machines of one node, over one store.
pub struct Stage<S: Store> {
    store: S,
    limits: Limits,
    machines: BTreeMap<GroupId, Machine<S>>,
    words: BTreeMap<GroupId, Arc<ReadWord>>,
    sources: BTreeMap<u64, Source<S>>,
    sinks: BTreeMap<GroupId, SnapshotSink<S>>,
    counts: BTreeMap<GroupId, Count<S>>,
    next_source: u64,
    next_tablet: TabletId,
    patience: Duration,
}

impl<S: Store> Stage<S> {
    /// Opens every machine the store holds. `nonce` makes the numbers of this boot's snapshots its own; snapshots nobody
    /// pulls for `patience` are let go.
    pub fn open(store: S, limits: Limits, nonce: u64, patience: Duration) -> Result<Self, StoreError> {
        let mut machines = BTreeMap::new();
        for name in Machine::<S>::list(&store)? {
            if let Some(machine) = Machine::open(store.clone(), name.group)? {
                machines.insert(name.group, machine.with_limits(limits.clone()));
            }
        }
        let mut sinks = BTreeMap::new();
        for name in SnapshotSink::<S>::list(&store)? {
            if let Some(sink) = SnapshotSink::resume(store.clone(), name.group)? {
                sinks.insert(name.group, sink);
            }
        }
        let next_tablet = highest_tablet(&store)?.next();
        Ok(Self {
            store,
            limits,
            machines,
            words: BTreeMap::new(),
            sources: BTreeMap::new(),
            sinks,
            counts: BTreeMap::new(),
            next_source: (nonce << 16).max(1),
            next_tablet,
            patience,
        })
    }

    /// The machines' states, for [`crate::Node::recover`].
    #[must_use]
    pub fn reports(&self) -> Vec<(ReplicaName, MachineReport)> {
        self.machines.values().map(|machine| (machine.name(), report(machine))).collect()
    }

    /// A replica's read word, which the stage keeps up to date from now on.
    pub fn attach(&mut self, group: GroupId, word: Arc<ReadWord>) {
        if let Some(machine) = self.machines.get(&group) {
            word.set_applied(machine.state().applied);
        }
        self.words.insert(group, word);
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

    /// Applies decided entries. After an error nothing of it was applied; the same work may be handed in again.
    pub fn apply(&mut self, apply: &Apply) -> Result<Done, StoreError> {
        let mut done = Done::default();
        let Some(machine) = self.machines.get_mut(&apply.group) else { return Ok(done) };
        let applied = machine.state().applied;
        let fresh = apply.entries.iter().take_while(|(slot, _)| *slot <= applied).count();
        let result = machine.apply(&apply.entries[fresh..])?;
        for (slot, requests) in &apply.waiting {
            let outcomes = result.outcomes.iter().find(|(at, _)| at == slot).map(|(_, outcomes)| outcomes.as_slice());
            for (index, request) in requests.iter().enumerate() {
                let outcome = outcomes.and_then(|outcomes| outcomes.get(index)).cloned().unwrap_or(Outcome::Unknown);
                done.outcomes.push((*request, outcome));
            }
        }
        if let Some(word) = self.words.get(&apply.group) {
            word.set_applied(result.through);
        }
        done.results = result.outcomes;
        done.inputs.push(Input::Applied { group: apply.group, report: report(machine) });
        Ok(done)
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
            MachineOrder::Count { group, count } => self.count(*group, *count, now),
            MachineOrder::ReadSnapshot { group, to, snapshot, cursor, bytes } => {
                self.read_snapshot(*group, *to, *snapshot, cursor.as_ref(), *bytes, now)
            }
            MachineOrder::StoreSnapshot { replica, snapshot, chunk, .. } => {
                self.store_snapshot(*replica, *snapshot, chunk)
            }
            MachineOrder::Destroy { replica } => {
                // A later incarnation may be on its way into the same group: only what is named goes.
                if let Some(sink) = self.sinks.remove(&replica.group) {
                    if sink.name() == *replica {
                        sink.abandon()?;
                    } else {
                        self.sinks.insert(replica.group, sink);
                    }
                }
                if self.machines.get(&replica.group).is_some_and(|machine| machine.name() == *replica) {
                    if let Some(word) = self.words.get(&replica.group) {
                        word.begin_move();
                    }
                    self.sources.retain(|_, source| source.group != replica.group);
                    self.counts.remove(&replica.group);
                    if let Some(machine) = self.machines.remove(&replica.group) {
                        machine.destroy()?;
                    }
                }
                Ok(Done { moved: Some(replica.group), ..Done::default() })
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
            self.machines.insert(name.group, machine.with_limits(self.limits.clone()));
        }
        Ok(self.installed(name.group))
    }

    fn installed(&self, group: GroupId) -> Done {
        let inputs = self.machines.get(&group).map(|machine| Input::Installed { group, report: report(machine) });
        Done { inputs: inputs.into_iter().collect(), moved: Some(group), ..Done::default() }
    }

    fn read_snapshot(
        &mut self,
        group: GroupId,
        to: ReplicaName,
        snapshot: u64,
        cursor: Option<&Bytes>,
        bytes: usize,
        now: Instant,
    ) -> Result<Done, StoreError> {
        let number = if snapshot == 0 { self.pin(group, now) } else { snapshot };
        let mut piece = (0, Slot(0), Bytes::new());
        if let Some(source) = self.sources.get_mut(&number).filter(|source| source.group == group) {
            source.used = now;
            let slot = source.source.header().state.applied;
            if let Some(chunk) = source.source.chunk(cursor, bytes)? {
                if chunk.done {
                    self.sources.remove(&number);
                }
                piece = (number, slot, chunk.to_bytes());
            }
        }
        let (snapshot, slot, chunk) = piece;
        Ok(Done::one(Input::SnapshotRead { group, to, snapshot, slot, chunk }))
    }

    /// Lets views go that nobody has asked for in a while: they keep what was overwritten since.
    fn let_go(&mut self, now: Instant) {
        let patience = self.patience;
        self.sources.retain(|_, source| now.since(source.used) <= patience);
        self.counts.retain(|_, count| now.since(count.used) <= patience);
    }

    fn count(&mut self, group: GroupId, number: u64, now: Instant) -> Result<Done, StoreError> {
        let gone = Done::one(Input::Counted { group, count: 0, correction: None });
        let Some(machine) = self.machines.get(&group).filter(|machine| !machine.state().counted) else {
            self.counts.remove(&group);
            return Ok(gone);
        };
        if number == 0 {
            self.counts.remove(&group);
            if self.counts.len() >= MAX_COUNTS {
                return Ok(gone);
            }
            let count = Count { number: self.next_source, used: now, counting: machine.counting() };
            self.next_source += 1;
            self.counts.insert(group, count);
        }
        let Some(count) = self.counts.get_mut(&group).filter(|count| number == 0 || count.number == number) else {
            return Ok(gone);
        };
        if count.counting.range_version() != machine.state().range_version {
            self.counts.remove(&group);
            return Ok(gone);
        }
        count.used = now;
        let correction = count.counting.advance(COUNT_RECORDS, COUNT_BYTES)?;
        let count = count.number;
        if correction.is_some() {
            self.counts.remove(&group);
        }
        let correction = correction.map(|correction| correction.to_bytes());
        Ok(Done::one(Input::Counted { group, count, correction }))
    }

    fn pin(&mut self, group: GroupId, now: Instant) -> u64 {
        let Some(machine) = self.machines.get(&group) else { return 0 };
        if self.sources.len() >= MAX_SOURCES
            && let Some(oldest) = self.sources.iter().min_by_key(|(_, source)| source.used).map(|(number, _)| *number)
        {
            self.sources.remove(&oldest);
        }
        let number = self.next_source;
        self.next_source += 1;
        self.sources.insert(number, Source { group, used: now, source: machine.snapshot() });
        number
    }

    fn store_snapshot(&mut self, name: ReplicaName, snapshot: u64, chunk: &Bytes) -> Result<Done, StoreError> {
        let group = name.group;
        let refused = Done::one(Input::SnapshotStored { group, snapshot, cursor: None });
        let Ok(chunk) = Chunk::from_all(chunk.clone()) else { return Ok(refused) };
        if chunk.header.is_some() {
            let tablet = self.tablet();
            self.sinks.insert(group, SnapshotSink::begin(self.store.clone(), name, tablet)?);
        }
        let Some(sink) = self.sinks.get_mut(&group) else { return Ok(refused) };
        match sink.add(&chunk) {
            Ok(false) if !planted::on(Bug::SnapshotNotAtomic) => {
                let cursor = Some(chunk.after.clone());
                return Ok(Done::one(Input::SnapshotStored { group, snapshot, cursor }));
            }
            Ok(_) => {}
            Err(SnapshotError::Store(error)) => return Err(error),
            Err(
                SnapshotError::Chunk(_)
                | SnapshotError::Other
                | SnapshotError::Order
                | SnapshotError::Incomplete
                | SnapshotError::Mismatch
                | SnapshotError::Stale(_),
            ) => return Ok(refused),
        }
        let Some(sink) = self.sinks.remove(&group) else { return Ok(refused) };
        // Whoever reads the old tablets is turned back before they go.
        if let Some(word) = self.words.get(&group) {
            word.begin_move();
        }
        match sink.finish() {
            Ok(machine) => {
                self.machines.insert(group, machine.with_limits(self.limits.clone()));
                // What the snapshot replaces in the log is given up only once the snapshot is durable.
                self.store.flush()?;
                Ok(self.installed(group))
            }
            Err(SnapshotError::Store(error)) => Err(error),
            Err(_) => Ok(refused),
        }
    }
}

impl Done {
    fn one(input: Input) -> Self {
        Self { inputs: vec![input], ..Self::default() }
    }
}

fn report<S: Store>(machine: &Machine<S>) -> MachineReport {
    let state = machine.state();
    MachineReport {
        applied: state.applied,
        configuration: state.configuration.clone(),
        stamp: state.stamp,
        log_time: state.log_time,
        next_expiry: machine.next_expiry(),
        feature_level: state.feature_level,
        counted: state.counted,
    }
}
