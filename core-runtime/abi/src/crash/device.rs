//! What a record says of the devices: registers as last seen, queue indices, every command that was
//! not answered; and where the queues lie, for a host that finds a partition killed.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Name;

/// The controller is in its first bring-up.
pub const CONTROLLER_STARTING: u32 = 1;
/// I/O is taken.
pub const CONTROLLER_READY: u32 = 2;
/// A reset is under way.
pub const CONTROLLER_RESETTING: u32 = 3;
/// An orderly shutdown is under way.
pub const CONTROLLER_SHUTTING_DOWN: u32 = 4;
/// Shut down.
pub const CONTROLLER_OFF: u32 = 5;
/// Failed for good.
pub const CONTROLLER_FAILED: u32 = 6;

/// [`ControllerRecord::csts`] was read at [`ControllerRecord::csts_tsc`].
pub const KNOWN_CSTS: u32 = 1 << 0;
/// [`ControllerRecord::cc`] was written or read.
pub const KNOWN_CC: u32 = 1 << 1;
/// Serial number, model and firmware are those of Identify Controller.
pub const KNOWN_IDENTITY: u32 = 1 << 2;
/// The driver had found the device gone.
pub const KNOWN_GONE: u32 = 1 << 3;

/// A controller as the driver knew it; nothing was read from it for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ControllerRecord {
    /// Number of the controller in its partition, from 0.
    pub controller: u32,
    /// One of the `CONTROLLER_` states.
    pub state: u32,
    /// `KNOWN_` flags.
    pub known: u32,
    /// CSTS as last read.
    pub csts: u32,
    /// CC as last written or read.
    pub cc: u32,
    /// VS.
    pub vs: u32,
    /// CAP.
    pub cap: u64,
    /// TSC at which CSTS was read.
    pub csts_tsc: u64,
    /// After so long an I/O command is aborted.
    pub deadline_ns: u64,
    /// After so long an admin command leads to a reset.
    pub admin_deadline_ns: u64,
    /// Resets of the controller.
    pub resets: u64,
    /// Resets of single queues.
    pub queue_resets: u64,
    /// Aborts asked for.
    pub aborts: u64,
    /// Commands that passed their deadline.
    pub deadlines: u64,
    /// Serial number.
    pub serial: Name<20>,
    /// Model number.
    pub model: Name<40>,
    /// Firmware revision.
    pub firmware: Name<8>,
    /// I/O queue pairs in use.
    pub io_queues: u16,
    /// Namespaces that can be used.
    pub namespaces: u16,
    /// Where the driver's state machine stood, in its own words.
    pub phase: Name<32>,
}

const _: () = assert!(size_of::<ControllerRecord>() == 192 && align_of::<ControllerRecord>() == 8);
const _: () = assert!(offset_of!(ControllerRecord, cap) == 24);
const _: () = assert!(offset_of!(ControllerRecord, serial) == 88);
const _: () = assert!(offset_of!(ControllerRecord, io_queues) == 156);
const _: () = assert!(offset_of!(ControllerRecord, phase) == 160);

impl ControllerRecord {
    /// The state's name.
    #[must_use]
    pub const fn state_name(&self) -> &'static str {
        match self.state {
            CONTROLLER_STARTING => "starting",
            CONTROLLER_READY => "ready",
            CONTROLLER_RESETTING => "resetting",
            CONTROLLER_SHUTTING_DOWN => "shutting down",
            CONTROLLER_OFF => "off",
            CONTROLLER_FAILED => "failed",
            _ => "unknown",
        }
    }
}

/// Not open: not made, or a reset is under way.
pub const QUEUE_CLOSED: u16 = 0;
/// Commands are posted.
pub const QUEUE_OPEN: u16 = 1;
/// The device has let go of it; what was in flight is being ended.
pub const QUEUE_FENCED: u16 = 2;
/// As fenced, but the device never confirmed.
pub const QUEUE_LOST: u16 = 3;

/// The index is not known: the host composed the record.
pub const INDEX_UNKNOWN: u16 = u16::MAX;

/// A queue pair's indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueueRecord {
    /// The controller's number.
    pub controller: u16,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Entries of each ring, at most 4,096.
    pub entries: u16,
    /// One of the `QUEUE_` modes.
    pub mode: u16,
    /// Where the next command goes.
    pub sq_tail: u16,
    /// The tail that the doorbell was given.
    pub sq_rung: u16,
    /// How far the device had fetched, as its last completion said.
    pub sqhd: u16,
    /// Where the next completion is looked for.
    pub cq_head: u16,
    /// The head that the doorbell was given.
    pub cq_rung: u16,
    /// Phase tag that a new completion carries: 0 or 1.
    pub phase: u16,
    /// Commands in flight.
    pub in_flight: u16,
    /// Commands that wait for a retry.
    pub held: u16,
    /// The device's address of the submission queue.
    pub sq_iova: u64,
    /// The device's address of the completion queue.
    pub cq_iova: u64,
    /// Commands posted.
    pub submitted: u64,
    /// Commands answered.
    pub completed: u64,
    /// Commands answered with an error.
    pub failed: u64,
    /// Commands lost in resets.
    pub lost: u64,
    /// Completions that lie in the ring and were not taken.
    pub unreaped: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<QueueRecord>() == 80 && align_of::<QueueRecord>() == 8);
const _: () = assert!(offset_of!(QueueRecord, sq_iova) == 24);
const _: () = assert!(offset_of!(QueueRecord, unreaped) == 72);

impl QueueRecord {
    /// The mode's name.
    #[must_use]
    pub const fn mode_name(&self) -> &'static str {
        match self.mode {
            QUEUE_CLOSED => "closed",
            QUEUE_OPEN => "open",
            QUEUE_FENCED => "fenced",
            QUEUE_LOST => "lost",
            _ => "unknown",
        }
    }
}

/// What stands before the commands of one controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CommandsHead {
    /// The controller's number.
    pub controller: u32,
    /// Commands that there were; the section's count says how many of them are here.
    pub total: u32,
}

const _: () = assert!(size_of::<CommandsHead>() == 8);

/// Posted; its deadline has not passed.
pub const COMMAND_IN_FLIGHT: u8 = 1;
/// Posted; its deadline has passed.
pub const COMMAND_EXPIRED: u8 = 2;
/// Answered with an error; waits to be posted again.
pub const COMMAND_HELD: u8 = 3;

/// A completion for it lies in the ring, which nobody took: see [`CommandRecord::status`].
pub const COMMAND_ANSWERED: u8 = 1 << 0;
/// [`CommandRecord::slba`] and [`CommandRecord::nlb_z`] are blocks.
pub const COMMAND_BLOCKS: u8 = 1 << 1;
/// The doorbell was not rung for it yet: the device does not know of it.
pub const COMMAND_NOT_RUNG: u8 = 1 << 2;
/// A request for an asynchronous event, which may stay for ever.
pub const COMMAND_EVENT: u8 = 1 << 3;
/// Its entry was overwritten since, so that opcode and blocks are not known.
pub const COMMAND_ENTRY_LOST: u8 = 1 << 4;
/// Nothing is known of its age.
pub const COMMAND_AGE_UNKNOWN: u8 = 1 << 5;

/// Told from the rings alone; its answer may have been there and been written over since.
pub const COMMAND_DOUBTFUL: u8 = 1 << 6;

/// One command that had no answer, or one that nobody took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CommandRecord {
    /// First block; for a command without blocks dwords 10 and 11.
    pub slba: u64,
    /// Namespace.
    pub nsid: u32,
    /// Microseconds since it was posted, at least; all ones for more.
    pub age_us: u32,
    /// It is older than that by at most this; 0 where the age is exact.
    pub age_within_us: u32,
    /// Blocks, counted from 0.
    pub nlb_z: u16,
    /// Command identifier.
    pub cid: u16,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Status field of the completion that nobody took, without its phase tag.
    pub status: u16,
    /// Opcode.
    pub opcode: u8,
    /// One of the `COMMAND_` states.
    pub state: u8,
    /// `COMMAND_` flags.
    pub flags: u8,
    /// Tries before this one.
    pub tries: u8,
}

const _: () = assert!(size_of::<CommandRecord>() == 32 && align_of::<CommandRecord>() == 8);
const _: () = assert!(offset_of!(CommandRecord, nlb_z) == 20);
const _: () = assert!(offset_of!(CommandRecord, opcode) == 28);

impl CommandRecord {
    /// Number of blocks; 0 for a command without blocks.
    #[must_use]
    pub const fn nlb(&self) -> u32 {
        if self.flags & COMMAND_BLOCKS == 0 { 0 } else { self.nlb_z as u32 + 1 }
    }
}

/// Places of a queues part: the admin queue and all I/O queues of three controllers.
pub const QUEUE_PLACES: usize = 63;
/// Bytes of a queues part.
pub const QUEUE_PART_BYTES: usize = QUEUE_PLACES * size_of::<QueuePlace>();

/// There is no such address.
pub const NO_OFFSET: u64 = u64::MAX;

/// Nothing is published.
pub const PLACE_EMPTY: u32 = 0;
/// The rest of the place counts.
pub const PLACE_VALID: u32 = 1;

/// Where a queue pair lies, published once, when it is made. Offsets count from the start of the
/// DMA memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct QueuePlace {
    /// One of the `PLACE_` constants; stored last, with Release.
    pub state: u32,
    /// Entries of each ring.
    pub entries: u32,
    /// The controller's number.
    pub controller: u16,
    /// Queue identifier; 0 is the admin queue.
    pub qid: u16,
    /// Low bits of a command identifier that name its slot; the others are its generation.
    pub slot_mask: u32,
    /// The submission queue.
    pub sq_offset: u64,
    /// The completion queue.
    pub cq_offset: u64,
    /// The word in which the driver leaves its tail for the device, or [`NO_OFFSET`].
    pub shadow_offset: u64,
    /// [`Indices`] as its driver left them about a millisecond ago at most; 0 for none.
    pub indices: u64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// A queue pair's indices at one moment, in one word: bits 15:0 the tail, 31:16 SQHD as the last
/// completion that was taken told it, 47:32 where the next completion is looked for, 48 that they
/// are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// Where the next command goes.
    pub sq_tail: u16,
    /// How far the device had fetched.
    pub sqhd: u16,
    /// Where the next completion is looked for.
    pub cq_head: u16,
}

impl Indices {
    /// As the word.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        self.sq_tail as u64 | (self.sqhd as u64) << 16 | (self.cq_head as u64) << 32 | 1 << 48
    }

    /// From the word; `None` where nothing was published.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are parts of the word")]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word >> 48 & 1 == 0 {
            return None;
        }
        Some(Self { sq_tail: word as u16, sqhd: (word >> 16) as u16, cq_head: (word >> 32) as u16 })
    }
}

const _: () = assert!(size_of::<QueuePlace>() == 64 && align_of::<QueuePlace>() == 8);
const _: () = assert!(offset_of!(QueuePlace, controller) == 8);
const _: () = assert!(offset_of!(QueuePlace, sq_offset) == 16);
const _: () = assert!(offset_of!(QueuePlace, indices) == 40);
