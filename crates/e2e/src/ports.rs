//! Ports for servers that are started, ended and started again.
//!
//! They lie below the range from which the system takes ports for outgoing connections, so that nobody gets one while its
//! server is down; and each is locked through a file, so that tests in other processes choose others.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

const RANGE: Range<u16> = 12_000..30_000;

/// A port of this machine's own address, held until it is dropped.
#[derive(Debug)]
pub struct Port {
    /// The address with the port.
    pub address: SocketAddr,
    /// Dropping the file releases the lock.
    _lock: File,
}

/// Takes a free port.
///
/// # Panics
/// If none of them is free, or the lock files cannot be made.
#[must_use]
pub fn take() -> Port {
    let folder = std::env::temp_dir().join("scatter-e2e-ports");
    std::fs::create_dir_all(&folder).expect("a folder for lock files");
    let count = RANGE.end - RANGE.start;
    // Any start will do; different ones for different processes make for fewer tries.
    let first = (std::process::id().wrapping_mul(2_654_435_761) % u32::from(count)) as u16;
    for step in 0..count {
        let port = RANGE.start + (first + step) % count;
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(folder.join(port.to_string()));
        let lock = lock.expect("a lock file");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if lock.try_lock().is_ok() && TcpListener::bind(address).is_ok() {
            return Port { address, _lock: lock };
        }
    }
    panic!("no port is free from {} to {}", RANGE.start, RANGE.end);
}
