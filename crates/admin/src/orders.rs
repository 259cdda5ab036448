//! Orders to a group: changes of members, transfers of leadership, and what reshapes the ring.
//!
//! Each is checked against a picture made for it, then goes to the leader of the group that is to act. An order that was
//! sent is seen through even if whoever gave it has gone: its outcome is in the history.

use crate::picture::Picture;
use crate::request::Order;
use crate::routes::{Admin, conflict, conflict_for_now, document, group_id, malformed, node_id, unknown_group};
use axum::extract::{Path, State};
use axum::response::Response;
use scatter_client::reshape::{neighbour, shift};
use scatter_client::{
    AdminError, Boundary, Client, Key, MembersOptions, NewMember, Position, Reason, ReshapeOptions, Side,
};
use scatter_core::group::{Descriptor, Role};
use scatter_core::types::{GroupId, NodeId, RangeVersion};
use scatter_service::problem::Kind;
use scatter_service::{Problem, WriteOutcome};
use scatter_wire::{NodeState, ReplicaRole};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How long a question what an order would do may take.
const DRY_RUN_LIMIT: Duration = Duration::from_secs(10);

/// How long the groups that were reshaped may take to say that it is over, once who gains has.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// How long they are left alone before they are asked again: at first, and at most.
const SETTLE_PAUSE: Duration = Duration::from_millis(5);
const MOST_SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// When an order that cannot be given at the moment may be repeated.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a node may take to tell its status.
const STATUS_LIMIT: Duration = Duration::from_secs(2);

/// The body of `POST /v1/groups/{id}/split`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SplitBody {
    /// Where the new group begins, in hexadecimal; without it and `key` in the middle of what the group holds.
    at: Option<String>,
    /// The same by a key.
    key: Option<String>,
    range_version: Option<u64>,
}

/// The body of `POST /v1/groups/{id}/merge`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MergeBody {
    side: Option<SideName>,
    range_version: Option<u64>,
}

/// The body of `POST /v1/groups/{id}/repartition`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RepartitionBody {
    boundary: Option<String>,
    key: Option<String>,
    side: Option<SideName>,
    range_version: Option<u64>,
}

/// A side of a group.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SideName {
    Predecessor,
    Successor,
}

impl From<SideName> for Side {
    fn from(name: SideName) -> Self {
        match name {
            SideName::Predecessor => Self::Predecessor,
            SideName::Successor => Self::Successor,
        }
    }
}

/// Splits a group.
pub(crate) async fn split(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, body }: Order<SplitBody>,
) -> Result<Response, Problem> {
    let group = group_id(&id)?;
    let at = position(body.at.as_deref(), body.key.as_deref(), "at")?;
    let (picture, options) = prepare(&admin, group, body.range_version, dry_run).await?;
    let range = picture.descriptor(group).map(|known| &known.range);
    if let (Some(at), Some(range)) = (&at, range)
        && (*at == range.start || !range.contains(at))
    {
        return Err(conflict("the boundary lies outside the group's range or on its end"));
    }
    let plan = json!({
        "group": group.to_string(), "dry_run": dry_run, "range_version": options.range_version.map(|version| version.0),
        "at": at.as_ref().map(ToString::to_string),
    });
    let client = admin.client.clone();
    carry_out(&admin, "split", group, plan, dry_run, async move { client.split(group, at, options).await }).await
}

/// Merges a group with a neighbour.
pub(crate) async fn merge(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, body }: Order<MergeBody>,
) -> Result<Response, Problem> {
    let group = group_id(&id)?;
    let (picture, options) = prepare(&admin, group, body.range_version, dry_run).await?;
    let side = body.side.map_or(Side::Successor, Side::from);
    let known = acting(&picture, group)?;
    if known.range.is_whole() {
        return Err(conflict("the group has no neighbour: it owns the whole ring"));
    }
    if let Some(neighbour) = neighbour(picture.view(), known, side) {
        in_action(&picture, neighbour)?;
    }
    let reshaped = Reshaped::new(&picture, &[group]);
    let plan = json!({
        "group": group.to_string(), "dry_run": dry_run, "range_version": options.range_version.map(|version| version.0), "side": side_name(side),
    });
    let client = admin.client.clone();
    let order = async move {
        let said = client.merge(group, side, options).await?;
        reshaped.settle(&client, dry_run).await;
        Ok(said)
    };
    carry_out(&admin, "merge", group, plan, dry_run, order).await
}

/// Moves a boundary of a group.
pub(crate) async fn repartition(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, body }: Order<RepartitionBody>,
) -> Result<Response, Problem> {
    let group = group_id(&id)?;
    let boundary = position(body.boundary.as_deref(), body.key.as_deref(), "boundary")?;
    let boundary =
        boundary.ok_or_else(|| malformed("the body says under `boundary` or `key` where the boundary shall lie"))?;
    let side = body.side.map_or(Side::Successor, Side::from);
    let (picture, options) = prepare(&admin, group, body.range_version, dry_run).await?;
    let shift = shift(picture.view(), group, &boundary, side).map_err(|reason| match reason {
        Reason::Conflict(text) => conflict(text),
        reason => order_failed(AdminError::Refused { reason }, dry_run),
    })?;
    for group in [shift.gainer, shift.loser] {
        acting(&picture, group)?;
    }
    let plan = json!({
        "group": group.to_string(), "dry_run": dry_run, "range_version": options.range_version.map(|version| version.0),
        "boundary": boundary.to_string(), "side": side_name(side), "gainer": shift.gainer.to_string(), "loser": shift.loser.to_string(),
    });
    let reshaped = Reshaped::new(&picture, &[shift.gainer, shift.loser]);
    let client = admin.client.clone();
    let order = async move {
        let said = client.repartition(group, boundary, side, options).await?;
        reshaped.settle(&client, dry_run).await;
        Ok(said)
    };
    carry_out(&admin, "repartition", shift.gainer, plan, dry_run, order).await
}

/// A fresh picture, in which the group must be, and how the order is to be given: of the range as it is in that picture, so
/// that of two operators who order the same only one is heard.
async fn prepare(
    admin: &Admin,
    group: GroupId,
    range_version: Option<u64>,
    dry_run: bool,
) -> Result<(Arc<Picture>, ReshapeOptions), Problem> {
    admin.forget().await;
    let picture = admin.picture().await;
    let known = acting(&picture, group)?.range_version;
    if let Some(wanted) = range_version.filter(|wanted| *wanted != known.0) {
        let text = format!("the range of group {group} has version {known}, not {wanted}");
        return Err(conflict(text));
    }
    Ok((picture, ReshapeOptions { range_version: Some(known), dry_run, timeout: Some(admin.limit(dry_run)) }))
}

impl Admin {
    /// How long an order may take, or the question what it would do.
    fn limit(&self, dry_run: bool) -> Duration {
        if dry_run { self.order.min(DRY_RUN_LIMIT) } else { self.order }
    }
}

/// Groups whose ranges an order changes, with the versions they had before.
struct Reshaped {
    groups: Vec<(GroupId, RangeVersion)>,
    /// Who hosts them afterwards: the members of the one that gains.
    hosts: BTreeSet<NodeId>,
}

impl Reshaped {
    /// The first of the groups is the one that gains.
    fn new(picture: &Picture, groups: &[GroupId]) -> Self {
        let known = || groups.iter().filter_map(|group| picture.descriptor(*group));
        let members = known().take(1).flat_map(|known| &known.configuration.members);
        Self {
            hosts: members.map(|member| member.node).collect(),
            groups: known().map(|known| (known.group, known.range_version)).collect(),
        }
    }

    /// Waits until the leaders of all groups say that it is over. Who loses hears of the end a little later than who ordered it,
    /// and until then would refuse the next order. It is over all the same if they do not say so in time.
    async fn settle(&self, client: &Client, dry_run: bool) {
        if dry_run {
            return;
        }
        let waited = tokio::time::timeout(SETTLE_LIMIT, async {
            let mut pause = SETTLE_PAUSE;
            while !self.is_settled(client).await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MOST_SETTLE_PAUSE);
            }
        });
        if waited.await.is_err() {
            tracing::warn!(groups = ?self.groups, "not all of them say that what was ordered of them is over");
        }
    }

    async fn is_settled(&self, client: &Client) -> bool {
        let told = futures::future::join_all(self.hosts.iter().map(|host| client.describe(*host))).await;
        let replicas = || told.iter().flatten().flat_map(|told| &told.node.replicas);
        self.groups.iter().all(|(group, before)| {
            let led = replicas().filter(|replica| replica.group == *group && replica.role == ReplicaRole::Leader);
            let leader = led.max_by_key(|replica| replica.ballot);
            leader.is_some_and(|leader| leader.range_version > *before && leader.pending.is_none())
        })
    }
}

/// A group that can act.
fn acting(picture: &Picture, group: GroupId) -> Result<&Arc<Descriptor>, Problem> {
    let descriptor = picture.descriptor(group).ok_or_else(|| unknown_group(group))?;
    in_action(picture, descriptor).map(|()| descriptor)
}

/// Refuses what would wait for nobody until its time is over.
fn in_action(picture: &Picture, descriptor: &Descriptor) -> Result<(), Problem> {
    let Some(why) = picture.out_of_action(descriptor) else { return Ok(()) };
    Err(for_now(why))
}

/// A refusal because somebody does not answer at the moment.
fn for_now(why: String) -> Problem {
    let problem = Problem::new(Kind::Unavailable, why).with_outcome(WriteOutcome::NotApplied);
    problem.with_retry_after(Some(RETRY_AFTER))
}

/// Sends the order, and notes it and what became of it unless it only asks.
async fn carry_out(
    admin: &Arc<Admin>,
    kind: &'static str,
    group: GroupId,
    plan: Value,
    dry_run: bool,
    order: impl Future<Output = Result<String, AdminError>> + Send + 'static,
) -> Result<Response, Problem> {
    if dry_run {
        let said = order.await.map_err(|error| order_failed(error, true))?;
        return Ok(document(&with_result(plan, said)));
    }
    tracing::info!(%group, %plan, "{kind} ordered");
    let number = admin.history().ordered(kind, group, plan.clone());
    let said = see_through(admin, number, order).await?;
    Ok(document(&with_result(plan, said)))
}

/// Has an order carried out, also if nobody waits for it any more, and notes what became of it.
pub(crate) async fn see_through(
    admin: &Arc<Admin>,
    number: u64,
    order: impl Future<Output = Result<String, AdminError>> + Send + 'static,
) -> Result<String, Problem> {
    let noting = Arc::clone(admin);
    let work = tokio::spawn(async move {
        let said = order.await;
        let mut history = noting.history();
        match &said {
            Ok(json) => history.ended(number, "done", None, serde_json::from_str(json).ok()),
            Err(error @ AdminError::Refused { .. }) => history.ended(number, "refused", Some(error.to_string()), None),
            Err(error @ AdminError::Unknown { .. }) => history.ended(number, "unknown", Some(error.to_string()), None),
        }
        said
    });
    let said = work.await.map_err(|_| Problem::new(Kind::Internal, "the order's task ended by itself"))?;
    admin.forget().await;
    said.map_err(|error| order_failed(error, false))
}

/// A position from its hexadecimal digits or as that of a key.
fn position(hexadecimal: Option<&str>, key: Option<&str>, name: &str) -> Result<Option<Position>, Problem> {
    match (hexadecimal, key) {
        (Some(_), Some(_)) => Err(malformed(format!("the body has both `{name}` and `key`"))),
        (None, None) => Ok(None),
        (None, Some(key)) => {
            let key = Key::new(key.as_bytes().to_vec()).map_err(|error| malformed(error.to_string()))?;
            Ok(Some(key.position()))
        }
        (Some(text), None) => {
            let wrong =
                || malformed(format!("`{name}` is a position: an even number of hexadecimal digits, not too many"));
            let bytes = text.as_bytes().chunks(2).map(|pair| {
                let digits = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2);
                let digits = digits.filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
                digits.and_then(|pair| u8::from_str_radix(pair, 16).ok())
            });
            let bytes: Vec<u8> = bytes.collect::<Option<_>>().ok_or_else(wrong)?;
            Boundary::new(Position(bytes.into())).map(|boundary| Some(boundary.into())).ok_or_else(wrong)
        }
    }
}

const fn side_name(side: Side) -> &'static str {
    match side {
        Side::Predecessor => "predecessor",
        Side::Successor => "successor",
    }
}

/// The body of `POST /v1/groups/{id}/members`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MembersBody {
    add: Vec<String>,
    remove: Vec<String>,
    configuration_version: Option<u64>,
}

/// Changes a group's members.
pub(crate) async fn members(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, body }: Order<MembersBody>,
) -> Result<Response, Problem> {
    let group = group_id(&id)?;
    let add = body.add.iter().map(|id| node_id(id)).collect::<Result<Vec<_>, _>>()?;
    let remove = body.remove.iter().map(|id| node_id(id)).collect::<Result<Vec<_>, _>>()?;
    admin.forget().await;
    let picture = admin.picture().await;
    // Of two who see the same members only one is heard, whatever either of them knows of the other.
    let version = acting(&picture, group)?.configuration.version;
    if let Some(wanted) = body.configuration_version.filter(|wanted| *wanted != version.0) {
        return Err(conflict(format!("the configuration of group {group} has version {version}, not {wanted}")));
    }
    let after = members_after(&picture, group, &add, &remove)?;
    enough_left(&admin, &picture, group, &add, &remove).await?;
    let newcomers = add.iter().map(|node| {
        let address = picture.peer_address(*node);
        let address = address.ok_or_else(|| Problem::new(Kind::NotFound, format!("no node {node} is known")))?;
        Ok(NewMember { node: *node, address })
    });
    let newcomers = newcomers.collect::<Result<Vec<_>, Problem>>()?;
    for node in &add {
        able(&picture, *node)?;
    }
    if let Some(full) = without_room(&admin.client, &add).await {
        return Err(conflict_for_now(format!("the disk of node {full} is full")));
    }
    let plan = json!({
        "group": group.to_string(), "dry_run": dry_run, "configuration_version": version.0, "add": texts(&add),
        "remove": texts(&remove), "members": texts(&after),
    });
    let (client, limit) = (admin.client.clone(), admin.limit(dry_run));
    let order = async move {
        let options = MembersOptions { version: Some(version), dry_run, timeout: Some(limit) };
        match client.change_members(group, newcomers, remove, options).await {
            Ok(said) => Ok(said),
            Err(error) => Err(explained(error, without_room(&client, &add).await)),
        }
    };
    carry_out(&admin, "members", group, plan, dry_run, order).await
}

/// The first of these nodes that says its disk is full. Who does not answer says nothing.
async fn without_room(client: &Client, nodes: &[NodeId]) -> Option<NodeId> {
    for node in nodes {
        let status = client.node_status(*node, Some(STATUS_LIMIT)).await.ok();
        let status: Option<Value> = status.and_then(|json| serde_json::from_str(&json).ok());
        if status.is_some_and(|status| status["disk_full"] == true) {
            return Some(*node);
        }
    }
    None
}

/// Why a change of members did not come about, with what the newcomer says that has no room. Its leader only knows that it did not
/// catch up.
fn explained(error: AdminError, full: Option<NodeId>) -> AdminError {
    let Some(node) = full else { return error };
    let with = |reason: Reason| Reason::Conflict(format!("{reason}; the disk of node {node} is full"));
    match error {
        AdminError::Unknown { reason } => AdminError::Unknown { reason: with(reason) },
        AdminError::Refused { reason } => AdminError::Refused { reason: with(reason) },
    }
}

/// Whether anything may be laid upon a node. Who does not answer would have the order wait until its time is over.
fn able(picture: &Picture, node: NodeId) -> Result<(), Problem> {
    let why = match picture.state(node) {
        Some(NodeState::Alive | NodeState::Joining) => return Ok(()),
        Some(NodeState::Draining | NodeState::Drained) => "is to be emptied",
        Some(NodeState::Dead) => return Err(conflict(format!("node {node} is dead"))),
        Some(NodeState::Suspect) | None => "does not answer",
    };
    Err(conflict_for_now(format!("node {node} {why}")))
}

/// Who the members would be, or why the change makes no sense.
fn members_after(picture: &Picture, group: GroupId, add: &[NodeId], remove: &[NodeId]) -> Result<Vec<NodeId>, Problem> {
    let descriptor = acting(picture, group)?;
    if add.is_empty() && remove.is_empty() {
        return Err(malformed("the body names nobody under `add` or `remove`"));
    }
    for (nodes, name) in [(add, "add"), (remove, "remove")] {
        if let Some(twice) = twice(nodes) {
            return Err(malformed(format!("the body names node {twice} twice under `{name}`")));
        }
    }
    if let Some(both) = add.iter().find(|node| remove.contains(node)) {
        return Err(malformed(format!("node {both} is both to be added and to be removed")));
    }
    let members = &descriptor.configuration;
    // Who only learns may be left from a change that did not come about, which may be ordered again.
    let is_voter = |node: &NodeId| members.member(*node).is_some_and(|member| member.role == Role::Voter);
    if let Some(known) = add.iter().find(|node| is_voter(node)) {
        return Err(conflict(format!("node {known} is a member of group {group} already")));
    }
    if let Some(stranger) = remove.iter().find(|node| members.member(**node).is_none()) {
        return Err(conflict(format!("node {stranger} is no member of group {group}")));
    }
    let kept = members.members.iter().map(|member| member.node).filter(|node| !remove.contains(node));
    let mut after: Vec<_> = kept.chain(add.iter().copied()).collect();
    after.sort_unstable();
    after.dedup();
    if after.is_empty() {
        return Err(conflict(format!("group {group} would have no member left")));
    }
    Ok(after)
}

/// What is read of a leader's status before its group shrinks.
#[derive(Deserialize)]
struct Sizes {
    min_size: Option<usize>,
}

/// Refuses what leaves a group with fewer voters than the policies' `min_size` on its leader. A group that is smaller already may
/// stay as it is, and voters that are dead may always be taken out: they are no help to it.
async fn enough_left(
    admin: &Admin,
    picture: &Picture,
    group: GroupId,
    add: &[NodeId],
    remove: &[NodeId],
) -> Result<(), Problem> {
    let Some(descriptor) = picture.descriptor(group) else { return Ok(()) };
    let voters = || descriptor.configuration.voters().map(|voter| voter.node);
    let mut leaving = voters().filter(|node| remove.contains(node));
    let left = voters().filter(|node| !remove.contains(node)).count() + add.len();
    if left >= voters().count() || leaving.all(|node| picture.is_gone(node)) {
        return Ok(());
    }
    let unknown = || for_now(format!("the leader of group {group} does not say how small the group may become"));
    let leader = picture.leader_of(group).ok_or_else(unknown)?;
    let status = admin.client.node_status(leader, Some(STATUS_LIMIT)).await.map_err(|_| unknown())?;
    let sizes: Sizes = serde_json::from_str(&status).map_err(|_| unknown())?;
    // A node of an earlier release has no word on it.
    let Some(least) = sizes.min_size.filter(|least| left < *least) else { return Ok(()) };
    Err(conflict(format!(
        "group {group} would have {left} voters left, fewer than `policy.min_size`, which is {least}: add another node in the \
         same order"
    )))
}

/// The body of `POST /v1/groups/{id}/transfer-leader`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TransferBody {
    to: Option<String>,
}

/// Hands a group's leadership over.
pub(crate) async fn transfer_leader(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    Order { dry_run, body }: Order<TransferBody>,
) -> Result<Response, Problem> {
    let group = group_id(&id)?;
    let to = body.to.as_deref().map(node_id).transpose()?;
    admin.forget().await;
    let picture = admin.picture().await;
    let descriptor = acting(&picture, group)?;
    if let Some(node) = to
        && !descriptor.configuration.voters().any(|voter| voter.node == node)
    {
        return Err(conflict(format!("node {node} is no voting member of group {group}")));
    }
    if let Some(node) = to {
        able(&picture, node)?;
    }
    let plan = json!({ "group": group.to_string(), "dry_run": dry_run, "to": to.map(|node| node.to_string()) });
    let (client, limit) = (admin.client.clone(), admin.limit(dry_run));
    let order = async move { client.transfer_leader(group, to, dry_run, Some(limit)).await };
    carry_out(&admin, "transfer-leader", group, plan, dry_run, order).await
}

/// The plan with what the leader said of it.
fn with_result(mut plan: Value, said: String) -> Value {
    let said: Value = serde_json::from_str(&said).unwrap_or(Value::String(said));
    if let Some(child) = said.get("child") {
        plan["child"] = child.clone();
    }
    // Whom the leader chose.
    if let Some(to) = said.get("to").filter(|_| plan["to"].is_null()) {
        plan["to"] = to.clone();
    }
    plan["result"] = said;
    plan
}

fn order_failed(error: AdminError, dry_run: bool) -> Problem {
    let error = match error {
        // A question that is not answered has changed nothing.
        AdminError::Unknown { reason } if dry_run => AdminError::Refused { reason },
        error => error,
    };
    let mut text = error.to_string();
    if dry_run {
        text.push_str("; it was only asked, nothing was changed");
    }
    match error {
        AdminError::Unknown { .. } => {
            let text = format!("{text}; /v1/ring shows what came of it");
            Problem::new(Kind::OutcomeUnknown, text).with_outcome(WriteOutcome::Unknown)
        }
        AdminError::Refused { reason: Reason::NoOwner } => {
            conflict("the group is gone, or nobody who was asked has it; /v1/ring shows what there is")
        }
        AdminError::Refused { reason: Reason::Gone { .. } } => conflict(text),
        AdminError::Refused { reason } => {
            let kind = match reason {
                Reason::Conflict(_) | Reason::Gone { .. } => Kind::Conflict,
                Reason::Malformed(_) => Kind::Malformed,
                Reason::TooLarge { .. } => Kind::TooLarge,
                Reason::Deadline => Kind::DeadlineExceeded,
                Reason::Overloaded { .. } => Kind::Overloaded,
                Reason::DiskFull => Kind::StorageFull,
                Reason::NoOwner
                | Reason::NoLeader
                | Reason::Unreachable(_)
                | Reason::Sealed { .. }
                | Reason::Unavailable(_)
                | Reason::Forgotten => Kind::Unavailable,
            };
            let retry_after = (kind.status() == http::StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER);
            Problem::new(kind, text).with_outcome(WriteOutcome::NotApplied).with_retry_after(retry_after)
        }
    }
}

/// A node that is named more than once.
fn twice(nodes: &[NodeId]) -> Option<NodeId> {
    let mut seen = BTreeSet::new();
    nodes.iter().copied().find(|node| !seen.insert(*node))
}

fn texts(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}
