//! What is asked of all replicas at once, kept up to date with each step of one of them.

use super::Node;
use crate::replica::Replica;
use crate::time::Instant;
use crate::types::{Ballot, GroupId, NodeId, WriteId};
use std::collections::{BTreeMap, BTreeSet};

/// What is asked of all replicas at once, kept up to date with each step of one of them: a node may host thousands, most of
/// them idle.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(super) deadlines: BTreeSet<(Instant, GroupId)>,
    deadline_of: BTreeMap<GroupId, Instant>,
    /// The first batch of writes that each waits for.
    pub(super) unsynced: BTreeSet<(WriteId, GroupId)>,
    unsynced_of: BTreeMap<GroupId, WriteId>,
    /// Those that miss somebody.
    pub(crate) lonely: BTreeSet<GroupId>,
    /// Those led here.
    pub(crate) led: BTreeSet<GroupId>,
    leaderships: BTreeMap<GroupId, (Option<NodeId>, Ballot)>,
    /// Groups that came, went, or have another leader or ballot, since the shell asked.
    pub(super) changed: BTreeSet<GroupId>,
}

impl Index {
    pub(super) fn set_deadline(&mut self, group: GroupId, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.deadline_of.insert(group, at),
            None => self.deadline_of.remove(&group),
        };
        if old != at {
            old.map(|old| self.deadlines.remove(&(old, group)));
            at.map(|at| self.deadlines.insert((at, group)));
        }
    }

    fn set_unsynced(&mut self, group: GroupId, first: Option<WriteId>) {
        let old = match first {
            Some(first) => self.unsynced_of.insert(group, first),
            None => self.unsynced_of.remove(&group),
        };
        if old != first {
            old.map(|old| self.unsynced.remove(&(old, group)));
            first.map(|first| self.unsynced.insert((first, group)));
        }
    }
}

impl Node {
    /// Brings up to date what is asked of all replicas at once.
    pub(super) fn reindex(&mut self, group: GroupId) {
        let replica = self.replicas.get(&group).map(|replica| &**replica);
        let deadline = replica.and_then(Replica::deadline);
        let unsynced = replica.and_then(|replica| replica.unsynced.front()).map(|(first, _)| *first);
        let lonely = replica.is_some_and(|replica| self.is_lonely(replica));
        let leadership = self.leadership(group);
        if leadership.is_some_and(|(leader, _)| leader == Some(self.record.node)) {
            self.index.led.insert(group);
        } else {
            self.index.led.remove(&group);
        }
        self.index.set_deadline(group, deadline);
        self.index.set_unsynced(group, unsynced);
        if lonely {
            self.index.lonely.insert(group);
        } else {
            self.index.lonely.remove(&group);
        }
        let old = match leadership {
            Some(leadership) => self.index.leaderships.insert(group, leadership),
            None => self.index.leaderships.remove(&group),
        };
        if old != leadership {
            self.index.changed.insert(group);
        }
    }
}
