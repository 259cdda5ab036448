//! What happened to the ring, as far as this program ordered it, saw it, or was told by the nodes that their policies decided it: the
//! last operations, each with its outcome. Kept in memory: the groups keep what matters, this is for a person who asks what
//! was done and why it failed.

use crate::picture::Picture;
use scatter_core::types::{GroupId, NodeId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

/// The most operations remembered that were ordered or seen.
pub(crate) const MOST_OPERATIONS: usize = 256;

/// The most decisions of policies remembered, beside them: the ring may be busy with itself, and an operator's orders stay.
const MOST_DECISIONS: usize = 256;

/// How far the beginnings of a decision and of the operation seen that it led to may be apart.
const SAME_MS: u64 = 60_000;

/// How long after the end of an order a loser may still be seen to be held by it.
const LATE_MS: u64 = 10_000;

/// One operation.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Entry {
    /// Counts up from 1 since the program started.
    pub(crate) id: u64,
    /// `split`, `merge`, `repartition`, `members`, `transfer-leader`, `drain`, `undrain`, `remove` or `nothing`.
    pub(crate) kind: &'static str,
    /// The group that was ordered to act, or that gains; empty of orders about a node.
    pub(crate) group: String,
    /// `ordered` through this program, `decided` by a node, or `seen`.
    pub(crate) origin: &'static str,
    /// `operator`, `policy`, or nothing if that is not known.
    pub(crate) by: Option<&'static str>,
    /// `running`, `done`, `refused`, `aborted` or `unknown`; `waiting` if a policy finds something due that cannot be done.
    pub(crate) state: &'static str,
    /// What the groups call it, once it has begun; splits and changes of members have no such name.
    pub(crate) operation: Option<String>,
    /// Why it did not come about; of a policy's decision first why it was made.
    pub(crate) reason: Option<String>,
    /// What was ordered or what moves, and what the leader said.
    pub(crate) detail: Value,
    /// When it was first heard of, in milliseconds since 1970.
    pub(crate) began_ms: u64,
    /// When it was known to have ended.
    pub(crate) ended_ms: Option<u64>,
    /// Of what was only seen: the group that it was seen to hold, and the version of that group's range then.
    #[serde(skip)]
    held: Option<(String, u64)>,
    /// A decision that its node told of when it was first asked: it is news to nobody.
    #[serde(skip)]
    pub(crate) is_old: bool,
}

/// A decision of a node's policies, as its status tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Decision {
    group: String,
    at_ms: u64,
    action: String,
    #[serde(default)]
    detail: Value,
    /// The reason's name.
    reason: String,
    /// The reason in words.
    text: String,
    outcome: Option<String>,
}

/// What tells decisions apart. What waits is said again and again, each time with a new time.
type DecisionKey = (u64, NodeId, String, String);

/// The last operations.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    decisions: BTreeMap<DecisionKey, Entry>,
    /// The nodes that have told of decisions.
    heard: BTreeSet<NodeId>,
    count: u64,
}

impl History {
    /// Notes an order. Returns its number.
    pub(crate) fn ordered(&mut self, kind: &'static str, group: GroupId, detail: Value) -> u64 {
        self.push(kind, group.to_string(), ("ordered", Some("operator")), detail)
    }

    /// Notes an order about a node, which its detail names. Returns its number.
    pub(crate) fn ordered_of_node(&mut self, kind: &'static str, detail: Value) -> u64 {
        self.push(kind, String::new(), ("ordered", Some("operator")), detail)
    }

    /// Notes how an order ended.
    pub(crate) fn ended(&mut self, id: u64, state: &'static str, reason: Option<String>, result: Option<Value>) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else { return };
        entry.state = state;
        entry.reason = reason;
        entry.ended_ms = Some(now_ms());
        if let (Some(result), Some(detail)) = (result, entry.detail.as_object_mut()) {
            detail.insert("result".to_owned(), result);
        }
    }

    /// Looks for operations that hold groups, and for those that do so no more.
    pub(crate) fn observe(&mut self, picture: &Picture) {
        let groups = &picture.ring().groups;
        let held: BTreeMap<&str, _> = groups
            .iter()
            .filter_map(|group| Some((group, group.operation.as_ref()?)))
            .map(|(group, operation)| (operation.id.as_str(), (group, operation)))
            .collect();
        for (id, (group, operation)) in &held {
            if self.all().any(|entry| entry.operation.as_deref() == Some(id)) {
                continue;
            }
            let gainer = if operation.gains { group.id.clone() } else { operation.other.clone() };
            // The loser may hear of it only after whoever ordered it has.
            let ordered = self.entries.iter_mut().rev().chain(self.decisions.values_mut()).find(|entry| {
                let fresh = entry.ended_ms.is_none_or(|ended| now_ms() < ended + LATE_MS);
                fresh && entry.operation.is_none() && entry.kind == operation.kind && entry.group == gainer
            });
            if let Some(entry) = ordered {
                entry.operation = Some((*id).to_owned());
                continue;
            }
            let number =
                self.push(operation.kind, gainer, ("seen", None), serde_json::json!({ "moving": operation.moving }));
            if let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == number) {
                entry.operation = Some((*id).to_owned());
                entry.held = Some((group.id.clone(), group.epoch.range));
            }
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.state == "running") {
            let Some((holder, before)) = &entry.held else { continue };
            if entry.operation.as_deref().is_some_and(|id| held.contains_key(id)) {
                continue;
            }
            entry.state = match groups.iter().find(|group| group.id == *holder) {
                Some(group) if group.epoch.range > *before => "done",
                Some(_) => "aborted",
                None if entry.kind == "merge" => "done",
                None => "unknown",
            };
            entry.ended_ms = Some(now_ms());
        }
    }

    /// Takes in what a node tells that its policies decided.
    pub(crate) fn decided(&mut self, node: NodeId, decisions: Vec<Decision>) {
        let is_old = self.heard.insert(node);
        for decision in decisions {
            self.take(node, decision, is_old);
        }
    }

    fn take(&mut self, node: NodeId, decision: Decision, is_old: bool) {
        let kind = match decision.action.as_str() {
            "change_members" => "members",
            "transfer_leader" => "transfer-leader",
            "split" => "split",
            "merge" => "merge",
            "repartition" => "repartition",
            _ => "nothing",
        };
        let (state, failed) = match decision.outcome.as_deref() {
            _ if kind == "nothing" => ("waiting", None),
            None => ("running", None),
            Some("done") => ("done", None),
            Some(why) => ("refused", Some(why)),
        };
        let reason = match failed {
            None => decision.text.clone(),
            Some(why) => format!("{}; given up: {why}", decision.text),
        };
        let at = if kind == "nothing" { 0 } else { decision.at_ms };
        let what = if kind == "nothing" { decision.reason.clone() } else { decision.action.clone() };
        let key = (at, node, decision.group.clone(), what);
        let ended_ms = (!matches!(state, "running" | "waiting")).then(now_ms);
        if let Some(known) = self.decisions.get_mut(&key) {
            known.ended_ms = known.ended_ms.or(ended_ms);
            (known.state, known.reason) = (state, Some(reason));
            return;
        }
        let is_full = self.decisions.len() >= MOST_DECISIONS;
        let is_older = |oldest: (&DecisionKey, &Entry)| decision.at_ms < oldest.1.began_ms;
        if is_full && self.decisions.iter().min_by_key(|(_, entry)| entry.began_ms).is_some_and(is_older) {
            return;
        }
        // It may have been seen before it was told.
        let is_it = |entry: &Entry| {
            let near = entry.began_ms.abs_diff(decision.at_ms) < SAME_MS;
            near && entry.origin == "seen" && entry.kind == kind && entry.group == decision.group
        };
        let seen = self.entries.iter().position(is_it).and_then(|index| self.entries.remove(index));
        self.count += u64::from(seen.is_none());
        let detail = serde_json::json!({
            "node": node.to_string(), "reason": decision.reason, "action": decision.detail,
        });
        let entry = Entry {
            id: seen.as_ref().map_or(self.count, |seen| seen.id),
            kind,
            group: decision.group,
            origin: "decided",
            by: Some("policy"),
            state,
            operation: seen.and_then(|seen| seen.operation),
            reason: Some(reason),
            detail,
            began_ms: decision.at_ms,
            ended_ms,
            held: None,
            is_old,
        };
        self.decisions.insert(key, entry);
        while self.decisions.len() > MOST_DECISIONS {
            let oldest = self.decisions.iter().min_by_key(|(_, entry)| entry.began_ms).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            self.decisions.remove(&oldest);
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().chain(self.decisions.values())
    }

    /// The newest first.
    #[must_use]
    pub(crate) fn entries(&self) -> Vec<&Entry> {
        let mut entries: Vec<_> = self.all().collect();
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.began_ms, entry.id)));
        entries
    }

    fn push(
        &mut self,
        kind: &'static str,
        group: String,
        (origin, by): (&'static str, Option<&'static str>),
        detail: Value,
    ) -> u64 {
        self.count += 1;
        if self.entries.len() == MOST_OPERATIONS {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            id: self.count,
            kind,
            group,
            origin,
            by,
            state: "running",
            operation: None,
            reason: None,
            detail,
            began_ms: now_ms(),
            ended_ms: None,
            held: None,
            is_old: false,
        });
        self.count
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_operations_are_kept_and_the_newest_comes_first() {
        let mut history = History::default();
        for group in 0..MOST_OPERATIONS as u64 + 10 {
            history.ordered("split", GroupId(group), serde_json::json!({}));
        }
        history.ended(11, "refused", Some("why".to_owned()), None);
        history.ended(12, "done", None, Some(serde_json::json!({ "child": "7" })));
        history.ended(1, "done", None, None);
        let entries = history.entries();
        assert_eq!(entries.len(), MOST_OPERATIONS);
        assert_eq!(entries[0].group, GroupId(MOST_OPERATIONS as u64 + 9).to_string());
        let last = entries[MOST_OPERATIONS - 1];
        assert_eq!((last.id, last.state, last.reason.as_deref()), (11, "refused", Some("why")));
        assert_eq!(entries[MOST_OPERATIONS - 2].detail["result"]["child"], "7");
    }

    fn decision(group: u64, at_ms: u64, action: &str, outcome: Option<&str>) -> Decision {
        let decision = serde_json::json!({
            "group": GroupId(group).to_string(), "at_ms": at_ms, "action": action, "reason": "draining",
            "text": "it is to be emptied", "outcome": outcome, "detail": { "remove": ["7"] },
        });
        serde_json::from_value(decision).expect("a decision")
    }

    #[test]
    fn decisions_of_policies_are_told_once_each_and_crowd_out_no_order() {
        let mut history = History::default();
        history.ordered("split", GroupId(1), serde_json::json!({}));
        let node = NodeId(3);
        history.decided(node, vec![decision(1, 10, "change_members", None), decision(1, 11, "nothing", None)]);
        history.decided(node, vec![decision(1, 10, "change_members", Some("done")), decision(1, 12, "nothing", None)]);
        let shown: Vec<_> = history.entries().iter().map(|entry| (entry.kind, entry.by, entry.state)).collect();
        let policy = Some("policy");
        assert_eq!(
            shown,
            [("split", Some("operator"), "running"), ("nothing", policy, "waiting"), ("members", policy, "done")]
        );
        assert_eq!(history.entries()[2].reason.as_deref(), Some("it is to be emptied"));
        history.decided(node, vec![decision(2, 13, "transfer_leader", Some("nobody answered"))]);
        let reason = history.entries()[1].reason.clone();
        assert_eq!(reason.as_deref(), Some("it is to be emptied; given up: nobody answered"));

        let many: Vec<_> = (0..2 * MOST_DECISIONS as u64).map(|at| decision(at, 20 + at, "split", None)).collect();
        for _ in 0..2 {
            history.decided(node, many.clone());
            assert_eq!(history.entries().len(), MOST_DECISIONS + 1);
            assert!(history.entries().iter().any(|entry| entry.by == Some("operator")));
        }
        let ids: std::collections::BTreeSet<_> = history.entries().iter().map(|entry| entry.id).collect();
        assert_eq!(ids.len(), MOST_DECISIONS + 1);
    }

    #[test]
    fn what_was_seen_before_it_was_told_is_one_operation() {
        let mut history = History::default();
        let seen = history.push("merge", GroupId(1).to_string(), ("seen", None), serde_json::json!({}));
        history.decided(NodeId(3), vec![decision(1, now_ms(), "merge", None)]);
        let entries = history.entries();
        assert_eq!((entries.len(), entries[0].id, entries[0].by), (1, seen, Some("policy")));
    }
}
