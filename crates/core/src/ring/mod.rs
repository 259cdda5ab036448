//! The ring: positions, ranges of positions, who lies next to whom, and the way to the owner of a position.

pub mod key_range;
pub mod position;
pub mod routing;

pub use key_range::KeyRange;
pub use position::{Key, KeyError, MAX_KEY_BYTES, Position};
