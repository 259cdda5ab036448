//! The driver: steps the core with whatever comes in and carries out what it wants done.
//!
//! ```text
//!   peers ──frames──▶ ┌────────┐ ──batches──▶ log thread ──Synced──┐
//!   HTTP, clients ──▶ │ driver │ ──entries──▶ apply thread ─Applied┤──▶ inbox ──▶ driver
//!   inbox, timer ───▶ └────────┘ ──frames───▶ peers                │
//! ```
//!
//! It lives on one thread together with the transport. Frames of a peer are stepped as they are read; everything else comes
//! through the inbox. Whatever is there when the loop turns ends in one flush of the core, so it shares entries, messages and
//! the sync. The loop waits for nothing but its inbox, its timer and its sockets.

mod surroundings;

use crate::apply::{ApplyHandle, Job};
use crate::events::{Event, Inbox, Waiter};
use crate::hearsay::Hearsay;
use crate::organiser::{Organiser, PolicySettings};
use crate::pace::Pace;
use crate::rates::Rates;
use crate::serving::{Leadership, Queues, Serving};
use crate::storage::log::{LogReader, Space};
use crate::storage::sync::{LogEvent, LogHandle, SubmitError};
use crate::transport::Transport;
use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::durable::Write;
use scatter_core::effects::{Apply, Outgoing, Refused, Reply};
use scatter_core::entry::Room;
use scatter_core::message::{Hello, HelloError, PeerMessage};
use scatter_core::ring::Key;
use scatter_core::time::Instant;
use scatter_core::types::{Ballot, GroupId, NodeId, RequestId, WriteId};
use scatter_core::{Effects, Input, Node};
use scatter_wire::{Channel, Frame, Identity, Refusal, ReplyBody};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use surroundings::VIEW_EVERY;
use tokio::sync::Notify;

/// How long a draining node waits for others to take over what it leads.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);

/// How often a node without room for clients' writes tries to let others lead. They may have no room either, and say so the
/// same way.
const FULL_HAND_OVER_EVERY: Duration = Duration::from_secs(10);

/// Who waits for the core's answer to a request.
enum Pending {
    Write(Waiter, GroupId),
    Read(Waiter, GroupId, Key),
    Order(Waiter, GroupId),
}

/// A client's command on its way to the core.
struct Gathered {
    request: RequestId,
    group: GroupId,
    command: Bytes,
}

/// What the driver is made of.
pub struct Parts {
    /// The protocol.
    pub node: Node,
    /// What recovery wants done first.
    pub effects: Effects,
    /// The log's thread.
    pub log: LogHandle,
    /// Reads old entries back.
    pub log_reader: LogReader,
    /// The apply thread.
    pub apply: ApplyHandle,
    /// What threads beside the loop see.
    pub serving: Arc<Serving>,
    /// What comes from other threads.
    pub inbox: Arc<Inbox>,
    /// What this node says of itself.
    pub identity: Identity,
    /// How its groups look after themselves.
    pub policies: PolicySettings,
    /// How it gossips.
    pub gossip: scatter_gossip::Settings,
    /// It is to be emptied.
    pub emptying: bool,
}

/// Why the driver ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ended {
    /// It was told to drain.
    #[error("drained")]
    Drained,
    /// The node must not go on.
    #[error("{0}")]
    Fatal(String),
}

/// Changes that wait for the log.
struct Batch {
    write: WriteId,
    writes: Vec<Write>,
    may_use_reserve: bool,
}

/// The driver's state. Borrowed by the loop, the transport's sink and its gatekeeper in turn, all on one thread.
pub struct Driver {
    node: Node,
    effects: Effects,
    transport: Option<Transport>,
    log: LogHandle,
    log_reader: LogReader,
    /// Batches that the log's queue had no room for, in order.
    backlog: VecDeque<Batch>,
    apply: ApplyHandle,
    serving: Arc<Serving>,
    inbox: Arc<Inbox>,
    identity: Identity,
    pending: HashMap<RequestId, Pending>,
    next_request: u64,
    /// Clients' commands that wait for the next write, in the order they came.
    gathered: Vec<Gathered>,
    pace: Pace,
    /// The log has told of a sync in the burst under way.
    synced: bool,
    /// Something waits for the next write to be due.
    held: bool,
    attached: BTreeSet<GroupId>,
    /// Groups that came or went, or have another leader, in the burst under way.
    changed: BTreeSet<GroupId>,
    known: BTreeMap<NodeId, Identity>,
    leadership: BTreeMap<GroupId, Leadership>,
    leader_changes: u64,
    rates: Rates,
    gossip: scatter_gossip::Settings,
    /// The gossip, once there is a cluster.
    hearsay: Option<Hearsay>,
    /// When the routes along far links are to be kept once more.
    far_routes_at: Instant,
    organiser: Organiser,
    organise_at: Instant,
    log_room: Room,
    store_room: Room,
    /// An operator wants the node to host nothing.
    emptying: bool,
    /// The process is about to end.
    draining: bool,
    /// Groups that a node without room led, or one that drains, each with the ballot in which it handed over last.
    handed_over: BTreeMap<GroupId, Ballot>,
    /// When a node without room may hand over again.
    full_hand_over_at: Option<Instant>,
    /// What keeps the node from its cluster, as far as it was logged.
    complaint: surroundings::Complaint,
    ended: Option<Ended>,
    /// Set once the id is given up: the process ends when this batch is on disk.
    last_write: Option<WriteId>,
    /// When the loop will wake by itself.
    armed: Option<Instant>,
    rearm: Rc<Notify>,
}

/// A handle shared on the driver's thread.
pub type Shared = Rc<RefCell<Driver>>;

impl Driver {
    /// The driver, before its transport is there.
    #[must_use]
    pub fn new(parts: Parts) -> Shared {
        let pace = Pace::new(parts.node.config().linger);
        let mut driver = Self {
            node: parts.node,
            effects: Effects::default(),
            transport: None,
            log: parts.log,
            log_reader: parts.log_reader,
            backlog: VecDeque::new(),
            apply: parts.apply,
            serving: parts.serving,
            inbox: parts.inbox,
            identity: parts.identity,
            pending: HashMap::new(),
            next_request: 0,
            gathered: Vec::new(),
            pace,
            synced: false,
            held: false,
            attached: BTreeSet::new(),
            changed: BTreeSet::new(),
            known: BTreeMap::new(),
            leadership: BTreeMap::new(),
            leader_changes: 0,
            rates: Rates::new(std::time::Instant::now()),
            gossip: parts.gossip,
            hearsay: None,
            far_routes_at: crate::clock::instant(),
            organiser: Organiser::new(parts.policies, rand::random()),
            organise_at: crate::clock::instant(),
            log_room: Room::Enough,
            store_room: Room::Enough,
            emptying: parts.emptying,
            draining: false,
            handed_over: BTreeMap::new(),
            full_hand_over_at: None,
            complaint: surroundings::Complaint::default(),
            ended: None,
            last_write: None,
            armed: None,
            rearm: Rc::default(),
        };
        driver.effects = parts.effects;
        Rc::new(RefCell::new(driver))
    }

    /// Gives it its transport and carries out what recovery left.
    pub fn attach_transport(&mut self, transport: Transport) {
        self.transport = Some(transport);
        self.end_burst();
    }

    /// What this node says of itself at the moment.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity { cluster: self.node.cluster(), ..self.identity.clone() }
    }

    /// Asks the core about another node's introduction, and remembers what it said of itself.
    pub fn check_hello(&mut self, theirs: &Identity, to: Option<NodeId>) -> Result<(), HelloError> {
        let Identity { cluster, node: from, boot, nonce, ref earlier, .. } = *theirs;
        let hello = Hello { cluster, from, to, boot, nonce, earlier: earlier.clone() };
        self.node.check_hello(&hello, &mut self.effects)?;
        if !self.effects.writes.is_empty() {
            self.rearm.notify_one();
        }
        if let Some(hearsay) = &mut self.hearsay {
            hearsay.met(crate::clock::instant(), theirs.node, &theirs.peer_address);
        }
        self.known.insert(theirs.node, theirs.clone());
        Ok(())
    }

    /// Somebody else lives at an address than was thought. Settled by the loop, not inside the transport's own call.
    pub fn misdirected(&self, address: &str) {
        self.inbox.push(Event::Misdirected { address: address.to_owned() });
    }

    /// A peer says this node's disk was rolled back or cloned.
    pub fn refused_as_rolled_back(&mut self, by: NodeId) {
        self.step(Input::RolledBack { by });
        self.rearm.notify_one();
    }

    /// A frame of a peer.
    pub fn on_frame(&mut self, from: NodeId, frame: Bytes) {
        match PeerMessage::from_all(frame) {
            Ok(PeerMessage::Gossip { datagram }) => {
                if let Some(hearsay) = &mut self.hearsay {
                    // The frame shares its buffer with others, and gossip keeps what it is told.
                    hearsay.take(crate::clock::instant(), from, Bytes::copy_from_slice(&datagram));
                }
            }
            Ok(message) => self.step(Input::Message { from, message }),
            Err(error) => tracing::warn!(%from, %error, "a peer's message does not decode"),
        }
    }

    /// All frames of one read were handed in. The loop turns once everybody who has something to hand in has done so.
    pub fn on_batch_end(&self) {
        self.rearm.notify_one();
    }

    /// Whether nobody is to listen to a node.
    pub fn is_condemned(&self, node: NodeId) -> bool {
        self.node.is_condemned(node)
    }

    fn step(&mut self, input: Input) {
        self.node.step(crate::clock::now(), input, &mut self.effects);
    }

    /// Ends a burst: proposes what clients want, if the next write is due or there is something to say to peers anyway, and
    /// carries everything out.
    fn end_burst(&mut self) {
        let due = self.pace.due() <= crate::clock::instant();
        if std::mem::take(&mut self.synced) || due {
            for Gathered { request, group, command } in std::mem::take(&mut self.gathered) {
                self.step(Input::Propose { request, group, command });
            }
        }
        self.carry_out();
        if due {
            self.submit();
        }
        let waits = !self.gathered.is_empty() || !self.backlog.is_empty();
        self.held = waits && !due;
    }

    /// When something is to go on that waits for the next write.
    fn write_deadline(&self) -> Option<Instant> {
        self.held.then(|| self.pace.due())
    }

    /// Lets the core form entries and messages, and carries everything out.
    fn carry_out(&mut self) {
        let now = crate::clock::now();
        self.node.flush(now, &mut self.effects);
        if self.inbox.set_eager(self.node.waits_for_machines()) {
            self.rearm.notify_one();
        }
        if self.effects.is_empty() {
            return;
        }
        let effects = std::mem::take(&mut self.effects);
        if let Some((group, level)) = effects.too_new {
            let why = format!("group {group} has come to feature level {level}: run a newer version of this program");
            self.ended = Some(Ended::Fatal(why));
        }
        if let Some(write) = effects.write {
            if effects.give_up {
                self.last_write = Some(write);
            }
            let may_use_reserve = effects.presses || effects.writes.iter().any(Write::uses_reserve);
            self.backlog.push_back(Batch { write, writes: effects.writes, may_use_reserve });
        }
        self.attach_words();
        self.send(effects.messages);
        self.note_leadership();
        self.hand_over_decided(effects.applies);
        for order in effects.orders {
            self.apply.push(Job::Order(order));
        }
        for (request, reply) in effects.replies {
            self.reply(request, reply);
        }
        for read in effects.log_reads {
            self.read_log(read);
        }
        for address in effects.dials {
            self.dial(address);
        }
    }

    /// Hands decided entries to the apply thread: of all groups at once, since waking it costs more than most entries.
    fn hand_over_decided(&mut self, applies: Vec<Apply>) {
        if applies.is_empty() {
            return;
        }
        let mut waiters = Vec::new();
        for apply in &applies {
            self.serving.counts.on_decided(apply);
            let requests = apply.waiting.iter().flat_map(|(_, requests)| requests);
            let waiting = requests.filter_map(|request| Some((*request, apply.group, self.waiter(*request)?)));
            waiters.extend(waiting);
        }
        self.apply.push(Job::Apply(applies, waiters));
    }

    fn waiter(&mut self, request: RequestId) -> Option<Waiter> {
        match self.pending.remove(&request) {
            Some(Pending::Write(waiter, _)) => Some(waiter),
            Some(Pending::Read(waiter, _, _) | Pending::Order(waiter, _)) => {
                waiter.answer(ReplyBody::refused(Refusal::Unknown));
                None
            }
            None => None,
        }
    }

    /// Hands waiting batches to the log, in order, as far as it has room.
    fn submit(&mut self) {
        let mut entries = 0;
        while let Some(Batch { write, writes, may_use_reserve }) = self.backlog.pop_front() {
            let accepts = writes.iter().filter(|write| matches!(write, Write::Accept { .. })).count();
            match self.log.submit(write, writes, may_use_reserve) {
                Ok(()) => entries += accepts,
                Err(SubmitError::Full(writes)) => {
                    self.backlog.push_front(Batch { write, writes, may_use_reserve });
                    break;
                }
                Err(SubmitError::Stopped) => break,
            }
        }
        if entries > 0 {
            self.pace.wrote(crate::clock::instant(), entries);
        }
    }

    fn send(&mut self, messages: Vec<Outgoing>) {
        let Some(transport) = &self.transport else { return };
        if messages.is_empty() {
            return;
        }
        for mut out in messages {
            if let Some(address) = out.address
                && transport.address(out.to).is_none()
            {
                transport.set_address(out.to, address);
            }
            let channel = if out.bulk { Channel::Bulk } else { Channel::Control };
            let frame = match out.message.take_tail() {
                Some(tail) => Frame::encode_with_tail(&out.message, tail),
                None => Frame::encode(&out.message),
            };
            transport.queue(out.to, channel, frame);
        }
        transport.flush();
    }

    /// New replicas' read words go to the apply thread before anything is applied.
    fn attach_words(&mut self) {
        self.changed = self.node.take_changed();
        for group in &self.changed {
            match self.node.read_word(*group) {
                Some(word) => {
                    if self.attached.insert(*group) {
                        self.apply.push(Job::Attach(*group, word));
                    }
                }
                None => {
                    self.attached.remove(group);
                }
            }
        }
    }

    /// Tells readers who leads, as soon as that changes.
    fn note_leadership(&mut self) {
        let mut changed = false;
        for group in std::mem::take(&mut self.changed) {
            let Some((leader, ballot)) = self.node.leadership(group) else {
                changed |= self.leadership.remove(&group).is_some();
                continue;
            };
            let found = Leadership { leader, ballot };
            let known = self.leadership.get(&group);
            if known == Some(&found) {
                continue;
            }
            if known.is_some_and(|known| known.ballot < ballot) {
                self.serving.counts.on_ballot();
            }
            if known.is_none_or(|known| known.leader != leader) && leader.is_some() {
                self.leader_changes += 1;
                tracing::info!(%group, leader = ?leader.map(|node| node.to_string()), %ballot, "leader");
            }
            self.leadership.insert(group, found);
            changed = true;
        }
        if changed {
            self.serving.leadership.store(Arc::new(self.leadership.clone()));
            // Nobody is to be shown a leader of the past.
            self.publish_view();
        }
    }

    fn request(&mut self, pending: Pending) -> RequestId {
        self.next_request += 1;
        let request = RequestId(self.next_request);
        self.pending.insert(request, pending);
        request
    }

    fn reply(&mut self, request: RequestId, reply: Reply) {
        let Some(pending) = self.pending.remove(&request) else { return };
        if matches!(pending, Pending::Write(..)) {
            self.serving.counts.on_failed(&reply);
        }
        match (reply, pending) {
            (Reply::ReadNow { group }, Pending::Read(waiter, _, key)) => self.apply.push(Job::Read(group, key, waiter)),
            (Reply::Done, Pending::Order(waiter, _)) => {
                waiter.answer(ReplyBody::Administered { json: r#"{"done":true}"#.to_owned() });
            }
            (Reply::Born { child }, Pending::Order(waiter, _)) => {
                let json = format!(r#"{{"done":true,"child":"{child}"}}"#);
                waiter.answer(ReplyBody::Administered { json });
            }
            (Reply::Lost, Pending::Write(waiter, _) | Pending::Read(waiter, _, _) | Pending::Order(waiter, _)) => {
                waiter.answer(ReplyBody::refused(Refusal::Unknown));
            }
            (
                Reply::Refused(refused),
                Pending::Write(waiter, group) | Pending::Read(waiter, group, _) | Pending::Order(waiter, group),
            ) => {
                let body = self.refusal(group, refused);
                waiter.answer(body);
            }
            (
                Reply::Done | Reply::Born { .. } | Reply::ReadNow { .. },
                Pending::Write(waiter, _) | Pending::Read(waiter, _, _) | Pending::Order(waiter, _),
            ) => waiter.answer(ReplyBody::refused(Refusal::Unknown)),
        }
    }

    fn refusal(&self, group: GroupId, refused: Refused) -> ReplyBody {
        let refusal = match refused {
            Refused::NoReplica => Refusal::NotOwner,
            Refused::NotLeader { leader: Some(_) } => Refusal::NotLeader,
            Refused::NotLeader { leader: None } => Refusal::NoLeader,
            Refused::Overloaded => Refusal::Overloaded,
            Refused::DiskFull => Refusal::DiskFull,
            Refused::Invalid(text) => Refusal::Conflict { text },
            Refused::GivenUp(text) => Refusal::Unavailable { text },
        };
        let served = self.serving.group(group);
        let descriptors = match &served {
            Some(served) => vec![self.serving.descriptor(served)],
            None => self.serving.hints_of(group),
        };
        let stamp = served.map(|served| served.stamp()).unwrap_or_default();
        ReplyBody::Refused { refusal, retry_after_ms: 0, descriptors, stamp }
    }

    fn read_log(&self, read: scatter_core::effects::LogRead) {
        let (reader, inbox) = (self.log_reader.clone(), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let entries = match reader.read(read.group, read.first, read.bytes) {
                Ok(found) => found
                    .into_iter()
                    .zip(read.first.0..)
                    .take_while(|((slot, _, _), expected)| slot.0 == *expected && *slot <= read.last)
                    .map(|((_, _, entry), _)| entry)
                    .collect(),
                Err(error) => {
                    tracing::warn!(%error, "old entries could not be read back");
                    Vec::new()
                }
            };
            inbox.push(Event::Input(Input::LogRead { group: read.group, to: read.to, first: read.first, entries }));
        });
    }

    /// What was learned of an address holds no longer: the next hint is tried.
    fn forget_address(&self, address: &str) {
        let Some(transport) = &self.transport else { return };
        for node in self.known.keys() {
            if transport.address(*node).as_deref() == Some(address) {
                transport.forget(*node);
            }
        }
    }

    fn dial(&self, address: String) {
        let Some(transport) = self.transport.clone() else { return };
        let inbox = self.inbox.clone();
        tokio::task::spawn_local(async move {
            if let Ok(identity) = transport.probe(&address).await {
                transport.set_address(identity.node, address.clone());
                let (node, cluster) = (identity.node, identity.cluster);
                inbox.push(Event::Input(Input::Answered { address, node, cluster }));
            }
        });
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.step(input),
            Event::Log(event) => self.on_log(event),
            Event::Propose { group, command, waiter } => {
                if self.draining {
                    self.serving.counts.on_draining();
                    return waiter.answer(ReplyBody::refused(Refusal::Draining));
                }
                let request = self.request(Pending::Write(waiter, group));
                self.gathered.push(Gathered { request, group, command });
            }
            Event::Read { group, key, waiter } => {
                let request = self.request(Pending::Read(waiter, group, key));
                self.step(Input::Read { request, group });
            }
            Event::ChangeMembers { group, add, remove, version, waiter } => {
                let request = self.request(Pending::Order(waiter, group));
                let add = add.into_iter().map(|member| (member.node, member.address)).collect();
                self.step(Input::ChangeMembers { request, group, add, remove, version });
            }
            Event::HandOver { group, to, waiter } => {
                let to = to.or_else(|| self.heir(group)).unwrap_or(self.node.id());
                let request = self.request(Pending::Order(waiter, group));
                self.step(Input::HandOver { request, group, to });
            }
            Event::NameHeir { group, waiter } => {
                let heir = self.heir(group).ok_or_else(|| "nobody else could lead the group".to_owned());
                let plan = heir.and_then(|heir| crate::status::plan_transfer(&self.serving, group, Some(heir)));
                waiter.answer(crate::service::planned(plan));
            }
            Event::Reshape { group, order, waiter } => {
                tracing::info!(%group, ?order, "ordered");
                let request = self.request(Pending::Order(waiter, group));
                self.step(Input::Reshape { request, group, order });
            }
            Event::Recover { group, survivors, waiter } => {
                tracing::warn!(%group, ?survivors, "ordered to go on with the survivors of a group alone");
                let request = self.request(Pending::Order(waiter, group));
                self.step(Input::Recover { request, group, survivors });
            }
            Event::Condemn { nodes, waiter } => {
                tracing::warn!(?nodes, "ordered to listen to these nodes no more");
                let request = self.request(Pending::Order(waiter, GroupId(0)));
                self.step(Input::Condemn { request, nodes });
            }
            Event::Organised { group, outcome, text } => {
                tracing::info!(%group, %text, "policy");
                self.organiser.ended(crate::clock::instant(), group, outcome, text, &self.serving);
            }
            Event::SetDraining { on, waiter } => {
                tracing::info!(on, "this node is to be emptied");
                self.emptying = on;
                // Who asks from now on is to hear of it: more is not to be laid upon a node that empties.
                self.publish_view();
                waiter.answer(ReplyBody::Administered { json: format!(r#"{{"draining":{on}}}"#) });
            }
            Event::Misdirected { address } => self.forget_address(&address),
            Event::StoreRoom(room) => {
                self.store_room = room;
                self.step(Input::Room { room: self.room() });
            }
            Event::Drain => self.draining = true,
            Event::Fatal(why) => self.ended = Some(Ended::Fatal(why)),
        }
    }

    fn on_log(&mut self, event: LogEvent) {
        match event {
            LogEvent::Synced(write) => {
                self.synced = true;
                self.step(Input::Synced { write });
                if self.last_write.is_some_and(|last| last <= write) {
                    let why = "this node's disk was rolled back or cloned, or a group was recovered without it: it gave up its id";
                    self.ended = Some(Ended::Fatal(why.to_owned()));
                }
            }
            LogEvent::Space(space) => {
                let room = match space {
                    Space::Full => Room::Reserve,
                    Space::Low => Room::Removals,
                    Space::Enough => Room::Enough,
                };
                if room != self.log_room {
                    tracing::warn!(?room, "the log's disk");
                }
                self.log_room = room;
                self.step(Input::Room { room: self.room() });
            }
            LogEvent::Failed(error) => self.ended = Some(Ended::Fatal(format!("the log failed: {error}"))),
        }
    }

    /// How much room there is for what clients write.
    fn room(&self) -> Room {
        self.log_room.min(self.store_room)
    }

    /// A leader without room refuses every write of its groups: others may have room.
    fn hand_over_if_full(&mut self) {
        let now = crate::clock::instant();
        let is_full = self.room() < Room::Enough;
        if is_full && !self.draining && self.full_hand_over_at.is_none_or(|at| at <= now) {
            self.handed_over.clear();
            self.hand_over();
            if !self.handed_over.is_empty() {
                tracing::info!("this node's disk is full: it lets others lead");
                self.full_hand_over_at = Some(now.after(FULL_HAND_OVER_EVERY));
            }
        }
    }

    /// Who is to lead a group instead of this node: rather nobody whose node is about to be emptied, or is not heard of.
    fn heir(&self, group: GroupId) -> Option<NodeId> {
        self.node.successor(group, |node| self.hearsay.as_ref().is_none_or(|hearsay| hearsay.is_usable(node)))
    }

    /// Lets others lead what this node leads: once in each ballot. If a hand-over came to nothing, for the successor may not
    /// vote yet after its own restart, this node may be elected again, and hands over again.
    fn hand_over(&mut self) {
        let led: Vec<(GroupId, NodeId, Ballot)> = self
            .node
            .groups()
            .filter_map(|group| Some((group, self.heir(group)?, self.node.leadership(group)?.1)))
            .filter(|(group, _, ballot)| self.handed_over.get(group) != Some(ballot))
            .collect();
        for (group, to, ballot) in led {
            self.handed_over.insert(group, ballot);
            self.next_request += 1;
            self.step(Input::HandOver { request: RequestId(self.next_request), group, to });
        }
    }

    /// Whether others lead what this node led. Only a later ballot tells: this node steps back before the message that asks
    /// its successor to stand has left.
    fn is_relieved(&self) -> bool {
        self.handed_over.iter().all(|(group, led_in)| match self.node.leadership(*group) {
            Some((leader, ballot)) => leader.is_some_and(|leader| leader != self.node.id()) && ballot > *led_in,
            None => true,
        })
    }

    fn queues(&self) -> Queues {
        let (log_batches, log_bytes) = self.log.waiting();
        let (peer_frames, peer_bytes) = self.transport.as_ref().map_or((0, 0), Transport::waiting);
        Queues { log_batches: log_batches + self.backlog.len(), log_bytes, peer_frames, peer_bytes }
    }

    fn round_trips(&self) -> BTreeMap<NodeId, Duration> {
        let Some(transport) = &self.transport else { return BTreeMap::new() };
        self.known.keys().filter_map(|node| Some((*node, transport.round_trip(*node)?))).collect()
    }

    /// The others need not find out that this node is gone.
    fn say_goodbye(&mut self) {
        if let Some(hearsay) = &mut self.hearsay {
            hearsay.leave(crate::clock::instant());
        }
        self.send_gossip();
    }

    /// The last that the log hears.
    fn settle(&mut self) {
        self.node.settle(crate::clock::now(), &mut self.effects);
        self.carry_out();
        self.submit();
    }
}

/// Runs the loop until the node is drained or must not go on.
pub async fn run(shared: Shared) -> Ended {
    let (inbox, rearm) = {
        let driver = shared.borrow();
        (driver.inbox.clone(), driver.rearm.clone())
    };
    let mut events = Vec::new();
    let mut view_at = tokio::time::Instant::now();
    let mut drained_by: Option<tokio::time::Instant> = None;
    loop {
        events = inbox.take(events);
        let wait = {
            let mut driver = shared.borrow_mut();
            for event in events.drain(..) {
                driver.on_event(event);
            }
            let now = crate::clock::instant();
            if driver.node.deadline().is_some_and(|at| at <= now) {
                driver.step(Input::Tick);
            }
            if driver.draining {
                driver.hand_over();
            }
            driver.hand_over_if_full();
            driver.organise();
            driver.end_burst();
            driver.gossip();
            if let Some(ended) = driver.ended.take() {
                return ended;
            }
            if driver.draining {
                let by = *drained_by.get_or_insert_with(|| tokio::time::Instant::now() + HAND_OVER_PATIENCE);
                if driver.is_relieved() && driver.pending.is_empty() || tokio::time::Instant::now() >= by {
                    driver.settle();
                    driver.say_goodbye();
                    return Ended::Drained;
                }
            }
            if tokio::time::Instant::now() >= view_at {
                driver.publish_view();
                view_at = tokio::time::Instant::now() + driver.view_every();
            }
            let gossip = driver.hearsay.as_ref().and_then(Hearsay::deadline);
            let write = driver.write_deadline();
            driver.armed = driver.node.deadline().into_iter().chain(gossip).chain(write).min();
            driver.armed.map_or(VIEW_EVERY, |at| at.since(crate::clock::instant()))
        };
        let until = view_at.min(tokio::time::Instant::now() + wait);
        tokio::select! {
            () = inbox.filled() => {}
            () = rearm.notified() => {}
            () = tokio::time::sleep_until(until) => {}
        }
    }
}
