//! Scatter: wire.
