//! One replica's applied state: the group state, the data in its tablets and the lanes.
//!
//! The machine is where decided entries end up. It is deterministic: replicas that applied the same slots hold the same,
//! which [`Machine::fingerprint`] and, more dearly, [`Machine::full_fingerprint`] show. What it holds in memory is always
//! what it would read back from its store: the data, the applied mark and the lanes move in one batch.

use super::apply::{Applying, Scratch};
use super::lanes::Lanes;
use super::layout::{self, ReplicaRecord, Space, damaged, undecodable, unversioned, versioned};
use super::release::release;
use super::reshape::{Beside, Change, Parted};
use super::snapshot::{Holding, note_number};
use super::{Configuration, GroupState, TabletMap, expiry, idempotency, kv};
use crate::codec::{Decode, Encode};
use crate::codec_struct;
use crate::command::Outcome;
use crate::durable::Merger;
use crate::entry::Entry;
use crate::ops::{OperationId, Pending};
use crate::store::{Batch, Read, Store, StoreError, Visit};
use crate::time::LogTime;
use crate::types::{GroupId, ReplicaName, Slot, TabletId, Version};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

/// Version byte of [`Frame`] and [`Mark`].
const FORMAT: u8 = 2;

/// What bounds a group's memory of its clients. Part of the replicated state machine: every replica of a cluster has the
/// same, so they are fixed but for tests and simulation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The most lanes a group remembers.
    pub max_lanes: usize,
    /// The most bytes those take in memory. A takeover carries all of them in one entry, where they take less.
    pub max_lane_bytes: usize,
    /// How far a client's stamp may be ahead of the group's.
    pub max_stamp_ahead_micros: u64,
    /// How long an idempotency key is remembered, in log time.
    pub idempotency_life_micros: u64,
    /// The most idempotency keys a group remembers; for a while more, if groups that had many became one, or if a part is sealed.
    pub max_idempotency_records: u64,
    /// How many changes beyond four times the lanes their log holds before it is swept. Not replicated.
    pub lane_log_slack: usize,
    /// Of how many recently written keys a replica knows version and size without asking its store. Not replicated.
    pub recent_keys: usize,
    /// What is held of a snapshot that comes in. Not replicated.
    pub holding: Holding,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_lanes: 1 << 16,
            max_lane_bytes: 12 << 20,
            max_stamp_ahead_micros: 3_600_000_000,
            idempotency_life_micros: 24 * 3_600_000_000,
            max_idempotency_records: 1 << 17,
            lane_log_slack: 4096,
            recent_keys: 1 << 14,
            holding: Holding { most: 8 << 20, least: 1 << 20 },
        }
    }
}

/// A replica's durable record: all that changes seldom. The numbers in `state` that move with every batch are those of
/// the [`Mark`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    pub(super) name: ReplicaName,
    pub(super) tablets: TabletMap,
    /// What was given up and is still to be taken over by a gainer on this node.
    pub(super) parted: Vec<Parted>,
    /// The gainer beside it has taken over what is sealed here for this operation: its tablets hold what the gainer makes of it.
    pub(super) taken: Option<OperationId>,
    pub(super) state: GroupState,
}

codec_struct!(Frame { name, tablets, parted, taken, state });

impl Frame {
    pub(super) fn parse(bytes: Bytes) -> Result<Self, StoreError> {
        Self::from_all(unversioned(bytes, FORMAT, "a replica's frame")?).map_err(undecodable("a replica's frame"))
    }

    /// All that the replica refers to, parted pieces included, in no order.
    pub(super) fn pieces(&self) -> TabletMap {
        let parted = self.parted.iter().flat_map(|parted| &parted.tablets.0);
        TabletMap(self.tablets.0.iter().chain(parted).cloned().collect())
    }

    pub(super) fn record(&self) -> Bytes {
        versioned(FORMAT, self)
    }
}

/// What moves with every batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub(super) applied: Slot,
    pub(super) stamp: Version,
    pub(super) forgotten: Version,
    pub(super) log_time: LogTime,
    pub(super) keys: u64,
    pub(super) bytes: u64,
    pub(super) idempotency_records: u64,
    pub(super) fingerprint: u64,
}

codec_struct!(Mark { applied, stamp, forgotten, log_time, keys, bytes, idempotency_records, fingerprint });

impl Mark {
    fn parse(bytes: Bytes) -> Result<Self, StoreError> {
        Self::from_all(unversioned(bytes, FORMAT, "a replica's mark")?).map_err(undecodable("a replica's mark"))
    }

    pub(super) fn new(state: &GroupState, idempotency_records: u64, fingerprint: u64) -> Self {
        Self {
            applied: state.applied,
            stamp: state.stamp,
            forgotten: state.forgotten,
            log_time: state.log_time,
            keys: state.keys,
            bytes: state.bytes,
            idempotency_records,
            fingerprint,
        }
    }

    fn restore(&self, state: &mut GroupState) {
        state.applied = self.applied;
        state.stamp = self.stamp;
        state.forgotten = self.forgotten;
        state.log_time = self.log_time;
        state.keys = self.keys;
        state.bytes = self.bytes;
    }

    pub(super) fn record(&self) -> Bytes {
        versioned(FORMAT, self)
    }
}

/// The record of a replica whose machine was taken over.
pub(super) fn merged_record(name: ReplicaName, merger: Merger) -> Bytes {
    versioned(FORMAT, &(name, merger))
}

/// Every replica on the store whose machine was taken over.
pub(crate) fn merged_replicas(store: &impl Read) -> Result<Vec<(ReplicaName, Merger)>, StoreError> {
    let mut merged = Vec::new();
    layout::each_merged(store, |record| {
        let record = unversioned(Bytes::copy_from_slice(record), FORMAT, "a merged replica")?;
        merged.push(<(ReplicaName, Merger)>::from_all(record).map_err(undecodable("a merged replica"))?);
        Ok(())
    })?;
    Ok(merged)
}

/// Whether the machine of a group's replica on the store was taken over.
pub(crate) fn was_merged(store: &impl Read, group: GroupId) -> Result<bool, StoreError> {
    Ok(store.get(&layout::merged_record(group))?.is_some())
}

/// Forgets that a replica's machine was taken over: the replica is buried.
pub(crate) fn forget_merged<S: Store>(store: &S, group: GroupId) -> Result<(), StoreError> {
    let mut batch = S::Batch::default();
    batch.delete(&layout::merged_record(group));
    store.write(batch)
}

/// What came of applying entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Applied {
    /// The last slot applied.
    pub through: Slot,
    /// For each entry its slot and, of a `Commands` entry, one outcome per command, in order.
    pub outcomes: Vec<(Slot, Vec<Outcome>)>,
    /// No deadline lies before this; `None`: there is no deadline.
    pub next_expiry: Option<LogTime>,
    /// The group's clock after the last entry.
    pub log_time: LogTime,
    /// The group's stamp after the last entry.
    pub stamp: Version,
    /// The configuration in force after the last entry, if one of the entries brought it.
    pub configuration: Option<Configuration>,
}

/// One replica's applied state.
#[derive(Debug)]
pub struct Machine<S: Store> {
    store: S,
    limits: Limits,
    name: ReplicaName,
    tablets: TabletMap,
    parted: Vec<Parted>,
    taken: Option<OperationId>,
    state: GroupState,
    /// The state as of its last structural change, for whoever looks at it beside this machine.
    shape: Arc<GroupState>,
    idempotency_records: u64,
    /// No idempotency record lies before this age.
    idempotency_front: (LogTime, Version),
    fingerprint: u64,
    lanes: Lanes,
    next_expiry: Option<LogTime>,
    /// Entries in indexes of deadlines that are not this replica's, and may be nobody's.
    pub(super) passed: Vec<Vec<u8>>,
    scratch: Scratch,
    /// Set while memory may be ahead of the store, after the store failed.
    stale: bool,
}

impl<S: Store> Machine<S> {
    /// Makes the record of a replica that begins with `state` and no data, its range in the unused tablet `tablet`. A
    /// tablet number is never used twice while a process lives.
    pub fn create(store: S, name: ReplicaName, state: GroupState, tablet: TabletId) -> Result<Self, StoreError> {
        assert_eq!(name.group, state.group, "a replica's name is of its group");
        if store.get(&layout::replica_record(name.group, ReplicaRecord::Frame))?.is_some() {
            return Err(StoreError::Failed(format!("this store already has a replica of group {}", name.group)));
        }
        let frame = Frame {
            name,
            tablets: TabletMap::single(state.range.clone(), tablet),
            parted: Vec::new(),
            taken: None,
            state,
        };
        let fingerprint = xxh3_64(&frame.state.to_bytes());
        let mark = Mark::new(&frame.state, 0, fingerprint);
        let mut batch = S::Batch::default();
        put_records(&mut batch, &frame, &mark);
        note_number(&mut batch, tablet);
        store.write(batch)?;
        Ok(Self::assembled(store, frame, &mark, Lanes::new()))
    }

    /// Reads a replica back; `None` if the store has none of `group`.
    pub fn open(store: S, group: GroupId) -> Result<Option<Self>, StoreError> {
        let Some((frame, mark)) = read_records(&store, group)? else { return Ok(None) };
        let lanes = Lanes::load(&store, group)?;
        let mut machine = Self::assembled(store, frame, &mark, lanes);
        machine.find_next_expiry()?;
        Ok(Some(machine))
    }

    /// Every replica that has a record on the store, by group.
    pub fn list(store: &S) -> Result<Vec<ReplicaName>, StoreError> {
        let mut names = Vec::new();
        layout::each_replica(store, |_, record| {
            names.push(Frame::parse(Bytes::copy_from_slice(record))?.name);
            Ok(())
        })?;
        Ok(names)
    }

    pub(super) fn assembled(store: S, frame: Frame, mark: &Mark, lanes: Lanes) -> Self {
        let Frame { name, tablets, parted, taken, mut state } = frame;
        mark.restore(&mut state);
        let shape = Arc::new(state.clone());
        Self {
            store,
            limits: Limits::default(),
            name,
            tablets,
            parted,
            taken,
            state,
            shape,
            idempotency_records: mark.idempotency_records,
            idempotency_front: (LogTime(0), Version(0)),
            fingerprint: mark.fingerprint,
            lanes,
            next_expiry: None,
            passed: Vec::new(),
            scratch: Scratch::default(),
            stale: false,
        }
    }

    /// The machine with other limits, which every replica must then have from the same slot on.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The group state as of the applied slot.
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// Which tablets hold the data: what readers hand to [`kv::read`].
    pub fn tablets(&self) -> &TabletMap {
        &self.tablets
    }

    /// The replica's name.
    pub fn name(&self) -> ReplicaName {
        self.name
    }

    /// The store beneath.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// How many lanes the group remembers.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// How many idempotency keys the group remembers: like the counters of the state, an estimate until somebody has counted.
    pub fn idempotency_records(&self) -> u64 {
        self.idempotency_records
    }

    /// No deadline lies before this; `None`: there is no deadline.
    pub fn next_expiry(&self) -> Option<LogTime> {
        self.next_expiry
    }

    pub(super) fn set_next_expiry(&mut self, next: Option<LogTime>) {
        self.next_expiry = next;
    }

    /// A hash of every entry applied and of what came of it: equal on all replicas at equal slots.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Applies decided entries in one store batch. Slots continue from the applied one.
    ///
    /// After an error nothing was applied, as far as the store can tell: look at [`Machine::state`] for the applied slot
    /// and hand in what follows it again once the store works.
    pub fn apply(&mut self, entries: &[(Slot, Entry)]) -> Result<Applied, StoreError> {
        self.apply_with(entries, &mut Beside::nobody())
    }

    /// [`Machine::apply`], with the machines that the last entry may concern.
    pub(super) fn apply_with(
        &mut self,
        entries: &[(Slot, Entry)],
        beside: &mut Beside<'_, S>,
    ) -> Result<Applied, StoreError> {
        self.refresh()?;
        let mark = Mark::new(&self.state, self.idempotency_records, self.fingerprint);
        let mut before = None;
        let result = self.apply_batch(entries, beside, &mut before);
        let (mut applied, expired) = match result {
            Ok(done) => done,
            Err(error) => {
                if let Some(before) = before {
                    self.state = before;
                }
                mark.restore(&mut self.state);
                self.idempotency_records = mark.idempotency_records;
                self.fingerprint = mark.fingerprint;
                self.stale = true;
                // Lanes and buffers have no way back but through the store. If it does not even read, the next call
                // tries again.
                let _ = self.refresh();
                return Err(error);
            }
        };
        self.scratch.settle(&self.limits);
        if expired {
            // What is found here only spares a wake-up; if the store does not read, the earlier bound still holds.
            let _ = self.find_next_expiry();
        }
        applied.next_expiry = self.next_expiry;
        Ok(applied)
    }

    fn apply_batch(
        &mut self,
        entries: &[(Slot, Entry)],
        beside: &mut Beside<'_, S>,
        before: &mut Option<GroupState>,
    ) -> Result<(Applied, bool), StoreError> {
        let mut work = Applying {
            store: &self.store,
            limits: &self.limits,
            tablets: &self.tablets,
            state: &mut self.state,
            idempotency_records: &mut self.idempotency_records,
            idempotency_front: &mut self.idempotency_front,
            fingerprint: &mut self.fingerprint,
            lanes: &mut self.lanes,
            scratch: &mut self.scratch,
            batch: S::Batch::default(),
            clock: Version(0),
            earliest: None,
            expired: false,
            before: None,
            configuration: None,
            reshaped: None,
        };
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut failed = None;
        for (slot, entry) in entries {
            match work.entry(*slot, entry) {
                Ok(of_entry) => outcomes.push((*slot, of_entry)),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let Applying { mut batch, earliest, expired, before: unchanged, configuration, reshaped, .. } = work;
        *before = unchanged;
        if let Some(error) = failed {
            return Err(error);
        }
        let change: Option<Change<S>> =
            reshaped.map(|reshaped| self.reshape(reshaped, beside, &mut batch)).transpose()?;
        if !entries.is_empty() {
            self.lanes.save(&mut batch, self.name.group, self.state.applied, &self.limits);
            let mark = Mark::new(&self.state, self.idempotency_records, self.fingerprint);
            batch.put(&layout::replica_record(self.name.group, ReplicaRecord::Mark), &mark.record());
            if before.is_some() {
                let tablets = change.as_ref().map_or(&self.tablets, |change| &change.tablets);
                let parted = self.parted.iter().chain(change.iter().filter_map(Change::parted)).cloned().collect();
                let (tablets, taken) = (tablets.clone(), self.taken_now());
                let frame = Frame { name: self.name, tablets, parted, taken, state: self.state.clone() };
                batch.put(&layout::replica_record(self.name.group, ReplicaRecord::Frame), &frame.record());
            }
            self.store.write(batch)?;
        }
        if before.is_some() {
            self.shape = Arc::new(self.state.clone());
        }
        if let Some(change) = change {
            self.reshaped(change, beside);
        }
        self.next_expiry = self.next_expiry.into_iter().chain(earliest).min();
        let applied = Applied {
            through: self.state.applied,
            outcomes,
            next_expiry: self.next_expiry,
            log_time: self.state.log_time,
            stamp: self.state.stamp,
            configuration,
        };
        Ok((applied, expired))
    }

    /// Reads everything back if memory may not be what the store holds.
    fn refresh(&mut self) -> Result<(), StoreError> {
        if !self.stale {
            return Ok(());
        }
        let again = Self::open(self.store.clone(), self.name.group)?;
        let again = again.ok_or_else(|| damaged("the replica's record has vanished"))?;
        *self = again.with_limits(self.limits.clone());
        Ok(())
    }

    /// A hash of all that is replicated, read from the store: for tests and simulation, it looks at every key. Also an
    /// error if an index or a counter does not fit the data.
    pub fn full_fingerprint(&self) -> Result<u64, StoreError> {
        let mut hash = Xxh3::new();
        hash.update(&self.state.to_bytes());
        let mut out = BytesMut::new();
        for lane in self.lanes.iter() {
            lane.encode(&mut out);
        }
        hash.update(&out);
        let mut audit = Audit::default();
        // What is sealed may be the gainer's already, here or elsewhere.
        let sealed = self.state.pending.as_ref().and_then(Pending::sealed);
        let tablets = sealed.map_or_else(|| self.tablets.clone(), |sealed| self.tablets.cut(sealed).1);
        for space in [Space::Values, Space::Idempotency] {
            layout::walk(&self.store, &tablets, space, None, &mut |rest, value| {
                hash.update(&(rest.len() as u64).to_le_bytes());
                hash.update(rest);
                hash.update(&(value.len() as u64).to_le_bytes());
                hash.update(value);
                audit.record(space, rest, value);
                Visit::Continue
            })?;
        }
        for place in tablets.places() {
            for space in [Space::Deadlines, Space::IdempotencyDeadlines] {
                let (start, end) = (layout::in_space(place.tablet, space, &[]), layout::space_end(place.tablet, space));
                self.store.scan(&start, &end, &mut |key, _| {
                    let rest = &key[layout::SPACE_PREFIX..];
                    match expiry::parse(space, rest).zip(layout::parse_deadline(rest)) {
                        Some(((stored, position, _), ((_, version), due))) => {
                            if tablets.find(&position.0).is_some_and(|piece| piece.place() == place) {
                                audit.index(space, (place.group_time(stored), version), due);
                            }
                        }
                        None => audit.bad = true,
                    }
                    Visit::Continue
                })?;
            }
        }
        audit.counted = self.state.counted && sealed.is_none();
        audit.check(&self.state, self.idempotency_records, self.next_expiry)?;
        Ok(hash.digest())
    }

    /// Ends the machine of a group that was merged into another, whose snapshot brought the data: only the note where it went
    /// is left.
    pub(crate) fn end(self, merger: Merger) -> Result<(), StoreError> {
        let mut batch = S::Batch::default();
        release(&self.store, &mut batch, &self.frame().pieces(), &[(self.name.group, None)])?;
        let (start, end) = layout::replica_span(self.name.group);
        batch.delete_range(&start, &end);
        batch.put(&layout::merged_record(self.name.group), &merged_record(self.name, merger));
        self.store.write(batch)
    }

    /// Removes the replica: its record, and whatever data no other replica on the store uses.
    pub fn destroy(self) -> Result<(), StoreError> {
        let mut batch = S::Batch::default();
        release(&self.store, &mut batch, &self.frame().pieces(), &[(self.name.group, None)])?;
        let (start, end) = layout::replica_span(self.name.group);
        batch.delete_range(&start, &end);
        self.store.write(batch)
    }

    /// The state as of its last structural change.
    pub fn shape(&self) -> &Arc<GroupState> {
        &self.shape
    }

    pub(super) fn frame(&self) -> Frame {
        let (tablets, parted, state) = (self.tablets.clone(), self.parted.clone(), self.state.clone());
        Frame { name: self.name, tablets, parted, taken: self.taken_now(), state }
    }

    /// What is sealed here is the gainer's already.
    pub(super) fn taken_now(&self) -> Option<OperationId> {
        self.taken.filter(|taken| self.state.pending.as_ref().is_some_and(|pending| pending.operation() == *taken))
    }

    /// See [`Frame::taken`].
    pub(super) fn taken(&self) -> Option<OperationId> {
        self.taken
    }

    pub(super) fn set_taken(&mut self, taken: Option<OperationId>) {
        self.taken = taken;
    }

    pub(super) fn parted(&self) -> &[Parted] {
        &self.parted
    }

    pub(super) fn push_parted(&mut self, parted: Option<Parted>) {
        self.parted.extend(parted);
    }

    pub(super) fn keep_parted(&mut self, kept: impl Fn(&Parted) -> bool) {
        self.parted.retain(kept);
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits.clone()
    }

    pub(super) fn lanes_ref(&self) -> &Lanes {
        &self.lanes
    }

    pub(super) fn lanes_mut(&mut self) -> &mut Lanes {
        &mut self.lanes
    }

    pub(super) fn raise_forgotten(&mut self, forgotten: Option<Version>) {
        self.state.forgotten = self.state.forgotten.max(forgotten.unwrap_or_default());
    }

    pub(super) fn set_idempotency_records(&mut self, records: u64) {
        self.idempotency_records = records;
    }

    /// The data lies elsewhere from now on: what is remembered of keys, and of where records begin, holds no longer.
    pub(super) fn moved_to(&mut self, tablets: TabletMap) {
        // A machine that gave everything away is about to end.
        let holds = tablets.covers(&self.state.range) || tablets.0.is_empty();
        assert!(holds, "tablets hold the range, all of it and nothing else");
        self.tablets = tablets;
        self.scratch.recent.clear();
        self.idempotency_front = (LogTime(0), Version(0));
    }

    pub(super) fn mark(&self) -> Mark {
        Mark::new(&self.state, self.idempotency_records, self.fingerprint)
    }
}

/// Compares data, indexes and counters. Sums of hashes stand for sets, as the two sides come in different orders.
#[derive(Default, Debug)]
struct Audit {
    keys: u64,
    bytes: u64,
    idempotency_records: u64,
    wanted: u64,
    found: u64,
    earliest: Option<LogTime>,
    bad: bool,
    /// The counters are to be exact.
    counted: bool,
}

impl Audit {
    fn record(&mut self, space: Space, rest: &[u8], value: &[u8]) {
        if space == Space::Values {
            let position = crate::ring::Position(Bytes::copy_from_slice(rest));
            match (position.key(), kv::Head::parse(value)) {
                (Some(key), Some((head, at))) => {
                    self.keys += 1;
                    self.bytes += kv::entry_bytes(&key, value.len() - at);
                    if let Some(deadline) = head.deadline {
                        self.want(Space::Deadlines, (deadline, head.version), rest);
                    }
                }
                _ => self.bad = true,
            }
        } else if let Ok(record) = idempotency::Record::parse(Bytes::copy_from_slice(value)) {
            self.idempotency_records += 1;
            self.want(Space::IdempotencyDeadlines, (record.deadline, record.version), rest);
        } else {
            self.bad = true;
        }
    }

    fn want(&mut self, space: Space, age: (LogTime, Version), due: &[u8]) {
        self.wanted = self.wanted.wrapping_add(audit_hash(space, age, due));
    }

    fn index(&mut self, space: Space, age: (LogTime, Version), due: &[u8]) {
        self.found = self.found.wrapping_add(audit_hash(space, age, due));
        self.earliest = self.earliest.into_iter().chain([age.0]).min();
    }

    fn check(&self, state: &GroupState, idempotency_records: u64, next: Option<LogTime>) -> Result<(), StoreError> {
        if self.bad {
            return Err(damaged("a record or an index entry does not read"));
        }
        if self.wanted != self.found {
            return Err(damaged("the indexes of deadlines do not fit the data"));
        }
        let counters = (state.keys, state.bytes, idempotency_records);
        if self.counted && (self.keys, self.bytes, self.idempotency_records) != counters {
            return Err(damaged("the counters do not fit the data"));
        }
        if self.earliest.is_some_and(|earliest| next.is_none_or(|next| next > earliest)) {
            return Err(damaged("a deadline lies before the earliest known"));
        }
        Ok(())
    }
}

fn audit_hash(space: Space, age: (LogTime, Version), due: &[u8]) -> u64 {
    let key = layout::deadline_key(TabletId(0), space, age, due);
    xxh3_64_with_seed(&key, 0)
}

/// Puts a replica's frame and mark.
pub(super) fn put_records(batch: &mut impl Batch, frame: &Frame, mark: &Mark) {
    batch.put(&layout::replica_record(frame.name.group, ReplicaRecord::Frame), &frame.record());
    batch.put(&layout::replica_record(frame.name.group, ReplicaRecord::Mark), &mark.record());
}

/// A replica's frame and mark; `None` if there is no such replica.
pub(super) fn read_records(read: &impl Read, group: GroupId) -> Result<Option<(Frame, Mark)>, StoreError> {
    let Some(frame) = read.get(&layout::replica_record(group, ReplicaRecord::Frame))? else { return Ok(None) };
    let mark = read.get(&layout::replica_record(group, ReplicaRecord::Mark))?;
    let mut frame = Frame::parse(frame)?;
    let mark = Mark::parse(mark.ok_or_else(|| damaged("a replica without a mark"))?)?;
    mark.restore(&mut frame.state);
    Ok(Some((frame, mark)))
}

#[cfg(test)]
mod tests;
