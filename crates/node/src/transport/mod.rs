//! Connections between nodes, and of clients to this node: everything on the peer port.
//!
//! All of it runs as tasks of one thread, the thread of the driver that steps the core, so a message from or to a peer
//! crosses no thread boundary. Only what goes over bulk channels another thread reads and writes (the `mover`).
//! [`Transport::start`] must therefore be called where `tokio::task::spawn_local` works: in a [`tokio::runtime::LocalRuntime`]
//! or a [`tokio::task::LocalSet`].
//!
//! Between two nodes there are up to four connections: each side opens two for what it has to say, one for each
//! [`Channel`], and only listens on those the other side opened. A peer that restarts is thus noticed by both directions
//! on their own, and a snapshot on the bulk connection never stands in front of a heartbeat.
//!
//! Messages may be lost, whole ones only: when a queue overflows, when a peer is away, when a connection breaks. Those that
//! arrive on one connection arrive in order and unharmed. The consensus protocol asks for no more.

mod address;
mod clients;
mod gatekeeper;
mod incoming;
mod link;
mod metrics;
mod mover;
mod queue;
mod repeats;

pub use clients::{ClientService, Incoming, Responder};
pub use gatekeeper::{Gatekeeper, check_introduction, check_target};
pub use link::Sent;
pub use metrics::{Counter, TransportMetrics};
pub use queue::QueueLimits;

use bytes::Bytes;
use link::Link;
use mover::Mover;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use repeats::Repeats;
use scatter_core::types::NodeId;
use scatter_wire::handshake::{self, HandshakeError};
use scatter_wire::{
    Channel, ConnectError, DEFAULT_FRAME_LIMIT, Frame, Hello, Identity, PeerHello, Refused, RefusedReason, socket,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;

/// Limits and times of the transport.
#[derive(Clone, Debug)]
pub struct TransportConfig {
    /// Where to listen for peers and clients.
    pub listen: SocketAddr,
    /// The most bytes of one frame, in either direction.
    pub frame_limit: usize,
    /// How long the other side may take to say who it is.
    pub handshake_timeout: Duration,
    /// How long connecting to a peer may take, handshake included.
    pub connect_timeout: Duration,
    /// After how long without an acknowledgement the kernel gives a connection up.
    pub dead_after: Duration,
    /// How long a write may make no progress before the connection counts as dead.
    pub stall_timeout: Duration,
    /// The pause after a first failed connection attempt. It doubles with each failure, and each is shortened at random.
    pub first_pause: Duration,
    /// The longest pause between connection attempts.
    pub longest_pause: Duration,
    /// What may wait for one peer's control connection. The oldest is dropped for the newest.
    pub control_queue: QueueLimits,
    /// What may wait for one peer's bulk connection. When it is full, sending is refused.
    pub bulk_queue: QueueLimits,
    /// The most connections that others opened: peers, clients, and those that have not said who they are.
    pub max_connections: usize,
    /// The most of them that are clients.
    pub max_clients: usize,
    /// The most requests of one client connection that wait for a reply; then it is not read from.
    pub max_client_requests: usize,
    /// The most bytes of those requests.
    pub max_client_request_bytes: usize,
    /// The most bytes of replies that wait for one client to read them. Past it values are withheld and the client is
    /// told that the node is overloaded.
    pub max_client_reply_bytes: usize,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7000)),
            frame_limit: DEFAULT_FRAME_LIMIT,
            handshake_timeout: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(1),
            dead_after: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(5),
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_secs(1),
            control_queue: QueueLimits { frames: 4096, bytes: 64 << 20 },
            bulk_queue: QueueLimits { frames: 64, bytes: 8 << 20 },
            max_connections: 4096,
            max_clients: 3072,
            max_client_requests: 4096,
            max_client_request_bytes: 64 << 20,
            max_client_reply_bytes: 64 << 20,
        }
    }
}

/// Who hears what peers send. Called on the transport's thread, between two steps of nothing else: it must not block.
pub trait PeerSink {
    /// One frame, in the order of its connection. `frame` shares its buffer with its neighbours: what is to be kept for
    /// long is better copied.
    fn frame(&self, from: NodeId, channel: Channel, frame: Bytes);

    /// Everything that one read brought has been handed over: the moment to act on all of it together. Whether the peer is to be
    /// listened to any longer.
    fn batch_end(&self, from: NodeId) -> bool;
}

/// The handle of the driver. Clones share the transport; it stops when the last one is dropped.
#[derive(Clone)]
pub struct Transport {
    inner: Rc<Inner>,
    guard: Rc<Guard>,
}

/// What every task of the transport shares.
struct Inner {
    config: TransportConfig,
    gatekeeper: Rc<dyn Gatekeeper>,
    sink: Rc<dyn PeerSink>,
    service: Rc<dyn ClientService>,
    metrics: Arc<TransportMetrics>,
    mover: Mover,
    addresses: RefCell<HashMap<NodeId, String>>,
    links: RefCell<HashMap<(NodeId, Channel), Rc<Link>>>,
    random: RefCell<SmallRng>,
    refusals: RefCell<Repeats>,
}

/// Stops every task when the last [`Transport`] goes.
struct Guard {
    inner: Rc<Inner>,
    accepting: AbortHandle,
    local_address: SocketAddr,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.accepting.abort();
        let links = std::mem::take(&mut *self.inner.links.borrow_mut());
        links.values().for_each(|link| link.stop());
    }
}

impl Transport {
    /// Listens, and starts to accept connections.
    pub fn start(
        config: TransportConfig,
        gatekeeper: Rc<dyn Gatekeeper>,
        sink: Rc<dyn PeerSink>,
        service: Rc<dyn ClientService>,
    ) -> io::Result<Self> {
        let listener = listen(config.listen)?;
        let local_address = listener.local_addr()?;
        let metrics = Arc::<TransportMetrics>::default();
        let mover = Mover::start(Arc::clone(&metrics), config.stall_timeout)?;
        let inner = Rc::new(Inner {
            config,
            gatekeeper,
            sink,
            service,
            metrics,
            mover,
            addresses: RefCell::default(),
            links: RefCell::default(),
            random: RefCell::new(SmallRng::from_rng(&mut rand::rng())),
            refusals: RefCell::default(),
        });
        let accepting = tokio::task::spawn_local(incoming::accept(Rc::clone(&inner), listener)).abort_handle();
        Ok(Self { guard: Rc::new(Guard { inner: Rc::clone(&inner), accepting, local_address }), inner })
    }

    /// Where the transport listens; tells the port if the setting left it open.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.guard.local_address
    }

    /// Counts of everything that happened. May be read on any thread.
    #[must_use]
    pub fn metrics(&self) -> Arc<TransportMetrics> {
        Arc::clone(&self.inner.metrics)
    }

    /// Remembers where a node listens. A connection that stands is kept; the next attempt goes to the new address, at
    /// once if the old one did not answer.
    pub fn set_address(&self, node: NodeId, address: impl Into<String>) {
        self.inner.set_address(node, address.into());
    }

    /// Where a node listens, as far as is known: told by the driver or by the node itself.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.inner.addresses.borrow().get(&node).cloned()
    }

    /// Closes the connections to a node, drops what waits for it, and forgets its address.
    pub fn forget(&self, node: NodeId) {
        self.inner.addresses.borrow_mut().remove(&node);
        for channel in [Channel::Control, Channel::Bulk] {
            if let Some(link) = self.inner.links.borrow_mut().remove(&(node, channel)) {
                link.stop();
            }
        }
    }

    /// Sends a frame to a node: written at once if the connection takes it, else left in the queue.
    pub fn send(&self, to: NodeId, channel: Channel, frame: Frame) -> Sent {
        self.with_link(to, channel, |link| {
            let sent = link.push(frame);
            link.flush();
            sent
        })
    }

    /// Queues a frame that goes out with the next [`Transport::flush`] (or [`Transport::send`] to the same connection), for
    /// callers that have more to say to the same node.
    pub fn queue(&self, to: NodeId, channel: Channel, frame: Frame) -> Sent {
        self.with_link(to, channel, |link| link.push(frame))
    }

    /// Writes what [`Transport::queue`] left, one write for each connection.
    pub fn flush(&self) {
        for link in self.inner.links.borrow().values() {
            link.flush();
        }
    }

    /// Whether a connection to the node stands.
    #[must_use]
    pub fn is_connected(&self, node: NodeId, channel: Channel) -> bool {
        self.inner.links.borrow().get(&(node, channel)).is_some_and(|link| link.is_connected())
    }

    /// The kernel's smoothed round-trip time on the control connection, if one stands.
    #[must_use]
    pub fn round_trip(&self, node: NodeId) -> Option<Duration> {
        self.inner.links.borrow().get(&(node, Channel::Control)).and_then(|link| link.round_trip())
    }

    /// Frames that wait for peers' connections, and their bytes.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let links = self.inner.links.borrow();
        links.values().map(|link| link.waiting()).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Asks who is at `address`, as a peer. No message can follow on this connection.
    pub async fn probe(&self, address: &str) -> Result<Identity, ConnectError> {
        self.inner.connect(address, None, Channel::Control).await.map(|(_, identity)| identity)
    }

    fn with_link(&self, to: NodeId, channel: Channel, act: impl FnOnce(&Link) -> Sent) -> Sent {
        if let Some(link) = self.inner.links.borrow().get(&(to, channel)) {
            return act(link);
        }
        if !self.inner.addresses.borrow().contains_key(&to) {
            self.inner.metrics.dropped_unaddressed.add(1);
            return Sent::Dropped;
        }
        let link = Link::start(Rc::clone(&self.inner), to, channel);
        let sent = act(&link);
        self.inner.links.borrow_mut().insert((to, channel), link);
        sent
    }
}

impl Inner {
    fn set_address(&self, node: NodeId, address: String) {
        let old = self.addresses.borrow_mut().insert(node, address.clone());
        if old.as_ref() != Some(&address) {
            self.hurry(node);
        }
    }

    /// Ends the pauses between connection attempts to a node: there is news of it.
    fn hurry(&self, node: NodeId) {
        for channel in [Channel::Control, Channel::Bulk] {
            if let Some(link) = self.links.borrow().get(&(node, channel)) {
                link.hurry();
            }
        }
    }

    /// Connects to `address` as a peer and checks who answers.
    async fn connect(
        &self,
        address: &str,
        to: Option<NodeId>,
        channel: Channel,
    ) -> Result<(TcpStream, Identity), ConnectError> {
        let limit = self.config.connect_timeout;
        match tokio::time::timeout(limit, self.connect_unlimited(address, to, channel)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout {
                address: address.to_owned(),
                timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    async fn connect_unlimited(
        &self,
        address: &str,
        to: Option<NodeId>,
        channel: Channel,
    ) -> Result<(TcpStream, Identity), ConnectError> {
        let io_error = |error| ConnectError::Io { address: address.to_owned(), error };
        let refuse = |error| ConnectError::Handshake { address: address.to_owned(), error };
        let mut stream = address::connect(address).await.map_err(io_error)?;
        socket::prepare(&stream, self.config.dead_after).map_err(io_error)?;
        let from = self.gatekeeper.identity();
        let hello = Hello::Peer { hello: PeerHello { from, to, channel } };
        let welcomed = handshake::connect(&mut stream, &hello).await.map_err(|error| {
            if let HandshakeError::Refused(refused) = &error {
                self.metrics.refused_by_peers.add(1);
                self.gatekeeper.refused(address, refused);
            }
            refuse(error)
        })?;
        self.gatekeeper.check_answer(to, &welcomed.identity).map_err(|refused| {
            self.metrics.refused_here.add(1);
            refuse(HandshakeError::Refused(refused))
        })?;
        Ok((stream, welcomed.identity))
    }

    /// How long to wait before connection attempt number `failures + 1`: doubling, bounded, and somewhere in the upper
    /// half, so that peers of a node that comes back do not come all at once.
    fn pause(&self, failures: u32) -> Duration {
        let pause = self.config.first_pause.saturating_mul(1 << failures.min(16)).min(self.config.longest_pause);
        pause.mul_f64(self.random.borrow_mut().random_range(0.5..1.0))
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    let explain = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address} (the setting `peer.listen`): {error}"))
    };
    socket.bind(address).map_err(explain)?;
    socket.listen(1024).map_err(explain)
}

/// A refusal because the limit on connections is reached.
fn busy(limit: usize) -> Refused {
    Refused::new(RefusedReason::Busy, format!("all {limit} connections are in use"))
}
