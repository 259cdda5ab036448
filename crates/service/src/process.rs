//! A program's life: settings, logs, runtime, signals, end.

use crate::configuration::{self, Loaded, Program, Settings};
use crate::log;
use std::future::Future;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How much longer than its drain a program may take to end before it is ended.
const GRACE: Duration = Duration::from_secs(2);

/// Exit code for wrong settings or a wrong command line.
const EXIT_USAGE: u8 = 2;

/// Tells everybody in the process that it is about to end. Clones share one state.
#[derive(Clone, Default, Debug)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// A process that goes on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for the end. Repeats change nothing.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves once the end was asked for.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }
}

/// What a program's main function is handed beside its settings.
#[derive(Clone, Debug)]
pub struct Process {
    /// Who the program is.
    pub program: Program,
    /// Requested by SIGTERM and SIGINT.
    pub shutdown: Shutdown,
}

/// Runs a program: loads its settings from the real command line and environment, starts logs, a multi-threaded runtime
/// and the watch on signals, then `main`. To be returned from the binary's `fn main`.
///
/// The exit code is 0 after `main` succeeds, and after a signal even if `main` does not end within its drain; 1 after
/// `main` fails, 2 for wrong settings. A second signal ends the process at once.
pub fn run<T, F>(program: Program, main: impl FnOnce(T, Process) -> F) -> ExitCode
where
    T: Settings,
    F: Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
{
    let settings = match configuration::load::<T>(&program, std::env::args_os(), std::env::vars_os()) {
        Ok(Loaded::Run(settings)) => *settings,
        Ok(Loaded::Print(text)) => {
            // A reader that has gone away wants no more of it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}: {error}", program.name);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    log::start(settings.log());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(live(program, settings, main));
    // Work that is stuck in a blocking call does not keep the process.
    runtime.shutdown_background();
    code
}

async fn live<T, F>(program: Program, settings: T, main: impl FnOnce(T, Process) -> F) -> ExitCode
where
    T: Settings,
    F: Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
{
    let shutdown = Shutdown::new();
    if let Err(error) = watch_signals(shutdown.clone()) {
        tracing::error!(%error, "cannot watch for signals");
        return ExitCode::FAILURE;
    }
    let drain = settings.drain();
    let overdue = async {
        shutdown.requested().await;
        tokio::time::sleep(drain + GRACE).await;
    };
    let process = Process { program, shutdown: shutdown.clone() };
    tokio::select! {
        ended = main(settings, process) => match ended {
            Ok(()) => {
                tracing::info!("ended");
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!("{error}");
                ExitCode::FAILURE
            }
        },
        () = overdue => {
            tracing::warn!(?drain, "ended with work under way: it took longer than the drain");
            ExitCode::SUCCESS
        }
    }
}

fn watch_signals(shutdown: Shutdown) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for nth in 1.. {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if nth > 1 {
                tracing::warn!(signal = name, "ended by a second signal");
                std::process::exit(1);
            }
            tracing::info!(signal = name, "draining; a second signal ends at once");
            shutdown.request();
        }
    });
    Ok(())
}
