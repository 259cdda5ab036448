//! Where to cut: a bounded sample of the positions that are used.

use super::nodes::below;
use crate::ring::routing::steps_from;
use crate::ring::{KeyRange, Position};
use crate::rng::Rng;
use bytes::Bytes;

/// How many positions are kept. A quantile of so many is off by about 2 % of the load (one standard deviation).
pub const SAMPLES: usize = 512;

/// After so many samples' worth of positions an old one is forgotten as fast as a new one comes: what is kept tells of the
/// last few thousand operations, not of all there ever were.
const HORIZON: u64 = 16 * SAMPLES as u64;

/// A sample of positions, each operation's with the same chance (Vitter's algorithm R, 1985). Fed with accesses it finds the
/// median of the observed load, fed with positions of stored keys that of the data.
#[derive(Clone, Default, Debug)]
pub struct Sampler {
    kept: Vec<Position>,
    seen: u64,
}

impl Sampler {
    /// Takes one operation's position.
    pub fn record(&mut self, position: &Position, rng: &mut Rng) {
        self.seen = (self.seen + 1).min(HORIZON);
        if self.kept.len() < SAMPLES {
            self.kept.push(position.clone());
            return;
        }
        let slot = below(rng, usize::try_from(self.seen).unwrap_or(SAMPLES));
        if let Some(kept) = self.kept.get_mut(slot) {
            *kept = position.clone();
        }
    }

    /// Forgets everything, as when the range changed hands.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// How many positions are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The boundary that leaves half of the load on either side.
    #[must_use]
    pub fn median(&self, range: &KeyRange) -> Option<Position> {
        self.quantile(range, 500)
    }

    /// The boundary inside `range` that leaves as nearly as can be `permille` of the load before it. Neither end of the range,
    /// and there is load on both sides; `None` if there is no such boundary, as when a single key has all the load.
    ///
    /// It is as short as can be between its neighbours in the sample, so that as a rule it does not cut a partition.
    #[must_use]
    pub fn quantile(&self, range: &KeyRange, permille: u16) -> Option<Position> {
        let mut inside: Vec<&Position> = self.kept.iter().filter(|position| range.contains(position)).collect();
        inside.sort_unstable_by_key(|position| steps_from(&range.start, position));
        let wanted = inside.len() * usize::from(permille.min(1000));
        // A boundary at a sampled position has all those before it, and none equal to it, on its left.
        let cuts = (1..inside.len()).filter(|cut| inside[cut - 1] != inside[*cut]);
        let cut = cuts.min_by_key(|cut| (cut * 1000).abs_diff(wanted))?;
        Some(shortest_between(inside[cut - 1], inside[cut]))
    }
}

/// The shortest position after `left` and not after `right`, in ring order.
fn shortest_between(left: &Position, right: &Position) -> Position {
    if left > right {
        // The last position lies between them, and so does the first.
        return Position::first();
    }
    let common = left.0.iter().zip(right.0.iter()).take_while(|(left, right)| left == right).count();
    let length = (common + 1).min(right.0.len());
    Position(Bytes::copy_from_slice(&right.0[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Key;
    use crate::rng::Rng;
    use proptest::prelude::*;

    fn position(bytes: &[u8]) -> Position {
        Position(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn the_median_halves_what_was_seen() {
        let mut rng = Rng::new(1);
        let mut sampler = Sampler::default();
        for _ in 0..50_000 {
            // Squared, so that low positions are used more.
            let uniform = rng.next() >> 32;
            sampler.record(&position(&((uniform * uniform) >> 32).to_be_bytes()[4..]), &mut rng);
        }
        let median = sampler.median(&KeyRange::whole()).unwrap();
        let high =
            median.0.iter().chain([0, 0, 0].iter()).take(4).fold(0_u64, |all, byte| (all << 8) + u64::from(*byte));
        let share = (high as f64 / 2_f64.powi(32)).sqrt();
        assert!((share - 0.5).abs() < 0.08, "{share}");
    }

    #[test]
    fn what_is_hot_lately_counts_more() {
        let mut rng = Rng::new(2);
        let mut sampler = Sampler::default();
        for _ in 0..1_000_000 {
            sampler.record(&position(&[10, rng.next() as u8]), &mut rng);
        }
        for _ in 0..3 * HORIZON {
            sampler.record(&position(&[200, rng.next() as u8]), &mut rng);
        }
        let median = sampler.median(&KeyRange::whole()).unwrap();
        assert!(median.0[0] == 200, "{median}");
    }

    #[test]
    fn one_key_cannot_be_cut() {
        let mut rng = Rng::new(3);
        let mut sampler = Sampler::default();
        for _ in 0..1000 {
            sampler.record(&position(&[5]), &mut rng);
        }
        assert_eq!(sampler.median(&KeyRange::whole()), None);
        for _ in 0..100 {
            sampler.record(&position(&[9]), &mut rng);
        }
        assert_eq!(sampler.median(&KeyRange::whole()), Some(position(&[9])));
    }

    #[test]
    fn a_boundary_rather_lies_between_partitions() {
        let mut rng = Rng::new(4);
        let mut sampler = Sampler::default();
        for i in 0..1000 {
            let key = Key::new(format!("tenant-{}/row-{i}", i % 50)).unwrap();
            sampler.record(&key.position(), &mut rng);
        }
        let median = sampler.median(&KeyRange::whole()).unwrap();
        assert!(median.0.len() <= 8, "{median} cuts a partition of fifty");
    }

    proptest! {
        #[test]
        fn a_boundary_lies_inside_with_load_on_both_sides(
            positions in proptest::collection::vec(proptest::collection::vec(0..4_u8, 0..4), 0..60),
            ends in (proptest::collection::vec(0..4_u8, 0..3), proptest::collection::vec(0..4_u8, 0..3)),
            permille in 0..1001_u16, seed in any::<u64>(),
        ) {
            let range = KeyRange { start: position(&ends.0), end: position(&ends.1) };
            let mut rng = Rng::new(seed);
            let mut sampler = Sampler::default();
            for bytes in &positions {
                sampler.record(&position(bytes), &mut rng);
            }
            let inside: Vec<_> = positions.iter().map(|bytes| position(bytes)).filter(|p| range.contains(p)).collect();
            let Some(boundary) = sampler.quantile(&range, permille) else {
                prop_assert!(inside.iter().all(|position| *position == inside[0]));
                return Ok(());
            };
            prop_assert!(range.contains(&boundary));
            prop_assert!(boundary != range.start && boundary != range.end);
            let left = KeyRange { start: range.start.clone(), end: boundary.clone() };
            prop_assert!(inside.iter().any(|position| left.contains(position)));
            prop_assert!(inside.iter().any(|position| !left.contains(position)));
        }
    }
}
