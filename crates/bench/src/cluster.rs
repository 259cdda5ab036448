//! The systems under measure: how each is configured, started, asked for its leader, and started again.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::interrupt::{self, Interrupted};
use crate::process::Server;
use crate::{etcd, probe};

/// How many nodes a replicated system has.
pub const NODES: usize = 3;
/// How long a system may take to become ready, or to have a leader again.
const READY_LIMIT: Duration = Duration::from_secs(60);
const ASK_LIMIT: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Three etcd nodes.
    Etcd,
    /// Three Scatter nodes and a gateway.
    Scatter,
    /// The bare HTTP server.
    Floor,
}

impl std::fmt::Display for System {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(match self {
            Self::Etcd => "etcd",
            Self::Scatter => "scatter",
            Self::Floor => "floor",
        })
    }
}

/// Why a system does not run as it should.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The operating system refused a file, a port or a process.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A configuration cannot be written down.
    #[error("configuration: {0}")]
    Configuration(#[from] toml::ser::Error),
    /// A server ended by itself.
    #[error("{name} ended by itself; its last words:\n{words}")]
    Ended {
        /// Which.
        name: String,
        /// The end of its log.
        words: String,
    },
    /// A server did not become ready, or a system has no leader.
    #[error("{name} is not ready after {} s: {why}; its last words:\n{words}", READY_LIMIT.as_secs())]
    NotReady {
        /// Which.
        name: String,
        /// What is missing.
        why: &'static str,
        /// The end of its log.
        words: String,
    },
    /// The user asked the program to end.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ClusterError {
    let what = what.into();
    move |error| ClusterError::Io { what, error }
}

/// How to start one server, as often as needed.
#[derive(Clone, Debug)]
struct Launch {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
}

impl Launch {
    fn start(&self) -> Result<Server, ClusterError> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        Server::start(&self.name, command, &self.log).map_err(io_error(format!("starting {}", self.program.display())))
    }
}

/// One server and where it listens to clients.
pub struct Member {
    launch: Launch,
    /// The process.
    pub server: Server,
    /// Where it serves clients.
    pub endpoint: SocketAddr,
}

impl Member {
    fn start(launch: Launch, endpoint: SocketAddr) -> Result<Self, ClusterError> {
        Ok(Self { server: launch.start()?, launch, endpoint })
    }

    /// Starts the server again with the same arguments, after its process has ended.
    pub fn restart(&mut self) -> Result<(), ClusterError> {
        self.server.kill().map_err(io_error("ending a server"))?;
        self.server = self.launch.start()?;
        Ok(())
    }

    fn not_ready(&self, why: &'static str) -> ClusterError {
        ClusterError::NotReady { name: self.launch.name.clone(), why, words: self.server.last_words() }
    }
}

/// A node that does not run yet.
pub struct Spare {
    launch: Launch,
    endpoint: SocketAddr,
}

impl Spare {
    /// Starts it; it joins by itself.
    pub fn start(self) -> Result<Member, ClusterError> {
        Member::start(self.launch, self.endpoint)
    }
}

/// A running system.
pub struct Cluster {
    /// Which.
    pub system: System,
    /// Its nodes.
    pub nodes: Vec<Member>,
    /// Its gateway, if it has one.
    pub gateway: Option<Member>,
    /// Its admin program, if it has one.
    pub admin: Option<Member>,
}

/// What a Scatter cluster has beside its defaults.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Settings of the nodes, each as `key=value`.
    pub settings: Vec<String>,
    /// Whether there is an admin program.
    pub admin: bool,
    /// How many more nodes are prepared, to be started later and to join then.
    pub spare: usize,
}

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// etcd's server.
    pub etcd: PathBuf,
    /// The folder with Scatter's binaries.
    pub scatter: PathBuf,
    /// This program, which is also the floor.
    pub bench: PathBuf,
}

impl Cluster {
    /// Starts `system` with its data and logs in `folder`, and waits until it is ready.
    pub fn start(system: System, programs: &Programs, folder: &Path) -> Result<Self, ClusterError> {
        std::fs::create_dir_all(folder).map_err(io_error(format!("creating {}", folder.display())))?;
        let mut cluster = match system {
            System::Etcd => Self::start_etcd(programs, folder)?,
            System::Scatter => Self::start_scatter(programs, folder, &Extras::default())?.0,
            System::Floor => Self::start_floor(programs, folder)?,
        };
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Starts Scatter with more than its defaults; gives the nodes to be started later, too.
    pub fn start_with(extras: &Extras, programs: &Programs, folder: &Path) -> Result<(Self, Vec<Spare>), ClusterError> {
        std::fs::create_dir_all(folder).map_err(io_error(format!("creating {}", folder.display())))?;
        let (mut cluster, spare) = Self::start_scatter(programs, folder, extras)?;
        cluster.wait_ready()?;
        Ok((cluster, spare))
    }

    fn start_etcd(programs: &Programs, folder: &Path) -> Result<Self, ClusterError> {
        let ports = free_ports(NODES * 2)?;
        let (peers, clients) = ports.split_at(NODES);
        let mut nodes = Vec::new();
        for (index, &client) in clients.iter().enumerate() {
            let name = format!("etcd-{}", index + 1);
            let launch = Launch {
                arguments: etcd_arguments(index, peers, client, &folder.join(&name)),
                program: programs.etcd.clone(),
                log: folder.join(format!("{name}.log")),
                name,
            };
            nodes.push(Member::start(launch, client)?);
        }
        Ok(Self { system: System::Etcd, nodes, gateway: None, admin: None })
    }

    fn start_scatter(programs: &Programs, folder: &Path, extras: &Extras) -> Result<(Self, Vec<Spare>), ClusterError> {
        let count = NODES + extras.spare;
        let ports = free_ports(count * 2 + 2)?;
        let (peers, https) = (&ports[..count], &ports[count..count * 2]);
        let founders = &peers[..NODES];
        let set: Vec<OsString> = extras.settings.iter().flat_map(|setting| ["--set".into(), setting.into()]).collect();
        let mut nodes = Vec::new();
        let mut spare = Vec::new();
        for (index, &http) in https.iter().enumerate() {
            let name = format!("node-{}", index + 1);
            let file = NodeFile::new(folder.join(&name), peers[index], founders, http, index < NODES);
            let mut launch = configured(programs, "scatter-node", &name, &toml::to_string(&file)?, folder)?;
            launch.arguments.extend(set.iter().cloned());
            if index < NODES {
                nodes.push(Member::start(launch, http)?);
            } else {
                spare.push(Spare { launch, endpoint: http });
            }
        }
        let start = |name: &str, port| {
            let text = toml::to_string(&GatewayFile::new(port, founders))?;
            Member::start(configured(programs, &format!("scatter-{name}"), name, &text, folder)?, port)
        };
        let gateway = Some(start("gateway", ports[count * 2])?);
        let admin = if extras.admin { Some(start("admin", ports[count * 2 + 1])?) } else { None };
        Ok((Self { system: System::Scatter, nodes, gateway, admin }, spare))
    }

    fn start_floor(programs: &Programs, folder: &Path) -> Result<Self, ClusterError> {
        let port = free_ports(1)?[0];
        let launch = Launch {
            name: "floor".into(),
            program: programs.bench.clone(),
            arguments: vec!["floor".into(), "--listen".into(), port.to_string().into()],
            log: folder.join("floor.log"),
        };
        Ok(Self { system: System::Floor, nodes: vec![Member::start(launch, port)?], gateway: None, admin: None })
    }

    /// Waits until every server is ready and there is a leader.
    pub fn wait_ready(&mut self) -> Result<(), ClusterError> {
        let patience = Instant::now() + READY_LIMIT;
        let system = self.system;
        for member in self.nodes.iter_mut().chain(&mut self.gateway).chain(&mut self.admin) {
            while !is_ready(system, member.endpoint) {
                if member.server.ended().is_some() {
                    let (name, words) = (member.launch.name.clone(), member.server.last_words());
                    return Err(ClusterError::Ended { name, words });
                }
                if Instant::now() >= patience {
                    return Err(member.not_ready("it does not say it is ready"));
                }
                interrupt::sleep(ASK_AGAIN)?;
            }
        }
        self.leader().map(|_| ())
    }

    /// The index of the node that leads; waits for one to be elected. The floor's only server leads itself.
    pub fn leader(&self) -> Result<usize, ClusterError> {
        if self.system == System::Floor {
            return Ok(0);
        }
        let patience = Instant::now() + READY_LIMIT;
        loop {
            if let Some(index) = self.nodes.iter().position(|node| leads(self.system, node.endpoint)) {
                return Ok(index);
            }
            if Instant::now() >= patience {
                return Err(self.nodes[0].not_ready("no node leads"));
            }
            interrupt::sleep(ASK_AGAIN)?;
        }
    }

    /// Where its nodes listen.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.endpoint).collect()
    }

    /// The processes that serve a request: the nodes, and the gateway if it passes through that.
    pub fn pids(&self, with_gateway: bool) -> Vec<u32> {
        let gateway = self.gateway.iter().filter(|_| with_gateway);
        self.nodes.iter().chain(gateway).map(|member| member.server.pid()).collect()
    }
}

fn configured(
    programs: &Programs,
    program: &str,
    name: &str,
    text: &str,
    folder: &Path,
) -> Result<Launch, ClusterError> {
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, text).map_err(io_error(format!("writing {}", file.display())))?;
    Ok(Launch {
        name: name.to_owned(),
        program: programs.scatter.join(program),
        arguments: vec!["--config".into(), file.into()],
        log: folder.join(format!("{name}.log")),
    })
}

fn is_ready(system: System, endpoint: SocketAddr) -> bool {
    match system {
        System::Etcd => etcd::status(endpoint, ASK_LIMIT).is_ok_and(|status| status.leader != 0),
        System::Scatter | System::Floor => {
            probe::get(endpoint, "/readyz", ASK_LIMIT).is_ok_and(|(status, _)| status == 200)
        }
    }
}

fn leads(system: System, endpoint: SocketAddr) -> bool {
    match system {
        System::Etcd => etcd::status(endpoint, ASK_LIMIT).is_ok_and(|status| {
            status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader)
        }),
        System::Scatter => probe::get(endpoint, "/v1/status", ASK_LIMIT)
            .is_ok_and(|(status, body)| status == 200 && says_leader(&body)),
        System::Floor => true,
    }
}

/// What is read of a node's own status.
#[derive(Deserialize)]
struct NodeStatus {
    replicas: Vec<ReplicaStatus>,
}

#[derive(Deserialize)]
struct ReplicaStatus {
    role: String,
}

fn says_leader(body: &[u8]) -> bool {
    serde_json::from_slice::<NodeStatus>(body)
        .is_ok_and(|status| status.replicas.iter().any(|replica| replica.role == "leader"))
}

/// Ports that nobody listens on, held together so that they differ, then let go.
fn free_ports(count: usize) -> Result<Vec<SocketAddr>, ClusterError> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(io_error("looking for a free port"));
    let listeners = (0..count).map(|_| bind()).collect::<Result<Vec<_>, _>>()?;
    listeners.iter().map(|listener| listener.local_addr().map_err(io_error("looking for a free port"))).collect()
}

fn etcd_arguments(index: usize, peers: &[SocketAddr], client: SocketAddr, data: &Path) -> Vec<OsString> {
    let members: Vec<String> =
        peers.iter().enumerate().map(|(index, peer)| format!("etcd-{}=http://{peer}", index + 1)).collect();
    let mut arguments = Vec::new();
    for (name, value) in [
        ("name", format!("etcd-{}", index + 1).into()),
        ("data-dir", data.as_os_str().to_owned()),
        ("listen-peer-urls", format!("http://{}", peers[index]).into()),
        ("initial-advertise-peer-urls", format!("http://{}", peers[index]).into()),
        ("listen-client-urls", format!("http://{client}").into()),
        ("advertise-client-urls", format!("http://{client}").into()),
        ("initial-cluster", members.join(",").into()),
        ("initial-cluster-state", "new".into()),
        ("logger", "zap".into()),
        ("log-outputs", "stderr".into()),
        ("log-level", "error".into()),
    ] {
        arguments.push(OsString::from(format!("--{name}")));
        arguments.push(value);
    }
    arguments
}

/// A storage node's configuration: addresses and identity only, everything else at its default.
#[derive(Serialize)]
struct NodeFile {
    node: NodeSection,
    peer: Listener,
    http: Listener,
    cluster: ClusterSection,
}

#[derive(Serialize)]
struct NodeSection {
    data_dir: PathBuf,
    zone: &'static str,
}

#[derive(Serialize)]
struct Listener {
    listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<SocketAddr>,
}

#[derive(Serialize)]
struct ClusterSection {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    founders: Option<Vec<SocketAddr>>,
    seeds: Vec<SocketAddr>,
}

impl NodeFile {
    fn new(data_dir: PathBuf, peer: SocketAddr, founders: &[SocketAddr], http: SocketAddr, founds: bool) -> Self {
        let listener = |address| Listener { listen: address, advertise: Some(address) };
        Self {
            node: NodeSection { data_dir, zone: "a" },
            peer: listener(peer),
            http: listener(http),
            cluster: ClusterSection {
                name: "bench",
                founders: founds.then(|| founders.to_vec()),
                seeds: founders.to_vec(),
            },
        }
    }
}

/// The configuration of a gateway or of an admin program.
#[derive(Serialize)]
struct GatewayFile {
    http: Listener,
    cluster: ClusterSection,
}

impl GatewayFile {
    fn new(http: SocketAddr, peers: &[SocketAddr]) -> Self {
        Self {
            http: Listener { listen: http, advertise: None },
            cluster: ClusterSection { name: "bench", founders: None, seeds: peers.to_vec() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(from: u16) -> Vec<SocketAddr> {
        (0..3).map(|index| SocketAddr::from((Ipv4Addr::LOCALHOST, from + index))).collect()
    }

    #[test]
    fn a_node_file_has_the_documented_keys_and_no_others() {
        let (peers, https) = (addresses(7001), addresses(7101));
        let text = toml::to_string(&NodeFile::new("data/node-2".into(), peers[1], &peers, https[1], true)).unwrap();
        let wanted: toml::Table = toml::from_str(
            r#"
            node = { data_dir = "data/node-2", zone = "a" }
            peer = { listen = "127.0.0.1:7002", advertise = "127.0.0.1:7002" }
            http = { listen = "127.0.0.1:7102", advertise = "127.0.0.1:7102" }
            [cluster]
            name = "bench"
            founders = ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]
            seeds = ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]
            "#,
        )
        .unwrap();
        assert_eq!(toml::from_str::<toml::Table>(&text).unwrap(), wanted);
    }

    #[test]
    fn a_gateway_file_has_the_documented_keys_and_no_others() {
        let text = toml::to_string(&GatewayFile::new(addresses(8080)[0], &addresses(7001))).unwrap();
        let wanted: toml::Table = toml::from_str(
            r#"
            http = { listen = "127.0.0.1:8080" }
            [cluster]
            name = "bench"
            seeds = ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]
            "#,
        )
        .unwrap();
        assert_eq!(toml::from_str::<toml::Table>(&text).unwrap(), wanted);
    }

    #[test]
    fn every_etcd_node_knows_all_and_itself() {
        let peers = addresses(2380);
        let arguments = etcd_arguments(2, &peers, addresses(2379)[0], Path::new("/data/etcd-3"));
        let value = |name: &str| {
            let at = arguments.iter().position(|argument| argument == name).unwrap();
            arguments[at + 1].to_str().unwrap()
        };
        assert_eq!(value("--name"), "etcd-3");
        assert_eq!(value("--data-dir"), "/data/etcd-3");
        assert_eq!(value("--listen-peer-urls"), "http://127.0.0.1:2382");
        assert_eq!(
            value("--initial-cluster"),
            "etcd-1=http://127.0.0.1:2380,etcd-2=http://127.0.0.1:2381,etcd-3=http://127.0.0.1:2382"
        );
    }

    #[test]
    fn ports_differ() {
        let mut ports = free_ports(7).unwrap();
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 7);
    }

    #[test]
    fn a_leader_is_known_by_its_role() {
        let status = |role: &str| format!(r#"{{"node":{{"id":"a"}},"replicas":[{{"group":"1","role":"{role}"}}]}}"#);
        assert!(says_leader(status("leader").as_bytes()));
        assert!(!says_leader(status("follower").as_bytes()));
        for garbage in ["", "{}", "[]", r#"{"replicas":[{}]}"#, "\u{0}"] {
            assert!(!says_leader(garbage.as_bytes()), "{garbage:?}");
        }
    }
}
