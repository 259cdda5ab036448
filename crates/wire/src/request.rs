//! What clients ask of a node.

use bytes::{Bytes, BytesMut};
use scatter_core::codec::{Decode, DecodeError, Encode};
use scatter_core::command::Command;
use scatter_core::ops::order::Side;
use scatter_core::ring::{Key, MAX_KEY_BYTES, Position};
use scatter_core::types::{ConfigurationVersion, GroupId, NodeId, RangeVersion, RequestId};
use scatter_core::{codec_enum, codec_struct};

/// One request. Several travel in a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientRequest {
    /// Pairs the reply with it; unique among the open requests of its connection.
    pub id: RequestId,
    /// What is left of the caller's deadline, in milliseconds. After it nobody waits for the reply.
    pub budget_ms: u32,
    /// How many nodes have forwarded it already. A node that is not to forward any further refuses instead.
    pub hops: u8,
    /// What is asked.
    pub body: ClientBody,
}

codec_struct!(ClientRequest { id, budget_ms, hops, body });

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientBody {
    /// The value of a key.
    Read {
        /// The key.
        key: Key,
        /// How fresh the value must be.
        consistency: Consistency,
    },
    /// A change of data.
    Write {
        /// An encoded [`Command`]; the node decodes it once, to check it and find its group.
        command: Bytes,
    },
    /// What the node is, hosts and knows: see [`crate::reply::Description`].
    Describe,
    /// An operator's order or question.
    Administer {
        /// Which.
        request: AdminRequest,
    },
    /// Who owns a position, as far as the node knows: see [`crate::reply::ReplyBody::Located`].
    Locate {
        /// Where.
        position: Boundary,
    },
}

codec_enum!(ClientBody {
    1 => Read { key, consistency },
    2 => Write { command },
    3 => Describe,
    4 => Administer { request },
    5 => Locate { position },
});

impl ClientBody {
    /// A write of `command`.
    #[must_use]
    pub fn write(command: &Command) -> Self {
        Self::Write { command: command.to_bytes() }
    }

    /// The command of a write, decoded; `None` for anything else.
    pub fn command(&self) -> Option<Result<Command, scatter_core::codec::DecodeError>> {
        match self {
            Self::Write { command } => Some(Command::from_all(command.clone())),
            Self::Read { .. } | Self::Describe | Self::Administer { .. } | Self::Locate { .. } => None,
        }
    }
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consistency {
    /// It sees every write acknowledged before it began.
    Linearizable,
    /// It sees every write acknowledged longer ago than this.
    Bounded {
        /// Milliseconds.
        max_staleness_ms: u64,
    },
    /// Whatever the node has.
    Any,
}

codec_enum!(Consistency { 1 => Linearizable, 2 => Bounded { max_staleness_ms }, 3 => Any });

/// The longest position of which anybody speaks: 8 bytes of hash and the longest key.
pub const MAX_BOUNDARY_BYTES: usize = 8 + MAX_KEY_BYTES;

/// A position of bounded length: where an arc begins or ends, or what is looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Boundary(Position);

impl Boundary {
    /// Checks the length; `None` if it is over [`MAX_BOUNDARY_BYTES`].
    #[must_use]
    pub fn new(position: Position) -> Option<Self> {
        (position.0.len() <= MAX_BOUNDARY_BYTES).then_some(Self(position))
    }

    /// Where a key lies: never too long.
    #[must_use]
    pub fn of(key: &Key) -> Self {
        Self(key.position())
    }

    /// The position.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.0
    }
}

impl From<Boundary> for Position {
    fn from(boundary: Boundary) -> Self {
        boundary.0
    }
}

impl Encode for Boundary {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
}

impl Decode for Boundary {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Self::new(Position::decode(from)?).ok_or(DecodeError::Invalid("a position longer than any key's"))
    }
}

/// A node to be added to a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewMember {
    /// Its id.
    pub node: NodeId,
    /// Where it listens for peers.
    pub address: String,
}

codec_struct!(NewMember { node, address });

/// An operator's order or question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AdminRequest {
    /// The node's status as JSON.
    Status,
    /// Changes a group's members: newcomers learn first, then one entry changes the set.
    ChangeMembers {
        /// The group.
        group: GroupId,
        /// Who comes.
        add: Vec<NewMember>,
        /// Who goes.
        remove: Vec<NodeId>,
        /// The version that the group's configuration must have; `None` for whatever it is.
        version: Option<ConfigurationVersion>,
        /// Only says what would happen.
        dry_run: bool,
    },
    /// Hands a group's leadership over.
    TransferLeader {
        /// The group.
        group: GroupId,
        /// To whom; `None` lets the leader choose.
        to: Option<NodeId>,
        /// Only says what would happen.
        dry_run: bool,
    },
    /// Gives the upper part of a group's range to a new group.
    Split {
        /// The group.
        group: GroupId,
        /// The first position of the new group; `None` for the middle of what the group holds.
        at: Option<Boundary>,
        /// The version that the group's range must have; `None` for whatever it is.
        range_version: Option<RangeVersion>,
        /// Only says what would happen.
        dry_run: bool,
    },
    /// Has a group take over positions of a neighbour.
    TakeOver {
        /// The group that gains.
        group: GroupId,
        /// Which neighbour loses.
        from: Side,
        /// The new boundary between the two; `None` for all that the neighbour has: a merge.
        boundary: Option<Boundary>,
        /// The version that the gaining group's range must have; `None` for whatever it is.
        range_version: Option<RangeVersion>,
        /// Only says what would happen.
        dry_run: bool,
    },
    /// Has the node emptied: what it leads goes to others at once, its replicas as there is room elsewhere.
    Drain {
        /// Whether; `false` takes it back.
        on: bool,
    },
    /// Has a group that has lost its majority for good go on with these members alone, as another group. Unsafe.
    Recover {
        /// The group.
        group: GroupId,
        /// The nodes of the voters that are left, the one that is asked among them.
        survivors: Vec<NodeId>,
    },
    /// Has the node listen to these nodes no more, for groups go on without them.
    Condemn {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
}

codec_enum!(AdminRequest {
    1 => Status,
    2 => ChangeMembers { group, add, remove, version, dry_run },
    3 => TransferLeader { group, to, dry_run },
    4 => Split { group, at, range_version, dry_run },
    5 => TakeOver { group, from, boundary, range_version, dry_run },
    6 => Drain { on },
    7 => Recover { group, survivors },
    8 => Condemn { nodes },
});
