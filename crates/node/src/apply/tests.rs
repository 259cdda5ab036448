#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::metrics::NodeCounts;
use crate::storage::rocks::RocksSettings;
use bytes::Bytes;
use scatter_core::codec::Encode;
use scatter_core::command::{Command, Condition, Operation};
use scatter_core::entry::{Entry, EntryClock, EntryKind};
use scatter_core::group::{Configuration, GroupState, Limits, Member, Role};
use scatter_core::ops::{Begin, Decide, OperationId, Prepare, Split, Takeover};
use scatter_core::ring::Position;
use scatter_core::time::LogTime;
use scatter_core::types::{ClusterId, ConfigurationVersion, Incarnation, NodeId, ReplicaName};
use tokio::sync::oneshot;

const GAINER: GroupId = GroupId(1);
const LOSER: GroupId = GroupId(2);

/// A node with two groups side by side, the first of which is to take over the second.
struct Scene {
    worker: Worker,
    _directory: tempfile::TempDir,
}

type Answer = oneshot::Receiver<Result<ReplyBody, scatter_wire::CallError>>;

fn name(group: GroupId) -> ReplicaName {
    ReplicaName { group, node: NodeId(1), incarnation: Incarnation(1) }
}

fn entry(kind: EntryKind, body: Bytes) -> Entry {
    Entry { kind, clock: EntryClock { stamp: Version(0), advance_micros: 0 }, body }
}

/// An entry with one write, by a key that lies in the first or second group.
fn write(group: GroupId) -> Entry {
    let lies = |key: &Key| (key.position().0[0] < 0x80) == (group == GAINER);
    let key = (0..).map(|number| Key::new(format!("k{number}").into_bytes()).unwrap()).find(lies).unwrap();
    let operation = Operation::Put { key, value: Bytes::from_static(b"v"), ttl_ms: None, condition: Condition::Always };
    let command = Command { lane: None, idempotency: None, operation };
    entry(EntryKind::Commands, vec![command.to_bytes()].to_bytes())
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = RocksStore::open(directory.path(), &RocksSettings::default()).unwrap();
        let stage = Stage::open(store.clone(), Limits::default(), &Default::default(), 1, STORE_PAUSE).unwrap();
        let serving = Arc::new(Serving::new(store.clone(), NodeCounts::new().unwrap(), 3));
        let mut worker = Worker::new(stage, store, serving, Inbox::new(), 1 << 40).unwrap();
        let member = Member { node: NodeId(1), incarnation: Incarnation(1), role: Role::Voter, address: String::new() };
        let configuration = Configuration { version: ConfigurationVersion(1), members: vec![member] };
        let state = GroupState::genesis(ClusterId(1), GAINER, configuration, LogTime(1));
        worker.order(&MachineOrder::Create { replica: name(GAINER), state: Box::new(state) });
        let mut scene = Self { worker, _directory: directory };
        scene.split();
        scene.begin();
        scene
    }

    fn split(&mut self) {
        let at = Position(Bytes::from_static(&[0x80]));
        let range_version = self.state(GAINER).range_version;
        let split = Split { at, child: LOSER, leader: NodeId(1), range_version };
        self.apply(GAINER, entry(EntryKind::Split, split.to_bytes()));
    }

    fn begin(&mut self) {
        let (own, loser) = (self.state(GAINER).clone(), self.state(LOSER).clone());
        let takeover = Takeover {
            loser: LOSER,
            moving: loser.range.clone(),
            merge: true,
            range_version: loser.range_version,
            configuration_version: loser.configuration.version,
            operations: loser.operations,
        };
        let begin = Begin {
            range_version: own.range_version,
            configuration_version: own.configuration.version,
            takeover,
            loser: loser.link(),
        };
        self.apply(GAINER, entry(EntryKind::Begin, begin.to_bytes()));
    }

    /// The merger that the first group has begun.
    fn pending(&self) -> (OperationId, Takeover) {
        let Some(Pending::Gains { operation, takeover, .. }) = &self.state(GAINER).pending else { panic!("none") };
        (*operation, takeover.clone())
    }

    /// What the second group decides to be taken over.
    fn seal(&self) -> Entry {
        let gainer = self.state(GAINER).link();
        let (operation, takeover) = self.pending();
        let prepare = Prepare { operation, takeover, gainer };
        entry(EntryKind::Prepare, prepare.to_bytes())
    }

    /// What the first group decides when the second has sealed.
    fn commit(&self) -> Entry {
        let Some(Pending::Loses { surrender, .. }) = self.state(LOSER).pending.clone() else { panic!("no seal") };
        entry(EntryKind::Decide, Decide { operation: self.pending().0, commit: Some(surrender) }.to_bytes())
    }

    fn state(&self, group: GroupId) -> &GroupState {
        self.worker.stage.state(group).unwrap()
    }

    /// Decides an entry that nobody waits for.
    fn apply(&mut self, group: GroupId, entry: Entry) {
        let slot = self.state(group).applied.next();
        let apply = Apply { group, entries: vec![(slot, entry)], waiting: Vec::new() };
        self.worker.apply_all(&[apply], Vec::new(), Instant::now());
    }
}

/// Entries of a group from a slot on; the last is a write that somebody waits for.
fn waited(
    group: GroupId,
    first: Slot,
    entries: Vec<Entry>,
    request: u64,
) -> (Apply, (RequestId, GroupId, Waiter), Answer) {
    let request = RequestId(request);
    let slots = (first.0..).map(Slot);
    let entries: Vec<(Slot, Entry)> = slots.zip(entries.into_iter().chain([write(group)])).collect();
    let last = entries.last().unwrap().0;
    let (reply, answer) = oneshot::channel();
    (Apply { group, entries, waiting: vec![(last, vec![request])] }, (request, group, Waiter::Task(reply)), answer)
}

fn answered(mut answer: Answer) -> ReplyBody {
    answer.try_recv().expect("an answer").expect("no failed call")
}

#[test]
fn who_waits_for_a_group_that_is_merged_away_hears_that_the_outcome_is_unknown() {
    let mut scene = Scene::new();
    let sealed = scene.seal();
    scene.apply(LOSER, sealed);
    let behind = scene.state(LOSER).applied.next();
    let commit = scene.commit();
    // One burst brings the merger and a write that was decided by the group which it ends.
    let (gains, gainer, written) = waited(GAINER, scene.state(GAINER).applied.next(), vec![commit], 1);
    let (loses, loser, unknown) = waited(LOSER, behind, Vec::new(), 2);
    scene.worker.apply_all(&[gains, loses], vec![gainer, loser], Instant::now());
    assert!(scene.worker.stage.machine(LOSER).is_none(), "it was merged away");
    assert!(matches!(answered(unknown), ReplyBody::Refused { refusal: Refusal::Unknown, .. }));
    let written = answered(written);
    assert!(
        matches!(&written, ReplyBody::Outcome { outcome: Outcome::Written { .. }, group: GAINER, .. }),
        "{written:?}"
    );

    // And so does who comes after it.
    let (late, waiter, unknown) = waited(LOSER, behind.next(), Vec::new(), 3);
    scene.worker.apply_all(&[late], vec![waiter], Instant::now());
    assert!(matches!(answered(unknown), ReplyBody::Refused { refusal: Refusal::Unknown, .. }));
    assert!(scene.worker.waiters.is_empty());
}

#[test]
fn who_waits_behind_a_merger_is_answered_when_it_comes_about_or_when_the_replica_goes() {
    for comes_about in [true, false] {
        let mut scene = Scene::new();
        // The other members' second group has sealed, the one beside this replica has not.
        let mut ahead = Scene::new();
        let sealed = ahead.seal();
        ahead.apply(LOSER, sealed);
        let (gains, waiter, mut answer) = waited(GAINER, scene.state(GAINER).applied.next(), vec![ahead.commit()], 1);
        scene.worker.apply_all(&[gains], vec![waiter], Instant::now());
        assert!(answer.try_recv().is_err(), "it stands still");
        if comes_about {
            let sealed = scene.seal();
            scene.apply(LOSER, sealed);
            assert!(matches!(answered(answer), ReplyBody::Outcome { outcome: Outcome::Written { .. }, .. }));
        } else {
            scene.worker.order(&MachineOrder::Destroy { replica: name(GAINER) });
            assert!(matches!(answered(answer), ReplyBody::Refused { refusal: Refusal::Unknown, .. }));
        }
        assert!(scene.worker.waiters.is_empty());
    }
}
