//! Shows that planted bugs are caught.

use crate::{Planted, progress_bar, say, threads};
use indicatif::ProgressBar;
use scatter_core::planted::{Bug, plant};
use scatter_sim::plan::Profile;
use scatter_sim::run::{Report, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The weather in which a bug shows; `None`: any.
fn habitat(bug: Bug) -> Option<Profile> {
    match bug {
        Bug::RecoveryPresumesAbort | Bug::RecoveryAsksNobody | Bug::CondemnedHeard | Bug::RecoversUncondemned => {
            Some(Profile::Disaster)
        }
        // A set of members must be proposed behind a slot that takes another value.
        Bug::AdoptsStaleConfiguration => Some(Profile::Membership),
        // It takes a crash between what the log holds and what the store has applied, again and again.
        Bug::UnsureLogKept => Some(Profile::Snapshots),
        _ => bug.is_between_groups().then_some(Profile::Ring),
    }
}

/// Plants one bug after the other and tells which were caught. True if all were.
pub(crate) fn run_all(arguments: &Planted) -> bool {
    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|bug| arguments.bug.as_deref().is_none_or(|name| name == bug.name())).collect();
    if bugs.is_empty() {
        say("no planted bug has that name");
        return false;
    }
    let mut survivors = Vec::new();
    for bug in &bugs {
        let bar = progress_bar(arguments.seeds);
        bar.set_message(bug.name());
        let caught = catch(*bug, arguments, &bar);
        bar.finish_and_clear();
        let profile = habitat(*bug).map_or("any", Profile::name);
        match caught {
            Some((tried, report)) => {
                let (name, invariant) = (bug.name(), report.invariant.unwrap_or_default());
                say(&format!(
                    "{name}: caught after {tried} seeds (profile {profile}, seed {}, I{invariant})",
                    report.seed
                ));
            }
            None => {
                say(&format!("{}: SURVIVED {} seeds (profile {profile})", bug.name(), arguments.seeds));
                survivors.push(bug.name());
            }
        }
    }
    say(&format!("{} of {} planted bugs caught", bugs.len() - survivors.len(), bugs.len()));
    if !survivors.is_empty() {
        say(&format!("survivors: {}", survivors.join(", ")));
    }
    survivors.is_empty()
}

/// Whether a seed passes with no bug in: else its failure says nothing about the bug.
fn passes_without(bug: Bug, seed: u64) -> bool {
    plant(None);
    let passes = run(seed, habitat(bug), false).failure.is_none();
    plant(Some(bug));
    passes
}

/// Runs seeds with one bug until one fails.
fn catch(bug: Bug, arguments: &Planted, bar: &ProgressBar) -> Option<(u64, Report)> {
    let next = AtomicU64::new(arguments.from);
    let caught: Mutex<Option<Report>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads(arguments.threads) {
            scope.spawn(|| {
                plant(Some(bug));
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.from + arguments.seeds {
                        break;
                    }
                    let report = run(seed, habitat(bug), arguments.trace);
                    bar.inc(1);
                    if arguments.trace {
                        say(&report.text);
                    }
                    if report.failure.is_some() && passes_without(bug, seed) {
                        stop.store(true, Ordering::Relaxed);
                        if let Ok(mut caught) = caught.lock() {
                            caught.get_or_insert(report);
                        }
                    }
                }
            });
        }
    });
    caught.into_inner().ok().flatten().map(|report| (report.seed - arguments.from + 1, report))
}
