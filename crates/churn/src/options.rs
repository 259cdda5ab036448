//! What a run is told.

use clap::{ArgAction, Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// The longest mean pause of a client: in a pause it does not hear that the run is over.
const LONGEST_PACE: Duration = Duration::from_secs(1);

/// Kills and replaces the nodes of a real cluster while clients use it, and judges what the clients were told.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    /// How long nodes come and go.
    #[arg(long, default_value = "2m", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long half of the nodes live at most. Lifetimes are Weibull with shape 0.6: many die young, a few live very long.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    pub median_lifetime: Duration,
    /// How long it takes, on average, until a new node with an empty disk comes in a dead one's place.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub absence: Duration,
    /// How many nodes there are while nobody is missing.
    #[arg(long, default_value_t = 8)]
    pub nodes: usize,
    /// How many members a group has.
    #[arg(long, default_value_t = 3)]
    pub group_size: usize,
    /// How many groups there are at the beginning; orders keep their number between half and twice as many.
    #[arg(long, default_value_t = 4)]
    pub groups: usize,
    /// How many clients ask, each one thing at a time and with a time limit of its own.
    #[arg(long, default_value_t = 12)]
    pub clients: u32,
    /// A client's pause after each turn, on average.
    #[arg(long, default_value = "5ms", value_parser = parse_duration)]
    pub pace: Duration,
    /// How many keys are in use at a time.
    #[arg(long, default_value_t = 48)]
    pub keys: usize,
    /// After how many turns a key is judged and another one takes its place.
    #[arg(long, default_value_t = 250)]
    pub turns_per_key: u32,
    /// How many of the keys that are out of use stay in the store and are read once more, later or at the end.
    #[arg(long, default_value_t = 2_000)]
    pub kept_keys: usize,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// What chance comes from. Processes and clocks have a will of their own, so no run is quite like another.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The mean time between two orders to split, merge, repartition, swap a member or hand over; 0 for none.
    #[arg(long, default_value = "4s", value_parser = parse_duration)]
    pub order_every: Duration,
    /// Who replaces members that are dead: the nodes' own policies, or this program as an operator would.
    #[arg(long, value_enum, default_value_t = Replace::ByPolicy)]
    pub replace: Replace,
    /// How long a member must be dead before it is replaced.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub replace_dead_after: Duration,
    /// Whether a node is spared as long as a group could not do without it. Without mercy groups may lose their majority, and
    /// then their data is lost, as in the paper's system.
    #[arg(long, default_value_t = true, action = ArgAction::Set, value_name = "BOOL")]
    pub mercy: bool,
    /// A further setting of every node, as `key=value`.
    #[arg(long, value_parser = parse_setting)]
    pub node_set: Vec<(String, String)>,
    /// How long the ring may take to come to rest when the churn is over, and the last reads to be answered.
    #[arg(long, default_value = "3m", value_parser = parse_duration)]
    pub patience: Duration,
    /// The folder of scatter-node, scatter-gateway and scatter-admin; without it that of this program.
    #[arg(long)]
    pub programs: Option<PathBuf>,
    /// Where report, figure and the list of events go.
    #[arg(long, default_value = "target/churn")]
    pub out: PathBuf,
    /// Write figures and plot into the documentation, if the run did not fail and was not cut short.
    #[arg(long)]
    pub write: bool,
    /// Where the documentation is.
    #[arg(long, default_value = "docs")]
    pub docs: PathBuf,
    /// Keep data and logs of the processes though nothing went wrong.
    #[arg(long)]
    pub keep: bool,
}

/// Who replaces dead members.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Replace {
    /// The leaders of the groups.
    ByPolicy,
    /// This program, through the admin program.
    ByHand,
}

impl Options {
    /// Why these options make no sense.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        let cases = [
            (self.nodes < self.group_size || self.group_size == 0, "a group needs that many nodes"),
            (self.groups == 0 || self.groups > 256, "there are 1 to 256 groups at the beginning"),
            (self.clients == 0 || self.keys == 0 || self.turns_per_key == 0, "clients, keys and turns are at least 1"),
            (self.pace > LONGEST_PACE, "a client pauses for a second at most"),
            (self.median_lifetime.is_zero() || self.duration.is_zero(), "nobody lives for no time"),
        ];
        cases.into_iter().find_map(|(wrong, why)| wrong.then_some(why))
    }
}

/// A number of seconds, or with a unit: `250ms`, `90s`, `2m`, `1h`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("`{other}` is none of ms, s, m, h")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{digits}` is no number"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|error| error.to_string())
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a setting is `key=value`")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, millis) in [("250ms", 250), ("2m", 120_000), ("1.5h", 5_400_000), ("7", 7_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "m", "-1s", "1d", "1 s", "nan"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_defaults_make_sense() {
        let options = Options::parse_from(["scatter-churn"]);
        assert_eq!(options.problem(), None);
        assert!(options.mercy && options.replace == Replace::ByPolicy);
        let options =
            Options::parse_from(["scatter-churn", "--mercy", "false", "--nodes", "2", "--node-set", "a.b=c=d"]);
        assert!(!options.mercy && options.problem().is_some());
        assert_eq!(options.node_set, [("a.b".to_owned(), "c=d".to_owned())]);
    }
}
