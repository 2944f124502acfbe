//! Blocks, one request at a time: what opening, reading and snapshots need. Not the hot path.
//!
//! A trait, so that the simulation of the tests and a file can stand in for a device; records on
//! their way in never go through it.

use core::future::Future;

use core_runtime::mem::{DmaArena, DmaBuf};
use nvme_driver::{BlockDevice, Controller, IoError, Lba, ReadAgain, WriteFlags};

use crate::error::JournalError;
use crate::promise::Promise;

/// A device of blocks with a buffer of its own.
pub trait Medium {
    /// Bytes of a block.
    fn lba_bytes(&self) -> u32;
    /// Blocks.
    fn blocks(&self) -> u64;
    /// What it promises.
    fn promise(&self) -> Promise;
    /// Most bytes of one request, a multiple of a block.
    fn chunk_bytes(&self) -> usize;
    /// Reads `bytes` from block `lba` into the buffer.
    fn read(&mut self, lba: u64, bytes: usize) -> impl Future<Output = Result<&[u8], IoError>>;
    /// Writes `bytes` at block `lba` from the buffer, which `fill` has filled.
    fn write(
        &mut self,
        lba: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> impl Future<Output = Result<(), IoError>>;
    /// Writes back what the last read of the same place and length returned.
    fn write_back(&mut self, lba: u64, bytes: usize) -> impl Future<Output = Result<(), IoError>>;
    /// Makes durable what was written.
    fn flush(&mut self) -> impl Future<Output = Result<(), IoError>>;
}

/// A [`BlockDevice`] with a buffer in DMA memory. A read that was lost in a reset is read again; a
/// write or a flush never is.
#[derive(Debug)]
pub struct DeviceMedium {
    device: BlockDevice,
    promise: Promise,
    /// There unless an I/O is in flight, or was lost with the buffer.
    buf: Option<DmaBuf>,
    chunk: usize,
}

impl DeviceMedium {
    /// A buffer of `chunk` bytes for `device`. It should hold a batch, and for reading much of a
    /// log a megabyte.
    ///
    /// # Errors
    /// [`JournalError::Memory`], or [`JournalError::Io`] of a device that cannot be used.
    pub fn new(
        device: BlockDevice,
        promise: Promise,
        arena: &'static DmaArena,
        chunk: usize,
    ) -> Result<Self, JournalError> {
        let lba = device.lba_bytes() as usize;
        if lba == 0 {
            return Err(JournalError::Io(IoError::Gone));
        }
        let chunk = chunk.next_multiple_of(lba);
        let buf = arena.alloc(chunk).map_err(|_| JournalError::Memory("the buffer for reads"))?;
        Ok(Self { device, promise, buf: Some(buf), chunk })
    }

    /// What `device` promises, read from its controller where it has one.
    #[must_use]
    pub fn promise_of(device: BlockDevice, controller: Option<&Controller>) -> Promise {
        Promise::of(device, controller)
    }

    fn take(&mut self, bytes: usize) -> Result<DmaBuf, IoError> {
        let mut buf = self.buf.take().ok_or(IoError::NoMemory)?;
        if bytes > self.chunk || !buf.set_len(bytes) {
            self.buf = Some(buf);
            return Err(IoError::BadLength {
                len_bytes: bytes,
                lba_bytes: self.device.lba_bytes(),
            });
        }
        Ok(buf)
    }

    async fn put(&mut self, lba: u64, buf: DmaBuf) -> Result<(), IoError> {
        match self.device.write(Lba(lba), buf, WriteFlags::empty()).await {
            Ok(buf) => self.buf = Some(buf),
            Err(failed) => {
                self.buf = failed.buf;
                return Err(failed.error);
            }
        }
        Ok(())
    }
}

impl Medium for DeviceMedium {
    fn lba_bytes(&self) -> u32 {
        self.device.lba_bytes()
    }

    fn blocks(&self) -> u64 {
        self.device.blocks()
    }

    fn promise(&self) -> Promise {
        self.promise
    }

    fn chunk_bytes(&self) -> usize {
        self.chunk
    }

    async fn read(&mut self, lba: u64, bytes: usize) -> Result<&[u8], IoError> {
        let buf = self.take(bytes)?;
        match ReadAgain::default().read(self.device, Lba(lba), buf).await {
            Ok(buf) => Ok(self.buf.insert(buf).as_slice()),
            Err(failed) => {
                self.buf = failed.buf;
                Err(failed.error)
            }
        }
    }

    async fn write(
        &mut self,
        lba: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), IoError> {
        let mut buf = self.take(bytes)?;
        fill(buf.as_mut_slice());
        self.put(lba, buf).await
    }

    async fn write_back(&mut self, lba: u64, bytes: usize) -> Result<(), IoError> {
        let buf = self.take(bytes)?;
        self.put(lba, buf).await
    }

    async fn flush(&mut self) -> Result<(), IoError> {
        self.device.flush().await
    }
}
