use super::*;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

#[test]
fn a_value_tells_its_number_and_whether_it_is_whole() {
    for (value, bytes) in [(1, 1), (17, 100), (u64::MAX, 100)] {
        let body = body_of(value, bytes);
        assert_eq!(value_of(&body, bytes), Some(value));
        assert!(body.len() >= bytes);
        assert_eq!(value_of(&body[1..], bytes), None);
    }
    let mut torn = body_of(12, 50);
    torn.splice(20..50, body_of(13, 50).split_off(20));
    assert_eq!(value_of(&torn, 50), None);
}

#[test]
fn guards_are_headers() {
    assert_eq!(condition(Guard::Always), None);
    assert_eq!(condition(Guard::VersionIs(7)).as_deref(), Some("If-Match: \"7\""));
    assert_eq!(condition(Guard::Absent).as_deref(), Some("If-None-Match: *"));
}

/// What is wrong with a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    None,
    /// Some reads show what was there before the last write.
    StaleReads,
    /// Some writes are acknowledged and not done.
    LostWrites,
    /// Some writes are done though their client hears that they were not.
    DoneThoughRefused,
    /// Some conditions are not looked at.
    LostUpdates,
}

/// One operation in so many meets the lie.
const LIES: u64 = 40;

/// A store behind HTTP, one thread a connection.
struct Store {
    lie: Lie,
    asked: u64,
    last_version: u64,
    /// Versions and values; the last and the one before.
    now: BTreeMap<String, (u64, Vec<u8>)>,
    before: BTreeMap<String, (u64, Vec<u8>)>,
}

impl Store {
    /// Serves until the test ends. Returns where.
    fn serve(lie: Lie) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (now, before) = (BTreeMap::new(), BTreeMap::new());
        let store = Arc::new(Mutex::new(Self { lie, asked: 0, last_version: 0, now, before }));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, store) = (stream.expect("a connection"), store.clone());
                std::thread::spawn(move || while answer(&stream, &store).is_some() {});
            }
        });
        address
    }

    /// The reply to one request: status, version, body.
    fn reply(&mut self, method: &str, key: &str, condition: &str, body: Vec<u8>) -> (u16, Option<u64>, Vec<u8>) {
        self.asked += 1;
        let lies = |lie| self.lie == lie && self.asked.is_multiple_of(LIES);
        let current = self.now.get(key).map(|(version, _)| *version);
        if method == "GET" {
            let shown = if lies(Lie::StaleReads) { &self.before } else { &self.now };
            return match shown.get(key) {
                Some((version, value)) => (200, Some(*version), value.clone()),
                None => (404, None, Vec::new()),
            };
        }
        let holds = match condition.split_once(": ") {
            None => true,
            Some(("If-None-Match", _)) => current.is_none(),
            Some((_, "*")) => current.is_some(),
            Some((_, version)) => current.is_some_and(|current| format!("\"{current}\"") == version),
        };
        if !holds && !lies(Lie::LostUpdates) {
            return (412, current, Vec::new());
        }
        let (lost, refused) = (lies(Lie::LostWrites), lies(Lie::DoneThoughRefused));
        self.last_version += 1;
        let version = self.last_version;
        if !lost {
            let old = if method == "PUT" { self.now.insert(key.into(), (version, body)) } else { self.now.remove(key) };
            old.and_then(|old| self.before.insert(key.into(), old));
        }
        match (method, current) {
            _ if refused => (503, None, br#"{"outcome":"not_applied"}"#.to_vec()),
            ("PUT", Some(_)) => (200, Some(version), Vec::new()),
            ("PUT", None) => (201, Some(version), Vec::new()),
            (_, Some(_)) => (204, None, Vec::new()),
            (_, None) => (404, None, Vec::new()),
        }
    }
}

/// Answers one request; nothing if there is none.
fn answer(mut stream: &TcpStream, store: &Mutex<Store>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head: Vec<String> = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = head[0].split(' ');
    let (method, key) = (words.next()?, words.next()?);
    let condition = head.iter().find(|line| line.starts_with("If-")).map_or("", String::as_str);
    let (status, version, body) = store.lock().ok()?.reply(method, key, condition, body);
    let tag = version.map_or(String::new(), |version| format!("ETag: \"{version}\"\r\n"));
    let mut reply = format!("HTTP/1.1 {status} X\r\n{tag}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    reply.extend(body);
    stream.write_all(&reply).ok()
}

/// What the clients of such a store heard, judged.
fn judged(lie: Lie) -> crate::books::Judged {
    let shared = Shared {
        books: Books::new(4, 100, 3),
        timeline: Timeline::new(Duration::from_secs(10)),
        stop: AtomicBool::new(false),
        gateway: Store::serve(lie),
        value_bytes: 20,
        pace: Duration::from_micros(1),
        odd: Mutex::default(),
    };
    let mut random = Random::new(1);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (shared, random) = (&shared, random.fork());
            scope.spawn(move || Client::new(number, shared, random).run());
        }
        let began = Instant::now();
        // Not every history shows a lie: it is listened for until one does.
        let enough = |judged: &crate::books::Judged| judged.keys >= 12 && (lie == Lie::None || judged.violated > 0);
        while !enough(&shared.books.judged()) && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(5));
        }
        shared.stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(*shared.odd.lock().expect("a list"), [""; 0]);
    shared.books.judged()
}

#[test]
fn a_sound_store_is_found_sound() {
    let judged = judged(Lie::None);
    assert!(judged.keys >= 12, "{judged:?}");
    assert_eq!(judged.violated, 0, "{:?}", judged.violations);
}

#[test]
fn a_store_that_lies_is_found_out() {
    for lie in [Lie::StaleReads, Lie::LostWrites, Lie::DoneThoughRefused, Lie::LostUpdates] {
        let judged = judged(lie);
        assert!(judged.violated > 0, "{lie:?}: {} histories judged", judged.keys);
    }
}
