//! The acceptor: promises, accepts and grants leases; tells of each only once the disk holds it.
//!
//! ```text
//! leader                    follower                      its disk
//!   | Accept(b, 5..7) ------> | -- Accept(b, 5..7) ------> |
//!   |                         | <------------------ Synced |
//!   | <---- Accepted(b, 7) -- |
//! ```
//!
//! The answer is cumulative: *everything* up to `through` is on this disk, accepted in ballot `b` or decided. That is what
//! makes one number enough, and what lets a structural entry count acknowledgements of "the entry and all before".

use crate::durable::Write;
use crate::entry::Entry;
use crate::message::{AcceptedEntry, Message, Refusal, Ticket};
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::{Ballot, ConfigurationVersion, ReplicaName, Slot, WriteId};
use std::time::Duration;

/// The gapless stream accepted in one ballot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    /// The ballot.
    pub(crate) ballot: Ballot,
    /// The last slot of it in memory.
    pub(crate) through: Slot,
    /// The last slot of it on disk; everything before it is on disk too.
    pub(crate) durable: Option<Slot>,
}

/// What waits for the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unsynced {
    /// The stream of a ballot up to a slot.
    Stream(Ballot, Slot),
    /// A promise to a candidate that knows everything up to the slot.
    Promise(ReplicaName, Ballot),
    /// This replica's own candidacy.
    Candidacy(Ballot),
    /// A longer lease than ever before.
    Lease,
    /// The decided mark.
    Decided(Slot),
    /// That the replica exists.
    Created,
}

/// The lease this replica granted last: it promises no other ballot before `until`, on its own clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grant {
    pub(crate) ballot: Ballot,
    pub(crate) stamp: Instant,
    pub(crate) until: Instant,
}

/// An answer owed to a leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) to: ReplicaName,
    pub(crate) stamp: Instant,
    pub(crate) lease_nanos: u64,
    pub(crate) want: Option<Slot>,
    /// To be sent now; else it waits for the disk.
    pub(crate) due: bool,
    /// The lease is longer than the disk knows yet.
    pub(crate) lease_unsynced: bool,
}

/// Phase 2a, unpacked.
pub(crate) struct Accept {
    pub(crate) ballot: Ballot,
    pub(crate) stamp: Instant,
    pub(crate) lease_nanos: u64,
    pub(crate) first: Slot,
    pub(crate) entries: Vec<Entry>,
    pub(crate) decided: Slot,
    pub(crate) vouches: u64,
    pub(crate) press: Slot,
}

impl Replica {
    /// Begins the stream of the promised ballot anew at what is decided.
    pub(crate) fn reset_cursor(&mut self, cx: &mut Context<'_>) {
        self.cursor = Cursor { ballot: self.promised, through: self.decided, durable: None };
        self.unsynced.push_back((cx.write, Unsynced::Stream(self.promised, self.decided)));
    }

    /// After a restart: what the log holds of the promised ballot right above what is decided belongs to the stream still,
    /// and its leader may know that it does.
    pub(crate) fn resume_stream(&mut self, cx: &mut Context<'_>) {
        while self.log.get(self.cursor.through.next()).is_some_and(|(ballot, _)| *ballot == self.promised) {
            self.cursor.through = self.cursor.through.next();
        }
        self.unsynced.push_back((cx.write, Unsynced::Stream(self.promised, self.cursor.through)));
    }

    /// Takes `ballot` as the lowest that still counts.
    pub(crate) fn promise(&mut self, ballot: Ballot, cx: &mut Context<'_>) {
        assert!(ballot > self.promised, "a promise never falls (invariant I3)");
        self.promised = ballot;
        self.reset_cursor(cx);
    }

    /// Why `ballot` may not be promised, if so.
    pub(crate) fn promise_refusal(&self, ballot: Ballot, ticket: Option<Ticket>, cx: &Context<'_>) -> Option<Refusal> {
        if ballot <= self.promised {
            return Some(Refusal::Promised);
        }
        let now = cx.now.instant;
        if now < self.no_promise_before {
            return Some(Refusal::Lease);
        }
        let released = ticket.is_some_and(|ticket| {
            ticket.ballot == self.grant.ballot
                && (self.grant.stamp <= ticket.stamp || planted::on(Bug::HandOverRenewed))
        });
        let granted = now < self.grant.until && !planted::on(Bug::GrantIgnored);
        (granted && !released).then_some(Refusal::Lease)
    }

    pub(crate) fn on_prepare(
        &mut self,
        from: ReplicaName,
        ballot: Ballot,
        configuration: ConfigurationVersion,
        decided: Slot,
        ticket: Option<Ticket>,
        cx: &mut Context<'_>,
    ) {
        if !self.may_elect(from, configuration, cx) {
            return;
        }
        if ballot == self.promised && self.cursor.ballot == ballot && ballot.node == from.node {
            // A repeated prepare of the promised ballot: the promise may have been lost.
            self.unsynced.push_back((cx.write, Unsynced::Promise(from, ballot)));
            return;
        }
        if let Some(refusal) = self.promise_refusal(ballot, ticket, cx) {
            let refuse = Message::Refuse { ballot, refusal, promised: self.promised, decided: self.decided };
            self.send(from, refuse, cx);
            return;
        }
        self.step_down(None, cx);
        self.promise(ballot, cx);
        self.postpone_election(cx);
        self.unsynced.push_back((cx.write, Unsynced::Promise(from, ballot)));
        if planted::on(Bug::PromiseBeforeSync) {
            self.send_promise(from, ballot, cx);
        }
        let _ = decided;
    }

    /// Whether `from` may stand for election here; answers for itself if not.
    pub(crate) fn may_elect(
        &mut self,
        from: ReplicaName,
        configuration: ConfigurationVersion,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(known) = &self.configuration else { return false };
        if planted::on(Bug::StaleConfigurationPromised) {
            return true;
        }
        if configuration < known.version {
            // It lags: what it does not know is that somebody else decides now (hazard 1).
            let decided = self.decided;
            let refuse = Message::Refuse {
                ballot: Ballot::ZERO,
                refusal: Refusal::Configuration,
                promised: self.promised,
                decided,
            };
            self.send(from, refuse, cx);
            self.tell_membership_if_removed(from, cx);
            return false;
        }
        if matches!(self.role, Role::Retired(_) | Role::Merged(_)) {
            return false;
        }
        configuration > known.version || known.is_voter(from)
    }

    fn send_promise(&mut self, to: ReplicaName, ballot: Ballot, cx: &mut Context<'_>) {
        if self.promised != ballot {
            return;
        }
        let accepted = self.accepted_above(self.decided);
        let promise = Message::Promise { ballot, decided: self.decided, truncated: self.log.truncated(), accepted };
        self.send(to, promise, cx);
    }

    /// Every accepted entry above `slot`, as a promise reports it.
    pub(crate) fn accepted_above(&self, slot: Slot) -> Vec<AcceptedEntry> {
        self.log.above(slot).map(|(slot, ballot, entry)| AcceptedEntry { slot, ballot, entry: entry.clone() }).collect()
    }

    pub(crate) fn on_accept(&mut self, from: ReplicaName, accept: Accept, cx: &mut Context<'_>) {
        if self.tell_membership_if_removed(from, cx) {
            return;
        }
        if accept.ballot < self.promised {
            let refusal = Refusal::Promised;
            let refuse =
                Message::Refuse { ballot: accept.ballot, refusal, promised: self.promised, decided: self.decided };
            self.send(from, refuse, cx);
            return;
        }
        if accept.ballot.node != from.node || accept.ballot.incarnation != from.incarnation || from == self.name {
            return;
        }
        if accept.ballot > self.promised {
            // Whoever leads this ballot was elected by a majority that no running lease stands against.
            self.step_down(Some(from), cx);
            self.promise(accept.ballot, cx);
        }
        self.follow(from, cx);
        self.ask_for_state(from, cx);
        let lease_unsynced = self.grant_lease(accept.ballot, accept.stamp, accept.lease_nanos, cx);
        let wrote = self.accept_entries(&accept, cx);
        let gap = accept.first > self.cursor.through.next();
        let want = gap.then(|| self.cursor.through.next());
        self.owed = Some(Acknowledgement {
            to: from,
            stamp: accept.stamp,
            lease_nanos: if cx.config.read_mode == crate::config::ReadMode::Lease { accept.lease_nanos } else { 0 },
            want,
            due: !wrote,
            lease_unsynced,
        });
        let decided = if planted::on(Bug::DecidedFromAnotherBallot) {
            accept.decided
        } else {
            accept.decided.min(self.cursor.through)
        };
        self.advance_decided(decided, cx);
        if accept.vouches != 0 {
            self.freshness.vouched(accept.vouches, accept.decided, cx.now.instant);
            self.settle_freshness();
        }
    }

    /// Grants the lease asked for, from this moment on this replica's clock. True if the disk must learn of its length
    /// before it is told.
    pub(crate) fn grant_lease(
        &mut self,
        ballot: Ballot,
        stamp: Instant,
        lease_nanos: u64,
        cx: &mut Context<'_>,
    ) -> bool {
        let term = lease_nanos.min(crate::time::nanos(cx.config.lease_limit));
        if lease_nanos == 0 || term < lease_nanos {
            return false;
        }
        let until = cx.now.instant.after(Duration::from_nanos(term));
        self.grant = Grant {
            ballot,
            stamp: stamp.max(if self.grant.ballot == ballot { self.grant.stamp } else { Instant(0) }),
            until: until.max(self.grant.until),
        };
        let unsynced = Self::remember_lease(term, cx);
        if unsynced {
            self.unsynced.push_back((cx.write, Unsynced::Lease));
        }
        unsynced || self.owed.is_some_and(|owed| owed.lease_unsynced)
    }

    /// Takes what continues the stream. True if anything went to the disk.
    fn accept_entries(&mut self, accept: &Accept, cx: &mut Context<'_>) -> bool {
        let next = self.cursor.through.next();
        if accept.entries.is_empty() || accept.first > next || self.configuration.is_none() {
            return false;
        }
        let skip = usize::try_from(next.0 - accept.first.0).unwrap_or(usize::MAX);
        let slots = (next.0..).map(Slot);
        let has_room = |(slot, entry): &(Slot, &Entry)| *slot <= accept.press || cx.room.admits(entry);
        let fresh = slots.zip(accept.entries.iter().skip(skip)).take_while(has_room);
        let fresh: Vec<Entry> = fresh.map(|(_, entry)| entry.clone()).collect();
        if fresh.is_empty() {
            return false;
        }
        self.append(accept.ballot, next, fresh, cx);
        true
    }

    /// Appends entries to the stream of the promised ballot, in memory and towards the disk.
    pub(crate) fn append(&mut self, ballot: Ballot, first: Slot, entries: Vec<Entry>, cx: &mut Context<'_>) {
        assert_eq!(first, self.cursor.through.next(), "the stream has no gap (invariant I5)");
        assert_eq!(ballot, self.promised, "entries are accepted in the promised ballot (invariant I3)");
        let mut slot = first;
        for entry in &entries {
            self.log.set(slot, ballot, entry.clone());
            self.cursor.through = slot;
            slot = slot.next();
        }
        // What is written although it has no room is pressed for, or was adopted: others wait for it.
        let has_room = entries.iter().all(|entry| cx.room.admits(entry)) || planted::on(Bug::FullDiskUnpressed);
        cx.effects.presses |= !has_room;
        cx.write(Write::Accept { group: self.name.group, ballot, first, entries });
        self.unsynced.push_back((cx.write, Unsynced::Stream(ballot, self.cursor.through)));
        if planted::on(Bug::AcceptBeforeSync) {
            self.on_durable(Unsynced::Stream(ballot, self.cursor.through), cx);
        }
    }

    /// The disk holds it: it may be told.
    pub(crate) fn on_durable(&mut self, unsynced: Unsynced, cx: &mut Context<'_>) {
        match unsynced {
            Unsynced::Stream(ballot, through) => {
                if ballot != self.cursor.ballot {
                    return;
                }
                self.cursor.durable = self.cursor.durable.max(Some(through));
                if let Some(owed) = &mut self.owed {
                    owed.due = true;
                }
                self.leader_after_sync(cx);
            }
            Unsynced::Promise(_, _) if matches!(self.role, Role::Merged(_)) => {}
            Unsynced::Promise(to, ballot) => self.send_promise(to, ballot, cx),
            Unsynced::Candidacy(ballot) => self.on_candidacy_durable(ballot, cx),
            Unsynced::Created => self.on_disk = true,
            Unsynced::Decided(slot) => self.decided_on_disk = self.decided_on_disk.max(slot),
            Unsynced::Lease => {
                if let Some(owed) = &mut self.owed {
                    owed.lease_unsynced = false;
                }
            }
        }
    }

    /// Sends the acknowledgement that is owed, if it is due. Called once per burst, so one answer covers many messages.
    pub(crate) fn flush_owed(&mut self, cx: &mut Context<'_>) {
        let Some(owed) = self.owed else { return };
        let Some(through) = self.cursor.durable else { return };
        if !owed.due || owed.to.node != self.cursor.ballot.node {
            return;
        }
        self.owed = Some(Acknowledgement { due: false, want: None, ..owed });
        let ask = self.freshness.ask(cx);
        let applied = self.assembled_through(cx);
        let accepted = Message::Accepted {
            ballot: self.cursor.ballot,
            stamp: if owed.lease_unsynced { Instant(0) } else { owed.stamp },
            lease_nanos: if owed.lease_unsynced { 0 } else { owed.lease_nanos },
            through,
            want: owed.want,
            applied,
            level: cx.config.feature_level,
            ask,
            room: cx.room,
        };
        self.send(owed.to, accepted, cx);
    }

    /// Whether something waits for this batch of writes, which therefore must not be empty.
    pub(crate) fn waits_for(&self, write: WriteId) -> bool {
        self.unsynced.back().is_some_and(|(last, _)| *last == write)
    }
}
