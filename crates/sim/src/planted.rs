//! Shows that planted bugs are caught.

use crate::{Planted, progress_bar, say, threads};
use indicatif::ProgressBar;
use scatter_core::planted::{Bug, plant};
use scatter_sim::plan::Profile;
use scatter_sim::run::{Report, run};
use std::collections::BTreeMap;
use std::path::Path;
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

/// Seeds that caught bugs, by the bugs' names: a line each.
type Known = BTreeMap<String, u64>;

fn read(path: &Path) -> Result<Known, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let parse = |line: &str| {
        let (name, seed) = line.split_once(' ')?;
        Some((name.to_owned(), seed.parse().ok()?))
    };
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| parse(line).ok_or_else(|| format!("{}: not a bug and a seed: {line}", path.display()))).collect()
}

fn write(path: &Path, known: &Known) -> Result<(), String> {
    let mut text =
        "# Seeds that caught planted bugs last; `make planted ARGS=\"--note FILE\"` writes them.\n".to_owned();
    for (name, seed) in known {
        text += &format!("{name} {seed}\n");
    }
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Plants one bug after the other and tells which were caught. True if all were.
pub(crate) fn run_all(arguments: &Planted) -> Result<bool, String> {
    let known = arguments.known.as_deref().map(read).transpose()?.unwrap_or_default();
    let noted = arguments.note.as_deref().filter(|path| path.exists());
    let mut noted = noted.map(read).transpose()?.unwrap_or_default();
    let bugs: Vec<Bug> =
        Bug::ALL.iter().copied().filter(|bug| arguments.bug.as_deref().is_none_or(|name| name == bug.name())).collect();
    if bugs.is_empty() {
        return Err("no planted bug has that name".to_owned());
    }
    let mut survivors = Vec::new();
    for bug in &bugs {
        let bar = progress_bar(arguments.seeds);
        bar.set_message(bug.name());
        let from = known.get(bug.name()).copied().unwrap_or(arguments.from);
        let caught = catch(*bug, from, arguments, &bar);
        bar.finish_and_clear();
        let profile = habitat(*bug).map_or("any", Profile::name);
        match caught {
            Some((tried, report)) => {
                let (name, invariant) = (bug.name(), report.invariant.unwrap_or_default());
                noted.insert(name.to_owned(), report.seed);
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
    if let Some(path) = &arguments.note {
        write(path, &noted)?;
    }
    Ok(survivors.is_empty())
}

/// Whether a seed passes with no bug in: else its failure says nothing about the bug.
fn passes_without(bug: Bug, seed: u64) -> bool {
    plant(None);
    let passes = run(seed, habitat(bug), false).failure.is_none();
    plant(Some(bug));
    passes
}

/// Runs seeds from `from` on with one bug until one fails.
fn catch(bug: Bug, from: u64, arguments: &Planted, bar: &ProgressBar) -> Option<(u64, Report)> {
    let next = AtomicU64::new(from);
    let caught: Mutex<Option<Report>> = Mutex::new(None);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..threads(arguments.threads) {
            scope.spawn(|| {
                plant(Some(bug));
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + arguments.seeds {
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
    caught.into_inner().ok().flatten().map(|report| (report.seed - from + 1, report))
}
