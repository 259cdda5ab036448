//! Settings of a [`crate::Client`].

use std::time::Duration;

/// How a [`crate::Client`] finds its cluster and how much it may have under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    /// The configured name of the cluster; nodes of another one refuse the connection.
    pub cluster_name: String,
    /// Peer addresses (host:port) of some nodes. The others are learned.
    pub seeds: Vec<String>,
    /// What program this is, for the nodes' logs.
    pub agent: String,
    /// How many writes may be under way at once. Each holds a lane, and groups remember every lane used.
    pub lanes: u32,
    /// How many requests, reads and writes together, may be under way or wait for a lane; one more is shed.
    pub max_in_flight: usize,
    /// How long an answer may take before the group's other members are asked who leads.
    pub patience: Duration,
    /// How long a request may take, retries included, if its options do not say.
    pub timeout: Duration,
    /// How long connecting to a node may take.
    pub connect_timeout: Duration,
    /// How often the ring is asked about while nothing is wrong; less often if it has hundreds of groups.
    pub refresh: Duration,
    /// The most bytes of one request or reply.
    pub frame_limit: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            cluster_name: "scatter".into(),
            seeds: Vec::new(),
            agent: concat!("scatter-client/", env!("CARGO_PKG_VERSION")).into(),
            lanes: 1024,
            max_in_flight: 8192,
            patience: Duration::from_millis(100),
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_millis(500),
            refresh: Duration::from_secs(2),
            frame_limit: scatter_wire::DEFAULT_FRAME_LIMIT,
        }
    }
}
