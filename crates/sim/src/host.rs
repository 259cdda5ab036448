//! A host: disk, clocks and address, and the process that runs on it while it runs.

use crate::clock::Clock;
use crate::disk::{Disk, DiskCopy};
use crate::history::Time;
use crate::policies::Policies;
use scatter_core::config::Config;
use scatter_core::effects::{Apply, MachineOrder};
use scatter_core::entry::Room;
use scatter_core::group::TabletMap;
use scatter_core::group::read_word::{Glance, ReadWord};
use scatter_core::input::Input;
use scatter_core::message::PeerMessage;
use scatter_core::node::Node;
use scatter_core::ring::{Key, KeyRange, Position};
use scatter_core::stage::Stage as Machines;
use scatter_core::store::map::{MapStore, MapView};
use scatter_core::time::Instant;
use scatter_core::types::{GroupId, NodeId, RangeVersion, RequestId, Slot};
use scatter_gossip::Gossip;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Work for the apply stage.
#[derive(Debug)]
pub enum Work {
    /// Apply decided entries.
    Apply(Apply),
    /// Carry out an order.
    Order(MachineOrder),
    /// Keep this replica's read word up to date.
    Attach(GroupId, Arc<ReadWord>),
    /// Read for a reader that the loop let go on.
    Read(u64),
    /// Show readers where the data of groups lies, and tell the loop what came of the work that moved it.
    Publish(Vec<GroupId>, Vec<Input>),
}

/// What readers beside the loop see of a replica.
#[derive(Clone, Debug)]
pub struct Served {
    /// Where its data lies, as far as it may be read.
    pub tablets: TabletMap,
    /// The range, and its version.
    pub range: KeyRange,
    /// See `range`.
    pub range_version: RangeVersion,
    /// Whether it may be read.
    pub word: Arc<ReadWord>,
}

/// Who waits for the answer to a request of the loop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// A client's write.
    Write {
        /// Which worker.
        worker: usize,
        /// Which of its attempts.
        attempt: u64,
        /// When it came here.
        since: Time,
        /// Where its first key lies.
        position: Option<Position>,
    },
    /// A reader that the word did not let through.
    Read {
        /// Which reader.
        reader: u64,
    },
    /// An operator.
    Order,
    /// A policy of a group that is led here.
    Policy {
        /// The group.
        group: GroupId,
        /// Whether its members are to change.
        change: bool,
    },
}

/// One attempt to read, on a thread of its own.
#[derive(Debug)]
pub struct Reader {
    /// Who asked.
    pub worker: usize,
    /// Which of its attempts.
    pub attempt: u64,
    /// From which group.
    pub group: GroupId,
    /// What.
    pub key: Key,
    /// When it came here, unless any state of this replica will do.
    pub since: Option<Time>,
    /// How far it is.
    pub stage: Stage,
}

/// How far a reader is. Between any two stages it may sleep.
#[derive(Debug)]
pub enum Stage {
    /// Nothing is done yet.
    Fresh {
        /// Whether any state of this replica will do.
        stale: bool,
    },
    /// The replica was found.
    Found {
        /// As it was published then.
        served: Served,
        /// Whether any state of this replica will do.
        stale: bool,
    },
    /// The generation and the deadline are noted.
    Glanced(Served, Glance),
    /// The clock showed a time before the deadline.
    Clocked(Served, Glance),
    /// All that was revealed is applied; or it need not be, and this is how fresh the replica says it is.
    Settled(Served, Glance, Option<Instant>),
    /// Where the data lies was looked up again.
    Current(Served, Glance, Option<Instant>),
    /// A view is pinned; whether the data had moved away by then.
    Pinned(Served, Glance, MapView, bool),
    /// The loop was asked.
    Asked,
}

/// A connection that this process dialled.
#[derive(Debug)]
pub enum Connection {
    /// The hello is on its way.
    Dialling {
        /// Since when.
        since: Time,
        /// What waits.
        waiting: VecDeque<PeerMessage>,
    },
    /// The other end accepted.
    Up {
        /// The host at the other end.
        host: usize,
        /// Its process.
        epoch: u64,
    },
}

/// What runs on a host.
pub struct Process {
    /// The consensus part.
    pub node: Node,
    /// The apply stage.
    pub stage: Machines<MapStore>,
    /// What readers see.
    pub served: BTreeMap<GroupId, Served>,
    /// The words that the apply stage has.
    pub words: BTreeMap<GroupId, Arc<ReadWord>>,
    /// Groups whose word was handed to the apply stage.
    pub attached: BTreeSet<GroupId>,
    /// What waits for the loop.
    pub inbox: VecDeque<Input>,
    /// Whether the loop will run.
    pub loop_scheduled: bool,
    /// The loop does not run before this.
    pub loop_stalled_until: Time,
    /// What waits for the apply stage.
    pub work: VecDeque<Work>,
    /// Whether the apply stage will run.
    pub work_scheduled: bool,
    /// The apply stage does not run before this.
    pub work_stalled_until: Time,
    /// When the next tick is due, if one is scheduled.
    pub timer: Option<Time>,
    /// How many ticks in a row have left a deadline past.
    pub idle_ticks: u32,
    /// Requests the loop has not answered.
    pub requests: BTreeMap<RequestId, Asked>,
    /// The next request's number.
    pub next_request: u64,
    /// Readers under way.
    pub readers: BTreeMap<u64, Reader>,
    /// The next reader's number.
    pub next_reader: u64,
    /// By the node at the other end.
    pub connections: BTreeMap<NodeId, Connection>,
    /// Where other nodes were last heard to live.
    pub book: BTreeMap<NodeId, String>,
    /// Its end of the gossip, once it belongs to a cluster.
    pub gossip: Option<Gossip>,
    /// When the gossip's next tick is due.
    pub gossip_timer: Option<Time>,
    /// What its groups' policies remember, if there are any.
    pub policies: Option<Policies>,
}

/// A machine somebody could point at.
pub struct Host {
    /// Under which others reach it.
    pub address: String,
    /// The address that it has for good.
    pub home: String,
    /// How many machines have stood in this place.
    pub life: u64,
    /// It is to be emptied.
    pub draining: bool,
    /// Log and store.
    pub disk: Disk,
    /// Boot and wall clock.
    pub clock: Clock,
    /// What runs, if anything.
    pub process: Option<Process>,
    /// Rises whenever a process starts or dies.
    pub epoch: u64,
    /// Nothing of the process runs before this.
    pub paused_until: Time,
    /// Its settings at the next start.
    pub config: Config,
    /// Syncs take this many times as long.
    pub disk_slowness: u64,
    /// No sync ends before this.
    pub disk_hangs_until: Time,
    /// The next sync fails.
    pub sync_fails: bool,
    /// How much room the disk has.
    pub room: Room,
    /// Whether it founds the cluster.
    pub founder: bool,
    /// The replicas whose records were handed to the log and that no tombstone ended, with how much of them it knows decided.
    pub live: BTreeMap<GroupId, Slot>,
    /// What the data store holds durably, by group.
    pub flushed: BTreeMap<GroupId, Slot>,
    /// An earlier state of the disk, with the boot it is of.
    pub copy: Option<DiskCopy>,
    /// Effects are being carried out.
    pub busy: bool,
}

impl Process {
    /// The group here that owns a key, as far as readers were shown: of several the one with the latest claim.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<GroupId> {
        let position = key.position();
        let owners = self.served.iter().filter(|(_, served)| served.range.contains(&position));
        owners.max_by_key(|(group, served)| (served.range_version, **group)).map(|(group, _)| *group)
    }

    /// Shows readers what lives here.
    pub fn publish(&mut self) {
        let groups = self.stage.marks().into_iter().map(|(group, _)| group);
        let served = groups.filter_map(|group| {
            let tablets = self.stage.served(group)?;
            let state = self.stage.state(group)?;
            let (range, range_version) = (state.range.clone(), state.range_version);
            let word = self.words.get(&group).cloned().unwrap_or_else(|| Arc::new(ReadWord::shut()));
            Some((group, Served { tablets, range, range_version, word }))
        });
        self.served = served.collect();
    }
}

impl Host {
    /// The node whose disk this is, if it has a record.
    #[must_use]
    pub fn node_id(&self) -> Option<NodeId> {
        match &self.process {
            Some(process) => Some(process.node.id()),
            None => self.disk.log.node.as_ref().map(|record| record.node),
        }
    }

    /// Whether the process speaks: its boot is on disk.
    #[must_use]
    pub fn speaks(&self) -> bool {
        let durable = self.disk.log.node.as_ref().map(|record| (record.node, record.boot));
        self.process.as_ref().is_some_and(|process| {
            let record = process.node.record();
            durable == Some((record.node, record.boot)) && !record.given_up
        })
    }
}
