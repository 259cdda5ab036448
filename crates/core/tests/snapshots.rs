//! Snapshots that are abandoned, mixed up or damaged, deadlines, and several replicas over one store.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use proptest::prelude::*;
use scatter_core::Input;
use scatter_core::codec::{DecodeError, Encode};
use scatter_core::command::{Command, Condition, Idempotency, LaneUse, Operation, Outcome};
use scatter_core::effects::MachineOrder;
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::group::{
    Chunk, Configuration, Expiry, GroupState, Holding, Limits, Machine, Member, Role, SnapshotError, SnapshotSink,
    highest_tablet, read, unused_spans,
};
use scatter_core::ring::Key;
use scatter_core::stage::Stage;
use scatter_core::store::map::{Fault, MapBatch, MapStore, MapView};
use scatter_core::store::{Batch, Loading, Read, Store, StoreError, Visit};
use scatter_core::time::{Instant, LogTime};
use scatter_core::types::{
    ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, ReplicaName, SessionId, TabletId, Version,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const START: u64 = 1_000_000;

/// Of everything in a store only the record of the tablet numbers given out is left.
fn check_bare(store: &MapStore) {
    assert_eq!(store.len(), 1, "records are left");
}

fn name(group: u64) -> ReplicaName {
    ReplicaName { group: GroupId(group), node: NodeId(1), incarnation: Incarnation(1) }
}

fn create(store: &MapStore, group: u64, tablet: u64) -> Machine<MapStore> {
    let member =
        Member { node: NodeId(1), incarnation: Incarnation(1), role: Role::Voter, address: "127.0.0.1:1".into() };
    let configuration = Configuration { version: ConfigurationVersion(1), members: vec![member] };
    let state = GroupState::genesis(ClusterId(1), GroupId(group), configuration, LogTime(START));
    Machine::create(store.clone(), name(group), state, TabletId(tablet)).unwrap()
}

fn key(text: &str) -> Key {
    Key::new(text.as_bytes().to_vec()).unwrap()
}

fn put(text: &str, value: &[u8], ttl_ms: Option<u64>) -> Command {
    let value = Bytes::copy_from_slice(value);
    let operation = Operation::Put { key: key(text), value, ttl_ms, condition: Condition::Always };
    Command { lane: None, idempotency: None, operation }
}

fn apply(machine: &mut Machine<MapStore>, kind: EntryKind, advance_micros: u64, body: Bytes) -> Vec<Outcome> {
    let entry = Entry { kind, clock: EntryClock { stamp: Version(0), advance_micros }, body };
    let applied = machine.apply(&[(machine.state().applied.next(), entry)]).unwrap();
    applied.outcomes.into_iter().next().unwrap().1
}

fn run(machine: &mut Machine<MapStore>, commands: &[Command]) -> Vec<Outcome> {
    let commands: Vec<Bytes> = commands.iter().map(Command::to_bytes).collect();
    apply(machine, EntryKind::Commands, 0, commands.to_bytes())
}

/// Some keys, lanes and an idempotency record.
fn fill(machine: &mut Machine<MapStore>) {
    for index in 0..20u32 {
        let mut command = put(&format!("k{index}"), &[7; 30], index.is_multiple_of(3).then_some(5));
        let stamp = machine.state().stamp;
        command.lane = Some(LaneUse { session: SessionId(index.into()), lane: index, sequence: 1, stamp });
        if index == 5 {
            command.idempotency = Some(Idempotency { key: Bytes::from_static(b"once"), method: b'P', digest: 3 });
        }
        assert!(matches!(run(machine, &[command])[..], [Outcome::Written { created: true, .. }]));
    }
}

fn chunks(machine: &Machine<MapStore>, max_bytes: usize) -> Vec<Chunk> {
    let mut source = machine.snapshot();
    let mut chunks: Vec<Chunk> = Vec::new();
    while chunks.last().is_none_or(|chunk| !chunk.done) {
        let cursor = chunks.last().map(|chunk| chunk.after.clone());
        chunks.push(source.chunk(cursor.as_ref(), max_bytes).unwrap().unwrap());
    }
    chunks
}

#[test]
fn deadlines_are_named_in_order_and_the_next_is_known() {
    let store = MapStore::new();
    let mut machine = create(&store, 1, 1);
    assert_eq!(machine.next_expiry(), None);
    run(
        &mut machine,
        &[put("a", b"1", Some(9)), put("b", b"1", Some(3)), put("c", b"1", None), put("d", b"1", Some(5))],
    );
    assert_eq!(machine.next_expiry(), Some(LogTime(START + 3_000)));
    assert_eq!(machine.expired(10).unwrap(), []);
    apply(&mut machine, EntryKind::Noop, 5_000, Bytes::new());
    let named = |expiries: &[Expiry]| -> Vec<Bytes> {
        expiries
            .iter()
            .map(|expiry| match expiry {
                Expiry::Key { key, .. } | Expiry::Idempotency { key, .. } => key.bytes().clone(),
            })
            .collect()
    };
    let due = machine.expired(10).unwrap();
    assert_eq!(named(&due), ["b", "d"]);
    assert_eq!(named(&machine.expired(1).unwrap()), ["b"]);
    // A key is there until its expiry is applied.
    assert!(read(&store, machine.tablets(), &key("b")).unwrap().is_some());
    apply(&mut machine, EntryKind::Expire, 0, due.to_bytes());
    assert!(read(&store, machine.tablets(), &key("b")).unwrap().is_none());
    assert_eq!(machine.next_expiry(), Some(LogTime(START + 9_000)));
    // The last deadline goes away by a write; that is noticed when it would have come.
    run(&mut machine, &[put("a", b"2", None)]);
    apply(&mut machine, EntryKind::Noop, 50_000, Bytes::new());
    assert_eq!(machine.expired(10).unwrap(), []);
    assert_eq!(machine.next_expiry(), None);
}

#[test]
fn only_whole_snapshots_of_the_right_group_are_taken() {
    let sender = MapStore::new();
    let mut machine = create(&sender, 1, 1);
    fill(&mut machine);
    let old = chunks(&machine, 200);
    run(&mut machine, &[put("more", b"", None)]);
    let new = chunks(&machine, 200);
    assert!(old.len() > 5);

    let store = MapStore::new();
    let mut sink = SnapshotSink::begin(store.clone(), name(1), TabletId(3)).unwrap();
    assert_eq!(sink.add(&old[1]), Err(SnapshotError::Order));
    assert!(!sink.add(&old[0]).unwrap());
    assert_eq!(sink.id(), Some(old[0].id));
    let before = store.written();
    for wrong in [&new[0], &new[1]] {
        assert_eq!(sink.add(wrong), Err(SnapshotError::Other));
    }
    for wrong in [&old[0], &old[2]] {
        assert_eq!(sink.add(wrong), Err(SnapshotError::Order));
    }
    assert_eq!(store.written(), before, "what was refused changed the store");
    assert!(matches!(sink.finish(), Err(SnapshotError::Incomplete)));
    assert!(Machine::open(store.clone(), GroupId(1)).unwrap().is_none());
    // Beginning again leaves nothing of the first attempt.
    let mut sink = SnapshotSink::begin(store.clone(), name(1), TabletId(4)).unwrap();
    for chunk in &new {
        sink.add(chunk).unwrap();
    }
    let copy = sink.finish().unwrap();
    assert_eq!(copy.full_fingerprint().unwrap(), machine.full_fingerprint().unwrap());
    copy.destroy().unwrap();
    check_bare(&store);
    // A snapshot for another group than the sink's.
    let mut sink = SnapshotSink::begin(store.clone(), name(2), TabletId(4)).unwrap();
    assert_eq!(sink.add(&new[0]), Err(SnapshotError::Other));
    sink.abandon().unwrap();
    check_bare(&store);
}

#[test]
fn any_damaged_bit_of_a_chunk_is_noticed() {
    let mut machine = create(&MapStore::new(), 1, 1);
    fill(&mut machine);
    for chunk in chunks(&machine, 400) {
        let good = chunk.clone().into_bytes();
        assert_eq!(Chunk::from_bytes(&good), Ok(chunk));
        for bit in 0..good.len() * 8 {
            let mut bytes = good.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Chunk::from_bytes(&bytes.into()).is_err(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Chunk::from_bytes(&good.slice(..length)).is_err(), "cut to {length}");
        }
    }
}

#[test]
fn a_snapshot_leaves_the_replicas_beside_it_alone() {
    let store = MapStore::new();
    let mut beside = create(&store, 2, 5);
    fill(&mut beside);
    let fingerprint = beside.full_fingerprint().unwrap();
    let mut old = create(&store, 1, 6);
    run(&mut old, &[put("old", b"1", Some(1))]);
    let mut machine = create(&MapStore::new(), 1, 1);
    fill(&mut machine);
    assert_eq!(highest_tablet(&store).unwrap(), TabletId(6));
    assert_eq!(Machine::list(&store).unwrap(), [name(1), name(2)]);

    let mut sink = SnapshotSink::begin(store.clone(), name(1), TabletId(9)).unwrap();
    assert_eq!(highest_tablet(&store).unwrap(), TabletId(9));
    assert_eq!(SnapshotSink::list(&store).unwrap(), [name(1)]);
    for chunk in chunks(&machine, 1 << 20) {
        sink.add(&chunk).unwrap();
    }
    let copy = sink.finish().unwrap();
    assert_eq!(copy.full_fingerprint().unwrap(), machine.full_fingerprint().unwrap());
    assert_eq!(beside.full_fingerprint().unwrap(), fingerprint);
    copy.destroy().unwrap();
    assert_eq!(beside.full_fingerprint().unwrap(), fingerprint);
    beside.destroy().unwrap();
    check_bare(&store);
}

#[test]
fn a_number_is_given_out_once_and_what_nobody_refers_to_is_found() {
    let store = MapStore::new();
    let spans = || {
        // The letter and the lowest byte of the number tell one from the other.
        let short = |key: Vec<u8>| (key[8], key.len());
        unused_spans(&store).unwrap().into_iter().map(|(start, end)| (short(start), short(end))).collect::<Vec<_>>()
    };
    assert_eq!(spans(), [((0, 9), (1, 9))]);
    let mut kept = create(&store, 1, 3);
    fill(&mut kept);
    create(&store, 2, 5).destroy().unwrap();
    let sink = SnapshotSink::begin(store.clone(), name(4), TabletId(8)).unwrap();
    assert_eq!(spans(), [((0, 9), (3, 9)), ((4, 9), (8, 9))]);
    sink.abandon().unwrap();
    // Nobody refers to these, yet they are not to be given out again: what was dropped may still lie there.
    assert_eq!(highest_tablet(&store).unwrap(), TabletId(8));
    assert_eq!(spans(), [((0, 9), (3, 9)), ((4, 9), (9, 9))]);
    for (start, end) in unused_spans(&store).unwrap() {
        scatter_core::store::Read::scan(&store, &start, &end, &mut |key, _| panic!("{key:?} is still there")).unwrap();
    }
}

#[test]
fn what_is_held_is_loaded_and_a_crash_resumes_at_the_record() {
    let mut machine = create(&MapStore::new(), 1, 1);
    fill(&mut machine);
    let fingerprint = machine.full_fingerprint().unwrap();
    let chunks = chunks(&machine, 100);
    assert!(chunks.len() > 12);
    for least in [0, 1000] {
        // After each number of chunks a crash that loses all that was not flushed.
        for crash_after in 0..chunks.len() {
            let holding = Holding { most: 300, least };
            let store = MapStore::new();
            let mut sink = SnapshotSink::begin(store.clone(), name(1), TabletId(9)).unwrap();
            let mut next = 0;
            for chunk in &chunks[..crash_after] {
                assert_eq!(sink.add_holding(chunk, holding), Ok(chunk.done));
                next += 1;
            }
            drop(sink);
            store.crash(0);
            let known = highest_tablet(&store).unwrap() == TabletId(9);
            assert!(known || store.is_empty(), "a tablet with something in it that is free to be used");
            let resumed = SnapshotSink::resume(store.clone(), GroupId(1)).unwrap();
            assert_eq!(resumed.is_some(), known);
            let mut sink = resumed.unwrap_or_else(|| SnapshotSink::begin(store.clone(), name(1), TabletId(9)).unwrap());
            let at = sink.cursor().cloned();
            let resumed_at = chunks.iter().position(|chunk| chunk.from == at).unwrap();
            assert!(resumed_at <= next);
            for chunk in &chunks[resumed_at..] {
                store.set_fault(Fault::Writes(StoreError::NoSpace));
                assert!(matches!(sink.add_holding(chunk, holding), Err(SnapshotError::Store(_))));
                store.set_fault(Fault::None);
                assert_eq!(sink.add_holding(chunk, holding), Ok(chunk.done));
            }
            let copy = sink.finish().unwrap();
            assert_eq!(copy.full_fingerprint().unwrap(), fingerprint);
            store.flush().unwrap();
            copy.destroy().unwrap();
            check_bare(&store);
        }
    }
}

/// A store whose loads go on until it is told that they have ended, or somebody waits for them.
#[derive(Clone, Default)]
struct SlowStore {
    store: MapStore,
    has_ended: Arc<AtomicBool>,
}

impl Read for SlowStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.store.get(key)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), StoreError> {
        self.store.scan(start, end, visit)
    }
}

impl Store for SlowStore {
    type Batch = MapBatch;
    type View = MapView;

    fn write(&self, batch: MapBatch) -> Result<(), StoreError> {
        self.store.write(batch)
    }

    fn load(&self, pairs: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
        self.store.load(pairs)
    }

    fn load_beside(&self, pairs: Arc<[(Vec<u8>, Bytes)]>) -> Loading {
        self.has_ended.store(false, Ordering::Release);
        let store = self.store.clone();
        Loading::begun(self.has_ended.clone(), move || store.load(&pairs))
    }

    fn view(&self) -> MapView {
        self.store.view()
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }
}

/// A stage that takes in a snapshot of group 1, and the pieces as orders.
fn taking_in() -> (Machine<MapStore>, SlowStore, Stage<SlowStore>, Vec<MachineOrder>) {
    let mut machine = create(&MapStore::new(), 1, 1);
    fill(&mut machine);
    let order = |chunk: &Chunk| {
        let (replica, chunk) = (name(1), chunk.clone().into_bytes());
        MachineOrder::StoreSnapshot { replica, snapshot: 7, from: replica, chunk }
    };
    let orders = chunks(&machine, 100).iter().map(order).collect();
    let store = SlowStore::default();
    let limits = Limits { holding: Holding { most: 300, least: 1 }, ..Limits::default() };
    let stage = Stage::open(store.clone(), limits, &[GroupId(1)].into(), 1, Duration::from_secs(60)).unwrap();
    (machine, store, stage, orders)
}

#[test]
fn a_piece_that_needs_the_next_load_waits_for_the_one_before() {
    let (machine, store, mut stage, orders) = taking_in();
    let mut deferred = 0;
    for (at, order) in orders.iter().enumerate() {
        let mut done = stage.order(order, Instant(0)).unwrap();
        if done.inputs.is_empty() {
            deferred += 1;
            assert!(!stage.has_deferred());
            assert!(stage.store_deferred().unwrap().inputs.is_empty());
            store.has_ended.store(true, Ordering::Release);
            assert!(stage.has_deferred());
            store.store.set_fault(Fault::Writes(StoreError::NoSpace));
            assert!(stage.store_deferred().is_err());
            store.store.set_fault(Fault::None);
            done = stage.store_deferred().unwrap();
            assert!(!stage.has_deferred());
        }
        let last = at + 1 == orders.len();
        assert!(matches!(
            (&done.inputs[..], last),
            ([Input::SnapshotStored { cursor: Some(_), snapshot: 7, .. }], false) | ([Input::Installed { .. }], true)
        ));
    }
    assert!(deferred > 2);
    let here = stage.machine(GroupId(1)).unwrap();
    assert_eq!(here.full_fingerprint().unwrap(), machine.full_fingerprint().unwrap());
}

#[test]
fn what_is_being_loaded_for_a_replica_that_goes_goes_too() {
    let (_, store, mut stage, orders) = taking_in();
    let waits = |order: &&MachineOrder| stage.order(order, Instant(0)).unwrap().inputs.is_empty();
    assert!(orders.iter().find(waits).is_some());
    stage.order(&MachineOrder::Destroy { replica: name(1) }, Instant(0)).unwrap();
    store.has_ended.store(true, Ordering::Release);
    assert!(!stage.has_deferred());
    check_bare(&store.store);
}

#[test]
fn a_pinned_view_outlives_the_replica() {
    let store = MapStore::new();
    let mut machine = create(&store, 1, 1);
    fill(&mut machine);
    let fingerprint = machine.full_fingerprint().unwrap();
    let mut source = machine.snapshot();
    run(&mut machine, &[put("k1", b"later", None)]);
    machine.destroy().unwrap();
    check_bare(&store);
    let mut sink = SnapshotSink::begin(store, name(1), TabletId(2)).unwrap();
    while !sink.is_done() {
        let chunk = source.chunk(sink.cursor(), 100).unwrap().unwrap();
        sink.add(&chunk).unwrap();
    }
    assert_eq!(sink.finish().unwrap().full_fingerprint().unwrap(), fingerprint);
}

#[test]
fn who_reads_a_snapshot_does_not_lose_it_to_those_who_wait() {
    let store = MapStore::new();
    let groups = 1..=6;
    for group in groups.clone() {
        fill(&mut create(&store, group, group));
    }
    let patience = Duration::from_secs(8);
    let mut stage = Stage::open(store, Limits::default(), &groups.clone().map(GroupId).collect(), 1, patience).unwrap();
    let mut read = |group: u64, snapshot: u64, cursor: Option<Bytes>, at: Duration| {
        let order = MachineOrder::ReadSnapshot { group: GroupId(group), to: name(group), snapshot, cursor, bytes: 50 };
        match &stage.order(&order, Instant(0).after(at)).unwrap().inputs[..] {
            [Input::SnapshotRead { piece, .. }] => (piece.snapshot, piece.after.clone()),
            other => panic!("{other:?}"),
        }
    };
    let begun: Vec<_> = (1..=4).map(|group| read(group, 0, None, Duration::ZERO)).collect();
    assert!(begun.iter().all(|(snapshot, after)| *snapshot != 0 && after.is_some()));
    assert_eq!(read(5, 0, None, Duration::ZERO).0, 0, "four are read");
    let later = Duration::from_millis(900);
    for (group, (snapshot, after)) in (1..).zip(&begun).skip(1) {
        assert_eq!(read(group, *snapshot, after.clone(), later).0, *snapshot);
    }
    let idle = Duration::from_millis(1_100);
    assert_ne!(read(5, 0, None, idle).0, 0, "the first is not read any more");
    assert_eq!(read(6, 0, None, idle).0, 0);
    assert_eq!(read(1, begun[0].0, begun[0].1.clone(), idle).0, 0);
}

#[test]
fn a_second_replica_of_a_group_and_damaged_records_are_errors() {
    let store = MapStore::new();
    let mut machine = create(&store, 1, 1);
    let again = Machine::create(store.clone(), name(1), machine.state().clone(), TabletId(2));
    assert!(matches!(again, Err(StoreError::Failed(_))));
    fill(&mut machine);
    let mut pairs = Vec::new();
    scatter_core::store::Read::scan(&store, b"R", b"S", &mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        scatter_core::store::Visit::Continue
    })
    .unwrap();
    for (key, value) in pairs {
        for damaged in [&value[..value.len() - 1], &[&[0xee], &value[1..]].concat()] {
            let mut batch = scatter_core::store::map::MapBatch::default();
            batch.put(&key, damaged);
            store.write(batch).unwrap();
            assert!(matches!(Machine::open(store.clone(), GroupId(1)), Err(StoreError::Damaged(_))));
        }
        let mut batch = scatter_core::store::map::MapBatch::default();
        batch.put(&key, &value);
        store.write(batch).unwrap();
    }
    assert!(Machine::open(store, GroupId(1)).unwrap().is_some());
}

proptest! {
    #[test]
    fn hostile_bytes_are_no_chunk_and_hostile_cursors_no_place(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        cursor in proptest::collection::vec(0u8..5, 0..30),
    ) {
        prop_assert!(Chunk::from_bytes(&Bytes::from(bytes.clone())).is_err());
        // The same with an end that promises much, or as much as there is, and a checksum that fits.
        for promised in [u32::MAX, bytes.len() as u32] {
            let mut fitting = bytes.clone();
            fitting.extend_from_slice(&promised.to_le_bytes());
            fitting.push(3);
            let checksum = crc32fast::hash(&fitting);
            fitting.extend_from_slice(&checksum.to_le_bytes());
            let refused = Chunk::from_bytes(&fitting.into()).expect_err("not a chunk");
            let is_read = !matches!(refused, DecodeError::Checksum(_) | DecodeError::Tag { what: "snapshot chunk", .. });
            prop_assert!(is_read);
        }

        let store = MapStore::new();
        let mut machine = create(&store, 1, 1);
        run(&mut machine, &[put("a", b"1", None)]);
        // Whatever comes back, nothing panics and nothing is sent twice or for ever.
        if let Some(chunk) = machine.snapshot().chunk(Some(&Bytes::from(cursor)), 10).unwrap() {
            prop_assert!(chunk.header.is_none());
        }
    }
}
