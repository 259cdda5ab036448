//! What the transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only its readers put into any order.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, by: usize) {
        self.0.fetch_add(by as u64, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, by: usize) {
        self.0.fetch_sub(by as u64, Ordering::Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts of everything on the peer port. Totals since the start unless a line says otherwise.
#[derive(Default, Debug)]
pub struct TransportMetrics {
    /// Frames written to peers.
    pub frames_sent: Counter,
    /// Bytes written to peers.
    pub bytes_sent: Counter,
    /// Writes to peers. Frames over writes is the mean batch.
    pub writes: Counter,
    /// Frames read from peers.
    pub frames_received: Counter,
    /// Bytes read from peers.
    pub bytes_received: Counter,
    /// Frames dropped, or refused on the bulk channel, because a queue was full.
    pub dropped_overflow: Counter,
    /// Frames dropped because a connection broke or did not come to be.
    pub dropped_disconnected: Counter,
    /// Frames dropped because nobody knows where their node lives.
    pub dropped_unaddressed: Counter,
    /// Frames dropped because they are over the frame limit.
    pub dropped_oversized: Counter,
    /// Connections to peers that stood.
    pub connected: Counter,
    /// Connections to peers that broke.
    pub disconnected: Counter,
    /// Attempts to connect to a peer that failed.
    pub connect_failures: Counter,
    /// Connections to peers that stand at this moment.
    pub peers_connected: Counter,
    /// Connections of others that stand at this moment, those still in the handshake included.
    pub accepted_open: Counter,
    /// Connections of others that were accepted.
    pub accepted: Counter,
    /// Connections closed at once because too many were open.
    pub accept_overflow: Counter,
    /// Connections of others that never became any: garbage, timeouts, versions.
    pub handshake_failures: Counter,
    /// Peers and clients this node refused.
    pub refused_here: Counter,
    /// Refusals this node heard from peers.
    pub refused_by_peers: Counter,
    /// Connections of others that ended with a protocol error after the handshake.
    pub protocol_errors: Counter,
    /// Client connections that stand at this moment.
    pub clients_connected: Counter,
    /// Requests read from clients.
    pub client_requests: Counter,
    /// Replies written to clients.
    pub client_replies: Counter,
    /// Writes to clients. Replies over writes is the mean batch.
    pub client_writes: Counter,
    /// Bytes read from clients.
    pub client_bytes_received: Counter,
    /// Bytes written to clients.
    pub client_bytes_sent: Counter,
    /// Times a client was not read from because too much of it was waiting.
    pub client_pauses: Counter,
    /// Values withheld because a client did not read its replies.
    pub client_values_withheld: Counter,
}
