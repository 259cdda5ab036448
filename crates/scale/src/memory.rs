//! Bytes that routing and policies take on a node, counted by the allocator around the structures themselves.

use crate::allocator::measured;
use crate::lookups::TABLE;
use crate::world::{Shape, address, position, ring, zone_name};
use scatter_core::group::Descriptor;
use scatter_core::policy::{Health, Memory, NodeHint, Nodes, SAMPLES, Sampler};
use scatter_core::ring::routing::{FarLinks, RoutingTable};
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::NodeId;
use std::sync::Arc;
use std::time::Duration;

/// One structure.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) bytes: usize,
}

/// What a hint of a node looks like that hosts `replicas` and leads `leaders`.
pub(crate) fn hint(shape: &Shape, node: usize, replicas: u32, leaders: u32) -> NodeHint {
    NodeHint {
        node: NodeId(node as u64),
        address: address(node),
        zone: zone_name(node, shape.zones),
        round_trips: Vec::new(),
        health: Health::Alive,
        // The older the lower its number, as if they had joined one after the other.
        age: Duration::from_secs(86_400 + 60 * (shape.nodes - node) as u64),
        load_permille: 100,
        operations_per_second: 1000,
        replicas,
        incoming: 0,
        leaders,
        draining: false,
        free_disk_bytes: 1 << 40,
        told: Instant(0),
    }
}

pub(crate) fn run(shape: &Shape) -> Vec<Part> {
    let groups = ring(shape, shape.groups, shape.size);
    let led = shape.groups.div_ceil(shape.nodes);
    let levels = groups.len().next_power_of_two().ilog2() as usize;
    // Descriptors that come over the network share nothing with those that are there already.
    let own_copy = |index: usize| Arc::new(Descriptor::clone(&groups[index % groups.len()]));
    let (_far_links, far_bytes) = measured(|| {
        (0..led)
            .map(|i| {
                let at = i * (groups.len() / led.max(1));
                let mut links = FarLinks::default();
                links.set_successor(&groups[at].range, own_copy(at + 1));
                for level in 1..levels {
                    links.answered(groups[at].group, &groups[at].range, level - 1, Some(own_copy(at + (1 << level))));
                }
                links
            })
            .collect::<Vec<_>>()
    });
    let known = TABLE.min(groups.len());
    let (_table, table_bytes) = measured(|| {
        let mut table = RoutingTable::new(TABLE);
        groups.iter().take(known).for_each(|group| {
            table.learn(group);
        });
        table
    });
    let replicas = u32::try_from(shape.groups * shape.size / shape.nodes).unwrap_or(u32::MAX);
    let leaders = u32::try_from(led).unwrap_or(u32::MAX);
    let (_nodes, nodes_bytes) =
        measured(|| Nodes::new((0..shape.nodes).map(|node| hint(shape, node, replicas, leaders)).collect()));
    let mut rng = Rng::new(shape.seed);
    let (_policies, policy_bytes) = measured(|| {
        (0..led)
            .map(|_| {
                let mut sampler = Sampler::default();
                (0..SAMPLES).for_each(|_| sampler.record(&position(rng.next()), &mut rng.clone()));
                (Memory::default(), sampler)
            })
            .collect::<Vec<_>>()
    });
    vec![
        Part { name: format!("far links of the {led} groups it leads, {levels} levels each"), bytes: far_bytes },
        Part { name: format!("routing table, {known} groups of {} members", shape.size), bytes: table_bytes },
        Part { name: format!("hints about {} nodes", shape.nodes), bytes: nodes_bytes },
        Part { name: format!("damping, and {SAMPLES} sampled positions, of {led} groups"), bytes: policy_bytes },
    ]
}
