//! Scatter: client.
