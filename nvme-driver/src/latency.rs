//! Latencies of sampled commands, by kind.
//!
//! A [`Stamp`] remembers when a command was posted and whether it was a read or a write, in one
//! word: the two lowest bits of the tick count carry the kind, which costs at most 3 ticks.

use core_runtime::clock::{Clock, Instant};
use core_runtime::metrics::{Histogram, RuntimeMetrics};
use nvme_spec::NvmOpcode;

/// Where sampled latencies go, in nanoseconds. Other commands than these are not recorded.
#[derive(Clone, Copy, Debug)]
pub struct LatencyHistograms {
    /// Reads, each command by itself, from post to reap.
    pub reads: Histogram,
    /// Writes, likewise.
    pub writes: Histogram,
}

impl LatencyHistograms {
    /// Those that every partition has.
    #[must_use]
    pub const fn of(metrics: &RuntimeMetrics) -> Self {
        Self { reads: metrics.read_latency_ns, writes: metrics.write_latency_ns }
    }

    /// Counts one command.
    pub(crate) fn record(&self, kind: Kind, ns: u64) {
        match kind {
            Kind::Read => self.reads.record(ns),
            Kind::Write => self.writes.record(ns),
            Kind::Other => {}
        }
    }
}

/// What a stamped command was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Other,
    Read,
    Write,
}

/// When a command was posted, and its kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamp(u64);

/// The bits of the kind.
const KIND: u64 = 0b11;

impl Stamp {
    /// A stamp for the command whose first two dwords are `head`.
    pub(crate) fn now(clock: Clock, head: u64) -> Self {
        let kind = match head & 0xFF {
            read if read == u64::from(NvmOpcode::READ.0) => 1,
            write if write == u64::from(NvmOpcode::WRITE.0) => 2,
            _ => 0,
        };
        Self(clock.now().ticks() & !KIND | kind)
    }

    /// When.
    pub(crate) const fn at(self) -> Instant {
        Instant::from_ticks(self.0 & !KIND)
    }

    /// What.
    pub(crate) const fn kind(self) -> Kind {
        match self.0 & KIND {
            1 => Kind::Read,
            2 => Kind::Write,
            _ => Kind::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::clock::ManualClock;
    use std::boxed::Box;

    #[test]
    fn a_stamp_keeps_the_kind_and_the_time_to_within_three_ticks() {
        for now in [0_u64, 3, 1_000_001, 1 << 60] {
            let clock = Clock::manual(Box::leak(Box::new(ManualClock::new(now))));
            for (opcode, kind) in [
                (NvmOpcode::READ, Kind::Read),
                (NvmOpcode::WRITE, Kind::Write),
                (NvmOpcode::FLUSH, Kind::Other),
                (NvmOpcode::COMPARE, Kind::Other),
                (NvmOpcode::DATASET_MANAGEMENT, Kind::Other),
            ] {
                let stamp = Stamp::now(clock, 0xABCD_0000_0000_0000 | u64::from(opcode.0));
                assert_eq!(stamp.kind(), kind);
                assert!(now - stamp.at().ticks() <= 3);
            }
        }
    }
}
