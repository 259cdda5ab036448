//! A member dies for good and a fresh node takes its place, under load.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{GroupsError, Settings, fill, node_ids, operator, plan, status};
use crate::cluster::{Cluster, Programs};
use crate::interrupt;
use crate::load::{self, Length};
use crate::measure::quantile;
use crate::workload::Workload;

const VALUE_BYTES: usize = 16 * 1024;
/// How many use the group meanwhile, half of what they do writes.
const CONNECTIONS: usize = 4;
/// How long the group is used undisturbed.
const UNDISTURBED: Duration = Duration::from_secs(10);
/// How long the newcomer may take, beyond the time that is set.
const LIMIT: Duration = Duration::from_secs(180);
/// How long a full group is left alone, for its store to come to rest.
const SETTLE: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How much is moved to find how fast disk and loopback are.
const PROBED_BYTES: usize = 512 << 20;

/// A replacement.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Replacement {
    /// How many bytes the group holds.
    pub bytes: u64,
    /// The time that is set, in seconds.
    pub set_s: f64,
    /// How long after the death the newcomer held a first piece of the group, in seconds.
    pub started_s: f64,
    /// How long it took from there until it was a voter, in seconds.
    pub caught_up_s: f64,
    /// What the disk takes, written and synced, in bytes a second.
    pub disk_rate: f64,
    /// What goes through the loopback, in bytes a second.
    pub loopback_rate: f64,
    /// 99th percentile of all requests before, in milliseconds.
    pub before_p99_ms: f64,
    /// The same while the newcomer catches up.
    pub meanwhile_p99_ms: f64,
    /// The same with a member dead and nobody in its place yet.
    pub dead_p99_ms: f64,
    /// How many requests succeeded, and how many failed.
    pub requests: (u64, u64),
}

impl Replacement {
    /// Bytes a second that the newcomer took in.
    pub fn rate(&self) -> f64 {
        self.bytes as f64 / self.caught_up_s
    }
}

/// Kills a member that does not lead and waits until a fresh node is in its place.
pub fn replace(settings: &Settings, programs: &Programs, folder: &Path) -> Result<Replacement, GroupsError> {
    eprintln!("replacing a dead member with {} MiB", settings.data_bytes >> 20);
    // One group all the time, so that what is copied is what it holds.
    let set = [
        "policy.split=false".to_owned(),
        format!("policy.replace_dead_after_ms={}", settings.replace_after.as_millis()),
    ];
    let (mut cluster, spare) = Cluster::start_with(&settings.extras(set, 1), programs, folder)?;
    let (disk_rate, loopback_rate) = (disk_rate(folder)?, loopback_rate()?);
    let workload =
        Workload { keys: settings.data_bytes / VALUE_BYTES as u64, value_bytes: VALUE_BYTES, put_percent: 100 };
    fill(&cluster, workload)?;
    let groups = operator(&cluster)?.settled(1)?;
    let ids = node_ids(&cluster)?;
    let victim = ids.iter().position(|id| groups[0].leader != *id).unwrap_or(0);
    interrupt::sleep(SETTLE)?;

    let duration = UNDISTURBED + settings.replace_after + LIMIT;
    let length = Length::Timed { warm_up: Duration::ZERO, duration };
    let gateway = cluster.gateway.iter().map(|gateway| gateway.endpoint).collect();
    // Small values in other keys: what is copied does not change.
    let small = Workload { keys: 10_000, value_bytes: 256, put_percent: 100 };
    let mut plan = plan(gateway, CONNECTIONS, small, length);
    plan.moments = true;
    plan.among = Some(super::keys_in_upper_half(10_000)?);
    let running = load::start(plan)?;
    let begun = Instant::now();
    interrupt::sleep(UNDISTURBED)?;
    cluster.nodes[victim].server.kill()?;
    let died = Instant::now();
    let spare = spare.into_iter().next().ok_or_else(|| GroupsError::Failed("there is no spare node".to_owned()))?;
    let fresh = spare.start()?;
    let patience = died + settings.replace_after + LIMIT;
    let wait = |wanted: &[&str]| -> Result<Instant, GroupsError> {
        loop {
            let role =
                status(fresh.endpoint).ok().and_then(|status| Some(status["replicas"][0]["role"].as_str()?.to_owned()));
            if role.is_some_and(|role| wanted.contains(&role.as_str())) {
                return Ok(Instant::now());
            }
            if Instant::now() >= patience {
                return Err(GroupsError::Failed("nobody took the place of the dead member in time".to_owned()));
            }
            interrupt::sleep(LOOK_AGAIN)?;
        }
    };
    let started = wait(&["joining", "learner", "follower"])?;
    let caught_up = wait(&["follower", "leader"])?;
    running.cancel();
    let tally = running.finish()?;
    let p99 = |from, until| quantile(tally.moments(), from, until, 0.99).as_secs_f64() * 1e3;
    let found = Replacement {
        bytes: settings.data_bytes,
        set_s: settings.replace_after.as_secs_f64(),
        started_s: (started - died).as_secs_f64(),
        caught_up_s: (caught_up - started).as_secs_f64(),
        disk_rate,
        loopback_rate,
        before_p99_ms: p99(begun + Duration::from_secs(1), died),
        meanwhile_p99_ms: p99(started, caught_up),
        dead_p99_ms: p99(died, started),
        requests: (tally.operations(), tally.failures()),
    };
    eprintln!("{found:?}");
    Ok(found)
}

/// Bytes a second that a file takes, with what it takes to sync them.
fn disk_rate(folder: &Path) -> io::Result<f64> {
    let path = folder.join("written");
    let mut file = std::fs::File::create(&path)?;
    let piece = vec![7; 1 << 20];
    let begun = Instant::now();
    for _ in 0..PROBED_BYTES / piece.len() {
        file.write_all(&piece)?;
    }
    file.sync_all()?;
    let took = begun.elapsed();
    std::fs::remove_file(path)?;
    Ok(PROBED_BYTES as f64 / took.as_secs_f64())
}

/// Bytes a second that one connection on this machine carries.
fn loopback_rate() -> io::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let writer = std::thread::spawn(move || -> io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let piece = vec![7; 1 << 18];
        (0..PROBED_BYTES / piece.len()).try_for_each(|_| stream.write_all(&piece))
    });
    let (mut stream, _) = listener.accept()?;
    let mut piece = vec![0; 1 << 18];
    let begun = Instant::now();
    while stream.read(&mut piece)? > 0 {}
    let took = begun.elapsed();
    writer.join().map_err(|_| io::Error::other("the writer panicked"))??;
    Ok(PROBED_BYTES as f64 / took.as_secs_f64())
}
