//! Ending a thread that waits for a descriptor: an eventfd beside it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::sys::signals::with_signals_blocked;

/// Heard by the threads that are to end. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Stopper(Arc<OwnedFd>);

/// What a wait ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// There is something to read.
    Ready,
    /// The time is over.
    Late,
    /// The thread is to end.
    Stop,
}

impl Stopper {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    /// Ends them all, now and for ever.
    pub(super) fn stop(&self) {
        // Full is as good as set.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    /// Waits for something to read, for the end, or for so long at most.
    pub(super) fn wait(&self, on: Option<&dyn AsFd>, at_most: Option<Duration>) -> Woken {
        let mut fds = vec![PollFd::new(&*self.0, PollFlags::IN)];
        if let Some(on) = on {
            fds.push(PollFd::from_borrowed_fd(on.as_fd(), PollFlags::IN));
        }
        let time = at_most.and_then(|time| Timespec::try_from(time).ok());
        let polled = poll(&mut fds, time.as_ref());
        let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
        match polled {
            Ok(0) => Woken::Late,
            Ok(_) if ready(fds.first()) => Woken::Stop,
            Ok(_) => Woken::Ready,
            Err(rustix::io::Errno::INTR) => Woken::Late,
            Err(_) => Woken::Stop,
        }
    }
}

/// A thread that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Service {
    stopper: Stopper,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts `run` under a name; it is to return soon once its stopper says so. Signals are for
    /// other threads.
    pub(super) fn start(
        name: &str,
        run: impl FnOnce(Stopper) + Send + 'static,
    ) -> io::Result<Self> {
        let stopper = Stopper::new()?;
        let its = stopper.clone();
        let builder = std::thread::Builder::new().name(name.to_owned());
        let thread = with_signals_blocked(|| builder.spawn(move || run(its)))?;
        Ok(Self { stopper, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            // A panic was told by its own thread.
            let _ = thread.join();
        }
    }
}
