//! Catching up: decided entries from any member, else a snapshot.
//!
//! ```text
//! behind                      ahead
//!   | CatchUp(from 12) -------> |
//!   | <------ Decided(12..40) - |          or, if 12 is forgotten:
//!   | <------- Truncated(30) -- |
//!   | SnapshotPull(new) ------> |  [pins a view of its store, keeps its log from there for a while]
//!   | <-- SnapshotChunk(s, 1) - |
//!   | [stored in a fresh tablet]|
//!   | SnapshotPull(s, after 1)->|  and so on, each piece pulled while the one before it is being stored; the last switches
//!   | <-- SnapshotChunk(s, 2) - |  the tablet in by one batch
//! ```
//!
//! The one behind pulls, piece by piece: it sets the pace, resumes where it stopped, and asks another member when one
//! falls silent. No more than two pieces are in its memory. A leader's stream ([`crate::paxos::leader`]) serves most laggards without any of this.

use crate::durable::Write;
use crate::effects::MachineOrder;
use crate::entry::Entry;
use crate::group::GroupState;
use crate::input::MachineReport;
use crate::message::{Message, Piece};
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::{GroupId, Incarnation, NodeId, ReplicaName, Slot};
use bytes::Bytes;

/// A snapshot being fetched.
#[derive(Clone, Debug)]
pub(crate) struct Fetch {
    from: ReplicaName,
    /// The sender's number for it; zero until the first piece came.
    snapshot: u64,
    /// Where the piece asked for begins; `None` for the first.
    cursor: Option<Bytes>,
    /// The last piece has come.
    whole: bool,
    /// A piece is being stored.
    storing: bool,
    /// The piece after it has come as well.
    ready: Option<Bytes>,
    /// When to ask again, and how often that was in vain.
    pub(crate) deadline: Instant,
    attempts: u32,
}

impl Replica {
    pub(crate) fn on_catch_up(&mut self, from: ReplicaName, first: Slot, cx: &mut Context<'_>) {
        let serves = self.report.is_some() || matches!(self.role, Role::Merged(_));
        if !serves || first > self.decided {
            return;
        }
        if first <= self.log.truncated() {
            self.send(from, Message::Truncated { through: self.log.truncated() }, cx);
            return;
        }
        let entries = self.log.run(first, self.decided, cx.config.message_bytes);
        let decided = self.decided;
        if entries.is_empty() {
            self.read_log(from, first, cx);
            return;
        }
        self.send(from, Message::Decided { first, entries, decided }, cx);
    }

    /// Decided entries from another member.
    pub(crate) fn on_decided(
        &mut self,
        from: ReplicaName,
        first: Slot,
        entries: Vec<Entry>,
        decided: Slot,
        cx: &mut Context<'_>,
    ) {
        let leads = matches!(self.role, Role::Leader(_) | Role::Retired(_) | Role::Merged(_));
        let next = self.decided.next();
        if leads || first > next || self.report.is_none() {
            return;
        }
        let skip = usize::try_from(next.0 - first.0).unwrap_or(usize::MAX);
        let told = Slot((first.0 + entries.len() as u64).saturating_sub(1));
        // Whoever stands cannot lead without them, and the others wait for it.
        let stands = matches!(self.role, Role::Candidate(_));
        let fresh = entries.into_iter().skip(skip).take_while(|entry| stands || cx.room.admits(entry));
        let fresh: Vec<Entry> = fresh.collect();
        if fresh.is_empty() {
            return;
        }
        cx.effects.presses |= stands;
        let version = self.configuration.as_ref().map(|known| known.version).unwrap_or_default();
        let last = Slot(next.0 + fresh.len() as u64 - 1);
        let mut slot = next;
        for entry in &fresh {
            // Decided in some ballot; every higher one has the same value, so the promised ballot tells no lie.
            self.log.set(slot, self.promised, entry.clone());
            slot = slot.next();
        }
        cx.write(Write::Accept { group: self.name.group, ballot: self.promised, first: next, entries: fresh });
        self.advance_decided(last, cx);
        if self.cursor.ballot == self.promised {
            self.unsynced.push_back((cx.write, crate::paxos::acceptor::Unsynced::Stream(self.promised, self.decided)));
        }
        // A full disk takes no more for the moment.
        if last == told && last < decided {
            self.send(from, Message::CatchUp { first: last.next() }, cx);
        }
        // A leader may hear from a former one that what it adopted is decided.
        self.after_structural(cx);
        self.restart_candidacy(version, cx);
        self.consider_promises(cx);
    }

    /// Somebody we asked, or the leader that streams to us, has forgotten what we lack.
    pub(crate) fn on_truncated(&mut self, from: ReplicaName, through: Slot, cx: &mut Context<'_>) {
        let barred = matches!(self.role, Role::Leader(_) | Role::Retired(_) | Role::Merged(_));
        if through <= self.decided || self.fetch.is_some() || barred {
            return;
        }
        self.begin_fetch(from, cx);
    }

    /// A replica that has no machine asks whoever has one for it. Its leader may not know: what it holds of the log it has
    /// acknowledged, before its machine was lost with a store that a split had just filled.
    pub(crate) fn ask_for_state(&mut self, from: ReplicaName, cx: &mut Context<'_>) {
        if self.report.is_none() && self.fetch.is_none() && cx.now.instant >= self.state_asked_at {
            self.state_asked_at = cx.now.instant.after(cx.config.group_resend);
            self.send(from, Message::CatchUp { first: Slot(1) }, cx);
        }
    }

    fn begin_fetch(&mut self, from: ReplicaName, cx: &mut Context<'_>) {
        // A snapshot says that others have what was moved or born on its way. Those beside may yet need this replica for it.
        if self.awaits_replay(cx) && !planted::on(Bug::FetchesBeforeReplay) {
            return;
        }
        self.fetch = Some(Fetch {
            from,
            snapshot: 0,
            cursor: None,
            whole: false,
            storing: false,
            ready: None,
            deadline: cx.now.instant,
            attempts: 0,
        });
        self.pull(cx);
    }

    /// The machine stands still before `slot`.
    pub(crate) fn on_stalled(&mut self, slot: Slot, cx: &mut Context<'_>) {
        if self.stalled.is_none() && slot > self.applied {
            self.stalled = Some((slot, cx.now.instant.after(cx.config.snapshot_patience / 2)));
        }
    }

    /// A machine that stands still for long takes a snapshot of somebody who has assembled, one member after the other.
    pub(crate) fn tick_stalled(&mut self, cx: &mut Context<'_>) {
        let Some((slot, until)) = self.stalled else { return };
        if cx.now.instant < until || self.fetch.is_some() {
            return;
        }
        self.stalled = Some((slot, cx.now.instant.after(cx.config.snapshot_patience / 4)));
        let leader = match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::Candidate(_) | Role::Leader(_) | Role::Retired(_) | Role::Merged(_) => None,
        };
        let others = self.others();
        let any = others.len().checked_sub(1).map(|most| others[(cx.rng.next() % (most as u64 + 1)) as usize]);
        if let Some(from) = leader.filter(|_| cx.rng.next().is_multiple_of(2)).or(any) {
            self.begin_fetch(from, cx);
        }
    }

    fn pull(&mut self, cx: &mut Context<'_>) {
        let patience = cx.config.snapshot_patience / 4;
        let Some(fetch) = &mut self.fetch else { return };
        fetch.deadline = cx.now.instant.after(patience);
        let (from, snapshot, cursor) = (fetch.from, fetch.snapshot, fetch.cursor.clone());
        self.send(from, Message::SnapshotPull { snapshot, cursor }, cx);
    }

    /// A fetch that makes no progress asks again, and after some attempts gives up; the next sign of lagging starts anew,
    /// perhaps elsewhere.
    pub(crate) fn tick_fetch(&mut self, cx: &mut Context<'_>) {
        let Some(fetch) = &mut self.fetch else { return };
        if cx.now.instant < fetch.deadline {
            return;
        }
        if fetch.storing {
            fetch.deadline = cx.now.instant.after(cx.config.snapshot_patience);
            return;
        }
        fetch.attempts += 1;
        if fetch.attempts > 4 {
            self.fetch = None;
        } else {
            self.pull(cx);
        }
    }

    pub(crate) fn on_snapshot_pull(
        &mut self,
        from: ReplicaName,
        snapshot: u64,
        cursor: Option<Bytes>,
        cx: &mut Context<'_>,
    ) {
        if self.report.is_none() {
            return;
        }
        if let Role::Leader(leader) = &mut self.role
            && let Some(peer) = leader.peers.get_mut(&from.node).filter(|peer| peer.name == from)
        {
            peer.progress.on_pull(snapshot, cursor.as_ref(), cx.now.instant);
        }
        if snapshot == 0 {
            // The log from the snapshot's slot on is kept for a while, so that the fetcher can go on from there.
            let until = cx.now.instant.after(cx.config.snapshot_patience);
            let slot = self.pin.map_or(self.applied, |(slot, _)| slot.min(self.applied));
            self.pin = Some((slot, until));
        } else if let Some((_, until)) = &mut self.pin {
            *until = cx.now.instant.after(cx.config.snapshot_patience);
        }
        cx.effects.orders.push(MachineOrder::ReadSnapshot {
            group: self.name.group,
            to: from,
            snapshot,
            cursor,
            bytes: cx.config.snapshot_chunk_bytes,
        });
    }

    /// The machine read a piece for somebody.
    pub(crate) fn on_snapshot_read(&mut self, to: ReplicaName, piece: Piece, cx: &mut Context<'_>) {
        let state = self.report.as_ref().map(|report| report.state.clone());
        // What came back is part of the snapshot.
        let away = |state: &GroupState, child: GroupId| state.absorbed.iter().all(|(group, _)| *group != child);
        let children =
            state.map(|state| state.children.iter().filter(|(child, _)| away(&state, *child)).copied().collect());
        let children = children.unwrap_or_default();
        self.send(to, Message::SnapshotChunk { piece, children }, cx);
    }

    /// A snapshot would take the place of data that belongs to a child now, and that this node may be one of few to hold: it has
    /// not applied the split. It waits until the child's replica here has its state, or is gone.
    pub(crate) fn awaits_children(
        &mut self,
        from: ReplicaName,
        slot: Slot,
        children: &[(GroupId, Slot)],
        cx: &mut Context<'_>,
    ) -> bool {
        // One that came to be here without anything has none of a child. One that waits to be given its machine again had all that
        // its log holds as decided.
        let had = |at: Slot| self.report.is_some() || self.log.truncated() < at && at <= self.hard.decided;
        let ahead = |at: Slot| self.applied < at && at <= slot && had(at);
        let missing = |child: GroupId| {
            // A child that can have its state only after this group has taken back a part of it would wait for ever.
            let has = cx.beside.get(&child).is_some_and(|beside| {
                let waits_for_us = beside.awaits == Some(self.name.group);
                beside.report.is_some() || beside.merges_or_retires() || waits_for_us || beside.was_never_counted_on()
            });
            // Or another group here has taken over all of it, however it came by that.
            let absorbed = cx
                .beside
                .values()
                .filter_map(|beside| beside.report.as_ref())
                .any(|report| report.state.absorbed.iter().any(|(absorbed, _)| *absorbed == child));
            !has && !absorbed && !cx.tombstones.contains_key(&child)
        };
        let awaited: Vec<GroupId> =
            children.iter().filter(|(child, at)| ahead(*at) && missing(*child)).map(|(child, _)| *child).collect();
        // Whoever sends the snapshot may have come after the split. Those who were members before it know of the child.
        let configuration = self.configuration.as_ref();
        let members = configuration.into_iter().flat_map(|known| &known.members).map(|member| member.node);
        let known: Vec<NodeId> = members.filter(|node| *node != self.name.node).chain([from.node]).collect();
        for group in &awaited {
            let named = |node| ReplicaName { group: *group, node, incarnation: Incarnation(1) };
            let asked = known[(cx.rng.next() % known.len() as u64) as usize];
            cx.wanted.push((named(self.name.node), named(asked)));
        }
        if !awaited.is_empty() {
            self.fetch = None;
        }
        !awaited.is_empty()
    }

    /// Whether the group was merged away by others. A majority decided the seal and has all of the group in its logs; who never
    /// held any of its log was not part of one.
    fn was_never_counted_on(&self) -> bool {
        let never_held = self.log.last().is_none() && self.log.truncated().max(self.hard.decided) <= Slot(1);
        self.told_merged && self.report.is_none() && never_held
    }

    fn merges_or_retires(&self) -> bool {
        matches!(self.role, Role::Merged(_) | Role::Retired(_))
    }

    pub(crate) fn on_snapshot_chunk(&mut self, from: ReplicaName, piece: Piece, cx: &mut Context<'_>) {
        // A machine that stands still needs a snapshot although the log is here.
        let held = self.stalled.map_or(self.decided, |(slot, _)| Slot(slot.0.saturating_sub(1)));
        if !self.on_disk && !planted::on(Bug::SnapshotBeforeCreated) {
            // In the store the snapshot takes the place of whatever an earlier replica here had; a log that brought that one
            // back would not fit. It is asked for again.
            return;
        }
        let Some(fetch) = &mut self.fetch else { return };
        let another = fetch.snapshot != 0 && piece.snapshot != 0 && piece.snapshot != fetch.snapshot;
        if fetch.from != from || another || fetch.whole || piece.cursor != fetch.cursor {
            return;
        }
        if piece.snapshot == 0 || piece.slot <= held {
            // It is no more, or was overtaken by the log.
            self.fetch = None;
            return;
        }
        fetch.snapshot = piece.snapshot;
        fetch.whole = piece.after.is_none();
        fetch.cursor = piece.after;
        fetch.ready = Some(piece.chunk);
        fetch.attempts = 0;
        self.store_ready(cx);
    }

    /// Hands the piece that has come to the machine, unless that still stores the one before it, and asks for the next one.
    fn store_ready(&mut self, cx: &mut Context<'_>) {
        let replica = self.name;
        let Some(fetch) = self.fetch.as_mut().filter(|fetch| !fetch.storing) else { return };
        let Some(chunk) = fetch.ready.take() else { return };
        let (snapshot, from) = (fetch.snapshot, fetch.from);
        fetch.storing = true;
        cx.effects.orders.push(MachineOrder::StoreSnapshot { replica, snapshot, from, chunk });
        if fetch.whole {
            fetch.deadline = cx.now.instant.after(cx.config.snapshot_patience);
        } else {
            self.pull(cx);
        }
    }

    /// The machine stored a piece.
    pub(crate) fn on_snapshot_stored(
        &mut self,
        snapshot: u64,
        cursor: Option<Bytes>,
        awaits: Option<GroupId>,
        cx: &mut Context<'_>,
    ) {
        self.awaits = awaits;
        let Some(fetch) = &mut self.fetch else { return };
        if fetch.snapshot != snapshot {
            return;
        }
        if cursor.is_none() {
            self.fetch = None;
            return;
        }
        fetch.storing = false;
        self.store_ready(cx);
    }

    /// A split gave this replica its machine. The store does not hold it durably yet; the parent's log does.
    pub(crate) fn on_born(&mut self, report: MachineReport, cx: &mut Context<'_>) {
        self.install(report, false, cx);
    }

    /// The machine came to be, or a snapshot was switched in. It is durable.
    pub(crate) fn on_installed(&mut self, report: MachineReport, cx: &mut Context<'_>) {
        self.install(report, true, cx);
    }

    fn install(&mut self, report: MachineReport, durable: bool, cx: &mut Context<'_>) {
        self.fetch = None;
        self.awaits = None;
        // What is decided may have come as far meanwhile; the machine has not, but by this.
        if self.report.is_some() && report.applied <= self.applied {
            return;
        }
        self.stalled = None;
        let waited = self.report.is_none();
        // Readers on their way must not mix the old data with the new.
        self.word.withdraw();
        self.word.set_applied(report.applied);
        let through = report.applied;
        self.decided = self.decided.max(through);
        self.handed = self.handed.max(through);
        self.applied = through;
        if durable {
            self.flushed = through;
        }
        let newer = self.configuration.as_ref().is_none_or(|known| known.version <= report.state.configuration.version);
        if newer {
            self.configuration = Some(report.state.configuration.clone());
            self.configuration_slot = through;
        }
        self.report = Some(report);
        self.log.truncate(through);
        if durable {
            cx.write(Write::Truncate { group: self.name.group, through });
        }
        self.cursor.through = self.cursor.through.max(through);
        let stream = crate::paxos::acceptor::Unsynced::Stream(self.cursor.ballot, self.cursor.through.min(through));
        self.unsynced.push_back((cx.write, stream));
        if waited {
            // A replica that a split is to give its machine again after a restart: its log holds more.
            let decided = self.hard.decided;
            self.advance_decided(decided, cx);
            self.resume_stream(cx);
        }
        // What a leader adopted may have been decided by a former one, and be part of the snapshot.
        self.after_structural(cx);
        let removed = self.configuration.as_ref().is_some_and(|configuration| self.is_removed_by(configuration));
        if removed && !matches!(self.role, Role::Retired(_) | Role::Merged(_)) {
            self.retire(cx);
        }
    }
}
