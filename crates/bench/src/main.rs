//! Scatter: bench.
fn main() {}
