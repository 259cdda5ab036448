//! What threads beside the loop may know: which groups live here, how to read them, who leads.
//!
//! The apply thread publishes the table of groups whenever tablets, range or members change; the driver publishes who
//! leads. Readers take whichever is current; the read word tells whether that was still true at the end of the read.

use crate::metrics::{NodeCounts, ServedRead};
use crate::organiser::Records;
use crate::storage::rocks::RocksStore;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use scatter_core::command::Found;
use scatter_core::group::read_word::ReadWord;
use scatter_core::group::{Configuration, Descriptor, Link, Links, TabletMap};
use scatter_core::node::ReplicaStatus;
use scatter_core::ops::surroundings::Looked;
use scatter_core::ops::{OperationId, Pending, Recovered};
use scatter_core::policy::Sampler;
use scatter_core::ring::routing::RoutingTable;
use scatter_core::ring::{Key, KeyRange, Position};
use scatter_core::rng::Rng;
use scatter_core::store::StoreError;
use scatter_core::types::{Ballot, ClusterId, GroupId, NodeId, RangeVersion, Version};
use scatter_gossip::Counters;
use scatter_wire::{Epoch, NodeInfo, PendingInfo};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a replica holds of a key, and how old that may be, if it can tell.
pub type Aged = (Option<Found>, Option<Duration>);

/// One group with a replica here.
#[derive(Debug)]
pub struct Served {
    /// The group.
    pub group: GroupId,
    /// Its range.
    pub range: KeyRange,
    /// The range's version.
    pub range_version: RangeVersion,
    /// Its members.
    pub configuration: Configuration,
    /// Its ring neighbours.
    pub links: Links,
    /// The group operation that holds it.
    pub held: Option<Held>,
    /// The groups that were merged into it, the last ones.
    pub absorbed: Vec<GroupId>,
    /// The groups that it was recovered from, the last ones.
    pub recovered: Vec<Recovered>,
    /// Where its data lies, as far as it may be read.
    pub tablets: TabletMap,
    /// Whether it may be read.
    pub word: Arc<ReadWord>,
    /// What moves with every batch.
    pub figures: Arc<Figures>,
}

/// The group operation that holds a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Which operation.
    pub operation: OperationId,
    /// Whether the group is the one that gains.
    pub gains: bool,
    /// The group on the other side.
    pub other: GroupId,
    /// Whether the loser ends.
    pub merge: bool,
    /// What moves.
    pub moving: KeyRange,
    /// Since when this replica knows of it.
    pub since: std::time::Instant,
}

impl Held {
    /// What a replica that knows of it since then shows.
    #[must_use]
    pub fn new(pending: &Pending, since: std::time::Instant) -> Self {
        let (takeover, operation) = (pending.takeover(), pending.operation());
        let (gains, other) = match pending {
            Pending::Gains { .. } => (true, takeover.loser),
            Pending::Loses { .. } => (false, operation.coordinator),
        };
        Self { operation, gains, other, merge: takeover.merge, moving: takeover.moving.clone(), since }
    }

    /// What others are told.
    #[must_use]
    pub fn info(&self) -> PendingInfo {
        PendingInfo {
            operation: self.operation,
            gains: self.gains,
            other: self.other,
            merge: self.merge,
            moving: self.moving.clone(),
            age_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// The most descriptors that an answer about one position carries.
const MOST_HINTS: usize = 8;

/// Of how many groups elsewhere a node remembers what it heard.
const MOST_ROUTES: usize = 1 << 14;

/// The most descriptors that a client which knows nothing is told.
const MOST_TOLD: usize = 4096;

/// How many groups on each side of a position are looked at for hints about it.
const HINTS_ASIDE: usize = 2;

/// All groups with a replica here, to be found by key and by id.
#[derive(Debug, Default)]
pub struct Table {
    /// By the starts of their ranges, of one start the latest claim last.
    by_start: Vec<Arc<Served>>,
    /// Two claims overlap: a replica here lags behind a change of ranges.
    overlaps: bool,
    by_id: BTreeMap<GroupId, Arc<Served>>,
}

impl Table {
    /// The table of these groups.
    #[must_use]
    pub fn new(mut groups: Vec<Arc<Served>>) -> Self {
        groups.sort_by(|a, b| (&a.range.start, a.range_version).cmp(&(&b.range.start, b.range_version)));
        let covers = |index: usize| {
            let (claim, next) = (&groups[index], &groups[(index + 1) % groups.len()]);
            groups.len() > 1 && (claim.range.contains(&next.range.start) || claim.range.start == next.range.start)
        };
        let overlaps = (0..groups.len()).any(covers);
        let by_id = groups.iter().map(|served| (served.group, served.clone())).collect();
        Self { by_start: groups, overlaps, by_id }
    }

    /// The group that owns a key: of several that claim it the one with the latest claim.
    #[must_use]
    pub fn owner(&self, key: &Key) -> Option<&Arc<Served>> {
        if let [only] = &self.by_start[..]
            && only.range.is_whole()
        {
            return Some(only);
        }
        let position = key.position();
        if self.overlaps {
            let claims = self.by_start.iter().filter(|served| served.range.contains(&position));
            return claims.max_by_key(|served| (served.range_version, served.group));
        }
        let after = self.by_start.partition_point(|served| served.range.start <= position);
        let claim = if after == 0 { self.by_start.last() } else { self.by_start.get(after - 1) };
        claim.filter(|served| served.range.contains(&position))
    }

    /// A group by its id.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&Arc<Served>> {
        self.by_id.get(&group)
    }

    /// The groups that claim a position, and those that start next to it on either side.
    fn around(&self, position: &Position) -> impl Iterator<Item = &Arc<Served>> {
        let count = self.by_start.len();
        let after = self.by_start.partition_point(|served| served.range.start <= *position);
        let aside = (2 * HINTS_ASIDE).min(count);
        let nearest =
            (0..aside).map(move |step| &self.by_start[(after + count + step - HINTS_ASIDE.min(count)) % count]);
        let overlaps = self.overlaps;
        let claims = self.by_start.iter().filter(move |served| overlaps && served.range.contains(position));
        claims.chain(nearest)
    }

    /// The group here that a group was merged into.
    fn heir(&self, group: GroupId) -> Option<&Arc<Served>> {
        self.by_start.iter().find(|served| served.absorbed.contains(&group))
    }

    /// All groups, by the starts of their ranges.
    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Served>> {
        self.by_start.iter()
    }
}

/// Figures of a replica that change with every batch.
#[derive(Debug, Default)]
pub struct Figures {
    /// User keys.
    pub keys: AtomicU64,
    /// Bytes of keys and values.
    pub bytes: AtomicU64,
    /// The version of the last operation applied.
    pub stamp: AtomicU64,
    /// Lanes remembered.
    pub lanes: AtomicU64,
    /// Commands applied since the process started.
    pub commands: AtomicU64,
    /// Reads answered since the process started.
    pub reads: AtomicU64,
    /// Commands and reads in the last full second.
    pub per_second: AtomicU64,
    /// Writes asked for since the process started.
    asked: AtomicU64,
    /// Where some of them were, to find the middle of the load by.
    sample: Mutex<Sampler>,
}

/// One operation in so many is sampled.
const SAMPLED: u64 = 32;

impl Figures {
    /// A read of `key` was answered.
    pub fn on_read(&self, key: &Key) {
        let count = self.reads.fetch_add(1, Ordering::Relaxed);
        self.sample(key, count);
    }

    /// A write of `key` was asked for.
    pub fn on_write(&self, key: &Key) {
        let count = self.asked.fetch_add(1, Ordering::Relaxed);
        self.sample(key, count);
    }

    fn sample(&self, key: &Key, count: u64) {
        // Whoever finds the sample in use goes without: nobody waits for a hint.
        if count.is_multiple_of(SAMPLED)
            && let Some(mut sample) = self.sample.try_lock()
        {
            sample.record(&key.position(), &mut Rng::new(count));
        }
    }

    /// The boundary inside `range` that leaves `permille` of the observed load before it.
    #[must_use]
    pub fn quantile(&self, range: &KeyRange, permille: u16) -> Option<Position> {
        self.sample.lock().quantile(range, permille)
    }
}

impl Served {
    /// The versions that replies carry.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch { configuration: self.configuration.version, range: self.range_version }
    }

    /// At how many of its two ends no neighbour is known to lie next to it.
    #[must_use]
    pub fn gaps(&self) -> usize {
        let Links { predecessor, successor, .. } = &self.links;
        usize::from(predecessor.range.end != self.range.start) + usize::from(successor.range.start != self.range.end)
    }

    /// The group's last stamp.
    #[must_use]
    pub fn stamp(&self) -> Version {
        Version(self.figures.stamp.load(Ordering::Relaxed))
    }
}

/// What the driver knows of a group's leadership.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leadership {
    /// Who leads, as far as is known here.
    pub leader: Option<NodeId>,
    /// In which ballot, or the highest promised.
    pub ballot: Ballot,
}

/// What waits for the log and for peers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Queues {
    /// Batches for the log.
    pub log_batches: usize,
    /// Bytes of entries in them.
    pub log_bytes: usize,
    /// Frames for peers.
    pub peer_frames: usize,
    /// Bytes of them.
    pub peer_bytes: usize,
}

/// A view of the node for status pages, made anew now and then.
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    /// The cluster, once there is one.
    pub cluster: Option<ClusterId>,
    /// How the replicas stand.
    pub replicas: Vec<ReplicaStatus>,
    /// What is known of the nodes.
    pub nodes: Vec<NodeInfo>,
    /// How many other nodes this one has spoken to.
    pub spoken_to: usize,
    /// This node is being emptied.
    pub draining: bool,
    /// Why there is no cluster yet, or nobody of it is found.
    pub problem: Option<String>,
    /// Commands, reads and orders that wait for the protocol.
    pub waiting: usize,
    /// Commands among them.
    pub proposals: usize,
    /// What else waits.
    pub queues: Queues,
    /// Round trips to the peers that a connection to stands.
    pub round_trips: BTreeMap<NodeId, Duration>,
    /// The log has no room.
    pub disk_full: bool,
    /// Leaders that changed, elections, since the process started.
    pub leader_changes: u64,
    /// Links to groups ahead on the ring that leaders here hold.
    pub far_links: usize,
    /// How often they looked around.
    pub looked: Looked,
    /// What gossip has counted.
    pub gossiped: Counters,
}

/// Everything that is shared.
pub struct Serving {
    /// The store.
    pub store: RocksStore,
    /// Groups with replicas here.
    pub groups: ArcSwap<Table>,
    /// Who leads them.
    pub leadership: ArcSwap<BTreeMap<GroupId, Leadership>>,
    /// The rest.
    pub view: ArcSwap<NodeView>,
    /// What was heard of groups elsewhere.
    routes: RwLock<RoutingTable>,
    /// What the policies decided.
    pub policies: Mutex<Records>,
    /// What all threads count.
    pub counts: NodeCounts,
    /// The fewest voters that an order leaves a group, as set here.
    pub min_size: usize,
}

impl Serving {
    /// Nothing yet.
    #[must_use]
    pub fn new(store: RocksStore, counts: NodeCounts, min_size: usize) -> Self {
        Self {
            store,
            groups: ArcSwap::default(),
            leadership: ArcSwap::default(),
            view: ArcSwap::default(),
            routes: RwLock::new(RoutingTable::new(MOST_ROUTES)),
            policies: Mutex::default(),
            counts,
            min_size,
        }
    }

    /// Takes in what was heard of groups.
    pub fn learn_routes<'a>(&self, heard: impl Iterator<Item = &'a Arc<Descriptor>>) {
        let mut routes = self.routes.write();
        for descriptor in heard {
            routes.learn(descriptor);
        }
    }

    /// Takes in links that requests may have to go along whatever else is heard, and keeps them from being forgotten for it.
    pub fn keep_routes<'a>(&self, links: impl Iterator<Item = &'a Arc<Descriptor>>) {
        let mut routes = self.routes.write();
        for link in links {
            routes.learn(link);
            routes.touch(link.group);
        }
    }

    /// What was heard of groups right beside one that is served here.
    #[must_use]
    pub fn beside(&self, group: GroupId) -> Vec<Link> {
        let groups = self.groups.load();
        let Some(served) = groups.group(group) else { return Vec::new() };
        self.routes.read().beside(&served.range).map(|route| route.link()).collect()
    }

    /// The group here that owns a key.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Arc<Served>> {
        self.groups.load().owner(key).cloned()
    }

    /// A replica here, by group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Arc<Served>> {
        self.groups.load().group(group).cloned()
    }

    /// Whether what a reader found is still what is published. Asked after the word has let it through: it may have slept
    /// since it found it, while the data moved.
    fn is_current(&self, served: &Served) -> bool {
        self.groups.load().group(served.group).is_some_and(|current| std::ptr::eq(&**current, served))
    }

    /// A linearizable read beside the loop: `None` if the read word does not allow it.
    pub fn read(&self, served: &Served, key: &Key) -> Result<Option<Option<Found>>, StoreError> {
        let Some(glance) = served.word.admit(crate::clock::instant).filter(|_| self.is_current(served)) else {
            return Ok(None);
        };
        let found = match scatter_core::group::read_served(&self.store, &served.tablets, key)? {
            Some(found) if served.word.confirms(glance) => found,
            // It moved meanwhile, or is sealed: the long way tells.
            Some(_) | None => return Ok(None),
        };
        served.figures.on_read(key);
        self.counts.on_read(ServedRead::Lease);
        Ok(Some(found))
    }

    /// A read of what this replica has applied, with how old that may be; `None` as the age says that nobody knows.
    /// `None` in all if its data moved meanwhile or may be older than `most`.
    pub fn read_aged(&self, served: &Served, key: &Key, most: Option<Duration>) -> Result<Option<Aged>, StoreError> {
        let Some(glance) = served.word.glance_at_rest().filter(|_| self.is_current(served)) else { return Ok(None) };
        let fresh = served.word.fresh();
        let Some(found) = scatter_core::group::read_served(&self.store, &served.tablets, key)? else { return Ok(None) };
        let age = fresh.map(|at| crate::clock::instant().since(at));
        let too_old = most.is_some_and(|most| age.is_none_or(|age| age > most));
        if too_old || !served.word.confirms(glance) {
            return Ok(None);
        }
        served.figures.on_read(key);
        self.counts.on_read(ServedRead::Stale);
        Ok(Some((found, age)))
    }

    /// What this node knows of the groups it has replicas of.
    #[must_use]
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let leadership = self.leadership.load();
        self.groups.load().iter().map(|served| descriptor(served, leadership.get(&served.group))).collect()
    }

    /// What this node knows of one group.
    #[must_use]
    pub fn descriptor(&self, served: &Served) -> Descriptor {
        descriptor(served, self.leadership.load().get(&served.group))
    }

    /// What this node knows of the groups it has replicas of, of their neighbours, and of others.
    #[must_use]
    pub fn known_descriptors(&self) -> Vec<Descriptor> {
        let mut found = self.gathered(self.groups.load().iter());
        for route in self.routes.read().routes().take(MOST_TOLD) {
            keep_newer(&mut found, Descriptor::clone(route));
        }
        found.into_values().collect()
    }

    /// The few groups, here or next to one here, that most likely own a position, the likeliest first. A walk along the ring
    /// ends with these alone: the successor of the group that starts closest before the position is nearer to it.
    #[must_use]
    pub fn hints(&self, position: &Position) -> Vec<Descriptor> {
        let mut found = self.gathered(self.groups.load().around(position));
        for route in self.routes.read().closest_before(position).take(HINTS_ASIDE) {
            keep_newer(&mut found, Descriptor::clone(route));
        }
        let mut hints: Vec<Descriptor> = found.into_values().collect();
        // Of several claims the latest stands; of the rest, whoever starts closest before the position.
        let rank = |hint: &Descriptor| {
            let claim = hint.range.contains(position).then_some(hint.range_version);
            (claim, hint.range.start <= *position, hint.range.start.clone())
        };
        hints.sort_by_cached_key(|hint| std::cmp::Reverse(rank(hint)));
        hints.truncate(MOST_HINTS);
        hints
    }

    /// What became of a group: itself and its neighbours, or those of the group here that it was merged into.
    #[must_use]
    pub fn hints_of(&self, group: GroupId) -> Vec<Descriptor> {
        let groups = self.groups.load();
        let mut found = self.gathered(groups.group(group).or_else(|| groups.heir(group)).into_iter());
        if let Some(route) = self.routes.read().group(group) {
            keep_newer(&mut found, Descriptor::clone(route));
        }
        found.into_values().collect()
    }

    /// The descriptors of these groups and of their neighbours, of each group the newest.
    fn gathered<'a>(&self, groups: impl Iterator<Item = &'a Arc<Served>>) -> BTreeMap<GroupId, Descriptor> {
        let leadership = self.leadership.load();
        let mut found: BTreeMap<GroupId, Descriptor> = BTreeMap::new();
        for served in groups {
            keep_newer(&mut found, descriptor(served, leadership.get(&served.group)));
            keep_newer(&mut found, served.links.predecessor.descriptor());
            keep_newer(&mut found, served.links.successor.descriptor());
        }
        found
    }
}

/// Adds a descriptor, unless what is there tells more.
fn keep_newer(found: &mut BTreeMap<GroupId, Descriptor>, heard: Descriptor) {
    let rank = |known: &Descriptor| (known.range_version, known.configuration.version, known.leader.is_some());
    if found.get(&heard.group).is_none_or(|known| rank(known) < rank(&heard)) {
        found.insert(heard.group, heard);
    }
}

fn descriptor(served: &Served, leadership: Option<&Leadership>) -> Descriptor {
    Descriptor {
        group: served.group,
        configuration: served.configuration.clone(),
        range_version: served.range_version,
        range: served.range.clone(),
        leader: leadership.and_then(|leadership| leadership.leader),
        ballot: leadership.map_or(Ballot::ZERO, |leadership| leadership.ballot),
    }
}
