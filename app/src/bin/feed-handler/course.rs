//! How a run went, piece by piece: what `--report` draws over time.
//!
//! The host looks at the partition's metrics every few milliseconds and keeps what came between two
//! looks. A long run has as many pieces as a short one: when there are too many, neighbours become
//! one, exactly.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use core_runtime::metrics::MetricsReader;
use host_bridge::page::Distribution;

/// Time between two looks at first.
const EVERY: Duration = Duration::from_millis(10);

/// Pieces that are kept at most.
const PIECES: usize = 400;

/// What is looked at: counters and gauges that grow.
const NUMBERS: [&str; 5] =
    ["feed_bytes_written", "feed_bytes_read", "io_completed", "io_bytes", "stolen_ns"];

/// Distributions whose growth makes a piece's latency.
const LATENCIES: [&str; 2] = ["read_latency_ns", "write_latency_ns"];

/// Counts by upper bound, ns; empty buckets are not there.
pub(crate) type Buckets = BTreeMap<u64, u64>;

/// What came between two looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Piece {
    /// Since the first look.
    pub(crate) from: Duration,
    pub(crate) to: Duration,
    pub(crate) written_bytes: u64,
    pub(crate) read_bytes: u64,
    pub(crate) commands: u64,
    pub(crate) io_bytes: u64,
    pub(crate) stolen_ns: u64,
    pub(crate) latency: Buckets,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Course {
    begun: Instant,
    every: Duration,
    last: Instant,
    incarnation: u64,
    numbers: [u64; NUMBERS.len()],
    latencies: [Buckets; LATENCIES.len()],
    pieces: Vec<Piece>,
}

impl Course {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            every: EVERY,
            last: now,
            incarnation: 0,
            numbers: Default::default(),
            latencies: Default::default(),
            pieces: Vec::new(),
        }
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Looks, if it is time.
    pub(crate) fn look(&mut self, metrics: &MetricsReader, incarnation: u64) {
        if incarnation != self.incarnation {
            // The job begins anew, and so do the figures.
            *self = Self { incarnation, ..Self::new() };
        }
        if self.last.elapsed() >= self.every {
            self.take(metrics);
        }
    }

    /// What came since the last look is a piece of its own.
    pub(crate) fn take(&mut self, metrics: &MetricsReader) {
        let now = Instant::now();
        let numbers = NUMBERS.map(|name| metrics.number(name).unwrap_or(0));
        let latencies = LATENCIES.map(|name| buckets(metrics, name));
        let mut grown = [0; NUMBERS.len()];
        for (grown, (now, before)) in grown.iter_mut().zip(numbers.iter().zip(&self.numbers)) {
            *grown = now.saturating_sub(*before);
        }
        let mut latency = Buckets::new();
        for (now, before) in latencies.iter().zip(&self.latencies) {
            for (upper, count) in now {
                let new = count - before.get(upper).copied().unwrap_or(0).min(*count);
                if new != 0 {
                    *latency.entry(*upper).or_insert(0) += new;
                }
            }
        }
        let [written_bytes, read_bytes, commands, io_bytes, stolen_ns] = grown;
        let (from, to) = (self.last - self.begun, now - self.begun);
        self.pieces.push(Piece {
            from,
            to,
            written_bytes,
            read_bytes,
            commands,
            io_bytes,
            stolen_ns,
            latency,
        });
        (self.last, self.numbers, self.latencies) = (now, numbers, latencies);
        if self.pieces.len() > PIECES {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.every *= 2;
        let joined = self.pieces.chunks(2).map(|two| {
            let mut whole = two[0].clone();
            if let Some(more) = two.get(1) {
                whole.join(more);
            }
            whole
        });
        self.pieces = joined.collect();
    }
}

impl Piece {
    fn join(&mut self, next: &Self) {
        self.to = next.to;
        self.written_bytes += next.written_bytes;
        self.read_bytes += next.read_bytes;
        self.commands += next.commands;
        self.io_bytes += next.io_bytes;
        self.stolen_ns += next.stolen_ns;
        for (upper, count) in &next.latency {
            *self.latency.entry(*upper).or_insert(0) += count;
        }
    }

    /// The latency that so many of its commands do not exceed; `None` without any.
    pub(crate) fn quantile(&self, parts_per_million: u64) -> Option<u64> {
        let all: u64 = self.latency.values().sum();
        let rank = (all * parts_per_million).div_ceil(1_000_000).max(1);
        let mut seen = 0;
        let found = self.latency.iter().find(|(_, count)| {
            seen += **count;
            seen >= rank
        });
        found.map(|(upper, _)| *upper)
    }
}

fn buckets(metrics: &MetricsReader, name: &str) -> Buckets {
    let histogram = metrics.histogram(name);
    let all = histogram.iter().flat_map(|histogram| histogram.buckets());
    all.filter(|(_, count)| *count != 0).collect()
}

/// The distribution that stands there now.
pub(crate) fn distribution(metrics: &MetricsReader, name: &str) -> Distribution {
    metrics.histogram(name).map_or_else(Distribution::default, |histogram| {
        Distribution::new(histogram.buckets(), histogram.sum(), histogram.max())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_become_one_without_a_loss() {
        let mut course = Course::new();
        for index in 0..5 {
            course.pieces.push(Piece {
                from: Duration::from_millis(index),
                to: Duration::from_millis(index + 1),
                commands: 2,
                latency: [(100 + index, 2)].into(),
                ..Piece::default()
            });
        }
        course.halve();
        let pieces = course.pieces();
        assert_eq!((pieces.len(), pieces[0].commands, pieces[2].commands), (3, 4, 2));
        assert_eq!((pieces[1].from.as_millis(), pieces[1].to.as_millis()), (2, 4));
        let halves = (pieces[0].quantile(500_000), pieces[0].quantile(750_000));
        assert_eq!(halves, (Some(100), Some(101)));
        assert_eq!(Piece::default().quantile(500_000), None);
        assert_eq!(course.every, EVERY * 2);
    }
}
