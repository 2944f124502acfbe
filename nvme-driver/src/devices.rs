//! The controller as a device of a partition's standard loop.
//!
//! `run_until_stopped(partition, controller)` polls it first and rings its doorbells last in each
//! pass, and copies its counters into the partition's metrics about once a millisecond.

use core_runtime::clock::{Instant, Ticks};
use core_runtime::metrics::RuntimeMetrics;
use core_runtime::partition::Devices;

use crate::controller::Controller;

impl Devices for &'static Controller {
    #[inline]
    fn poll(&mut self, now: Instant) -> bool {
        !Controller::poll(self, now).is_idle()
    }

    #[inline]
    fn ring(&mut self) {
        Controller::ring(self);
    }

    fn publish(&mut self, metrics: &RuntimeMetrics) {
        self.publish_indices();
        let stats = self.stats();
        metrics.io_submitted.set(stats.io.submitted);
        metrics.io_completed.set(stats.io.completed.saturating_sub(stats.io.failed));
        metrics.io_bytes.set(stats.io.bytes);
        metrics.io_failed.set(stats.io.failed + stats.io.lost);
        metrics.io_retried.set(stats.io.retries);
        metrics.io_repeated.set(stats.reads_repeated);
        metrics.controller_resets.set(stats.resets);
        metrics.queue_depth.set(stats.io.in_flight.into());
        metrics.queue_depth_high_water.set(stats.io.high_water.into());
        let longest = Ticks::new(stats.io.latency.max_ticks);
        metrics.max_latency_ns.raise(self.clock.ticks_to_ns(longest));
    }
}
