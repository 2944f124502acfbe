//! The rungs of the kernel's side, what each one does, and what it gave.

use std::time::Duration;

use host_bridge::sys::uring::Features;
use hybrid_benches::hist::Hist;

/// A rung of the kernel's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rung {
    Psync,
    Interrupts,
    Fixed,
    SqPoll,
    IoPoll,
    Passthrough,
}

impl Rung {
    pub(super) const ALL: [Self; 6] =
        [Self::Psync, Self::Interrupts, Self::Fixed, Self::SqPoll, Self::IoPoll, Self::Passthrough];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Psync => "psync",
            Self::Interrupts => "io_uring, interrupts",
            Self::Fixed => "+ fixed buffers, files",
            Self::SqPoll => "+ SQPOLL",
            Self::IoPoll => "+ IOPOLL",
            Self::Passthrough => "+ passthrough",
        }
    }

    /// What documents of thread-per-core designs expect of the step, on drives.
    pub(super) const fn expected(self) -> &'static str {
        match self {
            Self::Psync | Self::Fixed => "",
            Self::Interrupts => "1.06 to 1.10",
            Self::SqPoll => "1.32",
            Self::IoPoll => "1.21",
            Self::Passthrough => "1.20",
        }
    }

    /// fio's job file.
    pub(super) const fn job(self) -> &'static str {
        match self {
            Self::Psync => include_str!("../../../../fio/psync.fio"),
            Self::Interrupts => include_str!("../../../../fio/interrupts.fio"),
            Self::Fixed => include_str!("../../../../fio/fixed.fio"),
            Self::SqPoll => include_str!("../../../../fio/sqpoll.fio"),
            Self::IoPoll => include_str!("../../../../fio/iopoll.fio"),
            Self::Passthrough => include_str!("../../../../fio/passthrough.fio"),
        }
    }

    pub(super) const fn polls_submissions(self) -> bool {
        matches!(self, Self::SqPoll | Self::IoPoll | Self::Passthrough)
    }

    pub(super) const fn fixed(self) -> bool {
        !matches!(self, Self::Psync | Self::Interrupts)
    }

    /// What its ring is like; `needed` is what the rung is about.
    pub(super) fn features(self, polled: bool) -> (Features, Features) {
        let pinned = Features::SQPOLL_CPU;
        let iopoll = if polled { Features::IOPOLL } else { Features::empty() };
        match self {
            Self::Psync | Self::Interrupts | Self::Fixed => {
                (Features::SINGLE_ISSUER | Features::DEFER_TASKRUN, Features::empty())
            }
            Self::SqPoll => (pinned, Features::SQPOLL),
            Self::IoPoll => (pinned, Features::SQPOLL | iopoll),
            Self::Passthrough => (pinned, Features::SQPOLL | Features::BIG | iopoll),
        }
    }
}

/// What every rung does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(super) depth: u32,
    pub(super) bytes: u32,
    pub(super) write: bool,
    pub(super) random: bool,
    pub(super) time: Duration,
    pub(super) seed: u64,
    /// Where it runs, and where the kernel's thread does.
    pub(super) cpu: u32,
    pub(super) sq_cpu: u32,
}

/// What one run gave.
pub(super) struct Measured {
    pub(super) done: u64,
    pub(super) time: Duration,
    pub(super) cpu: Duration,
    pub(super) calls: u64,
    pub(super) switches: u64,
    pub(super) latency: Hist,
    /// Of the first operations' data: the same on each rung.
    pub(super) digest: u64,
    /// What the kernel did not take, a line each.
    pub(super) steps: Vec<String>,
}

impl Measured {
    fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-9)
    }

    pub(super) fn iops(&self) -> f64 {
        self.per_s(self.done)
    }

    pub(super) fn calls_per_s(&self) -> f64 {
        self.per_s(self.calls)
    }

    pub(super) fn switches_per_s(&self) -> f64 {
        self.per_s(self.switches)
    }

    pub(super) fn cpu_percent(&self) -> f64 {
        100.0 * self.cpu.as_secs_f64() / self.time.as_secs_f64().max(1e-9)
    }

    pub(super) fn latency_ns(&self, parts_per_million: u32) -> f64 {
        self.latency.quantile(parts_per_million) as f64
    }
}

/// A time as histograms have it.
pub(super) fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
