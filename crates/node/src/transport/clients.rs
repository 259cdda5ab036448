//! Client connections: batches of requests in, batches of replies out.
//!
//! One task serves a connection. What one read brings goes to the service as one batch; replies given at once go out in
//! one write right after it, those given later in as few writes as the scheduling allows. A client that asks more than it
//! reads is not read from until it does.

use super::{Inner, TransportConfig, TransportMetrics};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use scatter_core::types::RequestId;
use scatter_wire::frame::decode_batch;
use scatter_wire::{ClientBody, ClientReply, ClientRequest, FrameBatch, FrameBuffer, Refusal, ReplyBody};
use std::io;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Past this many bytes of unread replies a client is not read from.
const REPLY_BYTES_PAUSE: usize = 1 << 20;

/// What a request weighs beside its key or command.
const REQUEST_WEIGHT: usize = 64;

/// What serves clients' requests. Called on the transport's thread: it must not block, but may answer from any thread.
pub trait ClientService {
    /// Takes what one read of a client's connection brought.
    fn serve(&self, batch: Vec<Incoming>);
}

/// A request with the way back to who asked.
#[derive(Debug)]
pub struct Incoming {
    /// The request. Its id means something to its client alone.
    pub request: ClientRequest,
    /// Takes the reply.
    pub responder: Responder,
}

/// The way back to who asked. Dropped without a reply it answers [`Refusal::Unknown`].
#[derive(Debug)]
pub struct Responder {
    client: Option<Arc<Client>>,
    id: RequestId,
    weight: usize,
}

impl Responder {
    /// Answers. Wakes the connection's task if need be; never blocks for long.
    pub fn send(mut self, body: ReplyBody) {
        self.respond(body);
    }

    fn respond(&mut self, body: ReplyBody) {
        if let Some(client) = self.client.take() {
            client.reply(self.id, self.weight, body);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.respond(ReplyBody::refused(Refusal::Unknown));
    }
}

/// One connection, as its responders see it.
#[derive(Debug)]
struct Client {
    state: Mutex<State>,
    wake: Notify,
    max_reply_bytes: usize,
    metrics: Arc<TransportMetrics>,
}

#[derive(Debug)]
struct State {
    replies: FrameBatch,
    /// Replies in `replies`.
    count: usize,
    /// Bytes the task took and has not written yet.
    writing: usize,
    requests: usize,
    request_bytes: usize,
    /// The task is awake or about to be.
    awake: bool,
    closed: bool,
}

impl Client {
    fn reply(&self, id: RequestId, weight: usize, body: ReplyBody) {
        let mut state = self.state.lock();
        state.requests -= 1;
        state.request_bytes -= weight;
        if state.closed {
            return;
        }
        let body = self.withhold(&state, body);
        if let Err(error) = state.replies.push(&ClientReply { id, body }) {
            let text = format!("the reply cannot be sent: {error}");
            // A refusal is small: it cannot fail in turn.
            drop(state.replies.push(&ClientReply { id, body: ReplyBody::refused(Refusal::Unavailable { text }) }));
        }
        state.count += 1;
        if !std::mem::replace(&mut state.awake, true) {
            self.wake.notify_one();
        }
    }

    /// A client that does not read its replies gets no more values: they would pile up here. Outcomes are small, and of a
    /// write nothing less may be said.
    fn withhold(&self, state: &State, body: ReplyBody) -> ReplyBody {
        if state.replies.len() + state.writing < self.max_reply_bytes {
            return body;
        }
        match body {
            ReplyBody::Value { .. } | ReplyBody::Description { .. } | ReplyBody::Located { .. } => {
                self.metrics.client_values_withheld.add(1);
                ReplyBody::refused(Refusal::Overloaded)
            }
            ReplyBody::Outcome { .. } | ReplyBody::Refused { .. } | ReplyBody::Administered { .. } => body,
        }
    }

    /// What is to be written next. When there is nothing, the next reply wakes the task.
    fn take(&self) -> Option<BytesMut> {
        let mut state = self.state.lock();
        self.metrics.client_replies.add(std::mem::take(&mut state.count));
        let bytes = state.replies.take();
        state.writing = bytes.len();
        state.awake = !bytes.is_empty();
        state.awake.then_some(bytes)
    }

    /// Whether the client may ask more, given that `left` bytes of the last write still wait.
    fn may_ask(&self, left: usize, config: &TransportConfig) -> bool {
        let mut state = self.state.lock();
        state.writing = left;
        state.requests < config.max_client_requests
            && state.request_bytes < config.max_client_request_bytes
            && state.replies.len() + left < REPLY_BYTES_PAUSE
    }

    /// Counts requests as open and gives each its way back.
    fn admit(self: &Arc<Self>, requests: Vec<ClientRequest>) -> Vec<Incoming> {
        let batch: Vec<Incoming> = requests
            .into_iter()
            .map(|request| {
                let weight = weight(&request);
                let responder = Responder { client: Some(Arc::clone(self)), id: request.id, weight };
                Incoming { request, responder }
            })
            .collect();
        let mut state = self.state.lock();
        state.requests += batch.len();
        state.request_bytes += batch.iter().map(|incoming| incoming.responder.weight).sum::<usize>();
        // Replies given at once need no waking: the task writes them right after.
        state.awake = true;
        drop(state);
        batch
    }

    fn close(&self) {
        self.state.lock().closed = true;
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(inner: &Inner, stream: TcpStream, buffer: FrameBuffer) -> io::Result<()> {
    let client = Arc::new(Client {
        state: Mutex::new(State {
            replies: FrameBatch::new(inner.config.frame_limit),
            count: 0,
            writing: 0,
            requests: 0,
            request_bytes: 0,
            awake: false,
            closed: false,
        }),
        wake: Notify::new(),
        max_reply_bytes: inner.config.max_client_reply_bytes,
        metrics: Arc::clone(&inner.metrics),
    });
    let _open = Open::new(&client, inner);
    let (reader, writer) = stream.into_split();
    Session { inner, client: &client, reader, writer, buffer, writing: None }.run().await
}

/// Counts a connection while it stands, however it ends.
struct Open<'a> {
    client: &'a Client,
    inner: &'a Inner,
}

impl<'a> Open<'a> {
    fn new(client: &'a Client, inner: &'a Inner) -> Self {
        inner.metrics.clients_connected.add(1);
        Self { client, inner }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.client.close();
        self.inner.metrics.clients_connected.subtract(1);
    }
}

struct Session<'a> {
    inner: &'a Inner,
    client: &'a Arc<Client>,
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: FrameBuffer,
    writing: Option<BytesMut>,
}

impl Session<'_> {
    async fn run(&mut self) -> io::Result<()> {
        let stall_timeout = self.inner.config.stall_timeout;
        let mut stalled_at = Instant::now() + stall_timeout;
        loop {
            self.hand_over()?;
            if self.write()? {
                stalled_at = Instant::now() + stall_timeout;
            }
            let left = self.writing.as_ref().map_or(0, BytesMut::len);
            let may_read = self.client.may_ask(left, &self.inner.config);
            if !may_read {
                self.inner.metrics.client_pauses.add(1);
            }
            tokio::select! {
                biased;
                () = self.client.wake.notified(), if left == 0 => {
                    // Whoever else is about to answer does so first.
                    tokio::task::yield_now().await;
                }
                read = self.reader.read_buf(self.buffer.space()), if may_read => {
                    let read = read?;
                    if read == 0 {
                        return Ok(());
                    }
                    self.buffer.filled(read);
                    self.inner.metrics.client_bytes_received.add(read);
                }
                writable = self.writer.writable(), if left > 0 => writable?,
                () = tokio::time::sleep_until(stalled_at), if left > 0 => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its replies"));
                }
            }
        }
    }

    /// Hands requests that have arrived whole to the service, as many as the client may have open.
    fn hand_over(&mut self) -> io::Result<()> {
        let left = self.writing.as_ref().map_or(0, BytesMut::len);
        while self.client.may_ask(left, &self.inner.config) {
            let Some(frame) = self.buffer.next_frame()? else { break };
            let requests = decode_batch(frame)?;
            self.inner.metrics.client_requests.add(requests.len());
            self.inner.service.serve(self.client.admit(requests));
        }
        Ok(())
    }

    /// Writes what the socket takes. Returns whether it took anything or nothing was left.
    fn write(&mut self) -> io::Result<bool> {
        let mut progress = false;
        loop {
            if self.writing.is_none() {
                self.writing = self.client.take();
            }
            let Some(bytes) = &mut self.writing else { return Ok(true) };
            match self.writer.try_write(bytes) {
                Ok(written) => {
                    progress = true;
                    self.inner.metrics.client_writes.add(1);
                    self.inner.metrics.client_bytes_sent.add(written);
                    bytes.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(progress),
                Err(error) => return Err(error),
            }
            if bytes.is_empty() {
                self.writing = None;
            }
        }
    }
}

fn weight(request: &ClientRequest) -> usize {
    REQUEST_WEIGHT
        + match &request.body {
            ClientBody::Read { key, .. } => key.bytes().len(),
            ClientBody::Write { command } => command.len(),
            ClientBody::Locate { position } => position.position().0.len(),
            ClientBody::Describe | ClientBody::Administer { .. } => 0,
        }
}
