//! How a partition's process dies: faults, panics, allocations, system calls, and the host's wish.
//!
//! Called by [`crate::process`] once, before the sandbox closes, and by the allocator's guard
//! ([`super::alloc_guard`]). Whatever ends the partition comes to one place: the cause is put into
//! the crash record and, as one line, into the state part; then the process ends with a code that
//! says which way ([`code`]). Nothing here allocates, locks, waits or touches a device.
//!
//! ```text
//!  SIGSEGV SIGBUS SIGILL SIGFPE SIGTRAP ─┐
//!  SIGSYS: a system call was made        ├─▶ record ─▶ state part: failed, one line ─▶ exit_group
//!  panic hook, allocator's guard         │
//!  SIGUSR1: the host asks for a dump ────┘
//!  SIGUSR2: the host has died ─────────────▶ a flag that the loop sees, and an alarm
//! ```
//!
//! Invariants, named in the SAFETY lines:
//! 1. Handlers run on the partition's one thread, on an alternate stack that is always there; what
//!    they read was stored before they were installed.
//! 2. The kernel passes valid `siginfo_t` and `ucontext_t` to a handler with SA_SIGINFO.
//! 3. A handler that does not return may look at anything; the one that does (SIGUSR2) stores one
//!    flag.
//! 4. `exit_group` is allowed by the sandbox and does not return.
//! 5. [`prepare`] is called by a partition's process, which has one thread.

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use core_runtime::crash::{self, Cause, Frame, Recorded, StackRange};
use core_runtime::partition::{Partition, PartitionExit, PartitionState};
use hybrid_abi::crash::program::{KNOWN_FAULT_ADDRESS, Registers};
use hybrid_abi::crash::{
    REASON_ALLOCATION, REASON_ASKED, REASON_DEVICE_GONE, REASON_FAULT, REASON_PANIC, REASON_SYSCALL,
};

use super::bar;
use super::fixed_stack::FixedStack;
use super::sandbox::LAST_SECONDS;
use super::signals::FAULTS;
use super::syscall_names::syscall_name;

mod context;

/// The host asks for a dump; the partition ends with one.
pub const DUMP_SIGNAL: libc::c_int = libc::SIGUSR1;
/// The kernel's word that the host has died.
pub const HOST_DIED_SIGNAL: libc::c_int = libc::SIGUSR2;

/// What a partition's process ends with: which way it went. The state part has the words.
pub mod code {
    /// The entry returned, and all was well.
    pub const DONE: i32 = 0;
    /// The entry returned with an error.
    pub const FAILED: i32 = 1;
    /// The device needs what only the next incarnation can do.
    pub const NEEDS_RESET: i32 = 70;
    /// The device's registers are not there any more, or the entry blames the device.
    pub const DEVICE_GONE: i32 = 71;
    const _: () = assert!(DEVICE_GONE as u32 == core_runtime::partition::DEVICE_FAULT);
    /// The partition could not be made; the host was told why.
    pub const NOT_STARTED: i32 = 72;
    /// The program allocated, resized or freed memory while it ran.
    pub const ALLOCATION: i32 = 80;
    /// A panic: Rust's own code.
    pub const PANIC: i32 = 101;
    /// A fault is 128 and the signal's number, as a shell has it: 139 for SIGSEGV, 159 for a
    /// system call (SIGSYS), 138 for a dump that was asked for (SIGUSR1).
    pub const SIGNAL: i32 = 128;
}

/// Bytes of the alternate stack: a record is composed on it.
const ALTERNATE_BYTES: usize = 128 << 10;

/// What handlers know.
struct Dying {
    partition: &'static Partition,
    guard: Range<usize>,
    stack: Range<usize>,
    alternate: Range<usize>,
}

// SAFETY: invariant 5: there is one thread, and nobody to send it to.
unsafe impl Send for Dying {}
// SAFETY: as above.
unsafe impl Sync for Dying {}

static DYING: OnceLock<Dying> = OnceLock::new();

/// Installs everything: from here on the partition does not die without a word.
///
/// # Errors
/// What the kernel said.
pub fn prepare(partition: &'static Partition, stack: &FixedStack) -> std::io::Result<()> {
    let alternate = FixedStack::new(ALTERNATE_BYTES)?;
    let dying = Dying {
        partition,
        guard: stack.guard(),
        stack: stack.usable(),
        alternate: alternate.usable(),
    };
    if DYING.set(dying).is_err() {
        return Err(std::io::ErrorKind::AlreadyExists.into());
    }
    let stack = libc::stack_t { ss_sp: alternate.low(), ss_flags: 0, ss_size: alternate.len() };
    // SAFETY: invariant 1: the stack is never unmapped.
    if unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    std::panic::set_hook(Box::new(panicked));
    for signal in FAULTS {
        // A fault inside the handler comes to it again, and ends there.
        handle(signal, faulted, libc::SA_NODEFER)?;
    }
    handle(DUMP_SIGNAL, faulted, libc::SA_NODEFER)?;
    handle(HOST_DIED_SIGNAL, host_died, 0)?;
    handle(libc::SIGALRM, overdue, 0)?;
    // Ctrl-Z stops the partition with its host.
    unblock(&[DUMP_SIGNAL, HOST_DIED_SIGNAL, libc::SIGALRM, libc::SIGTSTP])
}

type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn handle(signal: libc::c_int, handler: Handler, more: libc::c_int) -> std::io::Result<()> {
    // SAFETY: all zeroes is a valid `sigaction`.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | more;
    // SAFETY: invariant 1; `action` is initialised, its mask is set before it is installed.
    let result = unsafe {
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaddset(&raw mut action.sa_mask, DUMP_SIGNAL);
        libc::sigaddset(&raw mut action.sa_mask, HOST_DIED_SIGNAL);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn unblock(signals: &[libc::c_int]) -> std::io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` initialises the set before it is used.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        signals.iter().for_each(|signal| {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        });
        libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), std::ptr::null_mut())
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(result)) }
}

/// Ends the process, now.
pub fn end(code: i32) -> ! {
    loop {
        // SAFETY: invariant 4.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}

extern "C" fn host_died(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(dying) = DYING.get() {
        dying.partition.host_died();
    }
    // A loop that hangs does not see it.
    // SAFETY: a plain number; the sandbox lets this call through, and it cannot fail.
    unsafe { libc::syscall(libc::SYS_alarm, LAST_SECONDS) };
}

/// The host is dead, and the partition has not ended in its last second.
extern "C" fn overdue(signal: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    end(code::SIGNAL + signal);
}

extern "C" fn faulted(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let Some(dying) = DYING.get() else { end(code::SIGNAL + signal) };
    // SAFETY: invariant 2.
    let registers = unsafe { context::registers(signal, info, context) };
    if signal == DUMP_SIGNAL && ENDING.load(Ordering::Relaxed) {
        // It is ending, with a record of why.
        return;
    }
    let fault = Fault::of(&registers);
    let gone = signal == libc::SIGBUS && fault.address.is_some_and(bar::is_guarded);
    let (code, reason) = if gone {
        (code::DEVICE_GONE, REASON_DEVICE_GONE)
    } else {
        (code::SIGNAL + signal, fault.reason())
    };
    let words = FaultWords { fault, gone, dying };
    // Where nothing is mapped at the instruction itself, the caller's address is on the stack.
    let nowhere =
        registers.known & KNOWN_FAULT_ADDRESS != 0 && registers.fault_address == registers.rip;
    let sp = nowhere.then_some(registers.rsp);
    let frame = Frame { ip: registers.rip, fp: registers.rbp, sp };
    let cause = Cause { registers: Some(&registers), frame: Some(frame), ..Cause::of(reason) };
    finish(dying, code, format_args!("{words}"), cause)
}

/// A heap call while the partition runs; `bytes` are what was asked for.
pub fn allocated(bytes: usize) -> ! {
    let Some(dying) = DYING.get() else { end(code::ALLOCATION) };
    let task = InTask(dying.partition);
    let cause = Cause { frame: Some(crash::here()), ..Cause::of(REASON_ALLOCATION) };
    let words = format_args!("called the allocator while running, for {bytes} bytes{task}");
    finish(dying, code::ALLOCATION, words, cause)
}

fn panicked(info: &PanicHookInfo<'_>) {
    let Some(dying) = DYING.get() else { end(code::PANIC) };
    let at = info.location();
    let cause = Cause {
        location: at.map(|at| (at.file(), at.line(), at.column())),
        frame: Some(crash::here()),
        ..Cause::of(REASON_PANIC)
    };
    finish(dying, code::PANIC, format_args!("{}", PanicWords { info, dying }), cause)
}

/// Whether the process is past its last step: set first of all.
static ENDING: AtomicBool = AtomicBool::new(false);

/// The one place where everything ends: the record, the line, the code. A fault in here comes here
/// again: the record says so then, and that is all. So nothing is looked at before the record has
/// begun, and words are made while it is written.
fn finish(dying: &Dying, code: i32, words: fmt::Arguments<'_>, cause: Cause<'_>) -> ! {
    ENDING.store(true, Ordering::Relaxed);
    let Dying { partition, stack, alternate, .. } = dying;
    // SAFETY: invariant 1: both stacks are mapped for good.
    let stacks = unsafe {
        [StackRange::new(alternate.start, alternate.end), StackRange::new(stack.start, stack.end)]
    };
    let cause = Cause { message: Some(words), stacks: &stacks, ..cause };
    let recorded = crash::record(partition, &cause);
    if recorded == Recorded::Complete && !partition.state().is_final() {
        publish(partition, &exit(code, words));
    }
    end(code)
}

fn exit(code: i32, line: fmt::Arguments<'_>) -> PartitionExit {
    PartitionExit::failed(u32::try_from(code).unwrap_or(1), line)
}

/// Publishes an end that did not come by the loop's own way.
pub fn publish(partition: &'static Partition, exit: &PartitionExit) {
    if partition.state() == PartitionState::Running {
        partition.enter_stopping();
    }
    partition.publish_exit(exit);
}

/// ` in task blocks`, or nothing.
struct InTask(&'static Partition);

impl fmt::Display for InTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.scheduler().current() {
            Some(task) => write!(f, " in task {}", task.name),
            None => Ok(()),
        }
    }
}

/// `panicked in task blocks: no such order, at src/main.rs:3`.
struct PanicWords<'a> {
    info: &'a PanicHookInfo<'a>,
    dying: &'a Dying,
}

impl fmt::Display for PanicWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = self.info.payload();
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a value that is no text");
        write!(f, "panicked{}: {message}", InTask(self.dying.partition))?;
        match self.info.location() {
            Some(at) => write!(f, ", at {}:{}", at.file(), at.line()),
            None => Ok(()),
        }
    }
}

/// `segmentation fault: nothing is mapped at 0x10 in task blocks`.
struct FaultWords<'a> {
    fault: Fault,
    /// The device's registers.
    gone: bool,
    dying: &'a Dying,
}

impl fmt::Display for FaultWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dying { partition, guard, stack, .. } = self.dying;
        if self.gone {
            f.write_str("device gone: its registers fault")?;
        } else {
            self.fault.describe(guard, stack, f)?;
        }
        write!(f, "{}", InTask(partition))
    }
}

/// What the kernel said of a signal.
#[derive(Clone, Copy, Debug)]
struct Fault {
    signal: libc::c_int,
    code: libc::c_int,
    /// What was accessed, where the processor says it.
    address: Option<usize>,
    /// Who sent it, for a signal that no instruction of ours raised.
    sender: u32,
    /// For SIGSYS: the call.
    call: libc::c_int,
}

impl Fault {
    fn of(registers: &Registers) -> Self {
        Self {
            signal: libc::c_int::try_from(registers.signal).unwrap_or(0),
            code: registers.code,
            address: usize::try_from(registers.fault_address)
                .ok()
                .filter(|_| registers.known & KNOWN_FAULT_ADDRESS != 0),
            // The kernel has the sender's number where a fault has its address.
            sender: u32::try_from(registers.fault_address & 0xffff_ffff).unwrap_or(0),
            call: libc::c_int::try_from(registers.syscall).unwrap_or(-1),
        }
    }

    const fn reason(&self) -> u32 {
        match self.signal {
            libc::SIGSYS => REASON_SYSCALL,
            DUMP_SIGNAL => REASON_ASKED,
            _ => REASON_FAULT,
        }
    }

    fn describe(
        &self,
        guard: &Range<usize>,
        stack: &Range<usize>,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let Self { signal, code, address, sender, call } = *self;
        match signal {
            libc::SIGSYS => return write!(f, "made system call {} ({call})", syscall_name(call)),
            DUMP_SIGNAL => return f.write_str("was asked for a dump"),
            libc::SIGTRAP => return f.write_str("trap"),
            libc::SIGSEGV if address.is_some_and(|at| guard.contains(&at)) => {
                return write!(f, "overflowed its stack of {} bytes", stack.len());
            }
            libc::SIGSEGV => f.write_str(match code {
                1 => "segmentation fault: nothing is mapped",
                2 => "segmentation fault: no permission",
                _ => "segmentation fault",
            })?,
            libc::SIGBUS => f.write_str("bus error")?,
            libc::SIGILL => f.write_str("illegal instruction")?,
            libc::SIGFPE => f.write_str("arithmetic fault")?,
            other => write!(f, "signal {other}")?,
        }
        match address {
            Some(address) => write!(f, " at {address:#x}"),
            None if code <= 0 => write!(f, ", sent by process {sender}"),
            // A general protection fault: the processor does not say which address.
            None => f.write_str(" at an address that is not canonical"),
        }
    }
}
