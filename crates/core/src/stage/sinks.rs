//! Snapshots that come in, piece by piece, until each takes the place of a machine.

use super::{Done, Stage, merger_of};
use crate::group::{Chunk, Holding, SnapshotError, SnapshotSink};
use crate::input::Input;
use crate::ops::OperationId;
use crate::planted::{self, Bug};
use crate::store::{Store, StoreError};
use crate::types::{GroupId, ReplicaName, TabletId};
use bytes::Bytes;
use std::collections::BTreeMap;

/// How many snapshots that come in may have values in memory at once.
const MAX_HOLDING: usize = 4;

/// All snapshots that come in.
pub(super) struct Sinks<S: Store> {
    under_way: BTreeMap<GroupId, SnapshotSink<S>>,
    /// Pieces that wait until the store has loaded what came before them.
    deferred: BTreeMap<GroupId, (ReplicaName, u64, Chunk)>,
    holding: Holding,
}

impl<S: Store> Sinks<S> {
    /// Those that a process which ended has left.
    pub(super) fn open(store: &S, holding: Holding) -> Result<Self, StoreError> {
        let mut under_way = BTreeMap::new();
        for name in SnapshotSink::<S>::list(store)? {
            if let Some(sink) = SnapshotSink::resume(store.clone(), name.group)? {
                under_way.insert(name.group, sink);
            }
        }
        Ok(Self { under_way, deferred: BTreeMap::new(), holding })
    }

    /// Clears away what has come of a replica's snapshot. A later incarnation may be on its way into the same group: only what is
    /// named goes.
    pub(super) fn abandon(&mut self, replica: ReplicaName) -> Result<(), StoreError> {
        self.deferred.retain(|_, (name, ..)| *name != replica);
        match self.under_way.get(&replica.group) {
            Some(sink) if sink.name() == replica => self.drop_sink(replica.group),
            Some(_) | None => Ok(()),
        }
    }

    /// Clears away what has come of a group's snapshot.
    pub(super) fn drop_sink(&mut self, group: GroupId) -> Result<(), StoreError> {
        self.under_way.remove(&group).map_or(Ok(()), SnapshotSink::abandon)
    }

    /// Whose snapshot of a group comes in, if one does.
    pub(super) fn name(&self, group: GroupId) -> Option<ReplicaName> {
        self.under_way.get(&group).map(SnapshotSink::name)
    }

    fn begin(&mut self, store: S, name: ReplicaName, tablet: TabletId) -> Result<(), StoreError> {
        // One begun before has ended whatever it was at, before it is cleared away.
        self.under_way.remove(&name.group);
        self.under_way.insert(name.group, SnapshotSink::begin(store, name, tablet)?);
        Ok(())
    }

    /// What a sink may hold: nothing, if many others do.
    fn holding(&self, group: GroupId) -> Holding {
        let others = self.under_way.iter().filter(|(of, sink)| **of != group && sink.holds()).count();
        let most = if others < MAX_HOLDING { self.holding.most } else { 0 };
        Holding { most, ..self.holding }
    }

    fn must_wait(&self, group: GroupId, chunk: &Chunk) -> bool {
        self.under_way.get(&group).is_some_and(|sink| sink.must_wait(chunk, self.holding(group)))
    }

    fn next_deferred(&self) -> Option<GroupId> {
        let mut deferred = self.deferred.iter();
        deferred.find(|(group, (_, _, chunk))| !self.must_wait(**group, chunk)).map(|(group, _)| *group)
    }
}

impl<S: Store> Stage<S> {
    /// Whether a piece that was deferred can be stored now, as perhaps after the store has loaded something.
    #[must_use]
    pub fn has_deferred(&self) -> bool {
        self.sinks.next_deferred().is_some()
    }

    /// Stores a piece that was deferred, if one can be. After an error it may be called again.
    pub fn store_deferred(&mut self) -> Result<Done, StoreError> {
        let Some(group) = self.sinks.next_deferred() else { return Ok(Done::default()) };
        let Some((name, snapshot, chunk)) = self.sinks.deferred.get(&group).cloned() else {
            return Ok(Done::default());
        };
        let done = self.store_chunk(name, snapshot, &chunk)?;
        self.sinks.deferred.remove(&group);
        Ok(done)
    }

    pub(super) fn store_snapshot(
        &mut self,
        name: ReplicaName,
        snapshot: u64,
        chunk: &Bytes,
    ) -> Result<Done, StoreError> {
        match Chunk::from_bytes(chunk) {
            Ok(chunk) => self.store_chunk(name, snapshot, &chunk),
            Err(_) => Ok(refused_piece(name.group, snapshot)),
        }
    }

    fn store_chunk(&mut self, name: ReplicaName, snapshot: u64, chunk: &Chunk) -> Result<Done, StoreError> {
        let group = name.group;
        let refused = refused_piece(group, snapshot);
        if chunk.header.is_some() {
            let tablet = self.tablet();
            self.sinks.begin(self.store.clone(), name, tablet)?;
        }
        let holding = self.sinks.holding(group);
        if self.sinks.must_wait(group, chunk) {
            // Whoever fetches sends no more meanwhile, and nothing else that is to be applied waits.
            self.sinks.deferred.insert(group, (name, snapshot, chunk.clone()));
            return Ok(Done::default());
        }
        let Some(sink) = self.sinks.under_way.get_mut(&group) else { return Ok(refused) };
        let added = sink.add_holding(chunk, holding);
        let left_out = sink.left_out().filter(|operation| self.awaits(*operation));
        if let Some(operation) = left_out {
            self.sinks.drop_sink(group)?;
            let awaits = Some(operation.coordinator);
            return Ok(Done::one(Input::SnapshotStored { group, snapshot, cursor: None, awaits }));
        }
        match added {
            Ok(false) if !planted::on(Bug::SnapshotNotAtomic) => {
                let cursor = Some(chunk.after.clone());
                Ok(Done::one(Input::SnapshotStored { group, snapshot, cursor, awaits: None }))
            }
            Ok(_) => Ok(self.switch_in(group)?.unwrap_or(refused)),
            Err(SnapshotError::Store(error)) => Err(error),
            Err(
                SnapshotError::Chunk(_)
                | SnapshotError::Other
                | SnapshotError::Order
                | SnapshotError::Incomplete
                | SnapshotError::Mismatch
                | SnapshotError::Stale(_),
            ) => Ok(refused),
        }
    }

    /// Puts a snapshot that is complete in the place of what is there; `None` if it turns out not to be one.
    fn switch_in(&mut self, group: GroupId) -> Result<Option<Done>, StoreError> {
        let Some(sink) = self.sinks.under_way.remove(&group) else { return Ok(None) };
        // Whoever reads the old tablets is turned back before they go.
        if let Some(word) = self.words.get(&group) {
            word.begin_move();
        }
        let machine = match sink.finish() {
            Ok(machine) => machine,
            Err(SnapshotError::Store(error)) => return Err(error),
            Err(_) => return Ok(None),
        };
        self.unborn.remove(&group);
        let gainers = machine.parted_for();
        self.machines.insert(group, machine.with_limits(self.limits.clone()));
        gainers.into_iter().try_for_each(|gainer| self.discard_parted(gainer))?;
        // What the snapshot replaces in the log is given up only once the snapshot is durable.
        self.store.flush()?;
        let mut done = self.installed(group);
        let ended = self.end_merged(group)?;
        done.moved.extend(ended.iter().filter_map(merger_of).map(|(name, _)| name.group));
        done.inputs.extend(ended);
        self.discard_parted(group)?;
        self.end_left_over(&mut done)?;
        self.work_off(group, &mut done)?;
        Ok(Some(done))
    }

    /// Whether a gainer here is still to take over what an operation moves. A snapshot of the loser that leaves it out must
    /// wait: with it, members might come to know of the sealed part only that somebody else has it, until nobody has.
    fn awaits(&self, operation: OperationId) -> bool {
        self.state(operation.coordinator).is_some_and(|gainer| {
            let pends = gainer.pending.as_ref().is_some_and(|pending| pending.operation() == operation);
            gainer.applied < operation.slot || pends
        })
    }
}

/// What is told of a piece that cannot be taken.
fn refused_piece(group: GroupId, snapshot: u64) -> Done {
    Done::one(Input::SnapshotStored { group, snapshot, cursor: None, awaits: None })
}
