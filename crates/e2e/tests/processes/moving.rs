//! Nodes that are emptied, removed, filled, and that come back when everything has moved on.

use scatter_e2e::cluster::{BY_HAND, Cluster, REPAIRS, get_patiently, put_patiently, text};
use scatter_e2e::http;
use scatter_e2e::operator::Operator;
use scatter_e2e::small_disk;
use scatter_e2e::wait;
use scatter_e2e::workload::Workload;

/// Acknowledged writes, and answered reads, that show that a cluster works.
const ENOUGH: u64 = 40;

fn start(nodes: usize, settings: &[(&str, &str)]) -> (Cluster, Operator) {
    let mut cluster = Cluster::start_with(nodes, settings);
    let admin = cluster.start_admin();
    (cluster, Operator { admin })
}

/// Splits the only group in two. Returns the parent's id.
fn split(operator: Operator) -> String {
    let groups = operator.settled_with(1);
    operator.order(&groups[0].id, "split", r#"{"at":"80"}"#);
    let _ = operator.settled_with(2);
    groups[0].id.clone()
}

/// Starts one more node. Returns its index and id, once it is known and alive.
fn join(cluster: &mut Cluster, operator: Operator, settings: &[(&str, &str)]) -> (usize, String) {
    let index = cluster.push_node(settings);
    cluster.nodes[index].start();
    let id = cluster.nodes[index].id();
    operator.wait_node_state(&id, "alive");
    (index, id)
}

fn expect_conflict(reply: &http::Reply) {
    assert_eq!(reply.status, 409, "{}", reply.text());
    assert_eq!(reply.json()["type"], "urn:scatter:problem:conflict", "{}", reply.text());
}

fn hosts_nothing(cluster: &Cluster, index: usize) -> bool {
    let status = cluster.nodes[index].try_status();
    status.is_some_and(|status| status["replicas"].as_array().is_some_and(Vec::is_empty))
}

#[test]
fn a_node_is_drained_until_it_hosts_nothing_and_may_stop() {
    let (mut cluster, operator) = start(3, &REPAIRS);
    split(operator);
    let workload = Workload::start(3, &cluster.addresses()[1..]);
    let id = cluster.nodes[0].id();

    // There is nobody to take over what it holds.
    let before = operator.voters();
    for what in ["drain?dry_run=true", "drain"] {
        expect_conflict(&operator.order_node(&id, what));
        assert_eq!(cluster.nodes[0].status()["draining"], false);
    }
    assert_eq!(operator.order_node("77", "drain").status, 404);

    let (_, newcomer) = join(&mut cluster, operator, &REPAIRS);
    let plan = operator.order_node(&id, "drain?dry_run=true");
    assert_eq!((plan.status, plan.json()["groups"].as_array().map(Vec::len)), (200, Some(2)), "{}", plan.text());
    assert_eq!(cluster.nodes[0].status()["draining"], false, "a dry run does nothing");
    assert_eq!(operator.voters(), before);

    // It is emptied also if it is killed meanwhile.
    let reply = operator.order_node(&id, "drain");
    assert_eq!(reply.status, 200, "{}", reply.text());
    // Whoever orders next knows of it: another node could not be spared.
    expect_conflict(&operator.order_node(&cluster.nodes[1].id(), "drain"));
    cluster.nodes[0].restart();
    cluster.nodes[0].wait_ready();
    assert_eq!(cluster.nodes[0].status()["draining"], true, "a restart forgets no drain");
    operator.wait_node_state(&id, "drained");
    assert!(hosts_nothing(&cluster, 0));
    assert!(operator.voters().iter().all(|voters| voters.len() == 3 && voters.contains(&newcomer)));
    workload.wait_progress(ENOUGH);

    // It may stop, and nobody misses it; what comes back is still not to be used.
    assert!(cluster.nodes[0].terminate().success());
    workload.wait_progress(ENOUGH);
    cluster.nodes[0].start();
    operator.wait_node_state(&id, "drained");
    let reply = operator.order_node(&id, "undrain");
    assert_eq!(reply.status, 200, "{}", reply.text());
    operator.wait_node_state(&id, "alive");
    workload.wait_progress(ENOUGH);
    workload.finish(&cluster.addresses()[1..]);

    let operations = http::get(operator.admin, "/v1/operations").expect("an answer").json();
    let list = operations["operations"].as_array().cloned().unwrap_or_default();
    for kind in ["drain", "undrain"] {
        let noted = list.iter().find(|entry| entry["kind"] == kind && entry["detail"]["node"] == id.as_str());
        assert_eq!(noted.map(|entry| &entry["state"]), Some(&"done".into()), "{operations:#}");
    }
}

#[test]
fn a_dead_node_is_removed_and_what_it_held_is_held_elsewhere() {
    let (mut cluster, operator) = start(3, &BY_HAND);
    split(operator);
    let workload = Workload::start(3, &cluster.addresses()[1..]);
    let (_, newcomer) = join(&mut cluster, operator, &BY_HAND);
    let dead = cluster.nodes[0].id();
    let before = operator.voters();
    for what in ["remove?dry_run=true", "remove"] {
        expect_conflict(&operator.order_node(&dead, what));
    }
    assert_eq!(operator.voters(), before, "who lives and hosts something is not removed");
    assert_eq!(operator.order_node("77", "remove").status, 404);

    cluster.nodes[0].kill();
    operator.wait_node_state(&dead, "dead");
    workload.wait_progress(ENOUGH);
    // Nothing is laid upon the dead.
    expect_conflict(&operator.order_node(&dead, "drain"));
    expect_conflict(&operator.order_node(&dead, "undrain"));
    let group = operator.groups()[0].id.clone();
    expect_conflict(&operator.try_order(&group, "transfer-leader", &format!(r#"{{"to":"{dead}"}}"#)));

    let plan = operator.order_node(&dead, "remove?dry_run=true");
    assert_eq!(plan.status, 200, "{}", plan.text());
    let changes = plan.json()["changes"].as_array().cloned().unwrap_or_default();
    assert!(changes.len() == 2 && changes.iter().all(|change| change["replaced_by"] == newcomer.as_str()));
    assert_eq!(operator.voters(), before, "a dry run does nothing");
    let reply = operator.order_node(&dead, "remove");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let _ = operator.settled_with(2);
    for voters in operator.voters() {
        assert!(voters.len() == 3 && voters.contains(&newcomer) && !voters.contains(&dead), "{voters:?}");
    }
    expect_conflict(&operator.try_order(&group, "members", &format!(r#"{{"add":["{dead}"]}}"#)));
    // Of the old ones one more may go: the newcomer counts.
    cluster.nodes[1].kill();
    workload.wait_progress(ENOUGH);
    cluster.nodes[1].start();
    cluster.nodes[1].wait_ready();
    // Should it come back, it finds that it is needed no more.
    cluster.nodes[0].start();
    wait::until_true("the one that was removed hosts nothing", || hosts_nothing(&cluster, 0));
    operator.wait_node_state(&dead, "alive");
    workload.finish(&cluster.addresses()[1..]);
}

#[test]
fn nodes_die_one_after_the_other_and_every_group_gets_back_to_its_size() {
    let settings: Vec<(&str, &str)> = REPAIRS
        .iter()
        .map(|(key, value)| (*key, if *key == "policy.replace_dead_after_ms" { "3000" } else { *value }))
        .collect();
    let (mut cluster, operator) = start(3, &settings);
    split(operator);
    let gateway = cluster.start_gateway();
    put_patiently(gateway, "from", b"the beginning");
    let workload = Workload::start(3, &[gateway]);
    // Those that founded the cluster go, and those that came first.
    for victim in 0..4 {
        let (index, newcomer) = join(&mut cluster, operator, &settings);
        workload.wait_progress(ENOUGH);
        let dead = cluster.nodes[victim].id();
        cluster.nodes[victim].kill();
        wait::until_true("every group has its size again, without a hand", || {
            let voters = operator.voters();
            voters.len() == 2 && voters.iter().all(|voters| voters.len() == 3 && !voters.contains(&dead))
        });
        assert!(cluster.nodes[index].is_running() && operator.node_state(&newcomer) == "alive");
        workload.wait_progress(ENOUGH);
    }
    let _ = operator.settled_with(2);
    assert_eq!(get_patiently(gateway, "from").as_deref(), Some(&b"the beginning"[..]));
    workload.finish(&[gateway]);
}

#[test]
fn a_node_comes_back_after_its_groups_were_split_merged_and_moved_away() {
    let (mut cluster, operator) = start(3, &BY_HAND);
    let (_, newcomer) = join(&mut cluster, operator, &BY_HAND);
    let addresses = cluster.addresses();
    for number in 0..60 {
        put_patiently(addresses[0], &format!("old/{number}"), number.to_string().as_bytes());
    }
    let lower = split(operator);
    let away = cluster.nodes[0].id();
    let workload = Workload::start(3, &addresses[1..]);
    workload.wait_progress(ENOUGH);
    cluster.nodes[0].kill();

    // Of what it held one group is split and moved away whole, the other moved away and merged into it.
    let groups = operator.groups();
    let upper = groups.iter().find(|group| group.id != lower).expect("the child").id.clone();
    wait::until_true("the lower group is split", || {
        operator.try_order(&lower, "split", r#"{"at":"40"}"#).status == 200 || operator.groups().len() == 3
    });
    let move_away = format!(r#"{{"add":["{newcomer}"],"remove":["{away}"]}}"#);
    for group in operator.groups() {
        wait::until_true("the group moves away", || {
            let reply = operator.try_order(&group.id, "members", &move_away);
            assert!(matches!(reply.status, 200 | 409 | 503), "{}", reply.text());
            operator.voters().iter().filter(|voters| voters.contains(&newcomer)).count() > 0 && reply.status == 200
        });
    }
    let middle = operator.groups().iter().find(|group| group.start == "40").expect("the third").id.clone();
    operator.order(&middle, "merge", "");
    workload.wait_progress(ENOUGH);
    assert!(operator.groups().iter().all(|group| group.id != upper), "it was taken over");
    assert!(operator.voters().iter().all(|voters| voters.len() == 3 && !voters.contains(&away)));

    // What it still has is of use to nobody: it lets go of it, and meanwhile answers with nothing that is old.
    put_patiently(addresses[1], "old/7", b"new");
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready();
    assert_eq!(cluster.nodes[0].id(), away, "it is the node it was");
    assert_eq!(get_patiently(addresses[0], "old/7").as_deref(), Some(&b"new"[..]));
    wait::until_true("it hosts nothing any more", || hosts_nothing(&cluster, 0));
    let _ = operator.settled_with(2);
    workload.wait_progress(ENOUGH);

    // It is as good as any other: it may be taken in again, and then counts.
    let one = cluster.nodes[1].id();
    for group in operator.settled_with(2) {
        operator.order(&group.id, "members", &format!(r#"{{"add":["{away}"],"remove":["{one}"]}}"#));
    }
    assert!(operator.voters().iter().all(|voters| voters.contains(&away)));
    cluster.nodes[2].kill();
    for number in (0..60).filter(|number| *number != 7) {
        let found = get_patiently(addresses[0], &format!("old/{number}"));
        assert_eq!(found, Some(number.to_string().into_bytes()), "old/{number}");
    }
    cluster.nodes[2].start();
    cluster.nodes[2].wait_ready();
    workload.finish(&addresses);
}

fn value(number: usize) -> Vec<u8> {
    small_disk::noise(number, 64 << 10)
}

#[test]
fn a_disk_that_fills_up_on_the_receiving_side_of_a_migration_costs_nothing() {
    let name = "moving::a_disk_that_fills_up_on_the_receiving_side_of_a_migration_costs_nothing";
    let Some(disk) = small_disk::run_again(name, 208) else { return };
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![1; 168 << 20]).expect("the disk is still empty");
    let mut cluster = Cluster::start_with(3, &BY_HAND);
    let admin = cluster.start_admin_with(&[("admin.order_ms", "15000")]);
    let operator = Operator { admin };
    let addresses = cluster.addresses();
    // More than there is room for.
    for number in 0..500 {
        put_patiently(addresses[number % 3], &format!("fill/{number}"), &value(number));
    }
    let index = cluster.push_node(&BY_HAND);
    let small = &mut cluster.nodes[index];
    small.set("storage.segment_bytes", "1048576");
    small.set("storage.memtable_bytes", "1048576");
    small.set("node.data_dir", &disk.join("data").display().to_string());
    small.start();
    let id = small.id();
    operator.wait_node_state(&id, "alive");

    let group = operator.settled_with(1)[0].id.clone();
    let before = operator.voters();
    let gone = cluster.nodes[0].id();
    let change = format!(r#"{{"add":["{id}"],"remove":["{gone}"]}}"#);
    let reply = operator.try_order(&group, "members", &change);
    assert!(matches!(reply.status, 409 | 503 | 504), "it does not fit: {} {}", reply.status, reply.text());
    let lives = cluster.nodes[index].process().ended().is_none();
    assert!(!lives || text(&reply.json()["detail"]).contains("disk"), "it says why: {}", reply.text());
    let is_full = |member: &mut scatter_e2e::cluster::Member| match member.process().ended() {
        Some(_) => true,
        None => member.try_status().is_some_and(|status| status["disk_full"] == true),
    };
    wait::until_true("the disk is full", || is_full(&mut cluster.nodes[index]));
    // Asked again it is refused at once.
    let again = operator.try_order(&group, "members", &change);
    expect_conflict(&again);
    assert!(!lives || text(&again.json()["detail"]).contains("full"), "{}", again.text());
    let problem = reply.json();
    assert!(text(&problem["type"]).starts_with("urn:scatter:problem:"), "{problem}");
    assert_eq!(operator.voters(), before, "who cannot hold the data does not become a voter");
    let operations = http::get(admin, "/v1/operations").expect("an answer").json();
    assert!(operations["operations"][0]["reason"].is_string(), "{operations:#}");
    // The group has lost nothing and goes on.
    put_patiently(addresses[1], "while", b"it is full");
    for number in (0..500).step_by(50) {
        assert_eq!(get_patiently(addresses[2], &format!("fill/{number}")), Some(value(number)));
    }

    // With room it works, whether the node got by or has to be started again.
    std::fs::remove_file(&ballast).expect("space");
    if cluster.nodes[index].process().ended().is_some() {
        cluster.nodes[index].wait();
        cluster.nodes[index].start();
    }
    assert_eq!(cluster.nodes[index].id(), id, "it is still the same node");
    wait::until_true("the node takes the place", || {
        let reply = operator.try_order(&group, "members", &change);
        assert!(matches!(reply.status, 200 | 409 | 503 | 504), "{}", reply.text());
        operator.voters().iter().all(|voters| voters.contains(&id) && !voters.contains(&gone))
    });
    // It counts, and has everything.
    cluster.nodes[1].kill();
    for number in 0..500 {
        let found = get_patiently(addresses[2], &format!("fill/{number}"));
        assert_eq!(found, Some(value(number)), "fill/{number}");
    }
    put_patiently(addresses[2], "while", b"it counts");
}
