//! Keys and where they lie on the ring.

use crate::codec::{Decode, DecodeError, Encode};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 4096;

/// Bytes of partition hash in front of the key in a [`Position`].
const HASH_BYTES: usize = 8;

/// Why bytes are not a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// The key has no bytes.
    #[error("a key has at least 1 byte")]
    Empty,
    /// The key is over [`MAX_KEY_BYTES`].
    #[error("a key has at most {MAX_KEY_BYTES} bytes, not {0}")]
    TooLong(usize),
}

/// A user's key: 1 to [`MAX_KEY_BYTES`] bytes of any value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Bytes);

impl Key {
    /// Checks the length.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, KeyError> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(KeyError::Empty),
            length if length > MAX_KEY_BYTES => Err(KeyError::TooLong(length)),
            _ => Ok(Self(bytes)),
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The key up to, not including, its first `/`, or the whole key. Keys of one partition lie side by side.
    #[must_use]
    pub fn partition(&self) -> &[u8] {
        let end = self.0.iter().position(|byte| *byte == b'/').unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// Where the key lies: `xxh3_64(partition)` as 8 big-endian bytes, then the key.
    #[must_use]
    pub fn position(&self) -> Position {
        let mut bytes = BytesMut::with_capacity(HASH_BYTES + self.0.len());
        self.put_position(&mut bytes);
        Position(bytes.freeze())
    }

    /// Appends the bytes of [`Key::position`], for callers that build a longer byte string around them.
    pub fn put_position(&self, out: &mut impl BufMut) {
        out.put_u64(xxh3_64(self.partition()));
        out.put_slice(&self.0);
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

impl Encode for Key {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
}

impl Decode for Key {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Self::new(Bytes::decode(from)?).map_err(|_| DecodeError::Invalid("a key of a length that keys do not have"))
    }
}

/// A point on the ring: any byte string, in lexicographic order, the last wrapping to the first (the empty one).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub Bytes);

impl Position {
    /// The first position: the empty byte string.
    #[must_use]
    pub const fn first() -> Self {
        Self(Bytes::new())
    }

    /// The key that lies here, if this is a key's position and not merely a boundary.
    #[must_use]
    pub fn key(&self) -> Option<Key> {
        let key = Key::new(self.0.get(HASH_BYTES..).map(|_| self.0.slice(HASH_BYTES..))?).ok()?;
        (key.position() == *self).then_some(key)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Position {
    /// Hexadecimal, as every interface shows boundaries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Encode for Position {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
}

impl Decode for Position {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Bytes::decode(from).map(Self)
    }
}
