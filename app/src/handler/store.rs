//! A feed store on a namespace: its superblock read, checked, written.
//!
//! Used by `ingest` and `replay`. A store begins at block 0; see `hybrid_abi::feed` for the layout
//! and for why the superblock is written twice.

use core::fmt;

use core_runtime::mem::{DmaArena, DmaBuf};
use core_runtime::partition::Partition;
use hybrid_abi::alert::Severity;
use hybrid_abi::feed::{SUPERBLOCK_BYTES, Shape, Superblock};
use nvme_driver::spec::Lba;
use nvme_driver::{BlockDevice, IoError, ReadAgain, WriteFlags};
use zerocopy::IntoBytes;

use super::error::HandlerError;

/// Bytes at the start of a device that are looked at before it is overwritten. Partition tables,
/// filesystems, LVM and RAID put their signatures within the first 1 MiB (or at the very end).
const LOOK_BYTES: u64 = 1 << 20;

/// Bytes at the end that are looked at: old RAID superblocks lie within the last 128 KiB.
const LOOK_END_BYTES: u64 = 128 << 10;

/// A namespace that carries a feed, or will.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    /// The device.
    pub block: BlockDevice,
    /// Where its buffers come from.
    pub arena: &'static DmaArena,
}

impl Store {
    /// Bytes of the namespace.
    #[must_use]
    pub fn namespace_bytes(&self) -> u64 {
        self.block.blocks().saturating_mul(u64::from(self.block.lba_bytes()))
    }

    /// The shape that a store on this namespace has.
    ///
    /// # Errors
    /// [`HandlerError::Misfit`] if the block size is none that a store can have.
    pub fn shape(&self) -> Result<Shape, HandlerError> {
        Shape::new(super::CHUNK_BYTES, self.block.lba_bytes()).map_err(HandlerError::Misfit)
    }

    /// Refuses a namespace too small for a feed of `feed_bytes`, before anything is written.
    ///
    /// # Errors
    /// [`HandlerError::TooSmall`].
    pub fn check_room(&self, shape: Shape, feed_bytes: u64) -> Result<(), HandlerError> {
        let chunks = shape.chunks_for(feed_bytes).saturating_mul(shape.chunk_bytes.into());
        let need_bytes = shape.data_offset.saturating_add(chunks);
        let have_bytes = self.namespace_bytes();
        if need_bytes > have_bytes {
            return Err(HandlerError::TooSmall { need_bytes, have_bytes });
        }
        Ok(())
    }

    /// A buffer of `bytes`.
    ///
    /// # Errors
    /// [`HandlerError::NoDma`].
    pub fn buffer(&self, bytes: usize) -> Result<DmaBuf, HandlerError> {
        self.arena.alloc(bytes).map_err(|error| HandlerError::NoDma { chunks: 1, error })
    }

    /// Reads and checks the superblock.
    ///
    /// # Errors
    /// [`HandlerError::NoFeed`], [`HandlerError::Incomplete`], [`HandlerError::Misfit`], or what
    /// the device says.
    pub async fn open(&self) -> Result<Superblock, HandlerError> {
        let superblock = self.read_superblock().await?.map_err(HandlerError::NoFeed)?;
        superblock
            .check_fits(self.namespace_bytes(), self.block.lba_bytes())
            .map_err(HandlerError::Misfit)?;
        if !superblock.is_complete() {
            return Err(HandlerError::Incomplete);
        }
        Ok(superblock)
    }

    /// The superblock as it is, whatever it is.
    async fn read_superblock(
        &self,
    ) -> Result<Result<Superblock, hybrid_abi::AbiError>, HandlerError> {
        let block = self.head_bytes();
        if self.namespace_bytes() < block as u64 {
            let (need_bytes, have_bytes) = (block as u64, self.namespace_bytes());
            return Err(HandlerError::TooSmall { need_bytes, have_bytes });
        }
        let buf = self.read(0, block, "read of the superblock").await?;
        Ok(Superblock::parse(buf.as_slice()))
    }

    /// The epoch for a new feed: one more than that of the feed that is there.
    ///
    /// # Errors
    /// [`HandlerError::Foreign`] if the device carries something else and `overwrite` is not set.
    pub async fn next_epoch(&self, overwrite: bool) -> Result<u64, HandlerError> {
        if let Ok(superblock) = self.read_superblock().await? {
            return Ok(superblock.epoch.wrapping_add(1));
        }
        if !overwrite {
            self.refuse_foreign().await?;
        }
        Ok(1)
    }

    /// Fails at the first byte that is not zero, at the start or the end of the device.
    async fn refuse_foreign(&self) -> Result<(), HandlerError> {
        let size = self.namespace_bytes();
        let step = super::CHUNK_BYTES as usize;
        let end = size.saturating_sub(LOOK_END_BYTES).max(LOOK_BYTES.min(size));
        let mut at = 0;
        while at < size {
            let len = step.min(usize::try_from(size - at).unwrap_or(step));
            let buf = self.read(at, len, "look at what the device carries").await?;
            if let Some(offset) = buf.as_slice().iter().position(|&byte| byte != 0) {
                return Err(HandlerError::Foreign { at: at + offset as u64 });
            }
            at += len as u64;
            if at >= LOOK_BYTES && at < end {
                // Chunks are multiples of every block size, so that this stays aligned.
                at = end - end % step as u64;
            }
        }
        Ok(())
    }

    /// Writes `superblock`, sealed, and makes it durable.
    ///
    /// # Errors
    /// What the device says.
    pub async fn write_superblock(&self, superblock: Superblock) -> Result<(), HandlerError> {
        let mut buf = self.buffer(self.head_bytes())?;
        let (head, rest) = buf.as_mut_slice().split_at_mut(SUPERBLOCK_BYTES);
        head.copy_from_slice(superblock.sealed().as_bytes());
        rest.fill(0);
        self.block
            .write(Lba(0), buf, WriteFlags::empty())
            .await
            .map_err(|failed| device("write of the superblock", failed.error))?;
        self.block.flush().await.map_err(|error| device("flush", error))
    }

    /// Bytes from the start up to chunk 0.
    fn head_bytes(&self) -> usize {
        SUPERBLOCK_BYTES.max(self.block.lba_bytes() as usize)
    }

    /// Reads `len` bytes from byte `at`, both whole blocks; again where that was lost.
    async fn read(&self, at: u64, len: usize, what: &'static str) -> Result<DmaBuf, HandlerError> {
        let slba = Lba(at / u64::from(self.block.lba_bytes().max(1)));
        let buf = self.buffer(len)?;
        let read = ReadAgain::default().read(self.block, slba, buf).await;
        read.map_err(|failed| device(what, failed.error))
    }
}

/// The alert of a read that was lost and is read again.
pub(super) const ALERT_READ_AGAIN: u32 = 2;

/// Tells the host that reads were lost and are repeated.
pub(super) fn tell_again(partition: &'static Partition, what: fmt::Arguments<'_>, lost: IoError) {
    let times = ReadAgain::TIMES;
    partition.alert(
        Severity::WARNING,
        ALERT_READ_AGAIN,
        format_args!("{what} is read again, up to {times} times, on the same device: {lost}"),
    );
}

/// A command that failed, outside the chunks.
fn device(what: &'static str, error: IoError) -> HandlerError {
    HandlerError::Device { what, error }
}
