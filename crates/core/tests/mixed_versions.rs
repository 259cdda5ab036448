//! Programs of feature level N and N+1 in one group.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use harness::{Cluster, address, config};
use scatter_core::command::Outcome;
use scatter_core::effects::{Refused, Reply};
use scatter_core::types::FeatureLevel;
use std::time::Duration;

const OLD: FeatureLevel = FeatureLevel(1);
const NEW: FeatureLevel = FeatureLevel(2);

/// Founders `A`, `B`, `C` with programs of these levels, and a leader.
fn founded(levels: [FeatureLevel; 3]) -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.quiet = true;
    for (letter, level) in "ABC".chars().zip(levels) {
        add(&mut cluster, letter, level);
    }
    cluster.run(800);
    cluster
}

fn add(cluster: &mut Cluster, letter: char, level: FeatureLevel) {
    let mut config = config(letter);
    config.feature_level = level;
    config.change_patience = Duration::from_millis(500);
    let founders = if letter <= 'C' { "ABC" } else { "" };
    cluster.add(letter, address(letter), founders, "ABC", config);
    cluster.start(letter);
}

/// Another program on the same disk.
fn replace_program(cluster: &mut Cluster, letter: char, level: FeatureLevel) {
    cluster.crash(letter);
    cluster.host(letter).config.feature_level = level;
    cluster.start(letter);
}

fn write(cluster: &mut Cluster, key: &str) {
    let leader = cluster.leader().expect("somebody leads");
    let request = cluster.put(leader, key, "value");
    cluster.run(20);
    assert!(matches!(cluster.outcomes.get(&request), Some(Outcome::Written { .. })), "{:?}", cluster.replies);
}

fn levels(cluster: &Cluster, letters: &str) -> Vec<FeatureLevel> {
    letters.chars().filter_map(|letter| cluster.level(letter)).collect()
}

fn applied_alike(cluster: &mut Cluster, letters: &str) {
    let group = cluster.group();
    let print = |letter| cluster.process(letter).stage.machine(group).unwrap().fingerprint();
    let prints: Vec<u64> = letters.chars().map(print).collect();
    assert!(prints.windows(2).all(|pair| pair[0] == pair[1]), "the machines differ");
}

#[test]
fn the_level_rises_when_the_last_member_understands_it() {
    let mut cluster = founded([NEW, NEW, OLD]);
    write(&mut cluster, "before");
    cluster.run(1000);
    assert_eq!(levels(&cluster, "ABC"), [OLD, OLD, OLD]);
    // The new program reads what the old one left on its disk.
    replace_program(&mut cluster, 'C', NEW);
    cluster.run(1000);
    assert_eq!(levels(&cluster, "ABC"), [NEW, NEW, NEW]);
    write(&mut cluster, "after");
    cluster.run(100);
    applied_alike(&mut cluster, "ABC");
}

#[test]
fn a_leader_that_understands_less_holds_the_level_down() {
    let mut cluster = founded([OLD, NEW, NEW]);
    assert_eq!(cluster.leader(), Some('A'));
    write(&mut cluster, "a");
    cluster.run(1000);
    assert_eq!(levels(&cluster, "ABC"), [OLD, OLD, OLD]);
    applied_alike(&mut cluster, "ABC");
    // A silent member counts as one that understands nothing.
    cluster.crash('A');
    cluster.run(1000);
    assert_ne!(cluster.leader(), None);
    write(&mut cluster, "b");
    cluster.run(1000);
    assert_eq!(levels(&cluster, "BC"), [OLD, OLD]);
    cluster.host('A').config.feature_level = NEW;
    cluster.start('A');
    cluster.run(1000);
    assert_eq!(levels(&cluster, "ABC"), [NEW, NEW, NEW]);
    applied_alike(&mut cluster, "ABC");
}

#[test]
fn the_level_survives_leaders_and_restarts() {
    let mut cluster = founded([NEW, NEW, NEW]);
    cluster.run(500);
    assert_eq!(levels(&cluster, "ABC"), [NEW, NEW, NEW]);
    for _ in 0..3 {
        let leader = cluster.leader().expect("somebody leads");
        cluster.crash(leader);
        cluster.run(1000);
        assert_ne!(cluster.leader(), Some(leader));
        write(&mut cluster, "a");
        cluster.start(leader);
        cluster.run(1000);
        assert_eq!(levels(&cluster, "ABC"), [NEW, NEW, NEW]);
    }
    "ABC".chars().for_each(|letter| cluster.flush(letter));
    "ABC".chars().for_each(|letter| cluster.crash(letter));
    "ABC".chars().for_each(|letter| cluster.start(letter));
    cluster.run(1500);
    assert_eq!(levels(&cluster, "ABC"), [NEW, NEW, NEW]);
    applied_alike(&mut cluster, "ABC");
}

#[test]
fn a_learner_that_understands_too_little_is_not_promoted() {
    let mut cluster = founded([NEW, NEW, NEW]);
    cluster.run(500);
    add(&mut cluster, 'D', OLD);
    cluster.run(100);
    let request = cluster.change('A', "D", "");
    cluster.run(1000);
    assert!(matches!(cluster.replies.get(&request), Some(Reply::Refused(Refused::GivenUp(_)))));
    assert_eq!(cluster.status('D').unwrap().role, "learner");

    replace_program(&mut cluster, 'D', NEW);
    cluster.run(200);
    let request = cluster.change('A', "D", "");
    cluster.run(500);
    assert_eq!(cluster.replies.get(&request), Some(&Reply::Done));
    assert_eq!(cluster.status('D').unwrap().role, "follower");
    write(&mut cluster, "a");
    cluster.run(100);
    applied_alike(&mut cluster, "ABCD");
}

#[test]
fn a_newcomer_that_understands_too_little_keeps_the_level_down() {
    let mut cluster = founded([NEW, NEW, OLD]);
    add(&mut cluster, 'D', OLD);
    cluster.run(100);
    let request = cluster.change('A', "D", "C");
    cluster.run(1000);
    assert_eq!(cluster.replies.get(&request), Some(&Reply::Done), "at the old level everybody understands enough");
    assert_eq!(levels(&cluster, "ABD"), [OLD, OLD, OLD]);
    replace_program(&mut cluster, 'D', NEW);
    cluster.run(1000);
    assert_eq!(levels(&cluster, "ABD"), [NEW, NEW, NEW]);
}

#[test]
fn an_older_program_does_not_serve_a_group_it_may_misunderstand() {
    let mut cluster = founded([NEW, NEW, NEW]);
    cluster.run(500);
    write(&mut cluster, "a");
    "ABC".chars().for_each(|letter| cluster.flush(letter));
    replace_program(&mut cluster, 'C', OLD);
    assert!(cluster.host('C').process.is_none(), "it refuses to start");
    // Its data stays good: the newer program goes on from there.
    cluster.host('C').config.feature_level = NEW;
    cluster.start('C');
    cluster.run(500);
    write(&mut cluster, "b");
    cluster.run(100);
    applied_alike(&mut cluster, "ABC");
}
