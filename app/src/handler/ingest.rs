//! Writes a feed to the device: chunk by chunk, a window of writes in flight.
//!
//! Called as a task. The feed comes from a [`Source`] in whatever pieces it likes; its framing is
//! checked on the way, so that garbage never gets as far as a complete store. Order of writes:
//! superblock (incomplete), flush, chunks, flush, superblock (complete), flush.
//!
//! Budget: one chunk at a time is framed, summed and posted, some 20 us; then the task yields.

use core_runtime::crc::crc32c;
use core_runtime::mem::DmaBuf;
use core_runtime::task::Spawner;
use heapless::Deque;
use hybrid_abi::feed::{
    CHUNK_HEADER_BYTES, ChunkHeader, FLAG_COMPLETE, FLAG_SYNTHETIC, Shape, Superblock,
};
use nvme_driver::spec::Lba;
use nvme_driver::{BlockIo, WriteFlags};
use zerocopy::IntoBytes;

use super::WINDOW_MAX;
use super::error::HandlerError;
use super::probes;
use super::progress::Progress;
use super::store::Store;
use crate::error::{FeedError, FrameFault};
use crate::framing::FileFramer;

/// What a source has at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes were put at the start of the slice.
    Bytes(usize),
    /// Nothing now; ask again.
    Pending,
    /// The feed is over.
    End,
    /// The feed will not come to its end.
    Failed,
}

/// Where a feed comes from. Never blocks.
pub trait Source {
    /// Puts the next bytes of the feed at the start of `room`.
    fn fill(&mut self, room: &mut [u8]) -> Filled;
}

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub struct IngestJob<'a> {
    /// Name of the feed, kept in the superblock.
    pub name: &'a str,
    /// Whether it was generated.
    pub synthetic: bool,
    /// Wall clock, nanoseconds since 1970-01-01.
    pub created_unix_ns: u64,
    /// Whether whatever the device carries may be overwritten.
    pub overwrite: bool,
    /// Writes in flight, at most [`WINDOW_MAX`].
    pub window: usize,
    /// Bytes of the feed, where that is known before; else 0.
    pub feed_bytes: u64,
}

/// Writes the feed and returns the superblock that describes it.
///
/// # Errors
/// [`HandlerError`]; the store on the device is then marked incomplete.
pub async fn ingest<S: Source>(
    store: Store,
    source: &mut S,
    job: IngestJob<'_>,
    spawner: Spawner,
    progress: &Progress,
) -> Result<Superblock, HandlerError> {
    let shape = store.shape()?;
    store.check_room(shape, job.feed_bytes)?;
    let epoch = store.next_epoch(job.overwrite).await?;
    let mut superblock = Superblock::new(epoch, job.name, 0, shape);
    superblock.created_unix_ns = job.created_unix_ns;
    if job.synthetic {
        superblock.flags |= FLAG_SYNTHETIC;
    }
    store.write_superblock(superblock).await?;

    let mut writer = ChunkWriter::new(store, shape, epoch, job.window);
    loop {
        if progress.stop.get() {
            return Err(HandlerError::Interrupted);
        }
        let mut chunk = writer.next_buffer().await?;
        let filled = fill_chunk(source, &mut chunk, spawner, progress).await?;
        if filled == 0 {
            break;
        }
        writer.post(chunk, filled)?;
        let bytes = u32::try_from(filled).unwrap_or(u32::MAX);
        probes::WRITTEN.emit(spawner.probes(), bytes, writer.posted.saturating_sub(1), 0);
        Progress::add(&progress.bytes_written, filled as u64);
        progress.messages.set(writer.framer.messages());
        if filled < shape.payload_bytes() as usize {
            break;
        }
        spawner.yield_now().await;
    }
    writer.drain().await?;
    writer.framer.finish().map_err(FeedError::from)?;
    store.block.flush().await.map_err(|error| HandlerError::Device { what: "flush", error })?;
    probes::FLUSHED.emit(spawner.probes(), 0, writer.posted, 0);

    superblock.feed_bytes = writer.feed_bytes;
    superblock.chunk_count = shape.chunks_for(writer.feed_bytes);
    superblock.message_count = writer.framer.messages();
    superblock.flags |= FLAG_COMPLETE;
    // As it lies on the device: a replay that is started again reads it from there, and has to
    // recognise the feed.
    let superblock = superblock.sealed();
    store.write_superblock(superblock).await?;
    Ok(superblock)
}

/// Fills a chunk's payload as far as the source goes; returns its bytes.
async fn fill_chunk<S: Source>(
    source: &mut S,
    chunk: &mut DmaBuf,
    spawner: Spawner,
    progress: &Progress,
) -> Result<usize, HandlerError> {
    let mut filled = 0;
    loop {
        let room = &mut chunk.as_mut_slice()[CHUNK_HEADER_BYTES + filled..];
        if room.is_empty() {
            return Ok(filled);
        }
        match source.fill(room) {
            Filled::Bytes(bytes) => filled += bytes,
            Filled::Pending => {
                if progress.stop.get() {
                    return Err(HandlerError::Interrupted);
                }
                spawner.yield_now().await;
            }
            Filled::End => return Ok(filled),
            Filled::Failed => return Err(HandlerError::SourceFailed),
        }
    }
}

/// Chunks on their way to the device.
struct ChunkWriter {
    store: Store,
    shape: Shape,
    epoch: u64,
    window: usize,
    framer: FileFramer,
    feed_bytes: u64,
    posted: u64,
    /// Number of the chunk that `in_flight` begins with.
    oldest: u64,
    buffers: usize,
    in_flight: Deque<BlockIo, WINDOW_MAX>,
}

impl ChunkWriter {
    fn new(store: Store, shape: Shape, epoch: u64, window: usize) -> Self {
        Self {
            store,
            shape,
            epoch,
            window: window.clamp(1, WINDOW_MAX),
            framer: FileFramer::new(),
            feed_bytes: 0,
            posted: 0,
            oldest: 0,
            buffers: 0,
            in_flight: Deque::new(),
        }
    }

    /// A buffer for the next chunk: a new one while the window is not full, else the oldest.
    async fn next_buffer(&mut self) -> Result<DmaBuf, HandlerError> {
        if self.buffers < self.window {
            let chunk_bytes = self.shape.chunk_bytes as usize;
            let buf = self.store.buffer(chunk_bytes).map_err(|error| match error {
                HandlerError::NoDma { error, .. } => {
                    HandlerError::NoDma { chunks: self.window, error }
                }
                other => other,
            })?;
            self.buffers += 1;
            return Ok(buf);
        }
        match self.oldest().await? {
            Some(buf) => Ok(buf),
            // Cannot be while the window is full; a new buffer is right all the same.
            None => self.store.buffer(self.shape.chunk_bytes as usize),
        }
    }

    /// Waits for the oldest write.
    async fn oldest(&mut self) -> Result<Option<DmaBuf>, HandlerError> {
        let Some(write) = self.in_flight.pop_front() else { return Ok(None) };
        let chunk = self.oldest;
        self.oldest += 1;
        match write.await {
            Ok(buf) => Ok(Some(buf)),
            Err(failed) => Err(HandlerError::Chunk { what: "write", chunk, error: failed.error }),
        }
    }

    /// Frames, seals and posts a chunk with `filled` bytes of payload.
    fn post(&mut self, mut chunk: DmaBuf, filled: usize) -> Result<(), HandlerError> {
        let sequence = self.posted;
        let lba = self.shape.lba_of(sequence);
        let end = self.shape.data_offset + (sequence + 1) * u64::from(self.shape.chunk_bytes);
        let have_bytes = self.store.namespace_bytes();
        if end > have_bytes {
            return Err(HandlerError::TooSmall { need_bytes: end, have_bytes });
        }
        let (head, rest) = chunk.as_mut_slice().split_at_mut(CHUNK_HEADER_BYTES);
        let (payload, padding) = rest.split_at_mut(filled);
        padding.fill(0);
        let mut header = ChunkHeader::new(self.epoch, sequence, lba);
        self.frame(payload, &mut header)?;
        header.payload_bytes = u32::try_from(filled).unwrap_or(u32::MAX);
        header.payload_crc32c = crc32c(payload);
        head.copy_from_slice(header.sealed().as_bytes());
        let write = self.store.block.write(Lba(lba), chunk, WriteFlags::empty());
        // The window is at most the deque's capacity, and `next_buffer` made room.
        let _ = self.in_flight.push_back(write);
        self.posted += 1;
        self.feed_bytes += filled as u64;
        Ok(())
    }

    /// Checks the framing of a payload and notes where its first message begins.
    fn frame(&mut self, payload: &[u8], header: &mut ChunkHeader) -> Result<(), HandlerError> {
        let start = self.feed_bytes;
        let before = self.framer.position();
        let mut first = (before.offset >= start).then_some(before);
        self.framer
            .push(payload, |frame| {
                if first.is_none() && frame.at.offset >= start {
                    first = Some(frame.at);
                }
                Ok::<(), FrameFault>(())
            })
            .map_err(FeedError::from)?;
        let after = self.framer.position();
        let first = first.unwrap_or(after);
        header.first_message = first.number.saturating_sub(1);
        let inside = first.offset.checked_sub(start).filter(|at| *at < payload.len() as u64);
        header.first_message_offset =
            inside.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Waits for everything in flight.
    async fn drain(&mut self) -> Result<(), HandlerError> {
        while self.oldest().await?.is_some() {}
        Ok(())
    }
}
