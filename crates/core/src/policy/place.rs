//! Choosing a node for a new replica.
//!
//! Of a few candidates drawn by chance, those in the zone with fewest other members come first; of these, the better of two
//! drawn by chance is taken (*the power of two choices*, Mitzenmacher 2001). Taking the best of all would send every group's
//! replica to the same node, since all leaders go by the same, slightly old hints.

use super::nodes::{NodeHint, below};
use super::roster::Roster;
use super::{Settings, Situation};
use crate::rng::Rng;

/// How much busier one of two candidates must be before that counts more than the number of its replicas.
const BUSIER_PERMILLE: u32 = 200;

/// What is wanted of the node.
#[derive(Clone, Default, Debug)]
pub(super) struct Place<'a> {
    /// The other members.
    pub(super) beside: Vec<&'a NodeHint>,
    /// Of whoever is replaced.
    pub(super) zone: Option<&'a str>,
    /// Whether the group lacks a member, and does not merely want a better one.
    pub(super) needed: bool,
}

impl Place<'_> {
    /// How many other members would fail together with `hint`.
    pub(super) fn crowd(&self, hint: &NodeHint) -> usize {
        self.beside.iter().filter(|other| other.shares_zone(hint)).count()
    }
}

/// How many replicas a node takes in at once for a group that lacks a member, or for one that merely wants a better one:
/// repairs do not wait for what can wait. The node itself refuses more, since leaders' hints about it are old.
#[must_use]
pub fn incoming_limit(settings: &Settings, needed: bool) -> u32 {
    if needed { settings.max_incoming_per_node } else { settings.max_incoming_per_node.div_ceil(2) }
}

/// Whether a replica of the group may be put on the node at all.
pub(super) fn may_host(situation: &Situation<'_>, roster: &Roster<'_>, hint: &NodeHint, needed: bool) -> bool {
    let Situation { group, settings, .. } = *situation;
    hint.usable()
        && !roster.has(hint.node)
        && hint.replicas < settings.max_replicas_per_node
        && hint.incoming < incoming_limit(settings, needed)
        && hint.free_disk_bytes >= settings.reserved_disk_bytes.saturating_add(group.load.bytes)
}

/// A node for the place, if one fits.
pub(super) fn pick<'a>(
    situation: &Situation<'a>,
    roster: &Roster<'_>,
    place: &Place<'_>,
    rng: &mut Rng,
    fits: impl Fn(&NodeHint) -> bool,
) -> Option<&'a NodeHint> {
    let settings = situation.settings;
    let fits = |hint: &NodeHint| may_host(situation, roster, hint, place.needed) && fits(hint);
    let mut found = situation.nodes.sample(settings.candidates, place.needed, rng, fits);
    if settings.switches.zones {
        let least = found.iter().map(|hint| place.crowd(hint)).min()?;
        found.retain(|hint| place.crowd(hint) == least);
        // Zones stay evenly filled if a place is filled again where it was lost.
        if let Some(zone) = place.zone.filter(|zone| found.iter().any(|hint| hint.zone == *zone)) {
            found.retain(|hint| hint.zone == zone);
        }
    }
    if found.is_empty() {
        return None;
    }
    let one = found.swap_remove(below(rng, found.len()));
    if found.is_empty() {
        return Some(one);
    }
    let other = found.swap_remove(below(rng, found.len()));
    Some(better(one, other))
}

/// As many nodes as are wanted and fit, each placed with regard to the ones before.
pub(super) fn pick_many<'a>(
    situation: &Situation<'a>,
    roster: &Roster<'_>,
    mut place: Place<'a>,
    wanted: usize,
    rng: &mut Rng,
) -> Vec<&'a NodeHint> {
    let mut picked: Vec<&'a NodeHint> = Vec::new();
    while picked.len() < wanted {
        let fits = |hint: &NodeHint| picked.iter().all(|other| other.node != hint.node);
        let Some(hint) = pick(situation, roster, &place, rng, fits) else { break };
        place.beside.push(hint);
        place.zone = None;
        picked.push(hint);
    }
    picked
}

/// The one with clearly less to do; else the one with clearly fewer replicas; else the older one, since of nodes whose
/// lifetimes are heavy-tailed the old ones live longest.
fn better<'a>(one: &'a NodeHint, other: &'a NodeHint) -> &'a NodeHint {
    let differ = |a: u32, b: u32, by: u32| a.abs_diff(b) > by;
    let ten_percent = one.replicas.max(other.replicas) / 10;
    let first = if differ(one.load_permille, other.load_permille, BUSIER_PERMILLE) {
        one.load_permille < other.load_permille
    } else if differ(one.replicas, other.replicas, ten_percent.max(1)) {
        one.replicas < other.replicas
    } else {
        (one.age, other.node) > (other.age, one.node)
    };
    if first { one } else { other }
}
