//! Elections: a replica that hears of no leader asks around, then runs phase 1.
//!
//! ```text
//! candidate            others
//!    | PreVote(b) ----->|   binds nobody: keeps a replica that cannot win from disturbing one that leads
//!    | <---- PreVoted --|
//!    | [promise b, sync]|
//!    | Prepare(b) ----->|   [promise b unless a lease stands against it, sync]
//!    | <---- Promise ---|   with every accepted entry above the acceptor's decided mark
//!    | CatchUp -------->|   if anybody knows more decided than the candidate
//!    | <---- Decided ---|
//!    | leads: proposes anew, in slot order, what it found
//! ```
//!
//! For each slot the candidate takes the value of the highest ballot reported, or nothing if none was. It stops at the
//! first configuration it adopts so: entries behind it, if any, were decided by *another* set of members. Once that
//! configuration is decided anew, phase 1 runs again with the new set.

use crate::codec::Decode;
use crate::entry::{Entry, EntryClock, EntryKind};
use crate::group::Configuration;
use crate::message::{AcceptedEntry, Message, Refusal, Ticket};
use crate::paxos::acceptor::Unsynced;
use crate::paxos::leader::Leader;
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::{Ballot, ConfigurationVersion, NodeId, ReplicaName, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// Waiting for a leader, or behind one.
#[derive(Clone, Debug)]
pub(crate) struct Follower {
    /// Whom it follows, if anybody.
    pub(crate) leader: Option<ReplicaName>,
    /// When it last heard from them.
    pub(crate) heard_at: Instant,
    /// When it stands for election.
    pub(crate) election_at: Instant,
}

impl Follower {
    /// A follower of nobody, with a timeout drawn anew.
    pub(crate) fn waiting(cx: &mut Context<'_>) -> Self {
        let wait = cx.rng.span(cx.config.election_min, cx.config.election_max);
        Self { leader: None, heard_at: cx.now.instant, election_at: cx.now.instant.after(wait) }
    }
}

/// What a candidate is doing.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Asking who would promise.
    Asking(BTreeSet<NodeId>),
    /// Its own promise is on the way to its disk.
    Binding,
    /// Collecting promises.
    Preparing(Promises),
}

/// The promises of one ballot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promises {
    from: BTreeSet<NodeId>,
    /// The highest ballot and its entry for each slot.
    accepted: BTreeMap<Slot, (Ballot, Entry)>,
    /// The most anybody knows decided, and who.
    decided: (Slot, Option<ReplicaName>),
}

/// Standing for election.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) ballot: Ballot,
    pub(crate) stage: Stage,
    /// Lets it pass over the leases of the leader that handed over.
    pub(crate) ticket: Option<Ticket>,
    /// When it starts over.
    pub(crate) deadline: Instant,
}

impl Replica {
    /// Heard from the leader of the promised ballot.
    pub(crate) fn follow(&mut self, leader: ReplicaName, cx: &mut Context<'_>) {
        self.ask_at = cx.now.instant.after(cx.config.membership_patience);
        let mut follower = Follower::waiting(cx);
        follower.leader = Some(leader);
        match &self.role {
            Role::Follower(_) | Role::Candidate(_) => self.role = Role::Follower(follower),
            Role::Leader(_) | Role::Retired(_) | Role::Merged(_) => {}
        }
    }

    /// Promised to somebody: gives them time.
    pub(crate) fn postpone_election(&mut self, cx: &mut Context<'_>) {
        let follower = Follower::waiting(cx);
        if matches!(self.role, Role::Follower(_) | Role::Candidate(_)) {
            self.role = Role::Follower(follower);
        }
    }

    /// Stops leading or standing, in favour of `leader` if somebody is known to lead.
    pub(crate) fn step_down(&mut self, leader: Option<ReplicaName>, cx: &mut Context<'_>) {
        self.vouch_for_itself(cx);
        let mut follower = Follower::waiting(cx);
        follower.leader = leader;
        match std::mem::replace(&mut self.role, Role::Follower(follower)) {
            Role::Leader(old) => self.leave_office(*old, cx),
            Role::Retired(retired) => self.role = Role::Retired(retired),
            Role::Merged(merger) => self.role = Role::Merged(merger),
            Role::Follower(_) | Role::Candidate(_) => {}
        }
    }

    pub(crate) fn tick_follower(&mut self, cx: &mut Context<'_>) {
        let votes = self.votes();
        if self.configuration.is_none() {
            return;
        }
        let Role::Follower(follower) = &self.role else { return };
        if votes && cx.now.instant >= follower.election_at {
            self.stand(cx);
        }
    }

    /// A replica that hears no leader, whether it waits or stands, asks now and then whether it is still a member.
    pub(crate) fn tick_membership(&mut self, cx: &mut Context<'_>) {
        if cx.now.instant < self.ask_at {
            return;
        }
        self.ask_at = cx.now.instant.after(cx.config.membership_patience);
        let waits = match &self.role {
            Role::Follower(_) | Role::Candidate(_) => true,
            // A gainer here that is no member, and may never be one, does not hear when all members have assembled.
            Role::Merged(merger) => cx.beside.get(&merger.into).is_some_and(|gainer| gainer.is_no_member()),
            Role::Leader(_) | Role::Retired(_) => false,
        };
        if !waits {
            return;
        }
        match self.inviter {
            // It knows nobody but the one that first spoke to it, and the one that it made a promise to.
            Some(inviter) if self.configuration.is_none() => {
                self.ask_membership_of(inviter, cx);
                let Ballot { node, incarnation, .. } = self.promised;
                let promised = ReplicaName { node, incarnation, ..self.name };
                if self.promised > Ballot::default() && promised != inviter {
                    self.ask_membership_of(promised, cx);
                }
                // Both may be lost. Who is near in other groups may have been a member and know that the group is gone.
                let near: Vec<NodeId> =
                    cx.beside.values().flat_map(|beside| beside.others()).map(|other| other.node).collect();
                if let Some(most) = near.len().checked_sub(1) {
                    let node = near[(cx.rng.next() % (most as u64 + 1)) as usize];
                    self.ask_membership_of(ReplicaName { node, ..inviter }, cx);
                }
            }
            Some(_) | None => self.ask_membership(cx),
        }
    }

    /// Asks the others whether they would promise.
    pub(crate) fn stand(&mut self, cx: &mut Context<'_>) {
        self.stand_with(None, cx);
    }

    fn stand_with(&mut self, ticket: Option<Ticket>, cx: &mut Context<'_>) {
        let Some(configuration) = &self.configuration else { return };
        let version = configuration.version;
        if !self.votes() || self.report.is_none() {
            self.step_down(None, cx);
            return;
        }
        let ballot = Ballot {
            round: self.promised.round.max(self.seen_round).saturating_add(1),
            node: self.name.node,
            incarnation: self.name.incarnation,
        };
        if self.promise_refusal(ballot, ticket, cx).is_some() || cx.disk_stalled {
            let mut follower = Follower::waiting(cx);
            follower.election_at = follower.election_at.max(self.no_promise_before);
            self.step_down(None, cx);
            self.role = Role::Follower(follower);
            return;
        }
        let patience = cx.config.candidate_patience;
        let deadline = cx.now.instant.after(cx.rng.span(patience / 2, patience * 3 / 2));
        let stage = Stage::Asking(BTreeSet::from([self.name.node]));
        self.role = Role::Candidate(Candidate { ballot, stage, ticket, deadline });
        let decided = self.decided;
        for other in self.others() {
            if self.member_votes(other.node) {
                self.send(other, Message::PreVote { ballot, configuration: version, decided, ticket }, cx);
            }
        }
        self.consider_pre_votes(cx);
    }

    pub(crate) fn member_votes(&self, node: NodeId) -> bool {
        self.member_name(node)
            .is_some_and(|name| self.configuration.as_ref().is_some_and(|configuration| configuration.is_voter(name)))
    }

    pub(crate) fn on_pre_vote(
        &mut self,
        from: ReplicaName,
        ballot: Ballot,
        configuration: ConfigurationVersion,
        decided: Slot,
        ticket: Option<Ticket>,
        cx: &mut Context<'_>,
    ) {
        if self.report.is_none() {
            // It has the state that this replica waits for, and may not find a majority without it.
            return self.ask_for_state(from, cx);
        }
        if !self.may_elect(from, configuration, cx) {
            return;
        }
        let lives = self.leader_lives(ticket, cx).then_some(Refusal::Lease);
        let refusal = self.promise_refusal(ballot, ticket, cx).or(lives);
        let answer = Message::PreVoted { ballot, refusal, promised: self.promised, decided: self.decided };
        self.send(from, answer, cx);
        let _ = decided;
    }

    /// Whether somebody leads as far as this replica can tell, other than whom the ticket lets go. Without it two replicas
    /// that cannot reach each other would depose one another for ever where no lease stands against it.
    pub(crate) fn leader_lives(&self, ticket: Option<Ticket>, cx: &Context<'_>) -> bool {
        let lately = cx.config.heartbeat * 3;
        let released = ticket.is_some_and(|ticket| ticket.ballot == self.promised);
        let lives = match &self.role {
            Role::Follower(follower) => follower.leader.is_some() && cx.now.instant.since(follower.heard_at) < lately,
            Role::Leader(_) => self.hears_majority(lately, cx),
            Role::Candidate(_) | Role::Retired(_) | Role::Merged(_) => false,
        };
        lives && !released
    }

    pub(crate) fn on_pre_voted(
        &mut self,
        from: ReplicaName,
        ballot: Ballot,
        refusal: Option<Refusal>,
        promised: Ballot,
        decided: Slot,
        cx: &mut Context<'_>,
    ) {
        let member = self.member_name(from.node) == Some(from);
        let Role::Candidate(candidate) = &mut self.role else { return };
        if candidate.ballot != ballot || !member {
            return;
        }
        match refusal {
            None => {
                if let Stage::Asking(granted) = &mut candidate.stage {
                    granted.insert(from.node);
                }
                self.consider_pre_votes(cx);
            }
            Some(_) => self.on_refuse(from, ballot, Refusal::Promised, promised, decided, cx),
        }
    }

    fn consider_pre_votes(&mut self, cx: &mut Context<'_>) {
        let Some(configuration) = self.configuration.clone() else { return };
        let Role::Candidate(candidate) = &self.role else { return };
        let Stage::Asking(granted) = &candidate.stage else { return };
        if !self.is_quorum(&configuration, |node| granted.contains(&node)) {
            return;
        }
        let (ballot, ticket) = (candidate.ballot, candidate.ticket);
        self.bind(ballot, ticket, cx);
    }

    /// Promises to itself, durably; then asks the others.
    fn bind(&mut self, ballot: Ballot, ticket: Option<Ticket>, cx: &mut Context<'_>) {
        if self.promise_refusal(ballot, ticket, cx).is_some() {
            self.step_down(None, cx);
            return;
        }
        self.promise(ballot, cx);
        let patience = cx.config.candidate_patience;
        let deadline = cx.now.instant.after(cx.rng.span(patience, patience * 2));
        self.role = Role::Candidate(Candidate { ballot, stage: Stage::Binding, ticket, deadline });
        self.unsynced.push_back((cx.write, Unsynced::Candidacy(ballot)));
        if planted::on(Bug::PrepareBeforeSync) {
            self.on_candidacy_durable(ballot, cx);
        }
    }

    /// The candidate's own promise is on disk: phase 1 begins.
    pub(crate) fn on_candidacy_durable(&mut self, ballot: Ballot, cx: &mut Context<'_>) {
        let Some(configuration) = &self.configuration else { return };
        let version = configuration.version;
        let own = self.accepted_above(self.decided);
        let (decided, name) = (self.decided, self.name);
        let Role::Candidate(candidate) = &mut self.role else { return };
        if candidate.ballot != ballot || !matches!(candidate.stage, Stage::Binding) || self.promised != ballot {
            return;
        }
        let mut promises = Promises { decided: (decided, None), ..Promises::default() };
        promises.add(name.node, own);
        if ballot.round == 1 {
            // The first ballot of a child: nobody can have accepted anything below it, so there is nothing to ask.
            return self.lead(ballot, BTreeMap::new(), cx);
        }
        candidate.stage = Stage::Preparing(promises);
        let ticket = candidate.ticket;
        for other in self.others() {
            if self.member_votes(other.node) {
                self.send(other, Message::Prepare { ballot, configuration: version, decided, ticket }, cx);
            }
        }
        self.consider_promises(cx);
    }

    pub(crate) fn on_promise(
        &mut self,
        from: ReplicaName,
        ballot: Ballot,
        decided: Slot,
        truncated: Slot,
        accepted: Vec<AcceptedEntry>,
        cx: &mut Context<'_>,
    ) {
        let member = self.member_name(from.node) == Some(from);
        let Role::Candidate(candidate) = &mut self.role else { return };
        let stale = candidate.ballot != ballot && !planted::on(Bug::StalePromise);
        if stale || !member || truncated > decided {
            return;
        }
        let Stage::Preparing(promises) = &mut candidate.stage else { return };
        promises.add(from.node, accepted);
        if decided > promises.decided.0 {
            promises.decided = (decided, Some(from));
        }
        self.consider_promises(cx);
    }

    /// Leads, once a majority has promised and nobody among them knows more decided.
    pub(crate) fn consider_promises(&mut self, cx: &mut Context<'_>) {
        let Some(configuration) = self.configuration.clone() else { return };
        let Role::Candidate(candidate) = &self.role else { return };
        let Stage::Preparing(promises) = &candidate.stage else { return };
        let enough = if planted::on(Bug::SmallerPrepareQuorum) {
            promises.from.len() + 1 >= configuration.majority()
        } else {
            self.is_quorum(&configuration, |node| promises.from.contains(&node))
        };
        if !enough {
            return;
        }
        let (known, who) = promises.decided;
        if known > self.decided && !planted::on(Bug::CandidateSkipsCatchUp) {
            if let Some(who) = who {
                let first = self.decided.next();
                self.send(who, Message::CatchUp { first }, cx);
            }
            return;
        }
        let (ballot, accepted) = (candidate.ballot, promises.accepted.clone());
        self.lead(ballot, accepted, cx);
    }

    /// The configuration changed while standing: the promises asked for are of the wrong set.
    pub(crate) fn restart_candidacy(&mut self, version: ConfigurationVersion, cx: &mut Context<'_>) {
        let changed = self.configuration.as_ref().is_some_and(|configuration| configuration.version != version);
        if changed && matches!(self.role, Role::Candidate(_)) {
            self.stand(cx);
        }
    }

    pub(crate) fn on_refuse(
        &mut self,
        from: ReplicaName,
        ballot: Ballot,
        refusal: Refusal,
        promised: Ballot,
        decided: Slot,
        cx: &mut Context<'_>,
    ) {
        let first = self.decided.next();
        match &self.role {
            Role::Candidate(candidate) => {
                if refusal == Refusal::Configuration || decided > self.decided {
                    self.send(from, Message::CatchUp { first }, cx);
                }
                if promised > candidate.ballot && candidate.ballot == ballot {
                    self.outbid(promised, cx);
                }
            }
            Role::Leader(leader) if leader.ballot == ballot && refusal == Refusal::NoRoom => self.on_no_room(from.node),
            Role::Leader(leader) if leader.ballot == ballot && promised > ballot => {
                // Somebody was elected over this leader, or tried to be: only a new election settles it. It lets go of its
                // own lease for good, so that nobody has to wait for it.
                let ticket = Ticket { ballot, stamp: leader.last_stamp };
                self.step_down(None, cx);
                self.seen_round = self.seen_round.max(promised.round);
                self.stand_with(Some(ticket), cx);
            }
            Role::Follower(_) if decided > self.decided && refusal == Refusal::Configuration => {
                self.send(from, Message::CatchUp { first }, cx);
            }
            Role::Leader(_) | Role::Follower(_) | Role::Retired(_) | Role::Merged(_) => {}
        }
    }

    /// Somebody promised a higher ballot: the next one stood with must be higher still. Nothing is promised by this.
    fn outbid(&mut self, promised: Ballot, cx: &mut Context<'_>) {
        let mut follower = Follower::waiting(cx);
        follower.election_at =
            cx.now.instant.after(cx.rng.span(cx.config.candidate_patience / 4, cx.config.candidate_patience));
        if matches!(self.role, Role::Candidate(_) | Role::Follower(_)) {
            self.role = Role::Follower(follower);
        }
        self.seen_round = self.seen_round.max(promised.round);
    }

    pub(crate) fn on_hand_over(&mut self, from: ReplicaName, ticket: Ticket, cx: &mut Context<'_>) {
        let follows = matches!(&self.role, Role::Follower(_));
        if follows && ticket.ballot == self.promised && ticket.ballot.node == from.node && self.votes() {
            self.stand_with(Some(ticket), cx);
        }
    }

    /// Whether an entry found in phase 1 may have been decided. A configuration that does not follow the one in force was
    /// proposed behind a slot that took another value since; acknowledgements are cumulative, so had it been decided, that
    /// slot would have kept its value.
    fn may_adopt(&self, entry: &Entry) -> bool {
        if entry.kind != EntryKind::Configuration || planted::on(Bug::AdoptsStaleConfiguration) {
            return true;
        }
        let proposed = Configuration::from_all(entry.body.clone());
        let current = self.configuration.as_ref().map(|configuration| configuration.version);
        proposed.is_ok_and(|proposed| current.is_some_and(|current| proposed.version == current.next()))
    }

    /// A split gave birth to this replica and names it as the leader of the first ballot. It leads once the disk holds its
    /// promise, and so never again: whoever finds the promise after a restart stands for a later one.
    pub(crate) fn lead_first_ballot(&mut self, cx: &mut Context<'_>) {
        let ballot = Ballot { round: 1, node: self.name.node, incarnation: self.name.incarnation };
        if self.promise_refusal(ballot, None, cx).is_none() && self.votes() {
            self.bind(ballot, None, cx);
        }
    }

    /// Phase 1 is done: proposes anew what it found, then an entry of its own.
    fn lead(&mut self, ballot: Ballot, accepted: BTreeMap<Slot, (Ballot, Entry)>, cx: &mut Context<'_>) {
        let first = self.decided.next();
        let mut entries = Vec::new();
        let mut adopted = None;
        if let Some(last) =
            accepted.keys().next_back().filter(|last| **last >= first && !planted::on(Bug::AdoptsNothing))
        {
            for slot in (first.0..=last.0).map(Slot) {
                let found = accepted.get(&slot).map(|(_, entry)| entry).filter(|entry| self.may_adopt(entry));
                let entry = found.cloned().unwrap_or_else(|| Entry::noop(EntryClock::default()));
                let members = entry.kind.changes_members();
                entries.push(entry);
                if members && !planted::on(Bug::ProposesPastAdoptedConfiguration) {
                    adopted = Some(slot);
                    break;
                }
            }
        }
        if !entries.is_empty() {
            self.append(ballot, first, entries, cx);
        }
        let leader = Leader::new(ballot, self.followers(), first, adopted, cx);
        self.role = Role::Leader(Box::new(leader));
        self.take_office(cx);
    }
}

impl Promises {
    fn add(&mut self, node: NodeId, accepted: Vec<AcceptedEntry>) {
        self.from.insert(node);
        for AcceptedEntry { slot, ballot, entry } in accepted {
            let higher = self.accepted.get(&slot).is_none_or(|(known, _)| {
                if planted::on(Bug::LowestBallotChosen) { ballot < *known } else { ballot > *known }
            });
            if higher {
                self.accepted.insert(slot, (ballot, entry));
            }
        }
    }
}

/// Whether the voters that `counted` names are a majority.
pub(crate) fn majority(configuration: &crate::group::Configuration, counted: impl Fn(NodeId) -> bool) -> bool {
    let counted = configuration.voters().filter(|member| counted(member.node)).count();
    counted >= configuration.majority()
}
