//! The HTTP/1.1 load: one thread, one poll, many keep-alive connections, each a closed loop.
//!
//! A request costs one write, one read and its share of a poll. Requests are built once per connection; only the
//! digits of the key and a few bytes of the value change.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};

use crate::load::{LoadError, PAUSE_AFTER_FAILURE, Shared};
use crate::measure::{Failure, Tally};
use crate::response::{Head, ResponseReader};
use crate::workload::{Chooser, KEY_DIGITS, KEY_PREFIX, Op, write_digits};

/// How often deadlines and pauses are looked at.
const TICK: Duration = Duration::from_millis(5);

/// Runs the workers numbered `workers` until the window of `shared` ends and their last answers are in.
pub fn run(shared: &Shared, endpoints: &[SocketAddr], workers: Range<usize>) -> Result<Tally, LoadError> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(workers.len().max(1));
    let mut tally = Tally::new(shared.window, shared.plan.moments);
    let start = Instant::now();
    let mut workers: Vec<Worker> =
        workers.enumerate().map(|(slot, number)| Worker::new(shared, endpoints, slot, number, start)).collect();
    let mut next_tick = start;
    loop {
        let now = Instant::now();
        if now >= next_tick {
            next_tick = now + TICK;
            for worker in &mut workers {
                worker.tick(poll.registry(), &mut tally, now);
            }
            if workers.iter().all(Worker::is_through) {
                return Ok(tally);
            }
        }
        match poll.poll(&mut events, Some(TICK)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            if let Some(worker) = workers.get_mut(event.token().0) {
                worker.progress(event, poll.registry(), &mut tally);
            }
        }
    }
}

/// A request, ready but for its key and the start of its value.
struct Template {
    bytes: Vec<u8>,
    digits_at: usize,
    value_at: usize,
}

impl Template {
    fn new(op: Op, host: SocketAddr, value: &[u8]) -> Self {
        let mut bytes = format!("{op} /v1/kv/{KEY_PREFIX}").into_bytes();
        let digits_at = bytes.len();
        bytes.resize(digits_at + KEY_DIGITS, b'0');
        bytes.extend_from_slice(format!(" HTTP/1.1\r\nhost: {host}\r\n").as_bytes());
        if op == Op::Put {
            bytes.extend_from_slice(format!("content-length: {}\r\n", value.len()).as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        let value_at = bytes.len();
        if op == Op::Put {
            bytes.extend_from_slice(value);
        }
        Self { bytes, digits_at, value_at }
    }

    fn set(&mut self, key: u64, chooser: &mut Chooser) {
        write_digits(&mut self.bytes[self.digits_at..self.digits_at + KEY_DIGITS], key);
        chooser.vary(&mut self.bytes[self.value_at..]);
    }
}

/// What a worker is doing.
enum State {
    /// Nothing until then.
    Resting(Instant),
    /// A request is under way: asked at the moment, `written` bytes of it sent.
    Asking { op: Op, asked: Instant, written: usize },
    /// No more to do.
    Through,
}

struct Worker<'a> {
    shared: &'a Shared,
    endpoints: &'a [SocketAddr],
    slot: usize,
    endpoint: usize,
    stream: Option<TcpStream>,
    reader: ResponseReader,
    chooser: Chooser,
    put: Template,
    get: Template,
    state: State,
    /// An operation that failed and must be done all the same.
    owed: Option<(Op, u64)>,
    current: (Op, u64),
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, endpoints: &'a [SocketAddr], slot: usize, number: usize, now: Instant) -> Self {
        let mut chooser = Chooser::new(shared.plan.workload, number as u64);
        let endpoint = number % endpoints.len();
        let value = chooser.value();
        Self {
            shared,
            endpoints,
            slot,
            endpoint,
            stream: None,
            reader: ResponseReader::new(),
            chooser,
            put: Template::new(Op::Put, endpoints[endpoint], &value),
            get: Template::new(Op::Get, endpoints[endpoint], &value),
            state: State::Resting(now),
            owed: None,
            current: (Op::Get, 0),
        }
    }

    fn is_through(&self) -> bool {
        matches!(self.state, State::Through)
    }

    /// Ends rests and overdue requests.
    fn tick(&mut self, registry: &Registry, tally: &mut Tally, now: Instant) {
        match self.state {
            State::Resting(until) if now >= until => self.begin(registry, tally, now),
            State::Asking { asked, .. } if now.duration_since(asked) >= self.shared.plan.deadline => {
                self.fail(Failure::Deadline, tally, now);
            }
            State::Resting(_) | State::Asking { .. } | State::Through => {}
        }
    }

    /// Sends the next request, if there is one.
    fn begin(&mut self, registry: &Registry, tally: &mut Tally, now: Instant) {
        let next = if self.shared.open(now) {
            self.owed.take().or_else(|| self.chooser.next(&self.shared.order))
        } else {
            None
        };
        let Some((op, key)) = next else {
            self.stream = None;
            self.state = State::Through;
            return;
        };
        self.current = (op, key);
        let template = if op == Op::Put { &mut self.put } else { &mut self.get };
        template.set(key, &mut self.chooser);
        self.state = State::Asking { op, asked: now, written: 0 };
        if let Err(why) = self.connect(registry).and_then(|()| self.send()) {
            self.fail(why, tally, now);
        }
    }

    fn connect(&mut self, registry: &Registry) -> Result<(), Failure> {
        if self.stream.is_some() {
            return Ok(());
        }
        let mut stream = TcpStream::connect(self.endpoints[self.endpoint]).map_err(|_| Failure::Connect)?;
        // Without it a request in two segments would wait for an acknowledgement; a refusal only costs time.
        let _ = stream.set_nodelay(true);
        registry
            .register(&mut stream, Token(self.slot), Interest::READABLE | Interest::WRITABLE)
            .map_err(|_| Failure::Connect)?;
        self.reader.reset();
        self.stream = Some(stream);
        Ok(())
    }

    /// Writes what is left of the request, as far as the socket takes it.
    fn send(&mut self) -> Result<(), Failure> {
        let (State::Asking { op, written, .. }, Some(stream)) = (&mut self.state, &mut self.stream) else {
            return Ok(());
        };
        let bytes = if *op == Op::Put { &self.put.bytes } else { &self.get.bytes };
        while *written < bytes.len() {
            match stream.write(&bytes[*written..]) {
                Ok(count) => *written += count,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => return Ok(()),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionRefused => return Err(Failure::Connect),
                    _ => return Err(Failure::Closed),
                },
            }
        }
        Ok(())
    }

    /// Reads what has arrived; gives the response if that completes it.
    fn receive(&mut self) -> Result<Option<Head>, Failure> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            let space = self.reader.space();
            let room = space.len();
            match stream.read(space) {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => {
                    if let Some(head) = self.reader.advance(count)? {
                        return Ok(Some(head));
                    }
                    // A short read has emptied the socket: what comes later raises a new event.
                    if count < room {
                        return Ok(None);
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::NotConnected => return Ok(None),
                    ErrorKind::Interrupted => {}
                    ErrorKind::ConnectionRefused => return Err(Failure::Connect),
                    _ => return Err(Failure::Closed),
                },
            }
        }
    }

    /// Goes on after an event on the connection.
    fn progress(&mut self, event: &Event, registry: &Registry, tally: &mut Tally) {
        let State::Asking { op, asked, written } = self.state else {
            // Nothing was asked: the server has closed the connection, or sends what nobody wants.
            if event.is_readable() || event.is_read_closed() {
                self.stream = None;
            }
            return;
        };
        let unsent = written < if op == Op::Put { self.put.bytes.len() } else { self.get.bytes.len() };
        let sent = if unsent { self.send() } else { Ok(()) };
        let outcome = sent.and_then(|()| self.receive());
        let head = match outcome {
            Ok(None) => return,
            Ok(Some(head)) => head,
            Err(why) => return self.fail(why, tally, Instant::now()),
        };
        let now = Instant::now();
        if head.close {
            self.stream = None;
        }
        match self.judge(op, head) {
            Ok(()) => {
                tally.success(op, asked, now);
                self.shared.progress.fetch_add(1, Ordering::Relaxed);
                self.begin(registry, tally, now);
            }
            Err(why) => self.fail(why, tally, now),
        }
    }

    fn judge(&self, op: Op, head: Head) -> Result<(), Failure> {
        match (op, head.status) {
            (Op::Put, 200 | 201 | 204) => Ok(()),
            (Op::Get, 200) if head.body_bytes == self.shared.plan.workload.value_bytes as u64 => Ok(()),
            (Op::Get, 200) => Err(Failure::WrongValue),
            (_, status) => Err(Failure::Status(status)),
        }
    }

    /// Counts a failure and rests; a failed connection is given up, and the next is made to the next endpoint.
    fn fail(&mut self, why: Failure, tally: &mut Tally, now: Instant) {
        tally.failure(why, now);
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        if self.shared.insists() {
            self.owed = Some(self.current);
        }
        match why {
            Failure::Status(_) | Failure::WrongValue | Failure::Grpc(_) => {}
            Failure::Connect | Failure::Closed | Failure::Deadline | Failure::Malformed => self.leave_endpoint(),
        }
        self.state = State::Resting(now + PAUSE_AFTER_FAILURE);
    }

    fn leave_endpoint(&mut self) {
        self.stream = None;
        if self.endpoints.len() > 1 {
            self.endpoint = (self.endpoint + 1) % self.endpoints.len();
            let value = self.chooser.value();
            self.put = Template::new(Op::Put, self.endpoints[self.endpoint], &value);
            self.get = Template::new(Op::Get, self.endpoints[self.endpoint], &value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{self, Length, Plan, Target};
    use crate::workload::Workload;
    use std::net::TcpListener;
    use std::thread;

    fn plan(endpoints: Vec<SocketAddr>, put_percent: u8) -> Plan {
        Plan {
            target: Target::Http(endpoints),
            connections: 2,
            threads: 1,
            workload: Workload { keys: 10, value_bytes: 5, put_percent },
            // Far longer than any test: each ends its run when it has seen enough.
            length: Length::Timed { warm_up: Duration::ZERO, duration: Duration::from_secs(600) },
            deadline: Duration::from_millis(100),
            moments: false,
            among: None,
        }
    }

    /// Runs until `enough` of (successes, failures); gives the successes and the kinds of failure.
    fn run_until(plan: Plan, enough: impl Fn(u64, u64) -> bool) -> (u64, Vec<String>) {
        let running = load::start(plan).unwrap();
        while !enough(running.progress(), running.failed()) {
            thread::yield_now();
        }
        running.cancel();
        let tally = running.finish().unwrap();
        (tally.operations(), tally.summary(Duration::from_secs(1)).errors.into_keys().collect())
    }

    /// A server that answers every read on a connection with `answer` and closes after `answers` of them.
    fn serve(answer: &'static [u8], answers: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut request = [0; 1024];
                    for _ in 0..answers {
                        if !matches!(stream.read(&mut request), Ok(1..)) || stream.write_all(answer).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        address
    }

    const FIVE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

    #[test]
    fn good_answers_are_operations() {
        for put_percent in [0, 50, 100] {
            let plan = plan(vec![serve(FIVE, usize::MAX)], put_percent);
            let (operations, errors) = run_until(plan, |done, _| done >= 100);
            assert!(operations >= 100);
            assert!(errors.is_empty(), "{errors:?}");
        }
    }

    #[test]
    fn errors_are_never_operations() {
        let cases: [(&[u8], &str); 5] = [
            (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "status 503"),
            (b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nhello", "status 404"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhell", "wrong value"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "malformed answer"),
            (b"garbage\r\n\r\n", "malformed answer"),
        ];
        for (answer, error) in cases {
            let plan = plan(vec![serve(answer, usize::MAX)], 0);
            assert_eq!(run_until(plan, |_, failed| failed >= 3), (0, vec![error.to_owned()]));
        }
    }

    #[test]
    fn a_silent_server_meets_the_deadline() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let plan = plan(vec![silent.local_addr().unwrap()], 100);
        assert_eq!(run_until(plan, |_, failed| failed >= 2), (0, vec!["deadline".to_owned()]));
    }

    #[test]
    fn a_closed_connection_is_a_failure_and_made_anew() {
        let (operations, errors) = run_until(plan(vec![serve(FIVE, 1)], 0), |done, failed| done >= 5 && failed >= 5);
        assert!(operations >= 5);
        assert_eq!(errors, ["connection closed"]);
    }

    #[test]
    fn a_refusing_endpoint_is_left_for_the_next() {
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let plan = plan(vec![refusing, serve(FIVE, usize::MAX)], 100);
        let (_, errors) = run_until(plan, |done, failed| done >= 10 && failed >= 1);
        assert_eq!(errors, ["not connected"]);
    }

    #[test]
    fn each_key_is_written_even_through_failures() {
        let mut plan = plan(vec![serve(FIVE, 3)], 100);
        plan.length = Length::EachOnce;
        plan.workload.keys = 100;
        let running = load::start(plan).unwrap();
        let tally = running.finish().unwrap();
        assert_eq!(tally.operations(), 100);
    }

    #[test]
    fn a_template_is_one_well_formed_request() {
        let mut chooser = Chooser::new(Workload { keys: 1, value_bytes: 3, put_percent: 100 }, 0);
        let mut put = Template::new(Op::Put, "127.0.0.1:80".parse().unwrap(), b"abc");
        put.set(42, &mut chooser);
        let value = put.bytes.split_off(put.value_at);
        assert_eq!(value.len(), 3);
        let wanted = "PUT /v1/kv/bench-00000042 HTTP/1.1\r\nhost: 127.0.0.1:80\r\ncontent-length: 3\r\n\r\n";
        assert_eq!(String::from_utf8(put.bytes).unwrap(), wanted);
        let mut get = Template::new(Op::Get, "127.0.0.1:80".parse().unwrap(), b"abc");
        get.set(7, &mut chooser);
        assert_eq!(
            String::from_utf8(get.bytes).unwrap(),
            "GET /v1/kv/bench-00000007 HTTP/1.1\r\nhost: 127.0.0.1:80\r\n\r\n"
        );
    }
}
