//! The admin program over pretended nodes.

#[path = "../../client/tests/fake/mod.rs"]
mod fake;

use fake::{Cluster, Neighbour};
use reqwest::{Client, StatusCode};
use scatter_admin::{AdminProgramSettings, PROGRAM};
use scatter_core::types::NodeId;
use scatter_service::configuration::{Loaded, load};
use scatter_service::{Process, Shutdown};
use scatter_wire::{AdminRequest, Boundary, NewMember, NodeState, Refusal, Side};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::sync::Arc;

const GROUP: &str = "0000000000000abc";

struct Admin {
    cluster: Arc<Cluster>,
    http: Client,
    base: String,
}

impl Admin {
    async fn start() -> Self {
        let cluster = Cluster::start(3).await;
        let listen = format!("{}:8081", cluster.host);
        let seed = cluster.address(1);
        let arguments =
            ["scatter-admin", "--listen", &listen, "--seeds", &seed, "--cluster", "fake", "--set", "admin.keep_ms=0"];
        let loaded = load::<AdminProgramSettings>(&PROGRAM, arguments.map(OsString::from), []);
        let Ok(Loaded::Run(settings)) = loaded else { panic!("good arguments") };
        let process = Process { program: PROGRAM, shutdown: Shutdown::new() };
        tokio::spawn(async move { scatter_admin::run(*settings, process).await.expect("it runs") });
        let http = Client::builder().no_proxy().build().expect("a client");
        let admin = Self { cluster, http, base: format!("http://{listen}") };
        while admin.http.get(format!("{}/livez", admin.base)).send().await.is_err() {
            tokio::task::yield_now().await;
        }
        admin
    }

    async fn get(&self, path: &str) -> (StatusCode, Value) {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.expect("a reply");
        (response.status(), response.json().await.expect("JSON"))
    }

    /// The changes of members that were ordered, not only asked about.
    fn changes(&self) -> Vec<AdminRequest> {
        let is_change = |order: &AdminRequest| matches!(order, AdminRequest::ChangeMembers { dry_run: false, .. });
        self.cluster.group.lock().orders.iter().filter(|order| is_change(order)).cloned().collect()
    }

    async fn post(&self, path: &str, body: impl Into<String>) -> (StatusCode, Value) {
        let request = self.http.post(format!("{}{path}", self.base)).body(body.into());
        let response = request.send().await.expect("a reply");
        (response.status(), response.json().await.expect("JSON"))
    }
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}

#[tokio::test]
async fn shows_ring_group_nodes_and_look_ups() {
    let admin = Admin::start().await;
    let (status, ring) = admin.get("/v1/ring").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ring["cluster"], "fake");
    assert_eq!(ring["problems"], json!([]));
    let group = &ring["groups"][0];
    assert_eq!((&group["id"], &group["leader"]), (&json!(GROUP), &json!(id(1))));
    assert_eq!(group["epoch"], json!({ "configuration": 1, "range": 1 }));
    assert_eq!(group["range"], json!({ "start": "", "end": "" }));
    assert_eq!((&group["keys"], &group["bytes"]), (&json!(3), &json!(33)));
    assert_eq!(group["members"][1]["role"], "follower");

    let (_, detail) = admin.get("/v1/groups/abc").await;
    assert_eq!(detail["id"], GROUP);
    assert_eq!(detail["replicas"].as_array().map(Vec::len), Some(3));
    let (_, nodes) = admin.get("/v1/nodes").await;
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some(3));
    assert_eq!(nodes["nodes"][0]["state"], "alive");
    let (_, found) = admin.get("/v1/lookup?key=users%2F42").await;
    assert_eq!((&found["partition"], &found["group"]), (&json!("users"), &json!(GROUP)));
}

#[tokio::test]
async fn tells_what_is_wrong() {
    let admin = Admin::start().await;
    admin.cluster.kill(1).await;
    admin.cluster.depose();
    let (_, ring) = admin.get("/v1/ring").await;
    let kinds: Vec<_> = ring["problems"].as_array().expect("a list").iter().map(|problem| &problem["kind"]).collect();
    for kind in ["under_replicated", "no_leader", "unreachable"] {
        assert!(kinds.contains(&&json!(kind)), "{kind} is missing in {ring}");
    }
    let unreachable = kinds.iter().filter(|kind| **kind == &json!("unreachable")).count();
    assert_eq!(unreachable, 1, "the node that does not answer is the seed: {ring}");
    assert_eq!(ring["groups"][0]["leader"], Value::Null);
}

#[tokio::test]
async fn changes_members_by_hand() {
    let admin = Admin::start().await;
    let address = admin.cluster.run_node(NodeId(4), &format!("{}:0", admin.cluster.host)).await;
    let path = format!("/v1/groups/{GROUP}/members");
    // Node 4 is not known to anybody yet.
    assert_eq!(admin.post(&path, r#"{"add":["4"]}"#).await.0, StatusCode::NOT_FOUND);
    admin.cluster.introduce(4, &address);
    let (status, plan) = admin.post(&format!("{path}?dry_run=true"), r#"{"add":["4"],"remove":["2"]}"#).await;
    assert_eq!(status, StatusCode::OK, "{plan}");
    assert_eq!(plan["members"], json!([id(1), id(3), id(4)]));
    assert!(admin.changes().is_empty(), "a dry run orders nothing");
    let (status, done) = admin.post(&path, r#"{"add":["4"],"remove":["2"]}"#).await;
    assert_eq!((status, &done["result"]), (StatusCode::OK, &json!({ "done": true })));
    let ordered = admin.changes();
    let [AdminRequest::ChangeMembers { add, remove, version, dry_run: false, .. }] = &ordered[..] else {
        panic!("one order, not {ordered:?}")
    };
    assert_eq!(add, &[NewMember { node: NodeId(4), address }]);
    assert_eq!(remove, &[NodeId(2)]);
    let shown = admin.get("/v1/ring").await.1["groups"][0]["epoch"]["configuration"].as_u64().unwrap();
    assert_eq!(version.map(|version| version.0), Some(shown), "of two such orders at one moment the leader hears one");
    let body = json!({ "remove": ["1"], "configuration_version": shown + 1 }).to_string();
    let (status, problem) = admin.post(&path, body).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&format!("version {shown}, not {}", shown + 1)), "{problem}");
}

#[tokio::test]
async fn a_learner_left_over_is_removed_or_made_a_member_by_hand() {
    let admin = Admin::start().await;
    admin.cluster.only_learns(NodeId(3));
    let path = format!("/v1/groups/{GROUP}/members");
    let (status, plan) = admin.post(&format!("{path}?dry_run=true"), r#"{"remove":["3"]}"#).await;
    assert_eq!((status, &plan["members"]), (StatusCode::OK, &json!([id(1), id(2)])), "{plan}");
    assert_eq!(admin.post(&path, r#"{"remove":["3"]}"#).await.0, StatusCode::OK);
    let ordered = admin.changes();
    let [AdminRequest::ChangeMembers { add, remove, dry_run: false, .. }] = &ordered[..] else {
        panic!("one order, not {ordered:?}")
    };
    assert_eq!((add.len(), &remove[..]), (0, &[NodeId(3)][..]));
    let (status, plan) = admin.post(&format!("{path}?dry_run=true"), r#"{"add":["3"]}"#).await;
    assert_eq!((status, &plan["members"]), (StatusCode::OK, &json!([id(1), id(2), id(3)])), "{plan}");
}

#[tokio::test]
async fn a_group_is_not_made_smaller_than_the_policies_would_make_it() {
    let admin = Admin::start().await;
    let path = format!("/v1/groups/{GROUP}/members");
    let address = admin.cluster.run_node(NodeId(4), &format!("{}:0", admin.cluster.host)).await;
    admin.cluster.introduce(4, &address);
    let refused = async |body| {
        for path in [format!("{path}?dry_run=true"), path.clone()] {
            let (status, problem) = admin.post(&path, body).await;
            assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &urn("conflict")), "{body}: {problem}");
            assert_eq!(problem["retryable"], false, "{problem}");
            assert!(problem["detail"].as_str().is_some_and(|text| text.contains("min_size")), "{problem}");
        }
    };
    refused(r#"{"remove":["2"]}"#).await;
    refused(r#"{"remove":["2","3"],"add":["4"]}"#).await;
    assert_eq!(
        admin.post(&path, r#"{"remove":["2"],"add":["4"]}"#).await.0,
        StatusCode::OK,
        "it is as large as before"
    );

    // Who is dead may always go; who is merely silent, or goes beside the dead, not.
    admin.cluster.kill(3).await;
    admin.cluster.set_state(3, NodeState::Suspect);
    refused(r#"{"remove":["3"]}"#).await;
    admin.cluster.set_state(3, NodeState::Dead);
    refused(r#"{"remove":["2","3"]}"#).await;
    assert_eq!(admin.post(&path, r#"{"remove":["3"]}"#).await.0, StatusCode::OK);

    // A group that is too small already may change one for another, and gets no smaller.
    admin.cluster.only_learns(NodeId(3));
    refused(r#"{"remove":["2"]}"#).await;
    assert_eq!(admin.post(&path, r#"{"remove":["2"],"add":["4"]}"#).await.0, StatusCode::OK);
}

#[tokio::test]
async fn transfers_leadership() {
    let admin = Admin::start().await;
    let path = format!("/v1/groups/{GROUP}/transfer-leader");
    let (status, plan) = admin.post(&format!("{path}?dry_run=true"), "").await;
    assert_eq!((status, &plan["to"]), (StatusCode::OK, &json!(id(2))), "it says whom the leader would choose: {plan}");
    assert_eq!(admin.post(&path, r#"{"to":"3"}"#).await.0, StatusCode::OK);
    assert_eq!(admin.post(&path, "").await.0, StatusCode::OK);
    let ordered = admin.cluster.group.lock().orders.clone();
    let to: Vec<_> = ordered
        .iter()
        .map(|order| match order {
            AdminRequest::TransferLeader { to, dry_run, .. } => (*to, *dry_run),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(to, [(None, true), (Some(NodeId(3)), false), (None, false)]);
}

#[tokio::test]
async fn reshapes_the_ring_and_keeps_what_was_done() {
    let admin = Admin::start().await;
    *admin.cluster.neighbour.lock() = Some(Neighbour { held_for: 0 });
    let split = format!("/v1/groups/{GROUP}/split");
    let (status, plan) = admin.post(&format!("{split}?dry_run=true"), "").await;
    assert_eq!((status, &plan["dry_run"]), (StatusCode::OK, &json!(true)), "{plan}");
    assert_eq!(admin.get("/v1/operations").await.1, json!({ "operations": [] }), "a dry run is no operation");
    assert_eq!(admin.post(&split, r#"{"key":"users/42"}"#).await.0, StatusCode::OK);
    assert_eq!(admin.post(&format!("/v1/groups/{GROUP}/merge"), "{}").await.0, StatusCode::OK);
    let ordered = admin.cluster.group.lock().orders.clone();
    let (group, range_version) = (scatter_core::types::GroupId(0xabc), Some(scatter_core::types::RangeVersion(2)));
    let at = Boundary::of(&scatter_client::Key::new("users/42").expect("a key"));
    let expected = [
        AdminRequest::Split { group, at: None, range_version, dry_run: true },
        AdminRequest::Split { group, at: Some(at), range_version, dry_run: false },
        AdminRequest::TakeOver { group, from: Side::Successor, boundary: None, range_version, dry_run: false },
    ];
    assert_eq!(ordered, expected, "what is ordered is ordered of the range as it was seen");
    let (_, done) = admin.get("/v1/operations").await;
    let list = done["operations"].as_array().expect("a list");
    let kinds: Vec<_> = list.iter().map(|entry| (&entry["kind"], &entry["state"])).collect();
    assert_eq!(kinds, [(&json!("merge"), &json!("done")), (&json!("split"), &json!("done"))], "the newest first");
}

#[tokio::test]
async fn a_takeover_is_done_when_who_loses_can_be_given_the_next_order() {
    let admin = Admin::start().await;
    *admin.cluster.neighbour.lock() = Some(Neighbour { held_for: 20 });
    let (status, done) = admin.post(&format!("/v1/groups/{GROUP}/repartition"), r#"{"boundary":"f8"}"#).await;
    assert_eq!((status, &done["loser"]), (StatusCode::OK, &json!("0000000000000abd")), "{done}");
    let (status, done) = admin.post("/v1/groups/abd/split", r#"{"at":"fc"}"#).await;
    assert_eq!(status, StatusCode::OK, "{done}");
}

#[tokio::test]
async fn what_stays_wrong_is_not_worth_another_try() {
    let admin = Admin::start().await;
    let refused = async |path: &str, body: &'static str| {
        for query in ["", "?dry_run=true"] {
            let (status, problem) = admin.post(&format!("{path}{query}"), body).await;
            assert_eq!(status, StatusCode::CONFLICT, "{path} {body}: {problem}");
            assert_eq!(
                (&problem["retryable"], &problem["outcome"]),
                (&json!(false), &json!("not_applied")),
                "{problem}"
            );
        }
    };
    let (split, merge) = (format!("/v1/groups/{GROUP}/split"), format!("/v1/groups/{GROUP}/merge"));
    let repartition = format!("/v1/groups/{GROUP}/repartition");
    // Alone on the ring.
    refused(&split, r#"{"at":""}"#).await;
    refused(&merge, "").await;
    refused(&repartition, r#"{"boundary":"80"}"#).await;
    *admin.cluster.neighbour.lock() = Some(Neighbour { held_for: 0 });
    refused(&split, r#"{"at":"f8"}"#).await;
    refused(&repartition, r#"{"boundary":""}"#).await;
    assert!(admin.cluster.group.lock().orders.is_empty());

    admin.cluster.kill(3).await;
    admin.cluster.set_state(3, NodeState::Dead);
    for what in ["drain", "undrain"] {
        refused(&format!("/v1/nodes/{}/{what}", id(3)), "").await;
    }

    // It is merged away while it is ordered to split.
    admin.cluster.group.lock().heir = Some(scatter_core::types::GroupId(0xdef));
    let (status, problem) = admin.post(&split, r#"{"at":"80"}"#).await;
    assert_eq!((status, &problem["retryable"]), (StatusCode::CONFLICT, &json!(false)), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("0000000000000def")), "{problem}");
}

#[tokio::test]
async fn a_dry_run_that_is_not_answered_has_changed_nothing() {
    let admin = Admin::start().await;
    admin.cluster.group.lock().refusals.extend([Refusal::Unknown, Refusal::Unknown]);
    let path = format!("/v1/groups/{GROUP}/split?dry_run=true");
    let (status, plan) = admin.post(&path, "").await;
    assert_eq!(status, StatusCode::OK, "it is asked again: {plan}");
    admin.cluster.group.lock().refusals.push_back(Refusal::Conflict { text: "no".into() });
    let (_, problem) = admin.post(&path, "").await;
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("nothing was changed")), "{problem}");
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let admin = Admin::start().await;
    let members = format!("/v1/groups/{GROUP}/members");
    for (path, body, expected) in [
        (members.clone(), "{}", 400),
        (members.clone(), "[1]", 400),
        (members.clone(), "not json", 400),
        (members.clone(), r#"{"add":["x"]}"#, 400),
        (members.clone(), r#"{"adds":["1"]}"#, 400),
        (members.clone(), r#"{"add":["1"]}"#, 409),
        (members.clone(), r#"{"remove":["9"]}"#, 409),
        (members.clone(), r#"{"remove":["1","2","3"]}"#, 409),
        (members.clone(), r#"{"add":["9"],"remove":["9"]}"#, 400),
        (members.clone(), r#"{"add":["9","9"],"remove":["1"]}"#, 400),
        (members.clone(), r#"{"remove":["2","02"]}"#, 400),
        (format!("{members}?dry_run=maybe"), r#"{"remove":["1"]}"#, 400),
        (format!("{members}?dry=true"), r#"{"remove":["1"]}"#, 400),
        ("/v1/groups/zz/members".into(), r#"{"remove":["1"]}"#, 400),
        ("/v1/groups/77/members".into(), r#"{"remove":["1"]}"#, 404),
        ("/v1/groups/77/transfer-leader".into(), "", 404),
        (format!("/v1/groups/{GROUP}/transfer-leader"), r#"{"to":"9"}"#, 409),
        (format!("/v1/groups/{GROUP}/split"), r#"{"at":"0"}"#, 400),
        (format!("/v1/groups/{GROUP}/split"), r#"{"at":"+1"}"#, 400),
        (format!("/v1/groups/{GROUP}/split"), r#"{"at":"00","key":"a"}"#, 400),
        (format!("/v1/groups/{GROUP}/split"), r#"{"key":""}"#, 400),
        (format!("/v1/groups/{GROUP}/split"), r#"{"range_version":2}"#, 409),
        (format!("/v1/groups/{GROUP}/merge"), r#"{"side":"up"}"#, 400),
        (format!("/v1/groups/{GROUP}/repartition"), "{}", 400),
        (format!("/v1/groups/{GROUP}/repartition"), r#"{"boundary":"80"}"#, 409),
        ("/v1/groups/77/split".into(), "", 404),
        ("/v1/groups/77/merge".into(), "", 404),
    ] {
        let (status, problem) = admin.post(&path, body).await;
        assert_eq!(status.as_u16(), expected, "{path} {body}: {problem}");
        let kind = match expected {
            400 => "malformed",
            404 => "not-found",
            _ => "conflict",
        };
        assert_eq!(problem["type"], urn(kind), "{path} {body}: {problem}");
    }
    for (path, expected) in [
        ("/v1/lookup", 400),
        ("/v1/lookup?key=", 400),
        ("/v1/lookup?key=%zz", 400),
        ("/v1/lookup?key=a&key=b", 400),
        ("/v1/ring?x=1", 400),
        ("/v1/groups/+1", 400),
        ("/v1/groups/00000000000000001", 400),
        ("/v1/groups/77", 404),
        ("/v1/nothing", 404),
    ] {
        assert_eq!(admin.get(path).await.0.as_u16(), expected, "{path}");
    }
    assert!(admin.cluster.group.lock().orders.is_empty());
}

fn urn(name: &str) -> Value {
    json!(format!("urn:scatter:problem:{name}"))
}

#[tokio::test]
async fn a_node_is_drained_only_if_others_can_hold_what_it_holds() {
    let admin = Admin::start().await;
    let path = format!("/v1/nodes/{}/drain", id(2));
    for path in [path.clone(), format!("{path}?dry_run=true")] {
        let (status, problem) = admin.post(&path, "").await;
        assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &urn("conflict")), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains(GROUP)), "it names the group: {problem}");
    }
    let address = admin.cluster.run_node(NodeId(4), &format!("{}:0", admin.cluster.host)).await;
    admin.cluster.introduce(4, &address);
    let (status, plan) = admin.post(&format!("{path}?dry_run=true"), "").await;
    assert_eq!((status, &plan["groups"]), (StatusCode::OK, &json!([GROUP])), "{plan}");
    assert!(admin.cluster.group.lock().orders.is_empty(), "a dry run orders nothing");

    assert_eq!(admin.post(&path, "{}").await.0, StatusCode::OK);
    let state = |nodes: &Value| nodes["nodes"][1]["state"].clone();
    assert_eq!(state(&admin.get("/v1/nodes").await.1), "draining");
    // A second one would leave two nodes for three replicas.
    let (status, problem) = admin.post(&format!("/v1/nodes/{}/drain", id(3)), "").await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &urn("conflict")), "{problem}");
    // Nothing is laid upon a node that is to be emptied.
    let transfer = format!("/v1/groups/{GROUP}/transfer-leader");
    assert_eq!(admin.post(&transfer, r#"{"to":"2"}"#).await.0, StatusCode::CONFLICT);

    assert_eq!(admin.post(&path.replace("drain", "undrain"), "").await.0, StatusCode::OK);
    assert_eq!(state(&admin.get("/v1/nodes").await.1), "alive");
    assert_eq!(
        admin.cluster.group.lock().orders,
        [AdminRequest::Drain { on: true }, AdminRequest::Drain { on: false }]
    );
    let (_, done) = admin.get("/v1/operations").await;
    let list = done["operations"].as_array().expect("a list");
    let shown: Vec<_> = list.iter().map(|entry| (&entry["kind"], &entry["state"])).collect();
    assert_eq!(shown, [(&json!("undrain"), &json!("done")), (&json!("drain"), &json!("done"))]);
}

#[tokio::test]
async fn only_who_is_dead_or_empty_is_removed() {
    let admin = Admin::start().await;
    let address = admin.cluster.run_node(NodeId(4), &format!("{}:0", admin.cluster.host)).await;
    admin.cluster.introduce(4, &address);
    let path = format!("/v1/nodes/{}/remove", id(2));
    let (status, problem) = admin.post(&path, "").await;
    assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &urn("conflict")), "{problem}");
    assert_eq!(admin.post(&format!("/v1/nodes/{}/remove", id(4)), "").await.0, StatusCode::OK, "it hosts nothing");

    admin.cluster.kill(2).await;
    // It may be this program alone that does not reach it.
    for state in [NodeState::Alive, NodeState::Suspect] {
        admin.cluster.set_state(2, state);
        let (status, problem) = admin.post(&path, "").await;
        assert_eq!((status, &problem["retryable"]), (StatusCode::CONFLICT, &json!(true)), "{problem}");
    }
    admin.cluster.set_state(2, NodeState::Dead);
    let change = json!([{ "group": GROUP, "replaced_by": id(4) }]);
    let (status, plan) = admin.post(&format!("{path}?dry_run=true"), "").await;
    assert_eq!((status, &plan["changes"]), (StatusCode::OK, &change), "{plan}");
    assert!(admin.cluster.group.lock().orders.is_empty(), "a dry run orders nothing");
    for (path, body) in [
        (format!("/v1/nodes/{}/drain", id(2)), ""),
        (format!("/v1/nodes/{}/undrain", id(2)), ""),
        (format!("/v1/groups/{GROUP}/transfer-leader"), r#"{"to":"2"}"#),
    ] {
        let (status, problem) = admin.post(&path, body).await;
        assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &urn("conflict")), "{path}: {problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("dead")), "{problem}");
    }
    assert_eq!(admin.post(&path, "").await.0, StatusCode::OK);
    let ordered = admin.changes();
    let [AdminRequest::ChangeMembers { add, remove, dry_run: false, .. }] = &ordered[..] else {
        panic!("one order, not {ordered:?}")
    };
    assert_eq!((add, remove), (&vec![NewMember { node: NodeId(4), address }], &vec![NodeId(2)]));
}

#[tokio::test]
async fn who_is_dead_silent_or_to_be_emptied_is_not_added() {
    let admin = Admin::start().await;
    let members = format!("/v1/groups/{GROUP}/members");
    let address = admin.cluster.run_node(NodeId(4), &format!("{}:0", admin.cluster.host)).await;
    admin.cluster.introduce(4, &address);
    for state in [NodeState::Draining, NodeState::Drained] {
        admin.cluster.set_state(4, state);
        let (status, problem) = admin.post(&members, r#"{"add":["4"]}"#).await;
        assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &urn("conflict")), "{problem}");
    }
    admin.cluster.kill(4).await;
    for state in [NodeState::Alive, NodeState::Suspect, NodeState::Dead] {
        admin.cluster.set_state(4, state);
        for query in ["", "?dry_run=true"] {
            let (status, problem) = admin.post(&format!("{members}{query}"), r#"{"add":["4"]}"#).await;
            assert_eq!((status, &problem["type"]), (StatusCode::CONFLICT, &urn("conflict")), "{problem}");
        }
    }
    assert!(admin.cluster.group.lock().orders.is_empty());
}

#[tokio::test]
async fn orders_about_nodes_that_make_no_sense_are_refused() {
    let admin = Admin::start().await;
    for what in ["drain", "undrain", "remove"] {
        for (path, body, expected) in [
            ("/v1/nodes/77".to_owned(), "", (404, "not-found")),
            ("/v1/nodes/zz".to_owned(), "", (400, "malformed")),
            ("/v1/nodes/+1".to_owned(), "", (400, "malformed")),
            ("/v1/nodes/00000000000000001".to_owned(), "", (400, "malformed")),
            (format!("/v1/nodes/{}", id(1)), "[1]", (400, "malformed")),
            (format!("/v1/nodes/{}", id(1)), "no json", (400, "malformed")),
            (format!("/v1/nodes/{}", id(1)), r#"{"force":true}"#, (400, "malformed")),
        ] {
            let (status, problem) = admin.post(&format!("{path}/{what}"), body).await;
            assert_eq!((status.as_u16(), &problem["type"]), (expected.0, &urn(expected.1)), "{what} {path}: {problem}");
        }
        for query in ["dry_run=maybe", "dry=true", "dry_run=true&dry_run=true"] {
            let (status, problem) = admin.post(&format!("/v1/nodes/{}/{what}?{query}", id(1)), "").await;
            assert_eq!((status.as_u16(), &problem["type"]), (400, &urn("malformed")), "{what} {query}: {problem}");
        }
    }
    assert!(admin.cluster.group.lock().orders.is_empty());
}

#[tokio::test]
async fn orders_from_other_sites_pages_are_refused() {
    let admin = Admin::start().await;
    let own = admin.base.as_str();
    // Browsers leave the first header out where a page was not fetched safely.
    for (headers, is_taken) in [
        (&[("Sec-Fetch-Site", "cross-site")][..], false),
        (&[("Sec-Fetch-Site", "same-site")], false),
        (&[("Sec-Fetch-Site", "same-origin"), ("Origin", "http://other.example")], true),
        (&[("Origin", "http://other.example")], false),
        (&[("Origin", "null")], false),
        (&[("Origin", own)], true),
        (&[("Origin", "https://admin.example"), ("X-Forwarded-Host", "admin.example")], true),
    ] {
        let mut request = admin.http.post(format!("{own}/v1/groups/{GROUP}/transfer-leader?dry_run=true"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let status = request.send().await.expect("a reply").status();
        assert_eq!(status, if is_taken { StatusCode::OK } else { StatusCode::FORBIDDEN }, "{headers:?}");
    }
}

#[tokio::test]
async fn a_body_is_an_object() {
    let admin = Admin::start().await;
    for (path, body) in [
        (format!("/v1/groups/{GROUP}/split"), "[]"),
        (format!("/v1/groups/{GROUP}/merge"), r#"["predecessor"]"#),
        (format!("/v1/groups/{GROUP}/members"), r#" [["4"],[]]"#),
        ("/v1/recover".to_owned(), r#"["1",[],true]"#),
        (format!("/v1/groups/{GROUP}/split"), "null"),
    ] {
        let (status, problem) = admin.post(&path, body).await;
        assert_eq!((status, &problem["type"]), (StatusCode::BAD_REQUEST, &urn("malformed")), "{path}: {problem}");
    }
    assert!(admin.cluster.group.lock().orders.is_empty());
}

#[tokio::test]
async fn orders_to_a_group_without_a_majority_are_refused_at_once() {
    let admin = Admin::start().await;
    // Nobody leads: the only one that is left does not.
    for node in [1, 3] {
        admin.cluster.kill(node).await;
    }
    for (what, body) in
        [("split", ""), ("merge", ""), ("members", r#"{"remove":["3"]}"#), ("transfer-leader", r#"{"to":"2"}"#)]
    {
        let (status, problem) = admin.post(&format!("/v1/groups/{GROUP}/{what}"), body).await;
        assert_eq!((status, &problem["type"]), (StatusCode::SERVICE_UNAVAILABLE, &urn("unavailable")), "{problem}");
        assert_eq!(problem["title"], "The request cannot be served at the moment", "it is about no key");
        assert_eq!(problem["outcome"], "not_applied", "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.contains("1 of 3 voters")), "{problem}");
    }
}

#[tokio::test]
async fn the_page_is_one_document_under_a_strict_policy() {
    let admin = Admin::start().await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let response = admin.http.get(&admin.base).send().await.expect("a reply");
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: &str| response.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header("content-type"), "text/html; charset=utf-8");
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let nonce =
            policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce").to_owned();
        let page = response.text().await.expect("text");
        assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        assert!(!page.contains("@NONCE@"));
        for outside in ["src=\"http", "href=\"http", "@import", "url("] {
            assert!(!page.contains(outside), "the page reaches outside: {outside}");
        }
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
    let json = admin.http.get(format!("{}/v1/ring", admin.base)).send().await.expect("a reply");
    assert_eq!(json.headers()["x-content-type-options"], "nosniff");
    assert_eq!(json.headers()["cache-control"], "no-store");
}

#[tokio::test]
async fn the_document_has_every_path_that_is_served() {
    let admin = Admin::start().await;
    let (_, document) = admin.get("/openapi.json").await;
    let paths = document["paths"].as_object().expect("paths");
    for path in [
        "/",
        "/v1/ring",
        "/v1/nodes",
        "/v1/lookup",
        "/v1/groups/{id}",
        "/v1/groups/{id}/members",
        "/v1/groups/{id}/transfer-leader",
        "/v1/groups/{id}/split",
        "/v1/groups/{id}/merge",
        "/v1/groups/{id}/repartition",
        "/v1/nodes/{id}/drain",
        "/v1/nodes/{id}/undrain",
        "/v1/nodes/{id}/remove",
        "/v1/operations",
        "/v1/events",
        "/livez",
        "/readyz",
        "/metrics",
        "/version",
    ] {
        assert!(paths.contains_key(path), "{path} is missing");
        let real = path.replace("{id}", GROUP);
        let status = admin.http.get(format!("{}{real}", admin.base)).send().await.expect("a reply").status();
        assert_ne!(status, StatusCode::NOT_FOUND, "{path} is documented and not served");
    }
}

#[tokio::test]
async fn what_policies_decide_is_in_the_history_with_its_reason() {
    let admin = Admin::start().await;
    let decision = |outcome: &str| {
        format!(
            r#"[{{"group":"{GROUP}","at_ms":5,"action":"change_members","detail":{{"add":["4"],"remove":["2"]}},
                "reason":"draining","text":"node 2 is to be emptied","outcome":{outcome}}}]"#
        )
    };
    for (outcome, state, reason) in [
        ("null", "running", "node 2 is to be emptied"),
        (r#""done""#, "done", "node 2 is to be emptied"),
        (r#""it takes in enough""#, "refused", "node 2 is to be emptied; given up: it takes in enough"),
    ] {
        admin.cluster.decisions.lock().insert(NodeId(1), decision(outcome));
        let (_, operations) = admin.get("/v1/operations").await;
        let list = operations["operations"].as_array().expect("a list");
        assert_eq!(list.len(), 1, "told again it is the same: {operations}");
        let entry = &list[0];
        let shown = (&entry["kind"], &entry["by"], &entry["state"], &entry["group"], &entry["reason"]);
        let expected = (&json!("members"), &json!("policy"), &json!(state), &json!(GROUP), &json!(reason));
        assert_eq!(shown, expected);
        assert_eq!(entry["detail"]["action"]["remove"], json!(["2"]));
    }
    // What a node tells that is none of this harms nothing.
    admin.cluster.decisions.lock().insert(NodeId(2), r#"[{"group":7}]"#.into());
    assert_eq!(admin.get("/v1/operations").await.0, StatusCode::OK);
    // Orders say whose they are.
    assert_eq!(admin.post(&format!("/v1/groups/{GROUP}/split"), r#"{"key":"a"}"#).await.0, StatusCode::OK);
    assert_eq!(admin.get("/v1/operations").await.1["operations"][0]["by"], "operator");
}

/// Somebody who listens, and what came and was not looked at yet.
struct Listening {
    response: reqwest::Response,
    text: String,
}

impl Listening {
    /// Reads events until one is of a kind; returns its id and data.
    async fn until(&mut self, kind: &str) -> (u64, Value) {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                if field("event:") == Some(kind) {
                    let id = field("id:").and_then(|id| id.parse().ok()).expect("an id");
                    return (id, serde_json::from_str(field("data:").expect("data")).expect("JSON"));
                }
            }
            let chunk = self.response.chunk().await.expect("it goes on").expect("it does not end");
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }
}

#[tokio::test]
async fn events_tell_what_changes_and_are_told_again_to_those_who_come_back() {
    let admin = Admin::start().await;
    let listen = |last: Option<u64>| {
        let request = admin.http.get(format!("{}/v1/events", admin.base));
        match last {
            Some(id) => request.header("Last-Event-ID", id).send(),
            None => request.send(),
        }
    };
    let begun = |response| Listening { response, text: String::new() };
    let mut events = begun(listen(None).await.expect("a reply"));
    assert_eq!(events.response.headers()["content-type"], "text/event-stream");
    admin.cluster.elect(2);
    let (first, event) = events.until("leader_changed").await;
    assert_eq!((&event["group"], &event["from"], &event["to"]), (&json!(GROUP), &json!(id(1)), &json!(id(2))));
    admin.cluster.set_state(3, NodeState::Draining);
    let (second, event) = events.until("node_state_changed").await;
    assert_eq!((&event["node"], &event["to"]), (&json!(id(3)), &json!("draining")));
    assert!(second > first);
    admin.cluster.depose();
    let (_, event) = events.until("problem_began").await;
    assert_eq!((&event["problem"], &event["group"]), (&json!("no_leader"), &json!(GROUP)));
    admin.cluster.elect(1);
    let (_, event) = events.until("problem_ended").await;
    assert_eq!(event["problem"], "no_leader");
    assert_eq!(admin.post(&format!("/v1/groups/{GROUP}/split"), r#"{"key":"a"}"#).await.0, StatusCode::OK);
    let (_, event) = events.until("operation_ended").await;
    assert_eq!((&event["kind"], &event["by"], &event["state"]), (&json!("split"), &json!("operator"), &json!("done")));
    drop(events);

    let mut again = begun(listen(Some(first)).await.expect("a reply"));
    assert_eq!(again.until("node_state_changed").await.0, second);
    let mut strange = begun(listen(Some(7)).await.expect("a reply"));
    let (reset, _) = strange.until("reset").await;
    assert!(reset > second);
    let bad = admin.http.get(format!("{}/v1/events", admin.base)).header("Last-Event-ID", "x").send().await;
    assert_eq!(bad.expect("a reply").status(), StatusCode::BAD_REQUEST);

    // There are so many seats and no more; who leaves frees one.
    let mut listeners = Vec::new();
    let refused = loop {
        let reply = listen(None).await.expect("a reply");
        if reply.status() != StatusCode::OK {
            break reply;
        }
        listeners.push(reply);
        assert!(listeners.len() <= 64, "there is no limit");
    };
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    drop(listeners);
    while listen(None).await.expect("a reply").status() != StatusCode::OK {
        tokio::task::yield_now().await;
    }
}
