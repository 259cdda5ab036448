//! Whether a history could have come from one store that does one operation at a time.
//!
//! Keys are independent but where a batch ties several together, so the history is cut into components of tied keys and
//! each is searched alone (`search`) for an order of its operations that respects real time and explains every answer.
//! Versions make the search short: they rise with every change of a key, so all changes whose version somebody saw have
//! one possible order, and only changes that nobody saw (unknown outcomes, expiry) leave a choice.
//!
//! Before that, plain facts are checked: one value for each (key, version), one version for each value (a write that
//! happened twice shows here), no value that was never written, was refused, or was read before it was asked for.

mod model;
mod search;

use crate::history::{Change, End, KeyIndex, Operation, Request, Response, Time, ValueId, VersionNumber};
use std::collections::{BTreeMap, BTreeSet};

/// How many configurations of one component are tried before the search gives up.
const SEARCH_LIMIT: usize = 1_000_000;

/// Why a history is not that of one sequential store. Operations are given as text, ready to print.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// One version of a key was seen with two values.
    #[error("key {key} version {version} has two values, {first} and {second}")]
    TwoValues {
        /// The key.
        key: KeyIndex,
        /// The version.
        version: VersionNumber,
        /// One value.
        first: ValueId,
        /// Another.
        second: ValueId,
    },
    /// One write was seen under two versions: it happened twice.
    #[error("value {value} of key {key} was written twice, as versions {first} and {second}")]
    WrittenTwice {
        /// The key.
        key: KeyIndex,
        /// The value.
        value: ValueId,
        /// One version.
        first: VersionNumber,
        /// Another.
        second: VersionNumber,
    },
    /// A value was read that no write to that key carries.
    #[error("key {key} had value {value}, which nobody wrote: {read}")]
    Phantom {
        /// The key.
        key: KeyIndex,
        /// The value.
        value: ValueId,
        /// Who read it.
        read: String,
    },
    /// A write took effect though its client was told that it did not.
    #[error("a write that was refused took effect: {write}; seen by: {read}")]
    RefusedButApplied {
        /// The write.
        write: String,
        /// Who saw it.
        read: String,
    },
    /// A read returned a value before its write was asked for.
    #[error("a value from the future: {write}; seen by: {read}")]
    Future {
        /// The write.
        write: String,
        /// Who saw it.
        read: String,
    },
    /// No order of the operations explains the answers.
    #[error("no order explains keys {keys:?}; {done} operations were placed, then none of these fits:\n{stuck}")]
    NoOrder {
        /// The keys of the component.
        keys: Vec<KeyIndex>,
        /// How many operations the best attempt placed.
        done: usize,
        /// The operations that could have come next, one a line, and the state they met.
        stuck: String,
    },
    /// The search grew too large to finish; treated as a failure, since sound histories need little.
    #[error("the search over keys {keys:?} was given up after {limit} configurations; last stuck at:\n{stuck}")]
    GivenUp {
        /// The keys of the component.
        keys: Vec<KeyIndex>,
        /// The limit.
        limit: usize,
        /// As in [`Violation::NoOrder`].
        stuck: String,
    },
}

/// A put that was carried out: its key, version and value.
pub type Applied = (KeyIndex, VersionNumber, ValueId);

/// Checks a whole history. The clients' times must be distinct or at least ordered as the events were: an operation
/// invoked at the very moment at which another returned counts as later.
///
/// # Errors
/// The first violation found.
pub fn check(history: &[Operation]) -> Result<(), Violation> {
    search_all(history, &Facts::gather(history)?)
}

/// [`check`] for a history of which is known besides what its clients heard: `applied` lists every put that was carried out.
/// One whose client heard nothing has its version from there, or never happened. That only narrows the orders that count.
///
/// # Errors
/// The first violation found.
pub fn check_knowing(history: &[Operation], applied: &[Applied]) -> Result<(), Violation> {
    let mut facts = Facts::gather(history)?;
    facts.complete = true;
    for (key, version, value) in applied {
        facts.note(*key, *version, *value)?;
    }
    search_all(history, &facts)
}

fn search_all(history: &[Operation], facts: &Facts) -> Result<(), Violation> {
    for component in components(history) {
        search::check(history, &component, facts, SEARCH_LIMIT)?;
    }
    Ok(())
}

/// Checks reads that any replica answered from whatever it had: they may be old, but must be something that was written.
///
/// # Errors
/// The first violation found.
pub fn check_stale(history: &[Operation], stale: &[Applied]) -> Result<(), Violation> {
    let reads: Vec<Operation> = stale
        .iter()
        .map(|(key, version, value)| Operation {
            client: 0,
            invoked: 0,
            request: Request::Read(*key),
            end: End::Answered(Time::MAX, Response::Value { version: *version, value: *value }),
        })
        .collect();
    let all: Vec<Operation> = history.iter().cloned().chain(reads).collect();
    Facts::gather(&all).map(|_| ())
}

/// Which write made which version, as far as anybody saw.
#[derive(Default)]
struct Facts {
    /// The version under which a write of (key, value) was seen.
    versions: BTreeMap<(KeyIndex, ValueId), VersionNumber>,
    /// The value seen at (key, version).
    values: BTreeMap<(KeyIndex, VersionNumber), ValueId>,
    /// A put without a version was never carried out.
    complete: bool,
}

impl Facts {
    fn gather(history: &[Operation]) -> Result<Self, Violation> {
        let mut writers = BTreeMap::new();
        for operation in history {
            for (key, change) in operation.request.changes() {
                if let Change::Put { value, .. } = change {
                    writers.insert((key, value), operation);
                }
            }
        }
        let mut facts = Self::default();
        for operation in history {
            facts.learn(operation, &writers)?;
        }
        Ok(facts)
    }

    fn learn(
        &mut self,
        operation: &Operation,
        writers: &BTreeMap<(KeyIndex, ValueId), &Operation>,
    ) -> Result<(), Violation> {
        let Some(response) = operation.response() else { return Ok(()) };
        match (response, &operation.request) {
            (Response::Value { version, value }, Request::Read(key)) => {
                let Some(write) = writers.get(&(*key, *value)) else {
                    return Err(Violation::Phantom { key: *key, value: *value, read: operation.to_string() });
                };
                let (write, read) = (*write, operation);
                if write.end == End::NotApplied {
                    return Err(Violation::RefusedButApplied { write: write.to_string(), read: read.to_string() });
                }
                if write.invoked >= read.returned() {
                    return Err(Violation::Future { write: write.to_string(), read: read.to_string() });
                }
                self.note(*key, *version, *value)
            }
            (Response::Written { version, .. }, Request::Single(key, _, Change::Put { value, .. })) => {
                self.note(*key, *version, *value)
            }
            (Response::BatchWritten { versions }, Request::Batch { changes, .. }) => {
                changes.iter().zip(versions).try_for_each(|((key, change), version)| match change {
                    Change::Put { value, .. } => self.note(*key, *version, *value),
                    Change::Delete => Ok(()),
                })
            }
            _ => Ok(()),
        }
    }

    fn note(&mut self, key: KeyIndex, version: VersionNumber, value: ValueId) -> Result<(), Violation> {
        let first = *self.values.entry((key, version)).or_insert(value);
        if first != value {
            return Err(Violation::TwoValues { key, version, first, second: value });
        }
        let first = *self.versions.entry((key, value)).or_insert(version);
        if first != version {
            return Err(Violation::WrittenTwice { key, value, first, second: version });
        }
        Ok(())
    }
}

/// Keys tied together by batches, each component sorted.
fn components(history: &[Operation]) -> Vec<Vec<KeyIndex>> {
    let mut root: BTreeMap<KeyIndex, KeyIndex> = BTreeMap::new();
    fn find(root: &mut BTreeMap<KeyIndex, KeyIndex>, key: KeyIndex) -> KeyIndex {
        let parent = *root.entry(key).or_insert(key);
        if parent == key {
            return key;
        }
        let top = find(root, parent);
        root.insert(key, top);
        top
    }
    for operation in history {
        let keys = operation.request.keys();
        for key in &keys {
            let (a, b) = (find(&mut root, keys[0]), find(&mut root, *key));
            root.insert(a.max(b), a.min(b));
        }
    }
    let mut groups: BTreeMap<KeyIndex, BTreeSet<KeyIndex>> = BTreeMap::new();
    for key in root.keys().copied().collect::<Vec<_>>() {
        groups.entry(find(&mut root, key)).or_default().insert(key);
    }
    groups.into_values().map(|keys| keys.into_iter().collect()).collect()
}

#[cfg(test)]
mod tests;
