//! What entries of group operations do to states, case by case. `tests/toy_ring.rs` has them in any order.

use super::messages::{GroupEnvelope, GroupMessage, Standing};
use super::transitions::{Reshaped, is_newer, joined, remainder, same_voters};
use super::*;
use crate::codec::{Decode, Encode};
use crate::group::{Configuration, GroupState, Member, Role};
use crate::types::{ClusterId, Incarnation};
use proptest::prelude::*;

fn position(byte: u8) -> Position {
    if byte == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[byte])) }
}

fn range(start: u8, end: u8) -> KeyRange {
    KeyRange { start: position(start), end: position(end) }
}

fn members(nodes: &[u64]) -> Vec<Member> {
    let member = |node: &u64| Member {
        node: NodeId(*node),
        incarnation: Incarnation(1),
        role: Role::Voter,
        address: format!("n{node}:1"),
    };
    nodes.iter().map(member).collect()
}

/// A group with its arc, all of whose numbers are its own; it does not know its neighbours yet.
fn group(id: u64, start: u8, end: u8) -> GroupState {
    let configuration = Configuration { version: ConfigurationVersion(id), members: members(&[1, 2, 3]) };
    let mut state = GroupState::genesis(ClusterId(1), GroupId(id), configuration, LogTime(1_000 * id));
    state.range = range(start, end);
    state.range_version = RangeVersion(10 * id);
    state.stamp = Version(100 * id);
    state.forgotten = Version(10 * id);
    state.feature_level = FeatureLevel(id as u16);
    (state.keys, state.bytes) = (8 * id, 80 * id);
    state
}

/// Groups with these boundaries, in ring order; each knows its neighbours.
fn ring(boundaries: &[u8]) -> Vec<GroupState> {
    let ends = boundaries.iter().cycle().skip(1);
    let arcs = (1u64..).zip(boundaries.iter().zip(ends));
    let mut groups: Vec<GroupState> = arcs.map(|(id, (start, end))| group(id, *start, *end)).collect();
    let links: Vec<Link> = groups.iter().map(GroupState::link).collect();
    let count = groups.len();
    for (index, state) in groups.iter_mut().enumerate() {
        state.links.predecessor = links[(index + count - 1) % count].clone();
        state.links.successor = links[(index + 1) % count].clone();
    }
    groups
}

/// The takeover of `moving` from `loser`, as its leader is asked for it.
fn takeover(loser: &GroupState, moving: KeyRange) -> Takeover {
    Takeover {
        loser: loser.group,
        merge: moving == loser.range,
        moving,
        range_version: loser.range_version,
        configuration_version: loser.configuration.version,
        operations: loser.operations,
    }
}

fn begin_of(gainer: &GroupState, loser: &GroupState, moving: KeyRange) -> Begin {
    Begin {
        range_version: gainer.range_version,
        configuration_version: gainer.configuration.version,
        takeover: takeover(loser, moving),
        loser: loser.link(),
    }
}

fn prepare_of(gainer: &GroupState) -> Prepare {
    let Some(Pending::Gains { operation, takeover, .. }) = &gainer.pending else { panic!("nothing is pending") };
    Prepare { operation: *operation, takeover: takeover.clone(), gainer: gainer.link() }
}

/// Locks both sides: the gainer at its slot 5, the loser at its slot 7.
fn lock(gainer: &mut GroupState, loser: &mut GroupState, moving: KeyRange) -> (OperationId, Surrender) {
    let begin = begin_of(gainer, loser, moving);
    assert_eq!(gainer.begin_refusal(&begin), None);
    assert!(gainer.begin(&begin, Slot(5)));
    let prepare = prepare_of(gainer);
    assert_eq!(loser.prepare_refusal(&prepare), None);
    assert!(loser.prepare(&prepare, Slot(7), 6, || Bytes::from_static(b"lanes")));
    let Some(Pending::Loses { surrender, .. }) = &loser.pending else { panic!("the loser is not locked") };
    (prepare.operation, surrender.clone())
}

/// The whole of an operation that commits: at the gainer's slot 6 and, unless the loser ends, at the loser's slot 8.
fn take(gainer: &mut GroupState, loser: &mut GroupState, moving: KeyRange) -> Reshaped {
    let merge = moving == loser.range;
    let (operation, surrender) = lock(gainer, loser, moving.clone());
    let gained = gainer.decide(&Decide { operation, commit: Some(surrender) }, Slot(6)).expect("it was pending");
    if !merge {
        let lost = loser.resolve(&Resolve { operation, committed: Some(Slot(6)) }, Slot(8));
        assert_eq!(lost, Some(Reshaped::Lost { operation, moving, committed: Slot(6) }));
    }
    gained
}

fn named(link: &Link) -> (u64, KeyRange, RangeVersion) {
    (link.group.0, link.range.clone(), link.range_version)
}

#[test]
fn parts_are_joined_and_what_is_left_is_found() {
    assert_eq!(joined(&range(1, 5), &range(5, 9)), Some(range(1, 9)));
    assert_eq!(joined(&range(5, 9), &range(1, 5)), Some(range(1, 9)));
    // Past the last position.
    assert_eq!(joined(&range(200, 0), &range(0, 5)), Some(range(200, 5)));
    assert_eq!(joined(&range(250, 3), &range(200, 250)), Some(range(200, 3)));
    // The two halves of the ring: cut where the first begins.
    assert_eq!(joined(&range(5, 1), &range(1, 5)), Some(range(5, 5)));
    assert_eq!(joined(&range(1, 5), &range(6, 9)), None);
    assert_eq!(joined(&range(1, 6), &range(5, 9)), None);
    assert_eq!(joined(&range(9, 4), &range(0, 9)), None, "they meet at one end and overlap at the other");
    assert_eq!(joined(&range(0, 9), &range(9, 4)), None, "the same");
    assert_eq!(joined(&range(7, 7), &range(7, 9)), None);

    assert_eq!(remainder(&range(1, 9), &range(1, 5)), Some(range(5, 9)));
    assert_eq!(remainder(&range(1, 9), &range(5, 9)), Some(range(1, 5)));
    assert_eq!(remainder(&range(200, 9), &range(200, 3)), Some(range(3, 9)));
    assert_eq!(remainder(&range(200, 9), &range(250, 9)), Some(range(200, 250)));
    assert_eq!(remainder(&range(1, 9), &range(1, 9)), None, "nothing is left");
    assert_eq!(remainder(&range(1, 9), &range(3, 5)), None, "it touches no end");
    assert_eq!(remainder(&range(1, 9), &range(1, 12)), None, "it goes beyond");
    assert_eq!(remainder(&range(1, 9), &range(12, 9)), None, "it begins outside");
}

proptest! {
    /// Of any two arcs that can be joined, either is what the other leaves of the whole; and no arc is made up.
    #[test]
    fn joining_and_leaving_agree(a in 0u8..12, b in 0u8..12, c in 0u8..12, d in 0u8..12) {
        let (one, other) = (range(a, b), range(c, d));
        let shared = |at: u8| one.contains(&position(at)) && other.contains(&position(at));
        if let Some(whole) = joined(&one, &other) {
            for at in 0..14 {
                prop_assert!(!shared(at));
                let within = one.contains(&position(at)) || other.contains(&position(at));
                prop_assert_eq!(whole.contains(&position(at)), within);
            }
            if !whole.is_whole() {
                prop_assert_eq!(remainder(&whole, &one), Some(other.clone()));
            }
            prop_assert_eq!(remainder(&whole, &other), Some(one));
        } else if let Some(left) = remainder(&one, &other) {
            for at in 0..14 {
                let within = left.contains(&position(at)) || other.contains(&position(at));
                prop_assert_eq!(one.contains(&position(at)), within);
                prop_assert!(!(left.contains(&position(at)) && other.contains(&position(at))));
            }
        }
    }
}

#[test]
fn the_only_group_splits() {
    let mut parent = GroupState {
        counted: true,
        configuration: Configuration { version: ConfigurationVersion(4), members: members(&[1, 2, 3]) },
        operations: OperationCounter(9),
        absorbed: vec![(GroupId(40), Slot(2))],
        ..group(1, 0, 0)
    };
    parent.configuration.members[1].incarnation = Incarnation(3);
    let before = parent.clone();
    let split = Split { at: position(9), child: GroupId(2), leader: NodeId(2), range_version: before.range_version };
    let child = parent.split(&split, Slot(6)).expect("it fits");

    let version = before.range_version.next();
    assert_eq!((&parent.range, parent.range_version, parent.reshaped), (&range(0, 9), version, Slot(6)));
    assert_eq!((&child.range, child.range_version, child.reshaped), (&range(9, 0), version, Slot(1)));
    // Each is the other's neighbour twice, as it is now.
    for (state, other) in [(&parent, &child), (&child, &parent)] {
        assert_eq!(named(&state.links.predecessor), named(&other.link()));
        assert_eq!(named(&state.links.successor), named(&other.link()));
    }
    // The child begins like a first group, on the same nodes, with the parent's clocks, in which its lanes are.
    assert_eq!(
        (child.group, child.applied, child.configuration.version),
        (GroupId(2), Slot(1), ConfigurationVersion(1))
    );
    assert!(same_voters(&child.configuration.members, &parent.configuration.members));
    assert!(child.configuration.members.iter().all(|member| member.incarnation == Incarnation(1)));
    assert_eq!((child.stamp, child.forgotten, child.log_time), (before.stamp, before.forgotten, before.log_time));
    assert_eq!(
        (child.feature_level, child.operations, child.absorbed.len()),
        (before.feature_level, OperationCounter(0), 0)
    );
    assert_eq!((parent.operations, &parent.absorbed), (before.operations, &before.absorbed));
    // What each has is a guess, but nothing is counted twice.
    assert!(!parent.counted && !child.counted);
    assert_eq!((parent.keys + child.keys, parent.bytes + child.bytes), (before.keys, before.bytes));
    assert_eq!(parent.configuration, before.configuration);
}

#[test]
fn one_of_many_splits_and_keeps_its_lower_part() {
    let [first, mut parent, third] = ring(&[10, 20, 200]).try_into().unwrap();
    let split = |parent: &GroupState, at, child| Split {
        at: position(at),
        child: GroupId(child),
        leader: NodeId(1),
        range_version: parent.range_version,
    };
    let child = parent.split(&split(&parent, 30, 9), Slot(2)).unwrap();
    assert_eq!(named(&parent.links.predecessor), named(&first.link()));
    assert_eq!(named(&parent.links.successor), named(&child.link()));
    assert_eq!(named(&child.links.predecessor), named(&parent.link()));
    assert_eq!(named(&child.links.successor), named(&third.link()));
    // An arc that goes past the last position, cut on either side of it.
    for at in [250, 5] {
        let mut wrapping = third.clone();
        let child = wrapping.split(&split(&wrapping, at, 9), Slot(2)).unwrap();
        assert_eq!((wrapping.range, child.range), (range(200, at), range(at, 10)));
    }
}

#[test]
fn a_split_that_does_not_fit_does_nothing() {
    let [mut parent, mut other] = ring(&[10, 200]).try_into().unwrap();
    let fits = Split { at: position(20), child: GroupId(9), leader: NodeId(1), range_version: parent.range_version };
    let refused = |parent: &mut GroupState, split: Split| {
        let before = parent.clone();
        assert!(parent.split_refusal(&split).is_some(), "{split:?}");
        assert_eq!(parent.split(&split, Slot(6)), None);
        assert_eq!(*parent, before);
    };
    for at in [10, 200, 201, 0, 5] {
        refused(&mut parent, Split { at: position(at), ..fits.clone() });
    }
    refused(&mut parent, Split { range_version: fits.range_version.next(), ..fits.clone() });
    refused(&mut parent, Split { child: GroupId(1), ..fits.clone() });
    let moving = other.range.clone();
    lock(&mut parent, &mut other, moving);
    refused(&mut parent, fits.clone());
    let range_version = other.range_version;
    refused(&mut other, Split { at: position(220), range_version, ..fits });
}

#[test]
fn a_begin_that_does_not_fit_does_nothing() {
    let [mut gainer, mut loser, third] = ring(&[10, 20, 200]).try_into().unwrap();
    let fits = begin_of(&gainer, &loser, loser.range.clone());
    let refused = |gainer: &mut GroupState, begin: &Begin| {
        let before = gainer.clone();
        assert!(gainer.begin_refusal(begin).is_some(), "{begin:?}");
        assert!(!gainer.begin(begin, Slot(5)));
        assert_eq!(*gainer, before);
    };
    let with = |change: &dyn Fn(&mut Begin)| {
        let mut begin = fits.clone();
        change(&mut begin);
        begin
    };
    refused(&mut gainer, &with(&|begin| begin.range_version.0 += 1));
    refused(&mut gainer, &with(&|begin| begin.configuration_version.0 += 1));
    refused(&mut gainer, &with(&|begin| begin.takeover.loser = GroupId(1)));
    refused(&mut gainer, &with(&|begin| begin.loser.group = GroupId(3)));
    refused(&mut gainer, &with(&|begin| begin.loser.members = members(&[1, 2, 4])));
    refused(&mut gainer, &with(&|begin| begin.loser.members = members(&[1, 2])));
    refused(&mut gainer, &with(&|begin| begin.loser.members[2].role = Role::Learner));
    // All of the neighbour is a merge, a part of it is none, and a part that touches no end of it is nothing.
    refused(&mut gainer, &with(&|begin| begin.takeover.merge = false));
    refused(&mut gainer, &with(&|begin| begin.takeover.moving = range(20, 30)));
    for moving in [range(30, 200), range(21, 30), range(20, 201), range(20, 20)] {
        let mut begin = with(&|begin| begin.takeover.merge = false);
        begin.takeover.moving = moving;
        refused(&mut gainer, &begin);
    }
    let merge = |gainer: &GroupState, loser: &GroupState| begin_of(gainer, loser, loser.range.clone());
    // What lies on the far side of the neighbour.
    let mut far = ring(&[10, 20, 100, 200]);
    let begin = merge(&far[0], &far[2]);
    refused(&mut far[0], &begin);
    assert!(gainer.begin(&fits, Slot(5)));
    refused(&mut gainer, &fits);
    let before = merge(&gainer, &third);
    refused(&mut gainer, &before);
    let prepare = prepare_of(&gainer);
    assert!(loser.prepare(&prepare, Slot(7), 0, Bytes::new));
    let begin = merge(&loser, &third);
    refused(&mut loser, &begin);
}

#[test]
fn a_prepare_that_does_not_fit_locks_nobody() {
    let [mut gainer, loser, third] = ring(&[10, 20, 200]).try_into().unwrap();
    let begin = begin_of(&gainer, &loser, range(20, 30));
    assert!(gainer.begin(&begin, Slot(5)));
    let fits = prepare_of(&gainer);
    let refused = |loser: &GroupState, change: &dyn Fn(&mut Prepare)| {
        let (mut loser, mut prepare) = (loser.clone(), fits.clone());
        change(&mut prepare);
        let before = loser.clone();
        assert!(loser.prepare_refusal(&prepare).is_some(), "{prepare:?}");
        assert!(!loser.prepare(&prepare, Slot(7), 0, || panic!("no lanes are asked for")));
        assert_eq!(loser, before);
    };
    refused(&loser, &|prepare| prepare.takeover.range_version.0 += 1);
    refused(&loser, &|prepare| prepare.takeover.configuration_version.0 += 1);
    refused(&loser, &|prepare| prepare.takeover.operations.0 += 1);
    refused(&loser, &|prepare| prepare.takeover.loser = GroupId(3));
    refused(&loser, &|prepare| prepare.takeover.merge = true);
    refused(&loser, &|prepare| prepare.takeover.moving = range(21, 30));
    refused(&loser, &|prepare| prepare.takeover.moving = range(20, 200));
    refused(&loser, &|prepare| prepare.gainer.members = members(&[1, 2, 4]));
    refused(&third, &|_| {});
    // One that coordinates is locked too.
    let mut coordinates = loser.clone();
    assert!(coordinates.begin(&begin_of(&loser, &third, third.range.clone()), Slot(5)));
    refused(&coordinates, &|_| {});
    let mut locked = loser;
    assert!(locked.prepare(&fits, Slot(7), 0, Bytes::new));
    refused(&locked, &|_| {});
    refused(&locked, &|prepare| prepare.takeover.operations.0 += 1);
}

#[test]
fn only_who_owes_nothing_is_merged_away() {
    let [mut gainer, loser] = ring(&[10, 200]).try_into().unwrap();
    let begin = begin_of(&gainer, &loser, loser.range.clone());
    assert!(gainer.begin(&begin, Slot(5)));
    let merge = prepare_of(&gainer);
    let mut owes = loser.clone();
    let operation = OperationId { coordinator: owes.group, slot: Slot(2) };
    owes.outbox = vec![Obligation::Bury { operation, loser: GroupId(8), at: Slot(3) }];
    assert!(owes.prepare_refusal(&merge).is_some());
    assert!(owes.settle(operation));
    assert_eq!(owes.prepare_refusal(&merge), None);
    // A part may go all the same.
    owes.outbox = vec![Obligation::Tell { operation, loser: gainer.link(), committed: None }];
    let moving = range(200, 220);
    let part = Prepare { takeover: takeover(&owes, moving), ..merge };
    assert_eq!(owes.prepare_refusal(&part), None);
}

#[test]
fn a_yes_tells_what_moves() {
    let [mut gainer, mut loser, third] = ring(&[10, 20, 200]).try_into().unwrap();
    loser.absorbed = vec![(GroupId(30), Slot(2)), (GroupId(31), Slot(3))];
    let (of_part, of_all) = (range(20, 30), loser.range.clone());
    let (mut other_gainer, mut other_loser) = (gainer.clone(), loser.clone());
    let (_, part) = lock(&mut gainer, &mut loser, of_part);
    let (_, all) = lock(&mut other_gainer, &mut other_loser, of_all);
    for surrender in [&part, &all] {
        assert_eq!((surrender.seal, surrender.stamp, surrender.forgotten), (Slot(7), Version(200), Version(20)));
        assert_eq!((surrender.log_time, surrender.feature_level), (LogTime(2_000), FeatureLevel(2)));
    }
    assert_eq!((part.keys, part.bytes, part.idempotency_records), (8, 80, 3));
    assert_eq!((part.outer, part.absorbed.len(), &part.lanes[..]), (None, 0, &b"lanes"[..]));
    // Each member has the lanes of a group that ends.
    assert_eq!((all.keys, all.bytes, all.idempotency_records), (16, 160, 6));
    assert_eq!(
        (all.outer, all.absorbed, &all.lanes[..]),
        (Some(third.link()), vec![GroupId(30), GroupId(31)], &b""[..])
    );
    assert_eq!((loser.operations, other_loser.operations), (OperationCounter(1), OperationCounter(1)));
    // What is sealed is not served, the rest is.
    assert_eq!((loser.served(), other_loser.served()), (Some(range(30, 200)), None));
    assert_eq!(gainer.served(), Some(gainer.range.clone()));
}

#[test]
fn a_successor_is_merged() {
    let [mut gainer, mut loser, third] = ring(&[10, 20, 200]).try_into().unwrap();
    loser.absorbed = vec![(GroupId(30), Slot(2))];
    let before = (gainer.clone(), loser.clone());
    let moving = loser.range.clone();
    let Reshaped::Gained { operation, takeover, surrender, offset_micros } = take(&mut gainer, &mut loser, moving)
    else {
        panic!("nothing was gained")
    };
    assert_eq!(operation, OperationId { coordinator: GroupId(1), slot: Slot(5) });
    assert_eq!((takeover.loser, takeover.merge, surrender.seal), (GroupId(2), true, Slot(7)));
    assert_eq!(offset_micros, -1_000, "the gainer's clock is behind");
    assert_eq!((&gainer.range, gainer.range_version, gainer.reshaped), (&range(10, 200), RangeVersion(21), Slot(6)));
    assert_eq!((gainer.stamp, gainer.forgotten, gainer.feature_level), (Version(200), Version(20), FeatureLevel(2)));
    assert_eq!((gainer.log_time, gainer.operations), (before.0.log_time, before.0.operations));
    assert_eq!((gainer.keys, gainer.bytes, gainer.counted), (24, 240, false));
    assert_eq!(gainer.pending, None);
    assert_eq!(gainer.outbox, [Obligation::Bury { operation, loser: GroupId(2), at: Slot(6) }]);
    assert_eq!(gainer.absorbed, [(GroupId(30), Slot(6)), (GroupId(2), Slot(6))]);
    assert_eq!(named(&gainer.links.successor), named(&third.link()));
    assert_eq!(gainer.links.predecessor, before.0.links.predecessor);
    assert!(gainer.settle(operation) && !gainer.settle(operation));
    assert_eq!(gainer.outbox, []);
}

#[test]
fn a_predecessor_is_merged() {
    let [first, mut loser, mut gainer] = ring(&[10, 20, 200]).try_into().unwrap();
    let moving = loser.range.clone();
    let Reshaped::Gained { offset_micros, .. } = take(&mut gainer, &mut loser, moving) else { panic!() };
    assert_eq!(offset_micros, 1_000);
    assert_eq!((&gainer.range, gainer.range_version), (&range(20, 10), RangeVersion(31)));
    assert_eq!(named(&gainer.links.predecessor), named(&first.link()));
    assert_eq!(named(&gainer.links.successor), named(&first.link()));
    assert_eq!((gainer.stamp, gainer.forgotten, gainer.feature_level), (Version(300), Version(30), FeatureLevel(3)));
}

#[test]
fn of_two_groups_one_is_left_and_is_its_own_neighbour() {
    for gains in [0, 1] {
        let mut both = ring(&[10, 200]);
        let mut loser = both.remove(1 - gains);
        let mut gainer = both.remove(0);
        let moving = loser.range.clone();
        take(&mut gainer, &mut loser, moving);
        assert!(gainer.range.is_whole());
        let own = gainer.link();
        assert_eq!((&gainer.links.predecessor, &gainer.links.successor), (&own, &own));
    }
}

#[test]
fn of_three_groups_two_are_left_and_are_neighbours_twice() {
    let [mut gainer, mut loser, third] = ring(&[10, 20, 200]).try_into().unwrap();
    let moving = loser.range.clone();
    take(&mut gainer, &mut loser, moving);
    assert_eq!(named(&gainer.links.predecessor), named(&third.link()));
    assert_eq!(named(&gainer.links.successor), named(&third.link()));
    // The third is told, and believes it of both sides.
    assert!(third.is_news(&gainer.link(), false) && third.is_news(&gainer.link(), true));
}

/// Moves the boundary between the first two of these groups; who gains, what moves, and the ranges that come of it.
fn shift(boundaries: &[u8], first_gains: bool, moving: KeyRange, ranges: [KeyRange; 2]) {
    let mut groups = ring(boundaries);
    let others: Vec<GroupState> = groups.split_off(2);
    let (mut second, mut first) = (groups.pop().unwrap(), groups.pop().unwrap());
    let version = first.range_version.max(second.range_version).next();
    let gained = if first_gains {
        take(&mut first, &mut second, moving.clone())
    } else {
        take(&mut second, &mut first, moving.clone())
    };
    assert!(matches!(gained, Reshaped::Gained { .. }));
    assert_eq!([first.range.clone(), second.range.clone()], ranges);
    assert_eq!((first.range_version, second.range_version), (version, version));
    assert_eq!((first.pending.as_ref(), second.pending.as_ref()), (None, None));
    // They know each other as they are; on a ring of two, on both sides. What lies beyond is as it was.
    assert_eq!(named(&first.links.successor), named(&second.link()));
    assert_eq!(named(&second.links.predecessor), named(&first.link()));
    let (before, behind) = match (others.first(), others.last()) {
        (Some(behind), Some(before)) => (before.link(), behind.link()),
        _ => (second.link(), first.link()),
    };
    assert_eq!(named(&first.links.predecessor), named(&before));
    assert_eq!(named(&second.links.successor), named(&behind));
    // Half of what the loser has is thought to move; nothing is counted twice.
    assert_eq!((first.keys + second.keys, first.bytes + second.bytes), (24, 240));
    assert!(!first.counted && !second.counted);
    let (gainer, loser) = if first_gains { (&first, &second) } else { (&second, &first) };
    assert_eq!((gainer.reshaped, loser.reshaped), (Slot(6), Slot(8)));
    assert!(matches!(&gainer.outbox[..], [Obligation::Tell { committed: Some(Slot(6)), .. }]));
    assert_eq!((loser.outbox.len(), loser.absorbed.len(), gainer.absorbed.len()), (0, 0, 0));
    // The loser heard a vote and an outcome; it goes on under its own clocks.
    assert_eq!((loser.operations, gainer.operations), (OperationCounter(2), OperationCounter(0)));
    assert_eq!((gainer.stamp, gainer.feature_level), (Version(200), FeatureLevel(2)));
    assert_eq!(loser.stamp, Version(100 * loser.group.0));
}

#[test]
fn a_boundary_moves_either_way() {
    for others in [&[][..], &[250]] {
        let boundaries = [&[10, 100][..], others].concat();
        let end = if others.is_empty() { 10 } else { 250 };
        shift(&boundaries, true, range(100, 150), [range(10, 150), range(150, end)]);
        shift(&boundaries, false, range(50, 100), [range(10, 50), range(50, end)]);
    }
    // Past the last position, with a boundary on either side of it.
    shift(&[150, 200, 20], true, range(200, 5), [range(150, 5), range(5, 20)]);
    shift(&[150, 200, 20], true, range(200, 250), [range(150, 250), range(250, 20)]);
    shift(&[200, 20, 100], false, range(250, 20), [range(200, 250), range(250, 100)]);
    shift(&[200, 20], false, range(0, 20), [range(200, 0), range(0, 200)]);
    shift(&[200, 20], true, range(20, 100), [range(200, 100), range(100, 200)]);
}

#[test]
fn an_abort_leaves_all_but_the_counters() {
    for moving in [range(20, 200), range(20, 100)] {
        let [mut gainer, mut loser, _] = ring(&[10, 20, 200]).try_into().unwrap();
        let before = (gainer.clone(), loser.clone());
        let (operation, surrender) = lock(&mut gainer, &mut loser, moving);
        assert_eq!(gainer.decide(&Decide { operation, commit: None }, Slot(6)), None);
        assert_eq!(gainer.outbox, [Obligation::Tell { operation, loser: before.1.link(), committed: None }]);
        // The first decision wins.
        let late = gainer.clone();
        assert_eq!(gainer.decide(&Decide { operation, commit: Some(surrender) }, Slot(7)), None);
        assert_eq!(gainer, late);
        assert_eq!(loser.resolve(&Resolve { operation, committed: None }, Slot(8)), None);
        assert!(gainer.settle(operation));
        assert_eq!(gainer, before.0);
        assert_eq!(loser.operations, OperationCounter(2));
        assert_eq!(GroupState { operations: OperationCounter(0), ..loser }, before.1);
    }
}

#[test]
fn a_decision_on_another_operation_does_nothing() {
    let [mut gainer, mut loser] = ring(&[10, 200]).try_into().unwrap();
    let moving = loser.range.clone();
    let (operation, surrender) = lock(&mut gainer, &mut loser, moving);
    let other = OperationId { slot: Slot(4), ..operation };
    let before = (gainer.clone(), loser.clone());
    for commit in [None, Some(surrender.clone())] {
        assert_eq!(gainer.decide(&Decide { operation: other, commit }, Slot(6)), None);
        assert_eq!(gainer, before.0);
    }
    // The loser counts what it hears, and stays locked.
    assert_eq!(loser.resolve(&Resolve { operation: other, committed: None }, Slot(8)), None);
    assert_eq!((loser.operations, &loser.pending), (OperationCounter(2), &before.1.pending));
    // A loser decides nothing.
    assert_eq!(loser.decide(&Decide { operation, commit: None }, Slot(9)), None);
    assert_eq!(loser.pending, before.1.pending);
    // A group that was merged does not end itself.
    assert_eq!(loser.resolve(&Resolve { operation, committed: Some(Slot(6)) }, Slot(10)), None);
    assert_eq!((loser.range, loser.pending), (before.1.range, before.1.pending));
}

#[test]
fn a_prepare_that_comes_after_its_abort_locks_nobody() {
    let [mut gainer, mut loser] = ring(&[10, 200]).try_into().unwrap();
    let begin = begin_of(&gainer, &loser, loser.range.clone());
    assert!(gainer.begin(&begin, Slot(5)));
    let late = prepare_of(&gainer);
    gainer.decide(&Decide { operation: late.operation, commit: None }, Slot(6));
    // The loser hears of the operation for the first time by its end.
    assert_eq!(loser.resolve(&Resolve { operation: late.operation, committed: None }, Slot(7)), None);
    assert!(gainer.settle(late.operation));
    assert!(loser.prepare_refusal(&late).is_some());
    assert!(!loser.prepare(&late, Slot(8), 0, Bytes::new));
    assert_eq!(loser.pending, None);
    // The next operation asks anew and is not held up.
    take(&mut gainer, &mut loser, range(200, 250));
}

#[test]
fn a_repeated_outcome_narrows_once() {
    let [mut gainer, mut loser] = ring(&[10, 200]).try_into().unwrap();
    take(&mut gainer, &mut loser, range(200, 250));
    let operation = gainer.outbox[0].operation();
    let before = loser.clone();
    assert_eq!(loser.resolve(&Resolve { operation, committed: Some(Slot(6)) }, Slot(9)), None);
    assert_eq!(GroupState { operations: before.operations, ..loser }, before);
}

/// Of four groups in a row the second still takes the fourth for its predecessor, which it was before the first came to be.
/// The fourth is what lies behind the third, but not what lies before the second.
#[test]
fn who_was_the_neighbour_on_the_other_side_is_that_no_more() {
    for merge in [true, false] {
        let [first, mut second, mut third, fourth] = ring(&[10, 20, 100, 200]).try_into().unwrap();
        let old = Link { range: range(200, 20), range_version: RangeVersion(9), ..fourth.link() };
        second.links.predecessor = old.clone();
        if merge {
            let moving = third.range.clone();
            take(&mut second, &mut third, moving);
            assert_eq!(named(&second.links.successor), named(&fourth.link()));
            assert_eq!(second.links.predecessor, old);
            assert!(second.is_news(&first.link(), false), "whoever has come in between is heard");
        } else {
            // The same of one that loses: the third is the gainer, and was before the second once.
            second.links.predecessor.group = third.group;
            take(&mut third, &mut second, range(50, 100));
            assert_eq!(second.links.predecessor, Link { group: third.group, ..old });
            assert!(second.is_news(&first.link(), false));
        }
    }
}

/// What a merged group takes for its outer neighbour may be the gainer as it was, or, if it has just been through the same,
/// the merged group itself. Such a link has no say in what comes later.
#[test]
fn a_link_that_was_wrong_when_it_was_handed_on_is_replaced_by_any_that_fits() {
    let [first, mut second, mut third, mut fourth] = ring(&[10, 20, 100, 200]).try_into().unwrap();
    // The third has the second for a neighbour on both sides, for before there was a first it was.
    second.links.predecessor = Link { range: range(20, 10), range_version: RangeVersion(5), ..third.link() };
    let moving = second.range.clone();
    take(&mut third, &mut second, moving);
    assert_eq!(third.links.predecessor.group, third.group);
    assert!(third.is_news(&first.link(), false));
    third.outbox.clear();
    let moving = third.range.clone();
    take(&mut fourth, &mut third, moving);
    assert!(fourth.links.predecessor.range_version > first.range_version);
    assert!(fourth.relink(&[first.link()]), "an older range, but it lies there");
    assert_eq!(fourth.links.predecessor, first.link());
}

#[test]
fn only_the_last_of_many_merged_groups_are_remembered() {
    let [mut gainer, mut loser] = ring(&[10, 200]).try_into().unwrap();
    let some = |from: u64| (from..from + 50).map(|id| (GroupId(id), Slot(1))).collect::<Vec<_>>();
    (gainer.absorbed, loser.absorbed) = (some(100), some(200));
    let moving = loser.range.clone();
    take(&mut gainer, &mut loser, moving);
    assert_eq!(gainer.absorbed.len(), MAX_ABSORBED);
    assert_eq!(gainer.absorbed.first(), Some(&(GroupId(137), Slot(1))));
    assert_eq!(gainer.absorbed.last(), Some(&(GroupId(2), Slot(6))));
}

#[test]
fn news_of_neighbours_is_what_is_later_and_lies_next_to_the_arc() {
    let [first, second, third] = ring(&[10, 20, 200]).try_into().unwrap();
    let news = |state: &GroupState, link: &Link| (state.is_news(link, false), state.is_news(link, true));
    assert_eq!(news(&second, &first.link()), (false, false), "it is known");
    let mut link = first.link();
    link.configuration_version.0 += 1;
    assert_eq!(news(&second, &link), (true, false));
    link.range_version.0 -= 1;
    assert_eq!(news(&second, &link), (false, false), "the range is an older one");
    // Another group must have a higher version of the range; that of its members says nothing.
    let other = |range_version: u64, end: u8| Link {
        group: GroupId(77),
        range_version: RangeVersion(range_version),
        configuration_version: ConfigurationVersion(99),
        range: range(15, end),
        members: members(&[4]),
    };
    assert_eq!(news(&second, &other(first.range_version.0, 20)), (false, false));
    assert_eq!(news(&second, &other(first.range_version.0 + 1, 20)), (true, false));
    assert_eq!(news(&second, &other(1_000, 19)), (false, false), "there is a gap");
    assert_eq!(news(&second, &other(1_000, 21)), (false, false), "there is an overlap");
    assert_eq!(news(&third, &Link { range_version: RangeVersion(1_000), ..third.link() }), (false, false), "itself");

    let mut state = second.clone();
    assert!(!state.relink(&[]) && !state.relink(&[first.link(), third.link()]));
    assert_eq!(state, second);
    let later = Link { range_version: RangeVersion(500), ..third.link() };
    assert!(state.relink(&[other(15, 20), later.clone(), other(12, 20)]));
    assert_eq!((&state.links.predecessor, &state.links.successor), (&other(15, 20), &later));
    assert_eq!(state.links.version, second.links.version.next());
    // The only group believes that it is its own neighbour until it hears of another.
    let mut alone = group(1, 0, 9);
    assert!(alone.is_news(&Link { range: range(9, 0), ..other(0, 0) }, true));
    assert!(alone.relink(&[Link { range: range(9, 0), ..other(0, 0) }]));
    assert_eq!((alone.links.predecessor.group, alone.links.successor.group), (GroupId(77), GroupId(77)));
    assert!(!is_newer(&first.link(), &first.link()));
}

#[test]
fn pending_and_owed_read_back() {
    let [mut gainer, mut loser] = ring(&[10, 200]).try_into().unwrap();
    let moving = loser.range.clone();
    let (operation, _) = lock(&mut gainer, &mut loser, moving);
    for state in [&gainer, &loser] {
        assert_eq!(GroupState::from_all(state.to_bytes()).as_ref(), Ok(state));
        assert_eq!(state.pending.as_ref().unwrap().operation(), operation);
        assert_eq!(state.pending.as_ref().unwrap().takeover().loser, loser.group);
    }
    let message = GroupMessage::Answer { operation, standing: Standing::Committed { at: Slot(9) } };
    let envelope = GroupEnvelope { from: gainer.group, to: loser.group, message };
    assert_eq!(GroupEnvelope::from_all(envelope.to_bytes()), Ok(envelope));
    assert_eq!(operation.to_string(), "0000000000000001:5");
}

fn recover_of(state: &GroupState, survivors: &[u64]) -> Recover {
    Recover {
        child: GroupId(99),
        leader: NodeId(survivors[0]),
        survivors: survivors.iter().map(|node| NodeId(*node)).collect(),
        range_version: state.range_version,
    }
}

#[test]
fn the_survivors_of_a_group_go_on_with_all_that_it_had() {
    let mut ring = ring(&[0, 100, 200]);
    let mut parent = ring.remove(1);
    parent.absorbed = vec![(GroupId(7), Slot(30))];
    parent.operations = OperationCounter(4);
    let before = parent.clone();
    let child = parent.recover(&recover_of(&before, &[2, 3]), Slot(50)).expect("it fits");
    assert_eq!((child.group, child.applied, child.reshaped), (GroupId(99), Slot(1), Slot(1)));
    assert_eq!((&child.range, child.range_version), (&before.range, before.range_version.next()));
    assert_eq!(
        (&child.links.predecessor, &child.links.successor),
        (&before.links.predecessor, &before.links.successor)
    );
    assert_eq!((child.keys, child.stamp, child.forgotten), (before.keys, before.stamp, before.forgotten));
    assert_eq!((child.log_time, child.operations), (before.log_time, before.operations));
    assert!(child.configuration.version > before.configuration.version);
    let nodes: Vec<u64> = child.configuration.voters().map(|member| member.node.0).collect();
    assert_eq!(nodes, [2, 3]);
    assert_eq!(child.absorbed, [(GroupId(7), Slot(1)), (before.group, Slot(1))]);
    assert!(matches!(child.outbox[..], [Obligation::Bury { loser, at: Slot(1), .. }] if loser == before.group));
    let recovered = &child.recovered[0];
    assert_eq!((recovered.group, recovered.at), (before.group, Slot(50)));
    assert_eq!((&recovered.survivors[..], &recovered.condemned[..]), (&[NodeId(2), NodeId(3)][..], &[NodeId(1)][..]));
    assert_eq!(parent.reshaped, Slot(50));
}

#[test]
fn what_was_owed_to_another_group_is_owed_by_the_survivors() {
    let mut ring = ring(&[0, 100]);
    let (mut loser, mut gainer) = (ring.remove(1), ring.remove(0));
    take(&mut gainer, &mut loser, range(100, 150));
    let told = gainer.outbox[0].clone();
    let Obligation::Tell { operation, committed: Some(Slot(6)), .. } = told else { panic!("{told:?}") };
    let child = gainer.recover(&recover_of(&gainer.clone(), &[1]), Slot(9)).expect("it fits");
    assert_eq!(child.outbox[0], told);
    assert_eq!(child.gained[0], Gain { operation, at: Slot(1), loser: loser.group, seal: Slot(7) });
    assert_eq!(child.recovered[0].gained, [(operation, Slot(6))]);
}

#[test]
fn a_whole_ring_recovered_is_its_own_neighbour() {
    let mut only = group(1, 0, 0);
    let child = only.recover(&recover_of(&only.clone(), &[3]), Slot(2)).expect("it fits");
    assert_eq!(named(&child.links.successor), named(&child.link()));
    assert_eq!(named(&child.links.predecessor), named(&child.link()));
}

#[test]
fn a_recovery_that_does_not_fit_does_nothing() {
    let mut ring = ring(&[0, 100]);
    let (mut loser, mut gainer) = (ring.remove(1), ring.remove(0));
    let good = recover_of(&gainer, &[1, 2]);
    let bad = [
        Recover { range_version: RangeVersion(1), ..good.clone() },
        Recover { child: gainer.group, ..good.clone() },
        Recover { leader: NodeId(3), ..good.clone() },
        Recover { survivors: vec![NodeId(1), NodeId(9)], ..good.clone() },
        Recover { survivors: vec![NodeId(2), NodeId(1)], ..good.clone() },
        Recover { survivors: Vec::new(), ..good.clone() },
    ];
    for recover in bad {
        let before = gainer.clone();
        assert_eq!(gainer.recover(&recover, Slot(4)), None, "{recover:?}");
        assert_eq!(gainer, before);
    }
    // Nor while anything is open, on either side.
    let moving = loser.range.clone();
    lock(&mut gainer, &mut loser, moving);
    assert_eq!(gainer.recover(&good, Slot(8)), None);
    assert_eq!(loser.recover(&recover_of(&loser.clone(), &[1]), Slot(8)), None);
}
