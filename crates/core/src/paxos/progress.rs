//! How a member comes nearer to what its leader has, for a change of members to know whether to wait for it.

use crate::time::Instant;
use bytes::Bytes;

/// How many snapshots a member may begin and still count as one that comes further.
const MOST_SNAPSHOTS: u32 = 4;

/// A member on its way.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// When it last came nearer: it lacked less of the log than ever, or asked for another piece of a snapshot.
    pub(super) at: Instant,
    /// How many slots it lacked when that were fewest.
    least_gap: u64,
    /// The snapshot, and the piece of it that it asked for last.
    pulled: (u64, Option<Bytes>),
    /// How many snapshots it began.
    snapshots: u32,
}

impl Progress {
    pub(super) fn new(now: Instant) -> Self {
        Self { at: now, least_gap: u64::MAX, pulled: (0, None), snapshots: 0 }
    }

    /// It lacks so many slots of what is decided.
    pub(super) fn on_gap(&mut self, gap: u64, now: Instant) {
        if gap < self.least_gap {
            (self.least_gap, self.at) = (gap, now);
        }
    }

    /// It asks for a piece of a snapshot. The same one again does not bring it further, nor does one snapshot after the other.
    pub(super) fn on_pull(&mut self, snapshot: u64, cursor: Option<&Bytes>, now: Instant) {
        if cursor.is_none() {
            return;
        }
        self.snapshots += u32::from(self.pulled.0 != snapshot);
        if self.snapshots <= MOST_SNAPSHOTS && self.pulled.1.as_ref() != cursor {
            self.at = now;
        }
        self.pulled = (snapshot, cursor.cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::Progress;
    use crate::time::Instant;
    use bytes::Bytes;

    #[test]
    fn who_comes_nearer_has_moved_and_who_keeps_its_distance_or_begins_again_has_not() {
        let mut progress = Progress::new(Instant(1));
        progress.on_gap(40, Instant(2));
        progress.on_gap(41, Instant(3));
        progress.on_gap(40, Instant(4));
        assert_eq!(progress.at, Instant(2));
        progress.on_gap(39, Instant(5));
        assert_eq!(progress.at, Instant(5));
        let (one, other) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        progress.on_pull(0, None, Instant(6));
        assert_eq!(progress.at, Instant(5));
        for snapshot in 1..=4 {
            progress.on_pull(snapshot, Some(&one), Instant(snapshot * 10));
            progress.on_pull(snapshot, Some(&other), Instant(snapshot * 10 + 1));
            progress.on_pull(snapshot, Some(&other), Instant(snapshot * 10 + 2));
            assert_eq!(progress.at, Instant(snapshot * 10 + 1));
        }
        progress.on_pull(5, Some(&one), Instant(50));
        assert_eq!(progress.at, Instant(41));
    }
}
