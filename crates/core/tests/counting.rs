//! The stage counts what a group holds, slice by slice, while it goes on applying.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use scatter_core::Input;
use scatter_core::codec::{Decode, Encode};
use scatter_core::command::{Command, Condition, Operation};
use scatter_core::effects::{Apply, MachineOrder};
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::group::{Configuration, Correction, GroupState, Limits, Machine, Member, Role};
use scatter_core::ring::Key;
use scatter_core::stage::Stage;
use scatter_core::store::map::MapStore;
use scatter_core::time::{Instant, LogTime};
use scatter_core::types::{ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, ReplicaName, TabletId};
use std::collections::BTreeSet;
use std::time::Duration;

const GROUP: GroupId = GroupId(1);
const PATIENCE: Duration = Duration::from_secs(10);

/// A stage with replicas of so many groups, whose counters are off.
fn stage(groups: u64) -> Stage<MapStore> {
    let store = MapStore::new();
    for group in (1..=groups).map(GroupId) {
        let member = Member { node: NodeId(1), incarnation: Incarnation(1), role: Role::Voter, address: String::new() };
        let configuration = Configuration { version: ConfigurationVersion(1), members: vec![member] };
        let genesis = GroupState::genesis(ClusterId(1), group, configuration, LogTime(1_000_000));
        let state = GroupState { counted: false, keys: 50, bytes: 7, ..genesis };
        let name = ReplicaName { group, node: NodeId(1), incarnation: Incarnation(1) };
        Machine::create(store.clone(), name, state, TabletId(group.0)).unwrap();
    }
    Stage::open(store, Limits::default(), &BTreeSet::new(), 1, PATIENCE).unwrap()
}

fn apply(stage: &mut Stage<MapStore>, kind: EntryKind, body: Bytes) {
    let slot = stage.state(GROUP).unwrap().applied.next();
    let entries = vec![(slot, Entry { kind, clock: EntryClock::default(), body })];
    stage.apply(&Apply { group: GROUP, entries, waiting: Vec::new() }).unwrap();
}

fn put(stage: &mut Stage<MapStore>, from: u32, to: u32) {
    let command = |index: u32| {
        let key = Key::new(format!("k{index}").into_bytes()).unwrap();
        let operation = Operation::Put { key, value: Bytes::new(), ttl_ms: None, condition: Condition::Always };
        Command { lane: None, idempotency: None, operation }.to_bytes()
    };
    apply(stage, EntryKind::Commands, (from..to).map(command).collect::<Vec<_>>().to_bytes());
}

fn count(stage: &mut Stage<MapStore>, group: GroupId, count: u64, second: u64) -> (u64, Option<Bytes>) {
    let now = Instant(0).after(Duration::from_secs(second));
    let done = stage.order(&MachineOrder::Count { group, count }, now).unwrap();
    match &done.inputs[..] {
        [Input::Counted { group: of, count, correction }] if *of == group => (*count, correction.clone()),
        other => panic!("answered {other:?}"),
    }
}

#[test]
fn what_is_counted_is_what_was_there_when_counting_began() {
    let mut stage = stage(1);
    put(&mut stage, 0, 2_500);
    let (number, mut correction) = count(&mut stage, GROUP, 0, 0);
    assert!(number != 0 && correction.is_none());
    let mut slices = 1;
    while correction.is_none() {
        put(&mut stage, 2_000 + slices, 3_000 + slices);
        let (again, found) = count(&mut stage, GROUP, number, 0);
        assert_eq!(again, number);
        correction = found;
        slices += 1;
    }
    assert!(slices > 3);
    let correction = correction.unwrap();
    let parsed = Correction::from_all(correction.clone()).unwrap();
    assert_eq!(parsed.keys, 0u64.wrapping_sub(50));
    apply(&mut stage, EntryKind::Correct, correction);
    let state = stage.state(GROUP).unwrap();
    assert_eq!((state.counted, state.keys), (true, u64::from(3_000 + slices - 1)));
    stage.machine(GROUP).unwrap().full_fingerprint().unwrap();
    // There is nothing more to count.
    assert_eq!(count(&mut stage, GROUP, 0, 0), (0, None));
}

#[test]
fn a_count_that_nobody_goes_on_with_is_let_go() {
    let mut stage = stage(1);
    put(&mut stage, 0, 2_500);
    let (first, _) = count(&mut stage, GROUP, 0, 0);
    assert_eq!(count(&mut stage, GROUP, first + 1, 1), (0, None));
    assert_eq!(count(&mut stage, GROUP, first, 9), (first, None));
    assert_eq!(count(&mut stage, GROUP, first, 20), (0, None));
    // Whoever begins anew takes the place of whoever began before.
    let (second, _) = count(&mut stage, GROUP, 0, 21);
    let (third, _) = count(&mut stage, GROUP, 0, 21);
    assert_eq!(count(&mut stage, GROUP, second, 21), (0, None));
    assert_eq!(count(&mut stage, GROUP, third, 21), (third, None));
}

#[test]
fn few_groups_are_counted_at_once() {
    let mut stage = stage(6);
    let begun = |stage: &mut Stage<MapStore>, second| {
        (1..=6).filter(|group| count(stage, GroupId(*group), 0, second).0 != 0).count()
    };
    assert_eq!(begun(&mut stage, 0), 4);
    assert_eq!(begun(&mut stage, 5), 4);
    assert_eq!(count(&mut stage, GroupId(6), 0, 30).0.min(1), 1);
}
