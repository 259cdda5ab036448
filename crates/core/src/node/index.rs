//! What is asked of all replicas at once, kept up to date with each step of one of them.

use super::Node;
use crate::time::Instant;
use crate::types::{Ballot, GroupId, NodeId, WriteId};
use std::collections::{BTreeMap, BTreeSet};

/// What is asked of one replica.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Indexed {
    deadline: Option<Instant>,
    /// The first batch of writes that it waits for.
    unsynced: Option<WriteId>,
    /// It misses somebody.
    lonely: bool,
    /// It leads.
    led: bool,
    /// Who leads and the ballot; `None` if no replica is here.
    leadership: Option<(Option<NodeId>, Ballot)>,
}

/// What is asked of all replicas at once, kept up to date with each step of one of them: a node may host thousands, most of
/// them idle. Most steps change little of it, so what is known of one is compared first.
#[derive(Debug, Default)]
pub(crate) struct Index {
    of: BTreeMap<GroupId, Indexed>,
    pub(super) deadlines: BTreeSet<(Instant, GroupId)>,
    pub(super) unsynced: BTreeSet<(WriteId, GroupId)>,
    /// Those that miss somebody.
    pub(crate) lonely: BTreeSet<GroupId>,
    /// Those led here.
    pub(crate) led: BTreeSet<GroupId>,
    /// Groups that came, went, or have another leader or ballot, since the shell asked.
    pub(super) changed: BTreeSet<GroupId>,
}

impl Index {
    pub(super) fn set_deadline(&mut self, group: GroupId, at: Option<Instant>) {
        if let Some(known) = self.of.get_mut(&group) {
            exchange(&mut self.deadlines, known.deadline, at, group);
            known.deadline = at;
        }
    }

    fn set(&mut self, group: GroupId, new: Indexed) {
        let old = if new.leadership.is_some() { self.of.insert(group, new) } else { self.of.remove(&group) };
        let old = old.unwrap_or_default();
        exchange(&mut self.deadlines, old.deadline, new.deadline, group);
        exchange(&mut self.unsynced, old.unsynced, new.unsynced, group);
        for (set, old, new) in [(&mut self.lonely, old.lonely, new.lonely), (&mut self.led, old.led, new.led)] {
            match (old, new) {
                (false, true) => drop(set.insert(group)),
                (true, false) => drop(set.remove(&group)),
                (false, false) | (true, true) => {}
            }
        }
        if old.leadership != new.leadership {
            self.changed.insert(group);
        }
    }
}

/// Puts a group elsewhere in what is ordered by something of it.
fn exchange<T: Ord + Copy>(set: &mut BTreeSet<(T, GroupId)>, old: Option<T>, new: Option<T>, group: GroupId) {
    if old != new {
        old.map(|old| set.remove(&(old, group)));
        new.map(|new| set.insert((new, group)));
    }
}

impl Node {
    /// Brings up to date what is asked of all replicas at once.
    pub(super) fn reindex(&mut self, group: GroupId) {
        let leadership = self.leadership(group);
        let replica = self.replicas.get(&group);
        let indexed = replica.map(|replica| Indexed {
            deadline: replica.deadline(),
            unsynced: replica.unsynced.front().map(|(first, _)| *first),
            lonely: self.is_lonely(replica),
            led: leadership.is_some_and(|(leader, _)| leader == Some(self.record.node)),
            leadership,
        });
        self.index.set(group, indexed.unwrap_or_default());
    }
}
