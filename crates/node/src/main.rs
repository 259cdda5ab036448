//! `scatter-node`: a storage node.

use scatter_api::{Api, ApiMetrics, openapi};
use scatter_client::{Client, ClientConfig};
use scatter_gateway::{ClientBackend, register_client};
use scatter_node::backend::NodeBackend;
use scatter_node::boot::{Booted, boot};
use scatter_node::driver::{Driver, Ended, Parts};
use scatter_node::events::{Event, Inbox};
use scatter_node::gate::Gate;
use scatter_node::metrics::{LogTimes, NodeCounts};
use scatter_node::service::NodeService;
use scatter_node::serving::Serving;
use scatter_node::settings::NodeSettings;
use scatter_node::storage::rocks::drops;
use scatter_node::storage::sync::{LogHandle, LogThreadSettings};
use scatter_node::transport::{Transport, TransportConfig, TransportMetrics};
use scatter_node::{apply, metrics, status};
use scatter_service::http::{Readiness, ServerMetrics, Site, bind, serve};
use scatter_service::{Flag, Process, Program, Shutdown, process};
use scatter_wire::Identity;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The file in the data directory that is there while the node is to be emptied.
const DRAIN_MARK: &str = "draining";

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PROGRAM: Program = Program {
    name: "scatter-node",
    about: "Stores a part of Scatter's ring and serves the REST data API",
    version: env!("CARGO_PKG_VERSION"),
    flags: &[
        Flag { name: "data-dir", key: "node.data_dir", help: "Folder for everything the node keeps" },
        Flag { name: "peer", key: "peer.listen", help: "Host and port for nodes, gateways and clients" },
        Flag { name: "listen", key: "http.listen", help: "Host and port for HTTP" },
        Flag { name: "founders", key: "cluster.founders", help: "Peer addresses of the first nodes, with commas" },
        Flag { name: "seeds", key: "cluster.seeds", help: "Peer addresses of some nodes, with commas" },
    ],
};

fn main() -> ExitCode {
    process::run(PROGRAM, run)
}

async fn run(settings: NodeSettings, process: Process) -> Result<(), Failure> {
    let listener = bind(&settings.http.listen, "http.listen").await?;
    let peer_listen = settings.peer.listen.resolve().await?.first().copied().ok_or("peer.listen has no address")?;
    let registry = scatter_service::metrics::registry();
    let booted = {
        let settings = settings.clone();
        tokio::task::spawn_blocking(move || boot(&settings)).await??
    };
    let identity = identity(&settings, &booted);
    tracing::info!(node = %identity.node, boot = identity.boot, "started");
    let store = booted.store.clone();
    let serving = Arc::new(Serving::new(store.clone(), NodeCounts::new()?, settings.policy.min_size));
    let inbox = Inbox::new();
    let drain_mark = settings.node.data_dir.join(DRAIN_MARK);
    let service = NodeService::new(serving.clone(), inbox.clone(), identity.clone(), drain_mark);
    metrics::register(&registry, serving.clone(), inbox.clone())?;
    let times = LogTimes::register(&registry)?;

    let (ended, consensus, transport) =
        start_consensus(&settings, peer_listen, booted, &service, &inbox, times, &identity)?;
    let client = Client::start(ClientConfig {
        cluster_name: settings.cluster.name.clone(),
        seeds: vec![settings.peer_address()],
        agent: format!("scatter-node/{}", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })?;
    metrics::register_transport(&registry, transport)?;
    register_client(&registry, &client)?;
    client.register_local(Arc::new(service.clone()));

    let (api_metrics, server_metrics) = (ApiMetrics::register(&registry)?, ServerMetrics::register(&registry)?);
    let document = openapi(&process.program, &serde_json::json!({}));
    let site = Site::new(&process.program, registry, readiness(serving.clone()), document, process.shutdown.clone())
        .with_router(status::router(serving, identity));
    let backend = NodeBackend::new(service, ClientBackend::new(client));
    let api = Arc::new(Api::new(backend, &settings.api, &settings.http, api_metrics, site));
    let serving_http = serve(listener, &settings.http, server_metrics, api, process.shutdown.clone());
    let outcome = finish(serving_http, ended, &inbox, &process.shutdown).await;
    if consensus.join().is_err() {
        return Err("the consensus thread panicked".into());
    }
    // Nobody waits for a disk that has failed.
    if outcome.is_ok() {
        store.stop_background_work();
    }
    outcome
}

/// Waits for the end: HTTP drains first, then the node hands over what it leads.
async fn finish(
    http: impl Future<Output = ()>,
    mut ended: oneshot::Receiver<Ended>,
    inbox: &Inbox,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    tokio::pin!(http);
    tokio::select! {
        () = &mut http => {}
        early = &mut ended => {
            shutdown.request();
            return Err(early.map_or_else(|_| "the consensus thread ended".into(), |ended| ended.to_string().into()));
        }
    }
    inbox.push(Event::Drain);
    match ended.await {
        Ok(Ended::Drained) => Ok(()),
        Ok(fatal @ Ended::Fatal(_)) => Err(fatal.to_string().into()),
        Err(_) => Err("the consensus thread ended".into()),
    }
}

fn identity(settings: &NodeSettings, booted: &Booted) -> Identity {
    let record = booted.node.record();
    Identity {
        cluster_name: settings.cluster.name.clone(),
        cluster: record.cluster,
        node: record.node,
        boot: record.boot,
        nonce: booted.nonce,
        earlier: record.nonces.iter().skip(1).copied().collect(),
        peer_address: settings.peer_address(),
        http_address: settings.http_address(),
        zone: settings.node.zone.clone(),
    }
}

fn readiness(serving: Arc<Serving>) -> Readiness {
    Arc::new(move || {
        let view = serving.view.load();
        if view.cluster.is_none() {
            return Err(view.problem.clone().unwrap_or_else(|| "the node belongs to no cluster yet".to_owned()));
        }
        let leadership = serving.leadership.load();
        match serving
            .groups
            .load()
            .iter()
            .find(|group| leadership.get(&group.group).is_none_or(|leadership| leadership.leader.is_none()))
        {
            Some(group) => Err(format!("no leader is known of group {}", group.group)),
            None => Ok(()),
        }
    })
}

type Started = (oneshot::Receiver<Ended>, std::thread::JoinHandle<()>, Arc<TransportMetrics>);

/// Starts the threads behind the node: log, apply, drop, flush, and the one that runs driver and transport.
fn start_consensus(
    settings: &NodeSettings,
    peer_listen: std::net::SocketAddr,
    booted: Booted,
    service: &NodeService,
    inbox: &Arc<Inbox>,
    times: LogTimes,
    identity: &Identity,
) -> Result<Started, Failure> {
    let Booted { node, effects, log, reader, store, stage, nonce: _ } = booted;
    let serving = service.serving().clone();
    let (apply, _) =
        apply::start(stage, store.clone(), serving.clone(), inbox.clone(), settings.storage.snapshot_bytes_per_second)?;
    let interval = Duration::from_millis(settings.storage.flush_interval_ms);
    drops::start(store.clone(), settings.storage.drop_bytes_per_second)?;
    apply::start_flusher(store, apply.clone(), inbox.clone(), interval)?;
    let tell = inbox.clone();
    let log = LogHandle::start(log, LogThreadSettings::default(), times, move |event| tell.push(Event::Log(event)))?;
    let parts = Parts {
        node,
        effects,
        log,
        log_reader: reader,
        apply,
        serving,
        inbox: inbox.clone(),
        identity: identity.clone(),
        policies: settings.policies(),
        gossip: settings.gossip(),
        emptying: settings.node.data_dir.join(DRAIN_MARK).exists(),
    };
    let config = TransportConfig { listen: peer_listen, ..TransportConfig::default() };
    let (tell_ended, ended) = oneshot::channel();
    let (tell_ready, ready) = std::sync::mpsc::channel();
    let service = service.clone();
    let thread = std::thread::Builder::new().name("consensus".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(tell_ready.send(Err(error))),
        };
        // A task of its own: what is waited for right here is woken by a system call each time.
        let running = runtime.spawn_local(async move {
            let driver = Driver::new(parts);
            let gate = Rc::new(Gate(driver.clone()));
            match Transport::start(config, gate.clone(), gate, Rc::new(service)) {
                Ok(transport) => {
                    let metrics = transport.metrics();
                    driver.borrow_mut().attach_transport(transport);
                    drop(tell_ready.send(Ok(metrics)));
                    drop(tell_ended.send(scatter_node::driver::run(driver).await));
                }
                Err(error) => drop(tell_ready.send(Err(error))),
            }
        });
        if let Err(error) = runtime.block_on(running)
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    })?;
    let metrics = ready.recv()??;
    Ok((ended, thread, metrics))
}
