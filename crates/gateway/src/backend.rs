//! The data API's backend: the client library.

use scatter_api::{
    Backend, Consistency, Epoch, Failure, ReadPath, ReadReply, ReadRequest, Reason, WriteReply, WriteRequest,
};
use scatter_client::{Client, GroupId, Outcome, ReadError, ReadOptions, Reason as ClientReason, WriteError};
use std::time::{Duration, Instant};

/// Answers the data API through a client.
#[derive(Clone, Debug)]
pub struct ClientBackend {
    client: Client,
}

impl ClientBackend {
    /// A backend over `client`.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Backend for ClientBackend {
    async fn read(&self, request: ReadRequest) -> Result<ReadReply, Failure> {
        let options = ReadOptions { consistency: consistency(request.consistency), timeout: left(request.deadline) };
        let reply = self.client.get(&request.key, options).await.map_err(|ReadError { reason }| refused(reason))?;
        let stale = request.consistency != Consistency::Linearizable;
        Ok(ReadReply {
            found: reply.found,
            group: reply.served.group,
            epoch: epoch(reply.served.epoch),
            staleness: reply.staleness.filter(|_| stale),
            path: read_path(reply.path),
        })
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteReply, Failure> {
        let WriteRequest { operation, idempotency, deadline } = request;
        match self.client.execute(operation, idempotency, left(deadline)).await {
            Ok(reply) => {
                Ok(WriteReply { outcome: reply.outcome, group: reply.served.group, epoch: epoch(reply.served.epoch) })
            }
            Err(WriteError::NotApplied { reason }) => Err(refused(reason)),
            Err(WriteError::Unknown { reason: ClientReason::Deadline }) => {
                Err(Failure::unknown(Reason::Deadline, "the time is over and an attempt may have been applied"))
            }
            Err(WriteError::Unknown { reason }) => {
                tracing::debug!(%reason, "an unknown outcome");
                // The API says so; nobody knows which group has the answer.
                Ok(WriteReply { outcome: Outcome::Unknown, group: GroupId::default(), epoch: Epoch::default() })
            }
            Err(error @ (WriteError::ConditionFailed { .. } | WriteError::IdempotencyMismatch)) => {
                // These come as recorded outcomes above.
                Err(Failure::refused(Reason::Internal, error.to_string()))
            }
        }
    }
}

fn left(deadline: Instant) -> Option<Duration> {
    Some(deadline.saturating_duration_since(Instant::now()))
}

/// What the data API calls the way a read was answered.
#[must_use]
pub const fn read_path(path: scatter_client::ReadPath) -> ReadPath {
    match path {
        scatter_client::ReadPath::Lease => ReadPath::Lease,
        scatter_client::ReadPath::Quorum => ReadPath::Quorum,
        scatter_client::ReadPath::Stale => ReadPath::Stale,
    }
}

/// What a client request calls what the data API asks for.
#[must_use]
pub fn consistency(asked: Consistency) -> scatter_client::Consistency {
    match asked {
        Consistency::Linearizable => scatter_client::Consistency::Linearizable,
        Consistency::Bounded { max_staleness } => scatter_client::Consistency::Bounded {
            max_staleness_ms: u64::try_from(max_staleness.as_millis()).unwrap_or(u64::MAX),
        },
        Consistency::Any => scatter_client::Consistency::Any,
    }
}

const fn epoch(epoch: scatter_client::Epoch) -> Epoch {
    Epoch { configuration: epoch.configuration, range: epoch.range }
}

/// What a request that certainly did nothing is told.
fn refused(reason: ClientReason) -> Failure {
    let text = reason.to_string();
    let (kind, retry_after) = match reason {
        ClientReason::NoOwner
        | ClientReason::NoLeader
        | ClientReason::Unreachable(_)
        | ClientReason::Unavailable(_)
        | ClientReason::Forgotten => (Reason::Unavailable, None),
        ClientReason::Sealed { retry_after } => (Reason::Unavailable, Some(retry_after)),
        ClientReason::Overloaded { retry_after } => (Reason::Overloaded, Some(retry_after)),
        ClientReason::DiskFull => (Reason::StorageFull, None),
        ClientReason::Deadline => (Reason::Deadline, None),
        ClientReason::Malformed(_) => (Reason::Malformed, None),
        ClientReason::TooLarge { .. } => (Reason::TooLarge, None),
        ClientReason::Conflict(_) | ClientReason::Gone { .. } => (Reason::Conflict, None),
    };
    let failure = Failure::refused(kind, text);
    match retry_after {
        Some(wait) => failure.after(wait),
        None => failure,
    }
}
