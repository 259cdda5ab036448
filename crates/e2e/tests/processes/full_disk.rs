//! A node whose disk fills up.

use scatter_e2e::cluster::{Cluster, get_patiently, put_patiently};
use scatter_e2e::http;
use scatter_e2e::small_disk;
use scatter_e2e::wait;
use std::net::SocketAddr;
use std::path::Path;

const DISK_MEBIBYTES: u32 = 64;
const VALUE_BYTES: usize = 32 << 10;

fn value(number: usize) -> Vec<u8> {
    small_disk::noise(number, VALUE_BYTES)
}

/// Writes until a write is refused for lack of space. Returns what was acknowledged.
///
/// The outcome of the write that meets the end of the disk may be unknown: the log still took it, the store did not yet.
fn fill(to: SocketAddr, from: usize) -> Vec<usize> {
    let (mut acknowledged, mut unknown) = (Vec::new(), 0);
    for number in from..from + 10_000 {
        let reply = http::put(to, &format!("fill/{number}"), &value(number)).expect("an answer");
        match reply.status {
            200 | 201 => acknowledged.push(number),
            503 => {
                assert_eq!(reply.json()["type"], "urn:scatter:problem:storage-full", "{}", reply.text());
                assert!(reply.is_not_applied(), "{}", reply.text());
                assert!(reply.header("retry-after").is_some());
                return acknowledged;
            }
            504 => {
                assert_eq!(reply.json()["outcome"], "unknown", "{}", reply.text());
                unknown += 1;
                assert!(unknown <= 2, "writes are not refused but left to time out");
            }
            other => panic!("write {number} met {other}: {}", reply.text()),
        }
    }
    panic!("the disk never fills up");
}

fn expect_all(from: SocketAddr, numbers: &[usize]) {
    for number in numbers {
        assert_eq!(get_patiently(from, &format!("fill/{number}")), Some(value(*number)), "write {number}");
    }
}

fn take_the_rest(disk: &Path) {
    let ballast = disk.join("ballast-2");
    let mut bytes = 8 << 20;
    while bytes >= 4096 {
        let mut file = std::fs::File::options().append(true).create(true).open(&ballast).expect("a file");
        if std::io::Write::write_all(&mut file, &vec![1; bytes]).is_err() {
            bytes /= 2;
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_reads_on_and_recovers() {
    let Some(disk) =
        small_disk::run_again("full_disk::a_full_disk_refuses_writes_reads_on_and_recovers", DISK_MEBIBYTES)
    else {
        return;
    };
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 24 << 20]).expect("the disk is still empty");
    let small = [("storage.segment_bytes", "1048576"), ("storage.memtable_bytes", "1048576")];
    let mut cluster = Cluster::prepare(1, &small);
    let node = &mut cluster.nodes[0];
    node.set("node.data_dir", &disk.join("data").display().to_string());
    node.start();
    node.wait_ready();
    let (id, http) = (node.id(), node.http);

    let acknowledged = fill(http, 0);
    assert!(!acknowledged.is_empty(), "not even one write fitted");
    take_the_rest(&disk);
    let status = node.status();
    expect_all(http, &acknowledged);
    assert_eq!(http::put(http, "refused", b"").expect("an answer").status, 503);
    assert_eq!(get_patiently(http, "refused"), None);
    wait::until_true("the node says its disk is full", || node.status()["disk_full"] == true);
    assert_eq!(status["node"]["id"].as_str(), Some(id.as_str()));

    // A restart on a full disk may fail, but takes nobody's identity and data away.
    node.kill();
    node.start();
    wait::until_true("the node serves, or says why not", || {
        node.process().ended().is_some() || node.try_status().is_some()
    });
    assert!(!node.data.join("set-aside-1").exists() && !disk.join("data/set-aside-1").exists(), "{}", node.said());

    std::fs::remove_file(&ballast).expect("space");
    std::fs::remove_file(disk.join("ballast-2")).expect("space");
    if node.process().ended().is_some() {
        node.wait();
        node.start();
    }
    node.wait_ready();
    assert_eq!(node.id(), id);
    expect_all(http, &acknowledged);
    put_patiently(http, "refused", b"no more");
    wait::until_true("the node says there is room", || node.status()["disk_full"] == false);
    assert!(!fill(http, 10_000 / 2).is_empty(), "the room can be used");
}

#[test]
fn removing_keys_makes_room() {
    let Some(disk) = small_disk::run_again("full_disk::removing_keys_makes_room", DISK_MEBIBYTES) else { return };
    let small = [
        ("storage.segment_bytes", "1048576"),
        ("storage.memtable_bytes", "1048576"),
        ("storage.flush_interval_ms", "500"),
    ];
    let mut cluster = Cluster::prepare(1, &small);
    let node = &mut cluster.nodes[0];
    node.set("node.data_dir", &disk.join("data").display().to_string());
    node.start();
    node.wait_ready();
    let http = node.http;

    // Flushes still give some of the log's room back for a while.
    let (mut acknowledged, mut tries) = (Vec::new(), 0);
    wait::until_true("the disk stays full", || {
        let more = fill(http, acknowledged.last().map_or(0, |last| last + 1));
        tries = if more.is_empty() { tries + 1 } else { 0 };
        acknowledged.extend(more);
        tries == 30
    });
    let (removed, kept) = acknowledged.split_at(acknowledged.len() * 3 / 4);
    assert!(removed.len() > 100, "only {} writes fitted", acknowledged.len());
    for number in removed {
        let reply = http::delete(http, &format!("fill/{number}")).expect("an answer");
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
    // Nobody has to do more than that.
    wait::until_true("there is room again", || node.status()["disk_full"] == false);
    put_patiently(http, "room", b"is there");
    expect_all(http, kept);
    assert_eq!(get_patiently(http, "fill/0"), None);
    assert!(!fill(http, 20_000).is_empty(), "the room can be used");
}

#[test]
fn writes_go_on_by_themselves_when_space_returns() {
    let Some(disk) = small_disk::run_again("full_disk::writes_go_on_by_themselves_when_space_returns", DISK_MEBIBYTES)
    else {
        return;
    };
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 24 << 20]).expect("the disk is still empty");
    let mut cluster = Cluster::prepare(3, &[]);
    let small = cluster.nodes.len() - 1;
    // The one with the small disk is the first to stand for election.
    for node in &mut cluster.nodes[..small] {
        node.set("consensus.election_max_ms", "3000");
        node.set("consensus.election_min_ms", "1500");
    }
    cluster.nodes[small].set("storage.segment_bytes", "1048576");
    cluster.nodes[small].set("storage.memtable_bytes", "1048576");
    cluster.nodes[small].set("node.data_dir", &disk.join("data").display().to_string());
    cluster.start_nodes();
    cluster.wait_ready();
    // The others have room and are a majority: the full one lets one of them lead.
    let to = cluster.nodes[small].http;
    let mut written = Vec::new();
    wait::until_true("the small disk is full", || {
        for _ in 0..20 {
            let number = written.len();
            put_patiently(cluster.nodes[0].http, &format!("fill/{number}"), &value(number));
            written.push(number);
        }
        cluster.nodes[small].status()["disk_full"] == true
    });
    expect_all(to, &written);
    assert_ne!(cluster.leader_without(&[small]), small);
    put_patiently(to, "through", b"the full one");
    std::fs::remove_file(&ballast).expect("space");
    wait::until_true("the node has room", || cluster.nodes[small].status()["disk_full"] == false);
    let leader = cluster.leader();
    wait::until_true("it catches up", || {
        let applied = |index: usize| cluster.nodes[index].status()["replicas"][0]["applied"].as_u64();
        applied(small).is_some() && applied(small) >= applied(leader)
    });
    cluster.nodes[(small + 1) % 3].kill();
    expect_all(cluster.nodes[(small + 2) % 3].http, &written);
    put_patiently(to, "through", b"a majority with it");
}
