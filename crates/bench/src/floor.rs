//! The floor: the least an HTTP key-value server of this kind can cost. One process, a map in memory, no promise.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::serve::ListenerExt;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::net::TcpListener;

const SHARDS: usize = 64;

/// A map in as many parts as keep threads out of each other's way.
struct Shards([RwLock<HashMap<String, Bytes>>; SHARDS]);

impl Shards {
    fn of(&self, key: &str) -> &RwLock<HashMap<String, Bytes>> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key);
        &self.0[hash as usize % SHARDS]
    }
}

async fn put(State(shards): State<Arc<Shards>>, Path(key): Path<String>, value: Bytes) -> StatusCode {
    match shards.of(&key).write().insert(key, value) {
        Some(_) => StatusCode::OK,
        None => StatusCode::CREATED,
    }
}

async fn read(State(shards): State<Arc<Shards>>, Path(key): Path<String>) -> Result<Bytes, StatusCode> {
    shards.of(&key).read().get(&key).cloned().ok_or(StatusCode::NOT_FOUND)
}

/// Serves on `listen` until the process is ended.
pub fn serve(listen: SocketAddr) -> std::io::Result<()> {
    let shards = Arc::new(Shards(std::array::from_fn(|_| RwLock::default())));
    let app = Router::new()
        .route("/v1/kv/{*key}", get(read).put(put))
        .route("/readyz", get(|| async { "ready" }))
        .with_state(shards);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(listen).await?.tap_io(|stream| {
            // Refused only by a connection that is gone already.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, app).await
    })
}
