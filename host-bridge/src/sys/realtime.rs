//! Real-time priority for a partition: SCHED_FIFO, its limit, and what throttles it.
//!
//! Called on the partition's own thread after it was pinned and before its sandbox closes: by the
//! launch of a thread, and by the start of a process. A partition spins for ever, so the kernel's
//! two safety nets against spinning real-time threads take time from it. Both are looked at and
//! said, none is changed here:
//!
//! - throttling: `/proc/sys/kernel/sched_rt_runtime_us` below the period (by default 95 %) stops
//!   all real-time threads of a CPU for the rest of each period;
//! - the fair server (Linux 6.12 and later, which no longer throttles so) runs ordinary threads
//!   that wait on the CPU, by default for 50 ms of each second.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The kernel reads one `sched_param` and keeps no reference to it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::memory::user_name;
use crate::topology::read_line;

/// A priority of SCHED_FIFO, 1 to 99; a higher one runs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RtPriority(u8);

/// Text that is no priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed are priorities 1 to 99")]
pub struct NotAPriority;

impl RtPriority {
    /// The priority `number`.
    ///
    /// # Errors
    /// [`NotAPriority`] outside 1 to 99.
    pub const fn new(number: u8) -> Result<Self, NotAPriority> {
        match number {
            1..=99 => Ok(Self(number)),
            _ => Err(NotAPriority),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Gives the calling thread this priority under SCHED_FIFO, and checks that it has it.
    ///
    /// # Errors
    /// [`RtRefused`] with the limit and the line that raises it.
    pub fn set_for_this_thread(self) -> Result<(), RtRefused> {
        let parameter = libc::sched_param { sched_priority: self.0.into() };
        // SAFETY: invariant 1; 0 is the calling thread.
        let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
        if result != 0 {
            return Err(self.refused(Path::new("/"), last_errno()));
        }
        match of_this_thread() {
            Some(seen) if seen == self => Ok(()),
            _ => Err(self.refused(Path::new("/"), Errno::INVAL)),
        }
    }

    fn refused(self, root: &Path, errno: Errno) -> RtRefused {
        let limit = getrlimit(Resource::Rtprio).current.unwrap_or(u64::MAX);
        RtRefused { priority: self.0, limit, errno, user: user_name(root) }
    }
}

impl FromStr for RtPriority {
    type Err = NotAPriority;

    fn from_str(text: &str) -> Result<Self, NotAPriority> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = if digits { text.parse().ok() } else { None };
        Self::new(number.unwrap_or(0))
    }
}

impl fmt::Display for RtPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The calling thread's priority, if it runs under SCHED_FIFO.
#[must_use]
pub fn of_this_thread() -> Option<RtPriority> {
    let mut parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: invariant 1; 0 is the calling thread.
    let policy = unsafe { libc::sched_getscheduler(0) };
    // SAFETY: as above: the kernel fills it.
    let result = unsafe { libc::sched_getparam(0, &raw mut parameter) };
    let number = u8::try_from(parameter.sched_priority).ok()?;
    // A child of ours may carry SCHED_RESET_ON_FORK beside the policy.
    let is_fifo = policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_FIFO;
    if result == 0 && is_fifo { RtPriority::new(number).ok() } else { None }
}

/// A priority that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", refusal(self))]
pub struct RtRefused {
    priority: u8,
    limit: u64,
    errno: Errno,
    user: String,
}

fn refusal(refused: &RtRefused) -> String {
    let RtRefused { priority, limit, errno, user } = refused;
    let told = format!("real-time priority {priority} is refused ({errno})");
    if *limit < u64::from(*priority) {
        return format!(
            "{told}: RLIMIT_RTPRIO is {limit}; put \"{user} - rtprio {priority}\" into \
             /etc/security/limits.conf and log in again (a service: LimitRTPRIO={priority})"
        );
    }
    format!(
        "{told}: RLIMIT_RTPRIO allows it, so the control group gives no real-time time; start it \
         in the root group, or as root: echo 950000 > cpu.rt_runtime_us of its group"
    )
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// What takes time from a real-time thread that spins on `cpu`: lines that each name the fix. Empty
/// where nothing does.
#[must_use]
pub fn throttles(root: &Path, cpu: u32) -> Vec<String> {
    let kernel = root.join("proc/sys/kernel");
    let number = |name| read_line(&kernel.join(name))?.parse::<i64>().ok();
    let runtime = number("sched_rt_runtime_us").unwrap_or(-1);
    let period = number("sched_rt_period_us").unwrap_or(1_000_000);
    let fair = root.join("sys/kernel/debug/sched/fair_server");
    let server = read_line(&fair.join(format!("cpu{cpu}/runtime")));
    let mut lines = Vec::new();
    if has_fair_server(root) {
        match server.as_deref().map(str::parse::<u64>) {
            Some(Ok(0)) => {}
            Some(Ok(ns)) => lines.push(format!(
                "the kernel's fair server takes up to {} ms a second from a real-time thread on \
                 cpu {cpu} for ordinary threads that wait there; as root: \
                 echo 0 > /sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime",
                ns / 1_000_000
            )),
            _ => lines.push(format!(
                "whether the kernel's fair server takes time from a real-time thread on cpu {cpu} \
                 (by default 50 ms a second, when ordinary threads wait there) cannot be seen; as \
                 root: mount -t debugfs none /sys/kernel/debug, then \
                 echo 0 > /sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime"
            )),
        }
    } else if (0..period).contains(&runtime) {
        let percent = runtime.saturating_mul(100) / period.max(1);
        lines.push(format!(
            "real-time threads are stopped after {percent} % of each {} ms \
             (sched_rt_runtime_us is {runtime}); as root: sysctl kernel.sched_rt_runtime_us=-1",
            period / 1000
        ));
    }
    lines
}

/// Linux 6.12 and later.
fn has_fair_server(root: &Path) -> bool {
    let release = read_line(&root.join("proc/sys/kernel/osrelease")).unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 12)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn priorities_are_one_to_ninety_nine() {
        for text in ["1", "50", "99"] {
            assert_eq!(text.parse::<RtPriority>().expect("allowed").to_string(), text);
        }
        for text in ["", "0", "100", "256", "-1", "+5", "5 ", "five"] {
            assert_eq!(text.parse::<RtPriority>(), Err(NotAPriority), "{text:?}");
        }
    }

    /// On a thread of its own, which ends with what it was given.
    fn apart<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(body).join().expect("no panic")
    }

    #[test]
    fn a_thread_gets_the_priority_or_is_told_the_line_to_add() {
        let priority = RtPriority::new(3).expect("allowed");
        let (result, seen) = apart(move || (priority.set_for_this_thread(), of_this_thread()));
        match result {
            Ok(()) => assert_eq!(seen, Some(priority)),
            Err(refused) => {
                assert!(refused.to_string().contains("RLIMIT_RTPRIO"), "{refused}");
                assert_eq!(seen, None);
            }
        }
        assert_eq!(of_this_thread(), None, "only the one thread");
    }

    #[test]
    fn without_the_right_the_kernel_refuses_and_the_limit_is_named() {
        let limit = getrlimit(Resource::Rtprio).current;
        if limit.is_none_or(|limit| limit > 0) {
            return hybrid_conventions::testing::skipped(
                "without_the_right_the_kernel_refuses_and_the_limit_is_named",
                "this user's RLIMIT_RTPRIO is not 0",
            );
        }
        let refused = apart(|| {
            drop_capabilities();
            RtPriority::new(40).expect("allowed").set_for_this_thread().expect_err("no right")
        });
        let line = refused.to_string();
        assert!(line.contains("real-time priority 40 is refused"), "{line}");
        assert!(line.contains("RLIMIT_RTPRIO is 0; put \""), "{line}");
        assert!(line.contains(" - rtprio 40\" into /etc/security/limits.conf"), "{line}");
        assert!(!line.contains('\n'), "{line}");
    }

    /// Of the calling thread alone.
    fn drop_capabilities() {
        use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).expect("less is always allowed");
    }

    #[test]
    fn a_limit_that_allows_it_points_at_the_control_group() {
        let refused =
            RtRefused { priority: 5, limit: 99, errno: Errno::PERM, user: "trader".to_owned() };
        assert!(refused.to_string().contains("control group"), "{refused}");
    }

    fn machine(release: &str, runtime: &str) -> TempDir {
        let root = TempDir::new("realtime");
        root.write("proc/sys/kernel/osrelease", release);
        root.write("proc/sys/kernel/sched_rt_runtime_us", runtime);
        root.write("proc/sys/kernel/sched_rt_period_us", "1000000\n");
        root
    }

    #[test]
    fn throttling_is_said_with_its_share_and_its_fix_and_off_is_silent() {
        let root = machine("6.1.0-13-amd64\n", "950000\n");
        assert_eq!(
            throttles(root.path(), 3),
            ["real-time threads are stopped after 95 % of each 1000 ms (sched_rt_runtime_us is \
              950000); as root: sysctl kernel.sched_rt_runtime_us=-1"]
        );
        assert_eq!(throttles(machine("6.1.0\n", "-1\n").path(), 3), [""; 0]);
        assert_eq!(throttles(machine("6.1.0\n", "1000000\n").path(), 3), [""; 0]);
    }

    #[test]
    fn newer_kernels_have_a_fair_server_instead() {
        let root = machine("6.18.5-generic\n", "950000\n");
        let line = throttles(root.path(), 3).pop().expect("a line");
        assert!(line.contains("cannot be seen; as root: mount -t debugfs"), "{line}");
        root.write("sys/kernel/debug/sched/fair_server/cpu3/runtime", "50000000\n");
        let line = throttles(root.path(), 3).pop().expect("a line");
        assert!(line.contains("up to 50 ms a second from a real-time thread on cpu 3"), "{line}");
        root.write("sys/kernel/debug/sched/fair_server/cpu3/runtime", "0\n");
        assert_eq!(throttles(root.path(), 3), [""; 0]);
    }
}
