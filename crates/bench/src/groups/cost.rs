//! What groups cost: idle ones, and many against one under the same load.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{GroupsError, Settings, as_ordered, fill, metric, node_ids, operator, plan};
use crate::cluster::{Cluster, Programs};
use crate::load::{self, Length};
use crate::measure::Latency;
use crate::workload::{Op, Workload};
use crate::{interrupt, process};

/// How long after a change of the ring a cluster is left alone.
const SETTLE: Duration = Duration::from_secs(20);
/// Least time over which idle processes are watched.
const WATCHED: Duration = Duration::from_secs(30);
const KEYS: Workload = Workload { keys: 10_000, value_bytes: 256, put_percent: 100 };

/// Nodes with nothing to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    /// How many groups each node hosts in the end.
    pub groups: usize,
    /// Each node.
    pub nodes: Vec<IdleNode>,
}

/// One node with nothing to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IdleNode {
    /// Shares of a core, with one group and with all of them.
    pub cores: (f64, f64),
    /// Resident bytes, likewise.
    pub resident: (u64, u64),
}

impl Idle {
    /// Resident bytes of each group more, on the node where that is most.
    pub fn bytes_per_group(&self) -> f64 {
        let each =
            |node: &IdleNode| node.resident.1.saturating_sub(node.resident.0) as f64 / (self.groups - 1).max(1) as f64;
        self.nodes.iter().map(each).fold(0.0, f64::max)
    }

    /// The share of a core that the busiest node uses.
    pub fn cores(&self) -> f64 {
        self.nodes.iter().map(|node| node.cores.1).fold(0.0, f64::max)
    }
}

/// Has three nodes host as many idle groups as wanted, each of them all.
pub fn idle(settings: &Settings, programs: &Programs, folder: &Path) -> Result<Idle, GroupsError> {
    eprintln!("idle groups: {}", settings.idle_groups);
    // Idle neighbours would be merged; all other policies look at every group.
    let extras = settings.extras(["policy.merge=false".to_owned()], 0);
    let (mut cluster, _) = Cluster::start_with(&extras, programs, folder)?;
    let operator = operator(&cluster)?;
    operator.settled(1)?;
    interrupt::sleep(SETTLE)?;
    let before = watch(&cluster)?;
    operator.split_evenly(settings.idle_groups, &node_ids(&cluster)?)?;
    // It would ask the nodes about their groups, and nobody else does.
    cluster.admin = None;
    cluster.gateway = None;
    interrupt::sleep(SETTLE)?;
    let after = watch(&cluster)?;
    let nodes = before.into_iter().zip(after);
    let nodes = nodes.map(|(one, all)| IdleNode { cores: (one.0, all.0), resident: (one.1, all.1) }).collect();
    let found = Idle { groups: settings.idle_groups, nodes };
    eprintln!("{:.2} % of a core, {:.0} KiB per group", found.cores() * 100.0, found.bytes_per_group() / 1024.0);
    Ok(found)
}

/// The share of a core that each node uses while nothing is asked of it, and its resident bytes.
fn watch(cluster: &Cluster) -> Result<Vec<(f64, u64)>, GroupsError> {
    let pids = cluster.pids(false);
    let used = || pids.iter().map(|&pid| process::cpu_time(pid)).collect::<Result<Vec<_>, _>>();
    let (before, since) = (used()?, Instant::now());
    interrupt::sleep(WATCHED)?;
    let (after, took) = (used()?, since.elapsed().as_secs_f64());
    let mut found = Vec::new();
    for ((&pid, before), after) in pids.iter().zip(before).zip(after) {
        found.push(((after - before).as_secs_f64() / took, process::memory(pid)?.resident));
    }
    Ok(found)
}

/// The same load on many groups and on one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Many {
    /// How many are many.
    pub groups: usize,
    /// By how many connections they were loaded.
    pub connections: Vec<usize>,
    /// Each run.
    pub runs: Vec<CostRun>,
    /// What the gateway of the many groups counted while it was measured.
    pub routing: Routing,
}

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CostRun {
    /// In which round.
    pub round: usize,
    /// Over how many groups.
    pub groups: usize,
    /// By how many connections at once.
    pub connections: usize,
    /// What was asked.
    pub op: Op,
    /// Processor time of nodes and gateway, in microseconds per operation.
    pub cpu_us: f64,
    /// How many commands an entry took on average, with those of the warm-up; none if there were no entries.
    pub entry_commands: Option<f64>,
    /// Latencies and rate.
    pub latency: Latency,
    /// How many attempts failed.
    pub failures: u64,
}

/// How requests found their way.
#[derive(Clone, Copy, Default, Debug, Serialize, Deserialize)]
pub struct Routing {
    /// First attempts whose target was in the cache.
    pub hits: f64,
    /// Those whose target had to be found first.
    pub misses: f64,
    /// Requests.
    pub requests: f64,
    /// Attempts of all requests; one is straight to the right node.
    pub attempts: f64,
}

impl Many {
    /// What was measured: connections and operations.
    pub fn cases(&self) -> impl Iterator<Item = (usize, Op)> + use<> {
        let each = |connections| [Op::Put, Op::Get].map(|op| (connections, op));
        self.connections.clone().into_iter().flat_map(each)
    }

    /// The runs of one case.
    pub fn of(&self, connections: usize, op: Op, groups: usize) -> impl Iterator<Item = &CostRun> {
        let is_it = move |run: &&CostRun| run.connections == connections && run.op == op && run.groups == groups;
        self.runs.iter().filter(is_it)
    }

    /// Processor time per operation over many groups as a multiple of that over one, in each round.
    pub fn ratios(&self, connections: usize, op: Op) -> Vec<f64> {
        let of = |round, groups| {
            let mut runs = self.of(connections, op, groups);
            Some(runs.find(|run| run.round == round)?.cpu_us)
        };
        let rounds = self.runs.iter().map(|run| run.round).max().map_or(0, |last| last + 1);
        (0..rounds).filter_map(|round| Some(of(round, self.groups)? / of(round, 1)?)).collect()
    }
}

/// Loads one group and many in turn, both with policies off so that they stay as they are.
pub fn many(settings: &Settings, programs: &Programs, folder: &Path) -> Result<Many, GroupsError> {
    eprintln!("{} groups against one", settings.many_groups);
    let extras = settings.extras(as_ordered(), 0);
    let mut clusters = Vec::new();
    for groups in [1, settings.many_groups] {
        let (mut cluster, _) = Cluster::start_with(&extras, programs, &folder.join(groups.to_string()))?;
        operator(&cluster)?.split_evenly(groups, &node_ids(&cluster)?)?;
        fill(&cluster, KEYS)?;
        cluster.admin = None;
        clusters.push((groups, cluster));
    }
    interrupt::sleep(SETTLE)?;
    let connections = settings.connections.clone();
    let mut found = Many { groups: settings.many_groups, connections, runs: Vec::new(), routing: Routing::default() };
    for round in 0..settings.rounds {
        for (connections, op) in found.cases() {
            for (groups, cluster) in &clusters {
                let before = routing(cluster)?;
                let run = run(settings, cluster, (round, *groups, connections, op))?;
                if *groups > 1 {
                    found.routing.add(before, routing(cluster)?);
                }
                eprintln!(
                    "{op} over {groups:3} groups, {connections:4} connections: {:.1} µs, {:.0}/s, {:.1} commands of an entry",
                    run.cpu_us,
                    run.latency.operations_per_second,
                    run.entry_commands.unwrap_or_default()
                );
                found.runs.push(run);
            }
        }
    }
    Ok(found)
}

fn run(settings: &Settings, cluster: &Cluster, case: (usize, usize, usize, Op)) -> Result<CostRun, GroupsError> {
    let (round, groups, connections, op) = case;
    let workload = Workload { put_percent: if op == Op::Put { 100 } else { 0 }, ..KEYS };
    let length = Length::Timed { warm_up: Duration::from_secs(1), duration: settings.duration };
    let gateway = cluster.gateway.iter().map(|gateway| gateway.endpoint).collect();
    let decided_before = decided(cluster)?;
    let running = load::start(plan(gateway, connections, workload, length))?;
    let pids = cluster.pids(true);
    interrupt::sleep_until(running.window().from)?;
    let before = process::cpu_time_of(&pids)?;
    interrupt::sleep_until(running.window().until)?;
    let used = process::cpu_time_of(&pids)? - before;
    let summary = running.finish()?.summary(settings.duration);
    let failures = summary.failures();
    let latency = summary.of(op).cloned().ok_or_else(|| GroupsError::Failed(format!("no {op} succeeded")))?;
    let cpu_us = used.as_secs_f64() * 1e6 / latency.operations as f64;
    let decided = decided(cluster)?;
    let entries = decided.entries - decided_before.entries;
    let entry_commands = (entries > 0.0).then(|| (decided.commands - decided_before.commands) / entries);
    Ok(CostRun { round, groups, connections, op, cpu_us, entry_commands, latency, failures })
}

/// What leaders have decided so far.
struct Decided {
    commands: f64,
    entries: f64,
}

fn decided(cluster: &Cluster) -> Result<Decided, GroupsError> {
    let read = |name: &str| {
        let of = |endpoint| metric(endpoint, &format!("scatter_entry_commands_{name}"));
        cluster.endpoints().into_iter().map(of).sum::<Result<f64, _>>()
    };
    Ok(Decided { commands: read("sum")?, entries: read("count")? })
}

fn routing(cluster: &Cluster) -> Result<Routing, GroupsError> {
    let gateway = cluster.gateway.as_ref().ok_or_else(|| GroupsError::Failed("there is no gateway".to_owned()))?;
    let read = |name: &str| metric(gateway.endpoint, &format!("scatter_client_{name}"));
    Ok(Routing {
        hits: read("cache_hits_total")?,
        misses: read("cache_misses_total")?,
        requests: read("hops_count")?,
        attempts: read("hops_sum")?,
    })
}

impl Routing {
    fn add(&mut self, before: Self, after: Self) {
        self.hits += after.hits - before.hits;
        self.misses += after.misses - before.misses;
        self.requests += after.requests - before.requests;
        self.attempts += after.attempts - before.attempts;
    }
}
