//! Who a node is, in one of its lives.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use scatter_core::codec::{Decode, DecodeError, Encode};
use scatter_core::types::NodeId;
use std::sync::Arc;

/// The longest address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 255;

/// A node in one of its lives. A later life takes the place of an earlier one wherever both are heard of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// How often its data directory was opened: durable, rises with every start.
    pub boot: u64,
    /// Rises when the node was taken for dead and is not, or got another address, within one boot.
    pub bump: u32,
    /// Where it listens for peers; at most [`MAX_ADDRESS_BYTES`].
    pub address: Arc<str>,
}

impl Identity {
    /// The first life of a boot.
    #[must_use]
    pub fn new(node: NodeId, boot: u64, address: &str) -> Self {
        Self { node, boot, bump: 0, address: address.into() }
    }

    /// A stand-in for a node of which only id and address are known: older than any real life.
    #[must_use]
    pub(crate) fn somebody(node: NodeId, address: Arc<str>) -> Self {
        Self { node, boot: 0, bump: 0, address }
    }

    /// Whether this is a later life than `other`.
    #[must_use]
    pub fn is_later(&self, other: &Self) -> bool {
        // The address comes last and only so that any two differ one way or the other.
        (self.boot, self.bump, &self.address) > (other.boot, other.bump, &other.address)
    }

    /// The next life of the same boot, if any are left.
    #[must_use]
    pub(crate) fn bumped(&self) -> Option<Self> {
        Some(Self { bump: self.bump.checked_add(1)?, ..self.clone() })
    }

    /// How many bytes the byte form has.
    fn length(&self) -> usize {
        8 + 8 + 4 + 1 + self.address.len()
    }

    /// Appends the byte form, if there is room.
    pub(crate) fn put(&self, out: &mut impl BufMut) -> Result<(), DecodeError> {
        let length = u8::try_from(self.address.len()).map_err(|_| DecodeError::Invalid("an address is too long"))?;
        if out.remaining_mut() < self.length() {
            return Err(DecodeError::Short("room for an identity"));
        }
        out.put_u64_le(self.node.0);
        out.put_u64_le(self.boot);
        out.put_u32_le(self.bump);
        out.put_u8(length);
        out.put_slice(self.address.as_bytes());
        Ok(())
    }

    /// Reads the byte form back.
    pub(crate) fn take(from: &mut impl Buf) -> Result<Self, DecodeError> {
        if from.remaining() < 8 + 8 + 4 + 1 {
            return Err(DecodeError::Short("identity"));
        }
        let (node, boot, bump) = (NodeId(from.get_u64_le()), from.get_u64_le(), from.get_u32_le());
        let length = usize::from(from.get_u8());
        if from.remaining() < length {
            return Err(DecodeError::Short("address"));
        }
        let address = String::from_utf8(from.copy_to_bytes(length).into());
        let address = address.map_err(|_| DecodeError::Invalid("an address is not UTF-8"))?;
        Ok(Self { node, boot, bump, address: address.into() })
    }
}

impl foca::Identity for Identity {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        // The engine begins new lives, since it knows the time: a node that is told again and again that it is dead, say
        // because another runs under its id, must not argue as fast as datagrams fly.
        None
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.is_later(adversary)
    }
}

impl Encode for Identity {
    fn encode(&self, out: &mut BytesMut) {
        out.reserve(self.length());
        self.put(out).expect("an identity of this process has an address within its limit");
    }
}

impl Decode for Identity {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        Self::take(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Identity as _;

    #[test]
    fn later_lives_win() {
        let first = Identity::new(NodeId(1), 4, "a:1");
        let renewed = first.bumped().expect("there is a next");
        let rebooted = Identity::new(NodeId(1), 5, "a:1");
        assert!(renewed.win_addr_conflict(&first) && !first.win_addr_conflict(&renewed));
        assert!(rebooted.win_addr_conflict(&renewed) && !renewed.win_addr_conflict(&rebooted));
        let elsewhere = Identity::new(NodeId(1), 4, "b:1");
        assert_ne!(first.win_addr_conflict(&elsewhere), elsewhere.win_addr_conflict(&first));
        assert!(!first.win_addr_conflict(&first.clone()));
        let last = Identity { bump: u32::MAX, ..first };
        assert_eq!(last.bumped(), None);
    }
}
