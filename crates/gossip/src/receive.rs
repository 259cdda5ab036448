//! What comes in.

use crate::exchange::{Compare, Element, Kind, Span, answer};
use crate::gossip::Gossip;
use crate::hint::{LoadReport, NodeNews};
use crate::identity::Identity;
use crate::nodes::{Event, Node, State};
use crate::swim::{glance, member_of};
use crate::wire::{Part, Rejected, Reply, parts, tag};
use bytes::Bytes;
use foca::Member;
use scatter_core::group::Descriptor;
use scatter_core::time::Instant;
use scatter_core::types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The most datagrams that answer one.
const MAX_REPLY_DATAGRAMS: usize = 8;

/// The most keys asked for in one part.
const WANTED_KEYS: usize = 64;

/// A datagram, sorted.
#[derive(Default)]
struct Sorted {
    packets: Vec<Bytes>,
    nodes: Vec<NodeNews>,
    groups: Vec<Descriptor>,
    loads: Vec<LoadReport>,
    /// Rounds left, if it is part of an exchange.
    exchange: Option<u8>,
    compares: Vec<Compare>,
    wants: Vec<(Kind, Vec<u64>)>,
    more: bool,
    suspicions: Vec<(Identity, u16)>,
}

fn sort(parts: Vec<Part>) -> Sorted {
    let mut sorted = Sorted::default();
    for part in parts {
        match part {
            Part::Swim(packet) => sorted.packets.push(packet),
            Part::Node(news) => sorted.nodes.push(news),
            Part::Group(descriptor) => sorted.groups.push(descriptor),
            Part::Load(report) => sorted.loads.push(report),
            Part::Exchange(rounds) => sorted.exchange = Some(rounds),
            Part::Compare(compare) => sorted.compares.push(compare),
            Part::Want(kind, keys) => sorted.wants.push((kind, keys)),
            Part::More => sorted.more = true,
            Part::Suspicion(identity, incarnation) => sorted.suspicions.push((identity, incarnation)),
        }
    }
    sorted
}

impl Gossip {
    /// Takes in a datagram that `from` sent: the transport knows who that is.
    pub fn handle(&mut self, now: Instant, from: NodeId, datagram: Bytes) -> Result<(), Rejected> {
        if self.left() {
            return Ok(());
        }
        self.counters.received += 1;
        self.counters.received_bytes += datagram.len() as u64;
        self.advance(now);
        let taken = self.take_in(now, from, datagram);
        if taken.is_err() {
            self.counters.rejected += 1;
        }
        self.settle(now);
        taken
    }

    fn take_in(&mut self, now: Instant, from: NodeId, datagram: Bytes) -> Result<(), Rejected> {
        let sorted = sort(parts(datagram)?);
        for packet in &sorted.packets {
            self.take_packet(now, from, packet)?;
        }
        for (identity, incarnation) in sorted.suspicions {
            self.deny(now, from, identity, incarnation);
        }
        let rumor = sorted.exchange.is_none();
        self.take_nodes(now, &sorted.nodes, rumor);
        self.take_groups(now, &sorted.groups, rumor);
        for report in sorted.loads {
            self.nodes.learn_load(report, now);
        }
        let Some(rounds) = sorted.exchange else { return Ok(()) };
        let Some(peer) = self.nodes.get(from).map(|node| node.identity().clone()) else { return Ok(()) };
        self.reply(now, &peer, rounds, &sorted.compares, &sorted.wants);
        if sorted.more && self.bursts > 0 {
            self.bursts -= 1;
            self.open_exchange(now, &peer);
        }
        Ok(())
    }

    /// A packet of the membership protocol.
    fn take_packet(&mut self, now: Instant, from: NodeId, packet: &Bytes) -> Result<(), Rejected> {
        let glance = glance(packet)?;
        if glance.src.node != from {
            return Err(Rejected::OtherSender);
        }
        // Two that take each other for dead would answer that to each other as fast as datagrams fly.
        if self.is_dead() {
            return Ok(());
        }
        let told = glance.members.iter().map(|member| member.id());
        self.outlive(now, told.clone());
        let unknown: BTreeSet<NodeId> = std::iter::once(&glance.src)
            .chain(told)
            .map(|identity| identity.node)
            .filter(|node| self.nodes.get(*node).is_none())
            .collect();
        let mut packet = packet.clone();
        if !self.make_room(unknown.len()) {
            self.counters.refused_nodes += 1;
            if unknown.contains(&from) {
                return Ok(());
            }
            // What it says of others is left out; that its sender lives is worth knowing all the same.
            packet.truncate(glance.header_bytes);
        }
        self.swim.touch(glance.members.iter().map(|member| member.id().node));
        let quiet = |node: &Node| node.state() == State::Alive && *node.identity() == glance.src;
        if !self.nodes.get(from).is_some_and(quiet) {
            self.swim.touch([from]);
        }
        let rejoined = self.counters.rejoined;
        let taken = self.swim.handle(now, &packet);
        self.settle(now);
        if self.counters.rejoined != rejoined {
            // Whoever said that this node is dead hears first that it is not.
            self.swim.announce(now, glance.src);
        }
        taken
    }

    /// Somebody suspects a node, which hopefully is this one: a rumour of that may have missed it.
    fn deny(&mut self, now: Instant, from: NodeId, identity: Identity, incarnation: u16) {
        let Some(suspicious) = self.nodes.get(from).map(|node| node.identity().clone()) else { return };
        if identity == *self.identity() && !self.is_dead() {
            self.swim.deny(now, identity, incarnation);
            self.swim.announce(now, suspicious);
        }
    }

    /// If others have heard of a later life of this boot than this one, goes on in one that is later still. It can
    /// only be an echo that some bits were changed in: boots are counted on disk, and bumps here.
    fn outlive<'a>(&mut self, now: Instant, told: impl Iterator<Item = &'a Identity>) {
        let own = self.identity();
        let rivals = told.filter(|other| other.node == own.node && other.boot == own.boot && other.bump > own.bump);
        if let Some(highest) = rivals.map(|other| other.bump).max().and_then(|bump| bump.checked_add(1)) {
            let later = Identity { bump: highest, ..own.clone() };
            self.begin_life(now, later);
        }
    }

    /// News of nodes, from a rumour or an exchange.
    fn take_nodes(&mut self, now: Instant, heard: &[NodeNews], rumor: bool) {
        let mut members: Vec<Member<Identity>> = Vec::new();
        let mut ages = BTreeMap::new();
        self.outlive(now, heard.iter().map(|news| &news.identity));
        for news in heard {
            let node = news.identity.node;
            let down = news.down_ms.is_some();
            let changes = match self.nodes.get(node) {
                None => {
                    let room = self.make_room(1 + members.len());
                    self.counters.refused_nodes += u64::from(!room);
                    room
                }
                // A node hears of its own death alone.
                Some(known) if node == self.identity().node => down && news.identity == *known.identity(),
                Some(known) => news.changes(known),
            };
            if changes {
                members.push(member_of(news.identity.clone(), news.incarnation, down));
                ages.insert(node, Duration::from_millis(news.down_ms.unwrap_or(0)));
            }
        }
        if !members.is_empty() {
            self.swim.touch(ages.keys().copied());
            self.swim.apply(now, members);
            self.follow_members(now, &ages);
        }
        for news in heard {
            let Some(told) = &news.told else { continue };
            let node = news.identity.node;
            if self.nodes.learn_profile(node, told) {
                self.note_event(Event::Profile { node });
                if rumor {
                    self.add_rumor(now, Kind::Node, node.0);
                }
            } else if rumor {
                self.heard_again(Kind::Node, node.0);
            }
        }
    }

    fn take_groups(&mut self, now: Instant, heard: &[Descriptor], rumor: bool) {
        for descriptor in heard {
            let key = descriptor.group.0;
            if self.groups.learn(descriptor) {
                if rumor {
                    self.add_rumor(now, Kind::Group, key);
                }
            } else if rumor && self.groups.has(descriptor) {
                self.heard_again(Kind::Group, key);
            }
        }
    }

    /// Others pass on the same: one time less that this node need do it.
    fn heard_again(&mut self, kind: Kind, key: u64) {
        let most = self.settings.transmissions(self.swim.active() + 1);
        self.rumors.told((kind, key), most);
    }

    /// Answers a part of an exchange: first the questions, which are short, then what the other lacks.
    fn reply(&mut self, now: Instant, peer: &Identity, rounds: u8, compares: &[Compare], wants: &[(Kind, Vec<u64>)]) {
        let left = rounds.min(crate::exchange::MAX_ROUNDS).checked_sub(1);
        let mut reply = Reply::new(left.unwrap_or(0), self.settings.datagram_bytes, MAX_REPLY_DATAGRAMS);
        let mut items: Vec<(Kind, u64)> = Vec::new();
        for compare in compares {
            if self.agrees(compare) {
                continue;
            }
            let kind = compare.span().kind;
            let answer = answer(compare, &self.elements(compare.span(), now));
            items.extend(answer.push.into_iter().map(|key| (kind, key)));
            if left.is_none() {
                continue;
            }
            for compare in &answer.compares {
                reply.push(tag::COMPARE, compare);
            }
            for keys in answer.want.chunks(WANTED_KEYS) {
                reply.push(tag::WANT, &(kind, keys.to_vec()));
            }
        }
        items.extend(wants.iter().flat_map(|(kind, keys)| keys.iter().map(|key| (*kind, *key))));
        for (kind, key) in items {
            let Some(item) = self.item(now, kind, key) else { continue };
            reply.push(item.tag(), &item);
            if reply.is_cut() {
                break;
            }
        }
        for datagram in reply.finish() {
            self.push_out(peer.node, Arc::clone(&peer.address), datagram);
        }
    }

    /// Whether all groups are those that the other has: the usual case, told without looking at each.
    fn agrees(&mut self, compare: &Compare) -> bool {
        match compare {
            Compare::Digest { span, digest } => *span == Span::whole(Kind::Group) && *digest == self.groups.digest(),
            Compare::List { .. } => false,
        }
    }

    fn elements(&self, span: Span, now: Instant) -> Vec<Element> {
        match span.kind {
            Kind::Node => self.nodes.elements(span, self.tell_down(), now),
            Kind::Group => self.groups.elements(span),
        }
    }
}

impl NodeNews {
    /// Whether the membership protocol would make something of this, knowing what is known.
    fn changes(&self, known: &Node) -> bool {
        if self.identity != *known.identity() {
            return self.identity.is_later(known.identity());
        }
        known.state() != State::Down && (self.down_ms.is_some() || self.incarnation > known.incarnation())
    }
}
