//! The JSON routes: questions about the ring. [`crate::orders`] takes the orders.

use crate::events::{self, Feed, MOST_LISTENERS};
use crate::history::{Decision, History};
use crate::node_orders;
use crate::orders;
use crate::picture::Picture;
use crate::recover;
use crate::settings::AdminProgramSettings;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::StreamExt as _;
use http::header;
use scatter_client::{Client, Key};
use scatter_core::types::{GroupId, NodeId};
use scatter_service::problem::Kind;
use scatter_service::{Problem, Shutdown, WriteOutcome};
use serde_json::json;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

/// How many times as long as a picture the answers of the nodes about their policies are good.
const POLICIES_KEPT: u32 = 4;

/// How many nodes are asked at once what their policies decided.
const ASKED_AT_ONCE: usize = 16;

/// What the routes work on.
pub struct Admin {
    cluster: String,
    pub(crate) client: Client,
    survey: Duration,
    keep: Duration,
    pub(crate) order: Duration,
    history: std::sync::Mutex<History>,
    feed: std::sync::Mutex<Feed>,
    /// A seat for each that listens to events.
    pub(crate) listeners: Arc<Semaphore>,
    pub(crate) shutdown: Shutdown,
    /// Held by who looks whether a node can be spared, until it is known to be emptied: two who look at once would each count on
    /// the other's.
    pub(crate) sparing: Mutex<()>,
    /// When the nodes were asked what their policies decided.
    policies_asked: Mutex<Option<Instant>>,
    /// The last picture. Who finds it too old makes the next one while the others wait for it.
    last: Mutex<Option<(Instant, Arc<Picture>)>>,
}

impl Admin {
    /// Asks through `client`; whoever listens to events is let go when `shutdown` is requested.
    #[must_use]
    pub fn new(client: Client, settings: &AdminProgramSettings, shutdown: Shutdown) -> Self {
        Self {
            cluster: settings.cluster.name.clone(),
            client,
            survey: Duration::from_millis(settings.admin.survey_ms),
            keep: Duration::from_millis(settings.admin.keep_ms),
            order: Duration::from_millis(settings.admin.order_ms),
            history: std::sync::Mutex::default(),
            feed: std::sync::Mutex::default(),
            listeners: Arc::new(Semaphore::new(MOST_LISTENERS)),
            shutdown,
            sparing: Mutex::default(),
            policies_asked: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// What happened. A panic of somebody who held it leaves nothing half done.
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last events.
    pub(crate) fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the nodes what their policies decided. Who does not answer has not told.
    pub(crate) async fn ask_policies(&self) {
        let mut asked = self.policies_asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() <= self.keep * POLICIES_KEPT) {
            return;
        }
        let nodes: Vec<NodeId> = self.picture().await.answering().collect();
        let ask = |node| async move { (node, self.client.node_status(node, Some(self.survey)).await) };
        let mut answers = futures::stream::iter(nodes).map(ask).buffer_unordered(ASKED_AT_ONCE);
        while let Some((node, answer)) = answers.next().await {
            let told = answer.ok().and_then(|json| serde_json::from_str::<Told>(&json).ok());
            self.history().decided(node, told.map(|told| told.policy).unwrap_or_default());
        }
        *asked = Some(Instant::now());
    }

    pub(crate) async fn picture(&self) -> Arc<Picture> {
        let mut last = self.last.lock().await;
        if let Some((made, picture)) = &*last
            && made.elapsed() <= self.keep
        {
            return Arc::clone(picture);
        }
        let picture = Arc::new(Picture::new(&self.cluster, self.client.survey(self.survey).await));
        {
            let mut history = self.history();
            history.observe(&picture);
            self.feed().observe(&picture, &history);
        }
        *last = Some((Instant::now(), Arc::clone(&picture)));
        picture
    }

    /// Has the next question asked anew: an order may have changed the answer.
    pub(crate) async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

/// What is read of a node's status.
#[derive(serde::Deserialize)]
struct Told {
    policy: Vec<Decision>,
}

/// The routes.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/v1/ring", get(ring))
        .route("/v1/nodes", get(nodes))
        .route("/v1/lookup", get(lookup))
        .route("/v1/groups/{id}", get(group))
        .route("/v1/operations", get(operations))
        .route("/v1/events", get(events::events))
        .route("/v1/groups/{id}/split", post(orders::split))
        .route("/v1/groups/{id}/merge", post(orders::merge))
        .route("/v1/groups/{id}/repartition", post(orders::repartition))
        .route("/v1/groups/{id}/members", post(orders::members))
        .route("/v1/groups/{id}/transfer-leader", post(orders::transfer_leader))
        .route("/v1/nodes/{id}/drain", post(node_orders::drain))
        .route("/v1/nodes/{id}/undrain", post(node_orders::undrain))
        .route("/v1/nodes/{id}/remove", post(node_orders::remove))
        .route("/v1/recover", post(recover::recover))
        .with_state(admin)
}

/// A JSON document that is true for a moment only.
pub(crate) fn document(value: &impl serde::Serialize) -> Response {
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

async fn operations(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    parameters(query.as_deref(), &[])?;
    // What was decided by itself and what holds a group at this moment is part of the answer.
    admin.ask_policies().await;
    admin.picture().await;
    Ok(document(&json!({ "operations": admin.history().entries() })))
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

/// The query's parameters, decoded; each at most once, and none that is not allowed.
pub(crate) fn parameters<'q>(query: Option<&'q str>, allowed: &[&str]) -> Result<Vec<(&'q str, Vec<u8>)>, Problem> {
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

pub(crate) fn group_id(text: &str) -> Result<GroupId, Problem> {
    hexadecimal(text).map(GroupId).ok_or_else(|| malformed("a group's id is up to 16 hexadecimal digits"))
}

pub(crate) fn node_id(text: &str) -> Result<NodeId, Problem> {
    hexadecimal(text).map(NodeId).ok_or_else(|| malformed("a node's id is up to 16 hexadecimal digits"))
}

/// Stricter than the standard library, which takes a leading plus.
fn hexadecimal(text: &str) -> Option<u64> {
    let digits = (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u64::from_str_radix(text, 16).ok() } else { None }
}

pub(crate) fn malformed(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Kind::Malformed, detail)
}

/// An order that what is there does not allow for the moment: it may be given again.
pub(crate) fn conflict_for_now(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem::new(Kind::Conflict, detail).with_outcome(WriteOutcome::NotApplied)
}

/// An order that does not fit what is there, and will not if it is given again.
pub(crate) fn conflict(detail: impl Into<std::borrow::Cow<'static, str>>) -> Problem {
    Problem { retryable: false, ..conflict_for_now(detail) }
}

pub(crate) fn unknown_group(group: GroupId) -> Problem {
    Problem::new(Kind::NotFound, format!("no group {group} is known"))
}
