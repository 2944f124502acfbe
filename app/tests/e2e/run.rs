//! One run of the program: started, watched, and what came of it.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
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
    child: Child,
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
    Started { child, stdout, stderr }
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
        self.child.id()
    }

    /// Whether it runs still.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Run {
        let status = wait_for(&mut self.child);
        let text = |thread: JoinHandle<Vec<u8>>| {
            let bytes = thread.join().expect("the reader does not panic");
            String::from_utf8(bytes).expect("the program writes text")
        };
        Run { status, stdout: text(self.stdout), stderr: text(self.stderr) }
    }
}

/// Waits for the end of a child, within the limit.
pub(crate) fn wait_for(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child of ours") {
            return status;
        }
        if begun.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("the program did not end within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
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
