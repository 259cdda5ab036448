//! One Scatter node: the shell around `scatter-core`.

pub mod storage;
pub mod transport;
