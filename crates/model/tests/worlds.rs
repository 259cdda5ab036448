//! The protocol holds in small worlds, and every planted mistake shows.

use clap::ValueEnum;
use scatter_model::action::Action;
use scatter_model::invariants::{Fault, fault};
use scatter_model::ledger::{Ledger, Rules};
use scatter_model::mistake::Mistake;
use scatter_model::scenario::{MERGE, QUIET, SCENARIOS, SHIFT, Scenario, Trial};
use scatter_model::state::{Budget, State};
use scatter_model::witness::Witness;

const THREADS: usize = 2;

/// Explores without a mistake. All must be well, and so much must be seen.
#[track_caller]
fn holds(budget: Budget, nodes: usize, expects: &'static [Witness]) {
    let scenario = Scenario { name: "test", nodes, budget, expects, ..QUIET };
    let report = scenario.with(None).explore(THREADS);
    assert!(report.counterexample.is_none(), "{:#?}", report.counterexample);
    assert_eq!(report.unseen, []);
}

#[test]
fn a_merge_holds() {
    let budget = Budget { writes: [1, 0], crashes: 1, elections: 1, ..MERGE };
    holds(budget, 3, &[Witness::MergeCommits, Witness::AbortsAfterVote, Witness::Buried, Witness::StandsStill]);
}

#[test]
fn a_merge_with_cut_logs_holds() {
    holds(Budget { cuts: 1, ..MERGE }, 3, &[Witness::NeedsSnapshot, Witness::Cuts, Witness::Buried]);
}

#[test]
fn a_shift_holds() {
    let budget = Budget { crashes: 1, elections: 1, ..SHIFT };
    holds(budget, 3, &[Witness::ShiftCommits, Witness::AbortsAfterVote, Witness::Parts, Witness::LatePrepare]);
}

#[test]
fn a_shift_with_cut_logs_holds() {
    let budget = Budget { cuts: 1, ..SHIFT };
    holds(budget, 3, &[Witness::NeedsSnapshot, Witness::WaitsForAssembly, Witness::Parts]);
}

#[test]
fn opposite_merges_hold() {
    let budget = Budget { merges: [1, 1], elections: 1, ..MERGE };
    holds(budget, 3, &[Witness::BothBegin, Witness::MergeCommits, Witness::Aborts]);
}

#[test]
fn a_second_attempt_holds() {
    let budget = Budget { merges: [2, 0], repeats: 1, ..MERGE };
    holds(budget, 3, &[Witness::CommitsAfterAbort, Witness::LatePrepare, Witness::Buried]);
}

/// Every mistake shows as it should. Three that take long to be found have their stories told below, and two that show late
/// are looked for in the depth first.
#[test]
fn planted_mistakes_show() {
    let told = [Mistake::SnapshotPastSeal, Mistake::SnapshotOfTaken, Mistake::ForgetsWhatParted];
    for mistake in Mistake::value_variants().iter().filter(|mistake| !told.contains(mistake)) {
        let planted = mistake.planted();
        let deep = matches!(mistake, Mistake::LeaverUntold | Mistake::LeftoversUntold);
        let trial = planted.scenario.with(Some(*mistake));
        let report = if deep { trial.find(THREADS) } else { planted.search(THREADS) };
        let fault = report.counterexample.and_then(|found| found.fault);
        assert_eq!(fault, planted.shows, "{mistake:?}");
    }
}

/// Follows a story step by step; what is wrong in the end, or the step that cannot be taken.
fn tell(trial: &Trial, story: &[&'static str]) -> Result<Option<Fault>, &'static str> {
    let mut state = trial.scenario.first_states()[0];
    let ledger_of = |state: &State| Ledger::of(&state.groups, trial.rules);
    for step in story {
        let ledger = ledger_of(&state);
        let mut actions: Vec<Action> = Vec::new();
        trial.actions(&ledger, &state, &mut actions);
        let action = actions.into_iter().find(|action| format!("{action:?}") == *step).ok_or(*step)?;
        state = state.after(&ledger, action);
    }
    Ok(fault(&ledger_of(&state), &state))
}

/// The one replica that has what moved gives snapshots without it to both others, which have not assembled.
#[test]
fn a_snapshot_past_a_seal_loses_what_moved() {
    let story = [
        "G decides begin[Shift {\"boundary\"} count 0] on {AB}",
        "G on A catches up and applies",
        "S decides prepare[G0] on {AB}",
        "S on A catches up and applies",
        "G decides decide[0 Commit seal 0] on {AB}",
        "S decides resolve[G0 Commit] on {AB}",
        "S on A catches up and applies",
        "S on A cuts its log",
        "S on C takes a snapshot of A",
        "S decides write[01000000] on {AC}",
        "S on A catches up and applies",
        "S on A cuts its log",
        "S on B takes a snapshot of A",
    ];
    let planted = Mistake::SnapshotPastSeal.planted();
    let trial = planted.scenario.with(Some(planted.mistake));
    assert_eq!(tell(&trial, &story), Ok(planted.shows));
    assert_eq!(tell(&planted.scenario.with(None), &story), Err(story[8]));
}

/// The one replica whose gainer has taken what moved gives snapshots without it to both others, which have not assembled. Nobody
/// has told the loser of the commit yet.
#[test]
fn a_snapshot_of_what_is_taken_loses_what_moved() {
    let story = [
        "G decides begin[Shift {\"boundary\"} count 0] on {AB}",
        "G on A catches up and applies",
        "S decides prepare[G0] on {AB}",
        "S on A catches up and applies",
        "G decides decide[0 Commit seal 0] on {AB}",
        "S on A cuts its log",
        "G on A catches up and applies",
        "S on C takes a snapshot of A",
        "S decides write[01000000] on {AC}",
        "S on A catches up and applies",
        "S on A cuts its log",
        "S on B takes a snapshot of A",
    ];
    let planted = Mistake::SnapshotOfTaken.planted();
    let trial = planted.scenario.with(Some(planted.mistake));
    assert_eq!(tell(&trial, &story), Ok(planted.shows));
    assert_eq!(tell(&planted.scenario.with(None), &story), Err(story[7]));
}

/// A replica that left the loser forgets what moved, which the gainer's replica on its node has not taken over.
#[test]
fn forgetting_what_parted_loses_it() {
    let story = [
        "G decides begin[Shift {\"boundary\"} count 0] on {AB}",
        "G on A catches up and applies",
        "S decides prepare[G0] on {AB}",
        "S on A catches up and applies",
        "G decides decide[0 Commit seal 0] on {AB}",
        "S decides resolve[G0 Commit] on {AB}",
        "S on A catches up and applies",
        "D joins S by a snapshot of A",
        "S decides members{BCD} on {ABD}",
        "S on B catches up and applies",
        "B flushes its store",
        "S on D catches up and applies",
        "D flushes its store",
        "S on A, removed, forgets",
    ];
    let planted = Mistake::ForgetsWhatParted.planted();
    let trial = planted.scenario.with(Some(planted.mistake));
    assert_eq!(tell(&trial, &story), Ok(planted.shows));
    assert_eq!(tell(&planted.scenario.with(None), &story), Err(story[13]));
}

/// The worlds of the planted mistakes are sound without them. The largest are among the scenarios that `make model` explores.
#[test]
fn without_its_mistake_each_world_holds() {
    for mistake in [Mistake::LatePrepareLocks, Mistake::BuriedAtDecision, Mistake::OutboxToTheDead] {
        let report = mistake.planted().scenario.with(None).explore(THREADS);
        assert!(report.counterexample.is_none(), "{mistake:?}: {:#?}", report.counterexample);
    }
}

/// A walk through a scenario, by a generator that needs nothing but its seed.
fn walk(scenario: &Scenario, mut seed: u64) -> Vec<State> {
    let trial = scenario.with(None);
    let mut state = scenario.first_states()[0];
    let mut states = vec![state];
    for _ in 0..60 {
        let ledger = Ledger::of(&state.groups, Rules::default());
        let mut actions: Vec<Action> = Vec::new();
        trial.actions(&ledger, &state, &mut actions);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let drawn = (seed >> 33) as usize;
        let Some(action) = actions.get(drawn % actions.len().max(1)) else { break };
        state = state.after(&ledger, *action);
        states.push(state);
    }
    states
}

#[test]
fn names_of_nodes_mean_nothing() {
    for scenario in SCENARIOS {
        for seed in 0..20 {
            for state in walk(scenario, seed) {
                let canonical = state.canonical();
                for order in [[1, 0, 2, 3], [2, 0, 1, 3], [3, 2, 1, 0], [0, 3, 1, 2]] {
                    assert_eq!(state.renamed(order).canonical(), canonical, "{}, seed {seed}", scenario.name);
                }
            }
        }
    }
}

#[test]
fn a_counterexample_is_a_path() {
    let planted = Mistake::BuriedBeforeFlush.planted();
    let trial = planted.scenario.with(Some(planted.mistake));
    let found = trial.find(1).counterexample.unwrap();
    let follows = |first: &State| {
        let mut state = *first;
        found.steps.iter().all(|(action, next)| {
            state = state.after(&Ledger::of(&state.groups, trial.rules), *action);
            state == *next
        })
    };
    assert!(trial.scenario.first_states().iter().any(follows));
    assert_eq!(found.fault, planted.shows);
}
