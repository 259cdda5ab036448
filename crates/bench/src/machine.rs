//! Where and when figures were taken, and the file they are told in.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The part of a document that the comparison writes.
pub const COMPARISON: &str = "generated";
/// The part that the measures of groups write.
pub const GROUPS: &str = "groups";

const APPENDS: usize = 400;
const APPEND_BYTES: usize = 512;

/// What a reader needs to judge the figures.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The command that made the figures.
    pub command: String,
    /// The day, UTC.
    pub date: String,
    /// The commit, with a mark if the tree had changes.
    pub commit: String,
    /// Processor, cores, memory, kernel.
    pub machine: String,
    /// The file system under the data.
    pub file_system: String,
    /// What a synced append to a growing file takes, in milliseconds (median and 99th percentile).
    pub synced_append_ms: (f64, f64),
    /// etcd's version, if it is measured.
    pub etcd: Option<String>,
    /// The machine's load average over the minute before: what else went on.
    pub load_average: String,
    /// The shape of the load.
    pub load: String,
}

impl Facts {
    /// Looks around; what cannot be found is "unknown". `folder` is where the data lies.
    pub fn gather(command: String, load: String, etcd: Option<&Path>, folder: &Path) -> io::Result<Self> {
        Ok(Self {
            command,
            date: output_of("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            commit: output_of("git", &["describe", "--always", "--dirty"]),
            machine: machine(),
            file_system: output_of("stat", &["-f", "-c", "%T", &folder.to_string_lossy()]),
            synced_append_ms: synced_append(folder)?,
            etcd: etcd.map(|etcd| {
                output_of(&etcd.to_string_lossy(), &["--version"]).lines().next().unwrap_or_default().to_owned()
            }),
            load_average: load_average(),
            load,
        })
    }

    /// As a Markdown list.
    pub fn markdown(&self) -> String {
        let (median, tail) = self.synced_append_ms;
        let peer = self.etcd.iter().map(|etcd| format!("- Peer: {etcd}, three nodes on the same machine.\n"));
        format!(
            "Made by `{}` on {}, commit {}.\n\n- Machine: {}; data on {}, where a synced append of {APPEND_BYTES} \
             bytes takes {median:.2} ms (p99 {tail:.2} ms); load average before the start {}.\n{}- Load: {}\n",
            self.command,
            self.date,
            self.commit,
            self.machine,
            self.file_system,
            self.load_average,
            peer.collect::<String>(),
            self.load
        )
    }
}

/// The load average over a minute.
pub fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_ascii_whitespace().next().unwrap_or("unknown").to_owned()
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    if text.is_empty() { "unknown".to_owned() } else { text }
}

fn machine() -> String {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
        line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kilobytes: f64 = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    format!(
        "{}, {cores} cores, {:.0} GiB, Linux {}",
        field("/proc/cpuinfo", "model name"),
        kilobytes / f64::from(1 << 20),
        output_of("uname", &["-r"])
    )
}

/// Appends and syncs a small record over and over; the median and the 99th percentile, in milliseconds.
fn synced_append(folder: &Path) -> io::Result<(f64, f64)> {
    let path = folder.join("append");
    let mut file = File::create(&path)?;
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..APPENDS {
        let begun = Instant::now();
        file.write_all(&[7; APPEND_BYTES])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    let at = |index: usize| times[index].as_secs_f64() * 1e3;
    Ok((at(APPENDS / 2), at(APPENDS * 99 / 100)))
}

/// Why a document cannot take a generated part.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The markers are not there once each, in order.
    #[error("the document must hold the lines <!-- {0}: begin --> and <!-- {0}: end --> once each, in this order")]
    Markers(String),
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Puts `block` between the markers of the part `name` of `document`.
pub fn replace_block(document: &str, name: &str, block: &str) -> Result<String, DocumentError> {
    let (begin, end) = (&*format!("<!-- {name}: begin -->"), &*format!("<!-- {name}: end -->"));
    let wrong = || DocumentError::Markers(name.to_owned());
    let (before, rest) = document.split_once(begin).ok_or_else(wrong)?;
    let (old, after) = rest.split_once(end).ok_or_else(wrong)?;
    if before.contains(end) || [old, after].iter().any(|part| part.contains(begin)) || after.contains(end) {
        return Err(wrong());
    }
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", block.trim()))
}

/// Replaces the part `name` of the file at `path`, at once or not at all.
pub fn rewrite(path: &Path, name: &str, block: &str) -> Result<(), DocumentError> {
    let document = replace_block(&std::fs::read_to_string(path)?, name, block)?;
    let fresh = path.with_extension("md.new");
    std::fs::write(&fresh, document)?;
    Ok(std::fs::rename(fresh, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- generated: begin -->";
    const END: &str = "<!-- generated: end -->";

    #[test]
    fn only_the_part_between_the_markers_changes() {
        let document = format!("intro\n{BEGIN}\nold\n{END}\noutro\n");
        let once = replace_block(&document, COMPARISON, "new\n").unwrap();
        assert_eq!(once, format!("intro\n{BEGIN}\n\nnew\n\n{END}\noutro\n"));
        assert_eq!(replace_block(&once, COMPARISON, "new").unwrap(), once);
    }

    #[test]
    fn a_document_without_clear_markers_is_left_alone() {
        for document in [
            String::new(),
            BEGIN.to_owned(),
            END.to_owned(),
            format!("{END}{BEGIN}"),
            format!("{BEGIN}{END}{BEGIN}{END}"),
            format!("{BEGIN}{BEGIN}{END}"),
            format!("{END}{BEGIN}{END}"),
        ] {
            assert!(matches!(replace_block(&document, COMPARISON, "x"), Err(DocumentError::Markers(_))), "{document}");
        }
    }

    #[test]
    fn a_file_is_rewritten_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page.md");
        std::fs::write(&path, format!("a {BEGIN} b {END} c")).unwrap();
        rewrite(&path, COMPARISON, "fresh").unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().contains("fresh"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn facts_are_found_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let facts =
            Facts::gather("the command".into(), "the load".into(), Some(Path::new("/nonexistent")), folder.path())
                .unwrap();
        assert_eq!(facts.etcd.as_deref(), Some("unknown"));
        let text = facts.markdown();
        assert!(text.contains("`the command`") && text.contains("the load"), "{text}");
    }
}
