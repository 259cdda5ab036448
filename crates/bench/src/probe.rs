//! Single questions over HTTP, for readiness and status; not for load.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::response::parse_head;

/// The largest answer read, in bytes: the ring of some thousand groups.
const ANSWER_LIMIT: u64 = 64 << 20;

/// Asks for `path` once, on a connection of its own; gives the status and the body.
pub fn get(endpoint: SocketAddr, path: &str, limit: Duration) -> io::Result<(u16, Vec<u8>)> {
    ask(endpoint, "GET", path, "", limit)
}

/// Sends `body` to `path` once, likewise.
pub fn post(endpoint: SocketAddr, path: &str, body: &str, limit: Duration) -> io::Result<(u16, Vec<u8>)> {
    ask(endpoint, "POST", path, body, limit)
}

fn ask(endpoint: SocketAddr, method: &str, path: &str, body: &str, limit: Duration) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&endpoint, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {endpoint}\r\nconnection: close\r\n");
    if !body.is_empty() {
        request += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    request += "\r\n";
    request += body;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer)?;
    let head = parse_head(&answer).map_err(io::Error::other)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let body = answer.split_off(head.head_bytes);
    if body.len() as u64 == head.body_bytes {
        Ok((head.status, body))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answered(answer: &'static [u8]) -> io::Result<(u16, Vec<u8>)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..count]).into_owned()
        });
        let result = get(address, "/readyz", Duration::from_secs(5));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
        result
    }

    #[test]
    fn status_and_body_come_back() {
        assert_eq!(answered(b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno").unwrap(), (503, b"no".to_vec()));
    }

    #[test]
    fn cut_off_and_garbled_answers_are_errors() {
        for answer in [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nno".as_slice(), b"HTTP/1.1 200", b"\xff\xff\n\n"] {
            assert!(answered(answer).is_err());
        }
    }
}
