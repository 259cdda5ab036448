//! Bytes on wire and disk: what is written reads back, and nothing else does harm.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod between_groups;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use scatter_core::codec::{Decode, DecodeError, Encode, MAX_LIST};
use scatter_core::cover::Covered;
use scatter_core::durable::{Binding, HardState, Merger, NodeRecord, PeerRecord, Tombstone, Write};
use scatter_core::entry::{Entry, EntryClock, EntryKind, MAX_ENTRY_BYTES, Room};
use scatter_core::group::{Configuration, Correction, GroupState, Link, Member, Role};
use scatter_core::message::{AcceptedEntry, Envelope, Hello, HelloError, Message, PeerMessage, Piece, Refusal, Ticket};
use scatter_core::ops::messages::GroupEnvelope;
use scatter_core::ops::{Begin, Decide, Obligation, OperationId, Pending, Prepare, Resolve, Split, Surrender};
use scatter_core::time::{Instant, LogTime};
use scatter_core::types::{
    Ballot, ClusterId, ConfigurationVersion, FeatureLevel, GroupId, Incarnation, NodeId, ReplicaName, Slot, Version,
};
use std::collections::BTreeMap;
use std::fmt::Debug;

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn slot() -> impl Strategy<Value = Slot> {
    any::<u64>().prop_map(Slot)
}

fn name() -> impl Strategy<Value = ReplicaName> {
    any::<(u64, u64, u64)>().prop_map(|(group, node, incarnation)| ReplicaName {
        group: GroupId(group),
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
    })
}

fn ballot() -> impl Strategy<Value = Ballot> {
    any::<(u64, u64, u64)>().prop_map(|(round, node, incarnation)| Ballot {
        round,
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
    })
}

fn ticket() -> impl Strategy<Value = Option<Ticket>> {
    option::of((ballot(), any::<u64>()).prop_map(|(ballot, stamp)| Ticket { ballot, stamp: Instant(stamp) }))
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![Just(Refusal::Promised), Just(Refusal::Lease), Just(Refusal::Configuration), Just(Refusal::NoRoom)]
}

/// Each kind with a body that it takes, or with bytes.
fn entry() -> impl Strategy<Value = Entry> {
    let body = prop_oneof![
        (prop_oneof![Just(EntryKind::Noop), Just(EntryKind::Commands), Just(EntryKind::Expire)], bytes()),
        configuration().prop_map(|configuration| (EntryKind::Configuration, configuration.to_bytes())),
        any::<u16>().prop_map(|level| (EntryKind::FeatureLevel, FeatureLevel(level).to_bytes())),
        vec(between_groups::link(), 0..3).prop_map(|links| (EntryKind::Links, links.to_bytes())),
        between_groups::split().prop_map(|split| (EntryKind::Split, split.to_bytes())),
        between_groups::begin().prop_map(|begin| (EntryKind::Begin, begin.to_bytes())),
        between_groups::prepare().prop_map(|prepare| (EntryKind::Prepare, prepare.to_bytes())),
        between_groups::decide().prop_map(|decide| (EntryKind::Decide, decide.to_bytes())),
        between_groups::resolve().prop_map(|resolve| (EntryKind::Resolve, resolve.to_bytes())),
        between_groups::operation().prop_map(|operation| (EntryKind::Settle, operation.to_bytes())),
        between_groups::recover().prop_map(|recover| (EntryKind::Recover, recover.to_bytes())),
        between_groups::correction().prop_map(|correction| (EntryKind::Correct, correction.to_bytes())),
    ];
    (body, any::<(u64, u64)>(), option::weighted(0.2, bytes())).prop_map(
        |((kind, body), (stamp, advance_micros), other)| {
            let clock = EntryClock { stamp: Version(stamp), advance_micros };
            Entry { kind, clock, body: other.unwrap_or(body) }
        },
    )
}

/// Sorted by node, no node twice, at least one voter.
fn configuration() -> impl Strategy<Value = Configuration> {
    let member = (any::<u64>(), any::<bool>(), "[a-z]{0,8}:[0-9]{1,5}");
    let members = proptest::collection::btree_map(any::<u64>(), member, 1..6);
    (any::<u64>(), members).prop_map(|(version, members): (u64, BTreeMap<u64, (u64, bool, String)>)| {
        let members = members.into_iter().enumerate().map(|(index, (node, (incarnation, votes, address)))| Member {
            node: NodeId(node),
            incarnation: Incarnation(incarnation),
            role: if votes || index == 0 { Role::Voter } else { Role::Learner },
            address,
        });
        Configuration { version: ConfigurationVersion(version), members: members.collect() }
    })
}

fn election() -> impl Strategy<Value = Message> {
    let version = || any::<u64>().prop_map(ConfigurationVersion);
    let accepted = (slot(), ballot(), entry()).prop_map(|(slot, ballot, entry)| AcceptedEntry { slot, ballot, entry });
    prop_oneof![
        (ballot(), version(), slot(), ticket()).prop_map(|(ballot, configuration, decided, ticket)| {
            Message::PreVote { ballot, configuration, decided, ticket }
        }),
        (ballot(), option::of(refusal()), ballot(), slot()).prop_map(|(ballot, refusal, promised, decided)| {
            Message::PreVoted { ballot, refusal, promised, decided }
        }),
        (ballot(), version(), slot(), ticket()).prop_map(|(ballot, configuration, decided, ticket)| {
            Message::Prepare { ballot, configuration, decided, ticket }
        }),
        (ballot(), slot(), slot(), vec(accepted, 0..4)).prop_map(|(ballot, decided, truncated, accepted)| {
            Message::Promise { ballot, decided, truncated, accepted }
        }),
        (ballot(), refusal(), ballot(), slot()).prop_map(|(ballot, refusal, promised, decided)| Message::Refuse {
            ballot,
            refusal,
            promised,
            decided
        }),
        (ballot(), any::<u64>())
            .prop_map(|(ballot, stamp)| Message::HandOver { ticket: Ticket { ballot, stamp: Instant(stamp) } }),
        version().prop_map(|configuration| Message::AskMembership { configuration }),
        configuration().prop_map(|configuration| Message::Membership { configuration }),
        slot().prop_map(|decided| Message::Merged { decided }),
    ]
}

fn stream() -> impl Strategy<Value = Message> {
    let accept = (ballot(), any::<(u64, u64)>(), slot(), vec(entry(), 0..4), slot(), (any::<u64>(), slot()));
    let room = prop_oneof![Just(Room::Reserve), Just(Room::Removals), Just(Room::Enough)];
    let told = (any::<u16>(), any::<u64>(), room);
    let accepted = (ballot(), any::<(u64, u64)>(), slot(), option::of(slot()), slot(), told);
    prop_oneof![
        accept.prop_map(|(ballot, (stamp, lease_nanos), first, entries, decided, (vouches, press))| {
            Message::Accept { ballot, stamp: Instant(stamp), lease_nanos, first, entries, decided, vouches, press }
        }),
        accepted.prop_map(|(ballot, (stamp, lease_nanos), through, want, applied, (level, ask, room))| {
            Message::Accepted {
                ballot,
                stamp: Instant(stamp),
                lease_nanos,
                through,
                want,
                applied,
                level: FeatureLevel(level),
                ask,
                room,
            }
        }),
        slot().prop_map(|first| Message::CatchUp { first }),
        (slot(), vec(entry(), 0..4), slot()).prop_map(|(first, entries, decided)| Message::Decided {
            first,
            entries,
            decided
        }),
        slot().prop_map(|through| Message::Truncated { through }),
        (any::<u64>(), option::of(bytes())).prop_map(|(snapshot, cursor)| Message::SnapshotPull { snapshot, cursor }),
        (piece(), vec((any::<u64>().prop_map(GroupId), slot()), 0..3))
            .prop_map(|(piece, children)| Message::SnapshotChunk { piece, children }),
    ]
}

fn piece() -> impl Strategy<Value = Piece> {
    let cursors = (option::of(bytes()), option::of(bytes()));
    (any::<u64>(), slot(), cursors, bytes()).prop_map(|(snapshot, slot, (cursor, after), chunk)| Piece {
        snapshot,
        slot,
        cursor,
        after,
        chunk,
    })
}

fn binding() -> impl Strategy<Value = Binding> {
    let founder = (any::<u64>().prop_map(NodeId), "[a-z]{0,8}:[0-9]{1,5}");
    (any::<(u128, u64, u64)>(), vec(founder, 0..4)).prop_map(|((cluster, group, log_time), founders)| Binding {
        cluster: ClusterId(cluster),
        group: GroupId(group),
        founders,
        log_time: LogTime(log_time),
    })
}

fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let message = prop_oneof![election(), stream()];
    let envelope = (name(), name(), message).prop_map(|(from, to, message)| Envelope { from, to, message });
    prop_oneof![
        8 => envelope.prop_map(|envelope| PeerMessage::Replica { envelope }),
        1 => binding().prop_map(|binding| PeerMessage::Bind { binding }),
        1 => binding().prop_map(|binding| PeerMessage::Bound { binding }),
        8 => between_groups::envelope().prop_map(|envelope| PeerMessage::Group { envelope }),
        1 => (name(), merger()).prop_map(|(to, Merger { into, at })| PeerMessage::Gone { to, into, at }),
        2 => cover(),
    ]
}

fn cover() -> impl Strategy<Value = PeerMessage> {
    let covered = (name(), ballot()).prop_map(|(name, ballot)| Covered {
        group: name.group,
        incarnation: name.incarnation,
        ballot,
    });
    let beat = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    prop_oneof![
        (any::<u64>(), vec(covered, 0..4)).prop_map(|(proposal, groups)| PeerMessage::Cover { proposal, groups }),
        (any::<(u64, u64)>(), vec(any::<u64>().prop_map(GroupId), 0..4))
            .prop_map(|((proposal, generation), without)| PeerMessage::Covered { proposal, generation, without }),
        (beat, vec(any::<u64>().prop_map(GroupId), 0..4)).prop_map(
            |((generation, stamp, lease_nanos, vouches), except)| {
                PeerMessage::Beat { generation, stamp: Instant(stamp), lease_nanos, vouches, except }
            }
        ),
        beat.prop_map(|(generation, stamp, lease_nanos, ask)| PeerMessage::Beaten {
            generation,
            stamp: Instant(stamp),
            lease_nanos,
            ask
        }),
        any::<u64>().prop_map(|generation| PeerMessage::Uncovered { generation }),
    ]
}

fn merger() -> impl Strategy<Value = Merger> {
    (any::<u64>(), slot()).prop_map(|(into, at)| Merger { into: GroupId(into), at })
}

fn tombstone() -> impl Strategy<Value = Tombstone> {
    (name(), any::<u64>(), option::of(merger()), option::of(configuration())).prop_map(
        |(replica, removed_by, merged, configuration)| {
            let removed_by = Incarnation(removed_by);
            Tombstone { replica, removed_by, merged, configuration }
        },
    )
}

fn node_record() -> impl Strategy<Value = NodeRecord> {
    let nonces = vec(any::<u64>(), 0..4);
    (any::<(u64, u64, u64, bool)>(), nonces, option::of(any::<u128>()), option::of(binding())).prop_map(
        |((node, boot, longest_lease_nanos, given_up), nonces, cluster, binding)| NodeRecord {
            node: NodeId(node),
            boot,
            nonces,
            cluster: cluster.map(ClusterId),
            binding,
            longest_lease_nanos,
            given_up,
        },
    )
}

fn write() -> impl Strategy<Value = Write> {
    let group = || any::<u64>().prop_map(GroupId);
    prop_oneof![
        node_record().prop_map(|record| Write::Node { record }),
        any::<(u64, u64, u64, bool)>().prop_map(|(node, boot, nonce, condemned)| Write::Peer {
            record: PeerRecord { node: NodeId(node), boot, nonce, condemned }
        }),
        (name(), slot(), option::of(name())).prop_map(|(replica, after, inviter)| Write::Create {
            replica,
            after,
            inviter
        }),
        (group(), ballot(), slot(), any::<u64>()).prop_map(|(group, promised, decided, led_round)| Write::Hard {
            group,
            state: HardState { promised, decided, led_round }
        }),
        (group(), ballot(), slot(), vec(entry(), 0..4)).prop_map(|(group, ballot, first, entries)| Write::Accept {
            group,
            ballot,
            first,
            entries
        }),
        (group(), slot()).prop_map(|(group, through)| Write::Truncate { group, through }),
        tombstone().prop_map(|Tombstone { replica, removed_by, merged, configuration }| Write::Tombstone {
            replica,
            removed_by,
            merged,
            configuration
        }),
    ]
}

fn hello() -> impl Strategy<Value = Hello> {
    (option::of(any::<u128>()), option::of(any::<u64>()), any::<(u64, u64, u64)>(), vec(any::<u64>(), 0..4)).prop_map(
        |(cluster, to, (from, boot, nonce), earlier)| Hello {
            cluster: cluster.map(ClusterId),
            from: NodeId(from),
            to: to.map(NodeId),
            boot,
            nonce,
            earlier,
        },
    )
}

/// A value reads back as itself; cut short it does not read at all; with more behind it, neither.
fn reads_back<T: Encode + Decode + PartialEq + Debug>(value: &T) -> Result<(), TestCaseError> {
    let bytes = value.to_bytes();
    prop_assert_eq!(&T::from_all(bytes.clone()), &Ok(T::decode(&mut bytes.clone()).unwrap()));
    prop_assert_eq!(&T::from_all(bytes.clone()).unwrap(), value);
    for length in 0..bytes.len() {
        prop_assert!(T::from_all(bytes.slice(..length)).is_err(), "{} of {} bytes read", length, bytes.len());
    }
    let mut longer = BytesMut::from(&bytes[..]);
    longer.put_u8(0);
    prop_assert_eq!(T::from_all(longer.freeze()), Err(DecodeError::Trailing(1)));
    Ok(())
}

/// Bytes either do not read, or are the only form of what they read as.
fn harmless<T: Encode + Decode>(bytes: &Bytes) -> Result<(), TestCaseError> {
    if let Ok(value) = T::from_all(bytes.clone()) {
        prop_assert_eq!(&value.to_bytes(), bytes);
    }
    Ok(())
}

fn all_harmless(bytes: &Bytes) -> Result<(), TestCaseError> {
    harmless::<PeerMessage>(bytes)?;
    harmless::<Hello>(bytes)?;
    harmless::<HelloError>(bytes)?;
    harmless::<Write>(bytes)?;
    harmless::<Entry>(bytes)?;
    harmless::<Configuration>(bytes)?;
    harmless::<Tombstone>(bytes)?;
    all_bodies_harmless(bytes)
}

/// The same for what lies inside entries and records.
fn all_bodies_harmless(bytes: &Bytes) -> Result<(), TestCaseError> {
    harmless::<Vec<Link>>(bytes)?;
    harmless::<Split>(bytes)?;
    harmless::<Begin>(bytes)?;
    harmless::<Prepare>(bytes)?;
    harmless::<Surrender>(bytes)?;
    harmless::<Decide>(bytes)?;
    harmless::<Resolve>(bytes)?;
    harmless::<OperationId>(bytes)?;
    harmless::<Correction>(bytes)?;
    harmless::<Pending>(bytes)?;
    harmless::<Obligation>(bytes)?;
    harmless::<GroupEnvelope>(bytes)?;
    harmless::<GroupState>(bytes)
}

/// `bytes` with one byte changed.
fn damaged(bytes: &Bytes, at: usize, by: u8) -> Bytes {
    let mut damaged = BytesMut::from(&bytes[..]);
    let at = at % damaged.len().max(1);
    if let Some(byte) = damaged.get_mut(at) {
        *byte ^= by;
    }
    damaged.freeze()
}

proptest! {
    #[test]
    fn messages_read_back(message in peer_message()) {
        reads_back(&message)?;
    }

    #[test]
    fn what_is_large_ends_the_encoding(message in peer_message()) {
        let (whole, mut rest) = (message.to_bytes(), message);
        if let Some(tail) = rest.take_tail() {
            let rest = rest.to_bytes();
            prop_assert!(rest.ends_with(&[0; 4]));
            let length = tail.len() as u32;
            prop_assert_eq!([&rest[..rest.len() - 4], &length.to_le_bytes(), &tail[..]].concat(), whole);
        }
    }

    #[test]
    fn hellos_read_back(hello in hello()) {
        reads_back(&hello)?;
    }

    #[test]
    fn records_read_back(write in write()) {
        reads_back(&write)?;
    }

    #[test]
    fn entries_read_back(entry in entry()) {
        reads_back(&entry)?;
    }

    #[test]
    fn what_groups_keep_reads_back(
        pending in between_groups::pending(),
        obligation in between_groups::obligation(),
        tombstone in tombstone(),
        correction in between_groups::correction(),
    ) {
        reads_back(&pending)?;
        reads_back(&obligation)?;
        reads_back(&tombstone)?;
        reads_back(&correction)?;
    }

    #[test]
    fn what_groups_log_reads_back(
        begin in between_groups::begin(),
        prepare in between_groups::prepare(),
        decide in between_groups::decide(),
        resolve in between_groups::resolve(),
        split in between_groups::split(),
        links in vec(between_groups::link(), 0..3),
    ) {
        reads_back(&begin)?;
        reads_back(&prepare)?;
        reads_back(&decide)?;
        reads_back(&resolve)?;
        reads_back(&split)?;
        reads_back(&links)?;
        reads_back(&decide.operation)?;
    }

    #[test]
    fn group_states_read_back(state in between_groups::state()) {
        reads_back(&state)?;
    }

    #[test]
    fn damaged_bodies_and_states_do_no_harm(
        entry in entry(), state in between_groups::state(), at in any::<usize>(), by in 1u8..,
    ) {
        all_bodies_harmless(&damaged(&entry.body, at, by))?;
        all_bodies_harmless(&damaged(&state.to_bytes(), at, by))?;
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        all_harmless(&Bytes::from(bytes))?;
    }

    #[test]
    fn random_bytes_behind_a_known_tag_do_no_harm(
        outer in 0u8..7,
        inner in 0u8..18,
        names in vec(any::<u8>(), 48),
        rest in vec(prop_oneof![3 => 0u8..3, 1 => any::<u8>()], 0..200),
    ) {
        let tail = [&[inner][..], &rest].concat();
        all_harmless(&Bytes::from([&[outer][..], &names, &tail].concat()))?;
        // Two names of groups stand before what groups say to each other.
        all_harmless(&Bytes::from([&[4][..], &names[..16], &tail].concat()))?;
        all_harmless(&Bytes::from(tail))?;
    }

    #[test]
    fn damaged_messages_and_records_do_no_harm(
        message in peer_message(), write in write(), at in any::<usize>(), by in 1u8..,
    ) {
        all_harmless(&damaged(&message.to_bytes(), at, by))?;
        all_harmless(&damaged(&write.to_bytes(), at, by))?;
    }

    /// A length that is a lie costs nothing: there is an error, not an allocation.
    #[test]
    fn hostile_lengths_are_refused(length in 1u32.., rest in vec(any::<u8>(), 0..8)) {
        prop_assume!(length as usize > rest.len());
        let mut lie = BytesMut::new();
        lie.put_u32_le(length);
        lie.put_slice(&rest);
        let lie = lie.freeze();
        prop_assert!(Bytes::from_all(lie.clone()).is_err());
        prop_assert!(String::from_all(lie.clone()).is_err());
        let lies = [Vec::<Entry>::from_all(lie.clone()).err(), Vec::<AcceptedEntry>::from_all(lie).err()];
        let refused = lies.iter().all(|error| matches!(error, Some(DecodeError::TooLong { .. })));
        prop_assert!(refused, "{:?}", lies);
    }
}

#[test]
fn hello_errors_read_back() {
    for error in [
        HelloError::OtherCluster,
        HelloError::OtherNode,
        HelloError::RolledBack,
        HelloError::GivenUp,
        HelloError::Condemned,
    ] {
        assert_eq!(HelloError::from_all(error.to_bytes()), Ok(error));
    }
}

#[test]
fn an_entry_over_its_limit_is_refused() {
    let entry =
        |length| Entry { kind: EntryKind::Commands, clock: EntryClock::default(), body: Bytes::from(vec![0; length]) };
    let largest = entry(MAX_ENTRY_BYTES);
    assert_eq!(Entry::from_all(largest.to_bytes()), Ok(largest));
    let over = Entry::from_all(entry(MAX_ENTRY_BYTES + 1).to_bytes());
    assert!(matches!(over, Err(DecodeError::TooLong { what: "entry", .. })), "{over:?}");
}

#[test]
fn a_list_over_its_limit_is_refused() {
    let over = Vec::<u8>::from_all(vec![0u8; MAX_LIST + 1].to_bytes());
    assert_eq!(over, Err(DecodeError::TooLong { what: "list", length: MAX_LIST + 1, limit: MAX_LIST }));
}

#[test]
fn a_configuration_that_may_not_be_is_refused() {
    let member = |node, role| Member { node: NodeId(node), incarnation: Incarnation(1), role, address: "a:1".into() };
    let refused = |members: Vec<Member>| {
        let configuration = Configuration { version: ConfigurationVersion(1), members };
        matches!(Configuration::from_all(configuration.to_bytes()), Err(DecodeError::Invalid(_)))
    };
    assert!(refused(Vec::new()));
    assert!(refused(vec![member(1, Role::Learner)]), "nobody votes");
    assert!(refused(vec![member(2, Role::Voter), member(1, Role::Voter)]), "out of order");
    assert!(refused(vec![member(1, Role::Voter), member(1, Role::Learner)]), "a node twice");
    assert!(refused((0..65).map(|node| member(node, Role::Voter)).collect()), "too many");
    assert!(!refused(vec![member(1, Role::Voter), member(2, Role::Learner)]));
}
