//! The command line's shape.

use crate::remote::{Remote, Server};
use crate::{Exit, Failure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line does not make sense
  3  the key, group or node does not exist
  4  a condition does not hold; nothing changed
  5  the outcome is unknown: the write or the order may have happened, or may still
  6  nobody could serve the request in time; a write was not applied, and trying again may help
  7  the order conflicts with how the group is at the moment; nothing was done";

/// Reads and writes keys, shows the ring and gives orders to its groups.
#[derive(Parser, Debug)]
#[command(name = "scatterctl", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connections: Connections,
    /// How to write what is found
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true,
        help_heading = "Options of every command")]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Whom to ask.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Connections {
    /// The gateway (or a node), for data [default: $SCATTER_GATEWAY or http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", global = true)]
    gateway: Option<String>,
    /// The admin program, for the ring [default: $SCATTER_ADMIN or http://127.0.0.1:8081]
    #[arg(long, value_name = "URL", global = true)]
    admin: Option<String>,
    /// How long a request may take, such as 500ms, 5s or 2m [default: 5s, for orders 90s]
    #[arg(long, value_name = "TIME", value_parser = duration, global = true)]
    timeout: Option<Duration>,
}

impl Connections {
    pub(crate) fn gateway(&self) -> Result<Remote, Failure> {
        self.remote(Server::Gateway, &self.gateway, "http://127.0.0.1:8080")
    }

    pub(crate) fn admin(&self) -> Result<Remote, Failure> {
        self.remote(Server::Admin, &self.admin, "http://127.0.0.1:8081")
    }

    fn remote(&self, server: Server, flag: &Option<String>, default: &str) -> Result<Remote, Failure> {
        let url = flag.clone().or_else(|| std::env::var(server.variable()).ok());
        let url = url.unwrap_or_else(|| default.to_owned());
        Remote::new(server, &url, self.timeout).map_err(|text| Failure::new(Exit::Usage, text))
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Sets a key
    Put(Put),
    /// Reads a key; its bytes go to standard output as they are
    Get(Get),
    /// Removes a key
    Delete(Delete),
    /// Shows the ring and what is wrong with it
    Ring(Ring),
    /// Shows all groups, or one with its replicas
    Groups(Groups),
    /// Shows all nodes
    Nodes,
    /// Shows where a key lies
    Lookup(Lookup),
    /// Gives the upper part of a group's range to a new group
    Split(Split),
    /// Has a group take over all that its neighbour has
    Merge(Merge),
    /// Moves the boundary between a group and its neighbour
    Repartition(Repartition),
    /// Moves a group's replicas from some nodes to others, and shows the progress
    Migrate(Migrate),
    /// Empties a node: what it leads goes to others at once, its replicas as there is room elsewhere
    Drain(NodeOrder),
    /// Takes a drain back
    Undrain(NodeOrder),
    /// Takes a node that is dead or empty out of every group
    RemoveNode(NodeOrder),
    /// Has a group that has lost its majority for good go on with its survivors: what only the others had is lost
    Recover(Recover),
    /// Shows what was ordered and seen lately, and what came of it
    Operations,
    /// Adds members to a group and removes others, in one step
    Members(Members),
    /// Hands a group's leadership to another member
    TransferLeader(TransferLeader),
    /// Measures reads and writes in a closed loop
    Bench(Bench),
    /// Writes a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key: 1 to 4096 bytes
    pub(crate) key: OsString,
    /// The value; without it and --file it is read from standard input
    #[arg(conflicts_with = "file")]
    pub(crate) value: Option<OsString>,
    /// Reads the value from this file; - is standard input
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// How long the value lives, such as 30s, 2h30m or 1d
    #[arg(long, value_name = "TIME", value_parser = time_to_live)]
    pub(crate) ttl: Option<Duration>,
    /// Only if the key has exactly this version
    #[arg(long, value_name = "VERSION", conflicts_with = "create")]
    pub(crate) if_version: Option<u64>,
    /// Only if the key does not exist
    #[arg(long)]
    pub(crate) create: bool,
    /// Makes the write safe to repeat from anywhere under the same text
    #[arg(long, value_name = "TEXT")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The key
    pub(crate) key: OsString,
    /// How fresh the value must be
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    pub(crate) consistency: Consistency,
    /// For bounded reads: how old the value may be
    #[arg(long, value_name = "TIME", value_parser = duration, required_if_eq("consistency", "bounded"))]
    pub(crate) max_staleness: Option<Duration>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Consistency {
    /// Sees every write that was acknowledged before
    Linearizable,
    /// Sees every write acknowledged longer ago than --max-staleness
    Bounded,
    /// Whatever the nearest replica has
    Any,
}

#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The key
    pub(crate) key: OsString,
    /// Only if the key has exactly this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) if_version: Option<u64>,
    /// Makes the delete safe to repeat from anywhere under the same text
    #[arg(long, value_name = "TEXT")]
    pub(crate) idempotency_key: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Ring {
    /// Ends with exit code 1 if anything is wrong
    #[arg(long)]
    pub(crate) check: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Groups {
    /// One group's id
    pub(crate) group: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Lookup {
    /// The key
    pub(crate) key: OsString,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args(["add", "remove"]))]
pub(crate) struct Members {
    /// The group's id
    pub(crate) group: String,
    /// A node to add; may be repeated
    #[arg(long, value_name = "NODE")]
    pub(crate) add: Vec<String>,
    /// A node to remove; may be repeated
    #[arg(long, value_name = "NODE")]
    pub(crate) remove: Vec<String>,
    /// Only if the group's configuration has this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) configuration_version: Option<u64>,
    /// Only shows what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Does not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// What every order that reshapes the ring takes.
#[derive(Args, Debug)]
pub(crate) struct Order {
    /// Only if the group's range has this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) range_version: Option<u64>,
    /// Only shows what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Does not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// A position on the ring.
#[derive(Args, Debug)]
pub(crate) struct Place {
    /// The position, in hexadecimal
    #[arg(long, visible_alias = "boundary", value_name = "HEX", conflicts_with = "key")]
    pub(crate) at: Option<String>,
    /// The position of this key
    #[arg(long)]
    pub(crate) key: Option<OsString>,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The group whose range begins where this one's ends
    Successor,
    /// The group whose range ends where this one's begins
    Predecessor,
}

#[derive(Args, Debug)]
pub(crate) struct Split {
    /// The group's id
    pub(crate) group: String,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) order: Order,
}

#[derive(Args, Debug)]
pub(crate) struct Merge {
    /// The id of the group that takes over
    pub(crate) group: String,
    /// Which neighbour ends [default: successor]
    #[arg(long, value_enum)]
    pub(crate) side: Option<Side>,
    #[command(flatten)]
    pub(crate) order: Order,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["at", "key"]))]
pub(crate) struct Repartition {
    /// The group's id
    pub(crate) group: String,
    #[command(flatten)]
    pub(crate) place: Place,
    /// Which of the group's two boundaries moves [default: successor]
    #[arg(long, value_enum)]
    pub(crate) side: Option<Side>,
    #[command(flatten)]
    pub(crate) order: Order,
}

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("move").required(true).multiple(true).args(["add", "remove"]))]
pub(crate) struct Migrate {
    /// The group's id
    pub(crate) group: String,
    /// A node to move to; may be repeated
    #[arg(long, value_name = "NODE")]
    pub(crate) add: Vec<String>,
    /// A node to move away from; may be repeated
    #[arg(long, value_name = "NODE")]
    pub(crate) remove: Vec<String>,
    /// Only if the group's configuration has this version
    #[arg(long, value_name = "VERSION")]
    pub(crate) configuration_version: Option<u64>,
    /// Only shows what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Does not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct NodeOrder {
    /// The node's id
    pub(crate) node: String,
    /// Only shows what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Does not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Recover {
    /// The group's id
    pub(crate) group: String,
    /// A node that is left; all of them must be named, or none for all voters that answer
    #[arg(long)]
    pub(crate) survivor: Vec<String>,
    /// Says that you know that acknowledged writes may be lost
    #[arg(long = "unsafe")]
    pub(crate) is_unsafe: bool,
    /// Only shows what would be done, and what may be lost
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Does not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TransferLeader {
    /// The group's id
    pub(crate) group: String,
    /// The member that is to lead; without it the leader chooses
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<String>,
    /// Only shows what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Bench {
    /// Requests under way at any time
    #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) concurrency: u32,
    /// How long to measure
    #[arg(short, long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(crate) duration: Duration,
    /// How long to run before measuring
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(crate) warm_up: Duration,
    /// What share of the requests are reads, in percent
    #[arg(short, long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// How many keys, all under --prefix; they stay afterwards
    #[arg(short, long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: u64,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(0..=8_388_608))]
    pub(crate) value_bytes: u32,
    /// What the keys begin with
    #[arg(long, default_value = "scatterctl-bench-")]
    pub(crate) prefix: String,
    /// Talks to the nodes' peer ports instead of the gateway, through these addresses
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) native: Vec<String>,
    /// The cluster's name, for --native
    #[arg(long, value_name = "NAME", default_value = "scatter")]
    pub(crate) cluster: String,
}

/// How long a program may be told to wait.
const LONGEST_MS: u64 = u32::MAX as u64;

/// The longest time that a value may be told to live, as the data API has it: a hundred years.
const LONGEST_TTL_MS: u64 = 36_500 * 86_400_000;

/// Reads `500ms`, `5s`, `2m`, `1h`, `1d`, `1w`, or several of them: `2h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let ms = milliseconds(text)?.filter(|ms| (1..=LONGEST_MS).contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| "a time is at least 1ms and at most 49 days".to_owned())
}

/// The same for how long a value lives.
pub(crate) fn time_to_live(text: &str) -> Result<Duration, String> {
    let ms = milliseconds(text)?.filter(|ms| (1..=LONGEST_TTL_MS).contains(ms));
    ms.map(Duration::from_millis).ok_or_else(|| "a value lives for at least 1ms and at most 36500d".to_owned())
}

/// The sum of all that is named; `None` if it is too much for a number.
fn milliseconds(text: &str) -> Result<Option<u64>, String> {
    let wrong = || {
        "a time is whole numbers with the units ms, s, m, h, d or w, the largest first: 500ms, 30s, 2h30m, 1d"
            .to_owned()
    };
    let (mut rest, mut sum, mut last) = (text, Some(0_u64), u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, behind) = rest.split_at(digits);
        let letters = behind.bytes().take_while(|byte| !byte.is_ascii_digit()).count();
        let unit_ms = match &behind[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(wrong()),
        };
        if digits == 0 || unit_ms >= last {
            return Err(wrong());
        }
        // Only digits are left, so what does not parse is too large a number.
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
        sum = sum.zip(part).and_then(|(sum, part)| sum.checked_add(part));
        (rest, last) = (&behind[letters..], unit_ms);
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Arguments, clap::error::ErrorKind> {
        Arguments::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn good_lines_are_taken() {
        for line in [
            "scatterctl put a b",
            "scatterctl put a --file - --ttl 30s --if-version 7",
            "scatterctl put a b --create --idempotency-key x -o json",
            "scatterctl get a --consistency any --gateway http://h:1",
            "scatterctl get a --consistency bounded --max-staleness 5s --timeout 2s",
            "scatterctl delete a --if-version 9",
            "scatterctl ring --check",
            "scatterctl groups",
            "scatterctl groups abc",
            "scatterctl -o json nodes",
            "scatterctl lookup users/42 --admin http://h:1",
            "scatterctl members abc --add 1 --add 2 --remove 3 --yes",
            "scatterctl members abc --remove 3 --configuration-version 7 --dry-run",
            "scatterctl split abc",
            "scatterctl split abc --at 00ff --dry-run",
            "scatterctl split abc --key users/42 --range-version 3 -y",
            "scatterctl merge abc --side predecessor --yes",
            "scatterctl repartition abc --boundary 00ff",
            "scatterctl repartition abc --key users/42 --side predecessor --dry-run",
            "scatterctl migrate abc --add 4 --remove 1 --yes",
            "scatterctl operations",
            "scatterctl transfer-leader abc --to 2",
            "scatterctl bench -c 8 -d 500ms -r 100 --native a:1,b:2",
            "scatterctl completions bash",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error:?}"));
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in [
            "scatterctl",
            "scatterctl put",
            "scatterctl put a b --file c",
            "scatterctl put a b --create --if-version 1",
            "scatterctl put a b --ttl 30",
            "scatterctl put a b --if-version x",
            "scatterctl get",
            "scatterctl get a --consistency bounded",
            "scatterctl get a --consistency some",
            "scatterctl members abc",
            "scatterctl split",
            "scatterctl split abc --at 00 --key b",
            "scatterctl merge abc --side left",
            "scatterctl repartition abc",
            "scatterctl migrate abc",
            "scatterctl bench -c 0",
            "scatterctl bench -r 101",
            "scatterctl -o xml nodes",
            "scatterctl nothing",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn times_have_a_number_and_a_unit() {
        for (text, ms) in [("1ms", 1), ("500ms", 500), ("5s", 5000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "5", "s", "-1s", "1.5s", "0s", "5 s", "99999999999999999999s", "1000000h", "50d"] {
            duration(text).expect_err(text);
        }
    }

    #[test]
    fn values_may_live_for_days_and_years() {
        for (text, ms) in [
            ("1d", 86_400_000),
            ("2h30m", 9_000_000),
            ("1w2d", 9 * 86_400_000),
            ("1m1ms", 60_001),
            ("36500d", LONGEST_TTL_MS),
        ] {
            assert_eq!(time_to_live(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "0d", "36501d", "1d1", "1s1s", "30m2h", "1y", "d", "1é", "99999999999999999999d1s"] {
            time_to_live(text).expect_err(text);
        }
    }

    #[test]
    fn completions_exist_for_every_shell() {
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "scatterctl", &mut script);
            assert!(String::from_utf8_lossy(&script).contains("transfer-leader"), "{shell}");
        }
    }
}
