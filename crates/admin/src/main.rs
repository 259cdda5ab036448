//! Scatter: admin.
fn main() {}
