//! What the transport counts, as metrics.

use crate::transport::{Counter, TransportMetrics};
use prometheus::Registry;
use scatter_service::metrics::{Reading, Sampled};
use std::sync::Arc;

type Look = Arc<TransportMetrics>;

/// Shows everything on the peer port.
pub fn register(registry: &Registry, metrics: Look) -> prometheus::Result<()> {
    let mut readings = peers();
    readings.extend(accepted());
    readings.extend(clients());
    Sampled::register(registry, readings, move || metrics.clone())
}

fn counter(name: &str, help: &'static str, pick: fn(&TransportMetrics) -> &Counter) -> Reading<Look> {
    Reading::counter(name, help, move |metrics: &Look| pick(metrics).get() as f64)
}

fn gauge(name: &str, help: &'static str, pick: fn(&TransportMetrics) -> &Counter) -> Reading<Look> {
    Reading::gauge(name, help, move |metrics: &Look| pick(metrics).get() as f64)
}

/// What this node says to others, on connections of its own.
fn peers() -> Vec<Reading<Look>> {
    vec![
        counter("scatter_peer_sent_frames_total", "Frames written to peers.", |of| &of.frames_sent),
        counter("scatter_peer_sent_bytes_total", "Bytes written to peers.", |of| &of.bytes_sent),
        counter("scatter_peer_writes_total", "Writes to peers; frames over writes is the mean batch.", |of| &of.writes),
        counter("scatter_peer_received_frames_total", "Frames read from peers.", |of| &of.frames_received),
        counter("scatter_peer_received_bytes_total", "Bytes read from peers.", |of| &of.bytes_received),
        counter(
            "scatter_peer_dropped_overflow_total",
            "Frames dropped, or refused on the bulk channel, because a queue was full.",
            |of| &of.dropped_overflow,
        ),
        counter(
            "scatter_peer_dropped_disconnected_total",
            "Frames dropped because a connection broke or did not come to be.",
            |of| &of.dropped_disconnected,
        ),
        counter(
            "scatter_peer_dropped_unaddressed_total",
            "Frames dropped because nobody knows where their node lives.",
            |of| &of.dropped_unaddressed,
        ),
        counter(
            "scatter_peer_dropped_oversized_total",
            "Frames dropped because they are over the frame limit.",
            |of| &of.dropped_oversized,
        ),
        gauge("scatter_peer_connections", "Connections to peers that stand.", |of| &of.peers_connected),
        counter("scatter_peer_connections_opened_total", "Connections to peers that stood.", |of| &of.connected),
        counter("scatter_peer_connections_broken_total", "Connections to peers that broke.", |of| &of.disconnected),
        counter("scatter_peer_connect_failures_total", "Attempts to connect to a peer that failed.", |of| {
            &of.connect_failures
        }),
        counter("scatter_peer_refusals_heard_total", "Refusals this node heard from peers.", |of| &of.refused_by_peers),
    ]
}

/// Connections that others opened to the peer port.
fn accepted() -> Vec<Reading<Look>> {
    vec![
        gauge(
            "scatter_connections_accepted_open",
            "Connections of peers and clients that stand, those still in the handshake included.",
            |of| &of.accepted_open,
        ),
        counter("scatter_connections_accepted_total", "Connections of peers and clients that were accepted.", |of| {
            &of.accepted
        }),
        counter("scatter_accept_overflow_total", "Connections closed at once because too many were open.", |of| {
            &of.accept_overflow
        }),
        counter(
            "scatter_handshake_failures_total",
            "Connections that never became any: garbage, timeouts, other versions.",
            |of| &of.handshake_failures,
        ),
        counter("scatter_refusals_total", "Peers and clients this node refused.", |of| &of.refused_here),
        counter(
            "scatter_protocol_errors_total",
            "Connections that ended with a protocol error after the handshake.",
            |of| &of.protocol_errors,
        ),
    ]
}

/// Clients on the peer port: gateways, other nodes' own clients, `scatterctl`.
fn clients() -> Vec<Reading<Look>> {
    vec![
        gauge("scatter_native_connections", "Client connections on the peer port that stand.", |of| {
            &of.clients_connected
        }),
        counter("scatter_native_requests_total", "Requests read from clients on the peer port.", |of| {
            &of.client_requests
        }),
        counter("scatter_native_replies_total", "Replies written to clients on the peer port.", |of| {
            &of.client_replies
        }),
        counter(
            "scatter_native_writes_total",
            "Writes to clients on the peer port; replies over writes is the mean batch.",
            |of| &of.client_writes,
        ),
        counter("scatter_native_received_bytes_total", "Bytes read from clients on the peer port.", |of| {
            &of.client_bytes_received
        }),
        counter("scatter_native_sent_bytes_total", "Bytes written to clients on the peer port.", |of| {
            &of.client_bytes_sent
        }),
        counter(
            "scatter_native_pauses_total",
            "Times a client was not read from because too much of it was waiting.",
            |of| &of.client_pauses,
        ),
        counter(
            "scatter_native_values_withheld_total",
            "Values withheld because a client did not read its replies.",
            |of| &of.client_values_withheld,
        ),
    ]
}
