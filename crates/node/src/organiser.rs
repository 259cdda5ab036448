//! Lets the groups that are led here look after themselves: asks the policies what each should do, and has the most urgent
//! of it done the way that an operator's order is.

use crate::events::{Event, Inbox, Waiter};
use crate::serving::{Served, Serving};
use scatter_core::group::{Descriptor, Link};
use scatter_core::node::Node;
use scatter_core::ops::order::{Order, Side};
use scatter_core::policy::{
    self, Action, Budget, GroupFacts, GroupLoad, Measure, Memory, Neighbour, NodeHint, Nodes, Outcome, Proposal,
    RoundTrips, Settings, Situation,
};
use scatter_core::ring::Position;
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::{ConfigurationVersion, GroupId, NodeId};
use scatter_wire::{NewMember, Refusal, ReplyBody};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// How often the node looks which of its groups are due.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often each group is looked at, drawn around this.
const GROUP_EVERY: Duration = Duration::from_secs(5);

/// How many decisions are kept to be shown.
const MOST_RECORDS: usize = 256;

/// How the node's groups are to be looked after.
#[derive(Clone, Debug)]
pub struct PolicySettings {
    /// The policies' own.
    pub policy: Settings,
    /// How many operations a second a node answers at most, as far as the operator knows.
    pub capacity: u64,
    /// How often each group is looked at, about; no longer than `GROUP_EVERY`.
    pub look_every: Duration,
}

impl PolicySettings {
    /// These settings, with groups looked at often enough for the times in them.
    #[must_use]
    pub fn new(policy: Settings, capacity: u64) -> Self {
        let look_every = (policy.replace_dead_after / 4).clamp(LOOK_EVERY, GROUP_EVERY);
        Self { policy, capacity, look_every }
    }
}

/// A decision, to be shown.
#[derive(Clone, Debug)]
pub struct Record {
    /// Of which group.
    pub group: GroupId,
    /// By the wall clock.
    pub at: SystemTime,
    /// What was decided.
    pub proposal: Proposal,
    /// How it ended; `None` while it is under way, or if it is only said.
    pub outcome: Option<String>,
}

/// The last decisions on groups led here.
#[derive(Debug, Default)]
pub struct Records {
    kept: VecDeque<Record>,
}

impl Records {
    /// Returns whether it is news: what is only said is said again and again.
    fn add(&mut self, record: Record) -> bool {
        let said_already = !record.proposal.action.is_order()
            && self
                .kept
                .iter_mut()
                .rev()
                .find(|known| known.group == record.group)
                .filter(|known| known.proposal.reason.name() == record.proposal.reason.name())
                .map(|known| *known = record.clone())
                .is_some();
        if said_already {
            return false;
        }
        if self.kept.len() == MOST_RECORDS {
            self.kept.pop_front();
        }
        self.kept.push_back(record);
        true
    }

    /// Returns what had been decided of the group.
    fn ended(&mut self, group: GroupId, outcome: String) -> Option<&Action> {
        let open = |record: &&mut Record| {
            record.group == group && record.outcome.is_none() && record.proposal.action.is_order()
        };
        let record = self.kept.iter_mut().rev().find(open)?;
        record.outcome = Some(outcome);
        Some(&record.proposal.action)
    }

    /// The last ones, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.kept.iter()
    }
}

/// What is remembered of a group while it is led here.
#[derive(Debug)]
struct Led {
    memory: Memory,
    look_at: Instant,
    /// An order of the policies is being carried out.
    ordered: bool,
}

/// What a look needs to know.
pub struct Look<'a> {
    /// Now.
    pub now: Instant,
    /// The protocol.
    pub node: &'a Node,
    /// What is applied here.
    pub serving: &'a Serving,
    /// What was heard of the nodes, this one included.
    pub hints: Vec<NodeHint>,
    /// Round trips from here.
    pub round_trips: &'a BTreeMap<NodeId, Duration>,
}

/// What a policy orders of a group.
pub struct Ordered {
    /// The group.
    pub group: GroupId,
    /// The version of its configuration that the policy saw.
    pub version: ConfigurationVersion,
    /// What is to be done, and why.
    pub proposal: Proposal,
}

/// Decides for the groups led here.
pub struct Organiser {
    settings: PolicySettings,
    led: BTreeMap<GroupId, Led>,
    budget: Budget,
    rng: Rng,
}

impl Organiser {
    /// Nothing is led yet.
    #[must_use]
    pub fn new(settings: PolicySettings, seed: u64) -> Self {
        Self { settings, led: BTreeMap::new(), budget: Budget::default(), rng: Rng::new(seed) }
    }

    /// How many operations a second a node answers at most.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.settings.capacity
    }

    /// Looks at the groups that are due: what is to be ordered, of each at most one thing.
    pub fn look(&mut self, look: Look<'_>) -> Vec<Ordered> {
        let own = look.node.id();
        let leads = |group: &GroupId| look.node.leadership(*group).is_some_and(|(leader, _)| leader == Some(own));
        self.led.retain(|group, _| leads(group));
        let span = self.settings.look_every;
        for group in look.node.groups().filter(leads) {
            let first = look.now.after(self.rng.span(Duration::ZERO, span));
            let fresh = || Led { memory: Memory::default(), look_at: first, ordered: false };
            self.led.entry(group).or_insert_with(fresh);
        }
        let due: Vec<GroupId> =
            self.led.iter().filter(|(_, led)| led.look_at <= look.now).map(|(group, _)| *group).collect();
        if due.is_empty() {
            return Vec::new();
        }
        let Some(hint) = look.hints.iter().find(|hint| hint.node == own).cloned() else { return Vec::new() };
        let mut nodes = Nodes::new(look.hints);
        let mut round_trips = RoundTrips::default();
        for (node, round_trip) in look.round_trips {
            round_trips.set_between(own, *node, *round_trip);
        }
        let mut orders = Vec::new();
        for group in due {
            let next = look.now.after(self.rng.span(span * 3 / 4, span * 5 / 4));
            let Some(led) = self.led.get_mut(&group) else { continue };
            led.look_at = next;
            let Some(served) = look.serving.group(group).filter(|_| !led.ordered) else { continue };
            let descriptor = look.serving.descriptor(&served);
            let facts = facts((look.node, look.serving, look.now), &served, &descriptor, &round_trips);
            let situation = Situation {
                group: &facts,
                own: nodes.get(own).unwrap_or(&hint),
                nodes: &nodes,
                settings: &self.settings.policy,
                budget: &self.budget,
                now: look.now,
            };
            let proposals = policy::decide(&situation, &mut led.memory, &mut self.rng);
            let Some(first) = proposals.into_iter().next() else { continue };
            let record = Record { group, at: SystemTime::now(), proposal: first.clone(), outcome: None };
            let is_news = look.serving.policies.lock().add(record);
            if !first.action.is_order() {
                if is_news {
                    look.serving.counts.on_policy_waits();
                }
                continue;
            }
            tracing::info!(%group, action = ?first.action, reason = %first.reason, "policy");
            nodes.anticipate(own, &first.action);
            self.budget.take(&self.settings.policy, look.now);
            led.memory.started();
            led.ordered = true;
            orders.push(Ordered { group, version: descriptor.configuration.version, proposal: first });
        }
        orders
    }

    /// What was ordered of a group has come to an end.
    pub fn ended(&mut self, now: Instant, group: GroupId, outcome: Outcome, text: String, serving: &Serving) {
        if let Some(action) = serving.policies.lock().ended(group, text) {
            serving.counts.on_policy_ended(action_name(action), outcome);
        }
        if let Some(led) = self.led.get_mut(&group) {
            led.ordered = false;
            led.memory.ended(outcome, &self.settings.policy, now, &mut self.rng);
        }
    }
}

fn facts<'a>(
    (node, serving, now): (&Node, &Serving, Instant),
    served: &'a Served,
    descriptor: &'a Descriptor,
    round_trips: &'a RoundTrips,
) -> GroupFacts<'a> {
    let own = node.id();
    // Of a neighbour that is led here as well nobody knows better.
    let led_here = |group| {
        let led = node.leadership(group).is_some_and(|(leader, _)| leader == Some(own));
        serving.group(group).filter(|_| led).map(|served| load(&served))
    };
    let neighbour = |link: &'a Link, told: Option<GroupLoad>| Neighbour {
        group: link.group,
        members: &link.members,
        load: led_here(link.group).or(told),
    };
    let [told_before, told_after] = node.neighbour_loads(served.group, now);
    GroupFacts {
        descriptor,
        load: load(served),
        busy: node.busy(served.group),
        predecessor: neighbour(&served.links.predecessor, told_before),
        successor: neighbour(&served.links.successor, told_after),
        round_trips,
    }
}

/// How busy a group is, as far as this node answers for it.
#[must_use]
pub fn load(served: &Served) -> GroupLoad {
    let figures = &served.figures;
    GroupLoad {
        keys: figures.keys.load(Ordering::Relaxed),
        bytes: figures.bytes.load(Ordering::Relaxed),
        operations_per_second: figures.per_second.load(Ordering::Relaxed),
    }
}

/// Has an action carried out, as an operator would: how it ended.
pub async fn carry_out(serving: &Arc<Serving>, inbox: &Inbox, ordered: Ordered) -> (Outcome, String) {
    let Ordered { group, version, proposal: Proposal { action, .. } } = ordered;
    let is_change = matches!(action, Action::ChangeMembers { .. });
    let (reply, answer) = tokio::sync::oneshot::channel();
    let waiter = Waiter::Task(reply);
    match event(serving, (group, version), action, waiter).await {
        Ok(event) => inbox.push(event),
        Err(why) => return (Outcome::Failed, why),
    }
    match answer.await {
        Ok(Ok(ReplyBody::Administered { .. })) => (Outcome::Done, "done".to_owned()),
        // A change that is refused may do with another node; anything else meets the same obstacle again.
        Ok(Ok(ReplyBody::Refused { refusal, .. })) if is_change => (Outcome::Refused, words(refusal)),
        Ok(Ok(ReplyBody::Refused { refusal, .. })) => (Outcome::Failed, words(refusal)),
        Ok(Ok(_)) | Ok(Err(_)) | Err(_) => (Outcome::Failed, "nobody answered".to_owned()),
    }
}

fn words(refusal: Refusal) -> String {
    match refusal {
        Refusal::Conflict { text } | Refusal::Unavailable { text } | Refusal::Malformed { text } => text,
        other => format!("{other:?}"),
    }
}

/// The order that an action stands for.
async fn event(
    serving: &Arc<Serving>,
    (group, version): (GroupId, ConfigurationVersion),
    action: Action,
    waiter: Waiter,
) -> Result<Event, String> {
    match action {
        Action::ChangeMembers { add, remove } => {
            let add = add.into_iter().map(|(node, address)| NewMember { node, address }).collect();
            Ok(Event::ChangeMembers { group, add, remove, version: Some(version), waiter })
        }
        Action::TransferLeader { to } => Ok(Event::HandOver { group, to: Some(to), waiter }),
        Action::Merge { .. } => {
            Ok(Event::Reshape { group, order: Order::TakeOver { from: Side::Successor, boundary: None }, waiter })
        }
        Action::Split { by } => {
            let served = serving.group(group).ok_or("the group has gone")?;
            let at = position(serving, served, by, 500).await?;
            Ok(Event::Reshape { group, order: Order::Split { at }, waiter })
        }
        Action::Repartition { toward, by, take_permille } => {
            let served = serving.group(group).ok_or("the group has gone")?;
            let (from, link, permille) = match toward {
                policy::Side::Successor => (Side::Successor, &served.links.successor, take_permille),
                policy::Side::Predecessor => {
                    (Side::Predecessor, &served.links.predecessor, 1000_u16.saturating_sub(take_permille))
                }
            };
            let neighbour = serving.group(link.group).ok_or("no replica of the neighbour is here")?;
            let at = position(serving, neighbour, by, permille).await?;
            Ok(Event::Reshape { group, order: Order::TakeOver { from, boundary: Some(at) }, waiter })
        }
        Action::Nothing => Err("there is nothing to do".to_owned()),
    }
}

/// Where `permille` of what a group does or holds lies before. Of what it holds only the middle is known, and what it does
/// only where it is led.
async fn position(serving: &Arc<Serving>, served: Arc<Served>, by: Measure, permille: u16) -> Result<Position, String> {
    let is_sampled = by == Measure::Operations || permille != 500;
    let observed = served.figures.quantile(&served.range, permille).filter(|_| is_sampled);
    let found = match observed {
        Some(at) => Some(at),
        None => {
            let serving = serving.clone();
            let look = tokio::task::spawn_blocking(move || crate::orders::middle(&serving, &served));
            look.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?
        }
    };
    found.ok_or_else(|| "there are not two keys to part".to_owned())
}

/// What an action is called.
#[must_use]
pub fn action_name(action: &Action) -> &'static str {
    match action {
        Action::ChangeMembers { .. } => "change_members",
        Action::TransferLeader { .. } => "transfer_leader",
        Action::Split { .. } => "split",
        Action::Merge { .. } => "merge",
        Action::Repartition { .. } => "repartition",
        Action::Nothing => "nothing",
    }
}
