//! Gossip among the hosts: the engine that a node runs, over the simulated network.

use crate::history::Time;
use crate::invariants::Checked;
use crate::plan::{MILLISECOND, SECOND};
use crate::world::{Event, World};
use bytes::Bytes;
use scatter_core::effects::Outgoing;
use scatter_core::entry::Room;
use scatter_core::group::Link;
use scatter_core::input::Input;
use scatter_core::message::PeerMessage;
use scatter_core::ring::routing::RoutingTable;
use scatter_core::types::{GroupId, NodeId};
use scatter_gossip::{Flags, Gossip, Identity, Profile, ZoneTrip};

/// How often a process that belongs to no cluster yet looks whether it does.
const BEGIN_PERIOD: Time = 100 * MILLISECOND;

/// How many groups a host knows of.
const MOST_ROUTES: usize = 10_000;

impl World {
    /// What a host tells of itself.
    fn profile(&self, host: usize) -> Profile {
        let Some(rules) = &self.plan.policies else { return Profile::default() };
        let mut flags = Flags::default();
        if self.hosts[host].draining {
            flags = flags.with(Flags::DRAINING);
        }
        if self.hosts[host].room < Room::Enough {
            flags = flags.with(Flags::FULL);
        }
        let zone = if rules.zones > 0 { format!("zone-{}", host % rules.zones) } else { String::new() };
        let far = |other: usize| {
            let micros = u32::try_from((host % rules.zones * 7 + other * 11) % 5 * 8_000).unwrap_or(u32::MAX);
            ZoneTrip { zone: format!("zone-{other}"), micros }
        };
        let trips = if rules.round_trips { (0..rules.zones).map(far).collect() } else { Vec::new() };
        Profile { http_address: String::new(), zone, flags, trips }
    }

    /// A deadline of a process's gossip may have come.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) fn gossip_due(&mut self, host: usize) -> Checked {
        if !self.begin_gossip(host) {
            let epoch = self.hosts[host].epoch;
            self.at(self.now + BEGIN_PERIOD, Event::Gossip(host, epoch));
            return Ok(());
        }
        let clock = self.hosts[host].clock.instant(self.now);
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        if process.gossip_timer.is_some_and(|timer| timer > self.now) {
            return Ok(());
        }
        process.gossip_timer = None;
        if let Some(gossip) = &mut process.gossip {
            gossip.tick(clock);
        }
        self.gossip_says(host);
        Ok(())
    }

    /// Whether gossip runs: it begins once the node belongs to a cluster, and may speak.
    fn begin_gossip(&mut self, host: usize) -> bool {
        let Some(rules) = &self.plan.policies else { return false };
        let settings = rules.gossip.clone();
        if self.hosts[host].process.as_ref().is_some_and(|process| process.gossip.is_some()) {
            return true;
        }
        if !self.hosts[host].speaks() {
            return false;
        }
        let (profile, seed) = (self.profile(host), self.random.next());
        let target = &mut self.hosts[host];
        let clock = target.clock.instant(self.now);
        let Some(process) = target.process.as_mut().filter(|process| process.node.cluster().is_some()) else {
            return false;
        };
        let record = process.node.record();
        let identity = Identity::new(record.node, record.boot, &target.address);
        let Ok(mut gossip) = Gossip::new(identity, profile, settings, seed, clock) else { return false };
        for (node, address) in &process.book {
            gossip.meet(clock, *node, address);
        }
        process.gossip = Some(gossip);
        true
    }

    /// Another node was met: it said hello, or answered at a seed's address.
    pub(crate) fn gossip_meets(&mut self, host: usize, node: NodeId, address: &str) {
        let clock = self.hosts[host].clock.instant(self.now);
        let Some(process) = &mut self.hosts[host].process else { return };
        if let Some(gossip) = &mut process.gossip {
            gossip.meet(clock, node, address);
            self.gossip_says(host);
        }
    }

    /// A datagram has come.
    pub(crate) fn gossip_hears(&mut self, host: usize, from: NodeId, datagram: Bytes) {
        let clock = self.hosts[host].clock.instant(self.now);
        let Some(process) = &mut self.hosts[host].process else { return };
        if let Some(gossip) = &mut process.gossip {
            let heard = gossip.handle(clock, from, datagram);
            self.note([27, host as u64, from.0], || format!("host {host} hears gossip of {from}: {heard:?}"));
            self.gossip_says(host);
        }
    }

    /// This host tells what has changed about itself and its groups.
    pub(crate) fn gossip_tells(&mut self, host: usize) {
        let profile = self.profile(host);
        let clock = self.hosts[host].clock.instant(self.now);
        let load = self.load_of(host);
        let Some(process) = &mut self.hosts[host].process else { return };
        let own = process.node.id();
        let led = process.stage.marks().into_iter().filter_map(|(group, _)| {
            let (leader, ballot) = process.node.leadership(group)?;
            Some(
                process
                    .stage
                    .state(group)?
                    .descriptor(leader, if leader.is_some() { ballot } else { Default::default() }),
            )
        });
        let descriptors: Vec<_> = led.filter(|descriptor| descriptor.configuration.member(own).is_some()).collect();
        let Some(gossip) = &mut process.gossip else { return };
        // A profile is within its limits.
        let _ = gossip.set_profile(clock, profile);
        gossip.set_load(clock, load);
        gossip.learn_descriptors(clock, &descriptors);
        self.gossip_says(host);
    }

    /// Groups led on a host that hear nothing of a neighbour are told who else lies next to them. Where no gossip runs, what it would
    /// spread in time is taken from the hosts themselves.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub(crate) fn suggest_neighbours(&mut self, host: usize) -> Checked {
        let epoch = self.hosts[host].epoch;
        let next = self.now + SECOND / 2 + self.random.below(SECOND);
        self.at(next, Event::Neighbours(host, epoch));
        let Some(process) = &self.hosts[host].process else { return Ok(()) };
        let seeking: Vec<GroupId> = process.node.seeking_neighbours().collect();
        if seeking.is_empty() {
            return Ok(());
        }
        let mut routes = RoutingTable::new(MOST_ROUTES);
        match &process.gossip {
            Some(gossip) => {
                for heard in gossip.descriptors() {
                    routes.learn(heard);
                }
            }
            None => {
                for stage in self.hosts.iter().filter_map(|host| Some(&host.process.as_ref()?.stage)) {
                    for state in stage.marks().into_iter().filter_map(|(group, _)| stage.state(group)) {
                        routes.learn(&state.link().descriptor());
                    }
                }
            }
        }
        let found: Vec<(GroupId, Vec<Link>)> = seeking
            .into_iter()
            .filter_map(|group| Some((group, process.stage.state(group)?)))
            .map(|(group, state)| (group, routes.beside(&state.range).map(|route| route.link()).collect()))
            .collect();
        for (group, links) in found {
            self.input(host, Input::Found { group, links })?;
        }
        Ok(())
    }

    /// Sends what the engine has to say, and sets its alarm.
    fn gossip_says(&mut self, host: usize) {
        let now = self.now;
        let target = &mut self.hosts[host];
        let Some(process) = &mut target.process else { return };
        let Some(gossip) = &mut process.gossip else { return };
        let outgoing: Vec<_> = gossip.outgoing().collect();
        let events: Vec<_> = gossip.events().collect();
        if let Some(deadline) = gossip.next_deadline() {
            let at = target.clock.when(deadline, now).max(now + MILLISECOND);
            if process.gossip_timer.is_none_or(|timer| at < timer) {
                process.gossip_timer = Some(at);
                let epoch = target.epoch;
                self.at(at, Event::Gossip(host, epoch));
            }
        }
        for event in events {
            self.note([28, host as u64, 0], || format!("host {host} by gossip: {event:?}"));
        }
        for datagram in outgoing {
            let message = PeerMessage::Gossip { datagram: datagram.bytes };
            let address = Some(datagram.address.to_string());
            self.send_peer(host, Outgoing { to: datagram.to, address, bulk: false, message });
        }
    }
}
