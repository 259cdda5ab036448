//! Whom a node believes: introductions of others, and when it gives up its own id.

use super::Node;
use crate::durable::{NodeRecord, PeerRecord, Write};
use crate::effects::Effects;
use crate::input::MachineReport;
use crate::message::{Hello, HelloError};
use crate::planted::{self, Bug};
use crate::types::NodeId;
use std::collections::BTreeSet;

impl Node {
    /// How this node introduces itself to `to`.
    #[must_use]
    pub fn hello(&self, to: Option<NodeId>) -> Hello {
        let NodeRecord { cluster, node, boot, ref nonces, .. } = self.record;
        let earlier = nonces.iter().skip(1).copied().collect();
        Hello { cluster, from: node, to, boot, nonce: self.nonce, earlier }
    }

    /// Whether another node has introduced itself before, as far as this one remembers.
    #[must_use]
    pub fn has_seen(&self, node: NodeId) -> bool {
        self.peers.contains_key(&node)
    }

    /// Whether another node's introduction is believed. What is learned about it goes to disk with the next batch.
    pub fn check_hello(&mut self, hello: &Hello, effects: &mut Effects) -> Result<(), HelloError> {
        if self.record.given_up {
            return Err(HelloError::GivenUp);
        }
        if hello.to.is_some_and(|to| to != self.record.node) && !planted::on(Bug::TargetNotChecked) {
            return Err(HelloError::OtherNode);
        }
        if let (Some(ours), Some(theirs)) = (self.record.cluster, hello.cluster)
            && ours != theirs
        {
            return Err(HelloError::OtherCluster);
        }
        if self.is_condemned(hello.from) {
            return Err(HelloError::Condemned);
        }
        let seen = PeerRecord { node: hello.from, boot: hello.boot, nonce: hello.nonce, condemned: false };
        match self.peers.get(&hello.from) {
            Some(known) if *known == seen => return Ok(()),
            Some(known) if self.is_rolled_back(hello, known) => return Err(HelloError::RolledBack),
            Some(_) | None => {}
        }
        self.peers.insert(hello.from, seen);
        effects.writes.push(Write::Peer { record: seen });
        Ok(())
    }

    /// Whether a group went on without a node, so that nobody listens to it: a connection with it is to be closed, so that it hears
    /// why when it comes with the next.
    #[must_use]
    pub fn is_condemned(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.condemned) && !planted::on(Bug::CondemnedHeard)
    }

    /// All nodes that this one has noted nobody is to listen to.
    pub(super) fn condemned(&self) -> BTreeSet<NodeId> {
        self.peers.values().filter(|peer| peer.condemned).map(|peer| peer.node).collect()
    }

    /// Listens to these nodes no more. Whoever is among them itself gives up.
    pub(super) fn condemn(&mut self, nodes: &[NodeId], effects: &mut Effects) {
        for node in nodes {
            if *node == self.record.node {
                self.give_up(effects);
                return;
            }
            let record =
                self.peers.entry(*node).or_insert(PeerRecord { node: *node, boot: 0, nonce: 0, condemned: false });
            if !record.condemned {
                record.condemned = true;
                effects.writes.push(Write::Peer { record: *record });
            }
        }
    }

    /// A group here was recovered: whom it did without is not listened to. Its later members learn it so.
    pub(super) fn heed_recoveries(&mut self, report: &MachineReport, effects: &mut Effects) {
        for recovered in &report.state.recovered {
            self.condemn(&recovered.condemned, effects);
        }
    }

    /// Whether a node that was seen at the boot `known` cannot have come to this hello from there.
    pub(super) fn is_rolled_back(&self, hello: &Hello, known: &PeerRecord) -> bool {
        if planted::on(Bug::RollbackNotRefused) || planted::on(Bug::LineageNotChecked) && hello.boot > known.boot {
            return false;
        }
        hello.remembers(known) == Some(false)
    }

    pub(super) fn give_up(&mut self, effects: &mut Effects) {
        self.record.given_up = true;
        for replica in self.replicas.values() {
            replica.word.withdraw();
        }
        self.write_record(effects);
        effects.messages.clear();
        effects.give_up = true;
    }
}
