//! Those who wait for room in a queue, first come first served.
//!
//! One line for all I/O queues ([`crate::hub`]), one for the admin queue; [`crate::requests`] wakes
//! from its queue's. Fixed capacity: who finds it full is woken at once and asks again,
//! which costs polls but loses nobody. A waiter that is dropped leaves an empty place.

use core::cell::Cell;
use core::task::Waker;

use core_runtime::mem::{Bump, OutOfMemory};
use core_runtime::task::WakeSlot;

/// Places; a power of two. One a task for as many tasks as a scheduler has by default: who finds
/// the line full is polled in every pass, which starves tasks of lower classes, and one of them may
/// hold the very request that everybody waits for.
const PLACES: usize = 512;

/// A place in the line; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticket(u32);

impl Ticket {
    /// No place.
    pub(crate) const NONE: Self = Self(0);
}

/// The line.
#[derive(Debug)]
pub(crate) struct Waiters {
    places: &'static [WakeSlot],
    /// Ticket that is served next, and the one that is given next; both run freely from 1.
    head: Cell<u32>,
    tail: Cell<u32>,
}

impl Waiters {
    pub(crate) fn new(bump: &Bump) -> Result<Self, OutOfMemory> {
        Ok(Self {
            places: bump.slice_with(PLACES, |_| WakeSlot::new())?,
            head: Cell::new(1),
            tail: Cell::new(1),
        })
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.head.get() == self.tail.get()
    }

    /// Whether the holder of `ticket` is still in the line.
    pub(crate) fn holds(&self, ticket: Ticket) -> bool {
        let waiting = self.tail.get().wrapping_sub(self.head.get());
        ticket.0 != 0 && ticket.0.wrapping_sub(self.head.get()) < waiting
    }

    fn place(&self, ticket: u32) -> Option<&WakeSlot> {
        self.places.get(ticket as usize % PLACES)
    }

    /// Joins the line, or stays in it with another waker.
    pub(crate) fn wait(&self, ticket: Ticket, waker: &Waker) -> Ticket {
        let ticket = if self.holds(ticket) {
            ticket
        } else {
            let next = self.tail.get();
            if next.wrapping_sub(self.head.get()) as usize >= PLACES {
                waker.wake_by_ref();
                return Ticket::NONE;
            }
            // 0 is no ticket: leave its place empty and take the next.
            self.tail.set(next.wrapping_add(1));
            if next == 0 {
                return self.wait(Ticket::NONE, waker);
            }
            Ticket(next)
        };
        if let Some(place) = self.place(ticket.0) {
            place.register(waker);
        }
        ticket
    }

    /// Leaves the line.
    pub(crate) fn leave(&self, ticket: Ticket) {
        if self.holds(ticket)
            && let Some(place) = self.place(ticket.0)
        {
            place.clear();
        }
    }

    /// Wakes up to `n` of those who wait longest.
    pub(crate) fn wake(&self, n: u16) {
        let mut left = n;
        while left != 0 && !self.is_empty() {
            let head = self.head.get();
            self.head.set(head.wrapping_add(1));
            if self.place(head).is_some_and(WakeSlot::wake) {
                left -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    struct Counter(AtomicU32);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter() -> (Arc<Counter>, Waker) {
        let counter = Arc::new(Counter(AtomicU32::new(0)));
        (counter.clone(), Waker::from(counter))
    }

    fn line(start: u32) -> Waiters {
        let line = Waiters::new(&Bump::leak(64 << 10)).expect("room");
        line.head.set(start);
        line.tail.set(start);
        line
    }

    #[test]
    fn the_first_who_came_is_served_first_even_where_tickets_wrap() {
        for start in [1, u32::MAX - 1] {
            let line = line(start);
            let all: std::vec::Vec<_> = (0..5).map(|_| counter()).collect();
            for (_, waker) in &all {
                line.wait(Ticket::NONE, waker);
            }
            line.wake(2);
            let woken: std::vec::Vec<_> =
                all.iter().map(|(c, _)| c.0.load(Ordering::Relaxed)).collect();
            assert_eq!(woken, [1, 1, 0, 0, 0]);
            line.wake(9);
            assert!(line.is_empty());
            assert!(all.iter().all(|(c, _)| c.0.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn who_leaves_does_not_use_up_a_wake() {
        let line = line(1);
        let (a, wake_a) = counter();
        let (b, wake_b) = counter();
        let ticket = line.wait(Ticket::NONE, &wake_a);
        line.wait(Ticket::NONE, &wake_b);
        line.leave(ticket);
        line.wake(1);
        assert_eq!(a.0.load(Ordering::Relaxed), 0);
        assert_eq!(b.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn asking_again_keeps_the_place() {
        let line = line(1);
        let (_, waker) = counter();
        let first = line.wait(Ticket::NONE, &waker);
        assert_eq!(line.wait(first, &waker), first);
        line.wake(1);
        assert_ne!(line.wait(first, &waker), first, "a served ticket is not valid");
    }

    #[test]
    fn a_full_line_wakes_at_once() {
        let line = line(1);
        let (first, waker) = counter();
        for _ in 0..PLACES {
            line.wait(Ticket::NONE, &waker);
        }
        assert_eq!(first.0.load(Ordering::Relaxed), 0);
        assert_eq!(line.wait(Ticket::NONE, &waker), Ticket::NONE);
        assert_eq!(first.0.load(Ordering::Relaxed), 1);
    }
}
