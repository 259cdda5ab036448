//! Connections by address, made when they are needed.

use crate::connection::{ConnectError, Connection, ConnectionOptions};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The pause after a first failed attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The most addresses remembered. Past it, those without a living connection are forgotten.
const MAX_ADDRESSES: usize = 4096;

/// One connection for each address. Callers who need the same one at the same time share the attempt; after a failed one
/// callers hear so at once until a short, growing pause is over.
#[derive(Clone, Debug)]
pub struct Pool {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ConnectionOptions,
    addresses: Mutex<HashMap<String, Arc<Address>>>,
}

#[derive(Default, Debug)]
struct Address {
    current: Mutex<Option<Connection>>,
    /// Held while connecting.
    attempt: tokio::sync::Mutex<Attempts>,
}

#[derive(Default, Debug)]
struct Attempts {
    failures: u32,
    not_before: Option<Instant>,
    last: String,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(options: ConnectionOptions) -> Self {
        Self { inner: Arc::new(Inner { options, addresses: Mutex::default() }) }
    }

    /// The living connection to `address`, if there is one. Never waits.
    #[must_use]
    pub fn existing(&self, address: &str) -> Option<Connection> {
        let entry = self.inner.addresses.lock().get(address).map(Arc::clone)?;
        entry.living()
    }

    /// The connection to `address`, made if need be.
    pub async fn connection(&self, address: &str) -> Result<Connection, ConnectError> {
        let entry = self.entry(address);
        if let Some(connection) = entry.living() {
            return Ok(connection);
        }
        let mut attempts = entry.attempt.lock().await;
        if let Some(connection) = entry.living() {
            return Ok(connection);
        }
        if attempts.not_before.is_some_and(|moment| Instant::now() < moment) {
            return Err(ConnectError::BackingOff { address: address.to_owned(), last: attempts.last.clone() });
        }
        match Connection::connect(address, self.inner.options.clone()).await {
            Ok(connection) => {
                *attempts = Attempts::default();
                *entry.current.lock() = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                attempts.failed(&error);
                Err(error)
            }
        }
    }

    /// Lets go of the connection to `address`. Calls under way on it go on.
    pub fn forget(&self, address: &str) {
        self.inner.addresses.lock().remove(address);
    }

    fn entry(&self, address: &str) -> Arc<Address> {
        let mut addresses = self.inner.addresses.lock();
        if let Some(entry) = addresses.get(address) {
            return Arc::clone(entry);
        }
        if addresses.len() >= MAX_ADDRESSES {
            addresses.retain(|_, entry| entry.living().is_some());
        }
        let entry = Arc::<Address>::default();
        addresses.insert(address.to_owned(), Arc::clone(&entry));
        entry
    }
}

impl Address {
    fn living(&self) -> Option<Connection> {
        let mut current = self.current.lock();
        if current.as_ref().is_some_and(Connection::is_closed) {
            *current = None;
        }
        current.clone()
    }
}

impl Attempts {
    fn failed(&mut self, error: &ConnectError) {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        // Somewhere in the upper half of the pause, so that clients of a node that comes back do not come all at once.
        self.not_before = Some(Instant::now() + pause.mul_f64(rand::random_range(0.5..1.0)));
        self.last = error.to_string();
    }
}
