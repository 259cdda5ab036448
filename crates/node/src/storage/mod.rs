//! What a node keeps on disk: the consensus log, which is synced before anything is told to anybody, and the data store,
//! which is rebuilt from the log after a crash.

pub mod log;
pub mod rocks;
pub mod sync;
