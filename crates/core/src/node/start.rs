//! A node comes up: its record, its replicas, and what the store holds of them.

use super::index::Index;
use super::passing::another_member;
use super::{AfterSync, Boot, Machines, Node, RecoverError};
use crate::birth::Birth;
use crate::config::Config;
use crate::cover::Covers;
use crate::durable::{HardState, MAX_NONCES, NodeRecord, Recovered, RecoveredReplica, Write};
use crate::effects::{Effects, MachineOrder};
use crate::entry::Room;
use crate::ops::surroundings::Looking;
use crate::replica::Replica;
use crate::rng::Rng;
use crate::time::Now;
use crate::types::{Incarnation, ReplicaName, Slot, WriteId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

impl Node {
    /// A node as its disk remembers it, or a new one. `machines` is what the store holds.
    /// The effects hold the record of this boot; until it is synced the node neither speaks nor listens.
    pub fn recover(
        config: Config,
        boot: Boot,
        recovered: Recovered,
        machines: Machines,
        now: Now,
    ) -> Result<(Self, Effects), RecoverError> {
        let mut record = recovered.node.unwrap_or(NodeRecord {
            node: boot.fresh_id,
            boot: 0,
            nonces: Vec::new(),
            cluster: None,
            binding: None,
            longest_lease_nanos: 0,
            given_up: false,
        });
        if record.given_up {
            return Err(RecoverError::GivenUp(record.node));
        }
        record.boot += 1;
        record.nonces.insert(0, boot.nonce);
        record.nonces.truncate(MAX_NONCES);
        let mut node = Self {
            record,
            nonce: boot.nonce,
            peers: recovered.peers.into_iter().map(|peer| (peer.node, peer)).collect(),
            replicas: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            rng: Rng::new(boot.seed),
            birth: Birth::new(boot.origin),
            after_sync: VecDeque::from([(WriteId(1), AfterSync::Boot)]),
            next_write: WriteId(1),
            outstanding: VecDeque::new(),
            room: Room::Enough,
            booted: false,
            lease_on_disk: 0,
            touched: BTreeSet::new(),
            wanted: Vec::new(),
            looking: Looking::default(),
            index: Index::default(),
            covers: Covers::default(),
            eager: BTreeSet::new(),
            merged: BTreeSet::new(),
            now,
            config,
        };
        node.birth.is_bound_on_disk = node.record.binding.is_some();
        for tombstone in recovered.tombstones {
            node.tombstones.entry(tombstone.replica.group).or_default().push(tombstone);
        }
        let mut effects = Effects::default();
        node.recover_orphans(&recovered.replicas, &machines, &mut effects)?;
        for replica in recovered.replicas {
            node.recover_replica(replica, &machines, &mut effects)?;
        }
        node.settle_merged(now, None, &mut effects);
        // A lease of today's length may be granted from now on, to others and to itself.
        let lease = crate::time::nanos(node.config.lease);
        node.record.longest_lease_nanos = node.record.longest_lease_nanos.max(lease);
        node.write_record(&mut effects);
        node.flush(now, &mut effects);
        Ok((node, effects))
    }

    /// Machines without a replica in the log: born by a split whose replica the log had not heard of yet, or left over by a
    /// process that died between the tombstone and the end of the data.
    fn recover_orphans(
        &mut self,
        replicas: &[RecoveredReplica],
        machines: &Machines,
        effects: &mut Effects,
    ) -> Result<(), RecoverError> {
        let lives = |name: &ReplicaName| replicas.iter().any(|replica| replica.replica.group == name.group);
        for (name, report) in machines.live.iter().filter(|(name, _)| !lives(name)) {
            // A founder that does not know yet that its cluster is born makes the first group anew once it does.
            if name.incarnation == Incarnation(1) && self.may_host(*name) {
                let inviter = another_member(*name, None, &report.state.configuration);
                effects.writes.push(Write::Create { replica: *name, after: Slot(1), inviter });
                let hard = HardState::default();
                let born = RecoveredReplica { replica: *name, inviter, hard, truncated: Slot(1), entries: Vec::new() };
                self.recover_replica(born, machines, effects)?;
            } else {
                effects.orders.push(MachineOrder::Destroy { replica: *name });
            }
        }
        // The end of a former self's data was lost with the store, and the one that lives may never have data of its own.
        let another = |name: &ReplicaName| {
            replicas.iter().any(|replica| replica.replica.group == name.group && replica.replica != *name)
        };
        let former = machines.live.iter().map(|(name, _)| *name).filter(another);
        effects.orders.extend(former.map(|replica| MachineOrder::Destroy { replica }));
        let left = machines.merged.iter().map(|(name, _)| *name).filter(|name| !lives(name));
        effects.orders.extend(left.map(|replica| MachineOrder::Destroy { replica }));
        Ok(())
    }

    fn recover_replica(
        &mut self,
        recovered: RecoveredReplica,
        machines: &Machines,
        effects: &mut Effects,
    ) -> Result<(), RecoverError> {
        let name = recovered.replica;
        let report = machines.live.iter().find(|(machine, _)| *machine == name).map(|(_, report)| report.clone());
        let merger = machines.merged.iter().find(|(machine, _)| *machine == name).map(|(_, merger)| *merger);
        let (level, known) = (report.as_ref().map(|report| report.feature_level), self.config.feature_level);
        if let Some(level) = level.filter(|level| *level > known) {
            return Err(RecoverError::TooNew { group: name.group, level, known });
        }
        let applied = report.as_ref().map_or(Slot(0), |report| report.applied);
        let genesis = self.record.binding.as_ref().is_some_and(|binding| binding.group == name.group)
            && name.incarnation == Incarnation(1);
        let begins = report.is_none() && name.incarnation == Incarnation(1) && recovered.truncated <= Slot(1);
        let missing = begins && genesis && merger.is_none();
        if recovered.truncated > applied && !begins && merger.is_none() {
            return Err(RecoverError::Damaged { group: name.group, applied, truncated: recovered.truncated });
        }
        let now = self.now;
        let mut cx = self.context(now, effects);
        let mut replica = Replica::recover(recovered, report, &mut cx);
        if let Some(merger) = merger {
            replica.decided = replica.hard.decided;
            replica.on_merged(merger, &mut cx);
            self.merged.insert(name.group);
        }
        self.replicas.insert(name.group, Box::new(replica));
        self.touched.insert(name.group);
        if missing {
            self.create_genesis(name, effects);
        }
        Ok(())
    }
}
