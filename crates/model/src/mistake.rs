//! Deliberate mistakes: each must be found, in a world as small as will do.

use crate::check::Report;
use crate::invariants::Fault;
use crate::scenario::{MERGE, QUIET, SHIFT, Scenario};
use crate::state::Budget;
use clap::ValueEnum;

/// A mistake in the protocol, planted to show that the model would see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Mistake {
    /// The loser votes yes although the count in the prepare is not its own.
    LatePrepareLocks,
    /// A leader of the coordinator says *aborted* of what it has no record of, whether or not it has applied its barrier.
    LaggingLeaderAborts,
    /// A node buries the loser's replica as soon as it has heard of the commit.
    BuriedAtDecision,
    /// A node buries the loser's replica although its store could still lose the merge.
    BuriedBeforeFlush,
    /// A leader commits although the loser's replica beside it has not applied the seal.
    CommitUnseen,
    /// A node buries the loser's replica as soon as its own store holds the merge durably.
    BuriedWhileOthersLag,
    /// A tombstone of a group that was merged away does not tell a learner that asks.
    LeftoversUntold,
    /// A node that left the gainer is not told what to do with its replica of the loser.
    LeaverUntold,
    /// A replica whose machine stands still takes no snapshot, although the logs of the others no longer have what the loser's
    /// replica beside it lacks.
    StandsForEver,
    /// A replica that has not assembled counts for a change of members.
    UnassembledCounts,
    /// A replica takes over what the loser's replica beside it has, however little it has applied.
    CommitWithoutTail,
    /// An abort that is decided after the commit replaces it.
    AbortAfterCommit,
    /// Members change in spite of a lock.
    ChangeWhileLocked,
    /// A leader changes members although it has not applied its whole log, where a lock may wait.
    ChangeBeforeApplied,
    /// The loser's prepare does not look at the configuration that the coordinator has seen.
    PrepareIgnoresConfiguration,
    /// The loser acknowledges an abort of an operation that it does not know, and does not log it.
    AbortNotCounted,
    /// The loser's leader goes on answering readers between the decision of the seal and its own applying it.
    LoserAnswers,
    /// A removed replica of the loser forgets although the gainer's replica beside it has not assembled.
    ForgetsWhatParted,
    /// A replica of the loser takes a snapshot past a seal although the gainer's replica beside it has not assembled.
    SnapshotPastSeal,
    /// A replica of the loser takes a snapshot that leaves out what is sealed, although the gainer's replica beside it has not
    /// assembled.
    SnapshotOfTaken,
    /// The commit of a merge leaves in the outbox what was meant for the group that ends.
    OutboxToTheDead,
}

/// A mistake, where it shows, and how.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// The mistake.
    pub mistake: Mistake,
    /// The smallest world in which it shows.
    pub scenario: Scenario,
    /// What goes wrong; nothing, if the rule only spares snapshots and waiting.
    pub shows: Option<Fault>,
}

impl Planted {
    /// Looks for a shortest path to what goes wrong, or at every state if nothing should.
    pub fn search(&self, threads: usize) -> Report {
        let trial = self.scenario.with(Some(self.mistake));
        if self.shows.is_some() { trial.shortest() } else { trial.find(threads) }
    }
}

impl Mistake {
    /// Where and how it shows.
    pub const fn planted(self) -> Planted {
        let (budget, shows) = self.effect();
        let nodes = if budget.changes[0] + budget.changes[1] > 0 { 4 } else { 3 };
        Planted { mistake: self, scenario: Scenario { name: "planted", nodes, budget, ..QUIET }, shows }
    }

    const fn effect(self) -> (Budget, Option<Fault>) {
        let one_write = Budget { writes: [1, 0], ..MERGE };
        let change_gainer = Budget { changes: [1, 0], ..MERGE };
        let change_loser = Budget { changes: [0, 1], ..MERGE };
        match self {
            Mistake::LatePrepareLocks | Mistake::AbortNotCounted => (SHIFT, Some(Fault::SealForEver)),
            Mistake::LaggingLeaderAborts => (Budget { elections: 1, ..SHIFT }, Some(Fault::TwoOutcomes)),
            Mistake::BuriedAtDecision | Mistake::BuriedBeforeFlush => (MERGE, Some(Fault::Lost)),
            Mistake::CommitUnseen | Mistake::BuriedWhileOthersLag => (Budget { crashes: 1, ..one_write }, None),
            Mistake::LeftoversUntold => (change_loser, Some(Fault::Stuck)),
            Mistake::LeaverUntold => (change_gainer, Some(Fault::Stuck)),
            Mistake::StandsForEver => (Budget { cuts: 2, ..MERGE }, Some(Fault::Stuck)),
            Mistake::UnassembledCounts | Mistake::ChangeWhileLocked => (change_gainer, Some(Fault::Lost)),
            Mistake::ChangeBeforeApplied => (change_loser, Some(Fault::Lost)),
            Mistake::CommitWithoutTail => (one_write, Some(Fault::Lost)),
            Mistake::AbortAfterCommit => (SHIFT, Some(Fault::RingNotWhole)),
            Mistake::PrepareIgnoresConfiguration => (change_loser, Some(Fault::Lost)),
            Mistake::LoserAnswers => (SHIFT, Some(Fault::TwoAnswer)),
            Mistake::ForgetsWhatParted => (Budget { changes: [0, 1], ..SHIFT }, Some(Fault::Lost)),
            Mistake::SnapshotPastSeal | Mistake::SnapshotOfTaken => {
                (Budget { writes: [0, 1], cuts: 2, ..SHIFT }, Some(Fault::Lost))
            }
            Mistake::OutboxToTheDead => (Budget { merges: [2, 0], ..MERGE }, Some(Fault::Stuck)),
        }
    }
}
