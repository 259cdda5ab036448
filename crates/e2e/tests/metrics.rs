//! Each program shows the metrics that `docs/operations.md` lists for it, and no others.

use scatter_e2e::cluster::{Cluster, get_patiently, put_patiently};
use scatter_e2e::{http, wait};
use scatter_service::metrics::check_reference;
use std::net::SocketAddr;
use std::path::Path;

const DOCUMENT: &str = "docs/operations.md";

fn shown(address: SocketAddr) -> String {
    let reply = http::get(address, "/metrics").expect("an answer");
    assert_eq!(reply.status, 200);
    reply.text()
}

/// The value of one series.
fn value(shown: &str, series: &str) -> f64 {
    let found = shown.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("{series} is missing in:\n{shown}"))
}

#[test]
fn the_operations_document_lists_every_metric() {
    let mut cluster = Cluster::start(2);
    let gateway = cluster.start_gateway();
    let admin = cluster.start_admin();
    for number in 0..20 {
        put_patiently(gateway, &format!("users/{number}"), b"value");
        assert!(get_patiently(gateway, &format!("users/{number}")).is_some());
    }
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(DOCUMENT);
    let document = std::fs::read_to_string(document).expect("the document");
    // What a node shows of its peers is made anew four times a second.
    let node = cluster.nodes[0].http;
    wait::until_true("the round trip to the other node is known", || {
        shown(node).contains("scatter_peer_round_trip_seconds{")
    });
    let programs = [("node", node), ("gateway", gateway), ("admin", admin)];
    let differences = programs.map(|(program, address)| check_reference(&document, program, &shown(address)));
    let differences: Vec<String> = differences.into_iter().filter_map(Result::err).collect();
    assert!(differences.is_empty(), "{DOCUMENT} is to be mended:{}", differences.concat());
}

#[test]
fn what_happened_is_counted() {
    let mut cluster = Cluster::start(2);
    let gateway = cluster.start_gateway();
    let admin = cluster.start_admin();
    for number in 0..20 {
        put_patiently(gateway, &format!("users/{number}"), b"value");
        assert!(get_patiently(gateway, &format!("users/{number}")).is_some());
    }
    let of_nodes = |series: &str| -> f64 { cluster.nodes.iter().map(|node| value(&shown(node.http), series)).sum() };
    let paths = ["lease", "quorum"].map(|path| format!("scatter_replica_reads_total{{path=\"{path}\"}}"));
    assert!(paths.iter().map(|series| of_nodes(series)).sum::<f64>() >= 20.0);
    for (series, least) in [
        ("scatter_proposals_decided_total", 20.0),
        ("scatter_entry_commands_sum", 20.0),
        ("scatter_apply_entries_count", 2.0),
        ("scatter_log_sync_seconds_count", 2.0),
        ("scatter_log_append_seconds_count", 2.0),
        ("scatter_native_requests_total", 40.0),
        ("scatter_peer_sent_frames_total", 2.0),
    ] {
        let found = of_nodes(series);
        assert!(found >= least, "{series} is {found}");
    }
    let at_gateway = shown(gateway);
    assert!(value(&at_gateway, "scatter_client_hops_count") >= 40.0);
    assert!(value(&at_gateway, "scatter_requests_total{operation=\"put\",status=\"201\"}") >= 20.0);
    for (series, sum) in [
        ("scatter_has_leader", 2.0),
        ("scatter_groups_led", 1.0),
        ("scatter_replicas", 2.0),
        ("scatter_keys", 40.0),
        ("scatter_fewest_group_voters", 4.0),
        ("scatter_proposals_pending", 0.0),
        ("scatter_peer_connections", 2.0),
    ] {
        wait::until_true(&format!("{series} of both nodes is {sum}"), || of_nodes(series) == sum);
    }
    wait::until_true("the operations a second of the group are shown", || {
        put_patiently(gateway, "users/1", b"again");
        let ring = http::get(admin, "/v1/ring").expect("an answer").json();
        ring["groups"][0]["ops_per_second"].as_u64().is_some_and(|rate| rate > 0)
    });
    let lanes = of_nodes("scatter_lanes");
    assert!(lanes >= 2.0, "the gateway's lane is remembered twice, not {lanes} times");
    // What it leads under a lease it shows the rest of.
    wait::until_true("a lease is held", || of_nodes("scatter_lease_margin_seconds") > 0.0);
}
