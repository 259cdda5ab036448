//! From a data directory to a running node, and back to an empty one when the disk lies.

use crate::settings::NodeSettings;
use crate::storage::log::{LogError, LogReader, LogSettings, SegmentLog};
use crate::storage::rocks::{RocksSettings, RocksStore};
use scatter_core::durable::Recovered;
use scatter_core::group::{Limits, unused_spans};
use scatter_core::node::RecoverError;
use scatter_core::stage::Stage;
use scatter_core::store::StoreError;
use scatter_core::types::NodeId;
use scatter_core::{Boot, Effects, Node, Origin};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What the folders with data of a former node are called, before their number.
const ASIDE_PREFIX: &str = "set-aside-";

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The data store cannot be used.
    #[error("{0}; the log beside it is whole")]
    Store(#[from] StoreError),
    /// What the disk holds does not fit together.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A directory cannot be moved or made.
    #[error("cannot {action} {path}: {reason}")]
    Directory {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
}

/// A node ready to run.
pub struct Booted {
    /// The protocol.
    pub node: Node,
    /// What recovery wants done first.
    pub effects: Effects,
    /// The log.
    pub log: SegmentLog,
    /// Reads it back.
    pub reader: LogReader,
    /// The data store.
    pub store: RocksStore,
    /// Its machines.
    pub stage: Stage<RocksStore>,
    /// This boot's nonce.
    pub nonce: u64,
}

/// Opens what is in the data directory. A disk that lost what it once held makes a *new* node: the old data is set aside,
/// never voted with.
pub fn boot(settings: &NodeSettings) -> Result<Booted, BootError> {
    let directory = &settings.node.data_dir;
    for (_, aside) in what_was_set_aside(directory).unwrap_or_default() {
        tracing::warn!(aside = %aside.display(), "data of a former node takes up space; delete it when nobody needs it");
    }
    match open(settings) {
        Err(error) if loses_identity(&error) => {
            let aside = set_aside(directory)?;
            tracing::error!(%error, aside = %aside.display(), "this node starts anew under another id");
            open(settings)
        }
        result => result,
    }
}

/// Whether the directory can no longer speak for the node it was.
fn loses_identity(error: &BootError) -> bool {
    match error {
        BootError::Log(LogError::Damaged(_))
        | BootError::Store(StoreError::Damaged(_))
        | BootError::Recover(RecoverError::GivenUp(_) | RecoverError::Damaged { .. }) => true,
        // A full disk, or one that cannot be read at the moment, may be whole tomorrow.
        BootError::Log(_)
        | BootError::Store(StoreError::Failed(_) | StoreError::NoSpace)
        | BootError::Recover(RecoverError::TooNew { .. })
        | BootError::Directory { .. } => false,
    }
}

fn open(settings: &NodeSettings) -> Result<Booted, BootError> {
    let directory = &settings.node.data_dir;
    let log_settings = log_settings(settings.storage.segment_bytes);
    let (log, recovered) = SegmentLog::recover(&directory.join("log"), log_settings)?;
    let rocks = RocksSettings {
        cache_bytes: settings.storage.cache_bytes,
        memtable_bytes: settings.storage.memtable_bytes,
        most_open_files: settings.storage.maximum_open_files,
        background_jobs: settings.storage.background_jobs,
    };
    let store = RocksStore::open(&directory.join("store"), &rocks)?;
    let nonce = rand::random();
    let config = settings.core();
    let replicas = recovered.replicas.iter().map(|replica| replica.replica.group).collect();
    let stage = Stage::open(store.clone(), Limits::default(), &replicas, nonce, config.snapshot_patience)?;
    // What was dropped before the last stop. No tablet is given out before this.
    store.give_back_later(unused_spans(&store)?);
    let boot = Boot {
        fresh_id: NodeId(rand::random::<u64>().max(1)),
        nonce,
        seed: rand::random(),
        origin: Origin {
            address: settings.peer_address(),
            founders: settings.cluster.founders.iter().map(ToString::to_string).collect(),
            seeds: settings.seeds(),
        },
    };
    let (node, effects) = recover(config, boot, recovered, &stage)?;
    let reader = log.reader();
    Ok(Booted { node, effects, log, reader, store, stage, nonce })
}

/// The log's sizes: its first file is no larger than the later ones.
fn log_settings(segment_bytes: u64) -> LogSettings {
    let usual = LogSettings::default();
    LogSettings { segment_bytes, first_segment_bytes: usual.first_segment_bytes.min(segment_bytes), ..usual }
}

fn recover(
    config: scatter_core::Config,
    boot: Boot,
    recovered: Recovered,
    stage: &Stage<RocksStore>,
) -> Result<(Node, Effects), RecoverError> {
    Node::recover(config, boot, recovered, stage.reports(), crate::clock::now())
}

/// Moves what the directory holds into a folder inside it, where a person can look at it. What was set aside before gives way
/// to it, so that a disk that fails again and again does not fill up with copies.
fn set_aside(directory: &Path) -> Result<PathBuf, BootError> {
    let failed = |action, path: &Path, reason| BootError::Directory { action, path: path.to_owned(), reason };
    let earlier = what_was_set_aside(directory).map_err(|error| failed("list", directory, error))?;
    let number = earlier.last().map_or(0, |(number, _)| *number).saturating_add(1);
    let aside = directory.join(format!("{ASIDE_PREFIX}{number}"));
    std::fs::create_dir(&aside).map_err(|error| failed("make", &aside, error))?;
    for part in ["log", "store"] {
        let from = directory.join(part);
        if from.exists() {
            std::fs::rename(&from, aside.join(part)).map_err(|error| failed("move", &from, error))?;
        }
    }
    // On disk before the node has another id to speak under: the former one must not come back.
    for path in [&aside, directory] {
        File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| failed("sync", path, error))?;
    }
    for (_, older) in earlier {
        match std::fs::remove_dir_all(&older) {
            Ok(()) => tracing::warn!(removed = %older.display(), "data set aside earlier gave way to the newest"),
            Err(error) => tracing::warn!(path = %older.display(), %error, "data set aside earlier cannot be removed"),
        }
    }
    Ok(aside)
}

/// The folders that [`set_aside`] left behind, the newest last.
fn what_was_set_aside(directory: &Path) -> std::io::Result<Vec<(u32, PathBuf)>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some(number) = name.strip_prefix(ASIDE_PREFIX).and_then(|number| number.parse().ok()) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fill(directory: &Path, text: &str) {
        for part in ["log", "store"] {
            std::fs::create_dir(directory.join(part)).unwrap();
            std::fs::write(directory.join(part).join("file"), text).unwrap();
        }
    }

    #[test]
    fn only_the_newest_copy_is_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path();
        assert_eq!(what_was_set_aside(&directory.join("nowhere")).unwrap(), []);
        // Somebody else's files, however alike their names.
        std::fs::create_dir(directory.join("set-aside-for-later")).unwrap();
        std::fs::write(directory.join("set-aside-"), "").unwrap();
        for round in 1..=11_u32 {
            fill(directory, &round.to_string());
            let aside = set_aside(directory).unwrap();
            assert_eq!(aside, directory.join(format!("set-aside-{round}")));
            assert_eq!(names(&aside), ["log", "store"]);
            assert_eq!(std::fs::read_to_string(aside.join("log/file")).unwrap(), round.to_string());
            assert_eq!(names(directory), ["set-aside-", &format!("set-aside-{round}"), "set-aside-for-later"]);
        }
        // A person took the copy away: counting begins anew, and a part that is not there is not missed.
        std::fs::remove_dir_all(directory.join("set-aside-11")).unwrap();
        fill(directory, "again");
        std::fs::remove_dir_all(directory.join("store")).unwrap();
        assert_eq!(names(&set_aside(directory).unwrap()), ["log"]);
        assert_eq!(what_was_set_aside(directory).unwrap(), [(1, directory.join("set-aside-1"))]);
    }
}
