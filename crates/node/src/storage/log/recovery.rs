//! What a restart finds: which segments count, where the log ends, and whether it ends where it should.

use super::directory::{Directory, MarkFile, SegmentFile};
use super::format::{
    ALIGNMENT, FRAME_HEADER_BYTES, FoundRecord, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader, frame_body,
    looks_like_record, record_at,
};
use super::pool::Pool;
use super::reader::read_run;
use super::segments::{Active, SegmentLog};
use super::state::{Checkpoint, Extent, Place, Segment, State, decode_checkpoint};
use super::{Log, LogError, LogSettings};
use bytes::Bytes;
use rand::RngCore;
use scatter_core::codec::Decode;
use scatter_core::durable::{Recovered, RecoveredReplica, Write};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A segment file whose header reads back.
struct Candidate {
    header: SegmentHeader,
    file: SegmentFile,
}

/// The newest segment, read whole.
struct Head {
    header: SegmentHeader,
    file: SegmentFile,
    bytes: Bytes,
    checkpoint: Checkpoint,
}

/// Where a segment's records end.
struct End {
    offset: usize,
    sequence: u64,
    chain: u32,
}

pub(super) fn recover(path: &Path, settings: LogSettings) -> Result<(SegmentLog, Recovered), LogError> {
    let directory = Directory::open(path, &settings)?;
    let mark = MarkFile::open(&directory)?;
    let (mut candidates, mut free) = sort_files(directory.segment_files()?, mark.as_ref())?;
    let mark = match mark {
        Some(mark) => mark,
        None if candidates.is_empty() => MarkFile::create(&directory, rand::rng().next_u64())?,
        None => return Err(LogError::Damaged(format!("{} has segments but no mark", path.display()))),
    };
    let last_id = candidates.keys().next_back().copied().unwrap_or(0);
    let (head, begun_later) = find_head(&mut candidates, &mut free)?;
    let proven = mark.mark.durable.max(begun_later.map_or(0, |first_sequence| first_sequence - 1));
    let Some(head) = head else {
        if proven > 0 {
            return Err(LogError::Damaged(format!("nothing is left of {proven} records")));
        }
        free.extend(candidates.into_values().map(|candidate| candidate.file));
        return found(settings, directory, mark, free, last_id);
    };
    reopen(settings, directory, mark, head, candidates, free, proven, last_id)
}

/// Parts the files with a header, by segment id, from the rest.
fn sort_files(
    files: Vec<SegmentFile>,
    mark: Option<&MarkFile>,
) -> Result<(BTreeMap<u32, Candidate>, Vec<SegmentFile>), LogError> {
    let (mut candidates, mut free) = (BTreeMap::new(), Vec::new());
    for file in files {
        let length = SEGMENT_HEADER_BYTES.min(usize::try_from(file.capacity).unwrap_or(usize::MAX));
        match SegmentHeader::decode(&file.read_at(0, length)?)? {
            Some(header) if mark.is_some_and(|mark| mark.mark.log != header.log) => {
                return Err(LogError::Damaged(format!("{} belongs to another log", file.path.display())));
            }
            Some(header) => {
                if let Some(other) = candidates.insert(header.id, Candidate { header, file }) {
                    let path = other.file.path.display();
                    return Err(LogError::Damaged(format!("segment {} is there twice: {path}", header.id)));
                }
            }
            None => free.push(file),
        }
    }
    Ok((candidates, free))
}

/// Takes out the newest segment whose checkpoint reads back. Segments above it were begun and never synced, which proves
/// that everything before them was; the first sequence of the oldest such is returned. Their files are free.
fn find_head(
    candidates: &mut BTreeMap<u32, Candidate>,
    free: &mut Vec<SegmentFile>,
) -> Result<(Option<Head>, Option<u64>), LogError> {
    let mut begun_later = None;
    while let Some((_, Candidate { header, file })) = candidates.pop_last() {
        let capacity = usize::try_from(file.capacity.min(u64::from(u32::MAX))).unwrap_or(usize::MAX);
        let bytes = Bytes::from(file.read_at(0, capacity)?);
        let first = record_at(&bytes, SEGMENT_HEADER_BYTES, header.tag()).filter(|record| {
            record.kind == RecordKind::Checkpoint
                && record.header.sequence == header.first_sequence
                && record.header.chain == header.chain
        });
        if let Some(checkpoint) = first.and_then(|record| decode_checkpoint(record.body)) {
            return Ok((Some(Head { header, file, bytes, checkpoint }), begun_later));
        }
        begun_later = Some(header.first_sequence);
        free.push(file);
    }
    Ok((None, begun_later))
}

/// Begins a new log.
fn found(
    settings: LogSettings,
    directory: Arc<Directory>,
    mark: MarkFile,
    free: Vec<SegmentFile>,
    last_id: u32,
) -> Result<(SegmentLog, Recovered), LogError> {
    let pool = Pool::new(directory.clone(), settings.clone(), free);
    let mut log = SegmentLog::new(settings, directory, mark, pool, State::default());
    log.last_id = last_id;
    log.begin_segment(0, true)?;
    let recovered = open_for_appending(&mut log)?;
    Ok((log, recovered))
}

/// Goes on with a log that has a head.
#[expect(clippy::too_many_arguments, reason = "called once; a struct would only repeat the names")]
fn reopen(
    settings: LogSettings,
    directory: Arc<Directory>,
    mark: MarkFile,
    head: Head,
    mut candidates: BTreeMap<u32, Candidate>,
    mut free: Vec<SegmentFile>,
    proven: u64,
    last_id: u32,
) -> Result<(SegmentLog, Recovered), LogError> {
    let extents = head.checkpoint.segments.clone();
    let mut state = State::from_checkpoint(head.checkpoint);
    for extent in extents {
        let Some(Candidate { header, file }) = candidates.remove(&extent.id) else {
            return Err(LogError::Damaged(format!("segment {} is missing", extent.id)));
        };
        take_closed(&mut state, extent, header, file)?;
    }
    free.extend(candidates.into_values().map(|candidate| candidate.file));

    let file = Arc::new(head.file);
    let extent = Extent {
        id: head.header.id,
        first_sequence: head.header.first_sequence,
        last_sequence: 0,
        end: 0,
        chain: head.header.chain,
    };
    state.segments.insert(head.header.id, Segment { file: file.clone(), extent, live_bytes: 0 });
    let mut unproven = None;
    let end = replay(&head.bytes, &head.header, head.bytes.len(), |record| {
        if record.header.sequence > proven && unproven.is_none() {
            unproven = Some(record.body_offset - 1 - super::format::RECORD_HEADER_BYTES);
        }
        take_record(&mut state, &head.bytes, head.header.id, record, State::apply)
    })?;
    check_end(&head.bytes, &head.header, &end, proven)?;
    if let Some(from) = unproven {
        // After a failed sync these bytes may be in the cache only, and marked as clean: write them again.
        file.write_at(&head.bytes[from..end.offset], from as u64)?;
    }
    state.written = (head.header.id, u32::try_from(end.offset).unwrap_or(u32::MAX));
    drop(head.bytes);

    let pool = Pool::new(directory.clone(), settings.clone(), free);
    let mut log = SegmentLog::new(settings, directory, mark, pool, state);
    log.last_id = last_id;
    log.sequence = end.sequence;
    log.chain = end.chain;
    log.durable = proven;
    log.active = Some(Active { file, header: head.header, written: end.offset });
    let recovered = open_for_appending(&mut log)?;
    Ok((log, recovered))
}

/// Marks the opening in the log, syncs everything found, and reads the entries.
fn open_for_appending(log: &mut SegmentLog) -> Result<Recovered, LogError> {
    log.append_plain(RecordKind::Opening, &rand::rng().next_u64().to_le_bytes())?;
    log.sync()?;
    log.settle()?;
    log.pool.fill_reserve()?;
    collect(&log.state.lock())
}

/// Reads an older segment, all of which was synced before a later one was begun.
fn take_closed(state: &mut State, extent: Extent, header: SegmentHeader, file: SegmentFile) -> Result<(), LogError> {
    let damaged = |what: &str| LogError::Damaged(format!("{}: {what}", file.path.display()));
    if u64::from(extent.end) > file.capacity || header.first_sequence != extent.first_sequence {
        return Err(damaged("not the segment that was closed"));
    }
    let bytes = Bytes::from(file.read_at(0, extent.end as usize)?);
    let file = Arc::new(file);
    state.segments.insert(extent.id, Segment { file: file.clone(), extent, live_bytes: 0 });
    let end =
        replay(&bytes, &header, bytes.len(), |record| take_record(state, &bytes, extent.id, record, State::apply_old))?;
    if end.sequence != extent.last_sequence || end.chain != extent.chain {
        return Err(LogError::Damaged(format!(
            "{}: record {} does not read back",
            file.path.display(),
            end.sequence + 1
        )));
    }
    Ok(())
}

/// Visits the records of a segment as long as they follow one another.
fn replay(
    bytes: &[u8],
    header: &SegmentHeader,
    limit: usize,
    mut visit: impl FnMut(&FoundRecord<'_>) -> Result<(), LogError>,
) -> Result<End, LogError> {
    let tag = header.tag();
    let mut end = End { offset: SEGMENT_HEADER_BYTES, sequence: header.first_sequence - 1, chain: header.chain };
    while let Some(record) = record_at(bytes, end.offset, tag) {
        if record.header.sequence != end.sequence + 1 || record.header.chain != end.chain || record.end > limit {
            break;
        }
        visit(&record)?;
        end = End { offset: record.end, sequence: record.header.sequence, chain: record.crc };
    }
    Ok(end)
}

/// Takes in the writes of one record.
fn take_record(
    state: &mut State,
    segment: &Bytes,
    id: u32,
    record: &FoundRecord<'_>,
    apply: fn(&mut State, &Write, Place),
) -> Result<(), LogError> {
    match record.kind {
        RecordKind::Checkpoint | RecordKind::Opening => return Ok(()),
        RecordKind::Writes => {}
    }
    let sequence = record.header.sequence;
    let damaged = |why: String| LogError::Damaged(format!("record {sequence}: {why}"));
    let (mut offset, end) = (record.body_offset, record.body_offset + record.body.len());
    while offset < end {
        let body = frame_body(&segment[offset..end]).ok_or_else(|| damaged("a frame does not read back".to_owned()))?;
        let (start, length) = (offset + FRAME_HEADER_BYTES, body.len());
        let write = Write::from_all(segment.slice(start..start + length)).map_err(|why| damaged(why.to_string()))?;
        let length = FRAME_HEADER_BYTES + length;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        apply(state, &write, Place { sequence, segment: id, offset: small(offset), length: small(length) });
        offset += length;
    }
    Ok(())
}

/// Refuses a log that ends before something that was synced.
fn check_end(bytes: &[u8], header: &SegmentHeader, end: &End, proven: u64) -> Result<(), LogError> {
    let damaged = |synced: u64| {
        Err(LogError::Damaged(format!(
            "record {} does not read back, and records up to {synced} had been synced",
            end.sequence + 1
        )))
    };
    if end.sequence < proven {
        return damaged(proven);
    }
    // A later record may have reached the disk before an earlier one of the same sync; it proves something only if it was
    // made after that sync.
    let tag = header.tag();
    for offset in (end.offset..bytes.len()).step_by(ALIGNMENT) {
        if looks_like_record(bytes, offset, tag)
            && let Some(later) = record_at(bytes, offset, tag)
            && later.header.sequence > end.sequence
            && later.header.mark > end.sequence
        {
            return damaged(later.header.mark);
        }
    }
    Ok(())
}

/// The state as the core takes it, entries read.
fn collect(state: &State) -> Result<Recovered, LogError> {
    let mut recovered = Recovered {
        node: state.node.clone(),
        peers: state.peers.values().copied().collect(),
        replicas: Vec::with_capacity(state.replicas.len()),
        tombstones: state.tombstones.values().cloned().collect(),
    };
    for replica in state.replicas.values() {
        let mut entries = Vec::new();
        for run in &replica.runs {
            let Some(segment) = state.segments.get(&run.segment) else { continue };
            entries.extend(read_run(run, &segment.file)?);
        }
        recovered.replicas.push(RecoveredReplica {
            inviter: replica.inviter,
            replica: replica.name,
            hard: replica.hard,
            truncated: replica.truncated,
            entries,
        });
    }
    Ok(recovered)
}
