//! A partition: one core, its memory, its scheduler, and its words with the host.
//!
//! The host makes [`PartitionParts`] (plain values that may cross threads and, later, an `execve`).
//! The partition's own core turns them into a [`Partition`] by [`PartitionParts::assemble`] and
//! hands it to the entry, which spawns its tasks and owns the loop. Nobody else owns a loop:
//! device, rings and scheduler offer bounded polls, and [`run_until_stopped`] is the order in which
//! they are called.
//!
//! ```text
//!  host                                   partition's core
//!  PartitionParts ----------------------> assemble()            Starting
//!                                         entry: spawn tasks
//!                                         run_until_stopped()   Running
//!  stop word, command ring -------------> seen at a pass's end
//!                                         a task calls finish() Stopping
//!  state part <-------------------------- entry returns         Stopped or Failed
//! ```
//! Between *Running* and *Stopping* nothing here allocates, makes a system call or blocks.
//!
//! It does not make memory, threads or processes, and knows no device: the driver's parts reach the
//! entry beside the partition.
//!
//! Invariants:
//! 1. A [`Partition`] and all that it hands out stay on the core that assembled it (`!Send`,
//!    `!Sync`); what is shared with the host goes through the two regions only.
//! 2. Each shared word has one writer; what the host writes is checked where it is read.

mod alerts;
mod exit;
mod kept;
mod parts;
mod run;
pub mod state;
mod tables;
mod task_names;
mod task_table;
mod telemetry;
#[cfg(test)]
mod tests;

use core::cell::{Cell, OnceCell, RefCell};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use hybrid_abi::command::{KIND_PING, KIND_STOP, Ping, Stop};
use hybrid_abi::event::Pong;
use hybrid_abi::{Record, RecordHeader};
use hybrid_shm::Word32;

pub use exit::{DEVICE_FAULT, PartitionError, PartitionExit};
pub use kept::{Seal, StateError, StateMemory};
pub use parts::{
    COMMAND_BYTES, COMMANDS_RING, CRASH_PART, EVENTS_RING, HostParts, METRICS_PART,
    PROBE_CONTROL_PART, PROBE_REGISTERS_PART, PROBES_PART, PartitionConfig, PartitionParts,
    QUEUES_PART, RingSizes, STATE_PART, TASK_NAMES_PART, TASKS_PART, lay_out_host_region,
};
pub use run::{Devices, run_until_stopped};
pub use state::{PartitionState, StopReason};
pub use tables::{TABLES_MAX, TableError};
pub use task_names::TaskNames;

use crate::clock::{Clock, Instant, Ticks};
use crate::crash::{CrashPart, CrashSources};
use crate::mem::{Bump, DmaArena};
use crate::mesh::{Mesh, MeshError, MeshSeat};
use crate::metrics::{MetricsError, MetricsWriter, RuntimeMetrics};
use crate::probe::Probes;
use crate::region::RegionFacts;
use crate::ring::{PopError, RecordConsumer, RecordProducer};
use crate::task::{Scheduler, Spawner, WaitQueue};

/// Commands that one call of [`Partition::take_command`] skips or obeys at most: work is bounded,
/// however much a host sends.
const COMMANDS_LOOKED_AT: u32 = 16;

/// What tasks have to end when the host has died: with the device's shutdown the partition is gone
/// within a second.
const HOST_DIED_GRACE_NS: u64 = 500_000_000;

/// What the entry does with a command that the runtime does not know: kind and tag, payload.
pub type CommandHandler = fn(&'static Partition, RecordHeader, &[u8]);

/// One core's world. Made by [`PartitionParts::assemble`]; it stays on that core:
/// ```compile_fail
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::partition::Partition>();
/// ```
pub struct Partition {
    cpu: u32,
    incarnation: u64,
    args: &'static [u8],
    clock: Clock,
    bump: &'static Bump,
    arena: &'static DmaArena,
    scheduler: &'static Scheduler,
    metrics: RuntimeMetrics,
    metrics_writer: RefCell<MetricsWriter>,
    more: telemetry::More,
    task_table: task_table::TaskTable,
    events: RecordProducer,
    alerts: alerts::Alerts,
    commands: RecordConsumer,
    command_buffer: RefCell<&'static mut [u8]>,
    config: PartitionConfig,
    facts: RegionFacts,
    mesh: OnceCell<&'static Mesh>,
    tables: tables::Tables,
    kept: Cell<Option<StateMemory>>,
    state: state::StateWriter,
    crash: CrashPart,
    stop: state::StopWord,
    /// The host has died. Set by a signal handler of a partition that is a process.
    host_gone: AtomicBool,
    run: RunState,
}

/// What changes from pass to pass.
struct RunState {
    empty_passes: Cell<u64>,
    /// Ticks of passes that found something to do.
    useful: Cell<u64>,
    /// Commands of a kind that nobody handles.
    unknown: Cell<u64>,
    publish_every: Ticks,
    next_publish: Cell<Instant>,
    /// What tasks have to end: the configuration's, or less if the host waits for less.
    grace_ns: Cell<u64>,
    grace: Cell<Ticks>,
    stop_asked: Cell<Option<(StopReason, Instant)>>,
    stop_waiters: WaitQueue,
    exit: RefCell<Option<PartitionExit>>,
    has_exit: Cell<bool>,
    /// A peer woke this pass.
    woken: Cell<bool>,
    handler: Cell<Option<CommandHandler>>,
}

impl RunState {
    fn new(clock: &Clock, config: &PartitionConfig) -> Self {
        Self {
            empty_passes: Cell::new(0),
            useful: Cell::new(0),
            unknown: Cell::new(0),
            publish_every: clock.ns_to_ticks(config.publish_every_ns),
            next_publish: Cell::new(Instant::MIN),
            grace_ns: Cell::new(config.stop_grace_ns),
            grace: Cell::new(clock.ns_to_ticks(config.stop_grace_ns)),
            stop_asked: Cell::new(None),
            stop_waiters: WaitQueue::new(),
            exit: RefCell::new(None),
            has_exit: Cell::new(false),
            woken: Cell::new(false),
            handler: Cell::new(None),
        }
    }

    fn published(&self, now: Instant) {
        let next = now.checked_add(self.publish_every).unwrap_or(Instant::MAX);
        self.next_publish.set(next);
    }
}

impl Partition {
    /// The CPU that the partition was pinned to.
    #[must_use]
    pub const fn cpu(&self) -> u32 {
        self.cpu
    }

    /// Counts the starts of this partition, from 1.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The bytes that the host gave for the entry.
    #[must_use]
    pub const fn args(&self) -> &'static [u8] {
        self.args
    }

    /// The clock.
    #[must_use]
    pub const fn clock(&self) -> Clock {
        self.clock
    }

    /// Private memory, for whatever lives as long as the partition.
    #[must_use]
    pub const fn bump(&self) -> &'static Bump {
        self.bump
    }

    /// Memory that the device reaches.
    #[must_use]
    pub const fn arena(&self) -> &'static DmaArena {
        self.arena
    }

    /// The scheduler.
    #[must_use]
    pub const fn scheduler(&self) -> &'static Scheduler {
        self.scheduler
    }

    /// The probes: events and registers that the host reads at any time.
    #[must_use]
    pub const fn probes(&self) -> &'static Probes {
        self.scheduler.probes()
    }

    /// Starts tasks, before the loop and from inside of it.
    #[must_use]
    pub const fn spawner(&self) -> Spawner {
        self.scheduler.spawner()
    }

    /// The metrics that every partition has; its single writer is this core.
    #[must_use]
    pub const fn metrics(&self) -> &RuntimeMetrics {
        &self.metrics
    }

    /// Adds metrics of the entry's own: `partition.add_metrics(|writer| writer.counter(…))`.
    ///
    /// # Errors
    /// What `add` returns, when the room of [`PartitionConfig::more_metrics`] is used up.
    pub fn add_metrics<T>(
        &self,
        add: impl FnOnce(&mut MetricsWriter) -> Result<T, MetricsError>,
    ) -> Result<T, MetricsError> {
        add(&mut self.metrics_writer.borrow_mut())
    }

    /// The ring to the host. What does not fit is counted and dropped, or tried again: the entry
    /// decides.
    #[must_use]
    pub const fn events(&self) -> &RecordProducer {
        &self.events
    }

    /// Takes a place among other partitions, before the loop runs. Its peers need not be there yet.
    ///
    /// # Errors
    /// [`MeshError`]; [`MeshError::Joined`] the second time.
    pub fn join_mesh(&self, seat: &MeshSeat) -> Result<&'static Mesh, MeshError> {
        if self.mesh.get().is_some() {
            return Err(MeshError::Joined);
        }
        let writer = &mut self.metrics_writer.borrow_mut();
        let mesh = Mesh::new(seat, self.facts, &self.clock, self.bump, writer)?;
        Ok(self.mesh.get_or_init(|| mesh))
    }

    /// The other partitions, if it is one of several.
    #[must_use]
    pub fn mesh(&self) -> Option<&'static Mesh> {
        self.mesh.get().copied()
    }

    /// What was chosen for it.
    #[must_use]
    pub const fn config(&self) -> &PartitionConfig {
        &self.config
    }

    /// The state word, for guards on this side that must know when the partition runs.
    #[must_use]
    pub const fn state_word(&self) -> Word32<'static> {
        self.state.word()
    }

    /// For drivers: what they add to a crash record, and where their queues lie.
    #[must_use]
    pub const fn crash_sources(&'static self) -> &'static CrashSources {
        self.crash.sources()
    }

    pub(crate) const fn crash_part(&self) -> &CrashPart {
        &self.crash
    }

    /// Passes of the loop, and when the last one began.
    pub(crate) fn last_beat(&self) -> (u64, Instant) {
        (self.state.passes(), self.state.last_beat())
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> PartitionState {
        self.state.state()
    }

    /// Gives commands that the runtime does not know (it knows stop and ping) to `handler`, inside
    /// the pass, last. Without one they are counted and skipped.
    pub fn on_command(&self, handler: CommandHandler) {
        self.run.handler.set(Some(handler));
    }

    /// Takes the next command itself, its payload at the start of `buffer`: for entries to which
    /// the host sends bulk data, paced by the ring's room. Such an entry sets
    /// [`PartitionConfig::commands_per_pass`] to 0, so that the loop leaves the ring alone. What
    /// the runtime knows (stop, ping) is obeyed here too. `None` when the ring is empty or closed.
    pub fn take_command(&'static self, buffer: &mut [u8]) -> Option<RecordHeader> {
        for _ in 0..COMMANDS_LOOKED_AT {
            let header = match self.commands.read(buffer) {
                Ok(header) => header,
                // Skipped, and counted by the ring.
                Err(PopError::TooLong { .. }) => continue,
                Err(PopError::Empty | PopError::Closed(_)) => return None,
            };
            if !matches!(header.kind, KIND_STOP | KIND_PING) {
                return Some(header);
            }
            let payload = buffer.get(..header.len.into()).unwrap_or_default();
            self.obey(header, payload, self.clock.now());
        }
        None
    }

    /// Bytes of the ring of commands: more was never sent without having been taken.
    #[must_use]
    pub fn commands_bytes(&self) -> usize {
        self.commands.capacity()
    }

    /// Why the host wants the partition to stop, once it does. Cheap: tasks may ask in any loop.
    #[inline]
    #[must_use]
    pub fn stop_requested(&self) -> Option<StopReason> {
        self.run.stop_asked.get().map(|(reason, _)| reason)
    }

    /// The host has died, and with it whoever served a device from there: the loop stops in order
    /// at the end of its pass, with half a second of grace. One store, for a signal handler.
    pub fn host_died(&self) {
        self.host_gone.store(true, Ordering::Relaxed);
    }

    /// Whether the host has died, for waits that only it could end.
    #[must_use]
    pub const fn host_gone(&self) -> &AtomicBool {
        &self.host_gone
    }

    /// Waits until the host wants the partition to stop.
    pub fn stopping(&self) -> impl Future<Output = StopReason> + '_ {
        self.run.stop_waiters.wait_until(|| {
            let reason = self.stop_requested();
            if reason.is_some() {
                // Everyone may go on: each waiter wakes the next.
                self.run.stop_waiters.wake_one();
            }
            reason
        })
    }

    /// Ends the loop after this pass: the work is done, or cannot be. The first exit counts.
    pub fn finish(&self, exit: PartitionExit) {
        if !self.run.has_exit.replace(true) {
            *self.run.exit.borrow_mut() = Some(exit);
        }
    }

    /// Whether [`Partition::finish`] was called.
    #[inline]
    #[must_use]
    pub fn is_finishing(&self) -> bool {
        self.run.has_exit.get()
    }

    /// A pass begins: stamps the time, once, publishes the heartbeat, and takes the wakes of peers.
    #[inline]
    pub fn begin_pass(&self) -> Instant {
        let now = self.clock.now();
        self.state.beat(now);
        self.scheduler.begin_pass(now);
        if let Some(mesh) = self.mesh.get()
            && mesh.poll(now)
        {
            self.run.woken.set(true);
        }
        now
    }

    /// A pass ends: shows peers what was sent, counts empty passes and takes the host's wishes,
    /// last and bounded. If anything was done it looks at the clock again, so that the pass is not
    /// taken for stolen time. Returns whether [`Partition::publish`] is due.
    #[inline]
    pub fn end_pass(&'static self, now: Instant, did_something: bool) -> bool {
        if let Some(mesh) = self.mesh.get() {
            mesh.ring();
        }
        let did_something = self.run.woken.replace(false) || did_something;
        if !did_something {
            let empty = &self.run.empty_passes;
            empty.set(empty.get().wrapping_add(1));
        }
        if let Some(reason) = self.stop.get() {
            self.note_stop(reason, now);
        }
        self.send_waiting_alert();
        if self.host_gone.load(Ordering::Relaxed) {
            self.note_host_died(now);
        }
        if self.take_commands(now) || did_something {
            let end = self.clock.now();
            self.scheduler.explain_until(end);
            let useful = &self.run.useful;
            useful.set(useful.get().wrapping_add(end.since(now).get()));
        }
        now >= self.run.next_publish.get()
    }

    /// The exit that a task chose, once.
    pub fn take_exit(&self) -> Option<PartitionExit> {
        if !self.run.has_exit.get() {
            return None;
        }
        self.run.exit.borrow_mut().take()
    }

    /// Whether the host asked to stop longer ago than the grace time.
    #[inline]
    #[must_use]
    pub fn grace_is_over(&self, now: Instant) -> bool {
        match self.run.stop_asked.get() {
            Some((_, asked)) => now.since(asked) > self.run.grace.get(),
            None => false,
        }
    }

    /// Publishes the end; the last thing that a partition does.
    pub fn publish_exit(&self, exit: &PartitionExit) {
        self.state.end(exit.state, exit.code, &exit.text);
    }

    fn note_stop(&self, reason: StopReason, now: Instant) {
        if self.run.stop_asked.get().is_none() {
            self.run.stop_asked.set(Some((reason, now)));
            self.run.stop_waiters.wake_one();
        }
    }

    #[cold]
    fn note_host_died(&self, now: Instant) {
        self.note_stop(StopReason::HostFailed, now);
        self.shorten_grace(HOST_DIED_GRACE_NS);
    }

    /// The host may wait for less than the configuration allows, and not for more; 0 says nothing.
    fn shorten_grace(&self, grace_ns: u64) {
        if grace_ns != 0 && grace_ns < self.run.grace_ns.get() {
            self.run.grace_ns.set(grace_ns);
            self.run.grace.set(self.clock.ns_to_ticks(grace_ns));
        }
    }

    /// At most [`PartitionConfig::commands_per_pass`] of them; returns whether there was one.
    #[inline]
    fn take_commands(&'static self, now: Instant) -> bool {
        let Ok(mut buffer) = self.command_buffer.try_borrow_mut() else {
            return false;
        };
        let most = self.config.commands_per_pass;
        // A host that breaks the ring's rules closes it: nothing more is taken, the state says so.
        let taken = self.commands.drain(most, &mut buffer, |header, payload| {
            self.obey(header, payload, now);
        });
        taken.is_ok_and(|taken| taken != 0)
    }

    fn obey(&'static self, header: RecordHeader, payload: &[u8], now: Instant) {
        match header.kind {
            KIND_STOP => {
                if let Ok(stop) = Stop::parse(payload) {
                    self.shorten_grace(stop.grace_ns);
                    let reason = StopReason::from_word(stop.reason);
                    self.note_stop(reason.unwrap_or(StopReason::Finished), now);
                }
            }
            KIND_PING => {
                if let Ok(ping) = Ping::parse(payload) {
                    let pong = Pong { sent_tsc: ping.sent_tsc, answered_tsc: now.ticks() };
                    // A full ring drops the answer, counted: the host asks again.
                    let _ = self.events.send(&pong);
                }
            }
            _ => match self.run.handler.get() {
                Some(handler) => handler(self, header, payload),
                None => self.run.unknown.set(self.run.unknown.get() + 1),
            },
        }
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Partition")
            .field("cpu", &self.cpu)
            .field("incarnation", &self.incarnation)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
