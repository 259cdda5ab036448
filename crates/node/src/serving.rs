//! What threads beside the loop may know: which groups live here, how to read them, who leads.
//!
//! The apply thread publishes the table of groups whenever tablets, range or members change; the driver publishes who
//! leads. Readers take whichever is current; the read word tells whether that was still true at the end of the read.

use crate::metrics::{NodeCounts, ServedRead};
use crate::storage::rocks::RocksStore;
use arc_swap::ArcSwap;
use scatter_core::command::Found;
use scatter_core::group::read_word::ReadWord;
use scatter_core::group::{Configuration, Descriptor, TabletMap};
use scatter_core::node::ReplicaStatus;
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
    /// Where its data lies.
    pub tablets: TabletMap,
    /// Whether it may be read.
    pub word: Arc<ReadWord>,
    /// What moves with every batch.
    pub figures: Arc<Figures>,
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
    /// Groups with replicas here, in ring order of their starts.
    pub groups: ArcSwap<Vec<Arc<Served>>>,
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
        let position = key.position();
        self.groups.load().iter().find(|served| served.range.contains(&position)).cloned()
    }

    /// A replica here, by group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<Arc<Served>> {
        self.groups.load().iter().find(|served| served.group == group).cloned()
    }

    /// Whether what a reader found is still what is published. Asked after the word has let it through: it may have slept
    /// since it found it, while the data moved.
    fn is_current(&self, served: &Served) -> bool {
        self.groups.load().iter().any(|current| std::ptr::eq(&**current, served))
    }

    /// A linearizable read beside the loop: `None` if the read word does not allow it.
    pub fn read(&self, served: &Served, key: &Key) -> Result<Option<Option<Found>>, StoreError> {
        let Some(glance) = served.word.admit(crate::clock::instant).filter(|_| self.is_current(served)) else {
            return Ok(None);
        };
        let found = scatter_core::group::read(&self.store, &served.tablets, key)?;
        if !served.word.confirms(glance) {
            return Ok(None);
        }
        served.figures.reads.fetch_add(1, Ordering::Relaxed);
        self.counts.on_read(ServedRead::Lease);
        Ok(Some(found))
    }

    /// A read of what this replica has applied, with how old that may be; `None` as the age says that nobody knows.
    /// `None` in all if its data moved meanwhile or may be older than `most`.
    pub fn read_aged(&self, served: &Served, key: &Key, most: Option<Duration>) -> Result<Option<Aged>, StoreError> {
        let Some(glance) = served.word.glance_at_rest().filter(|_| self.is_current(served)) else { return Ok(None) };
        let fresh = served.word.fresh();
        let found = scatter_core::group::read(&self.store, &served.tablets, key)?;
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
