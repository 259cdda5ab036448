//! What leaders hear of the groups around theirs: whether it is true once the ring is at rest.

use crate::history::Time;
use crate::plan::Plan;
use crate::world::World;
use scatter_core::group::GroupState;
use scatter_core::ring::Position;
use scatter_core::ring::routing::{FarLinks, Hop, MAX_LEVELS};
use scatter_core::time::nanos;
use scatter_core::types::GroupId;
use std::collections::BTreeMap;

/// The levels that a leader knows without looking far.
const NEAR_LEVELS: usize = 2;

impl Plan {
    /// How long leaders may take, once the ring is at rest, to hear the truth: as many turns for each level as there are
    /// levels, each once more after an answer that was not heard, and some to find out that a group is gone.
    pub(crate) fn longest_look(&self) -> Time {
        let levels = u64::from(self.most_groups.max(2).ilog2()) + 4;
        2 * levels * levels * nanos(self.config.look_around)
    }
}

impl World {
    /// What the leader of each group knows of groups ahead.
    fn far_links(&self) -> BTreeMap<GroupId, &FarLinks> {
        let groups = self.groups();
        let led = groups.iter().filter_map(|group| {
            let leader = (0..self.hosts.len()).find(|host| self.leads(*host, *group))?;
            Some((*group, self.hosts[leader].process.as_ref()?.node.far_links(*group)?))
        });
        led.collect()
    }

    /// I37: what is wrong with what leaders know of the groups ahead of theirs, if anything is: level `i` is the group `2^i`
    /// ahead, as it is, and all of them together lead from everywhere to everywhere in few hops.
    #[must_use]
    pub fn misguided(&self) -> Option<String> {
        let links = self.far_links();
        let mut ring: Vec<&GroupState> =
            self.groups().iter().filter_map(|group| self.observer.newest(*group)).collect();
        ring.sort_by_key(|state| &state.range.start);
        let states: BTreeMap<GroupId, &GroupState> = ring.iter().map(|state| (state.group, *state)).collect();
        for (index, state) in ring.iter().enumerate() {
            let group = state.group;
            let Some(links) = links.get(&group) else { return Some(format!("nobody leads {group}")) };
            for level in 0..MAX_LEVELS {
                let ahead = 1 << level;
                let expected = (ahead < ring.len()).then(|| ring[(index + ahead) % ring.len()]);
                let expected = expected.filter(|_| level < NEAR_LEVELS || self.plan.far_links);
                let known = links.level(level).map(|link| (link.group, &link.range));
                if known != expected.map(|state| (state.group, &state.range)) {
                    return Some(format!("{group} knows {known:?} at level {level}"));
                }
            }
        }
        let most = ring.len().max(1).ilog2() as usize + 1;
        let ways = ring.iter().flat_map(|from| ring.iter().map(|to| (from.group, &to.range.start)));
        let mut lost = ways.filter(|(from, goal)| self.plan.far_links && !leads_on(&states, &links, *from, goal, most));
        lost.next().map(|(from, goal)| format!("from {from} it is far to {goal:?}"))
    }
}

/// Whether a request for a position that comes to a group is at its owner after so many hops.
fn leads_on(
    states: &BTreeMap<GroupId, &GroupState>,
    links: &BTreeMap<GroupId, &FarLinks>,
    from: GroupId,
    goal: &Position,
    most: usize,
) -> bool {
    let mut at = from;
    for _ in 0..=most {
        let (Some(state), Some(links)) = (states.get(&at), links.get(&at)) else { return false };
        match links.next_hop(&state.range, goal) {
            Hop::Here => return true,
            Hop::Ask(link) => at = link.group,
            Hop::NoWay => return false,
        }
    }
    false
}
