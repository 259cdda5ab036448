//! Thousands of clients that connect and say nothing.

use scatter_e2e::cluster::Cluster;
use scatter_e2e::http;
use scatter_e2e::wait;
use scatter_e2e::workload::Workload;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const WANTED: u64 = 10_000;
/// Files that the test keeps open beside these connections.
const OTHER_FILES: u64 = 500;
/// More than a connection may cost the node before its first request.
const MOST_BYTES: u64 = 8192;

fn open_connections(at: SocketAddr) -> u64 {
    http::metric(at, "scatter_http_connections").expect("a count")
}

#[test]
fn ten_thousand_idle_connections_hold_nobody_up() {
    let limit = rlimit::increase_nofile_limit(u64::MAX).expect("a limit");
    let count = WANTED.min(limit.saturating_sub(OTHER_FILES));
    if count < WANTED {
        eprintln!("only {count} connections: the limit on open files is {limit}");
    }
    let mut cluster = Cluster::start(3);
    let addresses = cluster.addresses();
    let crowded = cluster.leader();
    let before = cluster.nodes[crowded].process().resident_bytes();
    let mut idle: Vec<TcpStream> =
        (0..count).map(|_| TcpStream::connect(addresses[crowded]).expect("connected")).collect();
    wait::until_true("all connections are accepted", || open_connections(addresses[crowded]) > count);
    let each = cluster.nodes[crowded].process().resident_bytes().saturating_sub(before) / count;
    eprintln!("{each} bytes for each connection that never spoke");
    assert!(each < MOST_BYTES, "{each} bytes for each connection that never spoke");

    let workload = Workload::start(3, &addresses);
    workload.wait_progress(40);
    workload.finish(&addresses);
    // Any of them is as good as a new one.
    for stream in idle.iter_mut().step_by(1000) {
        stream.set_read_timeout(Some(wait::LIMIT)).expect("a limit");
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        let mut start = [0; 12];
        stream.read_exact(&mut start).expect("an answer");
        assert_eq!(&start, b"HTTP/1.1 200");
    }
}
