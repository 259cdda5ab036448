//! `scatter-model`: explores the model, or shows what a planted mistake does.

use clap::{Parser, Subcommand, ValueEnum};
use scatter_model::check::{Counterexample, Report};
use scatter_model::mistake::Mistake;
use scatter_model::scenario::{SCENARIOS, Scenario};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

/// Scatter's operations between groups as a small model, explored to the end.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How many threads; as many as there are processors if not given.
    #[arg(long, global = true)]
    threads: Option<usize>,
}

#[derive(Subcommand)]
enum Command {
    /// Explore every scenario (what happens if no command is given), or one.
    Run {
        /// Only this scenario.
        #[arg(long, value_parser = named)]
        scenario: Option<Scenario>,
    },
    /// Plant every mistake, or one, and show what comes of it.
    Planted {
        /// Only this mistake, with the shortest path to what goes wrong.
        #[arg(long)]
        mistake: Option<Mistake>,
    },
}

fn named(name: &str) -> Result<Scenario, String> {
    let names = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    Scenario::named(name).ok_or_else(|| format!("there are: {}", names()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let threads = arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let result = match arguments.command {
        Some(Command::Planted { mistake: Some(mistake) }) => show(mistake, threads),
        Some(Command::Planted { mistake: None }) => planted(threads),
        Some(Command::Run { scenario: Some(scenario) }) => explore(&[scenario], threads),
        Some(Command::Run { scenario: None }) | None => explore(SCENARIOS, threads),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "scatter-model: cannot write: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Explores the scenarios; whether all is well.
fn explore(scenarios: &[Scenario], threads: usize) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let mut good = true;
    let (mut all_states, mut all_steps, began) = (0, 0, Instant::now());
    writeln!(out, "{:<28} {:>11} {:>11} {:>8}", "scenario", "states", "steps", "seconds")?;
    for scenario in scenarios {
        let report = scenario.with(None).explore(threads);
        let Report { states, steps, time, .. } = &report;
        writeln!(out, "{:<28} {states:>11} {steps:>11} {:>8.1}", scenario.name, time.as_secs_f64())?;
        all_states += states;
        all_steps += steps;
        for unseen in &report.unseen {
            writeln!(out, "    {unseen:?} was never seen: the scenario does not show what it is for")?;
        }
        if let Some(found) = &report.counterexample {
            write_path(&mut out, found)?;
        }
        good &= report.is_good();
    }
    writeln!(out, "{:<28} {all_states:>11} {all_steps:>11} {:>8.1}", "all", began.elapsed().as_secs_f64())?;
    writeln!(out, "model: {}", if good { "every invariant holds in every state" } else { "FAILED" })?;
    Ok(good)
}

/// Plants every mistake; whether each shows as it should.
fn planted(threads: usize) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    let mut good = true;
    for mistake in Mistake::value_variants() {
        let planted = mistake.planted();
        let report = planted.search(threads);
        let (states, found) = (report.states, report.counterexample);
        let steps = found.as_ref().map_or(0, |found| found.steps.len());
        let fault = found.and_then(|found| found.fault);
        let verdict = match (fault, fault == planted.shows) {
            (Some(fault), true) => format!("{fault:?} after {steps} steps"),
            (None, true) => format!("breaks nothing in {states} states, as expected"),
            (fault, false) => format!("{fault:?}, but {:?} was expected", planted.shows),
        };
        good &= fault == planted.shows;
        writeln!(out, "{:<30} {verdict}", format!("{mistake:?}"))?;
    }
    Ok(good)
}

/// Shows the shortest path to what the mistake does.
fn show(mistake: Mistake, threads: usize) -> io::Result<bool> {
    let planted = mistake.planted();
    let report = planted.search(threads);
    let mut out = io::stdout().lock();
    match &report.counterexample {
        Some(found) => write_path(&mut out, found)?,
        None => writeln!(out, "{mistake:?} breaks nothing in {} states", report.states)?,
    }
    Ok(report.counterexample.and_then(|found| found.fault) == planted.shows)
}

fn write_path(out: &mut impl Write, found: &Counterexample) -> io::Result<()> {
    for ((action, state), number) in found.steps.iter().zip(1..) {
        writeln!(out, "{number:>3}. {action:?}\n{state}")?;
    }
    match found.fault {
        Some(fault) => writeln!(out, "{fault:?}: {}", fault.meaning()),
        None => writeln!(out, "the path could not be followed with fixed names of nodes"),
    }
}
