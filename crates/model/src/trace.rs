//! How a state and a path to it are written down.

use crate::sets::{NODES, node_name};
use crate::state::{Entry, GroupId, Presence, Replica, State};
use std::fmt;

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in GroupId::BOTH {
            write!(f, "    {group:?}:")?;
            for (entry, slot) in self.group(group).log.from(0).iter().zip(0..) {
                write!(f, " {slot}:")?;
                write!(f, "{entry}")?;
            }
            match self.group(group).leader {
                Some(leader) => writeln!(f, "  led by {}", node_name(usize::from(leader.node)))?,
                None => writeln!(f, "  led by nobody")?,
            }
        }
        let anywhere =
            |node: &usize| GroupId::BOTH.iter().any(|g| self.replica(*g, *node).presence != Presence::Absent);
        for node in (0..NODES).filter(anywhere) {
            write!(f, "    {}", node_name(node))?;
            for group in GroupId::BOTH {
                write!(f, "  {group:?} ")?;
                write_replica(self.replica(group, node), f)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A state on one line for each group and node.
pub(crate) fn describe(state: &State, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{state}")
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Empty => write!(f, "-"),
            Entry::Write(write) => write!(f, "write[{write:?}]"),
            Entry::Begin(begin) => write!(f, "begin[{:?} {:?} count {}]", begin.kind, begin.moves, begin.count),
            Entry::Prepare(operation) => write!(f, "prepare[{:?}{}]", operation.coordinator, operation.begin),
            Entry::Decide { begin, outcome, seal } => write!(f, "decide[{begin} {outcome:?} seal {seal}]"),
            Entry::Resolve { operation, outcome } => {
                write!(f, "resolve[{:?}{} {outcome:?}]", operation.coordinator, operation.begin)
            }
            Entry::Close { begin } => write!(f, "close[{begin}]"),
            Entry::Configuration(members) => write!(f, "members{members:?}"),
        }
    }
}

fn write_replica(replica: &Replica, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match replica.presence {
        Presence::Absent => return write!(f, "none"),
        Presence::Gone => return write!(f, "tombstone"),
        Presence::Live => {}
    }
    let (store, flushed) = (replica.store, replica.flushed);
    write!(f, "log {}..{} applied {} data {:?}", replica.start, replica.has, store.applied, store.data)?;
    if store.parted.0 != 0 {
        write!(f, " parted {:?}", store.parted)?;
    }
    if flushed != store {
        write!(f, " (on disk {} {:?})", flushed.applied, flushed.data)?;
    }
    Ok(())
}
