//! Change of members, hand-over of leadership, and the end of a removed replica.
//!
//! ```text
//! order: add D, remove A            group {A, B, C}, led by B
//!   1. propose {A, B, C, d}         d learns: receives the log, counts nowhere
//!   2. d has caught up
//!   3. propose {B, C, D}            decided by majorities of {A, B, C} *and* {B, C, D}
//!      the operator hears that it is done when a majority of {B, C, D} has applied it
//!   4. A learns that it is removed, keeps its data and answers catch-up
//!   5. A asks {B, C, D}; a majority has applied the change: A deletes and leaves a tombstone
//! ```
//!
//! A node takes in only so many replicas at once, however many leaders it is offered to by: it answers the first message to one
//! more that there is no room. The change is then given up at once, and its newcomers leave again.
//!
//! Nothing is proposed past a configuration that is not decided. Before it is proposed the read word is withdrawn and the
//! lease forgotten. A leader that is no longer a member hands over and retires like the others.

use crate::codec::{Decode, Encode};
use crate::durable::{Merger, Write};
use crate::effects::{Refused, Reply};
use crate::entry::EntryKind;
use crate::group::{Configuration, Member, Role as MemberRole};
use crate::message::{Message, Ticket};
use crate::paxos::leader::Peer;
use crate::paxos::progress::Progress;
use crate::planted::{self, Bug};
use crate::replica::{Context, Replica, Role};
use crate::time::Instant;
use crate::types::{ConfigurationVersion, Incarnation, NodeId, ReplicaName, RequestId, Slot};
use std::collections::BTreeMap;

/// The structural entry a leader waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Structural {
    pub(crate) slot: Slot,
    /// It was found in phase 1, not made here: whatever follows it was decided by others, so phase 1 runs again.
    pub(crate) adopted: bool,
    /// It changes the members; else it only moves positions.
    pub(crate) members: bool,
}

/// An operator's order to change the members, under way.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Who ordered it; nobody, if another group asked for it.
    pub(crate) request: Option<RequestId>,
    add: Vec<(NodeId, String)>,
    remove: Vec<NodeId>,
    /// When it is given up, unless a newcomer comes further until then.
    deadline: Instant,
    /// When it is given up at the latest.
    limit: Instant,
    /// What was decided at a moment, and at one before that.
    marked: (Instant, Slot),
    marked_before: Slot,
    /// Only answers to later messages show that those who are to decide the set are alive.
    asked: Option<Instant>,
    /// A newcomer whose node takes in no more replicas.
    no_room: Option<NodeId>,
    stage: ChangeStage,
}

impl Change {
    fn new(request: Option<RequestId>, add: Vec<(NodeId, String)>, remove: Vec<NodeId>, cx: &Context<'_>) -> Self {
        let now = cx.now.instant;
        let (deadline, limit) = (now.after(cx.config.change_patience), now.after(cx.config.change_limit));
        Self {
            request,
            add,
            remove,
            deadline,
            limit,
            marked: (now, Slot(u64::MAX)),
            marked_before: Slot(u64::MAX),
            asked: None,
            no_room: None,
            stage: ChangeStage::Inviting,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChangeStage {
    /// Newcomers are to become learners.
    Inviting,
    /// Learners catch up.
    Learning,
    /// The final set is proposed.
    Switching,
    /// It is decided at this slot, and its members are told. Until a majority of them knows, they would still look for the
    /// majority of the former set if they lost this leader.
    Telling(Slot),
}

impl Change {
    /// What the operator hears if this leader goes.
    pub(crate) fn left_by_leader(&self) -> Reply {
        match self.stage {
            ChangeStage::Inviting | ChangeStage::Learning | ChangeStage::Switching => {
                Reply::Refused(Refused::GivenUp("the leader changed meanwhile".to_owned()))
            }
            ChangeStage::Telling(_) => Reply::Done,
        }
    }

    /// A newcomer that is spoken to as a learner and has answered nothing for long: it is dead, or takes in no replica. While
    /// it is waited for, the other newcomers count as busy, and other groups may find no node that fits.
    fn silent(&self, peers: &BTreeMap<NodeId, Peer>, cx: &Context<'_>) -> Option<NodeId> {
        let patience = (cx.config.change_patience / 4).max(cx.config.election_max * 2);
        let is_silent = |peer: &Peer| cx.now.instant.since(peer.answered_at) > patience;
        let learning = self.stage == ChangeStage::Learning;
        let mut newcomers = self.add.iter().map(|(node, _)| *node).filter(|_| learning);
        newcomers.find(|node| peers.get(node).is_some_and(is_silent))
    }

    /// Whoever holds the log up to here has caught up: all but the last entries, or, where those are many and answers are long on their
    /// way, what was decided a while ago. At least one slot: a newcomer that holds nothing has not caught up with a young group either.
    fn near(&mut self, decided: Slot, cx: &Context<'_>) -> Slot {
        let now = cx.now.instant;
        if now.since(self.marked.0) >= cx.config.election_min {
            self.marked_before = self.marked.1;
            self.marked = (now, decided);
        }
        let last = Slot(decided.0.saturating_sub(cx.config.pipeline_entries * 4));
        last.min(self.marked_before).max(Slot(1))
    }

    /// Puts off the end while each newcomer that is still behind `near` comes further: a copy takes as long as there is much to copy.
    fn wait_for(&mut self, near: Slot, peers: &BTreeMap<NodeId, Peer>, cx: &Context<'_>) {
        let behind = self.add.iter().filter_map(|(node, _)| peers.get(node)).filter(|peer| peer.through < near);
        if let Some(moved) = behind.map(|peer| peer.progress.at).min() {
            self.deadline = self.deadline.max(moved.after(cx.config.change_patience)).min(self.limit);
        }
    }
}

/// An order to let another member lead, under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandingOver {
    /// Who ordered it; nobody, if another group asked for it.
    pub(crate) request: Option<RequestId>,
    pub(crate) to: NodeId,
    pub(crate) deadline: Instant,
}

/// Removed: waits until the others hold what it holds.
#[derive(Clone, Debug)]
pub(crate) struct Retired {
    /// The configuration that does without it.
    removed_by: ConfigurationVersion,
    /// Which members have told that they applied it.
    told: BTreeMap<NodeId, ConfigurationVersion>,
    pub(crate) ask_at: Instant,
}

impl Replica {
    /// The configuration that the entry at `slot` proposes.
    pub(crate) fn proposed_configuration(&self, slot: Slot) -> Option<Configuration> {
        let (_, entry) = self.log.get(slot)?;
        match entry.kind {
            EntryKind::Configuration => Configuration::from_all(entry.body.clone()).ok(),
            // Those it names are those who are counted anyway.
            EntryKind::Recover => self.configuration.clone(),
            EntryKind::Noop
            | EntryKind::Commands
            | EntryKind::Expire
            | EntryKind::FeatureLevel
            | EntryKind::Links
            | EntryKind::Split
            | EntryKind::Begin
            | EntryKind::Prepare
            | EntryKind::Decide
            | EntryKind::Resolve
            | EntryKind::Settle
            | EntryKind::Correct => None,
        }
    }

    /// Proposes a new set of members.
    fn propose_configuration(&mut self, configuration: &Configuration, cx: &mut Context<'_>) {
        if !planted::on(Bug::WordNotWithdrawn) {
            self.word.withdraw();
        }
        let slot = self.propose(EntryKind::Configuration, configuration.to_bytes(), Vec::new(), cx);
        let known = self.configuration.clone();
        let name = self.name;
        let Role::Leader(leader) = &mut self.role else { return };
        leader.structural = Some(Structural { slot, adopted: false, members: true });
        leader.forget_lease();
        // Newcomers must acknowledge the entry too, so they are spoken to before it is decided.
        for member in &configuration.members {
            let is_new = known.as_ref().is_none_or(|known| known.member(member.node).is_none());
            if is_new && member.node != name.node {
                let peer = ReplicaName { group: name.group, node: member.node, incarnation: member.incarnation };
                leader.peers.insert(member.node, Peer::new(peer, slot, cx.now.instant));
            }
        }
    }

    /// What follows once the structural entry is decided.
    pub(crate) fn after_structural(&mut self, cx: &mut Context<'_>) {
        let decided = self.decided;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(structural) = leader.structural.filter(|structural| structural.slot <= decided) else { return };
        leader.structural = None;
        if !structural.members {
            leader.operations.nudged = true;
            // Clients of what moved wait until the other members have applied this: a child's, for instance, for a majority.
            // Hearing at the next heartbeat that it is decided is too late.
            leader.round_wanted = true;
            return;
        }
        leader.forget_lease();
        self.reconsider_recovery(cx);
        let Role::Leader(leader) = &mut self.role else { return };
        if let Some(change) = leader.change.as_mut().filter(|change| change.stage == ChangeStage::Switching) {
            change.stage = ChangeStage::Telling(structural.slot);
            leader.round_wanted = true;
        }
        self.renew_peers(cx);
        let removed = self.configuration.as_ref().is_some_and(|configuration| self.is_removed_by(configuration));
        if removed || !self.votes() {
            self.hand_over_to_best(cx);
            if removed {
                self.retire(cx);
            }
        } else if structural.adopted {
            // Whatever was decided behind the adopted configuration was decided by its members: ask them.
            self.step_down(None, cx);
            self.stand(cx);
        }
    }

    /// Speaks to the members of the new configuration, and once more to those it does without.
    fn renew_peers(&mut self, cx: &mut Context<'_>) {
        let others = self.followers();
        let next = self.cursor.through.next();
        let now = cx.now.instant;
        let Role::Leader(leader) = &mut self.role else { return };
        let mut old = std::mem::take(&mut leader.peers);
        for name in others {
            let kept = old.remove(&name.node).filter(|peer| peer.name == name);
            leader.peers.insert(name.node, kept.unwrap_or_else(|| Peer::new(name, next, now)));
        }
        for departed in old.into_values() {
            self.send_accept(departed.name, departed.next, Vec::new(), cx);
        }
    }

    /// Lets the member that has most take over.
    fn hand_over_to_best(&mut self, cx: &mut Context<'_>) {
        let Some(configuration) = self.configuration.clone() else { return };
        let Role::Leader(leader) = &self.role else { return };
        let ticket = Ticket { ballot: leader.ballot, stamp: Instant(u64::MAX) };
        let best = leader
            .peers
            .values()
            .filter(|peer| configuration.is_voter(peer.name))
            .max_by_key(|peer| (peer.through, peer.name))
            .map(|peer| (peer.name, peer.next));
        if let Some((name, next)) = best {
            self.send_accept(name, next, Vec::new(), cx);
            let stamp = if let Role::Leader(leader) = &self.role { leader.last_stamp } else { Instant(0) };
            self.word.withdraw();
            self.send(name, Message::HandOver { ticket: Ticket { stamp, ..ticket } }, cx);
        }
        self.step_down(None, cx);
    }

    /// An operator's order to change the members.
    pub(crate) fn on_change_members(
        &mut self,
        request: RequestId,
        add: Vec<(NodeId, String)>,
        remove: Vec<NodeId>,
        version: Option<ConfigurationVersion>,
        cx: &mut Context<'_>,
    ) {
        let changed = self.configuration.as_ref().and_then(|own| other_version(own.version, version?));
        if changed.is_none() {
            self.give_way("the group's members are changed instead", cx);
        }
        let refused = match (&self.role, &self.configuration) {
            (Role::Leader(_), Some(_)) if changed.is_some() => changed.map(Refused::Invalid),
            (Role::Leader(leader), Some(configuration)) => {
                let busy = leader.change.is_some() || leader.structural.is_some() || leader.operations.order.is_some();
                let busy = busy || self.recovery.is_some();
                invalid_change(configuration, &add, &remove, busy || self.is_locked()).map(Refused::Invalid)
            }
            _ => Some(self.refused_not_leader()),
        };
        if let Some(refused) = refused {
            cx.reply(request, Reply::Refused(refused));
            return;
        }
        if let Role::Leader(leader) = &mut self.role {
            leader.change = Some(Change::new(Some(request), add, remove, cx));
        }
    }

    /// Has the group have these members, led by that node, at nobody's order: one step at a time, whenever it is called.
    pub(crate) fn align(&mut self, members: &[(NodeId, String)], leader: NodeId, cx: &mut Context<'_>) {
        let Some(configuration) = self.configuration.clone() else { return };
        let Role::Leader(own) = &mut self.role else { return };
        let votes = |node: NodeId| configuration.member(node).is_some_and(|member| member.role == MemberRole::Voter);
        let add: Vec<_> = members.iter().filter(|(node, _)| !votes(*node)).cloned().collect();
        let wanted = |node: NodeId| members.iter().any(|(wanted, _)| *wanted == node);
        let remove: Vec<NodeId> =
            configuration.members.iter().map(|member| member.node).filter(|node| !wanted(*node)).collect();
        if !(add.is_empty() && remove.is_empty()) {
            if invalid_change(&configuration, &add, &remove, false).is_none() {
                own.change = Some(Change::new(None, add, remove, cx));
            }
        } else if leader != self.name.node && votes(leader) {
            let deadline = cx.now.instant.after(cx.config.election_max * 4);
            own.hand_over = Some(HandingOver { request: None, to: leader, deadline });
        }
    }

    /// Whether the ring neighbours would still find somebody after the change under way. It is put off until they do, but not
    /// for ever: a neighbour that is gone must not keep the members as they are.
    fn stays_reachable(&self, configuration: &Configuration, cx: &Context<'_>) -> bool {
        let Role::Leader(leader) = &self.role else { return true };
        let Some(change) = &leader.change else { return true };
        let late = change.deadline.since(cx.now.instant) < cx.config.change_patience / 2
            && !planted::on(Bug::RemovalWaitsForEver);
        late || self.is_reachable_with(&with_voters(configuration, &change.add, &change.remove))
    }

    /// Takes the next step of a change of members.
    pub(crate) fn advance_change(&mut self, cx: &mut Context<'_>) {
        let Some(configuration) = self.configuration.clone() else { return };
        let barred = self.applied;
        let own = self.name.node;
        // Members do not change under a lock, nor behind an entry that may lock.
        let locked = matches!(&self.role, Role::Leader(leader) if leader.change.is_some()) && self.is_locked();
        let reachable = self.stays_reachable(&configuration, cx);
        let decided = self.decided;
        // Else it is this leader that was silent, or stood still.
        let hears = self.hears_majority(cx.config.election_min, cx);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(change) = &mut leader.change else { return };
        if leader.structural.is_some() || barred < leader.barrier || leader.hand_over.is_some() {
            return;
        }
        let locked = locked && !matches!(change.stage, ChangeStage::Telling(_));
        let request = change.request;
        if let ChangeStage::Telling(slot) = change.stage {
            let knows = |node: NodeId| {
                if node == own {
                    barred >= slot
                } else {
                    leader.peers.get(&node).is_some_and(|peer| peer.applied >= slot)
                }
            };
            if crate::paxos::election::majority(&configuration, knows) {
                leader.change = None;
                cx.reply_to(request, Reply::Done);
            }
            return;
        }
        let near = change.near(decided, cx);
        if change.stage == ChangeStage::Learning {
            change.wait_for(near, &leader.peers, cx);
        }
        let silent = change.silent(&leader.peers, cx).filter(|_| hears);
        if cx.now.instant >= change.deadline || silent.is_some() {
            leader.change = None;
            let why = silent.map_or_else(
                || "newcomers did not catch up, or no majority of the new set answers".to_owned(),
                |node| format!("nothing is heard of node {node}"),
            );
            cx.reply_to(request, Reply::Refused(Refused::GivenUp(format!("{why}; newcomers stay learners"))));
            return;
        }
        if locked {
            return;
        }
        if let Some(node) = change.no_room {
            self.turn_back(node, &configuration, cx);
            return;
        }
        match change.stage {
            ChangeStage::Inviting => {
                change.stage = ChangeStage::Learning;
                // Who was left over from an earlier change may be farther away now than it was then.
                for (node, _) in &change.add {
                    if let Some(peer) = leader.peers.get_mut(node) {
                        peer.progress = Progress::new(cx.now.instant);
                    }
                }
                if let Some(next) = with_learners(&configuration, &change.add) {
                    self.propose_configuration(&next, cx);
                }
            }
            ChangeStage::Learning if reachable => self.switch_when_ready(near, &configuration, cx),
            ChangeStage::Learning => {}
            // Goes on when the entry is decided.
            ChangeStage::Switching | ChangeStage::Telling(_) => {}
        }
    }

    /// A newcomer's node takes in no more replicas.
    pub(crate) fn on_no_room(&mut self, node: NodeId) {
        let Role::Leader(leader) = &mut self.role else { return };
        let change = leader.change.as_mut().filter(|change| change.stage == ChangeStage::Learning);
        if let Some(change) = change.filter(|change| change.add.iter().any(|(newcomer, _)| *newcomer == node)) {
            change.no_room = Some(node);
        }
    }

    /// Gives the change up because a newcomer's node has no room. Its newcomers go again: that node would else take this one in
    /// as soon as it has room, though nobody waits for it any more.
    fn turn_back(&mut self, node: NodeId, configuration: &Configuration, cx: &mut Context<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(change) = leader.change.take() else { return };
        let learns =
            |node: &NodeId| configuration.member(*node).is_some_and(|member| member.role == MemberRole::Learner);
        let newcomers: Vec<NodeId> = change.add.iter().map(|(node, _)| *node).filter(learns).collect();
        let why = format!("node {node} takes in no more replicas for the moment; no newcomer stays");
        cx.reply_to(change.request, Reply::Refused(Refused::GivenUp(why)));
        if !newcomers.is_empty() {
            self.propose_configuration(&with_voters(configuration, &[], &newcomers), cx);
        }
    }

    /// Proposes the final set once the newcomers have caught up and a majority of it answers.
    fn switch_when_ready(&mut self, near: Slot, configuration: &Configuration, cx: &mut Context<'_>) {
        let level = self.report.as_ref().map(|report| report.feature_level).unwrap_or_default();
        let own = self.name.node;
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(change) = &mut leader.change else { return };
        let (add, remove) = (change.add.clone(), change.remove.clone());
        let next = with_voters(configuration, &add, &remove);
        // Once proposed the set can be neither taken back nor replaced, so the newcomers must have caught up, and a
        // majority of what results must be alive to accept it. Whoever was heard a moment ago may have died since, so
        // only answers to what is said from now on count, and if the newcomers take their time all are asked anew.
        let asked = *change.asked.get_or_insert_with(|| {
            leader.round_wanted = true;
            leader.last_stamp
        });
        let near_by = |node: NodeId| {
            leader.peers.get(&node).is_some_and(|peer| {
                let heard = cx.now.instant.since(peer.answered_at) <= cx.config.election_min;
                heard && peer.stamp > asked && peer.through >= near && peer.level >= level
            })
        };
        let caught_up = add.iter().all(|(node, _)| near_by(*node));
        let alive = crate::paxos::election::majority(&next, |node| node == own || near_by(node));
        if caught_up && alive {
            if cx.now.instant.since(asked) <= cx.config.election_min {
                change.stage = ChangeStage::Switching;
                self.propose_configuration(&next, cx);
            } else {
                change.asked = None;
            }
        }
    }

    /// An operator's order to let another member lead.
    pub(crate) fn on_order_hand_over(&mut self, request: RequestId, to: NodeId, cx: &mut Context<'_>) {
        let (votes, recovering) = (self.member_votes(to), self.recovery.is_some());
        let own = to == self.name.node;
        let Role::Leader(leader) = &mut self.role else {
            let refused = self.refused_not_leader();
            cx.reply(request, Reply::Refused(refused));
            return;
        };
        if own {
            cx.reply(request, Reply::Done);
        } else if !votes
            || recovering
            || leader.hand_over.is_some()
            || leader.structural.is_some()
            || leader.change.is_some()
        {
            let why = if votes { "the group is busy with another change" } else { "the node is no voter of the group" };
            cx.reply(request, Reply::Refused(Refused::Invalid(why.to_owned())));
        } else {
            let deadline = cx.now.instant.after(cx.config.election_max * 4);
            leader.hand_over = Some(HandingOver { request: Some(request), to, deadline });
        }
    }

    /// A leader whose machine stands still has things decided and can answer nobody. If it does for longer than an election takes,
    /// it lets somebody lead who has assembled what it lacks.
    pub(crate) fn hand_on_if_stalled(&mut self, cx: &Context<'_>) {
        let (stalled, configuration) = (self.stalled, &self.configuration);
        let Role::Leader(leader) = &mut self.role else { return };
        let Some((slot, _)) = stalled else {
            leader.stalled_since = None;
            return;
        };
        let since = *leader.stalled_since.get_or_insert(cx.now.instant);
        let busy = leader.hand_over.is_some() || leader.structural.is_some() || leader.change.is_some();
        // Only the one whom a recovery began with can bring it to its end.
        let busy = busy || self.recovery.is_some();
        if busy || cx.now.instant.since(since) < cx.config.election_max {
            return;
        }
        let votes =
            |peer: &&Peer| configuration.as_ref().is_some_and(|configuration| configuration.is_voter(peer.name));
        let assembled = leader.peers.values().filter(|peer| peer.applied >= slot).filter(votes);
        if let Some(to) = assembled.max_by_key(|peer| (peer.through, peer.name)).map(|peer| peer.name.node) {
            let deadline = cx.now.instant.after(cx.config.election_max * 4);
            leader.hand_over = Some(HandingOver { request: None, to, deadline });
        }
    }

    /// Lets go of leadership once the target has everything. True if it did.
    pub(crate) fn advance_hand_over(&mut self, cx: &mut Context<'_>) -> bool {
        let (through, decided) = (self.cursor.through, self.decided);
        let Role::Leader(leader) = &mut self.role else { return false };
        let Some(hand_over) = leader.hand_over else { return false };
        if cx.now.instant >= hand_over.deadline {
            leader.hand_over = None;
            let why = "the target did not catch up in time".to_owned();
            cx.reply_to(hand_over.request, Reply::Refused(Refused::GivenUp(why)));
            return false;
        }
        let Some(peer) = leader.peers.get(&hand_over.to).filter(|peer| peer.through == through) else { return false };
        if decided != through {
            return false;
        }
        let (name, next) = (peer.name, peer.next);
        self.word.withdraw();
        self.send_accept(name, next, Vec::new(), cx);
        let Role::Leader(leader) = &mut self.role else { return false };
        let ticket = Ticket { ballot: leader.ballot, stamp: leader.last_stamp };
        leader.hand_over = None;
        self.send(name, Message::HandOver { ticket }, cx);
        cx.reply_to(hand_over.request, Reply::Done);
        if planted::on(Bug::HandOverRenewed) {
            return false;
        }
        self.step_down(Some(name), cx);
        true
    }

    /// Becomes a removed replica.
    pub(crate) fn retire(&mut self, cx: &mut Context<'_>) {
        let Some(configuration) = &self.configuration else { return };
        let removed_by = configuration.version;
        self.word.withdraw();
        self.step_down(None, cx);
        self.fetch = None;
        self.owed = None;
        self.role = Role::Retired(Retired { removed_by, told: BTreeMap::new(), ask_at: cx.now.instant });
        if planted::on(Bug::RemovedForgetsAtOnce) {
            self.bury_with(None, cx);
        }
    }

    pub(crate) fn tick_retired(&mut self, cx: &mut Context<'_>) {
        let Role::Retired(retired) = &mut self.role else { return };
        if cx.now.instant < retired.ask_at {
            return;
        }
        retired.ask_at = cx.now.instant.after(cx.config.membership_patience / 3);
        self.ask_membership(cx);
    }

    /// Asks everybody what configuration they have applied.
    pub(crate) fn ask_membership(&mut self, cx: &mut Context<'_>) {
        for other in self.others() {
            self.ask_membership_of(other, cx);
        }
    }

    /// Asks one replica what configuration it has applied.
    pub(crate) fn ask_membership_of(&mut self, other: ReplicaName, cx: &mut Context<'_>) {
        let configuration = self.configuration.as_ref().map(|known| known.version).unwrap_or_default();
        self.send(other, Message::AskMembership { configuration }, cx);
    }

    pub(crate) fn on_ask_membership(&mut self, from: ReplicaName, version: ConfigurationVersion, cx: &mut Context<'_>) {
        let Some(report) = &self.report else { return };
        let configuration = report.state.configuration.clone();
        // A removed replica forgets what it holds on the strength of this answer, so it must outlive a crash of this node:
        // what was applied in memory alone would leave the one that is asked with an undecided entry and nobody to ask.
        let newest = self.configuration.as_ref().is_some_and(|known| known.version == configuration.version);
        let durable = self.configuration_slot <= self.decided_on_disk.max(self.flushed);
        let assembled = self.assembled_through(cx) >= report.applied;
        let told = newest && durable && assembled;
        if !configuration.has(from) && !told {
            return;
        }
        // Silence would do for a member that knows as much; a removed one waits for the answer.
        if configuration.version > version || !configuration.has(from) {
            self.send(from, Message::Membership { configuration }, cx);
        }
    }

    /// Tells a replica that speaks as a member that this one knows better. True if the speaker is no member or this
    /// replica is retired.
    pub(crate) fn tell_membership_if_removed(&mut self, from: ReplicaName, cx: &mut Context<'_>) -> bool {
        let retired = matches!(self.role, Role::Retired(_));
        let Some(report) = &self.report else { return false };
        let known = if retired { self.configuration.as_ref() } else { Some(&report.state.configuration) };
        if let Some(known) = known.filter(|known| retired || !known.has(from)) {
            let configuration = known.clone();
            self.send(from, Message::Membership { configuration }, cx);
            return retired;
        }
        false
    }

    /// A member told what configuration it has applied.
    pub(crate) fn on_membership(&mut self, from: ReplicaName, configuration: Configuration, cx: &mut Context<'_>) {
        let version = configuration.version;
        let known = self.configuration.as_ref().map(|known| known.version).unwrap_or_default();
        if version > known {
            if !self.is_removed_by(&configuration) {
                self.catch_up_with(from, &configuration, cx);
                return;
            }
            // The others went on without this replica; what it lacks it will never get. The set to ask is the newer one.
            self.configuration = Some(configuration);
            self.configuration_slot = self.configuration_slot.max(self.decided);
            if !matches!(self.role, Role::Retired(_) | Role::Merged(_)) {
                self.retire(cx);
            }
        }
        let Some(newest) = self.configuration.clone() else { return };
        let Role::Retired(retired) = &mut self.role else { return };
        if version >= retired.removed_by {
            retired.told.insert(from.node, version);
        }
        let told = &retired.told;
        if crate::paxos::election::majority(&newest, |node| told.contains_key(&node)) {
            self.forget(cx);
        }
    }

    /// A later configuration has this replica: asks whoever told of it for what lies between. A teller that is no member there
    /// may hold nothing any more, or be the last that does; so all those are asked as well that are.
    fn catch_up_with(&self, teller: ReplicaName, configuration: &Configuration, cx: &mut Context<'_>) {
        let first = self.decided.next();
        self.send(teller, Message::CatchUp { first }, cx);
        if configuration.has(teller) {
            return;
        }
        for member in configuration.members.iter().filter(|member| member.node != self.name.node) {
            let to = ReplicaName { node: member.node, incarnation: member.incarnation, ..self.name };
            self.send_to((to, Some(member.address.clone())), Message::CatchUp { first }, cx);
        }
    }

    /// Whether `configuration` does without this replica. One from before it was added says nothing; the one that it is named
    /// after has it, if it was ever a member.
    pub(crate) fn is_removed_by(&self, configuration: &Configuration) -> bool {
        configuration.version.0 >= self.name.incarnation.0 && !configuration.has(self.name)
    }

    /// The last incarnation on this node that the removal of this replica rules out. The newest configuration it was told of
    /// may have the node again, under a later incarnation: that one may live.
    pub(crate) fn ruled_out(&self) -> Incarnation {
        let Some(configuration) = &self.configuration else { return self.name.incarnation };
        match configuration.member(self.name.node) {
            Some(again) if again.incarnation > self.name.incarnation => Incarnation(again.incarnation.0 - 1),
            Some(_) | None => Incarnation(configuration.version.0),
        }
    }

    /// Everything this replica holds is safe with others: it goes for good.
    fn forget(&mut self, cx: &mut Context<'_>) {
        // What other machines here were made of from this log must outlive it.
        if !self.is_needed_here(cx) {
            self.bury_with(None, cx);
        }
    }

    /// Ends this replica for good.
    fn bury_with(&mut self, merged: Option<Merger>, cx: &mut Context<'_>) {
        if std::mem::replace(&mut self.gone, true) {
            return;
        }
        self.merger = merged;
        if !planted::on(Bug::TombstoneForgotten) {
            let (replica, removed_by, configuration) = (self.name, self.ruled_out(), self.configuration.clone());
            cx.write(Write::Tombstone { replica, removed_by, merged, configuration });
        }
    }

    /// The machine was taken over by the group's gainer beside it.
    pub(crate) fn on_merged(&mut self, merger: Merger, cx: &mut Context<'_>) {
        self.word.withdraw();
        self.settle(cx);
        self.conclude_recovery(merger, cx);
        self.step_down(None, cx);
        self.fetch = None;
        self.owed = None;
        self.stalled = None;
        self.report = None;
        self.role = Role::Merged(merger);
    }

    /// Nobody needs what this replica of a merged group holds any more.
    pub(crate) fn on_settled(&mut self, merger: Merger, cx: &mut Context<'_>) {
        self.word.withdraw();
        self.bury_with(Some(merger), cx);
    }

    /// Its group is gone elsewhere, with all that it had. Who is needed here for something else asks again.
    pub(crate) fn on_gone(&mut self, merger: Merger, cx: &mut Context<'_>) {
        if !self.is_needed_here(cx) {
            self.on_settled(merger, cx);
        }
    }

    /// The survivors of its group go on without this replica.
    pub(crate) fn on_left_out(&mut self, cx: &mut Context<'_>) {
        self.word.withdraw();
        self.bury_with(None, cx);
    }

    /// A replica whose group ended here votes no more. It helps those that lag.
    pub(crate) fn answer_merged(&mut self, from: ReplicaName, message: Message, cx: &mut Context<'_>) {
        match message {
            Message::CatchUp { first } => self.on_catch_up(from, first, cx),
            Message::PreVote { .. }
            | Message::Prepare { .. }
            | Message::Accept { .. }
            | Message::AskMembership { .. }
            | Message::SnapshotPull { .. } => {
                let decided = self.decided;
                self.send(from, Message::Merged { decided }, cx);
            }
            Message::PreVoted { .. }
            | Message::Promise { .. }
            | Message::Refuse { .. }
            | Message::Accepted { .. }
            | Message::Decided { .. }
            | Message::Truncated { .. }
            | Message::SnapshotChunk { .. }
            | Message::HandOver { .. }
            | Message::Membership { .. }
            | Message::Merged { .. } => {}
        }
    }

    /// Another member's group ended there: what this one lacks up to the seal is still to be had from it.
    pub(crate) fn on_merged_away(&mut self, from: ReplicaName, decided: Slot, cx: &mut Context<'_>) {
        self.told_merged = true;
        if decided > self.decided {
            let first = self.decided.next();
            self.send(from, Message::CatchUp { first }, cx);
        }
    }
}

/// Why an order for members of one version is not carried out on another.
fn other_version(own: ConfigurationVersion, wanted: ConfigurationVersion) -> Option<String> {
    (own != wanted).then(|| format!("the group's members have changed: their version is {own}, not {wanted}"))
}

/// Why an order makes no sense, if it does not.
fn invalid_change(
    configuration: &Configuration,
    add: &[(NodeId, String)],
    remove: &[NodeId],
    busy: bool,
) -> Option<String> {
    let voter = |node: NodeId| configuration.member(node).is_some_and(|member| member.role == MemberRole::Voter);
    let mut nodes: Vec<NodeId> = add.iter().map(|(node, _)| *node).chain(remove.iter().copied()).collect();
    nodes.sort_unstable();
    if busy {
        Some("the group is busy with another change of members".to_owned())
    } else if nodes.is_empty() {
        Some("the order names no node".to_owned())
    } else if nodes.windows(2).any(|pair| pair[0] == pair[1]) {
        Some("the order names a node twice".to_owned())
    } else if let Some((node, _)) = add.iter().find(|(node, _)| voter(*node)) {
        Some(format!("node {node} is a voter already"))
    } else if let Some(node) = remove.iter().find(|node| configuration.member(**node).is_none()) {
        Some(format!("node {node} is no member"))
    } else if configuration.members.len() + add.len() > crate::group::state::MAX_MEMBERS {
        Some(format!("a group has at most {} members", crate::group::state::MAX_MEMBERS))
    } else {
        let left = configuration.voters().filter(|member| !remove.contains(&member.node)).count() + add.len();
        (left == 0).then(|| "the order leaves no voter".to_owned())
    }
}

/// The set with newcomers as learners, or `None` if all of them are learners already.
fn with_learners(configuration: &Configuration, add: &[(NodeId, String)]) -> Option<Configuration> {
    let mut next = configuration.clone();
    next.version = next.version.next();
    for (node, address) in add {
        if next.member(*node).is_none() {
            let incarnation = Incarnation(next.version.0);
            next.members.push(Member { node: *node, incarnation, role: MemberRole::Learner, address: address.clone() });
        }
    }
    next.members.sort_by_key(|member| member.node);
    (next.members.len() > configuration.members.len()).then_some(next)
}

/// The set with newcomers voting and the removed gone.
fn with_voters(configuration: &Configuration, add: &[(NodeId, String)], remove: &[NodeId]) -> Configuration {
    let mut next = configuration.clone();
    next.version = next.version.next();
    next.members.retain(|member| !remove.contains(&member.node));
    for member in &mut next.members {
        if add.iter().any(|(node, _)| *node == member.node) {
            member.role = MemberRole::Voter;
        }
    }
    next
}
