//! Load goes to where there is room.
//!
//! | seen | done | why it does not come back |
//! | --- | --- | --- |
//! | a group over a split threshold | split at the median of that measure | two halves together are over twice the merge threshold |
//! | a group and its successor, together under both merge thresholds | merged | together they are under half of a split |
//! | a neighbour over half of a split, four times busier, same members | the boundary moves, both carry the same | their ratio is 1 |
//! | the own node with clearly more replicas than another | one replica moves | the difference becomes smaller by 2, and was at least 2 |
//! | the own node clearly busier than another | the replica moves | its share of the load is at most half of the difference |
//! | the own node leads 2 groups more than another member's | the leader moves | the difference becomes smaller by 2 |
//! | the own node clearly busier than another member's | the leader moves | its share is at most half of the difference |
//!
//! An empty node that joined is only one with few replicas and no load: it is filled, `max_incoming_per_node` at a time.

use super::facts::{GroupLoad, Measure, Side};
use super::latency;
use super::memory::{Condition, Memory};
use super::nodes::{NodeHint, below};
use super::place::{Place, pick};
use super::roster::{Roster, Seat};
use super::{Action, Proposal, Reason, Situation};
use crate::rng::Rng;
use std::cmp::Reverse;

/// A boundary moves only if the neighbour does so many times as much as the own group.
const UNEQUAL_RATIO: u64 = 4;

/// What load asks for, the most pressing first.
pub(super) fn propose(
    situation: &Situation<'_>,
    roster: &Roster<'_>,
    memory: &mut Memory,
    rng: &mut Rng,
) -> Vec<Proposal> {
    let switches = situation.settings.switches;
    let mut proposals = Vec::new();
    if switches.split {
        proposals.extend(split(situation, roster, memory, rng));
    }
    if switches.leaders {
        proposals.extend(spread_leaders(situation, roster, memory, rng));
    }
    if switches.migrate {
        proposals.extend(migrate(situation, roster, memory, rng));
    }
    if switches.repartition {
        proposals.extend(repartition(situation, roster, memory, rng));
    }
    if switches.merge {
        proposals.extend(merge(situation, roster, memory, rng));
    }
    proposals
}

/// A load in thousandths of what is split, by its greater measure.
fn permille(situation: &Situation<'_>, load: GroupLoad) -> (u64, Measure) {
    let part = |value: u64, whole: u64| value.saturating_mul(1000) / whole.max(1);
    let bytes = part(load.bytes, situation.settings.split_bytes);
    let operations = part(load.operations_per_second, situation.settings.split_operations_per_second);
    if operations > bytes { (operations, Measure::Operations) } else { (bytes, Measure::Bytes) }
}

fn split(situation: &Situation<'_>, roster: &Roster<'_>, memory: &mut Memory, rng: &mut Rng) -> Option<Proposal> {
    let Situation { group, settings, now, .. } = *situation;
    let (_, by) = permille(situation, group.load);
    let (value, threshold) = match by {
        Measure::Operations => (group.load.operations_per_second, settings.split_operations_per_second),
        Measure::Bytes => (group.load.bytes, settings.split_bytes),
    };
    // Both halves stay on every member, or the members are shared out between them.
    let room = if settings.one_group_per_node() {
        roster.size() >= 2 * settings.min_size
    } else {
        roster.seats.iter().filter_map(|seat| seat.hint).all(|hint| hint.replicas < settings.max_replicas_per_node)
    };
    let hot = value > threshold && room && group.load.keys > 1;
    if !memory.has_held(Condition::Hot, hot, settings.damping, now, rng) {
        return None;
    }
    Some(Proposal { action: Action::Split { by }, reason: Reason::Hot { by, value, threshold } })
}

/// Takes over a successor if both have little to do. What comes of it has the own group's members: not if that leaves too few.
fn merge(situation: &Situation<'_>, roster: &Roster<'_>, memory: &mut Memory, rng: &mut Rng) -> Option<Proposal> {
    let Situation { group, nodes, settings, now, .. } = *situation;
    let large_enough = |theirs: usize| roster.size() >= settings.min_size.min(theirs);
    let successor = group.neighbour(Side::Successor).filter(|known| large_enough(known.voters().count()));
    let (mine, theirs) = (group.load, successor.and_then(|successor| successor.load));
    let bytes = theirs.map(|theirs| mine.bytes.saturating_add(theirs.bytes));
    let operations = theirs.map(|theirs| mine.operations_per_second.saturating_add(theirs.operations_per_second));
    let cold = bytes.is_some_and(|bytes| bytes < settings.merge_bytes)
        && operations.is_some_and(|operations| operations < settings.merge_operations_per_second)
        && successor.is_some_and(|successor| successor.answers(nodes));
    if !memory.has_held(Condition::Cold, cold, settings.merge_damping, now, rng) {
        return None;
    }
    let reason = Reason::Cold { bytes: bytes?, operations_per_second: operations? };
    Some(Proposal { action: Action::Merge { successor: successor?.group }, reason })
}

/// The idle group takes over: whoever gains coordinates. Only between groups on the same nodes, where no data is copied;
/// elsewhere moving replicas does as much at the same price.
fn repartition(situation: &Situation<'_>, roster: &Roster<'_>, memory: &mut Memory, rng: &mut Rng) -> Option<Proposal> {
    let Situation { group, settings, now, .. } = *situation;
    let (own, _) = permille(situation, group.load);
    [Side::Successor, Side::Predecessor].into_iter().find_map(|side| {
        let neighbour = group.neighbour(side);
        let same_nodes = neighbour.is_some_and(|neighbour| {
            neighbour.members.len() == roster.size() && neighbour.members.iter().all(|member| roster.has(member.node))
        });
        let load = neighbour.and_then(|neighbour| neighbour.load).unwrap_or_default();
        let (theirs, by) = permille(situation, load);
        // Over the threshold it splits by itself.
        let unequal = same_nodes && (500..=1000).contains(&theirs) && own.saturating_mul(UNEQUAL_RATIO) <= theirs;
        if !memory.has_held(Condition::Unequal(side), unequal && load.keys > 1, settings.damping, now, rng) {
            return None;
        }
        let take_permille = u16::try_from((theirs - own) * 500 / theirs).unwrap_or(500);
        let reason = Reason::Unequal { side, own_permille: own, neighbour_permille: theirs };
        Some(Proposal { action: Action::Repartition { toward: side, by, take_permille }, reason })
    })
}

/// What part of a node's load the group makes up there, if the node answers for it.
fn share_permille(hint: &NodeHint, load: GroupLoad) -> u32 {
    let whole = hint.operations_per_second.max(load.operations_per_second).max(1);
    let share = u64::from(hint.load_permille).saturating_mul(load.operations_per_second) / whole;
    u32::try_from(share).unwrap_or(u32::MAX)
}

/// Whether moving the group's load from one node to another evens them out without turning them round.
fn evens_out(situation: &Situation<'_>, from: &NodeHint, to: &NodeHint) -> bool {
    let gap = from.load_permille.saturating_sub(to.load_permille);
    gap >= situation.settings.load_gap_permille.max(1) && share_permille(from, situation.group.load) <= gap / 2
}

/// Moves a replica off the own node: whoever is full sheds by itself. It knows what it has already ordered; were the leaders
/// on other nodes to act as well, all of them would go by the same slightly old hint, and empty it.
fn migrate<'a>(situation: &Situation<'a>, roster: &Roster<'a>, memory: &mut Memory, rng: &mut Rng) -> Option<Proposal> {
    let Situation { own, nodes, settings, now, .. } = *situation;
    // A node that leads nothing, as when it is far from everybody, cannot: its groups' leaders act for it, one at a time.
    let others = roster.seats.iter().filter(|seat| seat.node() != own.node && seat.is_alive());
    let helpless = others.filter_map(|seat| seat.hint).filter(|hint| hint.leaders == 0);
    let fullest = helpless.max_by_key(|hint| (hint.replicas, hint.node));
    let helped = fullest.filter(|hint| below(rng, usize::try_from(hint.replicas).unwrap_or(1)) == 0);
    let from = helped.unwrap_or(own);
    // Where each node serves one group there is nothing to even out, only to give back.
    let over = from.replicas > settings.max_replicas_per_node;
    let even = settings.one_group_per_node() && !over;
    let full = !even && nodes.fewest_replicas().is_some_and(|fewest| over || fuller(from.replicas, fewest));
    let gap = |least: u32| from.load_permille.saturating_sub(least);
    let busy = !even && nodes.least_load_permille().is_some_and(|least| gap(least) >= settings.load_gap_permille);
    if !memory.has_held(Condition::Uneven, full || busy, settings.damping, now, rng) {
        return None;
    }
    let to = target(situation, roster, from, rng, |to| {
        if full {
            let calm = to.load_permille <= from.load_permille.saturating_add(settings.load_gap_permille / 2);
            calm && (over || fuller(from.replicas, to.replicas))
        } else {
            // The replica must not make the other the fuller one, or it would be sent back for that.
            to.replicas < from.replicas && evens_out(situation, from, to)
        }
    })?;
    let action = roster.change(situation, &[to], vec![from.node]).ok()?;
    Some(Proposal { action, reason: why_moved(from, to, full) })
}

fn why_moved(from: &NodeHint, to: &NodeHint, full: bool) -> Reason {
    if to.replicas == 0 {
        Reason::JoiningNode { node: to.node }
    } else if full {
        Reason::Fuller { from: from.node, from_replicas: from.replicas, to: to.node, to_replicas: to.replicas }
    } else {
        let (from_permille, to_permille) = (from.load_permille, to.load_permille);
        Reason::Busier { from: from.node, from_permille, to: to.node, to_permille }
    }
}

/// Whether one node has clearly more replicas than another: by 2, and by a tenth, so that ever larger nodes do not trade
/// ever more replicas over differences that do not matter.
fn fuller(from: u32, to: u32) -> bool {
    from.saturating_sub(to) >= (from / 10).max(2)
}

/// A node for a replica that leaves `from`, in a zone with no more members than it had there.
fn target<'a>(
    situation: &Situation<'a>,
    roster: &Roster<'a>,
    from: &NodeHint,
    rng: &mut Rng,
    fits: impl Fn(&NodeHint) -> bool,
) -> Option<&'a NodeHint> {
    let place = Place { beside: roster.staying(&[from.node]), zone: None, needed: false };
    let crowd = place.crowd(from);
    let zones = situation.settings.switches.zones;
    pick(situation, roster, &place, rng, |to| fits(to) && (!zones || place.crowd(to) <= crowd))
}

fn spread_leaders(
    situation: &Situation<'_>,
    roster: &Roster<'_>,
    memory: &mut Memory,
    rng: &mut Rng,
) -> Option<Proposal> {
    let Situation { own, settings, now, .. } = *situation;
    let able = roster.seats.iter().filter(|seat| seat.node() != own.node && seat.may_lead());
    // What the one policy moves for distance the other must not move back.
    let near = |to: &&NodeHint| !settings.switches.latency || latency::is_near(situation, roster, to.node);
    let others = || able.clone().filter_map(|seat: &Seat<'_>| seat.hint).filter(|to| to.leaders < own.leaders);
    let fewest =
        others().filter(|to| to.leaders + 2 <= own.leaders).filter(near).min_by_key(|to| (to.leaders, to.node));
    // The load that follows a leader must not make the other lead more, or it would be sent back for that.
    let idlest = others()
        .filter(|to| evens_out(situation, own, to))
        .filter(near)
        .min_by_key(|to| (to.load_permille, Reverse(to.node)));
    let best = fewest.or(idlest);
    if !memory.has_held(Condition::TopHeavy, best.is_some(), settings.damping, now, rng) {
        return None;
    }
    let to = best?;
    // All the leaders beside the other see the same hint. Each draws once for it, so that about as many act as it lacks.
    let (lacks, givers) = (own.leaders.abs_diff(to.leaders).div_ceil(2), to.replicas.saturating_sub(to.leaders));
    let drawn = below(rng, usize::try_from(givers).unwrap_or(1)) < usize::try_from(lacks).unwrap_or(1);
    if !memory.is_first_draw(to.node, to.told) || !drawn {
        return None;
    }
    let reason = if fewest.is_some() {
        Reason::TopHeavy { leaders_here: own.leaders, leaders_there: to.leaders }
    } else {
        Reason::BusierLeader { here_permille: own.load_permille, there_permille: to.load_permille }
    };
    Some(Proposal { action: Action::TransferLeader { to: to.node }, reason })
}
