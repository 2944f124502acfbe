//! The drive: what runs on the partition's core.

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::TaskOptions;
use hybrid_conformance::Rng;
use journal::layout::Mark as Place;
use journal::{
    AppendError, DeviceMedium, FormatOptions, From, Journal, JournalParts, Limits, Medium as _,
    Priority, format, recover, take_over,
};
use nvme_driver::spec::Nsid;
use nvme_driver::{BlockDevice, ControllerConfig, Device, DeviceParts};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What the host wants.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct Job {
    pub(crate) records: u64,
    pub(crate) openings: u64,
    pub(crate) seed: u64,
}

/// In the last block of the device, written after what it says had come true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct AckMark {
    /// [`ACK_MAGIC`].
    pub(crate) magic: u64,
    /// Records below were acknowledged.
    pub(crate) acknowledged: u64,
    /// Records below may have been given up.
    pub(crate) front: u64,
}

/// Magic of a mark.
pub(crate) const ACK_MAGIC: u64 = u64::from_le_bytes(*b"HYJDMARK");

/// The records' kind.
pub(crate) const KIND: u32 = 7;

/// Most bytes of a payload.
const PAYLOAD_MAX: usize = 1900;

/// Records behind the last checkpoint of an opening, so that the next one finds a tail to walk.
const TAIL_RECORDS: u64 = 20;

/// The sizes: small, so that the log goes round its ring.
pub(crate) fn options() -> FormatOptions {
    FormatOptions {
        batch_bytes: 8192,
        segment_bytes: 65_536,
        segments: 10,
        reach_bytes: 65_536,
        chain: true,
        overwrite: true,
        ..FormatOptions::new(0x0DD5_EED0_F70E_1D0C, "drill")
    }
}

/// The payload of a record: it follows from seed and number alone.
pub(crate) fn payload(seed: u64, sequence: u64, room: &mut [u8; PAYLOAD_MAX]) -> &[u8] {
    let mut rng = Rng::new(seed ^ sequence.wrapping_mul(0x1234_5678_9ABC_DEF1));
    let most = if rng.one_in(16) { PAYLOAD_MAX as u64 } else { 200 };
    let len = usize::try_from(rng.below(most)).unwrap_or(0);
    for (byte, at) in room[..len].iter_mut().zip(0_u64..) {
        *byte = (rng.next_u64() ^ at).to_le_bytes()[3];
    }
    &room[..len]
}

/// Room for a payload.
pub(crate) const fn room() -> [u8; PAYLOAD_MAX] {
    [0; PAYLOAD_MAX]
}

type Failed = heapless::String<160>;

fn failed(what: impl core::fmt::Display) -> Failed {
    let mut line = Failed::new();
    // A line that is too long is cut.
    let _ = core::fmt::Write::write_fmt(&mut line, format_args!("{what}"));
    line
}

pub(crate) fn run(partition: &'static Partition, parts: Option<DeviceParts>) -> PartitionExit {
    let Some(parts) = parts else {
        return PartitionExit::failed(1, format_args!("no device"));
    };
    let config = ControllerConfig { io_queues: 1, ..ControllerConfig::default() };
    let device = match Device::open(parts, partition.bump(), config) {
        Ok(device) => device,
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    };
    let work = async move {
        let outcome = drive(partition, device).await;
        let off = device.shutdown().await;
        partition.finish(match (outcome, off) {
            (Ok(()), Ok(())) => PartitionExit::done(),
            (Err(line), _) => PartitionExit::failed(1, format_args!("{line}")),
            (_, Err(error)) => PartitionExit::failed(1, format_args!("{error}")),
        });
    };
    match partition.spawner().spawn(TaskOptions::normal("drill"), work) {
        Ok(task) => task.detach(),
        Err(_) => return PartitionExit::failed(1, format_args!("no task")),
    }
    run_until_stopped(partition, device)
}

async fn drive(partition: &'static Partition, device: Device) -> Result<(), Failed> {
    let (job, _) = Job::read_from_prefix(partition.args()).map_err(|_| failed("no job"))?;
    device.ready().await.map_err(failed)?;
    let block = device.block_device(Nsid(1)).ok_or_else(|| failed("no namespace 1"))?;
    let promise = DeviceMedium::promise_of(block, device.controller());
    let arena = partition.arena();
    let mut log = DeviceMedium::new(block, promise, arena, 64 << 10).map_err(failed)?;
    let marks = DeviceMedium::new(block, promise, arena, 4096).map_err(failed)?;
    format(&mut log, &options()).await.map_err(failed)?;
    let mut drill =
        Drill { partition, block, job, marks, told: AckMark::none(), places: [None; 64] };
    drill.tell(0).await?;
    for opening in 1..=job.openings {
        drill.opening(&mut log, opening).await?;
    }
    Ok(())
}

impl AckMark {
    const fn none() -> Self {
        Self { magic: ACK_MAGIC, acknowledged: 0, front: 0 }
    }
}

struct Drill {
    partition: &'static Partition,
    block: BlockDevice,
    job: Job,
    marks: DeviceMedium,
    told: AckMark,
    /// Places in front of records, the newest ones.
    places: [Option<Place>; 64],
}

impl Drill {
    /// Notes what was acknowledged.
    async fn tell(&mut self, acknowledged: u64) -> Result<(), Failed> {
        self.told.acknowledged = acknowledged;
        let (told, lba) = (self.told, self.marks.blocks() - 1);
        let bytes = self.marks.lba_bytes() as usize;
        let fill = |room: &mut [u8]| {
            room.fill(0);
            room[..size_of::<AckMark>()].copy_from_slice(told.as_bytes());
        };
        self.marks.write(lba, bytes, fill).await.map_err(failed)
    }

    /// One opening of the log, and its share of the records.
    async fn opening(&mut self, medium: &mut DeviceMedium, nth: u64) -> Result<(), Failed> {
        let found = recover(medium, From::Checkpoint).await.map_err(failed)?;
        if found.tail.sequence != self.told.acknowledged {
            return Err(failed(format_args!(
                "opening {nth} found {} records of {}",
                found.tail.sequence, self.told.acknowledged
            )));
        }
        let superblock = take_over(medium, &found).await.map_err(failed)?;
        let limits =
            Limits { pending_records: 96, slots: 8, in_flight: 4, checkpoint_records: 150 };
        let (device, promise) = (self.block, medium.promise());
        let parts =
            JournalParts { device, promise, arena: self.partition.arena(), superblock, limits };
        let log = Journal::new(parts, self.partition.bump()).map_err(failed)?;
        let run = async move { _ = log.run().await };
        let spawned = self.partition.spawner().spawn(TaskOptions::latency("log"), run);
        spawned.map_err(|_| failed("no task"))?.detach();
        let end = self.job.records * nth / self.job.openings;
        let mut rng = Rng::new(self.job.seed ^ nth << 32);
        self.append(log, end.saturating_sub(TAIL_RECORDS), &mut rng).await?;
        log.checkpoint().await.map_err(failed)?;
        self.append(log, end, &mut rng).await?;
        log.sync().await.map_err(failed)?;
        self.tell(log.acknowledged().sequence).await?;
        if nth == self.job.openings {
            log.close().await.map_err(failed)?;
            // A flush behind everything: who notes writes may note them up to a flush alone.
            self.tell(log.acknowledged().sequence).await?;
            self.marks.flush().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Bursts of records, with marks and truncations between them, up to record `end`.
    async fn append(&mut self, log: &Journal, end: u64, rng: &mut Rng) -> Result<(), Failed> {
        let mut room = room();
        while log.next_sequence() < end {
            for _ in 0..=rng.below(12) {
                let sequence = log.next_sequence();
                let bytes = payload(self.job.seed, sequence, &mut room);
                match log.append(Priority::High, KIND, sequence * 10, bytes) {
                    Ok(_) if sequence + 1 == end => break,
                    Ok(_) => {}
                    Err(AppendError::Ended(ended)) => return Err(failed(ended)),
                    Err(_) => {
                        self.truncate(log).await?;
                        log.room().await.map_err(failed)?;
                    }
                }
            }
            self.partition.spawner().yield_now().await;
            let at = log.acknowledged();
            if at.sequence > self.told.acknowledged {
                let slot = usize::try_from(at.sequence % 64).unwrap_or(0);
                self.places[slot] = Some(at);
                self.tell(at.sequence).await?;
            }
            if rng.one_in(16) {
                self.truncate(log).await?;
            }
        }
        Ok(())
    }

    /// Gives up what is more than half a ring old: said first, done then.
    async fn truncate(&mut self, log: &Journal) -> Result<(), Failed> {
        let (at, g) = (log.acknowledged(), log.geometry());
        let old = at.position.saturating_sub(g.ring_bytes() / 2);
        let given_up = self.places.iter().flatten().filter(|place| place.position <= old);
        let Some(place) = given_up.max_by_key(|place| place.position).copied() else {
            return Ok(());
        };
        if place.sequence > self.told.front {
            self.told.front = place.sequence;
            self.tell(at.sequence).await?;
            log.release(place.position, place.sequence);
        }
        Ok(())
    }
}
