//! Ctrl-C and SIGTERM: one flag that every loop looks at, so that servers are ended in order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static REQUESTED: AtomicBool = AtomicBool::new(false);
const SLICE: Duration = Duration::from_millis(50);

/// The user asked the program to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Turns the two signals into the flag. The thread that listens ends with the process.
pub fn listen() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        REQUESTED.store(true, Ordering::Relaxed);
    })?;
    Ok(())
}

/// Whether the user asked the program to end.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}

/// Fails if the user asked the program to end.
pub fn check() -> Result<(), Interrupted> {
    if requested() { Err(Interrupted) } else { Ok(()) }
}

/// Sleeps until `moment`, or fails as soon as the user asks the program to end.
pub fn sleep_until(moment: Instant) -> Result<(), Interrupted> {
    loop {
        check()?;
        let left = moment.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// Sleeps for `span`, or fails as soon as the user asks the program to end.
pub fn sleep(span: Duration) -> Result<(), Interrupted> {
    sleep_until(Instant::now() + span)
}
