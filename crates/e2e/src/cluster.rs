//! A cluster of real processes with data in a folder of its own.

use crate::http::{self, Failed, Reply, Request};
use crate::ports::{self, Port};
use crate::process::Process;
use crate::{programs, wait};
use serde_json::Value;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use tempfile::TempDir;

/// What each node is told beside its addresses: small files, so that tests are not about filling disks with zeroes.
const NODE_SETTINGS: [(&str, &str); 2] = [("storage.segment_bytes", "4194304"), ("storage.cache_bytes", "8388608")];

/// With these groups do nothing by themselves: what happens is what an operator orders.
pub const BY_HAND: [(&str, &str); 8] = [
    ("policy.resilience", "false"),
    ("policy.zones", "false"),
    ("policy.split", "false"),
    ("policy.merge", "false"),
    ("policy.repartition", "false"),
    ("policy.migrate", "false"),
    ("policy.leaders", "false"),
    ("policy.latency", "false"),
];

/// With these groups are repaired, grow and are emptied, and nothing else happens by itself.
pub const REPAIRS: [(&str, &str); 9] = [
    // Long for a test, short enough for groups to be looked at every two seconds.
    ("policy.replace_dead_after_ms", "8000"),
    ("policy.resilience", "true"),
    ("policy.zones", "false"),
    ("policy.split", "false"),
    ("policy.merge", "false"),
    ("policy.repartition", "false"),
    ("policy.migrate", "false"),
    ("policy.leaders", "false"),
    ("policy.latency", "false"),
];

/// How many of the last lines of each log a failed test shows.
const LAST_LINES: usize = 30;

/// One program with its settings, whether it runs or not.
#[derive(Debug)]
pub struct Member {
    /// What it is called in the folder and in messages.
    pub name: String,
    /// Where it serves HTTP.
    pub http: SocketAddr,
    /// Where it listens to nodes; unused by programs that are none.
    pub peer: SocketAddr,
    /// What it keeps; unused by programs that keep nothing.
    pub data: PathBuf,
    program: &'static str,
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Process>,
    _ports: [Port; 2],
}

impl Member {
    fn new(program: &'static str, name: &str, folder: &Path) -> Self {
        let ports = [ports::take(), ports::take()];
        let mut member = Self {
            name: name.to_owned(),
            http: ports[0].address,
            peer: ports[1].address,
            data: folder.join(name),
            program,
            settings: Vec::new(),
            environment: Vec::new(),
            log: folder.join(format!("{name}.log")),
            process: None,
            _ports: ports,
        };
        member.set("http.listen", &member.http.to_string());
        member
    }

    /// Changes a setting from the next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// Adds a variable to its environment from the next start on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The command that starts it.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(programs::path(self.program));
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it runs.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        self.process = Some(Process::start(&self.name, self.command(), &self.log));
    }

    /// Its process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    /// Whether it was started and not ended by the test.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process().kill();
        self.process = None;
    }

    /// Asks it to end and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process().terminate();
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.process().wait();
        self.process = None;
        status
    }

    /// Kills it and starts it again.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// All that it has said since it was first started.
    #[must_use]
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until it says it can serve.
    ///
    /// # Panics
    /// If it ends, or is never ready.
    pub fn wait_ready(&mut self) {
        let what = format!("{} is ready", self.name);
        wait::until_true(&what, || {
            if let Some(status) = self.process().ended() {
                panic!("{} ended by itself: {status}\n{}", self.name, last_lines(&self.said()));
            }
            http::get(self.http, "/readyz").is_ok_and(|reply| reply.status == 200)
        });
    }

    /// A node's own account of itself, once it answers.
    #[must_use]
    pub fn status(&self) -> Value {
        let what = format!("{} tells its status", self.name);
        wait::until(&what, || self.try_status())
    }

    /// A node's own account of itself, if it answers.
    #[must_use]
    pub fn try_status(&self) -> Option<Value> {
        let reply = Request { limit: std::time::Duration::from_secs(2), ..Request::new("GET", "/v1/status") };
        reply.ask(self.http).ok().filter(|reply| reply.status == 200).map(|reply| reply.json())
    }

    /// A node's id.
    ///
    /// # Panics
    /// If it tells none.
    #[must_use]
    pub fn id(&self) -> String {
        text(&self.status()["node"]["id"])
    }

    /// The role of its only replica; empty if it has none.
    #[must_use]
    pub fn role(&self) -> String {
        self.try_status()
            .and_then(|status| status["replicas"][0]["role"].as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// Nodes, and perhaps a gateway and the admin program.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Member>,
    /// The gateway, if there is one.
    pub gateway: Option<Member>,
    /// The admin program, if there is one.
    pub admin: Option<Member>,
    folder: TempDir,
    /// How many nodes there have been, for their names.
    named: usize,
}

impl Cluster {
    /// A cluster of founders that is ready.
    #[must_use]
    pub fn start(founders: usize) -> Self {
        Self::start_with(founders, &[])
    }

    /// The same with further settings of every node.
    #[must_use]
    pub fn start_with(founders: usize, settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self::prepare(founders, settings);
        cluster.start_nodes();
        cluster.wait_ready();
        cluster
    }

    /// Founders with one list of all of them, none started.
    ///
    /// # Panics
    /// If there is no place for their data.
    #[must_use]
    pub fn prepare(founders: usize, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for data");
        let mut cluster = Self { nodes: Vec::new(), gateway: None, admin: None, folder, named: 0 };
        for _ in 0..founders {
            cluster.push_node(settings);
        }
        let list = cluster.peers();
        for node in &mut cluster.nodes {
            node.set("cluster.founders", &list);
        }
        cluster
    }

    /// A node that founds nothing; not started. Returns its index.
    pub fn push_node(&mut self, settings: &[(&str, &str)]) -> usize {
        self.named += 1;
        let mut node = Member::new("scatter-node", &format!("node-{}", self.named), self.folder.path());
        for (key, value) in NODE_SETTINGS.iter().chain(settings) {
            node.set(key, value);
        }
        node.set("node.data_dir", &node.data.display().to_string());
        node.set("peer.listen", &node.peer.to_string());
        node.set("cluster.seeds", &self.peers());
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Kills a node, if it still runs, and removes its data. What it said stays, and nobody gets its ports as long as what is returned
    /// is kept.
    pub fn remove_node(&mut self, index: usize) -> Member {
        let mut node = self.nodes.remove(index);
        if node.is_running() {
            node.kill();
        }
        // A node that had not begun to write has none.
        let _ = std::fs::remove_dir_all(&node.data);
        node
    }

    /// Where everything is kept.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether everything stays where it is at the end, for somebody to look at.
    pub fn keep_folder(&mut self, keep: bool) {
        self.folder.disable_cleanup(keep);
    }

    /// Starts a gateway and returns its address.
    pub fn start_gateway(&mut self) -> SocketAddr {
        let gateway = self.gateway.insert(Member::new("scatter-gateway", "gateway", self.folder.path()));
        Self::start_aside(gateway, &peers(&self.nodes))
    }

    /// Starts the admin program and returns its address.
    pub fn start_admin(&mut self) -> SocketAddr {
        self.start_admin_with(&[])
    }

    /// The same with further settings.
    pub fn start_admin_with(&mut self, settings: &[(&str, &str)]) -> SocketAddr {
        let admin = self.admin.insert(Member::new("scatter-admin", "admin", self.folder.path()));
        // A test looks again because something has changed.
        admin.set("admin.keep_ms", "0");
        for (key, value) in settings {
            admin.set(key, value);
        }
        Self::start_aside(admin, &peers(&self.nodes))
    }

    fn start_aside(member: &mut Member, seeds: &str) -> SocketAddr {
        member.set("cluster.seeds", seeds);
        member.start();
        member.wait_ready();
        member.http
    }

    /// The nodes' peer addresses, with commas.
    #[must_use]
    pub fn peers(&self) -> String {
        peers(&self.nodes)
    }

    /// Where all nodes serve HTTP.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.http).collect()
    }

    /// Starts every node.
    pub fn start_nodes(&mut self) {
        self.nodes.iter_mut().for_each(Member::start);
    }

    /// Waits until every node that runs can serve.
    pub fn wait_ready(&mut self) {
        self.nodes.iter_mut().filter(|node| node.is_running()).for_each(Member::wait_ready);
    }

    /// The node that leads, by its own account, the nodes at `without` not asked.
    #[must_use]
    pub fn leader_without(&self, without: &[usize]) -> usize {
        wait::until("somebody leads", || {
            let mut asked =
                self.nodes.iter().enumerate().filter(|(index, node)| node.is_running() && !without.contains(index));
            asked.find(|(_, node)| node.role() == "leader").map(|(index, _)| index)
        })
    }

    /// The node that leads, by its own account.
    #[must_use]
    pub fn leader(&self) -> usize {
        self.leader_without(&[])
    }

    /// The only group's id and its voters' ids, sorted, as its leader says.
    #[must_use]
    pub fn group(&self) -> (String, Vec<String>) {
        let status = self.nodes[self.leader()].status();
        let replica = &status["replicas"][0];
        let members = replica["configuration"]["members"].as_array().cloned().unwrap_or_default();
        let voters = members.iter().filter(|member| member["role"] == "voter");
        let mut voters: Vec<String> = voters.map(|member| text(&member["node"])).collect();
        voters.sort();
        (text(&replica["group"]), voters)
    }
}

fn peers(nodes: &[Member]) -> String {
    let list: Vec<String> = nodes.iter().map(|node| node.peer.to_string()).collect();
    list.join(",")
}

/// Writes a key, repeating what is refused or lost, until it is acknowledged.
pub fn put_patiently(to: SocketAddr, key: &str, value: &[u8]) -> Reply {
    wait::until(&format!("a write of {key} through {to}"), || {
        http::put(to, key, value).ok().filter(|reply| matches!(reply.status, 200 | 201))
    })
}

/// Reads a key, repeating what is refused or lost, until there is an answer: the value, if there is one.
pub fn get_patiently(from: SocketAddr, key: &str) -> Option<Vec<u8>> {
    wait::until(&format!("a read of {key} through {from}"), || match http::get(from, &format!("/v1/kv/{key}")) {
        Ok(reply) if reply.status == 200 => Some(Some(reply.body)),
        Ok(reply) if reply.status == 404 => Some(None),
        Ok(_) | Err(Failed::NotSent(_) | Failed::Lost(_)) => None,
    })
}

/// A JSON string's text.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut shown = String::new();
            for member in self.nodes.iter().chain(&self.gateway).chain(&self.admin) {
                let _ = writeln!(shown, "--- {} at {}\n{}", member.name, member.http, last_lines(&member.said()));
            }
            eprintln!("{shown}");
        }
    }
}
