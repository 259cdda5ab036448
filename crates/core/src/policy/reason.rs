//! Why a policy wants something, as it is recorded and shown.

use super::facts::{Measure, Side};
use super::loss::Loss;
use crate::types::{GroupId, NodeId};
use std::fmt;
use std::time::Duration;

/// Why. [`Reason::name`] is for counters and filters, `Display` for people.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "each field is what the sentence in `Display` says of it")]
pub enum Reason {
    /// A member has been dead for the time set.
    MemberLost { node: NodeId, silent_for: Duration, loss: Loss },
    /// There are too few members.
    BelowTarget { size: usize, target: usize, loss: Loss },
    /// A member's node is to be emptied.
    Draining { node: NodeId },
    /// The leader's own node is to be emptied.
    LeaderDraining { node: NodeId },
    /// A learner is left from a change that failed.
    LeftoverLearner { node: NodeId },
    /// Members fail together, and need not.
    ZoneShared { zone: String },
    /// There are too many members.
    Surplus { size: usize, target: usize },
    /// The members are to be shared out between two groups that came from one.
    Twin { neighbour: GroupId },
    /// A member serves more groups than a node should.
    Shared { node: NodeId, replicas: u32, limit: u32 },
    /// Nobody can fill the successor.
    ThinSuccessor { size: usize, minimum: usize },
    /// The group can take no more members.
    AtMaximum { size: usize, maximum: usize },
    /// A node has nothing to do.
    JoiningNode { node: NodeId },
    /// The group does or holds too much.
    Hot { by: Measure, value: u64, threshold: u64 },
    /// The group and its successor do and hold little.
    Cold { bytes: u64, operations_per_second: u64 },
    /// A neighbour does or holds far more; both in thousandths of what is split.
    Unequal { side: Side, own_permille: u64, neighbour_permille: u64 },
    /// A member's node hosts more replicas.
    Fuller { from: NodeId, from_replicas: u32, to: NodeId, to_replicas: u32 },
    /// A member's node is busier.
    Busier { from: NodeId, from_permille: u32, to: NodeId, to_permille: u32 },
    /// The own node leads more groups.
    TopHeavy { leaders_here: u32, leaders_there: u32 },
    /// The own node leads more load.
    BusierLeader { here_permille: u32, there_permille: u32 },
    /// Another member reaches the others, and clients reach it, sooner.
    Nearer { here: Duration, there: Duration },
    /// Held back: no node fits.
    NoCandidate { wanted: usize },
    /// Held back: too few members would be left.
    TooSmall { left: usize, least: usize },
    /// Held back: those left would have no majority that answers.
    NoMajorityLeft,
}

impl Reason {
    /// One word for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::MemberLost { .. } => "member_lost",
            Self::BelowTarget { .. } => "below_target",
            Self::Draining { .. } => "draining",
            Self::LeaderDraining { .. } => "leader_draining",
            Self::LeftoverLearner { .. } => "leftover_learner",
            Self::ZoneShared { .. } => "zone_shared",
            Self::Surplus { .. } => "surplus",
            Self::Twin { .. } => "twin",
            Self::Shared { .. } => "shared",
            Self::ThinSuccessor { .. } => "thin_successor",
            Self::AtMaximum { .. } => "at_maximum",
            Self::JoiningNode { .. } => "joining_node",
            Self::Hot { .. } => "hot",
            Self::Cold { .. } => "cold",
            Self::Unequal { .. } => "unequal",
            Self::Fuller { .. } => "fuller",
            Self::Busier { .. } => "busier",
            Self::TopHeavy { .. } => "top_heavy",
            Self::BusierLeader { .. } => "busier_leader",
            Self::Nearer { .. } => "nearer",
            Self::NoCandidate { .. } => "no_candidate",
            Self::TooSmall { .. } => "too_small",
            Self::NoMajorityLeft => "no_majority_left",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemberLost { node, silent_for, loss } => {
                write!(f, "node {node} has been dead for {} s; {loss}", silent_for.as_secs())
            }
            Self::BelowTarget { size, target, loss } => write!(f, "{size} members of {target}; {loss}"),
            Self::Draining { node } => write!(f, "node {node} is to be emptied"),
            Self::LeaderDraining { node } => write!(f, "node {node} leads and is to be emptied"),
            Self::LeftoverLearner { node } => write!(f, "node {node} only learns, and no change is under way"),
            Self::ZoneShared { zone } => write!(f, "more than one member is in zone {zone}, and need not be"),
            Self::Surplus { size, target } => write!(f, "{size} members are more than {target}"),
            Self::Twin { neighbour } => {
                write!(f, "group {neighbour} came from the same split and has the same members")
            }
            Self::Shared { node, replicas, limit } => {
                write!(f, "node {node} hosts {replicas} replicas, more than {limit}")
            }
            Self::ThinSuccessor { size, minimum } => {
                write!(f, "the successor has {size} members, fewer than {minimum}, and nobody fills it")
            }
            Self::AtMaximum { size, maximum } => write!(f, "{size} members; at most {maximum} serve one group"),
            Self::JoiningNode { node } => write!(f, "node {node} has nothing to do"),
            Self::Hot { by: Measure::Operations, value, threshold } => {
                write!(f, "{value} operations/s are more than {threshold}")
            }
            Self::Hot { by: Measure::Bytes, value, threshold } => write!(f, "{value} bytes are more than {threshold}"),
            Self::Cold { bytes, operations_per_second } => {
                write!(f, "with the successor only {bytes} bytes and {operations_per_second} operations/s")
            }
            Self::Unequal { side, own_permille, neighbour_permille } => {
                let side = match side {
                    Side::Predecessor => "predecessor",
                    Side::Successor => "successor",
                };
                write!(f, "the {side} is at {neighbour_permille} ‰ of a split, this group at {own_permille} ‰")
            }
            Self::Fuller { from, from_replicas, to, to_replicas } => {
                write!(f, "node {from} hosts {from_replicas} replicas, node {to} only {to_replicas}")
            }
            Self::Busier { from, from_permille, to, to_permille } => {
                write!(f, "node {from} is {from_permille} ‰ busy, node {to} only {to_permille} ‰")
            }
            Self::TopHeavy { leaders_here, leaders_there } => {
                write!(f, "this node leads {leaders_here} groups, the other {leaders_there}")
            }
            Self::BusierLeader { here_permille, there_permille } => {
                write!(f, "this node is {here_permille} ‰ busy, the other {there_permille} ‰")
            }
            Self::Nearer { here, there } => {
                write!(f, "round trips of {} µs instead of {} µs", there.as_micros(), here.as_micros())
            }
            Self::NoCandidate { wanted } => write!(f, "{wanted} nodes are wanted, and none fits"),
            Self::TooSmall { left, least } => write!(f, "{left} members would be left, fewer than {least}"),
            Self::NoMajorityLeft => f.write_str("those left would have no majority that answers"),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, median_lifetime, repair_time, probability } = self;
        let (lifetime, repair) = (median_lifetime.as_secs(), repair_time.as_secs());
        write!(
            f,
            "at a median lifetime of {lifetime} s, {size} members lose their majority within one repair of {repair} s with \
             probability {probability:.1e}"
        )
    }
}
