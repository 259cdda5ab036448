//! The gateway's settings: `scatter-gateway.sample.toml` says what each key means.

use scatter_api::ApiSettings;
use scatter_client::ClientConfig;
use scatter_service::http::HttpSettings;
use scatter_service::{Address, LogSettings, Unacceptable};
use serde::Deserialize;
use std::time::Duration;

/// All sections.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample file explains each key")]
pub struct GatewaySettings {
    pub http: HttpSettings,
    pub cluster: ClusterSettings,
    pub api: ApiSettings,
    pub client: ClientSettings,
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

/// The `[client]` section.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the sample file explains each key")]
pub struct ClientSettings {
    pub lanes: u32,
    pub maximum_in_flight: usize,
    pub patience_ms: u64,
    pub connect_timeout_ms: u64,
    pub refresh_ms: u64,
}

impl scatter_service::Settings for GatewaySettings {
    const SAMPLE: &'static str = include_str!("../scatter-gateway.sample.toml");

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn drain(&self) -> Duration {
        Duration::from_millis(self.http.drain_ms)
    }

    fn check(&self) -> Result<(), Unacceptable> {
        self.http.check()?;
        self.api.check()?;
        if self.cluster.seeds.is_empty() {
            let problem = "at least one seed is needed to find the cluster".into();
            return Err(Unacceptable { key: "cluster.seeds", problem });
        }
        let within = Unacceptable::unless_within;
        within("client.lanes", self.client.lanes.into(), 1..=65_536)?;
        within("client.maximum_in_flight", self.client.maximum_in_flight as u64, 1..=1_000_000)?;
        within("client.patience_ms", self.client.patience_ms, 1..=60_000)?;
        within("client.connect_timeout_ms", self.client.connect_timeout_ms, 1..=60_000)?;
        within("client.refresh_ms", self.client.refresh_ms, 100..=3_600_000)
    }
}

impl GatewaySettings {
    /// The client library's settings.
    #[must_use]
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig {
            cluster_name: self.cluster.name.clone(),
            seeds: self.cluster.seeds.iter().map(ToString::to_string).collect(),
            agent: concat!("scatter-gateway/", env!("CARGO_PKG_VERSION")).into(),
            lanes: self.client.lanes,
            max_in_flight: self.client.maximum_in_flight,
            patience: Duration::from_millis(self.client.patience_ms),
            timeout: Duration::from_millis(self.api.default_timeout_ms),
            connect_timeout: Duration::from_millis(self.client.connect_timeout_ms),
            refresh: Duration::from_millis(self.client.refresh_ms),
            ..ClientConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use scatter_service::configuration::{Loaded, check_sample, load};
    use std::ffi::OsString;

    fn load_with(arguments: &[&str]) -> Result<Loaded<GatewaySettings>, String> {
        let arguments = std::iter::once("scatter-gateway").chain(arguments.iter().copied()).map(OsString::from);
        load(&crate::PROGRAM, arguments, []).map_err(|error| error.to_string())
    }

    #[test]
    fn the_sample_is_complete_and_says_the_defaults_of_the_client() {
        check_sample::<GatewaySettings>().expect("a good sample");
        let Ok(Loaded::Run(settings)) = load_with(&[]) else { panic!("the defaults do not load") };
        let defaults = ClientConfig::default();
        let expected = ClientConfig {
            seeds: vec!["127.0.0.1:7001".into()],
            agent: concat!("scatter-gateway/", env!("CARGO_PKG_VERSION")).into(),
            ..defaults
        };
        assert_eq!(settings.client_config(), expected);
        assert_eq!(settings.api, ApiSettings::default());
    }

    #[test]
    fn flags_set_what_is_often_set() {
        let Ok(Loaded::Run(settings)) = load_with(&["--listen", "127.0.0.1:0", "--seeds", "a:1,b:2"]) else {
            panic!("good flags")
        };
        assert_eq!(settings.http.listen.to_string(), "127.0.0.1:0");
        assert_eq!(settings.client_config().seeds, ["a:1", "b:2"]);
    }

    #[test]
    fn bad_settings_name_their_key() {
        for (argument, key) in [
            ("cluster.seeds=", "cluster.seeds"),
            ("cluster.seeds=nowhere", "cluster.seeds"),
            ("client.lanes=0", "client.lanes"),
            ("client.maximum_in_flight=0", "client.maximum_in_flight"),
            ("client.patience_ms=x", "client.patience_ms"),
            ("client.connect_timeout_ms=0", "client.connect_timeout_ms"),
            ("client.refresh_ms=1", "client.refresh_ms"),
            ("api.default_timeout_ms=0", "api.default_timeout_ms"),
            ("client.lane=3", "client.lane"),
        ] {
            let error = load_with(&["--set", argument]).expect_err(argument);
            assert!(error.contains(key), "{argument}: {error}");
        }
    }
}
