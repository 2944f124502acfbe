//! How to die, each way on purpose.
//!
//! Invariants, named in the SAFETY lines:
//! 1. What is done here is wrong, and meant to be: it ends the process, whose memory nobody trusts
//!    any more.

use std::hint::{black_box, spin_loop};

use crate::kind::Kind;

/// Does it; comes back only where nothing happened.
#[inline(never)]
pub(crate) fn die(kind: Kind) {
    match kind {
        Kind::Panic => panic!("a panic on purpose"),
        Kind::Pointer => {
            let nowhere = black_box(0x10) as *mut u64;
            // SAFETY: invariant 1.
            unsafe { nowhere.write_volatile(1) };
        }
        Kind::StackOverflow => drop(black_box(deeper(black_box(0)))),
        Kind::Illegal => {
            // SAFETY: invariant 1.
            unsafe { core::arch::asm!("ud2", options(noreturn)) }
        }
        Kind::Allocation => drop(black_box(Vec::<u64>::with_capacity(black_box(64)))),
        Kind::SystemCall => {
            black_box(std::process::id());
        }
        Kind::EndlessLoop => loop {
            spin_loop();
        },
        // From outside.
        Kind::Sigkill => {}
    }
}

/// A page a call.
#[inline(never)]
#[expect(unconditional_recursion, reason = "the stack is to overflow")]
fn deeper(depth: u64) -> u64 {
    let mut page = [depth; 512];
    black_box(&mut page);
    deeper(depth + 1) + page[black_box(7)]
}
