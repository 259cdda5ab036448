//! Where nodes are reached, and the open connections to them.
//!
//! A node is its id. Addresses are hints that other nodes gave; the handshake says who really answers. An address that
//! turns out to belong to another node is not tried again for the one that was wanted until somebody vouches for it anew.

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use scatter_core::types::{ClusterId, NodeId};
use scatter_wire::{Connection, ConnectionOptions, Pool};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most addresses kept for one node.
const MAX_ADDRESSES: usize = 4;

/// The most nodes kept; more are not taken in.
const MAX_NODES: usize = 1 << 16;

/// How long an address that reached another node is not tried again for the one that was wanted.
const FOREIGN_FOR: Duration = Duration::from_secs(5);

/// The book of addresses and connections.
#[derive(Debug)]
pub(crate) struct Nodes {
    pool: Pool,
    book: Mutex<Book>,
    /// Connections by the node that answered.
    links: ArcSwap<HashMap<NodeId, Connection>>,
}

#[derive(Default, Debug)]
struct Book {
    /// Per node, the addresses to try, the most promising first.
    addresses: BTreeMap<NodeId, Vec<Arc<str>>>,
    /// Addresses that reached another node than this one, and when.
    foreign: HashMap<(NodeId, Arc<str>), Instant>,
    /// The cluster that the first node belonged to.
    cluster: Option<ClusterId>,
}

/// Why a node could not be reached. Nothing was sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unreached {
    #[error("no address is known of node {0}")]
    NoAddress(NodeId),
    #[error("{address} belongs to node {found}, not {wanted}")]
    WrongNode { address: String, found: NodeId, wanted: NodeId },
    #[error("{address} belongs to another cluster of the same name")]
    WrongCluster { address: String },
    #[error("{0}")]
    Failed(String),
}

impl Nodes {
    pub(crate) fn new(options: ConnectionOptions) -> Self {
        Self { pool: Pool::new(options), book: Mutex::default(), links: ArcSwap::default() }
    }

    /// The open connection to a node, if there is one. Never waits. A connection that ended meanwhile says so when it is
    /// used.
    pub(crate) fn existing(&self, node: NodeId) -> Option<Connection> {
        self.links.load().get(&node).cloned()
    }

    /// The connection to a node, made if need be.
    pub(crate) async fn connect(&self, node: NodeId) -> Result<Connection, Unreached> {
        if let Some(link) = self.existing(node).filter(|link| !link.is_closed()) {
            return Ok(link);
        }
        let mut last = Unreached::NoAddress(node);
        for address in self.addresses(node) {
            match self.connect_to(&address).await {
                Ok(link) if link.identity().node == node => return Ok(link),
                Ok(link) => {
                    let found = link.identity().node;
                    self.note_foreign(node, &address);
                    last = Unreached::WrongNode { address: address.to_string(), found, wanted: node };
                }
                Err(error) => {
                    self.book.lock().demote(node, &address);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// The connection to whoever answers at `address`.
    pub(crate) async fn connect_to(&self, address: &str) -> Result<Connection, Unreached> {
        let link = self.pool.connection(address).await.map_err(|error| Unreached::Failed(error.to_string()))?;
        let identity = link.identity();
        if !self.book.lock().same_cluster(identity.cluster) {
            return Err(Unreached::WrongCluster { address: address.to_owned() });
        }
        let mut book = self.book.lock();
        book.add(identity.node, &identity.peer_address);
        // What just worked goes before what the node says of itself: an address may be seen differently from outside.
        book.add(identity.node, address);
        book.foreign.remove(&(identity.node, Arc::from(address)));
        drop(book);
        self.register(&link);
        Ok(link)
    }

    /// Notes an address that somebody gave for a node.
    pub(crate) fn heard(&self, node: NodeId, address: &str) {
        self.book.lock().heard(node, address);
    }

    /// Notes an address that the node itself gives.
    pub(crate) fn vouched(&self, node: NodeId, address: &str) {
        let mut book = self.book.lock();
        book.foreign.remove(&(node, Arc::from(address)));
        book.heard(node, address);
    }

    /// Lets go of a connection that ended.
    pub(crate) fn drop_closed(&self, node: NodeId) {
        let closed = |links: &HashMap<NodeId, Connection>| links.get(&node).is_some_and(Connection::is_closed);
        if !closed(&self.links.load()) {
            return;
        }
        self.links.rcu(|links| {
            let mut links = HashMap::clone(links);
            if closed(&links) {
                links.remove(&node);
            }
            links
        });
    }

    /// Every node that an address is known of.
    pub(crate) fn known(&self) -> Vec<NodeId> {
        self.book.lock().addresses.keys().copied().collect()
    }

    /// The address that is tried first for a node.
    pub(crate) fn address(&self, node: NodeId) -> Option<Arc<str>> {
        self.addresses(node).into_iter().next()
    }

    /// Where a node may live, in the order in which it is tried.
    pub(crate) fn addresses(&self, node: NodeId) -> Vec<Arc<str>> {
        let mut book = self.book.lock();
        let now = Instant::now();
        book.foreign.retain(|_, since| now.saturating_duration_since(*since) < FOREIGN_FOR);
        let addresses = book.addresses.get(&node).cloned().unwrap_or_default();
        addresses.into_iter().filter(|address| !book.foreign.contains_key(&(node, Arc::clone(address)))).collect()
    }

    fn note_foreign(&self, node: NodeId, address: &Arc<str>) {
        let mut book = self.book.lock();
        if let Some(addresses) = book.addresses.get_mut(&node) {
            addresses.retain(|known| known != address);
        }
        if book.foreign.len() < MAX_NODES {
            book.foreign.insert((node, Arc::clone(address)), Instant::now());
        }
    }

    /// Keeps a connection for the node that answered, unless an open one is kept already.
    pub(crate) fn register(&self, link: &Connection) {
        let node = link.identity().node;
        let current = self.links.load();
        if current.get(&node).is_some_and(|known| !known.is_closed()) {
            return;
        }
        drop(current);
        self.links.rcu(|links| {
            let mut links = HashMap::clone(links);
            links.insert(node, link.clone());
            links
        });
    }
}

impl Book {
    /// Puts an address first.
    fn add(&mut self, node: NodeId, address: &str) {
        if address.is_empty() || (self.addresses.len() >= MAX_NODES && !self.addresses.contains_key(&node)) {
            return;
        }
        let addresses = self.addresses.entry(node).or_default();
        match addresses.iter().position(|known| **known == *address) {
            Some(index) => addresses[..=index].rotate_right(1),
            None => addresses.insert(0, Arc::from(address)),
        }
        addresses.truncate(MAX_ADDRESSES);
    }

    /// Adds an address that is not known yet, to be tried before those that are.
    fn heard(&mut self, node: NodeId, address: &str) {
        let known = self.addresses.get(&node).is_some_and(|known| known.iter().any(|known| **known == *address));
        if !known {
            self.add(node, address);
        }
    }

    /// Puts an address last.
    fn demote(&mut self, node: NodeId, address: &Arc<str>) {
        if let Some(addresses) = self.addresses.get_mut(&node)
            && let Some(index) = addresses.iter().position(|known| known == address)
        {
            addresses[index..].rotate_left(1);
        }
    }

    fn same_cluster(&mut self, cluster: Option<ClusterId>) -> bool {
        match (self.cluster, cluster) {
            (Some(ours), Some(theirs)) => ours == theirs,
            (None, theirs) => {
                self.cluster = theirs;
                true
            }
            (Some(_), None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Nodes {
        Nodes::new(ConnectionOptions::default())
    }

    fn addresses(nodes: &Nodes, node: u64) -> Vec<String> {
        nodes.addresses(NodeId(node)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_addresses_go_first_known_ones_keep_their_place_failed_ones_go_last() {
        let nodes = nodes();
        for address in ["a:1", "b:1", "c:1"] {
            nodes.heard(NodeId(1), address);
        }
        nodes.heard(NodeId(1), "a:1");
        assert_eq!(addresses(&nodes, 1), ["c:1", "b:1", "a:1"]);
        nodes.book.lock().demote(NodeId(1), &Arc::from("c:1"));
        assert_eq!(addresses(&nodes, 1), ["b:1", "a:1", "c:1"]);
        nodes.book.lock().add(NodeId(1), "c:1");
        assert_eq!(addresses(&nodes, 1), ["c:1", "b:1", "a:1"]);
        for address in ["d:1", "e:1", "f:1"] {
            nodes.heard(NodeId(1), address);
        }
        assert_eq!(addresses(&nodes, 1).len(), MAX_ADDRESSES);
    }

    #[test]
    fn an_address_of_another_node_is_not_tried_until_vouched_for() {
        let nodes = nodes();
        nodes.heard(NodeId(1), "a:1");
        nodes.note_foreign(NodeId(1), &Arc::from("a:1"));
        nodes.heard(NodeId(1), "a:1");
        assert!(addresses(&nodes, 1).is_empty(), "hearsay does not bring it back");
        nodes.vouched(NodeId(1), "a:1");
        assert_eq!(addresses(&nodes, 1), ["a:1"]);
    }

    #[tokio::test]
    async fn a_node_without_an_address_is_not_reached() {
        let error = nodes().connect(NodeId(9)).await.expect_err("nobody is there");
        assert_eq!(error, Unreached::NoAddress(NodeId(9)));
    }
}
