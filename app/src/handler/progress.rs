//! How far the work is: plain cells that the entry copies into the metrics.
//!
//! Written by the ingest and replay tasks, read on the same core. Bytes and messages count the
//! feed, not the blocks.

use core::cell::Cell;

/// Counts of one run. Core-local.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of the feed, once known.
    pub bytes_total: Cell<u64>,
    /// Bytes written to the device.
    pub bytes_written: Cell<u64>,
    /// Bytes decoded.
    pub bytes_read: Cell<u64>,
    /// Messages of the phase: framed by an ingest, decoded by a replay.
    pub messages: Cell<u64>,
    /// Times that the event ring had no room and the replay waited.
    pub ring_waits: Cell<u64>,
    /// Whether the host asked to stop; the tasks look at it between chunks.
    pub stop: Cell<bool>,
    /// Whether the job writes to the device, or has yet to.
    pub writes: Cell<bool>,
    /// The drive said that its media are read only while the job wrote; it was stopped for that.
    pub read_only: Cell<bool>,
}

impl Progress {
    /// Adds to a counter.
    pub(crate) fn add(counter: &Cell<u64>, amount: u64) {
        counter.set(counter.get().saturating_add(amount));
    }
}
