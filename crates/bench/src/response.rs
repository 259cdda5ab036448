//! Reads HTTP/1.1 responses: the least that a load generator must understand, and nothing it may trust.
//!
//! The body is counted and thrown away. Only responses with a `Content-Length` (or without a body by definition) are
//! understood; anything else is refused, so that no answer is ever counted by mistake.

/// The largest response head accepted, in bytes.
pub const HEAD_LIMIT: usize = 16 * 1024;

/// Why a response cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The first line is not that of HTTP/1.1 with a three-digit status.
    #[error("bad status line")]
    StatusLine,
    /// A header line without a colon, or with a bare carriage return.
    #[error("bad header line")]
    Header,
    /// More than [`HEAD_LIMIT`] bytes without the end of the head.
    #[error("head too long")]
    HeadTooLong,
    /// No `Content-Length`, two that differ, or one that is not a plain number.
    #[error("no usable content-length")]
    Length,
    /// A transfer coding, which this client does not read.
    #[error("transfer coding")]
    TransferCoding,
    /// Bytes after the end of a response that nobody asked for.
    #[error("bytes after the response")]
    Surplus,
}

/// What the head of a response says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// How many bytes the head takes, its blank line included.
    pub head_bytes: usize,
    /// How many bytes of body follow.
    pub body_bytes: u64,
    /// Whether the server closes the connection after this response.
    pub close: bool,
}

/// Reads the head at the start of `bytes`; `None` if its end has not arrived.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let mut lines = Lines { bytes, at: 0 };
    let Some(first) = lines.next_line() else { return incomplete(bytes) };
    let mut head = Head { status: status_of(first)?, head_bytes: 0, body_bytes: 0, close: false };
    let mut length = None;
    while let Some(line) = lines.next_line() {
        if line.is_empty() {
            head.head_bytes = lines.at;
            head.body_bytes = match (head.status, length) {
                (204 | 304, _) => 0,
                (_, Some(length)) => length,
                (_, None) => return Err(Malformed::Length),
            };
            return if lines.at > HEAD_LIMIT { Err(Malformed::HeadTooLong) } else { Ok(Some(head)) };
        }
        read_header(line, &mut head, &mut length)?;
    }
    incomplete(bytes)
}

fn incomplete(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    if bytes.len() >= HEAD_LIMIT { Err(Malformed::HeadTooLong) } else { Ok(None) }
}

/// Complete lines, without their line ends.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next_line(&mut self) -> Option<&'a [u8]> {
        let rest = self.bytes.get(self.at..)?;
        let end = rest.iter().position(|&byte| byte == b'\n')?;
        self.at += end + 1;
        let line = &rest[..end];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn status_of(line: &[u8]) -> Result<u16, Malformed> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").ok_or(Malformed::StatusLine)?;
    let (digits, after) = rest.split_at_checked(3).ok_or(Malformed::StatusLine)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(after.first(), None | Some(b' ')) {
        return Err(Malformed::StatusLine);
    }
    let status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    // An interim response would need a second one to be read; nothing asks for one.
    if status < 200 { Err(Malformed::StatusLine) } else { Ok(status) }
}

fn read_header(line: &[u8], head: &mut Head, length: &mut Option<u64>) -> Result<(), Malformed> {
    let colon = line.iter().position(|&byte| byte == b':').ok_or(Malformed::Header)?;
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if name.is_empty() || line.contains(&b'\r') {
        return Err(Malformed::Header);
    }
    if name.eq_ignore_ascii_case(b"content-length") {
        let stated = plain_number(value).ok_or(Malformed::Length)?;
        if length.is_some_and(|earlier| earlier != stated) {
            return Err(Malformed::Length);
        }
        *length = Some(stated);
    } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
        return Err(Malformed::TransferCoding);
    } else if name.eq_ignore_ascii_case(b"connection") {
        head.close |= value.eq_ignore_ascii_case(b"close");
    }
    Ok(())
}

fn plain_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, digit| match digit {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

/// One connection's incoming side: bytes go in as they arrive, whole responses come out.
pub struct ResponseReader {
    buffer: Box<[u8]>,
    filled: usize,
    body: Option<(Head, u64)>,
}

impl Default for ResponseReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseReader {
    /// An empty reader; its buffer is all it ever holds, however long a body is.
    pub fn new() -> Self {
        Self { buffer: vec![0; HEAD_LIMIT].into_boxed_slice(), filled: 0, body: None }
    }

    /// Where the next bytes belong; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// Takes note of `count` bytes put into [`Self::space`]; gives the response when that completes it.
    pub fn advance(&mut self, count: usize) -> Result<Option<Head>, Malformed> {
        self.filled = (self.filled + count).min(self.buffer.len());
        let (head, left, arrived) = match self.body {
            Some((head, left)) => (head, left, self.filled as u64),
            None => match parse_head(&self.buffer[..self.filled])? {
                Some(head) => (head, head.body_bytes, (self.filled - head.head_bytes) as u64),
                None => return Ok(None),
            },
        };
        self.filled = 0;
        if arrived > left {
            return Err(Malformed::Surplus);
        }
        if arrived < left {
            self.body = Some((head, left - arrived));
            return Ok(None);
        }
        self.body = None;
        Ok(Some(head))
    }

    /// Forgets what arrived, for a new connection.
    pub fn reset(&mut self) {
        self.filled = 0;
        self.body = None;
    }

    /// Whether a response has begun and not ended.
    pub fn midway(&self) -> bool {
        self.filled > 0 || self.body.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(reader: &mut ResponseReader, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        let mut rest = bytes;
        let mut last = Ok(None);
        while !rest.is_empty() {
            let space = reader.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            last = reader.advance(count);
            if last.is_err() {
                break;
            }
        }
        last
    }

    const PUT_REPLY: &[u8] = b"HTTP/1.1 201 Created\r\netag: \"7\"\r\nContent-Length: 5\r\n\r\nhello";

    #[test]
    fn a_response_split_at_every_byte_reads_the_same() {
        for cut in 1..PUT_REPLY.len() {
            let mut reader = ResponseReader::new();
            assert_eq!(feed(&mut reader, &PUT_REPLY[..cut]), Ok(None), "cut at {cut}");
            assert!(reader.midway());
            let head = feed(&mut reader, &PUT_REPLY[cut..]).unwrap().unwrap();
            assert_eq!((head.status, head.body_bytes, head.close), (201, 5, false), "cut at {cut}");
            assert!(!reader.midway());
        }
    }

    #[test]
    fn responses_follow_one_another_byte_by_byte() {
        let mut reader = ResponseReader::new();
        let mut complete = 0;
        for _ in 0..3 {
            for byte in PUT_REPLY {
                complete += usize::from(feed(&mut reader, &[*byte]).unwrap().is_some());
            }
        }
        assert_eq!(complete, 3);
    }

    #[test]
    fn a_body_larger_than_the_buffer_is_counted_not_kept() {
        let body = vec![7u8; HEAD_LIMIT * 5 + 3];
        let mut bytes = format!("HTTP/1.1 200 OK\r\ncontent-length:{}\r\n\r\n", body.len()).into_bytes();
        bytes.extend(&body);
        let mut reader = ResponseReader::new();
        let head = feed(&mut reader, &bytes).unwrap().unwrap();
        assert_eq!(head.body_bytes, body.len() as u64);
        assert_eq!(reader.buffer.len(), HEAD_LIMIT);
    }

    #[test]
    fn no_body_needs_no_length_and_close_is_seen() {
        let head = parse_head(b"HTTP/1.1 204 No Content\r\nConnection: Close\r\n\r\n").unwrap().unwrap();
        assert_eq!((head.status, head.body_bytes, head.close), (204, 0, true));
    }

    #[test]
    fn hostile_heads_are_refused() {
        let cases: [(&[u8], Malformed); 13] = [
            (b"HTTP/1.0 200 OK\r\n\r\n", Malformed::StatusLine),
            (b"HTTP/1.1 2x0 OK\r\n\r\n", Malformed::StatusLine),
            (b"HTTP/1.1 2000 OK\r\n\r\n", Malformed::StatusLine),
            (b"HTTP/1.1 20\r\n\r\n", Malformed::StatusLine),
            (b"HTTP/1.1 100 Continue\r\n\r\n", Malformed::StatusLine),
            (b"\r\n\r\n", Malformed::StatusLine),
            (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", Malformed::Header),
            (b"HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n", Malformed::Header),
            (b"HTTP/1.1 200 OK\r\n\r\n", Malformed::Length),
            (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Malformed::Length),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n", Malformed::Length),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", Malformed::Length),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Malformed::TransferCoding),
        ];
        for (bytes, why) in cases {
            assert_eq!(parse_head(bytes), Err(why), "{}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn an_endless_head_is_refused_at_the_limit() {
        let mut reader = ResponseReader::new();
        let mut bytes = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
        bytes.resize(HEAD_LIMIT, b'a');
        assert_eq!(feed(&mut reader, &bytes), Err(Malformed::HeadTooLong));
        assert_eq!(parse_head(&vec![b'H'; HEAD_LIMIT]), Err(Malformed::HeadTooLong));
    }

    #[test]
    fn a_second_response_nobody_asked_for_is_refused() {
        let mut reader = ResponseReader::new();
        assert_eq!(feed(&mut reader, &[PUT_REPLY, PUT_REPLY].concat()), Err(Malformed::Surplus));
    }
}
