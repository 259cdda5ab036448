//! `scatterctl`: Scatter's command line. Data goes through a gateway, questions about the ring through the admin program.
//!
//! Data is on standard output, everything else on standard error. The exit code says what happened: see [`Exit`].

mod arguments;
mod bench;
mod data;
mod output;
mod remote;
mod reshape;
mod ring;

use arguments::{Arguments, Command};
use clap::{CommandFactory as _, Parser as _};
use output::Output;
use std::io::Write as _;
use std::process::ExitCode;

/// What a run of the program ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
enum Exit {
    /// Something failed in a way that no other code names.
    Error = 1,
    /// The command line does not make sense. (`clap` ends with it by itself.)
    Usage = 2,
    /// The key, group or node does not exist.
    NotFound = 3,
    /// A condition does not hold; nothing changed.
    ConditionFailed = 4,
    /// The write or the order may have happened, or may still.
    Unknown = 5,
    /// Nobody could serve the request in time; a write was not applied. Trying again may help.
    Unavailable = 6,
    /// The order conflicts with how the group is at the moment; nothing was done.
    Conflict = 7,
}

/// Why a command failed.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, text: text.into() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Error, error.to_string())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::from(error)),
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    // Nobody is left to tell if this fails too.
    let _ = writeln!(std::io::stderr(), "scatterctl: {}", failure.text);
    ExitCode::from(failure.exit as u8)
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let output = Output::new(arguments.output);
    let connections = &arguments.connections;
    match arguments.command {
        Command::Put(put) => data::put(&connections.gateway()?, &output, put).await,
        Command::Get(get) => data::get(&connections.gateway()?, &output, get).await,
        Command::Delete(delete) => data::delete(&connections.gateway()?, &output, delete).await,
        Command::Ring(ring) => ring::ring(&connections.admin()?, &output, ring).await,
        Command::Groups(groups) => ring::groups(&connections.admin()?, &output, groups).await,
        Command::Nodes => ring::nodes(&connections.admin()?, &output).await,
        Command::Lookup(lookup) => ring::lookup(&connections.admin()?, &output, lookup).await,
        Command::Split(split) => reshape::split(&connections.admin()?, &output, split).await,
        Command::Merge(merge) => reshape::merge(&connections.admin()?, &output, merge).await,
        Command::Repartition(shift) => reshape::repartition(&connections.admin()?, &output, shift).await,
        Command::Migrate(migrate) => reshape::migrate(&connections.admin()?, &output, migrate).await,
        Command::Drain(order) => ring::order_node(&connections.admin()?, &output, order, "drain").await,
        Command::Recover(order) => ring::recover(&connections.admin()?, &output, order).await,
        Command::Undrain(order) => ring::order_node(&connections.admin()?, &output, order, "undrain").await,
        Command::RemoveNode(order) => ring::order_node(&connections.admin()?, &output, order, "remove").await,
        Command::Operations => reshape::operations(&connections.admin()?, &output).await,
        Command::Members(members) => ring::members(&connections.admin()?, &output, members).await,
        Command::TransferLeader(transfer) => ring::transfer_leader(&connections.admin()?, &output, transfer).await,
        Command::Bench(bench) => bench::bench(connections, &output, bench).await,
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "scatterctl", &mut script);
            output.raw(&script)
        }
    }
}
