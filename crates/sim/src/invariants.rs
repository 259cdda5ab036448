//! What must always hold, checked after every step. `docs/invariants.md` tells each in words; the numbers are the same.

use crate::disk::Log;
use crate::history::Time;
use crate::plan::SECOND;
use scatter_core::codec::{Decode, Encode};
use scatter_core::command::{Command, Outcome};
use scatter_core::durable::{Binding, Write};
use scatter_core::entry::{Entry, EntryKind};
use scatter_core::group::{Configuration, GroupState, Role};
use scatter_core::message::{Envelope, Message};
use scatter_core::ops::{Obligation, Pending};
use scatter_core::ring::{KeyRange, Position};
use scatter_core::time::LogTime;
use scatter_core::types::{Ballot, ClusterId, GroupId, NodeId, ReplicaName, SessionId, Slot, Version};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::xxh3_64;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invariant I{number}: {text}")]
pub struct Broken {
    /// Which, as `docs/invariants.md` counts them.
    pub number: u32,
    /// What was seen.
    pub text: String,
}

/// What was seen, or nothing.
pub type Checked = Result<(), Broken>;

/// Fails invariant `number` with a text unless `holds`.
///
/// # Errors
/// If it does not hold.
pub fn require(number: u32, holds: bool, text: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(Broken { number, text: text() }) }
}

/// What is known of one slot of one group.
#[derive(Clone, Debug, Default)]
struct SlotRecord {
    /// The digest of the decided entry, once anybody revealed it; never 0 then.
    decided: u64,
    /// Its kind tells whether two majorities are needed.
    fingerprint: u64,
    /// Who accepted what in which ballot, on disk. Dropped once the slot is revealed.
    accepted: Vec<(ReplicaName, Ballot, u64)>,
}

/// What is known of one group.
#[derive(Debug, Default)]
struct GroupRecord {
    slots: Vec<SlotRecord>,
    /// Each configuration with the slot that decided it, rising.
    configurations: Vec<(Slot, Configuration)>,
    /// The last slot whose outcomes were looked at.
    judged: Slot,
    /// The highest version given so far.
    stamp: Version,
    /// When the group's clock was first seen, and what it showed.
    clock: Option<(Time, LogTime)>,
    /// The last slot whose write was acknowledged, and when each that was the last became so.
    acknowledged: Slot,
    acknowledgements: Vec<(Time, Slot)>,
    /// Names that live no more.
    tombstoned: BTreeSet<ReplicaName>,
    /// The last configuration that was proposed in each ballot.
    proposed: BTreeMap<Ballot, Slot>,
    /// Ballots that somebody has begun to lead.
    led: BTreeSet<Ballot>,
    /// The state at the last slot that anybody has applied.
    state: Option<GroupState>,
    /// What its range was, and what of it was sealed, each from when on.
    shapes: Vec<(Time, KeyRange, Option<KeyRange>)>,
    /// The group was merged into another.
    ended: bool,
    /// The voters that are left, once it has lost its majority for good.
    survivors: Vec<NodeId>,
}

impl GroupRecord {
    fn slot(&mut self, slot: Slot) -> &mut SlotRecord {
        let index = slot.0 as usize;
        if self.slots.len() <= index {
            self.slots.resize(index + 1, SlotRecord::default());
        }
        &mut self.slots[index]
    }

    /// The configuration that decides `slot`.
    fn configuration_for(&self, slot: Slot) -> Option<&Configuration> {
        self.configurations.iter().rev().find(|(at, _)| *at < slot).map(|(_, configuration)| configuration)
    }
}

/// Watches all hosts at once, as nobody inside the system can.
#[derive(Debug, Default)]
pub struct Observer {
    groups: BTreeMap<GroupId, GroupRecord>,
    /// What became of each lane's operations, in whichever group.
    lanes: BTreeMap<(SessionId, u32, u64), Outcome>,
    /// Nodes whose disk was wiped, rolled back or cloned: what they held is not counted on, and not missed.
    condemned: BTreeSet<NodeId>,
    /// The cluster that was founded.
    cluster: Option<ClusterId>,
    /// What each founder is bound to.
    bindings: BTreeMap<NodeId, Binding>,
    /// Some group's range or lock has changed since the ring was looked at.
    reshaped: bool,
}

fn digest(entry: &Entry) -> u64 {
    xxh3_64(&entry.to_bytes()) | 1
}

impl Observer {
    fn group(&mut self, group: GroupId) -> &mut GroupRecord {
        self.groups.entry(group).or_default()
    }

    /// I18: a host belongs to a cluster.
    ///
    /// # Errors
    /// Another host belongs to another one.
    pub fn cluster(&mut self, host: usize, cluster: ClusterId) -> Checked {
        let first = *self.cluster.get_or_insert(cluster);
        require(18, first == cluster, || format!("host {host} belongs to cluster {cluster}, others to {first}"))
    }

    /// I18: a founder's record is on disk.
    ///
    /// # Errors
    /// It was bound to something else before.
    pub fn binds(&mut self, writes: &[Write]) -> Checked {
        for write in writes {
            if let Write::Node { record } = write
                && let Some(binding) = record.binding.as_ref().filter(|_| !self.condemned.contains(&record.node))
            {
                let first = self.bindings.entry(record.node).or_insert_with(|| binding.clone());
                require(18, first == binding, || {
                    format!("founder {} was bound to {first:?} and is now to {binding:?}", record.node)
                })?;
            }
        }
        Ok(())
    }

    /// A node's disk was tampered with.
    pub fn condemn(&mut self, node: NodeId) {
        self.condemned.insert(node);
    }

    /// The configurations a group has had, each with its slot.
    #[must_use]
    pub fn configurations(&self, group: GroupId) -> &[(Slot, Configuration)] {
        self.groups.get(&group).map_or(&[], |record| &record.configurations)
    }

    /// The newest configuration known decided.
    #[must_use]
    pub fn configuration(&self, group: GroupId) -> Option<&Configuration> {
        self.configurations(group).last().map(|(_, configuration)| configuration)
    }

    /// A machine came to be, by birth or by snapshot, or was read back after a restart.
    ///
    /// # Errors
    /// I7: its fingerprint differs from another replica's at the same slot.
    pub fn machine(&mut self, host: usize, state: &GroupState, fingerprint: u64, now: Time) -> Checked {
        let group = state.group;
        let record = self.group(group);
        if record.configurations.is_empty() {
            record.configurations.push((state.applied, state.configuration.clone()));
            record.judged = state.applied;
            record.stamp = state.stamp;
        }
        self.fingerprint(host, group, state.applied, fingerprint)?;
        self.state(state, now)
    }

    /// I7: replicas hold the same at the same slot.
    ///
    /// # Errors
    /// They do not.
    pub fn fingerprint(&mut self, host: usize, group: GroupId, slot: Slot, fingerprint: u64) -> Checked {
        let known = &mut self.group(group).slot(slot).fingerprint;
        if *known == 0 {
            *known = fingerprint;
        }
        require(7, *known == fingerprint, || {
            format!("host {host} holds something else than others at slot {slot} of group {group}")
        })
    }

    /// I15, I38, I39: what a group state says of itself, and beside the one before.
    ///
    /// # Errors
    /// It does not hold.
    pub fn state(&mut self, state: &GroupState, now: Time) -> Checked {
        self.check_held_still(state)?;
        self.check_versions(state)?;
        self.keep(state, now);
        let record = self.group(state.group);
        let (since, shown) = *record.clock.get_or_insert((now, state.log_time));
        let elapsed_micros = (now - since) / 1_000;
        let most = shown.0 + elapsed_micros * 3 / 2 + 2 * (SECOND / 1_000);
        require(15, state.log_time.0 <= most, || {
            format!("the clock of group {} ran {} us in {elapsed_micros} us", state.group, state.log_time.0 - shown.0)
        })
    }

    /// I38: whoever was a member when an operation took hold of a group is one until it is over, but for a recovery.
    fn check_held_still(&self, state: &GroupState) -> Checked {
        let Some(record) = self.groups.get(&state.group).filter(|record| record.survivors.is_empty()) else {
            return Ok(());
        };
        let Some(known) = &record.state else { return Ok(()) };
        let held = state.pending.as_ref().filter(|pending| known.pending.as_ref() == Some(pending));
        require(38, held.is_none() || known.configuration == state.configuration, || {
            let changed = (&known.configuration, &state.configuration);
            format!("the members of group {} changed during an operation: {changed:?}, {held:?}", state.group)
        })
    }

    /// I39: what numbers the changes of a group never falls.
    fn check_versions(&self, state: &GroupState) -> Checked {
        let Some(known) = self.newest(state.group).filter(|known| known.applied < state.applied) else { return Ok(()) };
        let numbers = |state: &GroupState| {
            (state.configuration.version, state.range_version, state.links.version, state.operations)
        };
        let (before, after) = (numbers(known), numbers(state));
        let risen = before.0 <= after.0 && before.1 <= after.1 && before.2 <= after.2 && before.3 <= after.3;
        require(39, risen, || format!("versions of group {} fell from {before:?} to {after:?}", state.group))
    }

    /// Keeps the newest state of a group.
    fn keep(&mut self, state: &GroupState, now: Time) {
        let record = self.groups.entry(state.group).or_default();
        let newer = record.state.as_ref().is_none_or(|known| known.applied < state.applied);
        if !newer {
            return;
        }
        let shape = |state: &GroupState| (state.range_version, state.pending.clone());
        if record.state.as_ref().map(shape) != Some(shape(state)) {
            self.reshaped = true;
            let sealed = state.pending.as_ref().and_then(Pending::sealed).cloned();
            record.shapes.push((now, state.range.clone(), sealed));
        }
        record.state = Some(state.clone());
        for obligation in &state.outbox {
            if let Obligation::Bury { loser, .. } = obligation {
                self.group(*loser).ended = true;
            }
        }
    }

    /// A group has lost its majority for good: these voters are left.
    pub fn loses(&mut self, group: GroupId, survivors: &[NodeId]) {
        self.group(group).survivors = survivors.to_vec();
    }

    /// The last slot that anybody took for decided.
    #[must_use]
    pub fn last_decided(&self, group: GroupId) -> Slot {
        let slots = self.groups.get(&group).map(|record| &record.slots);
        let last = slots.and_then(|slots| slots.iter().rposition(|slot| slot.decided != 0));
        Slot(last.map_or(0, |last| last as u64))
    }

    /// Whether those who are left of a group that has lost its majority are all among `counted`.
    #[must_use]
    pub fn is_left_to(&self, group: GroupId, counted: impl Fn(NodeId) -> bool) -> bool {
        let survivors = self.groups.get(&group).map(|record| &record.survivors);
        survivors.is_some_and(|survivors| !survivors.is_empty() && survivors.iter().all(|node| counted(*node)))
    }

    /// The groups there are.
    #[must_use]
    pub fn living(&self) -> Vec<GroupId> {
        let living = self.groups.iter().filter(|(_, record)| record.state.is_some() && !record.ended);
        living.map(|(group, _)| *group).collect()
    }

    /// The newest state of a group that anybody has applied.
    #[must_use]
    pub fn newest(&self, group: GroupId) -> Option<&GroupState> {
        self.groups.get(&group)?.state.as_ref()
    }

    /// How a group lies on the ring, for people.
    #[must_use]
    pub fn describe(&self, group: GroupId) -> String {
        let Some(state) = self.newest(group) else { return String::new() };
        let (before, after) = (&state.links.predecessor, &state.links.successor);
        format!(
            "    {group}: range {:?} version {} applied {} links {} v{} {:?}, {} v{} {:?} pending {:?} outbox {:?}",
            state.range,
            state.range_version,
            state.applied,
            before.group,
            before.range_version,
            before.range,
            after.group,
            after.range_version,
            after.range,
            state.pending,
            state.outbox,
        )
    }

    /// I16: every position has one owner, or is sealed by one.
    ///
    /// # Errors
    /// It is not so.
    pub fn ring_is_whole(&mut self) -> Checked {
        if !std::mem::take(&mut self.reshaped) {
            return Ok(());
        }
        let living = self.groups.values().filter(|record| !record.ended).filter_map(|record| record.state.as_ref());
        let living: Vec<&GroupState> = living.collect();
        for edge in living.iter().flat_map(|state| [&state.range.start, &state.range.end]) {
            let sealed = |state: &GroupState| {
                let sealed = state.pending.as_ref().and_then(Pending::sealed);
                sealed.is_some_and(|sealed| sealed.contains(edge))
            };
            let mut claims: Vec<&&GroupState> = living.iter().filter(|state| state.range.contains(edge)).collect();
            claims.sort_by_key(|state| std::cmp::Reverse(state.range_version));
            // A loser that has not heard of the commit yet keeps its claim, sealed; those that took over have later ones.
            let latest = claims.len() < 2 || claims[0].range_version > claims[1].range_version;
            let whole = !claims.is_empty() && latest && claims.iter().skip(1).all(|state| sealed(state));
            require(16, whole, || {
                let names: Vec<String> = living.iter().map(|state| self.describe(state.group)).collect();
                format!("position {edge} is claimed by {} groups:\n{}", claims.len(), names.join("\n"))
            })?;
        }
        Ok(())
    }

    /// I32: a host answers, other than by a refusal, what a client asked it of a position of a group at `since`.
    ///
    /// # Errors
    /// All the time since then somebody knew that the group had sealed the position, or let go of it.
    pub fn answers(&self, host: usize, group: GroupId, position: &Position, since: Time) -> Checked {
        let Some(record) = self.groups.get(&group) else { return Ok(()) };
        // The one that was in force when it was asked, and all after it.
        let first = record.shapes.partition_point(|(from, ..)| *from < since).saturating_sub(1);
        let serves = |(_, range, sealed): &(Time, KeyRange, Option<KeyRange>)| {
            range.contains(position) && !sealed.as_ref().is_some_and(|sealed| sealed.contains(position))
        };
        let shapes = &record.shapes[first..];
        require(32, shapes.is_empty() || shapes.iter().any(serves), || {
            format!(
                "host {host} answers for {position}, which group {group} did not serve since {since} ns: {shapes:?}"
            )
        })
    }

    /// The disk of `node` holds these records.
    pub fn synced(&mut self, log: &Log, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Accept { group, ballot, first, entries } => {
                    let Some(name) = log.replicas.get(group).map(|replica| replica.replica) else { continue };
                    let record = self.group(*group);
                    for (slot, entry) in (first.0..).zip(entries) {
                        let slot = record.slot(Slot(slot));
                        if slot.decided == 0 {
                            slot.accepted.push((name, *ballot, digest(entry)));
                        }
                    }
                }
                Write::Tombstone { replica, .. } => {
                    self.group(replica.group).tombstoned.insert(*replica);
                }
                Write::Node { .. }
                | Write::Peer { .. }
                | Write::Create { .. }
                | Write::Hard { .. }
                | Write::Truncate { .. } => {}
            }
        }
    }

    /// A host takes `slot` for decided with this entry.
    ///
    /// # Errors
    /// I1: another entry was decided there. I2: no majority has accepted it in one ballot. I11: configurations do not
    /// follow each other.
    pub fn revealed(&mut self, host: usize, group: GroupId, slot: Slot, entry: &Entry) -> Checked {
        let record = self.group(group);
        let found = digest(entry);
        let known = record.slot(slot).decided;
        if known != 0 {
            return require(1, known == found, || {
                format!("host {host} decided {entry:?} at slot {slot} of group {group}, another host something else")
            });
        }
        let accepted = std::mem::take(&mut record.slot(slot).accepted);
        record.slot(slot).decided = found;
        let next = if entry.kind == EntryKind::Configuration {
            Configuration::from_all(entry.body.clone()).ok()
        } else {
            None
        };
        let sets: Vec<&Configuration> = record.configuration_for(slot).into_iter().chain(&next).collect();
        let ballots: BTreeSet<Ballot> = accepted.iter().map(|(_, ballot, _)| *ballot).collect();
        let chosen = ballots.iter().any(|ballot| {
            sets.iter().all(|set| {
                let votes = set.voters().filter(|member| {
                    accepted.iter().any(|(name, in_ballot, what)| {
                        in_ballot == ballot
                            && *what == found
                            && name.node == member.node
                            && name.incarnation == member.incarnation
                    })
                });
                votes.count() >= set.majority()
            })
        });
        let survivors = &record.survivors;
        let left = !survivors.is_empty()
            && ballots.iter().any(|ballot| {
                survivors.iter().all(|node| {
                    let mut votes = accepted.iter();
                    votes.any(|(name, in_ballot, what)| in_ballot == ballot && *what == found && name.node == *node)
                })
            });
        require(2, chosen || left, || {
            format!("host {host} takes slot {slot} of group {group} for decided; on disk: {accepted:?}, sets: {sets:?}")
        })?;
        if let Some(next) = next {
            let last = record.configurations.last().map(|(_, last)| last.version).unwrap_or_default();
            require(11, next.version == last.next(), || format!("configuration {} follows {last}", next.version))?;
            record.configurations.push((slot, next));
        }
        Ok(())
    }

    /// Whether a node's disk was tampered with.
    #[must_use]
    pub fn is_condemned(&self, node: NodeId) -> bool {
        self.condemned.contains(&node)
    }

    /// A leader makes the first entry of its ballot: the configuration that had to elect it. `None` if it has begun before.
    pub fn begins(&mut self, group: GroupId, ballot: Ballot, first: Slot) -> Option<Configuration> {
        let record = self.group(group);
        if !record.led.insert(ballot) {
            return None;
        }
        record.configuration_for(first).cloned()
    }

    /// I26: the leader of `ballot` makes entries of its own.
    ///
    /// # Errors
    /// One of them stands behind a configuration that is not decided.
    pub fn proposes(&mut self, host: usize, group: GroupId, ballot: Ballot, first: Slot, entries: &[Entry]) -> Checked {
        let record = self.group(group);
        for (slot, entry) in (first.0..).map(Slot).zip(entries) {
            if let Some(before) = record.proposed.get(&ballot).copied().filter(|before| *before < slot) {
                let decided = record.slot(before).decided != 0;
                require(26, decided, || {
                    format!("host {host} proposes slot {slot} of group {group} past the configuration at {before}")
                })?;
            }
            if entry.kind == EntryKind::Configuration {
                record.proposed.insert(ballot, slot);
            }
        }
        Ok(())
    }

    /// I1: a disk is taken to hold this entry as the decided one.
    ///
    /// # Errors
    /// Another one was decided.
    pub fn holds_decided(&self, host: usize, group: GroupId, slot: Slot, entry: &Entry) -> Checked {
        let known = self.groups.get(&group).and_then(|record| record.slots.get(slot.0 as usize));
        let decided = known.map_or(0, |record| record.decided);
        require(1, decided == 0 || decided == digest(entry), || {
            format!("the log of host {host} passes {entry:?} for what was decided at slot {slot} of group {group}")
        })
    }

    /// A host applied `entry` with these outcomes. Whether it is the first to do so.
    ///
    /// # Errors
    /// I8: versions do not rise. I10: a request was applied twice.
    pub fn applied(&mut self, group: GroupId, slot: Slot, entry: &Entry, outcomes: &[Outcome]) -> Result<bool, Broken> {
        let record = self.groups.entry(group).or_default();
        if slot <= record.judged || entry.kind != EntryKind::Commands {
            record.judged = record.judged.max(slot);
            return Ok(false);
        }
        record.judged = slot;
        let Ok(commands) = Vec::<bytes::Bytes>::from_all(entry.body.clone()) else { return Ok(false) };
        for (command, outcome) in commands.into_iter().zip(outcomes) {
            let Ok(command) = Command::from_all(command) else { continue };
            if let (Some(lane), true) = (&command.lane, is_recorded(outcome)) {
                let known =
                    self.lanes.entry((lane.session, lane.lane, lane.sequence)).or_insert_with(|| outcome.clone());
                require(10, known == outcome, || {
                    format!("slot {slot} of group {group}: {command:?} was {known:?} before, now {outcome:?}")
                })?;
            }
            for version in versions(outcome) {
                // A repeat hears what its operation heard first.
                let repeat = version <= record.stamp && (command.lane.is_some() || command.idempotency.is_some());
                require(8, version > record.stamp || repeat, || {
                    format!("slot {slot} of group {group} gave version {version} after {}", record.stamp)
                })?;
                record.stamp = record.stamp.max(version);
            }
        }
        Ok(true)
    }

    /// I9: everything acknowledged lies on a majority of those who are members now. `held` tells whether a node's disk
    /// holds a slot.
    ///
    /// # Errors
    /// It does not.
    pub fn acknowledged(
        &mut self,
        group: GroupId,
        slot: Slot,
        now: Time,
        held: &dyn Fn(ReplicaName, Slot) -> bool,
    ) -> Checked {
        let record = self.groups.entry(group).or_default();
        if slot > record.acknowledged {
            record.acknowledged = slot;
            record.acknowledgements.push((now, slot));
        }
        if record.ended {
            // Its positions are another group's, and what was acknowledged shows in the end.
            return Ok(());
        }
        let slot = record.acknowledged;
        let Some((_, configuration)) = record.configurations.last() else { return Ok(()) };
        let holders = configuration
            .voters()
            .filter(|member| {
                let name = ReplicaName { group, node: member.node, incarnation: member.incarnation };
                self.condemned.contains(&member.node) || held(name, slot)
            })
            .count();
        require(9, holders >= configuration.majority(), || {
            format!("slot {slot} of group {group} was acknowledged and lies on {holders} of {configuration:?}")
        })
    }

    /// I23: a view with everything up to `applied` is said to hold all that was acknowledged before `since`.
    ///
    /// # Errors
    /// It does not.
    pub fn fresh(&self, group: GroupId, applied: Slot, since: Time) -> Checked {
        let Some(record) = self.groups.get(&group) else { return Ok(()) };
        let before = record.acknowledgements.partition_point(|(at, _)| *at < since);
        let newest = before.checked_sub(1).map_or(Slot(0), |index| record.acknowledgements[index].1);
        require(23, applied >= newest, || {
            format!(
                "a view of group {group} at slot {applied} passes for newer than slot {newest}, acknowledged before"
            )
        })
    }

    /// A host is about to send a message between replicas; its data store holds `flushed` durably.
    ///
    /// # Errors
    /// I4: it tells of what the disk does not hold. I13: the sender is tombstoned.
    pub fn sends(&self, log: &Log, flushed: Slot, envelope: &Envelope) -> Checked {
        let name = envelope.from;
        let dead = log
            .tombstones
            .iter()
            .map(|tombstone| tombstone.replica)
            .any(|dead| dead.group == name.group && dead.node == name.node && dead.incarnation >= name.incarnation);
        let replica = log.replicas.get(&name.group).filter(|replica| replica.replica == name);
        let promised = replica.map(|replica| replica.hard.promised).unwrap_or_default();
        let needs = match &envelope.message {
            Message::Promise { ballot, .. } | Message::Accepted { ballot, .. } => Some(*ballot),
            Message::Prepare { ballot, .. } | Message::Accept { ballot, .. } => Some(*ballot),
            Message::PreVote { .. }
            | Message::PreVoted { .. }
            | Message::Refuse { .. }
            | Message::CatchUp { .. }
            | Message::Decided { .. }
            | Message::Truncated { .. }
            | Message::SnapshotPull { .. }
            | Message::SnapshotChunk { .. }
            | Message::HandOver { .. }
            | Message::AskMembership { .. }
            | Message::Membership { .. }
            | Message::Merged { .. } => None,
        };
        let Some(ballot) = needs else { return Ok(()) };
        require(13, !dead, || format!("{name} votes after its tombstone: {:?}", envelope.message))?;
        require(4, promised >= ballot, || {
            format!("{name} speaks in ballot {ballot} while its disk says {promised}: {:?}", envelope.message)
        })?;
        if let Message::Accepted { lease_nanos, .. } = &envelope.message {
            Self::grants(log, *lease_nanos)?;
        }
        if let (Message::Accepted { through, .. }, Some(replica)) = (&envelope.message, replica) {
            // Below that the data store holds what was decided, and the log may have a gap.
            let floor = replica.truncated.max(flushed);
            let count = replica.entries.range(floor.next()..).take_while(|(slot, _)| *slot <= through).count();
            let held = floor.0 + count as u64 >= through.0;
            require(4, held, || format!("{name} acknowledges slot {through}, which its disk does not hold"))?;
        }
        Ok(())
    }

    /// I4: a lease is told of only when the disk knows for how long a restart must wait.
    pub fn grants(log: &Log, lease_nanos: u64) -> Checked {
        let known = log.node.as_ref().map_or(0, |record| record.longest_lease_nanos);
        require(4, lease_nanos <= known, || {
            format!("a lease of {lease_nanos} ns is granted, the disk knows of {known}")
        })
    }
}

/// Whether the outcome was recorded in the lane.
#[must_use]
pub fn is_recorded(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Written { .. }
        | Outcome::Deleted { .. }
        | Outcome::NotFound
        | Outcome::BatchWritten { .. }
        | Outcome::ConditionFailed { .. }
        | Outcome::IdempotencyMismatch => true,
        Outcome::Unknown
        | Outcome::Forgotten { .. }
        | Outcome::StampAhead { .. }
        | Outcome::NotOwner
        | Outcome::Malformed => false,
    }
}

fn versions(outcome: &Outcome) -> Vec<Version> {
    match outcome {
        Outcome::Written { version, .. } | Outcome::Deleted { version } => vec![*version],
        Outcome::BatchWritten { versions } => versions.clone(),
        Outcome::NotFound
        | Outcome::ConditionFailed { .. }
        | Outcome::IdempotencyMismatch
        | Outcome::Unknown
        | Outcome::Forgotten { .. }
        | Outcome::StampAhead { .. }
        | Outcome::NotOwner
        | Outcome::Malformed => Vec::new(),
    }
}

/// Whether a live replica's disk holds `slot`: in its log, or in a data store that holds `flushed` durably.
#[must_use]
pub fn holds(log: &Log, flushed: Slot, name: ReplicaName, slot: Slot) -> bool {
    log.replicas
        .get(&name.group)
        .filter(|replica| replica.replica == name)
        .is_some_and(|replica| slot <= replica.truncated.max(flushed) || replica.entries.contains_key(&slot))
}

/// The nodes of a configuration that vote.
#[must_use]
pub fn voters(configuration: &Configuration) -> Vec<NodeId> {
    configuration.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.node).collect()
}
