//! Several nodes in one process, in virtual time: the real node, the real apply stage, a store, log and network in memory.
//!
//! A message and a sync take a millisecond each; applying takes no time. Nodes are named by letters, and stand for
//! election one after the other: `A` is always the least patient. A node may have replicas of several groups.

#![allow(dead_code, unused_imports, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod disk;
pub(crate) mod network;
pub(crate) mod render;

use bytes::Bytes;
use disk::Disk;
use network::Network;
use render::Names;
use scatter_core::codec::Encode;
use scatter_core::command::{Command, Condition, Operation, Outcome};
use scatter_core::durable::Write;
use scatter_core::effects::{Apply, LogRead, MachineOrder, Outgoing, Reply};
use scatter_core::group::{self, Limits};
use scatter_core::message::HelloError;
use scatter_core::node::{Boot, ReplicaStatus};
use scatter_core::ops::order::Order;
use scatter_core::ring::Key;
use scatter_core::stage::{Done, Stage};
use scatter_core::store::Store;
use scatter_core::store::map::MapStore;
use scatter_core::time::{Instant, Now, Wall};
use scatter_core::types::{FeatureLevel, GroupId, NodeId, RequestId, Slot, WriteId};
use scatter_core::{Config, Effects, Input, Node, Origin};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The date at which every story begins, in microseconds.
const DATE: u64 = 1_700_000_000_000_000;

/// What one host is, whether its process lives or not.
pub(crate) struct Host {
    pub(crate) address: String,
    pub(crate) config: Config,
    pub(crate) origin: Origin,
    pub(crate) disk: Disk,
    pub(crate) store: MapStore,
    /// Added to the date.
    pub(crate) wall_skew_micros: u64,
    /// Its machines do nothing for now.
    machines_held: bool,
    pub(crate) process: Option<Process>,
}

/// What a machine is to do.
enum Work {
    Apply(Apply),
    Order(MachineOrder),
}

/// A living process.
pub(crate) struct Process {
    pub(crate) node: Node,
    pub(crate) stage: Stage<MapStore>,
    pub(crate) boot: u64,
    inbox: VecDeque<Input>,
    syncs: VecDeque<(u64, WriteId, Vec<Write>)>,
    work: VecDeque<Work>,
    sync_held: bool,
    paused: bool,
    ticked_ms: u64,
    seen: BTreeMap<GroupId, Seen>,
}

/// What was last shown of a replica.
#[derive(Clone, PartialEq, Eq, Default)]
struct Seen {
    role: String,
    decided: Slot,
    configuration: String,
    shape: String,
}

/// All hosts and what lies between them.
pub(crate) struct Cluster {
    pub(crate) hosts: BTreeMap<char, Host>,
    pub(crate) network: Network,
    pub(crate) now_ms: u64,
    /// Whether what happens is written down.
    pub(crate) quiet: bool,
    pub(crate) trace: Vec<String>,
    pub(crate) outcomes: BTreeMap<RequestId, Outcome>,
    pub(crate) replies: BTreeMap<RequestId, Reply>,
    pub(crate) names: Names,
    labels: BTreeMap<RequestId, String>,
    reads: BTreeMap<RequestId, Key>,
    next_request: u64,
    boots: u64,
}

/// The id of a letter.
pub(crate) fn id(letter: char) -> NodeId {
    NodeId(u64::from(u32::from(letter) - u32::from('A')) + 1)
}

pub(crate) fn address(letter: char) -> String {
    format!("{}:7000", letter.to_lowercase())
}

/// The least patient node is the first letter.
pub(crate) fn config(letter: char) -> Config {
    let patience = Duration::from_millis(280 + 30 * id(letter).0);
    Config { covers: false, election_min: patience, election_max: patience, ..Config::default() }
}

impl Cluster {
    pub(crate) fn empty() -> Self {
        Self {
            hosts: BTreeMap::new(),
            network: Network::default(),
            now_ms: 0,
            quiet: false,
            trace: Vec::new(),
            outcomes: BTreeMap::new(),
            replies: BTreeMap::new(),
            names: Names::default(),
            labels: BTreeMap::new(),
            reads: BTreeMap::new(),
            next_request: 1,
            boots: 0,
        }
    }

    /// Founders that have just started.
    pub(crate) fn founded_by(letters: &str) -> Self {
        let mut cluster = Self::empty();
        for letter in letters.chars() {
            cluster.add(letter, address(letter), letters, letters, config(letter));
            cluster.start(letter);
        }
        cluster
    }

    /// Sets a host up without starting it. `founders` and `seeds` are letters.
    pub(crate) fn add(&mut self, letter: char, address_: String, founders: &str, seeds: &str, config: Config) {
        let list = |letters: &str| letters.chars().map(address).collect::<Vec<_>>();
        let origin = Origin { address: address_.clone(), founders: list(founders), seeds: list(seeds) };
        let host = Host {
            address: address_,
            config,
            origin,
            disk: Disk::default(),
            store: MapStore::new(),
            wall_skew_micros: 0,
            machines_held: false,
            process: None,
        };
        self.hosts.insert(letter, host);
    }

    pub(crate) fn say(&mut self, who: impl std::fmt::Display, what: impl std::fmt::Display) {
        if !self.quiet {
            self.trace.push(format!("{:>6}  {who:<9}  {what}", self.now_ms));
        }
    }

    /// Says something that is of one group.
    pub(crate) fn say_of(&mut self, letter: char, group: GroupId, what: impl std::fmt::Display) {
        let before = self.names.before(group);
        self.say(letter, format!("{before}{what}"));
    }

    /// Says what a leader has heard of other groups.
    pub(crate) fn say_around(&mut self, letter: char, group: GroupId) {
        let now = self.clock(letter).instant;
        let node = &self.hosts[&letter].process.as_ref().unwrap().node;
        let [before, after] = node.neighbour_loads(group, now).map(|load| match load {
            Some(load) => format!("{} bytes, {} a second", load.bytes, load.operations_per_second),
            None => "unknown".to_owned(),
        });
        let links = node.far_links(group).into_iter().flat_map(|links| links.links());
        let links: Vec<String> = links.map(|link| self.names.link(&link.link())).collect();
        let text = format!("before it {before}; after it {after}; ahead {}", links.join(", "));
        self.say_of(letter, group, text);
    }

    pub(crate) fn host(&mut self, letter: char) -> &mut Host {
        self.hosts.get_mut(&letter).unwrap_or_else(|| panic!("there is no host {letter}"))
    }

    pub(crate) fn process(&mut self, letter: char) -> &mut Process {
        self.host(letter).process.as_mut().unwrap_or_else(|| panic!("{letter} is down"))
    }

    pub(crate) fn clock(&self, letter: char) -> Now {
        let host = &self.hosts[&letter];
        // Boot clocks of different nodes have nothing to do with each other.
        let instant = Instant((id(letter).0 * 1_000_000 + self.now_ms) * 1_000_000);
        Now { instant, wall: Wall(DATE + self.now_ms * 1_000 + host.wall_skew_micros) }
    }

    /// Starts a process on what the host's disk holds.
    pub(crate) fn start(&mut self, letter: char) {
        self.boots += 1;
        let (now, boot_number) = (self.clock(letter), self.boots);
        let host = self.host(letter);
        assert!(host.process.is_none(), "{letter} runs already");
        let replicas = host.disk.recovered().replicas.iter().map(|replica| replica.replica.group).collect();
        let stage =
            Stage::open(host.store.clone(), Limits::default(), &replicas, boot_number, host.config.snapshot_patience)
                .unwrap();
        let boot = Boot { fresh_id: id(letter), nonce: boot_number, seed: boot_number, origin: host.origin.clone() };
        let recovered = Node::recover(host.config.clone(), boot, host.disk.recovered(), stage.reports(), now);
        let (node, effects) = match recovered {
            Ok(recovered) => recovered,
            Err(error) => {
                let error = error.to_string();
                let text = error.split_once(';').map_or(error.as_str(), |(text, _)| text);
                return self.say(letter, format!("does not start: {text}"));
            }
        };
        host.process = Some(Process {
            node,
            stage,
            boot: boot_number,
            inbox: VecDeque::new(),
            syncs: VecDeque::new(),
            work: VecDeque::new(),
            sync_held: false,
            paused: false,
            ticked_ms: 0,
            seen: BTreeMap::new(),
        });
        self.say(letter, "starts");
        self.show_changes(letter);
        self.carry_out(letter, effects);
    }

    /// The process dies: what was not synced to the log or flushed from the store is gone.
    pub(crate) fn crash(&mut self, letter: char) {
        let host = self.host(letter);
        host.process = None;
        host.store.crash(0);
        self.network.forget(letter);
        self.say(letter, "dies");
    }

    pub(crate) fn hold_sync(&mut self, letter: char, held: bool) {
        let now_ms = self.now_ms;
        let process = self.process(letter);
        process.sync_held = held;
        for (due_ms, _, _) in &mut process.syncs {
            *due_ms = now_ms + 1;
        }
    }

    /// Has a node's machines, of this process and the next, do nothing until told.
    pub(crate) fn hold_machines(&mut self, letter: char, held: bool) {
        self.host(letter).machines_held = held;
        if self.host(letter).process.is_some() {
            self.work_off(letter);
        }
    }

    pub(crate) fn pause(&mut self, letter: char, paused: bool) {
        self.process(letter).paused = paused;
    }

    pub(crate) fn input(&mut self, letter: char, input: Input) {
        self.process(letter).inbox.push_back(input);
    }

    pub(crate) fn request(&mut self, label: impl Into<String>) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.labels.insert(request, label.into());
        request
    }

    /// The first group that came to be.
    pub(crate) fn group(&self) -> GroupId {
        self.names.group("g1").unwrap_or_default()
    }

    /// A client sets a key of the first group at a node.
    pub(crate) fn put(&mut self, letter: char, key: &str, value: &str) -> RequestId {
        self.put_in(letter, self.group(), key, value)
    }

    /// A client sets a key at a node.
    pub(crate) fn put_in(&mut self, letter: char, group: GroupId, key: &str, value: &str) -> RequestId {
        let (label, key) = (format!("{key}={value}"), Key::new(key.as_bytes().to_vec()).unwrap());
        let value = Bytes::copy_from_slice(value.as_bytes());
        let operation = Operation::Put { key, value, ttl_ms: None, condition: Condition::Always };
        self.propose(letter, group, label, operation)
    }

    pub(crate) fn delete_in(&mut self, letter: char, group: GroupId, key: &str) -> RequestId {
        let (label, key) = (format!("delete {key}"), Key::new(key.as_bytes().to_vec()).unwrap());
        self.propose(letter, group, label, Operation::Delete { key, condition: Condition::Always })
    }

    fn propose(&mut self, letter: char, group: GroupId, label: String, operation: Operation) -> RequestId {
        let request = self.request(label);
        let command = Command { lane: None, idempotency: None, operation }.to_bytes();
        self.input(letter, Input::Propose { request, group, command });
        request
    }

    /// A client reads a key at a node: by the read word if it lets readers through, else by the loop.
    pub(crate) fn read(&mut self, letter: char, group: GroupId, key: &str) {
        let now = self.clock(letter).instant;
        let request = self.request(format!("read {key}"));
        let parsed = Key::new(key.as_bytes().to_vec()).unwrap();
        let word = self.process(letter).node.read_word(group);
        let glance = word.as_ref().and_then(|word| word.admit(|| now));
        if glance.is_some() {
            let value = self.look_up(letter, group, &parsed);
            self.say_of(letter, group, format!("reads {key}: {value}, by lease"));
        } else {
            self.reads.insert(request, parsed);
            self.input(letter, Input::Read { request, group });
        }
    }

    fn look_up(&mut self, letter: char, group: GroupId, key: &Key) -> String {
        let host = self.host(letter);
        let served = host.process.as_ref().and_then(|process| process.stage.served(group)).unwrap_or_default();
        if served.find(&key.position().0).is_none() {
            return "not the owner".to_owned();
        }
        let found = group::read(&host.store, &served, key).unwrap();
        found.map_or("nothing".to_owned(), |found| String::from_utf8_lossy(&found.value).into_owned())
    }

    pub(crate) fn change(&mut self, letter: char, add: &str, remove: &str) -> RequestId {
        self.change_in(letter, self.group(), add, remove)
    }

    pub(crate) fn change_in(&mut self, letter: char, group: GroupId, add: &str, remove: &str) -> RequestId {
        let request = self.request("change of members");
        let add = add.chars().map(|it| (id(it), self.hosts[&it].address.clone())).collect();
        let remove = remove.chars().map(id).collect();
        self.input(letter, Input::ChangeMembers { request, group, add, remove, version: None });
        request
    }

    pub(crate) fn hand_over(&mut self, letter: char, to: char) -> RequestId {
        self.hand_over_in(letter, self.group(), to)
    }

    pub(crate) fn hand_over_in(&mut self, letter: char, group: GroupId, to: char) -> RequestId {
        let request = self.request("hand-over");
        self.input(letter, Input::HandOver { request, group, to: id(to) });
        request
    }

    /// An operator orders a group operation.
    pub(crate) fn reshape(&mut self, letter: char, group: GroupId, label: &str, order: Order) -> RequestId {
        let request = self.request(label);
        self.input(letter, Input::Reshape { request, group, order });
        request
    }

    /// An operator orders that a group go on with these members alone.
    pub(crate) fn recover(&mut self, letter: char, group: GroupId, label: &str, survivors: Vec<NodeId>) -> RequestId {
        let request = self.request(label);
        self.input(letter, Input::Recover { request, group, survivors });
        request
    }

    /// An operator tells a node whom not to listen to again.
    /// A group hears of others that may lie next to it, which counts if it seeks a neighbour.
    pub(crate) fn hear(&mut self, letter: char, group: GroupId, of: &[GroupId]) {
        let states = self.hosts.values().filter_map(|host| Some(&host.process.as_ref()?.stage));
        let links = states.flat_map(|stage| of.iter().filter_map(|group| Some(stage.state(*group)?.link()))).collect();
        let seeks = self.process(letter).node.seeking_neighbours().any(|seeking| seeking == group);
        let whose = self.names.of(group);
        self.say(letter, format!("seeks a neighbour for {whose}: {seeks}"));
        self.input(letter, Input::Found { group, links });
    }

    pub(crate) fn condemn(&mut self, letter: char, label: &str, nodes: Vec<NodeId>) -> RequestId {
        let request = self.request(label);
        self.input(letter, Input::Condemn { request, nodes });
        request
    }

    /// Makes the store durable and tells the node, which may then truncate its log.
    pub(crate) fn flush(&mut self, letter: char) {
        let process = self.process(letter);
        let marks = process.stage.marks();
        for (group, slot) in marks {
            process.inbox.push_back(Input::Flushed { group, slot });
        }
        self.host(letter).store.flush().unwrap();
    }

    /// How the replica of the first group on a node stands, if there is one.
    pub(crate) fn status(&self, letter: char) -> Option<ReplicaStatus> {
        self.statuses(letter).into_iter().find(|status| status.replica.group == self.group())
    }

    /// How all replicas on a node stand.
    pub(crate) fn statuses(&self, letter: char) -> Vec<ReplicaStatus> {
        let process = self.hosts[&letter].process.as_ref();
        process.map(|process| process.node.status(self.clock(letter))).unwrap_or_default()
    }

    /// What the machine of a group on a node says of its shape.
    pub(crate) fn shape(&self, letter: char, group: GroupId) -> String {
        let process = self.hosts[&letter].process.as_ref();
        let state = process.and_then(|process| process.stage.state(group));
        state.map(|state| render::shape(&self.names, state)).unwrap_or_default()
    }

    /// The node that leads the first group, if one does.
    pub(crate) fn leader(&self) -> Option<char> {
        self.leader_of(self.group())
    }

    /// The node that leads a group, if one does.
    pub(crate) fn leader_of(&self, group: GroupId) -> Option<char> {
        let leads = |letter: &char| {
            self.statuses(*letter).iter().any(|status| status.replica.group == group && status.role == "leader")
        };
        self.hosts.keys().copied().find(leads)
    }

    /// The level of formats that a node's machine has.
    pub(crate) fn level(&self, letter: char) -> Option<FeatureLevel> {
        let process = self.hosts[&letter].process.as_ref()?;
        process.stage.state(self.group()).map(|state| state.feature_level)
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, millis: u64) {
        for _ in 0..millis {
            self.now_ms += 1;
            self.deliver();
            self.complete_syncs();
            let letters: Vec<char> = self.hosts.keys().copied().collect();
            // Machines answer at once, so a burst may bring the next.
            while letters.iter().filter(|letter| self.burst(**letter)).count() > 0 {}
        }
    }

    fn deliver(&mut self) {
        for flight in self.network.due(self.now_ms) {
            let (from, to) = (flight.from, flight.to);
            if self.hosts.get(&to).is_some_and(|host| host.process.is_some()) && self.greet(from, to) {
                self.input(to, Input::Message { from: id(from), message: flight.message });
            }
        }
    }

    /// The hello of a fresh connection. False if it is refused, or the caller is dead.
    fn greet(&mut self, from: char, to: char) -> bool {
        let Some(caller) = self.hosts[&from].process.as_ref() else { return true };
        let Some(answerer) = self.hosts[&to].process.as_ref() else { return false };
        let boots = (caller.boot, answerer.boot);
        if self.network.greeted(from, to, boots) {
            return true;
        }
        let (hello, back) = (caller.node.hello(Some(id(to))), answerer.node.hello(Some(id(from))));
        if self.believes(to, from, &hello) && self.believes(from, to, &back) {
            self.network.greet(from, to, boots);
            return true;
        }
        false
    }

    fn believes(&mut self, letter: char, caller: char, hello: &scatter_core::message::Hello) -> bool {
        let now = self.clock(letter);
        let mut effects = Effects::default();
        let process = self.process(letter);
        let checked = process.node.check_hello(hello, &mut effects);
        process.node.flush(now, &mut effects);
        self.carry_out(letter, effects);
        if let Err(error) = checked {
            self.say(format!("{letter} -> {caller}"), format!("refuses the hello: {error}"));
            if matches!(error, HelloError::RolledBack | HelloError::Condemned) {
                self.input(caller, Input::RolledBack { by: id(letter) });
            }
        }
        checked.is_ok()
    }

    fn complete_syncs(&mut self) {
        let now_ms = self.now_ms;
        let letters: Vec<char> = self.hosts.keys().copied().collect();
        for letter in letters {
            while let Some(process) = self.host(letter).process.as_mut() {
                let due = process.syncs.front().is_some_and(|(due_ms, _, _)| *due_ms <= now_ms);
                if process.sync_held || !due {
                    break;
                }
                let Some((_, write, writes)) = process.syncs.pop_front() else { break };
                process.inbox.push_back(Input::Synced { write });
                let words: Vec<String> = writes.iter().map(|write| render::write(&self.names, write)).collect();
                self.say(format!("{letter} disk"), words.join(", "));
                let host = self.host(letter);
                for write in &writes {
                    host.disk.add(write);
                }
            }
        }
    }

    /// Lets a node take what waits for it. False if nothing does.
    fn burst(&mut self, letter: char) -> bool {
        let (now, now_ms) = (self.clock(letter), self.now_ms);
        let Some(process) = self.host(letter).process.as_mut().filter(|process| !process.paused) else { return false };
        let due = process.ticked_ms != now_ms && process.node.deadline().is_some_and(|at| at <= now.instant);
        if process.inbox.is_empty() && !due {
            return false;
        }
        let mut effects = Effects::default();
        for input in std::mem::take(&mut process.inbox) {
            process.node.step(now, input, &mut effects);
        }
        if due {
            process.ticked_ms = now_ms;
            process.node.step(now, Input::Tick, &mut effects);
        }
        process.node.flush(now, &mut effects);
        for group in process.node.groups().collect::<Vec<_>>() {
            if let Some(word) = process.node.read_word(group) {
                process.stage.attach(group, word);
            }
        }
        self.show_changes(letter);
        self.carry_out(letter, effects);
        true
    }

    /// Writes down what became of a node's replicas.
    fn show_changes(&mut self, letter: char) {
        let mut gone: Vec<GroupId> = self.process(letter).seen.keys().copied().collect();
        for status in self.statuses(letter) {
            let group = status.replica.group;
            gone.retain(|known| *known != group);
            let shape = self.shape(letter, group);
            self.show_change(letter, group, seen(&status, shape));
        }
        for group in gone {
            self.show_change(letter, group, Seen::default());
        }
    }

    fn show_change(&mut self, letter: char, group: GroupId, seen: Seen) {
        self.names.of(group);
        let before = self.process(letter).seen.remove(&group).unwrap_or_default();
        let mut words = Vec::new();
        if seen.role != before.role {
            words.push(if seen.role.is_empty() { "has no replica".to_owned() } else { seen.role.clone() });
        }
        if seen.decided != before.decided && !seen.role.is_empty() {
            words.push(format!("decided {}", seen.decided));
        }
        if seen.configuration != before.configuration && !seen.configuration.is_empty() {
            words.push(seen.configuration.clone());
        }
        if seen.shape != before.shape && !seen.role.is_empty() {
            words.push(seen.shape.strip_prefix(", ").unwrap_or("the whole ring, nothing pending").to_owned());
        }
        if !seen.role.is_empty() {
            self.process(letter).seen.insert(group, seen);
        }
        if !words.is_empty() {
            self.say_of(letter, group, words.join(", "));
        }
    }

    fn carry_out(&mut self, letter: char, effects: Effects) {
        let now_ms = self.now_ms;
        if effects.give_up {
            return self.give_up(letter, &effects.writes);
        }
        if let Some(write) = effects.write {
            self.process(letter).syncs.push_back((now_ms + 1, write, effects.writes));
        }
        for out in effects.messages {
            self.send(letter, out);
        }
        for (request, reply) in effects.replies {
            self.reply(letter, request, reply);
        }
        let applies = effects.applies.into_iter().map(Work::Apply);
        let work = applies.chain(effects.orders.into_iter().map(Work::Order));
        self.process(letter).work.extend(work);
        self.work_off(letter);
        for read in effects.log_reads {
            self.read_log(letter, read);
        }
        for dial in effects.dials {
            self.dial(letter, dial);
        }
    }

    fn work_off(&mut self, letter: char) {
        while !self.host(letter).machines_held {
            let Some(work) = self.process(letter).work.pop_front() else { return };
            let now = self.clock(letter).instant;
            let stage = &mut self.process(letter).stage;
            let done = match &work {
                Work::Apply(apply) => stage.apply(apply).unwrap(),
                Work::Order(order) => stage.order(order, now).unwrap(),
            };
            if let Work::Order(order @ MachineOrder::Destroy { .. }) = &work {
                self.say_of(letter, order.group(), "destroys its data");
            }
            self.done(letter, done);
        }
    }

    fn give_up(&mut self, letter: char, writes: &[Write]) {
        let host = self.host(letter);
        for write in writes {
            host.disk.add(write);
        }
        host.process = None;
        self.say(letter, "gives up its id and ends");
    }

    fn done(&mut self, letter: char, done: Done) {
        for run in done.results.chunk_by(|one, next| one.group == next.group) {
            self.say_of(letter, run[0].group, format!("applied {}", render::slots(run[0].slot, run.len())));
        }
        for input in &done.inputs {
            match input {
                Input::Born { child, .. } => self.say_of(letter, child.group, "is born"),
                Input::Stalled { group, slot } => self.say_of(letter, *group, format!("stands still before {slot}")),
                Input::Merged { loser, into, at } => {
                    let into = self.names.of(*into);
                    self.say_of(letter, loser.group, format!("is taken over by {into} at {at}"));
                }
                _ => {}
            }
        }
        let process = self.process(letter);
        process.inbox.extend(done.inputs);
        done.moved.iter().for_each(|group| process.stage.published(*group));
        for answered in done.outcomes {
            self.answer(letter, answered.request, &render::outcome(&answered.outcome));
            self.outcomes.insert(answered.request, answered.outcome);
        }
    }

    fn reply(&mut self, letter: char, request: RequestId, reply: Reply) {
        match (&reply, self.reads.remove(&request)) {
            (Reply::ReadNow { group }, Some(key)) => {
                let value = self.look_up(letter, *group, &key);
                self.answer(letter, request, &value);
            }
            _ => self.answer(letter, request, &render::reply(&self.names, &reply)),
        }
        self.replies.insert(request, reply);
    }

    fn answer(&mut self, letter: char, request: RequestId, words: &str) {
        let label = self.labels[&request].clone();
        self.say(format!("{letter} reply"), format!("{label}: {words}"));
    }

    fn send(&mut self, from: char, out: Outgoing) {
        let to = render::letter(out.to);
        let words = render::message(&self.names, &out.message);
        let sent = self.network.send(self.now_ms, from, to, out.message);
        if sent.worth_telling {
            self.say(format!("{from} -> {to}"), format!("{words}{}", sent.fate));
        }
    }

    fn read_log(&mut self, letter: char, read: LogRead) {
        let LogRead { group, to, first, last, .. } = read;
        let entries = self.host(letter).disk.entries(group, first, last);
        self.input(letter, Input::LogRead { group, to, first, entries });
    }

    fn dial(&mut self, letter: char, address: String) {
        let at =
            |(other, host): &(&char, &Host)| host.address == address && host.process.is_some() && **other != letter;
        let Some(other) = self.hosts.iter().find(at).map(|(other, _)| *other) else { return };
        if self.network.passes(letter, other) && self.network.passes(other, letter) {
            let cluster = self.process(other).node.cluster();
            self.input(letter, Input::Answered { address, node: id(other), cluster });
        }
    }
}

/// What is shown of a replica.
fn seen(status: &ReplicaStatus, shape: String) -> Seen {
    let behind = status.leader.map_or("nobody".to_owned(), |leader| render::letter(leader).to_string());
    let role = match status.role {
        "leader" => format!("leads {}", render::ballot(status.ballot)),
        "follower" | "learner" => format!("{} of {behind}", status.role),
        role => role.to_owned(),
    };
    let configuration = status.configuration.as_ref().map(render::configuration).unwrap_or_default();
    Seen { role, decided: status.decided, configuration, shape }
}
