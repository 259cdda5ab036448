//! What the log holds, in memory: the small records themselves, and of each accepted run of entries where it lies.

use super::LogError;
use super::directory::SegmentFile;
use bytes::{Bytes, BytesMut};
use scatter_core::codec::{Decode, Encode};
use scatter_core::codec_struct;
use scatter_core::durable::{HardState, NodeRecord, PeerRecord, Tombstone, Write};
use scatter_core::types::{GroupId, Incarnation, NodeId, ReplicaName, Slot};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Consecutive slots accepted by one write: 24 bytes for each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// The first slot that counts here; the write itself may begin lower.
    pub(super) first: u64,
    /// How many slots count.
    pub(super) count: u32,
    /// The segment with the write's frame.
    pub(super) segment: u32,
    /// Where the frame starts in it.
    pub(super) offset: u32,
    /// Bytes of the frame.
    pub(super) length: u32,
}

impl Run {
    /// The slot after the last.
    pub(super) const fn end(&self) -> u64 {
        self.first.saturating_add(self.count as u64)
    }

    /// The part of the run in `from..to`, if any.
    fn part(&self, from: u64, to: u64) -> Option<Self> {
        let (first, end) = (self.first.max(from), self.end().min(to));
        let count = u32::try_from(end.checked_sub(first)?).ok().filter(|count| *count > 0)?;
        Some(Self { first, count, ..*self })
    }
}

/// One live replica.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) name: ReplicaName,
    pub(super) inviter: Option<ReplicaName>,
    pub(super) hard: HardState,
    pub(super) truncated: Slot,
    /// Which record created it, and where in the file: entries accepted before that are a former self's.
    pub(super) born: (u64, u32),
    /// Rising, without overlap.
    pub(super) runs: VecDeque<Run>,
}

/// A segment that the log still needs.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: Arc<SegmentFile>,
    pub(super) extent: Extent,
    /// Bytes of the frames that some run points to.
    pub(super) live_bytes: u64,
}

/// What a segment must hold, as the checkpoint of a later segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Extent {
    pub(super) id: u32,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    /// Bytes from the start of the file to the end of the last record.
    pub(super) end: u32,
    /// The checksum of the last record.
    pub(super) chain: u32,
}

codec_struct!(Extent { id, first_sequence, last_sequence, end, chain });

/// A replica in a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CheckpointReplica {
    name: ReplicaName,
    inviter: Option<ReplicaName>,
    hard: HardState,
    truncated: Slot,
    born: (u64, u32),
}

codec_struct!(CheckpointReplica { name, inviter, hard, truncated, born });

/// Everything but the entries, as the first record of each segment holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Checkpoint {
    node: Option<NodeRecord>,
    peers: Vec<PeerRecord>,
    replicas: Vec<CheckpointReplica>,
    tombstones: Vec<Tombstone>,
    /// The older segments that are still needed.
    pub(super) segments: Vec<Extent>,
}

codec_struct!(Checkpoint { node, peers, replicas, tombstones, segments });

/// The state of the whole log.
#[derive(Default, Debug)]
pub(super) struct State {
    pub(super) node: Option<NodeRecord>,
    pub(super) peers: BTreeMap<NodeId, PeerRecord>,
    pub(super) replicas: BTreeMap<GroupId, Replica>,
    pub(super) tombstones: BTreeMap<GroupId, Tombstone>,
    pub(super) segments: BTreeMap<u32, Segment>,
    /// Up to where the newest segment's file holds what was appended: readers stop here.
    pub(super) written: (u32, u32),
}

/// Where the frame of a write lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) sequence: u64,
    pub(super) segment: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

impl State {
    /// The state that a checkpoint tells of, without segments and entries.
    pub(super) fn from_checkpoint(checkpoint: Checkpoint) -> Self {
        let replica = |from: CheckpointReplica| Replica {
            name: from.name,
            inviter: from.inviter,
            hard: from.hard,
            truncated: from.truncated,
            born: from.born,
            runs: VecDeque::new(),
        };
        Self {
            node: checkpoint.node,
            peers: checkpoint.peers.into_iter().map(|peer| (peer.node, peer)).collect(),
            replicas: checkpoint.replicas.into_iter().map(|from| (from.name.group, replica(from))).collect(),
            tombstones: checkpoint.tombstones.into_iter().map(|gone| (gone.replica.group, gone)).collect(),
            segments: BTreeMap::new(),
            written: (0, 0),
        }
    }

    /// The checkpoint for a segment begun at this moment, which keeps those older segments that hold live entries.
    pub(super) fn checkpoint(&self) -> Bytes {
        let checkpoint = Checkpoint {
            node: self.node.clone(),
            peers: self.peers.values().copied().collect(),
            replicas: self
                .replicas
                .values()
                .map(|replica| CheckpointReplica {
                    name: replica.name,
                    inviter: replica.inviter,
                    hard: replica.hard,
                    truncated: replica.truncated,
                    born: replica.born,
                })
                .collect(),
            tombstones: self.tombstones.values().cloned().collect(),
            segments: self.segments.values().filter(|old| old.live_bytes > 0).map(|old| old.extent).collect(),
        };
        let mut out = BytesMut::new();
        checkpoint.encode(&mut out);
        out.freeze()
    }

    /// Refuses a batch that speaks of a replica which is not there: to answer for such a write would be a lie.
    pub(super) fn check(&self, writes: &[Write]) -> Result<(), LogError> {
        // What this batch itself has changed so far: the group's live incarnation, or that there is none.
        let mut changed: Vec<(GroupId, Option<Incarnation>)> = Vec::new();
        let live = |changed: &[(GroupId, Option<Incarnation>)], group: &GroupId| match changed
            .iter()
            .rev()
            .find(|(other, _)| other == group)
        {
            Some((_, incarnation)) => *incarnation,
            None => self.replicas.get(group).map(|replica| replica.name.incarnation),
        };
        for write in writes {
            match write {
                Write::Node { .. } | Write::Peer { .. } => {}
                Write::Create { replica, .. } => changed.push((replica.group, Some(replica.incarnation))),
                Write::Tombstone { replica, .. } => {
                    if live(&changed, &replica.group).is_some_and(|incarnation| incarnation <= replica.incarnation) {
                        changed.push((replica.group, None));
                    }
                }
                Write::Hard { group, .. } | Write::Accept { group, .. } | Write::Truncate { group, .. } => {
                    if live(&changed, group).is_none() {
                        return Err(LogError::NoReplica { group: *group });
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes one write in, whose frame lies at `place`.
    pub(super) fn apply(&mut self, write: &Write, place: Place) {
        match write {
            Write::Node { record } => self.node = Some(record.clone()),
            Write::Peer { record } => {
                self.peers.insert(record.node, *record);
            }
            Write::Create { replica, after, inviter } => {
                self.drop_replica(replica.group);
                let born = Replica {
                    name: *replica,
                    inviter: *inviter,
                    hard: HardState::default(),
                    truncated: *after,
                    born: (place.sequence, place.offset),
                    runs: VecDeque::new(),
                };
                self.replicas.insert(replica.group, born);
            }
            Write::Hard { group, state } => {
                if let Some(replica) = self.replicas.get_mut(group) {
                    replica.hard = *state;
                }
            }
            Write::Accept { group, first, entries, .. } => self.accept(*group, *first, entries.len(), place),
            Write::Truncate { group, through } => self.truncate(*group, *through),
            Write::Tombstone { replica, removed_by, merged, configuration } => {
                if self.replicas.get(&replica.group).is_some_and(|live| live.name.incarnation <= replica.incarnation) {
                    self.drop_replica(replica.group);
                }
                let newer = |known: &Tombstone| known.replica.incarnation <= replica.incarnation;
                if self.tombstones.get(&replica.group).is_none_or(newer) {
                    let (replica, removed_by, merged) = (*replica, *removed_by, *merged);
                    let gone = Tombstone { replica, removed_by, merged, configuration: configuration.clone() };
                    self.tombstones.insert(replica.group, gone);
                }
            }
        }
    }

    /// Takes in the entries of a write in an older segment, of which the checkpoint has told all the rest.
    pub(super) fn apply_old(&mut self, write: &Write, place: Place) {
        if let Write::Accept { group, first, entries, .. } = write
            && self.replicas.get(group).is_some_and(|replica| replica.born < (place.sequence, place.offset))
        {
            self.accept(*group, *first, entries.len(), place);
        }
    }

    fn accept(&mut self, group: GroupId, first: Slot, count: usize, place: Place) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        let whole = Run {
            first: first.0,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            segment: place.segment,
            offset: place.offset,
            length: place.length,
        };
        let Some(run) = whole.part(replica.truncated.0.saturating_add(1), u64::MAX) else { return };
        // Nearly always the run follows all others; a search would look at memory that nobody has touched for long.
        let follows = replica.runs.back().is_none_or(|last| last.end() <= run.first);
        let after =
            if follows { replica.runs.len() } else { replica.runs.partition_point(|old| old.end() <= run.first) };
        if let Some(old) = replica.runs.get_mut(after).filter(|old| (old.first, old.count) == (run.first, run.count)) {
            // Written anew at the end of the log: everything around it stays as it is.
            discharge(&mut self.segments, old);
            charge(&mut self.segments, &run);
            *old = run;
        } else if after < replica.runs.len() {
            let covered = replica.runs.split_off(after);
            let mut above = Vec::new();
            for old in covered {
                discharge(&mut self.segments, &old);
                if let Some(left) = old.part(0, run.first) {
                    charge(&mut self.segments, &left);
                    replica.runs.push_back(left);
                }
                above.extend(old.part(run.end(), u64::MAX));
            }
            charge(&mut self.segments, &run);
            replica.runs.push_back(run);
            for right in above {
                charge(&mut self.segments, &right);
                replica.runs.push_back(right);
            }
        } else {
            charge(&mut self.segments, &run);
            replica.runs.push_back(run);
        }
    }

    fn truncate(&mut self, group: GroupId, through: Slot) {
        let Some(replica) = self.replicas.get_mut(&group) else { return };
        replica.truncated = replica.truncated.max(through);
        let keep_from = replica.truncated.0.saturating_add(1);
        while let Some(run) = replica.runs.front_mut() {
            if run.first >= keep_from {
                break;
            }
            if let Some(rest) = run.part(keep_from, u64::MAX) {
                *run = rest;
                break;
            }
            discharge(&mut self.segments, run);
            replica.runs.pop_front();
        }
    }

    fn drop_replica(&mut self, group: GroupId) {
        if let Some(replica) = self.replicas.remove(&group) {
            for run in &replica.runs {
                discharge(&mut self.segments, run);
            }
        }
    }

    /// The live run that holds `slot`.
    pub(super) fn run_at(&self, group: GroupId, slot: u64) -> Option<Run> {
        self.run_from(group, slot).filter(|run| run.first <= slot)
    }

    /// The first live run that holds or follows `slot`.
    pub(super) fn run_from(&self, group: GroupId, slot: u64) -> Option<Run> {
        let runs = &self.replicas.get(&group)?.runs;
        runs.get(runs.partition_point(|run| run.end() <= slot)).copied()
    }

    /// The live runs in a segment: their groups and first slots.
    pub(super) fn runs_in(&self, segment: u32) -> Vec<(GroupId, u64)> {
        let of = |(group, replica): (&GroupId, &Replica)| {
            let group = *group;
            let runs = replica.runs.iter().filter(|run| run.segment == segment);
            runs.map(|run| (group, run.first)).collect::<Vec<_>>()
        };
        self.replicas.iter().flat_map(of).collect()
    }

    /// Whether a run's bytes are in the file already.
    pub(super) fn is_written(&self, run: &Run) -> bool {
        run.segment < self.written.0 || (run.segment == self.written.0 && run.offset < self.written.1)
    }
}

fn charge(segments: &mut BTreeMap<u32, Segment>, run: &Run) {
    if let Some(segment) = segments.get_mut(&run.segment) {
        segment.live_bytes += u64::from(run.length);
    }
}

fn discharge(segments: &mut BTreeMap<u32, Segment>, run: &Run) {
    if let Some(segment) = segments.get_mut(&run.segment) {
        segment.live_bytes = segment.live_bytes.saturating_sub(u64::from(run.length));
    }
}

/// Reads a checkpoint back.
pub(super) fn decode_checkpoint(body: &[u8]) -> Option<Checkpoint> {
    Checkpoint::from_all(Bytes::copy_from_slice(body)).ok()
}
