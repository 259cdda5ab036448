//! The part of a document that a program writes: what stands between two markers, and a figure beside it.

use std::io;
use std::path::Path;

const DOCUMENT: &str = "benchmarks.md";

/// A program's part of `docs/benchmarks.md`, between `<!-- name:begin -->` and `<!-- name:end -->`, and its figure
/// `docs/figures/name.svg`.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// The name in all three.
    pub name: &'static str,
}

/// Why a section was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The document has no place for it, or several.
    #[error("{DOCUMENT} must hold the lines {begin:?} and {end:?} once each, in this order")]
    Markers {
        /// The first marker.
        begin: String,
        /// The second.
        end: String,
    },
    /// A file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Section {
    /// The figure's path, as seen from the document.
    #[must_use]
    pub fn figure(self) -> String {
        format!("figures/{}.svg", self.name)
    }

    /// Writes the figure, and the text between its markers; the document at once or not at all.
    pub fn write(self, docs: &Path, text: &str, figure: &str) -> Result<(), WriteError> {
        let document = docs.join(DOCUMENT);
        let whole = self.replaced(&std::fs::read_to_string(&document)?, text)?;
        let path = docs.join(self.figure());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, figure)?;
        let fresh = document.with_extension("md.new");
        std::fs::write(&fresh, whole)?;
        Ok(std::fs::rename(fresh, document)?)
    }

    fn replaced(self, document: &str, text: &str) -> Result<String, WriteError> {
        let (begin, end) = (format!("<!-- {}:begin -->", self.name), format!("<!-- {}:end -->", self.name));
        if let Some((before, rest)) = document.split_once(&begin)
            && let Some((old, after)) = rest.split_once(&end)
            && !before.contains(&end)
            && !after.contains(&end)
            && ![old, after].iter().any(|part| part.contains(&begin))
        {
            return Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()));
        }
        Err(WriteError::Markers { begin, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_part_between_the_markers_changes() {
        let (section, begin, end) = (Section { name: "x" }, "<!-- x:begin -->", "<!-- x:end -->");
        let once = section.replaced(&format!("a\n{begin}\nold\n{end}\nb\n"), "new\n").unwrap();
        assert_eq!(once, format!("a\n{begin}\n\nnew\n\n{end}\nb\n"));
        for bad in
            [format!("{end}{begin}"), format!("{begin}{begin}{end}"), format!("{begin}{end}{end}"), String::new()]
        {
            assert!(matches!(section.replaced(&bad, "x"), Err(WriteError::Markers { .. })), "{bad}");
        }
    }

    #[test]
    fn a_document_without_a_place_stays_as_it_is() {
        let docs = std::env::temp_dir().join(format!("scatter-figure-{}", std::process::id()));
        std::fs::create_dir_all(&docs).unwrap();
        std::fs::write(docs.join(DOCUMENT), "words\n").unwrap();
        assert!(Section { name: "x" }.write(&docs, "new", "<svg/>").is_err());
        assert_eq!(std::fs::read_to_string(docs.join(DOCUMENT)).unwrap(), "words\n");
        assert!(!docs.join("figures").exists());
        std::fs::remove_dir_all(docs).unwrap();
    }
}
