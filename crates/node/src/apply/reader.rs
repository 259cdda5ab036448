//! The thread that reads snapshots for others, so that nobody's write waits for it.

use crate::events::{Event, Inbox};
use crate::priority::give_way;
use crate::serving::Serving;
use crate::storage::rocks::RocksView;
use scatter_core::Input;
use scatter_core::stage::Reading;
use scatter_core::store::StoreError;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// Hands pieces to be read to the thread, which ends with the handle.
pub(super) struct Reader {
    readings: Sender<Reading<RocksView>>,
}

impl Reader {
    /// Reads at most so many bytes a second, for all who fetch together.
    pub(super) fn start(serving: Arc<Serving>, inbox: Arc<Inbox>, bytes_per_second: u64) -> std::io::Result<Self> {
        let (readings, work) = channel();
        let limit = Limit { bytes_per_second, next_at: Instant::now() };
        std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || run(&work, &serving, &inbox, limit))?;
        Ok(Self { readings })
    }

    /// Each fetcher has but one piece under way.
    pub(super) fn read(&self, reading: Reading<RocksView>) {
        // The thread ends only with this handle.
        let _ = self.readings.send(reading);
    }
}

/// Keeps what is read below a rate: each piece keeps the next one waiting.
struct Limit {
    bytes_per_second: u64,
    next_at: Instant,
}

impl Limit {
    /// How long the next piece is to wait.
    fn wait(&self, now: Instant) -> Duration {
        self.next_at.saturating_duration_since(now)
    }

    /// So much was read. Time in which nothing was asked for is not made up for later.
    fn took(&mut self, now: Instant, bytes: usize) {
        let pause = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second.max(1) as f64);
        self.next_at = self.next_at.max(now) + pause;
    }
}

fn run(work: &Receiver<Reading<RocksView>>, serving: &Serving, inbox: &Inbox, mut limit: Limit) {
    give_way();
    for reading in work {
        std::thread::sleep(limit.wait(Instant::now()));
        let begun = Instant::now();
        let read = reading.read().and_then(|input| {
            if let Input::SnapshotRead { piece, .. } = &input {
                limit.took(begun, piece.chunk.len());
            }
            serving.counts.on_snapshot_read(&input);
            inbox.push(Event::Input(input.clone()));
            reading.read_ahead(&input)
        });
        match read {
            Ok(()) => {}
            Err(StoreError::Damaged(what)) => inbox.push(Event::Fatal(format!("the data store is damaged: {what}"))),
            // Whoever fetches it asks again.
            Err(error) => tracing::error!(%error, "a piece of a snapshot could not be read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Limit;
    use std::time::{Duration, Instant};

    #[test]
    fn pieces_wait_for_their_turn_and_rest_is_not_saved_up() {
        let start = Instant::now();
        let after = |millis| start + Duration::from_millis(millis);
        let mut limit = Limit { bytes_per_second: 10_000_000, next_at: start };
        assert_eq!(limit.wait(start), Duration::ZERO);
        limit.took(start, 1_000_000);
        limit.took(after(40), 1_000_000);
        assert_eq!(limit.wait(after(40)), Duration::from_millis(160));
        assert_eq!(limit.wait(after(5_000)), Duration::ZERO);
        limit.took(after(5_000), 1_000_000);
        assert_eq!(limit.wait(after(5_000)), Duration::from_millis(100));
    }
}
