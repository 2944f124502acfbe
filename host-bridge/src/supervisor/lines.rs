//! The words of alerts: one line each.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use hybrid_conventions::HumanNanos;

use super::fallback::Fallback;
use super::incarnation::Evidence;
use super::policy::{Alarm, Cause, Ending, Limits, Over};

/// Who it is about: `partition feed (pid 12, incarnation 3)`.
pub(super) fn who(name: &str, pid: Option<u32>, incarnation: u64) -> String {
    match pid {
        Some(pid) => format!("partition {name} (pid {pid}, incarnation {incarnation})"),
        None => format!("partition {name} (incarnation {incarnation})"),
    }
}

pub(super) fn time(duration: Duration) -> HumanNanos {
    HumanNanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

/// `, polling task replay for 1.2 s`, or nothing.
fn polling(task: Option<&(String, Duration)>) -> String {
    match task {
        Some((name, age)) => format!(", polling task {name} for {}", time(*age)),
        None => String::new(),
    }
}

pub(super) fn alarm(
    who: &str,
    what: Alarm,
    lasted: Duration,
    task: Option<&(String, Duration)>,
    limits: &Limits,
    killable: bool,
) -> String {
    let polling = polling(task);
    let next = match (what, killable) {
        (Alarm::Accused(Cause::Crawling) | Alarm::Stopped | Alarm::DoesNotDie, _) => String::new(),
        (_, true) => format!("; a dump is asked for in {}", time(limits.escalate)),
        (_, false) => {
            "; a thread cannot be ended from outside: end this process, or use --isolation process"
                .to_owned()
        }
    };
    let seen = match what {
        Alarm::Accused(cause) => accusation(cause, lasted),
        Alarm::Stopped => {
            "was stopped (state T) by a signal or a tracer, and is left alone; kill -CONT lets it \
             go on"
                .to_owned()
        }
        Alarm::DoesNotDie => format!(
            "is still there {} after SIGKILL: the kernel holds it, its device is not taken again",
            time(lasted)
        ),
    };
    format!("{who} {seen}{polling}{next}")
}

fn accusation(cause: Cause, lasted: Duration) -> String {
    let lasted = time(lasted);
    match cause {
        Cause::Silent => format!("is silent: no pass of its loop for {lasted}"),
        Cause::Crawling => format!("crawls: hardly a pass of its loop in {lasted}"),
        Cause::Task => format!("is over its limit: one task polled for {lasted}"),
        Cause::NotRunning => format!("has not reached its loop after {lasted}"),
        Cause::NotEnding => format!("has not come to its end after {lasted}"),
        Cause::Critical => "says of itself that it is critically ill".to_owned(),
    }
}

pub(super) fn clear(who: &str, what: Alarm, lasted: Duration) -> String {
    let lasted = time(lasted);
    match what {
        Alarm::Stopped => format!("{who} goes on, after having been stopped for {lasted}"),
        _ => format!("{who} goes on, {lasted} after the alarm"),
    }
}

pub(super) fn asked(
    who: &str,
    cause: Cause,
    task: Option<&(String, Duration)>,
    limits: &Limits,
) -> String {
    format!(
        "{who} is asked for a dump ({}){}; it is killed in {} if it does not end",
        cause.word(),
        polling(task),
        time(limits.dump)
    )
}

pub(super) fn killed(who: &str, cause: Cause, limits: &Limits) -> String {
    format!("{who} is killed ({}): no dump after {}", cause.word(), time(limits.dump))
}

/// Where the dump is.
pub(super) enum Dump {
    Saved(PathBuf),
    NotKept,
    NotSaved,
}

/// What died, why, with which task, and where its dump is; what comes next is added by
/// [`next_start`] or [`over`].
pub(super) fn died(who: &str, evidence: &Evidence, dump: &Dump) -> String {
    let verb = match evidence.ending {
        Ending::Done => "ended",
        Ending::Failed => "failed",
        Ending::NeedsReset => "needs its device reset",
        Ending::DeviceGone => "lost its device",
        Ending::NotStarted => "could not be started",
        Ending::Crashed | Ending::Killed => "died",
    };
    let mut line = format!("{who} {verb}");
    if !evidence.what.is_empty() {
        let _ = write!(line, ": {}", evidence.what);
    }
    line.push_str(&polling(evidence.task.as_ref()));
    match dump {
        Dump::Saved(path) => drop(write!(line, "; dump {}", path.display())),
        Dump::NotSaved => line.push_str("; its dump could not be saved"),
        Dump::NotKept => {}
    }
    // What partitions say of themselves may hold anything.
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) fn next_start(delay: Duration, recent: u32, limit: u32) -> String {
    let when = match delay {
        Duration::ZERO => "at once".to_owned(),
        delay => format!("in {}", time(delay)),
    };
    match limit {
        u32::MAX => format!("; started again {when}"),
        limit => format!("; started again {when} (crash {recent}, {limit} are allowed)"),
    }
}

/// What it runs on now, behind why it left its device; how long that took, and the fence of it.
pub(super) fn storage(fallback: &Fallback, took: Option<(Duration, Duration)>) -> String {
    let took = took.map(|(fence, whole)| {
        format!(" ({} from its end to this start, {} of it the fence)", time(whole), time(fence))
    });
    let took = took.unwrap_or_default();
    format!("; it goes on with {fallback}{took}, until it is started anew")
}

pub(super) fn over(over: Over, window: Duration) -> String {
    match over {
        Over::Ended(_) => "; not started again".to_owned(),
        Over::CrashLoop(_, crashes) => format!(
            "; not started again: {crashes} crashes within {}, see --restart-limit",
            time(window)
        ),
        Over::NotFenced(_) => {
            "; not started again: its device did not become free, and may still write into the old \
             memory"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        Evidence {
            ending: Ending::Crashed,
            reason: "panic".to_owned(),
            what: "panic at src/x.rs:7: out\nof range".to_owned(),
            task: Some(("replay".to_owned(), Duration::from_micros(12))),
            dump: None,
        }
    }

    #[test]
    fn one_line_says_what_died_why_and_what_comes_next() {
        let who = who("feed", Some(12), 3);
        let line = died(&who, &evidence(), &Dump::Saved(PathBuf::from("/d/x.hycrash")))
            + &next_start(Duration::ZERO, 1, 5);
        assert_eq!(
            line,
            "partition feed (pid 12, incarnation 3) died: panic at src/x.rs:7: out of range, \
             polling task replay for 12.0 us; dump /d/x.hycrash; started again at once \
             (crash 1, 5 are allowed)"
        );
        let line = died(&who, &evidence(), &Dump::NotSaved)
            + &over(Over::CrashLoop(Ending::Crashed, 6), Duration::from_secs(60));
        assert!(line.contains("could not be saved; not started again: 6 crashes within"), "{line}");
    }

    #[test]
    fn alarms_name_the_task_and_what_happens_unless_it_mends_itself() {
        let task = Some(("replay".to_owned(), Duration::from_millis(499)));
        let limits = Limits::default();
        let lasted = Duration::from_millis(500);
        let silent = Alarm::Accused(Cause::Silent);
        let line = alarm("p", silent, lasted, task.as_ref(), &limits, true);
        assert_eq!(
            line,
            "p is silent: no pass of its loop for 500.0 ms, polling task replay for 499.0 ms; \
             a dump is asked for in 1.0 s"
        );
        let line = alarm("p", silent, lasted, None, &limits, false);
        assert!(line.ends_with("use --isolation process"), "{line}");
        let line = alarm("p", Alarm::Stopped, lasted, None, &limits, true);
        assert!(line.ends_with("is left alone; kill -CONT lets it go on"), "{line}");
    }
}
