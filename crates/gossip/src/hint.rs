//! What a node tells of itself.

use crate::identity::{Identity, MAX_ADDRESS_BYTES};
use bytes::{Bytes, BytesMut};
use scatter_core::codec::{Decode, DecodeError, Encode};
use scatter_core::codec_struct;
use scatter_core::types::NodeId;

/// The longest name of a zone, in bytes.
pub const MAX_ZONE_BYTES: usize = 128;

/// State flags of a node. Those that a version does not know are passed on as they are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Flags(pub u32);

impl Flags {
    /// The node gives up what it hosts.
    pub const DRAINING: Self = Self(1);
    /// The node has no room for clients' writes.
    pub const FULL: Self = Self(1 << 1);

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These and those.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

impl Encode for Flags {
    fn encode(&self, out: &mut BytesMut) {
        self.0.encode(out);
    }
}

impl Decode for Flags {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        u32::decode(from).map(Self)
    }
}

/// The most zones of which a profile tells how far they are.
pub const MAX_ZONES: usize = 16;

/// How far a zone is from a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneTrip {
    /// The zone; at most [`MAX_ZONE_BYTES`].
    pub zone: String,
    /// The mean round trip to its nodes, in microseconds.
    pub micros: u32,
}

codec_struct!(ZoneTrip { zone, micros });

/// What seldom changes about a node. A change is news and travels at once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Profile {
    /// Where it serves HTTP; at most [`MAX_ADDRESS_BYTES`].
    pub http_address: String,
    /// Its zone; at most [`MAX_ZONE_BYTES`].
    pub zone: String,
    /// Its state.
    pub flags: Flags,
    /// How far zones are from it, as far as it knows; at most [`MAX_ZONES`]. Told anew when it has changed much.
    pub trips: Vec<ZoneTrip>,
}

/// The plain fields, decoded before they are checked.
struct ProfileBody {
    http_address: String,
    zone: String,
    flags: Flags,
    trips: Vec<ZoneTrip>,
}

codec_struct!(ProfileBody { http_address, zone, flags, trips });

impl Profile {
    /// Whether the texts are within their limits.
    pub fn check(&self) -> Result<(), DecodeError> {
        let within = |what, length, limit| {
            if length > limit { Err(DecodeError::TooLong { what, length, limit }) } else { Ok(()) }
        };
        within("HTTP address", self.http_address.len(), MAX_ADDRESS_BYTES)?;
        within("zones", self.trips.len(), MAX_ZONES)?;
        let zones = self.trips.iter().map(|trip| &trip.zone).chain([&self.zone]);
        zones.into_iter().try_for_each(|zone| within("zone", zone.len(), MAX_ZONE_BYTES))
    }
}

impl Encode for Profile {
    fn encode(&self, out: &mut BytesMut) {
        self.http_address.encode(out);
        self.zone.encode(out);
        self.flags.encode(out);
        self.trips.encode(out);
    }
}

impl Decode for Profile {
    fn decode(from: &mut Bytes) -> Result<Self, DecodeError> {
        let ProfileBody { http_address, zone, flags, trips } = Decode::decode(from)?;
        let profile = Self { http_address, zone, flags, trips };
        profile.check().map(|()| profile)
    }
}

/// A profile with its version: the boot that told it, and a count within that boot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The boot.
    pub boot: u64,
    /// Rises with every change.
    pub revision: u32,
    /// What was told.
    pub profile: Profile,
}

codec_struct!(Told { boot, revision, profile });

impl Told {
    /// Whether this is newer than `known`.
    #[must_use]
    pub fn is_newer(&self, known: Option<&Self>) -> bool {
        known.is_none_or(|known| (self.boot, self.revision) > (known.boot, known.revision))
    }
}

/// How busy a node is. Changes all the time; old figures reach others a little later, in larger clusters later still.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// Replicas hosted.
    pub replicas: u32,
    /// Of those, the ones that still catch up.
    pub incoming: u32,
    /// Groups led.
    pub leaders: u32,
    /// Bytes of user data held, all replicas together.
    pub bytes: u64,
    /// Operations served each second.
    pub operations_per_second: u64,
    /// Bytes that the disk has left.
    pub free_disk_bytes: u64,
    /// For how many seconds the process has run.
    pub uptime_seconds: u64,
}

codec_struct!(Load { replicas, incoming, leaders, bytes, operations_per_second, free_disk_bytes, uptime_seconds });

/// One node's load with its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LoadReport {
    pub(crate) node: NodeId,
    pub(crate) boot: u64,
    /// Rises with every change within a boot.
    pub(crate) revision: u32,
    pub(crate) load: Load,
}

codec_struct!(LoadReport { node, boot, revision, load });

/// What one node tells another of a third: how it lives, and what it told of itself last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeNews {
    pub(crate) identity: Identity,
    /// The membership protocol's count of denied suspicions.
    pub(crate) incarnation: u16,
    /// For how many milliseconds it has been down; `None` if it lives.
    pub(crate) down_ms: Option<u64>,
    pub(crate) told: Option<Told>,
}

codec_struct!(NodeNews { identity, incarnation, down_ms, told });
