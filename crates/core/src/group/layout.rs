//! Where everything lies in the store.
//!
//! ```text
//! T tablet space ...            a tablet's data; the whole tablet is one span
//!   1 position                     -> value record                       (kv.rs)
//!   2 deadline version position    -> nothing: this key vanishes then     (expiry.rs)
//!   3 position' method key         -> idempotency record                 (idempotency.rs)
//!   4 deadline version position' method key -> nothing: this record vanishes then
//! R group 0                     replica: name, tablets, group state as of its last structural change
//! R group 1                     replica: what moves with every batch, the applied mark among it
//! R group 2 slot part           replica: the log of its lanes          (lanes.rs)
//! M group                       a replica whose machine was taken over by another group's
//! S group 0                     snapshot being received: name, fresh tablet, progress
//! S group 1 part                snapshot being received: its lanes
//! N                             the highest tablet number ever given out
//! ```
//!
//! Numbers are big-endian, so that byte order is their order. `position'` is the position with a mark at its end that
//! keeps positions in order though more bytes follow. Every record begins with a version byte.

use super::{TabletMap, idempotency, kv};
use crate::codec::{DecodeError, Encode};
use crate::ring::Position;
use crate::store::{Read, StoreError, Visit};
use crate::time::LogTime;
use crate::types::{GroupId, Slot, TabletId, Version};
use bytes::{BufMut, Bytes};

const TABLET: u8 = b'T';
const REPLICA: u8 = b'R';
const INCOMING: u8 = b'S';
const MERGED: u8 = b'M';
const NUMBERED: u8 = b'N';

/// Bytes in front of what a space holds: the letter, the tablet's number, the space.
pub(super) const SPACE_PREFIX: usize = 10;

/// The parts of a tablet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Space {
    Values = 1,
    Deadlines = 2,
    Idempotency = 3,
    IdempotencyDeadlines = 4,
}

/// The kinds of record that a replica keeps under its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ReplicaRecord {
    Frame = 0,
    Mark = 1,
    Lanes = 2,
}

/// Begins a key in a space of a tablet; the caller appends the rest.
pub(super) fn begin(out: &mut Vec<u8>, tablet: TabletId, space: Space) {
    out.clear();
    out.push(TABLET);
    out.put_u64(tablet.0);
    out.push(space as u8);
}

/// Writes another tablet's number into a key that [`begin`] began.
pub(super) fn set_tablet(key: &mut [u8], tablet: TabletId) {
    key[1..9].copy_from_slice(&tablet.0.to_be_bytes());
}

/// The tablet that a key in one of its spaces names.
pub(super) fn tablet_of(key: &[u8]) -> TabletId {
    TabletId(key[1..9].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// A key in a space of a tablet.
pub(super) fn in_space(tablet: TabletId, space: Space, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(SPACE_PREFIX + rest.len());
    begin(&mut key, tablet, space);
    key.extend_from_slice(rest);
    key
}

/// The key right after all that a space of a tablet may hold.
pub(super) fn space_end(tablet: TabletId, space: Space) -> Vec<u8> {
    let mut key = in_space(tablet, space, &[]);
    key[SPACE_PREFIX - 1] += 1;
    key
}

/// All of a tablet, as the span of store keys `[start, end)`.
pub(super) fn tablet_span(tablet: TabletId) -> (Vec<u8>, Vec<u8>) {
    (numbered(TABLET, tablet.0), after(TABLET, tablet.0))
}

/// All of the tablets from one on up to another, as the span of store keys `[start, end)`.
pub(super) fn tablets_between(from: TabletId, to: TabletId) -> (Vec<u8>, Vec<u8>) {
    (numbered(TABLET, from.0), numbered(TABLET, to.0))
}

/// The record of the highest tablet number ever given out. What was dropped goes from the disk later, so that no other may be
/// written under its number, not even after a restart.
pub(super) fn numbers_record() -> [u8; 1] {
    [NUMBERED]
}

/// A replica's record.
pub(super) fn replica_record(group: GroupId, record: ReplicaRecord) -> Vec<u8> {
    let mut key = numbered(REPLICA, group.0);
    key.push(record as u8);
    key
}

/// All records of a replica, as a span of store keys.
pub(super) fn replica_span(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (numbered(REPLICA, group.0), after(REPLICA, group.0))
}

/// One record in the log of a replica's lanes.
pub(super) fn lanes_record(group: GroupId, slot: Slot, part: u32) -> Vec<u8> {
    let mut key = replica_record(group, ReplicaRecord::Lanes);
    key.put_u64(slot.0);
    key.put_u32(part);
    key
}

/// The slot and part of a key made by [`lanes_record`].
pub(super) fn parse_lanes_record(key: &[u8]) -> Option<(Slot, u32)> {
    let rest: &[u8; 12] = key.get(SPACE_PREFIX..)?.try_into().ok()?;
    let (slot, part) = rest.split_at(8);
    Some((Slot(u64::from_be_bytes(slot.try_into().ok()?)), u32::from_be_bytes(part.try_into().ok()?)))
}

/// The log of a replica's lanes, as a span of store keys.
pub(super) fn lanes_span(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    let start = replica_record(group, ReplicaRecord::Lanes);
    let mut end = start.clone();
    end[SPACE_PREFIX - 1] += 1;
    (start, end)
}

/// The record of a replica whose machine was taken over.
pub(super) fn merged_record(group: GroupId) -> Vec<u8> {
    numbered(MERGED, group.0)
}

/// Shows the record of every replica whose machine was taken over.
pub(super) fn each_merged(
    read: &impl Read,
    mut visit: impl FnMut(&[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut failed = Ok(());
    read.scan(&[MERGED], &[MERGED + 1], &mut |_, value| {
        failed = visit(value);
        if failed.is_ok() { Visit::Continue } else { Visit::Stop }
    })?;
    failed
}

/// The record of a snapshot being received.
pub(super) fn incoming_record(group: GroupId) -> Vec<u8> {
    let mut key = numbered(INCOMING, group.0);
    key.push(0);
    key
}

/// Part of the lanes of a snapshot being received.
pub(super) fn incoming_lanes(group: GroupId, part: u32) -> Vec<u8> {
    let mut key = numbered(INCOMING, group.0);
    key.push(1);
    key.put_u32(part);
    key
}

/// All records of a snapshot being received, as a span of store keys.
pub(super) fn incoming_span(group: GroupId) -> (Vec<u8>, Vec<u8>) {
    (numbered(INCOMING, group.0), after(INCOMING, group.0))
}

fn numbered(letter: u8, number: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.push(letter);
    key.put_u64(number);
    key
}

/// The first key past all that is numbered so.
fn after(letter: u8, number: u64) -> Vec<u8> {
    number.checked_add(1).map_or_else(|| vec![letter + 1], |next| numbered(letter, next))
}

/// Shows the first key and value of every numbered thing under `letter` that is the number's own record.
fn each_first(
    read: &impl Read,
    letter: u8,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let end = [letter + 1];
    let mut start = vec![letter];
    loop {
        let mut found = None;
        read.scan(&start, &end, &mut |key, value| {
            let number = key.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            found = Some((number, key.get(9..) == Some(&[0]), Bytes::copy_from_slice(value)));
            Visit::Stop
        })?;
        let Some((number, own, value)) = found else { return Ok(()) };
        let number = number.filter(|_| own).ok_or_else(|| damaged("a record without its owner's"))?;
        visit(number, &value)?;
        start = after(letter, number);
        if start.len() == 1 {
            return Ok(());
        }
    }
}

/// Shows the frame record of every replica on the store, by group.
pub(super) fn each_replica(
    read: &impl Read,
    mut visit: impl FnMut(GroupId, &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    each_first(read, REPLICA, |number, value| visit(GroupId(number), value))
}

/// Shows the record of every snapshot being received on the store, by group.
pub(super) fn each_incoming(
    read: &impl Read,
    mut visit: impl FnMut(GroupId, &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    each_first(read, INCOMING, |number, value| visit(GroupId(number), value))
}

/// An entry in an index of deadlines. It names the version, so that no two of one group are equal, and what is due, so that
/// those of two groups that share a tablet and count versions on from the same one are not equal either.
pub(super) fn deadline_key(tablet: TabletId, space: Space, at: (LogTime, Version), due: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(SPACE_PREFIX + 16 + due.len());
    begin(&mut key, tablet, space);
    key.put_u64(at.0.0);
    key.put_u64(at.1.0);
    key.extend_from_slice(due);
    key
}

/// Deadline, version and what is due, from what follows the space in a key made by [`deadline_key`].
pub(super) fn parse_deadline(rest: &[u8]) -> Option<((LogTime, Version), &[u8])> {
    let (deadline, rest) = rest.split_first_chunk()?;
    let (version, due) = rest.split_first_chunk()?;
    Some(((LogTime(u64::from_be_bytes(*deadline)), Version(u64::from_be_bytes(*version))), due))
}

/// Appends a position so that more bytes may follow and positions still sort as they do alone: zero becomes `00 ff`, the
/// end is `00 01`.
pub(super) fn put_ordered(position: &[u8], out: &mut Vec<u8>) {
    put_ordered_open(position, out);
    out.extend_from_slice(&[0, 1]);
}

/// [`put_ordered`] without the end: the first byte string that any position from `position` on may have.
pub(super) fn put_ordered_open(position: &[u8], out: &mut Vec<u8>) {
    for byte in position {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
}

/// Reads what [`put_ordered`] wrote; the rest follows.
pub(super) fn take_ordered(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut position = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        match rest {
            [0, 0xff, tail @ ..] => {
                position.push(0);
                rest = tail;
            }
            [0, 1, tail @ ..] => return Some((position, tail)),
            [byte, tail @ ..] if *byte != 0 => {
                position.push(*byte);
                rest = tail;
            }
            _ => return None,
        }
    }
}

/// What a space of a tablet holds of the positions from `from` up to `to`, or to the last one, as a span of store keys.
/// `Values` and `Idempotency` only: the others are not ordered by position.
pub(super) fn positions(tablet: TabletId, space: Space, from: &Position, to: Option<&Position>) -> (Vec<u8>, Vec<u8>) {
    let bound = |position: &Position| {
        let mut key = in_space(tablet, space, &[]);
        match space {
            Space::Idempotency => put_ordered_open(&position.0, &mut key),
            Space::Values | Space::Deadlines | Space::IdempotencyDeadlines => key.extend_from_slice(&position.0),
        }
        key
    };
    (bound(from), to.map_or_else(|| space_end(tablet, space), bound))
}

/// The parts of a space that hold a replica's range, in ring order: spans of store keys, and what their times are moved by.
pub(super) fn ring_spans(tablets: &TabletMap, space: Space) -> Vec<(Vec<u8>, Vec<u8>, i64)> {
    let mut spans = Vec::new();
    for piece in &tablets.0 {
        for (from, to) in piece.range.spans() {
            let (start, end) = positions(piece.tablet, space, &from, to.as_ref());
            spans.push((start, end, piece.offset_micros));
        }
    }
    spans
}

/// Shows a replica's part of a space in ring order, after `cursor` if there is one. The visitor sees what follows the
/// space in the key, and the value with its times in the group's clock: the same whatever tablets a replica has.
pub(super) fn walk(
    read: &impl Read,
    tablets: &TabletMap,
    space: Space,
    cursor: Option<&[u8]>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
) -> Result<(), StoreError> {
    let mut cursor = cursor;
    let mut stopped = false;
    let mut moved = Vec::new();
    for (mut start, end, offset_micros) in ring_spans(tablets, space) {
        if let Some(rest) = cursor {
            let inside = start[SPACE_PREFIX..] <= *rest && (end.len() == SPACE_PREFIX || *rest < end[SPACE_PREFIX..]);
            if !inside {
                continue;
            }
            start.truncate(SPACE_PREFIX);
            start.extend_from_slice(rest);
            start.push(0);
            cursor = None;
        }
        read.scan(&start, &end, &mut |key, value| {
            let value = match (offset_micros, space) {
                (0, _) => value,
                (_, Space::Idempotency) => {
                    idempotency::shift_record(value, offset_micros, &mut moved);
                    &moved
                }
                (_, Space::Values | Space::Deadlines | Space::IdempotencyDeadlines) => {
                    kv::shift_record(value, offset_micros, &mut moved);
                    &moved
                }
            };
            let next = visit(&key[SPACE_PREFIX..], value);
            stopped = next == Visit::Stop;
            next
        })?;
        if stopped {
            break;
        }
    }
    Ok(())
}

/// An error for a record that does not read back.
pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

/// The same, with the codec's reason.
pub(super) fn undecodable(what: &'static str) -> impl Fn(DecodeError) -> StoreError {
    move |error| StoreError::Damaged(format!("{what}: {error}"))
}

/// Takes the version byte off a record.
pub(super) fn unversioned(record: Bytes, version: u8, what: &'static str) -> Result<Bytes, StoreError> {
    match record.first() {
        Some(first) if *first == version => Ok(record.slice(1..)),
        _ => Err(StoreError::Damaged(format!("{what}: not of a version that this build reads"))),
    }
}

/// A record with its version byte.
pub(super) fn versioned(version: u8, value: &impl Encode) -> Bytes {
    let mut out = bytes::BytesMut::with_capacity(256);
    out.put_u8(version);
    value.encode(&mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Piece;
    use crate::ring::KeyRange;
    use crate::store::map::{MapBatch, MapStore};
    use crate::store::{Batch, Store};
    use proptest::prelude::*;

    #[test]
    fn the_last_tablet_and_the_last_group_have_an_end() {
        let (start, end) = tablet_span(TabletId(u64::MAX));
        assert!(start < end && in_space(TabletId(u64::MAX), Space::IdempotencyDeadlines, &[0xff; 40]) < end);
        let (start, end) = replica_span(GroupId(u64::MAX));
        assert!(start < end && lanes_record(GroupId(u64::MAX), Slot(u64::MAX), u32::MAX) < end);
    }

    proptest! {
        #[test]
        fn ordered_positions_sort_as_positions(
            a in proptest::collection::vec(0u8..3, 0..6),
            b in proptest::collection::vec(0u8..3, 0..6),
            tail in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            let ordered = |position: &[u8]| {
                let mut out = Vec::new();
                put_ordered(position, &mut out);
                out.extend_from_slice(&tail);
                out
            };
            let mut open = Vec::new();
            put_ordered_open(&b, &mut open);
            prop_assert_eq!(ordered(&a).cmp(&ordered(&b)), a.cmp(&b));
            prop_assert_eq!(ordered(&a) >= open, a >= b);
            let bytes = ordered(&a);
            let (position, rest) = take_ordered(&bytes).unwrap();
            prop_assert_eq!((position, rest), (a, &tail[..]));
        }

        #[test]
        fn a_walk_goes_round_the_ring_from_any_cursor(
            positions in proptest::collection::btree_set(proptest::collection::vec(0u8..4, 0..4), 0..30),
            cuts in proptest::collection::btree_set(proptest::collection::vec(0u8..4, 0..4), 1..4),
        ) {
            let cuts: Vec<Position> = cuts.into_iter().map(|cut| Position(cut.into())).collect();
            let tablets = TabletMap(
                (0..cuts.len())
                    .map(|index| {
                        let range =
                            KeyRange { start: cuts[index].clone(), end: cuts[(index + 1) % cuts.len()].clone() };
                        Piece { range, tablet: TabletId(index as u64 * 7), offset_micros: 0 }
                    })
                    .collect(),
            );
            for space in [Space::Values, Space::Idempotency] {
                let store = MapStore::new();
                let mut batch = MapBatch::default();
                let mut expected = Vec::new();
                for position in &positions {
                    let tablet = tablets.find(position).unwrap().tablet;
                    let mut rest = Vec::new();
                    if space == Space::Idempotency { put_ordered(position, &mut rest) } else { rest.clone_from(position) }
                    batch.put(&in_space(tablet, space, &rest), b"");
                    expected.push((*position < cuts[0].0, position.clone(), rest));
                }
                store.write(batch).unwrap();
                expected.sort();
                for from in 0..=expected.len() {
                    let cursor = from.checked_sub(1).map(|last| &expected[last].2[..]);
                    let mut seen = Vec::new();
                    walk(&store, &tablets, space, cursor, &mut |rest, _| { seen.push(rest.to_vec()); Visit::Continue })
                        .unwrap();
                    let rests: Vec<_> = expected[from..].iter().map(|(_, _, rest)| rest.clone()).collect();
                    prop_assert_eq!(seen, rests);
                }
            }
        }
    }
}
