//! Which small worlds are explored.

use crate::ledger::{Ledger, Rules};
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
    /// Who has a replica of the two groups in the beginning: members and learners.
    pub hosts: [Members; 2],
    /// What may happen that need not.
    pub budget: Budget,
    /// Whether replicas take every step singly.
    pub singly: bool,
    /// Whether the loser hears of a commit only once every member of the gainer has assembled. For a single shift.
    pub waits: bool,
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

const ABC: Members = Members(0b0111);
const AB: Members = Members(0b0011);
const ABD: Members = Members(0b1011);
const ABCD: Members = Members(0b1111);

/// Three nodes that are members of both groups, and nothing happens.
pub const QUIET: Scenario = Scenario {
    name: "",
    about: "",
    nodes: 3,
    members: [ABC, ABC],
    hosts: [ABC, ABC],
    budget: NOTHING,
    singly: false,
    waits: false,
    expects: &[],
};

/// G may merge S into itself.
pub const MERGE: Budget = Budget { merges: [1, 0], ..NOTHING };

/// G may take over the boundary position of S.
pub const SHIFT: Budget = Budget { shifts: [1, 0], ..NOTHING };

/// All that `make model` explores.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "merge",
        about: "G takes over all of S; a leader is deposed, a node crashes, a log is cut",
        budget: Budget { writes: [1, 0], crashes: 1, elections: 1, cuts: 1, ..MERGE },
        expects: &[
            Witness::MergeCommits,
            Witness::AbortsAfterVote,
            Witness::LatePrepare,
            Witness::Buried,
            Witness::StandsStill,
            Witness::NeedsSnapshot,
        ],
        ..QUIET
    },
    Scenario {
        name: "merge-singly",
        about: "the same without faults, each step of each replica by itself: holds the other scenarios' short cuts to account",
        budget: MERGE,
        singly: true,
        expects: &[Witness::MergeCommits, Witness::AbortsAfterVote, Witness::Buried, Witness::StandsStill],
        ..QUIET
    },
    Scenario {
        name: "shift",
        about: "G takes over the boundary position of S; a leader is deposed, a node crashes",
        budget: Budget { writes: [1, 1], crashes: 1, elections: 1, ..SHIFT },
        expects: &[
            Witness::ShiftCommits,
            Witness::AbortsAfterVote,
            Witness::LatePrepare,
            Witness::StandsStill,
            Witness::Parts,
        ],
        ..QUIET
    },
    Scenario {
        name: "shift-snapshots",
        about: "the same while logs are cut, so that replicas of both groups need snapshots",
        budget: Budget { writes: [0, 1], cuts: 2, ..SHIFT },
        expects: &[
            Witness::ShiftCommits,
            Witness::NeedsSnapshot,
            Witness::Parts,
            Witness::WaitsForAssembly,
            Witness::Cuts,
        ],
        ..QUIET
    },
    Scenario {
        name: "shift-told-late",
        about: "S hears of the commit only once every member of G has assembled; a leader is deposed, a node crashes, a log is cut",
        budget: Budget { writes: [0, 1], crashes: 1, elections: 1, cuts: 1, ..SHIFT },
        waits: true,
        expects: &[Witness::ShiftCommits, Witness::NeedsSnapshot, Witness::Parts, Witness::WaitsForAssembly],
        ..QUIET
    },
    Scenario {
        name: "shift-and-merge",
        about: "G takes over a part and then the rest, or aborts and tries again; outcomes are heard twice",
        budget: Budget { shifts: [1, 0], elections: 1, repeats: 1, ..MERGE },
        expects: &[
            Witness::CommitsTwice,
            Witness::CommitsAfterAbort,
            Witness::LatePrepare,
            Witness::Buried,
            Witness::StandsStill,
        ],
        ..QUIET
    },
    Scenario {
        name: "there-and-back",
        about: "G takes over the boundary position of S, and S takes it back; a node crashes",
        budget: Budget { shifts: [1, 1], crashes: 1, ..NOTHING },
        expects: &[Witness::CommitsTwice, Witness::StandsStill, Witness::Parts],
        ..QUIET
    },
    Scenario {
        name: "opposite-merges",
        about: "each group wants to merge the other into itself",
        budget: Budget { merges: [1, 1], elections: 1, crashes: 1, ..NOTHING },
        expects: &[Witness::BothBegin, Witness::MergeCommits, Witness::Aborts, Witness::Buried],
        ..QUIET
    },
    Scenario {
        name: "opposite-kinds",
        about: "G wants a part of S, and S wants all of G",
        budget: Budget { shifts: [1, 0], merges: [0, 1], elections: 1, ..NOTHING },
        expects: &[Witness::BothBegin, Witness::CommitsTwice, Witness::Aborts, Witness::Buried],
        ..QUIET
    },
    Scenario {
        name: "align-and-merge",
        about: "S takes in the member it lacks, then G merges it; a node crashes",
        members: [ABC, AB],
        budget: Budget { changes: [0, 1], crashes: 1, ..MERGE },
        expects: &[Witness::CommitsAfterChange, Witness::Buried],
        ..QUIET
    },
    Scenario {
        name: "replace-and-merge",
        about: "S replaces a member by the one that G has, then G merges it",
        nodes: 4,
        members: [ABC, ABD],
        hosts: [ABC, ABCD],
        budget: Budget { changes: [0, 1], ..MERGE },
        expects: &[Witness::CommitsAfterChange, Witness::Buried, Witness::Forgets],
        ..QUIET
    },
    Scenario {
        name: "merge-and-change",
        about: "members of G change before or after it merges S into itself; a node crashes",
        nodes: 4,
        budget: Budget { changes: [1, 0], crashes: 1, ..MERGE },
        expects: &[Witness::ChangesAfterCommit, Witness::Buried, Witness::Forgets, Witness::NeedsSnapshot],
        ..QUIET
    },
    Scenario {
        name: "shift-and-change-loser",
        about: "members of S change before or after it loses its boundary position",
        nodes: 4,
        budget: Budget { changes: [0, 1], ..SHIFT },
        expects: &[Witness::ChangesAfterCommit, Witness::Forgets, Witness::Parts, Witness::WaitsForAssembly],
        ..QUIET
    },
    Scenario {
        name: "shift-and-change-gainer",
        about: "members of G change before or after it gains the boundary position",
        nodes: 4,
        budget: Budget { changes: [1, 0], ..SHIFT },
        expects: &[Witness::ChangesAfterCommit, Witness::Forgets, Witness::NeedsSnapshot],
        ..QUIET
    },
];

impl Scenario {
    /// The scenario of that name.
    pub fn named(name: &str) -> Option<Scenario> {
        SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
    }

    /// The states before anything happens: every host has what the group owns, on disk. The leaders live on one node, or do
    /// not.
    pub fn first_states(&self) -> Vec<State> {
        let [gainer, loser] = self.members;
        let leader = gainer.iter().next().unwrap_or_default();
        loser.iter().take(2).map(|node| self.first_state([leader, node])).collect()
    }

    fn first_state(&self, leaders: [NodeIndex; 2]) -> State {
        let mut state = State { budget: self.budget, ..State::default() };
        for group in GroupId::BOTH {
            let own = state.group_mut(group);
            own.first_members = self.members[group.index()];
            let node = u8::try_from(leaders[group.index()]).unwrap_or_default();
            own.leader = Some(Leader { node, barrier: 0 });
        }
        let ledger = Ledger::of(&state.groups, Rules::default());
        for group in GroupId::BOTH {
            for node in self.hosts[group.index()].iter() {
                let store = Store { data: ledger.due(group, 0), ..Store::default() };
                let replica = Replica { presence: Presence::Live, store, flushed: store, ..Replica::default() };
                *state.replica_mut(group, node) = replica;
            }
        }
        state
    }

    /// The same, with a mistake or none.
    pub const fn with(self, mistake: Option<Mistake>) -> Trial {
        Trial { scenario: self, rules: Rules { mistake, singly: self.singly, waits: self.waits } }
    }
}

/// A scenario, explored by these rules.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    /// The scenario.
    pub scenario: Scenario,
    /// The rules.
    pub rules: Rules,
}
