//! Runs one command with its output in a log file and a deadline.
//!
//! The child has no standard input and stays in our process group, so that ^C ends it too. A child
//! that passes its deadline is killed with everything it started; so is one that does not end when
//! we are to.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hybrid_conventions::Exit;

use crate::stop;

/// A command, its extra environment and its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) limit: Duration,
    /// Set if it runs behind others: on what time they leave, and with this limit of its own.
    pub(crate) behind: Option<Duration>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) enum End {
    Exited(ExitStatus),
    TimedOut(Duration),
    /// We were to end, and it with us.
    Stopped,
    NotStarted(io::Error),
}

impl Run {
    /// The deadline of a command that doesn't say otherwise: a cold release build on two cores
    /// takes three minutes, so this is a hang.
    pub(crate) const LIMIT: Duration = Duration::from_secs(15 * 60);

    /// A command from a line without quotes: `cargo fmt --all --check`.
    pub(crate) fn new(line: &str) -> Self {
        Self {
            argv: line.split_whitespace().map(str::to_owned).collect(),
            env: Vec::new(),
            limit: Self::LIMIT,
            behind: None,
        }
    }

    /// A command that needs a shell: `a && b`.
    pub(crate) fn shell(line: &str) -> Self {
        Self::new("sh -c").arg(line)
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.argv.push(arg.into());
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = String>) -> Self {
        self.argv.extend(args);
        self
    }

    pub(crate) fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same on the time that others leave. How long that takes is theirs to say, so that its
    /// limit is on the time that each of its processes has computed.
    pub(crate) fn behind(mut self) -> Self {
        self.behind = Some(self.limit);
        self.limit = Duration::MAX;
        self
    }

    /// The command as a person would type it.
    pub(crate) fn line(&self) -> String {
        let env = self.env.iter().map(|(key, value)| match value.contains(' ') {
            true => format!("{key}='{value}'"),
            false => format!("{key}={value}"),
        });
        let argv = match &*self.argv {
            [sh, c, line] if sh == "sh" && c == "-c" && self.env.is_empty() => vec![line.clone()],
            argv => argv.to_vec(),
        };
        env.chain(argv).collect::<Vec<_>>().join(" ")
    }

    /// Runs it in `dir`, appending to `log`.
    pub(crate) fn run(&self, dir: &Path, log: &Path) -> End {
        self.run_watched(dir, log, |_| ())
    }

    /// The same for a program that ends well at SIGUSR1, which it gets once it has computed for
    /// `time`; also says for how long it has, as far as that was seen.
    pub(crate) fn run_for(&self, dir: &Path, log: &Path, time: Duration) -> (End, Duration) {
        let (mut computed, mut asked) = (Duration::ZERO, false);
        let end = self.run_watched(dir, log, |pid| {
            computed = time_of(pid).unwrap_or(computed);
            if computed >= time && !asked {
                asked = true;
                signal_tree("-USR1", pid);
            }
        });
        (end, computed)
    }

    fn run_watched(&self, dir: &Path, log: &Path, watch: impl FnMut(u32)) -> End {
        if stop::exit().is_some() {
            return End::Stopped;
        }
        match self.spawn(dir, log) {
            Ok(child) => self.wait(child, watch),
            Err(error) => End::NotStarted(error),
        }
    }

    /// Runs it quietly and says whether it worked; a probe, not a step.
    pub(crate) fn succeeds(&self, dir: &Path) -> bool {
        let mut command = self.command(dir);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Runs it and gives its standard output, or [`None`] if it failed.
    pub(crate) fn output(&self, dir: &Path) -> Option<String> {
        let mut command = self.command(dir);
        let output = command.stderr(Stdio::inherit()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then_some(text)
    }

    /// The command for callers who let it write to the terminal.
    pub(crate) fn command(&self, dir: &Path) -> Command {
        let mut words = Vec::new();
        if let Some(limit) = self.behind {
            words.extend(["nice", "-n", "19", "prlimit"].map(str::to_owned));
            words.push(format!("--cpu={}", limit.as_secs()));
        }
        words.extend_from_slice(&self.argv);
        let (program, args) = words.split_first().map_or(("false", &[][..]), |(p, a)| (p, a));
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).stdin(Stdio::null());
        // No colours in logs, and no toolchain installed behind anyone's back.
        command.env("CARGO_TERM_COLOR", "never");
        command.env("RUSTUP_AUTO_INSTALL", "0");
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command
    }

    fn spawn(&self, dir: &Path, log: &Path) -> io::Result<Child> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(log)?;
        io::Write::write_all(&mut file, format!("$ {}\n", self.line()).as_bytes())?;
        let errors: File = file.try_clone()?;
        self.command(dir).stdout(file).stderr(errors).spawn()
    }

    fn wait(&self, mut child: Child, mut watch: impl FnMut(u32)) -> End {
        let start = Instant::now();
        let mut stopping = None;
        loop {
            match child.try_wait() {
                Ok(Some(_)) if stop::exit().is_some() => return End::Stopped,
                Ok(Some(status)) => return End::Exited(status),
                Err(error) => return End::NotStarted(error),
                Ok(None) if start.elapsed() >= self.limit => {
                    kill(&mut child);
                    return End::TimedOut(self.limit);
                }
                Ok(None) => watch(child.id()),
            }
            if let Some(exit) = stop::exit() {
                let stopping = stopping.get_or_insert_with(|| Stopping::by(exit));
                if stopping.passed(&child) {
                    kill(&mut child);
                    return End::Stopped;
                }
            }
            // Steps take seconds: a twentieth is a poll that costs nothing.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Runs a command on our terminal until it ends, however long that takes; a signal is passed on,
/// and `None` is what is left if it does not end then.
///
/// # Errors
/// It could not be started.
pub(crate) fn wait_for(mut command: Command) -> io::Result<Option<ExitStatus>> {
    let mut child = command.spawn()?;
    let mut stopping = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if let Some(exit) = stop::exit() {
            let stopping = stopping.get_or_insert_with(|| Stopping::by(exit));
            if stopping.passed(&child) {
                kill(&mut child);
                return Ok(None);
            }
        }
        thread::sleep(Duration::from_millis(50));
    }
}

impl End {
    /// [`None`] if it exited with 0, else what happened, in a few words.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self {
            Self::Exited(status) if status.success() => None,
            Self::Exited(status) => Some(format!("{status}")),
            Self::TimedOut(limit) => Some(format!("killed after {} s", limit.as_secs())),
            Self::Stopped => Some("stopped".to_owned()),
            Self::NotStarted(error) => Some(format!("could not start: {error}")),
        }
    }
}

/// A child that is to end.
struct Stopping {
    /// When it is asked; none once it was.
    ask: Option<Instant>,
    /// When it is no longer asked.
    end: Instant,
}

impl Stopping {
    /// What a terminal's ^C already asked for; a signal to us alone asked nobody else.
    const PATIENCE: Duration = Duration::from_secs(3);

    /// To flush what it found.
    const LAST_WORDS: Duration = Duration::from_secs(10);

    fn by(signal: Exit) -> Self {
        let patience = match signal {
            Exit::Interrupted => Self::PATIENCE,
            _ => Duration::ZERO,
        };
        let ask = Instant::now() + patience;
        Self { ask: Some(ask), end: ask + Self::LAST_WORDS }
    }

    /// Asks when it is time to; whether it has had all its time.
    fn passed(&mut self, child: &Child) -> bool {
        let now = Instant::now();
        if self.ask.take_if(|ask| *ask <= now).is_some() {
            signal_tree("-TERM", child.id());
        }
        now >= self.end
    }
}

fn kill(child: &mut Child) {
    signal_tree("-KILL", child.id());
    let _ = child.kill();
    let _ = child.wait();
}

/// What a process has computed, in user and kernel mode; its children not.
fn time_of(pid: u32) -> Option<Duration> {
    /// `USER_HZ` of Linux on x86-64, in which the kernel counts for us.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc(5): the name in parentheses may have spaces; state is field 3, the times are 14 and 15.
    let (_, fields) = stat.rsplit_once(") ")?;
    let times = fields.split(' ').skip(14 - 3).take(2).map(|field| field.parse::<u32>().ok());
    times.sum::<Option<u32>>().map(|ticks| TICK * ticks)
}

/// Sends a signal to a process and everything that it started, children first found first.
fn signal_tree(signal: &str, pid: u32) {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        pids.extend(children(pid));
    }
    let mut kill = Command::new("sh");
    kill.args(["-c", "kill \"$@\"", "kill", signal]);
    let _ = kill.args(pids.iter().map(u32::to_string)).stderr(Stdio::null()).status();
}

/// The children of all threads of a process; a child belongs to the thread that started it.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn output_and_errors_go_to_the_log_after_the_command() {
        let log = scratch("log");
        let run = Run::new("sh -c").arg("echo out; echo err >&2; echo $WORD").env("WORD", "here");
        assert!(run.run(Path::new("/"), &log).trouble().is_none());
        let text = fs::read_to_string(&log).expect("a log");
        assert!(text.starts_with("$ WORD=here sh -c"), "{text}");
        assert!(text.ends_with("out\nerr\nhere\n"), "{text}");
        let _ = fs::remove_file(&log);
    }

    #[test]
    fn a_failure_says_how_it_ended() {
        let log = scratch("fail");
        let end = Run::new("sh -c").arg("exit 7").run(Path::new("/"), &log);
        assert_eq!(end.trouble().as_deref(), Some("exit status: 7"));
        let end = Run::new("no-such-program-anywhere").run(Path::new("/"), &log);
        assert!(end.trouble().is_some_and(|text| text.starts_with("could not start")));
        let _ = fs::remove_file(&log);
    }

    /// A process that its new parent has not reaped yet is not alive.
    fn is_alive(pid: u32) -> bool {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z")
    }

    #[test]
    fn what_runs_behind_others_is_nice_and_has_a_limit_on_what_it_computes() {
        let log = scratch("behind");
        let run = Run::new("sh -c").arg("nice; ulimit -t").limit(Duration::from_secs(77));
        let line = run.line();
        let run = run.behind();
        assert_eq!(run.line(), line);
        assert!(run.run(Path::new("/"), &log).trouble().is_none());
        let text = fs::read_to_string(&log).expect("a log");
        assert!(text.ends_with("\n19\n77\n"), "{text}");
        let busy = Run::new("sh -c").arg("while :; do :; done").limit(Duration::from_secs(1));
        let trouble = busy.behind().run(Path::new("/"), &log).trouble().expect("it is killed");
        assert!(trouble.contains("signal"), "{trouble}");
        let _ = fs::remove_file(&log);
    }

    #[test]
    fn a_command_is_asked_to_end_once_it_has_computed_enough() {
        let log = scratch("enough");
        let count = "trap 'echo enough; exit' USR1; while :; do :; done";
        let run = Run::new("sh -c").arg(count).limit(Duration::from_secs(60));
        for run in [run.clone(), run.behind()] {
            let time = Duration::from_millis(200);
            let (end, computed) = run.run_for(Path::new("/"), &log, time);
            assert_eq!(end.trouble(), None);
            assert!(computed >= time, "{computed:?}");
        }
        let text = fs::read_to_string(&log).expect("a log");
        assert_eq!(text.matches("\nenough\n").count(), 2, "{text}");
        let (end, computed) = Run::new("true").run_for(Path::new("/"), &log, Duration::MAX);
        assert!(end.trouble().is_none() && computed < Duration::from_secs(1), "{computed:?}");
        let _ = fs::remove_file(&log);
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let log = scratch("hang");
        let run = Run::new("sh -c").arg("sh -c 'echo $$; exec sleep 1000' & wait");
        let end = run.limit(Duration::from_millis(300)).run(Path::new("/"), &log);
        assert!(matches!(end, End::TimedOut(_)));
        let text = fs::read_to_string(&log).expect("a log");
        let child: u32 = text.lines().last().and_then(|pid| pid.parse().ok()).expect("a pid");
        let start = Instant::now();
        while is_alive(child) {
            assert!(start.elapsed() < Duration::from_secs(10), "{child} was not killed");
            thread::yield_now();
        }
        let _ = fs::remove_file(&log);
    }

    #[test]
    fn a_child_is_asked_to_end_with_us_at_once_or_after_the_terminal_has_asked_it() {
        let run = Run::new("sh -c").arg("sleep 1000 & echo both; wait");
        let log = scratch("stopping");
        let begun = Instant::now();
        let mut child = run.spawn(Path::new("/"), &log).expect("a shell");
        while !fs::read_to_string(&log).is_ok_and(|log| log.ends_with("both\n")) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not start");
            thread::yield_now();
        }
        let patient = Stopping::by(Exit::Interrupted);
        assert!(patient.ask.is_some_and(|ask| ask >= begun + Stopping::PATIENCE));
        let mut stopping = Stopping::by(Exit::Terminated);
        assert!(!stopping.passed(&child) && stopping.ask.is_none());
        let status = child.wait().expect("a child");
        assert!(status.to_string().contains("15"), "{status}: not by SIGTERM");
        stopping.end = Instant::now();
        assert!(stopping.passed(&child), "it has had all its time");
        let _ = fs::remove_file(&log);
    }

    #[test]
    fn no_standard_input_is_offered() {
        let log = scratch("stdin");
        assert!(Run::new("cat").run(Path::new("/"), &log).trouble().is_none());
        let _ = fs::remove_file(&log);
    }
}
