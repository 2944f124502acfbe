//! What the machine is told, and what it answers.

use std::time::Duration;

/// Deadlines. Each is counted from what comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Without a pass of the loop for so long: an alarm.
    pub heartbeat: Duration,
    /// A loop that makes fewer passes in that time crawls, which is an alarm too; 0 for never.
    pub passes: u64,
    /// Looks without a pass that it takes at least: a host that slept accuses nobody.
    pub looks: u32,
    /// From the alarm to the request for a dump.
    pub escalate: Duration,
    /// A task that is polled for longer is asked for a dump at once; `None` for no such watch.
    pub task: Option<Duration>,
    /// From the request for a dump to SIGKILL.
    pub dump: Duration,
    /// From SIGKILL to the alarm that it does not die.
    pub death: Duration,
    /// From its end until its device must be free.
    pub fence: Duration,
    /// From its start to its first pass, the device's bring-up included.
    pub start: Duration,
    /// From *stopping*, or from the host's wish, to its end.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A machine that is crowded makes a healthy partition wait for tens of milliseconds.
            heartbeat: Duration::from_secs(1),
            // A pass of the loop takes a millisecond at most when every budget is kept.
            passes: 4,
            looks: 3,
            escalate: Duration::from_secs(1),
            task: Some(Duration::from_secs(2)),
            // A record of 64 KiB takes well below a millisecond; a crowded machine does not.
            dump: Duration::from_secs(2),
            death: Duration::from_secs(5),
            // Measured: up to 23 ms where someone reads the dying one's /proc.
            fence: Duration::from_secs(10),
            // A controller may take CAP.TO, up to 127.5 s; that has its own deadline inside.
            start: Duration::from_secs(150),
            stop: Duration::from_secs(15),
        }
    }
}

/// Where the partition says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet in its loop.
    Starting,
    /// In its loop: beats are due.
    Running,
    /// Out of its loop, cleaning up; or asked to end.
    Stopping,
}

/// The task being polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// Its number, from 1.
    pub number: u32,
    /// For how long so far, by its own stamps.
    pub age: Duration,
}

/// How an incarnation ended, for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// In order, with success.
    Done,
    /// In order, with an error of its own.
    Failed,
    /// It crashed and wrote a record of it.
    Crashed,
    /// It was killed, by us or by someone else.
    Killed,
    /// Its device needs what only the next incarnation can give it.
    NeedsReset,
    /// Its device is gone, or at fault.
    DeviceGone,
    /// It could not be started.
    NotStarted,
}

impl Ending {
    /// All of them, for tables and counters.
    pub const ALL: [Self; 7] = [
        Self::Done,
        Self::Failed,
        Self::Crashed,
        Self::Killed,
        Self::NeedsReset,
        Self::DeviceGone,
        Self::NotStarted,
    ];

    /// Whether the device is what failed: the next incarnation may use the fallback.
    #[must_use]
    pub const fn blames_device(self) -> bool {
        matches!(self, Self::DeviceGone)
    }

    /// Whether it did not end by a decision of its own.
    #[must_use]
    pub const fn is_abnormal(self) -> bool {
        matches!(self, Self::Crashed | Self::Killed | Self::NeedsReset)
    }

    /// In a word, for lines and labels.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
            Self::Killed => "killed",
            Self::NeedsReset => "needs-reset",
            Self::DeviceGone => "device-gone",
            Self::NotStarted => "not-started",
        }
    }
}

/// One look at a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// When, since a moment that does not change.
    pub now: Duration,
    /// Its process is gone (or its thread was).
    pub ended: bool,
    /// Its process is stopped: state T.
    pub stopped: bool,
    /// What it says of itself.
    pub phase: Phase,
    /// Passes of its loop.
    pub passes: u64,
    /// The task being polled.
    pub task: Option<Polled>,
    /// It can be asked for a dump and killed; a thread can be neither.
    pub killable: bool,
    /// The host has asked it to end: whatever it does then, nothing is started again.
    pub stop_asked: bool,
}

/// Why a partition is accused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No pass of its loop.
    Silent,
    /// Too few of them.
    Crawling,
    /// One task was polled for too long.
    Task,
    /// It did not reach its loop.
    NotRunning,
    /// It did not come to its end.
    NotEnding,
    /// It said so itself: an alert of the highest severity, which it survived.
    Critical,
}

impl Cause {
    /// All of them, for tables and counters.
    pub const ALL: [Self; 6] = [
        Self::Silent,
        Self::Crawling,
        Self::Task,
        Self::NotRunning,
        Self::NotEnding,
        Self::Critical,
    ];

    /// In a word, for lines and labels.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Crawling => "crawling",
            Self::Task => "task-overrun",
            Self::NotRunning => "not-running",
            Self::NotEnding => "not-ending",
            Self::Critical => "critical-alert",
        }
    }
}

/// What is wrong, without a step up yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// It goes the way up unless it mends itself.
    Accused(Cause),
    /// Someone stopped its process; nothing else comes of it.
    Stopped,
    /// SIGKILL was sent long ago and the process is still there.
    DoesNotDie,
}

/// Why supervision is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It ended, and the policy (or the host's wish) says that this is all.
    Ended(Ending),
    /// Too many crashes in the window: how many.
    CrashLoop(Ending, u32),
    /// Its device did not become free.
    NotFenced(Ending),
}

/// What to do now. The numbers are for the line that tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing; look again.
    Wait,
    /// Tell it.
    Alarm {
        /// What is wrong.
        what: Alarm,
        /// For how long.
        lasted: Duration,
    },
    /// An alarm is over.
    Clear {
        /// Which one.
        what: Alarm,
        /// How long it was.
        lasted: Duration,
    },
    /// Ask it for a dump, after which it ends.
    AskDump(Cause),
    /// SIGKILL.
    Kill(Cause),
    /// Ask whether the device can be had again, and answer with
    /// [`Policy::fenced`](super::Policy::fenced).
    Fence,
    /// Take the dump, and answer with [`Policy::saved`](super::Policy::saved).
    Save {
        /// Whether the device is quiet: queues and buffers may be read too.
        fenced: bool,
    },
    /// It will be started again after so long.
    Delay(Duration),
    /// Start the next one, and answer with [`Policy::started`](super::Policy::started).
    Start,
    /// Nothing more comes.
    Over(Over),
}
