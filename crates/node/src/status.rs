//! What the node tells of itself over HTTP, and what an operator's order would do.

use crate::orders::range;
use crate::organiser::{Record, action_name};
use crate::serving::{Held, Served, Serving};
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use scatter_core::group::{Configuration, Link, Links, Role};
use scatter_core::ops::Recovered;
use scatter_core::policy::{Action, Measure, Side};
use scatter_core::types::{GroupId, NodeId};
use scatter_wire::{Identity, NewMember};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// `/v1/status` as JSON.
#[must_use]
pub fn status(serving: &Serving, identity: &Identity) -> Value {
    let view = serving.view.load();
    let replicas: Vec<Value> = view
        .replicas
        .iter()
        .map(|status| {
            let served = serving.group(status.replica.group);
            let figures = served.as_ref().map(|served| &served.figures);
            json!({
                "group": status.replica.group.to_string(),
                "incarnation": status.replica.incarnation.0,
                "role": status.role,
                "leader": status.leader.map(|node| node.to_string()),
                "ballot": status.ballot.to_string(),
                "decided": status.decided.0,
                "applied": status.applied.0,
                "flushed": status.flushed.0,
                "lease_ms": u64::try_from(status.lease.as_millis()).unwrap_or(u64::MAX),
                "configuration": status.configuration.as_ref().map(members),
                "keys": figures.map(|figures| figures.keys.load(Ordering::Relaxed)),
                "bytes": figures.map(|figures| figures.bytes.load(Ordering::Relaxed)),
                "range": served.as_ref().map(|served| range(&served.range)),
                "range_version": served.as_ref().map(|served| served.range_version.0),
                "links": served.as_ref().map(|served| links(&served.links)),
                "recovered": served.iter().flat_map(|served| &served.recovered).map(recovered).collect::<Vec<_>>(),
                "pending": served.as_ref().and_then(|served| served.held.as_ref()).map(pending),
            })
        })
        .collect();
    json!({
        "cluster": { "name": identity.cluster_name, "id": view.cluster.map(|id| id.to_string()) },
        "node": {
            "id": identity.node.to_string(),
            "peer": identity.peer_address,
            "http": identity.http_address,
            "zone": identity.zone,
            "boot": identity.boot,
        },
        "draining": view.draining,
        "replicas": replicas,
        "min_size": serving.min_size,
        "policy": serving.policies.lock().iter().map(decision).collect::<Vec<_>>(),
        "disk_full": view.disk_full,
        "problem": view.problem,
    })
}

fn decision(record: &Record) -> Value {
    let at = record.at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    json!({
        "group": record.group.to_string(),
        "at_ms": u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        "action": action_name(&record.proposal.action),
        "detail": detail(&record.proposal.action),
        "reason": record.proposal.reason.name(),
        "text": record.proposal.reason.to_string(),
        "outcome": record.outcome,
    })
}

fn names(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

/// Whom an action concerns, by its parts.
fn detail(action: &Action) -> Value {
    match action {
        Action::ChangeMembers { add, remove } => {
            let add: Vec<NodeId> = add.iter().map(|(node, _)| *node).collect();
            json!({ "add": names(&add), "remove": names(remove) })
        }
        Action::TransferLeader { to } => json!({ "to": to.to_string() }),
        Action::Split { by } => json!({ "by": measure(*by) }),
        Action::Merge { successor } => json!({ "successor": successor.to_string() }),
        Action::Repartition { toward, by, take_permille } => {
            let toward = if *toward == Side::Successor { "successor" } else { "predecessor" };
            json!({ "toward": toward, "by": measure(*by), "take_permille": take_permille })
        }
        Action::Nothing => json!({}),
    }
}

const fn measure(measure: Measure) -> &'static str {
    match measure {
        Measure::Operations => "operations",
        Measure::Bytes => "bytes",
    }
}

fn links(links: &Links) -> Value {
    let link = |link: &Link| {
        json!({
            "group": link.group.to_string(),
            "range": range(&link.range),
            "range_version": link.range_version.0,
            "configuration_version": link.configuration_version.0,
        })
    };
    json!({ "version": links.version.0, "predecessor": link(&links.predecessor), "successor": link(&links.successor) })
}

/// The record of an unsafe recovery.
fn recovered(recovered: &Recovered) -> Value {
    json!({
        "from": recovered.group.to_string(),
        "at_slot": recovered.at.0,
        "log_time_micros": recovered.log_time.0,
        "survivors": names(&recovered.survivors),
        "condemned": names(&recovered.condemned),
    })
}

fn pending(held: &Held) -> Value {
    let info = held.info();
    json!({
        "operation": info.operation.to_string(),
        "kind": info.kind(),
        "gains": info.gains,
        "other": info.other.to_string(),
        "moving": range(&info.moving),
        "age_ms": info.age_ms,
    })
}

fn members(configuration: &Configuration) -> Value {
    let members: Vec<Value> = configuration
        .members
        .iter()
        .map(|member| {
            json!({
                "node": member.node.to_string(),
                "role": if member.role == Role::Voter { "voter" } else { "learner" },
                "peer": member.address,
            })
        })
        .collect();
    json!({ "version": configuration.version.0, "members": members })
}

/// The node's own routes beside the data API.
pub fn router(serving: Arc<Serving>, identity: Identity) -> axum::Router {
    let state = (serving, Arc::new(identity));
    axum::Router::new().route("/v1/status", get(show)).with_state(state)
}

async fn show(State((serving, identity)): State<(Arc<Serving>, Arc<Identity>)>) -> impl IntoResponse {
    let body = status(&serving, &identity).to_string();
    ([(axum::http::header::CONTENT_TYPE, "application/json")], body)
}

/// What a change of members would lead to, without doing it.
pub fn plan_members(served: &Served, add: &[NewMember], remove: &[NodeId]) -> Result<Value, String> {
    let configuration = &served.configuration;
    for member in add {
        if configuration.member(member.node).is_some_and(|known| known.role == Role::Voter) {
            return Err(format!("node {} is a voter already", member.node));
        }
    }
    for node in remove {
        if configuration.member(*node).is_none() {
            return Err(format!("node {node} is no member"));
        }
    }
    let mut voters: Vec<NodeId> = configuration.voters().map(|member| member.node).collect();
    voters.retain(|node| !remove.contains(node));
    voters.extend(add.iter().map(|member| member.node));
    voters.sort_unstable();
    voters.dedup();
    if voters.is_empty() {
        return Err("the order leaves no voter".to_owned());
    }
    let named: Vec<String> = voters.iter().map(ToString::to_string).collect();
    Ok(json!({ "dry_run": true, "group": served.group.to_string(), "voters": named, "majority": voters.len() / 2 + 1 }))
}

/// Whether leadership could go to a node, without doing it.
pub fn plan_transfer(serving: &Serving, group: GroupId, to: Option<NodeId>) -> Result<Value, String> {
    let served = serving.group(group).ok_or("no replica of the group is here")?;
    if let Some(node) = to
        && !served.configuration.voters().any(|member| member.node == node)
    {
        return Err(format!("node {node} is no voter of the group"));
    }
    let leader = serving.descriptor(&served).leader.map(|node| node.to_string());
    Ok(json!({ "dry_run": true, "group": group.to_string(), "leader": leader, "to": to.map(|node| node.to_string()) }))
}
