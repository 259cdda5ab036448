//! The client's end against a node made of a few lines, over real sockets.

use bytes::Bytes;
use futures::future::join_all;
use scatter_core::types::{NodeId, RequestId};
use scatter_wire::frame::{Frame, Versions, decode_batch};
use scatter_wire::handshake::{self, HandshakeError, Introduced};
use scatter_wire::{
    CallError, ClientBody, ClientReply, ClientRequest, ConnectError, Connection, ConnectionMetrics, ConnectionOptions,
    FrameBatch, FrameBuffer, FrameError, Hello, Identity, Pool, Refused, RefusedReason, ReplyBody,
};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn identity() -> Identity {
    Identity {
        cluster_name: "test".into(),
        cluster: None,
        node: NodeId(7),
        boot: 1,
        nonce: 2,
        earlier: Vec::new(),
        peer_address: "peer".into(),
        http_address: "http".into(),
        zone: "a".into(),
    }
}

fn options() -> ConnectionOptions {
    ConnectionOptions {
        cluster_name: "test".into(),
        connect_timeout: Duration::from_secs(20),
        stall_timeout: Duration::from_secs(60),
        ..ConnectionOptions::default()
    }
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

/// A node's end of one client connection.
struct Served {
    stream: TcpStream,
    buffer: FrameBuffer,
}

impl Served {
    async fn accept(listener: &TcpListener) -> Self {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let Introduced { hello, mut buffer, .. } = handshake::accept(&mut stream).await.expect("a hello");
        assert!(matches!(hello, Hello::Client { cluster_name, .. } if cluster_name == "test"));
        handshake::welcome(&mut stream, identity()).await.expect("written");
        buffer.set_limit(32 << 20);
        Self { stream, buffer }
    }

    /// The next frame of requests; `None` once the client has closed.
    async fn requests(&mut self) -> Option<Vec<ClientRequest>> {
        loop {
            if let Some(frame) = self.buffer.next_frame().expect("frames") {
                return Some(decode_batch(frame).expect("requests"));
            }
            if self.stream.read_buf(self.buffer.space()).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn reply(&mut self, replies: impl IntoIterator<Item = (RequestId, String)>) {
        let mut batch = FrameBatch::new(32 << 20);
        for (id, json) in replies {
            batch.push(&ClientReply { id, body: ReplyBody::Administered { json } }).expect("fits");
        }
        self.stream.write_all(&batch.take()).await.expect("written");
    }
}

fn write(text: impl Into<String>) -> ClientBody {
    ClientBody::Write { command: Bytes::from(text.into()) }
}

fn text(body: &ClientBody) -> String {
    match body {
        ClientBody::Write { command } => String::from_utf8(command.to_vec()).expect("text"),
        ClientBody::Read { .. } | ClientBody::Describe | ClientBody::Administer { .. } | ClientBody::Locate { .. } => {
            panic!("not a write")
        }
    }
}

fn answered(json: impl Into<String>) -> Result<ReplyBody, CallError> {
    Ok(ReplyBody::Administered { json: json.into() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_callers_share_a_connection() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let mut served = Served::accept(&listener).await;
        let mut frames = 0;
        while let Some(mut requests) = served.requests().await {
            frames += 1;
            // Out of order, so that only ids can pair them.
            requests.reverse();
            served.reply(requests.iter().map(|request| (request.id, text(&request.body)))).await;
        }
        frames
    });
    let metrics = Arc::new(ConnectionMetrics::default());
    let connection = Connection::connect(&address, ConnectionOptions { metrics: Arc::clone(&metrics), ..options() })
        .await
        .expect("connected");
    assert_eq!(connection.identity(), &identity());
    let callers = (0..2000).map(|caller| {
        let connection = connection.clone();
        tokio::spawn(async move {
            for round in 0..5 {
                let said = format!("{caller}/{round}/{}", "x".repeat(caller % 300));
                assert_eq!(connection.request(write(said.as_str()), 1000, 0).await, answered(said));
            }
        })
    });
    for caller in join_all(callers).await {
        caller.expect("no panic");
    }
    assert_eq!(connection.in_flight(), 0);
    drop(connection);
    let frames = server.await.expect("no panic");
    assert_eq!(metrics.requests.load(Ordering::Relaxed), 10_000);
    assert_eq!(metrics.replies.load(Ordering::Relaxed), 10_000);
    assert!(frames < 10_000, "nothing was batched");
}

#[tokio::test]
async fn a_request_larger_than_every_buffer_arrives() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let mut served = Served::accept(&listener).await;
        while let Some(requests) = served.requests().await {
            served.reply(requests.iter().map(|request| (request.id, text(&request.body)))).await;
        }
    });
    let connection = Connection::connect(&address, options()).await.expect("connected");
    let large = "y".repeat(20 << 20);
    let small = connection.request(write("small"), 1000, 0);
    let (large_reply, small_reply) = tokio::join!(connection.request(write(large.clone()), 1000, 0), small);
    assert_eq!(large_reply, answered(large));
    assert_eq!(small_reply, answered("small"));
    drop(connection);
    server.await.expect("no panic");
}

#[tokio::test]
async fn everyone_who_waits_hears_of_a_lost_connection() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let mut served = Served::accept(&listener).await;
        let mut seen = 0;
        while seen < 3 {
            seen += served.requests().await.expect("requests").len();
        }
        // A frame cut in the middle, then the end.
        served.stream.write_all(&[200, 0, 0, 0, 1, 2, 3]).await.expect("written");
    });
    let connection = Connection::connect(&address, options()).await.expect("connected");
    let calls: Vec<_> = (0..3).map(|_| connection.call(write("hello"), 1000, 0).expect("sent")).collect();
    for result in join_all(calls).await {
        assert!(matches!(&result, Err(error @ CallError::Lost(_)) if !error.is_definite()), "{result:?}");
    }
    server.await.expect("no panic");
    assert!(connection.is_closed());
    let late = connection.request(write("late"), 1000, 0).await;
    assert!(matches!(&late, Err(error @ CallError::NotSent(_)) if error.is_definite()), "{late:?}");
}

#[tokio::test]
async fn a_node_that_talks_nonsense_is_left() {
    let (listener, address) = listen().await;
    for nonsense in [vec![0xff; 64], vec![2, 0, 0, 0, 9, 9]] {
        let connecting = Connection::connect(&address, options());
        let (mut served, connection) = tokio::join!(Served::accept(&listener), connecting);
        let connection = connection.expect("connected");
        let call = connection.call(write("hello"), 1000, 0).expect("sent");
        served.stream.write_all(&nonsense).await.expect("written");
        assert!(matches!(call.await, Err(CallError::Lost(_))));
        // The client has hung up.
        while served.stream.read(&mut [0; 100]).await.is_ok_and(|read| read > 0) {}
    }
}

#[tokio::test]
async fn replies_to_nobody_are_ignored() {
    let (listener, address) = listen().await;
    let (mut served, connection) = tokio::join!(Served::accept(&listener), Connection::connect(&address, options()));
    let connection = connection.expect("connected");
    let given_up = connection.call(write("first"), 1000, 0).expect("sent");
    let first = served.requests().await.expect("requests").remove(0);
    drop(given_up);
    assert_eq!(connection.in_flight(), 0);
    let call = connection.call(write("second"), 1000, 0).expect("sent");
    let second = served.requests().await.expect("requests").remove(0);
    assert_ne!(first.id, second.id);
    let made_up = RequestId(u64::MAX);
    served.reply([(first.id, "late".into()), (made_up, "odd".into()), (second.id, "right".into())]).await;
    assert_eq!(call.await, answered("right"));
}

#[tokio::test]
async fn what_waits_is_bounded() {
    let (listener, address) = listen().await;
    let bounded = ConnectionOptions { max_in_flight: 2, frame_limit: 1000, ..options() };
    let (mut served, connection) = tokio::join!(Served::accept(&listener), Connection::connect(&address, bounded));
    let connection = connection.expect("connected");
    assert!(matches!(connection.call(write("z".repeat(2000)), 1000, 0), Err(CallError::TooLarge { limit: 1000, .. })));
    let first = connection.call(write("1"), 1000, 0).expect("sent");
    let second = connection.call(write("2"), 1000, 0).expect("sent");
    assert!(matches!(connection.call(write("3"), 1000, 0), Err(CallError::Busy)));
    let mut requests = Vec::new();
    while requests.len() < 2 {
        requests.extend(served.requests().await.expect("requests"));
    }
    served.reply(requests.iter().map(|request| (request.id, text(&request.body)))).await;
    assert_eq!(first.await, answered("1"));
    assert_eq!(second.await, answered("2"));
    connection.call(write("4"), 1000, 0).expect("there is room again");
}

#[tokio::test]
async fn a_node_that_takes_no_bytes_is_left() {
    let (listener, address) = listen().await;
    let impatient = ConnectionOptions { stall_timeout: Duration::from_millis(100), ..options() };
    let (_served, connection) = tokio::join!(Served::accept(&listener), Connection::connect(&address, impatient));
    let connection = connection.expect("connected");
    // More than the buffers of both sockets hold.
    let calls: Vec<_> = (0..4).map(|_| connection.call(write("z".repeat(16 << 20)), 1000, 0).expect("taken")).collect();
    let results = join_all(calls).await;
    assert!(matches!(results[0], Err(CallError::Lost(_))), "{:?}", results[0]);
    assert!(connection.is_closed());
}

#[tokio::test]
async fn a_refusal_reaches_the_client() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        handshake::accept(&mut stream).await.expect("a hello");
        let refused = Refused::new(RefusedReason::OtherCluster, "this is another cluster");
        handshake::refuse(&mut stream, refused).await.expect("written");
    });
    let error = Connection::connect(&address, options()).await.expect_err("refused");
    assert!(
        matches!(&error, ConnectError::Handshake { error: HandshakeError::Refused(refused), .. }
            if refused.reason == RefusedReason::OtherCluster),
        "{error}"
    );
    assert!(error.to_string().contains("this is another cluster"));
    server.await.expect("no panic");
}

#[tokio::test]
async fn something_else_at_the_address_is_told_apart() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("written");
    });
    let error = Connection::connect(&address, options()).await.expect_err("no Scatter node");
    assert!(matches!(&error, ConnectError::Handshake { error: HandshakeError::Frame(FrameError::NotScatter(_)), .. }));
    server.await.expect("no panic");
}

#[tokio::test]
async fn a_newer_version_hears_why_it_is_refused() {
    let (listener, address) = listen().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        handshake::accept(&mut stream).await.expect_err("too new")
    });
    let mut stream = TcpStream::connect(&address).await.expect("connected");
    let newer = Versions { lowest: Versions::OURS.highest + 1, highest: Versions::OURS.highest + 3 };
    stream.write_all(&newer.preamble()).await.expect("written");
    stream.write_all(&Frame::encode(&"a hello of tomorrow".to_owned()).to_bytes()).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("an answer, then the end");
    drop(stream);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("no version in common: theirs are 2 to 4, ours 1 to 1"), "{answer}");
    assert!(matches!(server.await.expect("no panic"), HandshakeError::Frame(FrameError::Version { .. })));
}

#[tokio::test]
async fn a_pool_shares_connections_and_remembers_failures() {
    let (listener, address) = listen().await;
    let pool = Pool::new(options());
    assert!(pool.existing(&address).is_none());
    let (served, first, second) =
        tokio::join!(Served::accept(&listener), pool.connection(&address), pool.connection(&address));
    let (first, second) = (first.expect("connected"), second.expect("shared"));
    let call = first.call(write("hello"), 1000, 0).expect("sent");
    assert_eq!(second.in_flight(), 1);
    // The node goes away, and nobody listens any more.
    drop((served, listener));
    assert!(matches!(call.await, Err(CallError::Lost(_))));
    assert!(pool.existing(&address).is_none());
    assert!(matches!(pool.connection(&address).await, Err(ConnectError::Io { .. })));
    assert!(matches!(pool.connection(&address).await, Err(ConnectError::BackingOff { .. })));
}
