//! The engine: what it is told, what it does by the clock, what it says.

use crate::contacts::Contacts;
use crate::exchange::Kind;
use crate::groups::GroupTable;
use crate::hint::{Load, Profile};
use crate::identity::{Identity, MAX_ADDRESS_BYTES};
use crate::nodes::{Event, Node, NodeTable, State};
use crate::rumors::Rumors;
use crate::settings::{Settings, SettingsError};
use crate::swim::Swim;
use crate::wire::{Datagram, FRAME_BYTES, tag};
use bytes::Bytes;
use scatter_core::codec::DecodeError;
use scatter_core::group::Descriptor;
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::{GroupId, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The most events that wait to be taken; past that the oldest are dropped. The tables hold the truth.
pub const MAX_EVENTS: usize = 4096;

/// For how long a descriptor is kept whose claim is past.
const KEEP_PAST: Duration = Duration::from_secs(60);

/// How many exchanges may follow each other at once within a period, while the other side has more to tell.
pub(crate) const MAX_BURSTS: u32 = 8;

/// After how long without being taken for dead a node may deny it at once again; also the longest that it waits.
const CALM: Duration = Duration::from_secs(30);

/// A datagram to be sent. It may be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outgoing {
    /// To whom.
    pub to: NodeId,
    /// Where that node was heard of last.
    pub address: Arc<str>,
    /// What; at most [`Settings::datagram_bytes`].
    pub bytes: Bytes,
}

/// Why gossip does not start.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StartError {
    /// The settings make no sense together.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A text is too long.
    #[error(transparent)]
    Text(#[from] DecodeError),
}

/// Counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Datagrams handed out.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Datagrams handed in.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Datagrams that were not taken.
    pub rejected: u64,
    /// News of nodes that the table had no room for.
    pub refused_nodes: u64,
    /// Groups known at present whose descriptors fit no datagram, and so are not told to others.
    pub oversized: u64,
    /// How often this node was taken for dead and came back.
    pub rejoined: u64,
    /// How often this process was found to have been stopped.
    pub stalled: u64,
}

/// One node's end of the gossip.
pub struct Gossip {
    pub(crate) settings: Settings,
    pub(crate) rng: Rng,
    pub(crate) swim: Swim,
    pub(crate) nodes: NodeTable,
    pub(crate) groups: GroupTable,
    pub(crate) rumors: Rumors,
    pub(crate) contacts: Contacts,
    pub(crate) counters: Counters,
    pub(crate) bursts: u32,
    pub(crate) outgoing: Vec<Outgoing>,
    events: VecDeque<Event>,
    /// Whether nobody else is seen alive.
    pub(crate) lonely: bool,
    left: bool,
    /// When this node comes back from the dead.
    rejoin_at: Option<Instant>,
    /// When it may do so next.
    may_rejoin_at: Instant,
    /// How long it waited for that last: longer each time, if it happens often.
    rejoin_pause: Duration,
    pub(crate) gossip_at: Instant,
    exchange_at: Instant,
    pub(crate) contact_at: Instant,
    sweep_at: Instant,
}

impl Gossip {
    /// Starts in the given life. Everything random follows from `seed`.
    pub fn new(
        identity: Identity,
        profile: Profile,
        settings: Settings,
        seed: u64,
        now: Instant,
    ) -> Result<Self, StartError> {
        settings.check()?;
        profile.check()?;
        check_address(&identity.address)?;
        let mut rng = Rng::new(seed);
        let swim = Swim::new(identity.clone(), &settings, rng.next());
        let mut nodes = NodeTable::new(identity, now);
        nodes.set_own_profile(profile);
        let mut gossip = Self {
            swim,
            nodes,
            groups: GroupTable::new(settings.max_groups, settings.datagram_bytes - FRAME_BYTES),
            rumors: Rumors::default(),
            contacts: Contacts::default(),
            counters: Counters::default(),
            bursts: MAX_BURSTS,
            outgoing: Vec::new(),
            events: VecDeque::new(),
            lonely: true,
            left: false,
            rejoin_at: None,
            may_rejoin_at: Instant(0),
            rejoin_pause: settings.probe_period,
            gossip_at: now,
            exchange_at: now,
            contact_at: now,
            sweep_at: now,
            settings,
            rng,
        };
        gossip.exchange_at = now.after(gossip.jittered(gossip.settings.exchange_period));
        gossip.contact_at = now.after(gossip.jittered(gossip.settings.contact(0)));
        gossip.sweep_at = now.after(gossip.settings.probe_period);
        Ok(gossip)
    }

    /// Somebody lives at an address: a seed that said who it is, or whoever said hello.
    pub fn meet(&mut self, now: Instant, node: NodeId, address: &str) {
        if self.left || node == self.nodes.own().identity().node || check_address(address).is_err() {
            return;
        }
        let address: Arc<str> = address.into();
        self.contacts.note(node, &address, now);
        if self.is_missing(node) {
            self.swim.announce(now, Identity::somebody(node, address));
        }
        self.settle(now);
    }

    /// Does what is due. To be called at [`Gossip::next_deadline`] or soon after; more often does no harm.
    pub fn tick(&mut self, now: Instant) {
        if self.left {
            return;
        }
        self.advance(now);
        self.rejoin(now);
        if self.contact_at <= now {
            self.contact(now);
        }
        if self.exchange_at <= now {
            self.exchange_at = now.after(self.jittered(self.settings.exchange_period));
            self.bursts = MAX_BURSTS;
            if let Some(peer) = self.nodes.random_peer(&mut self.rng).map(|node| node.identity().clone()) {
                self.open_exchange(now, &peer);
            }
        }
        if self.sweep_at <= now {
            self.sweep(now);
        }
        if self.gossip_at <= now && self.has_rumors() {
            self.spread(now);
        }
        self.settle(now);
    }

    /// When the next thing is due, if nothing comes in before. `None` after [`Gossip::leave`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let own = [self.exchange_at, self.contact_at, self.sweep_at].into_iter();
        let gossip = self.has_rumors().then_some(self.gossip_at);
        let next = own.chain(gossip).chain(self.rejoin_at).chain(self.swim.deadline()).min();
        next.filter(|_| !self.left)
    }

    /// What is to be sent. To be taken after every call.
    pub fn outgoing(&mut self) -> std::vec::Drain<'_, Outgoing> {
        self.outgoing.drain(..)
    }

    /// What happened to nodes. To be taken after every call.
    pub fn events(&mut self) -> std::collections::vec_deque::Drain<'_, Event> {
        self.events.drain(..)
    }

    /// This node tells something else of itself.
    pub fn set_profile(&mut self, now: Instant, profile: Profile) -> Result<(), StartError> {
        profile.check()?;
        if self.nodes.set_own_profile(profile) && !self.left {
            self.tell_of_self(now);
        }
        Ok(())
    }

    /// This node is as busy as that. Worth calling every few seconds; what is between is never seen.
    pub fn set_load(&mut self, now: Instant, load: Load) {
        self.nodes.set_own_load(load, now);
    }

    /// This node listens elsewhere: it goes on in another life of the same boot.
    pub fn set_address(&mut self, now: Instant, address: &str) -> Result<(), StartError> {
        check_address(address)?;
        let own = self.nodes.own().identity().clone();
        if self.left || *own.address == *address {
            return Ok(());
        }
        let moved = Identity { bump: own.bump.saturating_add(1), address: address.into(), ..own };
        self.begin_life(now, moved);
        self.settle(now);
        Ok(())
    }

    /// Takes in descriptors from elsewhere: of the groups hosted here, from clients' replies, from walks.
    pub fn learn_descriptors<'a>(&mut self, now: Instant, heard: impl IntoIterator<Item = &'a Descriptor>) {
        for descriptor in heard {
            // Who is alone keeps it until it meets somebody: then an exchange tells what the others lack.
            if self.groups.learn(descriptor) && !self.lonely {
                self.add_rumor(now, Kind::Group, descriptor.group.0);
            }
        }
    }

    /// Says goodbye: the others need not find out. Nothing happens after that.
    pub fn leave(&mut self, now: Instant) {
        self.left = true;
        self.swim.leave(now);
        self.settle(now);
    }

    /// This node in its present life.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.nodes.own().identity()
    }

    /// All nodes known, this one included, by rising id.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// What is known of a node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node)
    }

    /// Every descriptor known.
    pub fn descriptors(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.groups.iter()
    }

    /// What is known of a group.
    #[must_use]
    pub fn descriptor(&self, group: GroupId) -> Option<&Arc<Descriptor>> {
        self.groups.get(group)
    }

    /// How many groups are known.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The local number of the last change of a descriptor.
    #[must_use]
    pub fn descriptors_revision(&self) -> u64 {
        self.groups.revision()
    }

    /// The descriptors that changed after the change of that number, in order.
    pub fn descriptors_changed_since(&self, revision: u64) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.groups.changed_since(revision)
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters { oversized: self.groups.oversized() as u64, ..self.counters }
    }

    pub(crate) fn left(&self) -> bool {
        self.left
    }

    /// Runs the membership protocol up to `now`.
    pub(crate) fn advance(&mut self, now: Instant) {
        let late = self.swim.deadline().map_or(Duration::ZERO, |deadline| now.since(deadline));
        if late > self.settings.probe_period {
            self.counters.stalled += 1;
            self.swim.postpone(late);
        }
        self.swim.run(now);
        self.settle(now);
    }

    /// Follows what the membership protocol came to, and hands out what it wants sent.
    pub(crate) fn settle(&mut self, now: Instant) {
        self.follow_members(now, &BTreeMap::new());
        if self.swim.take_dead() && !self.left {
            self.rejoin_at = Some(now.max(self.may_rejoin_at));
            self.rejoin(now);
        }
        for (to, packet) in self.swim.take_sends() {
            self.send(now, &to, Some(packet));
        }
    }

    /// Brings the node table up to date. `ages` says of some for how long they have been down.
    pub(crate) fn follow_members(&mut self, now: Instant, ages: &BTreeMap<NodeId, Duration>) {
        let touched = self.swim.take_touched();
        if touched.is_empty() {
            return;
        }
        for member in self.swim.members().filter(|member| touched.has(member.id().node)) {
            let (identity, state) = (member.id(), state_of(member.state()));
            let age = ages.get(&identity.node).copied().filter(|_| state == State::Down).unwrap_or_default();
            let event = self.nodes.observe(identity, member.incarnation(), state, now, age);
            if event.is_some() {
                self.contacts.note(identity.node, &identity.address, now);
            }
            self.events.extend(event);
        }
        while self.events.len() > MAX_EVENTS {
            self.events.pop_front();
        }
        let lonely = self.swim.active() == 0;
        if self.lonely && !lonely {
            self.tell_of_self(now);
            self.exchange_at = now;
        }
        self.lonely = lonely;
    }

    /// Whether this node was taken for dead and has not come back yet.
    pub(crate) fn is_dead(&self) -> bool {
        self.rejoin_at.is_some()
    }

    /// Comes back from the dead, if it is time.
    fn rejoin(&mut self, now: Instant) {
        if self.rejoin_at.is_none_or(|at| at > now) {
            return;
        }
        self.rejoin_at = None;
        let Some(later) = self.identity().bumped() else { return };
        let calm = now.since(self.may_rejoin_at) > CALM;
        self.rejoin_pause = if calm { self.settings.probe_period } else { (self.rejoin_pause * 2).min(CALM) };
        self.may_rejoin_at = now.after(self.rejoin_pause);
        self.counters.rejoined += 1;
        self.begin_life(now, later);
    }

    pub(crate) fn note_event(&mut self, event: Event) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Goes on as another identity of this node, which the others are told.
    pub(crate) fn begin_life(&mut self, now: Instant, identity: Identity) {
        self.nodes.set_own_identity(identity.clone());
        self.swim.become_identity(now, identity);
        self.reconnect(now);
    }

    fn tell_of_self(&mut self, now: Instant) {
        let own = self.nodes.own().identity().node;
        self.add_rumor(now, Kind::Node, own.0);
    }

    pub(crate) fn add_rumor(&mut self, now: Instant, kind: Kind, key: u64) {
        if self.rumors.is_empty() && self.gossip_at < now {
            self.gossip_at = now;
        }
        self.rumors.add((kind, key));
    }

    /// Whether a node is neither this one nor seen alive.
    pub(crate) fn is_missing(&self, node: NodeId) -> bool {
        self.nodes.get(node).is_none_or(|known| known.state() == State::Down)
    }

    /// Makes room for so many more nodes by forgetting the longest dead. Returns whether there is room.
    pub(crate) fn make_room(&mut self, count: usize) -> bool {
        while self.nodes.len() + count > self.settings.max_nodes {
            let Some(longest) = self.nodes.longest_down().map(|node| node.identity().clone()) else { return false };
            self.forget(longest);
        }
        true
    }

    fn forget(&mut self, identity: Identity) {
        let node = identity.node;
        self.swim.forget(identity);
        self.nodes.forget(node);
        self.rumors.drop_topic((Kind::Node, node.0));
        self.note_event(Event::Forgotten { node });
    }

    fn has_rumors(&self) -> bool {
        !self.lonely && (self.swim.has_news() || !self.rumors.is_empty())
    }

    /// For how long the dead are told of.
    pub(crate) fn tell_down(&self) -> Duration {
        self.settings.forget_after / 2
    }

    /// Forgets, drops and adapts what time has come for.
    fn sweep(&mut self, now: Instant) {
        self.sweep_at = now.after(self.settings.probe_period);
        self.swim.scale();
        self.swim.forget_former_selves();
        for identity in self.nodes.down_for_longer(self.settings.forget_after, now) {
            self.forget(identity);
        }
        self.groups.sweep(now, KEEP_PAST);
        // A rumour of the suspicion reaches almost everybody, and it is the suspect who may be the one it misses.
        for suspect in self.swim.suspects(now) {
            let mut datagram = Datagram::new(self.settings.datagram_bytes);
            datagram.push(tag::SUSPICION, &suspect);
            self.push_out(suspect.0.node, suspect.0.address, datagram.freeze());
        }
    }

    /// Introduces this node's new life to somebody: the library takes up its probing when somebody answers to it.
    fn reconnect(&mut self, now: Instant) {
        self.tell_of_self(now);
        self.contact_at = now;
        if let Some(peer) = self.nodes.random_peer(&mut self.rng).map(|node| node.identity().clone()) {
            self.swim.announce(now, peer);
        }
    }

    /// A period, a quarter longer or shorter, so that nodes do not fall into step.
    pub(crate) fn jittered(&mut self, period: Duration) -> Duration {
        self.rng.span(period - period / 4, period + period / 4)
    }
}

fn state_of(state: foca::State) -> State {
    match state {
        foca::State::Alive => State::Alive,
        foca::State::Suspect => State::Suspect,
        foca::State::Down => State::Down,
    }
}

pub(crate) fn check_address(address: &str) -> Result<(), DecodeError> {
    let (length, limit) = (address.len(), MAX_ADDRESS_BYTES);
    if length > limit { Err(DecodeError::TooLong { what: "address", length, limit }) } else { Ok(()) }
}
