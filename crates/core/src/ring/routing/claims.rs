//! Which of several claims to a position is believed.
//!
//! Each part of a descriptor is taken by its own version: members by configuration version, the arc by range version, the
//! leader by ballot. Where two groups claim a position, the claim with the higher range version is the later one, since
//! whoever takes over positions takes a version above those of everybody they came from.

use crate::group::Descriptor;
use crate::ring::Position;
use crate::types::{GroupId, RangeVersion};
use std::borrow::Borrow;
use std::collections::BTreeMap;

/// The order in which claims are believed: the greatest first.
pub(super) type Rank = (RangeVersion, GroupId);

/// The rank of a descriptor's claim.
pub(super) fn rank(descriptor: &Descriptor) -> Rank {
    (descriptor.range_version, descriptor.group)
}

/// What hearing `heard` changes `known`, of the same group, to; `None` if it brings no news.
#[must_use]
pub fn merged(known: &Descriptor, heard: &Descriptor) -> Option<Descriptor> {
    let members = heard.configuration.version > known.configuration.version;
    let arc = heard.range_version > known.range_version;
    // Under one ballot only its own node can lead, so that name is better than any other.
    let own = |descriptor: &Descriptor| descriptor.leader == Some(descriptor.ballot.node);
    let better = heard.leader.is_some() && (known.leader.is_none() || (own(heard) && !own(known)));
    let leader = heard.ballot > known.ballot || (heard.ballot == known.ballot && better);
    if !members && !arc && !leader {
        return None;
    }
    let mut merged = known.clone();
    if members {
        merged.configuration = heard.configuration.clone();
    }
    if arc {
        merged.range_version = heard.range_version;
        merged.range = heard.range.clone();
    }
    if leader {
        merged.ballot = heard.ballot;
        merged.leader = heard.leader;
    }
    Some(merged)
}

/// The claims that stand, in ring order from the first position: claims are taken in falling range version, each standing
/// unless one that stands already overlaps it. No two that stand overlap.
pub fn standing<T: Borrow<Descriptor>>(claims: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut claims: Vec<T> = claims.into_iter().collect();
    claims.sort_by_key(|claim| std::cmp::Reverse(rank(claim.borrow())));
    let mut standing: BTreeMap<Position, T> = BTreeMap::new();
    for claim in claims {
        let range = &claim.borrow().range;
        let start = range.start.clone();
        let before = standing.range(..=&start).next_back().or_else(|| standing.last_key_value());
        let covered = before.is_some_and(|(_, route)| route.borrow().range.contains(&start));
        // Whichever standing arc starts next must not start inside the claim.
        let next = standing.range(&start..).next().or_else(|| standing.first_key_value());
        let covers = next.is_some_and(|(next, _)| range.contains(next));
        if !covered && !covers {
            standing.insert(start, claim);
        }
    }
    standing.into_values().collect()
}
