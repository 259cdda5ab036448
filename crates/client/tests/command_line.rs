//! `scatterctl` as a process, against a made-up server that answers what each test tells it to.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use parking_lot::Mutex;
use std::process::{Output, Stdio};
use std::sync::Arc;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;

/// One request as the server saw it: method, path with query, chosen headers, body.
type Seen = (String, String, Vec<(String, String)>, Bytes);

/// Status, `ETag` and body.
type Answer = (u16, &'static str, Bytes);

#[derive(Clone)]
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let server = Self { url, seen: Arc::default(), answers: Arc::default() };
        let router = Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    /// The next answer: status, `ETag`, body.
    fn next(&self, status: u16, etag: &'static str, body: impl Into<Bytes>) {
        self.answers.lock().push((status, etag, body.into()));
    }

    async fn run(&self, line: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scatterctl"));
        command.args(line).args(["--gateway", &self.url, "--admin", &self.url]).env_remove("http_proxy");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that reads nothing may have ended already.
        let _ = stdin.write_all(input).await;
        drop(stdin);
        child.wait_with_output().await.expect("it ends")
    }

    fn last(&self) -> Seen {
        self.seen.lock().last().cloned().expect("a request came")
    }
}

async fn answer(State(server): State<Server>, request: axum::extract::Request) -> Response {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    server.seen.lock().push((head.method.to_string(), path, headers.collect(), body));
    let mut answers = server.answers.lock();
    let (status, etag, body) = if answers.is_empty() { (500, "", Bytes::new()) } else { answers.remove(0) };
    let mut response = body.into_response();
    *response.status_mut() = axum::http::StatusCode::from_u16(status).expect("a status");
    if !etag.is_empty() {
        response.headers_mut().insert("etag", etag.parse().expect("a header"));
    }
    response
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has(seen: &Seen, name: &str, value: &str) -> bool {
    seen.2.iter().any(|(known, found)| known == name && found == value)
}

#[tokio::test]
async fn put_takes_its_value_from_argument_file_and_standard_input() {
    let server = Server::start().await;
    let file = std::env::temp_dir().join(format!("scatterctl-{}", std::process::id()));
    std::fs::write(&file, b"from \xff file").expect("a file");
    let path = file.to_str().expect("text");
    for (line, input, expected) in [
        (vec!["put", "a/b c", "from argument"], &b""[..], &b"from argument"[..]),
        (vec!["put", "a/b c", "--file", path], b"", b"from \xff file"),
        (vec!["put", "a/b c"], b"from input", b"from input"),
        (vec!["put", "a/b c", "--file", "-"], b"from dash", b"from dash"),
    ] {
        server.next(201, "\"7\"", "");
        let run = server.run(&line, input).await;
        assert_eq!((run.status.code(), text(&run.stdout).as_str()), (Some(0), "created version 7\n"), "{run:?}");
        let seen = server.last();
        assert_eq!((seen.0.as_str(), seen.1.as_str(), &seen.3[..]), ("PUT", "/v1/kv/a/b%20c", expected));
        assert!(has(&seen, "request-timeout", "5000ms"));
    }
    std::fs::remove_file(file).expect("removed");
}

#[tokio::test]
async fn options_become_headers_and_parameters() {
    let server = Server::start().await;
    server.next(200, "\"8\"", "");
    let line = ["put", "a", "b", "--ttl", "30s", "--if-version", "7", "--idempotency-key", "x", "--timeout", "2s"];
    let run = server.run(&[&line[..], &["-o", "json"]].concat(), b"").await;
    let seen = server.last();
    assert_eq!(seen.1, "/v1/kv/a?ttl=30000ms");
    for (name, value) in [("if-match", "\"7\""), ("idempotency-key", "\"x\""), ("request-timeout", "2000ms")] {
        assert!(has(&seen, name, value), "{name}: {seen:?}");
    }
    let printed: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(printed, serde_json::json!({ "key": "a", "version": 8, "created": false }));

    server.next(200, "\"8\"", "b");
    server.run(&["get", "a", "--consistency", "bounded", "--max-staleness", "5s"], b"").await;
    assert_eq!(server.last().1, "/v1/kv/a?consistency=bounded&max_staleness=5000ms");
    server.next(204, "", "");
    server.run(&["delete", "a", "--if-version", "8"], b"").await;
    assert!(has(&server.last(), "if-match", "\"8\""));
}

#[tokio::test]
async fn get_writes_the_bytes_as_they_are() {
    let server = Server::start().await;
    server.next(200, "\"7\"", &b"\x00\xff\n"[..]);
    let run = server.run(&["get", "a"], b"").await;
    assert_eq!((run.status.code(), &run.stdout[..], &run.stderr[..]), (Some(0), &b"\x00\xff\n"[..], &b""[..]));
    server.next(200, "\"7\"", &b"\x00\xff"[..]);
    let run = server.run(&["get", "a", "-o", "json"], b"").await;
    let printed: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!((&printed["version"], &printed["value_hex"]), (&7.into(), &"00ff".into()));
}

#[tokio::test]
async fn exit_codes_say_what_happened() {
    let server = Server::start().await;
    let problem = |outcome: &str| format!(r#"{{"type":"t","title":"T","detail":"D","outcome":"{outcome}"}}"#);
    for (line, status, body, expected) in [
        (vec!["get", "a"], 404, "{}".to_owned(), 3),
        (vec!["delete", "a"], 404, problem("not_applied"), 3),
        (vec!["put", "a", "b", "--create"], 412, problem("not_applied"), 4),
        (vec!["put", "a", "b"], 504, problem("unknown"), 5),
        (vec!["put", "a", "b"], 503, problem("not_applied"), 6),
        (vec!["put", "a", "b"], 413, problem("not_applied"), 1),
        (vec!["nodes"], 500, String::new(), 1),
        (vec!["groups", "zz"], 400, problem("not_applied"), 2),
        (vec!["ring"], 404, r#"{"type":"urn:scatter:problem:unknown-path","detail":"D"}"#.to_owned(), 1),
    ] {
        server.next(status, "", body);
        let run = server.run(&line, b"").await;
        assert_eq!(run.status.code(), Some(expected), "{line:?}: {run:?}");
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "what went wrong is told on standard error");
    }
    for line in [&["put"][..], &["get", ".."], &["members", "abc"], &["frobnicate"]] {
        assert_eq!(server.run(line, b"").await.status.code(), Some(2), "{line:?}");
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_unavailable_and_not_unknown() {
    let server = Server::start().await;
    let nowhere = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", nowhere.local_addr().expect("bound"));
    drop(nowhere);
    let silent = Server { url, ..server };
    for (line, hint) in [
        (&["put", "a", "b"][..], "--gateway or $SCATTER_GATEWAY"),
        (&["ring"], "--admin or $SCATTER_ADMIN"),
        (&["bench", "-d", "1h"], "--gateway or $SCATTER_GATEWAY"),
    ] {
        let run = silent.run(line, b"").await;
        assert_eq!(run.status.code(), Some(6), "{line:?}");
        let told = text(&run.stderr);
        assert!(told.starts_with("scatterctl: cannot reach the ") && told.contains(hint), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

const RING: &str = r#"{"cluster":"c","groups":[{"id":"abc","epoch":{"configuration":1,"range":1},
    "range":{"start":"","end":""},"leader":"1","members":[{"node":"1","role":"leader","reachable":true},
    {"node":"2","role":"follower","reachable":false}],"keys":3,"bytes":33,"ops_per_second":0,"pending":null}],
    "problems":[{"kind":"under_replicated","text":"node 2 is away"}]}"#;

#[tokio::test]
async fn the_ring_is_shown_and_checked() {
    let server = Server::start().await;
    server.next(200, "", RING);
    let run = server.run(&["ring"], b"").await;
    let shown = text(&run.stdout);
    assert!(
        run.status.success() && shown.contains("1, 2 (silent)") && shown.contains("problem: node 2 is away"),
        "{shown}"
    );
    server.next(200, "", RING);
    assert_eq!(server.run(&["ring", "--check"], b"").await.status.code(), Some(1));
    server.next(200, "", RING);
    let run = server.run(&["groups", "-o", "json"], b"").await;
    let printed: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(printed["groups"][0]["id"], "abc");
    server.next(200, "", r#"{"partition":"users","position":"00ff","group":"abc","leader":null,"members":[]}"#);
    let run = server.run(&["lookup", "users/4 2"], b"").await;
    assert_eq!(server.last().1, "/v1/lookup?key=users%2F4%202");
    assert!(text(&run.stdout).contains("00ff"));
}

#[tokio::test]
async fn members_are_changed_only_after_a_yes() {
    let server = Server::start().await;
    let plan = r#"{"group":"abc","configuration_version":7,"members":["1","4"]}"#;
    server.next(200, "", plan);
    let run = server.run(&["members", "abc", "--add", "4"], b"").await;
    assert_eq!(run.status.code(), Some(2), "nobody can be asked: {run:?}");
    assert_eq!(server.seen.lock().len(), 1, "only the plan was asked for");
    assert_eq!(server.last().1, "/v1/groups/abc/members?dry_run=true");

    server.next(200, "", plan);
    let run = server.run(&["members", "abc", "--add", "4", "--dry-run"], b"").await;
    assert_eq!(text(&run.stdout), "the members would be 1 4\n");

    server.next(200, "", plan);
    server.next(200, "", r#"{"result":{"done":true}}"#);
    let run = server.run(&["members", "abc", "--add", "4", "--remove", "2", "--yes"], b"").await;
    assert_eq!((run.status.code(), text(&run.stdout).as_str()), (Some(0), "done\n"));
    let seen = server.last();
    assert_eq!((seen.0.as_str(), seen.1.as_str()), ("POST", "/v1/groups/abc/members"));
    let body: serde_json::Value = serde_json::from_slice(&seen.3).expect("JSON");
    // Of the members as they were shown.
    assert_eq!(body, serde_json::json!({ "add": ["4"], "remove": ["2"], "configuration_version": 7 }));

    server.next(200, "", r#"{"to":"3"}"#);
    let run = server.run(&["transfer-leader", "abc", "--dry-run"], b"").await;
    assert_eq!(text(&run.stdout), "node 3 would lead\n");
    server.next(200, "", "{}");
    server.run(&["transfer-leader", "abc", "--to", "2"], b"").await;
    assert_eq!(server.last().3, r#"{"to":"2"}"#);
}

#[tokio::test]
async fn a_dry_run_names_the_groups_of_a_node_and_who_takes_its_place() {
    let server = Server::start().await;
    server.next(200, "", r#"{"node":"2","draining":true,"groups":["abc","def"]}"#);
    let run = server.run(&["drain", "2", "--dry-run"], b"").await;
    assert_eq!(text(&run.stdout), "2 groups have a member there\nabc\ndef\n");
    let changes = r#"[{"group":"abc","replaced_by":"4"},{"group":"def","replaced_by":null}]"#;
    server.next(200, "", format!(r#"{{"node":"2","changes":{changes}}}"#));
    let run = server.run(&["remove-node", "2", "--dry-run"], b"").await;
    let lines = "abc, there replaced by 4\ndef, there replaced by nobody: it has one member less\n";
    assert_eq!(text(&run.stdout), format!("2 groups have a member there\n{lines}"));
}

#[tokio::test]
async fn groups_are_reshaped_with_a_plan_and_a_yes() {
    let server = Server::start().await;
    let plan = r#"{"group":"abc","result":{"operation":"merge","gainer":"abc","loser":"def",
        "range":{"start":"","end":""}}}"#;
    server.next(200, "", plan);
    let run = server.run(&["merge", "abc", "--dry-run"], b"").await;
    assert!(text(&run.stdout).contains("take over all of group def"), "{run:?}");
    assert_eq!(server.last().1, "/v1/groups/abc/merge?dry_run=true");
    server.next(200, "", plan);
    let run = server.run(&["merge", "abc"], b"").await;
    assert_eq!(run.status.code(), Some(2), "nobody can be asked: {run:?}");
    server.next(200, "", r#"{"result":{"done":true}}"#);
    let run = server.run(&["merge", "abc", "--side", "predecessor", "--yes"], b"").await;
    assert_eq!((run.status.code(), text(&run.stdout).as_str()), (Some(0), "done\n"));
    let seen = server.last();
    assert_eq!((seen.1.as_str(), &seen.3[..]), ("/v1/groups/abc/merge", &br#"{"side":"predecessor"}"#[..]));

    server.next(200, "", r#"{"child":"def","result":{"done":true,"child":"def"}}"#);
    let run = server.run(&["split", "abc", "--at", "80", "--range-version", "3"], b"").await;
    assert_eq!(text(&run.stdout), "done: the new group is def\n");
    let body: serde_json::Value = serde_json::from_slice(&server.last().3).expect("JSON");
    assert_eq!(body, serde_json::json!({ "at": "80", "range_version": 3 }));

    server.next(409, "", r#"{"title":"T","detail":"D","outcome":"not_applied"}"#);
    let run = server.run(&["repartition", "abc", "--key", "users/42", "--yes"], b"").await;
    assert_eq!(run.status.code(), Some(7), "{run:?}");
    let body: serde_json::Value = serde_json::from_slice(&server.last().3).expect("JSON");
    let position = scatter_client::Key::new("users/42").expect("a key").position();
    assert_eq!(body, serde_json::json!({ "boundary": position.to_string() }));

    let plan = r#"{"group":"abc","add":["4"],"members":["2","4"]}"#;
    server.next(200, "", plan);
    server.next(200, "", r#"{"result":{"done":true}}"#);
    let run = server.run(&["migrate", "abc", "--add", "4", "--remove", "1", "--yes"], b"").await;
    assert_eq!((run.status.code(), text(&run.stdout).as_str()), (Some(0), "done\n"));
}

#[tokio::test]
async fn operations_are_listed() {
    let server = Server::start().await;
    let body = r#"{"operations":[{"id":1,"kind":"split","group":"abc","origin":"ordered","state":"refused",
        "operation":null,"reason":"busy"},
        {"id":2,"kind":"members","group":"abc","state":"done","detail":{"add":["4"],"remove":["2","3"],"members":["1"]}},
        {"id":3,"kind":"members","group":"abc","state":"done","detail":{"node":"9","action":{"add":["5"],"remove":["6"]}}},
        {"id":4,"kind":"transfer-leader","group":"abc","state":"done","detail":{"to":"7"}},
        {"id":5,"kind":"drain","group":"","state":"done","detail":{"node":"8"}},
        {"id":6,"kind":"remove","group":"","state":"done","detail":{"node":"8","changes":[{"group":"abc","replaced_by":"7"},
            {"group":"def","replaced_by":null}]}}]}"#;
    server.next(200, "", body);
    let run = server.run(&["operations"], b"").await;
    let shown = text(&run.stdout);
    assert!(shown.lines().any(|line| line.contains("refused") && line.ends_with("busy")), "{run:?}");
    for (kind, nodes) in [
        ("members", " +4 -2 -3 "),
        ("members", " +5 -6 "),
        ("transfer-leader", " 7 "),
        ("drain", " 8 "),
        ("remove", " +7 8 "),
    ] {
        assert!(shown.lines().any(|line| line.contains(kind) && line.contains(nodes)), "{kind}: {shown}");
    }
    assert!(!shown.contains('9'), "who decided is not whom it concerns: {shown}");
}

#[tokio::test]
async fn a_reader_that_goes_early_is_no_failure() {
    for line in ["completions bash", "completions fish"] {
        let script =
            format!("'{}' {line} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_scatterctl"));
        let run = Command::new("bash").args(["-c", &script]).output().await.expect("bash");
        assert_eq!((run.status.code(), text(&run.stderr).as_str()), (Some(0), ""), "{line}");
    }
}

#[tokio::test]
async fn completions_need_no_server() {
    let server = Server::start().await;
    let run = server.run(&["completions", "bash"], b"").await;
    assert!(run.status.success() && text(&run.stdout).contains("transfer-leader"));
    assert!(server.seen.lock().is_empty());
}
