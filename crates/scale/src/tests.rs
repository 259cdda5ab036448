//! A small run of everything: the same from the same seed, and within what is promised.

use crate::lookups;
use crate::memory;
use crate::repair;
use crate::report::{Findings, section};
use crate::traffic;
use crate::world::Shape;

fn findings() -> Findings {
    let shape = Shape { groups: 1000, nodes: 200, zones: 6, size: 3, seed: 7 };
    Findings {
        lookups: lookups::run(&shape, 2000),
        traffic: traffic::run(&shape),
        memory: memory::run(&shape),
        repair: repair::run(&shape),
        largest: 2000,
        shape,
    }
}

#[test]
fn a_small_ring_is_crossed_and_repaired_as_promised() {
    let findings = findings();
    for ring in &findings.lookups.rings {
        let levels = ring.groups.next_power_of_two().ilog2() as usize;
        assert!(ring.stranger.most <= levels + 1, "{ring:?}");
        assert!(ring.rounds <= levels + 1 && ring.links_per_group <= levels as f64, "{ring:?}");
    }
    assert!(findings.lookups.cached.iter().all(|cached| cached.hit_permille > 990.0));
    let repair = &findings.repair;
    assert!(repair.all_seconds.is_some_and(|seconds| seconds < 400.0), "{:?}", repair.all_seconds);
    assert!(repair.replicas.most <= 25 && repair.zones_shared == 0, "{:?}", repair.replicas);
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let (one, other) = (findings(), findings());
    // Tests share an allocator, so what it counts may differ here.
    let without_memory = |findings: Findings| section(&Findings { memory: Vec::new(), ..findings });
    assert_eq!(without_memory(one), without_memory(other));
}
