//! Letting go of data that no replica of a node refers to any more.
//!
//! Replicas may share a tablet, each with other positions of it. A tablet that nobody else uses goes as a whole. Of one that
//! is still in use only the spans that nobody refers to go, and not from its indexes of deadlines, which are ordered by time:
//! what is left there is passed over and removed when it is met ([`super::expiry`]).
//!
//! What nobody refers to is never referred to again: references are only handed on from replica to replica, and a tablet's
//! number is given out once. So it is dropped for good ([`Batch::drop_range`]), and the store gives its space back later.

use super::layout::{self, Space};
use super::machine::Frame;
use super::snapshot;
use super::tablets::{Piece, TabletMap};
use crate::ring::{KeyRange, Position};
use crate::store::{Batch, Read, Store, StoreError};
use crate::types::{GroupId, TabletId};
use bytes::Bytes;

/// Positions from `from` up to `to`, or to the last one.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Span {
    from: Position,
    to: Option<Position>,
}

/// What may be removed.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Unused {
    /// A whole tablet.
    Tablet(TabletId),
    /// Some positions of a tablet that is still in use.
    Part(TabletId, Span),
}

/// Store keys from the first up to the second.
pub type StoreSpan = (Vec<u8>, Vec<u8>);

impl Unused {
    /// Where it lies in the store.
    fn stored(&self) -> Vec<StoreSpan> {
        match self {
            Self::Tablet(tablet) => vec![layout::tablet_span(*tablet)],
            Self::Part(tablet, span) => [Space::Values, Space::Idempotency]
                .map(|space| layout::positions(*tablet, space, &span.from, span.to.as_ref()))
                .to_vec(),
        }
    }
}

impl Span {
    /// The parts of it that `other` leaves.
    fn without(self, other: &Self) -> Vec<Self> {
        let ends_before = |end: &Option<Position>, at: &Position| end.as_ref().is_some_and(|end| end <= at);
        if ends_before(&self.to, &other.from) || ends_before(&other.to, &self.from) {
            return vec![self];
        }
        let mut parts = Vec::with_capacity(2);
        if self.from < other.from {
            parts.push(Self { from: self.from, to: Some(other.from.clone()) });
        }
        if let Some(end) = &other.to
            && !ends_before(&self.to, end)
        {
            parts.push(Self { from: end.clone(), to: self.to });
        }
        parts
    }
}

fn spans_of<'a>(pieces: &'a [Piece], tablet: TabletId) -> impl Iterator<Item = Span> + 'a {
    let pieces = pieces.iter().filter(move |piece| piece.tablet == tablet);
    pieces.flat_map(|piece| piece.range.spans()).map(|(from, to)| Span { from, to })
}

/// Those parts of the pieces given up that nobody else refers to.
fn unused(given_up: &[Piece], used: &[Piece]) -> Vec<Unused> {
    let mut unused = Vec::new();
    let mut tablets: Vec<TabletId> = given_up.iter().map(|piece| piece.tablet).collect();
    tablets.sort_unstable();
    tablets.dedup();
    for tablet in tablets {
        if used.iter().all(|piece| piece.tablet != tablet) {
            unused.push(Unused::Tablet(tablet));
            continue;
        }
        let mut left: Vec<Span> = spans_of(given_up, tablet).collect();
        for other in spans_of(used, tablet) {
            left = left.into_iter().flat_map(|span| span.without(&other)).collect();
        }
        unused.extend(left.into_iter().map(|span| Unused::Part(tablet, span)));
    }
    unused
}

/// Everything that a replica's record on the store refers to, and every tablet that a snapshot is being received into; but
/// for the replicas of the groups that `except` names.
pub(super) fn references(read: &impl Read, except: &dyn Fn(GroupId) -> bool) -> Result<Vec<Piece>, StoreError> {
    let mut pieces = Vec::new();
    layout::each_replica(read, |group, record| {
        if !except(group) {
            pieces.extend(Frame::parse(Bytes::copy_from_slice(record))?.pieces().0);
        }
        Ok(())
    })?;
    layout::each_incoming(read, |_, record| {
        let tablet = snapshot::incoming_tablet(record)?;
        pieces.extend(TabletMap::single(KeyRange::whole(), tablet).0);
        Ok(())
    })?;
    Ok(pieces)
}

/// Removes what replicas gave up and nobody refers to. `changing` names the groups whose records the same batch replaces,
/// each with the pieces it has then, if there is such a replica then.
pub(super) fn release<S: Store>(
    store: &S,
    batch: &mut S::Batch,
    given_up: &TabletMap,
    changing: &[(GroupId, Option<&TabletMap>)],
) -> Result<(), StoreError> {
    let mut used = references(store, &|group| changing.iter().any(|(changed, _)| *changed == group))?;
    used.extend(changing.iter().filter_map(|(_, tablets)| *tablets).flat_map(|tablets| tablets.0.iter().cloned()));
    for (start, end) in unused(&given_up.0, &used).iter().flat_map(Unused::stored) {
        batch.drop_range(&start, &end);
    }
    Ok(())
}

/// All that no replica refers to of the tablets ever given out, as spans of store keys: what was dropped, and may still take
/// space after a restart.
pub fn unused_spans(read: &impl Read) -> Result<Vec<StoreSpan>, StoreError> {
    let used = references(read, &|_| false)?;
    let mut tablets: Vec<TabletId> = used.iter().map(|piece| piece.tablet).collect();
    tablets.sort_unstable();
    tablets.dedup();
    let end = snapshot::highest_tablet(read)?.next();
    let mut spans = Vec::new();
    let mut next = TabletId(0);
    for tablet in tablets {
        spans.push(layout::tablets_between(next, tablet));
        let whole = TabletMap::single(KeyRange::whole(), tablet);
        spans.extend(unused(&whole.0, &used).iter().flat_map(Unused::stored));
        next = tablet.next();
    }
    spans.push(layout::tablets_between(next, end));
    spans.retain(|(start, end)| start < end);
    Ok(spans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(index: u8) -> Position {
        if index == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[index])) }
    }

    fn piece() -> impl Strategy<Value = Piece> {
        (0..10u8, 0..10u8, 0..3u64).prop_map(|(start, end, tablet)| Piece {
            range: KeyRange { start: position(start), end: position(end) },
            tablet: TabletId(tablet),
            offset_micros: 0,
        })
    }

    fn pieces() -> impl Strategy<Value = Vec<Piece>> {
        proptest::collection::vec(piece(), 0..5)
    }

    fn has(pieces: &[Piece], tablet: TabletId, position: &Position) -> bool {
        pieces.iter().any(|piece| piece.tablet == tablet && piece.range.contains(position))
    }

    proptest! {
        #[test]
        fn what_goes_is_what_was_given_up_and_nobody_uses(given_up in pieces(), used in pieces()) {
            let gone = unused(&given_up, &used);
            for tablet in (0..3).map(TabletId) {
                let in_use = used.iter().any(|piece| piece.tablet == tablet);
                let was_there = given_up.iter().any(|piece| piece.tablet == tablet);
                prop_assert_eq!(gone.contains(&Unused::Tablet(tablet)), was_there && !in_use);
                for at in (0..12).map(position) {
                    let removed = gone.iter().any(|unused| match unused {
                        Unused::Tablet(_) => false,
                        Unused::Part(of, Span { from, to }) => {
                            *of == tablet && *from <= at && to.as_ref().is_none_or(|to| at < *to)
                        }
                    });
                    let expected = in_use && has(&given_up, tablet, &at) && !has(&used, tablet, &at);
                    prop_assert_eq!(removed, expected);
                }
            }
        }
    }
}
