//! The `[api]` section.

use scatter_service::Unacceptable;
use serde::{Deserialize, Serialize};

/// The `[api]` section with its defaults, as commented TOML, for the samples of programs that serve the data API.
pub const API_SAMPLE: &str = include_str!("../api.toml");

/// The most that [`ApiSettings::maximum_value_bytes`] may be: a value, its key and what goes with it fit one log entry
/// with room to spare.
const MAX_VALUE_BYTES: u64 = 8 << 20;

/// The `[api]` section. [`API_SAMPLE`] says what each key means.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample explains each key")]
pub struct ApiSettings {
    pub maximum_value_bytes: usize,
    pub maximum_buffered_bytes: usize,
    pub default_timeout_ms: u64,
    pub maximum_timeout_ms: u64,
}

impl Default for ApiSettings {
    /// What [`API_SAMPLE`] says.
    fn default() -> Self {
        Self {
            maximum_value_bytes: 1 << 20,
            maximum_buffered_bytes: 128 << 20,
            default_timeout_ms: 5000,
            maximum_timeout_ms: 60_000,
        }
    }
}

impl ApiSettings {
    /// Checks the bounds; for `Settings::check`.
    pub fn check(&self) -> Result<(), Unacceptable> {
        let within = Unacceptable::unless_within;
        within("api.maximum_value_bytes", self.maximum_value_bytes as u64, 1..=MAX_VALUE_BYTES)?;
        within(
            "api.maximum_buffered_bytes",
            self.maximum_buffered_bytes as u64,
            self.maximum_value_bytes as u64..=u64::MAX,
        )?;
        within("api.maximum_timeout_ms", self.maximum_timeout_ms, 1..=3_600_000)?;
        within("api.default_timeout_ms", self.default_timeout_ms, 1..=self.maximum_timeout_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_says_the_defaults() {
        let sample: toml::Table = toml::from_str(API_SAMPLE).expect("TOML");
        let read: ApiSettings = sample["api"].clone().try_into().expect("settings");
        assert_eq!(read, ApiSettings::default());
        read.check().expect("good defaults");
    }

    #[test]
    fn bounds_are_checked() {
        let good = ApiSettings::default;
        for (key, bad) in [
            ("api.maximum_value_bytes", ApiSettings { maximum_value_bytes: 0, ..good() }),
            ("api.maximum_value_bytes", ApiSettings { maximum_value_bytes: 9 << 20, ..good() }),
            ("api.maximum_buffered_bytes", ApiSettings { maximum_buffered_bytes: 1, ..good() }),
            ("api.default_timeout_ms", ApiSettings { default_timeout_ms: 60_001, ..good() }),
            ("api.maximum_timeout_ms", ApiSettings { maximum_timeout_ms: 0, ..good() }),
        ] {
            assert_eq!(bad.check().expect_err(key).key, key);
        }
    }
}
