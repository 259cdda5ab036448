//! Ambushes: a group is ordered to reshape the ring, and right when it has come to a certain step, things happen.
//!
//! Chance alone seldom strikes between two steps of an operation that takes a few round trips. So somebody lies in wait for the
//! step, as seen in the states that groups have applied, and strikes then.

use super::Undo;
use crate::history::Time;
use crate::host::{Asked, Host};
use crate::invariants::{Checked, voters};
use crate::plan::{Fault, MICROSECOND, MILLISECOND, Profile, SECOND};
use crate::world::{Event, World};
use scatter_core::group::Machine;
use scatter_core::input::Input;
use scatter_core::ops::Pending;
use scatter_core::ops::order::Side;
use scatter_core::types::{GroupId, Incarnation, NodeId, RangeVersion};
use std::collections::BTreeSet;

/// How often those in wait look.
const LOOK: Time = MILLISECOND;

/// For how long messages between groups are heard again, and how much later at most.
const ECHOES: Time = 6 * SECOND;

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
    /// The same, and all that it owed for that is settled.
    Settled,
    /// The two groups are led by different hosts, while the gainer is locked.
    LedApart,
    /// The same, and the loser has sealed what moves.
    SealedApart,
    /// A group has this host as its only member.
    Alone(GroupId, usize),
    /// This host's data store has a replica that came later, of which the log on its disk does not know.
    StoredUnlogged(usize),
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
    /// The apply stage of whoever leads the other group stops for a while.
    StallOther,
    /// The other group is to be led by another member.
    HandOverOther,
    /// What groups say to each other arrives twice, the second time much later.
    Echo,
    /// What data stores take up is not flushed for a while, and whoever dies loses all of it.
    Forgetful,
    /// A follower loses its disk.
    Wipe,
    /// The leaders of both groups do not hear each other for as long as a seal lasts.
    Estrange,
    /// The other group's vote does not reach the group for as long as a seal lasts.
    Silence,
    /// The same, for not quite as long.
    SilenceBriefly,
    /// The other group is left to the host that leads the group.
    EntrustOther,
    /// Whoever leads the group loses its disk.
    WipeLeader,
    /// A follower's apply stage stops for a while, and once the group is another, that follower is to lead it.
    StallHeir,
    /// This host is to lead.
    HandOverTo(usize),
    /// The other group's neighbour on the far side takes over all that is left of it, and once that is settled everybody dies.
    Inherit,
    /// A follower with a slow disk is removed and added again, and dies.
    Readmit,
    /// A follower hears nobody for a little while, and then the group is left to it alone.
    EntrustLagger,
    /// A follower dies, and then the group is left to it alone.
    EntrustForgetful,
    /// The group is left to this host alone.
    Entrust(usize),
    /// Everybody else who had it loses their disks.
    WipeOthers(usize),
    /// The parent of a child does without a host, and the child is left to that host alone.
    PartWays,
    /// This host dies, later.
    Forget(usize),
    /// This host dies, comes back with machines that stand still, and dies again.
    Relapse(usize),
    /// The group takes back a part of its child, and only one follower's store has that for good when everybody dies.
    TakeBack,
    /// Everybody dies, and comes back with machines that stand still but for this host, which then loses its disk.
    Blackout(usize),
    /// This host loses its disk.
    LoseDisk(usize),
    /// The group loses its majority for good.
    Lose,
    /// The other group does.
    LoseOther,
}

/// An order and what belongs to it.
struct Plot {
    order: Wanted,
    strikes: &'static [(Moment, Mischief)],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    Split,
    Merge,
    Repartition,
    TakeOver,
}

/// What mistakes between two steps would need.
const PLOTS: &[Plot] = {
    use Mischief::*;
    use Moment::*;
    use Wanted::*;
    &[
        // A Prepare outlives its operation, which was given up.
        Plot { order: Repartition, strikes: &[(Ordered, Echo), (Begun, HandOverOther)] },
        Plot { order: TakeOver, strikes: &[(Ordered, Echo), (Begun, Unseat), (LedApart, Silence)] },
        // Two operations want the same.
        Plot { order: TakeOver, strikes: &[(Begun, Rival)] },
        Plot { order: TakeOver, strikes: &[(Sealed, Rival), (Sealed, Unseat)] },
        Plot { order: TakeOver, strikes: &[(Begun, SplitOther), (Begun, Unseat)] },
        // The members change under a lock.
        Plot { order: TakeOver, strikes: &[(Sealed, MembersOfOther), (Sealed, Unseat)] },
        Plot { order: TakeOver, strikes: &[(Begun, Members), (Begun, Unseat)] },
        Plot {
            order: Merge,
            strikes: &[
                (Begun, Unseat),
                (LedApart, SilenceBriefly),
                (SealedApart, EntrustOther),
                (Reshaped, WipeLeader),
            ],
        },
        // A vote does not come in time.
        Plot { order: TakeOver, strikes: &[(Begun, Unseat), (LedApart, Estrange)] },
        // A later leader lags.
        Plot { order: TakeOver, strikes: &[(Ordered, StallHeir)] },
        Plot { order: TakeOver, strikes: &[(Begun, Stall), (Sealed, Unseat)] },
        Plot { order: TakeOver, strikes: &[(Begun, Stall), (Reshaped, Unseat)] },
        // Those who hold what moved go before those who lag have it.
        Plot { order: TakeOver, strikes: &[(Begun, EntrustLagger)] },
        Plot { order: TakeOver, strikes: &[(Sealed, EntrustLagger)] },
        Plot { order: TakeOver, strikes: &[(Reshaped, EntrustForgetful)] },
        // What was taken over is in memory only.
        Plot { order: TakeOver, strikes: &[(Settled, CrashAll)] },
        Plot { order: Repartition, strikes: &[(Reshaped, Inherit)] },
        Plot { order: Repartition, strikes: &[(Ordered, Forgetful), (Reshaped, Inherit)] },
        // Who gave up positions is still asked for them, elsewhere and for long.
        Plot { order: Repartition, strikes: &[(Begun, Unseat), (SealedApart, StallOther)] },
        Plot { order: TakeOver, strikes: &[(Begun, Unseat), (SealedApart, StallOther)] },
        // A replica comes back as another.
        Plot { order: Split, strikes: &[(Reshaped, Readmit)] },
        Plot { order: Split, strikes: &[(Reshaped, EntrustForgetful)] },
        Plot { order: Split, strikes: &[(Ordered, EntrustLagger)] },
        Plot { order: Split, strikes: &[(Reshaped, PartWays)] },
        Plot { order: Split, strikes: &[(Ordered, Forgetful), (Reshaped, PartWays)] },
        // A snapshot overtakes what stores have yet to take up again.
        Plot { order: Split, strikes: &[(Ordered, Forgetful), (Reshaped, TakeBack)] },
        // A child begins, and its first leader dies.
        Plot { order: Split, strikes: &[(Reshaped, Unseat), (Reshaped, Unseat)] },
        Plot { order: Split, strikes: &[(Reshaped, CrashAll)] },
    ]
};

/// Disasters in the middle of an operation.
const DISASTERS: &[Plot] = {
    use Mischief::*;
    use Moment::*;
    use Wanted::*;
    &[
        Plot { order: TakeOver, strikes: &[(Begun, Lose)] },
        Plot { order: TakeOver, strikes: &[(Sealed, Lose)] },
        Plot { order: TakeOver, strikes: &[(Sealed, LoseOther)] },
        // The gainer knows that it has taken over, and the loser does not.
        Plot { order: Repartition, strikes: &[(Reshaped, Lose)] },
        Plot { order: Repartition, strikes: &[(Begun, Stall), (Reshaped, Lose)] },
        Plot { order: Merge, strikes: &[(Reshaped, Lose)] },
        Plot { order: TakeOver, strikes: &[(Settled, Lose)] },
        Plot { order: Split, strikes: &[(Reshaped, Lose)] },
        Plot { order: Split, strikes: &[(Ordered, Lose)] },
    ]
};

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
        let plots = if self.plan.profile == Profile::Disaster { DISASTERS } else { PLOTS };
        let plot = self.nemesis.random.permille(600).then(|| self.nemesis.random.pick(plots));
        let wanted = match plot {
            _ if groups.len() < 2 => Wanted::Split,
            Some(plot) => plot.order,
            None => *self.nemesis.random.pick(&[Wanted::Split, Wanted::TakeOver, Wanted::TakeOver, Wanted::TakeOver]),
        };
        let strikes = match plot.filter(|plot| plot.order == wanted) {
            Some(plot) => plot.strikes.to_vec(),
            None => self.any_strikes(wanted),
        };
        let until = self.now + 6 * SECOND;
        for (moment, mischief) in strikes {
            let ambush = Ambush { group, other, version, moment, mischief, until };
            let late = if moment == Moment::Ordered { self.span(MICROSECOND, SECOND) } else { LOOK };
            let late = if matches!(mischief, Mischief::Echo | Mischief::Forgetful) { 0 } else { late };
            self.lie_in_wait(late, ambush);
        }
        match wanted {
            Wanted::Split => self.order_split_of(group),
            Wanted::Merge => self.order_takeover_from(group, side, true),
            Wanted::Repartition => self.order_takeover_from(group, side, false),
            Wanted::TakeOver => {
                let merge = self.nemesis.random.permille(500);
                self.order_takeover_from(group, side, merge)
            }
        }
    }

    fn any_strikes(&mut self, wanted: Wanted) -> Vec<(Moment, Mischief)> {
        let moments = match wanted {
            Wanted::Split => &[Moment::Ordered, Moment::Reshaped][..],
            Wanted::Merge | Wanted::Repartition | Wanted::TakeOver => {
                &[Moment::Ordered, Moment::Begun, Moment::Begun, Moment::Sealed, Moment::Sealed, Moment::Reshaped][..]
            }
        };
        let random = &mut self.nemesis.random;
        let count = random.between(1, 3);
        (0..count).map(|_| (*random.pick(moments), *random.pick(Mischief::ANY))).collect()
    }

    fn lie_in_wait(&mut self, late: Time, ambush: Ambush) {
        self.note([26, ambush.group.0, 0], || format!("{ambush:?}"));
        self.at(self.now + late, Event::Undo(Undo::Ambush(ambush)));
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
            Moment::Settled => self.observer.newest(group).is_some_and(|state| {
                state.range_version > version && state.pending.is_none() && state.outbox.is_empty()
            }),
            Moment::LedApart => pending(group).is_some() && self.are_led_apart(group, other),
            Moment::SealedApart => {
                let sealed = matches!(pending(other), Some(Pending::Loses { .. }));
                sealed && pending(group).is_some() && self.are_led_apart(group, other)
            }
            Moment::StoredUnlogged(host) => self.has_stored_unlogged(group, host),
            Moment::Alone(group, host) => self.members_are(group, |hosts| hosts == [Some(host)]),
        };
        if !come {
            self.at(self.now + LOOK, Event::Undo(Undo::Ambush(ambush)));
            return Ok(());
        }
        let repeats = matches!(
            ambush.mischief,
            Mischief::Rival
                | Mischief::Members
                | Mischief::MembersOfOther
                | Mischief::SplitOther
                | Mischief::EntrustOther
        );
        if repeats && ambush.moment != Moment::Ordered {
            // Whoever leads after a fault takes the order as well.
            for _ in 0..3 {
                let again = self.span(10 * MILLISECOND, SECOND);
                self.lie_in_wait(again, Ambush { moment: Moment::Ordered, ..ambush });
            }
        }
        self.spring(ambush)
    }

    fn spring(&mut self, ambush: Ambush) -> Checked {
        let Ambush { group, other, mischief, .. } = ambush;
        self.note([27, group.0, 0], || format!("strikes: {ambush:?}"));
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
            Mischief::Rival => return self.rival(ambush),
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
            Mischief::StallOther => {
                if let Some(host) = self.leader_of(other)
                    && let Some(process) = &mut self.hosts[host].process
                {
                    process.work_stalled_until = end;
                }
            }
            Mischief::HandOverOther => return self.hand_over_to_any(other),
            Mischief::Echo => self.nemesis.echoes_until = self.now + ECHOES,
            Mischief::Forgetful => {
                self.nemesis.forgetful_until = self.now + ECHOES * 2;
                self.nemesis.remembers = None;
            }
            Mischief::Wipe => return self.befall(Fault::Wipe),
            Mischief::Estrange => {
                if let Some((ours, theirs)) = self.leader_of(group).zip(self.leader_of(other)) {
                    let patience = self.seal_patience();
                    let until = self.now + patience + self.span(patience / 8, patience * 2);
                    self.part(ours, &[theirs], until);
                }
            }
            Mischief::Silence => {
                let patience = self.seal_patience();
                let until = self.now + patience + self.span(patience / 8, patience * 2);
                self.nemesis.silenced = Some((other, group, until));
            }
            Mischief::SilenceBriefly => {
                let patience = self.seal_patience();
                let until = self.now + self.span(patience / 4, patience * 3 / 4);
                self.nemesis.silenced = Some((other, group, until));
            }
            Mischief::EntrustOther => {
                if let Some(host) = self.leader_of(group) {
                    return self.entrust(other, host);
                }
            }
            Mischief::WipeLeader => {
                if let Some(host) = self.leader_of(group) {
                    self.lose_disk_of(host);
                }
            }
            Mischief::StallHeir => self.stall_heir(ambush),
            Mischief::Inherit => return self.inherit(ambush),
            Mischief::Readmit => return self.readmit(ambush),
            Mischief::HandOverTo(host) => return self.hand_over_to(group, host),
            Mischief::EntrustLagger | Mischief::EntrustForgetful => self.entrust_to_follower(ambush),
            Mischief::Entrust(host) => return self.entrust(group, host),
            Mischief::WipeOthers(host) => self.wipe_others(group, host),
            Mischief::PartWays => return self.part_ways(ambush),
            Mischief::Forget(host) => self.crash_and_start(host),
            Mischief::Relapse(host) => self.relapse(ambush, host),
            Mischief::TakeBack => return self.take_back(ambush),
            Mischief::Blackout(host) => self.black_out(ambush, host),
            Mischief::LoseDisk(host) => self.lose_disk_of(host),
            Mischief::Lose => self.disaster_of(group),
            Mischief::LoseOther => self.disaster_of(other),
        }
        Ok(())
    }

    fn members_are(&self, group: GroupId, are: impl FnOnce(&[Option<usize>]) -> bool) -> bool {
        let Some(configuration) = self.observer.configuration(group) else { return false };
        let hosts: Vec<_> = voters(configuration).iter().map(|node| self.directory.get(node).copied()).collect();
        are(&hosts)
    }

    /// A follower that is behind, or has forgotten, becomes the only one who holds what the group has.
    fn entrust_to_follower(&mut self, ambush: Ambush) {
        let Some(host) = self.follower_of(ambush.group) else { return };
        let lease = self.lease();
        let back = self.span(lease / 4, lease * 4);
        if ambush.mischief == Mischief::EntrustLagger {
            let others: Vec<usize> = (0..self.hosts.len()).filter(|other| *other != host).collect();
            self.part(host, &others, self.now + back);
        } else {
            self.crash(host);
            self.at(self.now + back, Event::Undo(Undo::Start(host)));
        }
        let until = self.now + back + 8 * SECOND;
        let ambush = Ambush { moment: Moment::Ordered, mischief: Mischief::Entrust(host), until, ..ambush };
        for again in [0, 200, 600, 1_500] {
            self.lie_in_wait(back + MILLISECOND * (1 + again), ambush);
        }
        let moment = Moment::Alone(ambush.group, host);
        self.lie_in_wait(back, Ambush { moment, mischief: Mischief::WipeOthers(host), ..ambush });
    }

    /// Everybody but this host is to leave the group.
    fn entrust(&mut self, group: GroupId, host: usize) -> Checked {
        let Some(configuration) = self.observer.configuration(group) else { return Ok(()) };
        let here = |node: &NodeId| self.directory.get(node) == Some(&host);
        let (kept, gone): (Vec<NodeId>, _) = voters(configuration).into_iter().partition(here);
        if kept.len() != 1 || gone.is_empty() {
            return Ok(());
        }
        self.change_members(group, Vec::new(), gone)
    }

    fn wipe_others(&mut self, group: GroupId, host: usize) {
        let once = self.observer.configurations(group).iter().flat_map(|(_, configuration)| &configuration.members);
        let once: BTreeSet<NodeId> = once.map(|member| member.node).collect();
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            let Some(node) = self.hosts[other].node_id() else { continue };
            if once.contains(&node) {
                self.lose_disk_of(other);
            }
        }
    }

    /// A follower that has yet to apply what moves is to lead whoever it moved to.
    fn stall_heir(&mut self, ambush: Ambush) {
        let Some(host) = self.follower_of(ambush.group) else { return };
        if let Some(process) = &mut self.hosts[host].process {
            process.work_stalled_until = ambush.until;
        }
        let ambush = Ambush { moment: Moment::Reshaped, mischief: Mischief::HandOverTo(host), ..ambush };
        self.lie_in_wait(LOOK, ambush);
    }

    /// What the group has just taken over a part of is taken over by somebody else.
    fn inherit(&mut self, ambush: Ambush) -> Checked {
        let rivals = self.neighbours_of(ambush.other, &[ambush.group, ambush.other]);
        let Some((heir, from)) = rivals.first().copied() else { return Ok(()) };
        let Some(version) = self.observer.newest(heir).map(|state| state.range_version) else { return Ok(()) };
        let until = self.now + 6 * SECOND;
        let crash =
            Ambush { group: heir, version, moment: Moment::Settled, mischief: Mischief::CrashAll, until, ..ambush };
        self.lie_in_wait(LOOK, crash);
        self.order_takeover_from(heir, from, true)
    }

    fn readmit(&mut self, ambush: Ambush) -> Checked {
        let group = ambush.group;
        let Some(host) = self.follower_of(group) else { return Ok(()) };
        let Some(node) = self.hosts[host].node_id() else { return Ok(()) };
        self.at(self.now, Event::Undo(Undo::Slow(host)));
        let soon = self.now + self.span(20 * MILLISECOND, SECOND);
        self.at(soon, Event::Undo(Undo::Add(group, host, 5)));
        let crash = soon + self.span(20 * MILLISECOND, 3 * SECOND);
        self.at(crash, Event::Undo(Undo::Restart(host)));
        self.at(crash + SECOND, Event::Undo(Undo::Disk(host)));
        let moment = Moment::StoredUnlogged(host);
        self.lie_in_wait(LOOK, Ambush { moment, mischief: Mischief::Forget(host), until: crash, ..ambush });
        self.change_members(group, Vec::new(), vec![node])
    }

    fn has_stored_unlogged(&self, group: GroupId, host: usize) -> bool {
        let Host { disk, process, .. } = &self.hosts[host];
        let stored = process.as_ref().and_then(|process| process.stage.machine(group)).map(Machine::name);
        let logged = disk.log.replicas.get(&group).map(|logged| logged.replica);
        stored.is_some_and(|name| name.incarnation > Incarnation(1)) && stored != logged
    }

    /// The groups on both sides of one but for some, each with the side on which it has that one.
    fn neighbours_of(&self, group: GroupId, but: &[GroupId]) -> Vec<(GroupId, Side)> {
        let Some(state) = self.observer.newest(group) else { return Vec::new() };
        let sides =
            [(state.links.predecessor.group, Side::Successor), (state.links.successor.group, Side::Predecessor)];
        sides.into_iter().filter(|(neighbour, _)| !but.contains(neighbour)).collect()
    }

    fn leader_of(&self, group: GroupId) -> Option<usize> {
        (0..self.hosts.len()).rfind(|host| self.leads(*host, group))
    }

    fn are_led_apart(&self, group: GroupId, other: GroupId) -> bool {
        self.leader_of(group).zip(self.leader_of(other)).is_some_and(|(ours, theirs)| ours != theirs)
    }

    fn seal_patience(&self) -> Time {
        u64::try_from(self.plan.config.seal_patience.as_nanos()).unwrap_or(SECOND)
    }

    /// A host keeps a child and leaves its parent; then it dies.
    fn part_ways(&mut self, ambush: Ambush) -> Checked {
        let parent = ambush.group;
        let child = self.observer.newest(parent).and_then(|state| state.children.last()).map(|(child, _)| *child);
        let (Some(child), Some(host)) = (child, self.follower_of(parent)) else { return Ok(()) };
        let Some(node) = self.hosts[host].node_id() else { return Ok(()) };
        let until = self.now + 8 * SECOND;
        let waits = Ambush { moment: Moment::Ordered, until, ..ambush };
        for again in [10, 200, 600] {
            self.lie_in_wait(again * MILLISECOND, Ambush { group: child, mischief: Mischief::Entrust(host), ..waits });
        }
        let late = self.span(100 * MILLISECOND, 2 * SECOND);
        let mischief = if self.is_forgetful(host) { Mischief::Relapse(host) } else { Mischief::Forget(host) };
        self.lie_in_wait(late, Ambush { moment: Moment::Ordered, mischief, ..waits });
        self.change_members(parent, Vec::new(), vec![node])
    }

    fn relapse(&mut self, ambush: Ambush, host: usize) {
        self.nemesis.stunned = (BTreeSet::from([host]), self.now + 3 * SECOND);
        self.crash_and_start(host);
        let late = self.span(SECOND / 2, 3 * SECOND);
        self.lie_in_wait(late, Ambush { moment: Moment::Ordered, mischief: Mischief::Forget(host), ..ambush });
    }

    fn take_back(&mut self, ambush: Ambush) -> Checked {
        let Some(version) = self.observer.newest(ambush.group).map(|state| state.range_version) else { return Ok(()) };
        let Some(host) = self.follower_of(ambush.group) else { return Ok(()) };
        self.nemesis.remembers = Some(host);
        let until = self.now + 6 * SECOND;
        let mischief = Mischief::Blackout(host);
        self.lie_in_wait(LOOK, Ambush { version, moment: Moment::Settled, mischief, until, ..ambush });
        self.order_takeover_from(ambush.group, Side::Successor, false)
    }

    fn black_out(&mut self, ambush: Ambush, host: usize) {
        let others = (0..self.hosts.len()).filter(|other| *other != host).collect();
        let end = self.now + 7 * SECOND;
        self.nemesis.stunned = (others, end);
        for each in 0..self.hosts.len() {
            self.at(self.now + SECOND, Event::Undo(Undo::Restart(each)));
        }
        let moment = Moment::Ordered;
        let until = end + SECOND;
        let strike = Ambush { moment, mischief: Mischief::LoseDisk(host), until, ..ambush };
        self.lie_in_wait(end - self.now - SECOND / 4, strike);
    }

    /// Until when the machines of a host that starts now stand still.
    pub(crate) fn stunned_until(&self, host: usize) -> Time {
        let (stunned, until) = &self.nemesis.stunned;
        if stunned.contains(&host) && !self.nemesis.stopped { *until } else { 0 }
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
        let Some(host) = self.leader_of(group) else { return Ok(()) };
        let others: Vec<_> = all.into_iter().filter(|node| self.directory.get(node) != Some(&host)).collect();
        if others.is_empty() {
            return Ok(());
        }
        let to = *self.nemesis.random.pick(&others);
        let to = self.directory.get(&to).copied();
        to.map_or(Ok(()), |to| self.hand_over_to(group, to))
    }

    pub(super) fn hand_over_to(&mut self, group: GroupId, to: usize) -> Checked {
        let (Some(host), Some(to)) = (self.leader_of(group), self.hosts[to].node_id()) else { return Ok(()) };
        let Some(request) = self.ask(host, Asked::Order) else { return Ok(()) };
        self.input(host, Input::HandOver { request, group, to })
    }

    /// Another operation on one of two groups that are about one already.
    fn rival(&mut self, ambush: Ambush) -> Checked {
        let Ambush { group, other, .. } = ambush;
        let mut rivals = Vec::new();
        for victim in [other, group] {
            rivals.extend(self.neighbours_of(victim, &[group, victim]));
        }
        if rivals.is_empty() {
            return Ok(());
        }
        let (rival, from) = *self.nemesis.random.pick(&rivals);
        let merge = self.nemesis.random.permille(500);
        self.order_takeover_from(rival, from, merge)
    }

    /// How much later a message between groups arrives once more, if it does.
    pub(crate) fn echo(&mut self) -> Option<Time> {
        let echoes = self.nemesis.echoes_until > self.now && !self.nemesis.stopped;
        echoes.then(|| 5 * MILLISECOND + self.nemesis.random.below(ECHOES))
    }

    /// Whether a host's data store is not flushed, and it loses what that took up since if it dies.
    pub(crate) fn is_forgetful(&self, host: usize) -> bool {
        let forgets = self.nemesis.forgetful_until > self.now && !self.nemesis.stopped;
        forgets && self.nemesis.remembers != Some(host)
    }

    /// Whether the votes of one group on what another asks are lost.
    pub(crate) fn is_silenced(&self, from: GroupId, to: GroupId) -> bool {
        let silenced = self.nemesis.silenced.filter(|_| !self.nemesis.stopped);
        silenced.is_some_and(|(speaker, hearer, until)| speaker == from && hearer == to && self.now < until)
    }
}

impl Mischief {
    const ANY: &[Self] = &[
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
