//! Connections and packets. Each node dials the nodes it speaks to; a connection stands once both ends have believed the
//! other's hello. Packets on it may be late, lost, doubled and overtaken: more than any real transport does.

use crate::history::Time;
use crate::host::Connection;
use crate::invariants::{Checked, require};
use crate::network::Fate;
use crate::plan::MILLISECOND;
use crate::workload::{Answer, ClientRequest};
use crate::world::{Event, World};
use scatter_core::codec::{Decode, Encode};
use scatter_core::effects::{Effects, Outgoing};
use scatter_core::input::Input;
use scatter_core::message::{Hello, HelloError, PeerMessage};
use scatter_core::ops::messages::GroupMessage;
use scatter_core::types::{ClusterId, NodeId};
use std::collections::VecDeque;

/// What may wait for one connection to stand.
const MAX_WAITING: usize = 64;
/// How long a hello is waited for before it is said again.
const HELLO_PATIENCE: Time = 300 * MILLISECOND;
/// One in this many messages is also encoded and read back.
const CODEC_CHECK: u64 = 64;

/// What travels.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A node introduces itself; `epoch` is its process.
    Hello {
        /// What it says.
        hello: Hello,
        /// Where it lives.
        address: String,
        /// Its process.
        epoch: u64,
    },
    /// The other node accepts, and introduces itself.
    Welcome {
        /// What it says.
        hello: Hello,
        /// Whom the first hello was for.
        wanted: NodeId,
        /// Its process.
        epoch: u64,
        /// The process that is welcome.
        to_epoch: u64,
    },
    /// The other node refuses.
    Refusal {
        /// Why.
        error: HelloError,
        /// Whom the hello was for.
        wanted: NodeId,
        /// Who refuses.
        by: NodeId,
        /// The process that is refused.
        to_epoch: u64,
    },
    /// A message on a connection.
    Peer {
        /// The node at the other end.
        from: NodeId,
        /// Its process.
        from_epoch: u64,
        /// The process it is for.
        to_epoch: u64,
        /// What it says.
        message: PeerMessage,
    },
    /// Who lives there?
    Ask {
        /// The address asked.
        address: String,
        /// Who asks, and where it lives.
        by: (NodeId, String),
        /// The process that asks.
        epoch: u64,
    },
    /// I do.
    Told {
        /// The address asked.
        address: String,
        /// Who lives there.
        node: NodeId,
        /// Its cluster.
        cluster: Option<ClusterId>,
        /// The process that asked.
        to_epoch: u64,
    },
    /// A client asks.
    Request {
        /// Which worker.
        worker: usize,
        /// Which attempt.
        attempt: u64,
        /// What.
        request: ClientRequest,
    },
    /// A client hears.
    Reply {
        /// Which worker.
        worker: usize,
        /// Which attempt.
        attempt: u64,
        /// What.
        answer: Answer,
    },
}

impl World {
    /// Puts a packet on its way. `twice` allows the network to double it.
    pub fn send(&mut self, from: usize, to: usize, packet: Packet, twice: bool) {
        if let Packet::Peer { message: PeerMessage::Group { envelope }, .. } = &packet
            && matches!(envelope.message, GroupMessage::Voted { .. })
            && self.is_silenced(envelope.from, envelope.to)
        {
            return;
        }
        self.overhear(from, to, &packet);
        match self.network.send(from, to, self.now) {
            Fate::Lost => {}
            Fate::Held => self.held.push((from, to, Box::new(packet))),
            Fate::Arrives(at, again) => {
                if let Some(again) = again.filter(|_| twice) {
                    self.at(again, Event::Arrive { from, to, packet: Box::new(packet.clone()) });
                }
                if let Packet::Peer { message: PeerMessage::Group { .. }, .. } = &packet
                    && let Some(late) = self.echo()
                {
                    self.at(at + late, Event::Arrive { from, to, packet: Box::new(packet.clone()) });
                }
                self.at(at, Event::Arrive { from, to, packet: Box::new(packet) });
            }
        }
    }

    /// Links may be whole again: what waited for them travels.
    pub fn release_held(&mut self) {
        for (from, to, packet) in std::mem::take(&mut self.held) {
            if self.network.is_cut(from, to) {
                self.held.push((from, to, packet));
            } else {
                let at = self.network.release(self.now);
                self.at(at, Event::Arrive { from, to, packet });
            }
        }
    }

    /// A node's message leaves for another node.
    pub fn send_peer(&mut self, host: usize, outgoing: Outgoing) {
        let Outgoing { to, address, message, .. } = outgoing;
        let now = self.now;
        let epoch = self.hosts[host].epoch;
        let Some(process) = &mut self.hosts[host].process else { return };
        if let Some(address) = address {
            // Where nobody lives any more nothing can be told of where the node went.
            let lives = process.book.get(&to).is_some_and(|known| self.addresses.contains_key(known));
            if !lives {
                process.book.insert(to, address);
            }
        }
        let Some(target) = process.book.get(&to).and_then(|address| self.addresses.get(address).copied()) else {
            return;
        };
        let from = process.node.id();
        match process.connections.get_mut(&to) {
            Some(Connection::Up { host: other, epoch: to_epoch }) if *other == target => {
                let packet = Packet::Peer { from, from_epoch: epoch, to_epoch: *to_epoch, message };
                return self.send(host, target, packet, true);
            }
            Some(Connection::Dialling { since, waiting }) => {
                if waiting.len() < MAX_WAITING {
                    waiting.push_back(message);
                }
                if now - *since < HELLO_PATIENCE {
                    return;
                }
                *since = now;
            }
            Some(Connection::Up { .. }) | None => {
                let waiting = VecDeque::from([message]);
                process.connections.insert(to, Connection::Dialling { since: now, waiting });
            }
        }
        let hello = process.node.hello(Some(to));
        let address = self.hosts[host].address.clone();
        self.send(host, target, Packet::Hello { hello, address, epoch }, false);
    }

    /// Asks who lives at an address.
    pub fn dial(&mut self, host: usize, address: String) {
        let Some(target) = self.addresses.get(&address).copied() else { return };
        let epoch = self.hosts[host].epoch;
        let Some(process) = &self.hosts[host].process else { return };
        let by = (process.node.id(), self.hosts[host].address.clone());
        self.send(host, target, Packet::Ask { address, by, epoch }, false);
    }

    /// A packet arrives.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn arrive(&mut self, from: usize, to: usize, packet: Box<Packet>) -> Checked {
        if to >= self.hosts.len() {
            return self.arrive_at_client(from, *packet);
        }
        let paused = self.hosts[to].paused_until;
        if self.hosts[to].process.is_some() && paused > self.now {
            self.at(paused, Event::Arrive { from, to, packet });
            return Ok(());
        }
        if !self.hosts[to].speaks() {
            self.disconnected(from, to, &packet);
            return Ok(());
        }
        match *packet {
            Packet::Hello { hello, address, epoch } => self.hello(from, to, &hello, address, epoch),
            Packet::Welcome { hello, wanted, epoch, to_epoch } => {
                self.welcome(from, to, &hello, wanted, epoch, to_epoch)
            }
            Packet::Refusal { error, wanted, by, to_epoch } => self.refusal(to, error, wanted, by, to_epoch),
            Packet::Peer { from: node, to_epoch, ref message, .. } => {
                let process = self.hosts[to].process.as_ref();
                let condemned = process.is_some_and(|process| process.node.is_condemned(node));
                if self.hosts[to].epoch != to_epoch || condemned {
                    self.disconnected(from, to, &packet);
                    return Ok(());
                }
                self.check_codec(message)?;
                if let PeerMessage::Gossip { datagram } = message {
                    self.gossip_hears(to, node, datagram.clone());
                    return Ok(());
                }
                self.input(to, Input::Message { from: node, message: message.clone() })
            }
            Packet::Ask { address, by, epoch } => {
                // With a process that is gone no connection comes to stand, and where it lived may be past.
                if self.hosts[from].epoch == epoch
                    && let Some(process) = &mut self.hosts[to].process
                {
                    process.book.insert(by.0, by.1);
                    let (node, cluster) = (process.node.id(), process.node.cluster());
                    self.send(to, from, Packet::Told { address, node, cluster, to_epoch: epoch }, false);
                }
                Ok(())
            }
            Packet::Told { address, node, cluster, to_epoch } => {
                if self.hosts[to].epoch == to_epoch {
                    if let Some(process) = &mut self.hosts[to].process {
                        process.book.insert(node, address.clone());
                    }
                    self.gossip_meets(to, node, &address);
                    return self.input(to, Input::Answered { address, node, cluster });
                }
                Ok(())
            }
            Packet::Request { worker, attempt, request } => self.client_request(to, worker, attempt, request),
            Packet::Reply { .. } => Ok(()),
        }
    }

    /// Nobody is there any more: the sender's system tells it so.
    fn disconnected(&mut self, from: usize, to: usize, packet: &Packet) {
        let from_epoch = match packet {
            Packet::Peer { from_epoch, .. } => *from_epoch,
            Packet::Hello { epoch, .. } => *epoch,
            _ => return,
        };
        if self.hosts[from].epoch == from_epoch
            && let Some(process) = &mut self.hosts[from].process
        {
            process.connections.retain(|_, connection| match connection {
                Connection::Up { host, .. } => *host != to,
                Connection::Dialling { .. } => true,
            });
        }
    }

    fn hello(&mut self, from: usize, to: usize, hello: &Hello, address: String, from_epoch: u64) -> Checked {
        let epoch = self.hosts[to].epoch;
        let mut effects = Effects::default();
        // What it saw first may have been the forged one.
        let seen = self.hosts[to].disk.log.peers.get(&hello.from).map(|peer| peer.nonce);
        let Some(process) = &mut self.hosts[to].process else { return Ok(()) };
        let own = process.node.id();
        let had_seen = process.node.has_seen(hello.from) && seen.is_some_and(|nonce| !self.nemesis.is_impostor(nonce));
        let known = process.node.check_hello(hello, &mut effects);
        let wanted = hello.to.unwrap_or(own);
        self.carry_out_after_flush(to, effects)?;
        let reply = match known {
            Ok(()) => {
                require(17, wanted == own, || format!("host {to} answers for {wanted}, which it is not"))?;
                self.believes(to, hello, had_seen)?;
                let Some(process) = &mut self.hosts[to].process else { return Ok(()) };
                process.book.insert(hello.from, address.clone());
                let welcome = process.node.hello(Some(hello.from));
                self.gossip_meets(to, hello.from, &address);
                Packet::Welcome { hello: welcome, wanted, epoch, to_epoch: from_epoch }
            }
            Err(error) => Packet::Refusal { error, wanted, by: own, to_epoch: from_epoch },
        };
        self.note([1, to as u64, hello.from.0], || format!("host {to} hears {hello:?}: {known:?}"));
        self.send(to, from, reply, false);
        Ok(())
    }

    /// I17: nobody believes a process that runs on a disk that was put back. All had seen a boot that it does not know of, but
    /// for those whose own disk was lost or put back since.
    fn believes(&mut self, host: usize, hello: &Hello, had_seen: bool) -> Checked {
        let process = self.hosts[host].process.as_ref();
        let forgetful = process.is_some_and(|process| self.nemesis.is_impostor(process.node.hello(None).nonce));
        let forged = had_seen && !forgetful && self.nemesis.is_impostor(hello.nonce);
        require(17, !forged, || format!("host {host} believes {hello:?}, whose disk was put back"))
    }

    fn welcome(&mut self, from: usize, to: usize, hello: &Hello, wanted: NodeId, epoch: u64, to_epoch: u64) -> Checked {
        if self.hosts[to].epoch != to_epoch {
            return Ok(());
        }
        let mut effects = Effects::default();
        let Some(process) = &mut self.hosts[to].process else { return Ok(()) };
        let known = process.node.check_hello(hello, &mut effects);
        self.carry_out_after_flush(to, effects)?;
        if known.is_err() || hello.from != wanted {
            self.close(to, wanted);
            return Ok(());
        }
        let Some(process) = &mut self.hosts[to].process else { return Ok(()) };
        let own = process.node.id();
        let waiting = match process.connections.insert(wanted, Connection::Up { host: from, epoch }) {
            Some(Connection::Dialling { waiting, .. }) => waiting,
            Some(Connection::Up { .. }) | None => VecDeque::new(),
        };
        for message in waiting {
            let packet = Packet::Peer { from: own, from_epoch: to_epoch, to_epoch: epoch, message };
            self.send(to, from, packet, true);
        }
        Ok(())
    }

    fn refusal(&mut self, to: usize, error: HelloError, wanted: NodeId, by: NodeId, to_epoch: u64) -> Checked {
        if self.hosts[to].epoch != to_epoch {
            return Ok(());
        }
        self.close(to, wanted);
        match error {
            HelloError::RolledBack | HelloError::Condemned => self.input(to, Input::RolledBack { by }),
            HelloError::OtherNode => {
                // It lives elsewhere: what the next message says of its address counts.
                if let Some(process) = &mut self.hosts[to].process {
                    process.book.remove(&wanted);
                }
                Ok(())
            }
            HelloError::OtherCluster | HelloError::GivenUp => Ok(()),
        }
    }

    fn close(&mut self, host: usize, node: NodeId) {
        if let Some(process) = &mut self.hosts[host].process {
            process.connections.remove(&node);
        }
    }

    /// Every now and then a message is read back from its bytes.
    fn check_codec(&mut self, message: &PeerMessage) -> Checked {
        if !self.random.next().is_multiple_of(CODEC_CHECK) {
            return Ok(());
        }
        let again = PeerMessage::from_all(message.to_bytes());
        require(22, again.as_ref() == Ok(message), || format!("{message:?} reads back as {again:?}"))
    }

    fn arrive_at_client(&mut self, _from: usize, packet: Packet) -> Checked {
        match packet {
            Packet::Reply { worker, attempt, answer } => self.client_reply(worker, attempt, answer),
            _ => Ok(()),
        }
    }
}
