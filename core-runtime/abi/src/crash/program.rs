//! What a record says of the program: where it stood, how it came there, what its tasks did.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Name;
use crate::region::BUILD_ID_BYTES;
use crate::tasks::TaskFigures;

/// Which program it was, and where it lay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Program {
    /// Build id, padded with zero bytes; all zero where it is not known.
    pub build_id: [u8; BUILD_ID_BYTES],
    /// Zero.
    pub reserved: u32,
    /// Where its first byte was loaded; 0 where that is not known. An address of the record less
    /// this is an address of the file.
    pub load_base: u64,
}

const _: () = assert!(size_of::<Program>() == 32 && align_of::<Program>() == 8);
const _: () = assert!(offset_of!(Program, load_base) == 24);

/// Where in the source; the file's name follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Location {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
}

const _: () = assert!(size_of::<Location>() == 8);

/// [`Registers::fault_address`] means something.
pub const KNOWN_FAULT_ADDRESS: u32 = 1 << 0;
/// [`Registers::syscall`] and [`Registers::syscall_args`] mean something.
pub const KNOWN_SYSCALL: u32 = 1 << 1;

/// What a signal's context says: x86-64.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Registers {
    /// RAX.
    pub rax: u64,
    /// RBX.
    pub rbx: u64,
    /// RCX.
    pub rcx: u64,
    /// RDX.
    pub rdx: u64,
    /// RSI.
    pub rsi: u64,
    /// RDI.
    pub rdi: u64,
    /// RBP.
    pub rbp: u64,
    /// RSP.
    pub rsp: u64,
    /// R8 to R15.
    pub r8_r15: [u64; 8],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// The address that could not be reached.
    pub fault_address: u64,
    /// The processor's error code.
    pub error_code: u64,
    /// Number of the signal.
    pub signal: u32,
    /// `si_code`.
    pub code: i32,
    /// The processor's trap number.
    pub trap: u32,
    /// `KNOWN_` flags.
    pub known: u32,
    /// Number of the system call.
    pub syscall: u64,
    /// Its arguments.
    pub syscall_args: [u64; 6],
    /// Zero.
    pub reserved: [u64; 3],
}

const _: () = assert!(size_of::<Registers>() == 256 && align_of::<Registers>() == 8);
const _: () = assert!(offset_of!(Registers, rip) == 128);
const _: () = assert!(offset_of!(Registers, signal) == 160);
const _: () = assert!(offset_of!(Registers, syscall) == 176);

impl Registers {
    /// Names and values of the general registers, as debuggers order them.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 18] {
        let [r8, r9, r10, r11, r12, r13, r14, r15] = self.r8_r15;
        [
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rbp", self.rbp),
            ("rsp", self.rsp),
            ("r8", r8),
            ("r9", r9),
            ("r10", r10),
            ("r11", r11),
            ("r12", r12),
            ("r13", r13),
            ("r14", r14),
            ("r15", r15),
            ("rip", self.rip),
            ("rflags", self.rflags),
        ]
    }
}

/// The chain of frames ended where it should: at the outermost one.
pub const BACKTRACE_ROOT: u32 = 1;
/// The next frame lies outside of the stack.
pub const BACKTRACE_LEFT_STACK: u32 = 2;
/// The next frame does not lie above the one before, or is not aligned.
pub const BACKTRACE_BROKEN: u32 = 3;
/// There were more frames than are kept.
pub const BACKTRACE_FULL: u32 = 4;

/// Most addresses of a backtrace.
pub const BACKTRACE_MAX: usize = 64;

/// What stands before the addresses. The first of these is where it happened, the others are return
/// addresses, innermost first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct BacktraceHead {
    /// Why there are no more: one of the `BACKTRACE_` constants.
    pub end: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<BacktraceHead>() == 8);

/// Bytes of a task's name that are kept.
pub const TASK_NAME_BYTES: usize = 48;

/// The task that was being polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CurrentTask {
    /// Its number, from 1; 0 for none: the loop itself ran.
    pub task: u32,
    /// Zero.
    pub reserved: u32,
    /// TSC at which this poll began; of the last poll's where none runs.
    pub since_tsc: u64,
    /// How long that was ago, ticks.
    pub age_ticks: u64,
    /// Passes of the loop.
    pub heartbeat: u64,
    /// TSC at the start of the last pass.
    pub heartbeat_tsc: u64,
    /// Its name.
    pub name: Name<TASK_NAME_BYTES>,
}

const _: () = assert!(size_of::<CurrentTask>() == 88 && align_of::<CurrentTask>() == 8);
const _: () = assert!(offset_of!(CurrentTask, age_ticks) == 16);
const _: () = assert!(offset_of!(CurrentTask, name) == 40);

/// It waits for a wake.
pub const TASK_WAITING: u16 = 1;
/// It is in a run queue.
pub const TASK_READY: u16 = 2;
/// It was being polled.
pub const TASK_RUNNING: u16 = 3;
/// It has ended; nobody took the result yet.
pub const TASK_DONE: u16 = 4;

/// What stands before the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TasksHead {
    /// Tasks that there were; the section's count says how many of them are here.
    pub total: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<TasksHead>() == 8);

/// One task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TaskRecord {
    /// What it has done, as the part of tasks has it.
    pub figures: TaskFigures,
    /// Its name.
    pub name: Name<TASK_NAME_BYTES>,
}

const _: () = assert!(size_of::<TaskRecord>() == 96 && align_of::<TaskRecord>() == 8);
const _: () = assert!(offset_of!(TaskRecord, name) == 48);
