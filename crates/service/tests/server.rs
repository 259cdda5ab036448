//! The server over real sockets: slow, idle, many and bad clients, and its end.

use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use scatter_service::http::{Body, Handler, HttpSettings, ServerMetrics, Site, bind, serve};
use scatter_service::{Address, Program, Shutdown, metrics};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const PROGRAM: Program = Program { name: "scatter-test", about: "A test.", version: "9.8.7", flags: &[] };

/// Long enough for anything that should happen, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers `/wait` when told to, `/big` with many bytes, all else like any program.
struct Test {
    site: Site,
    entered: Semaphore,
    go: Semaphore,
}

impl Handler for Test {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        match request.uri().path() {
            "/wait" => {
                self.entered.add_permits(1);
                self.go.acquire().await.expect("open").forget();
                Response::new(Body::from("waited"))
            }
            "/big" => Response::new(Body::from(vec![b'x'; 64 << 20])),
            _ => self.site.respond(request).await,
        }
    }
}

struct Server {
    address: SocketAddr,
    test: Arc<Test>,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

async fn start(change: impl FnOnce(&mut HttpSettings)) -> Server {
    let mut settings = HttpSettings { listen: "127.0.0.1:0".parse().expect("an address"), ..HttpSettings::default() };
    change(&mut settings);
    let registry = metrics::registry();
    let server_metrics = ServerMetrics::register(&registry).expect("metrics");
    let shutdown = Shutdown::new();
    let router = axum::Router::new().route("/echo", axum::routing::post(async |body: bytes::Bytes| body));
    let site = Site::new(&PROGRAM, registry, Arc::new(|| Ok(())), "{}", shutdown.clone()).with_router(router);
    let test = Arc::new(Test { site, entered: Semaphore::new(0), go: Semaphore::new(0) });
    let listener = bind(&settings.listen, "http.listen").await.expect("bound");
    let address = listener.local_address();
    let task = tokio::spawn({
        let (test, shutdown) = (Arc::clone(&test), shutdown.clone());
        async move { serve(listener, &settings, server_metrics, test, shutdown).await }
    });
    Server { address, test, shutdown, task }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connected")
    }

    /// Sends text on a connection of its own and returns all that comes until the server closes it.
    async fn talk(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.expect("sent");
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all));
    // A reset is an end too.
    let _ = read.await.expect("the server ends the connection");
    String::from_utf8_lossy(&all).into_owned()
}

/// One request on a connection that stays open; returns the reply's bytes as text once `end` is seen.
async fn exchange(stream: &mut TcpStream, text: &str, end: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("sent");
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&all).contains(end) {
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("a reply").expect("read");
        assert!(read > 0, "closed after {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..read]);
    }
    String::from_utf8(all).expect("text")
}

const LIVE: &str = "GET /livez HTTP/1.1\r\nhost: t\r\n\r\n";

#[tokio::test]
async fn every_program_has_the_common_routes() {
    let server = start(|_| {}).await;
    let get =
        async |path: &str| server.talk(&format!("GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")).await;
    assert!(get("/livez").await.ends_with("\r\n\r\nok\n"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200 "));
    assert!(get("/version").await.ends_with(r#"{"name":"scatter-test","version":"9.8.7"}"#));
    let metrics = get("/metrics").await;
    for name in ["scatter_http_connections 1", "process_resident_memory_bytes", "process_cpu_seconds_total"] {
        assert!(metrics.contains(name), "`{name}` is missing in {metrics}");
    }
    let unknown = get("/nothing").await;
    assert!(unknown.starts_with("HTTP/1.1 404 ") && unknown.contains("urn:scatter:problem:unknown-path"), "{unknown}");
    let head = server.talk("HEAD /livez HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").await;
    assert!(head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    let wrong = server.talk("POST /livez HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    assert!(wrong.starts_with("HTTP/1.1 405 ") && wrong.contains("allow: GET, HEAD\r\n"), "{wrong}");
    let wrong = get("/echo").await;
    assert!(wrong.starts_with("HTTP/1.1 405 ") && wrong.contains("allow: POST\r\n"), "{wrong}");
    let echo = "POST /echo HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello";
    assert!(server.talk(echo).await.ends_with("hello"));
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let server = start(|settings| settings.maximum_head_bytes = 8192).await;
    assert!(server.talk("garbage\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    let long = format!("GET /livez HTTP/1.1\r\nhost: t\r\nx: {}\r\n\r\n", "x".repeat(10_000));
    assert!(server.talk(&long).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_order() {
    let server = start(|_| {}).await;
    let mut stream = server.connect().await;
    let three = format!("{LIVE}GET /version HTTP/1.1\r\nhost: t\r\n\r\nGET /nothing HTTP/1.1\r\nhost: t\r\n\r\n");
    let replies = exchange(&mut stream, &three, "unknown-path").await;
    let (live, version) = (replies.find("ok\n").expect("first"), replies.find("9.8.7").expect("second"));
    assert!(live < version);
}

#[tokio::test]
async fn a_slow_head_is_cut_off_even_if_it_drips() {
    let server = start(|settings| settings.header_read_ms = 200).await;
    assert_eq!(server.talk("GET /livez HTTP/1.1\r\nhost").await, "");
    let mut stream = server.connect().await;
    let drip = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, drip).await.expect("the server ends the connection");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = start(|settings| settings.keep_alive_idle_ms = 200).await;
    let mut stream = server.connect().await;
    exchange(&mut stream, LIVE, "ok\n").await;
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(rest(&mut server.connect().await).await, "", "one that never said anything too");
}

#[tokio::test]
async fn a_request_longer_than_the_idle_limit_is_not_idle() {
    let server = start(|settings| settings.keep_alive_idle_ms = 100).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await.expect("sent");
    // Another connection that becomes idle later is closed while this one waits.
    server.test.entered.acquire().await.expect("open").forget();
    let mut other = server.connect().await;
    exchange(&mut other, LIVE, "ok\n").await;
    assert_eq!(rest(&mut other).await, "");
    server.test.go.add_permits(1);
    assert!(exchange(&mut stream, "", "waited").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_reply_that_nobody_takes_ends_the_connection() {
    let server = start(|settings| settings.write_idle_ms = 200).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: t\r\n\r\n").await.expect("sent");
    let closed = async {
        // The server's gauge tells without taking a byte of the reply.
        while !server
            .talk("GET /metrics HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n")
            .await
            .contains("scatter_http_connections_ended_total{reason=\"write_timeout\"} 1")
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("the server ends the connection");
    assert!(rest(&mut stream).await.len() < 64 << 20);
}

#[tokio::test]
async fn the_longest_idle_connection_makes_room() {
    let server = start(|settings| settings.maximum_connections = 2).await;
    let mut first = server.connect().await;
    exchange(&mut first, LIVE, "ok\n").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await.expect("sent");
    server.test.entered.acquire().await.expect("open").forget();
    let mut third = server.connect().await;
    exchange(&mut third, "GET /wait HTTP/1.1\r\nhost: t\r\n\r\n", "").await;
    server.test.entered.acquire().await.expect("open").forget();
    assert_eq!(rest(&mut first).await, "", "the idle one is closed");
    let refused = rest(&mut server.connect().await).await;
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("http.maximum_connections"), "{refused}");
    let (head, body) = refused.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{refused}");
    serde_json::from_str::<serde_json::Value>(body).expect("JSON");
    server.test.go.add_permits(2);
    exchange(&mut busy, "", "waited").await;
    exchange(&mut third, "", "waited").await;
}

#[tokio::test]
async fn draining_answers_what_is_under_way_and_nothing_else() {
    let server = start(|_| {}).await;
    let mut idle = server.connect().await;
    exchange(&mut idle, LIVE, "ok\n").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await.expect("sent");
    server.test.entered.acquire().await.expect("open").forget();
    server.shutdown.request();
    assert_eq!(rest(&mut idle).await, "");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens");
    assert!(!server.task.is_finished(), "a request is under way");
    server.test.go.add_permits(1);
    let reply = rest(&mut busy).await;
    assert!(reply.contains("connection: close\r\n") && reply.ends_with("waited"), "{reply}");
    tokio::time::timeout(PATIENCE, server.task).await.expect("drained").expect("no panic");
}

#[tokio::test]
async fn draining_has_an_end() {
    let server = start(|settings| settings.drain_ms = 100).await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /wait HTTP/1.1\r\nhost: t\r\n\r\n").await.expect("sent");
    server.test.entered.acquire().await.expect("open").forget();
    server.shutdown.request();
    tokio::time::timeout(PATIENCE, server.task).await.expect("drained").expect("no panic");
    assert_eq!(rest(&mut busy).await, "");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = start(|_| {}).await;
    let address = Address::from(server.address);
    let error = bind(&address, "http.listen").await.expect_err("in use").to_string();
    for part in [address.to_string().as_str(), "http.listen", "in use by another process"] {
        assert!(error.contains(part), "`{part}` is missing in: {error}");
    }
    let error = bind(&"192.0.2.1:1".parse().expect("an address"), "http.listen").await.expect_err("not ours");
    assert!(error.to_string().contains("does not have that address"), "{error}");
}

#[tokio::test]
async fn a_body_is_read_by_hyper_only_as_far_as_needed() {
    let server = start(|_| {}).await;
    let mut stream = server.connect().await;
    let head = "POST /echo HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let first = exchange(&mut stream, head, "\r\n\r\n").await;
    assert!(first.starts_with("HTTP/1.1 100 "), "{first}");
    assert!(exchange(&mut stream, "hello", "hello").await.starts_with("HTTP/1.1 200 "));
    let large =
        format!("POST /echo HTTP/1.1\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n", 2 << 20);
    let refused = server.talk(&large).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "no 100 before it: {refused}");
}

#[tokio::test]
async fn a_problem_is_a_reply_of_axum_too() {
    let problem = scatter_service::Problem::new(scatter_service::Kind::NotFound, "no such group");
    let response = axum::response::IntoResponse::into_response(problem);
    assert_eq!(response.status(), 404);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    assert!(String::from_utf8_lossy(&body).contains("no such group"));
}
