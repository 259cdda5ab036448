//! Settings: the program's sample file holds every key with its default; a file, then the environment, then flags
//! override it. A key that the sample does not have is an error that lists what it has, so a misspelt key never passes
//! for a default.

mod error;
mod layers;

pub use error::{BadValue, ConfigurationError, Origin};
use layers::{File, Known, Override};

use crate::LogSettings;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What environment variables that hold settings begin with.
const PREFIX: &str = "SCATTER_";

/// The sections of all of Scatter's programs. In an environment that several of them share, a variable for a section of another
/// one is none of this program's business, and only one for a section that none of them has is a mistake.
const SECTIONS: &[&str] =
    &["admin", "api", "client", "cluster", "consensus", "gossip", "http", "log", "node", "peer", "policy", "storage"];

/// Who the program is, for `--help`, `--version` and `/version`.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The binary's name.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Usually `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// Flags beside `--set` for settings that are often set by hand.
    pub flags: &'static [Flag],
}

/// A flag that sets one key.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// The flag without its dashes.
    pub name: &'static str,
    /// The key it sets, as `section.key`.
    pub key: &'static str,
    /// One line for `--help`.
    pub help: &'static str,
}

/// A program's settings.
pub trait Settings: DeserializeOwned {
    /// The program's commented TOML file: each key that it has beside [`crate::COMMON_SAMPLE`], or with another default
    /// than there, under comments that say what it is and what is allowed.
    const SAMPLE: &'static str;

    /// The `[log]` section.
    fn log(&self) -> &LogSettings;

    /// How long requests under way get after SIGTERM.
    fn drain(&self) -> Duration;

    /// What types alone cannot tell: bounds, and keys that go together.
    fn check(&self) -> Result<(), Unacceptable> {
        Ok(())
    }
}

/// A value that [`Settings::check`] refuses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unacceptable {
    /// The key, as `section.key`.
    pub key: &'static str,
    /// What is wrong with its value, or what is allowed.
    pub problem: String,
}

impl Unacceptable {
    /// Refuses `value` under `key` unless it lies within `allowed`.
    pub fn unless_within(key: &'static str, value: u64, allowed: std::ops::RangeInclusive<u64>) -> Result<(), Self> {
        if allowed.contains(&value) {
            return Ok(());
        }
        Err(Self { key, problem: format!("allowed is {} to {}", allowed.start(), allowed.end()) })
    }
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Loaded<T> {
    /// To run with these settings.
    Run(Box<T>),
    /// To print this on standard output and end well.
    Print(String),
}

/// Reads the settings of `program`: its sample, `--config FILE`, environment, flags; the later wins.
///
/// `arguments` begin with the program's own name, as `std::env::args_os` gives them.
pub fn load<T: Settings>(
    program: &Program,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded<T>, ConfigurationError> {
    let known = Known::new(&[crate::COMMON_SAMPLE, T::SAMPLE])?;
    let matches = match command(program, &known).try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) if error.use_stderr() => return Err(ConfigurationError::Usage(error.to_string())),
        Err(shown) => return Ok(Loaded::Print(shown.to_string())),
    };
    let file = matches.get_one::<PathBuf>("config").map(|path| File::read(path)).transpose()?;
    let mut overrides = from_environment(&known, environment)?;
    overrides.extend(from_flags(program, &matches)?);
    let merged = layers::merge(&known, file.as_ref(), &overrides)?;
    let settings: T = merged.read()?;
    settings.check().map_err(|refused| merged.refuse(refused.key, &refused.problem))?;
    if matches.get_flag("print-config") {
        return Ok(Loaded::Print(merged.print()?));
    }
    Ok(Loaded::Run(Box::new(settings)))
}

/// Checks that a sample reads as its settings, that every key in it is explained by a comment above it, and that it has
/// every common key. For a test of each program.
pub fn check_sample<T: Settings>() -> Result<(), ConfigurationError> {
    let known = Known::new(&[crate::COMMON_SAMPLE, T::SAMPLE])?;
    let merged = layers::merge(&known, None, &[])?;
    merged.read::<T>()?.check().map_err(|refused| merged.refuse(refused.key, &refused.problem))?;
    let own = Known::new(&[T::SAMPLE])?;
    for key in known.keys() {
        if own.meaning(key).is_none_or(str::is_empty) {
            return Err(ConfigurationError::Sample(format!("the sample lacks `{key}` or a comment right above it")));
        }
    }
    let unlisted = known.keys().find(|key| !SECTIONS.contains(&section(key)));
    unlisted.map_or(Ok(()), |key| {
        Err(ConfigurationError::Sample(format!("the list of all programs' sections lacks that of `{key}`")))
    })
}

fn command(program: &Program, known: &Known) -> Command {
    let mut command = Command::new(program.name)
        .about(program.about)
        .version(program.version)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .value_parser(clap::value_parser!(PathBuf))
                .help("Reads settings from this TOML file"),
        )
        .arg(
            Arg::new("set")
                .long("set")
                .value_name("SECTION.KEY=VALUE")
                .action(ArgAction::Append)
                .help("Sets one key; lists are separated by commas; may be repeated"),
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Prints the settings in effect as TOML and ends"),
        );
    for flag in program.flags {
        command = command.arg(
            Arg::new(flag.name).long(flag.name).value_name("VALUE").help(format!("{} (sets {})", flag.help, flag.key)),
        );
    }
    command.after_help(format!(
        "Each key can also be set in the environment, as {PREFIX}<SECTION>__<KEY>; flags override the environment, which \
         overrides the file.\n\nSettings and their defaults:\n{}",
        known.list()
    ))
}

fn from_flags(program: &Program, matches: &ArgMatches) -> Result<Vec<Override>, ConfigurationError> {
    let mut overrides = Vec::new();
    for flag in program.flags {
        if let Some(value) = matches.get_one::<String>(flag.name) {
            overrides.push(Override {
                key: flag.key.to_owned(),
                value: value.clone(),
                origin: Origin::Flag(format!("--{}", flag.name)),
            });
        }
    }
    for set in matches.get_many::<String>("set").into_iter().flatten() {
        let Some((key, value)) = set.split_once('=') else {
            return Err(ConfigurationError::Usage(format!("error: --set takes section.key=value, not `{set}`\n")));
        };
        overrides.push(Override {
            key: key.trim().to_owned(),
            value: value.to_owned(),
            origin: Origin::Flag(format!("--set {set}")),
        });
    }
    Ok(overrides)
}

/// Variables of the form `SCATTER_<SECTION>__<KEY>`. Others with the prefix are somebody else's, such as those that
/// Kubernetes makes for a service named `scatter`; so are those for another program's section.
fn from_environment(
    known: &Known,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Override>, ConfigurationError> {
    let mut overrides = Vec::new();
    for (name, value) in environment {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")) else { continue };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        let is_own = known.keys().any(|known| section(known) == section(&key));
        if !is_own && SECTIONS.contains(&section(&key)) {
            continue;
        }
        let origin = Origin::Environment(name.to_owned());
        let Ok(value) = value.into_string() else {
            let (value, problem) = ("(not UTF-8)".to_owned(), "a value is UTF-8 text".to_owned());
            let refused = BadValue { key, value, origin, problem, meaning: String::new() };
            return Err(ConfigurationError::BadValue(Box::new(refused)));
        };
        overrides.push(Override { key, value, origin });
    }
    // The environment has no order; errors should not depend on it.
    overrides.sort_by(|one, other| one.key.cmp(&other.key));
    Ok(overrides)
}

fn section(key: &str) -> &str {
    key.split_once('.').map_or(key, |(section, _)| section)
}

#[cfg(test)]
mod tests;
