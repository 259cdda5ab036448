//! The one shape of an error reply: `application/problem+json` (RFC 9457).
//!
//! Beside the members of the RFC it has `retryable` and, for writes, `outcome`.

use crate::http::Body;
use http::header::{self, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $urn:literal, $status:ident, $title:literal, $retryable:literal;)*) => {
        /// What went wrong. Each kind has a stable `type` URI, a status and a title.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The `type` URI. Never changes.
            #[must_use]
            pub const fn uri(self) -> &'static str {
                match self { $(Self::$name => concat!("urn:scatter:problem:", $urn),)* }
            }

            /// The status of a reply with this problem.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// The same words for each problem of the kind.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Whether the same request, sent again as it is, may succeed.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }
        }
    };
}

kinds! {
    /// The request does not mean anything: a bad key, parameter, header or body.
    Malformed = "malformed", BAD_REQUEST, "The request is malformed", false;
    /// The request is not taken from where it comes.
    Forbidden = "forbidden", FORBIDDEN, "The request is not allowed", false;
    /// There is nothing at this path.
    UnknownPath = "unknown-path", NOT_FOUND, "There is nothing at this path", false;
    /// The key has no value.
    KeyNotFound = "key-not-found", NOT_FOUND, "The key does not exist", false;
    /// What the path names does not exist: a group, a node.
    NotFound = "not-found", NOT_FOUND, "What the path names does not exist", false;
    /// The path does not take this method; `Allow` says which.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The path does not take this method", false;
    /// The body came too slowly.
    BodyTooSlow = "body-too-slow", REQUEST_TIMEOUT, "The request's body came too slowly", true;
    /// Something else is under way or in the way.
    Conflict = "conflict", CONFLICT, "The request conflicts with the present state", true;
    /// `If-Match` or `If-None-Match` does not hold.
    ConditionFailed = "condition-failed", PRECONDITION_FAILED, "A condition of the request does not hold", false;
    /// The body is over a limit, which the detail names.
    TooLarge = "too-large", PAYLOAD_TOO_LARGE, "The request's body is over the limit", false;
    /// This node does not own the key and was told not to forward.
    Misdirected = "misdirected", MISDIRECTED_REQUEST, "Another node owns the key", true;
    /// The idempotency key was used for another request.
    IdempotencyMismatch = "idempotency-mismatch", UNPROCESSABLE_ENTITY, "The idempotency key was used for another request", false;
    /// The client has used up what it may use.
    Quota = "quota", TOO_MANY_REQUESTS, "A quota is used up", true;
    /// A mistake of ours, or damage.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The server failed", false;
    /// Nobody can serve the key, or carry out the order, at the moment: no leader, no majority, a seal.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "The request cannot be served at the moment", true;
    /// Too much work is under way.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "The server is overloaded", true;
    /// A majority has no room for the write. Reads and deletes go on.
    StorageFull = "storage-full", SERVICE_UNAVAILABLE, "There is no space left for writes", true;
    /// The program is not able to serve, or is about to end.
    NotReady = "not-ready", SERVICE_UNAVAILABLE, "The program is not ready", true;
    /// The request's time was over.
    DeadlineExceeded = "deadline-exceeded", GATEWAY_TIMEOUT, "The request's time is over", true;
    /// Whether a write happened, or an order was carried out, cannot be told.
    OutcomeUnknown = "outcome-unknown", GATEWAY_TIMEOUT, "Whether the request was carried out is not known", false;
}

/// What became of a write that did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteOutcome {
    /// It certainly did not happen and will not.
    NotApplied,
    /// It may have happened, or may yet.
    Unknown,
}

/// An error reply.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    /// What went wrong.
    pub kind: Kind,
    /// What went wrong in this case, for a person.
    pub detail: Cow<'static, str>,
    /// Whether the same request may succeed later; by default what the kind says.
    pub retryable: bool,
    /// For writes.
    pub outcome: Option<WriteOutcome>,
    /// When to try again, as `Retry-After`.
    pub retry_after: Option<Duration>,
    /// Further headers, such as `Allow` or the current `ETag`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<WriteOutcome>,
}

impl Problem {
    /// A problem with what its kind says by default.
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            retryable: kind.retryable(),
            outcome: None,
            retry_after: None,
            headers: Vec::new(),
        }
    }

    /// A method that a path does not take.
    #[must_use]
    pub fn method_not_allowed(method: &http::Method, allow: &'static str) -> Self {
        Self::new(Kind::MethodNotAllowed, format!("this path takes {allow}, not {method}"))
            .with_header(header::ALLOW, HeaderValue::from_static(allow))
    }

    /// A path with nothing behind it.
    #[must_use]
    pub fn unknown_path(path: &str) -> Self {
        Self::new(Kind::UnknownPath, format!("there is nothing at {}", shortened(path)))
    }

    /// The same problem of a write with this outcome.
    #[must_use]
    pub const fn with_outcome(mut self, outcome: WriteOutcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// The same problem with a time to wait.
    #[must_use]
    pub const fn with_retry_after(mut self, retry_after: Option<Duration>) -> Self {
        self.retry_after = retry_after;
        self
    }

    /// The same problem with one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The reply's body: JSON.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        let document = Document {
            r#type: self.kind.uri(),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            retryable: self.retryable,
            outcome: self.outcome,
        };
        // Strings, a number and booleans always serialize.
        serde_json::to_vec(&document).unwrap_or_default()
    }

    /// The reply.
    #[must_use]
    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.document()));
        *response.status_mut() = self.kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            // Whole seconds, at least one: the header has no fractions.
            headers
                .insert(header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1000).clamp(1, 3600) as u64));
        }
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        response
    }
}

/// For handlers of an `axum` router.
impl axum::response::IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.response().map(axum::body::Body::new)
    }
}

/// The text, cut to what fits a message.
fn shortened(text: &str) -> Cow<'_, str> {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[test]
    fn types_are_distinct() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in Kind::ALL {
            assert!(seen.insert(kind.uri()), "{} twice", kind.uri());
            assert!(kind.status().is_client_error() || kind.status().is_server_error());
        }
    }

    #[tokio::test]
    async fn a_problem_is_written_as_the_rfc_says() {
        let problem = Problem::new(Kind::Overloaded, "too much")
            .with_outcome(WriteOutcome::NotApplied)
            .with_retry_after(Some(Duration::from_millis(1001)));
        let response = problem.response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["retry-after"], "2");
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let document: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(
            document,
            serde_json::json!({
                "type": "urn:scatter:problem:overloaded", "title": "The server is overloaded", "status": 503,
                "detail": "too much", "retryable": true, "outcome": "not_applied",
            })
        );
    }
}
