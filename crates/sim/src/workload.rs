//! The clients: workers that each own a lane of a session and do one operation after the other, repeating it under the
//! same sequence until they know, or until patience ends.
//!
//! What a worker may say in the end follows from its attempts. An attempt is *open* from when it is sent until it is
//! answered; one that was lost, or that a leader lost, stays open for ever. Only if no attempt is open may a refusal be
//! told as *not applied*.

use crate::history::{Change, End, Guard, KeyIndex, Operation, Request, Response, Time, ValueId};
use crate::linearizability::Applied;
use crate::plan::{MILLISECOND, Plan};
use crate::random::Random;
use bytes::{BufMut, Bytes, BytesMut};
use scatter_core::codec::{Decode, Encode};
use scatter_core::command::{Command, Condition, Found, Idempotency, LaneUse, Operation as Asked, Outcome, Write};
use scatter_core::effects::Refused;
use scatter_core::entry::Entry;
use scatter_core::planted::{self, Bug};
use scatter_core::ring::Key;
use scatter_core::types::{SessionId, Version};
use std::collections::{BTreeMap, BTreeSet};

/// What a client sends to a node.
#[derive(Clone, Debug)]
pub enum ClientRequest {
    /// Decide and apply this command.
    Write {
        /// The command, encoded.
        command: Bytes,
    },
    /// Read a key.
    Read {
        /// The key.
        key: Key,
        /// Whether any state will do.
        stale: bool,
    },
}

/// What a node answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// What became of a write.
    Outcome(Outcome),
    /// What a read found.
    Found(Option<Found>),
    /// Nothing was and nothing will be done.
    Refused(Refused),
    /// A write may or may not be done.
    Lost,
}

/// An operation under way.
#[derive(Clone, Debug)]
struct Current {
    /// Its index in the history; `None` for a stale read.
    record: Option<usize>,
    key: KeyIndex,
    /// The write; `None` for a read.
    write: Option<(Asked, Option<Idempotency>)>,
    stale: bool,
    /// The session it began in: a repeat names the same.
    session: SessionId,
    stamp: Version,
    deadline: Time,
    /// The attempt that is not answered yet.
    attempt: Option<u64>,
    /// Attempts that ended without an answer.
    open: bool,
    attempts: u32,
}

/// One lane.
#[derive(Debug)]
struct Worker {
    session: usize,
    lane: u32,
    sequence: u64,
    current: Option<Current>,
    /// Wakes and time-outs with another number are outdated.
    token: u64,
    /// Keys of which a write was answered since the world healed.
    done: BTreeSet<KeyIndex>,
    /// The versions that stale reads saw, by key: they are checked for values only.
    finished: bool,
}

/// One session.
#[derive(Debug)]
struct Session {
    id: SessionId,
    /// The highest version heard of.
    held: Version,
    /// Who leads the owner of a key, as far as it heard.
    leaders: BTreeMap<KeyIndex, usize>,
}

/// A write that carries an idempotency key and may be repeated by anybody.
#[derive(Clone, Debug)]
struct Repeatable {
    record: usize,
    key: KeyIndex,
    write: Asked,
    idempotency: Idempotency,
}

/// What the world does for a worker.
#[derive(Clone, Debug)]
pub enum Act {
    /// Wake it at this time with this token.
    Wake(Time, u64),
    /// Send a request from a session to a host; the attempt's number pairs the answer.
    Send {
        /// Which session sends.
        session: usize,
        /// To which host.
        host: usize,
        /// The attempt.
        attempt: u64,
        /// What.
        request: ClientRequest,
    },
}

/// All clients, and what they have heard.
#[derive(Debug)]
pub struct Workload {
    random: Random,
    /// What was asked and heard.
    pub history: Vec<Operation>,
    /// What stale reads saw: (key, version, value).
    pub stale: Vec<Applied>,
    workers: Vec<Worker>,
    sessions: Vec<Session>,
    repeatable: Vec<Repeatable>,
    /// Records that somebody repeats or repeated: nobody alone can say that they were not applied.
    repeated: BTreeSet<usize>,
    /// An answer that no sound cluster gives.
    pub complaint: Option<String>,
    /// Every key is to be written by every session.
    chasing: bool,
    /// There is a group to talk to.
    pub begun: bool,
    hosts: usize,
    keys: u32,
    think: Time,
    patience: Time,
    attempt_patience: Time,
    value_bytes: usize,
    next_value: ValueId,
    next_attempt: u64,
    last_time: Time,
    /// No new operations begin.
    pub stopped: bool,
    /// Which versions may be worth a condition, per key.
    seen: BTreeMap<KeyIndex, u64>,
    mix: Mix,
}

/// How common each kind of operation is, in a thousand.
#[derive(Clone, Copy, Debug)]
struct Mix {
    reads: u32,
    stale: u32,
    batches: u32,
    deletes: u32,
    expiring: u32,
    idempotent: u32,
    conditions: u32,
    new_sessions: u32,
}

impl Workload {
    /// The clients of a plan.
    #[must_use]
    pub fn new(plan: &Plan, mut random: Random) -> Self {
        let sessions = (0..plan.sessions)
            .map(|_| Session { id: SessionId(u128::from(random.next())), held: Version(0), leaders: BTreeMap::new() })
            .collect();
        let workers = (0..plan.sessions * plan.lanes)
            .map(|index| Worker {
                session: index % plan.sessions,
                lane: (index / plan.sessions) as u32,
                sequence: 0,
                current: None,
                token: 0,
                done: BTreeSet::new(),
                finished: false,
            })
            .collect();
        let mix = Mix {
            reads: random.between(200, 700) as u32,
            stale: random.below(80) as u32,
            batches: if random.permille(500) { random.below(150) as u32 } else { 0 },
            deletes: random.below(250) as u32,
            expiring: if random.permille(500) { random.below(200) as u32 } else { 0 },
            idempotent: if random.permille(500) { random.below(200) as u32 } else { 0 },
            conditions: random.below(500) as u32,
            new_sessions: if random.permille(300) { random.below(40) as u32 } else { 0 },
        };
        Self {
            random,
            history: Vec::new(),
            stale: Vec::new(),
            workers,
            sessions,
            repeatable: Vec::new(),
            repeated: BTreeSet::new(),
            complaint: None,
            chasing: false,
            begun: false,
            hosts: plan.hosts,
            keys: plan.keys,
            think: plan.think,
            patience: plan.patience,
            attempt_patience: (plan.patience / 3).max(100 * MILLISECOND),
            value_bytes: plan.value_bytes,
            next_value: 1,
            next_attempt: 1,
            last_time: 0,
            stopped: false,
            seen: BTreeMap::new(),
            mix,
        }
    }

    /// How many workers there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// How many sessions there are: each is a place in the network.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The session of a worker.
    #[must_use]
    pub fn session_of(&self, worker: usize) -> usize {
        self.workers[worker].session
    }

    /// Begins to count who gets something done.
    pub fn reset_progress(&mut self) {
        for worker in &mut self.workers {
            worker.done.clear();
        }
        self.chasing = true;
    }

    /// Whether every session has had a write answered of one of `keys` since [`Workload::reset_progress`].
    #[must_use]
    pub fn has_progressed(&self, keys: &[KeyIndex]) -> bool {
        (0..self.sessions.len()).all(|session| {
            let workers = self.workers.iter().filter(|worker| worker.session == session);
            workers.flat_map(|worker| &worker.done).any(|done| keys.contains(done))
        })
    }

    /// Whether no operation is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.workers.iter().all(|worker| worker.current.is_none())
    }

    /// A time for the history: later than all given before.
    fn stamp_time(&mut self, now: Time) -> Time {
        self.last_time = now.max(self.last_time + 1);
        self.last_time
    }

    /// A worker wakes up.
    pub fn wake(&mut self, worker: usize, token: u64, now: Time) -> Vec<Act> {
        if self.workers[worker].token != token || self.workers[worker].finished {
            return Vec::new();
        }
        if self.workers[worker].current.is_none() {
            if self.stopped {
                return Vec::new();
            }
            self.begin(worker, now);
        } else if let Some(current) = &mut self.workers[worker].current
            && current.attempt.take().is_some()
        {
            // The attempt was not answered in time and never will be heard.
            current.open = true;
        }
        self.go_on(worker, now)
    }

    /// Sends the next attempt, or gives up.
    fn go_on(&mut self, worker: usize, now: Time) -> Vec<Act> {
        let Some(current) = &self.workers[worker].current else { return Vec::new() };
        if now >= current.deadline {
            return self.give_up(worker, now);
        }
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        let (session, key) = (self.workers[worker].session, current.key);
        let request = self.request_of(worker);
        let hint = self.sessions[session].leaders.get(&key).copied();
        let stray = self.random.permille(150);
        let host = hint.filter(|_| !stray).unwrap_or_else(|| self.random.index(self.hosts));
        let worker = &mut self.workers[worker];
        worker.token += 1;
        if let Some(current) = &mut worker.current {
            current.attempt = Some(attempt);
            current.attempts += 1;
        }
        vec![Act::Send { session, host, attempt, request }, Act::Wake(now + self.attempt_patience, worker.token)]
    }

    fn request_of(&self, worker: usize) -> ClientRequest {
        let lane = &self.workers[worker];
        let Some(current) = &lane.current else { unreachable!("only called with an operation under way") };
        match &current.write {
            None => ClientRequest::Read { key: key_of(current.key), stale: current.stale },
            Some((operation, idempotency)) => {
                let command = Command {
                    lane: Some(LaneUse {
                        session: current.session,
                        lane: lane.lane,
                        sequence: lane.sequence,
                        stamp: current.stamp,
                    }),
                    idempotency: idempotency.clone(),
                    operation: operation.clone(),
                };
                ClientRequest::Write { command: command.to_bytes() }
            }
        }
    }

    /// Patience has ended.
    fn give_up(&mut self, worker: usize, now: Time) -> Vec<Act> {
        if let Some(current) = self.workers[worker].current.take() {
            let applied_perhaps = current.open && !planted::on(Bug::NotAppliedAfterTimeout);
            if let Some(record) = current.record
                && !applied_perhaps
                && !self.repeated.contains(&record)
                && matches!(self.history[record].end, End::Unknown)
            {
                self.history[record].end = End::NotApplied;
            }
        }
        self.rest(worker, now)
    }

    fn rest(&mut self, worker: usize, now: Time) -> Vec<Act> {
        let pause = self.random.below(self.think + 1);
        let worker = &mut self.workers[worker];
        worker.token += 1;
        vec![Act::Wake(now + pause, worker.token)]
    }

    /// An answer has come. `leader` is the host that leads, if the answer told.
    pub fn answer(
        &mut self,
        worker: usize,
        attempt: u64,
        answer: Answer,
        leader: Option<usize>,
        now: Time,
    ) -> Vec<Act> {
        let session = self.workers[worker].session;
        let Some(current) = &mut self.workers[worker].current else { return Vec::new() };
        if current.attempt != Some(attempt) {
            return Vec::new();
        }
        current.attempt = None;
        let key = current.key;
        match answer {
            Answer::Refused(Refused::NotLeader { .. }) => {
                self.lead(session, key, leader);
                self.retry_soon(worker, now)
            }
            // No group owns all keys of the batch.
            Answer::Refused(Refused::Invalid(_)) => self.give_up(worker, now),
            Answer::Refused(_) | Answer::Outcome(Outcome::NotOwner) => {
                self.lead(session, key, None);
                self.retry_soon(worker, now)
            }
            Answer::Lost => {
                current.open = true;
                self.lead(session, key, None);
                self.retry_soon(worker, now)
            }
            Answer::Found(found) => self.read_done(worker, found, now),
            Answer::Outcome(outcome) => self.write_done(worker, outcome, now),
        }
    }

    fn lead(&mut self, session: usize, key: KeyIndex, leader: Option<usize>) {
        let leaders = &mut self.sessions[session].leaders;
        match leader {
            Some(leader) => leaders.insert(key, leader),
            None => leaders.remove(&key),
        };
    }

    fn retry_soon(&mut self, worker: usize, now: Time) -> Vec<Act> {
        let pause = self.random.between(2, 40) * MILLISECOND;
        let worker = &mut self.workers[worker];
        worker.token += 1;
        vec![Act::Wake(now + pause, worker.token)]
    }

    fn read_done(&mut self, worker: usize, found: Option<Found>, now: Time) -> Vec<Act> {
        let at = self.stamp_time(now);
        let Some(current) = self.workers[worker].current.take() else { return Vec::new() };
        let session = self.workers[worker].session;
        let response = match found {
            None => Response::Absent,
            Some(found) => {
                let value = value_of(&found.value);
                if current.stale {
                    self.stale.push((current.key, found.version.0, value));
                } else {
                    self.seen.insert(current.key, found.version.0);
                    self.hold(session, found.version);
                }
                Response::Value { version: found.version.0, value }
            }
        };
        if let Some(record) = current.record {
            self.history[record].end = End::Answered(at, response);
        }
        self.rest(worker, now)
    }

    fn hold(&mut self, session: usize, version: Version) {
        let held = &mut self.sessions[session].held;
        *held = (*held).max(version);
    }

    fn write_done(&mut self, worker: usize, outcome: Outcome, now: Time) -> Vec<Act> {
        let session = self.workers[worker].session;
        let Some(current) = &mut self.workers[worker].current else { return Vec::new() };
        let key = current.key;
        let response = match outcome.clone() {
            Outcome::Written { version, created } => {
                self.seen.insert(key, version.0);
                self.hold(session, version);
                Response::Written { version: version.0, created }
            }
            Outcome::Deleted { version } => {
                self.hold(session, version);
                Response::Deleted { version: version.0 }
            }
            Outcome::NotFound => Response::Absent,
            Outcome::BatchWritten { versions } => {
                Response::BatchWritten { versions: versions.into_iter().map(|version| version.0).collect() }
            }
            Outcome::ConditionFailed { index, current } => {
                if let Some(current) = current {
                    self.seen.insert(key, current.0);
                }
                Response::ConditionFailed { index, current: current.map(|version| version.0) }
            }
            Outcome::Forgotten { stamp } | Outcome::StampAhead { stamp } if !current.open => {
                current.stamp = stamp;
                return self.retry_soon(worker, now);
            }
            Outcome::Unknown | Outcome::Forgotten { .. } | Outcome::StampAhead { .. } => {
                current.open = true;
                return self.give_up(worker, now);
            }
            // The workload never uses an idempotency key for two things, and its commands are sound.
            Outcome::IdempotencyMismatch | Outcome::NotOwner | Outcome::Malformed => {
                self.complaint = Some(format!("a sound command was answered with {outcome:?}: {:?}", current.write));
                current.open = false;
                return self.give_up(worker, now);
            }
        };
        let at = self.stamp_time(now);
        self.workers[worker].done.insert(key);
        if let Some(record) = self.workers[worker].current.take().and_then(|current| current.record) {
            match &self.history[record].end {
                // A repeat by another worker heard of an operation that was answered before: it must be the same answer.
                End::Answered(_, known) if *known != response => {
                    let first = &self.history[record];
                    self.complaint = Some(format!("a repeat by another client heard {response:?}: {first}"));
                }
                End::Answered(..) => {}
                End::Unknown | End::NotApplied => self.history[record].end = End::Answered(at, response),
            }
        }
        self.rest(worker, now)
    }

    /// Draws a new operation.
    fn begin(&mut self, worker: usize, now: Time) {
        if self.random.permille(self.mix.new_sessions) {
            let session = self.workers[worker].session;
            self.sessions[session].id = SessionId(u128::from(self.random.next()));
            self.sessions[session].held = Version(0);
        }
        let key = self.any_key();
        if self.chasing && self.random.permille(500) {
            let session = self.workers[worker].session;
            let done = |key: &KeyIndex| {
                self.workers.iter().any(|worker| worker.session == session && worker.done.contains(key))
            };
            let missing: Vec<KeyIndex> = self.all_keys().filter(|key| !done(key)).collect();
            if !missing.is_empty() {
                let key = *self.random.pick(&missing);
                return self.begin_write(worker, key, now);
            }
        }
        if self.random.permille(self.mix.stale) {
            return self.start(worker, None, key, None, true, now);
        }
        if self.random.permille(self.mix.reads) {
            let record = self.record(worker, Request::Read(key), now);
            return self.start(worker, Some(record), key, None, false, now);
        }
        if self.random.permille(self.mix.idempotent) && !self.repeatable.is_empty() && self.random.permille(500) {
            let again = self.repeatable[self.random.index(self.repeatable.len())].clone();
            let write = Some((again.write, Some(again.idempotency)));
            // It may be applied from now on, whatever was said of it before.
            self.repeated.insert(again.record);
            if self.history[again.record].end == End::NotApplied {
                self.history[again.record].end = End::Unknown;
            }
            return self.start(worker, Some(again.record), again.key, write, false, now);
        }
        self.begin_write(worker, key, now);
    }

    fn begin_write(&mut self, worker: usize, key: KeyIndex, now: Time) {
        let guard = self.draw_guard(key);
        let (request, asked) = if self.random.permille(self.mix.batches) {
            self.draw_batch(key, guard)
        } else if self.random.permille(self.mix.deletes) {
            let asked = Asked::Delete { key: key_of(key), condition: condition_of(guard) };
            (Request::Single(key, guard, Change::Delete), asked)
        } else {
            let (change, value, ttl_ms) = self.draw_put();
            let asked = Asked::Put { key: key_of(key), value, ttl_ms, condition: condition_of(guard) };
            (Request::Single(key, guard, change), asked)
        };
        let single = matches!(request, Request::Single(..));
        let record = self.record(worker, request, now);
        let idempotency = (single && self.random.permille(self.mix.idempotent)).then(|| Idempotency {
            // Few names, so that they meet on different keys; each is used once per key.
            key: Bytes::from(format!("i{}", self.repeatable.iter().filter(|other| other.key == key).count())),
            method: if matches!(asked, Asked::Delete { .. }) { b'D' } else { b'P' },
            digest: u128::from(record as u64) + 1,
        });
        if let Some(idempotency) = &idempotency {
            let (write, idempotency) = (asked.clone(), idempotency.clone());
            self.repeatable.push(Repeatable { record, key, write, idempotency });
        }
        self.start(worker, Some(record), key, Some((asked, idempotency)), false, now);
    }

    fn record(&mut self, worker: usize, request: Request, now: Time) -> usize {
        let invoked = self.stamp_time(now);
        let client = worker as u32;
        self.history.push(Operation { client, invoked, request, end: End::Unknown });
        self.history.len() - 1
    }

    fn start(
        &mut self,
        worker: usize,
        record: Option<usize>,
        key: KeyIndex,
        write: Option<(Asked, Option<Idempotency>)>,
        stale: bool,
        now: Time,
    ) {
        let session = &self.sessions[self.workers[worker].session];
        let (session, stamp) = (session.id, session.held);
        let lane = &mut self.workers[worker];
        if write.is_some() {
            lane.sequence += 1;
        }
        lane.current = Some(Current {
            record,
            key,
            write,
            stale,
            session,
            stamp,
            deadline: now + self.patience,
            attempt: None,
            open: false,
            attempts: 0,
        });
    }

    fn any_key(&mut self) -> KeyIndex {
        self.random.below(u64::from(self.keys)) as u32
    }

    fn draw_guard(&mut self, key: KeyIndex) -> Guard {
        if !self.random.permille(self.mix.conditions) {
            return Guard::Always;
        }
        match self.random.below(4) {
            0 => Guard::Absent,
            1 => Guard::Exists,
            _ => self.seen.get(&key).map_or(Guard::Absent, |version| Guard::VersionIs(*version)),
        }
    }

    fn draw_put(&mut self) -> (Change, Bytes, Option<u64>) {
        let value = self.next_value;
        self.next_value += 1;
        let ttl_ms = self.random.permille(self.mix.expiring).then(|| self.random.between(50, 4_000));
        let mut bytes = BytesMut::new();
        bytes.put_u64_le(value);
        bytes.resize(8 + self.random.index(self.value_bytes), 0xa5);
        (Change::Put { value, expires: ttl_ms.is_some() }, bytes.freeze(), ttl_ms)
    }

    fn draw_batch(&mut self, key: KeyIndex, guard: Guard) -> (Request, Asked) {
        let mut changes = Vec::new();
        let mut writes = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            let key = self.any_key();
            if self.random.permille(200) {
                changes.push((key, Change::Delete));
                writes.push(Write::Delete { key: key_of(key) });
            } else {
                let (change, value, ttl_ms) = self.draw_put();
                changes.push((key, change));
                writes.push(Write::Put { key: key_of(key), value, ttl_ms });
            }
        }
        let guards = if guard == Guard::Always { vec![] } else { vec![(key, guard)] };
        let conditions = guards.iter().map(|(key, guard)| (key_of(*key), condition_of(*guard))).collect();
        (Request::Batch { guards, changes }, Asked::Batch { conditions, writes })
    }

    /// Appends a read of every key in the end, made by the world itself.
    pub fn final_read(&mut self, key: KeyIndex, found: Option<Found>, now: Time) {
        let invoked = self.stamp_time(now);
        let at = self.stamp_time(now);
        let response = found.map_or(Response::Absent, |found| Response::Value {
            version: found.version.0,
            value: value_of(&found.value),
        });
        self.history.push(Operation {
            client: u32::MAX,
            invoked,
            request: Request::Read(key),
            end: End::Answered(at, response),
        });
    }

    /// All keys.
    pub fn all_keys(&self) -> impl Iterator<Item = KeyIndex> + use<> {
        0..self.keys
    }
}

/// The puts that the commands of an entry carried out.
#[must_use]
pub fn puts_of(entry: &Entry, outcomes: &[Outcome]) -> Vec<Applied> {
    let commands = Vec::<Bytes>::from_all(entry.body.clone()).unwrap_or_default();
    let mut puts = Vec::new();
    for (bytes, outcome) in commands.into_iter().zip(outcomes) {
        let Ok(command) = Command::from_all(bytes) else { continue };
        match (command.operation, outcome) {
            (Asked::Put { key, value, .. }, Outcome::Written { version, .. }) => {
                puts.push((index_of(&key), version.0, value_of(&value)));
            }
            (Asked::Batch { writes, .. }, Outcome::BatchWritten { versions }) => {
                for (write, version) in writes.iter().zip(versions) {
                    if let Write::Put { key, value, .. } = write {
                        puts.push((index_of(key), version.0, value_of(value)));
                    }
                }
            }
            _ => {}
        }
    }
    puts
}

/// The index of a key.
fn index_of(key: &Key) -> KeyIndex {
    let digits = key.bytes().split(|byte| *byte == b'/').nth(1).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(KeyIndex::MAX)
}

/// The key of an index. Several share a partition, so that a boundary may cut one.
#[must_use]
pub fn key_of(index: KeyIndex) -> Key {
    Key::new(format!("p{}/{index}", index % 3)).unwrap_or_else(|_| unreachable!("a short text is a key"))
}

fn value_of(bytes: &Bytes) -> ValueId {
    bytes.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
}

fn condition_of(guard: Guard) -> Condition {
    match guard {
        Guard::Always => Condition::Always,
        Guard::VersionIs(version) => Condition::VersionIs { version: Version(version) },
        Guard::Exists => Condition::Exists,
        Guard::Absent => Condition::Absent,
    }
}
