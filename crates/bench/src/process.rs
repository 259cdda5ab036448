//! Server processes that this program starts, measures and ends; never any other.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to end when asked.
const END_LIMIT: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A signal this program sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Ends the process at once.
    Kill,
    /// Stops it where it stands, as a lost host seems to its peers.
    Stop,
    /// Lets a stopped process go on.
    Continue,
    /// Asks it to end.
    Terminate,
}

/// A server process; ended when dropped.
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` with its output in `log` (appended). The process ends with this one, however this one ends.
    ///
    /// Must be called on the main thread: the kernel ties the child to the thread that started it.
    pub fn start(name: &str, mut command: Command, log: &Path) -> io::Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // A group of its own, so that Ctrl-C at the terminal reaches only this program, which then ends it in order.
        command.process_group(0);
        let me = std::process::id();
        // SAFETY: between fork and exec only two async-signal-safe calls are made, and no memory is allocated.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have ended before the call above took effect.
                if libc::getppid() as u32 != me {
                    return Err(io::ErrorKind::NotConnected.into());
                }
                Ok(())
            });
        }
        Ok(Self { name: name.to_owned(), child: command.spawn()?, log: log.to_owned() })
    }

    /// What it is called in reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The end of what it has written, for error messages.
    pub fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let number = match signal {
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
            Signal::Terminate => libc::SIGTERM,
        };
        let pid = libc::pid_t::try_from(self.pid()).map_err(io::Error::other)?;
        // SAFETY: kill takes two numbers. The pid is that of a child not yet waited for, so it cannot be another's.
        if unsafe { libc::kill(pid, number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) -> io::Result<()> {
        if self.ended().is_none() {
            self.signal(Signal::Kill)?;
            self.child.wait()?;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        if self.ended().is_some() {
            return Ok(());
        }
        self.signal(Signal::Continue)?;
        self.signal(Signal::Terminate)?;
        let patience = Instant::now() + END_LIMIT;
        while Instant::now() < patience {
            if self.ended().is_some() {
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        self.kill()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{} (pid {}) could not be ended: {error}", self.name, self.pid());
        }
    }
}

/// User and system time a process has used since it began, its finished threads included.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks = ticks_of(&stat).ok_or(io::ErrorKind::InvalidData)?;
    // SAFETY: sysconf takes a number and gives a number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let per_second = u32::try_from(per_second).ok().filter(|&ticks| ticks > 0).ok_or(io::ErrorKind::Unsupported)?;
    Ok(Duration::from_secs(ticks) / per_second)
}

/// User and system time of several processes together.
pub fn cpu_time_of(pids: &[u32]) -> io::Result<Duration> {
    pids.iter().map(|&pid| cpu_time(pid)).sum()
}

fn ticks_of(stat: &str) -> Option<u64> {
    // The name stands in parentheses and may hold anything, parentheses and spaces too.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Memory {
    /// Resident at this moment.
    pub resident: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// Looks at the memory of a process.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    memory_of(&status).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn memory_of(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    Some(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_survive_a_nasty_name() {
        let stat = "42 (a) 1 (b c) S 1 42 42 0 -1 4194304 100 0 0 0 250 30 7 7 20 0 9 0 100 1 1";
        assert_eq!(ticks_of(stat), Some(280));
        assert_eq!(ticks_of("42 (cut off"), None);
        assert_eq!(ticks_of("42 (short) S 1 2"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(memory_of(status), Some(Memory { resident: 1 << 20, peak: 2 << 20 }));
        assert_eq!(memory_of("VmRSS:\t12\n"), None);
    }

    #[test]
    fn this_process_can_be_looked_at() {
        let pid = std::process::id();
        assert!(memory(pid).unwrap().resident > 0);
        let before = cpu_time(pid).unwrap();
        let end = Instant::now() + Duration::from_millis(60);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        assert!(cpu_time(pid).unwrap() >= before);
    }

    #[test]
    fn a_stopped_server_is_still_ended() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let server = Server::start("sleep", command, &folder.path().join("log")).unwrap();
        let pid = server.pid();
        server.signal(Signal::Stop).unwrap();
        drop(server);
        assert!(cpu_time(pid).is_err(), "pid {pid} is still there");
    }

    #[test]
    fn a_server_that_ends_leaves_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; echo two >&2; exit 3"]);
        let mut server = Server::start("sh", command, &folder.path().join("log")).unwrap();
        let status = server.child.wait().unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(server.last_words(), "one\ntwo");
        server.kill().unwrap();
    }
}
