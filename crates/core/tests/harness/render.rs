//! Terse words for what happens between, on and at nodes.
//!
//! Nodes are letters, learners small ones; `A.3` is A's third incarnation (the first is not named). `2@B` is a ballot,
//! `c3` a configuration's version, `v2` a range's, `d7` "decided up to slot 7". Clocks, leases and versions of keys are left
//! out.
//!
//! Groups are `g1`, `g2`, .. in the order in which they are first seen. What is of the first group does not name it. `g1.5` is
//! the operation that g1 began at slot 5. Boundaries of the ring are hexadecimal, and `-` is its first position.

use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::command::{Command, Operation, Outcome};
use scatter_core::durable::{Binding, NodeRecord, Write};
use scatter_core::effects::{Refused, Reply};
use scatter_core::entry::{Entry, EntryKind, Room};
use scatter_core::group::{Configuration, GroupState, Link, Role};
use scatter_core::message::{Message, PeerMessage, Refusal, Ticket};
use scatter_core::ops::messages::{GroupEnvelope, GroupMessage, Standing, Vote};
use scatter_core::ops::{Begin, Decide, OperationId, Pending, Prepare, Recover, Resolve, Split, Takeover};
use scatter_core::policy::GroupLoad;
use scatter_core::ring::{KeyRange, Position};
use scatter_core::types::{Ballot, FeatureLevel, GroupId, Incarnation, NodeId, Slot};
use std::cell::RefCell;

/// What groups are called.
#[derive(Default)]
pub(crate) struct Names {
    groups: RefCell<Vec<GroupId>>,
}

impl Names {
    fn number(&self, group: GroupId) -> usize {
        let mut groups = self.groups.borrow_mut();
        let known = groups.iter().position(|known| *known == group);
        known.unwrap_or_else(|| {
            groups.push(group);
            groups.len() - 1
        })
    }

    /// `g2`.
    pub(crate) fn of(&self, group: GroupId) -> String {
        format!("g{}", self.number(group) + 1)
    }

    /// What stands before something that is of a group: nothing, if it is the first.
    pub(crate) fn before(&self, group: GroupId) -> String {
        if self.number(group) == 0 { String::new() } else { format!("{}: ", self.of(group)) }
    }

    /// The group that is called so.
    pub(crate) fn group(&self, name: &str) -> Option<GroupId> {
        let number: usize = name.strip_prefix('g')?.parse().ok()?;
        self.groups.borrow().get(number - 1).copied()
    }

    fn operation(&self, operation: OperationId) -> String {
        format!("{}.{}", self.of(operation.coordinator), operation.slot)
    }

    pub(crate) fn link(&self, link: &Link) -> String {
        let Link { group, range: it, range_version, configuration_version, .. } = link;
        format!("{} {} v{range_version} c{configuration_version}", self.of(*group), range(it))
    }

    fn takeover(&self, takeover: &Takeover) -> String {
        let what = if takeover.merge { "all".to_owned() } else { range(&takeover.moving) };
        format!("{what} of {}", self.of(takeover.loser))
    }
}

fn position(position: &Position) -> String {
    if *position == Position::first() { "-".to_owned() } else { position.to_string() }
}

pub(crate) fn range(range: &KeyRange) -> String {
    format!("[{} {})", position(&range.start), position(&range.end))
}

/// What a group has and what it is about, but for what every group has that is alone.
pub(crate) fn shape(names: &Names, state: &GroupState) -> String {
    let mut words = String::new();
    if !state.range.is_whole() || state.range_version.0 > 1 {
        words.push_str(&format!(", {} v{}", range(&state.range), state.range_version));
    }
    match &state.pending {
        Some(Pending::Gains { operation, .. }) => {
            words.push_str(&format!(", gains by {}", names.operation(*operation)))
        }
        Some(Pending::Loses { operation, takeover, .. }) => {
            words.push_str(&format!(", sealed {} by {}", range(&takeover.moving), names.operation(*operation)));
        }
        None => {}
    }
    if !state.outbox.is_empty() {
        words.push_str(&format!(", owes {}", state.outbox.len()));
    }
    words
}

/// The letter of a node: ids count from 1.
pub(crate) fn letter(node: NodeId) -> char {
    char::from(b'A' - 1 + u8::try_from(node.0).unwrap())
}

pub(crate) fn ballot(ballot: Ballot) -> String {
    if ballot == Ballot::ZERO {
        return "none".to_owned();
    }
    format!("{}@{}", ballot.round, name(ballot.node, ballot.incarnation))
}

fn name(node: NodeId, incarnation: Incarnation) -> String {
    let letter = letter(node);
    if incarnation == Incarnation(1) { letter.to_string() } else { format!("{letter}.{incarnation}") }
}

pub(crate) fn configuration(configuration: &Configuration) -> String {
    let member = |member: &scatter_core::group::Member| {
        let name = name(member.node, member.incarnation);
        if member.role == Role::Learner { name.to_lowercase() } else { name }
    };
    let members: Vec<String> = configuration.members.iter().map(member).collect();
    format!("c{} {{{}}}", configuration.version, members.join(" "))
}

pub(crate) fn slots(first: Slot, count: usize) -> String {
    match count {
        0 | 1 => first.to_string(),
        _ => format!("{first}..{}", first.0 + count as u64 - 1),
    }
}

fn command(bytes: Bytes) -> String {
    match Command::from_all(bytes).map(|command| command.operation) {
        Ok(Operation::Put { key, value, .. }) => {
            format!("{}={}", String::from_utf8_lossy(key.bytes()), String::from_utf8_lossy(&value))
        }
        Ok(Operation::Delete { key, .. }) => format!("delete {}", String::from_utf8_lossy(key.bytes())),
        Ok(Operation::Batch { .. }) => "batch".to_owned(),
        Err(_) => "garbage".to_owned(),
    }
}

pub(crate) fn entry(names: &Names, entry: &Entry) -> String {
    let body = entry.body.clone();
    match entry.kind {
        EntryKind::Noop => "noop".to_owned(),
        EntryKind::Commands => {
            let commands: Vec<Bytes> = Decode::from_all(body).unwrap_or_default();
            commands.into_iter().map(command).collect::<Vec<_>>().join(" ")
        }
        EntryKind::Configuration => Configuration::from_all(body).map_or("garbage".to_owned(), |it| configuration(&it)),
        EntryKind::Expire => "expire".to_owned(),
        EntryKind::FeatureLevel => {
            FeatureLevel::from_all(body).map_or("garbage".to_owned(), |it| format!("level {it}"))
        }
        EntryKind::Links
        | EntryKind::Split
        | EntryKind::Begin
        | EntryKind::Prepare
        | EntryKind::Decide
        | EntryKind::Resolve
        | EntryKind::Settle
        | EntryKind::Recover => between_groups_entry(names, entry.kind, body).unwrap_or("garbage".to_owned()),
        EntryKind::Correct => "correct".to_owned(),
    }
}

fn between_groups_entry(names: &Names, kind: EntryKind, body: Bytes) -> Option<String> {
    Some(match kind {
        EntryKind::Links => {
            let links = Vec::<Link>::from_all(body).ok()?;
            let links: Vec<String> = links.iter().map(|link| names.link(link)).collect();
            format!("links {}", links.join(", "))
        }
        EntryKind::Split => {
            let Split { at, child, leader, .. } = Split::from_all(body).ok()?;
            format!("split at {} to {}, {} leads", position(&at), names.of(child), letter(leader))
        }
        EntryKind::Recover => {
            let Recover { child, leader, survivors, .. } = Recover::from_all(body).ok()?;
            let survivors: String = survivors.into_iter().map(letter).collect();
            format!("recover as {} with {survivors}, {} leads", names.of(child), letter(leader))
        }
        EntryKind::Begin => format!("begin to take {}", names.takeover(&Begin::from_all(body).ok()?.takeover)),
        EntryKind::Prepare => {
            let Prepare { operation, takeover, .. } = Prepare::from_all(body).ok()?;
            format!("prepare {}, {}", names.operation(operation), names.takeover(&takeover))
        }
        EntryKind::Decide => {
            let Decide { operation, commit } = Decide::from_all(body).ok()?;
            format!("{} {}", if commit.is_some() { "commit" } else { "abort" }, names.operation(operation))
        }
        EntryKind::Resolve => {
            let Resolve { operation, committed } = Resolve::from_all(body).ok()?;
            format!("resolve {}: {}", names.operation(operation), decided(committed))
        }
        EntryKind::Settle => format!("settle {}", names.operation(OperationId::from_all(body).ok()?)),
        _ => return None,
    })
}

fn decided(committed: Option<Slot>) -> String {
    committed.map_or("aborted".to_owned(), |at| format!("committed at {at}"))
}

fn entries(names: &Names, list: &[Entry]) -> String {
    list.iter().map(|it| format!("[{}]", entry(names, it))).collect::<Vec<_>>().join(" ")
}

fn ticket(ticket: Option<Ticket>) -> String {
    ticket.map(|it| format!(" with the ticket of {}", ballot(it.ballot))).unwrap_or_default()
}

fn refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Promised => "promised",
        Refusal::Lease => "a lease stands",
        Refusal::Configuration => "a later configuration",
        Refusal::NoRoom => "no room",
    }
}

pub(crate) fn kind(message: &PeerMessage) -> &'static str {
    match message {
        PeerMessage::Bind { .. } => "Bind",
        PeerMessage::Bound { .. } => "Bound",
        PeerMessage::Gossip { .. } => "Gossip",
        PeerMessage::Cover { .. } => "Cover",
        PeerMessage::Covered { .. } => "Covered",
        PeerMessage::Beat { .. } => "Beat",
        PeerMessage::Beaten { .. } => "Beaten",
        PeerMessage::Uncovered { .. } => "Uncovered",
        PeerMessage::Replica { envelope } => match &envelope.message {
            Message::PreVote { .. } => "PreVote",
            Message::PreVoted { .. } => "PreVoted",
            Message::Prepare { .. } => "Prepare",
            Message::Promise { .. } => "Promise",
            Message::Refuse { .. } => "Refuse",
            Message::Accept { .. } => "Accept",
            Message::Accepted { .. } => "Accepted",
            Message::CatchUp { .. } => "CatchUp",
            Message::Decided { .. } => "Decided",
            Message::Truncated { .. } => "Truncated",
            Message::SnapshotPull { .. } => "SnapshotPull",
            Message::SnapshotChunk { .. } => "SnapshotChunk",
            Message::HandOver { .. } => "HandOver",
            Message::AskMembership { .. } => "AskMembership",
            Message::Membership { .. } => "Membership",
            Message::Merged { .. } => "Merged",
        },
        PeerMessage::Group { envelope } => match &envelope.message {
            GroupMessage::Inspect => "Inspect",
            GroupMessage::Inspected { .. } => "Inspected",
            GroupMessage::Align { .. } => "Align",
            GroupMessage::Prepare { .. } => "GroupPrepare",
            GroupMessage::Voted { .. } => "Voted",
            GroupMessage::Resolve { .. } => "Resolve",
            GroupMessage::Resolved { .. } => "Resolved",
            GroupMessage::Ask { .. } => "Ask",
            GroupMessage::Answer { .. } => "Answer",
            GroupMessage::Neighbour { .. } => "Neighbour",
            GroupMessage::Moved { .. } => "Moved",
            GroupMessage::Heard { .. } => "Heard",
            GroupMessage::Look { .. } => "Look",
            GroupMessage::Seen { .. } => "Seen",
        },
        PeerMessage::Gone { .. } => "Gone",
    }
}

/// The group that a message is for, if it is for one.
pub(crate) fn addressed(message: &PeerMessage) -> Option<GroupId> {
    match message {
        PeerMessage::Replica { envelope } => Some(envelope.to.group),
        PeerMessage::Group { envelope } => Some(envelope.to),
        PeerMessage::Gone { to, .. } => Some(to.group),
        PeerMessage::Bind { .. }
        | PeerMessage::Bound { .. }
        | PeerMessage::Gossip { .. }
        | PeerMessage::Cover { .. }
        | PeerMessage::Covered { .. }
        | PeerMessage::Beat { .. }
        | PeerMessage::Beaten { .. }
        | PeerMessage::Uncovered { .. } => None,
    }
}

fn binding(binding: &Binding) -> String {
    let founders: Vec<String> = binding.founders.iter().map(|(node, _)| letter(*node).to_string()).collect();
    format!("{{{}}}", founders.join(" "))
}

pub(crate) fn message(names: &Names, message: &PeerMessage) -> String {
    let kind = kind(message);
    let (before, rest) = match message {
        PeerMessage::Gossip { .. } => (String::new(), String::new()),
        PeerMessage::Cover { groups, .. } => {
            let groups: Vec<String> = groups.iter().map(|covered| names.of(covered.group)).collect();
            (String::new(), groups.join(" "))
        }
        PeerMessage::Covered { without, .. } => {
            let without: Vec<String> = without.iter().map(|group| names.of(*group)).collect();
            (
                String::new(),
                if without.is_empty() { "all".to_owned() } else { format!("all but {}", without.join(" ")) },
            )
        }
        PeerMessage::Beat { .. } | PeerMessage::Beaten { .. } | PeerMessage::Uncovered { .. } => {
            (String::new(), String::new())
        }
        PeerMessage::Bind { binding: it } | PeerMessage::Bound { binding: it } => (String::new(), binding(it)),
        PeerMessage::Replica { envelope } => {
            (names.before(envelope.to.group), between_replicas(names, &envelope.message))
        }
        PeerMessage::Group { envelope: GroupEnvelope { from, to, message } } => {
            (format!("{} to {}: ", names.of(*from), names.of(*to)), between_groups(names, message))
        }
        PeerMessage::Gone { to, into, at } => (names.before(to.group), format!("into {} at {at}", names.of(*into))),
    };
    format!("{before}{kind} {rest}").trim_end().to_owned()
}

fn between_groups(names: &Names, message: &GroupMessage) -> String {
    match message {
        GroupMessage::Inspect => String::new(),
        GroupMessage::Inspected { link, operations, leader, busy } => {
            let busy = if *busy { ", busy" } else { "" };
            format!("{}, {operations} operations, {} leads{busy}", names.link(link), letter(*leader))
        }
        GroupMessage::Align { members, leader } => {
            let members: Vec<String> = members.iter().map(|(node, _)| letter(*node).to_string()).collect();
            format!("{{{}}}, {} leads", members.join(" "), letter(*leader))
        }
        GroupMessage::Prepare { prepare } => {
            format!("{}, {}", names.operation(prepare.operation), names.takeover(&prepare.takeover))
        }
        GroupMessage::Voted { operation, vote } => {
            let vote = match vote {
                Vote::Yes { surrender } => format!("yes, sealed at {}", surrender.seal),
                Vote::No { reason } => format!("no, {reason}"),
            };
            format!("{}: {vote}", names.operation(*operation))
        }
        GroupMessage::Resolve { operation, committed } => {
            format!("{}: {}", names.operation(*operation), decided(*committed))
        }
        GroupMessage::Resolved { operation } | GroupMessage::Ask { operation } => names.operation(*operation),
        GroupMessage::Answer { operation, standing } => {
            let standing = match standing {
                Standing::Undecided => "undecided".to_owned(),
                Standing::Committed { at } => decided(Some(*at)),
                Standing::Aborted => decided(None),
            };
            format!("{}: {standing}", names.operation(*operation))
        }
        GroupMessage::Neighbour { link } => names.link(link),
        GroupMessage::Moved { configuration: it } => configuration(it),
        GroupMessage::Heard { of, known, link } => {
            let known = if *known { "is known" } else { "say it again" };
            format!("{} {known}, I am {}", names.link(of), names.link(link))
        }
        GroupMessage::Look { level, load: it, .. } => format!("level {level}, I {}", load(*it)),
        GroupMessage::Seen { level, own, link, load: it } => {
            let link = link.as_ref().map_or_else(|| "nobody".to_owned(), |link| names.link(&link.link()));
            format!("level {level} is {link}, I am {} and {}", names.link(&own.link()), load(*it))
        }
    }
}

fn load(load: Option<GroupLoad>) -> String {
    load.map_or_else(
        || "do not know my load".to_owned(),
        |load| format!("hold {} bytes at {} a second", load.bytes, load.operations_per_second),
    )
}

fn between_replicas(names: &Names, message: &Message) -> String {
    match message {
        Message::PreVote { ballot: it, configuration, decided, ticket: with }
        | Message::Prepare { ballot: it, configuration, decided, ticket: with } => {
            format!("{} c{configuration} d{decided}{}", ballot(*it), ticket(*with))
        }
        Message::PreVoted { ballot: it, refusal: None, .. } => format!("{} yes", ballot(*it)),
        Message::PreVoted { ballot: it, refusal: Some(why), promised, decided }
        | Message::Refuse { ballot: it, refusal: why, promised, decided } => {
            format!("{}: {} (promised {}, d{decided})", ballot(*it), refusal(*why), ballot(*promised))
        }
        Message::Promise { ballot: it, decided, accepted, .. } => {
            let accepted: Vec<String> = accepted
                .iter()
                .map(|it| format!(" {} in {} [{}]", it.slot, ballot(it.ballot), entry(names, &it.entry)))
                .collect();
            format!("{} d{decided}{}", ballot(*it), accepted.join(""))
        }
        Message::Accept { ballot: it, first, entries: list, decided, press, .. } => {
            let presses = if *press >= *first && !list.is_empty() { ", presses" } else { "" };
            match list.len() {
                0 => format!("{} nothing d{decided}", ballot(*it)),
                count => {
                    format!("{} {} {} d{decided}{presses}", ballot(*it), slots(*first, count), entries(names, list))
                }
            }
        }
        Message::Accepted { ballot: it, through, want, room, .. } => {
            let want = want.map(|slot| format!(", wants {slot}")).unwrap_or_default();
            let room = match room {
                Room::Reserve => ", full",
                Room::Removals => ", short",
                Room::Enough => "",
            };
            format!("{} through {through}{want}{room}", ballot(*it))
        }
        Message::CatchUp { first } => format!("from {first}"),
        Message::Decided { first, entries: list, decided } => {
            format!("{} {} d{decided}", slots(*first, list.len()), entries(names, list))
        }
        Message::Truncated { through } => format!("through {through}"),
        Message::SnapshotPull { cursor, .. } => {
            if cursor.is_some() { "the next piece" } else { "the first piece" }.to_owned()
        }
        Message::SnapshotChunk { piece, .. } => format!("of slot {}", piece.slot),
        Message::HandOver { ticket: it } => format!("releases {}", ballot(it.ballot)),
        Message::AskMembership { configuration } => format!("c{configuration}"),
        Message::Membership { configuration: it } => configuration(it),
        Message::Merged { decided } => format!("d{decided}"),
    }
}

fn node_record(record: &NodeRecord) -> String {
    let bound = record.binding.as_ref().map(|it| format!(", bound to {}", binding(it))).unwrap_or_default();
    let member = if record.cluster.is_some() { ", in a cluster" } else { "" };
    let given_up = if record.given_up { ", id given up" } else { "" };
    format!("boot {}{bound}{member}{given_up}", record.boot)
}

pub(crate) fn write(names: &Names, write: &Write) -> String {
    let (group, words) = match write {
        Write::Node { record } => return node_record(record),
        Write::Peer { record } if record.condemned => return format!("peer {} condemned", letter(record.node)),
        Write::Peer { record } => return format!("peer {} boot {}", letter(record.node), record.boot),
        Write::Create { replica, after, inviter } => {
            let inviter =
                inviter.map(|by| format!(", invited by {}", name(by.node, by.incarnation))).unwrap_or_default();
            (replica.group, format!("create {} after {after}{inviter}", name(replica.node, replica.incarnation)))
        }
        Write::Hard { group, state } => (*group, format!("promised {} d{}", ballot(state.promised), state.decided)),
        Write::Accept { group, ballot: it, first, entries: list } => {
            (*group, format!("accept {} {} {}", ballot(*it), slots(*first, list.len()), entries(names, list)))
        }
        Write::Truncate { group, through } => (*group, format!("truncate through {through}")),
        Write::Tombstone { replica, removed_by, merged, .. } => {
            let why = match merged {
                Some(merger) => format!("merged into {} at {}", names.of(merger.into), merger.at),
                None => format!("c{removed_by} does without it"),
            };
            (replica.group, format!("tombstone {} ({why})", name(replica.node, replica.incarnation)))
        }
    };
    format!("{}{words}", names.before(group))
}

pub(crate) fn reply(names: &Names, reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".to_owned(),
        Reply::Born { child } => format!("done, {} is born", names.of(*child)),
        Reply::Lost => "lost, may or may not be applied".to_owned(),
        Reply::ReadNow { .. } => "read now".to_owned(),
        Reply::Refused(refused) => match refused {
            Refused::NoReplica => "refused, no replica here".to_owned(),
            Refused::NotLeader { leader: None } => "refused, not the leader".to_owned(),
            Refused::NotLeader { leader: Some((node, _)) } => format!("refused, {} leads", letter(*node)),
            Refused::Overloaded => "refused, overloaded".to_owned(),
            Refused::DiskFull => "refused, the disk is full".to_owned(),
            Refused::Invalid(why) => format!("refused, {why}"),
            Refused::GivenUp(why) => format!("given up, {why}"),
        },
    }
}

pub(crate) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Written { created: true, .. } => "created".to_owned(),
        Outcome::Written { created: false, .. } => "written".to_owned(),
        Outcome::Deleted { .. } => "deleted".to_owned(),
        Outcome::NotOwner => "not the owner".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}
