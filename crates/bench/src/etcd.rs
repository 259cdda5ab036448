//! The etcd load: native gRPC, with the few messages it takes written by hand.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::task::LocalSet;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::load::{LoadError, PAUSE_AFTER_FAILURE, Shared};
use crate::measure::{Failure, Tally};
use crate::workload::{Chooser, Op, key_text};

/// How long a connection may take to come up.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// `etcdserverpb.PutRequest`, without lease and flags.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// `etcdserverpb.ResponseHeader`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResponseHeader {
    /// The member that answered.
    #[prost(uint64, tag = "2")]
    pub member_id: u64,
}

/// `etcdserverpb.PutResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
}

/// `etcdserverpb.RangeRequest` for one key; linearizable, because `serializable` (7) is left out.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeRequest {
    /// The key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
}

/// `mvccpb.KeyValue`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
}

/// `etcdserverpb.RangeResponse`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeResponse {
    /// What was found.
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
}

/// `etcdserverpb.StatusRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusRequest {}

/// `etcdserverpb.StatusResponse`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StatusResponse {
    /// Who answered.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The version of the server.
    #[prost(string, tag = "2")]
    pub version: String,
    /// The member that leads, zero if none is known.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
}

/// One channel to one node.
#[derive(Clone)]
struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    /// A client that connects when first used; must be made inside a runtime.
    fn new(endpoint: SocketAddr) -> Result<Self, LoadError> {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))
            .map_err(|_| LoadError::Plan("an endpoint that is no address"))?;
        let channel = endpoint.connect_timeout(CONNECT_LIMIT).tcp_nodelay(true).connect_lazy();
        Ok(Self { grpc: Grpc::new(channel) })
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        let answer = self.grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }

    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<(), Failure> {
        let answer = self.call::<_, PutResponse>("/etcdserverpb.KV/Put", PutRequest { key, value }).await;
        answer.map(|_| ()).map_err(|status| Failure::Grpc(status.code() as i32))
    }

    async fn get(&mut self, key: Bytes, value_bytes: usize) -> Result<(), Failure> {
        let answer = self.call::<_, RangeResponse>("/etcdserverpb.KV/Range", RangeRequest { key }).await;
        let answer = answer.map_err(|status| Failure::Grpc(status.code() as i32))?;
        match answer.kvs.as_slice() {
            [found] if found.value.len() == value_bytes => Ok(()),
            _ => Err(Failure::WrongValue),
        }
    }
}

/// Asks one node for its status, within `limit`; for use outside any runtime.
pub fn status(endpoint: SocketAddr, limit: Duration) -> Result<StatusResponse, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut client = Client::new(endpoint)?;
        let asked = client.call("/etcdserverpb.Maintenance/Status", StatusRequest {});
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(_)) | Err(_) => Err(LoadError::Plan("etcd does not tell its status")),
        }
    })
}

/// Runs the workers numbered `workers` until the window of `shared` ends and their last answers are in.
pub fn run(
    shared: &Arc<Shared>,
    endpoints: &[SocketAddr],
    channels: usize,
    workers: Range<usize>,
) -> Result<Tally, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = Rc::new(RefCell::new(Tally::new(shared.window, shared.plan.moments)));
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let mut sets = Vec::new();
        for _ in 0..channels.max(1) {
            sets.push(endpoints.iter().map(|endpoint| Client::new(*endpoint)).collect::<Result<Vec<_>, _>>()?);
        }
        let mut tasks = Vec::new();
        for number in workers {
            let worker = Worker {
                shared: Arc::clone(shared),
                endpoint: number % endpoints.len(),
                clients: sets[number / endpoints.len() % sets.len()].clone(),
                chooser: Chooser::new(shared.plan.workload, number as u64),
            };
            tasks.push(tokio::task::spawn_local(worker.work(Rc::clone(&tally))));
        }
        for task in tasks {
            task.await.map_err(|_| LoadError::Panicked)?;
        }
        Ok::<_, LoadError>(())
    })?;
    Ok(tally.replace(Tally::new(shared.window, false)))
}

struct Worker {
    shared: Arc<Shared>,
    endpoint: usize,
    clients: Vec<Client>,
    chooser: Chooser,
}

impl Worker {
    async fn work(mut self, tally: Rc<RefCell<Tally>>) {
        let mut value = self.chooser.value();
        let deadline = self.shared.plan.deadline;
        let mut owed = None;
        while self.shared.open(Instant::now()) {
            let Some((op, key)) = owed.take().or_else(|| self.chooser.next(&self.shared.order)) else { return };
            self.chooser.vary(&mut value);
            let asked = Instant::now();
            let attempt = self.attempt(op, key, &value);
            let outcome = tokio::time::timeout(deadline, attempt).await.unwrap_or(Err(Failure::Deadline));
            let now = Instant::now();
            match outcome {
                Ok(()) => {
                    tally.borrow_mut().success(op, asked, now);
                    self.shared.progress.fetch_add(1, Ordering::Relaxed);
                }
                Err(why) => {
                    tally.borrow_mut().failure(why, now);
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                    owed = self.shared.insists().then_some((op, key));
                    if !matches!(why, Failure::WrongValue) {
                        self.endpoint = (self.endpoint + 1) % self.clients.len();
                    }
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn attempt(&mut self, op: Op, key: u64, value: &[u8]) -> Result<(), Failure> {
        let client = &mut self.clients[self.endpoint];
        let key = Bytes::from(key_text(key).into_bytes());
        match op {
            Op::Put => client.put(key, Bytes::copy_from_slice(value)).await,
            Op::Get => client.get(key, value.len()).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn requests_are_the_bytes_etcd_reads() {
        let put = PutRequest { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"vv") };
        assert_eq!(put.encode_to_vec(), b"\x0a\x01k\x12\x02vv");
        assert_eq!(RangeRequest { key: Bytes::from_static(b"k") }.encode_to_vec(), b"\x0a\x01k");
    }

    #[test]
    fn answers_are_read_past_what_is_not_looked_at() {
        // Header with cluster 1, member 5, revision 9, term 2; one pair with create revision, version and value; count 1.
        let bytes = b"\x0a\x08\x08\x01\x10\x05\x18\x09\x20\x02\x12\x0a\x0a\x01k\x10\x03\x20\x01\x2a\x01v\x20\x01";
        let answer = RangeResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(answer.kvs, [KeyValue { value: Bytes::from_static(b"v") }]);
        let status = StatusResponse::decode(b"\x0a\x02\x10\x05\x12\x053.4.0\x18\x63\x20\x05".as_slice()).unwrap();
        assert_eq!((status.version.as_str(), status.leader), ("3.4.0", 5));
        assert_eq!(status.header, Some(ResponseHeader { member_id: 5 }));
    }

    #[test]
    fn garbage_is_no_answer() {
        for bytes in [b"\xff\xff\xff".as_slice(), b"\x12\x7f", b"\x12\x03\x2a\x09v"] {
            assert!(RangeResponse::decode(bytes).is_err());
        }
    }
}
