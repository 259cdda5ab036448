//! Measures the gossip in a simulated cluster and prints a Markdown table.
//!
//! ```text
//! cargo run --release -p scatter-gossip --example gossip_figures -- [NODES...]
//! ```
#![expect(clippy::print_stdout, reason = "the table is what this program is for")]
#![allow(clippy::unwrap_used, reason = "a measurement that goes wrong ends")]

#[path = "../tests/world/mod.rs"]
mod world;

use scatter_core::time::Instant;
use scatter_gossip::{Gossip, Load, Settings, State};
use std::time::Duration;
use world::{Links, World};

const MINUTE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(600);

fn main() {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|nodes| nodes.parse().ok()).collect();
    let sizes = if asked.is_empty() { vec![5, 20, 100, 300, 1000] } else { asked };
    println!(
        "| nodes | groups | lost | born | newcomer knows all | newcomer known to all | descriptor | draining \
         | dead: suspect | dead: down | load age p50, p99 | idle: datagrams/s | idle: bytes/s | busy: bytes/s |"
    );
    println!("|{}", " ---: |".repeat(14));
    for nodes in sizes {
        for lost in [0, 50] {
            measure(nodes, lost);
        }
    }
}

fn seconds(span: Option<Duration>) -> String {
    span.map_or("never".to_owned(), |span| format!("{:.1} s", span.as_secs_f64()))
}

fn measure(nodes: usize, lost: u64) {
    let groups = nodes * 4;
    let mut world = World::new(nodes, Settings::default(), 7);
    world.links = Links { lost, doubled: lost / 5, ..Links::default() };
    let born = world.run_until(PATIENCE, World::agrees);
    // Each node hosts some of the groups.
    for index in 0..groups {
        let descriptor = world.descriptor(index, groups);
        world.call(index % nodes, |gossip, now| gossip.learn_descriptors(now, [&descriptor]));
    }
    world.run_until(PATIENCE, |world| world.running().all(|(_, gossip)| gossip.group_count() == groups));
    world.run(MINUTE / 2);

    let rate = |world: &mut World, busy: bool| {
        let (bytes, datagrams, span) = (world.sent_bytes(), world.sent(), 120);
        for second in 0..span {
            for index in (0..nodes).filter(|index| index % 5 == second % 5) {
                let load = Load { replicas: second as u32, ..Load::default() };
                world.call(index, |gossip, now| gossip.set_load(now, load));
            }
            // One group in a hundred changes its leader each second.
            for index in (0..groups).filter(|index| busy && index % 100 == second % 100) {
                let mut descriptor = world.descriptor(index, groups);
                descriptor.ballot.round = 2 + second as u64;
                world.call(index % nodes, |gossip, now| gossip.learn_descriptors(now, [&descriptor]));
            }
            world.run(Duration::from_secs(1));
        }
        let each = |count: u64| count as f64 / span as f64 / nodes as f64;
        (each(world.sent() - datagrams), each(world.sent_bytes() - bytes))
    };
    let idle = rate(&mut world, false);
    let ages = load_ages(&world);
    let busy = rate(&mut world, true);

    let mut descriptor = world.descriptor(1, groups);
    descriptor.ballot.round = 9999;
    world.call(0, |gossip, now| gossip.learn_descriptors(now, [&descriptor]));
    let spread = world.run_until(PATIENCE, |world| world.all_know(&descriptor));

    let newcomer = world.add();
    let known = world.run_until(PATIENCE, |world| world.all_see(newcomer, State::Alive));
    let mut world_again = world;
    let knows = |world: &World| {
        let gossip = world.slots[newcomer].gossip.as_ref().unwrap();
        world.sees_all(gossip) && gossip.group_count() == groups
    };
    let learnt = world_again.run_until(PATIENCE, knows).map(|more| more + known.unwrap_or_default());

    let profile = scatter_gossip::Profile { flags: scatter_gossip::Flags::DRAINING, ..profile_of(&world_again, 1) };
    world_again.call(1, |gossip, now| gossip.set_profile(now, profile.clone()).unwrap());
    let id = world_again.slots[1].id;
    let draining = world_again.run_until(PATIENCE, |world| {
        world.running().all(|(_, gossip)| gossip.node(id).and_then(|node| node.profile()) == Some(&profile))
    });

    world_again.crash(2);
    let dead = world_again.slots[2].id;
    let suspected = world_again.run_until(PATIENCE, |world| {
        let suspects = |gossip: &Gossip| gossip.node(dead).is_some_and(|node| node.state() != State::Alive);
        world.running().any(|(_, gossip)| suspects(gossip))
    });
    let down = world_again.run_until(PATIENCE, |world| world.all_see(2, State::Down));
    let down = down.map(|more| more + suspected.unwrap_or_default());
    println!(
        "| {nodes} | {groups} | {} % | {} | {} | {} | {} | {} | {} | {} | {:.0} s, {:.0} s | {:.1} | {:.0} | {:.0} |",
        lost / 10,
        seconds(born),
        seconds(learnt),
        seconds(known),
        seconds(spread),
        seconds(draining),
        seconds(suspected),
        seconds(down),
        ages.0,
        ages.1,
        idle.0,
        idle.1,
        busy.1,
    );
}

fn profile_of(world: &World, index: usize) -> scatter_gossip::Profile {
    let gossip = world.slots[index].gossip.as_ref().unwrap();
    gossip.node(gossip.identity().node).and_then(|node| node.profile()).unwrap().clone()
}

/// How long ago nodes heard each other's loads last: the median and the 99th percentile, in seconds.
fn load_ages(world: &World) -> (f64, f64) {
    let now = Instant(world.now);
    let heard = world.running().flat_map(|(_, gossip)| gossip.nodes().filter_map(|node| node.load()));
    let mut ages: Vec<Duration> = heard.map(|(_, heard)| now.since(heard)).collect();
    ages.sort();
    let at = |share: usize| ages.get(ages.len() * share / 100).map_or(f64::NAN, Duration::as_secs_f64);
    (at(50), at(99))
}
