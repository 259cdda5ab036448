//! Disks that lie: damaged files below what was once reported as synced.

use scatter_e2e::cluster::{Cluster, Member, get_patiently, put_patiently};
use scatter_e2e::wait;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const KEYS: usize = 30;

/// A cluster with data in its logs and its stores.
fn filled() -> Cluster {
    let mut cluster = Cluster::start_with(3, &[("storage.flush_interval_ms", "100")]);
    let addresses = cluster.addresses();
    for number in 0..KEYS {
        put_patiently(addresses[number % 3], &format!("key/{number}"), &[number as u8; 2000]);
    }
    for node in &cluster.nodes {
        wait::until_true("a table file", || !files(&node.data.join("store"), ".sst").is_empty());
    }
    cluster.wait_ready();
    cluster
}

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
    entries.iter().map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).expect("a file to damage")
}

fn halve(path: &Path) {
    let file = open(path);
    let length = file.metadata().expect("its length").len();
    file.set_len(length / 2).expect("a shorter file");
}

/// Damages a killed node's disk and starts it: it must come back as another node, what it had set aside, while the cluster
/// goes on.
fn becomes_another_node(damage: impl FnOnce(&Member)) {
    let mut cluster = filled();
    let victim = (cluster.leader() + 1) % 3;
    let (before, voters) = (cluster.nodes[victim].id(), cluster.group().1);
    cluster.nodes[victim].kill();
    damage(&cluster.nodes[victim]);
    cluster.nodes[victim].start();
    cluster.nodes[victim].wait_ready();
    let node = &cluster.nodes[victim];
    let log = node.said();
    assert_ne!(node.id(), before, "{log}");
    assert_eq!(node.role(), "", "it votes in no group");
    assert!(log.contains("this node starts anew under another id"), "{log}");
    let aside = node.data.join("set-aside-1");
    assert!(aside.join("log").is_dir() && aside.join("store").is_dir(), "what was there is kept");
    assert_eq!(cluster.group().1, voters);
    for address in cluster.addresses() {
        for number in 0..KEYS {
            assert_eq!(get_patiently(address, &format!("key/{number}")), Some(vec![number as u8; 2000]));
        }
        put_patiently(address, "after", b"damage");
    }
    // It is that node for good.
    let id = cluster.nodes[victim].id();
    cluster.nodes[victim].restart();
    assert_eq!(cluster.nodes[victim].id(), id);
}

#[test]
fn a_damaged_log_record_below_the_mark() {
    becomes_another_node(|node| {
        // Behind a segment's header (64 bytes) and its first record's header (32): many synced records follow.
        let damaged = files(&node.data.join("log"), ".segment").into_iter().filter(|path| {
            let file = open(path);
            let mut bytes = [0; 101];
            file.read_exact_at(&mut bytes, 0).expect("a segment");
            bytes[100] ^= 0x10;
            file.write_all_at(&bytes[100..], 100).expect("a damaged segment");
            bytes.starts_with(b"ScatterL")
        });
        assert!(damaged.count() > 0, "no segment was in use");
    });
}

#[test]
fn a_log_whose_mark_is_gone() {
    becomes_another_node(|node| std::fs::remove_file(node.data.join("log/mark")).expect("a mark"));
}

#[test]
fn a_truncated_table_file() {
    becomes_another_node(|node| files(&node.data.join("store"), ".sst").iter().for_each(|path| halve(path)));
}

#[test]
fn a_truncated_manifest() {
    becomes_another_node(|node| {
        let manifest = std::fs::read_to_string(node.data.join("store/CURRENT")).expect("CURRENT");
        halve(&node.data.join("store").join(manifest.trim()));
    });
}
