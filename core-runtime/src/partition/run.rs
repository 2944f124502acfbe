//! The standard loop of a partition: the order in which the bounded parts are called.

use super::exit::PartitionExit;
use super::state::PartitionState;
use super::{Partition, StopReason};
use crate::clock::Instant;
use crate::metrics::RuntimeMetrics;

/// What a loop drives beside the scheduler: the devices of the partition.
///
/// A pair of closures `(|now| …, || …)` is one too: poll and ring.
pub trait Devices {
    /// Takes what has arrived, bounded; wakes the tasks that wait for it. Returns whether there was
    /// anything: an empty pass is counted as such.
    fn poll(&mut self, now: Instant) -> bool;

    /// Tells the devices what was posted in this pass: one doorbell a queue, if its tail moved.
    fn ring(&mut self);

    /// Copies figures of its own into the metrics, about once a millisecond.
    fn publish(&mut self, metrics: &RuntimeMetrics) {
        let _ = metrics;
    }
}

impl<P: FnMut(Instant) -> bool, R: FnMut()> Devices for (P, R) {
    fn poll(&mut self, now: Instant) -> bool {
        (self.0)(now)
    }

    fn ring(&mut self) {
        (self.1)();
    }
}

/// A partition without devices.
impl Devices for () {
    fn poll(&mut self, _now: Instant) -> bool {
        false
    }

    fn ring(&mut self) {}
}

/// Runs the standard loop until a task calls [`Partition::finish`].
///
/// Each pass: stamp the time, take completions, run the scheduler, ring the doorbells, then
/// telemetry (by time) and, last and bounded, what the host wants. When the host asks to stop,
/// tasks learn it from [`Partition::stopping`] or [`Partition::stop_requested`], bring their work
/// to an end and call `finish`; after the grace time (the configuration's, or less if the host's
/// stop command says so) the loop ends without them.
///
/// The state is *running* exactly while this loop runs.
pub fn run_until_stopped(
    partition: &'static Partition,
    mut devices: impl Devices,
) -> PartitionExit {
    partition.enter_running();
    let exit = loop {
        let now = partition.begin_pass();
        let arrived = devices.poll(now);
        let tick = partition.scheduler().tick(now);
        devices.ring();
        if partition.end_pass(now, arrived || !tick.is_idle()) {
            let began = partition.clock().now();
            partition.publish(now);
            devices.publish(partition.metrics());
            let spent = partition.clock().now().since(began);
            partition.scheduler().explain(spent);
        }
        if let Some(exit) = partition.take_exit() {
            break exit;
        }
        if partition.grace_is_over(now) {
            break overdue(partition);
        }
    };
    partition.enter_stopping();
    partition.publish(partition.clock().now());
    devices.publish(partition.metrics());
    exit
}

/// The tasks did not end in time: names the first one that still lives.
#[cold]
fn overdue(partition: &'static Partition) -> PartitionExit {
    let asked = match partition.stop_requested() {
        Some(StopReason::Finished) | None => "the host",
        Some(StopReason::Signal) => "a signal",
        Some(StopReason::HostFailed) => "the host's failure",
    };
    let limit_ms = partition.run.grace_ns.get() / 1_000_000;
    let waiting = partition.scheduler().tasks().next().map_or("none", |task| task.name);
    PartitionExit::failed(
        1,
        format_args!(
            "{asked} asked to stop {limit_ms} ms ago and the tasks go on; first of them: {waiting}"
        ),
    )
}

impl Partition {
    /// From here on: no system call, no page fault, no allocation.
    pub fn enter_running(&self) {
        self.state.set_at(PartitionState::Running, self.clock().now());
    }

    /// The loop has ended; the entry cleans up and returns.
    pub fn enter_stopping(&self) {
        self.state.set_at(PartitionState::Stopping, self.clock().now());
    }
}
