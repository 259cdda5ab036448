//! What each policy does about one thing at a time.

use super::scene::{Scene, member};
use crate::group::Role;
use crate::policy::{Action, Busy, GroupLoad, Health, Measure, Outcome, Settings, SettingsError, Side, Switches};
use crate::rng::Rng;
use crate::time::Instant;
use crate::types::{GroupId, NodeId};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u64) -> Instant {
    Instant(0).after(SECOND * u32::try_from(seconds).unwrap())
}

#[test]
fn a_group_that_is_well_is_left_alone() {
    let mut scene = Scene::new(5);
    assert_eq!(scene.settled(1), []);
}

#[test]
fn the_settings_are_checked() {
    assert_eq!(Settings::default().check(), Ok(()));
    let wrong = Settings { min_size: 4, ..Settings::default() };
    assert_eq!(wrong.check(), Err(SettingsError::Sizes));
    let flapping = Settings { merge_bytes: 3 << 30, ..Settings::default() };
    assert_eq!(flapping.check(), Err(SettingsError::Thresholds));
    let stuck = Settings { operations_per_node: 0, ..Settings::default() };
    assert!(matches!(stuck.check(), Err(SettingsError::Zero(_))));
}

#[test]
fn a_dead_member_is_replaced_after_the_time_set_and_not_before() {
    let mut scene = Scene::new(4);
    scene.dies(3);
    assert_eq!(scene.decide_at(at(299), 1), []);
    let proposals = scene.decide_at(at(300), 1);
    assert_eq!(
        proposals[0].action,
        Action::ChangeMembers { add: vec![(NodeId(4), "node-4:1".to_owned())], remove: vec![NodeId(3)] }
    );
    let reason = proposals[0].reason.to_string();
    assert!(reason.contains("dead for 300 s") && reason.contains("with probability"), "{reason}");
}

#[test]
fn a_member_nobody_has_heard_of_counts_as_dead_after_the_same_time() {
    let mut scene = Scene::new(4);
    scene.nodes.remove(2);
    assert_eq!(scene.decide_at(at(0), 1), []);
    assert_eq!(scene.decide_at(at(299), 1), []);
    assert_eq!(scene.change(1), Some((vec![4], vec![3], "member_lost")));
}

#[test]
fn a_group_that_waits_for_news_of_a_member_does_nothing_else() {
    let mut scene = Scene::new(4);
    scene.load.operations_per_second = 50_000;
    assert_eq!(scene.first(1).map(|(_, reason)| reason), Some("hot"));
    scene.nodes.remove(2);
    scene.memory = Default::default();
    assert_eq!(scene.decide_at(at(0), 1), []);
    assert_eq!(scene.decide_at(at(200), 1), []);
}

#[test]
fn a_suspect_is_neither_replaced_nor_chosen() {
    let mut scene = Scene::new(4);
    scene.node(3).health = Health::Suspect;
    assert_eq!(scene.first(1), None);
    scene.dies(2);
    assert_eq!(scene.first(1), None, "one of three answers: nothing can be decided");
    scene.node(3).health = Health::Alive;
    scene.node(4).health = Health::Suspect;
    assert_eq!(scene.first(1), Some((Action::Nothing, "no_candidate")));
}

#[test]
fn the_replacement_comes_from_the_zone_that_was_lost() {
    let mut scene = Scene::new(9);
    scene.zones(&["a", "b", "c", "a", "b", "c", "a", "b", "d"]);
    scene.dies(3);
    for seed in 0..20 {
        assert_eq!(scene.change(seed), Some((vec![6], vec![3], "member_lost")));
    }
    scene.node(6).draining = true;
    assert_eq!(scene.change(1), Some((vec![9], vec![3], "member_lost")), "else from another one of its own");
}

#[test]
fn without_a_replacement_a_member_leaves_only_if_that_helps() {
    let mut scene = Scene::new(5);
    scene.settings.target_size = 5;
    scene.members = (1..=5).map(member).collect();
    scene.dies(5);
    assert_eq!(scene.first(1), Some((Action::Nothing, "no_candidate")), "four spare no more than five with one dead");
    scene.dies(4);
    assert_eq!(scene.change(1), Some((vec![], vec![4, 5], "member_lost")), "three spare one, five with two dead none");
}

#[test]
fn a_small_group_grows_to_its_target_in_one_change() {
    let mut scene = Scene::new(5);
    scene.members = vec![member(1)];
    scene.settings.target_size = 3;
    let (add, remove, reason) = scene.change(1).unwrap();
    assert_eq!((add.len(), remove.len(), reason), (2, 0, "below_target"));
    assert!(add.iter().all(|node| (2..=5).contains(node)) && add[0] != add[1]);
}

#[test]
fn newcomers_are_idle_old_and_have_room() {
    let mut scene = Scene::new(7);
    scene.members.pop();
    scene.node(3).free_disk_bytes = 1 << 30;
    scene.node(4).incoming = 2;
    scene.node(5).draining = true;
    scene.node(6).replicas = 10_000;
    for seed in 0..20 {
        assert_eq!(scene.change(seed), Some((vec![7], vec![], "below_target")));
    }
    scene.node(6).replicas = 10;
    scene.node(7).load_permille = 900;
    assert_eq!(scene.change(1), Some((vec![6], vec![], "below_target")));
    *scene.node(7) = super::scene::hint(7);
    scene.node(7).age = Duration::from_secs(360_000);
    for seed in 0..20 {
        assert_eq!(scene.change(seed), Some((vec![7], vec![], "below_target")), "who has lived long lives on");
    }
}

#[test]
fn a_draining_node_is_emptied_leaders_first() {
    let mut scene = Scene::new(4);
    scene.node(1).draining = true;
    scene.node(2).leaders = 1;
    assert_eq!(scene.first(1), Some((Action::TransferLeader { to: NodeId(2) }, "leader_draining")));
    scene.node(1).draining = false;
    scene.node(2).draining = true;
    assert_eq!(scene.change(1), Some((vec![4], vec![2], "draining")));
    scene.nodes.pop();
    assert_eq!(scene.first(1), Some((Action::Nothing, "no_candidate")), "data is not stranded");
    scene.members.push(member(9));
    scene.nodes.push(super::scene::hint(9));
    assert_eq!(scene.change(1), Some((vec![], vec![2], "draining")), "one too many is let go without another");
}

#[test]
fn what_is_too_many_leaves_the_worst_first() {
    let mut scene = Scene::new(5);
    scene.members = (1..=5).map(member).collect();
    scene.zones(&["a", "b", "b", "c", "d"]);
    scene.node(3).replicas = 11;
    scene.node(4).health = Health::Suspect;
    assert_eq!(scene.change(1), Some((vec![], vec![4, 3], "surplus")));
}

#[test]
fn a_learner_left_over_goes() {
    let mut scene = Scene::new(4);
    scene.members.push(member(4));
    scene.members[3].role = Role::Learner;
    assert_eq!(scene.change(1), Some((vec![], vec![4], "leftover_learner")));
    // It goes whether it is there or not, on a node that is to be emptied, and while a repair finds nobody.
    scene.dies(4);
    assert_eq!(scene.change(1), Some((vec![], vec![4], "leftover_learner")));
    *scene.node(4) = super::scene::hint(4);
    scene.node(4).draining = true;
    assert_eq!(scene.change(1), Some((vec![], vec![4], "leftover_learner")));
    scene.dies(3);
    assert_eq!(scene.change(1), Some((vec![], vec![4], "leftover_learner")));
    let mut proposals = scene.settled(1).into_iter();
    assert!(
        proposals.any(|proposal| proposal.reason.name() == "member_lost" || proposal.reason.name() == "no_candidate")
    );
}

#[test]
fn members_move_to_distinct_zones() {
    let mut scene = Scene::new(5);
    scene.zones(&["a", "a", "b", "b", "c"]);
    assert_eq!(scene.change(1), Some((vec![5], vec![2], "zone_shared")), "not the leader");
    scene.settings.switches.zones = false;
    assert_eq!(scene.first(1), None);
    scene.settings.switches.zones = true;
    scene.nodes.pop();
    assert_eq!(scene.first(1), None, "there are only two zones");
}

#[test]
fn a_thin_successor_that_nobody_fills_is_taken_over() {
    let mut scene = Scene::new(3).only(|on| on.resilience = true);
    scene.successor.1.pop();
    assert_eq!(scene.first(1), Some((Action::Merge { successor: GroupId(2) }, "thin_successor")));
    scene.nodes.push(super::scene::hint(4));
    assert_eq!(scene.first(1), None, "somebody may still fill it");
}

#[test]
fn where_nodes_serve_one_group_idle_nodes_join_and_full_groups_split() {
    let mut scene = Scene::new(4);
    scene.settings.max_replicas_per_node = 1;
    scene.nodes.iter_mut().for_each(|hint| hint.replicas = 1);
    scene.successor.1 = (11..=13).map(member).collect();
    assert_eq!(scene.first(1), None);
    scene.node(4).replicas = 0;
    assert_eq!(scene.change(1), Some((vec![4], vec![], "joining_node")));
    scene.nodes = (1..=8).map(super::scene::hint).collect();
    scene.nodes.iter_mut().for_each(|hint| hint.replicas = 1);
    scene.node(8).replicas = 0;
    scene.members = (1..=7).map(member).collect();
    assert_eq!(scene.first(1), Some((Action::Split { by: Measure::Operations }, "at_maximum")));
    // Then each half lets go of the other's members.
    scene.node(8).replicas = 1;
    scene.successor.1 = scene.members.clone();
    assert_eq!(scene.change(1), Some((vec![], vec![4, 5, 6, 7], "twin")));
    scene.successor.1 = scene.members[..3].to_vec();
    assert_eq!(scene.change(1), Some((vec![], vec![1, 2, 3], "twin")));
}

#[test]
fn a_hot_group_splits_by_what_it_has_too_much_of() {
    let mut scene = Scene::new(3);
    scene.load.operations_per_second = 20_001;
    assert_eq!(scene.first(1), Some((Action::Split { by: Measure::Operations }, "hot")));
    scene.load.bytes = 40 << 30;
    assert_eq!(scene.first(1), Some((Action::Split { by: Measure::Bytes }, "hot")));
    scene.node(2).replicas = 10_000;
    assert_eq!(scene.first(1), None, "a member's node has no room for another replica");
    scene.node(2).replicas = 10;
    scene.load.keys = 1;
    assert_eq!(scene.first(1), None, "one key cannot be cut");
}

#[test]
fn only_what_holds_is_acted_upon() {
    let mut scene = Scene::new(3);
    scene.load.operations_per_second = 30_000;
    assert_eq!(scene.decide_at(at(0), 1), []);
    assert_eq!(scene.decide_at(at(29), 1), []);
    scene.load.operations_per_second = 10_000;
    assert_eq!(scene.decide_at(at(31), 1), []);
    scene.load.operations_per_second = 30_000;
    assert_eq!(scene.decide_at(at(40), 1), []);
    assert_eq!(scene.decide_at(at(69), 1), []);
    assert_eq!(scene.decide_at(at(86), 1).len(), 1);
}

#[test]
fn cold_neighbours_merge_and_others_do_not() {
    let mut scene = Scene::new(3);
    scene.load = GroupLoad { keys: 10, bytes: 1 << 20, operations_per_second: 5 };
    assert_eq!(scene.first(1), None, "the successor is not cold");
    scene.successor.2 = scene.load;
    assert_eq!(scene.first(1), Some((Action::Merge { successor: GroupId(2) }, "cold")));
    scene.settings.target_size = 2;
    scene.members.truncate(2);
    assert_eq!(scene.first(1), None, "too few members would be left");
    scene.successor.1.truncate(2);
    assert_eq!(scene.first(1), Some((Action::Merge { successor: GroupId(2) }, "cold")), "none less than before");
    scene.successor.0 = 1;
    assert_eq!(scene.first(1), None, "a group alone on the ring");
}

#[test]
fn an_idle_group_takes_from_a_busy_neighbour() {
    let mut scene = Scene::new(3);
    scene.load.bytes = 1 << 28;
    scene.load.operations_per_second = 4000;
    scene.successor.2.operations_per_second = 16_000;
    let repartition = Action::Repartition { toward: Side::Successor, by: Measure::Operations, take_permille: 375 };
    assert_eq!(scene.first(1), Some((repartition, "unequal")));
    scene.successor.2.operations_per_second = 15_000;
    assert_eq!(scene.first(1), None);
}

#[test]
fn full_nodes_shed_replicas_to_a_new_one() {
    let mut scene = Scene::new(4);
    scene.node(4).replicas = 0;
    scene.node(4).load_permille = 0;
    scene.node(3).replicas = 20;
    assert_eq!(scene.change(1), Some((vec![4], vec![1], "joining_node")), "each its own");
    scene.node(4).replicas = 8;
    assert_eq!(scene.change(1), Some((vec![4], vec![1], "fuller")));
    scene.node(4).replicas = 9;
    assert_eq!(scene.first(1), None, "moving it would only turn them round");
}

#[test]
fn a_node_that_leads_nothing_is_helped() {
    let mut scene = Scene::new(4).only(|on| on.migrate = true);
    scene.node(4).replicas = 9;
    scene.node(3).replicas = 20;
    scene.node(3).leaders = 0;
    let helped = (0..1000).filter(|seed| scene.change(*seed) == Some((vec![4], vec![3], "fuller"))).count();
    assert!((20..100).contains(&helped), "about one in twenty acts: {helped}");
}

#[test]
fn busy_nodes_shed_replicas_if_that_does_not_turn_them_round() {
    let mut scene = Scene::new(4).only(|on| on.migrate = true);
    scene.node(1).load_permille = 800;
    scene.node(1).operations_per_second = 10_000;
    scene.node(4).replicas = 9;
    assert_eq!(scene.change(1), Some((vec![4], vec![1], "busier")));
    scene.load.operations_per_second = 9000;
    assert_eq!(scene.first(1), None, "the group is most of what the node does");
}

#[test]
fn leaders_spread() {
    let mut scene = Scene::new(3);
    scene.node(1).leaders = 5;
    scene.node(2).leaders = 4;
    assert_eq!(scene.drawn(), Some((Action::TransferLeader { to: NodeId(3) }, "top_heavy")));
    scene.node(3).leaders = 4;
    assert_eq!(scene.drawn(), None);
    scene.node(1).load_permille = 700;
    scene.node(1).operations_per_second = 5000;
    assert_eq!(scene.drawn(), Some((Action::TransferLeader { to: NodeId(3) }, "busier_leader")));
    scene.settings.switches.leaders = false;
    assert_eq!(scene.change(1), None);
}

#[test]
fn as_many_leaders_move_as_are_lacking() {
    let mut scene = Scene::new(3).only(|on| on.leaders = true);
    scene.node(1).leaders = 9;
    scene.node(2).leaders = 9;
    scene.node(3).leaders = 1;
    scene.node(3).replicas = 41;
    // Four are lacking, and forty groups beside node 3 are led by others.
    let moved = (0..4000).filter(|seed| scene.first(*seed).is_some()).count();
    assert!((300..500).contains(&moved), "{moved}");
}

#[test]
fn the_leader_moves_nearer_only_for_a_clear_gain() {
    let mut scene = Scene::new(3);
    let millis = Duration::from_millis;
    scene.round_trips.set_between(NodeId(1), NodeId(2), millis(40));
    scene.round_trips.set_between(NodeId(1), NodeId(3), millis(40));
    assert_eq!(scene.first(1), None, "what is not known is not acted upon");
    scene.round_trips.set_between(NodeId(2), NodeId(3), millis(35));
    assert_eq!(scene.first(1), None);
    scene.round_trips.set_between(NodeId(2), NodeId(3), millis(2));
    assert_eq!(scene.first(1), Some((Action::TransferLeader { to: NodeId(2) }, "nearer")));
}

/// A leader measures how far others are from itself. How far they are from each other they tell, by zones.
#[test]
fn what_lies_between_others_is_known_by_their_zones() {
    let mut scene = Scene::new(3);
    let millis = Duration::from_millis;
    for node in 1..=3 {
        scene.node(node).zone = format!("zone-{node}");
    }
    scene.round_trips.set_between(NodeId(1), NodeId(2), millis(40));
    scene.round_trips.set_between(NodeId(1), NodeId(3), millis(40));
    assert_eq!(scene.first(1), None);
    // One of them is enough: the other has yet to tell.
    scene.node(3).round_trips = vec![("zone-1".to_owned(), millis(40)), ("zone-2".to_owned(), millis(2))];
    assert_eq!(scene.first(1), Some((Action::TransferLeader { to: NodeId(2) }, "nearer")));
    scene.node(2).round_trips = vec![("zone-3".to_owned(), millis(76))];
    assert_eq!(scene.first(1), None, "39 ms between them is no clear gain");
    // Nodes without a zone may be anywhere.
    scene.node(2).zone = String::new();
    scene.node(3).zone = String::new();
    scene.node(2).round_trips = vec![(String::new(), millis(2))];
    scene.node(3).round_trips.clear();
    assert_eq!(scene.first(1), None);
}

#[test]
fn leaders_are_not_spread_to_where_they_would_be_moved_back_from() {
    let mut scene = Scene::new(3);
    scene.node(1).leaders = 30;
    let millis = Duration::from_millis;
    scene.round_trips.set_between(NodeId(1), NodeId(2), millis(2));
    scene.round_trips.set_between(NodeId(1), NodeId(3), millis(40));
    scene.round_trips.set_between(NodeId(2), NodeId(3), millis(40));
    assert_eq!(scene.drawn(), Some((Action::TransferLeader { to: NodeId(2) }, "top_heavy")));
    scene.node(2).leaders = 29;
    assert_eq!(scene.drawn(), None);
    scene.settings.switches.latency = false;
    assert_eq!(scene.drawn(), Some((Action::TransferLeader { to: NodeId(3) }, "top_heavy")));
}

#[test]
fn a_busy_group_proposes_nothing() {
    for busy in [Busy::Locked, Busy::Aligning, Busy::ChangingMembers, Busy::HandingOver] {
        let mut scene = Scene::new(4);
        scene.node(2).draining = true;
        scene.load.bytes = 1 << 40;
        scene.busy = Some(busy);
        assert_eq!(scene.settled(1), []);
    }
}

#[test]
fn the_dead_are_replaced_even_while_a_takeover_is_being_prepared() {
    for (busy, wanted) in [(Busy::Locked, 0), (Busy::Aligning, 1), (Busy::ChangingMembers, 0), (Busy::HandingOver, 0)] {
        let mut scene = Scene::new(4);
        scene.dies(3);
        scene.busy = Some(busy);
        assert_eq!(scene.settled(1).len(), wanted, "{busy:?}");
    }
}

#[test]
fn everything_can_be_switched_off() {
    let mut scene = Scene::new(6);
    scene.settings.switches = Switches::OFF;
    scene.dies(3);
    scene.node(2).draining = true;
    scene.node(1).leaders = 50;
    scene.node(4).replicas = 0;
    scene.load.bytes = 1 << 40;
    assert_eq!(scene.settled(1), []);
}

#[test]
fn groups_rest_after_an_operation_but_repairs_do_not_wait() {
    let mut scene = Scene::new(4);
    let settings = scene.settings.clone();
    scene.load.bytes = 8 << 30;
    scene.decide_at(at(0), 1);
    scene.memory.ended(Outcome::Done, &settings, at(1000), &mut Rng::new(1));
    assert_eq!(scene.decide_at(at(1059), 1), []);
    assert_eq!(scene.decide_at(at(1060), 1).len(), 1);
    scene.dies(3);
    scene.memory.ended(Outcome::Done, &settings, at(2000), &mut Rng::new(1));
    assert_eq!(scene.decide_at(at(2001), 1)[0].reason.name(), "member_lost");
}

#[test]
fn failures_are_tried_again_ever_later() {
    let mut scene = Scene::new(4);
    let settings = scene.settings.clone();
    scene.dies(3);
    let mut waits = Vec::new();
    for round in 1..=10 {
        let start = round * 1000;
        scene.memory.ended(Outcome::Failed, &settings, at(start), &mut Rng::new(round));
        waits.push((0..1000).find(|wait| scene.memory.may_try(at(start + wait))).unwrap());
    }
    assert!(waits[0] <= 5 && waits[9] > 140 && waits[9] <= 300, "{waits:?}");
    scene.memory.ended(Outcome::Done, &settings, at(20_000), &mut Rng::new(1));
    assert!(scene.memory.may_try(at(20_000)));
}

#[test]
fn a_node_starts_so_much_at_a_time_and_keeps_half_for_repairs() {
    let mut scene = Scene::new(4);
    let settings = scene.settings.clone();
    scene.load.bytes = 8 << 30;
    scene.decide_at(at(0), 1);
    for _ in 0..4 {
        scene.budget.take(&settings, at(5000));
    }
    assert_eq!(scene.decide_at(at(5001), 1), []);
    scene.dies(3);
    assert_eq!(scene.decide_at(at(5001), 1)[0].reason.name(), "member_lost");
    for _ in 0..4 {
        scene.budget.take(&settings, at(5001));
    }
    assert_eq!(scene.decide_at(at(5002), 1), []);
    assert_eq!(scene.decide_at(at(5012), 1)[0].reason.name(), "member_lost");
}
