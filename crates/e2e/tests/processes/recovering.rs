//! Groups that lose their majority for good, and what is left of them.

use scatter_e2e::cluster::{Cluster, REPAIRS, get_patiently, put_patiently};
use scatter_e2e::http::{self, Reply, Request};
use scatter_e2e::operator::Operator;
use scatter_e2e::wait;
use serde_json::Value;

const KEYS: usize = 40;

fn recover(operator: Operator, query: &str, body: &str) -> Reply {
    let path = format!("/v1/recover{query}");
    let request = Request { limit: wait::LIMIT, ..Request::new("POST", &path).with_body(body.as_bytes()) };
    request.ask(operator.admin).expect("an answer")
}

fn names(value: &Value) -> Vec<String> {
    let list = value.as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> = list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

fn value(key: usize) -> Vec<u8> {
    format!("value {key}").into_bytes()
}

/// Three nodes, two groups, and acknowledged writes that all three have applied.
fn start() -> (Cluster, Operator, Vec<String>) {
    let mut cluster = Cluster::start_with(3, &REPAIRS);
    let operator = Operator { admin: cluster.start_admin() };
    let first = operator.settled_with(1)[0].id.clone();
    operator.order(&first, "split", r#"{"at":"80"}"#);
    let groups = operator.settled_with(2).into_iter().map(|group| group.id).collect();
    for key in 0..KEYS {
        put_patiently(cluster.addresses()[0], &format!("kept/{key}"), &value(key));
    }
    let applied = |status: &Value| {
        let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
        replicas.iter().map(|replica| replica["applied"].as_u64().unwrap_or(0)).collect::<Vec<_>>()
    };
    wait::until_true("all have applied the same", || {
        let all: Vec<_> = cluster.nodes.iter().map(|node| applied(&node.status())).collect();
        all.windows(2).all(|pair| pair[0] == pair[1])
    });
    (cluster, operator, groups)
}

#[test]
fn a_group_that_lost_its_majority_goes_on_with_its_survivor() {
    let (mut cluster, operator, groups) = start();
    let ids: Vec<String> = cluster.nodes.iter().map(|node| node.id()).collect();
    let survivor = ids[2].clone();

    // What makes no sense, or is not called for, is refused and changes nothing.
    let order = |group: &str, more: &str| format!(r#"{{"group":"{group}"{more}}}"#);
    for (query, body, status) in [
        ("?dry_run=true", order(&groups[0], ""), 409),
        ("", order(&groups[0], r#","unsafe":true"#), 409),
        ("", order(&groups[0], ""), 400),
        ("", "{}".to_owned(), 400),
        ("", order("77", r#","unsafe":true"#), 404),
        ("", order(&groups[0], r#","survivors":["nobody"],"unsafe":true"#), 400),
        ("", order(&groups[0], r#","survivors":["0000000000000001"],"unsafe":true"#), 409),
        ("", order(&groups[0], r#","force":true"#), 400),
    ] {
        let reply = recover(operator, query, &body);
        assert_eq!(reply.status, status, "{query} {body}: {}", reply.text());
    }

    cluster.nodes[0].kill();
    cluster.nodes[1].kill();
    // The dead are no survivors, and the living are.
    let dead = format!(r#","survivors":["{}"],"unsafe":true"#, ids[0]);
    assert_eq!(recover(operator, "", &order(&groups[0], &dead)).status, 409);

    let mut children = Vec::new();
    for group in &groups {
        let plan = recover(operator, "?dry_run=true", &order(group, ""));
        assert_eq!(plan.status, 200, "{}", plan.text());
        let mut condemned = vec![ids[0].clone(), ids[1].clone()];
        condemned.sort();
        assert_eq!(names(&plan.json()["survivors"]), [survivor.as_str()]);
        assert_eq!(names(&plan.json()["condemned"]), condemned);
        assert!(plan.json()["may_be_lost"].as_str().is_some_and(|text| text.contains(&survivor)), "{}", plan.text());

        // For a moment the survivor cannot know that its leader is gone.
        let reply = wait::until("the group is recovered", || {
            let reply = recover(operator, "", &order(group, r#","unsafe":true"#));
            let early = reply.status == 409 && reply.text().contains("has a leader");
            assert!(early || reply.status == 200, "{}", reply.text());
            (!early).then_some(reply)
        });
        let child = reply.json()["child"].as_str().expect("the new group").to_owned();
        assert_ne!(child, *group);
        children.push(child);
    }
    let mut now: Vec<String> = operator.led(2);
    now.sort();
    children.sort();
    assert_eq!(now, children);
    for key in 0..KEYS {
        assert_eq!(get_patiently(cluster.addresses()[2], &format!("kept/{key}")), Some(value(key)));
    }
    put_patiently(cluster.addresses()[2], "kept/new", b"1");

    // The deed is on record: in the groups themselves, and where orders are noted.
    let status = cluster.nodes[2].status();
    let replicas = status["replicas"].as_array().cloned().unwrap_or_default();
    for replica in
        replicas.iter().filter(|replica| children.contains(&replica["group"].as_str().unwrap_or("").to_owned()))
    {
        let record = &replica["recovered"][0];
        assert!(groups.iter().any(|group| record["from"] == group.as_str()), "{replica:#}");
        assert_eq!(names(&record["survivors"]), [survivor.as_str()]);
    }
    let operations = http::get(operator.admin, "/v1/operations").expect("an answer").json();
    let list = operations["operations"].as_array().cloned().unwrap_or_default();
    let noted = list.iter().filter(|entry| entry["kind"] == "recover" && entry["state"] == "done");
    assert_eq!(noted.count(), 2, "{operations:#}");

    // Whoever was condemned is not listened to: it gives up its id, and comes back as somebody new.
    cluster.nodes[0].start();
    assert!(!cluster.nodes[0].wait().success());
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready();
    assert_ne!(cluster.nodes[0].id(), ids[0]);
    // With it and another new node the groups come to their size by themselves.
    let index = cluster.push_node(&REPAIRS);
    cluster.nodes[index].start();
    wait::until_true("the groups have three voters", || operator.voters().iter().all(|voters| voters.len() == 3));
    for key in 0..KEYS {
        assert_eq!(get_patiently(cluster.addresses()[index], &format!("kept/{key}")), Some(value(key)));
    }
}
