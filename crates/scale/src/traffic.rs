//! Messages and bytes that a node sends to keep routing and hints fresh, with nothing else going on.
//!
//! Sizes are those of the core's encodings, plus [`ENVELOPE_BYTES`] for each message. How often things change and how gossip
//! spreads is assumed; the report states it.

use crate::world::{Shape, ring};
use scatter_core::codec::Encode;
use scatter_core::group::Descriptor;
use scatter_core::ops::messages::GroupMessage;
use scatter_core::policy::GroupLoad;

/// Frame, names of sender and receiver, checksum; IP and TCP headers of a message that shares its packet with others.
pub(crate) const ENVELOPE_BYTES: f64 = 64.0;
/// How often each group asks its successor, and for one level of far links.
pub(crate) const LINK_INTERVAL_SECONDS: f64 = 10.0;
/// How often a group's members, leader or arc change, so that both neighbours are told.
pub(crate) const CHANGE_INTERVAL_SECONDS: f64 = 600.0;
/// How often a node is probed (SWIM's protocol period).
pub(crate) const PROBE_INTERVAL_SECONDS: f64 = 1.0;
/// A node's word about its load: id, load, operations, replicas, leaders, newcomers, free disk. Its address, zone and age are told
/// when it joins.
pub(crate) const HINT_BYTES: f64 = 28.0;
/// Each node passes a rumour on `4 log10(n + 1)` times, as memberlist does.
const RETRANSMIT_FACTOR: f64 = 4.0;
/// What fits a packet.
const PACKET_BYTES: f64 = 1400.0;
/// How often a node tells of its load.
const HINT_INTERVAL_SECONDS: f64 = crate::repair::HINT_TICKS as f64;

/// One kind of traffic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) name: &'static str,
    pub(crate) messages_per_second: f64,
    pub(crate) bytes_per_second: f64,
}

/// A leader's question to another group, and its answer.
fn look_bytes(group: &Descriptor) -> f64 {
    let (level, load) = (0, Some(GroupLoad::default()));
    let look = GroupMessage::Look { level, range_version: group.range_version, load };
    let seen = GroupMessage::Seen { level, own: group.clone(), link: Some(group.clone()), load };
    (look.to_bytes().len() + seen.to_bytes().len()) as f64
}

/// What a node sends.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    pub(crate) flows: Vec<Flow>,
    pub(crate) descriptor_bytes: f64,
}

pub(crate) fn run(shape: &Shape) -> Traffic {
    let groups = ring(shape, 1000.min(shape.groups), shape.size);
    let descriptor_bytes =
        groups.iter().map(|group| group.to_bytes().len()).sum::<usize>() as f64 / groups.len() as f64;
    let led = shape.groups as f64 / shape.nodes as f64;
    let questions = 2.0 * led / LINK_INTERVAL_SECONDS;
    let far_links = Flow {
        name: "far links, and loads of neighbours",
        // A node asks for the groups that it leads, and answers as often.
        messages_per_second: 2.0 * questions,
        bytes_per_second: questions * (2.0 * ENVELOPE_BYTES + look_bytes(&groups[0])),
    };
    let changes = led / CHANGE_INTERVAL_SECONDS;
    let told = changes * 2.0 * shape.size as f64;
    let links = Flow {
        name: "links to neighbours",
        // To every member of both neighbours; their leaders acknowledge.
        messages_per_second: told + 2.0 * changes,
        bytes_per_second: told * (ENVELOPE_BYTES + descriptor_bytes) + 2.0 * changes * ENVELOPE_BYTES,
    };
    let probes = 1.0 / PROBE_INTERVAL_SECONDS;
    let swim = Flow {
        name: "probes (SWIM)",
        messages_per_second: 2.0 * probes,
        bytes_per_second: 2.0 * probes * ENVELOPE_BYTES,
    };
    let copies = RETRANSMIT_FACTOR * (shape.nodes as f64 + 1.0).log10();
    let bytes_per_round = shape.nodes as f64 * copies * HINT_BYTES;
    let hints = Flow {
        name: "word about load, in packets of 1,400 bytes",
        messages_per_second: bytes_per_round / HINT_INTERVAL_SECONDS / PACKET_BYTES,
        bytes_per_second: bytes_per_round / HINT_INTERVAL_SECONDS,
    };
    Traffic { flows: vec![far_links, links, swim, hints], descriptor_bytes }
}
