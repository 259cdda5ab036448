//! Finding out who leads a group, or what the ring looks like: asks many nodes at once, one search for all requests that
//! want the same.

use crate::shared::Shared;
use crate::walk::walk;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use rand::seq::IndexedRandom as _;
use scatter_core::ring::Position;
use scatter_core::types::{Ballot, GroupId, NodeId};
use scatter_wire::{Boundary, Description, ReplicaRole};
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How long one search lasts. Whoever still needs an answer begins another.
const SEARCH_FOR: Duration = Duration::from_secs(2);

/// The pause between two rounds of questions: it grows to this.
const LONGEST_ROUND: Duration = Duration::from_millis(25);

/// How many nodes are asked in a round when any would do.
const SAMPLE: usize = 8;

/// What is searched for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Topic {
    /// Who leads this group.
    Group(GroupId),
    /// Which groups there are.
    Ring,
    /// What one node knows.
    Node(NodeId),
    /// Who owns a position.
    Position(Position),
}

/// The searches under way.
#[derive(Default, Debug)]
pub(crate) struct Searches {
    topics: Arc<Mutex<HashSet<Topic>>>,
    leaders: Arc<AtomicUsize>,
}

/// Ends a search when dropped.
#[derive(Debug)]
pub(crate) struct Searching {
    topics: Arc<Mutex<HashSet<Topic>>>,
    leaders: Arc<AtomicUsize>,
    topic: Topic,
}

impl Drop for Searching {
    fn drop(&mut self) {
        self.topics.lock().remove(&self.topic);
        if matches!(self.topic, Topic::Group(_)) {
            self.leaders.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Searches {
    /// Whether some leader is in doubt. One plain read.
    pub(crate) fn any_leader_in_doubt(&self) -> bool {
        self.leaders.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn begin_asking(&self, node: NodeId) -> Option<Searching> {
        self.begin(Topic::Node(node))
    }

    fn begin(&self, topic: Topic) -> Option<Searching> {
        if !self.topics.lock().insert(topic.clone()) {
            return None;
        }
        if matches!(topic, Topic::Group(_)) {
            self.leaders.fetch_add(1, Ordering::Relaxed);
        }
        Some(Searching { topics: Arc::clone(&self.topics), leaders: Arc::clone(&self.leaders), topic })
    }
}

/// A leader that did not answer in time, or said that it does not lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Suspect {
    pub(crate) node: NodeId,
    pub(crate) ballot: Ballot,
}

impl Shared {
    /// Begins a search for a group's leader unless one is under way.
    pub(crate) fn search_leader(self: &Arc<Self>, group: GroupId, suspect: Option<Suspect>) {
        self.begin_search(Topic::Group(group), suspect);
    }

    /// Begins a search for the ring's groups unless one is under way.
    pub(crate) fn search_ring(self: &Arc<Self>) {
        self.begin_search(Topic::Ring, None);
    }

    /// Begins a walk along the ring to a position's owner unless one is under way. Of a ring never heard of there is nothing to
    /// walk along yet.
    pub(crate) fn search_owner(self: &Arc<Self>, position: &Position) {
        let known = !self.cache.view().routes().is_empty();
        let Some(goal) = Boundary::new(position.clone()).filter(|_| known) else { return self.search_ring() };
        let Some(searching) = self.searches.begin(Topic::Position(position.clone())) else { return };
        self.metrics.walks.add();
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            let _searching = searching;
            walk(&shared, &goal).await;
        });
    }

    /// A node did not answer: who it leads needs another leader, or will be told again that it leads.
    fn doubt(self: &Arc<Self>, node: NodeId) {
        let view = Arc::clone(&self.cache.view());
        for route in view.routes().iter().filter(|route| route.leader == Some(node)) {
            self.cache.distrust_leader(route.group, node, route.ballot);
            self.search_leader(route.group, Some(Suspect { node, ballot: route.ballot }));
        }
    }

    fn begin_search(self: &Arc<Self>, topic: Topic, suspect: Option<Suspect>) {
        let Some(searching) = self.searches.begin(topic.clone()) else { return };
        self.metrics.searches.add();
        let search = Search { shared: Arc::clone(self), topic, suspect, settled: false };
        tokio::spawn(async move {
            let _searching = searching;
            search.run().await;
        });
    }
}

/// Whom to ask.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Whom {
    Node(NodeId),
    Address(Arc<str>),
}

struct Search {
    shared: Arc<Shared>,
    topic: Topic,
    suspect: Option<Suspect>,
    settled: bool,
}

impl Search {
    async fn run(mut self) {
        let end = Instant::now() + SEARCH_FOR;
        // Answers that are slow to come do not hold up the next round; who has not answered is not asked again.
        let mut asking: FuturesUnordered<BoxFuture<'static, (Whom, Option<Description>)>> = FuturesUnordered::new();
        let mut waited_for = HashSet::new();
        for round in 0.. {
            for whom in self.whom(round) {
                if waited_for.insert(whom.clone()) {
                    asking.push(Box::pin(ask(Arc::clone(&self.shared), whom)));
                }
            }
            let pause = Duration::from_millis(5 << u32::min(round, 4)).min(LONGEST_ROUND);
            let round_ends = Instant::now() + pause;
            while let Ok(answer) = tokio::time::timeout_at(round_ends, asking.next()).await {
                let Some((whom, description)) = answer else {
                    // Everybody has answered; the pause goes on, so that the same nodes are not asked without end.
                    tokio::time::sleep_until(round_ends).await;
                    break;
                };
                waited_for.remove(&whom);
                if let Some(description) = description {
                    self.heard(&description);
                }
                if self.settled || self.found_leader() {
                    return;
                }
            }
            if Instant::now() >= end {
                return;
            }
        }
    }

    fn whom(&self, round: u32) -> Vec<Whom> {
        let shared = &self.shared;
        let mut whom: Vec<Whom> = Vec::new();
        if let Topic::Group(group) = self.topic
            && let Some(known) = shared.cache.view().group(group)
        {
            whom.extend(known.configuration.members.iter().map(|member| Whom::Node(member.node)));
        }
        // When the members do not know, or all have moved away, others may.
        if whom.is_empty() || round >= 4 {
            whom.extend(sample(&shared.nodes.known()).into_iter().map(Whom::Node));
            let seeds: Vec<Arc<str>> = shared.config.seeds.iter().map(|seed| Arc::from(seed.as_str())).collect();
            whom.extend(sample(&seeds).into_iter().map(Whom::Address));
        }
        whom
    }

    /// Looks at one answer; the cache has it already.
    fn heard(&mut self, description: &Description) {
        match self.topic {
            Topic::Group(group) => {
                // The suspect itself says that it leads: it is slow, not gone, and asking others is of no use.
                let leads = |role| matches!(role, ReplicaRole::Leader);
                let replica = description.node.replicas.iter().find(|replica| replica.group == group);
                self.settled |= self.suspect.is_some_and(|suspect| suspect.node == description.node.node)
                    && replica.is_some_and(|replica| leads(replica.role));
            }
            Topic::Ring => self.settled |= !description.descriptors.is_empty(),
            Topic::Node(_) | Topic::Position(_) => self.settled = true,
        }
    }

    fn found_leader(&self) -> bool {
        let Topic::Group(group) = self.topic else { return false };
        let view = self.shared.cache.view();
        view.group(group).is_some_and(|known| {
            known.leader.is_some_and(|node| self.suspect != Some(Suspect { node, ballot: known.ballot }))
        })
    }
}

async fn ask(shared: Arc<Shared>, whom: Whom) -> (Whom, Option<Description>) {
    let answer = match &whom {
        Whom::Node(node) => shared.describe_node(*node).await,
        Whom::Address(address) => shared.describe_address(address).await,
    };
    if let Err(error) = &answer {
        tracing::debug!(?whom, %error, "no description");
    }
    (whom, answer.ok())
}

fn sample<T: Clone>(from: &[T]) -> Vec<T> {
    from.choose_multiple(&mut rand::rng(), SAMPLE).cloned().collect()
}

/// With so many groups more, each question comes later by as much again: every answer tells of all of them.
const GROUPS_AT_ONCE: usize = 256;

/// The most that questions come later for that.
const MOST_PATIENT: u32 = 8;

/// Asks a few nodes now and then, so that connections stand and news arrives before it is needed. Ends with the client.
pub(crate) async fn keep_fresh(client: Weak<Shared>, every: Duration) {
    loop {
        let groups = {
            let Some(shared) = client.upgrade() else { return };
            if shared.cache.view().routes().is_empty() {
                shared.search_ring();
            } else {
                let nodes = sample(&shared.nodes.known());
                let asks = nodes.into_iter().map(|node| ask(Arc::clone(&shared), Whom::Node(node)));
                for (whom, answer) in futures::future::join_all(asks).await {
                    if let (Whom::Node(node), None) = (whom, answer) {
                        shared.doubt(node);
                    }
                }
            }
            shared.cache.view().routes().len()
        };
        let rest = every * u32::try_from(1 + groups / GROUPS_AT_ONCE).unwrap_or(MOST_PATIENT).min(MOST_PATIENT);
        tokio::time::sleep(rest.mul_f64(rand::random_range(0.75..1.25))).await;
    }
}
