//! Addresses to try when somebody is missing.

use crate::identity::MAX_ADDRESS_BYTES;
use crate::nodes::random_index;
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::NodeId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most addresses kept; whoever was seen alive longest ago goes first.
const MAX_CONTACTS: usize = 1024;

/// Where nodes were found: kept beyond their deaths, so that the sides of a partition meet again however long it lasted.
#[derive(Default)]
pub(crate) struct Contacts(BTreeMap<NodeId, (Arc<str>, Instant)>);

impl Contacts {
    /// A node lives at an address.
    pub(crate) fn note(&mut self, node: NodeId, address: &Arc<str>, now: Instant) {
        if address.len() > MAX_ADDRESS_BYTES {
            return;
        }
        if !self.0.contains_key(&node)
            && self.0.len() >= MAX_CONTACTS
            && let Some(oldest) = self.0.iter().min_by_key(|(_, (_, seen))| *seen).map(|(node, _)| *node)
        {
            self.0.remove(&oldest);
        }
        self.0.insert(node, (Arc::clone(address), now));
    }

    /// One drawn at random of those that `absent` says are missing.
    pub(crate) fn draw(&self, rng: &mut Rng, absent: impl Fn(NodeId) -> bool) -> Option<(NodeId, Arc<str>)> {
        let missing: Vec<_> = self.0.iter().filter(|(node, _)| absent(**node)).collect();
        let (node, (address, _)) = missing.get(random_index(rng, missing.len()))?;
        Some((**node, Arc::clone(address)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_seen_longest_ago_makes_room() {
        let mut contacts = Contacts::default();
        for node in 0..=MAX_CONTACTS as u64 {
            contacts.note(NodeId(node), &"a".into(), Instant(if node == 7 { 0 } else { 10 + node }));
        }
        assert_eq!(contacts.0.len(), MAX_CONTACTS);
        assert!(!contacts.0.contains_key(&NodeId(7)));
        let drawn = contacts.draw(&mut Rng::new(1), |node| node == NodeId(3));
        assert_eq!(drawn, Some((NodeId(3), "a".into())));
        assert_eq!(contacts.draw(&mut Rng::new(1), |_| false), None);
    }
}
