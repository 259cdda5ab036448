//! Processes that are killed while clients write.

use scatter_e2e::cluster::Cluster;
use scatter_e2e::workload::Workload;

/// Acknowledged writes, and answered reads, that show that a cluster works.
const ENOUGH: u64 = 40;

#[test]
fn no_acknowledged_write_is_lost_to_kill_9() {
    let mut cluster = Cluster::start(3);
    let mut addresses = cluster.addresses();
    addresses.push(cluster.start_gateway());
    let workload = Workload::start(5, &addresses);
    workload.wait_progress(ENOUGH);
    for victim in 0..3 {
        cluster.nodes[victim].kill();
        workload.wait_progress(ENOUGH);
        cluster.nodes[victim].start();
        cluster.nodes[victim].wait_ready();
        workload.wait_progress(ENOUGH);
    }
    let leader = cluster.leader();
    cluster.nodes[leader].restart();
    workload.wait_progress(ENOUGH);
    for node in &mut cluster.nodes {
        node.kill();
    }
    cluster.start_nodes();
    cluster.wait_ready();
    workload.wait_progress(ENOUGH);
    workload.finish(&addresses);
}

#[test]
fn a_gateway_that_is_killed_loses_nothing_and_needs_nothing() {
    let mut cluster = Cluster::start(3);
    let gateway = cluster.start_gateway();
    let workload = Workload::start(3, &[gateway]);
    for _ in 0..2 {
        workload.wait_progress(ENOUGH);
        let gateway = cluster.gateway.as_mut().expect("it was started");
        gateway.restart();
        gateway.wait_ready();
    }
    workload.wait_progress(ENOUGH);
    workload.finish(&[gateway]);
}
