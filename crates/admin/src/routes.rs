//! The JSON routes: questions about the ring, and orders to a group.

use crate::picture::Picture;
use crate::settings::AdminProgramSettings;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, header};
use scatter_client::{AdminError, Client, Key, NewMember, Reason};
use scatter_core::types::{GroupId, NodeId};
use scatter_service::problem::Kind;
use scatter_service::{Problem, WriteOutcome};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// What the routes work on.
pub struct Admin {
    cluster: String,
    client: Client,
    survey: Duration,
    keep: Duration,
    order: Duration,
    /// The last picture. Who finds it too old makes the next one while the others wait for it.
    last: Mutex<Option<(Instant, Arc<Picture>)>>,
}

impl Admin {
    /// Asks through `client`.
    #[must_use]
    pub fn new(client: Client, settings: &AdminProgramSettings) -> Self {
        Self {
            cluster: settings.cluster.name.clone(),
            client,
            survey: Duration::from_millis(settings.admin.survey_ms),
            keep: Duration::from_millis(settings.admin.keep_ms),
            order: Duration::from_millis(settings.admin.order_ms),
            last: Mutex::default(),
        }
    }

    async fn picture(&self) -> Arc<Picture> {
        let mut last = self.last.lock().await;
        if let Some((made, picture)) = &*last
            && made.elapsed() <= self.keep
        {
            return Arc::clone(picture);
        }
        let picture = Arc::new(Picture::new(&self.cluster, self.client.survey(self.survey).await));
        *last = Some((Instant::now(), Arc::clone(&picture)));
        picture
    }

    /// Has the next question asked anew: an order may have changed the answer.
    async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

/// The routes.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/v1/ring", get(ring))
        .route("/v1/nodes", get(nodes))
        .route("/v1/lookup", get(lookup))
        .route("/v1/groups/{id}", get(group))
        .route("/v1/groups/{id}/members", post(members))
        .route("/v1/groups/{id}/transfer-leader", post(transfer_leader))
        .with_state(admin)
}

/// A JSON document that is true for a moment only.
fn document(value: &impl serde::Serialize) -> Response {
    let Ok(bytes) = serde_json::to_vec(value) else {
        return Problem::new(Kind::Internal, "the answer has no JSON form").into_response();
    };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, bytes).into_response()
}

async fn ring(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    parameters(query.as_deref(), &[])?;
    Ok(document(admin.picture().await.ring()))
}

async fn nodes(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    parameters(query.as_deref(), &[])?;
    Ok(document(&admin.picture().await.nodes()))
}

async fn lookup(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let mut parameters = parameters(query.as_deref(), &["key"])?;
    let (_, key) = parameters.pop().ok_or_else(|| malformed("the parameter `key` is missing"))?;
    let key = Key::new(key).map_err(|error| malformed(error.to_string()))?;
    Ok(document(&admin.picture().await.lookup(&key)))
}

async fn group(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    parameters(query.as_deref(), &[])?;
    let group = group_id(&id)?;
    let detail = admin.picture().await.group_detail(group).ok_or_else(|| unknown_group(group))?;
    Ok(document(&detail))
}

/// The body of `POST /v1/groups/{id}/members`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct MembersBody {
    add: Vec<String>,
    remove: Vec<String>,
}

async fn members(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let dry_run = order_parameters(&headers, query.as_deref())?;
    let (group, body) = (group_id(&id)?, read_body::<MembersBody>(&body)?);
    let add = body.add.iter().map(|id| node_id(id)).collect::<Result<Vec<_>, _>>()?;
    let remove = body.remove.iter().map(|id| node_id(id)).collect::<Result<Vec<_>, _>>()?;
    admin.forget().await;
    let picture = admin.picture().await;
    let after = members_after(&picture, group, &add, &remove)?;
    let newcomers = add.iter().map(|node| {
        let address = picture.peer_address(*node);
        let address = address.ok_or_else(|| Problem::new(Kind::NotFound, format!("no node {node} is known")))?;
        Ok(NewMember { node: *node, address })
    });
    let newcomers = newcomers.collect::<Result<Vec<_>, Problem>>()?;
    let plan = json!({
        "group": group.to_string(), "dry_run": dry_run, "add": texts(&add), "remove": texts(&remove),
        "members": texts(&after),
    });
    if dry_run {
        return Ok(document(&plan));
    }
    tracing::info!(%group, ?add, ?remove, "change of members ordered");
    let said = admin.client.change_members(group, newcomers, remove, false, Some(admin.order)).await;
    admin.forget().await;
    Ok(document(&with_result(plan, said.map_err(order_failed)?)))
}

/// Who the members would be, or why the change makes no sense.
fn members_after(picture: &Picture, group: GroupId, add: &[NodeId], remove: &[NodeId]) -> Result<Vec<NodeId>, Problem> {
    let descriptor = picture.descriptor(group).ok_or_else(|| unknown_group(group))?;
    if add.is_empty() && remove.is_empty() {
        return Err(malformed("the body names nobody under `add` or `remove`"));
    }
    if let Some(both) = add.iter().find(|node| remove.contains(node)) {
        return Err(malformed(format!("node {both} is both to be added and to be removed")));
    }
    let members = &descriptor.configuration;
    if let Some(known) = add.iter().find(|node| members.member(**node).is_some()) {
        return Err(Problem::new(Kind::Conflict, format!("node {known} is a member of group {group} already")));
    }
    if let Some(stranger) = remove.iter().find(|node| members.member(**node).is_none()) {
        return Err(Problem::new(Kind::Conflict, format!("node {stranger} is no member of group {group}")));
    }
    let kept = members.members.iter().map(|member| member.node).filter(|node| !remove.contains(node));
    let mut after: Vec<_> = kept.chain(add.iter().copied()).collect();
    after.sort_unstable();
    after.dedup();
    if after.is_empty() {
        return Err(Problem::new(Kind::Conflict, format!("group {group} would have no member left")));
    }
    Ok(after)
}

/// The body of `POST /v1/groups/{id}/transfer-leader`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct TransferBody {
    to: Option<String>,
}

async fn transfer_leader(
    State(admin): State<Arc<Admin>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let dry_run = order_parameters(&headers, query.as_deref())?;
    let (group, body) = (group_id(&id)?, read_body::<TransferBody>(&body)?);
    let to = body.to.as_deref().map(node_id).transpose()?;
    admin.forget().await;
    let picture = admin.picture().await;
    let descriptor = picture.descriptor(group).ok_or_else(|| unknown_group(group))?;
    if let Some(node) = to
        && !descriptor.configuration.voters().any(|voter| voter.node == node)
    {
        return Err(Problem::new(Kind::Conflict, format!("node {node} is no voting member of group {group}")));
    }
    let plan = json!({ "group": group.to_string(), "dry_run": dry_run, "to": to.map(|node| node.to_string()) });
    if dry_run {
        return Ok(document(&plan));
    }
    tracing::info!(%group, ?to, "transfer of leadership ordered");
    let said = admin.client.transfer_leader(group, to, false, Some(admin.order)).await;
    admin.forget().await;
    Ok(document(&with_result(plan, said.map_err(order_failed)?)))
}

/// The plan with what the leader said of it.
fn with_result(mut plan: Value, said: String) -> Value {
    plan["result"] = serde_json::from_str(&said).unwrap_or(Value::String(said));
    plan
}

fn order_failed(error: AdminError) -> Problem {
    let text = error.to_string();
    match error {
        AdminError::Unknown { .. } => Problem::new(Kind::OutcomeUnknown, text).with_outcome(WriteOutcome::Unknown),
        AdminError::Refused { reason } => {
            let kind = match reason {
                Reason::Conflict(_) => Kind::Conflict,
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
            let retry_after =
                (kind.status() == http::StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1));
            Problem::new(kind, text).with_outcome(WriteOutcome::NotApplied).with_retry_after(retry_after)
        }
    }
}

/// Checks that an order does not come from another site's page, and reads `?dry_run=`.
fn order_parameters(headers: &HeaderMap, query: Option<&str>) -> Result<bool, Problem> {
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(Problem::new(Kind::Forbidden, "orders are not taken from another site's page"));
    }
    match parameters(query, &["dry_run"])?.pop() {
        None => Ok(false),
        Some((_, value)) => match value.as_slice() {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(malformed("`dry_run` is `true` or `false`")),
        },
    }
}

/// The query's parameters, decoded; each at most once, and none that is not allowed.
fn parameters<'q>(query: Option<&'q str>, allowed: &[&str]) -> Result<Vec<(&'q str, Vec<u8>)>, Problem> {
    let mut found: Vec<(&str, Vec<u8>)> = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !allowed.contains(&name) {
            let known = if allowed.is_empty() { "none".into() } else { allowed.join(", ") };
            return Err(malformed(format!("unknown parameter `{name}`; this path takes {known}")));
        }
        if found.iter().any(|(known, _)| *known == name) {
            return Err(malformed(format!("the parameter `{name}` is given twice")));
        }
        found.push((name, decoded(value)?));
    }
    Ok(found)
}

/// Percent-decodes a parameter's value; `+` is a space, as forms write it.
fn decoded(value: &str) -> Result<Vec<u8>, Problem> {
    let wrong = || malformed("`%` must be followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(wrong);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).map_err(|_| wrong())?
            }
            byte => byte,
        });
    }
    Ok(bytes)
}

/// Reads a JSON body; an empty one takes the defaults.
fn read_body<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| malformed(format!("the body is not what this path takes: {error}")))
}

fn group_id(text: &str) -> Result<GroupId, Problem> {
    hexadecimal(text).map(GroupId).ok_or_else(|| malformed("a group's id is up to 16 hexadecimal digits"))
}

fn node_id(text: &str) -> Result<NodeId, Problem> {
    hexadecimal(text).map(NodeId).ok_or_else(|| malformed("a node's id is up to 16 hexadecimal digits"))
}

/// Stricter than the standard library, which takes a leading plus.
fn hexadecimal(text: &str) -> Option<u64> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u64::from_str_radix(text, 16).ok() } else { None }
}

fn texts(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

fn malformed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Kind::Malformed, detail)
}

fn unknown_group(group: GroupId) -> Problem {
    Problem::new(Kind::NotFound, format!("no group {group} is known"))
}
