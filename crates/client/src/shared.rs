//! What all requests of one client share, and how it learns.

use crate::cache::RingCache;
use crate::config::ClientConfig;
use crate::lanes::Lanes;
use crate::limits::{InFlight, RetryBudget};
use crate::metrics::ClientMetrics;
use crate::nodes::{Nodes, Unreached};
use crate::search::Searches;
use scatter_core::group::Descriptor;
use scatter_core::types::{GroupId, NodeId, SessionId, Version};
use scatter_wire::{
    Boundary, ClientBody, Connection, ConnectionMetrics, ConnectionOptions, Description, Epoch, ReplicaRole, ReplyBody,
};
use std::sync::Arc;
use std::time::Duration;

/// How long a node may take to describe itself.
pub(crate) const DESCRIBE_TIMEOUT: Duration = Duration::from_millis(500);

/// Says in a request that the node is to refuse what it cannot do itself: the client goes where the refusal points.
pub(crate) const NO_FORWARDING: u8 = u8::MAX;

/// The parts of one client.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ClientConfig,
    pub(crate) cache: RingCache,
    pub(crate) nodes: Nodes,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) budget: RetryBudget,
    pub(crate) metrics: Arc<ClientMetrics>,
    pub(crate) connections: Arc<ConnectionMetrics>,
    pub(crate) searches: Searches,
}

impl Shared {
    pub(crate) fn new(config: ClientConfig) -> Self {
        let connections = Arc::new(ConnectionMetrics::default());
        let options = ConnectionOptions {
            cluster_name: config.cluster_name.clone(),
            agent: config.agent.clone(),
            frame_limit: config.frame_limit,
            connect_timeout: config.connect_timeout,
            max_in_flight: config.max_in_flight,
            metrics: Arc::clone(&connections),
            ..ConnectionOptions::default()
        };
        Self {
            cache: RingCache::default(),
            nodes: Nodes::new(options),
            lanes: Arc::new(Lanes::new(SessionId(rand::random()), config.lanes)),
            in_flight: Arc::new(InFlight::new(config.max_in_flight)),
            budget: RetryBudget::default(),
            metrics: Arc::default(),
            connections,
            searches: Searches::default(),
            config,
        }
    }

    /// Takes in descriptors, addresses first, so that whoever wakes at the news knows where to go.
    pub(crate) fn learn(&self, descriptors: &[Descriptor]) {
        for member in descriptors.iter().flat_map(|descriptor| &descriptor.configuration.members) {
            self.nodes.heard(member.node, &member.address);
        }
        self.cache.learn(descriptors);
    }

    /// Takes in what a node tells of itself and others.
    pub(crate) fn learn_description(&self, description: &Description) {
        self.nodes.vouched(description.node.node, &description.node.peer_address);
        for other in &description.nodes {
            self.nodes.heard(other.node, &other.peer_address);
        }
        self.learn(&description.descriptors);
        for replica in &description.node.replicas {
            if replica.role == ReplicaRole::Leader {
                self.cache.leader_says(replica.group, description.node.node);
            }
        }
    }

    /// Takes in the small hints that every good reply carries. Newer versions than the cache's are asked after.
    pub(crate) fn learn_epoch(self: &Arc<Self>, node: NodeId, group: GroupId, epoch: Epoch, stamp: Version) {
        self.lanes.heard(stamp);
        let view = self.cache.view();
        let stale = view
            .group(group)
            .is_none_or(|known| known.configuration.version < epoch.configuration || known.range_version < epoch.range);
        drop(view);
        if stale {
            self.ask_again(node);
        }
    }

    /// Has a node describe itself in the background, once for all who want it at the same time.
    fn ask_again(self: &Arc<Self>, node: NodeId) {
        let Some(asking) = self.searches.begin_asking(node) else { return };
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let _asking = asking;
            // A failure changes nothing; the next reply asks again.
            drop(shared.describe_node(node).await);
        });
    }

    /// Asks a node what it is and knows, and takes that in.
    pub(crate) async fn describe_node(&self, node: NodeId) -> Result<Description, Unreached> {
        let link = within(DESCRIBE_TIMEOUT, self.nodes.connect(node)).await?;
        self.describe(&link).await
    }

    /// Asks whoever answers at an address what it is and knows, and takes that in.
    pub(crate) async fn describe_address(&self, address: &str) -> Result<Description, Unreached> {
        let link = within(DESCRIBE_TIMEOUT, self.nodes.connect_to(address)).await?;
        self.describe(&link).await
    }

    /// Asks a node who owns a position, and takes that in.
    pub(crate) async fn locate(&self, node: NodeId, position: &Boundary) -> Result<Vec<Descriptor>, Unreached> {
        let ask = async {
            let link = self.nodes.connect(node).await?;
            let budget_ms = u32::try_from(DESCRIBE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
            let body = ClientBody::Locate { position: position.clone() };
            let reply = link.request(body, budget_ms, NO_FORWARDING).await;
            match reply.map_err(|error| Unreached::Failed(error.to_string()))? {
                ReplyBody::Located { descriptors } | ReplyBody::Refused { descriptors, .. } => Ok(descriptors),
                ReplyBody::Value { .. }
                | ReplyBody::Outcome { .. }
                | ReplyBody::Administered { .. }
                | ReplyBody::Description { .. } => {
                    Err(Unreached::Failed(format!("node {node} answered another question")))
                }
            }
        };
        let descriptors = within(DESCRIBE_TIMEOUT, ask).await?;
        self.learn(&descriptors);
        Ok(descriptors)
    }

    async fn describe(&self, link: &Connection) -> Result<Description, Unreached> {
        let failed = |text: String| Unreached::Failed(text);
        let budget_ms = u32::try_from(DESCRIBE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        let call = link.call(ClientBody::Describe, budget_ms, NO_FORWARDING).map_err(|error| {
            self.nodes.drop_closed(link.identity().node);
            failed(error.to_string())
        })?;
        let reply = within(DESCRIBE_TIMEOUT, async { call.await.map_err(|error| failed(error.to_string())) }).await?;
        match reply {
            ReplyBody::Description { description } => {
                self.learn_description(&description);
                Ok(description)
            }
            ReplyBody::Refused { refusal, descriptors, stamp, .. } => {
                self.lanes.heard(stamp);
                self.learn(&descriptors);
                Err(failed(format!("node {} refused to describe itself: {refusal:?}", link.identity().node)))
            }
            ReplyBody::Value { .. }
            | ReplyBody::Outcome { .. }
            | ReplyBody::Administered { .. }
            | ReplyBody::Located { .. } => {
                Err(failed(format!("node {} answered another question", link.identity().node)))
            }
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, Unreached>>) -> Result<T, Unreached> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Unreached::Failed(format!("no answer within {} ms", limit.as_millis()))),
    }
}
