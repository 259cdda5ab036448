use super::model::{Cell, State};
use super::*;
use crate::history::{Guard, Time};
use crate::random::Random;

fn put(key: KeyIndex, value: ValueId) -> Request {
    Request::Single(key, Guard::Always, Change::Put { value, expires: false })
}

fn at(invoked: Time, returned: Time, request: Request, response: Response) -> Operation {
    Operation { client: 0, invoked, request, end: End::Answered(returned, response) }
}

fn unknown(invoked: Time, request: Request) -> Operation {
    Operation { client: 0, invoked, request, end: End::Unknown }
}

fn written(version: VersionNumber, created: bool) -> Response {
    Response::Written { version, created }
}

fn value(version: VersionNumber, value: ValueId) -> Response {
    Response::Value { version, value }
}

#[test]
fn one_after_the_other_is_fine() {
    check(&[
        at(0, 1, Request::Read(0), Response::Absent),
        at(2, 3, put(0, 7), written(10, true)),
        at(4, 5, Request::Read(0), value(10, 7)),
        at(6, 7, Request::Single(0, Guard::Always, Change::Delete), Response::Deleted { version: 12 }),
        at(8, 9, Request::Read(0), Response::Absent),
        at(10, 11, Request::Single(0, Guard::Always, Change::Delete), Response::Absent),
    ])
    .unwrap();
}

#[test]
fn a_stale_read_is_found() {
    let stale = [
        at(0, 1, put(0, 7), written(10, true)),
        at(2, 3, put(0, 8), written(11, false)),
        at(4, 5, Request::Read(0), value(10, 7)),
    ];
    assert!(matches!(check(&stale), Err(Violation::NoOrder { .. })));
}

#[test]
fn a_read_beside_a_write_may_see_either() {
    for (version, seen) in [(10, 7), (11, 8)] {
        check(&[
            at(0, 1, put(0, 7), written(10, true)),
            at(2, 9, put(0, 8), written(11, false)),
            at(4, 5, Request::Read(0), value(version, seen)),
        ])
        .unwrap();
    }
}

#[test]
fn two_reads_never_go_back() {
    let back = [
        at(0, 1, put(0, 7), written(10, true)),
        at(2, 20, put(0, 8), written(11, false)),
        at(4, 5, Request::Read(0), value(11, 8)),
        at(6, 7, Request::Read(0), value(10, 7)),
    ];
    assert!(matches!(check(&back), Err(Violation::NoOrder { .. })));
}

#[test]
fn a_lost_write_is_found() {
    let lost = [at(0, 1, put(0, 7), written(10, true)), at(2, 3, Request::Read(0), Response::Absent)];
    assert!(matches!(check(&lost), Err(Violation::NoOrder { .. })));
}

#[test]
fn an_unknown_write_may_happen_late_or_never_but_not_be_undone() {
    check(&[unknown(0, put(0, 7)), at(2, 3, Request::Read(0), Response::Absent)]).unwrap();
    let late = [
        unknown(0, put(0, 7)),
        at(2, 3, Request::Read(0), Response::Absent),
        at(4, 5, put(0, 8), written(10, true)),
        at(6, 7, Request::Read(0), value(11, 7)),
    ];
    check(&late).unwrap();
    let undone =
        [unknown(0, put(0, 7)), at(2, 3, Request::Read(0), value(11, 7)), at(4, 5, Request::Read(0), Response::Absent)];
    assert!(check(&undone).is_err());
}

#[test]
fn an_unknown_delete_explains_one_absence() {
    let delete = Request::Single(0, Guard::Always, Change::Delete);
    let mut history = vec![
        at(0, 1, put(0, 7), written(10, true)),
        unknown(2, delete),
        at(4, 5, Request::Read(0), value(10, 7)),
        at(6, 7, Request::Read(0), Response::Absent),
    ];
    check(&history).unwrap();
    history.push(at(8, 9, put(0, 8), written(12, true)));
    history.push(at(10, 11, Request::Read(0), Response::Absent));
    assert!(check(&history).is_err());
}

#[test]
fn a_write_that_happened_twice_is_found() {
    let twice = [
        at(0, 1, put(0, 7), written(10, true)),
        at(2, 3, put(0, 8), written(11, false)),
        at(4, 5, Request::Read(0), value(12, 7)),
    ];
    assert!(matches!(check(&twice), Err(Violation::WrittenTwice { .. })));
}

#[test]
fn a_refused_write_must_not_show() {
    let refused = Operation { client: 0, invoked: 0, request: put(0, 7), end: End::NotApplied };
    let history = [refused, at(2, 3, Request::Read(0), value(10, 7))];
    assert!(matches!(check(&history), Err(Violation::RefusedButApplied { .. })));
}

#[test]
fn two_values_under_one_version_are_found() {
    let shared = [at(0, 1, put(0, 7), written(10, true)), at(0, 1, put(0, 8), written(10, false))];
    assert!(matches!(check(&shared), Err(Violation::TwoValues { .. })));
}

#[test]
fn phantoms_and_values_from_the_future_are_found() {
    assert!(matches!(check(&[at(0, 1, Request::Read(0), value(3, 4))]), Err(Violation::Phantom { .. })));
    let future = [at(0, 1, Request::Read(0), value(10, 7)), at(2, 3, put(0, 7), written(10, true))];
    assert!(matches!(check(&future), Err(Violation::Future { .. })));
}

#[test]
fn conditions_are_judged() {
    let swap = |version, value| Request::Single(0, Guard::VersionIs(version), Change::Put { value, expires: false });
    let first = at(0, 1, put(0, 7), written(10, true));
    check(&[first.clone(), at(2, 3, swap(10, 8), written(11, false))]).unwrap();
    let failed = Response::ConditionFailed { index: 0, current: Some(10) };
    check(&[first.clone(), at(2, 3, swap(9, 8), failed.clone())]).unwrap();
    assert!(check(&[first.clone(), at(2, 3, swap(10, 8), failed)]).is_err());
    assert!(check(&[first.clone(), at(2, 3, swap(9, 8), written(11, false))]).is_err());
    let create = Request::Single(0, Guard::Absent, Change::Put { value: 9, expires: false });
    assert!(check(&[first, at(2, 3, create, written(11, true))]).is_err());
}

#[test]
fn a_batch_is_all_or_nothing() {
    let put_change = |value| Change::Put { value, expires: false };
    let batch = Request::Batch { guards: vec![], changes: vec![(0, put_change(7)), (1, put_change(8))] };
    let whole = [
        at(0, 9, batch.clone(), Response::BatchWritten { versions: vec![10, 11] }),
        at(2, 3, Request::Read(0), value(10, 7)),
        at(4, 5, Request::Read(1), value(11, 8)),
    ];
    check(&whole).unwrap();
    let mut torn = whole.to_vec();
    torn[2] = at(4, 5, Request::Read(1), Response::Absent);
    assert!(check(&torn).is_err());
    torn[0] = unknown(0, batch);
    assert!(check(&torn).is_err());
}

#[test]
fn a_key_with_a_time_to_live_may_vanish_and_stays_gone() {
    let put = Request::Single(0, Guard::Always, Change::Put { value: 7, expires: true });
    let mut history = vec![
        at(0, 1, put, written(10, true)),
        at(2, 3, Request::Read(0), value(10, 7)),
        at(4, 5, Request::Read(0), Response::Absent),
    ];
    check(&history).unwrap();
    history.push(at(6, 7, Request::Read(0), value(10, 7)));
    assert!(check(&history).is_err());
}

/// A random history over two keys that a sequential store produced, with some answers lost; then, perhaps, spoilt.
fn random_history(random: &mut Random) -> Vec<Operation> {
    let count = 2 + random.index(6);
    let mut times: Vec<(Time, Time, Time)> = (0..count)
        .map(|_| {
            let invoked = random.below(60) * 3;
            let point = invoked + 1 + random.below(20);
            (point, invoked, point + 1 + random.below(20))
        })
        .collect();
    times.sort_unstable();
    let mut cells: [Option<(VersionNumber, ValueId)>; 2] = [None; 2];
    let mut stamp = 100;
    let mut history = Vec::new();
    for (nth, (_, invoked, returned)) in times.into_iter().enumerate() {
        let request = random_request(random, nth as ValueId + 1, stamp);
        let response = random_answer(&request, &mut cells, &mut stamp);
        let end = if random.permille(300) { End::Unknown } else { End::Answered(returned, response) };
        history.push(Operation { client: nth as u32, invoked, request, end });
    }
    for _ in 0..random.below(5) {
        spoil(random, &mut history);
    }
    history
}

fn random_request(random: &mut Random, value: ValueId, stamp: VersionNumber) -> Request {
    let key = random.below(2) as KeyIndex;
    let guard = match random.below(6) {
        0 => Guard::VersionIs(stamp),
        1 => Guard::Exists,
        2 => Guard::Absent,
        _ => Guard::Always,
    };
    let change =
        if random.permille(300) { Change::Delete } else { Change::Put { value, expires: random.permille(200) } };
    match random.below(10) {
        0..4 => Request::Read(key),
        4..9 => Request::Single(key, guard, change),
        _ => Request::Batch { guards: vec![(key, guard)], changes: vec![(1 - key, change)] },
    }
}

/// Does the request to the model store; the answer it gives.
fn random_answer(
    request: &Request,
    cells: &mut [Option<(VersionNumber, ValueId)>; 2],
    stamp: &mut VersionNumber,
) -> Response {
    let holds = |cell: Option<(VersionNumber, ValueId)>, guard: &Guard| match guard {
        Guard::Always => true,
        Guard::VersionIs(version) => cell.is_some_and(|(current, _)| current == *version),
        Guard::Exists => cell.is_some(),
        Guard::Absent => cell.is_none(),
    };
    let guards = match request {
        Request::Read(key) => {
            return cells[*key as usize]
                .map_or(Response::Absent, |(version, value)| Response::Value { version, value });
        }
        Request::Single(key, guard, _) => vec![(*key, *guard)],
        Request::Batch { guards, .. } => guards.clone(),
    };
    for (index, (key, guard)) in guards.iter().enumerate() {
        let cell = cells[*key as usize];
        if !holds(cell, guard) {
            return Response::ConditionFailed { index: index as u32, current: cell.map(|(version, _)| version) };
        }
    }
    let mut versions = Vec::new();
    let mut single = Response::Absent;
    for (key, change) in request.changes() {
        let cell = &mut cells[key as usize];
        *stamp += 2;
        versions.push(*stamp);
        match change {
            Change::Put { value, .. } => {
                single = Response::Written { version: *stamp, created: cell.is_none() };
                *cell = Some((*stamp, value));
            }
            Change::Delete => {
                if cell.take().is_some() {
                    single = Response::Deleted { version: *stamp };
                }
            }
        }
    }
    if matches!(request, Request::Batch { .. }) { Response::BatchWritten { versions } } else { single }
}

fn spoil(random: &mut Random, history: &mut [Operation]) {
    let seen: Vec<Response> = history
        .iter()
        .filter_map(|operation| operation.response().filter(|_| operation.request.is_read()).cloned())
        .collect();
    let victim = random.index(history.len());
    let other = random.index(history.len());
    let later = history[other].clone();
    let operation = &mut history[victim];
    match (&mut operation.end, random.below(4)) {
        (End::Answered(returned, _), 3) if operation.invoked < later.invoked => {
            operation.invoked = later.invoked;
            *returned = later.returned().min(later.invoked + 9);
        }
        (End::Answered(_, response), 0) if operation.request.is_read() && !seen.is_empty() => {
            *response = random.pick(&seen).clone();
        }
        (End::Answered(_, Response::Written { created, .. }), 1) => *created = !*created,
        (End::Answered(..), 2) => operation.end = End::Unknown,
        (End::Answered(..), _) => {}
        (End::Unknown, _) => operation.invoked += 20,
        (End::NotApplied, _) => {}
    }
}

/// Every order of every subset that holds the required operations; no cleverness.
fn brute_force(history: &[Operation]) -> bool {
    let Ok(facts) = Facts::gather(history) else { return false };
    let steps: Vec<(bool, Time, Time, model::Step)> = history
        .iter()
        .filter_map(|operation| {
            let required = matches!(operation.end, End::Answered(..));
            if !required && operation.request.is_read() {
                return None;
            }
            let step = model::Step {
                request: operation.request.clone(),
                response: operation.response().cloned(),
                versions: search::versions_of(operation, &facts),
            };
            Some((required, operation.invoked, operation.returned(), step))
        })
        .collect();
    fn extend(steps: &[(bool, Time, Time, model::Step)], placed: &mut Vec<bool>, state: &State) -> bool {
        let waiting = |placed: &[bool], index: usize| !placed[index];
        let open: Vec<usize> = (0..steps.len()).filter(|index| waiting(placed, *index)).collect();
        if open.iter().all(|index| !steps[*index].0) {
            return true;
        }
        for index in &open {
            let earliest = open.iter().filter(|other| *other != index).map(|other| steps[*other].2).min();
            if earliest.is_some_and(|earliest| steps[*index].1 >= earliest) {
                continue;
            }
            placed[*index] = true;
            if steps[*index].3.outcomes(state).iter().any(|next| extend(steps, placed, next)) {
                return true;
            }
            placed[*index] = false;
        }
        false
    }
    extend(&steps, &mut vec![false; steps.len()], &vec![Cell::default(); 2])
}

#[test]
fn the_search_agrees_with_brute_force() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..30_000 {
        let history = random_history(&mut Random::new(seed));
        let expected = brute_force(&history);
        let found = check(&history);
        assert_eq!(
            found.is_ok(),
            expected,
            "seed {seed}: {found:?}\n{}",
            history.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        );
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 2_000 && bad > 2_000, "{good} good and {bad} bad histories are no test");
}

#[test]
fn a_long_history_with_many_unknown_outcomes_is_quick() {
    let mut random = Random::new(3);
    let mut history = Vec::new();
    let (mut version, mut current) = (100, None);
    for nth in 0..3_000u64 {
        let invoked = nth * 10;
        match random.below(10) {
            0 => history.push(unknown(invoked, put(0, 100_000 + nth))),
            1 => {
                let delete = Request::Single(0, Guard::Always, Change::Delete);
                history.push(unknown(invoked, delete));
            }
            2..5 => {
                version += 10;
                history.push(at(invoked, invoked + 25, put(0, nth + 1), written(version, current.is_none())));
                current = Some((version, nth + 1));
            }
            _ => {
                let answer = current.map_or(Response::Absent, |(version, seen)| value(version, seen));
                history.push(at(invoked + 25, invoked + 29, Request::Read(0), answer));
            }
        }
    }
    check(&history).unwrap();
}

#[test]
fn what_is_known_of_unanswered_writes_narrows_the_orders() {
    let seen = at(2, 3, Request::Read(0), value(10, 7));
    let history = [unknown(0, put(0, 7)), unknown(0, put(0, 8)), seen, at(4, 5, Request::Read(0), value(10, 7))];
    check_knowing(&history, &[(0, 10, 7)]).unwrap();
    // The second write was carried out before what was read, or after it all; never under the version of the first.
    check_knowing(&history, &[(0, 9, 8), (0, 10, 7)]).unwrap();
    check_knowing(&history, &[(0, 10, 7), (0, 11, 8)]).unwrap();
    assert!(matches!(check_knowing(&history, &[(0, 10, 8)]), Err(Violation::TwoValues { .. })));
    // Absence is explained by a write that never happened, not by one that did before.
    let gone = [at(0, 1, put(0, 8), written(9, true)), at(2, 3, Request::Read(0), Response::Absent)];
    assert!(check_knowing(&gone, &[(0, 9, 8)]).is_err());
}
