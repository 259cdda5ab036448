//! The program's settings: `scatter-admin.sample.toml` says what each key means.

use scatter_client::ClientConfig;
use scatter_service::http::HttpSettings;
use scatter_service::{Address, LogSettings, Unacceptable};
use serde::Deserialize;
use std::time::Duration;

/// All sections.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample file explains each key")]
pub struct AdminProgramSettings {
    pub http: HttpSettings,
    pub cluster: ClusterSettings,
    pub admin: AdminSettings,
    pub log: LogSettings,
}

/// The `[cluster]` section.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample file explains each key")]
pub struct ClusterSettings {
    pub name: String,
    pub seeds: Vec<Address>,
}

/// The `[admin]` section.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample file explains each key")]
pub struct AdminSettings {
    pub survey_ms: u64,
    pub keep_ms: u64,
    pub order_ms: u64,
}

impl scatter_service::Settings for AdminProgramSettings {
    const SAMPLE: &'static str = include_str!("../scatter-admin.sample.toml");

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn drain(&self) -> Duration {
        Duration::from_millis(self.http.drain_ms)
    }

    fn check(&self) -> Result<(), Unacceptable> {
        self.http.check()?;
        if self.cluster.seeds.is_empty() {
            let problem = "at least one seed is needed to find the cluster".into();
            return Err(Unacceptable { key: "cluster.seeds", problem });
        }
        let within = Unacceptable::unless_within;
        within("admin.survey_ms", self.admin.survey_ms, 10..=60_000)?;
        within("admin.keep_ms", self.admin.keep_ms, 0..=60_000)?;
        within("admin.order_ms", self.admin.order_ms, 100..=3_600_000)
    }
}

impl AdminProgramSettings {
    /// The client library's settings.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig {
            cluster_name: self.cluster.name.clone(),
            seeds: self.cluster.seeds.iter().map(ToString::to_string).collect(),
            agent: concat!("scatter-admin/", env!("CARGO_PKG_VERSION")).into(),
            ..ClientConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scatter_service::configuration::{Loaded, check_sample, load};
    use std::ffi::OsString;

    fn load_with(arguments: &[&str]) -> Result<Loaded<AdminProgramSettings>, String> {
        let arguments = std::iter::once("scatter-admin").chain(arguments.iter().copied()).map(OsString::from);
        load(&crate::PROGRAM, arguments, []).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_is_complete() {
        check_sample::<AdminProgramSettings>().expect("a good sample");
        let Ok(Loaded::Run(settings)) = load_with(&[]) else { panic!("the defaults do not load") };
        assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8081");
        assert_eq!(settings.client_config().seeds, ["127.0.0.1:7001"]);
    }

    #[test]
    fn bad_settings_name_their_key() {
        for (argument, key) in [
            ("cluster.seeds=", "cluster.seeds"),
            ("admin.survey_ms=9", "admin.survey_ms"),
            ("admin.keep_ms=60001", "admin.keep_ms"),
            ("admin.order_ms=0", "admin.order_ms"),
            ("admin.order=0", "admin.order"),
        ] {
            let error = load_with(&["--set", argument]).expect_err(argument);
            assert!(error.contains(key), "{argument}: {error}");
        }
    }
}
