//! The node's metrics beyond those that all programs have: what its threads count, and what is read off it when somebody
//! asks.

mod counts;
mod transport;

pub use counts::{NodeCounts, ServedRead};
pub use transport::register as register_transport;

use crate::serving::{Figures, NodeView, Serving, Table};
use crate::storage::rocks::RocksStatistics;
use crate::storage::sync::LogObserver;
use prometheus::Registry;
use scatter_core::node::ReplicaStatus;
use scatter_gossip::Counters;
use scatter_service::metrics::{Durations, Reading, Sampled, Sizes};
use scatter_wire::NodeState;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What gossip takes nodes for.
const STATES: [(NodeState, &str); 5] = [
    (NodeState::Alive, "alive"),
    (NodeState::Suspect, "suspect"),
    (NodeState::Draining, "draining"),
    (NodeState::Drained, "drained"),
    (NodeState::Dead, "dead"),
];

/// One look at the node. The view in it is up to a quarter of a second old.
struct Look {
    view: Arc<NodeView>,
    groups: Arc<Table>,
    /// Groups with a replica here whose leader is known.
    with_leader: usize,
    jobs: u64,
    inbox: usize,
    store: RocksStatistics,
}

impl Look {
    fn at(serving: &Serving, inbox: usize) -> Self {
        let (groups, leadership) = (serving.groups.load_full(), serving.leadership.load());
        let is_led = |group| leadership.get(group).is_some_and(|found| found.leader.is_some());
        Self {
            view: serving.view.load_full(),
            with_leader: groups.iter().filter(|served| is_led(&served.group)).count(),
            groups,
            jobs: serving.counts.jobs(),
            inbox,
            store: serving.store.statistics(),
        }
    }

    fn replicas(&self, of: impl Fn(&ReplicaStatus) -> u64) -> impl Iterator<Item = u64> {
        self.view.replicas.iter().map(of)
    }

    fn figures(&self, of: fn(&Figures) -> &AtomicU64) -> impl Iterator<Item = u64> {
        self.groups.iter().map(move |served| of(&served.figures).load(Ordering::Relaxed))
    }

    fn voters(&self) -> impl Iterator<Item = u64> {
        self.groups.iter().map(|served| served.configuration.voters().count() as u64)
    }

    fn led(&self) -> impl Iterator<Item = &ReplicaStatus> {
        self.view.replicas.iter().filter(|status| status.role == "leader")
    }
}

fn sum(values: impl Iterator<Item = u64>) -> f64 {
    values.sum::<u64>() as f64
}

fn most(values: impl Iterator<Item = u64>) -> f64 {
    values.max().unwrap_or(0) as f64
}

fn least(values: impl Iterator<Item = u64>) -> f64 {
    values.min().unwrap_or(0) as f64
}

/// Registers everything that is counted or read off the node, but for its transport and its log.
pub fn register(
    registry: &Registry,
    serving: Arc<Serving>,
    inbox: Arc<crate::events::Inbox>,
) -> prometheus::Result<()> {
    serving.counts.register(registry)?;
    let mut readings = consensus();
    readings.extend(replicas());
    readings.extend(gossip());
    readings.extend(queues());
    readings.extend(store());
    Sampled::register(registry, readings, move || Look::at(&serving, inbox.len()))
}

/// Leaders, leases, proposals.
fn consensus() -> Vec<Reading<Look>> {
    vec![
        Reading::gauge(
            "scatter_has_leader",
            "1 while each group with a replica here has a leader that is known.",
            |look: &Look| f64::from(u8::from(look.with_leader == look.groups.iter().len())),
        ),
        Reading::gauge(
            "scatter_groups_with_leader",
            "Groups with a replica here whose leader is known.",
            |look: &Look| look.with_leader as f64,
        ),
        Reading::gauge("scatter_groups_led", "Groups led by this node.", |look: &Look| look.led().count() as f64),
        Reading::counter(
            "scatter_leader_changes_total",
            "Times another leader of a group with a replica here became known.",
            |look: &Look| look.view.leader_changes as f64,
        ),
        Reading::gauge(
            "scatter_far_links",
            "Links to groups ahead on the ring that leaders here hold, those to ring successors included.",
            |look: &Look| look.view.far_links as f64,
        ),
        Reading::counter(
            "scatter_looks_total",
            "Questions of leaders here to other groups' leaders about their load and the way on.",
            |look: &Look| look.view.looked.asked as f64,
        ),
        Reading::counter(
            "scatter_looks_unanswered_total",
            "Questions of leaders here to other groups' leaders that nobody had answered by the next turn.",
            |look: &Look| look.view.looked.unanswered as f64,
        ),
        Reading::gauge("scatter_ballot_round", "Highest round of the ballots promised here.", |look: &Look| {
            most(look.replicas(|status| status.ballot.round))
        }),
        Reading::gauge(
            "scatter_lease_margin_seconds",
            "Least time left on a lease held here; 0 if this node leads nothing.",
            |look: &Look| look.led().map(|status| status.lease).min().unwrap_or_default().as_secs_f64(),
        ),
        Reading::gauge(
            "scatter_proposals_pending",
            "Commands proposed here that are neither decided nor failed.",
            |look: &Look| look.view.proposals as f64,
        ),
        Reading::gauge("scatter_entries_pending", "Entries proposed here and not yet decided.", |look: &Look| {
            sum(look.replicas(|status| status.pending))
        }),
        Reading::gauge(
            "scatter_requests_waiting",
            "Commands, reads and orders that wait for the protocol.",
            |look: &Look| look.view.waiting as f64,
        ),
        Reading::gauge(
            "scatter_apply_lag_slots",
            "Slots decided and not yet applied, over all replicas here.",
            |look: &Look| sum(look.replicas(|status| status.decided.0.saturating_sub(status.applied.0))),
        ),
        Reading::gauge(
            "scatter_flush_lag_slots",
            "Slots applied and not yet durable in the data store, over all replicas here: the log keeps them.",
            |look: &Look| sum(look.replicas(|status| status.applied.0.saturating_sub(status.flushed.0))),
        ),
    ]
}

/// What the replicas hold.
fn replicas() -> Vec<Reading<Look>> {
    vec![
        Reading::gauge(
            "scatter_replicas",
            "Replicas on this node, which is groups with a replica here.",
            |look: &Look| look.groups.iter().len() as f64,
        ),
        Reading::gauge("scatter_keys", "Keys in the replicas here.", |look: &Look| sum(look.figures(|of| &of.keys))),
        Reading::gauge("scatter_data_bytes", "Bytes of keys and values in the replicas here.", |look: &Look| {
            sum(look.figures(|of| &of.bytes))
        }),
        Reading::gauge("scatter_largest_group_keys", "Keys of the group here that has most.", |look: &Look| {
            most(look.figures(|of| &of.keys))
        }),
        Reading::gauge(
            "scatter_largest_group_bytes",
            "Bytes of keys and values of the group here that has most.",
            |look: &Look| most(look.figures(|of| &of.bytes)),
        ),
        Reading::gauge("scatter_most_group_voters", "Voters of the group here that has most.", |look: &Look| {
            most(look.voters())
        }),
        Reading::gauge("scatter_fewest_group_voters", "Voters of the group here that has fewest.", |look: &Look| {
            least(look.voters())
        }),
        Reading::gauge(
            "scatter_lanes",
            "Lanes of clients' sessions that the replicas here remember, for writes to be safe to repeat.",
            |look: &Look| sum(look.figures(|of| &of.lanes)),
        ),
        Reading::gauge(
            "scatter_group_operation_oldest_pending_seconds",
            "How long a replica here has known of the group operation that has held its group longest; 0 if none does.",
            |look: &Look| {
                let held = look.groups.iter().filter_map(|served| served.held.as_ref());
                held.map(|held| held.since.elapsed()).max().unwrap_or_default().as_secs_f64()
            },
        ),
        Reading::gauge(
            "scatter_ring_gaps",
            "Ends of ranges here at which no neighbour is known to begin or end: the ring is torn, or a neighbour has not told yet.",
            |look: &Look| look.groups.iter().map(|served| served.gaps()).sum::<usize>() as f64,
        ),
        Reading::gauge("scatter_peers_known", "Other nodes this one has spoken to.", |look: &Look| {
            look.view.spoken_to as f64
        }),
        Reading::gauges(
            "scatter_peer_round_trip_seconds",
            "The kernel's smoothed round-trip time to each peer that a connection to stands.",
            "peer",
            |look: &Look| {
                let trips = look.view.round_trips.iter();
                trips.map(|(node, trip)| (node.to_string(), trip.as_secs_f64())).collect()
            },
        ),
        Reading::gauge("scatter_disk_full", "1 while writes are refused for lack of space.", |look: &Look| {
            f64::from(u8::from(look.view.disk_full))
        }),
    ]
}

/// What gossip knows, and what it costs.
fn gossip() -> Vec<Reading<Look>> {
    let counter = |name: &str, help, read: fn(&Counters) -> u64| {
        Reading::counter(name, help, move |look: &Look| read(&look.view.gossiped) as f64)
    };
    vec![
        Reading::gauges(
            "scatter_gossip_members",
            "Nodes that gossip knows, this one included, by what they are taken for.",
            "state",
            |look: &Look| {
                let count = |state| look.view.nodes.iter().filter(|node| node.state == state).count() as f64;
                STATES.map(|(state, name)| (name.to_owned(), count(state))).into()
            },
        ),
        counter("scatter_gossip_datagrams_sent_total", "Datagrams of gossip sent.", |of| of.sent),
        counter("scatter_gossip_sent_bytes_total", "Bytes of gossip sent.", |of| of.sent_bytes),
        counter("scatter_gossip_datagrams_received_total", "Datagrams of gossip received.", |of| of.received),
        counter("scatter_gossip_received_bytes_total", "Bytes of gossip received.", |of| of.received_bytes),
        counter("scatter_gossip_rejected_total", "Datagrams of gossip that were not taken.", |of| of.rejected),
        counter(
            "scatter_gossip_refused_nodes_total",
            "News of nodes that there was no room for: the cluster has more nodes than a node can know.",
            |of| of.refused_nodes,
        ),
        Reading::gauge(
            "scatter_gossip_oversized_groups",
            "Groups whose descriptors fit no datagram, and are not told to others.",
            |look: &Look| look.view.gossiped.oversized as f64,
        ),
        counter("scatter_gossip_rejoined_total", "Times this node was taken for dead by others and came back.", |of| {
            of.rejoined
        }),
        counter("scatter_gossip_stalls_total", "Times this process was found to have been stopped.", |of| of.stalled),
    ]
}

/// What waits where.
fn queues() -> Vec<Reading<Look>> {
    vec![
        Reading::gauges(
            "scatter_queue_length",
            "What waits: events for the driver, batches for the log, pieces of work for the apply thread, frames for peers.",
            "queue",
            |look: &Look| {
                let queues = &look.view.queues;
                let lengths = [
                    ("driver", look.inbox),
                    ("log", queues.log_batches),
                    ("apply", usize::try_from(look.jobs).unwrap_or(usize::MAX)),
                    ("peers", queues.peer_frames),
                ];
                lengths.into_iter().map(|(queue, length)| (queue.to_owned(), length as f64)).collect()
            },
        ),
        Reading::gauges("scatter_queue_bytes", "Bytes that wait for the log and for peers.", "queue", |look: &Look| {
            let queues = &look.view.queues;
            let sizes = [("log", queues.log_bytes), ("peers", queues.peer_bytes)];
            sizes.into_iter().map(|(queue, bytes)| (queue.to_owned(), bytes as f64)).collect()
        }),
    ]
}

/// RocksDB's own figures.
fn store() -> Vec<Reading<Look>> {
    let gauge = |name: &str, help, read: fn(&RocksStatistics) -> u64| {
        Reading::gauge(name, help, move |look: &Look| read(&look.store) as f64)
    };
    let counter = |name: &str, help, read: fn(&RocksStatistics) -> u64| {
        Reading::counter(name, help, move |look: &Look| read(&look.store) as f64)
    };
    let seconds = |name: &str, help, read: fn(&RocksStatistics) -> u64| {
        Reading::counter(name, help, move |look: &Look| read(&look.store) as f64 / 1e6)
    };
    vec![
        Reading::gauges("scatter_rocksdb_level_files", "Table files of RocksDB, by level.", "level", |look: &Look| {
            let levels = look.store.files_per_level.iter().enumerate();
            levels.map(|(level, files)| (level.to_string(), *files as f64)).collect()
        }),
        gauge("scatter_rocksdb_file_bytes", "Bytes of RocksDB's table files.", |of| of.file_bytes),
        gauge(
            "scatter_rocksdb_drop_waiting_bytes",
            "Bytes of table files that no replica refers to any more and that wait to go, as of the last look.",
            |of| of.waiting_bytes,
        ),
        counter("scatter_rocksdb_dropped_bytes_total", "Bytes of table files that went whole.", |of| {
            of.given_back_bytes
        }),
        gauge("scatter_rocksdb_live_data_bytes", "RocksDB's estimate of the bytes that are not garbage.", |of| {
            of.live_data_bytes
        }),
        gauge("scatter_rocksdb_memtable_bytes", "Bytes in RocksDB's memtables.", |of| of.memtable_bytes),
        gauge("scatter_rocksdb_table_reader_bytes", "Bytes of RocksDB's table readers outside its cache.", |of| {
            of.table_reader_bytes
        }),
        gauge("scatter_rocksdb_cache_bytes", "Bytes in RocksDB's block cache.", |of| of.cache_bytes),
        gauge("scatter_rocksdb_cache_pinned_bytes", "Bytes of RocksDB's block cache that cannot be evicted.", |of| {
            of.cache_pinned_bytes
        }),
        counter("scatter_rocksdb_cache_hits_total", "Block cache hits.", |of| of.cache_hits),
        counter("scatter_rocksdb_cache_misses_total", "Block cache misses.", |of| of.cache_misses),
        counter("scatter_rocksdb_bloom_useful_total", "Reads of a table file that its Bloom filter saved.", |of| {
            of.bloom_useful
        }),
        counter("scatter_rocksdb_memtable_hits_total", "Reads that a memtable answered.", |of| of.memtable_hits),
        counter("scatter_rocksdb_memtable_misses_total", "Reads that went past the memtables.", |of| {
            of.memtable_misses
        }),
        counter("scatter_rocksdb_flush_bytes_total", "Bytes written by flushes.", |of| of.flushed_bytes),
        counter("scatter_rocksdb_compaction_read_bytes_total", "Bytes read by compactions.", |of| {
            of.compaction_read_bytes
        }),
        counter("scatter_rocksdb_compaction_written_bytes_total", "Bytes written by compactions.", |of| {
            of.compaction_written_bytes
        }),
        gauge(
            "scatter_rocksdb_compaction_pending_bytes",
            "RocksDB's estimate of the bytes it has yet to compact.",
            |of| of.pending_compaction_bytes,
        ),
        gauge("scatter_rocksdb_running_compactions", "Compactions that run.", |of| of.running_compactions),
        gauge("scatter_rocksdb_running_flushes", "Flushes that run.", |of| of.running_flushes),
        gauge("scatter_rocksdb_views", "Views of the store that snapshots and reads hold on to.", |of| of.views),
        seconds("scatter_rocksdb_stall_seconds_total", "Time for which RocksDB itself stalled writes.", |of| {
            of.stall_micros
        }),
        seconds(
            "scatter_rocksdb_held_seconds_total",
            "Time for which writes were held back before RocksDB, for flushes or compactions to keep up.",
            |of| of.held_micros,
        ),
        gauge(
            "scatter_rocksdb_delayed_write_bytes_per_second",
            "Rate to which RocksDB slows writes; 0 if it does not.",
            |of| of.delayed_write_rate,
        ),
        gauge("scatter_rocksdb_write_stopped", "1 while RocksDB takes no writes.", |of| u64::from(of.is_write_stopped)),
        counter("scatter_rocksdb_background_errors_total", "Flushes and compactions that failed.", |of| {
            of.background_errors
        }),
    ]
}

/// How long the log's disk takes, and how much it gets at a time.
#[derive(Clone)]
pub struct LogTimes {
    append: Durations,
    sync: Durations,
    batches: Sizes,
}

impl LogTimes {
    /// Creates the metrics and registers them.
    pub fn register(registry: &Registry) -> prometheus::Result<Self> {
        let duration = |name, help| Durations::new(name, help, &[], &[vec![]]);
        let times = Self {
            append: duration("scatter_log_append_seconds", "Time to append what one sync carries to the log.")?,
            sync: duration("scatter_log_sync_seconds", "Time to sync the log.")?,
            batches: Sizes::new("scatter_log_sync_batches", "Batches of writes that one sync of the log carries.")?,
        };
        registry.register(Box::new(times.append.clone()))?;
        registry.register(Box::new(times.sync.clone()))?;
        registry.register(Box::new(times.batches.clone()))?;
        Ok(times)
    }
}

impl LogObserver for LogTimes {
    fn appended(&self, batches: usize, elapsed: Duration) {
        // Without room nothing is appended, again and again.
        if batches > 0 {
            self.append.observe(0, elapsed);
            self.batches.observe(batches);
        }
    }

    fn synced(&self, elapsed: Duration) {
        self.sync.observe(0, elapsed);
    }
}
