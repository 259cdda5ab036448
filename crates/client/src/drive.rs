//! One request from its first attempt to its end: whom to ask, when to ask again, when to stop.
//!
//! ```text
//! first attempt ──► the leader ──answer──► done                              (almost always)
//!        │ no answer within the patience
//!        ├──► others are asked who leads; the attempt stays open
//!        │       └─ another leader turns up ──► a second attempt, same in every byte, beside the first
//!        ├─ refused with a better hint ──► there, at once
//!        ├─ refused without ──► a pause, cut short by any news of the group
//!        └─ deadline ──► what may be said then (`Work::give_up`)
//! ```

use crate::attempts::Certainty;
use crate::cache::candidates;
use crate::error::Reason;
use crate::limits::backoff;
use crate::nodes::Unreached;
use crate::search::Suspect;
use crate::shared::{NO_FORWARDING, Shared};
use futures::future::BoxFuture;
use rand::seq::IteratorRandom as _;
use scatter_core::command::Outcome;
use scatter_core::group::Descriptor;
use scatter_core::ring::{Key, Position};
use scatter_core::types::{Ballot, GroupId, NodeId};
use scatter_wire::connection::Call;
use scatter_wire::{CallError, ClientBody, Connection, Refusal, ReplyBody};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How many times a request follows a hint at once; after that each one waits for a pause first.
const MOST_REDIRECTS: u32 = 8;

/// How many times a request that the node had no room for is tried again.
const MOST_OVERLOADED: u32 = 3;

/// After so many pauses the cache's owner is doubted too, not only its leader.
const PATIENT_PAUSES: u32 = 4;

/// How often a write may take a new stamp.
const MOST_RENEWALS: u32 = 8;

/// How one attempt ended.
pub(crate) enum Ended {
    NotSent,
    Lost,
    Refused(Refusal),
    Reply(ReplyBody),
}

/// What the request makes of an attempt's end.
pub(crate) enum Verdict<T> {
    /// Another attempt may be sent.
    Again,
    /// The request is another one from here on; it may be sent at once.
    Renewed,
    /// No more attempts, but an open one may still bring the answer.
    Wait(Reason),
    Done(T),
    Failed(Failure),
}

/// A request that did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    pub(crate) certainty: Certainty,
    pub(crate) reason: Reason,
}

/// What is asked, and what its answers mean.
pub(crate) trait Work {
    type Output;
    fn body(&self) -> ClientBody;
    fn sent(&mut self);
    /// Whether another attempt may be sent while one may have arrived.
    fn may_repeat(&self) -> bool {
        true
    }
    fn ended(&mut self, ended: Ended) -> Verdict<Self::Output>;
    fn give_up(&self) -> Certainty;
}

/// What the request is about.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    Key(&'a Key),
    Group(GroupId),
}

/// Who may serve the request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    Leader,
    AnyMember,
    /// Any member, and the leader if that one cannot.
    AnyMemberFirst,
}

/// Where one attempt goes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Target {
    group: GroupId,
    node: NodeId,
    ballot: Ballot,
}

struct OpenCall {
    call: Call,
    target: Target,
}

enum Event {
    Ended(Target, Result<ReplyBody, CallError>),
    Connected(Target, Result<Connection, Unreached>),
    News,
    Woke,
}

/// When the next attempt is due.
enum Pace {
    Now,
    After(Duration),
    GiveUp(Reason),
}

pub(crate) struct Drive<'a, W> {
    shared: &'a Arc<Shared>,
    place: Place<'a>,
    position: Option<Position>,
    aim: Aim,
    deadline: Instant,
    work: W,
    open: Vec<OpenCall>,
    connecting: Option<(Target, BoxFuture<'static, Result<Connection, Unreached>>)>,
    /// The leader asked last. Under one ballot a node may lead several groups that came from one.
    asked: Option<(GroupId, NodeId, Ballot)>,
    news: Option<watch::Receiver<u64>>,
    resend_at: Option<Instant>,
    impatient_at: Option<Instant>,
    /// Set once no more attempts are to be made.
    closed: Option<Reason>,
    last: Option<Reason>,
    reconnected: bool,
    attempts: u32,
    pauses: u32,
    redirects: u32,
    overloaded: u32,
    renewals: u32,
}

impl<'a, W: Work> Drive<'a, W> {
    pub(crate) fn new(shared: &'a Arc<Shared>, place: Place<'a>, aim: Aim, deadline: Instant, work: W) -> Self {
        Self {
            shared,
            place,
            position: None,
            aim,
            deadline,
            work,
            open: Vec::new(),
            connecting: None,
            asked: None,
            news: None,
            resend_at: None,
            impatient_at: None,
            closed: None,
            last: None,
            reconnected: false,
            attempts: 0,
            pauses: 0,
            redirects: 0,
            overloaded: 0,
            renewals: 0,
        }
    }

    pub(crate) async fn run(mut self) -> Result<W::Output, Failure> {
        let result = self.finish().await;
        self.shared.metrics.ended(self.attempts);
        result
    }

    async fn finish(&mut self) -> Result<W::Output, Failure> {
        self.send();
        let metrics = &self.shared.metrics;
        if self.open.is_empty() {
            metrics.cache_misses.add()
        } else {
            metrics.cache_hits.add()
        }
        loop {
            if self.open.is_empty()
                && let Some(reason) = self.closed.take()
            {
                return Err(self.failure(reason));
            }
            let verdict = match self.next_event().await {
                Event::Ended(target, result) => self.on_ended(target, result),
                Event::Connected(target, result) => {
                    self.on_connected(target, result);
                    Verdict::Again
                }
                Event::News => {
                    self.on_news();
                    Verdict::Again
                }
                Event::Woke => self.on_woke(),
            };
            match verdict {
                Verdict::Done(output) => {
                    self.shared.budget.earn();
                    return Ok(output);
                }
                Verdict::Failed(failure) => return Err(failure),
                Verdict::Again | Verdict::Renewed | Verdict::Wait(_) => {}
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let wake = [self.resend_at, self.impatient_at].into_iter().flatten().fold(self.deadline, Instant::min);
        let Self { open, connecting, news, .. } = self;
        tokio::select! {
            biased;
            (target, result) = poll_fn(|context| poll_open(open, context)) => Event::Ended(target, result),
            (target, result) = poll_fn(|context| poll_connecting(connecting, context)) => {
                Event::Connected(target, result)
            }
            () = changed(news) => Event::News,
            () = tokio::time::sleep_until(wake) => Event::Woke,
        }
    }

    /// Sends an attempt to the best target there is, or arranges for one.
    fn send(&mut self) {
        self.resend_at = None;
        if self.closed.is_some() || !self.work.may_repeat() {
            return;
        }
        if self.shared.searches.any_leader_in_doubt() {
            self.watch();
        }
        let Some(target) = self.target() else {
            if let Some(heir) = self.heir().filter(|_| self.pauses > 0) {
                self.closed = Some(Reason::Gone { heir });
                return;
            }
            self.search();
            self.pause(Duration::ZERO);
            return;
        };
        if self.open.iter().any(|open| open.target.node == target.node) {
            // It has the request already.
            self.pause(self.shared.config.patience);
            return;
        }
        match self.shared.nodes.existing(target.node) {
            Some(link) => self.call(&link, target),
            None => self.connect(target),
        }
    }

    fn connect(&mut self, target: Target) {
        self.watch();
        let shared = Arc::clone(self.shared);
        let connect = async move { shared.nodes.connect(target.node).await };
        self.connecting = Some((target, Box::pin(connect)));
        self.impatient_at = Some(Instant::now() + self.shared.config.patience);
    }

    fn call(&mut self, link: &Connection, target: Target) {
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        let budget_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        self.asked = Some((target.group, target.node, target.ballot));
        match link.call(self.work.body(), budget_ms, NO_FORWARDING) {
            Ok(call) => {
                if self.attempts > 0 {
                    self.shared.metrics.retries.add();
                    if !self.open.is_empty() {
                        self.shared.metrics.hedges.add();
                    }
                }
                self.attempts += 1;
                self.work.sent();
                self.open.push(OpenCall { call, target });
                // A request in a hurry asks around while that can still help it.
                self.impatient_at = Some(now + self.shared.config.patience.min(left / 2));
            }
            Err(CallError::TooLarge { limit, .. }) => {
                self.closed = Some(Reason::TooLarge { limit: limit as u64 });
            }
            Err(CallError::Busy) => {
                let pace = self.pace_overloaded(Duration::ZERO);
                self.follow(pace);
            }
            Err(CallError::NotSent(_) | CallError::Lost(_)) => {
                // The connection ended while nobody used it, which says nothing about the node; once.
                self.shared.nodes.drop_closed(target.node);
                if std::mem::replace(&mut self.reconnected, true) {
                    self.pause(Duration::ZERO);
                } else {
                    self.connect(target);
                }
            }
        }
    }

    fn on_connected(&mut self, target: Target, result: Result<Connection, Unreached>) {
        match result {
            Ok(link) => {
                self.call(&link, target);
            }
            Err(error) => {
                if matches!(error, Unreached::WrongNode { .. }) {
                    self.shared.metrics.wrong_node.add();
                }
                self.last = Some(Reason::Unreachable(error.to_string()));
                self.asked = Some((target.group, target.node, target.ballot));
                self.unreachable(target);
                self.pause(Duration::ZERO);
            }
        }
    }

    fn on_news(&mut self) {
        if self.is_better_known() {
            self.connecting = None;
            self.send();
        }
    }

    fn on_woke(&mut self) -> Verdict<W::Output> {
        let now = Instant::now();
        if now >= self.deadline {
            if !self.open.is_empty() {
                // It is too late for this request, but others will want to know.
                self.search();
            }
            let reason = match self.work.give_up() {
                Certainty::NotApplied => self.last.take().unwrap_or(Reason::Deadline),
                Certainty::Unknown => Reason::Deadline,
            };
            return Verdict::Failed(self.failure(reason));
        }
        if self.resend_at.is_some_and(|moment| moment <= now) {
            self.send();
        }
        if self.impatient_at.is_some_and(|moment| moment <= now) {
            self.impatient_at = Some(now + self.shared.config.patience);
            if self.closed.is_none() {
                self.search();
                self.watch();
                match self.aim {
                    Aim::Leader => self.on_news(),
                    Aim::AnyMember | Aim::AnyMemberFirst => self.send(),
                }
            }
        }
        Verdict::Again
    }

    fn on_ended(&mut self, target: Target, result: Result<ReplyBody, CallError>) -> Verdict<W::Output> {
        let (ended, pace) = match result {
            Ok(ReplyBody::Refused { refusal, retry_after_ms, descriptors, stamp }) => {
                self.shared.lanes.heard(stamp);
                self.shared.learn(&descriptors);
                let pace = self.pace_refused(target, &refusal, Duration::from_millis(retry_after_ms.into()));
                (Ended::Refused(refusal), pace)
            }
            Ok(reply) => {
                let pace = self.learn_reply(target, &reply);
                (Ended::Reply(reply), pace)
            }
            Err(error) => {
                self.shared.nodes.drop_closed(target.node);
                self.unreachable(target);
                let pace = if self.is_better_known() { Pace::Now } else { Pace::After(Duration::ZERO) };
                self.last = Some(Reason::Unreachable(error.to_string()));
                (if error.is_definite() { Ended::NotSent } else { Ended::Lost }, pace)
            }
        };
        match self.work.ended(ended) {
            Verdict::Again => {
                self.follow(pace);
                Verdict::Again
            }
            Verdict::Renewed => {
                self.renewals += 1;
                self.closed = None;
                if self.renewals > MOST_RENEWALS {
                    self.closed = Some(Reason::Forgotten)
                } else {
                    self.send()
                }
                Verdict::Renewed
            }
            Verdict::Wait(reason) => {
                self.closed = Some(reason);
                Verdict::Again
            }
            verdict @ (Verdict::Done(_) | Verdict::Failed(_)) => verdict,
        }
    }

    fn learn_reply(&mut self, target: Target, reply: &ReplyBody) -> Pace {
        match reply {
            ReplyBody::Value { group, epoch, stamp, .. } => {
                self.shared.learn_epoch(target.node, *group, *epoch, *stamp);
            }
            ReplyBody::Outcome { outcome, group, epoch, stamp } => {
                self.shared.learn_epoch(target.node, *group, *epoch, *stamp);
                if *outcome == Outcome::NotOwner {
                    return self.pace_refused(target, &Refusal::NotOwner, Duration::ZERO);
                }
            }
            ReplyBody::Refused { .. }
            | ReplyBody::Description { .. }
            | ReplyBody::Administered { .. }
            | ReplyBody::Located { .. } => {}
        }
        Pace::After(Duration::ZERO)
    }

    fn pace_refused(&mut self, target: Target, refusal: &Refusal, retry_after: Duration) -> Pace {
        match refusal {
            Refusal::NotLeader | Refusal::NoLeader => {
                // A replica that cannot tell how far it lags leaves a bounded read to the leader.
                if self.aim == Aim::AnyMemberFirst {
                    self.aim = Aim::Leader;
                }
                self.last = Some(Reason::NoLeader);
                self.pace_redirected(target, retry_after)
            }
            Refusal::NotOwner => {
                self.last = Some(Reason::NoOwner);
                self.search_owner();
                let pace = self.pace_redirected(target, retry_after);
                // Who asks for a group by its name is not looked for along the ring: it may be gone.
                let gone = matches!(self.place, Place::Group(_)) && self.redirects > MOST_REDIRECTS;
                if gone { Pace::GiveUp(Reason::NoOwner) } else { pace }
            }
            Refusal::Draining | Refusal::Unavailable { .. } => {
                self.last = Some(match refusal {
                    Refusal::Unavailable { text } => Reason::Unavailable(text.clone()),
                    _ => Reason::Unavailable("it is about to stop".into()),
                });
                self.pace_redirected(target, retry_after)
            }
            Refusal::Overloaded => self.pace_overloaded(retry_after),
            Refusal::Sealed => {
                self.shared.metrics.sealed.add();
                self.last = Some(Reason::Sealed { retry_after });
                Pace::After(retry_after)
            }
            Refusal::Deadline | Refusal::Unknown => Pace::After(retry_after),
            Refusal::DiskFull => Pace::GiveUp(Reason::DiskFull),
            Refusal::Malformed { text } => Pace::GiveUp(Reason::Malformed(text.clone())),
            Refusal::TooLarge { limit } => Pace::GiveUp(Reason::TooLarge { limit: *limit }),
            Refusal::Conflict { text } => Pace::GiveUp(Reason::Conflict(text.clone())),
        }
    }

    /// The node asked was the wrong one, or is for the moment.
    fn pace_redirected(&mut self, target: Target, retry_after: Duration) -> Pace {
        self.shared.metrics.redirects.add();
        self.shared.cache.distrust_leader(target.group, target.node, target.ballot);
        self.redirects += 1;
        if self.redirects <= MOST_REDIRECTS && self.is_better_known() {
            return Pace::Now;
        }
        self.shared.search_leader(target.group, Some(Suspect { node: target.node, ballot: target.ballot }));
        Pace::After(retry_after)
    }

    fn pace_overloaded(&mut self, retry_after: Duration) -> Pace {
        self.overloaded += 1;
        let reason = Reason::Overloaded { retry_after: retry_after.max(Duration::from_millis(100)) };
        if self.overloaded > MOST_OVERLOADED || !self.shared.budget.spend() {
            self.shared.metrics.budget_exhausted.add();
            return Pace::GiveUp(reason);
        }
        self.last = Some(reason);
        Pace::After(retry_after)
    }

    fn follow(&mut self, pace: Pace) {
        match pace {
            Pace::Now => self.send(),
            Pace::After(pause) => self.pause(pause),
            Pace::GiveUp(reason) => self.closed = Some(reason),
        }
    }

    /// The next attempt waits for news, or for a growing pause of at least `least`.
    fn pause(&mut self, least: Duration) {
        self.watch();
        self.resend_at = Some(Instant::now() + backoff(self.pauses).max(least));
        self.pauses += 1;
    }

    fn watch(&mut self) {
        if self.news.is_none() {
            self.news = Some(self.shared.cache.changes());
        }
    }

    /// A connection to the target ended or did not come to be.
    fn unreachable(&mut self, target: Target) {
        self.shared.search_leader(target.group, Some(Suspect { node: target.node, ballot: target.ballot }));
    }

    /// Has others asked about what this request needs to know.
    fn search(&mut self) {
        let view = self.shared.cache.view();
        match self.route(&view).map(|route| (route.group, route.leader, route.ballot)) {
            Some((group, leader, ballot)) => {
                let suspect = leader.map(|node| Suspect { node, ballot });
                if leader.is_none() {
                    self.last = Some(Reason::NoLeader);
                }
                drop(view);
                self.shared.search_leader(group, suspect);
                if self.pauses > PATIENT_PAUSES {
                    self.search_owner();
                }
            }
            None => {
                drop(view);
                self.last.get_or_insert(Reason::NoOwner);
                self.shared.search_ring();
                self.search_owner();
            }
        }
    }

    /// Has others asked along the ring who owns the key.
    fn search_owner(&mut self) {
        match self.place {
            Place::Group(_) => self.shared.search_ring(),
            Place::Key(key) => {
                let position = self.position.get_or_insert_with(|| key.position());
                self.shared.search_owner(position);
            }
        }
    }

    /// Whether a target is known that has not been asked yet.
    fn is_better_known(&mut self) -> bool {
        if self.aim != Aim::Leader {
            return self.open.is_empty() && self.connecting.is_none() && self.target().is_some();
        }
        let target = self.target();
        target.is_some_and(|target| {
            self.asked != Some((target.group, target.node, target.ballot))
                && !self.open.iter().any(|open| open.target.node == target.node)
        })
    }

    fn route<'v>(&mut self, view: &'v crate::cache::RingView) -> Option<&'v Arc<Descriptor>> {
        match self.place {
            Place::Group(group) => view.group(group),
            Place::Key(_) if view.whole().is_some() => view.whole(),
            Place::Key(key) => view.owner(self.position.get_or_insert_with(|| key.position())),
        }
    }

    /// Who owns all that a group asked for by its name is known to have had: a later claim, so that the group was merged away.
    fn heir(&self) -> Option<GroupId> {
        let Place::Group(group) = self.place else { return None };
        let view = self.shared.cache.view();
        let known = view.group(group)?;
        let owner = view.owner(&known.range.start).filter(|owner| owner.range_version > known.range_version)?;
        (owner.group != group && owner.range.encloses(&known.range)).then_some(owner.group)
    }

    fn target(&mut self) -> Option<Target> {
        let view = self.shared.cache.view();
        let route = self.route(&view)?;
        let target = |node| Target { group: route.group, node, ballot: route.ballot };
        match self.aim {
            Aim::Leader => Some(target(route.leader?)),
            Aim::AnyMember | Aim::AnyMemberFirst => {
                let avoided = self.asked.map(|(_, node, _)| node);
                let others = candidates(route).filter(|member| Some(member.node) != avoided);
                let member = others.choose(&mut rand::rng()).or_else(|| candidates(route).next())?;
                Some(target(member.node))
            }
        }
    }

    fn failure(&self, reason: Reason) -> Failure {
        Failure { certainty: self.work.give_up(), reason }
    }
}

fn poll_open(open: &mut Vec<OpenCall>, context: &mut Context<'_>) -> Poll<(Target, Result<ReplyBody, CallError>)> {
    for index in 0..open.len() {
        if let Poll::Ready(result) = Pin::new(&mut open[index].call).poll(context) {
            return Poll::Ready((open.swap_remove(index).target, result));
        }
    }
    Poll::Pending
}

type Connecting = Option<(Target, BoxFuture<'static, Result<Connection, Unreached>>)>;

fn poll_connecting(
    connecting: &mut Connecting,
    context: &mut Context<'_>,
) -> Poll<(Target, Result<Connection, Unreached>)> {
    let Some((target, future)) = connecting else { return Poll::Pending };
    let target = *target;
    future.as_mut().poll(context).map(|result| {
        *connecting = None;
        (target, result)
    })
}

/// Waits for news of the ring, without end if nobody listens.
async fn changed(news: &mut Option<watch::Receiver<u64>>) {
    match news {
        // The sender lives as long as the client that this request holds on to.
        Some(news) => drop(news.changed().await),
        None => std::future::pending().await,
    }
}
