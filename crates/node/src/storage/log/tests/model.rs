//! What the records mean, in the plainest words, and the log held against it over random writes.

use super::*;
use proptest::prelude::*;
use scatter_core::durable::{RecoveredReplica, Tombstone};
use std::collections::BTreeMap;

/// Every record applied to maps.
#[derive(Clone, Default, Debug)]
pub(super) struct Model {
    node: Option<NodeRecord>,
    peers: BTreeMap<NodeId, PeerRecord>,
    pub(super) replicas: BTreeMap<GroupId, Replica>,
    tombstones: BTreeMap<GroupId, Tombstone>,
}

#[derive(Clone, Debug)]
pub(super) struct Replica {
    name: ReplicaName,
    inviter: Option<ReplicaName>,
    hard: HardState,
    truncated: Slot,
    pub(super) entries: BTreeMap<Slot, (Ballot, Entry)>,
}

impl Model {
    pub(super) fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            self.apply_one(write.clone());
        }
    }

    fn apply_one(&mut self, write: Write) {
        match write {
            Write::Node { record } => self.node = Some(record),
            Write::Peer { record } => {
                self.peers.insert(record.node, record);
            }
            Write::Create { replica, after, inviter } => {
                let (hard, entries) = (HardState::default(), BTreeMap::new());
                let fresh = Replica { name: replica, inviter, hard, truncated: after, entries };
                self.replicas.insert(replica.group, fresh);
            }
            Write::Hard { group, state } => self.replica(group).hard = state,
            Write::Accept { group, ballot, first, entries } => {
                let replica = self.replica(group);
                for (slot, entry) in (first.0..).map(Slot).zip(entries) {
                    if slot > replica.truncated {
                        replica.entries.insert(slot, (ballot, entry));
                    }
                }
            }
            Write::Truncate { group, through } => {
                let replica = self.replica(group);
                replica.truncated = replica.truncated.max(through);
                replica.entries = replica.entries.split_off(&replica.truncated.next());
            }
            Write::Tombstone { replica, removed_by, merged, configuration } => {
                if self.replicas.get(&replica.group).is_some_and(|live| live.name.incarnation <= replica.incarnation) {
                    self.replicas.remove(&replica.group);
                }
                let tombstone = Tombstone { replica, removed_by, merged, configuration };
                let newest = self.tombstones.entry(replica.group).or_insert_with(|| tombstone.clone());
                if newest.replica.incarnation <= replica.incarnation {
                    *newest = tombstone;
                }
            }
        }
    }

    fn replica(&mut self, group: GroupId) -> &mut Replica {
        self.replicas.get_mut(&group).expect("created before")
    }

    pub(super) fn recovered(&self) -> Recovered {
        let replica = |replica: &Replica| RecoveredReplica {
            replica: replica.name,
            inviter: replica.inviter,
            hard: replica.hard,
            truncated: replica.truncated,
            entries: replica.entries.iter().map(|(slot, (ballot, entry))| (*slot, *ballot, entry.clone())).collect(),
        };
        Recovered {
            node: self.node.clone(),
            peers: self.peers.values().copied().collect(),
            replicas: self.replicas.values().map(replica).collect(),
            tombstones: self.tombstones.values().cloned().collect(),
        }
    }
}

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Write(Kind),
    Sync,
    Tidy,
    Settle,
    Reopen,
}

/// A write, made to fit the model when its turn comes.
#[derive(Clone, Debug)]
enum Kind {
    Node(u64),
    Peer(u64, u64),
    Create(u64, u64),
    Hard(u64, u64),
    Accept { group: u64, back: u64, count: u64, length: usize, round: u64 },
    Truncate { group: u64, keep: u64 },
    Tombstone(u64),
}

fn kinds() -> impl Strategy<Value = Kind> {
    let group = 1..4_u64;
    prop_oneof![
        1 => any::<u64>().prop_map(Kind::Node),
        1 => (1..4_u64, any::<u64>().prop_map(|boot| boot >> 8)).prop_map(|(id, boot)| Kind::Peer(id, boot)),
        1 => (group.clone(), 0..50_u64).prop_map(|(group, after)| Kind::Create(group, after)),
        3 => (group.clone(), 0..9_u64).prop_map(|(group, round)| Kind::Hard(group, round)),
        20 => (group.clone(), 0..6_u64, 0..5_u64, 0..300_usize, 0..9_u64)
            .prop_map(|(group, back, count, length, round)| Kind::Accept { group, back, count, length, round }),
        5 => (group.clone(), 0..8_u64).prop_map(|(group, keep)| Kind::Truncate { group, keep }),
        1 => group.prop_map(Kind::Tombstone),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => kinds().prop_map(Step::Write),
        4 => Just(Step::Sync),
        3 => Just(Step::Tidy),
        1 => Just(Step::Settle),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..250)
}

/// The writes of one step: a replica that is not there is created first.
fn writes_of(kind: Kind, model: &Model, incarnation: &mut u64) -> Vec<Write> {
    let mut next = || {
        *incarnation += 1;
        *incarnation
    };
    let lacks = |group: u64| !model.replicas.contains_key(&GroupId(group));
    let mut writes = Vec::new();
    match kind {
        Kind::Node(boot) => writes.push(node(boot)),
        Kind::Peer(id, boot) => writes.push(peer(id, boot)),
        Kind::Create(group, after) => writes.push(create(group, next(), after)),
        Kind::Hard(group, round) => {
            if lacks(group) {
                writes.push(create(group, next(), 0));
            }
            writes.push(hard(group, round, round));
        }
        Kind::Accept { group, back, count, length, round } => {
            let mut last = 0;
            if lacks(group) {
                writes.push(create(group, next(), 0));
            } else {
                let replica = &model.replicas[&GroupId(group)];
                last = replica.entries.keys().next_back().copied().unwrap_or(replica.truncated).0;
            }
            writes.push(accept(group, round, (last + 1).saturating_sub(back).max(1), count, length));
        }
        Kind::Truncate { group, keep } => {
            if let Some(replica) = model.replicas.get(&GroupId(group)) {
                let last = replica.entries.keys().next_back().map_or(0, |slot| slot.0);
                writes.push(truncate(group, last.saturating_sub(keep)));
            }
        }
        Kind::Tombstone(group) => writes.push(tombstone(group, next())),
    }
    writes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn what_is_recovered_and_read_is_what_the_model_says(steps in steps()) {
        let directory = scratch();
        let (mut log, recovered) = open(directory.path());
        prop_assert_eq!(recovered, Recovered::default());
        let (mut model, mut incarnation) = (Model::default(), 0);
        for step in steps {
            match step {
                Step::Write(kind) => {
                    let writes = writes_of(kind, &model, &mut incarnation);
                    log.append(&writes).unwrap();
                    model.apply(&writes);
                }
                Step::Sync => log.sync().unwrap(),
                Step::Tidy => log.tidy().unwrap(),
                Step::Settle => log.settle().unwrap(),
                Step::Reopen => {
                    log.sync().unwrap();
                    drop(log);
                    let (again, recovered) = open(directory.path());
                    prop_assert_eq!(recovered, model.recovered());
                    log = again;
                }
            }
        }
        log.sync().unwrap();
        for (group, replica) in &model.replicas {
            for (slot, (ballot, entry)) in &replica.entries {
                let read = log.reader().read(*group, *slot, 0).unwrap();
                prop_assert_eq!(&read[..], &[(*slot, *ballot, entry.clone())][..]);
            }
        }
        drop(log);
        prop_assert_eq!(open(directory.path()).1, model.recovered());
    }
}
