//! A node's clocks: a boot clock that runs a little fast or slow, and a wall clock that may say anything.

use crate::history::Time;
use scatter_core::time::{Instant, Now, Wall};

/// What the true date is when a run begins, in microseconds since the Unix epoch.
pub const EPOCH_MICROS: u64 = 1_700_000_000_000_000;

const MILLION: i128 = 1_000_000;

/// The clocks of one host. Between changes the boot clock is a straight line through (`since`, `reading`).
#[derive(Clone, Debug)]
pub struct Clock {
    since: Time,
    reading: u64,
    /// How fast it runs: parts per million more than true time.
    rate_ppm: i64,
    /// What the wall clock is off by, in microseconds.
    wall_offset_micros: i64,
}

impl Clock {
    /// A clock that starts at true time `now` with any reading.
    #[must_use]
    pub fn new(now: Time, reading: u64, rate_ppm: i64, wall_offset_micros: i64) -> Self {
        Self { since: now, reading, rate_ppm, wall_offset_micros }
    }

    /// What the boot clock shows at true time `now`.
    #[must_use]
    pub fn instant(&self, now: Time) -> Instant {
        let elapsed = i128::from(now.saturating_sub(self.since));
        let shown = elapsed * (MILLION + i128::from(self.rate_ppm)) / MILLION;
        Instant(self.reading.saturating_add(u64::try_from(shown).unwrap_or(0)))
    }

    /// Both clocks at true time `now`.
    #[must_use]
    pub fn now(&self, now: Time) -> Now {
        let wall = i128::from(EPOCH_MICROS) + i128::from(now / 1_000) + i128::from(self.wall_offset_micros);
        Now { instant: self.instant(now), wall: Wall(u64::try_from(wall.max(0)).unwrap_or(u64::MAX)) }
    }

    /// The first true time at which the boot clock shows at least `instant`; not before `now`.
    #[must_use]
    pub fn when(&self, instant: Instant, now: Time) -> Time {
        let ahead = i128::from(instant.0.saturating_sub(self.reading));
        let rate = MILLION + i128::from(self.rate_ppm);
        let elapsed = (ahead * MILLION + rate - 1) / rate;
        let mut at = self.since.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX)).max(now);
        while self.instant(at) < instant && at < u64::MAX {
            at += 1;
        }
        at
    }

    /// From `now` on the boot clock runs at another rate. It does not jump.
    pub fn set_rate(&mut self, now: Time, rate_ppm: i64) {
        self.reading = self.instant(now).0;
        self.since = now;
        self.rate_ppm = rate_ppm;
    }

    /// The wall clock is set.
    pub fn set_wall_offset(&mut self, micros: i64) {
        self.wall_offset_micros = micros;
    }

    /// What the wall clock is off by, in microseconds.
    #[must_use]
    pub fn wall_offset_micros(&self) -> i64 {
        self.wall_offset_micros
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn when_is_the_first_moment_at_which_the_reading_is_reached() {
        let mut random = Random::new(5);
        for _ in 0..2_000 {
            let rate = random.between(0, 40_000) as i64 - 20_000;
            let clock = Clock::new(random.below(1 << 40), random.below(1 << 50), rate, 0);
            let now = clock.since + random.below(1 << 35);
            let wanted = Instant(clock.reading + random.below(1 << 36));
            let at = clock.when(wanted, now);
            assert!(at >= now && clock.instant(at) >= wanted);
            assert!(at == now || clock.instant(at - 1) < wanted, "{clock:?} {wanted:?} {at}");
        }
    }

    #[test]
    fn a_change_of_rate_does_not_jump() {
        let mut clock = Clock::new(0, 100, 5_000, 0);
        let before = clock.instant(1_000_000);
        clock.set_rate(1_000_000, -5_000);
        assert_eq!(clock.instant(1_000_000), before);
    }
}
