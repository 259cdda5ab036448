//! The data API over this node: a read that this node may answer at once it does; all else goes through the gateway's
//! backend, over a client that reaches this very node without a socket. It finds the owner, repeats what fails and keeps
//! the lanes.

use crate::service::NodeService;
use scatter_api::{Backend, Consistency, Epoch, Failure, ReadPath, ReadReply, ReadRequest, WriteReply, WriteRequest};
use scatter_gateway::ClientBackend;
use std::time::Duration;

/// The backend.
#[derive(Clone)]
pub struct NodeBackend {
    service: NodeService,
    elsewhere: ClientBackend,
}

impl NodeBackend {
    /// A backend over the node and, for the rest, a client that knows it.
    #[must_use]
    pub fn new(service: NodeService, elsewhere: ClientBackend) -> Self {
        Self { service, elsewhere }
    }
}

impl Backend for NodeBackend {
    async fn read(&self, request: ReadRequest) -> Result<ReadReply, Failure> {
        let stale = request.consistency == Consistency::Any;
        let here = if stale { self.service.try_read_stale(&request.key) } else { self.service.try_read(&request.key) };
        let Some((served, found)) = here else { return self.elsewhere.read(request).await };
        Ok(ReadReply {
            found,
            group: served.group,
            epoch: Epoch { configuration: served.configuration.version, range: served.range_version },
            staleness: matches!(request.consistency, Consistency::Bounded { .. }).then_some(Duration::ZERO),
            path: if stale { ReadPath::Stale } else { ReadPath::Lease },
        })
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteReply, Failure> {
        self.elsewhere.write(request).await
    }
}
