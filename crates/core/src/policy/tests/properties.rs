//! What holds of all policies together, whatever the cluster: nothing invalid is ever proposed (the model checks each
//! proposal), and a cluster that is left alone comes to rest where it should.

use super::model::{Group, Model};
use crate::policy::{Action, GroupLoad, Settings};
use crate::rng::Rng;
use crate::types::NodeId;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3600);
/// Long enough that chance would have let somebody act.
const QUIET: Duration = Duration::from_secs(1500);

/// Shorter waits than by default, so that a test sees many rounds.
fn settings() -> Settings {
    Settings {
        min_size: 2,
        replace_dead_after: Duration::from_secs(60),
        merge_damping: Duration::from_secs(100),
        cool_down: Duration::from_secs(30),
        ..Settings::default()
    }
}

fn some_nodes(rng: &mut Rng, of: u64, count: usize) -> BTreeSet<NodeId> {
    let mut chosen = BTreeSet::new();
    while chosen.len() < count.min(usize::try_from(of).unwrap()) {
        chosen.insert(NodeId(rng.next() % of + 1));
    }
    chosen
}

fn warm() -> GroupLoad {
    GroupLoad { keys: 100_000, bytes: 1 << 30, operations_per_second: 1000 }
}

/// A cluster of `nodes` nodes in `zones` zones, with groups placed anyhow.
fn cluster(nodes: u64, zones: u64, groups: usize, settings: Settings, seed: u64) -> Model {
    let mut rng = Rng::new(seed);
    let names: Vec<_> =
        (0..nodes).map(|i| if zones == 0 { String::new() } else { format!("zone-{}", i % zones) }).collect();
    let mut model = Model::new(&names, settings, seed);
    for _ in 0..groups {
        let size = rng.next() % 5 + 1;
        model.found(some_nodes(&mut rng, nodes, usize::try_from(size).unwrap()), warm());
    }
    model
}

fn usable(model: &Model) -> Vec<NodeId> {
    model.nodes.iter().filter(|(_, node)| node.is_usable()).map(|(id, _)| *id).collect()
}

fn served(model: &Model) -> impl Iterator<Item = &Group> {
    model.ring.iter().filter(|group| model.has_majority(group))
}

/// Every group that can do anything is as large as it should be, on usable nodes, in as many zones as there are.
fn check_placed(model: &Model) -> Result<(), TestCaseError> {
    let (usable, target) = (usable(model), model.settings.target_size);
    let zone = |node: &NodeId| model.nodes[node].zone.clone();
    let zones: BTreeSet<_> = usable.iter().map(zone).collect();
    for group in served(model) {
        if usable.len() >= target {
            prop_assert_eq!(group.members.len(), target, "{:?}", group);
            prop_assert!(group.members.iter().all(|node| usable.contains(node)), "{:?}", group);
        }
        let spread: BTreeSet<_> = group.members.iter().map(zone).collect();
        if usable.len() >= target && !zones.contains("") {
            prop_assert!(spread.len() >= zones.len().min(target), "{:?} in {:?} of {:?}", group, spread, zones);
        }
    }
    Ok(())
}

/// No leader sits on a node that leads 2 groups more than another member's.
fn check_leaders(model: &Model) -> Result<(), TestCaseError> {
    for group in served(model) {
        for node in group.members.iter().filter(|node| model.nodes[node].is_usable()) {
            prop_assert!(model.leaders(group.leader) <= model.leaders(*node) + 1, "{:?}", group);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_cluster_comes_to_rest_with_every_group_well_placed(
        nodes in 1..12_u64, zones in 0..5_u64, groups in 1..16_usize, seed in any::<u64>(),
        dead in proptest::collection::btree_set(0..12_u64, 0..3),
        draining in proptest::collection::btree_set(0..12_u64, 0..3),
    ) {
        let mut model = cluster(nodes, zones, groups, settings(), seed);
        for (id, node) in &mut model.nodes {
            node.dead_since = dead.contains(&(id.0 - 1)).then_some(model.now);
            node.draining = draining.contains(&(id.0 - 1));
        }
        prop_assert!(model.settle(QUIET, HOUR * 4), "no rest: {:?}", &model.orders[model.orders.len() - 20..]);
        check_placed(&model)?;
        check_leaders(&model)?;
    }

    #[test]
    fn churn_ends_in_rest(nodes in 4..10_u64, zones in 0..4_u64, groups in 1..10_usize, seed in any::<u64>()) {
        let mut model = cluster(nodes, zones, groups, settings(), seed);
        let mut rng = Rng::new(seed ^ 1);
        for round in 0..400 {
            model.tick();
            let alive: Vec<_> = usable(&model);
            match rng.next() % 40 {
                0 if alive.len() > 4 => {
                    let node = alive[usize::try_from(rng.next()).unwrap_or(0) % alive.len()];
                    let now = model.now;
                    model.nodes.get_mut(&node).unwrap().dead_since = Some(now);
                }
                1 => model.join(&if zones == 0 { String::new() } else { format!("zone-{}", round % zones) }),
                2 if alive.len() > 4 => model.nodes.get_mut(&alive[0]).unwrap().draining = true,
                3 => model.nodes.values_mut().for_each(|node| node.draining = false),
                4 => model.nodes.values_mut().for_each(|node| node.dead_since = None),
                _ => {}
            }
        }
        prop_assert!(model.settle(QUIET, HOUR * 4), "no rest: {:?}", &model.orders[model.orders.len() - 20..]);
        check_placed(&model)?;
        check_leaders(&model)?;
    }

    #[test]
    fn replicas_and_leaders_are_evened_out(nodes in 4..10_u64, groups in 12..30_usize, seed in any::<u64>()) {
        let mut model = cluster(nodes, 0, groups, settings(), seed);
        prop_assert!(model.settle(QUIET, HOUR * 8), "no rest: {:?}", &model.orders[model.orders.len() - 20..]);
        model.join("");
        prop_assert!(model.settle(QUIET, HOUR * 8), "no rest: {:?}", &model.orders[model.orders.len() - 20..]);
        let spread = |count: &dyn Fn(NodeId) -> u32| {
            let counts: Vec<u32> = model.nodes.keys().map(|node| count(*node)).collect();
            counts.iter().max().unwrap() - counts.iter().min().unwrap()
        };
        prop_assert!(spread(&|node| model.replicas(node)) <= 2);
        prop_assert!(spread(&|node| model.leaders(node)) <= 2);
    }

    #[test]
    fn splits_and_merges_do_not_flap(
        operations in proptest::collection::vec(prop_oneof![0..100_u64, 0..30_000_u64, 0..300_000_u64], 1..8),
        bytes in proptest::collection::vec(prop_oneof![0..1_u64 << 20, 0..1_u64 << 35], 8), seed in any::<u64>(),
    ) {
        let mut model = cluster(5, 0, 0, settings(), seed);
        for (operations, bytes) in operations.iter().zip(&bytes) {
            let load = GroupLoad { keys: 1 << 30, bytes: *bytes, operations_per_second: *operations };
            model.found((1..=3).map(NodeId), load);
        }
        prop_assert!(model.settle(QUIET, HOUR * 8), "no rest: {:?}", &model.orders[model.orders.len() - 20..]);
        for group in &model.ring {
            prop_assert!(group.load.bytes <= model.settings.split_bytes, "{:?}", group);
            prop_assert!(group.load.operations_per_second <= model.settings.split_operations_per_second, "{:?}", group);
        }
        // What was split is never merged again, nor the other way round: each group is made or unmade once. Two neighbours that
        // try at once get in each other's way and try again, so merges are counted by what came of them.
        let splits = model.orders.iter().filter(|order| matches!(order.2, Action::Split { .. })).count();
        let merged = operations.len() + splits - model.ring.len();
        prop_assert!(merged < operations.len().max(1), "{merged} merges after {splits} splits");
    }

    #[test]
    fn the_layout_of_one_group_per_node_fills_and_splits(nodes in 4..16_u64, seed in any::<u64>()) {
        let settings = Settings { min_size: 3, max_size: 7, max_replicas_per_node: 1, ..settings() };
        let mut model = cluster(nodes, 0, 0, settings, seed);
        model.found((1..=3).map(NodeId), warm());
        prop_assert!(model.settle(QUIET, HOUR * 8), "no rest: {:?}", &model.orders[model.orders.len() - 20..]);
        for node in model.nodes.keys() {
            prop_assert_eq!(model.replicas(*node), 1, "node {}: {:?}", node, model.ring);
        }
        for group in &model.ring {
            prop_assert!((3..=7).contains(&group.members.len()), "{:?}", group);
        }
    }
}
