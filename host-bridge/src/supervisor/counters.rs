//! What supervision counts: for whoever exports metrics, and for reports.
//!
//! Written by supervisors, read by anyone at any time; clones share their figures.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::policy::{Alarm, Cause, Ending};

/// Reasons of dumps, as their names have them: a record's own, or why the host asked or killed;
/// `other` is the last.
const REASONS: [&str; 14] = [
    "panic",
    "fault",
    "system-call",
    "allocation",
    "budget-exceeded",
    "killed",
    "host-gone",
    "device-gone",
    "silent",
    "task-overrun",
    "not-running",
    "not-ending",
    "critical-alert",
    "other",
];

#[derive(Debug, Default)]
struct Figures {
    starts: AtomicU64,
    restarts: AtomicU64,
    gave_up: AtomicU64,
    fell_back: AtomicU64,
    /// By cause, then: stopped, does not die.
    alarms: [AtomicU64; Cause::ALL.len() + 2],
    dump_requests: [AtomicU64; Cause::ALL.len()],
    kills: [AtomicU64; Cause::ALL.len()],
    endings: [AtomicU64; Ending::ALL.len()],
    dumps: [AtomicU64; REASONS.len()],
    dumps_failed: AtomicU64,
    hooks: AtomicU64,
    hooks_failed: AtomicU64,
    spare_hits: AtomicU64,
    spare_misses: AtomicU64,
}

/// The counters of one host.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Figures>);

/// One figure: its name and, where there are several of that name, the label that tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Name, as Prometheus has them.
    pub name: &'static str,
    /// What it counts, in a line.
    pub help: &'static str,
    /// Label and its value.
    pub label: Option<(&'static str, &'static str)>,
    /// The count.
    pub value: u64,
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.label {
            Some((name, value)) => write!(f, "{}{{{name}=\"{value}\"}} {}", self.name, self.value),
            None => write!(f, "{} {}", self.name, self.value),
        }
    }
}

/// What an alarm is called in a label.
fn alarm_word(index: usize) -> &'static str {
    match Cause::ALL.get(index) {
        Some(cause) => cause.word(),
        None => ["stopped", "does-not-die"][index - Cause::ALL.len()],
    }
}

fn index_of<T: PartialEq>(all: &[T], one: &T) -> usize {
    all.iter().position(|each| each == one).unwrap_or(all.len() - 1)
}

fn add(to: &AtomicU64) {
    to.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn started(&self, again: bool) {
        add(&self.0.starts);
        if again {
            add(&self.0.restarts);
        }
    }

    pub(super) fn gave_up(&self) {
        add(&self.0.gave_up);
    }

    /// A partition goes on with other storage than its device.
    pub fn fell_back(&self) {
        add(&self.0.fell_back);
    }

    pub(super) fn alarm(&self, alarm: Alarm) {
        let index = match alarm {
            Alarm::Accused(cause) => index_of(&Cause::ALL, &cause),
            Alarm::Stopped => Cause::ALL.len(),
            Alarm::DoesNotDie => Cause::ALL.len() + 1,
        };
        add(&self.0.alarms[index]);
    }

    pub(super) fn dump_requested(&self, cause: Cause) {
        add(&self.0.dump_requests[index_of(&Cause::ALL, &cause)]);
    }

    pub(super) fn killed(&self, cause: Cause) {
        add(&self.0.kills[index_of(&Cause::ALL, &cause)]);
    }

    pub(super) fn ended(&self, ending: Ending) {
        add(&self.0.endings[index_of(&Ending::ALL, &ending)]);
    }

    pub(super) fn dump_saved(&self, reason: &str) {
        add(&self.0.dumps[index_of(&REASONS, &reason)]);
    }

    pub(super) fn dump_failed(&self) {
        add(&self.0.dumps_failed);
    }

    pub(super) fn hook_ran(&self, well: bool) {
        add(&self.0.hooks);
        if !well {
            add(&self.0.hooks_failed);
        }
    }

    /// An incarnation was started, with memory that was ready or with memory made for it.
    pub fn spare_used(&self, ready: bool) {
        add(if ready { &self.0.spare_hits } else { &self.0.spare_misses });
    }

    /// Restarts so far.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.0.restarts.load(Ordering::Relaxed)
    }

    /// Changes of storage so far.
    #[must_use]
    pub fn fallbacks(&self) -> u64 {
        self.0.fell_back.load(Ordering::Relaxed)
    }

    /// Starts so far that found their memory made.
    #[must_use]
    pub fn spare_hits(&self) -> u64 {
        self.0.spare_hits.load(Ordering::Relaxed)
    }

    /// Dumps saved so far, for every reason.
    #[must_use]
    pub fn dumps(&self) -> u64 {
        self.0.dumps.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Every figure, zeros included: a series that exists is one that can be watched.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        let all = &self.0;
        let mut figures = Vec::new();
        let mut one = |name, help, label, value: &AtomicU64| {
            let value = value.load(Ordering::Relaxed);
            figures.push(Figure { name, help, label, value });
        };
        one("hybrid_partition_starts_total", "partitions started", None, &all.starts);
        one("hybrid_partition_restarts_total", "of these, after an end", None, &all.restarts);
        one("hybrid_partition_gave_up_total", "supervisions that ended", None, &all.gave_up);
        one("hybrid_storage_fallbacks_total", "changes of storage", None, &all.fell_back);
        for (index, count) in all.alarms.iter().enumerate() {
            let label = Some(("kind", alarm_word(index)));
            one("hybrid_partition_alarms_total", "alarms raised", label, count);
        }
        for (cause, count) in Cause::ALL.iter().zip(&all.dump_requests) {
            let label = Some(("cause", cause.word()));
            one("hybrid_partition_dump_requests_total", "dumps asked for", label, count);
        }
        for (cause, count) in Cause::ALL.iter().zip(&all.kills) {
            let label = Some(("cause", cause.word()));
            one("hybrid_partition_kills_total", "partitions killed", label, count);
        }
        for (ending, count) in Ending::ALL.iter().zip(&all.endings) {
            let label = Some(("ending", ending.word()));
            one("hybrid_partition_ends_total", "partitions that ended", label, count);
        }
        for (reason, count) in REASONS.iter().zip(&all.dumps) {
            let label = Some(("reason", *reason));
            one("hybrid_crash_dumps_total", "crash dumps saved", label, count);
        }
        one("hybrid_crash_dumps_failed_total", "dumps not saved", None, &all.dumps_failed);
        one("hybrid_crash_hooks_total", "crash hooks run", None, &all.hooks);
        one("hybrid_crash_hooks_failed_total", "of these, badly ended", None, &all.hooks_failed);
        one("hybrid_spare_memory_used_total", "starts with a spare", None, &all.spare_hits);
        one("hybrid_spare_memory_missed_total", "starts without", None, &all.spare_misses);
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_has_a_name_of_its_own_and_starts_at_zero() {
        let counters = Counters::default();
        let figures = counters.figures();
        assert!(figures.iter().all(|figure| figure.value == 0));
        let mut names: Vec<_> = figures.iter().map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), figures.len());
    }

    #[test]
    fn each_event_moves_its_own_figure() {
        let counters = Counters::default();
        counters.started(false);
        counters.started(true);
        counters.alarm(Alarm::Accused(Cause::Task));
        counters.alarm(Alarm::Stopped);
        counters.alarm(Alarm::Accused(Cause::Critical));
        counters.dump_requested(Cause::Task);
        counters.killed(Cause::NotEnding);
        counters.ended(Ending::Crashed);
        counters.dump_saved("panic");
        counters.dump_saved("something new");
        counters.hook_ran(false);
        counters.spare_used(true);
        let moved: Vec<_> =
            counters.figures().iter().filter(|f| f.value > 0).map(ToString::to_string).collect();
        assert_eq!(
            moved,
            [
                "hybrid_partition_starts_total 2",
                "hybrid_partition_restarts_total 1",
                "hybrid_partition_alarms_total{kind=\"task-overrun\"} 1",
                "hybrid_partition_alarms_total{kind=\"critical-alert\"} 1",
                "hybrid_partition_alarms_total{kind=\"stopped\"} 1",
                "hybrid_partition_dump_requests_total{cause=\"task-overrun\"} 1",
                "hybrid_partition_kills_total{cause=\"not-ending\"} 1",
                "hybrid_partition_ends_total{ending=\"crashed\"} 1",
                "hybrid_crash_dumps_total{reason=\"panic\"} 1",
                "hybrid_crash_dumps_total{reason=\"other\"} 1",
                "hybrid_crash_hooks_total 1",
                "hybrid_crash_hooks_failed_total 1",
                "hybrid_spare_memory_used_total 1",
            ]
        );
        assert_eq!((counters.restarts(), counters.dumps()), (1, 2));
    }
}
