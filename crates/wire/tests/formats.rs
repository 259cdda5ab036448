//! Every message reads back as it was written, and bytes that are no message are refused without harm.

use bytes::{Bytes, BytesMut};
use proptest::option;
use proptest::prelude::*;
use scatter_core::codec::{Decode, Encode};
use scatter_core::command::{Found, Outcome};
use scatter_core::group::{Configuration, Descriptor, Member, Role};
use scatter_core::ops::OperationId;
use scatter_core::ring::{Key, KeyRange, Position};
use scatter_core::time::LogTime;
use scatter_core::types::{
    Ballot, ClusterId, ConfigurationVersion, GroupId, Incarnation, NodeId, RangeVersion, RequestId, Slot, Version,
};
use scatter_wire::frame::decode_batch;
use scatter_wire::{
    AdminRequest, Answer, Boundary, Channel, ClientBody, ClientReply, ClientRequest, Consistency, Description, Epoch,
    Hello, Identity, MAX_BOUNDARY_BYTES, NewMember, NodeInfo, NodeState, PeerHello, PendingInfo, ReadPath, Refusal,
    Refused, RefusedReason, ReplicaInfo, ReplicaRole, ReplyBody, Side,
};

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..60).prop_map(Bytes::from)
}

fn key() -> impl Strategy<Value = Key> {
    prop::collection::vec(any::<u8>(), 1..60).prop_map(|bytes| Key::new(bytes).expect("a key's length"))
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u64>().prop_map(NodeId)
}

fn ballot() -> impl Strategy<Value = Ballot> {
    (any::<u64>(), node(), any::<u64>()).prop_map(|(round, node, incarnation)| Ballot {
        round,
        node,
        incarnation: Incarnation(incarnation),
    })
}

fn identity() -> impl Strategy<Value = Identity> {
    (
        ".{0,9}",
        option::of(any::<u128>().prop_map(ClusterId)),
        node(),
        (any::<(u64, u64)>(), prop::collection::vec(any::<u64>(), 0..4)),
        ".{0,20}",
        ".{0,20}",
        ".{0,3}",
    )
        .prop_map(|(cluster_name, cluster, node, ((boot, nonce), earlier), peer_address, http_address, zone)| {
            Identity { cluster_name, cluster, node, boot, nonce, earlier, peer_address, http_address, zone }
        })
}

fn hello() -> impl Strategy<Value = Hello> {
    let channel = prop_oneof![Just(Channel::Control), Just(Channel::Bulk)];
    prop_oneof![
        (identity(), option::of(node()), channel)
            .prop_map(|(from, to, channel)| Hello::Peer { hello: PeerHello { from, to, channel } }),
        (".{0,20}", ".{0,20}").prop_map(|(cluster_name, agent)| Hello::Client { cluster_name, agent }),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    let reason = prop::sample::select(vec![
        RefusedReason::OtherCluster,
        RefusedReason::OtherNode,
        RefusedReason::OldBoot,
        RefusedReason::ClonedDisk,
        RefusedReason::Condemned,
        RefusedReason::Version,
        RefusedReason::Busy,
        RefusedReason::Malformed,
    ]);
    prop_oneof![
        identity().prop_map(|identity| Answer::Welcome { identity }),
        (reason, ".{0,40}").prop_map(|(reason, text)| Answer::Refused { refused: Refused::new(reason, text) }),
    ]
}

fn boundary() -> impl Strategy<Value = Boundary> {
    bytes().prop_map(|bytes| Boundary::new(Position(bytes)).expect("it is short"))
}

fn side() -> impl Strategy<Value = Side> {
    prop::sample::select(vec![Side::Predecessor, Side::Successor])
}

fn admin() -> impl Strategy<Value = AdminRequest> {
    let group = || any::<u64>().prop_map(GroupId);
    let newcomer = (node(), ".{0,20}").prop_map(|(node, address)| NewMember { node, address });
    prop_oneof![
        Just(AdminRequest::Status),
        any::<bool>().prop_map(|on| AdminRequest::Drain { on }),
        (any::<u64>(), proptest::collection::vec(any::<u64>(), 0..4)).prop_map(|(group, survivors)| {
            AdminRequest::Recover { group: GroupId(group), survivors: survivors.into_iter().map(NodeId).collect() }
        }),
        proptest::collection::vec(any::<u64>(), 0..4)
            .prop_map(|nodes| AdminRequest::Condemn { nodes: nodes.into_iter().map(NodeId).collect() }),
        (
            group(),
            prop::collection::vec(newcomer, 0..4),
            prop::collection::vec(node(), 0..4),
            option::of(any::<u64>().prop_map(ConfigurationVersion)),
            any::<bool>(),
        )
            .prop_map(|(group, add, remove, version, dry_run)| AdminRequest::ChangeMembers {
                group,
                add,
                remove,
                version,
                dry_run,
            }),
        (group(), option::of(node()), any::<bool>()).prop_map(|(group, to, dry_run)| AdminRequest::TransferLeader {
            group,
            to,
            dry_run
        }),
        (group(), option::of(boundary()), option::of(any::<u64>()), any::<bool>()).prop_map(
            |(group, at, version, dry_run)| {
                let range_version = version.map(RangeVersion);
                AdminRequest::Split { group, at, range_version, dry_run }
            }
        ),
        (group(), side(), option::of(boundary()), option::of(any::<u64>()), any::<bool>()).prop_map(
            |(group, from, boundary, version, dry_run)| {
                let range_version = version.map(RangeVersion);
                AdminRequest::TakeOver { group, from, boundary, range_version, dry_run }
            }
        ),
    ]
}

fn request() -> impl Strategy<Value = ClientRequest> {
    let consistency = prop_oneof![
        Just(Consistency::Linearizable),
        any::<u64>().prop_map(|max_staleness_ms| Consistency::Bounded { max_staleness_ms }),
        Just(Consistency::Any),
    ];
    let body = prop_oneof![
        (key(), consistency).prop_map(|(key, consistency)| ClientBody::Read { key, consistency }),
        bytes().prop_map(|command| ClientBody::Write { command }),
        Just(ClientBody::Describe),
        admin().prop_map(|request| ClientBody::Administer { request }),
        boundary().prop_map(|position| ClientBody::Locate { position }),
    ];
    (any::<u64>(), any::<u32>(), any::<u8>(), body).prop_map(|(id, budget_ms, hops, body)| ClientRequest {
        id: RequestId(id),
        budget_ms,
        hops,
        body,
    })
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let members = prop::collection::btree_map(any::<u64>(), (any::<u64>(), ".{0,20}"), 1..5);
    (any::<[u64; 3]>(), members, bytes(), bytes(), option::of(node()), ballot()).prop_map(
        |([group, version, range], members, start, end, leader, ballot)| Descriptor {
            group: GroupId(group),
            configuration: Configuration {
                version: ConfigurationVersion(version),
                members: members
                    .into_iter()
                    .map(|(node, (incarnation, address))| Member {
                        node: NodeId(node),
                        incarnation: Incarnation(incarnation),
                        role: Role::Voter,
                        address,
                    })
                    .collect(),
            },
            range_version: RangeVersion(range),
            range: KeyRange { start: Position(start), end: Position(end) },
            leader,
            ballot,
        },
    )
}

fn replica() -> impl Strategy<Value = ReplicaInfo> {
    let roles =
        [ReplicaRole::Leader, ReplicaRole::Follower, ReplicaRole::Learner, ReplicaRole::Joining, ReplicaRole::Merged];
    let role = prop::sample::select(roles.to_vec());
    let pending = (any::<[u64; 4]>(), any::<[bool; 2]>(), bytes(), bytes()).prop_map(
        |([coordinator, slot, other, age_ms], [gains, merge], start, end)| PendingInfo {
            operation: OperationId { coordinator: GroupId(coordinator), slot: Slot(slot) },
            gains,
            other: GroupId(other),
            merge,
            moving: KeyRange { start: Position(start), end: Position(end) },
            age_ms,
        },
    );
    (any::<[u64; 8]>(), role, ballot(), option::of(pending)).prop_map(|(numbers, role, ballot, pending)| {
        let [group, incarnation, decided, applied, keys, bytes, operations_per_second, range_version] = numbers;
        ReplicaInfo {
            group: GroupId(group),
            incarnation: Incarnation(incarnation),
            role,
            ballot,
            decided: Slot(decided),
            applied: Slot(applied),
            keys,
            bytes,
            operations_per_second,
            pending,
            range_version: RangeVersion(range_version),
        }
    })
}

fn node_info() -> impl Strategy<Value = NodeInfo> {
    let state = prop::sample::select(vec![
        NodeState::Joining,
        NodeState::Alive,
        NodeState::Suspect,
        NodeState::Dead,
        NodeState::Draining,
        NodeState::Drained,
    ]);
    (node(), ".{0,20}", ".{0,20}", ".{0,5}", state, prop::collection::vec(replica(), 0..3)).prop_map(
        |(node, peer_address, http_address, zone, state, replicas)| NodeInfo {
            node,
            peer_address,
            http_address,
            zone,
            state,
            replicas,
        },
    )
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        prop::sample::select(vec![
            Refusal::NotLeader,
            Refusal::NoLeader,
            Refusal::NotOwner,
            Refusal::Overloaded,
            Refusal::Sealed,
            Refusal::DiskFull,
            Refusal::Draining,
            Refusal::Deadline,
            Refusal::Unknown,
        ]),
        ".{0,20}".prop_map(|text| Refusal::Malformed { text }),
        any::<u64>().prop_map(|limit| Refusal::TooLarge { limit }),
        ".{0,20}".prop_map(|text| Refusal::Unavailable { text }),
        ".{0,20}".prop_map(|text| Refusal::Conflict { text }),
    ]
}

fn reply_body() -> impl Strategy<Value = ReplyBody> {
    let epoch = || {
        any::<[u64; 2]>().prop_map(|[configuration, range]| Epoch {
            configuration: ConfigurationVersion(configuration),
            range: RangeVersion(range),
        })
    };
    let found = option::of((any::<[u64; 2]>(), bytes()).prop_map(|([version, modified], value)| Found {
        version: Version(version),
        modified: LogTime(modified),
        value,
    }));
    let path = prop::sample::select(vec![ReadPath::Lease, ReadPath::Quorum, ReadPath::Stale]);
    let outcome = prop_oneof![
        any::<(u64, bool)>().prop_map(|(version, created)| Outcome::Written { version: Version(version), created }),
        Just(Outcome::NotFound),
        any::<(u32, Option<u64>)>()
            .prop_map(|(index, current)| Outcome::ConditionFailed { index, current: current.map(Version) }),
    ];
    let descriptors = || prop::collection::vec(descriptor(), 0..3);
    prop_oneof![
        (found, any::<[u64; 2]>(), option::of(any::<u64>()), epoch(), path).prop_map(
            |(found, [group, stamp], staleness_ms, epoch, path)| {
                ReplyBody::Value { found, group: GroupId(group), epoch, path, staleness_ms, stamp: Version(stamp) }
            }
        ),
        (outcome, any::<[u64; 2]>(), epoch()).prop_map(|(outcome, [group, stamp], epoch)| ReplyBody::Outcome {
            outcome,
            group: GroupId(group),
            epoch,
            stamp: Version(stamp),
        }),
        (refusal(), any::<u32>(), descriptors(), any::<u64>()).prop_map(
            |(refusal, retry_after_ms, descriptors, stamp)| ReplyBody::Refused {
                refusal,
                retry_after_ms,
                descriptors,
                stamp: Version(stamp),
            }
        ),
        (".{0,9}", any::<Option<u128>>(), node_info(), descriptors(), prop::collection::vec(node_info(), 0..3))
            .prop_map(|(cluster_name, cluster, node, descriptors, nodes)| ReplyBody::Description {
                description: Description { cluster_name, cluster: cluster.map(ClusterId), node, descriptors, nodes },
            }),
        ".{0,40}".prop_map(|json| ReplyBody::Administered { json }),
        descriptors().prop_map(|descriptors| ReplyBody::Located { descriptors }),
    ]
}

fn reply() -> impl Strategy<Value = ClientReply> {
    (any::<u64>(), reply_body()).prop_map(|(id, body)| ClientReply { id: RequestId(id), body })
}

/// `value` reads back; cut short anywhere it is refused.
fn check<T: Encode + Decode + PartialEq + std::fmt::Debug>(value: &T, cut: usize) -> Result<(), TestCaseError> {
    let bytes = value.to_bytes();
    prop_assert_eq!(&T::from_all(bytes.clone()).expect("reads back"), value);
    prop_assert!(T::from_all(bytes.slice(..cut % bytes.len())).is_err());
    Ok(())
}

/// Every decoder looks at `bytes`. Nothing is to panic, and nothing is to take memory that a length only claims.
fn decode_everything(bytes: &Bytes) {
    drop(Hello::from_all(bytes.clone()));
    drop(Answer::from_all(bytes.clone()));
    drop(decode_batch::<ClientRequest>(bytes.clone()));
    drop(decode_batch::<ClientReply>(bytes.clone()));
}

proptest! {
    #[test]
    fn hellos_read_back(hello in hello(), cut: usize) {
        check(&hello, cut)?;
    }

    #[test]
    fn answers_read_back(answer in answer(), cut: usize) {
        check(&answer, cut)?;
    }

    #[test]
    fn requests_read_back(request in request(), cut: usize) {
        check(&request, cut)?;
    }

    #[test]
    fn replies_read_back(reply in reply(), cut: usize) {
        check(&reply, cut)?;
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_everything(&Bytes::from(bytes));
    }

    #[test]
    fn a_damaged_message_is_another_or_an_error(
        reply in reply(),
        request in request(),
        at: usize,
        damage in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        for bytes in [reply.to_bytes(), request.to_bytes()] {
            let mut bytes = BytesMut::from(&bytes[..]);
            let start = at % bytes.len();
            for (byte, wrong) in bytes[start..].iter_mut().zip(&damage) {
                *byte = *wrong;
            }
            decode_everything(&bytes.freeze());
        }
    }
}

#[test]
fn only_unknown_leaves_doubt() {
    assert!(!Refusal::Unknown.is_definite());
    for refusal in [Refusal::NotLeader, Refusal::Overloaded, Refusal::Deadline, Refusal::TooLarge { limit: 1 }] {
        assert!(refusal.is_definite());
    }
}

#[test]
fn a_boundary_longer_than_any_position_is_refused() {
    let position = |length: usize| Position(Bytes::from(vec![7; length]));
    assert_eq!(Boundary::new(position(MAX_BOUNDARY_BYTES + 1)), None);
    assert!(Boundary::new(position(MAX_BOUNDARY_BYTES)).is_some());
    assert!(Boundary::from_all(position(MAX_BOUNDARY_BYTES + 1).to_bytes()).is_err());
    let longest = Key::new(vec![b'k'; 4096]).expect("a key's length");
    assert_eq!(Boundary::of(&longest).position().0.len(), MAX_BOUNDARY_BYTES);
}
