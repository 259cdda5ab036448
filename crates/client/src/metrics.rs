//! What a client counts. Plain numbers: the programs around it publish them.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[doc = $doc:literal] $name:ident,)*) => {
        /// Counts since the client began.
        #[derive(Default, Debug)]
        pub struct ClientMetrics {
            $(#[doc = $doc] pub(crate) $name: Counter,)*
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

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ClientMetrics {
    /// The count of this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<u64> {
        self.values().into_iter().find_map(|(known, _, value)| (known == name).then_some(value))
    }
}
