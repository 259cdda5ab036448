//! What a group should do next: replicated state and hints in, proposals out.
//!
//! ```text
//!  replicated state        hints by gossip          settings     damping so far
//!  (own group, links)      (alive, zone, load …)                 (Memory, Budget)
//!          \                     |                     |               /
//!           `------------------- decide(now, rng) --------------------´
//!                                   |
//!               proposals, the most urgent first, each with its reason
//! ```
//!
//! The leader of a group asks [`decide`] now and then, about its own group alone, and carries out the first proposal if it
//! is an order. Nothing here is trusted with safety: a proposal goes the way of an operator's order, is checked again where
//! it is carried out, and may fail. Hints may be stale or wrong; what that can cost is a needless move.
//!
//! Three policies propose, in this order:
//!
//! 1. [`resilience`]: enough members, alive, in distinct zones, off draining nodes;
//! 2. [`load`]: hot groups split, cold ones merge, boundaries, replicas and leaders move to where there is room;
//! 3. [`latency`]: the leader sits where round trips are short.
//!
//! Four things keep them from working against each other, or against their like in other groups. A condition must *hold*
//! for a while, and a little longer by chance, so that not everybody acts at once. What a threshold sets off leaves its
//! measure well inside the opposite threshold (*hysteresis*). A group rests after each operation. And the leaders on one
//! node share a [`Budget`], the last part of which is kept for repairs.

mod facts;
pub mod latency;
pub mod load;
pub mod loss;
mod median;
mod memory;
mod nodes;
mod place;
mod reason;
pub mod resilience;
mod roster;
mod settings;

pub use facts::{Busy, GroupFacts, GroupLoad, Measure, Neighbour, RoundTrips, Side};
pub use median::{SAMPLES, Sampler};
pub use memory::{Budget, Condition, Memory, Outcome};
pub use nodes::{Health, NodeHint, Nodes};
pub use place::incoming_limit;
pub use reason::Reason;
pub use settings::{Settings, SettingsError, Switches};

use crate::rng::Rng;
use crate::time::Instant;
use crate::types::{GroupId, NodeId};
use roster::Roster;

/// What a group may be told to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Change the members in one step.
    ChangeMembers {
        /// Nodes that become voters, with their peer addresses.
        add: Vec<(NodeId, String)>,
        /// Members that leave.
        remove: Vec<NodeId>,
    },
    /// Let another voter lead.
    TransferLeader {
        /// Who shall lead.
        to: NodeId,
    },
    /// Split where the measure is halved. Whoever carries it out finds the position, by [`Sampler::quantile`].
    Split {
        /// What is to be halved.
        by: Measure,
    },
    /// Take over all of the successor.
    Merge {
        /// Who is taken over.
        successor: GroupId,
    },
    /// Take over the adjoining part of a neighbour. Whoever carries it out finds the position, by [`Sampler::quantile`].
    Repartition {
        /// The side on which the own arc grows.
        toward: Side,
        /// What is to be balanced.
        by: Measure,
        /// How much of the neighbour's measure is to come over, in thousandths.
        take_permille: u16,
    },
    /// Nothing, though something would be due: the reason says what it waits for.
    Nothing,
}

impl Action {
    /// Whether there is something to carry out.
    #[must_use]
    pub fn is_order(&self) -> bool {
        *self != Self::Nothing
    }
}

/// What a policy wants, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Proposal {
    /// What to do.
    pub action: Action,
    /// Why. Recorded and shown.
    pub reason: Reason,
}

/// All that a decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The own group.
    pub group: &'a GroupFacts<'a>,
    /// The node that asks, as it knows itself: it leads the group.
    pub own: &'a NodeHint,
    /// What is known of the cluster's nodes.
    pub nodes: &'a Nodes,
    /// What the operator set.
    pub settings: &'a Settings,
    /// What this node's leaders did of late.
    pub budget: &'a Budget,
    /// The node's boot clock, which the hints' times are told in as well.
    pub now: Instant,
}

impl<'a> Situation<'a> {
    /// What is known of a node.
    fn hint(&self, node: NodeId) -> Option<&'a NodeHint> {
        if node == self.own.node { Some(self.own) } else { self.nodes.get(node) }
    }
}

/// What the group should do, the most urgent first. At most the first is to be carried out; whoever does so says so to
/// `memory` and the budget ([`Memory::started`], [`Memory::ended`], [`Budget::take`]).
///
/// A group that is busy proposes nothing, and what its load showed is forgotten: the operation changes it anyway. But a takeover
/// that is still being prepared gives way to the replacement of the dead, without whom it may never come about.
#[must_use]
pub fn decide(situation: &Situation<'_>, memory: &mut Memory, rng: &mut Rng) -> Vec<Proposal> {
    let Situation { group, settings, budget, now, .. } = *situation;
    if group.busy.is_some() {
        memory.forget_conditions();
    }
    if group.busy.is_some_and(|busy| busy != Busy::Aligning) {
        return Vec::new();
    }
    let roster = Roster::new(situation, memory, rng);
    if !memory.may_try(now) || !budget.allows(settings, now, true) || !roster.has_majority() {
        return Vec::new();
    }
    if group.busy.is_some() {
        let lost = settings.switches.resilience.then(|| resilience::replace_lost(situation, &roster, rng));
        return lost.flatten().filter(|proposal| proposal.action.is_order()).into_iter().collect();
    }
    let mut proposals = Vec::new();
    if settings.switches.resilience {
        proposals.extend(resilience::repair(situation, &roster, rng));
    }
    // Beside a repair nothing else is due: it changes what the rest would be judged by.
    let repairing = proposals.iter().any(|proposal| proposal.action.is_order());
    // How long a member is unheard of only this leader knows: if others came to lead again and again, nobody would ever
    // replace it.
    let stays = roster.waits_for_news();
    if repairing || stays || memory.rests(settings, now) || !budget.allows(settings, now, false) {
        return proposals;
    }
    if settings.switches.resilience {
        proposals.extend(resilience::tidy(situation, &roster, memory, rng));
    }
    proposals.extend(load::propose(situation, &roster, memory, rng));
    if settings.switches.latency {
        proposals.extend(latency::propose(situation, &roster, memory, rng));
    }
    // What is to be done goes before what is merely to be said.
    proposals.sort_by_key(|proposal| !proposal.action.is_order());
    proposals
}

#[cfg(test)]
mod tests;
