//! The node's metrics beyond those of the data API: read from what other threads publish whenever somebody asks.

use crate::serving::Serving;
use crate::storage::sync::LogObserver;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntCounter, IntGauge, Opts, Registry};
use scatter_service::metrics::Durations;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How the value of a gauge is read.
type Read = fn(&Serving) -> i64;

/// How the value of a counter is read.
type Count = fn(&Serving) -> u64;

/// Metrics that are read off the node when they are asked for.
struct NodeCollector {
    serving: Arc<Serving>,
    gauges: Vec<(IntGauge, Read)>,
    counters: Vec<(IntCounter, Count)>,
    lease: Gauge,
    levels: GaugeVec,
}

fn led(serving: &Serving) -> i64 {
    serving.view.load().replicas.iter().filter(|status| status.role == "leader").count().try_into().unwrap_or(i64::MAX)
}

fn small(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl NodeCollector {
    fn new(serving: Arc<Serving>) -> prometheus::Result<Self> {
        let gauges: [(&str, &str, Read); 13] = [
            ("scatter_replicas", "Replicas on this node.", |serving| small(serving.groups.load().len() as u64)),
            ("scatter_groups_led", "Groups led by this node.", led),
            ("scatter_groups_with_leader", "Groups with a replica here whose leader is known.", |serving| {
                small(serving.leadership.load().values().filter(|found| found.leader.is_some()).count() as u64)
            }),
            ("scatter_keys", "Keys in the replicas on this node.", |serving| {
                small(serving.groups.load().iter().map(|group| group.figures.keys.load(Ordering::Relaxed)).sum())
            }),
            ("scatter_data_bytes", "Bytes of keys and values in the replicas on this node.", |serving| {
                small(serving.groups.load().iter().map(|group| group.figures.bytes.load(Ordering::Relaxed)).sum())
            }),
            ("scatter_proposals_pending", "Entries proposed here and not yet decided.", |serving| {
                small(serving.view.load().replicas.iter().map(|status| status.pending).sum())
            }),
            ("scatter_requests_waiting", "Requests of clients that wait for the protocol.", |serving| {
                small(serving.view.load().waiting as u64)
            }),
            ("scatter_apply_lag_slots", "Slots decided and not yet applied, over all replicas.", |serving| {
                let view = serving.view.load();
                small(view.replicas.iter().map(|status| status.decided.0.saturating_sub(status.applied.0)).sum())
            }),
            ("scatter_peers_known", "Other nodes this one has spoken to.", |serving| {
                small(serving.view.load().known.len() as u64)
            }),
            ("scatter_disk_full", "1 while writes are refused for lack of space.", |serving| {
                i64::from(serving.view.load().disk_full)
            }),
            ("scatter_rocksdb_memtable_bytes", "Bytes in RocksDB's memtables.", |serving| {
                small(serving.store.statistics().memtable_bytes)
            }),
            ("scatter_rocksdb_cache_bytes", "Bytes in RocksDB's block cache.", |serving| {
                small(serving.store.statistics().cache_bytes)
            }),
            ("scatter_rocksdb_pending_compaction_bytes", "Bytes RocksDB has yet to compact.", |serving| {
                small(serving.store.statistics().pending_compaction_bytes)
            }),
        ];
        let counters: [(&str, &str, Count); 5] = [
            ("scatter_leader_changes_total", "Leader changes seen by this node.", |serving| {
                serving.view.load().leader_changes
            }),
            ("scatter_commands_applied_total", "Commands of this node's clients that were applied.", |serving| {
                serving.groups.load().iter().map(|group| group.figures.commands.load(Ordering::Relaxed)).sum()
            }),
            ("scatter_rocksdb_cache_hits_total", "Block cache hits.", |serving| serving.store.statistics().cache_hits),
            ("scatter_rocksdb_cache_misses_total", "Block cache misses.", |serving| {
                serving.store.statistics().cache_misses
            }),
            ("scatter_rocksdb_stall_microseconds_total", "Time writes were stalled by RocksDB.", |serving| {
                serving.store.statistics().stall_micros
            }),
        ];
        let mut made_gauges: Vec<(IntGauge, Read)> = Vec::new();
        for (name, help, read) in gauges {
            made_gauges.push((IntGauge::new(name, help)?, read));
        }
        let mut made_counters: Vec<(IntCounter, Count)> = Vec::new();
        for (name, help, read) in counters {
            made_counters.push((IntCounter::new(name, help)?, read));
        }
        let levels = Opts::new("scatter_rocksdb_level_files", "Table files of RocksDB, by level.");
        Ok(Self {
            serving,
            gauges: made_gauges,
            counters: made_counters,
            lease: Gauge::new("scatter_lease_margin_seconds", "Least time left on a lease held by this node.")?,
            levels: GaugeVec::new(levels, &["level"])?,
        })
    }
}

impl Collector for NodeCollector {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = self.gauges.iter().flat_map(|(gauge, _)| gauge.desc());
        let counters = self.counters.iter().flat_map(|(counter, _)| counter.desc());
        gauges.chain(counters).chain(self.lease.desc()).chain(self.levels.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        for (gauge, read) in &self.gauges {
            gauge.set(read(&self.serving));
            families.extend(gauge.collect());
        }
        for (counter, read) in &self.counters {
            // What is shown never falls: the sources only rise while the process lives.
            counter.inc_by(read(&self.serving).saturating_sub(counter.get()));
            families.extend(counter.collect());
        }
        let view = self.serving.view.load();
        let least = view.replicas.iter().filter(|status| status.role == "leader").map(|status| status.lease).min();
        self.lease.set(least.unwrap_or_default().as_secs_f64());
        families.extend(self.lease.collect());
        for (level, files) in self.serving.store.statistics().files_per_level.iter().enumerate() {
            self.levels.with_label_values(&[level.to_string()]).set(*files as f64);
        }
        families.extend(self.levels.collect());
        families
    }
}

/// Registers everything that is read off the node.
pub fn register(registry: &Registry, serving: Arc<Serving>) -> prometheus::Result<()> {
    registry.register(Box::new(NodeCollector::new(serving)?))
}

/// How long the log's disk takes.
#[derive(Clone)]
pub struct LogTimes {
    append: Durations,
    sync: Durations,
}

impl LogTimes {
    /// Creates the metrics and registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let times = Self {
            append: Durations::new("scatter_log_append_seconds", "Time to append to the log.", &[], &[vec![]])?,
            sync: Durations::new("scatter_log_sync_seconds", "Time to sync the log.", &[], &[vec![]])?,
        };
        registry.register(Box::new(times.append.clone()))?;
        registry.register(Box::new(times.sync.clone()))?;
        Ok(times)
    }
}

impl LogObserver for LogTimes {
    fn appended(&self, _batches: usize, elapsed: Duration) {
        self.append.observe(0, elapsed);
    }

    fn synced(&self, elapsed: Duration) {
        self.sync.observe(0, elapsed);
    }
}
