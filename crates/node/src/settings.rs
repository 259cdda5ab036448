//! The node's settings. The sample file says what each key means.

use crate::organiser::PolicySettings;
use scatter_api::ApiSettings;
use scatter_core::group::MAX_MEMBERS;
use scatter_core::policy::{self, Switches};
use scatter_core::{Config, ReadMode};
use scatter_service::http::HttpSettings;
use scatter_service::{Address, LogSettings, Settings, Unacceptable};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// All settings of `scatter-node`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct NodeSettings {
    pub node: NodeSection,
    pub peer: PeerSection,
    pub http: HttpSettings,
    pub cluster: ClusterSection,
    pub consensus: ConsensusSection,
    pub gossip: GossipSection,
    pub storage: StorageSection,
    pub policy: PolicySection,
    pub api: ApiSettings,
    pub log: LogSettings,
}

/// The `[node]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct NodeSection {
    pub data_dir: PathBuf,
    pub zone: String,
}

/// The `[peer]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct PeerSection {
    pub listen: Address,
    #[serde(deserialize_with = "Address::optional")]
    pub advertise: Option<Address>,
}

/// The `[cluster]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct ClusterSection {
    pub name: String,
    pub founders: Vec<Address>,
    pub seeds: Vec<Address>,
}

/// The `[consensus]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct ConsensusSection {
    pub read_mode: ReadModeSetting,
    pub lease_ms: u64,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    pub disk_stall_ms: u64,
    pub clock_drift_ppm: u64,
    pub pipeline_entries: u64,
    pub batch_linger_us: u64,
    pub entry_bytes: usize,
    pub queue_commands: usize,
    pub queue_bytes: usize,
    pub log_memory_bytes: usize,
    pub log_retain_slots: u64,
    pub look_around_ms: u64,
}

/// The `[gossip]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct GossipSection {
    pub max_groups: usize,
    pub probe_period_ms: u64,
    pub suspect_for_ms: u64,
}

/// `consensus.read_mode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadModeSetting {
    /// Reads under a lease.
    Lease,
    /// Reads after a heartbeat round.
    Quorum,
}

/// The `[storage]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct StorageSection {
    pub cache_bytes: usize,
    pub memtable_bytes: usize,
    pub maximum_open_files: i32,
    pub background_jobs: i32,
    pub segment_bytes: u64,
    pub flush_interval_ms: u64,
    pub drop_bytes_per_second: u64,
    pub snapshot_bytes_per_second: u64,
    pub snapshot_chunk_bytes: usize,
}

/// The `[policy]` section.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct PolicySection {
    pub resilience: bool,
    pub zones: bool,
    pub split: bool,
    pub merge: bool,
    pub repartition: bool,
    pub migrate: bool,
    pub leaders: bool,
    pub latency: bool,
    pub target_size: usize,
    pub min_size: usize,
    pub max_size: usize,
    pub max_replicas_per_node: u32,
    pub replace_dead_after_ms: u64,
    pub reserved_disk_bytes: u64,
    pub max_incoming_per_node: u32,
    pub node_operations_per_second: u64,
    pub split_bytes: u64,
    pub split_operations_per_second: u64,
    pub merge_bytes: u64,
    pub merge_operations_per_second: u64,
    pub load_gap_permille: u32,
    pub damping_ms: u64,
    pub merge_damping_ms: u64,
    pub cool_down_ms: u64,
    pub retry_ms: u64,
    pub operations_per_node: usize,
    pub budget_window_ms: u64,
}

/// The seed in the sample.
const UNSET_SEED: &str = "127.0.0.1:7001";

impl Settings for NodeSettings {
    const SAMPLE: &'static str = include_str!("../scatter-node.sample.toml");

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn drain(&self) -> Duration {
        Duration::from_millis(self.http.drain_ms)
    }

    fn check(&self) -> Result<(), Unacceptable> {
        self.http.check()?;
        self.api.check()?;
        let consensus = &self.consensus;
        let within = Unacceptable::unless_within;
        within("consensus.lease_ms", consensus.lease_ms, 20..=10_000)?;
        within("consensus.heartbeat_ms", consensus.heartbeat_ms, 1..=consensus.lease_ms / 2)?;
        within("consensus.election_min_ms", consensus.election_min_ms, consensus.lease_ms..=60_000)?;
        within("consensus.election_max_ms", consensus.election_max_ms, consensus.election_min_ms..=120_000)?;
        within("consensus.disk_stall_ms", consensus.disk_stall_ms, 10..=60_000)?;
        within("consensus.clock_drift_ppm", consensus.clock_drift_ppm, 0..=500_000)?;
        within("consensus.pipeline_entries", consensus.pipeline_entries, 1..=1024)?;
        within("consensus.batch_linger_us", consensus.batch_linger_us, 0..=100_000)?;
        within("consensus.entry_bytes", consensus.entry_bytes as u64, 4096..=8 << 20)?;
        within("consensus.queue_commands", consensus.queue_commands as u64, 1..=1 << 20)?;
        within("consensus.queue_bytes", consensus.queue_bytes as u64, 1 << 20..=1 << 34)?;
        within("consensus.look_around_ms", consensus.look_around_ms, 100..=3_600_000)?;
        within("gossip.max_groups", self.gossip.max_groups as u64, 1..=1 << 20)?;
        within("gossip.probe_period_ms", self.gossip.probe_period_ms, 100..=60_000)?;
        within("gossip.suspect_for_ms", self.gossip.suspect_for_ms, 100..=300_000)?;
        within("storage.segment_bytes", self.storage.segment_bytes, 1 << 20..=1 << 30)?;
        within("storage.flush_interval_ms", self.storage.flush_interval_ms, 100..=3_600_000)?;
        within("storage.drop_bytes_per_second", self.storage.drop_bytes_per_second, 1 << 20..=1 << 40)?;
        within("storage.snapshot_chunk_bytes", self.storage.snapshot_chunk_bytes as u64, 4096..=8 << 20)?;
        // Of four who fetch at once none may wait so long for its turn that it counts as gone.
        let least = (16 * self.storage.snapshot_chunk_bytes as u64).max(16 << 20);
        within("storage.snapshot_bytes_per_second", self.storage.snapshot_bytes_per_second, least..=1 << 40)?;
        within("policy.node_operations_per_second", self.policy.node_operations_per_second, 1..=u64::MAX)?;
        within("policy.replace_dead_after_ms", self.policy.replace_dead_after_ms, 1000..=1 << 40)?;
        let policy = &self.policy;
        let most = MAX_MEMBERS as u64;
        let target = policy.target_size as u64;
        within("policy.target_size", target, 1..=most)?;
        within("policy.min_size", policy.min_size as u64, 1..=target)?;
        within("policy.max_size", policy.max_size as u64, target..=most)?;
        within("policy.max_replicas_per_node", policy.max_replicas_per_node.into(), 1..=u32::MAX.into())?;
        within("policy.max_incoming_per_node", policy.max_incoming_per_node.into(), 1..=u32::MAX.into())?;
        within("policy.operations_per_node", policy.operations_per_node as u64, 1..=u64::MAX)?;
        within("policy.split_bytes", policy.split_bytes, 1..=u64::MAX)?;
        within("policy.split_operations_per_second", policy.split_operations_per_second, 1..=u64::MAX)?;
        // What is merged must not be split again at once.
        within("policy.merge_bytes", policy.merge_bytes, 0..=policy.split_bytes / 2)?;
        let most = policy.split_operations_per_second / 2;
        within("policy.merge_operations_per_second", policy.merge_operations_per_second, 0..=most)?;
        if let Err(error) = self.policies().policy.check() {
            return Err(Unacceptable { key: "policy", problem: error.to_string() });
        }
        if self.cluster.name.is_empty() || self.cluster.name.len() > 64 {
            return Err(Unacceptable { key: "cluster.name", problem: "allowed is 1 to 64 bytes".to_owned() });
        }
        if self.cluster.founders.is_empty() && self.cluster.seeds.is_empty() {
            let problem = "a node needs founders, to found a cluster, or seeds, to find one".to_owned();
            return Err(Unacceptable { key: "cluster.seeds", problem });
        }
        Ok(())
    }
}

impl NodeSettings {
    /// The seeds to ask.
    #[must_use]
    pub fn seeds(&self) -> Vec<String> {
        seeds_of(&self.cluster)
    }

    /// The peer address others are told.
    #[must_use]
    pub fn peer_address(&self) -> String {
        self.peer.advertise.as_ref().unwrap_or(&self.peer.listen).to_string()
    }

    /// The HTTP address others are told.
    #[must_use]
    pub fn http_address(&self) -> String {
        self.http.advertise.as_ref().unwrap_or(&self.http.listen).to_string()
    }

    /// The policies' settings.
    #[must_use]
    pub fn policies(&self) -> PolicySettings {
        let policy = &self.policy;
        let switches = Switches {
            resilience: policy.resilience,
            zones: policy.zones,
            split: policy.split,
            merge: policy.merge,
            repartition: policy.repartition,
            migrate: policy.migrate,
            leaders: policy.leaders,
            latency: policy.latency,
        };
        let defaults = policy::Settings::default();
        let retry = Duration::from_millis(policy.retry_ms);
        let settings = policy::Settings {
            switches,
            target_size: policy.target_size,
            min_size: policy.min_size,
            max_size: policy.max_size,
            max_replicas_per_node: policy.max_replicas_per_node,
            replace_dead_after: Duration::from_millis(policy.replace_dead_after_ms),
            reserved_disk_bytes: policy.reserved_disk_bytes,
            max_incoming_per_node: policy.max_incoming_per_node,
            split_bytes: policy.split_bytes,
            split_operations_per_second: policy.split_operations_per_second,
            merge_bytes: policy.merge_bytes,
            merge_operations_per_second: policy.merge_operations_per_second,
            load_gap_permille: policy.load_gap_permille,
            damping: Duration::from_millis(policy.damping_ms),
            merge_damping: Duration::from_millis(policy.merge_damping_ms),
            cool_down: Duration::from_millis(policy.cool_down_ms),
            retry,
            retry_limit: defaults.retry_limit.max(retry),
            operations_per_node: policy.operations_per_node,
            budget_window: Duration::from_millis(policy.budget_window_ms),
            ..defaults
        };
        PolicySettings::new(settings, policy.node_operations_per_second)
    }

    /// The gossip's settings.
    #[must_use]
    pub fn gossip(&self) -> scatter_gossip::Settings {
        let probe_period = Duration::from_millis(self.gossip.probe_period_ms);
        scatter_gossip::Settings {
            max_groups: self.gossip.max_groups,
            probe_period,
            // Others are asked while there is time for their answer.
            probe_timeout: probe_period * 3 / 10,
            suspect_for: Duration::from_millis(self.gossip.suspect_for_ms),
            ..scatter_gossip::Settings::default()
        }
    }

    /// The core's settings.
    #[must_use]
    pub fn core(&self) -> Config {
        let consensus = &self.consensus;
        Config {
            lease: Duration::from_millis(consensus.lease_ms),
            drift_ppm: consensus.clock_drift_ppm,
            read_mode: match consensus.read_mode {
                ReadModeSetting::Lease => ReadMode::Lease,
                ReadModeSetting::Quorum => ReadMode::Quorum,
            },
            heartbeat: Duration::from_millis(consensus.heartbeat_ms),
            election_min: Duration::from_millis(consensus.election_min_ms),
            election_max: Duration::from_millis(consensus.election_max_ms),
            disk_stall: Duration::from_millis(consensus.disk_stall_ms),
            pipeline_entries: consensus.pipeline_entries,
            linger: Duration::from_micros(consensus.batch_linger_us),
            entry_bytes: consensus.entry_bytes,
            queue_commands: consensus.queue_commands,
            queue_bytes: consensus.queue_bytes,
            log_memory_bytes: consensus.log_memory_bytes,
            log_retain_slots: consensus.log_retain_slots,
            look_around: Duration::from_millis(consensus.look_around_ms),
            snapshot_chunk_bytes: self.storage.snapshot_chunk_bytes,
            max_incoming: usize::try_from(self.policy.max_incoming_per_node).unwrap_or(usize::MAX),
            ..Config::default()
        }
    }
}

/// A founder does not bind itself before every seed has answered, and the one that is set when nobody has set any may be no
/// node at all: who has founders does without it.
fn seeds_of(cluster: &ClusterSection) -> Vec<String> {
    let seeds: Vec<String> = cluster.seeds.iter().map(ToString::to_string).collect();
    if !cluster.founders.is_empty() && seeds == [UNSET_SEED] { Vec::new() } else { seeds }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_complete_and_good() {
        scatter_service::configuration::check_sample::<NodeSettings>().expect("a good sample");
    }

    #[test]
    fn founders_do_without_the_seed_that_nobody_set() {
        let mut settings: toml::Table = toml::from_str(NodeSettings::SAMPLE).expect("TOML");
        let cluster: ClusterSection = settings.remove("cluster").expect("a section").try_into().expect("good");
        assert_eq!(cluster.seeds.iter().map(ToString::to_string).collect::<Vec<_>>(), [UNSET_SEED]);
        assert_eq!(seeds_of(&cluster), [UNSET_SEED]);
        let founding = ClusterSection { founders: cluster.seeds.clone(), ..cluster.clone() };
        assert_eq!(seeds_of(&founding), [""; 0]);
        let other: Address = "127.0.0.1:7002".parse().expect("an address");
        let set = ClusterSection { seeds: vec![other], ..founding };
        assert_eq!(seeds_of(&set), ["127.0.0.1:7002"]);
    }

    fn sample() -> NodeSettings {
        let mut table: toml::Table = toml::from_str(NodeSettings::SAMPLE).expect("TOML");
        let common: toml::Table = toml::from_str(scatter_service::COMMON_SAMPLE).expect("TOML");
        for (section, keys) in common {
            let own = table.entry(section).or_insert_with(|| toml::Table::new().into());
            for (key, value) in keys.as_table().expect("a section").clone() {
                own.as_table_mut().expect("a section").entry(key).or_insert(value);
            }
        }
        table.try_into().expect("settings")
    }

    #[test]
    fn sizes_and_thresholds_that_do_not_fit_each_other_are_told_by_name() {
        let refused = |change: fn(&mut PolicySection)| {
            let mut settings = sample();
            change(&mut settings.policy);
            settings.check().expect_err("does not fit").key
        };
        assert_eq!(sample().check().map_err(|wrong| wrong.key), Ok(()));
        assert_eq!(refused(|policy| policy.min_size = 9), "policy.min_size");
        assert_eq!(refused(|policy| policy.target_size = MAX_MEMBERS + 1), "policy.target_size");
        assert_eq!(refused(|policy| policy.max_size = policy.target_size - 1), "policy.max_size");
        assert_eq!(refused(|policy| policy.merge_bytes = policy.split_bytes), "policy.merge_bytes");
        let key = refused(|policy| policy.merge_operations_per_second = policy.split_operations_per_second);
        assert_eq!(key, "policy.merge_operations_per_second");
        assert_eq!(refused(|policy| policy.max_replicas_per_node = 0), "policy.max_replicas_per_node");
    }

    #[test]
    fn the_sample_says_the_defaults_of_core_policies_and_gossip() {
        let settings = sample();
        let (sample, default) = (settings.core(), Config::default());
        assert_eq!(format!("{sample:?}"), format!("{default:?}"));
        assert_eq!(format!("{:?}", settings.policies().policy), format!("{:?}", policy::Settings::default()));
        assert_eq!(settings.gossip(), scatter_gossip::Settings::default());
    }
}
