//! The thread that reads snapshots for others, so that nobody's write waits for it.

use crate::events::{Event, Inbox};
use crate::priority::give_way;
use crate::serving::Serving;
use crate::storage::rocks::RocksView;
use scatter_core::stage::Reading;
use scatter_core::store::StoreError;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Hands pieces to be read to the thread, which ends with the handle.
pub(super) struct Reader {
    readings: Sender<Reading<RocksView>>,
}

impl Reader {
    pub(super) fn start(serving: Arc<Serving>, inbox: Arc<Inbox>) -> std::io::Result<Self> {
        let (readings, work) = channel();
        std::thread::Builder::new().name("snapshot".to_owned()).spawn(move || run(&work, &serving, &inbox))?;
        Ok(Self { readings })
    }

    /// Each fetcher has but one piece under way.
    pub(super) fn read(&self, reading: Reading<RocksView>) {
        // The thread ends only with this handle.
        let _ = self.readings.send(reading);
    }
}

fn run(work: &Receiver<Reading<RocksView>>, serving: &Serving, inbox: &Inbox) {
    give_way();
    for reading in work {
        let read = reading.read().and_then(|input| {
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
