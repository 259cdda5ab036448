//! What a node does for clients: proposes their writes, reads for them on threads of their own.

use crate::host::{Asked, Process, Reader, Stage, Work};
use crate::invariants::{Broken, Checked, is_recorded, require};
use crate::plan::{MICROSECOND, SECOND};
use crate::transport::Packet;
use crate::workload::{Act, Answer, ClientRequest};
use crate::world::{Event, World};
use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::command::{Command, Found, Outcome};
use scatter_core::effects::{Refused, Reply};
use scatter_core::group::kv;
use scatter_core::input::Input;
use scatter_core::planted::{self, Bug};
use scatter_core::ring::Position;
use scatter_core::store::{Store, StoreError};
use scatter_core::types::{GroupId, RequestId, Slot};

impl World {
    /// A worker's timer has come.
    ///
    /// # Errors
    /// None of its own.
    pub fn worker(&mut self, worker: usize, token: u64) -> Checked {
        if !self.learn_groups() {
            self.at(self.now + SECOND / 10, Event::Worker(worker, token));
            return Ok(());
        }
        let acts = self.workload.wake(worker, token, self.now);
        self.act(worker, acts);
        Ok(())
    }

    /// Clients find out which groups there are once one was born.
    fn learn_groups(&mut self) -> bool {
        self.workload.begun |= !self.observer.living().is_empty();
        self.workload.begun
    }

    fn act(&mut self, worker: usize, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Wake(at, token) => self.at(at, Event::Worker(worker, token)),
                Act::Send { session, host, attempt, request } => {
                    let place = self.hosts.len() + session;
                    self.send(place, host, Packet::Request { worker, attempt, request }, false);
                }
            }
        }
    }

    /// An answer reaches a client.
    ///
    /// # Errors
    /// I10: the answer is none that a sound cluster gives.
    pub fn client_reply(&mut self, worker: usize, attempt: u64, answer: Answer) -> Checked {
        let leader = match &answer {
            Answer::Refused(Refused::NotLeader { leader: Some((node, _)) }) => self.directory.get(node).copied(),
            _ => None,
        };
        self.note([13, worker as u64, attempt], || format!("worker {worker} hears {answer:?}"));
        let acts = self.workload.answer(worker, attempt, answer, leader, self.now);
        self.act(worker, acts);
        let complaint = self.workload.complaint.take();
        require(10, complaint.is_none(), || complaint.unwrap_or_default())
    }

    fn tell(&mut self, host: usize, worker: usize, attempt: u64, answer: Answer) {
        let place = self.hosts.len() + self.workload.session_of(worker);
        self.send(host, place, Packet::Reply { worker, attempt, answer }, false);
    }

    /// A client's request reaches a node.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn client_request(&mut self, host: usize, worker: usize, attempt: u64, request: ClientRequest) -> Checked {
        match request {
            ClientRequest::Write { command } => {
                let Some(process) = &self.hosts[host].process else { return Ok(()) };
                let group = match owner_of(process, &command) {
                    Ok(group) => group,
                    Err(refused) => {
                        let refused = self.elsewhere(host, first_position(&command), refused);
                        self.tell(host, worker, attempt, Answer::Refused(refused));
                        return Ok(());
                    }
                };
                let position = first_position(&command);
                self.is_used(host, group, position.clone());
                let asked = Asked::Write { worker, attempt, since: self.now, position };
                let Some(request) = self.ask(host, asked) else { return Ok(()) };
                self.input(host, Input::Propose { request, group, command })
            }
            ClientRequest::Read { key, stale } => {
                let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
                let Some(group) = process.find(&key) else {
                    let refused = self.elsewhere(host, Some(key.position()), Refused::NoReplica);
                    self.tell(host, worker, attempt, Answer::Refused(refused));
                    return Ok(());
                };
                let number = process.next_reader;
                process.next_reader += 1;
                let position = key.position();
                let since = (!stale).then_some(self.now);
                let reader = Reader { worker, attempt, group, key, since, stage: Stage::Fresh { stale } };
                process.readers.insert(number, reader);
                self.is_used(host, group, Some(position));
                self.reader(host, number)
            }
        }
    }

    /// A refusal, with whoever leads the owner instead, if gossip tells.
    fn elsewhere(&self, host: usize, position: Option<Position>, refused: Refused) -> Refused {
        let process = self.hosts[host].process.as_ref();
        let gossip = process.and_then(|process| process.gossip.as_ref()).filter(|_| refused == Refused::NoReplica);
        let (Some(gossip), Some(position)) = (gossip, position) else { return refused };
        let owners = gossip.descriptors().filter(|descriptor| descriptor.range.contains(&position));
        let latest = owners.max_by_key(|descriptor| (descriptor.range_version, descriptor.group));
        let leader = latest.and_then(|owner| owner.leader);
        leader.map_or(refused, |leader| Refused::NotLeader { leader: Some((leader, String::new())) })
    }

    /// A group that is served here was asked for a position.
    fn is_used(&mut self, host: usize, group: GroupId, position: Option<Position>) {
        let policies = self.hosts[host].process.as_mut().and_then(|process| process.policies.as_mut());
        if let (Some(policies), Some(position)) = (policies, position) {
            policies.used(group, &position);
        }
    }

    /// Numbers a request to the loop.
    pub fn ask(&mut self, host: usize, asked: Asked) -> Option<RequestId> {
        let process = self.hosts[host].process.as_mut()?;
        let request = RequestId(process.next_request);
        process.next_request += 1;
        process.requests.insert(request, asked);
        Some(request)
    }

    /// A write was applied, and its client hears the outcome.
    ///
    /// # Errors
    /// I9: it does not lie on a majority. I32: its position was another group's or sealed.
    pub fn written(
        &mut self,
        host: usize,
        group: GroupId,
        slot: Slot,
        request: RequestId,
        outcome: Outcome,
    ) -> Checked {
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let Some(Asked::Write { worker, attempt, since, position }) = process.requests.remove(&request) else {
            return Ok(());
        };
        self.acknowledged(group, slot)?;
        if let Some(position) = position.filter(|_| is_recorded(&outcome)) {
            self.observer.answers(host, group, &position, since)?;
        }
        self.tell(host, worker, attempt, Answer::Outcome(outcome));
        Ok(())
    }

    /// The loop did not take a write, or lost it.
    ///
    /// # Errors
    /// I9: a write was answered though it was never applied.
    pub fn write_refused(&mut self, host: usize, worker: usize, attempt: u64, reply: Reply) -> Checked {
        let answer = match reply {
            Reply::Refused(refused) => Answer::Refused(refused),
            Reply::Lost => Answer::Lost,
            Reply::Done | Reply::Born { .. } | Reply::ReadNow { .. } => {
                return require(9, false, || format!("host {host} answered a write that was not applied"));
            }
        };
        self.tell(host, worker, attempt, answer);
        Ok(())
    }

    /// A reader that asked the loop hears its answer.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn read_answered(&mut self, host: usize, reader: u64, reply: Reply) -> Checked {
        match reply {
            Reply::ReadNow { .. } => {
                self.queue_work(host, Work::Read(reader));
                Ok(())
            }
            Reply::Refused(refused) => self.read_refused(host, reader, refused),
            Reply::Lost | Reply::Done | Reply::Born { .. } => {
                self.read_refused(host, reader, Refused::GivenUp("an answer that reads do not get".to_owned()))
            }
        }
    }

    fn read_refused(&mut self, host: usize, reader: u64, refused: Refused) -> Checked {
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        if let Some(reader) = process.readers.remove(&reader) {
            self.tell(host, reader.worker, reader.attempt, Answer::Refused(refused));
        }
        Ok(())
    }

    /// A reader goes on, step by step, until it sleeps or is done.
    ///
    /// # Errors
    /// The invariant that does not hold after it.
    pub fn reader(&mut self, host: usize, number: u64) -> Checked {
        loop {
            match self.reader_step(host, number)? {
                Progress::Gone => return Ok(()),
                Progress::On => {}
            }
            if self.random.permille(self.plan.reader_pause_permille) {
                let at = self.now + self.random.spread(5 * MICROSECOND, SECOND);
                let epoch = self.hosts[host].epoch;
                self.at(at, Event::Reader(host, epoch, number));
                return Ok(());
            }
        }
    }

    fn reader_step(&mut self, host: usize, number: u64) -> Result<Progress, Broken> {
        let target = &mut self.hosts[host];
        let clock = target.clock.instant(self.now);
        let store = &target.disk.store;
        let Some(process) = &mut target.process else { return Ok(Progress::Gone) };
        let Some(reader) = process.readers.get_mut(&number) else { return Ok(Progress::Gone) };
        let group = reader.group;
        let next = match std::mem::replace(&mut reader.stage, Stage::Asked) {
            Stage::Asked => return Ok(Progress::Gone),
            Stage::Fresh { stale } => match process.served.get(&group).cloned() {
                Some(served) => Some(Stage::Found { served, stale }),
                None => {
                    self.read_refused(host, number, Refused::NoReplica)?;
                    return Ok(Progress::Gone);
                }
            },
            Stage::Found { served, stale: true } => {
                let fresh = served.word.fresh();
                served.word.glance_at_rest().map(|glance| Stage::Settled(served, glance, fresh))
            }
            Stage::Found { served, stale: false } => {
                let glance = served.word.glance();
                Some(Stage::Glanced(served, glance))
            }
            Stage::Glanced(served, glance) => glance.holds(clock).then_some(Stage::Clocked(served, glance)),
            Stage::Clocked(served, glance) => served.word.settled().then_some(Stage::Settled(served, glance, None)),
            Stage::Settled(served, glance, fresh) => {
                let current = process.served.get(&group).is_some_and(|current| current.tablets == served.tablets);
                let may = current || planted::on(Bug::TabletsNotChecked);
                may.then_some(Stage::Current(served, glance, fresh))
            }
            Stage::Current(served, glance, fresh) => {
                if let (Some(fresh), Some(machine)) = (fresh, process.stage.machine(group)) {
                    // What passed by a clock of an unknown rate within the bound, at the most.
                    let shown = clock.since(fresh).as_nanos() as u64;
                    let passed = shown + shown * target.config.drift_ppm / (1_000_000 - target.config.drift_ppm) + 1;
                    self.observer.fresh(group, machine.state().applied, self.now.saturating_sub(passed))?;
                }
                // By now the word lets nobody through who looked in the wrong place.
                let moved = process.stage.served(group).as_ref() != Some(&served.tablets);
                Some(Stage::Pinned(served, glance, store.view(), moved))
            }
            Stage::Pinned(served, glance, view, moved) => {
                let found = kv::read(&view, &served.tablets, &reader.key);
                let owned = served.tablets.find(&reader.key.position().0).is_some();
                if owned && served.word.confirms(glance) {
                    require(27, !moved, || format!("host {host} reads group {group} where its data lies no more"))?;
                    return self.read_done(host, number, found);
                }
                None
            }
        };
        if let Some(stage) = next {
            reader.stage = stage;
            return Ok(Progress::On);
        }
        // The word did not let it through: the loop decides.
        let Some(request) = self.ask(host, Asked::Read { reader: number }) else { return Ok(Progress::Gone) };
        self.input(host, Input::Read { request, group })?;
        Ok(Progress::Gone)
    }

    /// The loop let a reader go on, and its turn at the apply stage has come.
    ///
    /// # Errors
    /// I21: the store does not read.
    pub fn read_at_stage(&mut self, host: usize, number: u64) -> Checked {
        let Some(process) = &mut self.hosts[host].process else { return Ok(()) };
        let Some(reader) = process.readers.get(&number) else { return Ok(()) };
        let served = process.stage.served(reader.group);
        if served.is_none_or(|served| served.find(&reader.key.position().0).is_none()) {
            return self.read_refused(host, number, Refused::NoReplica);
        }
        let found = process.stage.read(reader.group, &reader.key);
        self.read_done(host, number, found).map(|_| ())
    }

    fn read_done(
        &mut self,
        host: usize,
        number: u64,
        found: Result<Option<Found>, StoreError>,
    ) -> Result<Progress, Broken> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                require(21, false, || format!("host {host} cannot read: {error}"))?;
                None
            }
        };
        let Some(process) = &mut self.hosts[host].process else { return Ok(Progress::Gone) };
        if let Some(reader) = process.readers.remove(&number) {
            if let Some(since) = reader.since {
                self.observer.answers(host, reader.group, &reader.key.position(), since)?;
            }
            self.tell(host, reader.worker, reader.attempt, Answer::Found(found));
        }
        Ok(Progress::Gone)
    }
}

/// Where a command's first key lies.
fn first_position(command: &Bytes) -> Option<Position> {
    let command = Command::from_all(command.clone()).ok()?;
    command.operation.keys().first().map(|key| key.position())
}

/// The group that a command is for, if one here owns all its keys.
fn owner_of(process: &Process, command: &Bytes) -> Result<GroupId, Refused> {
    let Ok(command) = Command::from_all(command.clone()) else { return Err(Refused::NoReplica) };
    let keys = command.operation.keys();
    let group = keys.first().and_then(|key| process.find(key)).ok_or(Refused::NoReplica)?;
    let range = process.served.get(&group).map(|served| &served.range);
    if keys.iter().all(|key| range.is_some_and(|range| range.contains(&key.position()))) {
        Ok(group)
    } else {
        Err(Refused::Invalid("the keys of a batch belong to one group".to_owned()))
    }
}

/// Whether a reader has another step to do at once.
enum Progress {
    On,
    Gone,
}
