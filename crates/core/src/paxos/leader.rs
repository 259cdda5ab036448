//! The leader: turns requests into entries, streams them, counts acknowledgements, keeps its lease.
//!
//! ```text
//! clients          leader                         followers
//!   | put --------> | [waits for a place]
//!   | put --------> | one entry for all that waits
//!   |               | -- Accept(b, stamp, 8, decided 7) -> | [sync]
//!   |               | [own sync]                           |
//!   |               | <------ Accepted(b, stamp, 8) ------ |   8 is decided: a majority's disks hold it
//!   | <- outcome -- | [machine applies 8]                  |
//! ```
//!
//! Everything a step brought in is proposed at its end, so batches grow by themselves with load. The decided mark rides
//! on the next message. Every message asks for a lease; see [`crate::paxos::lease`].

use crate::effects::{MachineOrder, Refused, Reply};
use crate::entry::{Entry, EntryClock, EntryKind, Room};
use crate::input::MachineReport;
use crate::message::Message;
use crate::ops::coordinator::Operations;
use crate::paxos::counting::Count;
use crate::paxos::membership::{Change, HandingOver, Structural};
use crate::paxos::progress::Progress;
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::{Instant, LogTime};
use crate::types::{Ballot, FeatureLevel, NodeId, ReplicaName, RequestId, Slot, Version};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The last moment a stamp may name: the end of the year 9999. A clock beyond it is not believed.
const LATEST_STAMP: u64 = 253_402_300_799_000_000;

/// Log time is slewed toward the wall clock by at most one part in this many.
const SLEW: u64 = 20;

/// From how many commands in the last entry on the next ones wait for company: below it, waiting costs more than it saves.
const LINGER_FROM: usize = 8;

/// From how many other replicas of the node on entries are expected to have company on their way.
const SHARED_FROM: usize = 7;

/// How long what a member's disk had no room for is not read from this one's again.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Bytes in front of each command of an entry, and in front of all.
const COMMAND_OVERHEAD: usize = 4;

/// Phase 2b, unpacked.
pub(crate) struct Accepted {
    pub(crate) ballot: Ballot,
    pub(crate) stamp: Instant,
    pub(crate) lease_nanos: u64,
    pub(crate) through: Slot,
    pub(crate) want: Option<Slot>,
    pub(crate) applied: Slot,
    pub(crate) level: FeatureLevel,
    pub(crate) ask: u64,
    pub(crate) room: Room,
}

/// What the leader knows of another member.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: ReplicaName,
    /// The next slot to send.
    pub(crate) next: Slot,
    /// Acknowledged: on its disk.
    pub(crate) through: Slot,
    pub(crate) applied: Slot,
    /// The newest stamp it echoed, and until when (by the leader's clock) it promises nobody else.
    pub(crate) stamp: Instant,
    pub(crate) granted_until: Instant,
    /// Until when beats say what the group's own heartbeat would ([`crate::cover`]).
    pub(crate) spared_until: Instant,
    pub(crate) answered_at: Instant,
    pub(crate) level: FeatureLevel,
    /// How much room its disk has, as it said last.
    pub(crate) room: Room,
    /// What it asked last, and which of its asks was answered last.
    pub(crate) ask: u64,
    pub(crate) vouched: u64,
    /// Sent and not acknowledged: last slot and bytes of each message.
    in_flight: VecDeque<(Slot, usize)>,
    in_flight_bytes: usize,
    /// Gaps reported with an older stamp were mended by the last rewind.
    rewound: Instant,
    /// Old entries are being read from disk for it.
    reading: bool,
    /// Its disk had no room for what was read: not before then is it read again.
    read_at: Instant,
    /// Whether it comes nearer.
    pub(super) progress: Progress,
}

impl Peer {
    pub(crate) fn new(name: ReplicaName, next: Slot, now: Instant) -> Self {
        Self {
            name,
            next,
            through: Slot(0),
            applied: Slot(0),
            stamp: Instant(0),
            granted_until: Instant(0),
            spared_until: Instant(0),
            answered_at: now,
            level: FeatureLevel(0),
            room: Room::Enough,
            ask: 0,
            vouched: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            rewound: Instant(0),
            reading: false,
            read_at: Instant(0),
            progress: Progress::new(now),
        }
    }

    /// Whether its disk takes the entry at a slot, all up to `press` being taken out of the reserve.
    fn takes(&self, slot: Slot, entry: &Entry, press: Slot) -> bool {
        slot <= press || self.room.admits(entry)
    }

    fn sent(&mut self, last: Slot, bytes: usize) {
        self.next = last.next();
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
    }

    fn acknowledged(&mut self, through: Slot) {
        self.through = self.through.max(through);
        self.next = self.next.max(self.through.next());
        while let Some((last, bytes)) = self.in_flight.front().copied() {
            if last > self.through {
                break;
            }
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
    }

    fn rewind(&mut self, to: Slot, stamp: Instant) {
        self.next = to.max(self.through.next());
        self.rewound = stamp;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }
}

/// A linearizable read that waits for a heartbeat round, the barrier or the machine.
#[derive(Clone, Copy, Debug)]
struct PendingRead {
    request: RequestId,
    /// A majority must echo a stamp later than this, or the lease hold.
    after: Instant,
    /// And this slot be applied.
    index: Slot,
    confirmed: bool,
}

/// Leading in one ballot.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) ballot: Ballot,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    /// The first fresh entry of this ballot: nothing is read before it is applied.
    pub(crate) barrier: Slot,
    /// The structural entry under way; nothing is proposed past it.
    pub(crate) structural: Option<Structural>,
    pub(super) queue: VecDeque<(RequestId, Bytes)>,
    pub(super) queue_bytes: usize,
    /// How much room there is for what clients write on the disks of a majority.
    pub(super) room: Room,
    /// What waits in the queue has room where there is so much.
    pub(super) queue_room: Room,
    /// How many commands the last entry took, and when it was made.
    last_batch: usize,
    batched_at: Instant,
    /// Until when commands wait for more to share their entry.
    lingers_until: Option<Instant>,
    /// Entries of the group's own, before client commands.
    pub(super) own: VecDeque<(EntryKind, Bytes)>,
    pub(crate) waiting: BTreeMap<Slot, Vec<RequestId>>,
    reads: VecDeque<PendingRead>,
    pub(crate) last_stamp: Instant,
    /// Only stamps after this count for the lease.
    pub(crate) lease_after: Instant,
    pub(crate) heartbeat_at: Instant,
    /// Somebody waits for a heartbeat round.
    pub(crate) round_wanted: bool,
    /// When the last entry was made, for the elapsed time of the next.
    clocked_at: Option<Instant>,
    /// Log time handed out in this ballot: the sum up to each slot not yet applied, and in all.
    advances: VecDeque<(Slot, u64)>,
    advanced_micros: u64,
    /// Log time at the beginning of this ballot; known once the barrier is applied.
    log_time_base: Option<u64>,
    expiry_asked: bool,
    pub(crate) count: Count,
    pub(crate) change: Option<Change>,
    pub(crate) hand_over: Option<HandingOver>,
    /// Since when its machine stands still, as long as it leads.
    pub(crate) stalled_since: Option<Instant>,
    level_proposed: bool,
    /// Operations among groups.
    pub(crate) operations: Operations,
}

impl Leader {
    pub(crate) fn new(
        ballot: Ballot,
        others: Vec<ReplicaName>,
        next: Slot,
        adopted: Option<Slot>,
        cx: &Context<'_>,
    ) -> Self {
        let now = cx.now.instant;
        Self {
            ballot,
            peers: others.into_iter().map(|name| (name.node, Peer::new(name, next, now))).collect(),
            barrier: Slot(u64::MAX),
            structural: adopted.map(|slot| Structural { slot, adopted: true, members: true }),
            queue: VecDeque::new(),
            queue_bytes: 0,
            room: Room::Enough,
            queue_room: Room::Enough,
            last_batch: 0,
            batched_at: Instant(0),
            lingers_until: None,
            own: VecDeque::new(),
            waiting: BTreeMap::new(),
            reads: VecDeque::new(),
            last_stamp: now,
            lease_after: Instant(0),
            heartbeat_at: now,
            round_wanted: false,
            clocked_at: None,
            advances: VecDeque::new(),
            advanced_micros: 0,
            log_time_base: None,
            expiry_asked: false,
            count: Count::Idle,
            change: None,
            hand_over: None,
            stalled_since: None,
            level_proposed: false,
            operations: Operations::default(),
        }
    }

    pub(crate) fn deadline(&self, applied: Slot) -> Instant {
        // What stands still has no deadline, or it would come again and again.
        let goes_on = self.may_operate(applied) || planted::on(Bug::DeadlineAtStandstill);
        let operations = self.operations.deadline().filter(|_| goes_on);
        self.lingers_until.into_iter().chain(operations).fold(self.heartbeat_at, Instant::min)
    }

    /// Whether operations among groups may take their next step.
    pub(crate) fn may_operate(&self, applied: Slot) -> bool {
        applied >= self.barrier && self.structural.is_none() && self.hand_over.is_none()
    }

    /// Whether the barrier, a read or an order waits until more is applied.
    pub(crate) fn waits_for_machine(&self, applied: Slot) -> bool {
        let orders = self.change.is_some() || self.hand_over.is_some() || self.structural.is_some();
        applied < self.barrier || !self.reads.is_empty() || orders || self.log_time_base.is_none()
    }

    /// Microseconds that the next entry adds to log time, and what log time will then be.
    fn advance(&self, cx: &Context<'_>) -> (u64, Option<LogTime>) {
        let Some(clocked_at) = self.clocked_at else { return (0, None) };
        let elapsed = crate::time::nanos(cx.now.instant.since(clocked_at)) / 1_000;
        let Some(base) = self.log_time_base else { return (elapsed, None) };
        let plain = base.saturating_add(self.advanced_micros).saturating_add(elapsed);
        let wall = cx.now.wall.0.min(LATEST_STAMP);
        let slew = elapsed / SLEW;
        let advance = if planted::on(Bug::LogTimeJumps) {
            elapsed + wall.saturating_sub(plain)
        } else if wall > plain {
            elapsed + slew.min(wall - plain)
        } else {
            elapsed - slew.min(plain - wall)
        };
        (advance, Some(LogTime(base.saturating_add(self.advanced_micros).saturating_add(advance))))
    }

    fn clock(&mut self, slot: Slot, cx: &Context<'_>) -> EntryClock {
        let (advance_micros, _) = self.advance(cx);
        self.clocked_at = Some(cx.now.instant);
        self.advanced_micros = self.advanced_micros.saturating_add(advance_micros);
        self.advances.push_back((slot, self.advanced_micros));
        EntryClock { stamp: Version(cx.now.wall.0.min(LATEST_STAMP)), advance_micros }
    }

    fn next_stamp(&mut self, now: Instant) -> Instant {
        self.last_stamp = now.max(Instant(self.last_stamp.0 + 1));
        self.last_stamp
    }

    /// A member has answered a message of this stamp, and granted a lease from when it heard it.
    pub(crate) fn granted(&mut self, from: NodeId, stamp: Instant, lease_nanos: u64, cx: &Context<'_>) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.answered_at = cx.now.instant;
        if stamp <= self.lease_after {
            return;
        }
        peer.stamp = peer.stamp.max(stamp);
        if lease_nanos > 0 {
            let term = Duration::from_nanos(lease_nanos);
            let term = if planted::on(Bug::LeaseNotCut) { term } else { cx.config.cut(term) };
            let since = if planted::on(Bug::LeaseFromAnswer) { cx.now.instant } else { stamp };
            peer.granted_until = peer.granted_until.max(since.after(term));
        }
    }

    /// Whether nobody waits for anything here.
    pub(crate) fn is_quiet(&self) -> bool {
        let changes = self.structural.is_some() || self.change.is_some() || self.hand_over.is_some();
        !changes && self.queue.is_empty() && self.own.is_empty() && self.reads.is_empty() && !self.round_wanted
    }

    /// What members granted so far counts no more: only what they grant to later stamps.
    pub(crate) fn forget_lease(&mut self) {
        self.lease_after = self.last_stamp;
        for peer in self.peers.values_mut() {
            peer.granted_until = Instant(0);
            peer.stamp = Instant(0);
        }
    }

    /// Queues an entry of the group's own.
    pub(crate) fn propose_own(&mut self, kind: EntryKind, body: Bytes) {
        self.own.push_back((kind, body));
    }

    /// The kinds of the group's own entries that wait for a slot.
    pub(crate) fn own_kinds(&self) -> impl Iterator<Item = EntryKind> + '_ {
        self.own.iter().map(|(kind, _)| *kind)
    }

    /// Whether an entry of this kind waits for a slot.
    pub(crate) fn has_own(&self, kind: EntryKind) -> bool {
        self.own_kinds().any(|own| own == kind)
    }
}

impl Replica {
    /// Just elected: a barrier entry, unless an adopted configuration must be decided first.
    pub(crate) fn take_office(&mut self, cx: &mut Context<'_>) {
        let adopted = matches!(&self.role, Role::Leader(leader) if leader.structural.is_some());
        self.word.withdraw();
        if !adopted {
            let slot = self.propose(EntryKind::Noop, Bytes::new(), Vec::new(), cx);
            if let Role::Leader(leader) = &mut self.role {
                leader.barrier = slot;
            }
        }
        self.try_decide(cx);
    }

    /// No longer leads: nobody may read here, and those who wait are told what is known.
    pub(crate) fn leave_office(&mut self, leader: Leader, cx: &mut Context<'_>) {
        self.word.withdraw();
        let refused = self.refused_not_leader();
        for (request, _) in leader.queue {
            cx.reply(request, Reply::Refused(refused.clone()));
        }
        for request in leader.waiting.into_values().flatten() {
            cx.reply(request, Reply::Lost);
        }
        for read in leader.reads {
            cx.reply(read.request, Reply::Refused(refused.clone()));
        }
        if let Some(change) = leader.change {
            cx.reply_to(change.request, change.left_by_leader());
        }
        if let Some(hand_over) = leader.hand_over {
            cx.reply_to(hand_over.request, Reply::Refused(Refused::GivenUp("the leader changed meanwhile".to_owned())));
        }
        if let Some(order) = leader.operations.order {
            let (request, reply) = order.left_by_leader();
            cx.reply(request, reply);
        }
    }

    /// Makes an entry at the next slot and accepts it itself.
    pub(crate) fn propose(
        &mut self,
        kind: EntryKind,
        body: Bytes,
        waiting: Vec<RequestId>,
        cx: &mut Context<'_>,
    ) -> Slot {
        let slot = self.cursor.through.next();
        let Role::Leader(leader) = &mut self.role else { return slot };
        let clock = leader.clock(slot, cx);
        let ballot = leader.ballot;
        if !waiting.is_empty() {
            if planted::on(Bug::ReplyBeforeDecided) {
                for request in &waiting {
                    cx.effects.replies.push((*request, Reply::Done));
                }
            }
            leader.waiting.insert(slot, waiting);
        }
        self.append(ballot, slot, vec![Entry { kind, clock, body }], cx);
        slot
    }

    /// A client's command.
    pub(crate) fn on_propose(&mut self, request: RequestId, command: Bytes, cx: &mut Context<'_>) {
        let serves = self.recovery.is_none();
        if matches!(&self.role, Role::Leader(leader) if leader.room < Room::Enough) {
            self.look_for_room(cx);
        }
        let Some(leader) = self.role.leader_mut().filter(|_| serves) else {
            let refused = self.refused_not_leader();
            cx.reply(request, Reply::Refused(refused));
            return;
        };
        let bytes = leader.queue_bytes + command.len();
        let refused = if !leader.room.min(cx.room).admits_command(&command) {
            // That others have room again is heard only from answers.
            leader.round_wanted |= leader.room < cx.room;
            Some(Refused::DiskFull)
        } else if leader.queue.len() >= cx.config.queue_commands || bytes > cx.config.queue_bytes {
            Some(Refused::Overloaded)
        } else if command.len() > crate::entry::MAX_ENTRY_BYTES / 2 {
            Some(Refused::Invalid("the command is larger than an entry".to_owned()))
        } else {
            None
        };
        match refused {
            Some(refused) => cx.reply(request, Reply::Refused(refused)),
            None => {
                leader.queue_bytes = bytes;
                leader.queue.push_back((request, command));
            }
        }
    }

    /// A linearizable read that the read word did not let through.
    pub(crate) fn on_read(&mut self, request: RequestId, cx: &mut Context<'_>) {
        let (decided, serves) = (self.decided, self.recovery.is_none());
        let Some(leader) = self.role.leader_mut().filter(|_| serves) else {
            let refused = self.refused_not_leader();
            cx.reply(request, Reply::Refused(refused));
            return;
        };
        if leader.reads.len() >= cx.config.queue_reads {
            cx.reply(request, Reply::Refused(Refused::Overloaded));
            return;
        }
        let index = if planted::on(Bug::NoBarrier) { decided } else { decided.max(leader.barrier) };
        let read =
            PendingRead { request, after: leader.last_stamp, index, confirmed: planted::on(Bug::ReadWithoutRound) };
        leader.reads.push_back(read);
        leader.round_wanted = true;
    }

    /// Lets reads go that a majority has confirmed and the machine has reached.
    fn release_reads(&mut self, cx: &mut Context<'_>) {
        if !matches!(&self.role, Role::Leader(leader) if !leader.reads.is_empty()) {
            return;
        }
        let leased = cx.now.instant < self.lease_deadline(cx);
        let round = self.confirmed_stamp();
        let (applied, group) = (self.applied, self.name.group);
        let Role::Leader(leader) = &mut self.role else { return };
        let barrier = leader.barrier;
        let mut kept = VecDeque::new();
        for mut read in std::mem::take(&mut leader.reads) {
            // An adopted configuration postpones the barrier; the read waits for whatever it turns out to be.
            if read.index == Slot(u64::MAX) {
                read.index = barrier;
            }
            read.confirmed |= leased || round > read.after;
            if read.confirmed && applied >= read.index {
                cx.effects.replies.push((read.request, Reply::ReadNow { group }));
            } else {
                kept.push_back(read);
            }
        }
        leader.round_wanted |= kept.iter().any(|read| !read.confirmed && read.after == leader.last_stamp);
        leader.reads = kept;
    }

    pub(crate) fn on_accepted(&mut self, from: ReplicaName, accepted: Accepted, cx: &mut Context<'_>) {
        let decided = self.decided;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.ballot != accepted.ballot || accepted.stamp > leader.last_stamp {
            return;
        }
        let Some(peer) = leader.peers.get_mut(&from.node).filter(|peer| peer.name == from) else { return };
        peer.level = accepted.level;
        peer.ask = accepted.ask;
        peer.room = accepted.room;
        peer.applied = peer.applied.max(accepted.applied);
        leader.granted(from.node, accepted.stamp, accepted.lease_nanos, cx);
        let Some(peer) = leader.peers.get_mut(&from.node) else { return };
        peer.acknowledged(accepted.through);
        peer.progress.on_gap(decided.0.saturating_sub(peer.through.0), cx.now.instant);
        if let Some(want) = accepted.want
            && accepted.stamp > peer.rewound
        {
            peer.rewind(want, leader.last_stamp);
        }
        self.try_decide(cx);
    }

    /// The leader's own disk has moved on.
    pub(crate) fn leader_after_sync(&mut self, cx: &mut Context<'_>) {
        if matches!(self.role, Role::Leader(_)) {
            self.try_decide(cx);
        }
    }

    /// The machine has moved on.
    pub(crate) fn leader_after_apply(&mut self, cx: &mut Context<'_>) {
        let applied = self.applied;
        let log_time = self.report.as_ref().map(|report| report.log_time);
        let Role::Leader(leader) = &mut self.role else { return };
        let mut sum = None;
        while let Some((slot, total)) = leader.advances.front().copied() {
            if slot > applied {
                break;
            }
            sum = Some(total);
            leader.advances.pop_front();
        }
        if let (Some(sum), Some(log_time)) = (sum, log_time) {
            leader.log_time_base = Some(log_time.0.saturating_sub(sum));
        }
        if matches!(&self.role, Role::Leader(leader) if leader.structural.is_some()) {
            self.try_decide(cx);
        }
    }

    /// Counts acknowledgements.
    pub(crate) fn try_decide(&mut self, cx: &mut Context<'_>) {
        let Some(configuration) = &self.configuration else { return };
        let Role::Leader(leader) = &self.role else { return };
        let tally = self.tally(configuration);
        let decided = match &leader.structural {
            Some(structural) if structural.members && !planted::on(Bug::OldMajorityDecidesConfiguration) => {
                let before = Slot(structural.slot.0 - 1);
                let next = self.proposed_configuration(structural.slot);
                let held = |set| self.assembled_tally(set, cx) >= structural.slot;
                // Only who has applied all before it knows of what the members must have assembled.
                let knows = self.applied >= before || planted::on(Bug::UnassembledCounts);
                let both = knows && held(configuration) && next.as_ref().is_some_and(held);
                if both { structural.slot } else { tally.min(before) }
            }
            _ => tally,
        };
        let decided = decided.min(self.cursor.through);
        if decided > self.decided {
            self.advance_decided(decided, cx);
            self.after_structural(cx);
        }
    }

    /// The last slot that a majority of `configuration` has on disk, with everything before it.
    fn tally(&self, configuration: &crate::group::Configuration) -> Slot {
        self.tally_of(configuration, Slot(0), self.applied)
    }

    /// The same, of those that hold all the positions the group has: what decides who may leave.
    fn assembled_tally(&self, configuration: &crate::group::Configuration, cx: &Context<'_>) -> Slot {
        let reshaped = self.report.as_ref().map(|report| report.state.reshaped).unwrap_or_default();
        let needed = if planted::on(Bug::UnassembledCounts) { Slot(0) } else { reshaped };
        self.tally_of(configuration, needed, self.assembled_through(cx))
    }

    /// The last slot that a majority of `configuration` has on disk, of members that have applied `needed`.
    fn tally_of(&self, configuration: &crate::group::Configuration, needed: Slot, own_applied: Slot) -> Slot {
        let Role::Leader(leader) = &self.role else { return Slot(0) };
        let held_by = |member: &crate::group::Member| {
            if member.node == self.name.node {
                let own =
                    if planted::on(Bug::OwnVoteBeforeSync) { Some(self.cursor.through) } else { self.cursor.durable };
                let counts = member.incarnation == self.name.incarnation && own_applied >= needed;
                return if counts { own.unwrap_or_default() } else { Slot(0) };
            }
            let peer = leader.peers.get(&member.node).filter(|peer| peer.name.incarnation == member.incarnation);
            peer.filter(|peer| peer.applied >= needed).map_or(Slot(0), |peer| peer.through)
        };
        let survivors = self.recovery.as_ref().map(|recovery| {
            let voter = |node: NodeId| configuration.voters().find(|member| member.node == node);
            let held = recovery.quorum(self.name.node).map(|node| voter(node).map_or(Slot(0), held_by));
            (held.min().unwrap_or_default(), recovery.stands_for(configuration))
        });
        if let Some((held, true)) = survivors {
            return held;
        }
        let counts = |member: &&crate::group::Member| {
            member.role == crate::group::Role::Voter || planted::on(Bug::LearnerVoteCounts)
        };
        let mut through: Vec<Slot> = configuration.members.iter().filter(counts).map(held_by).collect();
        through.sort_unstable_by(|a, b| b.cmp(a));
        let needed =
            configuration.majority() - usize::from(planted::on(Bug::SmallerQuorum) && configuration.majority() > 1);
        let majority = through.get(needed - 1).copied().unwrap_or_default();
        survivors.map_or(majority, |(held, _)| majority.max(held))
    }

    /// The end of a burst at the leader.
    pub(crate) fn flush_leader(&mut self, cx: &mut Context<'_>) {
        self.advance_change(cx);
        self.advance_operations(cx);
        self.look_around(cx);
        self.advance_recovery();
        self.look_for_room(cx);
        self.propose_waiting(cx);
        self.release_reads(cx);
        if self.advance_hand_over(cx) {
            return;
        }
        let Role::Leader(leader) = &mut self.role else { return };
        let due = cx.now.instant >= leader.heartbeat_at;
        if due {
            leader.heartbeat_at = cx.now.instant.after(cx.config.heartbeat);
        }
        if cx.disk_stalled {
            return;
        }
        let round = std::mem::take(&mut leader.round_wanted);
        let beat = due || round;
        if beat {
            leader.heartbeat_at = cx.now.instant.after(cx.config.heartbeat);
        }
        let nodes: Vec<NodeId> = leader.peers.keys().copied().collect();
        for node in nodes {
            self.stream_to(node, beat, round, cx);
        }
        if beat && matches!(&self.role, Role::Leader(leader) if leader.peers.is_empty()) {
            // Alone, the leader's own grant is the majority.
            if let Role::Leader(leader) = &mut self.role {
                leader.next_stamp(cx.now.instant);
            }
        }
        self.renew_own_grant(cx);
        self.release_reads(cx);
        self.publish(cx);
    }

    /// Turns what waits into entries, as far as the pipeline allows.
    fn propose_waiting(&mut self, cx: &mut Context<'_>) {
        loop {
            let in_flight = self.cursor.through.0 - self.decided.0;
            let Role::Leader(leader) = &mut self.role else { return };
            leader.lingers_until = None;
            let closed = leader.structural.is_some() && !planted::on(Bug::WindowOfTwo);
            if closed || leader.hand_over.is_some() || in_flight >= cx.config.pipeline_entries {
                return;
            }
            if let Some((kind, body)) = leader.own.pop_front() {
                self.propose_one(kind, body, cx);
                continue;
            }
            // While entries are under way, or right after the last, a further one is worth its messages and syncs only if it
            // takes as many commands as the last: many small entries would cost more than they gain.
            // Where many groups share a node, their entries share the messages and syncs: a small one costs little.
            let alone = cx.beside.len() < SHARED_FROM || leader.last_batch >= LINGER_FROM;
            let small = alone && leader.queue.len() < leader.last_batch && leader.queue_bytes < cx.config.entry_bytes;
            if leader.queue.is_empty() || in_flight > 0 && small {
                return;
            }
            if small && leader.last_batch >= LINGER_FROM && cx.now.instant < leader.batched_at.after(cx.config.linger) {
                leader.lingers_until = Some(leader.batched_at.after(cx.config.linger));
                return;
            }
            let (body, waiting) = leader.take_batch(cx.config.entry_bytes);
            leader.last_batch = waiting.len();
            leader.batched_at = cx.now.instant;
            self.propose(EntryKind::Commands, body, waiting, cx);
        }
    }

    /// Proposes an entry of the group's own. One that moves positions turns readers back first.
    fn propose_one(&mut self, kind: EntryKind, body: Bytes, cx: &mut Context<'_>) {
        let shown = planted::on(Bug::WordShownWhileMoving)
            || (kind == EntryKind::Prepare && planted::on(Bug::WordShownWhileSealing));
        let withdraws = kind.is_structural() && !shown;
        if withdraws {
            self.word.withdraw();
        }
        let slot = self.propose(kind, body, Vec::new(), cx);
        if let Role::Leader(leader) = &mut self.role
            && withdraws
        {
            leader.structural = Some(Structural { slot, adopted: false, members: false });
        }
        if let (EntryKind::Correct, Role::Leader(leader)) = (kind, &mut self.role) {
            leader.count = Count::Proposed(slot);
        }
    }

    /// Sends a member what it lacks, or a heartbeat if one is due: for a round that somebody waits for, or else unless a cover
    /// spares it.
    fn stream_to(&mut self, node: NodeId, beat: bool, round: bool, cx: &mut Context<'_>) {
        let (last, truncated) = (self.cursor.through, self.log.truncated());
        let press = self.press_for(node);
        let mut sent = false;
        loop {
            let Role::Leader(leader) = &mut self.role else { return };
            let Some(peer) = leader.peers.get_mut(&node) else { return };
            if peer.next > last || peer.in_flight_bytes >= cx.config.peer_window_bytes {
                break;
            }
            let (name, first) = (peer.name, peer.next);
            let mut entries = self.log.run(first, last, cx.config.message_bytes);
            if entries.is_empty() {
                // What has no room would be read again and again.
                let reads = !peer.reading && (peer.room == Room::Enough || cx.now.instant >= peer.read_at);
                if first <= truncated && beat {
                    self.send(name, Message::Truncated { through: truncated }, cx);
                } else if first > truncated && reads {
                    peer.reading = true;
                    self.read_log(name, first, cx);
                }
                break;
            }
            let takes = |(slot, entry): &(u64, &Entry)| peer.takes(Slot(*slot), entry, press);
            entries.truncate((first.0..).zip(&entries).take_while(takes).count());
            if entries.is_empty() {
                break;
            }
            let weight = entries.iter().map(Entry::weight).sum();
            peer.sent(Slot(first.0 + entries.len() as u64 - 1), weight);
            self.send_accept(name, first, entries, cx);
            sent = true;
        }
        if beat && !sent {
            let Role::Leader(leader) = &self.role else { return };
            let Some(peer) = leader.peers.get(&node) else { return };
            if !round && self.decided == last && peer.is_spared(self.decided, cx.now.instant) {
                return;
            }
            let (name, first) = (peer.name, peer.next);
            self.send_accept(name, first, Vec::new(), cx);
        }
    }

    pub(crate) fn send_accept(&mut self, to: ReplicaName, first: Slot, entries: Vec<Entry>, cx: &mut Context<'_>) {
        let decided = self.decided;
        let vouches = self.vouch_for(to.node, cx);
        let press = self.press_for(to.node);
        let Role::Leader(leader) = &mut self.role else { return };
        let adopted = leader.structural.as_ref().is_some_and(|structural| structural.adopted);
        let leased = cx.config.read_mode == crate::config::ReadMode::Lease && !adopted;
        let lease_nanos = if leased { crate::time::nanos(cx.config.lease) } else { 0 };
        let (ballot, stamp) = (leader.ballot, leader.next_stamp(cx.now.instant));
        let accept = Message::Accept { ballot, stamp, lease_nanos, first, entries, decided, vouches, press };
        self.send(to, accept, cx);
    }

    /// Old entries came back from the disk for a member that lags.
    pub(crate) fn on_log_read(&mut self, to: ReplicaName, first: Slot, mut entries: Vec<Entry>, cx: &mut Context<'_>) {
        let decided = self.decided;
        let Role::Leader(leader) = &mut self.role else {
            // It was read to help a candidate or follower that asked to catch up.
            if !entries.is_empty() {
                self.send(to, Message::Decided { first, entries, decided }, cx);
            }
            return;
        };
        let Some(peer) = leader.peers.get_mut(&to.node).filter(|peer| peer.name == to) else { return };
        peer.reading = false;
        let takes = |entry: &&Entry| peer.room.admits(entry);
        let count = entries.iter().take_while(takes).count();
        if count == 0 {
            peer.read_at = cx.now.instant.after(READ_AGAIN);
        }
        entries.truncate(count);
        if entries.is_empty() || peer.next != first {
            return;
        }
        let weight = entries.iter().map(Entry::weight).sum();
        peer.sent(Slot(first.0 + entries.len() as u64 - 1), weight);
        self.send_accept(to, first, entries, cx);
    }

    pub(crate) fn tick_leader(&mut self, cx: &mut Context<'_>) {
        if !self.hears_majority(cx.config.election_max * 2, cx) {
            self.step_down(None, cx);
            return;
        }
        self.hand_on_if_stalled(cx);
        self.propose_level(cx);
        self.order_count(cx);
        // What the members must have assembled may have become durable without a word from any of them.
        if matches!(&self.role, Role::Leader(leader) if leader.structural.as_ref().is_some_and(|it| it.members)) {
            self.try_decide(cx);
        }
        let applied_all = self.applied == self.cursor.through;
        // What is sealed does not expire: it would be named again and again.
        let sealed = |report: &MachineReport| report.state.pending.as_ref().is_some_and(|it| it.sealed().is_some());
        let report = self.report.as_ref().filter(|report| !sealed(report));
        let next_expiry = report.and_then(|report| report.next_expiry);
        let group = self.name.group;
        let Role::Leader(leader) = &mut self.role else { return };
        if let (Some(next), (_, Some(now))) = (next_expiry, leader.advance(cx))
            && next <= now
            && applied_all
            && !leader.expiry_asked
            && !leader.has_own(EntryKind::Expire)
        {
            leader.expiry_asked = true;
            cx.effects.orders.push(MachineOrder::Expired { group, due: now });
        }
    }

    /// The machine lists what has expired.
    pub(crate) fn on_expired(&mut self, body: Bytes, next_expiry: Option<LogTime>) {
        let Role::Leader(leader) = &mut self.role else { return };
        leader.expiry_asked = false;
        if let Some(report) = &mut self.report {
            // What was found spares further orders, though nothing be applied.
            report.next_expiry = next_expiry;
        }
        // An encoded empty list is its length alone.
        if body.len() > COMMAND_OVERHEAD {
            leader.propose_own(EntryKind::Expire, body);
        }
    }

    /// Whether a majority has answered lately; a leader cut off from it gives up, so that its clients look elsewhere.
    pub(crate) fn hears_majority(&self, patience: Duration, cx: &Context<'_>) -> bool {
        let Some(configuration) = &self.configuration else { return false };
        let Role::Leader(leader) = &self.role else { return false };
        self.is_quorum(configuration, |node| {
            node == self.name.node
                || leader.peers.get(&node).is_some_and(|peer| cx.now.instant.since(peer.answered_at) <= patience)
        })
    }

    /// Raises the group's feature level once every member understands the next.
    fn propose_level(&mut self, cx: &mut Context<'_>) {
        let Some(report) = &self.report else { return };
        let level = report.feature_level;
        let Role::Leader(leader) = &mut self.role else { return };
        let least = leader.peers.values().map(|peer| peer.level).min().unwrap_or(cx.config.feature_level);
        let least = least.min(cx.config.feature_level);
        if least <= level {
            leader.level_proposed = false;
        } else if !leader.level_proposed && leader.structural.is_none() && leader.change.is_none() {
            leader.level_proposed = true;
            leader.propose_own(EntryKind::FeatureLevel, crate::codec::Encode::to_bytes(&least));
        }
    }
}

impl Leader {
    /// The commands that fit one entry: a count, then each behind its length.
    fn take_batch(&mut self, limit: usize) -> (Bytes, Vec<RequestId>) {
        let mut size = COMMAND_OVERHEAD;
        let mut count = 0;
        for (_, command) in &self.queue {
            if count > 0 && size + command.len() + COMMAND_OVERHEAD > limit {
                break;
            }
            size += command.len() + COMMAND_OVERHEAD;
            count += 1;
        }
        let mut body = BytesMut::with_capacity(size);
        let mut waiting = Vec::with_capacity(count);
        body.put_u32_le(u32::try_from(count).unwrap_or(u32::MAX));
        for (request, command) in self.queue.drain(..count) {
            self.queue_bytes -= command.len();
            crate::codec::encode_bytes(&command, &mut body);
            waiting.push(request);
        }
        (body.freeze(), waiting)
    }
}
