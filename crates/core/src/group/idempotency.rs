//! `Idempotency-Key` records: what became of a write under the user's own key for repeats.
//!
//! A record lies beside the key it wrote, by position, so that it goes where the key goes. It is scoped by method, lives
//! for [`Limits::idempotency_life_micros`] of log time, and is expired like a key with a time-to-live. Beyond
//! [`Limits::max_idempotency_records`] the oldest is dropped first, which every replica does at the same entry: the order
//! knows nothing of tablets and of the clocks of those who wrote them.
//!
//! [`Limits::idempotency_life_micros`]: super::Limits::idempotency_life_micros
//! [`Limits::max_idempotency_records`]: super::Limits::max_idempotency_records

use super::apply::Applying;
use super::count::shown;
use super::layout::{self, SPACE_PREFIX, Space, damaged, undecodable, unversioned, versioned};
use super::tablets::{LATEST_DEADLINE, Place, shifted};
use crate::codec::Decode;
use crate::codec_struct;
use crate::command::{Command, Idempotency, Outcome};
use crate::ops::Pending;
use crate::planted::{self, Bug};
use crate::ring::{Key, Position};
use crate::store::{Batch, Store, StoreError, Visit};
use crate::time::LogTime;
use crate::types::{TabletId, Version};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Version byte of a record.
const FORMAT: u8 = 1;

/// The most records dropped for one that is new: when groups became one there may be many too many, and no single command
/// is to wait for all of them.
const MAX_DROPPED: usize = 16;

/// What is remembered of one idempotency key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Of the operation that made it; names the record in its [`super::Expiry`].
    pub(super) version: Version,
    /// When it may be forgotten: in the store by the clock of the group that made it, here by the group's own.
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

/// Writes a record as a group whose clock is ahead by `offset_micros` would have written it. One that does not read stays as
/// it is, for whoever reads it to complain.
pub(super) fn shift_record(record: &[u8], offset_micros: i64, out: &mut Vec<u8>) {
    out.clear();
    match Record::parse(Bytes::copy_from_slice(record)) {
        Ok(parsed) => {
            let deadline = shifted(parsed.deadline, offset_micros);
            out.extend_from_slice(&versioned(FORMAT, &Record { deadline, ..parsed }));
        }
        Err(_) => out.extend_from_slice(record),
    }
}

/// When a record was made, in the group's time: by its deadline and version, and then, as groups that became one may have used
/// the same version, by what follows the space in its key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Age {
    deadline: LogTime,
    version: Version,
    rest: Vec<u8>,
}

/// A record's store key, and where that is.
#[derive(Clone, Debug)]
struct Located {
    at: Vec<u8>,
    place: Place,
}

impl Located {
    /// What follows the space in the key.
    fn rest(&self) -> &[u8] {
        &self.at[SPACE_PREFIX..]
    }

    /// The index entry of the record, as it is in the store.
    fn index_key(&self, deadline: LogTime, version: Version) -> Vec<u8> {
        index_key(self.place.tablet, (self.place.stored_time(deadline), version), self.rest())
    }

    fn age(&self, deadline: LogTime, version: Version) -> Age {
        Age { deadline, version, rest: self.rest().to_vec() }
    }
}

/// Changes of records inside one batch, which the store does not show yet.
#[derive(Default, Debug)]
pub(super) struct Changes {
    /// By store key; `None`: removed.
    records: BTreeMap<Vec<u8>, Option<Record>>,
    /// Records made and not removed, in order of age.
    made: BTreeMap<Age, Place>,
    /// Records removed, the store's own among them.
    removed: BTreeSet<Age>,
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
        if self.state.pending.as_ref().and_then(Pending::sealed).is_some() {
            // The oldest may lie in what is sealed, where the gainer has it by now, or will have it as it was at the seal.
            return Ok(outcome);
        }
        for _ in 0..MAX_DROPPED {
            if shown(*self.idempotency_records) <= self.limits.max_idempotency_records || !self.drop_oldest()? {
                break;
            }
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

    /// Where a record lies.
    fn locate_record(&mut self, key: &Key, method: u8, idempotency_key: &[u8]) -> Result<Located, StoreError> {
        self.locate(key)?;
        let place = self.scratch.place;
        let at = layout::in_space(place.tablet, Space::Idempotency, &rest_of(key, method, idempotency_key));
        Ok(Located { at, place })
    }

    fn record(&self, located: &Located) -> Result<Option<Record>, StoreError> {
        if let Some(changed) = self.scratch.idempotency.records.get(&located.at) {
            return Ok(changed.clone());
        }
        let Some(stored) = self.store.get(&located.at)? else { return Ok(None) };
        let stored = Record::parse(stored)?;
        Ok(Some(Record { deadline: located.place.group_time(stored.deadline), ..stored }))
    }

    fn remember(&mut self, located: Located, idempotency: &Idempotency, version: Version, outcome: &Outcome) {
        let deadline = self.state.log_time.after_micros(self.limits.idempotency_life_micros).min(LATEST_DEADLINE);
        let stored = located.place.stored_time(deadline);
        let record = Record { version, deadline: stored, digest: idempotency.digest, outcome: outcome.clone() };
        self.batch.put(&located.at, &versioned(FORMAT, &record));
        self.batch.put(&located.index_key(deadline, version), &[]);
        *self.idempotency_records = self.idempotency_records.wrapping_add(1);
        self.earliest = self.earliest.into_iter().chain([deadline]).min();
        self.scratch.idempotency.made.insert(located.age(deadline, version), located.place);
        self.scratch.idempotency.records.insert(located.at, Some(Record { deadline, ..record }));
    }

    fn forget(&mut self, located: Located, deadline: LogTime, version: Version) {
        self.batch.delete(&located.at);
        self.batch.delete(&located.index_key(deadline, version));
        *self.idempotency_records = self.idempotency_records.wrapping_sub(1);
        let age = located.age(deadline, version);
        self.scratch.idempotency.made.remove(&age);
        self.scratch.idempotency.removed.insert(age);
        self.scratch.idempotency.records.insert(located.at, None);
    }

    /// Drops the record with the earliest deadline. False if there is none, though the estimate says so.
    fn drop_oldest(&mut self) -> Result<bool, StoreError> {
        let made = self.scratch.idempotency.made.first_key_value().map(|(age, place)| (age.clone(), *place));
        let oldest = self.oldest_stored()?.into_iter().chain(made).min_by(|(age, _), (other, _)| age.cmp(other));
        let Some((Age { deadline, version, rest }, place)) = oldest else {
            let estimate = !self.state.counted;
            return if estimate { Ok(false) } else { Err(damaged("fewer idempotency records than counted")) };
        };
        let at = layout::in_space(place.tablet, Space::Idempotency, &rest);
        self.forget(Located { at, place }, deadline, version);
        // Records are made in order of age, so the next search need not pass this one and those before it.
        *self.idempotency_front = (deadline, version);
        Ok(true)
    }

    /// The oldest record that the store shows and this batch has not removed, and where it lies.
    fn oldest_stored(&self) -> Result<Option<(Age, Place)>, StoreError> {
        let mut oldest: Option<(Age, Place)> = None;
        let (deadline, version) = *self.idempotency_front;
        for place in self.tablets.places() {
            let end = layout::space_end(place.tablet, Space::IdempotencyDeadlines);
            let start = index_key(place.tablet, (place.stored_bound(deadline), version), &[]);
            self.store.scan(&start, &end, &mut |key, _| {
                let Some(((stored, version), rest)) = layout::parse_deadline(&key[SPACE_PREFIX..]) else {
                    return Visit::Continue;
                };
                let position = layout::take_ordered(rest).map(|(position, _)| position);
                let piece = position.and_then(|position| self.tablets.find(&position));
                let age = Age { deadline: place.group_time(stored), version, rest: rest.to_vec() };
                let ours = piece.is_some_and(|piece| piece.place() == place);
                if !ours || self.scratch.idempotency.removed.contains(&age) {
                    return Visit::Continue;
                }
                if oldest.as_ref().is_none_or(|(known, _)| age < *known) {
                    oldest = Some((age, place));
                }
                Visit::Stop
            })?;
        }
        Ok(oldest)
    }
}
