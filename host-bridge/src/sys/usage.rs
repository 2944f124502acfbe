//! What the kernel did to the calling thread: page faults and context switches.
//!
//! Called by [`crate::runtime`] on a partition's thread, before and after its entry.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The kernel fills one `rusage`, whose all-zero value is valid.

use std::mem::MaybeUninit;

/// Counts since the thread began, or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// Page faults served without a device.
    pub minor_faults: u64,
    /// Page faults that waited for one.
    pub major_faults: u64,
    /// Times the thread gave its core away (a blocking system call).
    pub voluntary_switches: u64,
    /// Times it was taken off its core.
    pub involuntary_switches: u64,
}

impl ThreadUsage {
    /// None of it.
    pub const NOTHING: Self =
        Self { minor_faults: 0, major_faults: 0, voluntary_switches: 0, involuntary_switches: 0 };

    /// Of the calling thread, until now.
    #[must_use]
    pub fn now() -> Self {
        Self::of(libc::RUSAGE_THREAD)
    }

    fn of(whose: libc::c_int) -> Self {
        // SAFETY: invariant 1.
        let mut usage: libc::rusage = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: invariant 1. It cannot fail with these arguments; zeroes would remain.
        let _ = unsafe { libc::getrusage(whose, &raw mut usage) };
        let count = |value: libc::c_long| u64::try_from(value).unwrap_or(0);
        Self {
            minor_faults: count(usage.ru_minflt),
            major_faults: count(usage.ru_majflt),
            voluntary_switches: count(usage.ru_nvcsw),
            involuntary_switches: count(usage.ru_nivcsw),
        }
    }

    /// Of the calling process, until now.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::of(libc::RUSAGE_SELF)
    }

    /// Of another process, until now, or until its end while its status was not taken.
    #[must_use]
    pub fn of_process(pid: i32) -> Option<Self> {
        let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let (stat, status) = (read("stat")?, read("status")?);
        // The name in parentheses may hold anything; behind it come numbers, the state first.
        let numbers: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |index: usize| numbers.get(index)?.parse().ok();
        let switches = |field| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|line| line.trim().parse().ok())
        };
        Some(Self {
            minor_faults: number(7)?,
            major_faults: number(9)?,
            voluntary_switches: switches("voluntary_ctxt_switches:")?,
            involuntary_switches: switches("nonvoluntary_ctxt_switches:")?,
        })
    }

    /// What came since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(earlier.involuntary_switches),
        }
    }
}

/// Processor time of this process, that of the kernel's threads that work for its rings included.
#[must_use]
pub fn process_cpu_time() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, ns) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    std::time::Duration::new(seconds.unwrap_or(0), ns.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_it_sees_itself() {
        let (before, seen) = (
            ThreadUsage::of_this_process(),
            ThreadUsage::of_process(i32::try_from(std::process::id()).expect("small"))
                .expect("procfs"),
        );
        let after = ThreadUsage::of_this_process();
        assert!((before.minor_faults..=after.minor_faults).contains(&seen.minor_faults));
    }

    #[test]
    fn a_thread_that_waits_for_another_gives_its_core_away() {
        let before = ThreadUsage::now();
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let meet = || {
                for _ in 0..100 {
                    barrier.wait();
                }
            };
            scope.spawn(meet);
            meet();
        });
        assert!(ThreadUsage::now().since(before).voluntary_switches >= 1);
    }
}
