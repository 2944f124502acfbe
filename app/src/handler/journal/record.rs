//! Recording: packets off the command ring, into the journal.
//!
//! The host keeps each packet until it is told that it is durable, and sends what is left of them
//! to a partition that is started after this one: see `hybrid_abi::feed_journal::JournalMark`.

use core_runtime::task::TaskOptions;
use hybrid_abi::feed_job::{FeedJob, JOB_OVERWRITE, KIND_FEED_ABORT, KIND_FEED_END};
use hybrid_abi::feed_journal::{
    JOB_RECORD, JOURNAL_WRAP, JournalFigures, JournalMark, KIND_PACKET, PACKET_BYTES, RECORD_PACKET,
};
use journal::{
    AppendError, DeviceMedium, Journal, JournalParts, Limits, Medium as _, Priority,
    second_segment, take_over,
};

use super::JournalDesk;
use crate::handler::error::HandlerError;
use crate::handler::job::tell;
use crate::handler::progress::Progress;

/// Packets without an acknowledgement: at a million packets a second and 5 ms of a device, twice.
const PENDING: Limits = Limits::for_rate(1_000_000, 5_000_000);

/// Packets taken before others get their turn.
const A_TURN: u32 = 32;

/// Arrival time and packet.
const COMMAND_BYTES: usize = 8 + PACKET_BYTES;

/// Budget of the log's task: a turn of it takes a few batches.
const LOG_BUDGET_NS: u64 = 50_000;

/// Records what comes until the host says that it is over, or asks to stop; then everything that
/// came before is durable.
///
/// # Errors
/// [`HandlerError`]. What was acknowledged before is in the journal.
pub async fn record(
    here: JournalDesk,
    job: &FeedJob,
    figures: &mut JournalFigures,
) -> Result<(), HandlerError> {
    figures.phase = JOB_RECORD;
    here.tell_started().await;
    let mut medium = here.medium(super::BATCH_BYTES)?;
    let made = (job.has(JOB_OVERWRITE), job.created_unix_ns);
    let found = here.open_or_make(&mut medium, made, figures).await?;
    let superblock = take_over(&mut medium, &found).await?;
    let (partition, device) = (here.desk.partition, here.block);
    let (arena, promise) = (partition.arena(), medium.promise());
    let parts = JournalParts { device, promise, arena, superblock, limits: PENDING };
    let log = Journal::new(parts, partition.bump())?;
    let mut marks = Marks { here, log, made: figures.made, told: log.acknowledged().sequence };
    marks.tell().await;
    let run = async move {
        // Whoever appends or waits hears of its end.
        let _ = log.run().await;
    };
    let options = TaskOptions::latency("journal").budget_ns(LOG_BUDGET_NS);
    partition.spawner().spawn(options, run)?.detach();
    let outcome = take_packets((here, &mut marks), log, &mut medium, figures).await;
    figures.waits = here.desk.progress.ring_waits.get();
    let closed = log.close().await;
    marks.tell().await;
    let (superblock, end) = (log.superblock(), log.acknowledged());
    figures.front = superblock.front_sequence;
    figures.end = end.sequence;
    if closed.is_ok() {
        // Closing writes a checkpoint behind the last record.
        figures.chain = superblock.chain;
    }
    figures.flushes = log.stats().flushes;
    outcome?;
    Ok(closed?)
}

/// What the host is told of how far the journal goes.
struct Marks {
    here: JournalDesk,
    log: &'static Journal,
    made: u32,
    told: u64,
}

impl Marks {
    fn now(&self) -> JournalMark {
        JournalMark { end: self.log.acknowledged().sequence, made: self.made, reserved: 0 }
    }

    /// Tells it, waiting for room.
    async fn tell(&mut self) {
        let mark = self.now();
        tell(self.here.desk, &mark).await;
        self.told = mark.end;
    }

    /// Tells it if there is news, and room.
    fn follow(&mut self) {
        let mark = self.now();
        let ring = self.here.desk.partition.events();
        let room = matches!(ring.has_room(size_of::<JournalMark>()), Ok(true));
        if mark.end != self.told && room && ring.send(&mark).is_ok() {
            self.told = mark.end;
        }
    }
}

async fn take_packets(
    (here, marks): (JournalDesk, &mut Marks),
    log: &'static Journal,
    medium: &mut DeviceMedium,
    figures: &mut JournalFigures,
) -> Result<(), HandlerError> {
    let (partition, progress) = (here.desk.partition, here.desk.progress);
    let room = partition.bump().slice_with(COMMAND_BYTES, |_| 0_u8);
    let room = room.map_err(HandlerError::NoMemory)?;
    // What may lie in the ring when a stop is seen. What is behind that came later, and a feed that
    // never pauses has no end of its own.
    let mut left = partition.commands_bytes();
    loop {
        let stopping = progress.stop.get();
        let mut all = stopping && left == 0;
        for _ in 0..if all { 0 } else { A_TURN } {
            let Some(header) = partition.take_command(room) else {
                all = true;
                break;
            };
            let payload = room.get(..usize::from(header.len)).unwrap_or_default();
            if stopping {
                left = left.saturating_sub(size_of_val(&header) + payload.len());
            }
            match header.kind {
                KIND_PACKET => {
                    let Some((time, packet)) = payload.split_first_chunk::<8>() else { continue };
                    let time_ns = u64::from_le_bytes(*time);
                    append(here, log, medium, (time_ns, packet)).await?;
                    figures.packets += 1;
                    Progress::add(&progress.bytes_written, packet.len() as u64);
                    progress.messages.set(figures.packets);
                }
                KIND_FEED_END => return Ok(()),
                KIND_FEED_ABORT => return Err(HandlerError::SourceFailed),
                // A newer host's.
                _ => {}
            }
        }
        marks.follow();
        if let Some(ended) = log.ended() {
            return Err(ended.into());
        }
        // An orderly end for a recording: all that came before the stop is kept.
        if all && stopping {
            return Ok(());
        }
        partition.spawner().yield_now().await;
    }
}

/// Appends one packet, waiting for room; the ring of commands is the queue in front.
async fn append(
    here: JournalDesk,
    log: &'static Journal,
    medium: &mut DeviceMedium,
    (time_ns, packet): (u64, &[u8]),
) -> Result<(), HandlerError> {
    loop {
        match log.append(Priority::High, RECORD_PACKET, time_ns, packet) {
            Ok(_) => return Ok(()),
            Err(AppendError::Full { .. }) if here.how.has(JOURNAL_WRAP) => {
                let (superblock, end) = (log.superblock(), log.acknowledged());
                match second_segment(medium, &superblock, end).await? {
                    Some((position, sequence)) => log.truncate(position, sequence).await?,
                    None => log.sync().await?,
                }
            }
            Err(error @ (AppendError::Full { .. } | AppendError::TooLarge { .. })) => {
                return Err(HandlerError::Append(error));
            }
            Err(AppendError::Ended(ended)) => return Err(ended.into()),
            Err(_) => {
                Progress::add(&here.desk.progress.ring_waits, 1);
                log.room().await?;
            }
        }
    }
}
