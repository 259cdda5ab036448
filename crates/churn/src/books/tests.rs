use super::*;
use scatter_sim::history::Guard;

const KEY: KeyIndex = 0;

fn put(invoked: Time, value: ValueId, end: End) -> Operation {
    let request = Request::Single(KEY, Guard::Always, Change::Put { value, expires: false });
    Operation { client: 1, invoked, request, end }
}

fn written(at: Time, version: VersionNumber, created: bool) -> End {
    End::Answered(at, Response::Written { version, created })
}

fn read(invoked: Time, found: Option<(VersionNumber, ValueId)>) -> Operation {
    let response = found.map_or(Response::Absent, |(version, value)| Response::Value { version, value });
    Operation { client: 9, invoked, request: Request::Read(KEY), end: End::Answered(invoked + 1, response) }
}

#[test]
fn a_key_is_used_closed_and_followed_by_another() {
    let books = Books::new(1, 2, 10);
    assert_eq!(books.begin(0), Turn::Use(0, None));
    books.note(0, put(1, 1, written(2, 7, true)));
    assert_eq!(books.begin(0), Turn::Use(0, Some(7)));
    assert_eq!(books.begin(0), Turn::Wait, "all turns are taken and none has ended");
    books.end(0);
    books.end(0);
    assert_eq!(books.begin(0), Turn::Close(0));
    assert_eq!(books.begin(0), Turn::Wait, "somebody is closing it");
    books.give_up(0);
    assert_eq!(books.begin(0), Turn::Close(0));
    books.close(0, read(3, Some((7, 1))));
    assert_eq!(books.begin(0), Turn::Use(1, None));
    let judged = books.judged();
    assert_eq!((judged.keys, judged.operations, judged.violated), (1, 2, 0));
}

#[test]
fn a_lost_write_is_a_violation() {
    let books = Books::new(1, 1, 10);
    books.begin(0);
    books.note(0, put(1, 1, written(2, 7, true)));
    books.end(0);
    books.begin(0);
    books.close(0, read(3, None));
    let judged = books.judged();
    assert_eq!(judged.violated, 1);
    assert!(judged.violations[0].contains("key 0"), "{:?}", judged.violations);
}

/// Whether a read much later, which found this, goes with what remained.
fn is_sound(history: &[Operation], last: &Operation, found: Option<(VersionNumber, ValueId)>) -> bool {
    let books = Books::new(1, 1, 1);
    let mut rest = remaining(history, last);
    rest.push(read(1_000, found));
    books.judge(KEY, &rest);
    books.judged().violated == 0
}

#[test]
fn what_remains_of_a_history_explains_what_may_still_be_seen_and_nothing_else() {
    let history = [
        put(1, 1, written(2, 5, true)),
        put(3, 2, End::Unknown),
        put(4, 3, End::Unknown),
        put(5, 4, End::NotApplied),
        read(6, Some((6, 2))),
    ];
    let last = read(8, Some((6, 2)));
    assert_eq!(remaining(&history, &last).len(), 2, "the value that is there, and the write that nobody saw");
    assert!(is_sound(&history, &last, Some((6, 2))), "nothing has happened");
    assert!(is_sound(&history, &last, Some((7, 3))), "the open write came late");
    assert!(!is_sound(&history, &last, None), "it is lost");
    assert!(!is_sound(&history, &last, Some((5, 1))), "an old value is back");
    assert!(!is_sound(&history, &last, Some((9, 2))), "a write happened again");
    assert!(!is_sound(&history, &last, Some((9, 4))), "a refused write happened");
    assert!(!is_sound(&history, &last, Some((5, 3))), "an open write came before the last one that was seen");
}

#[test]
fn a_key_that_was_absent_stays_so_unless_a_write_is_open() {
    let delete =
        |end| Operation { client: 1, invoked: 3, request: Request::Single(KEY, Guard::Always, Change::Delete), end };
    let deleted = delete(End::Answered(4, Response::Deleted { version: 0 }));
    let history = [put(1, 1, written(2, 5, true)), deleted];
    assert!(is_sound(&history, &read(5, None), None));
    assert!(!is_sound(&history, &read(5, None), Some((5, 1))));
    let history = [put(1, 1, written(2, 5, true)), delete(End::Unknown)];
    let last = read(5, Some((5, 1)));
    assert!(is_sound(&history, &last, None), "the open delete came late");
    assert!(is_sound(&history, &last, Some((5, 1))));
}

#[test]
fn too_many_kept_keys_make_room_oldest_first() {
    let books = Books::new(1, 1, 1);
    for key in 0..3 {
        assert_eq!(books.begin(0), Turn::Use(key, None));
        books.end(0);
        assert_eq!(books.begin(0), Turn::Close(key));
        let last = Operation { request: Request::Read(key), ..read(1, None) };
        books.close(0, last);
    }
    let first = books.overdue().expect("three are too many");
    assert_eq!(first.key, 0);
    books.put_back(first);
    assert_eq!(books.overdue().map(|kept| kept.key), Some(0));
    assert_eq!(books.overdue().map(|kept| kept.key), Some(1));
    assert_eq!(books.overdue(), None);
    assert_eq!(books.drain().len(), 2, "one is kept and one in use");
}
