//! One Scatter node: the shell around `scatter-core`.
//!
//! * [`driver`]: the loop that steps the core, [`pace`]: when it writes; [`transport`]: peers and clients on its thread.
//! * [`storage`]: the consensus log and the data store; [`apply`]: the thread that applies what is decided.
//! * [`hearsay`]: what nodes tell each other by gossip; [`organiser`]: what groups do by themselves.
//! * [`serving`]: what other threads see; [`service`]: requests of clients; [`backend`]: requests over HTTP.
//! * [`metrics`], [`rates`]: what is counted, for people and dashboards; [`priority`]: which threads let others go first.

pub mod apply;
pub mod backend;
pub mod boot;
pub mod clock;
pub mod driver;
pub mod events;
pub mod gate;
pub mod hearsay;
pub mod metrics;
pub mod orders;
pub mod organiser;
pub mod pace;
pub mod priority;
pub mod rates;
pub mod service;
pub mod serving;
pub mod settings;
pub mod status;
pub mod storage;
pub mod transport;
