use super::*;
use crate::Address;
use serde::Deserialize;
use std::io::Write as _;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    http: crate::http::HttpSettings,
    log: LogSettings,
    group: Group,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    lease_ms: u64,
    zone: String,
    quorum: bool,
    seeds: Vec<Address>,
}

impl Settings for Sample {
    const SAMPLE: &'static str = r#"
[group]
# Milliseconds of a lease, 1 to
# 60000.
lease_ms = 400
# Where it is.
zone = "a"
# Whether reads ask a majority: true or false.
quorum = false
# Other members.
seeds = ["127.0.0.1:7001"]
"#;

    fn log(&self) -> &LogSettings {
        &self.log
    }

    fn drain(&self) -> Duration {
        Duration::from_millis(self.http.drain_ms)
    }

    fn check(&self) -> Result<(), Unacceptable> {
        self.http.check()?;
        Unacceptable::unless_within("group.lease_ms", self.group.lease_ms, 1..=60_000)
    }
}

const PROGRAM: Program = Program {
    name: "scatter-sample",
    about: "A sample.",
    version: "1.2.3",
    flags: &[Flag { name: "listen", key: "http.listen", help: "Where to listen" }],
};

fn load_with(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Loaded<Sample>, ConfigurationError> {
    let arguments = std::iter::once("scatter-sample").chain(arguments.iter().copied()).map(OsString::from);
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    load(&PROGRAM, arguments, environment)
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Sample {
    match load_with(arguments, environment).expect("good settings") {
        Loaded::Run(settings) => *settings,
        Loaded::Print(text) => panic!("prints {text}"),
    }
}

fn print(arguments: &[&str], environment: &[(&str, &str)]) -> String {
    match load_with(arguments, environment).expect("good settings") {
        Loaded::Run(settings) => panic!("runs with {settings:?}"),
        Loaded::Print(text) => text,
    }
}

#[track_caller]
fn refused(arguments: &[&str], environment: &[(&str, &str)], parts: &[&str]) {
    let text = load_with(arguments, environment).expect_err("bad settings").to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("UTF-8")
}

#[test]
fn the_sample_alone_is_enough() {
    let settings = run(&[], &[]);
    assert_eq!(settings.group.lease_ms, 400);
    assert!(!settings.group.quorum);
    assert_eq!(settings.http.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.drain(), Duration::from_secs(10));
}

#[test]
fn flags_win_over_environment_over_file() {
    let file = file("[group]\nlease_ms = 1\nzone = \"file\"\n[http]\nlisten = \"a:1\"\n");
    let environment =
        [("SCATTER_GROUP__ZONE", "007"), ("SCATTER_GROUP__LEASE_MS", "2"), ("SCATTER_HTTP__LISTEN", "b:2")];
    let settings = run(&["--config", path(&file), "--set", "group.lease_ms=3", "--listen", "c:3"], &environment);
    assert_eq!(settings.group.lease_ms, 3);
    assert_eq!(settings.group.zone, "007", "text that looks like a number stays the text it is");
    assert_eq!(settings.http.listen.to_string(), "c:3");
}

#[test]
fn lists_are_separated_by_commas() {
    let seeds = |settings: Sample| settings.group.seeds.iter().map(Address::to_string).collect::<Vec<_>>();
    assert_eq!(seeds(run(&[], &[("SCATTER_GROUP__SEEDS", "a:1, b:2,")])), ["a:1", "b:2"]);
    assert!(seeds(run(&["--set", "group.seeds="], &[])).is_empty());
    refused(&["--set", "group.seeds=a:1,b"], &[], &["`group.seeds`", "a:1,b", "`b` is not a host and port"]);
}

#[test]
fn an_unknown_key_is_refused_with_what_there_is() {
    refused(
        &["--set", "group.leese_ms=3"],
        &[],
        &["unknown setting `group.leese_ms`", "\"3\"", "--set", "lease_ms, quorum"],
    );
    refused(&[], &[("SCATTER_GROUP__LEESE_MS", "3")], &["`group.leese_ms`", "SCATTER_GROUP__LEESE_MS", "lease_ms"]);
    refused(&[], &[("SCATTER_GRUP__LEASE_MS", "3")], &["`grup.lease_ms`", "the sections are group, http, log"]);
    let file = file("# top\n[group]\nlease_ms = 3\nleese_ms = 4\n");
    let line = format!("{} line 4", path(&file));
    refused(&["--config", path(&file)], &[], &["`group.leese_ms` = 4", &line, "lease_ms"]);
    refused(&["--set", "group=3"], &[], &["`group` is a section", "group.lease_ms"]);
}

#[test]
fn variables_of_another_form_are_somebody_elses() {
    let others = [("SCATTER_CACHE", "x"), ("SCATTER_SERVICE_PORT_8080_TCP", "tcp://1"), ("OTHER_GROUP__ZONE", "x")];
    assert_eq!(run(&[], &others).group.zone, "a");
}

#[test]
fn variables_for_another_program_are_left_to_it() {
    let environment = [("SCATTER_POLICY__SPLIT", "false"), ("SCATTER_GROUP__ZONE", "b")];
    assert_eq!(run(&[], &environment).group.zone, "b");
    // A flag is given to this program alone.
    refused(&["--set", "policy.split=false"], &[], &["unknown setting `policy.split`"]);
}

#[test]
fn a_bad_value_is_refused_with_key_value_origin_and_meaning() {
    let meaning = "Milliseconds of a lease, 1 to 60000.";
    refused(&["--set", "group.lease_ms=soon"], &[], &["`group.lease_ms` = \"soon\"", "--set", "integer", meaning]);
    refused(
        &[],
        &[("SCATTER_GROUP__LEASE_MS", "-1")],
        &["`group.lease_ms` = \"-1\"", "SCATTER_GROUP__LEASE_MS", meaning],
    );
    refused(&["--set", "group.lease_ms=0"], &[], &["`group.lease_ms` = \"0\"", "allowed is 1 to 60000", meaning]);
    refused(&["--set", "group.quorum=perhaps"], &[], &["`group.quorum` = \"perhaps\"", "boolean"]);
    refused(&["--set", "log.level=loud"], &[], &["`log.level` = \"loud\"", "off, error, warn"]);
    refused(&["--set", "log.format=xml"], &[], &["`log.format` = \"xml\"", "text", "json"]);
    refused(&["--listen", "nowhere"], &[], &["`http.listen` = \"nowhere\"", "--listen", "host and port"]);
    refused(&["--set", "http.maximum_head_bytes=1"], &[], &["`http.maximum_head_bytes` = \"1\"", "8192"]);
    let file = file("[group]\nzone = \"b\"\nlease_ms = [1]\n");
    let line = format!("{} line 3", path(&file));
    refused(&["--config", path(&file)], &[], &["`group.lease_ms` = [1]", &line, meaning]);
}

#[test]
fn a_bad_file_is_refused() {
    refused(&["--config", "/nowhere/at all.toml"], &[], &["cannot read", "/nowhere/at all.toml"]);
    let bad = file("[group]\nlease_ms = = 3\n");
    refused(&["--config", path(&bad)], &[], &["not valid TOML", "line 2", path(&bad)]);
    let twice = file("[group]\nlease_ms = 3\nlease_ms = 4\n");
    refused(&["--config", path(&twice)], &[], &["not valid TOML", "line 3"]);
}

#[test]
fn a_bad_command_line_is_refused() {
    refused(&["--sett", "a=b"], &[], &["--sett"]);
    refused(&["--set", "a"], &[], &["section.key=value", "`a`"]);
    refused(&["stray"], &[], &["stray"]);
}

#[test]
fn what_is_printed_reads_back() {
    let text = print(&["--print-config", "--set", "group.seeds=x:1,y:2"], &[("SCATTER_GROUP__LEASE_MS", "7")]);
    let table: toml::Table = toml::from_str(&text).expect("TOML");
    assert_eq!(table["group"]["lease_ms"].as_integer(), Some(7), "{text}");
    let file = file(&text);
    assert_eq!(print(&["--print-config", "--config", path(&file)], &[]), text);
}

#[test]
fn help_and_version_are_printed() {
    let help = print(&["--help"], &[]);
    for part in ["--config", "--set", "--listen", "--print-config", "group.lease_ms = 400", "SCATTER_", "Where it is."]
    {
        assert!(help.contains(part), "`{part}` is missing in: {help}");
    }
    assert_eq!(print(&["--version"], &[]), "scatter-sample 1.2.3\n");
}

#[test]
fn a_sample_must_be_complete_and_explained() {
    let error = check_sample::<Sample>().expect_err("the common keys are not in it").to_string();
    assert!(error.contains("http.") && error.contains("comment"), "{error}");
}
