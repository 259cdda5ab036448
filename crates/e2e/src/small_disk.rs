//! A tiny file system in a mount namespace of its own, for disks that really fill up.

use std::path::PathBuf;
use std::process::Command;

const DISK: &str = "SCATTER_E2E_DISK";
const CANNOT: i32 = 99;

/// Runs the named test of this program again, with a disk of so many MiB. Returns the disk inside of that run, and nothing
/// outside of it. Where the system does not let a test mount anything, nothing is tested: [`crate::not_run`].
///
/// # Panics
/// If the test fails in there.
#[must_use]
pub fn run_again(test: &str, mebibytes: u32) -> Option<PathBuf> {
    if let Some(disk) = std::env::var_os(DISK) {
        return Some(disk.into());
    }
    let disk = tempfile::tempdir().expect("a directory to mount on");
    let mount = format!(r#"mount -t tmpfs -o size={mebibytes}m tmpfs "${DISK}" || exit {CANNOT}; exec "$0" "$@""#);
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount])
        .arg(std::env::current_exe().expect("this test's own path"))
        .args(["--exact", test, "--nocapture"])
        .env(DISK, disk.path())
        .status();
    match status {
        Ok(status) if status.success() => {}
        // unshare itself ends with 1 when it may not; a test that fails ends with 101.
        Ok(status) if status.code() != Some(CANNOT) && status.code() != Some(1) => panic!("{test}: {status}"),
        Ok(_) | Err(_) => crate::not_run(test, "this system allows no mount namespace"),
    }
    None
}

/// Bytes that do not compress, the same for the same number.
#[must_use]
pub fn noise(number: usize, bytes: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}
