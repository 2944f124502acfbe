//! What the two sides of a measurement say to each other: phases there, outcomes back.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Partition to host: an [`Outcome`].
pub(crate) const KIND_OUTCOME: u16 = 0x0401;

/// Appends come by a Poisson process, whatever the log does.
pub(crate) const OPEN: u32 = 1;
/// So many appends, then all of them durable, and again.
pub(crate) const BATCH: u32 = 2;
/// Appends as fast as they are taken, until the log holds so many bytes.
pub(crate) const FILL: u32 = 3;
/// The log is opened from its checkpoint, and with every record verified.
pub(crate) const OPENING: u32 = 4;

/// One measurement.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Phase {
    pub(crate) kind: u32,
    /// Bytes of a payload.
    pub(crate) record_bytes: u32,
    /// Appends a second ([`OPEN`]).
    pub(crate) rate: u64,
    /// Appends of a batch ([`BATCH`]).
    pub(crate) batch: u64,
    /// How long.
    pub(crate) duration_ns: u64,
    /// Bytes of the log ([`FILL`]).
    pub(crate) bytes: u64,
    /// Writes in flight at once.
    pub(crate) in_flight: u64,
    pub(crate) seed: u64,
    /// A device that says nothing for so long is away ([`OPEN`]).
    pub(crate) silent_ns: u64,
}

/// What a measurement gave. Latencies in nanoseconds, from when an append was due to its
/// acknowledgement ([`OPEN`]), or of a whole batch ([`BATCH`]).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Outcome {
    pub(crate) phase: u64,
    /// Appends acknowledged.
    pub(crate) appends: u64,
    /// Appends turned away.
    pub(crate) rejected: u64,
    pub(crate) ns: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
    pub(crate) samples: u64,
    /// Ticks of an append, the middle one of those that were timed by themselves.
    pub(crate) append_ticks: u64,
    /// Ticks of all of our software for an append, from the call to the acknowledgement; on one
    /// core alone.
    pub(crate) added_ticks: u64,
    pub(crate) batches: u64,
    pub(crate) device_bytes: u64,
    pub(crate) flushes: u64,
    pub(crate) checkpoints: u64,
    /// Of [`OPENING`]: time from the checkpoint, and time of the whole verification.
    pub(crate) open_ns: u64,
    pub(crate) verify_ns: u64,
    /// Bytes from the log's front to its tail.
    pub(crate) log_bytes: u64,
    pub(crate) records: u64,
    /// Checksum of the last record.
    pub(crate) checksum: u64,
    pub(crate) cached: u64,
    pub(crate) lba_bytes: u64,
    /// Gaps of the loop above 30 us, which somebody else took, and their time.
    pub(crate) gaps: u64,
    pub(crate) gaps_ns: u64,
    /// Rounds of [`OPEN`], those in which no core was away, and their appends.
    pub(crate) rounds: u64,
    pub(crate) quiet_rounds: u64,
    pub(crate) quiet_samples: u64,
    pub(crate) quiet_p99: u64,
}
