//! The log on a device: the engine, its buffers, its I/O, and the task that runs it.

use core::cell::RefCell;
use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};

use core_runtime::mem::{Bump, DmaArena, DmaBuf};
use core_runtime::task::{WaitQueue, WakeSlot};
use hybrid_abi::journal::{Geometry, INDEX_BYTES, JournalSuperblock, Mark};
use nvme_driver::{BlockCommand, BlockDevice, BlockIo, IoError, Lba, WriteFlags};

use crate::engine::{Action, Engine, EngineStats, SLOTS_MAX};
use crate::error::{AppendError, Ended, JournalError};
use crate::limits::{Limits, Priority};
use crate::promise::Promise;

/// What a log is made of.
#[derive(Clone, Copy, Debug)]
pub struct JournalParts {
    /// The device.
    pub device: BlockDevice,
    /// What it promises.
    pub promise: Promise,
    /// DMA memory for its buffers: a batch for each slot, and an index block.
    pub arena: &'static DmaArena,
    /// The superblock that [`crate::take_over`] returned.
    pub superblock: JournalSuperblock,
    /// Bounds.
    pub limits: Limits,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    device: BlockDevice,
    bufs: [Option<DmaBuf>; SLOTS_MAX],
    writes: [Option<BlockIo>; SLOTS_MAX],
    meta_buf: Option<DmaBuf>,
    meta_write: Option<BlockIo>,
    flush: Option<BlockCommand>,
}

/// An open log. Belongs to one core; tasks append and wait, one task runs [`Journal::run`].
#[derive(Debug)]
pub struct Journal {
    inner: RefCell<Inner>,
    waiters: WaitQueue,
    /// The task that runs it.
    runner: WakeSlot,
}

impl Journal {
    /// Opens the log for appends.
    ///
    /// # Errors
    /// [`JournalError::Memory`], [`JournalError::Limits`].
    pub fn new(parts: JournalParts, bump: &Bump) -> Result<&'static Self, JournalError> {
        let JournalParts { device, promise, arena, superblock, limits } = parts;
        let engine = Engine::new(superblock, limits, promise)?;
        let g = engine.geometry();
        let mut bufs = [const { None }; SLOTS_MAX];
        for buf in bufs.iter_mut().take(limits.slots.into()) {
            let fresh = arena.alloc(g.batch_bytes as usize);
            *buf = Some(fresh.map_err(|_| JournalError::Memory("the batches"))?);
        }
        let meta = arena.alloc(g.lba_bytes.max(INDEX_BYTES) as usize);
        let meta_buf = Some(meta.map_err(|_| JournalError::Memory("the superblocks"))?);
        let inner = Inner {
            engine,
            device,
            bufs,
            writes: [const { None }; SLOTS_MAX],
            meta_buf,
            meta_write: None,
            flush: None,
        };
        let (waiters, runner) = (WaitQueue::new(), WakeSlot::new());
        bump.alloc(Self { inner: RefCell::new(inner), waiters, runner })
            .map_err(|_| JournalError::Memory("its state"))
    }

    /// Appends a record; returns its sequence number. It never waits: it is one copy and one
    /// checksum, or an error. The record is durable once [`Journal::acknowledged`] is beyond it.
    ///
    /// # Errors
    /// [`AppendError`]; nothing of the record is in the log then.
    #[inline]
    pub fn append(
        &self,
        priority: Priority,
        kind: u32,
        time_ns: u64,
        payload: &[u8],
    ) -> Result<u64, AppendError> {
        let mut inner = self.inner.borrow_mut();
        let Inner { engine, bufs, .. } = &mut *inner;
        let taken = engine.append(bufs, priority, (kind, time_ns), payload);
        drop(inner);
        self.runner.wake();
        taken
    }

    /// Behind the last acknowledged record.
    #[must_use]
    pub fn acknowledged(&self) -> Mark {
        self.inner.borrow().engine.acknowledged()
    }

    /// Sequence number that the next record gets.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.inner.borrow().engine.next_sequence()
    }

    /// What ended the log, if it has ended.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.inner.borrow().engine.ended()
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        *self.inner.borrow().engine.stats()
    }

    /// The sizes.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.inner.borrow().engine.geometry()
    }

    /// The last durable superblock.
    #[must_use]
    pub fn superblock(&self) -> JournalSuperblock {
        *self.inner.borrow().engine.superblock()
    }

    /// Waits until the record is durable.
    ///
    /// # Errors
    /// [`Ended`] if it may never be: it is unknown then whether it is.
    pub async fn durable(&self, sequence: u64) -> Result<(), Ended> {
        self.wait(|engine| engine.acknowledged().sequence > sequence).await
    }

    /// Waits until all records that were appended are durable.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn sync(&self) -> Result<(), Ended> {
        let all = self.next_sequence();
        self.wait(|engine| engine.acknowledged().sequence >= all).await
    }

    /// Waits for room after an [`AppendError`] that is not final: for an acknowledgement, or a
    /// checkpoint.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn room(&self) -> Result<(), Ended> {
        let seen = {
            let inner = self.inner.borrow();
            (inner.engine.acknowledged().sequence, inner.engine.superblock().generation)
        };
        let has_moved = |engine: &Engine| {
            (engine.acknowledged().sequence, engine.superblock().generation) != seen
                || engine.pending() == 0 && engine.is_checkpointed()
        };
        self.wait(has_moved).await
    }

    /// Makes a checkpoint, so that the next opening begins here.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn checkpoint(&self) -> Result<(), Ended> {
        self.sync().await?;
        self.inner.borrow_mut().engine.ask_checkpoint();
        self.runner.wake();
        self.wait(Engine::is_checkpointed).await
    }

    /// Lets the log begin at `sequence`, whose batch lies at `position`; see
    /// [`Engine::truncate`]. It does not wait: the segments before it are free a little later.
    pub fn release(&self, position: u64, sequence: u64) {
        self.inner.borrow_mut().engine.truncate(position, sequence);
        self.runner.wake();
    }

    /// Like [`Journal::release`], and waits until the segments are free.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn truncate(&self, position: u64, sequence: u64) -> Result<(), Ended> {
        self.release(position, sequence);
        self.wait(|engine| engine.superblock().front_sequence >= sequence).await
    }

    /// Ends the log in order: everything durable, a checkpoint, nothing in flight.
    ///
    /// # Errors
    /// [`Ended`] if it had ended before.
    pub async fn close(&self) -> Result<(), Ended> {
        self.checkpoint().await?;
        self.inner.borrow_mut().engine.close_log();
        self.runner.wake();
        Ok(())
    }

    /// Runs the log until it has ended and nothing is in flight. One task awaits this.
    pub fn run(&self) -> impl Future<Output = Ended> {
        poll_fn(|cx| self.poll(cx))
    }

    /// One bounded turn: takes what ended, starts what is to be done. [`Journal::run`] does it for
    /// a task; a loop of one's own may call it instead.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Ended> {
        self.runner.register(cx.waker());
        let mut inner = self.inner.borrow_mut();
        let before = inner.mark();
        let idle = inner.turn(cx);
        let after = inner.mark();
        let ended = inner.engine.ended();
        if ended.is_some() && idle {
            // Nothing is in flight and nothing will be: the buffers go back to the arena.
            inner.bufs = [const { None }; SLOTS_MAX];
            inner.meta_buf = None;
        }
        drop(inner);
        if before != after {
            self.waiters.wake_all();
        }
        match ended {
            Some(ended) if idle => Poll::Ready(ended),
            _ => Poll::Pending,
        }
    }

    async fn wait(&self, is: impl Fn(&Engine) -> bool) -> Result<(), Ended> {
        let ask = || {
            let inner = self.inner.borrow();
            if is(&inner.engine) {
                return Some(Ok(()));
            }
            inner.engine.ended().map(Err)
        };
        // Asked here, because a wait queue with waiters in it does not ask at once.
        match ask() {
            Some(outcome) => outcome,
            None => self.waiters.wait_until(ask).await,
        }
    }
}

impl Inner {
    /// What waiters look at.
    fn mark(&self) -> (u64, u64, bool) {
        let engine = &self.engine;
        let (acked, superblock) = (engine.acknowledged(), engine.superblock());
        (acked.sequence, superblock.generation, engine.ended().is_some())
    }

    /// Ends and begins I/O until nothing moves; returns whether nothing is in flight.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let mut moved = self.reap(cx);
            while let Some(action) = self.engine.next(&mut self.bufs) {
                self.begin(action);
                moved = true;
            }
            if !moved {
                return self.engine.is_idle();
            }
        }
    }

    fn begin(&mut self, action: Action) {
        match action {
            Action::Write { slot, lba, bytes, fua } => {
                let flags = if fua { WriteFlags::FUA } else { WriteFlags::empty() };
                match with_len(self.bufs[slot].take(), bytes) {
                    Some(buf) => {
                        self.writes[slot] = Some(self.device.write(Lba(lba), buf, flags));
                    }
                    None => self.engine.written(slot, Err(IoError::NoMemory)),
                }
            }
            Action::WriteMeta { lba, bytes } => match with_len(self.meta_buf.take(), bytes) {
                Some(mut buf) => {
                    self.engine.encode_meta(buf.as_mut_slice());
                    self.meta_write = Some(self.device.write(Lba(lba), buf, WriteFlags::empty()));
                }
                None => self.engine.meta_written(Err(IoError::NoMemory)),
            },
            Action::Flush => self.flush = Some(self.device.flush()),
        }
    }

    /// Takes what ended; says whether anything did.
    fn reap(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        let full = self.engine.geometry().batch_bytes as usize;
        for (slot, (io, kept)) in self.writes.iter_mut().zip(&mut self.bufs).enumerate() {
            if let Some(result) = ended(io, kept, full, cx) {
                self.engine.written(slot, result);
                moved = true;
            }
        }
        let full = INDEX_BYTES as usize;
        if let Some(result) = ended(&mut self.meta_write, &mut self.meta_buf, full, cx) {
            self.engine.meta_written(result);
            moved = true;
        }
        if let Some(flush) = &mut self.flush
            && let Poll::Ready(result) = Pin::new(flush).poll(cx)
        {
            self.flush = None;
            self.engine.flushed(result);
            moved = true;
        }
        moved
    }
}

/// The buffer with its first `bytes`; it has them, since it was made for them.
fn with_len(buf: Option<DmaBuf>, bytes: usize) -> Option<DmaBuf> {
    buf.and_then(|mut buf| buf.set_len(bytes).then_some(buf))
}

/// The outcome of an I/O that ended; its buffer goes back to its place, `full` bytes long.
fn ended(
    io: &mut Option<BlockIo>,
    kept: &mut Option<DmaBuf>,
    full: usize,
    cx: &mut Context<'_>,
) -> Option<Result<(), IoError>> {
    let Poll::Ready(outcome) = Pin::new(io.as_mut()?).poll(cx) else {
        return None;
    };
    *io = None;
    let (buf, result) = match outcome {
        Ok(buf) => (Some(buf), Ok(())),
        Err(failed) => (failed.buf, Err(failed.error)),
    };
    *kept = buf.map(|mut buf| {
        let fits = buf.set_len(full);
        debug_assert!(fits, "the buffer had this length before");
        buf
    });
    Some(result)
}
