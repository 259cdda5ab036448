//! The admin program.

use std::process::ExitCode;

fn main() -> ExitCode {
    scatter_service::process::run(scatter_admin::PROGRAM, scatter_admin::run)
}
