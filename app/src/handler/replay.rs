//! Reads a feed from the device with a window of reads in flight, and keeps the books.
//!
//! Called as a task. Reads are posted ahead and taken in order; each chunk's header and CRC32C are
//! checked before a byte of it is decoded. One that was lost in a reset, or aborted, is read again
//! in its turn: while it is, the window behind it stays as it is. Decoding goes in slices of
//! [`SLICE_BYTES`]: between two slices the task looks at its budget and at the room in the event
//! ring, so that completions are reaped while it works and no event is dropped.

use core_runtime::crc::crc32c;
use core_runtime::mem::DmaBuf;
use core_runtime::partition::Partition;
use core_runtime::task::Spawner;
use heapless::Deque;
use hybrid_abi::feed::{CHUNK_HEADER_BYTES, ChunkHeader, Superblock};
use nvme_driver::spec::Lba;
use nvme_driver::{BlockIo, Failed, IoError, ReadAgain};

use super::WINDOW_MAX;
use super::error::HandlerError;
use super::keep::{Keeper, Place};
use super::probes;
use super::progress::Progress;
use super::sink::EventSink;
use super::steps::StepWatch;
use super::store::{self, Store};
use crate::pipeline::Pipeline;

/// Bytes decoded between two looks at budget and ring: some 60 messages, 3 to 6 us.
pub const SLICE_BYTES: usize = 2048;

/// What is to be read.
#[derive(Debug)]
pub struct ReplayJob<'a> {
    /// Reads in flight, at most [`WINDOW_MAX`].
    pub window: usize,
    /// Where it begins.
    pub from: Place,
    /// What it leaves to the next incarnation.
    pub keeper: &'a Keeper,
    /// Whose core this is, and whose host is told of what goes wrong.
    pub partition: &'static Partition,
    /// Who measures its steps, where a report wants them.
    pub steps: StepWatch,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Bytes of the feed.
    pub bytes: u64,
    /// Messages of the feed.
    pub messages: u64,
}

/// Replays the feed that `superblock` describes through `pipeline` into `sink`.
///
/// # Errors
/// [`HandlerError`]; the books are then as they were before the message or chunk at fault.
pub async fn replay(
    store: Store,
    superblock: &Superblock,
    job: ReplayJob<'_>,
    pipeline: &mut Pipeline<'static>,
    sink: &mut EventSink,
    progress: &Progress,
) -> Result<Replayed, HandlerError> {
    progress.bytes_total.set(superblock.feed_bytes);
    let ReplayJob { window, from, keeper, partition, mut steps } = job;
    let (clock, spawner) = (partition.clock(), partition.spawner());
    let mut reader = ChunkReader::start(store, superblock, window, from.chunk)?;
    let mut offset = usize::try_from(from.offset).unwrap_or(usize::MAX);
    while let Some((sequence, read)) = reader.next() {
        steps.begin();
        let buf = match read.await {
            Ok(buf) => buf,
            Err(failed) => reader.again(partition, sequence, failed).await?,
        };
        steps.waited();
        let probes = spawner.probes();
        probes::CHUNK.emit(probes, 0, sequence, 0);
        let payload = checked_payload(buf.as_slice(), superblock, sequence)?;
        steps.checked();
        let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        probes::CHECKED.emit(probes, bytes, sequence, 0);
        for slice in payload.get(offset..).unwrap_or_default().chunks(SLICE_BYTES) {
            if sink.has_room(slice.len()) != Some(true) {
                let place = Place { chunk: sequence, offset: offset as u64 };
                keeper.seal(place, (pipeline, sink), (progress, clock.now()));
                wait_for_room(sink, slice.len(), spawner, progress).await?;
            }
            keeper.open();
            steps.feed(pipeline, slice, sink)?;
            offset += slice.len();
            Progress::add(&progress.bytes_read, slice.len() as u64);
            if spawner.budget().exceeded() {
                let place = Place { chunk: sequence, offset: offset as u64 };
                keeper.seal(place, (pipeline, sink), (progress, clock.now()));
                spawner.yield_now().await;
            }
        }
        offset = 0;
        let place = Place { chunk: sequence + 1, offset: 0 };
        keeper.seal(place, (pipeline, sink), (progress, clock.now()));
        progress.messages.set(pipeline.messages());
        probes::DECODED.emit(probes, 0, sequence, pipeline.messages());
        if progress.stop.get() {
            return Err(HandlerError::Interrupted);
        }
        reader.post(buf);
    }
    pipeline.finish()?;
    Ok(Replayed { bytes: progress.bytes_read.get(), messages: pipeline.messages() })
}

/// The payload of chunk `sequence`, once header and checksum are right.
fn checked_payload<'a>(
    chunk: &'a [u8],
    superblock: &Superblock,
    sequence: u64,
) -> Result<&'a [u8], HandlerError> {
    let header = ChunkHeader::parse_with(chunk, superblock, sequence, crc32c)
        .map_err(|error| HandlerError::Damaged { chunk: sequence, error })?;
    let len = header.payload_bytes as usize;
    let payload = chunk.get(CHUNK_HEADER_BYTES..CHUNK_HEADER_BYTES + len).unwrap_or_default();
    let computed = crc32c(payload);
    if computed != header.payload_crc32c {
        let stored = header.payload_crc32c;
        return Err(HandlerError::DamagedPayload { chunk: sequence, stored, computed });
    }
    Ok(payload)
}

/// Waits until the events of `feed_bytes` fit into the ring.
async fn wait_for_room(
    sink: &EventSink,
    feed_bytes: usize,
    spawner: Spawner,
    progress: &Progress,
) -> Result<(), HandlerError> {
    let mut waited = false;
    loop {
        match sink.has_room(feed_bytes) {
            Some(true) => return Ok(()),
            None => return Err(HandlerError::RingClosed),
            Some(false) if progress.stop.get() => return Err(HandlerError::Interrupted),
            Some(false) => {}
        }
        if !waited {
            waited = true;
            Progress::add(&progress.ring_waits, 1);
            let wanted = u32::try_from(feed_bytes).unwrap_or(u32::MAX);
            let waits = progress.ring_waits.get();
            probes::RING_FULL.emit(spawner.probes(), wanted, waits, 0);
        }
        spawner.yield_now().await;
    }
}

/// Chunks on their way from the device, in order.
struct ChunkReader<'s> {
    store: Store,
    superblock: &'s Superblock,
    /// Number of the chunk that will be asked for next.
    wanted: u64,
    /// Number of the chunk that `in_flight` begins with.
    oldest: u64,
    in_flight: Deque<BlockIo, WINDOW_MAX>,
    /// Chunks below were asked for when the host was last told of a loss: one line for all that is
    /// lost together.
    told: u64,
}

impl<'s> ChunkReader<'s> {
    /// Posts the first window of reads.
    fn start(
        store: Store,
        superblock: &'s Superblock,
        window: usize,
        first: u64,
    ) -> Result<Self, HandlerError> {
        let in_flight = Deque::new();
        let mut reader =
            Self { store, superblock, wanted: first, oldest: first, in_flight, told: 0 };
        let window = window.clamp(1, WINDOW_MAX);
        let left = superblock.chunk_count.saturating_sub(first);
        for _ in 0..left.min(window as u64) {
            let chunk_bytes = superblock.chunk_bytes as usize;
            let buf = store
                .arena
                .alloc(chunk_bytes)
                .map_err(|error| HandlerError::NoDma { chunks: window, error })?;
            reader.post(buf);
        }
        Ok(reader)
    }

    /// Asks for the next chunk, if there is one; otherwise the buffer goes back to the arena.
    fn post(&mut self, buf: DmaBuf) {
        if self.wanted >= self.superblock.chunk_count {
            return;
        }
        let slba = self.slba(self.wanted);
        // One buffer a place, and no more buffers than places.
        let _ = self.in_flight.push_back(self.store.block.read(slba, buf));
        self.wanted += 1;
    }

    fn slba(&self, chunk: u64) -> Lba {
        Lba(self.superblock.shape().lba_of(chunk))
    }

    /// Reads again what was lost, as often as [`ReadAgain`] allows.
    #[cold]
    async fn again(
        &mut self,
        partition: &'static Partition,
        chunk: u64,
        mut failed: Failed,
    ) -> Result<DmaBuf, HandlerError> {
        let (slba, mut again) = (self.slba(chunk), ReadAgain::default());
        loop {
            let lost = failed.error;
            let posted = again.post(self.store.block, slba, failed);
            let read = posted.map_err(|Failed { error, .. }| HandlerError::Chunk {
                what: "read",
                chunk,
                error,
            })?;
            self.tell(partition, chunk, lost);
            match read.await {
                Ok(buf) => return Ok(buf),
                Err(next) => failed = next,
            }
        }
    }

    /// Tells the host of a loss, unless it was told since the chunk was asked for.
    fn tell(&mut self, partition: &'static Partition, chunk: u64, lost: IoError) {
        if chunk >= self.told {
            self.told = self.wanted;
            store::tell_again(partition, format_args!("chunk {chunk}"), lost);
        }
    }

    /// The oldest read and its chunk's number.
    fn next(&mut self) -> Option<(u64, BlockIo)> {
        let read = self.in_flight.pop_front()?;
        let sequence = self.oldest;
        self.oldest += 1;
        Some((sequence, read))
    }
}
