//! A backend in memory, for tests and for measuring the API by itself.

use crate::backend::{
    Backend, Consistency, Epoch, Failure, ReadPath, ReadReply, ReadRequest, WriteReply, WriteRequest,
};
use bytes::Bytes;
use parking_lot::Mutex;
use scatter_core::command::{Condition, Found, Idempotency, Operation, Outcome};
use scatter_core::ring::Key;
use scatter_core::time::LogTime;
use scatter_core::types::{ConfigurationVersion, GroupId, RangeVersion, Version};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The group that [`Memory`] says it is.
pub const GROUP: GroupId = GroupId(0xabc);

/// The versions that [`Memory`] says its group has.
pub const EPOCH: Epoch = Epoch { configuration: ConfigurationVersion(3), range: RangeVersion(2) };

/// The log time of [`Memory`]'s first write: the end of 2023.
const FIRST: LogTime = LogTime(1_704_067_199_000_000);

/// Keys in a map. Clones share it.
#[derive(Clone, Default, Debug)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Default, Debug)]
struct State {
    keys: HashMap<Key, Stored>,
    records: HashMap<(Key, u8, Bytes), (u128, Outcome)>,
    last: u64,
    planned: VecDeque<Planned>,
    writes: Vec<WriteRequest>,
    keeps_writes: bool,
}

#[derive(Debug)]
struct Stored {
    found: Found,
    expires: Option<Instant>,
}

/// What the next request gets instead of an answer from the map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Planned {
    /// This failure.
    Failure(Failure),
    /// For a write, this outcome.
    Outcome(Outcome),
}

impl Memory {
    /// An empty map.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Has a later request meet this; each plan is used once, in order.
    pub fn plan(&self, planned: Planned) {
        self.state.lock().planned.push_back(planned);
    }

    /// Keeps writes from here on, for [`Self::writes`].
    pub fn keep_writes(&self) {
        self.state.lock().keeps_writes = true;
    }

    /// The writes that came since [`Self::keep_writes`].
    #[must_use]
    pub fn writes(&self) -> Vec<WriteRequest> {
        self.state.lock().writes.clone()
    }
}

impl Backend for Memory {
    async fn read(&self, request: ReadRequest) -> Result<ReadReply, Failure> {
        let mut state = self.state.lock();
        if let Some(Planned::Failure(failure)) = state.planned.pop_front() {
            return Err(failure);
        }
        let (path, staleness) = match request.consistency {
            Consistency::Linearizable => (ReadPath::Lease, None),
            Consistency::Bounded { .. } | Consistency::Any => (ReadPath::Stale, Some(Duration::from_millis(12))),
        };
        Ok(ReadReply { found: state.live(&request.key).cloned(), group: GROUP, epoch: EPOCH, staleness, path })
    }

    async fn write(&self, request: WriteRequest) -> Result<WriteReply, Failure> {
        let mut state = self.state.lock();
        if state.keeps_writes {
            state.writes.push(request.clone());
        }
        let outcome = match state.planned.pop_front() {
            Some(Planned::Failure(failure)) => return Err(failure),
            Some(Planned::Outcome(outcome)) => outcome,
            None => state.write(request),
        };
        Ok(WriteReply { outcome, group: GROUP, epoch: EPOCH })
    }
}

impl State {
    fn live(&mut self, key: &Key) -> Option<&Found> {
        if self.keys.get(key)?.expires.is_some_and(|end| end <= Instant::now()) {
            self.keys.remove(key);
        }
        self.keys.get(key).map(|stored| &stored.found)
    }

    fn write(&mut self, request: WriteRequest) -> Outcome {
        let key = match &request.operation {
            Operation::Put { key, .. } | Operation::Delete { key, .. } => key.clone(),
            Operation::Batch { .. } => return Outcome::Malformed,
        };
        let Some(Idempotency { key: id, method, digest }) = request.idempotency else {
            return self.carry_out(request.operation);
        };
        let place = (key, method, id);
        match self.records.get(&place) {
            Some((known, outcome)) if *known == digest => outcome.clone(),
            Some(_) => Outcome::IdempotencyMismatch,
            None => {
                let outcome = self.carry_out(request.operation);
                self.records.insert(place, (digest, outcome.clone()));
                outcome
            }
        }
    }

    fn carry_out(&mut self, operation: Operation) -> Outcome {
        match operation {
            Operation::Put { key, value, ttl_ms, condition } => {
                let current = self.live(&key).map(|found| found.version);
                if !holds(condition, current) {
                    return Outcome::ConditionFailed { index: 0, current };
                }
                let version = self.next();
                let found = Found { version, modified: FIRST.after_micros(version.0), value };
                let expires = ttl_ms.map(|ttl_ms| Instant::now() + Duration::from_millis(ttl_ms));
                self.keys.insert(key, Stored { found, expires });
                Outcome::Written { version, created: current.is_none() }
            }
            Operation::Delete { key, condition } => {
                let current = self.live(&key).map(|found| found.version);
                if !holds(condition, current) {
                    return Outcome::ConditionFailed { index: 0, current };
                }
                match self.keys.remove(&key) {
                    None => Outcome::NotFound,
                    Some(_) => Outcome::Deleted { version: self.next() },
                }
            }
            Operation::Batch { .. } => Outcome::Malformed,
        }
    }

    fn next(&mut self) -> Version {
        self.last += 1;
        Version(self.last)
    }
}

fn holds(condition: Condition, current: Option<Version>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::VersionIs { version } => current == Some(version),
        Condition::Exists => current.is_some(),
        Condition::Absent => current.is_none(),
    }
}
