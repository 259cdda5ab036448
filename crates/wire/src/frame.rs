//! Frames: byte strings behind a little-endian `u32` length, and the preamble in front of the first one.
//!
//! A length is compared with the limit before anything is allocated for it, and a buffer grows with the bytes that really
//! arrive, so that announcing a large frame costs the other side nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use scatter_core::codec::{Decode, DecodeError, Encode};

/// The most bytes of one frame unless a setting says otherwise.
pub const DEFAULT_FRAME_LIMIT: usize = 32 << 20;

/// The most bytes of one frame during the handshake, before the other side has said who it is.
pub const HANDSHAKE_FRAME_LIMIT: usize = 16 << 10;

/// The first bytes of every connection, in both directions.
pub const MAGIC: [u8; 8] = *b"SCATTER\n";

/// Bytes of a frame's length.
pub const HEADER_BYTES: usize = 4;

/// Bytes of the preamble: magic, lowest and highest version.
pub const PREAMBLE_BYTES: usize = MAGIC.len() + 4;

/// The most requests or replies in one frame.
pub const MAX_BATCH_ITEMS: usize = 16 << 10;

/// Where a batch goes on in another frame, so that a reader can begin before all of it has arrived.
const SOFT_BATCH_BYTES: usize = 256 << 10;

/// What a read asks for at first, and at most.
const READ_BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=256 << 10;

/// Why a connection's bytes are not frames of ours.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection does not begin with [`MAGIC`].
    #[error("not a Scatter connection: it begins with \"{0}\"")]
    NotScatter(String),
    /// A frame is over the limit.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLong {
        /// The length announced.
        length: usize,
        /// The most allowed.
        limit: usize,
    },
    /// The two sides share no version.
    #[error("no version in common: theirs are {theirs}, ours {ours}")]
    Version {
        /// What the other side speaks.
        theirs: Versions,
        /// What this side speaks.
        ours: Versions,
    },
    /// A frame does not decode.
    #[error("a malformed frame: {0}")]
    Malformed(#[from] DecodeError),
}

/// Who speaks otherwise than agreed sends invalid data, whatever reads it.
impl From<FrameError> for std::io::Error {
    fn from(error: FrameError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// The wire versions a program speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Versions {
    /// The lowest.
    pub lowest: u16,
    /// The highest.
    pub highest: u16,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Self = Self { lowest: 1, highest: 1 };

    /// The highest version both speak.
    pub fn agree(self, theirs: Self) -> Result<u16, FrameError> {
        let version = self.highest.min(theirs.highest);
        if version < self.lowest.max(theirs.lowest) {
            return Err(FrameError::Version { theirs, ours: self });
        }
        Ok(version)
    }

    /// The preamble that announces them.
    #[must_use]
    pub fn preamble(self) -> [u8; PREAMBLE_BYTES] {
        let mut bytes = [0; PREAMBLE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.lowest.to_le_bytes());
        bytes[10..].copy_from_slice(&self.highest.to_le_bytes());
        bytes
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.lowest, self.highest)
    }
}

/// One frame ready to be written, length in front. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    head: Bytes,
    tail: Bytes,
}

impl Frame {
    /// Frames the byte form of `value`.
    #[must_use]
    pub fn encode(value: &impl Encode) -> Self {
        Self::build(|out| value.encode(out))
    }

    /// Frames the byte form of a value whose last field, a byte string, is `tail`, and in `rest` empty. `tail` is not copied.
    ///
    /// # Panics
    ///
    /// If the byte form of `rest` ends otherwise.
    #[must_use]
    pub fn encode_with_tail(rest: &impl Encode, tail: Bytes) -> Self {
        let mut out = BytesMut::with_capacity(256);
        out.put_u32_le(0);
        rest.encode(&mut out);
        let length_at = out.len() - 4;
        assert_eq!(out[length_at..], [0; 4], "the byte form ends in an empty byte string");
        let length = u32::try_from(tail.len()).expect("a byte string is under 4 GiB");
        out[length_at..].copy_from_slice(&length.to_le_bytes());
        let end = out.len() + tail.len();
        seal(&mut out, 0, end);
        Self { head: out.freeze(), tail }
    }

    /// Frames whatever `write` appends.
    #[must_use]
    pub fn build(write: impl FnOnce(&mut BytesMut)) -> Self {
        let mut out = BytesMut::with_capacity(256);
        out.put_u32_le(0);
        write(&mut out);
        let end = out.len();
        seal(&mut out, 0, end);
        Self { head: out.freeze(), tail: Bytes::new() }
    }

    /// The frame as it goes over the wire, in two parts of which the second may be empty.
    #[must_use]
    pub fn parts(&self) -> [&Bytes; 2] {
        [&self.head, &self.tail]
    }

    /// The whole frame in one piece.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        if self.tail.is_empty() { self.head.clone() } else { [&self.head[..], &self.tail[..]].concat().into() }
    }

    /// All its bytes, length in front included, that were not [passed over](Self::advance).
    #[must_use]
    pub fn len(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Whether all of it was passed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Passes over what was written.
    ///
    /// # Panics
    ///
    /// If that is more than there is.
    pub fn advance(&mut self, written: usize) {
        let of_head = written.min(self.head.len());
        self.head.advance(of_head);
        self.tail.advance(written - of_head);
    }

    /// Bytes of what is inside.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.len() - HEADER_BYTES
    }

    /// What is inside.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.to_bytes().slice(HEADER_BYTES..)
    }
}

/// Writes the length of the frame that lies at `start..end`.
fn seal(out: &mut BytesMut, start: usize, end: usize) {
    let length = end - start - HEADER_BYTES;
    // A length that does not fit is sent as the largest, which every reader refuses.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[start..start + HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
}

/// What has been read of a connection and not yet taken.
#[derive(Debug)]
pub struct FrameBuffer {
    bytes: BytesMut,
    limit: usize,
    read_bytes: usize,
    /// Room is made for all of a frame once its length is known.
    trusts: bool,
}

impl FrameBuffer {
    /// An empty buffer that refuses frames of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { bytes: BytesMut::new(), limit, read_bytes: *READ_BYTES.start(), trusts: false }
    }

    /// Changes the limit for frames that were not yet taken.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// From now on makes room for all of a frame once its length is known, which saves copying what comes first to ever larger
    /// places: for those who are believed to send what they announce.
    pub fn trust(&mut self) {
        self.trusts = true;
    }

    /// Whether the connection may end here without cutting anything in two.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Takes the preamble, if all of it is there. Refuses as soon as the bytes cannot become one.
    pub fn preamble(&mut self) -> Result<Option<Versions>, FrameError> {
        let common = self.bytes.len().min(MAGIC.len());
        if self.bytes[..common] != MAGIC[..common] {
            let start = &self.bytes[..self.bytes.len().min(16)];
            return Err(FrameError::NotScatter(start.escape_ascii().to_string()));
        }
        if self.bytes.len() < PREAMBLE_BYTES {
            return Ok(None);
        }
        self.bytes.advance(MAGIC.len());
        Ok(Some(Versions { lowest: self.bytes.get_u16_le(), highest: self.bytes.get_u16_le() }))
    }

    /// Takes the next frame's content, if all of it is there.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.announced()? else { return Ok(None) };
        if self.bytes.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        self.bytes.advance(HEADER_BYTES);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// The length of the frame at the front, once its header is there.
    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let length = u32::from_le_bytes(*header) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong { length, limit: self.limit });
        }
        Ok(Some(length))
    }

    /// Room for the next read, to be appended to. It is at most as large as what has arrived of the frame at the front,
    /// or one read, whichever is more, unless what is announced is [trusted](Self::trust).
    pub fn space(&mut self) -> &mut BytesMut {
        let missing = match self.announced() {
            Ok(Some(length)) => (HEADER_BYTES + length).saturating_sub(self.bytes.len()),
            Ok(None) | Err(_) => 0,
        };
        let known = if self.trusts { missing } else { missing.min(self.bytes.len()) };
        let wanted = known.max(self.read_bytes);
        let spare = self.bytes.capacity() - self.bytes.len();
        if spare < missing.min(wanted) || spare < *READ_BYTES.start() / 8 {
            self.bytes.reserve(wanted);
        }
        &mut self.bytes
    }

    /// Tells how much the last read brought, so that the next one asks for more where much comes.
    pub fn filled(&mut self, read: usize) {
        if read >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(*READ_BYTES.end());
        } else if read < self.read_bytes / 8 {
            self.read_bytes = (self.read_bytes / 2).max(*READ_BYTES.start());
        }
    }
}

/// Items on their way out, gathered into as few frames as their sizes allow.
#[derive(Debug)]
pub struct FrameBatch {
    bytes: BytesMut,
    /// Where the frame under construction starts.
    open: Option<usize>,
    items_in_open: usize,
    limit: usize,
}

impl FrameBatch {
    /// An empty batch whose frames have at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { bytes: BytesMut::new(), open: None, items_in_open: 0, limit }
    }

    /// Bytes gathered so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was gathered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds an item. One that is over the limit by itself is refused and leaves no trace.
    pub fn push(&mut self, item: &impl Encode) -> Result<(), FrameError> {
        let start = match self.open {
            Some(start) => start,
            None => self.begin(),
        };
        let before = self.bytes.len();
        item.encode(&mut self.bytes);
        if self.bytes.len() - start - HEADER_BYTES <= SOFT_BATCH_BYTES.min(self.limit)
            && self.items_in_open < MAX_BATCH_ITEMS
        {
            self.items_in_open += 1;
            return Ok(());
        }
        let size = self.bytes.len() - before;
        if size > self.limit {
            self.bytes.truncate(before);
            if self.items_in_open == 0 {
                self.bytes.truncate(start);
                self.open = None;
            }
            return Err(FrameError::TooLong { length: size, limit: self.limit });
        }
        if self.items_in_open > 0 {
            self.reframe(start, before);
        } else {
            self.items_in_open = 1;
        }
        Ok(())
    }

    fn begin(&mut self) -> usize {
        let start = self.bytes.len();
        self.bytes.put_u32_le(0);
        self.open = Some(start);
        self.items_in_open = 0;
        start
    }

    /// Ends the open frame before `item_start` and lets the item there begin the next one.
    fn reframe(&mut self, start: usize, item_start: usize) {
        let end = self.bytes.len();
        self.bytes.put_u32_le(0);
        self.bytes.copy_within(item_start..end, item_start + HEADER_BYTES);
        seal(&mut self.bytes, start, item_start);
        self.open = Some(item_start);
        self.items_in_open = 1;
    }

    /// Takes everything gathered, as whole frames.
    pub fn take(&mut self) -> BytesMut {
        if let Some(start) = self.open.take() {
            let end = self.bytes.len();
            seal(&mut self.bytes, start, end);
        }
        self.items_in_open = 0;
        self.bytes.split()
    }
}

/// Reads the items of one frame of a [`FrameBatch`].
pub fn decode_batch<T: Decode>(mut frame: Bytes) -> Result<Vec<T>, FrameError> {
    let mut items = Vec::with_capacity(16);
    while frame.has_remaining() {
        if items.len() == MAX_BATCH_ITEMS {
            let length = items.len() + 1;
            return Err(DecodeError::TooLong { what: "batch", length, limit: MAX_BATCH_ITEMS }.into());
        }
        items.push(T::decode(&mut frame)?);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 20;

    /// A value that ends in a byte string.
    struct Pair(u64, Bytes);

    impl Encode for Pair {
        fn encode(&self, out: &mut BytesMut) {
            self.0.encode(out);
            self.1.encode(out);
        }
    }

    fn received(bytes: &[u8], limit: usize) -> FrameBuffer {
        let mut buffer = FrameBuffer::new(limit);
        buffer.space().extend_from_slice(bytes);
        buffer
    }

    #[test]
    fn versions_agree_on_the_highest_in_common() {
        let ours = Versions { lowest: 2, highest: 4 };
        assert_eq!(ours.agree(Versions { lowest: 3, highest: 9 }), Ok(4));
        assert_eq!(ours.agree(Versions { lowest: 1, highest: 2 }), Ok(2));
        let newer = Versions { lowest: 5, highest: 6 };
        assert_eq!(ours.agree(newer), Err(FrameError::Version { theirs: newer, ours }));
        let older = Versions { lowest: 1, highest: 1 };
        assert_eq!(ours.agree(older), Err(FrameError::Version { theirs: older, ours }));
        let reversed = Versions { lowest: 4, highest: 3 };
        assert!(ours.agree(reversed).is_err());
    }

    #[test]
    fn a_preamble_is_refused_at_its_first_wrong_byte() {
        assert_eq!(
            received(b"GET / HTTP/1.1\r\n", LIMIT).preamble(),
            Err(FrameError::NotScatter("GET / HTTP/1.1\\r\\n".into()))
        );
        assert_eq!(received(b"SCAT", LIMIT).preamble(), Ok(None));
        assert!(received(b"SCAX", LIMIT).preamble().is_err());
        let mut buffer = received(&Versions::OURS.preamble(), LIMIT);
        assert_eq!(buffer.preamble(), Ok(Some(Versions::OURS)));
        assert!(buffer.is_empty());
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let mut buffer = received(&(LIMIT as u32).to_le_bytes(), LIMIT);
        assert_eq!(buffer.next_frame(), Ok(None));
        assert!(buffer.space().capacity() < 64 << 10);
        let mut buffer = received(&(LIMIT as u32 + 1).to_le_bytes(), LIMIT);
        assert_eq!(buffer.next_frame(), Err(FrameError::TooLong { length: LIMIT + 1, limit: LIMIT }));
    }

    #[test]
    fn a_buffer_never_grows_far_past_what_arrived() {
        let mut buffer = received(&(LIMIT as u32).to_le_bytes(), LIMIT);
        let mut arrived = HEADER_BYTES;
        while arrived < HEADER_BYTES + LIMIT {
            assert_eq!(buffer.next_frame(), Ok(None));
            let step = 1000.min(HEADER_BYTES + LIMIT - arrived);
            buffer.space().extend_from_slice(&vec![7; step]);
            buffer.filled(step);
            arrived += step;
            assert!(buffer.bytes.capacity() <= 4 * arrived + (64 << 10), "{} for {arrived}", buffer.bytes.capacity());
        }
        assert_eq!(buffer.next_frame().map(|frame| frame.map(|frame| frame.len())), Ok(Some(LIMIT)));
    }

    #[test]
    fn an_item_over_the_limit_leaves_the_batch_as_it_was() {
        let mut batch = FrameBatch::new(100);
        let large = Bytes::from(vec![1; 200]);
        assert!(batch.push(&large).is_err());
        assert!(batch.is_empty());
        batch.push(&Bytes::from_static(b"small")).expect("fits");
        assert!(batch.push(&large).is_err());
        let mut buffer = received(&batch.take(), 100);
        let frame = buffer.next_frame().expect("valid").expect("whole");
        assert_eq!(decode_batch::<Bytes>(frame), Ok(vec![Bytes::from_static(b"small")]));
        assert!(buffer.is_empty());
    }

    #[test]
    fn a_batch_of_too_many_items_is_refused() {
        let frame = Bytes::from(vec![0; MAX_BATCH_ITEMS + 1]);
        assert!(matches!(decode_batch::<u8>(frame), Err(FrameError::Malformed(DecodeError::TooLong { .. }))));
    }

    #[test]
    fn a_batch_of_many_items_goes_on_in_another_frame() {
        let mut batch = FrameBatch::new(LIMIT);
        for _ in 0..=MAX_BATCH_ITEMS {
            batch.push(&7_u8).expect("fits");
        }
        let mut buffer = received(&batch.take(), LIMIT);
        assert_eq!(buffer.next_frame().expect("valid").expect("whole").len(), MAX_BATCH_ITEMS);
        assert_eq!(buffer.next_frame().expect("valid").expect("whole").len(), 1);
        assert!(buffer.is_empty());
    }

    proptest! {
        #[test]
        fn batches_read_back_however_they_are_cut(
            sizes in prop::collection::vec(prop_oneof![0..300_usize, 100_000..400_000_usize], 0..30),
            cut in 1..5000_usize,
        ) {
            let items: Vec<Bytes> =
                sizes.iter().enumerate().map(|(index, size)| Bytes::from(vec![index as u8; *size])).collect();
            let mut batch = FrameBatch::new(LIMIT);
            for item in &items {
                batch.push(item).expect("under the limit");
            }
            let mut buffer = FrameBuffer::new(LIMIT);
            let mut read = Vec::new();
            for piece in batch.take().chunks(cut) {
                buffer.space().extend_from_slice(piece);
                buffer.filled(piece.len());
                while let Some(frame) = buffer.next_frame().expect("valid") {
                    read.extend(decode_batch::<Bytes>(frame).expect("valid"));
                }
            }
            prop_assert_eq!(read, items);
            prop_assert!(buffer.is_empty());
            prop_assert!(batch.is_empty());
        }

        #[test]
        fn what_is_large_need_not_be_copied(
            rest in any::<u64>(),
            tail in prop::collection::vec(any::<u8>(), 0..100),
            step in 1..50_usize,
            trusts in any::<bool>(),
        ) {
            let tail = Bytes::from(tail);
            let mut frame = Frame::encode_with_tail(&Pair(rest, Bytes::new()), tail.clone());
            prop_assert_eq!(frame.to_bytes(), Frame::encode(&Pair(rest, tail.clone())).to_bytes());
            let mut buffer = FrameBuffer::new(LIMIT);
            if trusts {
                buffer.trust();
            }
            while !frame.is_empty() {
                let [head, tail] = frame.parts();
                let piece: Vec<u8> = head.iter().chain(&tail[..]).copied().take(step).collect();
                buffer.space().extend_from_slice(&piece);
                buffer.filled(piece.len());
                frame.advance(piece.len());
            }
            let received = buffer.next_frame().expect("valid").expect("whole");
            prop_assert_eq!(received, Pair(rest, tail).to_bytes());
        }

        #[test]
        fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut buffer = received(&bytes, 256);
            let mut taken = 0;
            while let Ok(Some(frame)) = buffer.next_frame() {
                taken += HEADER_BYTES + frame.len();
            }
            prop_assert!(taken <= bytes.len());
        }
    }
}
