//! Datagrams: a version byte, then parts until the bytes end.

use crate::exchange::{Compare, Kind};
use crate::hint::{LoadReport, NodeNews};
use bytes::{BufMut, Bytes, BytesMut};
use scatter_core::codec::{Decode, DecodeError, Encode};
use scatter_core::group::Descriptor;

/// The version of the format.
pub const FORMAT_VERSION: u8 = 1;

/// The most bytes of a datagram that is taken in.
pub const MAX_DATAGRAM_BYTES: usize = 16 << 10;

/// The most bytes of a membership packet, in either direction: it fits the smallest datagram that may be set.
pub(crate) const MAX_SWIM_BYTES: usize = 1100;

/// What a datagram is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    /// A packet of the membership protocol.
    Swim(Bytes),
    /// About a node.
    Node(NodeNews),
    /// About a group.
    Group(Descriptor),
    /// A node's load.
    Load(LoadReport),
    /// The datagram is part of an exchange, of which so many rounds are left.
    Exchange(u8),
    /// What the sender has in a span, in short or in full.
    Compare(Compare),
    /// What the sender lacks.
    Want(Kind, Vec<u64>),
    /// The sender had more to say than fits: ask again.
    More,
}

/// Tags of parts: part of the format, never reused.
pub(crate) mod tag {
    pub(crate) const SWIM: u8 = 1;
    pub(crate) const NODE: u8 = 2;
    pub(crate) const GROUP: u8 = 3;
    pub(crate) const LOAD: u8 = 4;
    pub(crate) const EXCHANGE: u8 = 5;
    pub(crate) const COMPARE: u8 = 6;
    pub(crate) const WANT: u8 = 7;
    pub(crate) const MORE: u8 = 8;
}

impl Decode for Part {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(match u8::decode(from)? {
            tag::SWIM => Self::Swim(Decode::decode(from)?),
            tag::NODE => Self::Node(Decode::decode(from)?),
            tag::GROUP => Self::Group(Decode::decode(from)?),
            tag::LOAD => Self::Load(Decode::decode(from)?),
            tag::EXCHANGE => Self::Exchange(Decode::decode(from)?),
            tag::COMPARE => Self::Compare(Decode::decode(from)?),
            tag::WANT => {
                let (kind, keys) = Decode::decode(from)?;
                Self::Want(kind, keys)
            }
            tag::MORE => Self::More,
            tag => return Err(DecodeError::Tag { what: "part of a datagram", tag: u64::from(tag) }),
        })
    }
}

/// Why a datagram was not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Rejected {
    /// It is longer than [`MAX_DATAGRAM_BYTES`].
    #[error("a datagram of {0} bytes is too long")]
    TooLong(usize),
    /// It is of another version of the format.
    #[error("format version {0} is not known")]
    Version(u8),
    /// It does not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// It speaks in the name of somebody else than who sent it.
    #[error("the datagram speaks in another node's name")]
    OtherSender,
    /// The membership protocol makes nothing of it.
    #[error("membership: {0}")]
    Membership(String),
}

/// Takes a datagram apart.
pub(crate) fn parts(mut datagram: Bytes) -> Result<Vec<Part>, Rejected> {
    if datagram.len() > MAX_DATAGRAM_BYTES {
        return Err(Rejected::TooLong(datagram.len()));
    }
    match u8::decode(&mut datagram)? {
        FORMAT_VERSION => {}
        version => return Err(Rejected::Version(version)),
    }
    let mut parts = Vec::new();
    while !datagram.is_empty() {
        parts.push(Part::decode(&mut datagram)?);
    }
    Ok(parts)
}

/// A datagram in the making, never longer than its limit.
pub(crate) struct Datagram {
    bytes: BytesMut,
    limit: usize,
}

impl Datagram {
    pub(crate) fn new(limit: usize) -> Self {
        let mut bytes = BytesMut::with_capacity(256);
        bytes.put_u8(FORMAT_VERSION);
        Self { bytes, limit }
    }

    /// Appends a part, or nothing at all if it does not fit.
    pub(crate) fn push(&mut self, tag: u8, value: &impl Encode) -> bool {
        let before = self.bytes.len();
        self.bytes.put_u8(tag);
        value.encode(&mut self.bytes);
        let fits = self.bytes.len() <= self.limit;
        if !fits {
            self.bytes.truncate(before);
        }
        fits
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() <= 1
    }

    pub(crate) fn freeze(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// Several datagrams of one exchange, at most so many. What does not fit the last is left out, and it says so.
pub(crate) struct Reply {
    rounds: u8,
    limit: usize,
    most: usize,
    done: Vec<Bytes>,
    current: Option<Datagram>,
    cut: bool,
}

impl Reply {
    pub(crate) fn new(rounds: u8, limit: usize, most: usize) -> Self {
        Self { rounds, limit, most, done: Vec::new(), current: None, cut: false }
    }

    /// Appends a part, if there is room in any datagram. Returns whether there was.
    pub(crate) fn push(&mut self, tag: u8, value: &impl Encode) -> bool {
        if self.current.as_mut().is_some_and(|current| current.push(tag, value)) {
            return true;
        }
        if let Some(full) = self.current.take() {
            self.done.push(full.freeze());
        }
        if self.done.len() >= self.most {
            self.cut = true;
            return false;
        }
        // One byte stays free for the last word.
        let mut fresh = Datagram::new(self.limit - 1);
        fresh.push(tag::EXCHANGE, &self.rounds);
        let fits = fresh.push(tag, value);
        self.current = Some(fresh);
        fits
    }

    /// Whether something was left out for want of room.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        if let Some(last) = self.current.take() {
            self.done.push(last.freeze());
        }
        if self.cut
            && let Some(last) = self.done.pop()
        {
            let mut last = BytesMut::from(last);
            last.put_u8(tag::MORE);
            self.done.push(last.freeze());
        }
        self.done
    }
}
