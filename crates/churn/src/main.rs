//! `scatter-churn`: churn, for real.
//!
//! A cluster of real processes serves clients through its gateway while nodes are killed (`kill -9`) at the ends of lives drawn
//! from a heavy-tailed distribution, others with empty disks come in their place, and groups split, merge, shift their
//! boundaries, swap members and hand over on order. What the clients were told is judged all the while by the simulator's
//! own checker. At the end the churn stops, the ring comes to rest, and every key is read once more.
//!
//! ```text
//! fleet      nodes are killed and come; mercy for groups that could not spare one
//! missing    how long the dead stay voters
//! orders     reshaping at random; members that are dead are replaced, if the nodes' policies are not to
//! client     one of many: reads, puts, deletes and conditional writes, each within a time limit
//! books      what was asked and heard, by key; judged and forgotten piece by piece
//! timeline   availability, latencies, nodes and groups by second
//! report     table, JSON, documentation and verdict; plot draws the figure
//! ```

mod books;
mod client;
mod events;
mod fleet;
mod interrupt;
mod lifetime;
mod missing;
mod options;
mod orders;
mod plot;
mod report;
mod ring;
mod timeline;

use books::Books;
use clap::Parser;
use client::{Client, Shared};
use events::Events;
use fleet::Fleet;
use options::{Options, Replace};
use orders::Orders;
use report::Findings;
use scatter_figure::document::WriteError;
use scatter_sim::random::Random;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use timeline::Timeline;

const PROGRAMS: [&str; 3] = ["scatter-node", "scatter-gateway", "scatter-admin"];
const TICK: Duration = Duration::from_millis(50);
const SAMPLE: Duration = Duration::from_secs(1);
/// How many samples lie between two lines for whoever watches.
const SHOWN: u64 = 10;

/// Why a run did not begin or its report is not there.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Options(&'static str),
    #[error("{} is not there; `make churn` builds it, or --programs says where it is", .0.display())]
    Program(PathBuf),
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("the documentation was not written: {0}")]
    Documentation(#[from] WriteError),
}

fn main() -> ExitCode {
    let options = Options::parse();
    interrupt::listen();
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody may be reading.
            let _ = writeln!(io::stderr(), "churn: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs, reports, and returns whether all was well.
fn run(options: &Options) -> Result<bool, Error> {
    if let Some(problem) = options.problem() {
        return Err(Error::Options(problem));
    }
    scatter_e2e::programs::take_from(programs(options)?);
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::Io { path, error }
    };
    std::fs::create_dir_all(&options.out).map_err(at(&options.out))?;
    let path = options.out.join("events.log");
    let events = Events::create(&path).map_err(at(&path))?;
    let mut random = Random::new(options.seed);
    let mut fleet = Fleet::start(options, &events, random.fork());
    events.show(&format!(
        "{} nodes are ready; their data and logs: {}",
        options.nodes,
        fleet.cluster.folder().display()
    ));
    let findings = churn(options, &events, &mut fleet, &mut random);
    let failures = findings.failures();
    fleet.cluster.keep_folder(options.keep || !failures.is_empty());

    let write = |name: &str, text: String| {
        let path = options.out.join(name);
        std::fs::write(&path, text).map_err(at(&path))
    };
    write("churn.json", format!("{:#}\n", report::json(options, &findings)))?;
    let figure = plot::draw(&findings.figures);
    write("churn.svg", figure.clone())?;
    let mut text = report::table(options, &findings);
    for detail in findings.details() {
        text.push_str(&format!("\n{detail}\n"));
    }
    text.push_str(&format!("\nreport, figure and events: {}\n", options.out.display()));
    for failure in &failures {
        text.push_str(&format!("FAILED: {failure}\n"));
    }
    if !failures.is_empty() {
        text.push_str(&format!("data and logs of the processes: {}\n", fleet.cluster.folder().display()));
    }
    // The files have it too.
    let _ = write!(io::stdout(), "{text}");
    // A run that was cut short is not the one that the command stands for.
    if options.write && failures.is_empty() && !interrupt::requested() {
        report::SECTION.write(&options.docs, &report::section(options, &findings), &figure)?;
    }
    Ok(failures.is_empty())
}

/// The folder of the programs to start.
fn programs(options: &Options) -> Result<PathBuf, Error> {
    let own = || std::env::current_exe().ok()?.parent().map(Path::to_owned);
    let folder = options.programs.clone().or_else(own).unwrap_or_default();
    match PROGRAMS.iter().map(|name| folder.join(name)).find(|path| !path.is_file()) {
        Some(missing) => Err(Error::Program(missing)),
        None => Ok(folder),
    }
}

/// Prepares the ring, lets clients, death and orders loose on it, and sees what is left.
fn churn(options: &Options, events: &Events, fleet: &mut Fleet<'_>, random: &mut Random) -> Findings {
    let orders = Orders::new(fleet.operator(), options, events);
    orders.prepare();
    let shared = Shared {
        books: Books::new(options.keys, options.turns_per_key, options.kept_keys),
        timeline: Timeline::new(options.duration),
        stop: AtomicBool::new(false),
        gateway: fleet.gateway(),
        value_bytes: options.value_bytes,
        pace: options.pace,
        odd: Mutex::default(),
    };
    // Replacing goes on for longer than disturbing.
    let repairs = Orders::new(fleet.operator(), options, events);
    let (seconds, rest) = std::thread::scope(|scope| {
        // What the others wait for must come even if this thread panics.
        let _stop = Stop { shared: &shared, orders: [&orders, &repairs] };
        for number in 0..options.clients {
            let (shared, random) = (&shared, random.fork());
            scope.spawn(move || Client::new(number, shared, random).run());
        }
        if options.replace == Replace::ByHand {
            scope.spawn(|| repairs.replace_the_dead());
        }
        if !options.order_every.is_zero() {
            let (orders, timeline, random) = (&orders, &shared.timeline, random.fork());
            scope.spawn(move || orders.disturb(random, timeline));
        }
        events.show("clients ask, nodes come and go");
        let seconds = come_and_go(options, events, fleet, &shared);
        shared.stop.store(true, Ordering::Relaxed);
        orders.stop();
        events.show("the churn is over");
        (seconds, come_to_rest(options, events, fleet, &shared.timeline))
    });
    let unread = read_everything(options, events, fleet, &shared);
    fleet.notice_ends();
    let mut tally = orders.tally();
    tally.extend(repairs.tally());
    Findings {
        figures: shared.timeline.finish(),
        seconds,
        nodes: fleet.counts.clone(),
        orders: tally,
        judged: shared.books.judged(),
        odd: shared.odd.into_inner().unwrap_or_else(PoisonError::into_inner),
        rest,
        unread,
    }
}

/// Stops everybody when dropped.
struct Stop<'a> {
    shared: &'a Shared,
    orders: [&'a Orders<'a>; 2],
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.orders.iter().for_each(|orders| orders.stop());
    }
}

/// The churn itself. Returns how many seconds it took.
fn come_and_go(options: &Options, events: &Events, fleet: &mut Fleet<'_>, shared: &Shared) -> f64 {
    let began = Instant::now();
    let (mut next, mut samples) = (began, 0_u64);
    fleet.let_die();
    while began.elapsed() < options.duration && !interrupt::requested() {
        fleet.tick(&shared.timeline);
        if Instant::now() >= next {
            next += SAMPLE;
            samples += 1;
            shared.timeline.sample(fleet.len(), fleet.look().map(|ring| ring.groups.len()));
            if samples.is_multiple_of(SHOWN) {
                events.show(&progress(fleet, shared));
            }
        }
        std::thread::sleep(TICK);
    }
    began.elapsed().as_secs_f64()
}

fn progress(fleet: &Fleet<'_>, shared: &Shared) -> String {
    let judged = shared.books.judged();
    format!(
        "{:.0} s: {} nodes, {} killed, {:.1} % answered lately, {} histories judged, {} violations",
        shared.timeline.seconds(),
        fleet.len(),
        fleet.counts.kills,
        shared.timeline.lately(SHOWN as usize),
        judged.keys,
        judged.violated
    )
}

/// Waits until the ring is at rest. Returns after how many seconds, or what it still had to do.
fn come_to_rest(options: &Options, events: &Events, fleet: &mut Fleet<'_>, timeline: &Timeline) -> Result<f64, String> {
    let began = Instant::now();
    fleet.let_live();
    loop {
        fleet.tick(timeline);
        let unrest = match fleet.look() {
            _ if !fleet.is_complete() => Some("a node is not ready".to_owned()),
            None => Some("the admin program does not show it".to_owned()),
            Some(ring) => ring.unrest(&events.alive(), options.group_size),
        };
        let seconds = began.elapsed().as_secs_f64();
        match unrest {
            None => {
                events.show(&format!("the ring is at rest after {seconds:.1} s"));
                return Ok(seconds);
            }
            Some(unrest) if began.elapsed() > options.patience => {
                events.show(&format!("the ring does not come to rest: {unrest}"));
                return Err(unrest);
            }
            Some(_) => std::thread::sleep(SAMPLE),
        }
    }
}

/// Reads every key once more, and judges. Returns how many were not answered for.
fn read_everything(options: &Options, events: &Events, fleet: &mut Fleet<'_>, shared: &Shared) -> u64 {
    let began = Instant::now();
    let mut client = Client::last(shared);
    let mut left = shared.books.drain();
    events.show(&format!("{} keys are read once more", left.len()));
    // Those without an answer wait for the others: a group that cannot serve must not hide that the rest can.
    while !left.is_empty() && began.elapsed() < options.patience {
        left.retain(|kept| {
            if began.elapsed() >= options.patience {
                return true;
            }
            let Some(read) = client.read_until_answered(kept.key, |_| true) else { return true };
            let mut history = kept.operations.clone();
            history.push(read);
            shared.books.judge(kept.key, &history);
            false
        });
        fleet.notice_ends();
    }
    left.iter().for_each(|kept| shared.books.judge(kept.key, &kept.operations));
    left.len() as u64
}
