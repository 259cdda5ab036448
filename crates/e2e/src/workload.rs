//! Clients that write and read while a test does harm, and the check of what they were told.

use crate::http::{Failed, Reply, Request, Sent};
use crate::wait;
use scatter_sim::history::{Change, End, Guard, KeyIndex, Operation, Request as Asked, Response, Time, ValueId};
use scatter_sim::linearizability;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Keys that all clients write and read.
const SHARED_KEYS: u32 = 6;
/// A client's pause after each operation: what is looked for is order, not load.
const PACE: Duration = Duration::from_millis(2);
/// How long a request may take, by its own word.
const TIMEOUT: &str = "Request-Timeout: 3s";

/// What clients asked and heard. Each write has a value of its own; keys from `SHARED_KEYS` on are written once.
#[derive(Debug)]
pub struct Recorder {
    began: Instant,
    next: AtomicU64,
    acknowledged: AtomicU64,
    found: AtomicU64,
    failed: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

/// A read under way.
#[derive(Debug)]
pub struct Read {
    client: u32,
    key: KeyIndex,
    invoked: Time,
    sent: Sent,
}

impl Default for Recorder {
    fn default() -> Self {
        let (next, acknowledged, found, failed) = Default::default();
        Self { began: Instant::now(), next, acknowledged, found, failed, operations: Mutex::default() }
    }
}

impl Recorder {
    fn now(&self) -> Time {
        u64::try_from(self.began.elapsed().as_nanos()).expect("not that late")
    }

    fn note(&self, operation: Operation) {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }

    fn history(&self) -> Vec<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a value of its own. Returns whether it was acknowledged.
    ///
    /// # Panics
    /// If the reply makes no sense.
    pub fn put(&self, client: u32, to: SocketAddr, key: KeyIndex) -> bool {
        let value = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (path, body) = (path(key), value.to_string());
        let invoked = self.now();
        let result = Request::new("PUT", &path).with_headers(&[TIMEOUT]).with_body(body.as_bytes()).ask(to);
        let at = self.now();
        let end = match &result {
            Ok(reply) if matches!(reply.status, 200 | 201) => {
                let version = reply.version().unwrap_or_else(|| panic!("no version in {reply:?}"));
                End::Answered(at, Response::Written { version, created: reply.status == 201 })
            }
            Ok(reply) if reply.is_not_applied() => End::NotApplied,
            Ok(reply) => {
                assert!(reply.status >= 500, "a good write met {}: {}", reply.status, reply.text());
                End::Unknown
            }
            Err(Failed::NotSent(_)) => End::NotApplied,
            Err(Failed::Lost(_)) => End::Unknown,
        };
        let acknowledged = matches!(end, End::Answered(..));
        let request = Asked::Single(key, Guard::Always, Change::Put { value, expires: false });
        self.note(Operation { client, invoked, request, end });
        let count = if acknowledged { &self.acknowledged } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        if let (false, Ok(reply)) = (acknowledged, &result) {
            eprintln!("{} through {to}: {} {}", path, reply.status, reply.text());
        }
        acknowledged
    }

    /// Writes a key that nobody else writes.
    pub fn put_once(&self, client: u32, to: SocketAddr) -> bool {
        let fresh = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.put(client, to, SHARED_KEYS + KeyIndex::try_from(fresh).expect("not that many"))
    }

    /// Asks for a key and does not wait for the answer. `None` if nobody listens.
    #[must_use]
    pub fn send_get(&self, client: u32, from: SocketAddr, key: KeyIndex) -> Option<Read> {
        let invoked = self.now();
        let sent = Request::new("GET", &path(key)).with_headers(&[TIMEOUT]).send(from).ok()?;
        Some(Read { client, key, invoked, sent })
    }

    /// Waits for the answer. Returns whether it was one.
    ///
    /// # Panics
    /// If the answer makes no sense.
    pub fn finish_get(&self, read: Read) -> bool {
        let Ok(reply) = read.sent.reply() else { return false };
        let response = match reply.status {
            200 => found(&reply),
            404 => Response::Absent,
            _ => {
                assert!(reply.status >= 500, "a good read met {}: {}", reply.status, reply.text());
                return false;
            }
        };
        let end = End::Answered(self.now(), response);
        self.note(Operation { client: read.client, invoked: read.invoked, request: Asked::Read(read.key), end });
        self.found.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Reads a key. Returns whether there was an answer.
    pub fn get(&self, client: u32, from: SocketAddr, key: KeyIndex) -> bool {
        let answered = self.send_get(client, from, key).is_some_and(|read| self.finish_get(read));
        self.failed.fetch_add(u64::from(!answered), Ordering::Relaxed);
        answered
    }

    /// How many requests were refused, lost or too late.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Keys that all clients write and read.
    pub fn shared_keys() -> impl Iterator<Item = KeyIndex> {
        0..SHARED_KEYS
    }

    /// Reads everything through each of `addresses`, and checks that the whole history is one that a single store could have
    /// given, that no acknowledged write is gone and that none happened twice.
    ///
    /// # Panics
    /// If not.
    pub fn check(&self, addresses: &[SocketAddr]) {
        let client = u32::MAX;
        for key in Self::shared_keys() {
            for address in addresses {
                wait::until_true(&format!("{} is readable", path(key)), || self.get(client, *address, key));
            }
        }
        let once: Vec<(KeyIndex, ValueId)> = self.history().iter().filter_map(written_once).collect();
        for (number, (key, value)) in once.iter().enumerate() {
            let address = addresses[number % addresses.len()];
            wait::until_true(&format!("{} is readable", path(*key)), || self.get(client, address, *key));
            let last = self.history().pop().expect("the read");
            let is_there = matches!(last.response(), Some(Response::Value { value: found, .. }) if found == value);
            assert!(is_there, "the acknowledged write of {value} to {} is gone: {last}", path(*key));
        }
        let history = self.history();
        let unknown = history.iter().filter(|operation| operation.end == End::Unknown).count();
        eprintln!("{} operations, {} keys written once, {unknown} outcomes unknown", history.len(), once.len());
        if let Err(violation) = linearizability::check(&history) {
            panic!("the history is not linearizable: {violation}");
        }
    }
}

fn found(reply: &Reply) -> Response {
    let value = reply.text().parse().unwrap_or_else(|_| panic!("a value that nobody wrote: {reply:?}"));
    Response::Value { version: reply.version().unwrap_or_else(|| panic!("no version in {reply:?}")), value }
}

/// The key and value of an acknowledged write to a key of its own.
fn written_once(operation: &Operation) -> Option<(KeyIndex, ValueId)> {
    match (&operation.request, &operation.end) {
        (Asked::Single(key, _, Change::Put { value, .. }), End::Answered(..)) if *key >= SHARED_KEYS => {
            Some((*key, *value))
        }
        _ => None,
    }
}

fn path(key: KeyIndex) -> String {
    format!("/v1/kv/key-{key}")
}

/// Clients on threads of their own.
#[derive(Debug)]
pub struct Workload {
    /// What they ask and hear.
    pub recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts `clients` of them, who take turns with the addresses.
    #[must_use]
    pub fn start(clients: u32, addresses: &[SocketAddr]) -> Self {
        let (recorder, stop) = (Arc::<Recorder>::default(), Arc::<AtomicBool>::default());
        let threads = (0..clients)
            .map(|client| {
                let (recorder, stop, addresses) = (Arc::clone(&recorder), Arc::clone(&stop), addresses.to_vec());
                std::thread::spawn(move || run(client, &recorder, &stop, &addresses))
            })
            .collect();
        Self { recorder, stop, threads }
    }

    /// Waits until `count` more writes are acknowledged and as many more reads answered.
    ///
    /// # Panics
    /// If that never happens.
    pub fn wait_progress(&self, count: u64) {
        let figures =
            || (self.recorder.acknowledged.load(Ordering::Relaxed), self.recorder.found.load(Ordering::Relaxed));
        let (writes, reads) = figures();
        wait::until_true("writes and reads go on", || {
            let (writes_by_now, reads_by_now) = figures();
            self.threads.iter().all(|thread| !thread.is_finished())
                && writes_by_now >= writes + count
                && reads_by_now >= reads + count
        });
    }

    /// Ends the clients and checks what they were told; see [`Recorder::check`].
    ///
    /// # Panics
    /// If a client met nonsense, or the check fails.
    pub fn finish(mut self, addresses: &[SocketAddr]) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client that met nothing odd");
        }
        self.recorder.check(addresses);
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn run(client: u32, recorder: &Recorder, stop: &AtomicBool, addresses: &[SocketAddr]) {
    let mut turn = client;
    while !stop.load(Ordering::Relaxed) {
        let address = addresses[turn as usize % addresses.len()];
        let key = turn / 3 % SHARED_KEYS;
        match turn % 5 {
            0 | 2 => drop(recorder.put(client, address, key)),
            1 | 3 => drop(recorder.get(client, address, key)),
            _ => drop(recorder.put_once(client, address)),
        }
        // A step that shares no factor with the number of kinds or of addresses: every kind meets every address.
        turn = turn.wrapping_add(7);
        std::thread::sleep(PACE);
    }
}
