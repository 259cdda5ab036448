//! The measures of groups as Markdown, with verdicts.

use serde::{Deserialize, Serialize};

use super::Findings;
use super::moves::{Disks, Trial};
use crate::machine::Facts;
use crate::report::{Table, grouped, spread};
use crate::workload::Op;

/// Everything that is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where and when.
    pub facts: Facts,
    /// What was found.
    pub findings: Findings,
    /// The load average at the end.
    pub load_after: String,
}

/// One bar and how it was met.
struct Verdict {
    what: String,
    bar: String,
    found: String,
    met: bool,
}

fn verdict(what: impl Into<String>, bar: impl Into<String>, found: String, met: bool) -> Verdict {
    Verdict { what: what.into(), bar: bar.into(), found, met }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", share * 100.0)
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

impl Report {
    /// All of it as Markdown.
    pub fn markdown(&self) -> String {
        let mut text = self.facts.markdown();
        text += &format!("- Load average at the end {}.\n", self.load_after);
        let mut part = |title: &str, table: String| {
            if !table.is_empty() {
                text += &format!("\n#### {title}\n\n{table}");
            }
        };
        part("Against the bars", self.verdicts());
        part("Idle nodes", self.idle());
        part("Many groups against one", self.many());
        part("Splits and merges", self.moves());
        part("Replacement of a dead member", self.replacement());
        text
    }

    fn verdicts(&self) -> String {
        let mut all = Vec::new();
        self.judge_moves(&mut all);
        self.judge_replacement(&mut all);
        self.judge_costs(&mut all);
        let mut table = Table::new(&["what", "bar", "found", "met"]);
        for Verdict { what, bar, found, met } in all {
            table.row([what, bar, found, if met { "yes".to_owned() } else { "**no**".to_owned() }]);
        }
        table.text()
    }

    fn judge_moves(&self, all: &mut Vec<Verdict>) {
        let Some(moves) = &self.findings.moves else { return };
        let size = mebibytes(moves.bytes as f64);
        for (name, trials, bound) in [("Split", &moves.splits, 50.0), ("Merge", &moves.merges, 150.0)] {
            let Some(pause) = spread(trials.iter().map(|trial| trial.pause_ms)) else { continue };
            let found = format!("{:.0} ms, median {:.0} ms, longest {:.0} ms", pause.p99, pause.median, pause.max);
            let what = format!("{name} of {size}: pause of writers, 99th percentile of {} tries", trials.len());
            all.push(verdict(what, format!("≤ {bound} ms"), found, pause.p99 <= bound));
            let failed: u64 = trials.iter().map(|trial| trial.requests.1).sum();
            let mut kinds: Vec<String> =
                trials.iter().flat_map(|trial| &trial.errors).map(|(kind, count)| format!("{kind}: {count}")).collect();
            kinds.dedup();
            let found = if failed == 0 { "0".to_owned() } else { format!("{failed} ({})", kinds.join(", ")) };
            all.push(verdict(format!("{name}: failed requests"), "0", found, failed == 0));
        }
        let Disks { before, after, written } = moves.quiet_split;
        let grown = after as f64 - before as f64;
        let found = format!("{} (written {})", mebibytes(grown), mebibytes(written));
        // What is written may be compactions of what was written before.
        let met = grown < moves.bytes as f64 / 100.0;
        all.push(verdict("Split: growth of three stores on disk", "< 1 % of the data", found, met));
    }

    fn judge_replacement(&self, all: &mut Vec<Verdict>) {
        let Some(replaced) = &self.findings.replace else { return };
        let late = replaced.started_s - replaced.set_s;
        all.push(verdict("Replacement: begins after the set time", "told", format!("{late:.1} s"), true));
        let wanted = replaced.disk_rate.min(replaced.loopback_rate) / 2.0;
        let found = format!("{}/s", mebibytes(replaced.rate()));
        all.push(verdict(
            "Replacement: rate of catching up",
            format!("≥ {}/s", mebibytes(wanted)),
            found,
            replaced.rate() >= wanted,
        ));
        let ratio = replaced.meanwhile_p99_ms / replaced.before_p99_ms;
        all.push(verdict("Replacement: p99 meanwhile, ratio to before", "≤ 2", format!("{ratio:.2}"), ratio <= 2.0));
    }

    fn judge_costs(&self, all: &mut Vec<Verdict>) {
        if let Some(many) = &self.findings.many {
            let routing = many.routing;
            let hops = routing.attempts / routing.requests.max(1.0);
            all.push(verdict("Warm routing: hops of a request", "1", format!("{hops:.5}"), hops < 1.0005));
            let rate = routing.hits / (routing.hits + routing.misses).max(1.0);
            let found = format!("{:.4} %", rate * 100.0);
            all.push(verdict("Warm routing: hits in the gateway's cache", "> 99.9 %", found, rate > 0.999));
            for (connections, op) in many.cases() {
                let Some(ratio) = spread(many.ratios(connections, op)) else { continue };
                let what = format!("{op} at {connections}: CPU with {} groups, ratio to one", many.groups);
                let found = format!("{:.2} ({:.2} – {:.2})", ratio.median, ratio.min, ratio.max);
                all.push(verdict(what, "≤ 1.15", found, ratio.median <= 1.15));
            }
        }
        if let Some(idle) = &self.findings.idle {
            let groups = grouped(idle.groups as f64);
            let found = percent(idle.cores());
            let what = format!("{groups} idle groups on each node: share of a core, busiest node");
            all.push(verdict(what, "< 5 %", found, idle.cores() < 0.05));
            let each = idle.bytes_per_group() / 1024.0;
            let what = format!("{groups} idle groups on each node: memory of each");
            all.push(verdict(what, "< 100 KiB", format!("{each:.0} KiB"), each < 100.0));
        }
    }

    fn idle(&self) -> String {
        let Some(idle) = &self.findings.idle else { return String::new() };
        let many = grouped(idle.groups as f64);
        let mut table = Table::new(&["node", "groups", "share of a core", "resident"]);
        for (index, node) in idle.nodes.iter().enumerate() {
            let name = format!("node-{}", index + 1);
            let (one, all) = (mebibytes(node.resident.0 as f64), mebibytes(node.resident.1 as f64));
            table.row([name.clone(), "1".to_owned(), percent(node.cores.0), one]);
            table.row([name, many.clone(), percent(node.cores.1), all]);
        }
        table.text()
    }

    fn many(&self) -> String {
        let Some(many) = &self.findings.many else { return String::new() };
        let mut table = Table::new(&[
            "C",
            "operation",
            "groups",
            "CPU µs/op (min – max)",
            "commands of an entry",
            "ops/s",
            "p50 ms",
            "p99 ms",
            "failures",
        ]);
        for (connections, op) in many.cases() {
            for groups in [1, many.groups] {
                let runs: Vec<_> = many.of(connections, op, groups).collect();
                let Some(cpu) = spread(runs.iter().map(|run| run.cpu_us)) else { continue };
                let median = |of: fn(&crate::measure::Latency) -> f64| {
                    spread(runs.iter().map(|run| of(&run.latency))).map_or(0.0, |found| found.median)
                };
                table.row([
                    connections.to_string(),
                    op.to_string(),
                    groups.to_string(),
                    format!("{:.1} ({:.1} – {:.1})", cpu.median, cpu.min, cpu.max),
                    match spread(runs.iter().filter_map(|run| run.entry_commands)) {
                        Some(commands) if op == Op::Put => format!("{:.1}", commands.median),
                        _ => String::new(),
                    },
                    grouped(median(|latency| latency.operations_per_second)),
                    format!("{:.2}", median(|latency| latency.p50_us) / 1e3),
                    format!("{:.2}", median(|latency| latency.p99_us) / 1e3),
                    runs.iter().map(|run| run.failures).sum::<u64>().to_string(),
                ]);
            }
        }
        table.text()
    }

    fn moves(&self) -> String {
        let Some(moves) = &self.findings.moves else { return String::new() };
        let mut table = Table::new(&[
            "move",
            "tries",
            "pause ms: median (p99, max)",
            "silence ms: median (p99, max)",
            "as long before ms: median (p99, max)",
            "order ms: median (p99, max)",
            "requests",
            "failed",
        ]);
        for (name, trials) in [("split", &moves.splits), ("merge", &moves.merges)] {
            let figure = |of: fn(&Trial) -> f64| {
                spread(trials.iter().map(of)).map_or_else(String::new, |found| {
                    format!("{:.1} ({:.1}, {:.1})", found.median, found.p99, found.max)
                })
            };
            let requests =
                trials.iter().fold((0, 0), |sum, trial| (sum.0 + trial.requests.0, sum.1 + trial.requests.1));
            table.row([
                name.to_owned(),
                trials.len().to_string(),
                figure(|trial| trial.pause_ms),
                figure(|trial| trial.silence_ms),
                figure(|trial| trial.before_ms),
                figure(|trial| trial.order_ms),
                grouped(requests.0 as f64),
                requests.1.to_string(),
            ]);
        }
        let mut disks = Table::new(&["without writers", "three stores before", "after", "flushed and compacted"]);
        for (name, found) in [("split", moves.quiet_split), ("merge", moves.quiet_merge)] {
            let size = |bytes: u64| mebibytes(bytes as f64);
            disks.row([name.to_owned(), size(found.before), size(found.after), mebibytes(found.written)]);
        }
        format!("{}\n{}", table.text(), disks.text())
    }

    fn replacement(&self) -> String {
        let Some(found) = &self.findings.replace else { return String::new() };
        let mut table = Table::new(&["what", "figure"]);
        let milliseconds = |figure: f64| format!("{figure:.2} ms");
        for (what, figure) in [
            ("data of the group", mebibytes(found.bytes as f64)),
            ("set time", format!("{:.1} s", found.set_s)),
            ("newcomer begins after the death", format!("{:.1} s", found.started_s)),
            ("is a voter after that", format!("{:.1} s", found.caught_up_s)),
            ("rate", format!("{}/s", mebibytes(found.rate()))),
            ("disk, written and synced", format!("{}/s", mebibytes(found.disk_rate))),
            ("loopback", format!("{}/s", mebibytes(found.loopback_rate))),
            ("p99 of four writers before", milliseconds(found.before_p99_ms)),
            ("p99 with a member dead", milliseconds(found.dead_p99_ms)),
            ("p99 while the newcomer catches up", milliseconds(found.meanwhile_p99_ms)),
            ("requests, failed", format!("{}, {}", grouped(found.requests.0 as f64), found.requests.1)),
        ] {
            table.row([what.to_owned(), figure]);
        }
        table.text()
    }
}
