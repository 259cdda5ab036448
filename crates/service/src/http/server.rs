//! Accepting connections, watching over them, and letting them go.

use super::connection::{self, Phase, Watch};
use super::{Handler, HttpSettings};
use crate::Address;
use crate::metrics::Counters;
use crate::problem::{self, Kind, Problem, WriteOutcome};
use crate::process::Shutdown;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;

/// How often the sweep looks at all connections, and the unit of its clock.
const TICK: Duration = Duration::from_millis(100);

/// How often, while draining.
const DRAIN_TICK: Duration = Duration::from_millis(10);

/// After how many ticks of idleness a connection gives its buffers back.
const PARK_TICKS: u64 = 20;

/// Connections that the kernel may hold until they are accepted.
const BACKLOG: u32 = 4096;

/// Files the process keeps open beside connections, roughly.
const OTHER_FILES: u64 = 256;

/// A program cannot listen where it should.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} (the setting `{setting}`): {}", explain(source))]
pub struct BindError {
    /// Where.
    pub address: Address,
    /// The setting that says so.
    pub setting: &'static str,
    /// Why.
    pub source: io::Error,
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the address is in use by another process".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; ports below 1024 need a privilege".to_owned(),
        _ => error.to_string(),
    }
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// The address it is bound to; tells the port where the setting says 0.
    #[must_use]
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }
}

/// Binds the address of `setting`, so that a port in use is known before anything else starts.
pub async fn bind(address: &Address, setting: &'static str) -> Result<Listener, BindError> {
    let wrong = |source| BindError { address: address.clone(), setting, source };
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for socket_address in address.resolve().await.map_err(wrong)? {
        match listen(socket_address) {
            Ok(listener) => {
                let local = listener.local_addr().map_err(wrong)?;
                return Ok(Listener { listener, local });
            }
            Err(error) => failure = error,
        }
    }
    Err(wrong(failure))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Lets a restarted program bind while old connections linger in the kernel; never beside a living listener.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The server's own metrics.
#[derive(Clone)]
pub struct ServerMetrics {
    connections: prometheus::IntGauge,
    pub(super) parked: prometheus::IntGauge,
    ended: Counters,
}

/// Why the server ended a connection; the index of the counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ended {
    IdleTooLong,
    HeadTooSlow,
    ReplyNotTaken,
    MadeRoom,
    NoRoom,
    Drained,
}

impl Ended {
    const NAMES: [&str; 6] = ["idle", "head_timeout", "write_timeout", "made_room", "no_room", "drained"];
}

impl ServerMetrics {
    /// Creates the metrics and registers them.
    pub fn register(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let series: Vec<_> = Ended::NAMES.iter().map(|name| vec![*name]).collect();
        let metrics = Self {
            connections: prometheus::IntGauge::new("scatter_http_connections", "Open HTTP connections.")?,
            parked: prometheus::IntGauge::new(
                "scatter_http_connections_parked",
                "Idle HTTP connections that gave their buffers back after some time.",
            )?,
            ended: Counters::new(
                "scatter_http_connections_ended_total",
                "HTTP connections that the server ended, by reason.",
                &["reason"],
                &series,
            )?,
        };
        registry.register(Box::new(metrics.connections.clone()))?;
        registry.register(Box::new(metrics.parked.clone()))?;
        registry.register(Box::new(metrics.ended.clone()))?;
        Ok(metrics)
    }
}

/// What all connections of a server share.
pub(super) struct Shared {
    pub(super) settings: HttpSettings,
    started: Instant,
    tick: AtomicU64,
    draining: AtomicBool,
    connections: Mutex<Connections>,
    pub(super) metrics: ServerMetrics,
}

#[derive(Default)]
struct Connections {
    open: HashMap<u64, Open>,
    next: u64,
}

struct Open {
    watch: Arc<Watch>,
    task: AbortHandle,
}

impl Shared {
    /// Ticks since the server started. Read from memory: far cheaper than a clock.
    pub(super) fn tick(&self) -> u64 {
        self.tick.load(Ordering::Relaxed)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn open(&self) -> usize {
        self.connections.lock().open.len()
    }

    fn end(&self, open: &Open, reason: Ended) {
        open.task.abort();
        self.metrics.ended.raise(reason as usize);
    }

    /// Ends connections that take too long and has idle ones give buffers back.
    fn sweep(&self) {
        let tick = self.started.elapsed().as_millis() / TICK.as_millis();
        let tick = u64::try_from(tick).unwrap_or(u64::MAX);
        self.tick.store(tick, Ordering::Relaxed);
        let ticks = |ms: u64| ms.div_ceil(TICK.as_millis() as u64);
        let settings = &self.settings;
        let draining = self.is_draining();
        for open in self.connections.lock().open.values() {
            if open
                .watch
                .blocked_since()
                .is_some_and(|since| tick.saturating_sub(since) > ticks(settings.write_idle_ms))
            {
                self.end(open, Ended::ReplyNotTaken);
                continue;
            }
            let (phase, since) = open.watch.phase();
            let spent = tick.saturating_sub(since);
            match phase {
                Phase::Idle if open.watch.blocked_since().is_some() => {}
                Phase::Idle if draining => self.end(open, Ended::Drained),
                Phase::Idle if spent > ticks(settings.keep_alive_idle_ms) => self.end(open, Ended::IdleTooLong),
                Phase::Idle if spent > PARK_TICKS => open.watch.ask_to_park(),
                Phase::Head if spent > ticks(settings.header_read_ms) => self.end(open, Ended::HeadTooSlow),
                Phase::Idle | Phase::Head | Phase::Busy | Phase::Answered => {}
            }
        }
    }

    /// Ends the connection that has been idle for longest, if any is.
    fn make_room(&self) -> bool {
        let connections = self.connections.lock();
        let idle = connections.open.values().filter_map(|open| match open.watch.phase() {
            (Phase::Idle, since) => Some((since, open)),
            (Phase::Head | Phase::Busy | Phase::Answered, _) => None,
        });
        match idle.min_by_key(|(since, _)| *since) {
            Some((_, open)) => {
                self.end(open, Ended::MadeRoom);
                true
            }
            None => false,
        }
    }
}

/// Takes a connection off the list however its task ends.
struct Listed {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.connections.lock().open.remove(&self.id);
        self.shared.metrics.connections.dec();
    }
}

/// Serves `handler` on `listener` until `shutdown` is requested and requests under way are answered, or until
/// `http.drain_ms` are over.
pub async fn serve<H: Handler>(
    listener: Listener,
    settings: &HttpSettings,
    metrics: ServerMetrics,
    handler: Arc<H>,
    shutdown: Shutdown,
) {
    allow_open_files(settings.maximum_connections);
    let shared = Arc::new(Shared {
        settings: settings.clone(),
        started: Instant::now(),
        tick: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        connections: Mutex::default(),
        metrics,
    });
    tracing::info!(address = %listener.local, "serving HTTP");
    let mut sweep = tokio::time::interval(TICK);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let sweeps = async {
        loop {
            sweep.tick().await;
            shared.sweep();
        }
    };
    tokio::select! {
        () = accept(&listener.listener, &shared, &handler) => {}
        () = sweeps => {}
        () = shutdown.requested() => {}
    }
    // No new connections: they are refused from here on and go to another instance.
    drop(listener);
    drain(&shared).await;
}

async fn accept<H: Handler>(listener: &TcpListener, shared: &Arc<Shared>, handler: &Arc<H>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => admit(stream, shared, handler),
            // One client went away before its turn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of files or memory: room comes only with time.
                let made_room = shared.make_room();
                tracing::warn!(%error, made_room, "cannot accept a connection");
                tokio::time::sleep(TICK).await;
            }
        }
    }
}

/// What a connection hears for which there is no room.
fn no_room() -> Vec<u8> {
    let detail = "all connections are busy (`http.maximum_connections`)";
    let body = Problem::new(Kind::Overloaded, detail).with_outcome(WriteOutcome::NotApplied).document();
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\nretry-after: 1\r\ncontent-type: {}\r\n\
         content-length: {}\r\n\r\n",
        problem::MEDIA_TYPE,
        body.len()
    );
    [head.into_bytes(), body].concat()
}

fn admit<H: Handler>(stream: TcpStream, shared: &Arc<Shared>, handler: &Arc<H>) {
    if shared.open() >= shared.settings.maximum_connections && !shared.make_room() {
        // As much as the fresh socket's buffer takes, which is all of it.
        let _ = stream.try_write(&no_room());
        shared.metrics.ended.raise(Ended::NoRoom as usize);
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection is gone before its first request");
        return;
    }
    let watch = Arc::new(Watch::default());
    watch.enter(Phase::Idle, shared.tick());
    let mut connections = shared.connections.lock();
    let id = connections.next;
    connections.next += 1;
    let listed = Listed { shared: Arc::clone(shared), id };
    let run = connection::run(stream, Arc::clone(&watch), Arc::clone(shared), Arc::clone(handler));
    let task = tokio::spawn(async move {
        let _listed = listed;
        run.await;
    });
    connections.open.insert(id, Open { watch, task: task.abort_handle() });
    shared.metrics.connections.inc();
}

/// Lets requests under way end, idle connections at once, the rest when time is over.
async fn drain(shared: &Shared) {
    shared.draining.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_millis(shared.settings.drain_ms);
    loop {
        shared.sweep();
        let open = shared.open();
        if open == 0 {
            tracing::info!("drained");
            return;
        }
        if Instant::now() >= deadline {
            tracing::warn!(connections = open, "the drain is over with requests under way");
            for open in shared.connections.lock().open.values() {
                open.task.abort();
            }
            return;
        }
        tokio::time::sleep(DRAIN_TICK).await;
    }
}

/// Raises the process's limit on open files as far as it may, and says so if that is too little.
fn allow_open_files(connections: usize) {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) if limit < connections as u64 + OTHER_FILES => tracing::warn!(
            limit,
            connections,
            "the process may open fewer files than `http.maximum_connections` needs; raise its limit (ulimit -n)"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
}
