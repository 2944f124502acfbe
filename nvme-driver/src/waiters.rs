//! Those who wait for room in a queue, first come first served.
//!
//! One line for all I/O queues ([`crate::hub`]), one for the admin queue; [`crate::requests`] wakes
//! from its queue's. It has a number of places that was chosen at the start: who finds it full is
//! refused by name and not woken again and again, which would starve tasks of lower classes, and
//! one of them may hold the very request that everybody waits for. A waiter that is dropped leaves
//! an empty place.

use core::cell::Cell;
use core::task::Waker;

use core_runtime::mem::{Bump, OutOfMemory};
use core_runtime::task::WakeSlot;

use crate::error::IoError;

/// Most places of a line.
pub(crate) const MAX_PLACES: u16 = 1 << 15;

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
    /// A line with this many places; as tickets run freely, rounded up to a power of two.
    pub(crate) fn new(places: u16, bump: &Bump) -> Result<Self, OutOfMemory> {
        let places = usize::from(places.clamp(1, MAX_PLACES)).next_power_of_two();
        Ok(Self {
            places: bump.slice_with(places, |_| WakeSlot::new())?,
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
        self.places.get(ticket as usize & (self.places.len() - 1))
    }

    /// Joins the line, or stays in it with another waker.
    ///
    /// # Errors
    /// [`IoError::TooManyWaiters`] if there is no place left.
    pub(crate) fn wait(&self, ticket: Ticket, waker: &Waker) -> Result<Ticket, IoError> {
        let ticket = if self.holds(ticket) {
            ticket
        } else {
            self.close_gaps();
            let next = self.tail.get();
            if next.wrapping_sub(self.head.get()) as usize >= self.places.len() {
                return Err(IoError::TooManyWaiters { places: self.places.len() });
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
        Ok(ticket)
    }

    /// Those at the head who left need their places no more.
    fn close_gaps(&self) {
        while !self.is_empty()
            && let head = self.head.get()
            && !self.place(head).is_some_and(WakeSlot::is_registered)
        {
            self.head.set(head.wrapping_add(1));
        }
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

    const PLACES: u16 = 8;

    fn counter() -> (Arc<Counter>, Waker) {
        let counter = Arc::new(Counter(AtomicU32::new(0)));
        (counter.clone(), Waker::from(counter))
    }

    fn line(start: u32) -> Waiters {
        let line = Waiters::new(PLACES, &Bump::leak(64 << 10)).expect("room");
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
                line.wait(Ticket::NONE, waker).expect("a place");
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
        let ticket = line.wait(Ticket::NONE, &wake_a).expect("a place");
        line.wait(Ticket::NONE, &wake_b).expect("a place");
        line.leave(ticket);
        line.wake(1);
        assert_eq!(a.0.load(Ordering::Relaxed), 0);
        assert_eq!(b.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn asking_again_keeps_the_place() {
        let line = line(1);
        let (_, waker) = counter();
        let first = line.wait(Ticket::NONE, &waker).expect("a place");
        assert_eq!(line.wait(first, &waker), Ok(first));
        line.wake(1);
        assert_ne!(line.wait(first, &waker), Ok(first), "a served ticket is not valid");
    }

    #[test]
    fn a_full_line_refuses_by_name_and_wakes_nobody() {
        // Tickets wrap in the middle of it.
        for start in [1, u32::MAX - 3] {
            let line = line(start);
            let (counter, waker) = counter();
            let join = || line.wait(Ticket::NONE, &waker);
            let tickets: std::vec::Vec<_> = (1..PLACES).map(|_| join().expect("a place")).collect();
            // The place of ticket 0 is left empty where tickets wrap.
            let last = join().is_ok();
            assert_eq!(last, start == 1);
            let full = Err(IoError::TooManyWaiters { places: PLACES.into() });
            assert_eq!(join(), full);
            assert_eq!(line.wait(tickets[0], &waker), Ok(tickets[0]), "who is in it stays");
            assert_eq!(counter.0.load(Ordering::Relaxed), 0);
            line.wake(1);
            assert!(join().is_ok(), "who was served makes room");
            assert_eq!(join(), full);
        }
    }

    #[test]
    fn who_leaves_from_the_head_makes_room() {
        let line = line(1);
        let (counter, waker) = counter();
        let join = || line.wait(Ticket::NONE, &waker);
        let tickets: std::vec::Vec<_> = (0..PLACES).map(|_| join().expect("a place")).collect();
        line.leave(tickets[1]);
        assert!(join().is_err(), "a gap in the middle is closed when its turn comes");
        line.leave(tickets[0]);
        assert!(join().is_ok() && join().is_ok());
        assert!(join().is_err());
        assert_eq!(counter.0.load(Ordering::Relaxed), 0);
    }
}
