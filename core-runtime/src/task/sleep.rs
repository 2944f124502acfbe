//! Futures that wait for the clock: [`Sleep`], [`Timeout`], [`Interval`].
//!
//! Made by a [`Spawner`](super::Spawner). They resolve in the first tick whose `now` is not before
//! their deadline: never early. When all timers are in use, a sleep polls instead of being lost;
//! that is counted in `timers_full`. Core-local.

use core::fmt;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::scheduler::Scheduler;
use super::timers::TimerKey;
use crate::clock::{Instant, Ticks};

/// Waits until an instant. Dropping it cancels its timer at once.
///
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::task::Sleep>();
/// ```
#[must_use = "a sleep does nothing unless it is awaited"]
pub struct Sleep {
    scheduler: &'static Scheduler,
    deadline: Instant,
    timer: Option<TimerKey>,
}

impl Sleep {
    pub(super) const fn new(scheduler: &'static Scheduler, deadline: Instant) -> Self {
        Self { scheduler, deadline, timer: None }
    }

    /// When it ends.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Starts anew, with another deadline.
    pub fn reset(&mut self, deadline: Instant) {
        self.cancel();
        self.deadline = deadline;
    }

    fn cancel(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.scheduler.timers.remove(timer);
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let timers = &this.scheduler.timers;
        if this.timer.is_none() {
            if this.scheduler.tick_now() >= this.deadline {
                return Poll::Ready(());
            }
            this.timer = timers.insert(this.deadline);
        }
        match this.timer {
            Some(timer) if timers.has_fired(timer) => {
                this.cancel();
                Poll::Ready(())
            }
            Some(timer) => {
                timers.wake_slot(timer).register(cx.waker());
                Poll::Pending
            }
            None => {
                this.scheduler.note_timers_full();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sleep(until {})", self.deadline.ticks())
    }
}

/// The time was over before the future was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("deadline passed")]
pub struct Elapsed;

pin_project! {
    /// A future with a deadline. The future is polled first; a timer is taken only when it waits.
    #[must_use = "a timeout does nothing unless it is awaited"]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

impl<F> Timeout<F> {
    pub(super) const fn new(future: F, sleep: Sleep) -> Self {
        Self { future, sleep }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(this.sleep).poll(cx).map(|()| Err(Elapsed))
    }
}

/// Ticks at a fixed rate, counted from its start; a beat that was missed is counted, not made up.
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period: Ticks,
    missed: u64,
}

impl Interval {
    pub(super) fn new(scheduler: &'static Scheduler, first: Instant, period: Ticks) -> Self {
        Self {
            sleep: Sleep::new(scheduler, first),
            period: Ticks::new(period.get().max(1)),
            missed: 0,
        }
    }

    /// Waits for the next beat and returns when it was due.
    pub async fn beat(&mut self) -> Instant {
        poll_fn(|cx| Pin::new(&mut self.sleep).poll(cx)).await;
        let due = self.sleep.deadline();
        let late = self.sleep.scheduler.tick_now().since(due).get();
        let skipped = late / self.period.get();
        self.missed = self.missed.saturating_add(skipped);
        let steps = skipped.saturating_add(1).saturating_mul(self.period.get());
        self.sleep.reset(due + Ticks::new(steps));
        due
    }

    /// Beats that passed while nobody waited.
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.missed
    }
}
