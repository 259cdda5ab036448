//! Applying decided entries: one store batch for as many entries as are handed in together.
//!
//! ```text
//! command bytes --> well-formed? --> all positions owned? --> lane: new? --> version --> idempotency key: new?
//!     --> conditions --> writes --> idempotency record --> lane --> outcome
//! ```
//!
//! Everything here depends on replicated state and on the entry alone, so that equal slots mean equal states.

use super::idempotency;
use super::kv::Recent;
use super::lanes::Lanes;
use super::machine::Limits;
use super::tablets::Place;
use super::{Configuration, GroupState, Link, TabletMap};
use crate::codec::{Decode, Encode};
use crate::command::{Command, LaneUse, MAX_BATCH_OPERATIONS, MAX_IDEMPOTENCY_KEY_BYTES, Operation, Outcome};
use crate::entry::{Entry, EntryKind};
use crate::ops::transitions::Reshaped;
use crate::ops::{Begin, Decide, OperationId, Prepare, Recover, Resolve, Split};
use crate::planted::{self, Bug};
use crate::store::{Store, StoreError};
use crate::time::LogTime;
use crate::types::{FeatureLevel, Slot, Version};
use bytes::{Buf, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// No stamp of a leader's clock is taken beyond this (the year 148,000), so that versions can always go on rising.
const MAX_CLOCK_STAMP: Version = Version(1 << 62);

/// Buffers that one batch leaves to the next.
#[derive(Default, Debug)]
pub(super) struct Scratch {
    /// The store key of the located key's value.
    pub(super) key: Vec<u8>,
    /// Where the located key's value lies.
    pub(super) place: Place,
    /// A value record under construction.
    pub(super) record: Vec<u8>,
    /// What the last writes made of their keys. What this batch wrote the store does not show yet.
    pub(super) recent: Recent,
    /// What this batch made of idempotency records.
    pub(super) idempotency: idempotency::Changes,
    /// Encoded outcomes, for the fingerprint.
    outcomes: BytesMut,
}

impl Scratch {
    /// Makes ready for the next batch, once this one is in the store.
    pub(super) fn settle(&mut self, limits: &Limits) {
        self.recent.rotate(limits);
        self.idempotency.clear();
    }
}

/// A machine's parts while entries are applied to them, and the batch that will make them durable.
pub(super) struct Applying<'a, S: Store> {
    pub(super) store: &'a S,
    pub(super) limits: &'a Limits,
    pub(super) tablets: &'a TabletMap,
    pub(super) state: &'a mut GroupState,
    pub(super) idempotency_records: &'a mut u64,
    pub(super) idempotency_front: &'a mut (LogTime, Version),
    pub(super) fingerprint: &'a mut u64,
    pub(super) lanes: &'a mut Lanes,
    pub(super) scratch: &'a mut Scratch,
    pub(super) batch: S::Batch,
    /// The stamp of the entry being applied.
    pub(super) clock: Version,
    /// The earliest deadline set.
    pub(super) earliest: Option<LogTime>,
    /// Whether something was expired, so that the earliest deadline of all must be looked up.
    pub(super) expired: bool,
    /// The state before its first structural change.
    pub(super) before: Option<GroupState>,
    /// The configuration last applied.
    pub(super) configuration: Option<Configuration>,
    /// What the last entry did that concerns other machines.
    pub(super) reshaped: Option<Reshaped>,
}

impl<S: Store> Applying<'_, S> {
    /// Applies the entry at `slot`; one outcome for each command, in order.
    pub(super) fn entry(&mut self, slot: Slot, entry: &Entry) -> Result<Vec<Outcome>, StoreError> {
        assert_eq!(slot, self.state.applied.next(), "entries are applied in the order of their slots, without a gap");
        self.state.log_time = self.state.log_time.after_micros(entry.clock.advance_micros);
        self.clock = entry.clock.stamp.min(MAX_CLOCK_STAMP);
        let mut outcomes = Vec::new();
        match entry.kind {
            EntryKind::Noop => {}
            EntryKind::Commands => outcomes = self.commands(&entry.body)?,
            EntryKind::Configuration => self.configure(entry.body.clone()),
            EntryKind::Expire => self.expire(entry.body.clone())?,
            EntryKind::FeatureLevel => self.raise_feature_level(entry.body.clone()),
            EntryKind::Links => self.relink(entry.body.clone()),
            EntryKind::Split
            | EntryKind::Begin
            | EntryKind::Prepare
            | EntryKind::Decide
            | EntryKind::Resolve
            | EntryKind::Settle
            | EntryKind::Recover => self.operate_group(slot, entry),
            EntryKind::Correct => self.correct(entry.body.clone()),
        }
        self.state.applied = slot;
        self.absorb(entry, &outcomes);
        Ok(outcomes)
    }

    /// The next version: above every earlier one of this group, and not behind the leader's clock.
    pub(super) fn next_version(&mut self) -> Version {
        let next = if planted::on(Bug::SharedVersion) { self.state.stamp } else { self.state.stamp.next() };
        self.state.stamp = next.max(self.clock);
        self.state.stamp
    }

    fn commands(&mut self, body: &Bytes) -> Result<Vec<Outcome>, StoreError> {
        let Some(count) = count_commands(body) else { return Ok(vec![Outcome::Malformed]) };
        let mut outcomes = Vec::with_capacity(count);
        let mut at = 4;
        for _ in 0..count {
            let start = at + 4;
            at = start + (&body[at..]).get_u32_le() as usize;
            let outcome = self.command(body.slice(start..at))?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    fn command(&mut self, bytes: Bytes) -> Result<Outcome, StoreError> {
        let Ok(command) = Command::from_all(bytes) else { return Ok(Outcome::Malformed) };
        if !is_well_formed(&command) {
            return Ok(Outcome::Malformed);
        }
        if !self.owns(&command.operation)? {
            return Ok(Outcome::NotOwner);
        }
        let Some(lane) = &command.lane else {
            let version = self.next_version();
            return self.operate_once(&command, version);
        };
        if let Some(answer) = self.answer_without_applying(lane) {
            return Ok(answer);
        }
        // From here on the group's stamp is above the client's: should the lane be forgotten, so is this stamp.
        self.state.stamp = self.state.stamp.max(lane.stamp);
        let version = self.next_version();
        let outcome = self.operate_once(&command, version)?;
        let forgotten = self.lanes.record(lane, self.state.stamp, &outcome, self.limits);
        if let Some(forgotten) = forgotten
            && !planted::on(Bug::LaneEvictedSilently)
        {
            self.state.forgotten = self.state.forgotten.max(forgotten);
        }
        Ok(outcome)
    }

    /// What a repeat or an attempt that cannot be told from a repeat hears; `None` if the operation is new.
    fn answer_without_applying(&self, attempt: &LaneUse) -> Option<Outcome> {
        let current = self.state.stamp.max(self.clock);
        let acceptable = current.max(self.state.forgotten.next());
        match self.lanes.get((attempt.session, attempt.lane)) {
            Some(known) => {
                if attempt.sequence == known.sequence {
                    return Some(known.outcome.clone());
                }
                if attempt.sequence < known.sequence && !planted::on(Bug::LowerSequenceApplied) {
                    return Some(Outcome::Unknown);
                }
            }
            None => {
                if attempt.stamp <= self.state.forgotten {
                    return Some(Outcome::Forgotten { stamp: acceptable });
                }
            }
        }
        if attempt.stamp.0 > current.0.saturating_add(self.limits.max_stamp_ahead_micros) {
            return Some(Outcome::StampAhead { stamp: acceptable });
        }
        None
    }

    fn configure(&mut self, body: Bytes) {
        let Ok(configuration) = Configuration::from_all(body) else { return };
        if configuration.version != self.state.configuration.version.next() {
            return;
        }
        self.keep_before();
        self.state.configuration = configuration.clone();
        self.configuration = Some(configuration);
    }

    fn raise_feature_level(&mut self, body: Bytes) {
        let Ok(level) = FeatureLevel::from_all(body) else { return };
        if level > self.state.feature_level {
            self.keep_before();
            self.state.feature_level = level;
        }
    }

    fn relink(&mut self, body: Bytes) {
        let Ok(links) = Vec::<Link>::from_all(body) else { return };
        self.keep_before();
        self.state.relink(&links);
    }

    /// Applies an entry of a group operation: what it does to the state. What it does to data is up to whoever applies it.
    fn operate_group(&mut self, slot: Slot, entry: &Entry) {
        self.keep_before();
        let body = entry.body.clone();
        match entry.kind {
            EntryKind::Split => {
                if let Ok(split) = Split::from_all(body) {
                    self.reshaped = self.state.split(&split, slot).map(|child| Reshaped::Born(Box::new(child)));
                }
            }
            EntryKind::Begin => {
                if let Ok(begin) = Begin::from_all(body) {
                    self.state.begin(&begin, slot);
                }
            }
            EntryKind::Prepare => {
                if let Ok(prepare) = Prepare::from_all(body) {
                    let (records, lanes) = (*self.idempotency_records, &*self.lanes);
                    self.state.prepare(&prepare, slot, records, || lanes.encode_all());
                }
            }
            EntryKind::Decide => {
                if let Ok(decide) = Decide::from_all(body) {
                    self.reshaped = self.state.decide(&decide, slot);
                }
            }
            EntryKind::Resolve => {
                if let Ok(resolve) = Resolve::from_all(body) {
                    self.reshaped = self.state.resolve(&resolve, slot);
                }
            }
            EntryKind::Recover => {
                if let Ok(recover) = Recover::from_all(body) {
                    let child = self.state.recover(&recover, slot);
                    self.reshaped = child.map(|child| Reshaped::Recovered(Box::new(child)));
                }
            }
            EntryKind::Settle => {
                if let Ok(operation) = OperationId::from_all(body) {
                    self.state.settle(operation);
                }
            }
            EntryKind::Noop
            | EntryKind::Commands
            | EntryKind::Configuration
            | EntryKind::Expire
            | EntryKind::FeatureLevel
            | EntryKind::Links
            | EntryKind::Correct => {}
        }
    }

    /// Before the first structural change of a batch: the frame will be written again, or all be undone.
    pub(super) fn keep_before(&mut self) {
        if self.before.is_none() {
            self.before = Some(self.state.clone());
        }
    }

    /// Folds an entry and what came of it into the fingerprint: the same whichever entries share a batch.
    fn absorb(&mut self, entry: &Entry, outcomes: &[Outcome]) {
        let out = &mut self.scratch.outcomes;
        out.clear();
        entry.kind.encode(out);
        entry.clock.encode(out);
        let state = &*self.state;
        for number in [
            state.applied.0,
            state.stamp.0,
            state.forgotten.0,
            state.log_time.0,
            state.keys,
            state.bytes,
            state.configuration.version.0,
            state.range_version.0,
            state.operations.0,
            state.outbox.len() as u64,
            *self.idempotency_records,
            self.lanes.len() as u64,
        ] {
            number.encode(out);
        }
        for outcome in outcomes {
            outcome.encode(out);
        }
        *self.fingerprint = xxh3_64_with_seed(out, xxh3_64_with_seed(&entry.body, *self.fingerprint));
    }
}

/// How many commands the body of a `Commands` entry holds, if it is a list of byte strings and nothing else.
fn count_commands(body: &[u8]) -> Option<usize> {
    let mut rest = body;
    let count = rest.try_get_u32_le().ok()? as usize;
    for _ in 0..count {
        let length = rest.try_get_u32_le().ok()? as usize;
        rest = rest.get(length..)?;
    }
    rest.is_empty().then_some(count)
}

/// What decodes but may not be asked for is refused like what does not decode.
fn is_well_formed(command: &Command) -> bool {
    if command.lane.is_some_and(|lane| lane.sequence == 0) {
        return false;
    }
    if let Operation::Batch { conditions, writes } = &command.operation
        && (conditions.len() > MAX_BATCH_OPERATIONS || writes.len() > MAX_BATCH_OPERATIONS)
    {
        return false;
    }
    let Some(idempotency) = &command.idempotency else { return true };
    let keys = command.operation.keys();
    idempotency.key.len() <= MAX_IDEMPOTENCY_KEY_BYTES
        && !keys.is_empty()
        && keys.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn commands_are_counted_only_in_a_whole_list(list: Vec<Vec<u8>>, cut in 0usize..64) {
            let list: Vec<Bytes> = list.into_iter().map(Bytes::from).collect();
            let body = list.to_bytes();
            prop_assert_eq!(count_commands(&body), Some(list.len()));
            if cut > 0 && cut <= body.len() {
                prop_assert_eq!(count_commands(&body[..body.len() - cut]), None);
            }
        }
    }

    #[test]
    fn a_hostile_count_costs_nothing() {
        assert_eq!(count_commands(&[0xff; 4]), None);
        assert_eq!(count_commands(&[0xff; 64]), None);
        assert_eq!(count_commands(&[]), None);
    }
}
