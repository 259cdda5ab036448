//! Files ready for use: the next segment, prepared ahead on a thread of its own, and the reserve.

use super::directory::{Directory, SegmentFile};
use super::{LogError, LogSettings, Space};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long to wait before asking a full disk again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Preparing = JoinHandle<Result<SegmentFile, LogError>>;

/// The free files of a log.
#[derive(Debug)]
pub(super) struct Pool {
    directory: Arc<Directory>,
    settings: LogSettings,
    free: Vec<Arc<SegmentFile>>,
    /// No longer needed, but some reader still holds them.
    pinned: Vec<Arc<SegmentFile>>,
    /// Used only for writes that must go through on a full disk.
    reserve: Option<Arc<SegmentFile>>,
    preparing: Option<Preparing>,
    /// Files being unlinked, which takes milliseconds.
    removing: Vec<JoinHandle<()>>,
    /// When the disk last refused a file, and how large it would have had to be.
    refused: Option<(Instant, u64)>,
    /// What the next fresh file will measure: doubles up to the setting, so that a quiet node stays small.
    next_bytes: u64,
}

impl Pool {
    pub(super) fn new(directory: Arc<Directory>, settings: LogSettings, files: Vec<SegmentFile>) -> Self {
        let next_bytes = files.iter().map(|file| file.capacity * 2).max().unwrap_or(settings.first_segment_bytes);
        let mut pool = Self {
            directory,
            next_bytes: next_bytes.clamp(settings.first_segment_bytes, settings.segment_bytes),
            settings,
            free: Vec::new(),
            pinned: Vec::new(),
            reserve: None,
            preparing: None,
            removing: Vec::new(),
            refused: None,
        };
        for file in files {
            pool.give_back(Arc::new(file));
        }
        pool
    }

    /// Takes a free file back; the reserve is filled first.
    pub(super) fn give_back(&mut self, file: Arc<SegmentFile>) {
        if Arc::strong_count(&file) > 1 {
            self.pinned.push(file);
        } else if self.reserve.is_none() && file.capacity >= self.settings.reserve_bytes {
            self.reserve = Some(file);
        } else if self.free.len() < self.settings.spare_files {
            self.free.push(file);
        } else {
            self.remove_smallest(file);
        }
    }

    /// Keeps the larger files.
    fn remove_smallest(&mut self, mut file: Arc<SegmentFile>) {
        if let Some(smallest) = self.free.iter_mut().min_by_key(|free| free.capacity)
            && smallest.capacity < file.capacity
        {
            std::mem::swap(smallest, &mut file);
        }
        self.removing.retain(|removing| !removing.is_finished());
        let directory = self.directory.clone();
        // Without a thread the file stays, and is found and recycled after the next start.
        let work = move || directory.remove_segment(&file);
        self.removing.extend(std::thread::Builder::new().name("log-remove".to_owned()).spawn(work));
    }

    /// A file of at least `bytes`. The reserve is given only if `may_use_reserve`.
    pub(super) fn take(&mut self, bytes: u64, may_use_reserve: bool) -> Result<Arc<SegmentFile>, LogError> {
        self.collect();
        if !self.free.iter().any(|file| file.capacity >= bytes) {
            self.finish_preparing();
        }
        let fitting = self.free.iter().enumerate().filter(|(_, file)| file.capacity >= bytes);
        if let Some((index, _)) = fitting.max_by_key(|(_, file)| file.capacity) {
            return Ok(self.free.swap_remove(index));
        }
        if self.may_ask() {
            // A nearly full disk may still have room for a small one.
            for capacity in [self.next_bytes.max(bytes), self.settings.first_segment_bytes.max(bytes)] {
                match self.directory.create_segment(capacity) {
                    Ok(file) => {
                        self.grew(&file);
                        return Ok(Arc::new(file));
                    }
                    Err(LogError::NoSpace) => self.refused = Some((Instant::now(), bytes)),
                    Err(error) => return Err(error),
                }
            }
        }
        if may_use_reserve && let Some(reserve) = self.reserve.take_if(|reserve| reserve.capacity >= bytes) {
            return Ok(reserve);
        }
        // What is free, if anything, is too small: the room is less than it seems.
        self.refused = self.refused.map(|(at, _)| (at, bytes));
        Err(LogError::NoSpace)
    }

    /// Starts to prepare what is missing, and takes in what has become ready. Cheap when there is nothing to do.
    pub(super) fn refill(&mut self) {
        self.collect();
        if self.preparing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.finish_preparing();
        }
        if self.reserve.is_none() {
            let fitting = self.free.iter().position(|file| file.capacity >= self.settings.reserve_bytes);
            self.reserve = fitting.map(|index| self.free.swap_remove(index));
        }
        let lacking = self.reserve.is_none() || self.free.is_empty();
        if !lacking || self.preparing.is_some() || !self.may_ask() {
            return;
        }
        let bytes = if self.reserve.is_none() { self.settings.reserve_bytes } else { self.next_bytes };
        let directory = self.directory.clone();
        let work = move || directory.create_segment(bytes);
        // Without a thread the file is made when it is needed.
        self.preparing = std::thread::Builder::new().name("log-prepare".to_owned()).spawn(work).ok();
    }

    /// Makes sure, waiting for it, that the reserve is there.
    pub(super) fn fill_reserve(&mut self) -> Result<(), LogError> {
        if self.reserve.is_none() && self.may_ask() {
            match self.directory.create_segment(self.settings.reserve_bytes) {
                Ok(file) => self.give_back(Arc::new(file)),
                Err(LogError::NoSpace) => self.refused = Some((Instant::now(), 0)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How much room is left beyond the segment in use.
    pub(super) fn space(&self) -> Space {
        match (&self.reserve, self.refused) {
            (None, _) => Space::Full,
            (Some(_), Some((_, bytes))) if !self.free.iter().any(|file| file.capacity >= bytes) => Space::Low,
            (Some(_), _) => Space::Enough,
        }
    }

    /// Whether the reserve is in hand.
    pub(super) const fn has_reserve(&self) -> bool {
        self.reserve.is_some()
    }

    fn may_ask(&self) -> bool {
        self.refused.is_none_or(|(at, _)| at.elapsed() >= RETRY_AFTER)
    }

    fn finish_preparing(&mut self) {
        let Some(preparing) = self.preparing.take() else { return };
        match preparing.join() {
            Ok(Ok(file)) => {
                self.grew(&file);
                self.give_back(Arc::new(file));
            }
            // Whatever the reason, the file is not there; the next attempt says more if it is needed.
            Ok(Err(_)) | Err(_) => self.refused = Some((Instant::now(), 0)),
        }
    }

    fn grew(&mut self, file: &SegmentFile) {
        self.refused = None;
        if file.capacity >= self.next_bytes {
            self.next_bytes = self.next_bytes.saturating_mul(2).min(self.settings.segment_bytes);
        }
    }

    fn collect(&mut self) {
        if !self.pinned.is_empty() {
            for file in std::mem::take(&mut self.pinned) {
                self.give_back(file);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The lock on the directory must not be released while a file is still being made or removed in it.
        if let Some(preparing) = self.preparing.take() {
            let _ = preparing.join();
        }
        for removing in self.removing.drain(..) {
            let _ = removing.join();
        }
    }
}
