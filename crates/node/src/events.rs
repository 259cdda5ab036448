//! What reaches the driver from other threads, and who waits for an answer.

use crate::storage::sync::LogEvent;
use crate::transport::Responder;
use parking_lot::Mutex;
use scatter_core::Input;
use scatter_core::ring::Key;
use scatter_core::types::{GroupId, NodeId};
use scatter_wire::{LocalReply, NewMember, ReplyBody};
use std::sync::Arc;
use tokio::sync::Notify;

/// Who waits for an answer.
#[derive(Debug)]
pub enum Waiter {
    /// A client on a connection.
    Client(Responder),
    /// A task in this process.
    Task(LocalReply),
}

impl Waiter {
    /// Answers. Nobody minds if the asker has gone.
    pub fn answer(self, body: ReplyBody) {
        match self {
            Self::Client(responder) => responder.send(body),
            Self::Task(sender) => drop(sender.send(Ok(body))),
        }
    }
}

/// One thing for the driver.
#[derive(Debug)]
pub enum Event {
    /// For the core as it is.
    Input(Input),
    /// From the log's thread.
    Log(LogEvent),
    /// A client's command.
    Propose {
        /// The group.
        group: GroupId,
        /// The encoded command.
        command: bytes::Bytes,
        /// Who waits.
        waiter: Waiter,
    },
    /// A linearizable read that the read word did not let through.
    Read {
        /// The group.
        group: GroupId,
        /// The key.
        key: Key,
        /// Who waits.
        waiter: Waiter,
    },
    /// An operator's order to change members.
    ChangeMembers {
        /// The group.
        group: GroupId,
        /// Who comes.
        add: Vec<NewMember>,
        /// Who goes.
        remove: Vec<NodeId>,
        /// Who waits.
        waiter: Waiter,
    },
    /// An operator's order to let another member lead.
    HandOver {
        /// The group.
        group: GroupId,
        /// Whom; `None` for whoever is best.
        to: Option<NodeId>,
        /// Who waits.
        waiter: Waiter,
    },
    /// Another node than the one that was asked for lives at this address.
    Misdirected {
        /// The address.
        address: String,
    },
    /// The data store could not be written, or can again.
    StoreFull(bool),
    /// Stop taking requests and hand over what is led here.
    Drain,
    /// Something failed for good.
    Fatal(String),
}

/// The driver's inbox: any thread puts in, the driver takes all at once.
#[derive(Debug, Default)]
pub struct Inbox {
    events: Mutex<Vec<Event>>,
    filled: Notify,
}

impl Inbox {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts an event in. What clients put in is bounded by their connections and the core's queues.
    pub fn push(&self, event: Event) {
        let first = {
            let mut events = self.events.lock();
            events.push(event);
            events.len() == 1
        };
        if first {
            self.filled.notify_one();
        }
    }

    /// Puts several in at once.
    pub fn extend(&self, more: impl IntoIterator<Item = Event>) {
        let first = {
            let mut events = self.events.lock();
            let before = events.len();
            events.extend(more);
            before == 0 && !events.is_empty()
        };
        if first {
            self.filled.notify_one();
        }
    }

    /// Takes everything that is in; `spare` is the vector to leave in its place.
    pub fn take(&self, mut spare: Vec<Event>) -> Vec<Event> {
        spare.clear();
        std::mem::replace(&mut *self.events.lock(), spare)
    }

    /// How many events are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.lock().len()
    }

    /// Whether nothing is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Resolves when something may be in.
    pub async fn filled(&self) {
        self.filled.notified().await;
    }
}
