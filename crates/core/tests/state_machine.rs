//! The state machine against a plain model of it: random entries, reopened after every batch, with failing stores,
//! crashes and snapshots in between. The group gives up parts of its range, to a child or a neighbour that live elsewhere.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::prelude::*;
use scatter_core::codec::{Decode, Encode};
use scatter_core::command::{Command, Condition, Idempotency, LaneUse, Operation, Outcome, Write};
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::group::{
    Chunk, Configuration, Correction, Expiry, GroupState, Holding, Limits, Link, Links, Machine, Member, Role,
    SnapshotError, SnapshotSink, read,
};
use scatter_core::ops::{Begin, Decide, OperationId, Prepare, Resolve, Split, Takeover};
use scatter_core::ring::{Key, KeyRange, Position};
use scatter_core::store::map::{Fault, MapStore};
use scatter_core::store::{Store, StoreError};
use scatter_core::time::LogTime;
use scatter_core::types::{
    ClusterId, ConfigurationVersion, FeatureLevel, GroupId, Incarnation, NodeId, OperationCounter, RangeVersion,
    ReplicaName, SessionId, Slot, TabletId, Version,
};
use std::collections::BTreeMap;

const GROUP: GroupId = GroupId(7);
const START: u64 = 1_000_000;
const KEYS: usize = 14;
/// The only other group that there is an operation with, and the child of a split.
const OTHER: GroupId = GroupId(50);
const CHILD: GroupId = GroupId(60);

/// Of everything in a store only the record of the tablet numbers given out is left.
fn check_bare(store: &MapStore) {
    assert_eq!(store.len(), 1, "records are left");
}

/// Counters may sink below zero, as signed numbers do.
fn half(counter: u64) -> u64 {
    ((counter as i64) / 2) as u64
}

fn limits() -> Limits {
    Limits {
        max_lanes: 4,
        max_lane_bytes: 1 << 20,
        max_stamp_ahead_micros: 500,
        idempotency_life_micros: 3_000,
        max_idempotency_records: 3,
        lane_log_slack: 3,
        recent_keys: 6,
        holding: Limits::default().holding,
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
struct WhatLink {
    group: u64,
    adjacent: bool,
    successor: bool,
    range_version: u64,
    configuration_version: u64,
}

#[derive(Clone, Debug)]
enum What {
    Noop,
    Commands(Vec<WhatCommand>),
    /// What is due, so much later, and something that is not.
    Expire(Option<usize>),
    Configuration(u64),
    FeatureLevel(u16),
    Links(Vec<WhatLink>),
    /// At this boundary; as of the range's version, or of another.
    Split(u8, bool),
    /// A neighbour behind (or before) asks for the part from (or up to) this boundary; with the right counter, or not.
    Prepare(u8, bool, bool),
    /// What became of the pending operation, or of one never heard of.
    Resolve(bool, bool),
    /// The group begins a merge.
    Begin(bool),
    /// The pending operation is aborted, or one that is not.
    Abort(bool),
    Settle(bool),
    Correct,
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

fn link() -> impl Strategy<Value = WhatLink> {
    (prop_oneof![Just(GROUP.0), 1u64..4], any::<(bool, bool)>(), 0u64..5, 0u64..3).prop_map(
        |(group, (adjacent, successor), range_version, configuration_version)| WhatLink {
            group,
            adjacent,
            successor,
            range_version,
            configuration_version,
        },
    )
}

fn what() -> impl Strategy<Value = What> {
    prop_oneof![
        1 => Just(What::Noop),
        8 => proptest::collection::vec(command(), 0..6).prop_map(What::Commands),
        4 => proptest::option::of(0..KEYS).prop_map(What::Expire),
        1 => (0u64..3).prop_map(What::Configuration),
        1 => (0u16..4).prop_map(What::FeatureLevel),
        1 => proptest::collection::vec(link(), 0..3).prop_map(What::Links),
        1 => (any::<u8>(), proptest::bool::weighted(0.8)).prop_map(|(at, fits)| What::Split(at, fits)),
        1 => (any::<u8>(), any::<bool>(), proptest::bool::weighted(0.8))
            .prop_map(|(at, behind, fits)| What::Prepare(at, behind, fits)),
        1 => (any::<bool>(), proptest::bool::weighted(0.8)).prop_map(|(commit, ours)| What::Resolve(commit, ours)),
        1 => any::<bool>().prop_map(What::Begin),
        1 => proptest::bool::weighted(0.8).prop_map(What::Abort),
        1 => proptest::bool::weighted(0.8).prop_map(What::Settle),
        1 => Just(What::Correct),
        1 => (0u8..13, proptest::collection::vec(any::<u8>(), 0..12)).prop_map(|(kind, body)| What::Garbage(kind, body)),
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
        1 => (prop_oneof![Just(0usize), 1usize..200, Just(1 << 20)], 1usize..9)
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

/// The operation that holds the group, and what of the range it has sealed.
#[derive(Clone, Debug)]
struct Lock {
    operation: OperationId,
    sealed: Option<KeyRange>,
    gainer: Option<Link>,
}

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
    links: Links,
    range_version: u64,
    pending: Option<Lock>,
    operations: u64,
    owes: Vec<OperationId>,
    /// Estimates, until they are corrected.
    counted: bool,
    key_count: u64,
    byte_count: u64,
    record_count: u64,
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
            links: state(KeyRange::whole()).links,
            range_version: 1,
            pending: None,
            operations: 0,
            owes: Vec::new(),
            counted: true,
            key_count: 0,
            byte_count: 0,
            record_count: 0,
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
        let position = key.position();
        let sealed = self.pending.as_ref().and_then(|lock| lock.sealed.as_ref());
        self.range.contains(&position) && sealed.is_none_or(|sealed| !sealed.contains(&position))
    }

    /// How the group describes itself.
    fn own_link(&self) -> Link {
        Link {
            group: GROUP,
            range_version: RangeVersion(self.range_version),
            configuration_version: ConfigurationVersion(self.configuration),
            range: self.range.clone(),
            members: configuration(1).members,
        }
    }

    /// Gives up all but `range`; half of what is counted is thought to go.
    fn narrow(&mut self, range: KeyRange, range_version: u64) {
        self.range = range;
        self.range_version = range_version;
        self.counted = false;
        self.key_count = self.key_count.wrapping_sub(half(self.key_count));
        self.byte_count = self.byte_count.wrapping_sub(half(self.byte_count));
        let range = self.range.clone();
        let kept = |key: &[u8]| range.contains(&Key::new(key.to_vec()).unwrap().position());
        self.keys.retain(|key, _| kept(key));
        self.records.retain(|(key, ..), _| kept(key));
        self.links.version.0 += 1;
    }

    /// An entry of a group operation.
    fn operate_group(&mut self, entry: &Entry) {
        let body = entry.body.clone();
        match entry.kind {
            EntryKind::Links => self.relink(&Vec::<Link>::from_all(body).unwrap_or_default()),
            EntryKind::Split => {
                if let Ok(split) = Split::from_all(body) {
                    self.split(&split);
                }
            }
            EntryKind::Begin => {
                let begin = Begin::from_all(body).ok().filter(|begin| begin.range_version.0 == self.range_version);
                if self.pending.is_none() && begin.is_some() {
                    let operation = OperationId { coordinator: GROUP, slot: Slot(self.applied) };
                    self.pending = Some(Lock { operation, sealed: None, gainer: None });
                }
            }
            EntryKind::Prepare => {
                if let Ok(prepare) = Prepare::from_all(body) {
                    self.prepare(&prepare);
                }
            }
            EntryKind::Decide => {
                let decide = Decide::from_all(body).ok();
                let ours = self.pending.as_ref().filter(|lock| lock.gainer.is_none()).map(|lock| lock.operation);
                if let Some(decide) = decide.filter(|decide| Some(decide.operation) == ours) {
                    self.pending = None;
                    self.owes.push(decide.operation);
                }
            }
            EntryKind::Resolve => {
                if let Ok(resolve) = Resolve::from_all(body) {
                    self.resolve(&resolve);
                }
            }
            EntryKind::Settle => {
                if let Ok(operation) = OperationId::from_all(body) {
                    self.owes.retain(|owed| *owed != operation);
                }
            }
            kind => panic!("{kind:?} is of no group operation"),
        }
    }

    fn split(&mut self, split: &Split) {
        let inside = split.at != self.range.start && self.range.contains(&split.at);
        if self.pending.is_some() || split.range_version.0 != self.range_version || !inside {
            return;
        }
        let alone = self.range.is_whole();
        let upper = KeyRange { start: split.at.clone(), end: self.range.end.clone() };
        let lower = KeyRange { start: self.range.start.clone(), end: split.at.clone() };
        self.record_count = self.record_count.wrapping_sub(half(self.record_count));
        self.narrow(lower, self.range_version + 1);
        let child = Link {
            group: CHILD,
            range_version: RangeVersion(self.range_version),
            configuration_version: ConfigurationVersion(1),
            range: upper,
            members: configuration(1).members,
        };
        if alone {
            self.links.predecessor = child.clone();
        }
        self.links.successor = child;
    }

    fn prepare(&mut self, prepare: &Prepare) {
        let Takeover { moving, range_version, configuration_version, operations, .. } = &prepare.takeover;
        let at = if moving.start == self.range.start { &moving.end } else { &moving.start };
        let inside = *at != self.range.start && self.range.contains(at);
        let now = (self.range_version, self.configuration, self.operations);
        if self.pending.is_some() || (range_version.0, configuration_version.0, operations.0) != now || !inside {
            return;
        }
        self.operations += 1;
        let (operation, sealed) = (prepare.operation, Some(moving.clone()));
        self.pending = Some(Lock { operation, sealed, gainer: Some(prepare.gainer.clone()) });
    }

    fn resolve(&mut self, resolve: &Resolve) {
        self.operations += 1;
        let lock = self.pending.take_if(|lock| lock.gainer.is_some() && lock.operation == resolve.operation);
        let Some(Lock { sealed: Some(moving), gainer: Some(gainer), .. }) = lock else { return };
        if resolve.committed.is_none() {
            return;
        }
        let behind = moving.end == self.range.end;
        let (mut range, mut wider) = (self.range.clone(), gainer.range.clone());
        if behind {
            range.end = moving.start.clone();
            wider.start = moving.start;
        } else {
            range.start = moving.end.clone();
            wider.end = moving.end;
        }
        self.record_count = self.record_count.wrapping_sub(half(self.record_count));
        self.narrow(range, self.range_version.max(gainer.range_version.0) + 1);
        let wider = Link { range: wider, range_version: RangeVersion(self.range_version), ..gainer };
        let (before, after) = (wider.range.end == self.range.start, wider.range.start == self.range.end);
        let sides = [(false, before, &mut self.links.predecessor), (true, after, &mut self.links.successor)];
        for (successor, adjacent, side) in sides {
            if successor == behind || adjacent && side.group == wider.group {
                *side = wider.clone();
            }
        }
    }

    fn relink(&mut self, links: &[Link]) {
        let before = self.links.clone();
        for link in links {
            let (start, end) = (self.range.start.clone(), self.range.end.clone());
            for successor in [false, true] {
                let known = if successor { &mut self.links.successor } else { &mut self.links.predecessor };
                let adjacent = |link: &Link| if successor { link.range.start == end } else { link.range.end == start };
                let versions = |link: &Link| (link.range_version, link.configuration_version);
                let newer = match known.group {
                    GROUP => true,
                    _ if !adjacent(known) => true,
                    group if group == link.group => versions(link) > versions(known),
                    _ => link.range_version > known.range_version,
                };
                if adjacent(link) && link.group != GROUP && newer {
                    *known = link.clone();
                }
            }
        }
        self.links.version.0 += u64::from(self.links != before);
    }

    /// Makes the counters right, if they are not.
    fn correct(&mut self, correction: &Correction) {
        if self.counted || correction.range_version.0 != self.range_version {
            return;
        }
        self.counted = true;
        self.key_count = self.key_count.wrapping_add(correction.keys);
        self.byte_count = self.byte_count.wrapping_add(correction.bytes);
        self.record_count = self.record_count.wrapping_add(correction.idempotency_records);
    }

    fn set_key(&mut self, key: &Key, stored: Stored) -> bool {
        let created = !self.remove_key(key);
        self.key_count = self.key_count.wrapping_add(1);
        self.byte_count = self.byte_count.wrapping_add((key.bytes().len() + stored.value.len()) as u64);
        self.keys.insert(key.bytes().to_vec(), stored);
        created
    }

    fn remove_key(&mut self, key: &Key) -> bool {
        let Some(stored) = self.keys.remove(&key.bytes()[..]) else { return false };
        self.key_count = self.key_count.wrapping_sub(1);
        self.byte_count = self.byte_count.wrapping_sub((key.bytes().len() + stored.value.len()) as u64);
        true
    }

    fn entry(&mut self, entry: &Entry) -> Vec<Outcome> {
        self.applied += 1;
        self.log_time += entry.clock.advance_micros;
        self.clock = entry.clock.stamp.0;
        match entry.kind {
            EntryKind::Noop => {}
            EntryKind::Correct => {
                if let Ok(correction) = Correction::from_all(entry.body.clone()) {
                    self.correct(&correction);
                }
            }
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
            EntryKind::Links
            | EntryKind::Split
            | EntryKind::Begin
            | EntryKind::Prepare
            | EntryKind::Decide
            | EntryKind::Resolve
            | EntryKind::Settle
            | EntryKind::Recover => self.operate_group(entry),
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
        let (Expiry::Key { key: owned, .. } | Expiry::Idempotency { key: owned, .. }) = &expiry;
        if !self.owns(owned) {
            return;
        }
        match expiry {
            Expiry::Key { key, version } => {
                let due = self.keys.get(&key.bytes()[..]).is_some_and(|stored| {
                    stored.version == version && stored.deadline.is_some_and(|deadline| deadline.0 <= log_time)
                });
                if due {
                    self.version();
                    self.remove_key(&key);
                }
            }
            Expiry::Idempotency { key, method, idempotency_key, version } => {
                let name = (key.bytes().to_vec(), method, idempotency_key.to_vec());
                if self.records.get(&name).is_some_and(|record| record.0 == version && record.1.0 <= log_time) {
                    self.records.remove(&name);
                    self.record_count = self.record_count.wrapping_sub(1);
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
        self.record_count = self.record_count.wrapping_add(1);
        let sealed = self.pending.as_ref().is_some_and(|lock| lock.sealed.is_some());
        for _ in 0..if sealed { 0 } else { 16 } {
            let shown = if self.record_count > u64::MAX / 2 { 0 } else { self.record_count };
            let oldest = self.records.iter().min_by_key(|(_, record)| (record.1, record.0));
            let Some((oldest, _)) = oldest.filter(|_| shown > limits().max_idempotency_records) else { break };
            let oldest = oldest.clone();
            self.records.remove(&oldest);
            self.record_count = self.record_count.wrapping_sub(1);
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
        self.set_key(key, Stored { version, modified, deadline, value: value.clone() })
    }

    fn operate(&mut self, operation: &Operation, version: Version) -> Outcome {
        match operation {
            Operation::Put { key, value, ttl_ms, condition } => match self.holds(key, *condition) {
                Err(current) => Outcome::ConditionFailed { index: 0, current },
                Ok(()) => Outcome::Written { version, created: self.put(key, value, *ttl_ms, version) },
            },
            Operation::Delete { key, condition } => match self.holds(key, *condition) {
                Err(current) => Outcome::ConditionFailed { index: 0, current },
                Ok(()) if self.remove_key(key) => Outcome::Deleted { version },
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
                            self.remove_key(key);
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

    fn build(&self, what: &What, due: Vec<Expiry>, correction: Option<Correction>) -> (EntryKind, Bytes) {
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
            What::Links(links) => {
                let links: Vec<Link> = links.iter().map(|link| self.build_link(link)).collect();
                (EntryKind::Links, links.to_bytes())
            }
            What::Correct => (EntryKind::Correct, correction.to_bytes().slice(usize::from(correction.is_some())..)),
            What::Split(..)
            | What::Prepare(..)
            | What::Resolve(..)
            | What::Begin(_)
            | What::Abort(_)
            | What::Settle(_) => self.build_operation(what),
            What::Garbage(kind, body) => {
                (EntryKind::from_all(Bytes::copy_from_slice(&[*kind])).unwrap(), body.clone().into())
            }
        }
    }

    fn build_link(&self, what: &WhatLink) -> Link {
        let off = Position(Bytes::from_static(&[0x33, 1]));
        let (start, end) = match (what.adjacent, what.successor) {
            (true, true) => (self.range.end.clone(), off),
            (true, false) => (off, self.range.start.clone()),
            (false, _) => (off.clone(), off),
        };
        Link {
            group: GroupId(what.group),
            range_version: RangeVersion(what.range_version),
            configuration_version: ConfigurationVersion(what.configuration_version),
            range: KeyRange { start, end },
            members: configuration(1).members,
        }
    }

    /// The other group, as the neighbour behind or before this one.
    fn neighbour(&self, behind: bool) -> Link {
        let (start, end) = (self.range.end.clone(), self.range.start.clone());
        let (start, end) = if self.range.is_whole() {
            (start, Position(Bytes::from_static(&[0x44])))
        } else if behind {
            // The two need not be the whole ring.
            (start.clone(), Position([&start.0[..], &[1]].concat().into()))
        } else {
            (Position([&self.range.end.0[..], &[1]].concat().into()), end)
        };
        let range_version = RangeVersion(self.range_version + u64::from(behind) * 3);
        Link { group: OTHER, range_version, range: KeyRange { start, end }, ..self.own_link() }
    }

    fn takeover(&self, loser: GroupId, moving: KeyRange, merge: bool) -> Takeover {
        Takeover {
            loser,
            moving,
            merge,
            range_version: RangeVersion(self.range_version),
            configuration_version: ConfigurationVersion(self.configuration),
            operations: OperationCounter(self.operations),
        }
    }

    fn build_operation(&self, what: &What) -> (EntryKind, Bytes) {
        let unknown = OperationId { coordinator: OTHER, slot: Slot(u64::MAX) };
        let pending = self.pending.as_ref().map_or(unknown, |lock| lock.operation);
        let which = |ours: bool| if ours { pending } else { unknown };
        let at = |byte: u8| Position(Bytes::copy_from_slice(&[byte]));
        let off = |fits: bool| u64::from(!fits);
        match *what {
            What::Split(byte, fits) => {
                let range_version = RangeVersion(self.range_version - off(fits));
                let split = Split { at: at(byte), child: CHILD, leader: NodeId(1), range_version };
                (EntryKind::Split, split.to_bytes())
            }
            What::Prepare(byte, behind, fits) if !self.range.is_whole() => {
                let KeyRange { start, end } = self.range.clone();
                let moving = if behind { (at(byte), end) } else { (start, at(byte)) };
                let mut takeover = self.takeover(GROUP, KeyRange { start: moving.0, end: moving.1 }, false);
                takeover.operations.0 += off(fits);
                let operation = OperationId { coordinator: OTHER, slot: Slot(self.applied) };
                let prepare = Prepare { operation, takeover, gainer: self.neighbour(behind) };
                (EntryKind::Prepare, prepare.to_bytes())
            }
            What::Resolve(commit, ours) => {
                let resolve = Resolve { operation: which(ours), committed: commit.then_some(Slot(9)) };
                (EntryKind::Resolve, resolve.to_bytes())
            }
            What::Begin(behind) if !self.range.is_whole() => {
                let loser = self.neighbour(behind);
                let takeover = self.takeover(OTHER, loser.range.clone(), true);
                let (range_version, configuration_version) = (takeover.range_version, takeover.configuration_version);
                (EntryKind::Begin, Begin { range_version, configuration_version, takeover, loser }.to_bytes())
            }
            What::Abort(ours) => (EntryKind::Decide, Decide { operation: which(ours), commit: None }.to_bytes()),
            What::Settle(ours) => {
                let owed = self.owes.first().copied().filter(|_| ours).unwrap_or(unknown);
                (EntryKind::Settle, owed.to_bytes())
            }
            _ => (EntryKind::Noop, Bytes::new()),
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
    /// The range at the beginning.
    first: KeyRange,
}

impl World {
    fn new(range: KeyRange) -> Self {
        let store = MapStore::new();
        let machine = Machine::create(store.clone(), name(), state(range.clone()), TabletId(1)).unwrap();
        let machine = machine.with_limits(limits());
        store.flush().unwrap();
        let model = Model::new(range.clone());
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
            first: range,
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
            let correction = matches!(what, What::Correct).then(|| count(&self.machine));
            let (kind, body) = self.model.build(what, due, correction);
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
        // What moves positions shares its batch with nothing.
        let alone = |entry: &Entry| entry.kind.moves_positions();
        let entries = self.build(whats);
        for run in entries.chunk_by(|(_, one), (_, next)| !alone(one) && !alone(next)) {
            self.apply_run(run, fail);
        }
    }

    fn apply_run(&mut self, entries: &[(Slot, Entry)], fail: bool) {
        let before = self.machine.state().clone();
        if fail {
            let fingerprint = self.machine.full_fingerprint().unwrap();
            for fault in [Fault::Writes(StoreError::NoSpace), Fault::All(StoreError::Failed("gone".into()))] {
                self.store.set_fault(fault);
                assert!(self.machine.apply(entries).is_err());
                assert_eq!(*self.machine.state(), before);
            }
            // Reading works again before writing does.
            self.store.set_fault(Fault::Writes(StoreError::NoSpace));
            assert_eq!(self.machine.apply(entries), Err(StoreError::NoSpace));
            self.store.set_fault(Fault::None);
            assert_eq!(self.machine.full_fingerprint().unwrap(), fingerprint);
        }
        let applied = self.machine.apply(entries).unwrap();
        let first = before.applied.0 as usize - 1;
        let expected: Vec<_> = entries
            .iter()
            .zip(&self.log[first..])
            .map(|((slot, _), (_, outcomes))| (*slot, outcomes.clone()))
            .collect();
        assert_eq!(applied.outcomes, expected);
        let model = &self.history[first + entries.len()];
        assert_eq!(applied.through.0, model.applied);
        assert_eq!(applied.log_time.0, model.log_time);
        assert_eq!(applied.stamp.0, model.stamp);
        assert_eq!(applied.configuration.is_some(), before.configuration.version.0 != model.configuration);
        self.unflushed.push(model.applied);
    }

    fn check(&mut self) {
        let state = self.machine.state();
        let model = &self.model;
        assert_eq!(
            (state.applied.0, state.stamp.0, state.forgotten.0, state.log_time.0),
            (model.applied, model.stamp, model.forgotten, model.log_time)
        );
        assert_eq!(state.configuration.version.0, model.configuration);
        assert_eq!((state.feature_level.0, &state.links), (model.level, &model.links));
        assert_eq!((&state.range, state.range_version.0), (&model.range, model.range_version));
        let lock = state.pending.as_ref().map(|pending| (pending.operation(), pending.sealed().cloned()));
        assert_eq!(lock, model.pending.as_ref().map(|lock| (lock.operation, lock.sealed.clone())));
        let owes: Vec<OperationId> = state.outbox.iter().map(|obligation| obligation.operation()).collect();
        assert_eq!((state.operations.0, owes), (model.operations, model.owes.clone()));
        let counters = (state.counted, state.keys, state.bytes, self.machine.idempotency_records());
        assert_eq!(counters, (model.counted, model.key_count, model.byte_count, model.record_count));
        assert!(!model.counted || model.key_count == model.keys.len() as u64);
        assert!(!model.counted || model.record_count == model.records.len() as u64);
        assert_eq!(self.machine.lanes(), model.lanes.len());
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
        let old = Machine::create(store.clone(), name(), state(self.first.clone()), TabletId(1)).unwrap();
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
        // What is held has to be settled, and what is loaded recorded, before the next restart, or there is no end.
        let holding = match restart_every {
            ..5 => Holding { most: 0, least: usize::MAX },
            _ => Holding { most: max_bytes, least: max_bytes },
        };
        for count in 1.. {
            let chunk = source.chunk(sink.cursor(), max_bytes).unwrap().unwrap();
            let bytes = chunk.into_bytes();
            refuse_damage(&bytes, count);
            let chunk = Chunk::from_bytes(&bytes).unwrap();
            store.set_fault(Fault::Writes(StoreError::NoSpace));
            assert!(matches!(sink.add_holding(&chunk, holding), Err(SnapshotError::Store(_))));
            store.set_fault(Fault::None);
            if sink.add_holding(&chunk, holding).unwrap() {
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

/// What corrects a machine's counters.
fn count(machine: &Machine<MapStore>) -> Correction {
    let mut counting = machine.counting();
    loop {
        if let Some(correction) = counting.advance(3, 1 << 20).unwrap() {
            return correction;
        }
    }
}

/// A damaged byte anywhere is found.
fn refuse_damage(bytes: &Bytes, seed: usize) {
    let mut damaged = bytes.to_vec();
    let at = seed.wrapping_mul(7919) % damaged.len();
    damaged[at] ^= 1 << (seed % 8);
    assert!(Chunk::from_bytes(&damaged.into()).is_err());
    assert!(Chunk::from_bytes(&bytes.slice(..at)).is_err());
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
    let other = Machine::create(MapStore::new(), name(), state(world.first.clone()), TabletId(99)).unwrap();
    let mut other = other.with_limits(limits());
    for (index, (entry, _)) in world.log.iter().enumerate() {
        other.apply(&[(Slot(index as u64 + 2), entry.clone())]).unwrap();
    }
    assert_eq!(other.fingerprint(), world.machine.fingerprint());
    assert_eq!(other.full_fingerprint().unwrap(), world.machine.full_fingerprint().unwrap());
    let store = world.store.clone();
    world.machine.destroy().unwrap();
    check_bare(&store);
}

proptest! {
    #[test]
    fn does_what_the_model_does(range in ranges(), steps in proptest::collection::vec(step(), 1..40)) {
        run(range, steps);
    }
}
