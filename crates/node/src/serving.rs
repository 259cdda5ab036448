//! What threads beside the loop may know: which groups live here, how to read them, who leads.
//!
//! The apply thread publishes the table of groups whenever tablets, range or members change; the driver publishes who
//! leads. Readers take whichever is current; the read word tells whether that was still true at the end of the read.

use crate::metrics::{NodeCounts, ServedRead};
use crate::storage::rocks::RocksStore;
use arc_swap::ArcSwap;
use scatter_core::command::Found;
use scatter_core::group::read_word::ReadWord;
use scatter_core::group::{Configuration, Descriptor, Links, TabletMap};
use scatter_core::node::ReplicaStatus;
use scatter_core::ops::OperationId;
use scatter_core::ring::{Key, KeyRange};
use scatter_core::store::StoreError;
use scatter_core::types::{Ballot, ClusterId, GroupId, NodeId, RangeVersion, Version};
use scatter_wire::{Epoch, Identity};
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
    pub pending: Option<OperationId>,
    /// Where its data lies, as far as it may be read.
    pub tablets: TabletMap,
    /// Whether it may be read.
    pub word: Arc<ReadWord>,
    /// What moves with every batch.
    pub figures: Arc<Figures>,
}

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
}

impl Served {
    /// The versions that replies carry.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        Epoch { configuration: self.configuration.version, range: self.range_version }
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
    /// What other nodes have said of themselves.
    pub known: BTreeMap<NodeId, Identity>,
    /// Why there is no cluster yet.
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
    /// What all threads count.
    pub counts: NodeCounts,
}

impl Serving {
    /// Nothing yet.
    #[must_use]
    pub fn new(store: RocksStore, counts: NodeCounts) -> Self {
        Self { store, groups: ArcSwap::default(), leadership: ArcSwap::default(), view: ArcSwap::default(), counts }
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
        served.figures.reads.fetch_add(1, Ordering::Relaxed);
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
        served.figures.reads.fetch_add(1, Ordering::Relaxed);
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
