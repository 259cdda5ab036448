//! Connections that others open: the handshake, then a reader for peers or the service for clients.

use super::{Inner, busy, check_target, clients};
use scatter_core::types::NodeId;
use scatter_wire::handshake::{self, HandshakeError, Introduced};
use scatter_wire::{Channel, FrameBuffer, Hello, PeerHello, Refused, RefusedReason, socket};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The pause after the system refused to accept, which it does when it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The newest connection of each peer and channel. An older one is dead or about to be: it is closed.
type Readers = RefCell<HashMap<(NodeId, Channel), Rc<Notify>>>;

/// Accepts until it is dropped; then every connection it accepted is closed.
pub(super) async fn accept(inner: Rc<Inner>, listener: TcpListener) {
    let readers = Rc::<Readers>::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, from)) if connections.len() < inner.config.max_connections => {
                inner.metrics.accepted.add(1);
                connections.spawn_local(connection(Rc::clone(&inner), Rc::clone(&readers), stream, from));
            }
            Ok(_) => inner.metrics.accept_overflow.add(1),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(inner: Rc<Inner>, readers: Rc<Readers>, mut stream: TcpStream, from: SocketAddr) {
    inner.metrics.accepted_open.add(1);
    let limit = inner.config.handshake_timeout;
    let result = tokio::time::timeout(limit, greet(&inner, &mut stream)).await;
    match result {
        Ok(Ok(Some(introduced))) => established(&inner, &readers, stream, introduced, from).await,
        Ok(Ok(None)) => {}
        Ok(Err(error)) => {
            inner.metrics.handshake_failures.add(1);
            tracing::debug!(%from, %error, "no handshake");
        }
        Err(_) => {
            inner.metrics.handshake_failures.add(1);
            tracing::debug!(%from, "no handshake in time");
        }
    }
    inner.metrics.accepted_open.subtract(1);
}

/// The answering side of the handshake. `None` if this node refused.
async fn greet(inner: &Inner, stream: &mut TcpStream) -> Result<Option<Introduced>, HandshakeError> {
    socket::prepare(stream, inner.config.dead_after)?;
    let introduced = handshake::accept(stream).await?;
    let identity = inner.gatekeeper.identity();
    let decision = match &introduced.hello {
        Hello::Peer { hello } => check_target(hello.to, identity.node).and_then(|()| inner.gatekeeper.check(hello)),
        Hello::Client { cluster_name, .. } => check_client(inner, &identity.cluster_name, cluster_name),
    };
    match decision {
        Ok(()) => {
            handshake::welcome(stream, identity).await?;
            Ok(Some(introduced))
        }
        Err(refused) => {
            inner.metrics.refused_here.add(1);
            let what = format!("{:?} {:?}", introduced.hello, refused.reason);
            if inner.refusals.borrow_mut().is_news(what, std::time::Instant::now()) {
                tracing::info!(hello = ?introduced.hello, reason = ?refused.reason, %refused, "refused a connection");
            }
            handshake::refuse(stream, refused).await?;
            Ok(None)
        }
    }
}

fn check_client(inner: &Inner, ours: &str, theirs: &str) -> Result<(), Refused> {
    if ours != theirs {
        let text = format!("the cluster here is named \"{ours}\", not \"{theirs}\"");
        return Err(Refused::new(RefusedReason::OtherCluster, text));
    }
    if inner.metrics.clients_connected.get() >= inner.config.max_clients as u64 {
        return Err(busy(inner.config.max_clients));
    }
    Ok(())
}

async fn established(
    inner: &Rc<Inner>,
    readers: &Readers,
    stream: TcpStream,
    introduced: Introduced,
    from: SocketAddr,
) {
    let mut buffer = introduced.buffer;
    buffer.set_limit(inner.config.frame_limit);
    let result = match introduced.hello {
        Hello::Peer { hello } if hello.to.is_some() => peer(inner, readers, stream, buffer, &hello).await,
        // Somebody who only asked who is here, and told where it lives.
        Hello::Peer { hello } => {
            remember(inner, &hello);
            Ok(())
        }
        Hello::Client { .. } => clients::serve(inner, stream, buffer).await,
    };
    if let Err(error) = result {
        if error.kind() == io::ErrorKind::InvalidData {
            inner.metrics.protocol_errors.add(1);
            tracing::warn!(%from, %error, "closed a connection that does not speak the protocol");
        } else {
            tracing::debug!(%from, %error, "a connection ended");
        }
    }
}

/// Where a node says that it lives.
fn remember(inner: &Inner, hello: &PeerHello) {
    if !hello.from.peer_address.is_empty() {
        inner.set_address(hello.from.node, hello.from.peer_address.clone());
    }
}

/// Reads a peer's frames until it closes or opens a newer connection of the same kind.
async fn peer(
    inner: &Inner,
    readers: &Readers,
    stream: TcpStream,
    buffer: FrameBuffer,
    hello: &PeerHello,
) -> io::Result<()> {
    let key = (hello.from.node, hello.channel);
    let superseded = Rc::new(Notify::new());
    if let Some(older) = readers.borrow_mut().insert(key, Rc::clone(&superseded)) {
        older.notify_one();
    }
    remember(inner, hello);
    // It can reach this node, so this node may well reach it.
    inner.hurry(hello.from.node);
    let reads = async {
        match hello.channel {
            Channel::Control => read_peer(inner, stream, buffer, hello.from.node).await,
            Channel::Bulk => hear_mover(inner, stream, buffer, hello.from.node).await,
        }
    };
    let result = tokio::select! {
        result = reads => result,
        () = superseded.notified() => Ok(()),
    };
    let mut readers = readers.borrow_mut();
    if readers.get(&key).is_some_and(|current| Rc::ptr_eq(current, &superseded)) {
        readers.remove(&key);
    }
    result
}

async fn read_peer(inner: &Inner, mut stream: TcpStream, mut buffer: FrameBuffer, from: NodeId) -> io::Result<()> {
    loop {
        let mut frames = 0;
        while let Some(frame) = buffer.next_frame()? {
            inner.sink.frame(from, Channel::Control, frame);
            frames += 1;
        }
        if frames > 0 {
            inner.metrics.frames_received.add(frames);
            if !inner.sink.batch_end(from) {
                return Ok(());
            }
        }
        let space = buffer.space();
        let room = space.capacity() - space.len();
        let read = stream.read_buf(space).await?;
        if read == 0 {
            return Ok(());
        }
        buffer.filled(read);
        inner.metrics.bytes_received.add(read);
        if read == room {
            // More is waiting. What has arrived is handled first, so that a fast sender cannot fill the node.
            tokio::task::yield_now().await;
        }
    }
}

/// The same where another thread reads.
async fn hear_mover(inner: &Inner, stream: TcpStream, buffer: FrameBuffer, from: NodeId) -> io::Result<()> {
    let mut frames = inner.mover.read(stream, buffer)?;
    while let Some(frame) = frames.recv().await {
        inner.sink.frame(from, Channel::Bulk, frame?);
        inner.metrics.frames_received.add(1);
        if !inner.sink.batch_end(from) {
            break;
        }
    }
    Ok(())
}
