//! Deliberate mistakes: each must be found.

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
    /// A replica that has not assembled counts for a change of members.
    UnassembledCounts,
    /// A replica takes over what the loser's replica beside it has, however little it has applied.
    CommitWithoutTail,
    /// An abort that is decided after the commit replaces it.
    AbortAfterCommit,
    /// Members change in spite of a lock.
    ChangeWhileLocked,
    /// The loser's prepare does not look at the configuration that the coordinator has seen.
    PrepareIgnoresConfiguration,
    /// The loser acknowledges an abort of an operation that it does not know, and does not log it.
    AbortNotCounted,
    /// The loser's leader goes on answering readers between the decision of the seal and its own applying it.
    LoserAnswers,
    /// A removed replica forgets on news that is not on disk.
    ForgetsOnVolatileNews,
    /// A removed replica of the loser forgets although the gainer's replica beside it has not assembled.
    ForgetsWhatParted,
    /// A replica of the loser takes a snapshot past a seal although the gainer's replica beside it has not assembled.
    SnapshotPastSeal,
    /// A replica of the gainer takes over whatever the loser's replica beside it holds, once that is past the seal.
    AssemblesBySlotAlone,
    /// The commit of a merge leaves in the outbox what was meant for the group that ends.
    OutboxToTheDead,
}
