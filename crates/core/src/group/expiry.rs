//! Time-to-live: what is due, and forgetting it at the same entry on every replica.
//!
//! ```text
//!  leader                                every replica
//!  next_expiry has come
//!  expired() names what is due
//!  proposes Expire(key, version ...) --> decided --> applied: still that version, and due? then it is removed
//! ```
//!
//! A write that lands between the naming and the applying gives the key another version, and so is not touched.

use super::Expiry;
use super::apply::Applying;
use super::idempotency;
use super::layout::{self, SPACE_PREFIX, Space, damaged};
use super::machine::Machine;
use crate::codec::Decode;
use crate::planted::{self, Bug};
use crate::ring::Position;
use crate::store::{Store, StoreError, Visit};
use crate::time::LogTime;
use crate::types::Version;
use bytes::Bytes;

impl<S: Store> Applying<'_, S> {
    /// Applies an `Expire` entry. Whatever does not hold (any more) is passed over.
    pub(super) fn expire(&mut self, body: Bytes) -> Result<(), StoreError> {
        let Ok(due) = Vec::<Expiry>::from_all(body) else { return Ok(()) };
        self.expired = true;
        for expiry in due {
            match expiry {
                Expiry::Key { key, version } => {
                    if !self.locate(&key)? {
                        continue;
                    }
                    if let Some(current) = self.current(&key)?
                        && (current.version == version || planted::on(Bug::ExpiryUnchecked))
                        && (planted::on(Bug::ExpiryUnchecked)
                            || current.deadline.is_some_and(|deadline| deadline <= self.state.log_time))
                    {
                        self.next_version();
                        self.delete(&key, current);
                    }
                }
                Expiry::Idempotency { key, method, idempotency_key, version } => {
                    self.expire_record(&key, method, &idempotency_key, version)?;
                }
            }
        }
        Ok(())
    }
}

impl<S: Store> Machine<S> {
    /// What is due at the group's log time, at most `limit` of it: the body of an `Expire` entry, as a list.
    pub fn expired(&mut self, limit: usize) -> Result<Vec<Expiry>, StoreError> {
        self.expired_at(self.state().log_time, limit)
    }

    /// What is due at `log_time`, at most `limit` of it. Sets [`Machine::next_expiry`] right if nothing is.
    pub fn expired_at(&mut self, log_time: LogTime, limit: usize) -> Result<Vec<Expiry>, StoreError> {
        if self.next_expiry().is_none_or(|next| next > log_time) {
            return Ok(Vec::new());
        }
        let mut due = Vec::new();
        self.scan_deadlines(Space::Deadlines, &mut |deadline, expiry| {
            if deadline > log_time || due.len() >= limit {
                return Visit::Stop;
            }
            due.push(expiry);
            Visit::Continue
        })?;
        self.scan_deadlines(Space::IdempotencyDeadlines, &mut |deadline, expiry| {
            if deadline > log_time || due.len() >= limit {
                return Visit::Stop;
            }
            due.push(expiry);
            Visit::Continue
        })?;
        if due.is_empty() && limit > 0 {
            self.find_next_expiry()?;
        }
        Ok(due)
    }

    /// Looks up the earliest deadline of all.
    pub(super) fn find_next_expiry(&mut self) -> Result<(), StoreError> {
        let mut earliest: Option<LogTime> = None;
        for space in [Space::Deadlines, Space::IdempotencyDeadlines] {
            self.scan_deadlines(space, &mut |deadline, _| {
                earliest = earliest.into_iter().chain([deadline]).min();
                Visit::Stop
            })?;
        }
        self.set_next_expiry(earliest);
        Ok(())
    }

    /// Shows the entries of an index of deadlines, each place's in order of time. Those of another replica that shares a
    /// tablet are left out. Starts at the known earliest deadline, so that what was removed before costs nothing.
    fn scan_deadlines(&self, space: Space, visit: &mut dyn FnMut(LogTime, Expiry) -> Visit) -> Result<(), StoreError> {
        let mut failed = false;
        let tablets = self.tablets();
        let from = self.next_expiry().unwrap_or_default();
        for place in tablets.places() {
            let start = layout::deadline_key(place.tablet, space, (place.stored_bound(from), Version(0)), &[]);
            let end = layout::space_end(place.tablet, space);
            self.store().scan(&start, &end, &mut |key, _| {
                let Some((stored, position, expiry)) = parse(space, &key[SPACE_PREFIX..]) else {
                    failed = true;
                    return Visit::Stop;
                };
                if tablets.find(&position.0).is_some_and(|piece| piece.place() == place) {
                    visit(place.group_time(stored), expiry)
                } else {
                    Visit::Continue
                }
            })?;
        }
        if failed { Err(damaged("an index of deadlines")) } else { Ok(()) }
    }
}

/// Reads an entry of an index of deadlines, from what follows the space in its key. The time is as stored.
pub(super) fn parse(space: Space, rest: &[u8]) -> Option<(LogTime, Position, Expiry)> {
    let ((deadline, version), due) = layout::parse_deadline(rest)?;
    if space == Space::Deadlines {
        let position = Position(Bytes::copy_from_slice(due));
        let key = position.key()?;
        return Some((deadline, position, Expiry::Key { key, version }));
    }
    let (key, method, idempotency_key) = idempotency::parse_rest(due)?;
    Some((deadline, key.position(), Expiry::Idempotency { key, method, idempotency_key, version }))
}
