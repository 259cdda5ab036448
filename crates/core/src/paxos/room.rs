//! Room on the members' disks, as the leader counts it.
//!
//! Each answer tells how much room a member's disk has. What a majority has no room for is refused to clients by name. What was proposed
//! before that was known stays under way; as soon as something stands behind it that does have room, full disks are *pressed* to take
//! both, out of their log's reserve.

use crate::effects::{Refused, Reply};
use crate::entry::Room;
use crate::replica::{Context, Replica, Role};
use crate::types::{NodeId, Slot};

/// How many bytes a member may lack of what is decided, and still take that out of its reserve.
const MOST_PRESSED: usize = 1 << 20;

impl Replica {
    /// Counts whose disks have room. If that is less than before, what waits and has none is refused: once proposed, nobody could
    /// tell what became of it.
    pub(super) fn look_for_room(&mut self, cx: &mut Context<'_>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let least = leader.peers.values().map(|peer| peer.room).fold(cx.room, Room::min);
        if least == Room::Enough && leader.queue_room == Room::Enough {
            leader.room = Room::Enough;
            return;
        }
        // Without a majority last words are all there is to go by, and it is not for want of room that nothing is decided.
        let lately = cx.config.election_max * 2;
        let hears = self.hears_majority(lately, cx);
        let (Some(configuration), own) = (&self.configuration, self.name.node) else { return };
        let recovery = self.recovery.as_ref().filter(|recovery| recovery.stands_for(configuration));
        let Role::Leader(leader) = &mut self.role else { return };
        let of = |node: NodeId| {
            if node == own {
                return cx.room;
            }
            // Whoever is gone has no room for anything.
            let peer = leader.peers.get(&node);
            let peer = peer.filter(|peer| !hears || cx.now.instant.since(peer.answered_at) <= lately);
            peer.map_or(Room::Reserve, |peer| peer.room)
        };
        leader.room = if let Some(recovery) = recovery {
            recovery.quorum(own).map(of).min().unwrap_or(cx.room)
        } else {
            let mut rooms: Vec<Room> = configuration.voters().map(|voter| of(voter.node)).collect();
            rooms.sort_unstable_by(|a, b| b.cmp(a));
            rooms.get(configuration.majority() - 1).copied().unwrap_or(cx.room)
        };
        let room = leader.room.min(cx.room);
        if room < leader.queue_room {
            for (request, command) in std::mem::take(&mut leader.queue) {
                if room.admits_command(&command) {
                    leader.queue.push_back((request, command));
                } else {
                    leader.queue_bytes -= command.len();
                    cx.effects.replies.push((request, Reply::Refused(Refused::DiskFull)));
                }
            }
        }
        leader.queue_room = room;
    }

    /// Up to which slot a member's full disk is to take what it lacks, out of its reserve: something that has no room is among that, and
    /// something that has stands behind it, or waits for the pipeline. Whoever lacks much takes nothing so, for the reserve is small, and
    /// who has less room than the majority is needed only if the members change.
    pub(super) fn press_for(&self, node: NodeId) -> Slot {
        let Role::Leader(leader) = &self.role else { return Slot(0) };
        let Some(peer) = leader.peers.get(&node).filter(|_| leader.room < Room::Enough) else { return Slot(0) };
        if peer.room < leader.room && leader.structural.is_none() {
            return Slot(0);
        }
        let (mut press, mut bytes, mut next, mut has_no_room) = (Slot(0), 0, peer.through.next(), false);
        for (slot, _, entry) in self.log.above(peer.through) {
            // What is undecided is bounded by the pipeline already, and everybody waits for it.
            bytes += if slot <= self.decided { entry.weight() } else { 0 };
            if slot != next || bytes > MOST_PRESSED {
                return Slot(0);
            }
            next = slot.next();
            if !leader.room.admits(entry) {
                has_no_room = true;
            } else if has_no_room {
                press = slot;
            }
        }
        let waits = !(leader.own.is_empty() && leader.queue.is_empty());
        if has_no_room && waits { self.cursor.through } else { press }
    }
}
