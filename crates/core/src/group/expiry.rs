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
//!
//! An index of deadlines is in order of time, so a tablet that replicas share mixes their entries, and keeps those of a replica
//! that let go of its part. They are passed over, so many at a time, and what is left over of nobody is removed on occasion.

use super::Expiry;
use super::apply::Applying;
use super::idempotency;
use super::layout::{self, SPACE_PREFIX, Space, damaged};
use super::machine::Machine;
use super::release;
use super::tablets::Place;
use crate::codec::Decode;
use crate::planted::{self, Bug};
use crate::ring::Position;
use crate::store::{Batch, Store, StoreError, Visit};
use crate::time::LogTime;
use crate::types::Version;
use bytes::Bytes;

/// How many entries of others one look at an index passes over.
pub(super) const MAX_PASSED: usize = 4_000;

/// How many entries passed over are looked at together, whether they are of anybody at all.
const SWEPT_AT_ONCE: usize = 500;

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

/// What one look at the indexes of deadlines came to.
#[derive(Default, Debug)]
struct Look {
    due: Vec<Expiry>,
    /// Nothing of the replica's own lies before this, but for what is in `due`; `None`: nothing at all.
    next: Option<LogTime>,
}

impl<S: Store> Machine<S> {
    /// What is due at the group's log time, at most `limit` of it: the body of an `Expire` entry, as a list.
    pub fn expired(&mut self, limit: usize) -> Result<Vec<Expiry>, StoreError> {
        self.expired_at(self.state().log_time, limit)
    }

    /// What is due at `log_time`, at most `limit` of it. If nothing is, [`Machine::next_expiry`] is later than before.
    pub fn expired_at(&mut self, log_time: LogTime, limit: usize) -> Result<Vec<Expiry>, StoreError> {
        if self.next_expiry().is_none_or(|next| next > log_time) {
            return Ok(Vec::new());
        }
        let look = self.look(log_time, limit)?;
        if look.due.is_empty() && limit > 0 {
            self.set_next_expiry(look.next);
            if look.next.is_some_and(|next| next > log_time) {
                self.find_next_expiry()?;
            }
        }
        if self.passed.len() >= SWEPT_AT_ONCE {
            // What cannot be removed for want of space or whatever else costs only the time to pass it again.
            let _ = self.sweep();
        }
        Ok(look.due)
    }

    /// Looks up the earliest deadline of all, or a time before it if too much of others lies in between.
    pub(super) fn find_next_expiry(&mut self) -> Result<(), StoreError> {
        let look = self.look(LogTime(u64::MAX), 0)?;
        self.set_next_expiry(look.next);
        Ok(())
    }

    /// Looks through both indexes of every place for what is due `until` then, at most `limit` of it. Starts at the known
    /// earliest deadline, so that what was removed before costs nothing.
    fn look(&mut self, until: LogTime, limit: usize) -> Result<Look, StoreError> {
        let mut look = Look::default();
        let mut passed = std::mem::take(&mut self.passed);
        for space in [Space::Deadlines, Space::IdempotencyDeadlines] {
            for place in self.tablets().places() {
                self.look_at(space, place, until, limit, &mut look, &mut passed)?;
            }
        }
        self.passed = passed;
        Ok(look)
    }

    /// [`Machine::look`] at one index, which may be shared with other replicas. So that a look takes no longer than so much, it
    /// ends behind [`MAX_PASSED`] entries that are not the replica's own: everything up to there is then known to be of
    /// others, and the next look begins there. It ends between two deadlines, for that is all the next one knows.
    fn look_at(
        &self,
        space: Space,
        place: Place,
        until: LogTime,
        limit: usize,
        look: &mut Look,
        passed: &mut Vec<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let from = place.stored_bound(self.next_expiry().unwrap_or_default());
        let start = layout::deadline_key(place.tablet, space, (from, Version(0)), &[]);
        let end = layout::space_end(place.tablet, space);
        let (mut others, mut last, mut failed) = (0, LogTime(0), false);
        self.store().scan(&start, &end, &mut |key, _| {
            let Some((stored, position, expiry)) = parse(space, &key[SPACE_PREFIX..]) else {
                failed = true;
                return Visit::Stop;
            };
            let deadline = place.group_time(stored);
            let own = self.tablets().find(&position.0).is_some_and(|piece| piece.place() == place);
            let full = if own { look.due.len() >= limit } else { others >= MAX_PASSED && deadline > last };
            if deadline > until || full {
                look.next = look.next.into_iter().chain([deadline]).min();
                return Visit::Stop;
            }
            if own {
                look.due.push(expiry);
            } else {
                (others, last) = (others + 1, deadline);
                if passed.len() < SWEPT_AT_ONCE {
                    passed.push(key.to_vec());
                }
            }
            Visit::Continue
        })?;
        if failed { Err(damaged("an index of deadlines")) } else { Ok(()) }
    }

    /// Removes those of the index entries passed over that belong to no replica at all: what they name is gone.
    fn sweep(&mut self) -> Result<(), StoreError> {
        let passed = std::mem::take(&mut self.passed);
        let used = release::references(self.store(), &|_| false)?;
        let mut batch = S::Batch::default();
        for key in passed {
            let space = if key[SPACE_PREFIX - 1] == Space::Deadlines as u8 {
                Space::Deadlines
            } else {
                Space::IdempotencyDeadlines
            };
            let Some((_, position, _)) = parse(space, &key[SPACE_PREFIX..]) else { continue };
            let tablet = layout::tablet_of(&key);
            if !used.iter().any(|piece| piece.tablet == tablet && piece.range.contains(&position)) {
                batch.delete(&key);
            }
        }
        self.store().write(batch)
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
