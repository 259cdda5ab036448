//! A group's members with what the hints say of each, and the one place where changes of members are checked.

use super::memory::{Condition, Memory};
use super::nodes::{Health, NodeHint};
use super::{Action, Reason, Situation};
use crate::group::{Member, Role};
use crate::rng::Rng;
use crate::types::NodeId;
use std::time::Duration;

/// What a voter is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SeatState {
    /// It answers.
    Alive,
    /// It does not answer, but not for long enough to be given up.
    Doubtful,
    /// It has been dead for the time set.
    Lost {
        /// For how long.
        silent_for: Duration,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Seat<'a> {
    pub(super) member: &'a Member,
    pub(super) hint: Option<&'a NodeHint>,
    pub(super) state: SeatState,
}

impl Seat<'_> {
    pub(super) fn node(&self) -> NodeId {
        self.member.node
    }

    pub(super) fn is_alive(&self) -> bool {
        self.state == SeatState::Alive
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_alive() && self.hint.is_some_and(|hint| hint.draining)
    }

    /// Whether it may lead, for all that is known.
    pub(super) fn may_lead(&self) -> bool {
        self.is_alive() && self.hint.is_some_and(NodeHint::usable)
    }
}

/// The voters, in order of their nodes, and what is left over beside them.
#[derive(Clone, Debug)]
pub(super) struct Roster<'a> {
    pub(super) seats: Vec<Seat<'a>>,
    pub(super) learners: Vec<NodeId>,
}

impl<'a> Roster<'a> {
    pub(super) fn new(situation: &Situation<'a>, memory: &mut Memory, rng: &mut Rng) -> Self {
        let members = &situation.group.descriptor.configuration.members;
        memory.keep_missing(|node| members.iter().any(|member| member.node == node));
        let (voters, learners): (Vec<_>, Vec<_>) = members.iter().partition(|member| member.role == Role::Voter);
        let seats = voters.into_iter().map(|member| seat(situation, member, memory, rng)).collect();
        Self { seats, learners: learners.into_iter().map(|member| member.node).collect() }
    }

    pub(super) fn size(&self) -> usize {
        self.seats.len()
    }

    pub(super) fn has(&self, node: NodeId) -> bool {
        self.seats.iter().any(|seat| seat.node() == node)
    }

    fn alive(&self) -> usize {
        self.seats.iter().filter(|seat| seat.is_alive()).count()
    }

    /// Whether nothing at all is known of some member, and its leader waits until it may give that one up.
    pub(super) fn waits_for_news(&self) -> bool {
        self.seats.iter().any(|seat| seat.hint.is_none() && seat.state == SeatState::Doubtful)
    }

    /// Whether enough members answer to decide anything.
    pub(super) fn has_majority(&self) -> bool {
        self.alive() >= majority(self.size())
    }

    /// How many more members may fall silent once `added` have come and `removed` have gone; `None` if no majority is left.
    pub(super) fn tolerance(&self, added: usize, removed: &[NodeId]) -> Option<usize> {
        let staying = self.seats.iter().filter(|seat| !removed.contains(&seat.node()));
        let alive = staying.clone().filter(|seat| seat.is_alive()).count() + added;
        alive.checked_sub(majority(staying.count() + added))
    }

    /// The order to change members so, or why it must not be given: a group never becomes smaller than the minimum, and
    /// what is left of it has a majority that answers.
    pub(super) fn change(
        &self,
        situation: &Situation<'_>,
        add: &[&NodeHint],
        remove: Vec<NodeId>,
    ) -> Result<Action, Reason> {
        let voters_removed = remove.iter().filter(|node| self.has(**node)).count();
        let left = self.size() - voters_removed + add.len();
        let least = situation.settings.min_size.min(self.size());
        if left < least {
            return Err(Reason::TooSmall { left, least });
        }
        if self.tolerance(add.len(), &remove).is_none() {
            return Err(Reason::NoMajorityLeft);
        }
        let add = add.iter().map(|hint| (hint.node, hint.address.clone())).collect();
        Ok(Action::ChangeMembers { add, remove })
    }

    /// What is known of the members other than those that leave.
    pub(super) fn staying(&self, leaving: &[NodeId]) -> Vec<&'a NodeHint> {
        self.seats.iter().filter(|seat| !leaving.contains(&seat.node())).filter_map(|seat| seat.hint).collect()
    }
}

fn majority(size: usize) -> usize {
    size / 2 + 1
}

fn seat<'a>(situation: &Situation<'a>, member: &'a Member, memory: &mut Memory, rng: &mut Rng) -> Seat<'a> {
    let Situation { own, settings, now, .. } = *situation;
    let hint = situation.hint(member.node);
    let given_up = settings.replace_dead_after;
    let missing = Condition::Missing(member.node);
    let is_missing = hint.is_none();
    let long_missing = memory.has_held(missing, is_missing, given_up, now, rng);
    // Whoever asks is alive, whatever gossip says.
    let health = if member.node == own.node { Some(Health::Alive) } else { hint.map(|hint| hint.health) };
    let state = match health {
        Some(Health::Alive) => SeatState::Alive,
        Some(Health::Dead { since }) if now.since(since) >= given_up => {
            SeatState::Lost { silent_for: now.since(since) }
        }
        Some(Health::Suspect | Health::Dead { .. }) => SeatState::Doubtful,
        None if long_missing => SeatState::Lost { silent_for: given_up },
        None => SeatState::Doubtful,
    };
    Seat { member, hint, state }
}
