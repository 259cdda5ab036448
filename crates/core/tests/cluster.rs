//! Three nodes over a perfect network: birth, election, writes, reads, hand-over, the loss of a leader.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use harness::Cluster;
use scatter_core::command::Outcome;
use scatter_core::effects::{Refused, Reply};
use scatter_core::entry::Room;
use scatter_core::group::{GroupState, Machine};
use scatter_core::message::PeerMessage;
use scatter_core::ops::OperationId;
use scatter_core::ops::messages::{GroupEnvelope, GroupMessage};
use scatter_core::store::Store;
use scatter_core::types::{GroupId, RequestId, Slot, TabletId};
use scatter_core::{Config, Input, ReadMode};
use std::time::Duration;

fn written(cluster: &Cluster, request: RequestId) -> bool {
    matches!(cluster.outcomes.get(&request), Some(Outcome::Written { .. }))
}

#[test]
fn three_founders_elect_a_leader_and_decide() {
    let mut cluster = Cluster::founded_by("ABC");
    cluster.quiet = true;
    cluster.run(1500);
    let leader = cluster.leader().expect("somebody leads");
    let requests: Vec<RequestId> = (0..100).map(|index| cluster.put(leader, &format!("k{index}"), "x")).collect();
    cluster.run(20);
    assert!(requests.iter().all(|request| written(&cluster, *request)), "{:?}", cluster.replies);
    let group = cluster.group();
    let word = cluster.process(leader).node.read_word(group).unwrap();
    let now = cluster.clock(leader).instant;
    assert!(word.admit(|| now).is_some(), "the lease lets readers through");

    let other = if leader == 'A' { 'B' } else { 'A' };
    let request = cluster.hand_over(leader, other);
    cluster.run(50);
    assert_eq!(cluster.replies.get(&request), Some(&Reply::Done));
    assert_eq!(cluster.leader(), Some(other), "the hand-over did not wait for a lease");
    assert!(word.admit(|| now).is_none());

    cluster.crash(other);
    cluster.run(1000);
    let third = cluster.leader().expect("the others elect one of them");
    assert_ne!(third, other);
    let request = cluster.put(third, "k", "y");
    cluster.run(20);
    assert!(written(&cluster, request));
}

/// Reads that allow for some age are answered where the leader was, too.
#[test]
fn a_former_leader_knows_how_old_its_data_is() {
    let mut cluster = Cluster::founded_by("ABC");
    cluster.quiet = true;
    cluster.run(1500);
    let leader = cluster.leader().unwrap();
    let request = cluster.put(leader, "k", "x");
    cluster.run(20);
    assert!(written(&cluster, request));
    "ABC".chars().filter(|letter| *letter != leader).for_each(|letter| cluster.crash(letter));
    let left = cluster.clock(leader).instant;
    cluster.run(3000);
    assert_eq!(cluster.leader(), None);
    let group = cluster.group();
    let word = cluster.process(leader).node.read_word(group).unwrap();
    let fresh = word.fresh().expect("it has led");
    let lease = harness::config(leader).lease;
    assert!(fresh.after(lease) >= left && fresh <= left.after(lease), "{fresh:?} {left:?}");
}

/// Two who saw the same five members each take out another one, and name what they saw: only the first is heard, so that no four are
/// left three by one and two by both.
#[test]
fn of_two_orders_for_the_same_members_one_is_heard() {
    let mut cluster = Cluster::founded_by("ABCDE");
    cluster.quiet = true;
    cluster.run(1500);
    let (leader, group) = (cluster.leader().unwrap(), cluster.group());
    let others: Vec<char> = "ABCDE".chars().filter(|letter| *letter != leader).collect();
    let members = |cluster: &mut Cluster| cluster.process(leader).stage.state(group).unwrap().configuration.clone();
    let seen = members(&mut cluster).version;
    let order = |cluster: &mut Cluster, remove: char| {
        let request = cluster.request("change of members");
        let remove = vec![harness::id(remove)];
        cluster.input(leader, Input::ChangeMembers { request, group, add: Vec::new(), remove, version: Some(seen) });
        cluster.run(300);
        cluster.replies.get(&request).cloned()
    };
    assert_eq!(order(&mut cluster, others[0]), Some(Reply::Done));
    let second = order(&mut cluster, others[1]);
    let now = members(&mut cluster);
    let told = format!("their version is {}, not {seen}", now.version);
    assert!(matches!(&second, Some(Reply::Refused(Refused::Invalid(text))) if text.contains(&told)), "{second:?}");
    assert_eq!(now.voters().count(), 4);
}

/// A group whose log has been cut, of three, to which a fourth node comes that takes long to copy it: a second, where changes of members
/// are given up after a tenth of that without progress.
fn with_a_slow_copy() -> (Cluster, char) {
    let mut cluster = Cluster::empty();
    for letter in "ABCD".chars() {
        let mut config = harness::config(letter);
        (config.snapshot_chunk_bytes, config.log_retain_slots) = (256, 0);
        config.change_patience = Duration::from_millis(100);
        cluster.add(letter, harness::address(letter), if letter == 'D' { "" } else { "ABC" }, "ABC", config);
        cluster.start(letter);
    }
    cluster.quiet = true;
    cluster.run(1500);
    let leader = cluster.leader().unwrap();
    for index in 0..1000 {
        let request = cluster.put(leader, &format!("key-{index}"), &"x".repeat(100));
        cluster.run(5);
        assert!(written(&cluster, request));
    }
    "ABC".chars().for_each(|letter| cluster.flush(letter));
    (cluster, leader)
}

#[test]
fn a_newcomer_that_goes_on_catching_up_is_waited_for() {
    let (mut cluster, leader) = with_a_slow_copy();
    let request = cluster.change(leader, "D", "");
    cluster.run(500);
    assert_eq!(cluster.replies.get(&request), None, "it is still copying, and nobody gave it up");
    assert_eq!(cluster.status('D').unwrap().role, "joining");
    cluster.run(2000);
    assert_eq!(cluster.replies.get(&request), Some(&Reply::Done));
    assert_eq!(cluster.status('D').unwrap().role, "follower");
}

#[test]
fn a_newcomer_that_stands_still_is_given_up() {
    let (mut cluster, leader) = with_a_slow_copy();
    let request = cluster.change(leader, "D", "");
    cluster.run(300);
    assert_eq!(cluster.replies.get(&request), None);
    // It answers, but its machine stores nothing any more.
    cluster.hold_machines('D', true);
    cluster.run(300);
    let given_up =
        |reply: &Reply| matches!(reply, Reply::Refused(Refused::GivenUp(text)) if text.contains("stay learners"));
    assert!(cluster.replies.get(&request).is_some_and(given_up), "{:?}", cluster.replies.get(&request));
}

/// A majority runs short while a large value is under way: what removes keys behind it is decided all the same.
#[test]
fn a_removal_presses_a_large_value_through() {
    let mut cluster = Cluster::founded_by("ABC");
    cluster.quiet = true;
    cluster.run(1500);
    let (leader, group) = (cluster.leader().unwrap(), cluster.group());
    let small = cluster.put(leader, "small", "x");
    cluster.run(50);
    assert!(written(&cluster, small));
    for other in "ABC".chars().filter(|letter| *letter != leader) {
        cluster.input(other, Input::Room { room: Room::Removals });
    }
    let large = cluster.put(leader, "large", &"x".repeat(3 << 19));
    cluster.run(50);
    assert!(!cluster.outcomes.contains_key(&large), "nobody has room for it");
    let removal = cluster.delete_in(leader, group, "small");
    cluster.run(100);
    assert!(
        matches!(cluster.outcomes.get(&removal), Some(Outcome::Deleted { .. })),
        "{:?}",
        cluster.outcomes.get(&removal)
    );
    assert!(written(&cluster, large));
}

/// Somebody asks about an operation that nobody knows of: it was aborted and is forgotten. A leader without a lease may be one of the
/// past, which does not know of it yet: it first makes sure that it leads.
#[test]
fn a_forgotten_operation_was_aborted_without_a_lease_too() {
    let mut cluster = Cluster::empty();
    for letter in "ABC".chars() {
        let config = Config { read_mode: ReadMode::Quorum, ..harness::config(letter) };
        cluster.add(letter, harness::address(letter), "ABC", "ABC", config);
    }
    "ABC".chars().for_each(|letter| cluster.start(letter));
    cluster.quiet = true;
    cluster.run(1500);
    let leader = cluster.leader().unwrap();
    let (own, asker) = (cluster.group(), GroupId(77));
    let operation = OperationId { coordinator: own, slot: Slot(2) };
    let other = if leader == 'A' { 'B' } else { 'A' };
    let answers = |cluster: &mut Cluster| {
        let envelope = GroupEnvelope { from: asker, to: own, message: GroupMessage::Ask { operation } };
        let input = Input::Message { from: harness::id(other), message: PeerMessage::Group { envelope } };
        cluster.quiet = false;
        cluster.input(leader, input);
        cluster.run(20);
        std::mem::take(&mut cluster.trace).join("\n")
    };
    assert!(!answers(&mut cluster).contains("Answer"));
    let told = answers(&mut cluster);
    assert!(told.contains("Answer") && told.contains("aborted"), "{told}");
    // One that a majority does not answer does not know.
    "ABC".chars().filter(|letter| *letter != leader).for_each(|letter| cluster.crash(letter));
    for _ in 0..3 {
        assert!(!answers(&mut cluster).contains("Answer"));
    }
}

/// Gives a dead node's replica a state whose counters are estimates, with nothing in its tablet.
fn misjudge(cluster: &mut Cluster, letter: char, group: GroupId) {
    let store = &cluster.host(letter).store;
    let machine = Machine::open(store.clone(), group).unwrap().unwrap();
    let (name, state) = (machine.name(), machine.state().clone());
    machine.destroy().unwrap();
    let state = GroupState { counted: false, keys: 700, bytes: 3, ..state };
    Machine::create(store.clone(), name, state, TabletId(9)).unwrap();
    store.flush().unwrap();
}

#[test]
fn a_leader_has_estimates_counted_and_corrects_them() {
    let mut cluster = Cluster::founded_by("ABC");
    cluster.quiet = true;
    cluster.run(1500);
    let leader = cluster.leader().expect("somebody leads");
    let group = cluster.group();
    cluster.put(leader, "k", "x");
    cluster.run(100);
    let letters = ['A', 'B', 'C'];
    letters.iter().for_each(|letter| cluster.flush(*letter));
    cluster.run(100);
    for letter in letters {
        cluster.crash(letter);
        misjudge(&mut cluster, letter, group);
    }
    for letter in letters {
        cluster.start(letter);
    }
    cluster.run(1200);
    let leader = cluster.leader().expect("somebody leads again");
    let requests: Vec<RequestId> = (0..100).map(|index| cluster.put(leader, &format!("k{index}"), "x")).collect();
    cluster.run(200);
    assert!(requests.iter().all(|request| written(&cluster, *request)));
    for letter in letters {
        let state = cluster.process(letter).stage.state(group).unwrap().clone();
        assert_eq!((state.counted, state.keys), (true, 100), "at {letter}");
        cluster.process(letter).stage.machine(group).unwrap().full_fingerprint().unwrap();
    }
}
