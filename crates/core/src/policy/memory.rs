//! What keeps decisions from coming too often: a leader's memory of one group, and a node's budget.

use super::facts::Side;
use super::settings::Settings;
use crate::rng::Rng;
use crate::time::Instant;
use crate::types::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What must hold for a while before something is done about it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Condition {
    /// Nothing at all is known of a member's node.
    Missing(NodeId),
    /// Members share a zone needlessly.
    ZoneShared,
    /// There are too many members.
    Surplus,
    /// The successor is too small.
    ThinSuccessor,
    /// The group is too large or too busy.
    Hot,
    /// The group and its successor have little to do.
    Cold,
    /// A neighbour has far more to do.
    Unequal(Side),
    /// A member's node is fuller or busier than another.
    Uneven,
    /// A node is idle.
    Idle,
    /// The own node leads more than another member's.
    TopHeavy,
    /// Another member is nearer.
    Remote,
}

/// What became of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// A node that was to take a replica in takes in enough already, and said so at once.
    Refused,
    /// It was given up.
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    since: Instant,
    wait: Duration,
}

/// What one group's leader remembers between decisions. It is lost with the leader: the next one only waits anew.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    conditions: BTreeMap<Condition, Held>,
    drawn_for: Option<(NodeId, Instant)>,
    rests_since: Option<Instant>,
    failures: u32,
    retry_at: Instant,
}

impl Memory {
    /// Notes whether `condition` holds; whether it has held for `least`, and up to half as long again by chance.
    pub(super) fn has_held(
        &mut self,
        condition: Condition,
        holds: bool,
        least: Duration,
        now: Instant,
        rng: &mut Rng,
    ) -> bool {
        if !holds {
            self.conditions.remove(&condition);
            return false;
        }
        let held = self
            .conditions
            .entry(condition)
            .or_insert_with(|| Held { since: now, wait: rng.span(least, least.saturating_mul(3) / 2) });
        now.since(held.since) >= held.wait
    }

    /// Whether chance is asked for the first time about what `node` told at `told`.
    pub(super) fn is_first_draw(&mut self, node: NodeId, told: Instant) -> bool {
        self.drawn_for.replace((node, told)) != Some((node, told))
    }

    /// Forgets what was noted of nodes that `keep` does not want.
    pub(super) fn keep_missing(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.conditions
            .retain(|condition, _| if let Condition::Missing(node) = condition { keep(*node) } else { true });
    }

    pub(super) fn forget_conditions(&mut self) {
        self.conditions.retain(|condition, _| matches!(condition, Condition::Missing(_)));
    }

    /// An operation on the group was begun, by policy or by an operator.
    pub fn started(&mut self) {
        self.forget_conditions();
    }

    /// An operation on the group came to an end at `now`.
    ///
    /// One that failed is tried again after a pause that grows with each failure, and is drawn by chance, since two neighbours
    /// that got in each other's way would only meet again. After a refusal the next try goes elsewhere, so a
    /// repair need not wait longer; what is no repair rests first.
    pub fn ended(&mut self, outcome: Outcome, settings: &Settings, now: Instant, rng: &mut Rng) {
        let wait = match outcome {
            Outcome::Done => {
                self.rests_since = Some(now);
                self.failures = 0;
                Duration::ZERO
            }
            Outcome::Refused => {
                self.rests_since = Some(now);
                settings.retry
            }
            Outcome::Failed => {
                self.rests_since = Some(now);
                let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
                self.failures = self.failures.saturating_add(1);
                settings.retry.saturating_mul(factor).min(settings.retry_limit)
            }
        };
        self.retry_at = now.after(rng.span(wait / 2, wait));
    }

    /// Whether a failure is long enough past.
    #[must_use]
    pub fn may_try(&self, now: Instant) -> bool {
        now >= self.retry_at
    }

    /// Whether the group rests after an operation.
    #[must_use]
    pub fn rests(&self, settings: &Settings, now: Instant) -> bool {
        self.rests_since.is_some_and(|since| now.since(since) < settings.cool_down)
    }
}

/// How many operations the leaders on one node may start.
#[derive(Clone, Default, Debug)]
pub struct Budget {
    started: VecDeque<Instant>,
}

impl Budget {
    /// Whether one more may start. What is not a repair leaves half of the limit to repairs.
    #[must_use]
    pub fn allows(&self, settings: &Settings, now: Instant, is_repair: bool) -> bool {
        let recent = self.started.iter().filter(|at| now.since(**at) < settings.budget_window).count();
        let limit = settings.operations_per_node;
        recent < if is_repair { limit } else { limit.div_ceil(2) }
    }

    /// Notes that one started.
    pub fn take(&mut self, settings: &Settings, now: Instant) {
        while self.started.front().is_some_and(|at| now.since(*at) >= settings.budget_window) {
            self.started.pop_front();
        }
        self.started.push_back(now);
    }
}
