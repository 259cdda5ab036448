//! HTTP/1.1 as far as the tests need it: one request on a connection, read to its end, or one after the other.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why nothing came back.
#[derive(Debug)]
pub enum Failed {
    /// Nobody listens: nothing was sent.
    NotSent(io::Error),
    /// The request may have arrived.
    Lost(io::Error),
}

impl Reply {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The version in the entity tag.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.header("etag")?.trim_matches('"').parse().ok()
    }

    /// Whether an error reply says that the write did not happen.
    #[must_use]
    pub fn is_not_applied(&self) -> bool {
        self.json()["outcome"] == "not_applied"
    }

    /// Reads one; `None` while it is not whole, or if it is none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Option<Vec<_>>>()?;
        let reply = Self { status, headers, body: bytes[end + 4..].to_vec() };
        let length = reply.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0_usize);
        (reply.body.len() == length).then_some(reply)
    }
}

/// A request that was sent and whose reply was not read yet.
#[derive(Debug)]
pub struct Sent {
    stream: TcpStream,
    write_error: Option<io::Error>,
}

/// What to ask.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// GET, PUT and so on.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Further headers, each a line without its end.
    pub headers: &'a [&'a str],
    /// The body.
    pub body: &'a [u8],
    /// How long the other side may be silent.
    pub limit: Duration,
}

impl<'a> Request<'a> {
    /// A request without a body.
    #[must_use]
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Self { method, path, headers: &[], body: &[], limit: Duration::from_secs(30) }
    }

    /// The same with a body.
    #[must_use]
    pub fn with_body(self, body: &'a [u8]) -> Self {
        Self { body, ..self }
    }

    /// The same with further headers.
    #[must_use]
    pub fn with_headers(self, headers: &'a [&'a str]) -> Self {
        Self { headers, ..self }
    }

    /// Sends it.
    pub fn send(self, to: SocketAddr) -> Result<Sent, Failed> {
        let mut stream = self.connect(to).map_err(Failed::NotSent)?;
        let bytes = self.bytes(to, "close");
        // A refusal may come before all of the body was taken.
        let write_error = stream.write_all(&bytes).err();
        Ok(Sent { stream, write_error })
    }

    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        self.limit(&stream)?;
        Ok(stream)
    }

    fn limit(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(self.limit))?;
        stream.set_write_timeout(Some(self.limit))
    }

    fn bytes(&self, to: SocketAddr, connection: &str) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {to}\r\nConnection: {connection}\r\nContent-Length: {}\r\n",
            self.method,
            self.path,
            self.body.len()
        );
        for header in self.headers {
            head.push_str(header);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// Sends it and waits for the reply.
    pub fn ask(self, to: SocketAddr) -> Result<Reply, Failed> {
        self.send(to)?.reply()
    }
}

impl Sent {
    /// Waits for the reply.
    pub fn reply(mut self) -> Result<Reply, Failed> {
        let mut bytes = Vec::new();
        let read = self.stream.read_to_end(&mut bytes);
        Reply::parse(&bytes).ok_or_else(|| {
            let error = read.err().or(self.write_error).unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
            Failed::Lost(error)
        })
    }
}

/// A connection that is kept for the next request, and made anew when it broke.
#[derive(Debug)]
pub struct Connection {
    to: SocketAddr,
    stream: Option<TcpStream>,
}

impl Connection {
    /// One that will be made with the first request.
    #[must_use]
    pub const fn new(to: SocketAddr) -> Self {
        Self { to, stream: None }
    }

    /// Sends a request and waits for the reply.
    pub fn ask(&mut self, request: Request<'_>) -> Result<Reply, Failed> {
        let mut stream = match self.stream.take() {
            Some(stream) => {
                request.limit(&stream).map_err(Failed::NotSent)?;
                stream
            }
            None => request.connect(self.to).map_err(Failed::NotSent)?,
        };
        // What was written before an error may have arrived.
        stream.write_all(&request.bytes(self.to, "keep-alive")).map_err(Failed::Lost)?;
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            let count = stream.read(&mut piece).map_err(Failed::Lost)?;
            if count == 0 {
                return Err(Failed::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
            bytes.extend_from_slice(&piece[..count]);
            if let Some(reply) = Reply::parse(&bytes) {
                if reply.header("connection") != Some("close") {
                    self.stream = Some(stream);
                }
                return Ok(reply);
            }
        }
    }
}

/// Reads a key or a page.
pub fn get(from: SocketAddr, path: &str) -> Result<Reply, Failed> {
    Request::new("GET", path).ask(from)
}

/// Writes a key.
pub fn put(to: SocketAddr, key: &str, value: &[u8]) -> Result<Reply, Failed> {
    Request::new("PUT", &format!("/v1/kv/{key}")).with_body(value).ask(to)
}

/// Deletes a key.
///
/// # Errors
/// Without an answer.
pub fn delete(to: SocketAddr, key: &str) -> Result<Reply, Failed> {
    let path = format!("/v1/kv/{key}");
    Request::new("DELETE", &path).ask(to)
}

/// A whole figure without labels among a program's metrics.
#[must_use]
pub fn metric(from: SocketAddr, name: &str) -> Option<u64> {
    let metrics = get(from, "/metrics").ok()?.text();
    let mut figures = metrics.lines().filter_map(|line| line.split_once(' '));
    figures.find(|(of, _)| *of == name).and_then(|(_, figure)| figure.parse().ok())
}
