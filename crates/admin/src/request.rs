//! An order as it comes in: where it comes from, whether it only asks, and its body.

use crate::routes::{malformed, parameters};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use scatter_service::Problem;
use scatter_service::problem::Kind;
use serde::de::DeserializeOwned;

/// What every order brings.
pub(crate) struct Order<T> {
    /// It only asks what would be done.
    pub(crate) dry_run: bool,
    pub(crate) body: T,
}

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Order<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let dry_run = parameters_of(request.headers(), request.uri().query()).map_err(IntoResponse::into_response)?;
        let body = Bytes::from_request(request, state).await.map_err(IntoResponse::into_response)?;
        Ok(Self { dry_run, body: read(&body).map_err(IntoResponse::into_response)? })
    }
}

/// Checks that an order does not come from another site's page, and reads `?dry_run=`.
fn parameters_of(headers: &HeaderMap, query: Option<&str>) -> Result<bool, Problem> {
    if is_foreign(headers) {
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

/// Whether a browser sends the order for another site's page. Where the page was not fetched safely, it does not say how the sites
/// relate, but does say whose page it is. A proxy in front may have given the host another name, and says which it was.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if let Some(site) = text("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = text("origin") else { return false };
    let authority = origin.split_once("://").map_or(origin, |(_, authority)| authority);
    let hosts = [text("host"), text("x-forwarded-host")];
    !hosts.into_iter().flatten().any(|host| host.eq_ignore_ascii_case(authority))
}

/// Reads a JSON body; an empty one takes the defaults.
fn read<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    match body.trim_ascii_start().first() {
        None => return Ok(T::default()),
        Some(b'{') => {}
        Some(_) => return Err(malformed("the body is not what this path takes: a JSON object, or nothing")),
    }
    serde_json::from_slice(body).map_err(|error| malformed(format!("the body is not what this path takes: {error}")))
}
