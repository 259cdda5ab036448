//! One connection that this node opens to say something to a peer.
//!
//! A link lives as long as somebody may want to send; its task connects, keeps the connection, and connects again.
//! Frames are written by whoever sends as long as the socket takes them; the task only steps in when it does not. Those of
//! a bulk channel are handed to the [`mover`](super::mover) in the same way, as long as it takes them.

use super::Inner;
use super::mover::Written;
use super::queue::FrameQueue;
use scatter_core::types::NodeId;
use scatter_wire::{Channel, ConnectError, Frame, socket};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

/// What became of a frame given to the transport.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is written or waits for its turn. It may still be lost.
    Taken,
    /// It is dropped: the bulk queue is full, the node's address unknown, or the frame too large.
    Dropped,
}

pub(super) struct Link {
    inner: Rc<Inner>,
    node: NodeId,
    channel: Channel,
    queue: RefCell<FrameQueue>,
    writer: RefCell<Option<Rc<Writer>>>,
    /// The socket, or the mover, takes no more for the moment: the task waits until it does, and nobody else writes.
    blocked: Cell<bool>,
    /// Tells the task that the socket is blocked or broken.
    wake: Notify,
    /// Ends the pause before the next attempt.
    hurry: Notify,
    task: RefCell<Option<AbortHandle>>,
}

/// What takes a connection's frames.
enum Writer {
    Socket(OwnedWriteHalf),
    /// Another thread writes them: see [`super::mover`].
    Mover(Written),
}

/// What tells that a connection has ended.
enum OtherEnd {
    Socket(OwnedReadHalf),
    Mover(mpsc::Sender<Frame>),
}

impl Link {
    pub(super) fn start(inner: Rc<Inner>, node: NodeId, channel: Channel) -> Rc<Self> {
        let limits = match channel {
            Channel::Control => inner.config.control_queue,
            Channel::Bulk => inner.config.bulk_queue,
        };
        let link = Rc::new(Self {
            inner,
            node,
            channel,
            queue: RefCell::new(FrameQueue::new(limits)),
            writer: RefCell::new(None),
            blocked: Cell::new(false),
            wake: Notify::new(),
            hurry: Notify::new(),
            task: RefCell::new(None),
        });
        let task = tokio::task::spawn_local(Rc::clone(&link).run());
        *link.task.borrow_mut() = Some(task.abort_handle());
        link
    }

    /// Closes the connection and ends the task.
    pub(super) fn stop(&self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
        self.disconnected();
    }

    pub(super) fn hurry(&self) {
        self.hurry.notify_waiters();
    }

    pub(super) fn is_connected(&self) -> bool {
        self.writer.borrow().is_some()
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        match &**self.writer.borrow().as_ref()? {
            Writer::Socket(half) => socket::round_trip(half.as_ref()),
            Writer::Mover(_) => None,
        }
    }

    /// Frames that wait, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let queue = self.queue.borrow();
        (queue.len(), queue.bytes())
    }

    /// Queues a frame.
    pub(super) fn push(&self, frame: Frame) -> Sent {
        let metrics = &self.inner.metrics;
        if frame.payload_len() > self.inner.config.frame_limit {
            metrics.dropped_oversized.add(1);
            return Sent::Dropped;
        }
        let mut queue = self.queue.borrow_mut();
        match self.channel {
            Channel::Control => {
                metrics.dropped_overflow.add(queue.push_newest(frame));
                Sent::Taken
            }
            Channel::Bulk if queue.push(frame) => Sent::Taken,
            Channel::Bulk => {
                metrics.dropped_overflow.add(1);
                Sent::Dropped
            }
        }
    }

    /// Writes what the socket takes. What it does not take, and every error, is left to the task.
    pub(super) fn flush(&self) {
        if self.blocked.get() || self.queue.borrow().is_empty() {
            return;
        }
        if let Some(writer) = &*self.writer.borrow()
            && self.write(writer).is_err()
        {
            self.blocked.set(true);
            self.wake.notify_one();
        }
    }

    /// Writes until nothing is left; fails with `WouldBlock` when whoever takes the frames is full.
    fn write(&self, writer: &Writer) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        while !queue.is_empty() {
            match writer {
                Writer::Socket(half) => {
                    let (slices, used) = queue.slices();
                    let written = half.try_write_vectored(&slices[..used])?;
                    let metrics = &self.inner.metrics;
                    metrics.writes.add(1);
                    metrics.bytes_sent.add(written);
                    metrics.frames_sent.add(queue.advance(written));
                }
                Writer::Mover(Written { frames, .. }) => {
                    let room = frames.try_reserve().map_err(|error| match error {
                        TrySendError::Full(()) => io::ErrorKind::WouldBlock.into(),
                        TrySendError::Closed(()) => ended(),
                    })?;
                    if let Some(frame) = queue.pop() {
                        room.send(frame);
                    }
                }
            }
        }
        Ok(())
    }

    async fn run(self: Rc<Self>) {
        let mut failures = 0;
        loop {
            match self.connect().await {
                Ok(stream) => {
                    failures = 0;
                    let error = self.keep(stream).await;
                    self.disconnected();
                    tracing::debug!(node = %self.node, channel = ?self.channel, %error, "connection to a peer ended");
                }
                Err(error) => {
                    self.inner.metrics.connect_failures.add(1);
                    self.drop_queue();
                    if failures == 0 {
                        tracing::info!(node = %self.node, channel = ?self.channel, %error, "cannot connect to a peer");
                    }
                    failures += 1;
                }
            }
            let pause = self.inner.pause(failures);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, ConnectError> {
        let address = self.inner.addresses.borrow().get(&self.node).cloned();
        let Some(address) = address else {
            let error = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address is known");
            return Err(ConnectError::Io { address: self.node.to_string(), error });
        };
        self.inner.connect(&address, Some(self.node), self.channel).await.map(|(stream, _)| stream)
    }

    /// Keeps a connection until it breaks; says why it did.
    async fn keep(&self, stream: TcpStream) -> io::Error {
        let (writer, mut other_end) = match self.take(stream) {
            Ok(halves) => halves,
            Err(error) => return error,
        };
        *self.writer.borrow_mut() = Some(Rc::clone(&writer));
        self.blocked.set(false);
        self.inner.metrics.connected.add(1);
        self.inner.metrics.peers_connected.add(1);
        self.flush();
        loop {
            tokio::select! {
                error = other_end.broken() => return error,
                () = self.wake.notified() => {}
            }
            if !self.blocked.get() {
                continue;
            }
            tokio::select! {
                error = other_end.broken() => return error,
                result = self.unblock(&writer) => if let Err(error) = result { return error },
            }
        }
    }

    /// Parts a connection, or gives it to the thread for what is large.
    fn take(&self, stream: TcpStream) -> io::Result<(Rc<Writer>, OtherEnd)> {
        Ok(match self.channel {
            Channel::Control => {
                let (reader, writer) = stream.into_split();
                (Rc::new(Writer::Socket(writer)), OtherEnd::Socket(reader))
            }
            Channel::Bulk => {
                let written = self.inner.mover.write(stream)?;
                let frames = written.frames.clone();
                (Rc::new(Writer::Mover(written)), OtherEnd::Mover(frames))
            }
        })
    }

    /// Writes whenever there is room, until nothing is left.
    async fn unblock(&self, writer: &Writer) -> io::Result<()> {
        loop {
            match writer {
                Writer::Socket(half) => {
                    match tokio::time::timeout(self.inner.config.stall_timeout, half.writable()).await {
                        Ok(ready) => ready?,
                        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no more bytes")),
                    }
                }
                // The thread itself gives a peer up that takes nothing.
                Writer::Mover(Written { frames, .. }) => drop(frames.reserve().await.map_err(|_| ended())?),
            }
            match self.write(writer) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.blocked.set(false);
        Ok(())
    }

    /// The connection is gone, and with it what waited for it: whatever still matters is sent again by the protocol.
    fn disconnected(&self) {
        if self.writer.borrow_mut().take().is_some() {
            self.inner.metrics.disconnected.add(1);
            self.inner.metrics.peers_connected.subtract(1);
        }
        self.blocked.set(false);
        self.drop_queue();
    }

    fn drop_queue(&self) {
        self.inner.metrics.dropped_disconnected.add(self.queue.borrow_mut().clear());
    }
}

impl OtherEnd {
    /// Waits until the connection ends.
    async fn broken(&mut self) -> io::Error {
        match self {
            Self::Socket(reader) => silence(reader).await,
            Self::Mover(frames) => {
                frames.closed().await;
                ended()
            }
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the thread for what is large ended the connection")
}

/// Waits until the connection ends. The answering side has nothing to say on it.
pub(super) async fn silence(reader: &mut (impl AsyncRead + Unpin)) -> io::Error {
    match reader.read(&mut [0; 16]).await {
        Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, "the peer closed the connection"),
        Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "the peer spoke where it should listen"),
        Err(error) => error,
    }
}
