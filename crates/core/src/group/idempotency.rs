//! `Idempotency-Key` records: what became of a write under the user's own key for repeats.
//!
//! A record lies beside the key it wrote, by position, so that it goes where the key goes. It is scoped by method, lives
//! for [`Limits::idempotency_life_micros`] of log time, and is expired like a key with a time-to-live. Beyond
//! [`Limits::max_idempotency_records`] the oldest is dropped first, which every replica does at the same entry.
//!
//! [`Limits::idempotency_life_micros`]: super::Limits::idempotency_life_micros
//! [`Limits::max_idempotency_records`]: super::Limits::max_idempotency_records

use super::apply::Applying;
use super::layout::{self, SPACE_PREFIX, Space, damaged, undecodable, unversioned, versioned};
use crate::codec::Decode;
use crate::codec_struct;
use crate::command::{Command, Idempotency, Outcome};
use crate::planted::{self, Bug};
use crate::ring::{Key, Position};
use crate::store::{Batch, Store, StoreError, Visit};
use crate::time::LogTime;
use crate::types::{TabletId, Version};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Version byte of a record.
const FORMAT: u8 = 1;

/// What is remembered of one idempotency key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Of the operation that made it; names the record in its [`super::Expiry`].
    pub(super) version: Version,
    /// When it may be forgotten.
    pub(super) deadline: LogTime,
    /// Of all that the request asked for.
    pub(super) digest: u128,
    /// What became of it.
    pub(super) outcome: Outcome,
}

codec_struct!(Record { version, deadline, digest, outcome });

impl Record {
    pub(super) fn parse(bytes: Bytes) -> Result<Self, StoreError> {
        let bytes = unversioned(bytes, FORMAT, "an idempotency record")?;
        Self::from_all(bytes).map_err(undecodable("an idempotency record"))
    }
}

/// Changes of records inside one batch, which the store does not show yet.
#[derive(Default, Debug)]
pub(super) struct Changes {
    /// By store key; `None`: removed.
    records: BTreeMap<Vec<u8>, Option<Record>>,
    /// Records made and not removed, in order of age.
    made: BTreeMap<(LogTime, Version), Vec<u8>>,
    /// Index entries removed, the store's own among them.
    removed: BTreeSet<(LogTime, Version)>,
}

impl Changes {
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.made.clear();
        self.removed.clear();
    }
}

/// What follows the space in the store key of a record.
fn rest_of(key: &Key, method: u8, idempotency_key: &[u8]) -> Vec<u8> {
    let mut rest = Vec::with_capacity(key.bytes().len() + idempotency_key.len() + 16);
    let scope = if planted::on(Bug::IdempotencyNotScoped) { Key::new("scope").ok() } else { None };
    layout::put_ordered(&scope.as_ref().unwrap_or(key).position().0, &mut rest);
    rest.push(method);
    rest.extend_from_slice(idempotency_key);
    rest
}

/// What [`rest_of`] was made from: key, method, idempotency key.
pub(super) fn parse_rest(rest: &[u8]) -> Option<(Key, u8, Bytes)> {
    let (position, rest) = layout::take_ordered(rest)?;
    let (method, idempotency_key) = rest.split_first()?;
    Some((Position(position.into()).key()?, *method, Bytes::copy_from_slice(idempotency_key)))
}

/// The index entry for a record whose store key continues after the space as `rest`.
pub(super) fn index_key(tablet: TabletId, age: (LogTime, Version), rest: &[u8]) -> Vec<u8> {
    layout::deadline_key(tablet, Space::IdempotencyDeadlines, age, rest)
}

impl<S: Store> Applying<'_, S> {
    /// Carries out a command whose positions the group owns, once for each idempotency key.
    pub(super) fn operate_once(&mut self, command: &Command, version: Version) -> Result<Outcome, StoreError> {
        let Some(idempotency) = &command.idempotency else { return self.operate(&command.operation, version) };
        let keys = command.operation.keys();
        let Some(key) = keys.first() else { return Ok(Outcome::Malformed) };
        let at = self.locate_record(key, idempotency.method, &idempotency.key)?;
        if let Some(record) = self.record(&at)? {
            if record.digest != idempotency.digest {
                return Ok(Outcome::IdempotencyMismatch);
            }
            return Ok(record.outcome);
        }
        let outcome = self.operate(&command.operation, version)?;
        self.remember(at, idempotency, version, &outcome);
        while *self.idempotency_records > self.limits.max_idempotency_records {
            self.drop_oldest()?;
        }
        Ok(outcome)
    }

    /// Forgets a record named by an expiry, if it is still the one named and its time has come.
    pub(super) fn expire_record(
        &mut self,
        key: &Key,
        method: u8,
        idempotency_key: &[u8],
        version: Version,
    ) -> Result<(), StoreError> {
        if !self.locate(key)? {
            return Ok(());
        }
        let at = self.locate_record(key, method, idempotency_key)?;
        if let Some(record) = self.record(&at)?
            && record.version == version
            && record.deadline <= self.state.log_time
        {
            self.forget(at, record.deadline, version);
        }
        Ok(())
    }

    /// The store key of a record.
    fn locate_record(&mut self, key: &Key, method: u8, idempotency_key: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.locate(key)?;
        Ok(layout::in_space(self.scratch.tablet, Space::Idempotency, &rest_of(key, method, idempotency_key)))
    }

    fn record(&self, at: &[u8]) -> Result<Option<Record>, StoreError> {
        if let Some(changed) = self.scratch.idempotency.records.get(at) {
            return Ok(changed.clone());
        }
        self.store.get(at)?.map(Record::parse).transpose()
    }

    fn remember(&mut self, at: Vec<u8>, idempotency: &Idempotency, version: Version, outcome: &Outcome) {
        let deadline = self.state.log_time.after_micros(self.limits.idempotency_life_micros);
        let record = Record { version, deadline, digest: idempotency.digest, outcome: outcome.clone() };
        self.batch.put(&at, &versioned(FORMAT, &record));
        self.batch.put(&index_key(tablet_in(&at), (deadline, version), &at[SPACE_PREFIX..]), &[]);
        *self.idempotency_records += 1;
        self.earliest = self.earliest.into_iter().chain([deadline]).min();
        self.scratch.idempotency.made.insert((deadline, version), at.clone());
        self.scratch.idempotency.records.insert(at, Some(record));
    }

    fn forget(&mut self, at: Vec<u8>, deadline: LogTime, version: Version) {
        self.batch.delete(&at);
        self.batch.delete(&index_key(tablet_in(&at), (deadline, version), &at[SPACE_PREFIX..]));
        *self.idempotency_records -= 1;
        self.scratch.idempotency.made.remove(&(deadline, version));
        self.scratch.idempotency.removed.insert((deadline, version));
        self.scratch.idempotency.records.insert(at, None);
    }

    /// Drops the record with the earliest deadline.
    fn drop_oldest(&mut self) -> Result<(), StoreError> {
        let stored = self.oldest_stored()?;
        let made = self.scratch.idempotency.made.first_key_value().map(|(age, at)| (*age, at.clone()));
        let oldest = stored.into_iter().chain(made).min();
        let ((deadline, version), at) = oldest.ok_or_else(|| damaged("fewer idempotency records than counted"))?;
        self.forget(at, deadline, version);
        // Records are made in order of age, so the next search need not pass this one and those before it.
        *self.idempotency_front = (deadline, version);
        Ok(())
    }

    /// The oldest record that the store shows and this batch has not removed: its age and store key.
    #[expect(clippy::type_complexity, reason = "an age and a key, used in one place")]
    fn oldest_stored(&self) -> Result<Option<((LogTime, Version), Vec<u8>)>, StoreError> {
        let mut oldest: Option<((LogTime, Version), Vec<u8>)> = None;
        for (range, tablet) in &self.tablets.0 {
            let end = layout::space_end(*tablet, Space::IdempotencyDeadlines);
            let start = index_key(*tablet, *self.idempotency_front, &[]);
            self.store.scan(&start, &end, &mut |key, _| {
                let Some((age, rest)) = layout::parse_deadline(&key[SPACE_PREFIX..]) else { return Visit::Continue };
                let ours = layout::take_ordered(rest).is_some_and(|(position, _)| range.contains_bytes(&position));
                if !ours || self.scratch.idempotency.removed.contains(&age) {
                    return Visit::Continue;
                }
                if oldest.as_ref().is_none_or(|(known, _)| age < *known) {
                    oldest = Some((age, layout::in_space(*tablet, Space::Idempotency, rest)));
                }
                Visit::Stop
            })?;
        }
        Ok(oldest)
    }
}

/// The tablet that a store key names.
fn tablet_in(at: &[u8]) -> TabletId {
    TabletId(at[1..9].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}
