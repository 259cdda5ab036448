//! The search for an order of one component's operations.
//!
//! Depth first over (operations placed, state of the keys), each configuration visited once. What keeps it short:
//! - an answer that only looks and is right at this point is placed at once: looking later could not be easier for
//!   anybody else;
//! - changes with a known version are placed in the order of versions, and only after everybody who saw the version they
//!   replace;
//! - changes that nobody saw are tried last, and only where they make something possible that was not.

use super::model::{Cell, State, Step};
use super::{Facts, Violation};
use crate::history::{Change, End, KeyIndex, Operation, Request, Response, Time, VersionNumber};
use std::collections::HashSet;
use std::fmt::Write;
use xxhash_rust::xxh3::xxh3_128;

/// One operation, prepared.
struct Candidate {
    /// Its index in the whole history, for reports.
    source: usize,
    invoked: Time,
    returned: Time,
    step: Step,
    /// The known versions it makes: (key, version), rising within a key.
    makes: Vec<(KeyIndex, VersionNumber)>,
    /// The known version it sees without making it.
    sees: Option<(KeyIndex, VersionNumber)>,
    /// Whether it must be placed.
    required: bool,
}

/// A known version of a key.
struct Made {
    version: VersionNumber,
    by: usize,
    /// How many required operations saw it and are not placed yet.
    watchers: usize,
}

/// One level of the search.
struct Frame {
    choices: Vec<(usize, State)>,
    next: usize,
    placed: usize,
}

struct Search {
    candidates: Vec<Candidate>,
    /// Per key, known versions rising.
    made: Vec<Vec<Made>>,
    /// Per key, how many of those are placed.
    cursor: Vec<usize>,
    placed: Vec<bool>,
    /// Required operations by time of invocation; all before `head` are placed.
    required: Vec<usize>,
    head: usize,
    /// The other operations.
    optional: Vec<usize>,
    remaining: usize,
    /// Order-free digest of the set of placed operations.
    digest: u128,
    visited: HashSet<u128>,
}

/// Searches the component of `keys`.
pub(super) fn check(history: &[Operation], keys: &[KeyIndex], facts: &Facts, limit: usize) -> Result<(), Violation> {
    let mut search = Search::new(history, keys, facts);
    let mut best = (usize::MAX, vec![Cell::default(); keys.len()]);
    match search.run(keys.len(), limit, &mut best) {
        Some(true) => Ok(()),
        Some(false) => Err(Violation::NoOrder {
            keys: keys.to_vec(),
            done: search.candidates.len() - best.0,
            stuck: search.describe(history, keys, &best.1),
        }),
        None => Err(Violation::GivenUp { keys: keys.to_vec(), limit, stuck: search.describe(history, keys, &best.1) }),
    }
}

impl Search {
    fn new(history: &[Operation], keys: &[KeyIndex], facts: &Facts) -> Self {
        let local = |key: KeyIndex| keys.binary_search(&key).ok().map(|index| index as KeyIndex);
        let mut candidates: Vec<Candidate> = history
            .iter()
            .enumerate()
            .filter(|(_, operation)| operation.request.keys().first().is_some_and(|key| local(*key).is_some()))
            .filter_map(|(source, operation)| prepare(source, operation, &local, facts))
            .collect();
        candidates.sort_by_key(|candidate| (candidate.invoked, candidate.source));
        let mut made: Vec<Vec<Made>> = keys.iter().map(|_| Vec::new()).collect();
        for (by, candidate) in candidates.iter().enumerate() {
            for (key, version) in &candidate.makes {
                made[*key as usize].push(Made { version: *version, by, watchers: 0 });
            }
        }
        for versions in &mut made {
            versions.sort_by_key(|made| made.version);
        }
        let (required, optional) = (0..candidates.len()).partition::<Vec<_>, _>(|index| candidates[*index].required);
        let mut search = Self {
            placed: vec![false; candidates.len()],
            remaining: required.len(),
            required,
            head: 0,
            optional,
            cursor: vec![0; keys.len()],
            candidates,
            made,
            digest: 0,
            visited: HashSet::new(),
        };
        for index in 0..search.candidates.len() {
            search.watch(index, true);
        }
        search
    }

    /// Counts operation `index` in or out among those that must still see its version.
    fn watch(&mut self, index: usize, waiting: bool) {
        if let Some((key, version)) = self.candidates[index].sees {
            let versions = &mut self.made[key as usize];
            if let Ok(at) = versions.binary_search_by_key(&version, |made| made.version) {
                versions[at].watchers = if waiting { versions[at].watchers + 1 } else { versions[at].watchers - 1 };
            }
        }
    }

    /// `Some(whether an order exists)`, or `None` if the limit was reached.
    fn run(&mut self, keys: usize, limit: usize, best: &mut (usize, State)) -> Option<bool> {
        let mut state = vec![Cell::default(); keys];
        let mut stack: Vec<Frame> = Vec::new();
        loop {
            if self.remaining == 0 {
                return Some(true);
            }
            if self.visited.len() > limit {
                return None;
            }
            if self.remaining < best.0 {
                *best = (self.remaining, state.clone());
            }
            stack.push(Frame { choices: self.choices(&state), next: 0, placed: usize::MAX });
            state = loop {
                let Some(frame) = stack.last_mut() else { return Some(false) };
                if frame.placed != usize::MAX {
                    let placed = std::mem::replace(&mut frame.placed, usize::MAX);
                    self.place(placed, false);
                }
                let Some((index, next)) = frame.choices.get(frame.next).cloned() else {
                    stack.pop();
                    continue;
                };
                frame.next += 1;
                frame.placed = index;
                self.place(index, true);
                if self.visited.insert(self.digest ^ digest_of(&next)) {
                    break next;
                }
            };
        }
    }

    /// Places operation `index`, or takes it back.
    fn place(&mut self, index: usize, on: bool) {
        self.placed[index] = on;
        self.digest ^= xxh3_128(&(index as u64).to_le_bytes());
        self.watch(index, !on);
        let candidate = &self.candidates[index];
        if candidate.required {
            self.remaining = if on { self.remaining - 1 } else { self.remaining + 1 };
            let at = self.required.partition_point(|other| *other < index);
            self.head = if on { self.head } else { self.head.min(at) };
            while on && self.required.get(self.head).is_some_and(|next| self.placed[*next]) {
                self.head += 1;
            }
        }
        for (key, _) in &candidate.makes {
            let cursor = &mut self.cursor[*key as usize];
            *cursor = if on { *cursor + 1 } else { *cursor - 1 };
        }
    }

    /// Operations that real time allows next: invoked before any required one that is not placed has returned.
    fn open(&self) -> Vec<usize> {
        let mut earliest = Time::MAX;
        let mut open = Vec::new();
        for index in &self.required[self.head..] {
            let candidate = &self.candidates[*index];
            if candidate.invoked >= earliest {
                break;
            }
            if !self.placed[*index] {
                earliest = earliest.min(candidate.returned);
                open.push(*index);
            }
        }
        let free = self.optional.iter().filter(|index| !self.placed[**index]);
        open.extend(free.take_while(|index| self.candidates[**index].invoked < earliest));
        open
    }

    /// Whether the known versions that `index` makes are next in line and nobody still has to see what they replace.
    fn in_line(&self, index: usize, state: &State) -> bool {
        let candidate = &self.candidates[index];
        let mut nth = 0;
        candidate.makes.iter().enumerate().all(|(position, (key, _))| {
            nth = if position > 0 && candidate.makes[position - 1].0 == *key { nth + 1 } else { 0 };
            let versions = &self.made[*key as usize];
            versions.get(self.cursor[*key as usize] + nth).is_some_and(|made| made.by == index)
        }) && candidate
            .step
            .request
            .changes()
            .iter()
            .all(|(key, _)| self.seen_enough(*key, &state[*key as usize], index))
    }

    /// Whether everybody but `index` itself who saw the version in `cell` is placed.
    fn seen_enough(&self, key: KeyIndex, cell: &Cell, index: usize) -> bool {
        if !cell.present || cell.version == 0 || self.candidates[index].step.only_looks() {
            return true;
        }
        let versions = &self.made[key as usize];
        versions.binary_search_by_key(&cell.version, |made| made.version).map_or(true, |at| versions[at].watchers == 0)
    }

    fn outcomes(&self, index: usize, state: &State) -> Vec<State> {
        if self.in_line(index, state) { self.candidates[index].step.outcomes(state) } else { Vec::new() }
    }

    /// What may be placed next in `state`, the likeliest first.
    fn choices(&self, state: &State) -> Vec<(usize, State)> {
        let open = self.open();
        let (mut known, mut unseen, mut blocked) = (Vec::new(), Vec::new(), Vec::new());
        for index in open {
            let candidate = &self.candidates[index];
            if !candidate.required && candidate.makes.is_empty() {
                unseen.push(index);
                continue;
            }
            let outcomes = self.outcomes(index, state);
            if candidate.step.only_looks() && outcomes.iter().any(|next| next == state) {
                return vec![(index, state.clone())];
            }
            if outcomes.is_empty() {
                blocked.push(index);
            }
            known.push((candidate.returned, index, outcomes));
        }
        known.sort_by_key(|(returned, index, _)| (*returned, *index));
        let mut choices: Vec<(usize, State)> = known
            .into_iter()
            .flat_map(|(_, index, outcomes)| outcomes.into_iter().map(move |next| (index, next)))
            .collect();
        let mut tried: Vec<&Request> = Vec::new();
        for index in &unseen {
            let request = &self.candidates[*index].step.request;
            if tried.iter().any(|other| alike(other, request)) {
                continue;
            }
            tried.push(request);
            for next in self.outcomes(*index, state) {
                if self.helps(*index, state, &next, &blocked, &unseen) {
                    choices.push((*index, next));
                }
            }
        }
        choices
    }

    /// Whether placing the unseen operation `index` at this very point can help: it makes something possible that was
    /// not. A batch may also be needed before a key that it only looks at changes.
    fn helps(&self, index: usize, state: &State, next: &State, blocked: &[usize], unseen: &[usize]) -> bool {
        matches!(self.candidates[index].step.request, Request::Batch { .. })
            || blocked.iter().any(|other| !self.outcomes(*other, next).is_empty())
            || unseen.iter().any(|other| {
                *other != index && self.outcomes(*other, state).is_empty() && !self.outcomes(*other, next).is_empty()
            })
    }

    /// What the best attempt was stuck at.
    fn describe(&mut self, history: &[Operation], keys: &[KeyIndex], state: &State) -> String {
        let mut text = String::new();
        for (key, cell) in keys.iter().zip(state) {
            let _ = writeln!(text, "  key {key}: {cell:?}");
        }
        // The search has taken everything back, so what is listed is every operation on the keys around the place.
        let floor: Vec<VersionNumber> = state.iter().map(|cell| cell.version.max(cell.floor)).collect();
        for candidate in &self.candidates {
            let near = candidate.step.request.keys().iter().any(|key| {
                let mentioned = candidate
                    .makes
                    .iter()
                    .chain(&candidate.sees)
                    .any(|(_, version)| version.abs_diff(floor[*key as usize]) < 2_000_000);
                mentioned || (candidate.makes.is_empty() && candidate.sees.is_none())
            });
            if near && text.len() < 20_000 {
                let _ = writeln!(text, "  {}", history[candidate.source]);
            }
        }
        text
    }
}

/// Whether two unseen operations do the same but for values nobody ever sees.
fn alike(a: &Request, b: &Request) -> bool {
    match (a, b) {
        (Request::Single(a, guard_a, change_a), Request::Single(b, guard_b, change_b)) => {
            a == b
                && guard_a == guard_b
                && match (change_a, change_b) {
                    (Change::Put { expires: a, .. }, Change::Put { expires: b, .. }) => a == b,
                    (Change::Delete, Change::Delete) => true,
                    (Change::Put { .. }, Change::Delete) | (Change::Delete, Change::Put { .. }) => false,
                }
        }
        _ => false,
    }
}

fn digest_of(state: &State) -> u128 {
    let mut bytes = Vec::with_capacity(state.len() * 26);
    for cell in state {
        bytes.extend_from_slice(&cell.version.to_le_bytes());
        bytes.extend_from_slice(&cell.floor.to_le_bytes());
        bytes.extend_from_slice(&cell.value.to_le_bytes());
        bytes.push(u8::from(cell.present) | u8::from(cell.expires) << 1);
    }
    xxh3_128(&bytes)
}

/// Turns an operation into a candidate; `None` for what constrains nothing.
fn prepare(
    source: usize,
    operation: &Operation,
    local: &dyn Fn(KeyIndex) -> Option<KeyIndex>,
    facts: &Facts,
) -> Option<Candidate> {
    let required = match operation.end {
        End::Answered(..) => true,
        End::Unknown if operation.request.is_read() => return None,
        End::Unknown => false,
        End::NotApplied => return None,
    };
    let versions = versions_of(operation, facts);
    let mut changes = operation.request.changes().into_iter().zip(&versions);
    let never = changes.any(|((_, change), version)| matches!(change, Change::Put { .. }) && *version == 0);
    if !required && facts.complete && never {
        return None;
    }
    let request = localised(&operation.request, local)?;
    let response = operation.response().cloned();
    let step = Step { request, response, versions };
    let mut makes: Vec<(KeyIndex, VersionNumber)> = Vec::new();
    if !step.only_looks() {
        let changes = step.request.changes();
        makes.extend(changes.iter().zip(&step.versions).filter(|(_, v)| **v != 0).map(|((key, _), v)| (*key, *v)));
        makes.sort_by_key(|(key, _)| *key);
    }
    let sees = match (&step.response, &step.request) {
        (Some(Response::Value { version, .. }), Request::Read(key)) => Some((*key, *version)),
        (Some(Response::ConditionFailed { current: Some(version), .. }), Request::Single(key, ..)) => {
            Some((*key, *version))
        }
        (Some(Response::ConditionFailed { index, current: Some(version) }), Request::Batch { guards, .. }) => {
            guards.get(*index as usize).map(|(key, _)| (*key, *version))
        }
        _ => None,
    };
    Some(Candidate { source, invoked: operation.invoked, returned: operation.returned(), step, makes, sees, required })
}

/// The version that each change made, 0 where nobody saw it.
pub(super) fn versions_of(operation: &Operation, facts: &Facts) -> Vec<VersionNumber> {
    match operation.response() {
        Some(Response::Written { version, .. } | Response::Deleted { version }) => vec![*version],
        Some(Response::BatchWritten { versions }) => versions.clone(),
        _ => operation
            .request
            .changes()
            .iter()
            .map(|(key, change)| match change {
                Change::Put { value, .. } => facts.versions.get(&(*key, *value)).copied().unwrap_or(0),
                Change::Delete => 0,
            })
            .collect(),
    }
}

fn localised(request: &Request, local: &dyn Fn(KeyIndex) -> Option<KeyIndex>) -> Option<Request> {
    Some(match request {
        Request::Read(key) => Request::Read(local(*key)?),
        Request::Single(key, guard, change) => Request::Single(local(*key)?, *guard, *change),
        Request::Batch { guards, changes } => Request::Batch {
            guards: guards.iter().map(|(key, guard)| Some((local(*key)?, *guard))).collect::<Option<_>>()?,
            changes: changes.iter().map(|(key, change)| Some((local(*key)?, *change))).collect::<Option<_>>()?,
        },
    })
}
