//! The client itself.

use crate::cache::RingView;
use crate::config::ClientConfig;
use crate::drive::{Aim, Drive, Place};
use crate::error::{AdminError, ReadError, Reason, StartError, WriteError};
use crate::metrics::ClientMetrics;
use crate::requests::{
    BatchWritten, Deleted, OrderWork, ReadOptions, ReadReply, ReadWork, WriteOptions, WriteReply, WriteWork, Written,
    first_key, put,
};
use crate::reshape::{MembersOptions, ReshapeOptions, shift};
use crate::search::keep_fresh;
use crate::shared::{NO_FORWARDING, Shared};
use bytes::Bytes;
use scatter_core::command::{Condition, Idempotency, Operation, Write};
use scatter_core::ring::{Key, Position};
use scatter_core::types::{GroupId, NodeId};
use scatter_wire::{
    AdminRequest, Boundary, ClientBody, ConnectionMetrics, Consistency, Description, MAX_BOUNDARY_BYTES, NewMember,
    Refusal, ReplyBody, Side,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What a request is told that is shed: when to come again.
const SHED_RETRY_AFTER: Duration = Duration::from_millis(100);

/// A client of one cluster. Clones share connections, cache and session.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// Starts a client and waits until some seed has told of the ring, for at most the configured timeout.
    pub async fn connect(config: ClientConfig) -> Result<Self, StartError> {
        let client = Self::start(config)?;
        client.ready(client.shared.config.timeout).await?;
        Ok(client)
    }

    /// Starts a client that looks for its cluster in the background. Requests wait for it within their own limits. Must
    /// be called inside a tokio runtime.
    pub fn start(config: ClientConfig) -> Result<Self, StartError> {
        if config.seeds.is_empty() {
            return Err(StartError::Settings("a client needs at least one seed"));
        }
        if config.lanes == 0 || config.max_in_flight == 0 {
            return Err(StartError::Settings("a client needs at least one lane and one request in flight"));
        }
        let shared = Arc::new(Shared::new(config));
        tokio::spawn(keep_fresh(Arc::downgrade(&shared), shared.config.refresh));
        Ok(Self { shared })
    }

    /// Reaches one node without a socket from now on: the node that the client is part of.
    pub fn register_local(&self, node: std::sync::Arc<dyn scatter_wire::LocalNode>) {
        self.shared.nodes.register(&scatter_wire::Connection::local(node));
    }

    /// Waits until the ring is known.
    pub async fn ready(&self, limit: Duration) -> Result<(), StartError> {
        let mut news = self.shared.cache.changes();
        let known = async {
            while self.shared.cache.view().routes().is_empty() {
                self.shared.search_ring();
                // A search ends after a while without telling; it is begun again.
                drop(tokio::time::timeout(Duration::from_millis(250), news.changed()).await);
            }
        };
        if tokio::time::timeout(limit, known).await.is_ok() {
            return Ok(());
        }
        let seed = self.shared.config.seeds.first().map_or("", String::as_str);
        let last = match self.shared.describe_address(seed).await {
            Ok(_) => format!("{seed} answers, but knows of no group"),
            Err(error) => error.to_string(),
        };
        Err(StartError::NoRing { waited: limit, last })
    }

    /// Reads a key.
    pub async fn get(&self, key: &Key, options: ReadOptions) -> Result<ReadReply, ReadError> {
        let shared = &self.shared;
        shared.metrics.reads.add();
        let Some(_admitted) = shared.in_flight.admit() else {
            shared.metrics.shed.add();
            return Err(ReadError { reason: Reason::Overloaded { retry_after: SHED_RETRY_AFTER } });
        };
        let aim = match options.consistency {
            Consistency::Linearizable => Aim::Leader,
            Consistency::Bounded { .. } => Aim::AnyMemberFirst,
            Consistency::Any => Aim::AnyMember,
        };
        let work = ReadWork { key: key.clone(), consistency: options.consistency };
        let reply = Drive::new(shared, Place::Key(key), aim, self.deadline(options.timeout), work).run().await?;
        Ok(reply)
    }

    /// Sets a key.
    pub async fn put(&self, key: Key, value: Bytes, options: WriteOptions) -> Result<Written, WriteError> {
        let operation = put(key, value, &options);
        self.execute(operation, options.idempotency, options.timeout).await?.written()
    }

    /// Removes a key. That there is none is no error.
    pub async fn delete(&self, key: Key, options: WriteOptions) -> Result<Deleted, WriteError> {
        let operation = Operation::Delete { key, condition: options.condition };
        self.execute(operation, options.idempotency, options.timeout).await?.deleted()
    }

    /// Does all `writes` in order if every condition holds, else nothing. All keys must belong to one group, which keys of
    /// one partition mostly do. Of `options` only the limit and the idempotency key count.
    pub async fn batch(
        &self,
        conditions: Vec<(Key, Condition)>,
        writes: Vec<Write>,
        options: WriteOptions,
    ) -> Result<BatchWritten, WriteError> {
        let operation = Operation::Batch { conditions, writes };
        self.execute(operation, options.idempotency, options.timeout).await?.batch_written()
    }

    /// Carries out any operation, and returns what the group recorded of it, which may be that a condition failed.
    pub async fn execute(
        &self,
        operation: Operation,
        idempotency: Option<Idempotency>,
        timeout: Option<Duration>,
    ) -> Result<WriteReply, WriteError> {
        let Some(key) = first_key(&operation).cloned() else {
            let reason = Reason::Malformed("a batch has at least one condition or write".into());
            return Err(WriteError::NotApplied { reason });
        };
        let shared = &self.shared;
        shared.metrics.writes.add();
        let overloaded = || {
            shared.metrics.shed.add();
            WriteError::NotApplied { reason: Reason::Overloaded { retry_after: SHED_RETRY_AFTER } }
        };
        let _admitted = shared.in_flight.admit().ok_or_else(overloaded)?;
        let deadline = self.deadline(timeout);
        let lane = match shared.lanes.try_open() {
            Some(lane) => lane,
            None => tokio::time::timeout_at(deadline, shared.lanes.open()).await.map_err(|_| overloaded())?,
        };
        let work = WriteWork::new(operation, idempotency, lane);
        let result = Drive::new(shared, Place::Key(&key), Aim::Leader, deadline, work).run().await;
        result.map_err(|failure| {
            let error = WriteError::from(failure);
            if matches!(error, WriteError::Unknown { .. }) {
                shared.metrics.unknown_outcomes.add();
            }
            error
        })
    }

    /// Changes a group's members. Returns what the leader says, a JSON document.
    pub async fn change_members(
        &self,
        group: GroupId,
        add: Vec<NewMember>,
        remove: Vec<NodeId>,
        options: MembersOptions,
    ) -> Result<String, AdminError> {
        let MembersOptions { version, dry_run, timeout } = options;
        self.order(group, AdminRequest::ChangeMembers { group, add, remove, version, dry_run }, timeout).await
    }

    /// Hands a group's leadership to one of its members, or to whom the leader chooses. Returns what it says, a JSON
    /// document.
    pub async fn transfer_leader(
        &self,
        group: GroupId,
        to: Option<NodeId>,
        dry_run: bool,
        timeout: Option<Duration>,
    ) -> Result<String, AdminError> {
        self.order(group, AdminRequest::TransferLeader { group, to, dry_run }, timeout).await
    }

    /// Splits a group: the part of its range from `at` on, or from the middle of what it holds, goes to a new group. Returns
    /// what the leader says, a JSON document that names the new group as `child`.
    pub async fn split(
        &self,
        group: GroupId,
        at: Option<Position>,
        options: ReshapeOptions,
    ) -> Result<String, AdminError> {
        let at = at.map(bounded).transpose()?;
        let ReshapeOptions { range_version, dry_run, timeout } = options;
        self.order(group, AdminRequest::Split { group, at, range_version, dry_run }, timeout).await
    }

    /// Merges a group with its neighbour on one side: the group takes over all that the neighbour has, and the neighbour ends.
    /// Returns what the leader says, a JSON document.
    pub async fn merge(&self, group: GroupId, side: Side, options: ReshapeOptions) -> Result<String, AdminError> {
        let ReshapeOptions { range_version, dry_run, timeout } = options;
        let request = AdminRequest::TakeOver { group, from: side, boundary: None, range_version, dry_run };
        self.order(group, request, timeout).await
    }

    /// Moves the boundary between a group and its neighbour on one side to `boundary`. Beyond the group's range the group
    /// gains, inside it the neighbour does. Returns what the leader of the group that gains says, a JSON document.
    pub async fn repartition(
        &self,
        group: GroupId,
        boundary: Position,
        side: Side,
        options: ReshapeOptions,
    ) -> Result<String, AdminError> {
        self.refresh(group, options.timeout).await;
        let view = self.ring();
        let refused = |reason| AdminError::Refused { reason };
        let shift = shift(&view, group, &boundary, side).map_err(refused)?;
        let own = view.group(group).map(|own| own.range_version);
        if options.range_version.is_some_and(|wanted| Some(wanted) != own) {
            return Err(refused(Reason::Conflict("the group's range has changed".to_owned())));
        }
        let request = AdminRequest::TakeOver {
            group: shift.gainer,
            from: shift.from,
            boundary: Some(bounded(boundary)?),
            range_version: options.range_version.map(|_| shift.range_version),
            dry_run: options.dry_run,
        };
        self.order(shift.gainer, request, options.timeout).await
    }

    /// Asks anew about a group and its neighbours.
    async fn refresh(&self, group: GroupId, timeout: Option<Duration>) {
        let view = self.ring();
        let members = view.group(group).map(|known| {
            let members = known.configuration.members.iter().map(|member| member.node);
            known.leader.into_iter().chain(members).collect::<Vec<_>>()
        });
        for node in members.iter().flatten() {
            let told = self.shared.describe_node(*node).await;
            if told.is_ok_and(|told| told.descriptors.iter().any(|descriptor| descriptor.group == group)) {
                return;
            }
        }
        self.survey(timeout.unwrap_or(self.shared.config.timeout) / 2).await;
    }

    async fn order(
        &self,
        group: GroupId,
        request: AdminRequest,
        timeout: Option<Duration>,
    ) -> Result<String, AdminError> {
        let work = OrderWork::new(request);
        let deadline = self.deadline(timeout);
        Ok(Drive::new(&self.shared, Place::Group(group), Aim::Leader, deadline, work).run().await?)
    }

    /// A node's own status, a JSON document.
    pub async fn node_status(&self, node: NodeId, timeout: Option<Duration>) -> Result<String, AdminError> {
        self.ask_node(node, AdminRequest::Status, timeout).await
    }

    /// Has a node emptied, or not any more. Returns what it says, a JSON document; it goes on afterwards.
    pub async fn drain(&self, node: NodeId, on: bool, timeout: Option<Duration>) -> Result<String, AdminError> {
        self.ask_node(node, AdminRequest::Drain { on }, timeout).await
    }

    /// Has a group that has lost its majority for good go on with `survivors` alone, as another group; `base`, one of them, sees to
    /// it. Unsafe: what only the lost members had is lost, and if they are not lost there are two owners until they hear of it.
    /// [`Client::condemn`] must have told every survivor whom not to listen to. Returns what the base says, a JSON document that
    /// names the new group as `child`.
    pub async fn recover(
        &self,
        base: NodeId,
        group: GroupId,
        survivors: Vec<NodeId>,
        timeout: Option<Duration>,
    ) -> Result<String, AdminError> {
        self.ask_node(base, AdminRequest::Recover { group, survivors }, timeout).await
    }

    /// Has a node listen to `condemned` no more, for good: groups go on without them.
    pub async fn condemn(
        &self,
        node: NodeId,
        condemned: Vec<NodeId>,
        timeout: Option<Duration>,
    ) -> Result<String, AdminError> {
        self.ask_node(node, AdminRequest::Condemn { nodes: condemned }, timeout).await
    }

    /// Asks one node. All that is asked so may be asked again.
    async fn ask_node(
        &self,
        node: NodeId,
        request: AdminRequest,
        timeout: Option<Duration>,
    ) -> Result<String, AdminError> {
        // Once it may have been sent, nobody knows that nothing came of it.
        let sent = AtomicBool::new(false);
        let failed = |reason| match sent.load(Ordering::Relaxed) {
            true => AdminError::Unknown { reason },
            false => AdminError::Refused { reason },
        };
        let ask = async {
            let unreached = |text: String| AdminError::Refused { reason: Reason::Unreachable(text) };
            let link = self.shared.nodes.connect(node).await.map_err(|error| unreached(error.to_string()))?;
            sent.store(true, Ordering::Relaxed);
            let body = ClientBody::Administer { request };
            match link.request(body, u32::MAX, NO_FORWARDING).await {
                Ok(ReplyBody::Administered { json }) => Ok(json),
                Ok(ReplyBody::Refused { refusal, .. }) => Err(AdminError::Refused { reason: refusal_of(refusal) }),
                Ok(other) => Err(failed(Reason::Unavailable(format!("node {node} answers something else: {other:?}")))),
                Err(error) if error.is_definite() => Err(unreached(error.to_string())),
                Err(error) => Err(failed(Reason::Unreachable(error.to_string()))),
            }
        };
        let limit = timeout.unwrap_or(self.shared.config.timeout);
        tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| Err(failed(Reason::Deadline)))
    }

    /// Has one node describe itself.
    pub async fn describe(&self, node: NodeId) -> Result<Description, Reason> {
        self.shared.describe_node(node).await.map_err(|error| Reason::Unreachable(error.to_string()))
    }

    /// Has every seed and every node known, or heard of meanwhile, describe itself, within `limit`.
    pub async fn survey(&self, limit: Duration) -> crate::survey::Survey {
        crate::survey::survey(&self.shared, limit).await
    }

    /// What the client believes about the ring.
    #[must_use]
    pub fn ring(&self) -> Arc<RingView> {
        Arc::clone(&self.shared.cache.view())
    }

    /// The address under which a node would be reached.
    #[must_use]
    pub fn address(&self, node: NodeId) -> Option<String> {
        self.shared.nodes.address(node).map(|address| address.to_string())
    }

    /// Whether some group is known with a leader: requests have somewhere to go.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.shared.cache.view().routes().iter().any(|route| route.leader.is_some())
    }

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.count()
    }

    /// Lanes in use: writes under way.
    #[must_use]
    pub fn lanes_in_use(&self) -> usize {
        self.shared.lanes.in_use()
    }

    /// What the client counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<ClientMetrics> {
        Arc::clone(&self.shared.metrics)
    }

    /// What its connections count.
    #[must_use]
    pub fn connection_metrics(&self) -> Arc<ConnectionMetrics> {
        Arc::clone(&self.shared.connections)
    }

    fn deadline(&self, timeout: Option<Duration>) -> Instant {
        Instant::now() + timeout.unwrap_or(self.shared.config.timeout)
    }
}

/// What a node refuses that was asked about itself.
fn refusal_of(refusal: Refusal) -> Reason {
    match refusal {
        Refusal::Unavailable { text } => Reason::Unavailable(text),
        Refusal::Malformed { text } => Reason::Malformed(text),
        Refusal::Conflict { text } => Reason::Conflict(text),
        Refusal::DiskFull => Reason::DiskFull,
        other => Reason::Unavailable(format!("it refuses: {other:?}")),
    }
}

/// A position that may be spoken of.
fn bounded(position: Position) -> Result<Boundary, AdminError> {
    let text = || format!("a position has at most {MAX_BOUNDARY_BYTES} bytes");
    Boundary::new(position).ok_or_else(|| AdminError::Refused { reason: Reason::Malformed(text()) })
}
