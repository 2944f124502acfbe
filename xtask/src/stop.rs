//! SIGINT and SIGTERM as a word that a long command looks at, so that it can still say what it did.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result};
use hybrid_conventions::Exit;
use signal_hook::consts::{SIGINT, SIGTERM};

/// The exit code of the last signal that came; there is none until somebody wants to know.
static WORD: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on these signals end nothing by themselves: commands that run are told, and nobody
/// starts another.
///
/// # Errors
/// The system's.
pub(crate) fn install() -> Result<()> {
    let word = WORD.get_or_init(Arc::default);
    for (signal, exit) in [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)] {
        let code = usize::from(exit.code());
        signal_hook::flag::register_usize(signal, Arc::clone(word), code)
            .context("a signal handler")?;
    }
    Ok(())
}

/// How to end, if a signal came.
pub(crate) fn exit() -> Option<Exit> {
    let code = WORD.get()?.load(Ordering::Relaxed);
    u8::try_from(code).ok().and_then(|code| Exit::try_from(code).ok()).filter(|e| *e != Exit::Ok)
}
