//! One node: all its replicas, its own record, and the one place where inputs come in and effects go out.
//!
//! The shell's loop is: take every input that waits, [`Node::step`] each, then [`Node::flush`] once, then carry out the
//! effects. What one burst brought in shares entries, messages and the sync.

use crate::birth::{Birth, Origin};
use crate::config::Config;
use crate::cover::{Beat, Beaten, Covers};
use crate::durable::{
    HardState, MAX_NONCES, Merger, NodeRecord, PeerRecord, Recovered, RecoveredReplica, Tombstone, Write,
};
use crate::effects::{Effects, MachineOrder, Outgoing, Refused, Reply};
use crate::group::{Configuration, read_word::ReadWord};
use crate::input::{Input, MachineReport};
use crate::message::{Envelope, Hello, HelloError, Message, PeerMessage};
use crate::ops::messages::{GroupEnvelope, GroupMessage};
use crate::ops::{Obligation, Pending};
use crate::paxos::acceptor::Unsynced;
use crate::planted::{self, Bug};
use crate::policy::Busy;
use crate::replica::{Context, Replica, Role};
use crate::rng::Rng;
use crate::time::{Instant, Now};
use crate::types::{
    Ballot, ClusterId, FeatureLevel, GroupId, Incarnation, NodeId, ReplicaName, RequestId, Slot, WriteId,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Why a node cannot start from what its disk holds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoverError {
    /// It was refused as rolled back or cloned in an earlier life.
    #[error("this node gave up its id {0} because its disk was rolled back or cloned; start it on an empty directory")]
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

/// What is asked of all replicas at once, kept up to date with each step of one of them: a node may host thousands, most of
/// them idle.
#[derive(Debug, Default)]
pub(crate) struct Index {
    deadlines: BTreeSet<(Instant, GroupId)>,
    deadline_of: BTreeMap<GroupId, Instant>,
    /// The first batch of writes that each waits for.
    unsynced: BTreeSet<(WriteId, GroupId)>,
    unsynced_of: BTreeMap<GroupId, WriteId>,
    /// Those that miss somebody.
    pub(crate) lonely: BTreeSet<GroupId>,
    /// Those led here.
    pub(crate) led: BTreeSet<GroupId>,
    leaderships: BTreeMap<GroupId, (Option<NodeId>, Ballot)>,
    /// Groups that came, went, or have another leader or ballot, since the shell asked.
    changed: BTreeSet<GroupId>,
}

impl Index {
    fn set_deadline(&mut self, group: GroupId, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.deadline_of.insert(group, at),
            None => self.deadline_of.remove(&group),
        };
        if old != at {
            old.map(|old| self.deadlines.remove(&(old, group)));
            at.map(|at| self.deadlines.insert((at, group)));
        }
    }

    fn set_unsynced(&mut self, group: GroupId, first: Option<WriteId>) {
        let old = match first {
            Some(first) => self.unsynced_of.insert(group, first),
            None => self.unsynced_of.remove(&group),
        };
        if old != first {
            old.map(|old| self.unsynced.remove(&(old, group)));
            first.map(|first| self.unsynced.insert((first, group)));
        }
    }
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
    disk_full: bool,
    /// The record of this boot is on disk: the node may speak.
    booted: bool,
    /// The longest lease that the disk knows was granted, in nanoseconds.
    pub(crate) lease_on_disk: u64,
    touched: BTreeSet<GroupId>,
    /// Replicas that are to come to be here, each with whom to ask.
    wanted: Vec<(ReplicaName, ReplicaName)>,
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
    /// A node as its disk remembers it, or a new one. `machines` is what the store holds.
    /// The effects hold the record of this boot; until it is synced the node neither speaks nor listens.
    pub fn recover(
        config: Config,
        boot: Boot,
        recovered: Recovered,
        machines: Machines,
        now: Now,
    ) -> Result<(Self, Effects), RecoverError> {
        let mut record = recovered.node.unwrap_or(NodeRecord {
            node: boot.fresh_id,
            boot: 0,
            nonces: Vec::new(),
            cluster: None,
            binding: None,
            longest_lease_nanos: 0,
            given_up: false,
        });
        if record.given_up {
            return Err(RecoverError::GivenUp(record.node));
        }
        record.boot += 1;
        record.nonces.insert(0, boot.nonce);
        record.nonces.truncate(MAX_NONCES);
        let mut node = Self {
            record,
            nonce: boot.nonce,
            peers: recovered.peers.into_iter().map(|peer| (peer.node, peer)).collect(),
            replicas: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            rng: Rng::new(boot.seed),
            birth: Birth::new(boot.origin),
            after_sync: VecDeque::from([(WriteId(1), AfterSync::Boot)]),
            next_write: WriteId(1),
            outstanding: VecDeque::new(),
            disk_full: false,
            booted: false,
            lease_on_disk: 0,
            touched: BTreeSet::new(),
            wanted: Vec::new(),
            index: Index::default(),
            covers: Covers::default(),
            eager: BTreeSet::new(),
            merged: BTreeSet::new(),
            now,
            config,
        };
        node.birth.is_bound_on_disk = node.record.binding.is_some();
        for tombstone in recovered.tombstones {
            node.tombstones.entry(tombstone.replica.group).or_default().push(tombstone);
        }
        let mut effects = Effects::default();
        node.recover_orphans(&recovered.replicas, &machines, &mut effects)?;
        for replica in recovered.replicas {
            node.recover_replica(replica, &machines, &mut effects)?;
        }
        node.settle_merged(now, None, &mut effects);
        // A lease of today's length may be granted from now on, to others and to itself.
        let lease = crate::time::nanos(node.config.lease);
        node.record.longest_lease_nanos = node.record.longest_lease_nanos.max(lease);
        node.write_record(&mut effects);
        node.flush(now, &mut effects);
        Ok((node, effects))
    }

    /// Machines without a replica in the log: born by a split whose replica the log had not heard of yet, or left over by a
    /// process that died between the tombstone and the end of the data.
    fn recover_orphans(
        &mut self,
        replicas: &[RecoveredReplica],
        machines: &Machines,
        effects: &mut Effects,
    ) -> Result<(), RecoverError> {
        let lives = |name: &ReplicaName| replicas.iter().any(|replica| replica.replica.group == name.group);
        for (name, report) in machines.live.iter().filter(|(name, _)| !lives(name)) {
            if name.incarnation == Incarnation(1) && self.may_host(*name) {
                let inviter = another_member(*name, None, &report.configuration);
                effects.writes.push(Write::Create { replica: *name, after: Slot(1), inviter });
                let hard = HardState::default();
                let born = RecoveredReplica { replica: *name, inviter, hard, truncated: Slot(1), entries: Vec::new() };
                self.recover_replica(born, machines, effects)?;
            } else {
                effects.orders.push(MachineOrder::Destroy { replica: *name });
            }
        }
        let left = machines.merged.iter().map(|(name, _)| *name).filter(|name| !lives(name));
        effects.orders.extend(left.map(|replica| MachineOrder::Destroy { replica }));
        Ok(())
    }

    fn recover_replica(
        &mut self,
        recovered: RecoveredReplica,
        machines: &Machines,
        effects: &mut Effects,
    ) -> Result<(), RecoverError> {
        let name = recovered.replica;
        let report = machines.live.iter().find(|(machine, _)| *machine == name).map(|(_, report)| report.clone());
        let merger = machines.merged.iter().find(|(machine, _)| *machine == name).map(|(_, merger)| *merger);
        let (level, known) = (report.as_ref().map(|report| report.feature_level), self.config.feature_level);
        if let Some(level) = level.filter(|level| *level > known) {
            return Err(RecoverError::TooNew { group: name.group, level, known });
        }
        let applied = report.as_ref().map_or(Slot(0), |report| report.applied);
        let genesis = self.record.binding.as_ref().is_some_and(|binding| binding.group == name.group)
            && name.incarnation == Incarnation(1);
        let begins = report.is_none() && name.incarnation == Incarnation(1) && recovered.truncated <= Slot(1);
        let missing = begins && genesis && merger.is_none();
        if recovered.truncated > applied && !begins && merger.is_none() {
            return Err(RecoverError::Damaged { group: name.group, applied, truncated: recovered.truncated });
        }
        let now = self.now;
        let mut cx = self.context(now, effects);
        let mut replica = Replica::recover(recovered, report, &mut cx);
        if let Some(merger) = merger {
            replica.decided = replica.hard.decided;
            replica.on_merged(merger, &mut cx);
            self.merged.insert(name.group);
        }
        self.replicas.insert(name.group, Box::new(replica));
        self.touched.insert(name.group);
        if missing {
            self.create_genesis(name, effects);
        }
        Ok(())
    }

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

    /// The groups with a replica here.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> + '_ {
        self.replicas.keys().copied()
    }

    /// Who could lead a group instead of this node: the voter that has most of the log. `None` unless this node leads it.
    #[must_use]
    pub fn successor(&self, group: GroupId) -> Option<NodeId> {
        let replica = self.replicas.get(&group)?;
        let Role::Leader(leader) = &replica.role else { return None };
        let configuration = replica.configuration.as_ref()?;
        let voters = leader.peers.values().filter(|peer| configuration.is_voter(peer.name));
        voters.max_by_key(|peer| (peer.through, peer.answered_at)).map(|peer| peer.name.node)
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

    /// How this node introduces itself to `to`.
    #[must_use]
    pub fn hello(&self, to: Option<NodeId>) -> Hello {
        let NodeRecord { cluster, node, boot, ref nonces, .. } = self.record;
        let earlier = nonces.iter().skip(1).copied().collect();
        Hello { cluster, from: node, to, boot, nonce: self.nonce, earlier }
    }

    /// Whether another node has introduced itself before, as far as this one remembers.
    #[must_use]
    pub fn has_seen(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether another node's introduction is believed. What is learned about it goes to disk with the next batch.
    pub fn check_hello(&mut self, hello: &Hello, effects: &mut Effects) -> Result<(), HelloError> {
        if self.record.given_up {
            return Err(HelloError::GivenUp);
        }
        if hello.to.is_some_and(|to| to != self.record.node) && !planted::on(Bug::TargetNotChecked) {
            return Err(HelloError::OtherNode);
        }
        if let (Some(ours), Some(theirs)) = (self.record.cluster, hello.cluster)
            && ours != theirs
        {
            return Err(HelloError::OtherCluster);
        }
        let seen = PeerRecord { node: hello.from, boot: hello.boot, nonce: hello.nonce };
        match self.peers.get(&hello.from) {
            Some(known) if *known == seen => return Ok(()),
            Some(known) if self.is_rolled_back(hello, known) => return Err(HelloError::RolledBack),
            Some(_) | None => {}
        }
        self.peers.insert(hello.from, seen);
        effects.writes.push(Write::Peer { record: seen });
        Ok(())
    }

    /// Whether a node that was seen at the boot `known` cannot have come to this hello from there.
    fn is_rolled_back(&self, hello: &Hello, known: &PeerRecord) -> bool {
        if planted::on(Bug::RollbackNotRefused) || planted::on(Bug::LineageNotChecked) && hello.boot > known.boot {
            return false;
        }
        hello.remembers(known) == Some(false)
    }

    /// One thing happened.
    pub fn step(&mut self, now: Now, input: Input, effects: &mut Effects) {
        self.now = now;
        if self.record.given_up || !self.booted && from_outside(&input) {
            return refuse_request(&input, effects);
        }
        match input {
            Input::Tick => self.on_tick(now, effects),
            Input::Message { from, message } => self.on_message(now, from, message, effects),
            Input::Synced { write } => self.on_synced(now, write, effects),
            Input::DiskFull { full } => self.disk_full = full,
            Input::RolledBack { by } => self.give_up(by, effects),
            Input::Answered { address, node, cluster } => self.on_answered(address, node, cluster, now, effects),
            Input::Propose { request, group, command } => {
                self.request(now, group, request, effects, |replica, cx| replica.on_propose(request, command, cx));
            }
            Input::Read { request, group } => {
                self.request(now, group, request, effects, |replica, cx| replica.on_read(request, cx));
            }
            Input::ChangeMembers { request, group, add, remove } => {
                self.request(now, group, request, effects, |replica, cx| {
                    replica.on_change_members(request, add, remove, cx);
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
                self.with(now, group, effects, |replica, cx| replica.on_applied(report, cx));
                self.settle_merged(now, Some(group), effects);
            }
            Input::Installed { group, report } => {
                self.check_level(group, report.feature_level, effects);
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
            Input::Expired { group, body, next_expiry } => {
                self.with(now, group, effects, |replica, _| replica.on_expired(body, next_expiry));
            }
            Input::Counted { group, count, correction } => {
                self.with(now, group, effects, |replica, cx| replica.on_counted(count, correction, cx));
            }
            Input::SnapshotRead { group, to, snapshot, slot, chunk } => {
                self.with(now, group, effects, |replica, cx| replica.on_snapshot_read(to, snapshot, slot, chunk, cx));
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

    /// Brings up to date what is asked of all replicas at once.
    fn reindex(&mut self, group: GroupId) {
        let replica = self.replicas.get(&group).map(|replica| &**replica);
        let deadline = replica.and_then(Replica::deadline);
        let unsynced = replica.and_then(|replica| replica.unsynced.front()).map(|(first, _)| *first);
        let lonely = replica.is_some_and(|replica| self.is_lonely(replica));
        let leadership = self.leadership(group);
        if leadership.is_some_and(|(leader, _)| leader == Some(self.record.node)) {
            self.index.led.insert(group);
        } else {
            self.index.led.remove(&group);
        }
        self.index.set_deadline(group, deadline);
        self.index.set_unsynced(group, unsynced);
        if lonely {
            self.index.lonely.insert(group);
        } else {
            self.index.lonely.remove(&group);
        }
        let old = match leadership {
            Some(leadership) => self.index.leaderships.insert(group, leadership),
            None => self.index.leaderships.remove(&group),
        };
        if old != leadership {
            self.index.changed.insert(group);
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

    /// A split gave birth to a machine here. A replica that was there before it, waiting, has its machine now.
    fn on_born(&mut self, now: Now, child: ReplicaName, leader: NodeId, report: MachineReport, effects: &mut Effects) {
        match self.replicas.get(&child.group) {
            Some(replica) if replica.name == child => {
                let again = planted::on(Bug::FirstBallotLedAgain) && leader == child.node;
                self.with(now, child.group, effects, |replica, cx| {
                    replica.on_born(report, cx);
                    if again {
                        replica.promised = Ballot::ZERO;
                        replica.lead_first_ballot(cx);
                    }
                });
            }
            None if self.may_host(child) => {
                // Should the machine be lost with the store, and its parent have gone on, another member has it.
                let inviter = another_member(child, Some(leader), &report.configuration);
                effects.writes.push(Write::Create { replica: child, after: Slot(1), inviter });
                let mut replica = Replica::blank(child, Slot(1), &mut self.context(now, effects));
                replica.inviter = inviter;
                replica.unsynced.push_back((self.next_write, Unsynced::Created));
                self.replicas.insert(child.group, Box::new(replica));
                self.with(now, child.group, effects, |replica, cx| {
                    replica.on_born(report, cx);
                    if leader == child.node {
                        replica.lead_first_ballot(cx);
                    }
                });
            }
            // It came and went before its parent was this far.
            Some(_) | None => effects.orders.push(MachineOrder::Destroy { replica: child }),
        }
    }

    /// A machine here was taken over by its gainer's.
    fn on_merged(&mut self, now: Now, loser: ReplicaName, merger: Merger, effects: &mut Effects) {
        if self.replicas.get(&loser.group).is_some_and(|replica| replica.name == loser) {
            self.with(now, loser.group, effects, |replica, cx| replica.on_merged(merger, cx));
            self.merged.insert(loser.group);
            // The gainer here may have been buried while its machine took over.
            self.settle_merged(now, None, effects);
            if planted::on(Bug::BuriedAtOnce) {
                self.with(now, loser.group, effects, |replica, cx| replica.on_settled(merger, cx));
            }
        } else {
            effects.orders.push(MachineOrder::Destroy { replica: loser });
        }
    }

    /// Buries the replicas of groups that were merged into `gainer`, once everybody has assembled and this node's store
    /// holds what it has assembled for good.
    fn settle_merged(&mut self, now: Now, gainer: Option<GroupId>, effects: &mut Effects) {
        let mut settled = Vec::new();
        for group in &self.merged {
            let Some(Role::Merged(merger)) = self.replicas.get(group).map(|replica| &replica.role) else { continue };
            let gained = self.replicas.get(&merger.into);
            let owed = gained.and_then(|gained| gained.report.as_ref()).is_some_and(|report| {
                report.state.outbox.iter().any(
                    |obligation| matches!(obligation, Obligation::Bury { loser, at, .. } if loser == group && *at == merger.at),
                )
            });
            let durable =
                gained.is_none_or(|gained| gained.flushed >= merger.at || planted::on(Bug::AssembledInMemory));
            if (gainer == Some(merger.into) || gained.is_none()) && durable && !owed {
                settled.push((*group, *merger));
            }
        }
        for (group, merger) in settled {
            self.merged.remove(&group);
            self.with(now, group, effects, |replica, cx| replica.on_settled(merger, cx));
        }
    }

    /// Somebody has buried the group of a replica here: it was merged into another, and every member had assembled. What this
    /// one holds nobody needs, unless the gainer beside it is still to assemble.
    fn on_gone(&mut self, now: Now, to: ReplicaName, merger: Merger, effects: &mut Effects) {
        let waits = self.replicas.get(&merger.into).is_some_and(|gainer| gainer.flushed < merger.at);
        let named = self.replicas.get(&to.group).is_some_and(|replica| replica.name == to);
        if named && !waits {
            self.merged.remove(&to.group);
            self.with(now, to.group, effects, |replica, cx| replica.on_settled(merger, cx));
        }
    }

    fn bury(&mut self, group: GroupId, effects: &mut Effects) {
        let Some(replica) = self.replicas.remove(&group) else { return };
        self.eager.remove(&group);
        self.merged.remove(&group);
        if planted::on(Bug::TombstoneForgotten) {
            effects.orders.push(MachineOrder::Destroy { replica: replica.name });
            return;
        }
        self.after_sync.push_back((self.next_write, AfterSync::Destroy(replica.name)));
        let merged = replica.merger;
        let configuration = replica.configuration.clone();
        let tombstone = Tombstone { replica: replica.name, removed_by: replica.ruled_out(), merged, configuration };
        self.tombstones.entry(group).or_default().push(tombstone);
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
            disk_full: self.disk_full,
            record: &mut self.record,
            lease_on_disk: self.lease_on_disk,
            beside: &self.replicas,
            tombstones: &self.tombstones,
            wanted: &mut self.wanted,
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
            // A group that holds a lock is not merged away: it had heard. Its heir may be known to nobody whom the teller knows.
            let message = GroupMessage::Resolved { operation: *operation };
            let message = PeerMessage::Group { envelope: GroupEnvelope { from: to, to: group, message } };
            effects.messages.push(Outgoing { to: from, address: None, bulk: false, message });
            return;
        }
        if self.with(now, target, effects, |replica, cx| replica.on_group_message(from, group, message, cx)) {
            return;
        }
        let gone = self.tombstones.get(&target).and_then(|gone| gone.last());
        if let Some(configuration) = gone.and_then(|gone| gone.configuration.clone()).filter(|_| asks) {
            let message = GroupMessage::Moved { configuration };
            let message = PeerMessage::Group { envelope: GroupEnvelope { from: target, to: group, message } };
            effects.messages.push(Outgoing { to: from, address: None, bulk: false, message });
        }
    }

    /// The group that has what `group` had, as far as this node has seen groups being merged.
    #[must_use]
    pub fn heir_of(&self, group: GroupId) -> GroupId {
        let mut heir = group;
        for _ in 0..MAX_MERGERS {
            let merger = match self.replicas.get(&heir).map(|replica| &replica.role) {
                Some(Role::Merged(merger)) => Some(*merger),
                Some(Role::Follower(_) | Role::Candidate(_) | Role::Leader(_) | Role::Retired(_)) => None,
                None => self.tombstones.get(&heir).and_then(|gone| gone.last()).and_then(|gone| gone.merged),
            };
            let Some(merger) = merger else { break };
            heir = merger.into;
        }
        heir
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
                self.invite(now, to, from, effects);
            }
        }
        self.with(now, to.group, effects, |replica, cx| replica.on_message(from, message, cx));
    }

    /// A replica comes to be here without any state, for which it may ask `inviter`.
    fn invite(&mut self, now: Now, name: ReplicaName, inviter: ReplicaName, effects: &mut Effects) {
        if let Some(waiting) = self.replicas.get_mut(&name.group) {
            // Whom it knows may know nothing: it asks another as well.
            if waiting.report.is_none() && waiting.inviter != Some(inviter) {
                waiting.inviter = Some(inviter);
                waiting.ask_at = now.instant;
                self.touched.insert(name.group);
            }
            return;
        }
        if !self.may_host(name) {
            return;
        }
        // What begins a group is slot 1, which no log holds.
        let after = Slot(u64::from(name.incarnation == Incarnation(1)));
        effects.writes.push(Write::Create { replica: name, after, inviter: Some(inviter) });
        let mut replica = Replica::blank(name, after, &mut self.context(now, effects));
        replica.inviter = Some(inviter);
        replica.ask_at = now.instant;
        replica.unsynced.push_back((self.next_write, Unsynced::Created));
        self.replicas.insert(name.group, Box::new(replica));
        self.touched.insert(name.group);
    }

    /// Whether a new replica of this name may come to be here.
    fn may_host(&self, name: ReplicaName) -> bool {
        let dead = self.tombstones.get(&name.group).is_some_and(|tombstones| {
            tombstones
                .iter()
                .any(|gone| name.incarnation <= gone.replica.incarnation.max(gone.removed_by) || gone.merged.is_some())
        });
        self.record.cluster.is_some() && !dead && self.replicas.len() < self.config.max_replicas
    }

    /// Tells a replica of a group that was merged away that its group is no more.
    fn tell_gone(&self, to: ReplicaName, effects: &mut Effects) {
        let merger = self.tombstones.get(&to.group).and_then(|gone| gone.iter().find_map(|gone| gone.merged));
        let merger = merger.filter(|_| !planted::on(Bug::GoneUntold));
        if let Some(Merger { into, at }) = merger {
            let message = PeerMessage::Gone { to, into, at };
            effects.messages.push(Outgoing { to: to.node, address: None, bulk: false, message });
        }
    }

    /// Tells a replica that asks whether it is still a member what one that lived here knew last: it may have nobody else to
    /// ask.
    fn tell_of_removal(&self, to: ReplicaName, gone: ReplicaName, effects: &mut Effects) {
        let last = self.tombstones.get(&gone.group).and_then(|tombstones| tombstones.last());
        if let Some(Tombstone { replica, configuration: Some(configuration), .. }) = last {
            let message = Message::Membership { configuration: configuration.clone() };
            let message = PeerMessage::Replica { envelope: Envelope { from: *replica, to, message } };
            effects.messages.push(Outgoing { to: to.node, address: None, bulk: false, message });
        }
    }

    fn give_up(&mut self, by: NodeId, effects: &mut Effects) {
        let _ = by;
        self.record.given_up = true;
        for replica in self.replicas.values() {
            replica.word.withdraw();
        }
        self.write_record(effects);
        effects.messages.clear();
        effects.give_up = true;
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

/// Somebody else of a replica's group, if possible the one that leads.
fn another_member(name: ReplicaName, leader: Option<NodeId>, configuration: &Configuration) -> Option<ReplicaName> {
    let others = configuration.members.iter().filter(|member| member.node != name.node);
    let other = others.max_by_key(|member| Some(member.node) == leader)?;
    Some(ReplicaName { node: other.node, incarnation: other.incarnation, ..name })
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
        | Input::Reshape { .. } => true,
        Input::Synced { .. }
        | Input::DiskFull { .. }
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
    | Input::Reshape { request, .. } = input
    {
        effects.replies.push((*request, Reply::Refused(Refused::NoReplica)));
    }
}
