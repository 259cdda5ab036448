//! A leader has its machine count what the group holds, while the counters are estimates.
//!
//! `group/count.rs` tells how, and why what is found holds at any later slot. Here it is asked for slice by slice, and the
//! correction proposed. Whatever goes wrong on the way, it begins anew: a correction that comes twice or too late does nothing.

use crate::effects::MachineOrder;
use crate::entry::EntryKind;
use crate::replica::{Context, Replica, Role};
use crate::types::Slot;
use bytes::Bytes;

/// How far a leader is on the way to exact counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Count {
    /// Nothing is under way.
    Idle,
    /// The machine counts a slice.
    Asked,
    /// The correction waits for its place in the log.
    Found,
    /// It has one. What a change of the range made void is found anew once that is applied.
    Proposed(Slot),
}

impl Replica {
    /// Has the machine count what the group holds, if its counters are estimates and nothing more important is under way.
    pub(crate) fn order_count(&mut self, cx: &mut Context<'_>) {
        let unlocked = |state: &crate::group::GroupState| state.pending.is_none();
        let estimated = self.report.as_ref().is_some_and(|report| !report.counted && unlocked(&report.state));
        let (group, applied) = (self.name.group, self.applied);
        let Role::Leader(leader) = &mut self.role else { return };
        let busy = leader.structural.is_some() || leader.change.is_some() || leader.hand_over.is_some();
        let free = match leader.count {
            Count::Idle => true,
            Count::Proposed(slot) => slot <= applied,
            Count::Asked | Count::Found => false,
        };
        if estimated && free && !busy && leader.barrier <= applied {
            leader.count = Count::Asked;
            cx.effects.orders.push(MachineOrder::Count { group, count: 0 });
        }
    }

    /// The machine has counted a slice.
    pub(crate) fn on_counted(&mut self, count: u64, correction: Option<Bytes>, cx: &mut Context<'_>) {
        let group = self.name.group;
        let Role::Leader(leader) = &mut self.role else { return };
        if leader.count != Count::Asked {
            return;
        }
        match correction {
            Some(correction) => {
                leader.count = Count::Found;
                leader.propose_own(EntryKind::Correct, correction);
            }
            None if count == 0 => leader.count = Count::Idle,
            None => cx.effects.orders.push(MachineOrder::Count { group, count }),
        }
    }
}
