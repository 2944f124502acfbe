//! The closed loop of futures: tasks that each read or write one place after the other, through
//! scheduler and namespace, as an application does.

use core_runtime::mem::DmaBuf;
use core_runtime::task::{JoinHandle, TaskOptions};
use hybrid_benches::pick::Pick;
use nvme_driver::{IoError, Lba, Namespace, WriteFlags};

use super::desk::{Desk, Shared};
use super::window::Windows;
use crate::wire::{Phase, Sample};

/// Most tasks.
pub(crate) const TASKS: usize = 256;

impl Desk {
    pub(crate) async fn futures(
        self,
        namespace: &'static Namespace,
        pick: &'static Pick,
        phase: &Phase,
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
        let mut workers = heapless::Vec::<JoinHandle<Result<u64, IoError>>, TASKS>::new();
        for _ in 0..phase.depth {
            let buf = partition.arena().alloc(bytes).map_err(|_| IoError::NoMemory)?;
            let work = worker(namespace, self.shared, pick, buf);
            let worker = spawner.spawn(TaskOptions::normal("worker"), work);
            // The host asks for at most TASKS.
            let _ = workers.push(worker.map_err(|_| IoError::NoMemory)?);
        }
        self.shared.windows.set(Some(windows));
        let end = begin + clock.ns_to_ticks(phase.duration_ns);
        while windows.ended() == 0 || clock.now() < end {
            spawner.sleep_ns(phase.window_ns.into()).await;
            if self.shared.stop.get() || self.stopping() {
                break;
            }
        }
        let mut sample = Sample { wall_done: self.shared.done.get(), ..Sample::default() };
        sample.wall_ticks = clock.now().since(begin).get();
        self.shared.windows.set(None);
        self.shared.stop.set(true);
        for worker in workers {
            sample.writes += worker.await.unwrap_or(Ok(0))?;
        }
        windows.fill(&mut sample);
        Ok(sample)
    }
}

/// Returns how often it wrote.
async fn worker(
    namespace: &'static Namespace,
    shared: &'static Shared,
    pick: &'static Pick,
    mut buf: DmaBuf,
) -> Result<u64, IoError> {
    let mut writes = 0;
    while !shared.stop.get() {
        let (write, lba) = pick.next();
        let done = if write {
            writes += 1;
            namespace.write(Lba(lba), buf, WriteFlags::empty()).await
        } else {
            namespace.read(Lba(lba), buf).await
        };
        match done {
            Ok(back) => buf = back,
            Err(failed) => {
                shared.stop.set(true);
                return Err(failed.error);
            }
        }
    }
    Ok(writes)
}
