//! Giving back the space of what was dropped for good ([`Batch::drop_range`]), at a bounded rate.
//!
//! ```text
//! write(batch that drops)  -> hidden from every later read; the range waits here
//! give_back()              -> flush: a crash cannot bring back a range with holes in it
//!                             files wholly inside go, a slice at a time, with a pause after each
//! ```
//!
//! What lies in other files, at the edges of the range or on the first level, goes when RocksDB compacts them. What waits is
//! not recorded: after a restart it is found by what nobody refers to ([`scatter_core::group::unused_spans`]). That it may
//! happen at any time rests on one thing: nobody ever writes in the range again.
//!
//! The deepest level goes first. So no slice takes more than what it names and the little that lies above it, and the
//! record of the removal goes last of all. Files at the edges were covered by it: it is written once more.

use super::{RocksBatch, RocksStore, store_error};
use parking_lot::Mutex;
use rocksdb::LiveFile;
use scatter_core::group::StoreSpan;
use scatter_core::store::{Batch, Store, StoreError};
use std::cmp::Reverse;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Ranges that wait. One that finds no room is left to compactions, and to the next start.
const MOST_WAITING: usize = 1 << 14;
/// How often a range is looked at again while files in it stay because a compaction reads them; then it is that compaction's.
const MOST_LOOKS: u32 = 8;
/// How often it is looked whether something waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Slices in a second. Fewer would be felt, more would each cost a write of RocksDB's own records.
const SLICES_PER_SECOND: u64 = 4;

/// A range that was dropped.
#[derive(Debug)]
struct Dropped {
    span: StoreSpan,
    /// Views of before this still read it.
    sequence: u64,
    /// How often files were found in it.
    looks: u32,
}

/// All that was dropped and may still take space.
#[derive(Default)]
pub(super) struct Waiting {
    ranges: Mutex<Vec<Dropped>>,
    bytes: AtomicU64,
    given_back_bytes: AtomicU64,
}

impl Waiting {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn given_back_bytes(&self) -> u64 {
        self.given_back_bytes.load(Ordering::Relaxed)
    }

    fn add(&self, ranges: impl IntoIterator<Item = Dropped>) {
        let mut waiting = self.ranges.lock();
        let room = MOST_WAITING.saturating_sub(waiting.len());
        waiting.extend(ranges.into_iter().take(room));
    }

    fn gone(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.given_back_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Files of one level, side by side, that go together.
#[derive(Debug)]
struct Slice {
    level: i32,
    first: Vec<u8>,
    last: Vec<u8>,
    bytes: u64,
    /// The range they lie in, by its place among those looked at.
    range: usize,
}

/// Starts the thread that gives back at most so many bytes a second.
pub fn start(store: RocksStore, bytes_per_second: u64) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("drop".to_owned()).spawn(move || {
        let slice_bytes = bytes_per_second / SLICES_PER_SECOND;
        let mut pause = |bytes| std::thread::sleep(time_for(bytes, bytes_per_second));
        loop {
            std::thread::sleep(LOOK_EVERY);
            if let Err(error) = store.give_back(slice_bytes, &mut pause) {
                tracing::warn!(%error, "space of data that was dropped could not be given back; trying again");
            }
        }
    })
}

/// How long so many bytes are to take.
fn time_for(bytes: u64, bytes_per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64)
}

impl RocksStore {
    /// Has the space of ranges given back whose removal was written. **Nothing may ever be written in them again.**
    pub fn give_back_later(&self, dropped: Vec<StoreSpan>) {
        if dropped.is_empty() {
            return;
        }
        let sequence = self.inner.db.latest_sequence_number();
        let dropped = dropped.into_iter().filter(|(start, end)| start < end);
        self.inner.waiting.add(dropped.map(|span| Dropped { span, sequence, looks: 0 }));
    }

    /// Looks once at all that was dropped: files that lie wholly inside go, in slices of about `slice_bytes`. `pause` is told
    /// how many bytes went after each.
    pub fn give_back(&self, slice_bytes: u64, pause: &mut dyn FnMut(u64)) -> Result<(), StoreError> {
        let oldest_view = self.integer("rocksdb.oldest-snapshot-sequence");
        let all = std::mem::take(&mut *self.inner.waiting.ranges.lock());
        let is_read = |dropped: &Dropped| oldest_view != 0 && oldest_view < dropped.sequence;
        let (read, ready): (Vec<_>, Vec<_>) = all.into_iter().partition(is_read);
        self.inner.waiting.add(read);
        let mut ready = merged(ready);
        let result = self.give_back_files(&mut ready, slice_bytes, pause);
        self.inner.waiting.bytes.store(0, Ordering::Relaxed);
        self.inner.waiting.add(ready);
        result
    }

    /// Leaves in `ready` what is to be looked at again.
    fn give_back_files(
        &self,
        ready: &mut Vec<Dropped>,
        slice_bytes: u64,
        pause: &mut dyn FnMut(u64),
    ) -> Result<(), StoreError> {
        if ready.is_empty() {
            return Ok(());
        }
        let slices = slices(self.inner.db.live_files().map_err(store_error)?, ready, slice_bytes);
        let mut found = vec![false; ready.len()];
        slices.iter().for_each(|slice| found[slice.range] = true);
        let mut found = found.into_iter();
        if slices.is_empty() {
            ready.clear();
            return Ok(());
        }
        let waiting = &self.inner.waiting;
        waiting.bytes.store(slices.iter().map(|slice| slice.bytes).sum(), Ordering::Relaxed);
        self.flush()?;
        for slice in &slices {
            self.inner.db.delete_file_in_range(&slice.first, &slice.last).map_err(store_error)?;
            waiting.gone(slice.bytes);
            pause(slice.bytes);
        }
        ready.retain(|_| found.next().unwrap_or(false));
        self.remove_again(ready)?;
        ready.iter_mut().for_each(|dropped| dropped.looks += 1);
        ready.retain(|dropped| dropped.looks < MOST_LOOKS);
        Ok(())
    }

    /// Hides what is left at the edges, though the record that hid it has gone with the files.
    fn remove_again(&self, ranges: &[Dropped]) -> Result<(), StoreError> {
        let mut batch = RocksBatch::default();
        ranges.iter().for_each(|Dropped { span: (start, end), .. }| batch.delete_range(start, end));
        self.write(batch)
    }
}

/// The same ranges in order, with those that meet made one.
fn merged(mut ranges: Vec<Dropped>) -> Vec<Dropped> {
    ranges.sort_by(|a, b| a.span.cmp(&b.span));
    let mut merged: Vec<Dropped> = Vec::with_capacity(ranges.len());
    for Dropped { span, sequence, looks } in ranges {
        match merged.last_mut() {
            Some(last) if span.0 <= last.span.1 => {
                last.span.1 = span.1.max(std::mem::take(&mut last.span.1));
                last.sequence = last.sequence.max(sequence);
                last.looks = last.looks.min(looks);
            }
            Some(_) | None => merged.push(Dropped { span, sequence, looks }),
        }
    }
    merged
}

/// The files that lie wholly inside the ranges, the deepest level first.
fn slices(files: Vec<LiveFile>, ranges: &[Dropped], slice_bytes: u64) -> Vec<Slice> {
    let mut alone: Vec<Slice> = files.into_iter().filter_map(|file| inside(file, ranges)).collect();
    alone.sort_by(|a, b| (Reverse(a.level), &a.first).cmp(&(Reverse(b.level), &b.first)));
    let mut slices: Vec<Slice> = Vec::new();
    for file in alone {
        match slices.last_mut() {
            Some(last)
                if last.level == file.level
                    && last.range == file.range
                    && last.bytes.saturating_add(file.bytes) <= slice_bytes =>
            {
                last.last = file.last;
                last.bytes += file.bytes;
            }
            Some(_) | None => slices.push(file),
        }
    }
    slices
}

/// A file, if it lies wholly inside one of the ranges and is not on the first level, where files are not dropped.
fn inside(file: LiveFile, ranges: &[Dropped]) -> Option<Slice> {
    let (first, last) = (file.start_key?, file.end_key?);
    let range = ranges.partition_point(|range| range.span.0 <= first).checked_sub(1)?;
    // The end belongs to somebody else, and the last key to the file.
    let whole = file.level > 0 && last < ranges[range].span.1;
    whole.then_some(Slice { level: file.level, first, last, bytes: file.size as u64, range })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dropped(start: &str, end: &str) -> Dropped {
        Dropped { span: (start.into(), end.into()), sequence: 1, looks: 0 }
    }

    fn file(level: i32, first: &str, last: &str) -> LiveFile {
        LiveFile {
            column_family_name: String::new(),
            name: String::new(),
            size: 10,
            level,
            start_key: Some(first.into()),
            end_key: Some(last.into()),
            num_entries: 1,
            num_deletions: 0,
        }
    }

    #[test]
    fn ranges_that_meet_are_one() {
        let ranges = merged(vec![dropped("m", "p"), dropped("a", "c"), dropped("b", "bb"), dropped("c", "d")]);
        let spans: Vec<_> = ranges.into_iter().map(|range| range.span).collect();
        assert_eq!(spans, [(b"a".to_vec(), b"d".to_vec()), (b"m".to_vec(), b"p".to_vec())]);
    }

    #[test]
    fn slices_hold_whole_files_of_one_level_the_deepest_first() {
        let ranges = merged(vec![dropped("b", "f"), dropped("m", "p")]);
        let files = vec![
            file(0, "c", "d"),
            file(1, "b", "e"),
            file(6, "d", "dd"),
            file(6, "c", "cc"),
            file(6, "e", "ee"),
            // Across a start, across an end, and one with a key that is not dropped.
            file(6, "a", "bb"),
            file(6, "o", "q"),
            file(6, "eee", "f"),
            file(6, "m", "n"),
        ];
        let slices = slices(files, &ranges, 20);
        let seen: Vec<_> = slices
            .iter()
            .map(|slice| (slice.level, str(&slice.first), str(&slice.last), slice.bytes, slice.range))
            .collect();
        assert_eq!(seen, [(6, "c", "dd", 20, 0), (6, "e", "ee", 10, 0), (6, "m", "n", 10, 1), (1, "b", "e", 10, 0)]);
    }

    fn str(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_rate_is_a_time_for_bytes() {
        assert_eq!(time_for(1 << 20, 4 << 20), Duration::from_millis(250));
        assert_eq!(time_for(0, 1), Duration::ZERO);
    }
}
