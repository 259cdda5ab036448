//! Entries read back from the segment files, for peers that have fallen behind what is kept in memory.

use super::LogError;
use super::directory::SegmentFile;
use super::format::frame_body;
use super::state::{Run, State};
use bytes::Bytes;
use parking_lot::Mutex;
use scatter_core::codec::Decode;
use scatter_core::durable::Write;
use scatter_core::entry::Entry;
use scatter_core::types::{Ballot, GroupId, Slot};
use std::sync::Arc;

/// The most runs one read looks at.
const MAX_RUNS: usize = 4096;

/// Reads a log's entries from any thread, beside the one that appends.
#[derive(Clone, Debug)]
pub struct LogReader {
    pub(super) state: Arc<Mutex<State>>,
}

impl LogReader {
    /// Consecutive entries of `group` from `first` on, each with the ballot it was last accepted in, up to about
    /// `max_bytes` of bodies, and at least one. Empty if the log does not hold `first`; ends early at a gap. Touches the
    /// disk: not for a thread that must not wait.
    pub fn read(&self, group: GroupId, first: Slot, max_bytes: usize) -> Result<Vec<(Slot, Ballot, Entry)>, LogError> {
        let mut found = Vec::new();
        let mut bytes = 0;
        for (run, file) in self.runs(group, first, max_bytes) {
            for (slot, ballot, entry) in read_run(&run, &file)? {
                if slot < first {
                    continue;
                }
                if bytes > 0 && bytes + entry.weight() > max_bytes {
                    return Ok(found);
                }
                bytes += entry.weight();
                found.push((slot, ballot, entry));
            }
        }
        Ok(found)
    }

    /// The runs to read, with their files, which are not recycled while they are held here.
    fn runs(&self, group: GroupId, first: Slot, max_bytes: usize) -> Vec<(Run, Arc<SegmentFile>)> {
        let state = self.state.lock();
        let mut found = Vec::new();
        let (mut next, mut bytes) = (first.0, 0);
        while let Some(run) = state.run_at(group, next) {
            let Some(segment) = state.segments.get(&run.segment) else { break };
            if !state.is_written(&run) || bytes > max_bytes || found.len() == MAX_RUNS {
                break;
            }
            // Of the first one, who knows how much lies before the slot asked for.
            bytes += if found.is_empty() { 0 } else { run.length as usize };
            next = run.end();
            found.push((run, segment.file.clone()));
        }
        found
    }
}

/// The entries of one run.
pub(super) fn read_run(run: &Run, file: &SegmentFile) -> Result<Vec<(Slot, Ballot, Entry)>, LogError> {
    let damaged =
        || LogError::Damaged(format!("{} at {}: an entry does not read back", file.path.display(), run.offset));
    let frame = file.read_at(u64::from(run.offset), run.length as usize)?;
    let body = frame_body(&frame).ok_or_else(damaged)?;
    let (start, length) = (frame.len() - body.len(), body.len());
    let body = Bytes::from(frame).slice(start..start + length);
    let Ok(Write::Accept { ballot, first, entries, .. }) = Write::from_all(body) else { return Err(damaged()) };
    let skip = run.first.checked_sub(first.0).and_then(|skip| usize::try_from(skip).ok()).ok_or_else(damaged)?;
    if entries.len() < skip.saturating_add(run.count as usize) {
        return Err(damaged());
    }
    let live = entries.into_iter().skip(skip).take(run.count as usize);
    Ok(live.zip(run.first..).map(|(entry, slot)| (Slot(slot), ballot, entry)).collect())
}
