//! The routes that every program has, and an `axum` router for those that it adds.

use super::{Body, BodyLimits, Handler, read_body};
use crate::configuration::Program;
use crate::problem::{Kind, Problem};
use crate::process::Shutdown;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response};
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tower::ServiceExt as _;

/// Says whether the program is able to serve, and if not, why. Must be quick: it is asked on a request's thread.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Most bytes of a request's body to a route of the router.
const MAX_BODY_BYTES: usize = 1 << 20;

/// How long such a body may take in all.
const MAX_BODY_TIME: Duration = Duration::from_secs(60);

/// What reads take.
const READS: &str = "GET, HEAD";

/// The common routes and, for the rest, an optional router.
pub struct Site {
    registry: Registry,
    readiness: Readiness,
    shutdown: Shutdown,
    version: Bytes,
    openapi: Bytes,
    body_idle: Duration,
    router: Option<axum::Router>,
}

#[derive(Serialize)]
struct Version {
    name: &'static str,
    version: &'static str,
}

impl Site {
    /// The common routes alone. `openapi` is the OpenAPI document as JSON.
    #[must_use]
    pub fn new(
        program: &Program,
        registry: Registry,
        readiness: Readiness,
        openapi: impl Into<Bytes>,
        shutdown: Shutdown,
    ) -> Self {
        let version = Version { name: program.name, version: program.version };
        Self {
            registry,
            readiness,
            shutdown,
            // Two strings always serialize.
            version: serde_json::to_vec(&version).unwrap_or_default().into(),
            openapi: openapi.into(),
            body_idle: Duration::from_secs(10),
            router: None,
        }
    }

    /// Answers all other paths with `router`. Its handlers get bodies read whole, at most 1 MiB; paths that it does not
    /// have are answered with a problem.
    #[must_use]
    pub fn with_router(mut self, router: axum::Router) -> Self {
        let unknown = async |uri: http::Uri| Problem::unknown_path(uri.path());
        let wrong_method = async |method: Method| {
            Problem::new(Kind::MethodNotAllowed, format!("this path does not take {method}; see the header Allow"))
        };
        self.router = Some(router.fallback(unknown).method_not_allowed_fallback(wrong_method));
        self
    }

    /// Gives up bodies of requests to the router that pause for longer than this.
    #[must_use]
    pub const fn with_body_idle(mut self, idle: Duration) -> Self {
        self.body_idle = idle;
        self
    }

    /// Answers one request.
    pub async fn respond<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let is_head = request.method() == Method::HEAD;
        let mut response = match self.common(request.uri().path()) {
            Some(answer) => match *request.method() {
                Method::GET | Method::HEAD => answer(self),
                _ => Problem::method_not_allowed(request.method(), READS).response(),
            },
            None => match &self.router {
                Some(router) => self.route(router.clone(), request).await,
                None => Problem::unknown_path(request.uri().path()).response(),
            },
        };
        if is_head {
            without_body(&mut response);
        }
        response
    }

    fn common(&self, path: &str) -> Option<fn(&Self) -> Response<Body>> {
        match path {
            "/livez" => Some(|_| text("ok\n")),
            "/readyz" => Some(Self::ready),
            "/metrics" => Some(Self::metrics),
            "/version" => Some(|site| json(site.version.clone())),
            "/openapi.json" => Some(|site| json(site.openapi.clone())),
            _ => None,
        }
    }

    fn ready(&self) -> Response<Body> {
        if self.shutdown.is_requested() {
            return Problem::new(Kind::NotReady, "the program is about to end").response();
        }
        match (self.readiness)() {
            Ok(()) => text("ok\n"),
            Err(reason) => Problem::new(Kind::NotReady, reason).response(),
        }
    }

    fn metrics(&self) -> Response<Body> {
        match TextEncoder::new().encode_to_string(&self.registry.gather()) {
            Ok(metrics) => with_type(Body::from(metrics), prometheus::TEXT_FORMAT),
            Err(error) => Problem::new(Kind::Internal, error.to_string()).response(),
        }
    }

    async fn route<B>(&self, router: axum::Router, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let (head, mut body) = request.into_parts();
        let limits = BodyLimits {
            maximum_bytes: MAX_BODY_BYTES,
            setting: None,
            idle: self.body_idle,
            deadline: Instant::now() + MAX_BODY_TIME,
        };
        match read_body(&mut body, limits, |_| Ok(())).await {
            Ok(body) => match router.oneshot(Request::from_parts(head, axum::body::Body::from(body))).await {
                Ok(response) => response.map(Body::stream),
                Err(never) => match never {},
            },
            Err(problem) => problem.response(),
        }
    }
}

impl Handler for Site {
    fn handle(&self, request: Request<hyper::body::Incoming>) -> impl Future<Output = Response<Body>> + Send {
        self.respond(request)
    }
}

fn text(text: &'static str) -> Response<Body> {
    with_type(Body::from(text), "text/plain; charset=utf-8")
}

fn json(document: Bytes) -> Response<Body> {
    with_type(Body::from(document), "application/json")
}

fn with_type(body: Body, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Makes the reply to GET the reply to HEAD: the same head, with the length that the body would have.
fn without_body(response: &mut Response<Body>) {
    if let Some(length) = http_body::Body::size_hint(response.body()).exact() {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    *response.body_mut() = Body::empty();
}
