//! Commands that were fetched and have not completed.
//!
//! Used only where commands do not complete in the step that fetched them: with latency, random
//! order or faults. A heap by due time, then the ones that are due, then the ones that never will
//! be. Nothing is allocated once the deepest load was seen.

use crate::checker::Claim;
use crate::fault::FaultAction;
use nvme_spec::{Cid, Cqe, QueueId, Sqe};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A command on its way.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) sqid: QueueId,
    pub(crate) sqe: Sqe,
    pub(crate) action: Option<FaultAction>,
    /// The memory that it names, if the model is paranoid.
    pub(crate) claim: Option<Box<Claim>>,
}

/// A completion whose dwords become visible one a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Torn {
    pub(crate) cqid: QueueId,
    pub(crate) index: u32,
    pub(crate) cqe: Cqe,
    pub(crate) order: [u8; 4],
    pub(crate) done: usize,
}

/// Order in the heap: due time, then the order of the fetch.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    due_ns: u64,
    serial: u64,
    slot: usize,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Flights {
    slots: Vec<Option<Flight>>,
    free: Vec<usize>,
    waiting: BinaryHeap<Reverse<Key>>,
    /// Due, in order.
    ready: Vec<usize>,
    /// Never due.
    hung: Vec<usize>,
    pub(crate) torn: Vec<Torn>,
    serial: u64,
    live: usize,
}

impl Flights {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            waiting: BinaryHeap::new(),
            ready: Vec::new(),
            hung: Vec::new(),
            torn: Vec::new(),
            serial: 0,
            live: 0,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    fn store(&mut self, flight: Flight) -> usize {
        self.live += 1;
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(flight);
                slot
            }
            None => {
                self.slots.push(Some(flight));
                self.slots.len() - 1
            }
        }
    }

    /// Adds a command that completes at `due_ns`.
    pub(crate) fn add(&mut self, flight: Flight, due_ns: u64) {
        let slot = self.store(flight);
        self.serial += 1;
        let serial = self.serial;
        self.waiting.push(Reverse(Key { due_ns, serial, slot }));
    }

    /// Adds a command that never completes.
    pub(crate) fn hang(&mut self, flight: Flight) {
        let slot = self.store(flight);
        self.hung.push(slot);
    }

    /// Moves what is due to the ready list; says how many are ready.
    pub(crate) fn mature(&mut self, now_ns: u64) -> usize {
        while let Some(Reverse(key)) = self.waiting.peek() {
            if key.due_ns > now_ns {
                break;
            }
            let slot = key.slot;
            self.waiting.pop();
            // Gone if it was aborted meanwhile.
            if self.slots[slot].is_some() {
                self.ready.push(slot);
            } else {
                self.free.push(slot);
            }
        }
        self.ready.len()
    }

    /// A ready command, by its place in the list.
    pub(crate) fn ready_at(&self, place: usize) -> Option<&Flight> {
        self.slots[*self.ready.get(place)?].as_ref()
    }

    /// Takes a ready command out, keeping the order of the others.
    pub(crate) fn take_ready(&mut self, place: usize) -> Option<Flight> {
        if place >= self.ready.len() {
            return None;
        }
        let slot = self.ready.remove(place);
        self.free.push(slot);
        self.live -= 1;
        self.slots[slot].take()
    }

    /// Takes a command out by its name, wherever it is.
    pub(crate) fn remove(&mut self, sqid: QueueId, cid: Cid) -> Option<Flight> {
        let names = |flight: &Option<Flight>| {
            flight.as_ref().is_some_and(|f| f.sqid == sqid && f.sqe.cid() == cid)
        };
        let slot = self.slots.iter().position(names)?;
        let flight = self.slots[slot].take();
        self.live -= 1;
        for list in [&mut self.ready, &mut self.hung] {
            if let Some(place) = list.iter().position(|at| *at == slot) {
                list.remove(place);
                self.free.push(slot);
                return flight;
            }
        }
        // It is in the heap: the slot is freed when its time comes.
        flight
    }

    /// Whether a command of this name is here.
    pub(crate) fn contains(&self, sqid: QueueId, cid: Cid) -> bool {
        self.commands().any(|(queue, sqe)| queue == sqid && sqe.cid() == cid)
    }

    /// All commands.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (QueueId, Sqe)> + '_ {
        self.slots.iter().flatten().map(|flight| (flight.sqid, flight.sqe))
    }

    /// Commands whose memory is watched.
    pub(crate) fn claims(&self) -> impl Iterator<Item = (QueueId, Sqe, &Claim)> + '_ {
        let flights = self.slots.iter().flatten();
        flights.filter_map(|f| Some((f.sqid, f.sqe, f.claim.as_deref()?)))
    }

    /// No longer watches the memory of a command.
    pub(crate) fn excuse(&mut self, sqid: QueueId, cid: Cid) {
        for flight in self.slots.iter_mut().flatten() {
            if flight.sqid == sqid && flight.sqe.cid() == cid {
                flight.claim = None;
            }
        }
    }

    /// Takes the commands of one queue out.
    pub(crate) fn drain_queue(&mut self, sqid: QueueId) -> Vec<Flight> {
        let names: Vec<Cid> =
            self.commands().filter(|(queue, _)| *queue == sqid).map(|(_, sqe)| sqe.cid()).collect();
        names.into_iter().filter_map(|cid| self.remove(sqid, cid)).collect()
    }

    /// Forgets everything: a reset.
    pub(crate) fn clear(&mut self) {
        *self = Self::new();
    }

    /// When the next command is due.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        self.waiting.peek().map(|Reverse(key)| key.due_ns)
    }
}
