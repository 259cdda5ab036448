//! What a group replicates beside its data.
//!
//! Three versions, not one: churn of members (`configuration`) does not abort work on ranges (`range`), and neither
//! does news of the neighbours (`links`).

use crate::codec::{Decode, DecodeError, Encode};
use crate::ops::{Gain, Obligation, Pending, Recovered};
use crate::ring::{Key, KeyRange};
use crate::time::LogTime;
use crate::types::{
    Ballot, ClusterId, ConfigurationVersion, FeatureLevel, GroupId, Incarnation, LinksVersion, NodeId,
    OperationCounter, RangeVersion, ReplicaName, Slot, Version,
};
use crate::{codec_enum, codec_struct};
use bytes::{Bytes, BytesMut};

/// The most members, learners included, of one group.
pub const MAX_MEMBERS: usize = 64;

/// Whether a member votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Counts in every majority.
    Voter,
    /// Receives the log, counts nowhere.
    Learner,
}

codec_enum!(Role { 0 => Voter, 1 => Learner });

/// One replica of a group, as its configuration names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The hosting node.
    pub node: NodeId,
    /// The configuration that added it.
    pub incarnation: Incarnation,
    /// Whether it votes.
    pub role: Role,
    /// Where its node listens for peers: a hint; identity is the id.
    pub address: String,
}

codec_struct!(Member { node, incarnation, role, address });

/// Who the members are. Body of an [`crate::entry::EntryKind::Configuration`] entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// Rises by one with each change.
    pub version: ConfigurationVersion,
    /// Sorted by node id; no node twice.
    pub members: Vec<Member>,
}

impl Configuration {
    /// The member on `node`, if any.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }

    /// Whether this very incarnation votes.
    #[must_use]
    pub fn is_voter(&self, name: ReplicaName) -> bool {
        self.member(name.node)
            .is_some_and(|member| member.incarnation == name.incarnation && member.role == Role::Voter)
    }

    /// Whether this very incarnation is a member, voting or learning.
    #[must_use]
    pub fn has(&self, name: ReplicaName) -> bool {
        self.member(name.node).is_some_and(|member| member.incarnation == name.incarnation)
    }

    /// The members that vote.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == Role::Voter)
    }

    /// How many voters a majority takes.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }
}

codec_struct!(ConfigurationBody { version, members });

/// The plain fields, decoded before they are checked.
struct ConfigurationBody {
    version: ConfigurationVersion,
    members: Vec<Member>,
}

impl Encode for Configuration {
    fn encode(&self, out: &mut BytesMut) {
        self.version.encode(out);
        self.members.encode(out);
    }
}

impl Decode for Configuration {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        let ConfigurationBody { version, members } = Decode::decode(from)?;
        let sorted = members.windows(2).all(|pair| pair[0].node < pair[1].node);
        let configuration = Self { version, members };
        if !sorted || configuration.members.len() > MAX_MEMBERS || configuration.voters().next().is_none() {
            return Err(DecodeError::Invalid("a configuration is sorted, small and has a voter"));
        }
        Ok(configuration)
    }
}

/// One ring neighbour, as last heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The neighbour.
    pub group: GroupId,
    /// Its range version when it told.
    pub range_version: RangeVersion,
    /// Its configuration version when it told.
    pub configuration_version: ConfigurationVersion,
    /// Its range then.
    pub range: KeyRange,
    /// Its members then.
    pub members: Vec<Member>,
}

codec_struct!(Link { group, range_version, configuration_version, range, members });

impl Link {
    /// A group by its parts.
    pub(crate) fn of(
        group: GroupId,
        configuration: &Configuration,
        range_version: RangeVersion,
        range: &KeyRange,
    ) -> Self {
        let Configuration { version, members } = configuration;
        let (range, members) = (range.clone(), members.clone());
        Self { group, range_version, configuration_version: *version, range, members }
    }

    /// What the link tells a cache, which is not who leads the group.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            group: self.group,
            configuration: Configuration { version: self.configuration_version, members: self.members.clone() },
            range_version: self.range_version,
            range: self.range.clone(),
            leader: None,
            ballot: Ballot::ZERO,
        }
    }
}

/// Both neighbours. On a ring of one group both are the group itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Links {
    /// Rises with each change.
    pub version: LinksVersion,
    /// The group whose range ends where this one's starts.
    pub predecessor: Link,
    /// The group whose range starts where this one's ends.
    pub successor: Link,
}

codec_struct!(Links { version, predecessor, successor });

/// Something whose time-to-live has run out, named with its version so that a later write is not touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// A key.
    Key {
        /// The key.
        key: Key,
        /// The write that set the time-to-live.
        version: Version,
    },
    /// An idempotency record.
    Idempotency {
        /// The key beside which it lies.
        key: Key,
        /// The method that scopes it.
        method: u8,
        /// The user's idempotency key.
        idempotency_key: Bytes,
        /// The write that made the record.
        version: Version,
    },
}

codec_enum!(Expiry { 1 => Key { key, version }, 2 => Idempotency { key, method, idempotency_key, version } });

/// All that a group replicates, but for its data and its lanes. Equal on every replica at equal slots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupState {
    /// The deployment.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The last slot that is part of this state.
    pub applied: Slot,
    /// Members.
    pub configuration: Configuration,
    /// Rises with each change of `range`.
    pub range_version: RangeVersion,
    /// The arc the group owns.
    pub range: KeyRange,
    /// Ring neighbours.
    pub links: Links,
    /// The group operation that holds the lock.
    pub pending: Option<Pending>,
    /// Counts votes and aborts of group operations.
    pub operations: OperationCounter,
    /// What is owed after decisions.
    pub outbox: Vec<Obligation>,
    /// Groups that were merged into this one, each with the slot, the last [`crate::ops::MAX_ABSORBED`] of them: a node that was
    /// away may still have replicas of them.
    pub absorbed: Vec<(GroupId, Slot)>,
    /// The last groups that were split off, each with the slot, at most [`crate::ops::MAX_CHILDREN`] of them.
    pub children: Vec<(GroupId, Slot)>,
    /// The last takeovers, at most [`crate::ops::MAX_GAINED`] of them, oldest first.
    pub gained: Vec<Gain>,
    /// Of the operations that the group began up to this slot `gained` no longer tells whether they were committed.
    pub forgotten_gains: Slot,
    /// The groups that it was recovered from, at most [`crate::ops::MAX_RECOVERED`] of them, oldest first.
    pub recovered: Vec<Recovered>,
    /// The last slot that changed which positions the group has: a replica that has not applied it may lack data.
    pub reshaped: Slot,
    /// The version of the last operation applied.
    pub stamp: Version,
    /// The highest stamp any forgotten lane could have used.
    pub forgotten: Version,
    /// The replicated clock.
    pub log_time: LogTime,
    /// What formats the group may use.
    pub feature_level: FeatureLevel,
    /// How many user keys the group holds.
    pub keys: u64,
    /// How many bytes its user keys and values take.
    pub bytes: u64,
    /// Whether `keys` and `bytes` are exact; after a change of the range they are estimates until somebody has counted.
    pub counted: bool,
}

codec_struct!(GroupState {
    cluster,
    group,
    applied,
    configuration,
    range_version,
    range,
    links,
    pending,
    operations,
    outbox,
    absorbed,
    children,
    gained,
    forgotten_gains,
    recovered,
    reshaped,
    stamp,
    forgotten,
    log_time,
    feature_level,
    keys,
    bytes,
    counted,
});

impl GroupState {
    /// The state at slot 1 of the first group of a cluster: the whole ring, its own neighbour twice. Every founder
    /// computes the same one from the binding, so slot 1 needs no ballot.
    #[must_use]
    pub fn genesis(cluster: ClusterId, group: GroupId, configuration: Configuration, log_time: LogTime) -> Self {
        let link = Link {
            group,
            range_version: RangeVersion(1),
            configuration_version: configuration.version,
            range: KeyRange::whole(),
            members: configuration.members.clone(),
        };
        Self {
            cluster,
            group,
            applied: Slot(1),
            configuration,
            range_version: RangeVersion(1),
            range: KeyRange::whole(),
            links: Links { version: LinksVersion(1), predecessor: link.clone(), successor: link },
            pending: None,
            operations: OperationCounter(0),
            outbox: Vec::new(),
            absorbed: Vec::new(),
            children: Vec::new(),
            gained: Vec::new(),
            forgotten_gains: Slot(0),
            recovered: Vec::new(),
            reshaped: Slot(1),
            stamp: Version(log_time.0),
            forgotten: Version(0),
            log_time,
            feature_level: FeatureLevel(1),
            keys: 0,
            bytes: 0,
            counted: true,
        }
    }

    /// The hint about this group that travels to caches.
    #[must_use]
    pub fn descriptor(&self, leader: Option<NodeId>, ballot: Ballot) -> Descriptor {
        Descriptor {
            group: self.group,
            configuration: self.configuration.clone(),
            range_version: self.range_version,
            range: self.range.clone(),
            leader,
            ballot,
        }
    }
}

/// A hint about a group: where its range lies and who its members are. Only the replicated state decides.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The group.
    pub group: GroupId,
    /// Members, with their version.
    pub configuration: Configuration,
    /// Version of `range`.
    pub range_version: RangeVersion,
    /// The arc it owns.
    pub range: KeyRange,
    /// Who leads it, if the teller knows.
    pub leader: Option<NodeId>,
    /// The ballot of that knowledge; higher is fresher.
    pub ballot: Ballot,
}

codec_struct!(Descriptor { group, configuration, range_version, range, leader, ballot });

impl Descriptor {
    /// The group as one that speaks to all its members must know it.
    #[must_use]
    pub fn link(&self) -> Link {
        Link::of(self.group, &self.configuration, self.range_version, &self.range)
    }
}
