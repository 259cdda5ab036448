//! One seed from beginning to end: faults and load, healing, progress, convergence, and the judgement of the history.

use crate::history::Time;
use crate::invariants::{Broken, Checked, require};
use crate::linearizability;
use crate::nemesis::steps::Blow;
use crate::plan::{MILLISECOND, Plan, Profile, SECOND};
use crate::world::{Event, World};
use scatter_core::group::{Configuration, Role, kv};
use scatter_core::store::Store;
use scatter_core::time::nanos;
use scatter_core::types::{GroupId, Slot};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How long after healing everybody may take to make progress: groups that wait for each other, each until its dead members are replaced one
/// after the other, have been seen to take 43 seconds.
const PROGRESS_BOUND: Time = 90 * SECOND;
/// How long replicas may take to become equal after that.
const CONVERGENCE_BOUND: Time = 30 * SECOND;

/// What a run was like.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// Its weather.
    pub profile: Profile,
    /// How many events happened.
    pub events: u64,
    /// Virtual time it took.
    pub time: Time,
    /// Client operations.
    pub operations: usize,
    /// Of these, answered.
    pub answered: usize,
    /// Crashes that were placed at a step of an operation.
    pub struck: Vec<Blow>,
    /// Tells runs apart.
    pub digest: u64,
    /// What went wrong, if anything.
    pub failure: Option<String>,
    /// The number of the invariant that did not hold.
    pub invariant: Option<u32>,
    /// The whole story, if it was asked for.
    pub text: String,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the text of panics for the report instead of printing it. Call once per process.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        let ours = trace.lines().filter(|line| line.contains("/crates/core/")).take(8);
        let text = ours.fold(info.to_string(), |text, line| format!("{text}\n{line}"));
        PANIC.with_borrow_mut(|panic| *panic = Some(text));
    }));
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, profile: Option<Profile>, text: bool) -> Report {
    let plan = Plan::draw(seed, profile);
    let profile = plan.profile;
    let mut world = World::new(plan, text);
    let result = catch_unwind(AssertUnwindSafe(|| live(&mut world))).unwrap_or_else(|_| {
        let text = PANIC.with_borrow_mut(Option::take).unwrap_or_else(|| "a panic".to_owned());
        Err(Broken { number: 22, text })
    });
    let history = &world.workload.history;
    Report {
        seed,
        profile,
        events: world.trace.events(),
        time: world.now,
        operations: history.len(),
        answered: history.iter().filter(|operation| operation.response().is_some()).count(),
        struck: world.nemesis.struck.clone(),
        digest: world.trace.digest(),
        failure: result.as_ref().err().map(ToString::to_string),
        invariant: result.as_ref().err().map(|broken| broken.number),
        text: world.trace.text().to_owned(),
    }
}

fn live(world: &mut World) -> Checked {
    begin(world)?;
    world.run_until(world.plan.duration)?;
    world.heal()?;
    if world.nemesis.spoiled {
        // A founder that lost its disk during birth may leave a cluster that is never born, and that is as it should be.
        world.run_until(world.now + 20 * SECOND)?;
        if world.groups().is_empty() {
            return Ok(());
        }
    }
    world.calm_policies();
    progress(world)?;
    resize(world)?;
    quiesce(world)?;
    converge(world)?;
    look_around(world)?;
    judge(world)
}

fn begin(world: &mut World) -> Checked {
    if !world.plan.birth {
        world.found();
    }
    for host in 0..world.hosts.len() {
        if world.plan.birth && world.random.permille(400) {
            let late = world.random.below(3 * SECOND);
            world.at(late, Event::Undo(crate::nemesis::Undo::Start(host)));
        } else {
            world.start(host)?;
        }
    }
    for worker in 0..world.workload.workers() {
        let at = world.random.below(300 * MILLISECOND);
        world.at(at, Event::Worker(worker, 0));
    }
    let first = world.random.below(SECOND);
    world.at(first, Event::Nemesis);
    world.begin_lives();
    Ok(())
}

/// I20: after healing every session gets a write done in every group, and lost members are replaced.
fn progress(world: &mut World) -> Checked {
    world.workload.reset_progress();
    let end = world.now + PROGRESS_BOUND;
    while world.now < end {
        world.run_until(world.now + 500 * MILLISECOND)?;
        let groups = !world.groups().is_empty();
        if groups && world.has_progressed() && world.is_repaired() {
            return Ok(());
        }
        if world.plan.policies.is_none() {
            world.repair()?;
        }
    }
    let status = describe(world);
    Err(world.stuck(format!("no progress {PROGRESS_BOUND} ns after healing\n{status}")))
}

/// I36: after healing every group comes to its size, as far as there are nodes, by its own policy.
fn resize(world: &mut World) -> Checked {
    let end = world.now + PROGRESS_BOUND;
    while !world.is_at_size() {
        if world.now >= end {
            let status = describe(world);
            return Err(world.stuck(format!("groups do not come to their size in {PROGRESS_BOUND} ns\n{status}")));
        }
        world.run_until(world.now + 200 * MILLISECOND)?;
    }
    world.policies_rest = true;
    Ok(())
}

/// Clients stop.
fn quiesce(world: &mut World) -> Checked {
    world.workload.stopped = true;
    let end = world.now + 2 * world.plan.patience + 5 * SECOND;
    while world.now < end && !world.workload.is_idle() {
        world.run_until(world.now + 100 * MILLISECOND)?;
    }
    Ok(())
}

/// I20: all members come to hold the same.
fn converge(world: &mut World) -> Checked {
    let end = world.now + CONVERGENCE_BOUND;
    while world.now < end {
        world.run_until(world.now + 500 * MILLISECOND)?;
        if world.groups().iter().all(|group| equal_slot(world, *group).is_some()) && world.is_settled() {
            return Ok(());
        }
        // An order to merge that was given before may have made a lost node a learner after all were replaced.
        if world.plan.policies.is_none() && !world.is_repaired() {
            world.repair()?;
        }
    }
    let status = describe(world);
    Err(world.stuck(format!("replicas do not become equal\n{status}")))
}

/// I37: what leaders know of groups ahead comes to be true.
fn look_around(world: &mut World) -> Checked {
    let end = world.now + world.plan.longest_look();
    let turn = nanos(world.plan.config.look_around);
    while let Some(wrong) = world.misguided() {
        require(37, world.now < end, || format!("{wrong}\n{}", describe(world)))?;
        world.run_until(world.now + turn)?;
        // Something may have expired meanwhile.
        converge(world)?;
    }
    Ok(())
}

/// The slot that all members of a group have applied, if it is the same.
fn equal_slot(world: &World, group: GroupId) -> Option<Slot> {
    let configuration = world.observer.configuration(group)?;
    let mut slots = configuration.members.iter().map(|member| {
        let host = &world.hosts[*world.directory.get(&member.node)?];
        let process = host.process.as_ref().filter(|process| process.node.id() == member.node)?;
        process.stage.machine(group).map(|machine| machine.state().applied)
    });
    let first = slots.next()??;
    slots.all(|slot| slot == Some(first)).then_some(first)
}

fn describe(world: &World) -> String {
    let mut text = String::new();
    for (index, host) in world.hosts.iter().enumerate() {
        let Some(process) = &host.process else {
            text.push_str(&format!("host {index}: down\n"));
            continue;
        };
        let (record, problem) = (process.node.record(), process.node.birth_problem());
        let (inbox, work) = (process.inbox.len(), process.work.len());
        text.push_str(&format!(
            "host {index}: node {} boot {} cluster {:?} given up {} problem {problem:?} inbox {inbox} work {work}\n",
            record.node, record.boot, record.cluster, record.given_up,
        ));
        for status in process.node.status(host.clock.now(world.now)) {
            let name = status.replica;
            text.push_str(&format!(
                "    {}.{} {} of {:?} in {}, decided {} applied {} flushed {}, {}\n",
                name.group,
                name.incarnation,
                status.role,
                status.leader,
                status.ballot,
                status.decided,
                status.applied,
                status.flushed,
                members(status.configuration.as_ref()),
            ));
        }
    }
    for (index, host) in world.hosts.iter().enumerate() {
        let Some(process) = &host.process else { continue };
        let replicas: Vec<GroupId> = process.node.groups().collect();
        let left = process.stage.marks().into_iter().filter(|(group, _)| !replicas.contains(group));
        left.for_each(|(group, slot)| {
            text.push_str(&format!("host {index}: a machine of {group} at {slot} is left\n"))
        });
    }
    for group in world.mistaken() {
        text.push_str(&format!("group {group} does not know its neighbours as they are\n"));
    }
    for group in world.groups() {
        text.push_str(&format!(
            "group {group}: {}\n{}\n",
            members(world.observer.configuration(group)),
            world.observer.describe(group)
        ));
    }
    text
}

fn members(configuration: Option<&Configuration>) -> String {
    let Some(configuration) = configuration else { return "no configuration".to_owned() };
    let names = configuration.members.iter().map(|member| {
        let role = if member.role == Role::Voter { "" } else { "?" };
        format!("{}.{}{role}", member.node, member.incarnation)
    });
    format!("configuration {}: {}", configuration.version, names.collect::<Vec<_>>().join(" "))
}

/// What the clients heard must be what one store would have said.
fn judge(world: &mut World) -> Checked {
    let groups = world.groups();
    for group in groups {
        let Some(configuration) = world.observer.configuration(group).cloned() else { continue };
        let mut known = None;
        for member in &configuration.members {
            let Some(host) = world.directory.get(&member.node).copied() else { continue };
            let Some(process) = &world.hosts[host].process else { continue };
            let Some(machine) = process.stage.machine(group) else { continue };
            let print = match machine.full_fingerprint() {
                Ok(print) => print,
                Err(error) => return require(21, false, || format!("host {host}: {error}")),
            };
            let first = *known.get_or_insert(print);
            require(7, first == print, || format!("host {host} ends with other data than others of group {group}"))?;
            if first == print && known.is_some() {
                let view = world.hosts[host].disk.store.view();
                let tablets = machine.tablets().clone();
                let range = machine.state().range.clone();
                let keys: Vec<_> = world.workload.all_keys().collect();
                for key in keys {
                    if !range.contains(&crate::workload::key_of(key).position()) {
                        continue;
                    }
                    let found = kv::read(&view, &tablets, &crate::workload::key_of(key));
                    let Ok(found) = found else { continue };
                    let now = world.now;
                    world.workload.final_read(key, found, now);
                }
            }
        }
    }
    let history = &world.workload.history;
    let linear = linearizability::check_knowing(history, &world.applied_puts)
        .and_then(|()| linearizability::check_stale(history, &world.workload.stale));
    require(19, linear.is_ok(), || linear.err().map(|error| error.to_string()).unwrap_or_default())
}
