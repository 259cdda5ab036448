//! Scatter: sim.
