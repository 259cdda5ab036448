//! Scatter's operations between groups as a small model, explored state by state, to the end.
//!
//! The simulator runs the real code through many histories; this explores *every* history of something much smaller. It is
//! for the protocol, not for the code: two groups on three or four nodes, each with a log whose entries are decided at once by
//! a majority that holds all before them. How Paxos gets there is the matter of the simulator.
//!
//! ```text
//!            Scenario: who is there, what may happen          Mistake: what is planted
//!                     |                                          |
//! State  --Ledger--> what follows from the logs (machines, commits, votes, data that is due)
//!   |                 |
//!   +-- Action ------ what may happen next: proposals of leaders, steps of replicas, faults
//!   +-- Fault ------- what must never be;   Witness: what must be seen once
//! ```
//!
//! - **Messages** are not in the state. Whatever a group ever said of a decided entry may arrive at any time, any number of
//!   times, or never: so it can be read from the sender's log. Only answers that depend on how far the one who answers has
//!   got are taken from that replica.
//! - **A replica** is a log on disk, a store, and what of the store a crash would leave.
//! - **Names of nodes** mean nothing: states are explored up to exchanging them.
//!
//! `docs/protocol/model.md` says what is left out, and why that is fair.

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
mod trace;
pub mod witness;
