//! The ring as the admin program shows it, and what the death of a node would mean to it.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// So many beginnings of positions there are, eight bytes each.
pub(crate) const AROUND: u128 = 1 << 64;

/// Ids of nodes, as the admin program writes them.
pub(crate) type Nodes = BTreeSet<String>;

/// The ring.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Ring {
    /// In ring order.
    pub groups: Vec<Group>,
    /// Kinds of what is wrong, but for nodes that do not answer.
    pub problems: Vec<String>,
}

/// A group.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Group {
    pub id: String,
    /// Where its range begins and ends, in hexadecimal.
    pub start: String,
    pub end: String,
    pub leader: Option<String>,
    pub voters: Vec<String>,
    pub learners: Vec<String>,
    /// Whether an operation holds it.
    pub pending: bool,
}

impl Ring {
    /// Reads the document of `/v1/ring`.
    pub(crate) fn parse(document: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let group = |group: &Value| {
            let members = list(&group["members"]);
            let (learners, voters) = members.iter().partition::<Vec<_>, _>(|member| member["role"] == "learner");
            let ids = |members: Vec<&Value>| members.into_iter().map(|member| text(&member["node"])).collect();
            Group {
                id: text(&group["id"]),
                start: text(&group["range"]["start"]),
                end: text(&group["range"]["end"]),
                leader: group["leader"].as_str().map(str::to_owned),
                voters: ids(voters),
                learners: ids(learners),
                pending: !group["pending"].is_null(),
            }
        };
        let problems = list(&document["problems"]).iter().map(|problem| text(&problem["kind"])).collect::<Vec<_>>();
        Self {
            groups: list(&document["groups"]).iter().map(group).collect(),
            // Dead nodes are remembered for long.
            problems: problems.into_iter().filter(|kind| kind != "unreachable").collect(),
        }
    }

    /// Whether every position has one owner, and so every group is seen.
    pub(crate) fn is_whole(&self) -> bool {
        let holes = ["gap", "overlap", "no_ring", "incomplete"];
        !self.groups.is_empty() && !self.problems.iter().any(|kind| holes.contains(&kind.as_str()))
    }

    /// Whether every group keeps a majority of living voters without `node`.
    pub(crate) fn can_spare(&self, node: &str, alive: &Nodes) -> bool {
        self.is_whole()
            && self.groups.iter().all(|group| {
                let left = group.voters.iter().filter(|voter| *voter != node && alive.contains(*voter)).count();
                !group.has(node) || left > group.voters.len() / 2
            })
    }

    /// Ids of the groups of which no majority of the voters lives.
    pub(crate) fn without_majority(&self, alive: &Nodes) -> Vec<String> {
        let is_broken = |group: &&Group| {
            let living = group.voters.iter().filter(|voter| alive.contains(*voter)).count();
            living <= group.voters.len() / 2
        };
        self.groups.iter().filter(is_broken).map(|group| group.id.clone()).collect()
    }

    /// What is still to be done; nothing if the ring is at rest.
    pub(crate) fn unrest(&self, alive: &Nodes, size: usize) -> Option<String> {
        if !self.is_whole() || !self.problems.is_empty() {
            return Some(format!("problems: {:?}", self.problems));
        }
        self.groups.iter().find_map(|group| {
            let dead = group.members().find(|member| !alive.contains(*member));
            dead.map(|dead| format!("group {} has the dead member {dead}", group.id))
                .or_else(|| group.pending.then(|| format!("group {} is held by an operation", group.id)))
                .or_else(|| group.leader.is_none().then(|| format!("group {} has no leader", group.id)))
                .or_else(|| (!group.learners.is_empty()).then(|| format!("group {} has learners", group.id)))
                .or_else(|| {
                    let voters = group.voters.len();
                    (voters != size.min(alive.len())).then(|| format!("group {} has {voters} voters", group.id))
                })
        })
    }

    /// The living nodes that are no members of `group`, those with the fewest replicas first.
    pub(crate) fn candidates(&self, group: &Group, alive: &Nodes) -> Vec<String> {
        let mut replicas: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.groups.iter().flat_map(Group::members) {
            *replicas.entry(member).or_default() += 1;
        }
        let mut found: Vec<String> = alive.iter().filter(|node| !group.has(node)).cloned().collect();
        found.sort_by_key(|node| replicas.get(node.as_str()).copied().unwrap_or(0));
        found
    }
}

impl Group {
    /// Voters and learners.
    pub(crate) fn members(&self) -> impl Iterator<Item = &String> {
        self.voters.iter().chain(&self.learners)
    }

    /// Whether a node is a member.
    pub(crate) fn has(&self, node: &str) -> bool {
        self.members().any(|member| member == node)
    }

    /// The ends of its range as numbers: the first eight bytes of each. A range may go past the last position and on from
    /// the first one; its end is then once around.
    pub(crate) fn span(&self) -> (u128, u128) {
        let (start, end) = (number(&self.start), number(&self.end));
        (start, if end > start { end } else { end + AROUND })
    }
}

/// The first eight bytes of a position.
fn number(position: &str) -> u128 {
    let digits = format!("{position:0<16}");
    u128::from_str_radix(&digits[..16], 16).unwrap_or(0)
}

/// The position that begins with these eight bytes, once around or not, without zeroes at its end: such are no boundaries.
pub(crate) fn position(number: u128) -> String {
    let digits = format!("{:016x}", number % AROUND);
    let mut digits = digits.as_str();
    while let Some(shorter) = digits.strip_suffix("00") {
        digits = shorter;
    }
    digits.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn group(id: &str, voters: &[&str]) -> Value {
        let members: Vec<Value> = voters.iter().map(|node| json!({ "node": node, "role": "follower" })).collect();
        json!({ "id": id, "range": { "start": "", "end": "" }, "leader": voters[0], "members": members, "pending": null })
    }

    fn ring(groups: Vec<Value>, problems: &[&str]) -> Ring {
        let problems: Vec<Value> = problems.iter().map(|kind| json!({ "kind": kind })).collect();
        Ring::parse(&json!({ "groups": groups, "problems": problems }))
    }

    fn nodes(ids: &[&str]) -> Nodes {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_node_is_spared_while_a_group_needs_it() {
        let ring = ring(vec![group("1", &["a", "b", "c"]), group("2", &["c", "d", "e"])], &["unreachable"]);
        let all = nodes(&["a", "b", "c", "d", "e", "f"]);
        assert!(all.iter().all(|node| ring.can_spare(node, &all)));
        let without_a = nodes(&["b", "c", "d", "e", "f"]);
        for (node, spared) in [("b", false), ("c", false), ("d", true), ("e", true), ("f", true)] {
            assert_eq!(ring.can_spare(node, &without_a), spared, "{node}");
        }
        assert_eq!(ring.unrest(&all, 3), None);
        assert!(ring.unrest(&all, 5).is_some_and(|what| what.contains("3 voters")));
        assert!(ring.unrest(&without_a, 3).is_some_and(|what| what.contains("dead member a")));
        assert_eq!(ring.candidates(&ring.groups[0], &all), ["f", "d", "e"]);
        assert_eq!(ring.without_majority(&without_a), [""; 0]);
        assert_eq!(ring.without_majority(&nodes(&["b", "d", "e", "f"])), ["1"]);
    }

    #[test]
    fn nobody_is_killed_while_the_ring_is_not_seen_whole() {
        let all = nodes(&["a", "b", "c"]);
        assert!(!ring(vec![group("1", &["a", "b", "c"])], &["incomplete"]).can_spare("a", &all));
        assert!(!Ring::default().can_spare("a", &all));
        assert!(ring(vec![group("1", &["a", "b", "c"])], &["lagging"]).can_spare("a", &all));
    }

    #[test]
    fn a_learner_is_no_voter() {
        let mut document = group("1", &["a", "b", "c"]);
        document["members"][2]["role"] = json!("learner");
        let ring = ring(vec![document], &[]);
        assert_eq!(ring.groups[0].voters, ["a", "b"]);
        assert!(!ring.can_spare("a", &nodes(&["a", "b", "c"])), "the learner does not count");
        assert!(!ring.can_spare("c", &nodes(&["a", "c"])), "one of two is no majority");
        assert!(ring.can_spare("c", &nodes(&["a", "b", "c"])));
    }

    #[test]
    fn positions_are_numbers_and_back() {
        for (text, value) in [("80", 1_u128 << 63), ("", 0), ("0123456789abcdef", 0x0123_4567_89ab_cdef)] {
            assert_eq!(number(text), value);
            assert_eq!(position(value), text);
        }
        assert_eq!(number("0123456789abcdef6162"), 0x0123_4567_89ab_cdef);
        let group = |start: &str, end: &str| Group { start: start.into(), end: end.into(), ..Group::default() };
        assert_eq!(group("c0", "").span(), (3 << 62, AROUND));
        assert_eq!(group("c0", "40").span(), (3 << 62, AROUND + (1 << 62)));
        assert_eq!(group("", "").span(), (0, AROUND));
        assert_eq!(position(AROUND + (1 << 62)), "40");
    }
}
