//! How far the work is, on stderr, where somebody looks.
//!
//! A bar on a terminal, nothing otherwise: `run` calls [`Progress::show`] at each look and
//! the bar draws itself a few times a second.

use core_runtime::metrics::MetricsReader;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Draws a second: enough to see it move, too few to be a load.
const DRAWS_PER_SECOND: u8 = 10;

/// A bar for the phase that runs.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Bytes to be ingested, where that is known.
    feed_bytes: u64,
    phase: &'static str,
}

impl Progress {
    /// A bar, unless `quiet` or stderr is no terminal.
    pub(crate) fn new(quiet: bool, feed_bytes: u64) -> Self {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND);
        let bar = (!quiet && !target.is_hidden()).then(|| {
            let bar = ProgressBar::with_draw_target(Some(feed_bytes.max(1)), target);
            let style = "{prefix:10} [{bar:40}] {bytes:>11} of {total_bytes} {bytes_per_sec:>13}";
            // A template of ours that does not parse would only cost the style.
            if let Ok(style) = ProgressStyle::with_template(style) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        Self { bar, feed_bytes, phase: "" }
    }

    /// Shows where the partition is.
    pub(crate) fn show(&mut self, metrics: &MetricsReader, replaying: bool) {
        let Some(bar) = &self.bar else { return };
        let number = |name| metrics.number(name).unwrap_or(0);
        let (phase, done, total) = if replaying {
            ("replaying", number("feed_bytes_read"), number("feed_bytes_total"))
        } else {
            ("ingesting", number("feed_bytes_written"), self.feed_bytes)
        };
        if self.phase != phase {
            self.phase = phase;
            bar.set_prefix(phase);
            bar.reset();
        }
        bar.set_length(total.max(done).max(1));
        bar.set_position(done);
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
