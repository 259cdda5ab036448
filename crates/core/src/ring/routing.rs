//! Finding the owner of a position.
//!
//! Each group knows its successor for certain, so asking group after group ends at the owner. Everything else only makes
//! it shorter: a [`RoutingTable`] of descriptors heard of (warm: one hop), and for rings too large for that, [`FarLinks`]
//! to the groups about 1, 2, 4, 8 … groups ahead (cold: logarithmically many hops). Leaders fill those by asking each other
//! ([`crate::ops::surroundings`]); their nodes keep them among the routes.
//!
//! ```text
//! asker                                   groups on the ring, in order
//!   | whom do I know closest before p?      A . . . . . . . B . . . C . D . p in E
//!   |-- who owns p? ----------------------> A   not I; my far links before p: B; my successor
//!   |-- who owns p? ----------------------> B   not I; closest before p: C; my successor
//!   |-- who owns p? ----------------------> C   not I; D, my successor
//!   |-- who owns p? ----------------------> D   not I; E, my successor, whose arc holds p
//!   |-- the request ----------------------> E   checks again, at the entry that carries it out
//! ```
//!
//! All of it is hints. A link that is stale costs a hop and is corrected by the answer; a [`Search`] ends whatever
//! the hints say, and it ends at the owner if the successor links are right.

mod claims;
mod far_links;
mod search;
mod table;

pub use claims::{merged, standing};
pub use far_links::{FarLinks, Hop, MAX_LEVELS, Question};
pub use search::{Search, best_hints};
pub use table::{MAX_SHADOWED, RoutingTable};

use super::Position;

/// How far along the ring `position` lies for somebody who walks up from `origin`: a key to compare by.
#[must_use]
pub fn steps_from<'a>(origin: &Position, position: &'a Position) -> (bool, &'a Position) {
    (position < origin, position)
}

/// How close before `goal` an arc begins that starts at `start`: a key to compare by, the greatest being the closest. The
/// owner of `goal` is the group whose start is closest before it.
#[must_use]
pub fn closeness<'a>(goal: &Position, start: &'a Position) -> (bool, &'a Position) {
    (start <= goal, start)
}

#[cfg(test)]
mod tests;
