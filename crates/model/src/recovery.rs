//! Whether what was acknowledged could be had again from a majority alone.

use crate::ledger::Ledger;
use crate::replicas::{self, Nodes};
use crate::sets::{Members, NODES, NodeIndex};
use crate::state::{GroupId, Node, State};

/// A majority of a group's members from which alone the group could not go on with all that was acknowledged.
pub fn useless_majority(ledger: &Ledger, state: &State, group: GroupId) -> Option<Members> {
    let members = ledger.decided(group).members;
    members.least_majorities().find(|majority| !recovers(ledger, state, group, *majority))
}

/// Whether the group goes on if all others are lost, and these lose what they have not flushed.
fn recovers(ledger: &Ledger, state: &State, group: GroupId, survivors: Members) -> bool {
    let mut nodes = state.nodes;
    for (node, place) in nodes.iter_mut().enumerate() {
        if !survivors.contains(node) {
            *place = Node::default();
        }
    }
    for node in survivors.iter() {
        replicas::lose_unflushed(&mut nodes, node);
    }
    loop {
        if survivors.iter().any(|node| is_whole(ledger, &nodes, group, node)) {
            return true;
        }
        if !read_logs(ledger, &mut nodes, survivors) && !take_a_snapshot(ledger, &mut nodes, survivors) {
            return false;
        }
    }
}

fn is_whole(ledger: &Ledger, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
    let own = replicas::replica(nodes, group, node);
    let len = ledger.len(group);
    let taken = ledger.taken(nodes, group, node).map(|commit| commit.begin.moves).unwrap_or_default();
    own.is_live() && own.store.applied == len && own.store.data.holds(ledger.due(group, len).outside(taken))
}

fn read_logs(ledger: &Ledger, nodes: &mut Nodes, survivors: Members) -> bool {
    let mut moved = false;
    for node in survivors.iter() {
        for group in GroupId::BOTH {
            if ledger.catch_up_to(nodes, group, node) > replicas::replica(nodes, group, node).has {
                ledger.catch_up(nodes, group, node);
                moved = true;
            }
            while ledger.can_apply(nodes, group, node) {
                ledger.apply_next(nodes, group, node);
                moved = true;
            }
        }
    }
    moved
}

fn take_a_snapshot(ledger: &Ledger, nodes: &mut Nodes, survivors: Members) -> bool {
    for node in survivors.iter() {
        for group in GroupId::BOTH {
            if let Some(from) = (0..NODES).find(|from| ledger.can_take_snapshot(nodes, group, node, *from)) {
                ledger.take_snapshot(nodes, group, node, from);
                return true;
            }
        }
    }
    false
}
