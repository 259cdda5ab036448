//! Links to groups far ahead, at exponentially growing distances, so that a large ring is crossed in few hops.
//!
//! Level `i` is the group about `2^i` groups ahead; level 0 is the successor. Level `i + 1` is learned by asking the group
//! at level `i` for *its* level `i` (pointer doubling, the routing of Chord and of skip lists). One level is asked for at a
//! time, in turn, so upkeep is one small message and one answer per group and interval, however large the ring is. Who asks, and
//! when: [`crate::ops::surroundings`].
//!
//! A group that hears of a split or a merge far away notices it when the level's turn comes; until then the link is a few
//! groups off, which costs nothing: it is only used if it lies before the position sought.

use super::{closeness, merged, steps_from};
use crate::group::Descriptor;
use crate::planted::{self, Bug};
use crate::ring::{KeyRange, Position};
use crate::types::GroupId;
use std::sync::Arc;

/// The most levels: enough for 2^40 groups.
pub const MAX_LEVELS: usize = 40;

/// What to ask next, and whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// The group at this level.
    pub ask: Arc<Descriptor>,
    /// The level asked for; the answer becomes the asker's next level.
    pub level: usize,
}

/// The way to a position from one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hop<'a> {
    /// The group itself owns it.
    Here,
    /// That group owns it or lies closer before it.
    Ask(&'a Arc<Descriptor>),
    /// Nothing known lies between this group and the position, not even a successor.
    NoWay,
}

/// What is heard of a level's group, or what is known of it already if that is no older.
fn newest(known: Option<&Arc<Descriptor>>, heard: Arc<Descriptor>) -> Arc<Descriptor> {
    match known.filter(|known| known.group == heard.group) {
        Some(known) => merged(known, &heard).map_or_else(|| Arc::clone(known), Arc::new),
        None => heard,
    }
}

/// One group's far links. Hints, kept by its leader; a new leader fills them again.
#[derive(Clone, Default, Debug)]
pub struct FarLinks {
    /// A level whose group was given up is empty until its turn comes.
    levels: Vec<Option<Arc<Descriptor>>>,
    /// The level asked about next.
    cursor: usize,
}

impl FarLinks {
    /// Takes the successor, which the group knows for certain, as level 0. On a ring of one group there are no links.
    pub fn set_successor(&mut self, own: &KeyRange, successor: Arc<Descriptor>) {
        if own.is_whole() || successor.range.start == own.start {
            self.levels.clear();
        } else if self.levels.is_empty() {
            self.levels.push(Some(successor));
        } else {
            self.levels[0] = Some(newest(self.level(0), successor));
        }
    }

    /// Takes what a group says of itself, if it is the one at `level`.
    pub fn heard(&mut self, level: usize, own: &Descriptor) {
        if let Some(Some(known)) = self.levels.get_mut(level)
            && known.group == own.group
            && let Some(news) = merged(known, own)
        {
            *known = Arc::new(news);
        }
    }

    /// Gives up all links from `level` on.
    pub fn truncate(&mut self, level: usize) {
        self.levels.truncate(level);
    }

    /// The link at `level`, as the answer to another group's question.
    #[must_use]
    pub fn level(&self, level: usize) -> Option<&Arc<Descriptor>> {
        self.levels.get(level)?.as_ref()
    }

    /// All links, the nearest first.
    pub fn links(&self) -> impl Iterator<Item = &Arc<Descriptor>> {
        self.levels.iter().flatten()
    }

    /// Whom to ask next. Each call moves on to the next level.
    pub fn question(&mut self) -> Option<Question> {
        for _ in 0..self.levels.len() {
            if self.cursor >= self.levels.len().min(MAX_LEVELS - 1) {
                self.cursor = 0;
            }
            let level = self.cursor;
            self.cursor += 1;
            if let Some(ask) = self.level(level) {
                return Some(Question { ask: Arc::clone(ask), level });
            }
        }
        None
    }

    /// Takes the answer to a question about `level`: what the group at that level has there, `None` if it does not know. An
    /// answer that does not lie between that group and the asker's own start went round the ring: there are no more levels. So did
    /// one that names the asker, wherever it began when that was heard.
    pub fn answered(&mut self, group: GroupId, own: &KeyRange, level: usize, link: Option<Arc<Descriptor>>) {
        let (Some(from), Some(link)) = (self.level(level), link) else { return };
        let steps = |position| steps_from(&own.start, position);
        let other = link.group != group && link.range.start != own.start;
        let ahead = other && steps(&link.range.start) > steps(&from.range.start);
        let next = level + 1;
        if ahead && self.level(next).is_some() && planted::on(Bug::FarLinkKept) {
            return;
        }
        if !ahead {
            self.levels.truncate(next);
        } else if next < self.levels.len() {
            self.levels[next] = Some(newest(self.level(next), link));
        } else if next < MAX_LEVELS {
            self.levels.push(Some(link));
        }
    }

    /// Gives up the links to a group that does not answer. The successor stays: it is not for hints to say that it is gone.
    pub fn forget(&mut self, group: GroupId) {
        for level in self.levels.iter_mut().skip(1) {
            level.take_if(|link| link.group == group);
        }
    }

    /// The way to `position` for a request at a group that owns `own`: the link that lies closest before it. Each hop comes
    /// strictly closer as long as groups start where the links say. Who cannot rely on that uses [`super::Search`].
    #[must_use]
    pub fn next_hop(&self, own: &KeyRange, position: &Position) -> Hop<'_> {
        if own.contains(position) {
            return Hop::Here;
        }
        let between = |link: &&Arc<Descriptor>| {
            let start = &link.range.start;
            start != &own.start && steps_from(&own.start, start) <= steps_from(&own.start, position)
        };
        let best = self.links().filter(between).max_by_key(|link| closeness(position, &link.range.start));
        best.map_or(Hop::NoWay, Hop::Ask)
    }
}
