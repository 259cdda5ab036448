//! What the node's threads count as they go: each an addition beside the work, shared by nobody's cache line.

use prometheus::Registry;
use prometheus::core::Collector;
use scatter_core::effects::{Apply, MachineOrder, Refused, Reply};
use scatter_core::input::Input;
use scatter_core::message::Piece;
use scatter_core::policy::Outcome as PolicyOutcome;
use scatter_core::stage::Done;
use scatter_service::metrics::{Counters, Durations, Sizes};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Why a command that was proposed here failed; the index of its counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failed {
    NotLeader,
    NoReplica,
    Overloaded,
    DiskFull,
    Draining,
    Lost,
    Other,
}

impl Failed {
    const NAMES: [&str; 7] =
        ["not_leader", "no_replica", "overloaded", "disk_full", "draining", "leadership_lost", "other"];
}

/// Which way a replica here answered a read; the index of its counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServedRead {
    /// By the leader under its lease.
    Lease,
    /// By the leader after a round of heartbeats.
    Quorum,
    /// From whatever was applied.
    Stale,
}

impl ServedRead {
    const NAMES: [&str; 3] = ["lease", "quorum", "stale"];
}

/// Group operations by kind; the index of their counters.
const OPERATIONS: [&str; 3] = ["merge", "repartition", "split"];

/// The index of a split in [`OPERATIONS`].
const SPLIT: usize = 2;

/// What policies decide, and how it ends: the index of each pair's counter is that of the action times the number of endings
/// plus that of the ending. What is due and cannot be done comes after all of them.
const ACTIONS: [&str; 5] = ["change_members", "transfer_leader", "split", "merge", "repartition"];
const ENDINGS: [&str; 3] = ["done", "refused", "failed"];

/// Snapshots begun for others, bytes of them, snapshots installed here, bytes of them: the indices of their counters.
const SNAPSHOT_COUNTS: usize = 4;

/// Everything that is counted. Shared by all threads of the node.
pub struct NodeCounts {
    decided: Counters,
    failed: Counters,
    ballots: Counters,
    reads: Counters,
    snapshots: [Counters; SNAPSHOT_COUNTS],
    /// Group operations that began, were committed, were aborted.
    operations: [Counters; 3],
    operation_seconds: Durations,
    policies: Counters,
    entry_commands: Sizes,
    apply_entries: Sizes,
    apply_wait: Durations,
    apply: Durations,
    /// Pieces of work that wait for the apply thread.
    jobs: AtomicU64,
}

impl NodeCounts {
    /// Nothing counted yet.
    pub fn new() -> prometheus::Result<Self> {
        let plain = |name, help| Counters::new(name, help, &[], &[vec![]]);
        let labelled = |name, help, label, names: &[&'static str]| {
            let series: Vec<_> = names.iter().map(|name| vec![*name]).collect();
            Counters::new(name, help, &[label], &series)
        };
        let duration = |name, help| Durations::new(name, help, &[], &[vec![]]);
        Ok(Self {
            decided: plain("scatter_proposals_decided_total", "Commands proposed here that were decided.")?,
            failed: labelled(
                "scatter_proposals_failed_total",
                "Commands proposed here that were refused, or whose outcome is unknown since leadership was lost, by reason.",
                "reason",
                &Failed::NAMES,
            )?,
            ballots: plain("scatter_ballots_total", "Higher ballots that replicas here came to promise.")?,
            reads: labelled(
                "scatter_replica_reads_total",
                "Reads answered from replicas here, whoever asked, by the way they were answered.",
                "path",
                &ServedRead::NAMES,
            )?,
            snapshots: [
                plain("scatter_snapshots_sent_total", "Snapshots begun for other replicas.")?,
                plain("scatter_snapshots_sent_bytes_total", "Bytes of snapshots handed out to other replicas.")?,
                plain("scatter_snapshots_installed_total", "Snapshots received whole and switched in.")?,
                plain("scatter_snapshots_received_bytes_total", "Bytes of snapshots received.")?,
            ],
            operations: [
                labelled(
                    "scatter_group_operations_started_total",
                    "Group operations begun by groups that are led from here, by kind.",
                    "operation",
                    &OPERATIONS,
                )?,
                labelled(
                    "scatter_group_operations_committed_total",
                    "Group operations carried out by groups that are led from here, by kind.",
                    "operation",
                    &OPERATIONS,
                )?,
                labelled(
                    "scatter_group_operations_aborted_total",
                    "Group operations given up by groups that are led from here, by kind.",
                    "operation",
                    &OPERATIONS,
                )?,
            ],
            operation_seconds: duration(
                "scatter_group_operation_seconds",
                "Time from when a takeover of positions began until it was decided, where the group that gains is led.",
            )?,
            policies: {
                let pairs = ACTIONS.iter().flat_map(|action| ENDINGS.map(|ending| vec![*action, ending]));
                Counters::new(
                    "scatter_policy_decisions_total",
                    "Decisions of the policies on groups led here, by action and how it ended; what waits is due and cannot be done.",
                    &["action", "outcome"],
                    &pairs.chain([vec!["nothing", "waiting"]]).collect::<Vec<_>>(),
                )?
            },
            entry_commands: Sizes::new(
                "scatter_entry_commands",
                "Commands in an entry proposed here, once it is decided.",
            )?,
            apply_entries: Sizes::new("scatter_apply_entries", "Entries applied in one write to the data store.")?,
            apply_wait: duration(
                "scatter_apply_wait_seconds",
                "Time from when entries were known decided until the apply thread took them up.",
            )?,
            apply: duration("scatter_apply_seconds", "Time to apply entries in one write to the data store.")?,
            jobs: AtomicU64::new(0),
        })
    }

    /// Shows all of it.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let counters = [&self.decided, &self.failed, &self.ballots, &self.reads, &self.policies];
        let counters = counters.into_iter().chain(&self.snapshots).chain(&self.operations).cloned().map(boxed);
        let sizes = [&self.entry_commands, &self.apply_entries].map(|sizes| boxed(sizes.clone()));
        let durations =
            [&self.apply_wait, &self.apply, &self.operation_seconds].map(|durations| boxed(durations.clone()));
        counters.chain(sizes).chain(durations).try_for_each(|collector| registry.register(collector))
    }

    /// Decided entries go to the apply thread.
    pub fn on_decided(&self, apply: &Apply) {
        for (_, requests) in &apply.waiting {
            self.decided.add(0, requests.len() as u64);
            self.entry_commands.observe(requests.len());
        }
    }

    /// A command that was proposed here gets an answer that does not come from the state machine.
    pub fn on_failed(&self, reply: &Reply) {
        let reason = match reply {
            Reply::Lost => Failed::Lost,
            Reply::Refused(Refused::NotLeader { .. }) => Failed::NotLeader,
            Reply::Refused(Refused::NoReplica) => Failed::NoReplica,
            Reply::Refused(Refused::Overloaded) => Failed::Overloaded,
            Reply::Refused(Refused::DiskFull) => Failed::DiskFull,
            Reply::Refused(Refused::Invalid(_) | Refused::GivenUp(_))
            | Reply::Done
            | Reply::Born { .. }
            | Reply::ReadNow { .. } => Failed::Other,
        };
        self.failed.raise(reason as usize);
    }

    /// A command came while the node drains.
    pub fn on_draining(&self) {
        self.failed.raise(Failed::Draining as usize);
    }

    /// A replica here promised a higher ballot.
    pub fn on_ballot(&self) {
        self.ballots.raise(0);
    }

    /// A replica here answered a read.
    pub fn on_read(&self, way: ServedRead) {
        self.reads.raise(way as usize);
    }

    /// A group led from here was split.
    pub fn on_split(&self) {
        let [started, committed, _] = &self.operations;
        started.raise(SPLIT);
        committed.raise(SPLIT);
    }

    /// A group led from here began to take over positions: all that the neighbour has, or some.
    pub fn on_operation_began(&self, merge: bool) {
        self.operations[0].raise(usize::from(!merge));
    }

    /// The takeover that a group led from here had begun was decided.
    pub fn on_operation_ended(&self, merge: bool, committed: bool, took: Duration) {
        let [_, committed_ones, aborted] = &self.operations;
        if committed { committed_ones } else { aborted }.raise(usize::from(!merge));
        self.operation_seconds.observe(0, took);
    }

    /// What the policies had ordered of a group, by the name of the action, came to its end.
    pub fn on_policy_ended(&self, action: &str, outcome: PolicyOutcome) {
        if let Some(index) = ACTIONS.iter().position(|known| *known == action) {
            let ending = match outcome {
                PolicyOutcome::Done => 0,
                PolicyOutcome::Refused => 1,
                PolicyOutcome::Failed => 2,
            };
            self.policies.raise(index * ENDINGS.len() + ending);
        }
    }

    /// The policies found something due that cannot be done.
    pub fn on_policy_waits(&self) {
        self.policies.raise(ACTIONS.len() * ENDINGS.len());
    }

    /// A piece of work waits for the apply thread.
    pub fn on_job(&self) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
    }

    /// The apply thread took a piece of work.
    pub fn on_job_taken(&self) {
        self.jobs.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many pieces of work wait for the apply thread.
    #[must_use]
    pub fn jobs(&self) -> u64 {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Entries were applied, having waited and taken this long.
    pub fn on_applied(&self, entries: usize, waited: Duration, took: Duration) {
        self.apply_entries.observe(entries);
        self.apply_wait.observe(0, waited);
        self.apply.observe(0, took);
    }

    /// A piece of a snapshot was read for somebody.
    pub fn on_snapshot_read(&self, input: &Input) {
        let [sent, sent_bytes, _, _] = &self.snapshots;
        if let Input::SnapshotRead { piece: Piece { cursor, chunk, .. }, .. } = input
            && !chunk.is_empty()
        {
            sent.add(0, u64::from(cursor.is_none()));
            sent_bytes.add(0, chunk.len() as u64);
        }
    }

    /// An order was carried out: pieces of snapshots are counted.
    pub fn on_order(&self, order: &MachineOrder, done: &Done) {
        if let MachineOrder::StoreSnapshot { chunk, .. } = order {
            let [_, _, _, received_bytes] = &self.snapshots;
            received_bytes.add(0, chunk.len() as u64);
            self.on_snapshot_stored(done);
        }
    }

    /// A piece of a snapshot was stored.
    pub fn on_snapshot_stored(&self, done: &Done) {
        let [_, _, installed, _] = &self.snapshots;
        let whole = done.inputs.iter().any(|input| matches!(input, Input::Installed { .. }));
        installed.add(0, u64::from(whole));
    }
}

fn boxed(collector: impl Collector + 'static) -> Box<dyn Collector> {
    Box::new(collector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use scatter_core::types::{GroupId, Incarnation, NodeId, ReplicaName, RequestId, Slot};

    #[test]
    fn each_event_raises_its_own_count() {
        let counts = NodeCounts::new().unwrap();
        let registry = Registry::new();
        counts.register(&registry).unwrap();
        let group = GroupId(1);
        let waiting = vec![(Slot(1), vec![RequestId(1), RequestId(2), RequestId(3)]), (Slot(2), vec![RequestId(4)])];
        counts.on_decided(&Apply { group, entries: Vec::new(), waiting });
        counts.on_failed(&Reply::Lost);
        counts.on_failed(&Reply::Refused(Refused::Overloaded));
        counts.on_draining();
        counts.on_read(ServedRead::Quorum);
        counts.on_policy_ended("split", PolicyOutcome::Failed);
        counts.on_policy_waits();
        let to = ReplicaName { group, node: NodeId(2), incarnation: Incarnation(1) };
        for (cursor, length) in [(None, 100), (Some(Bytes::from_static(b"a")), 50), (Some(Bytes::from_static(b"b")), 0)]
        {
            let chunk = Bytes::from(vec![0; length]);
            let piece = Piece { snapshot: 7, slot: Slot(1), cursor, after: None, chunk };
            counts.on_snapshot_read(&Input::SnapshotRead { group, to, piece });
        }
        let chunk = Bytes::from_static(b"piece");
        let order = MachineOrder::StoreSnapshot { replica: to, snapshot: 7, from: to, chunk };
        counts.on_order(&order, &Done::default());
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "scatter_proposals_decided_total 4\n",
            "scatter_proposals_failed_total{reason=\"leadership_lost\"} 1\n",
            "scatter_proposals_failed_total{reason=\"overloaded\"} 1\n",
            "scatter_proposals_failed_total{reason=\"draining\"} 1\n",
            "scatter_proposals_failed_total{reason=\"not_leader\"} 0\n",
            "scatter_entry_commands_sum 4\n",
            "scatter_entry_commands_count 2\n",
            "scatter_replica_reads_total{path=\"quorum\"} 1\n",
            "scatter_policy_decisions_total{action=\"split\",outcome=\"failed\"} 1\n",
            "scatter_policy_decisions_total{action=\"split\",outcome=\"done\"} 0\n",
            "scatter_policy_decisions_total{action=\"nothing\",outcome=\"waiting\"} 1\n",
            "scatter_snapshots_sent_total 1\n",
            "scatter_snapshots_sent_bytes_total 150\n",
            "scatter_snapshots_received_bytes_total 5\n",
            "scatter_snapshots_installed_total 0\n",
        ] {
            assert!(text.contains(line), "`{line}` is missing in:\n{text}");
        }
    }
}
