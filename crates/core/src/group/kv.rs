//! Keys and values: how they lie in a tablet, how they are read, and what the operations of a command do to them.

use super::apply::Applying;
use super::layout::{self, SPACE_PREFIX, Space, damaged};
use super::machine::Limits;
use super::tablets::{LATEST_DEADLINE, TabletMap, shifted};
use crate::command::{Condition, Found, Operation, Outcome, Write};
use crate::planted::{self, Bug};
use crate::ring::Key;
use crate::store::{Batch, Read, Store, StoreError};
use crate::time::LogTime;
use crate::types::{TabletId, Version};
use bytes::{BufMut, Bytes};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64;

/// Version byte of a value record: version, modified, value.
const FORMAT: u8 = 1;
/// Version byte of a value record that has a deadline between its modified time and its value.
const FORMAT_WITH_DEADLINE: u8 = 2;

/// How long keys may be on average before fewer of them are kept in memory.
const RECENT_KEY_BYTES: usize = 64;

/// A value record but for the value. Its times are in the clock of the group that wrote it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) version: Version,
    pub(super) modified: LogTime,
    pub(super) deadline: Option<LogTime>,
}

impl Head {
    /// Appends the record of `value`.
    fn put_record(&self, value: &[u8], out: &mut Vec<u8>) {
        out.push(if self.deadline.is_some() { FORMAT_WITH_DEADLINE } else { FORMAT });
        out.put_u64_le(self.version.0);
        out.put_u64_le(self.modified.0);
        if let Some(deadline) = self.deadline {
            out.put_u64_le(deadline.0);
        }
        out.extend_from_slice(value);
    }

    /// Reads the head of a record; tells where the value begins.
    pub(super) fn parse(record: &[u8]) -> Option<(Self, usize)> {
        let number = |at: usize| record.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let (version, modified) = (Version(number(1)?), LogTime(number(9)?));
        match *record.first()? {
            FORMAT => Some((Self { version, modified, deadline: None }, 17)),
            FORMAT_WITH_DEADLINE => Some((Self { version, modified, deadline: Some(LogTime(number(17)?)) }, 25)),
            _ => None,
        }
    }
}

/// Writes a record as a group whose clock is ahead by `offset_micros` would have written it. One that does not read stays as
/// it is, for whoever reads it to complain.
pub(super) fn shift_record(record: &[u8], offset_micros: i64, out: &mut Vec<u8>) {
    out.clear();
    let Some((head, value_at)) = Head::parse(record) else { return out.extend_from_slice(record) };
    let head = Head {
        version: head.version,
        modified: shifted(head.modified, offset_micros),
        deadline: head.deadline.map(|deadline| shifted(deadline, offset_micros)),
    };
    head.put_record(&record[value_at..], out);
}

/// What applying needs to know of a key that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Current {
    pub(super) version: Version,
    /// In the group's time.
    pub(super) deadline: Option<LogTime>,
    /// Bytes of key and value together.
    pub(super) bytes: u64,
}

/// What the last writes made of their keys: what a batch needs to see of its own earlier commands, kept on for a while,
/// so that a key written again need not be looked up.
///
/// It is right because nobody else writes what a machine owns, and because it is thrown away when a batch fails. The
/// older half is dropped when the younger is full, between batches only.
#[derive(Default, Debug)]
pub(super) struct Recent {
    younger: Known,
    older: Known,
    /// Bytes of the keys in `younger`.
    bytes: usize,
}

/// Never iterated: its order means nothing.
type Known = HashMap<Box<[u8]>, Option<Current>, BuildHasherDefault<KeyHasher>>;

impl Recent {
    /// What is known of `key`: inside, `None` for a key that does not exist.
    fn get(&self, key: &[u8]) -> Option<Option<Current>> {
        self.younger.get(key).or_else(|| self.older.get(key)).copied()
    }

    fn set(&mut self, key: &[u8], current: Option<Current>) {
        if let Some(known) = self.younger.get_mut(key) {
            *known = current;
        } else {
            self.bytes += key.len();
            self.younger.insert(key.into(), current);
        }
    }

    /// Forgets all: somebody else may write what the machine owned, or have written what it owns from now on.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Keeps to the limits. Only for when all that is known is in the store.
    pub(super) fn rotate(&mut self, limits: &Limits) {
        if self.younger.len() * 2 > limits.recent_keys || self.bytes * 2 > limits.recent_keys * RECENT_KEY_BYTES {
            self.older = std::mem::take(&mut self.younger);
            self.bytes = 0;
        }
    }
}

/// Hashes a byte string the same way in every process.
#[derive(Default, Debug)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= xxh3_64(bytes);
    }

    /// The length that precedes a byte string adds nothing to its hash.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The value of `key` as `read` has it, `None` as well for a key outside every tablet. The value is a slice of what the
/// store returned. A key whose time has come is still found until the entry that expires it is applied: only then do all
/// replicas lose it at the same slot.
pub fn read(read: &impl Read, tablets: &TabletMap, key: &Key) -> Result<Option<Found>, StoreError> {
    read_served(read, tablets, key).map(Option::flatten)
}

/// Like [`read`], but `None` outside for a key that lies in none of the tablets: somebody else has it.
pub fn read_served(read: &impl Read, tablets: &TabletMap, key: &Key) -> Result<Option<Option<Found>>, StoreError> {
    let mut at = Vec::with_capacity(SPACE_PREFIX + 8 + key.bytes().len());
    layout::begin(&mut at, TabletId(0), Space::Values);
    key.put_position(&mut at);
    let Some(piece) = tablets.find(&at[SPACE_PREFIX..]) else { return Ok(None) };
    layout::set_tablet(&mut at, piece.tablet);
    let Some(record) = read.get(&at)? else { return Ok(Some(None)) };
    let (head, value_at) = Head::parse(&record).ok_or_else(|| damaged("a value record"))?;
    let modified = piece.place().group_time(head.modified);
    Ok(Some(Some(Found { version: head.version, modified, value: record.slice(value_at..) })))
}

/// Whether `condition` holds for a key that is `current`.
fn holds(condition: Condition, current: Option<&Current>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::VersionIs { version } => current.is_some_and(|current| current.version == version),
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
    }
}

impl<S: Store> Applying<'_, S> {
    /// Makes `key` the one that the next calls are about. False if the group does not own it.
    pub(super) fn locate(&mut self, key: &Key) -> Result<bool, StoreError> {
        let at = &mut self.scratch.key;
        layout::begin(at, TabletId(0), Space::Values);
        key.put_position(at);
        let position = &at[SPACE_PREFIX..];
        let sealed = self.state.pending.as_ref().and_then(|pending| pending.sealed());
        let sealed = sealed.filter(|_| !planted::on(Bug::SealIgnored));
        if !self.state.range.contains_bytes(position) || sealed.is_some_and(|sealed| sealed.contains_bytes(position)) {
            return Ok(false);
        }
        let piece = self.tablets.find(position).ok_or_else(|| damaged("no tablet holds an owned position"))?;
        let place = piece.place();
        layout::set_tablet(at, place.tablet);
        self.scratch.place = place;
        Ok(true)
    }

    /// Whether the group owns every position of an operation. Afterwards the last key is located.
    pub(super) fn owns(&mut self, operation: &Operation) -> Result<bool, StoreError> {
        match operation {
            Operation::Put { key, .. } | Operation::Delete { key, .. } => self.locate(key),
            Operation::Batch { .. } => {
                for key in operation.keys() {
                    if !self.locate(key)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Carries out an operation whose positions the group owns, and whose only key, if it is not a batch, is located.
    pub(super) fn operate(&mut self, operation: &Operation, version: Version) -> Result<Outcome, StoreError> {
        match operation {
            Operation::Put { key, value, ttl_ms, condition } => {
                let current = self.current(key)?;
                if !holds(*condition, current.as_ref()) {
                    return Ok(refused(0, current));
                }
                self.put(key, value, *ttl_ms, version, current);
                Ok(Outcome::Written { version, created: current.is_none() })
            }
            Operation::Delete { key, condition } => {
                let current = self.current(key)?;
                if !holds(*condition, current.as_ref()) {
                    return Ok(refused(0, current));
                }
                let Some(current) = current else { return Ok(Outcome::NotFound) };
                self.delete(key, current);
                Ok(Outcome::Deleted { version })
            }
            Operation::Batch { conditions, writes } => self.operate_batch(conditions, writes, version),
        }
    }

    fn operate_batch(
        &mut self,
        conditions: &[(Key, Condition)],
        writes: &[Write],
        version: Version,
    ) -> Result<Outcome, StoreError> {
        for (index, (key, condition)) in (0u32..).zip(conditions) {
            self.locate(key)?;
            let current = self.current(key)?;
            if !holds(*condition, current.as_ref()) {
                return Ok(refused(index, current));
            }
        }
        let mut versions = Vec::with_capacity(writes.len());
        for (index, write) in writes.iter().enumerate() {
            // The first write has the operation's own version; each further one takes the next.
            let version = if index == 0 { version } else { self.next_version() };
            match write {
                Write::Put { key, value, ttl_ms } => {
                    self.locate(key)?;
                    let current = self.current(key)?;
                    self.put(key, value, *ttl_ms, version, current);
                }
                Write::Delete { key } => {
                    self.locate(key)?;
                    if let Some(current) = self.current(key)? {
                        self.delete(key, current);
                    }
                }
            }
            versions.push(version);
        }
        Ok(Outcome::BatchWritten { versions })
    }

    /// What the located key is, earlier changes of the same batch included.
    pub(super) fn current(&mut self, key: &Key) -> Result<Option<Current>, StoreError> {
        if let Some(current) = self.scratch.recent.get(key.bytes()) {
            return Ok(current);
        }
        let place = self.scratch.place;
        let mut found = Ok(None);
        self.store.inspect(&self.scratch.key, &mut |record| {
            found = Head::parse(record).ok_or_else(|| damaged("a value record")).map(|(head, value_at)| {
                let bytes = entry_bytes(key, record.len() - value_at);
                let deadline = head.deadline.map(|deadline| place.group_time(deadline));
                Some(Current { version: head.version, deadline, bytes })
            });
        })?;
        found
    }

    /// Sets the located key, which was `before`.
    fn put(&mut self, key: &Key, value: &Bytes, ttl_ms: Option<u64>, version: Version, before: Option<Current>) {
        let log_time = self.state.log_time;
        let deadline = ttl_ms.map(|ttl_ms| log_time.after_micros(ttl_ms.saturating_mul(1000)).min(LATEST_DEADLINE));
        let place = self.scratch.place;
        let stored = deadline.map(|deadline| place.stored_time(deadline));
        let head = Head { version, modified: place.stored_time(log_time), deadline: stored };
        let record = &mut self.scratch.record;
        record.clear();
        head.put_record(value, record);
        self.batch.put(&self.scratch.key, record);
        if let Some(before) = before {
            self.uncount(before);
        }
        if let Some(stored) = stored {
            let position = &self.scratch.key[SPACE_PREFIX..];
            let at = layout::deadline_key(place.tablet, Space::Deadlines, (stored, version), position);
            self.batch.put(&at, &[]);
        }
        self.earliest = self.earliest.into_iter().chain(deadline).min();
        let bytes = entry_bytes(key, value.len());
        self.state.keys = self.state.keys.wrapping_add(1);
        self.state.bytes = self.state.bytes.wrapping_add(bytes);
        self.scratch.recent.set(key.bytes(), Some(Current { version, deadline, bytes }));
    }

    /// Removes the located key, which is `current`.
    pub(super) fn delete(&mut self, key: &Key, current: Current) {
        self.batch.delete(&self.scratch.key);
        self.uncount(current);
        self.scratch.recent.set(key.bytes(), None);
    }

    /// Takes what the located key was out of the counters and out of the index of deadlines.
    fn uncount(&mut self, before: Current) {
        self.state.keys = self.state.keys.wrapping_sub(1);
        self.state.bytes = self.state.bytes.wrapping_sub(before.bytes);
        if let Some(deadline) = before.deadline {
            let position = &self.scratch.key[SPACE_PREFIX..];
            let place = self.scratch.place;
            let at = (place.stored_time(deadline), before.version);
            self.batch.delete(&layout::deadline_key(place.tablet, Space::Deadlines, at, position));
        }
    }
}

fn refused(index: u32, current: Option<Current>) -> Outcome {
    Outcome::ConditionFailed { index, current: current.map(|current| current.version) }
}

/// What a key counts for in [`super::GroupState::bytes`].
pub(super) fn entry_bytes(key: &Key, value_bytes: usize) -> u64 {
    (key.bytes().len() + value_bytes) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_reads_back_and_its_prefixes_do_not(
            version: u64, modified: u64, deadline: Option<u64>, value: Vec<u8>,
        ) {
            let head =
                Head { version: Version(version), modified: LogTime(modified), deadline: deadline.map(LogTime) };
            let mut record = Vec::new();
            head.put_record(&value, &mut record);
            let (parsed, at) = Head::parse(&record).unwrap();
            prop_assert_eq!(parsed, head);
            prop_assert_eq!(&record[at..], &value[..]);
            for length in 0..at {
                prop_assert_eq!(Head::parse(&record[..length]), None);
            }
        }

        #[test]
        fn other_bytes_are_refused_or_read_without_panic(record: Vec<u8>) {
            if let Some((_, at)) = Head::parse(&record) {
                prop_assert!(at <= record.len());
            }
        }
    }
}
