//! What policies are told of nodes.

use crate::gossip::Gossip;
use crate::hint::{Flags, Load};
use crate::nodes::{Node, State};
use scatter_core::policy::{Health, NodeHint};
use scatter_core::time::Instant;
use std::time::Duration;

impl Gossip {
    /// What is known of every node, this one included, for policies. `capacity` is how many operations a second a node
    /// answers at most, as far as the operator knows.
    #[must_use]
    pub fn node_hints(&self, capacity: u64) -> Vec<NodeHint> {
        self.nodes().map(|node| hint(node, capacity)).collect()
    }
}

/// What is known of one node. A node that has not told its load yet has no free disk, so nothing is given to it.
fn hint(node: &Node, capacity: u64) -> NodeHint {
    let (load, told) = node.load().unwrap_or((Load::default(), Instant(0)));
    let trips = node.profile().map(|profile| profile.trips.as_slice()).unwrap_or_default();
    let flags = node.profile().map(|profile| profile.flags).unwrap_or_default();
    let busy = load.operations_per_second.saturating_mul(1000) / capacity.max(1);
    NodeHint {
        node: node.identity().node,
        address: node.identity().address.to_string(),
        zone: node.profile().map(|profile| profile.zone.clone()).unwrap_or_default(),
        round_trips: trips.iter().map(|trip| (trip.zone.clone(), Duration::from_micros(trip.micros.into()))).collect(),
        health: match node.state() {
            State::Alive => Health::Alive,
            State::Suspect => Health::Suspect,
            State::Down => Health::Dead { since: node.since() },
        },
        age: Duration::from_secs(load.uptime_seconds),
        load_permille: u32::try_from(busy).unwrap_or(u32::MAX),
        operations_per_second: load.operations_per_second,
        replicas: load.replicas,
        incoming: load.incoming,
        leaders: load.leaders,
        draining: flags.has(Flags::DRAINING),
        free_disk_bytes: if flags.has(Flags::FULL) { 0 } else { load.free_disk_bytes },
        told,
    }
}
