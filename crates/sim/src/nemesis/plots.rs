//! Faults that follow a plot: several steps, each harmless, that together are what a mistake would need.

use super::{Undo, Weakness};
use crate::history::Time;
use crate::invariants::voters;
use crate::network::Cut;
use crate::plan::{MILLISECOND, SECOND};
use crate::world::{Event, World};

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

    /// A host and some others hear nothing from each other until a time.
    pub(super) fn part(&mut self, host: usize, others: &[usize], until: Time) {
        let links: Vec<(usize, usize)> = others.iter().flat_map(|other| [(host, *other), (*other, host)]).collect();
        for (from, to) in &links {
            self.network.cut(*from, *to, Cut::Drop);
        }
        self.at(until, Event::Undo(Undo::Mend(links, Cut::Drop)));
    }
}
