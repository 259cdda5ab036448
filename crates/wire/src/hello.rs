//! Who connects, and what the answering side says to that.

use scatter_core::codec::{Decode, DecodeError, Encode};
use scatter_core::types::{ClusterId, NodeId};
use scatter_core::{codec_enum, codec_struct};

/// What a node says about itself in every handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The configured name of its cluster.
    pub cluster_name: String,
    /// Its cluster, once it belongs to one.
    pub cluster: Option<ClusterId>,
    /// Its id.
    pub node: NodeId,
    /// How often its data directory was opened; durable, rises with every boot.
    pub boot: u64,
    /// Drawn at boot: the same boot counter with another nonce is another copy of the disk.
    pub nonce: u64,
    /// The nonces of the boots before, newest first.
    pub earlier: Vec<u64>,
    /// Where it listens for peers.
    pub peer_address: String,
    /// Where it serves HTTP.
    pub http_address: String,
    /// Its zone.
    pub zone: String,
}

codec_struct!(Identity { cluster_name, cluster, node, boot, nonce, earlier, peer_address, http_address, zone });

/// Which of the connections between two nodes this is. They never wait for each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Channel {
    /// Consensus messages: small, urgent, lossy.
    Control,
    /// Snapshots and long catch-up: large, patient.
    Bulk,
}

codec_enum!(Channel { 1 => Control, 2 => Bulk });

/// A node introduces itself to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerHello {
    /// Who connects.
    pub from: Identity,
    /// Whom it believes it is talking to; `None` asks who is there.
    pub to: Option<NodeId>,
    /// What the connection is for.
    pub channel: Channel,
}

codec_struct!(PeerHello { from, to, channel });

/// The first frame of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hello {
    /// A node.
    Peer {
        /// Its introduction.
        hello: PeerHello,
    },
    /// A client: gateway, command line, or a node that forwards requests.
    Client {
        /// The configured name of the cluster it wants.
        cluster_name: String,
        /// What program it is, for logs.
        agent: String,
    },
}

codec_enum!(Hello { 1 => Peer { hello }, 2 => Client { cluster_name, agent } });

/// Why a connection was refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RefusedReason {
    /// The two belong to different clusters.
    OtherCluster,
    /// Another node than the one asked for lives at this address.
    OtherNode,
    /// The connecting node showed a lower boot counter than before: its disk was rolled back.
    OldBoot,
    /// The connecting node showed a known boot counter with another nonce: its disk was copied.
    ClonedDisk,
    /// The connecting node's id belongs to a node that is gone for good.
    Condemned,
    /// No wire version in common.
    Version,
    /// As many connections as allowed are open.
    Busy,
    /// The first frame was not a hello.
    Malformed,
}

codec_enum!(RefusedReason {
    1 => OtherCluster, 2 => OtherNode, 3 => OldBoot, 4 => ClonedDisk, 5 => Condemned, 6 => Version, 7 => Busy, 8 => Malformed,
});

impl RefusedReason {
    /// Whether the refused node must durably give up its id: it can no longer keep the promises made under it.
    #[must_use]
    pub const fn gives_up_id(self) -> bool {
        match self {
            Self::OldBoot | Self::ClonedDisk | Self::Condemned => true,
            Self::OtherCluster | Self::OtherNode | Self::Version | Self::Busy | Self::Malformed => false,
        }
    }
}

/// A refusal, with a sentence for a person.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Refused {
    /// The reason.
    pub reason: RefusedReason,
    /// The sentence.
    pub text: String,
}

codec_struct!(Refused { reason, text });

impl Refused {
    /// A refusal for `reason`, explained by `text`.
    pub fn new(reason: RefusedReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

/// What the answering side says to a [`Hello`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The connection stands.
    Welcome {
        /// Who answers.
        identity: Identity,
    },
    /// The connection is about to be closed.
    Refused {
        /// Why.
        refused: Refused,
    },
}

codec_enum!(Answer { 1 => Welcome { identity }, 2 => Refused { refused } });

/// Reads a frame of the handshake. What a later version appended is ignored.
pub(crate) fn decode_open<T: Decode + Encode>(mut frame: bytes::Bytes) -> Result<T, DecodeError> {
    T::decode(&mut frame)
}
