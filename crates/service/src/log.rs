//! Logs: `tracing` events as lines on standard error.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The `[log]` section.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    /// What is logged.
    pub level: Level,
    /// How a line looks.
    pub format: LogFormat,
}

/// A filter such as `info` or `warn,scatter_core=debug`, known to be well formed.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Level(String);

impl TryFrom<String> for Level {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match EnvFilter::try_new(&text) {
            // A bare word that is no level would pass as the name of a target and silence everything else.
            Ok(_) if text.is_empty() || text.split(',').any(|part| !is_directive(part)) => Err(wrong(&text)),
            Ok(_) => Ok(Self(text)),
            Err(_) => Err(wrong(&text)),
        }
    }
}

fn is_directive(part: &str) -> bool {
    let level = part.rsplit('=').next().unwrap_or(part);
    ["off", "error", "warn", "info", "debug", "trace"].iter().any(|known| level.eq_ignore_ascii_case(known))
}

fn wrong(text: &str) -> String {
    format!(
        "`{text}` is not a log level: off, error, warn, info, debug or trace, or a list such as info,scatter_core=debug"
    )
}

impl From<Level> for String {
    fn from(level: Level) -> Self {
        level.0
    }
}

/// How a log line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object.
    Json,
}

/// Sends events to standard error from here on. A second call changes nothing.
pub fn start(settings: &LogSettings) {
    let filter = EnvFilter::try_new(&settings.level.0).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // An error means that a subscriber is there: a test's, or a first call's.
    let _ = match settings.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_checked_when_read() {
        for text in ["info", "WARN", "off", "info,scatter_core=debug", "scatter_core::paxos=trace"] {
            assert!(Level::try_from(text.to_owned()).is_ok(), "{text}");
        }
        for text in ["", "loud", "info,", "scatter=loud", "info;debug"] {
            let error = Level::try_from(text.to_owned()).expect_err(text);
            assert!(error.contains("off, error, warn"), "{error}");
        }
    }
}
