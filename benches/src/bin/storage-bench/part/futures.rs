//! The closed loop of futures: tasks that each read or write one place after the other, through
//! scheduler and namespace, as an application does.

use core_runtime::clock::Clock;
use core_runtime::mem::DmaBuf;
use core_runtime::task::{JoinHandle, TaskOptions};
use hybrid_benches::pick::Pick;
use nvme_driver::{BlockDevice, IoError, Lba, WriteFlags};

use super::desk::{Course, Desk};
use super::window::Windows;
use crate::wire::{Phase, Sample};

/// Most tasks.
pub(crate) const TASKS: usize = 256;

impl Desk {
    pub(crate) async fn futures(
        self,
        block: BlockDevice,
        pick: &'static Pick,
        phase: &Phase,
        course: &mut Course,
    ) -> Result<Sample, IoError> {
        let partition = self.partition;
        let (clock, spawner) = (partition.clock(), partition.spawner());
        // Bump memory is never freed: a few words for each run of this phase.
        let windows = Windows::new(clock, phase, self.gauges);
        let windows = partition.bump().alloc(windows).map_err(|_| IoError::NoMemory)?;
        self.shared.stop.set(false);
        self.shared.done.set(0);
        let begin = clock.now();
        let bytes = usize::try_from(phase.bytes).unwrap_or(0);
        let mut workers = heapless::Vec::<JoinHandle<Result<Counts, IoError>>, TASKS>::new();
        let stamped = (phase.stamped != 0).then_some((clock, windows));
        for _ in 0..phase.depth {
            let buf = partition.arena().alloc(bytes).map_err(|_| IoError::NoMemory)?;
            let work = worker(self, block, pick, buf, stamped);
            let worker = spawner.spawn(TaskOptions::normal("worker"), work);
            // The host asks for at most TASKS.
            let _ = workers.push(worker.map_err(|_| IoError::NoMemory)?);
        }
        self.shared.windows.set(Some(windows));
        let end = begin + clock.ns_to_ticks(phase.duration_ns);
        let patient = end + clock.ns_to_ticks(phase.patience_ns);
        let more = |now| windows.ended() == 0 || now < end || windows.lacks() && now < patient;
        while more(clock.now()) {
            spawner.sleep_ns(phase.window_ns.into()).await;
            course.turn(windows, self.shared.done.get());
            self.send_interval(course).await;
            if self.shared.stop.get() || self.stopping() {
                break;
            }
        }
        let mut sample = Sample { wall_done: self.shared.done.get(), ..Sample::default() };
        sample.wall_ticks = clock.now().since(begin).get();
        self.shared.windows.set(None);
        self.shared.stop.set(true);
        let mut all = 0;
        for worker in workers {
            let counts = worker.await.unwrap_or(Ok(Counts::default()))?;
            sample.writes += counts.writes;
            all += counts.all;
        }
        sample.late = all.saturating_sub(sample.wall_done);
        self.close_window(false);
        windows.fill(&mut sample);
        Ok(sample)
    }
}

/// What a worker did.
#[derive(Clone, Copy, Default)]
struct Counts {
    all: u64,
    writes: u64,
}

/// Reads and writes until it is told to stop; which latencies count is the windows' to say.
async fn worker(
    desk: Desk,
    block: BlockDevice,
    pick: &'static Pick,
    mut buf: DmaBuf,
    stamped: Option<(Clock, &'static Windows)>,
) -> Result<Counts, IoError> {
    let shared = desk.shared;
    let mut counts = Counts::default();
    while !shared.stop.get() {
        let (write, lba) = pick.next();
        counts.all += 1;
        counts.writes += u64::from(write);
        let begun = stamped.map(|(clock, _)| clock.now());
        let done = if write {
            block.write(Lba(lba), buf, WriteFlags::empty()).await
        } else {
            block.read(Lba(lba), buf).await
        };
        if let (Some((clock, windows)), Some(begun)) = (stamped, begun) {
            let since = windows.since();
            if begun >= since.all {
                let ticks = clock.now().since(begun).get();
                desk.record_in_window((write, ticks), begun >= since.clean);
            }
        }
        match done {
            Ok(back) => buf = back,
            Err(failed) => {
                shared.stop.set(true);
                return Err(failed.error);
            }
        }
    }
    Ok(counts)
}
