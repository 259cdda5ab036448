//! `scatter-model`: explores the model.

use clap::Parser;
use scatter_model::mistake::Mistake;
use scatter_model::scenario::SCENARIOS;
use std::io::Write;
use std::process::ExitCode;

/// Explores a model of Scatter's operations between groups, state by state, to the end.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Only this scenario.
    #[arg(long)]
    scenario: Option<String>,
    /// With this mistake planted.
    #[arg(long)]
    mistake: Option<Mistake>,
    /// How many threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = std::io::stdout().lock();
    let mut good = true;
    for scenario in SCENARIOS {
        if arguments.scenario.as_ref().is_some_and(|name| name != scenario.name) {
            continue;
        }
        let report = scenario.with(arguments.mistake).explore(arguments.threads);
        good &= report.is_good();
        let _ = writeln!(out, "{}: {} states, depth {}, {:?}, unseen {:?} seen {:?}", scenario.name, report.states, report.depth, report.time, report.unseen, report.seen);
        if let Some(c) = report.counterexample {
            for (i, (action, state)) in c.steps.iter().enumerate() {
                let _ = writeln!(out, "{:3} {action:?}\n{state}", i + 1);
            }
            let _ = writeln!(out, "FAULT {:?}", c.fault);
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
