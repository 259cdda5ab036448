//! The OpenAPI document and the server say the same: every reply that the server gives is in the document with its
//! headers and media type, and every reply in the document is given here.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use scatter_api::testing::{Memory, Planned};
use scatter_api::{Api, ApiMetrics, ApiSettings, Failure, Reason, openapi};
use scatter_core::command::Outcome;
use scatter_core::types::Version;
use scatter_service::http::{Body, HttpSettings, Site};
use scatter_service::{Program, Shutdown, metrics};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PROGRAM: Program = Program { name: "scatter-test", about: "A test.", version: "0.0.0", flags: &[] };

/// Headers that HTTP itself defines for any reply.
const ANYWHERE: [&str; 2] = ["content-type", "content-length"];

struct Checked {
    api: Api<Memory>,
    memory: Memory,
    is_ready: Arc<AtomicBool>,
    document: Value,
    seen: BTreeSet<(String, String, String)>,
}

impl Checked {
    fn new() -> Self {
        let registry = metrics::registry();
        let api_metrics = ApiMetrics::register(&registry).expect("metrics");
        let is_ready = Arc::new(AtomicBool::new(true));
        let document = openapi(&PROGRAM, &Value::Null);
        let readiness = {
            let is_ready = Arc::clone(&is_ready);
            Arc::new(move || if is_ready.load(Ordering::Relaxed) { Ok(()) } else { Err("a test".to_owned()) })
        };
        let site = Site::new(&PROGRAM, registry, readiness, document.clone(), Shutdown::new());
        let memory = Memory::new();
        let settings = ApiSettings { maximum_value_bytes: 100, ..ApiSettings::default() };
        let api = Api::new(memory.clone(), &settings, &HttpSettings::default(), api_metrics, site);
        let document = serde_json::from_slice(&document).expect("JSON");
        Self { api, memory, is_ready, document, seen: BTreeSet::new() }
    }

    /// Sends a request and checks its reply against the document.
    async fn send(&mut self, line: &str, headers: &[(&str, &str)], body: &'static str) -> Response<Bytes> {
        let (method, target) = line.split_once(' ').expect("method and target");
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from_static(body.as_bytes()))).expect("a request");
        let response = self.api.respond(request).await;
        self.check(method, target, &response);
        let (head, body) = response.into_parts();
        Response::from_parts(head, body.collect().await.expect("a body").to_bytes())
    }

    fn check(&mut self, method: &str, target: &str, response: &Response<Body>) {
        let path = target.split('?').next().unwrap_or_default();
        let path = if path.starts_with("/v1/kv/") { "/v1/kv/{key}" } else { path };
        let status = response.status();
        let status = status.as_str();
        let what = format!("{method} {target}: {status}");
        let reply = &self.document["paths"][path][method.to_lowercase()]["responses"][status];
        assert!(reply.is_object(), "{what} is not in the document");
        let documented = |name: &str| {
            let headers = reply["headers"].as_object();
            headers.is_some_and(|headers| headers.keys().any(|known| known.eq_ignore_ascii_case(name)))
        };
        for name in response.headers().keys() {
            assert!(
                ANYWHERE.contains(&name.as_str()) || documented(name.as_str()),
                "{what}: {name} is not in the document"
            );
        }
        for (name, header) in reply["headers"].as_object().into_iter().flatten() {
            let there = response.headers().contains_key(name);
            assert!(there || header["required"] == false, "{what}: {name} is missing");
        }
        let media_type = response.headers().get("content-type").map(|value| value.to_str().expect("text"));
        let essence = media_type.map(|value| value.split(';').next().unwrap_or_default());
        let content: Vec<_> =
            reply["content"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
        assert_eq!(essence.into_iter().collect::<Vec<_>>(), content, "{what}: the media type");
        self.seen.insert((path.to_owned(), method.to_lowercase(), status.to_owned()));
    }

    fn documented(&self) -> BTreeSet<(String, String, String)> {
        let mut all = BTreeSet::new();
        for (path, item) in self.document["paths"].as_object().expect("paths") {
            for (method, operation) in
                item.as_object().expect("an item").iter().filter(|(name, _)| *name != "parameters")
            {
                for status in operation["responses"].as_object().expect("responses").keys() {
                    all.insert((path.clone(), method.clone(), status.clone()));
                }
            }
        }
        all
    }
}

const FAILURES: [(Reason, u16); 11] = [
    (Reason::Malformed, 400),
    (Reason::Conflict, 409),
    (Reason::TooLarge, 413),
    (Reason::Misdirected, 421),
    (Reason::Quota, 429),
    (Reason::Internal, 500),
    (Reason::Unavailable, 503),
    (Reason::Overloaded, 503),
    (Reason::StorageFull, 503),
    (Reason::Draining, 503),
    (Reason::Deadline, 504),
];

#[tokio::test]
async fn the_server_does_what_the_document_says_and_nothing_else() {
    let mut checked = Checked::new();
    writes(&mut checked).await;
    reads(&mut checked).await;
    failures(&mut checked).await;
    for path in ["/livez", "/readyz", "/metrics", "/version", "/openapi.json"] {
        assert_eq!(checked.send(&format!("GET {path}"), &[], "").await.status(), 200);
    }
    checked.is_ready.store(false, Ordering::Relaxed);
    assert_eq!(checked.send("GET /readyz", &[], "").await.status(), 503);
    assert_eq!(checked.send("GET /livez", &[], "").await.status(), 200, "whether it can serve is another question");
    // A body that comes too slowly needs a connection: another test has one.
    checked.seen.insert(("/v1/kv/{key}".into(), "put".into(), "408".into()));
    assert_eq!(checked.seen, checked.documented());
}

async fn writes(checked: &mut Checked) {
    for (line, headers, body, status) in [
        ("PUT /v1/kv/a/b", &[][..], "one", 201),
        ("PUT /v1/kv/a/b", &[], "two", 200),
        ("PUT /v1/kv/a/b?ttl=1d", &[("if-match", "\"2\"")], "three", 200),
        ("PUT /v1/kv/a/b", &[("if-match", "\"2\"")], "four", 412),
        ("PUT /v1/kv/a/b", &[("if-match", "W/\"3\"")], "four", 412),
        ("PUT /v1/kv/a/b", &[("if-none-match", "*")], "four", 412),
        ("PUT /v1/kv/none", &[("if-match", "*")], "four", 412),
        ("PUT /v1/kv/i", &[("idempotency-key", "\"x\"")], "one", 201),
        ("PUT /v1/kv/i", &[("idempotency-key", "\"x\"")], "one", 201),
        ("PUT /v1/kv/i", &[("idempotency-key", "\"x\"")], "two", 422),
        ("PUT /v1/kv/a?tll=1d", &[], "one", 400),
        ("DELETE /v1/kv/none", &[], "", 404),
        ("DELETE /v1/kv/none", &[("if-match", "\"1\"")], "", 412),
        ("DELETE /v1/kv/i", &[("idempotency-key", "\"x\""), ("if-match", "*")], "", 204),
        ("DELETE /v1/kv/i", &[("idempotency-key", "\"x\"")], "", 422),
        ("DELETE /v1/kv/i%", &[], "", 400),
    ] {
        assert_eq!(checked.send(line, headers, body).await.status(), status, "{line} {headers:?}");
    }
    let long: &'static str = "x".repeat(101).leak();
    assert_eq!(checked.send("PUT /v1/kv/a", &[], long).await.status(), 413);
    for (outcome, status) in [(Outcome::Unknown, 504), (Outcome::NotOwner, 500)] {
        for line in ["PUT /v1/kv/a", "DELETE /v1/kv/a"] {
            checked.memory.plan(Planned::Outcome(outcome.clone()));
            assert_eq!(checked.send(line, &[], "").await.status(), status);
        }
    }
    let too_late = Outcome::Forgotten { stamp: Version(1) };
    checked.memory.plan(Planned::Outcome(too_late));
    assert_eq!(checked.send("PUT /v1/kv/a", &[], "").await.status(), 500);
}

async fn reads(checked: &mut Checked) {
    for method in ["GET", "HEAD"] {
        for (target, headers, status) in [
            ("/v1/kv/a/b", &[][..], 200),
            ("/v1/kv/a/b?consistency=bounded&max_staleness=5s", &[], 200),
            ("/v1/kv/a/b?consistency=any", &[("if-match", "\"3\"")], 200),
            ("/v1/kv/a/b", &[("if-none-match", "\"1\", W/\"3\"")], 304),
            ("/v1/kv/a/b", &[("if-match", "\"1\"")], 412),
            ("/v1/kv/none", &[], 404),
            ("/v1/kv/none?x", &[], 400),
        ] {
            let response = checked.send(&format!("{method} {target}"), headers, "").await;
            assert_eq!(response.status(), status, "{method} {target} {headers:?}");
            let is_empty = method == "HEAD" || status == 304;
            assert_eq!(response.body().is_empty(), is_empty, "{method} {target} {headers:?}");
        }
    }
}

async fn failures(checked: &mut Checked) {
    for (reason, status) in FAILURES {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            // Only a put has a body that can be too large.
            if reason == Reason::TooLarge && method != "PUT" {
                continue;
            }
            checked.memory.plan(Planned::Failure(Failure::refused(reason, "a test")));
            let response = checked.send(&format!("{method} /v1/kv/a"), &[], "").await;
            assert_eq!(response.status(), status, "{method} {reason:?}");
        }
    }
}
