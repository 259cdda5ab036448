//! The ring: positions, ranges of positions, and who lies next to whom.

pub mod key_range;
pub mod position;

pub use key_range::KeyRange;
pub use position::{Key, KeyError, MAX_KEY_BYTES, Position};
