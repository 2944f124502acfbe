//! The command that a user wants to be run when a partition has died: `--on-crash CMD`.
//!
//! Called by [`super::alert`]. A thread runs one command at a time by `/bin/sh -c`, so that
//! supervision never waits for it; one that takes too long is killed with everything that it
//! started. Alerts that come while it works wait in a short queue; beyond that they are dropped and
//! counted as failed.
//!
//! | what the command gets | |
//! |---|---|
//! | `$1`, `HYBRID_DUMP` | the dump's path; empty if none was saved |
//! | `HYBRID_PARTITION` | the partition's name |
//! | `HYBRID_INCARNATION` | its number, from 1 |
//! | `HYBRID_PID` | its process; empty for a thread |
//! | `HYBRID_REASON` | why, in a word: `panic`, `fault`, `killed`, ... |
//! | `HYBRID_EVENT` | `crash`; `fallback`: it goes on with other storage; `gave-up`: it does not |
//! | `HYBRID_LINE` | the alert's line |
//! | stdin, stdout | nothing; the host's stderr |

use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::alert::{Alert, AlertKind};
use super::counters::Counters;

/// How often a running command is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Alerts that wait while a command runs.
const WAITING: usize = 16;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookOptions {
    /// For `/bin/sh -c`.
    pub command: String,
    /// How long it may take.
    pub timeout: Duration,
}

impl HookOptions {
    /// That command, for 30 s at most.
    #[must_use]
    pub fn new(command: impl Into<String>) -> Self {
        Self { command: command.into(), timeout: Duration::from_secs(30) }
    }
}

/// Where its trouble is told: a line.
pub(super) type Complain = Box<dyn Fn(String) + Send>;

/// The thread that runs commands. Dropping it waits for the last one, within its timeout.
#[derive(Debug)]
pub(super) struct Hook {
    alerts: Option<SyncSender<Alert>>,
    thread: Option<JoinHandle<()>>,
    counters: Counters,
}

impl Hook {
    /// # Errors
    /// If there is no thread to be had.
    pub(super) fn start(
        options: HookOptions,
        counters: Counters,
        complain: Complain,
    ) -> io::Result<Self> {
        let (alerts, queue) = sync_channel(WAITING);
        let runner = Runner { options, counters: counters.clone(), complain };
        let builder = std::thread::Builder::new().name("on-crash".to_owned());
        let thread = crate::sys::signals::with_signals_blocked(|| {
            builder.spawn(move || runner.serve(&queue))
        })?;
        Ok(Self { alerts: Some(alerts), thread: Some(thread), counters })
    }

    /// Has the command run for this alert, soon.
    pub(super) fn run(&self, alert: &Alert) {
        let Some(alerts) = &self.alerts else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            alerts.try_send(alert.clone())
        {
            self.counters.hook_ran(false);
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        drop(self.alerts.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed already.
            let _ = thread.join();
        }
    }
}

struct Runner {
    options: HookOptions,
    counters: Counters,
    complain: Complain,
}

impl Runner {
    fn serve(&self, queue: &Receiver<Alert>) {
        while let Ok(alert) = queue.recv() {
            let result = self.run(&alert);
            self.counters.hook_ran(result.is_ok());
            if let Err(why) = result {
                (self.complain)(format!("--on-crash {:?}: {why}", self.options.command));
            }
        }
    }

    fn run(&self, alert: &Alert) -> Result<(), String> {
        let dump = alert.dump.as_deref().map(|path| path.as_os_str().to_owned());
        let dump = dump.unwrap_or_default();
        let event = match alert.kind {
            AlertKind::GaveUp => "gave-up",
            AlertKind::FellBack => "fallback",
            _ => "crash",
        };
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &self.options.command, "on-crash"])
            .arg(&dump)
            .env("HYBRID_DUMP", &dump)
            .env("HYBRID_PARTITION", &alert.partition)
            .env("HYBRID_INCARNATION", alert.incarnation.to_string())
            .env("HYBRID_PID", alert.pid.map(|pid| pid.to_string()).unwrap_or_default())
            .env("HYBRID_REASON", &alert.reason)
            .env("HYBRID_EVENT", event)
            .env("HYBRID_LINE", &alert.line)
            .stdin(Stdio::null())
            .process_group(0);
        let stderr = io::stderr().as_fd().try_clone_to_owned();
        command.stdout(stderr.map_or_else(|_| Stdio::null(), Stdio::from));
        self.wait(command)
    }

    fn wait(&self, mut command: Command) -> Result<(), String> {
        let mut child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("ended with {status}")),
                Ok(None) => {}
                Err(error) => return Err(format!("cannot be waited for: {error}")),
            }
            if begun.elapsed() >= self.options.timeout {
                // The whole group: what the shell started would go on otherwise.
                let _ = group.map(|group| kill_process_group(group, Signal::KILL));
                let _ = child.wait();
                return Err(format!("killed after {:?}", self.options.timeout));
            }
            std::thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::sync::mpsc::channel;

    fn alert() -> Alert {
        Alert {
            kind: AlertKind::Crashed,
            partition: "feed".to_owned(),
            incarnation: 7,
            pid: Some(123),
            reason: "panic".to_owned(),
            line: "partition feed died; it's \"quoted\" $HOME".to_owned(),
            dump: Some("/d/x y.hycrash".into()),
        }
    }

    /// Runs the command for one alert, and returns what was complained about.
    fn run(command: &str, timeout: Duration) -> (Counters, Vec<String>) {
        let counters = Counters::default();
        let (lines, complaints) = channel();
        let options = HookOptions { timeout, ..HookOptions::new(command) };
        let complain = Box::new(move |line| drop(lines.send(line)));
        let hook = Hook::start(options, counters.clone(), complain).expect("a thread");
        hook.run(&alert());
        drop(hook);
        (counters, complaints.iter().collect())
    }

    fn figure(counters: &Counters, name: &str) -> u64 {
        counters.figures().iter().find(|figure| figure.name == name).expect("a figure").value
    }

    #[test]
    fn the_command_gets_what_the_table_says() {
        let temp = TempDir::new("hook");
        let out = temp.path().join("out");
        let command = format!(
            "printf '%s\\n' \"$1\" \"$HYBRID_DUMP\" $HYBRID_PARTITION $HYBRID_INCARNATION \
             $HYBRID_PID $HYBRID_REASON $HYBRID_EVENT \"$HYBRID_LINE\" > {}",
            out.display()
        );
        let (counters, complaints) = run(&command, Duration::from_secs(60));
        assert_eq!(complaints, [""; 0]);
        let text = std::fs::read_to_string(out).expect("its output");
        let line = alert().line;
        let expected = ["/d/x y.hycrash", "/d/x y.hycrash", "feed", "7", "123", "panic", "crash"];
        assert_eq!(text.lines().collect::<Vec<_>>(), [&expected[..], &[&line]].concat());
        assert_eq!(figure(&counters, "hybrid_crash_hooks_total"), 1);
        assert_eq!(figure(&counters, "hybrid_crash_hooks_failed_total"), 0);
    }

    #[test]
    fn a_command_that_fails_is_told_of() {
        let (counters, complaints) = run("exit 3", Duration::from_secs(60));
        assert_eq!(complaints, ["--on-crash \"exit 3\": ended with exit status: 3"]);
        assert_eq!(figure(&counters, "hybrid_crash_hooks_failed_total"), 1);
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let temp = TempDir::new("hook");
        let pid = temp.path().join("pid");
        // The group is gone when the child of the shell is: its pid names nobody then.
        let command = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let (_, complaints) = run(&command, Duration::from_secs(1));
        assert!(complaints[0].ends_with("killed after 1s"), "{complaints:?}");
        let pid = std::fs::read_to_string(pid).expect("it had started");
        let stat = format!("/proc/{}/stat", pid.trim());
        let begun = Instant::now();
        let gone = || match std::fs::read_to_string(&stat) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            assert!(begun.elapsed() < Duration::from_secs(20), "the child lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn supervision_never_waits_for_it() {
        let counters = Counters::default();
        let options =
            HookOptions { timeout: Duration::from_secs(1), ..HookOptions::new("sleep 9") };
        let hook = Hook::start(options, counters.clone(), Box::new(drop)).expect("a thread");
        let begun = Instant::now();
        (0..100).for_each(|_| hook.run(&alert()));
        assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
        assert!(figure(&counters, "hybrid_crash_hooks_failed_total") >= 80);
        // It would go on for 17 s: this test has seen enough.
        std::mem::forget(hook);
    }
}
