//! The client library's counts, as metrics.

use scatter_client::{Client, ConnectionMetrics};
use scatter_service::metrics::{Reading, Sampled, Spread};
use std::sync::atomic::{AtomicU64, Ordering};

/// Registers the metrics of the client that a program asks nodes with.
pub fn register_client(registry: &prometheus::Registry, client: &Client) -> prometheus::Result<()> {
    let mut readings = requests(client);
    readings.extend(connections());
    let client = client.clone();
    Sampled::register(registry, readings, move || client.clone())
}

/// What the client counts of requests.
fn requests(client: &Client) -> Vec<Reading<Client>> {
    let mut readings: Vec<Reading<Client>> = client.metrics().values().into_iter().map(counted).collect();
    readings.extend([
        Reading::spread(
            "scatter_client_hops",
            "Attempts that a request took until it ended, by request; 1 is straight to the right node.",
            |client: &Client| {
                let (counts, sum) = client.metrics().hops();
                let bounds = (0..counts.len() - 1).map(|hops| hops as f64).collect();
                Spread { bounds, counts: counts.to_vec(), sum: sum as f64 }
            },
        ),
        Reading::gauge("scatter_client_in_flight", "Requests under way.", |client: &Client| client.in_flight() as f64),
        Reading::gauge(
            "scatter_client_lanes_in_use",
            "Writes under way, each in a lane of this program's session.",
            |client: &Client| client.lanes_in_use() as f64,
        ),
        Reading::gauge("scatter_client_known_groups", "Groups in the ring cache.", |client: &Client| {
            client.ring().routes().len() as f64
        }),
    ]);
    readings
}

/// A count of the client under its own name.
fn counted((name, help, _): (&'static str, &'static str, u64)) -> Reading<Client> {
    Reading::counter(format!("scatter_client_{name}_total"), help.trim(), move |client: &Client| {
        client.metrics().value(name).unwrap_or_default() as f64
    })
}

/// What the client's connections count.
fn connections() -> Vec<Reading<Client>> {
    type Pick = fn(&ConnectionMetrics) -> &AtomicU64;
    let counters: [(&str, &str, Pick); 8] = [
        ("connections_opened", "Connections to nodes that stood.", |of| &of.connected),
        ("connections_closed", "Connections to nodes that ended.", |of| &of.closed),
        ("node_requests", "Requests sent to nodes.", |of| &of.requests),
        ("node_replies", "Replies received from nodes.", |of| &of.replies),
        ("node_writes", "Writes to sockets; requests over writes is the mean batch.", |of| &of.writes),
        ("sent_bytes", "Bytes sent to nodes.", |of| &of.bytes_sent),
        ("received_bytes", "Bytes received from nodes.", |of| &of.bytes_received),
        ("node_busy", "Requests refused here because a connection had too many.", |of| &of.busy),
    ];
    let reading = |(name, help, pick): (&str, &'static str, Pick)| {
        Reading::counter(format!("scatter_client_{name}_total"), help, move |client: &Client| {
            pick(&client.connection_metrics()).load(Ordering::Relaxed) as f64
        })
    };
    counters.map(reading).into()
}
