//! What a signal's context says, as the crash record keeps it.
//!
//! Invariants, named in the SAFETY lines: those of [`super`].

use std::ffi::{c_int, c_uint, c_void};

use hybrid_abi::crash::program::{KNOWN_FAULT_ADDRESS, KNOWN_SYSCALL, Registers};

/// The kernel's `_sigsys`, behind the leading words of a `siginfo_t`.
#[repr(C)]
struct SigSys {
    head: [c_int; 4],
    call_addr: *mut c_void,
    syscall: c_int,
    arch: c_uint,
}

const _: () = assert!(size_of::<SigSys>() <= size_of::<libc::siginfo_t>());
const _: () = assert!(std::mem::offset_of!(SigSys, syscall) == 24);

/// Arguments of a system call, in order.
const ARGUMENTS: [c_int; 6] =
    [libc::REG_RDI, libc::REG_RSI, libc::REG_RDX, libc::REG_R10, libc::REG_R8, libc::REG_R9];

/// R8 to R15.
const HIGH: [c_int; 8] = [
    libc::REG_R8,
    libc::REG_R9,
    libc::REG_R10,
    libc::REG_R11,
    libc::REG_R12,
    libc::REG_R13,
    libc::REG_R14,
    libc::REG_R15,
];

/// Registers of the interrupted code, and what the kernel says of the signal.
///
/// # Safety
/// The arguments are those of a handler with SA_SIGINFO (invariant 2).
pub(super) unsafe fn registers(
    signal: c_int,
    info: *const libc::siginfo_t,
    context: *const c_void,
) -> Registers {
    // SAFETY: the caller's promise; `SigSys` is not longer than the kernel's structure.
    let (code, address, call, at) = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        let call = (*info.cast::<SigSys>()).syscall;
        ((*info).si_code, (*info).si_addr().addr(), call, &context.uc_mcontext.gregs)
    };
    let register = |number: c_int| {
        let value = usize::try_from(number).ok().and_then(|number| at.get(number));
        value.copied().unwrap_or(0).cast_unsigned()
    };
    let known = match signal {
        // Other codes are a sender's (not above 0), or the kernel's without an address (128).
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE if (1..128).contains(&code) => {
            KNOWN_FAULT_ADDRESS
        }
        libc::SIGSYS => KNOWN_SYSCALL,
        _ => 0,
    };
    Registers {
        rax: register(libc::REG_RAX),
        rbx: register(libc::REG_RBX),
        rcx: register(libc::REG_RCX),
        rdx: register(libc::REG_RDX),
        rsi: register(libc::REG_RSI),
        rdi: register(libc::REG_RDI),
        rbp: register(libc::REG_RBP),
        rsp: register(libc::REG_RSP),
        r8_r15: HIGH.map(register),
        rip: register(libc::REG_RIP),
        rflags: register(libc::REG_EFL),
        fault_address: address as u64,
        error_code: register(libc::REG_ERR),
        signal: u32::try_from(signal).unwrap_or(0),
        code,
        trap: u32::try_from(register(libc::REG_TRAPNO)).unwrap_or(u32::MAX),
        known,
        syscall: u64::try_from(call).unwrap_or(u64::MAX),
        syscall_args: ARGUMENTS.map(register),
        reserved: [0; 3],
    }
}
