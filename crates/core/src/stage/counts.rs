//! Counting what groups hold, slice by slice, beside what is applied.

use crate::codec::Encode;
use crate::group::{Counting, Machine};
use crate::input::Input;
use crate::store::{Read, Store, StoreError};
use crate::time::Instant;
use crate::types::GroupId;
use std::collections::BTreeMap;
use std::time::Duration;

/// Views pinned at once; further groups wait.
const MOST: usize = 4;

/// What one slice may look at, so that applying does not wait for long.
const RECORDS: usize = 1_000;
/// See [`RECORDS`].
const BYTES: usize = 1 << 20;

struct Count<V: Read> {
    number: u64,
    used: Instant,
    counting: Counting<V>,
}

/// All counts under way.
pub(super) struct Counts<V: Read> {
    under_way: BTreeMap<GroupId, Count<V>>,
    next: u64,
    patience: Duration,
}

impl<V: Read> Counts<V> {
    /// `nonce` makes the numbers of this boot's counts its own; those nobody goes on with for `patience` are let go.
    pub(super) fn new(nonce: u64, patience: Duration) -> Self {
        Self { under_way: BTreeMap::new(), next: (nonce << 16).max(1), patience }
    }

    /// Lets views go that nobody has asked for in a while: they keep what was overwritten since.
    pub(super) fn let_go(&mut self, now: Instant) {
        let patience = self.patience;
        self.under_way.retain(|_, count| now.since(count.used) <= patience);
    }

    /// A machine is no more.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.under_way.remove(&group);
    }

    /// Begins a count of a group, if `number` is zero, or goes on with the one of that number.
    pub(super) fn advance<S: Store<View = V>>(
        &mut self,
        group: GroupId,
        machine: Option<&Machine<S>>,
        number: u64,
        now: Instant,
    ) -> Result<Input, StoreError> {
        let gone = Input::Counted { group, count: 0, correction: None };
        let Some(machine) = machine.filter(|machine| !machine.state().counted) else {
            self.under_way.remove(&group);
            return Ok(gone);
        };
        if number == 0 {
            self.under_way.remove(&group);
            if self.under_way.len() >= MOST {
                return Ok(gone);
            }
            let count = Count { number: self.next, used: now, counting: machine.counting() };
            self.next += 1;
            self.under_way.insert(group, count);
        }
        let Some(count) = self.under_way.get_mut(&group).filter(|count| number == 0 || count.number == number) else {
            return Ok(gone);
        };
        if count.counting.range_version() != machine.state().range_version {
            self.under_way.remove(&group);
            return Ok(gone);
        }
        count.used = now;
        let correction = count.counting.advance(RECORDS, BYTES)?;
        let count = count.number;
        if correction.is_some() {
            self.under_way.remove(&group);
        }
        let correction = correction.map(|correction| correction.to_bytes());
        Ok(Input::Counted { group, count, correction })
    }
}
