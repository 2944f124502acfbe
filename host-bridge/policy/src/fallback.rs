//! The storage that takes over when a partition's device is at fault: once, and never back.
//!
//! A program says what it is ([`Fallback::to`]), gives a clone to its supervisor
//! (`SupervisionOptions::fallback`), and asks its clone in its starter which storage the next
//! incarnation gets. An end that blames the device
//! ([`blames_device`](crate::policy::Ending::blames_device)) is then answered with a start whatever
//! the restart policy says, at once, and counts towards no limit: the device is another one.
//!
//! ```text
//!  none ── to() ──► ready ── the device is at fault: take() ──► taken
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// What is going on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is none.
    #[default]
    None,
    /// It waits.
    Ready { from: String, to: String },
    /// It is in use.
    Taken { from: String, to: String },
}

/// The way from a device to the storage that replaces it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Fallback(Arc<Mutex<State>>);

impl Fallback {
    /// From the device `from` to the storage `to`, both as a user names them.
    #[must_use]
    pub fn to(from: impl Into<String>, to: impl Into<String>) -> Self {
        let (from, to) = (from.into(), to.into());
        Self(Arc::new(Mutex::new(State::Ready { from, to })))
    }

    fn with<R>(&self, what: impl FnOnce(&mut State) -> R) -> R {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it waits.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.with(|state| matches!(state, State::Ready { .. }))
    }

    /// Whether it is in use.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.with(|state| matches!(state, State::Taken { .. }))
    }

    /// Takes it: from here on it is in use. Whether it was ready.
    pub fn take(&self) -> bool {
        self.with(|state| match std::mem::take(state) {
            State::Ready { from, to } => {
                *state = State::Taken { from, to };
                true
            }
            other => {
                *state = other;
                false
            }
        })
    }

    /// What its storage turned out to be, where that is known only when it is taken.
    pub fn is_called(&self, storage: &str) {
        self.with(|state| {
            if let State::Ready { to, .. } | State::Taken { to, .. } = state {
                storage.clone_into(to);
            }
        });
    }
}

/// `uring:/var/tmp/day.img instead of vfio-user:/tmp/nvme.sock`.
impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with(|state| match state {
            State::None => f.write_str("no other storage"),
            State::Ready { from, to } | State::Taken { from, to } => {
                write!(f, "{to} instead of {from}")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_once_and_every_clone_knows() {
        let fallback = Fallback::to("model:a", "uring:a");
        let clone = fallback.clone();
        assert!(clone.is_ready() && !clone.is_taken());
        assert!(fallback.take());
        assert!(!fallback.take(), "never again");
        assert!(!clone.is_ready() && clone.is_taken());
        clone.is_called("uring-cmd:/dev/ng0n1");
        assert_eq!(fallback.to_string(), "uring-cmd:/dev/ng0n1 instead of model:a");
    }

    #[test]
    fn where_there_is_none_nothing_is_taken() {
        let none = Fallback::default();
        assert!(!none.is_ready() && !none.take() && !none.is_taken());
        assert_eq!(none.to_string(), "no other storage");
    }
}
