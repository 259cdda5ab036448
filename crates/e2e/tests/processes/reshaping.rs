//! Groups that split, merge and shift boundaries while clients write.

use scatter_e2e::cluster::{BY_HAND, Cluster, text};
use scatter_e2e::http;
use scatter_e2e::operator::{Group, Operator};
use scatter_e2e::wait;
use scatter_e2e::workload::Workload;
use std::net::SocketAddr;
use std::time::Duration;

/// Acknowledged writes, and answered reads, that show that a cluster works.
const ENOUGH: u64 = 40;

/// Nodes, a gateway and an operator; the addresses of all that serve data, the gateway's last.
fn start(nodes: usize) -> (Cluster, Vec<SocketAddr>, Operator) {
    let mut cluster = Cluster::start_with(nodes, &BY_HAND);
    let mut addresses = cluster.addresses();
    addresses.push(cluster.start_gateway());
    let admin = cluster.start_admin();
    (cluster, addresses, Operator { admin })
}

fn only(groups: &[Group]) -> &Group {
    let [only] = groups else { panic!("one group, not {groups:?}") };
    only
}

#[test]
fn no_request_fails_or_goes_wrong_while_the_ring_is_reshaped() {
    let (mut cluster, addresses, operator) = start(3);
    let gateway = addresses[3];
    let newcomers: Vec<String> = (0..2)
        .map(|_| {
            let index = cluster.push_node(&BY_HAND);
            cluster.nodes[index].start();
            let id = cluster.nodes[index].id();
            operator.wait_node_state(&id, "alive");
            id
        })
        .collect();
    let workload = Workload::start(5, &[gateway, addresses[0], gateway, addresses[1]]);
    workload.wait_progress(ENOUGH);
    let parent = only(&operator.settled()).clone();
    let done = operator.order(&parent.id, "split", "");
    let child = text(&done["child"]);
    workload.wait_progress(ENOUGH);
    let groups = operator.settled_with(2);
    assert!(groups.iter().any(|group| group.id == child), "{groups:?}");
    assert!(groups.iter().all(|group| group.range_version == parent.range_version + 1));

    // The upper one is parted where it is told to, and its leader goes elsewhere: what comes must bring them together again.
    let upper = groups.iter().find(|group| group.id == child).expect("it is there");
    operator.order(&child, "split", r#"{"at":"f0"}"#);
    workload.wait_progress(ENOUGH);
    operator.order(&child, "transfer-leader", "");
    let groups = operator.settled_with(3);
    assert!(groups.iter().any(|group| group.start == "f0"));

    // The boundary moves down, up, and down again from the other side.
    for (group, body, boundary) in [
        (&parent.id, r#"{"boundary":"60"}"#, "60"),
        (&parent.id, r#"{"boundary":"a0"}"#, "a0"),
        (&child, r#"{"boundary":"70","side":"predecessor"}"#, "70"),
    ] {
        operator.order(group, "repartition", body);
        workload.wait_progress(ENOUGH);
        let groups = operator.settled_with(3);
        assert!(groups.iter().any(|group| group.id == child && group.start == boundary), "{body}: {groups:?}");
    }
    assert_ne!(upper.start, "70");

    // Members move to the other nodes, of each group to another one: those that merge have to be given the same members first.
    for (group, newcomer) in [&parent.id, &child].into_iter().zip(&newcomers) {
        let leader = operator.groups().into_iter().find(|known| known.id == *group).expect("it is there").leader;
        operator.order(group, "members", &format!(r#"{{"add":["{newcomer}"],"remove":["{leader}"]}}"#));
        workload.wait_progress(ENOUGH);
        let voters = operator.voters();
        assert!(voters.iter().any(|voters| voters.contains(newcomer) && !voters.contains(&leader)), "{voters:?}");
    }

    // All become one again.
    for count in [2, 1] {
        operator.order(&parent.id, "merge", "");
        workload.wait_progress(ENOUGH);
        let groups = operator.settled_with(count);
        assert!(groups.iter().any(|group| group.id == parent.id), "{groups:?}");
    }
    assert_eq!(workload.recorder.failed(), 0, "no request fails");
    let operations = http::get(operator.admin, "/v1/operations").expect("an answer").json();
    let list = operations["operations"].as_array().expect("a list");
    let done = list.iter().filter(|entry| entry["origin"] == "ordered" && entry["state"] == "done").count();
    assert_eq!(done, 10, "{operations:#}");
    workload.finish(&addresses);
}

#[test]
fn a_leader_killed_in_the_middle_of_a_merge_leaves_a_whole_ring() {
    let (mut cluster, addresses, operator) = start(3);
    let workload = Workload::start(3, &addresses[3..]);
    workload.wait_progress(ENOUGH);
    let parent = only(&operator.settled()).id.clone();
    // The gainer asks the loser for its vote a tick of a tenth of a second after it began; what comes then takes milliseconds.
    for delay in [0, 15, 102, 105, 110, 130] {
        if operator.settled().len() == 1 {
            operator.order(&parent, "split", r#"{"at":"80"}"#);
        }
        let groups = operator.settled_with(2);
        workload.wait_progress(ENOUGH);
        let leader = groups.iter().find(|group| group.id == parent).expect("it is there").leader.clone();
        let victim = cluster.nodes.iter().position(|node| node.id() == leader).expect("it is one of ours");
        let group = parent.clone();
        let ordered = std::thread::spawn(move || operator.try_order(&group, "merge", ""));
        std::thread::sleep(Duration::from_millis(delay));
        cluster.nodes[victim].kill();
        let reply = ordered.join().expect("an answer");
        eprintln!("after {delay} ms: {} {}", reply.status, reply.text());
        assert!(matches!(reply.status, 200 | 409 | 503 | 504), "{}", reply.text());
        workload.wait_progress(ENOUGH);
        cluster.nodes[victim].start();
        cluster.nodes[victim].wait_ready();
        let groups = operator.settled();
        assert!(groups.len() <= 2, "{groups:?}");
        if reply.status == 200 {
            assert_eq!(groups.len(), 1, "what is said to be done is done: {groups:?}");
        }
        workload.wait_progress(ENOUGH);
    }
    workload.finish(&addresses);
}

#[test]
fn a_node_that_was_away_learns_what_became_of_its_groups() {
    let (mut cluster, addresses, operator) = start(3);
    let workload = Workload::start(3, &addresses[3..]);
    workload.wait_progress(ENOUGH);
    let parent = only(&operator.settled()).clone();
    operator.order(&parent.id, "split", r#"{"at":"80"}"#);
    let upper = operator.settled_with(2).into_iter().find(|group| group.id != parent.id).expect("the child");
    let away = cluster.nodes.iter().position(|node| node.id() != parent.leader && node.id() != upper.leader);
    let away = away.expect("two leaders at most");
    cluster.nodes[away].kill();
    // Both end while it is away, and another begins.
    operator.order(&parent.id, "merge", "");
    operator.order(&parent.id, "split", r#"{"at":"40"}"#);
    operator.order(&parent.id, "split", r#"{"at":"20"}"#);
    workload.wait_progress(ENOUGH);
    cluster.nodes[away].start();
    cluster.nodes[away].wait_ready();
    let groups = operator.settled_with(3);
    let wanted: Vec<(String, u64)> = groups.into_iter().map(|group| (group.id, group.range_version)).collect();
    wait::until_true("it serves the same groups", || {
        let Some(status) = cluster.nodes[away].try_status() else { return false };
        let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
        let mut held: Vec<(String, u64)> = replicas
            .iter()
            .filter_map(|replica| Some((text(&replica["group"]), replica["range_version"].as_u64()?)))
            .collect();
        let mut wanted = wanted.clone();
        held.sort();
        wanted.sort();
        held == wanted
    });
    // It counts: without it and another one nothing could be read.
    let other = (away + 1) % 3;
    cluster.nodes[other].kill();
    workload.wait_progress(ENOUGH);
    cluster.nodes[other].start();
    cluster.nodes[other].wait_ready();
    workload.finish(&addresses);
}

#[test]
fn groups_on_different_nodes_find_each_others_keys_and_are_brought_together_to_merge() {
    let (mut cluster, mut addresses, operator) = start(3);
    let newcomer = cluster.push_node(&BY_HAND);
    cluster.nodes[newcomer].start();
    let id = cluster.nodes[newcomer].id();
    wait::until_true("the newcomer is known", || {
        let nodes = http::get(operator.admin, "/v1/nodes").expect("an answer").json();
        nodes["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["id"] == id.as_str()))
    });
    let gateway = addresses.pop().expect("the last one");
    let parent = only(&operator.settled()).id.clone();
    operator.order(&parent, "split", r#"{"at":"80"}"#);
    let upper = operator.settled_with(2).into_iter().find(|group| group.id != parent).expect("the child");
    let gone = cluster.nodes[0].id();
    addresses.push(cluster.nodes[newcomer].http);
    let workload = Workload::start(4, &[addresses[0], addresses[3], gateway]);
    workload.wait_progress(ENOUGH);
    operator.order(&upper.id, "members", &format!(r#"{{"add":["{id}"],"remove":["{gone}"]}}"#));
    // The first node has only the lower group now, the newcomer only the upper one.
    workload.wait_progress(ENOUGH);
    assert_eq!(workload.recorder.failed(), 0, "no request fails while a replica moves");
    operator.order(&parent, "repartition", r#"{"boundary":"a0"}"#);
    workload.wait_progress(ENOUGH);
    operator.order(&parent, "merge", "");
    workload.wait_progress(ENOUGH);
    assert_eq!(only(&operator.settled_with(1)).id, parent);
    assert_eq!(workload.recorder.failed(), 0, "no request fails");
    workload.finish(&addresses);
}

#[test]
fn orders_that_make_no_sense_are_refused_and_change_nothing() {
    let (cluster, addresses, operator) = start(3);
    scatter_e2e::cluster::put_patiently(addresses[3], "a", b"1");
    let group = only(&operator.settled()).clone();
    let members = format!(r#"{{"add":["{}"]}}"#, cluster.nodes[0].id());
    for (group, what, body, expected) in [
        (group.id.as_str(), "merge", "", 409),
        (&group.id, "repartition", r#"{"boundary":"80"}"#, 409),
        (&group.id, "repartition", "", 400),
        // Its only key lies alone.
        (&group.id, "split", "", 409),
        (&group.id, "split", r#"{"at":""}"#, 409),
        (&group.id, "split", r#"{"at":"8"}"#, 400),
        (&group.id, "split", r#"{"at":"zz"}"#, 400),
        (&group.id, "split", r#"{"at":"80","key":"a"}"#, 400),
        (&group.id, "split", r#"{"at":"80","range_version":9}"#, 409),
        (&group.id, "split", r#"{"where":"80"}"#, 400),
        (&group.id, "merge", r#"{"side":"left"}"#, 400),
        ("77", "split", "", 404),
        ("77", "merge", "", 404),
        (&group.id, "members", &members, 409),
        (&group.id, "members", r#"{"add":["99"]}"#, 404),
        (&group.id, "members", r#"{"remove":["99"]}"#, 409),
    ] {
        let reply = operator.try_order(group, what, body);
        assert_eq!(reply.status, expected, "{what} {body}: {}", reply.text());
    }
    assert_eq!(only(&operator.settled()), &group, "nothing has changed");

    operator.order(&group.id, "split", r#"{"at":"80"}"#);
    let groups = operator.settled_with(2);
    let upper = groups.iter().find(|other| other.id != group.id).expect("the child");
    for (group, what, body) in [
        (&group.id, "split", r#"{"at":"80"}"#),
        (&group.id, "split", r#"{"at":"90"}"#),
        (&group.id, "split", r#"{"at":""}"#),
        (&group.id, "repartition", r#"{"boundary":"80"}"#),
        (&group.id, "repartition", r#"{"boundary":""}"#),
        (&upper.id, "repartition", r#"{"boundary":"80"}"#),
    ] {
        let reply = operator.try_order(group, what, body);
        assert_eq!(reply.status, 409, "{what} {body}: {}", reply.text());
    }
    assert_eq!(operator.settled_with(2), groups, "nothing has changed");

    operator.order(&group.id, "merge", "");
    let _ = operator.settled_with(1);
    for what in ["split", "merge"] {
        assert_eq!(operator.try_order(&upper.id, what, "").status, 404, "the group is gone");
    }
}

#[test]
fn what_is_done_is_done_for_the_next_order() {
    let (_cluster, _, operator) = start(3);
    let parent = only(&operator.settled()).id.clone();
    let done = operator.order(&parent, "split", r#"{"at":"80"}"#);
    let child = text(&done["child"]);
    // Each order comes as soon as the one before it is answered, and the group that lost acts next.
    let _ = operator.settled_with(2);
    for _ in 0..5 {
        operator.order(&parent, "repartition", r#"{"boundary":"60"}"#);
        operator.order(&parent, "repartition", r#"{"boundary":"a0"}"#);
        operator.order(&child, "repartition", r#"{"boundary":"80","side":"predecessor"}"#);
        operator.order(&parent, "split", r#"{"at":"40"}"#);
        operator.order(&parent, "merge", "");
    }
    assert_eq!(operator.settled_with(2).len(), 2);
}

#[test]
fn of_two_operators_at_once_one_is_heard() {
    let (_cluster, addresses, operator) = start(3);
    for number in 0..20 {
        scatter_e2e::cluster::put_patiently(addresses[3], &format!("key-{number}"), b"1");
    }
    let group = only(&operator.settled()).id.clone();
    let both = |orders: [(String, &'static str); 2]| -> Vec<u16> {
        let threads =
            orders.map(|(group, what)| std::thread::spawn(move || operator.try_order(&group, what, "").status));
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    };
    let mut heard = both([(group.clone(), "split"), (group.clone(), "split")]);
    heard.sort_unstable();
    assert_eq!(heard, [200, 409]);
    let groups = operator.settled_with(2);
    let other = groups.iter().find(|other| other.id != group).expect("the child").id.clone();
    // Each wants to take over the other.
    let mut heard = both([(group, "merge"), (other, "merge")]);
    heard.sort_unstable();
    // The other is told that its group is no more, or that it is not known.
    assert!(matches!(heard[..], [200, 404 | 409]), "{heard:?}");
    let _ = operator.settled_with(1);
    for number in 0..20 {
        let found = scatter_e2e::cluster::get_patiently(addresses[3], &format!("key-{number}"));
        assert_eq!(found.as_deref(), Some(&b"1"[..]));
    }
}
