//! How long the steps of a replay take: read, check, decode, books, output.
//!
//! For `--report`, and switched off without it. Waiting for a chunk and checking it are measured
//! for each chunk. Of the slices behind that, one of [`EVERY`] is measured as a whole and another
//! one message by message ([`Pipeline::feed_in_steps`]): looks at the clock between the steps of
//! every message would cost as much as the work.

use core_runtime::clock::{Clock, Instant, Ticks};
use core_runtime::metrics::{Histogram, MetricsError, MetricsWriter};
use hybrid_abi::metrics::MetricUnit;

use super::sink::EventSink;
use crate::error::FeedError;
use crate::pipeline::{Pipeline, StepClock, Steps};

/// Of so many slices one is measured whole, and one in steps.
pub const EVERY: u64 = 64;

/// What the steps took, in nanoseconds, at least 1: a clock's tick is less.
#[derive(Clone, Copy, Debug)]
pub struct StepHistograms {
    wait: Histogram,
    check: Histogram,
    slice: Histogram,
    decode: Histogram,
    book: Histogram,
    output: Histogram,
}

impl StepHistograms {
    /// Adds them to the partition's metrics.
    ///
    /// # Errors
    /// [`MetricsError`] if there is no room.
    pub fn register(writer: &mut MetricsWriter) -> Result<Self, MetricsError> {
        let mut add = |name| writer.histogram(name, MetricUnit::NANOSECONDS);
        Ok(Self {
            wait: add("step_wait_ns")?,
            check: add("step_check_ns")?,
            slice: add("step_slice_ns")?,
            decode: add("step_decode_ns")?,
            book: add("step_book_ns")?,
            output: add("step_output_ns")?,
        })
    }
}

/// Measures, or does nothing.
#[derive(Debug)]
pub struct StepWatch {
    clock: Clock,
    histograms: Option<StepHistograms>,
    /// What a look at the clock costs, ticks; known once the first slice was measured.
    cost: Option<u64>,
    slices: u64,
    since: Instant,
}

impl StepWatch {
    /// One that measures into `histograms`.
    #[must_use]
    pub const fn new(clock: Clock, histograms: Option<StepHistograms>) -> Self {
        Self { clock, histograms, cost: None, slices: 0, since: Instant::MIN }
    }

    /// The next chunk is wanted.
    #[inline]
    pub fn begin(&mut self) {
        if self.histograms.is_some() {
            self.since = self.clock.now();
        }
    }

    /// It is there.
    #[inline]
    pub fn waited(&mut self) {
        self.took(|all| all.wait);
    }

    /// Its checksum is right.
    #[inline]
    pub fn checked(&mut self) {
        self.took(|all| all.check);
    }

    #[inline]
    fn took(&mut self, which: impl Fn(&StepHistograms) -> Histogram) {
        if let Some(histograms) = &self.histograms {
            let now = self.clock.now();
            record(self.clock, &which(histograms), now.since(self.since).get());
            self.since = now;
        }
    }

    /// Feeds a slice, and shows the host what comes of it.
    ///
    /// # Errors
    /// As [`Pipeline::feed`].
    #[inline]
    pub fn feed(
        &mut self,
        pipeline: &mut Pipeline<'static>,
        slice: &[u8],
        sink: &mut EventSink,
    ) -> Result<(), FeedError> {
        let mut begun = None;
        if let Some(histograms) = self.histograms {
            self.slices += 1;
            match self.slices % EVERY {
                0 => return self.in_steps(histograms, pipeline, slice, sink),
                // Far from the other one, whose clock has spoilt caches and predictions.
                32 => begun = Some((histograms.slice, self.clock.now())),
                _ => {}
            }
        }
        pipeline.feed(slice, sink)?;
        sink.publish();
        if let Some((histogram, begun)) = begun {
            record(self.clock, &histogram, self.clock.now().since(begun).get());
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn in_steps(
        &mut self,
        histograms: StepHistograms,
        pipeline: &mut Pipeline<'static>,
        slice: &[u8],
        sink: &mut EventSink,
    ) -> Result<(), FeedError> {
        let mut put = Put { clock: self.clock, histograms };
        let cost = *self.cost.get_or_insert_with(|| put.cost());
        pipeline.feed_in_steps(slice, sink, (&mut put, cost))?;
        sink.publish();
        Ok(())
    }
}

fn record(clock: Clock, histogram: &Histogram, ticks: u64) {
    histogram.record(clock.ticks_to_ns(Ticks::new(ticks)).max(1));
}

/// Each message's steps into the histograms.
struct Put {
    clock: Clock,
    histograms: StepHistograms,
}

impl StepClock for Put {
    #[inline(always)]
    fn now(&self) -> u64 {
        self.clock.now().ticks()
    }

    fn message(&mut self, steps: &Steps) {
        let StepHistograms { decode, book, output, .. } = &self.histograms;
        record(self.clock, decode, steps.decode);
        record(self.clock, book, steps.book);
        // Of messages that told nothing there is no output.
        if steps.events != 0 {
            record(self.clock, output, steps.output);
        }
    }
}
