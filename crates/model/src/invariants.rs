//! What must hold in every state.

use crate::action::{self, Action, Pace};
use crate::ledger::{Commit, Ledger, Lock};
use crate::mistake::Mistake;
use crate::proposals::proposals;
use crate::recovery;
use crate::sets::{Data, Positions};
use crate::state::{Entry, GroupId, Operation, Outcome, State};

/// What was found to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The scenario needs a longer log than the model has: what follows would not be explored.
    LogFull,
    /// A position belongs to nobody, or to both groups.
    RingNotWhole,
    /// Two leaders answer for a position.
    TwoAnswer,
    /// A leader answers for a position and lacks something that was acknowledged there.
    AnswersWithout,
    /// The two sides of an operation end it differently.
    TwoOutcomes,
    /// A group is sealed, and the coordinator has no record that would ever lift the seal.
    SealForEver,
    /// A replica does not hold what its applied slot says.
    StoreDiffers,
    /// A majority of a group's members, left alone, could not go on with all that was acknowledged.
    Lost,
    /// Nothing more happens by itself, and something is locked, unanswered, behind or left over.
    Stuck,
}

impl Fault {
    /// What that means, in words.
    pub const fn meaning(self) -> &'static str {
        match self {
            Fault::LogFull => "the scenario needs longer logs than the model has",
            Fault::RingNotWhole => "a position belongs to nobody, or to both groups",
            Fault::TwoAnswer => "two leaders answer for a position",
            Fault::AnswersWithout => "a leader answers and lacks something that was acknowledged",
            Fault::TwoOutcomes => "the two sides of an operation end it differently",
            Fault::SealForEver => "a seal that no record of the coordinator will ever lift",
            Fault::StoreDiffers => "a store does not hold what its applied slot says",
            Fault::Lost => "a majority, left alone, cannot go on with all that was acknowledged",
            Fault::Stuck => "nothing happens by itself any more, and something is locked, behind or left over",
        }
    }
}

/// Something that must hold.
type Check = fn(&Ledger, &State) -> bool;

/// The first thing that is wrong in the state.
pub fn fault(ledger: &Ledger, state: &State) -> Option<Fault> {
    let checks: [(Fault, Check); 9] = [
        (Fault::LogFull, |_, state| GroupId::BOTH.iter().all(|group| !state.group(*group).log.is_full())),
        (Fault::RingNotWhole, ring_is_whole),
        (Fault::TwoAnswer, one_answers),
        (Fault::AnswersWithout, answers_are_whole),
        (Fault::TwoOutcomes, outcomes_agree),
        (Fault::SealForEver, seals_have_an_end),
        (Fault::StoreDiffers, stores_agree),
        (Fault::Lost, nothing_is_lost),
        (Fault::Stuck, |ledger, state| !is_at_rest(ledger, state) || all_is_done(ledger, state)),
    ];
    checks.into_iter().find(|(_, holds)| !holds(ledger, state)).map(|(fault, _)| fault)
}

/// Whether each position is claimed by one group. What is sealed is the loser's until the commit.
fn ring_is_whole(ledger: &Ledger, _: &State) -> bool {
    Positions::EACH.into_iter().all(|position| {
        let claims = |group: &&GroupId| {
            let machine = ledger.decided(**group);
            let moved = match machine.lock {
                Some(Lock::Participates(operation, _)) => {
                    machine.sealed.covers(position) && ledger.outcome(operation) == Some(Outcome::Commit)
                }
                _ => false,
            };
            machine.range.covers(position) && !moved
        };
        GroupId::BOTH.iter().filter(claims).count() == 1
    })
}

/// Whether a reader at the group's leader gets an answer: the leader has its lease and has applied its barrier and whatever
/// was revealed. The second result is what is read.
fn answers(ledger: &Ledger, state: &State, group: GroupId, position: Positions) -> Option<Data> {
    let leader = state.group(group).leader?;
    let own = state.replica(group, usize::from(leader.node));
    let applied = own.store.applied;
    let floor = if ledger.makes(Mistake::LoserAnswers) { leader.barrier } else { ledger.len(group) };
    (own.is_live() && applied >= floor && ledger.machine(group, applied).answers(position))
        .then(|| own.store.data.at(position))
}

fn one_answers(ledger: &Ledger, state: &State) -> bool {
    Positions::EACH.into_iter().all(|position| {
        GroupId::BOTH.iter().filter(|group| answers(ledger, state, **group, position).is_some()).count() <= 1
    })
}

fn answers_are_whole(ledger: &Ledger, state: &State) -> bool {
    let acknowledged = GroupId::BOTH
        .iter()
        .filter(|group| ledger.ended(**group).is_none())
        .fold(Data::NONE, |all, group| all.and(ledger.due(*group, ledger.len(*group))));
    Positions::EACH.into_iter().all(|position| {
        GroupId::BOTH.iter().all(|group| {
            answers(ledger, state, *group, position).is_none_or(|data| data.holds(acknowledged.at(position)))
        })
    })
}

fn outcomes_agree(ledger: &Ledger, state: &State) -> bool {
    GroupId::BOTH.into_iter().all(|group| {
        let log = state.group(group).log.from(0).iter().zip(0u8..);
        log.filter_map(|(entry, slot)| match entry {
            Entry::Resolve { operation, outcome } => Some((*operation, *outcome, slot)),
            _ => None,
        })
        .filter(|(operation, _, slot)| {
            matches!(ledger.machine(group, *slot).lock, Some(Lock::Participates(held, _)) if held == *operation)
        })
        .all(|(operation, outcome, _)| ledger.outcome(operation) == Some(outcome))
    })
}

fn seals_have_an_end(ledger: &Ledger, _: &State) -> bool {
    GroupId::BOTH.into_iter().all(|group| match ledger.decided(group).lock {
        Some(Lock::Participates(Operation { coordinator, begin }, _)) => {
            let machine = ledger.decided(coordinator);
            let pending = machine.lock == Some(Lock::Coordinates(begin));
            pending || machine.sent(begin).is_some() || ledger.ended(group).is_some()
        }
        _ => true,
    })
}

fn stores_agree(ledger: &Ledger, state: &State) -> bool {
    GroupId::BOTH.into_iter().all(|group| {
        state.live(group).all(|node| {
            let store = state.replica(group, node).store;
            // What was merged away hands its data over.
            let handed_over = ledger.ended(group).is_some() && store.data == Data::NONE;
            let due = ledger.due(group, store.applied);
            // What the gainer has is not in every store of the loser.
            let without = |commit: Commit| store.data == due.outside(commit.begin.moves);
            handed_over || store.data == due || ledger.taken(&state.nodes, group, node).is_some_and(without)
        })
    })
}

fn nothing_is_lost(ledger: &Ledger, state: &State) -> bool {
    GroupId::BOTH
        .into_iter()
        .filter(|group| ledger.ended(*group).is_none())
        .all(|group| recovery::useless_majority(ledger, state, group).is_none())
}

/// Whether nothing happens any more unless something fails or is ordered.
pub fn is_at_rest(ledger: &Ledger, state: &State) -> bool {
    let mut actions: Vec<Action> = Vec::new();
    action::of_replicas(ledger, state, &mut actions);
    if actions.is_empty() {
        action::elections(ledger, state, Pace::ByItself, &mut actions);
    }
    if actions.is_empty() {
        proposals(ledger, state, Pace::ByItself, &mut actions);
    }
    actions.is_empty()
}

/// Whether everybody is where they should be once all has come to rest.
fn all_is_done(ledger: &Ledger, state: &State) -> bool {
    GroupId::BOTH.into_iter().all(|group| {
        if ledger.ended(group).is_some() {
            return state.live(group).next().is_none();
        }
        let machine = ledger.decided(group);
        let up_to_date = |node| {
            let own = state.replica(group, node);
            own.is_live() && own.store.applied == ledger.len(group) && own.store.parted == Data::NONE
        };
        machine.lock.is_none()
            && machine.outbox().next().is_none()
            && machine.members.iter().all(up_to_date)
            && state.live(group).all(|node| !ledger.was_removed(group, node))
    })
}
