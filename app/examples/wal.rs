//! A write-ahead log for an engine of one's own, here a register: what is set survives.
//! `cargo run --release -p feed-handler --example wal -- model:/tmp/wal.img 42`, twice.

use std::{ops::ControlFlow, process::ExitCode, time::Duration};

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::backend::{DeviceOptions, from_spec};
use host_bridge::topology::Topology;
use host_bridge::{Entry, PartitionSpec, Runtime};
use hybrid_conventions::{CpuSet, DeviceSpec};
use journal::{
    Cursor, DeviceMedium, FormatOptions, From, Journal, JournalError, JournalParts, Limits, Medium,
    Priority, Seek, format, recover, take_over,
};
use nvme_driver::{ControllerConfig, Device, DeviceParts, spec::Nsid};

const WAL: Entry = Entry::new("wal", partition);
const KIND_TEXT: u16 = 0x0501;
host_bridge::partition_main! { entries: [WAL], main: host }

fn partition(partition: &'static Partition, parts: Option<DeviceParts>) -> PartitionExit {
    let parts = parts.expect("a device was given");
    let device = Device::open(parts, partition.bump(), ControllerConfig::default());
    let device = device.expect("a device that works");
    let work = async move {
        partition.finish(match engine(partition, device).await {
            Ok(()) => PartitionExit::done(),
            Err(error) => PartitionExit::failed(1, format_args!("{error}")),
        });
    };
    partition.spawner().spawn(TaskOptions::normal("engine"), work).expect("room").detach();
    run_until_stopped(partition, device)
}

async fn engine(partition: &'static Partition, device: Device) -> Result<(), JournalError> {
    device.ready().await.expect("a device that works");
    let (arena, bump) = (partition.arena(), partition.bump());
    let block = device.block_device(Nsid(1)).expect("namespace 1");
    let promise = DeviceMedium::promise_of(block, device.controller());
    let mut medium = DeviceMedium::new(block, promise, arena, 1 << 20)?;
    // What is there, or an empty log.
    let mut found = recover(&mut medium, From::Checkpoint).await;
    if found == Err(JournalError::Empty) {
        format(&mut medium, &FormatOptions::new(partition.clock().now().ticks(), "wal")).await?;
        found = recover(&mut medium, From::Checkpoint).await;
    }
    let found = found?;
    // The state is what the records say, in order.
    let mut register = 0_u64;
    let mut cursor = Cursor::open(&mut medium, &found, Seek::Front).await.expect("readable");
    let mut apply = |payload: &[u8]| register = u64::from_le_bytes(payload.try_into().expect("8"));
    while cursor.advance(&mut medium, |record| apply(record.payload)).await.expect("whole") {}
    // From here on new records: a change counts once it is durable.
    let superblock = take_over(&mut medium, &found).await?;
    let parts = JournalParts {
        device: block,
        promise: medium.promise(),
        arena,
        superblock,
        limits: Limits::default(),
    };
    let log = Journal::new(parts, bump)?;
    let run = async move { _ = log.run().await };
    partition.spawner().spawn(TaskOptions::latency("log"), run).expect("room").detach();
    let sequence = log.append(Priority::High, 1, 0, partition.args()).expect("room");
    log.durable(sequence).await.expect("a device that works");
    let _ = partition.events().write(KIND_TEXT, 0, &register.to_le_bytes());
    log.close().await.expect("a device that works");
    device.shutdown().await.expect("in order");
    Ok(())
}

fn host() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, value] = arguments.as_slice() else {
        eprintln!("usage: wal DEVICE NUMBER");
        return ExitCode::FAILURE;
    };
    let core = Topology::read().suggested_core().expect("two CPUs");
    let runtime = Runtime::new(CpuSet::single(core).expect("a CPU")).expect("a runtime");
    let spec = DeviceSpec::parse(device).expect("a device");
    let mut options = DeviceOptions::default();
    options.model.create_image = true;
    let backend = from_spec(&spec, options).expect("a backend");
    let mut partition = PartitionSpec::new("wal", WAL).with_device(backend);
    partition.args = value.parse::<u64>().expect("a number").to_le_bytes().to_vec();
    let mut partition = runtime.spawn(partition).expect("a partition");
    partition.wait(Duration::from_millis(10), |partition| {
        let _ = partition.poll_events(u32::MAX, |header, payload| {
            if header.kind == KIND_TEXT {
                let was = u64::from_le_bytes(payload.try_into().expect("8 bytes"));
                println!("it was {was}; {value} is durable");
            }
        });
        ControlFlow::Continue(())
    });
    let report = partition.join();
    println!("{}", report.exit.text);
    ExitCode::from(u8::from(!report.exit.is_done()))
}
