//! What a host hands to a partition that is a process: plain values and a table of memory files.
//!
//! ```text
//!   0            Handoff: facts, sizes, configuration, device
//!   then         HandoffFile x files: inherited descriptors, in the order that places name
//!   then         the entry's arguments, args_bytes
//! ```
//! Written by the host into a sealed memory file, read by the same program that was executed again,
//! and checked on arrival like any bytes from outside: a length, an index or a descriptor that does
//! not fit ends the start with one line.

use core::mem::offset_of;

use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout};

use crate::region::BUILD_ID_BYTES;
use crate::{ABI_VERSION, AbiError, LINE_BYTES, Name, check_version, prefix};

/// Magic of a handoff: `HYHANDOF`.
pub const HANDOFF_MAGIC: u64 = u64::from_le_bytes(*b"HYHANDOF");

/// Most memory files of one partition.
pub const HANDOFF_FILES_MAX: u32 = 64;
/// Longest arguments of an entry.
pub const HANDOFF_ARGS_MAX: u32 = 1 << 20;

/// Most read-only tables of one partition.
pub const HANDOFF_TABLES_MAX: usize = 8;

/// No NUMA node in particular.
pub const HANDOFF_NO_NODE: u32 = u32::MAX;

/// Polls are timed, see the scheduler's configuration.
pub const HANDOFF_TIME_POLLS: u32 = 1;

/// The head of a handoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Handoff {
    /// [`HANDOFF_MAGIC`].
    pub magic: u64,
    /// [`ABI_VERSION`] of the writer.
    pub version: u32,
    /// The host's process: a partition whose parent is another one ends.
    pub host_pid: u32,
    /// Build id of the host's program: both are one.
    pub build_id: [u8; BUILD_ID_BYTES],
    /// The CPU.
    pub cpu: u32,
    /// The kernel's boot id.
    pub boot_id: [u8; 16],
    /// Counts the starts of the partition, from 1.
    pub incarnation: u64,
    /// TSC ticks a second.
    pub tsc_hz: u64,
    /// TSC at the moment of `anchor_unix_ns`.
    pub anchor_tsc: u64,
    /// Wall clock at the moment of `anchor_tsc`, nanoseconds since 1970-01-01.
    pub anchor_unix_ns: u64,
    /// Private memory that the partition makes for itself, in bytes.
    pub private_bytes: u64,
    /// Bytes of the pages to try first for it.
    pub private_page: u64,
    /// What the whole run locks, for the line of a limit that is too low.
    pub locked_bytes: u64,
    /// Bytes of the ring of events.
    pub event_ring_bytes: u64,
    /// Bytes of the ring of commands.
    pub command_ring_bytes: u64,
    /// Bytes of heap that the program may use while it runs; 0: an allocation ends it.
    pub heap_bytes: u64,
    /// Scheduler, metrics and loop.
    pub config: HandoffConfig,
    /// The device, if there is one.
    pub device: HandoffDevice,
    /// Descriptor of the socket to the host.
    pub socket: u32,
    /// Entries of the table of files.
    pub files: u32,
    /// Bytes of arguments.
    pub args_bytes: u32,
    /// Its priority under SCHED_FIFO; 0 for none.
    pub rt_priority: u32,
    /// The partition's name, printable.
    pub name: Name<64>,
    /// The entry's name.
    pub entry: Name<64>,
    /// Its number in a mesh, from 0.
    pub mesh_index: u32,
    /// Partitions of the mesh; 0 for none.
    pub mesh_partitions: u32,
    /// Bytes of each ring of the mesh.
    pub mesh_ring_bytes: u64,
    /// Names of its tables; empty ones at the end.
    pub tables: [Name<32>; HANDOFF_TABLES_MAX],
    /// NUMA node that its private memory is to come from; [`HANDOFF_NO_NODE`] leaves it to the
    /// kernel.
    pub node: u32,
    /// Zero.
    pub reserved: u32,
}

/// Scheduler, metrics and loop, as `core_runtime::partition::PartitionConfig` has them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HandoffConfig {
    /// Tasks in the table.
    pub max_tasks: u32,
    /// Timers in use at once.
    pub max_timers: u32,
    /// Bytes for tasks.
    pub task_memory_bytes: u64,
    /// Polls of latency tasks in a tick.
    pub latency_polls: u32,
    /// Polls of normal tasks in a tick.
    pub normal_polls: u32,
    /// Polls of background tasks in a tick.
    pub background_polls: u32,
    /// Timers that fire in a tick.
    pub timers_per_tick: u32,
    /// From where on a gap counts as stolen.
    pub stolen_threshold_ns: u64,
    /// How often figures are published.
    pub publish_every_ns: u64,
    /// What tasks have to end.
    pub stop_grace_ns: u64,
    /// Metrics of the entry's own.
    pub more_metrics: u32,
    /// Histograms among them.
    pub more_histograms: u32,
    /// Commands taken in a pass.
    pub commands_per_pass: u32,
    /// `HANDOFF_` bits.
    pub flags: u32,
    /// Records of the probe ring.
    pub probe_records: u32,
    /// Zero.
    pub reserved: u32,
}

/// What a memory file is for, and so how it is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct FileRole(pub u32);

impl FileRole {
    /// DMA memory: both sides and the device write it.
    pub const DMA: Self = Self(1);
    /// The partition's region: it maps it, writes it and seals it.
    pub const REGION: Self = Self(2);
    /// The host's region: sealed, read here.
    pub const HOST_REGION: Self = Self(3);
    /// A device's memory that both sides write: mailbox, doorbells.
    pub const SHARED: Self = Self(4);
    /// A device's memory that the host writes; sealed, read here.
    pub const FROM_HOST: Self = Self(5);
    /// A file of somebody else's whose size nothing fixes: a server's doorbells.
    pub const FOREIGN: Self = Self(6);
    /// No memory: a descriptor that the device's opening needs.
    pub const NOTICE: Self = Self(7);
    /// The partition's own region of a mesh, in its place among the peers': written here, by each
    /// incarnation anew, so that only its size is sealed.
    pub const MESH_OWN: Self = Self(8);
    /// A peer's region of a mesh: a descriptor that cannot write.
    pub const MESH_PEER: Self = Self(9);
    /// A read-only table; sealed. They come in the order of their names.
    pub const TABLE: Self = Self(10);
    /// What the partition keeps for its next incarnation: mapped by one of them at a time.
    pub const STATE: Self = Self(11);
}

/// One inherited descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct HandoffFile {
    /// What it is.
    pub role: FileRole,
    /// The descriptor's number.
    pub fd: u32,
    /// Where in the file the mapping begins: whole pages.
    pub offset: u64,
    /// Bytes to map; 0 for what is no memory.
    pub len: u64,
    /// Bytes of its pages.
    pub page: u64,
}

const _: () = assert!(size_of::<HandoffFile>() == 32 && align_of::<HandoffFile>() == 8);

/// Bytes in one of the files' mappings.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Place {
    /// Index in the table of files.
    pub file: u32,
    /// Zero.
    pub reserved: u32,
    /// First byte, counted from the mapping's start.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Which way a device is reached.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(transparent)]
pub struct DeviceKind(pub u32);

impl DeviceKind {
    /// There is none.
    pub const NONE: Self = Self(0);
    /// Registers behind a mailbox.
    pub const MAILBOX: Self = Self(1);
    /// Registers behind a mailbox, and the status published beside it.
    pub const SESSION: Self = Self(2);
    /// A PCI function that the partition opens itself.
    pub const FUNCTION: Self = Self(3);
    /// The bridge to the host: `registers` is the file that the partition writes, `doorbells` the
    /// host's.
    pub const BRIDGE: Self = Self(4);
}

/// A device, as values.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct HandoffDevice {
    /// Which way.
    pub kind: DeviceKind,
    /// Zero.
    pub reserved: u32,
    /// A function: domain in bits 47:16, bus in 15:8, device and function in 7:0.
    pub function: u64,
    /// How long a register access may take.
    pub timeout_ns: u64,
    /// Where the device sees the first byte of the DMA memory; 0 where the partition finds out.
    pub iova: u64,
    /// Registers, or the word that says that a function is gone.
    pub registers: Place,
    /// Doorbells.
    pub doorbells: Place,
}

const _: () = assert!(size_of::<HandoffDevice>() == 80);
const _: () = assert!(size_of::<HandoffConfig>() == 80);
const _: () = assert!(offset_of!(Handoff, cpu) == 36 && offset_of!(Handoff, boot_id) == 40);
const _: () = assert!(offset_of!(Handoff, incarnation) == 56 && offset_of!(Handoff, config) == 136);
const _: () = assert!(offset_of!(Handoff, device) == 216 && offset_of!(Handoff, socket) == 296);
const _: () = assert!(offset_of!(Handoff, mesh_index) == 440);
const _: () = assert!(offset_of!(Handoff, node) == 712);
const _: () = assert!(size_of::<Handoff>() == 720 && size_of::<Handoff>() < 6 * LINE_BYTES);

impl Handoff {
    /// The head of `bytes`, checked: what it says of lengths is what there is.
    ///
    /// # Errors
    /// [`AbiError`] with what was seen and what is allowed.
    pub fn parse(bytes: &[u8]) -> Result<Self, AbiError> {
        const WHAT: &str = "handoff";
        let head: Self = prefix(WHAT, bytes)?;
        if head.magic != HANDOFF_MAGIC {
            let (found, expected) = (head.magic, HANDOFF_MAGIC);
            return Err(AbiError::Magic { what: WHAT, found, expected });
        }
        check_version(WHAT, head.version)?;
        let bad =
            |field, found: u64, allowed: u64| AbiError::Field { what: WHAT, field, found, allowed };
        if head.files > HANDOFF_FILES_MAX {
            return Err(bad("number of files", head.files.into(), HANDOFF_FILES_MAX.into()));
        }
        if head.args_bytes > HANDOFF_ARGS_MAX {
            return Err(bad(
                "length of arguments",
                head.args_bytes.into(),
                HANDOFF_ARGS_MAX.into(),
            ));
        }
        let needed = head.args_at() + head.args_bytes as usize;
        if bytes.len() < needed {
            return Err(AbiError::Short { what: WHAT, found: bytes.len(), needed });
        }
        head.name.check(WHAT)?;
        head.entry.check(WHAT)?;
        Ok(head)
    }

    /// The table of files, of `bytes` that [`Handoff::parse`] has checked.
    pub fn files<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = HandoffFile> + 'a {
        let table = bytes.get(size_of::<Self>()..self.args_at()).unwrap_or_default();
        table
            .chunks_exact(size_of::<HandoffFile>())
            .filter_map(|entry| HandoffFile::read_from_bytes(entry).ok())
    }

    /// The arguments, of `bytes` that [`Handoff::parse`] has checked.
    #[must_use]
    pub fn args<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let at = self.args_at();
        bytes.get(at..at + self.args_bytes as usize).unwrap_or_default()
    }

    const fn args_at(&self) -> usize {
        size_of::<Self>() + self.files as usize * size_of::<HandoffFile>()
    }

    /// A handoff of this version whose other fields are zero.
    #[must_use]
    pub fn blank() -> Self {
        Self {
            magic: HANDOFF_MAGIC,
            version: ABI_VERSION,
            node: HANDOFF_NO_NODE,
            ..Self::new_zeroed()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(files: u32, args: &[u8]) -> Vec<u8> {
        let mut head = Handoff::blank();
        head.files = files;
        head.args_bytes = u32::try_from(args.len()).expect("short");
        head.name = Name::lossy("p");
        head.entry = Name::lossy("e");
        let mut all = head.as_bytes().to_vec();
        for number in 0..files {
            let file = HandoffFile {
                role: FileRole::SHARED,
                fd: 3 + number,
                offset: 4096,
                len: 8192,
                page: 4096,
            };
            all.extend(file.as_bytes());
        }
        all.extend(args);
        all
    }

    #[test]
    fn files_and_arguments_are_found_behind_the_head() {
        let all = bytes(2, b"arguments");
        let head = Handoff::parse(&all).expect("sound");
        let fds: Vec<_> = head.files(&all).map(|file| file.fd).collect();
        assert_eq!((fds.as_slice(), head.args(&all)), (&[3, 4][..], &b"arguments"[..]));
    }

    #[test]
    fn what_is_cut_short_too_many_or_nameless_is_refused() {
        let all = bytes(2, b"arguments");
        for len in 0..all.len() {
            assert!(Handoff::parse(&all[..len]).is_err(), "{len} bytes");
        }
        let mut many = all.clone();
        many[offset_of!(Handoff, files)..][..4].copy_from_slice(&65_u32.to_le_bytes());
        assert!(Handoff::parse(&many).is_err());
        let mut nameless = all.clone();
        nameless[offset_of!(Handoff, entry)] = 0;
        assert!(Handoff::parse(&nameless).is_err());
        let mut newer = all;
        newer[8] = 200;
        assert!(matches!(Handoff::parse(&newer), Err(AbiError::NewerVersion { .. })));
    }

    #[test]
    fn a_file_has_its_golden_bytes() {
        let file =
            HandoffFile { role: FileRole::DMA, fd: 7, offset: 0, len: 0x20_0000, page: 0x1000 };
        #[rustfmt::skip]
        let golden = [
            1, 0, 0, 0, 7, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0x20, 0, 0, 0, 0, 0,
            0, 0x10, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(file.as_bytes(), golden);
    }
}
