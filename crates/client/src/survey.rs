//! Asking everybody: what every node that can be found says about itself.

use crate::nodes::Unreached;
use crate::shared::Shared;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use scatter_core::types::NodeId;
use scatter_wire::{Description, NodeInfo, NodeState};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How many nodes are asked at once.
const CONCURRENCY: usize = 64;

/// The most nodes asked in one survey.
const MOST_NODES: usize = 10_000;

/// What everybody said.
#[derive(Clone, Default, Debug)]
pub struct Survey {
    /// Of each node that answered, what it told.
    pub descriptions: BTreeMap<NodeId, Description>,
    /// Nodes that others told of and that did not answer, with why.
    pub unreached: BTreeMap<NodeId, String>,
    /// Seeds that did not answer and that no node that is known lives at, with why.
    pub silent_seeds: BTreeMap<String, String>,
    /// What others told of each node, of several tales the gravest: of those that did not answer it is all there is, and
    /// a death that some have heard of will be heard by all.
    pub hearsay: BTreeMap<NodeId, NodeInfo>,
    /// The time ran out before everybody was asked.
    pub incomplete: bool,
}

#[derive(Clone, Debug)]
enum Whom {
    Node(NodeId),
    Seed(String),
}

/// Asks seeds and known nodes, then those that their answers name, until nobody new turns up.
pub(crate) async fn survey(shared: &Arc<Shared>, limit: Duration) -> Survey {
    let deadline = Instant::now() + limit;
    let mut survey = Survey::default();
    let mut waiting: VecDeque<Whom> = shared.nodes.known().into_iter().map(Whom::Node).collect();
    waiting.extend(shared.config.seeds.iter().cloned().map(Whom::Seed));
    waiting.extend(shared.cache.view().members().map(|member| Whom::Node(member.node)));
    let mut asked = BTreeSet::new();
    let mut asking = FuturesUnordered::new();
    loop {
        while asking.len() < CONCURRENCY
            && let Some(whom) = waiting.pop_front()
        {
            let new = match &whom {
                Whom::Node(node) => asked.len() < MOST_NODES && asked.insert(*node),
                Whom::Seed(_) => true,
            };
            if new {
                asking.push(ask(Arc::clone(shared), whom));
            }
        }
        match tokio::time::timeout_at(deadline, asking.next()).await {
            Ok(Some((_, Ok(description)))) => {
                waiting.extend(named(&description).map(Whom::Node));
                asked.insert(description.node.node);
                survey.take(description);
            }
            Ok(Some((Whom::Node(node), Err(error)))) => {
                survey.unreached.insert(node, error.to_string());
            }
            Ok(Some((Whom::Seed(seed), Err(error)))) => {
                survey.silent_seeds.insert(seed, error.to_string());
            }
            Ok(None) => break,
            Err(_) => {
                survey.incomplete = true;
                break;
            }
        }
    }
    survey.tidy(&asked);
    let silent: BTreeSet<Arc<str>> = survey.unreached.keys().flat_map(|node| shared.nodes.addresses(*node)).collect();
    survey.silent_seeds.retain(|seed, _| !silent.contains(seed.as_str()));
    survey
}

async fn ask(shared: Arc<Shared>, whom: Whom) -> (Whom, Result<Description, Unreached>) {
    let answer = match &whom {
        Whom::Node(node) => shared.describe_node(*node).await,
        Whom::Seed(address) => shared.describe_address(address).await,
    };
    (whom, answer)
}

/// Every node that a description mentions.
fn named(description: &Description) -> impl Iterator<Item = NodeId> {
    let members = description.descriptors.iter().flat_map(|descriptor| &descriptor.configuration.members);
    members.map(|member| member.node).chain(description.nodes.iter().map(|node| node.node))
}

/// How much is wrong with a node.
const fn gravity(state: NodeState) -> u8 {
    match state {
        NodeState::Dead => 2,
        NodeState::Suspect => 1,
        NodeState::Joining | NodeState::Alive | NodeState::Draining | NodeState::Drained => 0,
    }
}

impl Survey {
    fn take(&mut self, description: Description) {
        for info in &description.nodes {
            let told = self.hearsay.entry(info.node).or_insert_with(|| info.clone());
            if gravity(info.state) > gravity(told.state) {
                *told = info.clone();
            }
        }
        self.descriptions.insert(description.node.node, description);
    }

    /// Drops complaints about nodes and seeds that answered by another way.
    fn tidy(&mut self, asked: &BTreeSet<NodeId>) {
        let addresses: BTreeSet<_> =
            self.descriptions.values().map(|description| description.node.peer_address.as_str()).collect();
        self.silent_seeds.retain(|seed, _| !addresses.contains(seed.as_str()));
        for node in asked {
            if !self.descriptions.contains_key(node) {
                self.unreached.entry(*node).or_insert_with(|| "no answer in time".into());
            }
        }
        let answered = &self.descriptions;
        self.unreached.retain(|node, _| !answered.contains_key(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(node: u64, state: NodeState) -> NodeInfo {
        NodeInfo {
            node: NodeId(node),
            peer_address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            state,
            replicas: Vec::new(),
        }
    }

    #[test]
    fn who_has_heard_of_a_death_is_believed_whoever_answers_first() {
        let tellers = [(1, NodeState::Suspect), (2, NodeState::Dead), (3, NodeState::Alive)];
        for first in 0..tellers.len() {
            let mut survey = Survey::default();
            for (teller, state) in tellers.iter().cycle().skip(first).take(tellers.len()) {
                survey.take(Description {
                    cluster_name: String::new(),
                    cluster: None,
                    node: info(*teller, NodeState::Alive),
                    descriptors: Vec::new(),
                    nodes: vec![info(9, *state)],
                });
            }
            assert_eq!(survey.hearsay[&NodeId(9)].state, NodeState::Dead);
        }
    }
}
