//! What goes to standard output.

use crate::Failure;
use crate::arguments::Format;
use serde_json::Value;
use std::io::{self, IsTerminal as _, Write as _};

/// Writes in the format that was asked for.
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) const fn new(format: Format) -> Self {
        Self { format }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Bytes as they are. That the reader has gone, as `head` does once it has enough, is no failure.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(bytes).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A value: its bytes as they are; on a terminal the prompt after it begins on a line of its own.
    pub(crate) fn value(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.raw(bytes)?;
        let open = bytes.last().is_some_and(|last| *last != b'\n');
        if open && io::stdout().is_terminal() { self.raw(b"\n") } else { Ok(()) }
    }

    pub(crate) fn line(&self, text: &str) -> Result<(), Failure> {
        self.raw(format!("{text}\n").as_bytes())
    }

    pub(crate) fn json(&self, value: &Value) -> Result<(), Failure> {
        self.line(&format!("{value:#}"))
    }

    /// Rows under a head, in columns as wide as they need to be.
    pub(crate) fn table(&self, head: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        self.raw(table(head, rows).as_bytes())
    }
}

/// Writes to a person.
pub(crate) fn talk(text: &str) {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "{text}");
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|name| name.to_uppercase()).collect();
    let lines = || std::iter::once(&head).chain(rows);
    let width = |column: usize| {
        lines().filter_map(|row| row.get(column)).map(|cell: &String| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in lines() {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A member of a JSON document as a cell: text as it is, nothing as a dash.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) if text.is_empty() => "-".into(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let rows = [vec!["1".into(), "long cell".into(), String::new()], vec!["22".into(), "x".into(), "é".into()]];
        let expected = "A   B          C\n1   long cell\n22  x          é\n";
        assert_eq!(table(&["a", "b", "c"], &rows), expected);
    }

    #[test]
    fn nothing_is_a_dash() {
        let cells: Vec<_> = [Value::Null, "".into(), "a".into(), 7.into()].iter().map(cell).collect();
        assert_eq!(cells, ["-", "-", "a", "7"]);
    }
}
