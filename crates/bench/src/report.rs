//! What a comparison found, and how it is told: medians over the rounds, ratios within a round, verdicts against bars.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::cluster::System;
use crate::gap::{GapTrial, Loss};
use crate::machine::Facts;
use crate::measure::Latency;
use crate::workload::Op;

/// The way a request takes into a system.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Route {
    /// Straight to the node that leads.
    Leader,
    /// Straight to the nodes, workers dealt evenly.
    All,
    /// Through the gateway.
    Gateway,
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Leader => "leader only",
            Self::All => "all nodes",
            Self::Gateway => "gateway",
        })
    }
}

/// What one run measures.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Case {
    /// How many connections, each a closed loop.
    pub connections: usize,
    /// Which operation.
    pub op: Op,
    /// Which system.
    pub system: System,
    /// By which way.
    pub route: Route,
}

impl Case {
    fn who(&self) -> String {
        match self.system {
            System::Floor => "floor (bare HTTP)".to_owned(),
            System::Etcd | System::Scatter => format!("{}, {}", self.system, self.route),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at {:3}, {:20}", self.op, self.connections, self.who())
    }
}

/// One run's figures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which round, from zero.
    pub round: usize,
    /// What was measured.
    pub case: Case,
    /// Latencies and rate.
    pub latency: Latency,
    /// User and system time of all servers the requests passed through, in microseconds per operation.
    pub server_cpu_us: f64,
    /// The generator's own, likewise.
    pub generator_cpu_us: f64,
    /// Failed attempts by kind.
    pub errors: BTreeMap<String, u64>,
}

impl fmt::Display for Run {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{}: {:>7} ops/s, p50 {} ms, p99 {} ms, {:.1} µs/op (generator {:.1})",
            self.case,
            grouped(self.latency.operations_per_second),
            milliseconds(self.latency.p50_us),
            milliseconds(self.latency.p99_us),
            self.server_cpu_us,
            self.generator_cpu_us
        )?;
        if !self.errors.is_empty() {
            write!(out, ", failures {:?}", self.errors)?;
        }
        Ok(())
    }
}

/// Memory of one process, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemoryFigure {
    /// Whose.
    pub system: System,
    /// Which process.
    pub process: String,
    /// Resident before any load.
    pub idle_bytes: u64,
    /// The most that was resident, under all the load.
    pub peak_bytes: u64,
}

/// Everything that is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where and when.
    pub facts: Facts,
    /// Each run.
    pub runs: Vec<Run>,
    /// Memory of each process.
    pub memory: Vec<MemoryFigure>,
    /// Losses of the leader.
    pub gaps: Vec<GapTrial>,
}

/// Median and extremes of one figure over the rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// The spread of `figures`; `None` if there are none.
pub fn spread(figures: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    let (min, max) = (*figures.first()?, *figures.last()?);
    let middle = figures.len() / 2;
    let median =
        if figures.len() % 2 == 1 { figures[middle] } else { f64::midpoint(figures[middle - 1], figures[middle]) };
    // The lowest that 99 of 100 do not exceed.
    let p99 = figures[(figures.len() * 99).div_ceil(100) - 1];
    Some(Spread { median, min, p99, max })
}

/// Which figure of a run a bar is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Measure {
    /// Operations per second, as a ratio to etcd's.
    Rate,
    /// Median latency, as a ratio to etcd's.
    Median,
    /// 99th percentile, as a ratio to etcd's.
    Tail,
    /// Processor time of all servers, in microseconds per operation.
    Cpu,
}

/// A promise about speed.
struct Bar {
    measure: Measure,
    op: Op,
    connections: usize,
    through_gateway: bool,
    bound: f64,
}

const fn bar(measure: Measure, op: Op, connections: usize, through_gateway: bool, bound: f64) -> Bar {
    Bar { measure, op, connections, through_gateway, bound }
}

/// What the project asks of itself.
const BARS: [Bar; 16] = [
    bar(Measure::Rate, Op::Put, 64, false, 4.0),
    bar(Measure::Rate, Op::Get, 64, false, 4.0),
    bar(Measure::Rate, Op::Put, 64, true, 3.0),
    bar(Measure::Rate, Op::Get, 64, true, 2.5),
    bar(Measure::Cpu, Op::Put, 64, false, 30.0),
    bar(Measure::Cpu, Op::Get, 64, false, 14.0),
    bar(Measure::Cpu, Op::Put, 64, true, 48.0),
    bar(Measure::Cpu, Op::Get, 64, true, 28.0),
    bar(Measure::Median, Op::Put, 1, false, 0.6),
    bar(Measure::Median, Op::Get, 1, false, 0.6),
    bar(Measure::Median, Op::Put, 1, true, 0.8),
    bar(Measure::Median, Op::Get, 1, true, 0.9),
    bar(Measure::Tail, Op::Put, 64, false, 0.5),
    bar(Measure::Tail, Op::Get, 64, false, 0.5),
    bar(Measure::Tail, Op::Put, 64, true, 0.6),
    bar(Measure::Tail, Op::Get, 64, true, 0.6),
];

/// How a bar was met; the spread is over the rounds.
#[derive(Clone, PartialEq, Debug)]
pub struct Verdict {
    /// What the bar is about.
    pub text: String,
    /// The bound, as it reads.
    pub bound: String,
    /// What was found, if both sides were measured.
    pub found: Option<Spread>,
    /// Whether the median meets the bound.
    pub met: bool,
}

impl Bar {
    fn text(&self) -> String {
        let way = if self.through_gateway { "through one gateway" } else { "straight to the nodes" };
        let what = match self.measure {
            Measure::Rate => "ops/s, ratio to etcd",
            Measure::Median => "p50, ratio to etcd",
            Measure::Tail => "p99, ratio to etcd",
            Measure::Cpu => "server CPU, µs per operation",
        };
        format!("{} at {}, {way}: {what}", self.op, self.connections)
    }

    fn verdict(&self, runs: &[Run]) -> Verdict {
        let at_least = self.measure == Measure::Rate;
        let found = spread(rounds_of(runs).into_iter().filter_map(|round| self.figure(runs, round)));
        Verdict {
            text: self.text(),
            bound: format!("{} {}", if at_least { "≥" } else { "≤" }, self.bound),
            met: found.is_some_and(
                |found| {
                    if at_least { found.median >= self.bound } else { found.median <= self.bound }
                },
            ),
            found,
        }
    }

    /// The figure of one round. Either side is the case with the higher rate, so that no two cases' virtues are mixed.
    fn figure(&self, runs: &[Run], round: usize) -> Option<f64> {
        let ours = best(runs, round, |case| {
            self.concerns(case)
                && case.system == System::Scatter
                && (case.route == Route::Gateway) == self.through_gateway
        })?;
        let etcd = || best(runs, round, |case| self.concerns(case) && case.system == System::Etcd);
        let of = |run: &Run| match self.measure {
            Measure::Rate => run.latency.operations_per_second,
            Measure::Median => run.latency.p50_us,
            Measure::Tail => run.latency.p99_us,
            Measure::Cpu => run.server_cpu_us,
        };
        match self.measure {
            Measure::Cpu => Some(of(ours)),
            Measure::Rate | Measure::Median | Measure::Tail => Some(of(ours) / of(etcd()?)),
        }
    }

    fn concerns(&self, case: &Case) -> bool {
        case.op == self.op && case.connections == self.connections
    }
}

fn best(runs: &[Run], round: usize, suits: impl Fn(&Case) -> bool) -> Option<&Run> {
    runs.iter()
        .filter(|run| run.round == round && suits(&run.case))
        .max_by(|left, right| left.latency.operations_per_second.total_cmp(&right.latency.operations_per_second))
}

fn rounds_of(runs: &[Run]) -> Vec<usize> {
    let mut rounds: Vec<usize> = runs.iter().map(|run| run.round).collect();
    rounds.sort_unstable();
    rounds.dedup();
    rounds
}

/// How each bar was met.
pub fn verdicts(runs: &[Run]) -> Vec<Verdict> {
    BARS.iter().map(|bar| bar.verdict(runs)).collect()
}

impl Report {
    /// All of it as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = self.facts.markdown();
        let mut part = |title: &str, table: String| {
            if !table.is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(text, "\n### {title}\n\n{table}");
            }
        };
        part("Against the bars", verdict_table(&self.runs));
        part("Every case", case_table(&self.runs));
        part("Longest gap without a write after the leader is lost", gap_table(&self.gaps));
        part("Resident memory", memory_table(&self.memory));
        text
    }
}

fn verdict_table(runs: &[Run]) -> String {
    if !runs.iter().any(|run| run.case.system == System::Scatter) {
        return String::new();
    }
    let mut table = Table::new(&["what", "bar", "median", "min – max", "met"]);
    for verdict in verdicts(runs) {
        let found = verdict.found;
        table.row([
            verdict.text,
            verdict.bound,
            found.map_or_else(|| "not measured".to_owned(), |found| format!("{:.2}", found.median)),
            found.map_or_else(String::new, |found| format!("{:.2} – {:.2}", found.min, found.max)),
            match (found, verdict.met) {
                (None, _) => "–".to_owned(),
                (Some(_), true) => "yes".to_owned(),
                (Some(_), false) => "**no**".to_owned(),
            },
        ]);
    }
    table.text()
}

fn case_table(runs: &[Run]) -> String {
    let mut cases: BTreeMap<Case, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        cases.entry(run.case).or_default().push(run);
    }
    if cases.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        "C",
        "operation",
        "system",
        "ops/s (min – max)",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "server CPU µs/op",
        "generator CPU µs/op",
        "failures",
    ]);
    for (case, runs) in cases {
        let median = |figure: fn(&Run) -> f64| spread(runs.iter().map(|run| figure(run))).map_or(0.0, |s| s.median);
        let rate = spread(runs.iter().map(|run| run.latency.operations_per_second));
        table.row([
            case.connections.to_string(),
            case.op.to_string(),
            case.who(),
            rate.map_or_else(String::new, |rate| {
                format!("{} ({} – {})", grouped(rate.median), grouped(rate.min), grouped(rate.max))
            }),
            milliseconds(median(|run| run.latency.p50_us)),
            milliseconds(median(|run| run.latency.p90_us)),
            milliseconds(median(|run| run.latency.p99_us)),
            milliseconds(median(|run| run.latency.p999_us)),
            milliseconds(median(|run| run.latency.max_us)),
            format!("{:.1}", median(|run| run.server_cpu_us)),
            format!("{:.1}", median(|run| run.generator_cpu_us)),
            runs.iter().flat_map(|run| run.errors.values()).sum::<u64>().to_string(),
        ]);
    }
    table.text()
}

/// The losses of the leader as a Markdown table.
pub fn gap_table(trials: &[GapTrial]) -> String {
    let mut groups: BTreeMap<(System, Loss), Vec<&GapTrial>> = BTreeMap::new();
    for trial in trials {
        groups.entry((trial.system, trial.loss)).or_default().push(trial);
    }
    if groups.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["system", "leader", "trials", "median s", "min – max s", "resumed"]);
    for ((system, loss), trials) in groups {
        let Some(found) = spread(trials.iter().map(|trial| trial.seconds)) else { continue };
        let resumed = trials.iter().filter(|trial| trial.resumed).count();
        table.row([
            system.to_string(),
            match loss {
                Loss::Kill => "killed (SIGKILL)".to_owned(),
                Loss::Stop => "stopped (SIGSTOP)".to_owned(),
            },
            trials.len().to_string(),
            format!("{:.2}", found.median),
            format!("{:.2} – {:.2}", found.min, found.max),
            format!("{resumed} of {}", trials.len()),
        ]);
    }
    table.text()
}

fn memory_table(figures: &[MemoryFigure]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let mebibytes = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let mut table = Table::new(&["process", "idle MiB", "peak under load MiB"]);
    for figure in figures {
        table.row([
            format!("{} {}", figure.system, figure.process),
            mebibytes(figure.idle_bytes),
            mebibytes(figure.peak_bytes),
        ]);
    }
    table.text()
}

/// A Markdown table in the making.
pub(crate) struct Table {
    text: String,
}

impl Table {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { text: format!("| {} |\n|{}\n", columns.join(" | "), " --- |".repeat(columns.len())) }
    }

    pub(crate) fn row<const COLUMNS: usize>(&mut self, cells: [String; COLUMNS]) {
        let cells = cells.map(|cell| cell.replace('|', "\\|"));
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    pub(crate) fn text(self) -> String {
        self.text
    }
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(figure: f64) -> String {
    let digits = format!("{:.0}", figure.max(0.0));
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn milliseconds(micros: f64) -> String {
    let millis = micros / 1e3;
    if millis < 10.0 { format!("{millis:.2}") } else { format!("{millis:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(round: usize, system: System, route: Route, op: Op, connections: usize, rate: f64) -> Run {
        let latency = Latency {
            operations: 1_000,
            operations_per_second: rate,
            p50_us: 1e6 / rate,
            p90_us: 2e6 / rate,
            p99_us: 3e6 / rate,
            p999_us: 4e6 / rate,
            max_us: 5e6 / rate,
        };
        let case = Case { connections, op, system, route };
        Run { round, case, latency, server_cpu_us: 2e5 / rate, generator_cpu_us: 4.0, errors: BTreeMap::new() }
    }

    fn verdict<'a>(verdicts: &'a [Verdict], text: &str) -> &'a Verdict {
        verdicts.iter().find(|verdict| verdict.text == text).unwrap()
    }

    #[test]
    fn medians_and_extremes() {
        assert_eq!(spread((1..=100).map(f64::from)).map(|found| (found.p99, found.max)), Some((99.0, 100.0)));
        assert_eq!(spread([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, p99: 3.0, max: 3.0 }));
        assert_eq!(spread([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, p99: 4.0, max: 4.0 }));
        assert_eq!(spread([]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round_and_of_the_better_case() {
        let mut runs = Vec::new();
        // The machine halves its speed each round; the ratio stays five.
        for (round, speed) in [(0, 1.0), (1, 0.5), (2, 0.25)] {
            runs.push(run(round, System::Etcd, Route::Leader, Op::Put, 64, 10_000.0 * speed));
            runs.push(run(round, System::Etcd, Route::All, Op::Put, 64, 7_000.0 * speed));
            runs.push(run(round, System::Scatter, Route::Leader, Op::Put, 64, 50_000.0 * speed));
            runs.push(run(round, System::Scatter, Route::All, Op::Put, 64, 20_000.0 * speed));
            runs.push(run(round, System::Scatter, Route::Gateway, Op::Put, 64, 29_000.0 * speed));
        }
        let verdicts = verdicts(&runs);
        let straight = verdict(&verdicts, "PUT at 64, straight to the nodes: ops/s, ratio to etcd");
        assert_eq!(straight.found, Some(Spread { median: 5.0, min: 5.0, p99: 5.0, max: 5.0 }));
        assert!(straight.met);
        let gateway = verdict(&verdicts, "PUT at 64, through one gateway: ops/s, ratio to etcd");
        assert_eq!(gateway.found.map(|found| found.median), Some(2.9));
        assert!(!gateway.met, "2.9 is under 3");
        let tail = verdict(&verdicts, "PUT at 64, straight to the nodes: p99, ratio to etcd");
        assert!(tail.met);
        let cpu = verdict(&verdicts, "PUT at 64, straight to the nodes: server CPU, µs per operation");
        assert_eq!(cpu.found, Some(Spread { median: 8.0, min: 4.0, p99: 16.0, max: 16.0 }));
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let runs = [run(0, System::Scatter, Route::Leader, Op::Get, 64, 1.0)];
        let verdicts = verdicts(&runs);
        let rate = verdict(&verdicts, "GET at 64, straight to the nodes: ops/s, ratio to etcd");
        assert_eq!((rate.found, rate.met), (None, false));
        assert!(verdict_table(&runs).contains("| not measured |  | – |"));
        assert!(verdict_table(&[]).is_empty());
    }

    #[test]
    fn tables_have_as_many_cells_as_columns() {
        let mut odd = run(0, System::Etcd, Route::All, Op::Put, 64, 12_345.6);
        odd.errors.insert("deadline".into(), 3);
        let trial = |loss, seconds| GapTrial { system: System::Etcd, loss, seconds, resumed: true };
        let tables = [
            case_table(&[odd, run(0, System::Floor, Route::Leader, Op::Get, 1, 100.0)]),
            verdict_table(&[run(0, System::Scatter, Route::All, Op::Put, 64, 1.0)]),
            gap_table(&[trial(Loss::Kill, 1.25), trial(Loss::Kill, 0.75), trial(Loss::Stop, 9.0)]),
            memory_table(&[MemoryFigure {
                system: System::Scatter,
                process: "a|b".into(),
                idle_bytes: 30 << 20,
                peak_bytes: 90 << 20,
            }]),
        ];
        for table in &tables {
            let widths: Vec<usize> = table.lines().map(|line| line.replace("\\|", "").matches('|').count()).collect();
            assert!(widths.len() > 2 && widths.iter().all(|width| *width == widths[0]), "{table}");
        }
        assert!(tables[0].contains("| 64 | PUT | etcd, all nodes | 12,346 (12,346 – 12,346) | 0.08 |"));
        assert!(tables[0].contains("| 3 |\n"));
        assert!(tables[2].contains("| etcd | killed (SIGKILL) | 2 | 1.00 | 0.75 – 1.25 | 2 of 2 |"));
        assert!(tables[3].contains("| scatter a\\|b | 30 | 90 |"));
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(grouped(0.4), "0");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
        assert_eq!(milliseconds(1_234.0), "1.23");
        assert_eq!(milliseconds(22_500.0), "22.5");
    }
}
