//! The core's only source of chance: a seeded generator (splitmix64, Steele et al. 2014), used for election timeouts and
//! nothing that safety rests on.

/// A seeded stream of numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream that depends on `seed` alone.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A span between the two, both included.
    pub fn span(&mut self, least: std::time::Duration, most: std::time::Duration) -> std::time::Duration {
        let (least, most) = (crate::time::nanos(least), crate::time::nanos(most.max(least)));
        std::time::Duration::from_nanos(least + self.next() % (most - least + 1))
    }
}
