//! The core alone: it reads its time-stamp counter and looks for gaps that nobody here caused.
//!
//! This is the floor of the same run: what interrupts, other threads and a hypervisor take, seen by
//! a loop that does nothing else. The device's thread meanwhile has nothing to do, which tells how
//! often it looks around then.

use nvme_driver::IoError;

use super::desk::{Course, Desk};
use crate::wire::{Phase, Sample};

/// A gap that a reading of the counter and its loop do not explain.
const GAP_NS: u64 = 500;

/// Time between two turns of the partition's loop.
const TURN_NS: u64 = 1_000_000;

impl Desk {
    pub(crate) async fn noise(
        &self,
        phase: &Phase,
        course: &mut Course,
    ) -> Result<Sample, IoError> {
        let clock = self.partition.clock();
        let gap = clock.ns_to_ticks(GAP_NS);
        let mut sample = Sample { kept: 1, ..Sample::default() };
        let end = clock.now() + clock.ns_to_ticks(phase.duration_ns);
        while (sample.ticks == 0 || clock.now() < end) && !self.stopping() {
            let empty = self.gauges.empty_steps();
            let begin = clock.now();
            let turn = begin + clock.ns_to_ticks(TURN_NS).min(clock.ns_to_ticks(phase.duration_ns));
            let mut last = begin;
            while last < turn {
                core::hint::spin_loop();
                let now = clock.now();
                let since = now.since(last);
                last = now;
                if since > gap {
                    sample.gaps += 1;
                    sample.stolen += since.get();
                    sample.longest_gap = sample.longest_gap.max(since.get());
                    course.record_extra(since.get());
                }
            }
            sample.ticks += last.since(begin).get();
            sample.model_empty += self.gauges.empty_steps().wrapping_sub(empty);
            self.partition.spawner().yield_now().await;
        }
        sample.wall_ticks = sample.ticks;
        Ok(sample)
    }
}
