//! One look-up, carried on by whoever asks: a client, a gateway, or a node on behalf of one.

use super::closeness;
use crate::group::Descriptor;
use crate::ring::Position;
use crate::types::{ConfigurationVersion, GroupId, RangeVersion};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The search for a position's owner.
///
/// Of all groups heard of and not yet asked, the one that starts closest before the position is asked next. No group is
/// asked twice, unless newer members or a newer arc of one that did not answer are heard of. So the search ends whatever it
/// is told, and it ends at the owner if the answers name true successors: of the groups that answered, take the one that
/// truly starts closest before the position. Either it is the owner, or its successor is closer, and has not answered.
#[derive(Clone, Debug)]
pub struct Search {
    position: Position,
    /// Heard of and not asked.
    candidates: BTreeMap<GroupId, Arc<Descriptor>>,
    /// Asked, and what was believed of them then.
    asked: BTreeMap<GroupId, Versions>,
    /// Of those, the ones that answered.
    answered: BTreeSet<GroupId>,
    hops: usize,
}

type Versions = (RangeVersion, ConfigurationVersion);

fn versions(descriptor: &Descriptor) -> Versions {
    (descriptor.range_version, descriptor.configuration.version)
}

impl Search {
    /// A search that begins at the groups known.
    #[must_use]
    pub fn new(position: Position, known: impl IntoIterator<Item = Arc<Descriptor>>) -> Self {
        let (candidates, asked, answered) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        let mut search = Self { position, candidates, asked, answered, hops: 0 };
        search.hear(known);
        search
    }

    /// What is sought.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// How many times somebody was asked. The caller's bound on it is its patience.
    #[must_use]
    pub fn hops(&self) -> usize {
        self.hops
    }

    /// Whom to ask next; `None` if everybody heard of has been asked. It counts as asked.
    pub fn ask(&mut self) -> Option<Arc<Descriptor>> {
        let closest = self.candidates.values().max_by_key(|link| closeness(&self.position, &link.range.start))?;
        let group = closest.group;
        self.asked.insert(group, versions(closest));
        self.hops += 1;
        self.candidates.remove(&group)
    }

    /// Takes the answer of a group that does not own the position. Its successor must be among the links.
    pub fn answered(&mut self, by: GroupId, links: impl IntoIterator<Item = Arc<Descriptor>>) {
        self.answered.insert(by);
        self.hear(links);
    }

    /// Takes links from elsewhere.
    pub fn hear(&mut self, links: impl IntoIterator<Item = Arc<Descriptor>>) {
        for link in links {
            let (group, heard) = (link.group, versions(&link));
            let newer = |known: Versions| heard.0 > known.0 || heard.1 > known.1;
            let asked_already = self.asked.get(&group).is_some_and(|asked| !newer(*asked));
            let known_already = self.candidates.get(&group).is_some_and(|known| !newer(versions(known)));
            if !self.answered.contains(&group) && !asked_already && !known_already {
                self.candidates.insert(group, link);
            }
        }
    }
}

/// What a group or a table answers about a position it does not own: the `most` links that start closest before it.
#[must_use]
pub fn best_hints<'a>(
    position: &Position,
    links: impl IntoIterator<Item = &'a Arc<Descriptor>>,
    most: usize,
) -> Vec<Arc<Descriptor>> {
    let mut links: Vec<_> = links.into_iter().collect();
    links.sort_by_key(|link| std::cmp::Reverse((closeness(position, &link.range.start), link.group)));
    links.dedup_by_key(|link| link.group);
    links.into_iter().take(most).cloned().collect()
}
