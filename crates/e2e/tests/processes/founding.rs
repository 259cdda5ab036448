//! One ring, whatever the founders were told.

use scatter_e2e::cluster::{Cluster, Member, get_patiently, put_patiently, text};
use scatter_e2e::http::{self, Request};
use scatter_e2e::wait;

/// Which cluster a node belongs to, if any.
fn cluster_id(node: &Member) -> Option<String> {
    node.status()["cluster"]["id"].as_str().map(str::to_owned)
}

fn problem(node: &Member) -> String {
    node.status()["problem"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn founders_with_different_lists_found_nothing_until_they_agree() {
    let mut cluster = Cluster::prepare(3, &[]);
    let all = cluster.peers();
    // No two of them agree. Whoever has the smallest id asks the others to bind themselves, and is refused.
    for (index, others) in [[0, 1], [1, 2], [2, 0]].into_iter().enumerate() {
        let list = others.map(|other| cluster.nodes[other].peer.to_string()).join(",");
        cluster.nodes[index].set("cluster.founders", &list);
        cluster.nodes[index].set("cluster.seeds", &all);
    }
    cluster.start_nodes();
    wait::until_true("somebody says what is wrong", || {
        cluster.nodes.iter().any(|node| problem(node).contains("founders"))
    });
    for node in &mut cluster.nodes {
        assert_eq!(cluster_id(node), None, "{}", node.said());
        let ready = http::get(node.http, "/readyz").expect("an answer");
        assert_eq!(ready.status, 503, "{}", ready.text());
        // Nothing was founded, so nothing is lost; and a binding is for life.
        node.kill();
        node.set("cluster.founders", &all);
        std::fs::remove_dir_all(&node.data).expect("data to wipe");
    }
    cluster.start_nodes();
    cluster.wait_ready();
    expect_one_ring(&cluster);
    put_patiently(cluster.nodes[0].http, "a", b"1");
    assert_eq!(get_patiently(cluster.nodes[2].http, "a").as_deref(), Some(&b"1"[..]));
}

fn expect_one_ring(cluster: &Cluster) {
    let ids: Vec<Option<String>> = cluster.nodes.iter().map(cluster_id).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "two rings: {ids:?}");
}

#[test]
fn a_newcomer_says_which_seeds_do_not_answer() {
    let mut cluster = Cluster::prepare(1, &[]);
    cluster.start_nodes();
    cluster.wait_ready();
    let seed = cluster.nodes[0].peer.to_string();
    let newcomer = cluster.push_node(&[]);
    cluster.nodes[newcomer].set("cluster.seeds", &seed);
    cluster.nodes[0].kill();
    cluster.nodes[newcomer].start();
    let node = &cluster.nodes[newcomer];
    wait::until_true("it says so where it is asked", || {
        let ready = http::get(node.http, "/readyz").map(|ready| (ready.status, ready.text().contains(&seed)));
        ready.is_ok_and(|ready| ready == (503, true)) && problem(node).contains(&seed)
    });
    wait::until_true("it logs it", || {
        let said = node.said();
        said.lines().any(|line| line.contains("WARN") && line.contains("its seeds") && line.contains(&seed))
    });
    cluster.nodes[0].start();
    cluster.nodes[newcomer].wait_ready();
    wait::until_true("nothing is wrong any more", || problem(&cluster.nodes[newcomer]).is_empty());
}

#[test]
fn a_founder_that_the_others_do_not_name_joins_them() {
    let mut cluster = Cluster::prepare(3, &[]);
    let all = cluster.peers();
    let two = format!("{},{}", cluster.nodes[0].peer, cluster.nodes[1].peer);
    for node in &mut cluster.nodes[..2] {
        node.set("cluster.founders", &two);
        node.set("cluster.seeds", &all);
    }
    cluster.start_nodes();
    for node in &mut cluster.nodes[..2] {
        node.wait_ready();
    }
    put_patiently(cluster.nodes[0].http, "a", b"1");
    // The third one hears of the cluster and joins, unless chance gave it the smallest id and it was the first to bind itself.
    let third = &mut cluster.nodes[2];
    let stays_apart = wait::until("the third one joins, or says what is left to do", || {
        let apart = problem(third).contains("start this node on an empty data directory");
        (apart || cluster_id(third).is_some()).then_some(apart)
    });
    if stays_apart {
        third.kill();
        std::fs::remove_dir_all(&third.data).expect("data to wipe");
        third.start();
    }
    third.wait_ready();
    assert_eq!(third.role(), "", "it holds nothing until it is told to");
    expect_one_ring(&cluster);
    assert_eq!(get_patiently(cluster.nodes[2].http, "a").as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_founder_alone_founds_nothing_and_says_so() {
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.nodes[0].start();
    let node = &cluster.nodes[0];
    assert_eq!(cluster_id(node), None);
    let ready = http::get(node.http, "/readyz").expect("an answer");
    assert_eq!(ready.status, 503, "{}", ready.text());
    let put = Request::new("PUT", "/v1/kv/a").with_headers(&["Request-Timeout: 1s"]).with_body(b"x");
    let reply = put.ask(node.http).expect("an answer");
    assert!(matches!(reply.status, 503 | 504), "{}: {}", reply.status, reply.text());
    assert!(reply.is_not_applied(), "{}", reply.text());
    cluster.nodes[1].start();
    cluster.nodes[2].start();
    cluster.wait_ready();
    put_patiently(cluster.nodes[0].http, "a", b"1");
}

#[test]
fn a_wiped_single_founder_does_not_found_again() {
    let mut cluster = Cluster::start(1);
    put_patiently(cluster.nodes[0].http, "a", b"1");
    let second = cluster.push_node(&[]);
    cluster.nodes[second].start();
    cluster.nodes[second].wait_ready();
    let ring = cluster_id(&cluster.nodes[0]);
    assert!(ring.is_some());
    assert_eq!(cluster_id(&cluster.nodes[second]), ring, "the second node found the cluster");

    let seeds = cluster.peers();
    let founder = &mut cluster.nodes[0];
    let before = founder.id();
    founder.kill();
    std::fs::remove_dir_all(&founder.data).expect("data to wipe");
    founder.set("cluster.seeds", &seeds);
    founder.start();
    founder.wait_ready();
    assert_ne!(founder.id(), before);
    assert_eq!(cluster_id(founder), ring, "a second ring");
    assert_eq!(founder.role(), "", "the data is gone, and nobody pretends otherwise");
    let reply = Request::new("GET", "/v1/kv/a").with_headers(&["Request-Timeout: 1s"]).ask(founder.http);
    let reply = reply.expect("an answer");
    assert!(matches!(reply.status, 503 | 504), "{}: {}", reply.status, reply.text());
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut cluster = Cluster::start(1);
    put_patiently(cluster.nodes[0].http, "a", b"1");
    let mut others = Cluster::prepare(1, &[]);
    let seeds = format!("{},{}", cluster.peers(), others.peers());
    let stranger = &mut others.nodes[0];
    stranger.set("cluster.name", "another");
    stranger.set("cluster.founders", "");
    stranger.set("cluster.seeds", &seeds);
    stranger.start();
    wait::until_true("one of the two tells of it", || {
        cluster.nodes[0].said().contains("another") || stranger.said().contains("refused")
    });
    assert_eq!(cluster_id(stranger), None, "{}", stranger.said());
    let nodes = cluster.start_admin();
    let nodes = http::get(nodes, "/v1/nodes").expect("an answer").json();
    let ids: Vec<String> = nodes["nodes"].as_array().expect("nodes").iter().map(|node| text(&node["id"])).collect();
    assert_eq!(ids, [cluster.nodes[0].id()]);
}

#[test]
fn a_node_of_another_ring_of_the_same_name_is_refused() {
    let mut cluster = Cluster::start(1);
    put_patiently(cluster.nodes[0].http, "a", b"ours");
    let mut others = Cluster::start(1);
    let stranger = &mut others.nodes[0];
    put_patiently(stranger.http, "a", b"theirs");
    let rings = [cluster_id(&cluster.nodes[0]), cluster_id(stranger)];
    assert_ne!(rings[0], rings[1]);
    stranger.kill();
    stranger.set("cluster.seeds", &cluster.peers());
    stranger.start();
    stranger.wait_ready();
    wait::until_true("one of the two tells of it", || {
        [&cluster.nodes[0], stranger].iter().any(|node| node.said().contains("the cluster here is "))
    });
    assert_eq!([cluster_id(&cluster.nodes[0]), cluster_id(stranger)], rings);
    assert_eq!(get_patiently(cluster.nodes[0].http, "a").as_deref(), Some(&b"ours"[..]));
    assert_eq!(get_patiently(stranger.http, "a").as_deref(), Some(&b"theirs"[..]));
    let admin = cluster.start_admin();
    let nodes = http::get(admin, "/v1/nodes").expect("an answer").json();
    let ids: Vec<String> = nodes["nodes"].as_array().expect("nodes").iter().map(|node| text(&node["id"])).collect();
    assert_eq!(ids, [cluster.nodes[0].id()]);
}

#[test]
fn founders_need_no_seeds_and_say_whom_they_wait_for() {
    let mut cluster = Cluster::prepare(3, &[]);
    for node in &mut cluster.nodes {
        // As if nobody had set any.
        node.set("cluster.seeds", "127.0.0.1:7001");
    }
    for node in &mut cluster.nodes[..2] {
        node.start();
    }
    let third = cluster.nodes[2].peer.to_string();
    wait::until_true("the others say that they wait for the third", || {
        cluster.nodes[..2].iter().all(|node| problem(node).ends_with(&format!(" {third}")))
    });
    cluster.nodes[2].start();
    cluster.wait_ready();
    assert_eq!(problem(&cluster.nodes[0]), "");
}
