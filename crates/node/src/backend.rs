//! The data API over this node: a read that this node may answer at once it does; all else goes through the gateway's
//! backend, over a client that reaches this very node without a socket. It finds the owner, repeats what fails and keeps
//! the lanes.

use crate::service::NodeService;
use scatter_api::{Backend, Consistency, Failure, ReadReply, ReadRequest, WriteReply, WriteRequest};
use scatter_gateway::{ClientBackend, consistency, read_path};
use scatter_wire::Epoch;

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
        let here = self.service.try_read(&request.key, consistency(request.consistency));
        let Some(here) = here else { return self.elsewhere.read(request).await };
        let Epoch { configuration, range } = here.served.epoch();
        Ok(ReadReply {
            found: here.found,
            group: here.served.group,
            epoch: scatter_api::Epoch { configuration, range },
            staleness: here.staleness.filter(|_| request.consistency != Consistency::Linearizable),
            path: read_path(here.path),
        })
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteReply, Failure> {
        self.elsewhere.write(request).await
    }
}
