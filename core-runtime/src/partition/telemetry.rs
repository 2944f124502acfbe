//! What a partition copies into its metrics, about once a millisecond.

use core::cell::Cell;

use hybrid_abi::metrics::MetricUnit;

use super::Partition;
use crate::clock::{Clock, Instant, Ticks};
use crate::mesh::MESH_METRICS;
use crate::metrics::{Counter, Gauge, Histogram, MetricsError, MetricsWriter};
use crate::probe::{Register, Registers};
use crate::task::{GAP_BUCKETS, GapHistogram};

crate::probe! {
    /// How full things are, as often as the metrics are published.
    DEPTH = "ring.depth", RING, INFO, "how full the event ring is"
        (live_tasks: NUMBER COUNT, depth: NUMBER BYTES, dropped: NUMBER COUNT);
}

crate::register! {
    /// Bytes in the event ring.
    RING_DEPTH = "ring.depth", "bytes in the event ring", BYTES;
    /// Records that found it full.
    RING_DROPPED = "ring.dropped", "records that found the event ring full", COUNT;
}

/// Metrics of the partition's own parts beyond [`crate::metrics::RuntimeMetrics`]. The command ring
/// is as its consumer has seen it: what arrived since the last look is not in it.
#[derive(Debug)]
pub(super) struct More {
    commands_taken: Counter,
    commands_skipped: Counter,
    dma_free_bytes: Gauge,
    dma_high_water_bytes: Gauge,
    dma_quarantined_bytes: Gauge,
    private_used_bytes: Gauge,
    live_tasks: Gauge,
    live_tasks_high_water: Gauge,
    live_timers: Gauge,
    live_timers_high_water: Gauge,
    timers_full: Counter,
    command_ring_depth: Gauge,
    command_ring_high_water: Gauge,
    alerts: Counter,
    alerts_lost: Counter,
    ring_depth: Register,
    ring_dropped: Register,
    poll_to_poll: CopiedHistogram,
    stolen: CopiedHistogram,
    exceeded: CopiedHistogram,
}

/// Entries of [`More`], which [`super::PartitionConfig`]'s `more_metrics` comes on top of.
pub(super) const MORE_METRICS: u32 = 15 + MESH_METRICS;

impl More {
    pub(super) fn register(
        writer: &mut MetricsWriter,
        registers: &Registers,
    ) -> Result<Self, MetricsError> {
        Ok(Self {
            ring_depth: registers.add(RING_DEPTH),
            ring_dropped: registers.add(RING_DROPPED),
            commands_taken: writer.counter("commands_taken", MetricUnit::COUNT)?,
            commands_skipped: writer.counter("commands_skipped", MetricUnit::COUNT)?,
            dma_free_bytes: writer.gauge("dma_free_bytes", MetricUnit::BYTES)?,
            dma_high_water_bytes: writer.gauge("dma_high_water_bytes", MetricUnit::BYTES)?,
            dma_quarantined_bytes: writer.gauge("dma_quarantined_bytes", MetricUnit::BYTES)?,
            private_used_bytes: writer.gauge("private_used_bytes", MetricUnit::BYTES)?,
            live_tasks: writer.gauge("live_tasks", MetricUnit::COUNT)?,
            live_tasks_high_water: writer.gauge("live_tasks_high_water", MetricUnit::COUNT)?,
            live_timers: writer.gauge("live_timers", MetricUnit::COUNT)?,
            live_timers_high_water: writer.gauge("live_timers_high_water", MetricUnit::COUNT)?,
            timers_full: writer.counter("timers_full", MetricUnit::COUNT)?,
            command_ring_depth: writer.gauge("command_ring_depth", MetricUnit::BYTES)?,
            command_ring_high_water: writer.gauge("command_ring_high_water", MetricUnit::BYTES)?,
            alerts: writer.counter("alerts", MetricUnit::COUNT)?,
            alerts_lost: writer.counter("alerts_lost", MetricUnit::COUNT)?,
            poll_to_poll: CopiedHistogram::default(),
            stolen: CopiedHistogram::default(),
            exceeded: CopiedHistogram::default(),
        })
    }
}

/// A core-local histogram whose growth is copied into a shared one, each bucket by its upper bound:
/// quantiles and the mean are up to 1/8 too high, and never above the longest one.
#[derive(Debug)]
struct CopiedHistogram {
    copied: [Cell<u64>; GAP_BUCKETS],
}

impl Default for CopiedHistogram {
    fn default() -> Self {
        Self { copied: [const { Cell::new(0) }; GAP_BUCKETS] }
    }
}

impl CopiedHistogram {
    /// The last bucket has no bound: what lies in it counts as the longest one.
    fn copy(&self, from: &GapHistogram, to: &Histogram, clock: &Clock) {
        let longest = clock.ticks_to_ns(from.longest());
        for (bucket, copied) in self.copied.iter().enumerate() {
            let count = from.get(bucket);
            let new = count.wrapping_sub(copied.replace(count));
            if new != 0 {
                let bound = clock.ticks_to_ns(GapHistogram::upper_bound(bucket));
                to.record_many(bound.min(longest), new);
            }
        }
    }
}

impl Partition {
    /// Copies the scheduler's, the arena's and the rings' figures into the metrics. Bounded and
    /// without system calls; [`super::run_until_stopped`] calls it when it is due.
    pub fn publish(&self, now: Instant) {
        let (metrics, more, clock) = (&self.metrics, &self.more, &self.clock);
        let stats = self.scheduler.stats();
        metrics.heartbeat.set(self.state.passes());
        metrics.polls.set(self.state.passes());
        metrics.polls_empty.set(self.run.empty_passes.get());
        metrics.task_polls.set(stats.polls.iter().sum());
        metrics.timers_fired.set(stats.timers_fired);
        metrics.budget_overruns.set(stats.overruns);
        self.publish_time(now, stats.stolen);
        metrics.ready_tasks.set(stats.ready.iter().map(|n| u64::from(*n)).sum());
        let ready_most = stats.ready_high_water.iter().max().copied().unwrap_or(0);
        metrics.ready_tasks_high_water.set(ready_most.into());
        metrics.ring_dropped.set(self.events.dropped());
        // Once in a millisecond: else the depth is one of long ago, and more than the most.
        self.events.look();
        let (depth, dropped) = (self.events.depth() as u64, self.events.dropped());
        let probes = self.probes();
        more.ring_depth.set(depth);
        more.ring_dropped.set(dropped);
        DEPTH.emit_at(probes, now, stats.live_tasks, depth, dropped);
        metrics.event_ring_depth.set(depth);
        metrics.event_ring_high_water.set(self.events.high_water() as u64);
        more.commands_taken.set(self.commands.records());
        more.commands_skipped.set(self.commands.skipped() + self.run.unknown.get());
        let dma = self.arena.stats();
        more.dma_free_bytes.set(dma.free_bytes as u64);
        more.dma_high_water_bytes.set(dma.high_water_bytes as u64);
        more.dma_quarantined_bytes.set(dma.quarantined_bytes as u64);
        more.private_used_bytes.set(self.bump.used() as u64);
        more.live_tasks.set(stats.live_tasks.into());
        more.live_tasks_high_water.set(stats.live_tasks_high_water.into());
        more.live_timers.set(stats.live_timers.into());
        more.live_timers_high_water.set(stats.live_timers_high_water.into());
        more.timers_full.set(stats.timers_full);
        more.command_ring_depth.set(self.commands.ready() as u64);
        more.command_ring_high_water.set(self.commands.high_water() as u64);
        let (alerts, alerts_lost) = self.alert_counts();
        more.alerts.set(alerts.into());
        more.alerts_lost.set(alerts_lost.into());
        self.task_table.publish(self.scheduler);
        let scheduler = self.scheduler;
        more.poll_to_poll.copy(scheduler.poll_to_poll(), &metrics.poll_to_poll_ns, clock);
        more.stolen.copy(scheduler.stolen(), &metrics.stolen_gap_ns, clock);
        more.exceeded.copy(scheduler.exceeded(), &metrics.budget_exceeded_ns, clock);
        if let Some(mesh) = self.mesh.get() {
            mesh.publish();
        }
        self.run.published(now);
    }

    /// Useful, stolen and empty time, which together are the time that the loop ran. What was
    /// called empty is not taken back where the others grew by more than the time did.
    fn publish_time(&self, now: Instant, stolen: Ticks) {
        let (metrics, clock) = (&self.metrics, &self.clock);
        let running = self.state.running_since().map_or(0, |since| now.since(since).get());
        let useful = self.run.useful.get();
        let empty = running.saturating_sub(useful).saturating_sub(stolen.get());
        metrics.stolen_ns.set(clock.ticks_to_ns(stolen));
        metrics.useful_ns.set(clock.ticks_to_ns(Ticks::new(useful)));
        let empty = clock.ticks_to_ns(Ticks::new(empty));
        metrics.empty_ns.set(empty.max(metrics.empty_ns.get()));
    }
}
