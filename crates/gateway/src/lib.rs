//! The gateway: the REST data API over the client library. It keeps nothing that outlives it, so any number of gateways
//! may stand side by side.

mod backend;
mod metrics;
mod settings;

pub use backend::{ClientBackend, consistency, read_path};
pub use metrics::register_client;
pub use settings::{ClientSettings, ClusterSettings, GatewaySettings};

use scatter_api::{Api, ApiMetrics, openapi};
use scatter_client::Client;
use scatter_service::http::{Readiness, ServerMetrics, Site, bind, serve};
use scatter_service::{Flag, Process, Program};
use std::sync::Arc;

/// Who the program is.
pub const PROGRAM: Program = Program {
    name: "scatter-gateway",
    about: "Serves Scatter's REST data API and routes each request to the nodes that own its key",
    version: env!("CARGO_PKG_VERSION"),
    flags: &[
        Flag { name: "listen", key: "http.listen", help: "Host and port for HTTP" },
        Flag { name: "seeds", key: "cluster.seeds", help: "Peer addresses of some nodes, separated by commas" },
        Flag { name: "cluster", key: "cluster.name", help: "Name of the cluster" },
    ],
};

/// Runs the gateway until its shutdown is requested.
pub async fn run(settings: GatewaySettings, process: Process) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = bind(&settings.http.listen, "http.listen").await?;
    let client = Client::start(settings.client_config())?;
    let registry = scatter_service::metrics::registry();
    register_client(&registry, &client)?;
    let (api_metrics, server_metrics) = (ApiMetrics::register(&registry)?, ServerMetrics::register(&registry)?);
    let document = openapi(&process.program, &serde_json::json!({}));
    let site = Site::new(&process.program, registry, readiness(client.clone()), document, process.shutdown.clone());
    let api = Api::new(ClientBackend::new(client), &settings.api, &settings.http, api_metrics, site);
    serve(listener, &settings.http, server_metrics, Arc::new(api), process.shutdown).await;
    Ok(())
}

/// Ready while some group is known with a leader: with part of the ring down, the rest is still served.
fn readiness(client: Client) -> Readiness {
    Arc::new(move || {
        if client.is_ready() {
            return Ok(());
        }
        Err(if client.ring().routes().is_empty() {
            "the ring is not known yet: no seed has told of it".into()
        } else {
            "no group is known to have a leader".into()
        })
    })
}
