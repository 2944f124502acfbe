//! The journal of a feed: packets recorded as they come, replayed from a message, a time or a
//! snapshot of the books.
//!
//! Called by the job's task. A record is one MoldUDP64 packet (`hybrid_abi::feed_journal`); what it
//! means is found out when it is read, by the framer and the decoder of every other way in, so that
//! what is recorded is what came.

mod books;
mod pace;
mod record;
mod replay;

use hybrid_abi::feed_journal::{JOB_RECORD, JOURNAL_CHAIN, JournalFigures, JournalJob};
use journal::{DeviceMedium, FormatOptions, From, JournalError, Medium as _, Recovered};
use nvme_driver::BlockDevice;

use super::error::HandlerError;
use super::job::{Desk, started, tell};
use super::store::Store;

pub use record::record;
pub use replay::replay;

/// Most bytes of a batch of packets: some twenty full ones, and a replay's longest stretch.
const BATCH_BYTES: u32 = 32 << 10;
/// Bytes of a segment.
const SEGMENT_BYTES: u64 = 2 << 20;

/// A job's journal.
#[derive(Clone, Copy, Debug)]
pub struct JournalDesk {
    /// Partition, device, metrics.
    pub desk: Desk,
    /// The device.
    pub block: BlockDevice,
    /// What is asked for.
    pub how: JournalJob,
}

impl JournalDesk {
    /// Tells the host what blocks the device has.
    async fn tell_started(&self) {
        let store = Store { block: self.block, arena: self.desk.partition.arena() };
        tell(self.desk, &started(self.desk, store, JOB_RECORD)).await;
    }

    fn medium(&self, bytes: u32) -> Result<DeviceMedium, HandlerError> {
        let promise = DeviceMedium::promise_of(self.block, self.desk.device.controller());
        let arena = self.desk.partition.arena();
        Ok(DeviceMedium::new(self.block, promise, arena, bytes as usize)?)
    }

    /// The journal on the device.
    async fn open(&self, medium: &mut DeviceMedium) -> Result<Recovered, HandlerError> {
        let found = journal::recover(medium, From::Checkpoint).await;
        if let Err(JournalError::Buffer { batch, .. }) = found {
            // Made by somebody else, with larger batches.
            *medium = self.medium(batch)?;
            return Ok(journal::recover(medium, From::Checkpoint).await?);
        }
        Ok(found?)
    }

    /// The journal on the device; a new one where there is nothing, or where it may be overwritten.
    /// One without a chain is none where a chain is asked for: it could not be given one later.
    async fn open_or_make(
        &self,
        medium: &mut DeviceMedium,
        (overwrite, created_unix_ns): (bool, u64),
        figures: &mut JournalFigures,
    ) -> Result<Recovered, HandlerError> {
        let refused = match self.open(medium).await {
            Err(HandlerError::Journal(error @ JournalError::Empty)) => error,
            Err(HandlerError::Journal(
                error @ (JournalError::Foreign { .. } | JournalError::Superblocks { .. }),
            )) if overwrite => error,
            Ok(found) if self.how.has(JOURNAL_CHAIN) && !found.superblock.is_chained() => {
                return Err(HandlerError::NoChain);
            }
            other => return other,
        };
        let options = FormatOptions {
            created_unix_ns,
            batch_bytes: BATCH_BYTES.max(medium.lba_bytes()),
            segment_bytes: SEGMENT_BYTES,
            snapshot_bytes: self.how.snapshot_bytes,
            chain: self.how.has(JOURNAL_CHAIN),
            overwrite: refused != JournalError::Empty,
            ..FormatOptions::new(self.how.id, "feed")
        };
        journal::format(medium, &options).await?;
        figures.made = 1;
        self.open(medium).await
    }
}
