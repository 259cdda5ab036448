//! How likely a group is lost.

use std::time::Duration;

/// The probability that, of a group of `size` voters, so many die within one repair that no majority is left.
///
/// The model: lifetimes are independent and exponential with the given median, so a node dies within a time `t` with
/// probability `p = 1 - 2^(-t / median)`, however old it is. From the first death to the end of its repair takes
/// `repair_time`; the group is lost if within such a window more of its `size` members die than it can spare, which is a
/// binomial tail. Real nodes die together (a rack, a bad release), which is what zones are for, and young ones die
/// sooner (heavy tails), so this is a lower bound for comparing sizes and times, not a promise. The Scatter paper (Glendenning et
/// al., SOSP 2011) chooses the size of its groups by such a probability.
#[must_use]
pub fn loss_probability(size: usize, median_lifetime: Duration, repair_time: Duration) -> f64 {
    if size == 0 {
        return 1.0;
    }
    if median_lifetime.is_zero() {
        return if repair_time.is_zero() { 0.0 } else { 1.0 };
    }
    let halvings = repair_time.as_secs_f64() / median_lifetime.as_secs_f64();
    let dies = -(-halvings * std::f64::consts::LN_2).exp_m1();
    let majority = size / 2 + 1;
    let fatal = size - majority + 1;
    (fatal..=size).map(|dead| binomial(size, dead, dies)).sum::<f64>().clamp(0.0, 1.0)
}

/// The probability of exactly `hits` in `trials`.
fn binomial(trials: usize, hits: usize, probability: f64) -> f64 {
    let choices: f64 = (0..hits).map(|i| (trials - i) as f64 / (hits - i) as f64).product();
    let power = |base: f64, exponent: usize| base.powi(i32::try_from(exponent).unwrap_or(i32::MAX));
    choices * power(probability, hits) * power(1.0 - probability, trials - hits)
}

/// A loss probability with what it was computed from, as reasons show it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Loss {
    /// Voters.
    pub size: usize,
    /// Half of the nodes live longer.
    pub median_lifetime: Duration,
    /// From a death to the end of its repair.
    pub repair_time: Duration,
    /// The probability that no majority outlives such a time.
    pub probability: f64,
}

impl Loss {
    /// Computes it.
    #[must_use]
    pub fn new(size: usize, median_lifetime: Duration, repair_time: Duration) -> Self {
        let probability = loss_probability(size, median_lifetime, repair_time);
        Self { size, median_lifetime, repair_time, probability }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn the_tail_is_that_of_the_binomial() {
        // Repairs as long as the median: each node dies with probability one half.
        assert!((loss_probability(1, HOUR, HOUR) - 0.5).abs() < 1e-12);
        assert!((loss_probability(3, HOUR, HOUR) - 0.5).abs() < 1e-12);
        // Of two voters none can be spared: 1 - 1/4.
        assert!((loss_probability(2, HOUR, HOUR) - 0.75).abs() < 1e-12);
        // Of four, one: 1 - (1 + 4) / 16.
        assert!((loss_probability(4, HOUR, HOUR) - 11.0 / 16.0).abs() < 1e-12);
    }

    #[test]
    fn more_members_and_faster_repairs_help() {
        let day = HOUR * 24;
        let of = |size, repair| loss_probability(size, day, repair);
        assert!(of(5, HOUR / 12) < of(3, HOUR / 12) && of(3, HOUR / 12) < of(1, HOUR / 12));
        assert!(of(3, HOUR / 60) < of(3, HOUR / 12));
        assert!(of(4, HOUR / 12) > of(3, HOUR / 12), "an even member only adds somebody who may die");
        // 5 minutes of a day's median: p = 0.0024; 3p^2 - 2p^3.
        assert!((of(3, HOUR / 12) - 1.73e-5).abs() < 0.02e-5, "{}", of(3, HOUR / 12));
    }

    #[test]
    fn the_ends_of_the_scale() {
        assert_eq!(loss_probability(3, HOUR, Duration::ZERO), 0.0);
        assert_eq!(loss_probability(3, Duration::ZERO, HOUR), 1.0);
        assert_eq!(loss_probability(0, HOUR, HOUR), 1.0);
        assert!(loss_probability(64, HOUR, HOUR * 1000) > 0.999);
    }
}
