//! Where the programs are that the tests start.
//!
//! `SCATTER_PROGRAMS` names a folder with programs that are up to date; `make test` sets it, since a build of the whole
//! workspace makes them. Without it they are built here, once for each run of the tests, into the target directory
//! that this test lies in.

use std::fs::OpenOptions;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PACKAGES: [&str; 4] = ["scatter-node", "scatter-gateway", "scatter-admin", "scatter-client"];

static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Takes the programs from `folder`, whatever is said elsewhere. Returns whether nobody had asked for a program before.
pub fn take_from(folder: PathBuf) -> bool {
    FOLDER.set(folder).is_ok()
}

/// The path of a program, which is there and up to date.
///
/// # Panics
/// If the programs cannot be built.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    let path = FOLDER.get_or_init(folder).join(name);
    assert!(path.is_file(), "{} is not there", path.display());
    path
}

fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("SCATTER_PROGRAMS") {
        return folder.into();
    }
    let own = std::env::current_exe().expect("this test's own path");
    // <target>/<profile>/deps/<this test>
    let folder = own.ancestors().nth(2).expect("a folder of the profile").to_owned();
    once_a_run(&folder, || build(&folder));
    folder
}

/// nextest runs each test in a process of its own and gives all of them the run's id.
fn once_a_run(folder: &Path, build: impl FnOnce()) {
    let Ok(run) = std::env::var("NEXTEST_RUN_ID") else { return build() };
    let path = folder.join("scatter-e2e-built-for");
    let mut stamp =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).expect("a stamp");
    stamp.lock().expect("the stamp's lock");
    let mut built_for = String::new();
    stamp.read_to_string(&mut built_for).expect("a readable stamp");
    if built_for == run {
        return;
    }
    build();
    stamp.set_len(0).and_then(|()| stamp.rewind()).and_then(|()| stamp.write_all(run.as_bytes())).expect("a new stamp");
}

fn build(folder: &Path) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(top.join("scripts/cargo.sh"));
    command.current_dir(&top).args(["build", "--quiet", "--bins", "--target-dir"]);
    command.arg(folder.parent().expect("the target directory"));
    for package in PACKAGES {
        command.args(["-p", package]);
    }
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("scripts/cargo.sh");
    assert!(status.success(), "the programs do not build");
}
