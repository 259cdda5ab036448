//! Scatter: api.
