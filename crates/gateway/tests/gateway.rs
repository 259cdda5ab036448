//! The gateway over pretended nodes: what a browser or curl sees.

#[path = "../../client/tests/fake/mod.rs"]
mod fake;

use fake::{Cluster, Trick};
use reqwest::{Client, StatusCode};
use scatter_core::types::NodeId;
use scatter_gateway::{GatewaySettings, PROGRAM};
use scatter_service::configuration::{Loaded, load};
use scatter_service::{Process, Shutdown};
use scatter_wire::Refusal;
use serde_json::Value;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

struct Gateway {
    cluster: Arc<Cluster>,
    http: Client,
    base: String,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Gateway {
    async fn start() -> Self {
        let cluster = Cluster::start(3).await;
        let seed = cluster.address(1);
        Self::with_seed(cluster, seed).await
    }

    async fn with_seed(cluster: Arc<Cluster>, seed: String) -> Self {
        let listen = format!("{}:8080", cluster.host);
        let arguments = ["scatter-gateway", "--listen", &listen, "--seeds", &seed, "--cluster", "fake"];
        let loaded = load::<GatewaySettings>(&PROGRAM, arguments.map(OsString::from), []);
        let Ok(Loaded::Run(settings)) = loaded else { panic!("good arguments") };
        let shutdown = Shutdown::new();
        let process = Process { program: PROGRAM, shutdown: shutdown.clone() };
        let task = tokio::spawn(async move { scatter_gateway::run(*settings, process).await.expect("it runs") });
        let http = Client::builder().no_proxy().build().expect("a client");
        let gateway = Self { cluster, http, base: format!("http://{listen}"), shutdown, task };
        while gateway.http.get(gateway.url("/livez")).send().await.is_err() {
            tokio::task::yield_now().await;
        }
        gateway
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.http.get(self.url(path)).send().await.expect("a reply");
        (response.status(), response.text().await.expect("a body"))
    }

    async fn put(&self, path: &str, body: &'static str) -> (StatusCode, Value) {
        let request = self.http.put(self.url(path)).header("Request-Timeout", "20s").body(body);
        let response = request.send().await.expect("a reply");
        let status = response.status();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    async fn ready(&self) {
        while self.get("/readyz").await.0 != StatusCode::OK {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn writes_and_reads_go_through() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.put("/v1/kv/a%2Fb", "one").await.0, StatusCode::CREATED);
    assert_eq!(gateway.put("/v1/kv/a%2Fb", "two").await.0, StatusCode::OK);
    let response = gateway.http.get(gateway.url("/v1/kv/a%2Fb")).send().await.expect("a reply");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["scatter-group"], "0000000000000abc");
    assert_eq!(response.headers()["scatter-consistency"], "linearizable");
    assert_eq!(response.bytes().await.expect("a body"), "two");
    let stale = gateway.http.get(gateway.url("/v1/kv/a%2Fb?consistency=any")).send().await.expect("a reply");
    assert!(stale.headers().contains_key("scatter-staleness"));
    let deleted = gateway.http.delete(gateway.url("/v1/kv/a%2Fb")).send().await.expect("a reply");
    assert_eq!(deleted.status(), StatusCode::NO_CONTENT);
    assert_eq!(gateway.get("/v1/kv/a%2Fb").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn conditions_come_back_as_412() {
    let gateway = Gateway::start().await;
    gateway.put("/v1/kv/a", "one").await;
    let request = gateway.http.put(gateway.url("/v1/kv/a")).header("If-None-Match", "*").body("two");
    assert_eq!(request.send().await.expect("a reply").status(), StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn failures_say_what_became_of_the_write() {
    let gateway = Gateway::start().await;
    gateway.cluster.trick(Trick::Refuse(Refusal::DiskFull));
    let (status, problem) = gateway.put("/v1/kv/a", "one").await;
    assert_eq!((status, &problem["outcome"]), (StatusCode::SERVICE_UNAVAILABLE, &"not_applied".into()));
    gateway.cluster.trick(Trick::ApplyThenHangUp);
    gateway.cluster.trick(Trick::Refuse(Refusal::DiskFull));
    let (status, problem) = gateway.put("/v1/kv/a", "one").await;
    assert_eq!((status, &problem["outcome"]), (StatusCode::GATEWAY_TIMEOUT, &"unknown".into()), "{problem}");

    gateway.cluster.freeze(1, true);
    let request = gateway.http.put(gateway.url("/v1/kv/a")).header("Request-Timeout", "200ms").body("one");
    let response = request.send().await.expect("a reply");
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    let problem: Value = response.json().await.expect("a problem");
    assert_eq!(problem["outcome"], "unknown");
}

#[tokio::test]
async fn a_lost_answer_is_not_seen_from_outside() {
    let gateway = Gateway::start().await;
    gateway.cluster.trick(Trick::ApplyThenHangUp);
    assert_eq!(gateway.put("/v1/kv/a", "one").await.0, StatusCode::CREATED);
    assert_eq!(gateway.cluster.group.lock().applied.len(), 1);
}

#[tokio::test]
async fn is_ready_once_the_ring_is_known_and_somebody_leads() {
    let cluster = Cluster::start(3).await;
    cluster.depose();
    let address = cluster.kill(1).await;
    let gateway = Gateway::with_seed(cluster, address.clone()).await;
    assert_eq!(gateway.get("/livez").await.0, StatusCode::OK);
    let (status, problem) = gateway.get("/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(problem.contains("seed"), "{problem}");
    gateway.cluster.run_node(NodeId(1), &address).await;
    while !gateway.get("/readyz").await.1.contains("leader") {
        tokio::task::yield_now().await;
    }
    gateway.cluster.elect(2);
    gateway.ready().await;
}

#[tokio::test]
async fn metrics_tell_of_the_client() {
    let gateway = Gateway::start().await;
    gateway.ready().await;
    gateway.put("/v1/kv/a", "one").await;
    let (_, metrics) = gateway.get("/metrics").await;
    for line in [
        "scatter_client_writes_total 1",
        "scatter_client_in_flight 0",
        "scatter_client_known_groups 1",
        "scatter_client_shed_total 0",
        "scatter_client_retries_total 0",
        "scatter_client_redirects_total 0",
        "scatter_client_cache_hits_total",
    ] {
        assert!(metrics.contains(line), "`{line}` is missing in:\n{metrics}");
    }
}

#[tokio::test]
async fn ends_when_asked() {
    let gateway = Gateway::start().await;
    gateway.shutdown.request();
    tokio::time::timeout(Duration::from_secs(20), gateway.task).await.expect("in time").expect("no panic");
}
