//! A model of Scatter's operations between groups.
#![doc = ""]

pub mod action;
pub mod canonical;
pub mod check;
pub mod invariants;
pub mod ledger;
pub mod mistake;
pub mod proposals;
pub mod recovery;
pub mod replicas;
pub mod scenario;
pub mod sets;
pub mod state;
pub mod trace;
pub mod witness;
