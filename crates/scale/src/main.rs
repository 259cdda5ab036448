//! `scatter-scale`: how routing and policies do on a large ring.
//!
//! One process models 100,000 groups and more: groups as descriptors with links, nodes as hosts, no Paxos and no network.
//! What decides is the core's own code, [`scatter_core::ring::routing`] and [`scatter_core::policy`], over virtual time.
//! The same seed gives the same figures.
//!
//! ```text
//! world      nodes in zones, groups on the ring, members by chance in distinct zones
//! lookups    far links filled by asking; hops of look-ups: cold, warm, with stale links
//! traffic    messages and bytes per node and second, from the real encodings and stated rates
//! memory     bytes per node, counted by the allocator around the real structures
//! repair     a tenth of the nodes vanishes; ticks until every group has its target size again
//! report     tables and a plot, into the documentation with --write
//! ```

mod allocator;
mod lookups;
mod memory;
mod plot;
mod repair;
mod report;
#[cfg(test)]
mod tests;
mod traffic;
mod world;

use clap::Parser;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use world::Shape;

/// Models routing and policies of a large ring, from one seed.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// How many groups.
    #[arg(long, default_value_t = 100_000)]
    groups: usize,
    /// How many nodes.
    #[arg(long, default_value_t = 10_000)]
    nodes: usize,
    /// How many zones the nodes are in.
    #[arg(long, default_value_t = 10)]
    zones: usize,
    /// How many members a group has.
    #[arg(long, default_value_t = 5)]
    size: usize,
    /// What all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The largest ring of the look-up curve.
    #[arg(long, default_value_t = 1_000_000)]
    largest: usize,
    /// Write tables and plot into the documentation.
    #[arg(long)]
    write: bool,
    /// Where the documentation is.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let shape = Shape {
        groups: arguments.groups,
        nodes: arguments.nodes,
        zones: arguments.zones,
        size: arguments.size,
        seed: arguments.seed,
    };
    if let Err(error) = shape.check() {
        return failed(&error);
    }
    progress("traffic and memory");
    let traffic = traffic::run(&shape);
    // Before the others, since the allocator counts for all threads.
    let memory = memory::run(&shape);
    progress("look-ups and repair");
    let (lookups, repair) = std::thread::scope(|scope| {
        let lookups = scope.spawn(|| lookups::run(&shape, arguments.largest));
        let repair = repair::run(&shape);
        (lookups.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), repair)
    });
    let findings = report::Findings { shape, largest: arguments.largest, lookups, traffic, memory, repair };
    let section = report::section(&findings);
    if writeln!(std::io::stdout(), "{section}").is_err() {
        return ExitCode::FAILURE;
    }
    if arguments.write {
        let plot = plot::draw(&findings);
        if let Err(error) = report::SECTION.write(&arguments.docs, &section, &plot) {
            return failed(&error);
        }
    }
    ExitCode::SUCCESS
}

/// Tells what is being done, on the terminal's other stream.
fn progress(what: &str) {
    // Nobody may be reading; the figures come on the standard output.
    let _ = writeln!(std::io::stderr(), "scale: {what}");
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    progress(&error.to_string());
    ExitCode::FAILURE
}
