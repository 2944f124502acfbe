//! Which CPUs a thread runs on.
//!
//! Called by [`crate::runtime`] for the partition's thread (one CPU) and for everything else of the
//! process (the housekeeping CPUs). `rustix` makes these calls safe.

use hybrid_conventions::CpuSet;
use rustix::io::Errno;
use rustix::thread::{CpuSet as KernelSet, sched_getaffinity, sched_setaffinity};

/// A thread that could not be put where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// The kernel refused the CPU.
    #[error(
        "cpu {cpu} cannot be used: this process may run on cpus {allowed} ({errno}); \
         name one of them, or start it in a cpuset that holds cpu {cpu} (taskset -c, systemd \
         AllowedCPUs=)"
    )]
    Refused {
        /// The CPU asked for.
        cpu: u32,
        /// What the process may use.
        allowed: Box<CpuSet>,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel took it, and yet the thread runs elsewhere.
    #[error("pinned to cpu {cpu}, but the thread runs on cpu {seen}")]
    Elsewhere {
        /// The CPU asked for.
        cpu: u32,
        /// Where it runs.
        seen: u32,
    },
}

/// The CPUs that the calling thread may use now.
#[must_use]
pub fn allowed() -> CpuSet {
    let mut set = CpuSet::EMPTY;
    if let Ok(kernel) = sched_getaffinity(None) {
        let limit = u32::try_from(KernelSet::MAX_CPU).unwrap_or(u32::MAX);
        for cpu in (0..limit).filter(|cpu| kernel.is_set(*cpu as usize)) {
            // A CPU beyond what our sets hold cannot be named, hence not used.
            let _ = set.insert(cpu);
        }
    }
    set
}

/// Those of `wanted` that a thread of this process can be put on.
///
/// `isolcpus` takes CPUs out of the affinity that every process starts with, and not out of its
/// reach; a cpuset takes them out of reach. Only the kernel knows: it is asked, on a thread that
/// ends afterwards.
#[must_use]
pub fn reachable(wanted: CpuSet) -> CpuSet {
    let ask = move || {
        let mut found = CpuSet::EMPTY;
        for cpu in wanted.iter().filter(|cpu| pin_to(*cpu).is_ok()) {
            let _ = found.insert(cpu);
        }
        found
    };
    if wanted.is_empty() {
        return CpuSet::EMPTY;
    }
    std::thread::spawn(ask).join().unwrap_or(CpuSet::EMPTY)
}

/// Pins the calling thread to one CPU, and checks that it runs there.
///
/// # Errors
/// [`PinError`] names the CPU, what is allowed, and what to do.
pub fn pin_to(cpu: u32) -> Result<(), PinError> {
    let refused = |errno| PinError::Refused { cpu, allowed: Box::new(allowed()), errno };
    let mut kernel = KernelSet::new();
    if cpu as usize >= KernelSet::MAX_CPU {
        return Err(refused(Errno::INVAL));
    }
    kernel.set(cpu as usize);
    sched_setaffinity(None, &kernel).map_err(refused)?;
    let seen = u32::try_from(rustix::thread::sched_getcpu()).unwrap_or(u32::MAX);
    if seen == cpu { Ok(()) } else { Err(PinError::Elsewhere { cpu, seen }) }
}

/// Lets the calling thread, and threads that it starts from now on, run on `cpus` only.
///
/// # Errors
/// [`PinError::Refused`], naming the first CPU of the set.
pub fn confine_to(cpus: CpuSet) -> Result<(), PinError> {
    let mut kernel = KernelSet::new();
    for cpu in cpus.iter().filter(|cpu| (*cpu as usize) < KernelSet::MAX_CPU) {
        kernel.set(cpu as usize);
    }
    sched_setaffinity(None, &kernel).map_err(|errno| PinError::Refused {
        cpu: cpus.first().unwrap_or(0),
        allowed: Box::new(allowed()),
        errno,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_is_pinned() {
        std::thread::scope(|scope| {
            for cpu in &allowed() {
                scope.spawn(move || {
                    pin_to(cpu).expect("an allowed CPU");
                    assert_eq!(allowed(), CpuSet::single(cpu).expect("small"));
                });
            }
        });
    }

    #[test]
    fn what_can_be_reached_is_asked_of_the_kernel_without_moving_the_caller() {
        let before = allowed();
        let mut wanted = before;
        wanted.insert(1000).expect("a number that sets hold");
        assert_eq!(reachable(wanted), before);
        assert_eq!(reachable(CpuSet::EMPTY), CpuSet::EMPTY);
        assert_eq!(allowed(), before);
    }

    #[test]
    fn a_core_that_does_not_exist_is_named_with_what_is_allowed() {
        for cpu in [1000, 5000] {
            let line = pin_to(cpu).expect_err("no such CPU").to_string();
            assert!(line.contains(&format!("cpu {cpu} cannot be used")), "{line}");
            assert!(line.contains(&format!("may run on cpus {}", allowed())), "{line}");
        }
    }
}
