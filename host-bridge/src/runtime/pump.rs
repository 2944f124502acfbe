//! A host thread that empties a partition's event ring into a queue on the heap.
//!
//! For programs whose main thread is sometimes slow (it writes files, draws a screen): the ring in
//! shared memory is small and drops when it is full, the queue here is as large as the program
//! likes. Records arrive in order. A full queue is not a loss by itself: the pump waits, the ring
//! fills, and then the partition counts what it had to drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use core_runtime::ring::{PopError, RecordConsumer};
use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;

use crate::alert::AlertTap;
use crate::sys::signals::with_signals_blocked;

/// Largest payload that an [`Event`] holds: a line of text (`hybrid_abi::event::Text`) is the
/// longest record, and with its header an event is then 256 bytes.
pub const EVENT_BYTES: usize = 248;

/// How long the pump sleeps when the ring is empty: 200 us is far below what fills a ring of
/// megabytes, and costs the housekeeping core a few percent at most.
const IDLE: Duration = Duration::from_micros(200);

/// Each time that the ring is empty again it sleeps twice as long, up to this: each end of a sleep
/// takes some 20 us from a model or a target that polls on the same CPU, and with it from every
/// command in flight. What the fastest partition writes meanwhile (a feed's 180 MB/s) is half a
/// megabyte.
const LONGEST_IDLE: Duration = Duration::from_micros(3200);

/// A record on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the payload is, see `hybrid_abi::event`.
    pub kind: u16,
    /// Bytes of the payload.
    len: u16,
    /// The writer's tag.
    pub tag: u32,
    bytes: [u8; EVENT_BYTES],
}

const _: () = assert!(size_of::<Event>() == 256);

impl Event {
    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }
}

/// The counters, each on a line of its own: one writer, read at any time.
#[derive(Debug, Default)]
struct Counters {
    pumped: CachePadded<AtomicU64>,
    skipped: CachePadded<AtomicU64>,
    high_water: CachePadded<AtomicU64>,
    stop: CachePadded<AtomicBool>,
}

/// The receiving end. Clones share the queue.
#[derive(Clone, Debug)]
pub struct EventQueue {
    queue: Arc<ArrayQueue<Event>>,
    counters: Arc<Counters>,
}

impl EventQueue {
    /// The oldest event that nobody has taken.
    #[must_use]
    pub fn pop(&self) -> Option<Event> {
        self.queue.pop()
    }

    /// Events waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none is waiting now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Most events that waited at once.
    #[must_use]
    pub fn high_water(&self) -> u64 {
        self.counters.high_water.load(Ordering::Relaxed)
    }

    /// Events that went through.
    #[must_use]
    pub fn pumped(&self) -> u64 {
        self.counters.pumped.load(Ordering::Relaxed)
    }

    /// Records that were longer than [`EVENT_BYTES`]: of a kind that this version does not know.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.counters.skipped.load(Ordering::Relaxed)
    }
}

/// The pump's thread.
#[derive(Debug)]
pub(super) struct EventPump {
    thread: Option<JoinHandle<RecordConsumer>>,
    counters: Arc<Counters>,
    abandon: Arc<AtomicBool>,
}

impl EventPump {
    /// Moves records from `ring` to a queue of `capacity` events.
    pub(super) fn start(
        ring: RecordConsumer,
        capacity: usize,
        alerts: AlertTap,
    ) -> std::io::Result<(Self, EventQueue)> {
        let queue = Arc::new(ArrayQueue::new(capacity.max(1)));
        let counters = Arc::new(Counters::default());
        let abandon = Arc::new(AtomicBool::new(false));
        let end = EventQueue { queue, counters: Arc::clone(&counters) };
        let (theirs, give_up) = (end.clone(), Arc::clone(&abandon));
        let builder = std::thread::Builder::new().name("event-pump".into());
        let thread =
            with_signals_blocked(|| builder.spawn(move || pump(ring, &theirs, &give_up, &alerts)))?;
        Ok((Self { thread: Some(thread), counters, abandon }, end))
    }

    /// Lets the pump end when it has found the ring empty once more: call it when the partition has
    /// ended. If nobody takes from a full queue for a second, the rest is left in the ring.
    pub(super) fn finish(mut self) {
        self.counters.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let patience = std::time::Instant::now() + Duration::from_secs(1);
            while !thread.is_finished() && std::time::Instant::now() < patience {
                std::thread::sleep(IDLE);
            }
            self.abandon.store(true, Ordering::Release);
            let _ = thread.join();
        }
    }
}

fn pump(
    ring: RecordConsumer,
    end: &EventQueue,
    abandon: &AtomicBool,
    alerts: &AlertTap,
) -> RecordConsumer {
    let counters = &end.counters;
    let mut idle = IDLE;
    loop {
        // Looked at before the ring: what was written before the stop is read after it.
        let stopping = counters.stop.load(Ordering::Acquire);
        let mut event = Event { kind: 0, len: 0, tag: 0, bytes: [0; EVENT_BYTES] };
        match ring.read(&mut event.bytes) {
            Ok(header) => {
                event.kind = header.kind;
                event.len = header.len;
                event.tag = header.tag;
                alerts.look(header, event.payload());
                if !push(end, event, abandon) {
                    return ring;
                }
                idle = IDLE;
            }
            Err(PopError::TooLong { .. }) => add(&counters.skipped),
            Err(PopError::Empty) if !stopping => {
                std::thread::sleep(idle);
                idle = (idle * 2).min(LONGEST_IDLE);
            }
            Err(_) => return ring,
        }
    }
}

/// Waits for room; false when the host has given up.
fn push(end: &EventQueue, mut event: Event, abandon: &AtomicBool) -> bool {
    while let Err(back) = end.queue.push(event) {
        if abandon.load(Ordering::Acquire) {
            return false;
        }
        event = back;
        std::thread::sleep(IDLE);
    }
    add(&end.counters.pumped);
    let depth = end.queue.len() as u64;
    if depth > end.counters.high_water.load(Ordering::Relaxed) {
        end.counters.high_water.store(depth, Ordering::Relaxed);
    }
    true
}

/// One writer: a plain load and store.
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::AlertSink;
    use core_runtime::ring::{RingSpec, record_pair};
    use hybrid_shm::leak_zeroed;

    fn nobody() -> AlertTap {
        let sink = AlertSink::new(|_| unreachable!("there is no alert"));
        AlertTap { partition: String::new(), cpu: 0, sink }
    }

    #[test]
    fn records_arrive_in_order_through_a_queue_smaller_than_their_number() {
        let spec = RingSpec::variable(1 << 16).expect("a power of two");
        let (ours, theirs) =
            (leak_zeroed(spec.producer_bytes()), leak_zeroed(spec.consumer_bytes()));
        let (producer, consumer) = record_pair(ours, theirs, spec).expect("a ring");
        for number in 0..1000_u32 {
            producer.write(7, number, &number.to_le_bytes()).expect("room");
        }
        producer.write(8, 0, &[0; EVENT_BYTES + 1]).expect("room");
        let (pump, queue) = EventPump::start(consumer, 16, nobody()).expect("a thread");
        let mut seen = 0_u32;
        while seen < 1000 {
            let Some(event) = queue.pop() else {
                std::thread::yield_now();
                continue;
            };
            assert_eq!((event.kind, event.tag), (7, seen));
            assert_eq!(event.payload(), seen.to_le_bytes());
            seen += 1;
        }
        pump.finish();
        assert_eq!((queue.pumped(), queue.skipped()), (1000, 1));
        assert!(queue.high_water() <= 16 && queue.is_empty());
    }

    #[test]
    fn a_queue_that_nobody_empties_does_not_keep_the_pump_for_ever() {
        let spec = RingSpec::variable(1 << 12).expect("a power of two");
        let (ours, theirs) =
            (leak_zeroed(spec.producer_bytes()), leak_zeroed(spec.consumer_bytes()));
        let (producer, consumer) = record_pair(ours, theirs, spec).expect("a ring");
        for _ in 0..10 {
            producer.write(7, 0, &[]).expect("room");
        }
        let (pump, queue) = EventPump::start(consumer, 2, nobody()).expect("a thread");
        pump.finish();
        assert_eq!(queue.len(), 2);
    }
}
