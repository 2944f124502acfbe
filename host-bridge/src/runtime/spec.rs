//! What to start: a partition's entry, core, memory, rings and device.

use std::path::PathBuf;

use core_runtime::partition::{Partition, PartitionConfig, PartitionExit};
use core_runtime::ring::capacity_for;
use nvme_driver::DeviceParts;

use super::mesh::MeshPlace;
use super::table::Table;
use crate::alert::AlertSink;
use crate::backend::{Backend, DeviceIngredients};
use crate::probes::ProbeWishes;
use crate::supervisor::spare::Spares;
use crate::sys::memfd::PageSize;
use crate::sys::partition_memory::KeepsNothing;
use crate::sys::realtime::RtPriority;
use crate::sys::state_memory::StateFile;

/// A partition's program: runs on its core, from assembled partition to exit.
///
/// A plain function without captures, so that a program that is executed again can find it by its
/// entry's name; everything else it needs comes in the arguments and through the rings.
pub type EntryFn = fn(&'static Partition, Option<DeviceParts>) -> PartitionExit;

/// A named entry function.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub(super) name: &'static str,
    pub(super) run: EntryFn,
    pub(super) promise: Option<KeepsNothing>,
}

impl Entry {
    /// `run` under a name that is unique in the program.
    #[must_use]
    pub const fn new(name: &'static str, run: EntryFn) -> Self {
        Self { name, run, promise: None }
    }

    /// The entry's name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Makes the device's parts and runs it, on the partition's core.
    pub(crate) fn enter(
        self,
        partition: &'static Partition,
        device: Option<DeviceIngredients>,
    ) -> PartitionExit {
        match device.map(|device| device.into_parts(partition)).transpose() {
            Ok(parts) => (self.run)(partition, parts),
            Err(error) => PartitionExit::failed(1, format_args!("{error}")),
        }
    }

    /// With the promise that lets the host unmap all memory when the partition has ended. Without
    /// it the DMA pages are given back, and the rest stays mapped until the process ends, since
    /// safe code could have kept a `'static` reference. (A partition that is a process needs
    /// neither.)
    #[must_use]
    pub const fn self_contained(self, promise: KeepsNothing) -> Self {
        Self { promise: Some(promise), ..self }
    }
}

/// What a partition is for Linux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// A process of its own, which can reach its memory and its device and nothing else, and may
    /// die without taking the host with it. The program's `main` is made by
    /// [`partition_main!`](crate::partition_main).
    #[default]
    Process,
    /// A thread of the host: for debuggers and for tests. A fault there ends the host.
    Thread,
}

impl std::str::FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "process" => Ok(Self::Process),
            "thread" => Ok(Self::Thread),
            _ => Err(format!("isolation {text}: process and thread are allowed")),
        }
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Process => "process",
            Self::Thread => "thread",
        })
    }
}

/// Which of the runtime's cores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoreChoice {
    /// The first free one.
    #[default]
    Any,
    /// This one, by Linux's number.
    Cpu(u32),
    /// This one, in turns with other partitions that say the same: for tests and demonstrations on
    /// small machines. Linux lets each run for some milliseconds; latencies say nothing then.
    Shared(u32),
}

impl CoreChoice {
    /// The CPU, if one is named.
    #[must_use]
    pub const fn cpu(self) -> Option<u32> {
        match self {
            Self::Any => None,
            Self::Cpu(cpu) | Self::Shared(cpu) => Some(cpu),
        }
    }
}

/// What to start. Made by [`PartitionSpec::new`], then changed field by field.
pub struct PartitionSpec {
    /// Its name: the thread's, in reports and in the regions' headers.
    pub name: String,
    /// Its program.
    pub entry: Entry,
    /// Bytes for the entry, found in `Partition::args`.
    pub args: Vec<u8>,
    /// What it is for Linux. Default: a process.
    pub isolation: Isolation,
    /// The program to execute for a process instead of this one, whose main
    /// [`partition_main!`](crate::partition_main) has made: for tests, whose `main` is not theirs.
    pub executable: Option<PathBuf>,
    /// Its core.
    pub core: CoreChoice,
    /// Memory that was made for it while the one before ran; the next one's is made when it has
    /// started. Default: none.
    pub spares: Option<Spares>,
    /// Its device, if it has one.
    pub device: Option<Box<dyn Backend>>,
    /// DMA memory in bytes. Default: 64 MiB, room for 256 commands of 128 KiB twice over.
    pub dma_bytes: usize,
    /// Private memory in bytes: scheduler, driver, tables. Default: 16 MiB.
    pub private_bytes: usize,
    /// Page size to try first. Default: 2 MiB.
    pub page: PageSize,
    /// Bytes of the ring of events to the host, a power of two. Default: 4 MiB, see
    /// `EVENT_RING_BYTES`.
    pub event_ring_bytes: usize,
    /// Bytes of the ring of commands from the host, a power of two. Default: 64 KiB, see
    /// `COMMAND_RING_BYTES`.
    pub command_ring_bytes: usize,
    /// Scheduler, metrics and loop.
    pub config: PartitionConfig,
    /// Whether the kernel reports each system call that the partition makes while it runs. In a
    /// process it does so in any case, by ending it.
    pub check_syscalls: bool,
    /// Its priority under SCHED_FIFO; without one it runs as every thread does. Default: none.
    pub rt_priority: Option<RtPriority>,
    /// Its place among other partitions. Default: none; [`super::Runtime::spawn_all`] sets it.
    pub place: Option<MeshPlace>,
    /// Tables that it reads, at most 8. Default: none.
    pub tables: Vec<Table>,
    /// What it keeps for its next incarnation. Default: nothing.
    pub state: Option<StateFile>,
    /// Who hears of its alerts. Default: each is a line among the runtime's warnings.
    pub on_alert: Option<AlertSink>,
    /// Bytes of heap that the program may use while it runs. Default: 0, nothing: an allocation
    /// ends the process (a thread's are counted). For test programs and the like.
    pub heap_bytes: usize,
    /// Which probes are on from the start, and what is kept of them. Default: none.
    pub probes: ProbeWishes,
}

/// A ring's bytes for records of `words` words, so many a second, while its reader is away for
/// `latency_ns`.
const fn ring_bytes(records_per_s: u64, words: u64, latency_ns: u64) -> usize {
    8 * capacity_for(records_per_s * words, latency_ns) as usize
}

/// 4 million events a second of 8 words (a change of a best price, header included), while the
/// host's reader is away for 10 ms: a time slice of a core that it shares.
const EVENT_RING_BYTES: usize = ring_bytes(4_000_000, 8, 10_000_000);

/// Half a million commands a second of 8 words, while the partition does not look for 1 ms: the
/// budget of one background poll.
const COMMAND_RING_BYTES: usize = ring_bytes(500_000, 8, 1_000_000);

impl PartitionSpec {
    /// A partition with the defaults above, without a device.
    #[must_use]
    pub fn new(name: impl Into<String>, entry: Entry) -> Self {
        Self {
            name: name.into(),
            entry,
            args: Vec::new(),
            isolation: Isolation::default(),
            executable: None,
            core: CoreChoice::Any,
            spares: None,
            device: None,
            dma_bytes: 64 << 20,
            private_bytes: 16 << 20,
            page: PageSize::Huge2M,
            event_ring_bytes: EVENT_RING_BYTES,
            command_ring_bytes: COMMAND_RING_BYTES,
            config: PartitionConfig::default(),
            check_syscalls: false,
            rt_priority: None,
            place: None,
            tables: Vec::new(),
            state: None,
            on_alert: None,
            heap_bytes: 0,
            probes: ProbeWishes::default(),
        }
    }

    /// As a process or a thread.
    #[must_use]
    pub const fn isolated_by(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// On this core.
    #[must_use]
    pub const fn on_cpu(mut self, cpu: u32) -> Self {
        self.core = CoreChoice::Cpu(cpu);
        self
    }

    /// With this device.
    #[must_use]
    pub fn with_device(mut self, device: impl Backend + 'static) -> Self {
        self.device = Some(Box::new(device));
        self
    }

    /// With these bytes for the entry.
    #[must_use]
    pub fn with_args(mut self, args: impl Into<Vec<u8>>) -> Self {
        self.args = args.into();
        self
    }
}

impl std::fmt::Debug for PartitionSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionSpec")
            .field("name", &self.name)
            .field("entry", &self.entry.name)
            .field("core", &self.core)
            .field("isolation", &self.isolation)
            .field("device", &self.device.as_ref().map(|device| device.describe()))
            .field("dma_bytes", &self.dma_bytes)
            .field("private_bytes", &self.private_bytes)
            .field("page", &self.page)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_hold_what_arrives_while_the_reader_is_away() {
        const { assert!(EVENT_RING_BYTES >= 40_000 * 64, "10 ms of events") };
        const { assert!(COMMAND_RING_BYTES >= 500 * 64, "1 ms of commands") };
        assert_eq!((EVENT_RING_BYTES, COMMAND_RING_BYTES), (4 << 20, 64 << 10));
    }
}
