//! The partition's side: an entry that works, and one that dies in the way its arguments say.

use std::arch::asm;
use std::ffi::{c_long, c_void};
use std::hint::black_box;

use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
use core_runtime::task::{TaskOptions, yield_now};
use nvme_driver::DeviceParts;

use crate::common;

/// Writes blocks and reads them back until it is asked to stop.
pub(crate) fn work(partition: &'static Partition, device: Option<DeviceParts>) -> PartitionExit {
    common::work(partition, device, u64::MAX, common::no_plant)
}

/// Passes through the loop before a victim dies: it is well inside of it then.
const PASSES: u32 = 100;

/// The task's name, which every record must say.
pub(crate) const TASK: &str = "victim";

pub(crate) fn run(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
    let way = str::from_utf8(partition.args()).unwrap_or_default();
    let Some((_, die)) = WAYS.iter().find(|(name, _)| *name == way) else {
        return PartitionExit::failed(1, format_args!("no way to die is named {way}"));
    };
    // Before it runs a program may allocate a little; what it keeps is freed too late on purpose.
    let kept = Box::new(7_u64);
    let task = async move {
        for _ in 0..PASSES {
            yield_now().await;
        }
        die(Box::into_raw(kept).addr());
        partition.finish(PartitionExit::done());
    };
    match partition.spawner().spawn(TaskOptions::normal(TASK), task) {
        Ok(task) => task.detach(),
        Err(error) => return PartitionExit::failed(1, format_args!("{error}")),
    }
    run_until_stopped(partition, ())
}

/// A way to die; the argument is the address of a box from before the loop.
pub(crate) type Way = fn(usize);

/// All of them, by the argument that chooses one.
pub(crate) const WAYS: &[(&str, Way)] = &[
    ("panic", panics),
    ("index", indexes),
    ("null", reads_null),
    ("text", writes_text),
    ("nowhere", calls_nowhere),
    ("overflow", overflows),
    ("illegal", illegal),
    ("divide", divides),
    ("trap", traps),
    ("allocate", allocates),
    ("grow", grows),
    ("free", frees),
    ("open", opens),
    ("file", opens_a_file),
    ("socket", |_| call(libc::SYS_socket, [2, 1, 0])),
    ("execve", |_| call(libc::SYS_execve, [c"/bin/true".as_ptr().addr(), 0, 0])),
    ("mmap", |_| call(libc::SYS_mmap, [0, 4096, 3])),
    ("ptrace", |_| call(libc::SYS_ptrace, [16, 1, 0])),
    ("exit", |_| call(libc::SYS_exit, [0, 0, 0])),
    ("loop", hangs),
    ("silent", |_| {}),
];

#[inline(never)]
fn panics(_: usize) {
    panic!("block {} is torn", black_box(7));
}

#[inline(never)]
fn indexes(_: usize) {
    let table = [1, 2, 3];
    black_box(table[black_box(3)]);
}

#[inline(never)]
fn reads_null(_: usize) {
    // SAFETY: none: it must fault.
    black_box(unsafe { std::ptr::without_provenance::<u64>(black_box(0x18)).read_volatile() });
}

#[inline(never)]
fn writes_text(_: usize) {
    let text: fn(usize) = writes_text;
    let at = std::ptr::with_exposed_provenance_mut::<u8>(text as usize);
    // SAFETY: none: the text is not writable.
    unsafe { at.write_volatile(0) };
}

#[inline(never)]
fn calls_nowhere(_: usize) {
    // SAFETY: none: there is no code.
    unsafe { asm!("call {at}", at = in(reg) black_box(0x40_usize)) };
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the fault")]
fn overflows(depth: usize) {
    let room = black_box([depth; 512]);
    overflows(black_box(room[0]));
    black_box(room);
}

#[inline(never)]
fn illegal(_: usize) {
    // SAFETY: it does not return.
    unsafe { asm!("ud2") };
}

#[inline(never)]
fn divides(_: usize) {
    // SAFETY: none: the processor refuses to divide by zero.
    unsafe {
        asm!("div {zero:e}", zero = in(reg) 0, inout("eax") 1 => _, inout("edx") 0 => _);
    }
}

#[inline(never)]
fn traps(_: usize) {
    // SAFETY: a breakpoint that nobody waits for.
    unsafe { asm!("int3") };
}

#[inline(never)]
fn allocates(_: usize) {
    black_box(Box::new(black_box([0_u8; 40])));
}

#[inline(never)]
fn grows(kept: usize) {
    // SAFETY: made by `run`, once.
    let mut all =
        unsafe { Vec::from_raw_parts(std::ptr::with_exposed_provenance_mut::<u64>(kept), 1, 1) };
    all.push(black_box(8));
    black_box(all);
}

#[inline(never)]
fn frees(kept: usize) {
    // SAFETY: made by `run`, once.
    drop(unsafe { Box::from_raw(std::ptr::with_exposed_provenance_mut::<u64>(kept)) });
}

#[inline(never)]
fn opens(_: usize) {
    let path = c"/etc/passwd".as_ptr().addr();
    call(libc::SYS_openat, [libc::AT_FDCWD.cast_unsigned() as usize, path, 0]);
}

#[inline(never)]
fn opens_a_file(_: usize) {
    black_box(std::fs::File::open("/etc/passwd").is_ok());
}

#[inline(never)]
fn hangs(_: usize) {
    while black_box(true) {}
}

#[inline(never)]
fn call(number: c_long, [a, b, c]: [usize; 3]) {
    // SAFETY: the kernel refuses it before it looks at an argument.
    unsafe { libc::syscall(number, a, b, c, 0_usize, 0_usize, 0_usize) };
    black_box(std::ptr::null::<c_void>());
}
