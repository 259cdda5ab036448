//! Who goes first when processors are scarce.

/// How much less the priority of threads is that only help others to catch up.
const NICE: libc::c_int = 10;

/// Lets other threads go first: whoever catches up must not keep users waiting.
pub fn give_way() {
    // SAFETY: no memory is passed. For the system this is about the calling thread alone. That it may fail does not matter.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
