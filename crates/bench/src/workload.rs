//! What a run asks for: which keys, which operations, what values.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// How many digits a key number is written with, so that every request of a kind has the same length.
pub const KEY_DIGITS: usize = 8;
/// What stands before the digits.
pub const KEY_PREFIX: &str = "bench-";
/// The largest number of keys that [`KEY_DIGITS`] can tell apart.
pub const KEYS_LIMIT: u64 = 100_000_000;

/// The two operations measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Op {
    /// A write.
    Put,
    /// A linearizable read.
    Get,
}

impl std::fmt::Display for Op {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(match self {
            Self::Put => "PUT",
            Self::Get => "GET",
        })
    }
}

/// The shape of a load.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// How many different keys, chosen evenly.
    pub keys: u64,
    /// The size of every value, in bytes.
    pub value_bytes: usize,
    /// How many of a hundred operations are writes.
    pub put_percent: u8,
}

/// How a run chooses its next operation and when it has no more.
#[derive(Debug)]
pub enum Order {
    /// Random keys and operations, until the time is up.
    Random,
    /// The same among these keys.
    Among(Arc<[u64]>),
    /// Writes every key once; the number is that of the next key nobody has taken.
    EachOnce(AtomicU64),
}

/// One worker's source of operations.
pub struct Chooser {
    rng: SmallRng,
    workload: Workload,
}

impl Chooser {
    /// A source of its own for worker number `worker`.
    pub fn new(workload: Workload, worker: u64) -> Self {
        Self { rng: SmallRng::seed_from_u64(worker.wrapping_add(0x5ca7_7e12)), workload }
    }

    /// The next operation and key; `None` when an [`Order::EachOnce`] is through.
    pub fn next(&mut self, order: &Order) -> Option<(Op, u64)> {
        match order {
            Order::Random => Some((self.op(), self.rng.random_range(0..self.workload.keys))),
            Order::Among(keys) => Some((self.op(), keys[self.rng.random_range(0..keys.len())])),
            Order::EachOnce(next) => {
                let key = next.fetch_add(1, Ordering::Relaxed);
                (key < self.workload.keys).then_some((Op::Put, key))
            }
        }
    }

    fn op(&mut self) -> Op {
        if self.rng.random_range(0..100) < self.workload.put_percent { Op::Put } else { Op::Get }
    }

    /// A value that does not compress.
    pub fn value(&mut self) -> Vec<u8> {
        let mut value = vec![0; self.workload.value_bytes];
        self.rng.fill_bytes(&mut value);
        value
    }

    /// Makes `value` differ from every earlier one, cheaply.
    pub fn vary(&mut self, value: &mut [u8]) {
        for (byte, fresh) in value.iter_mut().zip(self.rng.next_u64().to_le_bytes()) {
            *byte = fresh;
        }
    }
}

/// Writes key number `key` as exactly [`KEY_DIGITS`] digits over `digits`.
pub fn write_digits(digits: &mut [u8], mut key: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (key % 10) as u8;
        key /= 10;
    }
}

/// The text of key number `key`.
pub fn key_text(key: u64) -> String {
    format!("{KEY_PREFIX}{key:0KEY_DIGITS$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKLOAD: Workload = Workload { keys: 100, value_bytes: 256, put_percent: 30 };

    #[test]
    fn the_mix_and_the_keys_are_those_asked_for() {
        let mut chooser = Chooser::new(WORKLOAD, 1);
        let mut seen = [false; 100];
        let mut puts = 0;
        for _ in 0..10_000 {
            let (op, key) = chooser.next(&Order::Random).unwrap();
            puts += i32::from(op == Op::Put);
            seen[key as usize] = true;
        }
        assert!((2_700..3_300).contains(&puts), "{puts} writes of 10,000 at 30 %");
        assert!(seen.iter().all(|&seen| seen));
    }

    #[test]
    fn each_once_gives_every_key_to_exactly_one_worker() {
        let order = Order::EachOnce(AtomicU64::new(0));
        let mut workers = [Chooser::new(WORKLOAD, 1), Chooser::new(WORKLOAD, 2)];
        let mut keys: Vec<u64> = Vec::new();
        while let Some((op, key)) = workers[keys.len() % 2].next(&order) {
            assert_eq!(op, Op::Put);
            keys.push(key);
        }
        assert_eq!(keys, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn chosen_keys_are_the_only_ones() {
        let order = Order::Among([7, 1_000].into());
        let mut chooser = Chooser::new(WORKLOAD, 1);
        let seen: std::collections::BTreeSet<u64> =
            (0..100).filter_map(|_| chooser.next(&order)).map(|(_, key)| key).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [7, 1_000]);
    }

    #[test]
    fn digits_and_text_agree() {
        let mut digits = [b'x'; KEY_DIGITS];
        write_digits(&mut digits, 1_234);
        assert_eq!(key_text(1_234).as_bytes(), [KEY_PREFIX.as_bytes(), &digits].concat());
    }

    #[test]
    fn workers_differ_and_values_vary() {
        let (mut one, mut two) = (Chooser::new(WORKLOAD, 1), Chooser::new(WORKLOAD, 2));
        let mut value = one.value();
        assert_eq!(value.len(), 256);
        assert_ne!(value, two.value());
        let before = value.clone();
        one.vary(&mut value);
        assert_ne!(value, before);
        one.vary(&mut []);
    }
}
