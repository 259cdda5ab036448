//! One process that a test started; killed when dropped, and by the kernel should the test itself be killed.

use crate::wait;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// The process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, what it says appended to `log`. To be called on the test's own thread: with that thread the kernel
    /// ends the process.
    ///
    /// # Panics
    /// If the program cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).expect("a log file");
        let errors = output.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // Ctrl-C on the terminal is for whoever started it, who then ends it in order.
        command.process_group(0);
        // SAFETY: between fork and exec one async-signal-safe call is made, and no memory is allocated.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of this process")
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            self.signal(libc::SIGKILL);
            let status = self.child.wait().expect("a child of this process");
            assert_eq!(status.signal(), Some(libc::SIGKILL), "{} ended by itself: {status}", self.name);
        }
    }

    /// Stops it where it stands.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until(&what, || self.ended())
    }

    /// All that it has said.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Bytes of memory that it has at the moment.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a living process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid");
        // SAFETY: kill takes two numbers. The pid is that of a child not yet waited for, so it cannot be another's.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "{}: {}", self.name, io::Error::last_os_error());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Nothing more can be done if it fails.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
