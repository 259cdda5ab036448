//! Compares engines for the consensus log and prints a Markdown table.
//!
//! ```text
//! cargo run --release -p scatter-node --example log_engines -- DIRECTORY [ROUNDS]
//! ```
//!
//! Each measurement plays a node's life: append and sync one batch (timed), then apply its entries to the data store
//! (not timed, but part of processor time and of bytes written), and truncate the log now and then. The engines take
//! turns, round after round, so that drift of the machine meets all alike.
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use bytes::Bytes;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use rocksdb::{ColumnFamilyDescriptor, DB, Options, WriteBatch, WriteOptions};
use scatter_core::codec::Encode;
use scatter_core::durable::{HardState, Write};
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::store::{Batch, Store};
use scatter_core::types::{Ballot, GroupId, Incarnation, NodeId, ReplicaName, Slot};
use scatter_node::storage::log::{Log, LogError, LogSettings, SegmentLog};
use scatter_node::storage::rocks::{RocksSettings, RocksStore};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn Error>;

const GROUP: GroupId = GroupId(1);
const KEYS: u64 = 10_000;
/// Truncation happens every so many batches and leaves as many.
const KEEP_BATCHES: u64 = 20;
/// Written before anything is counted, or a hundred batches: enough that files are recycled and not made.
const WARM_UP_BYTES: u64 = 48 << 20;

/// A log with the data store beside it.
trait Engine {
    fn log(&mut self) -> &mut dyn Log;
    fn apply(&mut self, entries: &[Entry], first: u64) -> Result<(), Failure>;
}

struct Segments {
    log: SegmentLog,
    data: RocksStore,
}

impl Engine for Segments {
    fn log(&mut self) -> &mut dyn Log {
        &mut self.log
    }

    fn apply(&mut self, entries: &[Entry], first: u64) -> Result<(), Failure> {
        apply(&self.data, entries, first)
    }
}

fn apply(data: &RocksStore, entries: &[Entry], first: u64) -> Result<(), Failure> {
    let mut batch = <RocksStore as Store>::Batch::default();
    for (slot, entry) in (first..).zip(entries) {
        batch.put(&data_key(slot), &entry.body);
    }
    Ok(data.write(batch)?)
}

fn data_key(slot: u64) -> Vec<u8> {
    format!("tablet/{:016x}", (slot % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()
}

/// Entries and hard states as keys of a RocksDB whose own log is synced.
struct RocksLog {
    db: Arc<DB>,
    family: &'static str,
    batch: WriteBatch,
    synced: WriteOptions,
}

impl RocksLog {
    fn new(db: Arc<DB>, family: &'static str) -> Self {
        let mut synced = WriteOptions::default();
        synced.set_sync(true);
        Self { db, family, batch: WriteBatch::default(), synced }
    }
}

fn log_key(group: GroupId, slot: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key[8..].copy_from_slice(&slot.to_be_bytes());
    key
}

impl Log for RocksLog {
    fn append(&mut self, writes: &[Write]) -> Result<(), LogError> {
        let lost = || LogError::Failed("no column family".to_owned());
        let family = self.db.cf_handle(self.family).ok_or_else(lost)?;
        for write in writes {
            match write {
                Write::Accept { group, ballot, first, entries } => {
                    for (slot, entry) in (first.0..).zip(entries) {
                        let mut value = bytes::BytesMut::with_capacity(entry.weight() + 32);
                        ballot.encode(&mut value);
                        entry.encode(&mut value);
                        self.batch.put_cf(family, log_key(*group, slot), &value);
                    }
                }
                Write::Truncate { group, through } => {
                    self.batch.delete_range_cf(family, log_key(*group, 1), log_key(*group, through.0 + 1));
                }
                Write::Hard { group, .. } => self.batch.put_cf(family, log_key(*group, 0), write.to_bytes()),
                Write::Node { .. } | Write::Peer { .. } | Write::Create { .. } | Write::Tombstone { .. } => {}
            }
        }
        Ok(())
    }

    fn append_reserved(&mut self, writes: &[Write]) -> Result<(), LogError> {
        self.append(writes)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let batch = std::mem::take(&mut self.batch);
        self.db.write_opt(batch, &self.synced).map_err(|error| LogError::Failed(error.to_string()))
    }
}

/// The log as a column family of the data store's own RocksDB.
struct OneRocks {
    log: RocksLog,
    db: Arc<DB>,
    unlogged: WriteOptions,
}

impl Engine for OneRocks {
    fn log(&mut self) -> &mut dyn Log {
        &mut self.log
    }

    fn apply(&mut self, entries: &[Entry], first: u64) -> Result<(), Failure> {
        let mut batch = WriteBatch::default();
        for (slot, entry) in (first..).zip(entries) {
            batch.put(data_key(slot), &entry.body);
        }
        Ok(self.db.write_opt(batch, &self.unlogged)?)
    }
}

/// The log in a RocksDB of its own.
struct TwoRocks {
    log: RocksLog,
    data: RocksStore,
}

impl Engine for TwoRocks {
    fn log(&mut self) -> &mut dyn Log {
        &mut self.log
    }

    fn apply(&mut self, entries: &[Entry], first: u64) -> Result<(), Failure> {
        apply(&self.data, entries, first)
    }
}

fn rocks_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_size(32 << 20);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options
}

const ENGINES: [&str; 3] = ["own segments", "RocksDB, column family", "RocksDB, separate"];

fn open(engine: usize, path: &Path) -> Result<Box<dyn Engine>, Failure> {
    let (log_path, data_path) = (path.join("log"), path.join("data"));
    let settings = RocksSettings::default();
    Ok(match engine {
        0 => {
            // Smaller than the default, so that a short run sees the steady state.
            let settings_of_log =
                LogSettings { segment_bytes: 16 << 20, first_segment_bytes: 16 << 20, ..LogSettings::default() };
            let (log, _) = SegmentLog::recover(&log_path, settings_of_log)?;
            Box::new(Segments { log, data: RocksStore::open(&data_path, &settings)? })
        }
        1 => {
            let families = ["default", "log"].map(|name| ColumnFamilyDescriptor::new(name, rocks_options()));
            let db = Arc::new(DB::open_cf_descriptors(&rocks_options(), &data_path, families)?);
            let mut unlogged = WriteOptions::default();
            unlogged.disable_wal(true);
            Box::new(OneRocks { log: RocksLog::new(db.clone(), "log"), db, unlogged })
        }
        _ => {
            let mut options = rocks_options();
            // As favourable as RocksDB allows: log files are used again, so that a sync changes no metadata. It allows this
            // only where every write is logged, so not for the column family beside unlogged data.
            options.set_recycle_log_file_num(4);
            let db = Arc::new(DB::open_cf(&options, &log_path, ["default"])?);
            Box::new(TwoRocks { log: RocksLog::new(db, "default"), data: RocksStore::open(&data_path, &settings)? })
        }
    })
}

/// What one engine did in one case, over all rounds.
#[derive(Default)]
struct Figures {
    syncs: Vec<Duration>,
    elapsed: Duration,
    processor: Duration,
    disk_bytes: u64,
    payload_bytes: u64,
}

fn measure(
    engine: &mut dyn Engine,
    batches: u64,
    count: u64,
    length: usize,
    figures: &mut Figures,
) -> Result<(), Failure> {
    let replica = ReplicaName { group: GROUP, node: NodeId(1), incarnation: Incarnation(1) };
    let ballot = Ballot { round: 1, node: NodeId(1), incarnation: Incarnation(1) };
    engine.log().append(&[Write::Create { replica, after: Slot(0), inviter: None }])?;
    engine.log().sync()?;
    let mut random = SmallRng::seed_from_u64(7);
    let mut noise = vec![0; length + (64 << 10)];
    random.fill_bytes(&mut noise);
    let noise = Bytes::from(noise);
    let warm_up = (WARM_UP_BYTES / (count * length as u64)).min(100);
    let (mut started, mut processor, mut disk) = (Instant::now(), processor_time()?, disk_bytes()?);
    for batch in 0..warm_up + batches {
        if batch == warm_up {
            (started, processor, disk) = (Instant::now(), processor_time()?, disk_bytes()?);
        }
        let first = batch * count + 1;
        let entry = |_| {
            let from = random.next_u32() as usize % (64 << 10);
            let body = noise.slice(from..from + length);
            Entry { kind: EntryKind::Commands, clock: EntryClock::default(), body }
        };
        let entries: Vec<Entry> = (0..count).map(entry).collect();
        let state = HardState { promised: ballot, decided: Slot(first - 1), led_round: 1 };
        let mut writes = vec![
            Write::Accept { group: GROUP, ballot, first: Slot(first), entries: entries.clone() },
            Write::Hard { group: GROUP, state },
        ];
        if batch % KEEP_BATCHES == 0 && batch > KEEP_BATCHES {
            writes.push(Write::Truncate { group: GROUP, through: Slot(first - KEEP_BATCHES * count) });
        }
        let before = Instant::now();
        engine.log().append(&writes)?;
        engine.log().sync()?;
        if batch >= warm_up {
            figures.syncs.push(before.elapsed());
        }
        engine.log().tidy()?;
        engine.apply(&entries, first)?;
    }
    figures.elapsed += started.elapsed();
    figures.processor += processor_time()?.saturating_sub(processor);
    figures.disk_bytes += disk_bytes()?.saturating_sub(disk);
    figures.payload_bytes += batches * count * length as u64;
    Ok(())
}

/// User and system time of this process, to the hundredth of a second.
fn processor_time() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = text.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// Bytes this process has caused to be written to disks.
fn disk_bytes() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.unwrap_or("0").parse()?)
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().ok_or("usage: log_engines DIRECTORY [ROUNDS]")?;
    let rounds: u64 = arguments.next().map_or(Ok(3), |rounds| rounds.parse())?;
    println!("| entry | entries | engine | p50 µs | p99 µs | batches/s | processor µs/batch | written/payload |");
    println!("| ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |");
    for (length, count, batches) in [(256, 1, 1500), (256, 30, 1000), (16 << 10, 1, 1000), (16 << 10, 30, 300)] {
        let mut all: [Figures; ENGINES.len()] = Default::default();
        for _ in 0..rounds {
            for (engine, figures) in all.iter_mut().enumerate() {
                let place = tempfile::tempdir_in(&directory)?;
                let mut engine = open(engine, place.path())?;
                measure(engine.as_mut(), batches, count, length, figures)?;
            }
        }
        for (name, figures) in ENGINES.iter().zip(&mut all) {
            figures.syncs.sort();
            let total = figures.syncs.len();
            let at = |share: usize| figures.syncs[(total * share / 1000).min(total - 1)].as_micros();
            println!(
                "| {length} | {count} | {name} | {} | {} | {:.0} | {:.0} | {:.1} |",
                at(500),
                at(990),
                total as f64 / figures.elapsed.as_secs_f64(),
                figures.processor.as_secs_f64() * 1e6 / total as f64,
                figures.disk_bytes as f64 / figures.payload_bytes as f64,
            );
        }
    }
    Ok(())
}
