//! Talking HTTP: one request, one answer, and what its failure means for the exit code.

use crate::{Exit, Failure};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

/// What a key's bytes are encoded as in a path: everything but letters, digits and what never needs it.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~').remove(b'.').remove(b'/');

/// How much longer than the server this side waits, so that it is the server who says what became of a write.
const GRACE: Duration = Duration::from_secs(2);

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const ORDER_TIMEOUT: Duration = Duration::from_secs(90);

/// How the type of a problem ends that a server reports for a path it does not have.
const UNKNOWN_PATH: &str = ":unknown-path";

/// The longest error text that is shown.
const MOST_ERROR_BYTES: usize = 2000;

/// What kind of server is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    Gateway,
    Admin,
}

impl Server {
    const fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Admin => "admin program",
        }
    }

    /// The variable that says where it is.
    pub(crate) const fn variable(self) -> &'static str {
        match self {
            Self::Gateway => "SCATTER_GATEWAY",
            Self::Admin => "SCATTER_ADMIN",
        }
    }

    /// How a person changes where it is.
    fn hint(self) -> String {
        let flag = match self {
            Self::Gateway => "--gateway",
            Self::Admin => "--admin",
        };
        format!("{flag} or ${} says where it is", self.variable())
    }
}

/// One server.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    server: Server,
    http: Client,
    base: String,
    timeout: Option<Duration>,
}

/// What a failed request may have done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Reads,
    Writes,
}

/// The members of a problem document that matter here.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Problem {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    detail: String,
    outcome: Option<String>,
}

impl Remote {
    pub(crate) fn new(server: Server, url: &str, timeout: Option<Duration>) -> Result<Self, String> {
        let parsed = Url::parse(url).map_err(|error| format!("`{url}` is no URL: {error}"))?;
        if parsed.scheme() != "http" || parsed.host().is_none() {
            return Err(format!("`{url}` is not of the form http://host:port"));
        }
        let http = Client::builder().tcp_nodelay(true).build().map_err(|error| error.to_string())?;
        Ok(Self { server, http, base: url.trim_end_matches('/').to_owned(), timeout })
    }

    /// A request to the data API.
    pub(crate) fn data(&self, method: Method, key: &OsStr) -> Result<RequestBuilder, Failure> {
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let path = encoded_key(key.as_bytes())
            .ok_or_else(|| Failure::new(Exit::Usage, "the keys `.` and `..` cannot be written in a URL"))?;
        let request = self.http.request(method, format!("{}/v1/kv/{path}", self.base)).timeout(timeout + GRACE);
        Ok(request.header("Request-Timeout", format!("{}ms", timeout.as_millis())))
    }

    /// A question to the admin program.
    pub(crate) fn question(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.base)).timeout(self.timeout.unwrap_or(DEFAULT_TIMEOUT) + GRACE)
    }

    /// An order to the admin program.
    pub(crate) fn order(&self, path: &str, body: &serde_json::Value) -> RequestBuilder {
        let timeout = self.timeout.unwrap_or(ORDER_TIMEOUT) + GRACE;
        self.http.post(format!("{}{path}", self.base)).timeout(timeout).json(body)
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request. Anything but success is a failure with the right exit code.
    pub(crate) async fn send(&self, request: RequestBuilder, effect: Effect) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| self.unsent(&error, effect))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        Err(self.refused(status, &body, effect))
    }

    fn refused(&self, status: StatusCode, body: &[u8], effect: Effect) -> Failure {
        let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
        if problem.kind.ends_with(UNKNOWN_PATH) {
            let Self { server, base, .. } = self;
            let text = format!("{base} is no {}: {}; {}", server.name(), problem.detail, server.hint());
            return Failure::new(Exit::Error, text);
        }
        refused(status, &problem, body, effect)
    }

    /// What a request that brought no reply means.
    pub(crate) fn unsent(&self, error: &reqwest::Error, effect: Effect) -> Failure {
        // The last cause is what a person can do something about; those above it name libraries.
        let mut cause: &dyn std::error::Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let name = self.server.name();
        if error.is_connect() {
            let text = format!("cannot reach the {name} at {}: {cause}; {}", self.base, self.server.hint());
            return Failure::new(Exit::Unavailable, text);
        }
        let text = format!("no answer from the {name} at {}: {cause}", self.base);
        if effect == Effect::Writes && !error.is_builder() {
            return Failure::new(Exit::Unknown, format!("{text}; it may have happened all the same"));
        }
        Failure::new(Exit::Unavailable, text)
    }
}

fn refused(status: StatusCode, problem: &Problem, body: &[u8], effect: Effect) -> Failure {
    let text = match (problem.detail.as_str(), problem.title.as_str()) {
        ("", "") => {
            let shown = String::from_utf8_lossy(&body[..body.len().min(MOST_ERROR_BYTES)]);
            format!("{status}: {}", shown.trim()).trim_end_matches([':', ' ']).to_owned()
        }
        ("", title) => title.to_owned(),
        (detail, _) => detail.to_owned(),
    };
    let unknown = problem.outcome.as_deref() == Some("unknown");
    // A proxy on the way that gives up knows nothing of outcomes.
    let nobody_knows = problem.outcome.is_none() && effect == Effect::Writes && status.is_server_error();
    let exit = match status {
        StatusCode::BAD_REQUEST => Exit::Usage,
        _ if unknown || nobody_knows => Exit::Unknown,
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::PRECONDITION_FAILED => Exit::ConditionFailed,
        StatusCode::CONFLICT => Exit::Conflict,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
            Exit::Unavailable
        }
        _ => Exit::Error,
    };
    Failure::new(exit, text)
}

/// A key as it stands in a path; `None` for the two keys that no URL can name. A segment of one or two dots, encoded or
/// not, is a step in the path and not a name, so slashes beside one are encoded and it becomes part of a longer segment.
pub(crate) fn encoded_key(key: &[u8]) -> Option<String> {
    if key == b"." || key == b".." {
        return None;
    }
    let text = percent_encode(key, PATH).to_string();
    let steps = text.split('/').any(|segment| segment == "." || segment == "..");
    Some(if steps { text.replace('/', "%2F") } else { text })
}

/// Any text as it stands in a query or in one segment of a path.
pub(crate) fn encoded(text: &[u8]) -> String {
    percent_encode(text, NON_ALPHANUMERIC).to_string()
}

pub(crate) fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The version in an `ETag`.
pub(crate) fn version(headers: &HeaderMap) -> Option<u64> {
    header(headers, &reqwest::header::ETAG)?.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_for_paths() {
        for (key, path) in [
            (&b"users/42"[..], "users/42"),
            (b"a b?c#d%e", "a%20b%3Fc%23d%25e"),
            (b"\xff\x00", "%FF%00"),
            (b"a/../b", "a%2F..%2Fb"),
            (b"../..", "..%2F.."),
            (b"a..b/.c", "a..b/.c"),
            (b"//", "//"),
        ] {
            assert_eq!(encoded_key(key).as_deref(), Some(path));
            let url = Url::parse(&format!("http://a/v1/kv/{path}")).expect("a URL");
            assert_eq!(url.path(), format!("/v1/kv/{path}"), "it reaches the server as it is");
        }
        assert_eq!((encoded_key(b"."), encoded_key(b"..")), (None, None));
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        for url in ["", "nowhere", "ftp://a", "https://a", "unix:/x"] {
            Remote::new(Server::Gateway, url, None).expect_err(url);
        }
        assert_eq!(Remote::new(Server::Gateway, "http://a:1/", None).expect("good").base(), "http://a:1");
    }

    #[test]
    fn refusals_have_their_exit_codes() {
        let remote = Remote::new(Server::Gateway, "http://a:1/", None).expect("good");
        let problem = |outcome: &str| format!(r#"{{"title":"T","detail":"D"{outcome}}}"#).into_bytes();
        let (plain, unknown) = (problem(""), problem(r#","outcome":"unknown""#));
        let not_applied = problem(r#","outcome":"not_applied""#);
        for (status, body, effect, expected) in [
            (404, &plain, Effect::Reads, Exit::NotFound),
            (412, &not_applied, Effect::Writes, Exit::ConditionFailed),
            (504, &unknown, Effect::Writes, Exit::Unknown),
            (504, &not_applied, Effect::Writes, Exit::Unavailable),
            (503, &not_applied, Effect::Writes, Exit::Unavailable),
            (503, &plain, Effect::Reads, Exit::Unavailable),
            (502, &plain, Effect::Writes, Exit::Unknown),
            (413, &not_applied, Effect::Writes, Exit::Error),
            (409, &not_applied, Effect::Writes, Exit::Conflict),
            (400, &plain, Effect::Reads, Exit::Usage),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let failure = remote.refused(status, body, effect);
            assert_eq!((failure.exit, failure.text.as_str()), (expected, "D"), "{status}");
        }
        let text = |body: &[u8]| remote.refused(StatusCode::NOT_FOUND, body, Effect::Reads).text;
        assert_eq!(text(b"not json"), "404 Not Found: not json");
        assert_eq!(text(b""), "404 Not Found");
        assert_eq!(text(br#"{"title":"T"}"#), "T");
        let stranger = br#"{"type":"urn:scatter:problem:unknown-path","title":"T","detail":"D"}"#;
        let failure = remote.refused(StatusCode::NOT_FOUND, stranger, Effect::Reads);
        assert_eq!(failure.exit, Exit::Error, "no key, group or node was looked for");
        assert!(failure.text.starts_with("http://a:1 is no gateway"), "{}", failure.text);
    }
}
