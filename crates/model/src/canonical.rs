//! Names of nodes mean nothing: states that differ in names alone are one.

use crate::sets::{Members, NODES, NodeIndex};
use crate::state::{Entry, Group, Node, State};

/// What a node is, with everything that the groups say of it. Nodes that are equal here may change places.
type Portrait = (Node, u64);

impl State {
    /// The same state, with the nodes in the one order that depends on what they are alone.
    #[must_use]
    pub fn canonical(&self) -> State {
        let portraits: [Portrait; NODES] = std::array::from_fn(|node| (self.nodes[node], said_of(self, node)));
        let mut order: [NodeIndex; NODES] = std::array::from_fn(|place| place);
        order.sort_by(|a, b| portraits[*b].cmp(&portraits[*a]));
        if order.is_sorted() { *self } else { self.renamed(order) }
    }

    /// The same state with the node `order[0]` in the first place, and so on.
    #[must_use]
    pub fn renamed(&self, order: [NodeIndex; NODES]) -> State {
        let mut places = [0; NODES];
        for (place, node) in order.iter().enumerate() {
            places[*node] = place;
        }
        let set = |members: Members| members.iter().fold(Members::NONE, |set, node| set.with(places[node]));
        let mut next = *self;
        next.nodes = order.map(|node| self.nodes[node]);
        for group in &mut next.groups {
            group.first_members = set(group.first_members);
            group.stale = set(group.stale);
            if let Some(leader) = &mut group.leader {
                leader.node = u8::try_from(places[usize::from(leader.node)]).unwrap_or(u8::MAX);
            }
            for entry in group.log.entries_mut() {
                if let Entry::Configuration(members) = entry {
                    *members = set(*members);
                }
            }
        }
        next
    }
}

/// One bit for each thing that a group says of the node.
fn said_of(state: &State, node: NodeIndex) -> u64 {
    let of_group = |bits: u64, group: &Group| {
        let leads = group.leader.is_some_and(|leader| usize::from(leader.node) == node);
        let first = [leads, group.stale.contains(node), group.first_members.contains(node)];
        let changes = group.log.from(0).iter().filter_map(|entry| match entry {
            Entry::Configuration(members) => Some(members.contains(node)),
            _ => None,
        });
        first.into_iter().chain(changes).fold(bits, |bits, bit| bits << 1 | u64::from(bit))
    };
    state.groups.iter().fold(0, of_group)
}
