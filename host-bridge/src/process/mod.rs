//! Partitions that are processes: this program, executed again.
//!
//! ```text
//!  host                                        partition: the same program, another main
//!  spawn: handoff and memory files by fd ────▶ takes them over, closes all else, pins itself
//!                                              maps, seals its region, opens its device, assembles
//!                                              locks all memory, drops privileges
//!  Ready, or why not ◀──────────────────────── (a socket, until then)
//!  checks the seals, maps the region
//!  Go ───────────────────────────────────────▶ closes the socket and every file of ours
//!                                              another stack, seccomp, then no_std code alone
//!  pidfd readable ◀─────────────────────────── exit_group
//! ```
//!
//! | module | whose side | what |
//! |---|---|---|
//! | `handoff` | both | what crosses, and the table of memory files |
//! | `words` | both | the few messages before the sandbox closes |
//! | `launch` | host | starts the process, waits for its word |
//! | `launcher` | host | the thread that is its parent for the kernel |
//! | `child` | host | the process while it lives, and how it ended |
//! | `role` | partition | from `main` to the entry |
//!
//! A program that starts such partitions is made by [`partition_main!`](crate::partition_main); one
//! that is not can name another executable, or use threads.
//!
//! What a partition can reach when it runs: its memory, and with VFIO its device. It has no open
//! file but the device's and, with one, the memory that replaces registers which are gone; no
//! capability, and no system call but the end.

mod child;
mod handoff;
mod launch;
mod launcher;
mod role;
mod words;

use std::process::ExitCode;
use std::sync::OnceLock;

use crate::runtime::Entry;

pub use crate::sys::dying::{DUMP_SIGNAL, HOST_DIED_SIGNAL, code};
pub use child::{Death, PartitionProcess};

pub(crate) use launch::{Launching, NotLaunched, launch};

/// The first argument of a program that is a partition; the second is the handoff's descriptor.
const ROLE: &str = "--hybrid-partition";

/// The entries of this program, once its `main` has begun as the host.
static ENTRIES: OnceLock<&'static [Entry]> = OnceLock::new();

/// What `partition_main!` makes of a program's `main`: the partition's, where the host has executed
/// this program again, or else `host`.
pub fn main(entries: &'static [Entry], host: fn() -> ExitCode) -> ExitCode {
    let mut args = std::env::args_os();
    let role = args.nth(1).is_some_and(|arg| arg == ROLE);
    if role {
        return role::run(entries, args.next());
    }
    // Once: a program has one `main`.
    let _ = ENTRIES.set(entries);
    host()
}

/// Whether this program can be executed again to be the partition of `entry`; why not, if not.
pub(crate) fn can_be(entry: &str) -> Result<(), String> {
    match ENTRIES.get() {
        Some(entries) if entries.iter().any(|known| known.name() == entry) => Ok(()),
        Some(_) => Err(format!("entry {entry} is not named in this program's partition_main!")),
        None => Err("this program's main is not made by partition_main!".to_owned()),
    }
}

/// The `main` of a program that starts partitions as processes.
///
/// It sets the global allocator that ends a running partition which allocates, names the entries
/// that a partition can have, and calls the host's main, a `fn() -> ExitCode`.
///
/// ```no_run
/// # use core_runtime::partition::{Partition, PartitionExit, run_until_stopped};
/// # use host_bridge::Entry;
/// # use nvme_driver::DeviceParts;
/// fn count(partition: &'static Partition, _device: Option<DeviceParts>) -> PartitionExit {
///     run_until_stopped(partition, ())
/// }
///
/// fn host() -> std::process::ExitCode {
///     // `Runtime::new`, `runtime.spawn(PartitionSpec::new("counter", COUNT))`, …
///     std::process::ExitCode::SUCCESS
/// }
///
/// const COUNT: Entry = Entry::new("count", count);
///
/// host_bridge::partition_main! {
///     entries: [COUNT],
///     main: host,
/// }
/// ```
#[macro_export]
macro_rules! partition_main {
    (entries: [$($entry:expr),+ $(,)?], main: $host:path $(,)?) => {
        #[global_allocator]
        static PARTITION_ALLOCATOR: $crate::sys::alloc_guard::CountingAllocator =
            $crate::sys::alloc_guard::CountingAllocator::system();

        fn main() -> ::std::process::ExitCode {
            const ENTRIES: &[$crate::Entry] = &[$($entry),+];
            $crate::process::main(ENTRIES, $host)
        }
    };
}
