//! What crosses between the host's thread and the partition's: the plan as arguments, samples and
//! figures as event records.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Depths that are measured; 255 is the default queue's.
pub(crate) const DEPTHS: [u16; 5] = [1, 4, 32, 128, 255];
/// Depths of the futures.
pub(crate) const TASK_DEPTHS: [u16; 2] = [32, 128];
/// Sizes of bursts.
pub(crate) const BURSTS: [u16; 4] = [1, 8, 32, 64];
/// Bytes of a read, and of a block.
pub(crate) const READ_BYTES: usize = 4096;

/// A sample's kind: the raw queue, closed loop.
pub(crate) const RAW: u32 = 1;
/// A sample's kind: futures through the scheduler, closed loop.
pub(crate) const TASKS: u32 = 2;
/// A sample's kind: a burst.
pub(crate) const BURST: u32 = 3;
/// A sample's kind: blocks read back and compared.
pub(crate) const VERIFIED: u32 = 4;
/// A sample's kind: the device's thread without work.
pub(crate) const IDLE: u32 = 5;

/// The kind of the event record that carries a [`Sample`]; nobody else's ring has it.
pub(crate) const KIND_SAMPLE: u16 = 0x0f01;

/// What the partition is to do.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Plan {
    /// Times that everything is measured, in turn.
    pub(crate) repetitions: u32,
    /// Windows of each closed loop.
    pub(crate) windows: u32,
    /// A window's length.
    pub(crate) window_ns: u32,
    /// Bursts of each size.
    pub(crate) bursts: u32,
    /// Reads that are compared with what was written, or with the null namespace's pattern.
    pub(crate) verify: u32,
    /// The null namespace's pattern, or 0: the blocks are written first.
    pub(crate) null_pattern: u32,
}

/// What was measured. Each kind leaves the fields at 0 that it has no use for.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Sample {
    pub(crate) kind: u32,
    /// Depth, or size of the burst.
    pub(crate) depth: u32,
    /// Clean windows or bursts.
    pub(crate) kept: u32,
    /// Windows or bursts in which either core was taken away.
    pub(crate) dropped: u32,
    /// Reads completed in clean windows; blocks compared.
    pub(crate) reads: u64,
    /// Length of the clean windows; of bursts the median of the reap.
    pub(crate) ticks: u64,
    /// Passes that reaped something; of bursts the median of submit and ring.
    pub(crate) passes: u64,
    /// Passes that found nothing.
    pub(crate) empty: u64,
    /// Steps of the model's thread that found nothing.
    pub(crate) model_empty: u64,
    /// Steps of the model's thread that found work.
    pub(crate) model_busy: u64,
    /// Longest gap in any window.
    pub(crate) longest_gap: u64,
    /// Mix of the data read.
    pub(crate) checksum: u64,
}

/// The name of a depth's histogram of latencies.
pub(crate) const fn latency_name(depth: u16) -> &'static str {
    match depth {
        1 => "read_ns_depth_1",
        4 => "read_ns_depth_4",
        32 => "read_ns_depth_32",
        128 => "read_ns_depth_128",
        _ => "read_ns_depth_255",
    }
}
