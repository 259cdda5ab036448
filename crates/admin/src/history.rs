//! What happened to the ring, as far as this program ordered it or saw it: the last operations, each with its outcome. Kept in
//! memory: the groups keep what matters, this is for a person who asks what was done and why it failed.

use crate::picture::Picture;
use scatter_core::types::GroupId;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

/// The most operations remembered.
pub(crate) const MOST_OPERATIONS: usize = 256;

/// How long after the end of an order a loser may still be seen to be held by it.
const LATE_MS: u64 = 10_000;

/// One operation.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Entry {
    /// Counts up from 1 since the program started.
    pub(crate) id: u64,
    /// `split`, `merge`, `repartition`, `members`, `transfer-leader`, `drain`, `undrain` or `remove`.
    pub(crate) kind: &'static str,
    /// The group that was ordered to act, or that gains; empty of orders about a node.
    pub(crate) group: String,
    /// `ordered` through this program, or `seen`.
    pub(crate) origin: &'static str,
    /// `running`, `done`, `refused`, `aborted` or `unknown`.
    pub(crate) state: &'static str,
    /// What the groups call it, once it has begun; splits and changes of members have no such name.
    pub(crate) operation: Option<String>,
    /// Why it did not come about.
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
}

/// The last operations.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: VecDeque<Entry>,
    count: u64,
}

impl History {
    /// Notes an order. Returns its number.
    pub(crate) fn ordered(&mut self, kind: &'static str, group: GroupId, detail: Value) -> u64 {
        self.push(kind, group.to_string(), "ordered", detail)
    }

    /// Notes an order about a node, which its detail names. Returns its number.
    pub(crate) fn ordered_of_node(&mut self, kind: &'static str, detail: Value) -> u64 {
        self.push(kind, String::new(), "ordered", detail)
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
            if self.entries.iter().any(|entry| entry.operation.as_deref() == Some(id)) {
                continue;
            }
            let gainer = if operation.gains { group.id.clone() } else { operation.other.clone() };
            // The loser may hear of it only after whoever ordered it has.
            let ordered = self.entries.iter_mut().rev().find(|entry| {
                let fresh = entry.ended_ms.is_none_or(|ended| now_ms() < ended + LATE_MS);
                fresh && entry.operation.is_none() && entry.kind == operation.kind && entry.group == gainer
            });
            if let Some(entry) = ordered {
                entry.operation = Some((*id).to_owned());
                continue;
            }
            let number = self.push(operation.kind, gainer, "seen", serde_json::json!({ "moving": operation.moving }));
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

    /// The newest first.
    #[must_use]
    pub(crate) fn entries(&self) -> Vec<&Entry> {
        self.entries.iter().rev().collect()
    }

    fn push(&mut self, kind: &'static str, group: String, origin: &'static str, detail: Value) -> u64 {
        self.count += 1;
        if self.entries.len() == MOST_OPERATIONS {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry {
            id: self.count,
            kind,
            group,
            origin,
            state: "running",
            operation: None,
            reason: None,
            detail,
            began_ms: now_ms(),
            ended_ms: None,
            held: None,
        });
        self.count
    }
}

fn now_ms() -> u64 {
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
}
