//! A store in memory: what the simulator and the tests run on.
//!
//! Each key keeps the versions that a pinned view may still ask for, so a view costs nothing to take and nothing to the
//! writer. The store remembers how to undo every batch since the last flush: [`MapStore::crash`] keeps a prefix of them,
//! as a real store does when its process dies.

use super::{Batch, Read, Store, StoreError, Visit};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many pairs a scan takes from the map at a time. The lock is not held while the visitor runs.
const SCAN_STEP: usize = 64;

/// An in-memory [`Store`]. Clones share the same data.
#[derive(Clone, Default, Debug)]
pub struct MapStore {
    shared: Arc<Mutex<Shared>>,
}

/// What fails until the fault is lifted.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every write and flush.
    Writes(StoreError),
    /// Every read, write and flush.
    All(StoreError),
}

#[derive(Default, Debug)]
struct Shared {
    /// Per key, rising: the batch that set it, and the value (`None`: removed).
    keys: BTreeMap<Bytes, Vec<(u64, Option<Bytes>)>>,
    /// How many batches were ever written. Undone ones are not counted again.
    written: u64,
    /// Pinned views: the number of batches each sees, and how many views see that many.
    pins: BTreeMap<u64, usize>,
    /// How to undo each batch since the last flush, in order of writing.
    undo: VecDeque<Undo>,
    fault: Fault,
    /// What was dropped for good, by the batch that did it: whoever writes there again would lose it on a real store.
    dropped: Vec<(u64, Bytes, Bytes)>,
}

/// The keys one batch changed, each with its value before.
#[derive(Debug)]
struct Undo {
    batch: u64,
    before: Vec<(Bytes, Option<Bytes>)>,
}

/// Changes for a [`MapStore`].
#[derive(Default, Debug)]
pub struct MapBatch {
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
    DeleteRange { start: Bytes, end: Bytes },
    DropRange { start: Bytes, end: Bytes },
}

/// A pinned view of a [`MapStore`].
#[derive(Debug)]
pub struct MapView {
    shared: Arc<Mutex<Shared>>,
    written: u64,
}

impl MapStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many batches a crash could lose.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        lock(&self.shared).undo.len()
    }

    /// How many batches were ever written: a mark for [`MapStore::flush_through`].
    #[must_use]
    pub fn written(&self) -> u64 {
        lock(&self.shared).written
    }

    /// Makes the batches up to `mark` durable: a flush that began when [`MapStore::written`] was `mark` and ends at this
    /// moment.
    pub fn flush_through(&self, mark: u64) -> Result<(), StoreError> {
        let mut shared = lock(&self.shared);
        shared.check_write()?;
        while shared.undo.front().is_some_and(|undo| undo.batch <= mark) {
            shared.undo.pop_front();
        }
        Ok(())
    }

    /// The process dies: of the batches since the last flush only the first `keep` survive, and those are durable. Views
    /// of the dead process mean nothing any more. Faults are lifted.
    pub fn crash(&self, keep: usize) {
        let mut shared = lock(&self.shared);
        shared.fault = Fault::None;
        while shared.undo.len() > keep {
            let Some(undo) = shared.undo.pop_back() else { break };
            shared.dropped.retain(|(batch, ..)| *batch < undo.batch);
            shared.written += 1;
            let batch = shared.written;
            for (key, value) in undo.before.into_iter().rev() {
                shared.set(key, value, batch);
            }
        }
        shared.undo.clear();
    }

    /// Makes operations fail from this moment on, or, with [`Fault::None`], work again.
    pub fn set_fault(&self, fault: Fault) {
        lock(&self.shared).fault = fault;
    }

    /// How many keys are set.
    #[must_use]
    pub fn len(&self) -> usize {
        let shared = lock(&self.shared);
        shared.keys.values().filter(|versions| versions.last().is_some_and(|(_, value)| value.is_some())).count()
    }

    /// Whether no key is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shared {
    fn check_write(&self) -> Result<(), StoreError> {
        match &self.fault {
            Fault::None => Ok(()),
            Fault::Writes(error) | Fault::All(error) => Err(error.clone()),
        }
    }

    fn check_read(&self) -> Result<(), StoreError> {
        match &self.fault {
            Fault::None | Fault::Writes(_) => Ok(()),
            Fault::All(error) => Err(error.clone()),
        }
    }

    /// Sets a key as of `batch`, drops the versions that no view can see, and tells the value before.
    fn set(&mut self, key: Bytes, value: Option<Bytes>, batch: u64) -> Option<Bytes> {
        let oldest = self.pins.keys().next().copied().unwrap_or(batch);
        let versions = self.keys.entry(key.clone()).or_default();
        let before = versions.last().and_then(|(_, value)| value.clone());
        match versions.last_mut() {
            Some(last) if last.0 == batch => last.1 = value,
            _ => versions.push((batch, value)),
        }
        // The newest version at or below the oldest pin is still seen; all before it are not.
        let seen = versions.iter().rposition(|(written, _)| *written <= oldest).unwrap_or(0);
        versions.drain(..seen);
        if versions.len() == 1 && versions[0].1.is_none() {
            self.keys.remove(&key);
        }
        before
    }

    fn write(&mut self, batch: MapBatch) {
        self.written += 1;
        let number = self.written;
        let mut before = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            match change {
                Change::Put { key, value } => {
                    self.check_not_dropped(&key);
                    let old = self.set(key.clone(), Some(value), number);
                    before.push((key, old));
                }
                Change::Delete { key } => {
                    let old = self.set(key.clone(), None, number);
                    before.push((key, old));
                }
                Change::DeleteRange { start, end } => self.delete_range(start, end, &mut before),
                Change::DropRange { start, end } => {
                    self.dropped.push((number, start.clone(), end.clone()));
                    self.delete_range(start, end, &mut before);
                }
            }
        }
        self.undo.push_back(Undo { batch: number, before });
    }

    fn delete_range(&mut self, start: Bytes, end: Bytes, before: &mut Vec<(Bytes, Option<Bytes>)>) {
        if start >= end {
            return;
        }
        let doomed: Vec<Bytes> = self.keys.range(start..end).map(|(key, _)| key.clone()).collect();
        for key in doomed {
            let old = self.set(key.clone(), None, self.written);
            before.push((key, old));
        }
    }

    fn check_not_dropped(&self, key: &[u8]) {
        let dropped = self.dropped.iter().any(|(_, start, end)| start <= key && key < end);
        assert!(!dropped, "{key:?} is written where everything was dropped for good");
    }

    /// Nothing undoes it.
    fn load(&mut self, pairs: &[(Vec<u8>, Bytes)]) {
        self.written += 1;
        let number = self.written;
        for (key, value) in pairs {
            self.check_not_dropped(key);
            self.set(Bytes::copy_from_slice(key), Some(Bytes::copy_from_slice(value)), number);
        }
    }

    fn get(&self, key: &[u8], written: u64) -> Option<Bytes> {
        at(self.keys.get(key)?, written)
    }

    /// Up to [`SCAN_STEP`] pairs from `start` on, and where to go on if there may be more.
    fn step(&self, start: Bound<&[u8]>, end: &[u8], written: u64) -> (Vec<(Bytes, Bytes)>, Option<Bytes>) {
        let mut pairs = Vec::new();
        for (looked, (key, versions)) in self.keys.range::<[u8], _>((start, Bound::Excluded(end))).enumerate() {
            if let Some(value) = at(versions, written) {
                pairs.push((key.clone(), value));
            }
            if looked + 1 == SCAN_STEP {
                return (pairs, Some(key.clone()));
            }
        }
        (pairs, None)
    }
}

/// The value that a view of `written` batches sees.
fn at(versions: &[(u64, Option<Bytes>)], written: u64) -> Option<Bytes> {
    versions.iter().rev().find(|(batch, _)| *batch <= written).and_then(|(_, value)| value.clone())
}

/// Every change of the shared map is whole before its lock is released, so a panic elsewhere leaves nothing broken.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pin(shared: &Arc<Mutex<Shared>>) -> MapView {
    let mut guard = lock(shared);
    let written = guard.written;
    *guard.pins.entry(written).or_default() += 1;
    MapView { shared: Arc::clone(shared), written }
}

impl Drop for MapView {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        if let Some(count) = shared.pins.get_mut(&self.written) {
            *count -= 1;
            if *count == 0 {
                shared.pins.remove(&self.written);
            }
        }
    }
}

impl Read for MapView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let shared = lock(&self.shared);
        shared.check_read()?;
        Ok(shared.get(key, self.written))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), StoreError> {
        if start >= end {
            return Ok(());
        }
        let mut from = None;
        loop {
            let bound = from.as_deref().map_or(Bound::Included(start), Bound::Excluded);
            let (pairs, more) = {
                let shared = lock(&self.shared);
                shared.check_read()?;
                shared.step(bound, end, self.written)
            };
            for (key, value) in &pairs {
                if visit(key, value) == Visit::Stop {
                    return Ok(());
                }
            }
            if more.is_none() {
                return Ok(());
            }
            from = more;
        }
    }
}

impl Read for MapStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let shared = lock(&self.shared);
        shared.check_read()?;
        Ok(shared.get(key, shared.written))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), StoreError> {
        pin(&self.shared).scan(start, end, visit)
    }
}

impl Batch for MapBatch {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.changes.push(Change::Put { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
    }

    fn delete(&mut self, key: &[u8]) {
        self.changes.push(Change::Delete { key: Bytes::copy_from_slice(key) });
    }

    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        self.changes
            .push(Change::DeleteRange { start: Bytes::copy_from_slice(start), end: Bytes::copy_from_slice(end) });
    }

    fn drop_range(&mut self, start: &[u8], end: &[u8]) {
        self.changes.push(Change::DropRange { start: Bytes::copy_from_slice(start), end: Bytes::copy_from_slice(end) });
    }
}

impl Store for MapStore {
    type Batch = MapBatch;
    type View = MapView;

    fn write(&self, batch: MapBatch) -> Result<(), StoreError> {
        let mut shared = lock(&self.shared);
        shared.check_write()?;
        shared.write(batch);
        Ok(())
    }

    fn load(&self, pairs: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
        let mut shared = lock(&self.shared);
        shared.check_write()?;
        shared.load(pairs);
        Ok(())
    }

    fn view(&self) -> MapView {
        pin(&self.shared)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.flush_through(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(store: &MapStore, key: &[u8], value: &[u8]) {
        let mut batch = MapBatch::default();
        batch.put(key, value);
        store.write(batch).unwrap();
    }

    fn all(read: &impl Read) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = Vec::new();
        read.scan(&[], &[0xff; 9], &mut |key, value| {
            pairs.push((key.to_vec(), value.to_vec()));
            Visit::Continue
        })
        .unwrap();
        pairs
    }

    #[test]
    fn a_view_stays_as_it_was_pinned() {
        let store = MapStore::new();
        put(&store, b"a", b"1");
        let view = store.view();
        put(&store, b"a", b"2");
        put(&store, b"b", b"1");
        let mut batch = MapBatch::default();
        batch.delete(b"a");
        store.write(batch).unwrap();
        assert_eq!(view.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(all(&view), [(b"a".to_vec(), b"1".to_vec())]);
        assert_eq!(store.get(b"a").unwrap(), None);
        drop(view);
        assert_eq!(all(&store), [(b"b".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_what_was_not_flushed() {
        let store = MapStore::new();
        put(&store, b"a", b"1");
        store.flush().unwrap();
        put(&store, b"a", b"2");
        put(&store, b"a", b"3");
        let mut batch = MapBatch::default();
        batch.delete_range(b"a", b"z");
        batch.put(b"b", b"1");
        store.write(batch).unwrap();
        assert_eq!(store.unflushed(), 3);
        store.crash(1);
        assert_eq!(all(&store), [(b"a".to_vec(), b"2".to_vec())]);
        assert_eq!(store.unflushed(), 0);
        store.crash(0);
        assert_eq!(all(&store), [(b"a".to_vec(), b"2".to_vec())]);
    }

    #[test]
    fn a_flush_covers_only_what_was_written_when_it_began() {
        let store = MapStore::new();
        put(&store, b"a", b"1");
        let mark = store.written();
        put(&store, b"a", b"2");
        store.flush_through(mark).unwrap();
        store.crash(0);
        assert_eq!(store.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    }

    #[test]
    fn faults_fail_what_they_name_until_lifted() {
        let store = MapStore::new();
        put(&store, b"a", b"1");
        store.set_fault(Fault::Writes(StoreError::NoSpace));
        assert_eq!(store.write(MapBatch::default()), Err(StoreError::NoSpace));
        assert_eq!(store.flush(), Err(StoreError::NoSpace));
        assert!(store.get(b"a").unwrap().is_some());
        store.set_fault(Fault::All(StoreError::Failed("gone".into())));
        assert!(store.get(b"a").is_err());
        assert!(store.view().scan(b"a", b"b", &mut |_, _| Visit::Continue).is_err());
        store.set_fault(Fault::None);
        put(&store, b"b", b"1");
        assert_eq!(store.len(), 2);
    }

    fn drop_range(store: &MapStore, start: &[u8], end: &[u8]) {
        let mut batch = MapBatch::default();
        batch.drop_range(start, end);
        store.write(batch).unwrap();
    }

    #[test]
    fn a_crash_takes_back_what_was_dropped() {
        let store = MapStore::new();
        put(&store, b"a", b"1");
        drop_range(&store, b"a", b"b");
        assert!(store.is_empty());
        store.crash(1);
        put(&store, b"a", b"2");
        assert_eq!(all(&store), [(b"a".to_vec(), b"2".to_vec())]);
    }

    #[test]
    #[should_panic(expected = "dropped for good")]
    fn what_was_dropped_is_not_written_again() {
        let store = MapStore::new();
        drop_range(&store, b"a", b"c");
        put(&store, b"b", b"1");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(Vec<(u8, Option<u8>)>),
        DeleteRange(u8, u8),
        Pin,
        Unpin,
        Flush,
        Crash(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => proptest::collection::vec((0u8..100, proptest::option::of(any::<u8>())), 0..5).prop_map(Step::Write),
            1 => (0u8..100, 0u8..100).prop_map(|(a, b)| Step::DeleteRange(a, b)),
            1 => Just(Step::Pin),
            1 => Just(Step::Unpin),
            1 => Just(Step::Flush),
            1 => (0usize..6).prop_map(Step::Crash),
        ]
    }

    type Model = BTreeMap<Vec<u8>, Vec<u8>>;

    proptest! {
        #[test]
        fn behaves_as_copies_of_a_plain_map(steps in proptest::collection::vec(step(), 1..60)) {
            let store = MapStore::new();
            // The last flushed state, then one more after each batch.
            let mut history: Vec<Model> = vec![Model::new()];
            let mut pins: Vec<(MapView, Model)> = Vec::new();
            for step in steps {
                let mut model = history.last().cloned().unwrap();
                match step {
                    Step::Write(writes) => {
                        let mut batch = MapBatch::default();
                        for (key, value) in writes {
                            match value {
                                Some(value) => { batch.put(&[key], &[value]); model.insert(vec![key], vec![value]); }
                                None => { batch.delete(&[key]); model.remove(&vec![key]); }
                            }
                        }
                        store.write(batch).unwrap();
                        history.push(model);
                    }
                    Step::DeleteRange(a, b) => {
                        let mut batch = MapBatch::default();
                        batch.delete_range(&[a], &[b]);
                        store.write(batch).unwrap();
                        model.retain(|key, _| !(key[0] >= a && key[0] < b));
                        history.push(model);
                    }
                    Step::Pin => pins.push((store.view(), model)),
                    Step::Unpin => { pins.pop(); }
                    Step::Flush => { store.flush().unwrap(); history = vec![model]; }
                    Step::Crash(keep) => {
                        pins.clear();
                        store.crash(keep);
                        history.truncate(keep.saturating_add(1));
                        history = vec![history.last().cloned().unwrap()];
                    }
                }
                let expected: Vec<_> = history.last().cloned().unwrap().into_iter().collect();
                prop_assert_eq!(all(&store), expected);
                prop_assert_eq!(store.unflushed(), history.len() - 1);
                for (view, model) in &pins {
                    prop_assert_eq!(all(view), model.clone().into_iter().collect::<Vec<_>>());
                }
            }
        }
    }
}
