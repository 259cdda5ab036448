//! The nemesis: faults and operators' orders, one after the other, each with its end.
//!
//! It keeps to what the protocol promises to survive: a wiped, rolled-back or cloned disk counts as a lost node, and no more
//! nodes are lost than leave every group a majority; a disk is put back only to before a boot that its peers have seen.

mod ambush;
mod disaster;
mod losses;
mod operator;
mod plots;
pub mod steps;

use crate::disk::Disk;
use crate::history::Time;
use crate::invariants::Checked;
use crate::network::{Cut, Quality};
use crate::plan::{Fault, MICROSECOND, MILLISECOND, Plan, SECOND};
use crate::random::Random;
use crate::transport::Packet;
use crate::world::{Event, World};
use losses::Ordered;
use scatter_core::birth::Origin;
use scatter_core::entry::Room;
use scatter_core::group::Role;
use scatter_core::input::Input;
use scatter_core::types::{FeatureLevel, GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How a fault ends.
#[derive(Clone, Debug)]
pub enum Undo {
    /// Links are whole again.
    Mend(Vec<(usize, usize)>, Cut),
    /// A link goes up, or down again, so many times.
    Flap(usize, usize, u32),
    /// The network is as usual.
    Network,
    /// A process starts.
    Start(usize),
    /// A disk is as fast as usual.
    Disk(usize),
    /// There is room again.
    Space(usize),
    /// A wall clock is set right.
    Wall(usize),
    /// Two hosts have their own addresses again.
    Addresses(usize, usize),
    /// A host that granted a lease to a leader's host hears it no more until the time.
    Usurp(usize, usize, Weakness, Time),
    /// The members of a group are to change.
    Order(GroupId),
    /// Whoever leads a group crashes.
    Unseat(GroupId),
    /// A host hears nobody until the time.
    Part(usize, Time),
    /// Syncs take very long.
    Slow(usize),
    /// A process dies and starts at once.
    Restart(usize),
    /// A host's node is made a member of a group again.
    Add(GroupId, usize, u32),
    /// This becomes of these hosts.
    Strike(Vec<usize>, steps::Blow),
    /// A host is to be emptied, or no more.
    Drain(usize, bool),
    /// Whoever lies in wait looks.
    Ambush(ambush::Ambush),
    /// The operator has those who are left of lost groups go on.
    Recover,
    /// A host that was lost comes back with its disk.
    ComeBack(usize),
    /// What the first host last proposed to speak for reaches the second once more.
    Rehear(usize, usize),
    /// A host is to lead every group that it is a member of.
    Crown(usize),
}

/// Why a grantor might forget the lease it granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weakness {
    /// It restarts.
    Restart,
    /// It restarts with a shorter term in its settings.
    RestartShorter,
    /// Its clock is as fast as the bound allows, and the leader's as slow.
    FastClock,
}

/// What makes trouble.
#[derive(Debug)]
pub struct Nemesis {
    random: Random,
    faults: Vec<Fault>,
    /// Further faults, and what is drawn for them.
    further: (Vec<Fault>, Random),
    gap: Time,
    /// No more faults.
    pub stopped: bool,
    /// A founder was wiped during birth: no cluster may come to be.
    pub spoiled: bool,
    /// Nodes that lost their disk, with the host they lived on.
    pub replaced: Vec<(usize, NodeId)>,
    /// Sets of voters that were ordered lately, with when and for whom: any of them may come to be.
    ordered: Vec<Ordered>,
    /// The newest boot of each node, with its nonce.
    boots: BTreeMap<NodeId, (u64, u64)>,
    /// The step that brings a crash with it.
    armed: Option<steps::Armed>,
    /// What has happened at steps so far, each way once.
    pub struck: Vec<steps::Blow>,
    /// Nodes whose disk was put back.
    tampered: BTreeSet<NodeId>,
    /// The nonces of processes that run on such a disk.
    impostors: BTreeSet<u64>,
    /// Until when what groups say to each other arrives twice.
    echoes_until: Time,
    /// Until when data stores are not flushed.
    forgetful_until: Time,
    /// The machines of these hosts stand still when they start, until then.
    stunned: (BTreeSet<usize>, Time),
    /// This host's store is flushed, though others are not.
    remembers: Option<usize>,
    /// What disasters have taken.
    lost: disaster::Lost,
    /// The votes of the first of these groups on what the second asks are lost until then.
    silenced: Option<(GroupId, GroupId, Time)>,
    /// The last proposal of a cover on each link.
    proposals: BTreeMap<(usize, usize), Packet>,
}

impl Nemesis {
    /// The nemesis of a plan.
    #[must_use]
    pub fn new(plan: &Plan, random: Random) -> Self {
        Self {
            random,
            faults: plan.faults.clone(),
            further: (plan.further.clone(), Random::new(plan.further_seed)),
            gap: plan.fault_gap,
            stopped: false,
            spoiled: false,
            replaced: Vec::new(),
            ordered: Vec::new(),
            armed: None,
            struck: Vec::new(),
            boots: BTreeMap::new(),
            tampered: BTreeSet::new(),
            impostors: BTreeSet::new(),
            echoes_until: 0,
            forgetful_until: 0,
            stunned: (BTreeSet::new(), 0),
            remembers: None,
            lost: disaster::Lost::default(),
            silenced: None,
            proposals: BTreeMap::new(),
        }
    }

    /// A process has started.
    pub fn started(&mut self, node: NodeId, boot: u64, nonce: u64) {
        if self.tampered.contains(&node) {
            self.impostors.insert(nonce);
        }
        let newest = self.boots.entry(node).or_insert((boot, nonce));
        if boot > newest.0 {
            *newest = (boot, nonce);
        }
    }

    /// The newest boot of a node, with its nonce.
    #[must_use]
    pub fn newest_boot(&self, node: NodeId) -> Option<(u64, u64)> {
        self.boots.get(&node).copied()
    }

    /// Whether the process of this nonce runs on a disk that was put back.
    #[must_use]
    pub fn is_impostor(&self, nonce: u64) -> bool {
        self.impostors.contains(&nonce)
    }
}

impl World {
    /// What a host's settings say of the beginning.
    #[must_use]
    pub fn origin(&self, host: usize) -> Origin {
        let founders: Vec<String> = (0..self.plan.founders).map(|founder| self.hosts[founder].home.clone()).collect();
        let founds = self.plan.birth && self.hosts[host].founder;
        Origin {
            address: self.hosts[host].address.clone(),
            founders: if founds { founders } else { Vec::new() },
            seeds: self.seeds(),
        }
    }

    /// The next fault.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn nemesis_acts(&mut self) -> Checked {
        if self.nemesis.stopped || self.nemesis.faults.is_empty() {
            return Ok(());
        }
        let wait = self.nemesis.random.below(self.nemesis.gap) + self.nemesis.gap / 4;
        self.at(self.now + wait, Event::Nemesis);
        if self.nemesis.random.permille(300) && self.plan.policies.is_none() {
            self.repair()?;
        }
        let fault = {
            let nemesis = &mut self.nemesis;
            *nemesis.random.pick(&nemesis.faults)
        };
        self.note([20, fault as u64, 0], || format!("fault: {fault:?}"));
        self.befall(fault)?;
        self.befall_further()
    }

    /// Perhaps a further fault. Whatever is drawn for it comes from a stream of its own.
    fn befall_further(&mut self) -> Checked {
        let (faults, random) = &mut self.nemesis.further;
        if faults.is_empty() || !random.permille(300) {
            return Ok(());
        }
        let fault = *random.pick(faults);
        self.note([33, fault as u64, 0], || format!("further fault: {fault:?}"));
        std::mem::swap(&mut self.nemesis.random, &mut self.nemesis.further.1);
        let befallen = self.befall(fault);
        std::mem::swap(&mut self.nemesis.random, &mut self.nemesis.further.1);
        befallen
    }

    /// Chance for faults.
    pub(crate) fn nemesis_random(&mut self) -> &mut Random {
        &mut self.nemesis.random
    }

    fn any_host(&mut self) -> usize {
        let hosts = self.hosts.len();
        // Leaders are the more interesting victims.
        let leaders: Vec<usize> = (0..hosts).filter(|host| self.leads_any(*host)).collect();
        if !leaders.is_empty() && self.nemesis.random.permille(400) {
            return *self.nemesis.random.pick(&leaders);
        }
        self.nemesis.random.index(hosts)
    }

    fn leads_any(&self, host: usize) -> bool {
        self.groups().iter().any(|group| self.leads(host, *group))
    }

    pub(crate) fn leads(&self, host: usize, group: GroupId) -> bool {
        let now = self.hosts[host].clock.now(self.now);
        self.hosts[host].process.as_ref().is_some_and(|process| {
            process.node.status(now).iter().any(|status| status.replica.group == group && status.role == "leader")
        })
    }

    fn span(&mut self, least: Time, most: Time) -> Time {
        self.nemesis.random.spread(least, most)
    }

    fn lease(&self) -> Time {
        u64::try_from(self.plan.config.lease.as_nanos()).unwrap_or(SECOND)
    }

    fn befall(&mut self, fault: Fault) -> Checked {
        let end = self.now + self.span(50 * MILLISECOND, 6 * SECOND);
        match fault {
            Fault::Halves | Fault::Isolate | Fault::OneWay => self.cut(fault, end),
            Fault::Flap => {
                let (from, to) = (self.any_host(), self.any_host());
                let times = self.nemesis.random.between(3, 20) as u32 * 2;
                self.at(self.now, Event::Undo(Undo::Flap(from, to, times)));
            }
            Fault::BadNetwork => {
                let usual = self.network.usual();
                self.network.worsen(Quality {
                    loss_permille: self.nemesis.random.between(50, 500) as u32,
                    double_permille: self.nemesis.random.below(200) as u32,
                    reorder_permille: self.nemesis.random.below(800) as u32,
                    straggle_permille: self.nemesis.random.below(200) as u32,
                    straggle_most: 2 * SECOND,
                    ..usual
                });
                self.at(end, Event::Undo(Undo::Network));
            }
            Fault::Crash => {
                let host = self.any_host();
                self.crash_and_start(host);
            }
            Fault::CrashMany => {
                let mut hosts: Vec<usize> = (0..self.hosts.len()).collect();
                self.nemesis.random.shuffle(&mut hosts);
                let count = if self.nemesis.random.permille(400) {
                    hosts.len()
                } else {
                    self.nemesis.random.between(2, hosts.len() as u64) as usize
                };
                for host in hosts.into_iter().take(count) {
                    self.crash_and_start(host);
                }
            }
            Fault::Pause | Fault::StallLoop | Fault::StallApply => self.pause(fault),
            Fault::SlowDisk | Fault::HangDisk | Fault::FailSync | Fault::FullDisk => {
                return self.disk_fault(fault, end);
            }
            Fault::WallJump | Fault::WallYears | Fault::Rate => self.clock_fault(fault, end),
            Fault::LeaseTerm | Fault::Upgrade => self.resettle(fault),
            Fault::Rollback => self.roll_back(),
            Fault::Wipe => self.lose_disk(),
            Fault::Usurp => self.usurp(),
            Fault::Strand => self.strand(),
            Fault::Mishear => self.mishear(),
            Fault::Lengthen => self.lengthen(),
            Fault::Spoil => self.spoil(),
            Fault::CrashAtStep => self.arm(),
            Fault::Drain => {
                let host = self.any_host();
                self.hosts[host].draining = true;
                self.at(end, Event::Undo(Undo::Drain(host, false)));
            }
            Fault::Members => return self.order_members(),
            Fault::RemoveAndAdd => return self.order_removal(),
            Fault::HandOver => return self.order_hand_over(),
            Fault::Split => return self.order_split(),
            Fault::Merge => return self.order_takeover(true),
            Fault::Repartition => return self.order_takeover(false),
            Fault::Ambush => return self.ambush(),
            Fault::Disaster => self.disaster(),
            Fault::SwapAddresses => {
                let (a, b) = (self.any_host(), self.any_host());
                // Before everybody belongs to the cluster that would be another list of founders.
                let born = |host: usize| {
                    self.hosts[host].process.as_ref().is_some_and(|process| process.node.cluster().is_some())
                };
                if a != b && (0..self.hosts.len()).all(born) {
                    self.swap_addresses(a, b);
                    self.at(end, Event::Undo(Undo::Addresses(a, b)));
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, fault: Fault, end: Time) {
        let hosts = self.hosts.len();
        let how = if self.nemesis.random.permille(700) { Cut::Drop } else { Cut::Hold };
        let mut side = vec![false; hosts];
        match fault {
            Fault::Isolate => {
                let victim = self.any_host();
                side[victim] = true;
            }
            _ => side.iter_mut().for_each(|side| *side = self.nemesis.random.permille(500)),
        }
        let both = fault != Fault::OneWay;
        let mut links = Vec::new();
        for from in 0..hosts {
            for to in 0..hosts {
                if side[from] != side[to] && (both || side[from]) {
                    links.push((from, to));
                }
            }
        }
        // Clients mostly still reach everybody, the stale leader above all.
        if self.nemesis.random.permille(250) {
            for host in (0..hosts).filter(|host| side[*host]) {
                for client in hosts..hosts + self.workload.sessions() {
                    links.extend([(client, host), (host, client)]);
                }
            }
        }
        for (from, to) in &links {
            self.network.cut(*from, *to, how);
        }
        self.at(end, Event::Undo(Undo::Mend(links, how)));
    }

    fn crash_and_start(&mut self, host: usize) {
        self.crash(host);
        if self.hosts[host].copy.is_none() && self.nemesis.random.permille(300) {
            self.hosts[host].copy = Some(self.hosts[host].disk.copy());
        }
        let down = if self.nemesis.random.permille(300) { 0 } else { self.span(MILLISECOND, 4 * SECOND) };
        self.at(self.now + down, Event::Undo(Undo::Start(host)));
    }

    fn pause(&mut self, fault: Fault) {
        let host = self.any_host();
        let lease = self.lease();
        let until = self.now + self.span(lease / 8, lease * 8);
        match fault {
            Fault::Pause => self.hosts[host].paused_until = until,
            _ => {
                if let Some(process) = &mut self.hosts[host].process {
                    if fault == Fault::StallLoop {
                        process.loop_stalled_until = until;
                    } else {
                        process.work_stalled_until = until;
                    }
                }
            }
        }
    }

    fn disk_fault(&mut self, fault: Fault, end: Time) -> Checked {
        let host = self.any_host();
        match fault {
            Fault::SlowDisk => {
                self.hosts[host].disk_slowness = self.nemesis.random.between(5, 100);
                self.at(end, Event::Undo(Undo::Disk(host)));
            }
            Fault::HangDisk => self.hosts[host].disk_hangs_until = end,
            Fault::FailSync => self.hosts[host].sync_fails = true,
            _ => {
                // Of some no one disk is full, but those of a majority.
                let all = self.hosts.len();
                let count = if host % 3 == 2 { all / 2 + 1 } else { 1 };
                for host in (host..host + count).map(|host| host % all) {
                    // One that is a little larger still takes commands that remove.
                    let room = if host.is_multiple_of(2) { Room::Reserve } else { Room::Removals };
                    self.hosts[host].room = room;
                    self.at(end, Event::Undo(Undo::Space(host)));
                    self.input(host, Input::Room { room })?;
                }
            }
        }
        Ok(())
    }

    fn clock_fault(&mut self, fault: Fault, end: Time) {
        let host = self.any_host();
        let now = self.now;
        match fault {
            Fault::WallJump => {
                let micros = self.nemesis.random.below(7_200_000_000) as i64 - 3_600_000_000;
                self.hosts[host].clock.set_wall_offset(micros);
            }
            Fault::WallYears => {
                self.hosts[host].clock.set_wall_offset(75 * 365 * 86_400 * 1_000_000);
                self.at(end, Event::Undo(Undo::Wall(host)));
            }
            _ => {
                let rate = self.draw_rate();
                self.hosts[host].clock.set_rate(now, rate);
                self.rearm(host);
            }
        }
    }

    /// The clock of a host runs differently: its deadlines come at other times.
    fn rearm(&mut self, host: usize) {
        let epoch = self.hosts[host].epoch;
        let now = self.now;
        if let Some(process) = &mut self.hosts[host].process {
            process.timer = Some(now);
            self.at(now, Event::Timer(host, epoch));
        }
    }

    /// A process starts again with other settings.
    fn resettle(&mut self, fault: Fault) {
        let host = self.any_host();
        let lease = self.lease();
        let config = &mut self.hosts[host].config;
        if fault == Fault::LeaseTerm {
            let term = self.nemesis.random.between(lease / 3, lease * 4);
            config.lease = Duration::from_nanos(term);
            config.election_min = Duration::from_nanos(term + term / 20);
            config.election_max = Duration::from_nanos(term + term / 2);
        } else {
            config.feature_level = FeatureLevel(if config.feature_level.0 == 1 { 2 } else { 1 });
        }
        self.crash(host);
        let down = self.span(MILLISECOND, SECOND);
        self.at(self.now + down, Event::Undo(Undo::Start(host)));
    }

    /// A disk is put back to what it was before boots that everybody has seen.
    fn roll_back(&mut self) {
        let Some(host) = (0..self.hosts.len()).find(|host| self.may_roll_back(*host)) else { return };
        let Some(node) = self.hosts[host].node_id() else { return };
        self.crash(host);
        let Some(copy) = self.hosts[host].copy.take() else { return };
        let newest = self.nemesis.newest_boot(node).map_or(0, |(newest, _)| newest);
        let missed = newest.saturating_sub(copy.node().map_or(0, |record| record.boot));
        self.hosts[host].disk = Disk::restore(&copy);
        self.observer.condemn(node);
        self.nemesis.tampered.insert(node);
        self.nemesis.replaced.push((host, node));
        self.note([21, host as u64, node.0], || format!("the disk of host {host}, node {node}, is put back"));
        let up = self.now + self.span(MILLISECOND, SECOND);
        self.at(up, Event::Undo(Undo::Start(host)));
        if missed < 4 && self.nemesis.random.permille(500) {
            // Starts that nobody hears of bring its counter past what the others have seen.
            let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != host).collect();
            let quiet = up + (missed + 1) * 100 * MILLISECOND;
            self.part(host, &others, quiet);
            for again in 1..=missed {
                self.at(up + again * 100 * MILLISECOND, Event::Undo(Undo::Restart(host)));
            }
        }
    }

    fn may_roll_back(&self, host: usize) -> bool {
        let Some(node) = self.hosts[host].node_id() else { return false };
        let Some((boot, nonce)) = self.nemesis.newest_boot(node) else { return false };
        let older = self.hosts[host]
            .copy
            .as_ref()
            .and_then(|copy| copy.node())
            .is_some_and(|record| record.node == node && record.boot < boot);
        let seen = self.hosts.iter().enumerate().all(|(other, target)| {
            let known = target.disk.log.peers.get(&node);
            other == host || known.is_some_and(|known| known.boot == boot && known.nonce == nonce)
        });
        older && seen && self.may_lose(node) && !self.was_alone(host, node)
    }

    /// A disk is lost for good; an empty one takes its place.
    fn lose_disk(&mut self) {
        let host = self.any_host();
        self.lose_disk_of(host);
    }

    fn lose_disk_of(&mut self, host: usize) {
        let Some(node) = self.hosts[host].node_id() else { return };
        if self.hosts[host].disk.log.node.is_some() && self.may_lose(node) {
            self.wipe(host);
            let down = self.span(MILLISECOND, 2 * SECOND);
            self.at(self.now + down, Event::Undo(Undo::Start(host)));
        }
    }

    fn any_group(&mut self) -> Option<GroupId> {
        let groups = self.groups();
        if groups.is_empty() { None } else { Some(*self.nemesis.random.pick(&groups)) }
    }

    fn swap_addresses(&mut self, a: usize, b: usize) {
        self.crash(a);
        self.crash(b);
        let first = self.hosts[a].address.clone();
        let second = std::mem::replace(&mut self.hosts[b].address, first.clone());
        self.hosts[a].address.clone_from(&second);
        self.addresses.insert(first, b);
        self.addresses.insert(second, a);
        self.at(self.now + MILLISECOND, Event::Undo(Undo::Start(a)));
        self.at(self.now + MILLISECOND, Event::Undo(Undo::Start(b)));
    }

    /// A fault ends.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn undo(&mut self, undo: Undo) -> Checked {
        if let Undo::Ambush(ambush) = undo {
            return self.look_out(ambush);
        }
        self.note([23, 0, 0], || format!("undone: {undo:?}"));
        match undo {
            Undo::Mend(links, how) => {
                if !self.nemesis.stopped {
                    links.iter().for_each(|(from, to)| self.network.mend(*from, *to, how));
                }
                self.release_held();
            }
            Undo::Flap(from, to, times) => {
                let down = times % 2 == 0;
                if down && times > 0 && !self.nemesis.stopped {
                    self.network.cut(from, to, Cut::Drop);
                } else if !down {
                    self.network.mend(from, to, Cut::Drop);
                }
                if times > 0 {
                    let next = self.now + self.span(MILLISECOND, 400 * MILLISECOND);
                    self.at(next, Event::Undo(Undo::Flap(from, to, times - 1)));
                }
            }
            Undo::Network => self.network.recover(),
            Undo::Start(host) => return self.start(host),
            Undo::Disk(host) => self.hosts[host].disk_slowness = 1,
            Undo::Space(host) => {
                self.hosts[host].room = Room::Enough;
                return self.input(host, Input::Room { room: Room::Enough });
            }
            Undo::Wall(host) => self.hosts[host].clock.set_wall_offset(0),
            Undo::Strike(victims, blow) if !self.nemesis.stopped => self.strike(&victims, blow),
            Undo::Order(group) if !self.nemesis.stopped => return self.order_members_of(group),
            Undo::Unseat(group) if !self.nemesis.stopped => {
                if let Some(host) = (0..self.hosts.len()).rfind(|host| self.leads(*host, group)) {
                    self.crash_and_start(host);
                }
            }
            Undo::Restart(host) if !self.nemesis.stopped => {
                self.crash(host);
                return self.start(host);
            }
            Undo::Slow(host) if !self.nemesis.stopped => {
                self.hosts[host].disk_slowness = self.nemesis.random.between(20, 400);
            }
            Undo::Part(host, until) if !self.nemesis.stopped => {
                let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != host).collect();
                self.part(host, &others, until);
            }
            Undo::Order(_) | Undo::Unseat(_) | Undo::Restart(_) | Undo::Slow(_) | Undo::Part(..) => {}
            Undo::Recover => return self.recover_lost(),
            Undo::ComeBack(host) => return self.come_back(host),
            Undo::Rehear(from, to) if !self.nemesis.stopped => self.rehear(from, to),
            Undo::Crown(host) if !self.nemesis.stopped => return self.crown(host),
            Undo::Strike(..) | Undo::Ambush(_) | Undo::Rehear(..) | Undo::Crown(_) => {}
            Undo::Usurp(leader, victim, weakness, until) => {
                if !self.nemesis.stopped {
                    self.part(leader, &[victim], until);
                    if weakness == Weakness::RestartShorter {
                        self.hosts[victim].config.lease /= 8;
                    }
                    if weakness != Weakness::FastClock {
                        self.crash(victim);
                        let down = self.span(10 * MICROSECOND, 5 * MILLISECOND);
                        self.at(self.now + down, Event::Undo(Undo::Start(victim)));
                    }
                }
            }
            Undo::Drain(host, draining) => self.hosts[host].draining = draining && !self.nemesis.stopped,
            Undo::Addresses(a, b) => {
                // Unless healing, or another swap, has done so already.
                if self.hosts[a].address != self.hosts[a].home {
                    self.swap_addresses(a, b);
                }
            }
            Undo::Add(group, host, times) => {
                if times > 0 && !self.nemesis.stopped {
                    let next = self.now + self.span(20 * MILLISECOND, SECOND);
                    self.at(next, Event::Undo(Undo::Add(group, host, times - 1)));
                }
                let Some((node, address)) = self.candidate(host) else { return Ok(()) };
                let votes = self.observer.configuration(group).is_some_and(|configuration| {
                    configuration.member(node).is_some_and(|member| member.role == Role::Voter)
                });
                if !votes {
                    return self.change_members(group, vec![(node, address)], Vec::new());
                }
            }
        }
        Ok(())
    }

    /// All faults end: everything works, everybody runs, and nothing more will happen to anybody.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn heal(&mut self) -> Checked {
        self.note([24, 0, 0], || "everything heals".to_owned());
        self.nemesis.stopped = true;
        self.network.heal();
        self.release_held();
        for host in 0..self.hosts.len() {
            self.hosts[host].disk_slowness = 1;
            self.hosts[host].disk_hangs_until = 0;
            self.hosts[host].sync_fails = false;
            self.hosts[host].paused_until = self.hosts[host].paused_until.min(self.now);
            self.hosts[host].room = Room::Enough;
            self.hosts[host].draining = false;
            let home = self.hosts[host].home.clone();
            if self.hosts[host].address != home {
                self.crash(host);
                self.hosts[host].address.clone_from(&home);
            }
            self.addresses.insert(home, host);
            self.input(host, Input::Room { room: Room::Enough })?;
        }
        for host in 0..self.hosts.len() {
            self.start(host)?;
        }
        Ok(())
    }
}
