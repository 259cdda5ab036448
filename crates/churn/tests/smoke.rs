//! A short run of the whole: processes start, are killed and replaced, and what the clients heard is judged.

use scatter_e2e::programs;
use std::process::Command;

#[test]
fn a_short_run_kills_and_judges() {
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("smoke");
    let programs = programs::path("scatter-node").parent().expect("a folder").to_owned();
    let run = Command::new(env!("CARGO_BIN_EXE_scatter-churn"))
        .args(["--duration", "6s", "--median-lifetime", "3s", "--absence", "500ms", "--nodes", "5", "--groups", "2"])
        .args(["--clients", "4", "--keys", "8", "--turns-per-key", "50", "--kept-keys", "5"])
        .args(["--replace", "by-hand", "--replace-dead-after", "500ms", "--order-every", "2s"])
        .arg("--programs")
        .arg(programs)
        .arg("--out")
        .arg(&out)
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}: {said}", run.status);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("churn.json")).expect("a report")).expect("JSON");
    assert_eq!(report["histories"]["violations"], 0, "{said}");
    assert!(report["kills"].as_u64() > Some(0) && report["arrivals"].as_u64() > Some(0), "{said}");
    assert!(report["histories"]["judged"].as_u64() > Some(8), "keys come and go: {said}");
    assert!(out.join("churn.svg").is_file() && out.join("events.log").is_file());
}
