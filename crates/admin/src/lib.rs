//! The admin program: what the ring looks like, what is wrong with it, and orders to its groups. It keeps nothing: every
//! answer is put together from what all nodes say about themselves at that moment.

mod document;
mod events;
mod history;
mod node_orders;
mod orders;
mod page;
mod picture;
mod recover;
mod request;
mod routes;
mod settings;

pub use picture::Picture;
pub use routes::{Admin, router};
pub use settings::{AdminProgramSettings, AdminSettings, ClusterSettings};

use scatter_api::openapi_of_service;
use scatter_client::Client;
use scatter_service::http::{ServerMetrics, Site, bind, serve};
use scatter_service::{Flag, Process, Program};
use std::sync::Arc;
use std::time::Duration;

/// Who the program is.
pub const PROGRAM: Program = Program {
    name: "scatter-admin",
    about: "Shows Scatter's ring and carries out an operator's orders: a web page and JSON",
    version: env!("CARGO_PKG_VERSION"),
    flags: &[
        Flag { name: "listen", key: "http.listen", help: "Host and port for HTTP" },
        Flag { name: "seeds", key: "cluster.seeds", help: "Peer addresses of some nodes, separated by commas" },
        Flag { name: "cluster", key: "cluster.name", help: "Name of the cluster" },
    ],
};

/// Runs the program until its shutdown is requested.
pub async fn run(
    settings: AdminProgramSettings,
    process: Process,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = bind(&settings.http.listen, "http.listen").await?;
    let client = Client::start(settings.client_config())?;
    let registry = scatter_service::metrics::registry();
    let server_metrics = ServerMetrics::register(&registry)?;
    let admin = Arc::new(Admin::new(client.clone(), &settings, process.shutdown.clone()));
    let router = router(admin)
        .merge(page::router())
        .layer(axum::middleware::map_response(async |response: axum::response::Response| page::secure(response)));
    let document = openapi_of_service(&process.program, &document::paths());
    // The page that explains an outage must be reachable during it: only a ring never heard of makes it unready.
    let readiness = Arc::new(move || {
        let known = !client.ring().routes().is_empty();
        if known { Ok(()) } else { Err("the ring is not known yet: no seed has told of it".to_owned()) }
    });
    let site = Site::new(&process.program, registry, readiness, document, process.shutdown.clone())
        .with_router(router)
        .with_body_idle(Duration::from_millis(settings.http.body_idle_ms));
    serve(listener, &settings.http, server_metrics, Arc::new(site), process.shutdown).await;
    Ok(())
}
