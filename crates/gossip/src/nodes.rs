//! What is known of nodes: how they live, and what they told of themselves.

use crate::exchange::{Element, Span};
use crate::hint::{Load, LoadReport, NodeNews, Profile, Told};
use crate::identity::Identity;
use scatter_core::rng::Rng;
use scatter_core::time::Instant;
use scatter_core::types::NodeId;
use std::time::Duration;

/// How a node seems to live.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// It answers, or somebody says so.
    Alive,
    /// It did not answer somebody, and has a while to say that it lives.
    Suspect,
    /// It did not.
    Down,
}

/// One node, as far as is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    identity: Identity,
    incarnation: u16,
    state: State,
    since: Instant,
    told: Option<Told>,
    load: Option<(LoadReport, Instant)>,
}

impl Node {
    /// The node in the latest life heard of.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How it seems to live.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it is in that state, by this node's boot clock. If others told of its death later, since when they say.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// For how long it is down, if it is.
    #[must_use]
    pub fn down_for(&self, now: Instant) -> Option<Duration> {
        (self.state == State::Down).then(|| now.since(self.since))
    }

    /// What it told of itself last, maybe in an earlier life.
    #[must_use]
    pub fn profile(&self) -> Option<&Profile> {
        self.told.as_ref().map(|told| &told.profile)
    }

    /// Its load when it told of it last, and when this node heard of that.
    #[must_use]
    pub fn load(&self) -> Option<(Load, Instant)> {
        self.load.map(|(report, heard)| (report.load, heard))
    }

    /// How often it has denied a suspicion in this life.
    pub(crate) fn incarnation(&self) -> u16 {
        self.incarnation
    }

    /// What this node tells of it.
    pub(crate) fn news(&self, now: Instant) -> NodeNews {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        NodeNews {
            identity: self.identity.clone(),
            incarnation: self.incarnation,
            down_ms: self.down_for(now).map(millis),
            told: self.told.clone(),
        }
    }

    /// Rises with everything that an exchange is to spread: a later life, the end of one, another profile.
    fn version(&self) -> u128 {
        let told = self.told.as_ref().filter(|told| told.boot == self.identity.boot);
        let bump = u128::from(self.identity.bump & (u32::MAX >> 1));
        let down = u128::from(self.state == State::Down);
        let revision = u128::from(told.map_or(0, |told| told.revision));
        u128::from(self.identity.boot) << 64 | bump << 33 | down << 32 | revision
    }
}

/// Something happened to a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// It lives: new, back, started again, elsewhere, or cleared of a suspicion.
    Up {
        /// The node.
        node: NodeId,
        /// In which boot.
        boot: u64,
    },
    /// It may be dead.
    Suspect {
        /// The node.
        node: NodeId,
    },
    /// It is taken for dead.
    Down {
        /// The node.
        node: NodeId,
    },
    /// It was dead for long, and is forgotten.
    Forgotten {
        /// The node.
        node: NodeId,
    },
    /// It told something else of itself.
    Profile {
        /// The node.
        node: NodeId,
    },
}

/// All nodes known, this one included, by rising id.
pub(crate) struct NodeTable {
    nodes: Vec<Node>,
    own: NodeId,
}

impl NodeTable {
    pub(crate) fn new(own: Identity, now: Instant) -> Self {
        let node = own.node;
        let own = Node { identity: own, incarnation: 0, state: State::Alive, since: now, told: None, load: None };
        Self { nodes: vec![own], own: node }
    }

    fn index(&self, node: NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by_key(&node, |known| known.identity.node)
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Node> {
        self.index(node).ok().map(|index| &self.nodes[index])
    }

    fn get_mut(&mut self, node: NodeId) -> Option<&mut Node> {
        self.index(node).ok().map(|index| &mut self.nodes[index])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// This node.
    pub(crate) fn own(&self) -> &Node {
        self.get(self.own).expect("a node knows itself")
    }

    /// This node, to be changed.
    fn own_mut(&mut self) -> &mut Node {
        self.get_mut(self.own).expect("a node knows itself")
    }

    /// This node goes on in another life.
    pub(crate) fn set_own_identity(&mut self, identity: Identity) {
        self.own_mut().identity = identity;
    }

    /// This node tells something else of itself. Returns whether it is something else.
    pub(crate) fn set_own_profile(&mut self, profile: Profile) -> bool {
        let own = self.own_mut();
        if own.profile() == Some(&profile) {
            return false;
        }
        let revision = own.told.as_ref().map_or(0, |told| told.revision).saturating_add(1);
        own.told = Some(Told { boot: own.identity.boot, revision, profile });
        true
    }

    /// This node is as busy as that.
    pub(crate) fn set_own_load(&mut self, load: Load, now: Instant) {
        let own = self.own_mut();
        let revision = own.load.map_or(0, |(report, _)| report.revision).saturating_add(1);
        let Identity { node, boot, .. } = own.identity;
        own.load = Some((LoadReport { node, boot, revision, load }, now));
    }

    /// Takes in how a member lives. `age` is how long ago that began.
    pub(crate) fn observe(
        &mut self,
        identity: &Identity,
        incarnation: u16,
        state: State,
        now: Instant,
        age: Duration,
    ) -> Option<Event> {
        let node = identity.node;
        let since = Instant(now.0.saturating_sub(scatter_core::time::nanos(age)));
        let index = match self.index(node) {
            Ok(index) => index,
            Err(index) => {
                let identity = identity.clone();
                self.nodes.insert(index, Node { identity, incarnation, state, since, told: None, load: None });
                return Some(event(node, self.nodes[index].identity.boot, state));
            }
        };
        let known = &mut self.nodes[index];
        known.incarnation = incarnation;
        let another_life = known.identity != *identity;
        if known.state != state || known.identity.boot != identity.boot {
            known.since = since;
        } else if !another_life {
            return None;
        }
        known.state = state;
        known.identity = identity.clone();
        Some(event(node, identity.boot, state))
    }

    /// Takes in what a node told of itself. Returns whether it is newer than what was known.
    pub(crate) fn learn_profile(&mut self, node: NodeId, told: &Told) -> bool {
        if node == self.own {
            return false;
        }
        let Some(known) = self.get_mut(node) else { return false };
        let newer = told.is_newer(known.told.as_ref());
        if newer {
            known.told = Some(told.clone());
        }
        newer
    }

    /// Takes in a node's load.
    pub(crate) fn learn_load(&mut self, report: LoadReport, now: Instant) {
        if report.node == self.own {
            return;
        }
        let Some(known) = self.get_mut(report.node) else { return };
        let newer = |(known, _): &(LoadReport, Instant)| (report.boot, report.revision) > (known.boot, known.revision);
        if known.load.as_ref().is_none_or(newer) {
            known.load = Some((report, now));
        }
    }

    /// Forgets a node.
    pub(crate) fn forget(&mut self, node: NodeId) {
        if let Ok(index) = self.index(node)
            && node != self.own
        {
            self.nodes.remove(index);
        }
    }

    /// The node that has been down for the longest time.
    pub(crate) fn longest_down(&self) -> Option<&Node> {
        self.nodes.iter().filter(|node| node.state == State::Down).min_by_key(|node| node.since)
    }

    /// Those that have been down for longer than that.
    pub(crate) fn down_for_longer(&self, than: Duration, now: Instant) -> Vec<Identity> {
        let long = |node: &&Node| node.down_for(now).is_some_and(|span| span > than);
        self.nodes.iter().filter(long).map(|node| node.identity.clone()).collect()
    }

    /// A random other node that is not down.
    pub(crate) fn random_peer(&self, rng: &mut Rng) -> Option<&Node> {
        let start = random_index(rng, self.nodes.len());
        let fits = |node: &&Node| node.state != State::Down && node.identity.node != self.own;
        // Whoever follows a run of dead ones is chosen a little more often, which does no harm.
        self.nodes[start..].iter().chain(&self.nodes[..start]).find(fits)
    }

    /// A few loads to pass on: this node's own, and of some drawn at random those heard last.
    pub(crate) fn some_loads(&self, count: usize, rng: &mut Rng) -> Vec<LoadReport> {
        let own = self.own().load.iter().map(|(report, _)| *report);
        let mut drawn: Vec<(Instant, LoadReport)> = Vec::new();
        for _ in 0..count.saturating_sub(1) * 2 {
            let node = &self.nodes[random_index(rng, self.nodes.len())];
            if let Some((report, heard)) = node.load
                && node.state != State::Down
                && node.identity.node != self.own
                && drawn.iter().all(|(_, known)| known.node != report.node)
            {
                drawn.push((heard, report));
            }
        }
        drawn.sort_by_key(|(heard, report)| (std::cmp::Reverse(*heard), report.node));
        own.chain(drawn.into_iter().map(|(_, report)| report)).take(count).collect()
    }

    /// What an exchange compares. Those that have been down for longer than `tell_down` are not told of: whoever heard
    /// of them would remember them anew, and pass them on when this node has forgotten.
    pub(crate) fn elements(&self, span: Span, tell_down: Duration, now: Instant) -> Vec<Element> {
        let from = self.nodes.partition_point(|node| node.identity.node.0 < span.from);
        let inside = self.nodes[from..].iter().take_while(|node| node.identity.node.0 <= span.to);
        let told = inside.filter(|node| node.down_for(now).is_none_or(|span| span <= tell_down));
        told.map(|node| Element { key: node.identity.node.0, version: node.version() }).collect()
    }
}

fn event(node: NodeId, boot: u64, state: State) -> Event {
    match state {
        State::Alive => Event::Up { node, boot },
        State::Suspect => Event::Suspect { node },
        State::Down => Event::Down { node },
    }
}

/// A random number below `length`, zero if that is zero.
pub(crate) fn random_index(rng: &mut Rng, length: usize) -> usize {
    // The remainder of a division by a usize is one.
    (rng.next() % (length.max(1) as u64)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::Kind;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant(0).after(SECOND * u32::try_from(seconds).unwrap())
    }

    fn table() -> NodeTable {
        NodeTable::new(Identity::new(NodeId(5), 1, "n5"), at(0))
    }

    fn other(boot: u64) -> Identity {
        Identity::new(NodeId(2), boot, "n2")
    }

    #[test]
    fn states_are_dated_and_told_as_events() {
        let mut table = table();
        let up = Some(Event::Up { node: NodeId(2), boot: 1 });
        assert_eq!(table.observe(&other(1), 0, State::Alive, at(1), Duration::ZERO), up);
        assert_eq!(table.observe(&other(1), 1, State::Alive, at(2), Duration::ZERO), None);
        assert_eq!(table.get(NodeId(2)).map(Node::since), Some(at(1)));
        let suspect = Some(Event::Suspect { node: NodeId(2) });
        assert_eq!(table.observe(&other(1), 1, State::Suspect, at(3), Duration::ZERO), suspect);
        let down = Some(Event::Down { node: NodeId(2) });
        assert_eq!(table.observe(&other(1), 1, State::Down, at(9), SECOND * 4), down);
        assert_eq!(table.get(NodeId(2)).and_then(|node| node.down_for(at(10))), Some(SECOND * 5));
        assert_eq!(table.down_for_longer(SECOND * 5, at(10)).len(), 0);
        assert_eq!(table.down_for_longer(SECOND * 5, at(11)).len(), 1);
        let back = Some(Event::Up { node: NodeId(2), boot: 2 });
        assert_eq!(table.observe(&other(2), 0, State::Alive, at(12), Duration::ZERO), back);
        assert_eq!(table.get(NodeId(2)).and_then(|node| node.down_for(at(20))), None);
    }

    #[test]
    fn versions_rise_with_lives_deaths_and_profiles() {
        let mut table = table();
        let version = |table: &NodeTable| table.get(NodeId(2)).map(Node::version);
        let told = |boot, revision| Told { boot, revision, profile: Profile::default() };
        table.observe(&other(1), 0, State::Alive, at(1), Duration::ZERO);
        let mut versions = vec![version(&table)];
        assert!(table.learn_profile(NodeId(2), &told(1, 7)));
        assert!(!table.learn_profile(NodeId(2), &told(1, 6)));
        versions.push(version(&table));
        table.observe(&other(1), 3, State::Down, at(1), Duration::ZERO);
        versions.push(version(&table));
        let renewed = Identity { bump: 1, ..other(1) };
        table.observe(&renewed, 0, State::Alive, at(1), Duration::ZERO);
        versions.push(version(&table));
        table.observe(&other(2), 0, State::Alive, at(1), Duration::ZERO);
        versions.push(version(&table));
        assert!(table.learn_profile(NodeId(2), &told(2, 1)));
        versions.push(version(&table));
        assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "{versions:?}");
    }

    #[test]
    fn the_long_dead_are_not_told_of() {
        let mut table = table();
        table.observe(&other(1), 0, State::Down, at(10), Duration::ZERO);
        let keys = |now| {
            let elements = table.elements(Span::whole(Kind::Node), SECOND * 5, now);
            elements.into_iter().map(|element| element.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(at(15)), [2, 5]);
        assert_eq!(keys(at(16)), [5]);
    }

    #[test]
    fn nobody_else_tells_a_node_of_itself() {
        let mut table = table();
        let load = Load { replicas: 3, ..Load::default() };
        table.set_own_load(load, at(1));
        let report = LoadReport { node: NodeId(5), boot: 9, revision: 9, load: Load::default() };
        table.learn_load(report, at(2));
        assert_eq!(table.own().load(), Some((load, at(1))));
        assert!(table.set_own_profile(Profile::default()));
        assert!(!table.set_own_profile(Profile::default()));
        assert!(!table.learn_profile(NodeId(5), &Told { boot: 9, revision: 9, profile: Profile::default() }));
    }
}
