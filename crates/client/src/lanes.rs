//! The lanes of this process's session: each lets one write at a time be repeated without being applied twice.
//!
//! Lanes are handed out last returned first, so that a quiet process uses few of them and the groups remember few.

use parking_lot::Mutex;
use scatter_core::command::LaneUse;
use scatter_core::types::{SessionId, Version};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A lane at rest.
#[derive(Clone, Copy, Debug)]
struct Lane {
    number: u32,
    /// The last sequence used.
    sequence: u64,
}

/// All lanes of one session.
#[derive(Debug)]
pub(crate) struct Lanes {
    session: SessionId,
    count: u32,
    free: Mutex<Vec<Lane>>,
    permits: Arc<Semaphore>,
    /// The highest version heard in any reply: what a write's first attempt carries as its stamp.
    stamp: AtomicU64,
}

impl Lanes {
    /// `count` lanes of a session.
    pub(crate) fn new(session: SessionId, count: u32) -> Self {
        let free = (0..count).rev().map(|number| Lane { number, sequence: 0 }).collect();
        Self {
            session,
            count,
            free: Mutex::new(free),
            permits: Arc::new(Semaphore::new(count as usize)),
            stamp: AtomicU64::new(0),
        }
    }

    /// Notes a version that a reply carried.
    pub(crate) fn heard(&self, version: Version) {
        // Most replies bring a higher version than the last; a plain read first spares the others a contended write.
        if version.0 > self.stamp.load(Ordering::Relaxed) {
            self.stamp.fetch_max(version.0, Ordering::Relaxed);
        }
    }

    /// Opens the next sequence of a free lane, if there is one.
    pub(crate) fn try_open(self: &Arc<Self>) -> Option<OpenLane> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        Some(self.open_with(permit))
    }

    /// Waits for a free lane and opens its next sequence.
    pub(crate) async fn open(self: &Arc<Self>) -> OpenLane {
        let permits = Arc::clone(&self.permits);
        self.open_with(permits.acquire_owned().await.expect("the semaphore is never closed"))
    }

    fn open_with(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> OpenLane {
        let mut lane = self.free.lock().pop().expect("a permit stands for a lane");
        lane.sequence = lane.sequence.saturating_add(1);
        let stamp = Version(self.stamp.load(Ordering::Relaxed));
        OpenLane { lanes: Arc::clone(self), lane, stamp, _permit: permit }
    }

    /// How many lanes are in use.
    pub(crate) fn in_use(&self) -> usize {
        (self.count as usize).saturating_sub(self.permits.available_permits())
    }
}

/// A lane with one operation open. Dropping it returns the lane; its sequence is never used again.
#[derive(Debug)]
pub(crate) struct OpenLane {
    lanes: Arc<Lanes>,
    lane: Lane,
    stamp: Version,
    _permit: OwnedSemaphorePermit,
}

impl OpenLane {
    /// What every attempt of the operation carries.
    pub(crate) fn lane_use(&self) -> LaneUse {
        LaneUse { session: self.lanes.session, lane: self.lane.number, sequence: self.lane.sequence, stamp: self.stamp }
    }

    /// Opens the lane's next sequence with the stamp that a group asked for, for an operation that was not applied so
    /// far. The stamp may be lower than what was heard elsewhere: groups' clocks differ.
    pub(crate) fn renew(&mut self, stamp: Version) {
        self.lane.sequence = self.lane.sequence.saturating_add(1);
        self.stamp = stamp;
    }
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        // The lane goes back before the permit does, which is dropped after this.
        self.lanes.free.lock().push(self.lane);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[tokio::test]
    async fn a_lane_is_held_by_one_operation_and_its_sequence_rises() {
        let lanes = Arc::new(Lanes::new(SessionId(1), 2));
        let (first, second) = (lanes.open().await, lanes.open().await);
        assert_ne!(first.lane_use().lane, second.lane_use().lane);
        assert_eq!(lanes.in_use(), 2);
        let lane = first.lane_use();
        assert_eq!(lane.sequence, 1);

        let waiting = tokio::spawn({
            let lanes = Arc::clone(&lanes);
            async move { lanes.open().await.lane_use() }
        });
        drop(first);
        let reused = waiting.await.expect("the waiter ends");
        assert_eq!((reused.lane, reused.sequence), (lane.lane, 2));
        drop(second);
        assert_eq!(lanes.in_use(), 0);
    }

    #[tokio::test]
    async fn no_lane_use_repeats_under_concurrency() {
        let lanes = Arc::new(Lanes::new(SessionId(1), 3));
        let tasks: Vec<_> = (0..200)
            .map(|_| {
                let lanes = Arc::clone(&lanes);
                tokio::spawn(async move {
                    let open = lanes.open().await;
                    tokio::task::yield_now().await;
                    (open.lane_use().lane, open.lane_use().sequence)
                })
            })
            .collect();
        let mut seen = HashSet::new();
        for task in tasks {
            assert!(seen.insert(task.await.expect("the task ends")), "a lane use was handed out twice");
        }
        assert_eq!(seen.len(), 200);
    }

    #[tokio::test]
    async fn the_stamp_is_what_was_heard_before_the_first_attempt() {
        let lanes = Arc::new(Lanes::new(SessionId(1), 1));
        lanes.heard(Version(5));
        lanes.heard(Version(3));
        let mut open = lanes.open().await;
        assert_eq!(open.lane_use().stamp, Version(5));
        lanes.heard(Version(9));
        assert_eq!(open.lane_use().stamp, Version(5), "a repeat carries the same stamp");
        open.renew(Version(4));
        assert_eq!((open.lane_use().stamp, open.lane_use().sequence), (Version(4), 2));
    }
}
