//! A partition that goes on when its device's server dies and another one comes.

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::{TaskOptions, yield_now};
use nvme_driver::{Controller, DeviceParts, Failed, IoError, Lba, WriteFlags};

use crate::common;

/// Writes for ever, counts what ends, and goes on after a reset: each command must end once.
pub(crate) fn survivor(
    partition: &'static Partition,
    device: Option<DeviceParts>,
) -> PartitionExit {
    let controller = match common::controller(partition, device) {
        Ok(controller) => controller,
        Err(exit) => return exit,
    };
    for writer in 0..WRITERS {
        let task = async move {
            let exit = writes(partition, controller, writer).await;
            // The first one looks after the others' end.
            if writer == 0 || !exit.is_done() {
                partition.finish(exit);
            }
        };
        match partition.spawner().spawn(TaskOptions::normal("writes"), task) {
            Ok(task) => task.detach(),
            Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
        }
    }
    run_until_stopped(partition, controller)
}

/// Tasks of [`survivor`].
const WRITERS: u64 = 8;
/// Exit code of [`survivor`] after an error that no reset explains.
pub(crate) const WRONG: u32 = 7;

async fn writes(
    partition: &'static Partition,
    controller: &'static Controller,
    writer: u64,
) -> PartitionExit {
    let failed =
        |error: &dyn std::fmt::Display| PartitionExit::failed(WRONG, format_args!("{error}"));
    if let Err(error) = controller.ready().await {
        return failed(&error);
    }
    let Some(namespace) = controller.namespaces().next() else { return failed(&"no namespace") };
    let mut round = 0_u64;
    while partition.stop_requested().is_none() {
        round += 1;
        let Ok(mut buffer) = partition.arena().alloc(4096) else { return failed(&"no memory") };
        buffer.as_mut_slice().fill(round.to_le_bytes()[0]);
        let lba = Lba(writer * 64 + round % 64);
        match namespace.write(lba, buffer, WriteFlags::default()).await {
            Ok(_) => {}
            // The typed end of a command that a dead server had; the controller comes up again.
            Err(Failed { error: IoError::Reset(_) | IoError::NotReady, .. }) => {
                if let Err(error) = controller.ready().await {
                    return failed(&error);
                }
            }
            Err(Failed { error, .. }) => return failed(&error),
        }
        yield_now().await;
    }
    if writer != 0 {
        return PartitionExit::done();
    }
    // The others' last commands, then the sums: nothing was lost twice or not at all.
    while controller.stats().io.in_flight > 0 {
        yield_now().await;
    }
    let io = controller.stats().io;
    if io.submitted != io.completed + io.lost {
        return failed(&format_args!(
            "{} submitted, {} + {} ended",
            io.submitted, io.completed, io.lost
        ));
    }
    match controller.shutdown().await {
        Ok(()) => PartitionExit::done(),
        Err(error) => failed(&error),
    }
}
