//! What was found: a verdict, a table for people, JSON for programs.

use crate::books::Judged;
use crate::client::TIMEOUT_MS;
use crate::fleet::Counts;
use crate::options::{Options, Replace};
use crate::orders::Tally;
use crate::timeline::{self, Figures, Mark};
use scatter_figure::document::Section;
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Duration;

/// Where the figures go.
pub(crate) const SECTION: Section = Section { name: "churn" };

/// Answers a second, on the whole, below which a run says nothing.
const LEAST_RATE: f64 = 10.0;
/// The share of operations answered, in percent, below which a run says nothing.
const LEAST_PERCENT: f64 = 50.0;

/// All that was found.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    pub figures: Figures,
    /// How long nodes came and went.
    pub seconds: f64,
    pub nodes: Counts,
    pub orders: Tally,
    pub judged: Judged,
    /// Replies that make no sense.
    pub odd: Vec<String>,
    /// How long the ring took to come to rest, or what it still had to do.
    pub rest: Result<f64, String>,
    /// Keys that nobody answered for at the end.
    pub unread: u64,
}

impl Findings {
    /// Why the run failed; nothing if it did not.
    pub(crate) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        let mut fail = |failed: bool, why: String| failures.extend(failed.then_some(why));
        let (judged, nodes) = (&self.judged, &self.nodes);
        fail(judged.violated > 0, format!("{} histories are not linearizable", judged.violated));
        fail(self.unread > 0, format!("{} keys cannot be read any more", self.unread));
        fail(!nodes.ended.is_empty(), format!("{} processes ended by themselves", nodes.ended.len()));
        fail(!self.odd.is_empty(), format!("{} replies make no sense", self.odd.len()));
        if let Err(unrest) = &self.rest {
            fail(true, format!("the ring does not come to rest: {unrest}"));
        }
        fail(nodes.kills == 0, "nobody was killed, so nothing was shown".into());
        let rate = self.figures.answered() as f64 / self.seconds.max(0.001);
        let little = rate < LEAST_RATE || self.figures.percent() < LEAST_PERCENT;
        fail(little, format!("too little was answered to say anything: {rate:.0} a second"));
        failures
    }

    /// What went wrong, in full.
    pub(crate) fn details(&self) -> impl Iterator<Item = &String> {
        self.judged.violations.iter().chain(&self.nodes.ended).chain(&self.odd)
    }
}

/// The worst one; 0 if there is none.
fn longest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// How long the dead stayed voters.
fn replaced(nodes: &Counts) -> String {
    let replaced = &nodes.missing.replaced;
    format!(
        "{}; half of them {:.0} s after their deaths, the last {:.0} s; {} are voters still",
        replaced.len(),
        median(replaced),
        longest(replaced),
        nodes.missing.open().count()
    )
}

fn milliseconds(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1e3)
}

/// The middle one; 0 if there is none.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

const fn replaced_by(replace: Replace) -> &'static str {
    match replace {
        Replace::ByPolicy => "the nodes' policies",
        Replace::ByHand => "orders of this program",
    }
}

/// The table. Writing to a string cannot fail.
pub(crate) fn table(options: &Options, findings: &Findings) -> String {
    let mut out = String::new();
    for (name, text) in rows(options, findings) {
        let _ = writeln!(out, "{name:<28} {text}");
    }
    out
}

/// What was found, by name.
fn rows(options: &Options, findings: &Findings) -> Vec<(String, String)> {
    let Findings { figures, nodes, judged, .. } = findings;
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push((name.to_owned(), text));
    let answered = figures.answered();
    row(
        "run",
        format!(
            "{:.0} s, {} nodes, groups of {}, median lifetime {:.0} s (Weibull, shape 0.6), dead members replaced by {} after {:.1} s",
            findings.seconds,
            options.nodes,
            options.group_size,
            options.median_lifetime.as_secs_f64(),
            replaced_by(options.replace),
            options.replace_dead_after.as_secs_f64()
        ),
    );
    row(
        "nodes killed",
        format!(
            "{} (kill -9; {} led a group, {} were not ready; half had lived {:.0} s), {} came with empty disks",
            nodes.kills,
            nodes.leaders,
            nodes.unready_kills,
            median(&nodes.lived),
            nodes.arrivals
        ),
    );
    row(
        "mercy",
        if options.mercy {
            let waited = nodes.waited.as_secs_f64();
            format!(
                "on: {} kills waited for a group that could not spare the node, {waited:.0} s together",
                nodes.postponed
            )
        } else {
            "off: groups may lose their majority, and their data with it".into()
        },
    );
    row("dead voters replaced", replaced(nodes));
    row(
        "groups without a majority",
        format!("in {} of {} looks at the ring, one a second", nodes.broken_looks, nodes.looks),
    );
    row("operations answered", format!("{answered}, {:.0} a second", answered as f64 / findings.seconds.max(0.001)));
    row(
        "availability",
        format!(
            "{:.3} % of {} operations were answered within their time limits of {} to {} ms; of stretches of {} s the worst had {:.1} %, and {} of {} none",
            figures.percent(),
            figures.asked(),
            TIMEOUT_MS.0,
            TIMEOUT_MS.1,
            figures.bucket.as_secs(),
            figures.worst(),
            figures.dark(),
            figures.buckets.len()
        ),
    );
    for (name, tally) in [("reads", &figures.reads), ("writes", &figures.writes)] {
        let at = |quantile| milliseconds(tally.latency_us.value_at_quantile(quantile));
        row(
            name,
            format!(
                "{} answered, {} refused, {} unheard; p50 {}, p99 {}, p99.9 {}, longest {}",
                tally.answered,
                tally.refused,
                tally.unheard,
                at(0.5),
                at(0.99),
                at(0.999),
                milliseconds(tally.latency_us.max())
            ),
        );
    }
    for ((kind, outcome), count) in &findings.orders {
        row(&format!("orders: {kind}"), format!("{count} {outcome}"));
    }
    row(
        "at rest",
        match &findings.rest {
            Ok(seconds) => format!("{seconds:.1} s after the churn"),
            Err(unrest) => format!("no: {unrest}"),
        },
    );
    row(
        "histories judged",
        format!(
            "{} of keys, with {} operations, {} of unknown outcome; {} keys could not be read at the end",
            judged.keys, judged.operations, judged.unknown, findings.unread
        ),
    );
    row("violations", judged.violated.to_string());
    rows
}

/// The command that does the same again, as far as chance allows.
fn command(options: &Options) -> String {
    let seconds = |name: &str, time: Duration| format!("--{name} {}ms", time.as_millis());
    let mut words = vec![
        seconds("duration", options.duration),
        seconds("median-lifetime", options.median_lifetime),
        seconds("absence", options.absence),
        format!("--nodes {} --groups {} --group-size {}", options.nodes, options.groups, options.group_size),
        format!("--clients {} --keys {}", options.clients, options.keys),
        seconds("order-every", options.order_every),
        seconds("replace-dead-after", options.replace_dead_after),
    ];
    if options.replace == Replace::ByHand {
        words.push("--replace by-hand".into());
    }
    if !options.mercy {
        words.push("--mercy false".into());
    }
    words.extend(options.node_set.iter().map(|(key, value)| format!("--node-set {key}={value}")));
    words.push(format!("--seed {} --write", options.seed));
    format!("make churn ARGS=\"{}\"", words.join(" ").replace("000ms", "s"))
}

/// The generated part of the documentation, without its markers. Writing to a string cannot fail.
pub(crate) fn section(options: &Options, findings: &Findings) -> String {
    let mut out = String::new();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) { "optimised, with assertions on" } else { "release" };
    let _ = writeln!(
        out,
        "```sh\n{}\n```\n\nAll processes on one machine of {cores} cores; build: {build}.\n\n\
         ![availability, latencies, rate, nodes and groups over time]({})\n\n| | |\n| --- | --- |",
        command(options),
        SECTION.figure()
    );
    for (name, text) in rows(options, findings) {
        let _ = writeln!(out, "| {name} | {text} |");
    }
    out
}

/// Everything, for programs.
pub(crate) fn json(options: &Options, findings: &Findings) -> Value {
    let Findings { figures, nodes, judged, .. } = findings;
    let tally = |tally: &timeline::Tally| {
        let at = |quantile| tally.latency_us.value_at_quantile(quantile);
        json!({
            "answered": tally.answered, "refused": tally.refused, "unheard": tally.unheard,
            "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": tally.latency_us.max(),
        })
    };
    let bucket = |(index, bucket): (usize, &timeline::Bucket)| {
        json!({
            "second": figures.seconds(index), "asked": bucket.asked, "answered": bucket.answered, "p50_us": bucket.p50_us,
            "p99_us": bucket.p99_us, "max_us": bucket.most_us, "nodes": bucket.nodes, "groups": bucket.groups,
        })
    };
    let mark = |(second, mark): &(f64, Mark)| {
        let what = match mark {
            Mark::Kill => "kill",
            Mark::Start => "start",
            Mark::Order => "order",
        };
        json!({ "second": second, "what": what })
    };
    let order =
        |((kind, outcome), count): (&(&str, &str), &u64)| json!({ "kind": kind, "outcome": outcome, "count": count });
    json!({
        "passed": findings.failures().is_empty(),
        "failures": findings.failures(),
        "options": {
            "seconds": findings.seconds, "median_lifetime_seconds": options.median_lifetime.as_secs_f64(),
            "lifetimes": "Weibull, shape 0.6", "absence_seconds": options.absence.as_secs_f64(), "nodes": options.nodes,
            "group_size": options.group_size, "groups": options.groups, "clients": options.clients, "keys": options.keys,
            "value_bytes": options.value_bytes, "seed": options.seed, "mercy": options.mercy,
            "replaced_by": replaced_by(options.replace),
            "replace_dead_after_seconds": options.replace_dead_after.as_secs_f64(),
            "shortest_timeout_ms": TIMEOUT_MS.0, "longest_timeout_ms": TIMEOUT_MS.1,
        },
        "availability_percent": figures.percent(),
        "availability_percent_of_worst_stretch": figures.worst(),
        "looks_at_the_ring": nodes.looks, "looks_with_a_group_without_majority": nodes.broken_looks,
        "dead_voters_replaced_after_seconds": nodes.missing.replaced,
        "dead_voters_left_for_seconds": nodes.missing.open().collect::<Vec<_>>(),
        "reads": tally(&figures.reads),
        "writes": tally(&figures.writes),
        "kills": nodes.kills, "kills_of_leaders": nodes.leaders, "kills_before_ready": nodes.unready_kills, "arrivals": nodes.arrivals,
        "kills_postponed": nodes.postponed, "postponed_seconds": nodes.waited.as_secs_f64(), "lived_seconds": nodes.lived,
        "ended_by_themselves": nodes.ended,
        "orders": findings.orders.iter().map(order).collect::<Vec<_>>(),
        "at_rest_after_seconds": findings.rest.as_ref().ok(),
        "histories": {
            "judged": judged.keys, "operations": judged.operations, "unknown": judged.unknown,
            "violations": judged.violated, "unread": findings.unread,
        },
        "details": findings.details().collect::<Vec<_>>(),
        "timeline": figures.buckets.iter().enumerate().map(bucket).collect::<Vec<_>>(),
        "marks": figures.marks.iter().map(mark).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::{Heard, Kind, Timeline};
    use clap::Parser;
    use std::time::Instant;

    fn findings() -> Findings {
        let timeline = Timeline::new(Duration::from_secs(1));
        (0..100).for_each(|_| timeline.heard(Kind::Read, Instant::now(), Heard::Answer));
        timeline.mark(Mark::Kill);
        Findings {
            figures: timeline.finish(),
            seconds: 1.0,
            nodes: Counts { kills: 1, lived: vec![3.0], ..Counts::default() },
            orders: Tally::from([(("split", "done"), 2)]),
            judged: Judged::default(),
            odd: Vec::new(),
            rest: Ok(1.0),
            unread: 0,
        }
    }

    #[test]
    fn only_a_sound_run_passes() {
        assert_eq!(findings().failures(), [""; 0]);
        let bad: [fn(&mut Findings); 7] = [
            |found| found.judged.violated = 1,
            |found| found.unread = 1,
            |found| found.nodes.ended.push("node-1".into()),
            |found| found.odd.push("418".into()),
            |found| found.rest = Err("group 1 has no leader".into()),
            |found| found.nodes.kills = 0,
            |found| found.seconds = 1_000.0,
        ];
        for (number, spoil) in bad.into_iter().enumerate() {
            let mut found = findings();
            spoil(&mut found);
            assert_eq!(found.failures().len(), 1, "{number}");
        }
    }

    #[test]
    fn the_command_in_the_documentation_does_the_same_again() {
        let given = ["--median-lifetime", "60s", "--duration", "90m", "--absence", "250ms", "--replace", "by-hand"];
        let options = Options::parse_from(["scatter-churn"].iter().chain(&given));
        let section = section(&options, &findings());
        let line = section.lines().nth(1).expect("a command");
        let arguments = line.trim_start_matches("make churn ARGS=\"").trim_end_matches('"').split(' ');
        let again = Options::parse_from(["scatter-churn"].into_iter().chain(arguments));
        assert!(again.write, "{line}");
        assert_eq!(format!("{options:?}"), format!("{:?}", Options { write: false, ..again }), "{line}");
        assert!(section.contains("| violations | 0 |") && section.contains("](figures/churn.svg)"), "{section}");
    }

    #[test]
    fn table_and_json_tell_the_same() {
        let options = Options::parse_from(["scatter-churn"]);
        let found = findings();
        let table = table(&options, &found);
        assert!(table.contains("100.000 % of 100 operations"), "{table}");
        assert!(table.contains("2 done"), "{table}");
        let json = json(&options, &found);
        assert_eq!(json["passed"], true);
        assert_eq!(json["reads"]["answered"], 100);
        assert_eq!(json["marks"][0]["what"], "kill");
    }
}
