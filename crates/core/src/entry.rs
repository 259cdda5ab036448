//! Log entries: what Paxos decides, one for each slot.

use crate::codec::{Decode, DecodeError, Encode};
use crate::command::Command;
use crate::types::Version;
use crate::{codec_enum, codec_struct};
use bytes::{Bytes, BytesMut};

/// The most bytes of one entry's body.
pub const MAX_ENTRY_BYTES: usize = 16 << 20;

/// What an entry's body holds. The number is the format's tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// Nothing: a new leader's barrier, or a tick of log time.
    Noop,
    /// Client commands, each a byte string ([`crate::command::Command`]), applied in order.
    Commands,
    /// A [`crate::group::Configuration`]: who the members are from the next slot on.
    Configuration,
    /// Keys and idempotency records whose time has come ([`crate::group::Expiry`] list).
    Expire,
    /// A [`crate::types::FeatureLevel`] that every member understands.
    FeatureLevel,
    /// News of ring neighbours ([`crate::group::Link`] list).
    Links,
    /// The upper part of the range goes to a new group ([`crate::ops::Split`]).
    Split,
    /// The coordinator begins a takeover ([`crate::ops::Begin`]).
    Begin,
    /// The participant votes ([`crate::ops::Prepare`]).
    Prepare,
    /// The coordinator decides ([`crate::ops::Decide`]).
    Decide,
    /// The participant learns the outcome ([`crate::ops::Resolve`]).
    Resolve,
    /// What the group owed for an operation is done ([`crate::ops::OperationId`]).
    Settle,
    /// Counters that were estimates come right ([`crate::group::Correction`]).
    Correct,
    /// The group has lost its majority: its survivors go on as another group ([`crate::ops::Recover`]).
    Recover,
}

codec_enum!(EntryKind {
    0 => Noop,
    1 => Commands,
    2 => Configuration,
    3 => Expire,
    4 => FeatureLevel,
    5 => Links,
    6 => Split,
    7 => Begin,
    8 => Prepare,
    9 => Decide,
    10 => Resolve,
    11 => Settle,
    12 => Correct,
    13 => Recover,
});

impl EntryKind {
    /// Whether the entry changes the members, and so is decided only by majorities of the old and of the new set.
    #[must_use]
    pub const fn changes_members(self) -> bool {
        matches!(self, Self::Configuration | Self::Recover)
    }

    /// Whether the entry changes who holds or answers for positions. It withdraws the read word before it is proposed, and
    /// nothing is proposed past it until it is decided.
    #[must_use]
    pub const fn is_structural(self) -> bool {
        self.changes_members() || self.moves_positions()
    }

    /// Whether the entry changes which positions a machine of this node answers for, perhaps together with another one.
    #[must_use]
    pub const fn moves_positions(self) -> bool {
        match self {
            Self::Split | Self::Prepare | Self::Decide | Self::Resolve | Self::Recover => true,
            Self::Noop
            | Self::Commands
            | Self::Configuration
            | Self::Expire
            | Self::FeatureLevel
            | Self::Links
            | Self::Begin
            | Self::Settle
            | Self::Correct => false,
        }
    }

    /// Whether the entry has space reserved on a full disk: without it nothing could be mended.
    #[must_use]
    pub const fn uses_reserve(self) -> bool {
        !matches!(self, Self::Commands)
    }
}

/// How much room a node's disk has, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Room {
    /// Only what has space reserved for it ([`EntryKind::uses_reserve`]).
    Reserve,
    /// Also commands that only remove keys: with them users make room.
    Removals,
    /// For everything.
    #[default]
    Enough,
}

codec_enum!(Room { 0 => Reserve, 1 => Removals, 2 => Enough });

impl Room {
    /// Whether a client's encoded [`Command`] has room.
    #[must_use]
    pub fn admits_command(self, command: &Bytes) -> bool {
        match self {
            Self::Enough => true,
            Self::Removals => Command::from_all(command.clone()).is_ok_and(|command| command.operation.only_removes()),
            Self::Reserve => false,
        }
    }

    /// Whether an entry has room.
    #[must_use]
    pub fn admits(self, entry: &Entry) -> bool {
        let admits_all = |commands: Vec<Bytes>| commands.iter().all(|command| self.admits_command(command));
        self == Self::Enough || entry.kind.uses_reserve() || Vec::from_all(entry.body.clone()).is_ok_and(admits_all)
    }
}

/// The leader's clocks at the moment it made an entry.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct EntryClock {
    /// The leader's wall clock in microseconds: what versions are pushed up to.
    pub stamp: Version,
    /// Microseconds by which log time advances with this entry.
    pub advance_micros: u64,
}

codec_struct!(EntryClock { stamp, advance_micros });

/// One log entry. Paxos looks at `kind` alone; the body stays bytes until it is applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What the body holds.
    pub kind: EntryKind,
    /// The leader's clocks.
    pub clock: EntryClock,
    /// The body.
    pub body: Bytes,
}

impl Entry {
    /// An entry without a body.
    #[must_use]
    pub const fn noop(clock: EntryClock) -> Self {
        Self { kind: EntryKind::Noop, clock, body: Bytes::new() }
    }

    /// Bytes the entry takes in memory, on disk and on the wire, near enough for limits.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.body.len() + 32
    }
}

impl Encode for Entry {
    fn encode(&self, out: &mut BytesMut) {
        self.kind.encode(out);
        self.clock.encode(out);
        self.body.encode(out);
    }
}

impl Decode for Entry {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        let entry = Self { kind: Decode::decode(from)?, clock: Decode::decode(from)?, body: Decode::decode(from)? };
        if entry.body.len() > MAX_ENTRY_BYTES {
            return Err(DecodeError::TooLong { what: "entry", length: entry.body.len(), limit: MAX_ENTRY_BYTES });
        }
        Ok(entry)
    }
}
