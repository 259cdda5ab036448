//! The log against a model, through crashes, damage, full disks and recycling.

mod crash;
mod life;
mod model;

use super::{Log, LogError, LogSettings, SegmentLog};
use bytes::Bytes;
use model::Model;
use scatter_core::durable::{HardState, Merger, NodeRecord, PeerRecord, Recovered, Write};
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::types::{Ballot, GroupId, Incarnation, NodeId, ReplicaName, Slot, Version};
use std::path::Path;

/// Files so small that every test sees many of them.
fn small() -> LogSettings {
    LogSettings {
        segment_bytes: 8 << 10,
        first_segment_bytes: 2 << 10,
        reserve_bytes: 2 << 10,
        rewrite_step_bytes: 512,
        ..LogSettings::default()
    }
}

/// A directory in memory where there is one: crashes are played by copying files, so no real disk is needed.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn open(path: &Path) -> (SegmentLog, Recovered) {
    SegmentLog::recover(path, small()).expect("the log opens")
}

fn name(group: u64, incarnation: u64) -> ReplicaName {
    ReplicaName { group: GroupId(group), node: NodeId(1), incarnation: Incarnation(incarnation) }
}

fn create(group: u64, incarnation: u64, after: u64) -> Write {
    let inviter = incarnation.is_multiple_of(2).then(|| name(group, 1));
    Write::Create { replica: name(group, incarnation), after: Slot(after), inviter }
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1), incarnation: Incarnation(1) }
}

/// An entry whose body tells its slot and round, so that a mix-up shows.
fn entry(slot: u64, round: u64, length: usize) -> Entry {
    let body: Vec<u8> = format!("{slot}/{round} ").into_bytes().into_iter().cycle().take(length).collect();
    let clock = EntryClock { stamp: Version(slot), advance_micros: round };
    Entry { kind: EntryKind::Commands, clock, body: Bytes::from(body) }
}

fn accept(group: u64, round: u64, first: u64, count: u64, length: usize) -> Write {
    let entries = (first..first + count).map(|slot| entry(slot, round, length)).collect();
    Write::Accept { group: GroupId(group), ballot: ballot(round), first: Slot(first), entries }
}

fn hard(group: u64, round: u64, decided: u64) -> Write {
    let state = HardState { promised: ballot(round), decided: Slot(decided), led_round: 0 };
    Write::Hard { group: GroupId(group), state }
}

fn truncate(group: u64, through: u64) -> Write {
    Write::Truncate { group: GroupId(group), through: Slot(through) }
}

fn tombstone(group: u64, incarnation: u64) -> Write {
    // Those of every other incarnation were merged away.
    let merged = incarnation.is_multiple_of(2).then_some(Merger { into: GroupId(9), at: Slot(incarnation) });
    let removed_by = Incarnation(incarnation + 1);
    Write::Tombstone { replica: name(group, incarnation), removed_by, merged, configuration: None }
}

fn node(boot: u64) -> Write {
    let record = NodeRecord {
        node: NodeId(1),
        boot,
        nonces: vec![boot],
        cluster: None,
        binding: None,
        longest_lease_nanos: boot,
        given_up: false,
    };
    Write::Node { record }
}

fn peer(id: u64, boot: u64) -> Write {
    Write::Peer { record: PeerRecord { node: NodeId(id), boot, nonce: boot * 7, condemned: boot.is_multiple_of(2) } }
}

/// Appends to both, and syncs.
fn both(log: &mut SegmentLog, model: &mut Model, writes: &[Write]) {
    log.append(writes).expect("appended");
    model.apply(writes);
    log.sync().expect("synced");
    log.tidy().expect("tidied");
}

/// Copies the log as a crash would leave it.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
