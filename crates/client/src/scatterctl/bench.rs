//! A closed loop: so many workers, each with one request under way, for so long.

use crate::arguments::{Bench, Connections};
use crate::output::{Output, talk};
use crate::remote::{Effect, Remote};
use crate::{Exit, Failure};
use bytes::Bytes;
use futures::future::join_all;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::{Method, StatusCode};
use scatter_client::{Client, ClientConfig, Key, ReadOptions, WriteOptions};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Latencies are kept to three digits, up to two minutes.
const HIGHEST_MICROS: u64 = 120_000_000;
const DIGITS: u8 = 3;

const PERCENTILES: [(&str, f64); 5] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// Whom the workers ask.
#[derive(Clone)]
enum Target {
    Http(Remote),
    Native(Client),
}

/// What is counted while the loop runs, for the progress bar.
#[derive(Default)]
struct Progress {
    done: AtomicU64,
    failed: AtomicU64,
}

/// What one worker measured.
struct Measured {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    failed: u64,
    last_failure: Option<String>,
}

pub(crate) async fn bench(connections: &Connections, output: &Output, bench: Bench) -> Result<(), Failure> {
    let target = target(connections, &bench).await?;
    let progress = Arc::new(Progress::default());
    let value = Bytes::from(vec![b'v'; bench.value_bytes as usize]);
    let begin = Instant::now() + bench.warm_up;
    let end = begin + bench.duration;
    let workers = (0..bench.concurrency).map(|_| {
        let worker = Worker { target: target.clone(), bench: bench.clone(), value: value.clone(), begin, end };
        tokio::spawn(worker.run(Arc::clone(&progress)))
    });
    let workers: Vec<_> = workers.collect();
    let shown = tokio::spawn(show(Arc::clone(&progress), begin, end));
    let results = join_all(workers).await;
    shown.abort();
    let mut whole = Measured::new()?;
    for result in results {
        let measured = result.map_err(|error| Failure::new(Exit::Error, error.to_string()))??;
        whole.add(measured)?;
    }
    if let Some(failure) = &whole.last_failure {
        talk(&format!("{} requests failed; the last one: {failure}", whole.failed));
    }
    report(output, &bench, &whole)?;
    if whole.reads.is_empty() && whole.writes.is_empty() {
        return Err(Failure::new(Exit::Unavailable, "no request succeeded"));
    }
    Ok(())
}

async fn target(connections: &Connections, bench: &Bench) -> Result<Target, Failure> {
    if bench.native.is_empty() {
        let remote = connections.gateway()?;
        // Nobody wants to wait for the end to hear that there is no gateway.
        match remote.send(remote.data(Method::GET, OsStr::new(&format!("{}0", bench.prefix)))?, Effect::Reads).await {
            Err(failure) if failure.exit != Exit::NotFound => return Err(failure),
            Ok(_) | Err(_) => return Ok(Target::Http(remote)),
        }
    }
    let config = ClientConfig {
        cluster_name: bench.cluster.clone(),
        seeds: bench.native.clone(),
        agent: concat!("scatterctl/", env!("CARGO_PKG_VERSION")).into(),
        lanes: bench.concurrency,
        max_in_flight: bench.concurrency as usize,
        ..ClientConfig::default()
    };
    let client = Client::connect(config).await;
    client.map(Target::Native).map_err(|error| Failure::new(Exit::Unavailable, error.to_string()))
}

struct Worker {
    target: Target,
    bench: Bench,
    value: Bytes,
    begin: Instant,
    end: Instant,
}

impl Worker {
    async fn run(self, progress: Arc<Progress>) -> Result<Measured, Failure> {
        let mut measured = Measured::new()?;
        let mut random = SmallRng::from_rng(&mut rand::rng());
        loop {
            let started = Instant::now();
            if started >= self.end {
                return Ok(measured);
            }
            let key = format!("{}{}", self.bench.prefix, random.random_range(0..self.bench.keys));
            let reads = random.random_range(0..100) < self.bench.reads;
            let result = if reads { self.read(key).await } else { self.write(key).await };
            let counts = started >= self.begin;
            match result {
                Ok(()) => {
                    progress.done.fetch_add(1, Ordering::Relaxed);
                    if counts {
                        let histogram = if reads { &mut measured.reads } else { &mut measured.writes };
                        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
                        histogram.saturating_record(micros.max(1));
                    }
                }
                Err(text) => {
                    progress.failed.fetch_add(1, Ordering::Relaxed);
                    measured.failed += u64::from(counts);
                    measured.last_failure = Some(text);
                    // A server that refuses at once is not to be asked in a tight loop.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }

    async fn read(&self, key: String) -> Result<(), String> {
        match &self.target {
            Target::Http(remote) => self.http(remote, Method::GET, &key, None).await,
            Target::Native(client) => {
                let key = Key::new(key).map_err(|error| error.to_string())?;
                client.get(&key, ReadOptions::default()).await.map(drop).map_err(|error| error.to_string())
            }
        }
    }

    async fn write(&self, key: String) -> Result<(), String> {
        match &self.target {
            Target::Http(remote) => self.http(remote, Method::PUT, &key, Some(self.value.clone())).await,
            Target::Native(client) => {
                let key = Key::new(key).map_err(|error| error.to_string())?;
                let written = client.put(key, self.value.clone(), WriteOptions::default()).await;
                written.map(drop).map_err(|error| error.to_string())
            }
        }
    }

    async fn http(&self, remote: &Remote, method: Method, key: &str, body: Option<Bytes>) -> Result<(), String> {
        let mut request = remote.data(method, OsStr::new(key)).map_err(|failure| failure.text)?;
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| error.to_string())?;
        // A key that nobody wrote yet is an answer like any other.
        if status.is_success() || status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
    }
}

async fn show(progress: Arc<Progress>, begin: Instant, end: Instant) {
    let whole = end.saturating_duration_since(begin);
    let bar = ProgressBar::new(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3}%  {msg}") {
        bar.set_style(style);
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let mut last = (Instant::now(), 0);
    loop {
        let now = ticks.tick().await.into_std();
        let done = progress.done.load(Ordering::Relaxed);
        let seconds = now.saturating_duration_since(last.0).as_secs_f64();
        let rate = if seconds > 0.0 { (done - last.1) as f64 / seconds } else { 0.0 };
        last = (now, done);
        let failed = progress.failed.load(Ordering::Relaxed);
        if now < begin {
            bar.set_message(format!("warming up: {rate:.0} requests/s, {failed} failed"));
        } else {
            bar.set_message(format!("{rate:.0} requests/s, {failed} failed"));
            bar.set_position(u64::try_from((now - begin).as_millis()).unwrap_or(u64::MAX));
        }
    }
}

impl Measured {
    fn new() -> Result<Self, Failure> {
        let histogram = || {
            Histogram::new_with_bounds(1, HIGHEST_MICROS, DIGITS)
                .map_err(|error| Failure::new(Exit::Error, error.to_string()))
        };
        Ok(Self { reads: histogram()?, writes: histogram()?, failed: 0, last_failure: None })
    }

    fn add(&mut self, other: Self) -> Result<(), Failure> {
        let failed = |error: hdrhistogram::AdditionError| Failure::new(Exit::Error, error.to_string());
        self.reads.add(&other.reads).map_err(failed)?;
        self.writes.add(&other.writes).map_err(failed)?;
        self.failed += other.failed;
        self.last_failure = other.last_failure.or(self.last_failure.take());
        Ok(())
    }
}

fn report(output: &Output, bench: &Bench, measured: &Measured) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&document(bench, measured));
    }
    let seconds = bench.duration.as_secs_f64();
    let row = |name: &str, histogram: &Histogram<u64>| {
        let ms = |micros: u64| format!("{:.3} ms", micros as f64 / 1000.0);
        let mut row =
            vec![name.to_owned(), histogram.len().to_string(), format!("{:.0}", histogram.len() as f64 / seconds)];
        row.extend(PERCENTILES.iter().map(|(_, percent)| ms(histogram.value_at_percentile(*percent))));
        row.push(ms(histogram.max()));
        row
    };
    let kinds = [("read", &measured.reads), ("write", &measured.writes)];
    let rows: Vec<_> =
        kinds.iter().filter(|(_, kind)| !kind.is_empty()).map(|(name, histogram)| row(name, histogram)).collect();
    let mut head = vec!["", "requests", "per second"];
    head.extend(PERCENTILES.iter().map(|(name, _)| *name));
    head.push("longest");
    output.table(&head, &rows)
}

fn document(bench: &Bench, measured: &Measured) -> Value {
    let seconds = bench.duration.as_secs_f64();
    let kind = |histogram: &Histogram<u64>| {
        let percentiles: serde_json::Map<String, Value> = PERCENTILES
            .iter()
            .map(|(name, percent)| ((*name).to_owned(), histogram.value_at_percentile(*percent).into()))
            .collect();
        json!({
            "requests": histogram.len(),
            "per_second": histogram.len() as f64 / seconds,
            "latency_us": {
                "mean": histogram.mean(), "min": if histogram.is_empty() { 0 } else { histogram.min() },
                "max": histogram.max(), "percentiles": percentiles,
            },
        })
    };
    json!({
        "concurrency": bench.concurrency, "seconds": seconds, "keys": bench.keys, "value_bytes": bench.value_bytes,
        "native": !bench.native.is_empty(), "failed": measured.failed,
        "reads": kind(&measured.reads), "writes": kind(&measured.writes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_results_add_up_and_are_reported_as_json() {
        let mut whole = Measured::new().expect("good bounds");
        for worker in 0..2 {
            let mut measured = Measured::new().expect("good bounds");
            for micros in 1..=50 {
                measured.reads.saturating_record(worker * 50 + micros);
            }
            measured.failed = 3;
            whole.add(measured).expect("the same bounds");
        }
        let bench = Bench {
            concurrency: 2,
            duration: Duration::from_secs(10),
            warm_up: Duration::ZERO,
            reads: 100,
            keys: 1,
            value_bytes: 1,
            prefix: String::new(),
            native: Vec::new(),
            cluster: String::new(),
        };
        let document = document(&bench, &whole);
        assert_eq!((&document["failed"], &document["reads"]["requests"]), (&json!(6), &json!(100)));
        assert_eq!(document["reads"]["per_second"], json!(10.0));
        assert_eq!(document["reads"]["latency_us"]["percentiles"]["p50"], json!(50));
        assert_eq!(document["writes"]["requests"], json!(0));
    }
}
