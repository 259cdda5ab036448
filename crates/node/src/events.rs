//! What reaches the driver from other threads, and who waits for an answer.

use crate::storage::sync::LogEvent;
use crate::transport::Responder;
use parking_lot::Mutex;
use scatter_core::Input;
use scatter_core::entry::Room;
use scatter_core::ops::order::Order;
use scatter_core::policy::Outcome;
use scatter_core::ring::Key;
use scatter_core::types::{ConfigurationVersion, GroupId, NodeId};
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
        /// The version that the group's configuration must have, if it matters.
        version: Option<ConfigurationVersion>,
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
    /// A question to whom leadership would be handed over.
    NameHeir {
        /// The group.
        group: GroupId,
        /// Who waits.
        waiter: Waiter,
    },
    /// An operator's order to reshape the ring.
    Reshape {
        /// The group that is to act.
        group: GroupId,
        /// What it is to do.
        order: Order,
        /// Who waits.
        waiter: Waiter,
    },
    /// An operator's order that a group go on with the survivors alone.
    Recover {
        /// The group.
        group: GroupId,
        /// Who is left.
        survivors: Vec<NodeId>,
        /// Who waits.
        waiter: Waiter,
    },
    /// An operator's order to listen to these nodes no more.
    Condemn {
        /// The nodes.
        nodes: Vec<NodeId>,
        /// Who waits.
        waiter: Waiter,
    },
    /// What the policies ordered of a group has come to an end.
    Organised {
        /// The group.
        group: GroupId,
        /// How.
        outcome: Outcome,
        /// In words.
        text: String,
    },
    /// An operator wants the node emptied, or not.
    SetDraining {
        /// Whether.
        on: bool,
        /// Who waits.
        waiter: Waiter,
    },
    /// Another node than the one that was asked for lives at this address.
    Misdirected {
        /// The address.
        address: String,
    },
    /// The data store could not be written, or can again.
    StoreRoom(Room),
    /// Stop taking requests and hand over what is led here.
    Drain,
    /// Something failed for good.
    Fatal(String),
}

/// The driver's inbox: any thread puts in, the driver takes all at once. What can wait for the driver's next turn does not
/// wake it: a wake costs more than most events.
#[derive(Debug, Default)]
pub struct Inbox {
    inside: Mutex<Inside>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    events: Vec<Event>,
    /// The driver was told that something is in.
    told: bool,
    /// The driver waits for what is put in quietly.
    eager: bool,
}

impl Inbox {
    /// An empty one.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts an event in. What clients put in is bounded by their connections and the core's queues.
    pub fn push(&self, event: Event) {
        self.put([event], false);
    }

    /// Puts several in at once.
    pub fn extend(&self, more: impl IntoIterator<Item = Event>) {
        self.put(more, false);
    }

    /// Puts several in that the driver will find at its next turn; wakes it only if it waits for them.
    pub fn extend_quietly(&self, more: impl IntoIterator<Item = Event>) {
        self.put(more, true);
    }

    fn put(&self, more: impl IntoIterator<Item = Event>, quietly: bool) {
        let tell = {
            let mut inside = self.inside.lock();
            let before = inside.events.len();
            inside.events.extend(more);
            let tell = inside.events.len() > before && !inside.told && (inside.eager || !quietly);
            inside.told |= tell;
            tell
        };
        if tell {
            self.filled.notify_one();
        }
    }

    /// The driver's wish to be woken, or not, by what is put in quietly from now on. True if that is in already.
    pub fn set_eager(&self, eager: bool) -> bool {
        let mut inside = self.inside.lock();
        inside.eager = eager;
        eager && !inside.events.is_empty()
    }

    /// Takes everything that is in; `spare` is the vector to leave in its place.
    pub fn take(&self, mut spare: Vec<Event>) -> Vec<Event> {
        spare.clear();
        let mut inside = self.inside.lock();
        inside.told = false;
        std::mem::replace(&mut inside.events, spare)
    }

    /// How many events are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inside.lock().events.len()
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    fn woken(inbox: &Inbox) -> bool {
        inbox.filled().now_or_never().is_some()
    }

    #[test]
    fn what_is_put_in_quietly_wakes_only_who_waits_for_it() {
        let inbox = Inbox::new();
        inbox.extend_quietly([Event::Drain]);
        assert!(!woken(&inbox));
        // It does not hide what comes after it.
        inbox.push(Event::Drain);
        assert!(woken(&inbox));
        assert_eq!(inbox.take(Vec::new()).len(), 2);
        inbox.extend_quietly([Event::Drain]);
        assert!(!inbox.set_eager(false) && inbox.set_eager(true), "it is in already");
        assert_eq!(inbox.take(Vec::new()).len(), 1);
        assert!(!inbox.set_eager(true));
        inbox.extend_quietly([Event::Drain]);
        assert!(woken(&inbox));
        inbox.extend([]);
        inbox.push(Event::Drain);
        assert!(!woken(&inbox), "told once is enough until it looks");
    }
}
