//! What a partition's process gives up before it runs: privileges, files, system calls.
//!
//! Called by [`crate::process`] in this order: [`give_up_privileges`], [`close_the_files`],
//! [`die_with_the_host`], and last [`end_system_calls`]. Each is for good.
//!
//! | what | stops |
//! |---|---|
//! | `no_new_privs`, empty capability sets | root's powers, and regaining them by an `execve` |
//! | landlock without a rule (where the kernel has it) | opening, making, removing any file |
//! | a seccomp filter | every system call but a handler's return, the last alarm and the end |
//!
//! The filter alone would do; the others hold what a mistake in it would let through.
//!
//! Invariants, named in the SAFETY lines:
//! 1. The filter program lives on the stack across the call; the kernel copies it.
//! 2. Plain numbers, or structures of the kernel's layout that live across the call.

use landlock::{
    ABI, Access, AccessFs, AccessNet, RestrictionStatus, Ruleset, RulesetAttr, RulesetStatus, Scope,
};

/// A step that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox cannot be closed: {step} failed: {source}")]
pub struct SandboxRefused {
    step: &'static str,
    source: std::io::Error,
}

fn refused(step: &'static str) -> SandboxRefused {
    SandboxRefused { step, source: std::io::Error::last_os_error() }
}

/// No core file: it would hold the feed and every buffer, and the kernel would write it before the
/// device is free again. The crash record is what a death leaves.
///
/// # Errors
/// [`SandboxRefused`].
pub fn leave_no_core_file() -> Result<(), SandboxRefused> {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(rustix::process::Resource::Core, none)
        .map_err(|errno| SandboxRefused { step: "the limit of core files", source: errno.into() })
}

/// Drops every capability, the bounding set's included where that is allowed, and the way to get
/// one back.
///
/// # Errors
/// [`SandboxRefused`].
pub fn give_up_privileges() -> Result<(), SandboxRefused> {
    /// Most capabilities that a kernel may know.
    const MOST: libc::c_ulong = 64;
    // SAFETY: invariant 2.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(refused("no_new_privs"));
    }
    for capability in 0..MOST {
        // Beyond the last one, and without the right to, it is an error that changes nothing: what
        // is not held and cannot be gained needs no bound.
        // SAFETY: invariant 2.
        let _ = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    // SAFETY: invariant 2. Ambient capabilities came with Linux 4.3; none is fine.
    let _ = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let none = rustix::thread::CapabilitySets {
        effective: rustix::thread::CapabilitySet::empty(),
        permitted: rustix::thread::CapabilitySet::empty(),
        inheritable: rustix::thread::CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)
        .map_err(|errno| SandboxRefused { step: "dropping capabilities", source: errno.into() })
}

/// Closes the file system, the network and other processes by landlock, as far as this kernel
/// knows it. Returns whether it does.
///
/// # Errors
/// [`SandboxRefused`] where the kernel knows it and refuses.
pub fn close_the_files() -> Result<bool, SandboxRefused> {
    let none = |error: landlock::RulesetError| SandboxRefused {
        step: "landlock",
        source: std::io::Error::other(error),
    };
    let abi = ABI::V6;
    let status: RestrictionStatus = Ruleset::default()
        .handle_access(AccessFs::from_all(abi))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(abi)))
        .and_then(|rules| rules.scope(Scope::from_all(abi)))
        .and_then(Ruleset::create)
        .and_then(|rules| rules.restrict_self())
        .map_err(none)?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Has the kernel send `signal` when the host's process ends. To be called after privileges were
/// dropped, which would clear it; who is a child of somebody else by then has lost its host.
///
/// # Errors
/// [`SandboxRefused`].
pub fn die_with_the_host(signal: libc::c_int) -> Result<(), SandboxRefused> {
    let signal = libc::c_ulong::try_from(signal).unwrap_or(0);
    // SAFETY: invariant 2.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(refused("the host's death signal")),
    }
}

/// The name that tools show.
pub fn set_process_name(name: &str) {
    let Ok(name) = std::ffi::CString::new(name) else { return };
    // SAFETY: the string lives across the call; the kernel keeps 15 bytes.
    let _ = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// `AUDIT_ARCH_X86_64`: calls by another convention have other numbers.
const ARCH_X86_64: u32 = 0xC000_003E;
/// Where `struct seccomp_data` has the number and the convention.
const NUMBER_AT: u32 = 0;
const ARCH_AT: u32 = 4;
/// Codes of the filter's machine: load a word, compare and jump, return.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Where it has the low half of the first argument.
const ARGUMENT_AT: u32 = 16;

/// How long a partition may go on when its host has died: `alarm` is allowed with this alone.
pub const LAST_SECONDS: u32 = 1;

/// What a partition may call, and nothing else: the way out of a signal handler, the end, and the
/// alarm that brings the end of a loop which does not see that the host has died.
#[expect(clippy::cast_possible_truncation, reason = "three numbers below 1,000")]
const FILTER: [libc::sock_filter; 10] = [
    step(LOAD, 0, 0, ARCH_AT),
    step(JUMP_IF_EQUAL, 0, 6, ARCH_X86_64),
    step(LOAD, 0, 0, NUMBER_AT),
    step(JUMP_IF_EQUAL, 5, 0, libc::SYS_rt_sigreturn as u32),
    step(JUMP_IF_EQUAL, 4, 0, libc::SYS_exit_group as u32),
    step(JUMP_IF_EQUAL, 0, 2, libc::SYS_alarm as u32),
    step(LOAD, 0, 0, ARGUMENT_AT),
    step(JUMP_IF_EQUAL, 1, 0, LAST_SECONDS),
    step(RETURN, 0, 0, libc::SECCOMP_RET_TRAP),
    step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
];

/// From here on a system call raises SIGSYS instead of being made, but for the three that dying
/// needs.
///
/// # Errors
/// [`SandboxRefused`]; nothing is filtered then.
pub fn end_system_calls() -> Result<(), SandboxRefused> {
    let mut filter = FILTER;
    let len = libc::c_ushort::try_from(filter.len()).unwrap_or(0);
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    // SAFETY: invariant 1.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(refused("seccomp")) }
}
