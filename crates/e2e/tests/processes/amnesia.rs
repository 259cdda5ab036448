//! A node whose disk was wiped is another node, and takes the old one's place only when it is told to.

use scatter_e2e::cluster::{Cluster, get_patiently, put_patiently, text};
use scatter_e2e::http::{self, Request};
use scatter_e2e::{programs, wait};
use serde_json::json;
use std::process::Command;

/// Wipes a node that does not run, and starts it. Returns its id before and after.
fn wipe(cluster: &mut Cluster, index: usize) -> (String, String) {
    let before = cluster.nodes[index].id();
    let node = &mut cluster.nodes[index];
    node.kill();
    std::fs::remove_dir_all(&node.data).expect("data to wipe");
    node.start();
    node.wait_ready();
    let after = node.id();
    assert_ne!(before, after, "an empty disk makes another node");
    assert!(!node.is_running() || node.role().is_empty(), "it holds no replica");
    (before, after)
}

#[test]
fn a_wiped_node_does_not_vote_and_replaces_its_former_self_on_order() {
    let mut cluster = Cluster::start(3);
    let addresses = cluster.addresses();
    let admin = cluster.start_admin();
    for number in 0..20 {
        put_patiently(addresses[number % 3], &format!("old/{number}"), number.to_string().as_bytes());
    }
    let (group, before) = cluster.group();

    let (old, new) = wipe(&mut cluster, 2);
    assert!(before.contains(&old));
    put_patiently(addresses[2], "while", b"wiped");
    assert_eq!(cluster.group().1, before, "nobody changed the members");
    no_majority_without(&mut cluster, 1, 2);
    replace_through_the_api(&cluster, &group, &old, &new);
    expect_three_voters(&cluster, &old, &new);
    // The newcomer's vote counts: it is needed for a majority.
    cluster.nodes[1].kill();
    put_patiently(addresses[2], "while", b"two of three");
    cluster.nodes[1].start();
    cluster.nodes[1].wait_ready();

    let (old, new) = wipe(&mut cluster, 1);
    let order = ["members", &group, "--add", &new, "--remove", &old, "--yes"];
    let run =
        Command::new(programs::path("scatterctl")).args(order).args(["--admin", &format!("http://{admin}")]).output();
    let run = run.expect("scatterctl");
    assert!(run.status.success(), "{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    expect_three_voters(&cluster, &old, &new);
    cluster.nodes[0].kill();
    for address in [addresses[1], addresses[2]] {
        for number in 0..20 {
            let found = get_patiently(address, &format!("old/{number}"));
            assert_eq!(found, Some(number.to_string().into_bytes()), "through {address}");
        }
        assert_eq!(get_patiently(address, "while").as_deref(), Some(&b"two of three"[..]));
    }
}

/// With `down` killed and `wiped` of no account, nobody may acknowledge a write.
fn no_majority_without(cluster: &mut Cluster, down: usize, wiped: usize) {
    cluster.nodes[down].kill();
    for index in (0..3).filter(|index| *index != down) {
        let put = Request::new("PUT", "/v1/kv/minority").with_headers(&["Request-Timeout: 1500ms"]).with_body(b"x");
        let reply = put.ask(cluster.nodes[index].http).expect("an answer");
        assert!(matches!(reply.status, 503 | 504), "{}: {}", reply.status, reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    }
    assert_eq!(cluster.nodes[wiped].role(), "", "a wiped node does not vote");
    cluster.nodes[down].start();
    cluster.wait_ready();
}

fn replace_through_the_api(cluster: &Cluster, group: &str, old: &str, new: &str) {
    let admin = cluster.admin.as_ref().expect("it was started").http;
    wait::until_true("the admin program knows the new node", || {
        let nodes = http::get(admin, "/v1/nodes").expect("an answer").json();
        nodes["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| text(&node["id"]) == new))
    });
    let path = format!("/v1/groups/{group}/members");
    let body = json!({ "add": [new], "remove": [old] }).to_string();
    let order = |path: &str| {
        let headers = ["Content-Type: application/json"];
        let request = Request::new("POST", path).with_headers(&headers).with_body(body.as_bytes());
        Request { limit: wait::LIMIT * 2, ..request }.ask(admin).expect("an answer")
    };
    let plan = order(&format!("{path}?dry_run=true"));
    assert_eq!(plan.status, 200, "{}", plan.text());
    assert_eq!(plan.json()["members"].as_array().map(Vec::len), Some(3));
    let done = order(&path);
    assert_eq!(done.status, 200, "{}", done.text());
}

fn expect_three_voters(cluster: &Cluster, old: &str, new: &str) {
    wait::until_true("three voters, the new one among them", || {
        let voters = cluster.group().1;
        voters.len() == 3 && voters.iter().any(|voter| voter == new) && voters.iter().all(|voter| voter != old)
    });
}
