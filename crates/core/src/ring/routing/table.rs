//! The table of descriptors that a node or a gateway keeps.

use super::claims::{Rank, merged, rank};
use crate::group::Descriptor;
use crate::ring::{KeyRange, Position};
use crate::types::{Ballot, GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// The most claims kept that do not stand. They are kept because their members may still help to find the owner, and
/// because they stand again if the claim that displaced them is forgotten.
pub const MAX_SHADOWED: usize = 256;

#[derive(Clone, Debug)]
struct Entry {
    descriptor: Arc<Descriptor>,
    /// The tick of its last use.
    used: u64,
}

/// Descriptors by group and by start of arc, at most so many; what was used least recently goes first.
///
/// The claims that stand are exactly those of [`super::standing`], but each piece of news costs only a few look-ups.
#[derive(Clone, Debug)]
pub struct RoutingTable {
    limit: usize,
    tick: u64,
    groups: BTreeMap<GroupId, Entry>,
    /// The claims that stand, by start. No two overlap.
    routes: BTreeMap<Position, Arc<Descriptor>>,
    /// The claims that do not.
    shadowed: BTreeSet<Rank>,
    uses: BTreeMap<u64, GroupId>,
}

impl RoutingTable {
    /// An empty table for at most `limit` groups, at least one.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            tick: 0,
            groups: BTreeMap::new(),
            routes: BTreeMap::new(),
            shadowed: BTreeSet::new(),
            uses: BTreeMap::new(),
        }
    }

    /// How many groups are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether no group is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group that owns `position`, as far as is known.
    #[must_use]
    pub fn owner(&self, position: &Position) -> Option<&Arc<Descriptor>> {
        self.closest_before(position).next().filter(|route| route.range.contains(position))
    }

    /// The groups whose claims stand, the one that starts closest before `position` first, and so on down the ring.
    pub fn closest_before(&self, position: &Position) -> impl Iterator<Item = &Arc<Descriptor>> {
        let behind = (Bound::Excluded(position), Bound::Unbounded);
        let wrapped = self.routes.range::<Position, _>(behind).rev();
        self.routes.range(..=position).rev().chain(wrapped).map(|(_, route)| route)
    }

    /// The groups whose claims stand right beside a range: the one that ends where it starts, and the one that starts where it
    /// ends.
    pub fn beside(&self, range: &KeyRange) -> impl Iterator<Item = &Arc<Descriptor>> {
        let before = self.closest_before(&range.start).take(2).find(|route| route.range.end == range.start);
        let after = self.owner(&range.end).filter(|route| route.range.start == range.end);
        before.into_iter().chain(after)
    }

    /// What is known of a group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&Arc<Descriptor>> {
        self.groups.get(&group).map(|entry| &entry.descriptor)
    }

    /// Every group known, whether its claim stands or not.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.groups.values().map(|entry| &entry.descriptor)
    }

    /// The groups whose claims stand, in ring order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.routes.values()
    }

    /// Takes in a descriptor. Returns whether it brought news.
    pub fn learn(&mut self, heard: &Descriptor) -> bool {
        let news = match self.group(heard.group) {
            None => Some(heard.clone()),
            Some(known) => merged(known, heard),
        };
        let Some(news) = news else { return false };
        let group = news.group;
        self.put(news);
        self.touch(group);
        self.bound(group);
        true
    }

    /// Notes that a group's descriptor was of use, so that it is not the next to go.
    pub fn touch(&mut self, group: GroupId) {
        let Some(entry) = self.groups.get_mut(&group) else { return };
        self.tick += 1;
        self.uses.remove(&entry.used);
        entry.used = self.tick;
        self.uses.insert(self.tick, group);
    }

    /// Forgets a group, for example one of which every member says that it hosts no replica.
    pub fn forget(&mut self, group: GroupId) {
        if self.remove(group) {
            self.settle();
        }
    }

    /// Takes a node's own word that it leads a group which nobody else is known to lead, under whatever ballot: a higher
    /// one that somebody promised need not have come to anything.
    pub fn leader_says(&mut self, group: GroupId, node: NodeId) {
        if let Some(known) = self.group(group).filter(|known| known.leader.is_none()) {
            let news = Descriptor { leader: Some(node), ..Descriptor::clone(known) };
            self.put(news);
        }
    }

    /// Forgets that `node` leads `group` under `ballot`: it said so itself, or hosts the group no more.
    pub fn distrust_leader(&mut self, group: GroupId, node: NodeId, ballot: Ballot) {
        let trusted = |known: &&Arc<Descriptor>| known.leader == Some(node) && known.ballot <= ballot;
        if let Some(known) = self.group(group).filter(trusted) {
            let news = Descriptor { leader: None, ..Descriptor::clone(known) };
            self.put(news);
        }
    }

    /// Puts `news` in the place of what was known of its group.
    fn put(&mut self, news: Descriptor) {
        let news = Arc::new(news);
        let same_claim = self.group(news.group).is_some_and(|known| rank(known) == rank(&news));
        if same_claim {
            if let Some(route) = self.routes.get_mut(&news.range.start).filter(|route| route.group == news.group) {
                *route = Arc::clone(&news);
            }
            if let Some(entry) = self.groups.get_mut(&news.group) {
                entry.descriptor = news;
            }
            return;
        }
        let used = self.groups.get(&news.group).map_or(0, |entry| entry.used);
        self.withdraw(news.group);
        self.shadowed.insert(rank(&news));
        self.groups.insert(news.group, Entry { descriptor: news, used });
        self.settle();
    }

    /// Takes a group's claim out of both sets.
    fn withdraw(&mut self, group: GroupId) {
        let Some(known) = self.group(group).cloned() else { return };
        let stands = self.routes.get(&known.range.start).is_some_and(|route| route.group == group);
        if stands {
            self.routes.remove(&known.range.start);
        } else {
            self.shadowed.remove(&rank(&known));
        }
    }

    fn remove(&mut self, group: GroupId) -> bool {
        self.withdraw(group);
        let Some(entry) = self.groups.remove(&group) else { return false };
        self.uses.remove(&entry.used);
        true
    }

    /// Lets every shadowed claim stand that may. One pass in falling rank is enough: what stands above a claim is final
    /// when its turn comes, and a claim that it displaces had shadowed only claims whose turn comes later.
    fn settle(&mut self) {
        let waiting: Vec<Rank> = self.shadowed.iter().rev().copied().collect();
        for rank_of_claim in waiting {
            let Some(claim) = self.group(rank_of_claim.1).cloned() else { continue };
            let rivals = self.overlapping(&claim.range);
            if rivals.iter().any(|rival| rank(rival) > rank_of_claim) {
                continue;
            }
            for rival in rivals {
                self.routes.remove(&rival.range.start);
                self.shadowed.insert(rank(&rival));
            }
            self.shadowed.remove(&rank_of_claim);
            self.routes.insert(claim.range.start.clone(), claim);
        }
    }

    /// The standing claims that overlap `range`.
    fn overlapping(&self, range: &KeyRange) -> Vec<Arc<Descriptor>> {
        let before = self.closest_before(&range.start).next().filter(|route| route.range.contains(&range.start));
        let mut found: Vec<_> = before.cloned().into_iter().collect();
        for (from, to) in range.spans() {
            let to = to.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let inside = self.routes.range::<Position, _>((Bound::Included(&from), to));
            found.extend(inside.map(|(_, route)| Arc::clone(route)));
        }
        // The arc that covers the start may itself start inside, if it wraps or starts at the same place.
        found.sort_by_key(|route| route.group);
        found.dedup_by_key(|route| route.group);
        found
    }

    /// Brings the table back to its limits, without dropping `keep`.
    fn bound(&mut self, keep: GroupId) {
        while self.shadowed.len() > MAX_SHADOWED {
            let lowest = self.shadowed.first().map(|(_, group)| *group);
            if !lowest.is_some_and(|group| self.remove(group)) {
                break;
            }
        }
        while self.groups.len() > self.limit {
            let Some(oldest) = self.uses.values().copied().find(|group| *group != keep) else { break };
            self.forget(oldest);
        }
    }
}
