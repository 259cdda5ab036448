//! What an operator may set about the policies.

use std::time::Duration;

/// Each policy, and each part that one may want to do by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Switches {
    /// Members are added, replaced and removed; draining nodes are emptied; thin groups are merged.
    pub resilience: bool,
    /// Members are moved to distinct zones.
    pub zones: bool,
    /// Hot and large groups are split.
    pub split: bool,
    /// Cold groups are merged.
    pub merge: bool,
    /// Boundaries are shifted from busy groups to idle ones.
    pub repartition: bool,
    /// Replicas are moved from full nodes to empty ones.
    pub migrate: bool,
    /// Leaders are spread over the nodes.
    pub leaders: bool,
    /// Leaders are moved to where round trips are short.
    pub latency: bool,
}

impl Switches {
    /// Everything on.
    pub const ON: Self = Self {
        resilience: true,
        zones: true,
        split: true,
        merge: true,
        repartition: true,
        migrate: true,
        leaders: true,
        latency: true,
    };
    /// Everything off: only operators' orders are carried out.
    pub const OFF: Self = Self {
        resilience: false,
        zones: false,
        split: false,
        merge: false,
        repartition: false,
        migrate: false,
        leaders: false,
        latency: false,
    };
}

/// The policies' settings. Nodes may differ in them for a while, as in a rolling change; that costs needless moves at most.
#[derive(Clone, PartialEq, Debug)]
pub struct Settings {
    /// Which policies act.
    pub switches: Switches,
    /// How many voters a group should have.
    pub target_size: usize,
    /// No policy makes a group smaller than this.
    pub min_size: usize,
    /// A group larger than this is cut, or split if its members would have nothing else to do.
    pub max_size: usize,
    /// The most replicas on a node. With 1, the layout of the paper, idle nodes join groups beyond the target size, and
    /// groups of the maximum size split into two.
    pub max_replicas_per_node: u32,
    /// How long a member is dead before it is replaced: shorter than a restart takes, and every restart copies data.
    pub replace_dead_after: Duration,
    /// How long nodes live, half of them longer, as long as no death was seen. For the reasons shown, not for decisions.
    pub median_lifetime: Duration,
    /// Free space that a node keeps.
    pub reserved_disk_bytes: u64,
    /// A node takes in this many new replicas at once, and half as many if they are not needed, only better placed there.
    pub max_incoming_per_node: u32,
    /// How many nodes are looked at for one place.
    pub candidates: usize,
    /// A group with more bytes is split.
    pub split_bytes: u64,
    /// A group with more operations is split.
    pub split_operations_per_second: u64,
    /// Two neighbours with fewer bytes together may merge. At most half of `split_bytes`.
    pub merge_bytes: u64,
    /// Two neighbours with fewer operations together may merge. At most half of `split_operations_per_second`.
    pub merge_operations_per_second: u64,
    /// How much busier a node must be than another before load moves.
    pub load_gap_permille: u32,
    /// How long a condition must hold.
    pub damping: Duration,
    /// How long two neighbours must be cold, or a successor thin, before they merge.
    pub merge_damping: Duration,
    /// How long a group rests after an operation. Repairs do not wait for it.
    pub cool_down: Duration,
    /// The wait after an operation that failed; doubles with each failure.
    pub retry: Duration,
    /// The longest such wait.
    pub retry_limit: Duration,
    /// How many operations the leaders on one node start within [`Settings::budget_window`]. The last half is for repairs.
    pub operations_per_node: usize,
    /// The window of that limit.
    pub budget_window: Duration,
    /// A leader moves for shorter round trips only if they become shorter by this much …
    pub latency_gain: Duration,
    /// … and by this part of what they are.
    pub latency_gain_permille: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            switches: Switches::ON,
            target_size: 3,
            min_size: 3,
            max_size: 7,
            max_replicas_per_node: 10_000,
            replace_dead_after: Duration::from_secs(300),
            median_lifetime: Duration::from_secs(30 * 24 * 3600),
            reserved_disk_bytes: 1 << 30,
            max_incoming_per_node: 2,
            candidates: 16,
            split_bytes: 4 << 30,
            split_operations_per_second: 20_000,
            merge_bytes: 256 << 20,
            merge_operations_per_second: 200,
            load_gap_permille: 250,
            damping: Duration::from_secs(30),
            merge_damping: Duration::from_secs(600),
            cool_down: Duration::from_secs(60),
            retry: Duration::from_secs(5),
            retry_limit: Duration::from_secs(300),
            operations_per_node: 8,
            budget_window: Duration::from_secs(10),
            latency_gain: Duration::from_millis(1),
            latency_gain_permille: 250,
        }
    }
}

/// Why settings are not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SettingsError {
    /// The sizes are not in order.
    #[error("a group's sizes must be 1 <= minimum <= target <= maximum <= {}", crate::group::state::MAX_MEMBERS)]
    Sizes,
    /// What is merged would be split again.
    #[error("the merge thresholds must be at most half of the split thresholds")]
    Thresholds,
    /// A limit of zero would keep everything from happening.
    #[error("{0} must be at least 1")]
    Zero(&'static str),
}

impl Settings {
    /// Whether the settings make sense together.
    pub fn check(&self) -> Result<(), SettingsError> {
        let sizes = [1, self.min_size, self.target_size, self.max_size, crate::group::state::MAX_MEMBERS];
        if !sizes.is_sorted() {
            return Err(SettingsError::Sizes);
        }
        if self.merge_bytes > self.split_bytes / 2
            || self.merge_operations_per_second > self.split_operations_per_second / 2
        {
            return Err(SettingsError::Thresholds);
        }
        let limits = [
            ("the number of operations per node", self.operations_per_node as u64),
            ("the number of new replicas per node", u64::from(self.max_incoming_per_node)),
            ("the number of replicas per node", u64::from(self.max_replicas_per_node)),
            ("the number of candidates", self.candidates as u64),
            ("the size at which groups split", self.split_bytes),
            ("the rate at which groups split", self.split_operations_per_second),
        ];
        limits.into_iter().find(|(_, limit)| *limit == 0).map_or(Ok(()), |(name, _)| Err(SettingsError::Zero(name)))
    }

    /// Whether each node serves one group alone, as in the paper.
    #[must_use]
    pub fn one_group_per_node(&self) -> bool {
        self.max_replicas_per_node == 1
    }
}
