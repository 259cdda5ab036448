//! An operator: looks at the ring through the admin program and gives orders.

use crate::http::{self, Failed, Reply, Request};
use crate::wait;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;

/// How long an order may take: longer than the admin program waits for it.
const ORDER_LIMIT: Duration = Duration::from_secs(90);

/// One group as the ring shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its id.
    pub id: String,
    /// Where its range begins, in hexadecimal.
    pub start: String,
    /// Where it ends; the same for the whole ring.
    pub end: String,
    /// The version of its range.
    pub range_version: u64,
    /// Who leads it; empty if nobody does.
    pub leader: String,
}

/// Somebody at the admin program.
#[derive(Clone, Copy, Debug)]
pub struct Operator {
    /// Where it serves.
    pub admin: SocketAddr,
}

impl Operator {
    /// The ring.
    #[must_use]
    pub fn ring(&self) -> Value {
        wait::until("the ring is shown", || {
            http::get(self.admin, "/v1/ring").ok().filter(|reply| reply.status == 200).map(|reply| reply.json())
        })
    }

    /// The ring, if it is shown within `limit`.
    #[must_use]
    pub fn try_ring(&self, limit: Duration) -> Option<Value> {
        let reply = Request { limit, ..Request::new("GET", "/v1/ring") }.ask(self.admin).ok()?;
        (reply.status == 200).then(|| reply.json())
    }

    /// The groups in ring order.
    #[must_use]
    pub fn groups(&self) -> Vec<Group> {
        let ring = self.ring();
        let groups = ring["groups"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let group = |group: &Value| Group {
            id: text(&group["id"]),
            start: text(&group["range"]["start"]),
            end: text(&group["range"]["end"]),
            range_version: group["epoch"]["range"].as_u64().unwrap_or(0),
            leader: text(&group["leader"]),
        };
        groups.iter().map(group).collect()
    }

    /// Waits until the ring is whole, nothing is pending and nothing is wrong; then its groups.
    #[must_use]
    pub fn settled(&self) -> Vec<Group> {
        let mut last = Value::Null;
        let begun = std::time::Instant::now();
        loop {
            let ring = self.ring();
            let pending =
                ring["groups"].as_array().is_some_and(|groups| groups.iter().any(|group| !group["pending"].is_null()));
            if !pending && ring["problems"].as_array().is_some_and(Vec::is_empty) {
                return self.groups();
            }
            if ring != last {
                last = ring;
            }
            assert!(begun.elapsed() < wait::LIMIT, "the ring does not come to rest: {last:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the ring is at rest with so many groups.
    #[must_use]
    pub fn settled_with(&self, count: usize) -> Vec<Group> {
        let mut groups = self.settled();
        let begun = std::time::Instant::now();
        while groups.len() != count {
            assert!(begun.elapsed() < wait::LIMIT, "not {count} groups: {groups:?}");
            groups = self.settled();
        }
        groups
    }

    /// Waits until the ring has so many groups, each led by somebody; then their ids.
    #[must_use]
    pub fn led(&self, count: usize) -> Vec<String> {
        wait::until(&format!("{count} groups are led"), || {
            let groups = self.groups();
            let led = groups.len() == count && groups.iter().all(|group| !group.leader.is_empty());
            led.then(|| groups.into_iter().map(|group| group.id).collect())
        })
    }

    /// Gives an order and waits for the answer, if there is one.
    pub fn send_order(&self, group: &str, what: &str, body: &str) -> Result<Reply, Failed> {
        let path = format!("/v1/groups/{group}/{what}");
        Request { limit: ORDER_LIMIT, ..Request::new("POST", &path).with_body(body.as_bytes()) }.ask(self.admin)
    }

    /// Gives an order; whatever comes of it.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn try_order(&self, group: &str, what: &str, body: &str) -> Reply {
        self.send_order(group, what, body).unwrap_or_else(|error| panic!("{what} of {group} with {body}: {error:?}"))
    }

    /// Gives an order that must succeed.
    ///
    /// # Panics
    /// If it does not.
    pub fn order(&self, group: &str, what: &str, body: &str) -> Value {
        let reply = self.try_order(group, what, body);
        assert_eq!(reply.status, 200, "{what} of {group} with {body}: {}", reply.text());
        reply.json()
    }

    /// A node's state as the admin program shows it; empty if it knows no such node.
    #[must_use]
    pub fn node_state(&self, node: &str) -> String {
        let nodes = wait::until("the nodes are shown", || {
            http::get(self.admin, "/v1/nodes").ok().filter(|reply| reply.status == 200).map(|reply| reply.json())
        });
        let nodes = nodes["nodes"].as_array().cloned().unwrap_or_default();
        let found = nodes.iter().find(|known| known["id"] == node);
        found.and_then(|node| node["state"].as_str()).unwrap_or_default().to_owned()
    }

    /// Waits until a node is in a state.
    pub fn wait_node_state(&self, node: &str, state: &str) {
        wait::until_true(&format!("node {node} is {state}"), || self.node_state(node) == state);
    }

    /// Gives an order about a node, `what` with its query; whatever comes of it.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn order_node(&self, node: &str, what: &str) -> Reply {
        let path = format!("/v1/nodes/{node}/{what}");
        let reply = Request { limit: ORDER_LIMIT, ..Request::new("POST", &path) }.ask(self.admin);
        reply.unwrap_or_else(|error| panic!("{what} of node {node}: {error:?}"))
    }

    /// The voters of every group, sorted, in ring order.
    #[must_use]
    pub fn voters(&self) -> Vec<Vec<String>> {
        let ring = self.ring();
        let groups = ring["groups"].as_array().cloned().unwrap_or_default();
        let voters = |group: &Value| {
            let members = group["members"].as_array().cloned().unwrap_or_default();
            let voters = members.iter().filter(|member| member["role"] != "learner");
            let mut voters: Vec<String> =
                voters.map(|member| member["node"].as_str().unwrap_or_default().to_owned()).collect();
            voters.sort();
            voters
        };
        groups.iter().map(voters).collect()
    }
}
