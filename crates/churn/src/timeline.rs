//! What happened when: figures by second, or by longer buckets in long runs, and marks for kills and orders.

use hdrhistogram::Histogram;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most buckets of a run; they grow longer so that there are no more.
const MOST_BUCKETS: u64 = 1200;
/// The most marks that are kept.
const MOST_MARKS: usize = 20_000;
/// The longest latency told apart from longer ones.
const LONGEST_US: u64 = 120_000_000;
/// How long a bucket takes latencies after its end, so that what began in it can end.
const LATE: Duration = Duration::from_secs(10);

/// What kind of operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Read,
    Write,
}

/// How an operation ended for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Heard {
    /// An answer within the client's time limit; also that a condition does not hold, or that there is no such key.
    Answer,
    /// That nothing was done.
    Refusal,
    /// Nothing, or nothing certain.
    Nothing,
}

/// Something at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mark {
    /// A node was killed.
    Kill,
    /// A new node came.
    Start,
    /// An operation of groups was carried out on order.
    Order,
}

/// The figures of a stretch of time.
#[derive(Clone, PartialEq, Default, Debug)]
pub(crate) struct Bucket {
    /// Operations that began in it.
    pub asked: u64,
    /// Of these, answered in time.
    pub answered: u64,
    /// The median of the answers' latencies.
    pub p50_us: u64,
    /// The 99th percentile of the same.
    pub p99_us: u64,
    /// The longest.
    pub most_us: u64,
    /// Nodes alive, as last seen in it.
    pub nodes: Option<usize>,
    /// Groups on the ring, as last seen in it.
    pub groups: Option<usize>,
    /// Latencies, until the bucket is closed.
    pub open_us: Vec<u32>,
}

impl Bucket {
    fn close(&mut self) {
        let mut sorted = std::mem::take(&mut self.open_us);
        if sorted.is_empty() {
            return;
        }
        sorted.sort_unstable();
        let at = |permille: usize| u64::from(sorted[(sorted.len() - 1) * permille / 1000]);
        (self.p50_us, self.p99_us, self.most_us) = (at(500), at(990), at(1000));
    }

    /// The share of operations that were answered in time, in percent; none without operations.
    pub(crate) fn percent(&self) -> Option<f64> {
        (self.asked > 0).then(|| self.answered as f64 * 100.0 / self.asked as f64)
    }
}

/// All figures of a run.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// How long a bucket is.
    pub bucket: Duration,
    pub buckets: Vec<Bucket>,
    /// With the seconds since the beginning.
    pub marks: Vec<(f64, Mark)>,
    pub reads: Tally,
    pub writes: Tally,
}

/// One kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    pub answered: u64,
    pub refused: u64,
    pub unheard: u64,
    /// Of answers, in microseconds.
    pub latency_us: Histogram<u64>,
}

impl Tally {
    fn new() -> Self {
        // Three digits from a microsecond to two minutes: constants the library accepts.
        let latency_us = Histogram::new_with_bounds(1, LONGEST_US, 3);
        let latency_us = latency_us.unwrap_or_else(|error| unreachable!("constant bounds: {error}"));
        Self { answered: 0, refused: 0, unheard: 0, latency_us }
    }

    pub(crate) fn asked(&self) -> u64 {
        self.answered + self.refused + self.unheard
    }
}

impl Figures {
    pub(crate) fn asked(&self) -> u64 {
        self.reads.asked() + self.writes.asked()
    }

    pub(crate) fn answered(&self) -> u64 {
        self.reads.answered + self.writes.answered
    }

    /// The share of all operations that were answered in time, in percent.
    pub(crate) fn percent(&self) -> f64 {
        self.answered() as f64 * 100.0 / self.asked().max(1) as f64
    }

    /// The buckets with operations and without an answer.
    pub(crate) fn dark(&self) -> usize {
        self.buckets.iter().filter(|bucket| bucket.asked > 0 && bucket.answered == 0).count()
    }

    /// The least share of operations answered in time of all buckets, in percent.
    pub(crate) fn worst(&self) -> f64 {
        self.buckets.iter().filter_map(Bucket::percent).fold(100.0, f64::min)
    }

    /// Where a bucket begins, in seconds.
    pub(crate) fn seconds(&self, index: usize) -> f64 {
        self.bucket.as_secs_f64() * index as f64
    }
}

/// The figures in the making.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Instant,
    figures: Mutex<Figures>,
}

impl Timeline {
    /// One that begins at this moment, of a run of this length.
    pub(crate) fn new(length: Duration) -> Self {
        let bucket = Duration::from_secs((length.as_secs() / MOST_BUCKETS + 1).max(1));
        let (buckets, marks) = (Vec::new(), Vec::new());
        let figures = Figures { bucket, buckets, marks, reads: Tally::new(), writes: Tally::new() };
        Self { began: Instant::now(), figures: Mutex::new(figures) }
    }

    fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Seconds since the beginning.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Notes an operation that began at `asked`.
    pub(crate) fn heard(&self, kind: Kind, asked: Instant, heard: Heard) {
        let took_us = u64::try_from(asked.elapsed().as_micros()).unwrap_or(LONGEST_US).min(LONGEST_US);
        let at = asked.saturating_duration_since(self.began);
        let mut figures = self.figures();
        let bucket = bucket(&mut figures, at);
        bucket.asked += 1;
        if heard == Heard::Answer {
            bucket.answered += 1;
            bucket.open_us.push(u32::try_from(took_us).unwrap_or(u32::MAX));
        }
        let tally = match kind {
            Kind::Read => &mut figures.reads,
            Kind::Write => &mut figures.writes,
        };
        match heard {
            Heard::Answer => {
                tally.answered += 1;
                tally.latency_us.saturating_record(took_us);
            }
            Heard::Refusal => tally.refused += 1,
            Heard::Nothing => tally.unheard += 1,
        }
    }

    /// Notes how many nodes live, and how many groups there are if that is known; to be called about once a second.
    pub(crate) fn sample(&self, nodes: usize, groups: Option<usize>) {
        let at = self.began.elapsed();
        let mut figures = self.figures();
        let now = bucket(&mut figures, at);
        now.nodes = Some(nodes);
        now.groups = groups.or(now.groups);
        let length = figures.bucket;
        let over = at.saturating_sub(LATE).as_nanos() / length.as_nanos();
        let over = usize::try_from(over).unwrap_or(usize::MAX);
        for bucket in figures.buckets.iter_mut().take(over).rev().take_while(|bucket| !bucket.open_us.is_empty()) {
            bucket.close();
        }
    }

    /// Notes that something happens.
    pub(crate) fn mark(&self, mark: Mark) {
        let at = self.seconds();
        let mut figures = self.figures();
        if figures.marks.len() < MOST_MARKS {
            figures.marks.push((at, mark));
        }
    }

    /// The share of operations answered in time among those that began in the last so many buckets, in percent.
    pub(crate) fn lately(&self, buckets: usize) -> f64 {
        let figures = self.figures();
        let last = figures.buckets.iter().rev().take(buckets);
        let (answered, asked) = last.fold((0, 0), |(a, b), bucket| (a + bucket.answered, b + bucket.asked));
        answered as f64 * 100.0 / asked.max(1) as f64
    }

    /// The figures so far.
    pub(crate) fn finish(&self) -> Figures {
        let mut figures = self.figures().clone();
        figures.buckets.iter_mut().for_each(Bucket::close);
        figures
    }
}

fn bucket(figures: &mut Figures, at: Duration) -> &mut Bucket {
    let index = usize::try_from(at.as_nanos() / figures.bucket.as_nanos()).unwrap_or(0);
    if figures.buckets.len() <= index {
        figures.buckets.resize_with(index + 1, Bucket::default);
    }
    &mut figures.buckets[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_began_in_them() {
        let timeline = Timeline::new(Duration::from_secs(10));
        for heard in [Heard::Answer, Heard::Answer, Heard::Answer, Heard::Refusal] {
            timeline.heard(Kind::Read, timeline.began, heard);
        }
        timeline.heard(Kind::Write, timeline.began + Duration::from_secs(2), Heard::Nothing);
        timeline.sample(7, Some(4));
        timeline.sample(8, None);
        let figures = timeline.finish();
        assert_eq!(figures.buckets.len(), 3);
        assert_eq!(figures.buckets[0].percent(), Some(75.0));
        assert_eq!(figures.buckets[1].percent(), None);
        assert_eq!(figures.buckets[2].percent(), Some(0.0));
        assert_eq!((figures.buckets[0].nodes, figures.buckets[0].groups), (Some(8), Some(4)));
        assert_eq!((figures.asked(), figures.answered(), figures.dark()), (5, 3, 1));
        assert_eq!(figures.worst(), 0.0);
        assert_eq!((figures.reads.refused, figures.writes.unheard), (1, 1));
    }

    #[test]
    fn percentiles_are_those_of_what_was_heard() {
        let mut bucket = Bucket { open_us: (1..=1000).rev().collect(), ..Bucket::default() };
        bucket.close();
        assert_eq!((bucket.p50_us, bucket.p99_us, bucket.most_us), (500, 990, 1000));
        let before = bucket.clone();
        bucket.close();
        assert_eq!(bucket, before, "closing twice changes nothing");
    }

    #[test]
    fn a_long_run_has_longer_buckets() {
        assert_eq!(Timeline::new(Duration::from_secs(120)).finish().bucket, Duration::from_secs(1));
        assert_eq!(Timeline::new(Duration::from_secs(24 * 3600)).finish().bucket, Duration::from_secs(73));
    }
}
