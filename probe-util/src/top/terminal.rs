//! The loop that draws and listens to keys. Whatever ends it, the terminal is as it was.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hybrid_conventions::Exit;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::SHORTEST;
use super::screen::{View, draw};
use super::watch::Watch;
use crate::stop::Stop;

/// How late a signal is heard at most.
const LOOK: Duration = Duration::from_millis(50);

/// How long an end in order may take after a signal.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest interval that keys choose.
const LONGEST: Duration = Duration::from_secs(60);

/// Puts the terminal back when it goes: at the end, at an error, at a panic's unwinding. (A panic's
/// message comes after `ratatui`'s own hook has done the same.)
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // One that has hung up cannot be put back, and nobody reads why.
        let _ = ratatui::try_restore();
    }
}

/// Draws until a key, a signal or the last look ends it.
pub(super) fn run(
    mut watch: Watch,
    stop: &Stop,
    delay: Duration,
    looks: Option<u64>,
) -> Result<Exit> {
    let mut view = View { delay, color: std::env::var_os("NO_COLOR").is_none(), ..View::default() };
    end_even_if_stuck(stop);
    on_terminal(|terminal| listen(terminal, &mut watch, &mut view, stop, looks))
}

/// Has the terminal while `work` runs.
fn on_terminal<T>(work: impl FnOnce(&mut DefaultTerminal) -> Result<T>) -> Result<T> {
    let _restore = Restore;
    work(&mut ratatui::try_init().context("the terminal")?)
}

fn listen(
    terminal: &mut DefaultTerminal,
    watch: &mut Watch,
    view: &mut View,
    stop: &Stop,
    looks: Option<u64>,
) -> Result<Exit> {
    let mut due = Instant::now();
    let mut looked = 0;
    loop {
        if let Some(exit) = stop.exit() {
            return Ok(exit);
        }
        if Instant::now() >= due {
            if looks.is_some_and(|looks| looked >= looks) {
                return Ok(Exit::Ok);
            }
            if !view.paused {
                watch.refresh();
                looked += 1;
            }
            due = Instant::now() + view.delay;
            terminal.draw(|frame| draw(frame, watch, view)).context("drawing")?;
        }
        let left = due.saturating_duration_since(Instant::now()).min(LOOK);
        // Without a terminal there, `crossterm` opens one of its own.
        let own = !std::io::stdin().is_terminal();
        if !own && hung_up(left)? {
            return Ok(Exit::Terminated);
        }
        if !event::poll(if own { left } else { Duration::ZERO }).context("the keyboard")? {
            continue;
        }
        match event::read().context("the keyboard")? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if ends(&key) {
                    return Ok(Exit::Ok);
                }
                obey(key.code, view, watch.len());
            }
            Event::Resize(..) => {}
            _ => continue,
        }
        terminal.draw(|frame| draw(frame, watch, view)).context("drawing")?;
    }
}

/// Waits for a key, and says whether the terminal is gone: `crossterm` would read its end again and
/// again, and never come back.
fn hung_up(most: Duration) -> Result<bool> {
    let stdin = std::io::stdin();
    let mut keyboard = [PollFd::new(&stdin, PollFlags::IN)];
    let most = Timespec::try_from(most).context("an interval")?;
    match poll(&mut keyboard, Some(&most)) {
        Ok(_) => Ok(keyboard[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("the keyboard"),
    }
}

/// A signal ends the program even where the terminal holds it, in a write or in a read.
fn end_even_if_stuck(stop: &Stop) {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let exit = loop {
            match stop.exit() {
                Some(exit) => break exit,
                None => stop.wait(LONGEST),
            }
        };
        let over = Instant::now() + PATIENCE;
        while Instant::now() < over {
            std::thread::park_timeout(LOOK);
        }
        let _ = ratatui::try_restore();
        std::process::exit(exit.code().into());
    });
}

fn ends(key: &KeyEvent) -> bool {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
        || control && matches!(key.code, KeyCode::Char('c' | 'd'))
}

fn obey(code: KeyCode, view: &mut View, partitions: usize) {
    let most = partitions.max(1);
    match code {
        KeyCode::Right | KeyCode::Tab => view.index = (view.index + 1) % most,
        KeyCode::Left | KeyCode::BackTab => view.index = (view.index + most - 1) % most,
        KeyCode::Char('p' | ' ') => view.paused = !view.paused,
        KeyCode::Char('c') => view.since_start = !view.since_start,
        KeyCode::Char('+') => view.delay = (view.delay * 2).min(LONGEST),
        KeyCode::Char('-') => view.delay = (view.delay / 2).max(SHORTEST),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::{Child, ChildStdin, Command, Stdio};

    use hybrid_conventions::testing::skipped;
    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::hosts::Which;

    /// Whether a test is one that another runs on a terminal of its own: alone it has none.
    fn is_run_on_a_terminal(test: &str) -> bool {
        let is = std::env::var_os(RUN_ON_A_TERMINAL).is_some();
        if !is {
            skipped(test, "the tests of the terminal run it, on one of its own");
        }
        is
    }

    #[test]
    fn draws_until_a_signal_comes() {
        if !is_run_on_a_terminal("draws_until_a_signal_comes") {
            return;
        }
        let stop = Stop::install().expect("handlers");
        let watch = Watch::new(Which { run_dir: vec!["/nowhere".into()], ..Which::default() });
        let exit = run(watch, &stop, LOOK, None).expect("it draws");
        std::process::exit(exit.code().into());
    }

    #[test]
    fn draws_and_panics() {
        if !is_run_on_a_terminal("draws_and_panics") {
            return;
        }
        let _ = on_terminal(|terminal| -> Result<()> {
            terminal.draw(|frame| frame.render_widget("waiting for one", frame.area()))?;
            panic!("planted");
        });
    }

    /// Tells a test that it has a terminal.
    const RUN_ON_A_TERMINAL: &str = "PROBE_UTIL_TEST_ON_A_TERMINAL";

    /// A directory that goes with its test.
    struct Place(PathBuf);

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A test on a terminal of 80 by 24 (`script`'s), with `stty` before and after.
    struct Terminal {
        dir: Place,
        script: Child,
        /// A closed one would be an end of input, which is a key.
        _keyboard: Option<ChildStdin>,
    }

    impl Terminal {
        fn run(name: &str, test: &str) -> Self {
            let name = format!("probe-util-{}-{name}", std::process::id());
            let dir = Place(std::env::temp_dir().join(name));
            let _ = std::fs::remove_dir_all(&dir.0);
            std::fs::create_dir_all(&dir.0).expect("a directory");
            let exe = std::env::current_exe().expect("this program");
            let lines = format!(
                "cd '{}'; stty rows 24 cols 80; stty -g > before\n\
                 sh -c 'echo $$ > pid; exec \"$0\" --exact --nocapture \
                 top::terminal::tests::{test}' '{}'\n\
                 echo $? > code; stty -g > after\n",
                dir.0.display(),
                exe.display()
            );
            std::fs::write(dir.0.join("lines"), lines).expect("written");
            let shell = format!("sh '{}'", dir.0.join("lines").display());
            let mut script = Command::new("script");
            script.args(["-qfec", &shell]).arg(dir.0.join("typescript"));
            script
                .env("TERM", "xterm-256color")
                .env(RUN_ON_A_TERMINAL, "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            let mut script = script.spawn().expect("it is there");
            let keyboard = script.stdin.take();
            Self { dir, script, _keyboard: keyboard }
        }

        fn text(&self, name: &str) -> String {
            let bytes = std::fs::read(self.dir.0.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        }

        fn pid(&self) -> Pid {
            self.text("pid").trim().parse().ok().and_then(Pid::from_raw).expect("a number")
        }

        fn until(&self, done: impl Fn(&Self) -> bool) {
            let begun = Instant::now();
            while !done(self) {
                assert!(begun.elapsed() < Duration::from_secs(60), "{}", self.text("typescript"));
                std::thread::yield_now();
            }
        }

        /// A word is looked for: what is between words is skipped, not drawn.
        fn until_drawn(&self) {
            self.until(|this| this.text("typescript").contains("waiting"));
        }
    }

    fn script_is_there(test: &str) -> bool {
        let there = Command::new("script").arg("--version").output().is_ok();
        if !there {
            skipped(test, "it needs script(1)");
        }
        there
    }

    #[test]
    #[cfg_attr(miri, ignore = "it runs programs")]
    fn the_terminal_is_as_it_was() {
        if !script_is_there("the_terminal_is_as_it_was") {
            return;
        }
        for (test, signal, code) in [
            ("draws_until_a_signal_comes", Some(Signal::TERM), "143"),
            ("draws_until_a_signal_comes", Some(Signal::INT), "130"),
            ("draws_until_a_signal_comes", Some(Signal::HUP), "143"),
            ("draws_and_panics", None, "101"),
        ] {
            let mut terminal = Terminal::run("ended", test);
            if let Some(signal) = signal {
                terminal.until_drawn();
                kill_process(terminal.pid(), signal).expect("it is there");
            }
            terminal.script.wait().expect("it ends");
            let written = terminal.text("typescript");
            assert_eq!(terminal.text("code").trim(), code, "{test}, {signal:?}: {written}");
            assert!(!terminal.text("before").is_empty());
            assert_eq!(terminal.text("before"), terminal.text("after"), "{test}: {written}");
            let at =
                |what: &str| written.rfind(what).unwrap_or_else(|| panic!("{what}: {written}"));
            assert!(at("\u{1b}[?1049l") > at("\u{1b}[?1049h"), "the screen before is back");
            assert!(!written.contains("\u{1b}[?25l") || at("\u{1b}[?25h") > at("\u{1b}[?25l"));
            if signal.is_none() {
                let (back, says) = (written.find("\u{1b}[?1049l"), written.find("planted"));
                assert!(back.is_some() && back < says, "its message can be read: {written}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it runs programs")]
    fn it_ends_with_its_terminal() {
        if !script_is_there("it_ends_with_its_terminal") {
            return;
        }
        let mut terminal = Terminal::run("hung-up", "draws_until_a_signal_comes");
        terminal.until_drawn();
        let process = format!("/proc/{}", terminal.pid().as_raw_nonzero());
        terminal.script.kill().expect("it is there");
        terminal.script.wait().expect("it ends");
        terminal.until(|_| !Path::new(&process).exists());
    }

    #[test]
    fn keys_choose_partition_interval_and_time() {
        let mut view = View::default();
        obey(KeyCode::Left, &mut view, 3);
        assert_eq!(view.index, 2);
        obey(KeyCode::Right, &mut view, 3);
        assert_eq!(view.index, 0);
        obey(KeyCode::Right, &mut view, 0);
        assert_eq!(view.index, 0);
        obey(KeyCode::Char('c'), &mut view, 1);
        obey(KeyCode::Char('p'), &mut view, 1);
        assert!(view.since_start && view.paused);
        for _ in 0..20 {
            obey(KeyCode::Char('-'), &mut view, 1);
        }
        assert_eq!(view.delay, SHORTEST);
        for _ in 0..20 {
            obey(KeyCode::Char('+'), &mut view, 1);
        }
        assert_eq!(view.delay, LONGEST);
        let key = |code, modifiers| KeyEvent::new(code, modifiers);
        assert!(ends(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(!ends(&key(KeyCode::Char('c'), KeyModifiers::NONE)));
    }
}
