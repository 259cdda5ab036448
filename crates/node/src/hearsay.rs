//! What this node hears of the others, and tells them: who lives, who hosts what, how busy everybody is. All of it hints;
//! nothing is decided by it. The driver owns it, and moves its datagrams over the peers' connections.

use crate::serving::{Leadership, Serving, Table};
use bytes::Bytes;
use scatter_core::policy::NodeHint;
use scatter_core::time::Instant;
use scatter_core::types::{GroupId, NodeId};
use scatter_gossip::{
    Counters, Flags, Gossip, Load, MAX_ZONES, Outgoing, Profile, Settings, StartError, State, ZoneTrip,
};
use scatter_wire::{Identity, NodeInfo, NodeState};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often this node tells how busy it is.
const LOAD_EVERY: Duration = Duration::from_secs(2);

/// A zone's round trip is told anew when it has changed by more than this and by this part of what was told.
const TRIP_CHANGE_MICROS: u32 = 500;
const TRIP_CHANGE_PART: u32 = 4;

/// What the driver knows of the node and other threads do not.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// It is being emptied.
    pub draining: bool,
    /// It has no room for clients' writes.
    pub full: bool,
    /// Replicas here that still catch up.
    pub incoming: u32,
    /// Of those, the ones that hold nothing yet.
    pub joining: u32,
    /// Groups led here.
    pub leaders: u32,
}

/// What groups are here, and who leads them.
type Tables = (Arc<Table>, Arc<BTreeMap<GroupId, Leadership>>);

/// The node's end of the gossip.
pub struct Hearsay {
    gossip: Gossip,
    max_groups: usize,
    started: Instant,
    profile: Profile,
    load_at: Instant,
    /// The tables whose groups were told last.
    told: Option<Tables>,
    /// The last change of a descriptor that routes have taken in.
    revision: u64,
}

impl Hearsay {
    /// Begins to listen, as the node that says `identity` of itself.
    pub fn start(identity: &Identity, settings: Settings, seed: u64, now: Instant) -> Result<Self, StartError> {
        let profile = Profile {
            http_address: identity.http_address.clone(),
            zone: identity.zone.clone(),
            flags: Flags::default(),
            trips: Vec::new(),
        };
        let own = scatter_gossip::Identity::new(identity.node, identity.boot, &identity.peer_address);
        let max_groups = settings.max_groups;
        let gossip = Gossip::new(own, profile.clone(), settings, seed, now)?;
        Ok(Self { gossip, max_groups, started: now, profile, load_at: now, told: None, revision: 0 })
    }

    /// Somebody has said hello.
    pub fn met(&mut self, now: Instant, node: NodeId, address: &str) {
        self.gossip.meet(now, node, address);
    }

    /// A datagram of a peer.
    pub fn take(&mut self, now: Instant, from: NodeId, datagram: Bytes) {
        if let Err(error) = self.gossip.handle(now, from, datagram) {
            tracing::debug!(%from, %error, "gossip was not taken");
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        self.gossip.tick(now);
        self.gossip.events().for_each(drop);
    }

    /// When something is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.gossip.next_deadline()
    }

    /// What is to be sent.
    pub fn outgoing(&mut self) -> Vec<Outgoing> {
        self.gossip.outgoing().collect()
    }

    /// Says goodbye: the others need not find out.
    pub fn leave(&mut self, now: Instant) {
        self.gossip.leave(now);
    }

    /// Tells others what is new about this node and its groups, and readers here what was heard of other groups. `round_trips`
    /// says how far other nodes are.
    pub fn exchange(&mut self, now: Instant, serving: &Serving, own: Own, round_trips: &BTreeMap<NodeId, Duration>) {
        let mut flags = Flags::default();
        for (flag, set) in [(Flags::DRAINING, own.draining), (Flags::FULL, own.full)] {
            flags = if set { flags.with(flag) } else { flags };
        }
        let mut is_news = flags != self.profile.flags;
        self.profile.flags = flags;
        if now >= self.load_at {
            let trips = self.trips(round_trips);
            if have_changed(&self.profile.trips, &trips) {
                self.profile.trips = trips;
                is_news = true;
            }
        }
        if is_news && let Err(error) = self.gossip.set_profile(now, self.profile.clone()) {
            tracing::warn!(%error, "the node's profile is not told");
        }
        let tables = (serving.groups.load_full(), serving.leadership.load_full());
        let is_told = self
            .told
            .as_ref()
            .is_some_and(|(groups, leaders)| Arc::ptr_eq(groups, &tables.0) && Arc::ptr_eq(leaders, &tables.1));
        if !is_told {
            self.gossip.learn_descriptors(now, &serving.descriptors());
            self.told = Some(tables);
        }
        if now >= self.load_at {
            self.load_at = now.after(LOAD_EVERY);
            self.gossip.set_load(now, load(serving, own, now.since(self.started)));
        }
        let revision = self.gossip.descriptors_revision();
        if revision != self.revision {
            serving.learn_routes(self.gossip.descriptors_changed_since(self.revision));
            self.revision = revision;
        }
    }

    /// How far the zones of these nodes are.
    fn trips(&self, round_trips: &BTreeMap<NodeId, Duration>) -> Vec<ZoneTrip> {
        let mut zones: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        for node in self.gossip.nodes() {
            let zone = node.profile().map(|profile| profile.zone.as_str()).filter(|zone| !zone.is_empty());
            if let (Some(zone), Some(round_trip)) = (zone, round_trips.get(&node.identity().node)) {
                zones.entry(zone).or_default().push(*round_trip);
            }
        }
        let trip = |(zone, trips): (&str, Vec<Duration>)| {
            let mean = trips.iter().sum::<Duration>() / u32::try_from(trips.len()).unwrap_or(u32::MAX).max(1);
            ZoneTrip { zone: zone.to_owned(), micros: u32::try_from(mean.as_micros()).unwrap_or(u32::MAX) }
        };
        zones.into_iter().take(MAX_ZONES).map(trip).collect()
    }

    /// Whether the ring may soon be too large for gossip to tell of all its groups.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.gossip.group_count() >= self.max_groups.div_ceil(2)
    }

    /// What gossip has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.gossip.counters()
    }

    /// What is known of all nodes, for policies.
    #[must_use]
    pub fn node_hints(&self, capacity: u64) -> Vec<NodeHint> {
        self.gossip.node_hints(capacity)
    }

    /// Whether a node lives, as far as is heard, and is not about to be emptied.
    #[must_use]
    pub fn is_usable(&self, node: NodeId) -> bool {
        self.gossip.node(node).is_some_and(|known| info(known).state == NodeState::Alive)
    }

    /// What is known of all nodes, for people and clients.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeInfo> {
        self.gossip.nodes().map(info).collect()
    }
}

/// Whether others should hear how far zones are now.
fn have_changed(told: &[ZoneTrip], now: &[ZoneTrip]) -> bool {
    let has_changed = |(told, now): (&ZoneTrip, &ZoneTrip)| {
        let much = TRIP_CHANGE_MICROS.max(told.micros / TRIP_CHANGE_PART);
        told.zone != now.zone || told.micros.abs_diff(now.micros) > much
    };
    told.len() != now.len() || told.iter().zip(now).any(has_changed)
}

fn info(node: &scatter_gossip::Node) -> NodeInfo {
    let profile = node.profile();
    let draining = profile.is_some_and(|profile| profile.flags.has(Flags::DRAINING));
    let empty = node.load().is_some_and(|(load, _)| load.replicas == 0);
    NodeInfo {
        node: node.identity().node,
        peer_address: node.identity().address.to_string(),
        http_address: profile.map(|profile| profile.http_address.clone()).unwrap_or_default(),
        zone: profile.map(|profile| profile.zone.clone()).unwrap_or_default(),
        state: match node.state() {
            State::Alive if draining && empty => NodeState::Drained,
            State::Alive if draining => NodeState::Draining,
            State::Alive => NodeState::Alive,
            State::Suspect => NodeState::Suspect,
            State::Down => NodeState::Dead,
        },
        replicas: Vec::new(),
    }
}

fn load(serving: &Serving, own: Own, uptime: Duration) -> Load {
    let groups = serving.groups.load();
    let sum = |read: fn(&crate::serving::Figures) -> &std::sync::atomic::AtomicU64| {
        groups.iter().map(|served| read(&served.figures).load(Ordering::Relaxed)).sum::<u64>()
    };
    let replicas = groups.iter().len() + own.joining as usize;
    Load {
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        incoming: own.incoming,
        leaders: own.leaders,
        bytes: sum(|figures| &figures.bytes),
        operations_per_second: sum(|figures| &figures.per_second),
        free_disk_bytes: serving.store.free_bytes().unwrap_or(0),
        uptime_seconds: uptime.as_secs(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trips(of: &[(&str, u32)]) -> Vec<ZoneTrip> {
        of.iter().map(|(zone, micros)| ZoneTrip { zone: (*zone).to_owned(), micros: *micros }).collect()
    }

    #[test]
    fn round_trips_are_told_anew_when_they_have_changed_much() {
        let told = trips(&[("a", 300), ("b", 40_000)]);
        for (now, changed) in [
            (trips(&[("a", 700), ("b", 49_000)]), false),
            (trips(&[("a", 900), ("b", 40_000)]), true),
            (trips(&[("a", 300), ("b", 29_000)]), true),
            (trips(&[("a", 300)]), true),
            (trips(&[("a", 300), ("c", 40_000)]), true),
        ] {
            assert_eq!(have_changed(&told, &now), changed, "{now:?}");
        }
    }
}
