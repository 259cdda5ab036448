//! Deliberate protocol bugs, each switched on alone by the simulator to show that it would be caught.
//!
//! Without the cargo feature `planted` every switch is the constant `false` and costs nothing.

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident => $name:literal,)*) => {
        /// One deliberate bug.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// The name that reports print.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }

            /// Whether it is a bug of operations of groups on the ring, which are listed last.
            #[must_use]
            pub const fn is_between_groups(self) -> bool {
                self as usize >= Self::UnalignedTakeover as usize
            }
        }
    };
}

bugs! {
    /// A promise leaves before the disk holds it.
    PromiseBeforeSync => "promise-before-sync",
    /// An acceptance is told before the disk holds it.
    AcceptBeforeSync => "accept-before-sync",
    /// The leader counts its own acceptance before its disk holds it.
    OwnVoteBeforeSync => "own-vote-before-sync",
    /// A candidate sends prepares before its own promise is on disk, and so may use a ballot twice.
    PrepareBeforeSync => "prepare-before-sync",
    /// One vote fewer than a majority decides.
    SmallerQuorum => "smaller-quorum",
    /// One promise fewer than a majority elects.
    SmallerPrepareQuorum => "smaller-prepare-quorum",
    /// The leader reads without looking at its lease.
    ReadWithoutLease => "read-without-lease",
    /// A quorum read does not wait for its heartbeat round.
    ReadWithoutRound => "read-without-round",
    /// A restarted replica does not wait out the leases it granted.
    NoRestartWait => "no-restart-wait",
    /// The restart wait uses the term of today's settings instead of the longest ever granted.
    RestartWaitOfTodaysTerm => "restart-wait-of-todays-term",
    /// The leader does not cut its lease by the drift bound.
    LeaseNotCut => "lease-not-cut-by-drift",
    /// A follower promises another ballot while its grant runs.
    GrantIgnored => "grant-ignored",
    /// The leader counts its lease from when the answer came instead of when it asked.
    LeaseFromAnswer => "lease-counted-from-the-answer",
    /// Reads start before an entry of the leader's own ballot is applied.
    NoBarrier => "no-barrier",
    /// Grants of learners count towards the lease.
    LearnerGrantCounts => "learner-grant-counts",
    /// Acknowledgements of learners count towards deciding.
    LearnerVoteCounts => "learner-vote-counts",
    /// The tombstone of a removed replica is not written.
    TombstoneForgotten => "tombstone-forgotten",
    /// Lanes are left out of snapshots.
    LanesNotInSnapshot => "lanes-not-in-the-snapshot",
    /// Lanes are not checkpointed with the applied mark.
    LanesNotCheckpointed => "lanes-not-checkpointed",
    /// The log is truncated up to what is applied instead of what is flushed.
    TruncatedTooFar => "truncated-too-far",
    /// Entries are read back from the disk beyond its decided mark, where it may hold what was accepted before.
    LogReadPastMark => "log-read-past-the-mark",
    /// After a restart the log is trusted between its decided mark and what the store had applied.
    UnsureLogKept => "unsure-log-kept",
    /// A snapshot's applied mark becomes visible before its data is complete.
    SnapshotNotAtomic => "snapshot-not-atomic",
    /// A follower takes the leader's decided mark for slots it accepted in another ballot.
    DecidedFromAnotherBallot => "decided-from-another-ballot",
    /// A candidate counts promises of an earlier ballot of its own.
    StalePromise => "stale-promise-counted",
    /// A client is answered before its command is applied (when it is decided by the leader alone).
    ReplyBeforeDecided => "reply-before-decided",
    /// A candidate chooses the value of the lowest reported ballot.
    LowestBallotChosen => "lowest-ballot-chosen",
    /// A candidate fills every undecided slot with nothing.
    AdoptsNothing => "adopts-nothing",
    /// A candidate proposes past an adopted configuration with the old set's promises (hazard 1).
    ProposesPastAdoptedConfiguration => "proposes-past-adopted-configuration",
    /// A candidate adopts a configuration that does not follow the one in force.
    AdoptsStaleConfiguration => "adopts-stale-configuration",
    /// A configuration is decided by the old majority alone (hazard 2).
    OldMajorityDecidesConfiguration => "old-majority-decides-configuration",
    /// A leader proposes past an undecided configuration.
    WindowOfTwo => "window-of-two",
    /// A removed replica forgets at once (hazard 2).
    RemovedForgetsAtOnce => "removed-forgets-at-once",
    /// Replies and decided marks leave before the floor is raised (hazard 3).
    FloorNotRaised => "floor-not-raised",
    /// The read word is not withdrawn before a structural entry (hazard 12).
    WordNotWithdrawn => "word-not-withdrawn",
    /// A reader does not check the generation again after reading (hazard 12).
    GenerationNotChecked => "generation-not-checked",
    /// A reader does not look again where the data lies once it was let through (hazard 12).
    TabletsNotChecked => "tablets-not-checked",
    /// A grantor passes over grants newer than the ticket's stamp, and the old leader goes on renewing (hazard 8).
    HandOverRenewed => "hand-over-renewed",
    /// Evicting a lane does not raise the forgotten stamp (hazard 9).
    LaneEvictedSilently => "lane-evicted-silently",
    /// Two operations of one entry share a version (hazard 10).
    SharedVersion => "shared-version",
    /// Log time jumps to the leader's wall clock (hazard 11).
    LogTimeJumps => "log-time-jumps",
    /// A message for another incarnation is answered (hazard 14).
    IncarnationIgnored => "incarnation-ignored",
    /// A boot counter that fell is not refused (hazard 18).
    RollbackNotRefused => "rollback-not-refused",
    /// A rolled-back disk that was started often enough passes for a later boot (hazard 18).
    LineageNotChecked => "lineage-not-checked",
    /// A founder rebinds to a later binding (hazard 17).
    FounderRebinds => "founder-rebinds",
    /// A founder tells of its binding before it is on disk (hazard 17).
    BoundBeforeSync => "bound-before-sync",
    /// A first group is born before all founders are bound (hazard 17).
    BornBeforeAllBound => "born-before-all-bound",
    /// A client says *not applied* after a clean refusal although an earlier attempt is open (hazard 19).
    NotAppliedAfterTimeout => "not-applied-after-timeout",
    /// A hello meant for another node is answered (hazard 20).
    TargetNotChecked => "target-not-checked",
    /// Idempotency keys are not scoped by path (hazard 22).
    IdempotencyNotScoped => "idempotency-not-scoped",
    /// A lane answers a lower sequence as if it were new.
    LowerSequenceApplied => "lower-sequence-applied",
    /// An expiry entry is not checked against the key's version.
    ExpiryUnchecked => "expiry-unchecked",
    /// A candidate that lags proposes without catching up first.
    CandidateSkipsCatchUp => "candidate-skips-catch-up",
    /// An acceptor that knows a later configuration promises all the same.
    StaleConfigurationPromised => "stale-configuration-promised",
    /// What a full disk takes all the same is written without a right to the reserve.
    FullDiskUnpressed => "full-disk-unpressed",
    /// A leader vouches for what it knows decided although its lease has ended.
    VouchedWithoutLease => "vouched-without-lease",
    /// A follower counts its age from when the leader's word arrived instead of when it asked.
    FreshFromArrival => "fresh-from-arrival",
    /// A lease is told of although another replica of the node is still having its length written.
    LeaseToldUnsynced => "lease-told-unsynced",
    /// A proposal of a cover that comes twice makes two sets of one name.
    CoverNamedByProposal => "cover-named-by-proposal",
    /// A tablet's number is given out again once nobody refers to it, though what was dropped under it may still be there.
    TabletNumberReused => "tablet-number-reused",
    /// A group takes over from one with other members, led elsewhere.
    UnalignedTakeover => "unaligned-takeover",
    /// A Prepare is not checked against what has become of the range (hazard 4).
    VersionNotChecked => "version-not-checked",
    /// A Prepare that comes after its operation was aborted locks (hazard 23).
    LatePrepareLocks => "late-prepare-locks",
    /// A group begins, or votes yes on, an operation while another holds it.
    TwoPendingOperations => "two-pending-operations",
    /// Members change while an operation holds the group.
    ConfigurationWhileLocked => "configuration-while-locked",
    /// The loser hears of an abort that is not decided, while a commit may be.
    AbortToldBeforeDecided => "abort-told-before-decided",
    /// A gainer's versions go on from its own last one, whatever the loser had given.
    StampNotGained => "stamp-not-gained",
    /// A node that holds the tombstone of a merged group tells nobody where the group went.
    GoneUntold => "gone-untold",
    /// A later leader does not take over what an earlier one owed.
    OutboxNotInherited => "outbox-not-inherited",
    /// A leader that finds a commit decided before it tells of an abort.
    DecisionLostAtLeaderChange => "decision-lost-at-leader-change",
    /// A loser that asks hears of an abort although the commit is decided.
    AbortAfterCommit => "abort-after-commit",
    /// A merged group is buried before every member has assembled it (hazard 6).
    BuriedAtOnce => "buried-at-once",
    /// A leader that lags takes the lack of a record for an abort (hazard 7).
    NoRecordIsAbort => "no-record-is-abort",
    /// A member that has not assembled a merge counts for a change of members.
    UnassembledCounts => "unassembled-counts",
    /// Readers are let through while a split or a seal is under way (hazards 3, 12).
    WordShownWhileMoving => "word-shown-while-moving",
    /// Readers are let through while a seal is under way, and then alone.
    WordShownWhileSealing => "word-shown-while-sealing",
    /// What is said to a group that was merged away is not passed on to whoever has what it had.
    HeirUnknown => "heir-unknown",
    /// A removal waits for a neighbour to know who stays, however long that takes (hazard 23).
    RemovalWaitsForEver => "removal-waits-for-ever",
    /// A replica of the parent goes before the store holds the child (hazard 2).
    ParentForgottenUnflushed => "parent-forgotten-unflushed",
    /// The leader of a child's first ballot leads it again after a restart.
    FirstBallotLedAgain => "first-ballot-led-again",
    /// A snapshot takes the place of what machines beside have yet to be made of again after a restart.
    FetchesBeforeReplay => "fetches-before-replay",
    /// A replica that is to be born again writes a lower decided mark than its disk has.
    DecidedMarkFalls => "decided-mark-falls",
    /// A removed replica forgets its log before it has replayed after a restart what is decided of it.
    ForgottenUnreplayed => "forgotten-unreplayed",
    /// A group goes on writing what it has sealed (hazard 4).
    SealIgnored => "seal-ignored",
    /// Sealed positions go on being read (hazard 4).
    SealedRead => "sealed-read",
    /// The child of a split begins without the lanes of its parent.
    LanesNotSplit => "lanes-not-split",
    /// A gainer takes over data without the lanes that wrote it.
    LanesNotGained => "lanes-not-gained",
    /// A gainer takes over what the loser beside it has, without waiting for the seal (hazard 6).
    AssembledBeforeSeal => "assembled-before-seal",
    /// A split overwrites the replica of its child that came here before it (hazard 5).
    ChildOverwritten => "child-overwritten",
    /// A member counts as assembled, lets go of the loser beside it, and marks neither on disk as decided, though a crash could
    /// take that back (hazards 2, 6). Each alone is made good by the others.
    AssembledInMemory => "assembled-in-memory",
    /// A loser's snapshot holds what the gainer has made of what was sealed.
    TakenInSnapshot => "taken-in-snapshot",
    /// A machine ends although a gainer beside it has yet to take over what it parted (hazards 2, 6).
    EndedOwing => "ended-owing",
    /// A snapshot is stored before the log on disk knows whose it is.
    SnapshotBeforeCreated => "snapshot-before-created",
    /// A link update is acknowledged without being applied (hazard 16).
    LinkAcknowledgedUnread => "link-acknowledged-unread",
    /// A recovery takes an operation of which it has not heard how it ended for aborted (hazard 21).
    RecoveryPresumesAbort => "recovery-presumes-abort",
    /// A recovery goes by what one survivor knows, and asks no other.
    RecoveryAsksNobody => "recovery-asks-nobody",
    /// Whoever was condemned by a recovery is listened to when it comes back.
    CondemnedHeard => "condemned-heard",
    /// A recovery goes without members that nobody was told not to listen to.
    RecoversUncondemned => "recovers-uncondemned",
    /// A leader's operations keep their deadline while they stand still, which no tick then moves.
    DeadlineAtStandstill => "deadline-at-standstill",
    /// A level of the far links that is filled stays as it is, however the ring changes.
    FarLinkKept => "far-link-kept",
}

#[cfg(feature = "planted")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Switches one bug on for this thread, or all off.
    pub fn plant(bug: Option<Bug>) {
        ON.set(bug);
    }

    /// Whether this bug is on.
    #[must_use]
    pub fn on(bug: Bug) -> bool {
        ON.get() == Some(bug)
    }
}

#[cfg(feature = "planted")]
pub use switch::{on, plant};

/// Whether this bug is on: never, without the feature.
#[cfg(not(feature = "planted"))]
#[inline(always)]
#[must_use]
pub const fn on(_bug: Bug) -> bool {
    false
}
