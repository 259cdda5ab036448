//! Clusters that gossip, simulated: who learns what, and how soon.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use scatter_core::types::RangeVersion;
use scatter_gossip::{Flags, Gossip, Load, Profile, Settings, State};
use std::time::Duration;
use world::{Links, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// How long news may take among so many: two periods for each doubling, and a few.
fn soon(nodes: usize) -> Duration {
    SECOND * (2 * nodes.ilog2() + 4)
}

/// How long a death may stay unseen: until somebody probes the dead, the probe ends, the suspicion ends, and all have heard.
fn death(settings: &Settings, nodes: usize) -> Duration {
    settings.probe_period * 12 + settings.suspicion(nodes) + soon(nodes)
}

fn lossy() -> Links {
    Links { lost: 100, doubled: 50, most: Duration::from_millis(80), ..Links::default() }
}

fn born(nodes: usize, seed: u64) -> World {
    let mut world = World::new(nodes, Settings::default(), seed);
    world.run_until(soon(nodes), World::agrees).expect("the nodes find each other");
    world
}

#[test]
fn clusters_of_any_size_find_together_from_one_address() {
    for (nodes, seed) in [(2, 1), (3, 2), (5, 3), (20, 4), (100, 5)] {
        let mut world = born(nodes, seed);
        world.count_false_deaths = true;
        world.run(MINUTE);
        assert!(world.agrees());
        assert!(world.slots.iter().all(|slot| slot.false_deaths == 0));
    }
}

#[test]
fn they_find_together_although_datagrams_are_lost() {
    for seed in 0..5 {
        let mut world = World::new(30, Settings::default(), seed);
        world.links = lossy();
        world.run_until(soon(30) * 2, World::agrees).expect("the nodes find each other");
    }
}

#[test]
fn a_newcomer_learns_all_and_all_learn_of_it() {
    let (nodes, groups) = (50, 600);
    let mut world = born(nodes, 6);
    for index in 0..groups {
        let descriptor = world.descriptor(index, groups);
        world.call(index % nodes, |gossip, now| gossip.learn_descriptors(now, [&descriptor]));
    }
    let all = |world: &World| world.running().all(|(_, gossip)| gossip.group_count() == groups);
    world.run_until(soon(nodes), all).expect("everybody knows every group");
    let newcomer = world.add();
    world.run_until(soon(nodes), |world| world.agrees() && all(world)).expect("the newcomer knows all, all know it");
    let gossip = world.slots[newcomer].gossip.as_ref().unwrap();
    assert_eq!(gossip.descriptors_changed_since(0).count(), groups);
}

#[test]
fn news_of_a_group_spreads_in_a_logarithm_of_periods() {
    for nodes in [5, 50, 150] {
        let mut world = born(nodes, 7);
        world.links = lossy();
        let mut descriptor = world.descriptor(0, 1);
        for version in 1..4 {
            descriptor.range_version = RangeVersion(version);
            world.call(1, |gossip, now| gossip.learn_descriptors(now, [&descriptor]));
            let done = |world: &World| world.all_know(&descriptor);
            world.run_until(soon(nodes), done).expect("everybody knows the newest version");
        }
    }
}

#[test]
fn profiles_spread_and_loads_follow() {
    let mut world = born(20, 8);
    let profile = Profile { zone: "west".to_owned(), flags: Flags::DRAINING, ..Profile::default() };
    let load = Load { leaders: 9, ..Load::default() };
    world.call(3, |gossip, now| {
        gossip.set_profile(now, profile.clone()).unwrap();
        gossip.set_load(now, load);
    });
    let id = world.slots[3].id;
    let known = |gossip: &Gossip| gossip.node(id).and_then(|node| node.profile()) == Some(&profile);
    world.run_until(soon(20), |world| world.running().all(|(_, gossip)| known(gossip))).expect("all know the profile");
    let known = |gossip: &Gossip| gossip.node(id).and_then(|node| node.load()).is_some_and(|(known, _)| known == load);
    world.run_until(MINUTE, |world| world.running().all(|(_, gossip)| known(gossip))).expect("all know the load");
}

#[test]
fn the_dead_are_found_out_within_a_bound_and_nobody_else_is_taken_for_dead() {
    for nodes in [3, 5, 30, 100] {
        let mut world = born(nodes, 9);
        world.links.lost = 20;
        world.count_false_deaths = true;
        world.crash(1);
        let limit = death(&world.settings, nodes);
        let took = world.run_until(limit, |world| world.all_see(1, State::Down)).expect("its death is seen");
        assert!(took > world.settings.suspect_for, "there is time to deny it");
        world.run(MINUTE);
        assert!(world.agrees());
        assert!(world.slots.iter().all(|slot| slot.false_deaths == 0));
        let (id, now) = (world.slots[1].id, scatter_core::time::Instant(world.now));
        let spans = world.running().map(|(_, gossip)| gossip.node(id).and_then(|node| node.down_for(now)).unwrap());
        assert!(spans.into_iter().all(|span| span >= MINUTE - SECOND && span <= MINUTE + limit));
    }
}

#[test]
fn who_starts_later_knows_for_how_long_another_is_gone() {
    let mut world = born(5, 10);
    world.crash(1);
    world.run(MINUTE * 10);
    let newcomer = world.add();
    world.run(SECOND * 10);
    let now = scatter_core::time::Instant(world.now);
    let gossip = world.slots[newcomer].gossip.as_ref().unwrap();
    let span = gossip.node(world.slots[1].id).and_then(|node| node.down_for(now)).unwrap();
    assert!(span > MINUTE * 9 && span < MINUTE * 11, "{span:?}");
}

#[test]
fn a_node_that_starts_again_takes_its_place_at_once() {
    let mut world = born(20, 11);
    world.crash(4);
    world.start(4);
    world.run_until(soon(20), World::agrees).expect("all see the new boot");
    world.crash(4);
    world.run_until(MINUTE, |world| world.all_see(4, State::Down)).expect("its death is seen");
    world.start(4);
    world.run_until(soon(20), World::agrees).expect("it is alive again");
    assert_eq!(world.slots[4].boot, 3);
}

#[test]
fn a_node_that_moves_is_found_at_its_new_address() {
    let mut world = born(10, 12);
    world.slots[4].address = "10.9.9.9:7000".to_owned();
    world.call(4, |gossip, now| gossip.set_address(now, "10.9.9.9:7000").unwrap());
    let id = world.slots[4].id;
    let moved = |gossip: &Gossip| gossip.node(id).is_some_and(|node| *node.identity().address == *"10.9.9.9:7000");
    let all = |world: &World| world.running().all(|(_, gossip)| moved(gossip));
    world.run_until(soon(10), all).expect("all know the address");
    world.run(MINUTE);
    assert!(world.agrees());
}

#[test]
fn who_leaves_is_down_without_a_wait() {
    let mut world = born(20, 13);
    world.call(4, Gossip::leave);
    world.run(Duration::from_millis(50));
    world.crash(4);
    world.run_until(SECOND * 5, |world| world.all_see(4, State::Down)).expect("all know that it left");
}

#[test]
fn sides_of_a_partition_find_together_again() {
    // Shorter and longer than the dead are remembered.
    for (minutes, seed) in [(1, 14), (25, 15), (25, 16)] {
        let settings = Settings { forget_after: MINUTE * 10, ..Settings::default() };
        let mut world = World::new(12, settings, seed);
        world.run_until(soon(12), World::agrees).expect("the nodes find each other");
        let groups: Vec<_> = (0..12).map(|index| world.descriptor(index, 12)).collect();
        world.call(0, |gossip, now| gossip.learn_descriptors(now, &groups));
        world.run(SECOND * 10);
        for index in 0..5 {
            world.slots[index].side = 1;
        }
        world.run(MINUTE);
        assert!(world.all_see_on_other_side(State::Down), "each side takes the other for dead");
        world.run(MINUTE * (minutes - 1));
        if minutes > 10 {
            assert!(world.running().all(|(_, gossip)| gossip.nodes().count() < 12), "and forgets it");
        }
        // What changed meanwhile must reach the other side too.
        let mut changed = groups[3].clone();
        changed.range_version = RangeVersion(2);
        world.call(11, |gossip, now| gossip.learn_descriptors(now, [&changed]));
        world.slots.iter_mut().for_each(|slot| slot.side = 0);
        world.run_until(MINUTE, |world| world.agrees() && world.all_know(&changed)).expect("they are together again");
        world.run(MINUTE);
        assert!(world.agrees());
    }
}

#[test]
fn loss_alone_kills_nobody() {
    let mut world = born(30, 17);
    world.links = Links { lost: 150, ..lossy() };
    world.count_false_deaths = true;
    world.run(MINUTE * 3);
    world.links = Links::default();
    world.run_until(soon(30), World::agrees).expect("all see all alive");
    assert!(world.slots.iter().all(|slot| slot.false_deaths == 0));
    assert!(world.running().all(|(_, gossip)| gossip.counters().rejoined == 0));
}

#[test]
fn a_process_that_was_stopped_takes_nobody_for_dead_and_comes_back() {
    let mut world = born(10, 18);
    world.count_false_deaths = true;
    world.stop(3, SECOND * 30);
    world.run(SECOND * 29);
    assert!(
        world
            .running()
            .filter(|(slot, _)| slot.id != world.slots[3].id)
            .all(|(_, gossip)| { gossip.node(world.slots[3].id).is_some_and(|node| node.state() == State::Down) })
    );
    world.run_until(soon(10), World::agrees).expect("it is back");
    assert_eq!(world.slots[3].false_deaths, 0);
    assert!(world.slots[3].gossip.as_ref().unwrap().counters().stalled > 0);
}

#[test]
fn the_long_dead_are_forgotten_for_good() {
    let settings = Settings { forget_after: MINUTE * 2, ..Settings::default() };
    let mut world = World::new(20, settings, 19);
    world.links.lost = 50;
    world.run_until(soon(20), World::agrees).expect("the nodes find each other");
    world.crash(1);
    world.crash(2);
    let dead = [world.slots[1].id, world.slots[2].id];
    let forgotten =
        |world: &World| world.running().all(|(_, gossip)| dead.iter().all(|node| gossip.node(*node).is_none()));
    world.run_until(MINUTE * 4, forgotten).expect("they are forgotten");
    // A newcomer is not told of them, and nobody is reminded.
    world.add();
    for _ in 0..60 {
        world.run(SECOND * 3);
        assert!(forgotten(&world));
    }
}

#[test]
fn tables_stay_within_their_limits_under_churn() {
    let settings = Settings { max_nodes: 12, max_groups: 20, ..Settings::default() };
    let mut world = World::new(8, settings, 20);
    world.run_until(soon(8), World::agrees).expect("the nodes find each other");
    for round in 0..10 {
        world.crash(round);
        world.add();
        for index in 0..5 {
            let mut descriptor = world.descriptor(index, 5);
            descriptor.group.0 += round as u64;
            world.call(round + 1, |gossip, now| gossip.learn_descriptors(now, [&descriptor]));
        }
        world.run(SECOND * 30);
        assert!(world.running().all(|(_, gossip)| gossip.nodes().count() <= 12 && gossip.group_count() <= 20));
    }
    world.run_until(MINUTE, World::agrees).expect("those that live see each other");
}

#[test]
fn more_nodes_than_a_table_holds_are_refused_and_counted() {
    let settings = Settings { max_nodes: 10, ..Settings::default() };
    let mut world = World::new(14, settings, 21);
    for _ in 0..18 {
        world.run(SECOND * 10);
        assert!(world.running().all(|(_, gossip)| gossip.nodes().count() <= 10));
    }
    assert!(world.running().any(|(_, gossip)| gossip.counters().refused_nodes > 0));
}

#[test]
fn a_descriptor_that_fits_no_datagram_is_left_out_alone() {
    let settings = Settings { datagram_bytes: 1200, ..Settings::default() };
    let mut world = World::new(3, settings, 22);
    world.run_until(soon(3), World::agrees).expect("the nodes find each other");
    let groups: Vec<_> = (0..3).map(|index| world.descriptor(index, 3)).collect();
    let mut large = groups[1].clone();
    large.configuration.members[0].address = "x".repeat(2000);
    world.call(0, |gossip, now| gossip.learn_descriptors(now, [&groups[0], &large, &groups[2]]));
    let done = |world: &World| world.all_know(&groups[0]) && world.all_know(&groups[2]);
    world.run_until(soon(3), done).expect("the others spread");
    assert!(world.slots[0].gossip.as_ref().unwrap().counters().oversized > 0);
}

#[test]
fn the_same_seed_says_the_same_bytes() {
    let run = |seed| {
        let mut world = World::new(10, Settings::default(), seed);
        world.links = lossy();
        world.run(SECOND * 20);
        world.crash(2);
        world.run(SECOND * 20);
        (world.trace(), world.sent_bytes())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_quiet_cluster_costs_little() {
    let mut world = born(20, 23);
    for index in 0..200 {
        let descriptor = world.descriptor(index, 200);
        world.call(index % 20, |gossip, now| gossip.learn_descriptors(now, [&descriptor]));
    }
    world.run(MINUTE);
    let before = (world.sent(), world.sent_bytes());
    world.run(MINUTE);
    let each = |count: u64| count / 60 / 20;
    assert!(each(world.sent() - before.0) <= 4, "datagrams each second");
    assert!(each(world.sent_bytes() - before.1) <= 2000, "bytes each second");
}
