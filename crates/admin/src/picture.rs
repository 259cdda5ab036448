//! The ring as all nodes together tell it, in the shapes that the API shows, and what is wrong with it.

use scatter_client::cache::{RingCache, RingView};
use scatter_client::{Key, Survey};
use scatter_core::group::{Descriptor, Role};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::types::{GroupId, NodeId, Slot};
use scatter_wire::{Description, NodeInfo, NodeState, PendingInfo, ReplicaInfo, ReplicaRole};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many voters a group should have when there are nodes enough.
const USUAL_VOTERS: usize = 3;

/// How many entries a replica may be behind the others before that is worth a word.
const LAGGING_SLOTS: u64 = 100_000;

/// How long a group operation may hold a group before that is worth a word.
const STUCK_MS: u64 = 30_000;

/// The most nodes that a look-up from one start is followed through.
const MOST_HOPS: u32 = 64;

/// `GET /v1/ring`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Ring {
    /// The cluster's configured name.
    pub cluster: String,
    /// The cluster's id, once a node that has one answered.
    pub cluster_id: Option<String>,
    /// In ring order.
    pub groups: Vec<Group>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// One group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Group {
    pub id: String,
    pub epoch: Epoch,
    pub range: Range,
    pub leader: Option<String>,
    pub members: Vec<Member>,
    pub keys: u64,
    pub bytes: u64,
    pub ops_per_second: u64,
    /// The group operation that holds the group, in words.
    pub pending: Option<String>,
    /// The same in its parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
}

/// The group operation that holds a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Operation {
    /// The same on both sides.
    pub id: String,
    /// `merge` or `repartition`.
    pub kind: &'static str,
    /// Whether the group is the one that gains.
    pub gains: bool,
    /// The group on the other side.
    pub other: String,
    pub moving: Range,
    /// For how long the replica that leads has known of it.
    pub age_ms: u64,
}

/// The versions of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Epoch {
    pub configuration: u64,
    pub range: u64,
}

/// An arc, its boundaries in hexadecimal; equal boundaries are the whole ring.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Range {
    pub start: String,
    pub end: String,
}

/// A member of a group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Member {
    pub node: String,
    /// `leader`, `follower` or `learner`.
    pub role: &'static str,
    /// Whether its node answered.
    pub reachable: bool,
    pub address: String,
}

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Problem {
    /// One of `gap`, `overlap`, `no_leader`, `no_majority`, `under_replicated`, `stuck`, `unreachable`, `lagging`,
    /// `no_ring`, `incomplete`.
    pub kind: &'static str,
    /// A sentence.
    pub text: String,
    /// The group it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The node it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// `GET /v1/nodes`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Nodes {
    /// By id.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Node {
    pub id: String,
    pub peer: String,
    pub http: String,
    pub zone: String,
    /// `joining`, `alive`, `suspect`, `dead`, `draining`, `drained`, or `unreachable` if it did not answer.
    pub state: &'static str,
    pub replicas: Vec<Replica>,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Replica {
    pub group: String,
    pub node: String,
    pub role: &'static str,
    pub ballot: String,
    pub decided: u64,
    pub applied: u64,
    /// The version of the group's range that the replica has applied.
    pub range_version: u64,
}

/// `GET /v1/groups/{id}`: the group with its replicas and its problems.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct GroupDetail {
    #[serde(flatten)]
    pub group: Group,
    pub replicas: Vec<Replica>,
    pub problems: Vec<Problem>,
}

/// `GET /v1/lookup`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are the documentation of the JSON")]
pub struct Lookup {
    /// The key; bytes that are no UTF-8 are percent-encoded.
    pub key: String,
    /// The part of the key that decides where it lies.
    pub partition: String,
    /// In hexadecimal.
    pub position: String,
    /// The owner, if one is known.
    pub group: Option<String>,
    pub leader: Option<String>,
    pub members: Vec<Member>,
    /// How many nodes are asked until the owner's leader is found by somebody who knows one node and no more; `None`
    /// without an owner.
    pub hops: Option<u32>,
}

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Picture {
    survey: Survey,
    /// What is believed once everybody was heard.
    view: Arc<RingView>,
    /// The groups of which something is to be shown.
    descriptors: BTreeMap<GroupId, Arc<Descriptor>>,
    ring: Ring,
}

impl Picture {
    /// Puts together what everybody said.
    #[must_use]
    pub fn new(cluster: &str, survey: Survey) -> Self {
        // The cache's own rules say whose news is newer.
        let cache = RingCache::default();
        for description in survey.descriptions.values() {
            cache.learn(&description.descriptors);
        }
        let view = Arc::clone(&cache.view());
        let descriptors = shown_groups(&view, &survey);
        let cluster_id =
            survey.descriptions.values().find_map(|description| description.cluster).map(|id| id.to_string());
        let ring = Ring { cluster: cluster.to_owned(), cluster_id, groups: Vec::new(), problems: Vec::new() };
        let mut picture = Self { survey, view, descriptors, ring };
        picture.ring.groups = picture.in_ring_order().into_iter().map(|descriptor| picture.group(descriptor)).collect();
        picture.ring.problems = picture.problems();
        picture
    }

    /// The ring.
    #[must_use]
    pub const fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What is believed of the ring.
    #[must_use]
    pub const fn view(&self) -> &Arc<RingView> {
        &self.view
    }

    /// What is known of a group.
    #[must_use]
    pub fn descriptor(&self, group: GroupId) -> Option<&Arc<Descriptor>> {
        self.descriptors.get(&group)
    }

    /// Where a node is reached by its peers.
    #[must_use]
    pub fn peer_address(&self, node: NodeId) -> Option<String> {
        self.info(node).map(|info| info.peer_address.clone()).filter(|address| !address.is_empty()).or_else(|| {
            let members = self.descriptors.values().filter_map(|descriptor| descriptor.configuration.member(node));
            members.map(|member| member.address.clone()).next()
        })
    }

    /// All groups.
    pub fn descriptors(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.descriptors.values()
    }

    /// The ids of all nodes.
    #[must_use]
    pub fn node_ids(&self) -> BTreeSet<NodeId> {
        let mut ids: BTreeSet<NodeId> = self.survey.descriptions.keys().copied().collect();
        ids.extend(self.survey.unreached.keys());
        ids.extend(self.survey.hearsay.keys());
        ids
    }

    /// How a node is: as it says itself, else as others say. A node that nobody can tell of and that does not answer is
    /// suspected.
    #[must_use]
    pub fn state(&self, node: NodeId) -> Option<NodeState> {
        let own = self.survey.descriptions.get(&node).map(|description| description.node.state);
        let heard = || self.survey.hearsay.get(&node).map(|info| info.state);
        let not_alive = |state| if state == NodeState::Alive { NodeState::Suspect } else { state };
        own.or_else(|| heard().map(not_alive)).or_else(|| self.survey.unreached.get(&node).map(|_| NodeState::Suspect))
    }

    /// Whether other nodes hear the node, or have not made up their minds yet, although it may not have answered here.
    #[must_use]
    pub fn is_heard(&self, node: NodeId) -> bool {
        self.survey.hearsay.get(&node).is_some_and(|info| info.state != NodeState::Dead)
    }

    /// Whether a node did not answer and nobody else hears it either.
    #[must_use]
    pub fn is_gone(&self, node: NodeId) -> bool {
        !self.survey.descriptions.contains_key(&node) && !self.is_heard(node)
    }

    /// Who leads a group, if somebody says so.
    #[must_use]
    pub fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        self.leader(group).map(|(node, _)| node)
    }

    /// Why nobody can carry out an order to a group: nobody says that it leads, and too few answer to make somebody a leader.
    #[must_use]
    pub fn out_of_action(&self, descriptor: &Descriptor) -> Option<String> {
        let group = descriptor.group;
        let (answering, voters) = self.answering_voters(descriptor);
        let lost = answering < descriptor.configuration.majority() && self.leader(group).is_none();
        lost.then(|| format!("only {answering} of {voters} voters of group {group} answer, and nobody leads it"))
    }

    /// How many voters of a group answered, and how many there are.
    fn answering_voters(&self, descriptor: &Descriptor) -> (usize, usize) {
        let answers = |node| self.survey.descriptions.contains_key(&node);
        let voters = || descriptor.configuration.voters();
        (voters().filter(|member| answers(member.node)).count(), voters().count())
    }

    /// The nodes that answered.
    pub fn answering(&self) -> impl Iterator<Item = NodeId> {
        self.survey.descriptions.keys().copied()
    }

    /// The last slot of a group that a node knows decided, if it answered and has the group's data.
    #[must_use]
    pub fn known_decided(&self, node: NodeId, group: GroupId) -> Option<Slot> {
        let mut replicas = self.replicas(group);
        replicas.find(|(host, replica)| *host == node && replica.applied > Slot(0)).map(|(_, replica)| replica.decided)
    }

    /// How many replicas a node hosts, if it answered.
    #[must_use]
    pub fn replica_count(&self, node: NodeId) -> usize {
        self.survey.descriptions.get(&node).map_or(0, |description| description.node.replicas.len())
    }

    /// All nodes, but for the dead whose place others have taken.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        let shown = self.node_ids().into_iter().filter(|id| !self.is_replaced(*id));
        Nodes { nodes: shown.map(|id| self.node(id)).collect() }
    }

    /// Whether a node is dead, no member of anything, and another one lives at its address: it lost its disk and came back as
    /// somebody else. Nodes remember it for days, and nobody misses it.
    fn is_replaced(&self, node: NodeId) -> bool {
        let address = self.survey.hearsay.get(&node).map(|info| info.peer_address.as_str());
        let lives_there = |told: &Description| Some(told.node.peer_address.as_str()) == address;
        self.state(node) == Some(NodeState::Dead)
            && !self.is_member(node)
            && self.survey.descriptions.values().any(lives_there)
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.descriptors.values().any(|group| group.configuration.member(node).is_some())
    }

    /// One group with its replicas.
    #[must_use]
    pub fn group_detail(&self, group: GroupId) -> Option<GroupDetail> {
        let descriptor = self.descriptor(group)?;
        let id = group.to_string();
        let problems = self.ring.problems.iter().filter(|problem| problem.group.as_ref() == Some(&id));
        Some(GroupDetail {
            group: self.group(descriptor),
            replicas: self.replicas(group).map(|(node, replica)| shown(node, replica)).collect(),
            problems: problems.cloned().collect(),
        })
    }

    /// Where a key lies.
    #[must_use]
    pub fn lookup(&self, key: &Key) -> Lookup {
        let position = key.position();
        let owner = self.view.owner(&position);
        let group = owner.map(|descriptor| self.group(descriptor));
        Lookup {
            key: readable(key.bytes()),
            partition: readable(key.partition()),
            position: position.to_string(),
            hops: owner.map(|descriptor| self.hops(descriptor, &position)),
            leader: group.as_ref().and_then(|group| group.leader.clone()),
            members: group.as_ref().map(|group| group.members.clone()).unwrap_or_default(),
            group: group.map(|group| group.id),
        }
    }

    /// The most nodes asked from any start by somebody who knows that one node and no more.
    fn hops(&self, owner: &Descriptor, position: &Position) -> u32 {
        let leader = self.leader(owner.group).map(|(node, _)| node);
        self.survey.descriptions.keys().map(|start| self.hops_from(*start, leader, position)).max().unwrap_or(0)
    }

    fn hops_from(&self, start: NodeId, leader: Option<NodeId>, position: &Position) -> u32 {
        let (mut hops, mut node, mut asked) = (1, start, BTreeSet::new());
        while Some(node) != leader && hops < MOST_HOPS {
            asked.insert(node);
            let Some(next) = self.survey.descriptions.get(&node).and_then(|told| pointed_to(told, position, &asked))
            else {
                return hops;
            };
            node = next;
            hops += 1;
        }
        hops
    }

    fn in_ring_order(&self) -> Vec<&Arc<Descriptor>> {
        let mut descriptors: Vec<_> = self.descriptors.values().collect();
        descriptors.sort_by(|a, b| a.range.start.cmp(&b.range.start).then(a.group.cmp(&b.group)));
        descriptors
    }

    fn replicas(&self, group: GroupId) -> impl Iterator<Item = (NodeId, &ReplicaInfo)> {
        self.survey.descriptions.iter().flat_map(move |(node, description)| {
            let replicas = description.node.replicas.iter().filter(move |replica| replica.group == group);
            replicas.map(|replica| (*node, replica))
        })
    }

    /// The replica that leads; if several believe so, the one with the highest ballot is right.
    fn leader(&self, group: GroupId) -> Option<(NodeId, &ReplicaInfo)> {
        let leaders = self.replicas(group).filter(|(_, replica)| replica.role == ReplicaRole::Leader);
        leaders.max_by_key(|(_, replica)| replica.ballot)
    }

    fn group(&self, descriptor: &Descriptor) -> Group {
        let leader = self.leader(descriptor.group);
        // Without a leader, whoever applied most knows best.
        let figures = leader.or_else(|| self.replicas(descriptor.group).max_by_key(|(_, replica)| replica.applied));
        let figures = figures.map(|(_, replica)| replica);
        let leader = leader.map(|(node, _)| node);
        let member = |member: &scatter_core::group::Member| Member {
            node: member.node.to_string(),
            role: match member.role {
                Role::Learner => "learner",
                Role::Voter if leader == Some(member.node) => "leader",
                Role::Voter => "follower",
            },
            reachable: self.survey.descriptions.contains_key(&member.node),
            address: member.address.clone(),
        };
        Group {
            id: descriptor.group.to_string(),
            epoch: Epoch { configuration: descriptor.configuration.version.0, range: descriptor.range_version.0 },
            range: shown_range(&descriptor.range),
            leader: leader.map(|node| node.to_string()),
            members: descriptor.configuration.members.iter().map(member).collect(),
            keys: figures.map_or(0, |replica| replica.keys),
            bytes: figures.map_or(0, |replica| replica.bytes),
            ops_per_second: figures.map_or(0, |replica| replica.operations_per_second),
            pending: figures.and_then(|replica| replica.pending.as_ref()).map(ToString::to_string),
            operation: figures.and_then(|replica| replica.pending.as_ref()).map(shown_operation),
        }
    }

    fn info(&self, node: NodeId) -> Option<&NodeInfo> {
        let own = self.survey.descriptions.get(&node).map(|description| &description.node);
        own.or_else(|| self.survey.hearsay.get(&node))
    }

    fn node(&self, id: NodeId) -> Node {
        let answered = self.survey.descriptions.get(&id);
        let info = self.info(id);
        Node {
            id: id.to_string(),
            peer: self.peer_address(id).unwrap_or_default(),
            http: info.map(|info| info.http_address.clone()).unwrap_or_default(),
            zone: info.map(|info| info.zone.clone()).unwrap_or_default(),
            state: match (answered, self.state(id)) {
                (None, Some(NodeState::Dead)) => "dead",
                (None, _) => "unreachable",
                (Some(description), _) => state(description.node.state),
            },
            replicas: answered
                .map(|description| description.node.replicas.iter().map(|replica| shown(id, replica)).collect())
                .unwrap_or_default(),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.descriptors.is_empty() {
            problems.push(problem("no_ring", "no node that answered knows of any group".into()));
        }
        self.find_holes(&mut problems);
        for descriptor in self.in_ring_order() {
            self.find_group_problems(descriptor, &mut problems);
        }
        // The dead whom every group has replaced are missed by nobody.
        let is_missed = |node| self.is_member(node) || self.state(node) != Some(NodeState::Dead);
        for (node, why) in self.survey.unreached.iter().filter(|(node, _)| is_missed(**node)) {
            let text = format!("node {node} does not answer: {why}");
            problems.push(Problem { node: Some(node.to_string()), ..problem("unreachable", text) });
        }
        for (seed, why) in &self.survey.silent_seeds {
            problems.push(problem("unreachable", format!("nobody answers at the seed {seed}: {why}")));
        }
        if self.survey.incomplete {
            problems.push(problem("incomplete", "the time was over before every node was asked".into()));
        }
        problems
    }

    /// Gaps between arcs, and arcs that overlap.
    fn find_holes(&self, problems: &mut Vec<Problem>) {
        let order = self.in_ring_order();
        for (index, descriptor) in order.iter().enumerate() {
            let next = order[(index + 1) % order.len()];
            let range = &descriptor.range;
            let alone = order.len() == 1;
            if (alone && range.is_whole()) || (!alone && !range.is_whole() && range.end == next.range.start) {
                continue;
            }
            if !alone && range.contains(&next.range.start) {
                // While positions move both sides may claim them for a moment; one of them is sealed.
                if self.is_held(descriptor.group) || self.is_held(next.group) {
                    continue;
                }
                let text = format!(
                    "groups {} and {} both claim the positions from {}",
                    descriptor.group,
                    next.group,
                    boundary(&next.range.start)
                );
                problems.push(Problem { group: Some(descriptor.group.to_string()), ..problem("overlap", text) });
            } else {
                let (from, to) = (boundary(&range.end), boundary(&next.range.start));
                problems.push(problem("gap", format!("no group that is known owns the positions from {from} to {to}")));
            }
        }
    }

    /// What holds a group, as its leader sees it, or without one whoever does.
    fn pending(&self, group: GroupId) -> Option<&PendingInfo> {
        let leader = self.leader(group).map(|(_, replica)| replica);
        let mut replicas = leader.into_iter().chain(self.replicas(group).map(|(_, replica)| replica));
        replicas.find_map(|replica| replica.pending.as_ref())
    }

    fn is_held(&self, group: GroupId) -> bool {
        self.pending(group).is_some()
    }

    fn find_group_problems(&self, descriptor: &Descriptor, problems: &mut Vec<Problem>) {
        let group = descriptor.group;
        let mut add = |kind, text| problems.push(Problem { group: Some(group.to_string()), ..problem(kind, text) });
        let (answering, voters) = self.answering_voters(descriptor);
        if answering < descriptor.configuration.majority() {
            let text = format!("only {answering} of {} voters of group {group} answer: it cannot serve", voters);
            add("no_majority", text);
        } else if answering < voters {
            add("under_replicated", format!("{answering} of {} voters of group {group} answer", voters));
        } else if voters < USUAL_VOTERS && self.survey.descriptions.len() > voters {
            add("under_replicated", format!("group {group} has {} voters and there are nodes for more", voters));
        }
        if self.leader(group).is_none() {
            add("no_leader", format!("no node says that it leads group {group}"));
        }
        if let Some(pending) = self.pending(group).filter(|pending| pending.age_ms > STUCK_MS) {
            add("stuck", format!("group {group} has been held for {} s: {pending}", pending.age_ms / 1000));
        }
        let furthest = self.replicas(group).map(|(_, replica)| replica.decided.0).max().unwrap_or(0);
        for (node, replica) in self.replicas(group) {
            let behind = furthest.saturating_sub(replica.applied.0);
            if behind > LAGGING_SLOTS {
                add("lagging", format!("node {node} is {behind} entries behind in group {group}"));
            }
        }
    }
}

/// Groups whose claims stand, and others that somebody leads: either their news has not reached everybody, or two groups
/// claim the same. A group that was merged away and is still in somebody's memory is neither.
fn shown_groups(view: &RingView, survey: &Survey) -> BTreeMap<GroupId, Arc<Descriptor>> {
    let replicas = survey.descriptions.values().flat_map(|description| &description.node.replicas);
    let led: BTreeSet<GroupId> =
        replicas.filter(|replica| replica.role == ReplicaRole::Leader).map(|replica| replica.group).collect();
    let others = view.groups().filter(|descriptor| led.contains(&descriptor.group));
    view.routes().iter().chain(others).map(|descriptor| (descriptor.group, Arc::clone(descriptor))).collect()
}

/// Whom a node's word leads to on the way to a position: the leader or a member of the group that owns it or starts closest
/// before it.
fn pointed_to(told: &Description, position: &Position, asked: &BTreeSet<NodeId>) -> Option<NodeId> {
    let rank = |descriptor: &&Descriptor| {
        let claim = descriptor.range.contains(position).then_some(descriptor.range_version);
        (claim, descriptor.range.start <= *position, descriptor.range.start.clone())
    };
    let mut descriptors: Vec<&Descriptor> = told.descriptors.iter().collect();
    descriptors.sort_by_cached_key(|descriptor| std::cmp::Reverse(rank(descriptor)));
    let members = descriptors.into_iter().flat_map(|descriptor| {
        let members = descriptor.configuration.members.iter().map(|member| member.node);
        descriptor.leader.into_iter().chain(members)
    });
    members.into_iter().find(|node| !asked.contains(node))
}

fn shown_operation(pending: &PendingInfo) -> Operation {
    Operation {
        id: pending.operation.to_string(),
        kind: pending.kind(),
        gains: pending.gains,
        other: pending.other.to_string(),
        moving: shown_range(&pending.moving),
        age_ms: pending.age_ms,
    }
}

fn problem(kind: &'static str, text: String) -> Problem {
    Problem { kind, text, group: None, node: None }
}

fn boundary(position: &Position) -> String {
    if *position == Position::first() { "the first one".into() } else { position.to_string() }
}

fn shown_range(range: &KeyRange) -> Range {
    Range { start: range.start.to_string(), end: range.end.to_string() }
}

fn shown(node: NodeId, replica: &ReplicaInfo) -> Replica {
    Replica {
        group: replica.group.to_string(),
        node: node.to_string(),
        role: match replica.role {
            ReplicaRole::Leader => "leader",
            ReplicaRole::Follower => "follower",
            ReplicaRole::Learner => "learner",
            ReplicaRole::Joining => "joining",
            ReplicaRole::Merged => "merged",
        },
        range_version: replica.range_version.0,
        ballot: replica.ballot.to_string(),
        decided: replica.decided.0,
        applied: replica.applied.0,
    }
}

const fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Alive => "alive",
        NodeState::Suspect => "suspect",
        NodeState::Dead => "dead",
        NodeState::Draining => "draining",
        NodeState::Drained => "drained",
    }
}

/// Bytes as text; what is no UTF-8, and the percent sign where anything is encoded, is percent-encoded.
fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes
            .iter()
            .map(|byte| match byte {
                b'%' | 0..=0x1f | 0x7f.. => format!("%{byte:02X}"),
                _ => char::from(*byte).to_string(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
