//! Who lives, and the list of all that was done to the cluster, one line an event.

use crate::ring::Nodes;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What the threads of a run share about the cluster.
#[derive(Debug)]
pub(crate) struct Events {
    began: Instant,
    file: Mutex<File>,
    alive: Mutex<Nodes>,
}

impl Events {
    /// A new list.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { began: Instant::now(), file: Mutex::new(File::create(path)?), alive: Mutex::default() })
    }

    /// Writes down what happens. A list that cannot be written is no reason to end the run.
    pub(crate) fn tell(&self, what: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{:10.3} {what}", self.began.elapsed().as_secs_f64());
    }

    /// Writes down what happens, and shows it to whoever watches.
    pub(crate) fn show(&self, what: &str) {
        self.tell(what);
        // Nobody may be watching.
        let _ = writeln!(io::stderr(), "churn: {what}");
    }

    /// The ids of the nodes that run and have told theirs.
    pub(crate) fn alive(&self) -> Nodes {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A node lives from now on.
    pub(crate) fn is_born(&self, id: &str) {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
    }

    /// A node is dead from now on.
    pub(crate) fn has_died(&self, id: &str) {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}
