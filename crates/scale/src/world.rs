//! The modelled cluster.

use bytes::Bytes;
use scatter_core::group::{Configuration, Descriptor, Member, Role};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::rng::Rng;
use scatter_core::types::{Ballot, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion};
use std::sync::Arc;

/// How large everything is.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) groups: usize,
    pub(crate) nodes: usize,
    pub(crate) zones: usize,
    /// Members of a group.
    pub(crate) size: usize,
    pub(crate) seed: u64,
}

/// Why a shape cannot be modelled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShapeError {
    #[error("there must be at least one group, and a zone and ten nodes for each member of a group")]
    TooSmall,
}

impl Shape {
    pub(crate) fn check(&self) -> Result<(), ShapeError> {
        let enough = self.groups >= 1 && self.size >= 1 && self.zones >= self.size && self.nodes >= 10 * self.size;
        // Ranges are cut at random positions of 8 bytes, members drawn from zones that all have nodes.
        if enough && self.nodes >= self.zones { Ok(()) } else { Err(ShapeError::TooSmall) }
    }
}

/// A number below `bound`, which is not zero.
pub(crate) fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.next() % bound.max(1) as u64).unwrap_or(0)
}

pub(crate) fn position(value: u64) -> Position {
    Position(Bytes::copy_from_slice(&value.to_be_bytes()))
}

pub(crate) fn address(node: usize) -> String {
    format!("10.{}.{}.{}:7201", node >> 16 & 255, node >> 8 & 255, node & 255)
}

pub(crate) fn zone_name(node: usize, zones: usize) -> String {
    format!("zone-{}", node % zones)
}

/// The index of a node or a group in the tables here, which its id simply is.
pub(crate) fn index(id: u64) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}

/// Distinct nodes in distinct zones, by chance.
pub(crate) fn draw_members(shape: &Shape, size: usize, rng: &mut Rng) -> Vec<usize> {
    let mut members: Vec<usize> = Vec::with_capacity(size);
    while members.len() < size {
        let node = below(rng, shape.nodes);
        if members.iter().all(|member| member % shape.zones != node % shape.zones) {
            members.push(node);
        }
    }
    members
}

pub(crate) fn configuration(members: &[usize]) -> Configuration {
    let mut members: Vec<Member> = members
        .iter()
        .map(|node| Member {
            node: NodeId(*node as u64),
            incarnation: Incarnation(1),
            role: Role::Voter,
            address: address(*node),
        })
        .collect();
    members.sort_by_key(|member| member.node);
    Configuration { version: ConfigurationVersion(1), members }
}

/// The groups of a ring, in ring order; a group's id is its place there, and its first member drawn leads it.
pub(crate) fn ring(shape: &Shape, groups: usize, size: usize) -> Vec<Arc<Descriptor>> {
    let mut rng = Rng::new(shape.seed);
    let mut starts: Vec<u64> = (0..groups).map(|_| rng.next()).collect();
    starts.sort_unstable();
    starts.dedup();
    let count = starts.len();
    (0..count)
        .map(|i| {
            let members = draw_members(shape, size, &mut rng);
            let leader = NodeId(members[0] as u64);
            Arc::new(Descriptor {
                group: GroupId(i as u64),
                configuration: configuration(&members),
                range_version: RangeVersion(1),
                range: KeyRange { start: position(starts[i]), end: position(starts[(i + 1) % count]) },
                leader: Some(leader),
                ballot: Ballot { round: 1, node: leader, incarnation: Incarnation(1) },
            })
        })
        .collect()
}

/// Which groups each node leads.
pub(crate) fn led(shape: &Shape, groups: &[Arc<Descriptor>]) -> Vec<Vec<usize>> {
    let mut led = vec![Vec::new(); shape.nodes];
    for group in groups {
        if let Some(leader) = group.leader {
            led[index(leader.0)].push(index(group.group.0));
        }
    }
    led
}
