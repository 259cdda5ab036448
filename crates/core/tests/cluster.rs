//! Three nodes over a perfect network: birth, election, writes, reads, hand-over, the loss of a leader.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use harness::Cluster;
use scatter_core::command::Outcome;
use scatter_core::effects::Reply;
use scatter_core::group::{GroupState, Machine};
use scatter_core::store::Store;
use scatter_core::types::{GroupId, RequestId, TabletId};

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
