use super::*;
use crate::group::Configuration;
use crate::ring::{KeyRange, Position};
use crate::types::{Ballot, ClusterId, ConfigurationVersion};
use bytes::Bytes;

fn state(id: u64, start: u8, end: u8) -> GroupState {
    let configuration = Configuration { version: ConfigurationVersion(1), members: Vec::new() };
    let mut state = GroupState::genesis(ClusterId(1), GroupId(id), configuration, crate::time::LogTime(1));
    let position = |byte: u8| Position(Bytes::copy_from_slice(&[byte]));
    state.range = KeyRange { start: position(start), end: position(end) };
    state.range_version = RangeVersion(id);
    state
}

/// Groups 1, 2, 3, .. with an arc of 10 each, the last one's neighbour the first.
fn ring(groups: u8) -> Vec<GroupState> {
    let start = |index: u8| index % groups * 10;
    let mut ring: Vec<GroupState> =
        (0..groups).map(|index| state(u64::from(index) + 1, start(index), start(index + 1))).collect();
    let links: Vec<_> = ring.iter().map(GroupState::link).collect();
    let count = links.len();
    for (index, state) in ring.iter_mut().enumerate() {
        state.links.predecessor = links[(index + count - 1) % count].clone();
        state.links.successor = links[(index + 1) % count].clone();
    }
    ring
}

fn own(state: &GroupState) -> Descriptor {
    state.descriptor(Some(NodeId(state.group.0)), Ballot::ZERO)
}

/// A leader's surroundings in `ring[0]`, which look far.
fn looking(ring: &[GroupState]) -> (Surroundings, Looking) {
    let mut surroundings = Surroundings::default();
    surroundings.set_successor(&ring[0]);
    (surroundings, Looking { far: true, ..Looking::default() })
}

/// Whom the first group asks in this turn: group, level, and whether all members.
fn turn(surroundings: &mut Surroundings, looking: &mut Looking, ring: &[GroupState]) -> Vec<(u64, usize, bool)> {
    surroundings.set_successor(&ring[0]);
    let questions = surroundings.questions(looking).into_iter();
    questions.map(|(question, to_all)| (question.ask.group.0, question.level, to_all)).collect()
}

/// The answer of a group that knows this one at the level asked for.
fn answer(surroundings: &mut Surroundings, ring: &[GroupState], (by, level): (usize, usize), link: usize) {
    let link = Arc::new(own(&ring[link % ring.len()]));
    assert!(surroundings.is_answered(ring[by].group, level));
    surroundings.links.heard(level, &own(&ring[by]));
    surroundings.links.answered(ring[0].group, &ring[0].range, level, Some(link));
}

#[test]
fn the_successor_is_asked_in_each_turn_and_the_levels_in_turn() {
    let ring = ring(6);
    let (mut surroundings, mut looking) = looking(&ring);
    assert_eq!(turn(&mut surroundings, &mut looking, &ring), [(2, 0, false)]);
    answer(&mut surroundings, &ring, (1, 0), 2);
    assert_eq!(turn(&mut surroundings, &mut looking, &ring), [(2, 0, false), (3, 1, false)]);
    answer(&mut surroundings, &ring, (1, 0), 2);
    answer(&mut surroundings, &ring, (2, 1), 4);
    assert_eq!(turn(&mut surroundings, &mut looking, &ring), [(2, 0, false), (5, 2, false)]);
    answer(&mut surroundings, &ring, (1, 0), 2);
    // What lies four ahead of the fifth of six groups has gone round.
    answer(&mut surroundings, &ring, (4, 2), 8);
    assert_eq!(surroundings.links.links().map(|link| link.group.0).collect::<Vec<_>>(), [2, 3, 5]);
    assert_eq!(looking.looked, Looked { asked: 5, unanswered: 0 });
}

#[test]
fn who_is_silent_is_asked_at_all_members_and_then_given_up_unless_it_is_the_successor() {
    let ring = ring(6);
    let (mut surroundings, mut looking) = looking(&ring);
    turn(&mut surroundings, &mut looking, &ring);
    answer(&mut surroundings, &ring, (1, 0), 2);
    assert_eq!(turn(&mut surroundings, &mut looking, &ring), [(2, 0, false), (3, 1, false)]);
    assert_eq!(turn(&mut surroundings, &mut looking, &ring), [(2, 0, true), (3, 1, true)]);
    assert_eq!(turn(&mut surroundings, &mut looking, &ring), [(2, 0, true)]);
    assert_eq!(surroundings.links.links().map(|link| link.group.0).collect::<Vec<_>>(), [2]);
    assert!(!surroundings.is_answered(GroupId(3), 1), "that is too late");
    assert_eq!(looking.looked, Looked { asked: 6, unanswered: 4 });
    // A new successor is another one.
    let mut changed = ring.clone();
    changed[0].links.successor = ring[2].link();
    assert_eq!(turn(&mut surroundings, &mut looking, &changed), [(3, 0, false)]);
}

#[test]
fn nothing_far_is_kept_while_it_is_not_wanted() {
    let ring = ring(6);
    let (mut surroundings, mut looking) = looking(&ring);
    for (by, level, link) in [(1, 0, 2), (2, 1, 4)] {
        turn(&mut surroundings, &mut looking, &ring);
        answer(&mut surroundings, &ring, (by, level), link);
    }
    assert_eq!(surroundings.links.links().count(), 3);
    looking.far = false;
    assert_eq!(turn(&mut surroundings, &mut looking, &ring), [(2, 0, true)]);
    assert_eq!(surroundings.links.links().map(|link| link.group.0).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn only_the_neighbours_loads_are_taken_and_on_a_ring_of_two_they_are_one() {
    let load = |bytes| Some(GroupLoad { keys: 1, bytes, operations_per_second: 0 });
    let heard = |surroundings: &Surroundings| surroundings.heard.map(|heard| heard.map(|heard| heard.load.bytes));
    let ring_of_six = ring(6);
    let (mut surroundings, _) = looking(&ring_of_six);
    for from in &ring_of_six[1..] {
        surroundings.hear(&ring_of_six[0], (from.group, from.range_version), load(from.group.0), Instant(5));
    }
    assert_eq!(heard(&surroundings), [Some(6), Some(2)]);
    surroundings.hear(&ring_of_six[0], (GroupId(2), RangeVersion(2)), None, Instant(5));
    assert_eq!(heard(&surroundings), [Some(6), Some(2)], "who does not know its load takes nothing back");
    let ring_of_two = ring(2);
    let (mut surroundings, _) = looking(&ring_of_two);
    surroundings.hear(&ring_of_two[0], (GroupId(2), RangeVersion(2)), load(7), Instant(5));
    assert_eq!(heard(&surroundings), [Some(7), Some(7)]);
}

#[test]
fn a_load_counts_for_its_range_and_for_some_turns() {
    let load = GroupLoad { keys: 1, bytes: 2, operations_per_second: 3 };
    let turn = Duration::from_secs(10);
    let (link, at) = (ring(6)[1].link(), Instant(5));
    let heard = Heard { load, group: link.group, range_version: link.range_version, at };
    assert_eq!(heard.current(&link, at.after(turn * 4), turn), Some(load));
    assert_eq!(heard.current(&link, at.after(turn * 5), turn), None, "it is too old");
    let reshaped = Link { range_version: RangeVersion(99), ..link.clone() };
    assert_eq!(heard.current(&reshaped, at, turn), None, "that was of another range");
    let another = Link { group: GroupId(99), ..link };
    assert_eq!(heard.current(&another, at, turn), None, "another group lies there");
}

#[test]
fn each_group_has_a_turn_in_each_span_and_not_all_have_the_same() {
    let span = Duration::from_secs(10);
    let now = Instant(123_456_789_012);
    let turns = |now| (1..100).map(move |group| next_turn(now, GroupId(group), span));
    assert!(turns(now).all(|at| at > now && at <= now.after(span)));
    let first: Vec<Instant> = turns(now).collect();
    let apart: std::collections::BTreeSet<Instant> = first.iter().copied().collect();
    assert_eq!(apart.len() as u64, PARTS);
    for (group, at) in (1..100).zip(first) {
        assert_eq!(next_turn(at, GroupId(group), span), at.after(span));
        let late = at.after(span / 20);
        assert_eq!(next_turn(late, GroupId(group), span), at.after(span), "a late turn does not put off the next");
    }
    assert!(
        next_turn(Instant(u64::MAX), GroupId(1), Duration::ZERO) <= Instant(u64::MAX),
        "no span is too short or long"
    );
}
