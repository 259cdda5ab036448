//! The log engine: preallocated segments written front to back.

use super::directory::{Directory, MarkFile, PAGE_BYTES, SegmentFile};
use super::format::{
    FRAME_HEADER_BYTES, MAX_RECORD_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES,
    SegmentHeader, aligned, frame_crc,
};
use super::pool::Pool;
use super::reader::{LogReader, read_run};
use super::state::{Extent, Place, Segment, State};
use super::{Log, LogError, LogSettings, Space, recovery};
use bytes::{BufMut, BytesMut};
use parking_lot::Mutex;
use scatter_core::codec::Encode;
use scatter_core::durable::{Recovered, Write};
use scatter_core::types::GroupId;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// A buffer that a large batch made bigger than this is not kept.
const KEEP_BUFFER_BYTES: usize = 1 << 20;

/// The segment being appended to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) file: Arc<SegmentFile>,
    pub(super) header: SegmentHeader,
    /// Bytes of the file that hold what was appended; the rest of it is in the pending buffer.
    pub(super) written: usize,
}

/// A run to be written anew at the end of the log.
#[derive(Clone, Copy, Debug)]
struct Rewrite {
    group: GroupId,
    first: u64,
    segment: u32,
}

/// The consensus log over preallocated segments. See the module's page.
#[derive(Debug)]
pub struct SegmentLog {
    pub(super) settings: LogSettings,
    /// Shared with readers.
    pub(super) state: Arc<Mutex<State>>,
    pub(super) pool: Pool,
    pub(super) mark: MarkFile,
    /// `None` only until the first segment is begun.
    pub(super) active: Option<Active>,
    /// The highest segment id ever seen.
    pub(super) last_id: u32,
    /// The last record's sequence and checksum.
    pub(super) sequence: u64,
    pub(super) chain: u32,
    /// Every record up to here is on disk.
    pub(super) durable: u64,
    /// Records that are not in the file yet.
    pub(super) pending: BytesMut,
    /// Offset and length of each frame of the record under construction.
    frames: Vec<(usize, usize)>,
    /// Segments that nothing needs once the newest checkpoint is synced.
    freeing: Vec<Arc<SegmentFile>>,
    rewrites: VecDeque<Rewrite>,
    /// After an error of the disk nothing more is promised.
    failed: bool,
    /// Last, so that the lock is released when all else is closed.
    pub(super) directory: Arc<Directory>,
}

impl SegmentLog {
    /// Opens the log in `path`, creating it if there is none, and tells what it remembers. All of that is on disk.
    pub fn recover(path: &Path, settings: LogSettings) -> Result<(Self, Recovered), LogError> {
        recovery::recover(path, settings)
    }

    pub(super) fn new(
        settings: LogSettings,
        directory: Arc<Directory>,
        mark: MarkFile,
        pool: Pool,
        state: State,
    ) -> Self {
        Self {
            settings,
            state: Arc::new(Mutex::new(state)),
            pool,
            mark,
            active: None,
            last_id: 0,
            sequence: 0,
            chain: 0,
            durable: 0,
            pending: BytesMut::new(),
            frames: Vec::new(),
            freeing: Vec::new(),
            rewrites: VecDeque::new(),
            failed: false,
            directory,
        }
    }

    /// Reads entries back, from any thread.
    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader { state: self.state.clone() }
    }

    /// Bytes of all files.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.directory.taken_bytes()
    }

    fn append_writes(&mut self, writes: &[Write], may_use_reserve: bool) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed("an earlier error of the disk".to_owned()));
        }
        // Ordinary batches leave what is left of the room to those that free some.
        if !may_use_reserve && !self.pool.has_reserve() && self.freeing.is_empty() {
            self.pool.refill();
            if !self.pool.has_reserve() {
                return Err(LogError::NoSpace);
            }
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.state.lock().check(writes)?;
        let start = self.pending.len();
        self.encode_writes(writes);
        let base = self.place(start, may_use_reserve)?;
        let active = self.active.as_ref().map_or(0, |active| active.header.id);
        let mut state = self.state.lock();
        for (write, (offset, length)) in writes.iter().zip(&self.frames) {
            let place = Place {
                sequence: self.sequence,
                segment: active,
                offset: to_u32(base + offset),
                length: to_u32(*length),
            };
            state.apply(write, place);
        }
        Ok(())
    }

    /// Appends a record without frames.
    pub(super) fn append_plain(&mut self, kind: RecordKind, body: &[u8]) -> Result<(), LogError> {
        let start = self.pending.len();
        encode_plain(&mut self.pending, kind, body);
        self.place(start, true).map(drop)
    }

    fn encode_writes(&mut self, writes: &[Write]) {
        let start = self.pending.len();
        let buffer = &mut self.pending;
        buffer.put_bytes(0, RECORD_HEADER_BYTES);
        buffer.put_u8(RecordKind::Writes.tag());
        self.frames.clear();
        for write in writes {
            let frame = buffer.len();
            buffer.put_bytes(0, FRAME_HEADER_BYTES);
            write.encode(buffer);
            let body = frame + FRAME_HEADER_BYTES;
            let (length, crc) = (to_u32(buffer.len() - body), frame_crc(&buffer[body..]));
            buffer[frame..frame + 4].copy_from_slice(&length.to_le_bytes());
            buffer[frame + 4..frame + 8].copy_from_slice(&crc.to_le_bytes());
            self.frames.push((frame - start, buffer.len() - frame));
        }
    }

    /// Gives the record encoded at `start` of the pending buffer its place in the log, beginning a segment if it does not
    /// fit, and completes it. Returns where in its segment it starts.
    fn place(&mut self, start: usize, may_use_reserve: bool) -> Result<usize, LogError> {
        let payload = self.pending.len() - start - RECORD_HEADER_BYTES;
        let length = aligned(RECORD_HEADER_BYTES + payload);
        if length > MAX_RECORD_BYTES {
            self.pending.truncate(start);
            return Err(LogError::TooLarge(length));
        }
        self.pending.resize(start + length, 0);
        let fits = |active: &Active| (active.written + start + length) as u64 <= active.file.capacity;
        let start = if self.active.as_ref().is_some_and(fits) {
            start
        } else {
            let record = self.pending.split_off(start);
            self.begin_segment(record.len(), may_use_reserve)?;
            let start = self.pending.len();
            self.pending.unsplit(record);
            start
        };
        self.complete(start, payload);
        Ok(self.active.as_ref().map_or(0, |active| active.written) + start)
    }

    /// Writes the header of the record whose payload is in place at `start` of the pending buffer.
    fn complete(&mut self, start: usize, payload: usize) {
        self.sequence += 1;
        let header = RecordHeader {
            length: to_u32(payload),
            chain: self.chain,
            tag: self.active.as_ref().map_or(0, |active| active.header.tag()),
            sequence: self.sequence,
            mark: self.durable,
        };
        self.chain = header.write(&mut self.pending[start..]);
    }

    /// Closes the active segment, synced, and begins another with room for `length` bytes after its checkpoint. Refuses
    /// before it changes anything.
    pub(super) fn begin_segment(&mut self, length: usize, may_use_reserve: bool) -> Result<(), LogError> {
        let (mut record, some_are_dead) = {
            let state = self.state.lock();
            let mut record = BytesMut::new();
            encode_plain(&mut record, RecordKind::Checkpoint, &state.checkpoint());
            (record, state.segments.values().any(|segment| segment.live_bytes == 0))
        };
        let payload = record.len() - RECORD_HEADER_BYTES;
        record.resize(aligned(record.len()), 0);
        let bytes = (SEGMENT_HEADER_BYTES + record.len() + length) as u64;
        if bytes > u64::from(u32::MAX) {
            return Err(LogError::TooLarge(length));
        }
        // If a segment becomes free by this, it will take the reserve's place.
        let file = self.pool.take(bytes, may_use_reserve || some_are_dead)?;
        self.close_active()?;
        // The checkpoint again: closing has settled where the closed segment ends.
        record.truncate(RECORD_HEADER_BYTES + 1);
        let mut state = self.state.lock();
        record.put_slice(&state.checkpoint());
        record.resize(aligned(RECORD_HEADER_BYTES + payload), 0);
        self.last_id += 1;
        let header = SegmentHeader {
            log: self.mark.mark.log,
            id: self.last_id,
            first_sequence: self.sequence + 1,
            chain: self.chain,
        };
        let extent = Extent {
            id: header.id,
            first_sequence: header.first_sequence,
            last_sequence: self.sequence,
            end: to_u32(SEGMENT_HEADER_BYTES),
            chain: self.chain,
        };
        let dead = state.segments.extract_if(.., |_, old| old.live_bytes == 0);
        self.freeing.extend(dead.map(|(_, old)| old.file));
        state.segments.insert(header.id, Segment { file: file.clone(), extent, live_bytes: 0 });
        state.written = (header.id, 0);
        drop(state);
        self.pending.put_slice(&header.encode());
        self.pending.unsplit(record);
        self.active = Some(Active { file, header, written: 0 });
        self.complete(SEGMENT_HEADER_BYTES, payload);
        self.choose_rewrites();
        Ok(())
    }

    /// Writes and syncs what the active segment still lacks and notes its extent.
    fn close_active(&mut self) -> Result<(), LogError> {
        self.write_pending()?;
        let Some(active) = &self.active else { return Ok(()) };
        if self.durable < self.sequence {
            active.file.sync().map_err(|error| fatal(&mut self.failed, error))?;
            self.durable = self.sequence;
        }
        let mut state = self.state.lock();
        if let Some(segment) = state.segments.get_mut(&active.header.id) {
            segment.extent.last_sequence = self.sequence;
            segment.extent.end = to_u32(active.written);
            segment.extent.chain = self.chain;
        }
        Ok(())
    }

    /// Moves the pending bytes into the file.
    fn write_pending(&mut self) -> Result<(), LogError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.pending.is_empty() {
            return Ok(());
        }
        let end = active.written + self.pending.len();
        // Up to the end of the page: a page that is written whole need not be read first, should the cache have lost it.
        let capacity = usize::try_from(active.file.capacity).unwrap_or(usize::MAX);
        self.pending.resize(end.next_multiple_of(PAGE_BYTES).min(capacity) - active.written, 0);
        let written = active.file.write_at(&self.pending, active.written as u64);
        written.map_err(|error| fatal(&mut self.failed, error))?;
        active.written = end;
        self.state.lock().written = (active.header.id, to_u32(active.written));
        self.pending.clear();
        if self.pending.capacity() > KEEP_BUFFER_BYTES {
            self.pending = BytesMut::new();
        }
        Ok(())
    }

    /// Picks the segments that are nearly empty and old enough to be emptied.
    fn choose_rewrites(&mut self) {
        if !self.rewrites.is_empty() {
            return;
        }
        let state = self.state.lock();
        let old_enough = self.last_id.saturating_sub(self.settings.rewrite_after);
        for (id, segment) in state.segments.range(..old_enough) {
            if segment.live_bytes.saturating_mul(100)
                <= self.settings.segment_bytes.saturating_mul(self.settings.rewrite_percent)
            {
                let runs = state.runs_in(*id).into_iter();
                self.rewrites.extend(runs.map(|(group, first)| Rewrite { group, first, segment: *id }));
            }
        }
    }

    /// Appends one run anew. Returns its bytes, zero if it is not live where it was.
    fn rewrite(&mut self, rewrite: Rewrite) -> Result<u64, LogError> {
        let found = {
            let state = self.state.lock();
            let run = state.run_from(rewrite.group, rewrite.first).filter(|run| run.segment == rewrite.segment);
            run.and_then(|run| Some((run, state.segments.get(&run.segment)?.file.clone())))
        };
        let Some((run, file)) = found else { return Ok(0) };
        let entries = read_run(&run, &file)?;
        drop(file);
        let Some((first, ballot)) = entries.first().map(|(slot, ballot, _)| (*slot, *ballot)) else { return Ok(0) };
        let entries = entries.into_iter().map(|(_, _, entry)| entry).collect();
        self.append_writes(&[Write::Accept { group: rewrite.group, ballot, first, entries }], false)?;
        Ok(u64::from(run.length))
    }
}

impl Log for SegmentLog {
    fn append(&mut self, writes: &[Write]) -> Result<(), LogError> {
        self.append_writes(writes, false)
    }

    fn append_reserved(&mut self, writes: &[Write]) -> Result<(), LogError> {
        self.append_writes(writes, true)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Failed("an earlier error of the disk".to_owned()));
        }
        self.write_pending()?;
        let Some(active) = &self.active else { return Ok(()) };
        if self.durable == self.sequence {
            return Ok(());
        }
        active.file.sync().map_err(|error| fatal(&mut self.failed, error))?;
        self.durable = self.sequence;
        // From the first sync of a segment on, the mark proves that the segment was begun.
        if self.mark.mark.durable < active.header.first_sequence {
            self.mark.raise(self.durable).map_err(|error| fatal(&mut self.failed, error))?;
        }
        for file in self.freeing.drain(..) {
            self.pool.give_back(file);
        }
        Ok(())
    }

    fn tidy(&mut self) -> Result<(), LogError> {
        self.pool.refill();
        let mut rewritten = 0;
        while rewritten < self.settings.rewrite_step_bytes
            && let Some(rewrite) = self.rewrites.pop_front()
        {
            match self.rewrite(rewrite) {
                Ok(bytes) => rewritten += bytes,
                Err(error) if error.is_refusal() => {
                    self.rewrites.push_front(rewrite);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        // Not synced, but readable.
        self.write_pending()
    }

    fn settle(&mut self) -> Result<(), LogError> {
        self.mark.raise(self.durable).map_err(|error| fatal(&mut self.failed, error))
    }

    fn space(&self) -> Space {
        self.pool.space()
    }
}

/// Notes that the disk failed in the middle of something: then even "no space" is no mere refusal.
fn fatal(failed: &mut bool, error: LogError) -> LogError {
    *failed = true;
    match error {
        LogError::NoSpace => LogError::Failed("the disk has no space for a file that was prepared".to_owned()),
        other => other,
    }
}

fn encode_plain(buffer: &mut BytesMut, kind: RecordKind, body: &[u8]) {
    buffer.put_bytes(0, RECORD_HEADER_BYTES);
    buffer.put_u8(kind.tag());
    buffer.put_slice(body);
}

/// For offsets and lengths inside one segment, which is under 4 GiB.
fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
