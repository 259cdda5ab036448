//! What the clients asked and heard, kept by key and judged piece by piece, so that a run of any length fits into memory.
//!
//! A key is in use for a number of turns. When they are used up and nobody is asking any more, somebody reads it until there is an
//! answer, the key's whole history is judged, and another key takes its place. Of the history remains what can still be
//! seen: the last value, and writes that nobody knows the outcome of. Together with one more read, much later, that is judged
//! again, so that a loss shows though nobody uses the key.

use scatter_sim::history::{Change, End, KeyIndex, Operation, Request, Response, Time, ValueId, VersionNumber};
use scatter_sim::linearizability;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// How many violations are told in full.
const MOST_VIOLATIONS: usize = 20;

/// All that was asked and heard and can still matter.
#[derive(Debug)]
pub(crate) struct Books {
    began: Instant,
    slots: Vec<Mutex<Slot>>,
    kept: Mutex<VecDeque<Kept>>,
    most_kept: usize,
    turns: u32,
    next_value: AtomicU64,
    next_key: AtomicU32,
    judged: Mutex<Judged>,
}

/// A key in use.
#[derive(Debug)]
struct Slot {
    key: KeyIndex,
    operations: Vec<Operation>,
    /// Turns not begun yet.
    left: u32,
    /// Turns begun and not ended.
    under_way: u32,
    /// Somebody reads it for the last time.
    closing: bool,
    /// The highest version that anybody saw.
    latest: Option<VersionNumber>,
}

/// A key out of use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    pub key: KeyIndex,
    /// What remains of its history.
    pub operations: Vec<Operation>,
}

/// What somebody may do with a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// Use the key, whose highest version seen is this.
    Use(KeyIndex, Option<VersionNumber>),
    /// Read it until there is an answer, and close it.
    Close(KeyIndex),
    /// Nothing: others are at it.
    Wait,
}

/// What came of all judgements.
#[derive(Clone, Default, Debug)]
pub(crate) struct Judged {
    /// Keys whose history was judged, each time counted.
    pub keys: u64,
    /// Operations in these histories.
    pub operations: u64,
    /// Of these, writes whose outcome their client does not know.
    pub unknown: u64,
    /// Histories that no single store could have given.
    pub violated: u64,
    /// The first of them, in full.
    pub violations: Vec<String>,
}

impl Books {
    /// Books for so many keys at a time, each in use for so many turns, and at most so many kept.
    pub(crate) fn new(keys: usize, turns: u32, most_kept: usize) -> Self {
        let books = Self {
            began: Instant::now(),
            slots: Vec::new(),
            kept: Mutex::default(),
            most_kept,
            turns,
            next_value: AtomicU64::new(1),
            next_key: AtomicU32::new(0),
            judged: Mutex::default(),
        };
        let slots = (0..keys).map(|_| Mutex::new(books.fresh())).collect();
        Self { slots, ..books }
    }

    fn fresh(&self) -> Slot {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        Slot { key, operations: Vec::new(), left: self.turns, under_way: 0, closing: false, latest: None }
    }

    /// Nanoseconds since the books were opened.
    pub(crate) fn now(&self) -> Time {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(Time::MAX)
    }

    /// A value that nobody has written.
    pub(crate) fn value(&self) -> ValueId {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }

    /// How many slots there are.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, slot: usize) -> MutexGuard<'_, Slot> {
        locked(&self.slots[slot])
    }

    /// Takes a turn.
    pub(crate) fn begin(&self, slot: usize) -> Turn {
        let mut slot = self.slot(slot);
        if slot.left > 0 {
            slot.left -= 1;
            slot.under_way += 1;
            return Turn::Use(slot.key, slot.latest);
        }
        if slot.under_way > 0 || slot.closing {
            return Turn::Wait;
        }
        slot.closing = true;
        Turn::Close(slot.key)
    }

    /// Notes an operation of a turn that was begun.
    pub(crate) fn note(&self, slot: usize, operation: Operation) {
        // A read without an answer says nothing.
        if operation.request.is_read() && operation.response().is_none() {
            return;
        }
        let mut slot = self.slot(slot);
        slot.latest = slot.latest.max(operation.response().and_then(version_seen));
        slot.operations.push(operation);
    }

    /// Ends a turn that was begun.
    pub(crate) fn end(&self, slot: usize) {
        self.slot(slot).under_way -= 1;
    }

    /// Lets somebody else close a slot: there was no answer.
    pub(crate) fn give_up(&self, slot: usize) {
        self.slot(slot).closing = false;
    }

    /// Judges the key of a slot, `read` being its last operation, and puts another one into its place.
    pub(crate) fn close(&self, slot: usize, read: Operation) {
        let Slot { key, mut operations, .. } = std::mem::replace(&mut *self.slot(slot), self.fresh());
        let rest = remaining(&operations, &read);
        operations.push(read);
        self.judge(key, &operations);
        locked(&self.kept).push_back(Kept { key, operations: rest });
    }

    /// A key that must make room, if too many are kept.
    pub(crate) fn overdue(&self) -> Option<Kept> {
        let mut kept = locked(&self.kept);
        if kept.len() > self.most_kept { kept.pop_front() } else { None }
    }

    /// Takes back a key whose last read had no answer.
    pub(crate) fn put_back(&self, kept: Kept) {
        locked(&self.kept).push_front(kept);
    }

    /// All keys that are left, in use or kept, to be read a last time. Nobody may be asking any more.
    pub(crate) fn drain(&self) -> Vec<Kept> {
        let mut all: Vec<Kept> = locked(&self.kept).drain(..).collect();
        for slot in &self.slots {
            let Slot { key, operations, .. } = std::mem::replace(&mut *locked(slot), self.fresh());
            all.push(Kept { key, operations });
        }
        all
    }

    /// Judges the history of one key.
    pub(crate) fn judge(&self, key: KeyIndex, history: &[Operation]) {
        let verdict = linearizability::check(history);
        let unknown = history.iter().filter(|operation| operation.end == End::Unknown).count();
        let mut judged = locked(&self.judged);
        judged.keys += 1;
        judged.operations += history.len() as u64;
        judged.unknown += unknown as u64;
        if let Err(violation) = verdict {
            judged.violated += 1;
            if judged.violations.len() < MOST_VIOLATIONS {
                let lines: Vec<String> = history.iter().map(ToString::to_string).collect();
                judged.violations.push(format!("key {key}: {violation}\nits history:\n{}", lines.join("\n")));
            }
        }
    }

    /// What came of all judgements so far.
    pub(crate) fn judged(&self) -> Judged {
        locked(&self.judged).clone()
    }
}

/// What of a history can still be seen after `read`, its last operation.
fn remaining(operations: &[Operation], read: &Operation) -> Vec<Operation> {
    let mut seen: BTreeSet<ValueId> = operations.iter().filter_map(value_seen).collect();
    seen.extend(value_seen(read));
    let is_open = |operation: &&Operation| {
        operation.end == End::Unknown
            && match operation.request {
                Request::Single(_, _, Change::Put { value, .. }) => !seen.contains(&value),
                _ => true,
            }
    };
    let mut rest = Vec::new();
    if let (End::Answered(at, Response::Value { version, value }), Request::Read(key)) = (&read.end, &read.request) {
        // As if it had been written at this moment, onto nothing: what came before is judged.
        rest.push(Operation {
            client: read.client,
            invoked: read.invoked,
            request: Request::Single(
                *key,
                scatter_sim::history::Guard::Always,
                Change::Put { value: *value, expires: false },
            ),
            end: End::Answered(*at, Response::Written { version: *version, created: true }),
        });
    }
    rest.extend(operations.iter().filter(is_open).cloned());
    rest
}

/// The value that an answer shows to have been written.
fn value_seen(operation: &Operation) -> Option<ValueId> {
    match (operation.response()?, &operation.request) {
        (Response::Value { value, .. }, _) => Some(*value),
        (Response::Written { .. }, Request::Single(_, _, Change::Put { value, .. })) => Some(*value),
        _ => None,
    }
}

fn version_seen(response: &Response) -> Option<VersionNumber> {
    match response {
        Response::Value { version, .. } | Response::Written { version, .. } => Some(*version),
        Response::ConditionFailed { current, .. } => *current,
        Response::Absent | Response::Deleted { .. } | Response::BatchWritten { .. } => None,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
