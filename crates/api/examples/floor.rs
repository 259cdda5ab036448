//! Serves keys from memory, to measure what HTTP alone costs: `floor api|axum PORT`.
//!
//! `api` is the data API over its in-memory backend, `axum` the least that a server can do: a router and a map.

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use scatter_api::testing::Memory;
use scatter_api::{Api, ApiMetrics, ApiSettings};
use scatter_service::http::{HttpSettings, ServerMetrics, Site, bind, serve};
use scatter_service::{Program, Shutdown, metrics};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

const PROGRAM: Program = Program { name: "floor", about: "The floor.", version: "0.0.0", flags: &[] };

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (kind, port) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let address = format!("127.0.0.1:{port}");
    match kind.as_str() {
        "api" => api(address).await,
        "axum" => floor(address).await,
        _ => Err("floor api|axum PORT".into()),
    }
}

async fn api(address: String) -> Result<(), Box<dyn Error>> {
    let registry = metrics::registry();
    let settings = HttpSettings { listen: address.parse()?, ..HttpSettings::default() };
    let server_metrics = ServerMetrics::register(&registry)?;
    let api_metrics = ApiMetrics::register(&registry)?;
    let site = Site::new(&PROGRAM, registry, Arc::new(|| Ok(())), "{}", Shutdown::new());
    let api = Api::new(Memory::new(), &ApiSettings::default(), &settings, api_metrics, site);
    let listener = bind(&settings.listen, "http.listen").await?;
    serve(listener, &settings, server_metrics, Arc::new(api), Shutdown::new()).await;
    Ok(())
}

type Map = Arc<Mutex<HashMap<String, Bytes>>>;

async fn floor(address: String) -> Result<(), Box<dyn Error>> {
    let read = async |State(map): State<Map>, Path(key): Path<String>| {
        map.lock().get(&key).cloned().ok_or(StatusCode::NOT_FOUND)
    };
    let write = async |State(map): State<Map>, Path(key): Path<String>, body: Bytes| {
        map.lock().insert(key, body);
    };
    let router = Router::new().route("/v1/kv/{*key}", get(read).put(write)).with_state(Map::default());
    Ok(axum::serve(tokio::net::TcpListener::bind(address).await?, router).await?)
}
