//! What a node has to do with the others beside the protocol: gossip, the groups it looks after, and what it shows of itself.

use super::{Driver, Ended, Pending};
use crate::events::Event;
use crate::hearsay::{Hearsay, Own};
use crate::organiser::{LOOK_EVERY, Look, Ordered};
use crate::serving::NodeView;
use scatter_core::Input;
use scatter_core::entry::Room;
use scatter_core::message::PeerMessage;
use scatter_core::policy::Health;
use scatter_core::time::Instant;
use scatter_wire::{Channel, Frame};
use std::sync::Arc;
use std::time::Duration;

/// How often the view for status pages is made anew on a node of few replicas.
pub(super) const VIEW_EVERY: Duration = Duration::from_millis(250);

/// With so many replicas more it is made later by as much again: it tells of each.
const REPLICAS_AT_ONCE: usize = 512;

/// The most that it is made later for that.
const LATEST_VIEW: u32 = 8;

/// How often the routes along far links are used, so that others do not take their place.
const FAR_ROUTES_EVERY: Duration = Duration::from_secs(5);

/// How long a node may miss its cluster before that is logged: longer than a start of all takes.
const FIRST_COMPLAINT: Duration = Duration::from_secs(3);

/// How often it is logged then.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

impl Driver {
    /// Joins the gossip of the cluster, once there is one, and does what is due of it.
    pub(super) fn gossip(&mut self) {
        let now = crate::clock::instant();
        if self.hearsay.is_none() && self.node.cluster().is_some() {
            match Hearsay::start(&self.identity(), self.gossip.clone(), rand::random(), now) {
                Ok(mut hearsay) => {
                    self.known.values().for_each(|known| hearsay.met(now, known.node, &known.peer_address));
                    self.hearsay = Some(hearsay);
                }
                Err(error) => self.ended = Some(Ended::Fatal(format!("gossip does not start: {error}"))),
            }
        }
        if let Some(hearsay) = &mut self.hearsay
            && hearsay.deadline().is_some_and(|at| at <= now)
        {
            hearsay.tick(now);
        }
        self.send_gossip();
    }

    pub(super) fn send_gossip(&mut self) {
        let (Some(hearsay), Some(transport)) = (&mut self.hearsay, &self.transport) else { return };
        let mut any = false;
        for out in hearsay.outgoing() {
            if transport.address(out.to).is_none() {
                transport.set_address(out.to, out.address.to_string());
            }
            let message = PeerMessage::Gossip { datagram: out.bytes };
            transport.queue(out.to, Channel::Control, Frame::encode(&message));
            any = true;
        }
        if any {
            transport.flush();
        }
    }

    /// Tells by gossip what is new here.
    fn tell_hearsay(&mut self, view: &NodeView) {
        let full = self.room() < Room::Enough;
        let Some(hearsay) = &mut self.hearsay else { return };
        let count = |roles: &[&str]| {
            let found = view.replicas.iter().filter(|status| roles.contains(&status.role)).count();
            u32::try_from(found).unwrap_or(u32::MAX)
        };
        let own = Own {
            draining: self.emptying || self.draining,
            full,
            incoming: u32::try_from(self.node.incoming()).unwrap_or(u32::MAX),
            joining: count(&["joining"]),
            leaders: count(&["leader"]),
        };
        hearsay.exchange(crate::clock::instant(), &self.serving, own, &view.round_trips);
    }

    /// Has the groups led here looked after.
    pub(super) fn organise(&mut self) {
        let now = crate::clock::instant();
        if now < self.organise_at || self.draining {
            return;
        }
        self.organise_at = now.after(LOOK_EVERY);
        self.suggest_neighbours();
        let Some(hearsay) = &self.hearsay else { return };
        let mut hints = hearsay.node_hints(self.organiser.capacity());
        // Whoever is condemned is dead to all groups, whatever gossip has heard.
        for hint in hints.iter_mut().filter(|hint| self.node.is_condemned(hint.node)) {
            hint.health = Health::Dead { since: Instant(0) };
        }
        let look = Look { now, node: &self.node, serving: &self.serving, hints, round_trips: &self.round_trips() };
        for ordered in self.organiser.look(look) {
            self.order(ordered);
        }
    }

    /// Tells the groups led here that hear nothing of a neighbour who else lies next to them, as far as gossip goes.
    fn suggest_neighbours(&mut self) {
        for group in self.node.seeking_neighbours().collect::<Vec<_>>() {
            let links = self.serving.beside(group);
            if !links.is_empty() {
                self.step(Input::Found { group, links });
            }
        }
    }

    /// Gives an order of the policies, beside the loop.
    fn order(&self, ordered: Ordered) {
        let (serving, inbox) = (self.serving.clone(), self.inbox.clone());
        tokio::task::spawn_local(async move {
            let group = ordered.group;
            let (outcome, text) = crate::organiser::carry_out(&serving, &inbox, ordered).await;
            inbox.push(Event::Organised { group, outcome, text });
        });
    }

    /// Tells the protocol how busy the groups are, and takes from it the links to groups far ahead.
    fn look_around(&mut self, rated: bool) {
        if rated {
            for served in self.serving.groups.load().iter() {
                self.node.note_load(served.group, crate::organiser::load(served));
            }
        }
        let far = self.hearsay.as_ref().is_some_and(Hearsay::is_half_full);
        self.node.seek_far_links(far);
        let now = crate::clock::instant();
        if far && now >= self.far_routes_at {
            self.far_routes_at = now.after(FAR_ROUTES_EVERY);
            for links in self.node.groups().filter_map(|group| self.node.far_links(group)) {
                self.serving.keep_routes(links.links());
            }
        }
    }

    fn far_links(&self) -> usize {
        self.node.groups().filter_map(|group| Some(self.node.far_links(group)?.links().count())).sum()
    }

    pub(super) fn view_every(&self) -> Duration {
        let late = 1 + self.serving.view.load().replicas.len() / REPLICAS_AT_ONCE;
        VIEW_EVERY * u32::try_from(late).unwrap_or(LATEST_VIEW).min(LATEST_VIEW)
    }

    /// Why the node belongs to no cluster, or finds nobody of it; logged if that lasts.
    fn problem(&mut self) -> Option<String> {
        let problem = self.node.birth_problem().map(str::to_owned);
        let problem = problem.or_else(|| awaited(&self.node.birth_awaits(), &self.node.seeds_awaited()));
        if self.complaint.is_due(problem.is_some(), crate::clock::instant())
            && let Some(problem) = &problem
        {
            tracing::warn!("{problem}");
        }
        problem
    }

    pub(super) fn publish_view(&mut self) {
        let rated = self.rates.update(&self.serving, std::time::Instant::now());
        self.look_around(rated);
        let problem = self.problem();
        let view = NodeView {
            cluster: self.node.cluster(),
            replicas: self.node.status(crate::clock::now()),
            nodes: self.hearsay.as_ref().map(Hearsay::nodes).unwrap_or_default(),
            spoken_to: self.known.len(),
            draining: self.emptying,
            problem,
            waiting: self.pending.len(),
            proposals: self.pending.values().filter(|pending| matches!(pending, Pending::Write(..))).count(),
            queues: self.queues(),
            round_trips: self.round_trips(),
            disk_full: self.room() < Room::Enough,
            leader_changes: self.leader_changes,
            far_links: self.far_links(),
            looked: self.node.looked(),
            gossiped: self.hearsay.as_ref().map(Hearsay::counters).unwrap_or_default(),
        };
        self.tell_hearsay(&view);
        self.serving.view.store(Arc::new(view));
    }
}

/// What a founder, or a node that joins, waits for, in words.
fn awaited(founders: &[String], seeds: &[String]) -> Option<String> {
    let (waits, addresses) = if founders.is_empty() {
        ("the node finds its cluster by its seeds, of which one must answer; nobody has yet at", seeds)
    } else {
        ("the cluster is born once all that are to found it, and all seeds, have answered; nobody has yet at", founders)
    };
    (!addresses.is_empty()).then(|| format!("{waits} {}", addresses.join(", ")))
}

/// When what keeps a node from its cluster is logged: not before it has lasted, and then only now and then.
#[derive(Debug, Default)]
pub(super) struct Complaint {
    /// When it is logged next; `None` while nothing is wrong.
    due: Option<Instant>,
}

impl Complaint {
    /// Whether it is to be logged.
    fn is_due(&mut self, wrong: bool, now: Instant) -> bool {
        if !wrong {
            self.due = None;
            return false;
        }
        let due = *self.due.get_or_insert(now.after(FIRST_COMPLAINT));
        let is_due = due <= now;
        if is_due {
            self.due = Some(now.after(COMPLAIN_EVERY));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_founders_first() {
        let (none, some) = ([], ["a:1".to_owned(), "b:2".to_owned()]);
        assert_eq!(awaited(&none, &none), None);
        assert!(awaited(&none, &some).is_some_and(|text| text.contains("seeds") && text.ends_with("at a:1, b:2")));
        assert!(awaited(&some, &some).is_some_and(|text| text.contains("is born")));
    }

    #[test]
    fn what_lasts_is_complained_of_now_and_then() {
        let mut complaint = Complaint::default();
        let begun = Instant::default();
        let mut logged = |wrong, seconds| complaint.is_due(wrong, begun.after(Duration::from_secs(seconds)));
        let said: Vec<u64> = (0..100).filter(|second| logged(true, *second)).collect();
        assert_eq!(said, [3, 33, 63, 93]);
        assert!(!logged(false, 100) && !logged(true, 101), "it begins anew");
        assert!(logged(true, 104));
    }
}
