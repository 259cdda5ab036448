//! The read word: how a thread outside the loop may answer a linearizable read.
//!
//! The loop publishes, per replica it leads, one word: a *generation*, a *lease deadline*, a *floor* and the *applied*
//! slot. A reader
//!
//! ```text
//! 1. notes the generation and the deadline,
//! 2. looks at the clock: the deadline must lie ahead,
//! 3. checks that the applied slot has reached the floor,
//! 4. checks that where it is about to look is still where the data lies, pins a view of the store and reads from it,
//! 5. checks that the generation is still the one noted.
//! ```
//!
//! Between any two steps it may sleep as long as it likes. Why the answer is linearizable: at step 2 no other leader can
//! have decided anything (the lease), and everything this leader has revealed as decided is at or below the floor (the
//! loop raises it *before* such a message or reply leaves), hence in the view. Step 5 tells whether in the meantime the
//! data was replaced or the range given away: both raise the generation first. Where the data lies the reader may have
//! looked up long before step 1, so it looks again in step 4: the new place is published before the barrier of a leader
//! that could let it through is applied. Who reads without a lease has no barrier and is turned back while data *moves*, from
//! before it is replaced until its new place is published.
//!
//! Any failed step sends the read through the loop.

use crate::planted::{self, Bug};
use crate::time::Instant;
use crate::types::Slot;

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// What a reader noted in its first step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Glance {
    generation: u64,
    deadline: Instant,
}

impl Glance {
    /// Step 2: whether the lease still holds. `now` must have been read after the glance was taken or the read began.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        planted::on(Bug::ReadWithoutLease) && self.deadline != Instant(0) || now < self.deadline
    }

    /// What is left of the lease.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> std::time::Duration {
        self.deadline.since(now)
    }
}

/// The word. One per replica; shared by the loop, which writes all but `applied`, the apply stage, which writes that, and
/// any number of readers.
#[derive(Debug)]
pub struct ReadWord {
    generation: AtomicU64,
    deadline: AtomicU64,
    floor: AtomicU64,
    applied: AtomicU64,
    fresh: AtomicU64,
    moving: AtomicU64,
}

impl Default for ReadWord {
    fn default() -> Self {
        Self {
            generation: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            floor: AtomicU64::new(u64::MAX),
            applied: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            moving: AtomicU64::new(0),
        }
    }
}

impl ReadWord {
    /// A word that never lets anybody through, for data whose replica's own word is not known yet: nobody would turn its readers
    /// back when the data moves.
    #[must_use]
    pub fn shut() -> Self {
        let word = Self::default();
        word.begin_move();
        word
    }

    /// Step 1.
    #[must_use]
    pub fn glance(&self) -> Glance {
        let generation = self.generation.load(Ordering::SeqCst);
        Glance { generation, deadline: Instant(self.deadline.load(Ordering::SeqCst)) }
    }

    /// Step 3: whether everything revealed is applied.
    #[must_use]
    pub fn settled(&self) -> bool {
        let floor = self.floor.load(Ordering::SeqCst);
        self.applied.load(Ordering::SeqCst) >= floor
    }

    /// Step 5: whether what was read may be returned.
    #[must_use]
    pub fn confirms(&self, glance: Glance) -> bool {
        planted::on(Bug::GenerationNotChecked) || self.generation.load(Ordering::SeqCst) == glance.generation
    }

    /// Steps 1 to 3 at once.
    #[must_use]
    pub fn admit(&self, clock: impl FnOnce() -> Instant) -> Option<Glance> {
        let glance = self.glance();
        (glance.deadline != Instant(0) && glance.holds(clock()) && self.settled()).then_some(glance)
    }

    /// The loop: no reader gets through any more, and those on their way are turned back at step 5.
    pub fn withdraw(&self) {
        self.deadline.store(0, Ordering::SeqCst);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// The apply stage, before it replaces or destroys data: no reader gets through until [`ReadWord::end_move`].
    pub fn begin_move(&self) {
        self.moving.store(1, Ordering::SeqCst);
        self.withdraw();
    }

    /// The shell, once it has published where the data lies.
    pub fn end_move(&self) {
        self.moving.store(0, Ordering::SeqCst);
    }

    /// Step 1 of a read that needs no lease; `None` while data moves.
    #[must_use]
    pub fn glance_at_rest(&self) -> Option<Glance> {
        let glance = self.glance();
        (self.moving.load(Ordering::SeqCst) == 0).then_some(glance)
    }

    /// The loop: reads are allowed before `deadline` of those who see at least `floor` applied. The floor is set first.
    pub fn publish(&self, floor: Slot, deadline: Instant) {
        self.floor.store(floor.0, Ordering::SeqCst);
        self.deadline.store(deadline.0, Ordering::SeqCst);
    }

    /// Whether a reader that is let through sees every slot up to `slot`.
    #[must_use]
    pub fn covers(&self, slot: Slot) -> bool {
        self.deadline.load(Ordering::SeqCst) == 0 || self.floor.load(Ordering::SeqCst) >= slot.0
    }

    /// Whether nobody is let through.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.deadline.load(Ordering::SeqCst) == 0
    }

    /// The loop: slots up to here are about to be revealed as decided.
    pub fn raise_floor(&self, floor: Slot) {
        self.floor.store(floor.0, Ordering::SeqCst);
    }

    /// By this node's boot clock, the moment before which everything that was acknowledged is visible to views pinned from now
    /// on, whoever leads; `None` if nobody has vouched yet. See [`crate::paxos`] on freshness.
    #[must_use]
    pub fn fresh(&self) -> Option<Instant> {
        Some(Instant(self.fresh.load(Ordering::SeqCst))).filter(|at| *at != Instant(0))
    }

    /// The loop: everything acknowledged before `at` is applied.
    pub fn set_fresh(&self, at: Instant) {
        self.fresh.fetch_max(at.0, Ordering::SeqCst);
    }

    /// The apply stage, after the store holds it: everything up to here is visible to views pinned from now on.
    pub fn set_applied(&self, slot: Slot) {
        self.applied.store(slot.0, Ordering::SeqCst);
    }
}
