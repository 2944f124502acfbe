//! The partition's tasks: one that serves, one for each operation, and what the oracle is told.

use std::future::Future;
use std::rc::Rc;

use core_runtime::mem::DmaBuf;
use core_runtime::ring::PopError;
use core_runtime::task::{Class, TaskOptions};
use nvme_driver::{BlockDevice, Failed, IoError, Lba, WriteFlags};
use nvme_spec::Nsid;

use super::Partition;
use crate::content;
use crate::op::{Answer, Code, Kind, Op};
use crate::oracle::{End, Token};
use crate::planted::Plant;
use crate::tape::{What, Who};

impl Partition {
    pub(super) async fn serve(self: Rc<Self>) {
        // Either way: without a controller every operation fails, and is answered.
        let _ = self.device.ready().await;
        loop {
            let bell = self.bell.notified();
            while self.running.get() < self.limit {
                match self.commands.pop() {
                    Ok(op) => self.launch(op),
                    Err(PopError::Empty) => break,
                    Err(error) => {
                        self.shared.violate(|| format!("the operations' ring: {error}"));
                        return;
                    }
                }
            }
            bell.await;
        }
    }

    fn launch(self: &Rc<Self>, op: Op) {
        self.running.set(self.running.get() + 1);
        let class = match op.index % 8 {
            0 => Class::Latency,
            1 => Class::Background,
            _ => Class::Normal,
        };
        let task = Self::carry_out(self.clone(), op);
        match self.scheduler.spawner().spawn(TaskOptions::new("operation", class), task) {
            Ok(handle) => handle.detach(),
            Err(error) => {
                self.shared.violate(|| format!("no task for an operation: {error}"));
                self.answer(op, Code::NotSpawned);
            }
        }
    }

    fn answer(&self, op: Op, code: Code) {
        let what = match code {
            Code::Good => What::Done,
            Code::Dropped => What::Dropped,
            _ => What::Failed,
        };
        self.shared.event(Who::Queues, what, [op.index, 0, 0]);
        self.shared.crash_point();
        self.outbox.borrow_mut().push_back(Answer { index: op.index, code: code as u64 });
    }

    async fn carry_out(self: Rc<Self>, op: Op) {
        self.shared.event(Who::Queues, What::Start, [op.index, 0, 0]);
        self.shared.crash_point();
        if op.index % 16 == 3 {
            self.scheduler.spawner().yield_now().await;
        }
        let Some(ns) = self.device.block_device(Nsid(1)) else {
            self.answer(op, Code::Failed);
            return;
        };
        let code = match op.kind() {
            Kind::Read => self.read(ns, op).await.map(drop),
            Kind::Write | Kind::Through => self.write(ns, op, None).await,
            Kind::Rewrite => match self.read(ns, op).await {
                Ok(buf) => self.write(ns, op, Some(buf)).await,
                Err(code) => Err(code),
            },
            Kind::Zeroes => self.zero(ns, op).await,
            Kind::Flush => self.flush(ns, op).await,
        };
        self.answer(op, code.err().unwrap_or(Code::Good));
    }

    /// Waits for a future, or drops it half-way where the operation says so.
    async fn bounded<F: Future>(&self, op: Op, future: F) -> Option<F::Output> {
        self.shared.crash_point();
        let done = if op.drop_after_ns == 0 {
            Some(future.await)
        } else {
            let spawner = self.scheduler.spawner();
            let ticks = spawner.clock().ns_to_ticks(op.drop_after_ns.into());
            spawner.timeout(ticks, future).await.ok()
        };
        self.shared.crash_point();
        done
    }

    fn failed(&self, op: Op, error: IoError) -> Code {
        let count = if op.kind() == Kind::Flush { 0 } else { op.count };
        self.shared.explain(error, (op.lba.into(), count.into()));
        Code::Failed
    }

    async fn read(&self, ns: BlockDevice, op: Op) -> Result<DmaBuf, Code> {
        let block = ns.lba_bytes() as usize;
        let mut buf = self.memory(ns, op)?;
        buf.as_mut_slice().chunks_exact_mut(block).for_each(content::poison);
        let single = buf.len() <= ns.max_transfer_bytes() as usize;
        let token = self.shared.oracle.borrow_mut().read_begin(op.lba, op.count);
        let done = self.bounded(op, ns.read(Lba(op.lba.into()), buf)).await;
        let mut oracle = self.shared.oracle.borrow_mut();
        let checked = match &done {
            Some(Ok(buf)) => oracle.check(token, buf.as_slice(), single),
            _ => Ok(()),
        };
        oracle.read_end(token);
        drop(oracle);
        if let Err(what) = checked {
            self.shared.violate(|| format!("operation {}: {what}", op.index));
        }
        match done {
            None => Err(Code::Dropped),
            Some(Ok(buf)) => Ok(buf),
            Some(Err(failed)) => Err(self.failed(op, failed.error)),
        }
    }

    fn memory(&self, ns: BlockDevice, op: Op) -> Result<DmaBuf, Code> {
        let len = op.count as usize * ns.lba_bytes() as usize;
        if len == 0 {
            // The namespace is refused: its controller is on the way out.
            return Err(Code::Failed);
        }
        self.arena.alloc(len).map_err(|_| {
            self.shared.reach("out of dma memory", 1);
            Code::NoMemory
        })
    }

    async fn write(&self, ns: BlockDevice, op: Op, buf: Option<DmaBuf>) -> Result<(), Code> {
        let block = ns.lba_bytes() as usize;
        let mut buf = match buf {
            Some(buf) => buf,
            None => self.memory(ns, op)?,
        };
        for (bytes, lba) in buf.as_mut_slice().chunks_exact_mut(block).zip(u64::from(op.lba)..) {
            content::stamp(bytes, lba, op.version());
        }
        let single = buf.len() <= ns.max_transfer_bytes() as usize;
        let through = op.kind() == Kind::Through;
        let token = self.begin(op, false, single);
        let flags = if through && self.plant != Plant::NoFua {
            WriteFlags::FUA
        } else {
            WriteFlags::empty()
        };
        if self.plant.strikes(op.index) == Some(Plant::AckEarly) {
            // Acknowledged before it is on its way, and then forgotten.
            self.shared.oracle.borrow_mut().write_end(token, End::Acked);
            return Ok(());
        }
        let done = if self.plant == Plant::SplitWrite && op.count > 1 {
            let halves = Self::write_halves(ns, Lba(op.lba.into()), buf, flags);
            self.bounded(op, Box::pin(halves)).await
        } else {
            self.bounded(op, ns.write(Lba(op.lba.into()), buf, flags)).await
        };
        self.end(op, token, through, done.map(|done| done.map(drop)))
    }

    /// A bug: first its first block, and then all of it.
    async fn write_halves(
        ns: BlockDevice,
        lba: Lba,
        mut buf: DmaBuf,
        flags: WriteFlags,
    ) -> Result<DmaBuf, Failed> {
        let len = buf.len();
        buf.truncate(ns.lba_bytes() as usize);
        let mut buf = ns.write(lba, buf, flags).await?;
        assert!(buf.set_len(len), "it was as long before");
        ns.write(lba, buf, flags).await
    }

    async fn zero(&self, ns: BlockDevice, op: Op) -> Result<(), Code> {
        if ns.lba_bytes() == 0 {
            return Err(Code::Failed);
        }
        let token = self.begin(op, true, true);
        let future = ns.write_zeroes(Lba(op.lba.into()), op.count.into(), WriteFlags::empty());
        let done = self.bounded(op, future).await;
        let done = done.map(|done| done.map_err(|error| Failed { error, buf: None }));
        self.end(op, token, false, done)
    }

    fn begin(&self, op: Op, zero: bool, single: bool) -> Token {
        let mut oracle = self.shared.oracle.borrow_mut();
        oracle.write_begin((op.lba, op.count), op.version(), zero, single)
    }

    /// Tells the oracle how a write ended.
    fn end(
        &self,
        op: Op,
        token: Token,
        through: bool,
        done: Option<Result<(), Failed>>,
    ) -> Result<(), Code> {
        let good = if through || !self.write_cache { End::Durable } else { End::Acked };
        let mut oracle = self.shared.oracle.borrow_mut();
        match done {
            None => {
                oracle.write_abandon(token);
                Err(Code::Dropped)
            }
            Some(Ok(())) => {
                oracle.write_end(token, good);
                Ok(())
            }
            Some(Err(failed)) => {
                match failed.error {
                    // Nobody confirmed that the device has let go of it.
                    IoError::Gone => oracle.write_abandon(token),
                    _ if self.plant == Plant::AckFailed => oracle.write_end(token, good),
                    _ => oracle.write_end(token, End::Unknown),
                }
                drop(oracle);
                Err(self.failed(op, failed.error))
            }
        }
    }

    async fn flush(&self, ns: BlockDevice, op: Op) -> Result<(), Code> {
        let token = self.shared.oracle.borrow_mut().flush_begin();
        if self.plant == Plant::NoFlush {
            self.shared.oracle.borrow_mut().flush_end(token, true);
            return Ok(());
        }
        let done = self.bounded(op, ns.flush()).await;
        if !matches!(done, Some(Ok(()))) {
            self.failed_flushes.set(self.failed_flushes.get() + 1);
        }
        match done {
            None => Err(Code::Dropped),
            Some(Ok(())) => {
                self.shared.oracle.borrow_mut().flush_end(token, true);
                Ok(())
            }
            Some(Err(error)) => {
                let good = self.plant == Plant::AckFailed;
                self.shared.oracle.borrow_mut().flush_end(token, good);
                Err(self.failed(op, error))
            }
        }
    }
}
