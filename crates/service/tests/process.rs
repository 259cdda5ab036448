//! A real process from start to end: exit codes, what it prints, signals. Run without arguments this is the test; with the
//! variable `PROCESS_TEST_CHILD` set it is the program under test.

use scatter_service::http::{HttpSettings, ServerMetrics, Site, bind, serve};
use scatter_service::{LogSettings, Process, Program, Settings, Unacceptable, metrics, process};
use serde::Deserialize;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

const CHILD: &str = "PROCESS_TEST_CHILD";

const PROGRAM: Program = Program { name: "scatter-child", about: "A test.", version: "4.5.6", flags: &[] };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChildSettings {
    http: HttpSettings,
    log: LogSettings,
}

impl Settings for ChildSettings {
    const SAMPLE: &'static str = "";

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn drain(&self) -> Duration {
        Duration::from_millis(self.http.drain_ms)
    }

    fn check(&self) -> Result<(), Unacceptable> {
        self.http.check()
    }
}

async fn child(settings: ChildSettings, process: Process) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let registry = metrics::registry();
    let server_metrics = ServerMetrics::register(&registry)?;
    let router = axum::Router::new().route(
        "/slow",
        axum::routing::get(async || {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "slow"
        }),
    );
    let site = Site::new(&process.program, registry, Arc::new(|| Ok(())), "{}", process.shutdown.clone());
    let listener = bind(&settings.http.listen, "http.listen").await?;
    let site = Arc::new(site.with_router(router));
    serve(listener, &settings.http, server_metrics, site, process.shutdown).await;
    Ok(())
}

fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() {
        return process::run(PROGRAM, child);
    }
    // Lists of tests ask for none of these.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    bad_settings_end_with_2();
    what_is_asked_for_is_printed();
    a_port_in_use_ends_with_1();
    sigterm_drains_and_ends_with_0();
    logs_are_json_if_asked();
    ExitCode::SUCCESS
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.env(CHILD, "1").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn ended(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(arguments).output().expect("started");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

fn bad_settings_end_with_2() {
    for (set, parts) in [
        ("http.listen=nowhere", ["`http.listen`", "nowhere", "host and port"]),
        ("http.lissten=a:1", ["`http.lissten`", "a:1", "listen"]),
        ("http.drain_ms=soon", ["`http.drain_ms`", "soon", "SIGTERM"]),
    ] {
        let (code, stdout, stderr) = ended(&["--set", set]);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
}

fn what_is_asked_for_is_printed() {
    assert_eq!(ended(&["--version"]), (Some(0), "scatter-child 4.5.6\n".to_owned(), String::new()));
    for (flag, part) in [("--help", "http.drain_ms"), ("--print-config", "drain_ms = 10000")] {
        let (code, stdout, stderr) = ended(&[flag]);
        assert!(code == Some(0) && stdout.contains(part) && stderr.is_empty(), "{code:?} {stdout} {stderr}");
    }
}

fn a_port_in_use_ends_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = taken.local_addr().expect("an address").to_string();
    let (code, _, stderr) = ended(&["--set", &format!("http.listen={address}")]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&address) && stderr.contains("in use"), "{stderr}");
}

/// Starts the program on a port of its choice and returns it with its log and address.
fn start(arguments: &[&str]) -> (Child, BufReader<std::process::ChildStderr>, String) {
    let mut child = command(&[&["--set", "http.listen=127.0.0.1:0"], arguments].concat()).spawn().expect("started");
    let mut log = BufReader::new(child.stderr.take().expect("its log"));
    let mut line = String::new();
    while !line.contains("serving HTTP") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a line") > 0, "it ended");
    }
    let start = line.find("127.0.0.1:").expect("an address");
    let address = line[start..].chars().take_while(|it| it.is_ascii_digit() || ".:".contains(*it)).collect();
    (child, log, address)
}

fn terminate(child: &Child) {
    let id = i32::try_from(child.id()).expect("a process id");
    // SAFETY: sends a signal to a child that was not waited for yet, so the id is still its own.
    assert_eq!(unsafe { libc::kill(id, libc::SIGTERM) }, 0);
}

fn sigterm_drains_and_ends_with_0() {
    let (mut child, mut log, address) = start(&[]);
    let mut stream = TcpStream::connect(&address).expect("connected");
    // Two requests in one packet: once the first is answered, the second is under way.
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: t\r\n\r\nGET /slow HTTP/1.1\r\nhost: t\r\n\r\n").expect("sent");
    let mut first = [0; 8];
    stream.read_exact(&mut first).expect("a reply");
    terminate(&child);
    let mut replies = String::new();
    stream.read_to_string(&mut replies).expect("the second reply");
    assert!(replies.ends_with("slow"), "{replies}");
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("its log");
    assert_eq!(child.wait().expect("ended").code(), Some(0), "{rest}");
    assert!(rest.contains("SIGTERM") && rest.contains("drained"), "{rest}");
}

fn logs_are_json_if_asked() {
    let (mut child, mut log, _) = start(&["--set", "log.format=json"]);
    terminate(&child);
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("its log");
    assert_eq!(child.wait().expect("ended").code(), Some(0));
    for line in rest.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    }
    assert!(rest.contains("SIGTERM"), "{rest}");
}
