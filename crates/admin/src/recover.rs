//! Unsafe recovery: a group that has lost its majority for good goes on with its survivors, as another group.
//!
//! ```text
//! picture --> who is left, who is condemned, what may be lost          (a dry run ends here)
//!         --> every node that answers: listen to the condemned no more (each survivor must confirm)
//!         --> the survivor that knows most: go on                      --> the new group's id
//! ```
//!
//! What was ordered, and what came of it, is in the history; the group keeps its own record of it in its replicated state.

use crate::orders::see_through;
use crate::picture::Picture;
use crate::request::Order;
use crate::routes::{Admin, conflict, conflict_for_now, document, group_id, malformed, node_id, unknown_group};
use axum::extract::State;
use axum::response::Response;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use scatter_client::{AdminError, Client, Reason};
use scatter_core::types::{GroupId, NodeId, Slot};
use scatter_service::Problem;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long a node may take to note whom it is not to listen to.
const CONDEMN_LIMIT: Duration = Duration::from_secs(5);

/// The body of `POST /v1/recover`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RecoverBody {
    group: Option<String>,
    /// The nodes that are left; without it all voters that answer.
    survivors: Option<Vec<String>>,
    /// Says that whoever orders it knows what may be lost.
    #[serde(rename = "unsafe")]
    is_unsafe: bool,
}

/// What a recovery would do.
struct Plan {
    group: GroupId,
    survivors: Vec<NodeId>,
    condemned: Vec<NodeId>,
    /// The survivor that knows most decided.
    base: NodeId,
    /// Who is told whom not to listen to.
    listeners: Vec<NodeId>,
}

/// Has a group go on with its survivors.
pub(crate) async fn recover(
    State(admin): State<Arc<Admin>>,
    Order { dry_run, body }: Order<RecoverBody>,
) -> Result<Response, Problem> {
    let group =
        body.group.as_deref().ok_or_else(|| malformed("the body names under `group` what is to be recovered"))?;
    let group = group_id(group)?;
    let named = body.survivors.as_ref().map(|names| names.iter().map(|id| node_id(id)).collect::<Result<_, _>>());
    let named: Option<BTreeSet<NodeId>> = named.transpose()?;
    if !dry_run && !body.is_unsafe {
        return Err(malformed(
            "a recovery may lose acknowledged writes: the body says so by `\"unsafe\": true`; `?dry_run=true` tells what",
        ));
    }
    admin.forget().await;
    let picture = admin.picture().await;
    let plan = plan(&picture, group, named)?;
    let shown = shown(&picture, &plan, dry_run);
    if dry_run {
        return Ok(document(&shown));
    }
    tracing::warn!(%group, plan = %shown, "unsafe recovery ordered");
    let number = admin.history().ordered("recover", group, shown.clone());
    let (client, limit) = (admin.client.clone(), admin.order);
    let said = see_through(&admin, number, async move { carry_out(&client, plan, limit).await }).await?;
    let mut answer = shown;
    answer["result"] = serde_json::from_str(&said).unwrap_or(Value::String(said));
    answer["child"] = answer["result"]["child"].clone();
    Ok(document(&answer))
}

/// What is to be done, if anything is.
fn plan(picture: &Picture, group: GroupId, named: Option<BTreeSet<NodeId>>) -> Result<Plan, Problem> {
    let descriptor = picture.descriptor(group).ok_or_else(|| unknown_group(group))?;
    let voters: BTreeSet<NodeId> = descriptor.configuration.voters().map(|member| member.node).collect();
    let answering: BTreeSet<NodeId> = picture.answering().collect();
    let left: BTreeSet<NodeId> = voters.intersection(&answering).copied().collect();
    let survivors = named.unwrap_or_else(|| left.clone());
    if let Some(stranger) = survivors.difference(&voters).next() {
        return Err(conflict(format!("node {stranger} does not vote in group {group}")));
    }
    if let Some(silent) = survivors.difference(&left).next() {
        return Err(conflict_for_now(format!("node {silent} does not answer: it cannot be one of the survivors")));
    }
    if let Some(forgotten) = left.difference(&survivors).next() {
        return Err(conflict(format!("node {forgotten} votes in the group and answers: name it among the survivors")));
    }
    if left.len() >= descriptor.configuration.majority() {
        return Err(conflict(format!("{} of {} voters answer: the group needs no recovery", left.len(), voters.len())));
    }
    let known = |node: &NodeId| picture.known_decided(*node, group);
    let base = survivors.iter().copied().filter(|node| known(node).is_some()).max_by_key(known);
    let Some(base) = base else {
        return Err(conflict_for_now(format!(
            "no voter of group {group} that has its data answers: nothing is left of it"
        )));
    };
    let condemned = voters.difference(&survivors).copied().collect();
    let (survivors, listeners) = (survivors.into_iter().collect(), answering.into_iter().collect());
    Ok(Plan { group, survivors, condemned, base, listeners })
}

/// The plan as whoever orders it sees it.
fn shown(picture: &Picture, plan: &Plan, dry_run: bool) -> Value {
    let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let decided = picture.known_decided(plan.base, plan.group).unwrap_or(Slot(0));
    let text = format!(
        "every write that the group acknowledged after slot {decided}, the last that node {} knows decided, unless a survivor has \
         it on disk; the group's data altogether, should a condemned node still serve it elsewhere",
        plan.base
    );
    json!({
        "group": plan.group.to_string(),
        "dry_run": dry_run,
        "survivors": names(&plan.survivors),
        "condemned": names(&plan.condemned),
        "base": plan.base.to_string(),
        "decided": decided.0,
        "may_be_lost": text,
    })
}

async fn carry_out(client: &Client, plan: Plan, limit: Duration) -> Result<String, AdminError> {
    let mut telling: FuturesUnordered<_> = plan
        .listeners
        .iter()
        .map(|node| {
            let condemned = plan.condemned.clone();
            async move { (*node, client.condemn(*node, condemned, Some(CONDEMN_LIMIT.min(limit))).await) }
        })
        .collect();
    let mut untold = Vec::new();
    while let Some((node, told)) = telling.next().await {
        if let Err(error) = told {
            tracing::warn!(%node, %error, "a node was not told whom not to listen to");
            untold.push(node);
        }
    }
    drop(telling);
    if let Some(deaf) = untold.iter().find(|node| plan.survivors.contains(node)) {
        let text =
            format!("node {deaf} did not confirm that it will not listen to the condemned: nothing is recovered yet");
        return Err(AdminError::Refused { reason: Reason::Unavailable(text) });
    }
    let said = client.recover(plan.base, plan.group, plan.survivors, Some(limit)).await?;
    let mut said: Value = serde_json::from_str(&said).unwrap_or_default();
    said["untold"] = untold.iter().map(ToString::to_string).collect();
    Ok(said.to_string())
}
