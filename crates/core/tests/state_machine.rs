//! The state machine against a plain model of it: random entries, reopened after every batch, with failing stores,
//! crashes and snapshots in between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::prelude::*;
use scatter_core::codec::{Decode, Encode};
use scatter_core::command::{Command, Condition, Idempotency, LaneUse, Operation, Outcome, Write};
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::group::{
    Chunk, Configuration, Expiry, GroupState, Limits, Machine, Member, Role, SnapshotError, SnapshotSink, read,
};
use scatter_core::ring::{Key, KeyRange, Position};
use scatter_core::store::map::{Fault, MapStore};
use scatter_core::store::{Store, StoreError};
use scatter_core::time::LogTime;
use scatter_core::types::{
    ClusterId, ConfigurationVersion, FeatureLevel, GroupId, Incarnation, NodeId, ReplicaName, SessionId, Slot,
    TabletId, Version,
};
use std::collections::BTreeMap;

const GROUP: GroupId = GroupId(7);
const START: u64 = 1_000_000;
const KEYS: usize = 14;

fn limits() -> Limits {
    Limits {
        max_lanes: 4,
        max_lane_bytes: 1 << 20,
        max_stamp_ahead_micros: 500,
        idempotency_life_micros: 3_000,
        max_idempotency_records: 3,
        lane_log_slack: 3,
        recent_keys: 6,
    }
}

fn name() -> ReplicaName {
    ReplicaName { group: GROUP, node: NodeId(1), incarnation: Incarnation(1) }
}

fn configuration(version: u64) -> Configuration {
    let member =
        Member { node: NodeId(1), incarnation: Incarnation(1), role: Role::Voter, address: "127.0.0.1:1".into() };
    Configuration { version: ConfigurationVersion(version), members: vec![member] }
}

fn state(range: KeyRange) -> GroupState {
    GroupState { range, ..GroupState::genesis(ClusterId(1), GROUP, configuration(1), LogTime(START)) }
}

/// Two partitions, so that some keys lie side by side; one key holds a zero byte.
fn key(index: usize) -> Key {
    let text = match index % KEYS {
        0 => "a\0b".to_owned(),
        index if index < 5 => format!("part/{index}"),
        index => format!("k{index}"),
    };
    Key::new(text.into_bytes()).unwrap()
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    let at = |byte: u8| Position(Bytes::copy_from_slice(&[byte]));
    prop_oneof![
        2 => Just(KeyRange::whole()),
        1 => Just(KeyRange { start: at(0x20), end: at(0xb0) }),
        1 => Just(KeyRange { start: at(0x90), end: at(0x40) }),
        1 => (0..KEYS).prop_map(move |index| KeyRange { start: key(index).position(), end: at(0x80) }),
    ]
}

// ---- what happens, before versions and stamps are known ----

#[derive(Clone, Debug)]
enum WhatCondition {
    Always,
    Exists,
    Absent,
    Current,
    Other(u64),
}

#[derive(Clone, Debug)]
enum WhatWrite {
    Put(usize, Vec<u8>, Option<u64>),
    Delete(usize),
}

#[derive(Clone, Debug)]
enum WhatOperation {
    Single(WhatWrite, WhatCondition),
    Batch(Vec<(usize, WhatCondition)>, Vec<WhatWrite>),
}

#[derive(Clone, Debug)]
struct WhatCommand {
    /// Session, and the sequence relative to the one known.
    lane: Option<(u8, i64)>,
    /// Relative to the group's stamp, or to what it has forgotten.
    stamp: (bool, i64),
    idempotency: Option<(u8, u8)>,
    operation: WhatOperation,
    garbage: bool,
}

#[derive(Clone, Debug)]
enum What {
    Noop,
    Commands(Vec<WhatCommand>),
    /// What is due, so much later, and something that is not.
    Expire(Option<usize>),
    Configuration(u64),
    FeatureLevel(u16),
    Links(u64),
    Garbage(u8, Vec<u8>),
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(What, u64, u64)>),
    FailThenApply(Vec<(What, u64, u64)>),
    Flush,
    Crash(usize),
    Snapshot { max_bytes: usize, restart_every: usize },
}

fn condition() -> impl Strategy<Value = WhatCondition> {
    prop_oneof![
        4 => Just(WhatCondition::Always),
        1 => Just(WhatCondition::Exists),
        1 => Just(WhatCondition::Absent),
        2 => Just(WhatCondition::Current),
        1 => (0..START).prop_map(WhatCondition::Other),
    ]
}

fn write() -> impl Strategy<Value = WhatWrite> {
    let ttl = prop_oneof![3 => Just(None), 3 => (0u64..8).prop_map(Some), 1 => Just(Some(u64::MAX))];
    prop_oneof![
        3 => (0..KEYS, proptest::collection::vec(any::<u8>(), 0..20), ttl)
            .prop_map(|(key, value, ttl)| WhatWrite::Put(key, value, ttl)),
        1 => (0..KEYS).prop_map(WhatWrite::Delete),
    ]
}

fn command() -> impl Strategy<Value = WhatCommand> {
    let operation = prop_oneof![
        4 => (write(), condition()).prop_map(|(write, condition)| WhatOperation::Single(write, condition)),
        1 => (
            proptest::collection::vec((0..KEYS, condition()), 0..3),
            proptest::collection::vec(write(), 0..4),
        ).prop_map(|(conditions, writes)| WhatOperation::Batch(conditions, writes)),
    ];
    let stamp = prop_oneof![4 => Just(0i64), 2 => -5i64..5, 1 => 400i64..600];
    (
        proptest::option::weighted(0.7, (0u8..6, -1i64..4)),
        (proptest::bool::weighted(0.7), stamp),
        proptest::option::weighted(0.3, (0u8..3, 0u8..2)),
        operation,
        proptest::bool::weighted(0.03),
    )
        .prop_map(|(lane, stamp, idempotency, operation, garbage)| WhatCommand {
            lane,
            stamp,
            idempotency,
            operation,
            garbage,
        })
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        1 => Just(What::Noop),
        8 => proptest::collection::vec(command(), 0..6).prop_map(What::Commands),
        4 => proptest::option::of(0..KEYS).prop_map(What::Expire),
        1 => (0u64..3).prop_map(What::Configuration),
        1 => (0u16..4).prop_map(What::FeatureLevel),
        1 => (0u64..4).prop_map(What::Links),
        1 => (0u8..6, proptest::collection::vec(any::<u8>(), 0..12)).prop_map(|(kind, body)| What::Garbage(kind, body)),
    ]
}

fn entries() -> impl Strategy<Value = Vec<(What, u64, u64)>> {
    let clock = prop_oneof![3 => 0u64..50, 1 => 0u64..2_000];
    proptest::collection::vec((what(), clock, prop_oneof![3 => 0u64..100, 2 => 500u64..4_000]), 0..5)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => entries().prop_map(Step::Apply),
        1 => entries().prop_map(Step::FailThenApply),
        1 => Just(Step::Flush),
        1 => (0usize..4).prop_map(Step::Crash),
        1 => (prop_oneof![Just(0usize), 1usize..200, Just(1 << 20)], 1usize..5)
            .prop_map(|(max_bytes, restart_every)| Step::Snapshot { max_bytes, restart_every }),
    ]
}

// ---- the model ----

#[derive(Clone, Debug)]
struct Stored {
    version: Version,
    modified: LogTime,
    deadline: Option<LogTime>,
    value: Bytes,
}

type RecordName = (Vec<u8>, u8, Vec<u8>);
type Record = (Version, LogTime, u128, Outcome);

#[derive(Clone, Debug)]
struct Model {
    range: KeyRange,
    applied: u64,
    stamp: u64,
    forgotten: u64,
    log_time: u64,
    clock: u64,
    configuration: u64,
    level: u16,
    links: u64,
    keys: BTreeMap<Vec<u8>, Stored>,
    lanes: BTreeMap<u8, (u64, u64, Outcome)>,
    records: BTreeMap<RecordName, Record>,
}

impl Model {
    fn new(range: KeyRange) -> Self {
        Self {
            range,
            applied: 1,
            stamp: START,
            forgotten: 0,
            log_time: START,
            clock: 0,
            configuration: 1,
            level: 1,
            links: 1,
            keys: BTreeMap::new(),
            lanes: BTreeMap::new(),
            records: BTreeMap::new(),
        }
    }

    fn version(&mut self) -> Version {
        self.stamp = (self.stamp + 1).max(self.clock);
        Version(self.stamp)
    }

    fn owns(&self, key: &Key) -> bool {
        self.range.contains(&key.position())
    }

    fn entry(&mut self, entry: &Entry) -> Vec<Outcome> {
        self.applied += 1;
        self.log_time += entry.clock.advance_micros;
        self.clock = entry.clock.stamp.0;
        match entry.kind {
            // Counters that are exact are not corrected.
            EntryKind::Noop | EntryKind::Correct => {}
            EntryKind::Commands => match Vec::<Bytes>::from_all(entry.body.clone()) {
                Ok(commands) => return commands.into_iter().map(|command| self.command(command)).collect(),
                Err(_) => return vec![Outcome::Malformed],
            },
            EntryKind::Configuration => {
                if let Ok(configuration) = Configuration::from_all(entry.body.clone())
                    && configuration.version.0 == self.configuration + 1
                {
                    self.configuration += 1;
                }
            }
            EntryKind::FeatureLevel => {
                if let Ok(level) = FeatureLevel::from_all(entry.body.clone()) {
                    self.level = self.level.max(level.0);
                }
            }
            EntryKind::Links => {
                if let Ok(links) = scatter_core::group::Links::from_all(entry.body.clone()) {
                    self.links = self.links.max(links.version.0);
                }
            }
            EntryKind::Expire => {
                for expiry in Vec::<Expiry>::from_all(entry.body.clone()).unwrap_or_default() {
                    self.expire(expiry);
                }
            }
        }
        Vec::new()
    }

    fn expire(&mut self, expiry: Expiry) {
        let log_time = self.log_time;
        match expiry {
            Expiry::Key { key, version } => {
                let due = self.keys.get(&key.bytes()[..]).is_some_and(|stored| {
                    stored.version == version && stored.deadline.is_some_and(|deadline| deadline.0 <= log_time)
                });
                if due {
                    self.version();
                    self.keys.remove(&key.bytes()[..]);
                }
            }
            Expiry::Idempotency { key, method, idempotency_key, version } => {
                let name = (key.bytes().to_vec(), method, idempotency_key.to_vec());
                if self.records.get(&name).is_some_and(|record| record.0 == version && record.1.0 <= log_time) {
                    self.records.remove(&name);
                }
            }
        }
    }

    fn command(&mut self, bytes: Bytes) -> Outcome {
        let Ok(command) = Command::from_all(bytes) else { return Outcome::Malformed };
        let keys: Vec<Key> = command.operation.keys().into_iter().cloned().collect();
        if command.lane.is_some_and(|lane| lane.sequence == 0)
            || command.idempotency.is_some() && (keys.is_empty() || keys.iter().any(|key| *key != keys[0]))
        {
            return Outcome::Malformed;
        }
        if !keys.iter().all(|key| self.owns(key)) {
            return Outcome::NotOwner;
        }
        if let Some(lane) = command.lane {
            let current = self.stamp.max(self.clock);
            let acceptable = Version(current.max(self.forgotten + 1));
            match self.lanes.get(&(lane.session.0 as u8)) {
                Some((sequence, _, outcome)) if *sequence == lane.sequence => return outcome.clone(),
                Some((sequence, ..)) if *sequence > lane.sequence => return Outcome::Unknown,
                None if lane.stamp.0 <= self.forgotten => return Outcome::Forgotten { stamp: acceptable },
                _ => {}
            }
            if lane.stamp.0 > current + limits().max_stamp_ahead_micros {
                return Outcome::StampAhead { stamp: acceptable };
            }
            self.stamp = self.stamp.max(lane.stamp.0);
        }
        let version = self.version();
        let outcome = self.once(&command, version);
        if let Some(lane) = command.lane {
            self.lanes.insert(lane.session.0 as u8, (lane.sequence, self.stamp, outcome.clone()));
            if self.lanes.len() > limits().max_lanes {
                let (session, stamp) =
                    self.lanes.iter().map(|(session, lane)| (*session, lane.1)).min_by_key(|lane| lane.1).unwrap();
                self.lanes.remove(&session);
                self.forgotten = self.forgotten.max(stamp);
            }
        }
        outcome
    }

    fn once(&mut self, command: &Command, version: Version) -> Outcome {
        let Some(idempotency) = &command.idempotency else { return self.operate(&command.operation, version) };
        let key = command.operation.keys()[0].bytes().to_vec();
        let name = (key, idempotency.method, idempotency.key.to_vec());
        if let Some((_, _, digest, outcome)) = self.records.get(&name) {
            return if *digest == idempotency.digest { outcome.clone() } else { Outcome::IdempotencyMismatch };
        }
        let outcome = self.operate(&command.operation, version);
        let deadline = LogTime(self.log_time + limits().idempotency_life_micros);
        self.records.insert(name, (version, deadline, idempotency.digest, outcome.clone()));
        if self.records.len() as u64 > limits().max_idempotency_records {
            let oldest = self.records.iter().min_by_key(|(_, record)| (record.1, record.0)).unwrap().0.clone();
            self.records.remove(&oldest);
        }
        outcome
    }

    fn holds(&self, key: &Key, condition: Condition) -> Result<(), Option<Version>> {
        let current = self.keys.get(&key.bytes()[..]).map(|stored| stored.version);
        let holds = match condition {
            Condition::Always => true,
            Condition::VersionIs { version } => current == Some(version),
            Condition::Exists => current.is_some(),
            Condition::Absent => current.is_none(),
        };
        if holds { Ok(()) } else { Err(current) }
    }

    fn put(&mut self, key: &Key, value: &Bytes, ttl_ms: Option<u64>, version: Version) -> bool {
        let modified = LogTime(self.log_time);
        let deadline = ttl_ms.map(|ttl| LogTime(self.log_time.saturating_add(ttl.saturating_mul(1000))));
        let stored = Stored { version, modified, deadline, value: value.clone() };
        self.keys.insert(key.bytes().to_vec(), stored).is_none()
    }

    fn operate(&mut self, operation: &Operation, version: Version) -> Outcome {
        match operation {
            Operation::Put { key, value, ttl_ms, condition } => match self.holds(key, *condition) {
                Err(current) => Outcome::ConditionFailed { index: 0, current },
                Ok(()) => Outcome::Written { version, created: self.put(key, value, *ttl_ms, version) },
            },
            Operation::Delete { key, condition } => match self.holds(key, *condition) {
                Err(current) => Outcome::ConditionFailed { index: 0, current },
                Ok(()) if self.keys.remove(&key.bytes()[..]).is_some() => Outcome::Deleted { version },
                Ok(()) => Outcome::NotFound,
            },
            Operation::Batch { conditions, writes } => {
                for (index, (key, condition)) in conditions.iter().enumerate() {
                    if let Err(current) = self.holds(key, *condition) {
                        return Outcome::ConditionFailed { index: index as u32, current };
                    }
                }
                let mut versions = Vec::new();
                for (index, write) in writes.iter().enumerate() {
                    let version = if index == 0 { version } else { self.version() };
                    match write {
                        Write::Put { key, value, ttl_ms } => {
                            self.put(key, value, *ttl_ms, version);
                        }
                        Write::Delete { key } => {
                            self.keys.remove(&key.bytes()[..]);
                        }
                    }
                    versions.push(version);
                }
                Outcome::BatchWritten { versions }
            }
        }
    }

    // ---- from what happens to entries ----

    fn build_condition(&self, index: usize, condition: &WhatCondition) -> Condition {
        match condition {
            WhatCondition::Always => Condition::Always,
            WhatCondition::Exists => Condition::Exists,
            WhatCondition::Absent => Condition::Absent,
            WhatCondition::Current => self
                .keys
                .get(&key(index).bytes()[..])
                .map_or(Condition::Absent, |stored| Condition::VersionIs { version: stored.version }),
            WhatCondition::Other(version) => Condition::VersionIs { version: Version(*version) },
        }
    }

    fn build_command(&self, what: &WhatCommand) -> Bytes {
        let operation = match &what.operation {
            WhatOperation::Single(WhatWrite::Put(index, value, ttl_ms), condition) => Operation::Put {
                key: key(*index),
                value: value.clone().into(),
                ttl_ms: *ttl_ms,
                condition: self.build_condition(*index, condition),
            },
            WhatOperation::Single(WhatWrite::Delete(index), condition) => {
                Operation::Delete { key: key(*index), condition: self.build_condition(*index, condition) }
            }
            WhatOperation::Batch(conditions, writes) => Operation::Batch {
                conditions: conditions
                    .iter()
                    .map(|(index, condition)| (key(*index), self.build_condition(*index, condition)))
                    .collect(),
                writes: writes
                    .iter()
                    .map(|write| match write {
                        WhatWrite::Put(index, value, ttl_ms) => {
                            Write::Put { key: key(*index), value: value.clone().into(), ttl_ms: *ttl_ms }
                        }
                        WhatWrite::Delete(index) => Write::Delete { key: key(*index) },
                    })
                    .collect(),
            },
        };
        let lane = what.lane.map(|(session, offset)| {
            let known = self.lanes.get(&session).map_or(1, |lane| lane.0);
            let base = if what.stamp.0 { self.stamp } else { self.forgotten };
            LaneUse {
                session: SessionId(session.into()),
                lane: 0,
                sequence: known.saturating_add_signed(offset),
                stamp: Version(base.saturating_add_signed(what.stamp.1)),
            }
        });
        let idempotency = what.idempotency.map(|(key, digest)| Idempotency {
            key: Bytes::copy_from_slice(&[key, 0]),
            method: b'P',
            digest: digest.into(),
        });
        let bytes = Command { lane, idempotency, operation }.to_bytes();
        if what.garbage { bytes.slice(..bytes.len() - 1) } else { bytes }
    }

    fn build(&self, what: &What, due: Vec<Expiry>, state: &GroupState) -> (EntryKind, Bytes) {
        match what {
            What::Noop => (EntryKind::Noop, Bytes::new()),
            What::Commands(commands) => {
                let commands: Vec<Bytes> = commands.iter().map(|command| self.build_command(command)).collect();
                (EntryKind::Commands, commands.to_bytes())
            }
            What::Expire(wrong) => {
                let mut due = due;
                due.extend(wrong.map(|index| Expiry::Key { key: key(index), version: Version(START) }));
                // A key that has no deadline, or whose time has not come.
                due.extend(wrong.and_then(|index| {
                    let version = self.keys.get(&key(index).bytes()[..])?.version;
                    Some(Expiry::Key { key: key(index), version })
                }));
                // The same of an idempotency record, and one under the version of another.
                for (index, record) in wrong.iter().flat_map(|_| self.records.iter()).enumerate() {
                    let ((at, method, idempotency_key), (version, ..)) = record;
                    due.push(Expiry::Idempotency {
                        key: Key::new(at.clone()).unwrap(),
                        method: *method,
                        idempotency_key: idempotency_key.clone().into(),
                        version: Version(version.0 - (index as u64 % 2)),
                    });
                }
                (EntryKind::Expire, due.to_bytes())
            }
            What::Configuration(offset) => {
                (EntryKind::Configuration, configuration(self.configuration + offset).to_bytes())
            }
            What::FeatureLevel(level) => (EntryKind::FeatureLevel, FeatureLevel(*level).to_bytes()),
            What::Links(version) => {
                let mut links = state.links.clone();
                links.version.0 = *version;
                (EntryKind::Links, links.to_bytes())
            }
            What::Garbage(kind, body) => {
                (EntryKind::from_all(Bytes::copy_from_slice(&[*kind])).unwrap(), body.clone().into())
            }
        }
    }
}

// ---- the run ----

struct World {
    store: MapStore,
    machine: Machine<MapStore>,
    model: Model,
    /// Every entry so far with the outcomes it had, and the fingerprint after it.
    log: Vec<(Entry, Vec<Outcome>)>,
    /// The store's batches since the last flush: the slot each leads to.
    unflushed: Vec<u64>,
    flushed: u64,
    /// The model as of each slot, from slot 1.
    history: Vec<Model>,
    fingerprints: Vec<u64>,
    next_tablet: u64,
}

impl World {
    fn new(range: KeyRange) -> Self {
        let store = MapStore::new();
        let machine = Machine::create(store.clone(), name(), state(range.clone()), TabletId(1)).unwrap();
        let machine = machine.with_limits(limits());
        store.flush().unwrap();
        let model = Model::new(range);
        Self {
            store,
            fingerprints: vec![machine.fingerprint()],
            machine,
            history: vec![model.clone()],
            model,
            log: Vec::new(),
            unflushed: Vec::new(),
            flushed: 1,
            next_tablet: 2,
        }
    }

    fn open(&self) -> Machine<MapStore> {
        Machine::open(self.store.clone(), GROUP).unwrap().unwrap().with_limits(limits())
    }

    /// Makes entries of what happens; the model moves along, so that each sees what the earlier ones did.
    fn build(&mut self, whats: &[(What, u64, u64)]) -> Vec<(Slot, Entry)> {
        let mut entries = Vec::new();
        for (what, clock, advance) in whats {
            // What is due is named as of the state before the batch, like a leader that runs ahead of its applying.
            let due = match what {
                What::Expire(_) => self.machine.expired_at(LogTime(self.model.log_time + advance), 5).unwrap(),
                _ => Vec::new(),
            };
            let (kind, body) = self.model.build(what, due, self.machine.state());
            let stamp = Version((START + self.model.applied * 20 + clock).saturating_sub(100));
            let entry = Entry { kind, clock: EntryClock { stamp, advance_micros: *advance }, body };
            let outcomes = self.model.entry(&entry);
            self.log.push((entry.clone(), outcomes));
            self.history.push(self.model.clone());
            entries.push((Slot(self.model.applied), entry));
        }
        entries
    }

    fn apply(&mut self, whats: &[(What, u64, u64)], fail: bool) {
        let before = self.machine.state().clone();
        let fingerprint = self.machine.full_fingerprint().unwrap();
        let entries = self.build(whats);
        if fail && !entries.is_empty() {
            for fault in [Fault::Writes(StoreError::NoSpace), Fault::All(StoreError::Failed("gone".into()))] {
                self.store.set_fault(fault);
                assert!(self.machine.apply(&entries).is_err());
                assert_eq!(*self.machine.state(), before);
            }
            // Reading works again before writing does.
            self.store.set_fault(Fault::Writes(StoreError::NoSpace));
            assert_eq!(self.machine.apply(&entries), Err(StoreError::NoSpace));
            self.store.set_fault(Fault::None);
            assert_eq!(self.machine.full_fingerprint().unwrap(), fingerprint);
        }
        let applied = self.machine.apply(&entries).unwrap();
        let first = before.applied.0 as usize - 1;
        let expected: Vec<_> = entries
            .iter()
            .zip(&self.log[first..])
            .map(|((slot, _), (_, outcomes))| (*slot, outcomes.clone()))
            .collect();
        assert_eq!(applied.outcomes, expected);
        assert_eq!(applied.through.0, self.model.applied);
        assert_eq!(applied.log_time.0, self.model.log_time);
        assert_eq!(applied.stamp.0, self.model.stamp);
        assert_eq!(applied.configuration.is_some(), before.configuration.version.0 != self.model.configuration);
        if !entries.is_empty() {
            self.unflushed.push(self.model.applied);
        }
    }

    fn check(&mut self) {
        let state = self.machine.state();
        let model = &self.model;
        assert_eq!(
            (state.applied.0, state.stamp.0, state.forgotten.0, state.log_time.0),
            (model.applied, model.stamp, model.forgotten, model.log_time)
        );
        assert_eq!(state.configuration.version.0, model.configuration);
        assert_eq!((state.feature_level.0, state.links.version.0), (model.level, model.links));
        assert_eq!(state.keys, model.keys.len() as u64);
        assert_eq!(self.machine.lanes(), model.lanes.len());
        assert_eq!(self.machine.idempotency_records(), model.records.len() as u64);
        let view = self.store.view();
        for index in 0..KEYS {
            let found = read(&view, self.machine.tablets(), &key(index)).unwrap();
            let expected = model.keys.get(&key(index).bytes()[..]);
            assert_eq!(
                found.map(|found| (found.version, found.modified, found.value)),
                expected.map(|stored| (stored.version, stored.modified, stored.value.clone()))
            );
        }
        let again = self.open();
        assert_eq!(again.state(), state);
        assert_eq!((again.tablets(), again.name()), (self.machine.tablets(), name()));
        assert_eq!(again.fingerprint(), self.machine.fingerprint());
        assert_eq!(again.full_fingerprint().unwrap(), self.machine.full_fingerprint().unwrap());
    }

    /// The process dies with the batches after the first `keep` unflushed ones, and applies the log again.
    fn crash(&mut self, keep: usize) {
        let lost_fingerprint = self.machine.fingerprint();
        assert_eq!(self.store.unflushed(), self.unflushed.len());
        let keep = keep.min(self.unflushed.len());
        self.store.crash(keep);
        let slot = keep.checked_sub(1).map_or(self.flushed, |last| self.unflushed[last]);
        self.machine = self.open();
        assert_eq!(self.machine.state().applied.0, slot);
        let model = std::mem::replace(&mut self.model, self.history[slot as usize - 1].clone());
        self.check();
        self.model = model;
        // One entry in a batch, whatever shared one before: the outcome is the same.
        for (index, (entry, outcomes)) in self.log.iter().enumerate().skip(slot as usize - 1) {
            let slot = Slot(index as u64 + 2);
            let applied = self.machine.apply(&[(slot, entry.clone())]).unwrap();
            assert_eq!(applied.outcomes, [(slot, outcomes.clone())]);
        }
        assert_eq!(self.machine.fingerprint(), lost_fingerprint);
        self.flush();
    }

    fn flush(&mut self) {
        self.store.flush().unwrap();
        self.unflushed.clear();
        self.flushed = self.model.applied;
    }

    /// Sends a snapshot into another store that holds an older state of the group, and carries on there.
    fn snapshot(&mut self, max_bytes: usize, restart_every: usize) {
        let store = MapStore::new();
        let old = Machine::create(store.clone(), name(), state(self.model.range.clone()), TabletId(1)).unwrap();
        let mut old = old.with_limits(limits());
        let half = self.log.len() / 2;
        for (index, (entry, _)) in self.log[..half].iter().enumerate() {
            old.apply(&[(Slot(index as u64 + 2), entry.clone())]).unwrap();
        }
        let mut source = self.machine.snapshot();
        let tablet = TabletId(self.next_tablet);
        self.next_tablet += 1;
        let mut sink = SnapshotSink::begin(store.clone(), name(), tablet).unwrap();
        let old_fingerprint = old.full_fingerprint().unwrap();
        for count in 1.. {
            let chunk = source.chunk(sink.cursor(), max_bytes).unwrap().unwrap();
            let bytes = chunk.to_bytes();
            refuse_damage(&bytes, count);
            let chunk = Chunk::from_all(bytes).unwrap();
            store.set_fault(Fault::Writes(StoreError::NoSpace));
            assert!(matches!(sink.add(&chunk), Err(SnapshotError::Store(_))));
            store.set_fault(Fault::None);
            if sink.add(&chunk).unwrap() {
                break;
            }
            assert!(matches!(sink.add(&chunk), Err(SnapshotError::Order)));
            assert_eq!(old.full_fingerprint().unwrap(), old_fingerprint);
            if count % restart_every == 0 {
                store.flush().unwrap();
                drop(sink);
                sink = SnapshotSink::resume(store.clone(), GROUP).unwrap().unwrap();
                // The sender may be another process, too, or another replica at the same slot.
                source = self.open().snapshot();
            }
        }
        let result = sink.finish();
        if old.state().applied >= self.machine.state().applied {
            assert!(matches!(result, Err(SnapshotError::Stale(_))));
            return;
        }
        drop(old);
        let machine = result.unwrap().with_limits(limits());
        assert_eq!(machine.fingerprint(), self.machine.fingerprint());
        assert_eq!(machine.state(), self.machine.state());
        assert_eq!(machine.full_fingerprint().unwrap(), self.machine.full_fingerprint().unwrap());
        assert!(SnapshotSink::resume(store.clone(), GROUP).unwrap().is_none());
        assert_eq!(Machine::list(&store).unwrap(), [name()]);
        self.store = store;
        self.machine = machine;
        self.flush();
        assert!(self.store.len() <= 4 * (KEYS + 3) + 2 + 200, "the old tablet was not dropped");
    }
}

/// A damaged byte anywhere is found.
fn refuse_damage(bytes: &Bytes, seed: usize) {
    let mut damaged = bytes.to_vec();
    let at = seed.wrapping_mul(7919) % damaged.len();
    damaged[at] ^= 1 << (seed % 8);
    assert!(Chunk::from_all(damaged.into()).is_err());
    assert!(Chunk::from_all(bytes.slice(..at)).is_err());
}

fn run(range: KeyRange, steps: Vec<Step>) {
    let mut world = World::new(range);
    for step in steps {
        match step {
            Step::Apply(whats) => world.apply(&whats, false),
            Step::FailThenApply(whats) => world.apply(&whats, true),
            Step::Flush => world.flush(),
            Step::Crash(keep) => world.crash(keep),
            Step::Snapshot { max_bytes, restart_every } => world.snapshot(max_bytes, restart_every),
        }
        world.fingerprints.push(world.machine.fingerprint());
        world.check();
    }
    // A replica that applied everything one entry at a time is the same.
    let other = Machine::create(MapStore::new(), name(), state(world.model.range.clone()), TabletId(99)).unwrap();
    let mut other = other.with_limits(limits());
    for (index, (entry, _)) in world.log.iter().enumerate() {
        other.apply(&[(Slot(index as u64 + 2), entry.clone())]).unwrap();
    }
    assert_eq!(other.fingerprint(), world.machine.fingerprint());
    assert_eq!(other.full_fingerprint().unwrap(), world.machine.full_fingerprint().unwrap());
    let store = world.store.clone();
    world.machine.destroy().unwrap();
    assert!(store.is_empty());
}

proptest! {
    #[test]
    fn does_what_the_model_does(range in ranges(), steps in proptest::collection::vec(step(), 1..40)) {
        run(range, steps);
    }
}
