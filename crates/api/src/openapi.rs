//! The OpenAPI 3.1 document of what a program serves.

use bytes::Bytes;
use scatter_core::command::MAX_IDEMPOTENCY_KEY_BYTES;
use scatter_core::ring::MAX_KEY_BYTES;
use scatter_service::{Kind, Program};
use serde_json::{Map, Value, json};

/// The document of a program that serves the data API, as JSON. `more` are path items of the program's own, by path.
#[must_use]
pub fn openapi(program: &Program, more: &Value) -> Bytes {
    let mut paths = service_paths();
    paths.insert("/v1/kv/{key}".into(), key_path());
    document(program, paths, more)
}

/// The document of a program without the data API.
#[must_use]
pub fn openapi_of_service(program: &Program, more: &Value) -> Bytes {
    document(program, service_paths(), more)
}

fn document(program: &Program, mut paths: Map<String, Value>, more: &Value) -> Bytes {
    for (path, item) in more.as_object().into_iter().flatten() {
        paths.insert(path.clone(), item.clone());
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": { "title": program.name, "summary": program.about, "version": program.version },
        "paths": paths,
        "components": { "schemas": { "Problem": problem_schema() } },
    });
    // Values always serialize.
    serde_json::to_vec(&document).unwrap_or_default().into()
}

fn problem_schema() -> Value {
    let types: Vec<_> = Kind::ALL.iter().map(|kind| kind.uri()).collect();
    json!({
        "type": "object",
        "description": "What went wrong (RFC 9457).",
        "required": ["type", "title", "status", "detail", "retryable"],
        "properties": {
            "type": { "type": "string", "enum": types },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "retryable": {
                "type": "boolean",
                "description": "Whether the same request, sent again as it is, is safe and may succeed.",
            },
            "outcome": {
                "type": "string",
                "enum": ["not_applied", "unknown"],
                "description": "Of writes: whether it certainly did not happen, or may have happened or happen yet.",
            },
        },
    })
}

/// One reply in the document.
struct Reply {
    status: u16,
    description: &'static str,
    media_type: Option<&'static str>,
    /// Headers that are always there.
    always: &'static [&'static str],
    /// Headers that may be there.
    sometimes: &'static [&'static str],
}

const PROBLEM: Option<&str> = Some("application/problem+json");

const fn problem(status: u16, description: &'static str) -> Reply {
    Reply { status, description, media_type: PROBLEM, always: &["Cache-Control"], sometimes: &[] }
}

const fn later(status: u16, description: &'static str) -> Reply {
    Reply { status, description, media_type: PROBLEM, always: &["Cache-Control", "Retry-After"], sometimes: &[] }
}

impl Reply {
    fn document(&self) -> Value {
        let headers = |names: &[&str], required: bool| -> Vec<(String, Value)> {
            names.iter().map(|name| ((*name).to_owned(), header(name, required))).collect()
        };
        let headers: Map<_, _> =
            [headers(self.always, true), headers(self.sometimes, false)].concat().into_iter().collect();
        let mut reply = json!({ "description": self.description });
        if !headers.is_empty() {
            reply["headers"] = Value::Object(headers);
        }
        if let Some(media_type) = self.media_type {
            reply["content"] = json!({ media_type: { "schema": schema(media_type) } });
        }
        reply
    }
}

fn schema(media_type: &str) -> Value {
    match media_type {
        "application/problem+json" => json!({ "$ref": "#/components/schemas/Problem" }),
        "application/json" => json!({ "type": "object" }),
        // Raw bytes have no schema in OpenAPI 3.1.
        "application/octet-stream" => json!({}),
        _ => json!({ "type": "string" }),
    }
}

fn header(name: &str, required: bool) -> Value {
    let description = match name {
        "ETag" => "The version of the key's last write, in double quotes.",
        "Last-Modified" => "The time of the key's last write by its group's clock.",
        "Cache-Control" => "Values may be kept but must be asked for again each time.",
        "X-Content-Type-Options" => "Always nosniff.",
        "Scatter-Consistency" => "The consistency that the reply has: linearizable, bounded or any.",
        "Scatter-Group" => "The group that answered, in hexadecimal.",
        "Scatter-Epoch" => "The group's versions: of its members, a dot, of its range.",
        "Scatter-Staleness" => "How old the reply may be, such as 12ms.",
        "Retry-After" => "Seconds to wait before another try.",
        "Allow" => "The methods that the path takes.",
        _ => "",
    };
    json!({ "description": description, "required": required, "schema": { "type": "string" } })
}

fn replies(replies: &[Reply]) -> Value {
    Value::Object(replies.iter().map(|reply| (reply.status.to_string(), reply.document())).collect())
}

/// What reads and writes of a key share.
fn common(more: Vec<Reply>) -> Vec<Reply> {
    let mut all = more;
    all.extend([
        problem(400, "The key, a parameter or a header is malformed; the detail names it."),
        problem(409, "Something else is in the way."),
        problem(421, "Another node owns the key and this one was told not to forward."),
        later(429, "A quota is used up."),
        problem(500, "The server failed."),
        later(503, "The request cannot be served at the moment, or the server is overloaded, full or about to end."),
        problem(504, "The time of the request is over, or the outcome of a write is not known."),
    ]);
    all
}

fn key_path() -> Value {
    json!({
        "parameters": [
            {
                "name": "key", "in": "path", "required": true,
                "description": format!(
                    "The rest of the path, percent-decoded: 1 to {MAX_KEY_BYTES} bytes of any value. Slashes need no \
                     encoding; keys with the same bytes up to the first slash lie side by side."
                ),
                "schema": { "type": "string" },
            },
            {
                "name": "Request-Timeout", "in": "header",
                "description": "Bounds the whole request, such as 2s or 500ms.",
                "schema": { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "default": "5s" },
            },
        ],
        "get": read_operation("Reads a key", false),
        "head": read_operation("Reads all about a key but its value", true),
        "put": put_operation(),
        "delete": delete_operation(),
    })
}

fn if_match(what: &str) -> Value {
    json!({ "name": "If-Match", "in": "header", "description": what, "schema": { "type": "string" } })
}

fn idempotency_key() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header",
        "description": format!(
            "1 to {MAX_IDEMPOTENCY_KEY_BYTES} bytes, with or without double quotes, that make the write safe to repeat \
             from anywhere: a repeat hears what the first heard."
        ),
        "schema": { "type": "string" },
    })
}

const ORIGIN: &[&str] = &["Scatter-Group", "Scatter-Epoch"];

fn read_operation(summary: &str, is_head: bool) -> Value {
    const VALUE: &[&str] = &[
        "ETag",
        "Last-Modified",
        "Cache-Control",
        "X-Content-Type-Options",
        "Scatter-Consistency",
        "Scatter-Group",
        "Scatter-Epoch",
    ];
    const KNOWN: &[&str] =
        &["ETag", "Last-Modified", "Cache-Control", "Scatter-Consistency", "Scatter-Group", "Scatter-Epoch"];
    const ABSENT: &[&str] = &["Cache-Control", "Scatter-Consistency", "Scatter-Group", "Scatter-Epoch"];
    const FAILED: &[&str] = &["ETag", "Cache-Control", "Scatter-Consistency", "Scatter-Group", "Scatter-Epoch"];
    const STALE: &[&str] = &["Scatter-Staleness"];
    let reply =
        |status, description, media_type, always| Reply { status, description, media_type, always, sometimes: STALE };
    let all = common(vec![
        reply(200, "The value, byte for byte.", Some("application/octet-stream"), VALUE),
        reply(304, "The value still has one of the versions in If-None-Match.", None, KNOWN),
        reply(404, "The key has no value.", PROBLEM, ABSENT),
        reply(412, "The value has none of the versions in If-Match.", PROBLEM, FAILED),
    ]);
    json!({
        "summary": summary,
        "operationId": if is_head { "head" } else { "get" },
        "parameters": [
            {
                "name": "consistency", "in": "query",
                "schema": { "type": "string", "enum": ["linearizable", "bounded", "any"], "default": "linearizable" },
            },
            {
                "name": "max_staleness", "in": "query",
                "description": "With consistency=bounded, and only then: how old the reply may be, such as 5s.",
                "schema": { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" },
            },
            {
                "name": "If-None-Match", "in": "header",
                "description": "Versions that the client has; if the value still has one of them, the reply is 304.",
                "schema": { "type": "string" },
            },
            if_match("Versions of which the value must have one, or `*`."),
        ],
        "responses": replies(&all),
    })
}

fn write_replies(more: Vec<Reply>) -> Value {
    let mut all = common(more);
    all.push(Reply {
        status: 412,
        description: "If-Match or If-None-Match does not hold; ETag is the key's version if it has one.",
        media_type: PROBLEM,
        always: &["Cache-Control"],
        sometimes: &["ETag", "Scatter-Group", "Scatter-Epoch"],
    });
    all.push(Reply {
        status: 422,
        description: "The Idempotency-Key was used for another request to this path.",
        media_type: PROBLEM,
        always: &["Cache-Control", "Scatter-Group", "Scatter-Epoch"],
        sometimes: &[],
    });
    for reply in &mut all {
        // A decided write tells who decided, whatever came of it.
        if matches!(reply.status, 500 | 504) {
            reply.sometimes = ORIGIN;
        }
    }
    replies(&all)
}

fn put_operation() -> Value {
    const WRITTEN: &[&str] = &["ETag", "Scatter-Group", "Scatter-Epoch"];
    let reply = |status, description| Reply { status, description, media_type: None, always: WRITTEN, sometimes: &[] };
    json!({
        "summary": "Writes a key",
        "operationId": "put",
        "parameters": [
            {
                "name": "ttl", "in": "query",
                "description": "After how long the key vanishes by itself, such as 30s, 500ms, 2m, 1h or 1d.",
                "schema": { "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$" },
            },
            if_match("The version that the key must have, or `*` for any."),
            {
                "name": "If-None-Match", "in": "header", "description": "`*`: the key must not exist.",
                "schema": { "const": "*" },
            },
            idempotency_key(),
        ],
        "requestBody": {
            "description": "The value, raw; its size is bounded by the setting api.maximum_value_bytes.",
            "content": { "application/octet-stream": {} },
        },
        "responses": write_replies(vec![
            reply(200, "Written over an earlier value."),
            reply(201, "Written; the key is new."),
            problem(408, "The body came too slowly."),
            problem(413, "The value is too large; the detail names the setting."),
        ]),
    })
}

fn delete_operation() -> Value {
    let reply =
        |status, description, media_type, always| Reply { status, description, media_type, always, sometimes: &[] };
    json!({
        "summary": "Deletes a key",
        "operationId": "delete",
        "parameters": [if_match("The version that the key must have, or `*` for any."), idempotency_key()],
        "responses": write_replies(vec![
            reply(204, "Deleted.", None, ORIGIN),
            reply(404, "The key has no value.", PROBLEM, &["Cache-Control", "Scatter-Group", "Scatter-Epoch"]),
        ]),
    })
}

fn service_paths() -> Map<String, Value> {
    let path = |summary: &str, media_type, more: Option<Reply>| {
        let fine = Reply { status: 200, description: "Fine.", media_type, always: &["Cache-Control"], sometimes: &[] };
        let all: Vec<_> = std::iter::once(fine).chain(more).collect();
        json!({ "get": { "summary": summary, "responses": replies(&all) } })
    };
    let (text, json) = (Some("text/plain"), Some("application/json"));
    let not_ready = problem(503, "The program cannot serve; the detail says why.");
    [
        ("/livez", path("Whether this process lives", text, None)),
        ("/readyz", path("Whether the program can serve", text, Some(not_ready))),
        ("/metrics", path("Metrics in the text format of Prometheus", text, None)),
        ("/version", path("The program's name and version", json, None)),
        ("/openapi.json", path("This document", json, None)),
    ]
    .into_iter()
    .map(|(path, item)| (path.to_owned(), item))
    .collect()
}
