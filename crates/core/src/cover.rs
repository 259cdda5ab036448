//! Covers: what one node says to another on behalf of all the groups that have nothing to say.
//!
//! ```text
//! node that leads                                  node that follows
//!   | Cover([(group, incarnation, ballot), …]) ------> |  each follows in that ballot here, and what it promised is on disk?
//!   | <------------------------- Covered(7, without …) |  this set is called generation 7 here
//!   | Beat(7, stamp, lease, vouches) ----------------> |  an Accept without entries to each of them
//!   | <------------------ Beaten(7, stamp, lease, ask) |  an Accepted of each of them
//!   |                 …                                |
//!   | <---------------------------------- Uncovered(7) |  it started anew, or one of them promised another ballot
//! ```
//!
//! A beat is heard by every replica of the generation as an Accept without entries, and its answer by every leader as an
//! Accepted that tells of no slot: each grants and counts its own lease, by the rules of [`crate::paxos`]. So what holds of
//! leases holds here. A generation is a set that never changes, named by whoever listens: a proposal that comes twice, when some
//! groups follow no more, makes another generation, which the one who speaks does not know; whoever finds one of it different drops the whole, and the
//! groups speak for themselves until the next one is agreed.
//!
//! A leader leaves out its own heartbeat to a member while beats are answered and the member holds and has applied everything.
//! What it has to say it says as ever: a group may be busy under a cover.

use crate::codec_struct;
use crate::config::ReadMode;
use crate::effects::{Effects, Outgoing};
use crate::message::PeerMessage;
use crate::node::Node;
use crate::paxos::leader::Peer;
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::{Instant, Now, nanos};
use crate::types::{Ballot, GroupId, Incarnation, NodeId, ReplicaName};
use std::collections::{BTreeMap, BTreeSet};

/// A cover for fewer says no less than they do.
const FEWEST: usize = 2;

/// How many heartbeats lie between two looks at who might be covered.
const LOOK_EVERY: u32 = 10;

/// For how many heartbeats an answer to a beat spares the group's own.
const SPARED_FOR: u32 = 3;

/// A group under a cover.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Covered {
    /// The group.
    pub group: GroupId,
    /// As which incarnation the listener is a member.
    pub incarnation: Incarnation,
    /// The ballot that the speaker leads.
    pub ballot: Ballot,
}

codec_struct!(Covered { group, incarnation, ballot });

/// An Accept without entries to every group of a generation, unpacked.
pub(crate) struct Beat {
    pub(crate) generation: u64,
    pub(crate) stamp: Instant,
    pub(crate) lease_nanos: u64,
    pub(crate) vouches: u64,
    pub(crate) except: Vec<GroupId>,
}

/// An Accepted from every group of a generation, unpacked.
pub(crate) struct Beaten {
    pub(crate) generation: u64,
    pub(crate) stamp: Instant,
    pub(crate) lease_nanos: u64,
    pub(crate) ask: u64,
}

/// What this node says of the groups it leads, to one other node.
#[derive(Debug)]
struct Given {
    proposal: u64,
    /// What the other node calls these groups, once it has agreed.
    generation: Option<u64>,
    groups: BTreeSet<Covered>,
    beat_at: Instant,
    /// What the other node asked last.
    ask: u64,
}

/// What another node says of the groups it leads.
#[derive(Debug)]
struct Held {
    proposal: u64,
    generation: u64,
    groups: Vec<Covered>,
    /// The ask under way, and when it was made: everything acknowledged before is to be vouched for.
    asked: (u64, Instant),
}

/// All covers of a node.
#[derive(Debug, Default)]
pub(crate) struct Covers {
    given: BTreeMap<NodeId, Given>,
    held: BTreeMap<NodeId, Held>,
    /// How many numbers this process has given away.
    numbers: u64,
    look_at: Instant,
}

impl Covers {
    /// When a beat or a look is due.
    pub(crate) fn deadline(&self) -> Instant {
        let beats = self.given.values().filter(|given| given.generation.is_some()).map(|given| given.beat_at);
        beats.fold(self.look_at, Instant::min)
    }
}

impl Node {
    /// When covers want attention: only of a node that leads several groups.
    pub(crate) fn covers_deadline(&self) -> Option<Instant> {
        (self.config.covers && self.index.led.len() >= FEWEST).then(|| self.covers.deadline())
    }

    /// Beats that are due go out, and now and then it is looked who might be covered.
    pub(crate) fn tick_covers(&mut self, now: Now, effects: &mut Effects) {
        if self.covers_deadline().is_none_or(|at| now.instant < at) {
            return;
        }
        let mut replicas = std::mem::take(&mut self.replicas);
        let mut covers = std::mem::take(&mut self.covers);
        let boot = self.record.boot;
        let mut cx = self.context(now, effects);
        covers.beat(&mut replicas, &mut cx);
        if now.instant >= covers.look_at {
            covers.look_at = now.instant.after(cx.config.heartbeat * LOOK_EVERY);
            covers.look(boot, &replicas, &mut cx);
        }
        self.covers = covers;
        self.replicas = replicas;
    }

    /// Another node wants to speak for groups that it leads.
    pub(crate) fn on_cover(
        &mut self,
        now: Now,
        from: NodeId,
        proposal: u64,
        groups: Vec<Covered>,
        effects: &mut Effects,
    ) {
        let known = self.covers.held.get(&from).map_or(0, |held| held.proposal);
        if proposal < known || groups.len() > self.config.max_replicas {
            return;
        }
        let follows =
            |covered: &Covered| self.replicas.get(&covered.group).is_some_and(|replica| replica.follows(from, covered));
        let (groups, without): (Vec<Covered>, Vec<Covered>) = groups.into_iter().partition(follows);
        let without = without.into_iter().map(|covered| covered.group).collect();
        let boot = self.record.boot;
        let (generation, asked) = (self.covers.number(boot), self.covers.next_ask(boot, now.instant));
        let generation = if planted::on(Bug::CoverNamedByProposal) { proposal } else { generation };
        self.covers.held.insert(from, Held { proposal, generation, groups, asked });
        say(effects, from, PeerMessage::Covered { proposal, generation, without });
    }

    /// Another node agreed to a cover.
    pub(crate) fn on_covered(
        &mut self,
        now: Now,
        from: NodeId,
        (proposal, generation): (u64, u64),
        without: &[GroupId],
    ) {
        let given = self.covers.given.get_mut(&from);
        let Some(given) = given.filter(|given| given.proposal == proposal && given.generation.is_none()) else {
            return;
        };
        given.groups.retain(|covered| !without.contains(&covered.group));
        given.generation = Some(generation);
        given.beat_at = now.instant;
    }

    /// Another node speaks for the groups of a generation.
    pub(crate) fn on_beat(&mut self, now: Now, from: NodeId, beat: &Beat, effects: &mut Effects) {
        // A lease longer than the disk knows of is granted to messages that can wait for it.
        let leased = beat.lease_nanos <= self.lease_on_disk;
        let known = self.covers.held.get(&from).is_some_and(|held| held.generation == beat.generation);
        let held = if known { self.covers.held.remove(&from) } else { None };
        let mut replicas = std::mem::take(&mut self.replicas);
        let mut cx = self.context(now, effects);
        let heard = held.filter(|held| {
            let fresh = (beat.vouches == held.asked.0).then_some(held.asked.1);
            leased
                && held.groups.iter().all(|covered| {
                    let fresh = fresh.filter(|_| beat.except.binary_search(&covered.group).is_err());
                    let replica = replicas.get_mut(&covered.group);
                    replica.is_some_and(|replica| replica.on_beat(from, covered, beat, fresh, &mut cx))
                })
        });
        self.replicas = replicas;
        let (generation, stamp, lease_nanos) = (beat.generation, beat.stamp, beat.lease_nanos);
        let answer = match heard {
            Some(mut held) => {
                if beat.vouches == held.asked.0 {
                    held.asked = self.covers.next_ask(self.record.boot, now.instant);
                }
                let ask = held.asked.0;
                self.covers.held.insert(from, held);
                PeerMessage::Beaten { generation, stamp, lease_nanos, ask }
            }
            None => PeerMessage::Uncovered { generation },
        };
        say(effects, from, answer);
    }

    /// Another node has granted for all groups of a generation.
    pub(crate) fn on_beaten(&mut self, now: Now, from: NodeId, beaten: &Beaten, effects: &mut Effects) {
        let known = self.covers.given.get(&from).is_some_and(|given| given.generation == Some(beaten.generation));
        if !known {
            return;
        }
        let Some(mut given) = self.covers.given.remove(&from) else { return };
        given.ask = beaten.ask;
        let mut replicas = std::mem::take(&mut self.replicas);
        let mut cx = self.context(now, effects);
        for covered in &given.groups {
            if let Some(replica) = replicas.get_mut(&covered.group) {
                replica.on_beaten(from, covered, beaten, &mut cx);
            }
        }
        self.replicas = replicas;
        self.covers.given.insert(from, given);
    }

    /// Another node does not go by a generation any more.
    pub(crate) fn on_uncovered(&mut self, from: NodeId, generation: u64) {
        if self.covers.given.get(&from).is_some_and(|given| given.generation == Some(generation)) {
            self.covers.given.remove(&from);
        }
    }
}

impl Covers {
    /// A number that no process of this node uses twice.
    fn number(&mut self, boot: u64) -> u64 {
        self.numbers += 1;
        boot << 32 | self.numbers
    }

    fn next_ask(&mut self, boot: u64, now: Instant) -> (u64, Instant) {
        (self.number(boot), now)
    }

    fn beat(&mut self, replicas: &mut BTreeMap<GroupId, Box<Replica>>, cx: &mut Context<'_>) {
        let now = cx.now.instant;
        if cx.disk_stalled {
            self.given.clear();
        }
        let due = |given: &Given| given.generation.is_some() && given.beat_at <= now;
        let nodes: Vec<NodeId> = self.given.iter().filter(|(_, given)| due(given)).map(|(node, _)| *node).collect();
        for node in nodes {
            let Some(given) = self.given.get_mut(&node) else { continue };
            let Some(generation) = given.generation else { continue };
            let mut except = Vec::new();
            let holds = given.groups.iter().all(|covered| {
                let Some(replica) = replicas.get_mut(&covered.group) else { return false };
                if !replica.vouches(node, cx) {
                    except.push(covered.group);
                }
                replica.beats(node, covered, now)
            });
            if holds {
                given.beat_at = now.after(cx.config.heartbeat);
                let (vouches, lease_nanos) = (given.ask, nanos(cx.config.lease));
                say(cx.effects, node, PeerMessage::Beat { generation, stamp: now, lease_nanos, vouches, except });
            } else {
                self.given.remove(&node);
                self.look_at = now;
            }
        }
    }

    /// Proposes covers anew where more groups could be under one.
    fn look(&mut self, boot: u64, replicas: &BTreeMap<GroupId, Box<Replica>>, cx: &mut Context<'_>) {
        if cx.config.read_mode == ReadMode::Quorum || cx.disk_stalled {
            self.given.clear();
            return;
        }
        let mut wanted: BTreeMap<NodeId, BTreeSet<Covered>> = BTreeMap::new();
        for replica in replicas.values() {
            let Role::Leader(leader) = &replica.role else { continue };
            for peer in leader.peers.values() {
                let incarnation = peer.name.incarnation;
                let covered = Covered { group: replica.name.group, incarnation, ballot: leader.ballot };
                let given = self.given.get(&peer.name.node).is_some_and(|given| given.groups.contains(&covered));
                if given || replica.is_idle(peer, cx) {
                    wanted.entry(peer.name.node).or_default().insert(covered);
                }
            }
        }
        self.given.retain(|node, _| wanted.get(node).is_some_and(|groups| groups.len() >= FEWEST));
        for (node, groups) in wanted {
            let known = self.given.get(&node).is_some_and(|given| given.generation.is_some() && given.groups == groups);
            if known || groups.len() < FEWEST {
                continue;
            }
            let proposal = self.number(boot);
            let list = groups.iter().copied().collect();
            self.given.insert(node, Given { proposal, generation: None, groups, beat_at: cx.now.instant, ask: 0 });
            say(cx.effects, node, PeerMessage::Cover { proposal, groups: list });
        }
    }
}

fn say(effects: &mut Effects, to: NodeId, message: PeerMessage) {
    effects.messages.push(Outgoing { to, address: None, bulk: false, message });
}

impl Replica {
    /// Whether it follows `from` in this ballot, for all that the disk knows.
    fn follows(&self, from: NodeId, covered: &Covered) -> bool {
        let Role::Follower(follower) = &self.role else { return false };
        let leader = ReplicaName { node: from, incarnation: covered.ballot.incarnation, ..self.name };
        let durable = self.cursor.ballot == covered.ballot && self.cursor.durable.is_some();
        let named = self.name.incarnation == covered.incarnation && covered.ballot.node == from;
        named && self.promised == covered.ballot && durable && follower.leader == Some(leader)
    }

    /// A beat is an Accept without entries; `fresh` is the moment before which everything acknowledged is vouched to be applied
    /// here. False if this replica does not go by it.
    fn on_beat(
        &mut self,
        from: NodeId,
        covered: &Covered,
        beat: &Beat,
        fresh: Option<Instant>,
        cx: &mut Context<'_>,
    ) -> bool {
        if self.gone || !self.follows(from, covered) {
            return false;
        }
        let leader = ReplicaName { node: from, incarnation: covered.ballot.incarnation, ..self.name };
        self.follow(leader, cx);
        if let Some(at) = fresh {
            self.word.set_fresh(at);
        }
        !self.grant_lease(covered.ballot, beat.stamp, beat.lease_nanos, cx)
    }

    /// Whether a beat may be sent for this group; it counts as a message of its leader's.
    fn beats(&mut self, node: NodeId, covered: &Covered, stamp: Instant) -> bool {
        let Role::Leader(leader) = &mut self.role else { return false };
        let adopted = leader.structural.as_ref().is_some_and(|structural| structural.adopted);
        let peer = leader.peers.get(&node).is_some_and(|peer| peer.name.incarnation == covered.incarnation);
        let leads = leader.ballot == covered.ballot && leader.hand_over.is_none() && !adopted;
        if leads && peer {
            leader.last_stamp = leader.last_stamp.max(stamp);
        }
        leads && peer
    }

    /// Whether everything acknowledged so far is applied at a member ([`crate::paxos::freshness`]).
    fn vouches(&self, node: NodeId, cx: &Context<'_>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let settled = leader.structural.is_none() && self.applied >= leader.barrier;
        let leased = cx.now.instant < self.lease_deadline(cx) || planted::on(Bug::VouchedWithoutLease);
        settled && leased && leader.peers.get(&node).is_some_and(|peer| peer.applied >= self.decided)
    }

    /// The answer to a beat is an Accepted that tells of no slot.
    fn on_beaten(&mut self, from: NodeId, covered: &Covered, beaten: &Beaten, cx: &mut Context<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let name = ReplicaName { group: covered.group, node: from, incarnation: covered.incarnation };
        if leader.ballot != covered.ballot || leader.peers.get(&from).is_none_or(|peer| peer.name != name) {
            return;
        }
        leader.granted(from, beaten.stamp, beaten.lease_nanos, cx);
        if let Some(peer) = leader.peers.get_mut(&from) {
            peer.spared_until = cx.now.instant.after(cx.config.heartbeat * SPARED_FOR);
        }
        // Deadlines within the group want its own ticks.
        let expires = self.report.as_ref().is_some_and(|report| report.next_expiry.is_some());
        let decided = self.decided == self.cursor.through;
        let Role::Leader(leader) = &mut self.role else { return };
        let spared = leader.peers.values().all(|peer| peer.is_spared(self.decided, cx.now.instant));
        if spared && decided && !expires && leader.is_quiet() {
            let until = leader.peers.values().map(|peer| peer.spared_until).min();
            leader.heartbeat_at = until.map_or(leader.heartbeat_at, |until| until.max(leader.heartbeat_at));
        }
        self.renew_own_grant(cx);
        self.publish(cx);
    }

    /// Whether a member needs nothing but to be told now and then that its leader is there.
    fn is_idle(&self, peer: &Peer, cx: &Context<'_>) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let settled = leader.is_quiet() && self.applied >= leader.barrier && self.decided == self.cursor.through;
        settled && peer.holds_all(self.decided) && peer.granted_until > cx.now.instant
    }
}

impl Peer {
    fn holds_all(&self, decided: crate::types::Slot) -> bool {
        self.through >= decided && self.next > decided && self.applied >= decided
    }

    /// Whether the group's own heartbeat to this member would say nothing that a beat has not said.
    pub(crate) fn is_spared(&self, decided: crate::types::Slot, now: Instant) -> bool {
        now < self.spared_until && self.holds_all(decided)
    }
}
