//! The client against pretended nodes: leaders that change, refuse, vanish and freeze, connections that break at the worst
//! moment, addresses that change hands.

mod fake;

use fake::{Cluster, GROUP, Trick};
use scatter_client::{
    AdminError, Boundary, Client, ClientConfig, Condition, Consistency, Key, NodeId, Position, RangeVersion,
    ReadOptions, Reason, ReshapeOptions, Side, StartError, Version, WriteError, WriteOptions,
};
use scatter_core::command::Outcome;
use scatter_core::types::GroupId;
use scatter_wire::{AdminRequest, Refusal};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Long enough that no healthy run ends by it.
const PATIENT: Duration = Duration::from_secs(30);

fn config(seeds: Vec<String>) -> ClientConfig {
    ClientConfig { cluster_name: "fake".into(), seeds, timeout: PATIENT, ..ClientConfig::default() }
}

async fn start() -> (Arc<Cluster>, Client) {
    let cluster = Cluster::start(3).await;
    let client = Client::connect(config(vec![cluster.address(2)])).await.expect("a ring");
    (cluster, client)
}

fn key(text: &'static str) -> Key {
    Key::new(text).expect("a key")
}

fn short() -> WriteOptions {
    WriteOptions { timeout: Some(Duration::from_millis(300)), ..WriteOptions::default() }
}

async fn put(client: &Client, name: &'static str) -> Result<scatter_client::Written, WriteError> {
    client.put(key(name), "value".into(), WriteOptions::default()).await
}

#[tokio::test]
async fn puts_gets_and_deletes() {
    let (_cluster, client) = start().await;
    let written = put(&client, "a").await.expect("written");
    assert!(written.created);
    assert_eq!(written.served.group, GROUP);
    let read = client.get(&key("a"), ReadOptions::default()).await.expect("read");
    let found = read.found.expect("it exists");
    assert_eq!((found.version, &found.value[..]), (written.version, &b"value"[..]));
    let absent = WriteOptions { condition: Condition::Absent, ..WriteOptions::default() };
    let refused = client.put(key("a"), "other".into(), absent).await;
    assert_eq!(refused, Err(WriteError::ConditionFailed { index: 0, current: Some(written.version) }));
    let deleted = client.delete(key("a"), WriteOptions::default()).await.expect("deleted");
    assert!(deleted.version > Some(written.version));
    assert_eq!(client.delete(key("a"), WriteOptions::default()).await.expect("no error").version, None);
    assert_eq!(client.get(&key("a"), ReadOptions::default()).await.expect("read").found, None);
}

#[tokio::test]
async fn many_requests_share_lanes_and_each_is_applied_once() {
    let cluster = Cluster::start(3).await;
    let few = ClientConfig { lanes: 4, ..config(vec![cluster.address(1)]) };
    let client = Client::connect(few).await.expect("a ring");
    let writes = (0..200).map(|_| put(&client, "a"));
    for result in futures::future::join_all(writes).await {
        result.expect("written");
    }
    let group = cluster.group.lock();
    assert_eq!(group.applied.len(), 200);
    assert!(group.applied.iter().all(|(lane, _)| lane.lane < 4));
}

#[tokio::test]
async fn follows_a_leader_that_moved() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("written");
    cluster.elect(3);
    put(&client, "a").await.expect("written at the new leader");
    client.get(&key("a"), ReadOptions::default()).await.expect("read at the new leader");
    assert_eq!(cluster.group.lock().reads_by, [NodeId(3)]);
    assert_eq!(cluster.group.lock().applied.len(), 2);
}

#[tokio::test]
async fn waits_out_a_time_without_a_leader() {
    let (cluster, client) = start().await;
    cluster.depose();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { put(&client, "a").await }
    });
    let failed = client.put(key("b"), "value".into(), short()).await;
    assert_eq!(failed, Err(WriteError::NotApplied { reason: Reason::NoLeader }));
    cluster.elect(2);
    waiting.await.expect("no panic").expect("written once somebody leads");
    assert_eq!(cluster.group.lock().applied.len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_not_applied_twice() {
    let (cluster, client) = start().await;
    for trick in [Trick::ApplyThenHangUp, Trick::ApplyThenUnknown, Trick::HangUp] {
        cluster.trick(trick);
        let before = cluster.group.lock().applied.len();
        put(&client, "a").await.expect("the repeat hears the recorded outcome");
        let group = cluster.group.lock();
        assert_eq!(group.applied.len(), before + 1);
        let [.., first, second] = &group.arrived[..] else { panic!("two attempts") };
        assert_eq!(first, second, "every attempt carries the same lane use");
    }
}

#[tokio::test]
async fn a_lost_attempt_then_a_clean_refusal_is_unknown() {
    let (cluster, client) = start().await;
    cluster.trick(Trick::ApplyThenHangUp);
    cluster.trick(Trick::Refuse(Refusal::DiskFull));
    let result = put(&client, "a").await;
    assert_eq!(result, Err(WriteError::Unknown { reason: Reason::DiskFull }));
    assert_eq!(client.metrics().value("unknown_outcomes"), Some(1));
}

#[tokio::test]
async fn a_clean_refusal_alone_is_not_applied() {
    let (cluster, client) = start().await;
    cluster.trick(Trick::Refuse(Refusal::DiskFull));
    assert_eq!(put(&client, "a").await, Err(WriteError::NotApplied { reason: Reason::DiskFull }));
    cluster.trick(Trick::Refuse(Refusal::TooLarge { limit: 9 }));
    assert_eq!(put(&client, "a").await, Err(WriteError::NotApplied { reason: Reason::TooLarge { limit: 9 } }));
    assert!(cluster.group.lock().applied.is_empty());
}

#[tokio::test]
async fn a_forgotten_first_attempt_takes_a_new_stamp_and_sequence() {
    let (cluster, client) = start().await;
    let stamp = Version(5_000);
    for outcome in [Outcome::Forgotten { stamp }, Outcome::StampAhead { stamp }] {
        cluster.trick(Trick::Answer(outcome));
        put(&client, "a").await.expect("written under the new stamp");
        let group = cluster.group.lock();
        let [.., first, second] = &group.arrived[..] else { panic!("two attempts") };
        assert_eq!((second.stamp, second.lane), (stamp, first.lane));
        assert_eq!(second.sequence, first.sequence + 1);
    }
    assert_eq!(cluster.group.lock().applied.len(), 2);
}

#[tokio::test]
async fn a_forgotten_repeat_is_unknown() {
    let (cluster, client) = start().await;
    cluster.trick(Trick::ApplyThenHangUp);
    cluster.trick(Trick::Answer(Outcome::Forgotten { stamp: Version(5_000) }));
    assert_eq!(put(&client, "a").await, Err(WriteError::Unknown { reason: Reason::Forgotten }));
    assert_eq!(cluster.group.lock().applied.len(), 1);
}

#[tokio::test]
async fn an_overloaded_node_is_tried_a_few_times_and_then_left_in_peace() {
    let (cluster, client) = start().await;
    cluster.trick(Trick::Refuse(Refusal::Overloaded));
    put(&client, "a").await.expect("the second attempt finds room");
    for _ in 0..10 {
        cluster.trick(Trick::Refuse(Refusal::Overloaded));
    }
    let result = put(&client, "a").await;
    assert!(matches!(result, Err(WriteError::NotApplied { reason: Reason::Overloaded { .. } })), "{result:?}");
    assert!(cluster.group.lock().tricks.len() >= 6, "most of the refusals were never asked for");
}

#[tokio::test]
async fn requests_over_the_bound_are_shed() {
    let cluster = Cluster::start(3).await;
    let tight = ClientConfig { max_in_flight: 1, ..config(vec![cluster.address(1)]) };
    let client = Client::connect(tight).await.expect("a ring");
    cluster.freeze(1, true);
    let held = client.put(key("a"), "value".into(), WriteOptions::default());
    tokio::pin!(held);
    assert!(futures::poll!(held.as_mut()).is_pending());
    assert_eq!(client.in_flight(), 1);
    let shed = put(&client, "b").await;
    assert!(matches!(shed, Err(WriteError::NotApplied { reason: Reason::Overloaded { .. } })), "{shed:?}");
    cluster.freeze(1, false);
    held.await.expect("written");
    assert_eq!((client.in_flight(), client.lanes_in_use()), (0, 0));
}

#[tokio::test]
async fn leaves_a_dead_leader_for_the_next_one() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("written");
    cluster.kill(1).await;
    cluster.elect(2);
    put(&client, "a").await.expect("written at the next leader");
    client.get(&key("a"), ReadOptions::default()).await.expect("read at the next leader");
    assert_eq!(cluster.group.lock().applied.len(), 2);
}

#[tokio::test]
async fn leaves_a_frozen_leader_soon_after_another_is_elected() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("written");
    cluster.freeze(1, true);
    let stuck = tokio::spawn({
        let client = client.clone();
        async move { (put(&client, "a").await, Instant::now()) }
    });
    // The write sits at the frozen leader; only then does another take over.
    while client.lanes_in_use() == 0 {
        tokio::task::yield_now().await;
    }
    cluster.elect(3);
    let elected = Instant::now();
    let (result, moment) = stuck.await.expect("no panic");
    result.expect("written at the new leader");
    // Far above what it takes and far below the deadline: what is told is that nobody waits for the frozen node.
    assert!(moment - elected < Duration::from_secs(10));
    put(&client, "a").await.expect("later writes go straight there");
    cluster.freeze(1, false);
    put(&client, "a").await.expect("written");
    assert_eq!(cluster.group.lock().applied.len(), 4, "what the frozen node held was refused or a repeat");
}

#[tokio::test]
async fn requests_in_a_hurry_find_the_next_leader_too() {
    let cluster = Cluster::start(3).await;
    // So patient, and so seldom asking by itself, that only the requests' own deadlines can make the client look around.
    let patient = ClientConfig { patience: PATIENT, refresh: PATIENT, ..config(vec![cluster.address(2)]) };
    let client = Client::connect(patient).await.expect("a ring");
    put(&client, "a").await.expect("written");
    cluster.freeze(1, true);
    cluster.elect(3);
    let hasty = WriteOptions { timeout: Some(Duration::from_millis(100)), ..WriteOptions::default() };
    let mut failures = 0;
    while let Err(error) = client.put(key("a"), "value".into(), hasty.clone()).await {
        assert_eq!(error, WriteError::Unknown { reason: Reason::Deadline });
        failures += 1;
        assert!(failures < 100, "nobody looks for another leader");
    }
}

#[tokio::test]
async fn a_write_left_at_a_frozen_leader_is_unknown() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("written");
    cluster.freeze(1, true);
    let result = client.put(key("a"), "value".into(), short()).await;
    assert_eq!(result, Err(WriteError::Unknown { reason: Reason::Deadline }));
    let hasty = ReadOptions { timeout: Some(Duration::from_millis(50)), ..ReadOptions::default() };
    let read = client.get(&key("a"), hasty).await;
    assert_eq!(read.expect_err("nobody answers").reason, Reason::Deadline);
}

#[tokio::test]
async fn any_member_serves_stale_reads_without_a_leader() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("written");
    cluster.group.lock().bounded_anywhere = true;
    cluster.kill(1).await;
    cluster.depose();
    for consistency in [Consistency::Any, Consistency::Bounded { max_staleness_ms: 1000 }] {
        for _ in 0..10 {
            let read = client.get(&key("a"), ReadOptions { consistency, timeout: None }).await.expect("read");
            assert!(read.found.is_some());
            assert_eq!(read.staleness, Some(Duration::from_millis(7)));
        }
    }
}

#[tokio::test]
async fn a_bounded_read_goes_to_the_leader_when_a_follower_cannot_serve_it() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("written");
    let consistency = Consistency::Bounded { max_staleness_ms: 1000 };
    for _ in 0..10 {
        client.get(&key("a"), ReadOptions { consistency, timeout: None }).await.expect("read");
    }
    assert_eq!(cluster.group.lock().reads_by, [NodeId(1); 10]);
    assert!(client.metrics().value("retries") <= Some(10), "one redirect each at most");
}

#[tokio::test]
async fn an_address_that_changed_hands_reaches_nobody_else() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("written");
    // Node 9, which is no member, comes to live where the leader was; the leader comes back elsewhere.
    let address = cluster.kill(1).await;
    cluster.run_node(NodeId(9), &address).await;
    let moved = cluster.run_node(NodeId(1), &format!("{}:0", cluster.host)).await;
    cluster.readdress(1, &moved);
    cluster.elect(1);
    put(&client, "a").await.expect("written at the leader's new address");
    let wrong = client.metrics().value("wrong_node");
    assert!(wrong <= Some(1), "the wrong node is noticed by its hello, once");
    assert_eq!(cluster.group.lock().applied.len(), 2);
    assert_eq!(client.address(NodeId(1)), Some(moved));
}

#[tokio::test]
async fn a_client_that_starts_before_its_cluster_waits_for_it() {
    let cluster = Cluster::start(3).await;
    let address = cluster.kill(2).await;
    let client = Client::start(config(vec![address.clone()])).expect("good settings");
    assert!(!client.is_ready());
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { put(&client, "a").await }
    });
    let error = client.ready(Duration::from_millis(30)).await.expect_err("nobody is there");
    assert!(matches!(error, StartError::NoRing { .. }), "{error}");
    cluster.run_node(NodeId(2), &address).await;
    waiting.await.expect("no panic").expect("written");
    assert!(client.is_ready());
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    for bad in [
        ClientConfig::default(),
        ClientConfig { lanes: 0, ..config(vec!["a:1".into()]) },
        ClientConfig { max_in_flight: 0, ..config(vec!["a:1".into()]) },
    ] {
        assert!(matches!(Client::start(bad), Err(StartError::Settings(_))));
    }
}

#[tokio::test]
async fn orders_go_to_the_leader_and_are_not_repeated_once_sent() {
    let (cluster, client) = start().await;
    cluster.elect(3);
    let said = client.transfer_leader(GROUP, Some(NodeId(2)), false, None).await.expect("carried out");
    assert_eq!(said, "{\"done\":true}");
    assert_eq!(cluster.group.lock().orders.len(), 1);
}

#[tokio::test]
async fn an_order_waits_for_a_leader_that_is_behind() {
    let (cluster, client) = start().await;
    cluster.group.lock().refusals.extend([Refusal::Sealed, Refusal::Sealed]);
    client.merge(GROUP, Side::Successor, ReshapeOptions::default()).await.expect("taken in the end");
    assert_eq!(cluster.group.lock().orders.len(), 1);
}

#[tokio::test]
async fn what_only_asks_is_asked_again_and_changes_nothing_whatever_happens() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("the connection stands");
    cluster.group.lock().refusals.push_back(Refusal::Unknown);
    client.transfer_leader(GROUP, None, true, None).await.expect("the second one is answered");
    assert_eq!(cluster.group.lock().orders.len(), 1);
    cluster.freeze(1, true);
    let limit = Some(Duration::from_millis(300));
    let refused = client.transfer_leader(GROUP, None, true, limit).await;
    assert!(matches!(refused, Err(AdminError::Refused { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_survey_finds_everybody_and_names_who_is_silent() {
    let (cluster, client) = start().await;
    let survey = client.survey(PATIENT).await;
    assert_eq!(survey.descriptions.keys().map(|node| node.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(survey.unreached.is_empty() && survey.silent_seeds.is_empty() && !survey.incomplete);
    cluster.kill(3).await;
    let survey = client.survey(PATIENT).await;
    assert_eq!(survey.descriptions.len(), 2);
    assert!(survey.unreached.contains_key(&NodeId(3)), "{survey:?}");
    assert!(survey.hearsay.contains_key(&NodeId(3)));
}

#[tokio::test]
async fn sealed_positions_are_waited_for_and_not_reported_before_the_time_is_over() {
    let (cluster, client) = start().await;
    for _ in 0..6 {
        cluster.trick(Trick::Refuse(Refusal::Sealed));
    }
    put(&client, "a").await.expect("written once the seal is gone");
    assert_eq!(client.metrics().value("sealed"), Some(6));
    assert_eq!(cluster.group.lock().applied.len(), 1);
    for _ in 0..100 {
        cluster.trick(Trick::Refuse(Refusal::Sealed));
    }
    let begun = Instant::now();
    let refused = client.put(key("b"), "value".into(), short()).await;
    assert!(matches!(refused, Err(WriteError::NotApplied { reason: Reason::Sealed { .. } })), "{refused:?}");
    assert!(begun.elapsed() >= Duration::from_millis(300), "it waits for as long as it may");
}

#[tokio::test]
async fn an_order_that_names_the_version_goes_to_the_next_leader_if_the_first_is_frozen() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("the leader is known");
    cluster.freeze(1, true);
    let options = ReshapeOptions { range_version: Some(RangeVersion(1)), timeout: Some(PATIENT), dry_run: false };
    let split = client.split(GROUP, None, options);
    let elected = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.elect(2);
    };
    let (done, ()) = tokio::join!(split, elected);
    done.expect("carried out by the next leader");
    assert_eq!(cluster.group.lock().orders.len(), 1);

    // Without it, it might be carried out twice.
    cluster.freeze(2, true);
    let options = ReshapeOptions { timeout: Some(Duration::from_millis(600)), ..ReshapeOptions::default() };
    let split = client.split(GROUP, None, options);
    let elected = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.elect(3);
    };
    let (unknown, ()) = tokio::join!(split, elected);
    assert!(matches!(unknown, Err(AdminError::Unknown { .. })), "{unknown:?}");
    assert_eq!(cluster.group.lock().orders.len(), 1);
}

#[tokio::test]
async fn orders_that_reshape_the_ring_say_what_is_wanted() {
    let (cluster, client) = start().await;
    let version = Some(RangeVersion(1));
    let options = ReshapeOptions { range_version: version, ..ReshapeOptions::default() };
    let at = Boundary::of(&key("users/42"));
    client.split(GROUP, None, ReshapeOptions::default()).await.expect("taken");
    client.split(GROUP, Some(at.position().clone()), options).await.expect("taken");
    client.merge(GROUP, Side::Predecessor, ReshapeOptions { dry_run: true, ..options }).await.expect("taken");
    let expected = [
        AdminRequest::Split { group: GROUP, at: None, range_version: None, dry_run: false },
        AdminRequest::Split { group: GROUP, at: Some(at.clone()), range_version: version, dry_run: false },
        AdminRequest::TakeOver {
            group: GROUP,
            from: Side::Predecessor,
            boundary: None,
            range_version: version,
            dry_run: true,
        },
    ];
    assert_eq!(cluster.group.lock().orders, expected);
    // The whole ring has no boundary that could move, and nobody is asked.
    let refused = client.repartition(GROUP, at.position().clone(), Side::Successor, ReshapeOptions::default()).await;
    assert!(matches!(refused, Err(AdminError::Refused { reason: Reason::Conflict(_) })), "{refused:?}");
    let long = Position(vec![0; 5000].into());
    let refused = client.split(GROUP, Some(long), ReshapeOptions::default()).await;
    assert!(matches!(refused, Err(AdminError::Refused { reason: Reason::Malformed(_) })), "{refused:?}");
    assert_eq!(cluster.group.lock().orders.len(), 3);
}

#[tokio::test]
async fn an_order_under_way_is_not_given_to_another_leader_too() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("the connection stands");
    cluster.freeze(1, true);
    let options = ReshapeOptions { timeout: Some(Duration::from_millis(700)), ..ReshapeOptions::default() };
    let order = client.merge(GROUP, Side::Successor, options);
    let elsewhere = async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        cluster.elect(2);
    };
    let (outcome, ()) = tokio::join!(order, elsewhere);
    assert!(matches!(outcome, Err(AdminError::Unknown { .. })), "{outcome:?}");
    assert!(cluster.group.lock().orders.is_empty(), "the one that leads by then was not asked");
}

#[tokio::test]
async fn an_order_to_a_group_that_was_taken_over_meanwhile_ends() {
    let (cluster, client) = start().await;
    put(&client, "a").await.expect("the group is known");
    cluster.group.lock().heir = Some(GroupId(0xdef));
    let refused = client.merge(GROUP, Side::Successor, ReshapeOptions::default()).await;
    assert_eq!(refused, Err(AdminError::Refused { reason: Reason::Gone { heir: GroupId(0xdef) } }));
    assert_eq!(cluster.group.lock().orders.len(), 1);
}
