//! What clients ask of a node.

use bytes::Bytes;
use scatter_core::codec::Decode;
use scatter_core::command::Command;
use scatter_core::ring::Key;
use scatter_core::types::{GroupId, NodeId, RequestId};
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
}

codec_enum!(ClientBody {
    1 => Read { key, consistency },
    2 => Write { command },
    3 => Describe,
    4 => Administer { request },
});

impl ClientBody {
    /// A write of `command`.
    #[must_use]
    pub fn write(command: &Command) -> Self {
        Self::Write { command: scatter_core::codec::Encode::to_bytes(command) }
    }

    /// The command of a write, decoded; `None` for anything else.
    pub fn command(&self) -> Option<Result<Command, scatter_core::codec::DecodeError>> {
        match self {
            Self::Write { command } => Some(Command::from_all(command.clone())),
            Self::Read { .. } | Self::Describe | Self::Administer { .. } => None,
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
}

codec_enum!(AdminRequest {
    1 => Status,
    2 => ChangeMembers { group, add, remove, dry_run },
    3 => TransferLeader { group, to, dry_run },
});
