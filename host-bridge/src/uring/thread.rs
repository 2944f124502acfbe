//! The reactor's thread: makes the rings, turns while there is work, blocks when there is none.
//!
//! ```text
//!   spawn ── rings made ── turning ◄──── work ────┐
//!               │             │ nothing for a while│
//!               ▼             ▼                    │
//!            refused       blocked on main ────────┘
//!                             │ stop, or a ring broke: the sources are told first
//!                             ▼
//!            operations cancelled and awaited, then the thread ends
//! ```
//! A partition makes no system call, so that nobody wakes a blocked reactor for its requests: a
//! wait is never longer than [`IdleOptions::longest_wait`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hybrid_conventions::CpuSet;
use rustix::io::Errno;

use super::error::UringError;
use super::reactor::{Desk, Reactor, Source};
use super::rings::{Rings, RingsWish};
use crate::affinity::{confine_to, pin_to};
use crate::sys::alloc_guard::mark_hot_thread;
use crate::sys::signals::with_signals_blocked;

/// A source that can be brought to its end.
pub trait Served: Source {
    /// Takes nothing more and cancels what is in flight.
    fn stop(&mut self, desk: &mut Desk<'_>);

    /// Whether nothing is in flight.
    fn is_idle(&self) -> bool;

    /// A ring broke: what is in flight may never be heard of, and nothing more is served. What
    /// waits for the source has to see it; [`Served::stop`] follows.
    fn broken(&mut self, errno: Errno);
}

/// What a reactor does without work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleOptions {
    /// How long it turns before it blocks.
    pub spin: Duration,
    /// How long it blocks at most.
    pub longest_wait: Duration,
}

impl IdleOptions {
    /// For a reactor that has a CPU to itself: it blocks only when nothing was asked for a tenth of
    /// a second, for a fifth of a millisecond at a time.
    #[must_use]
    pub const fn alone() -> Self {
        Self { spin: Duration::from_millis(100), longest_wait: Duration::from_micros(200) }
    }

    /// For a reactor that shares its CPU with the rest of the host.
    #[must_use]
    pub const fn shared() -> Self {
        Self { spin: Duration::from_micros(20), longest_wait: Duration::from_micros(50) }
    }
}

/// Where and how a reactor runs.
#[derive(Clone, Debug)]
pub struct ThreadOptions {
    /// Its rings.
    pub rings: RingsWish,
    /// The CPU that it is pinned to.
    pub pin: Option<u32>,
    /// The CPUs that it may use otherwise.
    pub housekeeping: CpuSet,
    /// Without work.
    pub idle: IdleOptions,
}

/// What a reactor left behind.
pub struct Finished<S> {
    /// Its source.
    pub source: S,
    /// Calls of `io_uring_enter`.
    pub enters: u64,
    /// Turns.
    pub turns: u64,
    /// Nothing was in flight at the end: nobody writes the memory any more.
    pub drained: bool,
    /// What broke a ring.
    pub broken: Option<Errno>,
}

/// How long operations may take to end when the reactor is stopped.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// Empty turns between two looks at the clock.
const TURNS_A_LOOK: u32 = 64;

/// A reactor on its thread.
pub struct ReactorThread<S> {
    stop: Arc<AtomicBool>,
    join: JoinHandle<Option<Finished<S>>>,
}

impl<S: Served + Send + 'static> ReactorThread<S> {
    /// Starts it; returns when its rings are made. `make` gets them, on the thread, and returns the
    /// source; `started` what the caller wants to know of both.
    ///
    /// # Errors
    /// [`UringError`].
    pub fn spawn<T: Send + 'static>(
        name: &str,
        options: ThreadOptions,
        make: impl FnOnce(&Rings) -> (S, T) + Send + 'static,
    ) -> Result<(Self, T), UringError> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let (tell, told) = sync_channel(1);
        let body = move || {
            mark_hot_thread();
            // Both were checked by the caller; elsewhere it would only be slower.
            let _ = match options.pin {
                Some(cpu) => pin_to(cpu),
                None => confine_to(options.housekeeping),
            };
            let rings = match Rings::new(&options.rings) {
                Ok(rings) => rings,
                Err(error) => {
                    let _ = tell.send(Err(error));
                    return None;
                }
            };
            let (source, started) = make(&rings);
            tell.send(Ok(started)).ok()?;
            Some(run(Reactor::new(rings, vec![source]), options.idle, &seen))
        };
        let builder = std::thread::Builder::new().name(name.to_owned());
        let join = with_signals_blocked(|| builder.spawn(body)).map_err(UringError::Thread)?;
        match told.recv() {
            Ok(Ok(started)) => Ok((Self { stop, join }, started)),
            Ok(Err(error)) => {
                let _ = join.join();
                Err(error)
            }
            Err(_) => Err(UringError::NoWord),
        }
    }

    /// Has it cancel what is in flight, wait for it, and end.
    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.join.is_finished()
    }

    /// Stops it: cancels, waits for what is in flight, and returns what is left; `None` if the
    /// thread panicked.
    pub fn stop(self) -> Option<Finished<S>> {
        self.ask_to_stop();
        self.join.join().ok().flatten()
    }
}

/// Turns until it is stopped or a ring breaks, then until nothing is in flight.
fn run<S: Served>(mut reactor: Reactor<S>, idle: IdleOptions, stop: &AtomicBool) -> Finished<S> {
    let mut since = Instant::now();
    let mut empty = 0_u32;
    while !stop.load(Ordering::Acquire) && reactor.broken().is_none() {
        if reactor.turn() {
            empty = 0;
            continue;
        }
        empty = empty.wrapping_add(1);
        if empty == 1 {
            since = Instant::now();
        } else if empty.is_multiple_of(TURNS_A_LOOK) && since.elapsed() >= idle.spin {
            reactor.wait(idle.longest_wait);
        } else {
            std::hint::spin_loop();
        }
    }
    if let Some(errno) = reactor.broken() {
        reactor.each_source(|source, _| source.broken(errno));
    }
    let drained = drain(&mut reactor);
    let (enters, turns, broken) = (reactor.rings().enters(), reactor.turns(), reactor.broken());
    let source = reactor.into_source();
    Finished { source, enters, turns, drained, broken }
}

/// Cancels what is in flight and waits for it; whether nothing is left.
fn drain<S: Served>(reactor: &mut Reactor<S>) -> bool {
    reactor.each_source(|source, desk| source.stop(desk));
    let begun = Instant::now();
    while !reactor.sources().iter().all(Served::is_idle) {
        if begun.elapsed() >= DRAIN_LIMIT {
            return false;
        }
        if !reactor.turn() {
            reactor.wait(Duration::from_millis(1));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::uring::{Cqe, Op};
    use crate::uring::rings::Which;

    /// Keeps operations in flight and remembers what it was told.
    #[derive(Default)]
    struct Told {
        which: Option<Which>,
        in_flight: u32,
        broken: Option<Errno>,
    }

    impl Source for Told {
        fn turn(&mut self, desk: &mut Desk<'_>) -> bool {
            let Some(which) = self.which.take() else { return false };
            let pushed = desk.push(which, &Op::Nop, 1).is_ok();
            self.in_flight += u32::from(pushed);
            pushed
        }

        fn complete(&mut self, _: Which, _: u64, _: Cqe, _: &mut Desk<'_>) {
            self.in_flight -= 1;
        }
    }

    impl Served for Told {
        fn stop(&mut self, _: &mut Desk<'_>) {}

        fn is_idle(&self) -> bool {
            self.in_flight == 0
        }

        fn broken(&mut self, errno: Errno) {
            self.broken = Some(errno);
        }
    }

    fn reactor(iopoll: bool) -> Reactor<Told> {
        let wish = RingsWish { iopoll, ..RingsWish::default() };
        Reactor::new(Rings::new(&wish).expect("io_uring is there"), vec![Told::default()])
    }

    #[test]
    fn a_ring_that_breaks_is_told_and_ends_the_thread() {
        // Rings of one issuer, used by another: the kernel refuses each call.
        let mut reactor = reactor(false);
        reactor.sources()[0].which = Some(Which::Main);
        let never = AtomicBool::new(false);
        let finished = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                reactor.turn();
                let told = reactor.broken();
                // Nothing of it was taken: what is in flight here is not in the kernel.
                reactor.sources()[0].in_flight = 0;
                (told, run(reactor, IdleOptions::alone(), &never))
            });
            thread.join().expect("it ends by itself")
        });
        let (errno, finished) = finished;
        assert!(errno.is_some(), "this kernel has rings of one issuer");
        assert_eq!((finished.broken, finished.source.broken), (errno, errno));
        assert!(finished.drained);
    }

    #[test]
    fn nobody_blocks_while_the_poll_ring_has_something_in_flight() {
        let mut reactor = reactor(true);
        if reactor.rings().poll.is_none() {
            return;
        }
        // Nothing ends such a wait but its time.
        reactor.sources()[0].which = Some(Which::Poll);
        reactor.each_source(|source, desk| _ = source.turn(desk));
        let begun = Instant::now();
        while !reactor.sources()[0].is_idle() {
            reactor.wait(Duration::from_secs(60));
            reactor.turn();
            assert!(begun.elapsed() < Duration::from_secs(50));
        }
    }
}
