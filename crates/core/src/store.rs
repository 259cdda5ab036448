//! The ordered byte store under the state machine: RocksDB on a node, a map in the simulator.
//!
//! A write batch is atomic but *not* durable by itself: the log is. What survives a crash is some prefix of the batches
//! written; [`Store::flush`] makes all of them survive. So the data and the applied mark, which move in one batch, always
//! agree, and the log is truncated only below an applied mark that was flushed. [`Store::load`] alone is outside that order.
//!
//! Keys are laid out in `group::layout`: a tablet's data under its number, each replica's records under its group.

pub mod map;

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The store failed. What it holds may be read again after a restart; nothing half-written is visible.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed; the text is for a person.
    #[error("the store failed: {0}")]
    Failed(String),
    /// A record does not read back as what was written.
    #[error("the store is damaged: {0}")]
    Damaged(String),
    /// There is no room for the write.
    #[error("the store has no space left")]
    NoSpace,
}

/// What a visitor of a scan wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    /// The next pair.
    Continue,
    /// No more.
    Stop,
}

/// Something to read from: the live store or a pinned view of it.
pub trait Read {
    /// The value at `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Shows the value at `key`, if there is one. A store that can shows its own memory, without a copy: the state
    /// machine looks at the head of a value before it replaces it, and values may be large.
    fn inspect(&self, key: &[u8], visit: &mut dyn FnMut(&[u8])) -> Result<(), StoreError> {
        if let Some(value) = self.get(key)? {
            visit(&value);
        }
        Ok(())
    }

    /// About how many bytes lie between the two keys, if the store can tell without looking at them.
    fn size_between(&self, start: &[u8], end: &[u8]) -> Option<u64> {
        let _ = (start, end);
        None
    }

    /// Shows pairs with `start <= key < end` in byte order until the visitor stops.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), StoreError>;
}

/// Changes that become visible together.
pub trait Batch {
    /// Sets `key`.
    fn put(&mut self, key: &[u8], value: &[u8]);
    /// Removes `key`.
    fn delete(&mut self, key: &[u8]);
    /// Removes every key with `start <= key < end`.
    fn delete_range(&mut self, start: &[u8], end: &[u8]);
    /// Removes every key with `start <= key < end` for good: nothing is ever written there again, so the store may give the
    /// space back in its own time.
    fn drop_range(&mut self, start: &[u8], end: &[u8]) {
        self.delete_range(start, end);
    }
}

/// A [`Store::load`] whose end is waited for later.
pub enum Loading {
    /// It goes on beside other things. It has ended when this is dropped, so that what is removed afterwards stays away.
    Begun(LoadingBeside),
    /// It is done when it is waited for, or not at all.
    Due(WaitLoaded),
}

/// Waits for the end of a load.
type WaitLoaded = Box<dyn FnOnce() -> Result<(), StoreError> + Send>;

/// See [`Loading::Begun`].
pub struct LoadingBeside {
    wait: Option<WaitLoaded>,
    has_ended: Arc<AtomicBool>,
}

impl Loading {
    /// One that has begun, and whose end `wait` waits for, not long once it `has_ended`.
    pub fn begun(has_ended: Arc<AtomicBool>, wait: impl FnOnce() -> Result<(), StoreError> + Send + 'static) -> Self {
        Self::Begun(LoadingBeside { wait: Some(Box::new(wait)), has_ended })
    }

    /// One that `store` does when it is waited for.
    pub fn due(store: impl Store, pairs: Arc<[(Vec<u8>, Bytes)]>) -> Self {
        Self::Due(Box::new(move || store.load(&pairs)))
    }

    /// Whether something goes on that to wait for would take a while.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        match self {
            Self::Begun(beside) => !beside.has_ended.load(Ordering::Acquire),
            Self::Due(_) => false,
        }
    }

    /// Waits for the end.
    pub fn wait(self) -> Result<(), StoreError> {
        match self {
            Self::Begun(mut beside) => beside.wait.take().map_or(Ok(()), |wait| wait()),
            Self::Due(load) => load(),
        }
    }
}

impl Drop for LoadingBeside {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.take() {
            // Whoever drops it does not want to know.
            let _ = wait();
        }
    }
}

/// The store itself. A handle: clones share the same data.
pub trait Store: Read + Clone + Send + 'static {
    /// A batch under construction.
    type Batch: Batch + Default + Send;
    /// A pinned, unchanging view.
    type View: Read + Send + 'static;

    /// Writes a batch: atomic, visible to every later read, durable only after [`Store::flush`].
    fn write(&self, batch: Self::Batch) -> Result<(), StoreError>;

    /// Writes pairs whose keys rise, into a stretch of keys where nothing was ever written but, perhaps, the same pairs.
    /// Atomic, visible to every later read, and, unlike a batch, perhaps durable at once, before what was written earlier.
    fn load(&self, pairs: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError>;

    /// The same, perhaps while other things go on. Nothing may count on it before its end was waited for.
    fn load_beside(&self, pairs: Arc<[(Vec<u8>, Bytes)]>) -> Loading {
        Loading::due(self.clone(), pairs)
    }

    /// Pins what the store holds at this moment.
    fn view(&self) -> Self::View;

    /// Makes everything written so far durable. May take long.
    fn flush(&self) -> Result<(), StoreError>;
}
