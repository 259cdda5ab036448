//! One replica: acceptor, learner and, when its turn comes, proposer of one group.
//!
//! This file holds the state and the way a message takes to its handler; the handlers live with their roles in
//! [`crate::paxos`].

use crate::codec::Decode;
use crate::config::Config;
use crate::durable::{HardState, Merger, NodeRecord, RecoveredReplica, Tombstone, Write};
use crate::effects::{Apply, Effects, LogRead, Outgoing, Refused, Reply};
use crate::entry::{Entry, EntryKind, Room};
use crate::group::{Configuration, read_word::ReadWord};
use crate::input::MachineReport;
use crate::message::{Envelope, Message, PeerMessage};
use crate::ops::recovery::Recovery;
use crate::ops::surroundings::Looking;
use crate::ops::{Gain, MAX_GAINED, Pending};
use crate::paxos::acceptor::{Acknowledgement, Cursor, Grant, Unsynced};
use crate::paxos::catch_up::Fetch;
use crate::paxos::election::{Candidate, Follower};
use crate::paxos::freshness::Freshness;
use crate::paxos::leader::Leader;
use crate::paxos::log::Log;
use crate::paxos::membership::Retired;
use crate::planted::{self, Bug};
use crate::policy::Busy;
use crate::rng::Rng;
use crate::time::{Instant, Now};
use crate::types::{Ballot, GroupId, NodeId, ReplicaName, RequestId, Slot, WriteId};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// However many replicas share the node's memory for applied entries, each keeps so many bytes of them.
const LEAST_LOG_MEMORY: usize = 64 << 10;

/// What every handler may use besides its replica.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) config: &'a Config,
    pub(crate) effects: &'a mut Effects,
    pub(crate) rng: &'a mut Rng,
    /// The id under which this step's writes will be synced.
    pub(crate) write: WriteId,
    /// The node's own disk has not answered for too long.
    pub(crate) disk_stalled: bool,
    /// How much room the node's own disk has.
    pub(crate) room: Room,
    pub(crate) record: &'a mut NodeRecord,
    /// The longest lease that the disk knows was granted, in nanoseconds.
    pub(crate) lease_on_disk: u64,
    /// The other replicas of this node.
    pub(crate) beside: &'a BTreeMap<GroupId, Box<Replica>>,
    /// Those that are gone.
    pub(crate) tombstones: &'a BTreeMap<GroupId, Vec<Tombstone>>,
    /// Replicas that are to come to be here, each with whom to ask for their state.
    pub(crate) wanted: &'a mut Vec<(ReplicaName, ReplicaName)>,
    /// How far leaders look around.
    pub(crate) looking: &'a mut Looking,
}

impl Context<'_> {
    /// Hands a change to the disk with this step's batch.
    pub(crate) fn write(&mut self, write: Write) -> WriteId {
        self.effects.writes.push(write);
        self.write
    }

    /// Bytes of applied entries that one replica keeps in memory: they share the node's, but for a little of their own.
    pub(crate) fn log_memory(&self) -> usize {
        let all = self.config.log_memory_bytes;
        (all / (self.beside.len() + 1)).max(all.min(LEAST_LOG_MEMORY))
    }

    /// Answers a request.
    pub(crate) fn reply(&mut self, request: RequestId, reply: Reply) {
        self.effects.replies.push((request, reply));
    }

    /// Answers a request, if there was one: another group's leader asks without.
    pub(crate) fn reply_to(&mut self, request: Option<RequestId>, reply: Reply) {
        if let Some(request) = request {
            self.reply(request, reply);
        }
    }
}

/// What a replica does in its group besides accepting.
#[derive(Debug)]
pub(crate) enum Role {
    /// Follows a leader, or waits for one.
    Follower(Follower),
    /// Stands for election.
    Candidate(Candidate),
    /// Leads.
    Leader(Box<Leader>),
    /// Was removed: serves catch-up until the others hold everything, then goes.
    Retired(Retired),
    /// Its group was merged into another here: serves catch-up up to the seal until everybody has assembled, then goes.
    Merged(Merger),
}

impl Role {
    /// The leader's part, if that is what the replica is.
    pub(crate) fn leader_mut(&mut self) -> Option<&mut Leader> {
        match self {
            Self::Leader(leader) => Some(leader),
            Self::Follower(_) | Self::Candidate(_) | Self::Retired(_) | Self::Merged(_) => None,
        }
    }
}

/// One replica.
#[derive(Debug)]
pub struct Replica {
    pub(crate) name: ReplicaName,
    pub(crate) log: Log,
    /// No lower ballot is accepted or promised.
    pub(crate) promised: Ballot,
    /// The highest round anybody was seen to have promised: the next ballot is above it.
    pub(crate) seen_round: u64,
    /// What the disk was last told of `promised` and `decided`.
    pub(crate) hard: HardState,
    /// What the disk holds as decided: known again after a restart.
    pub(crate) decided_on_disk: Slot,
    /// How far the log was known to be decided when the process started: what came of that before it does not show until
    /// the machine has it again.
    replays_through: Slot,
    /// Every slot up to here is decided and known.
    pub(crate) decided: Slot,
    /// What the machine was handed, applied, and holds durably.
    pub(crate) handed: Slot,
    pub(crate) applied: Slot,
    pub(crate) flushed: Slot,
    /// The newest decided configuration; `None` until a new replica has its first snapshot.
    pub(crate) configuration: Option<Configuration>,
    /// The slot that decided it, or a later one if it came with a snapshot.
    pub(crate) configuration_slot: Slot,
    /// The gapless stream accepted in the promised ballot.
    pub(crate) cursor: Cursor,
    /// What waits for the disk.
    pub(crate) unsynced: VecDeque<(WriteId, Unsynced)>,
    /// The lease granted to the leader of a ballot.
    pub(crate) grant: Grant,
    /// A restarted replica promises nothing before this: leases it granted and forgot.
    pub(crate) no_promise_before: Instant,
    /// An acknowledgement owed to the leader.
    pub(crate) owed: Option<Acknowledgement>,
    pub(crate) role: Role,
    pub(crate) fetch: Option<Fetch>,
    /// The group here that must have taken over something before this one can be given a snapshot.
    pub(crate) awaits: Option<GroupId>,
    /// Another member said that the group was merged away.
    pub(crate) told_merged: bool,
    /// Truncation waits for this: somebody pulls a snapshot taken at the slot.
    pub(crate) pin: Option<(Slot, Instant)>,
    pub(crate) report: Option<MachineReport>,
    pub(crate) word: Arc<ReadWord>,
    pub(crate) freshness: Freshness,
    /// The log on disk knows of this replica, and that an earlier one of its group here is gone.
    pub(crate) on_disk: bool,
    /// Who spoke to it first, if it came to be by that.
    pub(crate) inviter: Option<ReplicaName>,
    /// When a replica without a machine may ask for one again.
    pub(crate) state_asked_at: Instant,
    /// When it asks whether it is still a member, unless it hears a leader before.
    pub(crate) ask_at: Instant,
    /// Since when the machine stands still, and before which slot: what it takes over is not there.
    pub(crate) stalled: Option<(Slot, Instant)>,
    /// The group is to go on with the survivors alone.
    pub(crate) recovery: Option<Recovery>,
    /// Where the group went, once this replica is buried for that.
    pub(crate) merger: Option<Merger>,
    /// Set when the replica is tombstoned: the node drops it.
    pub(crate) gone: bool,
}

impl Replica {
    /// A replica with nothing but its name, waiting for its first snapshot or its machine.
    pub(crate) fn blank(name: ReplicaName, after: Slot, cx: &mut Context<'_>) -> Self {
        Self {
            name,
            log: Log::new(after),
            promised: Ballot::ZERO,
            // Ballot 1 belongs to the leader that a split names; elections begin behind it.
            seen_round: 1,
            hard: HardState::default(),
            decided_on_disk: Slot(0),
            replays_through: Slot(0),
            decided: Slot(0),
            handed: Slot(0),
            applied: Slot(0),
            flushed: Slot(0),
            configuration: None,
            configuration_slot: Slot(0),
            cursor: Cursor::default(),
            unsynced: VecDeque::new(),
            grant: Grant::default(),
            no_promise_before: Instant(0),
            owed: None,
            role: Role::Follower(Follower::waiting(cx)),
            fetch: None,
            awaits: None,
            told_merged: false,
            pin: None,
            report: None,
            word: Arc::new(ReadWord::default()),
            freshness: Freshness::default(),
            ask_at: cx.now.instant.after(cx.config.membership_patience),
            on_disk: false,
            inviter: None,
            state_asked_at: Instant(0),
            stalled: None,
            recovery: None,
            merger: None,
            gone: false,
        }
    }

    /// A replica as the disk remembers it. `report` is what its machine holds, if it has one.
    pub(crate) fn recover(recovered: RecoveredReplica, report: Option<MachineReport>, cx: &mut Context<'_>) -> Self {
        let mut replica = Self::blank(recovered.replica, recovered.truncated, cx);
        replica.inviter = recovered.inviter;
        replica.on_disk = true;
        replica.promised = recovered.hard.promised;
        replica.hard = recovered.hard;
        replica.decided_on_disk = recovered.hard.decided;
        for (slot, ballot, entry) in recovered.entries {
            replica.log.set(slot, ballot, entry);
        }
        let term = if planted::on(Bug::RestartWaitOfTodaysTerm) {
            cx.config.lease
        } else {
            std::time::Duration::from_nanos(cx.record.longest_lease_nanos)
        };
        if !planted::on(Bug::NoRestartWait) {
            replica.no_promise_before = cx.now.instant.after(term);
        }
        if let Some(report) = report {
            replica.word.set_applied(report.applied);
            replica.decided = report.applied;
            replica.handed = report.applied;
            replica.applied = report.applied;
            replica.flushed = report.applied;
            replica.configuration = Some(report.state.configuration.clone());
            replica.configuration_slot = report.applied;
            replica.report = Some(report);
            replica.close_gap(cx);
            replica.reset_cursor(cx);
            let decided = recovered.hard.decided;
            replica.advance_decided(decided, cx);
            replica.resume_stream(cx);
        } else {
            replica.reset_cursor(cx);
        }
        let mut held = replica.log.truncated().max(replica.applied);
        while held < recovered.hard.decided && replica.log.get(held.next()).is_some() {
            held = held.next();
        }
        replica.replays_through = recovered.hard.decided.min(held);
        replica
    }

    /// The store may hold more than the log: entries decided elsewhere were applied and flushed, then the log lost its unsynced
    /// end. What it lacks up to the applied slot is never written again, and what it has above its decided mark may be what
    /// was accepted there before; so the log begins after the applied slot.
    fn close_gap(&mut self, cx: &mut Context<'_>) {
        let held = (self.log.truncated().0 + 1..=self.applied.0).all(|slot| self.log.get(Slot(slot)).is_some());
        let unsure = self.decided_on_disk < self.applied && !planted::on(Bug::UnsureLogKept);
        if !held || unsure {
            let through = self.applied;
            self.log.truncate(through);
            cx.write(Write::Truncate { group: self.name.group, through });
        }
    }

    /// The name of another member of this group, if `node` is one in the newest known configuration.
    pub(crate) fn member_name(&self, node: NodeId) -> Option<ReplicaName> {
        let member = self.configuration.as_ref()?.member(node)?;
        Some(ReplicaName { group: self.name.group, node, incarnation: member.incarnation })
    }

    /// Whether this very replica votes in the newest known configuration.
    pub(crate) fn votes(&self) -> bool {
        self.configuration.as_ref().is_some_and(|configuration| configuration.is_voter(self.name))
    }

    /// Whether it knows of a set of members that it is not in.
    pub(crate) fn is_no_member(&self) -> bool {
        self.configuration.as_ref().is_some_and(|known| !known.has(self.name))
    }

    /// The other members of the newest known configuration.
    pub(crate) fn others(&self) -> Vec<ReplicaName> {
        let Some(configuration) = &self.configuration else { return Vec::new() };
        let name = self.name;
        configuration
            .members
            .iter()
            .filter(|member| member.node != name.node)
            .map(|member| ReplicaName { group: name.group, node: member.node, incarnation: member.incarnation })
            .collect()
    }

    /// Those of them that a leader leads: in a recovery, not those that are lost.
    pub(crate) fn followers(&self) -> Vec<ReplicaName> {
        let mut others = self.others();
        if let (Some(recovery), Some(configuration)) = (&self.recovery, &self.configuration) {
            others.retain(|other| configuration.member(other.node).is_some_and(|member| !recovery.has_lost(member)));
        }
        others
    }

    /// Says something to another replica.
    pub(crate) fn send(&self, to: ReplicaName, message: Message, cx: &mut Context<'_>) {
        let address = self
            .configuration
            .as_ref()
            .and_then(|configuration| configuration.member(to.node))
            .map(|m| m.address.clone());
        self.send_to((to, address), message, cx);
    }

    /// The same to one whose address is known otherwise.
    pub(crate) fn send_to(&self, (to, address): (ReplicaName, Option<String>), message: Message, cx: &mut Context<'_>) {
        let bulk = match &message {
            Message::SnapshotChunk { .. } | Message::Decided { .. } => true,
            Message::PreVote { .. }
            | Message::PreVoted { .. }
            | Message::Prepare { .. }
            | Message::Promise { .. }
            | Message::Refuse { .. }
            | Message::Accept { .. }
            | Message::Accepted { .. }
            | Message::CatchUp { .. }
            | Message::Truncated { .. }
            | Message::SnapshotPull { .. }
            | Message::HandOver { .. }
            | Message::AskMembership { .. }
            | Message::Membership { .. }
            | Message::Merged { .. } => false,
        };
        let envelope = Envelope { from: self.name, to, message };
        let message = PeerMessage::Replica { envelope };
        cx.effects.messages.push(Outgoing { to: to.node, address, bulk, message });
    }

    /// Takes a message to its handler. The names have been checked.
    pub(crate) fn on_message(&mut self, from: ReplicaName, message: Message, cx: &mut Context<'_>) {
        if let Role::Merged(_) = &self.role {
            return self.answer_merged(from, message, cx);
        }
        match message {
            Message::PreVote { ballot, configuration, decided, ticket } => {
                self.on_pre_vote(from, ballot, configuration, decided, ticket, cx);
            }
            Message::PreVoted { ballot, refusal, promised, decided } => {
                self.on_pre_voted(from, ballot, refusal, promised, decided, cx);
            }
            Message::Prepare { ballot, configuration, decided, ticket } => {
                self.on_prepare(from, ballot, configuration, decided, ticket, cx);
            }
            Message::Promise { ballot, decided, truncated, accepted } => {
                self.on_promise(from, ballot, decided, truncated, accepted, cx);
            }
            Message::Refuse { ballot, refusal, promised, decided } => {
                self.on_refuse(from, ballot, refusal, promised, decided, cx);
            }
            Message::Accept { ballot, stamp, lease_nanos, first, entries, decided, vouches, press } => {
                let accept = crate::paxos::acceptor::Accept {
                    ballot,
                    stamp,
                    lease_nanos,
                    first,
                    entries,
                    decided,
                    vouches,
                    press,
                };
                self.on_accept(from, accept, cx);
            }
            Message::Accepted { ballot, stamp, lease_nanos, through, want, applied, level, ask, room } => {
                use crate::paxos::leader::Accepted;
                let accepted = Accepted { ballot, stamp, lease_nanos, through, want, applied, level, ask, room };
                self.on_accepted(from, accepted, cx);
            }
            Message::CatchUp { first } => self.on_catch_up(from, first, cx),
            Message::Decided { first, entries, decided } => self.on_decided(from, first, entries, decided, cx),
            Message::Truncated { through } => self.on_truncated(from, through, cx),
            Message::SnapshotPull { snapshot, cursor } => self.on_snapshot_pull(from, snapshot, cursor, cx),
            Message::SnapshotChunk { piece, children } => {
                if !self.awaits_children(from, piece.slot, &children, cx) {
                    self.on_snapshot_chunk(from, piece, cx);
                }
            }
            Message::HandOver { ticket } => self.on_hand_over(from, ticket, cx),
            Message::AskMembership { configuration } => self.on_ask_membership(from, configuration, cx),
            Message::Membership { configuration } => self.on_membership(from, configuration, cx),
            Message::Merged { decided } => self.on_merged_away(from, decided, cx),
        }
    }

    /// Learns that everything up to `to` is decided. Each slot above the known mark must hold its decided entry.
    pub(crate) fn advance_decided(&mut self, to: Slot, cx: &mut Context<'_>) {
        while self.decided < to {
            let slot = self.decided.next();
            let Some((_, entry)) = self.log.get(slot) else { break };
            if entry.kind == EntryKind::Configuration
                && let Ok(configuration) = Configuration::from_all(entry.body.clone())
            {
                self.adopt_configuration(configuration, slot);
            }
            self.decided = slot;
        }
        self.cursor.through = self.cursor.through.max(self.decided);
        self.hand_to_machine(cx);
        let removed = self.configuration.as_ref().is_some_and(|configuration| self.is_removed_by(configuration));
        if removed && !matches!(self.role, Role::Retired(_) | Role::Leader(_) | Role::Merged(_)) {
            self.retire(cx);
        }
    }

    fn adopt_configuration(&mut self, configuration: Configuration, slot: Slot) {
        let newer = self.configuration.as_ref().is_none_or(|known| known.version < configuration.version);
        if newer {
            self.configuration = Some(configuration);
            self.configuration_slot = slot;
        }
    }

    /// Hands decided entries to the machine, with those who wait for them.
    pub(crate) fn hand_to_machine(&mut self, cx: &mut Context<'_>) {
        if self.report.is_none() || self.handed >= self.decided {
            return;
        }
        let entries: Vec<(Slot, Entry)> = self
            .log
            .above(self.handed)
            .take_while(|(slot, _, _)| *slot <= self.decided)
            .map(|(slot, _, entry)| (slot, entry.clone()))
            .collect();
        let Some((last, _)) = entries.last() else { return };
        assert_eq!(entries.len() as u64, last.0 - self.handed.0, "decided entries are handed out without a gap");
        self.handed = *last;
        let mut waiting = Vec::new();
        if let Role::Leader(leader) = &mut self.role {
            while let Some(first) = leader.waiting.first_entry() {
                if *first.key() > self.handed {
                    break;
                }
                waiting.push(first.remove_entry());
            }
        }
        cx.effects.applies.push(Apply { group: self.name.group, entries, waiting });
    }

    /// The machine applied what it was handed.
    pub(crate) fn on_applied(&mut self, report: MachineReport, cx: &mut Context<'_>) {
        if report.applied < self.applied {
            return;
        }
        self.applied = report.applied;
        self.report = Some(report);
        self.stalled = self.stalled.filter(|(slot, _)| *slot > self.applied);
        let marked = if planted::on(Bug::LogReadPastMark) { self.decided } else { self.decided_on_disk };
        self.log.trim(self.applied.min(marked), cx.log_memory());
        if planted::on(Bug::TruncatedTooFar) {
            self.flushed = self.applied;
        }
        self.leader_after_apply(cx);
        self.settle_freshness();
    }

    /// The machine is durable up to `slot`: the log below may go, but for a tail that helps others.
    pub(crate) fn on_flushed(&mut self, slot: Slot, cx: &mut Context<'_>) {
        self.flushed = self.flushed.max(slot.min(self.applied));
        self.truncate(cx);
    }

    pub(crate) fn truncate(&mut self, cx: &mut Context<'_>) {
        let mut through = self.flushed.min(Slot(self.decided.0.saturating_sub(cx.config.log_retain_slots)));
        if let Some((slot, until)) = self.pin {
            if cx.now.instant < until {
                through = through.min(slot);
            } else {
                self.pin = None;
            }
        }
        if through > self.log.truncated() {
            self.log.truncate(through);
            cx.write(Write::Truncate { group: self.name.group, through });
        }
    }

    /// Whether something waits for the machine, beside those who are answered by it.
    pub(crate) fn waits_for_machine(&self) -> bool {
        match &self.role {
            Role::Follower(_) => self.report.is_none() || self.fetch.is_some(),
            Role::Leader(leader) => leader.waits_for_machine(self.applied),
            Role::Candidate(_) | Role::Retired(_) | Role::Merged(_) => true,
        }
    }

    /// How far this replica has applied for good: what it took over from others, and its store does not hold durably, it could
    /// assemble again from the loser's replica beside it, whose disk knows that the seal is decided.
    pub(crate) fn assembled_through(&self, cx: &Context<'_>) -> Slot {
        let Some(report) = &self.report else { return Slot(0) };
        let gained = &report.state.gained;
        if planted::on(Bug::AssembledInMemory) {
            return self.applied;
        }
        let forgotten = gained.len() >= MAX_GAINED && gained[0].at > self.flushed;
        let safe = |gain: &Gain| {
            let marked = self.decided_on_disk >= gain.at;
            gain.at <= self.flushed
                || marked
                    && cx.beside.get(&gain.loser).is_some_and(|loser| !loser.gone && loser.decided_on_disk >= gain.seal)
        };
        match gained.iter().find(|gain| !safe(gain)) {
            _ if forgotten => self.applied.min(self.flushed),
            Some(gain) => self.applied.min(Slot(gain.at.0 - 1)),
            None => self.applied,
        }
    }

    /// Whether the machine is on its way to where it may have been before the process started. One that stands still is not: what it
    /// waits for was never here, unless somebody else is on the way there. Nor is one that is still to be born, of whoever is.
    fn is_unreplayed(&self) -> bool {
        let moves = self.report.is_some() && self.stalled.is_none();
        moves && self.applied < self.replays_through && !planted::on(Bug::ForgottenUnreplayed)
    }

    /// Whether something here could not be made again, should the process die, without this replica: groups that were born of
    /// it, and gainers beside it. Of what has yet to be replayed nobody can tell.
    pub(crate) fn is_needed_here(&self, cx: &Context<'_>) -> bool {
        let reshaped = self.report.as_ref().map(|report| report.state.reshaped).unwrap_or_default();
        let bore = self.flushed < reshaped && !planted::on(Bug::ParentForgottenUnflushed);
        let parted = |gainer: &Replica| {
            let Some(state) = gainer.report.as_ref().map(|report| &report.state) else { return false };
            let needs = |gain: &Gain| gain.loser == self.name.group && gain.at > gainer.flushed;
            let takes = matches!(&state.pending, Some(Pending::Gains { loser, .. }) if loser.group == self.name.group);
            (takes || state.gained.iter().any(needs)) && !planted::on(Bug::AssembledInMemory)
        };
        // What was handed to the machine may bear or part as well.
        let works = self.report.is_some() && self.stalled.is_none() && self.applied < self.handed;
        let works = works && !planted::on(Bug::ForgottenUnreplayed);
        bore || works || self.awaits_replay(cx) || cx.beside.values().any(|gainer| parted(gainer))
    }

    /// Whether some machine here is on its way to where it may have been before the process started.
    pub(crate) fn awaits_replay(&self, cx: &Context<'_>) -> bool {
        self.is_unreplayed() || cx.beside.values().any(|other| other.is_unreplayed())
    }

    /// When something must happen although nothing is heard.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let role = match &self.role {
            Role::Follower(follower) => {
                let stands = self.votes().then_some(follower.election_at);
                Some(stands.map_or(self.ask_at, |at| at.min(self.ask_at)))
            }
            Role::Candidate(candidate) => Some(candidate.deadline.min(self.ask_at)),
            Role::Leader(leader) => Some(leader.deadline(self.applied)),
            Role::Retired(retired) => Some(retired.ask_at),
            Role::Merged(_) => Some(self.ask_at),
        };
        let fetch = self.fetch.as_ref().map(|fetch| fetch.deadline);
        let stalled = self.stalled.filter(|_| self.fetch.is_none()).map(|(_, until)| until);
        let recovery = self.recovery.as_ref().map(Recovery::deadline);
        role.into_iter().chain(fetch).chain(stalled).chain(recovery).min()
    }

    /// Something that a deadline announced may be due.
    pub(crate) fn on_tick(&mut self, cx: &mut Context<'_>) {
        self.tick_fetch(cx);
        self.tick_stalled(cx);
        self.tick_membership(cx);
        self.tick_recovery(cx);
        match &self.role {
            Role::Follower(_) => self.tick_follower(cx),
            Role::Candidate(candidate) if cx.now.instant >= candidate.deadline => self.stand(cx),
            Role::Candidate(_) => {}
            Role::Leader(_) => self.tick_leader(cx),
            Role::Retired(_) => self.tick_retired(cx),
            Role::Merged(_) => {}
        }
    }

    /// Ends a burst of inputs: proposes what waits, sends what is due, tells the disk what changed.
    pub(crate) fn flush(&mut self, cx: &mut Context<'_>) {
        if self.gone {
            // Its tombstone is the last that the log takes of it.
            return;
        }
        if matches!(self.role, Role::Leader(_)) {
            self.flush_leader(cx);
        }
        self.flush_hard(cx);
        self.flush_owed(cx);
        // Before anything leaves that shows a slot as decided, readers beside the loop must wait for that slot.
        if !planted::on(Bug::FloorNotRaised) {
            self.word.raise_floor(self.decided);
        }
    }

    /// A changed promise goes to disk at once; a changed decided mark rides along.
    fn flush_hard(&mut self, cx: &mut Context<'_>) {
        // The mark never goes back: a replica that is still to be born again has its log, and knows how much of it is decided.
        let known = if planted::on(Bug::DecidedMarkFalls) { Slot(0) } else { self.hard.decided };
        let decided = self.decided.max(known);
        let state = HardState { promised: self.promised, decided, led_round: self.hard.led_round };
        let promised = state.promised != self.hard.promised;
        let rides = !cx.effects.writes.is_empty() && state.decided > self.hard.decided;
        let lags = state.decided.0 > self.hard.decided.0 + 64;
        let awaited = cx.effects.writes.is_empty() && self.waits_for(cx.write);
        // Others wait for news of a configuration that is decided here for good.
        let configured = self.hard.decided < self.configuration_slot && self.configuration_slot <= state.decided;
        // What was sealed, taken over or given to a child must be known to be, for this node to make it again after a crash:
        // others may not be able to help.
        let seal = self.report.as_ref().and_then(|report| report.state.pending.as_ref()).and_then(Pending::seal);
        let reshaped = self.report.as_ref().map(|report| report.state.reshaped);
        let moved =
            |slot: Slot| self.hard.decided < slot && slot <= state.decided && !planted::on(Bug::AssembledInMemory);
        let sealed = seal.into_iter().chain(reshaped).any(moved);
        // After a restart only what the mark covers is known to be the decided entries.
        let flushed = self.hard.decided < self.flushed;
        let needed = promised || awaited || configured || flushed || sealed;
        if needed || rides || lags {
            cx.effects.presses |= needed;
            if state.decided > self.hard.decided {
                self.unsynced.push_back((cx.write, Unsynced::Decided(state.decided)));
            }
            self.hard = state;
            cx.write(Write::Hard { group: self.name.group, state });
        }
    }

    /// Has old entries read back from the disk, for a member that lags. Only up to the decided mark on disk: above it the disk
    /// may still hold what was accepted before.
    pub(crate) fn read_log(&self, to: ReplicaName, first: Slot, cx: &mut Context<'_>) {
        let last =
            if planted::on(Bug::LogReadPastMark) { self.decided } else { self.decided.min(self.decided_on_disk) };
        let (group, bytes) = (self.name.group, cx.config.message_bytes);
        cx.effects.log_reads.push(LogRead { group, to, first, last, bytes });
    }

    /// Brings the decided mark on disk up to date, for a process about to end.
    pub(crate) fn settle(&mut self, cx: &mut Context<'_>) {
        if self.hard.decided < self.decided && !self.gone {
            self.hard = HardState { decided: self.decided, ..self.hard };
            self.unsynced.push_back((cx.write, Unsynced::Decided(self.decided)));
            cx.write(Write::Hard { group: self.name.group, state: self.hard });
        }
    }

    /// What keeps the group from anything new, if it is led here.
    pub(crate) fn busy(&self) -> Option<Busy> {
        let Role::Leader(leader) = &self.role else { return None };
        let locked = self.report.as_ref().is_none_or(|report| report.state.pending.is_some());
        let changing = leader.change.is_some() || leader.structural.is_some() || self.applied < leader.barrier;
        let changing = changing || self.recovery.is_some();
        if locked {
            Some(Busy::Locked)
        } else if leader.operations.order.is_some() {
            Some(Busy::Aligning)
        } else if changing {
            Some(Busy::ChangingMembers)
        } else {
            leader.hand_over.is_some().then_some(Busy::HandingOver)
        }
    }

    /// Where a client should ask instead.
    pub(crate) fn refused_not_leader(&self) -> Refused {
        let leader = match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) | Role::Leader(_) | Role::Retired(_) | Role::Merged(_) => None,
        };
        let named = leader.and_then(|name| {
            let member = self.configuration.as_ref()?.member(name.node)?;
            Some((name.node, member.address.clone()))
        });
        Refused::NotLeader { leader: named }
    }

    /// Remembers on disk that a lease of this length was granted. True if it must not be told yet: another replica here may have
    /// had it written a moment ago.
    pub(crate) fn remember_lease(nanos: u64, cx: &mut Context<'_>) -> bool {
        let longer = nanos > cx.record.longest_lease_nanos;
        if longer {
            cx.record.longest_lease_nanos = nanos;
            let record = cx.record.clone();
            cx.write(Write::Node { record });
        }
        if planted::on(Bug::LeaseToldUnsynced) { longer } else { nanos > cx.lease_on_disk }
    }

    /// Some promises wait for the disk; it has everything up to `write`.
    pub(crate) fn on_synced(&mut self, write: WriteId, cx: &mut Context<'_>) {
        while let Some((first, _)) = self.unsynced.front() {
            if *first > write {
                break;
            }
            if let Some((_, unsynced)) = self.unsynced.pop_front() {
                self.on_durable(unsynced, cx);
            }
        }
    }
}
