//! Orders to groups, given as an operator would: to reshape the ring and move its members at random, to spread the members
//! over the nodes at the beginning, and to replace the dead where policies do not.

use crate::events::Events;
use crate::interrupt;
use crate::lifetime;
use crate::options::Options;
use crate::ring::{AROUND, Group, Ring, position};
use crate::timeline::{Mark, Timeline};
use scatter_e2e::http::Reply;
use scatter_e2e::operator::Operator;
use scatter_sim::random::Random;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the admin program may take to show the ring.
const RING: Duration = Duration::from_secs(5);
/// How often it is looked who is dead.
const LOOK: Duration = Duration::from_millis(500);
/// How long a learner may be one before it counts as left over from a change that failed.
const LEARNING: Duration = Duration::from_secs(15);
/// How long it may take until the ring is as it shall be at the beginning.
const PREPARING: Duration = Duration::from_secs(60);

/// Orders by kind, and by what came of them.
pub(crate) type Tally = BTreeMap<(&'static str, &'static str), u64>;

/// Somebody who gives orders.
#[derive(Debug)]
pub(crate) struct Orders<'a> {
    operator: Operator,
    options: &'a Options,
    events: &'a Events,
    tally: Mutex<Tally>,
    stop: AtomicBool,
}

/// Members of groups, and since when something is true of them.
#[derive(Default)]
struct Seen(BTreeMap<(String, String), Instant>);

impl Seen {
    /// It is true of these, and of nobody else any more.
    fn look(&mut self, members: impl Iterator<Item = (String, String)>) {
        let before = std::mem::take(&mut self.0);
        let since = |member| (before.get(&member).copied().unwrap_or_else(Instant::now), member);
        self.0 = members.map(since).map(|(since, member)| (member, since)).collect();
    }

    /// Whether it has been true of a member for so long.
    fn is_for(&self, group: &Group, node: &str, time: Duration) -> bool {
        self.0.get(&(group.id.clone(), node.to_owned())).is_some_and(|since| since.elapsed() >= time)
    }
}

/// What came of an order, by the answer.
fn outcome(reply: &Reply) -> &'static str {
    match reply.status {
        200 => "done",
        _ if reply.json()["outcome"] == "unknown" => "unknown",
        404 | 409 => "refused",
        503 | 504 => "unavailable",
        _ => "odd",
    }
}

impl<'a> Orders<'a> {
    pub(crate) const fn new(operator: Operator, options: &'a Options, events: &'a Events) -> Self {
        Self { operator, options, events, tally: Mutex::new(Tally::new()), stop: AtomicBool::new(false) }
    }

    /// What came of all orders.
    pub(crate) fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives no more orders.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn ring(&self) -> Option<Ring> {
        self.operator.try_ring(RING).map(|document| Ring::parse(&document))
    }

    /// Gives an order. Returns whether it was carried out.
    fn give(&self, kind: &'static str, path: &str, group: &Group, body: &str) -> bool {
        let began = Instant::now();
        let (outcome, detail) = match self.operator.send_order(&group.id, path, body) {
            Ok(reply) => (outcome(&reply), format!("{} {}", reply.status, reply.text())),
            Err(failed) => ("unheard", format!("{failed:?}")),
        };
        *self.tally.lock().unwrap_or_else(PoisonError::into_inner).entry((kind, outcome)).or_default() += 1;
        let detail = if outcome == "done" { String::new() } else { format!(": {detail}") };
        let took = began.elapsed().as_secs_f64();
        self.events.tell(&format!("{kind} of {} with {body}: {outcome} after {took:.1} s{detail}", group.id));
        outcome == "done"
    }

    /// Has the first group split until there are as many as wanted, and spreads their members over all nodes.
    ///
    /// # Panics
    /// If that does not succeed in time.
    pub(crate) fn prepare(&self) {
        let began = Instant::now();
        let wanted = self.options.groups;
        for part in 1..wanted {
            let at = AROUND * part as u128 / wanted as u128;
            let mut is_done = false;
            while !is_done && !interrupt::requested() {
                assert!(began.elapsed() < PREPARING, "the ring was not split into {wanted} in time");
                is_done = self.ring().filter(Ring::is_whole).is_some_and(|ring| {
                    let Some(group) = ring.groups.iter().rev().find(|group| group.span().0 <= at) else { return false };
                    let body = json!({ "at": position(at) }).to_string();
                    group.span().0 == at || self.give("first split", "split", group, &body)
                });
            }
        }
        for number in 0..wanted {
            let mut is_done = false;
            while !is_done && !interrupt::requested() {
                assert!(began.elapsed() < PREPARING, "the members were not spread in time");
                is_done = self.ring().is_some_and(|ring| self.spread(&ring, number));
            }
        }
    }

    /// Orders the next that is needed for a group to be on nodes of its own, as far as there are that many, and to be led by one
    /// that leads no other. Returns whether nothing is.
    fn spread(&self, ring: &Ring, number: usize) -> bool {
        let Some(group) = ring.groups.get(number) else { return false };
        let nodes: Vec<String> = self.events.alive().into_iter().collect();
        let size = self.options.group_size;
        let wanted: Vec<&String> = (0..size).map(|step| &nodes[(number * size + step) % nodes.len()]).collect();
        let add: Vec<&&String> = wanted.iter().filter(|node| !group.has(node)).collect();
        let remove: Vec<&String> = group.members().filter(|member| !wanted.contains(member)).collect();
        let leader = wanted[number % size];
        if !add.is_empty() {
            let body = json!({ "add": add, "remove": remove }).to_string();
            self.give("first spread", "members", group, &body);
        } else if group.leader.as_ref() != Some(leader) {
            self.give("first spread", "transfer-leader", group, &json!({ "to": leader }).to_string());
        } else {
            return true;
        }
        false
    }

    /// Replaces who is dead for long enough and removes learners that are left over, until told to stop.
    pub(crate) fn replace_the_dead(&self) {
        let mut missed = Seen::default();
        let mut learning = Seen::default();
        while !self.stopped() {
            std::thread::sleep(LOOK);
            let Some(ring) = self.ring() else { continue };
            let alive = self.events.alive();
            let members =
                |group: &Group| group.members().map(|node| (group.id.clone(), node.clone())).collect::<Vec<_>>();
            let learners =
                |group: &Group| group.learners.iter().map(|node| (group.id.clone(), node.clone())).collect::<Vec<_>>();
            missed.look(ring.groups.iter().flat_map(members).filter(|(_, node)| !alive.contains(node)));
            learning.look(ring.groups.iter().flat_map(learners));
            // A group that is held by an operation refuses; others must not wait for its turn.
            std::thread::scope(|scope| {
                for group in &ring.groups {
                    let is_due = |node: &&String| {
                        missed.is_for(group, node, self.options.replace_dead_after)
                            || learning.is_for(group, node, LEARNING)
                    };
                    let remove: Vec<&String> = group.members().filter(is_due).collect();
                    let stays = |node: &&String| alive.contains(*node) && !remove.contains(node);
                    let missing = self.options.group_size.saturating_sub(group.members().filter(stays).count());
                    let add: Vec<String> = ring.candidates(group, &alive).into_iter().take(missing).collect();
                    if remove.is_empty() || add.len() < missing {
                        continue;
                    }
                    let body = json!({ "add": add, "remove": remove }).to_string();
                    scope.spawn(move || self.give("replace", "members", group, &body));
                }
            });
        }
    }

    /// Gives orders at random times, until told to stop.
    pub(crate) fn disturb(&self, mut random: Random, timeline: &Timeline) {
        while !self.stopped() {
            let next = Instant::now() + lifetime::wait(self.options.order_every, &mut random);
            while Instant::now() < next {
                if self.stopped() {
                    return;
                }
                std::thread::sleep(LOOK.min(next.saturating_duration_since(Instant::now())));
            }
            if let Some(ring) = self.ring().filter(|ring| !ring.groups.is_empty())
                && self.disturb_once(&ring, &mut random)
            {
                timeline.mark(Mark::Order);
            }
        }
    }

    /// Gives one order. Returns whether it was carried out.
    fn disturb_once(&self, ring: &Ring, random: &mut Random) -> bool {
        let groups = &ring.groups;
        let group = random.pick(groups);
        let (from, to) = group.span();
        let count = groups.len();
        let (least, most) = (self.options.groups.div_ceil(2), self.options.groups * 2);
        match random.below(6) {
            0 | 1 if count < most && (count <= least || random.permille(500)) => {
                let middle = from + (to - from) / 2;
                // Half of the times where the group thinks best.
                let body = if random.permille(500) { json!({}) } else { json!({ "at": position(middle) }) };
                self.give("split", "split", group, &body.to_string())
            }
            0 | 1 if count > least => {
                let side = if random.permille(500) { "successor" } else { "predecessor" };
                self.give("merge", "merge", group, &json!({ "side": side }).to_string())
            }
            2 => {
                let Some(next) = groups.iter().find(|next| next.span().0 == to % AROUND && next.id != group.id) else {
                    return false;
                };
                let next = next.span();
                let (low, high) = (from + (to - from) / 2, to + (next.1 - next.0) / 2);
                let boundary = low + u128::from(random.below(u64::try_from(high - low).unwrap_or(u64::MAX)));
                self.give("repartition", "repartition", group, &json!({ "boundary": position(boundary) }).to_string())
            }
            3 | 4 => {
                let alive = self.events.alive();
                let leaves = group.members().find(|member| alive.contains(*member) && random.permille(400));
                let comes = ring.candidates(group, &alive).into_iter().next();
                let (Some(leaves), Some(comes)) = (leaves, comes) else { return false };
                self.give("swap", "members", group, &json!({ "add": [comes], "remove": [leaves] }).to_string())
            }
            _ => self.give("transfer-leader", "transfer-leader", group, ""),
        }
    }
}
