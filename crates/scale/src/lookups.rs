//! How many groups are asked until the owner of a position is found.

use crate::world::{Shape, below, index, led, position, ring};
use scatter_core::group::Descriptor;
use scatter_core::ring::routing::{FarLinks, RoutingTable, Search, best_hints};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::rng::Rng;
use scatter_core::types::{GroupId, RangeVersion};
use std::sync::Arc;

/// How many groups a gateway's table holds.
pub(crate) const TABLE: usize = 1 << 16;
/// How many hints an answer carries beside the successor.
pub(crate) const HINTS: usize = 3;
const LOOKUPS: usize = 20_000;
/// How many look-ups warm a table, for each group of the ring.
const WARM_LOOKUPS: usize = 10;

/// Hops of many look-ups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hops {
    pub(crate) mean: f64,
    pub(crate) p99: usize,
    pub(crate) most: usize,
}

impl Hops {
    pub(crate) fn of(mut hops: Vec<usize>) -> Self {
        hops.sort_unstable();
        let at = |permille: usize| hops[(hops.len() - 1) * permille / 1000];
        let mean = hops.iter().sum::<usize>() as f64 / hops.len() as f64;
        Self { mean, p99: at(990), most: at(1000) }
    }
}

/// One ring of the curve.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    pub(crate) groups: usize,
    /// In how many rounds of one question each all links were known.
    pub(crate) rounds: usize,
    pub(crate) links_per_group: f64,
    /// From somebody who knows a single group.
    pub(crate) stranger: Hops,
    /// From a node that has the far links of the groups it leads.
    pub(crate) node: Hops,
    /// The same after one group in ten has split, before any link was asked for again.
    pub(crate) stale: Hops,
}

/// Look-ups through a table of bounded size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cached {
    pub(crate) name: &'static str,
    pub(crate) hit_permille: f64,
    pub(crate) hops: Hops,
}

/// All look-ups.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    pub(crate) rings: Vec<Ring>,
    pub(crate) cached: Vec<Cached>,
}

pub(crate) fn run(shape: &Shape, largest: usize) -> Lookups {
    let mut sizes = vec![100, 1000, 10_000, shape.groups, largest.max(shape.groups)];
    sizes.retain(|size| *size <= largest.max(shape.groups));
    sizes.sort_unstable();
    sizes.dedup();
    let rings = sizes.iter().map(|groups| one_ring(shape, *groups)).collect();
    Lookups { rings, cached: cached(shape) }
}

fn successors(groups: &[Arc<Descriptor>], links: &mut [FarLinks]) {
    for (i, links) in links.iter_mut().enumerate() {
        links.set_successor(&groups[i].range, Arc::clone(&groups[(i + 1) % groups.len()]));
    }
}

/// Lets every group's leader ask one question a round until nobody learns a new level.
fn fill(groups: &[Arc<Descriptor>]) -> (Vec<FarLinks>, usize) {
    let mut links = vec![FarLinks::default(); groups.len()];
    successors(groups, &mut links);
    let (mut rounds, mut known) = (0, 0);
    loop {
        let answers: Vec<_> = links
            .iter_mut()
            .map(FarLinks::question)
            .collect::<Vec<_>>()
            .into_iter()
            .map(|question| {
                let question = question?;
                let asked = &links[index(question.ask.group.0)];
                Some((question.level, asked.level(question.level).cloned()))
            })
            .collect();
        for (i, answer) in answers.into_iter().enumerate() {
            if let Some((level, link)) = answer {
                links[i].answered(groups[i].group, &groups[i].range, level, link);
            }
        }
        let total: usize = links.iter().map(|links| links.links().count()).sum();
        if total == known {
            return (links, rounds);
        }
        known = total;
        rounds += 1;
    }
}

/// Asks until the owner answers: how many were asked, and who it is. `truth` are the groups as they are.
fn search(
    truth: &[Arc<Descriptor>],
    links: &[FarLinks],
    known: Vec<Arc<Descriptor>>,
    goal: Position,
) -> (usize, usize) {
    let mut search = Search::new(goal, known);
    while let Some(asked) = search.ask() {
        let at = index(asked.group.0);
        if truth[at].range.contains(search.position()) {
            return (search.hops(), at);
        }
        let hints = best_hints(search.position(), links[at].links(), HINTS);
        search.answered(truth[at].group, hints.into_iter().chain(links[at].level(0).cloned()));
    }
    unreachable!("every group here knows its successor, so a search ends at the owner")
}

fn one_ring(shape: &Shape, count: usize) -> Ring {
    let groups = ring(shape, count, shape.size.min(3));
    let (mut links, rounds) = fill(&groups);
    let led = led(shape, &groups);
    let leaders: Vec<usize> = (0..shape.nodes).filter(|node| !led[*node].is_empty()).collect();
    let mut rng = Rng::new(shape.seed ^ 1);
    let links_per_group = links.iter().map(|links| links.links().count()).sum::<usize>() as f64 / groups.len() as f64;
    let stranger = (0..LOOKUPS).map(|_| {
        let known = Arc::clone(&groups[below(&mut rng, groups.len())]);
        search(&groups, &links, vec![known], position(rng.next())).0
    });
    let stranger = Hops::of(stranger.collect());
    let from_nodes = |truth: &[Arc<Descriptor>], links: &[FarLinks], rng: &mut Rng| {
        let hops = (0..LOOKUPS).map(|_| {
            let node = leaders[below(rng, leaders.len())];
            let goal = position(rng.next());
            if led[node].iter().any(|group| truth[*group].range.contains(&goal)) {
                return 0;
            }
            let known = led[node].iter().flat_map(|group| links[*group].links());
            search(truth, links, best_hints(&goal, known, HINTS), goal).0
        });
        Hops::of(hops.collect())
    };
    let node = from_nodes(&groups, &links, &mut rng);
    let split = split_some(&groups, &mut links);
    let stale = from_nodes(&split, &links, &mut rng);
    Ring { groups: groups.len(), rounds, links_per_group, stranger, node, stale }
}

/// Splits one group in ten in the middle. Only the two halves and their neighbours know. Ids stay places in the result, so
/// the upper half of a split is put behind everybody's old place.
fn split_some(groups: &[Arc<Descriptor>], links: &mut Vec<FarLinks>) -> Vec<Arc<Descriptor>> {
    let mut truth = groups.to_vec();
    for i in (0..groups.len()).step_by(10) {
        let Some(middle) = middle(&groups[i].range) else { continue };
        let child = GroupId(truth.len() as u64);
        let changed =
            |group, range| Descriptor { group, range, range_version: RangeVersion(2), ..Descriptor::clone(&groups[i]) };
        let KeyRange { start, end } = groups[i].range.clone();
        let upper = Arc::new(changed(child, KeyRange { start: middle.clone(), end }));
        let lower = Arc::new(changed(groups[i].group, KeyRange { start, end: middle }));
        let mut of_child = FarLinks::default();
        of_child.set_successor(&upper.range, Arc::clone(&groups[(i + 1) % groups.len()]));
        links[i].set_successor(&lower.range, Arc::clone(&upper));
        links.push(of_child);
        truth[i] = lower;
        truth.push(upper);
    }
    truth
}

fn middle(range: &KeyRange) -> Option<Position> {
    let value = |position: &Position| position.0.as_ref().try_into().map(u64::from_be_bytes).ok();
    let (start, end) = (value(&range.start)?, value(&range.end)?);
    let middle = start.wrapping_add(end.wrapping_sub(start) / 2);
    (middle != start).then(|| position(middle))
}

/// Look-ups of a gateway with a table of bounded size, over the ring of the shape.
fn cached(shape: &Shape) -> Vec<Cached> {
    let groups = ring(shape, shape.groups, shape.size.min(3));
    let (links, _) = fill(&groups);
    let mut rng = Rng::new(shape.seed ^ 2);
    // A table filled by gossip with as much as fits, in no particular order.
    let mut gossiped = RoutingTable::new(TABLE);
    for i in shuffled(groups.len(), &mut rng).into_iter().take(TABLE) {
        gossiped.learn(&groups[i]);
    }
    let zipf = Zipf::new(groups.len(), shape.seed);
    let uniform = |rng: &mut Rng| position(rng.next());
    let skewed = |rng: &mut Rng| groups[zipf.draw(rng)].range.start.clone();
    let mut cold = |name, draw: &dyn Fn(&mut Rng) -> Position| {
        through(name, &groups, &links, &mut gossiped.clone(), LOOKUPS, &mut rng, draw)
    };
    let mut found = vec![cold("cold, a table filled by gossip", &uniform)];
    let mut warm = |name, draw: &dyn Fn(&mut Rng) -> Position| {
        let mut table = RoutingTable::new(TABLE);
        table.learn(&groups[0]);
        through(name, &groups, &links, &mut table, WARM_LOOKUPS * groups.len(), &mut rng, draw);
        through(name, &groups, &links, &mut table, LOOKUPS, &mut rng, draw)
    };
    found.push(warm("warm, positions alike", &uniform));
    found.push(warm("warm, popularity by Zipf's law", &skewed));
    found
}

fn through(
    name: &'static str,
    groups: &[Arc<Descriptor>],
    links: &[FarLinks],
    table: &mut RoutingTable,
    lookups: usize,
    rng: &mut Rng,
    draw: &dyn Fn(&mut Rng) -> Position,
) -> Cached {
    let (mut hits, mut hops) = (0, Vec::with_capacity(lookups));
    for _ in 0..lookups {
        let goal = draw(rng);
        if let Some(group) = table.owner(&goal).map(|owner| owner.group) {
            table.touch(group);
            hits += 1;
            hops.push(1);
            continue;
        }
        let known = table.closest_before(&goal).take(HINTS).cloned().collect();
        let (asked, owner) = search(groups, links, known, goal);
        table.learn(&groups[owner]);
        hops.push(asked);
    }
    Cached { name, hit_permille: hits as f64 * 1000.0 / lookups as f64, hops: Hops::of(hops) }
}

fn shuffled(count: usize, rng: &mut Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    for i in (1..count).rev() {
        all.swap(i, below(rng, i + 1));
    }
    all
}

/// Groups by popularity: the one of rank `r` is asked for as often as `1 / r`. Which group has which rank is chance.
struct Zipf {
    sums: Vec<f64>,
    groups: Vec<usize>,
}

impl Zipf {
    fn new(count: usize, seed: u64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        Self { sums, groups: shuffled(count, &mut Rng::new(seed ^ 3)) }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let total = self.sums.last().copied().unwrap_or(0.0);
        let wanted = rng.next() as f64 / u64::MAX as f64 * total;
        self.groups[self.sums.partition_point(|sum| *sum < wanted).min(self.groups.len() - 1)]
    }
}
