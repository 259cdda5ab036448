//! What an operator's order to reshape the ring would do here, checked against what this node serves. The core checks it
//! again when it is carried out; here an order that makes no sense hears why at once, and a dry run hears what would happen.

use crate::serving::{Served, Serving};
use scatter_core::group::Link;
use scatter_core::ops::order::Side;
use scatter_core::ring::{KeyRange, Position};
use scatter_core::store::{Store, StoreError};
use scatter_core::types::{ConfigurationVersion, GroupId, NodeId, RangeVersion};
use scatter_wire::{Refusal, ReplyBody};
use serde_json::{Value, json};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The most keys that are looked at to find the middle of a group.
const MOST_KEYS: u64 = 200_000;

/// About how many bytes of keys and values are read for that.
const MOST_BYTES: u64 = 256 << 20;

/// The fewest keys that are looked at however large they are.
const FEWEST_KEYS: u64 = 1000;

/// The group, if this node leads it and nothing stands in an order's way; else what the operator hears.
pub fn ready(
    serving: &Serving,
    node: NodeId,
    group: GroupId,
    range_version: Option<RangeVersion>,
) -> Result<Arc<Served>, ReplyBody> {
    let served = led(serving, node, group)?;
    if let Some(refused) = range_version.and_then(|wanted| refused_version("range", served.range_version, wanted)) {
        return Err(refused);
    }
    if let Some(held) = &served.held {
        return Err(conflict(format!("another operation holds the group: {}", held.info())));
    }
    Ok(served)
}

/// The group, if this node leads it; else who may.
pub fn led(serving: &Serving, node: NodeId, group: GroupId) -> Result<Arc<Served>, ReplyBody> {
    let refused = |refusal, descriptors| {
        Err(ReplyBody::Refused { refusal, retry_after_ms: 0, descriptors, stamp: Default::default() })
    };
    let Some(served) = serving.group(group) else { return refused(Refusal::NotOwner, serving.hints_of(group)) };
    let descriptor = serving.descriptor(&served);
    match descriptor.leader {
        Some(leader) if leader == node => Ok(served),
        Some(_) => refused(Refusal::NotLeader, vec![descriptor]),
        None => refused(Refusal::NoLeader, vec![descriptor]),
    }
}

/// The group, if this node leads it, with members of that version, and nothing holds it.
pub fn with_members(
    serving: &Serving,
    node: NodeId,
    group: GroupId,
    version: Option<ConfigurationVersion>,
) -> Result<Arc<Served>, ReplyBody> {
    let served = ready(serving, node, group, None)?;
    let own = serving.descriptor(&served).configuration.version;
    match version.and_then(|wanted| refused_version("configuration", own, wanted)) {
        Some(refused) => Err(refused),
        None => Ok(served),
    }
}

/// What who orders something of another version hears. Others may know of a change that is decided before it is applied here:
/// whoever has heard of it from them is to wait for that.
fn refused_version<V: Ord + Display>(what: &str, own: V, wanted: V) -> Option<ReplyBody> {
    if wanted > own {
        return Some(ReplyBody::refused(Refusal::Sealed));
    }
    let text = || format!("the group's {what} has changed: its version is {own}, not {wanted}");
    (wanted < own).then(|| conflict(text()))
}

/// A refusal because of how the group is.
#[must_use]
pub fn conflict(text: impl Into<String>) -> ReplyBody {
    ReplyBody::refused(Refusal::Conflict { text: text.into() })
}

/// What a split at `at` would lead to.
pub fn plan_split(served: &Served, at: &Position) -> Result<Value, ReplyBody> {
    if *at == served.range.start || !served.range.contains(at) {
        return Err(conflict("the boundary lies outside the group's range or on its end"));
    }
    let lower = KeyRange { start: served.range.start.clone(), end: at.clone() };
    let upper = KeyRange { start: at.clone(), end: served.range.end.clone() };
    Ok(json!({
        "dry_run": true, "operation": "split", "group": served.group.to_string(), "at": at.to_string(),
        "lower": range(&lower), "upper": range(&upper),
    }))
}

/// What a takeover from a neighbour would lead to.
pub fn plan_takeover(served: &Served, from: Side, boundary: Option<&Position>) -> Result<Value, ReplyBody> {
    if served.range.is_whole() {
        return Err(conflict("the group has no neighbour: it owns the whole ring"));
    }
    let loser = neighbour(served, from);
    let theirs = &loser.range;
    if boundary.is_some_and(|at| served.range.contains(at)) {
        return Err(conflict(
            "the boundary lies inside the group's own range: order it of the neighbour that is to gain",
        ));
    }
    if boundary.is_some_and(|at| !theirs.contains(at) || *at == theirs.start) {
        return Err(conflict("the boundary lies outside the neighbour's range or on its end"));
    }
    let own = &served.range;
    let (moving, after) = match from {
        Side::Successor => {
            let end = boundary.unwrap_or(&theirs.end);
            let moving = KeyRange { start: theirs.start.clone(), end: end.clone() };
            (moving, KeyRange { start: own.start.clone(), end: end.clone() })
        }
        Side::Predecessor => {
            let start = boundary.unwrap_or(&theirs.start);
            let moving = KeyRange { start: start.clone(), end: theirs.end.clone() };
            (moving, KeyRange { start: start.clone(), end: own.end.clone() })
        }
    };
    Ok(json!({
        "dry_run": true, "operation": if boundary.is_none() { "merge" } else { "repartition" },
        "group": served.group.to_string(), "gainer": served.group.to_string(), "loser": loser.group.to_string(),
        "moving": range(&moving), "range": range(&after),
    }))
}

fn neighbour(served: &Served, side: Side) -> &Link {
    match side {
        Side::Predecessor => &served.links.predecessor,
        Side::Successor => &served.links.successor,
    }
}

/// An arc as every interface shows it.
#[must_use]
pub fn range(range: &KeyRange) -> Value {
    json!({ "start": range.start.to_string(), "end": range.end.to_string() })
}

/// The position that halves what a group holds; `None` if there are not two keys to part. Reads much: not for a thread that
/// others wait for.
pub fn middle(serving: &Serving, served: &Served) -> Result<Option<Position>, StoreError> {
    let keys = served.figures.keys.load(Ordering::Relaxed).max(1);
    let average = served.figures.bytes.load(Ordering::Relaxed) / keys + 1;
    let most = (MOST_BYTES / average).clamp(FEWEST_KEYS, MOST_KEYS);
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    scatter_core::group::middle(&serving.store.view(), &served.tablets, &served.range, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use scatter_core::group::{Configuration, Links, Member, Role, TabletMap};
    use scatter_core::types::{ConfigurationVersion, Incarnation, LinksVersion, TabletId};

    fn position(byte: u8) -> Position {
        if byte == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[byte])) }
    }

    fn arc(start: u8, end: u8) -> KeyRange {
        KeyRange { start: position(start), end: position(end) }
    }

    /// Group 1 with its own range, its predecessor 8 before it and its successor 9 behind it.
    fn served(own: KeyRange, before: KeyRange, after: KeyRange) -> Served {
        let member =
            Member { node: NodeId(1), incarnation: Incarnation(1), role: Role::Voter, address: "127.0.0.1:1".into() };
        let configuration = Configuration { version: ConfigurationVersion(1), members: vec![member.clone()] };
        let link = |group, range| Link {
            group: GroupId(group),
            range_version: RangeVersion(1),
            configuration_version: ConfigurationVersion(1),
            range,
            members: vec![member.clone()],
        };
        Served {
            group: GroupId(1),
            tablets: TabletMap::single(own.clone(), TabletId(1)),
            range: own,
            range_version: RangeVersion(1),
            configuration,
            links: Links { version: LinksVersion(1), predecessor: link(8, before), successor: link(9, after) },
            held: None,
            absorbed: Vec::new(),
            recovered: Vec::new(),
            word: Arc::default(),
            figures: Arc::default(),
        }
    }

    #[test]
    fn an_order_for_an_earlier_range_is_refused_and_one_for_a_later_is_to_wait() {
        let refusal = |wanted| match refused_version("range", RangeVersion(8), RangeVersion(wanted)) {
            Some(ReplyBody::Refused { refusal, .. }) => Some(refusal),
            _ => None,
        };
        assert_eq!((refusal(8), refusal(9)), (None, Some(Refusal::Sealed)));
        assert!(matches!(refusal(7), Some(Refusal::Conflict { text }) if text.contains("is 8, not 7")));
    }

    #[test]
    fn a_split_lies_inside() {
        let served = served(arc(10, 20), arc(0, 10), arc(20, 0));
        let plan = plan_split(&served, &position(12)).unwrap();
        assert_eq!((&plan["lower"]["end"], &plan["upper"]["start"]), (&json!("0c"), &json!("0c")));
        for outside in [10, 20, 9, 21, 0] {
            assert!(plan_split(&served, &position(outside)).is_err(), "{outside}");
        }
    }

    #[test]
    fn a_takeover_reaches_into_the_neighbour_and_no_further() {
        let served = served(arc(10, 20), arc(0, 10), arc(20, 0));
        let plan = plan_takeover(&served, Side::Successor, Some(&position(30))).unwrap();
        assert_eq!(plan["moving"], json!({ "start": "14", "end": "1e" }));
        assert_eq!(
            (&plan["range"], &plan["loser"]),
            (&json!({ "start": "0a", "end": "1e" }), &json!(GroupId(9).to_string()))
        );
        let plan = plan_takeover(&served, Side::Predecessor, Some(&position(5))).unwrap();
        assert_eq!(plan["moving"], json!({ "start": "05", "end": "0a" }));
        assert_eq!(plan["range"], json!({ "start": "05", "end": "14" }));
        let plan = plan_takeover(&served, Side::Successor, None).unwrap();
        assert_eq!((&plan["operation"], &plan["range"]), (&json!("merge"), &json!({ "start": "0a", "end": "" })));
        for (from, at) in [
            (Side::Successor, 15),
            (Side::Successor, 20),
            (Side::Successor, 5),
            (Side::Predecessor, 0),
            (Side::Predecessor, 30),
        ] {
            assert!(plan_takeover(&served, from, Some(&position(at))).is_err(), "{from:?} {at}");
        }
    }

    #[test]
    fn a_group_alone_has_nobody_to_take_over_from() {
        let served = served(KeyRange::whole(), KeyRange::whole(), KeyRange::whole());
        assert!(plan_takeover(&served, Side::Successor, None).is_err());
        assert!(plan_split(&served, &position(7)).is_ok());
    }
}
