//! Scatter's simulator: the real core, under simulated network, disks and clocks, all from one seed.

pub mod checks;
pub mod churn;
pub mod clock;
pub mod disk;
pub mod driver;
pub mod gossip;
pub mod history;
pub mod host;
pub mod invariants;
pub mod linearizability;
pub mod nemesis;
pub mod network;
pub mod plan;
pub mod policies;
pub mod random;
pub mod ring;
pub mod run;
pub mod service;
pub mod surroundings;
pub mod trace;
pub mod transport;
pub mod workload;
pub mod world;
