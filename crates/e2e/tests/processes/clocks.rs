//! Nodes whose wall clocks are wrong by hours.

use scatter_e2e::cluster::{BY_HAND, Cluster, get_patiently};
use scatter_e2e::http::{self, Request};
use scatter_e2e::operator::Operator;
use scatter_e2e::wait;
use scatter_e2e::workload::Workload;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Acknowledged writes, and answered reads, that show that a cluster works.
const ENOUGH: u64 = 40;

/// Stands before the C library and shifts the wall clock, and no other, by so many seconds.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long shift(void) {
    const char *text = getenv("WALL_SHIFT");
    return text ? atol(text) : 0;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += shift();
    return result;
}
"#;

/// Builds it; nothing where there is no C compiler.
fn shim(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("wall.c"), folder.join("wall.so"));
    std::fs::write(&source, SHIM).expect("a file");
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    if built.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    scatter_e2e::not_run("clocks that are wrong", "there is no C compiler to shift a clock with");
    None
}

fn put_for(to: std::net::SocketAddr, key: &str, ttl: &str) {
    wait::until_true("a write with a time to live", || {
        let path = format!("/v1/kv/{key}?ttl={ttl}");
        let request = Request::new("PUT", &path).with_body(b"x");
        request.ask(to).is_ok_and(|reply| matches!(reply.status, 200 | 201))
    });
}

#[test]
fn clocks_that_are_wrong_by_hours_harm_nobody() {
    let mut cluster = Cluster::prepare(3, &BY_HAND);
    let Some(library) = shim(cluster.folder()) else { return };
    for (node, hours) in cluster.nodes.iter_mut().zip([5, 0, -7]) {
        node.set_variable("LD_PRELOAD", &library.display().to_string());
        node.set_variable("WALL_SHIFT", &(hours * 3600).to_string());
    }
    cluster.start_nodes();
    cluster.wait_ready();
    let operator = Operator { admin: cluster.start_admin() };
    let addresses = cluster.addresses();
    let dated = |index: usize| {
        let reply = http::get(addresses[index], "/v1/status").expect("an answer");
        reply.header("date").map(str::to_owned)
    };
    assert_ne!(
        dated(0).map(|date| date[..19].to_owned()),
        dated(2).map(|date| date[..19].to_owned()),
        "no clock is wrong"
    );

    let workload = Workload::start(3, &addresses);
    put_for(addresses[1], "long", "1h");
    let group = operator.settled_with(1)[0].id.clone();
    // Each leads in turn, from the fastest to the slowest and back; on the way the ring is reshaped.
    for (turn, index) in [0, 2, 0, 1].into_iter().enumerate() {
        let id = cluster.nodes[index].id();
        wait::until_true("it leads", || {
            let _ = operator.try_order(&group, "transfer-leader", &format!(r#"{{"to":"{id}"}}"#));
            operator.groups().iter().any(|known| known.id == group && known.leader == id)
        });
        workload.wait_progress(ENOUGH);
        let what = if turn % 2 == 0 { ("split", r#"{"at":"80"}"#) } else { ("merge", "") };
        operator.order(&group, what.0, what.1);
        let _ = operator.settled_with(2 - turn % 2);
        // What is to live for an hour lives, and what is to end ends.
        assert!(get_patiently(addresses[index], "long").is_some(), "an hour is over at once with node {index}");
        let short = format!("short/{turn}");
        put_for(addresses[index], &short, "1s");
        wait::until_true("a second is over", || get_patiently(addresses[index], &short).is_none());
    }
    cluster.nodes[0].kill();
    workload.wait_progress(ENOUGH);
    cluster.nodes[0].set_variable("WALL_SHIFT", "-36000");
    cluster.nodes[0].start();
    cluster.nodes[0].wait_ready();
    workload.wait_progress(ENOUGH);
    assert!(get_patiently(addresses[0], "long").is_some());
    workload.finish(&addresses);
}
