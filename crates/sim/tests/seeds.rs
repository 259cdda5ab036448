//! Seeds: a fixed set, fresh ones, the regressions, and that a seed is a run.

use scatter_core::entry::EntryKind;
use scatter_sim::nemesis::steps::{Fate, Step};
use scatter_sim::plan::Profile;
use scatter_sim::run::{catch_panics, run};

/// Seeds that once failed, each with its weather and what it showed.
const REGRESSIONS: &str = include_str!("regressions.txt");

fn must_pass(seed: u64, profile: Option<Profile>) {
    let report = run(seed, profile, false);
    let weather = profile.map(|profile| format!(" --profile {}", profile.name())).unwrap_or_default();
    assert_eq!(report.failure, None, "replay: scatter-sim run --seed {seed}{weather} --trace");
}

#[test]
fn fixed_seeds_pass_in_every_weather() {
    catch_panics();
    for profile in Profile::ALL {
        for seed in 1..=12 {
            must_pass(seed, Some(*profile));
        }
    }
}

#[test]
fn fresh_seeds_pass() {
    catch_panics();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = u64::from(since.subsec_nanos()) << 20 ^ since.as_secs();
    println!("fresh seeds from {first}");
    for seed in first..first + 60 {
        must_pass(seed, None);
    }
}

#[test]
fn seeds_that_once_failed_pass() {
    catch_panics();
    for line in REGRESSIONS.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|word| word.parse().ok()).expect("a line begins with a seed");
        let profile = words.next().and_then(|word| word.parse().ok());
        must_pass(seed, profile);
    }
}

#[test]
fn somebody_crashes_at_every_step_of_an_operation() {
    catch_panics();
    let mut spared: Vec<Step> = Step::all().collect();
    // Profile disaster has every step, those of recoveries included.
    for seed in 1..=600 {
        let report = run(seed, Some(Profile::Disaster), false);
        assert_eq!(report.failure, None, "replay: scatter-sim run --seed {seed} --profile disaster --trace");
        let crashed = |step: &Step| report.struck.iter().any(|blow| blow.step == *step && blow.fate == Fate::Dead);
        spared.retain(|step| !crashed(step));
        if spared.is_empty() {
            return;
        }
    }
    panic!("nobody ever crashed at {spared:?}");
}

/// Operations are also survived if somebody is cut off, one way or both, at an entry of each kind that they consist of. Those of
/// recoveries are a disaster's.
#[test]
fn somebody_is_cut_off_at_every_kind_of_entry_of_an_operation() {
    catch_panics();
    let kind = |step: &Step| match step {
        Step::Proposed(kind) | Step::Accepted(kind) | Step::Applied(kind) => Some(*kind),
        Step::Born | Step::Stalled | Step::Assembled | Step::Buried => None,
    };
    let mut spared: Vec<EntryKind> = Step::all().filter_map(|step| kind(&step)).collect();
    spared.retain(|kind| *kind != EntryKind::Recover);
    for seed in 1..=600 {
        let report = run(seed, Some(Profile::Ring), false);
        assert_eq!(report.failure, None, "replay: scatter-sim run --seed {seed} --profile ring --trace");
        let cut_off =
            |at: &EntryKind| report.struck.iter().any(|blow| kind(&blow.step) == Some(*at) && blow.fate != Fate::Dead);
        spared.retain(|kind| !cut_off(kind));
        if spared.is_empty() {
            return;
        }
    }
    panic!("nobody was ever cut off at {spared:?}");
}

#[test]
fn a_seed_is_a_run() {
    catch_panics();
    for profile in [Profile::Everything, Profile::Birth, Profile::Snapshots] {
        let first = run(77, Some(profile), true);
        let second = run(77, Some(profile), true);
        assert!(first.text == second.text, "two runs of one seed differ");
        assert!(!first.text.is_empty());
        let quiet = run(77, Some(profile), false);
        assert_eq!((quiet.digest, quiet.events), (first.digest, first.events), "keeping the text changes the run");
        assert_ne!(run(78, Some(profile), false).digest, first.digest);
    }
}
