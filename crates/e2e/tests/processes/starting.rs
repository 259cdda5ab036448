//! Programs that cannot start: what they say, and how they end.

use scatter_e2e::cluster::{Cluster, Member, get_patiently, put_patiently};
use scatter_e2e::{programs, wait};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

/// The exit code of a bad command line or configuration.
const USAGE: i32 = 2;
/// The exit code of everything else that goes wrong.
const FAILURE: i32 = 1;

/// Runs a command that is to end by itself.
fn run(mut command: Command) -> (i32, String) {
    // A place of its own, should it start after all and make the default data directory.
    let folder = tempfile::tempdir().expect("a folder");
    command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("a program");
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait::until_true("the program ends by itself", || child.try_wait().expect("a child").is_some());
    }));
    if waited.is_err() {
        child.kill().expect("a child of this process");
    }
    let Output { status, stdout, stderr } = child.wait_with_output().expect("its end");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(waited.is_ok() && !said.contains("panicked"), "{said}");
    (status.code().expect("an exit code"), said)
}

/// Expects a program to end with `code`, having named each of `words`.
fn refuses(command: Command, code: i32, words: &[&str]) {
    let shown = format!("{command:?}");
    let (found, said) = run(command);
    assert_eq!(found, code, "{shown}: {said}");
    for word in words {
        assert!(said.contains(word), "{shown} does not speak of {word}: {said}");
    }
}

fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::path(name));
    command.args(arguments);
    command
}

#[test]
fn a_bad_configuration_names_key_value_and_what_is_allowed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let seeds = "cluster.seeds=127.0.0.1:1";
    refuses(program("scatter-node", &["--set", "cluster.seeds="]), USAGE, &["cluster.seeds", "founders"]);
    for (setting, words) in [
        ("consensus.lease_ms=5", &["consensus.lease_ms", "5", "20"][..]),
        ("consensus.lease_ms=soon", &["consensus.lease_ms", "soon"]),
        ("consensus.read_mode=guess", &["consensus.read_mode", "guess", "quorum"]),
        ("node.colour=red", &["colour"]),
        ("paint.colour=red", &["paint"]),
        ("peer.listen=nowhere", &["peer.listen", "nowhere"]),
        ("cluster.name=", &["cluster.name"]),
    ] {
        refuses(program("scatter-node", &["--set", seeds, "--set", setting]), USAGE, words);
    }
    let bad = file("bad.toml", "[consensus]\nlease_ms = true\n");
    refuses(program("scatter-node", &["--config", &bad, "--set", seeds]), USAGE, &["consensus.lease_ms", "bad.toml"]);
    let torn = file("torn.toml", "[node\n");
    refuses(program("scatter-node", &["--config", &torn, "--set", seeds]), USAGE, &["torn.toml"]);
    refuses(program("scatter-node", &["--config", "/nowhere/at/all.toml"]), USAGE, &["/nowhere/at/all.toml"]);
    refuses(program("scatter-node", &["--frobnicate"]), USAGE, &["--frobnicate"]);
    let mut command = program("scatter-node", &["--set", seeds]);
    command.env("SCATTER_CONSENSUS__LEASE_MS", "-1");
    refuses(command, USAGE, &["consensus.lease_ms"]);
    for name in ["scatter-gateway", "scatter-admin"] {
        refuses(program(name, &["--set", "cluster.seeds="]), USAGE, &["cluster.seeds"]);
        refuses(program(name, &["--set", "http.listen=here"]), USAGE, &["http.listen", "here"]);
    }
}

/// A second program's command, on ports of its own.
fn double(cluster: &mut Cluster) -> usize {
    cluster.push_node(&[])
}

fn is_unharmed(member: &mut Member, id: &str) {
    assert!(member.process().ended().is_none(), "{} ended", member.name);
    assert_eq!(member.id(), id);
    put_patiently(member.http, "still", b"here");
    assert_eq!(get_patiently(member.http, "still").as_deref(), Some(&b"here"[..]));
}

#[test]
fn a_second_process_on_a_data_directory_does_not_start() {
    let mut cluster = Cluster::start(1);
    let id = cluster.nodes[0].id();
    let second = double(&mut cluster);
    let data = cluster.nodes[0].data.display().to_string();
    cluster.nodes[second].set("node.data_dir", &data);
    refuses(cluster.nodes[second].command(), FAILURE, &["in use by another process", &data]);
    is_unharmed(&mut cluster.nodes[0], &id);
    cluster.nodes[0].restart();
    cluster.nodes[0].wait_ready();
    is_unharmed(&mut cluster.nodes[0], &id);
}

#[test]
fn a_port_in_use_is_named() {
    let mut cluster = Cluster::prepare(0, &[]);
    for key in ["http.listen", "peer.listen"] {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = taken.local_addr().expect("bound").to_string();
        let index = double(&mut cluster);
        cluster.nodes[index].set(key, &address);
        cluster.nodes[index].set("cluster.seeds", "127.0.0.1:1");
        refuses(cluster.nodes[index].command(), FAILURE, &[&address, key, "in use"]);
    }
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    for name in ["scatter-gateway", "scatter-admin"] {
        refuses(
            program(name, &["--set", &format!("http.listen={address}")]),
            FAILURE,
            &[&address, "http.listen", "in use"],
        );
    }
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a-file");
    std::fs::write(&file, "in the way").expect("a file");
    let mut cluster = Cluster::prepare(0, &[]);
    // A file in the place of the folder, of its parent, and a file system that takes no files. The superuser too meets these.
    for place in [file.clone(), file.join("below"), "/proc/scatter".into()] {
        let index = double(&mut cluster);
        let place = place.display().to_string();
        cluster.nodes[index].set("node.data_dir", &place);
        cluster.nodes[index].set("cluster.seeds", "127.0.0.1:1");
        refuses(cluster.nodes[index].command(), FAILURE, &[&place]);
    }
    assert_eq!(std::fs::read(&file).expect("the file"), b"in the way");
}
