//! What crosses between the host's thread and the partition's: the plan as arguments, samples,
//! histograms and intervals as event records.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A phase's kind: the loop is closed: what completed is submitted again.
pub(crate) const CLOSED: u32 = 1;
/// A phase's kind: arrivals on a schedule.
pub(crate) const OPEN: u32 = 2;
/// A phase's kind: N submits, a pause, one reap.
pub(crate) const BURST: u32 = 3;
/// A phase's kind: N operations, all ended before the next N.
pub(crate) const BATCH: u32 = 4;
/// A phase's kind: a closed loop of futures through the scheduler.
pub(crate) const FUTURES: u32 = 5;
/// A phase's kind: the core spins and looks for gaps; the device is left alone.
pub(crate) const NOISE: u32 = 6;
/// A phase's kind: blocks are written, read back and compared.
pub(crate) const VERIFY: u32 = 7;

/// [`Phase::order`]: uniformly at random.
pub(crate) const UNIFORM: u32 = 0;
/// [`Phase::order`]: one after the other.
pub(crate) const SEQUENTIAL: u32 = 1;
/// [`Phase::order`]: zipf of [`Phase::order_a`] thousandths.
pub(crate) const ZIPF: u32 = 2;
/// [`Phase::order`]: [`Phase::order_a`] % of the places get [`Phase::order_b`] % of the accesses.
pub(crate) const HOT: u32 = 3;

/// The kind of the event record that carries a [`Sample`]; nobody else's ring has these.
pub(crate) const KIND_SAMPLE: u16 = 0x0f01;
/// The kind of the record that carries a [`HistPart`] and pairs of bucket and count.
pub(crate) const KIND_HIST: u16 = 0x0f02;
/// The kind of the record that carries an [`Interval`].
pub(crate) const KIND_INTERVAL: u16 = 0x0f03;
/// The kind of the record that carries a [`Found`]: what the controller turned out to be.
pub(crate) const KIND_FOUND: u16 = 0x0f04;
/// The kind of the record that says that a repetition of the phase in its tag begins.
pub(crate) const KIND_BEGIN: u16 = 0x0f05;

/// [`HistPart::which`]: of windows in which no core was taken away.
pub(crate) const CLEAN_READS: u32 = 0;
pub(crate) const CLEAN_WRITES: u32 = 1;
/// [`HistPart::which`]: of all windows.
pub(crate) const ALL_READS: u32 = 2;
pub(crate) const ALL_WRITES: u32 = 3;
/// [`HistPart::which`]: without the time that an arrival waited for its turn; whole batches; gaps
/// of the spinning core.
pub(crate) const EXTRA: u32 = 4;
/// Fewest clean windows that make a repetition count.
pub(crate) const LEAST_CLEAN: u32 = 4;

/// Histograms of a phase.
pub(crate) const HISTS: usize = 5;

/// What the partition is to do, followed by its [`Phase`]s.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Plan {
    /// Times that everything is measured, in turn.
    pub(crate) repetitions: u32,
    /// The namespace.
    pub(crate) nsid: u32,
    /// I/O queue pairs.
    pub(crate) queues: u32,
    /// Buffers of each pair.
    pub(crate) slots: u32,
    /// Bytes of each buffer.
    pub(crate) buffer_bytes: u32,
    /// Write every block first, so that no page behind it is the kernel's zero page.
    pub(crate) fill: u32,
    /// Allocations of hot threads are watched during phases.
    pub(crate) watch_allocations: u32,
    /// The null namespace's pattern: some blocks are read and compared with it first. 0: none.
    pub(crate) null_pattern: u32,
    /// The latency of every so many-th command is taken for the probes; 0: of none.
    pub(crate) latency_sampling: u32,
    pub(crate) reserved: u32,
    /// Blocks to stay within, 0 for all.
    pub(crate) blocks: u64,
}

/// Something to measure. Fields that a kind has no use for are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Phase {
    pub(crate) kind: u32,
    /// Operations in flight over all queues.
    pub(crate) depth: u32,
    /// Queue pairs used.
    pub(crate) queues: u32,
    /// Bytes of an operation.
    pub(crate) bytes: u32,
    /// Reads of 65,536 operations.
    pub(crate) reads: u32,
    pub(crate) order: u32,
    pub(crate) order_a: u32,
    pub(crate) order_b: u32,
    /// A window's length.
    pub(crate) window_ns: u32,
    /// Longest time without a completion that is the loop's own; 0: the device may take its time.
    pub(crate) gap_ns: u32,
    /// Each operation's latency is taken.
    pub(crate) stamped: u32,
    /// Arrivals that may wait.
    pub(crate) backlog: u32,
    /// Arrivals are a Poisson process, not evenly spaced.
    pub(crate) poisson: u32,
    /// Arrivals that come together.
    pub(crate) group: u32,
    /// Operations of a batch or burst.
    pub(crate) batch: u32,
    /// A burst rings after each submit.
    pub(crate) doorbell_each: u32,
    /// Time of one repetition; a burst's phase ends after [`Phase::count`] too.
    pub(crate) duration_ns: u64,
    /// So much longer it may take until [`LEAST_CLEAN`] windows or bursts were clean.
    pub(crate) patience_ns: u64,
    /// Bursts of a repetition.
    pub(crate) count: u64,
    /// Arrivals in 1,000 s; 0: so many millionths of the last closed loop's rate.
    pub(crate) rate_milli: u64,
    pub(crate) rate_of_capacity_ppm: u64,
    /// Length of the intervals of the course over time; 0: none.
    pub(crate) interval_ns: u64,
    pub(crate) seed: u64,
    /// Not measured: its repetition is the first one only, and gives no sample.
    pub(crate) warm_up: u64,
}

/// What one repetition of a phase gave, in ticks. Each kind leaves at 0 what it has no use for.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Sample {
    pub(crate) phase: u32,
    pub(crate) repetition: u32,
    /// Clean windows, bursts or batches, and those in which a core was taken away.
    pub(crate) kept: u32,
    pub(crate) dropped: u32,
    /// Operations completed in clean windows, and the length of these.
    pub(crate) done: u64,
    pub(crate) ticks: u64,
    /// Everything from begin to end of the phase.
    pub(crate) wall_done: u64,
    pub(crate) wall_ticks: u64,
    /// Of all submitted, those that wrote; and those that ended after the phase: submitted are
    /// these and those of `wall_done`.
    pub(crate) writes: u64,
    pub(crate) late: u64,
    /// Passes of clean windows that reaped something, and that found nothing.
    pub(crate) passes: u64,
    pub(crate) empty: u64,
    /// Steps of the model's thread that found nothing, and that found work.
    pub(crate) model_empty: u64,
    pub(crate) model_busy: u64,
    /// The core was away: how often, for how long in all, at most at once.
    pub(crate) gaps: u64,
    pub(crate) stolen: u64,
    pub(crate) longest_gap: u64,
    /// Medians of bursts: submit and ring, reap.
    pub(crate) submit: u64,
    pub(crate) reap: u64,
    /// A thousand polls that find nothing.
    pub(crate) polls_1000: u64,
    /// Arrivals, those turned away, most that waited.
    pub(crate) arrivals: u64,
    pub(crate) rejected: u64,
    pub(crate) backlog_most: u64,
    pub(crate) rate_milli: u64,
    /// Sum, least, p50, p99, p99.9, greatest of the clean latencies.
    pub(crate) latency: [u64; 6],
    pub(crate) latencies: u64,
    /// Of a verification: what was compared, and each kind of finding.
    pub(crate) compared: u64,
    pub(crate) misdirected: u64,
    pub(crate) torn: u64,
    pub(crate) stale: u64,
    pub(crate) corrupt: u64,
    /// The first finding: block, what was expected, what was found.
    pub(crate) first: [u64; 3],
    /// A mix of what was done.
    pub(crate) checksum: u64,
}

/// Head of a record with buckets; pairs of `u32` (bucket, count) follow.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct HistPart {
    pub(crate) phase: u32,
    pub(crate) which: u32,
    /// Totals, in the first part of a histogram; 0 in the others.
    pub(crate) count: u64,
    pub(crate) sum: u64,
    pub(crate) min: u64,
    pub(crate) max: u64,
}

/// A piece of the course over time, in ticks since the phase began.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Interval {
    pub(crate) phase: u32,
    pub(crate) repetition: u32,
    pub(crate) begin: u64,
    pub(crate) ticks: u64,
    pub(crate) done: u64,
    pub(crate) stolen: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

/// The controller and the namespace.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Found {
    pub(crate) blocks: u64,
    pub(crate) lba_bytes: u32,
    pub(crate) max_transfer: u32,
    pub(crate) queues: u32,
    pub(crate) queue_depth: u32,
    pub(crate) model: [u64; 5],
    /// A mix of the blocks that were compared before anything was measured.
    pub(crate) checksum: u64,
}

impl Found {
    /// The controller's model number.
    pub(crate) fn model_name(&self) -> String {
        let bytes: Vec<u8> = self.model.iter().flat_map(|word| word.to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }
}
