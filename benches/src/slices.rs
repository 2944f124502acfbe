//! Time in short slices, those dropped in which the core was taken away.
//!
//! Work is cut into slices of a fraction of a millisecond. A slice in which the kernel switched the
//! thread off its core is dropped, whatever it says; the rest is added up. So a figure means the
//! same on a busy machine as on a quiet one (colder caches apart), and no slow slice is dropped for
//! being slow. What a hypervisor takes without the kernel's knowledge stays in; reports print the
//! machine's steal time beside.

use core_runtime::clock::rdtsc;
use host_bridge::sys::usage::ThreadUsage;

/// What clean slices did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slices {
    /// Work units of clean slices.
    pub work: u64,
    /// Ticks of clean slices.
    pub ticks: u64,
    /// Clean slices.
    pub kept: u64,
    /// Slices in which the core was taken away.
    pub dropped: u64,
}

impl Slices {
    /// Runs one slice; `slice` returns the units of work that it did.
    #[inline]
    pub fn run(&mut self, slice: impl FnOnce() -> u64) {
        let before = ThreadUsage::now();
        let begin = rdtsc();
        let work = slice();
        let ticks = rdtsc().wrapping_sub(begin);
        let usage = ThreadUsage::now().since(before);
        if usage.involuntary_switches + usage.voluntary_switches == 0 {
            self.work += work;
            self.ticks += ticks;
            self.kept += 1;
        } else {
            self.dropped += 1;
        }
    }

    /// Ticks a unit of work.
    #[must_use]
    pub fn ticks_each(&self) -> Option<f64> {
        (self.work != 0).then(|| self.ticks as f64 / self.work as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_that_gives_its_core_away_is_dropped() {
        let mut slices = Slices::default();
        slices.run(|| {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
            7
        });
        assert_eq!((slices.work, slices.dropped), (0, 1));
        assert_eq!(slices.ticks_each(), None);
    }
}
