//! What Scatter's programs say to each other over TCP.
//!
//! A connection to a node's peer port opens the same way whoever connects:
//!
//! ```text
//! connecting side                                   answering side
//!   magic, versions it speaks    ------------------>
//!   frame: Hello                 ------------------>
//!                                <------------------   magic, versions it speaks
//!                                <------------------   frame: Answer (Welcome or Refused)
//! ```
//!
//! Then both speak the highest version they share. After `Hello::Peer` the connecting node sends consensus messages, one
//! in each frame, and the other side is silent (it opens its own connections for what it has to say). After
//! `Hello::Client` every frame of the client holds a batch of [`ClientRequest`]s and every frame of the node a batch of
//! [`ClientReply`]s, in any order; ids pair them.
//!
//! The layout of everything after the handshake belongs to the wire version; it never changes within one. The handshake's
//! own frames only ever grow at the end, and a reader ignores what it does not know there.
//!
//! * [`frame`]: lengths, limits, buffers.
//! * [`hello`] and [`handshake`]: who is there.
//! * [`request`] and [`reply`]: the client protocol.
//! * [`connection`] and [`pool`]: the client's end, shared by gateway, command line and nodes that forward.

pub mod connection;
pub mod frame;
pub mod handshake;
pub mod hello;
pub mod pool;
pub mod reply;
pub mod request;
pub mod socket;

pub use connection::{
    CallError, ConnectError, Connection, ConnectionMetrics, ConnectionOptions, LocalNode, LocalReply,
};
pub use frame::{DEFAULT_FRAME_LIMIT, Frame, FrameBatch, FrameBuffer, FrameError, Versions};
pub use hello::{Answer, Channel, Hello, Identity, PeerHello, Refused, RefusedReason};
pub use pool::Pool;
pub use reply::{
    ClientReply, Description, Epoch, NodeInfo, NodeState, PendingInfo, ReadPath, Refusal, ReplicaInfo, ReplicaRole,
    ReplyBody,
};
pub use request::{AdminRequest, Boundary, ClientBody, ClientRequest, Consistency, MAX_BOUNDARY_BYTES, NewMember};
pub use scatter_core::ops::order::Side;
