//! A write-ahead log for an engine of one's own, here a register: what was set survives.
//! `cargo run --release -p feed-handler --example wal -- model:/tmp/wal.img 42`, twice.

use std::{ops::ControlFlow, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use host_bridge::backend::{DeviceOptions, from_spec};
use host_bridge::{Entry, PartitionSpec, Runtime, topology::Topology};
use hybrid_conventions::{CpuSet, DeviceSpec};
use journal::{
    Cursor, DeviceMedium, FormatOptions, From, Journal, JournalError, JournalParts, Limits,
    Priority, Seek, format, recover, take_over,
};
use nvme_driver::{ControllerConfig, Device, DeviceParts, spec::Nsid};

/// A log on the whole device: applies what it has, appends `value`; returns what was applied last.
async fn engine(
    here: &'static Partition,
    device: Device,
    value: &[u8],
) -> Result<u64, PartitionExit> {
    device.ready().await.map_err(no)?;
    let block = device.block_device(Nsid(1)).ok_or_else(|| no("there is no namespace 1"))?;
    let promise = DeviceMedium::promise_of(block, device.controller());
    let mut medium = DeviceMedium::new(block, promise, here.arena(), 1 << 20).map_err(no)?;
    // What is there, or an empty log. A log that is damaged is an error that says where.
    let mut found = recover(&mut medium, From::Checkpoint).await;
    if found == Err(JournalError::Empty) {
        let options = FormatOptions::new(here.clock().now().ticks(), "wal");
        format(&mut medium, &options).await.map_err(no)?;
        found = recover(&mut medium, From::Checkpoint).await;
    }
    let found = found.map_err(no)?;
    // The state is what the records say, in order. Those of another length are not its own.
    let mut register = [0_u8; 8];
    let mut cursor = Cursor::open(&mut medium, &found, Seek::Front).await.map_err(no)?;
    let mut apply = |payload: &[u8]| register = payload.try_into().unwrap_or(register);
    while cursor.advance(&mut medium, |record| apply(record.payload)).await.map_err(no)? {}
    // From here on it takes records: a change counts once it is durable.
    let superblock = take_over(&mut medium, &found).await.map_err(no)?;
    let (arena, limits) = (here.arena(), Limits::default());
    let parts = JournalParts { device: block, promise, arena, superblock, limits };
    let log = Journal::new(parts, here.bump()).map_err(no)?;
    let run = async move { _ = log.run().await };
    here.spawner().spawn(TaskOptions::normal("log"), run).map_err(no)?.detach();
    let sequence = log.append(Priority::High, 1, 0, value).map_err(no)?;
    log.durable(sequence).await.map_err(no)?;
    log.close().await.map_err(no)?;
    device.shutdown().await.map_err(no)?;
    Ok(u64::from_le_bytes(register))
}

fn no(error: impl std::fmt::Display) -> PartitionExit {
    PartitionExit::failed(1, format_args!("{error}"))
}

// What is left brings the engine to its core, and its answer back: see `host_bridge`'s example.

const WAS: u16 = 0x0501;
const WAL: Entry = Entry::new("wal", partition);
host_bridge::partition_main! { entries: [WAL], main: host }

fn partition(here: &'static Partition, parts: Option<DeviceParts>) -> PartitionExit {
    let parts = parts.expect("a device was given");
    let device = match Device::open(parts, here.bump(), ControllerConfig::default()) {
        Ok(device) => device,
        Err(error) => return no(error),
    };
    let work = async move {
        here.finish(match engine(here, device, here.args()).await {
            Ok(was) => match here.events().write(WAS, 0, &was.to_le_bytes()) {
                Ok(()) => PartitionExit::done(),
                Err(error) => no(error),
            },
            Err(exit) => exit,
        });
    };
    match here.spawner().spawn(TaskOptions::normal("engine"), work) {
        Ok(task) => task.detach(),
        Err(error) => return no(error),
    }
    run_until_stopped(here, device)
}

fn host() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.as_slice() {
        [device, value] => run(device, value),
        _ => Err(anyhow::anyhow!("usage: wal DEVICE NUMBER, such as model:/tmp/wal.img 42")),
    };
    done.map_or_else(
        |error| {
            eprintln!("wal: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn run(device: &str, value: &str) -> anyhow::Result<()> {
    let value: u64 = value.parse().with_context(|| format!("{value:?} is no number"))?;
    let core = Topology::read().suggested_core().context("a partition needs a second CPU")?;
    let mut options = DeviceOptions::default();
    options.model.create_image = true;
    let backend = from_spec(&DeviceSpec::parse(device)?, options)?;
    let mut spec = PartitionSpec::new("wal", WAL).with_device(backend);
    spec.args = value.to_le_bytes().to_vec();
    let mut partition = Runtime::new(CpuSet::single(core)?)?.spawn(spec)?;
    partition.wait(Duration::from_millis(10), |partition| {
        let _ = partition.poll_events(u32::MAX, |header, payload| {
            if let (WAS, Ok(was)) = (header.kind, payload.try_into()) {
                println!("it was {}; {value} is durable", u64::from_le_bytes(was));
            }
        });
        ControlFlow::Continue(())
    });
    let report = partition.join();
    ensure!(report.exit.is_done(), "{}", report.exit.text);
    Ok(())
}
