//! The client's end of a connection: many callers share it, requests that wait go out together, replies find their
//! callers by id.
//!
//! A caller appends its request to the batch under construction. If nobody else is waiting for a reply, and few were lately,
//! it writes the batch itself, which saves waking anybody; otherwise the connection's task writes it once every caller that was ready to run
//! has run, so that a busy connection makes few large writes and an idle one has no delay.

mod waiters;

use crate::frame::{DEFAULT_FRAME_LIMIT, FrameBatch, FrameBuffer, FrameError, decode_batch};
use crate::handshake::{self, HandshakeError};
use crate::hello::{Hello, Identity};
use crate::reply::{ClientReply, ReplyBody};
use crate::request::{ClientBody, ClientRequest};
use crate::socket;
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use socket2::SockRef;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use waiters::{Ticket, Waiters};

/// Up to so many requests under way at once a caller that finds none writes its own at once.
const FEW: usize = 3;

/// How a client connects.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// The configured name of the cluster.
    pub cluster_name: String,
    /// What program this is, for the node's logs.
    pub agent: String,
    /// The most bytes of one frame, and so of one request or reply.
    pub frame_limit: usize,
    /// How long connecting may take, handshake included.
    pub connect_timeout: Duration,
    /// How long a write may make no progress before the connection counts as dead.
    pub stall_timeout: Duration,
    /// The most requests that wait for a reply; one more is refused as [`CallError::Busy`].
    pub max_in_flight: usize,
    /// The most bytes of requests that wait to be written; past it a request is refused as [`CallError::Busy`].
    pub max_queued_bytes: usize,
    /// Where traffic is counted. Connections may share it.
    pub metrics: Arc<ConnectionMetrics>,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            cluster_name: "scatter".into(),
            agent: concat!("scatter-wire/", env!("CARGO_PKG_VERSION")).into(),
            frame_limit: DEFAULT_FRAME_LIMIT,
            connect_timeout: Duration::from_secs(1),
            stall_timeout: Duration::from_secs(5),
            max_in_flight: 8192,
            max_queued_bytes: 64 << 20,
            metrics: Arc::default(),
        }
    }
}

/// Counts of a client's traffic.
#[derive(Default, Debug)]
pub struct ConnectionMetrics {
    /// Connections that stood.
    pub connected: AtomicU64,
    /// Connections that ended.
    pub closed: AtomicU64,
    /// Requests sent.
    pub requests: AtomicU64,
    /// Replies received.
    pub replies: AtomicU64,
    /// Writes handed to a socket. Requests over writes is the mean batch.
    pub writes: AtomicU64,
    /// Bytes written.
    pub bytes_sent: AtomicU64,
    /// Bytes read.
    pub bytes_received: AtomicU64,
    /// Requests refused as [`CallError::Busy`].
    pub busy: AtomicU64,
}

/// Adds to a counter that orders nothing.
pub(crate) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

/// Why no connection came to be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address could not be reached in time.
    #[error("no connection to {address} within {timeout_ms} ms")]
    Timeout {
        /// The address.
        address: String,
        /// The limit.
        timeout_ms: u64,
    },
    /// Connecting failed.
    #[error("no connection to {address}: {error}")]
    Io {
        /// The address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// Somebody answered, but not as we need.
    #[error("{address}: {error}")]
    Handshake {
        /// The address.
        address: String,
        /// Why.
        error: HandshakeError,
    },
    /// The last attempt failed so short a while ago that no new one was made.
    #[error("{last}")]
    BackingOff {
        /// The address.
        address: String,
        /// What the last attempt said.
        last: String,
    },
}

/// Why a call brought no reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    /// As many requests as allowed are waiting. Definitely not sent.
    #[error("too many requests are waiting on the connection")]
    Busy,
    /// The request is over the frame limit. Definitely not sent.
    #[error("a request of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The connection ended before any byte of the request was written. Definitely not sent.
    #[error("the connection ended before the request was sent: {0}")]
    NotSent(String),
    /// The connection ended after the request may have been sent: nobody knows what became of it.
    #[error("the connection was lost: {0}")]
    Lost(String),
}

impl CallError {
    /// Whether the node definitely never saw the request.
    #[must_use]
    pub const fn is_definite(&self) -> bool {
        match self {
            Self::Busy | Self::TooLarge { .. } | Self::NotSent(_) => true,
            Self::Lost(_) => false,
        }
    }
}

/// A node in the same process: requests to it go through no socket.
pub trait LocalNode: std::fmt::Debug + Send + Sync + 'static {
    /// What it says of itself.
    fn identity(&self) -> &Identity;

    /// Takes a request. The reply may be sent from any thread; dropping `reply` says that nobody knows what became of it.
    fn serve(&self, body: ClientBody, budget_ms: u32, reply: LocalReply);
}

/// Takes a local node's reply.
pub type LocalReply = oneshot::Sender<Result<ReplyBody, CallError>>;

/// A connection to one node. Clones share it; it closes when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    place: Place,
}

/// Where the node is.
#[derive(Clone, Debug)]
enum Place {
    /// At the other end of a socket.
    Remote(Arc<Handle>),
    /// In this process.
    Local(Arc<dyn LocalNode>),
}

/// Closes the connection when the last [`Connection`] goes.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    identity: Identity,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close("it was closed here");
        self.shared.wake.notify_one();
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Tells the connection's task that something waits to be written, or that the connection is to end.
    wake: Notify,
    writer: OwnedWriteHalf,
    options: ConnectionOptions,
}

#[derive(Debug)]
struct State {
    /// Requests that nobody has begun to write.
    batch: FrameBatch,
    /// What is left of a batch that the socket did not take at once. It goes before `batch`.
    rest: BytesMut,
    /// The connection's task is writing: nobody else may.
    writing: bool,
    waiters: Waiters,
    /// The most requests that were under way at once since there was none.
    crowd: usize,
    /// Requests appended so far; each waiter knows its own number.
    appended: u64,
    /// Requests up to this number may have reached the socket.
    taken: u64,
    /// Why the connection is over.
    closed: Option<String>,
}

impl Connection {
    /// Connects to `address` (host:port) and introduces itself as a client. Must be called inside a tokio runtime, which
    /// then runs the connection's task.
    pub async fn connect(address: &str, options: ConnectionOptions) -> Result<Self, ConnectError> {
        let limit = options.connect_timeout;
        match tokio::time::timeout(limit, Self::connect_unlimited(address, options)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::Timeout {
                address: address.to_owned(),
                timeout_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    async fn connect_unlimited(address: &str, options: ConnectionOptions) -> Result<Self, ConnectError> {
        let io_error = |error| ConnectError::Io { address: address.to_owned(), error };
        let mut stream = TcpStream::connect(address).await.map_err(io_error)?;
        socket::prepare(&stream, options.stall_timeout).map_err(io_error)?;
        let hello = Hello::Client { cluster_name: options.cluster_name.clone(), agent: options.agent.clone() };
        let welcomed = handshake::connect(&mut stream, &hello)
            .await
            .map_err(|error| ConnectError::Handshake { address: address.to_owned(), error })?;
        let mut buffer = welcomed.buffer;
        buffer.set_limit(options.frame_limit);
        let (reader, writer) = stream.into_split();
        count(&options.metrics.connected, 1);
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                batch: FrameBatch::new(options.frame_limit),
                rest: BytesMut::new(),
                writing: false,
                waiters: Waiters::default(),
                crowd: 0,
                appended: 0,
                taken: 0,
                closed: None,
            }),
            wake: Notify::new(),
            writer,
            options,
        });
        tokio::spawn(run(Arc::clone(&shared), reader, buffer));
        Ok(Self { place: Place::Remote(Arc::new(Handle { shared, identity: welcomed.identity })) })
    }

    /// The connection to a node in the same process. It never closes.
    #[must_use]
    pub fn local(node: Arc<dyn LocalNode>) -> Self {
        Self { place: Place::Local(node) }
    }

    /// Who answered when the connection was made.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        match &self.place {
            Place::Remote(handle) => &handle.identity,
            Place::Local(node) => node.identity(),
        }
    }

    /// Whether the connection has ended: every call is refused.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.place {
            Place::Remote(handle) => handle.shared.state.lock().closed.is_some(),
            Place::Local(_) => false,
        }
    }

    /// How many requests wait for a reply; of a local node nobody counts them here.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.place {
            Place::Remote(handle) => handle.shared.state.lock().waiters.len(),
            Place::Local(_) => 0,
        }
    }

    /// Sends a request. `budget_ms` tells the node how long the caller waits; this side does not watch it: a caller that
    /// gives up drops the [`Call`], and the reply is ignored.
    pub fn call(&self, body: ClientBody, budget_ms: u32, hops: u8) -> Result<Call, CallError> {
        match &self.place {
            Place::Remote(handle) => {
                let (ticket, receiver) = handle.shared.start(body, budget_ms, hops)?;
                Ok(Call { remote: Some((Arc::clone(&handle.shared), ticket)), receiver })
            }
            Place::Local(node) => {
                let (reply, receiver) = oneshot::channel();
                node.serve(body, budget_ms, reply);
                Ok(Call { remote: None, receiver })
            }
        }
    }

    /// [`Connection::call`], awaited.
    pub async fn request(&self, body: ClientBody, budget_ms: u32, hops: u8) -> Result<ReplyBody, CallError> {
        self.call(body, budget_ms, hops)?.await
    }
}

/// A request under way. Resolves to the reply; dropping it forgets the request.
#[derive(Debug)]
pub struct Call {
    /// Where the reply is waited for, if it comes over a socket.
    remote: Option<(Arc<Shared>, Ticket)>,
    receiver: oneshot::Receiver<Result<ReplyBody, CallError>>,
}

impl Future for Call {
    type Output = Result<ReplyBody, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|result| result.unwrap_or_else(|_| Err(CallError::Lost("the connection's task ended".into()))))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // After a reply there is nothing to remove, and the lock is spared.
        if let Some((shared, ticket)) = &self.remote
            && !self.receiver.is_terminated()
        {
            shared.state.lock().waiters.remove(*ticket);
        }
    }
}

impl Shared {
    fn start(
        &self,
        body: ClientBody,
        budget_ms: u32,
        hops: u8,
    ) -> Result<(Ticket, oneshot::Receiver<Result<ReplyBody, CallError>>), CallError> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(reason) = &state.closed {
            return Err(CallError::NotSent(reason.clone()));
        }
        if state.waiters.len() >= self.options.max_in_flight
            || state.batch.len() + state.rest.len() >= self.options.max_queued_bytes
        {
            count(&self.options.metrics.busy, 1);
            return Err(CallError::Busy);
        }
        // Where many came at once the last time, others are about to follow and share the write.
        let alone = state.waiters.len() == 0 && state.crowd <= FEW;
        let (sender, receiver) = oneshot::channel();
        state.crowd = if state.waiters.len() == 0 { 1 } else { state.crowd.max(state.waiters.len() + 1) };
        let ticket = state.waiters.insert(state.appended + 1, sender);
        if let Err(error) = state.batch.push(&ClientRequest { id: ticket.id(), budget_ms, hops, body }) {
            state.waiters.remove(ticket);
            return Err(match error {
                FrameError::TooLong { length, limit } => CallError::TooLarge { length, limit },
                FrameError::NotScatter(_) | FrameError::Version { .. } | FrameError::Malformed(_) => {
                    CallError::NotSent(error.to_string())
                }
            });
        }
        state.appended += 1;
        count(&self.options.metrics.requests, 1);
        if alone && !state.writing && state.rest.is_empty() {
            self.write_here(state);
        } else {
            self.wake.notify_one();
        }
        Ok((ticket, receiver))
    }

    /// Writes the batch on the caller's own thread; what the socket does not take is left to the connection's task, and
    /// so is every error.
    fn write_here(&self, state: &mut State) {
        let mut bytes = state.batch.take();
        state.taken = state.appended;
        if let Ok(written) = self.writer.try_write(&bytes) {
            self.count_write(written);
            bytes.advance(written);
        }
        if !bytes.is_empty() {
            state.rest = bytes;
            self.wake.notify_one();
        }
    }

    /// What the connection's task is to write next; `None` when nothing waits or the connection is over.
    fn take(&self) -> Option<BytesMut> {
        let mut state = self.state.lock();
        let bytes = if state.rest.is_empty() {
            state.taken = state.appended;
            state.batch.take()
        } else {
            std::mem::take(&mut state.rest)
        };
        state.writing = !bytes.is_empty();
        state.writing.then_some(bytes)
    }

    fn count_write(&self, written: usize) {
        count(&self.options.metrics.writes, 1);
        count(&self.options.metrics.bytes_sent, written);
    }

    /// Hands replies to their callers. Replies nobody waits for are dropped: their callers gave up.
    fn deliver(&self, replies: Vec<ClientReply>) {
        count(&self.options.metrics.replies, replies.len());
        let mut found = Vec::with_capacity(replies.len());
        {
            let mut state = self.state.lock();
            for reply in replies {
                if let Some(sender) = state.waiters.answer(reply.id) {
                    found.push((sender, reply.body));
                }
            }
        }
        for (sender, body) in found {
            // A caller that gave up in this very moment needs no reply.
            drop(sender.send(Ok(body)));
        }
    }

    /// Ends the connection: every waiter hears why, and so does every later caller. The first reason stays.
    fn close(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(reason.to_owned());
        let taken = state.taken;
        let waiters = state.waiters.drain();
        drop(state);
        // The descriptor lives as long as somebody holds a `Connection`; the node is told now. It may know already.
        drop(SockRef::from(self.writer.as_ref()).shutdown(Shutdown::Both));
        count(&self.options.metrics.closed, 1);
        for (number, sender) in waiters {
            let text = reason.to_owned();
            let error = if number > taken { CallError::NotSent(text) } else { CallError::Lost(text) };
            drop(sender.send(Err(error)));
        }
    }

    fn is_closed(&self) -> bool {
        self.state.lock().closed.is_some()
    }
}

/// The connection's task.
async fn run(shared: Arc<Shared>, mut reader: OwnedReadHalf, mut buffer: FrameBuffer) {
    let reason = match serve(&shared, &mut reader, &mut buffer).await {
        Ok(()) => "the node closed the connection".to_owned(),
        Err(error) => error.to_string(),
    };
    shared.close(&reason);
}

/// Reads and writes until the connection ends. Reading never waits for writing, so two full sockets cannot wait for each
/// other.
async fn serve(shared: &Shared, reader: &mut OwnedReadHalf, buffer: &mut FrameBuffer) -> io::Result<()> {
    let mut writing: Option<BytesMut> = None;
    let mut stalled_at = Instant::now();
    loop {
        while let Some(frame) = buffer.next_frame()? {
            shared.deliver(decode_batch(frame)?);
        }
        tokio::select! {
            biased;
            read = reader.read_buf(buffer.space()) => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                buffer.filled(read);
                count(&shared.options.metrics.bytes_received, read);
            }
            () = shared.wake.notified(), if writing.is_none() => {
                // Callers that are ready to run add their requests first.
                tokio::task::yield_now().await;
                if shared.is_closed() {
                    return Ok(());
                }
                writing = shared.take();
                stalled_at = Instant::now() + shared.options.stall_timeout;
            }
            writable = shared.writer.writable(), if writing.is_some() => writable?,
            () = tokio::time::sleep_until(stalled_at), if writing.is_some() => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the node takes no more bytes"));
            }
        }
        while let Some(bytes) = &mut writing {
            match shared.writer.try_write(bytes) {
                Ok(written) => {
                    shared.count_write(written);
                    bytes.advance(written);
                    stalled_at = Instant::now() + shared.options.stall_timeout;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if bytes.is_empty() {
                writing = shared.take();
            }
        }
    }
}
