//! Periods and limits.

use crate::wire::MAX_DATAGRAM_BYTES;
use std::time::Duration;

/// The least that a datagram may be limited to: the membership part of one, and a little room.
pub const MIN_DATAGRAM_BYTES: usize = 1200;

/// Periods and limits. The same in all nodes of a cluster, ideally; nothing breaks if not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How often a node probes one other. A probe that nobody answered by the end of it makes a suspect.
    pub probe_period: Duration,
    /// After how long without an answer others are asked to probe too. Below half of `probe_period`, so that they can.
    pub probe_timeout: Duration,
    /// How many others are asked.
    pub indirect_probes: usize,
    /// How long a suspect has to say that it lives, in a cluster of up to ten; grows with the number of digits.
    pub suspect_for: Duration,
    /// After how long a node that is down is forgotten.
    pub forget_after: Duration,
    /// How often news goes out, while there is some.
    pub gossip_period: Duration,
    /// To how many each time.
    pub gossip_fanout: usize,
    /// How often a node compares what it knows with one other. Each such period is drawn anew, a quarter around this.
    pub exchange_period: Duration,
    /// How often a node tries an address of somebody whom it does not see alive. In clusters above 16 nodes each does so
    /// less often, since they all do.
    pub contact_period: Duration,
    /// How many nodes' load figures ride on one datagram.
    pub loads_per_datagram: usize,
    /// The most bytes of a datagram that is sent. What does not fit one is not spread. What others send is taken up to
    /// [`MAX_DATAGRAM_BYTES`].
    pub datagram_bytes: usize,
    /// The most nodes known at a time, this one and those that are down included.
    pub max_nodes: usize,
    /// The most groups known at a time.
    pub max_groups: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(300),
            indirect_probes: 3,
            suspect_for: Duration::from_secs(4),
            forget_after: Duration::from_secs(3600),
            gossip_period: Duration::from_millis(200),
            gossip_fanout: 3,
            exchange_period: Duration::from_secs(1),
            contact_period: Duration::from_secs(5),
            loads_per_datagram: 6,
            datagram_bytes: 4096,
            max_nodes: 4096,
            max_groups: 1 << 14,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SettingsError {
    /// A period or a count is zero.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// There would be no time for others to probe.
    #[error("probe_timeout must be below half of probe_period")]
    ProbeTimeout,
    /// The dead would be forgotten before everybody has heard of it.
    #[error("forget_after must be at least ten times suspect_for")]
    ForgetAfter,
    /// A datagram of that size is too small or would be refused.
    #[error("datagram_bytes must lie between {MIN_DATAGRAM_BYTES} and {MAX_DATAGRAM_BYTES}")]
    DatagramBytes,
}

impl Settings {
    /// Whether they make sense together.
    pub fn check(&self) -> Result<(), SettingsError> {
        let periods = [
            ("probe_period", self.probe_period),
            ("probe_timeout", self.probe_timeout),
            ("suspect_for", self.suspect_for),
            ("gossip_period", self.gossip_period),
            ("exchange_period", self.exchange_period),
            ("contact_period", self.contact_period),
        ];
        let counts = [
            ("indirect_probes", self.indirect_probes),
            ("gossip_fanout", self.gossip_fanout),
            ("max_nodes", self.max_nodes),
            ("max_groups", self.max_groups),
        ];
        let zero_period = periods.iter().find(|(_, period)| period.is_zero()).map(|(name, _)| *name);
        let zero_count = counts.iter().find(|(_, count)| *count == 0).map(|(name, _)| *name);
        if let Some(name) = zero_period.or(zero_count) {
            return Err(SettingsError::Zero(name));
        }
        if self.probe_timeout * 2 >= self.probe_period {
            return Err(SettingsError::ProbeTimeout);
        }
        if self.forget_after < self.suspect_for * 10 {
            return Err(SettingsError::ForgetAfter);
        }
        if !(MIN_DATAGRAM_BYTES..=MAX_DATAGRAM_BYTES).contains(&self.datagram_bytes) {
            return Err(SettingsError::DatagramBytes);
        }
        Ok(())
    }

    /// How often one piece of news is passed on by each node that heard it, among `nodes` that live.
    #[must_use]
    pub fn transmissions(&self, nodes: usize) -> u8 {
        // A logarithm of a usize is at most 63.
        u8::try_from(2 + nodes.max(1).ilog2()).unwrap_or(u8::MAX)
    }

    /// How long a suspect has among `nodes` that live: rumours take longer in larger clusters, and so do denials.
    #[must_use]
    pub fn suspicion(&self, nodes: usize) -> Duration {
        self.suspect_for * (nodes.max(1).ilog2() * 3).max(10) / 10
    }

    /// How often a node among `nodes` that live tries an address of somebody it does not see.
    #[must_use]
    pub fn contact(&self, nodes: usize) -> Duration {
        if nodes == 0 {
            return self.probe_period.min(self.contact_period);
        }
        self.contact_period * u32::try_from(nodes / 16).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_nonsense_is_refused() {
        let good = Settings::default();
        assert_eq!(good.check(), Ok(()));
        let bad = Settings { probe_timeout: Duration::from_millis(500), ..good.clone() };
        assert_eq!(bad.check(), Err(SettingsError::ProbeTimeout));
        let bad = Settings { gossip_fanout: 0, ..good.clone() };
        assert_eq!(bad.check(), Err(SettingsError::Zero("gossip_fanout")));
        let bad = Settings { exchange_period: Duration::ZERO, ..good.clone() };
        assert_eq!(bad.check(), Err(SettingsError::Zero("exchange_period")));
        let bad = Settings { forget_after: Duration::from_secs(10), ..good.clone() };
        assert_eq!(bad.check(), Err(SettingsError::ForgetAfter));
        let bad = Settings { datagram_bytes: 1000, ..good };
        assert_eq!(bad.check(), Err(SettingsError::DatagramBytes));
    }

    #[test]
    fn what_grows_with_the_cluster_grows_slowly() {
        let settings = Settings::default();
        assert_eq!([1, 5, 100, 1000].map(|nodes| settings.transmissions(nodes)), [2, 4, 8, 11]);
        assert_eq!(settings.suspicion(5), Duration::from_secs(4));
        assert_eq!(settings.suspicion(1000), Duration::from_millis(10_800));
        assert_eq!(settings.contact(0), Duration::from_secs(1));
        assert_eq!(settings.contact(31), Duration::from_secs(5));
        assert_eq!(settings.contact(160), Duration::from_secs(50));
    }
}
