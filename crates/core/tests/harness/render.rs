//! Terse words for what happens between, on and at nodes.
//!
//! Nodes are letters, learners small ones; `A.3` is A's third incarnation (the first is not named). `2@B` is a ballot,
//! `c3` a configuration's version, `d7` "decided up to slot 7". Clocks, leases and versions are left out.

use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::command::{Command, Operation, Outcome};
use scatter_core::durable::{Binding, NodeRecord, Write};
use scatter_core::effects::{Refused, Reply};
use scatter_core::entry::{Entry, EntryKind};
use scatter_core::group::{Configuration, Role};
use scatter_core::message::{Message, PeerMessage, Refusal, Ticket};
use scatter_core::types::{Ballot, FeatureLevel, Incarnation, NodeId, Slot};

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

pub(crate) fn entry(entry: &Entry) -> String {
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
        EntryKind::Links => "links".to_owned(),
        EntryKind::Correct => "correct".to_owned(),
    }
}

fn entries(list: &[Entry]) -> String {
    list.iter().map(|it| format!("[{}]", entry(it))).collect::<Vec<_>>().join(" ")
}

fn ticket(ticket: Option<Ticket>) -> String {
    ticket.map(|it| format!(" with the ticket of {}", ballot(it.ballot))).unwrap_or_default()
}

fn refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Promised => "promised",
        Refusal::Lease => "a lease stands",
        Refusal::Configuration => "a later configuration",
    }
}

pub(crate) fn kind(message: &PeerMessage) -> &'static str {
    match message {
        PeerMessage::Bind { .. } => "Bind",
        PeerMessage::Bound { .. } => "Bound",
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
        },
    }
}

fn binding(binding: &Binding) -> String {
    let founders: Vec<String> = binding.founders.iter().map(|(node, _)| letter(*node).to_string()).collect();
    format!("{{{}}}", founders.join(" "))
}

pub(crate) fn message(message: &PeerMessage) -> String {
    let kind = kind(message);
    let rest = match message {
        PeerMessage::Bind { binding: it } | PeerMessage::Bound { binding: it } => binding(it),
        PeerMessage::Replica { envelope } => between_replicas(&envelope.message),
    };
    format!("{kind} {rest}").trim_end().to_owned()
}

fn between_replicas(message: &Message) -> String {
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
                .map(|it| format!(" {} in {} [{}]", it.slot, ballot(it.ballot), entry(&it.entry)))
                .collect();
            format!("{} d{decided}{}", ballot(*it), accepted.join(""))
        }
        Message::Accept { ballot: it, first, entries: list, decided, .. } => match list.len() {
            0 => format!("{} nothing d{decided}", ballot(*it)),
            count => format!("{} {} {} d{decided}", ballot(*it), slots(*first, count), entries(list)),
        },
        Message::Accepted { ballot: it, through, want, .. } => {
            let want = want.map(|slot| format!(", wants {slot}")).unwrap_or_default();
            format!("{} through {through}{want}", ballot(*it))
        }
        Message::CatchUp { first } => format!("from {first}"),
        Message::Decided { first, entries: list, decided } => {
            format!("{} {} d{decided}", slots(*first, list.len()), entries(list))
        }
        Message::Truncated { through } => format!("through {through}"),
        Message::SnapshotPull { cursor, .. } => {
            if cursor.is_some() { "the next piece" } else { "the first piece" }.to_owned()
        }
        Message::SnapshotChunk { slot, .. } => format!("of slot {slot}"),
        Message::HandOver { ticket: it } => format!("releases {}", ballot(it.ballot)),
        Message::AskMembership { configuration } => format!("c{configuration}"),
        Message::Membership { configuration: it } => configuration(it),
    }
}

fn node_record(record: &NodeRecord) -> String {
    let bound = record.binding.as_ref().map(|it| format!(", bound to {}", binding(it))).unwrap_or_default();
    let member = if record.cluster.is_some() { ", in a cluster" } else { "" };
    let given_up = if record.given_up { ", id given up" } else { "" };
    format!("boot {}{bound}{member}{given_up}", record.boot)
}

pub(crate) fn write(write: &Write) -> String {
    match write {
        Write::Node { record } => node_record(record),
        Write::Peer { record } => format!("peer {} boot {}", letter(record.node), record.boot),
        Write::Create { replica, after } => format!("create {} after {after}", name(replica.node, replica.incarnation)),
        Write::Hard { state, .. } => format!("promised {} d{}", ballot(state.promised), state.decided),
        Write::Accept { ballot: it, first, entries: list, .. } => {
            format!("accept {} {} {}", ballot(*it), slots(*first, list.len()), entries(list))
        }
        Write::Truncate { through, .. } => format!("truncate through {through}"),
        Write::Tombstone { replica, removed_by } => {
            format!("tombstone {} (c{removed_by} does without it)", name(replica.node, replica.incarnation))
        }
    }
}

pub(crate) fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done => "done".to_owned(),
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
        other => format!("{other:?}").to_lowercase(),
    }
}
