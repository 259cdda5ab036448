//! Splits and merges of a group with much data, under writes to the part that moves.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{GroupsError, Settings, as_ordered, disk_bytes, fill, keys_in_upper_half, metric, operator, plan};
use crate::cluster::{Cluster, Programs};
use crate::interrupt;
use crate::load::{self, Length};
use crate::measure::{longest_gap, longest_wait};
use crate::operator::{Group, Operator};
use crate::workload::Workload;

/// How large the values are that a group holds.
const VALUE_BYTES: usize = 16 * 1024;
/// How many write to the part that moves.
const WRITERS: usize = 8;
/// How many keys they write.
const WRITTEN_KEYS: usize = 4_000;
/// How long before an order they write, and after it is carried out.
const AROUND_ORDER: Duration = Duration::from_secs(2);
/// How long after a move a writer's wait counts as its doing.
const AFTERMATH: Duration = Duration::from_millis(500);
/// The most an order may take.
const ORDER_LIMIT: Duration = Duration::from_secs(60);
/// How long the store is left alone before and after a move without writers: longer than it keeps writes in memory.
const FLUSHED: Duration = Duration::from_secs(15);

/// Splits and merges.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moves {
    /// How many bytes the group holds.
    pub bytes: u64,
    /// Each split.
    pub splits: Vec<Trial>,
    /// Each merge.
    pub merges: Vec<Trial>,
    /// A split without writers.
    pub quiet_split: Disks,
    /// A merge likewise.
    pub quiet_merge: Disks,
}

/// One split or merge.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// The longest that a writer waited for its answer, in milliseconds.
    pub pause_ms: f64,
    /// The longest time in which no writer had one.
    pub silence_ms: f64,
    /// The longest that a writer waited in a time as long just before.
    pub before_ms: f64,
    /// How long the order took.
    pub order_ms: f64,
    /// How many requests were answered meanwhile, and how many failed.
    pub requests: (u64, u64),
    /// How those failed.
    pub errors: BTreeMap<String, u64>,
}

/// What all stores together did about a move.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Disks {
    /// Bytes on disk before.
    pub before: u64,
    /// Bytes on disk after.
    pub after: u64,
    /// Bytes that flushes and compactions wrote.
    pub written: f64,
}

/// Fills one group, then splits and merges it again and again.
pub fn moves(settings: &Settings, programs: &Programs, folder: &Path) -> Result<Moves, GroupsError> {
    eprintln!("splits and merges with {} MiB", settings.data_bytes >> 20);
    let (cluster, _) = Cluster::start_with(&settings.extras(as_ordered(), 0), programs, folder)?;
    let operator = operator(&cluster)?;
    let keys = settings.data_bytes / VALUE_BYTES as u64;
    fill(&cluster, Workload { keys, value_bytes: VALUE_BYTES, put_percent: 100 })?;
    operator.settled(1)?;
    let quiet_split = quiet(&cluster, &operator, folder, Move::Split)?;
    let quiet_merge = quiet(&cluster, &operator, folder, Move::Merge)?;
    let (mut splits, mut merges) = (Vec::new(), Vec::new());
    for number in 1..=settings.trials {
        for (what, trials) in [(Move::Split, &mut splits), (Move::Merge, &mut merges)] {
            let found = trial(&cluster, &operator, what)?;
            eprintln!(
                "[{number}/{}] {what:?}: pause {:.1} ms (before {:.1}), silence {:.1} ms, order {:.0} ms, {} failed {:?}",
                settings.trials,
                found.pause_ms,
                found.before_ms,
                found.silence_ms,
                found.order_ms,
                found.requests.1,
                found.errors
            );
            trials.push(found);
        }
    }
    Ok(Moves { bytes: settings.data_bytes, splits, merges, quiet_split, quiet_merge })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Move {
    Split,
    Merge,
}

/// The group that is to split, or to take over the other.
fn actor(operator: &Operator, what: Move) -> Result<Group, GroupsError> {
    let groups = operator.settled(if what == Move::Split { 1 } else { 2 })?;
    let lower = groups.into_iter().min_by_key(|group| group.span.0);
    lower.ok_or_else(|| GroupsError::Failed("there is no group".to_owned()))
}

/// Splits a group in the middle, or merges it with the other.
fn order(operator: &Operator, group: &Group, what: Move) -> Result<(), GroupsError> {
    match what {
        Move::Split => operator.order(group, "split", &json!({ "at": "80" }))?,
        Move::Merge => operator.order(group, "merge", &json!({ "side": "successor" }))?,
    };
    Ok(())
}

fn trial(cluster: &Cluster, operator: &Operator, what: Move) -> Result<Trial, GroupsError> {
    let workload = Workload { keys: 1, value_bytes: 256, put_percent: 100 };
    let length = Length::Timed { warm_up: Duration::ZERO, duration: ORDER_LIMIT + AROUND_ORDER * 2 };
    let gateway = cluster.gateway.iter().map(|gateway| gateway.endpoint).collect();
    let mut plan = plan(gateway, WRITERS, workload, length);
    plan.moments = true;
    plan.among = Some(keys_in_upper_half(WRITTEN_KEYS)?);
    let actor = actor(operator, what)?;
    let running = load::start(plan)?;
    interrupt::sleep(AROUND_ORDER)?;
    let begun = Instant::now();
    order(operator, &actor, what)?;
    let ended = Instant::now();
    interrupt::sleep(AROUND_ORDER)?;
    let cancelled = Instant::now();
    running.cancel();
    let tally = running.finish()?;
    interrupt::check()?;
    let (moments, span) = (tally.moments(), ended + AFTERMATH - begun);
    let milliseconds = |span: Duration| span.as_secs_f64() * 1e3;
    let before = begun.checked_sub(span).unwrap_or(begun);
    Ok(Trial {
        pause_ms: milliseconds(longest_wait(moments, begun, ended + AFTERMATH)),
        silence_ms: milliseconds(longest_gap(moments, begun, cancelled)),
        before_ms: milliseconds(longest_wait(moments, before, begun)),
        order_ms: milliseconds(ended - begun),
        requests: (tally.operations(), tally.failures()),
        errors: tally.summary(ended - begun).errors,
    })
}

/// A move while nobody writes: what becomes of the disks.
fn quiet(cluster: &Cluster, operator: &Operator, folder: &Path, what: Move) -> Result<Disks, GroupsError> {
    interrupt::sleep(FLUSHED)?;
    let (before, written) = (stores(cluster, folder)?, written(cluster)?);
    order(operator, &actor(operator, what)?, what)?;
    interrupt::sleep(FLUSHED)?;
    let found = Disks { before, after: stores(cluster, folder)?, written: self::written(cluster)? - written };
    eprintln!("{what:?} without writers: {} KiB before, {} after", found.before >> 10, found.after >> 10);
    Ok(found)
}

fn stores(cluster: &Cluster, folder: &Path) -> Result<u64, GroupsError> {
    let store = |node: &crate::cluster::Member| disk_bytes(&folder.join(node.server.name()).join("store"));
    Ok(cluster.nodes.iter().map(store).sum::<Result<u64, _>>()?)
}

fn written(cluster: &Cluster) -> Result<f64, GroupsError> {
    let mut sum = 0.0;
    for endpoint in cluster.endpoints() {
        for name in ["scatter_rocksdb_flush_bytes_total", "scatter_rocksdb_compaction_written_bytes_total"] {
            sum += metric(endpoint, name)?;
        }
    }
    Ok(sum)
}
