//! What may be set about the protocol. Shared by all replicas of a node.

use crate::types::FeatureLevel;
use std::time::Duration;

/// How a leader makes sure that it still leads before it answers a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadMode {
    /// A lease: no message per read, safe while clock *rates* drift less than [`Config::drift_ppm`].
    Lease,
    /// A heartbeat round per batch of reads: safe whatever clocks do.
    Quorum,
}

/// The protocol's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// How long a follower promises no other ballot after it answered the leader.
    pub lease: Duration,
    /// The longest lease this node grants to anybody, whatever the leader asks for.
    pub lease_limit: Duration,
    /// How far the rate of one clock may be off, in millionths. The leader's view of its lease is cut by it twice.
    pub drift_ppm: u64,
    /// Lease or quorum reads.
    pub read_mode: ReadMode,
    /// How often a leader speaks when it has nothing to say.
    pub heartbeat: Duration,
    /// Whether nodes speak for groups that have nothing to say themselves ([`crate::cover`]).
    pub covers: bool,
    /// The least time without a leader before a replica stands for election. Drawn anew for every wait.
    pub election_min: Duration,
    /// The most time without a leader before a replica stands for election.
    pub election_max: Duration,
    /// How long a candidate waits for answers before it starts over.
    pub candidate_patience: Duration,
    /// A leader whose own disk has not finished a write for this long stops renewing its lease and goes silent.
    pub disk_stall: Duration,
    /// How long after an entry of many commands fewer of them wait to become as many. Zero for not at all.
    pub linger: Duration,
    /// Entries proposed and not yet decided at once.
    pub pipeline_entries: u64,
    /// Bytes of commands in one entry.
    pub entry_bytes: usize,
    /// Commands waiting at a leader for a place in an entry.
    pub queue_commands: usize,
    /// Bytes of commands waiting at a leader.
    pub queue_bytes: usize,
    /// Bytes of entries in one message.
    pub message_bytes: usize,
    /// Bytes sent to one member and not yet acknowledged.
    pub peer_window_bytes: usize,
    /// Reads waiting at a leader for a heartbeat round.
    pub queue_reads: usize,
    /// Bytes of applied entries kept in memory for members that lag, by all replicas of the node together.
    pub log_memory_bytes: usize,
    /// Decided slots kept on disk for members that lag, beyond what recovery needs.
    pub log_retain_slots: u64,
    /// Bytes of one snapshot chunk.
    pub snapshot_chunk_bytes: usize,
    /// How long without progress before a snapshot is asked for elsewhere, and how long one pins the log.
    pub snapshot_patience: Duration,
    /// How long without a leader before a replica asks whether it is still a member.
    pub membership_patience: Duration,
    /// How long a change of members may go on without a newcomer that comes further before it is given up.
    pub change_patience: Duration,
    /// How long it may go on at all: the group does nothing else meanwhile, and a newcomer that does not hold pace never catches up.
    pub change_limit: Duration,
    /// How often an unanswered message to another group is repeated.
    pub group_resend: Duration,
    /// How often a leader asks its ring successor how busy it is, and a group further ahead for the way on.
    pub look_around: Duration,
    /// How long a takeover may wait for the loser's vote before it is aborted: the longest that positions stay sealed.
    pub seal_patience: Duration,
    /// How long an order of a group operation is tried before it is given up.
    pub order_patience: Duration,
    /// The newest feature level this program understands.
    pub feature_level: FeatureLevel,
    /// The most replicas this node takes on. What is born here comes on top: it may have its data nowhere else.
    pub max_replicas: usize,
    /// The most replicas that this node takes in at once by changes of members, each until it has its first state. What is
    /// born here is never refused.
    pub max_incoming: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lease: Duration::from_millis(300),
            lease_limit: Duration::from_secs(10),
            drift_ppm: 10_000,
            read_mode: ReadMode::Lease,
            heartbeat: Duration::from_millis(50),
            covers: true,
            election_min: Duration::from_millis(310),
            election_max: Duration::from_millis(430),
            candidate_patience: Duration::from_millis(150),
            disk_stall: Duration::from_millis(1_000),
            linger: Duration::from_millis(1),
            pipeline_entries: 4,
            entry_bytes: 1 << 20,
            queue_commands: 16_384,
            queue_bytes: 64 << 20,
            message_bytes: 4 << 20,
            peer_window_bytes: 16 << 20,
            queue_reads: 65_536,
            log_memory_bytes: 16 << 20,
            log_retain_slots: 10_000,
            snapshot_chunk_bytes: 1 << 20,
            snapshot_patience: Duration::from_secs(10),
            membership_patience: Duration::from_secs(3),
            change_patience: Duration::from_secs(30),
            change_limit: Duration::from_secs(3600),
            group_resend: Duration::from_millis(100),
            look_around: Duration::from_secs(10),
            seal_patience: Duration::from_secs(5),
            order_patience: Duration::from_secs(60),
            feature_level: FeatureLevel(1),
            max_replicas: 10_000,
            max_incoming: 2,
        }
    }
}

impl Config {
    /// What of a lease term the leader itself may count on: its clock may be slow and the follower's fast.
    #[must_use]
    pub fn cut(&self, term: Duration) -> Duration {
        let nanos = crate::time::nanos(term);
        let million = 1_000_000_u128;
        let drift = u128::from(self.drift_ppm.min(900_000));
        let cut = u128::from(nanos) * (million - drift) / (million + drift);
        Duration::from_nanos(u64::try_from(cut).unwrap_or(nanos))
    }
}
