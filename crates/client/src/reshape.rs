//! Orders that change groups or reshape the ring: how they are given, and who is asked for a new boundary.

use crate::cache::RingView;
use crate::error::Reason;
use scatter_core::group::Descriptor;
use scatter_core::ops::order::Side;
use scatter_core::ring::Position;
use scatter_core::types::{ConfigurationVersion, GroupId, RangeVersion};
use std::sync::Arc;
use std::time::Duration;

/// How an order to reshape the ring is given.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ReshapeOptions {
    /// The version that the group's range must have, so that an order given twice is not carried out twice; `None` for
    /// whatever it is.
    pub range_version: Option<RangeVersion>,
    /// Only asks what would happen.
    pub dry_run: bool,
    /// How long the order may take; `None` for the client's own limit.
    pub timeout: Option<Duration>,
}

/// How an order to change a group's members is given.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MembersOptions {
    /// The version that the group's configuration must have, so that of two who saw the same members only one is heard; `None`
    /// for whatever it is.
    pub version: Option<ConfigurationVersion>,
    /// Only asks what would happen.
    pub dry_run: bool,
    /// How long the order may take; `None` for the client's own limit.
    pub timeout: Option<Duration>,
}

/// Who takes over from whom, for a boundary to come to lie where it is wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shift {
    /// The group that gains, which is asked.
    pub gainer: GroupId,
    /// The group that loses.
    pub loser: GroupId,
    /// On which side of the gainer the loser lies.
    pub from: Side,
    /// The gainer's range, as far as is known.
    pub range_version: RangeVersion,
}

/// The other side.
#[must_use]
pub const fn opposite(side: Side) -> Side {
    match side {
        Side::Predecessor => Side::Successor,
        Side::Successor => Side::Predecessor,
    }
}

/// The neighbour of a group on one side, as far as is known.
#[must_use]
pub fn neighbour<'v>(view: &'v RingView, group: &Descriptor, side: Side) -> Option<&'v Arc<Descriptor>> {
    match side {
        Side::Successor => view.owner(&group.range.end),
        Side::Predecessor => view.routes().iter().find(|route| route.range.end == group.range.start),
    }
}

/// Who takes over from whom if the boundary of `group` on `side` is to lie at `boundary`: beyond the group's range the group
/// gains, inside it the neighbour does.
pub fn shift(view: &RingView, group: GroupId, boundary: &Position, side: Side) -> Result<Shift, Reason> {
    let conflict = |text: String| Err(Reason::Conflict(text));
    let Some(own) = view.group(group) else { return conflict(format!("no group {group} is known")) };
    if own.range.is_whole() {
        return conflict("the group has no neighbour: it owns the whole ring".to_owned());
    }
    let fixed = match side {
        Side::Successor => &own.range.end,
        Side::Predecessor => &own.range.start,
    };
    if boundary == fixed {
        return conflict("the boundary lies there already".to_owned());
    }
    let Some(other) = neighbour(view, own, side) else {
        return Err(Reason::Unavailable("the group's neighbour is not known at the moment".to_owned()));
    };
    if !own.range.contains(boundary) {
        if !other.range.contains(boundary) || *boundary == other.range.start {
            return conflict("the boundary lies outside the neighbour's range or on its end".to_owned());
        }
        let range_version = own.range_version;
        return Ok(Shift { gainer: group, loser: other.group, from: side, range_version });
    }
    if *boundary == own.range.start {
        return conflict("nothing would be left of the group: merge its neighbour with it instead".to_owned());
    }
    Ok(Shift { gainer: other.group, loser: group, from: opposite(side), range_version: other.range_version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::RingCache;
    use bytes::Bytes;
    use scatter_core::group::{Configuration, Member, Role};
    use scatter_core::ring::KeyRange;
    use scatter_core::types::{Ballot, ConfigurationVersion, Incarnation, NodeId};

    fn position(byte: u8) -> Position {
        if byte == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[byte])) }
    }

    fn view(groups: &[(u64, u8, u8)]) -> Arc<RingView> {
        let cache = RingCache::default();
        let descriptors: Vec<_> = groups
            .iter()
            .map(|(group, start, end)| Descriptor {
                group: GroupId(*group),
                configuration: Configuration {
                    version: ConfigurationVersion(1),
                    members: vec![Member {
                        node: NodeId(1),
                        incarnation: Incarnation(1),
                        role: Role::Voter,
                        address: String::new(),
                    }],
                },
                range_version: RangeVersion(*group),
                range: KeyRange { start: position(*start), end: position(*end) },
                leader: None,
                ballot: Ballot::ZERO,
            })
            .collect();
        cache.learn(&descriptors);
        Arc::clone(&cache.view())
    }

    fn who(view: &RingView, boundary: u8, side: Side) -> Option<(u64, u64, Side)> {
        let shift = shift(view, GroupId(2), &position(boundary), side).ok()?;
        Some((shift.gainer.0, shift.loser.0, shift.from))
    }

    #[test]
    fn beyond_its_range_a_group_gains_and_inside_it_loses() {
        let view = view(&[(1, 0, 10), (2, 10, 20), (3, 20, 0)]);
        assert_eq!(who(&view, 30, Side::Successor), Some((2, 3, Side::Successor)));
        assert_eq!(who(&view, 15, Side::Successor), Some((3, 2, Side::Predecessor)));
        assert_eq!(who(&view, 5, Side::Predecessor), Some((2, 1, Side::Predecessor)));
        assert_eq!(who(&view, 15, Side::Predecessor), Some((1, 2, Side::Successor)));
    }

    #[test]
    fn a_boundary_that_changes_nothing_or_leaves_nothing_is_refused() {
        let view = view(&[(1, 0, 10), (2, 10, 20), (3, 20, 0)]);
        for (boundary, side) in [
            (20, Side::Successor),
            (10, Side::Successor),
            (10, Side::Predecessor),
            // What the neighbour on that side does not have, or all that it has.
            (5, Side::Successor),
            (0, Side::Successor),
            (30, Side::Predecessor),
            (0, Side::Predecessor),
        ] {
            assert_eq!(who(&view, boundary, side), None, "{boundary} {side:?}");
        }
    }

    #[test]
    fn of_two_groups_each_is_the_others_neighbour_twice() {
        let view = view(&[(1, 50, 10), (2, 10, 50)]);
        assert_eq!(who(&view, 60, Side::Successor), Some((2, 1, Side::Successor)));
        assert_eq!(who(&view, 5, Side::Predecessor), Some((2, 1, Side::Predecessor)));
        assert_eq!(who(&view, 20, Side::Predecessor), Some((1, 2, Side::Successor)));
    }

    #[test]
    fn a_group_alone_has_no_boundary_to_move() {
        let view = view(&[(2, 0, 0)]);
        assert_eq!(who(&view, 7, Side::Successor), None);
        assert!(shift(&view, GroupId(9), &position(7), Side::Successor).is_err());
    }
}
