//! How long nodes live.

use scatter_sim::random::Random;
use std::time::Duration;

/// The Weibull distribution's shape. Below 1 a node's chance to die falls with its age, as with machines that strangers lend:
/// at 0.6 a tenth live less than a twentieth of the median, a tenth more than seven times as long.
const SHAPE: f64 = 0.6;

/// A lifetime, drawn so that half of all are shorter than `median`.
pub(crate) fn draw(median: Duration, random: &mut Random) -> Duration {
    median.mul_f64(quantile(even(random)))
}

/// A time with this mean of which nobody knows how much has passed: exponential, but never over ten times the mean.
pub(crate) fn wait(mean: Duration, random: &mut Random) -> Duration {
    mean.mul_f64((-even(random).ln()).min(10.0))
}

/// The lifetime that a part `surviving` of all nodes reaches, in medians.
fn quantile(surviving: f64) -> f64 {
    (-surviving.ln() / std::f64::consts::LN_2).powf(1.0 / SHAPE)
}

/// Over 0, up to 1.
fn even(random: &mut Random) -> f64 {
    // 53 bits are what the number can tell apart.
    ((random.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_lifetimes_are_below_the_median_and_the_tail_is_heavy() {
        let (median, mut random) = (Duration::from_secs(45), Random::new(1));
        let mut drawn: Vec<f64> = (0..20_001).map(|_| draw(median, &mut random).as_secs_f64() / 45.0).collect();
        drawn.sort_by(f64::total_cmp);
        let at = |part: f64| drawn[(part * 20_000.0) as usize];
        assert!((at(0.5) - 1.0).abs() < 0.05, "{}", at(0.5));
        assert!((0.03..0.06).contains(&at(0.1)), "many die young: {}", at(0.1));
        // An exponential distribution of the same median has 3.3 there.
        assert!((6.5..8.5).contains(&at(0.9)), "the old live on: {}", at(0.9));
    }

    #[test]
    fn waits_have_their_mean() {
        let (mean, mut random) = (Duration::from_secs(3), Random::new(2));
        let sum: f64 = (0..20_000).map(|_| wait(mean, &mut random).as_secs_f64()).sum();
        assert!((sum / 20_000.0 - 3.0).abs() < 0.1, "{sum}");
    }
}
