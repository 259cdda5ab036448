//! The transport over real sockets: what it carries, and what it refuses.

#[path = "transport/nodes.rs"]
mod nodes;

use bytes::Bytes;
use futures::future::join_all;
use nodes::{Node, bytes, client_options, config, identity, local, payload, raw_peer, read_frames, until};
use scatter_core::types::{ClusterId, NodeId};
use scatter_node::transport::{QueueLimits, Sent, TransportConfig};
use scatter_wire::frame::{MAGIC, Versions};
use scatter_wire::handshake::{self, HandshakeError};
use scatter_wire::{
    CallError, Channel, ClientBody, ConnectError, Connection, ConnectionOptions, Frame, FrameBatch, Hello, PeerHello,
    Refusal, RefusedReason, ReplyBody,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const ALICE: NodeId = NodeId(0xa);
const BOB: NodeId = NodeId(0xb);

fn write(text: impl Into<String>) -> ClientBody {
    ClientBody::Write { command: Bytes::from(text.into()) }
}

fn answered(text: impl Into<String>) -> Result<ReplyBody, CallError> {
    Ok(ReplyBody::Administered { json: text.into() })
}

/// Reads until the other side closes, whichever way it does.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    drop(stream.read_to_end(&mut read).await);
    read
}

#[test]
fn frames_arrive_in_order_in_both_directions() {
    local(async {
        let (alice, bob) = (Node::start(ALICE, config()), Node::start(BOB, config()));
        alice.knows(&bob);
        for number in 0..500_u32 {
            assert_eq!(alice.transport.send(BOB, Channel::Control, payload(number, 100)), Sent::Taken);
            alice.transport.queue(BOB, Channel::Bulk, payload(number, 1000));
            if number % 10 == 9 {
                alice.transport.flush();
                tokio::task::yield_now().await;
            }
        }
        bob.sink.count(Channel::Bulk, 50).await;
        bob.sink.count(Channel::Control, 500).await;
        assert_eq!(bob.sink.numbers(ALICE, Channel::Control), (0..500).collect::<Vec<_>>());
        // Bob learned Alice's address from her hello.
        assert_eq!(bob.transport.send(ALICE, Channel::Control, payload(7, 10)), Sent::Taken);
        alice.sink.count(Channel::Control, 1).await;
        assert_eq!(alice.sink.numbers(BOB, Channel::Control), [7]);
        assert!(alice.transport.is_connected(BOB, Channel::Control));
        assert!(alice.transport.round_trip(BOB).is_some());
        let metrics = alice.transport.metrics();
        assert!(metrics.writes.get() < metrics.frames_sent.get(), "nothing was batched");
        assert_eq!(metrics.dropped_disconnected.get(), 0);
        alice.transport.forget(BOB);
        assert!(!alice.transport.is_connected(BOB, Channel::Control));
        assert_eq!(alice.transport.send(BOB, Channel::Control, payload(1, 1)), Sent::Dropped);
        assert_eq!(metrics.dropped_unaddressed.get(), 1);
    });
}

#[test]
fn garbage_is_hung_up_on() {
    local(async {
        let node = Node::start(ALICE, config());
        for garbage in [&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 100][..], &[0; 3][..]] {
            let mut stream = TcpStream::connect(node.address()).await.expect("connected");
            stream.write_all(garbage).await.expect("written");
            assert_eq!(closed(&mut stream).await, b"");
        }
        until(|| node.transport.metrics().handshake_failures.get() == 3).await;
        node.still_serves().await;
    });
}

#[test]
fn a_hello_that_is_none_hears_so() {
    local(async {
        let node = Node::start(ALICE, config());
        // A frame over what a hello may take, and one that is no hello.
        for first in [(1_u32 << 20).to_le_bytes().to_vec(), vec![3, 0, 0, 0, 99, 1, 2]] {
            let mut stream = TcpStream::connect(node.address()).await.expect("connected");
            stream.write_all(&Versions::OURS.preamble()).await.expect("written");
            stream.write_all(&first).await.expect("written");
            stream.shutdown().await.expect("shut down");
            let answer = String::from_utf8_lossy(&closed(&mut stream).await).into_owned();
            assert!(answer.contains("over the limit") || answer.contains("malformed"), "{answer}");
        }
        node.still_serves().await;
    });
}

#[test]
fn an_oversized_frame_ends_its_connection() {
    local(async {
        let node = Node::start(ALICE, TransportConfig { frame_limit: 1000, ..config() });
        let mut peer = raw_peer(&node, BOB, Channel::Control).await;
        peer.write_all(&payload(1, 900).to_bytes()).await.expect("written");
        peer.write_all(&1001_u32.to_le_bytes()).await.expect("written");
        assert_eq!(closed(&mut peer).await, b"");
        node.sink.count(Channel::Control, 1).await;
        until(|| node.transport.metrics().protocol_errors.get() == 1).await;
        // This node sends none either.
        node.transport.set_address(NodeId(0xc), "127.0.0.1:1");
        assert_eq!(node.transport.send(NodeId(0xc), Channel::Control, payload(1, 1001)), Sent::Dropped);
        assert_eq!(node.transport.metrics().dropped_oversized.get(), 1);
        node.still_serves().await;
    });
}

#[test]
fn a_newer_version_is_refused() {
    local(async {
        let node = Node::start(ALICE, config());
        let mut stream = TcpStream::connect(node.address()).await.expect("connected");
        let newer = Versions { lowest: Versions::OURS.highest + 1, highest: Versions::OURS.highest + 1 };
        stream.write_all(&newer.preamble()).await.expect("written");
        stream.shutdown().await.expect("shut down");
        let answer = closed(&mut stream).await;
        assert!(answer.starts_with(&MAGIC));
        assert!(String::from_utf8_lossy(&answer).contains("no version in common: theirs are 2 to 2, ours 1 to 1"));
        node.still_serves().await;
    });
}

#[test]
fn another_cluster_is_refused_by_either_side() {
    local(async {
        let node = Node::start(ALICE, config());
        let mut foreign = identity(BOB);
        foreign.cluster = Some(ClusterId(2));
        let stranger = Node::start_as(foreign, config());
        stranger.knows(&node);
        stranger.transport.send(ALICE, Channel::Control, payload(1, 1));
        let refused = stranger.gatekeeper.heard_refusal().await;
        assert_eq!(refused.reason, RefusedReason::OtherCluster);
        assert!(!refused.reason.gives_up_id());
        assert!(node.sink.numbers(BOB, Channel::Control).is_empty());
        let named_otherwise = ConnectionOptions { cluster_name: "other".into(), ..client_options() };
        let error = Connection::connect(&node.address(), named_otherwise).await.expect_err("another cluster");
        assert!(error.to_string().contains("the cluster here is named \"test\", not \"other\""), "{error}");
        node.still_serves().await;
    });
}

#[test]
fn a_reused_address_reaches_nobody() {
    local(async {
        let (alice, bob) = (Node::start(ALICE, config()), Node::start(BOB, config()));
        let gone = NodeId(0xdead);
        alice.transport.set_address(gone, bob.address());
        alice.transport.send(gone, Channel::Control, payload(1, 1));
        let refused = alice.gatekeeper.heard_refusal().await;
        assert_eq!(refused.reason, RefusedReason::OtherNode);
        assert!(refused.text.contains(&BOB.to_string()), "{refused}");
        until(|| alice.transport.metrics().dropped_disconnected.get() == 1).await;
        assert!(bob.sink.numbers(ALICE, Channel::Control).is_empty());
    });
}

#[test]
fn an_answer_from_the_wrong_node_is_not_believed() {
    local(async {
        let alice = Node::start(ALICE, config());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        alice.transport.set_address(BOB, listener.local_addr().expect("bound").to_string());
        alice.transport.send(BOB, Channel::Control, payload(1, 1));
        let (mut stream, _) = listener.accept().await.expect("a connection");
        handshake::accept(&mut stream).await.expect("a hello");
        handshake::welcome(&mut stream, identity(NodeId(0xbad))).await.expect("written");
        assert_eq!(closed(&mut stream).await, b"");
        assert_eq!(alice.transport.metrics().refused_here.get(), 1);
    });
}

#[test]
fn a_rolled_back_or_cloned_disk_hears_that_it_is_one() {
    local(async {
        let alice = Node::start(ALICE, config());
        let mut bob = identity(BOB);
        (bob.boot, bob.nonce) = (5, 1);
        drop(raw_peer_as(&alice, bob.clone()).await.expect("welcome"));
        drop(raw_peer_as(&alice, bob.clone()).await.expect("a reconnect repeats both"));
        for (boot, nonce, reason) in [(4, 9, RefusedReason::OldBoot), (5, 2, RefusedReason::ClonedDisk)] {
            (bob.boot, bob.nonce) = (boot, nonce);
            let error = raw_peer_as(&alice, bob.clone()).await.expect_err("refused");
            assert!(
                matches!(&error, HandshakeError::Refused(refused) if refused.reason == reason && reason.gives_up_id()),
                "{error}"
            );
        }
    });
}

async fn raw_peer_as(node: &Node, from: scatter_wire::Identity) -> Result<TcpStream, HandshakeError> {
    let mut stream = TcpStream::connect(node.address()).await?;
    let hello = PeerHello { from, to: Some(node.id), channel: Channel::Control };
    handshake::connect(&mut stream, &Hello::Peer { hello }).await?;
    Ok(stream)
}

#[test]
fn a_silent_or_dripping_handshake_is_given_up() {
    local(async {
        let node = Node::start(ALICE, TransportConfig { handshake_timeout: Duration::from_millis(50), ..config() });
        let mut silent = TcpStream::connect(node.address()).await.expect("connected");
        let mut dripping = TcpStream::connect(node.address()).await.expect("connected");
        dripping.write_all(&MAGIC[..3]).await.expect("written");
        assert_eq!(closed(&mut silent).await, b"");
        assert_eq!(closed(&mut dripping).await, b"");
        until(|| node.transport.metrics().handshake_failures.get() == 2).await;
        until(|| node.transport.metrics().accepted_open.get() == 0).await;
    });
}

#[test]
fn a_peer_that_does_not_answer_is_tried_again() {
    local(async {
        let quick = TransportConfig { connect_timeout: Duration::from_millis(50), ..config() };
        let alice = Node::start(ALICE, quick);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        alice.transport.set_address(BOB, listener.local_addr().expect("bound").to_string());
        alice.transport.send(BOB, Channel::Control, payload(1, 1));
        let (_silent, _) = listener.accept().await.expect("a connection");
        // However slow this machine is, one attempt ends well.
        let peer = async {
            let mut connections = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                handshake::accept(&mut stream).await.expect("a hello");
                drop(handshake::welcome(&mut stream, identity(BOB)).await);
                connections.push(stream);
            }
        };
        tokio::select! {
            () = peer => {}
            () = until(|| alice.transport.is_connected(BOB, Channel::Control)) => {}
        }
        assert!(alice.transport.metrics().connect_failures.get() > 0);
        assert_eq!(alice.transport.metrics().dropped_disconnected.get(), 1);
    });
}

#[test]
fn a_restarted_peer_is_found_again() {
    local(async {
        let alice = Node::start(ALICE, config());
        let bob = Node::start(BOB, config());
        alice.knows(&bob);
        alice.transport.send(BOB, Channel::Control, payload(1, 10));
        bob.sink.count(Channel::Control, 1).await;
        let listen = bob.transport.local_address();
        drop(bob);
        until(|| !alice.transport.is_connected(BOB, Channel::Control)).await;
        let mut again = identity(BOB);
        again.boot += 1;
        let bob = Node::start_when_free(again, TransportConfig { listen, ..config() }).await;
        let mut number = 1;
        while bob.sink.numbers(ALICE, Channel::Control).is_empty() {
            number += 1;
            alice.transport.send(BOB, Channel::Control, payload(number, 10));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(alice.transport.is_connected(BOB, Channel::Control));
        assert_eq!(alice.transport.metrics().connected.get(), 2);
    });
}

#[test]
fn a_peer_that_comes_back_under_another_address_is_found() {
    local(async {
        let slow = TransportConfig {
            first_pause: Duration::from_secs(3600),
            longest_pause: Duration::from_secs(3600),
            ..config()
        };
        let alice = Node::start(ALICE, slow);
        alice.transport.set_address(BOB, "127.0.0.1:1");
        alice.transport.send(BOB, Channel::Control, payload(1, 10));
        until(|| alice.transport.metrics().connect_failures.get() == 1).await;
        // Its own hello tells where it lives, and ends the pause.
        let bob = Node::start(BOB, config());
        bob.knows(&alice);
        alice.transport.send(BOB, Channel::Control, payload(2, 10));
        bob.transport.send(ALICE, Channel::Control, payload(3, 10));
        bob.sink.count(Channel::Control, 1).await;
        assert_eq!(bob.sink.numbers(ALICE, Channel::Control), [2]);
        assert_eq!(alice.transport.address(BOB), Some(bob.address()));
    });
}

/// A peer in the hands of the test: the node's two channels to it, with a first frame of number 0 on each.
async fn two_channels(node: &Node) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    node.transport.set_address(BOB, listener.local_addr().expect("bound").to_string());
    node.transport.send(BOB, Channel::Control, payload(0, 10));
    node.transport.send(BOB, Channel::Bulk, payload(0, 10));
    let (mut control, mut bulk) = (None, None);
    while control.is_none() || bulk.is_none() {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let introduced = handshake::accept(&mut stream).await.expect("a hello");
        handshake::welcome(&mut stream, identity(BOB)).await.expect("written");
        match introduced.hello {
            Hello::Peer { hello } if hello.channel == Channel::Bulk => bulk = Some(stream),
            Hello::Peer { .. } => control = Some(stream),
            Hello::Client { .. } => panic!("not a client"),
        }
    }
    (control.expect("connected"), bulk.expect("connected"))
}

/// Sends frames of a MiB on the bulk channel, which nobody reads: it fills up, until sending is refused. Returns how many frames were
/// taken, the first one counted.
async fn fill_bulk(node: &Node) -> u32 {
    let mut taken = 1;
    while node.transport.send(BOB, Channel::Bulk, payload(taken, 1 << 20)) == Sent::Taken {
        taken += 1;
        tokio::task::yield_now().await;
    }
    taken
}

#[test]
fn bulk_never_stands_in_front_of_control() {
    local(async {
        let alice = Node::start(ALICE, config());
        let (mut control, mut bulk) = two_channels(&alice).await;
        assert_eq!(read_frames(&mut control, 1).await, [0]);
        let taken = fill_bulk(&alice).await;
        assert!(taken > 4);
        for number in 1..100 {
            assert_eq!(alice.transport.send(BOB, Channel::Control, payload(number, 10)), Sent::Taken);
        }
        assert_eq!(read_frames(&mut control, 99).await, (1..100).collect::<Vec<_>>());
        // Whatever was taken arrives whole and in order once it is read.
        assert_eq!(read_frames(&mut bulk, taken as usize).await, (0..taken).collect::<Vec<_>>());
        assert_eq!(alice.transport.metrics().dropped_overflow.get(), 1);
    });
}

#[test]
fn a_full_control_queue_drops_the_oldest() {
    local(async {
        let small = TransportConfig { control_queue: QueueLimits { frames: 8, bytes: 64 << 20 }, ..config() };
        let alice = Node::start(ALICE, small);
        let (mut control, _bulk) = two_channels(&alice).await;
        let metrics = alice.transport.metrics();
        let mut sent = 1;
        while metrics.dropped_overflow.get() < 20 {
            assert_eq!(alice.transport.send(BOB, Channel::Control, payload(sent, 256 << 10)), Sent::Taken);
            sent += 1;
            tokio::task::yield_now().await;
        }
        let dropped = metrics.dropped_overflow.get() as u32;
        let received = read_frames(&mut control, (sent - dropped) as usize).await;
        assert!(received.is_sorted());
        // The last ones all waited in the queue and none of them was dropped.
        assert!(received.ends_with(&(sent - 7..sent).collect::<Vec<_>>()), "{received:?} of {sent}");
    });
}

#[test]
fn a_peer_that_reads_nothing_is_given_up() {
    local(async {
        let impatient = TransportConfig { stall_timeout: Duration::from_millis(50), ..config() };
        let alice = Node::start(ALICE, impatient);
        let (_control, _bulk) = two_channels(&alice).await;
        fill_bulk(&alice).await;
        until(|| alice.transport.metrics().disconnected.get() == 1).await;
        assert!(alice.transport.is_connected(BOB, Channel::Control));
    });
}

#[test]
fn a_forgotten_peer_gets_nothing_of_what_waits() {
    local(async {
        let alice = Node::start(ALICE, config());
        let (_control, mut bulk) = two_channels(&alice).await;
        let taken = fill_bulk(&alice).await as usize;
        alice.transport.forget(BOB);
        // What the system has taken still comes, and then the end: of a frame that was cut there is no rest.
        let mut received = Vec::new();
        let _ = bulk.read_to_end(&mut received).await;
        assert!(received.len() < (taken - 1) << 20, "{} of {taken} MiB", received.len());
    });
}

#[test]
fn half_a_frame_is_none() {
    local(async {
        let node = Node::start(ALICE, config());
        let mut peer = raw_peer(&node, BOB, Channel::Control).await;
        peer.write_all(&payload(1, 50).to_bytes()).await.expect("written");
        let cut = payload(2, 50);
        peer.write_all(&cut.to_bytes()[..20]).await.expect("written");
        drop(peer);
        until(|| node.transport.metrics().accepted_open.get() == 0).await;
        assert_eq!(node.sink.numbers(BOB, Channel::Control), [1]);
        let mut peer = raw_peer(&node, BOB, Channel::Control).await;
        peer.write_all(&payload(3, 50).to_bytes()).await.expect("written");
        node.sink.count(Channel::Control, 2).await;
        assert_eq!(node.sink.numbers(BOB, Channel::Control), [1, 3]);
    });
}

#[test]
fn a_newer_connection_takes_the_place_of_the_older() {
    local(async {
        let node = Node::start(ALICE, config());
        let mut older = raw_peer(&node, BOB, Channel::Control).await;
        let mut bulk = raw_peer(&node, BOB, Channel::Bulk).await;
        let mut newer = raw_peer(&node, BOB, Channel::Control).await;
        assert_eq!(closed(&mut older).await, b"");
        newer.write_all(&payload(1, 50).to_bytes()).await.expect("written");
        bulk.write_all(&payload(2, 50).to_bytes()).await.expect("written");
        node.sink.count(Channel::Control, 1).await;
        node.sink.count(Channel::Bulk, 1).await;
    });
}

#[test]
fn a_probe_tells_who_is_there_and_disturbs_nothing() {
    local(async {
        let (alice, bob) = (Node::start(ALICE, config()), Node::start(BOB, config()));
        alice.knows(&bob);
        alice.transport.send(BOB, Channel::Control, payload(1, 10));
        bob.sink.count(Channel::Control, 1).await;
        let there = alice.transport.probe(&bob.address()).await.expect("somebody is there");
        assert_eq!(there, bob.gatekeeper.identity());
        alice.transport.send(BOB, Channel::Control, payload(2, 10));
        bob.sink.count(Channel::Control, 2).await;
        assert_eq!(alice.transport.metrics().disconnected.get(), 0);
        assert!(matches!(alice.transport.probe("127.0.0.1:1").await, Err(ConnectError::Io { .. })));
    });
}

#[test]
fn thousands_of_requests_share_a_connection() {
    local(async {
        let node = Node::start(ALICE, config());
        let connection = Connection::connect(&node.address(), client_options()).await.expect("connected");
        let calls = (0..5000).map(|number| {
            let connection = &connection;
            async move {
                let said = format!("{number}/{}", "x".repeat(number % 400));
                assert_eq!(connection.request(write(said.as_str()), 1000, 0).await, answered(said));
            }
        });
        join_all(calls).await;
        let metrics = node.transport.metrics();
        assert_eq!(metrics.client_requests.get(), 5000);
        until(|| metrics.client_replies.get() == 5000).await;
        assert!(metrics.client_writes.get() < 1000, "{} writes", metrics.client_writes.get());
        drop(connection);
        until(|| metrics.clients_connected.get() == 0).await;
    });
}

#[test]
fn replies_come_from_any_thread() {
    local(async {
        let node = Node::start(ALICE, config());
        node.service.hold();
        let connection = Connection::connect(&node.address(), client_options()).await.expect("connected");
        let calls: Vec<_> =
            (0..100).map(|number| connection.call(write(number.to_string()), 1000, 0).expect("sent")).collect();
        until(|| node.service.held() == 100).await;
        let mut held = node.service.release();
        held.reverse();
        let thread = std::thread::spawn(move || held.into_iter().for_each(nodes::echo));
        for (number, result) in join_all(calls).await.into_iter().enumerate() {
            assert_eq!(result, answered(number.to_string()));
        }
        thread.join().expect("no panic");
    });
}

#[test]
fn a_request_nobody_answers_is_unknown() {
    local(async {
        let node = Node::start(ALICE, config());
        node.service.hold();
        let connection = Connection::connect(&node.address(), client_options()).await.expect("connected");
        let call = connection.call(write("lost"), 1000, 0).expect("sent");
        until(|| node.service.held() == 1).await;
        drop(node.service.release());
        assert_eq!(call.await, Ok(ReplyBody::refused(Refusal::Unknown)));
        // And one whose client went away harms nobody.
        let call = connection.call(write("gone"), 1000, 0).expect("sent");
        until(|| node.service.held() == 1).await;
        drop((call, connection));
        until(|| node.transport.metrics().clients_connected.get() == 0).await;
        node.service.release().into_iter().for_each(nodes::echo);
        node.service.answer_at_once();
        node.still_serves().await;
    });
}

#[test]
fn a_client_has_only_so_many_requests_open() {
    local(async {
        let node = Node::start(ALICE, TransportConfig { max_client_requests: 10, ..config() });
        node.service.hold();
        let connection = Connection::connect(&node.address(), client_options()).await.expect("connected");
        let mut calls = Vec::new();
        for number in 0..50 {
            // Each in a frame of its own, or batched with few.
            calls.push(connection.call(write(number.to_string()), 1000, 0).expect("sent"));
            tokio::task::yield_now().await;
        }
        let metrics = node.transport.metrics();
        until(|| metrics.client_pauses.get() > 0).await;
        assert!(metrics.client_requests.get() < 50, "{}", metrics.client_requests.get());
        while metrics.client_requests.get() < 50 {
            node.service.release().into_iter().for_each(nodes::echo);
            tokio::task::yield_now().await;
        }
        node.service.release().into_iter().for_each(nodes::echo);
        for (number, result) in join_all(calls).await.into_iter().enumerate() {
            assert_eq!(result, answered(number.to_string()));
        }
    });
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    local(async {
        let impatient = TransportConfig { stall_timeout: Duration::from_millis(50), ..config() };
        let node = Node::start(ALICE, impatient);
        let mut stream = TcpStream::connect(node.address()).await.expect("connected");
        let hello = Hello::Client { cluster_name: "test".into(), agent: "glutton".into() };
        handshake::connect(&mut stream, &hello).await.expect("welcome");
        let metrics = node.transport.metrics();
        until(|| metrics.clients_connected.get() == 1).await;
        let mut batch = FrameBatch::new(32 << 20);
        for id in 0..64 {
            batch.push(&bytes(id, 1 << 20)).expect("fits");
        }
        // The node may hang up before it has read everything.
        drop(stream.write_all(&batch.take()).await);
        until(|| metrics.clients_connected.get() == 0).await;
        assert!(metrics.client_pauses.get() > 0, "the node read on");
        node.still_serves().await;
    });
}

#[test]
fn clients_leave_room_for_peers() {
    local(async {
        let node = Node::start(ALICE, TransportConfig { max_clients: 2, max_connections: 3, ..config() });
        let clients = [
            Connection::connect(&node.address(), client_options()).await.expect("connected"),
            Connection::connect(&node.address(), client_options()).await.expect("connected"),
        ];
        let error = Connection::connect(&node.address(), client_options()).await.expect_err("full");
        assert!(
            matches!(&error, ConnectError::Handshake { error: HandshakeError::Refused(refused), .. }
                if refused.reason == RefusedReason::Busy),
            "{error}"
        );
        until(|| node.transport.metrics().accepted_open.get() == 2).await;
        let peer = raw_peer(&node, BOB, Channel::Control).await;
        let mut too_many = TcpStream::connect(node.address()).await.expect("connected");
        assert_eq!(closed(&mut too_many).await, b"");
        assert_eq!(node.transport.metrics().accept_overflow.get(), 1);
        drop((peer, clients));
        until(|| node.transport.metrics().accepted_open.get() == 0).await;
        node.still_serves().await;
    });
}

#[test]
fn nonsense_from_a_client_ends_its_connection_alone() {
    local(async {
        let node = Node::start(ALICE, config());
        let well_behaved = Connection::connect(&node.address(), client_options()).await.expect("connected");
        let mut stream = TcpStream::connect(node.address()).await.expect("connected");
        let hello = Hello::Client { cluster_name: "test".into(), agent: "nonsense".into() };
        handshake::connect(&mut stream, &hello).await.expect("welcome");
        stream.write_all(&Frame::encode(&"what?".to_owned()).to_bytes()).await.expect("written");
        assert_eq!(closed(&mut stream).await, b"");
        assert_eq!(node.transport.metrics().protocol_errors.get(), 1);
        assert_eq!(well_behaved.request(write("fine"), 1000, 0).await, answered("fine"));
    });
}

#[test]
fn a_port_in_use_is_named() {
    local(async {
        let node = Node::start(ALICE, config());
        let listen = node.transport.local_address();
        let error = Node::try_start(identity(BOB), TransportConfig { listen, ..config() }).err().expect("in use");
        assert!(error.to_string().contains(&listen.to_string()), "{error}");
    });
}
