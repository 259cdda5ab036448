//! What gossip says about the nodes of the cluster.

use super::Action;
use crate::rng::Rng;
use crate::time::Instant;
use crate::types::NodeId;
use std::collections::BTreeSet;
use std::time::Duration;

/// Whether a node answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// It does.
    Alive,
    /// It was silent of late. It is neither counted on nor replaced.
    Suspect,
    /// It has been taken for dead.
    Dead {
        /// Since when, on the clock of the node that judges.
        since: Instant,
    },
}

/// What is known of a node. A hint: nothing depends on its being true but how well things are placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeHint {
    /// The node.
    pub node: NodeId,
    /// Where it listens for peers.
    pub address: String,
    /// What fails together with it: a rack, a room, a region. Empty if that was not set: then it shares nothing.
    pub zone: String,
    /// The mean round trip from it to the nodes of some zones.
    pub round_trips: Vec<(String, Duration)>,
    /// Whether it answers.
    pub health: Health,
    /// How long it has been up. Of nodes with heavy-tailed lifetimes those up for longest live longest.
    pub age: Duration,
    /// How busy it is, in thousandths of what it can do, by its scarcest resource.
    pub load_permille: u32,
    /// Operations it answers.
    pub operations_per_second: u64,
    /// Replicas it hosts: with those that still catch up, without those whose leaders on this very node have ordered that they
    /// move away.
    pub replicas: u32,
    /// Of those, the ones that still catch up.
    pub incoming: u32,
    /// Replicas that lead their group.
    pub leaders: u32,
    /// Whether it is to be emptied.
    pub draining: bool,
    /// Free space for data.
    pub free_disk_bytes: u64,
    /// When this was told.
    pub told: Instant,
}

impl NodeHint {
    /// Whether work may be given to it at all.
    #[must_use]
    pub fn usable(&self) -> bool {
        match self.health {
            Health::Alive => !self.draining,
            Health::Suspect | Health::Dead { .. } => false,
        }
    }

    /// The round trip to another node, as far as either has told how far the other's zone is. None is known within what has no
    /// name.
    #[must_use]
    pub fn round_trip(&self, other: &Self) -> Option<Duration> {
        let to = |from: &Self, to: &Self| {
            let named = !to.zone.is_empty();
            from.round_trips.iter().find(|(zone, _)| named && *zone == to.zone).map(|(_, round_trip)| *round_trip)
        };
        match (to(self, other), to(other, self)) {
            (Some(there), Some(back)) => Some((there + back) / 2),
            (one, other) => one.or(other),
        }
    }

    /// Whether the two are known to fail together.
    #[must_use]
    pub fn shares_zone(&self, other: &Self) -> bool {
        !self.zone.is_empty() && self.zone == other.zone
    }
}

/// The nodes of the cluster, by id.
#[derive(Clone, Default, Debug)]
pub struct Nodes {
    hints: Vec<NodeHint>,
    fewest_replicas: Option<u32>,
    least_load_permille: Option<u32>,
    median_lifetime: Option<Duration>,
}

impl Nodes {
    /// Takes the hints; of two about one node the first is kept.
    #[must_use]
    pub fn new(mut hints: Vec<NodeHint>) -> Self {
        hints.sort_by_key(|hint| hint.node);
        hints.dedup_by_key(|hint| hint.node);
        let median_lifetime = median_lifetime(&hints);
        let mut nodes = Self { hints, median_lifetime, ..Self::default() };
        nodes.sum_up();
        nodes
    }

    fn sum_up(&mut self) {
        let usable = || self.hints.iter().filter(|hint| hint.usable());
        let (fewest, least) = (usable().map(|hint| hint.replicas).min(), usable().map(|hint| hint.load_permille).min());
        self.fewest_replicas = fewest;
        self.least_load_permille = least;
    }

    /// All of them, by id.
    #[must_use]
    pub fn hints(&self) -> &[NodeHint] {
        &self.hints
    }

    /// What is known of a node.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<&NodeHint> {
        self.index(node).map(|index| &self.hints[index])
    }

    fn index(&self, node: NodeId) -> Option<usize> {
        self.hints.binary_search_by_key(&node, |hint| hint.node).ok()
    }

    /// The fewest replicas on any usable node.
    #[must_use]
    pub fn fewest_replicas(&self) -> Option<u32> {
        self.fewest_replicas
    }

    /// The least load of any usable node.
    #[must_use]
    pub fn least_load_permille(&self) -> Option<u32> {
        self.least_load_permille
    }

    /// The median lifetime that the deaths seen speak for, if any were seen: if lifetimes are exponential, the likeliest
    /// rate is deaths by the time that all nodes lived together, and the median is `ln 2` over it.
    #[must_use]
    pub fn median_lifetime(&self) -> Option<Duration> {
        self.median_lifetime
    }

    /// Notes what an order of this node's own will do to the others, until they tell themselves. Without it, all groups
    /// that one node leads would see the same idle node, and send it everything before it says that it is full.
    pub fn anticipate(&mut self, leader: NodeId, action: &Action) {
        let mut change = |node, change: fn(&mut NodeHint)| {
            if let Some(index) = self.index(node) {
                change(&mut self.hints[index]);
            }
        };
        match action {
            Action::ChangeMembers { add, remove } => {
                for (node, _) in add {
                    change(*node, |hint| {
                        hint.replicas += 1;
                        hint.incoming += 1;
                    });
                }
                for node in remove {
                    change(*node, |hint| hint.replicas = hint.replicas.saturating_sub(1));
                }
            }
            Action::TransferLeader { to } => {
                change(*to, |hint| hint.leaders += 1);
                change(leader, |hint| hint.leaders = hint.leaders.saturating_sub(1));
            }
            Action::Split { .. } | Action::Merge { .. } | Action::Repartition { .. } | Action::Nothing => return,
        }
        self.sum_up();
    }

    /// Up to `most` nodes that fit, drawn by chance. If nodes are many, only some are looked at, unless hardly any of those
    /// fits and one is `needed`. Who merely could do with one should not look further: all who do would find the same few.
    pub(super) fn sample(
        &self,
        most: usize,
        needed: bool,
        rng: &mut Rng,
        fits: impl Fn(&NodeHint) -> bool,
    ) -> Vec<&NodeHint> {
        const LOOKS: usize = 4;
        let count = self.hints.len();
        if count > LOOKS * most {
            let mut drawn = BTreeSet::new();
            for _ in 0..LOOKS * most {
                drawn.insert(below(rng, count));
            }
            let found: Vec<_> =
                drawn.into_iter().map(|index| &self.hints[index]).filter(|hint| fits(hint)).take(most).collect();
            if found.len() > 1 || !needed {
                return found;
            }
        }
        let mut found: Vec<_> = self.hints.iter().filter(|hint| fits(hint)).collect();
        for index in 0..most.min(found.len()) {
            let other = index + below(rng, found.len() - index);
            found.swap(index, other);
        }
        found.truncate(most);
        found
    }
}

/// A number below `bound`, which is not zero.
pub(super) fn below(rng: &mut Rng, bound: usize) -> usize {
    // The remainder of a 64-bit draw is below the bound, which fits.
    usize::try_from(rng.next() % bound.max(1) as u64).unwrap_or(0)
}

fn median_lifetime(hints: &[NodeHint]) -> Option<Duration> {
    let dead = |hint: &&NodeHint| matches!(hint.health, Health::Dead { .. });
    let deaths = hints.iter().filter(dead).count();
    let lived: f64 = hints.iter().map(|hint| hint.age.as_secs_f64()).sum();
    (deaths > 0 && lived > 0.0)
        .then(|| Duration::try_from_secs_f64(std::f64::consts::LN_2 * lived / deaths as f64).ok())?
}
