//! What is known of groups.

use crate::exchange::{Digest, Element, Kind, Span};
use scatter_core::codec::Encode;
use scatter_core::group::Descriptor;
use scatter_core::ring::routing::{merged, standing};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::time::Instant;
use scatter_core::types::{GroupId, RangeVersion};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

struct Entry {
    descriptor: Arc<Descriptor>,
    version: u128,
    /// The local number of its last change.
    revision: u64,
    /// Whether it fits a datagram. If not it stays here.
    fits: bool,
    /// Since when later claims lie over its own: it has changed, or is no more.
    superseded: Option<Instant>,
}

/// All groups known.
///
/// A group that was merged away says nothing more, so its descriptor is dropped by what the others say: for each position the
/// range versions of its successive owners rise, hence a claim under a later one is past. It is kept for a while, since
/// the group may only have shrunk and its members are the ones to ask; and it is not taken in again from whoever still has it.
pub(crate) struct GroupTable {
    most: usize,
    /// The most bytes of a descriptor that is told to others.
    most_bytes: usize,
    groups: BTreeMap<GroupId, Entry>,
    /// The groups by the local numbers of their last changes.
    changes: BTreeMap<u64, GroupId>,
    revision: u64,
    /// The claims that stand, by start, as of the last look.
    standing: BTreeMap<Position, (KeyRange, RangeVersion)>,
    /// Whether a range has changed since then.
    reshaped: bool,
    /// How many claims are past, as of then.
    past: usize,
    /// The digest of all, if it is known.
    digest: Option<Digest>,
}

impl GroupTable {
    pub(crate) fn new(most: usize, most_bytes: usize) -> Self {
        Self {
            most,
            most_bytes,
            groups: BTreeMap::new(),
            changes: BTreeMap::new(),
            revision: 0,
            standing: BTreeMap::new(),
            reshaped: false,
            past: 0,
            digest: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<&Arc<Descriptor>> {
        self.groups.get(&group).map(|entry| &entry.descriptor)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.groups.values().map(|entry| &entry.descriptor)
    }

    /// Some group at or after that id, else the first.
    pub(crate) fn around(&self, group: GroupId) -> Option<&Arc<Descriptor>> {
        let found = self.groups.range(group..).next().or_else(|| self.groups.first_key_value());
        found.map(|(_, entry)| &entry.descriptor)
    }

    /// The number of the last change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// The groups that changed after that number, the earliest change first.
    pub(crate) fn changed_since(&self, revision: u64) -> impl Iterator<Item = &Arc<Descriptor>> {
        let later = self.changes.range((Bound::Excluded(revision), Bound::Unbounded));
        later.filter_map(|(_, group)| self.get(*group))
    }

    /// Takes in what was heard of a group. Returns whether it brought news.
    pub(crate) fn learn(&mut self, heard: &Descriptor) -> bool {
        let news = match self.get(heard.group) {
            Some(known) => merged(known, heard),
            None if self.groups.len() >= self.most || self.is_past(heard) => None,
            None => Some(heard.clone()),
        };
        let Some(news) = news else { return false };
        self.put(news);
        true
    }

    /// Whether the version of `heard` is the one that is known.
    pub(crate) fn has(&self, heard: &Descriptor) -> bool {
        self.groups.get(&heard.group).is_some_and(|entry| entry.version == version(heard))
    }

    fn put(&mut self, news: Descriptor) {
        let known = self.groups.get(&news.group);
        let same_range = known.is_some_and(|entry| entry.descriptor.range_version == news.range_version);
        let superseded = known.filter(|_| same_range).and_then(|entry| entry.superseded);
        if let Some(known) = known {
            self.changes.remove(&known.revision);
        }
        self.reshaped |= !same_range;
        self.digest = None;
        self.revision += 1;
        self.changes.insert(self.revision, news.group);
        let (version, revision, fits) = (version(&news), self.revision, news.to_bytes().len() <= self.most_bytes);
        self.groups.insert(news.group, Entry { descriptor: Arc::new(news), version, revision, fits, superseded });
    }

    /// Whether a later claim lies over this one.
    fn is_past(&self, claim: &Descriptor) -> bool {
        let start = &claim.range.start;
        let before = self.standing.range(..=start).next_back().or_else(|| self.standing.last_key_value());
        let covers_start = before.map(|(_, found)| found).filter(|(range, _)| range.contains(start));
        let next = self.standing.range(start..).next().or_else(|| self.standing.first_key_value());
        let inside = next.filter(|(next, _)| claim.range.contains(next)).map(|(_, found)| found);
        covers_start.into_iter().chain(inside).any(|(_, version)| *version > claim.range_version)
    }

    /// Looks which claims are past, and drops those that have been for longer than `keep`.
    pub(crate) fn sweep(&mut self, now: Instant, keep: Duration) {
        if self.reshaped {
            self.reshaped = false;
            let claims = standing(self.groups.values().map(|entry| &*entry.descriptor));
            let spans = claims.into_iter().map(|it| (it.range.start.clone(), (it.range.clone(), it.range_version)));
            self.standing = spans.collect();
            let descriptors = self.groups.values().map(|entry| &*entry.descriptor);
            let past: BTreeSet<GroupId> =
                descriptors.filter(|descriptor| self.is_past(descriptor)).map(|descriptor| descriptor.group).collect();
            for (group, entry) in &mut self.groups {
                entry.superseded = past.contains(group).then(|| entry.superseded.unwrap_or(now));
            }
            self.past = past.len();
            self.digest = None;
        }
        if self.past == 0 {
            return;
        }
        let long = |entry: &&Entry| entry.superseded.is_some_and(|since| now.since(since) > keep);
        let gone: Vec<(GroupId, u64)> =
            self.groups.values().filter(long).map(|entry| (entry.descriptor.group, entry.revision)).collect();
        for (group, revision) in gone {
            self.groups.remove(&group);
            self.changes.remove(&revision);
            self.past -= 1;
        }
    }

    /// How many groups are too large to be told of.
    pub(crate) fn oversized(&self) -> usize {
        self.groups.values().filter(|entry| !entry.fits).count()
    }

    /// What an exchange compares: all but what is past, or too large to be told.
    pub(crate) fn elements(&self, span: Span) -> Vec<Element> {
        let inside = self.groups.range(GroupId(span.from)..=GroupId(span.to));
        let current = inside.filter(|(_, entry)| entry.superseded.is_none() && entry.fits);
        current.map(|(group, entry)| Element { key: group.0, version: entry.version }).collect()
    }

    /// The digest of all.
    pub(crate) fn digest(&mut self) -> Digest {
        let digest = self.digest.unwrap_or_else(|| Digest::of(&self.elements(Span::whole(Kind::Group))));
        self.digest = Some(digest);
        digest
    }
}

/// A number for everything in a descriptor that has a version of its own.
fn version(descriptor: &Descriptor) -> u128 {
    let Descriptor { configuration, range_version, ballot, leader, .. } = descriptor;
    let mut bytes = bytes::BytesMut::with_capacity(64);
    configuration.version.encode(&mut bytes);
    range_version.encode(&mut bytes);
    ballot.encode(&mut bytes);
    leader.encode(&mut bytes);
    u128::from(xxh3_64(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use scatter_core::group::{Configuration, Member, Role};
    use scatter_core::types::{Ballot, ConfigurationVersion, Incarnation, NodeId};

    const MINUTE: Duration = Duration::from_secs(60);

    fn position(byte: u8) -> Position {
        if byte == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[byte])) }
    }

    fn descriptor(group: u64, range: (u8, u8), range_version: u64) -> Descriptor {
        let member = |node| Member {
            node: NodeId(node),
            incarnation: Incarnation(1),
            role: Role::Voter,
            address: format!("n{node}"),
        };
        Descriptor {
            group: GroupId(group),
            configuration: Configuration { version: ConfigurationVersion(1), members: vec![member(1), member(2)] },
            range_version: RangeVersion(range_version),
            range: KeyRange { start: position(range.0), end: position(range.1) },
            leader: Some(NodeId(1)),
            ballot: Ballot { round: 1, node: NodeId(1), incarnation: Incarnation(1) },
        }
    }

    fn keys(table: &GroupTable) -> Vec<u64> {
        table.elements(Span::whole(Kind::Group)).into_iter().map(|element| element.key).collect()
    }

    #[test]
    fn parts_are_taken_by_their_own_versions_and_changes_are_numbered() {
        let mut table = GroupTable::new(10, 1000);
        assert!(table.learn(&descriptor(1, (0, 50), 3)));
        assert!(table.learn(&descriptor(2, (50, 0), 3)));
        assert!(!table.learn(&descriptor(1, (0, 50), 3)));
        let seen = table.revision();
        let mut heard = descriptor(1, (0, 99), 2);
        heard.configuration.version = ConfigurationVersion(4);
        heard.configuration.members.pop();
        assert!(table.learn(&heard));
        let changed: Vec<_> = table.changed_since(seen).collect();
        assert_eq!(changed.len(), 1);
        assert_eq!((changed[0].range_version, changed[0].configuration.members.len()), (RangeVersion(3), 1));
        assert_eq!(table.changed_since(0).count(), 2);
        assert_eq!(table.changed_since(table.revision()).count(), 0);
    }

    #[test]
    fn a_group_that_was_merged_away_is_dropped_and_stays_dropped() {
        let mut table = GroupTable::new(10, 1000);
        let merged_away = descriptor(2, (50, 0), 1);
        table.learn(&descriptor(1, (0, 50), 1));
        table.learn(&merged_away);
        table.sweep(Instant(0), MINUTE);
        assert_eq!(keys(&table), [1, 2]);
        table.learn(&descriptor(1, (0, 0), 2));
        table.sweep(Instant(0), MINUTE);
        assert_eq!(keys(&table), [1], "what is past is not told of");
        assert!(table.get(GroupId(2)).is_some(), "but it is kept for a while");
        table.sweep(Instant(0).after(MINUTE * 2), MINUTE);
        assert!(table.get(GroupId(2)).is_none());
        assert!(!table.learn(&merged_away), "and it does not come back");
        assert_eq!((table.len(), table.changed_since(0).count()), (1, 1));
    }

    #[test]
    fn a_parent_whose_child_was_heard_of_first_comes_back_smaller() {
        let mut table = GroupTable::new(10, 1000);
        table.learn(&descriptor(1, (0, 0), 1));
        table.learn(&descriptor(2, (50, 0), 2));
        table.sweep(Instant(0), MINUTE);
        assert_eq!(keys(&table), [2]);
        assert!(table.learn(&descriptor(1, (0, 50), 2)));
        assert_eq!(keys(&table), [1, 2]);
        table.sweep(Instant(0).after(MINUTE * 2), MINUTE);
        assert_eq!(keys(&table), [1, 2]);
    }

    #[test]
    fn a_full_table_takes_in_no_other_group() {
        let mut table = GroupTable::new(1, 1000);
        assert!(table.learn(&descriptor(1, (0, 50), 1)));
        assert!(!table.learn(&descriptor(2, (50, 0), 1)));
        assert!(table.learn(&descriptor(1, (0, 0), 2)));
    }

    #[test]
    fn the_digest_follows_every_change() {
        let mut table = GroupTable::new(10, 1000);
        let empty = table.digest();
        table.learn(&descriptor(1, (0, 0), 1));
        let one = table.digest();
        let mut elected = descriptor(1, (0, 0), 1);
        elected.ballot.round = 9;
        table.learn(&elected);
        assert!(table.has(&elected));
        let other = table.digest();
        assert!(empty != one && one != other);
        assert_eq!(other, Digest::of(&table.elements(Span::whole(Kind::Group))));
    }
}
