//! What crosses an `execve`: the host's values as bytes and back, and the table of memory files.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use core_runtime::partition::{PartitionConfig, RingSizes};
use core_runtime::region::RegionFacts;
use core_runtime::task::SchedulerConfig;
use hybrid_abi::handoff::{
    FileRole, HANDOFF_TIME_POLLS, Handoff, HandoffConfig, HandoffFile, Place,
};
use hybrid_shm::ReadSpan;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::sys::memfd::PageSize;

/// Longest handoff: its head, its table, a megabyte of arguments.
const MOST_BYTES: u64 = 2 << 20;

/// The seals of a handoff: it is what it was.
const SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// The descriptors that a partition inherits, in order.
#[derive(Debug, Default)]
pub(super) struct Table<'a> {
    files: Vec<HandoffFile>,
    fds: Vec<BorrowedFd<'a>>,
    seen: Vec<Option<ReadSpan<'static>>>,
}

impl<'a> Table<'a> {
    /// Adds `len` bytes of a file from `offset` on; `seen` is the host's own mapping of them.
    pub(super) fn add(
        &mut self,
        fd: BorrowedFd<'a>,
        role: FileRole,
        (offset, len, page): (u64, usize, PageSize),
        seen: Option<ReadSpan<'static>>,
    ) {
        let number = u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX);
        let (len, page) = (len as u64, page.bytes() as u64);
        self.files.push(HandoffFile { role, fd: number, offset, len, page });
        self.fds.push(fd);
        self.seen.push(seen);
    }

    /// In which file the host sees these bytes.
    pub(super) fn place(&self, span: ReadSpan<'static>) -> Option<Place> {
        let (at, len) = (span.as_ptr().addr(), span.len());
        (0..).zip(&self.seen).find_map(|(file, seen)| {
            let seen = seen.as_ref()?;
            let offset = at.checked_sub(seen.as_ptr().addr())?;
            let inside = offset.checked_add(len)? <= seen.len();
            let (offset, len) = (offset as u64, len as u64);
            inside.then_some(Place { file, reserved: 0, offset, len })
        })
    }

    pub(super) fn fds(&self) -> &[BorrowedFd<'a>] {
        &self.fds
    }

    /// Head, table and arguments in a memory file that nobody can change any more.
    pub(super) fn seal(&self, mut head: Handoff, args: &[u8]) -> Result<OwnedFd, Errno> {
        let count = |len| u32::try_from(len).map_err(|_| Errno::TOOBIG);
        head.files = count(self.files.len())?;
        head.args_bytes = count(args.len())?;
        let bytes = [head.as_bytes(), self.files.as_bytes(), args].concat();
        // What the other side would refuse is refused here, where the line is better.
        Handoff::parse(&bytes).map_err(|_| Errno::INVAL)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create("hybrid-handoff", flags)?;
        let mut written = 0;
        while written < bytes.len() {
            written += rustix::io::pwrite(&file, &bytes[written..], written as u64)?;
        }
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        Ok(file)
    }
}

/// The bytes of a sealed handoff.
pub(super) fn read(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    if !rustix::fs::fcntl_get_seals(file)?.contains(SEALS) {
        return Err(Errno::PERM);
    }
    let size = u64::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(u64::MAX);
    if size > MOST_BYTES {
        return Err(Errno::FBIG);
    }
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    let mut read = 0;
    while read < bytes.len() {
        match rustix::io::pread(file.as_fd(), &mut bytes[read..], read as u64)? {
            0 => return Err(Errno::IO),
            more => read += more,
        }
    }
    Ok(bytes)
}

/// Puts machine, program and incarnation into a head.
pub(super) fn put_facts(head: &mut Handoff, facts: &RegionFacts) {
    head.build_id = facts.build_id;
    head.boot_id = facts.boot_id;
    head.cpu = facts.partition;
    head.incarnation = facts.incarnation;
    head.tsc_hz = facts.tsc_hz;
    head.anchor_tsc = facts.anchor_tsc;
    head.anchor_unix_ns = facts.anchor_unix_ns;
}

/// And takes them out.
pub(super) const fn facts(head: &Handoff) -> RegionFacts {
    RegionFacts {
        boot_id: head.boot_id,
        build_id: head.build_id,
        partition: head.cpu,
        incarnation: head.incarnation,
        tsc_hz: head.tsc_hz,
        anchor_tsc: head.anchor_tsc,
        anchor_unix_ns: head.anchor_unix_ns,
    }
}

/// The rings' sizes of a head.
pub(super) fn rings(head: &Handoff) -> RingSizes {
    let size = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
    RingSizes { events: size(head.event_ring_bytes), commands: size(head.command_ring_bytes) }
}

/// A configuration as values of fixed width.
pub(super) fn config_to(config: &PartitionConfig) -> HandoffConfig {
    let PartitionConfig {
        scheduler,
        more_metrics,
        more_histograms,
        publish_every_ns,
        commands_per_pass,
        stop_grace_ns,
        probe_records,
    } = *config;
    let SchedulerConfig {
        max_tasks,
        max_timers,
        task_memory_bytes,
        latency_polls,
        normal_polls,
        background_polls,
        timers_per_tick,
        time_polls,
        stolen_threshold_ns,
    } = scheduler;
    HandoffConfig {
        max_tasks,
        max_timers,
        task_memory_bytes: task_memory_bytes as u64,
        latency_polls,
        normal_polls,
        background_polls,
        timers_per_tick,
        stolen_threshold_ns,
        publish_every_ns,
        stop_grace_ns,
        more_metrics,
        more_histograms,
        commands_per_pass,
        flags: if time_polls { HANDOFF_TIME_POLLS } else { 0 },
        probe_records,
        reserved: 0,
    }
}

/// And back.
pub(super) fn config_from(values: &HandoffConfig) -> PartitionConfig {
    PartitionConfig {
        scheduler: SchedulerConfig {
            max_tasks: values.max_tasks,
            max_timers: values.max_timers,
            task_memory_bytes: usize::try_from(values.task_memory_bytes).unwrap_or(usize::MAX),
            latency_polls: values.latency_polls,
            normal_polls: values.normal_polls,
            background_polls: values.background_polls,
            timers_per_tick: values.timers_per_tick,
            time_polls: values.flags & HANDOFF_TIME_POLLS != 0,
            stolen_threshold_ns: values.stolen_threshold_ns,
        },
        more_metrics: values.more_metrics,
        more_histograms: values.more_histograms,
        publish_every_ns: values.publish_every_ns,
        commands_per_pass: values.commands_per_pass,
        stop_grace_ns: values.stop_grace_ns,
        probe_records: values.probe_records,
    }
}

#[cfg(test)]
mod tests {
    use hybrid_abi::Name;

    use super::*;
    use crate::sys::mapping::Mapped;
    use crate::sys::memfd::Memfd;

    #[test]
    fn a_configuration_crosses_whole() {
        let mut config = PartitionConfig::default();
        config.scheduler.time_polls = false;
        config.scheduler.task_memory_bytes = 12_345;
        config.stop_grace_ns = 77;
        config.more_histograms = 3;
        config.probe_records = 99;
        let back = config_from(&config_to(&config));
        assert_eq!(format!("{back:?}"), format!("{config:?}"));
    }

    #[test]
    fn memory_is_placed_in_the_file_that_holds_it_and_nowhere_else() {
        let memfd = Memfd::create("placed", 8192, PageSize::Small4K).expect("8 KiB");
        let mapped = Mapped::writable(&memfd).expect("mapped");
        let elsewhere = Mapped::private(4096, PageSize::Small4K).expect("mapped");
        let mut table = Table::default();
        table.add(memfd.as_fd(), FileRole::NOTICE, (0, 0, PageSize::Small4K), None);
        let what = (0, 8192, PageSize::Small4K);
        table.add(memfd.as_fd(), FileRole::SHARED, what, Some(mapped.read_span()));
        let part = mapped.read_span().sub(4096, 100).expect("inside");
        let place = Place { file: 1, reserved: 0, offset: 4096, len: 100 };
        assert_eq!(table.place(part), Some(place));
        assert_eq!(table.place(elsewhere.read_span()), None);
    }

    #[test]
    fn a_handoff_is_read_as_it_was_sealed_and_an_unsealed_one_is_refused() {
        let memfd = Memfd::create("file", 4096, PageSize::Small4K).expect("4 KiB");
        let mut table = Table::default();
        table.add(memfd.as_fd(), FileRole::DMA, (0, 4096, PageSize::Small4K), None);
        let mut head = Handoff::blank();
        head.name = Name::lossy("p");
        head.entry = Name::lossy("e");
        let file = table.seal(head, b"args").expect("sealed");
        assert!(rustix::io::pwrite(&file, b"x", 0).is_err());
        let bytes = read(&file).expect("read");
        let back = Handoff::parse(&bytes).expect("sound");
        assert_eq!((back.files, back.args(&bytes)), (1, &b"args"[..]));
        let plain = rustix::fs::memfd_create("plain", MemfdFlags::CLOEXEC).expect("a file");
        assert_eq!(read(&plain), Err(Errno::PERM));
    }
}
