//! Protocol stories: golden scripts in `testscripts/`.
//!
//! A story is prose, commands behind `> `, and, indented by two spaces, what happened: messages, what reached a disk,
//! what was decided and applied, replies. It must happen exactly so. `UPDATE_STORIES=1` writes down what happens instead;
//! read the difference before you keep it. `harness/render.rs` tells how to read the lines.
//!
//! ```text
//! set [NODE] SETTING VALUE     for nodes set up or started from here on
//! found A B C                  sets up and starts founders
//! add D [at C] [founders ..]   sets up and starts a node, at another's address; seeds are the founders of `found`
//! crash A, start A, lose A     a process dies or starts; its disk is lost with it
//! save A, restore A            copies log and store; puts the copy back
//! pause A, resume A            a process stands still
//! run MS, quiet MS             time passes; quietly
//! propose A [G] x=1 y=2, read A [G] x  clients, all at once, at the group G
//! hand-over A [G] B, change A [G] +D -B    an operator's orders to the leader A of G
//! split A [G] POSITION         gives the part of G from there on to a new group
//! merge A [G] before|after, shift A [G] before|after POSITION  G takes all its neighbour has, or up to there
//! condemn D A B, recover D [G] D E         nobody listens to A and B again; G goes on with D and E alone
//! cut A [B], heal              no message passes; everything passes
//! drop A>B [G] [KIND], hold A>B [G] [KIND], release A>B, damage A>B [KIND], pass A>B
//! double A>B [G] [KIND]        passes, and a copy is held for `release`
//! hold-sync A, sync A          the disk stops answering; answers
//! full A, room A, flush A      the log's disk is full or not; the store becomes durable
//! wall A MS                    the date is off by so much
//! load A [G] BYTES RATE        A's shell tells it how much G holds and does in a second
//! far A B                      leaders on these nodes look for links to groups far ahead
//! around A [G]                 what G's leader A has heard of other groups
//! tell all, tell news          with or without messages that repeat the last
//! status                       how everybody stands
//! ```
//!
//! G is `g1`, `g2`, .., by default `g1`. A position is hexadecimal; `at:x` is that of the key x.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use harness::disk::{Disk, copy_store};
use harness::network::{Fate, Rule};
use harness::{Cluster, address, config, render};
use scatter_core::entry::Room;
use scatter_core::ops::order::{Order, Side};
use scatter_core::policy::GroupLoad;
use scatter_core::ring::{Key, Position};
use scatter_core::store::map::MapStore;
use scatter_core::types::{FeatureLevel, GroupId};
use scatter_core::{Config, Input, ReadMode};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One story being told.
struct Story {
    cluster: Cluster,
    founders: String,
    settings: Vec<(Option<char>, String, u64)>,
    saved: BTreeMap<char, (Disk, MapStore)>,
}

fn only(word: &str) -> char {
    let mut letters = word.chars();
    let letter = letters.next().unwrap();
    assert!(letters.next().is_none(), "{word} is not one node");
    letter
}

fn set(config: &mut Config, name: &str, value: u64) {
    let millis = Duration::from_millis(value);
    match name {
        "lease_ms" => config.lease = millis,
        "heartbeat_ms" => config.heartbeat = millis,
        "election_ms" => (config.election_min, config.election_max) = (millis, millis),
        "change_patience_ms" => config.change_patience = millis,
        "membership_patience_ms" => config.membership_patience = millis,
        "snapshot_patience_ms" => config.snapshot_patience = millis,
        "group_resend_ms" => config.group_resend = millis,
        "look_around_ms" => config.look_around = millis,
        "seal_patience_ms" => config.seal_patience = millis,
        "order_patience_ms" => config.order_patience = millis,
        "log_retain_slots" => config.log_retain_slots = value,
        "log_memory_bytes" => config.log_memory_bytes = usize::try_from(value).unwrap(),
        "snapshot_chunk_bytes" => config.snapshot_chunk_bytes = usize::try_from(value).unwrap(),
        "pipeline_entries" => config.pipeline_entries = value,
        "feature_level" => config.feature_level = FeatureLevel(u16::try_from(value).unwrap()),
        "max_replicas" => config.max_replicas = usize::try_from(value).unwrap(),
        "max_incoming" => config.max_incoming = usize::try_from(value).unwrap(),
        "covers" => config.covers = value != 0,
        "quorum_reads" => config.read_mode = if value == 0 { ReadMode::Lease } else { ReadMode::Quorum },
        _ => panic!("no setting is called {name}"),
    }
}

fn position(word: &str) -> Position {
    if let Some(key) = word.strip_prefix("at:") {
        return Key::new(key.as_bytes().to_vec()).unwrap().position();
    }
    let bytes: Vec<u8> =
        (0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()).collect();
    Position(bytes.into())
}

fn side(word: &str) -> Side {
    match word {
        "before" => Side::Predecessor,
        "after" => Side::Successor,
        _ => panic!("{word} is no side"),
    }
}

impl Story {
    fn new() -> Self {
        Self { cluster: Cluster::empty(), founders: String::new(), settings: Vec::new(), saved: BTreeMap::new() }
    }

    fn config(&self, letter: char) -> Config {
        let mut config = config(letter);
        for (whose, name, value) in &self.settings {
            if whose.is_none_or(|whose| whose == letter) {
                set(&mut config, name, *value);
            }
        }
        config
    }

    fn tell(&mut self, command: &str) -> Vec<String> {
        let words: Vec<&str> = command.split_whitespace().collect();
        self.set_up(&words);
        std::mem::take(&mut self.cluster.trace)
    }

    fn set_up(&mut self, words: &[&str]) {
        match words {
            ["set", name, value] => self.settings.push((None, (*name).to_owned(), value.parse().unwrap())),
            ["set", node, name, value] => {
                self.settings.push((Some(only(node)), (*name).to_owned(), value.parse().unwrap()));
            }
            ["found", nodes @ ..] => {
                self.founders = nodes.concat();
                let founders = self.founders.clone();
                for letter in founders.chars() {
                    self.cluster.add(letter, address(letter), &founders, &founders, self.config(letter));
                }
                for letter in founders.chars() {
                    self.cluster.start(letter);
                }
            }
            ["add", node, rest @ ..] => self.add(only(node), rest),
            ["start", nodes @ ..] => {
                for node in nodes {
                    let config = self.config(only(node));
                    self.cluster.host(only(node)).config = config;
                    self.cluster.start(only(node));
                }
            }
            ["save", node] => {
                let host = self.cluster.host(only(node));
                self.saved.insert(only(node), (host.disk.clone(), copy_store(&host.store)));
            }
            ["restore", node] => {
                let (disk, store) = self.saved.remove(&only(node)).unwrap();
                let host = self.cluster.host(only(node));
                assert!(host.process.is_none(), "{node} runs");
                (host.disk, host.store) = (disk, store);
            }
            ["lose", node] => {
                self.cluster.crash(only(node));
                self.cluster.hosts.remove(&only(node));
            }
            _ => self.order(words),
        }
    }

    fn add(&mut self, letter: char, mut rest: &[&str]) {
        let mut place = address(letter);
        if let ["at", other, more @ ..] = rest {
            place = address(only(other));
            rest = more;
        }
        let (founders, seeds) = match rest {
            ["founders", nodes @ ..] => (nodes.concat(), nodes.concat()),
            [] => (String::new(), self.founders.clone()),
            _ => panic!("add what? {rest:?}"),
        };
        self.cluster.add(letter, place, &founders, &seeds, self.config(letter));
        self.cluster.start(letter);
    }

    fn order(&mut self, words: &[&str]) {
        let cluster = &mut self.cluster;
        match words {
            ["run", millis] => cluster.run(millis.parse().unwrap()),
            ["quiet", millis] => {
                cluster.quiet = true;
                cluster.run(millis.parse().unwrap());
                cluster.quiet = false;
            }
            ["crash", nodes @ ..] => nodes.iter().for_each(|node| cluster.crash(only(node))),
            ["pause", node] => cluster.pause(only(node), true),
            ["resume", node] => cluster.pause(only(node), false),
            ["full", node] => cluster.input(only(node), Input::Room { room: Room::Reserve }),
            ["short", node] => cluster.input(only(node), Input::Room { room: Room::Removals }),
            ["room", node] => cluster.input(only(node), Input::Room { room: Room::Enough }),
            ["flush", node] => cluster.flush(only(node)),
            ["hold-sync", node] => cluster.hold_sync(only(node), true),
            ["hold-machines", node] => cluster.hold_machines(only(node), true),
            ["let-machines", node] => cluster.hold_machines(only(node), false),
            ["sync", node] => cluster.hold_sync(only(node), false),
            ["wall", node, millis] => {
                cluster.host(only(node)).wall_skew_micros = millis.parse::<u64>().unwrap() * 1_000;
            }
            ["far", nodes @ ..] => nodes.iter().for_each(|node| cluster.process(only(node)).node.seek_far_links(true)),
            ["status"] => self.status(),
            ["condemn", node, condemned @ ..] => {
                let nodes = condemned.iter().map(|letter| harness::id(only(letter))).collect();
                cluster.condemn(only(node), "condemn", nodes);
            }
            [
                "propose" | "read" | "hand-over" | "change" | "split" | "merge" | "shift" | "recover" | "load"
                | "around" | "hear",
                node,
                rest @ ..,
            ] => {
                let named = rest.first().and_then(|word| self.cluster.names.group(word));
                let rest = if named.is_some() { &rest[1..] } else { rest };
                let group = named.unwrap_or_else(|| self.cluster.group());
                self.ask(words[0], only(node), group, rest);
            }
            _ => self.disturb(words),
        }
    }

    /// Asks a group's replica on a node for something.
    fn ask(&mut self, what: &str, node: char, group: GroupId, words: &[&str]) {
        let cluster = &mut self.cluster;
        let label = || format!("{what} {}", words.join(" "));
        match (what, words) {
            ("propose", pairs) => {
                for pair in pairs {
                    match pair.split_once('=') {
                        Some((key, value)) => cluster.put_in(node, group, key, value),
                        None => cluster.delete_in(node, group, pair),
                    };
                }
            }
            ("read", [key]) => cluster.read(node, group, key),
            ("hand-over", [to]) => {
                cluster.hand_over_in(node, group, only(to));
            }
            ("change", changes) => {
                let with = |sign: char| changes.iter().filter_map(|it| it.strip_prefix(sign)).collect::<String>();
                cluster.change_in(node, group, &with('+'), &with('-'));
            }
            ("split", [at]) => {
                cluster.reshape(node, group, &label(), Order::Split { at: position(at) });
            }
            ("merge", [from]) => {
                cluster.reshape(node, group, &label(), Order::TakeOver { from: side(from), boundary: None });
            }
            ("recover", survivors) => {
                let survivors = survivors.iter().map(|letter| harness::id(only(letter))).collect();
                cluster.recover(node, group, &label(), survivors);
            }
            ("shift", [from, to]) => {
                let order = Order::TakeOver { from: side(from), boundary: Some(position(to)) };
                cluster.reshape(node, group, &label(), order);
            }
            ("load", [bytes, rate]) => {
                let (bytes, operations_per_second) = (bytes.parse().unwrap(), rate.parse().unwrap());
                let load = GroupLoad { keys: 1, bytes, operations_per_second };
                cluster.process(node).node.note_load(group, load);
            }
            ("around", []) => cluster.say_around(node, group),
            ("hear", of) => {
                let of: Vec<GroupId> = of.iter().map(|word| cluster.names.group(word).unwrap()).collect();
                cluster.hear(node, group, &of);
            }
            _ => panic!("what is {what} {words:?}?"),
        }
    }

    fn disturb(&mut self, words: &[&str]) {
        let names = &self.cluster.names;
        let network = &mut self.cluster.network;
        let rule = |from: char, to: char, which: &[&str], fate: Fate| {
            let group = which.iter().find_map(|word| names.group(word));
            let kind = which.last().filter(|word| names.group(word).is_none()).map(|kind| (*kind).to_owned());
            Rule { from, to, group, kind, fate }
        };
        let ends = |pair: &str| pair.split_once('>').map(|(from, to)| (only(from), only(to))).unwrap();
        match words {
            ["tell", what] => network.tell_all = *what == "all",
            ["heal"] => network.rules.clear(),
            ["cut", node] => {
                network.rules.push(rule(only(node), '*', &[], Fate::Lost));
                network.rules.push(rule('*', only(node), &[], Fate::Lost));
            }
            ["cut", one, other] => {
                network.rules.push(rule(only(one), only(other), &[], Fate::Lost));
                network.rules.push(rule(only(other), only(one), &[], Fate::Lost));
            }
            [what @ ("drop" | "hold" | "double" | "damage"), pair, which @ ..] => {
                let fate = match *what {
                    "hold" => Fate::Held,
                    "double" => Fate::Twice,
                    "damage" => Fate::Damaged,
                    _ => Fate::Lost,
                };
                let (from, to) = ends(pair);
                network.rules.push(rule(from, to, which, fate));
            }
            ["pass", pair] => {
                let (from, to) = ends(pair);
                network.rules.retain(|rule| (rule.from, rule.to) != (from, to));
            }
            ["release", pair] => {
                let (from, to) = ends(pair);
                for late in network.release(self.cluster.now_ms, from, to) {
                    let words = render::message(&self.cluster.names, &late);
                    self.cluster.say("late", format!("{from} -> {to}: {words}"));
                }
            }
            _ => panic!("what is {words:?}?"),
        }
    }

    fn status(&mut self) {
        let letters: Vec<char> = self.cluster.hosts.keys().copied().collect();
        for letter in letters {
            let mut statuses = self.cluster.statuses(letter);
            if self.cluster.hosts[&letter].process.is_none() {
                self.cluster.say(letter, "down");
            } else if statuses.is_empty() {
                let node = &self.cluster.process(letter).node;
                let cluster = if node.cluster().is_some() { "in a cluster" } else { "in no cluster" };
                let problem = node.birth_problem().map(|problem| format!(": {problem}")).unwrap_or_default();
                self.cluster.say(letter, format!("no replica, {cluster}{problem}"));
            }
            statuses.sort_by_key(|status| self.cluster.names.of(status.replica.group));
            for status in statuses {
                let configuration = status.configuration.as_ref().map(render::configuration).unwrap_or_default();
                let (promised, decided, applied) = (render::ballot(status.ballot), status.decided, status.applied);
                let (role, shape) = (status.role, self.cluster.shape(letter, status.replica.group));
                let words = format!(
                    "{role}, promised {promised}, decided {decided}, applied {applied}, {configuration}{shape}"
                );
                self.cluster.say_of(letter, status.replica.group, words);
            }
        }
    }
}

/// The script as it reads with what happens today.
fn told(script: &str) -> String {
    let mut story = Story::new();
    let mut text = String::new();
    for line in script.lines().filter(|line| !line.starts_with("  ")) {
        text.push_str(line);
        text.push('\n');
        if let Some(command) = line.strip_prefix("> ") {
            for happened in story.tell(command) {
                text.push_str("  ");
                text.push_str(happened.trim_end());
                text.push('\n');
            }
        }
    }
    text
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

fn first_difference(expected: &str, happened: &str) -> String {
    let missing = "(the end)";
    let (mut expected, mut happened) = (expected.lines(), happened.lines());
    for line in 1.. {
        let (expected, happened) = (expected.next().unwrap_or(missing), happened.next().unwrap_or(missing));
        if expected != happened {
            return format!("line {line}\n    expected {expected}\n    happened {happened}");
        }
    }
    String::new()
}

#[test]
fn every_story_happens_as_told() {
    let update = std::env::var_os("UPDATE_STORIES").is_some();
    let wanted = std::env::var("STORY").unwrap_or_default();
    let mut failed = Vec::new();
    let scripts = scripts();
    assert!(!scripts.is_empty());
    for path in scripts.iter().filter(|path| path.to_string_lossy().contains(&wanted)) {
        let expected = std::fs::read_to_string(path).unwrap();
        let happened = std::panic::catch_unwind(|| told(&expected)).unwrap_or_else(|_| panic!("in {}", path.display()));
        if update {
            std::fs::write(path, &happened).unwrap();
        } else if happened != expected {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            failed.push(format!("{name}: {}", first_difference(&expected, &happened)));
        }
    }
    assert!(failed.is_empty(), "\n{}\n(UPDATE_STORIES=1 rewrites)", failed.join("\n"));
}

#[test]
fn the_same_story_is_told_twice_in_the_same_words() {
    let script = "> found A B C\n> run 800\n> propose A x=1\n> crash A\n> run 900\n> status\n";
    assert_eq!(told(script), told(script));
}
