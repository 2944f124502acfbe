//! Keyed records between all partitions, each on a core of its own.

use std::cell::Cell;

use core_runtime::mesh::{Link, Mesh};
use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::{TaskOptions, yield_now};
use host_bridge::{Entry, PartitionHandle, PartitionSpec};
use nvme_driver::DeviceParts;

use crate::{Drill, Outcome};

const KEYS: u64 = 509;
const RECORD: u16 = 1;
const NO_MORE: u16 = 2;

/// The next number of each key, by sender.
type Numbers = &'static [Cell<u32>];

fn cell(numbers: Numbers, from: u32, key: u64) -> Option<&'static Cell<u32>> {
    numbers.get(usize::try_from(u64::from(from) * KEYS + key).ok()?)
}

fn take(numbers: Numbers, from: u32, key: u64, number: u32) -> Option<()> {
    let next = cell(numbers, from, key)?;
    (next.replace(number + 1) == number).then_some(())
}

async fn send(mesh: &'static Mesh, records: u64, seen: Numbers, own: Numbers) -> Option<()> {
    mesh.all_up().await;
    let mut random = u64::from(mesh.index()) + 1;
    for _ in 0..records {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = (random >> 33) % KEYS;
        let number = cell(own, 0, key)?;
        let next = number.replace(number.get() + 1);
        match mesh.link(mesh.router().of_u64(key)) {
            Some(link) => link.send(RECORD, next, &key.to_le_bytes()).await.ok()?,
            None => take(seen, mesh.index(), key, next)?,
        }
        if random & 0x1f_0000 == 0 {
            yield_now().await;
        }
    }
    for link in mesh.links() {
        link.send(NO_MORE, 0, &[]).await.ok()?;
    }
    Some(())
}

async fn receive(link: &'static Link, seen: Numbers) -> Option<()> {
    let mut key = [0; 8];
    link.up().await;
    loop {
        let header = link.receive(&mut key).await.ok()?;
        if header.kind == NO_MORE {
            return Some(());
        }
        take(seen, link.peer(), u64::from_le_bytes(key), header.tag)?;
    }
}

fn trade(partition: &'static Partition, _: Option<DeviceParts>) -> PartitionExit {
    match start(partition) {
        Ok(()) => run_until_stopped(partition, ()),
        Err(line) => PartitionExit::failed(1, format_args!("{line}")),
    }
}

fn start(partition: &'static Partition) -> Result<(), String> {
    let mesh = partition.mesh().ok_or("no mesh")?;
    let cells = |of: u32| -> Result<Numbers, String> {
        let len = usize::try_from(u64::from(of) * KEYS).map_err(|error| error.to_string())?;
        let cells = partition.bump().slice_with(len, |_| Cell::new(0));
        cells.map(|cells| &*cells).map_err(|error| error.to_string())
    };
    let (seen, own) = (cells(mesh.partitions())?, cells(1)?);
    let records = <[u8; 8]>::try_from(partition.args()).map(u64::from_le_bytes);
    let records = records.map_err(|error| error.to_string())?;
    let left: &Cell<u32> =
        partition.bump().alloc(Cell::new(mesh.partitions())).map_err(|error| error.to_string())?;
    let done = move |whole: Option<()>| {
        left.set(left.get() - 1);
        match (whole, left.get()) {
            (None, _) => partition.finish(PartitionExit::failed(2, format_args!("out of order"))),
            (_, 0) => partition.finish(PartitionExit::done()),
            _ => {}
        }
    };
    let spawner = partition.spawner();
    let work = async move { done(send(mesh, records, seen, own).await) };
    let spawned = spawner.spawn(TaskOptions::normal("send"), work);
    spawned.map_err(|error| error.to_string())?.detach();
    for link in mesh.links() {
        let work = async move { done(receive(link, seen).await) };
        let spawned = spawner.spawn(TaskOptions::normal("receive"), work);
        spawned.map_err(|error| error.to_string())?.detach();
    }
    Ok(())
}

pub(crate) const TRADE: Entry = Entry::new("trade", trade);

/// A partition without a device.
pub(crate) fn spec(name: String, entry: Entry, args: Vec<u8>) -> PartitionSpec {
    let mut spec = PartitionSpec::new(name, entry).with_args(args);
    (spec.dma_bytes, spec.private_bytes, spec.event_ring_bytes) = (4096, 4 << 20, 64 << 10);
    spec
}

/// Waits for all, and says who failed.
pub(crate) fn join_all(handles: Vec<PartitionHandle>) -> Result<(), String> {
    let mut result = Ok(());
    for handle in handles {
        let report = handle.join();
        if !report.exit.is_done() {
            result = Err(format!("{}: {:?}", report.name, report.exit));
        }
    }
    result
}

/// Every partition sends keyed records to all others, which check the order of each key.
pub(crate) fn keep_their_order(drill: &Drill) -> Outcome {
    let args = drill.records.to_le_bytes().to_vec();
    let count = u32::try_from(drill.cpus.len()).unwrap_or(u32::MAX);
    let started = drill
        .runtime
        .spawn_all(count, 64 << 10, |index| spec(format!("trader-{index}"), TRADE, args.clone()));
    match started {
        Ok((_, handles)) => join_all(handles).into(),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}
