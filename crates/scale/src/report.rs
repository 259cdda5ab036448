//! Tables for the documentation.

use crate::lookups::{HINTS, Hops, Lookups, TABLE};
use crate::memory::Part;
use crate::repair::{self, Repair};
use crate::traffic::{self, Traffic};
use crate::world::Shape;
use scatter_core::policy::Settings;
use scatter_figure::document::Section;
use std::collections::BTreeSet;
use std::fmt::Write;

/// Where it goes.
pub(crate) const SECTION: Section = Section { name: "scale" };

/// All that was found.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    pub(crate) shape: Shape,
    pub(crate) largest: usize,
    pub(crate) lookups: Lookups,
    pub(crate) traffic: Traffic,
    pub(crate) memory: Vec<Part>,
    pub(crate) repair: Repair,
}

/// A number with its thousands set apart.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The generated section, without its markers. Writing to a string cannot fail.
pub(crate) fn section(findings: &Findings) -> String {
    let mut out = String::new();
    let Findings { shape, largest, .. } = findings;
    let _ = writeln!(
        out,
        "Made by `cargo run --release -p scatter-scale -- --groups {} --nodes {} --zones {} --size {} --seed {} --largest {largest} \
         --write`\n(or `make scale` for the defaults): {} groups of {} on {} nodes in {} zones, each node hosting {} replicas and \
         leading {} groups.\n\n![hops over the size of the ring, and repair over time]({})\n",
        shape.groups,
        shape.nodes,
        shape.zones,
        shape.size,
        shape.seed,
        grouped(shape.groups),
        shape.size,
        grouped(shape.nodes),
        shape.zones,
        shape.groups * shape.size / shape.nodes,
        shape.groups / shape.nodes,
        SECTION.figure(),
    );
    lookups(&mut out, &findings.lookups);
    traffic(&mut out, &findings.traffic);
    memory(&mut out, &findings.memory);
    repair(&mut out, findings);
    out.trim_end().to_owned()
}

fn hops(hops: &Hops) -> String {
    format!("{:.2} / {} / {}", hops.mean, hops.p99, hops.most)
}

fn lookups(out: &mut String, lookups: &Lookups) {
    let _ = writeln!(
        out,
        "### Look-ups\n\nHops are groups asked until the owner answers, itself included: mean / 99th percentile / most of 20,000 \
         look-ups at random\npositions. Cold: nothing is cached; an answer carries the successor and {HINTS} more links. \"Split\": \
         one group in ten has just split,\nand nobody but its neighbours knows.\n\n\
         | groups | far links each | rounds to fill them | who knows one group | a node | a node, split |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for ring in &lookups.rings {
        let _ = writeln!(
            out,
            "| {} | {:.1} | {} | {} | {} | {} |",
            grouped(ring.groups),
            ring.links_per_group,
            ring.rounds,
            hops(&ring.stranger),
            hops(&ring.node),
            hops(&ring.stale)
        );
    }
    let _ = writeln!(
        out,
        "\nWith a table of {} groups at most (least recently used go first), fed by its own look-ups or by gossip:\n\n\
         | case | owner known | hops |\n| --- | ---: | ---: |",
        grouped(TABLE)
    );
    for cached in &lookups.cached {
        let _ = writeln!(out, "| {} | {:.1} % | {} |", cached.name, cached.hit_permille / 10.0, hops(&cached.hops));
    }
}

fn traffic(out: &mut String, found: &Traffic) {
    let _ = writeln!(
        out,
        "\n### Messages and bytes that a node sends\n\nNothing else going on. A descriptor takes {:.0} bytes (measured), an \
         envelope {}, a node's word about its load {} (assumed).\nEach group asks its successor, and for one level of far links, every {} s, and changes \
         members, leader or arc every {} s (assumed). Nodes are probed every\n{} s and tell of their load every {} s; each passes such \
         news on 4 log10(n + 1) times, as memberlist does. On this many nodes that is\nthe greatest cost by far; descriptors \
         are not gossiped on a ring of this size.\n\n\
         | | messages/s | bytes/s |\n| --- | ---: | ---: |",
        found.descriptor_bytes,
        traffic::ENVELOPE_BYTES,
        traffic::HINT_BYTES,
        traffic::LINK_INTERVAL_SECONDS,
        traffic::CHANGE_INTERVAL_SECONDS,
        traffic::PROBE_INTERVAL_SECONDS,
        repair::HINT_TICKS,
    );
    let (mut messages, mut bytes) = (0.0, 0.0);
    for flow in &found.flows {
        messages += flow.messages_per_second;
        bytes += flow.bytes_per_second;
        let _ = writeln!(out, "| {} | {:.2} | {:.0} |", flow.name, flow.messages_per_second, flow.bytes_per_second);
    }
    let _ = writeln!(out, "| together | {messages:.2} | {bytes:.0} |");
}

fn memory(out: &mut String, parts: &[Part]) {
    let _ = writeln!(
        out,
        "\n### Memory of a node\n\nCounted by the allocator around the structures, nothing shared between them.\n\n| | KiB |\n| --- | ---: |"
    );
    for part in parts {
        let _ = writeln!(out, "| {} | {} |", part.name, grouped(part.bytes / 1024));
    }
    let total: usize = parts.iter().map(|part| part.bytes).sum();
    let _ = writeln!(out, "| together | {} |", grouped(total / 1024));
}

fn repair(out: &mut String, findings: &Findings) {
    let (repair, settings) = (&findings.repair, Settings::default());
    let all = repair.all_seconds.map_or_else(|| "not within the limit".to_owned(), |at| format!("{at:.0} s"));
    let _ = writeln!(
        out,
        "\n### A tenth of the nodes vanishes\n\nAfter {} s in which the policies even out a placement made by chance, {} nodes vanish at \
         once and for good. Leaders decide\nevery {} s, knowing their own node exactly and others as they were up to {} s ago; \
         settings are the defaults, but for the size: a member is\nreplaced after {} s of being dead, the leaders on a node start {} \
         operations in {} s, a node takes in {} replicas at once and refuses more. A\ndeath is known after {} s; a group holds {} MiB; \
         a node takes in {} MiB/s.\n\n| | |\n| --- | ---: |\n\
         | groups below the target size that have a majority | {} |\n\
         | nothing may be replaced before | {:.0} s |\n\
         | half of them whole again | {:.0} s |\n\
         | 99 % | {:.0} s |\n\
         | all | {all} |\n\
         | replicas built until then | {} |\n\
         | groups with two members in one zone, at the end | {} |\n\
         | replicas on a node before: mean / 99th percentile / most | {} |\n\
         | at the end | {} |\n\
         | leaders on a node before | {} |\n\
         | at the end | {} |\n\
         | groups without a majority (until their nodes return) | {} |",
        repair::BEFORE.as_secs(),
        grouped(repair.vanished),
        repair::DECIDE_TICKS,
        repair::HINT_TICKS,
        settings.replace_dead_after.as_secs(),
        settings.operations_per_node,
        settings.budget_window.as_secs(),
        settings.max_incoming_per_node,
        repair::DETECTION.as_secs(),
        repair::GROUP_BYTES >> 20,
        repair::CATCH_UP_BYTES_PER_SECOND >> 20,
        grouped(repair.short),
        (settings.replace_dead_after + repair::DETECTION).as_secs_f64(),
        repair.half_seconds,
        repair.most_seconds,
        grouped(repair.replicas_rebuilt),
        grouped(repair.zones_shared),
        hops(&repair.placed.0),
        hops(&repair.replicas),
        hops(&repair.placed.1),
        hops(&repair.leaders),
        grouped(repair.without_majority),
    );
    orders(out, repair);
    let _ = writeln!(
        out,
        "\nOf a draw of groups of other sizes on the same nodes, so many lost their majority at once; and so many the formula that the \
         policies\nshow says:\n\n| members | lost | formula |\n| ---: | ---: | ---: |"
    );
    for lost in &repair.losses {
        let _ = writeln!(out, "| {} | {:.3} % | {:.3} % |", lost.size, lost.found * 100.0, lost.expected * 100.0);
    }
}

fn orders(out: &mut String, repair: &Repair) {
    let _ = writeln!(
        out,
        "\nOrders by reason:\n\n| reason | before | until whole | the {} s after |\n| --- | ---: | ---: | ---: |",
        repair::AFTERMATH.as_secs()
    );
    let names: BTreeSet<&str> = repair.orders.iter().flat_map(|orders| orders.keys().copied()).collect();
    for name in names {
        let counts = repair.orders.each_ref().map(|orders| grouped(orders.get(name).copied().unwrap_or(0)));
        let _ = writeln!(out, "| `{name}` | {} |", counts.join(" | "));
    }
    let refused = repair.refused.map(grouped).join(" | ");
    let _ = writeln!(out, "| of these refused by a node that took in enough, and tried elsewhere later | {refused} |");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
