//! One client: it asks one thing after the other through the gateway, within a time limit of its own.

use crate::books::{Books, Turn};
use crate::timeline::{Heard, Kind, Timeline};
use scatter_e2e::http::{Connection, Failed, Reply, Request};
use scatter_sim::history::{
    Change, End, Guard, KeyIndex, Operation, Request as Asked, Response, ValueId, VersionNumber,
};
use scatter_sim::random::Random;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The shortest and longest time limits of clients, in milliseconds. The shortest is below the time in which a dead leader is
/// missed, so that some writes end with an unknown outcome.
pub(crate) const TIMEOUT_MS: (u64, u64) = (100, 3_000);
/// One of so many keys is hot; half of all turns go to these.
const HOT: usize = 8;
/// How much longer than its time limit a client waits for the word that it was over.
const GRACE: Duration = Duration::from_secs(2);
/// The pause after something that was not answered.
const PAUSE: Duration = Duration::from_millis(50);
/// How many odd replies are told in full.
const MOST_ODD: usize = 20;

/// What all clients share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub books: Books,
    pub timeline: Timeline,
    /// Set when the clients are to end.
    pub stop: AtomicBool,
    pub gateway: SocketAddr,
    pub value_bytes: usize,
    pub pace: Duration,
    /// Replies that make no sense.
    pub odd: Mutex<Vec<String>>,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note_odd(&self, text: String) {
        let mut odd = self.odd.lock().unwrap_or_else(PoisonError::into_inner);
        if odd.len() < MOST_ODD {
            odd.push(text);
        }
    }
}

/// The client.
pub(crate) struct Client<'a> {
    number: u32,
    shared: &'a Shared,
    connection: Connection,
    timeout: Duration,
    /// Whether what it asks counts for the figures.
    counts: bool,
    random: Random,
}

impl<'a> Client<'a> {
    /// One of many.
    pub(crate) fn new(number: u32, shared: &'a Shared, mut random: Random) -> Self {
        let timeout = Duration::from_millis(random.spread(TIMEOUT_MS.0, TIMEOUT_MS.1));
        let connection = Connection::new(shared.gateway);
        Self { number, shared, connection, timeout, counts: true, random }
    }

    /// The one who reads everything when all others have ended.
    pub(crate) fn last(shared: &'a Shared) -> Self {
        let random = Random::new(0);
        Self { timeout: Duration::from_secs(1), counts: false, ..Self::new(u32::MAX, shared, random) }
    }

    /// Asks until it is told to stop.
    pub(crate) fn run(&mut self) {
        while !self.shared.stopped() {
            let all = self.shared.books.slots();
            let few = if self.random.permille(500) { all.div_ceil(HOT) } else { all };
            let slot = self.random.index(few);
            match self.shared.books.begin(slot) {
                Turn::Use(key, latest) => {
                    self.take_turn(slot, key, latest);
                    self.shared.books.end(slot);
                }
                Turn::Close(key) => self.close(slot, key),
                Turn::Wait => {}
            }
            let pace_us = u64::try_from(self.shared.pace.as_micros()).unwrap_or(u64::MAX / 2);
            std::thread::sleep(Duration::from_micros(self.random.below(pace_us * 2)));
        }
    }

    /// One turn: mostly one operation.
    fn take_turn(&mut self, slot: usize, key: KeyIndex, latest: Option<VersionNumber>) {
        let known = latest.map_or(Guard::Absent, Guard::VersionIs);
        let put = Change::Put { value: self.shared.books.value(), expires: false };
        match self.random.below(100) {
            0..35 => drop(self.read(slot, key)),
            35..60 => self.write(slot, key, Guard::Always, put),
            60..72 => self.write(slot, key, known, put),
            72..77 => self.write(slot, key, Guard::Absent, put),
            77..80 => self.write(slot, key, Guard::Exists, put),
            80..87 => self.write(slot, key, Guard::Always, Change::Delete),
            87..90 => self.write(slot, key, latest.map_or(Guard::Exists, Guard::VersionIs), Change::Delete),
            // As a counter is raised: read, and write if nothing has changed since.
            _ => match self.read(slot, key) {
                Some(Response::Value { version, .. }) => self.write(slot, key, Guard::VersionIs(version), put),
                Some(_) => self.write(slot, key, Guard::Absent, put),
                None => {}
            },
        }
    }

    /// Reads a key for the last time, and then perhaps another that was kept for long enough.
    fn close(&mut self, slot: usize, key: KeyIndex) {
        let books = &self.shared.books;
        match self.read_until_answered(key, |client| client.shared.stopped()) {
            Some(read) => books.close(slot, read),
            None => books.give_up(slot),
        }
        if let Some(kept) = books.overdue() {
            match self.read_until_answered(kept.key, |client| client.shared.stopped()) {
                Some(read) => {
                    let mut history = kept.operations;
                    history.push(read);
                    books.judge(kept.key, &history);
                    // Nobody will look there again, whatever comes of it.
                    self.ask("DELETE", kept.key, &[], &[]).ok();
                }
                None => books.put_back(kept),
            }
        }
    }

    /// Reads a key until there is an answer; nothing if `enough` is true before.
    pub(crate) fn read_until_answered(&mut self, key: KeyIndex, enough: impl Fn(&Self) -> bool) -> Option<Operation> {
        loop {
            let read = self.try_read(key);
            if read.response().is_some() {
                return Some(read);
            }
            if enough(self) {
                return None;
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn read(&mut self, slot: usize, key: KeyIndex) -> Option<Response> {
        let read = self.try_read(key);
        let response = read.response().cloned();
        self.shared.books.note(slot, read);
        if response.is_none() {
            std::thread::sleep(PAUSE);
        }
        response
    }

    fn try_read(&mut self, key: KeyIndex) -> Operation {
        let (began, invoked) = (Instant::now(), self.shared.books.now());
        let result = self.ask("GET", key, &[], &[]);
        let answered = self.shared.books.now();
        let response = result.ok().and_then(|reply| match reply.status {
            200 => self.found(key, &reply),
            404 => Some(Response::Absent),
            status => {
                if status < 500 {
                    self.shared.note_odd(format!("a read of {} met {status}: {}", path(key), reply.text()));
                }
                None
            }
        });
        let heard = if response.is_some() { Heard::Answer } else { Heard::Nothing };
        if self.counts {
            self.shared.timeline.heard(Kind::Read, began, heard);
        }
        let end = response.map_or(End::Unknown, |response| End::Answered(answered, response));
        Operation { client: self.number, invoked, request: Asked::Read(key), end }
    }

    fn found(&self, key: KeyIndex, reply: &Reply) -> Option<Response> {
        match (value_of(&reply.body, self.shared.value_bytes), reply.version()) {
            (Some(value), Some(version)) => Some(Response::Value { version, value }),
            _ => {
                self.shared.note_odd(format!("a read of {} found what nobody wrote: {reply:?}", path(key)));
                None
            }
        }
    }

    fn write(&mut self, slot: usize, key: KeyIndex, guard: Guard, change: Change) {
        let (method, body) = match change {
            Change::Put { value, .. } => ("PUT", body_of(value, self.shared.value_bytes)),
            Change::Delete => ("DELETE", Vec::new()),
        };
        let condition = condition(guard);
        let (began, invoked) = (Instant::now(), self.shared.books.now());
        let result = self.ask(method, key, condition.as_deref().as_slice(), &body);
        let end = match result {
            Ok(reply) => self.outcome(key, change, &reply),
            Err(Failed::NotSent(_)) => End::NotApplied,
            Err(Failed::Lost(_)) => End::Unknown,
        };
        let heard = match end {
            End::Answered(..) => Heard::Answer,
            End::NotApplied => Heard::Refusal,
            End::Unknown => Heard::Nothing,
        };
        self.shared.timeline.heard(Kind::Write, began, heard);
        let request = Asked::Single(key, guard, change);
        self.shared.books.note(slot, Operation { client: self.number, invoked, request, end });
        if heard != Heard::Answer {
            std::thread::sleep(PAUSE);
        }
    }

    /// How a write ended, by the reply.
    fn outcome(&self, key: KeyIndex, change: Change, reply: &Reply) -> End {
        let answered = |response| End::Answered(self.shared.books.now(), response);
        match (reply.status, change, reply.version()) {
            (200 | 201, Change::Put { .. }, Some(version)) => {
                answered(Response::Written { version, created: reply.status == 201 })
            }
            // The reply does not tell the delete's version.
            (204, Change::Delete, _) => answered(Response::Deleted { version: 0 }),
            (404, Change::Delete, _) => answered(Response::Absent),
            (412, _, current) => answered(Response::ConditionFailed { index: 0, current }),
            _ => {
                if reply.status < 500 {
                    self.shared.note_odd(format!("a write of {} met {}: {}", path(key), reply.status, reply.text()));
                }
                if reply.is_not_applied() { End::NotApplied } else { End::Unknown }
            }
        }
    }

    fn ask(&mut self, method: &str, key: KeyIndex, headers: &[&str], body: &[u8]) -> Result<Reply, Failed> {
        let timeout = format!("Request-Timeout: {}ms", self.timeout.as_millis());
        let headers: Vec<&str> = headers.iter().copied().chain([timeout.as_str()]).collect();
        let path = path(key);
        let request = Request::new(method, &path).with_headers(&headers).with_body(body);
        self.connection.ask(Request { limit: self.timeout + GRACE, ..request })
    }
}

fn path(key: KeyIndex) -> String {
    format!("/v1/kv/churn-{key}")
}

fn condition(guard: Guard) -> Option<String> {
    match guard {
        Guard::Always => None,
        Guard::VersionIs(version) => Some(format!("If-Match: \"{version}\"")),
        Guard::Exists => Some("If-Match: *".to_owned()),
        Guard::Absent => Some("If-None-Match: *".to_owned()),
    }
}

/// The value's number, and that again until it is long enough: a piece of another value would show.
fn body_of(value: ValueId, bytes: usize) -> Vec<u8> {
    let word = format!("{value} ");
    let length = bytes.max(word.len());
    word.bytes().cycle().take(length).collect()
}

fn value_of(body: &[u8], bytes: usize) -> Option<ValueId> {
    let end = body.iter().position(|byte| *byte == b' ')?;
    let value = std::str::from_utf8(&body[..end]).ok()?.parse().ok()?;
    (body_of(value, bytes) == body).then_some(value)
}

#[cfg(test)]
mod tests;
