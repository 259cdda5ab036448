//! What clients ask of this node, over a connection or from the same process.
//!
//! A read that the read word allows is answered where it arrives; everything else goes to the driver. Nothing is
//! forwarded: whoever asks is told where to go.

use crate::events::{Event, Inbox, Waiter};
use crate::orders;
use crate::serving::{Held, Served, Serving};
use crate::transport::{ClientService, Incoming};
use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::command::{Command, Found};
use scatter_core::ops::order::{Order, Side};
use scatter_core::ring::{Key, Position};
use scatter_core::store::StoreError;
use scatter_core::types::{GroupId, RangeVersion};
use scatter_wire::{
    AdminRequest, Boundary, ClientBody, Consistency, Description, Identity, LocalNode, LocalReply, NodeInfo, NodeState,
    ReadPath, Refusal, ReplicaInfo, ReplicaRole, ReplyBody,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;

/// In how many groups at once the middle may be looked for.
const MOST_LOOKS: usize = 2;

/// The node as clients see it. Usable on any thread.
#[derive(Clone)]
pub struct NodeService {
    serving: Arc<Serving>,
    inbox: Arc<Inbox>,
    identity: Arc<Identity>,
    /// Is there while the node is to be emptied, so that it still is after a restart.
    drain_mark: Arc<PathBuf>,
    /// Taken while the middle of a group is looked for, which reads much.
    looks: Arc<Semaphore>,
}

/// [`AdminRequest::Split`].
struct SplitOrder {
    group: GroupId,
    at: Option<Boundary>,
    range_version: Option<RangeVersion>,
    dry_run: bool,
}

/// [`AdminRequest::TakeOver`].
struct TakeOverOrder {
    group: GroupId,
    from: Side,
    boundary: Option<Position>,
    range_version: Option<RangeVersion>,
    dry_run: bool,
}

/// A read that was answered where it arrived.
#[derive(Debug)]
pub struct Here {
    /// The group that answered.
    pub served: Arc<Served>,
    /// What the key holds.
    pub found: Option<Found>,
    /// How it was answered.
    pub path: ReadPath,
    /// How old the answer may be; `None` if that is not known.
    pub staleness: Option<Duration>,
}

impl std::fmt::Debug for NodeService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeService").field("node", &self.identity.node).finish_non_exhaustive()
    }
}

impl NodeService {
    /// The service of the node that says `identity` of itself.
    #[must_use]
    pub fn new(serving: Arc<Serving>, inbox: Arc<Inbox>, identity: Identity, drain_mark: PathBuf) -> Self {
        let (identity, drain_mark) = (Arc::new(identity), Arc::new(drain_mark));
        Self { serving, inbox, identity, drain_mark, looks: Arc::new(Semaphore::new(MOST_LOOKS)) }
    }

    /// What other threads see of the node.
    #[must_use]
    pub fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }

    /// A read, if it can be answered here and at once.
    pub fn try_read(&self, key: &Key, consistency: Consistency) -> Option<Here> {
        let served = self.serving.find(key)?;
        // What failed here fails again on the long way, which says why.
        self.read_here(served, key, consistency).ok().flatten()
    }

    /// A read beside the loop, as up to date as possible.
    fn read_here(&self, served: Arc<Served>, key: &Key, consistency: Consistency) -> Result<Option<Here>, StoreError> {
        if let Some(found) = self.serving.read(&served, key)? {
            return Ok(Some(Here { served, found, path: ReadPath::Lease, staleness: Some(Duration::ZERO) }));
        }
        let most = match consistency {
            Consistency::Linearizable => return Ok(None),
            Consistency::Bounded { max_staleness_ms } => Some(Duration::from_millis(max_staleness_ms)),
            Consistency::Any => None,
        };
        let aged = self.serving.read_aged(&served, key, most)?;
        Ok(aged.map(|(found, staleness)| Here { served, found, path: ReadPath::Stale, staleness }))
    }

    /// Answers, now or later.
    pub fn take(&self, body: ClientBody, waiter: Waiter) {
        match body {
            ClientBody::Read { key, consistency } => self.read(key, consistency, waiter),
            ClientBody::Write { command } => self.write(command, waiter),
            ClientBody::Describe => waiter.answer(ReplyBody::Description { description: self.describe() }),
            ClientBody::Administer { request } => self.administer(request, waiter),
            ClientBody::Locate { position } => {
                waiter.answer(ReplyBody::Located { descriptors: self.serving.hints(position.position()) });
            }
        }
    }

    fn read(&self, key: Key, consistency: Consistency, waiter: Waiter) {
        let Some(served) = self.serving.find(&key) else { return waiter.answer(self.not_owner(Some(&key))) };
        let group = served.group;
        match self.read_here(served, &key, consistency) {
            Ok(Some(Here { served, found, path, staleness })) => waiter.answer(ReplyBody::Value {
                found,
                group,
                epoch: served.epoch(),
                path,
                staleness_ms: staleness.map(whole_milliseconds),
                stamp: served.stamp(),
            }),
            Ok(None) => self.inbox.push(Event::Read { group, key, waiter }),
            Err(error) => waiter.answer(failed(&error)),
        }
    }

    fn write(&self, bytes: Bytes, waiter: Waiter) {
        let command = match Command::from_all(bytes.clone()) {
            Ok(command) => command,
            Err(error) => {
                return waiter.answer(ReplyBody::refused(Refusal::Malformed { text: error.to_string() }));
            }
        };
        let keys = command.operation.keys();
        let Some(served) = keys.first().and_then(|key| self.serving.find(key)) else {
            return waiter.answer(self.not_owner(keys.first().copied()));
        };
        if keys.iter().any(|key| !served.range.contains(&key.position())) {
            let text = "the keys of a batch belong to one group".to_owned();
            return waiter.answer(ReplyBody::refused(Refusal::Malformed { text }));
        }
        if let Some(key) = keys.first() {
            served.figures.on_write(key);
        }
        self.inbox.push(Event::Propose { group: served.group, command: bytes, waiter });
    }

    fn administer(&self, request: AdminRequest, waiter: Waiter) {
        match request {
            AdminRequest::Status => {
                let json = crate::status::status(&self.serving, &self.identity).to_string();
                waiter.answer(ReplyBody::Administered { json });
            }
            AdminRequest::ChangeMembers { group, add, remove, version, dry_run } => {
                match orders::with_members(&self.serving, self.identity.node, group, version) {
                    Err(refused) => waiter.answer(refused),
                    Ok(served) if dry_run => {
                        waiter.answer(planned(crate::status::plan_members(&served, &add, &remove)));
                    }
                    Ok(_) => self.inbox.push(Event::ChangeMembers { group, add, remove, version, waiter }),
                }
            }
            AdminRequest::TransferLeader { group, to, dry_run: false } => {
                self.inbox.push(Event::HandOver { group, to, waiter });
            }
            AdminRequest::Split { group, at, range_version, dry_run } => {
                self.split(SplitOrder { group, at, range_version, dry_run }, waiter);
            }
            AdminRequest::TakeOver { group, from, boundary, range_version, dry_run } => {
                let boundary = boundary.map(Position::from);
                self.take_over(TakeOverOrder { group, from, boundary, range_version, dry_run }, waiter);
            }
            AdminRequest::Drain { on } => self.drain(on, waiter),
            AdminRequest::Recover { group, survivors } => self.inbox.push(Event::Recover { group, survivors, waiter }),
            AdminRequest::Condemn { nodes } => self.inbox.push(Event::Condemn { nodes, waiter }),
            AdminRequest::TransferLeader { group, to, dry_run: true } => match (self.led(group), to) {
                (Err(refused), _) => waiter.answer(refused),
                (Ok(()), Some(_)) => waiter.answer(planned(crate::status::plan_transfer(&self.serving, group, to))),
                (Ok(()), None) => self.inbox.push(Event::NameHeir { group, waiter }),
            },
        }
    }

    /// Marks on disk that the node is to be emptied, or not, and has it done.
    fn drain(&self, on: bool, waiter: Waiter) {
        let (mark, inbox) = (self.drain_mark.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let marked = if on {
                std::fs::File::create(&*mark).and_then(|file| file.sync_all())
            } else {
                std::fs::remove_file(&*mark)
                    .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
            };
            // What the folder holds must be on disk too: a node that is told to drain does so after any restart.
            let folder = mark.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all());
            match marked.and(folder) {
                Ok(()) => inbox.push(Event::SetDraining { on, waiter }),
                Err(error) => waiter.answer(ReplyBody::refused(Refusal::Unavailable { text: error.to_string() })),
            }
        });
    }

    /// An order to split a group. Without a position its middle is looked for first, beside the loop.
    fn split(&self, order: SplitOrder, waiter: Waiter) {
        let group = order.group;
        let served = match orders::ready(&self.serving, self.identity.node, group, order.range_version) {
            Ok(served) => served,
            Err(refused) => return waiter.answer(refused),
        };
        if let Some(at) = order.at {
            return self.split_at(&served, at.into(), order.dry_run, waiter);
        }
        let Ok(look) = self.looks.clone().try_acquire_owned() else {
            return waiter.answer(ReplyBody::refused(Refusal::Overloaded));
        };
        let service = self.clone();
        tokio::task::spawn_blocking(move || {
            let middle = orders::middle(&service.serving, &served);
            drop(look);
            match middle {
                Ok(Some(at)) => service.split_at(&served, at, order.dry_run, waiter),
                Ok(None) => waiter.answer(orders::conflict("there are not two keys to part")),
                Err(error) => waiter.answer(failed(&error)),
            }
        });
    }

    fn split_at(&self, served: &Served, at: Position, dry_run: bool, waiter: Waiter) {
        match orders::plan_split(served, &at) {
            Ok(plan) if dry_run => waiter.answer(ReplyBody::Administered { json: plan.to_string() }),
            Ok(_) => self.inbox.push(Event::Reshape { group: served.group, order: Order::Split { at }, waiter }),
            Err(refused) => waiter.answer(refused),
        }
    }

    /// An order to take over positions of a neighbour.
    fn take_over(&self, order: TakeOverOrder, waiter: Waiter) {
        let TakeOverOrder { group, from, boundary, range_version, dry_run } = order;
        let ready = orders::ready(&self.serving, self.identity.node, group, range_version);
        match ready.and_then(|served| orders::plan_takeover(&served, from, boundary.as_ref())) {
            Ok(plan) if dry_run => waiter.answer(ReplyBody::Administered { json: plan.to_string() }),
            Ok(_) => self.inbox.push(Event::Reshape { group, order: Order::TakeOver { from, boundary }, waiter }),
            Err(refused) => waiter.answer(refused),
        }
    }

    fn led(&self, group: GroupId) -> Result<(), ReplyBody> {
        orders::led(&self.serving, self.identity.node, group).map(drop)
    }

    fn not_owner(&self, key: Option<&Key>) -> ReplyBody {
        ReplyBody::Refused {
            refusal: Refusal::NotOwner,
            retry_after_ms: 0,
            descriptors: key.map(|key| self.serving.hints(&key.position())).unwrap_or_default(),
            stamp: Default::default(),
        }
    }

    fn describe(&self) -> Description {
        let view = self.serving.view.load();
        let replicas = view.replicas.iter().map(|status| self.replica(status)).collect();
        let state = if view.cluster.is_none() {
            NodeState::Joining
        } else if view.draining {
            if view.replicas.is_empty() { NodeState::Drained } else { NodeState::Draining }
        } else {
            NodeState::Alive
        };
        let own = NodeInfo {
            node: self.identity.node,
            peer_address: self.identity.peer_address.clone(),
            http_address: self.identity.http_address.clone(),
            zone: self.identity.zone.clone(),
            state,
            replicas,
        };
        let others = view.nodes.iter().filter(|node| node.node != self.identity.node);
        Description {
            cluster_name: self.identity.cluster_name.clone(),
            cluster: view.cluster,
            node: own,
            descriptors: self.serving.known_descriptors(),
            nodes: others.cloned().collect(),
        }
    }

    fn replica(&self, status: &scatter_core::node::ReplicaStatus) -> ReplicaInfo {
        let served = self.serving.group(status.replica.group);
        let figure =
            |read: fn(&crate::serving::Figures) -> u64| served.as_ref().map_or(0, |served| read(&served.figures));
        ReplicaInfo {
            group: status.replica.group,
            incarnation: status.replica.incarnation,
            role: match status.role {
                "leader" => ReplicaRole::Leader,
                "learner" => ReplicaRole::Learner,
                "joining" => ReplicaRole::Joining,
                "merged" => ReplicaRole::Merged,
                _ => ReplicaRole::Follower,
            },
            ballot: status.ballot,
            decided: status.decided,
            applied: status.applied,
            keys: figure(|figures| figures.keys.load(Ordering::Relaxed)),
            bytes: figure(|figures| figures.bytes.load(Ordering::Relaxed)),
            operations_per_second: figure(|figures| figures.per_second.load(Ordering::Relaxed)),
            pending: served.as_ref().and_then(|served| served.held.as_ref()).map(Held::info),
            range_version: served.as_ref().map_or(RangeVersion(0), |served| served.range_version),
        }
    }
}

/// Rounded up: what is said to be so old may be younger, never older.
fn whole_milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

pub(crate) fn planned(answer: Result<serde_json::Value, String>) -> ReplyBody {
    match answer {
        Ok(plan) => ReplyBody::Administered { json: plan.to_string() },
        Err(text) => ReplyBody::refused(Refusal::Conflict { text }),
    }
}

fn failed(error: &StoreError) -> ReplyBody {
    ReplyBody::refused(Refusal::Unavailable { text: error.to_string() })
}

impl ClientService for NodeService {
    fn serve(&self, batch: Vec<Incoming>) {
        for Incoming { request, responder } in batch {
            self.take(request.body, Waiter::Client(responder));
        }
    }
}

impl LocalNode for NodeService {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn serve(&self, body: ClientBody, _budget_ms: u32, reply: LocalReply) {
        self.take(body, Waiter::Task(reply));
    }
}
