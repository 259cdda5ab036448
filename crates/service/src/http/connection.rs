//! One connection: what it is doing, and its task.

use super::body::OnEnd;
use super::server::Shared;
use super::{Body, Handler};
use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// Nothing: no byte of a request is there.
    Idle = 0,
    /// Reading a request's head.
    Head = 1,
    /// Answering.
    Busy = 2,
    /// The answer is made, not all of it is sent.
    Answered = 3,
}

/// What the sweep sees of a connection. Written by the connection's task alone.
#[derive(Default, Debug)]
pub(super) struct Watch {
    /// The phase in the low byte, above it the tick at which it began.
    phase: AtomicU64,
    /// The tick since which the client takes no byte, or zero.
    blocked: AtomicU64,
    /// Set by the sweep to have hyper's buffers given back.
    park: AtomicBool,
    /// Wakes the task to see `park`.
    waker: OnceLock<Waker>,
}

impl Watch {
    pub(super) fn phase(&self) -> (Phase, u64) {
        let word = self.phase.load(Ordering::Relaxed);
        let phase = match word & 0xff {
            0 => Phase::Idle,
            1 => Phase::Head,
            2 => Phase::Busy,
            _ => Phase::Answered,
        };
        (phase, word >> 8)
    }

    pub(super) fn enter(&self, phase: Phase, tick: u64) {
        self.phase.store(phase as u64 | tick << 8, Ordering::Relaxed);
    }

    /// Since when the client takes no byte.
    pub(super) fn blocked_since(&self) -> Option<u64> {
        Some(self.blocked.load(Ordering::Relaxed)).filter(|tick| *tick != 0)
    }

    /// Asks an idle connection to give buffers back.
    pub(super) fn ask_to_park(&self) {
        if let Some(waker) = self.waker.get()
            && !self.park.swap(true, Ordering::Relaxed)
        {
            waker.wake_by_ref();
        }
    }

    fn is_idle(&self) -> bool {
        self.phase().0 == Phase::Idle && self.blocked_since().is_none()
    }
}

/// A socket that notes progress in its connection's [`Watch`].
struct Watched {
    stream: TcpStream,
    /// Bytes read before hyper was there to take them.
    before: Bytes,
    watch: Arc<Watch>,
    shared: Arc<Shared>,
    blocked: bool,
    ended: bool,
}

impl Watched {
    fn wrote(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if result.is_pending() {
            if !self.blocked {
                self.blocked = true;
                self.watch.blocked.store(self.shared.tick().max(1), Ordering::Relaxed);
            }
        } else if self.blocked {
            self.blocked = false;
            self.watch.blocked.store(0, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buffer.filled().len();
        if this.before.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        } else {
            let length = this.before.len().min(buffer.remaining());
            buffer.put_slice(&this.before[..length]);
            this.before.advance(length);
        }
        if buffer.filled().len() == filled {
            this.ended = true;
        } else if this.watch.phase().0 == Phase::Idle {
            this.watch.enter(Phase::Head, this.shared.tick());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called by hyper when it has written all it has.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.watch.phase().0 == Phase::Answered {
            self.watch.enter(Phase::Idle, self.shared.tick());
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// How a connection's turn in hyper ended.
enum Turn {
    /// It is idle and gave its buffers back.
    Parked,
    /// It is over.
    Over,
}

/// Counts a parked connection for as long as it is one, however it ends.
struct Parked(prometheus::IntGauge);

impl Parked {
    fn new(shared: &Shared) -> Self {
        let gauge = shared.metrics.parked.clone();
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves one connection until it ends.
pub(super) async fn run<H: Handler>(stream: TcpStream, watch: Arc<Watch>, shared: Arc<Shared>, handler: Arc<H>) {
    let mut io = Watched { stream, before: Bytes::new(), watch, shared, blocked: false, ended: false };
    let mut parked = None;
    loop {
        // Before the first byte of a request, hyper and its buffers need not exist. (Readiness alone is no sign of a
        // byte: tokio takes a new socket for ready until a read says otherwise.)
        if io.before.is_empty() && !matches!(io.stream.peek(&mut [0]).await, Ok(1)) {
            return;
        }
        drop(parked.take());
        let (turn, returned) = Box::pin(turn(io, Arc::clone(&handler))).await;
        io = returned;
        match turn {
            Turn::Parked => parked = Some(Parked::new(&io.shared)),
            Turn::Over => break,
        }
    }
    if !io.ended {
        // Boxed, so that its buffer is no part of every idle connection.
        Box::pin(linger(io)).await;
    }
}

async fn turn<H: Handler>(io: Watched, handler: Arc<H>) -> (Turn, Watched) {
    let (watch, shared) = (Arc::clone(&io.watch), Arc::clone(&io.shared));
    watch.park.store(false, Ordering::Relaxed);
    let service = service_fn({
        let (watch, shared) = (Arc::clone(&watch), Arc::clone(&shared));
        move |request| {
            let (handler, watch, shared) = (Arc::clone(&handler), Arc::clone(&watch), Arc::clone(&shared));
            async move { Ok::<_, Infallible>(answer(&*handler, request, &watch, &shared).await) }
        }
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(shared.settings.maximum_head_bytes)
        .half_close(false)
        .serve_connection(TokioIo::new(io), service);
    let turn = poll_fn(|cx| {
        watch.waker.get_or_init(|| cx.waker().clone());
        match Pin::new(&mut connection).poll(cx) {
            // What went wrong concerns the client alone, who knows.
            Poll::Ready(_) => Poll::Ready(Turn::Over),
            Poll::Pending if watch.park.load(Ordering::Relaxed) => {
                watch.park.store(false, Ordering::Relaxed);
                if watch.is_idle() { Poll::Ready(Turn::Parked) } else { Poll::Pending }
            }
            Poll::Pending => Poll::Pending,
        }
    });
    let turn = turn.await;
    let parts = connection.into_parts();
    let mut io = parts.io.into_inner();
    if !parts.read_buf.is_empty() {
        io.before = parts.read_buf;
    }
    (turn, io)
}

async fn answer<H: Handler>(
    handler: &H,
    request: Request<Incoming>,
    watch: &Arc<Watch>,
    shared: &Arc<Shared>,
) -> Response<Body> {
    watch.enter(Phase::Busy, shared.tick());
    let mut response = handler.handle(request).await;
    if shared.is_draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if response.body().is_stream() {
        let (watch, shared) = (Arc::clone(watch), Arc::clone(shared));
        response.body_mut().on_end(OnEnd(Box::new(move || watch.enter(Phase::Answered, shared.tick()))));
    } else {
        watch.enter(Phase::Answered, shared.tick());
    }
    response
}

/// Most bytes and longest time that are spent on a client which still sends after its reply was sent and the
/// connection's sending side closed. Closing with bytes unread would destroy the reply on its way.
const LINGER_BYTES: usize = 4 << 20;
const LINGER: Duration = Duration::from_secs(2);

async fn linger(mut io: Watched) {
    io.watch.enter(Phase::Idle, io.shared.tick());
    if io.stream.shutdown().await.is_err() {
        return;
    }
    let drained = async {
        let mut buffer = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match io.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Time over is as good as the end: the socket is closed either way.
    let _ = tokio::time::timeout(LINGER, drained).await;
}
