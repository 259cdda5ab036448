//! What a leader hears of the groups around its own: how busy the ring neighbours are, and who lies far ahead.
//!
//! ```text
//! asker                                      the group at level i of its far links; level 0 is its successor
//!   | Look(i, load) ------------------------> |  of its predecessor it takes the load
//!   | <--- Seen(i, self, link at i, load) --- |  that link becomes the asker's at level i + 1; of its successor it takes the load
//! ```
//!
//! Each turn of [`crate::Config::look_around`] a leader asks its successor and, while far links are wanted, one group further
//! ahead, the levels in turn ([`FarLinks`]). A question goes to the node that spoke for the group last, and in the next turn, if it
//! was not answered, to all members; who is silent then is given up. The successor is not: the group knows it for certain.
//!
//! All of it is hints, and none of it is in any log: a leader keeps it in memory, and the next one asks anew. A stale link costs
//! a hop, a stale load a needless operation.

use super::messages::GroupMessage;
use crate::group::{Descriptor, GroupState, Link};
use crate::policy::GroupLoad;
use crate::replica::{Context, Replica, Role};
use crate::ring::routing::{FarLinks, Question};
use crate::time::{Instant, nanos};
use crate::types::{GroupId, NodeId, RangeVersion};
use std::sync::Arc;
use std::time::Duration;

/// For how many turns a load counts.
const MOST_TURNS: u32 = 4;

/// Into how many parts a turn is divided, in each of which some of a node's groups ask. Those of one part share a burst.
const PARTS: u64 = 16;

/// The levels that are known without asking anybody but the successor.
const NEAR_LEVELS: usize = 2;

/// How far the leaders of a node look around.
#[derive(Debug, Default)]
pub(crate) struct Looking {
    /// Further than the successor.
    pub(crate) far: bool,
    pub(crate) looked: Looked,
}

/// How often leaders looked around since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Looked {
    /// Questions to other groups.
    pub asked: u64,
    /// Those that nobody had answered by the next turn.
    pub unanswered: u64,
}

/// A neighbour's load.
#[derive(Clone, Copy, Debug)]
struct Heard {
    load: GroupLoad,
    /// Whose, as which range, and when it was heard.
    group: GroupId,
    range_version: RangeVersion,
    at: Instant,
}

impl Heard {
    /// The load, if it is that of the neighbour as the group knows it, and not too old.
    fn current(&self, link: &Link, now: Instant, turn: Duration) -> Option<GroupLoad> {
        let same = self.group == link.group && self.range_version == link.range_version;
        (same && now.since(self.at) <= turn * MOST_TURNS).then_some(self.load)
    }
}

/// A question to a group further ahead that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Open {
    group: GroupId,
    level: usize,
    /// It went to all members.
    to_all: bool,
}

/// What one leader has heard of the groups around.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    links: FarLinks,
    /// The successor that has not answered yet.
    near: Option<GroupId>,
    further: Option<Open>,
    load: Option<GroupLoad>,
    /// Of predecessor and successor.
    heard: [Option<Heard>; 2],
    /// There is somebody to ask.
    beside_others: bool,
    /// The next turn; none is set before the leader has applied what came before it.
    again_at: Option<Instant>,
}

impl Surroundings {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.again_at.filter(|_| self.beside_others)
    }

    pub(crate) fn note_load(&mut self, load: GroupLoad) {
        self.load = Some(load);
    }

    pub(crate) fn far_links(&self) -> &FarLinks {
        &self.links
    }

    /// Level 0 is the successor that the group knows of.
    fn set_successor(&mut self, state: &GroupState) {
        self.links.set_successor(&state.range, Arc::new(state.links.successor.descriptor()));
    }

    /// Whom to ask in this turn, and whether all members of it.
    fn questions(&mut self, looking: &mut Looking) -> Vec<(Question, bool)> {
        let mut questions = Vec::new();
        if let Some(successor) = self.links.level(0).cloned() {
            let silent = self.near.replace(successor.group) == Some(successor.group);
            looking.looked.unanswered += u64::from(silent);
            questions.push((Question { ask: successor, level: 0 }, silent));
        }
        if looking.far {
            questions.extend(self.further_question(looking));
        } else {
            self.further = None;
            // What nobody asks about any more would only grow old.
            self.links.truncate(NEAR_LEVELS);
        }
        looking.looked.asked += questions.len() as u64;
        questions
    }

    /// The question that was not answered, once more and to all, or the next level's.
    fn further_question(&mut self, looking: &mut Looking) -> Option<(Question, bool)> {
        if let Some(open) = self.further.take() {
            looking.looked.unanswered += 1;
            let ask = self.links.level(open.level).filter(|link| link.group == open.group && !open.to_all).cloned();
            if let Some(ask) = ask {
                self.further = Some(Open { to_all: true, ..open });
                return Some((Question { ask, level: open.level }, true));
            }
            if open.to_all {
                self.links.forget(open.group);
            }
        }
        // The successor is asked in every turn.
        let question = self.links.question().filter(|question| question.level > 0)?;
        self.further = Some(Open { group: question.ask.group, level: question.level, to_all: false });
        Some((question, false))
    }

    /// Takes what a group says of its own load, if it is a neighbour.
    fn hear(&mut self, state: &GroupState, from: (GroupId, RangeVersion), load: Option<GroupLoad>, at: Instant) {
        let Some(load) = load else { return };
        let (group, range_version) = from;
        for (link, heard) in [&state.links.predecessor, &state.links.successor].into_iter().zip(&mut self.heard) {
            if link.group == group {
                *heard = Some(Heard { load, group, range_version, at });
            }
        }
    }

    /// Whether somebody answers what was asked.
    fn is_answered(&mut self, by: GroupId, level: usize) -> bool {
        let near = level == 0 && self.near.take_if(|group| *group == by).is_some();
        near || self.further.take_if(|open| open.group == by && open.level == level).is_some()
    }
}

/// When a group's next turn is. Each group has its own part of the turn, so that those of a node do not all ask at once.
fn next_turn(now: Instant, group: GroupId, every: Duration) -> Instant {
    let part = (nanos(every) / PARTS).max(1);
    let (here, own) = (now.0 / part, group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60);
    let ahead = (own + PARTS - here % PARTS - 1) % PARTS + 1;
    Instant(here.saturating_add(ahead).saturating_mul(part))
}

impl Replica {
    /// Asks the groups around, if it is this group's turn.
    pub(crate) fn look_around(&mut self, cx: &mut Context<'_>) {
        let (now, applied, group) = (cx.now.instant, self.applied, self.name.group);
        let Role::Leader(leader) = &mut self.role else { return };
        let surroundings = &leader.operations.surroundings;
        if surroundings.again_at.is_some_and(|at| now < at) || !leader.may_operate(applied) {
            return;
        }
        let Some(report) = &self.report else { return };
        let state = &report.state;
        let surroundings = &mut leader.operations.surroundings;
        let first = surroundings.again_at.replace(next_turn(now, group, cx.config.look_around)).is_none();
        surroundings.set_successor(state);
        surroundings.beside_others = state.links.successor.group != group;
        if first || !surroundings.beside_others {
            return;
        }
        let (range_version, load) = (state.range_version, surroundings.load);
        for (question, to_all) in surroundings.questions(cx.looking) {
            let level = u8::try_from(question.level).unwrap_or(u8::MAX);
            self.ask_ahead(&question.ask, to_all, GroupMessage::Look { level, range_version, load }, cx);
        }
    }

    /// Asks the node that leads another group, if that is known, or all its members.
    fn ask_ahead(&self, whom: &Descriptor, to_all: bool, message: GroupMessage, cx: &mut Context<'_>) {
        let leader = whom.leader.filter(|_| !to_all).and_then(|node| whom.configuration.member(node));
        match leader {
            Some(leader) => self.tell_node(leader.node, Some(leader.address.clone()), whom.group, message, cx),
            None => self.tell_group(&whom.link(), &message, cx),
        }
    }

    /// Another group looks around.
    pub(crate) fn on_look(
        &mut self,
        node: NodeId,
        from: GroupId,
        level: usize,
        (range_version, load): (RangeVersion, Option<GroupLoad>),
        cx: &mut Context<'_>,
    ) {
        let (Some(report), Role::Leader(leader)) = (&self.report, &mut self.role) else { return };
        let state = &report.state;
        let surroundings = &mut leader.operations.surroundings;
        surroundings.hear(state, (from, range_version), load, cx.now.instant);
        surroundings.set_successor(state);
        let seen = GroupMessage::Seen {
            level: u8::try_from(level).unwrap_or(u8::MAX),
            own: state.descriptor(Some(self.name.node), leader.ballot),
            link: surroundings.links.level(level).map(|link| Descriptor::clone(link)),
            load: surroundings.load,
        };
        self.tell_node(node, None, from, seen, cx);
    }

    /// A group that was asked says what it is and whom it knows ahead.
    pub(crate) fn on_seen(
        &mut self,
        level: usize,
        own: &Descriptor,
        link: Option<Descriptor>,
        load: Option<GroupLoad>,
        cx: &Context<'_>,
    ) {
        let (Some(report), Role::Leader(leader)) = (&self.report, &mut self.role) else { return };
        let surroundings = &mut leader.operations.surroundings;
        // What was not asked for, or long ago, tells of another time.
        if surroundings.is_answered(own.group, level) {
            surroundings.hear(&report.state, (own.group, own.range_version), load, cx.now.instant);
            surroundings.links.heard(level, own);
            surroundings.links.answered(report.state.group, &report.state.range, level, link.map(Arc::new));
        }
    }

    /// What the ring neighbours said of their loads, as far as it still counts.
    pub(crate) fn neighbour_loads(&self, now: Instant, turn: Duration) -> [Option<GroupLoad>; 2] {
        let (Some(report), Role::Leader(leader)) = (&self.report, &self.role) else { return [None; 2] };
        let links = [&report.state.links.predecessor, &report.state.links.successor];
        let mut heard = leader.operations.surroundings.heard.into_iter();
        links.map(|link| heard.next().flatten()?.current(link, now, turn))
    }
}

#[cfg(test)]
mod tests;
