//! What the protocol promises to survive: which nodes may be lost, given the sets of members that count or may come to.

use crate::history::Time;
use crate::invariants::voters;
use crate::plan::SECOND;
use crate::world::World;
use scatter_core::codec::Decode;
use scatter_core::entry::EntryKind;
use scatter_core::group::Configuration;
use scatter_core::input::Input;
use scatter_core::message::PeerMessage;
use scatter_core::ops::messages::GroupMessage;
use scatter_core::types::{ConfigurationVersion, GroupId, NodeId};

/// How long after an order its set may come to be.
const ORDER_LIFE: Time = 40 * SECOND;

/// A set of voters that was ordered.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) at: Time,
    pub(super) group: GroupId,
    /// The configuration then: the ordered one is the next, or the one after it.
    pub(super) version: ConfigurationVersion,
    pub(super) set: Vec<NodeId>,
}

impl World {
    /// Whether every group survives the loss of one more node, this one.
    pub(crate) fn may_lose(&self, node: NodeId) -> bool {
        let groups = self.groups();
        let current = groups.iter().flat_map(|group| self.in_force(*group, Some(node))).map(voters);
        // Of a group that was merged the members of its gainer hold what they need.
        let ordered = self.nemesis.ordered.iter().filter(|ordered| groups.contains(&ordered.group));
        let ordered = ordered.filter(|ordered| self.may_come_to_be(ordered));
        let ordered = ordered.map(|ordered| ordered.set.clone());
        let sets: Vec<Vec<NodeId>> = current.chain(ordered).chain(self.proposed_sets()).collect();
        let spared = sets.iter().all(|set| !set.contains(&node) || self.lives_without(set, Some(node)));
        !groups.is_empty() && spared && groups.iter().all(|group| self.has_begun_without(*group, node))
    }

    /// The configurations that a group may need a majority of, without some node: the newest one, and the one before it until
    /// those who are left know on disk that it is past.
    pub(super) fn in_force(&self, group: GroupId, without: Option<NodeId>) -> Vec<&Configuration> {
        let known = self.observer.configurations(group);
        let Some((slot, newest)) = known.last() else { return Vec::new() };
        let knows = |voter: &NodeId| {
            Some(*voter) != without
                && !self.nemesis.replaced.iter().any(|(_, gone)| gone == voter)
                && self.hosts.iter().any(|host| {
                    let log = &host.disk.log;
                    let own = log.node.as_ref().is_some_and(|record| record.node == *voter);
                    own && log.replicas.get(&group).is_some_and(|replica| replica.hard.decided >= *slot)
                })
        };
        let past = voters(newest).iter().filter(|voter| knows(voter)).count() >= newest.majority();
        let count = if past { 1 } else { 2 };
        known[known.len().saturating_sub(count)..].iter().map(|(_, configuration)| configuration).collect()
    }

    pub(super) fn may_come_to_be(&self, ordered: &Ordered) -> bool {
        let patience = u64::try_from(self.plan.config.change_limit.as_nanos()).unwrap_or(SECOND);
        let given_up = ordered.at + patience * 3 / 2 + SECOND < self.now;
        let version = self.observer.configuration(ordered.group).map(|configuration| configuration.version);
        let overtaken = version.is_some_and(|version| version >= ordered.version.next().next());
        ordered.at + ORDER_LIFE > self.now && !(given_up && overtaken)
    }

    /// Whether a majority of a group's voters have begun without `node`. Until then the first group may be known to one
    /// founder alone, and the others cannot tell that it was bound.
    pub(super) fn has_begun_without(&self, group: GroupId, node: NodeId) -> bool {
        let Some(configuration) = self.observer.configuration(group) else { return false };
        let begun = |voter: &NodeId| {
            *voter != node
                && self.hosts.iter().any(|host| {
                    let log = &host.disk.log;
                    log.node.as_ref().is_some_and(|record| record.node == *voter) && log.replicas.contains_key(&group)
                })
        };
        voters(configuration).iter().filter(|voter| begun(voter)).count() >= configuration.majority()
    }

    /// Whether a set of voters has a majority that is not lost, even without one more.
    pub(super) fn lives_without(&self, set: &[NodeId], one_more: Option<NodeId>) -> bool {
        let lost =
            |node: &&NodeId| Some(**node) == one_more || self.nemesis.replaced.iter().any(|(_, gone)| gone == *node);
        set.iter().filter(lost).count() <= set.len().saturating_sub(1) / 2 && !set.is_empty()
    }

    /// Whether a node was the only member of a group that the copy of its disk holds, even of one that is no more: nobody
    /// else could tell it that time has gone on.
    pub(super) fn was_alone(&self, host: usize, node: NodeId) -> bool {
        let groups = self.hosts[host].copy.iter().flat_map(crate::disk::DiskCopy::groups);
        let mut known = groups.flat_map(|group| self.observer.configurations(group));
        known.any(|(_, configuration)| voters(configuration) == [node])
    }

    /// A group asks another to have these members, without an operator.
    pub(crate) fn note_aligned(&mut self, input: &Input) {
        if let Input::Message { message: PeerMessage::Group { envelope }, .. } = input
            && let GroupMessage::Align { members, .. } = &envelope.message
        {
            self.note_ordered(envelope.to, members.iter().map(|(node, _)| *node).collect());
        }
    }

    /// Sets of voters that were proposed, as far as disks tell, and may be decided yet.
    pub(super) fn proposed_sets(&self) -> Vec<Vec<NodeId>> {
        let mut sets = Vec::new();
        for (group, replica) in self.hosts.iter().flat_map(|host| &host.disk.log.replicas) {
            let newest = self.observer.configurations(*group).last().map(|(slot, _)| *slot).unwrap_or_default();
            let later = replica.entries.range(newest.next()..).map(|(_, (_, entry))| entry);
            let proposed = later.filter(|entry| entry.kind == EntryKind::Configuration);
            let decoded = proposed.filter_map(|entry| Configuration::from_all(entry.body.clone()).ok());
            sets.extend(decoded.map(|configuration| voters(&configuration)));
        }
        sets
    }

    /// A set of voters was ordered: it may come to be.
    pub(crate) fn note_ordered(&mut self, group: GroupId, set: Vec<NodeId>) {
        let version = self.observer.configuration(group).map(|configuration| configuration.version);
        let version = version.unwrap_or_default();
        self.nemesis.ordered.push(Ordered { at: self.now, group, version, set });
    }
}
