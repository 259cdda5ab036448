//! Segments over a long life: recycling, emptying, full disks, readers, and who may open the log.

use super::super::Space;
use super::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[test]
fn segments_are_recycled_and_the_log_stays_small() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0), node(1)]);
    for slot in 1..2000_u64 {
        both(&mut log, &mut model, &[accept(1, 1, slot, 1, 200), truncate(1, slot.saturating_sub(10))]);
    }
    assert!(log.last_id > 40, "{} segments begun", log.last_id);
    assert!(log.disk_bytes() <= 6 * small().segment_bytes, "{} bytes", log.disk_bytes());
    drop(log);
    assert_eq!(open(directory.path()).1, model.recovered());
}

#[test]
fn an_idle_group_pins_nothing() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0), create(2, 1, 0)]);
    both(&mut log, &mut model, &[accept(2, 3, 1, 4, 50)]);
    both(&mut log, &mut model, &[accept(2, 4, 3, 1, 50)]);
    for slot in 1..2000_u64 {
        both(&mut log, &mut model, &[accept(1, 1, slot, 1, 200), truncate(1, slot.saturating_sub(10))]);
    }
    let oldest = *log.state.lock().segments.keys().next().unwrap();
    assert!(oldest + 10 > log.last_id, "segment {oldest} of {} is still needed", log.last_id);
    let read = log.reader().read(GroupId(2), Slot(1), usize::MAX).unwrap();
    assert_eq!(read, model.recovered().replicas[1].entries);
    drop(log);
    assert_eq!(open(directory.path()).1, model.recovered());
}

#[test]
fn a_group_that_keeps_much_pins_only_its_own_segments() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0), create(2, 1, 0)]);
    for slot in 1..100 {
        both(&mut log, &mut model, &[accept(2, 3, slot, 1, 200)]);
    }
    for slot in 1..2000_u64 {
        both(&mut log, &mut model, &[accept(1, 1, slot, 1, 200), truncate(1, slot.saturating_sub(10))]);
    }
    assert!(log.disk_bytes() <= 12 * small().segment_bytes, "{} bytes", log.disk_bytes());
    drop(log);
    assert_eq!(open(directory.path()).1, model.recovered());
}

#[test]
fn a_replica_that_comes_back_does_not_find_its_former_entries() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    // Group 2 keeps the first segment alive; what group 1 once wrote there stays readable in it.
    both(&mut log, &mut model, &[create(1, 1, 0), create(2, 1, 0), accept(2, 1, 1, 1, 900), accept(1, 1, 1, 5, 10)]);
    for slot in 1..400_u64 {
        both(&mut log, &mut model, &[accept(2, 1, slot + 1, 1, 200), truncate(1, 0)]);
        if slot == 200 {
            both(&mut log, &mut model, &[tombstone(1, 1)]);
            both(&mut log, &mut model, &[create(1, 2, 0), accept(1, 9, 3, 1, 10)]);
        }
    }
    drop(log);
    assert_eq!(open(directory.path()).1, model.recovered());
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0)]);
    both(&mut log, &mut model, &[accept(1, 1, 1, 2, 100_000)]);
    both(&mut log, &mut model, &[accept(1, 1, 3, 1, 10)]);
    drop(log);
    assert_eq!(open(directory.path()).1, model.recovered());
}

#[test]
fn a_full_disk_refuses_cleanly_and_recovers_by_truncation() {
    let directory = scratch();
    let settings = LogSettings { most_bytes: 24 << 10, ..small() };
    let (mut log, _) = SegmentLog::recover(directory.path(), settings.clone()).unwrap();
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0)]);
    let mut slot = 1;
    let refused = loop {
        let writes = [accept(1, 1, slot, 1, 200)];
        match log.append(&writes) {
            Ok(()) => model.apply(&writes),
            Err(error) => break error,
        }
        log.sync().unwrap();
        log.tidy().unwrap();
        slot += 1;
        assert!(slot < 1000, "never full");
    };
    assert!(matches!(refused, LogError::NoSpace), "{refused}");
    assert!(slot > 30, "refused at {slot}");
    assert!(log.space() < Space::Enough);
    // Nothing of the refused batch is there, also after a restart on the full disk.
    drop(log);
    let (mut log, recovered) = SegmentLog::recover(directory.path(), settings.clone()).unwrap();
    assert_eq!(recovered, model.recovered());
    // What frees space goes through, and then everything does.
    let writes = [truncate(1, slot - 3), hard(1, 5, 5)];
    log.append_reserved(&writes).unwrap();
    model.apply(&writes);
    log.sync().unwrap();
    log.tidy().unwrap();
    for slot in slot..slot + 500 {
        both(&mut log, &mut model, &[accept(1, 1, slot, 1, 200), truncate(1, slot.saturating_sub(10))]);
    }
    assert_eq!(log.space(), Space::Enough);
    drop(log);
    assert_eq!(SegmentLog::recover(directory.path(), settings).unwrap().1, model.recovered());
}

#[test]
fn a_batch_for_a_replica_that_is_not_there_changes_nothing() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 0), accept(1, 1, 1, 1, 10)]);
    for wrong in [hard(2, 1, 1), accept(2, 1, 1, 1, 10), truncate(2, 1)] {
        assert!(matches!(log.append(&[node(4), wrong]), Err(LogError::NoReplica { group: GroupId(2) })));
    }
    let gone = [tombstone(1, 1), hard(1, 1, 1)];
    assert!(matches!(log.append(&gone), Err(LogError::NoReplica { group: GroupId(1) })));
    // A tombstone of a former self does not touch the replica that is there.
    both(&mut log, &mut model, &[create(1, 5, 7), tombstone(1, 3), hard(1, 1, 1)]);
    drop(log);
    assert_eq!(open(directory.path()).1, model.recovered());
}

#[test]
fn the_directory_is_one_process_s() {
    let directory = scratch();
    let (log, _) = open(directory.path());
    let second = SegmentLog::recover(directory.path(), small());
    assert!(matches!(second, Err(LogError::Locked { .. })), "{second:?}");
    drop(log);
    open(directory.path());
}

#[test]
fn a_directory_that_cannot_be_is_said_by_name() {
    let directory = scratch();
    let file = directory.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    for path in [file.clone(), file.join("log")] {
        let error = SegmentLog::recover(&path, small()).expect_err("a file is in the way");
        assert!(matches!(error, LogError::Unwritable { .. }), "{error:?}");
        assert!(error.to_string().contains("file"), "{error}");
    }
}

#[test]
fn reading_ends_at_the_limit_at_gaps_and_at_the_end() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    let mut model = Model::default();
    both(&mut log, &mut model, &[create(1, 1, 5), accept(1, 1, 6, 4, 100), accept(1, 2, 8, 4, 100)]);
    both(&mut log, &mut model, &[accept(1, 3, 20, 2, 100)]);
    let reader = log.reader();
    let read = |first, bytes| -> Vec<(u64, u64)> {
        let found = reader.read(GroupId(1), Slot(first), bytes).unwrap();
        found.iter().map(|(slot, ballot, _)| (slot.0, ballot.round)).collect()
    };
    assert_eq!(read(6, usize::MAX), [(6, 1), (7, 1), (8, 2), (9, 2), (10, 2), (11, 2)]);
    assert_eq!(read(7, 300), [(7, 1), (8, 2)]);
    assert_eq!(read(7, 0), [(7, 1)]);
    assert_eq!(read(5, usize::MAX), []);
    assert_eq!(read(12, usize::MAX), []);
    assert_eq!(read(21, usize::MAX), [(21, 3)]);
    assert_eq!(reader.read(GroupId(2), Slot(1), 100).unwrap(), []);
}

#[test]
fn a_reader_beside_the_writer_never_sees_recycled_bytes() {
    let directory = scratch();
    let (mut log, _) = open(directory.path());
    log.append(&[create(1, 1, 0)]).unwrap();
    let (reader, stop) = (log.reader(), AtomicBool::new(false));
    let (newest, seen) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let from = newest.load(Ordering::Relaxed).saturating_sub(30).max(1);
                for (slot, ballot, entry) in reader.read(GroupId(1), Slot(from), 5000).unwrap() {
                    assert_eq!(entry, super::entry(slot.0, ballot.round, 150));
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut slot = 1;
        while slot < 3000 || seen.load(Ordering::Relaxed) < 100 {
            log.append(&[accept(1, slot % 7, slot, 1, 150), truncate(1, slot.saturating_sub(40))]).unwrap();
            log.sync().unwrap();
            log.tidy().unwrap();
            newest.store(slot, Ordering::Relaxed);
            slot += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
}
