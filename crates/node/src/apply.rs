//! The apply thread: decided entries into the data store, answers to those who wait, snapshots out and in.
//!
//! Work arrives in the order the core decided it and is done in that order. A full or failing store is tried again until
//! it works: what is decided cannot be refused. While it is tried nobody reads what waits behind it, so clients' writes are
//! refused before it comes to that: as long as the disk has room for everything that is still to be applied.

mod reader;

use crate::events::{Event, Inbox, Waiter};
use crate::metrics::ServedRead;
use crate::serving::{Figures, Held, Served, Serving, Table};
use crate::storage::rocks::RocksStore;
use reader::Reader;
use scatter_core::Input;
use scatter_core::command::Outcome;
use scatter_core::effects::{Apply, MachineOrder};
use scatter_core::entry::Room;
use scatter_core::group::Descriptor;
use scatter_core::group::read_word::ReadWord;
use scatter_core::input::MachineReport;
use scatter_core::ops::Pending;
use scatter_core::ring::Key;
use scatter_core::stage::{Answered, Done, Stage};
use scatter_core::store::{Store, StoreError};
use scatter_core::types::{GroupId, RangeVersion, RequestId, Slot, Version};
use scatter_wire::{ReadPath, Refusal, ReplyBody};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread waits before it tries a failing store again.
const STORE_PAUSE: Duration = Duration::from_millis(100);

/// How often it is looked whether the disk has room: much less can be written in that time than must be free.
const SPACE_EVERY: Duration = Duration::from_millis(20);

/// How often what was removed on a disk without room is compacted away, and how often it is tried again if nothing more was.
const COMPACT_EVERY: Duration = Duration::from_secs(2);
const COMPACT_AGAIN: Duration = Duration::from_secs(30);

/// One piece of work.
pub enum Job {
    /// Decided entries of some groups, with those who wait for them.
    Apply(Vec<Apply>, Vec<(RequestId, GroupId, Waiter)>),
    /// An order of the core.
    Order(MachineOrder),
    /// A read that may go on.
    Read(GroupId, Key, Waiter),
    /// A replica's read word.
    Attach(GroupId, Arc<ReadWord>),
    /// The store has loaded something: pieces of snapshots may have waited for it.
    Loaded,
    /// What has been applied by each group, for a flush that begins after the answer.
    Marks(Sender<Vec<(GroupId, Slot)>>),
}

/// Hands work to the thread.
#[derive(Clone)]
pub struct ApplyHandle {
    jobs: Sender<(Instant, Job)>,
    serving: Arc<Serving>,
}

impl ApplyHandle {
    /// Adds a piece of work. The core bounds how much is decided and not applied.
    pub fn push(&self, job: Job) {
        self.serving.counts.on_job();
        // The thread ends only with the process.
        let _ = self.jobs.send((Instant::now(), job));
    }
}

/// Starts the thread, and the one that reads snapshots for others, at most so many bytes a second.
pub fn start(
    stage: Stage<RocksStore>,
    store: RocksStore,
    serving: Arc<Serving>,
    inbox: Arc<Inbox>,
    snapshot_bytes_per_second: u64,
) -> std::io::Result<(ApplyHandle, JoinHandle<()>)> {
    let (jobs, work) = channel();
    let handle = ApplyHandle { jobs, serving: serving.clone() };
    let loaded = handle.clone();
    store.on_loaded(move || loaded.push(Job::Loaded));
    let mut worker = Worker::new(stage, store, serving, inbox, snapshot_bytes_per_second)?;
    worker.publish();
    worker.tell_space();
    let thread = std::thread::Builder::new().name("apply".to_owned()).spawn(move || worker.run(&work))?;
    Ok((handle, thread))
}

/// What the loop is to hear of one piece of work.
#[derive(Default)]
struct Burst {
    inputs: Vec<Input>,
    /// It can wait until the loop turns.
    quiet: bool,
}

struct Worker {
    stage: Stage<RocksStore>,
    store: RocksStore,
    serving: Arc<Serving>,
    inbox: Arc<Inbox>,
    reader: Reader,
    words: BTreeMap<GroupId, Arc<ReadWord>>,
    figures: BTreeMap<GroupId, Arc<Figures>>,
    /// The operations that hold groups here, each with the version of the group's range when it began.
    held: BTreeMap<GroupId, (Held, RangeVersion)>,
    /// Who waits for commands that were handed to the stage, of which group.
    waiters: HashMap<RequestId, (GroupId, Waiter)>,
    failing: bool,
    /// How much room for clients' writes the driver was told of.
    told_room: Room,
    /// Something was removed for want of room, and is not compacted away yet.
    removed: bool,
    /// When that began last, and what does it.
    compacting: Option<(Instant, JoinHandle<()>)>,
    /// When it looks next whether the disk has room.
    space_at: Instant,
}

impl Worker {
    fn new(
        stage: Stage<RocksStore>,
        store: RocksStore,
        serving: Arc<Serving>,
        inbox: Arc<Inbox>,
        snapshot_bytes_per_second: u64,
    ) -> std::io::Result<Self> {
        Ok(Self {
            reader: Reader::start(serving.clone(), inbox.clone(), snapshot_bytes_per_second)?,
            stage,
            store,
            serving,
            inbox,
            words: BTreeMap::new(),
            figures: BTreeMap::new(),
            held: BTreeMap::new(),
            waiters: HashMap::new(),
            failing: false,
            told_room: Room::Enough,
            removed: false,
            compacting: None,
            space_at: Instant::now(),
        })
    }

    fn run(mut self, work: &Receiver<(Instant, Job)>) {
        loop {
            let (since, job) = if self.told_room < Room::Enough {
                match work.recv_timeout(STORE_PAUSE) {
                    Ok(job) => job,
                    Err(RecvTimeoutError::Timeout) => {
                        self.tell_space();
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match work.recv() {
                    Ok(job) => job,
                    Err(_) => return,
                }
            };
            self.serving.counts.on_job_taken();
            match job {
                Job::Apply(applies, waiters) => self.apply_all(&applies, waiters, since),
                Job::Order(order) => self.order(&order),
                Job::Read(group, key, waiter) => self.read(group, &key, waiter),
                Job::Attach(group, word) => {
                    self.stage.attach(group, word.clone());
                    self.words.insert(group, word);
                    self.publish();
                }
                Job::Loaded => self.store_deferred(),
                Job::Marks(answer) => drop(answer.send(self.stage.marks())),
            }
        }
    }

    fn order(&mut self, order: &MachineOrder) {
        if let Some(reading) = self.stage.reading(order, crate::clock::instant()) {
            return self.reader.read(reading);
        }
        let done = self.until_done(|stage| stage.order(order, crate::clock::instant()));
        self.serving.counts.on_order(order, &done);
        self.finish(done);
        if let MachineOrder::Destroy { replica } = order {
            self.let_down(replica.group);
        }
    }

    /// Stores the pieces of snapshots that waited until the store had loaded what came before them.
    fn store_deferred(&mut self) {
        while self.stage.has_deferred() {
            let done = self.until_done(Stage::store_deferred);
            self.serving.counts.on_snapshot_stored(&done);
            self.finish(done);
        }
    }

    /// Tells the driver when room for clients' writes ends, and when there is some again.
    fn tell_space(&mut self) {
        self.space_at = Instant::now() + SPACE_EVERY;
        let needed = self.store.needed_bytes();
        let was_short = self.told_room < Room::Enough;
        // Once it was short, a little more is asked for, so that the answer does not change with every file that goes.
        let wanted = if was_short { needed + needed / 4 } else { needed };
        let room = if self.failing {
            Room::Reserve
        } else if self.store.free_bytes().is_some_and(|free| free < wanted) {
            Room::Removals
        } else {
            Room::Enough
        };
        if room != self.told_room {
            self.told_room = room;
            tracing::warn!(?room, needed, "room for the data store on its disk");
            self.inbox.push(Event::StoreRoom(room));
        }
        if room < Room::Enough {
            self.compact_removed();
        }
    }

    /// Has what was removed compacted away, one time after the other, while there is too little room: what users removed is to make
    /// some.
    fn compact_removed(&mut self) {
        // What was in use the last time, or could not be compacted, may be by now, though nothing more was removed.
        let every = if self.removed { COMPACT_EVERY } else { COMPACT_AGAIN };
        let rests = |(begun, thread): &(Instant, JoinHandle<()>)| thread.is_finished() && begun.elapsed() >= every;
        if !self.compacting.as_ref().map_or(self.removed, rests) {
            return;
        }
        let store = self.store.clone();
        let compacts = move || {
            crate::priority::give_way();
            if let Err(error) = store.compact_removed() {
                tracing::warn!(%error, "what was removed is not compacted away");
            }
        };
        let thread = std::thread::Builder::new().name("compact".to_owned()).spawn(compacts);
        self.removed = thread.is_err();
        self.compacting = thread.ok().map(|thread| (Instant::now(), thread));
    }

    /// Repeats until the store takes it.
    fn until_done(&mut self, mut attempt: impl FnMut(&mut Stage<RocksStore>) -> Result<Done, StoreError>) -> Done {
        loop {
            match attempt(&mut self.stage) {
                Ok(done) => {
                    let recovered = std::mem::take(&mut self.failing);
                    if recovered {
                        tracing::info!("the data store takes writes again");
                    }
                    if recovered || self.space_at <= Instant::now() {
                        self.tell_space();
                    }
                    return done;
                }
                Err(StoreError::Damaged(what)) => {
                    self.inbox.push(Event::Fatal(format!("the data store is damaged: {what}")));
                    // Nothing applied from here on could be trusted.
                    loop {
                        std::thread::park();
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failing, true) {
                        tracing::error!(%error, "the data store does not take writes; trying again until it does");
                    }
                    self.tell_space();
                    std::thread::park_timeout(STORE_PAUSE);
                }
            }
        }
    }

    /// Applies what was decided in one burst, one group after the other; tells of all of them together.
    fn apply_all(&mut self, applies: &[Apply], waiters: Vec<(RequestId, GroupId, Waiter)>, since: Instant) {
        self.waiters.extend(waiters.into_iter().map(|(request, group, waiter)| (request, (group, waiter))));
        let mut burst = Burst { quiet: true, ..Burst::default() };
        for apply in applies {
            let begun = Instant::now();
            let done = self.until_done(|stage| stage.apply(apply));
            // There are no commands then but such as remove.
            self.removed |= self.told_room < Room::Enough && !done.results.is_empty();
            self.apply_done(apply.group, done, &mut burst);
            self.serving.counts.on_applied(apply.entries.len(), begun - since, begun.elapsed());
        }
        self.tell(burst);
    }

    fn apply_done(&mut self, group: GroupId, done: Done, burst: &mut Burst) {
        let merged = done.inputs.iter().filter_map(|input| match input {
            Input::Merged { loser, .. } => Some(loser.group),
            _ => None,
        });
        let ended: Vec<GroupId> = merged.chain([group]).collect();
        self.show(done, burst);
        ended.into_iter().for_each(|group| self.let_down(group));
    }

    /// Answers those who wait for commands of a group that has no machine here any more, as after a merge: nobody will apply
    /// them here, and asked again, under the same lane, whoever has the group's positions knows what became of them.
    fn let_down(&mut self, group: GroupId) {
        if self.waiters.is_empty() || self.stage.machine(group).is_some() {
            return;
        }
        let left: Vec<RequestId> =
            self.waiters.iter().filter(|(_, (of, _))| *of == group).map(|(request, _)| *request).collect();
        for request in left {
            if let Some((_, waiter)) = self.waiters.remove(&request) {
                waiter.answer(refused(Refusal::Unknown));
            }
        }
    }

    /// What came of a piece of work.
    fn finish(&mut self, done: Done) {
        let mut burst = Burst { quiet: true, ..Burst::default() };
        self.show(done, &mut burst);
        self.tell(burst);
    }

    /// What came of a piece of work: readers see where data lies, clients hear outcomes, the loop will hear how far the machines
    /// are; in this order, so that nobody is told of what readers beside the loop would contradict.
    fn show(&mut self, done: Done, burst: &mut Burst) {
        let changed = done.inputs.iter().filter_map(reported).any(|(group, report)| self.is_news(group, report));
        self.note_operations(&done.inputs);
        if changed || !done.moved.is_empty() {
            self.publish();
        }
        for group in &done.moved {
            self.stage.published(*group);
        }
        for answered in done.outcomes {
            self.answer(answered);
        }
        for group in done.inputs.iter().filter_map(reported).map(|(group, _)| group) {
            self.refresh_figures(group);
        }
        // All that an applied entry tells is how far the machine is; what moved data tells more.
        burst.quiet &= done.moved.is_empty() && done.quiet;
        burst.inputs.extend(done.inputs);
    }

    fn tell(&self, burst: Burst) {
        let events = burst.inputs.into_iter().map(Event::Input);
        if burst.quiet { self.inbox.extend_quietly(events) } else { self.inbox.extend(events) }
    }

    /// Whether what is published of a group is outdated.
    fn is_news(&self, group: GroupId, report: &MachineReport) -> bool {
        let Some(published) = self.serving.group(group) else { return true };
        let state = &report.state;
        published.configuration.version != report.state.configuration.version
            || published.links.version != state.links.version
            || published.range_version != state.range_version
            || published.held.as_ref().map(|held| held.operation) != state.pending.as_ref().map(Pending::operation)
    }

    /// Counts group operations that began and ended, where the group that gains is led from here.
    fn note_operations(&mut self, inputs: &[Input]) {
        for input in inputs {
            if let Some((group, report)) = reported(input) {
                self.note_held(group, report.state.pending.as_ref(), report.state.range_version);
            }
            match input {
                Input::Born { child, leader, .. } if *leader == child.node => self.serving.counts.on_split(),
                Input::Merged { loser, .. } => drop(self.held.remove(&loser.group)),
                _ => {}
            }
        }
    }

    fn note_held(&mut self, group: GroupId, pending: Option<&Pending>, range_version: RangeVersion) {
        let known = self.held.get(&group).map(|(held, _)| held.operation);
        if known == pending.map(Pending::operation) {
            return;
        }
        let leads = self.leads(group);
        if let Some((held, before)) = self.held.remove(&group)
            && held.gains
            && leads
        {
            self.serving.counts.on_operation_ended(held.merge, range_version > before, held.since.elapsed());
        }
        if let Some(pending) = pending {
            let held = Held::new(pending, Instant::now());
            if held.gains && leads {
                self.serving.counts.on_operation_began(held.merge);
            }
            self.held.insert(group, (held, range_version));
        }
    }

    fn leads(&self, group: GroupId) -> bool {
        let leader = self.serving.leadership.load().get(&group).and_then(|leadership| leadership.leader);
        leader.is_some() && leader == self.stage.machine(group).map(|machine| machine.name().node)
    }

    fn not_owner(&self, descriptors: Vec<Descriptor>) -> ReplyBody {
        ReplyBody::Refused { refusal: Refusal::NotOwner, retry_after_ms: 0, descriptors, stamp: Version(0) }
    }

    fn answer(&mut self, answered: Answered) {
        let Answered { request, group, outcome, .. } = answered;
        let Some((_, waiter)) = self.waiters.remove(&request) else { return };
        if let Some(figures) = self.figures.get(&group) {
            figures.commands.fetch_add(1, Ordering::Relaxed);
        }
        let Some(state) = self.stage.state(group) else {
            return waiter.answer(self.not_owner(self.serving.hints_of(group)));
        };
        let epoch = scatter_wire::Epoch { configuration: state.configuration.version, range: state.range_version };
        let stamp = state.stamp;
        waiter.answer(match outcome {
            Outcome::NotOwner if state.pending.as_ref().is_some_and(|pending| pending.sealed().is_some()) => {
                refused(Refusal::Sealed)
            }
            Outcome::NotOwner => self.not_owner(self.serving.hints_of(group)),
            Outcome::Malformed => refused(Refusal::Malformed { text: "the command does not decode".to_owned() }),
            outcome => ReplyBody::Outcome { outcome, group, epoch, stamp },
        });
    }

    fn refresh_figures(&self, group: GroupId) {
        let (Some(state), Some(figures)) = (self.stage.state(group), self.figures.get(&group)) else { return };
        figures.keys.store(state.shown_keys(), Ordering::Relaxed);
        figures.bytes.store(state.shown_bytes(), Ordering::Relaxed);
        figures.stamp.store(state.stamp.0, Ordering::Relaxed);
        figures.lanes.store(self.lanes(group), Ordering::Relaxed);
    }

    fn read(&mut self, group: GroupId, key: &Key, waiter: Waiter) {
        let position = key.position();
        let owned = self.stage.state(group).filter(|state| state.range.contains(&position));
        let Some(state) = owned else { return waiter.answer(self.not_owner(self.serving.hints(&position))) };
        if state.pending.as_ref().and_then(|pending| pending.sealed()).is_some_and(|sealed| sealed.contains(&position))
        {
            return waiter.answer(refused(Refusal::Sealed));
        }
        let epoch = scatter_wire::Epoch { configuration: state.configuration.version, range: state.range_version };
        let stamp = state.stamp;
        match self.stage.read(group, key) {
            Ok(found) => {
                self.serving.counts.on_read(ServedRead::Quorum);
                if let Some(figures) = self.figures.get(&group) {
                    figures.on_read(key);
                }
                let (path, staleness_ms) = (ReadPath::Quorum, Some(0));
                waiter.answer(ReplyBody::Value { found, group, epoch, path, staleness_ms, stamp });
            }
            Err(error) => waiter.answer(refused(Refusal::Unavailable { text: error.to_string() })),
        }
    }

    fn lanes(&self, group: GroupId) -> u64 {
        self.stage.machine(group).map_or(0, |machine| machine.lanes() as u64)
    }

    /// Shows readers what lives here.
    fn publish(&mut self) {
        let groups: Vec<GroupId> = self.stage.marks().into_iter().map(|(group, _)| group).collect();
        let mut table = Vec::new();
        for group in groups {
            let (Some(state), Some(tablets)) = (self.stage.state(group), self.stage.served(group)) else { continue };
            let figures = self.figures.entry(group).or_default().clone();
            let held = state.pending.as_ref().map(|pending| {
                let known =
                    self.held.entry(group).or_insert_with(|| (Held::new(pending, Instant::now()), state.range_version));
                Held::new(pending, known.0.since)
            });
            table.push(Arc::new(Served {
                group,
                range: state.range.clone(),
                range_version: state.range_version,
                configuration: state.configuration.clone(),
                tablets,
                links: state.links.clone(),
                held,
                recovered: state.recovered.clone(),
                absorbed: state.absorbed.iter().map(|(group, _)| *group).collect(),
                word: self.words.get(&group).cloned().unwrap_or_else(|| Arc::new(ReadWord::shut())),
                figures,
            }));
        }
        self.serving.groups.store(Arc::new(Table::new(table)));
        self.figures.retain(|group, _| self.stage.state(*group).is_some());
        let groups: Vec<GroupId> = self.figures.keys().copied().collect();
        groups.into_iter().for_each(|group| self.refresh_figures(group));
    }
}

/// What an input tells of a machine's state.
fn reported(input: &Input) -> Option<(GroupId, &MachineReport)> {
    match input {
        Input::Applied { group, report } | Input::Installed { group, report } => Some((*group, report)),
        _ => None,
    }
}

fn refused(refusal: Refusal) -> ReplyBody {
    ReplyBody::refused(refusal)
}

/// Starts the thread that makes applied data durable now and then, so that the log can be cut behind it.
pub fn start_flusher(
    store: RocksStore,
    apply: ApplyHandle,
    inbox: Arc<Inbox>,
    interval: Duration,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("flush".to_owned()).spawn(move || {
        let mut last: Vec<(GroupId, Slot)> = Vec::new();
        loop {
            std::thread::park_timeout(interval);
            let (answer, marks) = channel();
            apply.push(Job::Marks(answer));
            let Ok(marks) = marks.recv() else { return };
            if marks == last {
                continue;
            }
            match store.flush() {
                Ok(()) => {
                    let inputs = marks.iter().map(|(group, slot)| Input::Flushed { group: *group, slot: *slot });
                    inbox.extend(inputs.map(Event::Input));
                    last = marks;
                }
                Err(error) => tracing::warn!(%error, "the data store could not be flushed; trying again"),
            }
        }
    })
}

#[cfg(test)]
mod tests;
