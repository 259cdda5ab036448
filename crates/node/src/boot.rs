//! From a data directory to a running node, and back to an empty one when the disk lies.

use crate::settings::NodeSettings;
use crate::storage::log::{LogError, LogReader, LogSettings, SegmentLog};
use crate::storage::rocks::{RocksSettings, RocksStore};
use scatter_core::durable::Recovered;
use scatter_core::group::Limits;
use scatter_core::node::RecoverError;
use scatter_core::stage::Stage;
use scatter_core::store::StoreError;
use scatter_core::types::NodeId;
use scatter_core::{Boot, Effects, Node, Origin};
use std::path::{Path, PathBuf};

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
    match open(settings) {
        Err(error) if loses_identity(&error) => {
            let aside = set_aside(&settings.node.data_dir)?;
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
    let stage = Stage::open(store.clone(), Limits::default(), nonce, config.snapshot_patience)?;
    let boot = Boot {
        fresh_id: NodeId(rand::random::<u64>().max(1)),
        nonce,
        seed: rand::random(),
        origin: Origin {
            address: settings.peer_address(),
            founders: settings.cluster.founders.iter().map(ToString::to_string).collect(),
            seeds: settings.cluster.seeds.iter().map(ToString::to_string).collect(),
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

/// Moves what the directory holds into a folder inside it, where a person can look at it.
fn set_aside(directory: &Path) -> Result<PathBuf, BootError> {
    let failed = |action, path: &Path, reason| BootError::Directory { action, path: path.to_owned(), reason };
    for number in 1_u32.. {
        let aside = directory.join(format!("set-aside-{number}"));
        match std::fs::create_dir(&aside) {
            Ok(()) => {
                for part in ["log", "store"] {
                    let from = directory.join(part);
                    if from.exists() {
                        std::fs::rename(&from, aside.join(part)).map_err(|error| failed("move", &from, error))?;
                    }
                }
                return Ok(aside);
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed("make", &aside, error)),
        }
    }
    Ok(directory.to_owned())
}
