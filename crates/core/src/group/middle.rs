//! Where to cut a group in two.

use super::layout::{self, Space};
use super::tablets::TabletMap;
use crate::ring::{KeyRange, Position};
use crate::store::{Read, StoreError, Visit};
use bytes::Bytes;

/// Bytes of a position by which keys are told apart where sizes are asked for.
const LOOKED_AT: usize = 32;

/// The position that halves the keys and bytes of a range: found by looking, if there are at most `most_keys`; else by what the
/// store knows of its sizes. If it knows nothing, the middle of the range, as keys of many partitions lie evenly on the ring, or,
/// if the range is within one partition, where the look ended. `None` if there are not two keys to part.
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
        if let Some(found) = by_sizes(read, tablets)?.filter(inside) {
            return Ok(Some(found));
        }
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

/// The first key behind half of the bytes, as far as the store knows how they lie.
fn by_sizes(read: &impl Read, tablets: &TabletMap) -> Result<Option<Position>, StoreError> {
    let spans = layout::ring_spans(tablets, Space::Values);
    let sizes: Option<Vec<u64>> = spans.iter().map(|(start, end, _)| read.size_between(start, end)).collect();
    let Some(sizes) = sizes else { return Ok(None) };
    let mut wanted = sizes.iter().sum::<u64>() / 2;
    for ((start, end, _), size) in spans.iter().zip(sizes) {
        if wanted > size {
            wanted -= size;
            continue;
        }
        let at = behind(read, start, end, wanted);
        let mut found = None;
        read.scan(at.as_slice().max(start), end, &mut |key, _| {
            found = Some(Position(Bytes::copy_from_slice(&key[layout::SPACE_PREFIX..])));
            Visit::Stop
        })?;
        return Ok(found);
    }
    Ok(None)
}

/// About the last key of a span before which no more than `wanted` bytes lie: eight bytes after the other, each found by
/// halving.
fn behind(read: &impl Read, start: &[u8], end: &[u8], wanted: u64) -> Vec<u8> {
    let mut found = start[..layout::SPACE_PREFIX].to_vec();
    // Keys of one partition begin with the same eight bytes, and often with more.
    for _ in 0..LOOKED_AT / 8 {
        let before = |next: u64| {
            let mut key = found.clone();
            key.extend(next.to_be_bytes());
            let key = key.as_slice().clamp(start, end);
            read.size_between(start, key).unwrap_or(0)
        };
        let (mut low, mut high) = (0, u64::MAX);
        while low < high {
            let middle = high - (high - low) / 2;
            if before(middle) <= wanted { low = middle } else { high = middle - 1 }
        }
        found.extend(low.to_be_bytes());
    }
    found
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

    /// A store that knows how large it is between two keys.
    struct Knowing(MapStore);

    impl Read for Knowing {
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            self.0.get(key)
        }

        fn size_between(&self, start: &[u8], end: &[u8]) -> Option<u64> {
            let mut bytes = 0;
            let scanned = self.0.scan(start, end, &mut |key, value| {
                bytes += (key.len() + value.len()) as u64;
                Visit::Continue
            });
            scanned.ok().map(|()| bytes)
        }

        fn scan(
            &self,
            start: &[u8],
            end: &[u8],
            visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
        ) -> Result<(), StoreError> {
            self.0.scan(start, end, visit)
        }
    }

    #[test]
    fn many_keys_are_halved_by_what_the_store_knows() {
        let whole = KeyRange::whole();
        let tablets = TabletMap::single(whole.clone(), TabletId(1));
        // Nearly all lies in one partition, far from the middle of the ring.
        let names: Vec<String> = (0..200).map(|number| format!("!hashhas/users/{number:04}")).collect();
        let mut positions: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
        positions.push(&[0xff; 12]);
        let store = Knowing(filled(&positions));
        let found = middle(&store, &tablets, &whole, 10).unwrap().unwrap();
        let before = names.iter().filter(|name| name.as_bytes() < &found.0[..]).count();
        assert!((95..=105).contains(&before), "{before} of 200 lie before {found:?}");
        // Round the ring from within: what lies behind the end comes first.
        let start = Position(Bytes::copy_from_slice(b"!hashhas/users/0150"));
        let range = KeyRange { start: start.clone(), end: start };
        let tablets = TabletMap::single(range.clone(), TabletId(1));
        let found = middle(&store, &tablets, &range, 10).unwrap().unwrap();
        let before = names.iter().filter(|name| name.as_bytes() < &found.0[..]).count();
        assert!((45..=55).contains(&before), "{before} of 200 lie before {found:?}");
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
