//! What leaders hear of the groups around theirs: the way on a ring larger than the nodes' tables, and how busy neighbours are.

use scatter_e2e::cluster::{BY_HAND, Cluster, get_patiently, put_patiently, text};
use scatter_e2e::http;
use scatter_e2e::operator::Operator;
use scatter_e2e::wait;

const GROUPS: u32 = 24;

/// Levels of far links on a ring of that many groups: 1, 2, 4, 8 and 16 groups ahead.
const LEVELS: u32 = 5;

#[test]
fn a_ring_larger_than_the_gossip_is_crossed_by_far_links() {
    let far = [("gossip.max_groups", "4"), ("consensus.look_around_ms", "100")];
    let mut cluster = Cluster::start_with(3, &[&BY_HAND[..], &far].concat());
    let gateway = cluster.start_gateway();
    let operator = Operator { admin: cluster.start_admin() };
    let mut last = operator.settled()[0].id.clone();
    for index in 1..GROUPS {
        let body = format!(r#"{{"at":"{:02x}"}}"#, index * 256 / GROUPS);
        last = text(&operator.order(&last, "split", &body)["child"]);
        if index % 3 == 0 {
            operator.order(&last, "transfer-leader", "");
        }
    }
    assert_eq!(operator.settled_with(GROUPS as usize).len(), GROUPS as usize);

    let sum = |name: &str| -> u64 {
        cluster.addresses().into_iter().map(|node| http::metric(node, name).expect("a figure")).sum()
    };
    wait::until_true("all far links are there", || sum("scatter_far_links") == u64::from(GROUPS * LEVELS));
    assert!(sum("scatter_looks_total") > sum("scatter_looks_unanswered_total"));

    for number in 0..100 {
        let (key, value) = (format!("key-{number}"), format!("value-{number}"));
        put_patiently(gateway, &key, value.as_bytes());
        assert_eq!(get_patiently(gateway, &key).as_deref(), Some(value.as_bytes()));
    }
}

#[test]
fn cold_neighbours_that_are_led_apart_merge() {
    let by_hand = BY_HAND.iter().filter(|(key, _)| *key != "policy.merge");
    let merging = [
        ("policy.merge", "true"),
        ("policy.damping_ms", "1000"),
        ("policy.merge_damping_ms", "8000"),
        ("policy.cool_down_ms", "1000"),
        ("consensus.look_around_ms", "1000"),
    ];
    let settings: Vec<_> = by_hand.chain(&merging).copied().collect();
    let mut cluster = Cluster::start_with(3, &settings);
    let operator = Operator { admin: cluster.start_admin() };
    let parent = operator.settled()[0].id.clone();
    let child = text(&operator.order(&parent, "split", r#"{"at":"80"}"#)["child"]);
    operator.order(&child, "transfer-leader", "");
    let groups = operator.groups();
    let leader = |id: &str| groups.iter().find(|group| group.id == id).map(|group| group.leader.clone());
    assert_ne!(leader(&parent), leader(&child));
    wait::until_true("the two have merged", || operator.groups().len() == 1);
}
