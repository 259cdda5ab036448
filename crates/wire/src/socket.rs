//! What every connection's socket is told.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;

/// Sends small writes at once, and lets the kernel notice within about `dead_after` that nobody is at the other end,
/// whether data waits for an acknowledgement or the connection is silent.
pub fn prepare(stream: &TcpStream, dead_after: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probe = (dead_after / 4).max(Duration::from_secs(1));
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(3))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(dead_after))?;
    Ok(())
}

/// The kernel's smoothed round-trip time of a connection, where the kernel tells.
#[must_use]
#[cfg(target_os = "linux")]
pub fn round_trip(stream: &TcpStream) -> Option<Duration> {
    use std::os::fd::AsRawFd;
    // SAFETY: `tcp_info` is plain numbers, for which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the descriptor is open as long as `stream` is borrowed, and the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    (result == 0 && info.tcpi_rtt > 0).then(|| Duration::from_micros(u64::from(info.tcpi_rtt)))
}

/// The kernel's smoothed round-trip time of a connection, where the kernel tells.
#[must_use]
#[cfg(not(target_os = "linux"))]
pub fn round_trip(_: &TcpStream) -> Option<Duration> {
    None
}
