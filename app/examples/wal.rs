//! A write-ahead log for an engine of one's own, here a register: what was set survives.
//! `cargo run --release -p feed-handler --example wal -- model:/tmp/wal.img 42`, twice.

use std::{ops::ControlFlow, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail, ensure};
use core_runtime::partition::{Partition, PartitionExit};
use host_bridge::backend::{DeviceOptions, from_spec};
use host_bridge::{Entry, PartitionSpec, Runtime, topology::Topology};
use hybrid_conventions::{CpuSet, DeviceSpec};
use journal::{FormatOptions, JournalError, OpenOptions, Priority, open};
use nvme_driver::{Device, DeviceParts, run_with_device};

const WAS: u16 = 0x0501;
const WAL: Entry = Entry::new("wal", partition);
host_bridge::partition_main! { entries: [WAL], main: host }

fn partition(here: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    run_with_device(here, device, move |device| engine(here, device))
}

/// The engine, on a core of its own: says what the register was, and sets it.
async fn engine(here: &'static Partition, device: Device) -> Result<(), JournalError> {
    let make = Some(FormatOptions::new(here.clock().now().ticks(), "wal"));
    let options = OpenOptions { make, ..OpenOptions::default() };
    // The state is what the records say, in order; a log that is damaged is an error, with a place.
    let mut register = 0_u64.to_le_bytes();
    let log = open(here, device, &options, |record| {
        register = record.payload.try_into().unwrap_or(register);
    })
    .await?;
    let sequence = log.append(Priority::High, 1, 0, here.args())?; // never waits
    log.durable(sequence).await?; // a change counts from here on
    let _ = here.events().write(WAS, 0, &register); // to a host that may have gone
    Ok(log.close().await?)
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [device, value] = arguments else { bail!("usage: wal DEVICE NUMBER") };
    let value: u64 = value.parse().context("NUMBER")?;
    let core = Topology::read().suggested_core().context("a partition needs a second CPU")?;
    let mut options = DeviceOptions::default();
    options.model.create_image = true;
    let device = from_spec(&DeviceSpec::parse(device)?, options)?;
    let mut spec = PartitionSpec::new("wal", WAL).with_device(device);
    spec.args = value.to_le_bytes().to_vec();
    let mut partition = Runtime::new(CpuSet::single(core)?)?.spawn(spec)?;
    partition.wait(Duration::from_millis(10), |partition| {
        let _ = partition.poll_events(u32::MAX, |event, was| {
            if let (WAS, Ok(was)) = (event.kind, was.try_into()) {
                println!("it was {}", u64::from_le_bytes(was));
            }
        });
        ControlFlow::Continue(())
    });
    let exit = partition.join().exit;
    ensure!(exit.is_done(), "{}", exit.text);
    println!("{value} is durable");
    Ok(())
}

fn host() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wal: {error:#}");
            ExitCode::FAILURE
        }
    }
}
