//! Pictures of made-up clusters.

use super::*;
use bytes::Bytes;
use scatter_core::group::Configuration;
use scatter_core::types::{Ballot, ConfigurationVersion, Incarnation, RangeVersion, Slot};
use scatter_wire::Description;

fn position(byte: u8) -> Position {
    if byte == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[byte])) }
}

fn ballot() -> Ballot {
    Ballot { round: 3, node: NodeId(1), incarnation: Incarnation(1) }
}

fn descriptor(group: u64, start: u8, end: u8, members: &[u64]) -> Descriptor {
    let member = |node: &u64| scatter_core::group::Member {
        node: NodeId(*node),
        incarnation: Incarnation(1),
        role: Role::Voter,
        address: format!("127.0.0.1:{node}"),
    };
    Descriptor {
        group: GroupId(group),
        configuration: Configuration {
            version: ConfigurationVersion(4),
            members: members.iter().map(member).collect(),
        },
        range_version: RangeVersion(2),
        range: KeyRange { start: position(start), end: position(end) },
        leader: Some(NodeId(1)),
        ballot: ballot(),
    }
}

/// Node `id` that hosts a replica of each group it is a member of; node 1 leads all of them.
fn description(id: u64, descriptors: &[Descriptor]) -> Description {
    let hosted = descriptors.iter().filter(|descriptor| descriptor.configuration.member(NodeId(id)).is_some());
    let replicas = hosted.map(|descriptor| ReplicaInfo {
        group: descriptor.group,
        incarnation: Incarnation(1),
        role: if id == 1 { ReplicaRole::Leader } else { ReplicaRole::Follower },
        ballot: ballot(),
        decided: Slot(7),
        applied: Slot(6),
        keys: 11,
        bytes: 222,
        operations_per_second: 33,
        pending: None,
        range_version: RangeVersion(2),
    });
    Description {
        cluster_name: "test".into(),
        cluster: Some(scatter_core::types::ClusterId(5)),
        node: NodeInfo {
            node: NodeId(id),
            peer_address: format!("127.0.0.1:{id}"),
            http_address: format!("127.0.0.1:{}", 100 + id),
            zone: "a".into(),
            state: NodeState::Alive,
            replicas: replicas.collect(),
        },
        descriptors: descriptors.to_vec(),
        nodes: Vec::new(),
    }
}

fn picture(answering: &[u64], descriptors: &[Descriptor]) -> Picture {
    let mut survey = Survey::default();
    for id in answering {
        survey.descriptions.insert(NodeId(*id), description(*id, descriptors));
    }
    for node in descriptors.iter().flat_map(|descriptor| &descriptor.configuration.members) {
        if !survey.descriptions.contains_key(&node.node) {
            survey.unreached.insert(node.node, "no answer".into());
        }
    }
    Picture::new("test", survey)
}

fn kinds(picture: &Picture) -> Vec<&'static str> {
    picture.ring().problems.iter().map(|problem| problem.kind).collect()
}

#[test]
fn a_healthy_ring_has_the_documented_shape_and_no_problem() {
    let picture = picture(&[1, 2, 3], &[descriptor(0xa, 0, 0, &[1, 2, 3])]);
    let ring = serde_json::to_value(picture.ring()).expect("JSON");
    let member = |node: u64, role: &str| {
        serde_json::json!({
            "node": format!("{node:016x}"), "role": role, "reachable": true, "address": format!("127.0.0.1:{node}"),
        })
    };
    let expected = serde_json::json!({
        "cluster": "test",
        "cluster_id": "00000000000000000000000000000005",
        "groups": [{
            "id": "000000000000000a",
            "epoch": { "configuration": 4, "range": 2 },
            "range": { "start": "", "end": "" },
            "leader": "0000000000000001",
            "members": [member(1, "leader"), member(2, "follower"), member(3, "follower")],
            "keys": 11, "bytes": 222, "ops_per_second": 33, "pending": null,
        }],
        "problems": [],
    });
    assert_eq!(ring, expected);
    let nodes = serde_json::to_value(picture.nodes()).expect("JSON");
    assert_eq!(nodes["nodes"][1]["id"], "0000000000000002");
    assert_eq!(nodes["nodes"][1]["peer"], "127.0.0.1:2");
    assert_eq!(nodes["nodes"][1]["http"], "127.0.0.1:102");
    assert_eq!(nodes["nodes"][1]["state"], "alive");
    assert_eq!(nodes["nodes"][1]["replicas"][0]["role"], "follower");
}

#[test]
fn two_and_three_groups_in_order_are_a_whole_ring() {
    let nodes = [1, 2, 3];
    let two = [descriptor(1, 200, 100, &nodes), descriptor(2, 100, 200, &nodes)];
    assert!(kinds(&picture(&nodes, &two)).is_empty());
    let three = [descriptor(1, 0, 100, &nodes), descriptor(2, 100, 200, &nodes), descriptor(3, 200, 0, &nodes)];
    let picture = picture(&nodes, &three);
    assert!(kinds(&picture).is_empty());
    let order: Vec<_> = picture.ring().groups.iter().map(|group| group.range.start.clone()).collect();
    assert_eq!(order, ["", "64", "c8"]);
}

#[test]
fn gaps_and_overlaps_are_told() {
    let nodes = [1, 2, 3];
    let gap = [descriptor(1, 0, 100, &nodes), descriptor(2, 150, 0, &nodes)];
    assert_eq!(kinds(&picture(&nodes, &gap)), ["gap"]);
    let overlap = [descriptor(1, 0, 150, &nodes), descriptor(2, 100, 0, &nodes)];
    assert_eq!(kinds(&picture(&nodes, &overlap)), ["overlap"]);
    let lonely = [descriptor(1, 0, 100, &nodes)];
    assert_eq!(kinds(&picture(&nodes, &lonely)), ["gap"]);
    let doubled = [descriptor(1, 0, 0, &nodes), descriptor(2, 100, 150, &nodes)];
    assert!(kinds(&picture(&nodes, &doubled)).contains(&"overlap"));
}

#[test]
fn silent_members_and_leaders_are_told() {
    let whole = [descriptor(1, 0, 0, &[1, 2, 3])];
    assert_eq!(kinds(&picture(&[1, 2], &whole)), ["under_replicated", "unreachable"]);
    assert_eq!(kinds(&picture(&[2, 3], &whole)), ["under_replicated", "no_leader", "unreachable"]);
    assert_eq!(kinds(&picture(&[1], &whole)), ["no_majority", "unreachable", "unreachable"]);
    assert_eq!(kinds(&picture(&[1, 2, 3], &[descriptor(1, 0, 0, &[1])])), ["under_replicated"]);
    assert_eq!(kinds(&picture(&[1], &[descriptor(1, 0, 0, &[1])])), Vec::<&str>::new(), "one node is all there is");
    assert_eq!(kinds(&picture(&[], &[])), ["no_ring"]);
    let silent = picture(&[1, 2], &whole);
    assert_eq!(silent.nodes().nodes[2].state, "unreachable");
    assert!(!silent.ring().groups[0].members[2].reachable);
}

#[test]
fn keys_are_looked_up_by_position() {
    let nodes = [1, 2, 3];
    let picture = picture(&nodes, &[descriptor(1, 200, 100, &nodes), descriptor(2, 100, 200, &nodes)]);
    for text in ["a", "users/42", "users/43", "z"] {
        let key = Key::new(text).expect("a key");
        let lookup = picture.lookup(&key);
        let first = key.position().0[0];
        let owner = if (100..200).contains(&first) { 2 } else { 1 };
        assert_eq!(lookup.group, Some(format!("{owner:016x}")));
        assert_eq!(lookup.position, key.position().to_string());
        assert_eq!(lookup.partition, text.split('/').next().expect("a part"));
        assert_eq!(lookup.hops, Some(2));
    }
    let odd = picture.lookup(&Key::new(vec![0xff, b'%', b'/', b'a']).expect("a key"));
    assert_eq!((odd.key.as_str(), odd.partition.as_str()), ("%FF%25/a", "%FF%25"));
}

#[test]
fn a_group_is_shown_with_its_replicas_and_problems() {
    let picture = picture(&[1, 2], &[descriptor(9, 0, 0, &[1, 2, 3])]);
    let detail = serde_json::to_value(picture.group_detail(GroupId(9)).expect("it is known")).expect("JSON");
    assert_eq!(detail["id"], "0000000000000009");
    assert_eq!(detail["replicas"].as_array().map(Vec::len), Some(2));
    assert_eq!(detail["replicas"][0]["decided"], 7);
    assert_eq!(detail["problems"][0]["kind"], "under_replicated");
    assert!(picture.group_detail(GroupId(8)).is_none());
}

#[test]
fn the_dead_whose_place_others_have_taken_are_left_out() {
    let descriptors = [descriptor(0xa, 0, 0, &[1, 2, 8])];
    let survey = |state| {
        let mut survey = Survey::default();
        for id in [1, 2, 3] {
            survey.descriptions.insert(NodeId(id), description(id, &descriptors));
        }
        // 7 to 9 were what node 3 is before it lost its disk; the group still counts on 8. 6 lived elsewhere.
        for (id, address) in [(6, 6), (7, 3), (8, 3), (9, 3)] {
            let peer_address = format!("127.0.0.1:{address}");
            let info =
                NodeInfo { node: NodeId(id), peer_address, state, replicas: Vec::new(), ..description(3, &[]).node };
            survey.hearsay.insert(NodeId(id), info);
            survey.unreached.insert(NodeId(id), "no answer".into());
        }
        survey
    };
    let shown = |state| {
        let nodes = Picture::new("test", survey(state)).nodes().nodes;
        nodes.iter().map(|node| u64::from_str_radix(&node.id, 16).expect("an id")).collect::<Vec<_>>()
    };
    assert_eq!(shown(NodeState::Dead), [1, 2, 3, 6, 8]);
    assert_eq!(shown(NodeState::Suspect), [1, 2, 3, 6, 7, 8, 9]);
}
