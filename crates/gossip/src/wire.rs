//! Datagrams: a version byte, then parts until the bytes end.

use crate::exchange::{Compare, Kind};
use crate::hint::{LoadReport, NodeNews};
use crate::identity::Identity;
use bytes::{BufMut, Bytes, BytesMut};
use scatter_core::codec::{Decode, DecodeError, Encode};
use scatter_core::group::Descriptor;

/// The version of the format.
pub const FORMAT_VERSION: u8 = 1;

/// The most bytes of a datagram that is taken in.
pub const MAX_DATAGRAM_BYTES: usize = 16 << 10;

/// The most bytes of a membership packet, in either direction: it fits the smallest datagram that may be set.
pub(crate) const MAX_SWIM_BYTES: usize = 1100;

/// What a datagram needs around its only item: version, round, tag, last word.
pub(crate) const FRAME_BYTES: usize = 8;

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
    /// The sender suspects this member, by that count of denials.
    Suspicion(Identity, u16),
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
    pub(crate) const SUSPICION: u8 = 9;
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
            tag::SUSPICION => {
                let (identity, incarnation) = Decode::decode(from)?;
                Self::Suspicion(identity, incarnation)
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::{Digest, Element, Span};
    use crate::hint::{Flags, Load, Profile, Told, ZoneTrip};
    use proptest::prelude::*;
    use scatter_core::types::NodeId;

    fn identity() -> impl Strategy<Value = Identity> {
        (any::<u64>(), any::<u64>(), any::<u32>(), "[a-z.:0-9]{0,40}").prop_map(|(node, boot, bump, address)| {
            Identity { node: NodeId(node), boot, bump, address: address.into() }
        })
    }

    fn news() -> impl Strategy<Value = NodeNews> {
        let trip = ("[a-z0-9-]{0,20}", any::<u32>()).prop_map(|(zone, micros)| ZoneTrip { zone, micros });
        let trips = prop::collection::vec(trip, 0..3);
        let profile = ("[a-z.:0-9]{0,40}", "[a-z0-9-]{0,20}", any::<u32>(), trips);
        let profile = profile.prop_map(|(http_address, zone, flags, trips)| Profile {
            http_address,
            zone,
            flags: Flags(flags),
            trips,
        });
        let told = (any::<u64>(), any::<u32>(), profile);
        let told = told.prop_map(|(boot, revision, profile)| Told { boot, revision, profile });
        (identity(), any::<u16>(), any::<Option<u64>>(), prop::option::of(told))
            .prop_map(|(identity, incarnation, down_ms, told)| NodeNews { identity, incarnation, down_ms, told })
    }

    fn span() -> impl Strategy<Value = Span> {
        let kind = prop_oneof![Just(Kind::Node), Just(Kind::Group)];
        (kind, any::<u64>(), any::<u64>()).prop_map(|(kind, from, to)| Span { kind, from, to })
    }

    fn compare() -> impl Strategy<Value = Compare> {
        let element = any::<(u64, u128)>().prop_map(|(key, version)| Element { key, version });
        let list = (span(), prop::collection::vec(element, 0..5));
        let digest = (span(), any::<u32>(), any::<u64>());
        prop_oneof![
            list.prop_map(|(span, elements)| Compare::List { span, elements }),
            digest.prop_map(|(span, count, sum)| Compare::Digest { span, digest: Digest { count, sum } }),
        ]
    }

    fn load() -> impl Strategy<Value = LoadReport> {
        any::<(u64, u64, u32, u32, u32, u64, u64)>().prop_map(
            |(node, boot, revision, replicas, leaders, bytes, rest)| {
                let load = Load {
                    replicas,
                    incoming: leaders / 2,
                    leaders,
                    bytes,
                    operations_per_second: rest,
                    free_disk_bytes: !rest,
                    uptime_seconds: rest / 3,
                };
                LoadReport { node: NodeId(node), boot, revision, load }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            news in news(),
            load in load(),
            compare in compare(),
            keys in prop::collection::vec(any::<u64>(), 0..9),
            suspect in (identity(), any::<u16>()),
            rounds in any::<u8>(),
        ) {
            let mut datagram = Datagram::new(MAX_DATAGRAM_BYTES);
            let packet = Bytes::from_static(b"packet");
            prop_assert!(datagram.is_empty());
            prop_assert!(datagram.push(tag::EXCHANGE, &rounds));
            prop_assert!(datagram.push(tag::SWIM, &packet));
            prop_assert!(datagram.push(tag::NODE, &news));
            prop_assert!(datagram.push(tag::LOAD, &load));
            prop_assert!(datagram.push(tag::COMPARE, &compare));
            prop_assert!(datagram.push(tag::WANT, &(Kind::Group, keys.clone())));
            prop_assert!(datagram.push(tag::SUSPICION, &suspect));
            let read = parts(datagram.freeze());
            prop_assert_eq!(read, Ok(vec![
                Part::Exchange(rounds),
                Part::Swim(packet),
                Part::Node(news),
                Part::Load(load),
                Part::Compare(compare),
                Part::Want(Kind::Group, keys),
                Part::Suspicion(suspect.0, suspect.1),
            ]));
        }
    }

    #[test]
    fn a_reply_that_is_cut_says_so_within_its_limits() {
        let mut reply = Reply::new(3, 100, 2);
        let text = "x".repeat(60);
        assert!(reply.push(tag::SWIM, &text) && reply.push(tag::SWIM, &text));
        assert!(!reply.push(tag::SWIM, &text) && reply.is_cut());
        let datagrams = reply.finish();
        assert_eq!(datagrams.len(), 2);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= 100));
        let last = parts(datagrams[1].clone()).expect("it reads back");
        assert_eq!((last.first(), last.last()), (Some(&Part::Exchange(3)), Some(&Part::More)));
        let mut reply = Reply::new(3, 100, 2);
        assert!(!reply.push(tag::SWIM, &"x".repeat(100)) && !reply.is_cut(), "what fits no datagram is no cut");
    }
}
