//! Panics of cases: kept as text with their place, not printed. And what cases left out.

use std::any::Any;
use std::cell::RefCell;
use std::panic;
use std::sync::Once;

thread_local! {
    /// `None` while no case runs on this thread.
    static SEEN: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

thread_local! {
    /// What the case that runs on this thread did not try, a line each.
    static LEFT_OUT: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
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
    LEFT_OUT.take();
    let result = f();
    let first = SEEN.take().and_then(|seen| seen.into_iter().next());
    (result, first)
}

/// A part of the case that has nothing to try here.
pub(super) fn leave_out(line: String) {
    LEFT_OUT.with_borrow_mut(|lines| lines.push(line));
}

/// What the case left out.
pub(super) fn left_out() -> Vec<String> {
    LEFT_OUT.take()
}

/// What a panic says.
pub(super) fn text(payload: &(dyn Any + Send)) -> String {
    let literal = payload.downcast_ref::<&str>().map(ToString::to_string);
    let formatted = || payload.downcast_ref::<String>().cloned();
    literal.or_else(formatted).unwrap_or_else(|| "a value that is no text".to_owned())
}
