//! Where a replica's data lies in its node's store, and in whose time.
//!
//! ```text
//!   range      a ........... m ........... t ........ b
//!   pieces     [ tablet 4      ][ tablet 9  ][ tablet 4 ]
//!   offset       0                +1500        0
//! ```
//!
//! A piece that came from another group keeps the times that group wrote: log time when a key was modified, deadlines, and
//! the indexes that are ordered by them. Rewriting them would take as long as the piece is large. Instead the piece knows
//! by how much its group's clock is ahead of the one that wrote it.
//!
//! Several replicas of a node may share a tablet, each with pieces of its own: that is how a group splits without a copy.

use crate::codec::{Decode, DecodeError, Encode};
use crate::codec_struct;
use crate::ring::{KeyRange, Position};
use crate::time::LogTime;
use crate::types::TabletId;
use bytes::{Bytes, BytesMut};

/// No deadline is set beyond this (the year 148,000), so that moving a time between clocks never passes an end of its
/// numbers, which would turn the far future into the past.
pub(super) const LATEST_DEADLINE: LogTime = LogTime(1 << 62);

/// A tablet, with what the times in a part of it must be moved by.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Place {
    pub(super) tablet: TabletId,
    pub(super) offset_micros: i64,
}

impl Place {
    /// What a time in the store means by the group's clock.
    pub(super) fn group_time(self, stored: LogTime) -> LogTime {
        shifted(stored, self.offset_micros)
    }

    /// How a time by the group's clock is stored here.
    pub(super) fn stored_time(self, group: LogTime) -> LogTime {
        shifted(group, self.offset_micros.wrapping_neg())
    }

    /// Nothing that is due at `group` or later is stored below this. Unlike [`Place::stored_time`] it holds for any time, the
    /// zero that stands for "from the beginning" among them.
    pub(super) fn stored_bound(self, group: LogTime) -> LogTime {
        LogTime(group.0.saturating_add_signed(self.offset_micros.saturating_neg()))
    }
}

/// A time of one clock as another, ahead of it by `offset_micros`, shows it.
pub(super) fn shifted(time: LogTime, offset_micros: i64) -> LogTime {
    LogTime(time.0.wrapping_add_signed(offset_micros))
}

/// A part of a replica's range, and the tablet that holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Which part.
    pub range: KeyRange,
    /// The tablet, which may hold other parts as well, of this or of other replicas.
    pub tablet: TabletId,
    /// Microseconds by which the group's log time is ahead of the times stored there.
    pub offset_micros: i64,
}

codec_struct!(Piece { range, tablet, offset_micros });

impl Piece {
    pub(super) fn place(&self) -> Place {
        Place { tablet: self.tablet, offset_micros: self.offset_micros }
    }

    /// The parts into which the ends of `range` divide the piece, in ring order.
    fn divided(&self, range: &KeyRange, parts: &mut Vec<Self>) {
        let mut cuts: Vec<&Position> = [&range.start, &range.end]
            .into_iter()
            .filter(|cut| !range.is_whole() && **cut != self.range.start && self.range.contains(cut))
            .collect();
        cuts.sort_by_key(|cut| (**cut < self.range.start, *cut));
        let mut start = &self.range.start;
        for end in cuts.into_iter().chain([&self.range.end]) {
            let range = KeyRange { start: start.clone(), end: end.clone() };
            parts.push(Self { range, ..self.clone() });
            start = end;
        }
    }
}

/// Which parts of a node's tablets hold a replica's range: pieces in ring order, beginning where the range does, without
/// gap or overlap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TabletMap(pub Vec<Piece>);

impl Encode for TabletMap {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
}

impl Decode for TabletMap {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Vec::decode(from).map(Self)
    }
}

impl TabletMap {
    /// A whole range in one tablet, in the group's own time.
    #[must_use]
    pub fn single(range: KeyRange, tablet: TabletId) -> Self {
        Self(vec![Piece { range, tablet, offset_micros: 0 }])
    }

    /// The piece that holds a position.
    #[must_use]
    pub fn find(&self, position: &[u8]) -> Option<&Piece> {
        let piece = match &self.0[..] {
            [only] => only,
            pieces => {
                // In ring order from the first start, positions below it come last.
                let first = &pieces.first()?.range.start.0;
                let wanted = (*position < **first, position);
                let after = pieces.partition_point(|piece| {
                    let start = &piece.range.start.0;
                    (*start < *first, &start[..]) <= wanted
                });
                pieces.get(after.checked_sub(1)?)?
            }
        };
        piece.range.contains_bytes(position).then_some(piece)
    }

    /// Each place that pieces lie in, once.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let earlier = |index: usize, place| self.0[..index].iter().any(|piece| piece.place() == place);
        self.0
            .iter()
            .enumerate()
            .map(|(index, piece)| (index, piece.place()))
            .filter_map(move |(index, place)| if earlier(index, place) { None } else { Some(place) })
    }

    /// Whether the pieces are exactly `range`, from its start to its end.
    #[must_use]
    pub fn covers(&self, range: &KeyRange) -> bool {
        let ends = self.0.first().zip(self.0.last());
        ends.is_some_and(|(first, last)| first.range.start == range.start && last.range.end == range.end)
            && self.0.windows(2).all(|pair| pair[0].range.end == pair[1].range.start)
            && self.0.iter().filter(|piece| piece.range.contains(&range.start)).count() == 1
    }

    /// Divides the pieces into those inside `range` and those outside. A piece across one of its ends is in both, in part.
    #[must_use]
    pub fn cut(&self, range: &KeyRange) -> (Self, Self) {
        let mut parts = Vec::with_capacity(self.0.len() + 2);
        for piece in &self.0 {
            piece.divided(range, &mut parts);
        }
        let (inside, outside) = parts.into_iter().partition(|part| range.contains(&part.range.start));
        (arranged(inside), arranged(outside))
    }

    /// These pieces and those of an arc beside them. If the two meet at both ends, the others come last.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        let (Some(ours), Some(theirs)) = (self.0.last(), other.0.first()) else {
            return if self.0.is_empty() { other } else { self };
        };
        let after = ours.range.end == theirs.range.start;
        let before = || other.0.last().map(|piece| &piece.range.end) == self.0.first().map(|piece| &piece.range.start);
        assert!(after || before(), "only pieces that lie side by side are joined");
        let (mut pieces, rest) = if after { (self.0, other.0) } else { (other.0, self.0) };
        pieces.extend(rest);
        Self(coalesced(pieces))
    }

    /// The same pieces for a group whose log time is further ahead by `offset_micros`.
    #[must_use]
    pub fn shifted(mut self, offset_micros: i64) -> Self {
        for piece in &mut self.0 {
            piece.offset_micros = piece.offset_micros.wrapping_add(offset_micros);
        }
        self
    }
}

/// Pieces that follow one another around the ring, turned so that they begin behind a gap, if there is one.
fn arranged(mut pieces: Vec<Piece>) -> TabletMap {
    let ends = pieces.iter().map(|piece| &piece.range.end);
    let begins = pieces.last().map(|last| &last.range.end).into_iter().chain(ends);
    let first = begins.zip(&pieces).position(|(before, piece)| *before != piece.range.start);
    pieces.rotate_left(first.unwrap_or(0));
    TabletMap(coalesced(pieces))
}

/// Makes one of neighbours that lie in the same place.
fn coalesced(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.place() == piece.place() && last.range.end == piece.range.start => {
                last.range.end = piece.range.end;
            }
            Some(_) | None => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Boundaries and probes: the first position, single bytes, and what lies between those.
    fn position(index: u8) -> Position {
        match index {
            0 => Position::first(),
            _ if index.is_multiple_of(2) => Position(Bytes::copy_from_slice(&[index])),
            _ => Position(Bytes::copy_from_slice(&[index - 1, 7])),
        }
    }

    const POSITIONS: u8 = 24;

    fn range(start: u8, end: u8) -> KeyRange {
        KeyRange { start: position(start), end: position(end) }
    }

    /// An arc in up to six pieces, some of which lie in one place.
    fn map() -> impl Strategy<Value = (KeyRange, TabletMap)> {
        let cuts = proptest::collection::btree_set(0..POSITIONS, 1..7);
        (cuts, any::<proptest::sample::Index>(), any::<bool>(), proptest::collection::vec((0..3u64, 0..2i64), 7))
            .prop_map(|(cuts, first, whole, places)| {
                let mut cuts: Vec<u8> = cuts.into_iter().collect();
                let first = first.index(cuts.len());
                cuts.rotate_left(first);
                if whole || cuts.len() == 1 {
                    cuts.push(cuts[0]);
                }
                let piece = |(ends, (tablet, offset_micros)): (&[u8], &(u64, i64))| Piece {
                    range: range(ends[0], ends[1]),
                    tablet: TabletId(*tablet),
                    offset_micros: *offset_micros,
                };
                let pieces = cuts.windows(2).zip(&places).map(piece).collect();
                (range(cuts[0], cuts[cuts.len() - 1]), TabletMap(pieces))
            })
    }

    fn arc() -> impl Strategy<Value = KeyRange> {
        (0..POSITIONS, 0..POSITIONS).prop_map(|(start, end)| range(start, end))
    }

    fn naive(map: &TabletMap, position: &Position) -> Option<Place> {
        map.0.iter().find(|piece| piece.range.contains(position)).map(Piece::place)
    }

    fn found(map: &TabletMap, position: &Position) -> Option<Place> {
        map.find(&position.0).map(Piece::place)
    }

    fn is_coalesced(map: &TabletMap) -> bool {
        map.0.windows(2).all(|pair| pair[0].place() != pair[1].place() || pair[0].range.end != pair[1].range.start)
    }

    proptest! {
        #[test]
        fn a_position_is_found_where_a_search_of_all_pieces_finds_it((range, map) in map()) {
            prop_assert!(map.covers(&range));
            for index in 0..POSITIONS {
                let position = position(index);
                prop_assert_eq!(found(&map, &position), naive(&map, &position));
                prop_assert_eq!(found(&map, &position).is_some(), range.contains(&position));
            }
            let again = TabletMap::from_all(map.to_bytes()).unwrap();
            prop_assert_eq!(again, map);
        }

        #[test]
        fn a_cut_leaves_every_position_where_it_was((_, map) in map(), arc in arc()) {
            let (inside, outside) = map.cut(&arc);
            prop_assert!(is_coalesced(&inside) && is_coalesced(&outside));
            for index in 0..POSITIONS {
                let position = position(index);
                let (within, without) = (found(&inside, &position), found(&outside, &position));
                prop_assert_eq!(within.or(without), found(&map, &position));
                prop_assert!(within.is_none() || arc.contains(&position));
                prop_assert!(without.is_none() || !arc.contains(&position));
            }
        }

        #[test]
        fn a_part_at_either_end_is_cut_off_and_joined_again((whole, map) in map(), at in 0..POSITIONS, upper: bool) {
            let at = position(at);
            prop_assume!(whole.contains(&at) && at != whole.start);
            let lower_part = KeyRange { start: whole.start.clone(), end: at.clone() };
            let upper_part = KeyRange { start: at, end: whole.end.clone() };
            let (moving, staying) = if upper { (&upper_part, &lower_part) } else { (&lower_part, &upper_part) };
            let (inside, outside) = map.cut(moving);
            prop_assert!(inside.covers(moving) && outside.covers(staying));
            // On a ring of two arcs both ends meet; then the part that comes last is the one that is joined.
            let joined = if whole.is_whole() && !upper { inside.join(outside) } else { outside.join(inside) };
            prop_assert!(joined.covers(&whole));
            prop_assert_eq!(joined.0, coalesced(map.0));
        }

        #[test]
        fn shifts_add_up_and_times_come_back(time: u64, there: i64, back: i64, from: u64) {
            let map = TabletMap::single(KeyRange::whole(), TabletId(1)).shifted(there).shifted(back);
            let place = map.0[0].place();
            prop_assert_eq!(place.offset_micros, there.wrapping_add(back));
            prop_assert_eq!(place.group_time(place.stored_time(LogTime(time))), LogTime(time));
            // A scan that begins at the bound misses nothing that is due from then on, unless its numbers have no room.
            let stored = LogTime(time);
            if let Some(shown) = time.checked_add_signed(place.offset_micros) && shown >= from {
                prop_assert!(place.stored_bound(LogTime(from)) <= stored);
            }
        }
    }

    #[test]
    fn nothing_is_found_in_no_pieces_and_joining_them_changes_nothing() {
        let none = TabletMap::default();
        assert_eq!(none.find(b"x"), None);
        assert!(!none.covers(&KeyRange::whole()));
        let some = TabletMap::single(range(4, 8), TabletId(3));
        assert_eq!(none.clone().join(some.clone()), some);
        assert_eq!(some.clone().join(none), some);
    }

    #[test]
    fn places_are_named_once() {
        let piece = |start, end, tablet, offset_micros| Piece {
            range: range(start, end),
            tablet: TabletId(tablet),
            offset_micros,
        };
        let map = TabletMap(vec![piece(2, 4, 1, 0), piece(4, 6, 2, 0), piece(6, 8, 1, 0), piece(8, 2, 1, 5)]);
        let places: Vec<(u64, i64)> = map.places().map(|place| (place.tablet.0, place.offset_micros)).collect();
        assert_eq!(places, [(1, 0), (2, 0), (1, 5)]);
    }
}
