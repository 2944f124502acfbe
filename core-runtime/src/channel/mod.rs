//! Channels between tasks of one core, without allocation.
//!
//! - [`Channel`]: bounded, many senders and one receiver, with back-pressure.
//! - [`Oneshot`]: one value, once.
//! - [`Notify`]: an event without a value, for all who wait.
//! - [`Semaphore`]: permits, a window of outstanding work.
//! - [`Signal`]: the latest value; older ones are overwritten.
//!
//! Each lives for ever (`&'static`: in a [`Bump`](crate::mem::Bump), or leaked) and is used again
//! after both its ends are gone. All are core-local, `!Send + !Sync`; between cores and processes
//! there is [`crate::ring`].

mod mpsc;
mod notify;
mod oneshot;
mod semaphore;
mod signal;

pub use mpsc::{Channel, Receiver, SendError, Sender, TryRecvError, TrySendError};
pub use notify::Notify;
pub use oneshot::{Oneshot, OneshotReceiver, OneshotSender, SenderGone};
pub use semaphore::{Permit, Semaphore};
pub use signal::Signal;

/// The ends of a channel are in use already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("channel has been split already, and an end is still there")]
pub struct AlreadySplit;
