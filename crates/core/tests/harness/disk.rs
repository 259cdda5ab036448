//! A log in memory: what a node finds again after its process died.

use bytes::Bytes;
use scatter_core::durable::{HardState, NodeRecord, PeerRecord, Recovered, RecoveredReplica, Tombstone, Write};
use scatter_core::entry::Entry;
use scatter_core::store::map::{MapBatch, MapStore};
use scatter_core::store::{Batch, Read, Store, Visit};
use scatter_core::types::{Ballot, GroupId, NodeId, ReplicaName, Slot};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
struct ReplicaLog {
    replica: ReplicaName,
    inviter: Option<ReplicaName>,
    hard: HardState,
    truncated: Slot,
    entries: BTreeMap<Slot, (Ballot, Entry)>,
}

/// Everything that was synced.
#[derive(Clone, Default, Debug)]
pub(crate) struct Disk {
    node: Option<NodeRecord>,
    peers: BTreeMap<NodeId, PeerRecord>,
    replicas: BTreeMap<GroupId, ReplicaLog>,
    tombstones: Vec<Tombstone>,
}

impl Disk {
    pub(crate) fn add(&mut self, write: &Write) {
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
                    for (slot, entry) in (first.0..).map(Slot).zip(entries) {
                        log.entries.insert(slot, (*ballot, entry.clone()));
                    }
                }
            }
            Write::Truncate { group, through } => {
                if let Some(log) = self.replicas.get_mut(group) {
                    log.truncated = log.truncated.max(*through);
                    log.entries.retain(|slot, _| slot > through);
                }
            }
            Write::Tombstone { replica, removed_by, merged, configuration } => {
                self.replicas.retain(|_, log| log.replica != *replica);
                let (replica, removed_by, merged) = (*replica, *removed_by, *merged);
                let configuration = configuration.clone();
                self.tombstones.push(Tombstone { replica, removed_by, merged, configuration });
            }
        }
    }

    /// What a start finds.
    pub(crate) fn recovered(&self) -> Recovered {
        let replica = |log: &ReplicaLog| RecoveredReplica {
            replica: log.replica,
            inviter: log.inviter,
            hard: log.hard,
            truncated: log.truncated,
            entries: log.entries.iter().map(|(slot, (ballot, entry))| (*slot, *ballot, entry.clone())).collect(),
        };
        Recovered {
            node: self.node.clone(),
            peers: self.peers.values().copied().collect(),
            replicas: self.replicas.values().map(replica).collect(),
            tombstones: self.tombstones.clone(),
        }
    }

    /// Entries from `first` on, without a gap.
    pub(crate) fn entries(&self, group: GroupId, first: Slot, last: Slot) -> Vec<Entry> {
        let Some(log) = self.replicas.get(&group) else { return Vec::new() };
        let slots = (first.0..=last.0).map(Slot);
        slots.map_while(|slot| log.entries.get(&slot).map(|(_, entry)| entry.clone())).collect()
    }
}

/// A copy of everything a store holds, as a backup would make it.
pub(crate) fn copy_store(from: &MapStore) -> MapStore {
    let mut batch = MapBatch::default();
    from.scan(&[], &[0xff; 16], &mut |key, value| {
        batch.put(&Bytes::copy_from_slice(key), value);
        Visit::Continue
    })
    .unwrap();
    let copy = MapStore::new();
    copy.write(batch).unwrap();
    copy.flush().unwrap();
    copy
}
