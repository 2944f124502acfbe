//! Several partitions under one host, on one core in turns: their rings, their own devices, and one
//! that is started again while the others go on.

mod common;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use core_runtime::partition::{Partition, PartitionExit, StopReason, run_until_stopped};
use core_runtime::task::{TaskOptions, select, yield_now};
use host_bridge::sys::realtime::RtPriority;
use host_bridge::telemetry::families::help_of;
use host_bridge::{CoreChoice, EntryFn, PartitionHandle, PartitionSpec, RuntimeError};
use hybrid_conventions::Exit;
use nvme_driver::{DeviceParts, Lba, WriteFlags};

use common::{controller, model, runtime, spec};

/// A bound for every wait of these tests: nothing takes as long, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const RING_BYTES: usize = 16 << 10;

fn in_turns(run: EntryFn, index: u32, cpu: u32) -> PartitionSpec {
    const NAMES: [&str; 3] = ["zero", "one", "two"];
    let mut spec = spec(NAMES[index as usize], run);
    spec.core = CoreChoice::Shared(cpu);
    spec.config.stop_grace_ns = LIMIT.as_nanos().try_into().expect("a minute");
    spec
}

/// Spawns it, and ends the partition with a failure if it comes back with one.
fn spawn(
    partition: &'static Partition,
    work: impl Future<Output = Result<(), &'static str>> + 'static,
) {
    let work = async move {
        let exit = match work.await {
            Ok(()) => PartitionExit::done(),
            Err(what) => PartitionExit::failed(1, format_args!("{what}")),
        };
        partition.finish(exit);
    };
    partition.spawner().spawn(TaskOptions::normal("t"), work).expect("room").detach();
}

fn finished(
    handle: PartitionHandle,
) -> (PartitionExit, Option<host_bridge::backend::DeviceReport>) {
    match handle.join_within(LIMIT) {
        Ok(report) => (report.exit, report.device),
        Err(handle) => panic!("{handle:?} has not ended"),
    }
}

/// Sends every third of 3000 numbered blocks to the next partition, having written it to its own
/// device and read it back, and takes as many from the one before.
fn store_and_forward(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    const BLOCKS: u32 = 200;
    let controller = match controller(partition, device) {
        Ok(controller) => controller,
        Err(exit) => return exit,
    };
    let mesh = partition.mesh().expect("a place");
    let next = mesh.link((mesh.index() + 1) % mesh.partitions()).expect("a peer");
    let before = mesh.link((mesh.index() + 2) % mesh.partitions()).expect("a peer");
    let send = async move {
        controller.ready().await.map_err(|_| "not ready")?;
        let namespace = controller.namespaces().next().ok_or("no namespace")?;
        next.up().await;
        let mut buffer = partition.arena().alloc(4096).map_err(|_| "no buffer")?;
        for block in 0..BLOCKS {
            let lba = Lba(u64::from(block) % namespace.blocks());
            buffer.as_mut_slice().fill(block.to_le_bytes()[0] ^ 0x5a);
            buffer = namespace
                .write(lba, buffer, WriteFlags::default())
                .await
                .map_err(|_| "not written")?;
            buffer = namespace.read(lba, buffer).await.map_err(|_| "not read")?;
            next.send(1, block, &buffer.as_slice()[..1024]).await.map_err(|_| "not sent")?;
        }
        controller.shutdown().await.map_err(|_| "no shutdown")
    };
    let take = async move {
        let mut bytes = [0; 1024];
        before.up().await;
        for block in 0..BLOCKS {
            let header = before.receive(&mut bytes).await.map_err(|_| "not received")?;
            if header.tag != block || bytes != [block.to_le_bytes()[0] ^ 0x5a; 1024] {
                return Err("another block than the next");
            }
        }
        Ok(())
    };
    spawn(partition, async move {
        let (sent, taken) = core_runtime::task::join(send, take).await;
        sent.and(taken)
    });
    run_until_stopped(partition, controller)
}

#[test]
fn each_partition_has_its_own_device_and_a_ring_to_each_other() {
    let Some(only) = runtime("each_partition_has_its_own_device_and_a_ring_to_each_other") else {
        return;
    };
    let cpu = only.runtime.cores().first().expect("a core");
    let (mesh, handles) = only
        .runtime
        .spawn_all(3, RING_BYTES, |index| {
            let mut spec = in_turns(store_and_forward, index, cpu).with_device(model());
            spec.check_syscalls = true;
            spec
        })
        .expect("they start");
    assert_eq!(mesh.expect("three are a mesh").partitions(), 3);
    for handle in handles {
        let (exit, device) = finished(handle);
        assert!(exit.is_done(), "{exit:?}");
        assert_eq!(device.expect("a device").mistakes, [""; 0]);
    }
}

/// Answers each question of partition 1 by its own incarnation.
fn answer(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    let link = partition.mesh().expect("a place").link(1).expect("a peer");
    spawn(partition, async move {
        let mut bytes = [0; 8];
        link.up().await;
        loop {
            let asked = select(link.receive(&mut bytes), partition.stopping()).await;
            let core_runtime::task::Either::First(asked) = asked else { return Ok(()) };
            let tag = asked.map_err(|_| "the peer went")?.tag;
            let own = partition.incarnation().to_le_bytes();
            link.send(2, tag, &own).await.map_err(|_| "the peer went")?;
        }
    });
    run_until_stopped(partition, ())
}

/// Asks until it was answered by incarnations 1 and 2 of partition 0.
fn ask(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    let link = partition.mesh().expect("a place").link(0).expect("a peer");
    spawn(partition, async move {
        let mut answered_by_first = false;
        for tag in 0.. {
            let incarnation = u64::from(link.up().await);
            let mut bytes = [0; 8];
            // The peer may go between any two of these.
            if link.send(1, tag, &[]).await.is_err() || link.receive(&mut bytes).await.is_err() {
                continue;
            }
            if u64::from_le_bytes(bytes) != incarnation {
                return Err("an answer of an earlier incarnation");
            }
            if incarnation == 2 {
                return if answered_by_first { Ok(()) } else { Err("the first never answered") };
            }
            answered_by_first = true;
            if tag == 100 {
                partition.alert(hybrid_abi::alert::Severity::WARNING, 1, format_args!("enough"));
            }
            yield_now().await;
        }
        Err("too many questions")
    });
    run_until_stopped(partition, ())
}

#[test]
fn a_partition_is_started_again_in_its_place_and_its_peer_goes_on() {
    let test = "a_partition_is_started_again_in_its_place_and_its_peer_goes_on";
    let Some(only) = runtime(test) else { return };
    let cpu = only.runtime.cores().first().expect("a core");
    let specs = |index| in_turns(if index == 0 { answer } else { ask }, index, cpu);
    let (mesh, mut handles) = only.runtime.spawn_all(2, RING_BYTES, specs).expect("they start");
    let mesh = mesh.expect("two are a mesh");
    let mut asking = handles.pop().expect("two");
    let answering = handles.pop().expect("two");
    let begun = Instant::now();
    let mut enough = false;
    asking.wait(Duration::from_millis(1), |handle| {
        let looked = handle.poll_events(16, |header, _| {
            enough |= header.kind == hybrid_abi::alert::KIND_ALERT;
        });
        assert!(looked.is_ok() && begun.elapsed() < LIMIT);
        if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(asking.metrics().find("mesh_records_sent").is_some());
    for metric in asking.metrics().iter().flatten() {
        let unknown = help_of("nothing of ours");
        assert_ne!(help_of(metric.name()), unknown, "{}: add it to families.rs", metric.name());
    }
    answering.request_stop(StopReason::Finished);
    assert!(finished(answering).0.is_done());
    let mut again = in_turns(answer, 0, cpu);
    again.place = mesh.place(0);
    let answering = only.runtime.spawn(again).expect("it starts again");
    assert_eq!(mesh.memory().incarnation(0), Some(2));
    let (exit, _) = finished(asking);
    assert!(exit.is_done(), "{exit:?}");
    answering.request_stop(StopReason::Finished);
    assert!(finished(answering).0.is_done());
    assert!(mesh.place(2).is_none());
}

#[test]
fn more_partitions_than_cores_are_refused_unless_they_say_that_they_share() {
    let test = "more_partitions_than_cores_are_refused_unless_they_say_that_they_share";
    let Some(only) = runtime(test) else { return };
    let cpu = only.runtime.cores().first().expect("a core");
    let alone = |index| {
        let mut spec = in_turns(common::idle, index, cpu);
        spec.core = CoreChoice::Any;
        spec
    };
    let error = only.runtime.spawn_all(2, RING_BYTES, alone).expect_err("one core only");
    assert!(matches!(error, RuntimeError::CoresTaken { .. }), "{error}");
    // The first of them was stopped again, and its core is free.
    let (mesh, handles) = only.runtime.spawn_all(1, RING_BYTES, alone).expect("one fits");
    assert!(mesh.is_none() && handles.len() == 1);
    drop(handles);

    let mut greedy = in_turns(common::idle, 0, cpu);
    greedy.rt_priority = Some(RtPriority::new(1).expect("allowed"));
    let error = only.runtime.spawn(greedy).expect_err("it would never let go");
    assert!(error.to_string().contains("shares cpu"), "{error}");
    let error = only.runtime.mesh(&[cpu], RING_BYTES).expect_err("alone");
    assert!(error.to_string().contains("allowed are 2 to 32"), "{error}");
    assert_eq!(error.exit(), Exit::Error);
    assert!(only.runtime.mesh(&[cpu, cpu], 1000).is_err(), "no ring is that long");
}
