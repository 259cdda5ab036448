//! `scatter-sim`: runs seeds, replays one, and shows that planted bugs are caught.

#[cfg(feature = "planted")]
mod planted;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use scatter_sim::nemesis::steps::{Blow, Fate, Step};
use scatter_sim::plan::Profile;
use scatter_sim::run::{Report, catch_panics, run};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Simulated fault schedules for Scatter's core, each from one seed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds, or replay one.
    Run(Run),
    /// Show that every planted bug is caught (needs the feature `planted`).
    Planted(Planted),
}

#[derive(clap::Args)]
struct Run {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them; drawn anew if not given.
    #[arg(long)]
    from: Option<u64>,
    /// Only this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// The weather; drawn from each seed if not given.
    #[arg(long)]
    profile: Option<Profile>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// How many threads; as many as there are processors if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Go on after a failure, up to this many.
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

#[derive(clap::Args)]
struct Planted {
    /// Only this bug.
    #[arg(long)]
    bug: Option<String>,
    /// After how many seeds a bug counts as surviving.
    #[arg(long, default_value_t = 6000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// A file that names for each bug the seed to begin with: one that has caught it.
    #[arg(long)]
    known: Option<PathBuf>,
    /// Write the seeds that catch bugs to such a file.
    #[arg(long)]
    note: Option<PathBuf>,
    /// Print everything that happens.
    #[arg(long)]
    trace: bool,
    /// How many threads; as many as there are processors if not given.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    catch_panics();
    let passed = match Arguments::parse().command {
        Command::Run(run) => run_seeds(&run),
        Command::Planted(arguments) => run_planted(&arguments),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints a line; whether anybody reads it does not matter.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn replay(report: &Report, profile: Option<Profile>) -> String {
    let profile = profile.map(|profile| format!(" --profile {}", profile.name())).unwrap_or_default();
    format!("scatter-sim run --seed {}{profile} --trace", report.seed)
}

fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1)
}

fn run_seeds(arguments: &Run) -> bool {
    if let Some(seed) = arguments.seed {
        let report = run(seed, arguments.profile, arguments.trace);
        if arguments.trace {
            say(&report.text);
        }
        say(&summary(&report));
        return report.failure.is_none();
    }
    let from = arguments.from.unwrap_or_else(|| {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| since.as_secs().wrapping_mul(1_000_003) & 0xffff_ffff)
    });
    say(&format!("seeds {from} to {}", from + arguments.seeds - 1));
    let bar = progress_bar(arguments.seeds);
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Vec<Report>> = Mutex::new(Vec::new());
    let totals: Mutex<(u64, u64, u64)> = Mutex::new((0, 0, 0));
    let struck: Mutex<Vec<Blow>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads(arguments.threads) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + arguments.seeds {
                        break;
                    }
                    let report = run(seed, arguments.profile, false);
                    bar.inc(1);
                    if let Ok(mut totals) = totals.lock() {
                        totals.0 += report.events;
                        totals.1 += report.answered as u64;
                        totals.2 += report.time / 1_000_000_000;
                    }
                    if let Ok(mut struck) = struck.lock() {
                        let new: Vec<Blow> =
                            report.struck.iter().filter(|blow| !struck.contains(blow)).copied().collect();
                        struck.extend(new);
                    }
                    if report.failure.is_some()
                        && let Ok(mut failed) = failed.lock()
                    {
                        bar.suspend(|| say(&summary(&report)));
                        failed.push(report);
                        stop.store(failed.len() >= arguments.failures, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let (events, answered, seconds) = totals.into_inner().unwrap_or_default();
    say(&format!("{events} events, {answered} answered operations, {seconds} virtual seconds"));
    say(&coverage(&struck.into_inner().unwrap_or_default()));
    let failed = failed.into_inner().unwrap_or_default();
    for report in &failed {
        say(&format!("replay: {}", replay(report, arguments.profile)));
    }
    if failed.is_empty() {
        say(&format!("{} seeds passed", arguments.seeds));
    }
    failed.is_empty()
}

/// At which steps of operations somebody crashed or was cut off, and which were spared.
fn coverage(struck: &[Blow]) -> String {
    let at = |is_meant: &dyn Fn(&Blow) -> bool| {
        Step::all().partition::<Vec<Step>, _>(|step| struck.iter().any(|blow| blow.step == *step && is_meant(blow)))
    };
    let (crashes, spared) = at(&|blow| blow.fate == Fate::Dead);
    let (partitions, _) = at(&|blow| blow.fate != Fate::Dead);
    let mut text = format!(
        "of {} steps of operations, somebody crashed at {} and was cut off at {}, in {} of {} ways",
        Step::all().count(),
        crashes.len(),
        partitions.len(),
        struck.len(),
        Blow::all().count()
    );
    if !spared.is_empty() {
        let spared: Vec<String> = spared.iter().map(|step| format!("{step:?}")).collect();
        text += &format!("; nobody crashed at {}", spared.join(", "));
    }
    text
}

fn progress_bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {eta} left {msg}") {
        bar.set_style(style);
    }
    bar
}

fn summary(report: &Report) -> String {
    let judgement = report.failure.as_deref().map_or("passed".to_owned(), |failure| format!("FAILED: {failure}"));
    format!(
        "seed {} ({}): {} events in {:.3} s of virtual time, {} of {} operations answered, digest {:016x}: {judgement}",
        report.seed,
        report.profile.name(),
        report.events,
        report.time as f64 / 1e9,
        report.answered,
        report.operations,
        report.digest,
    )
}

#[cfg(not(feature = "planted"))]
fn run_planted(_: &Planted) -> bool {
    say("build with `--features planted`: without it no bug can be switched on");
    false
}

#[cfg(feature = "planted")]
fn run_planted(arguments: &Planted) -> bool {
    planted::run_all(arguments).unwrap_or_else(|error| {
        say(&error);
        false
    })
}
