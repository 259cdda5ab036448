//! What nodes say to each other.
//!
//! A message may be lost, repeated, delayed and reordered; nothing here relies on the transport for more than keeping the
//! bytes of one message together. Every message between replicas carries both full names.

use crate::cover::Covered;
use crate::durable::{Binding, PeerRecord};
use crate::entry::{Entry, Room};
use crate::group::Configuration;
use crate::ops::messages::GroupEnvelope;
use crate::time::Instant;
use crate::types::{Ballot, ClusterId, ConfigurationVersion, FeatureLevel, GroupId, NodeId, ReplicaName, Slot};
use crate::{codec_enum, codec_struct};
use bytes::Bytes;

/// The version of every message format below; both ends of a connection agree on one.
pub const WIRE_VERSION: u16 = 1;

/// What lets a candidate pass over leases that its predecessor has released.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket {
    /// The ballot whose leases are released.
    pub ballot: Ballot,
    /// The last send stamp its leader let out: grants up to it are released, later ones are not.
    pub stamp: Instant,
}

codec_struct!(Ticket { ballot, stamp });

/// Why a ballot was not promised or accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A higher ballot was promised.
    Promised,
    /// A lease granted to another ballot, or a restart wait, has not ended.
    Lease,
    /// The asked replica knows a later configuration; the asker should catch up.
    Configuration,
    /// There is no such replica, and its node takes in no more for the moment.
    NoRoom,
}

codec_enum!(Refusal { 1 => Promised, 2 => Lease, 3 => Configuration, 4 => NoRoom });

/// One accepted entry as a promise reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptedEntry {
    /// Where.
    pub slot: Slot,
    /// In which ballot.
    pub ballot: Ballot,
    /// What.
    pub entry: Entry,
}

codec_struct!(AcceptedEntry { slot, ballot, entry });

/// A piece of a snapshot on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Which snapshot, by the sender's number; zero if the one asked for is no more.
    pub snapshot: u64,
    /// The slot it is of.
    pub slot: Slot,
    /// The cursor it was asked for with; `None` for the first piece.
    pub cursor: Option<Bytes>,
    /// The cursor to ask for the next piece with; `None` after the last.
    pub after: Option<Bytes>,
    /// What it holds ([`crate::group`] defines it), checksummed.
    pub chunk: Bytes,
}

codec_struct!(Piece { snapshot, slot, cursor, after, chunk });

/// From one replica of a group to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Would you promise this ballot? Binds nobody.
    PreVote {
        /// The ballot the asker would use.
        ballot: Ballot,
        /// The asker's configuration.
        configuration: ConfigurationVersion,
        /// What the asker knows decided.
        decided: Slot,
        /// What lets it pass over leases, after a hand-over.
        ticket: Option<Ticket>,
    },
    /// Answer to a pre-vote.
    PreVoted {
        /// The ballot asked about.
        ballot: Ballot,
        /// `None` for yes.
        refusal: Option<Refusal>,
        /// The highest ballot the answerer has promised.
        promised: Ballot,
        /// What the answerer knows decided.
        decided: Slot,
    },
    /// Phase 1a.
    Prepare {
        /// The new ballot.
        ballot: Ballot,
        /// The configuration whose majority is asked.
        configuration: ConfigurationVersion,
        /// What the candidate knows decided: lower slots need no report.
        decided: Slot,
        /// What lets it pass over leases, after a hand-over.
        ticket: Option<Ticket>,
    },
    /// Phase 1b, sent once the promise is on disk.
    Promise {
        /// The promised ballot.
        ballot: Ballot,
        /// What the acceptor knows decided; it reports nothing up to here, and a candidate below catches up first.
        decided: Slot,
        /// The last slot the acceptor has forgotten.
        truncated: Slot,
        /// Every slot above `decided` it has accepted, rising.
        accepted: Vec<AcceptedEntry>,
    },
    /// A prepare or accept was not followed.
    Refuse {
        /// The ballot refused.
        ballot: Ballot,
        /// Why.
        refusal: Refusal,
        /// The highest ballot promised.
        promised: Ballot,
        /// What the refuser knows decided.
        decided: Slot,
    },
    /// Phase 2a: the leader's stream; without entries, its heartbeat.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// The leader's boot clock when it sent this; rises with every message.
        stamp: Instant,
        /// The lease asked for, in nanoseconds; zero for none.
        lease_nanos: u64,
        /// The slot of the first entry, or, without entries, of the next that will come.
        first: Slot,
        /// Entries at consecutive slots.
        entries: Vec<Entry>,
        /// Every slot up to here is decided.
        decided: Slot,
        /// The receiver's ask that this answers: when it was heard, everything acknowledged lay at or below `decided`. Zero
        /// for none.
        vouches: u64,
        /// Up to here the receiver's disk is to take entries out of its reserve, if it has no room for them: a majority has none
        /// either, and something stands behind them that has a right to it. Zero for none.
        press: Slot,
    },
    /// Phase 2b, cumulative: everything up to `through` is on disk here, accepted in this ballot or decided.
    Accepted {
        /// The leader's ballot.
        ballot: Ballot,
        /// The newest stamp heard from it: what a lease is counted from.
        stamp: Instant,
        /// How long a lease was granted from when that stamp was heard, in nanoseconds; zero for none.
        lease_nanos: u64,
        /// The last slot of the gapless stream that is on disk.
        through: Slot,
        /// The stream has a gap: the leader goes back to this slot.
        want: Option<Slot>,
        /// The last slot applied here.
        applied: Slot,
        /// The newest feature level this node understands.
        level: FeatureLevel,
        /// Asks the leader to vouch for what it knows decided; a number that the sender uses once.
        ask: u64,
        /// How much room the sender's disk has.
        room: Room,
    },
    /// Asks for decided entries.
    CatchUp {
        /// The first slot wanted.
        first: Slot,
    },
    /// Decided entries, as many as fit.
    Decided {
        /// The slot of the first entry.
        first: Slot,
        /// Decided entries at consecutive slots.
        entries: Vec<Entry>,
        /// What the sender knows decided.
        decided: Slot,
    },
    /// The entries asked for are forgotten; only a snapshot helps.
    Truncated {
        /// The last slot forgotten.
        through: Slot,
    },
    /// Asks for a piece of a snapshot.
    SnapshotPull {
        /// Which snapshot, by the sender's number; zero to begin a new one.
        snapshot: u64,
        /// Where the last piece ended; `None` for the first piece.
        cursor: Option<Bytes>,
    },
    /// A piece of a snapshot.
    SnapshotChunk {
        /// It.
        piece: Piece,
        /// Groups that were split off, each with the slot: what one who has not applied that slot holds of them he must not
        /// give up for this snapshot before he has them otherwise.
        children: Vec<(GroupId, Slot)>,
    },
    /// The leader has let go: stand for election at once.
    HandOver {
        /// What lets the target pass over the leases.
        ticket: Ticket,
    },
    /// Am I still a member?
    AskMembership {
        /// The asker's configuration.
        configuration: ConfigurationVersion,
    },
    /// The newest configuration the teller has applied.
    Membership {
        /// It.
        configuration: Configuration,
    },
    /// The teller's group was merged into another here: it votes no more, but keeps its log up to the seal.
    Merged {
        /// What the teller knows decided.
        decided: Slot,
    },
}

codec_enum!(Message {
    1 => PreVote { ballot, configuration, decided, ticket },
    2 => PreVoted { ballot, refusal, promised, decided },
    3 => Prepare { ballot, configuration, decided, ticket },
    4 => Promise { ballot, decided, truncated, accepted },
    5 => Refuse { ballot, refusal, promised, decided },
    6 => Accept { ballot, stamp, lease_nanos, first, entries, decided, vouches, press },
    7 => Accepted { ballot, stamp, lease_nanos, through, want, applied, level, ask, room },
    8 => CatchUp { first },
    9 => Decided { first, entries, decided },
    10 => Truncated { through },
    11 => SnapshotPull { snapshot, cursor },
    12 => SnapshotChunk { children, piece },
    13 => HandOver { ticket },
    14 => AskMembership { configuration },
    15 => Membership { configuration },
    16 => Merged { decided },
});

/// A message with both full names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Envelope {
    /// Who says it.
    pub from: ReplicaName,
    /// To whom. A replica ignores what is meant for another incarnation.
    pub to: ReplicaName,
    /// What.
    pub message: Message,
}

codec_struct!(Envelope { from, to, message });

/// Anything one node says to another once the connection stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerMessage {
    /// Between replicas.
    Replica {
        /// The message.
        envelope: Envelope,
    },
    /// From a founder: bind yourself to this.
    Bind {
        /// What the sender is bound to.
        binding: Binding,
    },
    /// From a founder: this is what I am durably bound to.
    Bound {
        /// It.
        binding: Binding,
    },
    /// Between groups.
    Group {
        /// The message.
        envelope: GroupEnvelope,
    },
    /// To a replica that speaks to one that was merged away: its group is no more.
    Gone {
        /// To whom.
        to: ReplicaName,
        /// The group that took over.
        into: GroupId,
        /// The slot at which it did.
        at: Slot,
    },
    /// Asks to speak for groups that the sender leads and the receiver follows in ([`crate::cover`]).
    Cover {
        /// A number that no process of the sender uses twice; rises.
        proposal: u64,
        /// The groups.
        groups: Vec<Covered>,
    },
    /// The sender goes by a cover.
    Covered {
        /// Which proposal it answers.
        proposal: u64,
        /// What it calls the set of groups that it goes by: no process of the sender uses a number for two sets.
        generation: u64,
        /// Without these.
        without: Vec<GroupId>,
    },
    /// To every group of a generation: an Accept without entries.
    Beat {
        /// Which.
        generation: u64,
        /// As in an Accept.
        stamp: Instant,
        /// As in an Accept.
        lease_nanos: u64,
        /// The receiver's ask that this answers, for every group but those below: when it was heard, the receiver had applied
        /// everything acknowledged. Zero for none.
        vouches: u64,
        /// For whom this does not vouch.
        except: Vec<GroupId>,
    },
    /// From every group of a generation: a lease granted.
    Beaten {
        /// Which.
        generation: u64,
        /// As in an Accepted.
        stamp: Instant,
        /// As in an Accepted.
        lease_nanos: u64,
        /// As in an Accepted.
        ask: u64,
    },
    /// The sender does not go by this generation any more.
    Uncovered {
        /// Which.
        generation: u64,
    },
    /// Hints for the shell, of which the core knows nothing.
    Gossip {
        /// As the gossip's own format has it.
        datagram: Bytes,
    },
}

codec_enum!(PeerMessage {
    1 => Replica { envelope },
    2 => Bind { binding },
    3 => Bound { binding },
    4 => Group { envelope },
    5 => Gone { to, into, at },
    6 => Gossip { datagram },
    7 => Cover { proposal, groups },
    8 => Covered { proposal, generation, without },
    9 => Beat { generation, stamp, lease_nanos, vouches, except },
    10 => Beaten { generation, stamp, lease_nanos, ask },
    11 => Uncovered { generation },
});

impl PeerMessage {
    /// Takes out what is large and ends the encoding, if there is such a thing: a piece of a snapshot, which need not be copied to
    /// be sent. What is left encodes with an empty byte string in its place.
    #[must_use]
    pub fn take_tail(&mut self) -> Option<Bytes> {
        match self {
            Self::Replica { envelope: Envelope { message: Message::SnapshotChunk { piece, .. }, .. } } => {
                Some(std::mem::take(&mut piece.chunk))
            }
            _ => None,
        }
    }
}

/// How a node introduces itself on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The cluster it belongs to, if any yet.
    pub cluster: Option<ClusterId>,
    /// Who it is.
    pub from: NodeId,
    /// Whom it believes to speak to, if it knows: a reused address must not reach the wrong node.
    pub to: Option<NodeId>,
    /// How often its data directory was opened.
    pub boot: u64,
    /// A number drawn at this boot.
    pub nonce: u64,
    /// Those of the boots before, newest first: a disk that was put back cannot show the ones it has missed, however often
    /// it was started since.
    pub earlier: Vec<u64>,
}

codec_struct!(Hello { cluster, from, to, boot, nonce, earlier });

impl Hello {
    /// Whether the sender had the boot that `seen` tells of: `None` if it is too long ago to show.
    #[must_use]
    pub fn remembers(&self, seen: &PeerRecord) -> Option<bool> {
        match self.boot.checked_sub(seen.boot) {
            None => Some(false),
            Some(0) => Some(self.nonce == seen.nonce),
            Some(ago) => {
                let index = usize::try_from(ago - 1).ok()?;
                self.earlier.get(index).map(|nonce| *nonce == seen.nonce)
            }
        }
    }
}

/// Why a connection is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HelloError {
    /// The two belong to different clusters.
    #[error("the node belongs to another cluster")]
    OtherCluster,
    /// The caller wanted somebody else.
    #[error("another node lives at this address")]
    OtherNode,
    /// The caller's disk was rolled back or cloned: a later boot of the same node was seen. It gives up its id.
    #[error("a later boot of this node was seen: its disk was rolled back or cloned")]
    RolledBack,
    /// The answering node has given up its own id.
    #[error("this node has given up its id")]
    GivenUp,
    /// A group of the caller's has lost its majority and goes on without the caller. It gives up its id.
    #[error("a group has been recovered without this node: it is not listened to any more")]
    Condemned,
}

codec_enum!(HelloError { 1 => OtherCluster, 2 => OtherNode, 3 => RolledBack, 4 => GivenUp, 5 => Condemned });
