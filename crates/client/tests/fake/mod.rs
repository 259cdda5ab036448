//! A cluster of pretenders on real sockets: one group, one shared state, nodes that die, stop, refuse and lie on demand.

#![allow(dead_code, reason = "each of the tests that share this uses a part of it")]

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use scatter_core::codec::Decode as _;
use scatter_core::command::{Command, Condition, Found, LaneUse, Operation, Outcome};
use scatter_core::group::{Configuration, Descriptor, Member, Role};
use scatter_core::ops::OperationId;
use scatter_core::ring::{KeyRange, Position};
use scatter_core::time::LogTime;
use scatter_core::types::{
    Ballot, ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion, SessionId, Slot, Version,
};
use scatter_wire::frame::decode_batch;
use scatter_wire::handshake;
use scatter_wire::{
    AdminRequest, ClientBody, ClientReply, ClientRequest, Consistency, DEFAULT_FRAME_LIMIT, Description, Epoch,
    FrameBatch, Hello, Identity, NodeInfo, NodeState, PendingInfo, ReadPath, Refusal, ReplicaInfo, ReplicaRole,
    ReplyBody,
};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub(crate) const GROUP: GroupId = GroupId(0xabc);
pub(crate) const CLUSTER: ClusterId = ClusterId(0xc1);

/// What happens to the next write that a leader receives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Trick {
    /// It is applied, and the connection ends before the answer.
    ApplyThenHangUp,
    /// The connection ends before anything is applied.
    HangUp,
    /// A clean refusal.
    Refuse(Refusal),
    /// The log answers with an outcome that is not recorded.
    Answer(Outcome),
    /// It is applied, and the node says that it cannot tell.
    ApplyThenUnknown,
}

/// What the group holds.
#[derive(Default)]
pub(crate) struct Group {
    pub(crate) data: BTreeMap<Bytes, (Bytes, Version)>,
    pub(crate) lanes: HashMap<(SessionId, u32), (u64, Outcome)>,
    pub(crate) version: u64,
    /// Every command that changed something, with its lane.
    pub(crate) applied: Vec<(LaneUse, Operation)>,
    /// Every lane use that arrived, refused ones included.
    pub(crate) arrived: Vec<LaneUse>,
    pub(crate) tricks: VecDeque<Trick>,
    pub(crate) leader: Option<NodeId>,
    pub(crate) round: u64,
    pub(crate) orders: Vec<AdminRequest>,
    /// What the next orders hear, each one of them.
    pub(crate) refusals: VecDeque<Refusal>,
    /// The group that took this one over, as soon as an order had come.
    pub(crate) heir: Option<GroupId>,
    pub(crate) reads_by: Vec<NodeId>,
    /// Followers serve bounded reads, not only the leader.
    pub(crate) bounded_anywhere: bool,
}

/// Another group of the same members, which owns the end of the ring.
pub(crate) struct Neighbour {
    /// How often it is still shown to be held, once positions of it were ordered to go.
    pub(crate) held_for: u32,
}

pub(crate) const NEIGHBOUR: GroupId = GroupId(0xabd);

/// Where the neighbour's range begins.
const NEIGHBOUR_START: u8 = 0xf0;

struct Running {
    id: NodeId,
    address: String,
    stopped: watch::Sender<bool>,
    alive: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

pub(crate) struct Cluster {
    /// A loopback address of its own, so that a port given up is not taken by a stranger before it is bound again.
    pub(crate) host: String,
    pub(crate) group: Mutex<Group>,
    nodes: Mutex<Vec<Running>>,
    members: Mutex<Vec<Member>>,
    /// Nodes that others tell of and that are no members.
    strangers: Mutex<Vec<(NodeId, String)>>,
    /// Nodes whose state is not that they are alive, by their own word or that of others.
    states: Mutex<BTreeMap<NodeId, NodeState>>,
    /// What each node has decided by itself, as in its status.
    pub(crate) decisions: Mutex<BTreeMap<NodeId, String>>,
    pub(crate) neighbour: Mutex<Option<Neighbour>>,
}

impl Cluster {
    /// Nodes 1 to `count`, led by node 1.
    pub(crate) async fn start(count: u64) -> Arc<Self> {
        let group = Group { leader: Some(NodeId(1)), round: 1, version: 1000, ..Group::default() };
        let cluster = Arc::new(Self {
            host: host(),
            group: Mutex::new(group),
            nodes: Mutex::default(),
            members: Mutex::default(),
            strangers: Mutex::default(),
            states: Mutex::default(),
            decisions: Mutex::default(),
            neighbour: Mutex::default(),
        });
        for id in 1..=count {
            let address = cluster.run_node(NodeId(id), &format!("{}:0", cluster.host)).await;
            cluster.members.lock().push(Member {
                node: NodeId(id),
                incarnation: Incarnation(1),
                role: Role::Voter,
                address,
            });
        }
        cluster
    }

    /// A member is only a learner, as after a change that was given up.
    pub(crate) fn only_learns(&self, node: NodeId) {
        for member in self.members.lock().iter_mut().filter(|member| member.node == node) {
            member.role = Role::Learner;
        }
    }

    /// Runs a node at an address, which must be free.
    pub(crate) async fn run_node(self: &Arc<Self>, id: NodeId, address: &str) -> String {
        let listener = TcpListener::bind(address).await.expect("the address is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (stop, live) = (watch::Sender::new(false), watch::Sender::new(true));
        let (stopped, mut alive) = (stop.subscribe(), live.subscribe());
        let cluster = Arc::clone(self);
        let own = address.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    _ = alive.wait_for(|alive| !alive) => return,
                };
                let Ok((stream, _)) = accepted else { return };
                let served = Arc::clone(&cluster).serve(id, own.clone(), stream, stopped.clone(), alive.clone());
                tokio::spawn(served);
            }
        });
        self.nodes.lock().push(Running { id, address: address.clone(), stopped: stop, alive: live, accepting });
        address
    }

    pub(crate) fn address(&self, id: u64) -> String {
        self.nodes.lock().iter().find(|node| node.id == NodeId(id)).expect("the node runs").address.clone()
    }

    /// Ends a node: its port closes, its connections break.
    pub(crate) async fn kill(&self, id: u64) -> String {
        let node = {
            let mut nodes = self.nodes.lock();
            let index = nodes.iter().position(|node| node.id == NodeId(id)).expect("the node runs");
            nodes.remove(index)
        };
        node.alive.send_replace(false);
        node.accepting.await.expect("the node ends");
        node.address
    }

    /// Freezes or thaws a node: it takes connections and requests, and answers nothing while frozen.
    pub(crate) fn freeze(&self, id: u64, frozen: bool) {
        let nodes = self.nodes.lock();
        nodes.iter().find(|node| node.id == NodeId(id)).expect("the node runs").stopped.send_replace(frozen);
    }

    pub(crate) fn elect(&self, id: u64) {
        let mut group = self.group.lock();
        group.leader = Some(NodeId(id));
        group.round += 1;
    }

    /// Nobody leads.
    pub(crate) fn depose(&self) {
        self.group.lock().leader = None;
    }

    pub(crate) fn trick(&self, trick: Trick) {
        self.group.lock().tricks.push_back(trick);
    }

    /// Replaces a member's address in what nodes tell.
    pub(crate) fn readdress(&self, id: u64, address: &str) {
        let mut members = self.members.lock();
        members.iter_mut().find(|member| member.node == NodeId(id)).expect("a member").address = address.to_owned();
    }

    /// Has the members tell of a node that is none of them.
    pub(crate) fn introduce(&self, id: u64, address: &str) {
        self.strangers.lock().push((NodeId(id), address.to_owned()));
    }

    /// Has a node, and all others, tell of a state of it.
    pub(crate) fn set_state(&self, id: u64, state: NodeState) {
        self.states.lock().insert(NodeId(id), state);
    }

    fn state(&self, id: NodeId) -> NodeState {
        self.states.lock().get(&id).copied().unwrap_or(NodeState::Alive)
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        let parted = self.neighbour.lock().is_some();
        let group = self.group.lock();
        let heir = group.heir.filter(|_| !group.orders.is_empty());
        Descriptor {
            group: heir.unwrap_or(GROUP),
            configuration: Configuration { version: ConfigurationVersion(1), members: self.members.lock().clone() },
            range_version: RangeVersion(1 + u64::from(parted) + u64::from(heir.is_some()) + group.takeovers()),
            range: if parted {
                KeyRange { start: Position::first(), end: neighbour_start() }
            } else {
                KeyRange::whole()
            },
            leader: group.leader,
            ballot: Ballot { round: group.round, node: group.leader.unwrap_or(NodeId(1)), incarnation: Incarnation(1) },
        }
    }

    /// The neighbour, and whether it is held at this moment.
    fn described_neighbour(&self) -> Option<(Descriptor, bool)> {
        let own = self.descriptor();
        let takeovers = self.group.lock().takeovers();
        let mut neighbour = self.neighbour.lock();
        let neighbour = neighbour.as_mut()?;
        let held = takeovers > 0 && neighbour.held_for > 0;
        neighbour.held_for -= u32::from(held);
        // Its members hear of its new range before its leader has it.
        let range_version = RangeVersion(2 + takeovers);
        let range = KeyRange { start: neighbour_start(), end: Position::first() };
        Some((Descriptor { group: NEIGHBOUR, range_version, range, ..own }, held))
    }

    async fn serve(
        self: Arc<Self>,
        id: NodeId,
        address: String,
        mut stream: TcpStream,
        mut stopped: watch::Receiver<bool>,
        mut alive: watch::Receiver<bool>,
    ) {
        if stopped.wait_for(|stopped| !stopped).await.is_err() {
            return;
        }
        let introduced = handshake::accept(&mut stream).await.expect("a client introduces itself");
        let Hello::Client { cluster_name, .. } = introduced.hello else { panic!("only clients come") };
        assert_eq!(cluster_name, "fake");
        let identity = Identity {
            cluster_name,
            cluster: Some(CLUSTER),
            node: id,
            boot: 1,
            nonce: 1,
            earlier: Vec::new(),
            peer_address: address.clone(),
            http_address: String::new(),
            zone: "a".into(),
        };
        if handshake::welcome(&mut stream, identity).await.is_err() {
            return;
        }
        let mut buffer = introduced.buffer;
        buffer.set_limit(DEFAULT_FRAME_LIMIT);
        let (mut reader, mut writer) = stream.into_split();
        let (replies, mut outgoing) = mpsc::unbounded_channel::<ClientReply>();
        let write = async move {
            while let Some(reply) = outgoing.recv().await {
                let mut batch = FrameBatch::new(DEFAULT_FRAME_LIMIT);
                batch.push(&reply).expect("it fits");
                let bytes: BytesMut = batch.take();
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        };
        let read = async move {
            loop {
                while let Ok(Some(frame)) = buffer.next_frame() {
                    for request in decode_batch::<ClientRequest>(frame).expect("requests") {
                        if stopped.wait_for(|stopped| !stopped).await.is_err() {
                            return;
                        }
                        let Some(body) = self.answer(id, &address, &request) else { return };
                        if replies.send(ClientReply { id: request.id, body }).is_err() {
                            return;
                        }
                    }
                }
                match reader.read_buf(buffer.space()).await {
                    Ok(read) if read > 0 => buffer.filled(read),
                    _ => return,
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = write => {}
            _ = alive.wait_for(|alive| !alive) => {}
        }
    }

    /// The reply, or `None` to hang up.
    fn answer(&self, id: NodeId, address: &str, request: &ClientRequest) -> Option<ReplyBody> {
        match &request.body {
            ClientBody::Describe => Some(ReplyBody::Description { description: self.describe(id, address) }),
            ClientBody::Locate { .. } => Some(ReplyBody::Located { descriptors: vec![self.descriptor()] }),
            ClientBody::Read { key, consistency } => {
                let stale = *consistency == Consistency::Any
                    || (matches!(consistency, Consistency::Bounded { .. }) && self.group.lock().bounded_anywhere);
                if !stale && !self.leads(id) {
                    return Some(self.refuse(Refusal::NotLeader));
                }
                let mut group = self.group.lock();
                group.reads_by.push(id);
                let found = group.data.get(key.bytes()).map(|(value, version)| Found {
                    version: *version,
                    modified: LogTime(version.0),
                    value: value.clone(),
                });
                let stamp = Version(group.version);
                let (path, staleness_ms) = if *consistency == Consistency::Linearizable {
                    (ReadPath::Lease, Some(0))
                } else {
                    (ReadPath::Stale, Some(7))
                };
                Some(ReplyBody::Value { found, group: GROUP, epoch: epoch(), path, staleness_ms, stamp })
            }
            ClientBody::Write { command } => {
                let command = Command::from_all(command.clone()).expect("a command");
                if !self.leads(id) {
                    return Some(self.refuse(Refusal::NotLeader));
                }
                self.write(command)
            }
            ClientBody::Administer { request: AdminRequest::Drain { on } } => {
                self.group.lock().orders.push(AdminRequest::Drain { on: *on });
                self.states.lock().insert(id, if *on { NodeState::Draining } else { NodeState::Alive });
                Some(ReplyBody::Administered { json: format!("{{\"draining\":{on}}}") })
            }
            ClientBody::Administer { request: AdminRequest::Status } => {
                let decisions = self.decisions.lock().get(&id).cloned().unwrap_or_else(|| "[]".into());
                Some(ReplyBody::Administered { json: format!("{{\"min_size\":3,\"policy\":{decisions}}}") })
            }
            ClientBody::Administer { request } => {
                let held = self.neighbour.lock().as_ref().is_some_and(|neighbour| neighbour.held_for > 0);
                if group_of(request) == Some(NEIGHBOUR) && held {
                    return Some(self.refuse(Refusal::Conflict { text: "another operation holds the group".into() }));
                }
                if !self.leads(id) {
                    return Some(self.refuse(Refusal::NotLeader));
                }
                let refusal = self.group.lock().refusals.pop_front();
                if let Some(refusal) = refusal {
                    return Some(self.refuse(refusal));
                }
                self.group.lock().orders.push(request.clone());
                if let AdminRequest::TransferLeader { to, dry_run: true, .. } = request {
                    let to = to.unwrap_or(NodeId(2));
                    return Some(ReplyBody::Administered { json: format!("{{\"dry_run\":true,\"to\":\"{to}\"}}") });
                }
                if self.group.lock().heir.is_some() {
                    let text = "the leader changed meanwhile".to_owned();
                    return Some(self.refuse(Refusal::Unavailable { text }));
                }
                Some(ReplyBody::Administered { json: "{\"done\":true}".into() })
            }
        }
    }

    fn write(&self, command: Command) -> Option<ReplyBody> {
        let lane = command.lane.expect("every write has a lane");
        let trick = {
            let mut group = self.group.lock();
            group.arrived.push(lane);
            group.tricks.pop_front()
        };
        match trick {
            Some(Trick::HangUp) => None,
            Some(Trick::Refuse(refusal)) => Some(self.refuse(refusal)),
            Some(Trick::Answer(outcome)) => Some(self.outcome(outcome)),
            Some(Trick::ApplyThenHangUp) => {
                self.apply(lane, command.operation);
                None
            }
            Some(Trick::ApplyThenUnknown) => {
                self.apply(lane, command.operation);
                Some(self.refuse(Refusal::Unknown))
            }
            None => {
                let outcome = self.apply(lane, command.operation);
                Some(self.outcome(outcome))
            }
        }
    }

    fn apply(&self, lane: LaneUse, operation: Operation) -> Outcome {
        let mut group = self.group.lock();
        if let Some((sequence, outcome)) = group.lanes.get(&(lane.session, lane.lane)) {
            if *sequence == lane.sequence {
                return outcome.clone();
            }
            if *sequence > lane.sequence {
                return Outcome::Unknown;
            }
        }
        group.version += 1;
        let version = Version(group.version);
        let outcome = match &operation {
            Operation::Put { key, value, condition, .. } => {
                let current = group.data.get(key.bytes()).map(|(_, version)| *version);
                if *condition == Condition::Absent && current.is_some() {
                    Outcome::ConditionFailed { index: 0, current }
                } else {
                    group.data.insert(key.bytes().clone(), (value.clone(), version));
                    Outcome::Written { version, created: current.is_none() }
                }
            }
            Operation::Delete { key, .. } => match group.data.remove(key.bytes()) {
                Some(_) => Outcome::Deleted { version },
                None => Outcome::NotFound,
            },
            Operation::Batch { writes, .. } => Outcome::BatchWritten { versions: vec![version; writes.len()] },
        };
        group.applied.push((lane, operation));
        group.lanes.insert((lane.session, lane.lane), (lane.sequence, outcome.clone()));
        outcome
    }

    fn leads(&self, id: NodeId) -> bool {
        self.group.lock().leader == Some(id)
    }

    fn outcome(&self, outcome: Outcome) -> ReplyBody {
        ReplyBody::Outcome { outcome, group: GROUP, epoch: epoch(), stamp: Version(self.group.lock().version) }
    }

    fn refuse(&self, refusal: Refusal) -> ReplyBody {
        let stamp = Version(self.group.lock().version);
        ReplyBody::Refused { refusal, retry_after_ms: 0, descriptors: vec![self.descriptor()], stamp }
    }

    fn describe(&self, id: NodeId, address: &str) -> Description {
        let leads = self.leads(id);
        let descriptor = self.descriptor();
        let neighbour = self.described_neighbour();
        let replica = |descriptor: &Descriptor, held: bool| ReplicaInfo {
            group: descriptor.group,
            incarnation: Incarnation(1),
            role: if leads { ReplicaRole::Leader } else { ReplicaRole::Follower },
            ballot: descriptor.ballot,
            decided: Slot(9),
            applied: Slot(9),
            keys: 3,
            bytes: 33,
            operations_per_second: 0,
            pending: held.then(|| PendingInfo {
                operation: OperationId { coordinator: GROUP, slot: Slot(9) },
                gains: false,
                other: GROUP,
                merge: false,
                moving: descriptor.range.clone(),
                age_ms: 1,
            }),
            range_version: descriptor.range_version,
        };
        let members = descriptor.configuration.members.iter();
        Description {
            cluster_name: "fake".into(),
            cluster: Some(CLUSTER),
            node: NodeInfo {
                node: id,
                peer_address: address.to_owned(),
                http_address: String::new(),
                zone: "a".into(),
                state: self.state(id),
                replicas: if descriptor.configuration.member(id).is_none() {
                    Vec::new()
                } else {
                    let own = (&descriptor, false);
                    let theirs = neighbour.iter().map(|(descriptor, held)| (descriptor, *held));
                    std::iter::once(own).chain(theirs).map(|(descriptor, held)| replica(descriptor, held)).collect()
                },
            },
            nodes: members
                .map(|member| (member.node, member.address.clone()))
                .chain(self.strangers.lock().iter().cloned())
                .filter(|(node, _)| *node != id)
                .map(|(node, peer_address)| NodeInfo {
                    node,
                    peer_address,
                    http_address: String::new(),
                    zone: String::new(),
                    state: self.state(node),
                    replicas: Vec::new(),
                })
                .collect(),
            descriptors: neighbour.into_iter().map(|(neighbour, _)| neighbour).chain([descriptor]).collect(),
        }
    }
}

impl Group {
    /// How many takeovers were ordered and carried out.
    fn takeovers(&self) -> u64 {
        let is_takeover = |order: &&AdminRequest| matches!(order, AdminRequest::TakeOver { dry_run: false, .. });
        self.orders.iter().filter(is_takeover).count() as u64
    }
}

fn group_of(request: &AdminRequest) -> Option<GroupId> {
    match request {
        AdminRequest::Split { group, .. } | AdminRequest::TakeOver { group, .. } => Some(*group),
        _ => None,
    }
}

fn neighbour_start() -> Position {
    Position(Bytes::from_static(&[NEIGHBOUR_START]))
}

fn epoch() -> Epoch {
    Epoch { configuration: ConfigurationVersion(1), range: RangeVersion(1) }
}

fn host() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    format!("127.{}.{}.{}", 1 + process % 250, process / 250 % 250, NEXT.fetch_add(1, Ordering::Relaxed))
}
