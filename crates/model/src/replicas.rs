//! What a single node can do with its two replicas: catch up, apply, assemble, take a snapshot, flush, crash, forget.
//!
//! These steps need the ledger and the nodes alone, so [recovery](crate::recovery) can take them with a part of the nodes.

use crate::ledger::{Commit, Ledger, Lock};
use crate::mistake::Mistake;
use crate::sets::{Data, Members, NODES, NodeIndex};
use crate::state::{Entry, GroupId, Kind, Node, Outcome, Presence, Replica, Slot, Store};

/// All nodes.
pub type Nodes = [Node; NODES];

/// A node's replica of a group.
pub const fn replica(nodes: &Nodes, group: GroupId, node: NodeIndex) -> &Replica {
    &nodes[node].replicas[group.index()]
}

const fn replica_mut(nodes: &mut Nodes, group: GroupId, node: NodeIndex) -> &mut Replica {
    &mut nodes[node].replicas[group.index()]
}

impl Ledger {
    /// Whether the node's replica of the group has taken over all that the group ever gained.
    pub fn has_assembled(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        let gained = self.commits(group).next_back();
        gained.is_none_or(|commit| replica(nodes, group, node).store.applied > commit.decided)
    }

    /// Whether a replica of the gainer on this node has yet to take over what the commit moved.
    pub fn awaits(&self, nodes: &Nodes, node: NodeIndex, commit: &Commit) -> bool {
        let gainer = replica(nodes, commit.operation.coordinator, node);
        gainer.is_live() && gainer.store.applied <= commit.decided
    }

    /// Whether the node's replica of the group has ended: the group was merged away, and the gainer's replica beside it has
    /// assembled, or has left. It votes no more, but keeps its log.
    pub fn has_ended(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        self.ended(group).is_some_and(|commit| {
            let gainer = replica(nodes, group.other(), node);
            gainer.presence == Presence::Gone || (gainer.is_live() && gainer.store.applied > commit.decided)
        })
    }

    /// What the loser's replica on this node holds of what moved, once it has applied the seal.
    pub fn part_beside(&self, nodes: &Nodes, node: NodeIndex, commit: &Commit) -> Option<Data> {
        let loser = commit.operation.coordinator.other();
        let beside = replica(nodes, loser, node);
        let moves = commit.begin.moves;
        if !beside.is_live() {
            return None;
        }
        let store = beside.store;
        if self.makes(Mistake::CommitWithoutTail) {
            return Some(store.data.and(store.parted).at(moves));
        }
        let lock = self.machine(loser, store.applied).lock;
        if store.applied > commit.seal && lock == Some(Lock::Participates(commit.operation, commit.seal)) {
            // A snapshot may have left out what is sealed.
            return store.data.holds(moves.first_data()).then(|| store.data.at(moves));
        }
        let parted = store.parted.at(moves);
        (store.applied > commit.seal && parted.holds(moves.first_data())).then_some(parted)
    }

    /// The commit at which the replica's machine stands still, because the replica beside it has not got to the seal.
    pub fn stands_at(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> Option<Commit> {
        let own = replica(nodes, group, node);
        let commit = self.commit_at(group, own.store.applied)?;
        let next = own.is_live() && own.store.applied < own.has;
        (next && self.part_beside(nodes, node, &commit).is_none()).then_some(commit)
    }

    /// Whether the replica can apply its next slot.
    pub fn can_apply(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        let own = replica(nodes, group, node);
        own.is_live()
            && own.store.applied < own.has
            && self.stands_at(nodes, group, node).is_none()
            && !self.has_ended(nodes, group, node)
    }

    /// Lets a replica that does not lead have and apply what makes no difference to it or to those who look at it.
    pub fn pass_inert(&self, nodes: &mut Nodes, group: GroupId, node: NodeIndex) {
        loop {
            let own = replica(nodes, group, node);
            let (has, applied) = (own.has, own.store.applied);
            if self.can_apply(nodes, group, node) && self.is_inert(group, applied) {
                self.apply_next(nodes, group, node);
            } else if self.is_inert(group, has) && self.catch_up_to(nodes, group, node) > has {
                replica_mut(nodes, group, node).has = has + 1;
            } else {
                return;
            }
        }
    }

    /// Whether the entry changes neither data, nor members, nor what is sealed.
    fn is_inert(&self, group: GroupId, slot: Slot) -> bool {
        let (before, after) = (self.machine(group, slot), self.machine(group, (slot + 1).min(self.len(group))));
        match self.entry(group, slot) {
            Entry::Empty | Entry::Write(_) | Entry::Configuration(_) => false,
            Entry::Begin(_) | Entry::Close { .. } => true,
            Entry::Prepare(_) => before.lock == after.lock,
            Entry::Decide { .. } | Entry::Resolve { .. } => before.range == after.range,
        }
    }

    /// Fills the replica's log, and applies all that it can.
    pub fn advance(&self, nodes: &mut Nodes, group: GroupId, node: NodeIndex) {
        self.catch_up(nodes, group, node);
        while self.can_apply(nodes, group, node) {
            self.apply_next(nodes, group, node);
        }
    }

    /// Applies the replica's next slot.
    pub fn apply_next(&self, nodes: &mut Nodes, group: GroupId, node: NodeIndex) {
        let slot = replica(nodes, group, node).store.applied;
        let commit = self.commit_at(group, slot);
        let part = commit.and_then(|commit| self.part_beside(nodes, node, &commit));
        let before = self.machine(group, slot);
        let lost = match self.entry(group, slot) {
            Entry::Resolve { operation, outcome: Outcome::Commit } => {
                self.commits(group.other()).find(|commit| commit.operation == operation)
            }
            _ => None,
        };
        let lost = lost.filter(|commit| before.lock == Some(Lock::Participates(commit.operation, commit.seal)));
        let kept = lost.is_some_and(|commit| self.awaits(nodes, node, &commit));
        let store = &mut replica_mut(nodes, group, node).store;
        store.applied = slot + 1;
        if let Entry::Write(write) = self.entry(group, slot)
            && before.answers(write.position())
        {
            store.data = store.data.and(write);
        }
        if let Some(lost) = lost {
            let moved = store.data.at(lost.begin.moves);
            store.data = store.data.outside(lost.begin.moves);
            if kept {
                store.parted = store.parted.outside(lost.begin.moves).and(moved);
            }
        }
        if let (Some(commit), Some(part)) = (commit, part) {
            store.data = store.data.and(part);
            self.take_over(nodes, node, &commit);
        }
    }

    /// What the takeover does to the loser's replica on this node, in the same batch.
    fn take_over(&self, nodes: &mut Nodes, node: NodeIndex, commit: &Commit) {
        let beside = &mut replica_mut(nodes, commit.operation.coordinator.other(), node).store;
        beside.parted = beside.parted.outside(commit.begin.moves);
        if commit.begin.kind == Kind::Merge {
            beside.data = Data::NONE;
        }
        if commit.begin.kind == Kind::Merge || self.rules.waits {
            nodes[node].told = true;
        }
    }

    /// Up to which slot the replica's log could be filled from the others' logs.
    pub fn catch_up_to(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> Slot {
        let own = replica(nodes, group, node);
        if !own.is_live() || self.was_removed(group, node) || self.has_ended(nodes, group, node) {
            return own.has;
        }
        let sources = (0..NODES).map(|source| replica(nodes, group, source));
        sources.filter(|source| source.is_live() && source.has_slot(own.has)).map(|s| s.has).max().unwrap_or(own.has)
    }

    /// Fills the replica's log from the others' logs.
    pub fn catch_up(&self, nodes: &mut Nodes, group: GroupId, node: NodeIndex) {
        let upto = self.catch_up_to(nodes, group, node);
        replica_mut(nodes, group, node).has = upto;
    }

    /// Whether the node was a member of the group and is one no longer.
    pub fn was_removed(&self, group: GroupId, node: NodeIndex) -> bool {
        let members = |upto| self.machine(group, upto).members;
        !self.decided(group).members.contains(node) && (0..=self.len(group)).any(|upto| members(upto).contains(node))
    }

    /// Whether the replica would take that other replica's snapshot.
    pub fn can_take_snapshot(&self, nodes: &Nodes, group: GroupId, node: NodeIndex, from: NodeIndex) -> bool {
        let (own, source) = (replica(nodes, group, node), replica(nodes, group, from));
        if !own.is_live()
            || !source.is_live()
            || source.store.applied <= own.store.applied
            || self.was_removed(group, node)
            || self.has_ended(nodes, group, from)
            || self.has_ended(nodes, group, node)
        {
            return false;
        }
        let needed = source.start > own.has || self.cannot_assemble(nodes, group, node, from);
        needed && !self.lacks_what_is_needed(nodes, group, node, from)
    }

    /// What the replica has sealed and its gainer beside it has taken over already: the replica's snapshots leave it out, for its
    /// tablets hold what the gainer makes of it.
    pub fn taken(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> Option<Commit> {
        let own = replica(nodes, group, node).store;
        let Some(Lock::Participates(operation, _)) = self.machine(group, own.applied).lock else { return None };
        let commit = self.commits(group.other()).find(|commit| commit.operation == operation)?;
        let gainer = replica(nodes, group.other(), node);
        let has_taken = gainer.is_live() && gainer.store.applied > commit.decided;
        let came_without = !own.data.holds(commit.begin.moves.first_data());
        (commit.begin.kind == Kind::Shift && (has_taken || came_without)).then_some(commit)
    }

    /// Whether the replica's machine stands still and, as far as that other node knows, will go on standing.
    fn cannot_assemble(&self, nodes: &Nodes, group: GroupId, node: NodeIndex, from: NodeIndex) -> bool {
        let Some(commit) = self.stands_at(nodes, group, node) else { return false };
        let loser = group.other();
        let (beside, helper) = (replica(nodes, loser, node), replica(nodes, loser, from));
        let gets_there = beside.is_live() && beside.store.applied <= commit.seal;
        if !gets_there {
            return true;
        }
        !self.makes(Mistake::StandsForEver)
            && beside.has <= commit.seal
            && (self.was_removed(loser, node) || !helper.is_live() || helper.start > beside.has)
    }

    /// Whether that other replica's snapshot is without what the gainer's replica on this node has yet to take over: it jumps
    /// past where the loser let go of it, or leaves it out. It would throw away what that replica needs.
    fn lacks_what_is_needed(&self, nodes: &Nodes, group: GroupId, node: NodeIndex, from: NodeIndex) -> bool {
        let (applied, upto) = (replica(nodes, group, node).store.applied, replica(nodes, group, from).store.applied);
        let jumps = |commit: &Commit| self.resolved(commit).is_some_and(|slot| applied <= slot && slot < upto);
        let is_awaited = |commit: Commit| self.awaits(nodes, node, &commit);
        let jumps_past = self.commits(group.other()).filter(jumps).any(is_awaited);
        let leaves_out = self.taken(nodes, group, from).is_some_and(is_awaited);
        (jumps_past && !self.makes(Mistake::SnapshotPastSeal)) || (leaves_out && !self.makes(Mistake::SnapshotOfTaken))
    }

    /// Where the loser heard of the commit.
    pub fn resolved(&self, commit: &Commit) -> Option<Slot> {
        let loser = commit.operation.coordinator.other();
        let heard = Entry::Resolve { operation: commit.operation, outcome: Outcome::Commit };
        let held = Some(Lock::Participates(commit.operation, commit.seal));
        (0..self.len(loser)).find(|slot| self.entry(loser, *slot) == heard && self.machine(loser, *slot).lock == held)
    }

    /// Takes a snapshot. It is switched in by one batch, and flushed before anybody hears of it.
    pub fn take_snapshot(&self, nodes: &mut Nodes, group: GroupId, node: NodeIndex, from: NodeIndex) {
        let source = *replica(nodes, group, from);
        let passed = replica(nodes, group, node).store.applied;
        let left_out = self.taken(nodes, group, from).map(|commit| commit.begin.moves).unwrap_or_default();
        let own = replica_mut(nodes, group, node);
        own.presence = Presence::Live;
        let data = source.store.data.outside(left_out);
        own.store = Store { applied: source.store.applied, data, parted: own.store.parted };
        if own.has < source.store.applied {
            // The log has a gap: it begins anew after the snapshot.
            own.start = source.store.applied;
            own.has = source.store.applied;
        }
        for commit in self.commits(group) {
            if passed <= commit.decided && commit.decided < source.store.applied {
                self.take_over(nodes, node, &commit);
            }
        }
        flush(nodes, node);
    }

    /// Whether somebody waits for what the replica has applied to be on disk.
    ///
    /// A store may be flushed at any time. Here it is flushed only when something depends on it: a crash takes back as much
    /// as it can.
    pub fn flush_is_awaited(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        let own = replica(nodes, group, node);
        let configured = self.decided(group).configured;
        let news = own.flushed.applied < configured && configured <= own.store.applied;
        let merged = self.ended(group.other()).is_some_and(|commit| {
            let known = self.closed(commit).is_some_and(|slot| own.store.applied > slot)
                || self.makes(Mistake::BuriedWhileOthersLag);
            known
                && own.flushed.applied <= commit.decided
                && own.store.applied > commit.decided
                && replica(nodes, group.other(), node).is_live()
        });
        let beside = replica(nodes, group.other(), node);
        let needed = beside.is_live()
            && self.was_removed(group.other(), node)
            && self
                .commits(group)
                .any(|commit| own.flushed.applied <= commit.decided && commit.decided < own.store.applied);
        own.is_live() && (news || merged || needed)
    }

    /// Whether the node may bury its replica of a group that was merged away.
    pub fn can_bury(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        let Some(commit) = self.ended(group) else { return false };
        let gainer = replica(nodes, group.other(), node);
        if !replica(nodes, group, node).is_live() {
            return false;
        }
        if !gainer.is_live() && !self.decided(group).members.contains(node) {
            // A learner, or one that was removed, hears of the end from a tombstone.
            let tombstone = |member: NodeIndex| replica(nodes, group, member).presence == Presence::Gone;
            return self.decided(group).members.iter().any(tombstone) && !self.makes(Mistake::LeftoversUntold);
        }
        if gainer.presence == Presence::Gone {
            // The gainer's replica has left and was let go: enough others hold the merge on disk.
            return !self.makes(Mistake::LeaverUntold);
        }
        if self.makes(Mistake::BuriedAtDecision) {
            return gainer.is_live() && gainer.has > commit.decided;
        }
        let all_assembled = self.closed(commit).is_some_and(|slot| gainer.store.applied > slot)
            || self.makes(Mistake::BuriedWhileOthersLag);
        let on_disk = gainer.flushed.applied > commit.decided || self.makes(Mistake::BuriedBeforeFlush);
        gainer.is_live() && all_assembled && on_disk
    }

    /// Where the gainer logged that nobody needs the loser any more.
    fn closed(&self, commit: Commit) -> Option<Slot> {
        let Commit { operation, .. } = commit;
        let group = operation.coordinator;
        (0..self.len(group)).find(|slot| self.entry(group, *slot) == Entry::Close { begin: operation.begin })
    }

    /// Whether a removed replica may forget.
    pub fn can_forget(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        if !replica(nodes, group, node).is_live() || !self.was_removed(group, node) {
            return false;
        }
        let machine = self.decided(group);
        let knows = |member: &NodeIndex| {
            let other = replica(nodes, group, *member);
            other.presence == Presence::Gone || other.flushed.applied >= machine.configured
        };
        let told = machine.members.iter().filter(knows).fold(Members::NONE, Members::with);
        machine.members.majority_in(told) && !self.is_needed_beside(nodes, group, node)
    }

    /// Whether the gainer's replica on this node, a member, still needs this one of the loser to assemble, or would after a
    /// crash.
    fn is_needed_beside(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        let gainer = replica(nodes, group.other(), node);
        let is_member = gainer.is_live() && !self.was_removed(group.other(), node);
        !self.makes(Mistake::ForgetsWhatParted)
            && is_member
            && self.commits(group.other()).any(|commit| gainer.flushed.applied <= commit.decided)
    }

    /// Whether the replica may not take a snapshot, or may not forget, for the sake of the gainer's replica beside it.
    pub fn is_held_back(&self, nodes: &Nodes, group: GroupId, node: NodeIndex) -> bool {
        let own = replica(nodes, group, node);
        let held_from_snapshot = (0..NODES).any(|from| {
            let source = replica(nodes, group, from);
            source.is_live() && source.start > own.has && self.lacks_what_is_needed(nodes, group, node, from)
        });
        let held_from_forgetting = self.was_removed(group, node) && self.is_needed_beside(nodes, group, node);
        own.is_live() && (held_from_snapshot || held_from_forgetting)
    }

    /// Destroys the replica and leaves a tombstone.
    pub fn destroy(&self, nodes: &mut Nodes, group: GroupId, node: NodeIndex) {
        *replica_mut(nodes, group, node) = Replica { presence: Presence::Gone, ..Replica::default() };
        let beside = replica_mut(nodes, group.other(), node);
        beside.store.parted = Data::NONE;
        beside.flushed.parted = Data::NONE;
    }
}

/// Makes durable all that the node's store has.
pub fn flush(nodes: &mut Nodes, node: NodeIndex) {
    for own in &mut nodes[node].replicas {
        own.flushed = own.store;
    }
}

/// Whether a crash would take something back.
pub fn is_unflushed(nodes: &Nodes, node: NodeIndex) -> bool {
    nodes[node].replicas.iter().any(|own| own.store != own.flushed)
}

/// Takes back what the node's store had not flushed.
pub fn lose_unflushed(nodes: &mut Nodes, node: NodeIndex) {
    for own in &mut nodes[node].replicas {
        own.store = own.flushed;
    }
}
