//! The layers of settings, one over the other, each value with its origin.

use super::error::{BadValue, ConfigurationError, Origin};
use config::{Config, FileFormat, Value, ValueKind};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Every key there is, from the samples.
pub(super) struct Known {
    samples: Vec<&'static str>,
    keys: BTreeMap<String, Entry>,
}

/// One key of a sample.
struct Entry {
    /// Its default, which also tells the type.
    default: toml::Value,
    /// The comment above it, as one line.
    meaning: String,
}

impl Known {
    /// Reads samples; a later one overrides an earlier one.
    pub(super) fn new(samples: &[&'static str]) -> Result<Self, ConfigurationError> {
        let mut keys = BTreeMap::new();
        for sample in samples {
            let wrong = |error: toml::de::Error| ConfigurationError::Sample(error.to_string());
            let table: toml::Table = toml::from_str(sample).map_err(wrong)?;
            let spans = DeTable::parse(sample).map_err(wrong)?;
            let mut lines = BTreeMap::new();
            find_lines(spans.get_ref(), sample, "", &mut lines);
            let mut found = BTreeMap::new();
            flatten(&table, "", &mut found);
            for (key, default) in found {
                let meaning = lines.get(&key).map(|line| comment_above(sample, *line)).unwrap_or_default();
                keys.insert(key, Entry { default, meaning });
            }
        }
        Ok(Self { samples: samples.to_vec(), keys })
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// What the sample says about a key.
    pub(super) fn meaning(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(|entry| entry.meaning.as_str())
    }

    /// All keys with their defaults and meanings, for `--help`.
    pub(super) fn list(&self) -> String {
        let mut text = String::new();
        for (key, entry) in &self.keys {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {key} = {}\n      {}", entry.default, entry.meaning);
        }
        text
    }

    fn unknown(&self, key: &str, value: String, origin: Origin) -> ConfigurationError {
        let inside: Vec<_> = self.keys().filter(|known| known.starts_with(&format!("{key}."))).collect();
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let beside: Vec<_> = self
            .keys()
            .filter_map(|known| known.rsplit_once('.').filter(|(other, _)| *other == section).map(|(_, name)| name))
            .collect();
        let allowed = if !inside.is_empty() {
            format!("`{key}` is a section, with the keys {}", inside.join(", "))
        } else if beside.is_empty() {
            let mut sections: Vec<_> =
                self.keys().filter_map(|known| known.split_once('.')).map(|pair| pair.0).collect();
            sections.dedup();
            format!("the sections are {}", sections.join(", "))
        } else {
            format!("the keys of [{section}] are {}", beside.join(", "))
        };
        ConfigurationError::UnknownKey { key: key.to_owned(), value, origin, allowed }
    }
}

/// A settings file as read.
pub(super) struct File {
    path: PathBuf,
    text: String,
    values: BTreeMap<String, toml::Value>,
    lines: BTreeMap<String, usize>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigurationError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigurationError::Unreadable { path: path.to_owned(), source })?;
        let wrong = |error: toml::de::Error| ConfigurationError::Syntax {
            path: path.to_owned(),
            problem: error.to_string().trim_end().to_owned(),
        };
        let table: toml::Table = toml::from_str(&text).map_err(wrong)?;
        let mut values = BTreeMap::new();
        flatten(&table, "", &mut values);
        let mut lines = BTreeMap::new();
        find_lines(DeTable::parse(&text).map_err(wrong)?.get_ref(), &text, "", &mut lines);
        Ok(Self { path: path.to_owned(), text, values, lines })
    }
}

/// One value from the environment or a flag.
pub(super) struct Override {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: Origin,
}

/// All layers together.
pub(super) struct Merged<'a> {
    known: &'a Known,
    config: Config,
    origins: BTreeMap<String, (String, Origin)>,
}

/// Lays the file over the samples and `overrides` over both. Refuses keys that no sample has.
pub(super) fn merge<'a>(
    known: &'a Known,
    file: Option<&File>,
    overrides: &[Override],
) -> Result<Merged<'a>, ConfigurationError> {
    let mut builder = Config::builder();
    for sample in &known.samples {
        builder = builder.add_source(config::File::from_str(sample, FileFormat::Toml));
    }
    let mut origins = BTreeMap::new();
    if let Some(file) = file {
        for (key, value) in &file.values {
            let origin = Origin::File(file.path.clone(), file.lines.get(key).copied());
            if !known.keys.contains_key(key) {
                return Err(known.unknown(key, value.to_string(), origin));
            }
            origins.insert(key.clone(), (value.to_string(), origin));
        }
        builder = builder.add_source(config::File::from_str(&file.text, FileFormat::Toml));
    }
    for item in overrides {
        let Some(entry) = known.keys.get(&item.key) else {
            return Err(known.unknown(&item.key, format!("\"{}\"", item.value), item.origin.clone()));
        };
        let value = match entry.default {
            toml::Value::Array(_) => ValueKind::Array(split(&item.value)),
            _ => ValueKind::String(item.value.clone()),
        };
        builder = builder
            .set_override(&item.key, Value::new(None, value))
            .map_err(|error| ConfigurationError::Sample(error.to_string()))?;
        origins.insert(item.key.clone(), (format!("\"{}\"", item.value), item.origin.clone()));
    }
    let config = builder.build().map_err(|error| ConfigurationError::Sample(error.to_string()))?;
    Ok(Merged { known, config, origins })
}

fn split(list: &str) -> Vec<Value> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect()
}

impl Merged<'_> {
    /// The settings as their type.
    pub(super) fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T, ConfigurationError> {
        serde_path_to_error::deserialize(self.config.clone()).map_err(|error| {
            let path = error.path().to_string();
            // `path[0]` is an element of the list `path`.
            let key = path.split('[').next().unwrap_or_default().to_owned();
            self.refuse(&key, &plain(error.inner()))
        })
    }

    /// The error for a value that is not accepted.
    pub(super) fn refuse(&self, key: &str, problem: &str) -> ConfigurationError {
        let by_default = || {
            let default = self.known.keys.get(key).map(|entry| entry.default.to_string()).unwrap_or_default();
            (default, Origin::Default)
        };
        let (value, origin) = self.origins.get(key).cloned().unwrap_or_else(by_default);
        ConfigurationError::BadValue(Box::new(BadValue {
            key: key.to_owned(),
            value,
            origin,
            problem: problem.to_owned(),
            meaning: self.known.meaning(key).unwrap_or_default().to_owned(),
        }))
    }

    /// The settings in effect as TOML, each of the type that the sample gives it.
    pub(super) fn print(&self) -> Result<String, ConfigurationError> {
        let mut table = toml::Table::new();
        for (key, entry) in &self.known.keys {
            let value = self.config.get::<Value>(key).map_err(|error| self.refuse(key, &plain(&error)))?;
            let value = typed(value, &entry.default).map_err(|error| self.refuse(key, &plain(&error)))?;
            insert(&mut table, key, value);
        }
        toml::to_string(&table).map_err(|error| ConfigurationError::Sample(error.to_string()))
    }
}

/// What is wrong, without the places that `config` names: origins are told better here.
fn plain(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Type { unexpected, expected, .. } => format!("{unexpected} is not {expected}"),
        config::ConfigError::At { error, .. } => plain(error),
        config::ConfigError::Message(text) => text.clone(),
        other => other.to_string(),
    }
}

fn typed(value: Value, like: &toml::Value) -> Result<toml::Value, config::ConfigError> {
    Ok(match like {
        toml::Value::Integer(_) => toml::Value::Integer(value.into_int()?),
        toml::Value::Float(_) => toml::Value::Float(value.into_float()?),
        toml::Value::Boolean(_) => toml::Value::Boolean(value.into_bool()?),
        toml::Value::Array(items) => {
            let like = items.first().cloned().unwrap_or_else(|| toml::Value::String(String::new()));
            toml::Value::Array(
                value.into_array()?.into_iter().map(|item| typed(item, &like)).collect::<Result<_, _>>()?,
            )
        }
        toml::Value::String(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => {
            toml::Value::String(value.into_string()?)
        }
    })
}

fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((section, rest)) => {
            let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = section {
                insert(inner, rest, value);
            }
        }
    }
}

/// All leaves of a table under their dotted keys.
fn flatten(table: &toml::Table, prefix: &str, out: &mut BTreeMap<String, toml::Value>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) => flatten(inner, &key, out),
            leaf => {
                out.insert(key, leaf.clone());
            }
        }
    }
}

/// The line of every leaf, from 1.
fn find_lines(table: &DeTable<'_>, text: &str, prefix: &str, out: &mut BTreeMap<String, usize>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
        if let DeValue::Table(inner) = value.get_ref() {
            find_lines(inner, text, &key, out);
        } else {
            let before = text.get(..name.span().start).unwrap_or_default();
            out.insert(key, before.matches('\n').count() + 1);
        }
    }
}

/// The comment lines right above a line (counted from 1), as one line.
fn comment_above(text: &str, line: usize) -> String {
    let before: Vec<_> = text.lines().take(line.saturating_sub(1)).collect();
    let comment = before.iter().rev().map_while(|line| line.trim().strip_prefix('#'));
    let mut lines: Vec<_> = comment.map(str::trim).collect();
    lines.reverse();
    lines.join(" ")
}
