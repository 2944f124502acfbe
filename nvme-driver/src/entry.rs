//! A partition with one device and one task.
//!
//! What every entry of that kind does around its own work: open the device, wait until it is ready,
//! work, shut it down, and end the partition with what came of it. An entry with more tasks, or a
//! configuration of its own, does these steps itself.

use core::error::Error;
use core::future::Future;

use core_runtime::clock::Instant;
use core_runtime::metrics::RuntimeMetrics;
use core_runtime::partition::{Devices, Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;

use crate::block::Device;
use crate::config::ControllerConfig;
use crate::controller::DeviceParts;
use crate::health::HealthWatch;

/// Runs `work` on the partition's device, which is ready, until it ends; then the partition does.
/// The first error counts, the work's before that of the shutdown.
pub fn run_with_device<F, E>(
    here: &'static Partition,
    parts: Option<DeviceParts>,
    work: impl FnOnce(Device) -> F + 'static,
) -> PartitionExit
where
    F: Future<Output = Result<(), E>> + 'static,
    E: Error,
{
    let Some(parts) = parts else {
        return PartitionExit::failed(1, format_args!("the partition has no device"));
    };
    let device = match Device::open(parts, here.bump(), ControllerConfig::default()) {
        Ok(device) => device,
        Err(error) => return PartitionExit::from(Err(error)),
    };
    let whole = async move {
        let outcome = match device.ready().await {
            Ok(()) => PartitionExit::from(work(device).await),
            Err(error) => PartitionExit::device_fault(format_args!("{error}")),
        };
        let off = device.shutdown().await;
        here.finish(match off {
            Err(error) if outcome.is_done() => PartitionExit::device_fault(format_args!("{error}")),
            _ => outcome,
        });
    };
    match here.spawner().spawn(TaskOptions::normal("work"), whole) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::from(Err(error)),
    }
    run_until_stopped(here, Watched { here, device, health: HealthWatch::default() })
}

/// A device whose warnings the host hears.
struct Watched {
    here: &'static Partition,
    device: Device,
    health: HealthWatch,
}

impl Devices for Watched {
    #[inline]
    fn poll(&mut self, now: Instant) -> bool {
        Devices::poll(&mut self.device, now)
    }

    #[inline]
    fn ring(&mut self) {
        Devices::ring(&mut self.device);
    }

    fn publish(&mut self, metrics: &RuntimeMetrics) {
        Devices::publish(&mut self.device, metrics);
        self.health.look(self.here, self.device);
    }
}
