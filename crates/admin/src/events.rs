//! `GET /v1/events`: what changes on the ring, as server-sent events.
//!
//! Whoever listens has the picture made anew now and then, as the page does; what differs from the picture before becomes
//! events. They carry rising numbers and the last of them are kept, so that a listener that was away goes on where it was.

use crate::history::{Entry, History};
use crate::picture::Picture;
use crate::routes::{Admin, parameters};
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use scatter_core::group::Descriptor;
use scatter_core::types::GroupId;
use scatter_service::problem::Kind;
use scatter_service::{Problem, Shutdown};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// The most events kept for those who come back.
const MOST_EVENTS: usize = 1024;

/// The most listeners at a time.
pub(crate) const MOST_LISTENERS: usize = 64;

/// How often the picture is made anew for a listener.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often the nodes are asked for what their policies decided while somebody listens.
const POLICIES_EVERY: Duration = Duration::from_secs(5);

/// After how long without an event a comment shows that the connection stands.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// One event.
#[derive(Clone, Debug)]
struct Event {
    id: u64,
    kind: &'static str,
    data: Value,
}

/// The last picture as far as changes of it are told.
#[derive(Debug, Default)]
struct Before {
    groups: BTreeMap<GroupId, Arc<Descriptor>>,
    leaders: BTreeMap<String, String>,
    nodes: BTreeMap<String, &'static str>,
    problems: BTreeSet<(&'static str, Option<String>, Option<String>)>,
    /// The operations in the history that had ended.
    ended: BTreeSet<u64>,
    /// And those that were under way.
    running: BTreeSet<u64>,
}

/// The last events.
#[derive(Debug)]
pub(crate) struct Feed {
    kept: VecDeque<Event>,
    next: u64,
    before: Option<Before>,
}

impl Default for Feed {
    /// Numbers begin with the time, so that they rise over restarts too.
    fn default() -> Self {
        Self { kept: VecDeque::new(), next: crate::history::now_ms().max(1), before: None }
    }
}

impl Feed {
    fn tell(&mut self, kind: &'static str, mut data: Value) {
        data["at_ms"] = crate::history::now_ms().into();
        if self.kept.len() == MOST_EVENTS {
            self.kept.pop_front();
        }
        self.kept.push_back(Event { id: self.next, kind, data });
        self.next += 1;
    }

    /// Tells what is new in a picture and in the history. The first picture is where it begins.
    pub(crate) fn observe(&mut self, picture: &Picture, history: &History) {
        let after = Before::of(picture, history);
        let Some(before) = self.before.take() else {
            self.before = Some(after);
            return;
        };
        // Nobody answered: nothing is known to have changed but that.
        let after = if after.groups.is_empty() {
            Before { groups: before.groups.clone(), leaders: before.leaders.clone(), ..after }
        } else {
            after
        };
        self.tell_groups(&before, &after);
        self.tell_leaders(&before, &after);
        self.tell_nodes(&before, &after);
        self.tell_operations(&before, history);
        let problem = |(kind, group, node): &(&str, Option<String>, Option<String>)| json!({ "problem": kind, "group": group, "node": node });
        for new in after.problems.difference(&before.problems) {
            self.tell("problem_began", problem(new));
        }
        for old in before.problems.difference(&after.problems) {
            self.tell("problem_ended", problem(old));
        }
        self.before = Some(after);
    }

    fn tell_groups(&mut self, before: &Before, after: &Before) {
        let owner = |groups: &BTreeMap<GroupId, Arc<Descriptor>>, of: &Descriptor| {
            let mut groups = groups.values().filter(|known| known.group != of.group);
            groups.find(|known| known.range.contains(&of.range.start)).map(|known| known.group)
        };
        for (id, group) in &after.groups {
            let range = json!({ "start": group.range.start.to_string(), "end": group.range.end.to_string() });
            let Some(known) = before.groups.get(id) else {
                let parent = owner(&before.groups, group).filter(|parent| after.groups.contains_key(parent));
                match parent {
                    Some(parent) => self.tell(
                        "group_split",
                        json!({ "group": parent.to_string(), "child": id.to_string(), "range": range }),
                    ),
                    None => self.tell("group_came", json!({ "group": id.to_string(), "range": range })),
                }
                continue;
            };
            if known.range != group.range {
                let version = group.range_version.0;
                self.tell("range_changed", json!({ "group": id.to_string(), "range": range, "version": version }));
            }
            if known.configuration.version != group.configuration.version {
                let members = group.configuration.members.iter().map(|member| member.node.to_string());
                let members: Vec<String> = members.collect();
                self.tell("members_changed", json!({ "group": id.to_string(), "members": members }));
            }
        }
        for (id, group) in before.groups.iter().filter(|(id, _)| !after.groups.contains_key(*id)) {
            match owner(&after.groups, group) {
                Some(gainer) => {
                    self.tell("group_merged", json!({ "group": gainer.to_string(), "merged": id.to_string() }));
                }
                None => self.tell("group_went", json!({ "group": id.to_string() })),
            }
        }
    }

    fn tell_leaders(&mut self, before: &Before, after: &Before) {
        for group in after.groups.keys().map(ToString::to_string) {
            let (was, is) = (before.leaders.get(&group), after.leaders.get(&group));
            if was != is {
                self.tell("leader_changed", json!({ "group": group, "from": was, "to": is }));
            }
        }
    }

    fn tell_nodes(&mut self, before: &Before, after: &Before) {
        for (node, state) in &after.nodes {
            let was = before.nodes.get(node);
            if was != Some(state) {
                self.tell("node_state_changed", json!({ "node": node, "from": was, "to": state }));
            }
        }
        for (node, was) in before.nodes.iter().filter(|(node, _)| !after.nodes.contains_key(*node)) {
            self.tell("node_state_changed", json!({ "node": node, "from": was, "to": null }));
        }
    }

    fn tell_operations(&mut self, before: &Before, history: &History) {
        for entry in history.all().filter(|entry| !before.ended.contains(&entry.id) && !entry.is_old) {
            if !before.running.contains(&entry.id) {
                // It may be over by now.
                let mut data = operation(entry);
                data["state"] = "running".into();
                self.tell("operation_started", data);
            }
            if entry.state != "running" {
                self.tell("operation_ended", operation(entry));
            }
        }
    }

    /// What comes after an id, and where that leads to. An id that is none of those kept and not the last before them is
    /// answered with a reset: the listener must look at the ring anew.
    fn after(&self, last: u64) -> (Vec<Event>, u64) {
        let oldest = self.kept.front().map_or(self.next, |event| event.id);
        if last.saturating_add(1) < oldest || last >= self.next {
            let data = json!({ "text": "not everything since the last event is known any more: look at /v1/ring" });
            let id = self.next - 1;
            return (vec![Event { id, kind: "reset", data }], id);
        }
        (self.kept.iter().filter(|event| event.id > last).cloned().collect(), self.next - 1)
    }
}

fn operation(entry: &Entry) -> Value {
    json!({
        "id": entry.id, "kind": entry.kind, "group": entry.group, "by": entry.by, "state": entry.state,
        "reason": entry.reason, "detail": entry.detail,
    })
}

impl Before {
    fn of(picture: &Picture, history: &History) -> Self {
        let ring = picture.ring();
        let (ended, running): (Vec<_>, Vec<_>) = history.all().partition(|entry| entry.state != "running");
        Self {
            groups: picture.descriptors().map(|group| (group.group, Arc::clone(group))).collect(),
            leaders: ring.groups.iter().filter_map(|group| Some((group.id.clone(), group.leader.clone()?))).collect(),
            nodes: picture.nodes().nodes.into_iter().map(|node| (node.id, node.state)).collect(),
            problems: ring
                .problems
                .iter()
                .map(|problem| (problem.kind, problem.group.clone(), problem.node.clone()))
                .collect(),
            ended: ended.iter().map(|entry| entry.id).collect(),
            running: running.iter().map(|entry| entry.id).collect(),
        }
    }
}

/// Serves the events to one listener.
pub(crate) async fn events(
    State(admin): State<Arc<Admin>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parameters(query.as_deref(), &[])?;
    let wanted = match headers.get("last-event-id") {
        None => None,
        Some(value) => {
            let id = value.to_str().ok().and_then(|text| text.parse::<u64>().ok().filter(|_| !text.starts_with('+')));
            Some(id.ok_or_else(|| crate::routes::malformed("`Last-Event-ID` is the `id` of an event"))?)
        }
    };
    let Ok(seat) = Arc::clone(&admin.listeners).try_acquire_owned() else {
        let text = format!("{MOST_LISTENERS} listeners are as many as there may be");
        return Err(Problem::new(Kind::Overloaded, text).with_retry_after(Some(Duration::from_secs(5))));
    };
    admin.picture().await;
    let last = wanted.unwrap_or_else(|| admin.feed().next - 1);
    let shutdown = admin.shutdown.clone();
    let listener = Listener { admin, shutdown, last, silent_since: None, policies_at: Instant::now(), _seat: seat };
    let body = Body::from_stream(futures::stream::unfold(listener, |mut listener| async move {
        let bytes = listener.next().await?;
        Some((Ok::<_, Infallible>(bytes), listener))
    }));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

/// Somebody who listens.
struct Listener {
    admin: Arc<Admin>,
    shutdown: Shutdown,
    /// The id of what was told last.
    last: u64,
    /// Since when nothing was told; `None` at the beginning.
    silent_since: Option<Instant>,
    policies_at: Instant,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    /// What is to be sent next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        // Whoever connects hears at once that the connection stands.
        if self.silent_since.is_none() {
            self.silent_since = Some(Instant::now());
            return Some(Bytes::from_static(b"retry: 2000\n\n"));
        }
        loop {
            let (events, last) = self.admin.feed().after(self.last);
            self.last = last;
            if !events.is_empty() {
                self.silent_since = Some(Instant::now());
                let text: String = events.iter().map(written).collect();
                return Some(text.into());
            }
            if self.silent_since.is_none_or(|since| since.elapsed() >= HEARTBEAT) {
                self.silent_since = Some(Instant::now());
                return Some(Bytes::from_static(b":\n\n"));
            }
            tokio::select! {
                () = self.shutdown.requested() => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if self.policies_at <= Instant::now() {
                self.policies_at = Instant::now() + POLICIES_EVERY;
                self.admin.ask_policies().await;
            }
            self.admin.picture().await;
        }
    }
}

/// An event as it is sent. JSON has no line breaks.
fn written(event: &Event) -> String {
    format!("id: {}\nevent: {}\ndata: {}\n\n", event.id, event.kind, event.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_away_goes_on_where_it_was_or_hears_that_it_cannot() {
        let mut feed = Feed::default();
        let begin = feed.next;
        assert_eq!(feed.after(begin - 1).0.len(), 0, "nothing has happened");
        for _ in 0..MOST_EVENTS + 10 {
            feed.tell("group_came", json!({}));
        }
        let last = feed.next - 1;
        let (events, to) = feed.after(last - 2);
        assert_eq!((events.iter().map(|event| event.id).collect::<Vec<_>>(), to), (vec![last - 1, last], last));
        assert_eq!(feed.after(last).0.len(), 0);
        assert_eq!(feed.after(begin + 9).0.len(), MOST_EVENTS, "the last before those kept");
        for gone in [0, begin + 8, last + 1, u64::MAX] {
            let (events, to) = feed.after(gone);
            assert_eq!((events[0].kind, events[0].id, to), ("reset", last, last), "{gone}");
        }
        assert!(written(&feed.kept[0]).starts_with(&format!("id: {}\nevent: group_came\ndata: {{", begin + 10)));
    }
}
