//! `scatter-bench`: loads Scatter, etcd and a bare HTTP server alike, and tells how they compare.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use scatter_bench::cluster::{Cluster, Programs, System};
use scatter_bench::load::{Length, Running};
use scatter_bench::measure::Summary;
use scatter_bench::options::{Command, CompareOptions, GapOptions, GroupsOptions, LoadOptions, Options};
use scatter_bench::report::Report;
use scatter_bench::{compare, floor, gap, groups, interrupt, load, machine, options, process, report};

fn main() -> ExitCode {
    let outcome = match Options::parse().command {
        Command::Load(options) => run_load(&options),
        Command::Compare(options) => run_compare(&options),
        Command::Gap(options) => run_gap(&options),
        Command::Groups(options) => run_groups(&options),
        Command::Floor { listen } => floor::serve(listen).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scatter-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_load(options: &LoadOptions) -> Result<(), Box<dyn Error>> {
    interrupt::listen()?;
    let plan = options.plan()?;
    let timed = match plan.length {
        Length::Timed { duration, .. } => Some(duration),
        Length::EachOnce => None,
    };
    let own = std::process::id();
    let started = Instant::now();
    let running = load::start(plan)?;
    let from = running.window().from;
    follow(&running, |now| now >= from)?;
    let before = (process::cpu_time_of(&options.pid)?, process::cpu_time(own)?);
    let until = timed.map_or(running.window().until, |duration| from + duration);
    follow(&running, |now| now >= until)?;
    let after = (process::cpu_time_of(&options.pid)?, process::cpu_time(own)?);
    let summary = running.finish()?.summary(timed.unwrap_or_else(|| started.elapsed()));
    let each = |used: Duration| used.as_secs_f64() * 1e6 / summary.operations().max(1) as f64;
    let server = (!options.pid.is_empty()).then(|| each(after.0.saturating_sub(before.0)));
    print_load(&summary, server, each(after.1.saturating_sub(before.1)), options.json)?;
    interrupt::check()?;
    if summary.operations() == 0 { Err("no operation succeeded".into()) } else { Ok(()) }
}

/// Tells the progress on stderr once a second until `through` or the run has ended.
fn follow(running: &Running, through: impl Fn(Instant) -> bool) -> Result<(), interrupt::Interrupted> {
    let (mut told, mut at) = (running.progress(), Instant::now());
    while !through(Instant::now()) && !running.is_finished() {
        std::thread::sleep(Duration::from_millis(5));
        let span = at.elapsed();
        if span >= Duration::from_secs(1) {
            let total = running.progress();
            let phase = if Instant::now() < running.window().from { "warm-up" } else { "measuring" };
            let rate = (total - told) as f64 / span.as_secs_f64();
            eprintln!("{phase}: {total} operations, {rate:.0}/s, {} failures", running.failed());
            (told, at) = (total, Instant::now());
        }
        if interrupt::requested() {
            break;
        }
    }
    Ok(())
}

fn print_load(summary: &Summary, server: Option<f64>, generator: f64, json: bool) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    if json {
        let value = serde_json::json!({
            "summary": summary, "server_cpu_us": server, "generator_cpu_us": generator,
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&value)?)?;
        return Ok(());
    }
    for (name, latency) in [("PUT", &summary.put), ("GET", &summary.get)] {
        let Some(latency) = latency else { continue };
        writeln!(
            out,
            "{name}: {:.0} ops/s, p50 {:.0} µs, p90 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs, max {:.0} µs ({} operations)",
            latency.operations_per_second,
            latency.p50_us,
            latency.p90_us,
            latency.p99_us,
            latency.p999_us,
            latency.max_us,
            latency.operations
        )?;
    }
    if let Some(server) = server {
        writeln!(out, "server CPU: {server:.1} µs per operation")?;
    }
    writeln!(out, "generator CPU: {generator:.1} µs per operation")?;
    writeln!(out, "failures: {} {:?}", summary.failures(), summary.errors)?;
    Ok(())
}

fn programs(etcd: &Path, scatter: Option<&Path>) -> Result<Programs, Box<dyn Error>> {
    let bench = std::env::current_exe()?;
    let beside = bench.parent().ok_or("this program lies in no folder")?.to_owned();
    Ok(Programs { etcd: etcd.to_owned(), scatter: scatter.map_or(beside, Path::to_owned), bench })
}

/// A folder for data and logs beside the binaries: all systems on one file system, and a real one.
fn work_folder(programs: &Programs, wanted: Option<&Path>) -> Result<tempfile::TempDir, Box<dyn Error>> {
    let beside = programs.bench.parent().ok_or("this program lies in no folder")?;
    let parent = wanted.unwrap_or(beside);
    Ok(tempfile::Builder::new().prefix("bench-data-").tempdir_in(parent)?)
}

fn run_compare(options: &CompareOptions) -> Result<(), Box<dyn Error>> {
    interrupt::listen()?;
    let settings = options.settings()?;
    let programs = programs(&options.etcd, options.binaries.as_deref())?;
    let folder = work_folder(&programs, options.work.as_deref())?;
    let command = options.made_by.clone().unwrap_or_else(options::command_line);
    let facts = machine::Facts::gather(command, options::describe(&settings), Some(&options.etcd), folder.path())?;
    let findings = compare::compare(&settings, &programs, folder.path())?;
    let report = Report { facts, runs: findings.runs, memory: findings.memory, gaps: findings.gaps };
    if let Some(path) = &options.json {
        serde_json::to_writer_pretty(File::create(path)?, &report)?;
    }
    let text = report.markdown();
    if let Some(path) = &options.write {
        machine::rewrite(path, machine::COMPARISON, &text)?;
        eprintln!("wrote {}", path.display());
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn run_gap(options: &GapOptions) -> Result<(), Box<dyn Error>> {
    interrupt::listen()?;
    let programs = programs(&options.etcd, options.binaries.as_deref())?;
    let folder = work_folder(&programs, options.work.as_deref())?;
    let mut found = Vec::new();
    for &system in options.systems.iter().filter(|system| **system != System::Floor) {
        let mut cluster = Cluster::start(system, &programs, &folder.path().join(system.to_string()))?;
        for &loss in &options.signal {
            found.extend(gap::trials(&mut cluster, loss, options.trials)?);
        }
    }
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
    } else {
        out.write_all(report::gap_table(&found).as_bytes())?;
    }
    Ok(())
}

fn run_groups(options: &GroupsOptions) -> Result<(), Box<dyn Error>> {
    interrupt::listen()?;
    let settings = options.settings()?;
    let programs = programs(Path::new("etcd"), options.binaries.as_deref())?;
    let folder = work_folder(&programs, options.work.as_deref())?;
    let command = options.made_by.clone().unwrap_or_else(options::command_line);
    let connections: Vec<String> = settings.connections.iter().map(usize::to_string).collect();
    let load = format!(
        "three nodes and a gateway; {} connections for the cost of an operation, 8 writers around a split or a merge, 4 around a \
         replacement, each a closed loop with 256-byte values through the gateway.",
        connections.join(" or ")
    );
    let facts = machine::Facts::gather(command, load, None, folder.path())?;
    let findings = groups::measure(&settings, &programs, folder.path())?;
    let report = groups::report::Report { facts, findings, load_after: machine::load_average() };
    if let Some(path) = &options.json {
        serde_json::to_writer_pretty(File::create(path)?, &report)?;
    }
    let text = report.markdown();
    if let Some(path) = &options.write {
        machine::rewrite(path, machine::GROUPS, &text)?;
        eprintln!("wrote {}", path.display());
    }
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}
