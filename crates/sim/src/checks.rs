//! Invariants that are seen from outside one host: checked when its effects are carried out.

use crate::host::Process;
use crate::invariants::{Checked, require, voters};
use crate::world::World;
use scatter_core::durable::Write;
use scatter_core::effects::Effects;
use scatter_core::entry::Room;
use scatter_core::message::{Envelope, Message};
use scatter_core::types::{GroupId, NodeId, Slot};
use std::collections::BTreeMap;

impl World {
    /// I1: what a log holds of slots that the store has applied, and that it will be asked for, is what was decided there.
    pub(crate) fn check_recovered(&self, host: usize, applied: &BTreeMap<GroupId, Slot>, effects: &Effects) -> Checked {
        for (group, replica) in &self.hosts[host].disk.log.replicas {
            let through = applied.get(group).copied().unwrap_or_default();
            let cut = effects.writes.iter().filter_map(|write| match write {
                Write::Truncate { group: of, through } if of == group => Some(*through),
                _ => None,
            });
            let truncated = cut.max().unwrap_or_default().max(replica.truncated);
            for (slot, (_, entry)) in replica.entries.range(truncated.next()..) {
                if *slot <= through {
                    self.observer.holds_decided(host, *group, *slot, entry)?;
                }
            }
        }
        Ok(())
    }

    /// I24: what shows a slot as decided leaves only when readers wait for that slot.
    pub(crate) fn check_floor(&self, host: usize, envelope: &Envelope) -> Checked {
        let Message::Accept { decided, .. } = &envelope.message else { return Ok(()) };
        let process = self.hosts[host].process.as_ref();
        let covered = process
            .and_then(|process| process.node.read_word(envelope.from.group))
            .is_none_or(|word| word.covers(*decided));
        require(24, covered, || format!("host {host} shows slot {decided} as decided while its readers may not see it"))
    }

    /// I25: a leader's readers are turned back before a structural entry is proposed. I26: nothing is proposed past one.
    pub(crate) fn check_proposals(&mut self, host: usize, writes: &[Write]) -> Checked {
        for write in writes {
            let Write::Accept { group, ballot, first, entries } = write else { continue };
            let Some(process) = &self.hosts[host].process else { continue };
            if ballot.node != process.node.id() {
                continue;
            }
            let structural = entries.iter().any(|entry| entry.kind.is_structural());
            let turned_back = process.node.read_word(*group).is_none_or(|word| word.is_withdrawn());
            require(25, !structural || turned_back, || {
                format!("host {host} proposes a change of group {group} while readers are let through")
            })?;
            self.observer.proposes(host, *group, *ballot, *first, entries)?;
        }
        Ok(())
    }

    /// I28: whoever leads a ballot has the durable promises of a majority.
    pub(crate) fn check_elected(&mut self, host: usize, envelope: &Envelope) -> Checked {
        let Message::Accept { ballot, first, .. } = envelope.message else { return Ok(()) };
        let group = envelope.from.group;
        let Some(configuration) = self.observer.begins(group, ballot, first) else { return Ok(()) };
        let promised = |node: NodeId| {
            self.hosts.iter().any(|host| {
                let log = &host.disk.log;
                log.node.as_ref().is_some_and(|record| record.node == node)
                    && log.replicas.get(&group).is_some_and(|replica| replica.hard.promised >= ballot)
            })
        };
        let votes =
            voters(&configuration).into_iter().filter(|node| self.observer.is_condemned(*node) || promised(*node));
        // The first ballot of a child needs no phase 1, only that its leader led it never before.
        let needed = if ballot.round == 1 { 1 } else { configuration.majority() };
        let votes = votes.count();
        let left = self.observer.is_left_to(group, promised);
        require(28, votes >= needed || left, || {
            format!("host {host} leads ballot {ballot} of group {group} with {votes} promises of the {needed} it needs")
        })
    }

    /// I33: what a disk has no room for has a right to the log's reserve, or it would keep waiting whatever comes after it.
    pub(crate) fn check_room(&self, host: usize, writes: &[Write], presses: bool) -> Checked {
        let room = self.hosts[host].room;
        let has_right = presses || room == Room::Enough || writes.iter().any(Write::uses_reserve);
        let admits = |write: &Write| match write {
            Write::Accept { entries, .. } => entries.iter().all(|entry| room.admits(entry)),
            _ => true,
        };
        let without = || writes.iter().find(|write| !admits(write));
        require(33, has_right || without().is_none(), || format!("host {host} has no room for {:?}", without()))
    }

    /// I4: what is written of a replica finds its record there: a log refuses to speak of one that is not. I30: its decided mark
    /// never falls.
    pub(crate) fn check_live(&mut self, host: usize, writes: &[Write]) -> Checked {
        let live = &mut self.hosts[host].live;
        for write in writes {
            match write {
                Write::Node { .. } | Write::Peer { .. } => {}
                Write::Create { replica, .. } => {
                    live.insert(replica.group, Slot(0));
                }
                Write::Tombstone { replica, .. } => {
                    live.remove(&replica.group);
                }
                Write::Hard { group, .. } | Write::Accept { group, .. } | Write::Truncate { group, .. } => {
                    let mark = live.get_mut(group);
                    require(4, mark.is_some(), || format!("host {host} writes of no replica: {write:?}"))?;
                    if let (Some(mark), Write::Hard { state, .. }) = (mark, write) {
                        require(30, state.decided >= *mark, || format!("host {host} knew {mark} decided: {write:?}"))?;
                        *mark = state.decided;
                    }
                }
            }
        }
        Ok(())
    }

    /// I14: the log forgets only what the data store holds durably.
    pub(crate) fn check_truncations(&self, host: usize, writes: &[Write]) -> Checked {
        for write in writes {
            if let Write::Truncate { group, through } = write {
                let flushed = self.hosts[host].flushed.get(group).copied().unwrap_or_default();
                require(14, *through <= flushed, || {
                    format!("host {host} truncates group {group} through {through}; its store holds {flushed}")
                })?;
            }
        }
        Ok(())
    }

    /// I18: there is one cluster.
    pub(crate) fn check_clusters(&mut self, host: usize, writes: &[Write]) -> Checked {
        for write in writes {
            if let Write::Node { record } = write
                && let Some(cluster) = record.cluster
            {
                self.observer.cluster(host, cluster)?;
            }
            if let Write::Create { replica, .. } = write {
                self.check_born(host, replica.group)?;
            }
        }
        Ok(())
    }

    /// I18: the first group is begun only when all founders are durably bound to it.
    pub(crate) fn check_born(&self, host: usize, group: GroupId) -> Checked {
        let Some(process) = &self.hosts[host].process else { return Ok(()) };
        let Some(binding) = process.node.record().binding.as_ref().filter(|binding| binding.group == group) else {
            return Ok(());
        };
        // A founder that is no more was seen bound by those who began before.
        let unbound = |node: NodeId| {
            !self.observer.is_condemned(node)
                && self.hosts.iter().any(|host| {
                    let record = host.disk.log.node.as_ref().filter(|record| record.node == node);
                    record.is_some_and(|record| record.binding.as_ref() != Some(binding))
                })
        };
        require(18, !binding.founders.iter().any(|(node, _)| unbound(*node)), || {
            format!("host {host} begins group {group} before all founders are bound to it")
        })
    }

    /// I6: at most one replica of a group may answer reads under a lease.
    pub(crate) fn check_leases(&self, host: usize) -> Checked {
        let Some(process) = &self.hosts[host].process else { return Ok(()) };
        for group in &self.observer.living() {
            let leased = |host: usize, process: &Process| {
                let clock = self.hosts[host].clock.instant(self.now);
                process.node.read_word(*group).is_some_and(|word| !word.glance().remaining(clock).is_zero())
            };
            if !leased(host, process) {
                continue;
            }
            for (other, rival) in self.hosts.iter().enumerate() {
                if let Some(rival) = rival.process.as_ref().filter(|_| other != host) {
                    require(6, !leased(other, rival), || {
                        format!("hosts {host} and {other} both hold a lease of group {group}")
                    })?;
                }
            }
        }
        Ok(())
    }
}
