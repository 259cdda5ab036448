//! The log's thread: takes batches of writes, appends all that wait, syncs once, and says how far the disk has come.
//!
//! ```text
//!   loop ── submit(id, writes) ──▶ bounded queue ──▶ append, append, …, sync ──▶ tell(Synced(id)) ── tidy
//! ```
//!
//! Whoever submits never waits for the disk: a full queue is an answer. While one sync is under way the next batches
//! gather, across all groups, and share the one after it.

use super::log::{Log, LogError, Space};
use parking_lot::{Condvar, Mutex};
use scatter_core::durable::Write;
use scatter_core::types::WriteId;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the log's thread tells.
#[derive(Debug)]
pub enum LogEvent {
    /// Everything up to and including this batch is on disk.
    Synced(WriteId),
    /// The room for appending has changed. Below [`Space::Enough`] clients' writes are to be refused; batches already
    /// submitted are kept until there is room.
    Space(Space),
    /// The log cannot go on: the process must end. The last event.
    Failed(LogError),
}

/// Sees how long the disk takes.
pub trait LogObserver: Send + 'static {
    /// So many batches were appended in this time.
    fn appended(&self, _batches: usize, _elapsed: Duration) {}
    /// A sync took this time.
    fn synced(&self, _elapsed: Duration) {}
}

impl LogObserver for () {}

/// Limits of the log's thread.
#[derive(Clone, Copy, Debug)]
pub struct LogThreadSettings {
    /// The most batches that wait.
    pub most_batches: usize,
    /// The most bytes of entries that wait. One batch is taken whatever it measures.
    pub most_bytes: usize,
    /// The most bytes of entries in one sync, so that no batch waits for the whole queue's.
    pub sync_bytes: usize,
    /// After this long without a batch the log is told to settle.
    pub settle_after: Duration,
    /// How often a log without room is asked again.
    pub retry_after: Duration,
}

impl Default for LogThreadSettings {
    fn default() -> Self {
        Self {
            most_batches: 4096,
            most_bytes: 64 << 20,
            sync_bytes: 8 << 20,
            settle_after: Duration::from_millis(100),
            retry_after: Duration::from_millis(100),
        }
    }
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too much waits already. The batch comes back; submit it again, before any other, after the next event.
    #[error("the log's queue is full")]
    Full(Vec<Write>),
    /// The thread has ended; an event has told why.
    #[error("the log has stopped")]
    Stopped,
}

#[derive(Debug)]
struct Waiting {
    id: WriteId,
    writes: Vec<Write>,
    bytes: usize,
    may_use_reserve: bool,
}

#[derive(Debug)]
struct Queue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    stopping: bool,
    stopped: bool,
    space: Space,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    settings: LogThreadSettings,
}

/// Hands batches to the log's thread. Dropping it syncs what waits and ends the thread.
#[derive(Debug)]
pub struct LogHandle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LogHandle {
    /// Starts the thread. `tell` is called on it, and must not block: until it returns nothing is synced.
    pub fn start<L: Log, O: LogObserver>(
        log: L,
        settings: LogThreadSettings,
        observer: O,
        tell: impl FnMut(LogEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let queue = Queue { waiting: VecDeque::new(), bytes: 0, stopping: false, stopped: false, space: log.space() };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), changed: Condvar::new(), settings });
        let worker = Worker {
            log,
            observer,
            tell,
            shared: shared.clone(),
            batches: VecDeque::new(),
            reserved: 0,
            blocked: false,
            settled: true,
        };
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || worker.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Hands over a batch; ids rise. With `may_use_reserve` it goes through on a full disk, and so does every batch
    /// before it: for structural entries, truncations and tombstones.
    pub fn submit(&self, id: WriteId, writes: Vec<Write>, may_use_reserve: bool) -> Result<(), SubmitError> {
        let bytes = weight(&writes);
        let settings = &self.shared.settings;
        let mut queue = self.shared.queue.lock();
        if queue.stopped || queue.stopping {
            return Err(SubmitError::Stopped);
        }
        let over = queue.waiting.len() >= settings.most_batches || queue.bytes + bytes > settings.most_bytes;
        if over && !queue.waiting.is_empty() {
            return Err(SubmitError::Full(writes));
        }
        queue.bytes += bytes;
        queue.waiting.push_back(Waiting { id, writes, bytes, may_use_reserve });
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// How much room the log has.
    #[must_use]
    pub fn space(&self) -> Space {
        self.shared.queue.lock().space
    }

    /// Batches that wait, and bytes of entries in them.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.shared.queue.lock();
        (queue.waiting.len(), queue.bytes)
    }

    /// Syncs what waits and ends the thread.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.shared.queue.lock().stopping = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic on that thread has printed itself; the queue says that it has stopped.
            let _ = thread.join();
        }
    }
}

impl Drop for LogHandle {
    fn drop(&mut self) {
        self.join();
    }
}

/// Says that the thread has ended, however it ended.
struct StoppedOnDrop(Arc<Shared>);

impl Drop for StoppedOnDrop {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.stopped = true;
        queue.waiting.clear();
    }
}

/// What woke the thread.
enum Woken {
    Work,
    Quiet,
    Stop,
}

struct Worker<L, O, T> {
    log: L,
    observer: O,
    tell: T,
    shared: Arc<Shared>,
    /// Taken from the queue, not yet appended.
    batches: VecDeque<Waiting>,
    /// How many of those may use the reserve.
    reserved: usize,
    /// The log had no room for the first of them.
    blocked: bool,
    settled: bool,
}

impl<L: Log, O: LogObserver, T: FnMut(LogEvent)> Worker<L, O, T> {
    fn run(mut self) {
        let _stopped = StoppedOnDrop(self.shared.clone());
        if let Err(error) = self.serve() {
            (self.tell)(LogEvent::Failed(error));
        }
    }

    fn serve(&mut self) -> Result<(), LogError> {
        loop {
            match self.wait() {
                Woken::Stop => return self.log.settle(),
                Woken::Quiet => {
                    if !self.settled {
                        self.log.settle()?;
                        self.settled = true;
                    }
                }
                Woken::Work => {
                    self.settled = false;
                    if let Some(id) = self.append()? {
                        let started = Instant::now();
                        self.log.sync()?;
                        self.observer.synced(started.elapsed());
                        (self.tell)(LogEvent::Synced(id));
                    }
                }
            }
            self.log.tidy()?;
            self.publish_space();
        }
    }

    /// Waits for batches and takes them, as many as one sync shall carry.
    fn wait(&mut self) -> Woken {
        let settings = self.shared.settings;
        let mut queue = self.shared.queue.lock();
        while queue.waiting.is_empty() && (self.blocked || self.batches.is_empty()) {
            if queue.stopping {
                return Woken::Stop;
            }
            let patience = if self.blocked || queue.space != Space::Enough {
                settings.retry_after
            } else if self.settled {
                self.shared.changed.wait(&mut queue);
                continue;
            } else {
                settings.settle_after
            };
            if self.shared.changed.wait_for(&mut queue, patience).timed_out() {
                return if self.blocked { Woken::Work } else { Woken::Quiet };
            }
        }
        let mut bytes: usize = self.batches.iter().map(|batch| batch.bytes).sum();
        while bytes < settings.sync_bytes
            && let Some(batch) = queue.waiting.pop_front()
        {
            bytes += batch.bytes;
            queue.bytes -= batch.bytes;
            self.reserved += usize::from(batch.may_use_reserve);
            self.batches.push_back(batch);
        }
        Woken::Work
    }

    /// Appends what was taken, in order, as far as there is room. Returns the last batch appended.
    fn append(&mut self) -> Result<Option<WriteId>, LogError> {
        let started = Instant::now();
        let (mut last, mut appended) = (None, 0);
        self.blocked = false;
        while let Some(batch) = self.batches.front() {
            // Order is part of the promise, so what stands before a batch with a right to the reserve shares it.
            let result = if self.reserved > 0 {
                self.log.append_reserved(&batch.writes)
            } else {
                self.log.append(&batch.writes)
            };
            match result {
                Ok(()) => {}
                Err(LogError::NoSpace) => {
                    self.blocked = true;
                    break;
                }
                Err(error) => return Err(error),
            }
            last = Some(batch.id);
            appended += 1;
            self.reserved -= usize::from(batch.may_use_reserve);
            self.batches.pop_front();
        }
        self.observer.appended(appended, started.elapsed());
        Ok(last)
    }

    fn publish_space(&mut self) {
        let space = if self.blocked { Space::Full } else { self.log.space() };
        let before = std::mem::replace(&mut self.shared.queue.lock().space, space);
        if before != space {
            (self.tell)(LogEvent::Space(space));
        }
    }
}

fn weight(writes: &[Write]) -> usize {
    let of = |write: &Write| match write {
        Write::Accept { entries, .. } => entries.iter().map(scatter_core::entry::Entry::weight).sum(),
        Write::Node { .. }
        | Write::Peer { .. }
        | Write::Create { .. }
        | Write::Hard { .. }
        | Write::Truncate { .. }
        | Write::Tombstone { .. } => 64,
    };
    writes.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use scatter_core::durable::PeerRecord;
    use scatter_core::types::NodeId;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// What the thread did to the log.
    #[derive(Debug, PartialEq, Eq)]
    enum Call {
        Append(u64),
        Reserved(u64),
        Sync,
        Settle,
    }

    /// A log that tells each call and whose syncs wait for an answer.
    struct Scripted {
        calls: Sender<Call>,
        syncs: Receiver<Result<(), LogError>>,
        has_room: Arc<Mutex<bool>>,
    }

    impl Log for Scripted {
        fn append(&mut self, writes: &[Write]) -> Result<(), LogError> {
            if !*self.has_room.lock() {
                return Err(LogError::NoSpace);
            }
            self.calls.send(Call::Append(mark_of(writes))).unwrap();
            Ok(())
        }

        fn append_reserved(&mut self, writes: &[Write]) -> Result<(), LogError> {
            self.calls.send(Call::Reserved(mark_of(writes))).unwrap();
            Ok(())
        }

        fn sync(&mut self) -> Result<(), LogError> {
            self.calls.send(Call::Sync).unwrap();
            self.syncs.recv().unwrap_or(Ok(()))
        }

        fn settle(&mut self) -> Result<(), LogError> {
            self.calls.send(Call::Settle).unwrap();
            Ok(())
        }
    }

    struct Scene {
        /// Dropped first: a sync that still waits then succeeds, and the handle can join the thread.
        sync: Sender<Result<(), LogError>>,
        handle: LogHandle,
        calls: Receiver<Call>,
        events: Receiver<LogEvent>,
        has_room: Arc<Mutex<bool>>,
    }

    fn scene(settings: LogThreadSettings) -> Scene {
        let (calls_in, calls) = channel();
        let (sync, syncs) = channel();
        let (events_in, events) = channel();
        let has_room = Arc::new(Mutex::new(true));
        let log = Scripted { calls: calls_in, syncs, has_room: has_room.clone() };
        let handle = LogHandle::start(log, settings, (), move |event| drop(events_in.send(event))).unwrap();
        Scene { sync, handle, calls, events, has_room }
    }

    /// Long enough that no test meets it.
    fn patient() -> LogThreadSettings {
        LogThreadSettings { settle_after: Duration::from_secs(3600), ..LogThreadSettings::default() }
    }

    fn batch(number: u64) -> Vec<Write> {
        vec![Write::Peer { record: PeerRecord { node: NodeId(number), boot: 0, nonce: 0, condemned: false } }]
    }

    fn mark_of(writes: &[Write]) -> u64 {
        match writes {
            [Write::Peer { record }] => record.node.0,
            other => panic!("{other:?}"),
        }
    }

    impl Scene {
        fn submit(&self, number: u64, may_use_reserve: bool) -> Result<(), SubmitError> {
            self.handle.submit(WriteId(number), batch(number), may_use_reserve)
        }

        fn expect(&self, calls: &[Call]) {
            for call in calls {
                assert_eq!(&self.calls.recv().unwrap(), call);
            }
        }

        fn synced(&self) -> u64 {
            match self.events.recv().unwrap() {
                LogEvent::Synced(id) => id.0,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_gathers_during_a_sync_shares_the_next() {
        let scene = scene(patient());
        scene.submit(1, false).unwrap();
        scene.expect(&[Call::Append(1), Call::Sync]);
        for number in 2..5 {
            scene.submit(number, false).unwrap();
        }
        scene.sync.send(Ok(())).unwrap();
        assert_eq!(scene.synced(), 1);
        scene.expect(&[Call::Append(2), Call::Append(3), Call::Append(4), Call::Sync]);
        scene.sync.send(Ok(())).unwrap();
        assert_eq!(scene.synced(), 4);
    }

    #[test]
    fn a_full_queue_gives_the_batch_back_and_takes_it_later() {
        let scene = scene(LogThreadSettings { most_batches: 2, ..patient() });
        scene.submit(1, false).unwrap();
        scene.expect(&[Call::Append(1), Call::Sync]);
        scene.submit(2, false).unwrap();
        scene.submit(3, false).unwrap();
        match scene.submit(4, false) {
            Err(SubmitError::Full(writes)) => assert_eq!(mark_of(&writes), 4),
            other => panic!("{other:?}"),
        }
        scene.sync.send(Ok(())).unwrap();
        assert_eq!(scene.synced(), 1);
        scene.expect(&[Call::Append(2), Call::Append(3), Call::Sync]);
        scene.submit(4, false).unwrap();
    }

    #[test]
    fn a_failed_sync_is_the_last_event() {
        let scene = scene(patient());
        scene.submit(1, false).unwrap();
        scene.sync.send(Err(LogError::Failed("broken".to_owned()))).unwrap();
        assert!(matches!(scene.events.recv(), Ok(LogEvent::Failed(LogError::Failed(_)))));
        assert!(scene.events.recv().is_err(), "the thread has gone");
        assert!(matches!(scene.submit(2, false), Err(SubmitError::Stopped)));
    }

    #[test]
    fn a_batch_without_room_waits_in_order_until_there_is_some() {
        let scene = scene(LogThreadSettings { retry_after: Duration::from_millis(1), ..patient() });
        *scene.has_room.lock() = false;
        scene.submit(1, false).unwrap();
        assert!(matches!(scene.events.recv(), Ok(LogEvent::Space(Space::Full))));
        assert_eq!(scene.handle.space(), Space::Full);
        // One with a right to the reserve takes what stands before it along.
        scene.submit(2, true).unwrap();
        scene.expect(&[Call::Reserved(1), Call::Reserved(2), Call::Sync]);
        scene.sync.send(Ok(())).unwrap();
        assert_eq!(scene.synced(), 2);
        assert!(matches!(scene.events.recv(), Ok(LogEvent::Space(Space::Enough))));
        scene.submit(3, false).unwrap();
        assert!(matches!(scene.events.recv(), Ok(LogEvent::Space(Space::Full))));
        *scene.has_room.lock() = true;
        scene.expect(&[Call::Append(3), Call::Sync]);
        scene.sync.send(Ok(())).unwrap();
        assert_eq!(scene.synced(), 3);
        assert!(matches!(scene.events.recv(), Ok(LogEvent::Space(Space::Enough))));
    }

    #[test]
    fn a_quiet_log_is_settled_once() {
        let scene = scene(LogThreadSettings { settle_after: Duration::from_millis(1), ..patient() });
        scene.submit(1, false).unwrap();
        scene.sync.send(Ok(())).unwrap();
        scene.expect(&[Call::Append(1), Call::Sync, Call::Settle]);
        scene.submit(2, false).unwrap();
        scene.sync.send(Ok(())).unwrap();
        scene.expect(&[Call::Append(2), Call::Sync, Call::Settle]);
    }

    #[test]
    fn stopping_syncs_what_waits() {
        let scene = scene(patient());
        scene.submit(1, false).unwrap();
        scene.expect(&[Call::Append(1), Call::Sync]);
        scene.submit(2, false).unwrap();
        scene.sync.send(Ok(())).unwrap();
        scene.sync.send(Ok(())).unwrap();
        scene.handle.stop();
        let seen: Vec<Call> = scene.calls.iter().collect();
        assert_eq!(seen, [Call::Append(2), Call::Sync, Call::Settle]);
        assert!(matches!(scene.events.iter().last(), Some(LogEvent::Synced(WriteId(2)))));
    }
}
