//! Threads of the machine, as /proc shows them: which CPUs they may use and whether they can move.
//!
//! Read by the setting that moves them and by the engine, which puts them back. Nothing is kept.

use hybrid_conventions::CpuSet;

use crate::root::Root;

/// `PF_NO_SETAFFINITY` of `<linux/sched.h>`: a kernel thread that serves one CPU.
const PF_NO_SETAFFINITY: u64 = 0x0400_0000;

/// `PF_KTHREAD`.
const PF_KTHREAD: u64 = 0x0020_0000;

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Thread {
    pub(crate) tid: u32,
    pub(crate) name: String,
    /// When it began, in clock ticks since boot.
    pub(crate) started: u64,
    /// The CPUs that it may use.
    pub(crate) cpus: CpuSet,
    /// Whether the kernel refuses to move it.
    pub(crate) bound: bool,
    /// Whether it is the kernel's own.
    pub(crate) kernel: bool,
}

impl Thread {
    /// Reads one; [`None`] if it is gone.
    pub(crate) fn read(root: &Root, tid: u32) -> Option<Self> {
        let stat = root.read(format!("/proc/{tid}/stat")).ok()?;
        let status = root.read(format!("/proc/{tid}/status")).ok()?;
        // The name is in parentheses and may hold any character, more parentheses too.
        let (head, rest) = stat.rsplit_once(") ")?;
        let name = head.split_once('(')?.1.to_owned();
        // Fields are counted from 1 in proc(5); the first after the name is the third.
        let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse().ok();
        let flags: u64 = field(9)?;
        let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?;
        Some(Self {
            tid,
            name,
            started: field(22)?,
            cpus: CpuSet::parse_mask(mask).ok()?,
            bound: flags & PF_NO_SETAFFINITY != 0,
            kernel: flags & PF_KTHREAD != 0,
        })
    }

    /// All threads of all processes.
    pub(crate) fn all(root: &Root) -> Vec<Self> {
        let mut threads = Vec::new();
        for process in root.numbered("/proc", "") {
            for tid in root.numbered(format!("/proc/{process}/task"), "") {
                threads.extend(Self::read(root, tid));
            }
        }
        threads
    }
}
