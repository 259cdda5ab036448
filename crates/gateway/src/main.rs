//! The gateway's program.

use std::process::ExitCode;

/// Small allocations on many threads are most of what a gateway does beside moving bytes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    scatter_service::process::run(scatter_gateway::PROGRAM, scatter_gateway::run)
}
