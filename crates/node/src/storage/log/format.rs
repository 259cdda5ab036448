//! Bytes of the log's files: segment headers, records, the frames inside a record, and the mark.
//!
//! ```text
//! segment  = header (64 bytes)  record*  whatever stood there before
//! record   = length u32 | crc u32 | previous crc u32 | tag u32 | sequence u64 | mark u64 | payload | padding to 8 bytes
//! payload  = kind u8 | frame* (writes)  or  checkpoint  or  nonce (opening)
//! frame    = length u32 | crc u32 | one encoded `Write`
//! ```
//!
//! A record's checksum covers its header and payload. It names its predecessor's checksum (the chain), its segment's tag
//! (so that bytes of the file's former life are not taken for live ones) and the mark: the highest sequence that was
//! known to be synced when the record was made. All integers are little-endian.

use super::LogError;
use bytes::{BufMut, BytesMut};

/// The version of everything in this file. A reader refuses a higher one.
pub(super) const FORMAT_VERSION: u32 = 2;
/// Bytes of a segment's header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a record's header.
pub(super) const RECORD_HEADER_BYTES: usize = 32;
/// Bytes before the encoded write in a frame.
pub(super) const FRAME_HEADER_BYTES: usize = 8;
/// Records start at multiples of this.
pub(super) const ALIGNMENT: usize = 8;
/// The most bytes of one record: a batch over this is refused.
pub(super) const MAX_RECORD_BYTES: usize = 1 << 30;
/// Bytes of one of the two copies of the mark.
pub(super) const MARK_BYTES: usize = 48;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"ScatterL");
const MARK_MAGIC: u64 = u64::from_le_bytes(*b"ScatterM");

/// What a record holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RecordKind {
    /// A batch of writes, each in its frame.
    Writes,
    /// Everything but the entries; the first record of each segment.
    Checkpoint,
    /// A process opened the log here. Holds a random number, so that the chain from here on differs from any other that
    /// might have been begun at the same place.
    Opening,
}

impl RecordKind {
    pub(super) const fn tag(self) -> u8 {
        match self {
            Self::Writes => 1,
            Self::Checkpoint => 2,
            Self::Opening => 3,
        }
    }

    const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Writes),
            2 => Some(Self::Checkpoint),
            3 => Some(Self::Opening),
            _ => None,
        }
    }
}

/// The head of a segment file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SegmentHeader {
    /// The random number of the log that the segment belongs to.
    pub(super) log: u64,
    /// Rises with every segment begun; a recycled file gets a new one.
    pub(super) id: u32,
    /// The sequence of the first record.
    pub(super) first_sequence: u64,
    /// The checksum of the record before that.
    pub(super) chain: u32,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = BytesMut::with_capacity(SEGMENT_HEADER_BYTES);
        out.put_u64_le(SEGMENT_MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(0);
        out.put_u64_le(self.log);
        out.put_u32_le(self.id);
        out.put_u32_le(self.chain);
        out.put_u64_le(self.first_sequence);
        seal(out)
    }

    /// `None` if these bytes are no header: a fresh file, or a torn or damaged one.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, LogError> {
        let Some(bytes) = unseal::<SEGMENT_HEADER_BYTES>(bytes, SEGMENT_MAGIC)? else { return Ok(None) };
        Ok(Some(Self {
            log: u64_at(bytes, 16),
            id: u32_at(bytes, 24),
            chain: u32_at(bytes, 28),
            first_sequence: u64_at(bytes, 32),
        }))
    }

    /// What every record of the segment carries.
    pub(super) fn tag(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.log.to_le_bytes());
        hasher.update(&self.id.to_le_bytes());
        hasher.finalize()
    }
}

/// One copy of the mark: how far the log is known to be on disk.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Mark {
    /// The random number of the log.
    pub(super) log: u64,
    /// Rises with every writing of the mark; the copy with the higher one counts.
    pub(super) generation: u64,
    /// Every record up to this sequence was synced before the mark was written.
    pub(super) durable: u64,
}

impl Mark {
    pub(super) fn encode(&self) -> [u8; MARK_BYTES] {
        let mut out = BytesMut::with_capacity(MARK_BYTES);
        out.put_u64_le(MARK_MAGIC);
        out.put_u32_le(FORMAT_VERSION);
        out.put_u32_le(0);
        out.put_u64_le(self.log);
        out.put_u64_le(self.generation);
        out.put_u64_le(self.durable);
        seal(out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, LogError> {
        let Some(bytes) = unseal::<MARK_BYTES>(bytes, MARK_MAGIC)? else { return Ok(None) };
        Ok(Some(Self { log: u64_at(bytes, 16), generation: u64_at(bytes, 24), durable: u64_at(bytes, 32) }))
    }
}

/// Pads `out` to its fixed size and puts the checksum of everything else at offset 12.
fn seal<const SIZE: usize>(out: BytesMut) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    bytes[..out.len()].copy_from_slice(&out);
    let crc = crc32fast::hash(&bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The first `SIZE` bytes if they carry the magic and their checksum.
fn unseal<const SIZE: usize>(bytes: &[u8], magic: u64) -> Result<Option<&[u8]>, LogError> {
    let Some(bytes) = bytes.get(..SIZE) else { return Ok(None) };
    let mut blank = [0; SIZE];
    blank.copy_from_slice(bytes);
    blank[12..16].fill(0);
    if u64_at(bytes, 0) != magic || u32_at(bytes, 12) != crc32fast::hash(&blank) {
        return Ok(None);
    }
    match u32_at(bytes, 8) {
        version if version != FORMAT_VERSION => Err(LogError::Version { found: version, known: FORMAT_VERSION }),
        _ => Ok(Some(bytes)),
    }
}

/// The head of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordHeader {
    /// Bytes of the payload.
    pub(super) length: u32,
    /// The checksum of the record before.
    pub(super) chain: u32,
    /// The segment's tag.
    pub(super) tag: u32,
    /// Rises by one with every record of the log.
    pub(super) sequence: u64,
    /// The highest sequence known to be synced when this record was made.
    pub(super) mark: u64,
}

impl RecordHeader {
    /// Writes the header over the first bytes of `record`, whose payload is in place, and returns the checksum.
    pub(super) fn write(&self, record: &mut [u8]) -> u32 {
        record[0..4].copy_from_slice(&self.length.to_le_bytes());
        record[8..12].copy_from_slice(&self.chain.to_le_bytes());
        record[12..16].copy_from_slice(&self.tag.to_le_bytes());
        record[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        record[24..32].copy_from_slice(&self.mark.to_le_bytes());
        let crc = record_crc(record, self.length as usize);
        record[4..8].copy_from_slice(&crc.to_le_bytes());
        crc
    }
}

/// A record found whole in a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct FoundRecord<'a> {
    pub(super) header: RecordHeader,
    pub(super) kind: RecordKind,
    /// The checksum, which the next record names.
    pub(super) crc: u32,
    /// The payload behind its kind.
    pub(super) body: &'a [u8],
    /// Where `body` starts in the segment.
    pub(super) body_offset: usize,
    /// Where the next record starts in the segment.
    pub(super) end: usize,
}

/// The record at `offset` if its checksum holds and it is of this segment.
pub(super) fn record_at(segment: &[u8], offset: usize, tag: u32) -> Option<FoundRecord<'_>> {
    let record = segment.get(offset..)?;
    if record.len() < RECORD_HEADER_BYTES || u32_at(record, 12) != tag {
        return None;
    }
    let length = u32_at(record, 0) as usize;
    let payload = record.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES.checked_add(length)?)?;
    let crc = u32_at(record, 4);
    if length == 0 || length > MAX_RECORD_BYTES || record_crc(record, length) != crc {
        return None;
    }
    let header = RecordHeader {
        length: u32_at(record, 0),
        chain: u32_at(record, 8),
        tag,
        sequence: u64_at(record, 16),
        mark: u64_at(record, 24),
    };
    Some(FoundRecord {
        header,
        kind: RecordKind::from_tag(payload[0])?,
        crc,
        body: &payload[1..],
        body_offset: offset + RECORD_HEADER_BYTES + 1,
        end: aligned(offset + RECORD_HEADER_BYTES + length),
    })
}

/// Whether it is worth to check for a record at `offset`.
pub(super) fn looks_like_record(segment: &[u8], offset: usize, tag: u32) -> bool {
    segment.get(offset + 12..offset + 16).is_some_and(|bytes| u32_at(bytes, 0) == tag)
}

/// The checksum of a frame's bytes.
pub(super) fn frame_crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The encoded write inside a frame, if its checksum holds.
pub(super) fn frame_body(frame: &[u8]) -> Option<&[u8]> {
    if frame.len() < FRAME_HEADER_BYTES {
        return None;
    }
    let body = frame.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES.checked_add(u32_at(frame, 0) as usize)?)?;
    (frame_crc(body) == u32_at(frame, 4)).then_some(body)
}

/// The next multiple of [`ALIGNMENT`].
pub(super) const fn aligned(offset: usize) -> usize {
    offset.next_multiple_of(ALIGNMENT)
}

fn record_crc(record: &[u8], length: usize) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&record[0..4]);
    hasher.update(&record[8..RECORD_HEADER_BYTES + length]);
    hasher.finalize()
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_marks_read_back_and_any_changed_bit_is_noticed() {
        let header = SegmentHeader { log: 7, id: 9, first_sequence: 11, chain: 13 };
        let mark = Mark { log: 1, generation: 2, durable: 3 };
        assert_eq!(SegmentHeader::decode(&header.encode()).unwrap(), Some(header));
        assert_eq!(Mark::decode(&mark.encode()).unwrap(), Some(mark));
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mut bytes = header.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bytes).unwrap(), None, "bit {bit}");
        }
        for bit in 0..MARK_BYTES * 8 {
            let mut bytes = mark.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Mark::decode(&bytes).unwrap(), None, "bit {bit}");
        }
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let mut bytes = Mark::default().encode();
        bytes[8..12].copy_from_slice(&(FORMAT_VERSION + 1).to_le_bytes());
        bytes[12..16].fill(0);
        let crc = crc32fast::hash(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(Mark::decode(&bytes), Err(LogError::Version { found: 3, known: 2 })));
    }

    #[test]
    fn a_record_reads_back_and_any_changed_bit_is_noticed() {
        let mut record = vec![0; RECORD_HEADER_BYTES + 6];
        record[RECORD_HEADER_BYTES] = RecordKind::Writes.tag();
        record[RECORD_HEADER_BYTES + 1..].copy_from_slice(b"hello");
        let header = RecordHeader { length: 6, chain: 5, tag: 77, sequence: 3, mark: 2 };
        let crc = header.write(&mut record);
        let found = record_at(&record, 0, 77).expect("whole");
        assert_eq!((found.header, found.crc, found.body, found.end), (header, crc, &b"hello"[..], 40));
        assert!(record_at(&record, 0, 78).is_none());
        for bit in 0..record.len() * 8 {
            let mut bytes = record.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(record_at(&bytes, 0, 77).is_none(), "bit {bit}");
        }
    }
}
