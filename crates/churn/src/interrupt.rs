//! Ctrl-C and SIGTERM end the churn early, in order: processes are ended and what was found is told. Who cannot wait for that
//! sends a second one, and the program ends at once; its processes end with it, by the kernel's hand.

use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a program that ended by Ctrl-C, as shells have it.
const INTERRUPTED: libc::c_int = 130;

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn request(_signal: libc::c_int) {
    if REQUESTED.swap(true, Ordering::Relaxed) {
        // SAFETY: it ends the process without anything of it being run, and may be called in a signal handler.
        unsafe { libc::_exit(INTERRUPTED) };
    }
}

/// Turns the first of the two signals into a flag.
pub(crate) fn listen() {
    let handler = request as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but what a signal handler may: an atomic exchange, and the call above.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether the user asked the program to end.
pub(crate) fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
