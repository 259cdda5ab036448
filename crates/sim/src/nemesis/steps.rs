//! Crashes and partitions placed at a step: a kind of step is drawn, and the next time that any group takes one of that kind,
//! whoever took it dies at that moment or is cut off, or its leader, or all its members, or those of the other group of the
//! operation.

use super::Undo;
use crate::history::Time;
use crate::invariants::voters;
use crate::network::Cut;
use crate::plan::{MICROSECOND, MILLISECOND, SECOND};
use crate::world::{Event, World};
use scatter_core::durable::Write;
use scatter_core::entry::EntryKind;
use scatter_core::input::Input;
use scatter_core::ops::Pending;
use scatter_core::stage::Done;
use scatter_core::types::GroupId;

/// A step that a host takes on a group's behalf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It proposes an entry of this kind: not even its own disk holds it yet.
    Proposed(EntryKind),
    /// It has accepted an entry of this kind, on disk.
    Accepted(EntryKind),
    /// It has applied one: its store may not hold that durably yet.
    Applied(EntryKind),
    /// A split gave birth to a machine there.
    Born,
    /// Its machine waits for what it is to take over.
    Stalled,
    /// Its machine was taken over by another one: it has assembled.
    Assembled,
    /// It buries a replica.
    Buried,
}

/// The kinds of entries that operations consist of.
const KINDS: [EntryKind; 8] = [
    EntryKind::Split,
    EntryKind::Begin,
    EntryKind::Prepare,
    EntryKind::Decide,
    EntryKind::Resolve,
    EntryKind::Settle,
    EntryKind::Configuration,
    EntryKind::Recover,
];

/// Whom it befalls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victims {
    /// Whoever took the step.
    Itself,
    /// The leader of the group, or of the other group of the operation.
    Leader {
        /// Whether it is the other group's.
        other: bool,
    },
    /// All members of the group, or of the other group.
    All {
        /// Whether they are the other group's.
        other: bool,
    },
}

/// What becomes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// They die, and come back.
    Dead,
    /// They and the others do not hear each other, for a while.
    Parted,
    /// They hear nobody else, for a while.
    Deaf,
    /// Nobody else hears them, for a while.
    Mute,
}

/// What becomes of whom at which step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blow {
    /// The step.
    pub step: Step,
    /// Whom it befalls.
    pub victims: Victims,
    /// What becomes of them.
    pub fate: Fate,
}

impl Blow {
    /// Each fate of each victim at each step.
    pub fn all() -> impl Iterator<Item = Self> {
        let ways = || Victims::ALL.into_iter().flat_map(|victims| Fate::ALL.map(|fate| (victims, fate)));
        Step::all().flat_map(move |step| ways().map(move |(victims, fate)| Self { step, victims, fate }))
    }
}

impl Fate {
    const ALL: [Self; 4] = [Self::Dead, Self::Parted, Self::Deaf, Self::Mute];
}

impl Step {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let entries =
            KINDS.into_iter().flat_map(|kind| [Self::Proposed(kind), Self::Accepted(kind), Self::Applied(kind)]);
        entries.chain([Self::Born, Self::Stalled, Self::Assembled, Self::Buried])
    }
}

impl Victims {
    const ALL: [Self; 5] = [
        Self::Itself,
        Self::Leader { other: false },
        Self::Leader { other: true },
        Self::All { other: false },
        Self::All { other: true },
    ];
}

/// What the nemesis waits for.
#[derive(Clone, Copy, Debug)]
pub struct Armed {
    blow: Blow,
    /// How long after the step.
    after: Time,
}

impl World {
    /// Draws the step to wait for.
    pub(super) fn arm(&mut self) {
        let random = &mut self.nemesis.random;
        let kind = *random.pick(&KINDS);
        let step = match random.below(13) {
            0..3 => Step::Proposed(kind),
            3..6 => Step::Accepted(kind),
            6..9 => Step::Applied(kind),
            9 => Step::Born,
            10 => Step::Stalled,
            11 => Step::Assembled,
            _ => Step::Buried,
        };
        let other = random.permille(300);
        let victims = match random.below(3) {
            0 => Victims::Itself,
            1 => Victims::Leader { other },
            _ => Victims::All { other },
        };
        let after = if random.permille(500) { 0 } else { random.spread(MICROSECOND, 100 * MILLISECOND) };
        let (further, random) = &mut self.nemesis.further;
        let fate = if !further.is_empty() && random.permille(500) { *random.pick(&Fate::ALL) } else { Fate::Dead };
        let armed = Armed { blow: Blow { step, victims, fate }, after };
        self.note([31, 0, 0], || format!("armed: {armed:?}"));
        self.nemesis.armed = Some(armed);
    }

    /// A host has taken a step of a group. Nothing happens before the event under way has ended.
    fn step_taken(&mut self, host: usize, group: GroupId, step: Step) {
        let Some(armed) = self.nemesis.armed.filter(|armed| armed.blow.step == step && !self.nemesis.stopped) else {
            return;
        };
        self.nemesis.armed = None;
        let victims = self.victims(host, group, armed.blow.victims);
        self.note([32, host as u64, group.0], || {
            format!("struck at {step:?} of group {group} on host {host}: {:?}, hosts {victims:?}", armed.blow)
        });
        self.at(self.now + armed.after, Event::Undo(Undo::Strike(victims, armed.blow)));
        if self.nemesis.random.permille(600) {
            self.arm();
        }
    }

    fn victims(&self, host: usize, group: GroupId, victims: Victims) -> Vec<usize> {
        let of = |other: bool| if other { self.other_group(group).unwrap_or(group) } else { group };
        match victims {
            Victims::Itself => vec![host],
            Victims::Leader { other } => {
                let group = of(other);
                (0..self.hosts.len()).filter(|host| self.leads(*host, group)).collect()
            }
            Victims::All { other } => {
                let all = self.observer.configuration(of(other)).map(voters).unwrap_or_default();
                all.iter().filter_map(|node| self.directory.get(node).copied()).collect()
            }
        }
    }

    /// The other group of the operation that a group is in.
    fn other_group(&self, group: GroupId) -> Option<GroupId> {
        let state = self.observer.newest(group)?;
        Some(match state.pending.as_ref() {
            Some(Pending::Gains { loser, .. }) => loser.group,
            Some(Pending::Loses { gainer, .. }) => gainer.group,
            None => state.links.successor.group,
        })
    }

    /// A host hands writes to its disk; `own` are those that it proposes itself.
    pub(crate) fn watch_proposals(&mut self, host: usize, writes: &[Write]) {
        let Some(own) = self.hosts[host].node_id().filter(|_| self.nemesis.armed.is_some()) else { return };
        for write in writes {
            match write {
                Write::Accept { group, ballot, entries, .. } if ballot.node == own => {
                    entries.iter().for_each(|entry| self.step_taken(host, *group, Step::Proposed(entry.kind)));
                }
                Write::Tombstone { replica, .. } => self.step_taken(host, replica.group, Step::Buried),
                _ => {}
            }
        }
    }

    /// A host's disk holds writes.
    pub(crate) fn watch_synced(&mut self, host: usize, writes: &[Write]) {
        for write in writes {
            if let Write::Accept { group, entries, .. } = write {
                entries.iter().for_each(|entry| self.step_taken(host, *group, Step::Accepted(entry.kind)));
            }
        }
    }

    /// A host's apply stage did something.
    pub(crate) fn watch_applied(&mut self, host: usize, done: &Done) {
        if self.nemesis.armed.is_none() {
            return;
        }
        for applied in &done.results {
            self.step_taken(host, applied.group, Step::Applied(applied.entry.kind));
        }
        for input in &done.inputs {
            match input {
                Input::Born { child, .. } => self.step_taken(host, child.group, Step::Born),
                Input::Stalled { group, .. } => self.step_taken(host, *group, Step::Stalled),
                Input::Merged { into, .. } => self.step_taken(host, *into, Step::Assembled),
                _ => {}
            }
        }
    }

    /// What was to become of them does.
    pub(super) fn strike(&mut self, victims: &[usize], blow: Blow) {
        let lives = victims.iter().any(|host| self.hosts[*host].process.is_some());
        if lives && !self.nemesis.struck.contains(&blow) {
            self.nemesis.struck.push(blow);
        }
        if blow.fate == Fate::Dead {
            victims.iter().for_each(|host| self.crash_and_start(*host));
            return;
        }
        let others: Vec<usize> = (0..self.hosts.len()).filter(|host| !victims.contains(host)).collect();
        let pairs = || victims.iter().flat_map(|victim| others.iter().map(move |other| (*victim, *other)));
        let hear = pairs().filter(|_| blow.fate != Fate::Mute).map(|(victim, other)| (other, victim));
        let speak = pairs().filter(|_| blow.fate != Fate::Deaf);
        let links: Vec<(usize, usize)> = hear.chain(speak).collect();
        for (from, to) in &links {
            self.network.cut(*from, *to, Cut::Drop);
        }
        let end = self.now + self.nemesis.further.1.spread(50 * MILLISECOND, 6 * SECOND);
        self.at(end, Event::Undo(Undo::Mend(links, Cut::Drop)));
    }
}
