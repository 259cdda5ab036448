//! Walking along the ring to the owner of a position.
//!
//! ```text
//! client                              nodes
//!   | who is known to start closest before p?
//!   |-- who owns p? ---------------->  hosts A: not A; its successor B starts closer to p
//!   |-- who owns p? ---------------->  hosts B: not B; its successor C holds p
//!   |-- who owns p? ---------------->  hosts C: here, and this node leads it
//! ```
//!
//! The cache mostly knows the owner. When it does not, or whoever it names refuses, this finds it: each group knows its
//! neighbours for certain, so each answer names a group that is closer. No node is asked twice, so a walk ends.

use crate::cache::{RingView, candidates};
use crate::shared::Shared;
use scatter_core::ring::Position;
use scatter_core::types::NodeId;
use scatter_wire::Boundary;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The most nodes asked in one walk.
const MOST_STEPS: usize = 64;

/// How long one walk lasts. Whoever still needs an answer begins another.
const WALK_FOR: Duration = Duration::from_secs(2);

/// How many of the groups that start before the position are considered at each step.
const MOST_CANDIDATES: usize = 16;

/// Asks along the ring until the owner of `goal` and its leader are known, or nobody is left to ask.
pub(crate) async fn walk(shared: &Arc<Shared>, goal: &Boundary) {
    let end = Instant::now() + WALK_FOR;
    let mut asked = HashSet::new();
    while asked.len() < MOST_STEPS && Instant::now() < end {
        let Some(node) = next(&shared.cache.view(), goal.position(), &asked) else { return };
        asked.insert(node);
        shared.metrics.walk_steps.add();
        let told = match shared.locate(node, goal).await {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(%node, %error, "no answer on a walk");
                continue;
            }
        };
        let view = shared.cache.view();
        let owner = view.owner(goal.position()).map(|owner| owner.group);
        // Only who hosts a group tells of its leader.
        if told.iter().any(|descriptor| Some(descriptor.group) == owner && descriptor.leader.is_some()) {
            return;
        }
    }
}

/// Whom to ask next: a member of the group that is thought to own the position, or of the one that starts closest before.
fn next(view: &RingView, goal: &Position, asked: &HashSet<NodeId>) -> Option<NodeId> {
    let routes = view.routes();
    let after = routes.partition_point(|route| route.range.start <= *goal);
    let before =
        (1..=routes.len().min(MOST_CANDIDATES)).map(|step| &routes[(after + routes.len() - step) % routes.len()]);
    let whom = before.flat_map(|route| route.leader.into_iter().chain(candidates(route).map(|member| member.node)));
    whom.into_iter().find(|node| !asked.contains(node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::RingCache;
    use bytes::Bytes;
    use scatter_core::group::{Configuration, Descriptor, Member, Role};
    use scatter_core::ring::KeyRange;
    use scatter_core::types::{Ballot, ConfigurationVersion, GroupId, Incarnation, RangeVersion};

    fn position(byte: u8) -> Position {
        if byte == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[byte])) }
    }

    /// A group of one member, whose node has the same number.
    fn descriptor(group: u64, start: u8, end: u8) -> Descriptor {
        let member =
            Member { node: NodeId(group), incarnation: Incarnation(1), role: Role::Voter, address: String::new() };
        Descriptor {
            group: GroupId(group),
            configuration: Configuration { version: ConfigurationVersion(1), members: vec![member] },
            range_version: RangeVersion(1),
            range: KeyRange { start: position(start), end: position(end) },
            leader: None,
            ballot: Ballot::ZERO,
        }
    }

    #[test]
    fn the_group_that_starts_closest_before_is_asked_first_and_nobody_twice() {
        let cache = RingCache::default();
        // Of five groups these are known; who owns 60 is not.
        cache.learn(&[descriptor(1, 0, 10), descriptor(2, 10, 20), descriptor(3, 30, 50), descriptor(5, 80, 0)]);
        let mut asked = HashSet::new();
        let mut order = Vec::new();
        while let Some(node) = next(&cache.view(), &position(60), &asked) {
            asked.insert(node);
            order.push(node.0);
        }
        assert_eq!(order, [3, 2, 1, 5]);
        // Round the ring, past the first position.
        assert_eq!(next(&cache.view(), &position(25), &HashSet::new()), Some(NodeId(2)));
        assert_eq!(next(&RingCache::default().view(), &position(60), &HashSet::new()), None);
    }
}
