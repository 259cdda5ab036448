//! Nodes that consist of a transport and a few lines, and peers made by hand.

use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::types::{ClusterId, NodeId, RequestId};
use scatter_node::transport::{
    ClientService, Gatekeeper, Incoming, PeerSink, Transport, TransportConfig, check_introduction, check_target,
};
use scatter_wire::handshake;
use scatter_wire::{
    Channel, ClientBody, ClientRequest, Connection, ConnectionOptions, Frame, FrameBuffer, Hello, Identity, PeerHello,
    Refused, RefusedReason, ReplyBody,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::LocalOptions;
use tokio::sync::Notify;

/// Runs a test on one thread, as the driver runs the transport. Fails rather than hangs.
pub(crate) fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime");
    let limited = async { tokio::time::timeout(Duration::from_secs(60), test).await };
    runtime.block_on(limited).expect("the test ends");
}

/// Waits for something that no event tells.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Times so long that no test is decided by them.
pub(crate) fn config() -> TransportConfig {
    TransportConfig {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        handshake_timeout: Duration::from_secs(60),
        connect_timeout: Duration::from_secs(60),
        dead_after: Duration::from_secs(60),
        stall_timeout: Duration::from_secs(60),
        first_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(50),
        ..TransportConfig::default()
    }
}

pub(crate) fn client_options() -> ConnectionOptions {
    ConnectionOptions {
        cluster_name: "test".into(),
        connect_timeout: Duration::from_secs(60),
        stall_timeout: Duration::from_secs(60),
        ..ConnectionOptions::default()
    }
}

pub(crate) fn identity(node: NodeId) -> Identity {
    Identity {
        cluster_name: "test".into(),
        cluster: Some(ClusterId(1)),
        node,
        boot: 1,
        nonce: 1,
        earlier: Vec::new(),
        peer_address: "127.0.0.1:1".into(),
        http_address: String::new(),
        zone: String::new(),
    }
}

/// A frame that tells its number.
pub(crate) fn payload(number: u32, length: usize) -> Frame {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(length.max(bytes.len()), 0xaa);
    Frame::build(|out| out.extend_from_slice(&bytes))
}

/// A request that is answered with as many bytes as it has.
pub(crate) fn bytes(id: u64, length: usize) -> ClientRequest {
    let command = Bytes::from(vec![b'y'; length]);
    ClientRequest { id: RequestId(id), budget_ms: 1000, hops: 0, body: ClientBody::Write { command } }
}

/// Repeats what a write says.
pub(crate) fn echo(incoming: Incoming) {
    let ClientBody::Write { command } = incoming.request.body else { panic!("tests only write") };
    let json = String::from_utf8(command.to_vec()).expect("text");
    incoming.responder.send(ReplyBody::Administered { json });
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) transport: Transport,
    pub(crate) gatekeeper: Rc<Guard>,
    pub(crate) sink: Rc<Sink>,
    pub(crate) service: Rc<Service>,
}

impl Node {
    pub(crate) fn start(id: NodeId, config: TransportConfig) -> Self {
        Self::start_as(identity(id), config)
    }

    pub(crate) fn start_as(identity: Identity, config: TransportConfig) -> Self {
        Self::try_start(identity, config).expect("started")
    }

    pub(crate) fn try_start(identity: Identity, config: TransportConfig) -> io::Result<Self> {
        let id = identity.node;
        let gatekeeper = Rc::new(Guard {
            identity: RefCell::new(identity),
            boots: RefCell::default(),
            refusals: RefCell::default(),
            changed: Notify::new(),
        });
        let (sink, service) = (Rc::<Sink>::default(), Rc::<Service>::default());
        let transport = Transport::start(config, gatekeeper.clone(), sink.clone(), service.clone())?;
        gatekeeper.identity.borrow_mut().peer_address = transport.local_address().to_string();
        Ok(Self { id, transport, gatekeeper, sink, service })
    }

    /// Starts where another node has just stopped.
    pub(crate) async fn start_when_free(identity: Identity, config: TransportConfig) -> Self {
        loop {
            match Self::try_start(identity.clone(), config.clone()) {
                Ok(node) => return node,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn address(&self) -> String {
        self.transport.local_address().to_string()
    }

    pub(crate) fn knows(&self, other: &Self) {
        self.transport.set_address(other.id, other.address());
    }

    /// Whatever was done to the node, a new client is served.
    pub(crate) async fn still_serves(&self) {
        let connection = Connection::connect(&self.address(), client_options()).await.expect("connected");
        let body = ClientBody::Write { command: Bytes::from_static(b"well?") };
        let reply = connection.request(body, 1000, 0).await;
        assert_eq!(reply, Ok(ReplyBody::Administered { json: "well?".into() }));
    }
}

/// Lets in who belongs here, and remembers boots in memory.
pub(crate) struct Guard {
    identity: RefCell<Identity>,
    boots: RefCell<HashMap<NodeId, (u64, u64)>>,
    refusals: RefCell<Vec<Refused>>,
    changed: Notify,
}

impl Guard {
    pub(crate) fn identity(&self) -> Identity {
        self.identity.borrow().clone()
    }

    /// The first refusal this node heard.
    pub(crate) async fn heard_refusal(&self) -> Refused {
        loop {
            if let Some(refused) = self.refusals.borrow().first() {
                return refused.clone();
            }
            self.changed.notified().await;
        }
    }

    fn check_boot(&self, theirs: &Identity) -> Result<(), Refused> {
        let mut boots = self.boots.borrow_mut();
        match boots.get(&theirs.node) {
            Some((boot, _)) if theirs.boot < *boot => Err(Refused::new(RefusedReason::OldBoot, "an old boot")),
            Some((boot, nonce)) if theirs.boot == *boot && theirs.nonce != *nonce => {
                Err(Refused::new(RefusedReason::ClonedDisk, "a cloned disk"))
            }
            Some(_) | None => {
                boots.insert(theirs.node, (theirs.boot, theirs.nonce));
                Ok(())
            }
        }
    }
}

impl Gatekeeper for Guard {
    fn identity(&self) -> Identity {
        Guard::identity(self)
    }

    fn check(&self, hello: &PeerHello) -> Result<(), Refused> {
        check_introduction(&self.identity(), &hello.from)?;
        self.check_boot(&hello.from)
    }

    fn check_answer(&self, asked: Option<NodeId>, answer: &Identity) -> Result<(), Refused> {
        check_introduction(&self.identity(), answer)?;
        check_target(asked, answer.node)?;
        self.check_boot(answer)
    }

    fn refused(&self, _: &str, refused: &Refused) {
        self.refusals.borrow_mut().push(refused.clone());
        self.changed.notify_one();
    }
}

/// Keeps the number of every frame.
#[derive(Default)]
pub(crate) struct Sink {
    frames: RefCell<Vec<(NodeId, Channel, u32)>>,
    changed: Notify,
}

impl Sink {
    pub(crate) fn numbers(&self, from: NodeId, channel: Channel) -> Vec<u32> {
        let frames = self.frames.borrow();
        frames.iter().filter(|frame| (frame.0, frame.1) == (from, channel)).map(|frame| frame.2).collect()
    }

    /// Waits until `count` frames have come on `channel`.
    pub(crate) async fn count(&self, channel: Channel, count: usize) {
        while self.frames.borrow().iter().filter(|frame| frame.1 == channel).count() < count {
            self.changed.notified().await;
        }
    }
}

impl PeerSink for Sink {
    fn frame(&self, from: NodeId, channel: Channel, mut frame: Bytes) {
        let number = u32::decode(&mut frame).expect("a number");
        assert!(frame.iter().all(|byte| *byte == 0xaa), "a damaged frame");
        self.frames.borrow_mut().push((from, channel, number));
    }

    fn batch_end(&self, _from: NodeId) -> bool {
        self.changed.notify_one();
        true
    }
}

/// Echoes requests, at once or when told.
#[derive(Default)]
pub(crate) struct Service {
    holding: Cell<bool>,
    held: RefCell<Vec<Incoming>>,
}

impl Service {
    pub(crate) fn hold(&self) {
        self.holding.set(true);
    }

    pub(crate) fn answer_at_once(&self) {
        self.holding.set(false);
    }

    pub(crate) fn held(&self) -> usize {
        self.held.borrow().len()
    }

    pub(crate) fn release(&self) -> Vec<Incoming> {
        self.held.take()
    }
}

impl ClientService for Service {
    fn serve(&self, batch: Vec<Incoming>) {
        if self.holding.get() {
            self.held.borrow_mut().extend(batch);
        } else {
            batch.into_iter().for_each(echo);
        }
    }
}

/// A peer made by hand: connected to `node` and welcome.
pub(crate) async fn raw_peer(node: &Node, from: NodeId, channel: Channel) -> TcpStream {
    let mut stream = TcpStream::connect(node.address()).await.expect("connected");
    let hello = PeerHello { from: identity(from), to: Some(node.id), channel };
    handshake::connect(&mut stream, &Hello::Peer { hello }).await.expect("welcome");
    stream
}

/// Reads the numbers of `count` frames.
pub(crate) async fn read_frames(stream: &mut TcpStream, count: usize) -> Vec<u32> {
    let mut buffer = FrameBuffer::new(32 << 20);
    let mut numbers = Vec::new();
    while numbers.len() < count {
        assert_ne!(stream.read_buf(buffer.space()).await.expect("read"), 0, "closed after {numbers:?}");
        while let Some(mut frame) = buffer.next_frame().expect("a frame") {
            numbers.push(u32::decode(&mut frame).expect("a number"));
            assert!(frame.iter().all(|byte| *byte == 0xaa), "a damaged frame");
        }
    }
    numbers
}
