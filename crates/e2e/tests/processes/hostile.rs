//! What strangers may send to the peer port.

use scatter_e2e::cluster::Cluster;
use scatter_e2e::workload::Workload;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const MAGIC: &[u8] = b"SCATTER\n";
/// Versions 1 to 1.
const VERSIONS: &[u8] = &[1, 0, 1, 0];

/// Sends and leaves the connection open; a side that hung up early is fine.
fn send(to: SocketAddr, parts: &[&[u8]]) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("the port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    for part in parts {
        if stream.write_all(part).is_err() {
            break;
        }
    }
    stream
}

/// Whether the other side hangs up, having said whatever it wanted.
fn hangs_up(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn garbage_on_the_peer_port_does_no_harm() {
    let mut cluster = Cluster::start(3);
    let addresses = cluster.addresses();
    let statuses: Vec<_> = cluster.nodes.iter().map(|node| node.status()).collect();
    let workload = Workload::start(2, &addresses);
    let noise = noise(1 << 20);
    let mut silent = Vec::new();
    for node in &cluster.nodes {
        let told: [&[&[u8]]; 8] = [
            &[&noise],
            &[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"],
            // A frame of 4 GiB, and one just over the handshake's limit.
            &[MAGIC, VERSIONS, &[255; 4]],
            &[MAGIC, VERSIONS, &[1, 64, 0, 0], &noise],
            // A version from the future, and versions in the wrong order.
            &[MAGIC, &[9, 0, 12, 0], &[4, 0, 0, 0, 1, 2, 3, 4]],
            &[MAGIC, &[7, 0, 1, 0], &[4, 0, 0, 0, 1, 2, 3, 4]],
            // An empty first frame, and one that decodes to nothing.
            &[MAGIC, VERSIONS, &[0; 4]],
            &[MAGIC, VERSIONS, &[0, 16, 0, 0], &noise[..4096]],
        ];
        for parts in told {
            assert!(hangs_up(send(node.peer, parts)), "{} keeps a stranger who says {:?}", node.name, &parts[0][..4]);
        }
        // Those who say little and stay.
        for _ in 0..50 {
            silent.push(send(node.peer, &[]));
            silent.push(send(node.peer, &[&MAGIC[..3]]));
            silent.push(send(node.peer, &[MAGIC, VERSIONS, &[200, 0, 0, 0], &noise[..10]]));
        }
    }
    workload.wait_progress(40);
    workload.finish(&addresses);
    drop(silent);
    for (node, before) in cluster.nodes.iter_mut().zip(statuses) {
        assert!(node.process().ended().is_none(), "{} ended", node.name);
        assert_eq!(node.status()["node"], before["node"], "the same process");
        assert!(!node.said().contains("panicked"), "{}", node.said());
    }
}
