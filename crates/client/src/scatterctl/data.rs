//! put, get, delete.

use crate::arguments::{Consistency, Delete, Get, Put};
use crate::output::Output;
use crate::remote::{Effect, Remote, header, version};
use crate::{Exit, Failure};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED};
use serde_json::json;
use std::ffi::OsStr;
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

/// The most bytes of a value that are read before the server is asked: its own limit is lower and names its setting.
const MOST_VALUE_BYTES: u64 = 64 << 20;

pub(crate) async fn put(remote: &Remote, output: &Output, put: Put) -> Result<(), Failure> {
    let key = put.key.clone();
    let mut request = remote.data(Method::PUT, &key)?.header(CONTENT_TYPE, "application/octet-stream");
    if let Some(ttl) = put.ttl {
        request = request.query(&[("ttl", milliseconds(ttl))]);
    }
    if let Some(version) = put.if_version {
        request = request.header(IF_MATCH, format!("\"{version}\""));
    }
    if put.create {
        request = request.header(IF_NONE_MATCH, "*");
    }
    if let Some(idempotency) = &put.idempotency_key {
        request = request.header("Idempotency-Key", quoted(idempotency));
    }
    let value = tokio::task::spawn_blocking(move || value_of(put))
        .await
        .map_err(|error| Failure::new(Exit::Error, error.to_string()))??;
    let response = remote.send(request.body(value), Effect::Writes).await?;
    let created = response.status() == reqwest::StatusCode::CREATED;
    let version = version(response.headers());
    if output.is_json() {
        return output.json(&json!({ "key": shown(&key), "version": version, "created": created }));
    }
    let version = version.map_or_else(|| "-".to_owned(), |version| version.to_string());
    output.line(&format!("{} version {version}", if created { "created" } else { "replaced" }))
}

fn value_of(put: Put) -> Result<Vec<u8>, Failure> {
    if let Some(value) = put.value {
        return Ok(value.into_vec());
    }
    let mut value = Vec::new();
    match put.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            let wrong = |error| Failure::new(Exit::Error, format!("cannot read {}: {error}", path.display()));
            let file = std::fs::File::open(path).map_err(wrong)?;
            file.take(MOST_VALUE_BYTES + 1).read_to_end(&mut value).map_err(wrong)?;
        }
        _ => {
            if std::io::stdin().is_terminal() {
                crate::output::talk("reading the value from the terminal; end with Ctrl-D");
            }
            std::io::stdin().lock().take(MOST_VALUE_BYTES + 1).read_to_end(&mut value)?;
        }
    }
    if value.len() as u64 > MOST_VALUE_BYTES {
        return Err(Failure::new(Exit::Error, format!("the value is over {MOST_VALUE_BYTES} bytes")));
    }
    Ok(value)
}

pub(crate) async fn get(remote: &Remote, output: &Output, get: Get) -> Result<(), Failure> {
    let mut request = remote.data(Method::GET, &get.key)?;
    match get.consistency {
        Consistency::Linearizable => {}
        Consistency::Any => request = request.query(&[("consistency", "any")]),
        Consistency::Bounded => {
            let staleness = milliseconds(get.max_staleness.unwrap_or_default());
            request = request.query(&[("consistency", "bounded"), ("max_staleness", &staleness)]);
        }
    }
    let response = remote.send(request, Effect::Reads).await?;
    let headers = response.headers().clone();
    let value = response.bytes().await.map_err(|error| remote.unsent(&error, Effect::Reads))?;
    if !output.is_json() {
        return output.value(&value);
    }
    let mut document = json!({
        "key": shown(&get.key),
        "version": version(&headers),
        "etag": header(&headers, &ETAG),
        "modified": header(&headers, &LAST_MODIFIED),
        "bytes": value.len(),
    });
    match std::str::from_utf8(&value) {
        Ok(text) => document["value"] = text.into(),
        // JSON has no bytes.
        Err(_) => document["value_hex"] = value.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    output.json(&document)
}

pub(crate) async fn delete(remote: &Remote, output: &Output, delete: Delete) -> Result<(), Failure> {
    let mut request = remote.data(Method::DELETE, &delete.key)?;
    if let Some(version) = delete.if_version {
        request = request.header(IF_MATCH, format!("\"{version}\""));
    }
    if let Some(idempotency) = &delete.idempotency_key {
        request = request.header("Idempotency-Key", quoted(idempotency));
    }
    remote.send(request, Effect::Writes).await?;
    if output.is_json() {
        return output.json(&json!({ "key": shown(&delete.key), "deleted": true }));
    }
    output.line("deleted")
}

fn milliseconds(span: Duration) -> String {
    format!("{}ms", span.as_millis())
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn shown(key: &OsStr) -> String {
    key.to_string_lossy().into_owned()
}
