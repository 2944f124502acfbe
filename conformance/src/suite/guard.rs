//! Panics of cases: kept as text with their place, not printed.

use std::any::Any;
use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    /// `None` while no case runs on this thread.
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static ONCE: Once = Once::new();

/// From now on a panic inside a case is kept for its verdict; others are printed as before.
pub fn watch_panics() {
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let kept = SEEN.with_borrow_mut(|seen| {
                let Some(seen) = seen else { return false };
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                seen.push(format!("{place}: {}", text(info.payload())));
                true
            });
            if !kept {
                before(info);
            }
        }));
    });
}

/// Runs `f`; the first panic that it made, if panics are watched.
pub(super) fn watched<R>(f: impl FnOnce() -> R) -> (R, Option<String>) {
    SEEN.set(Some(Vec::new()));
    let result = f();
    let first = SEEN.take().and_then(|seen| seen.into_iter().next());
    (result, first)
}

/// What a panic says.
pub(super) fn text(payload: &(dyn Any + Send)) -> String {
    let literal = payload.downcast_ref::<&str>().map(ToString::to_string);
    let formatted = || payload.downcast_ref::<String>().cloned();
    literal.or_else(formatted).unwrap_or_else(|| "a value that is no text".to_owned())
}
