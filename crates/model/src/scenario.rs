//! Which small worlds are explored.

use crate::mistake::Mistake;
use crate::sets::{Members, NodeIndex};
use crate::state::{Budget, GroupId, Leader, Presence, Replica, State, Store};
use crate::witness::Witness;

/// A small world: who is there, and what may happen.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// How many nodes there are.
    pub nodes: usize,
    /// Members of the two groups in the beginning.
    pub members: [Members; 2],
    /// What may happen that need not.
    pub budget: Budget,
    /// What must be seen.
    pub expects: &'static [Witness],
}

const NOTHING: Budget = Budget {
    merges: [0; 2],
    shifts: [0; 2],
    changes: [0; 2],
    writes: [0; 2],
    crashes: 0,
    elections: 0,
    cuts: 0,
    repeats: 0,
};

const THREE: [Members; 2] = [Members::first(3); 2];

/// All that `make model` explores.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "merge",
        about: "G takes over all of S; leaders change, a node crashes, logs are cut",
        nodes: 3,
        members: THREE,
        budget: Budget { merges: [1, 0], writes: [1, 0], crashes: 1, elections: 1, cuts: 1, ..NOTHING },
        expects: &[Witness::MergeCommits, Witness::AbortsAfterVote, Witness::Buried, Witness::StandsStill],
    },
];

fn knob(name: &str, old: u8) -> u8 { std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(old) }
impl Scenario {
    /// The scenario of that name.
    pub fn named(name: &str) -> Option<&'static Scenario> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// The states before anything happens: every member has what its group owns, on disk. The leaders live on one node, or do
    /// not.
    pub fn first_states(&self) -> Vec<State> {
        let leaders = |group: GroupId| self.members[group.index()].iter();
        let both = leaders(GroupId::S).take(2).map(|node| (leaders(GroupId::G).next().unwrap_or_default(), node));
        both.map(|(gainer, loser)| self.first_state([gainer, loser])).collect()
    }

    fn first_state(&self, leaders: [NodeIndex; 2]) -> State {
        let mut state = State { budget: self.budget, ..State::default() };
        let b=&mut state.budget;
        b.crashes=knob("CR",b.crashes); b.elections=knob("EL",b.elections); b.cuts=knob("CU",b.cuts); b.repeats=knob("RE",b.repeats);
        b.writes=[knob("W1",b.writes[0]),knob("W2",b.writes[1])];
        b.merges=[knob("MG",b.merges[0]),knob("MS",b.merges[1])];
        b.shifts=[knob("SG",b.shifts[0]),knob("SS",b.shifts[1])];
        b.changes=[knob("CG",b.changes[0]),knob("CS",b.changes[1])];
        for group in GroupId::BOTH {
            let members = self.members[group.index()];
            state.group_mut(group).first_members = members;
            let node = u8::try_from(leaders[group.index()]).unwrap_or_default();
            state.group_mut(group).leader = Some(Leader { node, barrier: 0 });
        }
        let ledger = crate::ledger::Ledger::of(&state.groups, None);
        for group in GroupId::BOTH {
            for node in self.members[group.index()].iter() {
                let store = Store { data: ledger.due(group, 0), ..Store::default() };
                let replica = Replica { presence: Presence::Live, store, flushed: store, ..Replica::default() };
                *state.replica_mut(group, node) = replica;
            }
        }
        state
    }

    /// The same with a mistake.
    pub const fn with(self, mistake: Option<Mistake>) -> Trial {
        Trial { scenario: self, mistake }
    }
}

/// A scenario, explored with or without a mistake.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The scenario.
    pub scenario: Scenario,
    /// The mistake that is planted, if one is.
    pub mistake: Option<Mistake>,
}
