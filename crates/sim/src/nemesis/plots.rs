//! Faults that follow a plot: several steps, each harmless, that together are what a mistake would need.

use super::{Undo, Weakness};
use crate::history::Time;
use crate::invariants::{Checked, voters};
use crate::network::Cut;
use crate::plan::{MILLISECOND, SECOND};
use crate::transport::Packet;
use crate::world::{Event, World};
use scatter_core::message::PeerMessage;

impl World {
    /// Those whom the leader loses stand for election once their grants have ended; the restarted one is the vote they lack,
    /// and only its wait protects the leader's lease.
    pub(super) fn usurp(&mut self) {
        let groups = self.groups();
        let led = groups.iter().filter_map(|group| {
            let leader = (0..self.hosts.len()).find(|host| self.leads(*host, *group))?;
            Some((leader, self.observer.configuration(*group)?))
        });
        let led: Vec<(usize, Vec<usize>)> = led
            .map(|(leader, configuration)| {
                let hosts = voters(configuration).into_iter().filter_map(|node| self.directory.get(&node).copied());
                (leader, hosts.filter(|host| *host != leader).collect())
            })
            .collect();
        if led.is_empty() {
            return;
        }
        let (leader, mut others) = self.nemesis.random.pick(&led).clone();
        self.nemesis.random.shuffle(&mut others);
        // A majority with the leader in it.
        let lost = others.split_off(others.len().div_ceil(2));
        let Some(victim) = others.first().copied().filter(|_| !lost.is_empty()) else { return };
        let patience = u64::try_from(self.plan.config.election_max.as_nanos()).unwrap_or(SECOND);
        let lease = self.lease();
        let at = self.now + patience + self.span(lease / 4, lease * 2);
        let until = at + lease * 3;
        self.part(leader, &lost, until);
        let all = [Weakness::Restart, Weakness::RestartShorter, Weakness::FastClock];
        let weakness = *self.nemesis.random.pick(&all);
        if weakness == Weakness::FastClock {
            let (now, rate) = (self.now, self.plan.rate_ppm);
            self.hosts[leader].clock.set_rate(now, -rate);
            self.hosts[victim].clock.set_rate(now, rate);
            self.rearm(leader);
            self.rearm(victim);
        }
        self.at(at, Event::Undo(Undo::Usurp(leader, victim, weakness, until)));
    }

    /// The founder comes back as another node, which may propose another cluster: whoever is bound must not follow.
    pub(super) fn spoil(&mut self) {
        let in_birth = self.groups().is_empty()
            && self.hosts.iter().all(|host| host.disk.log.node.as_ref().is_none_or(|record| record.cluster.is_none()));
        let host = self.nemesis.random.index(self.plan.founders);
        if in_birth && self.hosts[host].disk.log.node.is_some() {
            self.nemesis.spoiled = true;
            self.wipe(host);
            self.at(self.now + MILLISECOND, Event::Undo(Undo::Start(host)));
        }
    }

    /// What the first leader proposed stays in its log, undecided, behind what its successor decides.
    pub(super) fn strand(&mut self) {
        let Some(group) = self.any_group() else { return };
        let Some(leader) = (0..self.hosts.len()).find(|host| self.leads(*host, group)) else { return };
        let others: Vec<usize> = (0..self.hosts.len()).filter(|host| *host != leader).collect();
        let patience = u64::try_from(self.plan.config.election_max.as_nanos()).unwrap_or(SECOND);
        let until = self.now + patience * 2 + self.span(patience / 4, patience * 2);
        self.part(leader, &others, until);
        let first = self.now + self.span(MILLISECOND, patience / 2);
        self.at(first, Event::Undo(Undo::Order(group)));
        let second = self.now + patience + self.span(patience / 4, patience);
        self.at(second, Event::Undo(Undo::Order(group)));
        let end = until + self.span(MILLISECOND, patience / 4);
        self.at(end, Event::Undo(Undo::Unseat(group)));
        let lagger = *self.nemesis.random.pick(&others);
        let back = until + self.span(patience, patience * 3);
        self.at(until, Event::Undo(Undo::Part(lagger, back)));
        if self.nemesis.random.permille(600) {
            // What it hears then takes its time to replace what its disk holds, and a crash may come before.
            let slow = self.now + self.span(MILLISECOND, patience);
            self.at(slow, Event::Undo(Undo::Slow(leader)));
            let crash = until + self.span(10 * MILLISECOND, 2 * SECOND);
            if self.nemesis.random.permille(600) {
                self.at(crash, Event::Undo(Undo::Restart(leader)));
            }
            self.at(crash + SECOND, Event::Undo(Undo::Disk(leader)));
        }
    }

    /// A host hears what another proposed to speak for, before it was cut off.
    pub(super) fn mishear(&mut self) {
        let told: Vec<(usize, usize)> =
            self.nemesis.proposals.keys().copied().filter(|(speaker, _)| self.leads_any(*speaker)).collect();
        if told.is_empty() {
            return;
        }
        let (speaker, hearer) = *self.nemesis.random.pick(&told);
        let others: Vec<usize> = (0..self.hosts.len()).filter(|host| *host != speaker && *host != hearer).collect();
        // Others lead once its grants have ended, and before it gives up for want of a majority.
        let lease = self.lease();
        let heard = self.now + self.span(lease * 9 / 5, lease * 14 / 5);
        self.part(speaker, &others, heard + lease * 3);
        self.part(speaker, &[hearer], heard);
        self.at(heard, Event::Undo(Undo::Rehear(speaker, hearer)));
    }

    pub(super) fn rehear(&mut self, from: usize, to: usize) {
        if let Some(packet) = self.nemesis.proposals.get(&(from, to)).cloned() {
            self.note([33, from as u64, to as u64], || format!("host {to} hears host {from} once more: {packet:?}"));
            self.at(self.now, Event::Arrive { from, to, packet: Box::new(packet) });
        }
    }

    /// A packet leaves.
    pub(crate) fn overhear(&mut self, from: usize, to: usize, packet: &Packet) {
        if let Packet::Peer { message: PeerMessage::Cover { .. }, .. } = packet {
            self.nemesis.proposals.insert((from, to), packet.clone());
        }
    }

    /// A host starts anew with a lease that no other host has granted yet.
    pub(super) fn lengthen(&mut self) {
        let host = self.any_host();
        let usual = self.plan.config.lease;
        let config = &mut self.hosts[host].config;
        // A lease that was made short before is no measure for an election: a leader would depose itself between heartbeats.
        config.lease = (config.lease.max(usual) * 3 / 2).min(config.lease_limit.max(usual));
        config.election_min = config.lease + config.lease / 20;
        config.election_max = config.lease + config.lease / 2;
        self.crash(host);
        let back = self.now + self.span(MILLISECOND, 100 * MILLISECOND);
        self.at(back, Event::Undo(Undo::Start(host)));
        let crowned = back + self.lease() * 2 + self.span(MILLISECOND, SECOND);
        self.at(crowned, Event::Undo(Undo::Crown(host)));
    }

    pub(super) fn crown(&mut self, host: usize) -> Checked {
        let Some(node) = self.hosts[host].node_id() else { return Ok(()) };
        let until = self.now + 2 * SECOND;
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.hosts[other].disk_slowness = self.nemesis.random.between(20, 200);
            self.at(until, Event::Undo(Undo::Disk(other)));
        }
        for group in self.groups() {
            let votes = self.observer.configuration(group).is_some_and(|known| voters(known).contains(&node));
            if votes && !self.leads(host, group) {
                self.hand_over_to(group, host)?;
            }
        }
        Ok(())
    }

    /// A host and some others hear nothing from each other until a time.
    pub(super) fn part(&mut self, host: usize, others: &[usize], until: Time) {
        let links: Vec<(usize, usize)> = others.iter().flat_map(|other| [(host, *other), (*other, host)]).collect();
        for (from, to) in &links {
            self.network.cut(*from, *to, Cut::Drop);
        }
        self.at(until, Event::Undo(Undo::Mend(links, Cut::Drop)));
    }
}
