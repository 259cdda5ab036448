//! What the entries of group operations do to a group's state. Pure, and equal on every replica.
//!
//! Each entry is checked here against the state it meets: whoever proposed it may have known an older one. An entry that
//! does not fit does nothing.

use super::{
    Begin, Decide, Gain, MAX_ABSORBED, MAX_CHILDREN, MAX_GAINED, MAX_RECOVERED, Obligation, OperationId, Pending,
    Prepare, Recover, Recovered, Resolve, Split, Surrender, Takeover,
};
use crate::group::count::half;
use crate::group::{Configuration, GroupState, Link, Links, Member, Role};
use crate::planted::{self, Bug};
use crate::ring::KeyRange;
use crate::types::{ConfigurationVersion, Incarnation, LinksVersion, NodeId, OperationCounter, Slot};
use bytes::Bytes;

/// What an entry did that concerns more than the group's own record.
#[expect(clippy::large_enum_variant, reason = "there are few of them at any time")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reshaped {
    /// The upper part went to a new group, which begins with this state.
    Born(Box<GroupState>),
    /// Everything went to a new group, which begins with this state. This one has ended.
    Recovered(Box<GroupState>),
    /// The group takes over what the loser beside it holds of these positions.
    Gained {
        /// In which operation.
        operation: OperationId,
        /// From whom, and what.
        takeover: Takeover,
        /// As of the loser's seal.
        surrender: Surrender,
        /// What the gainer's clock is ahead of the loser's.
        offset_micros: i64,
    },
    /// The group gave up these positions.
    Lost {
        /// In which operation.
        operation: OperationId,
        /// What.
        moving: KeyRange,
        /// The gainer's slot that took them over.
        committed: Slot,
    },
}

/// The outermost arc of which `inner` and `outer` are the two parts, if they lie side by side and do not overlap: `inner`'s
/// end may be `outer`'s start, or the other way round. On a ring of two both are true, and the first is meant.
#[must_use]
pub fn joined(inner: &KeyRange, outer: &KeyRange) -> Option<KeyRange> {
    // Where the second of them ends it must not have come back into the first.
    let follow = |first: &KeyRange, second: &KeyRange| {
        first.end == second.start && (second.end == first.start || !first.contains(&second.end))
    };
    if inner.is_whole() || outer.is_whole() {
        None
    } else if follow(inner, outer) {
        Some(KeyRange { start: inner.start.clone(), end: outer.end.clone() })
    } else if follow(outer, inner) {
        Some(KeyRange { start: outer.start.clone(), end: inner.end.clone() })
    } else {
        None
    }
}

/// What is left of `range` once `moving`, which touches exactly one of its ends, is gone.
#[must_use]
pub fn remainder(range: &KeyRange, moving: &KeyRange) -> Option<KeyRange> {
    let inside = range.contains(&moving.start) && !moving.is_whole();
    if !inside || range.start == moving.start && range.end == moving.end {
        None
    } else if range.start == moving.start && range.contains(&moving.end) {
        Some(KeyRange { start: moving.end.clone(), end: range.end.clone() })
    } else if range.end == moving.end {
        Some(KeyRange { start: range.start.clone(), end: moving.start.clone() })
    } else {
        None
    }
}

impl GroupState {
    /// How this group describes itself to its neighbours.
    #[must_use]
    pub fn link(&self) -> Link {
        Link::of(self.group, &self.configuration, self.range_version, &self.range)
    }

    /// The positions that it answers for: its range but for what is sealed. `None` if that is nothing.
    #[must_use]
    pub fn served(&self) -> Option<KeyRange> {
        match self.pending.as_ref().and_then(Pending::sealed) {
            None => Some(self.range.clone()),
            Some(sealed) => remainder(&self.range, sealed),
        }
    }

    /// Why this group cannot be split so, if it cannot.
    #[must_use]
    pub fn split_refusal(&self, split: &Split) -> Option<&'static str> {
        if self.pending.is_some() {
            Some("another operation holds the group")
        } else if split.range_version != self.range_version {
            Some("the group's range has changed")
        } else if split.child == self.group || split.at == self.range.start || !self.range.contains(&split.at) {
            Some("the boundary lies outside the group's range or on its end")
        } else {
            None
        }
    }

    /// Applies a Split entry at `slot`: this group keeps the lower part. The state the child begins with, unless the entry
    /// does not fit.
    pub fn split(&mut self, split: &Split, slot: Slot) -> Option<GroupState> {
        if self.split_refusal(split).is_some() {
            return None;
        }
        let alone = self.range.is_whole();
        let range_version = self.range_version.next();
        let upper = KeyRange { start: split.at.clone(), end: self.range.end.clone() };
        self.range.end = split.at.clone();
        self.range_version = range_version;
        self.reshaped = slot;
        let members: Vec<Member> = self
            .configuration
            .members
            .iter()
            .map(|member| Member { incarnation: Incarnation(1), ..member.clone() })
            .collect();
        let mut child = Self {
            group: split.child,
            applied: Slot(1),
            configuration: Configuration { version: ConfigurationVersion(1), members },
            range_version,
            range: upper,
            links: Links {
                version: LinksVersion(1),
                predecessor: self.link(),
                successor: self.links.successor.clone(),
            },
            pending: None,
            operations: OperationCounter(0),
            outbox: Vec::new(),
            absorbed: Vec::new(),
            children: Vec::new(),
            gained: Vec::new(),
            forgotten_gains: Slot(0),
            recovered: Vec::new(),
            reshaped: Slot(1),
            keys: half(self.keys),
            bytes: half(self.bytes),
            counted: false,
            ..self.clone()
        };
        if alone {
            child.links.successor = self.link();
        }
        self.keys = self.keys.wrapping_sub(child.keys);
        self.bytes = self.bytes.wrapping_sub(child.bytes);
        self.counted = false;
        self.children.push((split.child, slot));
        let too_many = self.children.len().saturating_sub(MAX_CHILDREN);
        self.children.drain(..too_many);
        self.links.version = self.links.version.next();
        self.links.successor = child.link();
        if alone {
            self.links.predecessor = child.link();
        }
        Some(child)
    }

    /// Why this group cannot be recovered so, if it cannot.
    #[must_use]
    pub fn recover_refusal(&self, recover: &Recover) -> Option<&'static str> {
        let survives = |node: &NodeId| self.configuration.member(*node).is_some();
        let sorted = recover.survivors.windows(2).all(|pair| pair[0] < pair[1]);
        if self.pending.is_some() {
            Some("another operation holds the group")
        } else if recover.range_version != self.range_version {
            Some("the group's range has changed")
        } else if recover.child == self.group || !recover.survivors.contains(&recover.leader) || !sorted {
            Some("the entry names no new group")
        } else if !recover.survivors.iter().all(survives) {
            Some("not all of them are members")
        } else {
            None
        }
    }

    /// Applies a Recover entry at `slot`: the survivors go on as another group, which begins with the returned state; this one
    /// has ended. `None` if the entry does not fit.
    ///
    /// What the group owes others goes with it, but for what its own members owe each other: whoever becomes a member of the new
    /// group has all that this one had taken over.
    pub fn recover(&mut self, recover: &Recover, slot: Slot) -> Option<GroupState> {
        if self.recover_refusal(recover).is_some() {
            return None;
        }
        let first = Slot(1);
        let (kept, lost): (Vec<_>, Vec<_>) =
            self.configuration.members.iter().cloned().partition(|member| recover.survivors.contains(&member.node));
        let members = kept
            .into_iter()
            .map(|member| Member { incarnation: Incarnation(1), role: Role::Voter, ..member })
            .collect();
        let mut child = Self {
            group: recover.child,
            applied: first,
            // Whoever still has the old members' names must find these later.
            configuration: Configuration { version: self.configuration.version.next(), members },
            range_version: self.range_version.next(),
            gained: self.gained.iter().map(|gain| Gain { at: first, ..*gain }).collect(),
            forgotten_gains: Slot(0),
            children: self.children.iter().map(|(child, _)| (*child, first)).collect(),
            absorbed: self.absorbed.iter().map(|(group, _)| (*group, first)).collect(),
            reshaped: first,
            ..self.clone()
        };
        child.absorbed.push((self.group, first));
        let too_many = child.absorbed.len().saturating_sub(MAX_ABSORBED);
        child.absorbed.drain(..too_many);
        child.outbox = self.outbox.iter().filter(|owed| owed.is_inherited()).cloned().collect();
        let operation = OperationId { coordinator: child.group, slot: first };
        child.outbox.push(Obligation::Bury { operation, loser: self.group, at: first });
        child.recovered.push(Recovered {
            group: self.group,
            at: slot,
            log_time: self.log_time,
            survivors: recover.survivors.clone(),
            condemned: lost.into_iter().filter(|member| member.role == Role::Voter).map(|member| member.node).collect(),
            gained: self.gained.iter().map(|gain| (gain.operation, gain.at)).collect(),
            forgotten_gains: self.forgotten_gains,
        });
        let too_many = child.recovered.len().saturating_sub(MAX_RECOVERED);
        child.recovered.drain(..too_many);
        if self.range.is_whole() {
            let own = child.link();
            child.links.predecessor = own.clone();
            child.links.successor = own;
        }
        child.links.version = child.links.version.next();
        self.reshaped = slot;
        Some(child)
    }

    /// Why this group cannot begin so, if it cannot.
    #[must_use]
    pub fn begin_refusal(&self, begin: &Begin) -> Option<&'static str> {
        let Begin { takeover, loser, .. } = begin;
        let range = joined(&self.range, &takeover.moving);
        let whole = loser.range == takeover.moving;
        let same = same_voters(&self.configuration.members, &loser.members);
        if self.pending.is_some() && !planted::on(Bug::TwoPendingOperations) {
            Some("another operation holds the group")
        } else if begin.range_version != self.range_version || begin.configuration_version != self.configuration.version
        {
            Some("the group has changed")
        } else if takeover.loser == self.group || loser.group != takeover.loser || range.is_none() {
            Some("the other group is not a neighbour")
        } else if takeover.merge != whole || !takeover.merge && remainder(&loser.range, &takeover.moving).is_none() {
            Some("the boundary lies outside the neighbour's range")
        } else if !same && !planted::on(Bug::UnalignedTakeover) {
            Some("the members differ")
        } else {
            None
        }
    }

    /// Applies a Begin entry at `slot`.
    pub fn begin(&mut self, begin: &Begin, slot: Slot) -> bool {
        if self.begin_refusal(begin).is_some() {
            return false;
        }
        let operation = OperationId { coordinator: self.group, slot };
        let (takeover, loser) = (begin.takeover.clone(), begin.loser.clone());
        self.pending = Some(Pending::Gains { operation, takeover, loser });
        true
    }

    /// Why this group votes no, if it does.
    #[must_use]
    pub fn prepare_refusal(&self, prepare: &Prepare) -> Option<&'static str> {
        let Prepare { takeover, gainer, .. } = prepare;
        let fits = if takeover.merge {
            self.range == takeover.moving
        } else {
            remainder(&self.range, &takeover.moving).is_some()
        };
        let moved = takeover.range_version != self.range_version || !fits;
        let changed = moved && !planted::on(Bug::VersionNotChecked)
            || takeover.configuration_version != self.configuration.version
            || takeover.operations != self.operations && !planted::on(Bug::LatePrepareLocks);
        let busy = self.pending.is_some() && !planted::on(Bug::TwoPendingOperations);
        if takeover.loser != self.group {
            Some("another group is meant")
        } else if busy {
            Some("another operation holds the group")
        } else if changed {
            Some("the group has changed")
        } else if takeover.merge && !self.outbox.is_empty() {
            Some("the group still owes others what it decided")
        } else if !same_voters(&self.configuration.members, &gainer.members) && !planted::on(Bug::UnalignedTakeover) {
            Some("the members differ")
        } else {
            None
        }
    }

    /// Applies a Prepare entry at `slot`: yes locks and seals. `lanes` are the group's own, for what is not merged.
    pub fn prepare(
        &mut self,
        prepare: &Prepare,
        slot: Slot,
        idempotency_records: u64,
        lanes: impl FnOnce() -> Bytes,
    ) -> bool {
        if self.prepare_refusal(prepare).is_some() {
            return false;
        }
        let takeover = prepare.takeover.clone();
        let part = if takeover.merge { 1 } else { 2 };
        let after_gainer = takeover.moving.start == prepare.gainer.range.end;
        let outer = if after_gainer { &self.links.successor } else { &self.links.predecessor };
        let surrender = Surrender {
            seal: slot,
            stamp: self.stamp,
            forgotten: self.forgotten,
            log_time: self.log_time,
            feature_level: self.feature_level,
            keys: self.keys / part,
            bytes: self.bytes / part,
            idempotency_records: idempotency_records / part,
            outer: takeover.merge.then(|| outer.clone()),
            absorbed: self.absorbed.iter().filter(|_| takeover.merge).map(|(group, _)| *group).collect(),
            lanes: if takeover.merge { Bytes::new() } else { lanes() },
        };
        self.operations = self.operations.next();
        self.pending =
            Some(Pending::Loses { operation: prepare.operation, takeover, gainer: prepare.gainer.clone(), surrender });
        true
    }

    /// Applies a Decide entry at `slot`. The first for an operation wins. What is gained, if anything.
    pub fn decide(&mut self, decide: &Decide, slot: Slot) -> Option<Reshaped> {
        let Some(Pending::Gains { operation, takeover, loser }) = &self.pending else {
            return None;
        };
        if *operation != decide.operation {
            return None;
        }
        let range = joined(&self.range, &takeover.moving)?;
        let (operation, takeover, loser) = (*operation, takeover.clone(), loser.clone());
        self.pending = None;
        let Some(surrender) = &decide.commit else {
            self.outbox.push(Obligation::Tell { operation, loser, committed: None });
            return None;
        };
        let after = self.range.end == takeover.moving.start;
        self.range = range;
        self.range_version = self.range_version.max(takeover.range_version).next();
        self.reshaped = slot;
        self.keys = self.keys.wrapping_add(surrender.keys);
        self.bytes = self.bytes.wrapping_add(surrender.bytes);
        self.counted = false;
        if !planted::on(Bug::StampNotGained) {
            self.stamp = self.stamp.max(surrender.stamp);
        }
        self.forgotten = self.forgotten.max(surrender.forgotten);
        self.feature_level = self.feature_level.max(surrender.feature_level);
        self.relink_after_gain(&takeover, &loser, surrender, after);
        self.gained.push(Gain { operation, at: slot, loser: takeover.loser, seal: surrender.seal });
        let too_many = self.gained.len().saturating_sub(MAX_GAINED);
        for gain in self.gained.drain(..too_many) {
            self.forgotten_gains = self.forgotten_gains.max(gain.operation.slot);
        }
        if takeover.merge {
            let ended = surrender.absorbed.iter().chain([&takeover.loser]);
            self.absorbed.extend(ended.map(|group| (*group, slot)));
            let too_many = self.absorbed.len().saturating_sub(MAX_ABSORBED);
            self.absorbed.drain(..too_many);
        }
        self.outbox.push(if takeover.merge {
            Obligation::Bury { operation, loser: takeover.loser, at: slot }
        } else {
            Obligation::Tell { operation, loser, committed: Some(slot) }
        });
        let offset_micros = self.log_time.0.wrapping_sub(surrender.log_time.0).cast_signed();
        Some(Reshaped::Gained { operation, takeover, surrender: surrender.clone(), offset_micros })
    }

    /// The links after positions came from a neighbour: of a merge its far neighbour is next, else what is left of it.
    fn relink_after_gain(&mut self, takeover: &Takeover, loser: &Link, surrender: &Surrender, after: bool) {
        self.links.version = self.links.version.next();
        let next = match &surrender.outer {
            Some(outer) if outer.group != self.group => outer.clone(),
            Some(_) => self.link(),
            None => Link {
                range_version: self.range_version,
                range: remainder(&loser.range, &takeover.moving).unwrap_or_else(|| loser.range.clone()),
                ..loser.clone()
            },
        };
        if self.range.is_whole() {
            let own = self.link();
            self.links.predecessor = own.clone();
            self.links.successor = own;
            return;
        }
        self.take_neighbour(&next, after);
    }

    /// Sets the link of one side. On a ring of two the other group is the neighbour on both; but one that only was that, and has
    /// other positions now, is not.
    fn take_neighbour(&mut self, link: &Link, successor: bool) {
        let before = link.range.end == self.range.start;
        let behind = link.range.start == self.range.end;
        let sides = [(!successor, before, &mut self.links.predecessor), (successor, behind, &mut self.links.successor)];
        for (meant, adjacent, known) in sides {
            if meant || adjacent && known.group == link.group {
                *known = link.clone();
            }
        }
    }

    /// Applies a Resolve entry. What is given up, if anything.
    pub fn resolve(&mut self, resolve: &Resolve, slot: Slot) -> Option<Reshaped> {
        self.operations = self.operations.next();
        let Some(Pending::Loses { operation, takeover, gainer, .. }) = &self.pending else {
            return None;
        };
        if *operation != resolve.operation {
            return None;
        }
        let (operation, takeover, gainer) = (*operation, takeover.clone(), gainer.clone());
        let Some(committed) = resolve.committed else {
            self.pending = None;
            return None;
        };
        if takeover.merge {
            // A merged group is ended by its members' gainer, never by itself.
            return None;
        }
        let range = remainder(&self.range, &takeover.moving)?;
        self.pending = None;
        let after = takeover.moving.start == gainer.range.end;
        self.range = range;
        self.range_version = self.range_version.max(gainer.range_version).next();
        self.reshaped = slot;
        self.keys = self.keys.wrapping_sub(half(self.keys));
        self.bytes = self.bytes.wrapping_sub(half(self.bytes));
        self.counted = false;
        let wider = Link {
            range_version: self.range_version,
            range: joined(&gainer.range, &takeover.moving).unwrap_or_else(|| gainer.range.clone()),
            ..gainer
        };
        self.links.version = self.links.version.next();
        self.take_neighbour(&wider, !after);
        Some(Reshaped::Lost { operation, moving: takeover.moving, committed })
    }

    /// Applies a Settle entry: an obligation is met.
    pub fn settle(&mut self, operation: OperationId) -> bool {
        let before = self.outbox.len();
        self.outbox.retain(|obligation| obligation.operation() != operation);
        self.outbox.len() < before
    }

    /// Whether a link tells more of a side than what is known: it must lie next to this group's arc.
    #[must_use]
    pub fn is_news(&self, link: &Link, successor: bool) -> bool {
        let known = if successor { &self.links.successor } else { &self.links.predecessor };
        let adjacent = |link: &Link| {
            if successor { link.range.start == self.range.end } else { link.range.end == self.range.start }
        };
        // What does not lie there, or passes for this group's own link beside a part of the ring that it does not have, was
        // handed on by somebody who was behind: its version says nothing of this side.
        let right = adjacent(known) && known.group != self.group;
        adjacent(link) && link.group != self.group && (!right || is_newer(link, known))
    }

    /// Applies a Links entry: news of neighbours. True if anything changed.
    pub fn relink(&mut self, links: &[Link]) -> bool {
        let mut changed = false;
        for link in links {
            for successor in [false, true] {
                if self.is_news(link, successor) {
                    let side = if successor { &mut self.links.successor } else { &mut self.links.predecessor };
                    *side = link.clone();
                    changed = true;
                }
            }
        }
        if changed {
            self.links.version = self.links.version.next();
        }
        changed
    }
}

/// Whether `link` was told later than `known`, of the same side of a group: for each position the range versions of its
/// owners rise.
#[must_use]
pub fn is_newer(link: &Link, known: &Link) -> bool {
    if link.group == known.group {
        (link.range_version, link.configuration_version) > (known.range_version, known.configuration_version)
    } else {
        link.range_version > known.range_version
    }
}

/// Whether two groups have the same voters and no learners.
#[must_use]
pub fn same_voters(ours: &[Member], theirs: &[Member]) -> bool {
    let voters = |members: &[Member]| members.iter().all(|member| member.role == Role::Voter);
    ours.len() == theirs.len()
        && voters(ours)
        && voters(theirs)
        && ours.iter().zip(theirs).all(|(ours, theirs)| ours.node == theirs.node)
}
