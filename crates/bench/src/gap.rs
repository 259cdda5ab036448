//! The failover gap: how long nobody can write after the leader is lost.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, System};
use crate::compare::CompareError;
use crate::interrupt;
use crate::load::{self, Length, Plan, Target};
use crate::measure::longest_gap;
use crate::process::Signal;
use crate::workload::Workload;

/// How many workers write.
pub const WRITERS: usize = 16;
/// How long a writer waits before it turns to another node.
pub const WRITER_DEADLINE: Duration = Duration::from_millis(100);
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(6);
/// How long a system is left alone once whole again, so that a trial does not meet the end of the one before.
const RECOVER: Duration = Duration::from_secs(3);

/// How the leader was lost.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum Loss {
    /// Its process was killed: its connections break at once.
    Kill,
    /// Its process was stopped: it is silent, as a lost host is.
    Stop,
}

/// One loss of a leader.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct GapTrial {
    /// Whose leader.
    pub system: System,
    /// How it was lost.
    pub loss: Loss,
    /// The longest time without a successful write, in seconds.
    pub seconds: f64,
    /// Whether writes had resumed when the trial ended.
    pub resumed: bool,
}

/// Loses the leader `count` times, making the system whole again after each.
pub fn trials(cluster: &mut Cluster, loss: Loss, count: usize) -> Result<Vec<GapTrial>, CompareError> {
    let mut trials = Vec::new();
    for number in 1..=count {
        let trial = trial(cluster, loss)?;
        eprintln!(
            "[{number}/{count}] {}, leader lost by {loss:?}: {:.2} s without a write",
            trial.system, trial.seconds
        );
        trials.push(trial);
    }
    Ok(trials)
}

fn trial(cluster: &mut Cluster, loss: Loss) -> Result<GapTrial, CompareError> {
    interrupt::sleep(RECOVER)?;
    let leader = cluster.leader()?;
    let running = load::start(plan(cluster))?;
    interrupt::sleep(BEFORE)?;
    let event = Instant::now();
    match loss {
        Loss::Kill => cluster.nodes[leader].server.kill()?,
        Loss::Stop => cluster.nodes[leader].server.signal(Signal::Stop)?,
    }
    let end = running.window().until;
    let tally = running.finish()?;
    match loss {
        Loss::Kill => cluster.nodes[leader].restart()?,
        Loss::Stop => cluster.nodes[leader].server.signal(Signal::Continue)?,
    }
    interrupt::check()?;
    cluster.wait_ready()?;
    let moments = tally.moments();
    let resumed = moments.last().is_some_and(|last| end.duration_since(last.done) < Duration::from_secs(1));
    let seconds = longest_gap(moments, event, end).as_secs_f64();
    Ok(GapTrial { system: cluster.system, loss, seconds, resumed })
}

fn plan(cluster: &Cluster) -> Plan {
    let endpoints = cluster.endpoints();
    Plan {
        target: match cluster.system {
            System::Etcd => Target::Etcd { endpoints, channels: 1 },
            System::Scatter | System::Floor => Target::Http(endpoints),
        },
        connections: WRITERS,
        threads: 1,
        workload: Workload { keys: 10_000, value_bytes: 256, put_percent: 100 },
        length: Length::Timed { warm_up: Duration::ZERO, duration: BEFORE + AFTER },
        deadline: WRITER_DEADLINE,
        moments: true,
        among: None,
    }
}
