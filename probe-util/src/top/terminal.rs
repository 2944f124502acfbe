//! The loop that draws and listens to keys. Whatever ends it, the terminal is as it was.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hybrid_conventions::Exit;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::SHORTEST;
use super::screen::{View, draw};
use super::watch::Watch;
use crate::stop::Stop;

/// How late a signal is heard at most.
const LOOK: Duration = Duration::from_millis(50);

/// Longest interval that keys choose.
const LONGEST: Duration = Duration::from_secs(60);

/// Puts the terminal back when it goes: at the end, at an error, at a panic's unwinding. (A panic's
/// message comes after `ratatui`'s own hook has done the same.)
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Draws until a key, a signal or the last look ends it.
pub(super) fn run(
    mut watch: Watch,
    stop: &Stop,
    delay: Duration,
    looks: Option<u64>,
) -> Result<Exit> {
    let restore = Restore;
    let mut terminal = ratatui::try_init().context("the terminal")?;
    let mut view = View { delay, color: std::env::var_os("NO_COLOR").is_none(), ..View::default() };
    let outcome = listen(&mut terminal, &mut watch, &mut view, stop, looks);
    drop(restore);
    outcome
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
        if !event::poll(left).context("the keyboard")? {
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
    use super::*;

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
