//! SIGINT and SIGTERM as a word that a campaign looks at between two runs, so that it still says
//! what it did. The same one a second time ends the program at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use hybrid_conventions::Exit;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code of the last signal that came; there is none until somebody wants to know.
static WORD: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// From now on the first of these signals ends nothing by itself.
///
/// # Errors
/// The system's.
pub(crate) fn install() -> Result<(), String> {
    let word = WORD.get_or_init(Arc::default);
    for (signal, exit) in [(SIGINT, Exit::Interrupted), (SIGTERM, Exit::Terminated)] {
        let (code, came) = (exit.code(), Arc::new(AtomicBool::new(false)));
        // In this order: what the first one sets, the second one finds.
        flag::register_conditional_shutdown(signal, code.into(), Arc::clone(&came))
            .and_then(|_| flag::register(signal, Arc::clone(&came)))
            .and_then(|_| flag::register_usize(signal, Arc::clone(word), code.into()))
            .map_err(|error| format!("a signal handler: {error}"))?;
    }
    Ok(())
}

/// How to end, if a signal came.
pub(crate) fn exit() -> Option<Exit> {
    let code = WORD.get()?.load(Ordering::Relaxed);
    u8::try_from(code).ok().and_then(|code| Exit::try_from(code).ok()).filter(|e| *e != Exit::Ok)
}

/// Whether this is one of the signals that end a campaign.
pub(crate) fn is_ours(signal: Option<i32>) -> bool {
    matches!(signal, Some(SIGINT | SIGTERM))
}
