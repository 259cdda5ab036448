//! Scatter: service.
