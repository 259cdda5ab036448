//! Replicas with several tablets, and tablets with several replicas.

mod reshape;

use super::*;
use crate::command::{Command, Condition, Idempotency, Operation};
use crate::entry::{EntryClock, EntryKind};
use crate::group::{Correction, Expiry, Member, Piece, Role, SnapshotSink};
use crate::ring::{Key, KeyRange, Position};
use crate::store::map::MapStore;
use crate::types::{ClusterId, ConfigurationVersion, Incarnation, NodeId};
use proptest::prelude::*;

fn name(group: u64) -> ReplicaName {
    ReplicaName { group: GroupId(group), node: NodeId(1), incarnation: Incarnation(1) }
}

fn range(start: u8, end: u8) -> KeyRange {
    KeyRange { start: Position(Bytes::copy_from_slice(&[start])), end: Position(Bytes::copy_from_slice(&[end])) }
}

/// A replica of `group` over `range`, with its data in `tablets`.
fn replica(store: &MapStore, group: u64, range: KeyRange, pieces: Vec<(KeyRange, u64, i64)>) -> Machine<MapStore> {
    let piece = |(range, tablet, offset_micros)| Piece { range, tablet: TabletId(tablet), offset_micros };
    let tablets = TabletMap(pieces.into_iter().map(piece).collect());
    let member = Member { node: NodeId(1), incarnation: Incarnation(1), role: Role::Voter, address: String::new() };
    let configuration = Configuration { version: ConfigurationVersion(1), members: vec![member] };
    let genesis = GroupState::genesis(ClusterId(1), GroupId(group), configuration, LogTime(1000));
    let state = GroupState { range, ..genesis };
    let mark = Mark::new(&state, 0, 0);
    let mut batch = <MapStore as Store>::Batch::default();
    let frame = Frame { name: name(group), tablets, parted: Vec::new(), taken: None, state };
    put_records(&mut batch, &frame, &mark);
    store.write(batch).unwrap();
    let limits = Limits { max_idempotency_records: 20, idempotency_life_micros: 5000, ..Limits::default() };
    Machine::open(store.clone(), GroupId(group)).unwrap().unwrap().with_limits(limits)
}

fn key(index: u32) -> Key {
    Key::new(format!("k{index}").into_bytes()).unwrap()
}

/// Puts keys with a time-to-live and an idempotency key each; tells how many of them the group owned.
fn fill(machine: &mut Machine<MapStore>, count: u32) -> u64 {
    let mut owned = 0;
    for index in 0..count {
        let operation = Operation::Put {
            key: key(index),
            value: Bytes::from_static(b"value"),
            ttl_ms: Some(1),
            condition: Condition::Absent,
        };
        let idempotency = Idempotency { key: Bytes::from_static(b"x"), method: b'P', digest: 1 };
        let body = vec![Command { lane: None, idempotency: Some(idempotency), operation }.to_bytes()].to_bytes();
        let entry = Entry { kind: EntryKind::Commands, clock: EntryClock::default(), body };
        let applied = machine.apply(&[(machine.state().applied.next(), entry)]).unwrap();
        owned += u64::from(matches!(applied.outcomes[0].1[..], [Outcome::Written { .. }]));
    }
    owned
}

fn expire_all(machine: &mut Machine<MapStore>) -> Vec<Expiry> {
    let mut all = Vec::new();
    loop {
        let due = machine.expired_at(LogTime(u64::MAX), 7).unwrap();
        if due.is_empty() {
            return all;
        }
        let clock = EntryClock { stamp: Version(0), advance_micros: 10_000 };
        let entry = Entry { kind: EntryKind::Expire, clock, body: due.to_bytes() };
        machine.apply(&[(machine.state().applied.next(), entry)]).unwrap();
        all.extend(due);
    }
}

#[test]
fn several_tablets_are_one_replica() {
    let store = MapStore::new();
    let tablets = vec![(range(0x80, 0xf0), 4, 500), (range(0xf0, 0x20), 2, 0), (range(0x20, 0x80), 9, -700)];
    let mut machine = replica(&store, 1, range(0x80, 0x80), tablets);
    assert_eq!(fill(&mut machine, 50), 50);
    assert_eq!(machine.idempotency_records(), 20);
    for index in 0..50 {
        let found = kv::read(&store, machine.tablets(), &key(index)).unwrap();
        assert_eq!(found.map(|found| found.value), Some(Bytes::from_static(b"value")));
    }
    // Sent by several tablets, received into one.
    let mut sink = SnapshotSink::begin(MapStore::new(), name(1), TabletId(1)).unwrap();
    let mut source = machine.snapshot();
    while !sink.is_done() {
        sink.add(&source.chunk(sink.cursor(), 64).unwrap().unwrap()).unwrap();
    }
    let mut copy = sink.finish().unwrap();
    assert_eq!(copy.full_fingerprint().unwrap(), machine.full_fingerprint().unwrap());
    assert_eq!(expire_all(&mut machine).len(), 70);
    assert_eq!((machine.state().keys, machine.state().bytes, machine.idempotency_records()), (0, 0, 0));
    assert_eq!(expire_all(&mut copy).len(), 70);
    machine.destroy().unwrap();
    assert!(store.is_empty());
}

#[test]
fn two_replicas_share_a_tablet_without_seeing_each_other() {
    let store = MapStore::new();
    let mut low = replica(&store, 1, range(0x00, 0x80), vec![(range(0x00, 0x80), 3, 0)]);
    let mut high = replica(&store, 2, range(0x80, 0x00), vec![(range(0x80, 0x00), 3, 0)]);
    let (in_low, in_high) = (fill(&mut low, 40), fill(&mut high, 40));
    assert!(in_low > 0 && in_high > 0 && in_low + in_high == 40);
    for index in 0..40 {
        let found = |machine: &Machine<MapStore>| kv::read(&store, machine.tablets(), &key(index)).unwrap().is_some();
        assert_ne!(found(&low), found(&high));
    }
    low.full_fingerprint().unwrap();
    let before = high.full_fingerprint().unwrap();
    assert_eq!(expire_all(&mut low).len() as u64, in_low + in_low.min(20));
    assert_eq!(fill(&mut low, 40), in_low);
    low.destroy().unwrap();
    // The tablet stays while the other uses it, but for what was the first one's alone.
    assert_eq!(stored(&store, 3, Space::Values), in_high);
    assert_eq!(stored(&store, 3, Space::Idempotency), in_high.min(20));
    assert_eq!(high.full_fingerprint().unwrap(), before);
    assert_eq!(expire_all(&mut high).len() as u64, in_high + in_high.min(20));
    high.destroy().unwrap();
    assert!(store.is_empty());
}

/// One thing to apply: keys put or removed, with or without a time-to-live or an idempotency key, or what is due.
#[derive(Clone, Debug)]
enum Step {
    Put { key: u32, ttl_ms: Option<u64>, idempotency: Option<u8> },
    Delete { key: u32 },
    Expire { advance_micros: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..12u32, proptest::option::of(0..4u64), proptest::option::of(0..3u8))
            .prop_map(|(key, ttl_ms, idempotency)| Step::Put { key, ttl_ms, idempotency }),
        1 => (0..12u32).prop_map(|key| Step::Delete { key }),
        2 => (0..4_000u64).prop_map(|advance_micros| Step::Expire { advance_micros }),
        1 => Just(Step::Reopen),
    ]
}

impl Step {
    /// The entry, the same for every replica.
    fn entry(&self, machine: &mut Machine<MapStore>) -> Entry {
        let condition = Condition::Always;
        let (operation, idempotency) = match self {
            Self::Put { key: index, ttl_ms, idempotency } => {
                let value = Bytes::from_static(b"value");
                (Operation::Put { key: key(*index), value, ttl_ms: *ttl_ms, condition }, *idempotency)
            }
            Self::Delete { key: index } => (Operation::Delete { key: key(*index), condition }, None),
            Self::Expire { advance_micros } => {
                let mut due = machine.expired_at(machine.state().log_time, 1_000).unwrap();
                due.sort_by_key(|expiry| format!("{expiry:?}"));
                let clock = EntryClock { stamp: Version(0), advance_micros: *advance_micros };
                return Entry { kind: EntryKind::Expire, clock, body: due.to_bytes() };
            }
            Self::Reopen => return Entry::noop(EntryClock::default()),
        };
        let idempotency =
            idempotency.map(|key| Idempotency { key: Bytes::copy_from_slice(&[key]), method: b'P', digest: 1 });
        let body = vec![Command { lane: None, idempotency, operation }.to_bytes()].to_bytes();
        let clock = EntryClock { stamp: Version(0), advance_micros: 100 };
        Entry { kind: EntryKind::Commands, clock, body }
    }
}

proptest! {
    #[test]
    fn pieces_and_their_clocks_change_nothing(steps in proptest::collection::vec(step(), 1..80), offset in -900i64..900) {
        let whole = || range(0x80, 0x80);
        let pieces = vec![
            (range(0x80, 0xb0), 4, offset),
            (range(0xb0, 0xf0), 2, 0),
            (range(0xf0, 0x20), 4, -offset),
            (range(0x20, 0x80), 4, offset),
        ];
        let mut plain = replica(&MapStore::new(), 1, whole(), vec![(whole(), 1, 0)]);
        let mut pieced = replica(&MapStore::new(), 1, whole(), pieces);
        plain.limits.max_idempotency_records = 4;
        pieced.limits.max_idempotency_records = 4;
        for step in steps {
            let entry = step.entry(&mut plain);
            prop_assert_eq!(&step.entry(&mut pieced), &entry);
            if matches!(step, Step::Reopen) {
                let limits = plain.limits.clone();
                pieced = Machine::open(pieced.store.clone(), GroupId(1)).unwrap().unwrap().with_limits(limits);
            }
            let slot = plain.state.applied.next();
            let expected = plain.apply(&[(slot, entry.clone())]).unwrap();
            let applied = pieced.apply(&[(slot, entry)]).unwrap();
            prop_assert_eq!(applied.outcomes, expected.outcomes);
            prop_assert_eq!(pieced.fingerprint(), plain.fingerprint());
            for index in 0..12 {
                let found = |machine: &Machine<MapStore>| kv::read(&machine.store, &machine.tablets, &key(index)).unwrap();
                prop_assert_eq!(found(&pieced), found(&plain));
            }
            prop_assert_eq!(pieced.full_fingerprint().unwrap(), plain.full_fingerprint().unwrap());
        }
        prop_assert_eq!(chunk_bytes(&pieced), chunk_bytes(&plain));
        plain.find_next_expiry().unwrap();
        pieced.find_next_expiry().unwrap();
        prop_assert_eq!(pieced.next_expiry(), plain.next_expiry());
    }
}

/// A whole snapshot, as it is sent.
fn chunk_bytes(machine: &Machine<MapStore>) -> Vec<Bytes> {
    let mut source = machine.snapshot();
    let mut chunks: Vec<crate::group::Chunk> = Vec::new();
    while chunks.last().is_none_or(|chunk| !chunk.done) {
        let cursor = chunks.last().map(|chunk| chunk.after.clone());
        chunks.push(source.chunk(cursor.as_ref(), 200).unwrap().unwrap());
    }
    chunks.into_iter().map(crate::group::Chunk::into_bytes).collect()
}

#[test]
fn other_tablets_are_taken_with_nothing_remembered_of_the_old() {
    let store = MapStore::new();
    let whole = || range(0x80, 0x80);
    let mut full = replica(&store, 1, whole(), vec![(whole(), 3, 0)]);
    let mut empty = replica(&store, 2, whole(), vec![(whole(), 4, 0)]);
    fill(&mut full, 30);
    let read = |machine: &Machine<MapStore>| kv::read(&store, machine.tablets(), &key(7)).unwrap();
    assert_eq!((read(&empty), empty.next_expiry()), (None, None));
    empty.moved_to(full.tablets().clone().shifted(50));
    empty.find_next_expiry().unwrap();
    let moved = |time: LogTime| LogTime(time.0 + 50);
    assert_eq!(read(&empty).unwrap().modified, moved(read(&full).unwrap().modified));
    assert_eq!(empty.next_expiry(), full.next_expiry().map(moved));
}

/// Makes a replica's counters estimates that are off by so much.
fn misjudge(machine: &mut Machine<MapStore>, keys: i64, bytes: i64, records: i64) {
    let state = &mut machine.state;
    state.counted = false;
    state.keys = state.keys.wrapping_add_signed(keys);
    state.bytes = state.bytes.wrapping_add_signed(bytes);
    machine.idempotency_records = machine.idempotency_records.wrapping_add_signed(records);
    let mut batch = <MapStore as Store>::Batch::default();
    put_records(&mut batch, &machine.frame(), &machine.mark());
    machine.store.write(batch).unwrap();
}

fn correct(machine: &mut Machine<MapStore>, correction: &Correction) {
    let entry = Entry { kind: EntryKind::Correct, clock: EntryClock::default(), body: correction.to_bytes() };
    machine.apply(&[(machine.state().applied.next(), entry)]).unwrap();
}

proptest! {
    #[test]
    fn counting_corrects_estimates_while_the_group_goes_on(
        before in proptest::collection::vec(step(), 0..40),
        during in proptest::collection::vec(step(), 0..40),
        slice in 1usize..5,
        off in (-30i64..30, -300i64..300, -30i64..30),
    ) {
        let whole = || range(0x80, 0x80);
        let pieces = vec![(range(0x80, 0x20), 4, 70), (range(0x20, 0x80), 2, 0)];
        let mut machine = replica(&MapStore::new(), 1, whole(), pieces);
        machine.limits.max_idempotency_records = 4;
        let step_on = |machine: &mut Machine<MapStore>, step: &Step| {
            let entry = step.entry(machine);
            machine.apply(&[(machine.state.applied.next(), entry)]).unwrap();
        };
        before.iter().for_each(|step| step_on(&mut machine, step));
        misjudge(&mut machine, off.0, off.1, off.2);
        let mut counting = machine.counting();
        let mut during = during.iter();
        let correction = loop {
            if let Some(step) = during.next() {
                step_on(&mut machine, step);
                machine.full_fingerprint().unwrap();
            }
            if let Some(correction) = counting.advance(slice, 1 << 20).unwrap() {
                break correction;
            }
        };
        during.for_each(|step| step_on(&mut machine, step));
        // A snapshot carries the estimate on, and so the same correction is right for whoever took it.
        let mut sink = SnapshotSink::begin(MapStore::new(), name(1), TabletId(1)).unwrap();
        let mut source = machine.snapshot();
        while !sink.is_done() {
            sink.add(&source.chunk(sink.cursor(), 64).unwrap().unwrap()).unwrap();
        }
        let mut copy = sink.finish().unwrap();
        for machine in [&mut machine, &mut copy] {
            correct(machine, &correction);
            prop_assert!(machine.state.counted);
            // The audit compares the counters from here on; and what was corrected is durable.
            machine.full_fingerprint().unwrap();
            let again = Machine::open(machine.store.clone(), GroupId(1)).unwrap().unwrap();
            prop_assert_eq!(again.state(), machine.state());
        }
        prop_assert_eq!(copy.full_fingerprint().unwrap(), machine.full_fingerprint().unwrap());
    }
}

#[test]
fn a_correction_is_taken_once_and_only_for_its_range() {
    let whole = || range(0x80, 0x80);
    let mut machine = replica(&MapStore::new(), 1, whole(), vec![(whole(), 3, 0)]);
    fill(&mut machine, 10);
    misjudge(&mut machine, -11, 3, 100);
    assert_eq!((machine.state().keys, machine.state().shown_keys()), (u64::MAX, 0));
    let mut counting = machine.counting();
    assert_eq!(counting.advance(100, 1 << 20), Ok(None));
    let correction = counting.advance(100, 1 << 20).unwrap().unwrap();
    let other = Correction { range_version: correction.range_version.next(), ..correction };
    correct(&mut machine, &other);
    assert!(!machine.state().counted);
    correct(&mut machine, &correction);
    correct(&mut machine, &correction);
    assert_eq!((machine.state().keys, machine.idempotency_records()), (10, 10));
    machine.full_fingerprint().unwrap();
}

#[test]
fn an_estimate_drops_no_more_records_than_there_are() {
    let whole = || range(0x80, 0x80);
    let mut machine = replica(&MapStore::new(), 1, whole(), vec![(whole(), 3, 0)]);
    fill(&mut machine, 10);
    misjudge(&mut machine, 0, 0, 1_000);
    fill(&mut machine, 12);
    machine.full_fingerprint().unwrap();
    let mut counting = machine.counting();
    assert_eq!(counting.advance(100, 1 << 20), Ok(None));
    let correction = counting.advance(100, 1 << 20).unwrap().unwrap();
    correct(&mut machine, &correction);
    assert!(machine.idempotency_records() < 10);
    machine.full_fingerprint().unwrap();
}

/// How many keys a space of a tablet holds.
fn stored(store: &MapStore, tablet: u64, space: Space) -> u64 {
    let tablet = TabletId(tablet);
    let mut count = 0;
    let (start, end) = (layout::in_space(tablet, space, &[]), layout::space_end(tablet, space));
    store
        .scan(&start, &end, &mut |_, _| {
            count += 1;
            Visit::Continue
        })
        .unwrap();
    count
}

/// Puts `count` keys whose time-to-live ends after `ttl_ms`, in entries of 100 that are ten microseconds apart.
fn fill_expiring(machine: &mut Machine<MapStore>, count: u32, ttl_ms: u64) {
    for first in (0..count).step_by(100) {
        let command = |index| {
            let value = Bytes::from_static(b"value");
            let operation =
                Operation::Put { key: key(index), value, ttl_ms: Some(ttl_ms), condition: Condition::Always };
            Command { lane: None, idempotency: None, operation }.to_bytes()
        };
        let body = (first..first + 100).map(command).collect::<Vec<_>>().to_bytes();
        let clock = EntryClock { stamp: Version(0), advance_micros: 10 };
        let entry = Entry { kind: EntryKind::Commands, clock, body };
        machine.apply(&[(machine.state().applied.next(), entry)]).unwrap();
    }
}

/// Two replicas that share a tablet. The first has one key, due last; the second many that are due before.
fn crowded() -> (MapStore, Machine<MapStore>, Machine<MapStore>, LogTime) {
    let store = MapStore::new();
    let mut high = replica(&store, 2, range(0x80, 0x00), vec![(range(0x80, 0x00), 3, 0)]);
    fill_expiring(&mut high, 20_000, 1);
    assert!(high.state.keys > 2 * super::expiry::MAX_PASSED as u64);
    let mut low = replica(&store, 1, range(0x00, 0x80), vec![(range(0x00, 0x80), 3, 500)]);
    fill_expiring(&mut low, 100, 1_000);
    let last = low.state.log_time.after_micros(1_000_000);
    // As after a restart: nothing is known but that there may be something.
    low.set_next_expiry(Some(LogTime(0)));
    (store, low, high, last)
}

#[test]
fn entries_of_others_are_passed_so_many_at_a_time() {
    let (_, mut low, high, last) = crowded();
    let before = high.full_fingerprint().unwrap();
    let mut looks = 0;
    let due = loop {
        let known = low.next_expiry().unwrap();
        let due = low.expired_at(last, 1_000).unwrap();
        if !due.is_empty() {
            break due;
        }
        assert!(low.next_expiry().unwrap() > known && low.next_expiry().unwrap() <= last, "each look gets further");
        looks += 1;
    };
    assert!(looks > 1 && looks <= 1 + high.state.keys / super::expiry::MAX_PASSED as u64, "{looks} looks");
    assert_eq!(due.len() as u64, low.state.keys);
    low.full_fingerprint().unwrap();
    // What is passed and somebody's stays.
    assert_eq!(high.full_fingerprint().unwrap(), before);
    // The next deadline found while much of others lies before it is only a bound.
    low.set_next_expiry(Some(LogTime(0)));
    low.find_next_expiry().unwrap();
    assert!(low.next_expiry().is_some_and(|next| LogTime(0) < next && next < last));
}

#[test]
fn entries_of_nobody_are_removed_when_they_are_met() {
    let (store, mut low, high, last) = crowded();
    let (ours, theirs) = (low.state.keys, high.state.keys);
    high.destroy().unwrap();
    assert_eq!(stored(&store, 3, Space::Values), ours);
    assert_eq!(stored(&store, 3, Space::Deadlines), ours + theirs);
    for _ in 0..100 {
        low.set_next_expiry(Some(LogTime(0)));
        low.expired_at(last, 1_000).unwrap();
    }
    let left = stored(&store, 3, Space::Deadlines) - ours;
    assert!(left < 500, "{left} are left");
    low.full_fingerprint().unwrap();
    low.destroy().unwrap();
    assert!(store.is_empty());
}

#[test]
fn a_snapshot_lets_go_of_what_only_the_old_state_used() {
    let store = MapStore::new();
    let mut low = replica(&store, 1, range(0x00, 0x80), vec![(range(0x00, 0x80), 3, 0)]);
    let mut high = replica(&store, 2, range(0x80, 0x00), vec![(range(0x80, 0x00), 3, 0)]);
    let (in_low, in_high) = (fill(&mut low, 40), fill(&mut high, 40));
    let other = MapStore::new();
    let mut ahead = replica(&other, 1, range(0x00, 0x80), vec![(range(0x00, 0x80), 7, 0)]);
    fill(&mut ahead, 60);
    // A third replica begins to receive a snapshot and stays there: its tablet is nobody else's to touch.
    let mut begun = SnapshotSink::begin(store.clone(), name(1), TabletId(5)).unwrap();
    let mut source = ahead.snapshot();
    while !begun.is_done() {
        begun.add(&source.chunk(begun.cursor(), 64).unwrap().unwrap()).unwrap();
    }
    assert_eq!(stored(&store, 3, Space::Values), in_low + in_high);
    let low = begun.finish().unwrap();
    assert_eq!(stored(&store, 3, Space::Values), in_high);
    assert_eq!(low.full_fingerprint().unwrap(), ahead.full_fingerprint().unwrap());
    high.full_fingerprint().unwrap();
    high.destroy().unwrap();
    assert_eq!(stored(&store, 3, Space::Deadlines), 0);
    low.destroy().unwrap();
    // What numbers were given out stays known.
    assert_eq!(store.len(), 1);
}
