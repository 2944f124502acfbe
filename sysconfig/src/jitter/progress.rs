//! One line on stderr that says how far the measurement is, where somebody looks.
//!
//! Called at each look of the watching thread; draws a few times a second, and nothing at all where
//! stderr is no terminal.

use std::io::{IsTerminal as _, Write as _};

use hybrid_conventions::{Count, HumanNanos};

use super::run::Progress;

/// Between two draws.
const DRAW_NS: u64 = 200_000_000;

/// The line.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    on: bool,
    total_ns: u64,
    drawn_at_ns: Option<u64>,
}

impl ProgressLine {
    /// A line, unless `quiet` or stderr is no terminal.
    pub(crate) fn new(quiet: bool, total_ns: u64) -> Self {
        Self { on: !quiet && std::io::stderr().is_terminal(), total_ns, drawn_at_ns: None }
    }

    /// Draws it, if the last time is long enough ago.
    pub(crate) fn show(&mut self, progress: Progress) {
        let due = self.drawn_at_ns.is_none_or(|at| progress.done_ns.saturating_sub(at) >= DRAW_NS);
        if !self.on || !due {
            return;
        }
        self.drawn_at_ns = Some(progress.done_ns);
        let (done, total) = (HumanNanos(progress.done_ns), HumanNanos(self.total_ns));
        let (max, over) = (HumanNanos(progress.max_ns), Count(progress.over));
        let mut out = std::io::stderr().lock();
        // The escape clears what a longer line left behind; a terminal that is gone is no error.
        let _ = write!(out, "\rmeasuring {done} of {total}, max {max}, {over} over\x1b[K");
        let _ = out.flush();
    }

    /// Removes it.
    pub(crate) fn clear(&self) {
        if self.drawn_at_ns.is_some() {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
