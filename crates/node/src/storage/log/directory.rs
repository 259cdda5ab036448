//! The log's directory: its lock, its files, and the mark.

use super::format::{MARK_BYTES, Mark};
use super::{LogError, LogSettings};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LOCK_NAME: &str = "LOCK";
const MARK_NAME: &str = "mark";
const SEGMENT_SUFFIX: &str = ".segment";
const UNFINISHED_SUFFIX: &str = ".unfinished";
/// The mark's two copies lie in different blocks, so that one write cannot hurt both.
const MARK_SPACING: u64 = 4096;
/// What the page cache keeps as one piece is as large as the write that made it, and every later sync of a byte in it
/// goes over the whole piece: so a file is filled page by page.
pub(super) const PAGE_BYTES: usize = 4096;
/// How much of a new file is filled between syncs, so that the log's own never queue behind a whole file of zeroes.
const FILL_STEP_BYTES: u64 = 1 << 20;

/// One preallocated file. What it holds is said by its header alone, so a recycled file keeps its name.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) capacity: u64,
}

impl SegmentFile {
    /// Writes at `offset`, all or an error.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), LogError> {
        self.file.write_all_at(bytes, offset).map_err(|error| LogError::from_io("write", &self.path, &error))
    }

    /// Waits until what was written is on disk.
    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.file.sync_data().map_err(|error| LogError::from_io("sync", &self.path, &error))
    }

    /// Reads exactly `length` bytes.
    pub(super) fn read_at(&self, offset: u64, length: usize) -> Result<Vec<u8>, LogError> {
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|error| LogError::Damaged(format!("cannot read {}: {error}", self.path.display())))?;
        Ok(bytes)
    }
}

/// The directory, locked for this process.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    handle: File,
    /// Dropping the file releases the lock.
    _lock: File,
    most_bytes: u64,
    /// Bytes of all segment files, also of those under construction.
    taken_bytes: AtomicU64,
    next_number: AtomicU64,
}

impl Directory {
    /// Creates the directory if need be and locks it.
    pub(super) fn open(path: &Path, settings: &LogSettings) -> Result<Arc<Self>, LogError> {
        std::fs::create_dir_all(path).map_err(|error| LogError::from_io("create", path, &error))?;
        let lock_path = path.join(LOCK_NAME);
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| LogError::from_io("open", &lock_path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(LogError::from_io("lock", &lock_path, &error)),
        }
        let handle = File::open(path).map_err(|error| LogError::from_io("open", path, &error))?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            handle,
            _lock: lock,
            most_bytes: settings.most_bytes,
            taken_bytes: AtomicU64::new(0),
            next_number: AtomicU64::new(1),
        }))
    }

    /// Opens every segment file there is and removes those that were never finished.
    pub(super) fn segment_files(&self) -> Result<Vec<SegmentFile>, LogError> {
        let failed = |error: std::io::Error| LogError::from_io("list", &self.path, &error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            if name.ends_with(UNFINISHED_SUFFIX) {
                std::fs::remove_file(&path).map_err(|error| LogError::from_io("remove", &path, &error))?;
            } else if let Some(number) = name.strip_suffix(SEGMENT_SUFFIX).and_then(|number| number.parse().ok()) {
                self.next_number.fetch_max(u64::saturating_add(number, 1), Ordering::Relaxed);
                let file = OpenOptions::new().read(true).write(true).open(&path);
                let file = file.map_err(|error| LogError::from_io("open", &path, &error))?;
                let capacity = file.metadata().map_err(|error| LogError::from_io("inspect", &path, &error))?.len();
                self.taken_bytes.fetch_add(capacity, Ordering::Relaxed);
                files.push(SegmentFile { file, path, capacity });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// Makes a new file of `capacity` bytes, every block of it written once: a later append then changes no metadata, so
    /// that syncing it writes the data and nothing else. Takes long for a large file.
    pub(super) fn create_segment(&self, capacity: u64) -> Result<SegmentFile, LogError> {
        let within = |taken: u64| taken.checked_add(capacity).filter(|taken| *taken <= self.most_bytes);
        if self.taken_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_err() {
            return Err(LogError::NoSpace);
        }
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.path.join(format!("{number:08}{UNFINISHED_SUFFIX}"));
        self.fill_segment(number, &unfinished, capacity).inspect_err(|_| {
            self.taken_bytes.fetch_sub(capacity, Ordering::Relaxed);
            // Best effort: what stays behind is removed at the next start.
            let _ = std::fs::remove_file(&unfinished);
        })
    }

    fn fill_segment(&self, number: u64, unfinished: &Path, capacity: u64) -> Result<SegmentFile, LogError> {
        let failed = |error: std::io::Error| LogError::from_io("prepare", unfinished, &error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(unfinished);
        let file = file.map_err(failed)?;
        let zeroes = [0; PAGE_BYTES];
        let mut offset = 0;
        while offset < capacity {
            let length = usize::try_from(capacity - offset).unwrap_or(PAGE_BYTES).min(PAGE_BYTES);
            file.write_all_at(&zeroes[..length], offset).map_err(failed)?;
            offset += length as u64;
            if offset % FILL_STEP_BYTES == 0 {
                file.sync_data().map_err(failed)?;
            }
        }
        file.sync_all().map_err(failed)?;
        let path = self.path.join(format!("{number:08}{SEGMENT_SUFFIX}"));
        std::fs::rename(unfinished, &path).map_err(failed)?;
        self.sync()?;
        Ok(SegmentFile { file, path, capacity })
    }

    /// Gives a file's space back.
    pub(super) fn remove_segment(&self, segment: &SegmentFile) {
        // A file that cannot be removed stays counted, and is found and recycled after the next start.
        if std::fs::remove_file(&segment.path).is_ok() {
            self.taken_bytes.fetch_sub(segment.capacity, Ordering::Relaxed);
        }
    }

    /// Bytes of all segment files.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    fn sync(&self) -> Result<(), LogError> {
        self.handle.sync_all().map_err(|error| LogError::from_io("sync", &self.path, &error))
    }
}

/// The mark's file: two copies, written in turn and synced each time.
#[derive(Debug)]
pub(super) struct MarkFile {
    file: File,
    path: PathBuf,
    pub(super) mark: Mark,
}

impl MarkFile {
    /// Opens the mark; `None` if there is none. A mark of which neither copy reads back is damage.
    pub(super) fn open(directory: &Directory) -> Result<Option<Self>, LogError> {
        let path = directory.path.join(MARK_NAME);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::from_io("open", &path, &error)),
        };
        let mut newest: Option<Mark> = None;
        for copy in 0..2 {
            let mut bytes = [0; MARK_BYTES];
            if file.read_exact_at(&mut bytes, copy * MARK_SPACING).is_err() {
                continue;
            }
            if let Some(mark) = Mark::decode(&bytes)?
                && newest.is_none_or(|other| other.generation < mark.generation)
            {
                newest = Some(mark);
            }
        }
        let mark = newest.ok_or_else(|| LogError::Damaged(format!("neither copy in {} reads back", path.display())))?;
        Ok(Some(Self { file, path, mark }))
    }

    /// Makes the mark of a new log.
    pub(super) fn create(directory: &Directory, log: u64) -> Result<Self, LogError> {
        let path = directory.path.join(MARK_NAME);
        let unfinished = directory.path.join(format!("{MARK_NAME}{UNFINISHED_SUFFIX}"));
        let failed = |error: std::io::Error| LogError::from_io("create", &path, &error);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&unfinished);
        let file = file.map_err(failed)?;
        let mark = Mark { log, generation: 1, durable: 0 };
        for copy in 0..2 {
            file.write_all_at(&mark.encode(), copy * MARK_SPACING).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        std::fs::rename(&unfinished, &path).map_err(failed)?;
        directory.sync()?;
        Ok(Self { file, path, mark })
    }

    /// Remembers, durably, that everything up to `durable` is on disk. Spares the disk if it is known already.
    pub(super) fn raise(&mut self, durable: u64) -> Result<(), LogError> {
        if durable <= self.mark.durable {
            return Ok(());
        }
        let mark = Mark { generation: self.mark.generation + 1, durable, ..self.mark };
        let failed = |error: std::io::Error| LogError::from_io("write", &self.path, &error);
        self.file.write_all_at(&mark.encode(), mark.generation % 2 * MARK_SPACING).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.mark = mark;
        Ok(())
    }
}
