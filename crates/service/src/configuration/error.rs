//! What can be wrong with settings. Every message names the key, the value, where it came from and what is allowed.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The program's own defaults.
    Default,
    /// A file; the line if it is known.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Environment(String),
    /// A flag, as given.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "by default"),
            Self::File(path, Some(line)) => write!(f, "in {} line {line}", path.display()),
            Self::File(path, None) => write!(f, "in {}", path.display()),
            Self::Environment(name) => write!(f, "in the environment variable {name}"),
            Self::Flag(flag) => write!(f, "in the flag `{flag}`"),
        }
    }
}

/// Why a program does not start with the settings it was given.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The command line is wrong; the text says how to use it.
    #[error("{0}")]
    Usage(String),
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the settings file {} is not valid TOML: {problem}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        problem: String,
    },
    /// A key that no setting has.
    #[error("unknown setting `{key}` = {value} {origin}; {allowed}")]
    UnknownKey {
        /// The key.
        key: String,
        /// Its value, as text.
        value: String,
        /// Who says so.
        origin: Origin,
        /// Which keys there are.
        allowed: String,
    },
    /// A value that its key does not take.
    #[error(transparent)]
    BadValue(Box<BadValue>),
    /// The sample that the program carries is wrong: a mistake of its authors, not of its user.
    #[error("the program's own sample of settings is wrong: {0}")]
    Sample(String),
}

/// A value that its key does not take.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("bad value for the setting `{key}` = {value} {origin}: {problem}{}", explained(meaning))]
pub struct BadValue {
    /// The key.
    pub key: String,
    /// Its value, as text.
    pub value: String,
    /// Who says so.
    pub origin: Origin,
    /// What is wrong.
    pub problem: String,
    /// What the sample says about the key.
    pub meaning: String,
}

fn explained(meaning: &str) -> String {
    if meaning.is_empty() { String::new() } else { format!(" (the setting: {meaning})") }
}
