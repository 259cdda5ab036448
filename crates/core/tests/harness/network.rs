//! What lies between the nodes: delay, rules that lose or hold back messages, and connections that were greeted.

use super::render;
use scatter_core::entry::Room;
use scatter_core::message::{Message, PeerMessage};
use scatter_core::ops::messages::GroupMessage;
use scatter_core::types::{Ballot, ConfigurationVersion, GroupId, Slot};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A message on its way.
pub(crate) struct Flight {
    due_ms: u64,
    pub(crate) from: char,
    pub(crate) to: char,
    pub(crate) message: PeerMessage,
}

/// From one node to another, of one group.
type Way = (char, char, GroupId);

/// What a rule does to a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Held,
    /// It arrives, and a copy of it is held.
    Twice,
    /// The piece of a snapshot in it arrives with one bit turned.
    Damaged,
}

/// What is done to messages that match. `*` is every node.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) from: char,
    pub(crate) to: char,
    /// To which group; `None`: to every.
    pub(crate) group: Option<GroupId>,
    /// Of which kind; `None`: of every.
    pub(crate) kind: Option<String>,
    pub(crate) fate: Fate,
}

impl Rule {
    fn on(&self, from: char, to: char) -> bool {
        [(self.from, from), (self.to, to)].iter().all(|(rule, node)| *rule == '*' || rule == node)
    }
}

/// What became of a message that was sent.
pub(crate) struct Sent {
    /// Said behind the message.
    pub(crate) fate: &'static str,
    /// It says something that the last of its kind did not.
    pub(crate) worth_telling: bool,
}

#[derive(Default)]
pub(crate) struct Network {
    flights: VecDeque<Flight>,
    held: Vec<Flight>,
    pub(crate) rules: Vec<Rule>,
    greeted: BTreeSet<(char, char, (u64, u64))>,
    /// Also tell of messages that repeat what the last one said.
    pub(crate) tell_all: bool,
    /// The last heartbeat, and the last answer, from one node to another.
    heartbeats: BTreeMap<Way, (Ballot, Slot)>,
    answers: BTreeMap<Way, (Ballot, Slot, Room)>,
    /// The members of a group that one node last told another of, in answer to what was meant for its leader.
    pointers: BTreeMap<Way, ConfigurationVersion>,
    /// The beats told of.
    beats: BTreeSet<(char, char, u64)>,
}

impl Network {
    pub(crate) fn send(&mut self, now_ms: u64, from: char, to: char, message: PeerMessage) -> Sent {
        let worth_telling = self.is_news(from, to, &message) || self.tell_all;
        let kind = render::kind(&message);
        let group = render::addressed(&message);
        let applies = |rule: &&Rule| {
            let kinds = rule.kind.as_ref().is_none_or(|wanted| wanted == kind);
            rule.on(from, to) && kinds && (rule.group.is_none() || rule.group == group)
        };
        let rule = self.rules.iter().find(applies).cloned();
        let mut flight = Flight { due_ms: now_ms + 1, from, to, message };
        let fate = match rule.map(|rule| rule.fate) {
            Some(Fate::Held) => {
                self.held.push(flight);
                " (held)"
            }
            Some(Fate::Twice) => {
                self.held.push(Flight { message: flight.message.clone(), ..flight });
                self.flights.push_back(flight);
                " (a copy held)"
            }
            Some(Fate::Lost) => " (lost)",
            Some(Fate::Damaged) => {
                damage(&mut flight.message);
                self.flights.push_back(flight);
                " (damaged)"
            }
            None => {
                self.flights.push_back(flight);
                ""
            }
        };
        Sent { fate, worth_telling }
    }

    fn is_news(&mut self, from: char, to: char, message: &PeerMessage) -> bool {
        let envelope = match message {
            PeerMessage::Replica { envelope } => envelope,
            PeerMessage::Group { envelope } => {
                let GroupMessage::Moved { configuration } = &envelope.message else { return true };
                let before = self.pointers.insert((from, to, envelope.from), configuration.version);
                return before != Some(configuration.version);
            }
            PeerMessage::Bind { .. }
            | PeerMessage::Bound { .. }
            | PeerMessage::Gone { .. }
            | PeerMessage::Cover { .. }
            | PeerMessage::Covered { .. }
            | PeerMessage::Uncovered { .. }
            | PeerMessage::Gossip { .. } => return true,
            PeerMessage::Beat { generation, .. } | PeerMessage::Beaten { generation, .. } => {
                return self.beats.insert((from, to, *generation));
            }
        };
        let way = (from, to, envelope.to.group);
        match &envelope.message {
            Message::Accept { ballot, entries, decided, .. } => {
                let before = self.heartbeats.insert(way, (*ballot, *decided));
                !entries.is_empty() || before != Some((*ballot, *decided))
            }
            Message::Accepted { ballot, through, want, room, .. } => {
                let before = self.answers.insert(way, (*ballot, *through, *room));
                want.is_some() || before != Some((*ballot, *through, *room))
            }
            _ => true,
        }
    }

    /// Whether an arbitrary message would get through.
    pub(crate) fn passes(&self, from: char, to: char) -> bool {
        !self.rules.iter().any(|rule| rule.on(from, to) && rule.kind.is_none() && rule.group.is_none())
    }

    /// Messages that arrive.
    pub(crate) fn due(&mut self, now_ms: u64) -> Vec<Flight> {
        let mut due = Vec::new();
        while self.flights.front().is_some_and(|flight| flight.due_ms <= now_ms) {
            due.extend(self.flights.pop_front());
        }
        due
    }

    /// Sends on what was held back between two nodes.
    pub(crate) fn release(&mut self, now_ms: u64, from: char, to: char) -> Vec<PeerMessage> {
        self.rules.retain(|rule| !(rule.fate == Fate::Held && rule.from == from && rule.to == to));
        let pair = Rule { from, to, group: None, kind: None, fate: Fate::Held };
        let (released, kept) = std::mem::take(&mut self.held).into_iter().partition(|it| pair.on(it.from, it.to));
        self.held = kept;
        let mut messages = Vec::new();
        for flight in Vec::<Flight>::into_iter(released) {
            messages.push(flight.message.clone());
            self.flights.push_back(Flight { due_ms: now_ms + 1, ..flight });
        }
        messages
    }

    /// A process died: nobody remembers what it said last.
    pub(crate) fn forget(&mut self, letter: char) {
        self.heartbeats.retain(|(from, to, _), _| *from != letter && *to != letter);
        self.answers.retain(|(from, to, _), _| *from != letter && *to != letter);
        self.pointers.retain(|(from, to, _), _| *from != letter && *to != letter);
    }

    pub(crate) fn greeted(&self, from: char, to: char, boots: (u64, u64)) -> bool {
        self.greeted.contains(&(from, to, boots))
    }

    pub(crate) fn greet(&mut self, from: char, to: char, boots: (u64, u64)) {
        self.greeted.insert((from, to, boots));
        self.greeted.insert((to, from, (boots.1, boots.0)));
    }
}

/// Turns a bit in the middle of a snapshot's piece.
fn damage(message: &mut PeerMessage) {
    if let PeerMessage::Replica { envelope } = message
        && let Message::SnapshotChunk { piece, .. } = &mut envelope.message
    {
        let mut bytes = piece.chunk.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        piece.chunk = bytes.into();
    }
}
