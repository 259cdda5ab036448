//! The inside of a host: its process starts and dies, its loop runs, its disk syncs, its apply stage applies.
//!
//! It stands for the shell of a node and keeps to the same contract: inputs in bursts, one flush, then the effects; batches
//! to the log in order; `Synced` once the disk holds them.

use crate::history::Time;
use crate::host::{Asked, Process, Work};
use crate::invariants::{Checked, Observer, holds, require};
use crate::nemesis::Undo;
use crate::plan::{MICROSECOND, MILLISECOND, SECOND};
use crate::policies::Policies;
use crate::world::{Event, World};
use scatter_core::durable::Write;
use scatter_core::effects::{Apply, Effects, LogRead, MachineOrder, Reply};
use scatter_core::entry::Room;
use scatter_core::group::GroupState;
use scatter_core::input::Input;
use scatter_core::message::{Message, PeerMessage};
use scatter_core::node::{Boot, Node, RecoverError};
use scatter_core::stage::{Answered, AppliedEntry, Done, Stage};
use scatter_core::types::{Ballot, ConfigurationVersion, GroupId, NodeId, RequestId, Slot};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many ticks may leave a deadline past before the loop counts as turning in circles.
const MAX_IDLE_TICKS: u32 = 200;
/// How much later a flush is tried that must not be yet.
const FLUSH_LATER: Time = 50 * MILLISECOND;

impl World {
    /// A host's process starts from what its disk holds.
    ///
    /// # Errors
    /// The disk does not hold what it must.
    pub fn start(&mut self, host: usize) -> Checked {
        if self.hosts[host].process.is_some() {
            return Ok(());
        }
        let (fresh_id, nonce, seed) = (NodeId(self.random.next()), self.random.next(), self.random.next());
        let reading = self.random.below(1 << 52);
        let rate = self.draw_rate();
        let now = self.now;
        let wall = self.hosts[host].clock.wall_offset_micros();
        // A boot clock means nothing after a reboot.
        self.hosts[host].clock = crate::clock::Clock::new(now, reading, rate, wall);
        let rules = self.plan.policies.is_some().then(|| self.random.next());
        let boot = Boot { fresh_id, nonce, seed, origin: self.origin(host) };
        let store = self.hosts[host].disk.store.clone();
        let patience = self.plan.config.snapshot_patience;
        let replicas = self.hosts[host].disk.log.replicas.keys().copied().collect();
        let stage = match Stage::open(store, self.limits.clone(), &replicas, nonce >> 16, patience) {
            Ok(stage) => stage,
            Err(error) => return require(21, false, || format!("host {host}: {error}")),
        };
        let reports = stage.reports();
        let flushed: BTreeMap<GroupId, Slot> = stage.marks().into_iter().collect();
        for machine in flushed.keys().filter_map(|group| stage.machine(*group)) {
            self.observer.machine(host, machine.state(), machine.fingerprint(), now)?;
        }
        self.observer.ring_is_whole()?;
        let recovered = self.hosts[host].disk.log.recovered();
        let clocks = self.hosts[host].clock.now(now);
        let (mut node, effects) = match Node::recover(self.config(host), boot, recovered, reports, clocks) {
            Ok(started) => started,
            Err(RecoverError::GivenUp(_)) => {
                self.wipe(host);
                return self.start(host);
            }
            Err(RecoverError::TooNew { level, .. }) => {
                self.hosts[host].config.feature_level = level;
                return self.start(host);
            }
            Err(error) => return require(21, false, || format!("host {host} does not start: {error}")),
        };
        node.seek_far_links(self.plan.far_links);
        self.check_recovered(host, &flushed, &effects)?;
        let stunned_until = self.stunned_until(host);
        let target = &mut self.hosts[host];
        let known = target.disk.log.replicas.iter();
        target.live = known.map(|(group, replica)| (*group, replica.hard.decided)).collect();
        target.epoch += 1;
        target.paused_until = 0;
        let epoch = target.epoch;
        let policies = rules.map(|seed| Policies::new(seed, now, clocks.instant));
        let (id, boot) = (node.id(), node.record().boot);
        target.process = Some(Process {
            node,
            stage,
            served: BTreeMap::new(),
            words: BTreeMap::new(),
            attached: BTreeSet::new(),
            inbox: VecDeque::new(),
            loop_scheduled: false,
            loop_stalled_until: 0,
            work: VecDeque::new(),
            work_scheduled: false,
            work_stalled_until: stunned_until,
            timer: None,
            idle_ticks: 0,
            requests: BTreeMap::new(),
            next_request: 1,
            readers: BTreeMap::new(),
            next_reader: 1,
            connections: BTreeMap::new(),
            book: BTreeMap::new(),
            gossip: None,
            gossip_timer: None,
            policies,
        });
        target.flushed = flushed;
        self.directory.insert(id, host);
        self.nemesis.started(id, boot, nonce);
        self.note([2, host as u64, id.0], || format!("host {host} starts as node {id}, boot {boot}"));
        let flush_at = now + self.random.below(self.plan.speed.flush_every);
        self.at(flush_at, Event::FlushBegin(host, epoch));
        let first = now + self.random.below(SECOND);
        self.at(first, Event::Neighbours(host, epoch));
        if rules.is_some() {
            self.at(now, Event::Gossip(host, epoch));
            let first = now + self.random.below(SECOND);
            self.at(first, Event::Policies(host, epoch));
        }
        let room = self.hosts[host].room;
        self.carry_out(host, effects)?;
        if room < Room::Enough { self.input(host, Input::Room { room }) } else { Ok(()) }
    }

    /// A process ends because a group uses features that it does not know; the operator starts the newer program.
    fn install_newer(&mut self, host: usize) -> Checked {
        self.hosts[host].config.feature_level = scatter_core::types::FeatureLevel(2);
        self.crash(host);
        self.at(self.now + SECOND / 10, Event::Undo(Undo::Start(host)));
        Ok(())
    }

    /// A host's process dies. What the disk was syncing survives in part.
    pub fn crash(&mut self, host: usize) {
        let unflushed = self.hosts[host].disk.store.unflushed();
        let kept_writes = if self.is_forgetful(host) { 0 } else { self.random.index(unflushed + 1) };
        let kept_batches = self.random.index(self.hosts[host].disk.syncing.len() + 1);
        let target = &mut self.hosts[host];
        if target.process.take().is_none() {
            return;
        }
        target.epoch += 1;
        target.paused_until = 0;
        target.disk_hangs_until = 0;
        let survived = target.disk.crash(kept_batches, kept_writes);
        for (_, writes) in &survived {
            self.observer.synced(&self.hosts[host].disk.log, writes);
        }
        self.note([3, host as u64, survived.len() as u64], || {
            format!("host {host} dies; {kept_batches} batches and {kept_writes} of {unflushed} store writes survive")
        });
    }

    /// A host gets an empty disk: it is a new node when it starts again.
    pub fn wipe(&mut self, host: usize) {
        self.crash(host);
        if let Some(node) = self.hosts[host].node_id() {
            self.observer.condemn(node);
            self.nemesis.replaced.push((host, node));
        }
        self.hosts[host].disk = crate::disk::Disk::default();
        self.hosts[host].flushed.clear();
        self.hosts[host].copy = None;
        self.note([4, host as u64, 0], || format!("host {host} is wiped"));
    }

    /// Something happened to a process: its loop hears of it, at once or after a moment.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn input(&mut self, host: usize, input: Input) -> Checked {
        let epoch = self.hosts[host].epoch;
        self.note_aligned(&input);
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        process.inbox.push_back(input);
        if process.loop_scheduled {
            return Ok(());
        }
        let stalled = process.loop_stalled_until;
        if stalled <= self.now && !self.hosts[host].busy && self.random.permille(700) {
            return self.run_loop(host);
        }
        // The loop is busy elsewhere: a burst gathers.
        if let Some(process) = &mut self.hosts[host].process {
            process.loop_scheduled = true;
        }
        let at = (self.now + self.random.below(200 * MICROSECOND)).max(stalled);
        self.at(at, Event::Loop(host, epoch));
        Ok(())
    }

    /// The loop takes all that waits.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn run_loop(&mut self, host: usize) -> Checked {
        let clocks = self.hosts[host].clock.now(self.now);
        let keeps_text = self.trace.keeps_text();
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        if process.loop_stalled_until > self.now {
            let (at, epoch) = (process.loop_stalled_until, self.hosts[host].epoch);
            self.at(at, Event::Loop(host, epoch));
            return Ok(());
        }
        process.loop_scheduled = false;
        let mut effects = Effects::default();
        let inputs: Vec<Input> = process.inbox.drain(..).collect();
        let lines: Vec<String> =
            if keeps_text { inputs.iter().map(|input| format!("{input:?}")).collect() } else { vec![] };
        let (kinds, count) = inputs
            .iter()
            .fold((0_u64, 0), |(sum, count), input| (sum.wrapping_mul(31).wrapping_add(kind_of(input)), count + 1));
        for input in inputs {
            let asked = prepared(&input);
            let had_not =
                |(group, ballot, _): &_| process.node.leadership(*group).is_some_and(|(_, had)| had < *ballot);
            let asked = asked.filter(had_not);
            let knew = asked.and_then(|(group, ..)| configuration_of(&process.node, group));
            process.node.step(clocks, input, &mut effects);
            if let (Some((group, ballot, version)), Some(knew)) = (asked, knew) {
                let promised = process.node.leadership(group).is_some_and(|(_, promised)| promised == ballot);
                require(29, !promised || knew <= version, || {
                    format!("host {host} knows configuration {knew} and promises to a candidate of {version}")
                })?;
            }
        }
        process.node.flush(clocks, &mut effects);
        self.note([5, (host as u64) << 32 | count, kinds], || {
            format!("host {host} takes {}", lines.join("\n    and "))
        });
        self.carry_out(host, effects)
    }

    /// Effects of something that was no input go out.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn carry_out_after_flush(&mut self, host: usize, mut effects: Effects) -> Checked {
        let clocks = self.hosts[host].clock.now(self.now);
        if let Some(process) = &mut self.hosts[host].process {
            process.node.flush(clocks, &mut effects);
        }
        self.carry_out(host, effects)
    }

    /// Does what the core asks for.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn carry_out(&mut self, host: usize, effects: Effects) -> Checked {
        // What the effects bring about reaches the loop afterwards.
        let busy = std::mem::replace(&mut self.hosts[host].busy, true);
        let checked = self.carry_out_now(host, effects);
        self.hosts[host].busy = busy;
        checked
    }

    fn carry_out_now(&mut self, host: usize, effects: Effects) -> Checked {
        let Effects { writes, write, presses, messages, replies, applies, orders, log_reads, dials, give_up, too_new } =
            effects;
        let accepts = |write: &&Write| matches!(write, Write::Accept { .. });
        let accepts: Vec<Write> = writes.iter().filter(accepts).cloned().collect();
        if let Some(id) = write {
            self.check_live(host, &writes)?;
            self.check_room(host, &writes, presses)?;
            self.check_truncations(host, &writes)?;
            self.check_clusters(host, &writes)?;
            let digest = writes.len() as u64;
            self.note([6, id.0, digest], || format!("host {host} writes {id}: {writes:?}"));
            self.watch_proposals(host, &writes);
            self.hosts[host].disk.waiting.push_back((id, writes));
            self.begin_sync(host);
        } else {
            require(4, writes.is_empty(), || format!("host {host} has writes that nobody will sync"))?;
        }
        self.attach_words(host);
        for outgoing in messages {
            if let PeerMessage::Replica { envelope } = &outgoing.message {
                let flushed = self.hosts[host].flushed.get(&envelope.from.group).copied();
                self.observer.sends(&self.hosts[host].disk.log, flushed.unwrap_or_default(), envelope)?;
                self.check_floor(host, envelope)?;
                self.check_elected(host, envelope)?;
            }
            if let PeerMessage::Beaten { lease_nanos, .. } = &outgoing.message {
                Observer::grants(&self.hosts[host].disk.log, *lease_nanos)?;
            }
            self.note([7, host as u64, outgoing.to.0], || format!("host {host} says {:?}", outgoing.message));
            self.send_peer(host, outgoing);
        }
        for apply in applies {
            for (slot, entry) in &apply.entries {
                self.observer.revealed(host, apply.group, *slot, entry)?;
            }
            self.recheck_acknowledged(apply.group)?;
            self.queue_work(host, Work::Apply(apply));
        }
        self.check_proposals(host, &accepts)?;
        for order in orders {
            self.queue_work(host, Work::Order(order));
        }
        for (request, reply) in replies {
            self.note([8, host as u64, request.0], || format!("host {host} answers {request}: {reply:?}"));
            self.reply(host, request, reply)?;
        }
        for read in log_reads {
            let replica = self.hosts[host].disk.log.replicas.get(&read.group);
            let marked = replica.map(|replica| replica.hard.decided).unwrap_or_default();
            require(30, read.last <= marked, || {
                format!("host {host} reads slot {} of group {} back, its disk says {marked}", read.last, read.group)
            })?;
            let at = self.now + self.sync_time(host) / 2;
            let epoch = self.hosts[host].epoch;
            self.at(at, Event::LogRead(host, epoch, read));
        }
        for address in dials {
            self.dial(host, address);
        }
        if too_new.is_some() {
            return self.install_newer(host);
        }
        if give_up {
            self.note([9, host as u64, 0], || format!("host {host} has given up its id"));
            // The process ends once its record says so; the host comes back empty, as a new node.
            let epoch = self.hosts[host].epoch;
            self.at(self.now + SECOND, Event::GaveUp(host, epoch));
        }
        self.check_leases(host)?;
        self.arm_timer(host);
        Ok(())
    }

    /// Schedules the next tick, unless an earlier or equal one is on its way.
    fn arm_timer(&mut self, host: usize) {
        let now = self.now;
        let target = &mut self.hosts[host];
        let Some(process) = &mut target.process else { return };
        let Some(deadline) = process.node.deadline() else { return };
        let at = target.clock.when(deadline, now);
        if process.timer.is_none_or(|timer| at < timer) {
            process.timer = Some(at);
            let epoch = target.epoch;
            self.at(at, Event::Timer(host, epoch));
        }
    }

    /// A deadline may have come.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn timer(&mut self, host: usize) -> Checked {
        let now = self.now;
        let target = &mut self.hosts[host];
        let clock = target.clock.instant(now);
        let Some(process) = &mut target.process else { return Ok(()) };
        if process.timer.is_none_or(|timer| timer > now) {
            return Ok(());
        }
        process.timer = None;
        let due = process.node.deadline().is_some_and(|deadline| deadline <= clock);
        if !due {
            process.idle_ticks = 0;
            self.arm_timer(host);
            return Ok(());
        }
        // A deadline that a tick does not move would come again at once, for ever: it comes a little later.
        process.timer = Some(now + 100 * MICROSECOND);
        let told = process.inbox.iter().any(|input| matches!(input, Input::Tick));
        process.idle_ticks += u32::from(!told);
        if process.idle_ticks > MAX_IDLE_TICKS {
            return Err(self.stuck(format!("the loop of host {host} turns in circles, its deadline stays past")));
        }
        let epoch = target.epoch;
        self.at(now + 100 * MICROSECOND, Event::Timer(host, epoch));
        if told { Ok(()) } else { self.input(host, Input::Tick) }
    }

    fn sync_time(&mut self, host: usize) -> Time {
        let speed = self.plan.speed;
        (speed.sync_least + self.random.below(speed.sync_spread + 1)) * self.hosts[host].disk_slowness
    }

    fn begin_sync(&mut self, host: usize) {
        if self.hosts[host].disk.begin_sync() > 0 {
            let at = (self.now + self.sync_time(host)).max(self.hosts[host].disk_hangs_until);
            let epoch = self.hosts[host].epoch;
            self.at(at, Event::SyncEnd(host, epoch));
        }
    }

    /// A sync ends: the loop hears what the disk holds, and what waited goes next.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn sync_end(&mut self, host: usize) -> Checked {
        let (hangs, epoch) = (self.hosts[host].disk_hangs_until, self.hosts[host].epoch);
        if hangs > self.now {
            self.at(hangs, Event::SyncEnd(host, epoch));
            return Ok(());
        }
        if std::mem::take(&mut self.hosts[host].sync_fails) {
            // After a failed sync nobody knows what the disk holds: the process ends.
            self.crash(host);
            let at = self.now + self.random.below(2 * SECOND);
            self.at(at, Event::Undo(crate::nemesis::Undo::Start(host)));
            return Ok(());
        }
        let done = self.hosts[host].disk.end_sync();
        for (_, writes) in &done {
            self.observer.synced(&self.hosts[host].disk.log, writes);
            self.observer.binds(writes)?;
            self.watch_synced(host, writes);
        }
        self.begin_sync(host);
        match done.last() {
            Some((write, _)) => self.input(host, Input::Synced { write: *write }),
            None => Ok(()),
        }
    }

    /// Hands work to the apply stage.
    pub fn queue_work(&mut self, host: usize, work: Work) {
        let spread = self.plan.speed.apply_spread;
        let wait = self.random.below(spread + 1);
        let now = self.now;
        let target = &mut self.hosts[host];
        let Some(process) = &mut target.process else { return };
        match work {
            // The very next: readers run in between, the stage does nothing else.
            Work::Publish(..) => process.work.push_front(work),
            _ => process.work.push_back(work),
        }
        if !process.work_scheduled {
            process.work_scheduled = true;
            let at = (now + wait).max(process.work_stalled_until);
            let epoch = target.epoch;
            self.at(at, Event::Work(host, epoch));
        }
    }

    /// The apply stage takes the next piece of work.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn work(&mut self, host: usize) -> Checked {
        let spread = self.plan.speed.apply_spread;
        let wait = self.random.below(spread + 1);
        let now = self.now;
        let epoch = self.hosts[host].epoch;
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        if process.work_stalled_until > now {
            let at = process.work_stalled_until;
            self.at(at, Event::Work(host, epoch));
            return Ok(());
        }
        let work = process.work.pop_front();
        process.work_scheduled = !process.work.is_empty();
        if process.work_scheduled {
            self.at(now + wait, Event::Work(host, epoch));
        }
        let Some(work) = work else { return Ok(()) };
        match work {
            Work::Apply(apply) => self.apply(host, apply),
            Work::Order(order) => self.order(host, order),
            Work::Attach(group, word) => {
                let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
                process.stage.attach(group, word.clone());
                process.words.insert(group, word);
                process.publish();
                Ok(())
            }
            Work::Read(reader) => self.read_at_stage(host, reader),
            Work::Publish(groups, inputs) => {
                let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
                process.publish();
                groups.iter().for_each(|group| process.stage.published(*group));
                inputs.into_iter().try_for_each(|input| self.input(host, input))
            }
        }
    }

    fn apply(&mut self, host: usize, apply: Apply) -> Checked {
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        match process.stage.apply(&apply) {
            Ok(done) => self.done(host, done),
            Err(error) => require(21, false, || format!("host {host} cannot apply: {error}")),
        }
    }

    fn order(&mut self, host: usize, order: MachineOrder) -> Checked {
        let group = order.group();
        let clock = self.hosts[host].clock.instant(self.now);
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let done = match process.stage.order(&order, clock) {
            Ok(done) => done,
            Err(error) => return require(21, false, || format!("host {host} cannot carry out an order: {error}")),
        };
        if matches!(order, MachineOrder::Destroy { .. }) && process.stage.machine(group).is_none() {
            self.hosts[host].flushed.remove(&group);
        }
        self.done(host, done)
    }

    /// What came of work at the apply stage: it is looked at, answered, and told to the loop.
    fn done(&mut self, host: usize, done: Done) -> Checked {
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let mut states = Vec::new();
        for group in done.inputs.iter().filter_map(reported) {
            let Some(machine) = process.stage.machine(group) else { continue };
            states.push((machine.state().clone(), machine.fingerprint()));
        }
        for (state, fingerprint) in &states {
            self.note([10, host as u64, *fingerprint], || {
                let GroupState { group, applied, stamp, forgotten, log_time, keys, bytes, .. } = state;
                let numbers =
                    format!("stamp {stamp}, forgotten {forgotten}, time {}, {keys} keys, {bytes} bytes", log_time.0);
                format!("host {host} applied {group} through {applied}: {numbers}")
            });
            self.observer.machine(host, state, *fingerprint, self.now)?;
        }
        for input in &done.inputs {
            if let Input::Installed { group, report } = input {
                self.hosts[host].flushed.insert(*group, report.applied);
            }
        }
        self.observer.ring_is_whole()?;
        self.watch_applied(host, &done);
        for applied in &done.results {
            let AppliedEntry { group, slot, entry, outcomes } = applied;
            if self.observer.applied(*group, *slot, entry, outcomes)? {
                self.applied_puts.extend(crate::workload::puts_of(entry, outcomes));
            }
        }
        for Answered { request, group, slot, outcome } in done.outcomes {
            self.written(host, group, slot, request, outcome)?;
        }
        if done.moved.is_empty() {
            return done.inputs.into_iter().try_for_each(|input| self.input(host, input));
        }
        self.queue_work(host, Work::Publish(done.moved, done.inputs));
        Ok(())
    }

    /// New replicas' read words go to the apply stage before anything is applied.
    fn attach_words(&mut self, host: usize) {
        let Some(process) = &mut self.hosts[host].process else { return };
        let groups: BTreeSet<GroupId> = process.node.groups().collect();
        let new: Vec<Work> = groups
            .difference(&process.attached)
            .filter_map(|group| Some(Work::Attach(*group, process.node.read_word(*group)?)))
            .collect();
        process.attached = groups;
        new.into_iter().for_each(|work| self.queue_work(host, work));
    }

    /// A process has read old entries from its log.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn log_read(&mut self, host: usize, read: LogRead) -> Checked {
        let LogRead { group, to, first, last, bytes } = read;
        let entries = self.hosts[host].disk.log.read(group, first, last, bytes);
        for (slot, entry) in (first.0..).zip(&entries) {
            self.observer.holds_decided(host, group, Slot(slot), entry)?;
        }
        self.input(host, Input::LogRead { group, to, first, entries })
    }

    /// A flush of the data store begins.
    ///
    /// # Errors
    /// None of its own.
    pub fn flush_begin(&mut self, host: usize) -> Checked {
        let epoch = self.hosts[host].epoch;
        let mark = self.hosts[host].disk.store.written();
        let Some(process) = &self.hosts[host].process else { return Ok(()) };
        if self.is_forgetful(host) {
            self.at(self.now + FLUSH_LATER, Event::FlushBegin(host, epoch));
            return Ok(());
        }
        let slots = process.stage.marks();
        let took = self.random.spread(MILLISECOND, 300 * MILLISECOND);
        self.at(self.now + took, Event::FlushEnd(host, epoch, mark, slots));
        Ok(())
    }

    /// A flush of the data store ends.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn flush_end(&mut self, host: usize, mark: u64, slots: Vec<(GroupId, Slot)>) -> Checked {
        let epoch = self.hosts[host].epoch;
        if let Err(error) = self.hosts[host].disk.store.flush_through(mark) {
            return require(21, false, || format!("host {host} cannot flush: {error}"));
        }
        let next = self.now + self.plan.speed.flush_every / 2 + self.random.below(self.plan.speed.flush_every);
        self.at(next, Event::FlushBegin(host, epoch));
        for (group, slot) in slots {
            let Some(process) = &self.hosts[host].process else { return Ok(()) };
            if process.stage.machine(group).is_some() {
                let flushed = self.hosts[host].flushed.entry(group).or_default();
                *flushed = (*flushed).max(slot);
                self.input(host, Input::Flushed { group, slot })?;
            }
        }
        Ok(())
    }

    /// I9, for the newest acknowledged slot of a group.
    fn recheck_acknowledged(&mut self, group: GroupId) -> Checked {
        self.acknowledged(group, Slot(0))
    }

    /// I9: a write at `slot` was acknowledged.
    ///
    /// # Errors
    /// It does not lie on a majority of the members.
    pub fn acknowledged(&mut self, group: GroupId, slot: Slot) -> Checked {
        let hosts = &self.hosts;
        let on_disk = |name: scatter_core::types::ReplicaName, slot: Slot| {
            hosts.iter().any(|host| {
                host.disk.log.node.as_ref().is_some_and(|record| record.node == name.node)
                    && holds(&host.disk.log, host.flushed.get(&name.group).copied().unwrap_or_default(), name, slot)
            })
        };
        self.observer.acknowledged(group, slot, self.now, &on_disk)
    }

    /// A request of the loop was answered without the machine.
    fn reply(&mut self, host: usize, request: RequestId, reply: Reply) -> Checked {
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let Some(asked) = process.requests.remove(&request) else { return Ok(()) };
        match asked {
            Asked::Write { worker, attempt, .. } => self.write_refused(host, worker, attempt, reply),
            Asked::Read { reader } => self.read_answered(host, reader, reply),
            Asked::Order => {
                self.note([12, host as u64, 0], || format!("host {host}: order {reply:?}"));
                Ok(())
            }
            Asked::Policy { group, change } => {
                self.policy_answered(host, group, change, &reply);
                Ok(())
            }
        }
    }
}

/// The group whose machine an input reports.
fn reported(input: &Input) -> Option<GroupId> {
    match input {
        Input::Applied { group, .. } | Input::Installed { group, .. } => Some(*group),
        Input::Born { child, .. } => Some(child.group),
        _ => None,
    }
}

/// A number for each kind of input, for the trace.
fn kind_of(input: &Input) -> u64 {
    match input {
        Input::Tick => 1,
        Input::Message { .. } => 2,
        Input::Synced { .. } => 3,
        Input::Room { .. } => 4,
        Input::Propose { .. } => 5,
        Input::Read { .. } => 6,
        Input::Applied { .. } => 7,
        Input::Installed { .. } => 8,
        Input::Flushed { .. } => 9,
        Input::Expired { .. } => 10,
        Input::SnapshotRead { .. } => 11,
        Input::SnapshotStored { .. } => 12,
        Input::LogRead { .. } => 13,
        Input::ChangeMembers { .. } => 14,
        Input::HandOver { .. } => 15,
        Input::Answered { .. } => 16,
        Input::RolledBack { .. } => 17,
        Input::Stalled { .. } => 18,
        Input::Born { .. } => 19,
        Input::Merged { .. } => 20,
        Input::Reshape { .. } => 21,
        Input::Counted { .. } => 22,
        Input::Recover { .. } => 23,
        Input::Condemn { .. } => 24,
        Input::Found { .. } => 25,
    }
}

/// What a Prepare asks for: group, ballot, and the configuration of who asks.
fn prepared(input: &Input) -> Option<(GroupId, Ballot, ConfigurationVersion)> {
    match input {
        Input::Message { message: PeerMessage::Replica { envelope }, .. } => match envelope.message {
            Message::Prepare { ballot, configuration, .. } => Some((envelope.to.group, ballot, configuration)),
            _ => None,
        },
        _ => None,
    }
}

/// The newest configuration that a node knows decided.
fn configuration_of(node: &Node, group: GroupId) -> Option<ConfigurationVersion> {
    let status =
        node.status(scatter_core::time::Now::default()).into_iter().find(|status| status.replica.group == group);
    status?.configuration.map(|configuration| configuration.version)
}
