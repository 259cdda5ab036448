//! Links to the ring neighbours: each leader tells both what its group is, until they have it.
//!
//! ```text
//! teller                          neighbour
//!   | Neighbour(link) ------------> |  news? [Links entry]          (the answer is: again)
//!   | <--- Heard(link, known: no) - |
//!   | Neighbour(link) ------------> |  applied, or what is known is as new
//!   | <-- Heard(link, known: yes) - |
//! ```
//!
//! An answer carries the hearer's own link: a teller that spoke to a group that is its neighbour no more learns whom to ask.
//! If nobody answers, every member that is known of the neighbour may be gone, and those that are its members now, or of whatever took
//! its place, may know as little of the teller. Then whatever else was heard of next to it is told as well; only
//! its answer is believed.

use super::messages::GroupMessage;
use super::transitions::is_newer;
use crate::codec::Encode;
use crate::entry::EntryKind;
use crate::group::{Configuration, GroupState, Link};
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::{ConfigurationVersion, GroupId, NodeId, RangeVersion};

/// The longest pause between two repetitions, in rounds of [`crate::Config::group_resend`].
const MOST_ROUNDS: u32 = 32;

/// After a pause of so many rounds without an answer a neighbour is looked for elsewhere.
const SEEK_ROUNDS: u32 = 8;

/// What was told: to whom, and the teller's versions.
type Told = (GroupId, RangeVersion, ConfigurationVersion);

/// What a leader's neighbours were told. A new leader tells them anew.
#[derive(Debug, Default)]
pub(crate) struct Telling {
    /// What each is to know, and what it has acknowledged: predecessor, successor.
    wanted: [Option<Told>; 2],
    known: [Option<Told>; 2],
    /// The members that each has acknowledged to know.
    reached: [Vec<NodeId>; 2],
    again_at: Instant,
    rounds: u32,
}

impl Telling {
    fn owes(&self) -> bool {
        self.wanted.iter().zip(&self.known).any(|(wanted, known)| wanted.is_some() && wanted != known)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.owes().then_some(self.again_at)
    }

    fn seeks_neighbour(&self) -> bool {
        self.owes() && self.rounds >= SEEK_ROUNDS
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.owes() && now >= self.again_at
    }
}

impl Replica {
    /// Whether each neighbour knows a member of the set that is to come: else none of them would be found.
    pub(crate) fn is_reachable_with(&self, next: &Configuration) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let telling = &leader.operations.telling;
        telling
            .wanted
            .iter()
            .zip(&telling.reached)
            .all(|(wanted, reached)| wanted.is_none() || reached.iter().any(|node| next.member(*node).is_some()))
    }

    /// Tells the neighbours what they do not know yet.
    pub(crate) fn tell_neighbours(&mut self, state: &GroupState, cx: &mut Context<'_>) {
        let (group, now) = (self.name.group, cx.now.instant);
        let neighbours = [&state.links.predecessor, &state.links.successor];
        let versions = (state.range_version, state.configuration.version);
        let wanted = neighbours.map(|link| (link.group != group).then_some((link.group, versions.0, versions.1)));
        let Role::Leader(leader) = &mut self.role else { return };
        let telling = &mut leader.operations.telling;
        if telling.wanted != wanted {
            telling.wanted = wanted;
            telling.rounds = 0;
            telling.again_at = now;
        }
        if !telling.is_due(now) {
            return;
        }
        telling.rounds = (telling.rounds * 2).clamp(1, MOST_ROUNDS);
        telling.again_at = now.after(cx.config.group_resend * telling.rounds);
        let known = telling.known;
        let same = wanted[0] == wanted[1];
        for (index, link) in neighbours.into_iter().enumerate() {
            let twice = same && index == 1;
            if wanted[index].is_some() && wanted[index] != known[index] && !twice {
                self.tell_group(link, &GroupMessage::Neighbour { link: state.link() }, cx);
            }
        }
    }

    /// Whether it leads a group with a neighbour whom nobody answers for.
    pub(crate) fn seeks_neighbour(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.operations.telling.seeks_neighbour())
    }

    /// Groups were heard of that may lie next to this one: those of whom it knows nothing as new hear of it.
    pub(crate) fn on_found(&mut self, links: &[Link], cx: &mut Context<'_>) {
        let Some(state) = self.report.as_ref().map(|report| &report.state).filter(|_| self.seeks_neighbour()) else {
            return;
        };
        let own = GroupMessage::Neighbour { link: state.link() };
        for link in links.iter().filter(|link| state.is_news(link, false) || state.is_news(link, true)) {
            self.tell_group(link, &own, cx);
        }
    }

    /// Another group says what it is.
    pub(crate) fn on_neighbour(&mut self, node: NodeId, link: Link, cx: &mut Context<'_>) {
        let Some(state) = self.report.as_ref().map(|report| report.state.clone()) else { return };
        let ends = state.pending.as_ref().is_some_and(|pending| pending.sealed().is_some());
        let news = state.is_news(&link, false) || state.is_news(&link, true);
        let sides = [&state.links.predecessor, &state.links.successor];
        let adjacent = link.range.start == state.range.end || link.range.end == state.range.start;
        // What is no news was known already, or was replaced by something later.
        let old = sides.iter().any(|known| known.group == link.group && !is_newer(&link, known));
        let known = (!ends && !news && (adjacent || old)) || planted::on(Bug::LinkAcknowledgedUnread);
        if news && !ends {
            self.take_link(link.clone());
        }
        let (group, own) = (link.group, state.link());
        self.tell_node(node, None, group, GroupMessage::Heard { of: link, known, link: own }, cx);
    }

    /// What a neighbour made of what it was told.
    pub(crate) fn on_heard(&mut self, of: &Link, known: bool, link: Link, cx: &mut Context<'_>) {
        let Some(state) = self.report.as_ref().map(|report| report.state.clone()) else { return };
        let current = state.link();
        if known && *of == current {
            let told = (link.group, current.range_version, current.configuration_version);
            let Role::Leader(leader) = &mut self.role else { return };
            let telling = &mut leader.operations.telling;
            for side in 0..telling.known.len() {
                if telling.wanted[side] == Some(told) {
                    telling.known[side] = Some(told);
                    telling.reached[side] = current.members.iter().map(|member| member.node).collect();
                }
            }
        }
        if state.is_news(&link, false) || state.is_news(&link, true) {
            self.take_link(link);
        }
        let _ = cx;
    }

    fn take_link(&mut self, link: Link) {
        if self.under_way(EntryKind::Links) {
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.propose_own(EntryKind::Links, vec![link].to_bytes());
        }
    }
}
