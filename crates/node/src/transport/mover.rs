//! The thread that moves what is large, pieces of snapshots above all, between sockets and memory.
//!
//! A piece takes about as long to copy as a write of a user may take in all. So connections of the bulk channel are
//! made, answered, superseded and ended where all others are, but read and written here, behind everybody else.

use super::link::silence;
use super::metrics::TransportMetrics;
use crate::priority::give_way;
use bytes::Bytes;
use scatter_wire::{Frame, FrameBuffer};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::sync::{mpsc, oneshot};

/// Frames of one connection that are handed over and not written yet, beside those that wait in its queue.
const HANDED_OVER: usize = 2;

/// Frames of one connection that are read and not heard yet.
const UNHEARD: usize = 2;

/// The handle of the thread, which ends with it, and closes its connections.
pub(super) struct Mover {
    tasks: mpsc::UnboundedSender<Task>,
}

/// A connection that the thread writes to.
pub(super) struct Written {
    /// Takes frames. It is closed when the connection has ended.
    pub(super) frames: mpsc::Sender<Frame>,
    /// With it goes the connection, and what it was not yet written.
    _kept: oneshot::Sender<()>,
}

enum Task {
    Read(std::net::TcpStream, FrameBuffer, mpsc::Sender<io::Result<Bytes>>),
    Write(std::net::TcpStream, mpsc::Receiver<Frame>, oneshot::Receiver<()>),
}

impl Mover {
    /// Starts the thread. `stall` is how long a write may make no progress.
    pub(super) fn start(metrics: Arc<TransportMetrics>, stall: Duration) -> io::Result<Self> {
        let (tasks, received) = mpsc::unbounded_channel();
        let (ready, started) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("bulk".to_owned()).spawn(move || {
            give_way();
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    // Who waits for it waits until then.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(run(received, &metrics, stall));
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        started.recv().map_err(io::Error::other)??;
        Ok(Self { tasks })
    }

    /// Reads a connection's frames, those in `buffer` first, until it ends or the receiver goes. An error comes last.
    pub(super) fn read(&self, stream: TcpStream, buffer: FrameBuffer) -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
        let (frames, received) = mpsc::channel(UNHEARD);
        self.give(Task::Read(stream.into_std()?, buffer, frames))?;
        Ok(received)
    }

    /// Writes frames to a connection.
    pub(super) fn write(&self, stream: TcpStream) -> io::Result<Written> {
        let (frames, received) = mpsc::channel(HANDED_OVER);
        let (kept, gone) = oneshot::channel();
        self.give(Task::Write(stream.into_std()?, received, gone))?;
        Ok(Written { frames, _kept: kept })
    }

    fn give(&self, task: Task) -> io::Result<()> {
        self.tasks.send(task).map_err(|_| io::Error::other("the thread for what is large is gone"))
    }
}

async fn run(mut tasks: mpsc::UnboundedReceiver<Task>, metrics: &Arc<TransportMetrics>, stall: Duration) {
    while let Some(task) = tasks.recv().await {
        let metrics = Arc::clone(metrics);
        match task {
            Task::Read(stream, buffer, frames) => {
                tokio::spawn(async move { read(stream, buffer, &frames, &metrics).await });
            }
            Task::Write(stream, mut frames, gone) => {
                tokio::spawn(async move {
                    tokio::select! {
                        ended = write(stream, &mut frames, &metrics, stall) => if let Err(error) = ended {
                            tracing::debug!(%error, "a connection for what is large ended");
                        },
                        _ = gone => {}
                    }
                    frames.close();
                    while frames.recv().await.is_some() {
                        metrics.dropped_disconnected.add(1);
                    }
                });
            }
        }
    }
}

async fn read(
    stream: std::net::TcpStream,
    mut buffer: FrameBuffer,
    frames: &mpsc::Sender<io::Result<Bytes>>,
    metrics: &TransportMetrics,
) {
    let ended = async {
        let mut stream = TcpStream::from_std(stream)?;
        buffer.trust();
        loop {
            while let Some(frame) = buffer.next_frame()? {
                if frames.send(Ok(frame)).await.is_err() {
                    return Ok(());
                }
            }
            let space = buffer.space();
            let read = tokio::select! {
                read = stream.read_buf(space) => read?,
                () = frames.closed() => 0,
            };
            if read == 0 {
                return Ok(());
            }
            buffer.filled(read);
            metrics.bytes_received.add(read);
        }
    };
    let ended: io::Result<()> = ended.await;
    if let Err(error) = ended {
        // Nobody to hear it is nobody who misses it.
        let _ = frames.send(Err(error)).await;
    }
}

async fn write(
    stream: std::net::TcpStream,
    frames: &mut mpsc::Receiver<Frame>,
    metrics: &TransportMetrics,
    stall: Duration,
) -> io::Result<()> {
    let mut stream = TcpStream::from_std(stream)?;
    let (mut reader, mut writer) = stream.split();
    loop {
        let frame = tokio::select! {
            error = silence(&mut reader) => return Err(error),
            frame = frames.recv() => frame,
        };
        let Some(frame) = frame else { return Ok(()) };
        let written = tokio::select! {
            error = silence(&mut reader) => Err(error),
            written = write_frame(&mut writer, frame, metrics, stall) => written,
        };
        match written {
            Ok(()) => metrics.frames_sent.add(1),
            Err(error) => {
                metrics.dropped_disconnected.add(1);
                return Err(error);
            }
        }
    }
}

async fn write_frame(
    writer: &mut WriteHalf<'_>,
    mut frame: Frame,
    metrics: &TransportMetrics,
    stall: Duration,
) -> io::Result<()> {
    while !frame.is_empty() {
        let parts = frame.parts().map(|part| IoSlice::new(part));
        let written = match tokio::time::timeout(stall, writer.write_vectored(&parts)).await {
            Ok(written) => written?,
            Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes no more bytes")),
        };
        metrics.writes.add(1);
        metrics.bytes_sent.add(written);
        frame.advance(written);
    }
    Ok(())
}
