//! From batch to batch, over bytes that were read: the one place where batches are believed.

use core_runtime::crc::crc32c;
use hybrid_abi::journal::{BatchFault, BatchHeader, Chain, Expected, Geometry, Mark};
use nvme_driver::IoError;

use crate::chain;
use crate::error::Where;
use crate::medium::Medium;

/// A walk through the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    pub g: Geometry,
    pub id: u64,
    /// Where the next batch begins.
    pub position: u64,
    /// Its first record, once that is known.
    pub sequence: Option<u64>,
    /// Checksum of the record before it, once that is known.
    pub previous: Option<u32>,
    /// Whether batches are chained, and the chain in front of it, once that is known.
    pub chained: bool,
    pub chain: Option<Chain>,
    /// Epochs that it may have.
    pub epochs: (u64, u64),
    /// Latest time so far.
    pub time_ns: u64,
}

/// A batch that was checked.
pub(crate) struct Step<'a> {
    pub header: BatchHeader,
    pub bytes: &'a [u8],
}

impl Walk {
    /// Goes over the batch at the walk's position, which begins at the start of `bytes`; `None`
    /// where it goes on behind the end of `bytes`.
    pub(crate) fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Step<'a>>, BatchFault> {
        if let Ok(header) = BatchHeader::parse(bytes, self.id, self.position, &self.g, crc32c)
            && header.bytes as usize > bytes.len()
        {
            return Ok(None);
        }
        let expected = Expected {
            id: self.id,
            position: self.position,
            sequence: self.sequence,
            previous: self.previous,
            chain: self.chain,
            epoch_min: self.epochs.0,
            epoch_max: self.epochs.1,
        };
        let (header, check) = BatchHeader::check(bytes, &expected, &self.g, crc32c)?;
        self.position = self.g.next_batch(header.end());
        self.sequence = Some(header.end_sequence());
        self.previous = Some(check);
        self.epochs.0 = header.epoch;
        self.time_ns = self.time_ns.max(header.time_ns);
        let bytes = bytes.split_at(header.bytes as usize).0;
        self.chain = self.chained.then(|| chain::behind(bytes));
        Ok(Some(Step { header, bytes }))
    }

    /// The place in front of the next batch.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            position: self.position,
            sequence: self.sequence.unwrap_or(0),
            time_ns: self.time_ns,
            check: self.previous.unwrap_or(0),
            reserved: 0,
        }
    }

    pub(crate) fn place(&self) -> Where {
        Where {
            position: self.position,
            byte: self.g.byte_of(self.position),
            sequence: self.sequence.unwrap_or(0),
        }
    }

    /// Bytes from the walk's position to the end of its segment's batches, at most a buffer.
    pub(crate) fn run_bytes<M: Medium>(&self, medium: &M) -> usize {
        let left = self.g.room_bytes().saturating_sub(self.position % self.g.segment_bytes);
        usize::try_from(left).unwrap_or(usize::MAX).min(medium.chunk_bytes())
    }
}

/// Reads the bytes from `position` on.
pub(crate) async fn read_at<'m, M: Medium>(
    medium: &'m mut M,
    g: &Geometry,
    position: u64,
    bytes: usize,
) -> Result<&'m [u8], IoError> {
    medium.read(g.lba_of(position), bytes).await
}
