//! Snapshots: a replica's whole state in chunks, for one that lags too far behind.
//!
//! ```text
//! receiver                                   sender
//! SnapshotSink::begin (fresh tablet)
//! cursor() = none            -------------->  SnapshotSource over a pinned view
//! add(chunk): one batch      <--------------  chunk(none): header, lanes ...
//! cursor() = after           -------------->  chunk(after): lanes, values, idempotency records
//!    ...  (values of some chunks are held and loaded together, with the cursor; a restart resumes there)
//! finish(): one batch switches the tablet in, replaces record and lanes, lets go of the old tablets
//! ```
//!
//! The receiver pulls; the sender keeps nothing but the pinned view. Cursors name positions, not tablets, and what a
//! snapshot holds is decided by (group, applied slot) alone. Indexes do not travel: the receiver builds its own.
//! Times travel in the group's clock, whatever the clocks were that wrote them ([`super::tablets`]).
//!
//! Values come in order and nobody else writes in the fresh tablet. So a store need not sort them, nor merge them with what
//! it has: many of them are loaded as they are ([`Store::load`]). The cursor is recorded only then. Whoever resumes at an
//! older one writes the same under the same keys again.

use super::lanes::{self, LaneKey, Lanes};
use super::layout::{self, Space, damaged, undecodable, unversioned, versioned};
use super::machine::{Frame, Machine, Mark, put_records, read_records};
use super::release::release;
use super::{GroupState, TabletMap, idempotency, kv};
use crate::codec::{Decode, DecodeError, Encode};
use crate::codec_struct;
use crate::ops::{OperationId, Pending};
use crate::planted::{self, Bug};
use crate::ring::Position;
use crate::store::{Batch, Loading, Read, Store, StoreError, Visit};
use crate::time::LogTime;
use crate::types::{GroupId, ReplicaName, Slot, TabletId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Version byte of the record of a snapshot being received.
const FORMAT: u8 = 2;
/// Version byte of a chunk.
const CHUNK_FORMAT: u8 = 3;
/// Most bytes that are reserved for a chunk's items before they are there, and for the one that makes it full.
const MOST_ROOM: usize = 1 << 20;
const ROOM_FOR_LAST: usize = 64 << 10;
/// Bytes of a chunk beside its items, about: few of those that follow the first carry more.
const ROOM_BESIDE_ITEMS: usize = 1 << 10;
/// What every chunk ends with: the length of what it says of itself, the version byte, and the checksum.
const END_BYTES: usize = 4 + 1 + 4;
/// What a chunk carries after its header: sections, in this order. The number begins every cursor.
const LANES: u8 = 1;
const VALUES: u8 = 2;
const IDEMPOTENCY: u8 = 3;

/// Which snapshot. All replicas of a group at one slot would send the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotId {
    /// The group.
    pub group: GroupId,
    /// The last slot that is part of it.
    pub applied: Slot,
    /// The fingerprint at that slot.
    pub fingerprint: u64,
}

codec_struct!(SnapshotId { group, applied, fingerprint });

/// What a snapshot holds beside lanes, keys and idempotency records. Travels in the first chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHeader {
    /// The group state, the applied slot and the forgotten stamp included.
    pub state: GroupState,
    /// How many lanes follow.
    pub lanes: u64,
    /// How many idempotency records follow.
    pub idempotency_records: u64,
    /// The fingerprint at the applied slot.
    pub fingerprint: u64,
    /// What is sealed is not part of it: the gainer beside the sender has it already.
    pub taken: bool,
}

codec_struct!(SnapshotHeader { state, lanes, idempotency_records, fingerprint, taken });

impl SnapshotHeader {
    /// The operation that moves what is left out, if something is.
    #[must_use]
    pub fn left_out(&self) -> Option<OperationId> {
        self.state.pending.as_ref().map(Pending::operation).filter(|_| self.taken)
    }

    /// Which snapshot this is the header of.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        SnapshotId { group: self.state.group, applied: self.state.applied, fingerprint: self.fingerprint }
    }
}

/// One piece of a snapshot.
///
/// Its byte form is its items, which are most of it and so stay where they were gathered, then what it says of itself, and
/// at the end what a reader begins with: how long that is, a version byte, and a checksum of all before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Of which snapshot.
    pub id: SnapshotId,
    /// The header, in the first chunk only.
    pub header: Option<SnapshotHeader>,
    /// The cursor it was asked for with; `None` for the first.
    pub from: Option<Bytes>,
    /// The cursor for the next chunk.
    pub after: Bytes,
    /// Lanes, keys and idempotency records, each with its section's number.
    items: Bytes,
    /// Whether it is the last.
    pub done: bool,
}

impl Chunk {
    /// The byte form. A large chunk that shares its items with nobody gives them away without a copy.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        let mut out = match self.items.try_into_mut() {
            Ok(own) if own.len() * 2 >= own.capacity() => own,
            // A small one must not hold on to the room that a large one would have needed.
            Ok(own) => BytesMut::from(&own[..]),
            Err(shared) => BytesMut::from(&shared[..]),
        };
        let start = out.len();
        self.id.encode(&mut out);
        self.header.encode(&mut out);
        self.from.encode(&mut out);
        self.after.encode(&mut out);
        self.done.encode(&mut out);
        out.put_u32_le(u32::try_from(out.len() - start).expect("a chunk is far under 4 GiB"));
        out.put_u8(CHUNK_FORMAT);
        let checksum = crc32fast::hash(&out);
        out.put_u32_le(checksum);
        out.freeze()
    }

    /// Reads the byte form; what it holds shares `bytes`. Nothing is believed before the checksum.
    pub fn from_bytes(bytes: &Bytes) -> Result<Self, DecodeError> {
        let Some(end) = bytes.len().checked_sub(END_BYTES) else { return Err(DecodeError::Short("snapshot chunk")) };
        let covered = &bytes[..bytes.len() - 4];
        let mut last = bytes.slice(end..);
        let length = u32::decode(&mut last)? as usize;
        let format = u8::decode(&mut last)?;
        if u32::decode(&mut last)? != crc32fast::hash(covered) {
            return Err(DecodeError::Checksum("snapshot chunk"));
        }
        if format != CHUNK_FORMAT {
            return Err(DecodeError::Tag { what: "snapshot chunk", tag: u64::from(format) });
        }
        let start = end.checked_sub(length).ok_or(DecodeError::Short("snapshot chunk"))?;
        let mut about = bytes.slice(start..end);
        let chunk = Self {
            id: Decode::decode(&mut about)?,
            header: Decode::decode(&mut about)?,
            from: Decode::decode(&mut about)?,
            after: Decode::decode(&mut about)?,
            done: Decode::decode(&mut about)?,
            items: bytes.slice(..start),
        };
        if about.is_empty() { Ok(chunk) } else { Err(DecodeError::Trailing(about.len())) }
    }
}

/// Where a snapshot is read from: a view pinned when it was made.
pub struct SnapshotSource<V: Read> {
    view: V,
    header: SnapshotHeader,
    tablets: TabletMap,
    /// Read from the view when the first chunk is asked for, so that the thread that applies does not wait for it.
    lanes: Option<Lanes>,
}

impl<S: Store> Machine<S> {
    /// Pins the state as it is and makes it ready to be sent.
    pub fn snapshot(&self) -> SnapshotSource<S::View> {
        let mark = self.mark();
        let taken = self.taken_now().is_some() && !planted::on(Bug::TakenInSnapshot);
        SnapshotSource {
            view: self.store().view(),
            header: SnapshotHeader {
                state: self.state().clone(),
                lanes: if planted::on(Bug::LanesNotInSnapshot) { 0 } else { self.lanes() as u64 },
                idempotency_records: mark.idempotency_records,
                fingerprint: mark.fingerprint,
                taken,
            },
            tablets: if taken { self.served() } else { self.tablets().clone() },
            lanes: None,
        }
    }
}

/// A chunk being filled.
struct Filling {
    items: BytesMut,
    after: BytesMut,
    max_bytes: usize,
}

impl Filling {
    /// Adds an item if there is room for it; a first item always has room.
    fn add(&mut self, section: u8, cursor: &[u8], item: &[&[u8]]) -> bool {
        let bytes = 1 + item.iter().map(|part| part.len() + 4).sum::<usize>();
        if !self.items.is_empty() && self.items.len() + bytes > self.max_bytes {
            return false;
        }
        self.items.put_u8(section);
        for part in item {
            crate::codec::encode_bytes(part, &mut self.items);
        }
        self.after.clear();
        self.after.put_u8(section);
        self.after.put_slice(cursor);
        true
    }
}

impl<V: Read> SnapshotSource<V> {
    /// What the snapshot holds.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Which snapshot it is.
    pub fn id(&self) -> SnapshotId {
        self.header.id()
    }

    /// The chunk after `cursor`, of about `max_bytes` (more only if a single item is larger). `None` if the cursor is
    /// not one of this snapshot.
    pub fn chunk(&mut self, cursor: Option<&Bytes>, max_bytes: usize) -> Result<Option<Chunk>, StoreError> {
        let (section, within) = match cursor {
            None => (LANES, None),
            Some(cursor) => match cursor.split_first() {
                Some((section @ LANES..=IDEMPOTENCY, within)) => (*section, Some(within)),
                _ => return Ok(None),
            },
        };
        let mut filling = Filling {
            items: BytesMut::with_capacity(max_bytes.min(MOST_ROOM) + ROOM_FOR_LAST + ROOM_BESIDE_ITEMS),
            after: BytesMut::from(cursor.map_or(&[][..], |cursor| &cursor[..])),
            max_bytes,
        };
        let mut full = false;
        if section == LANES {
            let Ok(after) = within.filter(|within| !within.is_empty()).map(parse_lane_cursor).transpose() else {
                return Ok(None);
            };
            full = self.fill_lanes(after, &mut filling)?;
        }
        for (kind, space) in [(VALUES, Space::Values), (IDEMPOTENCY, Space::Idempotency)] {
            if full || section > kind {
                continue;
            }
            let within = if section == kind { within } else { None };
            layout::walk(&self.view, &self.tablets, space, within, &mut |rest, value| {
                full = !filling.add(kind, rest, &[rest, value]);
                if full { Visit::Stop } else { Visit::Continue }
            })?;
        }
        Ok(Some(Chunk {
            id: self.id(),
            header: cursor.is_none().then(|| self.header.clone()),
            from: cursor.cloned(),
            after: filling.after.freeze(),
            items: filling.items.freeze(),
            done: !full,
        }))
    }

    /// Adds lanes; true if the chunk is full.
    fn fill_lanes(&mut self, after: Option<LaneKey>, filling: &mut Filling) -> Result<bool, StoreError> {
        if planted::on(Bug::LanesNotInSnapshot) {
            return Ok(false);
        }
        if self.lanes.is_none() {
            self.lanes = Some(Lanes::load(&self.view, self.header.state.group)?);
        }
        let mut encoded = BytesMut::new();
        for lane in self.lanes.iter().flat_map(|lanes| lanes.after(after)) {
            encoded.clear();
            lane.encode(&mut encoded);
            if !filling.add(LANES, &lane_cursor(lane.key), &[&encoded]) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn lane_cursor(key: LaneKey) -> [u8; 20] {
    let mut cursor = [0; 20];
    cursor[..16].copy_from_slice(&key.0.0.to_be_bytes());
    cursor[16..].copy_from_slice(&key.1.to_be_bytes());
    cursor
}

fn parse_lane_cursor(mut cursor: &[u8]) -> Result<LaneKey, DecodeError> {
    let session = cursor.try_get_u128().map_err(|_| DecodeError::Short("lane cursor"))?;
    let lane = cursor.try_get_u32().map_err(|_| DecodeError::Short("lane cursor"))?;
    if cursor.is_empty() {
        Ok((crate::types::SessionId(session), lane))
    } else {
        Err(DecodeError::Trailing(cursor.len()))
    }
}

/// Why a snapshot was not taken further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The store failed. Nothing of the chunk was taken; it may be added again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chunk's content does not read. Nothing of it was taken.
    #[error("a chunk does not read: {0}")]
    Chunk(#[from] DecodeError),
    /// The chunk belongs to another snapshot than the ones before. Nothing of it was taken.
    #[error("a chunk of another snapshot")]
    Other,
    /// The chunk does not follow the last one. Nothing of it was taken.
    #[error("a chunk out of order")]
    Order,
    /// Not every chunk is there.
    #[error("the snapshot is not complete")]
    Incomplete,
    /// All chunks are there, but not all that the header names. Only abandoning it is left.
    #[error("the snapshot does not hold what its header says")]
    Mismatch,
    /// The replica has applied as much already.
    #[error("the replica has applied slot {0}, no less than the snapshot")]
    Stale(Slot),
}

/// How far a snapshot was received: durable with what was received.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Progress {
    name: ReplicaName,
    tablet: TabletId,
    header: Option<SnapshotHeader>,
    cursor: Option<Bytes>,
    lane_parts: u32,
    lanes: u64,
    keys: u64,
    bytes: u64,
    idempotency_records: u64,
    done: bool,
}

codec_struct!(Progress { name, tablet, header, cursor, lane_parts, lanes, keys, bytes, idempotency_records, done });

impl Progress {
    fn parse(record: Bytes) -> Result<Self, StoreError> {
        let what = "the record of a snapshot being received";
        Self::from_all(unversioned(record, FORMAT, what)?).map_err(undecodable(what))
    }
}

/// Of how many bytes of chunks a sink holds the values until it loads them into the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// So many are loaded. Zero: nothing is held.
    pub most: usize,
    /// Those of fewer are written in a batch: they are not worth a table of their own.
    pub least: usize,
}

/// Values that are being loaded, and the progress to be recorded once they are.
struct Batched {
    runs: Vec<Run>,
    progress: Progress,
}

/// Values whose keys rise.
struct Run {
    pairs: Arc<[(Vec<u8>, Bytes)]>,
    /// None once its end was waited for.
    loading: Option<Loading>,
}

/// Values parted where their keys fall: in a range that goes around the ring the first positions come last.
fn runs(held: &[(Vec<u8>, Bytes)]) -> impl Iterator<Item = &[(Vec<u8>, Bytes)]> {
    held.chunk_by(|(before, _), (after, _)| before < after)
}

/// Receives a snapshot into a fresh tablet, beside whatever the replica has.
pub struct SnapshotSink<S: Store> {
    store: S,
    progress: Progress,
    /// Values that `progress` counts and the store does not have, by their store keys.
    held: Vec<(Vec<u8>, Bytes)>,
    /// Bytes of the chunks whose values are held.
    held_bytes: usize,
    /// What the store is loading meanwhile.
    loading: Option<Batched>,
    /// A crash would not bring back a store that does not know of the tablet.
    durable: bool,
}

impl<S: Store> SnapshotSink<S> {
    /// Begins to receive a snapshot for the replica `name` into the unused tablet `tablet`. One begun before for the same
    /// group is abandoned.
    pub fn begin(store: S, name: ReplicaName, tablet: TabletId) -> Result<Self, StoreError> {
        let mut batch = S::Batch::default();
        clear(&store, &mut batch, name.group)?;
        let progress = Progress {
            name,
            tablet,
            header: None,
            cursor: None,
            lane_parts: 0,
            lanes: 0,
            keys: 0,
            bytes: 0,
            idempotency_records: 0,
            done: false,
        };
        batch.put(&layout::incoming_record(name.group), &versioned(FORMAT, &progress));
        note_number(&mut batch, tablet);
        store.write(batch)?;
        Ok(Self { store, progress, held: Vec::new(), held_bytes: 0, loading: None, durable: false })
    }

    /// Goes on after a restart where the store says; `None` if no snapshot was being received.
    pub fn resume(store: S, group: GroupId) -> Result<Option<Self>, StoreError> {
        let Some(record) = store.get(&layout::incoming_record(group))? else { return Ok(None) };
        let progress = Progress::parse(record)?;
        Ok(Some(Self { store, progress, held: Vec::new(), held_bytes: 0, loading: None, durable: false }))
    }

    /// The groups for which a snapshot is being received.
    pub fn list(store: &S) -> Result<Vec<ReplicaName>, StoreError> {
        let mut names = Vec::new();
        layout::each_incoming(store, |_, record| {
            names.push(Progress::parse(Bytes::copy_from_slice(record))?.name);
            Ok(())
        })?;
        Ok(names)
    }

    /// For which replica.
    pub fn name(&self) -> ReplicaName {
        self.progress.name
    }

    /// The operation that moves what the snapshot leaves out, once the first chunk is there.
    pub fn left_out(&self) -> Option<OperationId> {
        self.progress.header.as_ref().and_then(SnapshotHeader::left_out)
    }

    /// Which snapshot, once the first chunk is there.
    pub fn id(&self) -> Option<SnapshotId> {
        self.progress.header.as_ref().map(SnapshotHeader::id)
    }

    /// What to ask for next; `None`: the first chunk.
    pub fn cursor(&self) -> Option<&Bytes> {
        self.progress.cursor.as_ref()
    }

    /// Whether every chunk is there.
    pub fn is_done(&self) -> bool {
        self.progress.done
    }

    /// Whether it holds values that the store does not have.
    pub fn holds(&self) -> bool {
        !self.held.is_empty() || self.loading.is_some()
    }

    /// Takes a chunk, in one store batch with the progress. Tells whether it was the last. After an error nothing of it
    /// was taken.
    pub fn add(&mut self, chunk: &Chunk) -> Result<bool, SnapshotError> {
        self.add_holding(chunk, Holding { most: 0, least: usize::MAX })
    }

    /// The same, but its values and the progress may be held until there are more.
    pub fn add_holding(&mut self, chunk: &Chunk, holding: Holding) -> Result<bool, SnapshotError> {
        let (held, held_bytes) = (self.held.len(), self.held_bytes);
        let added = self.take(chunk, holding);
        if added.is_err() {
            self.held.truncate(held);
            self.held_bytes = held_bytes;
        }
        added
    }

    fn take(&mut self, chunk: &Chunk, holding: Holding) -> Result<bool, SnapshotError> {
        let header = self.progress.header.as_ref().or(chunk.header.as_ref()).ok_or(SnapshotError::Order)?;
        if chunk.id != header.id() || chunk.id.group != self.progress.name.group {
            return Err(SnapshotError::Other);
        }
        let first = self.progress.header.is_none();
        if self.progress.done || chunk.from != self.progress.cursor || first != chunk.header.is_some() {
            return Err(SnapshotError::Order);
        }
        if chunk.after.is_empty() && !chunk.done {
            return Err(SnapshotError::Order);
        }
        let mut next = self.progress.clone();
        let mut batch = S::Batch::default();
        take_items(&mut next, header, chunk.items.clone(), &mut batch, &mut self.held)?;
        self.held_bytes += chunk.items.len();
        next.header = Some(header.clone());
        next.cursor = Some(chunk.after.clone());
        next.done = chunk.done;
        let settles = self.settles(0, chunk.done, holding);
        let is_worth_a_load = self.held_bytes >= holding.least && !self.held.is_empty();
        // Nothing comes after the last chunk that a load could go on beside.
        let loads_beside = is_worth_a_load && !chunk.done;
        if settles {
            // The record of the progress follows what is loaded, so there is but one load at a time.
            self.await_loaded()?;
            if is_worth_a_load {
                self.take_number_for_good()?;
            }
            if is_worth_a_load && !loads_beside {
                runs(&self.held).try_for_each(|run| self.store.load(run))?;
            } else if !is_worth_a_load {
                self.held.iter().for_each(|(key, value)| batch.put(key, value));
            }
            if !loads_beside {
                batch.put(&layout::incoming_record(next.name.group), &versioned(FORMAT, &next));
            }
        }
        self.store.write(batch)?;
        if settles {
            if loads_beside {
                self.begin_load(next.clone());
            }
            self.held.clear();
            self.held_bytes = 0;
        }
        self.progress = next;
        Ok(chunk.done)
    }

    /// Whether with `bytes` more, or as these are the last, what is held goes to the store.
    fn settles(&self, bytes: usize, done: bool, holding: Holding) -> bool {
        done || self.held_bytes + bytes >= holding.most
    }

    /// Whether the chunk could be taken only once the store has loaded what it is loading.
    pub fn must_wait(&self, chunk: &Chunk, holding: Holding) -> bool {
        let mut loading = self.loading.iter().flat_map(|batched| &batched.runs).filter_map(|run| run.loading.as_ref());
        loading.any(Loading::goes_on) && self.settles(chunk.items.len(), chunk.done, holding)
    }

    /// What is loaded may survive a crash that the record does not, and then the tablet's number would be used again.
    fn take_number_for_good(&mut self) -> Result<(), StoreError> {
        if !self.durable {
            self.store.flush()?;
            self.durable = true;
        }
        Ok(())
    }

    /// Has the store load what is held. Doing so twice is as good as once.
    fn begin_load(&mut self, progress: Progress) {
        let runs = runs(&self.held).map(|run| {
            let pairs: Arc<[_]> = run.into();
            let loading = self.store.load_beside(pairs.clone());
            Run { pairs, loading: Some(loading) }
        });
        self.loading = Some(Batched { runs: runs.collect(), progress });
    }

    /// Waits until what is being loaded is loaded, and records it. After an error the next call tries again.
    fn await_loaded(&mut self) -> Result<(), StoreError> {
        let Some(batched) = &mut self.loading else { return Ok(()) };
        for run in &mut batched.runs {
            match run.loading.take() {
                Some(loading) => loading.wait()?,
                None => self.store.load(&run.pairs)?,
            }
        }
        let mut batch = S::Batch::default();
        batch.put(&layout::incoming_record(batched.progress.name.group), &versioned(FORMAT, &batched.progress));
        self.store.write(batch)?;
        self.loading = None;
        Ok(())
    }

    /// Puts the snapshot in the place of whatever the replica had, in one batch. A [`Machine`] of the replaced state must
    /// not be used after this, nor its tablets be read.
    pub fn finish(self) -> Result<Machine<S>, SnapshotError> {
        let Progress { name, tablet, header: Some(header), done, .. } = &self.progress else {
            return Err(SnapshotError::Incomplete);
        };
        let torn = planted::on(Bug::SnapshotNotAtomic);
        if !done && !torn {
            return Err(SnapshotError::Incomplete);
        }
        let (name, tablet) = (*name, *tablet);
        let progress = &self.progress;
        let expected = (header.state.keys, header.state.bytes, header.idempotency_records);
        // Estimates are taken over as they are: every replica must go on from the same.
        let fits = !header.state.counted
            || header.taken
            || (progress.keys, progress.bytes, progress.idempotency_records) == expected;
        if (progress.lanes != header.lanes || !fits) && !torn {
            return Err(SnapshotError::Mismatch);
        }
        let mut batch = S::Batch::default();
        let mut parted = Vec::new();
        if let Some((old, _)) = read_records(&self.store, name.group)? {
            if old.name == name && old.state.applied >= header.state.applied {
                return Err(SnapshotError::Stale(old.state.applied));
            }
            // What is kept for a gainer beside this replica has nothing to do with how this replica goes on.
            let pieces = old.pieces();
            if old.name == name {
                parted = old.parted;
            }
            let kept = TabletMap(parted.iter().flat_map(|parted| &parted.tablets.0).cloned().collect());
            // The record of what is being received is still there, and keeps the fresh tablet.
            release(&self.store, &mut batch, &pieces, &[(name.group, Some(&kept))])?;
        }
        for (start, end) in [layout::replica_span(name.group), layout::incoming_span(name.group)] {
            batch.delete_range(&start, &end);
        }
        let mut parts = Vec::with_capacity(progress.lane_parts as usize);
        for part in 0..progress.lane_parts {
            let bytes = self.store.get(&layout::incoming_lanes(name.group, part))?;
            parts.push(bytes.ok_or_else(|| damaged("lanes of a snapshot are missing"))?);
        }
        let lanes = Lanes::adopt(parts, &mut batch, name.group, header.state.applied)?;
        if lanes.len() as u64 != header.lanes && !torn {
            return Err(SnapshotError::Mismatch);
        }
        let taken = header.left_out();
        let state = header.state.clone();
        let mark = Mark::new(&state, header.idempotency_records, header.fingerprint);
        let frame = Frame { name, tablets: TabletMap::single(state.range.clone(), tablet), parted, taken, state };
        put_records(&mut batch, &frame, &mark);
        self.store.write(batch)?;
        let mut machine = Machine::assembled(self.store, frame, &mark, lanes);
        if machine.find_next_expiry().is_err() {
            // The switch is made; that the earliest deadline is not known must not hide it.
            machine.set_next_expiry(Some(LogTime(0)));
        }
        Ok(machine)
    }

    /// Gives up: removes all that was received.
    pub fn abandon(mut self) -> Result<(), StoreError> {
        // Its end is waited for: nothing must come after what is removed.
        self.loading = None;
        let mut batch = S::Batch::default();
        clear(&self.store, &mut batch, self.progress.name.group)?;
        self.store.write(batch)
    }
}

/// Removes whatever was received of a snapshot for `group`.
fn clear<S: Store>(store: &S, batch: &mut S::Batch, group: GroupId) -> Result<(), StoreError> {
    if let Some(record) = store.get(&layout::incoming_record(group))? {
        let (start, end) = layout::tablet_span(Progress::parse(record)?.tablet);
        batch.drop_range(&start, &end);
        let (start, end) = layout::incoming_span(group);
        batch.delete_range(&start, &end);
    }
    Ok(())
}

/// Puts a chunk's items where they belong, its values aside, and counts them.
fn take_items(
    progress: &mut Progress,
    header: &SnapshotHeader,
    mut items: Bytes,
    batch: &mut impl Batch,
    values: &mut Vec<(Vec<u8>, Bytes)>,
) -> Result<(), DecodeError> {
    let mut received_lanes = lanes::begin_record();
    let lanes_before = progress.lanes;
    while items.has_remaining() {
        match u8::decode(&mut items)? {
            LANES => {
                let lane = lanes::Lane::from_all(Bytes::decode(&mut items)?)?;
                lanes::append(&lane, &mut received_lanes);
                progress.lanes += 1;
            }
            VALUES => values.push(take_value(progress, header, &mut items, batch)?),
            IDEMPOTENCY => take_record(progress, header, &mut items, batch)?,
            tag => return Err(DecodeError::Tag { what: "snapshot item", tag: u64::from(tag) }),
        }
    }
    if progress.lanes > lanes_before {
        batch.put(&layout::incoming_lanes(progress.name.group, progress.lane_parts), &received_lanes);
        progress.lane_parts += 1;
    }
    Ok(())
}

fn take_value(
    progress: &mut Progress,
    header: &SnapshotHeader,
    items: &mut Bytes,
    batch: &mut impl Batch,
) -> Result<(Vec<u8>, Bytes), DecodeError> {
    let position = Position(Bytes::decode(items)?);
    let record = Bytes::decode(items)?;
    let key = position.key().filter(|_| header.state.range.contains(&position));
    let key = key.ok_or(DecodeError::Invalid("a key that the snapshot's range does not hold"))?;
    let (head, value_at) = kv::Head::parse(&record).ok_or(DecodeError::Invalid("a value record"))?;
    if let Some(deadline) = head.deadline {
        let at = (deadline, head.version);
        batch.put(&layout::deadline_key(progress.tablet, Space::Deadlines, at, &position.0), &[]);
    }
    progress.keys += 1;
    progress.bytes += kv::entry_bytes(&key, record.len() - value_at);
    Ok((layout::in_space(progress.tablet, Space::Values, &position.0), record))
}

fn take_record(
    progress: &mut Progress,
    header: &SnapshotHeader,
    items: &mut Bytes,
    batch: &mut impl Batch,
) -> Result<(), DecodeError> {
    let rest = Bytes::decode(items)?;
    let bytes = Bytes::decode(items)?;
    let key = idempotency::parse_rest(&rest).map(|(key, ..)| key);
    key.filter(|key| header.state.range.contains(&key.position()))
        .ok_or(DecodeError::Invalid("an idempotency key that the snapshot's range does not hold"))?;
    let record =
        idempotency::Record::parse(bytes.clone()).map_err(|_| DecodeError::Invalid("an idempotency record"))?;
    batch.put(&layout::in_space(progress.tablet, Space::Idempotency, &rest), &bytes);
    batch.put(&idempotency::index_key(progress.tablet, (record.deadline, record.version), &rest), &[]);
    progress.idempotency_records += 1;
    Ok(())
}

/// The tablet that a snapshot is being received into.
pub(super) fn incoming_tablet(record: &[u8]) -> Result<TabletId, StoreError> {
    Ok(Progress::parse(Bytes::copy_from_slice(record))?.tablet)
}

/// Records that a tablet's number is given out, in the batch that first refers to it.
pub(super) fn note_number(batch: &mut impl Batch, tablet: TabletId) {
    batch.put(&layout::numbers_record(), &versioned(FORMAT, &tablet));
}

/// The highest tablet number ever given out: a node's allocator begins above it.
pub fn highest_tablet(read: &impl Read) -> Result<TabletId, StoreError> {
    let what = "the record of tablet numbers";
    let mut highest = match read.get(&layout::numbers_record())? {
        Some(record) if !planted::on(Bug::TabletNumberReused) => {
            TabletId::from_all(unversioned(record, FORMAT, what)?).map_err(undecodable(what))?
        }
        Some(_) | None => TabletId(0),
    };
    layout::each_replica(read, |_, record| {
        let frame = Frame::parse(Bytes::copy_from_slice(record))?;
        highest = frame.pieces().0.iter().map(|piece| piece.tablet).fold(highest, TabletId::max);
        Ok(())
    })?;
    layout::each_incoming(read, |_, record| {
        highest = highest.max(incoming_tablet(record)?);
        Ok(())
    })?;
    Ok(highest)
}
