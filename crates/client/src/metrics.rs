//! What a client counts. Plain numbers: the programs around it publish them.

use std::sync::atomic::{AtomicU64, Ordering};

/// The most attempts of a request that are told apart.
pub const MOST_HOPS: usize = 6;

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counts since the client began.
        #[derive(Default, Debug)]
        pub struct ClientMetrics {
            $(#[doc = $doc] pub(crate) $name: Counter,)*
            /// Requests that ended, by how many attempts they took; the last for all beyond.
            hops: [Counter; MOST_HOPS + 2],
            /// The attempts of all those.
            all_hops: Counter,
        }

        impl ClientMetrics {
            /// Each count: its name, what it means, its value. The same ones in the same order on every call.
            #[must_use]
            pub fn values(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $doc, self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Reads begun.
    reads,
    /// Writes begun.
    writes,
    /// Requests whose first attempt found its target in the cache.
    cache_hits,
    /// Requests whose first attempt had to find its target first.
    cache_misses,
    /// Attempts beyond a request's first.
    retries,
    /// Retries because another node than the one asked leads or owns.
    redirects,
    /// Retries sent while an earlier attempt was still open.
    hedges,
    /// Requests refused here because too many were under way.
    shed,
    /// Requests given up because retries were too many.
    budget_exhausted,
    /// Writes that ended with an unknown outcome.
    unknown_outcomes,
    /// Searches for a leader or an owner.
    searches,
    /// Walks along the ring to the owner of a position that the cache does not know.
    walks,
    /// Nodes asked on walks along the ring.
    walk_steps,
    /// Attempts refused because a group operation held the key's range for a moment.
    sealed,
    /// Connections that reached another node than the one wanted.
    wrong_node,
}

/// One count.
#[derive(Default, Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn add_many(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ClientMetrics {
    /// A request ended after so many attempts.
    pub(crate) fn ended(&self, attempts: u32) {
        let attempts = attempts as usize;
        self.hops[attempts.min(self.hops.len() - 1)].add();
        self.all_hops.add_many(attempts as u64);
    }

    /// How many requests ended after 0, 1, … attempts, those with more than [`MOST_HOPS`] last; and the attempts of all of
    /// them.
    #[must_use]
    pub fn hops(&self) -> ([u64; MOST_HOPS + 2], u64) {
        let mut counts = [0; MOST_HOPS + 2];
        for (count, hops) in counts.iter_mut().zip(&self.hops) {
            *count = hops.get();
        }
        (counts, self.all_hops.get())
    }

    /// The count of this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<u64> {
        self.values().into_iter().find_map(|(known, _, value)| (known == name).then_some(value))
    }
}
