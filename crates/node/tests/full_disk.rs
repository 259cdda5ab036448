//! Log and store on a disk that really fills up: a tiny file system in a mount namespace of its own.
//!
//! Where the system does not let a test make one, the test says so and proves nothing; the log's own limit of bytes is
//! tested everywhere.

use bytes::Bytes;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use scatter_core::durable::Write;
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::store::{Batch, Read, Store, StoreError};
use scatter_core::types::{Ballot, GroupId, Incarnation, NodeId, ReplicaName, Slot};
use scatter_node::storage::log::{Log, LogError, LogSettings, SegmentLog, Space};
use scatter_node::storage::rocks::{RocksSettings, RocksStore};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const DISK: &str = "SCATTER_TEST_DISK";
const CANNOT: i32 = 99;
/// How long either may take to notice that there is space again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the named test of this file again, on a disk of 24 MiB. Returns the disk inside of that run.
fn on_a_small_disk(test: &str) -> Option<PathBuf> {
    if let Some(disk) = std::env::var_os(DISK) {
        return Some(disk.into());
    }
    let disk = tempfile::tempdir().expect("a directory to mount on");
    let script = format!(r#"mount -t tmpfs -o size=24m tmpfs "${DISK}" || exit {CANNOT}; exec "$0" "$@""#);
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(std::env::current_exe().expect("this test's own path"))
        .args(["--exact", test, "--nocapture"])
        .env(DISK, disk.path())
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) if status.code() != Some(CANNOT) && status.code() != Some(1) => panic!("{test}: {status}"),
        Ok(_) | Err(_) => {
            eprintln!("{test}: not run, for this system allows no mount namespace");
            assert!(std::env::var_os("SCATTER_RUN_ALL").is_none(), "{test} must run here");
        }
    }
    None
}

fn ballast(disk: &Path) -> PathBuf {
    let path = disk.join("ballast");
    std::fs::write(&path, vec![1; 12 << 20]).expect("the disk is still empty");
    path
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SmallRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

#[test]
fn the_store_refuses_reads_on_and_recovers() {
    let Some(disk) = on_a_small_disk("the_store_refuses_reads_on_and_recovers") else { return };
    let ballast = ballast(&disk);
    let settings = RocksSettings { memtable_bytes: 1 << 20, cache_bytes: 1 << 20, ..RocksSettings::default() };
    let store = RocksStore::open(&disk.join("data"), &settings).unwrap();
    let write = |number: u64| {
        let mut batch = <RocksStore as Store>::Batch::default();
        batch.put(format!("key{number:08}").as_bytes(), &noise(number, 4096));
        store.write(batch)
    };
    let mut written = 0;
    let refused = loop {
        match write(written) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 100_000, "never full");
    };
    assert_eq!(refused, StoreError::NoSpace);
    assert_eq!(store.flush(), Err(StoreError::NoSpace));
    for number in 0..written {
        let value = store.get(format!("key{number:08}").as_bytes()).unwrap();
        assert_eq!(value.as_deref(), Some(&noise(number, 4096)[..]), "key {number} of {written}");
    }
    std::fs::remove_file(ballast).unwrap();
    let started = Instant::now();
    while let Err(error) = write(written) {
        assert_eq!(error, StoreError::NoSpace);
        assert!(started.elapsed() < PATIENCE, "does not recover");
        std::thread::sleep(Duration::from_millis(50));
    }
    store.flush().unwrap();
    drop(store);
    let store = RocksStore::open(&disk.join("data"), &settings).unwrap();
    for number in 0..=written {
        assert!(store.get(format!("key{number:08}").as_bytes()).unwrap().is_some(), "key {number} of {written}");
    }
}

#[test]
fn the_log_refuses_cleanly_and_recovers() {
    let Some(disk) = on_a_small_disk("the_log_refuses_cleanly_and_recovers") else { return };
    let ballast = ballast(&disk);
    let settings = LogSettings {
        segment_bytes: 2 << 20,
        first_segment_bytes: 1 << 20,
        reserve_bytes: 1 << 20,
        ..LogSettings::default()
    };
    let path = disk.join("log");
    let (mut log, _) = SegmentLog::recover(&path, settings.clone()).unwrap();
    let group = GroupId(1);
    let replica = ReplicaName { group, node: NodeId(1), incarnation: Incarnation(1) };
    log.append(&[Write::Create { replica, after: Slot(0), inviter: None }]).unwrap();
    let accept = |slot: u64| {
        let body = Bytes::from(noise(slot, 50_000));
        let entry = Entry { kind: EntryKind::Commands, clock: EntryClock::default(), body };
        [Write::Accept { group, ballot: Ballot::ZERO, first: Slot(slot), entries: vec![entry] }]
    };
    let mut slot = 1;
    let refused = loop {
        match log.append(&accept(slot)) {
            Ok(()) => slot += 1,
            Err(error) => break error,
        }
        log.sync().unwrap();
        log.tidy().unwrap();
        assert!(slot < 10_000, "never full");
    };
    assert!(matches!(refused, LogError::NoSpace), "{refused}");
    assert!(log.space() < Space::Enough);
    drop(log);
    let (mut log, recovered) = SegmentLog::recover(&path, settings.clone()).unwrap();
    assert_eq!(recovered.replicas[0].entries.len() as u64, slot - 1);
    std::fs::remove_file(ballast).unwrap();
    let started = Instant::now();
    while let Err(error) = log.append(&accept(slot)) {
        assert!(matches!(error, LogError::NoSpace), "{error}");
        assert!(started.elapsed() < PATIENCE, "does not recover");
        std::thread::sleep(Duration::from_millis(50));
        log.tidy().unwrap();
    }
    log.sync().unwrap();
    drop(log);
    let (_, recovered) = SegmentLog::recover(&path, settings).unwrap();
    assert_eq!(recovered.replicas[0].entries.len() as u64, slot);
}
