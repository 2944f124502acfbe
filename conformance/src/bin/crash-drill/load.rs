//! The partition's side: verify every block, then write, read back, tell, and die.

use std::cell::Cell;

use core_runtime::mem::DmaBuf;
use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use hybrid_abi::Record;
use hybrid_conformance::Rng;
use nvme_driver::{Controller, ControllerConfig, DeviceParts, Lba, Namespace, WriteFlags};
use zerocopy::FromBytes;

use crate::block;
use crate::die::die;
use crate::kind::Kind;
use crate::words::{Acked, BLOCK, BLOCKS, FirstIo, Found, Issued, Orders, Verified, Wrong};

/// Reads in flight while the blocks are verified.
const VERIFIERS: u64 = 16;

/// The entry.
pub(crate) fn run(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    match start(partition, device) {
        Ok(controller) => run_until_stopped(partition, controller),
        Err(line) => PartitionExit::failed(1, format_args!("{line}")),
    }
}

fn start(
    partition: &'static Partition,
    device: Option<DeviceParts>,
) -> Result<&'static Controller, &'static str> {
    let orders = Orders::read_from_bytes(partition.args()).map_err(|_| "orders of another size")?;
    let parts = device.ok_or("no device")?;
    let config = ControllerConfig { queue_depth: 63, ..ControllerConfig::default() };
    let controller =
        Controller::new(parts, partition.bump(), config).map_err(|_| "no controller")?;
    let state = partition.bump().alloc(State::default()).map_err(|_| "no memory")?;
    let desk = Desk { partition, controller, state, orders };
    let options = TaskOptions::normal("load").budget_ns(1_000_000_000);
    let spawned = partition.spawner().spawn(options, desk.work());
    spawned.map_err(|_| "the task does not fit")?.detach();
    Ok(controller)
}

#[derive(Default)]
struct State {
    /// Blocks whose verification has begun.
    begun: Cell<u64>,
    /// Blocks verified.
    verified: Cell<u64>,
    any_read: Cell<bool>,
    version: Cell<u64>,
    acked: Cell<u64>,
    running: Cell<u32>,
}

#[derive(Clone, Copy)]
struct Desk {
    partition: &'static Partition,
    controller: &'static Controller,
    state: &'static State,
    orders: Orders,
}

fn fail(partition: &Partition, line: core::fmt::Arguments<'_>) {
    partition.finish(PartitionExit::failed(1, line));
}

impl Desk {
    fn tell<R: Record>(self, record: &R) {
        // The host empties the ring; one that does not would miss a record, and say so.
        if self.partition.events().send(record).is_err() {
            fail(self.partition, format_args!("the event ring is full"));
        }
    }

    async fn work(self) {
        if let Err(error) = self.controller.ready().await {
            return fail(self.partition, format_args!("{error}"));
        }
        let Some(namespace) = self.controller.namespaces().next() else {
            return fail(self.partition, format_args!("no namespace"));
        };
        self.state.version.set(self.orders.first_version);
        if self.orders.wipe == 1 && self.wipe(namespace).await.is_none() {
            return;
        }
        for _ in 0..VERIFIERS {
            self.spawn("verify", self.verify(namespace));
        }
        while self.state.verified.get() < BLOCKS {
            self.partition.spawner().yield_now().await;
        }
        self.tell(&Verified { blocks: BLOCKS });
        self.state.running.set(self.orders.writers);
        for worker in 0..self.orders.writers {
            self.spawn("write", self.writer(namespace, worker.into()));
        }
        while self.state.running.get() > 0 {
            self.partition.spawner().yield_now().await;
        }
        let off = self.controller.shutdown().await;
        self.partition.finish(match off {
            Ok(()) => PartitionExit::done(),
            Err(error) => PartitionExit::failed(1, format_args!("{error}")),
        });
    }

    async fn wipe(self, namespace: &'static Namespace) -> Option<()> {
        let mut buf = self.buffer()?;
        for at in 0..BLOCKS {
            let written = namespace.write(lba(namespace, at), buf, WriteFlags::default()).await;
            buf = match written {
                Ok(buf) => buf,
                Err(failed) => {
                    fail(self.partition, format_args!("block {at} not wiped: {failed}"));
                    return None;
                }
            };
        }
        Some(())
    }

    fn spawn(self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let options = TaskOptions::normal(name).budget_ns(1_000_000);
        match self.partition.spawner().spawn(options, task) {
            Ok(task) => task.detach(),
            Err(error) => fail(self.partition, format_args!("{error}")),
        }
    }

    fn buffer(self) -> Option<DmaBuf> {
        let buf = self.partition.arena().alloc_zeroed(BLOCK);
        if let Err(error) = &buf {
            fail(self.partition, format_args!("{error}"));
        }
        buf.ok()
    }

    async fn read(self, namespace: &'static Namespace, at: u64, buf: DmaBuf) -> Option<DmaBuf> {
        match namespace.read(lba(namespace, at), buf).await {
            Ok(buf) => Some(buf),
            Err(failed) => {
                fail(self.partition, format_args!("block {at} cannot be read: {failed}"));
                None
            }
        }
    }

    async fn verify(self, namespace: &'static Namespace) {
        let Some(mut buf) = self.buffer() else { return };
        loop {
            let at = self.state.begun.get();
            if at >= BLOCKS {
                return;
            }
            self.state.begun.set(at + 1);
            let Some(read) = self.read(namespace, at, buf).await else { return };
            if !self.state.any_read.replace(true) {
                let tsc = self.partition.clock().now().ticks();
                self.tell(&FirstIo { tsc });
            }
            let version = block::version(at, &read);
            let (version, intact) = (version.unwrap_or(u64::MAX), version.is_some().into());
            self.tell(&Found { block: at, version, intact });
            self.state.verified.set(self.state.verified.get() + 1);
            buf = read;
        }
    }

    /// Writes blocks of its own, reads some of them back, and dies when its time has come.
    async fn writer(self, namespace: &'static Namespace, worker: u64) {
        let Some(mut buf) = self.buffer() else { return };
        let writers = u64::from(self.orders.writers);
        let mut random = Rng::new(self.orders.seed ^ worker << 48);
        while self.state.acked.get() < self.orders.after {
            let at = random.below(BLOCKS / writers) * writers + worker;
            let version = self.state.version.get();
            self.state.version.set(version + 1);
            block::fill(at, version, &mut buf);
            self.tell(&Issued { block: at, version });
            let written = namespace.write(lba(namespace, at), buf, WriteFlags::default()).await;
            buf = match written {
                Ok(buf) => buf,
                Err(failed) => {
                    return fail(self.partition, format_args!("block {at} not written: {failed}"));
                }
            };
            self.tell(&Acked { block: at, version });
            self.state.acked.set(self.state.acked.get() + 1);
            if self.state.acked.get() == self.orders.after {
                self.die(&mut random).await;
            }
            if random.one_in(4) {
                buf.fill(0);
                let Some(read) = self.read(namespace, at, buf).await else { return };
                let found = block::version(at, &read);
                if found != Some(version) {
                    self.tell(&Wrong { block: at, version, found: found.unwrap_or(u64::MAX) });
                }
                buf = read;
            }
        }
        self.state.running.set(self.state.running.get() - 1);
    }

    /// Dies as ordered: at once, or some turns of the others later.
    async fn die(self, random: &mut Rng) {
        let Some(kind) = Kind::from_number(self.orders.kind) else { return };
        for _ in 0..random.below(4) {
            self.partition.spawner().yield_now().await;
        }
        if kind.is_from_outside() {
            // The load goes on until the host has done it.
            self.state.acked.set(0);
            return;
        }
        die(kind);
    }
}

fn lba(namespace: &Namespace, block: u64) -> Lba {
    Lba(block * BLOCK as u64 / u64::from(namespace.lba_bytes()))
}
