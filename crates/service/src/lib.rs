//! What every Scatter program shares: settings from file, environment and flags; logs; signals; the HTTP server; the
//! routes every program answers (`/livez`, `/readyz`, `/metrics`, `/version`, `/openapi.json`); and the one shape of an
//! error reply.
//!
//! A program's `main` is [`process::run`] with a [`configuration::Program`] and a [`configuration::Settings`] type. What
//! it serves is an [`http::Handler`]: [`http::Site`] for the common routes and an optional `axum` router, or something
//! faster in front of it.

pub mod address;
pub mod configuration;
pub mod http;
pub mod log;
pub mod metrics;
pub mod problem;
pub mod process;

pub use address::Address;
pub use configuration::{Flag, Program, Settings, Unacceptable};
pub use log::LogSettings;
pub use problem::{Kind, Problem, WriteOutcome};
pub use process::{Process, Shutdown};

/// The settings every program has, with their defaults, as a commented TOML file.
pub const COMMON_SAMPLE: &str = include_str!("../common.toml");
