//! The host's hold on a running partition.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use core_runtime::clock::Clock;
use core_runtime::mem::DmaRegion;
use core_runtime::metrics::MetricsReader;
use core_runtime::partition::state::{StateReader, StateSnapshot, StopSwitch};
use core_runtime::partition::{PartitionState, StopReason, TaskNames};
use core_runtime::ring::{Closed, PushError, RecordConsumer, RecordProducer, RingStats};
use hybrid_abi::{Record, RecordHeader};
use hybrid_shm::ReadSpan;

use super::body::{Body, End};
use super::cores::TakenCore;
use super::mesh::MeshPlace;
use super::pump::{EventPump, EventQueue};
use super::report::PartitionReport;
use crate::alert::AlertTap;
use crate::backend::DeviceKeeper;
use crate::memory::SharedMemory;
use crate::probes::{Keeper, ProbeSwitch};
use crate::process::PartitionProcess;
use crate::sys::partition_memory::{KeepsNothing, MemoryFacts, PartitionMemory};
use crate::telemetry::Entered;

/// Longest payload that [`PartitionHandle::poll_events`] hands out: the longest of `hybrid_abi`'s
/// event records is 248 bytes; applications have room for a page of their own and its header.
const EVENT_BUFFER: usize = 8192;

/// Events taken before their room is given back: a few tens of KiB, so that a partition which
/// writes while the host reads has room again early, and its line is touched rarely.
const EVENT_BATCH: u32 = 256;

/// How often a waiting host looks: far below what a person notices, and cheap.
const LOOK: Duration = Duration::from_millis(1);

/// What a partition gets beyond its own grace time when its handle is dropped: its entry's last
/// steps, on a machine that is busy.
const DROP_MARGIN: Duration = Duration::from_secs(5);

/// A running partition. Dropping it stops the partition in order and waits for its grace time and a
/// little more; a process that hangs is then killed, a thread is left alone, with its core and its
/// memory.
pub struct PartitionHandle {
    pub(super) name: String,
    pub(super) core: TakenCore,
    pub(super) clock: Clock,
    pub(super) state: StateReader,
    pub(super) stop: StopSwitch,
    pub(super) events: Option<RecordConsumer>,
    /// Producer's and consumer's part, for figures.
    pub(super) event_parts: (ReadSpan<'static>, ReadSpan<'static>),
    pub(super) alerts: AlertTap,
    /// Among those of which telemetry tells, until it has ended.
    pub(super) entered: Option<Entered>,
    /// Keeps the memory between partitions until this one has ended.
    pub(super) place: Option<MeshPlace>,
    pub(super) pump: Option<EventPump>,
    pub(super) probes: ProbeSwitch,
    pub(super) probe_keeper: Option<Keeper>,
    pub(super) commands: RecordProducer,
    pub(super) metrics: MetricsReader,
    pub(super) region: ReadSpan<'static>,
    pub(super) task_names: Option<TaskNames>,
    pub(super) incarnation: u64,
    pub(super) stop_grace: Duration,
    pub(super) memory_facts: MemoryFacts,
    pub(super) device: Option<String>,
    pub(super) body: Option<Body>,
    pub(super) keeper: Option<Box<dyn DeviceKeeper>>,
    pub(super) memory: Option<PartitionMemory>,
    pub(super) dma: DmaRegion,
    pub(super) promise: Option<KeepsNothing>,
}

impl std::fmt::Debug for PartitionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionHandle")
            .field("name", &self.name)
            .field("cpu", &self.core.cpu())
            .field("state", &self.state.snapshot())
            .finish_non_exhaustive()
    }
}

impl PartitionHandle {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The CPU it runs on.
    #[must_use]
    pub const fn cpu(&self) -> u32 {
        self.core.cpu()
    }

    /// Its DMA memory: bytes, and bytes a page of it.
    #[must_use]
    pub const fn dma_bytes(&self) -> (usize, usize) {
        (self.dma.len(), self.dma.page_bytes)
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> PartitionState {
        self.state.state()
    }

    /// State, heartbeat, times: one look.
    #[must_use]
    pub fn snapshot(&self) -> StateSnapshot {
        self.state.snapshot()
    }

    /// Time since its loop last began a pass; zero unless it is running. More than a few
    /// milliseconds is an alarm: it hangs, or its core was taken away.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        let seen = self.state.snapshot();
        if seen.state != PartitionState::Running {
            return Duration::ZERO;
        }
        let last = seen.heartbeat_at.max(seen.running_at);
        Duration::from_nanos(self.clock.ticks_to_ns(self.clock.now().since(last)))
    }

    /// Asks for an orderly end. The first reason stays.
    pub fn request_stop(&self, reason: StopReason) {
        self.stop.ask(reason);
    }

    /// Whether its thread or process has ended; [`PartitionHandle::join`] will not wait then.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_finished)
    }

    /// Its process, if it is one: to wait for, to ask for a dump, to kill.
    #[must_use]
    pub const fn process(&self) -> Option<&PartitionProcess> {
        match &self.body {
            Some(Body::Process { process, .. }) => Some(process),
            _ => None,
        }
    }

    /// Its region: state, metrics, events, crash record. To be looked at until the handle is
    /// joined or dropped; a process's reads as zeros from then on.
    #[must_use]
    pub const fn region(&self) -> ReadSpan<'static> {
        self.region
    }

    /// Its DMA memory, until the handle is joined or dropped.
    #[must_use]
    pub fn dma_memory(&self) -> Option<&SharedMemory> {
        self.memory.as_ref().map(PartitionMemory::dma)
    }

    /// Its metrics, readable at any time.
    #[must_use]
    pub const fn metrics(&self) -> &MetricsReader {
        &self.metrics
    }

    /// Switches its probes.
    #[must_use]
    pub const fn probes(&self) -> &ProbeSwitch {
        &self.probes
    }

    /// Depth, high water and drops of the event ring; `None` if the partition has spoilt it.
    #[must_use]
    pub fn event_ring(&self) -> Option<RingStats> {
        RingStats::read(self.event_parts.0, self.event_parts.1).ok()
    }

    /// What memory it got, in which pages.
    #[must_use]
    pub const fn memory(&self) -> MemoryFacts {
        self.memory_facts
    }

    /// What its device is, if it has one.
    #[must_use]
    pub fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Takes at most `most` events; returns how many there were. Nothing comes here once
    /// [`PartitionHandle::pump_events`] was called.
    ///
    /// # Errors
    /// [`Closed`] when the partition broke the ring's rules.
    pub fn poll_events(
        &mut self,
        most: u32,
        mut each: impl FnMut(RecordHeader, &[u8]),
    ) -> Result<u32, Closed> {
        let alerts = &self.alerts;
        let with_alerts = |header: RecordHeader, payload: &[u8]| {
            alerts.look(header, payload);
            each(header, payload);
        };
        match &self.events {
            Some(ring) => drain(ring, most, with_alerts),
            None => Ok(0),
        }
    }

    /// Lets a thread empty the event ring into a queue of `capacity` events of 256 bytes, from
    /// which any thread may take them. `None` the second time.
    ///
    /// # Errors
    /// If the thread cannot be started; the events stay in the ring, which nobody reads then.
    pub fn pump_events(&mut self, capacity: usize) -> std::io::Result<Option<EventQueue>> {
        let Some(ring) = self.events.take() else { return Ok(None) };
        let (pump, queue) = EventPump::start(ring, capacity, self.alerts.clone())?;
        self.pump = Some(pump);
        Ok(Some(queue))
    }

    /// Sends a command: `tag` is repeated in its answer.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn command(&mut self, kind: u16, tag: u32, payload: &[u8]) -> Result<(), PushError> {
        self.commands.write(kind, tag, payload)
    }

    /// Sends a command of a fixed size, with tag 0.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn send<R: Record>(&mut self, command: &R) -> Result<(), PushError> {
        self.commands.send(command)
    }

    /// Waits until the partition has ended. Every `interval`, and once more after the end,
    /// `progress` is called: it takes the events, shows how far things are, asks to stop when a
    /// signal came ([`crate::sys::signals::StopSignals`]). `Break` ends the waiting early.
    pub fn wait(
        &mut self,
        interval: Duration,
        mut progress: impl FnMut(&mut Self) -> ControlFlow<()>,
    ) {
        loop {
            let finished = self.is_finished();
            if progress(self).is_break() || finished {
                return;
            }
            if let Some(body) = &self.body {
                body.rest(interval);
            }
        }
    }

    /// Waits for the partition's end, stops its device, gives its memory back, and tells how it
    /// went. It does not ask for the end: [`PartitionHandle::request_stop`] does.
    #[must_use]
    pub fn join(mut self) -> PartitionReport {
        self.end()
    }

    /// As [`PartitionHandle::join`], for `limit` at most. A process that hangs can be killed
    /// ([`PartitionHandle::process`]); a thread cannot be ended from outside, and what is left for
    /// the host then is to say so, and to end.
    ///
    /// # Errors
    /// The handle, if the partition has not ended in time.
    pub fn join_within(mut self, limit: Duration) -> Result<PartitionReport, Box<Self>> {
        if self.ends_within(limit) { Ok(self.end()) } else { Err(Box::new(self)) }
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let begun = Instant::now();
        while !self.is_finished() {
            if begun.elapsed() >= limit {
                return false;
            }
            if let Some(body) = &self.body {
                body.rest(LOOK);
            }
        }
        true
    }

    /// The thread hangs: everything that it may look at stays as it is until the process ends.
    fn abandon(&mut self) {
        self.core.keep();
        std::mem::forget(self.keeper.take());
        std::mem::forget(self.pump.take());
        std::mem::forget(self.probe_keeper.take());
        std::mem::forget(self.memory.take());
        self.keep_mesh();
        std::mem::forget(self.body.take());
    }

    /// Somebody may look at the memory between partitions for ever.
    fn keep_mesh(&self) {
        if let Some(place) = &self.place {
            place.memory.keep();
        }
    }

    /// Everything that comes after the partition's end, once.
    fn end(&mut self) -> PartitionReport {
        let ended = self.body.take().map(|body| body.join(&self.state));
        drop(self.entered.take());
        if let Some(pump) = self.pump.take() {
            pump.finish();
        }
        if let Some(keeper) = self.probe_keeper.take() {
            keeper.finish();
        }
        let (device, device_memory) = match self.keeper.take().map(DeviceKeeper::stop) {
            Some(detached) => (Some(detached.report), detached.memory),
            None => (None, Vec::new()),
        };
        let seen = self.state.snapshot();
        let End { exit, death, allocations, syscalls, usage } = ended.unwrap_or_else(End::lost);
        let report = PartitionReport {
            name: std::mem::take(&mut self.name),
            cpu: self.core.cpu(),
            exit,
            death,
            passes: seen.heartbeat,
            ran: self.ran(&seen),
            allocations,
            syscalls,
            usage,
            device,
        };
        self.give_memory_back(device_memory);
        report
    }

    fn ran(&self, seen: &StateSnapshot) -> Duration {
        let ticks = seen.stopping_at.since(seen.running_at);
        Duration::from_nanos(self.clock.ticks_to_ns(ticks))
    }

    /// The partition was joined, the device's keeper was stopped.
    fn give_memory_back(&mut self, of_device: Vec<SharedMemory>) {
        let Some(memory) = self.memory.take() else { return };
        if self.promise.is_none() {
            self.keep_mesh();
        }
        memory.end(self.promise, Some(&self.dma), of_device);
    }
}

/// Takes at most `most` records, in batches whose room the writer has back at once.
fn drain(
    ring: &RecordConsumer,
    most: u32,
    mut each: impl FnMut(RecordHeader, &[u8]),
) -> Result<u32, Closed> {
    let mut buffer = [0; EVENT_BUFFER];
    let mut taken = 0;
    while taken < most {
        let batch = EVENT_BATCH.min(most - taken);
        match ring.drain(batch, &mut buffer, &mut each) {
            Ok(count) => {
                taken += count;
                if count < batch {
                    break;
                }
            }
            // What was taken before counts; the next call says it again.
            Err(closed) if taken == 0 => return Err(closed),
            Err(_) => break,
        }
    }
    Ok(taken)
}

impl Drop for PartitionHandle {
    fn drop(&mut self) {
        if self.body.is_none() {
            return;
        }
        self.request_stop(StopReason::HostFailed);
        let ends = self.ends_within(self.stop_grace.saturating_add(DROP_MARGIN));
        if ends || self.process().is_some_and(|process| process.kill().is_ok()) {
            let _: PartitionReport = self.end();
        } else {
            self.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core_runtime::ring::{RingSpec, record_pair};
    use hybrid_shm::leak_zeroed;

    #[test]
    fn a_writer_has_room_again_before_the_host_has_read_all() {
        let spec = RingSpec::variable(1 << 16).expect("a power of two");
        let (ours, theirs) =
            (leak_zeroed(spec.producer_bytes()), leak_zeroed(spec.consumer_bytes()));
        let (producer, consumer) = record_pair(ours, theirs, spec).expect("a ring");
        let mut written = 0;
        while producer.write(7, written, &[0; 16]).is_ok() {
            written += 1;
        }
        assert!(written > 2 * EVENT_BATCH, "{written} fill it");
        let (mut seen, mut room_after) = (0, None);
        let each = |header: RecordHeader, _: &[u8]| {
            assert_eq!(header.tag, seen);
            seen += 1;
            if room_after.is_none() && producer.write(8, written, &[0; 16]).is_ok() {
                room_after = Some(seen);
            }
        };
        assert_eq!(drain(&consumer, written, each), Ok(written));
        assert_eq!(room_after, Some(EVENT_BATCH + 1));
    }
}
