//! What a split or a takeover does to the machines of one node, in one store batch.
//!
//! ```text
//! Born     parent [a,c) in tablet 4    -->  parent [a,b) in tablet 4, child [b,c) in tablet 4
//! Recovered lost group [a,c)           -->  child [a,c) in the same tablets, and the lost group ends
//! Gained   gainer [a,b), loser [b,c)   -->  gainer [a,c): its pieces and the loser's, shifted by the clocks' difference
//! Lost     loser [b,c)                 -->  loser [b,x); what moved is kept, parted, while the gainer here has yet to take it
//! ```
//!
//! No data is copied or rewritten: only the records that say whose it is.

use super::count::half;
use super::lanes::Lanes;
use super::layout::{self, damaged, undecodable};
use super::machine::{Applied, Frame, Machine, Mark, put_records};
use super::release::release;
use super::{GroupState, TabletMap};
use crate::codec::Encode;
use crate::codec_struct;
use crate::durable::Merger;
use crate::entry::Entry;
use crate::ops::transitions::Reshaped;
use crate::ops::{OperationId, Pending, Surrender, Takeover};
use crate::planted::{self, Bug};
use crate::ring::KeyRange;
use crate::store::{Batch, Store, StoreError};
use crate::time::LogTime;
use crate::types::{GroupId, Incarnation, ReplicaName, Slot};
use xxhash_rust::xxh3::xxh3_64;

/// What a loser gave up and the gainer beside it has yet to take over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parted {
    pub(super) operation: OperationId,
    /// The gainer's slot that takes it over.
    pub(super) committed: Slot,
    pub(super) tablets: TabletMap,
}

codec_struct!(Parted { operation, committed, tablets });

/// The other machines of the node that an entry concerns, and what became of them.
pub struct Beside<'a, S: Store> {
    /// The loser, of a takeover.
    pub loser: Option<&'a mut Machine<S>>,
    /// Whether a child may be born here: there is nothing of it yet.
    pub bears: bool,
    /// What the gainer here has applied, if there is one, when the group gives up positions.
    pub gainer: Option<Slot>,
    /// The child.
    pub born: Option<Machine<S>>,
    /// The loser has ended.
    pub ended: bool,
}

impl<S: Store> Beside<'_, S> {
    /// Nobody.
    #[must_use]
    pub fn nobody() -> Self {
        Self { loser: None, bears: false, gainer: None, born: None, ended: false }
    }
}

/// What is to change in memory once the batch is written.
pub(super) struct Change<S: Store> {
    pub(super) tablets: TabletMap,
    parted: Option<Parted>,
    born: Option<Machine<S>>,
    /// The loser ends.
    ends: bool,
    /// What the loser had parted for this is taken over.
    taken: Option<OperationId>,
}

impl<S: Store> Change<S> {
    pub(super) fn parted(&self) -> Option<&Parted> {
        self.parted.as_ref()
    }
}

impl<S: Store> Machine<S> {
    /// Applies one entry that may concern other machines of the node, all in one store batch. Like [`Machine::apply`].
    pub fn apply_beside(
        &mut self,
        slot: Slot,
        entry: &Entry,
        beside: &mut Beside<'_, S>,
    ) -> Result<Applied, StoreError> {
        self.apply_with(&[(slot, entry.clone())], beside)
    }

    /// What readers may look at: the pieces of the range that are not sealed.
    pub fn served(&self) -> TabletMap {
        match self.state().pending.as_ref().and_then(Pending::sealed) {
            Some(sealed) if !planted::on(Bug::SealedRead) => self.tablets().cut(sealed).1,
            Some(_) | None => self.tablets().clone(),
        }
    }

    /// Whether a gainer beside this machine can take over what an operation moves: it is sealed here, or parted.
    pub fn surrenders(&self, operation: OperationId, seal: Slot) -> bool {
        if planted::on(Bug::AssembledBeforeSeal) {
            return true;
        }
        let sealed = self.state().pending.as_ref().is_some_and(|pending| pending.operation() == operation);
        let sealed = sealed && self.taken_now().is_none();
        sealed && self.state().applied >= seal || self.parted().iter().any(|parted| parted.operation == operation)
    }

    /// The replica's name were it of another group.
    fn sibling(&self, state: &GroupState) -> ReplicaName {
        ReplicaName { group: state.group, incarnation: Incarnation(1), ..self.name() }
    }

    /// Puts what an entry did to other machines into the batch that applies it.
    pub(super) fn reshape(
        &mut self,
        reshaped: Reshaped,
        beside: &Beside<'_, S>,
        batch: &mut S::Batch,
    ) -> Result<Change<S>, StoreError> {
        match reshaped {
            Reshaped::Born(child) => self.bear(*child, half(self.idempotency_records()), beside, batch),
            Reshaped::Recovered(child) => self.bear(*child, self.idempotency_records(), beside, batch),
            Reshaped::Gained { operation, takeover, surrender, offset_micros } => {
                self.gain(operation, &takeover, &surrender, offset_micros, beside, batch)
            }
            Reshaped::Lost { operation, moving, committed } => self.lose(operation, &moving, committed, beside, batch),
        }
    }

    /// A group is born that takes over what lies in its range, with so many of the idempotency records.
    fn bear(
        &mut self,
        child: GroupState,
        records: u64,
        beside: &Beside<'_, S>,
        batch: &mut S::Batch,
    ) -> Result<Change<S>, StoreError> {
        let (inside, outside) = self.tablets().cut(&child.range);
        self.set_idempotency_records(self.idempotency_records().wrapping_sub(records));
        let mut born = None;
        // A newcomer that applies what was decided before it came is no member of the child.
        let name = self.sibling(&child);
        if beside.bears && child.configuration.has(name) {
            let mark = Mark::new(&child, records, xxh3_64(&child.to_bytes()));
            let frame = Frame { name, tablets: inside, parted: Vec::new(), taken: None, state: child };
            put_records(batch, &frame, &mark);
            let lanes = if planted::on(Bug::LanesNotSplit) {
                Lanes::new()
            } else {
                self.lanes_ref().copy(batch, name.group, mark.applied)
            };
            let mut machine = Self::assembled(self.store().clone(), frame, &mark, lanes).with_limits(self.limits());
            machine.set_next_expiry(self.next_expiry());
            born = Some(machine);
        } else {
            // The child has its data by a snapshot, or is gone.
            self.release_but(&inside, &outside, batch)?;
        }
        Ok(Change { tablets: outside, parted: None, born, ends: false, taken: None })
    }

    fn gain(
        &mut self,
        operation: OperationId,
        takeover: &Takeover,
        surrender: &Surrender,
        offset_micros: i64,
        beside: &Beside<'_, S>,
        batch: &mut S::Batch,
    ) -> Result<Change<S>, StoreError> {
        let loser = beside.loser.as_deref().ok_or_else(|| damaged("a takeover without the loser beside it"))?;
        let parted = loser.parted().iter().find(|parted| parted.operation == operation).cloned();
        let pieces = match &parted {
            Some(parted) => parted.tablets.clone(),
            None => loser.tablets().cut(&takeover.moving).0,
        };
        let tablets = self.tablets().clone().join(pieces.shifted(offset_micros));
        let lanes = if takeover.merge { loser.lanes_ref().encode_all() } else { surrender.lanes.clone() };
        if !planted::on(Bug::LanesNotGained) {
            let limits = self.limits();
            let forgotten = self.lanes_mut().gain(lanes, &limits).map_err(undecodable("lanes of a takeover"))?;
            self.raise_forgotten(forgotten);
        }
        self.set_idempotency_records(self.idempotency_records().wrapping_add(surrender.idempotency_records));
        let theirs = match &parted {
            // The loser has gone on without these.
            Some(_) => Some(LogTime(0)),
            None => loser.next_expiry().map(|next| LogTime(next.0.saturating_add_signed(offset_micros))),
        };
        self.set_next_expiry(self.next_expiry().into_iter().chain(theirs).min());
        if takeover.merge {
            let (start, end) = layout::replica_span(takeover.loser);
            batch.delete_range(&start, &end);
            let kept = Frame { tablets: tablets.clone(), ..self.frame() }.pieces();
            let changing = [(self.name().group, Some(&kept)), (takeover.loser, None)];
            release(self.store(), batch, &loser.frame().pieces(), &changing)?;
            let merger = Merger { into: operation.coordinator, at: self.state().applied };
            batch.put(&layout::merged_record(takeover.loser), &super::machine::merged_record(loser.name(), merger));
        } else {
            let mut frame = loser.frame();
            frame.taken = parted.is_none().then_some(operation);
            frame.parted.retain(|parted| parted.operation != operation);
            batch.put(&layout::replica_record(takeover.loser, layout::ReplicaRecord::Frame), &frame.record());
        }
        Ok(Change { tablets, parted: None, born: None, ends: takeover.merge, taken: Some(operation) })
    }

    /// Lets go of pieces, while the machine keeps others and what is parted.
    fn release_but(&self, given_up: &TabletMap, kept: &TabletMap, batch: &mut S::Batch) -> Result<(), StoreError> {
        let frame = Frame { tablets: kept.clone(), ..self.frame() };
        release(self.store(), batch, given_up, &[(self.name().group, Some(&frame.pieces()))])
    }

    fn lose(
        &mut self,
        operation: OperationId,
        moving: &KeyRange,
        committed: Slot,
        beside: &Beside<'_, S>,
        batch: &mut S::Batch,
    ) -> Result<Change<S>, StoreError> {
        let (inside, outside) = self.tablets().cut(moving);
        self.set_idempotency_records(self.idempotency_records().wrapping_sub(half(self.idempotency_records())));
        // A gainer here that lags takes these over later; one that comes by a snapshot does not need them.
        let lags = beside.gainer.is_some_and(|applied| applied < committed) && self.taken() != Some(operation);
        if !lags {
            self.release_but(&inside, &outside, batch)?;
        }
        let parted = lags.then_some(Parted { operation, committed, tablets: inside });
        Ok(Change { tablets: outside, parted, born: None, ends: false, taken: None })
    }

    /// The gainers for which something is kept.
    pub(crate) fn parted_for(&self) -> Vec<GroupId> {
        self.parted().iter().map(|parted| parted.operation.coordinator).collect()
    }

    /// Whether something is kept for a gainer that has not taken it over. `applied` tells how far gainers on this node are.
    pub(crate) fn owes(&self, applied: impl Fn(GroupId) -> Option<Slot>) -> bool {
        self.parted()
            .iter()
            .any(|parted| applied(parted.operation.coordinator).is_some_and(|applied| applied < parted.committed))
    }

    /// What a gainer here was to take over and does not need any more: it is gone, or came by a snapshot.
    pub(crate) fn discard_parted(&mut self, gainer: GroupId, applied: Option<Slot>) -> Result<(), StoreError> {
        let needed = |parted: &Parted| {
            parted.operation.coordinator != gainer || applied.is_some_and(|applied| applied < parted.committed)
        };
        if self.parted().iter().all(needed) {
            return Ok(());
        }
        let mut frame = self.frame();
        let given_up = frame.pieces();
        frame.parted.retain(needed);
        let kept = frame.pieces();
        let mut batch = S::Batch::default();
        release(self.store(), &mut batch, &given_up, &[(self.name().group, Some(&kept))])?;
        batch.put(&layout::replica_record(self.name().group, layout::ReplicaRecord::Frame), &frame.record());
        self.store().write(batch)?;
        self.keep_parted(needed);
        Ok(())
    }

    /// The batch is written: memory follows.
    pub(super) fn reshaped(&mut self, change: Change<S>, beside: &mut Beside<'_, S>) {
        self.moved_to(change.tablets);
        self.push_parted(change.parted);
        beside.ended = change.ends;
        if let (Some(operation), Some(loser)) = (change.taken, beside.loser.as_deref_mut()) {
            let was_parted = loser.parted().iter().any(|parted| parted.operation == operation);
            loser.set_taken((!was_parted).then_some(operation));
            loser.keep_parted(|parted| parted.operation != operation);
        }
        beside.born = change.born;
    }
}
