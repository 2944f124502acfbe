//! What happened, as a hash and, where somebody wants to see it, as a timeline.
//!
//! Each event is four numbers and a name, all of them the run's and none the machine's: no pointer,
//! no real time. The hash of all of them is the run's *trace hash*. A tape that records keeps the
//! last events and the hash after each.

use std::collections::VecDeque;
use std::fmt;

use hybrid_policy::policy::Ending;

use crate::catalogue::CATALOGUE;
use crate::op::{Code, Op};

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The host: it sends operations and takes answers.
    Host,
    /// The partition: tasks, driver, queues.
    Queues,
    /// The controller, and the world's blows to it.
    Device,
}

macro_rules! whats {
    ($($name:ident $text:literal,)+) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum What {
            $(#[doc = $text] $name,)+
        }

        impl What {
            /// Its name.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

whats! {
    Send "send",
    Answer "answer",
    Start "start",
    Done "done",
    Failed "failed",
    Dropped "dropped",
    Reap "reap",
    Step "device works:",
    Fault "fault",
    Spoilt "spoilt by",
    World "blow",
    State "controller state",
    Restart "new partition",
    Ended "partition ends:",
    Jump "time passes",
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Virtual time.
    pub time_ns: u64,
    /// Whose.
    pub who: Who,
    /// What.
    pub what: What,
    /// Numbers that belong to it.
    pub numbers: [u64; 3],
}

impl Event {
    fn text(&self) -> String {
        let ([a, b, c], name) = (self.numbers, self.what.name());
        let kind = |at: u64| {
            let kind = usize::try_from(at).ok().and_then(|at| CATALOGUE.get(at));
            kind.map_or("?", |kind| kind.name)
        };
        match self.what {
            What::Send => {
                let op = Op::from_numbers([a, b, c]);
                format!("#{} {} {}+{}", op.index, op.kind().name(), op.lba, op.count)
            }
            What::Answer => format!("#{a} {}", Code::name_of(b)),
            What::Start | What::Done | What::Failed | What::Dropped => format!("#{a} {name}"),
            What::Reap => format!("reaps {a} io, {b} admin"),
            What::Step => format!("takes {a}, completes {b}"),
            What::Fault | What::Spoilt | What::World => format!("{name} {} ({b}, {c})", kind(a)),
            What::State => format!("{name} {}", STATES[usize::try_from(a).unwrap_or(0) % 6]),
            What::Restart => format!("{name} {a}"),
            What::Ended => {
                let ending = usize::try_from(a).ok().and_then(|at| Ending::ALL.get(at));
                format!("{name} {}", ending.map_or("?", |ending| ending.word()))
            }
            What::Jump => format!("{name} {a} us"),
        }
    }
}

/// Names of the controller's states, by number.
pub(crate) const STATES: [&str; 6] =
    ["starting", "ready", "resetting", "shutting down", "off", "failed"];

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (micros, nanos) = (self.time_ns / 1_000, self.time_ns % 1_000);
        let column = match self.who {
            Who::Host => 0,
            Who::Queues => 28,
            Who::Device => 56,
        };
        write!(f, "{micros:>10}.{nanos:03}  {:column$}{}", "", self.text())
    }
}

/// The head of a timeline.
pub const HEADING: &str =
    "      time us  host                        partition and queues        device";

/// Records events.
#[derive(Debug)]
pub(crate) struct Tape {
    hash: u64,
    count: u64,
    keep: usize,
    kept: VecDeque<(Event, u64)>,
    /// The hash of the state after every so many events, and the hash of the trace.
    checks: Vec<(u64, u64)>,
    check_every: u64,
}

impl Tape {
    /// Keeps the last `keep` events, and a check every `check_every` of them (0 is none).
    pub(crate) const fn new(keep: usize, check_every: u64) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            count: 0,
            keep,
            kept: VecDeque::new(),
            checks: Vec::new(),
            check_every,
        }
    }

    /// Something happened. True if the state should be told to [`Tape::check`].
    #[inline]
    pub(crate) fn event(&mut self, time_ns: u64, who: Who, what: What, numbers: [u64; 3]) -> bool {
        let mut x = self.hash ^ time_ns;
        for number in [(what as u64) << 8 | who as u64, numbers[0], numbers[1], numbers[2]] {
            x = (x.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        self.hash = x ^ x >> 31;
        self.count += 1;
        if self.keep != 0 {
            if self.kept.len() == self.keep {
                self.kept.pop_front();
            }
            self.kept.push_back((Event { time_ns, who, what, numbers }, self.hash));
        }
        self.check_every != 0 && self.count.is_multiple_of(self.check_every)
    }

    pub(crate) fn check(&mut self, state: u64) {
        self.checks.push((self.hash, state));
    }

    pub(crate) const fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) const fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn into_parts(self) -> (Vec<Event>, Vec<(u64, u64)>) {
        (self.kept.into_iter().map(|(event, _)| event).collect(), self.checks)
    }
}
