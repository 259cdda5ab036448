//! Bytes to values and back: the one codec of wire and disk.
//!
//! Little-endian fixed-width integers, byte strings behind a `u32` length. Every length is checked against what is left
//! *and* against a limit before anything is allocated, so a hostile length costs nothing. Each message and record carries
//! a version in its envelope; within a version the layout never changes.

use crate::time::{Instant, LogTime, Wall};
use crate::types::{
    Ballot, ClusterId, ConfigurationVersion, FeatureLevel, GroupId, Incarnation, LinksVersion, NodeId,
    OperationCounter, RangeVersion, ReplicaName, RequestId, SessionId, Slot, TabletId, Version, WriteId,
};
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The most elements a decoded list may have.
pub const MAX_LIST: usize = 1 << 20;

/// Why bytes were not a value.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a value.
    #[error("the bytes end inside a {0}")]
    Short(&'static str),
    /// A length is over its limit.
    #[error("{what}: a length of {length} is over the limit of {limit}")]
    TooLong {
        /// What was being read.
        what: &'static str,
        /// The length found.
        length: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A tag that this version does not know.
    #[error("{what}: unknown tag {tag}")]
    Tag {
        /// What was being read.
        what: &'static str,
        /// The tag found.
        tag: u64,
    },
    /// Bytes were left over.
    #[error("{0} bytes left over")]
    Trailing(usize),
    /// A checksum does not match.
    #[error("{0}: checksum does not match")]
    Checksum(&'static str),
    /// Well-formed, but not a value that may exist.
    #[error("{0}")]
    Invalid(&'static str),
}

/// A value with a byte form.
pub trait Encode {
    /// Appends the byte form.
    fn encode(&self, out: &mut BytesMut);

    /// The byte form alone.
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }
}

/// A value that can be read back. `from` is advanced past it; byte strings are slices of it, not copies.
pub trait Decode: Sized {
    /// Reads one value.
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError>;

    /// Reads one value that fills `from` exactly.
    fn from_all(mut from: Bytes) -> Result<Self, DecodeError> {
        let value = Self::decode(&mut from)?;
        if from.has_remaining() { Err(DecodeError::Trailing(from.remaining())) } else { Ok(value) }
    }
}

macro_rules! integer {
    ($($type:ty, $get:ident, $put:ident;)*) => {$(
        impl Encode for $type {
            fn encode(&self, out: &mut BytesMut) {
                out.$put(*self);
            }
        }
        impl Decode for $type {
            fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
                if from.remaining() < size_of::<Self>() {
                    return Err(DecodeError::Short(stringify!($type)));
                }
                Ok(from.$get())
            }
        }
    )*};
}

integer! {
    u8, get_u8, put_u8;
    u16, get_u16_le, put_u16_le;
    u32, get_u32_le, put_u32_le;
    u64, get_u64_le, put_u64_le;
    u128, get_u128_le, put_u128_le;
    i64, get_i64_le, put_i64_le;
}

macro_rules! wrapped {
    ($($type:ident),*) => {$(
        impl Encode for $type {
            fn encode(&self, out: &mut BytesMut) {
                self.0.encode(out);
            }
        }
        impl Decode for $type {
            fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
                Decode::decode(from).map(Self)
            }
        }
    )*};
}

wrapped!(
    NodeId,
    GroupId,
    ClusterId,
    SessionId,
    Slot,
    Incarnation,
    ConfigurationVersion,
    RangeVersion,
    LinksVersion,
    OperationCounter,
    Version,
    TabletId,
    FeatureLevel,
    RequestId,
    WriteId,
    Instant,
    LogTime,
    Wall
);

/// Implements the codec for a struct field by field, in the order given, which is the layout.
#[macro_export]
macro_rules! codec_struct {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::codec::Encode for $type {
            fn encode(&self, out: &mut ::bytes::BytesMut) {
                $($crate::codec::Encode::encode(&self.$field, out);)*
            }
        }
        impl $crate::codec::Decode for $type {
            fn decode(from: &mut ::bytes::Bytes) -> Result<Self, $crate::codec::DecodeError> {
                Ok(Self { $($field: $crate::codec::Decode::decode(from)?,)* })
            }
        }
    };
}

codec_struct!(Ballot { round, node, incarnation });
codec_struct!(ReplicaName { group, node, incarnation });

/// Implements the codec for an enum whose variants are units or structs of named fields: a `u8` tag, then the fields in
/// the order given. Tags are part of the format and are never reused.
#[macro_export]
macro_rules! codec_enum {
    ($type:ident { $($tag:literal => $variant:ident $({ $($field:ident),* $(,)? })?),* $(,)? }) => {
        impl $crate::codec::Encode for $type {
            fn encode(&self, out: &mut ::bytes::BytesMut) {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        $crate::codec::Encode::encode(&($tag as u8), out);
                        $($($crate::codec::Encode::encode($field, out);)*)?
                    })*
                }
            }
        }
        impl $crate::codec::Decode for $type {
            fn decode(from: &mut ::bytes::Bytes) -> Result<Self, $crate::codec::DecodeError> {
                match <u8 as $crate::codec::Decode>::decode(from)? {
                    $($tag => Ok(Self::$variant $({ $($field: $crate::codec::Decode::decode(from)?),* })?),)*
                    tag => Err($crate::codec::DecodeError::Tag { what: stringify!($type), tag: u64::from(tag) }),
                }
            }
        }
    };
}

impl Encode for bool {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }
}

impl Decode for bool {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        match u8::decode(from)? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(DecodeError::Tag { what: "bool", tag: u64::from(tag) }),
        }
    }
}

impl Encode for Bytes {
    fn encode(&self, out: &mut BytesMut) {
        encode_bytes(self, out);
    }
}

impl Decode for Bytes {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        let length = u32::decode(from)? as usize;
        if from.remaining() < length {
            return Err(DecodeError::Short("byte string"));
        }
        Ok(from.split_to(length))
    }
}

impl Encode for String {
    fn encode(&self, out: &mut BytesMut) {
        encode_bytes(self.as_bytes(), out);
    }
}

impl Decode for String {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        let bytes = Bytes::decode(from)?;
        std::str::from_utf8(&bytes).map(str::to_owned).map_err(|_| DecodeError::Invalid("text is not UTF-8"))
    }
}

impl<T: Encode> Encode for Option<T> {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            None => out.put_u8(0),
            Some(value) => {
                out.put_u8(1);
                value.encode(out);
            }
        }
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok(if bool::decode(from)? { Some(T::decode(from)?) } else { None })
    }
}

impl<T: Encode> Encode for Vec<T> {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(length32(self.len()));
        for value in self {
            value.encode(out);
        }
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        let length = u32::decode(from)? as usize;
        // Every element takes at least a byte, so a longer list than there are bytes is a lie.
        let limit = MAX_LIST.min(from.remaining());
        if length > limit {
            return Err(DecodeError::TooLong { what: "list", length, limit });
        }
        let mut values = Vec::with_capacity(length.min(4096));
        for _ in 0..length {
            values.push(T::decode(from)?);
        }
        Ok(values)
    }
}

impl<A: Encode, B: Encode> Encode for (A, B) {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
        self.1.encode(out);
    }
}

impl<A: Decode, B: Decode> Decode for (A, B) {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Ok((A::decode(from)?, B::decode(from)?))
    }
}

/// Appends a byte string behind its length.
pub fn encode_bytes(bytes: &[u8], out: &mut BytesMut) {
    out.put_u32_le(length32(bytes.len()));
    out.put_slice(bytes);
}

fn length32(length: usize) -> u32 {
    u32::try_from(length).expect("a value built in this process is under 4 GiB")
}
