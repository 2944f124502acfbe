//! What partitions have beyond a life of their own: alerts to the host, a real-time priority.

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use core_runtime::partition::{Partition, PartitionExit, StopReason, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::RuntimeError;
use host_bridge::alert::AlertSink;
use host_bridge::sys::realtime::{RtPriority, of_this_thread};
use hybrid_abi::alert::Severity;
use hybrid_conventions::Exit;
use nvme_driver::DeviceParts;

use common::{runtime, spec};

#[test]
fn a_partition_survives_its_alert_and_the_host_hears_of_it() {
    fn alarmed(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
        let work = async move {
            partition.alert(Severity::CRITICAL, 7, format_args!("block {} is torn", 12));
            let _ = partition.stopping().await;
            partition.finish(PartitionExit::done());
        };
        match partition.spawner().spawn(TaskOptions::normal("journal"), work) {
            Ok(task) => task.detach(),
            Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
        }
        run_until_stopped(partition, ())
    }
    let Some(only) = runtime("a_partition_survives_its_alert_and_the_host_hears_of_it") else {
        return;
    };
    let (told, heard) = std::sync::mpsc::channel();
    let mut spec = spec("alarmed", alarmed);
    spec.on_alert = Some(AlertSink::new(move |alert| drop(told.send(alert.clone()))));
    let mut partition = only.runtime.spawn(spec).expect("it starts");
    let mut alert = None;
    partition.wait(Duration::from_millis(1), |partition| {
        let _ = partition.poll_events(16, |_, _| {});
        alert = alert.take().or_else(|| heard.try_recv().ok());
        if alert.is_some() {
            partition.request_stop(StopReason::Finished);
        }
        ControlFlow::Continue(())
    });
    let alert = alert.expect("an alert");
    assert_eq!((alert.severity, alert.code, alert.number), (Severity::CRITICAL, 7, 1));
    assert!(alert.to_string().ends_with("of task journal: block 12 is torn"), "{alert}");
    assert!(partition.join().exit.is_done());
}

#[test]
fn a_partition_runs_with_its_real_time_priority_or_does_not_start_and_says_why() {
    fn look(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
        let priority = of_this_thread().map_or(0, |priority| priority.get().into());
        partition.finish(PartitionExit { code: priority, ..PartitionExit::done() });
        run_until_stopped(partition, ())
    }
    let test = "a_partition_runs_with_its_real_time_priority_or_does_not_start_and_says_why";
    let Some(only) = runtime(test) else { return };
    let mut spec = spec("fifo", look);
    spec.rt_priority = Some(RtPriority::new(2).expect("allowed"));
    match only.runtime.spawn(spec) {
        Ok(partition) => assert_eq!(partition.join().exit.code, 2),
        Err(error) => {
            assert!(matches!(error, RuntimeError::Realtime(_)), "{error}");
            assert_eq!(error.exit(), Exit::Missing);
        }
    }
}
