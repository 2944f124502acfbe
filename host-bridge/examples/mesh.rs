//! Several partitions: `cargo run --release -p host-bridge --example mesh [PARTITIONS [CPUS]]`.
//!
//! Each partition is a process. It makes a million orders of random customers and sends each to the
//! partition that
//! owns the customer, which keeps the account and checks that a customer's orders come in their
//! order. With fewer CPUs than partitions they take turns: that shows the routing, and no latency.

use std::cell::Cell;
use std::process::ExitCode;

use core_runtime::mesh::{Link, Mesh};
use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::{TaskOptions, yield_now};
use host_bridge::topology::Topology;
use host_bridge::{CoreChoice, Entry, Isolation, PartitionSpec, Runtime, RuntimeError};
use hybrid_conventions::{Count, CpuSet, Exit};
use nvme_driver::DeviceParts;

const ORDERS: u64 = 1_000_000;
const CUSTOMERS: u64 = 1000;
const RING_BYTES: usize = 256 << 10;
const ORDER: u16 = 1;
const NO_MORE: u16 = 2;

/// By sender and customer: the next order's number. Each partition has its own, and owns a part.
type Accounts = &'static [Cell<u32>];

fn account(accounts: Accounts, from: u32, customer: u64) -> Option<&'static Cell<u32>> {
    accounts.get(usize::try_from(u64::from(from) * CUSTOMERS + customer).ok()?)
}

/// Sends this partition's orders to who owns their customers.
async fn send_orders(mesh: &'static Mesh, own: Accounts, numbers: Accounts) -> Option<()> {
    mesh.all_up().await;
    let mut random = u64::from(mesh.index()) + 1;
    for order in 0..ORDERS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let customer = (random >> 33) % CUSTOMERS;
        let number = account(numbers, 0, customer)?;
        let next = number.replace(number.get() + 1);
        match mesh.link(mesh.router().of_u64(customer)) {
            Some(link) => link.send(ORDER, next, &customer.to_le_bytes()).await.ok()?,
            None => book(own, mesh.index(), customer, next)?,
        }
        if order % 256 == 0 {
            yield_now().await;
        }
    }
    for link in mesh.links() {
        link.send(NO_MORE, 0, &[]).await.ok()?;
    }
    Some(())
}

/// Takes one sender's orders.
async fn take_orders(link: &'static Link, own: Accounts) -> Option<()> {
    let mut customer = [0; 8];
    link.up().await;
    loop {
        match link.receive(&mut customer).await.ok()? {
            header if header.kind == NO_MORE => return Some(()),
            header => book(own, link.peer(), u64::from_le_bytes(customer), header.tag)?,
        }
    }
}

/// `None` if it is not that customer's next order.
fn book(own: Accounts, from: u32, customer: u64, number: u32) -> Option<()> {
    let next = account(own, from, customer)?;
    (next.replace(number + 1) == number).then_some(())
}

fn trade(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
    let failed = |error: &dyn std::fmt::Display| PartitionExit::failed(1, format_args!("{error}"));
    let Some(mesh) = partition.mesh() else { return failed(&"one partition has no peers") };
    let accounts = |of: u32| {
        let len = usize::try_from(u64::from(of) * CUSTOMERS).unwrap_or(0);
        partition.bump().slice_with(len, |_| Cell::new(0)).map(|cells| &*cells)
    };
    let (own, numbers) = match (accounts(mesh.partitions()), accounts(1)) {
        (Ok(own), Ok(numbers)) => (own, numbers),
        (Err(error), _) | (_, Err(error)) => return failed(&error),
    };
    let parts_left: &'static Cell<u32> = match partition.bump().alloc(Cell::new(0)) {
        Ok(left) => left,
        Err(error) => return failed(&error),
    };
    parts_left.set(mesh.partitions());
    let done = move |whole: Option<()>| {
        parts_left.set(parts_left.get() - 1);
        match (whole, parts_left.get()) {
            (None, _) => partition.finish(PartitionExit::failed(2, format_args!("out of order"))),
            (_, 0) => partition.finish(PartitionExit::done()),
            _ => {}
        }
    };
    let spawner = partition.spawner();
    let send = async move { done(send_orders(mesh, own, numbers).await) };
    let mut spawned = vec![spawner.spawn(TaskOptions::normal("send"), send)];
    for link in mesh.links() {
        let take = async move { done(take_orders(link, own).await) };
        spawned.push(spawner.spawn(TaskOptions::normal("take"), take));
    }
    for task in spawned {
        match task {
            Ok(task) => task.detach(),
            Err(error) => return failed(&error),
        }
    }
    run_until_stopped(partition, ())
}

const TRADE: Entry = Entry::new("trade", trade);

fn run(partitions: u32, cores: CpuSet) -> Result<Exit, RuntimeError> {
    let runtime = Runtime::new(cores)?;
    let cpus: Vec<u32> = runtime.cores().iter().collect();
    let alone = cpus.len() >= partitions as usize;
    let (mesh, handles) = runtime.spawn_all(partitions, RING_BYTES, |index| {
        let name = format!("trader-{index}");
        let mut spec = PartitionSpec::new(name, TRADE);
        spec.isolation = Isolation::Thread;
        spec.dma_bytes = 4096;
        if !alone {
            spec.core = CoreChoice::Shared(cpus[index as usize % cpus.len()]);
        }
        spec
    })?;
    let rings = mesh.map_or(0, |mesh| mesh.bytes());
    println!("{partitions} partitions on cpus {cores}, rings in {} KiB", rings >> 10);
    let mut exit = Exit::Ok;
    for handle in handles {
        let number = |name| handle.metrics().number(name).unwrap_or(0);
        while !handle.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let (sent, taken) = (number("mesh_records_sent"), number("mesh_records_received"));
        let full = number("mesh_full");
        let report = handle.join();
        println!(
            "{} on cpu {}: sent {}, took {}, waited for room {} times, ran {:?}: {}",
            report.name,
            report.cpu,
            Count(sent),
            Count(taken),
            Count(full),
            report.ran,
            if report.exit.is_done() { "in order" } else { &report.exit.text },
        );
        if !report.exit.is_done() {
            exit = Exit::Error;
        }
    }
    Ok(exit)
}

// This program's `main`: a partition's where it was executed again to be one, else the host's.
host_bridge::partition_main! { entries: [TRADE], main: host }

fn host() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let partitions = arguments.next().map_or(Some(3), |text| text.parse().ok());
    let suggested = || CpuSet::single(Topology::read().suggested_core()?).ok();
    let cores = arguments.next().map_or_else(suggested, |text| text.parse().ok());
    let Some(partitions) = partitions else {
        eprintln!("error: usage: mesh [PARTITIONS [CPUS]], such as: mesh 3 1-3");
        return ExitCode::from(Exit::Error.code());
    };
    // On a machine with one CPU the runtime says why not.
    let exit = run(partitions, cores.unwrap_or(CpuSet::first_n(1))).unwrap_or_else(|error| {
        eprintln!("error: {error}");
        error.exit()
    });
    ExitCode::from(exit.code())
}
