//! The comparison: all systems up at once, each measured in turn, round after round.
//!
//! Only one system has load at a time; the others run but are idle. So drift of the machine falls on all alike, and the
//! ratios within a round are fair even when the figures are not steady.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, ClusterError, Programs, System};
use crate::gap::{self, GapTrial, Loss};
use crate::interrupt::{self, Interrupted};
use crate::load::{self, Length, LoadError, Plan, Target};
use crate::process;
use crate::report::{Case, MemoryFigure, Route, Run};
use crate::workload::{Op, Workload};

/// How long servers are left alone before their idle memory is read, and after being filled.
const SETTLE: Duration = Duration::from_secs(3);
/// How many connections write every key once.
const FILL_CONNECTIONS: usize = 32;

/// What is compared, and how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which systems.
    pub systems: Vec<System>,
    /// How often everything is measured.
    pub rounds: usize,
    /// The numbers of connections.
    pub connections: Vec<usize>,
    /// Not measured, before each run.
    pub warm_up: Duration,
    /// Measured, in each run.
    pub duration: Duration,
    /// How many keys.
    pub keys: u64,
    /// How large each value is.
    pub value_bytes: usize,
    /// How long a worker waits for an answer.
    pub deadline: Duration,
    /// How many threads generate load.
    pub threads: usize,
    /// How many HTTP/2 connections to each etcd node.
    pub channels: usize,
    /// How often each way of losing the leader is tried; zero for not at all.
    pub gap_trials: usize,
}

/// Why a comparison ended early.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A system does not run.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The generator does not run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A process cannot be looked at or signalled.
    #[error("looking at or signalling a server: {0}")]
    Process(#[from] std::io::Error),
    /// A run in which nothing succeeded.
    #[error("{case}: no operation succeeded; failures: {failures:?}")]
    NothingSucceeded {
        /// Which run.
        case: Case,
        /// What happened instead.
        failures: BTreeMap<String, u64>,
    },
    /// The keys could not be written before measuring.
    #[error("{system}: only {written} of {keys} keys could be written; failures: {failures:?}")]
    NotFilled {
        /// Which system.
        system: System,
        /// How many keys were written.
        written: u64,
        /// How many there are.
        keys: u64,
        /// What happened instead.
        failures: BTreeMap<String, u64>,
    },
    /// The user asked the program to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Everything measured.
#[derive(Default)]
pub struct Findings {
    /// Each run.
    pub runs: Vec<Run>,
    /// Memory of each process.
    pub memory: Vec<MemoryFigure>,
    /// Losses of the leader.
    pub gaps: Vec<GapTrial>,
}

/// Starts the systems, measures them, and ends them.
pub fn compare(settings: &Settings, programs: &Programs, folder: &Path) -> Result<Findings, CompareError> {
    let mut clusters = Vec::new();
    for &system in &settings.systems {
        eprintln!("starting {system}");
        clusters.push(Cluster::start(system, programs, &folder.join(system.to_string()))?);
    }
    interrupt::sleep(SETTLE)?;
    let mut memory = idle_memory(&clusters)?;
    for cluster in &clusters {
        eprintln!("writing {} keys to {}", settings.keys, cluster.system);
        fill(settings, cluster)?;
    }
    interrupt::sleep(SETTLE)?;
    let runs = rounds(settings, &clusters)?;
    note_peaks(&mut memory, &clusters)?;
    let mut gaps = Vec::new();
    for cluster in clusters.iter_mut().filter(|cluster| cluster.system != System::Floor) {
        for loss in [Loss::Kill, Loss::Stop] {
            gaps.extend(gap::trials(cluster, loss, settings.gap_trials)?);
        }
    }
    Ok(Findings { runs, memory, gaps })
}

/// Every case of one round: systems alternate within an operation and a number of connections.
pub fn cases(systems: &[System], connections: &[usize], round: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for &connections in connections {
        for op in [Op::Put, Op::Get] {
            let mut block = Vec::new();
            for &system in systems {
                for &route in routes(system, connections) {
                    block.push(Case { system, route, op, connections });
                }
            }
            // Nobody always goes first.
            let by = round % block.len().max(1);
            block.rotate_left(by);
            cases.extend(block);
        }
    }
    cases
}

fn routes(system: System, connections: usize) -> &'static [Route] {
    match (system, connections) {
        (System::Floor, _) => &[Route::Leader],
        // One connection reaches one node: the leader, or it would measure a hop.
        (System::Etcd, 1) => &[Route::Leader],
        (System::Scatter, 1) => &[Route::Leader, Route::Gateway],
        (System::Etcd, _) => &[Route::Leader, Route::All],
        (System::Scatter, _) => &[Route::Leader, Route::All, Route::Gateway],
    }
}

fn rounds(settings: &Settings, clusters: &[Cluster]) -> Result<Vec<Run>, CompareError> {
    let mut runs = Vec::new();
    let started = Instant::now();
    let total = settings.rounds * cases(&settings.systems, &settings.connections, 0).len();
    for round in 0..settings.rounds {
        for case in cases(&settings.systems, &settings.connections, round) {
            let Some(cluster) = clusters.iter().find(|cluster| cluster.system == case.system) else { continue };
            let run = measure(settings, cluster, case, round)?;
            let left = started.elapsed().as_secs_f64() / (runs.len() + 1) as f64 * (total - runs.len() - 1) as f64;
            eprintln!("[{:3}/{total}, {left:4.0} s left] {run}", runs.len() + 1);
            runs.push(run);
        }
    }
    Ok(runs)
}

fn target(settings: &Settings, cluster: &Cluster, route: Route) -> Result<Target, ClusterError> {
    let endpoints = match (route, &cluster.gateway) {
        (Route::All, _) => cluster.endpoints(),
        (Route::Gateway, Some(gateway)) => vec![gateway.endpoint],
        (Route::Leader | Route::Gateway, _) => vec![cluster.nodes[cluster.leader()?].endpoint],
    };
    Ok(match cluster.system {
        System::Etcd => Target::Etcd { endpoints, channels: settings.channels },
        System::Scatter | System::Floor => Target::Http(endpoints),
    })
}

fn plan(settings: &Settings, target: Target, connections: usize, put_percent: u8, length: Length) -> Plan {
    Plan {
        target,
        connections,
        threads: settings.threads,
        workload: Workload { keys: settings.keys, value_bytes: settings.value_bytes, put_percent },
        length,
        deadline: settings.deadline,
        moments: false,
        among: None,
    }
}

fn fill(settings: &Settings, cluster: &Cluster) -> Result<(), CompareError> {
    let target = target(settings, cluster, Route::Leader)?;
    let tally = load::start(plan(settings, target, FILL_CONNECTIONS, 100, Length::EachOnce))?.finish()?;
    interrupt::check()?;
    if tally.operations() < settings.keys {
        return Err(CompareError::NotFilled {
            system: cluster.system,
            written: tally.operations(),
            keys: settings.keys,
            failures: tally.summary(settings.duration).errors,
        });
    }
    Ok(())
}

/// One run: load for the warm-up and the duration, processor time read at both ends of the duration.
fn measure(settings: &Settings, cluster: &Cluster, case: Case, round: usize) -> Result<Run, CompareError> {
    let target = target(settings, cluster, case.route)?;
    let put_percent = if case.op == Op::Put { 100 } else { 0 };
    let length = Length::Timed { warm_up: settings.warm_up, duration: settings.duration };
    let pids = cluster.pids(case.route == Route::Gateway);
    let own = std::process::id();
    let running = load::start(plan(settings, target, case.connections, put_percent, length))?;
    interrupt::sleep_until(running.window().from)?;
    let before = (process::cpu_time_of(&pids)?, process::cpu_time(own)?);
    interrupt::sleep_until(running.window().until)?;
    let after = (process::cpu_time_of(&pids)?, process::cpu_time(own)?);
    let summary = running.finish()?.summary(settings.duration);
    let Some(latency) = summary.of(case.op).cloned() else {
        return Err(CompareError::NothingSucceeded { case, failures: summary.errors });
    };
    let each = |used: Duration| used.as_secs_f64() * 1e6 / latency.operations as f64;
    Ok(Run {
        round,
        case,
        server_cpu_us: each(after.0.saturating_sub(before.0)),
        generator_cpu_us: each(after.1.saturating_sub(before.1)),
        latency,
        errors: summary.errors,
    })
}

fn idle_memory(clusters: &[Cluster]) -> Result<Vec<MemoryFigure>, CompareError> {
    let mut figures = Vec::new();
    for cluster in clusters {
        for member in cluster.nodes.iter().chain(&cluster.gateway) {
            let resident = process::memory(member.server.pid())?.resident;
            figures.push(MemoryFigure {
                system: cluster.system,
                process: member.server.name().to_owned(),
                idle_bytes: resident,
                peak_bytes: resident,
            });
        }
    }
    Ok(figures)
}

fn note_peaks(figures: &mut [MemoryFigure], clusters: &[Cluster]) -> Result<(), CompareError> {
    for cluster in clusters {
        for member in cluster.nodes.iter().chain(&cluster.gateway) {
            let peak = process::memory(member.server.pid())?.peak;
            let name = member.server.name();
            if let Some(figure) =
                figures.iter_mut().find(|figure| figure.system == cluster.system && figure.process == name)
            {
                figure.peak_bytes = peak;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [System; 3] = [System::Etcd, System::Scatter, System::Floor];

    #[test]
    fn every_round_holds_the_same_cases_in_another_order() {
        let (first, second) = (cases(&ALL, &[64, 1], 0), cases(&ALL, &[64, 1], 1));
        assert_ne!(first, second);
        let sorted = |mut cases: Vec<Case>| {
            cases.sort();
            cases
        };
        assert_eq!(sorted(first.clone()), sorted(second));
        assert_eq!(first.len(), 2 * 6 + 2 * 4);
    }

    #[test]
    fn one_connection_goes_to_the_leader_or_the_gateway() {
        assert!(cases(&ALL, &[1], 0).iter().all(|case| case.route != Route::All));
    }
}
