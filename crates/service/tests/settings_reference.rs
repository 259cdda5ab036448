//! `docs/operations.md` lists every setting as the programs' sample files have it.
//!
//! `make settings` (which sets `WRITE_SETTINGS`) writes the list; the test only compares.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const DOCUMENT: &str = "docs/operations.md";
const SAMPLES: [(&str, &str); 3] = [
    ("scatter-node", "crates/node/scatter-node.sample.toml"),
    ("scatter-gateway", "crates/gateway/scatter-gateway.sample.toml"),
    ("scatter-admin", "crates/admin/scatter-admin.sample.toml"),
];
const BEGIN: &str = "<!-- settings: begin";
const END: &str = "<!-- settings: end -->";

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A table of one sample's keys: each line `key = default` under its section, with the comment above it.
fn table(program: &str, sample: &str) -> String {
    let mut out = format!("\n### {program}\n\n| key | default | meaning |\n| --- | --- | --- |\n");
    let (mut section, mut comment) = (String::new(), String::new());
    for line in sample.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
            comment.clear();
        } else if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
        } else if let Some((key, default)) = line.split_once(" = ") {
            let meaning = comment.trim().replace('|', "\\|");
            writeln!(out, "| `{section}.{key}` | `{default}` | {meaning} |").expect("a string takes it");
            comment.clear();
        } else {
            comment.clear();
        }
    }
    out
}

#[test]
fn the_operations_document_lists_every_setting() {
    let document = read(DOCUMENT);
    let begin = document.find(BEGIN).and_then(|at| Some(at + document[at..].find('\n')? + 1)).expect("a beginning");
    let end = document.find(END).expect("an end");
    let wanted: String = SAMPLES.iter().map(|(program, path)| table(program, &read(path))).collect::<String>() + "\n";
    if std::env::var_os("WRITE_SETTINGS").is_some() {
        let whole = format!("{}{wanted}{}", &document[..begin], &document[end..]);
        std::fs::write(top().join(DOCUMENT), whole).expect("the document can be written");
    } else {
        assert_eq!(&document[begin..end], wanted, "{DOCUMENT} differs from the sample files; run `make settings`");
    }
}
