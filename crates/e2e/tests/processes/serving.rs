//! A cluster that is treated well.

use scatter_e2e::cluster::{Cluster, get_patiently, put_patiently};
use scatter_e2e::http::{self, Request};
use scatter_e2e::wait;

#[test]
fn three_founders_serve_everywhere_and_find_their_data_again() {
    let mut cluster = Cluster::start(3);
    let mut addresses = cluster.addresses();
    addresses.push(cluster.start_gateway());
    for (number, address) in addresses.iter().enumerate() {
        let key = format!("from/{number}");
        let reply = http::put(*address, &key, &[number as u8, 0, 255]).expect("an answer");
        assert_eq!((reply.status, reply.version().is_some()), (201, true), "{}", reply.text());
    }
    let everywhere = |addresses: &[std::net::SocketAddr]| {
        for address in addresses {
            for number in 0..4 {
                let found = get_patiently(*address, &format!("from/{number}"));
                assert_eq!(found.as_deref(), Some(&[number, 0, 255][..]), "through {address}");
            }
            assert_eq!(get_patiently(*address, "nowhere"), None);
        }
    };
    everywhere(&addresses);

    let ids: Vec<String> = cluster.nodes.iter().map(|node| node.id()).collect();
    let boots: Vec<u64> = cluster.nodes.iter().map(|node| boot(&node.status())).collect();
    let group = cluster.group();
    assert_eq!(group.1.len(), 3);
    for node in &mut cluster.nodes {
        assert_eq!(node.terminate().code(), Some(0), "{} drains and ends well", node.name);
        node.start();
        node.wait_ready();
    }
    everywhere(&addresses);
    for node in &mut cluster.nodes {
        node.terminate();
    }
    cluster.start_nodes();
    cluster.wait_ready();
    everywhere(&addresses);
    assert_eq!(cluster.nodes.iter().map(|node| node.id()).collect::<Vec<_>>(), ids, "ids are for life");
    assert_eq!(cluster.group(), group);
    for (node, before) in cluster.nodes.iter().zip(boots) {
        assert_eq!(boot(&node.status()), before + 2, "each start counts");
    }
    let deleted = Request::new("DELETE", "/v1/kv/from/0").ask(addresses[3]).expect("an answer");
    assert_eq!(deleted.status, 204);
    assert_eq!(get_patiently(addresses[0], "from/0"), None);
}

fn boot(status: &serde_json::Value) -> u64 {
    status["node"]["boot"].as_u64().expect("a boot counter")
}

#[test]
fn a_terminated_leader_hands_over_and_ends_well() {
    let mut cluster = Cluster::start(3);
    put_patiently(cluster.addresses()[0], "a", b"1");
    // Nobody but a leader that hands over makes these two stand for election.
    let leader = cluster.leader();
    for index in (0..3).filter(|index| *index != leader) {
        let node = &mut cluster.nodes[index];
        node.set("consensus.election_max_ms", "120000");
        node.set("consensus.election_min_ms", "60000");
        node.terminate();
        node.start();
        node.wait_ready();
    }
    assert_eq!(cluster.leader(), leader, "the leader was not disturbed");
    let caught_up = |cluster: &Cluster| {
        let decided: Vec<_> =
            cluster.nodes.iter().map(|node| node.status()["replicas"][0]["applied"].as_u64()).collect();
        decided.iter().all(|slot| slot.is_some() && *slot == decided[0])
    };
    wait::until_true("all have applied the same", || caught_up(&cluster));
    assert_eq!(cluster.nodes[leader].terminate().code(), Some(0));
    let next = cluster.leader();
    assert_ne!(next, leader);
    put_patiently(cluster.nodes[next].http, "a", b"2");
    for index in (0..3).filter(|index| *index != leader) {
        assert_eq!(get_patiently(cluster.nodes[index].http, "a").as_deref(), Some(&b"2"[..]));
    }
}

#[test]
fn a_follower_answers_reads_that_may_be_a_little_old_and_tells_how_old() {
    let mut cluster = Cluster::start(3);
    put_patiently(cluster.addresses()[0], "a", b"1");
    let leader = cluster.leader();
    let follower = (leader + 1) % 3;
    let address = cluster.nodes[follower].http;
    let read = |query: &str| {
        let path = format!("/v1/kv/a?{query}");
        Request::new("GET", &path).with_headers(&["Request-Timeout: 1s"]).ask(address).expect("an answer")
    };
    wait::until_true("the follower answers by itself", || {
        let reply = read("consistency=bounded&max_staleness=1m");
        // What the leader answers is 0 ms old; what a follower answers is rounded up.
        reply.status == 200 && reply.body == b"1" && reply.header("scatter-staleness").is_some_and(|age| age != "0ms")
    });
    for index in (0..3).filter(|index| *index != follower) {
        cluster.nodes[index].kill();
    }
    let old = read("consistency=bounded&max_staleness=1h");
    assert_eq!((old.status, old.body.as_slice()), (200, &b"1"[..]), "{}", old.text());
    assert_eq!(old.header("scatter-consistency"), Some("bounded"));
    let any = read("consistency=any");
    assert_eq!((any.status, any.header("scatter-staleness").is_some()), (200, true));
    // Nobody vouches for it any more, and nobody else can be asked.
    wait::until_true("its lease on the past has ended", || read("consistency=bounded&max_staleness=1ms").status >= 500);
    assert!(read("").status >= 500);
}
