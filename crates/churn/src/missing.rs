//! How long groups have the dead among their voters.

use crate::ring::Ring;
use std::collections::BTreeMap;
use std::time::Instant;

/// How many of the last deaths are remembered.
const MOST_DEATHS: usize = 1_000;

/// Voters that are dead, until their groups have replaced them.
#[derive(Clone, Default, Debug)]
pub(crate) struct Missing {
    /// When nodes died, the last ones.
    deaths: BTreeMap<String, Instant>,
    /// Group and node, with the time of death.
    open: BTreeMap<(String, String), Instant>,
    /// Seconds from a death until the group had another voter instead, or was no more.
    pub replaced: Vec<f64>,
}

impl Missing {
    /// A node has died.
    pub(crate) fn has_died(&mut self, node: &str) {
        if self.deaths.len() >= MOST_DEATHS
            && let Some(oldest) = self.deaths.iter().min_by_key(|(_, at)| **at).map(|(node, _)| node.clone())
        {
            self.deaths.remove(&oldest);
        }
        self.deaths.insert(node.to_owned(), Instant::now());
    }

    /// Looks who is a voter; to be called about once a second, for that is how exact it is.
    pub(crate) fn look(&mut self, ring: &Ring) {
        // A group that is not shown may still be there.
        if !ring.is_whole() {
            return;
        }
        let before = std::mem::take(&mut self.open);
        for group in &ring.groups {
            for node in &group.voters {
                if let Some(at) = self.deaths.get(node) {
                    self.open.insert((group.id.clone(), node.clone()), *at);
                }
            }
        }
        let gone = before.into_iter().filter(|(member, _)| !self.open.contains_key(member));
        self.replaced.extend(gone.map(|(_, at)| at.elapsed().as_secs_f64()));
    }

    /// Seconds for which those have been dead that are voters still.
    pub(crate) fn open(&self) -> impl Iterator<Item = f64> {
        self.open.values().map(|at| at.elapsed().as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Group;

    fn ring(groups: &[(&str, &[&str])]) -> Ring {
        let group = |(id, voters): &(&str, &[&str])| Group {
            id: (*id).to_owned(),
            voters: voters.iter().map(|node| (*node).to_owned()).collect(),
            ..Group::default()
        };
        Ring { groups: groups.iter().map(group).collect(), problems: Vec::new() }
    }

    #[test]
    fn a_dead_voter_is_missed_until_it_is_replaced() {
        let mut missing = Missing::default();
        missing.look(&ring(&[("1", &["a", "b"]), ("2", &["a"])]));
        missing.has_died("a");
        missing.look(&ring(&[("1", &["a", "b"]), ("2", &["a"])]));
        assert_eq!((missing.replaced.len(), missing.open().count()), (0, 2));
        missing.look(&Ring { problems: vec!["gap".into()], ..ring(&[("1", &["a", "b"])]) });
        assert_eq!(missing.open().count(), 2, "what is not shown is not gone");
        missing.look(&ring(&[("1", &["c", "b"]), ("2", &["a"])]));
        assert_eq!((missing.replaced.len(), missing.open().count()), (1, 1));
        missing.look(&ring(&[("1", &["c", "b"])]));
        assert_eq!((missing.replaced.len(), missing.open().count()), (2, 0));
    }
}
