//! Enough members, alive, in distinct zones, off draining nodes.
//!
//! `repair` is what cannot wait: it goes before everything else and uses the whole budget. `tidy` is what only makes
//! things better, and is damped.
//!
//! | seen | done |
//! | --- | --- |
//! | a member dead for the time set | replaced in one change, by a node in the zone that was lost if it can be |
//! | fewer members than the target | grown to the target, in one change |
//! | a draining node | its leaders move at once, its replicas as soon as there is a node for them; without one it waits |
//! | nobody to replace a dead member | removed if that lets the others spare one more, and the minimum is kept |
//! | a learner left over | removed |
//! | two members in one zone | one is moved, if a node in a zone with fewer members is known |
//! | more members than the target | the worst placed leave |
//! | a successor below the minimum that nobody fills | taken over |
//! | the maximum size, where each node serves one group | split; each half keeps one half of the members |

use super::loss::Loss;
use super::memory::{Condition, Memory};
use super::nodes::NodeHint;
use super::place::{Place, may_host, pick, pick_many};
use super::roster::{Roster, Seat, SeatState};
use super::{Action, Measure, Proposal, Reason, Side, Situation};
use crate::rng::Rng;
use crate::types::NodeId;
use std::cmp::Reverse;
use std::time::Duration;

/// How fast a new member is taken to catch up, for the loss probability alone.
const CATCH_UP_BYTES_PER_SECOND: u64 = 64 << 20;

/// What cannot wait.
pub(super) fn repair(situation: &Situation<'_>, roster: &Roster<'_>, rng: &mut Rng) -> Option<Proposal> {
    replace_lost(situation, roster, rng)
        .or_else(|| grow(situation, roster, rng))
        .or_else(|| drain(situation, roster, rng))
}

/// What only makes things better.
pub(super) fn tidy(
    situation: &Situation<'_>,
    roster: &Roster<'_>,
    memory: &mut Memory,
    rng: &mut Rng,
) -> Option<Proposal> {
    remove_learners(roster)
        .or_else(|| shed(situation, roster, memory, rng))
        .or_else(|| spread_zones(situation, roster, memory, rng))
        .or_else(|| split_at_maximum(situation, roster, memory, rng))
        .or_else(|| merge_thin(situation, roster, memory, rng))
}

/// The loss probability of a group of this size, under the churn seen or else the one set.
fn loss(situation: &Situation<'_>, size: usize) -> Loss {
    let Situation { group, nodes, settings, .. } = *situation;
    let catch_up = Duration::from_secs(group.load.bytes / CATCH_UP_BYTES_PER_SECOND);
    let median_lifetime = nodes.median_lifetime().unwrap_or(settings.median_lifetime);
    Loss::new(size, median_lifetime, settings.replace_dead_after.saturating_add(catch_up))
}

fn proposal(action: Result<Action, Reason>, reason: Reason) -> Proposal {
    match action {
        Ok(action) => Proposal { action, reason },
        Err(reason) => held_back(reason),
    }
}

fn held_back(reason: Reason) -> Proposal {
    Proposal { action: Action::Nothing, reason }
}

pub(super) fn replace_lost(situation: &Situation<'_>, roster: &Roster<'_>, rng: &mut Rng) -> Option<Proposal> {
    let lost: Vec<(&Seat<'_>, Duration)> = roster
        .seats
        .iter()
        .filter_map(|seat| match seat.state {
            SeatState::Lost { silent_for } => Some((seat, silent_for)),
            SeatState::Alive | SeatState::Doubtful => None,
        })
        .collect();
    let (first, silent_for) = *lost.first()?;
    let nodes: Vec<NodeId> = lost.iter().map(|(seat, _)| seat.node()).collect();
    let wanted = situation.settings.target_size.saturating_sub(roster.size() - nodes.len());
    let zone = first.hint.map(|hint| hint.zone.as_str()).filter(|zone| !zone.is_empty());
    let added = pick_many(situation, roster, Place { beside: roster.staying(&nodes), zone, needed: true }, wanted, rng);
    // With replacements as many leave as can; without, only if the others can then spare one more.
    let now = roster.tolerance(0, &[]);
    let action = (1..=nodes.len())
        .rev()
        .filter(|count| !added.is_empty() || wanted == 0 || roster.tolerance(0, &nodes[..*count]) > now)
        .find_map(|count| roster.change(situation, &added, nodes[..count].to_vec()).ok());
    let reason = Reason::MemberLost { node: first.node(), silent_for, loss: loss(situation, roster.size()) };
    Some(proposal(action.ok_or(Reason::NoCandidate { wanted }), reason))
}

fn grow(situation: &Situation<'_>, roster: &Roster<'_>, rng: &mut Rng) -> Option<Proposal> {
    let (size, target) = (roster.size(), situation.settings.target_size);
    let wanted = target.checked_sub(size).filter(|wanted| *wanted > 0)?;
    let place = Place { beside: roster.staying(&[]), zone: None, needed: true };
    let mut added = pick_many(situation, roster, place, wanted, rng);
    if added.is_empty() {
        return Some(held_back(Reason::NoCandidate { wanted }));
    }
    let reason = Reason::BelowTarget { size, target, loss: loss(situation, size) };
    // While members are silent, fewer newcomers may be what those that answer can carry.
    loop {
        let action = roster.change(situation, &added, Vec::new());
        if action.is_ok() || added.len() == 1 {
            return Some(proposal(action, reason));
        }
        added.pop();
    }
}

fn drain(situation: &Situation<'_>, roster: &Roster<'_>, rng: &mut Rng) -> Option<Proposal> {
    let draining: Vec<&Seat<'_>> = roster.seats.iter().filter(|seat| seat.is_draining()).collect();
    let first = *draining.first()?;
    let leader = situation.own.node;
    if draining.iter().any(|seat| seat.node() == leader) {
        // Nobody waits for a hand-over as long as for a node that is stopped.
        let able = roster.seats.iter().filter(|seat| seat.node() != leader && seat.may_lead());
        let best = able.min_by_key(|seat| (seat.hint.map(|hint| hint.leaders), seat.node()));
        if let Some(to) = best.map(Seat::node) {
            let reason = Reason::LeaderDraining { node: leader };
            return Some(Proposal { action: Action::TransferLeader { to }, reason });
        }
    }
    let leaving: Vec<NodeId> = draining.iter().map(|seat| seat.node()).collect();
    let wanted = situation.settings.target_size.saturating_sub(roster.size() - leaving.len());
    let zone = first.hint.map(|hint| hint.zone.as_str()).filter(|zone| !zone.is_empty());
    let added =
        pick_many(situation, roster, Place { beside: roster.staying(&leaving), zone, needed: true }, wanted, rng);
    // One leaves for each that comes, and those that are too many anyway.
    let count = leaving.len() - (wanted - added.len()).min(leaving.len());
    let removed: Vec<NodeId> = leaving.into_iter().take(count).collect();
    if removed.is_empty() {
        return Some(held_back(Reason::NoCandidate { wanted }));
    }
    let reason = Reason::Draining { node: first.node() };
    Some(proposal(roster.change(situation, &added, removed), reason))
}

fn remove_learners(roster: &Roster<'_>) -> Option<Proposal> {
    let node = *roster.learners.first()?;
    let action = Action::ChangeMembers { add: Vec::new(), remove: roster.learners.clone() };
    Some(Proposal { action, reason: Reason::LeftoverLearner { node } })
}

/// Takes the place of whoever stands in a crowd.
fn spread_zones(
    situation: &Situation<'_>,
    roster: &Roster<'_>,
    memory: &mut Memory,
    rng: &mut Rng,
) -> Option<Proposal> {
    let Situation { own, settings, now, .. } = *situation;
    let crowd = |hint: &NodeHint| Place { beside: roster.staying(&[hint.node]), zone: None, needed: false }.crowd(hint);
    let crowded = roster.seats.iter().filter_map(|seat| seat.hint).filter(|hint| crowd(hint) > 0);
    // Not the leader if another one will do, and rather the fullest node.
    let leaves = crowded.max_by_key(|hint| (crowd(hint), hint.node != own.node, hint.replicas, hint.node));
    let holds = leaves.is_some() && settings.switches.zones;
    if !memory.has_held(Condition::ZoneShared, holds, settings.damping, now, rng) {
        return None;
    }
    let leaves = leaves?;
    let place = Place { beside: roster.staying(&[leaves.node]), zone: None, needed: false };
    let least = crowd(leaves);
    let comes = pick(situation, roster, &place, rng, |hint| place.crowd(hint) < least)?;
    let action = roster.change(situation, &[comes], vec![leaves.node]).ok()?;
    Some(Proposal { action, reason: Reason::ZoneShared { zone: leaves.zone.clone() } })
}

/// Lets go of members that are too many.
fn shed(situation: &Situation<'_>, roster: &Roster<'_>, memory: &mut Memory, rng: &mut Rng) -> Option<Proposal> {
    let Situation { own, settings, now, .. } = *situation;
    let (size, target) = (roster.size(), settings.target_size);
    if settings.one_group_per_node() {
        if let Some((removed, neighbour)) = twins_share(situation, roster) {
            let action = roster.change(situation, &[], removed).ok()?;
            return Some(Proposal { action, reason: Reason::Twin { neighbour } });
        }
        return release(situation, roster, memory, rng);
    }
    if !memory.has_held(Condition::Surplus, size > target, settings.damping, now, rng) {
        return None;
    }
    let mut removed: Vec<NodeId> = Vec::new();
    while size - removed.len() > target {
        let place = Place { beside: roster.staying(&removed), zone: None, needed: false };
        let staying = roster.seats.iter().filter(|seat| !removed.contains(&seat.node()));
        let worst = staying.max_by_key(|seat| {
            let crowd = seat.hint.map_or(0, |hint| place.crowd(hint));
            let fill = seat.hint.map(|hint| (hint.replicas, Reverse(hint.age)));
            (seat.node() != own.node, !seat.is_alive(), crowd, fill, seat.node())
        })?;
        removed.push(worst.node());
    }
    let action = roster.change(situation, &[], removed).ok()?;
    Some(Proposal { action, reason: Reason::Surplus { size, target } })
}

/// Where each node serves one group, lets go of one that two groups have taken on, if it can be spared.
fn release(situation: &Situation<'_>, roster: &Roster<'_>, memory: &mut Memory, rng: &mut Rng) -> Option<Proposal> {
    let Situation { own, settings, now, .. } = *situation;
    let others = roster.seats.iter().filter(|seat| seat.node() != own.node).filter_map(|seat| seat.hint);
    let limit = settings.max_replicas_per_node;
    let shared = others.filter(|hint| hint.replicas > limit).max_by_key(|hint| (hint.replicas, hint.node));
    let spare = shared.filter(|_| roster.size() > settings.min_size);
    if !memory.has_held(Condition::Surplus, spare.is_some(), settings.damping, now, rng) {
        return None;
    }
    let spare = spare?;
    let action = roster.change(situation, &[], vec![spare.node]).ok()?;
    Some(Proposal { action, reason: Reason::Shared { node: spare.node, replicas: spare.replicas, limit } })
}

/// Whom to let go so that two groups that came from one share its members out. The lower one keeps the lower half; who comes
/// second leaves to the other what the other kept.
fn twins_share(situation: &Situation<'_>, roster: &Roster<'_>) -> Option<(Vec<NodeId>, crate::types::GroupId)> {
    let minimum = situation.settings.min_size;
    let mine: Vec<NodeId> = roster.seats.iter().map(Seat::node).collect();
    let half = mine.len() / 2;
    [Side::Successor, Side::Predecessor].into_iter().find_map(|side| {
        let neighbour = situation.group.neighbour(side)?;
        let theirs: Vec<NodeId> = neighbour.voters().collect();
        let removed = if theirs == mine && half >= minimum {
            let below = is_below(situation, side);
            if below { mine[half..].to_vec() } else { mine[..half].to_vec() }
        } else if theirs.iter().all(|node| mine.contains(node)) && mine.len() - theirs.len() >= minimum {
            theirs
        } else {
            return None;
        };
        Some((removed, neighbour.group))
    })
}

/// Whether the own group is the lower of it and its neighbour. On a ring of two, either is on both sides of the other.
fn is_below(situation: &Situation<'_>, side: Side) -> bool {
    let Situation { group, .. } = situation;
    if group.predecessor.group == group.successor.group {
        group.descriptor.group < group.successor.group
    } else {
        side == Side::Successor
    }
}

/// Where nodes serve one group each, a node with nothing to do joins a group; when that is full, it splits.
fn split_at_maximum(
    situation: &Situation<'_>,
    roster: &Roster<'_>,
    memory: &mut Memory,
    rng: &mut Rng,
) -> Option<Proposal> {
    let Situation { group, nodes, settings, now, .. } = *situation;
    if !settings.one_group_per_node() {
        return None;
    }
    let idle = nodes.fewest_replicas() == Some(0);
    if !memory.has_held(Condition::Idle, idle || roster.size() > settings.max_size, settings.damping, now, rng) {
        return None;
    }
    let (size, maximum) = (roster.size(), settings.max_size);
    if size < maximum {
        let place = Place { beside: roster.staying(&[]), zone: None, needed: false };
        let joins = pick(situation, roster, &place, rng, |hint| hint.replicas == 0)?;
        let action = roster.change(situation, &[joins], Vec::new()).ok()?;
        return Some(Proposal { action, reason: Reason::JoiningNode { node: joins.node } });
    }
    let can_split = size >= 2 * settings.min_size && group.load.keys > 1;
    let by = if group.load.operations_per_second > 0 { Measure::Operations } else { Measure::Bytes };
    can_split.then_some(Proposal { action: Action::Split { by }, reason: Reason::AtMaximum { size, maximum } })
}

/// Takes over a successor that is too small for long: had there been nodes to fill it, it would have been filled.
fn merge_thin(situation: &Situation<'_>, roster: &Roster<'_>, memory: &mut Memory, rng: &mut Rng) -> Option<Proposal> {
    let Situation { group, nodes, settings, now, .. } = *situation;
    let minimum = settings.min_size;
    let thin = group.neighbour(Side::Successor).filter(|successor| {
        let theirs: Vec<NodeId> = successor.voters().collect();
        // It helps only if it is taken to more members, or if theirs become free to join.
        let frees = theirs.iter().any(|node| !roster.has(*node) && situation.hint(*node).is_some_and(NodeHint::usable));
        theirs.len() < minimum
            && successor.answers(nodes)
            && (roster.size() >= minimum || (roster.size() >= theirs.len() && frees))
    });
    // As long as somebody could fill it, that is the better way.
    let fillable = thin.is_some() && nodes.hints().iter().any(|hint| may_host(situation, roster, hint, true));
    let holds = thin.is_some() && !fillable;
    let held = memory.has_held(Condition::ThinSuccessor, holds, settings.merge_damping, now, rng);
    let successor = thin.filter(|_| held)?;
    let reason = Reason::ThinSuccessor { size: successor.voters().count(), minimum };
    Some(Proposal { action: Action::Merge { successor: successor.group }, reason })
}
