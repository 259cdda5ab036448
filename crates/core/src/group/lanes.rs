//! Exactly once: what the group remembers of each client lane.
//!
//! A lane has one operation open at a time, with a rising sequence; the group keeps the last sequence and its outcome. All
//! lanes live in memory. On disk they are a log of changes, one record for each batch of entries, in the same store batch
//! as the data. Now and then a *sweep* writes every lane once more, a few with each record, after which the records before
//! its first are deleted: the log stays a small multiple of the lanes, and no batch ever pays for all of them.

use super::layout;
use super::machine::Limits;
use crate::codec::{Decode, DecodeError, Encode};
use crate::codec_struct;
use crate::command::{LaneUse, Outcome};
use crate::planted::{self, Bug};
use crate::store::{Batch, Read, StoreError, Visit};
use crate::types::{GroupId, SessionId, Slot, Version};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};

/// Version byte of a record in the log of lanes.
const FORMAT: u8 = 1;
/// What a lane takes in memory beside its outcome, near enough for limits.
const LANE_BYTES: usize = 128;
/// A sweep adds this many lanes to a record, and one more for each change in it.
const SWEEP_STEP: usize = 32;
/// How many outdated records one batch deletes at most.
const DELETE_STEP: usize = 64;
/// No lane.
const NONE: u32 = u32::MAX;

/// Whose lane, and which.
pub(super) type LaneKey = (SessionId, u32);

/// What the group remembers of one lane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    /// The last operation applied.
    pub(super) sequence: u64,
    /// The stamp of the group right after it: above the client's own.
    pub(super) stamp: Version,
    /// What became of it.
    pub(super) outcome: Outcome,
}

codec_struct!(Lane { key, sequence, stamp, outcome });

impl Lane {
    fn weight(&self) -> usize {
        let heap = if let Outcome::BatchWritten { versions } = &self.outcome { versions.len() * 8 } else { 0 };
        LANE_BYTES + heap
    }
}

/// One change of the lanes, as the log has it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    Set(Lane),
    Remove(LaneKey),
}

impl Decode for Change {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        match u8::decode(from)? {
            1 => Lane::decode(from).map(Self::Set),
            2 => LaneKey::decode(from).map(Self::Remove),
            tag => Err(DecodeError::Tag { what: "lane change", tag: u64::from(tag) }),
        }
    }
}

/// A lane in the list from the least to the most recently used.
#[derive(Debug)]
struct Node {
    lane: Lane,
    older: u32,
    newer: u32,
    live: bool,
}

/// A sweep under way.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    /// The slot of its first record.
    first: Slot,
    /// The next node to write.
    next: usize,
    /// How many changes the log held before it.
    before: usize,
}

/// Every lane of a group.
#[derive(Debug)]
pub(super) struct Lanes {
    index: BTreeMap<LaneKey, u32>,
    nodes: Vec<Node>,
    free: Vec<u32>,
    oldest: u32,
    newest: u32,
    bytes: usize,
    /// Changes since the last record, encoded.
    unsaved: BytesMut,
    unsaved_count: usize,
    /// The records on disk, oldest first.
    records: VecDeque<(Slot, u32)>,
    /// How many changes those hold.
    recorded: usize,
    /// Records below this slot are outdated.
    outdated: Slot,
    sweep: Option<Sweep>,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            index: BTreeMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            oldest: NONE,
            newest: NONE,
            bytes: 0,
            unsaved: BytesMut::new(),
            unsaved_count: 0,
            records: VecDeque::new(),
            recorded: 0,
            outdated: Slot(0),
            sweep: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn get(&self, key: LaneKey) -> Option<&Lane> {
        self.index.get(&key).map(|at| &self.nodes[*at as usize].lane)
    }

    /// Every lane, by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.index.values().map(|at| &self.nodes[*at as usize].lane)
    }

    /// The lanes after `cursor`, by key.
    pub(super) fn after(&self, cursor: Option<LaneKey>) -> impl Iterator<Item = &Lane> {
        let from = cursor.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.index.range((from, std::ops::Bound::Unbounded)).map(|(_, at)| &self.nodes[*at as usize].lane)
    }

    /// Remembers the operation just applied, as the most recent of all. Returns the highest stamp of the lanes that had to
    /// make room, if any: the group has *forgotten* up to there.
    pub(super) fn record(
        &mut self,
        lane: &LaneUse,
        stamp: Version,
        outcome: &Outcome,
        limits: &Limits,
    ) -> Option<Version> {
        let lane = Lane { key: (lane.session, lane.lane), sequence: lane.sequence, stamp, outcome: outcome.clone() };
        put_set(&lane, &mut self.unsaved);
        self.unsaved_count += 1;
        self.set(lane);
        self.evict(limits)
    }

    /// Makes room, if there are too many.
    fn evict(&mut self, limits: &Limits) -> Option<Version> {
        let mut forgotten = None;
        while self.index.len() > limits.max_lanes.max(1) || self.bytes > limits.max_lane_bytes {
            // The lane just used stays, whatever the limits: its client has not heard the outcome.
            if self.oldest == self.newest {
                break;
            }
            let lane = &self.nodes[self.oldest as usize].lane;
            let (key, stamp) = (lane.key, lane.stamp);
            forgotten = forgotten.max(Some(stamp));
            self.unsaved.put_u8(2);
            key.encode(&mut self.unsaved);
            self.unsaved_count += 1;
            self.remove(key);
        }
        forgotten
    }

    /// Writes the changes since the last call into `batch`, if there are any, as the record of `slot`.
    pub(super) fn save(&mut self, batch: &mut impl Batch, group: GroupId, slot: Slot, limits: &Limits) {
        if self.unsaved_count == 0 {
            return;
        }
        if self.sweep.is_none() && self.recorded > self.len() * 4 + limits.lane_log_slack {
            self.sweep = Some(Sweep { first: slot, next: 0, before: self.recorded });
        }
        if let Some(sweep) = &mut self.sweep {
            let end = self.nodes.len().min(sweep.next + SWEEP_STEP + self.unsaved_count);
            for node in self.nodes[sweep.next..end].iter().filter(|node| node.live) {
                put_set(&node.lane, &mut self.unsaved);
                self.unsaved_count += 1;
            }
            sweep.next = end;
        }
        let mut record = BytesMut::with_capacity(self.unsaved.len() + 1);
        record.put_u8(FORMAT);
        record.put_slice(&self.unsaved);
        if !planted::on(Bug::LanesNotCheckpointed) {
            batch.put(&layout::lanes_record(group, slot, 0), &record);
        }
        self.records.push_back((slot, 0));
        self.recorded += self.unsaved_count;
        self.unsaved.clear();
        self.unsaved_count = 0;
        if let Some(sweep) = self.sweep.take_if(|sweep| sweep.next == self.nodes.len()) {
            // Every lane was written at or after the sweep's first record, or removed by a record after that.
            self.outdated = sweep.first;
            self.recorded -= sweep.before;
        }
        for _ in 0..DELETE_STEP {
            match self.records.front() {
                Some((slot, part)) if *slot < self.outdated => {
                    batch.delete(&layout::lanes_record(group, *slot, *part));
                    self.records.pop_front();
                }
                Some(_) | None => break,
            }
        }
    }

    /// Reads the lanes back from their log.
    pub(super) fn load(read: &impl Read, group: GroupId) -> Result<Self, StoreError> {
        let mut lanes = Self::new();
        let mut failed = None;
        let (start, end) = layout::lanes_span(group);
        let mut states = BTreeMap::new();
        read.scan(&start, &end, &mut |key, value| {
            let taken = layout::parse_lanes_record(key)
                .ok_or(DecodeError::Invalid("a key of lanes"))
                .and_then(|record| Ok((record, replay(&mut states, Bytes::copy_from_slice(value))?)));
            match taken {
                Ok((record, count)) => {
                    lanes.records.push_back(record);
                    lanes.recorded += count;
                    Visit::Continue
                }
                Err(error) => {
                    failed = Some(error);
                    Visit::Stop
                }
            }
        })?;
        match failed {
            Some(error) => Err(layout::undecodable("lanes")(error)),
            None => Ok(lanes.filled(states)),
        }
    }

    /// Reads lanes from the parts of a snapshot, writing them into `batch` as the log of `slot`.
    pub(super) fn adopt(
        parts: Vec<Bytes>,
        batch: &mut impl Batch,
        group: GroupId,
        slot: Slot,
    ) -> Result<Self, DecodeError> {
        let mut lanes = Self::new();
        let mut states = BTreeMap::new();
        for (part, bytes) in (0u32..).zip(parts) {
            batch.put(&layout::lanes_record(group, slot, part), &bytes);
            lanes.recorded += replay(&mut states, bytes)?;
            lanes.records.push_back((slot, part));
        }
        Ok(lanes.filled(states))
    }

    /// All lanes, one after the other: what [`Lanes::gain`] reads.
    pub(super) fn encode_all(&self) -> Bytes {
        let mut out = BytesMut::new();
        for lane in self.iter() {
            lane.encode(&mut out);
        }
        out.freeze()
    }

    /// The same lanes for another group, written into `batch` as the log of `slot`.
    pub(super) fn copy(&self, batch: &mut impl Batch, group: GroupId, slot: Slot) -> Self {
        let mut record = begin_record();
        let mut count = 0;
        let mut copy = Self::new();
        for lane in self.by_use() {
            append(lane, &mut record);
            count += 1;
            copy.set(lane.clone());
        }
        if count > 0 {
            batch.put(&layout::lanes_record(group, slot, 0), &record);
            copy.records.push_back((slot, 0));
            copy.recorded = count;
        }
        copy
    }

    /// Takes in the lanes of another group: of a lane that both know, what has the higher sequence. Returns the highest stamp of
    /// those that had to make room. Memory only: the next [`Lanes::save`] writes them.
    pub(super) fn gain(&mut self, mut encoded: Bytes, limits: &Limits) -> Result<Option<Version>, DecodeError> {
        let mut all: BTreeMap<LaneKey, Lane> = self.iter().map(|lane| (lane.key, lane.clone())).collect();
        while encoded.has_remaining() {
            let lane = Lane::decode(&mut encoded)?;
            let newer = all.get(&lane.key).is_none_or(|known| known.sequence < lane.sequence);
            if newer {
                put_set(&lane, &mut self.unsaved);
                self.unsaved_count += 1;
                all.insert(lane.key, lane);
            }
        }
        // Their use is told by their stamps, which the two groups gave by clocks of their own; all replicas agree on them.
        let (unsaved, unsaved_count) = (std::mem::take(&mut self.unsaved), self.unsaved_count);
        let (records, recorded, outdated) = (std::mem::take(&mut self.records), self.recorded, self.outdated);
        let filled = Self::new().filled(all);
        *self = Self { unsaved, unsaved_count, records, recorded, outdated, sweep: None, ..filled };
        Ok(self.evict(limits))
    }

    /// The lanes from the least to the most recently used.
    fn by_use(&self) -> impl Iterator<Item = &Lane> {
        let first = (self.oldest != NONE).then_some(self.oldest);
        let next = |at: &u32| {
            let newer = self.nodes[*at as usize].newer;
            (newer != NONE).then_some(newer)
        };
        std::iter::successors(first, next).map(|at| &self.nodes[at as usize].lane)
    }

    /// Orders lanes by their use: stamps rise with every operation, so their order is the order of use.
    fn filled(mut self, states: BTreeMap<LaneKey, Lane>) -> Self {
        let mut states: Vec<Lane> = states.into_values().collect();
        states.sort_by_key(|lane| lane.stamp);
        for lane in states {
            self.set(lane);
        }
        self
    }

    /// Puts a lane at the end of most recent use.
    fn set(&mut self, lane: Lane) {
        self.bytes += lane.weight();
        let at = match self.index.get(&lane.key) {
            Some(at) => {
                let at = *at;
                self.unlink(at);
                let node = &mut self.nodes[at as usize];
                self.bytes -= node.lane.weight();
                node.lane = lane;
                at
            }
            None => self.insert(lane),
        };
        self.nodes[at as usize].older = self.newest;
        self.nodes[at as usize].newer = NONE;
        match self.newest {
            NONE => self.oldest = at,
            newest => self.nodes[newest as usize].newer = at,
        }
        self.newest = at;
    }

    fn insert(&mut self, lane: Lane) -> u32 {
        let key = lane.key;
        let node = Node { lane, older: NONE, newer: NONE, live: true };
        let at = match self.free.pop() {
            Some(at) => {
                self.nodes[at as usize] = node;
                at
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len() - 1).expect("lanes are limited far below 2^32")
            }
        };
        self.index.insert(key, at);
        at
    }

    fn remove(&mut self, key: LaneKey) {
        let Some(at) = self.index.remove(&key) else { return };
        self.unlink(at);
        let node = &mut self.nodes[at as usize];
        node.live = false;
        self.bytes -= node.lane.weight();
        self.free.push(at);
    }

    fn unlink(&mut self, at: u32) {
        let Node { older, newer, .. } = self.nodes[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.nodes[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.nodes[newer as usize].older = older,
        }
    }
}

/// Appends the change that sets a lane, as a record has it.
fn put_set(lane: &Lane, out: &mut BytesMut) {
    out.put_u8(1);
    lane.encode(out);
}

/// Begins a record that lanes can be appended to with [`append`]; the form in which lanes travel, too.
pub(super) fn begin_record() -> BytesMut {
    let mut out = BytesMut::with_capacity(4096);
    out.put_u8(FORMAT);
    out
}

/// Appends a lane to a record.
pub(super) fn append(lane: &Lane, out: &mut BytesMut) {
    put_set(lane, out);
}

/// Applies one record; tells how many changes it holds.
fn replay(lanes: &mut BTreeMap<LaneKey, Lane>, mut record: Bytes) -> Result<usize, DecodeError> {
    match u8::decode(&mut record)? {
        FORMAT => {}
        tag => return Err(DecodeError::Tag { what: "record of lanes", tag: u64::from(tag) }),
    }
    let mut count = 0;
    while record.has_remaining() {
        match Change::decode(&mut record)? {
            Change::Set(lane) => lanes.insert(lane.key, lane),
            Change::Remove(key) => lanes.remove(&key),
        };
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::MAX_BATCH_OPERATIONS;
    use crate::entry::MAX_ENTRY_BYTES;
    use crate::store::Store;
    use crate::store::map::{MapBatch, MapStore};
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId(9);

    fn attempt(session: u8, sequence: u64) -> LaneUse {
        LaneUse { session: SessionId(session.into()), lane: 0, sequence, stamp: Version(0) }
    }

    fn limits(max_lanes: usize, lane_log_slack: usize) -> Limits {
        Limits { max_lanes, lane_log_slack, ..Limits::default() }
    }

    fn order(lanes: &Lanes) -> Vec<Lane> {
        let mut order = Vec::new();
        let mut at = lanes.oldest;
        while at != NONE {
            order.push(lanes.nodes[at as usize].lane.clone());
            at = lanes.nodes[at as usize].newer;
        }
        order
    }

    #[test]
    fn the_least_recently_used_makes_room_and_is_told() {
        let mut lanes = Lanes::new();
        let limits = limits(2, 0);
        assert_eq!(lanes.record(&attempt(1, 1), Version(10), &Outcome::NotFound, &limits), None);
        assert_eq!(lanes.record(&attempt(2, 1), Version(11), &Outcome::NotFound, &limits), None);
        assert_eq!(lanes.record(&attempt(1, 2), Version(12), &Outcome::NotFound, &limits), None);
        assert_eq!(lanes.record(&attempt(3, 1), Version(13), &Outcome::NotFound, &limits), Some(Version(11)));
        assert!(lanes.get((SessionId(2), 0)).is_none());
        assert_eq!(lanes.get((SessionId(1), 0)).unwrap().sequence, 2);
    }

    /// A loser's lanes travel in one entry, and nobody else bounds what they take there.
    #[test]
    fn as_many_lanes_as_there_may_be_fit_an_entry() {
        let limits = Limits::default();
        for versions in [0, 1, MAX_BATCH_OPERATIONS] {
            let outcome = Outcome::BatchWritten { versions: vec![Version(1); versions] };
            let mut lanes = Lanes::new();
            let mut forgotten = None;
            for number in 1.. {
                let lane = LaneUse { session: SessionId(7), lane: number, sequence: 1, stamp: Version(1) };
                forgotten = forgotten.or(lanes.record(&lane, Version(number.into()), &outcome, &limits));
                if forgotten.is_some() {
                    break;
                }
            }
            let bytes = lanes.encode_all().len();
            assert!(bytes < MAX_ENTRY_BYTES - (1 << 20), "{} lanes take {bytes} bytes", lanes.len());
        }
    }

    #[test]
    fn large_outcomes_count_against_the_limit_of_bytes() {
        let mut lanes = Lanes::new();
        let limits = Limits { max_lane_bytes: 3 * LANE_BYTES, ..Limits::default() };
        let large = Outcome::BatchWritten { versions: vec![Version(1); 128] };
        lanes.record(&attempt(1, 1), Version(1), &Outcome::NotFound, &limits);
        assert_eq!(lanes.record(&attempt(2, 1), Version(2), &large, &limits), Some(Version(1)));
        // The one just used stays though it alone is over the limit.
        assert_eq!(lanes.len(), 1);
        assert_eq!(lanes.record(&attempt(3, 1), Version(3), &Outcome::NotFound, &limits), Some(Version(2)));
        assert_eq!(lanes.bytes, LANE_BYTES);
    }

    #[test]
    fn the_log_stays_a_small_multiple_of_the_lanes() {
        let store = MapStore::new();
        let mut lanes = Lanes::new();
        let limits = limits(100, 50);
        let mut most = 0;
        for slot in 1..2000u64 {
            lanes.record(&attempt((slot % 100) as u8, slot), Version(slot), &Outcome::NotFound, &limits);
            let mut batch = MapBatch::default();
            lanes.save(&mut batch, GROUP, Slot(slot), &limits);
            store.write(batch).unwrap();
            most = most.max(store.len());
            assert_eq!(store.len(), lanes.records.len());
            assert_eq!(order(&Lanes::load(&store, GROUP).unwrap()), order(&lanes));
        }
        assert!(most < 1000, "{most} records for 100 lanes");
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let store = MapStore::new();
        let mut batch = MapBatch::default();
        batch.put(&layout::lanes_record(GROUP, Slot(1), 0), &[FORMAT, 1, 2, 3]);
        store.write(batch).unwrap();
        assert!(matches!(Lanes::load(&store, GROUP), Err(StoreError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn read_back_they_are_the_same(
            uses in proptest::collection::vec((0u8..20, any::<bool>()), 1..300),
            max_lanes in 1usize..20,
            slack in 0usize..30,
        ) {
            let store = MapStore::new();
            let limits = limits(max_lanes, slack);
            let mut lanes = Lanes::new();
            for (slot, (session, save)) in (1u64..).zip(uses) {
                lanes.record(&attempt(session, slot), Version(slot), &Outcome::NotFound, &limits);
                if save {
                    let mut batch = MapBatch::default();
                    lanes.save(&mut batch, GROUP, Slot(slot), &limits);
                    store.write(batch).unwrap();
                    let loaded = Lanes::load(&store, GROUP).unwrap();
                    prop_assert_eq!(order(&loaded), order(&lanes));
                    prop_assert_eq!(loaded.bytes, lanes.bytes);
                    prop_assert!(loaded.recorded >= lanes.len());
                    if slot % 7 == 0 { lanes = loaded; }
                }
            }
        }
    }
}
