//! Answers as HTTP: the one place where outcomes and failures become statuses and headers.

use crate::backend::{Consistency, Epoch, Failure, ReadReply, Reason, WriteReply};
use crate::request::Headers;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use scatter_core::command::{Found, Outcome};
use scatter_core::time::LogTime;
use scatter_core::types::{GroupId, Version};
use scatter_service::http::Body;
use scatter_service::{Kind, Problem, WriteOutcome};
use std::cell::RefCell;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

pub(crate) const CONSISTENCY: HeaderName = HeaderName::from_static("scatter-consistency");
pub(crate) const GROUP: HeaderName = HeaderName::from_static("scatter-group");
pub(crate) const EPOCH: HeaderName = HeaderName::from_static("scatter-epoch");
pub(crate) const STALENESS: HeaderName = HeaderName::from_static("scatter-staleness");

/// Headers of the fullest reply, so that the map is allocated once, with its content length, date and connection.
const HEADERS: usize = 12;

/// When a client should come back if the backend does not say.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The latest time that an HTTP date can tell: the end of the year 9999, in seconds.
const LAST_HTTP_DATE: u64 = 253_402_300_799;

/// The reply to a GET, or with `is_head` to a HEAD.
pub(crate) fn read(reply: ReadReply, consistency: Consistency, conditions: &Headers, is_head: bool) -> Response<Body> {
    let mut response = match reply.found {
        None => Problem::new(Kind::KeyNotFound, "the key has no value").response(),
        Some(found) => value(found, conditions),
    };
    let headers = response.headers_mut();
    headers.insert(CONSISTENCY, HeaderValue::from_static(consistency.name()));
    origin(headers, reply.group, reply.epoch);
    if let Some(staleness) = reply.staleness {
        headers.insert(STALENESS, text(format_args!("{}ms", staleness.as_millis())));
    }
    if is_head { without_body(response) } else { response }
}

fn value(found: Found, conditions: &Headers) -> Response<Body> {
    let version = found.version;
    if conditions.if_match.as_ref().is_some_and(|tags| !tags.matches_strongly(version)) {
        return condition_failed(Some(version)).response();
    }
    let is_known = conditions.if_none_match.as_ref().is_some_and(|tags| tags.matches_weakly(version));
    let mut headers = HeaderMap::with_capacity(HEADERS);
    headers.insert(header::ETAG, entity_tag(version));
    headers.insert(header::LAST_MODIFIED, last_modified(found.modified));
    // A cache may keep the value but must ask each time whether it still is the one.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let (status, body) = if is_known {
        (StatusCode::NOT_MODIFIED, Body::empty())
    } else {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        (StatusCode::OK, Body::from(found.value))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The reply to a write that was decided. `is_repeatable` tells that it came with an `Idempotency-Key`.
pub(crate) fn write(reply: WriteReply, is_repeatable: bool) -> Response<Body> {
    let refused =
        |kind, detail: &'static str| Problem::new(kind, detail).with_outcome(WriteOutcome::NotApplied).response();
    let mut response = match reply.outcome {
        Outcome::Written { version, created } => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = if created { StatusCode::CREATED } else { StatusCode::OK };
            response.headers_mut().insert(header::ETAG, entity_tag(version));
            response
        }
        Outcome::Deleted { version: _ } => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Outcome::NotFound => refused(Kind::KeyNotFound, "the key has no value"),
        Outcome::ConditionFailed { index: _, current } => {
            condition_failed(current).with_outcome(WriteOutcome::NotApplied).response()
        }
        Outcome::IdempotencyMismatch => {
            refused(Kind::IdempotencyMismatch, "another request to this path came with this Idempotency-Key before")
        }
        Outcome::Unknown => {
            let detail = "the write may or may not have happened; the system no longer remembers";
            let mut problem = Problem::new(Kind::OutcomeUnknown, detail).with_outcome(WriteOutcome::Unknown);
            problem.retryable = is_repeatable;
            problem.response()
        }
        Outcome::Forgotten { .. } | Outcome::StampAhead { .. } | Outcome::NotOwner | Outcome::Malformed => {
            tracing::error!(outcome = ?reply.outcome, "the backend let through an outcome that is its own to deal with");
            refused(Kind::Internal, "the write was refused for a reason that clients do not know")
        }
        Outcome::BatchWritten { .. } => {
            tracing::error!("a single write was answered as a batch");
            let problem = Problem::new(Kind::Internal, "a single write was answered as a batch");
            problem.with_outcome(WriteOutcome::Unknown).response()
        }
    };
    // If nobody answered in time, nobody knows which group would have.
    if reply.group != GroupId::default() {
        origin(response.headers_mut(), reply.group, reply.epoch);
    }
    response
}

fn condition_failed(current: Option<Version>) -> Problem {
    match current {
        None => Problem::new(Kind::ConditionFailed, "the key does not exist"),
        Some(version) => Problem::new(Kind::ConditionFailed, format!("the key has the version \"{version}\""))
            .with_header(header::ETAG, entity_tag(version)),
    }
}

/// What a failure means for the kind of request that met it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// A read.
    Read,
    /// A write.
    Write {
        /// It came with an `Idempotency-Key`, so sending it again is safe whatever became of it.
        is_repeatable: bool,
    },
}

/// The problem of a request without an answer.
pub(crate) fn failure(failure: Failure, asked: Asked) -> Problem {
    let kind = match failure.reason {
        Reason::Malformed => Kind::Malformed,
        Reason::Conflict => Kind::Conflict,
        Reason::TooLarge => Kind::TooLarge,
        Reason::Misdirected => Kind::Misdirected,
        Reason::Quota => Kind::Quota,
        Reason::Internal => Kind::Internal,
        Reason::Unavailable => Kind::Unavailable,
        Reason::Overloaded => Kind::Overloaded,
        Reason::StorageFull => Kind::StorageFull,
        Reason::Draining => Kind::NotReady,
        Reason::Deadline => Kind::DeadlineExceeded,
    };
    let waits = matches!(kind.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    let retry_after = failure.retry_after.or(waits.then_some(DEFAULT_RETRY_AFTER));
    let mut problem = Problem::new(kind, failure.detail).with_retry_after(retry_after);
    if let Asked::Write { is_repeatable } = asked {
        problem.outcome = Some(failure.outcome);
        // Sending a write again that may have happened is for the client to decide, unless the repeat is harmless.
        problem.retryable &= failure.outcome == WriteOutcome::NotApplied || is_repeatable;
    }
    problem
}

/// The same head without the body, for HEAD.
pub(crate) fn without_body(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if head.status != StatusCode::NOT_MODIFIED
        && let Some(length) = http_body::Body::size_hint(&body).exact()
    {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, Body::empty())
}

/// Adds who answered.
fn origin(headers: &mut HeaderMap, group: GroupId, epoch: Epoch) {
    thread_local! {
        /// The last origin's headers: replies in a row mostly come from the same group.
        static LAST: RefCell<Option<(GroupId, Epoch, HeaderValue, HeaderValue)>> = const { RefCell::new(None) };
    }
    let (group, epoch) = LAST.with_borrow_mut(|last| match last {
        Some((known, at, group_text, epoch_text)) if *known == group && *at == epoch => {
            (group_text.clone(), epoch_text.clone())
        }
        _ => {
            let group_text = text(format_args!("{group}"));
            let epoch_text = text(format_args!("{}.{}", epoch.configuration, epoch.range));
            *last = Some((group, epoch, group_text.clone(), epoch_text.clone()));
            (group_text, epoch_text)
        }
    });
    headers.insert(GROUP, group);
    headers.insert(EPOCH, epoch);
}

fn entity_tag(version: Version) -> HeaderValue {
    text(format_args!("\"{version}\""))
}

fn last_modified(modified: LogTime) -> HeaderValue {
    let seconds = (modified.0 / 1_000_000).min(LAST_HTTP_DATE);
    text(format_args!("{}", httpdate::HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))))
}

/// The longest text of [`text`], in bytes: twice what the longest, a date, has.
const TEXT_BYTES: usize = 64;

/// A short header value of ASCII.
fn text(arguments: std::fmt::Arguments<'_>) -> HeaderValue {
    let mut buffer = [0; TEXT_BYTES];
    let mut rest = &mut buffer[..];
    // Digits, letters and quotes that fit are always good in a header.
    let _ = rest.write_fmt(arguments);
    let length = TEXT_BYTES - rest.len();
    HeaderValue::from_bytes(&buffer[..length]).unwrap_or(HeaderValue::from_static(""))
}
