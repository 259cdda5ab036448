//! Requests that no program takes, through a node and through a gateway, and clients that keep connections to themselves.

use scatter_e2e::cluster::{Cluster, get_patiently, put_patiently};
use scatter_e2e::http::{self, Reply, Request};
use scatter_e2e::wait;
use scatter_e2e::workload::Workload;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

const MOST_VALUE_BYTES: usize = 1 << 20;
/// What is refused while it comes must be refused long before this much of it was taken.
const ENDLESS_BYTES: usize = 1 << 30;
const TAKEN_BYTES: usize = 64 << 20;

fn expect_problem(reply: &Reply, status: u16, kind: &str, part: &str, asked: &str) {
    let text = reply.text();
    assert_eq!(reply.status, status, "{asked}: {text}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{asked}");
    assert_eq!(reply.json()["type"], format!("urn:scatter:problem:{kind}"), "{asked}: {text}");
    assert!(text.contains(part), "{asked} does not hear of {part}: {text}");
}

/// Everywhere a client can ask: the nodes, leader and followers, and a gateway.
fn everywhere(cluster: &mut Cluster) -> Vec<SocketAddr> {
    let mut addresses = cluster.addresses();
    addresses.push(cluster.start_gateway());
    addresses
}

#[test]
fn bad_requests_are_refused_by_name_and_change_nothing() {
    let mut cluster = Cluster::start(3);
    let addresses = everywhere(&mut cluster);
    put_patiently(addresses[0], "bad", b"as it was");
    let (longest, long) = (format!("/v1/kv/{}", "x".repeat(4096)), format!("/v1/kv/{}", "x".repeat(4097)));
    let large = vec![7; MOST_VALUE_BYTES + 1];
    let reads = [
        ("/v1/kv/", "malformed", "at least 1 byte"),
        ("/v1/kv/%zz", "malformed", "two hexadecimal digits"),
        ("/v1/kv/half%4", "malformed", "two hexadecimal digits"),
        (&long, "malformed", "at most 4096 bytes"),
        ("/v1/kv/bad?ttl=1s", "malformed", "`ttl` is unknown"),
        ("/v1/kv/bad?consistency=perhaps", "malformed", "consistency"),
    ];
    let writes = [
        ("/v1/kv/", "", "at least 1 byte"),
        ("/v1/kv/%zz", "", "two hexadecimal digits"),
        (&long, "", "at most 4096 bytes"),
        ("/v1/kv/bad", "If-Match: 7", "If-Match"),
        ("/v1/kv/bad", "If-Match: \"seven\"", "If-Match"),
        ("/v1/kv/bad", "If-None-Match: \"", "If-None-Match"),
        ("/v1/kv/bad?ttl=never", "", "`ttl` = `never`"),
        ("/v1/kv/bad?ttl=-1s", "", "`ttl` = `-1s`"),
        ("/v1/kv/bad?ttl=0s", "", "`ttl`"),
        ("/v1/kv/bad?colour=red", "", "`colour` is unknown"),
        ("/v1/kv/bad", "Request-Timeout: soon", "Request-Timeout"),
    ];
    for address in &addresses {
        for (path, kind, part) in reads {
            let reply = http::get(*address, path).expect("an answer");
            expect_problem(&reply, 400, kind, part, path);
        }
        for (path, header, part) in writes {
            let headers = [header];
            let headers = if header.is_empty() { &[][..] } else { &headers };
            let reply = Request::new("PUT", path).with_headers(headers).with_body(b"x").ask(*address);
            let reply = reply.expect("an answer");
            expect_problem(&reply, 400, "malformed", part, &format!("{path} {header}"));
            assert!(reply.is_not_applied(), "{path} {header}: {}", reply.text());
        }
        for method in ["POST", "PATCH", "TRACE", "FROBNICATE"] {
            let reply = Request::new(method, "/v1/kv/bad").with_body(b"x").ask(*address).expect("an answer");
            expect_problem(&reply, 405, "method-not-allowed", "", method);
            assert_eq!(reply.header("allow"), Some("GET, HEAD, PUT, DELETE"));
        }
        let reply = http::put(*address, "bad", &large).expect("an answer");
        expect_problem(&reply, 413, "too-large", "api.maximum_value_bytes", "a large value");
        assert!(reply.is_not_applied());
        // What is just within the limits is fine.
        let reply = Request::new("PUT", &longest).with_body(&large[1..]).ask(*address).expect("an answer");
        assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
        assert_eq!(
            get_patiently(*address, &longest["/v1/kv/".len()..]).map(|value| value.len()),
            Some(MOST_VALUE_BYTES)
        );
        assert_eq!(get_patiently(*address, "bad").as_deref(), Some(&b"as it was"[..]));
    }
}

/// Sends a request whose body has no length, in pieces of 64 KiB, until the other side answers. Returns the answer and how
/// much was taken.
fn stream_for_ever(to: SocketAddr, path: &str) -> (Reply, usize) {
    let mut stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(wait::LIMIT)).and(stream.set_write_timeout(Some(wait::LIMIT))).expect("limits");
    write!(stream, "PUT {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("sent");
    let reader = stream.try_clone().expect("a second handle");
    let answer = std::thread::spawn(move || read_reply(reader));
    let piece = [b"10000\r\n", &vec![b'x'; 1 << 16][..], b"\r\n"].concat();
    let mut taken = 0;
    while taken < ENDLESS_BYTES && stream.write_all(&piece).is_ok() && !answer.is_finished() {
        taken += piece.len();
    }
    (answer.join().expect("a reader").expect("an answer before the body's end"), taken)
}

/// Reads one reply; a connection that is reset behind it is fine.
fn read_reply(mut stream: TcpStream) -> Option<Reply> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return Reply::parse(&bytes),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
        if let Some(reply) = Reply::parse(&bytes) {
            return Some(reply);
        }
    }
}

#[test]
fn a_value_without_end_is_refused_while_it_comes() {
    let mut cluster = Cluster::start(3);
    for address in everywhere(&mut cluster) {
        let (reply, taken) = stream_for_ever(address, "/v1/kv/endless");
        expect_problem(&reply, 413, "too-large", "api.maximum_value_bytes", "an endless value");
        assert!(reply.is_not_applied());
        assert!(taken < TAKEN_BYTES, "{taken} bytes were taken");
        assert_eq!(get_patiently(address, "endless"), None);
    }
}

#[test]
fn bodies_that_stall_are_given_up_and_hold_nobody_up() {
    let cluster = Cluster::start_with(3, &[("http.body_idle_ms", "1000")]);
    let addresses = cluster.addresses();
    let workload = Workload::start(2, &addresses);
    let stalled: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = TcpStream::connect(addresses[number % 3]).expect("connected");
            stream.set_read_timeout(Some(wait::LIMIT)).expect("a limit");
            stream.write_all(b"PUT /v1/kv/stalled HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel").expect("sent");
            stream
        })
        .collect();
    workload.wait_progress(40);
    for stream in stalled {
        let reply = read_reply(stream).expect("an answer");
        expect_problem(&reply, 408, "body-too-slow", "", "a stalled body");
        assert!(reply.is_not_applied());
    }
    workload.finish(&addresses);
    assert_eq!(get_patiently(addresses[0], "stalled"), None);
}
