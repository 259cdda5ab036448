//! The list of metrics in the documents, held against what a program shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// What begins the name of every metric of ours; others come from libraries under the names that dashboards know.
const PREFIX: &str = "scatter_";

/// One metric, as a row of the document and as a program shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    labels: String,
    kind: String,
    meaning: String,
}

impl Row {
    fn text(&self, name: &str) -> String {
        let labels = if self.labels.is_empty() { String::new() } else { format!("{{{}}}", self.labels) };
        format!("| `{name}{labels}` | {} | {} |", self.kind, self.meaning)
    }
}

/// Compares what a program shows at `/metrics` with the document's rows of it. A row reads
/// ``| `name{label,…}` | kind | meaning | programs |``, and its meaning is the metric's own help text. Says what to change
/// if a metric of ours is missing on either side or differs.
pub fn check_reference(document: &str, program: &str, shown: &str) -> Result<(), String> {
    let shown = shown_rows(shown);
    let documented = documented_rows(document, program);
    let names: BTreeSet<&String> = shown.keys().chain(documented.keys()).collect();
    let mut wrong = String::new();
    for name in names {
        let (ours, theirs) = (shown.get(name), documented.get(name));
        if ours == theirs {
            continue;
        }
        let row = |row: Option<&Row>| row.map_or_else(|| "nothing".to_owned(), |row| row.text(name));
        // A string takes whatever is written to it.
        let _ = write!(wrong, "\n{program} shows  {}\nthe list has  {}", row(ours), row(theirs));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

fn documented_rows(document: &str, program: &str) -> BTreeMap<String, Row> {
    let mut rows = BTreeMap::new();
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", metric, kind, meaning, programs, ""] = cells[..] else { continue };
        let Some(metric) = metric.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else { continue };
        if !metric.starts_with(PREFIX) || !programs.split(", ").any(|one| one == program) {
            continue;
        }
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let row =
            Row { labels: labels.trim_end_matches('}').to_owned(), kind: kind.to_owned(), meaning: meaning.to_owned() };
        rows.insert(name.to_owned(), row);
    }
    rows
}

fn shown_rows(text: &str) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let blank = || Row { labels: String::new(), kind: String::new(), meaning: String::new() };
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            rows.entry(name.to_owned()).or_insert_with(blank).meaning = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            rows.entry(name.to_owned()).or_insert_with(blank).kind = kind.to_owned();
        } else if let Some((sample, rest)) = line.split_once('{') {
            let parts = ["", "_bucket", "_sum", "_count"];
            let name = parts.iter().filter_map(|part| sample.strip_suffix(part)).find(|name| rows.contains_key(*name));
            // Values of labels of ours hold neither commas nor equals signs.
            let labels = rest.split(',').filter_map(|pair| pair.split_once('=')).map(|(label, _)| label);
            let labels: Vec<&str> = labels.filter(|label| *label != "le").collect();
            if let Some(row) = name.and_then(|name| rows.get_mut(name)) {
                row.labels = labels.join(",");
            }
        }
    }
    rows.retain(|name, _| name.starts_with(PREFIX));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "\
# HELP process_threads Threads.\n# TYPE process_threads gauge\nprocess_threads 3\n\
# HELP scatter_a_total As.\n# TYPE scatter_a_total counter\nscatter_a_total{by=\"x\",of=\"y\"} 1\n\
# HELP scatter_b_seconds Bs.\n# TYPE scatter_b_seconds histogram\nscatter_b_seconds_bucket{le=\"1\"} 1\n";

    const LIST: &str = "| `scatter_a_total{by,of}` | counter | As. | node, gateway |\n\
        | `scatter_b_seconds` | histogram | Bs. | gateway |\n\
        | `scatter_c` | gauge | Cs. | node |\n\
        | `scatter.key` | `1` | A setting. |\n";

    #[test]
    fn what_agrees_passes() {
        assert_eq!(check_reference(LIST, "gateway", SHOWN), Ok(()));
    }

    #[test]
    fn what_differs_is_told() {
        let told = check_reference(LIST, "node", SHOWN).expect_err("b and c differ");
        assert!(
            told.contains("node shows  | `scatter_b_seconds` | histogram | Bs. |\nthe list has  nothing"),
            "{told}"
        );
        assert!(told.contains("node shows  nothing\nthe list has  | `scatter_c` | gauge | Cs. |"), "{told}");
        assert!(!told.contains("scatter_a_total"), "{told}");
        let told = check_reference(&LIST.replace("As.", "Other."), "gateway", SHOWN).expect_err("another meaning");
        assert!(told.contains("As.") && told.contains("Other."), "{told}");
    }
}
