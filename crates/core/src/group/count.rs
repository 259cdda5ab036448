//! Counters that are estimates, and how they come right again.
//!
//! ```text
//!  leader                     its machine                       every replica
//!  not counted? -- Count ---> pins a view at slot 40
//!                             counts a slice
//!           <-- Counted ----
//!           -- Count ------>  counts a slice  ...
//!           <-- Counted ----  what was counted - what the counters said at slot 40
//!  proposes Correct(difference) ------------------------------> adds it; counted
//! ```
//!
//! How many keys each half of a split has is not known without looking at all of them, which no entry may take the time for.
//! The halves go on with estimates. Whatever is applied changes count and counter alike, so the difference found for one slot
//! holds for every later one, as long as the range is the same: the entry names its version.
//!
//! An estimate that was too low may sink below zero. So counters wrap around, and [`shown`] makes nothing of what wrapped.

use super::TabletMap;
use super::apply::Applying;
use super::kv;
use super::layout::{self, Space, damaged};
use super::machine::Machine;
use super::state::GroupState;
use crate::codec::Decode;
use crate::codec_struct;
use crate::ring::Position;
use crate::store::{Read, Store, StoreError, Visit};
use crate::types::RangeVersion;
use bytes::Bytes;

/// Body of a `Correct` entry: what to add to the counters, wrapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Correction {
    /// Of the range that was counted.
    pub range_version: RangeVersion,
    /// To the number of keys.
    pub keys: u64,
    /// To the bytes of keys and values.
    pub bytes: u64,
    /// To the number of idempotency records.
    pub idempotency_records: u64,
}

codec_struct!(Correction { range_version, keys, bytes, idempotency_records });

/// A counter for people and for limits: an estimate that sank below zero shows as zero.
#[must_use]
pub const fn shown(counter: u64) -> u64 {
    if counter > u64::MAX / 2 { 0 } else { counter }
}

/// Half of a counter, for one part of a range; one that sank below zero stays there.
#[must_use]
pub const fn half(counter: u64) -> u64 {
    (counter.cast_signed() / 2).cast_unsigned()
}

impl GroupState {
    /// How many user keys the group holds, as far as is known.
    #[must_use]
    pub const fn shown_keys(&self) -> u64 {
        shown(self.keys)
    }

    /// How many bytes its user keys and values take, as far as is known.
    #[must_use]
    pub const fn shown_bytes(&self) -> u64 {
        shown(self.bytes)
    }
}

impl<S: Store> Applying<'_, S> {
    /// Applies a `Correct` entry: once, and only for the range that was counted.
    pub(super) fn correct(&mut self, body: Bytes) {
        let Ok(correction) = Correction::from_all(body) else { return };
        if self.state.counted || correction.range_version != self.state.range_version {
            return;
        }
        self.keep_before();
        self.state.keys = self.state.keys.wrapping_add(correction.keys);
        self.state.bytes = self.state.bytes.wrapping_add(correction.bytes);
        *self.idempotency_records = self.idempotency_records.wrapping_add(correction.idempotency_records);
        self.state.counted = true;
    }
}

/// What a pinned view holds of a group's range, being counted slice by slice.
#[derive(Debug)]
pub struct Counting<V: Read> {
    view: V,
    tablets: TabletMap,
    /// What is still missing from the counters: they are taken away first, and what is found is added.
    missing: Correction,
    section: Space,
    cursor: Option<Vec<u8>>,
}

impl<S: Store> Machine<S> {
    /// Pins the state as it is and makes it ready to be counted.
    pub fn counting(&self) -> Counting<S::View> {
        let state = self.state();
        let missing = Correction {
            range_version: state.range_version,
            keys: state.keys.wrapping_neg(),
            bytes: state.bytes.wrapping_neg(),
            idempotency_records: self.idempotency_records().wrapping_neg(),
        };
        Counting {
            view: self.store().view(),
            tablets: self.tablets().clone(),
            missing,
            section: Space::Values,
            cursor: None,
        }
    }
}

impl<V: Read> Counting<V> {
    /// The version of the range that is being counted.
    pub fn range_version(&self) -> RangeVersion {
        self.missing.range_version
    }

    /// Counts a further slice: records until there are `max_records` of them or they come to `max_bytes`. What corrects the
    /// counters, once that was the last. After an error nothing of the slice is counted.
    pub fn advance(&mut self, max_records: usize, max_bytes: usize) -> Result<Option<Correction>, StoreError> {
        let mut missing = self.missing;
        let mut cursor = self.cursor.clone();
        let (mut records, mut bytes, mut bad) = (0, 0, false);
        let section = self.section;
        layout::walk(&self.view, &self.tablets, section, self.cursor.as_deref(), &mut |rest, value| {
            if records >= max_records || bytes >= max_bytes {
                return Visit::Stop;
            }
            records += 1;
            bytes += value.len();
            bad |= add(&mut missing, section, rest, value).is_none();
            let at = cursor.get_or_insert_default();
            at.clear();
            at.extend_from_slice(rest);
            Visit::Continue
        })?;
        if bad {
            return Err(damaged("a record met while counting"));
        }
        self.missing = missing;
        if records >= max_records || bytes >= max_bytes {
            self.cursor = cursor;
            return Ok(None);
        }
        if section == Space::Idempotency {
            return Ok(Some(missing));
        }
        (self.section, self.cursor) = (Space::Idempotency, None);
        Ok(None)
    }
}

/// Counts a record; `None` if it does not read.
fn add(counted: &mut Correction, section: Space, rest: &[u8], value: &[u8]) -> Option<()> {
    if section == Space::Idempotency {
        counted.idempotency_records = counted.idempotency_records.wrapping_add(1);
        return Some(());
    }
    let key = Position(Bytes::copy_from_slice(rest)).key()?;
    let (_, value_at) = kv::Head::parse(value)?;
    counted.keys = counted.keys.wrapping_add(1);
    counted.bytes = counted.bytes.wrapping_add(kv::entry_bytes(&key, value.len() - value_at));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sank_below_zero_stays_there_when_halved() {
        assert_eq!((half(7), shown(half(7))), (3, 3));
        let below = 0u64.wrapping_sub(10);
        assert_eq!(shown(half(below)), 0);
        assert_eq!(half(below).wrapping_add(5), 0);
    }
}
