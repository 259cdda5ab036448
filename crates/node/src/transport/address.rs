//! From configured addresses to sockets.

use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// Connects to `host:port`. Plain IP addresses need no resolver, which would take a thread.
pub(super) async fn connect(address: &str) -> io::Result<TcpStream> {
    match address.parse::<SocketAddr>() {
        Ok(address) => TcpStream::connect(address).await,
        Err(_) => TcpStream::connect(address).await,
    }
}
