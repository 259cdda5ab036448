//! Disks that lie: damaged files below what was once reported as synced.

use scatter_e2e::cluster::{Cluster, Member, get_patiently, put_patiently};
use scatter_e2e::wait;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const KEYS: usize = 30;
/// So much of a record is there when its end is not.
const TORN_BYTES: u64 = 3;

/// A cluster with data in its logs and its stores, and one of its followers.
fn filled() -> (Cluster, usize) {
    let mut cluster = Cluster::start_with(3, &[("storage.flush_interval_ms", "100")]);
    write_all(&cluster);
    for node in &cluster.nodes {
        wait::until_true("a table file", || !files(&node.data.join("store"), ".sst").is_empty());
    }
    cluster.wait_ready();
    let victim = (cluster.leader() + 1) % 3;
    (cluster, victim)
}

fn value(number: usize) -> Vec<u8> {
    vec![number as u8; 2000]
}

fn write_all(cluster: &Cluster) {
    for number in 0..KEYS {
        put_patiently(cluster.nodes[number % 3].http, &format!("key/{number}"), &value(number));
    }
}

fn expect_all(from: SocketAddr) {
    for number in 0..KEYS {
        assert_eq!(get_patiently(from, &format!("key/{number}")), Some(value(number)), "key {number} through {from}");
    }
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
    let (mut cluster, victim) = filled();
    let before = cluster.nodes[victim].id();
    cluster.nodes[victim].kill();
    damage(&cluster.nodes[victim]);
    expect_another(&mut cluster, victim, &before);
}

/// Starts a damaged node, which was `before`.
fn expect_another(cluster: &mut Cluster, victim: usize, before: &str) {
    let voters = cluster.group().1;
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
        expect_all(address);
        put_patiently(address, "after", b"damage");
    }
    // It is that node for good.
    let id = cluster.nodes[victim].id();
    cluster.nodes[victim].restart();
    assert_eq!(cluster.nodes[victim].id(), id);
}

/// Where the store writes down which files it consists of.
fn manifest(node: &Member) -> PathBuf {
    let store = node.data.join("store");
    let name = std::fs::read_to_string(store.join("CURRENT")).expect("CURRENT");
    store.join(name.trim())
}

fn slot(node: &Member, name: &str) -> u64 {
    node.status()["replicas"][0][name].as_u64().expect("a slot")
}

/// How a store was: as much of its manifest as there was, and the table files of that time.
struct Old {
    manifest: PathBuf,
    length: u64,
    tables: PathBuf,
}

impl Old {
    /// Looks at a store in use, without stopping it.
    fn of(node: &Member) -> Self {
        let manifest = manifest(node);
        let tables = node.data.with_extension("old");
        std::fs::create_dir(&tables).expect("a folder");
        let length = || std::fs::metadata(&manifest).expect("a manifest").len();
        let length = wait::until("the store is at rest", || {
            let before = length();
            let linked = files(&node.data.join("store"), ".sst").iter().all(|path| {
                let kept = tables.join(path.file_name().expect("a name"));
                kept.exists() || std::fs::hard_link(path, kept).is_ok()
            });
            // Files come and go only with records in the manifest.
            (linked && length() == before).then_some(before)
        });
        Self { manifest, length, tables }
    }

    /// Makes the store of a node that does not run what it was, but for the torn start of one more record.
    fn bring_back(&self, node: &Member) {
        assert_eq!(manifest(node), self.manifest, "the store went on in the same manifest");
        let file = open(&self.manifest);
        let torn = self.length + TORN_BYTES;
        assert!(file.metadata().expect("its length").len() > torn, "what was flushed is in the manifest");
        file.set_len(torn).expect("a shorter manifest");
        for kept in files(&self.tables, ".sst") {
            let path = node.data.join("store").join(kept.file_name().expect("a name"));
            if !path.exists() {
                std::fs::rename(kept, path).expect("the table is back");
            }
        }
    }
}

/// Ends a follower and brings its store back to how it was before the data was written and flushed. Returns the cluster, the
/// follower and its id.
fn with_an_old_store(settings: &[(&str, &str)]) -> (Cluster, usize, String) {
    let mut cluster = Cluster::start_with(3, &[&[("storage.flush_interval_ms", "100")], settings].concat());
    let victim = (cluster.leader() + 1) % 3;
    let node = &cluster.nodes[victim];
    let (id, old) = (node.id(), Old::of(node));
    // Whatever the old manifest names was applied by then.
    let applied = slot(node, "applied");
    write_all(&cluster);
    wait::until_true("the data is flushed", || slot(&cluster.nodes[victim], "flushed") > applied + 1);
    // In good order: what it wrote to its log is there.
    cluster.nodes[victim].terminate();
    old.bring_back(&cluster.nodes[victim]);
    (cluster, victim, id)
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
fn a_manifest_without_its_end_while_the_log_has_all_of_it() {
    let (mut cluster, victim, id) = with_an_old_store(&[]);
    cluster.nodes[victim].start();
    cluster.nodes[victim].wait_ready();
    let node = &cluster.nodes[victim];
    assert_eq!(node.id(), id, "nothing is lost, so it is the node it was");
    assert!(!node.data.join("set-aside-1").exists(), "{}", node.said());
    // Its vote and its data count.
    cluster.nodes[(victim + 1) % 3].kill();
    for index in [victim, (victim + 2) % 3] {
        expect_all(cluster.nodes[index].http);
        put_patiently(cluster.nodes[index].http, "after", b"damage");
    }
}

#[test]
fn a_manifest_without_what_the_log_has_given_up() {
    let (mut cluster, victim, id) = with_an_old_store(&[("consensus.log_retain_slots", "1")]);
    expect_another(&mut cluster, victim, &id);
    assert!(cluster.nodes[victim].said().contains("is older than its log"), "{}", cluster.nodes[victim].said());
}

#[test]
fn a_disk_that_is_damaged_again_and_again_keeps_one_copy() {
    let mut cluster = Cluster::start(1);
    put_patiently(cluster.nodes[0].http, "a", b"1");
    let second = cluster.push_node(&[]);
    let node = &mut cluster.nodes[second];
    node.start();
    node.wait_ready();
    let mut ids = vec![node.id()];
    for round in 1..=3 {
        node.kill();
        std::fs::write(node.data.join("log/from-round"), round.to_string()).expect("a trace");
        std::fs::remove_file(node.data.join("log/mark")).expect("a mark");
        node.start();
        node.wait_ready();
        assert!(!ids.contains(&node.id()), "ids are never used again");
        ids.push(node.id());
        let newest = node.data.join(format!("set-aside-{round}"));
        let mut kept = files(&node.data, "");
        kept.sort();
        assert_eq!(kept, [node.data.join("log"), newest.clone(), node.data.join("store")], "round {round}");
        assert_eq!(std::fs::read(newest.join("log/from-round")).expect("the trace"), round.to_string().as_bytes());
    }
    let said = node.said();
    assert_eq!(said.matches("data set aside earlier gave way to the newest").count(), 2, "{said}");
    node.restart();
    node.wait_ready();
    assert!(node.said().contains("data of a former node takes up space"), "{}", node.said());
}
