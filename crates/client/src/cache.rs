//! What this process believes about the ring: which group owns a position, who its members are, who leads it.
//!
//! Everything here is a hint. A node that does not own a position refuses, and its refusal brings the better hint. Which of
//! two hints is believed is told in [`scatter_core::ring::routing`].
//!
//! Reading is wait-free: a view is never changed, only replaced.

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rand::seq::IndexedRandom as _;
use scatter_core::group::{Descriptor, Member, Role};
use scatter_core::ring::{Position, routing};
use scatter_core::types::{Ballot, GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;

/// The most groups that are remembered. Past that those go first whose claims do not stand, then any: who is asked for again is
/// found again.
pub const MAX_GROUPS: usize = 1 << 16;
/// When some must go, room is made for so many more, so that not each new group costs a search: one part in this many.
const ROOM: usize = 16;

/// One consistent picture of the ring.
#[derive(Clone, Default, Debug)]
pub struct RingView {
    /// Every group heard of, in the newest form heard.
    groups: BTreeMap<GroupId, Arc<Descriptor>>,
    /// The groups whose claim stands, by the start of their arc. No two overlap.
    routes: Vec<Arc<Descriptor>>,
}

impl RingView {
    /// The group that owns `position`, as far as is known.
    #[must_use]
    pub fn owner(&self, position: &Position) -> Option<&Arc<Descriptor>> {
        let after = self.routes.partition_point(|route| route.range.start <= *position);
        // The arc that wraps past the last position is the one that starts last.
        let route = if after == 0 { self.routes.last() } else { self.routes.get(after - 1) };
        route.filter(|route| route.range.contains(position))
    }

    /// The only route, if it is the whole ring: then no position need be computed.
    #[must_use]
    pub fn whole(&self) -> Option<&Arc<Descriptor>> {
        self.routes.first().filter(|route| route.range.is_whole())
    }

    /// What is known of a group.
    #[must_use]
    pub fn group(&self, group: GroupId) -> Option<&Arc<Descriptor>> {
        self.groups.get(&group)
    }

    /// Every group heard of, whether its claim stands or not.
    pub fn groups(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.groups.values()
    }

    /// The groups whose claims stand, in ring order.
    #[must_use]
    pub fn routes(&self) -> &[Arc<Descriptor>] {
        &self.routes
    }

    /// Every node that some group names as a member, with the address given there.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.groups.values().flat_map(|descriptor| &descriptor.configuration.members)
    }

    /// What taking in `heard` would change the group to; `None` if it brings no news.
    fn merged(&self, heard: &Descriptor) -> Option<Descriptor> {
        match self.groups.get(&heard.group) {
            Some(known) => routing::merged(known, heard),
            None => Some(heard.clone()),
        }
    }

    /// Forgets groups until there are at most `most`, those that `keep` names last.
    fn make_room(&mut self, most: usize, keep: &BTreeSet<GroupId>) {
        if self.groups.len() <= most {
            return;
        }
        let standing: BTreeSet<GroupId> =
            routing::standing(self.groups.values().cloned()).iter().map(|route| route.group).collect();
        self.groups.retain(|group, _| standing.contains(group) || keep.contains(group));
        let excess = self.groups.len().saturating_sub(most);
        if excess > 0 {
            let spared: Vec<GroupId> = self.groups.keys().filter(|group| !keep.contains(group)).copied().collect();
            for group in spared.choose_multiple(&mut rand::rng(), excess + most / ROOM) {
                self.groups.remove(group);
            }
        }
        while self.groups.len() > most {
            self.groups.pop_last();
        }
    }

    fn rebuild(&mut self) {
        self.routes = routing::standing(self.groups.values().cloned());
    }
}

/// The current view, and news of changes.
#[derive(Debug)]
pub struct RingCache {
    view: ArcSwap<RingView>,
    /// Serialises writers; readers never touch it.
    writer: Mutex<()>,
    changes: watch::Sender<u64>,
    /// How many groups are remembered at most.
    most: usize,
}

impl Default for RingCache {
    fn default() -> Self {
        let (view, writer) = (ArcSwap::default(), Mutex::new(()));
        Self { view, writer, changes: watch::Sender::new(0), most: MAX_GROUPS }
    }
}

impl RingCache {
    /// The current view, for a short look.
    pub fn view(&self) -> arc_swap::Guard<Arc<RingView>> {
        self.view.load()
    }

    /// Takes in descriptors. Returns whether anything changed.
    pub fn learn<'a>(&self, heard: impl IntoIterator<Item = &'a Descriptor> + Clone) -> bool {
        let view = self.view.load();
        if heard.clone().into_iter().all(|descriptor| view.merged(descriptor).is_none()) {
            return false;
        }
        drop(view);
        let mut keep = BTreeSet::new();
        self.change(|view| {
            for descriptor in heard {
                if let Some(merged) = view.merged(descriptor) {
                    keep.insert(merged.group);
                    view.groups.insert(merged.group, Arc::new(merged));
                }
            }
            view.make_room(self.most, &keep);
        });
        true
    }

    /// Takes a node's own word that it leads a group which nobody else is known to lead, under whatever ballot: a higher
    /// one that somebody promised need not have come to anything.
    pub fn leader_says(&self, group: GroupId, node: NodeId) {
        let leaderless = |view: &RingView| view.group(group).is_some_and(|known| known.leader.is_none());
        if !leaderless(&self.view.load()) {
            return;
        }
        self.change(|view| {
            if leaderless(view)
                && let Some(known) = view.groups.get_mut(&group)
            {
                Arc::make_mut(known).leader = Some(node);
            }
        });
    }

    /// Forgets that `node` leads `group` under `ballot`: it said so itself, or hosts the group no more.
    pub fn distrust_leader(&self, group: GroupId, node: NodeId, ballot: Ballot) {
        let trusted = |view: &RingView| {
            view.group(group).is_some_and(|known| known.leader == Some(node) && known.ballot <= ballot)
        };
        if !trusted(&self.view.load()) {
            return;
        }
        self.change(|view| {
            if trusted(view)
                && let Some(known) = view.groups.get_mut(&group)
            {
                Arc::make_mut(known).leader = None;
            }
        });
    }

    /// Forgets a group of which every member says that it hosts no replica.
    pub fn forget(&self, group: GroupId) {
        if self.view.load().group(group).is_some() {
            self.change(|view| {
                view.groups.remove(&group);
            });
        }
    }

    /// Tells of every change after this call.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut RingView)) {
        let _writer = self.writer.lock();
        let mut view = RingView::clone(&self.view.load());
        change(&mut view);
        view.rebuild();
        self.view.store(Arc::new(view));
        self.changes.send_modify(|version| *version += 1);
    }
}

/// Who of a group may be asked: the voters first, then the learners.
pub fn candidates(descriptor: &Descriptor) -> impl Iterator<Item = &Member> {
    let members = &descriptor.configuration.members;
    let voters = members.iter().filter(|member| member.role == Role::Voter);
    voters.chain(members.iter().filter(|member| member.role == Role::Learner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use scatter_core::group::Configuration;
    use scatter_core::ring::KeyRange;
    use scatter_core::types::{ConfigurationVersion, Incarnation, RangeVersion};

    fn position(byte: u8) -> Position {
        if byte == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&[byte])) }
    }

    fn descriptor(group: u64, range: (u8, u8), range_version: u64) -> Descriptor {
        let member = |node| Member {
            node: NodeId(node),
            incarnation: Incarnation(1),
            role: Role::Voter,
            address: format!("127.0.0.1:{node}"),
        };
        Descriptor {
            group: GroupId(group),
            configuration: Configuration {
                version: ConfigurationVersion(1),
                members: vec![member(1), member(2), member(3)],
            },
            range_version: RangeVersion(range_version),
            range: KeyRange { start: position(range.0), end: position(range.1) },
            leader: Some(NodeId(1)),
            ballot: ballot(1),
        }
    }

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(1), incarnation: Incarnation(1) }
    }

    fn owner(cache: &RingCache, byte: u8) -> Option<u64> {
        cache.view().owner(&position(byte)).map(|route| route.group.0)
    }

    #[test]
    fn one_group_owns_the_whole_ring() {
        let cache = RingCache::default();
        assert_eq!(owner(&cache, 9), None);
        assert!(cache.learn(&[descriptor(1, (0, 0), 1)]));
        assert!(cache.view().whole().is_some());
        assert_eq!((owner(&cache, 0), owner(&cache, 255)), (Some(1), Some(1)));
    }

    #[test]
    fn arcs_wrap_and_gaps_stay_gaps() {
        let cache = RingCache::default();
        cache.learn(&[descriptor(1, (200, 50), 1), descriptor(2, (50, 100), 1)]);
        assert_eq!(owner(&cache, 250), Some(1));
        assert_eq!(owner(&cache, 0), Some(1));
        assert_eq!(owner(&cache, 49), Some(1));
        assert_eq!(owner(&cache, 50), Some(2));
        assert_eq!(owner(&cache, 100), None);
        assert_eq!(owner(&cache, 199), None);
        assert!(cache.view().whole().is_none());
    }

    #[test]
    fn a_split_displaces_the_parent_even_when_its_old_self_is_heard_again() {
        let cache = RingCache::default();
        let whole = descriptor(1, (0, 0), 1);
        cache.learn(std::slice::from_ref(&whole));
        cache.learn(&[descriptor(2, (100, 0), 2)]);
        assert_eq!(owner(&cache, 150), Some(2));
        assert_eq!(owner(&cache, 50), None, "the parent's old claim overlaps and falls");
        cache.learn(&[descriptor(1, (0, 100), 2)]);
        assert_eq!(owner(&cache, 50), Some(1));
        assert!(!cache.learn(&[whole]), "an older range is no news");
        assert_eq!(owner(&cache, 150), Some(2));
    }

    #[test]
    fn each_part_is_taken_by_its_own_version() {
        let cache = RingCache::default();
        cache.learn(&[descriptor(1, (0, 0), 5)]);
        let mut heard = descriptor(1, (0, 100), 4);
        heard.configuration.version = ConfigurationVersion(2);
        heard.configuration.members.pop();
        heard.leader = Some(NodeId(2));
        heard.ballot = ballot(3);
        assert!(cache.learn(&[heard]));
        let view = cache.view();
        let known = view.group(GroupId(1)).expect("the group is known");
        assert_eq!(known.range_version, RangeVersion(5));
        assert!(known.range.is_whole());
        assert_eq!(known.configuration.members.len(), 2);
        assert_eq!((known.leader, known.ballot), (Some(NodeId(2)), ballot(3)));
    }

    #[test]
    fn a_lower_ballot_is_no_news_and_a_distrusted_leader_is_forgotten() {
        let cache = RingCache::default();
        let mut heard = descriptor(1, (0, 0), 1);
        heard.ballot = ballot(4);
        cache.learn(std::slice::from_ref(&heard));
        let mut older = heard.clone();
        older.ballot = ballot(3);
        older.leader = Some(NodeId(3));
        assert!(!cache.learn(&[older]));

        cache.distrust_leader(GroupId(1), NodeId(1), ballot(3));
        assert_eq!(cache.view().group(GroupId(1)).and_then(|known| known.leader), Some(NodeId(1)));
        cache.distrust_leader(GroupId(1), NodeId(1), ballot(4));
        assert_eq!(cache.view().group(GroupId(1)).and_then(|known| known.leader), None);
        assert!(cache.learn(&[heard]), "who names the leader under the same ballot is believed again");
    }

    #[test]
    fn a_promise_that_came_to_nothing_does_not_hide_the_leader() {
        let cache = RingCache::default();
        let leader = |cache: &RingCache| cache.view().group(GroupId(1)).and_then(|known| known.leader);
        cache.learn(&[descriptor(1, (0, 0), 1)]);
        // A follower promised node 2 a higher ballot, and node 2 did not win.
        let mut promised = descriptor(1, (0, 0), 1);
        promised.ballot = Ballot { node: NodeId(2), ..ballot(7) };
        promised.leader = None;
        cache.learn(std::slice::from_ref(&promised));
        assert_eq!(leader(&cache), None);
        assert!(!cache.learn(&[descriptor(1, (0, 0), 1)]), "hearsay under the lower ballot is not believed");
        cache.leader_says(GroupId(1), NodeId(1));
        assert_eq!(leader(&cache), Some(NodeId(1)));
        assert!(!cache.learn(std::slice::from_ref(&promised)), "the same promise is no news");
        // It wins after all.
        cache.learn(&[Descriptor { leader: Some(NodeId(2)), ..promised }]);
        assert_eq!(leader(&cache), Some(NodeId(2)));
        cache.leader_says(GroupId(1), NodeId(1));
        assert_eq!(leader(&cache), Some(NodeId(2)), "who is deposed and does not know it is not believed");
    }

    #[test]
    fn a_full_cache_goes_on_learning() {
        let cache = RingCache { most: 32, ..RingCache::default() };
        // The ring is split again and again: the claims that fell are worth nothing.
        for byte in 0..32_u8 {
            cache.learn(&[descriptor(u64::from(byte) + 1, (byte * 2, 0), u64::from(byte) + 1)]);
            cache.learn(&[descriptor(u64::from(byte) + 1, (byte * 2, byte * 2 + 2), u64::from(byte) + 2)]);
        }
        cache.learn(&[descriptor(100, (64, 0), 40)]);
        assert!(cache.view().groups().count() <= 32);
        assert_eq!(owner(&cache, 200), Some(100), "what was heard last is known");
        // One takes the place of all.
        cache.learn(&[descriptor(101, (0, 0), 50)]);
        for group in 200..300 {
            cache.learn(&[descriptor(group, (0, 0), 50 + group)]);
            assert_eq!(owner(&cache, 9), Some(group));
            assert!(cache.view().groups().count() <= 32);
        }
        let many: Vec<Descriptor> =
            (0..100).map(|byte| descriptor(1000 + u64::from(byte), (byte, byte + 1), 900)).collect();
        cache.learn(&many);
        assert_eq!(cache.view().groups().count(), 32, "also of what comes at once");
    }

    #[tokio::test]
    async fn changes_are_told() {
        let cache = RingCache::default();
        let mut changes = cache.changes();
        assert!(!changes.has_changed().expect("the sender lives"));
        cache.learn(&[descriptor(1, (0, 0), 1)]);
        changes.changed().await.expect("the sender lives");
        cache.learn(&[descriptor(1, (0, 0), 1)]);
        assert!(!changes.has_changed().expect("the sender lives"), "no news, no change");
        cache.forget(GroupId(1));
        assert!(changes.has_changed().expect("the sender lives"));
        assert_eq!(owner(&cache, 3), None);
    }

    proptest! {
        #[test]
        fn whatever_is_heard_no_position_has_two_owners_and_the_newest_claim_stands(
            heard in prop::collection::vec((1_u64..6, 0_u8..8, 0_u8..8, 1_u64..5), 1..12),
        ) {
            let cache = RingCache::default();
            for (group, start, end, version) in heard {
                cache.learn(&[descriptor(group, (start, end), version)]);
            }
            let view = cache.view();
            let newest = view.groups.values().map(|known| known.range_version).max();
            for byte in 0..9 {
                let claimed = view.routes.iter().filter(|route| route.range.contains(&position(byte)));
                let claims: Vec<_> = claimed.map(|route| route.group.0).collect();
                prop_assert!(claims.len() <= 1);
                prop_assert_eq!(claims.first().copied(), owner(&cache, byte));
            }
            prop_assert!(view.routes.iter().any(|route| Some(route.range_version) == newest));
        }
    }
}
