//! Ten thousand idle connections, in a process of their own because its memory is measured.

use scatter_service::http::{HttpSettings, ServerMetrics, Site, bind, serve};
use scatter_service::{Program, Shutdown, metrics};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the programs use.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PROGRAM: Program = Program { name: "scatter-test", about: "A test.", version: "9.8.7", flags: &[] };

const WANTED: u64 = 10_000;

/// Files that the process keeps open beside connections.
const OTHER_FILES: u64 = 200;

/// Long enough for anything that should happen, on any machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// More than a connection may cost before its first request. What one that has spoken costs is only printed: its buffers
/// are given back to the allocator, which gives pages back as it likes.
const MOST_BYTES: u64 = 4096;

/// Resident bytes of this process. The clients' ends are bare sockets, which cost it nothing.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

fn start() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let settings =
                HttpSettings { listen: "127.0.0.1:0".parse().expect("an address"), ..HttpSettings::default() };
            let registry = metrics::registry();
            let server_metrics = ServerMetrics::register(&registry).expect("metrics");
            let site = Site::new(&PROGRAM, registry, Arc::new(|| Ok(())), "{}", Shutdown::new());
            let listener = bind(&settings.listen, "http.listen").await.expect("bound");
            tell.send(listener.local_address()).expect("heard");
            serve(listener, &settings, server_metrics, Arc::new(site), Shutdown::new()).await;
        });
    });
    told.recv().expect("an address")
}

fn talk(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("a reply");
    text
}

#[test]
fn ten_thousand_idle_connections_are_cheap() {
    let limit = rlimit::increase_nofile_limit(u64::MAX).expect("a limit");
    let count = WANTED.min(limit.saturating_sub(OTHER_FILES) / 2);
    if count < WANTED {
        println!("only {count} connections: the limit on open files is {limit} and both ends are in this process");
    }
    let address = start();
    talk(address, "/metrics");
    let before = resident_bytes();
    let mut clients = Vec::new();
    for _ in 0..count {
        clients.push(TcpStream::connect(address).expect("connected"));
    }
    let open = format!("scatter_http_connections {}\n", count + 1);
    let started = Instant::now();
    while !talk(address, "/metrics").contains(&open) {
        assert!(started.elapsed() < PATIENCE, "not all connections are accepted");
    }
    let silent = resident_bytes().saturating_sub(before) / count;
    println!("{silent} bytes for each connection that never spoke");
    assert!(silent < MOST_BYTES, "{silent} bytes for each connection that never spoke");
    assert!(talk(address, "/livez").ends_with("ok\n"), "a new client is served");

    for client in &mut clients {
        client.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").expect("sent");
    }
    let mut reply = [0; 512];
    for client in &mut clients {
        client.set_read_timeout(Some(PATIENCE)).expect("set");
        assert!(client.read(&mut reply).expect("a reply") > 0);
    }
    let spoke = resident_bytes().saturating_sub(before) / count;
    println!("{spoke} bytes for each connection that just spoke");
    let parked = format!("scatter_http_connections_parked {count}\n");
    let started = Instant::now();
    while !talk(address, "/metrics").contains(&parked) {
        assert!(started.elapsed() < PATIENCE, "not all connections gave their buffers back");
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{} bytes after they gave their buffers back", resident_bytes().saturating_sub(before) / count);
    // A parked connection is as good as any.
    clients[0].write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\n").expect("sent");
    assert!(clients[0].read(&mut reply).expect("a reply") > 0);
}
