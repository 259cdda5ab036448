//! What splits and takeovers do to the machines of one node. `tests/reshaping.rs` has them in any order.

use super::*;
use crate::command::LaneUse;
use crate::group::{Link, layout, merged_replicas, release};
use crate::ops::{Begin, Decide, OperationId, Pending, Prepare, Resolve, Split, Surrender, Takeover};
use crate::store::map::Fault;
use crate::types::{NodeId, SessionId};
use std::collections::BTreeMap;

const GAINER: u64 = 1;
const LOSER: u64 = 2;
const KEYS: u32 = 40;

fn at(byte: u8) -> Position {
    Position(Bytes::copy_from_slice(&[byte]))
}

fn apply(machine: &mut Machine<MapStore>, kind: EntryKind, advance_micros: u64, body: Bytes) -> Vec<Outcome> {
    apply_beside(machine, kind, advance_micros, body, &mut Beside::nobody()).unwrap()
}

fn apply_beside(
    machine: &mut Machine<MapStore>,
    kind: EntryKind,
    advance_micros: u64,
    body: Bytes,
    beside: &mut Beside<'_, MapStore>,
) -> Result<Vec<Outcome>, StoreError> {
    let entry = Entry { kind, clock: EntryClock { stamp: Version(0), advance_micros }, body };
    let slot = machine.state().applied.next();
    Ok(machine.apply_beside(slot, &entry, beside)?.outcomes.remove(0).1)
}

/// A put of a key on a lane of its own, with an idempotency key and a time-to-live.
fn command(index: u32, sequence: u64, value: &str, stamp: Version) -> Command {
    let operation = Operation::Put {
        key: key(index),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ttl_ms: Some(1 + u64::from(index)),
        condition: Condition::Always,
    };
    let idempotency =
        Idempotency { key: Bytes::copy_from_slice(value.as_bytes()), method: b'P', digest: sequence.into() };
    let lane = LaneUse { session: SessionId(index.into()), lane: 7, sequence, stamp };
    Command { lane: Some(lane), idempotency: Some(idempotency), operation }
}

fn run(machine: &mut Machine<MapStore>, command: &Command) -> Outcome {
    apply(machine, EntryKind::Commands, 100, vec![command.to_bytes()].to_bytes()).remove(0)
}

/// Writes the keys that the group has. What each heard.
fn write_all(machine: &mut Machine<MapStore>, sequence: u64, value: &str) -> BTreeMap<u32, Outcome> {
    machine.limits.max_idempotency_records = 1_000;
    let mut heard = BTreeMap::new();
    for index in 0..KEYS {
        let stamp = machine.state().stamp;
        let outcome = run(machine, &command(index, sequence, value, stamp));
        if outcome != Outcome::NotOwner {
            assert!(matches!(outcome, Outcome::Written { .. }));
            heard.insert(index, outcome);
        }
    }
    heard
}

/// Key, version, when it was modified by the group's clock, value.
type Shown = BTreeMap<u32, (Version, LogTime, Bytes)>;

fn read_all(machine: &Machine<MapStore>) -> Shown {
    let found = |index| kv::read(&machine.store, &machine.tablets, &key(index)).unwrap().map(|found| (index, found));
    let found = (0..KEYS).filter_map(found);
    found.map(|(index, found)| (index, (found.version, found.modified, found.value))).collect()
}

/// Repeats what was written: the lane tells what it heard then; under another lane the idempotency key does.
fn repeats(machine: &mut Machine<MapStore>, sequence: u64, value: &str, heard: &BTreeMap<u32, Outcome>) {
    for (index, outcome) in heard {
        let stamp = machine.state().stamp;
        let mut again = command(*index, sequence, value, stamp);
        assert_eq!(run(machine, &again), *outcome, "key {index} by its lane");
        again.lane = None;
        assert_eq!(run(machine, &again), *outcome, "key {index} by its idempotency key");
    }
}

/// What the machine holds is in order, and the store holds the same.
fn audit(machine: &Machine<MapStore>) {
    let again = Machine::open(machine.store.clone(), machine.name.group).unwrap().unwrap();
    assert_eq!(
        (again.state(), again.tablets(), again.parted()),
        (machine.state(), machine.tablets(), machine.parted())
    );
    assert_eq!((again.fingerprint(), again.lanes()), (machine.fingerprint(), machine.lanes()));
    assert_eq!(again.full_fingerprint().unwrap(), machine.full_fingerprint().unwrap());
    nothing_unused(&machine.store);
}

/// No data is left that no replica refers to, but for entries in indexes of deadlines.
fn nothing_unused(store: &MapStore) {
    let used = release::references(store, &|_| false).unwrap();
    let refers = |tablet: TabletId, position: &Position| {
        used.iter().any(|piece| piece.tablet == tablet && piece.range.contains(position))
    };
    store
        .scan(b"T", b"U", &mut |key, _| {
            let (tablet, rest) = (layout::tablet_of(key), &key[layout::SPACE_PREFIX..]);
            let position = match key[layout::SPACE_PREFIX - 1] {
                1 => Position(Bytes::copy_from_slice(rest)),
                3 => Position(layout::take_ordered(rest).unwrap().0.into()),
                _ => {
                    assert!(used.iter().any(|piece| piece.tablet == tablet), "an index of an unused tablet");
                    return Visit::Continue;
                }
            };
            assert!(refers(tablet, &position), "{position} in tablet {tablet} is nobody's");
            Visit::Continue
        })
        .unwrap();
}

/// Counts what the machine holds and corrects its counters, which its audit then compares.
fn count(machine: &mut Machine<MapStore>) {
    let mut counting = machine.counting();
    let correction = loop {
        if let Some(correction) = counting.advance(100, 1 << 20).unwrap() {
            break correction;
        }
    };
    correct(machine, &correction);
    machine.full_fingerprint().unwrap();
}

/// The same machine in a store of its own.
fn twin(machine: &Machine<MapStore>) -> Machine<MapStore> {
    let mut sink = SnapshotSink::begin(MapStore::new(), machine.name, TabletId(77)).unwrap();
    let mut source = machine.snapshot();
    while !sink.is_done() {
        sink.add(&source.chunk(sink.cursor(), 1 << 20).unwrap().unwrap()).unwrap();
    }
    sink.finish().unwrap().with_limits(machine.limits.clone())
}

fn split_body(machine: &Machine<MapStore>, boundary: u8) -> Bytes {
    let range_version = machine.state().range_version;
    Split { at: at(boundary), child: GroupId(LOSER), leader: NodeId(1), range_version }.to_bytes()
}

/// Splits a machine; the child is born.
fn split(parent: &mut Machine<MapStore>, boundary: u8) -> Machine<MapStore> {
    let body = split_body(parent, boundary);
    let mut beside = Beside { bears: true, ..Beside::nobody() };
    apply_beside(parent, EntryKind::Split, 0, body, &mut beside).unwrap();
    beside.born.unwrap()
}

/// Two machines over one store, made by a split, whose clocks have gone apart since; and what their keys heard.
struct Pair {
    store: MapStore,
    low: Machine<MapStore>,
    high: Machine<MapStore>,
    heard: BTreeMap<u32, Outcome>,
}

fn pair() -> Pair {
    let store = MapStore::new();
    let mut low = replica(&store, GAINER, range(0, 0), vec![(range(0, 0x40), 3, 0), (range(0x40, 0), 4, 250)]);
    write_all(&mut low, 1, "first");
    let mut high = split(&mut low, 0x80);
    apply(&mut high, EntryKind::Noop, 7_000, Bytes::new());
    apply(&mut low, EntryKind::Noop, 1_000, Bytes::new());
    let mut heard = write_all(&mut low, 2, "second");
    heard.extend(write_all(&mut high, 2, "second"));
    assert_eq!(heard.len(), KEYS as usize);
    Pair { store, low, high, heard }
}

/// Locks both for the takeover of `moving`, which is the loser's yes.
fn lock(gainer: &mut Machine<MapStore>, loser: &mut Machine<MapStore>, moving: KeyRange) -> (OperationId, Surrender) {
    let (own, other): (&GroupState, &GroupState) = (gainer.state(), loser.state());
    let takeover = Takeover {
        loser: other.group,
        merge: moving == other.range,
        moving,
        range_version: other.range_version,
        configuration_version: other.configuration.version,
        operations: other.operations,
    };
    let (range_version, configuration_version) = (own.range_version, own.configuration.version);
    let begin = Begin { range_version, configuration_version, takeover: takeover.clone(), loser: other.link() };
    apply(gainer, EntryKind::Begin, 0, begin.to_bytes());
    let operation = gainer.state().pending.as_ref().unwrap().operation();
    let link: Link = gainer.state().link();
    apply(loser, EntryKind::Prepare, 0, Prepare { operation, takeover, gainer: link }.to_bytes());
    let Some(Pending::Loses { surrender, .. }) = &loser.state().pending else { panic!("the loser votes no") };
    (operation, surrender.clone())
}

/// The gainer commits. Whether the loser ended.
fn commit(
    gainer: &mut Machine<MapStore>,
    loser: &mut Machine<MapStore>,
    (operation, surrender): (OperationId, Surrender),
) -> bool {
    let body = Decide { operation, commit: Some(surrender) }.to_bytes();
    let mut beside = Beside { loser: Some(loser), ..Beside::nobody() };
    apply_beside(gainer, EntryKind::Decide, 0, body, &mut beside).unwrap();
    beside.ended
}

/// The loser hears that it was committed at `committed`, while the gainer beside it has applied `gainer`.
fn resolve(loser: &mut Machine<MapStore>, operation: OperationId, committed: Slot, gainer: Option<Slot>) {
    let body = Resolve { operation, committed: Some(committed) }.to_bytes();
    apply_beside(loser, EntryKind::Resolve, 0, body, &mut Beside { gainer, ..Beside::nobody() }).unwrap();
}

/// What was read, on a clock that is ahead by so much.
fn shifted(read: &Shown, offset_micros: i64) -> Shown {
    let moved = |time: LogTime| LogTime(time.0.wrapping_add_signed(offset_micros));
    read.iter().map(|(index, (version, time, value))| (*index, (*version, moved(*time), value.clone()))).collect()
}

fn clock(machine: &Machine<MapStore>) -> i64 {
    machine.state().log_time.0 as i64
}

/// What would be expired, and when by the group's clock.
fn deadlines(machine: &Machine<MapStore>) -> Vec<(String, LogTime)> {
    let mut all = Vec::new();
    let mut clone = twin(machine);
    loop {
        clone.find_next_expiry().unwrap();
        let Some(next) = clone.next_expiry() else { break };
        let due = clone.expired_at(next, 100).unwrap();
        all.extend(due.iter().map(|due| (format!("{due:?}"), next)));
        let advance_micros = next.0.saturating_sub(clone.state().log_time.0);
        apply(&mut clone, EntryKind::Expire, advance_micros, due.to_bytes());
    }
    all.sort();
    assert!(!all.is_empty());
    all
}

#[test]
fn a_split_shares_what_there_is() {
    let store = MapStore::new();
    let mut parent = replica(&store, GAINER, range(0, 0), vec![(range(0, 0x40), 3, 0), (range(0x40, 0), 4, 250)]);
    let heard = write_all(&mut parent, 1, "first");
    let (before, due, records) = (read_all(&parent), deadlines(&parent), parent.idempotency_records());
    let (keys, written) = (store.len(), store.written());
    let mut child = split(&mut parent, 0x80);
    // One batch, and nothing but the child's records and its lanes is new.
    assert_eq!(store.written(), written + 1);
    assert_eq!(store.len(), keys + 3);
    assert_eq!(child.name(), name(LOSER));
    assert_eq!(*parent.tablets(), tablets(&[(range(0, 0x40), 3, 0), (range(0x40, 0x80), 4, 250)]));
    assert_eq!(*child.tablets(), tablets(&[(range(0x80, 0), 4, 250)]));
    let (mut low, high) = (read_all(&parent), read_all(&child));
    assert!(!low.is_empty() && !high.is_empty());
    let (mut all, of_high) = (deadlines(&parent), deadlines(&child));
    assert!(!all.is_empty() && !of_high.is_empty());
    all.extend(of_high);
    all.sort();
    assert_eq!(all, due);
    assert_eq!(parent.idempotency_records() + child.idempotency_records(), records);
    assert_eq!(parent.lanes(), child.lanes());
    for machine in [&mut parent, &mut child] {
        audit(machine);
        let own: BTreeMap<u32, Outcome> = heard
            .iter()
            .filter(|(index, _)| read_all(machine).contains_key(index))
            .map(|(i, o)| (*i, o.clone()))
            .collect();
        repeats(machine, 1, "first", &own);
        // The other half of the keys is somebody else's, whatever the lane knows.
        let foreign = (0..KEYS).find(|index| !own.contains_key(index)).unwrap();
        let stamp = machine.state().stamp;
        assert_eq!(run(machine, &command(foreign, 1, "first", stamp)), Outcome::NotOwner);
        count(machine);
        assert_eq!(machine.state().keys, own.len() as u64);
    }
    low.extend(high);
    assert_eq!(low, before);
    // Neither disturbs the other.
    let before = child.full_fingerprint().unwrap();
    assert!(!expire_all(&mut parent).is_empty());
    assert_eq!(child.full_fingerprint().unwrap(), before);
    parent.destroy().unwrap();
    audit(&child);
    assert_eq!(child.full_fingerprint().unwrap(), before);
    child.destroy().unwrap();
    assert!(store.is_empty());
}

fn tablets(pieces: &[(KeyRange, u64, i64)]) -> TabletMap {
    let piece = |(range, tablet, offset): &(KeyRange, u64, i64)| Piece {
        range: range.clone(),
        tablet: TabletId(*tablet),
        offset_micros: *offset,
    };
    TabletMap(pieces.iter().map(piece).collect())
}

#[test]
fn a_child_that_is_there_already_is_not_overwritten() {
    let store = MapStore::new();
    let mut parent = replica(&store, GAINER, range(0, 0), vec![(range(0, 0), 3, 0)]);
    write_all(&mut parent, 1, "first");
    let low = read_all(&parent).len();
    // It came by a snapshot of another member, which had gone on.
    let mut elsewhere = split(&mut twin(&parent), 0x80);
    write_all(&mut elsewhere, 2, "second");
    let mut sink = SnapshotSink::begin(store.clone(), name(LOSER), TabletId(9)).unwrap();
    let mut source = elsewhere.snapshot();
    while !sink.is_done() {
        sink.add(&source.chunk(sink.cursor(), 64).unwrap().unwrap()).unwrap();
    }
    let mut child = sink.finish().unwrap();
    let body = split_body(&parent, 0x80);
    let mut beside = Beside::nobody();
    apply_beside(&mut parent, EntryKind::Split, 0, body, &mut beside).unwrap();
    assert!(beside.born.is_none());
    assert_eq!(child.full_fingerprint().unwrap(), elsewhere.full_fingerprint().unwrap());
    assert_eq!(read_all(&parent).len() + read_all(&child).len(), low);
    audit(&parent);
    audit(&child);
    assert_eq!(stored(&store, 3, Space::Values), read_all(&parent).len() as u64);
    // A replica that was here once and is gone leaves the part to nobody.
    child.limits.max_idempotency_records = 1_000;
    child.destroy().unwrap();
    audit(&parent);
}

#[test]
fn a_split_that_does_not_fit_changes_no_machine() {
    let Pair { low: mut parent, high, .. } = pair();
    let before = (parent.tablets().clone(), read_all(&parent), high.full_fingerprint().unwrap());
    for boundary in [0x80, 0x90, 0] {
        let mut beside = Beside { bears: true, ..Beside::nobody() };
        let body = split_body(&parent, boundary);
        apply_beside(&mut parent, EntryKind::Split, 0, body, &mut beside).unwrap();
        assert!(beside.born.is_none());
    }
    assert_eq!((parent.tablets().clone(), read_all(&parent), high.full_fingerprint().unwrap()), before);
    audit(&parent);
}

/// Merges one of the pair into the other and compares with what both held before.
fn merge(low_gains: bool) {
    let Pair { store, low, high, heard } = pair();
    let (mut gainer, mut loser) = if low_gains { (low, high) } else { (high, low) };
    let (own, theirs) = (read_all(&gainer), read_all(&loser));
    let (own_due, mut due) = (deadlines(&gainer), deadlines(&loser).len());
    let moving = loser.state().range.clone();
    let locked = lock(&mut gainer, &mut loser, moving);
    let offset = clock(&gainer) - locked.1.log_time.0 as i64;
    assert_ne!(offset, 0);
    let (name_of_loser, operation) = (loser.name(), locked.0);
    assert!(commit(&mut gainer, &mut loser, locked), "the loser ends");
    let committed = gainer.state().applied;
    drop(loser);

    let mut expected = shifted(&theirs, offset);
    expected.extend(own);
    assert_eq!(read_all(&gainer), expected);
    assert!(gainer.state().range.is_whole());
    audit(&gainer);
    // The loser is no more, but for the note where it went.
    assert!(Machine::open(store.clone(), name_of_loser.group).unwrap().is_none());
    let merger = Merger { into: gainer.name.group, at: committed };
    assert_eq!(merged_replicas(&store).unwrap(), [(name_of_loser, merger)]);
    assert_eq!(gainer.state().outbox[0].operation(), operation);
    let all = deadlines(&gainer);
    assert!(own_due.iter().all(|own| all.contains(own)), "the gainer's own deadlines are what they were");
    due += own_due.len();
    assert_eq!(all.len(), due);
    repeats(&mut gainer, 2, "second", &heard);
    count(&mut gainer);
    assert_eq!(gainer.state().keys, u64::from(KEYS));
    expire_all(&mut gainer);
    assert_eq!((gainer.state().keys, gainer.idempotency_records()), (0, 0));
    gainer.destroy().unwrap();
    crate::group::forget_merged(&store, name_of_loser.group).unwrap();
    assert!(store.is_empty());
}

#[test]
fn a_merge_brings_together_what_a_split_parted() {
    merge(true);
    merge(false);
}

#[test]
fn deadlines_that_moved_come_when_they_would_have_come() {
    let Pair { mut low, mut high, .. } = pair();
    // How long each has, by its own clock.
    let left = |machine: &Machine<MapStore>| {
        let now = machine.state().log_time.0;
        deadlines(machine).into_iter().map(|(name, at)| (name, at.0.wrapping_sub(now))).collect::<Vec<_>>()
    };
    let mut expected = left(&low);
    expected.extend(left(&high));
    expected.sort();
    let moving = high.state().range.clone();
    let locked = lock(&mut low, &mut high, moving);
    commit(&mut low, &mut high, locked);
    assert_eq!(left(&low), expected);
}

/// Shifts the boundary of the pair while the gainer is up to date, or lags; `assembles`: late, or never.
fn shift(low_gains: bool, lags: bool, assembles: bool) {
    let Pair { store, low, high, heard } = pair();
    let (mut gainer, mut loser) = if low_gains { (low, high) } else { (high, low) };
    let moving = if low_gains { range(0x80, 0xc0) } else { range(0x40, 0x80) };
    let (own, theirs) = (read_all(&gainer), read_all(&loser));
    let moves = |index: &u32| moving.contains(&key(*index).position());
    let locked = lock(&mut gainer, &mut loser, moving.clone());
    let (operation, offset) = (locked.0, clock(&gainer) - locked.1.log_time.0 as i64);
    // Sealed: neither written nor shown, by the loser least of all.
    let sealed = (0..KEYS).find(moves).unwrap();
    assert!(loser.served().find(&key(sealed).position().0).is_none());
    let stamp = loser.state().stamp;
    assert_eq!(run(&mut loser, &command(sealed, 9, "late", stamp)), Outcome::NotOwner);
    let committed = gainer.state().applied.next();
    if !lags {
        assert!(!commit(&mut gainer, &mut loser, locked.clone()));
    }
    resolve(&mut loser, operation, committed, Some(gainer.state().applied));
    assert_eq!(loser.parted().len(), usize::from(lags));
    let kept: Shown = theirs.iter().filter(|(index, _)| !moves(index)).map(|(i, f)| (*i, f.clone())).collect();
    assert_eq!(read_all(&loser), kept);
    audit(&loser);
    // The loser goes on, on what it has kept.
    apply(&mut loser, EntryKind::Noop, 5_000, Bytes::new());
    let again = write_all(&mut loser, 3, "third");
    assert_eq!(again.len(), kept.len());
    if lags && assembles {
        assert!(gainer.state().range != range(0, 0));
        assert!(loser.surrenders(operation, locked.1.seal));
        loser = Machine::open(store.clone(), loser.name.group).unwrap().unwrap().with_limits(loser.limits.clone());
        assert!(!commit(&mut gainer, &mut loser, locked));
        assert!(loser.parted().is_empty());
    } else if lags {
        loser.discard_parted(GroupId(99), None).unwrap();
        assert_eq!(loser.parted().len(), 1, "that is another's");
        loser.discard_parted(gainer.name.group, Some(Slot(committed.0 - 1))).unwrap();
        assert_eq!(loser.parted().len(), 1, "it is still to come");
        loser.discard_parted(gainer.name.group, Some(committed)).unwrap();
        assert!(loser.parted().is_empty());
        audit(&loser);
        gainer.destroy().unwrap();
        audit(&loser);
        loser.destroy().unwrap();
        return assert!(store.is_empty());
    }
    let mut expected = own;
    expected.extend(shifted(&theirs, offset).into_iter().filter(|(index, _)| moves(index)));
    assert_eq!(read_all(&gainer), expected);
    audit(&gainer);
    audit(&loser);
    let of_gainer = |index: &u32| expected.contains_key(index);
    let of_gainer: BTreeMap<u32, Outcome> =
        heard.iter().filter(|(index, _)| of_gainer(index)).map(|(i, o)| (*i, o.clone())).collect();
    repeats(&mut gainer, 2, "second", &of_gainer);
    repeats(&mut loser, 3, "third", &again);
    count(&mut gainer);
    count(&mut loser);
    assert_eq!(gainer.state().keys + loser.state().keys, u64::from(KEYS));
    expire_all(&mut gainer);
    expire_all(&mut loser);
    assert_eq!((gainer.state().keys, loser.state().keys), (0, 0));
    gainer.destroy().unwrap();
    loser.destroy().unwrap();
    assert!(store.is_empty());
}

#[test]
fn a_boundary_is_shifted() {
    for low_gains in [true, false] {
        shift(low_gains, false, true);
    }
}

#[test]
fn what_a_gainer_that_lags_is_to_take_is_kept_for_it() {
    for low_gains in [true, false] {
        shift(low_gains, true, true);
        shift(low_gains, true, false);
    }
}

/// Several shifts before a gainer has caught up with the first: each is taken over in its turn.
#[test]
fn what_was_parted_twice_is_taken_over_twice() {
    let Pair { store, low: mut gainer, high: mut loser, .. } = pair();
    let before = (read_all(&gainer).len(), read_all(&loser).len());
    // The same on another node.
    let Pair { low: mut ahead, high: mut loser_ahead, .. } = pair();
    let mut decides = Vec::new();
    for boundary in [0xa0, 0xc0] {
        let start = loser_ahead.state().range.start.clone();
        let from = ahead.state().applied;
        let locked = lock(&mut ahead, &mut loser_ahead, KeyRange { start, end: at(boundary) });
        // The loser here is as far as any; the gainer here has not even begun.
        let link = ahead.state().link();
        let Some(Pending::Loses { takeover, .. }) = loser_ahead.state().pending.clone() else { panic!() };
        let prepare = Prepare { operation: locked.0, takeover: takeover.clone(), gainer: link };
        apply(&mut loser, EntryKind::Prepare, 0, prepare.to_bytes());
        commit(&mut ahead, &mut loser_ahead, locked.clone());
        let committed = ahead.state().applied;
        resolve(&mut loser_ahead, locked.0, committed, Some(committed));
        resolve(&mut loser, locked.0, committed, Some(gainer.state().applied));
        decides.push((from, takeover, locked));
    }
    assert_eq!(loser.parted().len(), 2);
    assert_eq!(loser.state(), loser_ahead.state());
    for (_, takeover, locked) in decides {
        let (range_version, configuration_version) =
            (gainer.state().range_version, gainer.state().configuration.version);
        let loser_link =
            Link { range: KeyRange { start: takeover.moving.start.clone(), end: at(0) }, ..loser.state().link() };
        let begin = Begin { range_version, configuration_version, takeover, loser: loser_link };
        apply(&mut gainer, EntryKind::Begin, 0, begin.to_bytes());
        commit(&mut gainer, &mut loser, locked);
    }
    assert!(loser.parted().is_empty());
    audit(&gainer);
    audit(&loser);
    assert_eq!(read_all(&gainer), read_all(&ahead));
    assert_eq!(read_all(&loser), read_all(&loser_ahead));
    assert_eq!(read_all(&gainer).len() + read_all(&loser).len(), before.0 + before.1);
    gainer.destroy().unwrap();
    loser.destroy().unwrap();
    assert!(store.is_empty());
}

#[test]
fn lanes_that_have_to_make_room_are_the_longest_unused_of_both() {
    let Pair { mut low, mut high, .. } = pair();
    low.limits.max_lanes = 10;
    let moving = high.state().range.clone();
    let locked = lock(&mut low, &mut high, moving);
    // Each lane as who used it last has it, by when that was.
    let mut all = BTreeMap::new();
    for lane in low.lanes.iter().chain(high.lanes.iter()) {
        let known = all.entry(lane.key).or_insert((lane.sequence, lane.stamp));
        *known = (*known).max((lane.sequence, lane.stamp));
    }
    let mut used: Vec<_> = all.iter().map(|(key, (_, stamp))| (*stamp, *key)).collect();
    used.sort();
    commit(&mut low, &mut high, locked);
    let kept = used.split_off(used.len() - 10);
    let mut left: Vec<_> = low.lanes.iter().map(|lane| (lane.stamp, lane.key)).collect();
    left.sort();
    assert_eq!(left, kept);
    assert_eq!(Some(low.state().forgotten), used.last().map(|(stamp, _)| *stamp));
    audit(&low);
    let again = Machine::open(low.store.clone(), GroupId(GAINER)).unwrap().unwrap();
    let lanes = |machine: &Machine<MapStore>| machine.lanes.encode_all();
    assert_eq!(lanes(&again), lanes(&low));
    assert_eq!(again.state().forgotten, low.state().forgotten);
}

/// What is sealed goes over as it was at the seal, whatever the loser does until it hears the outcome.
#[test]
fn no_idempotency_record_is_dropped_of_what_is_sealed() {
    let Pair { store, low: mut gainer, high: mut loser, .. } = pair();
    count(&mut loser);
    let records = loser.idempotency_records();
    loser.limits.max_idempotency_records = 3;
    let locked = lock(&mut gainer, &mut loser, range(0x80, 0xc0));
    let held = |space| stored(&store, 4, space);
    let before = held(Space::Idempotency);
    let own = (0..KEYS).find(|index| range(0xc0, 0).contains(&key(*index).position())).unwrap();
    for sequence in 10..20 {
        let stamp = loser.state().stamp;
        let outcome = run(&mut loser, &command(own, sequence, &format!("value {sequence}"), stamp));
        assert!(matches!(outcome, Outcome::Written { .. }));
    }
    assert_eq!(held(Space::Idempotency), before + 10);
    assert_eq!(loser.idempotency_records(), records + 10);
    // Nothing comes of it: the oldest go with the next that is made, and none is passed over.
    apply(&mut loser, EntryKind::Resolve, 0, Resolve { operation: locked.0, committed: None }.to_bytes());
    for sequence in 20..25 {
        let stamp = loser.state().stamp;
        run(&mut loser, &command(own, sequence, &format!("value {sequence}"), stamp));
    }
    assert_eq!(loser.idempotency_records(), 3);
    audit(&loser);
}

/// Runs an entry that concerns two machines, first against stores that fail in every way.
fn fails_first(
    machine: &mut Machine<MapStore>,
    loser: Option<&mut Machine<MapStore>>,
    (kind, body): (EntryKind, Bytes),
    beside: impl Fn() -> (bool, Option<Slot>),
) -> Option<Machine<MapStore>> {
    let store = machine.store.clone();
    let mut loser = loser;
    let picture = |machine: &Machine<MapStore>| {
        let parts = (machine.state().clone(), machine.tablets().clone(), machine.parted().to_vec());
        (
            parts,
            machine.lanes(),
            machine.fingerprint(),
            machine.idempotency_records(),
            machine.full_fingerprint().unwrap(),
        )
    };
    let before = (picture(machine), loser.as_deref().map(picture), store.len());
    let failed = StoreError::Failed("gone".into());
    for fault in [Fault::Writes(StoreError::NoSpace), Fault::All(failed), Fault::Writes(StoreError::NoSpace)] {
        store.set_fault(fault);
        let (bears, gainer) = beside();
        let mut attempt = Beside { loser: loser.as_deref_mut(), bears, gainer, born: None, ended: false };
        assert!(apply_beside(machine, kind, 10, body.clone(), &mut attempt).is_err());
        assert!(attempt.born.is_none() && !attempt.ended);
        store.set_fault(Fault::None);
        assert_eq!((picture(machine), loser.as_deref().map(picture), store.len()), before);
    }
    let (bears, gainer) = beside();
    let mut attempt = Beside { loser, bears, gainer, born: None, ended: false };
    apply_beside(machine, kind, 10, body, &mut attempt).unwrap();
    attempt.born
}

#[test]
fn a_store_that_fails_leaves_everything_as_it_was() {
    let store = MapStore::new();
    let mut low = replica(&store, GAINER, range(0, 0), vec![(range(0, 0), 3, 0)]);
    write_all(&mut low, 1, "first");
    let mut other = twin(&low);
    let body = split_body(&low, 0x80);
    let mut high = fails_first(&mut low, None, (EntryKind::Split, body.clone()), || (true, None)).unwrap();
    apply_beside(&mut other, EntryKind::Split, 10, body, &mut Beside { bears: true, ..Beside::nobody() }).unwrap();
    assert_eq!(low.full_fingerprint().unwrap(), other.full_fingerprint().unwrap());
    audit(&high);
    apply(&mut high, EntryKind::Noop, 7_000, Bytes::new());

    for (moving, lags) in [(range(0x80, 0xa0), false), (range(0xa0, 0xc0), true)] {
        let (operation, surrender) = lock(&mut low, &mut high, moving);
        let decide = (EntryKind::Decide, Decide { operation, commit: Some(surrender) }.to_bytes());
        let committed = low.state().applied.next();
        let resolve = (EntryKind::Resolve, Resolve { operation, committed: Some(committed) }.to_bytes());
        if lags {
            let applied = low.state().applied;
            fails_first(&mut high, None, resolve, || (false, Some(applied)));
            assert_eq!(high.parted().len(), 1);
            fails_first(&mut low, Some(&mut high), decide, || (false, None));
        } else {
            fails_first(&mut low, Some(&mut high), decide, || (false, None));
            fails_first(&mut high, None, resolve, || (false, Some(committed)));
        }
        assert!(high.parted().is_empty());
        low.state.outbox.clear();
        audit_data(&low);
        audit(&high);
    }
    let moving = high.state().range.clone();
    let (operation, surrender) = lock(&mut low, &mut high, moving);
    let decide = (EntryKind::Decide, Decide { operation, commit: Some(surrender) }.to_bytes());
    fails_first(&mut low, Some(&mut high), decide, || (false, None));
    assert_eq!(read_all(&low).len(), KEYS as usize);
    audit(&low);
}

/// [`audit`] without what a test has changed in memory alone.
fn audit_data(machine: &Machine<MapStore>) {
    machine.full_fingerprint().unwrap();
    nothing_unused(&machine.store);
}

#[test]
fn a_discard_that_fails_is_tried_again() {
    let Pair { store, low: mut gainer, high: mut loser, .. } = pair();
    let locked = lock(&mut gainer, &mut loser, range(0x80, 0xc0));
    let committed = gainer.state().applied.next();
    resolve(&mut loser, locked.0, committed, Some(gainer.state().applied));
    store.set_fault(Fault::Writes(StoreError::NoSpace));
    assert!(loser.discard_parted(GroupId(GAINER), None).is_err());
    assert_eq!(loser.parted().len(), 1);
    store.set_fault(Fault::None);
    loser.discard_parted(GroupId(GAINER), None).unwrap();
    assert!(loser.parted().is_empty());
    audit(&loser);
}

/// A gainer that came by a snapshot ends what is left of the loser here.
#[test]
fn a_merged_group_is_ended_without_its_gainer() {
    let Pair { store, low, high, .. } = pair();
    let kept = low.full_fingerprint().unwrap();
    let merger = Merger { into: GroupId(GAINER), at: Slot(90) };
    high.end(merger).unwrap();
    assert_eq!(merged_replicas(&store).unwrap(), [(name(LOSER), merger)]);
    assert_eq!(Machine::<MapStore>::list(&store).unwrap(), [name(GAINER)]);
    assert_eq!(low.full_fingerprint().unwrap(), kept);
    audit(&low);
}
