//! Exploring a scenario to the end.

use crate::action::{self, Action, Pace};
use crate::invariants::{Fault, fault};
use crate::ledger::Ledger;
use crate::proposals::proposals;
use crate::scenario::{Scenario, Trial};
use crate::state::State;
use crate::witness::Witness;
use stateright::{Checker, CheckerBuilder, HasDiscoveries, Model, Property};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What holds in every state. Each invariant by itself would compute the ledger anew, so they are one property here;
/// [`fault`] names the one that fails.
const ALWAYS: &str = "every invariant holds";

/// After how many steps the search for a shortest path is given up: each state that waits for its turn takes memory.
const LOOK_FOR_SHORTEST: usize = 50_000_000;

/// A trial as the checker sees it.
struct World {
    trial: Trial,
    /// What was seen so far. Properties of the kind *sometimes* would be recorded again at each state that shows them.
    seen: Arc<AtomicU32>,
}

/// A step, as the state it leads to: so the ledger of a state is computed once for all that follow it. Which action it was is
/// found again for the few that are shown.
#[derive(Clone, Debug, PartialEq)]
struct Step(State);

impl World {
    fn ledger(&self, state: &State) -> Ledger {
        Ledger::of(&state.groups, self.trial.rules)
    }

    fn holds(&self, state: &State) -> bool {
        let ledger = self.ledger(state);
        let seen = self.seen.load(Ordering::Relaxed);
        let mut now = seen;
        for witness in self.trial.scenario.expects.iter() {
            if seen & witness.bit() == 0 && witness.is_seen(&ledger, state) {
                now |= witness.bit();
            }
        }
        if now != seen {
            self.seen.fetch_or(now, Ordering::Relaxed);
        }
        fault(&ledger, state).is_none()
    }
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        self.trial.scenario.first_states().iter().map(State::canonical).collect()
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let ledger = self.ledger(state);
        let mut actions = Vec::new();
        self.trial.actions(&ledger, state, &mut actions);
        steps.extend(actions.into_iter().map(|action| Step(state.after(&ledger, action).canonical())));
    }

    fn next_state(&self, _: &State, Step(next): Step) -> Option<State> {
        Some(next)
    }

    fn properties(&self) -> Vec<Property<World>> {
        vec![Property::always(ALWAYS, World::holds)]
    }
}

impl Trial {
    /// All that may happen next.
    pub fn actions(&self, ledger: &Ledger, state: &State, actions: &mut Vec<Action>) {
        action::of_replicas(ledger, state, actions);
        action::elections(ledger, state, Pace::Anything, actions);
        proposals(ledger, state, Pace::Anything, actions);
        action::faults(ledger, state, self.scenario.nodes, actions);
    }

    /// Explores every state that can be reached, deep paths first: so only few states wait, and memory is for those that were
    /// seen. If something is wrong somewhere, a shortest path to such a state is looked for.
    pub fn explore(self, threads: usize) -> Report {
        let report = self.find(threads);
        if report.counterexample.is_none() {
            return report;
        }
        let shortest = self.shortest();
        if shortest.counterexample.is_some() { shortest } else { report }
    }

    /// Explores every state that can be reached, or stops at the first in which something is wrong.
    pub fn find(self, threads: usize) -> Report {
        self.search(threads, |builder| builder.spawn_dfs().join())
    }

    /// Looks for a shortest path to a state in which something is wrong. Two threads could meet a longer one first.
    pub fn shortest(self) -> Report {
        self.search(1, |builder| builder.target_state_count(LOOK_FOR_SHORTEST).spawn_bfs().join())
    }

    fn search<C: Checker<World>>(self, threads: usize, run: impl FnOnce(CheckerBuilder<World>) -> C) -> Report {
        let began = Instant::now();
        let seen = Arc::new(AtomicU32::new(0));
        let firsts = self.scenario.first_states().len();
        let world = World { trial: self, seen: Arc::clone(&seen) };
        let checker = run(world.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures));
        let path = checker.discovery(ALWAYS).map(|path| path.into_vec());
        let counterexample = path.map(|path| Counterexample::new(self, path.into_iter().map(|(state, _)| state)));
        let seen = seen.load(Ordering::Relaxed);
        Report {
            scenario: self.scenario,
            states: checker.unique_state_count(),
            steps: checker.state_count() - firsts,
            time: began.elapsed(),
            unseen: self.scenario.expects.iter().filter(|w| seen & w.bit() == 0).copied().collect(),
            counterexample,
        }
    }
}

/// What came of exploring a scenario.
#[derive(Debug)]
pub struct Report {
    /// Which one.
    pub scenario: Scenario,
    /// How many states there are, apart from names of nodes.
    pub states: usize,
    /// How many steps there are from one state to another.
    pub steps: usize,
    /// How long it took.
    pub time: Duration,
    /// What the scenario promises to show, and did not.
    pub unseen: Vec<Witness>,
    /// How an invariant is broken, if one is.
    pub counterexample: Option<Counterexample>,
}

impl Report {
    /// Whether all is as it should be.
    pub fn is_good(&self) -> bool {
        self.counterexample.is_none() && self.unseen.is_empty()
    }
}

/// A shortest path to a state in which something is wrong.
#[derive(Clone, Debug)]
pub struct Counterexample {
    /// What is wrong.
    pub fault: Option<Fault>,
    /// The steps, each with the state after it.
    pub steps: Vec<(Action, State)>,
}

impl Counterexample {
    /// The path again, with nodes that keep their names: the explored states are canonical, so that nodes change places.
    fn new(trial: Trial, states: impl Iterator<Item = State>) -> Counterexample {
        let ledger_of = |state: &State| Ledger::of(&state.groups, trial.rules);
        let mut states = states;
        let first = states.next();
        let mut firsts = trial.scenario.first_states().into_iter();
        let mut state = firsts.find(|state| Some(state.canonical()) == first).unwrap_or_default();
        let mut steps = Vec::new();
        for wanted in states {
            let ledger = ledger_of(&state);
            let mut actions = Vec::new();
            trial.actions(&ledger, &state, &mut actions);
            let followers = actions.into_iter().map(|action| (action, state.after(&ledger, action)));
            let mut matching = followers.filter(|(_, next)| next.canonical() == wanted);
            let Some((action, next)) = matching.next() else { break };
            steps.push((action, next));
            state = next;
        }
        Counterexample { fault: fault(&ledger_of(&state), &state), steps }
    }
}
