//! What must be seen somewhere, lest the invariants hold because nothing happens.

use crate::invariants::is_at_rest;
use crate::ledger::{Commit, Ledger, Lock};
use crate::sets::{Data, NODES};
use crate::state::{Entry, GroupId, Kind, Operation, Outcome, Slot, State};

/// Things that must be seen at least once, or the invariants held because nothing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// A merge is committed.
    MergeCommits,
    /// A shift is committed.
    ShiftCommits,
    /// An operation is aborted.
    Aborts,
    /// An operation is aborted that the loser had voted yes for.
    AbortsAfterVote,
    /// Everything has come to rest after a merge: the loser is buried everywhere.
    Buried,
    /// A replica stands still at a commit that the leader's replica has applied.
    StandsStill,
    /// A replica can assemble by nothing but the gainer's snapshot.
    NeedsSnapshot,
    /// A replica of the loser holds what moved for the gainer's replica beside it.
    Parts,
    /// Two operations are committed.
    CommitsTwice,
    /// An operation is committed after one was aborted.
    CommitsAfterAbort,
    /// A prepare that does nothing is in a log.
    LatePrepare,
    /// Both groups coordinate at the same time.
    BothBegin,
    /// Members have changed after a commit.
    ChangesAfterCommit,
    /// Members have changed, and an operation was committed after that.
    CommitsAfterChange,
    /// A removed replica has forgotten.
    Forgets,
    /// A replica may not take a snapshot or forget, because of the gainer's replica beside it.
    WaitsForAssembly,
    /// A log was cut.
    Cuts,
}

impl Witness {
    /// Every one of them.
    pub const ALL: [Witness; 17] = [
        Witness::MergeCommits,
        Witness::ShiftCommits,
        Witness::Aborts,
        Witness::AbortsAfterVote,
        Witness::Buried,
        Witness::StandsStill,
        Witness::NeedsSnapshot,
        Witness::Parts,
        Witness::CommitsTwice,
        Witness::CommitsAfterAbort,
        Witness::LatePrepare,
        Witness::BothBegin,
        Witness::ChangesAfterCommit,
        Witness::CommitsAfterChange,
        Witness::Forgets,
        Witness::WaitsForAssembly,
        Witness::Cuts,
    ];

    /// Its bit.
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// Whether the state shows it.
    pub fn is_seen(self, ledger: &Ledger, state: &State) -> bool {
        let committed = |kind| commits(ledger).any(|commit| commit.begin.kind == kind);
        let outcomes = || operations(ledger).filter_map(|operation| Some((operation, ledger.outcome(operation)?)));
        let mut aborts = outcomes().filter(|(_, outcome)| *outcome == Outcome::Abort);
        let everywhere = || GroupId::BOTH.into_iter().flat_map(|group| (0..NODES).map(move |node| (group, node)));
        match self {
            Witness::MergeCommits => committed(Kind::Merge),
            Witness::ShiftCommits => committed(Kind::Shift),
            Witness::Aborts => aborts.next().is_some(),
            Witness::AbortsAfterVote => aborts.any(|(operation, _)| ledger.vote(operation).is_some()),
            Witness::Buried => committed(Kind::Merge) && is_at_rest(ledger, state),
            Witness::StandsStill => {
                everywhere().any(|(group, node)| ledger.stands_at(&state.nodes, group, node).is_some())
            }
            Witness::NeedsSnapshot => everywhere().any(|(group, node)| {
                ledger.stands_at(&state.nodes, group, node).is_some()
                    && (0..NODES).any(|from| ledger.can_take_snapshot(&state.nodes, group, node, from))
            }),
            Witness::Parts => everywhere().any(|(group, node)| state.replica(group, node).store.parted != Data::NONE),
            Witness::CommitsTwice => commits(ledger).count() > 1,
            Witness::CommitsAfterAbort => commits(ledger).any(|commit| {
                outcomes().any(|(operation, outcome)| {
                    outcome == Outcome::Abort
                        && operation.coordinator == commit.operation.coordinator
                        && operation.begin < commit.operation.begin
                })
            }),
            Witness::LatePrepare => is_late(ledger),
            Witness::BothBegin => {
                GroupId::BOTH.into_iter().all(|group| matches!(ledger.decided(group).lock, Some(Lock::Coordinates(_))))
            }
            Witness::ChangesAfterCommit => commits(ledger).any(|commit| {
                let gainer = commit.operation.coordinator;
                changed_between(ledger, gainer, commit.decided, ledger.len(gainer))
                    || ledger
                        .resolved(&commit)
                        .is_some_and(|slot| changed_between(ledger, gainer.other(), slot, ledger.len(gainer.other())))
            }),
            Witness::CommitsAfterChange => commits(ledger).any(|commit| {
                let gainer = commit.operation.coordinator;
                changed_between(ledger, gainer, 0, commit.decided)
                    || changed_between(ledger, gainer.other(), 0, commit.seal)
            }),
            Witness::Forgets => everywhere()
                .any(|(group, node)| ledger.was_removed(group, node) && !state.replica(group, node).is_live()),
            Witness::WaitsForAssembly => {
                everywhere().any(|(group, node)| ledger.is_held_back(&state.nodes, group, node))
            }
            Witness::Cuts => everywhere().any(|(group, node)| state.replica(group, node).start > 0),
        }
    }
}

fn commits(ledger: &Ledger) -> impl Iterator<Item = Commit> + '_ {
    GroupId::BOTH.into_iter().flat_map(|group| ledger.commits(group))
}

fn operations(ledger: &Ledger) -> impl Iterator<Item = Operation> + '_ {
    GroupId::BOTH.into_iter().flat_map(|group| ledger.began(group))
}

fn is_late(ledger: &Ledger) -> bool {
    GroupId::BOTH.into_iter().any(|group| {
        (0..ledger.len(group)).any(|slot| {
            matches!(ledger.entry(group, slot), Entry::Prepare(_))
                && ledger.machine(group, slot).count == ledger.machine(group, slot + 1).count
        })
    })
}

fn changed_between(ledger: &Ledger, group: GroupId, from: Slot, upto: Slot) -> bool {
    ledger.machine(group, from).configuration != ledger.machine(group, upto).configuration
}
