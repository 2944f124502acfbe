//! One run of the program: started, watched, and what came of it.

use std::cell::Cell;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than any run may take, even where the machine does other things: a run that hangs fails
/// its test instead of blocking all.
const LIMIT: Duration = Duration::from_secs(120);

/// Path of the program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_feed-handler");

/// A program that was started.
pub(crate) struct Started {
    ending: Ending,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Starts `feed-handler` with these arguments.
pub(crate) fn start(args: &[&str]) -> Started {
    let mut command = Command::new(PROGRAM);
    command.args(args);
    start_command(command)
}

/// Starts a command that ends up in `feed-handler`.
pub(crate) fn start_command(mut command: Command) -> Started {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    Started { ending: Ending::of(child), stdout, stderr }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("a pipe of ours");
        bytes
    })
}

impl Started {
    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.ending.process
    }

    /// Sends it a signal, by its name.
    pub(crate) fn signal(&self, name: &str) {
        self.ending.signal(name);
    }

    /// Its partition's process, once that is at work: its only child, with no other system call
    /// left than its end. `before` is the one that was there before. `None` when the program has
    /// ended.
    pub(crate) fn partition(&self, before: Option<u32>) -> Option<u32> {
        let begun = Instant::now();
        loop {
            let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()));
            let children = tasks
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
                .collect::<String>();
            let confined = |pid: &u32| {
                let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
                status.is_ok_and(|status| status.contains("Seccomp:\t2"))
            };
            let mut pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
            if let Some(pid) = pids.find(|pid| Some(*pid) != before && confined(pid)) {
                return Some(pid);
            }
            if !self.runs_for(Duration::from_micros(200)) {
                return None;
            }
            assert!(begun.elapsed() < LIMIT, "no partition appears");
        }
    }

    /// Whether it runs for that much longer.
    pub(crate) fn runs_for(&self, time: Duration) -> bool {
        self.ending.within(time).is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> Run {
        let status = self.ending.wait();
        let text = |thread: JoinHandle<Vec<u8>>| {
            let bytes = thread.join().expect("the reader does not panic");
            String::from_utf8(bytes).expect("the program writes text")
        };
        Run { status, stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

/// The end of a child, whenever it comes.
pub(crate) struct Ending {
    process: u32,
    status: Receiver<ExitStatus>,
    ended: Cell<Option<ExitStatus>>,
}

impl Ending {
    /// Of `child`, whom a thread waits for.
    pub(crate) fn of(mut child: Child) -> Self {
        let (sender, status) = channel();
        let process = child.id();
        std::thread::spawn(move || {
            let status = child.wait().expect("a child of ours");
            // Nobody may want to know any more.
            let _ = sender.send(status);
        });
        Self { process, status, ended: Cell::new(None) }
    }

    /// The status, if it ends within `time`.
    fn within(&self, time: Duration) -> Option<ExitStatus> {
        if self.ended.get().is_none() {
            match self.status.recv_timeout(time) {
                Ok(status) => self.ended.set(Some(status)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("nobody waits for it"),
            }
        }
        self.ended.get()
    }

    /// Waits for it; a child that takes too long is killed.
    pub(crate) fn wait(self) -> ExitStatus {
        self.within(LIMIT).unwrap_or_else(|| {
            self.signal("KILL");
            panic!("the program did not end within {LIMIT:?}");
        })
    }

    fn signal(&self, name: &str) {
        assert!(kill(name, self.process), "kill -{name} {}", self.process);
    }
}

/// Sends a process a signal; whether it was there.
pub(crate) fn kill(signal: &str, process: u32) -> bool {
    let mut kill = Command::new("kill");
    kill.args([&format!("-{signal}"), &process.to_string()]).stderr(Stdio::null());
    kill.status().expect("kill").success()
}

impl Run {
    /// The exit code; a signal has none.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Fails unless it ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code(), Some(0), "{self:?}");
        self
    }

    /// Its standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        match serde_json::from_str(&self.stdout) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {self:?}"),
        }
    }

    /// Lines of standard error that warn.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| line.starts_with("warning: ")).collect()
    }

    /// Fails unless it ended with `code` and exactly one line that is an error, without a result,
    /// and this line has all of `words`.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), Some(code), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        self.one_error(words);
    }

    /// Fails unless standard error has exactly one line that is no warning, with all of `words`.
    #[track_caller]
    pub(crate) fn one_error(&self, words: &[&str]) {
        let mut lines = self.stderr.lines().filter(|line| !line.starts_with("warning: "));
        let line = lines.next().unwrap_or_else(|| panic!("no error line: {self:?}"));
        assert_eq!(lines.next(), None, "one line is enough: {self:?}");
        assert!(line.starts_with("feed-handler: "), "{line}");
        assert!(!line.contains("panicked"), "{line}");
        assert!(!line.ends_with('.'), "{line}");
        for word in words {
            assert!(line.contains(word), "{word:?} is not in {line:?}");
        }
    }
}
