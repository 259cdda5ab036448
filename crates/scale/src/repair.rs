//! A tenth of the nodes vanishes for good. How long until every group has its target size again?
//!
//! Every leader decides on its own by the real policies, from hints about the others that are up to [`HINT_TICKS`] old and the
//! same for all. What is modelled: a death is known after [`DETECTION`]; a group that lost its leader has another one within a
//! tick; a node that already takes in as many replicas as it may refuses more, and the order fails; a newcomer catches up at
//! a rate that it shares with the others that come to its node. Members are placed by chance at first, so the policies are
//! given some time to even that out before anybody dies.

use crate::lookups::Hops;
use crate::memory::hint;
use crate::world::{Shape, below, configuration, draw_members, index, ring};
use scatter_core::group::Descriptor;
use scatter_core::policy::{
    Action, Budget, Busy, GroupFacts, GroupLoad, Health, Memory, Neighbour, NodeHint, Nodes, Outcome, Reason,
    RoundTrips, Settings, Situation, decide, incoming_limit,
};
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_secs(1);
/// From a death to everybody's taking the node for dead.
pub(crate) const DETECTION: Duration = Duration::from_secs(5);
/// How often a node tells of its load, each at its own time.
pub(crate) const HINT_TICKS: u64 = 60;
/// How often a leader decides about each of its groups.
pub(crate) const DECIDE_TICKS: u64 = 5;
/// How fast a node takes in data.
pub(crate) const CATCH_UP_BYTES_PER_SECOND: u64 = 100 << 20;
/// What each group holds.
pub(crate) const GROUP_BYTES: u64 = 256 << 20;
/// What a change of members takes beside copying.
const CHANGE: Duration = Duration::from_secs(1);
/// How long the cluster has to even out how it was placed.
pub(crate) const BEFORE: Duration = Duration::from_secs(900);
/// How long the model goes on when all is repaired, to see whether anything is still moved about.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(300);
/// When it gives up.
const LIMIT: Duration = Duration::from_secs(1800);

/// Group loss: what the model's formula says, and what happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lost {
    pub(crate) size: usize,
    pub(crate) expected: f64,
    pub(crate) found: f64,
}

/// How the repair went.
#[derive(Clone, Debug)]
pub(crate) struct Repair {
    pub(crate) vanished: usize,
    pub(crate) without_majority: usize,
    pub(crate) short: usize,
    pub(crate) replicas_rebuilt: usize,
    /// Seconds after the deaths, and how many groups were below the target size then.
    pub(crate) curve: Vec<(f64, usize)>,
    /// When half, 99 % and all of those groups had their size again.
    pub(crate) half_seconds: f64,
    pub(crate) most_seconds: f64,
    pub(crate) all_seconds: Option<f64>,
    /// Orders before the deaths, from then to the end of the repair, and in the aftermath, by reason.
    pub(crate) orders: [Orders; 3],
    /// Of those, the ones that were refused by a node that took in enough already.
    pub(crate) refused: [usize; 3],
    pub(crate) placed: (Hops, Hops),
    pub(crate) zones_shared: usize,
    pub(crate) replicas: Hops,
    pub(crate) leaders: Hops,
    pub(crate) losses: Vec<Lost>,
}

/// How many orders were given for which reason.
pub(crate) type Orders = BTreeMap<&'static str, usize>;

struct Group {
    descriptor: Descriptor,
    leader: usize,
    memory: Memory,
    under_way: Option<(Instant, Action)>,
}

struct Cluster {
    shape: Shape,
    settings: Settings,
    groups: Vec<Group>,
    /// Who vanishes, and who has.
    doomed: Vec<bool>,
    vanished: Vec<bool>,
    replicas: Vec<u32>,
    leaders: Vec<u32>,
    hints: Vec<NodeHint>,
    budgets: Vec<Budget>,
    incoming: Vec<u32>,
    died: Option<Instant>,
    now: Instant,
    nodes: Nodes,
    rng: Rng,
    refused: usize,
    rebuilt: usize,
}

pub(crate) fn run(shape: &Shape) -> Repair {
    let mut cluster = Cluster::new(shape);
    let mut orders = [Orders::new(), Orders::new(), Orders::new()];
    for _ in 0..BEFORE.as_secs() {
        cluster.tick(&mut orders[0]);
    }
    let placed = (cluster.counts(&cluster.replicas), cluster.counts(&cluster.leaders));
    let refused_before = std::mem::take(&mut cluster.refused);
    cluster.rebuilt = 0;
    cluster.vanished = cluster.doomed.clone();
    let died = cluster.now;
    cluster.died = Some(died);
    let groups = cluster.groups.len();
    let without_majority = (0..groups).filter(|group| !cluster.has_majority(*group)).count();
    let short = |cluster: &Cluster| (0..groups).filter(|group| cluster.is_short(*group)).count();
    let mut curve = vec![(0.0, short(&cluster))];
    let mut all_seconds = None;
    while cluster.now.since(died) < LIMIT {
        cluster.tick(&mut orders[1]);
        let (elapsed, left) = (cluster.now.since(died).as_secs_f64(), short(&cluster));
        curve.push((elapsed, left));
        if left == 0 {
            all_seconds = Some(elapsed);
            break;
        }
    }
    let (refused, rebuilt) = (std::mem::take(&mut cluster.refused), cluster.rebuilt);
    for _ in 0..AFTERMATH.as_secs() {
        cluster.tick(&mut orders[2]);
    }
    let reached = |share: f64| {
        let goal = curve[0].1 as f64 * share;
        curve.iter().find(|(_, left)| *left as f64 <= goal).map_or(LIMIT.as_secs_f64(), |(at, _)| *at)
    };
    Repair {
        vanished: cluster.vanished.iter().filter(|vanished| **vanished).count(),
        without_majority,
        short: curve[0].1,
        replicas_rebuilt: rebuilt,
        half_seconds: reached(0.5),
        most_seconds: reached(0.01),
        all_seconds,
        orders,
        refused: [refused_before, refused, cluster.refused],
        placed,
        zones_shared: cluster.zones_shared(),
        replicas: cluster.counts(&cluster.replicas),
        leaders: cluster.counts(&cluster.leaders),
        losses: losses(shape),
        curve,
    }
}

impl Cluster {
    fn new(shape: &Shape) -> Self {
        let groups: Vec<Group> = ring(shape, shape.groups, shape.size)
            .into_iter()
            .map(|descriptor| Group {
                leader: descriptor.leader.map_or(0, |leader| index(leader.0)),
                descriptor: Arc::unwrap_or_clone(descriptor),
                memory: Memory::default(),
                under_way: None,
            })
            .collect();
        let (mut replicas, mut leaders) = (vec![0_u32; shape.nodes], vec![0_u32; shape.nodes]);
        for group in &groups {
            leaders[group.leader] += 1;
            for member in &group.descriptor.configuration.members {
                replicas[index(member.node.0)] += 1;
            }
        }
        Self {
            shape: shape.clone(),
            settings: Settings { target_size: shape.size, ..Settings::default() },
            groups,
            doomed: doomed(shape),
            vanished: vec![false; shape.nodes],
            hints: (0..shape.nodes).map(|node| hint(shape, node, replicas[node], leaders[node])).collect(),
            replicas,
            leaders,
            budgets: vec![Budget::default(); shape.nodes],
            incoming: vec![0; shape.nodes],
            died: None,
            now: Instant(0).after(Duration::from_secs(100_000)),
            nodes: Nodes::default(),
            rng: Rng::new(shape.seed ^ 4),
            refused: 0,
            rebuilt: 0,
        }
    }

    fn has_majority(&self, group: usize) -> bool {
        let members = &self.groups[group].descriptor.configuration.members;
        let alive = members.iter().filter(|member| !self.vanished[index(member.node.0)]).count();
        alive > members.len() / 2
    }

    /// Whether a group that could be whole is not.
    fn is_short(&self, group: usize) -> bool {
        let members = &self.groups[group].descriptor.configuration.members;
        let alive = members.iter().filter(|member| !self.vanished[index(member.node.0)]).count();
        alive > members.len() / 2 && (alive < members.len() || alive < self.settings.target_size)
    }

    /// Something counted by node, over those that live.
    fn counts(&self, counted: &[u32]) -> Hops {
        let living = counted.iter().zip(&self.vanished).filter(|(_, vanished)| !**vanished);
        Hops::of(living.map(|(count, _)| *count as usize).collect())
    }

    fn zones_shared(&self) -> usize {
        let zone = |node: NodeId| index(node.0) % self.shape.zones;
        let shares = |group: &&Group| {
            let mut zones: Vec<_> =
                group.descriptor.configuration.members.iter().map(|member| zone(member.node)).collect();
            zones.sort_unstable();
            zones.windows(2).any(|pair| pair[0] == pair[1])
        };
        self.groups.iter().filter(shares).count()
    }

    /// A node as it knows itself.
    fn own_hint(&self, node: usize) -> NodeHint {
        let mut own = self.hints[node].clone();
        (own.replicas, own.incoming) = (self.replicas[node], self.incoming[node]);
        (own.leaders, own.told) = (self.leaders[node], self.now);
        own
    }

    /// Those whose turn it is tell of themselves, and everybody hears of the dead.
    fn gossip(&mut self) {
        let tick = self.now.since(Instant(0)).as_secs();
        let known = self.died.filter(|died| self.now.since(*died) >= DETECTION);
        for node in 0..self.shape.nodes {
            if self.vanished[node] {
                if let Some(died) = known {
                    self.hints[node].health = Health::Dead { since: died.after(DETECTION) };
                }
            } else if (node as u64 + tick).is_multiple_of(HINT_TICKS) {
                self.hints[node] = self.own_hint(node);
            }
        }
        self.nodes = Nodes::new(self.hints.clone());
    }

    fn tick(&mut self, orders: &mut Orders) {
        self.now = self.now.after(TICK);
        for group in 0..self.groups.len() {
            self.finish(group);
            if self.vanished[self.groups[group].leader] && self.has_majority(group) {
                self.elect(group);
            }
        }
        self.gossip();
        let tick = self.now.since(Instant(0)).as_secs();
        for group in 0..self.groups.len() {
            let turn = (group as u64 + tick).is_multiple_of(DECIDE_TICKS);
            if turn && !self.vanished[self.groups[group].leader] && self.has_majority(group) {
                self.decide(group, orders);
            }
        }
    }

    fn lead(&mut self, group: usize, leader: usize) {
        let group = &mut self.groups[group];
        self.leaders[group.leader] -= 1;
        self.leaders[leader] += 1;
        group.leader = leader;
        group.memory = Memory::default();
    }

    fn elect(&mut self, group: usize) {
        let members = &self.groups[group].descriptor.configuration.members;
        let alive: Vec<usize> =
            members.iter().map(|member| index(member.node.0)).filter(|node| !self.vanished[*node]).collect();
        let leader = alive[below(&mut self.rng, alive.len())];
        self.lead(group, leader);
    }

    fn decide(&mut self, group: usize, orders: &mut Orders) {
        let count = self.groups.len();
        let load = GroupLoad { keys: 100_000, bytes: GROUP_BYTES, operations_per_second: 1000 };
        let neighbour = |index: usize| {
            let descriptor = &self.groups[index % count].descriptor;
            Neighbour { group: descriptor.group, members: &descriptor.configuration.members, load: Some(load) }
        };
        let of = &self.groups[group];
        let facts = GroupFacts {
            descriptor: &of.descriptor,
            load,
            busy: of.under_way.as_ref().map(|_| Busy::ChangingMembers),
            predecessor: neighbour(group + count - 1),
            successor: neighbour(group + 1),
            round_trips: &RoundTrips::default(),
        };
        let mut memory = of.memory.clone();
        let (leader, budget) = (of.leader, &self.budgets[of.leader]);
        let situation = Situation {
            group: &facts,
            own: &self.own_hint(leader),
            nodes: &self.nodes,
            settings: &self.settings,
            budget,
            now: self.now,
        };
        let first = decide(&situation, &mut memory, &mut self.rng).into_iter().next();
        self.groups[group].memory = memory;
        let Some(proposal) = first.filter(|proposal| proposal.action.is_order()) else { return };
        *orders.entry(proposal.reason.name()).or_default() += 1;
        self.budgets[leader].take(&self.settings, self.now);
        let needed = matches!(proposal.reason, Reason::MemberLost { .. } | Reason::BelowTarget { .. });
        self.begin(group, proposal.action, needed);
    }

    fn begin(&mut self, group: usize, action: Action, needed: bool) {
        self.groups[group].memory.started();
        let takes = match &action {
            Action::ChangeMembers { add, .. } => {
                let full = |(node, _): &(NodeId, String)| {
                    let node = index(node.0);
                    self.vanished[node] || self.incoming[node] >= incoming_limit(&self.settings, needed)
                };
                if add.iter().any(full) {
                    self.refused += 1;
                    self.groups[group].memory.ended(Outcome::Refused, &self.settings, self.now, &mut self.rng);
                    return;
                }
                let mut longest = Duration::ZERO;
                for (node, _) in add {
                    let node = index(node.0);
                    self.incoming[node] += 1;
                    self.replicas[node] += 1;
                    let bytes = GROUP_BYTES * u64::from(self.incoming[node]);
                    longest = longest.max(Duration::from_secs_f64(bytes as f64 / CATCH_UP_BYTES_PER_SECOND as f64));
                }
                CHANGE + longest
            }
            Action::TransferLeader { .. } => Duration::ZERO,
            Action::Split { .. } | Action::Merge { .. } | Action::Repartition { .. } | Action::Nothing => CHANGE,
        };
        self.own_departure(group, &action, true);
        self.groups[group].under_way = Some((self.now.after(takes), action));
    }

    /// A leader that has ordered its own replica away counts it no more.
    fn own_departure(&mut self, group: usize, action: &Action, goes: bool) {
        let leader = self.groups[group].leader;
        if let Action::ChangeMembers { remove, .. } = action
            && remove.contains(&NodeId(leader as u64))
        {
            if goes { self.replicas[leader] -= 1 } else { self.replicas[leader] += 1 }
        }
    }

    fn finish(&mut self, group: usize) {
        let due = |(at, _): &(Instant, Action)| *at <= self.now;
        if !self.groups[group].under_way.as_ref().is_some_and(due) {
            return;
        }
        let Some((_, action)) = self.groups[group].under_way.take() else { return };
        self.own_departure(group, &action, false);
        let succeeded = match action {
            Action::ChangeMembers { add, remove } => self.change(group, &add, &remove),
            Action::TransferLeader { to } => {
                let alive = !self.vanished[index(to.0)];
                if alive {
                    self.lead(group, index(to.0));
                }
                alive
            }
            // The load here gives no cause for these.
            Action::Split { .. } | Action::Merge { .. } | Action::Repartition { .. } | Action::Nothing => false,
        };
        let outcome = if succeeded { Outcome::Done } else { Outcome::Failed };
        self.groups[group].memory.ended(outcome, &self.settings, self.now, &mut self.rng);
    }

    fn change(&mut self, group: usize, add: &[(NodeId, String)], remove: &[NodeId]) -> bool {
        for (node, _) in add {
            self.incoming[index(node.0)] -= 1;
        }
        if add.iter().any(|(node, _)| self.vanished[index(node.0)]) {
            add.iter().for_each(|(node, _)| self.replicas[index(node.0)] -= 1);
            return false;
        }
        remove.iter().for_each(|node| self.replicas[index(node.0)] -= 1);
        self.rebuilt += add.len();
        let of = &mut self.groups[group];
        let staying = of.descriptor.configuration.members.iter().map(|member| member.node);
        let members = staying.filter(|node| !remove.contains(node)).chain(add.iter().map(|(node, _)| *node));
        let members: Vec<usize> = members.map(|node| index(node.0)).collect();
        let version = of.descriptor.configuration.version.next();
        of.descriptor.configuration = configuration(&members);
        of.descriptor.configuration.version = version;
        if !members.contains(&of.leader) {
            self.elect(group);
        }
        true
    }
}

/// Which nodes vanish: one in ten, by chance.
fn doomed(shape: &Shape) -> Vec<bool> {
    let mut rng = Rng::new(shape.seed ^ 5);
    let mut vanished = vec![false; shape.nodes];
    let mut left = shape.nodes / 10;
    while left > 0 {
        let node = below(&mut rng, shape.nodes);
        if !std::mem::replace(&mut vanished[node], true) {
            left -= 1;
        }
    }
    vanished
}

/// How many groups of several sizes lose their majority at once, by the formula that the policies show and by the draw here.
fn losses(shape: &Shape) -> Vec<Lost> {
    let vanished = doomed(shape);
    let lifetime = Duration::from_secs(1_000_000);
    // The time in which one in ten dies: half do in a median lifetime.
    let window = lifetime.mul_f64(-(0.9_f64.log2()));
    [3, 5, 7]
        .into_iter()
        .filter(|size| *size <= shape.zones)
        .map(|size| {
            let mut rng = Rng::new(shape.seed ^ 6);
            let lost = (0..shape.groups)
                .filter(|_| {
                    let members = draw_members(shape, size, &mut rng);
                    members.iter().filter(|node| !vanished[**node]).count() <= size / 2
                })
                .count();
            let expected = scatter_core::policy::loss::loss_probability(size, lifetime, window);
            Lost { size, expected, found: lost as f64 / shape.groups as f64 }
        })
        .collect()
}
