//! The generator against a real server: the floor.

use std::net::TcpListener;
use std::time::Duration;

use scatter_bench::load::{self, Length, Plan, Target};
use scatter_bench::workload::Workload;
use scatter_bench::{floor, probe};

#[test]
fn filled_keys_can_be_read_and_only_those() {
    let listen = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    std::thread::spawn(move || floor::serve(listen));
    while !probe::get(listen, "/readyz", Duration::from_secs(1)).is_ok_and(|(status, _)| status == 200) {
        std::thread::yield_now();
    }
    let mut plan = Plan {
        target: Target::Http(vec![listen]),
        connections: 8,
        threads: 2,
        workload: Workload { keys: 500, value_bytes: 100_000, put_percent: 0 },
        length: Length::EachOnce,
        deadline: Duration::from_secs(60),
        moments: false,
        among: None,
    };
    let filled = load::start(plan.clone()).unwrap().finish().unwrap().summary(Duration::from_secs(1));
    assert_eq!((filled.operations(), filled.failures()), (500, 0));

    plan.length = Length::Timed { warm_up: Duration::ZERO, duration: Duration::from_secs(600) };
    let running = load::start(plan.clone()).unwrap();
    while running.progress() < 1_000 {
        std::thread::yield_now();
    }
    running.cancel();
    let read = running.finish().unwrap().summary(Duration::from_secs(1));
    assert_eq!(read.failures(), 0, "{:?}", read.errors);
    assert!(read.put.is_none() && read.get.is_some_and(|get| get.operations >= 1_000));

    plan.workload.keys = 1_000;
    let running = load::start(plan).unwrap();
    while running.failed() == 0 {
        std::thread::yield_now();
    }
    running.cancel();
    let missing = running.finish().unwrap().summary(Duration::from_secs(1));
    assert_eq!(missing.errors.into_keys().collect::<Vec<_>>(), ["status 404"]);
}
