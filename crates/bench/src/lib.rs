//! The parts of `scatter-bench`.
//!
//! A load is described by a [`load::Plan`] and carried out by [`http_load`] (Scatter, the floor) or [`etcd`]; both draw
//! operations from a [`workload::Chooser`] and count into a [`measure::Tally`]. [`compare`] starts the systems through
//! [`cluster`] and [`process`], measures them in interleaved rounds, and [`report`] tells what came out. [`groups`] does the
//! same for what groups cost and how they move, which it orders through an [`operator`].

pub mod cluster;
pub mod compare;
pub mod etcd;
pub mod floor;
pub mod gap;
pub mod groups;
pub mod http_load;
pub mod interrupt;
pub mod load;
pub mod machine;
pub mod measure;
pub mod operator;
pub mod options;
pub mod probe;
pub mod process;
pub mod report;
pub mod response;
pub mod workload;
