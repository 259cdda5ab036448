//! Snapshots that others fetch: pinned once, then read piece by piece, beside the thread that applies if the shell likes.

use crate::group::{Chunk, SnapshotSource};
use crate::input::Input;
use crate::message::Piece;
use crate::store::{Read, StoreError};
use crate::time::Instant;
use crate::types::{GroupId, ReplicaName, Slot};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Snapshots pinned at once.
const MOST: usize = 4;

/// A further one takes the place of the one longest unused, if that is unused for such a part of the patience. Whoever reads one still
/// must not lose it to those who wait, or nobody would come to an end.
const IDLE_PART: u32 = 8;

/// A pinned snapshot, with whoever reads it.
struct Shared<V: Read> {
    reader: Mutex<Reader<V>>,
    /// Its last piece was read.
    is_read: AtomicBool,
}

struct Reader<V: Read> {
    source: SnapshotSource<V>,
    /// The piece that is asked for next, if all goes well, and from where on it is.
    ahead: Option<(Bytes, Chunk)>,
}

struct Source<V: Read> {
    group: GroupId,
    used: Instant,
    shared: Arc<Shared<V>>,
}

/// All snapshots that are pinned.
pub(super) struct Sources<V: Read> {
    pinned: BTreeMap<u64, Source<V>>,
    next: u64,
    patience: Duration,
}

impl<V: Read> Sources<V> {
    /// `nonce` makes the numbers of this boot's snapshots its own; those nobody pulls for `patience` are let go.
    pub(super) fn new(nonce: u64, patience: Duration) -> Self {
        Self { pinned: BTreeMap::new(), next: (nonce << 16).max(1), patience }
    }

    /// Lets views go that nobody has asked for in a while, or will ask for: they keep what was overwritten since.
    pub(super) fn let_go(&mut self, now: Instant) {
        let (patience, pinned) = (self.patience, &mut self.pinned);
        pinned.retain(|_, source| now.since(source.used) <= patience && !source.shared.is_read.load(Ordering::Relaxed));
    }

    pub(super) fn forget(&mut self, group: GroupId) {
        self.pinned.retain(|_, source| source.group != group);
    }

    /// Keeps a snapshot to be read: its number; `None` if too many others are read.
    pub(super) fn pin(&mut self, group: GroupId, source: SnapshotSource<V>, now: Instant) -> Option<u64> {
        if self.pinned.len() >= MOST {
            let idle = |source: &Source<V>| now.since(source.used) > self.patience / IDLE_PART;
            let oldest = self.pinned.iter().min_by_key(|(_, source)| source.used);
            let oldest = oldest.filter(|(_, source)| idle(source)).map(|(number, _)| *number)?;
            self.pinned.remove(&oldest);
        }
        let number = self.next;
        self.next += 1;
        let reader = Mutex::new(Reader { source, ahead: None });
        let shared = Arc::new(Shared { reader, is_read: AtomicBool::new(false) });
        self.pinned.insert(number, Source { group, used: now, shared });
        Some(number)
    }

    /// What reads a piece of the snapshot `number`.
    pub(super) fn reading(
        &mut self,
        (group, to): (GroupId, ReplicaName),
        number: u64,
        cursor: Option<&Bytes>,
        bytes: usize,
        now: Instant,
    ) -> Reading<V> {
        let source = self.pinned.get_mut(&number).filter(|source| source.group == group);
        let shared = source.map(|source| {
            source.used = now;
            source.shared.clone()
        });
        Reading { group, to, number, cursor: cursor.cloned(), bytes, shared }
    }
}

/// A piece of a snapshot that is to be read. Any thread may do it.
pub struct Reading<V: Read> {
    group: GroupId,
    to: ReplicaName,
    number: u64,
    cursor: Option<Bytes>,
    bytes: usize,
    shared: Option<Arc<Shared<V>>>,
}

impl<V: Read> Reading<V> {
    /// Reads the piece: what the node is to hear. Of a snapshot that is no more it hears that.
    pub fn read(&self) -> Result<Input, StoreError> {
        let cursor = self.cursor.clone();
        let mut piece = Piece { snapshot: 0, slot: Slot(0), cursor: cursor.clone(), after: None, chunk: Bytes::new() };
        if let Some(shared) = &self.shared {
            let mut reader = shared.reader.lock().unwrap_or_else(PoisonError::into_inner);
            piece.slot = reader.source.header().state.applied;
            let ahead = reader.ahead.take_if(|(from, _)| Some(&*from) == cursor.as_ref());
            let chunk = match ahead {
                Some((_, chunk)) => Some(chunk),
                None => reader.source.chunk(cursor.as_ref(), self.bytes)?,
            };
            if let Some(chunk) = chunk {
                shared.is_read.store(chunk.done, Ordering::Relaxed);
                piece.snapshot = self.number;
                piece.after = (!chunk.done).then(|| chunk.after.clone());
                piece.chunk = chunk.into_bytes();
            }
        }
        Ok(Input::SnapshotRead { group: self.group, to: self.to, piece })
    }

    /// Reads the piece behind the one that `input` tells, so that it is there when it is asked for.
    pub fn read_ahead(&self, input: &Input) -> Result<(), StoreError> {
        let Input::SnapshotRead { piece: Piece { after: Some(after), .. }, .. } = input else { return Ok(()) };
        let Some(shared) = &self.shared else { return Ok(()) };
        let mut reader = shared.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunk) = reader.source.chunk(Some(after), self.bytes)? {
            reader.ahead = Some((after.clone(), chunk));
        }
        Ok(())
    }
}
