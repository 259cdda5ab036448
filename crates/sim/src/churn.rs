//! Hosts come and go: each lives for a while, ends for good, and another one with an empty disk takes its place.

use crate::history::Time;
use crate::invariants::Checked;
use crate::nemesis::Undo;
use crate::plan::{MILLISECOND, Plan, Profile, SECOND};
use crate::policies::Rules;
use crate::random::Random;
use crate::world::{Event, World};

/// Sets the streams of what is drawn here apart from those that other profiles go by.
const STREAM: u64 = 0xc4a2_15c4_a215;

/// How long hosts live. The distribution is log-normal, as that of nodes in the wild about is: most end soon, a few live on and
/// on.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// Half of the hosts live longer.
    pub median: Time,
    /// The deviation of the lifetime's logarithm, in thousandths.
    pub deviation_permille: u64,
    /// How long it takes at most until another host takes the place.
    pub absence: Time,
}

impl Lifetimes {
    fn draw(random: &mut Random) -> Self {
        Self {
            median: random.spread(5 * SECOND, 60 * SECOND),
            deviation_permille: random.between(600, 1_600),
            absence: random.spread(500 * MILLISECOND, 6 * SECOND),
        }
    }

    /// The lifetime of one host.
    fn lifetime(&self, random: &mut Random) -> Time {
        // The sum of twelve even draws is normal, near enough.
        let normal = (0..12).map(|_| random.below(1 << 20) as f64 / (1 << 20) as f64).sum::<f64>() - 6.0;
        let factor = (normal * self.deviation_permille as f64 / 1_000.0).exp();
        (self.median as f64 * factor) as Time + 100 * MILLISECOND
    }
}

/// Whether a seed is one of the few that draw this profile.
pub(crate) fn is_drawn(seed: u64) -> bool {
    Random::new(seed ^ STREAM).permille(30)
}

/// Draws what other profiles have not: whole rings, and groups that look after themselves.
pub(crate) fn draw(plan: &mut Plan) {
    let mut random = Random::new(plan.seed ^ STREAM ^ 1);
    match plan.profile {
        Profile::Churn => {
            draw_ring(plan, &mut random);
            plan.policies = random.permille(900).then(|| Rules::draw(&mut random, plan));
        }
        Profile::Ring | Profile::Everything if random.permille(100) => {
            plan.policies = Some(Rules::draw(&mut random, plan));
        }
        _ => {}
    }
    if plan.profile == Profile::Ring {
        widen(plan);
    }
}

/// A few rings have many hosts that stay. Without policies only orders would bring groups to them.
fn widen(plan: &mut Plan) {
    let mut random = Random::new(plan.seed ^ STREAM ^ 2);
    if !random.permille(33) {
        return;
    }
    plan.hosts = random.between(30, 60) as usize;
    plan.most_groups = random.between(7, 30) as usize;
    plan.keys = random.between(8, 16) as u32 + plan.most_groups as u32;
    if random.permille(700) && plan.policies.is_none() {
        plan.policies = Some(Rules::draw(&mut random, plan));
    }
    slow_down(plan);
}

fn draw_ring(plan: &mut Plan, random: &mut Random) {
    plan.hosts = match random.below(100) {
        0..72 => random.between(5, 9),
        72..92 => random.between(10, 16),
        92..98 => random.between(17, 30),
        _ => random.between(31, 60),
    } as usize;
    plan.most_groups = (plan.hosts * random.between(1, 3) as usize / 2).clamp(4, 30);
    plan.keys = random.between(8, 16) as u32 + plan.most_groups as u32;
    plan.think = random.spread(20 * MILLISECOND, 200 * MILLISECOND);
    plan.patience = plan.patience.max(SECOND);
    plan.duration = random.between(15, 45) * SECOND;
    plan.fault_gap = random.spread(600 * MILLISECOND, 4 * SECOND);
    plan.lifetimes = Some(Lifetimes::draw(random));
    slow_down(plan);
}

/// Many groups say much: more hosts take their time.
fn slow_down(plan: &mut Plan) {
    let heartbeat = plan.config.heartbeat * (1 + plan.hosts as u32 / 12);
    plan.config.lease = plan.config.lease.max(heartbeat * 4);
    plan.config.election_min = plan.config.lease + plan.config.lease / 20;
    plan.config.election_max = plan.config.lease + plan.config.lease / 2;
    plan.config.heartbeat = heartbeat;
    plan.config.membership_patience = plan.config.lease * 3;
}

impl World {
    /// Every host's days are numbered, if the plan says so.
    pub(crate) fn begin_lives(&mut self) {
        for host in 0..self.hosts.len() {
            self.begin_life(host, self.now);
        }
    }

    fn begin_life(&mut self, host: usize, from: Time) {
        let Some(lifetimes) = self.plan.lifetimes else { return };
        let end = from + lifetimes.lifetime(self.nemesis_random());
        self.hosts[host].life += 1;
        let life = self.hosts[host].life;
        self.at(end, Event::LifeEnds(host, life));
        // Some are told beforehand, and are emptied as far as there is time.
        if self.nemesis_random().permille(250) {
            let warned = end.saturating_sub(self.nemesis_random().spread(SECOND, 8 * SECOND)).max(from);
            self.at(warned, Event::Undo(Undo::Drain(host, true)));
        }
    }

    /// A host ends for good, unless a group could not spare it: then it lives a little longer.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) fn life_ends(&mut self, host: usize, life: u64) -> Checked {
        let Some(lifetimes) = self.plan.lifetimes else { return Ok(()) };
        if self.nemesis.stopped || self.hosts[host].life != life {
            return Ok(());
        }
        let Some(node) = self.hosts[host].disk.log.node.as_ref().map(|record| record.node) else { return Ok(()) };
        if !self.may_lose(node) {
            let later = self.now + self.nemesis_random().spread(200 * MILLISECOND, 2 * SECOND);
            self.at(later, Event::LifeEnds(host, life));
            return Ok(());
        }
        self.note([26, host as u64, node.0], || format!("host {host}, node {node}, ends for good"));
        self.wipe(host);
        self.move_house(host);
        let absence = self.nemesis_random().spread(10 * MILLISECOND, lifetimes.absence);
        self.at(self.now + absence, Event::Undo(Undo::Start(host)));
        self.begin_life(host, self.now + absence);
        Ok(())
    }

    /// Mostly another machine has another address.
    fn move_house(&mut self, host: usize) {
        self.hosts[host].draining = false;
        if self.hosts[host].address != self.hosts[host].home || self.nemesis_random().permille(250) {
            return;
        }
        let home = format!("host-{host}-{}:7000", self.hosts[host].life);
        self.addresses.remove(&self.hosts[host].home);
        self.addresses.insert(home.clone(), host);
        self.hosts[host].address.clone_from(&home);
        self.hosts[host].home = home;
    }

    /// Where a node that starts asks who is there: the founders and whoever else belongs, since all founders may have lost
    /// their disks; or some of those who live now, as an operator would have it.
    pub(crate) fn seeds(&self) -> Vec<String> {
        let belongs =
            |host: &usize| self.hosts[*host].disk.log.node.as_ref().is_some_and(|node| node.cluster.is_some());
        let all = 0..self.hosts.len();
        let seeds: Vec<usize> = if self.plan.lifetimes.is_none() {
            all.filter(|host| *host < self.plan.founders || belongs(host)).collect()
        } else {
            all.filter(belongs).take(4).collect()
        };
        seeds.into_iter().map(|host| self.hosts[host].home.clone()).collect()
    }
}
