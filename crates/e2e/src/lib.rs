//! What tests with real processes need: where the programs are, clusters of them, requests, and a workload whose history is
//! checked for linearizability.
//!
//! Everything here waits for a condition, with a limit that only a broken system reaches, and panics with what it saw.

pub mod cluster;
pub mod http;
pub mod operator;
pub mod ports;
pub mod process;
pub mod programs;
pub mod small_disk;
pub mod wait;
pub mod workload;

/// Says that a test cannot run on this machine.
///
/// # Panics
/// With `SCATTER_RUN_ALL` set, as in continuous integration: there no test may be left out unseen.
pub fn not_run(test: &str, why: &str) {
    eprintln!("{test}: not run, for {why}");
    assert!(std::env::var_os("SCATTER_RUN_ALL").is_none(), "{test} must run here");
}
