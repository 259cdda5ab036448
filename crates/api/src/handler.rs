//! The routes of the data API.

use crate::backend::{Backend, Consistency, ReadPath, ReadRequest, WriteRequest};
use crate::budget::Budget;
use crate::reply::{self, Asked};
use crate::request::{self, Headers, WriteKind};
use crate::settings::ApiSettings;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use scatter_core::command::Operation;
use scatter_service::http::{Body, BodyLimits, Handler, HttpSettings, Site, read_body};
use scatter_service::metrics::{Counters, Durations, Reading, Sampled};
use scatter_service::{Kind, Problem, WriteOutcome};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What all keys' paths begin with.
const PREFIX: &str = "/v1/kv/";

/// The methods of a key's path.
const METHODS: &str = "GET, HEAD, PUT, DELETE";

/// The data API over a backend; all other paths go to a [`Site`].
pub struct Api<B> {
    backend: B,
    settings: ApiSettings,
    body_idle: Duration,
    budget: Budget,
    metrics: ApiMetrics,
    site: Site,
}

impl<B: Backend> Api<B> {
    /// The data API with these limits.
    pub fn new(backend: B, settings: &ApiSettings, http: &HttpSettings, metrics: ApiMetrics, site: Site) -> Self {
        Self {
            backend,
            settings: settings.clone(),
            body_idle: Duration::from_millis(http.body_idle_ms),
            budget: Budget::new(settings.maximum_buffered_bytes, metrics.body_bytes.clone()),
            metrics,
            site,
        }
    }

    /// Answers one request.
    pub async fn respond<T>(&self, request: Request<T>) -> Response<Body>
    where
        T: HttpBody<Data = Bytes> + Send + Unpin,
    {
        if !request.uri().path().starts_with(PREFIX) {
            // Boxed, because it is rare and large, and each request's future is moved into its connection.
            return Box::pin(self.site.respond(request)).await;
        }
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let operation = Called::from(&head.method);
        let response = match operation {
            Called::Get | Called::Head => self.read(&head, operation == Called::Head, started).await,
            Called::Put => {
                self.put(&head, body, started).await.unwrap_or_else(|problem| self.refused(operation, problem))
            }
            Called::Delete => {
                self.delete(&head, started).await.unwrap_or_else(|problem| self.refused(operation, problem))
            }
            Called::Other => Problem::method_not_allowed(&head.method, METHODS).response(),
        };
        self.metrics.answered(operation, response.status().as_u16(), started.elapsed());
        response
    }

    async fn read(&self, head: &Parts, is_head: bool, started: Instant) -> Response<Body> {
        let refused = |problem: Problem| {
            self.metrics.refused(if is_head { Called::Head } else { Called::Get }, problem.kind);
            let response = problem.response();
            if is_head { reply::without_body(response) } else { response }
        };
        let (request, headers) = match self.read_request(head, started) {
            Ok(request) => request,
            Err(problem) => return refused(problem),
        };
        let consistency = request.consistency;
        match self.backend.read(request).await {
            Ok(answer) => {
                self.metrics.reads.raise(answer.path as usize);
                reply::read(answer, consistency, &headers, is_head)
            }
            Err(failure) => refused(reply::failure(failure, Asked::Read)),
        }
    }

    fn read_request(&self, head: &Parts, started: Instant) -> Result<(ReadRequest, Headers), Problem> {
        let key = request::key(raw_key(head))?;
        let consistency: Consistency = request::consistency(head.uri.query())?;
        let headers = Headers::read(&head.headers)?;
        let deadline = started + headers.timeout(&self.settings)?;
        Ok((ReadRequest { key, consistency, deadline }, headers))
    }

    async fn put<T>(&self, head: &Parts, mut body: T, started: Instant) -> Result<Response<Body>, Problem>
    where
        T: HttpBody<Data = Bytes> + Unpin,
    {
        let key = request::key(raw_key(head))?;
        let ttl_ms = request::ttl_ms(head.uri.query())?;
        let headers = Headers::read(&head.headers)?;
        let deadline = started + headers.timeout(&self.settings)?;
        let condition = headers.condition(WriteKind::Put)?;
        let limits = BodyLimits {
            maximum_bytes: self.settings.maximum_value_bytes,
            setting: Some("api.maximum_value_bytes"),
            idle: self.body_idle,
            deadline: deadline.into(),
        };
        let mut taken = self.budget.open();
        let value = read_body(&mut body, limits, |bytes| taken.take(bytes)).await?;
        let idempotency = headers
            .idempotency_key
            .map(|id| request::idempotency(id, WriteKind::Put, &key, &condition, ttl_ms, &value));
        let operation = Operation::Put { key, value, ttl_ms, condition };
        let response = self.write(WriteRequest { operation, idempotency, deadline }).await;
        drop(taken);
        response
    }

    async fn delete(&self, head: &Parts, started: Instant) -> Result<Response<Body>, Problem> {
        let key = request::key(raw_key(head))?;
        request::no_parameters(head.uri.query())?;
        let headers = Headers::read(&head.headers)?;
        let deadline = started + headers.timeout(&self.settings)?;
        let condition = headers.condition(WriteKind::Delete)?;
        let idempotency = headers
            .idempotency_key
            .map(|id| request::idempotency(id, WriteKind::Delete, &key, &condition, None, &Bytes::new()));
        self.write(WriteRequest { operation: Operation::Delete { key, condition }, idempotency, deadline }).await
    }

    async fn write(&self, request: WriteRequest) -> Result<Response<Body>, Problem> {
        let is_repeatable = request.idempotency.is_some();
        match self.backend.write(request).await {
            Ok(answer) => Ok(reply::write(answer, is_repeatable)),
            Err(failure) => Err(reply::failure(failure, Asked::Write { is_repeatable })),
        }
    }

    /// The reply to a write that failed. One that never reached the backend was not applied.
    fn refused(&self, called: Called, mut problem: Problem) -> Response<Body> {
        self.metrics.refused(called, problem.kind);
        problem.outcome.get_or_insert(WriteOutcome::NotApplied);
        problem.response()
    }
}

impl<B: Backend> Handler for Api<B> {
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
        self.respond(request)
    }
}

fn raw_key(head: &Parts) -> &str {
    head.uri.path().get(PREFIX.len()..).unwrap_or_default()
}

/// What was called, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Called {
    Get,
    Head,
    Put,
    Delete,
    Other,
}

impl Called {
    const NAMES: [&str; 5] = ["get", "head", "put", "delete", "other"];
}

impl From<&Method> for Called {
    fn from(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::PUT => Self::Put,
            Method::DELETE => Self::Delete,
            _ => Self::Other,
        }
    }
}

/// The statuses that are counted apart; all others share the last counter.
const STATUSES: [(u16, &str); 18] = [
    (200, "200"),
    (201, "201"),
    (204, "204"),
    (304, "304"),
    (400, "400"),
    (404, "404"),
    (405, "405"),
    (408, "408"),
    (409, "409"),
    (412, "412"),
    (413, "413"),
    (421, "421"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (503, "503"),
    (504, "504"),
    (0, "other"),
];

/// The data API's metrics.
#[derive(Clone)]
pub struct ApiMetrics {
    requests: Counters,
    seconds: Durations,
    reads: Counters,
    shed: Counters,
    /// Bytes of request bodies in memory; the budget counts here.
    body_bytes: Arc<AtomicUsize>,
}

impl ApiMetrics {
    /// Creates the metrics and registers them.
    pub fn register(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let operations: Vec<_> = Called::NAMES.iter().map(|name| vec![*name]).collect();
        let by_status: Vec<_> =
            Called::NAMES.iter().flat_map(|name| STATUSES.iter().map(|(_, status)| vec![*name, *status])).collect();
        let paths: Vec<_> = ReadPath::ALL.iter().map(|path| vec![path.name()]).collect();
        let metrics = Self {
            requests: Counters::new(
                "scatter_requests_total",
                "Requests of the data API, by operation and status.",
                &["operation", "status"],
                &by_status,
            )?,
            seconds: Durations::new(
                "scatter_request_seconds",
                "Time from a request's head to its reply, by operation.",
                &["operation"],
                &operations,
            )?,
            reads: Counters::new(
                "scatter_reads_total",
                "Reads answered over the data API, by the way they were answered.",
                &["path"],
                &paths,
            )?,
            shed: Counters::new(
                "scatter_requests_shed_total",
                "Requests of the data API refused because too much work was under way, by operation.",
                &["operation"],
                &operations,
            )?,
            body_bytes: Arc::default(),
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.seconds.clone()))?;
        registry.register(Box::new(metrics.reads.clone()))?;
        registry.register(Box::new(metrics.shed.clone()))?;
        let bodies = Reading::gauge(
            "scatter_request_body_bytes",
            "Bytes of request bodies in memory.",
            |bytes: &Arc<AtomicUsize>| bytes.load(Ordering::Relaxed) as f64,
        );
        let body_bytes = metrics.body_bytes.clone();
        Sampled::register(registry, vec![bodies], move || body_bytes.clone())?;
        Ok(metrics)
    }

    fn refused(&self, called: Called, kind: Kind) {
        if matches!(kind, Kind::Overloaded | Kind::Quota) {
            self.shed.raise(called as usize);
        }
    }

    fn answered(&self, called: Called, status: u16, took: Duration) {
        let other = STATUSES.len() - 1;
        let status = STATUSES.iter().position(|(known, _)| *known == status).unwrap_or(other);
        self.requests.raise(called as usize * STATUSES.len() + status);
        self.seconds.observe(called as usize, took);
    }
}
