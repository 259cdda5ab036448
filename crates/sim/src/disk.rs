//! A host's disk: the log as the sum of its synced batches, those on their way, and the data store.
//!
//! A batch is atomic (records carry checksums: a torn one is none). What a crash keeps of the batches being synced is a
//! prefix; what was not yet handed to the device is lost. The data store keeps a prefix of its own.

use bytes::Bytes;
use scatter_core::durable::{HardState, NodeRecord, PeerRecord, Recovered, RecoveredReplica, Tombstone, Write};
use scatter_core::entry::Entry;
use scatter_core::store::map::{MapBatch, MapStore};
use scatter_core::store::{Batch, Read, Store, Visit};
use scatter_core::types::{Ballot, GroupId, NodeId, ReplicaName, Slot, WriteId};
use std::collections::{BTreeMap, VecDeque};

/// One replica's log.
#[derive(Clone, Debug)]
pub struct ReplicaLog {
    /// Its name.
    pub replica: ReplicaName,
    /// Who spoke to it first.
    pub inviter: Option<ReplicaName>,
    /// Its promises.
    pub hard: HardState,
    /// The last slot forgotten.
    pub truncated: Slot,
    /// Accepted entries.
    pub entries: BTreeMap<Slot, (Ballot, Entry)>,
}

/// Everything the log says once its batches are added up.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The node's own record.
    pub node: Option<NodeRecord>,
    /// What is known of other nodes.
    pub peers: BTreeMap<NodeId, PeerRecord>,
    /// Live replicas.
    pub replicas: BTreeMap<GroupId, ReplicaLog>,
    /// Replicas gone for good.
    pub tombstones: Vec<Tombstone>,
}

impl Log {
    /// Adds one record.
    pub fn add(&mut self, write: &Write) {
        match write {
            Write::Node { record } => self.node = Some(record.clone()),
            Write::Peer { record } => {
                self.peers.insert(record.node, *record);
            }
            Write::Create { replica, after, inviter } => {
                let log = ReplicaLog {
                    replica: *replica,
                    inviter: *inviter,
                    hard: HardState::default(),
                    truncated: *after,
                    entries: BTreeMap::new(),
                };
                self.replicas.insert(replica.group, log);
            }
            Write::Hard { group, state } => {
                if let Some(log) = self.replicas.get_mut(group) {
                    log.hard = *state;
                }
            }
            Write::Accept { group, ballot, first, entries } => {
                if let Some(log) = self.replicas.get_mut(group) {
                    for (slot, entry) in (first.0..).zip(entries) {
                        log.entries.insert(Slot(slot), (*ballot, entry.clone()));
                    }
                }
            }
            Write::Truncate { group, through } => {
                if let Some(log) = self.replicas.get_mut(group) {
                    log.truncated = log.truncated.max(*through);
                    log.entries = log.entries.split_off(&through.next());
                }
            }
            Write::Tombstone { replica, removed_by, merged, configuration } => {
                self.replicas.remove(&replica.group);
                self.tombstones.retain(|old| old.replica.group != replica.group);
                let (replica, removed_by, merged) = (*replica, *removed_by, *merged);
                let configuration = configuration.clone();
                self.tombstones.push(Tombstone { replica, removed_by, merged, configuration });
            }
        }
    }

    /// What a restarted node finds.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        Recovered {
            node: self.node.clone(),
            peers: self.peers.values().copied().collect(),
            replicas: self
                .replicas
                .values()
                .map(|log| RecoveredReplica {
                    replica: log.replica,
                    inviter: log.inviter,
                    hard: log.hard,
                    truncated: log.truncated,
                    entries: log
                        .entries
                        .iter()
                        .map(|(slot, (ballot, entry))| (*slot, *ballot, entry.clone()))
                        .collect(),
                })
                .collect(),
            tombstones: self.tombstones.clone(),
        }
    }

    /// Entries from `first` on without a gap, about `bytes` of them.
    #[must_use]
    pub fn read(&self, group: GroupId, first: Slot, last: Slot, bytes: usize) -> Vec<Entry> {
        let Some(log) = self.replicas.get(&group).filter(|_| first <= last) else { return Vec::new() };
        let mut found = Vec::new();
        let mut weight = 0;
        for (expected, (slot, (_, entry))) in (first.0..).zip(log.entries.range(first..=last)) {
            weight += entry.weight();
            if slot.0 != expected || (weight > bytes && !found.is_empty()) {
                break;
            }
            found.push(entry.clone());
        }
        found
    }
}

/// One batch handed to the log.
pub type LogBatch = (WriteId, Vec<Write>);

/// Log and store of one host.
#[derive(Debug, Default)]
pub struct Disk {
    /// What is synced.
    pub log: Log,
    /// What the device is syncing: a crash keeps a prefix.
    pub syncing: Vec<LogBatch>,
    /// What waits for the device: a crash keeps nothing of it.
    pub waiting: VecDeque<LogBatch>,
    /// The data.
    pub store: MapStore,
}

/// A copy of a disk, to be put back or put elsewhere later.
#[derive(Clone, Debug)]
pub struct DiskCopy {
    log: Log,
    pairs: Vec<(Bytes, Bytes)>,
}

impl DiskCopy {
    /// The groups with a replica.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.log.replicas.keys().copied()
    }

    /// The copied node record.
    #[must_use]
    pub fn node(&self) -> Option<&NodeRecord> {
        self.log.node.as_ref()
    }
}

impl Disk {
    /// Starts to sync all that waits; how many batches, 0 if the device is busy or nothing waits.
    pub fn begin_sync(&mut self) -> usize {
        if self.syncing.is_empty() {
            self.syncing.extend(self.waiting.drain(..));
            self.syncing.len()
        } else {
            0
        }
    }

    /// The sync has ended: what it held counts. The batches are handed back for those who watch.
    pub fn end_sync(&mut self) -> Vec<LogBatch> {
        let done = std::mem::take(&mut self.syncing);
        for (_, writes) in &done {
            writes.iter().for_each(|write| self.log.add(write));
        }
        done
    }

    /// The process dies: of the batches being synced the first `kept_batches` survive, of the store's the first
    /// `kept_writes`. The surviving batches are handed back.
    pub fn crash(&mut self, kept_batches: usize, kept_writes: usize) -> Vec<LogBatch> {
        self.syncing.truncate(kept_batches);
        self.waiting.clear();
        self.store.crash(kept_writes);
        self.end_sync()
    }

    /// A copy of what is on the disk. Only of a host that is down.
    ///
    /// # Panics
    /// If the store is set to fail.
    #[must_use]
    pub fn copy(&self) -> DiskCopy {
        let mut pairs = Vec::new();
        self.store
            .scan(&[], &[0xff; 16], &mut |key, value| {
                pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                Visit::Continue
            })
            .expect("the store of a host that is down does not fail");
        DiskCopy { log: self.log.clone(), pairs }
    }

    /// A disk that holds what was copied.
    ///
    /// # Panics
    /// Never: a fresh store does not fail.
    #[must_use]
    pub fn restore(copy: &DiskCopy) -> Self {
        let store = MapStore::new();
        let mut batch = MapBatch::default();
        for (key, value) in &copy.pairs {
            batch.put(key, value);
        }
        store.write(batch).and_then(|()| store.flush()).expect("a fresh store does not fail");
        Self { log: copy.log.clone(), syncing: Vec::new(), waiting: VecDeque::new(), store }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scatter_core::entry::EntryClock;
    use scatter_core::types::Incarnation;

    const GROUP: GroupId = GroupId(1);

    fn create() -> Write {
        let replica = ReplicaName { group: GROUP, node: NodeId(1), incarnation: Incarnation(1) };
        Write::Create { replica, after: Slot(0), inviter: None }
    }

    fn accept(first: u64, count: usize) -> Write {
        let entries = vec![Entry::noop(EntryClock::default()); count];
        Write::Accept { group: GROUP, ballot: Ballot::ZERO, first: Slot(first), entries }
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_what_the_device_had() {
        let mut disk = Disk::default();
        disk.waiting.push_back((WriteId(1), vec![create()]));
        assert_eq!(disk.begin_sync(), 1);
        disk.end_sync();
        disk.waiting.extend([(WriteId(2), vec![accept(1, 2)]), (WriteId(3), vec![accept(3, 1)])]);
        assert_eq!(disk.begin_sync(), 2);
        disk.waiting.push_back((WriteId(4), vec![accept(4, 1)]));
        assert_eq!(disk.begin_sync(), 0);
        disk.crash(1, 0);
        let slots: Vec<u64> = disk.log.replicas[&GROUP].entries.keys().map(|slot| slot.0).collect();
        assert_eq!(slots, [1, 2]);
        assert!(disk.waiting.is_empty() && disk.syncing.is_empty());
    }

    #[test]
    fn truncation_forgets_and_reading_stops_at_gaps() {
        let mut log = Log::default();
        [create(), accept(1, 6), accept(8, 1)].iter().for_each(|write| log.add(write));
        log.add(&Write::Truncate { group: GROUP, through: Slot(2) });
        assert_eq!(log.read(GROUP, Slot(3), Slot(9), 1 << 20).len(), 4);
        assert_eq!(log.read(GROUP, Slot(3), Slot(9), 1).len(), 1);
        assert!(log.read(GROUP, Slot(1), Slot(9), 1 << 20).is_empty());
        assert_eq!(log.recovered().replicas[0].entries.len(), 5);
    }

    #[test]
    fn a_copy_is_put_back_whole() {
        let mut disk = Disk::default();
        disk.log.add(&create());
        let mut batch = MapBatch::default();
        batch.put(b"a", b"1");
        disk.store.write(batch).unwrap();
        let copy = disk.copy();
        disk.log.add(&accept(1, 1));
        let restored = Disk::restore(&copy);
        assert!(restored.log.replicas[&GROUP].entries.is_empty());
        assert_eq!(restored.store.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
    }
}
