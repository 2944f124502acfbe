//! Hardware counters of a thread, where the machine has them: cycles, instructions, cache misses.
//!
//! Used by benchmarks, from a host thread, for a partition's thread: opened and read from outside,
//! so that the partition makes no system call. Many virtual machines have none; the error says so.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The kernel reads `size` bytes of the attributes, a plain struct of that size, during the call
//!    only.
//! 2. A non-negative result is a new descriptor that nobody else owns.

use std::fmt;
use std::os::fd::{FromRawFd as _, OwnedFd};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Core cycles in user mode.
    Cycles,
    /// Instructions in user mode.
    Instructions,
    /// Misses of the last level of cache.
    CacheMisses,
    /// Times that the thread was switched; counted by the kernel on any machine.
    ContextSwitches,
}

/// Number of [`Counter`]s.
const KINDS: usize = 4;

impl Counter {
    /// Those that need hardware.
    pub const HARDWARE: [Self; 3] = [Self::Cycles, Self::Instructions, Self::CacheMisses];

    /// As `perf stat` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::Instructions => "instructions",
            Self::CacheMisses => "cache-misses",
            Self::ContextSwitches => "context-switches",
        }
    }

    /// `PERF_TYPE_*`, `PERF_COUNT_*`, and whether the kernel's own part is left out.
    /// include/uapi/linux/perf_event.h.
    const fn selector(self) -> (u32, u64, bool) {
        match self {
            Self::Cycles => (0, 0, true),
            Self::Instructions => (0, 1, true),
            Self::CacheMisses => (0, 3, true),
            Self::ContextSwitches => (1, 3, false),
        }
    }
}

/// `struct perf_event_attr`, its first published size.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    config1: u64,
}

const _: () = assert!(size_of::<Attributes>() == 64);

/// Time enabled and time running are read too: several counters may share one register.
const READ_TIMES: u64 = 0b11;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;

/// Why there are no counters.
#[derive(Debug)]
pub enum NoCounters {
    /// No thread of this process has that name.
    NoThread,
    /// The machine has none, or the kernel does not give them.
    Refused(Counter, std::io::Error),
}

impl fmt::Display for NoCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoThread => f.write_str("no hardware counters: the thread has ended"),
            Self::Refused(counter, error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP) => {
                    write!(
                        f,
                        "no hardware counters: this machine does not count {}",
                        counter.name()
                    )
                }
                Some(libc::EACCES | libc::EPERM) => write!(
                    f,
                    "no hardware counters: not permitted; sysctl kernel.perf_event_paranoid=1"
                ),
                _ => write!(f, "no hardware counters: {}: {error}", counter.name()),
            },
        }
    }
}

impl std::error::Error for NoCounters {}

/// What was counted, by [`Counter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings([Option<u64>; KINDS]);

impl Readings {
    /// A counter's value, if it was asked for.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> Option<u64> {
        self.0[counter as usize]
    }

    /// What came since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut more = *self;
        for (now, before) in more.0.iter_mut().zip(earlier.0) {
            *now = now.map(|now| now.saturating_sub(before.unwrap_or(0)));
        }
        more
    }
}

/// Counters of one thread, running since they were opened.
#[derive(Debug)]
pub struct ThreadCounters(Vec<(Counter, OwnedFd)>);

impl ThreadCounters {
    /// Counters of the thread of this process that has this name.
    ///
    /// # Errors
    /// [`NoCounters`]; all of them or none.
    pub fn of_thread_named(name: &str, counters: &[Counter]) -> Result<Self, NoCounters> {
        Self::of(thread_named(name).ok_or(NoCounters::NoThread)?, counters)
    }

    /// Counters of a process with one thread: a partition's.
    ///
    /// # Errors
    /// [`NoCounters`]; all of them or none.
    pub fn of_process(pid: i32, counters: &[Counter]) -> Result<Self, NoCounters> {
        Self::of(pid, counters)
    }

    fn of(thread: libc::pid_t, counters: &[Counter]) -> Result<Self, NoCounters> {
        let open = |counter: &Counter| {
            open(thread, *counter)
                .map(|fd| (*counter, fd))
                .map_err(|error| NoCounters::Refused(*counter, error))
        };
        counters.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Their values now, scaled to the whole time where counters took turns.
    #[must_use]
    pub fn read(&self) -> Readings {
        let mut readings = Readings::default();
        for (counter, fd) in &self.0 {
            let mut bytes = [0; 24];
            if rustix::io::read(fd, &mut bytes) != Ok(bytes.len()) {
                continue;
            }
            let word =
                |at: usize| bytes[at..].first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            readings.0[*counter as usize] = Some(scaled(word(0), word(8), word(16)));
        }
        readings
    }
}

fn scaled(value: u64, enabled: u64, running: u64) -> u64 {
    if running == 0 || running >= enabled {
        return value;
    }
    let all = u128::from(value) * u128::from(enabled) / u128::from(running);
    u64::try_from(all).unwrap_or(u64::MAX)
}

fn thread_named(name: &str) -> Option<libc::pid_t> {
    let threads = std::fs::read_dir("/proc/self/task").ok()?;
    threads.flatten().find_map(|entry| {
        let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
        (comm.trim_end() == name).then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

fn open(thread: libc::pid_t, counter: Counter) -> Result<OwnedFd, std::io::Error> {
    let (kind, config, user_only) = counter.selector();
    let attributes = Attributes {
        kind,
        size: 64,
        config,
        sample_period: 0,
        sample_type: 0,
        read_format: READ_TIMES,
        flags: if user_only { EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR } else { 0 },
        wakeup_events: 0,
        bp_type: 0,
        config1: 0,
    };
    let (any_cpu, no_group, close_on_exec) = (-1, -1, 8);
    // SAFETY: invariant 1.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attributes,
            thread,
            any_cpu,
            no_group,
            close_on_exec,
        )
    };
    match i32::try_from(fd) {
        // SAFETY: invariant 2.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_by_its_name_and_counted_or_the_reason_is_named() {
        let barrier = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            let name = "counted".to_owned();
            let run = || {
                barrier.wait();
                // Each meeting is a switch or two.
                (0..50).for_each(|_| {
                    barrier.wait();
                });
            };
            let thread = std::thread::Builder::new().name(name).spawn_scoped(scope, run);
            thread.expect("a thread");
            barrier.wait();
            let opened = ThreadCounters::of_thread_named("counted", &[Counter::ContextSwitches]);
            (0..50).for_each(|_| {
                barrier.wait();
            });
            match opened {
                Ok(counters) => {
                    let seen = counters.read();
                    assert!(seen.get(Counter::ContextSwitches).is_some_and(|n| n > 0), "{seen:?}");
                    assert_eq!(seen.get(Counter::Cycles), None);
                    assert_eq!(seen.since(&seen).get(Counter::ContextSwitches), Some(0));
                }
                Err(why) => assert!(why.to_string().starts_with("no hardware counters"), "{why}"),
            }
        });
        let gone = ThreadCounters::of_thread_named("nobody", &Counter::HARDWARE);
        assert!(matches!(gone, Err(NoCounters::NoThread)));
    }

    #[test]
    fn counters_that_took_turns_are_scaled_to_the_whole_time() {
        assert_eq!(scaled(100, 50, 50), 100);
        assert_eq!(scaled(100, 200, 50), 400);
        assert_eq!(scaled(100, 200, 0), 100);
    }
}
