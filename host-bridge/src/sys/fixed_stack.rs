//! A stack that does not grow: made once, touched as a whole, with a guard below it.
//!
//! Called by [`crate::process`]. The stack that a process begins with grows by page faults; a
//! partition that is a process leaves it for this one and never comes back.
//!
//! Invariants, named in the SAFETY lines:
//! 1. `base .. base + guard + len` is one mapping of ours, never unmapped: the lowest `guard` bytes
//!    are inaccessible, the rest is readable and writable.
//! 2. [`FixedStack::run`] is entered once, with an empty stack.

use std::ffi::c_void;
use std::ops::Range;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

/// Inaccessible bytes below a stack: more than a page, so that a frame of some size meets them even
/// where the compiler does not probe.
const GUARD_BYTES: usize = 64 << 10;

/// A stack and its guard.
#[derive(Debug)]
pub struct FixedStack {
    base: *mut c_void,
    len: usize,
}

impl FixedStack {
    /// A stack of `len` bytes (whole pages), every page of it there.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new(len: usize) -> rustix::io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::POPULATE;
        let whole = GUARD_BYTES + len;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), whole, prot, flags) }?;
        // SAFETY: the lowest part of the mapping just made, which nobody uses.
        unsafe { rustix::mm::mprotect(base, GUARD_BYTES, MprotectFlags::empty()) }?;
        Ok(Self { base, len })
    }

    /// The addresses that a stack pointer may have.
    #[must_use]
    pub fn usable(&self) -> Range<usize> {
        let low = self.base.addr() + GUARD_BYTES;
        low..low + self.len
    }

    /// The addresses that a stack which is too deep meets.
    #[must_use]
    pub fn guard(&self) -> Range<usize> {
        let low = self.base.addr();
        low..low + GUARD_BYTES
    }

    /// First usable byte, for [`super::dying`]'s alternate stack.
    pub(super) fn low(&self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD_BYTES)
    }

    /// Usable bytes.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Leaves the stack that the caller is on, for good, and runs `body` on this one.
    pub fn run<T>(self, value: T, body: fn(T) -> !) -> ! {
        // Both stay where they are: nobody returns to this frame.
        let mut context = Context { value: Some(value), body };
        let top = self.usable().end & !0xf;
        let enter: extern "C" fn(*mut Context<T>) -> ! = enter::<T>;
        // SAFETY: invariants 1 and 2. `call` pushes a return address, as the calling convention
        // wants it on an aligned stack; a frame pointer of zero ends a walk over frames. `enter`
        // does not return, and the frames that are left behind stay as they are.
        unsafe {
            std::arch::asm!(
                "mov rsp, {top}",
                "xor ebp, ebp",
                "call {enter}",
                "ud2",
                top = in(reg) top,
                enter = in(reg) enter,
                in("rdi") &raw mut context,
                options(noreturn)
            )
        }
    }
}

/// What crosses to the other stack.
struct Context<T> {
    value: Option<T>,
    body: fn(T) -> !,
}

extern "C" fn enter<T>(context: *mut Context<T>) -> ! {
    // SAFETY: `run` made it, in a frame that stays, and looks at it no more.
    let context = unsafe { &mut *context };
    let value = context.value.take().expect("taken once");
    (context.body)(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_and_stack_are_neighbours_and_the_guard_is_inaccessible() {
        let stack = FixedStack::new(64 << 10).expect("a stack");
        assert_eq!(stack.guard().end, stack.usable().start);
        assert_eq!(stack.usable().len(), 64 << 10);
        let maps = std::fs::read_to_string("/proc/self/maps").expect("procfs");
        let line = format!("{:x}-{:x} ---p", stack.guard().start, stack.guard().end);
        assert!(maps.contains(&line), "{line} is not in\n{maps}");
    }
}
