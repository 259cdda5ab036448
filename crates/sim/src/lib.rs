//! Scatter's simulator: the real core, under simulated network, disks and clocks, all from one seed.

pub mod history;
pub mod linearizability;
pub mod random;
