//! Groups that look after themselves: each host's leaders decide now and then what their group should do, and order it.

use crate::history::Time;
use crate::host::{Asked, Process};
use crate::invariants::{Checked, voters};
use crate::plan::{MILLISECOND, Plan, SECOND};
use crate::random::Random;
use crate::world::{Event, World};
use scatter_core::effects::Reply;
use scatter_core::group::{GroupState, Link, middle};
use scatter_core::input::Input;
use scatter_core::ops::order::{Order, Side as From};
use scatter_core::policy::{
    Action, Budget, GroupFacts, GroupLoad, Measure, Memory, Neighbour, Nodes, Outcome, Proposal, RoundTrips, Sampler,
    Settings, Side, Situation, Switches, decide,
};
use scatter_core::ring::Position;
use scatter_core::rng::Rng;
use scatter_core::store::Store;
use scatter_core::time::Instant;
use scatter_core::types::{GroupId, NodeId};
use scatter_gossip::Load;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most keys that are looked at to find the middle of a group.
const MOST_KEYS: usize = 1_000;

/// By what rules groups look after themselves, in a plan.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The policies'.
    pub settings: Settings,
    /// The gossip's.
    pub gossip: scatter_gossip::Settings,
    /// How often leaders decide.
    pub period: Time,
    /// How many zones the hosts lie in; none if that is not told.
    pub zones: usize,
    /// How many operations a second a node takes itself for able to answer.
    pub capacity: u64,
    /// Whether leaders know how long messages take.
    pub round_trips: bool,
}

impl Rules {
    /// Rules whose times fit into a run, and whose thresholds the workload reaches.
    pub(crate) fn draw(random: &mut Random, plan: &Plan) -> Self {
        let span = |random: &mut Random, least, most| Duration::from_millis(random.spread(least, most));
        let target_size = if plan.hosts >= 6 && random.permille(250) { 5 } else { 3 };
        let bytes = u64::from(plan.keys) * (plan.value_bytes as u64 / 2 + 10);
        let workers = (plan.sessions * plan.lanes) as u64;
        let operations = workers * SECOND / (plan.think / 2 + 30 * MILLISECOND);
        let split_bytes = bytes / random.between(1, 8) + 2;
        let split_operations_per_second = operations / random.between(1, 8) + 2;
        let settings = Settings {
            switches: Switches { latency: random.permille(500), ..Switches::ON },
            target_size,
            min_size: target_size - random.index(2),
            max_size: 7,
            replace_dead_after: span(random, 1_000, 6_000),
            reserved_disk_bytes: 0,
            max_incoming_per_node: random.between(1, 4) as u32,
            split_bytes,
            split_operations_per_second,
            merge_bytes: split_bytes / random.between(2, 4),
            merge_operations_per_second: split_operations_per_second / random.between(2, 4),
            damping: span(random, 200, 2_000),
            merge_damping: span(random, 500, 4_000),
            cool_down: span(random, 200, 3_000),
            retry: span(random, 200, 1_000),
            retry_limit: Duration::from_secs(5),
            operations_per_node: random.between(2, 8) as usize,
            budget_window: span(random, 1_000, 4_000),
            ..Settings::default()
        };
        let forgetful = random.permille(300);
        let gossip = scatter_gossip::Settings {
            probe_period: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            suspect_for: span(random, 500, 2_000),
            forget_after: Duration::from_secs(if forgetful { 20 } else { 3_600 }),
            exchange_period: Duration::from_millis(500),
            contact_period: Duration::from_secs(2),
            ..scatter_gossip::Settings::default()
        };
        Self {
            settings,
            gossip,
            period: random.spread(200 * MILLISECOND, 2 * SECOND),
            zones: if random.permille(500) { random.between(2, 4) as usize } else { 0 },
            capacity: operations.max(10),
            round_trips: random.permille(500),
        }
    }
}

/// What is remembered of a group while it is led here.
#[derive(Debug, Default)]
struct Led {
    memory: Memory,
    /// An order of the policies is under way.
    ordered: bool,
}

/// What a process remembers of its policies.
#[derive(Debug)]
pub struct Policies {
    led: BTreeMap<GroupId, Led>,
    budget: Budget,
    rng: Rng,
    /// Where each group that is served here is read and written.
    samplers: BTreeMap<GroupId, Sampler>,
    /// Reads and writes since the rates were made.
    counts: BTreeMap<GroupId, u64>,
    rates: BTreeMap<GroupId, u64>,
    rated_at: Time,
    started: Instant,
}

impl Policies {
    /// Nothing is remembered.
    #[must_use]
    pub fn new(seed: u64, now: Time, started: Instant) -> Self {
        Self {
            led: BTreeMap::new(),
            budget: Budget::default(),
            rng: Rng::new(seed),
            samplers: BTreeMap::new(),
            counts: BTreeMap::new(),
            rates: BTreeMap::new(),
            rated_at: now,
            started,
        }
    }

    /// A group was asked for a position.
    pub fn used(&mut self, group: GroupId, position: &Position) {
        self.samplers.entry(group).or_default().record(position, &mut self.rng);
        *self.counts.entry(group).or_default() += 1;
    }

    /// How busy a group is, as far as this host answers for it.
    fn load(&self, state: &GroupState) -> GroupLoad {
        let operations_per_second = self.rates.get(&state.group).copied().unwrap_or_default();
        GroupLoad { keys: state.shown_keys(), bytes: state.shown_bytes(), operations_per_second }
    }

    /// Rates are made anew once a second.
    fn rate(&mut self, now: Time) {
        let took = now - self.rated_at;
        if took >= SECOND {
            self.rated_at = now;
            let counts = std::mem::take(&mut self.counts);
            self.rates = counts.into_iter().map(|(group, count)| (group, (count * SECOND).div_ceil(took))).collect();
        }
    }
}

impl World {
    /// How busy a host is, as it tells others.
    pub(crate) fn load_of(&self, host: usize) -> Load {
        let target = &self.hosts[host];
        let clock = target.clock.instant(self.now);
        let Some(process) = &target.process else { return Load::default() };
        let Some(policies) = &process.policies else { return Load::default() };
        let statuses = process.node.status(target.clock.now(self.now));
        let incoming = process.node.incoming();
        let leaders = statuses.iter().filter(|status| status.role == "leader").count();
        let bytes =
            statuses.iter().filter_map(|status| process.stage.state(status.replica.group)).map(GroupState::shown_bytes);
        Load {
            replicas: statuses.len() as u32,
            incoming: incoming as u32,
            leaders: leaders as u32,
            bytes: bytes.sum(),
            operations_per_second: policies.rates.values().sum(),
            free_disk_bytes: 1 << 40,
            uptime_seconds: clock.since(policies.started).as_secs(),
        }
    }

    /// The leaders on a host decide.
    ///
    /// # Errors
    /// The invariant that does not hold after what they order.
    pub(crate) fn policies_due(&mut self, host: usize) -> Checked {
        let Some(rules) = self.plan.policies.clone() else { return Ok(()) };
        let epoch = self.hosts[host].epoch;
        let next = self.now + rules.period / 2 + self.random.below(rules.period);
        self.at(next, Event::Policies(host, epoch));
        let now = self.now;
        if let Some(Process { node, stage, policies: Some(policies), .. }) = &mut self.hosts[host].process {
            policies.rate(now);
            for group in node.groups().collect::<Vec<_>>() {
                if let Some(state) = stage.state(group) {
                    node.note_load(group, policies.load(state));
                }
            }
        }
        self.gossip_tells(host);
        if self.policies_rest {
            return Ok(());
        }
        let proposals = self.decide_all(host, &rules);
        for (group, Proposal { action, reason }) in proposals {
            self.note([29, host as u64, group.0], || format!("host {host} wants of {group}: {action:?}: {reason}"));
            self.carry_out_action(host, group, action)?;
        }
        Ok(())
    }

    /// What the leaders on a host want, each the most urgent thing.
    fn decide_all(&mut self, host: usize, rules: &Rules) -> Vec<(GroupId, Proposal)> {
        let target = &mut self.hosts[host];
        let clock = target.clock.instant(self.now);
        let Some(Process { node, stage, policies: Some(policies), gossip: Some(gossip), .. }) = &mut target.process
        else {
            return Vec::new();
        };
        let own = node.id();
        let leads = |group: GroupId| node.leadership(group).is_some_and(|(leader, _)| leader == Some(own));
        policies.led.retain(|group, _| leads(*group));
        let mut nodes = Nodes::new(gossip.node_hints(rules.capacity));
        let mut wanted = Vec::new();
        for group in node.groups().filter(|group| leads(*group)) {
            let (Some(state), Some(hint)) = (stage.state(group), nodes.get(own).cloned()) else { continue };
            let own_load = policies.load(state);
            // As in a node: of a neighbour that is led here as well nobody knows better.
            let led_here = |link: &'_ Link| stage.state(link.group).filter(|_| leads(link.group));
            let (before, after) = (&state.links.predecessor, &state.links.successor);
            let [told_before, told_after] = node.neighbour_loads(group, clock);
            let load_before = led_here(before).map(|state| policies.load(state)).or(told_before);
            let load_after = led_here(after).map(|state| policies.load(state)).or(told_after);
            let Policies { led, budget, rng, .. } = &mut *policies;
            let Led { memory, ordered } = led.entry(group).or_default();
            if *ordered {
                continue;
            }
            let round_trips = if rules.round_trips { round_trips(state, own) } else { RoundTrips::default() };
            let descriptor = state.descriptor(Some(own), node.leadership(group).unwrap_or_default().1);
            let facts = GroupFacts {
                descriptor: &descriptor,
                load: own_load,
                busy: node.busy(group),
                predecessor: Neighbour { group: before.group, members: &before.members, load: load_before },
                successor: Neighbour { group: after.group, members: &after.members, load: load_after },
                round_trips: &round_trips,
            };
            let settings = &rules.settings;
            let situation = Situation { group: &facts, own: &hint, nodes: &nodes, settings, budget, now: clock };
            let Some(proposal) = decide(&situation, memory, rng).into_iter().next() else { continue };
            if proposal.action.is_order() {
                memory.started();
                *ordered = true;
                budget.take(settings, clock);
                nodes.anticipate(own, &proposal.action);
            }
            wanted.push((group, proposal));
        }
        wanted
    }

    /// What a policy wants goes the way of an operator's order.
    fn carry_out_action(&mut self, host: usize, group: GroupId, action: Action) -> Checked {
        let order = match action {
            Action::ChangeMembers { add, remove } => {
                if let Some(configuration) = self.observer.configuration(group) {
                    let mut set = voters(configuration);
                    set.retain(|node| !remove.contains(node));
                    set.extend(add.iter().map(|(node, _)| *node));
                    self.note_ordered(group, set);
                }
                let process = self.hosts[host].process.as_ref();
                let version = process.and_then(|process| Some(process.stage.state(group)?.configuration.version));
                let Some(request) = self.ask(host, Asked::Policy { group, change: true }) else { return Ok(()) };
                return self.input(host, Input::ChangeMembers { request, group, add, remove, version });
            }
            Action::TransferLeader { to } => {
                let Some(request) = self.ask(host, Asked::Policy { group, change: false }) else { return Ok(()) };
                return self.input(host, Input::HandOver { request, group, to });
            }
            Action::Split { by } => self.boundary_in(host, group, by, 500).map(|at| Order::Split { at }),
            Action::Merge { .. } => Some(Order::TakeOver { from: From::Successor, boundary: None }),
            Action::Repartition { toward, by, take_permille } => {
                let (from, permille) = match toward {
                    Side::Successor => (From::Successor, take_permille),
                    Side::Predecessor => (From::Predecessor, 1000 - take_permille.min(1000)),
                };
                let loser = self.hosts[host].process.as_ref().and_then(|process| process.stage.state(group));
                let loser = loser.map(|state| match toward {
                    Side::Successor => state.links.successor.group,
                    Side::Predecessor => state.links.predecessor.group,
                });
                let boundary = loser.and_then(|loser| self.boundary_in(host, loser, by, permille));
                boundary.map(|at| Order::TakeOver { from, boundary: Some(at) })
            }
            Action::Nothing => return Ok(()),
        };
        let Some(order) = order else {
            self.policy_ended(host, group, Outcome::Failed);
            return Ok(());
        };
        let Some(request) = self.ask(host, Asked::Policy { group, change: false }) else { return Ok(()) };
        self.input(host, Input::Reshape { request, group, order })
    }

    /// Where a group that this host serves is to be cut.
    fn boundary_in(&self, host: usize, group: GroupId, by: Measure, permille: u16) -> Option<Position> {
        let target = &self.hosts[host];
        let process = target.process.as_ref()?;
        let range = &process.stage.state(group)?.range;
        let sampler = process.policies.as_ref().and_then(|policies| policies.samplers.get(&group));
        let is_sampled = by == Measure::Operations || permille != 500;
        let sampled = sampler.filter(|_| is_sampled).and_then(|known| known.quantile(range, permille));
        sampled.or_else(|| middle(&target.disk.store.view(), process.stage.tablets(group)?, range, MOST_KEYS).ok()?)
    }

    /// What a policy ordered came to an end.
    pub(crate) fn policy_answered(&mut self, host: usize, group: GroupId, change: bool, reply: &Reply) {
        let outcome = match reply {
            Reply::Done | Reply::Born { .. } => Outcome::Done,
            // Another node may do.
            Reply::Refused(_) if change => Outcome::Refused,
            Reply::Refused(_) | Reply::Lost | Reply::ReadNow { .. } => Outcome::Failed,
        };
        self.note([30, host as u64, group.0], || format!("host {host}: what {group} wanted: {reply:?}"));
        self.policy_ended(host, group, outcome);
    }

    fn policy_ended(&mut self, host: usize, group: GroupId, outcome: Outcome) {
        let Some(rules) = &self.plan.policies else { return };
        let target = &mut self.hosts[host];
        let clock = target.clock.instant(self.now);
        let Some(policies) = target.process.as_mut().and_then(|process| process.policies.as_mut()) else { return };
        if let Some(led) = policies.led.get_mut(&group) {
            led.ordered = false;
            led.memory.ended(outcome, &rules.settings, clock, &mut policies.rng);
        }
    }

    /// From now on groups are only kept at their size.
    pub(crate) fn calm_policies(&mut self) {
        if let Some(rules) = &mut self.plan.policies {
            rules.settings.switches = Switches { resilience: true, ..Switches::OFF };
        }
    }

    /// I36: whether every group has as many members as it should, all of them alive, as far as there are nodes for it.
    #[must_use]
    pub fn is_at_size(&self) -> bool {
        let Some(rules) = &self.plan.policies else { return true };
        let target = rules.settings.target_size.min(self.hosts.len());
        let lives = |node: NodeId| {
            self.directory
                .get(&node)
                .is_some_and(|host| self.hosts[*host].process.as_ref().is_some_and(|process| process.node.id() == node))
        };
        self.groups().iter().filter_map(|group| self.observer.configuration(*group)).all(|configuration| {
            configuration.members.len() == target
                && configuration.voters().count() == target
                && configuration.members.iter().all(|member| lives(member.node))
        })
    }
}

/// How long messages take from here to other members, for all that the leader knows: the same whenever it is asked.
fn round_trips(state: &GroupState, own: NodeId) -> RoundTrips {
    let mut known = RoundTrips::default();
    for member in state.configuration.voters().filter(|member| member.node != own) {
        known.set_between(own, member.node, Duration::from_micros((own.0 ^ member.node.0) % 30_000));
    }
    known
}
