//! SIGINT, SIGTERM, SIGHUP and SIGQUIT as words that the commands look at, so that each ends in
//! order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hybrid_conventions::Exit;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

/// How late a signal is heard at most.
const LOOK: Duration = Duration::from_millis(20);

/// The last signal that came.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// From now on signals end nothing by themselves.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn install() -> Result<Self> {
        let word = Arc::new(AtomicUsize::new(0));
        for (signal, value) in [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 143), (SIGQUIT, 143)] {
            signal_hook::flag::register_usize(signal, Arc::clone(&word), value)
                .context("a signal handler")?;
        }
        Ok(Self(word))
    }

    /// Waits, or until a signal comes.
    pub(crate) fn wait(&self, time: Duration) {
        let begun = Instant::now();
        while self.exit().is_none() {
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }

    /// How to end, if a signal came.
    pub(crate) fn exit(&self) -> Option<Exit> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            130 => Some(Exit::Interrupted),
            _ => Some(Exit::Terminated),
        }
    }
}
