//! One node: all its replicas, its own record, and the one place where inputs come in and effects go out.
//!
//! The shell's loop is: take every input that waits, [`Node::step`] each, then [`Node::flush`] once, then carry out the
//! effects. What one burst brought in shares entries, messages and the sync.

mod index;
mod passing;
mod peers;
mod start;

use crate::birth::{Birth, Origin};
use crate::config::Config;
use crate::cover::{Beat, Beaten, Covers};
use crate::durable::{Merger, NodeRecord, PeerRecord, Tombstone, Write};
use crate::effects::{Effects, MachineOrder, Outgoing, Refused, Reply};
use crate::entry::Room;
use crate::group::{Configuration, read_word::ReadWord};
use crate::input::{Input, MachineReport};
use crate::message::{Envelope, Message, PeerMessage};
use crate::ops::Pending;
use crate::ops::messages::{GroupEnvelope, GroupMessage};
use crate::ops::surroundings::{Looked, Looking};
use crate::planted::{self, Bug};
use crate::policy::{Busy, GroupLoad};
use crate::replica::{Context, Replica, Role};
use crate::ring::routing::FarLinks;
use crate::rng::Rng;
use crate::time::{Instant, Now};
use crate::types::{Ballot, ClusterId, FeatureLevel, GroupId, NodeId, ReplicaName, RequestId, Slot, WriteId};
use index::Index;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Why a node cannot start from what its disk holds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoverError {
    /// It was refused as rolled back, cloned or condemned in an earlier life.
    #[error(
        "this node gave up its id {0}: its disk was rolled back or cloned, or a group was recovered without it; start it on an \
         empty directory"
    )]
    GivenUp(NodeId),
    /// A later version of the program has raised a group's feature level.
    #[error("group {group} is at feature level {level} and this program knows {known}: run the newer version")]
    TooNew {
        /// The group.
        group: GroupId,
        /// Its level.
        level: FeatureLevel,
        /// The newest level this program understands.
        known: FeatureLevel,
    },
    /// Log and data store do not fit together: something that was on disk is gone.
    #[error("the data of group {group} is older than its log: applied {applied}, log begins after {truncated}")]
    Damaged {
        /// The group.
        group: GroupId,
        /// What its machine holds.
        applied: Slot,
        /// Where its log begins.
        truncated: Slot,
    },
}

/// What is fresh at every start.
#[derive(Clone, Debug)]
pub struct Boot {
    /// The id to take if the disk is empty.
    pub fresh_id: NodeId,
    /// A number nobody drew before.
    pub nonce: u64,
    /// Seeds everything that is left to chance.
    pub seed: u64,
    /// What the settings say about the beginning of the cluster.
    pub origin: Origin,
}

/// What must wait for the node's own record to be on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AfterSync {
    /// The node may speak.
    Boot,
    /// The node's record tells of leases this long, in nanoseconds.
    Lease(u64),
    /// Bound itself: asks the others to.
    Bind,
    /// Bound itself at somebody's request.
    Bound(NodeId),
    /// Remembers whom nobody is to listen to, at an operator's request.
    Condemned(RequestId),
    /// Buried a replica: its data may go. Without the tombstone it would come back without them.
    Destroy(ReplicaName),
}

/// What the data store holds when a node starts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Machines {
    /// The machines.
    pub live: Vec<(ReplicaName, MachineReport)>,
    /// Replicas whose machine was taken over by another group's.
    pub merged: Vec<(ReplicaName, Merger)>,
}

/// How many mergers one after the other are followed to find who has what a group had.
const MAX_MERGERS: usize = 64;

/// How many rounds of messages between two groups led here one burst may take: more than any exchange has that waits for no
/// log.
const MAX_LOOPS: usize = 8;

/// How a replica stands, for people and metrics.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaStatus {
    /// Its name.
    pub replica: ReplicaName,
    /// `leader`, `follower`, `candidate`, `learner`, `retired`, `merged` or `joining`.
    pub role: &'static str,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The ballot it has promised.
    pub ballot: Ballot,
    /// What it knows decided, has applied, and has durably applied.
    pub decided: Slot,
    /// See `decided`.
    pub applied: Slot,
    /// See `decided`.
    pub flushed: Slot,
    /// The newest configuration it knows.
    pub configuration: Option<Configuration>,
    /// Entries proposed and not decided; zero unless it leads.
    pub pending: u64,
    /// What is left of the lease; zero unless it leads.
    pub lease: std::time::Duration,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    pub(crate) config: Config,
    pub(crate) record: NodeRecord,
    pub(crate) nonce: u64,
    peers: BTreeMap<NodeId, PeerRecord>,
    /// Boxed, since each is taken out while it acts and many lie in one node of the tree.
    pub(crate) replicas: BTreeMap<GroupId, Box<Replica>>,
    tombstones: BTreeMap<GroupId, Vec<Tombstone>>,
    pub(crate) rng: Rng,
    pub(crate) birth: Birth,
    pub(crate) after_sync: VecDeque<(WriteId, AfterSync)>,
    pub(crate) next_write: WriteId,
    /// Batches handed to the disk, with when.
    outstanding: VecDeque<(WriteId, Instant)>,
    room: Room,
    /// The record of this boot is on disk: the node may speak.
    booted: bool,
    /// The longest lease that the disk knows was granted, in nanoseconds.
    pub(crate) lease_on_disk: u64,
    touched: BTreeSet<GroupId>,
    /// Replicas that are to come to be here, each with whom to ask.
    wanted: Vec<(ReplicaName, ReplicaName)>,
    looking: Looking,
    pub(crate) index: Index,
    pub(crate) covers: Covers,
    /// Groups that wait for news of their machine.
    eager: BTreeSet<GroupId>,
    /// Groups that were merged away here and whose logs are kept for others.
    merged: BTreeSet<GroupId>,
    /// The clocks of the step under way.
    pub(crate) now: Now,
}

impl Node {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.record.node
    }

    /// Its own durable record.
    #[must_use]
    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    /// The cluster it belongs to, if any yet.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.record.cluster
    }

    /// Why no cluster comes to be, for a person; `None` if nothing is wrong.
    #[must_use]
    pub fn birth_problem(&self) -> Option<&str> {
        self.birth.problem.as_deref()
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The read word of a replica; the same for the replica's life in this process.
    #[must_use]
    pub fn read_word(&self, group: GroupId) -> Option<Arc<ReadWord>> {
        self.replicas.get(&group).map(|replica| replica.word.clone())
    }

    /// Who leads a group, as far as its replica here knows, and the highest ballot it has promised.
    #[must_use]
    pub fn leadership(&self, group: GroupId) -> Option<(Option<NodeId>, Ballot)> {
        let replica = self.replicas.get(&group)?;
        let leader = match &replica.role {
            Role::Leader(_) => Some(replica.name.node),
            Role::Follower(follower) => follower.leader.map(|name| name.node),
            Role::Candidate(_) | Role::Retired(_) | Role::Merged(_) => None,
        };
        Some((leader, replica.promised))
    }

    /// What keeps a group that is led here from anything new, if something does.
    #[must_use]
    pub fn busy(&self, group: GroupId) -> Option<Busy> {
        self.replicas.get(&group).and_then(|replica| replica.busy())
    }

    /// How busy a group that is led here is, for its neighbours to hear.
    pub fn note_load(&mut self, group: GroupId, load: GroupLoad) {
        if let Some(leader) = self.replicas.get_mut(&group).and_then(|replica| replica.role.leader_mut()) {
            leader.operations.surroundings.note_load(load);
        }
    }

    /// How busy the ring neighbours of a group that is led here said they are, predecessor and successor: `None` of one whose
    /// word is too old, or was of another range.
    #[must_use]
    pub fn neighbour_loads(&self, group: GroupId, now: Instant) -> [Option<GroupLoad>; 2] {
        let span = self.config.look_around;
        self.replicas.get(&group).map(|replica| replica.neighbour_loads(now, span)).unwrap_or_default()
    }

    /// Whether leaders here look for groups further ahead than their successor: only on a ring larger than what routes are
    /// otherwise known of.
    pub fn seek_far_links(&mut self, on: bool) {
        self.looking.far = on;
    }

    /// What a group that is led here knows of groups ahead of it.
    #[must_use]
    pub fn far_links(&self, group: GroupId) -> Option<&FarLinks> {
        match &self.replicas.get(&group)?.role {
            Role::Leader(leader) => Some(leader.operations.surroundings.far_links()),
            Role::Follower(_) | Role::Candidate(_) | Role::Retired(_) | Role::Merged(_) => None,
        }
    }

    /// How often leaders here have asked other groups, and how often nobody answered in time.
    #[must_use]
    pub fn looked(&self) -> Looked {
        self.looking.looked
    }

    /// The groups led here with a neighbour whom nobody answers for, although asked several times: all members that are known of it
    /// may be gone. Whoever has heard of others next to them should say so ([`Input::Found`]).
    pub fn seeking_neighbours(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.replicas.values().filter(|replica| replica.seeks_neighbour()).map(|replica| replica.name.group)
    }

    /// The groups with a replica here.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.replicas.keys().copied()
    }

    /// Who could lead a group instead of this node: of the voters that are `able` to, or of all if none is, the one that has most of
    /// the log. `None` unless this node leads it.
    #[must_use]
    pub fn successor(&self, group: GroupId, able: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let replica = self.replicas.get(&group)?;
        let Role::Leader(leader) = &replica.role else { return None };
        let configuration = replica.configuration.as_ref()?;
        let voters = leader.peers.values().filter(|peer| configuration.is_voter(peer.name));
        let best = voters.max_by_key(|peer| (able(peer.name.node), peer.through, peer.answered_at));
        best.map(|peer| peer.name.node)
    }

    /// How the replicas stand, by group.
    #[must_use]
    pub fn status(&self, now: Now) -> Vec<ReplicaStatus> {
        self.replicas.values().map(|replica| self.replica_status(replica, now)).collect()
    }

    fn replica_status(&self, replica: &Replica, now: Now) -> ReplicaStatus {
        let learner = replica.configuration.as_ref().is_some_and(|known| known.has(replica.name) && !replica.votes());
        let role = match &replica.role {
            Role::Merged(_) => "merged",
            _ if replica.report.is_none() => "joining",
            Role::Leader(_) => "leader",
            Role::Candidate(_) => "candidate",
            Role::Retired(_) => "retired",
            Role::Follower(_) if learner => "learner",
            Role::Follower(_) => "follower",
        };
        let leader = self.leadership(replica.name.group).and_then(|(leader, _)| leader);
        let leads = matches!(replica.role, Role::Leader(_));
        ReplicaStatus {
            replica: replica.name,
            role,
            leader,
            ballot: replica.promised,
            decided: replica.decided,
            applied: replica.applied,
            flushed: replica.flushed,
            configuration: replica.configuration.clone(),
            pending: if leads { replica.cursor.through.0.saturating_sub(replica.decided.0) } else { 0 },
            lease: if leads { replica.word.glance().remaining(now.instant) } else { std::time::Duration::ZERO },
        }
    }

    /// When [`Input::Tick`] is due although nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if !self.booted || self.record.given_up {
            return None;
        }
        let replicas = self.index.deadlines.first().map(|(at, _)| *at);
        replicas.into_iter().chain(self.birth_deadline()).chain(self.covers_deadline()).min()
    }

    /// Whether some replica can go on only once its machine has: [`Input::Applied`] should not wait for other inputs.
    #[must_use]
    pub fn waits_for_machines(&self) -> bool {
        !self.eager.is_empty()
    }

    /// One thing happened.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Effects) {
        self.now = now;
        if self.record.given_up || !self.booted && from_outside(&input) {
            return refuse_request(&input, effects);
        }
        match input {
            Input::Tick => self.on_tick(now, effects),
            // A connection from before it was condemned: the shell ends it.
            Input::Message { from, .. } if self.is_condemned(from) => {}
            Input::Message { from, message } => self.on_message(now, from, message, effects),
            Input::Synced { write } => self.on_synced(now, write, effects),
            Input::Room { room } => {
                // What this burst wrote before was taken when there was room.
                effects.presses |= room < self.room && !effects.writes.is_empty();
                self.room = room;
            }
            Input::RolledBack { by: _ } => self.give_up(effects),
            Input::Answered { address, node, cluster } => self.on_answered(address, node, cluster, now, effects),
            Input::Propose { request, group, command } => {
                self.request(now, group, request, effects, |replica, cx| replica.on_propose(request, command, cx));
            }
            Input::Read { request, group } => {
                self.request(now, group, request, effects, |replica, cx| replica.on_read(request, cx));
            }
            Input::ChangeMembers { request, group, add, remove, version } => {
                self.request(now, group, request, effects, |replica, cx| {
                    replica.on_change_members(request, add, remove, version, cx);
                });
            }
            Input::HandOver { request, group, to } => {
                self.request(now, group, request, effects, |replica, cx| replica.on_order_hand_over(request, to, cx));
            }
            Input::Applied { group, report } | Input::Installed { group, report } if !self.is_own(group, &report) => {
                // A machine that is to be destroyed told of itself.
                drop(report);
            }
            Input::Applied { group, report } => {
                self.check_level(group, report.feature_level, effects);
                self.nudge_gainer(&report);
                self.heed_recoveries(&report, effects);
                self.with(now, group, effects, |replica, cx| replica.on_applied(report, cx));
                self.settle_merged(now, Some(group), effects);
            }
            Input::Installed { group, report } => {
                self.check_level(group, report.feature_level, effects);
                self.heed_recoveries(&report, effects);
                self.with(now, group, effects, |replica, cx| replica.on_installed(report, cx));
                self.settle_merged(now, Some(group), effects);
            }
            Input::Flushed { group, slot } => {
                self.with(now, group, effects, |replica, cx| replica.on_flushed(slot, cx));
                self.settle_merged(now, Some(group), effects);
            }
            Input::Stalled { group, slot } => {
                self.with(now, group, effects, |replica, cx| replica.on_stalled(slot, cx));
            }
            Input::Born { child, leader, report } => self.on_born(now, child, leader, report, effects),
            Input::Merged { loser, into, at } => self.on_merged(now, loser, Merger { into, at }, effects),
            Input::Reshape { request, group, order } => {
                self.request(now, group, request, effects, |replica, cx| replica.on_order(request, order, cx));
            }
            Input::Recover { request, group, survivors } => {
                let condemned = self.condemned();
                self.request(now, group, request, effects, |replica, cx| {
                    replica.on_recover(request, survivors, &condemned, cx);
                });
            }
            Input::Found { group, links } => {
                self.with(now, group, effects, |replica, cx| replica.on_found(&links, cx));
            }
            Input::Condemn { request, nodes } => {
                self.condemn(&nodes, effects);
                self.force_write(effects);
                self.after_sync.push_back((self.next_write, AfterSync::Condemned(request)));
            }
            Input::Expired { group, body, next_expiry } => {
                self.with(now, group, effects, |replica, _| replica.on_expired(body, next_expiry));
            }
            Input::Counted { group, count, correction } => {
                self.with(now, group, effects, |replica, cx| replica.on_counted(count, correction, cx));
            }
            Input::SnapshotRead { group, to, piece } => {
                self.with(now, group, effects, |replica, cx| replica.on_snapshot_read(to, piece, cx));
            }
            Input::SnapshotStored { group, snapshot, cursor, awaits } => {
                self.with(now, group, effects, |replica, cx| replica.on_snapshot_stored(snapshot, cursor, awaits, cx));
            }
            Input::LogRead { group, to, first, entries } => {
                self.with(now, group, effects, |replica, cx| replica.on_log_read(to, first, entries, cx));
            }
        }
    }

    /// Whether a report is of the machine of the replica that is here, or of no replica.
    fn is_own(&self, group: GroupId, report: &MachineReport) -> bool {
        self.replicas.get(&group).is_none_or(|replica| replica.name.incarnation == report.incarnation)
    }

    /// A program does not serve a group whose entries it may misunderstand.
    fn check_level(&self, group: GroupId, level: FeatureLevel, effects: &mut Effects) {
        if level > self.config.feature_level {
            effects.too_new = Some((group, level));
        }
    }

    /// Brings to disk what saves the next start work. For a process about to end; flush and carry out the effects afterwards.
    pub fn settle(&mut self, now: Now, effects: &mut Effects) {
        self.now = now;
        let groups: Vec<GroupId> = self.groups().collect();
        for group in groups {
            self.with(now, group, effects, |replica, cx| replica.settle(cx));
        }
    }

    /// Ends a burst of steps: entries are formed, messages and writes made. Must be called before the effects are carried
    /// out.
    pub fn flush(&mut self, now: Now, effects: &mut Effects) {
        self.now = now;
        for _ in 0..MAX_LOOPS {
            self.flush_touched(now, effects);
            if !self.loop_back(now, effects) {
                break;
            }
        }
        self.flush_touched(now, effects);
        // More of them than any exchange takes: whoever waits for an answer asks again.
        let own = self.record.node;
        effects.messages.retain(|outgoing| outgoing.to != own);
        if !effects.writes.is_empty() && effects.write.is_none() {
            let leases = effects.writes.iter().filter_map(|write| match write {
                Write::Node { record } => Some(record.longest_lease_nanos),
                _ => None,
            });
            if let Some(longest) = leases.max().filter(|longest| *longest > self.lease_on_disk) {
                self.after_sync.push_back((self.next_write, AfterSync::Lease(longest)));
            }
            effects.write = Some(self.next_write);
            self.outstanding.push_back((self.next_write, now.instant));
            self.next_write = self.next_write.next();
        }
    }

    fn flush_touched(&mut self, now: Now, effects: &mut Effects) {
        for group in std::mem::take(&mut self.touched) {
            self.with(now, group, effects, |replica, cx| replica.flush(cx));
            self.touched.remove(&group);
            if self.replicas.get(&group).is_some_and(|replica| replica.waits_for_machine()) {
                self.eager.insert(group);
            } else {
                self.eager.remove(&group);
            }
            if self.replicas.get(&group).is_some_and(|replica| replica.gone) {
                self.bury(group, effects);
                self.settle_merged(now, None, effects);
            }
            self.reindex(group);
        }
    }

    /// Groups that came or went here, or have another leader or ballot, since this was called last.
    pub fn take_changed(&mut self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.index.changed)
    }

    /// Messages between two groups that this node leads need no network. They tell only of what is applied, so they need not
    /// wait for the disk either. True if there were any.
    fn loop_back(&mut self, now: Now, effects: &mut Effects) -> bool {
        let own = self.record.node;
        let (back, out): (Vec<_>, Vec<_>) = std::mem::take(&mut effects.messages)
            .into_iter()
            .partition(|outgoing| outgoing.to == own && matches!(outgoing.message, PeerMessage::Group { .. }));
        effects.messages = out;
        let any = !back.is_empty();
        for outgoing in back {
            self.on_message(now, own, outgoing.message, effects);
        }
        any
    }

    /// The leader that waits for this group's seal to be applied here goes on at once.
    fn nudge_gainer(&mut self, report: &MachineReport) {
        if let Some(Pending::Loses { gainer, .. }) = &report.state.pending
            && let Some(replica) = self.replicas.get_mut(&gainer.group)
            && let Role::Leader(leader) = &mut replica.role
        {
            leader.operations.nudged = true;
            self.touched.insert(gainer.group);
        }
    }

    pub(crate) fn context<'a>(&'a mut self, now: Now, effects: &'a mut Effects) -> Context<'a> {
        let stalled =
            self.outstanding.front().is_some_and(|(_, since)| now.instant.since(*since) > self.config.disk_stall);
        Context {
            now,
            config: &self.config,
            effects,
            rng: &mut self.rng,
            write: self.next_write,
            disk_stalled: stalled,
            room: self.room,
            record: &mut self.record,
            lease_on_disk: self.lease_on_disk,
            beside: &self.replicas,
            tombstones: &self.tombstones,
            wanted: &mut self.wanted,
            looking: &mut self.looking,
        }
    }

    pub(crate) fn with(
        &mut self,
        now: Now,
        group: GroupId,
        effects: &mut Effects,
        act: impl FnOnce(&mut Replica, &mut Context<'_>),
    ) -> bool {
        let Some(mut replica) = self.replicas.remove(&group) else { return false };
        self.touched.insert(group);
        if replica.gone {
            // Its tombstone is among the writes: nothing may follow it there.
            self.replicas.insert(group, replica);
            return false;
        }
        act(&mut replica, &mut self.context(now, effects));
        self.replicas.insert(group, replica);
        for (name, inviter) in std::mem::take(&mut self.wanted) {
            self.invite(now, name, inviter, effects);
        }
        true
    }

    fn request(
        &mut self,
        now: Now,
        group: GroupId,
        request: RequestId,
        effects: &mut Effects,
        act: impl FnOnce(&mut Replica, &mut Context<'_>),
    ) {
        if !self.with(now, group, effects, act) {
            effects.replies.push((request, Reply::Refused(Refused::NoReplica)));
        }
    }

    fn on_tick(&mut self, now: Now, effects: &mut Effects) {
        self.tick_birth(now, effects);
        let due: BTreeSet<GroupId> =
            self.index.deadlines.iter().take_while(|(at, _)| *at <= now.instant).map(|(_, group)| *group).collect();
        for group in due {
            // Beats put deadlines off and leave it to this moment to tell the index.
            let deadline = self.replicas.get(&group).and_then(|replica| replica.deadline());
            if deadline.is_some_and(|at| at > now.instant) {
                self.index.set_deadline(group, deadline);
                continue;
            }
            self.with(now, group, effects, |replica, cx| replica.on_tick(cx));
        }
        self.tick_covers(now, effects);
    }

    fn on_synced(&mut self, now: Now, write: WriteId, effects: &mut Effects) {
        while self.outstanding.front().is_some_and(|(first, _)| *first <= write) {
            self.outstanding.pop_front();
        }
        while let Some((first, what)) = self.after_sync.front().copied() {
            if first > write {
                break;
            }
            self.after_sync.pop_front();
            match what {
                AfterSync::Boot => {
                    self.booted = true;
                    self.lease_on_disk = self.lease_on_disk.max(self.record.longest_lease_nanos);
                }
                AfterSync::Lease(nanos) => self.lease_on_disk = self.lease_on_disk.max(nanos),
                AfterSync::Bind => {
                    self.birth.is_bound_on_disk = true;
                    self.send_bind(effects);
                }
                AfterSync::Bound(to) => {
                    self.birth.is_bound_on_disk = true;
                    self.send_bound(to, effects);
                }
                AfterSync::Condemned(request) => effects.replies.push((request, Reply::Done)),
                AfterSync::Destroy(replica) => effects.orders.push(MachineOrder::Destroy { replica }),
            }
        }
        let waiting: BTreeSet<GroupId> =
            self.index.unsynced.iter().take_while(|(first, _)| *first <= write).map(|(_, group)| *group).collect();
        for group in waiting {
            self.with(now, group, effects, |replica, cx| replica.on_synced(write, cx));
        }
    }

    fn on_message(&mut self, now: Now, from: NodeId, message: PeerMessage, effects: &mut Effects) {
        match message {
            PeerMessage::Bind { binding } => self.on_bind(from, binding, effects),
            PeerMessage::Bound { binding } => self.on_bound(from, &binding, effects),
            PeerMessage::Group { envelope } => self.on_group_envelope(now, from, envelope, effects),
            PeerMessage::Gone { to, into, at } if to.node == self.record.node => {
                self.on_gone(now, to, Merger { into, at }, effects);
            }
            PeerMessage::Gone { .. } | PeerMessage::Gossip { .. } => {}
            PeerMessage::Cover { proposal, groups } => self.on_cover(now, from, proposal, groups, effects),
            PeerMessage::Covered { proposal, generation, without } => {
                self.on_covered(now, from, (proposal, generation), &without);
            }
            PeerMessage::Beat { generation, stamp, lease_nanos, vouches, except } => {
                self.on_beat(now, from, &Beat { generation, stamp, lease_nanos, vouches, except }, effects);
            }
            PeerMessage::Beaten { generation, stamp, lease_nanos, ask } => {
                self.on_beaten(now, from, &Beaten { generation, stamp, lease_nanos, ask }, effects);
            }
            PeerMessage::Uncovered { generation } => self.on_uncovered(from, generation),
            PeerMessage::Replica { envelope } => {
                if envelope.from.node == from && envelope.from.group == envelope.to.group {
                    self.on_envelope(now, envelope, effects);
                }
            }
        }
    }

    /// A message between groups. What is meant for a group that was merged away is for the one that took over; what is meant
    /// for one that has left this node is told where it went.
    fn on_group_envelope(&mut self, now: Now, from: NodeId, envelope: GroupEnvelope, effects: &mut Effects) {
        let GroupEnvelope { from: group, to, message } = envelope;
        let target = self.heir_of(to);
        let asks = message.asks();
        if let GroupMessage::Resolve { operation, .. } = &message
            && target != to
        {
            // A group that holds a lock is neither merged away nor recovered: it had heard. Its heir may be known to nobody whom the teller knows.
            let message = GroupMessage::Resolved { operation: *operation };
            let message = PeerMessage::Group { envelope: GroupEnvelope { from: to, to: group, message } };
            effects.messages.push(Outgoing { to: from, address: None, bulk: false, message });
            return;
        }
        if self.with(now, target, effects, |replica, cx| replica.on_group_message(from, (group, to), message, cx)) {
            return;
        }
        let gone = self.tombstones.get(&target).and_then(|gone| gone.last());
        if let Some(configuration) = gone.and_then(|gone| gone.configuration.clone()).filter(|_| asks) {
            let message = GroupMessage::Moved { configuration };
            let message = PeerMessage::Group { envelope: GroupEnvelope { from: target, to: group, message } };
            effects.messages.push(Outgoing { to: from, address: None, bulk: false, message });
        }
    }

    fn on_envelope(&mut self, now: Now, envelope: Envelope, effects: &mut Effects) {
        let Envelope { from, to, message } = envelope;
        if to.node != self.record.node {
            return;
        }
        match self.replicas.get(&to.group) {
            Some(replica) if replica.name == to || planted::on(Bug::IncarnationIgnored) => {}
            Some(replica) if replica.name.incarnation < to.incarnation => {
                // The group speaks to a later incarnation: this one was removed and should learn it.
                self.with(now, to.group, effects, |replica, cx| replica.ask_membership_of(from, cx));
                return;
            }
            Some(_) => {
                // Whoever asks for a former self of this replica knows old members only, and may find nobody else to ask.
                if let Message::AskMembership { configuration } = message {
                    self.with(now, to.group, effects, |replica, cx| {
                        replica.on_ask_membership(from, configuration, cx);
                    });
                }
                return;
            }
            None => {
                self.tell_gone(from, effects);
                if matches!(message, Message::AskMembership { .. }) {
                    self.tell_of_removal(from, to, effects);
                }
                let invites = matches!(message, Message::Accept { .. } | Message::PreVote { .. });
                if !invites || !self.may_host(to) {
                    return;
                }
                if !self.has_room_for(to) {
                    self.refuse_for_room(from, to, &message, effects);
                    return;
                }
                self.invite(now, to, from, effects);
            }
        }
        self.with(now, to.group, effects, |replica, cx| replica.on_message(from, message, cx));
    }

    pub(crate) fn write_record(&self, effects: &mut Effects) {
        effects.writes.push(Write::Node { record: self.record.clone() });
    }

    /// Something waits for this step's batch: it must not be empty.
    pub(crate) fn force_write(&self, effects: &mut Effects) {
        if effects.writes.is_empty() {
            self.write_record(effects);
        }
    }
}

/// Whether an input comes from another node, a client or the clock, rather than from this node's own disk and machines.
fn from_outside(input: &Input) -> bool {
    match input {
        Input::Tick
        | Input::Message { .. }
        | Input::Answered { .. }
        | Input::Propose { .. }
        | Input::Read { .. }
        | Input::ChangeMembers { .. }
        | Input::HandOver { .. }
        | Input::Reshape { .. }
        | Input::Recover { .. }
        | Input::Found { .. }
        | Input::Condemn { .. } => true,
        Input::Synced { .. }
        | Input::Room { .. }
        | Input::RolledBack { .. }
        | Input::Applied { .. }
        | Input::Installed { .. }
        | Input::Flushed { .. }
        | Input::Stalled { .. }
        | Input::Born { .. }
        | Input::Merged { .. }
        | Input::Expired { .. }
        | Input::Counted { .. }
        | Input::SnapshotRead { .. }
        | Input::SnapshotStored { .. }
        | Input::LogRead { .. } => false,
    }
}

/// A node that does not listen still answers its own clients.
fn refuse_request(input: &Input, effects: &mut Effects) {
    if let Input::Propose { request, .. }
    | Input::Read { request, .. }
    | Input::ChangeMembers { request, .. }
    | Input::HandOver { request, .. }
    | Input::Reshape { request, .. }
    | Input::Recover { request, .. }
    | Input::Condemn { request, .. } = input
    {
        effects.replies.push((*request, Reply::Refused(Refused::NoReplica)));
    }
}
