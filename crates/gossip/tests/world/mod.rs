//! A world of nodes that gossip, from one seed: lossy links, partitions, crashes, restarts, stalls.

#![allow(dead_code, unreachable_pub, reason = "several programs share this module, each using a part of it")]

use bytes::Bytes;
use scatter_core::group::{Configuration, Descriptor, Member, Role};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::{Ballot, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion};
use scatter_gossip::{Event, Gossip, Identity, Load, Profile, Settings, State};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

/// What links do.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    /// Of a thousand datagrams so many are lost,
    pub lost: u64,
    /// and so many come twice.
    pub doubled: u64,
    /// The least latency.
    pub least: Duration,
    /// The most. Those between overtake each other.
    pub most: Duration,
}

impl Default for Links {
    fn default() -> Self {
        Self { lost: 0, doubled: 0, least: Duration::from_millis(1), most: Duration::from_millis(20) }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Tick(usize),
    Deliver { to: usize, from: usize, bytes: Bytes },
}

pub struct Slot {
    pub id: NodeId,
    pub boot: u64,
    pub address: String,
    pub gossip: Option<Gossip>,
    /// Nodes on different sides do not hear each other.
    pub side: u8,
    /// Until when the process is stopped. What comes in meanwhile waits.
    stopped_until: u64,
    armed: u64,
    /// How often it was told that a node that lives is down.
    pub false_deaths: usize,
}

pub struct World {
    pub now: u64,
    pub slots: Vec<Slot>,
    index_of: BTreeMap<NodeId, usize>,
    pub links: Links,
    pub settings: Settings,
    queue: BinaryHeap<Reverse<(u64, u64, What)>>,
    sequence: u64,
    rng: Rng,
    trace: DefaultHasher,
    /// What was sent, if it is to be kept.
    pub record: Option<Vec<Bytes>>,
    /// Whether deaths told of nodes that live and can be reached are counted.
    pub count_false_deaths: bool,
}

pub const MILLIS: u64 = 1_000_000;
pub const SECONDS: u64 = 1_000 * MILLIS;

impl World {
    /// `count` nodes that start within a second and each know the address of the first.
    pub fn new(count: usize, settings: Settings, seed: u64) -> Self {
        let mut world = Self {
            now: SECONDS,
            slots: Vec::new(),
            index_of: BTreeMap::new(),
            links: Links::default(),
            settings,
            queue: BinaryHeap::new(),
            sequence: 0,
            rng: Rng::new(seed),
            trace: DefaultHasher::new(),
            record: None,
            count_false_deaths: false,
        };
        for _ in 0..count {
            world.add();
        }
        world
    }

    /// Another node with an empty disk. It meets the first node that lives.
    pub fn add(&mut self) -> usize {
        let index = self.slots.len();
        self.slots.push(Slot {
            id: NodeId(self.rng.next()),
            boot: 0,
            address: format!("10.0.{}.{}:7000", index / 256, index % 256),
            gossip: None,
            side: 0,
            stopped_until: 0,
            armed: u64::MAX,
            false_deaths: 0,
        });
        self.index_of.insert(self.slots[index].id, index);
        self.start(index);
        index
    }

    pub fn crash(&mut self, index: usize) {
        self.slots[index].gossip = None;
    }

    /// Starts a node, again maybe. It meets a node that lives, if there is one.
    pub fn start(&mut self, index: usize) {
        let seed = self.rng.next();
        let slot = &mut self.slots[index];
        slot.boot += 1;
        let identity = Identity::new(slot.id, slot.boot, &slot.address);
        let profile = Profile {
            http_address: format!("10.0.{}.{}:8000", index / 256, index % 256),
            zone: format!("zone-{}", index % 3),
            ..Profile::default()
        };
        let now = Instant(self.now);
        slot.gossip = Some(Gossip::new(identity, profile, self.settings.clone(), seed, now).unwrap());
        let side = self.slots[index].side;
        let lives = |other: &&Slot| other.id != self.slots[index].id && other.gossip.is_some() && other.side == side;
        let seed = self.slots.iter().find(lives).map(|seed| (seed.id, seed.address.clone()));
        self.call(index, |gossip, now| {
            gossip.set_load(now, Load { replicas: 1, ..Load::default() });
            if let Some((node, address)) = &seed {
                gossip.meet(now, *node, address);
            }
        });
    }

    /// Stops a process for a while, as SIGSTOP does.
    pub fn stop(&mut self, index: usize, span: Duration) {
        self.slots[index].stopped_until = Instant(self.now).after(span).0;
    }

    /// Calls into a node and carries out what it wants.
    pub fn call<T>(&mut self, index: usize, call: impl FnOnce(&mut Gossip, Instant) -> T) -> Option<T> {
        let gossip = self.slots[index].gossip.as_mut()?;
        let result = call(gossip, Instant(self.now));
        let sent: Vec<_> = gossip.outgoing().collect();
        let events: Vec<_> = gossip.events().collect();
        let deadline = gossip.next_deadline().map_or(u64::MAX, |at| at.0.max(self.now));
        if self.count_false_deaths {
            let dead = events.iter().filter_map(|event| match event {
                Event::Down { node } => Some(*node),
                Event::Up { .. } | Event::Suspect { .. } | Event::Forgotten { .. } | Event::Profile { .. } => None,
            });
            let wrong = dead.filter(|node| self.slots.iter().any(|slot| slot.id == *node && slot.gossip.is_some()));
            self.slots[index].false_deaths += wrong.count();
        }
        if deadline < self.slots[index].armed {
            self.slots[index].armed = deadline;
            self.push(deadline, What::Tick(index));
        }
        for out in sent {
            assert!(out.bytes.len() <= self.settings.datagram_bytes);
            self.post(index, out.to, &out.address, out.bytes);
        }
        Some(result)
    }

    fn post(&mut self, from: usize, to: NodeId, address: &str, bytes: Bytes) {
        (self.now, from, to.0, &bytes[..]).hash(&mut self.trace);
        self.record.iter_mut().for_each(|record| record.push(bytes.clone()));
        // Whoever is called by name at a place where somebody else lives does not hear it.
        let Some(to) = self.index_of.get(&to).copied().filter(|to| self.slots[*to].address == address) else { return };
        if self.slots[from].side != self.slots[to].side || self.rng.next() % 1000 < self.links.lost {
            return;
        }
        let copies = if self.rng.next() % 1000 < self.links.doubled { 2 } else { 1 };
        for _ in 0..copies {
            let at = Instant(self.now).after(self.rng.span(self.links.least, self.links.most)).0;
            self.push(at, What::Deliver { to, from, bytes: bytes.clone() });
        }
    }

    fn push(&mut self, at: u64, what: What) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, what)));
    }

    /// Runs for a while.
    pub fn run(&mut self, span: Duration) {
        let end = Instant(self.now).after(span).0;
        while let Some(Reverse((at, _, _))) = self.queue.peek()
            && *at <= end
        {
            let Some(Reverse((at, _, what))) = self.queue.pop() else { break };
            self.now = at;
            let index = match &what {
                What::Tick(index) => *index,
                What::Deliver { to, .. } => *to,
            };
            if self.slots[index].stopped_until > at {
                let later = self.slots[index].stopped_until;
                if matches!(what, What::Tick(_)) {
                    self.slots[index].armed = later;
                }
                self.push(later, what);
                continue;
            }
            match what {
                What::Tick(index) if self.slots[index].armed == at => {
                    self.slots[index].armed = u64::MAX;
                    self.call(index, |gossip, now| gossip.tick(now));
                }
                // Another tick was set since.
                What::Tick(_) => {}
                What::Deliver { to, from, bytes } => {
                    let from = self.slots[from].id;
                    self.call(to, |gossip, now| gossip.handle(now, from, bytes).expect("nodes understand each other"));
                }
            }
        }
        self.now = end;
    }

    /// Runs until `done` or for `most`. Returns how long it took.
    pub fn run_until(&mut self, most: Duration, done: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begin = self.now;
        while Instant(self.now).since(Instant(begin)) < most {
            if done(self) {
                return Some(Instant(self.now).since(Instant(begin)));
            }
            self.run(Duration::from_millis(100));
        }
        done(self).then_some(most)
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = (&Slot, &Gossip)> {
        self.slots.iter().filter_map(|slot| slot.gossip.as_ref().map(|gossip| (slot, gossip)))
    }

    /// Whether each node that runs sees each of them alive, in its present boot and with its profile, and nobody else
    /// but dead ones.
    pub fn agrees(&self) -> bool {
        self.running().all(|(_, gossip)| self.sees_all(gossip))
    }

    pub fn sees_all(&self, gossip: &Gossip) -> bool {
        let alive = gossip.nodes().filter(|node| node.state() == State::Alive).count();
        alive == self.running().count() && self.running().all(|(slot, _)| sees(gossip, slot))
    }

    /// Whether all that run see that node in that state.
    pub fn all_see(&self, index: usize, state: State) -> bool {
        let id = self.slots[index].id;
        self.running().all(|(_, gossip)| gossip.node(id).is_some_and(|node| node.state() == state))
    }

    /// Whether all that run see those on the other side in that state.
    pub fn all_see_on_other_side(&self, state: State) -> bool {
        self.running().all(|(slot, gossip)| {
            let others = self.slots.iter().filter(|other| other.side != slot.side);
            others.into_iter().all(|other| gossip.node(other.id).is_some_and(|node| node.state() == state))
        })
    }

    /// Whether all that run know that version of a descriptor.
    pub fn all_know(&self, descriptor: &Descriptor) -> bool {
        self.running()
            .all(|(_, gossip)| gossip.descriptor(descriptor.group).is_some_and(|known| **known == *descriptor))
    }

    /// Bytes sent by all so far.
    pub fn sent_bytes(&self) -> u64 {
        self.running().map(|(_, gossip)| gossip.counters().sent_bytes).sum()
    }

    /// Datagrams sent by all so far.
    pub fn sent(&self) -> u64 {
        self.running().map(|(_, gossip)| gossip.counters().sent).sum()
    }

    /// A number for all that was sent so far.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    /// The descriptor of the `index`th of `count` groups that share the ring equally.
    pub fn descriptor(&self, index: usize, count: usize) -> Descriptor {
        let position = |index: usize| {
            if index.is_multiple_of(count) {
                return Position::first();
            }
            let share = u128::from(u64::MAX) * index as u128 / count as u128;
            Position(Bytes::copy_from_slice(&(share as u64).to_be_bytes()))
        };
        let mut members: Vec<Member> = (0..3.min(self.slots.len()))
            .map(|offset| {
                let slot = &self.slots[(index + offset) % self.slots.len()];
                Member { node: slot.id, incarnation: Incarnation(1), role: Role::Voter, address: slot.address.clone() }
            })
            .collect();
        members.sort_by_key(|member| member.node);
        let leader = members[0].node;
        Descriptor {
            group: GroupId(Rng::new(index as u64).next()),
            configuration: Configuration { version: ConfigurationVersion(1), members },
            range_version: RangeVersion(1),
            range: KeyRange { start: position(index), end: position(index + 1) },
            leader: Some(leader),
            ballot: Ballot { round: 1, node: leader, incarnation: Incarnation(1) },
        }
    }
}

fn sees(gossip: &Gossip, slot: &Slot) -> bool {
    gossip.node(slot.id).is_some_and(|node| {
        node.state() == State::Alive
            && node.identity().boot == slot.boot
            && node.profile().is_some_and(|profile| !profile.zone.is_empty())
    })
}
