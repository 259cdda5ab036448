//! Strategies for everything that groups say to each other, log of it and keep of it.

use super::{ballot, bytes, configuration, slot};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use scatter_core::group::{Correction, Descriptor, GroupState, Link, Links, Member};
use scatter_core::ops::messages::{GroupEnvelope, GroupMessage, Standing, Vote};
use scatter_core::ops::{
    Begin, Decide, Gain, Obligation, OperationId, Pending, Prepare, Recover, Recovered, Resolve, Split, Surrender,
    Takeover,
};
use scatter_core::policy::GroupLoad;
use scatter_core::ring::{KeyRange, Position};
use scatter_core::time::LogTime;
use scatter_core::types::{
    ClusterId, ConfigurationVersion, FeatureLevel, GroupId, LinksVersion, NodeId, OperationCounter, RangeVersion, Slot,
    Version,
};

fn group() -> impl Strategy<Value = GroupId> {
    any::<u64>().prop_map(GroupId)
}

fn position() -> impl Strategy<Value = Position> {
    vec(any::<u8>(), 0..6).prop_map(|bytes| Position(bytes.into()))
}

fn range() -> impl Strategy<Value = KeyRange> {
    (position(), position()).prop_map(|(start, end)| KeyRange { start, end })
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    configuration().prop_map(|configuration| configuration.members)
}

pub(crate) fn operation() -> impl Strategy<Value = OperationId> {
    (group(), slot()).prop_map(|(coordinator, slot)| OperationId { coordinator, slot })
}

pub(crate) fn link() -> impl Strategy<Value = Link> {
    (group(), any::<(u64, u64)>(), range(), members()).prop_map(
        |(group, (range_version, configuration_version), range, members)| Link {
            group,
            range_version: RangeVersion(range_version),
            configuration_version: ConfigurationVersion(configuration_version),
            range,
            members,
        },
    )
}

pub(crate) fn split() -> impl Strategy<Value = Split> {
    (position(), group(), any::<(u64, u64)>()).prop_map(|(at, child, (leader, range_version))| Split {
        at,
        child,
        leader: NodeId(leader),
        range_version: RangeVersion(range_version),
    })
}

fn takeover() -> impl Strategy<Value = Takeover> {
    (group(), range(), any::<(bool, u64, u64, u64)>()).prop_map(
        |(loser, moving, (merge, range_version, configuration_version, operations))| Takeover {
            loser,
            moving,
            merge,
            range_version: RangeVersion(range_version),
            configuration_version: ConfigurationVersion(configuration_version),
            operations: OperationCounter(operations),
        },
    )
}

pub(crate) fn begin() -> impl Strategy<Value = Begin> {
    (any::<(u64, u64)>(), takeover(), link()).prop_map(|((range_version, configuration_version), takeover, loser)| {
        Begin {
            range_version: RangeVersion(range_version),
            configuration_version: ConfigurationVersion(configuration_version),
            takeover,
            loser,
        }
    })
}

pub(crate) fn prepare() -> impl Strategy<Value = Prepare> {
    let parts = (operation(), takeover(), link());
    parts.prop_map(|(operation, takeover, gainer)| Prepare { operation, takeover, gainer })
}

pub(crate) fn surrender() -> impl Strategy<Value = Surrender> {
    let numbers = any::<(u64, u64, u64, u16, u64, u64, u64)>();
    (slot(), numbers, option::of(link()), vec(group(), 0..4), bytes()).prop_map(
        |(seal, numbers, outer, absorbed, lanes)| {
            let (stamp, forgotten, log_time, feature_level, keys, bytes, idempotency_records) = numbers;
            Surrender {
                seal,
                stamp: Version(stamp),
                forgotten: Version(forgotten),
                log_time: LogTime(log_time),
                feature_level: FeatureLevel(feature_level),
                keys,
                bytes,
                idempotency_records,
                outer,
                absorbed,
                lanes,
            }
        },
    )
}

pub(crate) fn decide() -> impl Strategy<Value = Decide> {
    (operation(), option::of(surrender())).prop_map(|(operation, commit)| Decide { operation, commit })
}

pub(crate) fn resolve() -> impl Strategy<Value = Resolve> {
    (operation(), option::of(slot())).prop_map(|(operation, committed)| Resolve { operation, committed })
}

pub(crate) fn pending() -> impl Strategy<Value = Pending> {
    prop_oneof![
        (operation(), takeover(), link()).prop_map(|(operation, takeover, loser)| Pending::Gains {
            operation,
            takeover,
            loser
        }),
        (operation(), takeover(), link(), surrender()).prop_map(|(operation, takeover, gainer, surrender)| {
            Pending::Loses { operation, takeover, gainer, surrender }
        }),
    ]
}

pub(crate) fn obligation() -> impl Strategy<Value = Obligation> {
    prop_oneof![
        (operation(), link(), option::of(slot())).prop_map(|(operation, loser, committed)| Obligation::Tell {
            operation,
            loser,
            committed
        }),
        (operation(), group(), slot()).prop_map(|(operation, loser, at)| Obligation::Bury { operation, loser, at }),
    ]
}

pub(crate) fn correction() -> impl Strategy<Value = Correction> {
    any::<(u64, u64, u64, u64)>().prop_map(|(range_version, keys, bytes, idempotency_records)| Correction {
        range_version: RangeVersion(range_version),
        keys,
        bytes,
        idempotency_records,
    })
}

pub(crate) fn recover() -> impl Strategy<Value = Recover> {
    (group(), any::<u64>(), vec(any::<u64>(), 0..4), any::<u64>()).prop_map(
        |(child, leader, survivors, range_version)| Recover {
            child,
            leader: NodeId(leader),
            survivors: survivors.into_iter().map(NodeId).collect(),
            range_version: RangeVersion(range_version),
        },
    )
}

fn recovered() -> impl Strategy<Value = Recovered> {
    let nodes = || vec(any::<u64>().prop_map(NodeId), 0..4);
    (group(), slot(), any::<u64>(), nodes(), nodes(), vec((operation(), slot()), 0..3), slot()).prop_map(
        |(group, at, log_time, survivors, condemned, gained, forgotten_gains)| Recovered {
            group,
            at,
            log_time: LogTime(log_time),
            survivors,
            condemned,
            gained,
            forgotten_gains,
        },
    )
}

pub(crate) fn state() -> impl Strategy<Value = GroupState> {
    let names = (any::<(u128, u64)>(), slot(), configuration(), any::<u64>(), range());
    let links = (any::<u64>(), link(), link());
    let gain = (operation(), slot(), group(), slot()).prop_map(|(operation, at, loser, seal)| Gain {
        operation,
        at,
        loser,
        seal,
    });
    let history = (vec((group(), slot()), 0..4), vec((group(), slot()), 0..4), vec(gain, 0..3), slot());
    let recoveries = (slot(), vec(recovered(), 0..3));
    let operations = (option::of(pending()), any::<u64>(), vec(obligation(), 0..3), history);
    let numbers = any::<(u64, u64, u64, u16, u64, u64, bool)>();
    (names, links, operations, recoveries, numbers).prop_map(|(names, links, operations, recoveries, numbers)| {
        let (forgotten_gains, recovered) = recoveries;
        let ((cluster, group), applied, configuration, range_version, range) = names;
        let (version, predecessor, successor) = links;
        let (pending, counter, outbox, (absorbed, children, gained, reshaped)) = operations;
        let (stamp, forgotten, log_time, feature_level, keys, bytes, counted) = numbers;
        GroupState {
            cluster: ClusterId(cluster),
            group: GroupId(group),
            applied,
            configuration,
            range_version: RangeVersion(range_version),
            range,
            links: Links { version: LinksVersion(version), predecessor, successor },
            pending,
            operations: OperationCounter(counter),
            outbox,
            absorbed,
            children,
            gained,
            forgotten_gains,
            recovered,
            reshaped,
            stamp: Version(stamp),
            forgotten: Version(forgotten),
            log_time: LogTime(log_time),
            feature_level: FeatureLevel(feature_level),
            keys,
            bytes,
            counted,
        }
    })
}

fn vote() -> impl Strategy<Value = Vote> {
    prop_oneof![
        surrender().prop_map(|surrender| Vote::Yes { surrender }),
        "[a-z ]{0,12}".prop_map(|reason| Vote::No { reason }),
    ]
}

fn standing() -> impl Strategy<Value = Standing> {
    let committed = slot().prop_map(|at: Slot| Standing::Committed { at });
    prop_oneof![Just(Standing::Undecided), committed, Just(Standing::Aborted)]
}

fn message() -> impl Strategy<Value = GroupMessage> {
    let node = || any::<u64>().prop_map(NodeId);
    let orders = prop_oneof![
        Just(GroupMessage::Inspect),
        (link(), any::<u64>(), node(), any::<bool>()).prop_map(|(link, operations, leader, busy)| {
            GroupMessage::Inspected { link, operations: OperationCounter(operations), leader, busy }
        }),
        (vec((node(), "[a-z]{0,8}:[0-9]{1,5}"), 0..4), node())
            .prop_map(|(members, leader)| GroupMessage::Align { members, leader }),
        link().prop_map(|link| GroupMessage::Neighbour { link }),
        (link(), any::<bool>(), link()).prop_map(|(of, known, link)| GroupMessage::Heard { of, known, link }),
        configuration().prop_map(|configuration| GroupMessage::Moved { configuration }),
    ];
    let hints = prop_oneof![
        (any::<u8>(), any::<u64>(), option::of(load())).prop_map(|(level, range_version, load)| {
            GroupMessage::Look { level, range_version: RangeVersion(range_version), load }
        }),
        (any::<u8>(), descriptor(), option::of(descriptor()), option::of(load()))
            .prop_map(|(level, own, link, load)| GroupMessage::Seen { level, own, link, load }),
    ];
    let operations = prop_oneof![
        prepare().prop_map(|prepare| GroupMessage::Prepare { prepare }),
        (operation(), vote()).prop_map(|(operation, vote)| GroupMessage::Voted { operation, vote }),
        (operation(), option::of(slot()))
            .prop_map(|(operation, committed)| GroupMessage::Resolve { operation, committed }),
        operation().prop_map(|operation| GroupMessage::Resolved { operation }),
        operation().prop_map(|operation| GroupMessage::Ask { operation }),
        (operation(), standing()).prop_map(|(operation, standing)| GroupMessage::Answer { operation, standing }),
    ];
    prop_oneof![orders, operations, hints]
}

fn load() -> impl Strategy<Value = GroupLoad> {
    let figures = (any::<u64>(), any::<u64>(), any::<u64>());
    figures.prop_map(|(keys, bytes, operations_per_second)| GroupLoad { keys, bytes, operations_per_second })
}

fn descriptor() -> impl Strategy<Value = Descriptor> {
    let leader = option::of(any::<u64>().prop_map(NodeId));
    (link(), leader, ballot()).prop_map(|(link, leader, ballot)| Descriptor { leader, ballot, ..link.descriptor() })
}

pub(crate) fn envelope() -> impl Strategy<Value = GroupEnvelope> {
    (group(), group(), message()).prop_map(|(from, to, message)| GroupEnvelope { from, to, message })
}
