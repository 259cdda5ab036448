//! The part of a replica's log that is in memory: everything not yet applied, and a bounded tail of what is.

use crate::entry::Entry;
use crate::types::{Ballot, Slot};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Up to so many bytes a body is copied when it is kept. It may be a small part of the buffer that it was read into, all of
/// which it would hold on to for as long as a quiet group keeps its last entries.
const COPIED_BYTES: usize = 1024;

/// Accepted entries by slot.
#[derive(Clone, Debug, Default)]
pub struct Log {
    entries: BTreeMap<Slot, (Ballot, Entry)>,
    bytes: usize,
    /// The last slot that is gone from the disk too.
    truncated: Slot,
}

impl Log {
    /// An empty log above `truncated`.
    #[must_use]
    pub fn new(truncated: Slot) -> Self {
        Self { truncated, ..Self::default() }
    }

    /// The entry at `slot`, if in memory.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&(Ballot, Entry)> {
        self.entries.get(&slot)
    }

    /// Accepts an entry over whatever stood there.
    pub fn set(&mut self, slot: Slot, ballot: Ballot, mut entry: Entry) {
        if entry.body.len() <= COPIED_BYTES {
            entry.body = Bytes::copy_from_slice(&entry.body);
        }
        self.bytes += entry.weight();
        if let Some((_, old)) = self.entries.insert(slot, (ballot, entry)) {
            self.bytes -= old.weight();
        }
    }

    /// The last slot with an entry, if any is in memory.
    #[must_use]
    pub fn last(&self) -> Option<Slot> {
        self.entries.keys().next_back().copied()
    }

    /// Entries above `slot`, rising.
    pub fn above(&self, slot: Slot) -> impl Iterator<Item = (Slot, Ballot, &Entry)> {
        self.entries.range(slot.next()..).map(|(slot, (ballot, entry))| (*slot, *ballot, entry))
    }

    /// Entries from `first` without a gap, up to and including `last`, about `bytes` of them but at least one. Empty if
    /// the first is not in memory.
    #[must_use]
    pub fn run(&self, first: Slot, last: Slot, bytes: usize) -> Vec<Entry> {
        let mut run = Vec::new();
        let mut weight = 0;
        if first > last {
            return run;
        }
        for (expected, (slot, (_, entry))) in (first.0..).zip(self.entries.range(first..=last)) {
            weight += entry.weight();
            if slot.0 != expected || (weight > bytes && !run.is_empty()) {
                break;
            }
            run.push(entry.clone());
        }
        run
    }

    /// The last slot that is gone from the disk.
    #[must_use]
    pub fn truncated(&self) -> Slot {
        self.truncated
    }

    /// Forgets everything up to `through`, in memory and (by the caller's write) on disk.
    pub fn truncate(&mut self, through: Slot) {
        self.truncated = self.truncated.max(through);
        self.drop_memory(through);
    }

    /// Lets go of the memory of slots up to `limit`, oldest first, while it takes more than `bytes`.
    pub fn trim(&mut self, limit: Slot, bytes: usize) {
        while self.bytes > bytes {
            match self.entries.first_key_value() {
                Some((slot, _)) if *slot <= limit => {
                    let slot = *slot;
                    self.drop_memory(slot);
                }
                _ => break,
            }
        }
    }

    fn drop_memory(&mut self, through: Slot) {
        while let Some(first) = self.entries.first_entry() {
            if *first.key() > through {
                break;
            }
            self.bytes -= first.remove().1.weight();
        }
    }
}
