//! Multi-Paxos in one group, by role.

pub(crate) mod acceptor;
pub(crate) mod catch_up;
pub(crate) mod counting;
pub(crate) mod election;
pub(crate) mod freshness;
pub(crate) mod leader;
pub(crate) mod lease;
pub mod log;
pub(crate) mod membership;
pub(crate) mod progress;
pub(crate) mod room;
