//! What goes out: to whom, and what a datagram is filled with.

use crate::exchange::{Compare, Digest, Kind, MAX_ROUNDS, Span};
use crate::gossip::{Gossip, Outgoing, check_address};
use crate::hint::NodeNews;
use crate::identity::Identity;
use crate::nodes::{State, random_index};
use crate::wire::{Datagram, tag};
use bytes::{Bytes, BytesMut};
use scatter_core::codec::Encode;
use scatter_core::group::Descriptor;
use scatter_core::time::Instant;
use scatter_core::types::{GroupId, NodeId};
use std::sync::Arc;

/// How many rumours are tried for what is left of a datagram.
const TRIED_RUMORS: usize = 32;

/// To how many missing nodes one that sees nobody speaks at a time.
const LONELY_CONTACTS: usize = 3;

/// Something told to others.
pub(crate) enum Item<'a> {
    Node(NodeNews),
    Group(&'a Descriptor),
}

impl Item<'_> {
    pub(crate) fn tag(&self) -> u8 {
        match self {
            Self::Node(_) => tag::NODE,
            Self::Group(_) => tag::GROUP,
        }
    }
}

impl Encode for Item<'_> {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Node(news) => news.encode(out),
            Self::Group(descriptor) => descriptor.encode(out),
        }
    }
}

impl Gossip {
    /// Passes news on to a few others.
    pub(crate) fn spread(&mut self, now: Instant) {
        self.gossip_at = now.after(self.settings.gossip_period);
        if self.swim.has_news() {
            self.swim.gossip(now);
            return;
        }
        for _ in 0..self.settings.gossip_fanout {
            if let Some(peer) = self.nodes.random_peer(&mut self.rng).map(|node| node.identity().clone()) {
                self.send(now, &peer, None);
            }
        }
    }

    /// Tries somebody who is missing: one of those met before, or a member of some group.
    pub(crate) fn contact(&mut self, now: Instant) {
        self.contact_at = now.after(self.jittered(self.settings.contact(self.swim.active())));
        let attempts = if self.lonely { LONELY_CONTACTS } else { 1 };
        for _ in 0..attempts {
            let member = if self.rng.next().is_multiple_of(2) { self.missing_member() } else { None };
            let missing = |node| self.nodes.get(node).is_none_or(|known| known.state() == State::Down);
            let found = member.or_else(|| self.contacts.draw(&mut self.rng, missing));
            if let Some((node, address)) = found {
                self.swim.announce(now, Identity::somebody(node, address));
            }
        }
    }

    fn missing_member(&mut self) -> Option<(NodeId, Arc<str>)> {
        let group = GroupId(self.rng.next());
        let members = &self.groups.around(group)?.configuration.members;
        let member = &members[random_index(&mut self.rng, members.len())];
        let missing = self.is_missing(member.node) && check_address(&member.address).is_ok();
        missing.then(|| (member.node, member.address.as_str().into()))
    }

    /// Begins to compare what this node knows with what another does.
    pub(crate) fn open_exchange(&mut self, now: Instant, peer: &Identity) {
        let mut datagram = Datagram::new(self.settings.datagram_bytes);
        datagram.push(tag::EXCHANGE, &MAX_ROUNDS);
        let (nodes, groups) = (Span::whole(Kind::Node), Span::whole(Kind::Group));
        let node_digest = Digest::of(&self.nodes.elements(nodes, self.tell_down(), now));
        datagram.push(tag::COMPARE, &Compare::Digest { span: nodes, digest: node_digest });
        datagram.push(tag::COMPARE, &Compare::Digest { span: groups, digest: self.groups.digest() });
        self.add_loads(&mut datagram);
        self.push_out(peer.node, Arc::clone(&peer.address), datagram.freeze());
    }

    /// Sends a membership packet, or nothing but news, with whatever else there is to say as far as it fits.
    pub(crate) fn send(&mut self, now: Instant, to: &Identity, packet: Option<Bytes>) {
        let mut datagram = Datagram::new(self.settings.datagram_bytes);
        if let Some(packet) = packet {
            datagram.push(tag::SWIM, &packet);
        }
        self.add_rumors(now, &mut datagram, to.node);
        if !datagram.is_empty() {
            self.add_loads(&mut datagram);
            self.push_out(to.node, Arc::clone(&to.address), datagram.freeze());
        }
    }

    fn add_loads(&mut self, datagram: &mut Datagram) {
        for report in self.nodes.some_loads(self.settings.loads_per_datagram, &mut self.rng) {
            datagram.push(tag::LOAD, &report);
        }
    }

    fn add_rumors(&mut self, now: Instant, datagram: &mut Datagram, to: NodeId) {
        let most = self.settings.transmissions(self.swim.active() + 1);
        for topic in self.rumors.next(TRIED_RUMORS) {
            let before = datagram.len();
            let (kind, key) = topic;
            if kind == Kind::Node && key == to.0 {
                continue;
            }
            match self.item(now, kind, key).map(|item| datagram.push(item.tag(), &item)) {
                Some(true) => self.rumors.told(topic, most),
                // It fits no datagram at all.
                Some(false) if before <= 1 => self.rumors.drop_topic(topic),
                Some(false) => {}
                None => self.rumors.drop_topic(topic),
            }
        }
    }

    /// What is known under a key, as it is told to others.
    pub(crate) fn item(&self, now: Instant, kind: Kind, key: u64) -> Option<Item<'_>> {
        match kind {
            Kind::Node => self.nodes.get(NodeId(key)).map(|node| Item::Node(node.news(now))),
            Kind::Group => self.groups.get(GroupId(key)).map(|descriptor| Item::Group(descriptor)),
        }
    }

    pub(crate) fn push_out(&mut self, to: NodeId, address: Arc<str>, bytes: Bytes) {
        self.counters.sent += 1;
        self.counters.sent_bytes += bytes.len() as u64;
        self.outgoing.push(Outgoing { to, address, bytes });
    }
}
