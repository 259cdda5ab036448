//! The read word under every interleaving of threads. Run by `make loom`.
//!
//! A store is one number here, the value of the only key. The loop, the apply stage and another leader write it as the
//! real ones do; readers read it by the five steps. For each promise of the read word there is a test that keeps it, and
//! one that breaks a rule and shows that the promise hangs on it.

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use scatter_core::group::read_word::ReadWord;
use scatter_core::time::Instant;
use scatter_core::types::Slot;

/// The slot and value everything begins with.
const OLD: u64 = 4;
/// The slot and value that come.
const NEW: u64 = 5;
/// What a reader finds where data was destroyed.
const DESTROYED: u64 = 0;
/// Ends the first lease.
const DEADLINE: Instant = Instant(10);

/// A reader, right or wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Takes all five steps.
    Right,
    /// Leaves out the third: whether the floor is applied.
    IgnoresFloor,
    /// Leaves out the fifth: whether the generation is still the one noted.
    TrustsItsFirstGlance,
    /// Looks at the clock before it begins.
    LooksAtTheClockEarly,
}

struct World {
    word: ReadWord,
    clock: AtomicU64,
    /// Written with release and read with acquire: a real store orders at least its own accesses so.
    data: AtomicU64,
    /// The newest value somebody outside was told of.
    revealed: AtomicU64,
}

impl World {
    /// A leader with a lease, everything applied, readers let through.
    fn leading() -> Arc<Self> {
        let world = Self {
            word: ReadWord::default(),
            clock: AtomicU64::new(1),
            data: AtomicU64::new(OLD),
            revealed: AtomicU64::new(OLD),
        };
        world.word.set_applied(Slot(OLD));
        world.word.publish(Slot(OLD), DEADLINE);
        Arc::new(world)
    }

    fn now(&self) -> Instant {
        Instant(self.clock.load(Ordering::SeqCst))
    }

    /// One read: the answer, unless a step failed.
    fn read(&self, reader: Reader, early: Instant) -> Option<u64> {
        let glance = match reader {
            Reader::IgnoresFloor => Some(self.word.glance()).filter(|glance| glance.holds(self.now()))?,
            Reader::LooksAtTheClockEarly => self.word.admit(|| early)?,
            Reader::Right | Reader::TrustsItsFirstGlance => self.word.admit(|| self.now())?,
        };
        let value = self.data.load(Ordering::Acquire);
        (reader == Reader::TrustsItsFirstGlance || self.word.confirms(glance)).then_some(value)
    }

    /// A read that begins after `revealed` was learned: the answer must be as new as that, and data that was there.
    fn read_and_check(&self, reader: Reader) {
        let early = self.now();
        let revealed = self.revealed.load(Ordering::SeqCst);
        if let Some(value) = self.read(reader, early) {
            assert_ne!(value, DESTROYED, "read destroyed data");
            assert!(value >= revealed, "read an older value than was revealed");
        }
    }

    /// The apply stage: the store first, then the mark.
    fn apply(&self, slot: u64) {
        self.data.store(slot, Ordering::Release);
        self.word.set_applied(Slot(slot));
    }
}

/// Runs `body` under every interleaving, but for those that need more than `preemptions` switches away from a thread that
/// could go on.
fn explore(preemptions: Option<usize>, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = preemptions;
    model.check(body);
}

/// The loop reveals a slot that the apply stage applies later, while a reader reads.
fn reveal(reader: Reader, floor_first: bool) {
    explore(None, move || {
        let world = World::leading();
        let other = world.clone();
        let reading = thread::spawn(move || other.read_and_check(reader));
        if floor_first {
            world.word.raise_floor(Slot(NEW));
            world.revealed.store(NEW, Ordering::SeqCst);
        } else {
            world.revealed.store(NEW, Ordering::SeqCst);
            world.word.raise_floor(Slot(NEW));
        }
        world.apply(NEW);
        reading.join().expect("the reader ends");
    });
}

#[test]
fn a_read_sees_what_was_revealed_before_it_began() {
    reveal(Reader::Right, true);
}

#[test]
#[should_panic(expected = "read an older value than was revealed")]
fn a_floor_raised_after_the_reveal_is_too_late() {
    reveal(Reader::Right, false);
}

#[test]
#[should_panic(expected = "read an older value than was revealed")]
fn a_reader_that_ignores_the_floor_misses_what_was_revealed() {
    reveal(Reader::IgnoresFloor, true);
}

/// The loop takes the data away while a reader reads.
fn destroy(reader: Reader, withdraw_first: bool) {
    explore(None, move || {
        let world = World::leading();
        let other = world.clone();
        let reading = thread::spawn(move || other.read_and_check(reader));
        if withdraw_first {
            world.word.withdraw();
            world.data.store(DESTROYED, Ordering::Release);
        } else {
            world.data.store(DESTROYED, Ordering::Release);
            world.word.withdraw();
        }
        reading.join().expect("the reader ends");
    });
}

#[test]
fn a_confirmed_read_saw_no_destroyed_data() {
    destroy(Reader::Right, true);
}

#[test]
#[should_panic(expected = "read destroyed data")]
fn without_the_second_look_at_the_generation_destroyed_data_is_read() {
    destroy(Reader::TrustsItsFirstGlance, true);
}

#[test]
#[should_panic(expected = "read destroyed data")]
fn data_destroyed_before_the_word_is_withdrawn_is_read() {
    destroy(Reader::Right, false);
}

/// The range is given away and written elsewhere; a snapshot brings it back and the word is published again.
fn give_away_and_take_back(reader: Reader) {
    explore(None, move || {
        let world = World::leading();
        let other = world.clone();
        let reading = thread::spawn(move || other.read_and_check(reader));
        world.word.withdraw();
        world.revealed.store(NEW, Ordering::SeqCst);
        world.data.store(DESTROYED, Ordering::Release);
        world.apply(NEW);
        world.word.publish(Slot(NEW), DEADLINE);
        reading.join().expect("the reader ends");
        assert_eq!(world.read(Reader::Right, Instant(1)), Some(NEW), "the new generation lets readers through");
    });
}

#[test]
fn a_new_generation_is_never_mixed_with_the_old() {
    give_away_and_take_back(Reader::Right);
}

#[test]
#[should_panic(expected = "read destroyed data")]
fn without_the_second_look_at_the_generation_a_new_one_is_mixed_with_the_old() {
    give_away_and_take_back(Reader::TrustsItsFirstGlance);
}

/// The lease runs out, and another leader decides and reveals a value that this node knows nothing of.
fn lose_the_lease(reader: Reader) {
    explore(None, move || {
        let world = World::leading();
        let other = world.clone();
        let reading = thread::spawn(move || other.read_and_check(reader));
        world.clock.store(DEADLINE.0, Ordering::SeqCst);
        world.revealed.store(NEW, Ordering::SeqCst);
        reading.join().expect("the reader ends");
    });
}

#[test]
fn a_read_that_began_after_the_lease_ended_is_refused() {
    lose_the_lease(Reader::Right);
}

#[test]
#[should_panic(expected = "read an older value than was revealed")]
fn a_clock_read_before_the_read_began_proves_nothing() {
    lose_the_lease(Reader::LooksAtTheClockEarly);
}

/// The apply stage moves on while two readers read; the second begins when the first has answered.
#[test]
fn reads_one_after_the_other_never_go_back() {
    explore(Some(4), || {
        let world = World::leading();
        let first = world.clone();
        let reading = thread::spawn(move || {
            if let Some(value) = first.read(Reader::Right, Instant(1)) {
                first.revealed.fetch_max(value, Ordering::SeqCst);
            }
        });
        let second = world.clone();
        let reading_next = thread::spawn(move || second.read_and_check(Reader::Right));
        // The loop raises the floor before it hands entries to the apply stage.
        world.word.raise_floor(Slot(NEW));
        world.apply(NEW);
        world.word.publish(Slot(NEW), DEADLINE);
        reading.join().expect("the first reader ends");
        reading_next.join().expect("the second reader ends");
    });
}

/// Two readers and an apply stage on a thread of its own: whatever the pace of each, both see what was revealed.
#[test]
fn two_readers_beside_loop_and_apply_stage() {
    explore(Some(3), || {
        let world = World::leading();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let other = world.clone();
                thread::spawn(move || other.read_and_check(Reader::Right))
            })
            .collect();
        world.word.raise_floor(Slot(NEW));
        let stage = world.clone();
        let applying = thread::spawn(move || stage.apply(NEW));
        world.revealed.store(NEW, Ordering::SeqCst);
        for reading in readers {
            reading.join().expect("a reader ends");
        }
        applying.join().expect("the stage ends");
    });
}
