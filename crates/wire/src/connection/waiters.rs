//! Who waits for which reply.

use crate::connection::CallError;
use crate::reply::ReplyBody;
use scatter_core::types::RequestId;
use tokio::sync::oneshot::Sender;

type Reply = Sender<Result<ReplyBody, CallError>>;

/// A place in [`Waiters`]. The generation tells apart those who had the place one after another, so that a late reply to
/// a caller that gave up never reaches its successor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ticket {
    place: u32,
    generation: u32,
}

impl Ticket {
    /// The id under which the request travels.
    pub(super) fn id(self) -> RequestId {
        RequestId(u64::from(self.generation) << 32 | u64::from(self.place))
    }

    fn from_id(id: RequestId) -> Self {
        // Both halves fit by construction.
        Self { place: (id.0 & u64::from(u32::MAX)) as u32, generation: (id.0 >> 32) as u32 }
    }
}

#[derive(Default, Debug)]
struct Place {
    generation: u32,
    waiter: Option<(u64, Reply)>,
}

/// Open requests by id: a list of places, each used again and again.
#[derive(Default, Debug)]
pub(super) struct Waiters {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Waiters {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Adds a waiter with its request's number.
    pub(super) fn insert(&mut self, number: u64, sender: Reply) -> Ticket {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let slot = &mut self.places[place as usize];
        slot.waiter = Some((number, sender));
        Ticket { place, generation: slot.generation }
    }

    /// Removes a waiter, if it is still there.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Reply> {
        let slot = self.places.get_mut(ticket.place as usize)?;
        if slot.generation != ticket.generation {
            return None;
        }
        let (_, sender) = slot.waiter.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(ticket.place);
        Some(sender)
    }

    /// Removes the waiter that `id` belongs to. Ids nobody waits for, made-up ones too, find nobody.
    pub(super) fn answer(&mut self, id: RequestId) -> Option<Reply> {
        self.remove(Ticket::from_id(id))
    }

    /// Removes everybody.
    pub(super) fn drain(&mut self) -> Vec<(u64, Reply)> {
        self.free.clear();
        std::mem::take(&mut self.places).into_iter().filter_map(|place| place.waiter).collect()
    }
}
