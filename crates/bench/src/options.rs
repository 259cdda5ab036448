//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::cluster::System;
use crate::compare::Settings;
use crate::gap::Loss;
use crate::groups::{self, Part};
use crate::load::{Length, Plan, Target};
use crate::workload::{KEYS_LIMIT, Workload};

/// Loads Scatter, etcd and a bare HTTP server alike, and tells how they compare.
#[derive(Parser, Debug)]
#[command(name = "scatter-bench", version)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Load servers that run already, once.
    Load(LoadOptions),
    /// Start the systems, measure them in interleaved rounds, write the tables, end them.
    Compare(CompareOptions),
    /// Start a system, lose its leader under writes, tell how long nobody could write.
    Gap(GapOptions),
    /// Start Scatter and measure what groups cost and how they split, merge and replace their dead.
    Groups(GroupsOptions),
    /// Serve keys from memory over bare HTTP, as the floor that nothing can be under.
    Floor {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:7200")]
        listen: SocketAddr,
    },
}

/// A single run.
#[derive(Args, Debug)]
pub struct LoadOptions {
    /// Whom to load: `http://host:port` or `etcd://host:port`, several with commas, all of one kind.
    #[arg(long, value_delimiter = ',', required = true)]
    pub url: Vec<String>,
    /// How many connections, each with one request under way at a time.
    #[arg(long, short = 'c', default_value_t = 64)]
    pub connections: usize,
    /// How many threads generate load.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// How many HTTP/2 connections to each etcd node.
    #[arg(long, default_value_t = 1)]
    pub channels: usize,
    /// How long is measured.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long load runs before it is measured.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// How many different keys.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_LIMIT))]
    pub keys: u64,
    /// How large each value is.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// How many of a hundred operations are writes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub put_percent: u8,
    /// Write every key once instead, as a preparation for reads.
    #[arg(long)]
    pub fill: bool,
    /// How long to wait for an answer.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub deadline: Duration,
    /// A server process whose processor time is counted; may be repeated.
    #[arg(long)]
    pub pid: Vec<u32>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// A comparison.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub struct CompareOptions {
    /// Which systems.
    #[arg(long, value_delimiter = ',', default_values = ["etcd", "scatter", "floor"])]
    pub systems: Vec<System>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// The numbers of connections; 256 is another useful one.
    #[arg(long, short = 'c', value_delimiter = ',', default_values = ["64", "1"])]
    pub connections: Vec<usize>,
    /// How long each run is measured.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long load runs before it is measured.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// How many different keys.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=KEYS_LIMIT))]
    pub keys: u64,
    /// How large each value is.
    #[arg(long, default_value_t = 256)]
    pub value_bytes: usize,
    /// How long to wait for an answer.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub deadline: Duration,
    /// How many threads generate load.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// How many HTTP/2 connections to each etcd node.
    #[arg(long, default_value_t = 1)]
    pub channels: usize,
    /// How often each way of losing the leader is tried at the end; zero for not at all.
    #[arg(long, default_value_t = 0)]
    pub gap_trials: usize,
    /// Write everything as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Put the tables into the generated part of this Markdown file.
    #[arg(long)]
    pub write: Option<PathBuf>,
    /// The command that the tables name as their maker [default: this one].
    #[arg(long)]
    pub made_by: Option<String>,
    /// etcd's server.
    #[arg(long, default_value = "etcd")]
    pub etcd: PathBuf,
    /// The folder with Scatter's binaries [default: that of this program].
    #[arg(long)]
    pub binaries: Option<PathBuf>,
    /// Where data and logs go, in a folder of their own [default: beside this program].
    #[arg(long)]
    pub work: Option<PathBuf>,
}

/// What groups cost, and how they move.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub struct GroupsOptions {
    /// What is measured.
    #[arg(long, value_delimiter = ',', default_values = ["idle", "many", "moves", "replace"])]
    pub parts: Vec<Part>,
    /// How many idle groups.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pub idle_groups: u64,
    /// How many groups are measured against one.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    pub many_groups: u64,
    /// By how many connections many and one are loaded.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 1_024])]
    pub connections: Vec<usize>,
    /// A setting of the nodes beside their defaults, as key=value; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// How often many and one are measured in turn.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How long each run is measured.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How often a group is split and merged.
    #[arg(long, default_value_t = 100)]
    pub trials: usize,
    /// How many MiB a group holds that is split, merged or copied.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub data_mib: u64,
    /// How long a member is dead before it is replaced.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub replace_after: Duration,
    /// Write everything as JSON to this file.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Put the tables into their part of this Markdown file.
    #[arg(long)]
    pub write: Option<PathBuf>,
    /// The command that the tables name as their maker [default: this one].
    #[arg(long)]
    pub made_by: Option<String>,
    /// The folder with Scatter's binaries [default: that of this program].
    #[arg(long)]
    pub binaries: Option<PathBuf>,
    /// Where data and logs go, in a folder of their own [default: beside this program].
    #[arg(long)]
    pub work: Option<PathBuf>,
}

/// Losses of the leader.
#[derive(Args, Debug)]
pub struct GapOptions {
    /// Which systems.
    #[arg(long, value_delimiter = ',', default_values = ["etcd", "scatter"])]
    pub systems: Vec<System>,
    /// How the leader is lost.
    #[arg(long, value_delimiter = ',', ignore_case = true, default_values = ["KILL", "STOP"])]
    pub signal: Vec<Loss>,
    /// How often each.
    #[arg(long, default_value_t = 5)]
    pub trials: usize,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// etcd's server.
    #[arg(long, default_value = "etcd")]
    pub etcd: PathBuf,
    /// The folder with Scatter's binaries [default: that of this program].
    #[arg(long)]
    pub binaries: Option<PathBuf>,
    /// Where data and logs go, in a folder of their own [default: beside this program].
    #[arg(long)]
    pub work: Option<PathBuf>,
}

/// Why options do not make sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// A URL of another kind.
    #[error("--url {0}: write http://host:port or etcd://host:port, all of one kind")]
    Url(String),
    /// A number that must not be zero.
    #[error("--{0} must be at least 1")]
    Zero(&'static str),
}

impl LoadOptions {
    /// The run that is asked for.
    pub fn plan(&self) -> Result<Plan, OptionError> {
        Ok(Plan {
            target: target(&self.url, self.channels)?,
            connections: self.connections,
            threads: self.threads,
            workload: Workload { keys: self.keys, value_bytes: self.value_bytes, put_percent: self.put_percent },
            length: if self.fill {
                Length::EachOnce
            } else {
                Length::Timed { warm_up: self.warm_up, duration: self.duration }
            },
            deadline: self.deadline,
            moments: false,
            among: None,
        })
    }
}

impl CompareOptions {
    /// The comparison that is asked for.
    pub fn settings(&self) -> Result<Settings, OptionError> {
        if self.rounds == 0 {
            return Err(OptionError::Zero("rounds"));
        }
        if self.connections.is_empty() || self.connections.contains(&0) {
            return Err(OptionError::Zero("connections"));
        }
        Ok(Settings {
            systems: self.systems.clone(),
            rounds: self.rounds,
            connections: self.connections.clone(),
            warm_up: self.warm_up,
            duration: self.duration,
            keys: self.keys,
            value_bytes: self.value_bytes,
            deadline: self.deadline,
            threads: self.threads,
            channels: self.channels,
            gap_trials: self.gap_trials,
        })
    }
}

impl GroupsOptions {
    /// What is asked for.
    pub fn settings(&self) -> Result<groups::Settings, OptionError> {
        if self.rounds == 0 {
            return Err(OptionError::Zero("rounds"));
        }
        if self.trials == 0 {
            return Err(OptionError::Zero("trials"));
        }
        if self.connections.is_empty() || self.connections.contains(&0) {
            return Err(OptionError::Zero("connections"));
        }
        Ok(groups::Settings {
            parts: self.parts.clone(),
            connections: self.connections.clone(),
            set: self.set.clone(),
            idle_groups: usize::try_from(self.idle_groups).unwrap_or(usize::MAX),
            many_groups: usize::try_from(self.many_groups).unwrap_or(usize::MAX),
            rounds: self.rounds,
            duration: self.duration,
            trials: self.trials,
            data_bytes: self.data_mib << 20,
            replace_after: self.replace_after,
        })
    }
}

/// The load of a comparison in one sentence.
pub fn describe(settings: &Settings) -> String {
    format!(
        "closed loop, {}-byte values, {} keys chosen evenly, {} rounds of {} s each after {} s of warm-up.",
        settings.value_bytes,
        settings.keys,
        settings.rounds,
        settings.duration.as_secs_f64(),
        settings.warm_up.as_secs_f64()
    )
}

/// The command line as it was typed, but for the folder of the program.
pub fn command_line() -> String {
    let arguments = std::env::args().skip(1);
    std::iter::once("scatter-bench".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn target(urls: &[String], channels: usize) -> Result<Target, OptionError> {
    let mut etcd = None;
    let mut endpoints = Vec::new();
    for url in urls {
        let wrong = || OptionError::Url(url.clone());
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let is_etcd = match scheme {
            "http" => false,
            "etcd" => true,
            _ => return Err(wrong()),
        };
        if *etcd.get_or_insert(is_etcd) != is_etcd {
            return Err(wrong());
        }
        let mut addresses = rest.trim_end_matches('/').to_socket_addrs().map_err(|_| wrong())?;
        endpoints.push(addresses.next().ok_or_else(wrong)?);
    }
    Ok(if etcd == Some(true) { Target::Etcd { endpoints, channels } } else { Target::Http(endpoints) })
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let wrong = || format!("{text:?} is no duration: write a whole number and ms, s or m");
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err(wrong()),
    };
    count.checked_mul(milliseconds).filter(|&total| total <= 86_400_000).map(Duration::from_millis).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Options::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_bars() {
        let options = Options::try_parse_from(["scatter-bench", "compare"]).unwrap();
        let Command::Compare(options) = options.command else { panic!("not a comparison") };
        let settings = options.settings().unwrap();
        assert_eq!((settings.connections.as_slice(), settings.rounds), ([64, 1].as_slice(), 3));
        assert_eq!((settings.keys, settings.value_bytes), (10_000, 256));
    }

    #[test]
    fn a_later_option_overrides_an_earlier_one() {
        let all = ["scatter-bench", "compare", "--gap-trials=5", "--gap-trials=0"];
        let Command::Compare(options) = Options::try_parse_from(all).unwrap().command else { panic!() };
        assert_eq!(options.gap_trials, 0);
    }

    #[test]
    fn bad_options_are_refused() {
        for arguments in [
            ["load", "--url=http://127.0.0.1:1", "--keys=0"],
            ["load", "--url=http://127.0.0.1:1", "--put-percent=101"],
            ["load", "--url=http://127.0.0.1:1", "--duration=5"],
            ["load", "--url=http://127.0.0.1:1", "--duration=99999999999999999999s"],
            ["gap", "--signal=HUP", "--trials=1"],
            ["compare", "--systems=oracle", "--rounds=1"],
        ] {
            let all = std::iter::once("scatter-bench").chain(arguments);
            assert!(Options::try_parse_from(all).is_err(), "{arguments:?}");
        }
        for arguments in [["--rounds=0", "--connections=1"], ["--rounds=1", "--connections=0"]] {
            let all = ["scatter-bench", "compare"].into_iter().chain(arguments);
            let Command::Compare(options) = Options::try_parse_from(all).unwrap().command else { panic!() };
            assert!(options.settings().is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn urls_name_one_kind_of_target() {
        let one = |url: &str| vec![url.to_owned()];
        assert!(
            matches!(target(&one("http://127.0.0.1:7101/"), 1), Ok(Target::Http(endpoints)) if endpoints.len() == 1)
        );
        assert!(matches!(target(&one("etcd://127.0.0.1:2379"), 2), Ok(Target::Etcd { channels: 2, .. })));
        for url in ["127.0.0.1:80", "https://127.0.0.1:80", "http://127.0.0.1", "http://:::"] {
            assert_eq!(target(&one(url), 1).err(), Some(OptionError::Url(url.to_owned())));
        }
        let mixed = vec!["http://127.0.0.1:1".to_owned(), "etcd://127.0.0.1:1".to_owned()];
        assert!(target(&mixed, 1).is_err());
    }

    #[test]
    fn durations_read_as_written() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "s", "-1s", "1h", "1.5s", "1 s"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
