//! Rings of many groups, with links that are right, stale or missing.

use super::*;
use crate::group::{Configuration, Descriptor, Member, Role};
use crate::ring::KeyRange;
use crate::rng::Rng;
use crate::types::{Ballot, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

fn position(value: u16) -> Position {
    if value == 0 { Position::first() } else { Position(Bytes::copy_from_slice(&value.to_be_bytes())) }
}

fn descriptor(group: u64, start: u16, end: u16, range_version: u64) -> Descriptor {
    let node = NodeId(group);
    Descriptor {
        group: GroupId(group),
        configuration: Configuration {
            version: ConfigurationVersion(1),
            members: vec![Member { node, incarnation: Incarnation(1), role: Role::Voter, address: String::new() }],
        },
        range_version: RangeVersion(range_version),
        range: KeyRange { start: position(start), end: position(end) },
        leader: Some(node),
        ballot: Ballot { round: 1, node, incarnation: Incarnation(1) },
    }
}

/// A ring cut at `starts`, which are sorted and distinct; group `i` owns the `i`-th arc.
fn ring(starts: &[u16], range_version: u64) -> Vec<Arc<Descriptor>> {
    (0..starts.len())
        .map(|i| descriptor(i as u64, starts[i], starts[(i + 1) % starts.len()], range_version))
        .map(Arc::new)
        .collect()
}

/// Lets every group ask until nobody learns more; returns the links and how many rounds it took.
fn fill(groups: &[Arc<Descriptor>]) -> (Vec<FarLinks>, usize) {
    let mut links = vec![FarLinks::default(); groups.len()];
    let mut rounds = 0;
    loop {
        for (i, group) in groups.iter().enumerate() {
            links[i].set_successor(&group.range, Arc::clone(&groups[(i + 1) % groups.len()]));
        }
        let before: usize = links.iter().map(|links| links.links().count()).sum();
        let answers = links.clone();
        for (i, group) in groups.iter().enumerate() {
            if let Some(question) = links[i].question() {
                let asked = usize::try_from(question.ask.group.0).unwrap();
                let answer = answers[asked].level(question.level).cloned();
                links[i].answered(group.group, &group.range, question.level, answer);
            }
        }
        rounds += 1;
        if links.iter().map(|links| links.links().count()).sum::<usize>() == before && rounds > MAX_LEVELS {
            return (links, rounds);
        }
    }
}

fn owner_of(groups: &[Arc<Descriptor>], position: &Position) -> usize {
    groups.iter().position(|group| group.range.contains(position)).unwrap()
}

/// Hops of a request that groups pass on to each other.
fn pass_on(groups: &[Arc<Descriptor>], links: &[FarLinks], from: usize, position: &Position) -> usize {
    let (mut at, mut hops) = (from, 0);
    loop {
        match links[at].next_hop(&groups[at].range, position) {
            Hop::Here => return hops,
            Hop::Ask(next) => at = usize::try_from(next.group.0).unwrap(),
            Hop::NoWay => panic!("a group without a successor"),
        }
        hops += 1;
        assert!(hops <= groups.len(), "the request goes in circles");
    }
}

fn starts() -> impl Strategy<Value = Vec<u16>> {
    proptest::collection::btree_set(any::<u16>(), 1..200).prop_map(|set| set.into_iter().collect())
}

#[test]
fn far_links_double_their_distance() {
    let starts: Vec<u16> = (0..100).map(|i| i * 600).collect();
    let groups = ring(&starts, 1);
    let (links, _) = fill(&groups);
    for (i, links) in links.iter().enumerate() {
        let distances: Vec<u64> = links.links().map(|link| (link.group.0 + 100 - i as u64) % 100).collect();
        assert_eq!(distances, [1, 2, 4, 8, 16, 32, 64], "group {i}");
    }
}

#[test]
fn a_group_alone_has_no_links_and_owns_everything() {
    let groups = ring(&[7], 1);
    let (links, _) = fill(&groups);
    assert_eq!(links[0].links().count(), 0);
    assert_eq!(links[0].next_hop(&groups[0].range, &position(3)), Hop::Here);
}

#[test]
fn a_link_that_was_given_up_comes_back_and_the_successor_is_never_given_up() {
    let starts: Vec<u16> = (0..32).map(|i| i * 2000).collect();
    let groups = ring(&starts, 1);
    let (filled, _) = fill(&groups);
    let mut links = filled[0].clone();
    links.forget(GroupId(4));
    links.forget(GroupId(1));
    assert_eq!((links.level(2), links.links().count()), (None, 4));
    for _ in 0..5 {
        let question = links.question().unwrap();
        let asked = usize::try_from(question.ask.group.0).unwrap();
        links.answered(groups[0].group, &groups[0].range, question.level, filled[asked].level(question.level).cloned());
    }
    assert_eq!(links.level(2).map(|link| link.group), Some(GroupId(4)));
}

#[test]
fn what_lies_right_beside_a_range_is_found_and_nothing_else() {
    let groups = ring(&[0, 10_000, 20_000, 30_000], 1);
    let beside = |table: &RoutingTable, index: usize| {
        let found = table.beside(&groups[index].range).map(|route| route.group.0);
        found.collect::<Vec<_>>()
    };
    let mut table = RoutingTable::new(10);
    assert_eq!(beside(&table, 0), []);
    groups.iter().for_each(|group| assert!(table.learn(group)));
    assert_eq!((beside(&table, 0), beside(&table, 3)), (vec![3, 1], vec![2, 0]));
    // Whatever overlaps the range, or leaves a gap, is not beside it.
    table.forget(GroupId(0));
    assert!(table.learn(&descriptor(7, 15_000, 25_000, 2)));
    assert_eq!((beside(&table, 0), beside(&table, 3), beside(&table, 1)), (vec![3], vec![], vec![]));
}

#[test]
fn a_group_never_asks_itself_although_others_remember_where_it_began() {
    let groups = ring(&[0, 10_000, 20_000, 30_000], 1);
    let (mut links, _) = fill(&groups);
    // The first group gave its beginning away, and its opposite has yet to hear of it.
    let own = descriptor(0, 5_000, 10_000, 2);
    links[0].answered(own.group, &own.range, 1, Some(Arc::clone(&groups[0])));
    assert_eq!(links[0].links().map(|link| link.group.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_thousand_groups_are_crossed_in_ten_hops() {
    let starts: Vec<u16> = (0..1000).map(|i| i * 65).collect();
    let groups = ring(&starts, 1);
    let (links, rounds) = fill(&groups);
    assert!(rounds <= MAX_LEVELS + 12, "{rounds} rounds");
    let mut rng = Rng::new(1);
    for _ in 0..2000 {
        let position = position(rng.next() as u16);
        let hops = pass_on(&groups, &links, (rng.next() % 1000) as usize, &position);
        assert!(hops <= 10, "{hops} hops");
    }
}

#[test]
fn the_table_keeps_what_is_used() {
    let mut table = RoutingTable::new(3);
    for i in 0..3 {
        assert!(table.learn(&descriptor(i, i as u16 * 100, i as u16 * 100 + 100, 1)));
    }
    table.touch(GroupId(0));
    table.learn(&descriptor(3, 300, 400, 1));
    assert_eq!(table.len(), 3);
    assert!(table.group(GroupId(0)).is_some() && table.group(GroupId(1)).is_none());
    assert_eq!(table.owner(&position(350)).map(|route| route.group), Some(GroupId(3)));
    assert_eq!(table.owner(&position(150)), None);
    assert_eq!(table.closest_before(&position(150)).next().map(|route| route.group), Some(GroupId(0)));
}

#[test]
fn a_displaced_claim_stands_again_when_its_rival_is_forgotten() {
    let mut table = RoutingTable::new(10);
    table.learn(&descriptor(1, 0, 0, 1));
    table.learn(&descriptor(2, 100, 0, 2));
    assert_eq!(table.owner(&position(50)), None, "the parent's old claim overlaps and falls");
    assert_eq!(table.group(GroupId(1)).map(|known| known.group), Some(GroupId(1)), "its members may still help");
    table.forget(GroupId(2));
    assert_eq!(table.owner(&position(150)).map(|route| route.group), Some(GroupId(1)));
    assert!(!table.learn(&descriptor(1, 0, 0, 1)), "no news");
}

#[test]
fn a_leader_is_believed_and_distrusted_by_its_ballot() {
    let mut table = RoutingTable::new(10);
    let heard = descriptor(1, 0, 0, 1);
    table.learn(&heard);
    table.distrust_leader(GroupId(1), NodeId(1), Ballot::ZERO);
    assert_eq!(table.owner(&position(5)).and_then(|route| route.leader), Some(NodeId(1)));
    table.distrust_leader(GroupId(1), NodeId(1), heard.ballot);
    assert_eq!(table.owner(&position(5)).and_then(|route| route.leader), None);
    table.leader_says(GroupId(1), NodeId(9));
    assert_eq!(table.owner(&position(5)).and_then(|route| route.leader), Some(NodeId(9)));
    assert!(table.learn(&heard), "the ballot's own node is the better name");
}

#[derive(Clone, Debug)]
enum News {
    Heard { group: u64, start: u16, end: u16, range_version: u64 },
    Forgotten(u64),
}

fn news() -> impl Strategy<Value = News> {
    prop_oneof![
        6 => (0..12_u64, 0..16_u16, 0..16_u16, 1..9_u64)
            .prop_map(|(group, start, end, range_version)| News::Heard { group, start, end, range_version }),
        1 => (0..12_u64).prop_map(News::Forgotten),
    ]
}

proptest! {
    #[test]
    fn the_table_follows_the_rule(story in proptest::collection::vec(news(), 0..60)) {
        let mut table = RoutingTable::new(100);
        for news in story {
            match news {
                News::Heard { group, start, end, range_version } => {
                    table.learn(&descriptor(group, start, end, range_version));
                }
                News::Forgotten(group) => table.forget(GroupId(group)),
            }
            let expected = standing(table.groups().cloned());
            prop_assert_eq!(table.routes().cloned().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn the_table_stays_within_its_limit(story in proptest::collection::vec(news(), 0..60), limit in 1..6_usize) {
        let mut table = RoutingTable::new(limit);
        for news in story {
            match news {
                News::Heard { group, start, end, range_version } => {
                    let is_news = table.learn(&descriptor(group, start, end, range_version));
                    prop_assert!(!is_news || table.group(GroupId(group)).is_some());
                }
                News::Forgotten(group) => table.forget(GroupId(group)),
            }
            prop_assert!(table.len() <= limit);
            prop_assert_eq!(table.routes().cloned().collect::<Vec<_>>(), standing(table.groups().cloned()));
        }
    }

    #[test]
    fn fresh_links_lead_to_the_owner_in_few_hops(starts in starts(), goal in any::<u16>(), from in any::<usize>()) {
        let groups = ring(&starts, 1);
        let (links, _) = fill(&groups);
        let goal = position(goal);
        let hops = pass_on(&groups, &links, from % groups.len(), &goal);
        prop_assert!(hops <= groups.len().next_power_of_two().ilog2() as usize + 1, "{} hops", hops);
    }

    #[test]
    fn missing_links_cost_hops_and_nothing_else(starts in starts(), goal in any::<u16>(), gone in any::<u64>()) {
        let groups = ring(&starts, 1);
        let (mut links, _) = fill(&groups);
        let mut rng = Rng::new(gone);
        for links in &mut links {
            for group in 0..groups.len() as u64 {
                if rng.next().is_multiple_of(2) {
                    links.forget(GroupId(group));
                }
            }
        }
        pass_on(&groups, &links, 0, &position(goal));
    }

    /// The true ring is cut anew; far links and caches show another one with the same groups elsewhere, some of them gone.
    #[test]
    fn a_search_ends_at_the_owner_whatever_the_hints_say(
        old in starts(), new in starts(), goal in any::<u16>(), seed in any::<u64>(),
    ) {
        let stale = ring(&old, 1);
        let (stale_links, _) = fill(&stale);
        let groups = ring(&new, 2);
        let goal = position(goal);
        let mut rng = Rng::new(seed);
        let first = (rng.next() % groups.len() as u64) as usize;
        let cached = stale.iter().filter(|_| rng.next().is_multiple_of(4)).cloned().collect::<Vec<_>>();
        let mut search = Search::new(goal.clone(), cached.into_iter().chain([Arc::clone(&groups[first])]));
        let found = loop {
            let asked = search.ask().expect("the search goes on until the owner is found");
            prop_assert!(search.hops() <= 2 * groups.len() + stale.len());
            let Some(group) = groups.get(usize::try_from(asked.group.0).unwrap()) else { continue };
            if group.range.contains(&goal) {
                break group.group;
            }
            let index = usize::try_from(group.group.0).unwrap();
            let hints = stale_links.get(index).map(|links| best_hints(&goal, links.links(), 3)).unwrap_or_default();
            let successor = Arc::clone(&groups[(index + 1) % groups.len()]);
            search.answered(group.group, hints.into_iter().chain([successor]));
        };
        prop_assert_eq!(found, groups[owner_of(&groups, &goal)].group);
    }

    #[test]
    fn a_search_ends_even_if_the_successors_are_wrong(starts in starts(), goal in any::<u16>(), seed in any::<u64>()) {
        let groups = ring(&starts, 1);
        let mut rng = Rng::new(seed);
        let mut search = Search::new(position(goal), [Arc::clone(&groups[0])]);
        while let Some(asked) = search.ask() {
            prop_assert!(search.hops() <= groups.len());
            if !rng.next().is_multiple_of(3) {
                let wrong = Arc::clone(&groups[(rng.next() % groups.len() as u64) as usize]);
                search.answered(asked.group, [wrong]);
            }
        }
    }
}
