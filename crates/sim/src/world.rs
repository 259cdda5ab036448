//! The world: virtual time, everything that will happen, and everybody it happens to.
//!
//! One queue of events in order of time; whatever is left to chance comes from streams forked off the seed. Nothing else
//! decides anything, so a seed is a run. What each kind of event does is told where its subject lives: packets in
//! [`crate::transport`], the inside of a host in [`crate::driver`], readers and requests in [`crate::service`], faults in
//! [`crate::nemesis`].

use crate::clock::Clock;
use crate::disk::Disk;
use crate::history::Time;
use crate::host::Host;
use crate::invariants::{Broken, Checked, Observer};
use crate::linearizability::Applied;
use crate::nemesis::{Nemesis, Undo};
use crate::network::Network;
use crate::plan::{Plan, SECOND};
use crate::random::Random;
use crate::trace::Trace;
use crate::transport::Packet;
use crate::workload::{Workload, key_of};
use scatter_core::config::Config;
use scatter_core::durable::{NodeRecord, Write};
use scatter_core::effects::LogRead;
use scatter_core::entry::Room;
use scatter_core::group::{Configuration, GroupState, Holding, Limits, Link, Machine, Member, Role};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::store::Store;
use scatter_core::time::LogTime;
use scatter_core::types::{ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, ReplicaName, Slot, TabletId};
use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

/// More events than any sound run has.
const MAX_EVENTS: u64 = 3_000_000;

/// Something that will happen.
#[derive(Debug)]
pub enum Event {
    /// A packet arrives.
    Arrive {
        /// Who sent it, as a place in the network.
        from: usize,
        /// Who gets it, as a place in the network.
        to: usize,
        /// What it is.
        packet: Box<Packet>,
    },
    /// The loop of a process runs.
    Loop(usize, u64),
    /// A deadline of a process may have come.
    Timer(usize, u64),
    /// A sync of a process ends.
    SyncEnd(usize, u64),
    /// The apply stage of a process runs.
    Work(usize, u64),
    /// A process has read its log.
    LogRead(usize, u64, LogRead),
    /// A process begins to flush its store.
    FlushBegin(usize, u64),
    /// The flush has ended: what was written up to a mark is durable, and so are these slots.
    FlushEnd(usize, u64, u64, Vec<(GroupId, Slot)>),
    /// A reader goes on.
    Reader(usize, u64, u64),
    /// A process that has given up its id ends.
    GaveUp(usize, u64),
    /// A deadline of a process's gossip may have come.
    Gossip(usize, u64),
    /// The leaders of a process decide what their groups should do.
    Policies(usize, u64),
    /// Groups of a process that seek a neighbour hear of others next to them.
    Neighbours(usize, u64),
    /// The machine in a host's place ends for good, if it is still this one.
    LifeEnds(usize, u64),
    /// A client worker wakes.
    Worker(usize, u64),
    /// The nemesis acts.
    Nemesis,
    /// A fault ends.
    Undo(Undo),
}

impl Event {
    /// The process it concerns: its host, and the epoch it is of.
    fn process(&self) -> Option<(usize, u64)> {
        match self {
            Self::Loop(host, epoch)
            | Self::Timer(host, epoch)
            | Self::SyncEnd(host, epoch)
            | Self::Work(host, epoch)
            | Self::LogRead(host, epoch, _)
            | Self::FlushBegin(host, epoch)
            | Self::FlushEnd(host, epoch, ..)
            | Self::GaveUp(host, epoch)
            | Self::Gossip(host, epoch)
            | Self::Policies(host, epoch)
            | Self::Neighbours(host, epoch)
            | Self::Reader(host, epoch, _) => Some((*host, *epoch)),
            Self::Arrive { .. } | Self::LifeEnds(..) | Self::Worker(..) | Self::Nemesis | Self::Undo(_) => None,
        }
    }
}

struct Scheduled {
    at: Time,
    sequence: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

/// All of it.
pub struct World {
    /// What the seed stands for.
    pub plan: Plan,
    /// The time.
    pub now: Time,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    /// What happened.
    pub trace: Trace,
    /// Who watches.
    pub observer: Observer,
    /// Who is connected how.
    pub network: Network,
    /// Packets that wait for a link.
    pub held: Vec<(usize, usize, Box<Packet>)>,
    /// The machines.
    pub hosts: Vec<Host>,
    /// Which host has an address.
    pub addresses: BTreeMap<String, usize>,
    /// Where each node was last seen to live.
    pub directory: BTreeMap<NodeId, usize>,
    /// The clients.
    pub workload: Workload,
    /// Every put that was carried out.
    pub applied_puts: Vec<Applied>,
    /// The faults.
    pub nemesis: Nemesis,
    /// Chance for disks and processes.
    pub random: Random,
    /// Limits of the state machines.
    pub limits: Limits,
    /// Policies order nothing more.
    pub policies_rest: bool,
}

impl World {
    /// A world before anything has happened.
    #[must_use]
    pub fn new(plan: Plan, text: bool) -> Self {
        let mut random = Random::new(plan.seed ^ 0x5ca7_7e5c);
        let workload = Workload::new(&plan, random.fork());
        let places = plan.hosts + workload.sessions();
        let network = Network::new(places, plan.quality, random.fork());
        let nemesis = Nemesis::new(&plan, random.fork());
        // So little that snapshots are loaded in several pieces.
        let holding = Holding { most: 2 << 10, least: 256 };
        let limits = Limits { max_lanes: plan.lanes_kept, lane_log_slack: 32, holding, ..Limits::default() };
        let mut world = Self {
            now: 0,
            queue: BinaryHeap::new(),
            sequence: 0,
            trace: Trace::new(text),
            observer: Observer::default(),
            network,
            held: Vec::new(),
            hosts: Vec::new(),
            addresses: BTreeMap::new(),
            directory: BTreeMap::new(),
            workload,
            applied_puts: Vec::new(),
            nemesis,
            random,
            limits,
            policies_rest: false,
            plan,
        };
        for index in 0..world.plan.hosts {
            world.add_host(index);
        }
        world
    }

    fn add_host(&mut self, index: usize) {
        let rate = self.draw_rate();
        let wall = self.random.below(2_000_000) as i64 - 1_000_000;
        let reading = self.random.below(1 << 52);
        let mut config = self.plan.config.clone();
        if self.plan.profile == crate::plan::Profile::Everything && self.random.permille(100) {
            config.feature_level = scatter_core::types::FeatureLevel(2);
        }
        let address = format!("host-{index}:7000");
        self.addresses.insert(address.clone(), index);
        self.hosts.push(Host {
            home: address.clone(),
            address,
            life: 0,
            draining: false,
            disk: Disk::default(),
            clock: Clock::new(0, reading, rate, wall),
            process: None,
            epoch: 0,
            paused_until: 0,
            config,
            disk_slowness: 1,
            disk_hangs_until: 0,
            sync_fails: false,
            room: Room::Enough,
            founder: index < self.plan.founders,
            live: BTreeMap::new(),
            flushed: BTreeMap::new(),
            copy: None,
            busy: false,
        });
    }

    /// How much a boot clock's rate is off, within the plan's bound.
    pub fn draw_rate(&mut self) -> i64 {
        let bound = self.plan.rate_ppm;
        match self.random.below(4) {
            0 => bound,
            1 => -bound,
            _ => self.random.between(0, 2 * bound as u64) as i64 - bound,
        }
    }

    /// Writes the first groups onto the founders' disks, as if they had been born there.
    ///
    /// # Panics
    /// Never: a store in memory that was not told to fail does not.
    pub fn found(&mut self) {
        let cluster = ClusterId(u128::from(self.random.next()));
        let ids: Vec<NodeId> = (0..self.plan.founders).map(|_| NodeId(self.random.next())).collect();
        let mut members: Vec<Member> = ids
            .iter()
            .enumerate()
            .map(|(host, node)| Member {
                node: *node,
                incarnation: Incarnation(1),
                role: Role::Voter,
                address: self.hosts[host].address.clone(),
            })
            .collect();
        members.sort_by_key(|member| member.node);
        let configuration = Configuration { version: ConfigurationVersion(1), members };
        let states = self.first_states(cluster, &configuration);
        for (host, node) in ids.iter().enumerate() {
            let disk = &mut self.hosts[host].disk;
            let record = NodeRecord {
                node: *node,
                boot: 0,
                nonces: Vec::new(),
                cluster: Some(cluster),
                binding: None,
                longest_lease_nanos: 0,
                given_up: false,
            };
            disk.log.add(&Write::Node { record });
            for (tablet, state) in (1..).zip(&states) {
                let replica = ReplicaName { group: state.group, node: *node, incarnation: Incarnation(1) };
                let state = state.clone();
                Machine::create(disk.store.clone(), replica, state, TabletId(tablet)).expect("the store works");
                disk.log.add(&Write::Create { replica, after: Slot(1), inviter: None });
            }
            disk.store.flush().expect("the store works");
        }
        self.workload.begun = true;
    }

    /// The groups that the ring consists of in the beginning, cut between keys.
    fn first_states(&mut self, cluster: ClusterId, configuration: &Configuration) -> Vec<GroupState> {
        let log_time = LogTime(crate::clock::EPOCH_MICROS);
        let mut cuts: Vec<Position> = self.workload.all_keys().map(|key| key_of(key).position()).collect();
        self.random.shuffle(&mut cuts);
        cuts.truncate(self.plan.groups);
        cuts.sort();
        let mut states: Vec<GroupState> = cuts
            .iter()
            .map(|_| GroupState::genesis(cluster, GroupId(self.random.next()), configuration.clone(), log_time))
            .collect();
        let count = states.len();
        for (index, state) in states.iter_mut().enumerate() {
            if count > 1 {
                state.range = KeyRange { start: cuts[index].clone(), end: cuts[(index + 1) % count].clone() };
            }
        }
        let links: Vec<Link> = states.iter().map(GroupState::link).collect();
        for (index, state) in states.iter_mut().enumerate() {
            state.links.predecessor = links[(index + count - 1) % count].clone();
            state.links.successor = links[(index + 1) % count].clone();
        }
        states
    }

    /// The groups there are, as far as anybody has applied.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        self.observer.living()
    }

    /// Puts an event on the queue.
    pub fn at(&mut self, at: Time, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at: at.max(self.now), sequence: self.sequence, event }));
    }

    /// Lets time go on until `end` or until something is wrong.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn run_until(&mut self, end: Time) -> Checked {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > end {
                break;
            }
            self.step()?;
            if self.trace.events() > MAX_EVENTS || self.sequence > 4 * MAX_EVENTS {
                return Err(self.stuck(format!("more than {MAX_EVENTS} events: something turns in circles")));
            }
        }
        self.now = self.now.max(end);
        Ok(())
    }

    /// One event happens.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn step(&mut self) -> Checked {
        let Some(Reverse(Scheduled { at, event, .. })) = self.queue.pop() else { return Ok(()) };
        self.now = at;
        if let Some((host, epoch)) = event.process() {
            if self.hosts[host].epoch != epoch || self.hosts[host].process.is_none() {
                return Ok(());
            }
            if self.hosts[host].paused_until > at && !matches!(event, Event::SyncEnd(..)) {
                let until = self.hosts[host].paused_until;
                self.at(until, event);
                return Ok(());
            }
        }
        match event {
            Event::Arrive { from, to, packet } => self.arrive(from, to, packet),
            Event::Loop(host, _) => self.run_loop(host),
            Event::Timer(host, _) => self.timer(host),
            Event::SyncEnd(host, _) => self.sync_end(host),
            Event::Work(host, _) => self.work(host),
            Event::LogRead(host, _, read) => self.log_read(host, read),
            Event::FlushBegin(host, _) => self.flush_begin(host),
            Event::FlushEnd(host, _, mark, slots) => self.flush_end(host, mark, slots),
            Event::Reader(host, _, reader) => self.reader(host, reader),
            Event::GaveUp(host, _) => {
                self.crash(host);
                self.start(host)
            }
            Event::Gossip(host, _) => self.gossip_due(host),
            Event::Policies(host, _) => self.policies_due(host),
            Event::Neighbours(host, _) => self.suggest_neighbours(host),
            Event::LifeEnds(host, life) => self.life_ends(host, life),
            Event::Worker(worker, token) => self.worker(worker, token),
            Event::Nemesis => self.nemesis_acts(),
            Event::Undo(undo) => self.undo(undo),
        }
    }

    /// Notes an event on the record.
    pub fn note(&mut self, numbers: [u64; 3], line: impl FnOnce() -> String) {
        self.trace.note(self.now, numbers, line);
    }

    /// The settings that a host's next process starts with.
    #[must_use]
    pub fn config(&self, host: usize) -> Config {
        self.hosts[host].config.clone()
    }

    /// Fails a liveness check.
    #[must_use]
    pub fn stuck(&self, text: String) -> Broken {
        Broken { number: 20, text: format!("at {:.3} s: {text}", self.now as f64 / SECOND as f64) }
    }
}
