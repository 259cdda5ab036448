//! The state that is explored: two groups' logs, and what each node holds of them.

use crate::sets::{Data, Members, NODES, NodeIndex, Positions};
use std::fmt;
use std::hash::{Hash, Hasher};

/// How many entries a log has room for. No scenario may need more: [`Fault::LogFull`](crate::invariants::Fault) says so.
pub const LOG: usize = 14;

/// A place in a group's log. A replica that *applied 3* has applied the slots 0, 1 and 2.
pub type Slot = u8;

/// One of the two groups. Which of them gains and which loses is a matter of the operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    /// Owns the first position in the beginning.
    #[default]
    G,
    /// Owns the other two.
    S,
}

impl GroupId {
    /// Both.
    pub const BOTH: [GroupId; 2] = [GroupId::G, GroupId::S];

    /// The neighbour.
    #[must_use]
    pub const fn other(self) -> GroupId {
        match self {
            GroupId::G => GroupId::S,
            GroupId::S => GroupId::G,
        }
    }

    /// Its place in arrays.
    pub const fn index(self) -> usize {
        match self {
            GroupId::G => 0,
            GroupId::S => 1,
        }
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The loser loses all it has, and ends.
    #[default]
    Merge,
    /// The loser loses the position next to the boundary.
    Shift,
}

/// How an operation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// The positions have moved.
    Commit,
    /// Nothing has happened.
    #[default]
    Abort,
}

/// An operation's id: the coordinator, and the slot of its begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation {
    /// The group that gains.
    pub coordinator: GroupId,
    /// Where in its log the operation began.
    pub begin: Slot,
}

/// What a group was found to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seen {
    /// Its range version.
    pub version: u8,
    /// Its configuration's version.
    pub configuration: u8,
}

/// The begin of an operation: what it wants, and what it takes for granted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Begin {
    /// Merge or shift.
    pub kind: Kind,
    /// The positions that are to move.
    pub moves: Positions,
    /// What the coordinator is.
    pub own: Seen,
    /// What the loser answered when it was inspected.
    pub theirs: Seen,
    /// The count that the loser answered.
    pub count: u8,
}

/// What is decided for a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// Nothing yet.
    #[default]
    Empty,
    /// A client's write. It is refused at apply if the group does not own its position there, or has sealed it.
    Write(Data),
    /// The coordinator locks itself.
    Begin(Begin),
    /// The loser votes.
    Prepare(Operation),
    /// The coordinator decides; `seal` is the loser's slot that a commit names.
    Decide {
        /// Which operation, by its begin in this log.
        begin: Slot,
        /// How it ends.
        outcome: Outcome,
        /// The slot of the loser's yes-vote.
        seal: Slot,
    },
    /// The loser hears how it ended.
    Resolve {
        /// Which operation.
        operation: Operation,
        /// How it ended.
        outcome: Outcome,
    },
    /// The coordinator takes a decision from its outbox: it was acknowledged, or all have assembled.
    Close {
        /// Which operation, by its begin in this log.
        begin: Slot,
    },
    /// A change of members.
    Configuration(Members),
}

/// A group's log, as far as it is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    entries: [Entry; LOG],
    len: Slot,
}

// Most of the room is empty, and states are hashed all the time.
impl Hash for Log {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.from(0).hash(state);
    }
}

impl Log {
    /// How many slots are decided.
    pub const fn len(&self) -> Slot {
        self.len
    }

    /// Whether none is.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether there is no room for another.
    pub const fn is_full(&self) -> bool {
        self.len as usize == LOG
    }

    /// What is decided for the slot.
    pub fn at(&self, slot: Slot) -> Entry {
        self.entries.get(usize::from(slot)).copied().unwrap_or_default()
    }

    /// The entries from one slot on.
    pub fn from(&self, slot: Slot) -> &[Entry] {
        self.entries.get(usize::from(slot)..usize::from(self.len)).unwrap_or(&[])
    }

    /// Decides the next slot, if there is room.
    pub fn push(&mut self, entry: Entry) {
        if let Some(place) = self.entries.get_mut(usize::from(self.len)) {
            *place = entry;
            self.len += 1;
        }
    }

    /// The entries, to be changed in place (names of nodes).
    pub(crate) fn entries_mut(&mut self) -> &mut [Entry] {
        let len = usize::from(self.len);
        &mut self.entries[..len]
    }
}

/// Who leads a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Leader {
    /// On which node.
    pub node: u8,
    /// What it must have applied before it acts: all that was decided when it was elected.
    pub barrier: Slot,
}

/// What there is once of each group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Group {
    /// What is decided.
    pub log: Log,
    /// The members before any change.
    pub first_members: Members,
    /// Who leads.
    pub leader: Option<Leader>,
    /// Who led and does not know that it no longer does. It decides nothing, but answers.
    pub stale: Members,
}

/// Whether a node has a replica of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Presence {
    /// It never had one.
    #[default]
    Absent,
    /// It has one.
    Live,
    /// It has a tombstone: log and data are forgotten.
    Gone,
}

/// What the data store has of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Store {
    /// Up to which slot the entries are applied.
    pub applied: Slot,
    /// The data at positions of the group.
    pub data: Data,
    /// Data that moved away and that the neighbour's replica beside this one has not taken over yet.
    pub parted: Data,
}

/// One node's replica of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Replica {
    /// Whether there is one.
    pub presence: Presence,
    /// The log on disk holds the decided entries from here.
    pub start: Slot,
    /// The log on disk holds the decided entries up to here.
    pub has: Slot,
    /// The store as the process sees it.
    pub store: Store,
    /// The store as a crash leaves it.
    pub flushed: Store,
}

// All of it fits into one word, and one word is hashed much faster than its parts.
impl Hash for Replica {
    fn hash<H: Hasher>(&self, state: &mut H) {
        const SLOT: u32 = usize::BITS - LOG.leading_zeros();
        let slots = [self.start, self.has, self.store.applied, self.flushed.applied];
        let data = [self.store.data, self.store.parted, self.flushed.data, self.flushed.parted];
        let word = slots.iter().fold(self.presence as u64, |word, slot| word << SLOT | u64::from(*slot));
        state.write_u64(data.iter().fold(word, |word, data| word << 8 | u64::from(data.0)));
    }
}

impl Replica {
    /// Whether there is one.
    pub fn is_live(&self) -> bool {
        self.presence == Presence::Live
    }

    /// Whether its log holds the slot.
    pub const fn has_slot(&self, slot: Slot) -> bool {
        self.start <= slot && slot < self.has
    }
}

/// One node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    /// Its replicas of the two groups.
    pub replicas: [Replica; 2],
    /// It told the coordinator once that it has assembled. It may have crashed since. Of shifts it is kept only where somebody waits
    /// for it.
    pub told: bool,
}

/// What may still happen that need not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Budget {
    /// Orders to merge the other group into this one.
    pub merges: [u8; 2],
    /// Orders to take over the position next to the boundary.
    pub shifts: [u8; 2],
    /// Changes of members.
    pub changes: [u8; 2],
    /// Writes to the position next to the boundary, and to the last.
    pub writes: [u8; 2],
    /// Crashes of nodes.
    pub crashes: u8,
    /// Elections although there is a leader.
    pub elections: u8,
    /// Cuts of the logs of a node.
    pub cuts: u8,
    /// Outcomes that a loser logs again although it has logged them.
    pub repeats: u8,
}

/// A state of everything.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// The two groups.
    pub groups: [Group; 2],
    /// The nodes.
    pub nodes: [Node; NODES],
    /// What may still happen.
    pub budget: Budget,
}

impl State {
    /// A group.
    pub const fn group(&self, group: GroupId) -> &Group {
        &self.groups[group.index()]
    }

    /// A group, to be changed.
    pub const fn group_mut(&mut self, group: GroupId) -> &mut Group {
        &mut self.groups[group.index()]
    }

    /// A node's replica of a group.
    pub const fn replica(&self, group: GroupId, node: NodeIndex) -> &Replica {
        &self.nodes[node].replicas[group.index()]
    }

    /// A node's replica of a group, to be changed.
    pub const fn replica_mut(&mut self, group: GroupId, node: NodeIndex) -> &mut Replica {
        &mut self.nodes[node].replicas[group.index()]
    }

    /// The nodes that have a live replica of the group.
    pub fn live(&self, group: GroupId) -> impl Iterator<Item = NodeIndex> + '_ {
        (0..NODES).filter(move |node| self.replica(group, *node).is_live())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::trace::describe(self, f)
    }
}
