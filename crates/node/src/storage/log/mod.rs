//! The consensus log: what [`Write`]s were handed out, on disk, synced before anybody hears of them.
//!
//! [`Log`] is what the node needs of an engine. [`SegmentLog`] is the engine: preallocated files written front to back,
//! recycled when nothing in them is live. `docs/log-engine.md` has the figures behind the choice.
//!
//! # Life of a segment
//!
//! A file is filled with zeroes once and then lives on under changing segment ids. A segment opens with a *checkpoint*:
//! every small record there is, and the list of older segments that still hold live entries. Once that is synced, the
//! segments not on the list are free again. So each segment can go as soon as nothing in it is live, whatever came before
//! or after it, and the few live entries of an old one are written anew at the end so that an idle group pins nothing.
//!
//! # What a restart may find
//!
//! A *torn tail*, records that were never reported as synced, is cut. Damage to anything that was reported is
//! [`LogError::Damaged`], and the node must then give up its identity: a log that silently lost its end has forgotten
//! promises. The two are told apart by the *mark*: how far the log was known to be synced. Every record carries it, so that
//! each proves its predecessors; a small file repeats it whenever a segment is begun and whenever the log comes to rest.
//! The limit of this proof: damage that hits just the last synced batch, after a power failure that came before the log
//! came to rest and before another batch followed, looks like a torn tail.

mod directory;
mod format;
mod pool;
mod reader;
mod recovery;
mod segments;
mod state;
#[cfg(test)]
mod tests;

pub use reader::LogReader;
pub use segments::SegmentLog;

use scatter_core::durable::Write;
use scatter_core::types::GroupId;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why the log could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no room for the batch. Nothing of it was accepted; the log is usable as before.
    #[error("the log has no space left")]
    NoSpace,
    /// Another process has the directory.
    #[error("{path} is in use by another process")]
    Locked {
        /// The log's directory.
        path: PathBuf,
    },
    /// The directory cannot be written.
    #[error("cannot {action} {path}: {reason}")]
    Unwritable {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// Something that was synced does not read back. The node must take a new identity.
    #[error("the log is damaged: {0}")]
    Damaged(String),
    /// The files were written by a later release.
    #[error("the log has format {found}; this release reads up to {known}")]
    Version {
        /// The format found.
        found: u32,
        /// The newest one known.
        known: u32,
    },
    /// The batch speaks of a replica that the log does not hold: an error of the caller's. Nothing was accepted.
    #[error("the log holds no replica of group {group}")]
    NoReplica {
        /// The group.
        group: GroupId,
    },
    /// The batch is larger than a record may be. Nothing was accepted.
    #[error("a batch of {0} bytes is too large for the log")]
    TooLarge(usize),
    /// The disk failed. Nobody knows what it holds: the process must end.
    #[error("the log failed: {0}")]
    Failed(String),
}

impl LogError {
    /// Whether the log goes on as if nothing had been asked.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::NoSpace | Self::NoReplica { .. } | Self::TooLarge(_) => true,
            Self::Locked { .. }
            | Self::Unwritable { .. }
            | Self::Damaged(_)
            | Self::Version { .. }
            | Self::Failed(_) => false,
        }
    }

    fn from_io(action: &'static str, path: &Path, error: &std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::NoSpace,
            ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::NotADirectory
            | ErrorKind::AlreadyExists => Self::Unwritable { action, path: path.to_owned(), reason: error.to_string() },
            _ => Self::Failed(format!("cannot {action} {}: {error}", path.display())),
        }
    }
}

/// How much room there is for appending, the least first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Space {
    /// Only what may use the reserve is accepted.
    Full,
    /// The disk refuses further files. What is in use takes appends for a while: refuse clients' writes.
    Low,
    /// The next segment is ready or can be made.
    Enough,
}

/// Sizes and limits of a [`SegmentLog`].
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Bytes of a segment file, once the log has grown to it.
    pub segment_bytes: u64,
    /// Bytes of the first one; each further file doubles.
    pub first_segment_bytes: u64,
    /// Bytes of the file kept back for writes that must go through on a full disk.
    pub reserve_bytes: u64,
    /// The most bytes that all files together may take.
    pub most_bytes: u64,
    /// Free files kept for the next segments; more are removed.
    pub spare_files: usize,
    /// A segment is emptied by writing its live entries anew once they take at most this share of `segment_bytes` ...
    pub rewrite_percent: u64,
    /// ... and this many segments were closed after it.
    pub rewrite_after: u32,
    /// The most bytes written anew between two syncs.
    pub rewrite_step_bytes: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            first_segment_bytes: 4 << 20,
            reserve_bytes: 4 << 20,
            most_bytes: u64::MAX,
            spare_files: 2,
            rewrite_percent: 25,
            rewrite_after: 2,
            rewrite_step_bytes: 256 << 10,
        }
    }
}

/// What the node needs of a log engine.
pub trait Log: Send + 'static {
    /// Takes one batch, atomically: after a crash all of it is there or nothing. Durable only after [`Log::sync`].
    /// A refusal ([`LogError::is_refusal`]) leaves the log as it was; any other error is the process's end.
    fn append(&mut self, writes: &[Write]) -> Result<(), LogError>;

    /// Like [`Log::append`], but may use the space kept back: for structural entries, truncations and tombstones, without
    /// which a full disk would never empty.
    fn append_reserved(&mut self, writes: &[Write]) -> Result<(), LogError>;

    /// Puts everything appended so far on disk. After an error nobody knows what the disk holds: the process must end.
    fn sync(&mut self) -> Result<(), LogError>;

    /// Does a bounded piece of work that nobody waits for. Called after a sync was reported.
    fn tidy(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    /// Told when nothing was appended for a while.
    fn settle(&mut self) -> Result<(), LogError> {
        Ok(())
    }

    /// How much room there is.
    fn space(&self) -> Space {
        Space::Enough
    }
}
