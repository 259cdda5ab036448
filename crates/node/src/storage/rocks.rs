//! The data store over RocksDB.
//!
//! RocksDB's own write-ahead log is off: the consensus log is synced before anything is applied, and what the store lost in
//! a crash is applied again from there. With one column family a flush keeps a prefix of the batches, which is the
//! contract of [`scatter_core::store`].
//!
//! # Why writes are held back here and not by RocksDB
//!
//! RocksDB stops a writer inside its write queue when flushes or compactions lag too far. If they lag because the disk is
//! full, its recovery wants to flush through that same queue, behind the stopped writer, and neither ever moves again
//! (RocksDB 11.8, log off). So its own stops are set out of reach, and [`RocksStore`] holds writes back at the same limits
//! before they enter the queue. For the same reason it does not repeat a flush that failed until RocksDB has recovered by
//! itself, which it tries every few seconds and only when no other flush is under way.

pub mod drops;

use bytes::Bytes;
use drops::Waiting;
use parking_lot::Mutex;
use rocksdb::properties as property;
use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, DataBlockIndexType, IngestExternalFileOptions,
    LogLevel, Options, ReadOptions, SnapshotWithThreadMode, SstFileWriter, WriteBatch, WriteOptions,
};
use scatter_core::group::StoreSpan;
use scatter_core::store::{Batch, Loading, Read, Store, StoreError, Visit};
use std::ffi::CString;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LEVELS: usize = 7;
/// Where files are written that the store then takes.
const LOAD_FOLDER: &str = "loading";
/// Memtables in memory, the one in use included, beyond which writes are held back.
const MOST_MEMTABLES: usize = 3;
/// What one compaction of the first levels writes before it removes what it read, in memtables: those of the first level, and the
/// level below.
const COMPACTED_MEMTABLES: usize = 8;
/// Files of the first level beyond which writes are slowed by RocksDB, and held back here.
const SLOW_FIRST_LEVEL_FILES: i32 = 20;
const MOST_FIRST_LEVEL_FILES: u64 = 36;
/// A table file is compacted at once if, of so many records in a row, half are removals, or so large a share of all its records.
const REMOVALS_WINDOW: usize = 512;
const REMOVALS_SHARE: f64 = 0.5;
/// Out of reach of the limits above.
const NEVER: i32 = 1000;
/// Room on the disk beside what memtables need when they are flushed.
const SPARE_BYTES: u64 = 4 << 20;
/// Bytes of a table after which they are synced, so that no sync of the log queues behind a whole one.
const SYNC_EVERY: usize = 1 << 20;
/// How often a writer that is held back looks again.
const HOLD_INTERVAL: Duration = Duration::from_millis(2);

/// Sizes and limits of the store. None of the memory is taken before it is used.
#[derive(Clone, Debug)]
pub struct RocksSettings {
    /// The most bytes of decompressed blocks, indexes and filters kept in memory.
    pub cache_bytes: usize,
    /// Bytes of one memtable: what is written before it is flushed. Up to three fill while flushes lag behind.
    pub memtable_bytes: usize,
    /// The most table files kept open.
    pub most_open_files: i32,
    /// Threads for flushes and compactions together.
    pub background_jobs: i32,
}

impl Default for RocksSettings {
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, memtable_bytes: 8 << 20, most_open_files: 512, background_jobs: 2 }
    }
}

/// The store: a handle, clones of which share the same data.
#[derive(Clone)]
pub struct RocksStore {
    inner: Arc<Inner>,
}

struct Inner {
    db: DB,
    /// Kept for the counters that hang on it.
    options: Options,
    cache: Cache,
    write_options: WriteOptions,
    read_options: ReadOptions,
    /// How the last flush failed, if it did. Held while flushing: a second caller would only wait inside RocksDB.
    failed_flush: Mutex<Option<StoreError>>,
    gate: Mutex<Gate>,
    /// What was dropped and may still take space.
    waiting: Waiting,
    /// Held while a table is loaded: one at a time.
    loading: Mutex<()>,
    /// Called whenever something was loaded beside other things, or could not be.
    on_loaded: Mutex<Option<Box<dyn Fn() + Send>>>,
    /// Microseconds for which writes were held back.
    held_micros: AtomicU64,
    memtable_bytes: usize,
}

/// Holds writes back while flushes and compactions lag.
#[derive(Default)]
struct Gate {
    /// Bytes written since the last look at RocksDB's figures.
    unseen_bytes: usize,
    /// Failed flushes and compactions when writes last went through.
    errors: u64,
}

impl RocksStore {
    /// Opens the store in `path`, creating it if there is none.
    pub fn open(path: &Path, settings: &RocksSettings) -> Result<Self, StoreError> {
        std::fs::create_dir_all(path)
            .map_err(|error| StoreError::Failed(format!("cannot create {}: {error}", path.display())))?;
        refuse_headless(path)?;
        let cache = Cache::new_hyper_clock_cache(settings.cache_bytes, 0);
        let options = options(settings, &cache);
        let db = DB::open(&options, path).map_err(|error| open_error(path, error))?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let inner = Inner {
            db,
            options,
            cache,
            write_options,
            read_options: ReadOptions::default(),
            failed_flush: Mutex::new(None),
            gate: Mutex::new(Gate::default()),
            waiting: Waiting::default(),
            loading: Mutex::new(()),
            on_loaded: Mutex::new(None),
            held_micros: AtomicU64::new(0),
            memtable_bytes: settings.memtable_bytes,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Has `tell` called whenever a [`Store::load_beside`] has ended.
    pub fn on_loaded(&self, tell: impl Fn() + Send + 'static) {
        *self.inner.on_loaded.lock() = Some(Box::new(tell));
    }

    /// Bytes that must be free on the disk so that what is in memory, and what is decided and not applied yet, can still be
    /// written, and what was removed be compacted away.
    #[must_use]
    pub fn needed_bytes(&self) -> u64 {
        ((MOST_MEMTABLES + COMPACTED_MEMTABLES) * self.inner.memtable_bytes) as u64 + SPARE_BYTES
    }

    /// Gives back what removed keys took, level by level, in steps that need little room. Takes long where much is stored.
    pub fn compact_removed(&self) -> Result<(), StoreError> {
        self.flush()?;
        self.inner.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }

    /// Ends compactions half-way, which changes nothing that is stored, and waits until none goes on: threads must not work on the store
    /// while the process ends. For the end of a process only.
    pub fn stop_background_work(&self) {
        self.inner.db.cancel_all_background_work(true);
    }

    /// Bytes that are free on the disk; `None` if the system does not say.
    #[must_use]
    pub fn free_bytes(&self) -> Option<u64> {
        let path = CString::new(self.inner.db.path().as_os_str().as_bytes()).ok()?;
        // SAFETY: all its fields are integers, for which zero is a value.
        let mut figures: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: a terminated path and a struct of the right type, both of which live for the time of the call.
        let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut figures) };
        (result == 0).then(|| figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    /// What RocksDB counts about itself.
    #[must_use]
    pub fn statistics(&self) -> RocksStatistics {
        let ticker = |ticker| self.inner.options.get_ticker_count(ticker);
        let level = |level| self.inner.db.property_int_value(property::num_files_at_level(level)).ok().flatten();
        RocksStatistics {
            files_per_level: std::array::from_fn(|number| level(number).unwrap_or(0)),
            file_bytes: self.integer("rocksdb.live-sst-files-size"),
            live_data_bytes: self.integer("rocksdb.estimate-live-data-size"),
            keys: self.integer("rocksdb.estimate-num-keys"),
            memtable_bytes: self.integer("rocksdb.size-all-mem-tables"),
            table_reader_bytes: self.integer("rocksdb.estimate-table-readers-mem"),
            cache_bytes: self.inner.cache.get_usage() as u64,
            cache_pinned_bytes: self.inner.cache.get_pinned_usage() as u64,
            cache_hits: ticker(Ticker::BlockCacheHit),
            cache_misses: ticker(Ticker::BlockCacheMiss),
            bloom_useful: ticker(Ticker::BloomFilterUseful),
            memtable_hits: ticker(Ticker::MemtableHit),
            memtable_misses: ticker(Ticker::MemtableMiss),
            flushed_bytes: ticker(Ticker::FlushWriteBytes),
            compaction_read_bytes: ticker(Ticker::CompactReadBytes),
            compaction_written_bytes: ticker(Ticker::CompactWriteBytes),
            pending_compaction_bytes: self.integer("rocksdb.estimate-pending-compaction-bytes"),
            running_compactions: self.integer("rocksdb.num-running-compactions"),
            running_flushes: self.integer("rocksdb.num-running-flushes"),
            views: self.integer("rocksdb.num-snapshots"),
            stall_micros: ticker(Ticker::StallMicros),
            held_micros: self.inner.held_micros.load(Ordering::Relaxed),
            waiting_bytes: self.inner.waiting.bytes(),
            given_back_bytes: self.inner.waiting.given_back_bytes(),
            delayed_write_rate: self.integer("rocksdb.actual-delayed-write-rate"),
            is_write_stopped: self.integer("rocksdb.is-write-stopped") != 0,
            background_errors: self.integer("rocksdb.background-errors"),
        }
    }

    /// Waits until there is room for `bytes` more, or says why there will be none.
    fn pass_gate(&self, bytes: usize) -> Result<(), StoreError> {
        let mut gate = self.inner.gate.lock();
        gate.unseen_bytes += bytes;
        if gate.unseen_bytes < self.inner.memtable_bytes / 8 {
            return Ok(());
        }
        loop {
            let errors = self.integer("rocksdb.background-errors");
            let lagging = self.integer("rocksdb.size-all-mem-tables")
                >= (MOST_MEMTABLES * self.inner.memtable_bytes) as u64
                || self.integer("rocksdb.num-files-at-level0") >= MOST_FIRST_LEVEL_FILES;
            if !lagging {
                *gate = Gate { unseen_bytes: 0, errors };
                return Ok(());
            }
            if errors > gate.errors {
                // Only a flush tells what the error was.
                self.flush()?;
                gate.errors = errors;
            }
            let since = Instant::now();
            std::thread::sleep(HOLD_INTERVAL);
            let held = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.inner.held_micros.fetch_add(held, Ordering::Relaxed);
        }
    }

    fn integer(&self, name: &str) -> u64 {
        self.inner.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }
}

/// RocksDB's own figures, for metrics. Counters rise from the opening of the store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[expect(missing_docs, reason = "each name says it, unit included")]
pub struct RocksStatistics {
    pub files_per_level: [u64; LEVELS],
    pub file_bytes: u64,
    pub live_data_bytes: u64,
    pub keys: u64,
    pub memtable_bytes: u64,
    pub table_reader_bytes: u64,
    pub cache_bytes: u64,
    pub cache_pinned_bytes: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub bloom_useful: u64,
    pub memtable_hits: u64,
    pub memtable_misses: u64,
    pub flushed_bytes: u64,
    pub compaction_read_bytes: u64,
    pub compaction_written_bytes: u64,
    pub pending_compaction_bytes: u64,
    pub running_compactions: u64,
    pub running_flushes: u64,
    pub views: u64,
    pub stall_micros: u64,
    /// Microseconds for which writes were held back before they reached RocksDB.
    pub held_micros: u64,
    /// Bytes of files whose range was dropped and which are still there, as of the last look.
    pub waiting_bytes: u64,
    /// Bytes of files that went because their range was dropped.
    pub given_back_bytes: u64,
    /// Bytes per second to which writes are slowed; zero if they are not.
    pub delayed_write_rate: u64,
    pub is_write_stopped: bool,
    /// Failed flushes and compactions so far.
    pub background_errors: u64,
}

impl Read for RocksStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.inner.db.get_pinned_opt(key, &self.inner.read_options).map_err(store_error)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), StoreError> {
        walk(self.inner.db.raw_iterator_opt(range(start, end)), visit)
    }
}

impl Store for RocksStore {
    type Batch = RocksBatch;
    type View = RocksView;

    fn write(&self, batch: RocksBatch) -> Result<(), StoreError> {
        let RocksBatch { changes, dropped } = batch;
        self.pass_gate(changes.size_in_bytes())?;
        self.inner.db.write_opt(changes, &self.inner.write_options).map_err(store_error)?;
        self.give_back_later(dropped);
        Ok(())
    }

    fn load(&self, pairs: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
        let _alone = self.inner.loading.lock();
        let folder = self.inner.db.path().join(LOAD_FOLDER);
        let path = folder.join("table");
        let loaded = load_table(&self.inner, &folder, &path, pairs);
        if loaded.is_err() {
            // On a full disk it would be in the way of what gets room again.
            let _ = std::fs::remove_file(&path);
        }
        loaded
    }

    fn load_beside(&self, pairs: Arc<[(Vec<u8>, Bytes)]>) -> Loading {
        let has_ended = Arc::new(AtomicBool::new(false));
        let end = LoadEnd { store: self.clone(), has_ended: has_ended.clone() };
        let shared = pairs.clone();
        let loads = move || {
            crate::priority::give_way();
            end.store.load(&shared)
        };
        match std::thread::Builder::new().name("load".to_owned()).spawn(loads) {
            Ok(thread) => Loading::begun(has_ended, move || {
                let panicked = |_| Err(StoreError::Failed("a thread that loads a table panicked".to_owned()));
                thread.join().unwrap_or_else(panicked)
            }),
            Err(_) => Loading::due(self.clone(), pairs),
        }
    }

    fn view(&self) -> RocksView {
        RocksView::pin(self.inner.clone())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut failed = self.inner.failed_flush.lock();
        if let Some(error) = &*failed
            && self.integer("rocksdb.num-immutable-mem-table") > 0
        {
            return Err(error.clone());
        }
        let result = self.inner.db.flush().map_err(store_error);
        *failed = result.as_ref().err().cloned();
        result
    }
}

/// Tells that a load has ended, however it did.
struct LoadEnd {
    store: RocksStore,
    has_ended: Arc<AtomicBool>,
}

impl Drop for LoadEnd {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Release);
        if let Some(tell) = &*self.store.inner.on_loaded.lock() {
            tell();
        }
    }
}

/// Writes a table file of its own and gives it to RocksDB, which puts it on the lowest level where nothing is in its way:
/// what is loaded costs neither a memtable nor a flush nor a compaction.
fn load_table(inner: &Inner, folder: &Path, path: &Path, pairs: &[(Vec<u8>, Bytes)]) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
        _ => StoreError::Failed(format!("cannot prepare {}: {error}", path.display())),
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    // After a crash it may be a second name of a file that the store has taken: never to be opened for writing.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let mut writer = SstFileWriter::create(&inner.options);
    writer.open(path).map_err(store_error)?;
    let file = std::fs::File::open(path).map_err(failed)?;
    let (mut written, mut due) = (0, SYNC_EVERY);
    for (key, value) in pairs {
        writer.put(key, value).map_err(store_error)?;
        written += key.len() + value.len();
        if written >= due {
            await_written(&file, due - SYNC_EVERY);
            due = written + SYNC_EVERY;
        }
    }
    writer.finish().map_err(store_error)?;
    let mut how = IngestExternalFileOptions::default();
    how.set_move_files(true);
    inner.db.ingest_external_file_opts(&how, vec![path]).map_err(store_error)
}

/// Waits until the first `bytes` of a file are written to the disk, if they have been handed to the system. A system that cannot do
/// that loses nothing but the pace, and a disk that fails says so to whoever syncs the whole file.
fn await_written(file: &std::fs::File, bytes: usize) {
    let how = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // Zero would stand for the whole file.
    let bytes = libc::off64_t::try_from(bytes.max(1)).unwrap_or(libc::off64_t::MAX);
    // SAFETY: the descriptor is open as long as the file is; no memory is passed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, bytes, how) };
}

/// Changes under construction.
#[derive(Default)]
pub struct RocksBatch {
    changes: WriteBatch,
    /// What it drops for good.
    dropped: Vec<StoreSpan>,
}

impl Batch for RocksBatch {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.changes.put(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.changes.delete(key);
    }

    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        // RocksDB calls a range that ends before it starts corrupt; here it is an empty one.
        if start < end {
            self.changes.delete_range(start, end);
        }
    }

    fn drop_range(&mut self, start: &[u8], end: &[u8]) {
        self.delete_range(start, end);
        self.dropped.push((start.to_vec(), end.to_vec()));
    }
}

/// A pinned view that owns its share of the store, and so may go to any thread and outlive every other handle.
pub struct RocksView {
    /// Borrows from the database that `inner` keeps alive. Fields drop in order: this one first.
    snapshot: SnapshotWithThreadMode<'static, DB>,
    inner: Arc<Inner>,
}

impl RocksView {
    fn pin(inner: Arc<Inner>) -> Self {
        // SAFETY: the reference points into the allocation of `inner`, which never moves and which this view's own `Arc`
        // keeps alive. The lifetime is lengthened only here: `snapshot` is private, is dropped before `inner`, and
        // everything that `get` and `scan` borrow from it is bound to `&self` and gone when they return. `DB` is never
        // borrowed mutably, for it is reached through `Arc` alone.
        let db: &'static DB = unsafe { &*std::ptr::from_ref(&inner.db) };
        Self { snapshot: db.snapshot(), inner }
    }
}

impl Read for RocksView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let found = self.snapshot.get_pinned(key).map_err(store_error)?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Of what is in table files, whatever the view shows.
    fn size_between(&self, start: &[u8], end: &[u8]) -> Option<u64> {
        self.inner.db.get_approximate_sizes(&[rocksdb::Range::new(start, end.max(start))]).first().copied()
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), StoreError> {
        let mut options = range(start, end);
        // All of a group is read once: it must not push out what users read.
        options.fill_cache(false);
        walk(self.snapshot.raw_iterator_opt(options), visit)
    }
}

fn range(start: &[u8], end: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    // An upper bound below the lower one would be an error; an empty range is none.
    options.set_iterate_range(start.to_vec()..end.max(start).to_vec());
    options
}

fn walk(mut pairs: DBRawIterator<'_>, visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), StoreError> {
    pairs.seek_to_first();
    while let Some((key, value)) = pairs.item() {
        match visit(key, value) {
            Visit::Continue => pairs.next(),
            Visit::Stop => return Ok(()),
        }
    }
    pairs.status().map_err(store_error)
}

/// The tuning: for two cores shared with everything else, one writer, point reads, small values, bounded memory.
fn options(settings: &RocksSettings, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(8 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    // In the cache, so that the setting bounds them too.
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);

    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(settings.memtable_bytes);
    options.set_max_write_buffer_number(NEVER);
    options.set_level_zero_slowdown_writes_trigger(SLOW_FIRST_LEVEL_FILES);
    options.set_level_zero_stop_writes_trigger(NEVER);
    options.set_soft_pending_compaction_bytes_limit(0);
    options.set_hard_pending_compaction_bytes_limit(0);
    // One thread applies: the lock-free insert would cost it and help nobody.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_max_background_jobs(settings.background_jobs);
    options.set_max_open_files(settings.most_open_files);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_target_file_size_base(settings.memtable_bytes as u64);
    options.set_max_bytes_for_level_base(settings.memtable_bytes as u64 * 4);
    // So that a full disk has room for it.
    options.set_max_compaction_bytes(settings.memtable_bytes as u64 * 4);
    // What is young is read and rewritten soon; what is deep stays.
    let levels: [DBCompressionType; LEVELS] =
        std::array::from_fn(|level| if level == 0 { DBCompressionType::None } else { DBCompressionType::Lz4 });
    options.set_compression_per_level(&levels);
    // What holds many removals is compacted soon: users who remove want their room back.
    options.add_compact_on_deletion_collector_factory(REMOVALS_WINDOW, REMOVALS_WINDOW / 2, REMOVALS_SHARE);
    // Table files are handed to the disk as they grow, so that no sync of the log queues behind a whole one.
    options.set_bytes_per_sync(1 << 20);
    options.set_skip_stats_update_on_db_open(true);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    options
}

/// RocksDB takes a directory without `CURRENT` for an empty one and would begin anew beside the files of the old store.
fn refuse_headless(path: &Path) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| StoreError::Failed(format!("cannot list {}: {error}", path.display()));
    if path.join("CURRENT").exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".sst") || name.starts_with("MANIFEST-") {
            return Err(StoreError::Damaged(format!("{} holds {name} but no CURRENT", path.display())));
        }
    }
    Ok(())
}

fn open_error(path: &Path, error: rocksdb::Error) -> StoreError {
    let text = error.to_string();
    // Files that the store's own records name and that are not there.
    let is_missing = text.contains("No such file or directory");
    match store_error(error) {
        StoreError::Failed(text) if text.contains("lock") && text.contains("LOCK") => {
            StoreError::Failed(format!("{} is in use by another process: {text}", path.display()))
        }
        StoreError::Failed(text) if is_missing => StoreError::Damaged(format!("{}: {text}", path.display())),
        other => other,
    }
}

fn store_error(error: rocksdb::Error) -> StoreError {
    let text = error.to_string();
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return StoreError::NoSpace;
    }
    match error.kind() {
        rocksdb::ErrorKind::Corruption => StoreError::Damaged(text),
        _ => StoreError::Failed(text),
    }
}

#[cfg(test)]
mod tests;
