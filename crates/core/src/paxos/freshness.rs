//! How old the data of a replica that does not lead may be, for reads that allow for some age.
//!
//! ```text
//! follower                                      leader
//!   | own clock 5.000: Accepted(…, ask 17) ------> |
//!   | <------ Accept(…, decided 40, vouches 17) -- |   while its lease holds
//!   | applied 40: holds all that was acknowledged before 5.000
//! ```
//!
//! Why that is so: the leader answered after 5.000, and while its lease held nobody else had decided anything, so whatever
//! had been acknowledged by then lies at or below what it knew decided. The moment is one of the follower's own clock, taken
//! *before* it asked; no two clocks are compared, and a late message makes data look older than it is, never younger.
//!
//! An ask is a number that no process of this node uses twice, so an answer to somebody's former self counts for nothing.

use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::Slot;
use std::collections::VecDeque;

/// Asks that may still be answered, and answers that wait for the machine: the oldest make room.
const MOST_KEPT: usize = 16;

/// What a replica knows of its own age.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    /// Asks sent, rising, with when each was sent first.
    asks: VecDeque<(u64, Instant)>,
    /// Everything acknowledged before the moment lies at or below the slot, which is not applied yet.
    vouched: VecDeque<(Slot, Instant)>,
}

impl Freshness {
    /// The ask to send along. A new one now and then: each costs its leader a look at the lease.
    pub(crate) fn ask(&mut self, cx: &Context<'_>) -> u64 {
        let now = cx.now.instant;
        if let Some((ask, at)) = self.asks.back()
            && now.since(*at) < cx.config.heartbeat / 4
        {
            return *ask;
        }
        let last = self.asks.back().map_or(cx.record.boot << 32, |(ask, _)| *ask);
        if self.asks.len() >= MOST_KEPT {
            self.asks.pop_front();
        }
        self.asks.push_back((last + 1, now));
        last + 1
    }

    /// A leader vouches that `decided` covers all that was acknowledged when it heard the ask.
    pub(crate) fn vouched(&mut self, ask: u64, decided: Slot, now: Instant) {
        let Some(index) = self.asks.iter().position(|(asked, _)| *asked == ask) else { return };
        let at = self.asks[index].1;
        // The newest stays, so that the next is a new number.
        self.asks.drain(..index);
        let at = if planted::on(Bug::FreshFromArrival) { now } else { at };
        self.note(decided, at);
    }

    /// Everything acknowledged before the moment lies at or below `decided`.
    fn note(&mut self, decided: Slot, at: Instant) {
        let known = self.vouched.back().is_some_and(|(_, known)| *known >= at);
        if !known && self.vouched.len() < MOST_KEPT {
            self.vouched.push_back((decided, at));
        }
    }

    /// The newest moment before which everything acknowledged is applied, if it has moved.
    pub(crate) fn settle(&mut self, applied: Slot) -> Option<Instant> {
        let mut newest = None;
        while let Some((slot, at)) = self.vouched.front().copied()
            && slot <= applied
        {
            newest = Some(at);
            self.vouched.pop_front();
        }
        newest
    }
}

impl Replica {
    /// Shows readers how old this replica's data may be.
    pub(crate) fn settle_freshness(&mut self) {
        if let Some(at) = self.freshness.settle(self.applied) {
            self.word.set_fresh(at);
        }
    }

    /// A leader that ceases to lead vouches for itself: as long as its lease held, nobody else had decided anything. If nobody else
    /// leads, its data is the youngest there is.
    pub(crate) fn vouch_for_itself(&mut self, cx: &Context<'_>) {
        let Role::Leader(leader) = &self.role else { return };
        if leader.structural.is_some() || self.applied < leader.barrier {
            return;
        }
        let until = self.lease_deadline(cx).min(cx.now.instant);
        if until > Instant(0) {
            self.freshness.note(self.decided, until);
            self.settle_freshness();
        }
    }

    /// The ask of a member that the leader may answer with the message at hand; zero for none.
    pub(crate) fn vouch_for(&mut self, node: crate::types::NodeId, cx: &Context<'_>) -> u64 {
        let Role::Leader(leader) = &self.role else { return 0 };
        let waits = leader.peers.get(&node).is_some_and(|peer| peer.ask != peer.vouched);
        let settled = leader.structural.is_none() && self.applied >= leader.barrier;
        let leased = cx.now.instant < self.lease_deadline(cx) || planted::on(Bug::VouchedWithoutLease);
        if !waits || !settled || !leased {
            return 0;
        }
        let Role::Leader(leader) = &mut self.role else { return 0 };
        leader.peers.get_mut(&node).map_or(0, |peer| {
            peer.vouched = peer.ask;
            peer.ask
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(asks: &[(u64, u64)]) -> Freshness {
        Freshness { asks: asks.iter().map(|(ask, at)| (*ask, Instant(*at))).collect(), vouched: VecDeque::new() }
    }

    #[test]
    fn an_answer_counts_from_when_it_was_asked_for_and_once_all_is_applied() {
        let mut freshness = asked(&[(7, 100), (8, 200)]);
        freshness.vouched(7, Slot(40), Instant(900));
        assert_eq!(freshness.settle(Slot(39)), None);
        freshness.vouched(8, Slot(50), Instant(950));
        assert_eq!(freshness.settle(Slot(40)), Some(Instant(100)));
        assert_eq!(freshness.settle(Slot(60)), Some(Instant(200)));
        assert_eq!(freshness.settle(Slot(60)), None);
    }

    #[test]
    fn an_answer_to_another_process_or_heard_before_counts_for_nothing() {
        let mut freshness = asked(&[(7, 100), (8, 200)]);
        freshness.vouched(3, Slot(40), Instant(900));
        freshness.vouched(8, Slot(50), Instant(950));
        assert_eq!(freshness.settle(Slot(60)), Some(Instant(200)));
        freshness.vouched(7, Slot(10), Instant(960));
        assert_eq!(freshness.settle(Slot(90)), None);
    }
}
