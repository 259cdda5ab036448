//! What a seed stands for: the size of the cluster, its settings, how well its parts work, and which faults befall it.

use crate::churn::Lifetimes;
use crate::history::Time;
use crate::network::Quality;
use crate::policies::Rules;
use crate::random::Random;
use scatter_core::config::{Config, ReadMode};
use std::time::Duration;

/// One microsecond of virtual time.
pub const MICROSECOND: Time = 1_000;
/// One millisecond of virtual time.
pub const MILLISECOND: Time = 1_000_000;
/// One second of virtual time.
pub const SECOND: Time = 1_000_000_000;

/// Sets the draw of disasters apart.
const DISASTERS: u64 = 0xd15a_57e2;

/// Sets the draw of whether a whole ring sees further faults apart, and what is drawn for them.
const FURTHER: u64 = 0xfa17_5e7d;

/// Sets the draw of how leaders look around apart.
const LOOKS: u64 = 0x100c_a400;

macro_rules! profiles {
    ($($(#[$doc:meta])* $profile:ident => $name:literal,)*) => {
        /// A kind of weather.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Profile {
            $($(#[$doc])* $profile,)*
        }

        impl Profile {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$profile,)*];

            /// The name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$profile => $name,)*
                }
            }
        }
    };
}

profiles! {
    /// Nothing goes wrong.
    Calm => "calm",
    /// Messages are lost, doubled, late and reordered.
    Lossy => "lossy",
    /// Links are cut: between halves, around one, one way, flapping.
    Partitions => "partitions",
    /// Processes die, alone and together, and come back.
    Crashes => "crashes",
    /// Clocks drift and jump, processes pause for longer than a lease, terms change at restarts.
    Clocks => "clocks",
    /// Members come, go and come back.
    Membership => "membership",
    /// Leaders hand over, again and again.
    HandOver => "hand-over",
    /// Logs are so short that whoever lags needs a snapshot.
    Snapshots => "snapshots",
    /// Disks are slow, hang, fail, fill up, are wiped, rolled back and cloned.
    Disks => "disks",
    /// Groups split, merge and shift their boundaries, while members come and go.
    Ring => "ring",
    /// Whole rings: many hosts that live for a while and are replaced, groups that look after themselves.
    Churn => "churn",
    /// Groups lose their majority for good, and are recovered.
    Disaster => "disaster",
    /// The first group is born among faults.
    Birth => "birth",
    /// All of it.
    Everything => "everything",
}

impl Profile {
    /// Those that a seed draws from one with another. Whole rings cost more, and disasters are not what the protocol promises to
    /// survive: they are drawn by themselves.
    fn drawn() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|profile| !matches!(profile, Self::Churn | Self::Disaster)).collect()
    }
}

impl std::str::FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|profile| profile.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|profile| profile.name()).collect();
            format!("no profile is called {text}; there are {}", names.join(", "))
        })
    }
}

/// One kind of fault, or of operator's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Two sides do not hear each other.
    Halves,
    /// One host hears nobody.
    Isolate,
    /// One direction between some hosts is cut.
    OneWay,
    /// A link goes up and down.
    Flap,
    /// The whole network is bad for a while.
    BadNetwork,
    /// A process dies and comes back.
    Crash,
    /// Several processes die at once.
    CrashMany,
    /// A process stops for a while, everything in it.
    Pause,
    /// A process's loop stops for a while; its readers go on.
    StallLoop,
    /// A process's apply stage stops for a while.
    StallApply,
    /// Syncs take long for a while.
    SlowDisk,
    /// A sync does not end for a while.
    HangDisk,
    /// The next sync fails, and so does the process.
    FailSync,
    /// The log has no room for a while.
    FullDisk,
    /// A wall clock jumps.
    WallJump,
    /// A wall clock is years ahead.
    WallYears,
    /// A boot clock changes its rate.
    Rate,
    /// A process restarts with another lease term.
    LeaseTerm,
    /// A process restarts with another feature level.
    Upgrade,
    /// A host's disk is put back to what it was some boots ago.
    Rollback,
    /// A disk is wiped; the host comes back as a new node and takes the old one's place.
    Wipe,
    /// The members change, any set to any set.
    Members,
    /// A member is removed and at once added again.
    RemoveAndAdd,
    /// The leader hands over.
    HandOver,
    /// A group splits.
    Split,
    /// A group takes over all that a neighbour has.
    Merge,
    /// A group takes over part of what a neighbour has.
    Repartition,
    /// The next step of some kind that a group takes is its leader's last, or everybody's, for a while.
    CrashAtStep,
    /// A host is to be emptied, for a while.
    Drain,
    /// A group is ordered one of these three, and when it has come to a certain step, other things happen to it.
    Ambush,
    /// Groups lose their majority for good.
    Disaster,
    /// Two hosts swap their addresses for a while.
    SwapAddresses,
    /// A leader is left with a bare majority for longer than its leases; then one of that majority restarts, or has a fast
    /// clock, and hears it no more.
    Usurp,
    /// A founder is wiped while the cluster is being born: it may never be.
    Spoil,
    /// A leader that hears nobody is ordered to change members, and so is its successor; when the first is heard again, the
    /// second crashes.
    Strand,
    /// A host that speaks for several groups is cut off until others lead them; then one of those hears an old proposal to be
    /// spoken to for all of them once more.
    Mishear,
    /// A host comes to lead every group that it is a member of, with a longer lease than the others, whose disks are slow, know of.
    Lengthen,
}

/// How fast a host's parts are.
#[derive(Clone, Copy, Debug)]
pub struct Speed {
    /// The least time of a sync.
    pub sync_least: Time,
    /// What may come on top.
    pub sync_spread: Time,
    /// The most the apply stage waits before its next piece of work.
    pub apply_spread: Time,
    /// How often the store is flushed.
    pub flush_every: Time,
}

/// A whole run, before it runs.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What everything is drawn from.
    pub seed: u64,
    /// The weather.
    pub profile: Profile,
    /// How many hosts there are.
    pub hosts: usize,
    /// How many of them found the cluster, the first ones.
    pub founders: usize,
    /// Whether the founders find each other; else the groups exist when the run begins.
    pub birth: bool,
    /// How many groups share the hosts' stores.
    pub groups: usize,
    /// Keys of the workload, spread over the groups.
    pub keys: u32,
    /// Client sessions.
    pub sessions: usize,
    /// Lanes of each.
    pub lanes: usize,
    /// The longest a client waits between two operations.
    pub think: Time,
    /// How long a client tries an operation.
    pub patience: Time,
    /// When faults end.
    pub duration: Time,
    /// The most time between two faults.
    pub fault_gap: Time,
    /// What may happen.
    pub faults: Vec<Fault>,
    /// What may happen beside it, drawn from a stream of its own. At the steps of operations somebody may then be cut off, too.
    pub further: Vec<Fault>,
    /// What that is drawn from.
    pub further_seed: u64,
    /// The protocol's settings.
    pub config: Config,
    /// How well packets travel.
    pub quality: Quality,
    /// How fast hosts are.
    pub speed: Speed,
    /// What boot clocks' rates may differ from true time, in millionths.
    pub rate_ppm: i64,
    /// Chance in a thousand that a reader pauses between two steps.
    pub reader_pause_permille: u32,
    /// Bytes a value has at most.
    pub value_bytes: usize,
    /// How many lanes a group remembers.
    pub lanes_kept: usize,
    /// The most groups that orders make.
    pub most_groups: usize,
    /// Whether leaders look for links to groups far ahead.
    pub far_links: bool,
    /// How long hosts live, if they do not live for ever.
    pub lifetimes: Option<Lifetimes>,
    /// What groups do by themselves, if anything, and the gossip that they go by.
    pub policies: Option<Rules>,
}

impl Plan {
    /// The plan of `seed`, in the given weather or in one drawn from the seed.
    #[must_use]
    pub fn draw(seed: u64, profile: Option<Profile>) -> Self {
        let mut random = Random::new(seed);
        let drawn = if random.permille(350) { Profile::Everything } else { *random.pick(&Profile::drawn()) };
        let drawn = if Random::new(seed ^ DISASTERS).permille(25) { Profile::Disaster } else { drawn };
        let drawn = if crate::churn::is_drawn(seed) { Profile::Churn } else { drawn };
        let profile = profile.unwrap_or(drawn);
        let everything = profile == Profile::Everything;
        let birth = profile == Profile::Birth || (everything && random.permille(150));
        let founders = if random.permille(250) { 5 } else { 3 };
        let spare = match profile {
            Profile::Membership | Profile::Everything | Profile::Disks => random.between(1, 2) as usize,
            Profile::Ring | Profile::Disaster => random.between(1, 3) as usize,
            _ => random.below(2) as usize,
        };
        let groups = if birth || random.permille(600) { 1 } else { random.between(2, 3) as usize };
        let quality = draw_quality(&mut random, profile);
        let config = draw_config(&mut random, profile, &quality);
        let quorum = config.read_mode == ReadMode::Quorum;
        let drift = i64::try_from(config.drift_ppm).unwrap_or(0);
        let rate_ppm = match profile {
            Profile::Clocks | Profile::Everything if quorum => 300_000,
            Profile::Clocks | Profile::Everything => drift,
            _ => drift / 10,
        };
        let mut plan = Self {
            seed,
            profile,
            hosts: founders + spare,
            founders,
            birth,
            groups,
            keys: random.between(1, 5) as u32
                + groups as u32
                + if matches!(profile, Profile::Ring | Profile::Disaster) { 4 } else { 0 },
            sessions: random.between(2, 4) as usize,
            lanes: random.between(1, 3) as usize,
            think: random.spread(20 * MILLISECOND, 500 * MILLISECOND),
            patience: random.spread(500 * MILLISECOND, 4 * SECOND),
            duration: random.between(6, 25) * SECOND,
            fault_gap: random.spread(300 * MILLISECOND, 4 * SECOND),
            faults: faults_of(profile),
            further: if Random::new(seed ^ FURTHER).permille(500) { further_faults_of(profile) } else { Vec::new() },
            further_seed: seed.rotate_left(32) ^ FURTHER,
            config,
            quality,
            speed: draw_speed(&mut random, profile),
            rate_ppm,
            reader_pause_permille: if random.permille(500) { 0 } else { random.spread(5, 300) as u32 },
            value_bytes: random.spread(16, 2_000) as usize,
            lanes_kept: if random.permille(300) { random.between(4, 10) as usize } else { 10_000 },
            most_groups: 7,
            far_links: false,
            lifetimes: None,
            policies: None,
        };
        // Nothing is drawn for it: all else would be drawn otherwise.
        plan.config.max_incoming = 1 + usize::try_from(seed % 4).unwrap_or_default();
        crate::churn::draw(&mut plan);
        plan.draw_looks();
        plan.patience = plan.patience.max(plan.longest_queue());
        plan
    }

    /// How often leaders look around, and whether far: on rings that do not change there is little to see.
    fn draw_looks(&mut self) {
        let mut random = Random::new(self.seed ^ LOOKS);
        let changes = matches!(self.profile, Profile::Ring | Profile::Churn | Profile::Disaster | Profile::Everything);
        self.far_links = changes && random.permille(800);
        let most = if changes { SECOND } else { 8 * SECOND };
        self.config.look_around = Duration::from_nanos(random.spread(150 * MILLISECOND, most));
    }

    /// How long an operation may wait behind those of all other clients, each repeated a few times, if each takes an entry of
    /// its own. Clients of less patience would ask again and again for what nobody waits for any more.
    fn longest_queue(&self) -> Time {
        let round = 2 * (self.quality.delay_least + self.quality.delay_spread);
        let entry = round + self.speed.sync_least + self.speed.sync_spread;
        let workers = (self.sessions * self.lanes) as u64;
        4 * workers * entry / self.config.pipeline_entries.max(1)
    }
}

fn draw_quality(random: &mut Random, profile: Profile) -> Quality {
    let delay_least = random.spread(20 * MICROSECOND, 10 * MILLISECOND);
    let bad = matches!(profile, Profile::Lossy | Profile::Everything | Profile::Birth);
    let chance = |random: &mut Random, most: u64| if bad { random.below(most) as u32 } else { 0 };
    Quality {
        delay_least,
        delay_spread: random.spread(delay_least / 4 + 1, delay_least * 3),
        straggle_permille: chance(random, 30),
        straggle_most: random.spread(50 * MILLISECOND, 3 * SECOND),
        loss_permille: if profile == Profile::Lossy { random.below(200) as u32 } else { chance(random, 40) },
        double_permille: chance(random, 60),
        reorder_permille: chance(random, 300),
    }
}

fn draw_config(random: &mut Random, profile: Profile, quality: &Quality) -> Config {
    let mut config = Config::default();
    let round = 2 * (quality.delay_least + quality.delay_spread);
    let heartbeat = (round * 2).max(random.spread(20 * MILLISECOND, 100 * MILLISECOND));
    let lease = heartbeat * random.between(3, 8);
    config.heartbeat = Duration::from_nanos(heartbeat);
    config.lease = Duration::from_nanos(lease);
    config.election_min = Duration::from_nanos(lease + lease / 20);
    config.election_max = Duration::from_nanos(lease + lease / 2);
    config.candidate_patience = Duration::from_nanos((round * 6).max(100 * MILLISECOND));
    config.drift_ppm = random.between(1, 5) * 10_000;
    if random.permille(300) {
        config.read_mode = ReadMode::Quorum;
    }
    config.pipeline_entries = random.between(1, 6);
    config.linger = Duration::from_micros(if random.permille(500) { 0 } else { random.spread(100, 20_000) });
    config.disk_stall = Duration::from_nanos(lease * 2);
    if random.permille(300) {
        config.entry_bytes = random.spread(100, 4_000) as usize;
        config.message_bytes = random.spread(200, 8_000) as usize;
        config.peer_window_bytes = random.spread(2_000, 64_000) as usize;
    }
    if matches!(profile, Profile::Snapshots) || random.permille(300) {
        config.log_retain_slots = random.spread(1, 64);
        config.log_memory_bytes = random.spread(10, 20_000) as usize;
        config.snapshot_chunk_bytes = random.spread(100, 4_000) as usize;
    }
    config.snapshot_patience = Duration::from_secs(2);
    config.group_resend = Duration::from_nanos(heartbeat * 2);
    config.seal_patience = Duration::from_millis(random.spread(500, 4_000));
    config.order_patience = Duration::from_secs(random.between(3, 12));
    config.membership_patience = Duration::from_nanos(lease * 3);
    config.change_patience = Duration::from_secs(random.between(2, 10));
    config.change_limit = config.change_patience * 2;
    config
}

fn draw_speed(random: &mut Random, profile: Profile) -> Speed {
    let sync_least = random.spread(20 * MICROSECOND, 8 * MILLISECOND);
    let flush = if profile == Profile::Snapshots { SECOND } else { 8 * SECOND };
    Speed {
        sync_least,
        sync_spread: random.spread(sync_least / 2 + 1, sync_least * 4),
        apply_spread: if random.permille(300) { random.spread(MICROSECOND, 30 * MILLISECOND) } else { 0 },
        flush_every: random.spread(200 * MILLISECOND, flush),
    }
}

/// What half of the seeds see beside the faults of their weather. The other half shows what comes of fewer faults at once.
fn further_faults_of(profile: Profile) -> Vec<Fault> {
    use Fault::*;
    match profile {
        Profile::Ring | Profile::Churn => vec![
            OneWay,
            OneWay,
            Flap,
            HangDisk,
            FailSync,
            FullDisk,
            FullDisk,
            WallJump,
            WallYears,
            Rate,
            LeaseTerm,
            Upgrade,
            Rollback,
            SwapAddresses,
            StallLoop,
            RemoveAndAdd,
            Usurp,
            Strand,
            Mishear,
            Lengthen,
            CrashAtStep,
            CrashAtStep,
            CrashAtStep,
        ],
        Profile::Everything => vec![Ambush, Ambush, CrashAtStep, Drain],
        _ => Vec::new(),
    }
}

fn faults_of(profile: Profile) -> Vec<Fault> {
    use Fault::*;
    match profile {
        Profile::Calm => vec![],
        Profile::Lossy => vec![BadNetwork, Flap, Pause],
        Profile::Partitions => vec![Halves, Halves, Isolate, Isolate, OneWay, Flap, BadNetwork, Mishear, Mishear],
        Profile::Crashes => vec![Crash, Crash, Crash, CrashMany, Isolate, FailSync, Usurp],
        Profile::Clocks => {
            vec![
                WallJump, WallYears, Rate, Rate, Pause, Pause, StallLoop, LeaseTerm, LeaseTerm, Isolate, Crash, Usurp,
                Lengthen,
            ]
        }
        Profile::Membership => {
            vec![
                Members,
                Members,
                Members,
                Members,
                RemoveAndAdd,
                Crash,
                Isolate,
                Halves,
                HandOver,
                Wipe,
                Pause,
                Strand,
                Strand,
            ]
        }
        Profile::HandOver => {
            vec![HandOver, HandOver, HandOver, HandOver, Isolate, Pause, OneWay, Crash, BadNetwork, Lengthen]
        }
        Profile::Snapshots => {
            vec![Isolate, Isolate, Crash, Crash, Pause, Members, StallApply, CrashMany, OneWay, SlowDisk, Strand]
        }
        Profile::Disks => {
            vec![SlowDisk, HangDisk, FailSync, FullDisk, Crash, CrashMany, Rollback, Wipe, Isolate, StallApply]
        }
        Profile::Ring => vec![
            Ambush,
            Ambush,
            Ambush,
            Ambush,
            Ambush,
            Ambush,
            Split,
            Split,
            Split,
            Merge,
            Merge,
            Merge,
            Repartition,
            Repartition,
            Repartition,
            Crash,
            Crash,
            CrashMany,
            Isolate,
            Halves,
            Pause,
            StallApply,
            Members,
            Members,
            HandOver,
            Wipe,
            BadNetwork,
            SlowDisk,
            CrashAtStep,
            CrashAtStep,
        ],
        Profile::Churn => vec![
            Split,
            Split,
            Split,
            Merge,
            Merge,
            Repartition,
            Repartition,
            Crash,
            Crash,
            CrashMany,
            Isolate,
            Halves,
            Pause,
            StallApply,
            Members,
            HandOver,
            BadNetwork,
            SlowDisk,
            CrashAtStep,
            CrashAtStep,
            CrashAtStep,
            Drain,
        ],
        Profile::Disaster => vec![
            Fault::Disaster,
            Fault::Disaster,
            Fault::Disaster,
            Ambush,
            Ambush,
            Ambush,
            Ambush,
            Ambush,
            Split,
            Split,
            Merge,
            Repartition,
            Repartition,
            Crash,
            CrashMany,
            Isolate,
            Pause,
            StallApply,
            SlowDisk,
            Members,
            HandOver,
            CrashAtStep,
        ],
        Profile::Birth => vec![Crash, Crash, Isolate, OneWay, Halves, FailSync, Pause, SwapAddresses, Spoil],
        Profile::Everything => vec![
            Halves,
            Mishear,
            Lengthen,
            Isolate,
            OneWay,
            Flap,
            BadNetwork,
            Crash,
            Crash,
            CrashMany,
            Pause,
            StallLoop,
            StallApply,
            SlowDisk,
            HangDisk,
            FailSync,
            FullDisk,
            WallJump,
            WallYears,
            Rate,
            LeaseTerm,
            Upgrade,
            Rollback,
            Wipe,
            Members,
            Members,
            RemoveAndAdd,
            HandOver,
            Split,
            Split,
            Merge,
            Merge,
            Repartition,
            Repartition,
            SwapAddresses,
            Usurp,
            Strand,
        ],
    }
}
