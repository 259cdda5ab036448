//! The leader sits where round trips are short.
//!
//! What a write costs beyond disks is the way from the leader to a majority. It is compared for each member that could lead:
//! what this node measured itself, and, between others, what they tell of each other's zones. The leader moves only for a clear
//! gain, and [`super::load`] does not spread leaders to where the loss would be as clear, so the two do not send a leader to and
//! fro.

use super::memory::{Condition, Memory};
use super::roster::{Roster, Seat};
use super::{Action, Proposal, Reason, Situation};
use crate::rng::Rng;
use crate::types::NodeId;
use std::time::Duration;

/// The round trip between two members.
fn round_trip(situation: &Situation<'_>, one: &Seat<'_>, other: &Seat<'_>) -> Option<Duration> {
    let measured = situation.group.round_trips.between(one.node(), other.node());
    measured.or_else(|| one.hint?.round_trip(other.hint?))
}

/// What a write would cost with each member as the leader: the round trip to the member that completes a majority. `None` if too
/// few round trips are known.
fn cost(situation: &Situation<'_>, roster: &Roster<'_>, leader: NodeId) -> Option<Duration> {
    let leader = roster.seats.iter().find(|seat| seat.node() == leader)?;
    let alive = roster.seats.iter().filter(|seat| seat.is_alive());
    let mut to_others: Vec<Duration> = alive.filter_map(|seat| round_trip(situation, leader, seat)).collect();
    to_others.sort_unstable();
    to_others.get(roster.size() / 2).copied()
}

/// Whether going from one cost to the other is a clear gain.
fn is_gain(situation: &Situation<'_>, from: Duration, to: Duration) -> bool {
    let settings = situation.settings;
    let part = from.saturating_mul(settings.latency_gain_permille) / 1000;
    let gain = from.saturating_sub(to);
    !gain.is_zero() && gain >= settings.latency_gain.max(part)
}

/// Whether `node` may lead without a clear loss.
pub(super) fn is_near(situation: &Situation<'_>, roster: &Roster<'_>, node: NodeId) -> bool {
    let (here, there) = (cost(situation, roster, situation.own.node), cost(situation, roster, node));
    here.zip(there).is_none_or(|(here, there)| !is_gain(situation, there, here))
}

pub(super) fn propose(
    situation: &Situation<'_>,
    roster: &Roster<'_>,
    memory: &mut Memory,
    rng: &mut Rng,
) -> Option<Proposal> {
    let Situation { own, settings, now, .. } = *situation;
    let here = cost(situation, roster, own.node);
    let able = roster.seats.iter().filter(|seat| seat.may_lead()).map(Seat::node);
    let costs = able.filter_map(|node| Some((cost(situation, roster, node)?, node)));
    let best = here.zip(costs.min()).filter(|(here, (there, _))| is_gain(situation, *here, *there));
    if !memory.has_held(Condition::Remote, best.is_some(), settings.damping, now, rng) {
        return None;
    }
    let (here, (there, to)) = best?;
    Some(Proposal { action: Action::TransferLeader { to }, reason: Reason::Nearer { here, there } })
}
