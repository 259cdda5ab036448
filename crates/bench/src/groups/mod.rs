//! What groups cost, and how they move: idle groups, many against one, warm routing, split, merge, the replacement of a dead
//! member. All with three nodes and a gateway on this machine, judged against the bars in [`report`].

pub mod cost;
pub mod moves;
pub mod replace;
pub mod report;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use scatter_core::ring::Key;
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, ClusterError, Extras, Programs};
use crate::interrupt::{self, Interrupted};
use crate::load::{self, Length, LoadError, Plan, Target};
use crate::operator::{Operator, OrderError};
use crate::probe;
use crate::workload::{KEYS_LIMIT, Workload, key_text};

/// How many connections fill a cluster.
const FILL_CONNECTIONS: usize = 16;
/// How long a worker waits for an answer.
const DEADLINE: Duration = Duration::from_secs(10);
const ASK_LIMIT: Duration = Duration::from_secs(5);

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Processor time and memory of groups that have nothing to do.
    Idle,
    /// Processor time of an operation with many groups and with one, and the gateway's routing.
    Many,
    /// Splits and merges under writes.
    Moves,
    /// The replacement of a dead member under load.
    Replace,
}

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which parts.
    pub parts: Vec<Part>,
    /// How many idle groups.
    pub idle_groups: usize,
    /// How many groups are measured against one.
    pub many_groups: usize,
    /// By how many connections many and one are loaded.
    pub connections: Vec<usize>,
    /// Settings of the nodes beside their defaults, each as `key=value`.
    pub set: Vec<String>,
    /// How often many and one are measured in turn.
    pub rounds: usize,
    /// How long each run is measured.
    pub duration: Duration,
    /// How often a group is split and merged.
    pub trials: usize,
    /// How many bytes a group holds that is split, merged or copied.
    pub data_bytes: u64,
    /// How long a member is dead before it is replaced.
    pub replace_after: Duration,
}

impl Settings {
    /// A cluster with an admin program, settings of its own, and so many nodes to be started later.
    fn extras(&self, own: impl IntoIterator<Item = String>, spare: usize) -> Extras {
        Extras { settings: own.into_iter().chain(self.set.iter().cloned()).collect(), admin: true, spare }
    }
}

/// Settings with which groups stay as they were ordered to be.
fn as_ordered() -> impl Iterator<Item = String> {
    let policies = ["split", "merge", "repartition", "leaders", "latency", "migrate"];
    policies.into_iter().map(|policy| format!("policy.{policy}=false"))
}

/// Why measuring ended early.
#[derive(Debug, thiserror::Error)]
pub enum GroupsError {
    /// A cluster does not run.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The generator does not run.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An order was not carried out.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// A process, a file or a page cannot be looked at.
    #[error("looking at a server: {0}")]
    Io(#[from] io::Error),
    /// Something that is waited for did not happen, or what was measured is of no use.
    #[error("{0}")]
    Failed(String),
    /// The user asked the program to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Everything measured; what was not asked for is missing.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// Idle groups.
    pub idle: Option<cost::Idle>,
    /// Many groups against one.
    pub many: Option<cost::Many>,
    /// Splits and merges.
    pub moves: Option<moves::Moves>,
    /// The replacement.
    pub replace: Option<replace::Replacement>,
}

/// Measures all parts that are wanted, each with clusters of its own in `folder`.
pub fn measure(settings: &Settings, programs: &Programs, folder: &Path) -> Result<Findings, GroupsError> {
    let mut findings = Findings::default();
    for part in &settings.parts {
        let folder = folder.join(format!("{part:?}").to_lowercase());
        match part {
            Part::Idle => findings.idle = Some(cost::idle(settings, programs, &folder)?),
            Part::Many => findings.many = Some(cost::many(settings, programs, &folder)?),
            Part::Moves => findings.moves = Some(moves::moves(settings, programs, &folder)?),
            Part::Replace => findings.replace = Some(replace::replace(settings, programs, &folder)?),
        }
        // Its data would be in the way of what comes next.
        std::fs::remove_dir_all(folder)?;
    }
    Ok(findings)
}

/// A load by `connections` on `endpoints`.
fn plan(endpoints: Vec<SocketAddr>, connections: usize, workload: Workload, length: Length) -> Plan {
    let target = Target::Http(endpoints);
    Plan { target, connections, threads: 1, workload, length, deadline: DEADLINE, moments: false, among: None }
}

/// Writes every key once, through whichever node.
fn fill(cluster: &Cluster, workload: Workload) -> Result<(), GroupsError> {
    let plan = plan(cluster.endpoints(), FILL_CONNECTIONS, workload, Length::EachOnce);
    let tally = load::start(plan)?.finish()?;
    interrupt::check()?;
    if tally.operations() < workload.keys {
        return Err(GroupsError::Failed(format!(
            "only {} of {} keys could be written",
            tally.operations(),
            workload.keys
        )));
    }
    Ok(())
}

/// So many key numbers in the upper half of all positions, none of them among the first ones.
fn keys_in_upper_half(count: usize) -> Result<Arc<[u64]>, GroupsError> {
    let wrong = |_| GroupsError::Failed("a key that is none".to_owned());
    let mut keys = Vec::new();
    for number in KEYS_LIMIT / 2..KEYS_LIMIT {
        let key = Key::new(key_text(number).into_bytes()).map_err(wrong)?;
        if key.position().0.first().is_some_and(|byte| *byte >= 0x80) {
            keys.push(number);
        }
        if keys.len() == count {
            break;
        }
    }
    Ok(keys.into())
}

/// The operator of a cluster.
fn operator(cluster: &Cluster) -> Result<Operator, GroupsError> {
    let admin = cluster.admin.as_ref().ok_or_else(|| GroupsError::Failed("there is no admin program".to_owned()))?;
    Ok(Operator { admin: admin.endpoint })
}

/// What a node says of itself.
fn status(endpoint: SocketAddr) -> Result<serde_json::Value, GroupsError> {
    let (status, body) = probe::get(endpoint, "/v1/status", ASK_LIMIT)?;
    let document = serde_json::from_slice(&body).ok().filter(|_| status == 200);
    document.ok_or_else(|| GroupsError::Failed(format!("{endpoint} does not say how it is: status {status}")))
}

/// The ids of the nodes of a cluster.
fn node_ids(cluster: &Cluster) -> Result<Vec<String>, GroupsError> {
    let id = |endpoint| Ok(status(endpoint)?["node"]["id"].as_str().unwrap_or_default().to_owned());
    cluster.endpoints().into_iter().map(id).collect()
}

/// What a program's metrics say under a name with its labels.
fn metric(endpoint: SocketAddr, name: &str) -> Result<f64, GroupsError> {
    let (_, body) = probe::get(endpoint, "/metrics", ASK_LIMIT)?;
    let text = String::from_utf8_lossy(&body);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    value.ok_or_else(|| GroupsError::Failed(format!("{endpoint} has no metric {name}")))
}

/// The bytes that a folder takes on its disk; files with several names count once.
fn disk_bytes(folder: &Path) -> io::Result<u64> {
    fn walk(folder: &Path, seen: &mut std::collections::BTreeMap<u64, u64>) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            match std::fs::symlink_metadata(&path) {
                Ok(data) if data.is_dir() => walk(&path, seen)?,
                Ok(data) => _ = seen.insert(data.ino(), data.blocks() * 512),
                // Files come and go meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
    let mut seen = std::collections::BTreeMap::new();
    walk(folder, &mut seen)?;
    Ok(seen.values().sum())
}
