//! Orders about a node: to empty it, to take that back, to take it out of every group.

use crate::orders::see_through;
use crate::picture::Picture;
use crate::request::Order;
use crate::routes::{Admin, conflict, conflict_for_now, document, node_id};
use axum::extract::{Path, State};
use axum::response::Response;
use scatter_client::{AdminError, Client, MembersOptions, NewMember, Reason};
use scatter_core::group::Descriptor;
use scatter_core::types::{ConfigurationVersion, GroupId, NodeId};
use scatter_service::Problem;
use scatter_service::problem::Kind;
use scatter_wire::NodeState;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// None of these orders takes anything.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Nothing {}

/// Has a node emptied: what it leads goes to others at once, its replicas as the policies find room for them.
pub(crate) async fn drain(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, .. }: Order<Nothing>,
) -> Result<Response, Problem> {
    set_draining(&admin, &id, dry_run, true).await
}

/// Takes a drain back.
pub(crate) async fn undrain(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, .. }: Order<Nothing>,
) -> Result<Response, Problem> {
    set_draining(&admin, &id, dry_run, false).await
}

async fn set_draining(admin: &Arc<Admin>, id: &str, dry_run: bool, on: bool) -> Result<Response, Problem> {
    let node = node_id(id)?;
    let _alone = admin.sparing.lock().await;
    admin.forget().await;
    let picture = admin.picture().await;
    match picture.state(node) {
        None => return Err(unknown_node(node)),
        Some(NodeState::Dead) if on => return Err(conflict(format!("node {node} is dead: remove it instead"))),
        Some(NodeState::Dead) => return Err(conflict(format!("node {node} is dead"))),
        Some(_) => {}
    }
    let groups = hosted(&picture, node);
    if on {
        would_strand(&picture, node, &groups)?;
    }
    let plan = json!({ "node": node.to_string(), "dry_run": dry_run, "draining": on, "groups": names(&groups) });
    if dry_run {
        return Ok(document(&plan));
    }
    let kind = if on { "drain" } else { "undrain" };
    tracing::info!(%node, "{kind} ordered");
    let number = admin.history().ordered_of_node(kind, plan.clone());
    let (client, limit) = (admin.client.clone(), admin.order);
    see_through(admin, number, async move { client.drain(node, on, Some(limit)).await }).await?;
    Ok(document(&plan))
}

/// Takes a node that is dead, or hosts nothing that others need, out of every group: each gets another member at once.
pub(crate) async fn remove(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, .. }: Order<Nothing>,
) -> Result<Response, Problem> {
    let node = node_id(&id)?;
    admin.forget().await;
    let picture = admin.picture().await;
    let state = picture.state(node).ok_or_else(|| unknown_node(node))?;
    let groups = hosted(&picture, node);
    if !groups.is_empty() && matches!(state, NodeState::Alive | NodeState::Draining) {
        let text =
            format!("node {node} lives and hosts {} replicas: drain it, and remove it when it is empty", groups.len());
        return Err(conflict_for_now(text));
    }
    if !groups.is_empty() && picture.is_heard(node) {
        let text =
            format!("node {node} does not answer here, but the others have not given it up: wait until it is dead");
        return Err(conflict_for_now(text));
    }
    // Each group has somebody else in its place; of several that fit, those with the fewest replicas.
    let mut changes: Vec<Replacement> = Vec::new();
    for group in &groups {
        let given = |node: &NodeId| {
            let given = changes.iter().filter(|change| change.by.as_ref().is_some_and(|by| by.node == *node));
            picture.replica_count(*node) + given.count()
        };
        let to = replacements(&picture, group).into_iter().min_by_key(given);
        let by = to.and_then(|node| Some(NewMember { node, address: picture.peer_address(node)? }));
        changes.push(Replacement { group: group.group, version: group.configuration.version, by });
    }
    let shown = changes.iter().map(|change| {
        json!({ "group": change.group.to_string(), "replaced_by": change.by.as_ref().map(|by| by.node.to_string()) })
    });
    let plan = json!({ "node": node.to_string(), "dry_run": dry_run, "changes": shown.collect::<Vec<_>>() });
    if dry_run {
        return Ok(document(&plan));
    }
    tracing::info!(%node, "remove ordered");
    let number = admin.history().ordered_of_node("remove", plan.clone());
    let (client, limit) = (admin.client.clone(), admin.order);
    see_through(&admin, number, async move { replace_all(&client, node, changes, limit).await }).await?;
    Ok(document(&plan))
}

/// How one group lets go of a node.
struct Replacement {
    group: GroupId,
    /// Of its configuration, as it was seen.
    version: ConfigurationVersion,
    /// Who comes in the node's place, if there is anybody.
    by: Option<NewMember>,
}

/// Has each group let go of the node, also if another one will not, all within `limit`.
async fn replace_all(
    client: &Client,
    node: NodeId,
    changes: Vec<Replacement>,
    limit: Duration,
) -> Result<String, AdminError> {
    let (deadline, all) = (Instant::now() + limit, changes.len());
    let mut failed: Vec<(GroupId, AdminError)> = Vec::new();
    for Replacement { group, version, by } in changes {
        let left = deadline.saturating_duration_since(Instant::now());
        let add = by.into_iter().collect();
        let options = MembersOptions { version: Some(version), dry_run: false, timeout: Some(left) };
        if let Err(error) = client.change_members(group, add, vec![node], options).await {
            failed.push((group, error));
        }
    }
    let (done, is_refused) = (all - failed.len(), failed.iter().all(|(_, error)| is_refused(error)));
    let Some((group, error)) = failed.into_iter().next() else {
        return Ok(json!({ "groups": all }).to_string());
    };
    if done == 0 && is_refused {
        return Err(error);
    }
    let text = format!("{done} of {all} groups have let go of the node, group {group} has not: {error}");
    Err(AdminError::Unknown { reason: Reason::Conflict(text) })
}

const fn is_refused(error: &AdminError) -> bool {
    matches!(error, AdminError::Refused { .. })
}

/// Refuses what could never end: as many nodes must be left as a group has voters, or its replica stays where it is.
fn would_strand(picture: &Picture, node: NodeId, groups: &[&Arc<Descriptor>]) -> Result<(), Problem> {
    let left = picture.node_ids().into_iter().filter(|other| *other != node);
    let left = left.filter(|other| picture.state(*other) == Some(NodeState::Alive)).count();
    let Some(stranded) = groups.iter().find(|group| group.configuration.voters().count() > left) else { return Ok(()) };
    let wanted = stranded.configuration.voters().count();
    Err(conflict_for_now(format!(
        "group {} has {wanted} replicas, and without node {node} only {left} nodes are left that live and are not to be \
         emptied: its replica would have nowhere to go",
        stranded.group
    )))
}

/// The groups that have a member on the node.
fn hosted(picture: &Picture, node: NodeId) -> Vec<&Arc<Descriptor>> {
    picture.descriptors().filter(|group| group.configuration.member(node).is_some()).collect()
}

/// The nodes that could take the place of a member.
fn replacements(picture: &Picture, group: &Descriptor) -> Vec<NodeId> {
    let alive = |node: &NodeId| picture.state(*node) == Some(NodeState::Alive);
    let is_new = |node: &NodeId| group.configuration.member(*node).is_none();
    picture.node_ids().into_iter().filter(|node| alive(node) && is_new(node)).collect()
}

fn names(groups: &[&Arc<Descriptor>]) -> Vec<Value> {
    groups.iter().map(|group| group.group.to_string().into()).collect()
}

fn unknown_node(node: NodeId) -> Problem {
    Problem::new(Kind::NotFound, format!("no node {node} is known"))
}
