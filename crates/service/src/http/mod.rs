//! The HTTP server: HTTP/1.1 on hyper, made for many small requests and many idle connections.
//!
//! A request costs no timer. Each connection notes in one word what it is doing and since when; one task looks at all of
//! them a few times a second and ends those that take too long. An idle connection gives hyper's buffers back and keeps
//! only its socket and a small task.

mod body;
mod connection;
mod server;
mod site;

pub use body::{Body, BodyLimits, read_body};
pub use server::{BindError, Listener, ServerMetrics, bind, serve};
pub use site::{Readiness, Site};

use crate::{Address, Unacceptable};
use http::{Request, Response};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::sync::Arc;

/// The `[http]` section. The sample file says what each key means.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample file explains each key")]
pub struct HttpSettings {
    pub listen: Address,
    /// Where others reach the program; for programs whose sample has it, else none. Empty means `listen`.
    #[serde(default, deserialize_with = "Address::optional")]
    pub advertise: Option<Address>,
    pub maximum_connections: usize,
    pub header_read_ms: u64,
    pub maximum_head_bytes: usize,
    pub body_idle_ms: u64,
    pub keep_alive_idle_ms: u64,
    pub write_idle_ms: u64,
    pub drain_ms: u64,
}

impl Default for HttpSettings {
    /// What [`crate::COMMON_SAMPLE`] says.
    fn default() -> Self {
        Self {
            listen: Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 8080))),
            advertise: None,
            maximum_connections: 20_000,
            header_read_ms: 10_000,
            maximum_head_bytes: 65_536,
            body_idle_ms: 10_000,
            keep_alive_idle_ms: 75_000,
            write_idle_ms: 30_000,
            drain_ms: 10_000,
        }
    }
}

/// The longest any of the times may be: a day.
const MAX_MS: u64 = 86_400_000;

impl HttpSettings {
    /// Checks the bounds; for [`crate::Settings::check`].
    pub fn check(&self) -> Result<(), Unacceptable> {
        Unacceptable::unless_within("http.maximum_connections", self.maximum_connections as u64, 1..=1_000_000)?;
        Unacceptable::unless_within("http.maximum_head_bytes", self.maximum_head_bytes as u64, 8192..=1 << 20)?;
        Unacceptable::unless_within("http.drain_ms", self.drain_ms, 0..=MAX_MS)?;
        for (key, value) in [
            ("http.header_read_ms", self.header_read_ms),
            ("http.body_idle_ms", self.body_idle_ms),
            ("http.keep_alive_idle_ms", self.keep_alive_idle_ms),
            ("http.write_idle_ms", self.write_idle_ms),
        ] {
            Unacceptable::unless_within(key, value, 1..=MAX_MS)?;
        }
        Ok(())
    }
}

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The connection waits for it; dropped if the client goes away.
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

impl<H: Handler> Handler for Arc<H> {
    fn handle(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send {
        H::handle(self, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_says_the_defaults() {
        let sample: toml::Table = toml::from_str(crate::COMMON_SAMPLE).expect("TOML");
        let read: HttpSettings = sample["http"].clone().try_into().expect("settings");
        assert_eq!(read, HttpSettings::default());
        read.check().expect("good defaults");
    }
}
