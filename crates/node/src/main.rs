//! Scatter: node.
fn main() {}
