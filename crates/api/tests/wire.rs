//! The data API over real sockets: what only shows on the wire.

use scatter_api::testing::Memory;
use scatter_api::{Api, ApiMetrics, ApiSettings};
use scatter_service::http::{HttpSettings, ServerMetrics, Site, bind, serve};
use scatter_service::{Program, Shutdown, metrics};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PROGRAM: Program = Program { name: "scatter-test", about: "A test.", version: "0.0.0", flags: &[] };

/// Long enough for anything that should happen, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn start(change: impl FnOnce(&mut HttpSettings, &mut ApiSettings)) -> (SocketAddr, Memory) {
    let mut http = HttpSettings { listen: "127.0.0.1:0".parse().expect("an address"), ..HttpSettings::default() };
    let mut settings = ApiSettings { maximum_value_bytes: 100_000, ..ApiSettings::default() };
    change(&mut http, &mut settings);
    let registry = metrics::registry();
    let server_metrics = ServerMetrics::register(&registry).expect("metrics");
    let api_metrics = ApiMetrics::register(&registry).expect("metrics");
    let site = Site::new(&PROGRAM, registry, Arc::new(|| Ok(())), "{}", Shutdown::new());
    let memory = Memory::new();
    memory.keep_writes();
    let api = Api::new(memory.clone(), &settings, &http, api_metrics, site);
    let listener = bind(&http.listen, "http.listen").await.expect("bound");
    let address = listener.local_address();
    tokio::spawn(async move { serve(listener, &http, server_metrics, Arc::new(api), Shutdown::new()).await });
    (address, memory)
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("connected")
}

/// Reads until `end` is seen or the server closes.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("a reply").unwrap_or(0);
        all.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&all);
        if read == 0 || (!end.is_empty() && text.contains(end)) {
            return text.into_owned();
        }
    }
}

/// Sends text on a connection of its own and returns the reply.
async fn talk(address: SocketAddr, text: &str) -> String {
    let mut stream = connect(address).await;
    // The server may answer and close before it has taken everything.
    let _ = stream.write_all(text.replacen("\r\n", "\r\nhost: t\r\nconnection: close\r\n", 1).as_bytes()).await;
    until(&mut stream, "").await
}

fn is_problem(reply: &str, status: u16, parts: &[&str]) {
    assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
    assert!(reply.contains("content-type: application/problem+json\r\n"), "{reply}");
    for part in parts {
        assert!(reply.contains(part), "`{part}` is missing in {reply}");
    }
}

const NOT_APPLIED: &str = r#""outcome":"not_applied""#;

#[tokio::test]
async fn a_value_comes_back_byte_for_byte() {
    let (address, _) = start(|_, _| {}).await;
    let created = talk(address, "PUT /v1/kv/a%00/b HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello").await;
    assert!(created.starts_with("HTTP/1.1 201 ") && created.contains("etag: \"1\"\r\n"), "{created}");
    let got = talk(address, "GET /v1/kv/%61%00%2Fb HTTP/1.1\r\n\r\n").await;
    for part in [
        "HTTP/1.1 200 OK\r\n",
        "content-length: 5\r\n",
        "content-type: application/octet-stream\r\n",
        "x-content-type-options: nosniff\r\n",
        "etag: \"1\"\r\n",
        "last-modified: Sun, 31 Dec 2023 23:59:59 GMT\r\n",
        "scatter-consistency: linearizable\r\n",
        "scatter-group: 0000000000000abc\r\n",
        "scatter-epoch: 3.2\r\n",
        "\r\n\r\nhello",
    ] {
        assert!(got.contains(part), "`{part}` is missing in {got}");
    }
    assert!(!got.contains("scatter-staleness"), "{got}");
    let head = talk(address, "HEAD /v1/kv/a%00/b?consistency=any HTTP/1.1\r\n\r\n").await;
    assert!(head.contains("content-length: 5\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(head.contains("scatter-consistency: any\r\n") && head.contains("scatter-staleness: 12ms\r\n"), "{head}");
    let deleted = talk(address, "DELETE /v1/kv/a%00/b HTTP/1.1\r\n\r\n").await;
    assert!(deleted.starts_with("HTTP/1.1 204 ") && deleted.ends_with("\r\n\r\n"), "{deleted}");
    is_problem(&talk(address, "GET /v1/kv/a%00/b HTTP/1.1\r\n\r\n").await, 404, &["key-not-found"]);
}

#[tokio::test]
async fn bad_requests_are_problems() {
    let (address, memory) = start(|_, _| {}).await;
    let long = "x".repeat(4097);
    for (request, status, part) in [
        ("GET /v1/kv/ HTTP/1.1\r\n\r\n", 400, "at least 1 byte"),
        ("GET /v1/kv/%zz HTTP/1.1\r\n\r\n", 400, "two hexadecimal digits"),
        (&format!("GET /v1/kv/{long} HTTP/1.1\r\n\r\n"), 400, "at most 4096 bytes"),
        ("GET /v1/kv/a?x=1 HTTP/1.1\r\n\r\n", 400, "`x` is unknown"),
        ("GET /v1/kv/a HTTP/1.1\r\nif-none-match: 7\r\n\r\n", 400, "If-None-Match"),
        ("PATCH /v1/kv/a HTTP/1.1\r\n\r\n", 405, "allow: GET, HEAD, PUT, DELETE\r\n"),
        ("POST /v1/kv/a HTTP/1.1\r\ncontent-length: 1\r\n\r\nx", 405, "allow: GET, HEAD, PUT, DELETE\r\n"),
        ("GET /v1/kv HTTP/1.1\r\n\r\n", 404, "unknown-path"),
        ("GET /v2/kv/a HTTP/1.1\r\n\r\n", 404, "unknown-path"),
        ("GET / HTTP/1.1\r\n\r\n", 404, "unknown-path"),
    ] {
        is_problem(&talk(address, request).await, status, &[part]);
    }
    for (request, part) in [
        ("PUT /v1/kv/a?ttl=never HTTP/1.1\r\ncontent-length: 1\r\n\r\nx", "`ttl` = `never`"),
        ("PUT /v1/kv/ HTTP/1.1\r\ncontent-length: 1\r\n\r\nx", "at least 1 byte"),
        ("PUT /v1/kv/a HTTP/1.1\r\nif-match: 7\r\ncontent-length: 1\r\n\r\nx", "If-Match"),
        ("DELETE /v1/kv/a?ttl=1s HTTP/1.1\r\n\r\n", "`ttl` is unknown"),
        ("DELETE /v1/kv/a HTTP/1.1\r\nidempotency-key: \r\n\r\n", "Idempotency-Key"),
        ("DELETE /v1/kv/a HTTP/1.1\r\nrequest-timeout: 1\r\n\r\n", "Request-Timeout"),
    ] {
        is_problem(&talk(address, request).await, 400, &[part, NOT_APPLIED]);
    }
    assert!(memory.writes().is_empty());
}

#[tokio::test]
async fn too_large_a_value_is_refused_before_it_is_sent() {
    let (address, memory) = start(|_, _| {}).await;
    let declared = "PUT /v1/kv/a HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 100001\r\n\r\n";
    let reply = talk(address, declared).await;
    is_problem(&reply, 413, &["api.maximum_value_bytes", "100000 bytes", NOT_APPLIED]);
    // Streamed, without a length: refused as soon as it is over, though more comes.
    let mut streamed = "PUT /v1/kv/a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for _ in 0..64 {
        streamed += &format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    }
    is_problem(&talk(address, &streamed).await, 413, &["api.maximum_value_bytes", NOT_APPLIED]);
    assert!(memory.writes().is_empty());
}

#[tokio::test]
async fn expectations_and_chunks_are_understood() {
    let (address, memory) = start(|_, _| {}).await;
    let mut stream = connect(address).await;
    let head = "PUT /v1/kv/a HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    stream.write_all(b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n").await.expect("sent");
    assert!(until(&mut stream, "\r\n\r\n").await.starts_with("HTTP/1.1 201 "));
    stream.write_all(b"GET /v1/kv/a HTTP/1.1\r\nhost: t\r\n\r\n").await.expect("sent");
    assert!(until(&mut stream, "hello").await.starts_with("HTTP/1.1 200 "));
    assert_eq!(memory.writes().len(), 1);
}

#[tokio::test]
async fn a_slow_body_is_given_up() {
    let (address, memory) = start(|http, _| http.body_idle_ms = 100).await;
    let stalled = "PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 5\r\n\r\nhel";
    is_problem(&talk(address, stalled).await, 408, &["body-too-slow", NOT_APPLIED]);
    // One that drips ends with the request's time.
    let mut stream = connect(address).await;
    let head = "PUT /v1/kv/a HTTP/1.1\r\nhost: t\r\nrequest-timeout: 200ms\r\ncontent-length: 50000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut read, mut write) = stream.split();
    let drip = async {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut reply = [0; 4096];
    let reply = tokio::select! {
        length = read.read(&mut reply) => String::from_utf8_lossy(&reply[..length.expect("a reply")]).into_owned(),
        () = drip => unreachable!("it never ends"),
        () = tokio::time::sleep(PATIENCE) => panic!("no reply"),
    };
    is_problem(&reply, 408, &["body-too-slow"]);
    assert!(memory.writes().is_empty());
}

#[tokio::test]
async fn a_body_that_breaks_off_writes_nothing() {
    let (address, memory) = start(|_, _| {}).await;
    let mut stream = connect(address).await;
    stream.write_all(b"PUT /v1/kv/a HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhel").await.expect("sent");
    stream.shutdown().await.expect("closed");
    until(&mut stream, "").await;
    let broken = "PUT /v1/kv/a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n";
    is_problem(&talk(address, broken).await, 400, &["not well formed", NOT_APPLIED]);
    assert!(memory.writes().is_empty());
}

#[tokio::test]
async fn bodies_in_memory_are_bounded_over_all_requests() {
    let (address, _) = start(|_, api| api.maximum_buffered_bytes = 100_000).await;
    // This one holds its share while its body does not come.
    let mut holder = connect(address).await;
    let head = "PUT /v1/kv/a HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 99000\r\n\r\n";
    holder.write_all(head.as_bytes()).await.expect("sent");
    assert!(until(&mut holder, "\r\n\r\n").await.starts_with("HTTP/1.1 100 "));
    let other = format!("PUT /v1/kv/b HTTP/1.1\r\ncontent-length: 2000\r\n\r\n{}", "x".repeat(2000));
    let reply = talk(address, &other).await;
    is_problem(&reply, 503, &["retry-after: 1\r\n", "api.maximum_buffered_bytes", NOT_APPLIED, r#""retryable":true"#]);
    let small = format!("PUT /v1/kv/b HTTP/1.1\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(1000));
    assert!(talk(address, &small).await.starts_with("HTTP/1.1 201 "), "there is room for this one");
    holder.write_all("x".repeat(99_000).as_bytes()).await.expect("sent");
    assert!(until(&mut holder, "\r\n\r\n").await.starts_with("HTTP/1.1 201 "));
    assert!(talk(address, &other).await.starts_with("HTTP/1.1 200 "), "its share is back");
    let metrics = talk(address, "GET /metrics HTTP/1.1\r\n\r\n").await;
    for line in [r#"scatter_requests_shed_total{operation="put"} 1"#, "scatter_request_body_bytes 0"] {
        assert!(metrics.contains(line), "`{line}` is missing in {metrics}");
    }
}

#[tokio::test]
async fn an_idempotency_key_makes_repeats_safe() {
    let (address, _) = start(|_, _| {}).await;
    let put = |path: &str, body: &str| {
        format!(
            "PUT /v1/kv/{path} HTTP/1.1\r\nidempotency-key: \"once\"\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let first = talk(address, &put("a%2Fb", "one")).await;
    let again = talk(address, &put("a/b", "one")).await;
    let etag = |reply: &str| reply.lines().find(|line| line.starts_with("etag")).map(str::to_owned);
    assert!(first.starts_with("HTTP/1.1 201 ") && again.starts_with("HTTP/1.1 201 "), "{first}{again}");
    assert_eq!(etag(&first), etag(&again));
    is_problem(&talk(address, &put("a/b", "two")).await, 422, &["idempotency-mismatch", NOT_APPLIED]);
    assert!(talk(address, &put("c", "two")).await.starts_with("HTTP/1.1 201 "), "another path is another key");
}

#[tokio::test]
async fn what_was_served_is_counted() {
    let (address, _) = start(|_, _| {}).await;
    talk(address, "PUT /v1/kv/a HTTP/1.1\r\ncontent-length: 0\r\n\r\n").await;
    talk(address, "GET /v1/kv/a HTTP/1.1\r\n\r\n").await;
    talk(address, "GET /v1/kv/b?consistency=any HTTP/1.1\r\n\r\n").await;
    let metrics = talk(address, "GET /metrics HTTP/1.1\r\n\r\n").await;
    for line in [
        r#"scatter_requests_total{operation="put",status="201"} 1"#,
        r#"scatter_requests_total{operation="get",status="200"} 1"#,
        r#"scatter_requests_total{operation="get",status="404"} 1"#,
        r#"scatter_reads_total{path="lease"} 1"#,
        r#"scatter_reads_total{path="stale"} 1"#,
        r#"scatter_request_seconds_count{operation="get"} 2"#,
    ] {
        assert!(metrics.contains(line), "`{line}` is missing in {metrics}");
    }
}
