//! The client library's counts, as metrics.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};
use scatter_client::Client;
use std::sync::atomic::Ordering;

/// Reads the client's counts whenever metrics are asked for.
struct ClientCollector {
    client: Client,
    counters: Vec<IntCounter>,
    connections: Vec<IntCounter>,
    in_flight: IntGauge,
    lanes: IntGauge,
    groups: IntGauge,
}

/// Registers the client's metrics.
pub(crate) fn register(registry: &prometheus::Registry, client: &Client) -> prometheus::Result<()> {
    let counter = |(name, help, _): &(&str, &str, u64)| {
        IntCounter::new(format!("scatter_client_{name}_total"), help.trim().to_owned())
    };
    let gauge = |name: &str, help: &str| IntGauge::new(format!("scatter_client_{name}"), help);
    registry.register(Box::new(ClientCollector {
        counters: client.metrics().values().iter().map(counter).collect::<Result<_, _>>()?,
        connections: connections(client).iter().map(counter).collect::<Result<_, _>>()?,
        in_flight: gauge("in_flight", "Requests under way.")?,
        lanes: gauge("lanes_in_use", "Writes under way, each in a lane of its own.")?,
        groups: gauge("known_groups", "Groups in the ring cache.")?,
        client: client.clone(),
    }))
}

fn connections(client: &Client) -> [(&'static str, &'static str, u64); 8] {
    let metrics = client.connection_metrics();
    let value = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    [
        ("connections_opened", "Connections to nodes that stood.", value(&metrics.connected)),
        ("connections_closed", "Connections to nodes that ended.", value(&metrics.closed)),
        ("node_requests", "Requests sent to nodes.", value(&metrics.requests)),
        ("node_replies", "Replies received from nodes.", value(&metrics.replies)),
        ("node_writes", "Writes to sockets; requests over writes is the mean batch.", value(&metrics.writes)),
        ("sent_bytes", "Bytes sent to nodes.", value(&metrics.bytes_sent)),
        ("received_bytes", "Bytes received from nodes.", value(&metrics.bytes_received)),
        ("node_busy", "Requests refused here because a connection had too many.", value(&metrics.busy)),
    ]
}

impl Collector for ClientCollector {
    fn desc(&self) -> Vec<&Desc> {
        let counters = self.counters.iter().chain(&self.connections).flat_map(Collector::desc);
        counters.chain([&self.in_flight, &self.lanes, &self.groups].into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.in_flight.set(number(self.client.in_flight()));
        self.lanes.set(number(self.client.lanes_in_use()));
        self.groups.set(number(self.client.ring().routes().len()));
        let values = self.client.metrics().values();
        let pairs = self.counters.iter().zip(values).chain(self.connections.iter().zip(connections(&self.client)));
        let mut families = Vec::new();
        for (counter, (_, _, value)) in pairs {
            counter.inc_by(value.saturating_sub(counter.get()));
            families.extend(counter.collect());
        }
        families.extend([&self.in_flight, &self.lanes, &self.groups].into_iter().flat_map(Collector::collect));
        families
    }
}
