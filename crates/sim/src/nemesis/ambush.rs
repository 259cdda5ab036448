//! Ambushes: a group is ordered to reshape the ring, and right when it has come to a certain step, things happen.
//!
//! Chance alone seldom strikes between two steps of an operation that takes a few round trips. So somebody lies in wait for the
//! step, as seen in the states that groups have applied, and strikes then.

use super::Undo;
use crate::history::Time;
use crate::host::Asked;
use crate::invariants::{Checked, voters};
use crate::plan::{Fault, MICROSECOND, MILLISECOND, SECOND};
use crate::world::{Event, World};
use scatter_core::input::Input;
use scatter_core::ops::Pending;
use scatter_core::ops::order::Side;
use scatter_core::types::{GroupId, RangeVersion};

/// How often those in wait look.
const LOOK: Time = MILLISECOND;

/// A step of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Moment {
    /// The order was given.
    Ordered,
    /// The gainer is locked.
    Begun,
    /// The loser has sealed what moves.
    Sealed,
    /// The range of the group that was given the order is another.
    Reshaped,
}

/// What happens then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mischief {
    /// The leader of the group that was given the order dies.
    Unseat,
    /// The leader of the other group dies.
    UnseatOther,
    /// Some follower dies.
    CrashFollower,
    /// Everybody dies.
    CrashAll,
    /// The members are to change.
    Members,
    /// Those of the other group are.
    MembersOfOther,
    /// The other group is to split.
    SplitOther,
    /// Somebody else is to take over from one of both, or one from the other.
    Rival,
    /// A follower hears nobody for a while.
    Lag,
    /// A follower's apply stage stops for a while.
    Stall,
    /// The other group is to be led by another member.
    HandOverOther,
    /// What groups say to each other arrives twice, the second time much later.
    Echo,
    /// A follower loses its disk.
    Wipe,
}

/// Somebody who lies in wait.
#[derive(Clone, Copy, Debug)]
pub struct Ambush {
    group: GroupId,
    other: GroupId,
    version: RangeVersion,
    moment: Moment,
    mischief: Mischief,
    until: Time,
}

impl World {
    /// An order to reshape the ring, and what happens to whoever carries it out.
    pub(super) fn ambush(&mut self) -> Checked {
        let groups = self.groups();
        if groups.is_empty() {
            return Ok(());
        }
        let group = *self.nemesis.random.pick(&groups);
        let Some(state) = self.observer.newest(group) else { return Ok(()) };
        let version = state.range_version;
        let sides =
            [(Side::Predecessor, state.links.predecessor.group), (Side::Successor, state.links.successor.group)];
        let (side, other) = *self.nemesis.random.pick(&sides);
        let split = groups.len() < 2 || self.nemesis.random.permille(200);
        let moments = if split {
            &[Moment::Ordered, Moment::Reshaped][..]
        } else {
            &[Moment::Ordered, Moment::Begun, Moment::Begun, Moment::Sealed, Moment::Sealed, Moment::Reshaped][..]
        };
        let until = self.now + 6 * SECOND;
        for _ in 0..self.nemesis.random.between(1, 3) {
            let moment = *self.nemesis.random.pick(moments);
            let mischief = *self.nemesis.random.pick(Mischief::ALL);
            let ambush = Ambush { group, other, version, moment, mischief, until };
            self.note([26, group.0, 0], || format!("{ambush:?}"));
            let late = if moment == Moment::Ordered { self.span(MICROSECOND, SECOND) } else { LOOK };
            self.at(self.now + late, Event::Undo(Undo::Ambush(ambush)));
        }
        if split {
            self.order_split_of(group)
        } else {
            let merge = self.nemesis.random.permille(500);
            self.order_takeover_from(group, side, merge)
        }
    }

    /// Looks whether the moment has come.
    pub(super) fn look_out(&mut self, ambush: Ambush) -> Checked {
        if self.nemesis.stopped || self.now > ambush.until {
            return Ok(());
        }
        let Ambush { group, other, version, .. } = ambush;
        let pending = |group| self.observer.newest(group).and_then(|state| state.pending.as_ref());
        let come = match ambush.moment {
            Moment::Ordered => true,
            Moment::Begun => matches!(pending(group), Some(Pending::Gains { .. })),
            Moment::Sealed => matches!(pending(other), Some(Pending::Loses { .. })),
            Moment::Reshaped => self.observer.newest(group).is_some_and(|state| state.range_version > version),
        };
        if !come {
            self.at(self.now + LOOK, Event::Undo(Undo::Ambush(ambush)));
            return Ok(());
        }
        self.strike(ambush)
    }

    fn strike(&mut self, ambush: Ambush) -> Checked {
        let Ambush { group, other, mischief, .. } = ambush;
        self.note([27, group.0, mischief as u64], || format!("strikes: {ambush:?}"));
        let end = self.now + self.span(50 * MILLISECOND, 6 * SECOND);
        match mischief {
            Mischief::Unseat => return self.undo(Undo::Unseat(group)),
            Mischief::UnseatOther => return self.undo(Undo::Unseat(other)),
            Mischief::CrashFollower => {
                if let Some(host) = self.follower_of(group) {
                    self.crash_and_start(host);
                }
            }
            Mischief::CrashAll => (0..self.hosts.len()).for_each(|host| self.crash_and_start(host)),
            Mischief::Members => return self.order_members_of(group),
            Mischief::MembersOfOther => return self.order_members_of(other),
            Mischief::SplitOther => return self.order_split_of(other),
            Mischief::Rival => return self.rival(group, other),
            Mischief::Lag => {
                if let Some(host) = self.follower_of(group) {
                    return self.undo(Undo::Part(host, end));
                }
            }
            Mischief::Stall => {
                if let Some(host) = self.follower_of(group)
                    && let Some(process) = &mut self.hosts[host].process
                {
                    process.work_stalled_until = end;
                }
            }
            Mischief::HandOverOther => return self.hand_over_to_any(other),
            Mischief::Echo => self.nemesis.echoes_until = end,
            Mischief::Wipe => return self.befall(Fault::Wipe),
        }
        Ok(())
    }

    /// A host whose node is a member of a group and does not lead it.
    fn follower_of(&mut self, group: GroupId) -> Option<usize> {
        let all = voters(self.observer.configuration(group)?);
        let hosts = all.into_iter().filter_map(|node| self.directory.get(&node).copied());
        let followers: Vec<usize> = hosts.filter(|host| !self.leads(*host, group)).collect();
        if followers.is_empty() { None } else { Some(*self.nemesis.random.pick(&followers)) }
    }

    fn hand_over_to_any(&mut self, group: GroupId) -> Checked {
        let Some(configuration) = self.observer.configuration(group) else { return Ok(()) };
        let all = voters(configuration);
        let Some(host) = (0..self.hosts.len()).rfind(|host| self.leads(*host, group)) else { return Ok(()) };
        let others: Vec<_> = all.into_iter().filter(|node| self.directory.get(node) != Some(&host)).collect();
        if others.is_empty() {
            return Ok(());
        }
        let to = *self.nemesis.random.pick(&others);
        let Some(request) = self.ask(host, Asked::Order) else { return Ok(()) };
        self.input(host, Input::HandOver { request, group, to })
    }

    /// Another operation on one of two groups that are about one already.
    fn rival(&mut self, group: GroupId, other: GroupId) -> Checked {
        let neighbours = |of: GroupId| {
            let links = self.observer.newest(of).map(|state| &state.links);
            links.into_iter().flat_map(|links| [links.predecessor.group, links.successor.group]).collect::<Vec<_>>()
        };
        let mut rivals = neighbours(other);
        rivals.extend(neighbours(group));
        rivals.push(other);
        rivals.retain(|rival| *rival != group);
        if rivals.is_empty() {
            return Ok(());
        }
        let rival = *self.nemesis.random.pick(&rivals);
        let merge = self.nemesis.random.permille(500);
        self.order_takeover_by(rival, merge)
    }

    /// How much later a message between groups arrives once more, if it does.
    pub(crate) fn echo(&mut self) -> Option<Time> {
        let echoes = self.nemesis.echoes_until > self.now && !self.nemesis.stopped;
        echoes.then(|| self.span(MICROSECOND, 8 * SECOND))
    }
}

impl Mischief {
    const ALL: &[Self] = &[
        Self::Unseat,
        Self::UnseatOther,
        Self::CrashFollower,
        Self::CrashAll,
        Self::Members,
        Self::MembersOfOther,
        Self::SplitOther,
        Self::Rival,
        Self::Lag,
        Self::Stall,
        Self::HandOverOther,
        Self::Echo,
        Self::Wipe,
    ];
}
