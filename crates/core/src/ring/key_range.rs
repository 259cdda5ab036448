//! Arcs of the ring.

use super::Position;
use super::routing::steps_from;
use crate::codec_struct;
use std::fmt;

/// The arc `[start, end)`, going up from `start` and wrapping past the last position. `start == end` is the whole ring,
/// never the empty arc.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// The first position inside.
    pub start: Position,
    /// The first position outside.
    pub end: Position,
}

codec_struct!(KeyRange { start, end });

impl KeyRange {
    /// The whole ring, cut at its first position.
    #[must_use]
    pub const fn whole() -> Self {
        Self { start: Position::first(), end: Position::first() }
    }

    /// Whether the arc is the whole ring.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.start == self.end
    }

    /// Whether `position` lies inside.
    #[must_use]
    pub fn contains(&self, position: &Position) -> bool {
        self.contains_bytes(&position.0)
    }

    /// [`KeyRange::contains`] for a position's bare bytes.
    #[must_use]
    pub fn contains_bytes(&self, position: &[u8]) -> bool {
        // An empty boundary is the first position: it needs no comparison, and the common ranges have one.
        if self.end.0.is_empty() {
            self.start.0.is_empty() || *self.start.0 <= *position
        } else if self.start < self.end {
            *self.start.0 <= *position && *position < *self.end.0
        } else {
            *self.start.0 <= *position || *position < *self.end.0
        }
    }

    /// Whether all of `other` lies inside.
    #[must_use]
    pub fn encloses(&self, other: &Self) -> bool {
        let steps = |position| steps_from(&self.start, position);
        let ends_inside = other.end == self.end || steps(&other.start) < steps(&other.end) && self.contains(&other.end);
        self.is_whole() || !other.is_whole() && self.contains(&other.start) && ends_inside
    }

    /// The arc as one or two spans `[from, to)` of plain byte order, `None` for "to the last position", in ring order.
    #[must_use]
    pub fn spans(&self) -> Vec<(Position, Option<Position>)> {
        if self.start < self.end {
            return vec![(self.start.clone(), Some(self.end.clone()))];
        }
        let mut spans = vec![(self.start.clone(), None)];
        if self.end != Position::first() {
            spans.push((Position::first(), Some(self.end.clone())));
        }
        spans
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn position(number: u8) -> Position {
        if number == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[number])) }
    }

    proptest! {
        #[test]
        fn an_arc_encloses_another_if_it_holds_all_its_positions(ends in prop::array::uniform4(0u8..6)) {
            let [one, other] = [(ends[0], ends[1]), (ends[2], ends[3])]
                .map(|(start, end)| KeyRange { start: position(start), end: position(end) });
            let held = (0u8..6).map(position).filter(|at| other.contains(at)).all(|at| one.contains(&at));
            prop_assert_eq!(one.encloses(&other), held);
        }
    }
}
