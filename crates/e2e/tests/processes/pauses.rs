//! Processes that stand still for longer than a lease, and do not know it.

use scatter_e2e::cluster::Cluster;
use scatter_e2e::wait;
use scatter_e2e::workload::{Recorder, Workload};

const ENOUGH: u64 = 40;
/// Rounds, each with another leader.
const ROUNDS: usize = 3;
/// A client of its own for reads straight to the paused node.
const READER: u32 = 1000;

#[test]
fn a_leader_that_was_paused_serves_nothing_stale() {
    let mut cluster = Cluster::start(3);
    let addresses = cluster.addresses();
    let workload = Workload::start(4, &addresses);
    workload.wait_progress(ENOUGH);
    for _ in 0..ROUNDS {
        let paused = cluster.leader();
        cluster.nodes[paused].process().pause();
        let next = cluster.leader_without(&[paused]);
        assert_ne!(next, paused);
        // Clients that turn to the paused node wait for it; those who write and read elsewhere are these.
        let others: Vec<_> = (0..3).filter(|index| *index != paused).map(|index| addresses[index]).collect();
        let elsewhere = Recorder::shared_keys().map(|key| {
            let to = others[key as usize % 2];
            wait::until_true("writes go on elsewhere", || workload.recorder.put(READER, to, key));
            wait::until_true("reads go on elsewhere", || workload.recorder.get(READER, others[0], key));
            // The kernel takes the request while the process stands still: it is the first thing that the node sees when it
            // goes on, with its lease as it was.
            workload.recorder.send_get(READER, addresses[paused], key)
        });
        let waiting: Vec<_> = elsewhere.flatten().collect();
        assert_eq!(waiting.len(), Recorder::shared_keys().count(), "a paused process still gets connections");
        cluster.nodes[paused].process().go_on();
        for key in Recorder::shared_keys() {
            workload.recorder.get(READER + 1, addresses[paused], key);
        }
        for read in waiting {
            workload.recorder.finish_get(read);
        }
        workload.wait_progress(ENOUGH);
    }
    workload.finish(&addresses);
}

#[test]
fn a_follower_that_was_paused_catches_up() {
    let mut cluster = Cluster::start(3);
    let addresses = cluster.addresses();
    let leader = cluster.leader();
    let paused = (leader + 1) % 3;
    let busy: Vec<_> = (0..3).filter(|index| *index != paused).map(|index| addresses[index]).collect();
    let workload = Workload::start(3, &busy);
    workload.wait_progress(ENOUGH);
    cluster.nodes[paused].process().pause();
    workload.wait_progress(3 * ENOUGH);
    let applied = |cluster: &Cluster, index: usize| {
        cluster.nodes[index].try_status().and_then(|status| status["replicas"][0]["applied"].as_u64())
    };
    let missed = applied(&cluster, cluster.leader_without(&[paused]));
    assert!(missed.is_some());
    cluster.nodes[paused].process().go_on();
    wait::until_true("it applies what it missed", || applied(&cluster, paused) >= missed);
    // With one of the others it is a majority.
    let other = (paused + 1) % 3;
    cluster.nodes[other].kill();
    wait::until_true("writes go on with it", || workload.recorder.put(READER, addresses[paused], 0));
    cluster.nodes[other].start();
    cluster.nodes[other].wait_ready();
    workload.finish(&addresses);
    assert_eq!(cluster.nodes[paused].said().matches("panicked").count(), 0);
}
