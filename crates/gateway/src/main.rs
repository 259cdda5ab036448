//! Scatter: gateway.
fn main() {}
