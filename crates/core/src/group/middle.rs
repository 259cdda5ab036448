//! Where to cut a group in two.

use super::layout::{self, Space};
use super::tablets::TabletMap;
use crate::ring::{KeyRange, Position};
use crate::store::{Read, StoreError, Visit};
use bytes::Bytes;

/// The position that halves the keys and bytes of a range: found by looking, if there are at most `most_keys`; else the
/// middle of the range, as keys of many partitions lie evenly on the ring, or, if the range is within one partition, where
/// the look ended. `None` if there are not two keys to part.
pub fn middle(
    read: &impl Read,
    tablets: &TabletMap,
    range: &KeyRange,
    most_keys: usize,
) -> Result<Option<Position>, StoreError> {
    let mut seen: Vec<(Position, usize)> = Vec::new();
    layout::walk(read, tablets, Space::Values, None, &mut |rest, value| {
        seen.push((Position(Bytes::copy_from_slice(rest)), rest.len() + value.len()));
        if seen.len() > most_keys { Visit::Stop } else { Visit::Continue }
    })?;
    let inside = |position: &Position| *position != range.start && range.contains(position);
    if seen.len() > most_keys {
        let even = halfway(range).filter(inside);
        return Ok(even.or_else(|| seen.pop().map(|(position, _)| position).filter(inside)));
    }
    let total: usize = seen.iter().map(|(_, bytes)| bytes).sum();
    let mut before = 0;
    for (position, bytes) in seen {
        if before * 2 >= total && before > 0 && inside(&position) {
            return Ok(Some(position));
        }
        before += bytes;
    }
    Ok(None)
}

/// The position halfway round a range, by the hash that positions begin with.
fn halfway(range: &KeyRange) -> Option<Position> {
    let hash = |position: &Position| {
        let mut first = [0; 8];
        let length = position.0.len().min(8);
        first[..length].copy_from_slice(&position.0[..length]);
        u64::from_be_bytes(first)
    };
    let (start, end) = (hash(&range.start), hash(&range.end));
    // On the whole ring this is half of it; an arc within one partition has no hash between its ends.
    let arc = end.wrapping_sub(start);
    let half = if range.is_whole() { 1 << 63 } else { arc / 2 };
    (half > 0).then(|| Position(Bytes::copy_from_slice(&start.wrapping_add(half).to_be_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::map::{MapBatch, MapStore};
    use crate::store::{Batch, Store};
    use crate::types::TabletId;

    fn position(bytes: &[u8]) -> Position {
        Position(Bytes::copy_from_slice(bytes))
    }

    fn filled(positions: &[&[u8]]) -> MapStore {
        let store = MapStore::new();
        let mut batch = MapBatch::default();
        for position in positions {
            batch.put(&layout::in_space(TabletId(1), Space::Values, position), &[0; 10]);
        }
        store.write(batch).unwrap();
        store
    }

    #[test]
    fn few_keys_are_halved_where_they_lie() {
        let store = filled(&[b"a", b"b", b"c", b"z"]);
        let whole = KeyRange::whole();
        let tablets = TabletMap::single(whole.clone(), TabletId(1));
        assert_eq!(middle(&store, &tablets, &whole, 10).unwrap(), Some(position(b"c")));
        // Round the ring from "c": c, z, a, b.
        let range = KeyRange { start: position(b"c"), end: position(b"c") };
        let tablets = TabletMap::single(range.clone(), TabletId(1));
        assert_eq!(middle(&store, &tablets, &range, 10).unwrap(), Some(position(b"a")));
    }

    #[test]
    fn nothing_to_part_is_not_parted() {
        let whole = KeyRange::whole();
        let tablets = TabletMap::single(whole.clone(), TabletId(1));
        assert_eq!(middle(&filled(&[]), &tablets, &whole, 10).unwrap(), None);
        assert_eq!(middle(&filled(&[b"only"]), &tablets, &whole, 10).unwrap(), None);
    }

    #[test]
    fn many_keys_are_parted_halfway_or_where_the_look_ended() {
        let store = filled(&[b"a", b"b", b"c", b"z"]);
        let whole = KeyRange::whole();
        let tablets = TabletMap::single(whole.clone(), TabletId(1));
        assert_eq!(middle(&store, &tablets, &whole, 2).unwrap(), Some(position(&(1_u64 << 63).to_be_bytes())));
        let range = KeyRange { start: position(b"hashhash/a"), end: position(b"hashhash/z") };
        let store = filled(&[b"hashhash/a", b"hashhash/b", b"hashhash/c", b"hashhash/d"]);
        let tablets = TabletMap::single(range.clone(), TabletId(1));
        assert_eq!(middle(&store, &tablets, &range, 2).unwrap(), Some(position(b"hashhash/c")));
    }
}
