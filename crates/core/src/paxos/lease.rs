//! The leader's lease: until when no other leader can have decided anything.
//!
//! A follower that answers a message promises no other ballot for the lease's length, counted on *its* clock from when it
//! took the message. The leader counts from when it *sent* the message, on its own clock, cut by twice the bound on clock
//! rate drift. So its view ends first. A majority of voters must grant (learners do not count); any new leader needs a
//! promise of one of them. The leader grants to itself like everybody else.
//!
//! A reconfiguration zeroes the lease *before* it is proposed; grants count again only from stamps sent after it was
//! decided, for the majority may be another.

use crate::config::ReadMode;
use crate::paxos::acceptor::Grant;
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;

impl Replica {
    /// Until when, by this clock, this leader alone may decide. Zero if it holds no lease.
    pub(crate) fn lease_deadline(&self, cx: &Context<'_>) -> Instant {
        let Some(configuration) = &self.configuration else { return Instant(0) };
        let Role::Leader(leader) = &self.role else { return Instant(0) };
        if self.recovery.is_some() {
            // Nobody reads by the leave of too few.
            return Instant(0);
        }
        let structural = leader.structural.is_some() && !planted::on(Bug::WordNotWithdrawn);
        if cx.config.read_mode == ReadMode::Quorum || structural {
            return Instant(0);
        }
        let term = if planted::on(Bug::LeaseNotCut) { cx.config.lease } else { cx.config.cut(cx.config.lease) };
        let mut until: Vec<Instant> = configuration
            .members
            .iter()
            .filter(|member| member.role == crate::group::Role::Voter || planted::on(Bug::LearnerGrantCounts))
            .map(|member| {
                if member.node == self.name.node {
                    let own = self.grant.ballot == leader.ballot && self.grant.stamp > leader.lease_after;
                    return if own { self.grant.stamp.after(term) } else { Instant(0) };
                }
                leader.peers.get(&member.node).map_or(Instant(0), |peer| peer.granted_until)
            })
            .collect();
        until.sort_unstable_by(|a, b| b.cmp(a));
        until.get(configuration.majority() - 1).copied().unwrap_or_default()
    }

    /// The newest stamp that a majority has echoed: this leader still led after it was sent.
    pub(crate) fn confirmed_stamp(&self) -> Instant {
        let Role::Leader(leader) = &self.role else { return Instant(0) };
        let pending = leader.structural.as_ref().and_then(|structural| self.proposed_configuration(structural.slot));
        let confirmed = |configuration: &crate::group::Configuration| {
            let mut stamps: Vec<Instant> = configuration
                .voters()
                .map(|member| {
                    if member.node == self.name.node {
                        return Instant(u64::MAX);
                    }
                    leader.peers.get(&member.node).map_or(Instant(0), |peer| peer.stamp)
                })
                .collect();
            stamps.sort_unstable_by(|a, b| b.cmp(a));
            stamps.get(configuration.majority() - 1).copied().unwrap_or_default()
        };
        let current = self.configuration.as_ref().map_or(Instant(0), confirmed);
        pending.as_ref().map_or(current, |next| current.min(confirmed(next)))
    }

    /// The leader grants to itself what it asks of others.
    pub(crate) fn renew_own_grant(&mut self, cx: &Context<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let adopted = leader.structural.as_ref().is_some_and(|structural| structural.adopted);
        if cx.config.read_mode == ReadMode::Quorum || adopted || cx.disk_stalled {
            return;
        }
        let until = leader.last_stamp.max(cx.now.instant).after(cx.config.lease);
        self.grant = Grant { ballot: leader.ballot, stamp: leader.last_stamp, until: until.max(self.grant.until) };
    }

    /// Shows readers beside the loop what they may do.
    pub(crate) fn publish(&self, cx: &Context<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        let structural = leader.structural.is_some() && !planted::on(Bug::WordNotWithdrawn);
        let barred = self.applied < leader.barrier && !planted::on(Bug::NoBarrier);
        if structural || barred || leader.hand_over.is_some() {
            return;
        }
        let deadline = self.lease_deadline(cx);
        let floor = if planted::on(Bug::FloorNotRaised) { crate::types::Slot(0) } else { self.decided };
        self.word.publish(floor, deadline);
    }
}
