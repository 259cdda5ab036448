//! Three nodes in one process with a perfect network and disk: birth, election, writes, reads, hand-over, members.

#![allow(clippy::unwrap_used, reason = "a test harness")]

use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::durable::{Recovered, Write};
use scatter_core::effects::{MachineOrder, Reply};
use scatter_core::entry::EntryKind;
use scatter_core::group::Configuration;
use scatter_core::input::MachineReport;
use scatter_core::node::Boot;
use scatter_core::time::{Instant, Now, Wall};
use scatter_core::types::{GroupId, NodeId, RequestId};
use scatter_core::{Config, Effects, Input, Node, Origin};
use std::collections::{BTreeMap, VecDeque};

struct Host {
    node: Node,
    address: String,
    inbox: VecDeque<Input>,
    report: BTreeMap<GroupId, MachineReport>,
    writes: Vec<Write>,
}

struct Cluster {
    hosts: BTreeMap<NodeId, Host>,
    now: u64,
    replies: Vec<(NodeId, RequestId, Reply)>,
    applied: Vec<(NodeId, RequestId)>,
    down: Vec<NodeId>,
}

fn address(index: u64) -> String {
    format!("127.0.0.1:{}", 7000 + index)
}

impl Cluster {
    fn new(count: u64, founders: u64) -> Self {
        let list: Vec<String> = (1..=founders).map(address).collect();
        let mut cluster = Self {
            hosts: BTreeMap::new(),
            now: 1_000_000_000,
            replies: Vec::new(),
            applied: Vec::new(),
            down: Vec::new(),
        };
        for index in 1..=count {
            let origin = Origin {
                address: address(index),
                founders: if index <= founders { list.clone() } else { Vec::new() },
                seeds: list.clone(),
            };
            let boot = Boot { fresh_id: NodeId(index), nonce: index, seed: index, origin };
            let (node, effects) =
                Node::recover(Config::default(), boot, Recovered::default(), Vec::new(), cluster.clock()).unwrap();
            let host = Host {
                node,
                address: address(index),
                inbox: VecDeque::new(),
                report: BTreeMap::new(),
                writes: Vec::new(),
            };
            cluster.hosts.insert(NodeId(index), host);
            cluster.carry_out(NodeId(index), effects);
        }
        cluster
    }

    fn clock(&self) -> Now {
        Now { instant: Instant(self.now), wall: Wall(self.now / 1000) }
    }

    fn carry_out(&mut self, id: NodeId, effects: Effects) {
        if let Some(write) = effects.write {
            let host = self.hosts.get_mut(&id).unwrap();
            host.writes.extend(effects.writes);
            host.inbox.push_back(Input::Synced { write });
        }
        for out in effects.messages {
            if !self.down.contains(&out.to) && !self.down.contains(&id) {
                self.hosts.get_mut(&out.to).unwrap().inbox.push_back(Input::Message { from: id, message: out.message });
            }
        }
        for (request, reply) in effects.replies {
            self.replies.push((id, request, reply));
        }
        for apply in effects.applies {
            for (_, requests) in &apply.waiting {
                self.applied.extend(requests.iter().map(|request| (id, *request)));
            }
            let host = self.hosts.get_mut(&id).unwrap();
            let report = host.report.get_mut(&apply.group).unwrap();
            for (slot, entry) in apply.entries {
                assert_eq!(slot, report.applied.next());
                report.applied = slot;
                report.log_time.0 += entry.clock.advance_micros;
                if entry.kind == EntryKind::Configuration {
                    report.configuration = Configuration::from_all(entry.body).unwrap();
                }
            }
            let report = report.clone();
            host.node.read_word(apply.group).unwrap().set_applied(report.applied);
            host.inbox.push_back(Input::Applied { group: apply.group, report });
        }
        for order in effects.orders {
            if let MachineOrder::Create { replica, state } = order {
                let report = MachineReport {
                    applied: state.applied,
                    configuration: state.configuration.clone(),
                    stamp: state.stamp,
                    log_time: state.log_time,
                    next_expiry: None,
                    feature_level: state.feature_level,
                };
                let host = self.hosts.get_mut(&id).unwrap();
                host.report.insert(replica.group, report.clone());
                host.inbox.push_back(Input::Installed { group: replica.group, report });
            }
        }
        for dial in effects.dials {
            let found = self.hosts.iter().find(|(_, host)| host.address == dial);
            if let Some((other, host)) = found.filter(|(other, _)| !self.down.contains(other)) {
                let (node, cluster) = (*other, host.node.cluster());
                self.hosts.get_mut(&id).unwrap().inbox.push_back(Input::Answered { address: dial, node, cluster });
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let end = self.now + millis * 1_000_000;
        while self.now < end {
            let ids: Vec<NodeId> = self.hosts.keys().copied().collect();
            for id in ids {
                let now = self.clock();
                let host = self.hosts.get_mut(&id).unwrap();
                let mut effects = Effects::default();
                if self.down.contains(&id) {
                    host.inbox.clear();
                    continue;
                }
                let inputs: Vec<Input> = host.inbox.drain(..).collect();
                for input in inputs {
                    host.node.step(now, input, &mut effects);
                }
                if host.node.deadline().is_some_and(|at| at <= now.instant) {
                    host.node.step(now, Input::Tick, &mut effects);
                }
                host.node.flush(now, &mut effects);
                self.carry_out(id, effects);
            }
            self.now += 100_000;
        }
    }

    fn leader(&self) -> Option<(NodeId, GroupId)> {
        let now = self.clock();
        self.hosts.iter().filter(|(id, _)| !self.down.contains(id)).find_map(|(id, host)| {
            host.node
                .status(now)
                .iter()
                .find(|status| status.role == "leader")
                .map(|status| (*id, status.replica.group))
        })
    }

    fn input(&mut self, id: NodeId, input: Input) {
        self.hosts.get_mut(&id).unwrap().inbox.push_back(input);
    }
}

#[test]
fn three_founders_elect_a_leader_and_decide() {
    let mut cluster = Cluster::new(3, 3);
    cluster.run(1500);
    let (leader, group) = cluster.leader().expect("somebody leads");
    for request in 1..=100 {
        cluster.input(leader, Input::Propose { request: RequestId(request), group, command: Bytes::from_static(b"x") });
    }
    cluster.run(20);
    assert_eq!(cluster.applied.len(), 100, "{:?}", cluster.replies);
    let word = cluster.hosts[&leader].node.read_word(group).unwrap();
    let now = cluster.clock().instant;
    assert!(word.admit(|| now).is_some(), "the lease lets readers through");
    cluster.input(leader, Input::Read { request: RequestId(500), group });
    cluster.run(5);
    assert_eq!(cluster.replies.pop(), Some((leader, RequestId(500), Reply::ReadNow { group })));

    let other = *cluster.hosts.keys().find(|id| **id != leader).unwrap();
    cluster.input(leader, Input::HandOver { request: RequestId(501), group, to: other });
    cluster.run(50);
    assert_eq!(cluster.replies.pop(), Some((leader, RequestId(501), Reply::Done)));
    assert_eq!(cluster.leader(), Some((other, group)), "the hand-over did not wait for a lease");
    assert!(word.admit(|| now).is_none());

    cluster.down.push(other);
    cluster.run(1000);
    let (third, _) = cluster.leader().expect("the others elect one of them");
    assert_ne!(third, other);
    cluster.input(third, Input::Propose { request: RequestId(600), group, command: Bytes::from_static(b"y") });
    cluster.run(20);
    assert_eq!(cluster.applied.last(), Some(&(third, RequestId(600))));
    assert!(cluster.hosts[&third].writes.iter().any(|write| matches!(write, Write::Accept { .. })));
}
