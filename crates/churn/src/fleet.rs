//! The nodes: they are killed when their time is over, and others with empty disks come in their place.
//!
//! All of this happens on one thread, the one that began the run: the kernel ends every process with it.

use crate::events::Events;
use crate::lifetime;
use crate::missing::Missing;
use crate::options::{Options, Replace};
use crate::ring::Ring;
use crate::timeline::{Mark, Timeline};
use scatter_e2e::cluster::{Cluster, Member};
use scatter_e2e::http::Request;
use scatter_e2e::operator::Operator;
use scatter_sim::random::Random;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a node that was spared is left alone before its turn comes again.
const SPARED: Duration = Duration::from_millis(500);
/// How long somebody may take to say something about itself.
const WORD: Duration = Duration::from_millis(300);
/// How long the admin program may take to show the ring.
const RING: Duration = Duration::from_secs(5);
/// The logs of so many dead nodes are kept, and so long nobody gets their ports.
const MOST_DEAD: usize = 200;
/// How much of the log of a node that ended by itself is told.
const LAST_BYTES: usize = 3_000;

/// The fleet.
pub(crate) struct Fleet<'a> {
    pub cluster: Cluster,
    options: &'a Options,
    events: &'a Events,
    /// One for each node of the cluster, in its order.
    lives: Vec<Life>,
    /// When the next nodes come.
    arrivals: Vec<Instant>,
    dead: VecDeque<Member>,
    random: Random,
    pub counts: Counts,
}

/// One node's life.
#[derive(Clone, Debug)]
struct Life {
    /// Its id, once it has told it.
    id: Option<String>,
    /// Whether it has said that it can serve.
    ready: bool,
    began: Instant,
    ends: Option<Instant>,
    /// Since when it lives on by mercy.
    spared: Option<Instant>,
}

/// What was done to nodes.
#[derive(Clone, Default, Debug)]
pub(crate) struct Counts {
    pub kills: u64,
    /// Of these, nodes that led a group.
    pub leaders: u64,
    /// Nodes that had not become ready.
    pub unready_kills: u64,
    /// Nodes that came later.
    pub arrivals: u64,
    /// Kills that had to wait.
    pub postponed: u64,
    /// How long they waited, together.
    pub waited: Duration,
    /// Seconds that the killed had lived, rising only when sorted.
    pub lived: Vec<f64>,
    /// Processes that ended by themselves, with their last words.
    pub ended: Vec<String>,
    /// Voters that are dead.
    pub missing: Missing,
    /// How often the ring was looked at.
    pub looks: u64,
    /// Of these, looks that showed a group without a living majority.
    pub broken_looks: u64,
}

impl<'a> Fleet<'a> {
    /// Starts nodes, gateway and admin program, and waits until all are ready.
    ///
    /// # Panics
    /// If they are not ready in time.
    pub(crate) fn start(options: &'a Options, events: &'a Events, random: Random) -> Self {
        let settings = settings(options);
        let settings: Vec<(&str, &str)> = settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let mut cluster = Cluster::prepare(options.group_size, &settings);
        // Until it is known that all went well.
        cluster.keep_folder(true);
        for _ in options.group_size..options.nodes {
            cluster.push_node(&settings);
        }
        cluster.start_nodes();
        cluster.wait_ready();
        cluster.start_gateway();
        // An order that cannot be carried out soon is of no use: the members may be dead by then.
        cluster.start_admin_with(&[("admin.order_ms", "10000"), ("admin.survey_ms", "1000")]);
        let began = Instant::now();
        let life = |id: String| Life { id: Some(id), ready: true, began, ends: None, spared: None };
        let lives: Vec<Life> = cluster.nodes.iter().map(|node| life(node.id())).collect();
        lives.iter().filter_map(|life| life.id.as_ref()).for_each(|id| events.is_born(id));
        for (node, life) in cluster.nodes.iter().zip(&lives) {
            events.tell(&format!("{} is node {}", node.name, life.id.as_deref().unwrap_or_default()));
        }
        let (arrivals, dead, counts) = (Vec::new(), VecDeque::new(), Counts::default());
        Self { cluster, options, events, lives, arrivals, dead, random, counts }
    }

    /// Where the gateway serves.
    ///
    /// # Panics
    /// Never: it was started.
    pub(crate) fn gateway(&self) -> SocketAddr {
        self.cluster.gateway.as_ref().expect("it was started").http
    }

    /// Somebody at the admin program.
    ///
    /// # Panics
    /// Never: it was started.
    pub(crate) fn operator(&self) -> Operator {
        Operator { admin: self.cluster.admin.as_ref().expect("it was started").http }
    }

    /// The ring, if it is shown.
    pub(crate) fn ring(&self) -> Option<Ring> {
        self.operator().try_ring(RING).map(|document| Ring::parse(&document))
    }

    /// The ring, if it is shown; to be called once a second. Notes whether one of its groups cannot decide anything, as too many of its
    /// voters are dead, and which of the dead are voters no more.
    pub(crate) fn look(&mut self) -> Option<Ring> {
        let ring = self.ring()?;
        self.counts.missing.look(&ring);
        let broken = ring.without_majority(&self.events.alive());
        self.counts.looks += 1;
        self.counts.broken_looks += u64::from(!broken.is_empty());
        if !broken.is_empty() {
            self.events.tell(&format!("groups without a living majority: {}", broken.join(", ")));
        }
        Some(ring)
    }

    /// Draws when each of the nodes dies.
    pub(crate) fn let_die(&mut self) {
        let now = Instant::now();
        for life in &mut self.lives {
            life.began = now;
            life.ends = Some(now + lifetime::draw(self.options.median_lifetime, &mut self.random));
        }
    }

    /// Kills nobody any more; who was to come still does.
    pub(crate) fn let_live(&mut self) {
        self.lives.iter_mut().for_each(|life| life.ends = None);
        self.arrivals.iter_mut().for_each(|arrival| *arrival = Instant::now());
    }

    /// How many nodes run.
    pub(crate) fn len(&self) -> usize {
        self.lives.len()
    }

    /// Whether all nodes are there and ready.
    pub(crate) fn is_complete(&self) -> bool {
        self.arrivals.is_empty() && self.lives.iter().all(|life| life.ready)
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, timeline: &Timeline) {
        self.notice_ends();
        self.learn();
        self.start_due(timeline);
        self.kill_due(timeline);
    }

    /// Processes that ended by themselves: each is a finding. A node is replaced like one that was killed.
    pub(crate) fn notice_ends(&mut self) {
        for index in (0..self.lives.len()).rev() {
            let Some(last_words) = last_words(&mut self.cluster.nodes[index]) else { continue };
            self.note_end(last_words);
            self.bury(index);
        }
        let mut ended = Vec::new();
        for member in self.cluster.gateway.iter_mut().chain(&mut self.cluster.admin) {
            if let Some(last_words) = last_words(member) {
                ended.push(last_words);
                member.restart();
            }
        }
        ended.into_iter().for_each(|last_words| self.note_end(last_words));
    }

    fn note_end(&mut self, last_words: String) {
        self.events.show(last_words.lines().next().unwrap_or_default());
        self.counts.ended.push(last_words);
    }

    /// Asks those that are new for their ids, and whether they are ready.
    fn learn(&mut self) {
        for (node, life) in self.cluster.nodes.iter().zip(&mut self.lives).filter(|(_, life)| !life.ready) {
            let ask = |path| Request { limit: WORD, ..Request::new("GET", path) }.ask(node.http).ok();
            if life.id.is_none() {
                let status = ask("/v1/status").map(|reply| reply.json()).unwrap_or_default();
                if let Some(id) = status["node"]["id"].as_str() {
                    life.id = Some(id.to_owned());
                    self.events.is_born(id);
                    self.events.tell(&format!("{} is node {id}", node.name));
                }
            }
            if life.id.is_some() && ask("/readyz").is_some_and(|reply| reply.status == 200) {
                life.ready = true;
                let seconds = life.began.elapsed().as_secs_f64();
                self.events.tell(&format!("{} is ready after {seconds:.1} s", node.name));
            }
        }
    }

    fn start_due(&mut self, timeline: &Timeline) {
        let now = Instant::now();
        while let Some(due) = self.arrivals.iter().position(|at| *at <= now) {
            self.arrivals.swap_remove(due);
            let settings = settings(self.options);
            let settings: Vec<(&str, &str)> =
                settings.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let index = self.cluster.push_node(&settings);
            let node = &mut self.cluster.nodes[index];
            node.start();
            self.events.tell(&format!("{} comes", node.name));
            let ends = now + lifetime::draw(self.options.median_lifetime, &mut self.random);
            self.lives.push(Life { id: None, ready: false, began: now, ends: Some(ends), spared: None });
            self.counts.arrivals += 1;
            timeline.mark(Mark::Start);
        }
    }

    /// Kills at most one: what its death does to the ring must be known before the next one's is judged.
    fn kill_due(&mut self, timeline: &Timeline) {
        let now = Instant::now();
        let Some(index) = self.lives.iter().position(|life| life.ends.is_some_and(|ends| ends <= now)) else { return };
        let ring = self.ring();
        // Also the last node of all is needed, to tell the next one where the cluster is.
        let spared = self.options.mercy && (self.lives.len() < 2 || !self.can_be_spared(index, ring.as_ref()));
        let life = &mut self.lives[index];
        if spared {
            life.ends = Some(now + SPARED);
            if life.spared.is_none() {
                life.spared = Some(now);
                self.counts.postponed += 1;
                self.events.tell(&format!("{} is spared for the time being", self.cluster.nodes[index].name));
            }
            return;
        }
        self.counts.waited += life.spared.map_or(Duration::ZERO, |since| since.elapsed());
        self.counts.kills += 1;
        self.counts.unready_kills += u64::from(!life.ready);
        let lived = life.began.elapsed().as_secs_f64();
        self.counts.lived.push(lived);
        let led = match (&life.id, &ring) {
            (Some(id), Some(ring)) => ring.groups.iter().filter(|group| group.leader.as_ref() == Some(id)).count(),
            _ => 0,
        };
        self.counts.leaders += u64::from(led > 0);
        self.events.tell(&format!("{}, leader of {led}, is killed after {lived:.1} s", self.cluster.nodes[index].name));
        timeline.mark(Mark::Kill);
        self.bury(index);
    }

    fn can_be_spared(&self, index: usize, ring: Option<&Ring>) -> bool {
        // Who has not told its id is a member of nothing.
        let Some(id) = &self.lives[index].id else { return true };
        ring.is_some_and(|ring| ring.can_spare(id, &self.events.alive()))
    }

    /// Kills a node if it still runs, removes its data, and has another one come later.
    fn bury(&mut self, index: usize) {
        let life = self.lives.remove(index);
        let dead = self.cluster.remove_node(index);
        if let Some(id) = &life.id {
            self.events.has_died(id);
            self.counts.missing.has_died(id);
        }
        self.arrivals.push(Instant::now() + lifetime::wait(self.options.absence, &mut self.random));
        self.dead.push_back(dead);
        if self.dead.len() > MOST_DEAD
            && let Some(oldest) = self.dead.pop_front()
        {
            // A log that stays does no harm.
            let _ = std::fs::remove_file(self.cluster.folder().join(format!("{}.log", oldest.name)));
        }
    }
}

/// That a process ended by itself, how, and what it said at last; nothing if it runs.
fn last_words(member: &mut Member) -> Option<String> {
    let status = member.process().ended()?;
    let said = member.said();
    let last = String::from_utf8_lossy(&said.as_bytes()[said.len().saturating_sub(LAST_BYTES)..]).into_owned();
    Some(format!("{} ended by itself: {status}; its last words:\n{last}", member.name))
}

/// What each node is told beside its addresses.
fn settings(options: &Options) -> Vec<(String, String)> {
    let size = options.group_size;
    let sizes = [("target", size), ("min", size.min(3)), ("max", size.max(7))];
    let mut settings: Vec<(String, String)> =
        sizes.iter().map(|(what, size)| (format!("policy.{what}_size"), size.to_string())).collect();
    settings.extend(options.node_set.iter().cloned());
    if options.replace == Replace::ByPolicy {
        settings.push(("policy.replace_dead_after_ms".into(), options.replace_dead_after.as_millis().to_string()));
    }
    settings
}
