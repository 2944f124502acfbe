//! The partition's thread: from parts to entry to exit.
//!
//! Called by [`super::Runtime::spawn`] for [`super::Isolation::Thread`]. What happens here in order
//! is what a partition's process does in its `main` (`process::role`); only who carries the parts
//! over differs, and that nothing is closed behind it.
//!
//! ```text
//!  host                              partition's thread
//!  spawn ------ parts -------------> pin, priority, lock the stack
//!                                    assemble, lay out the regions
//!  Ready: state word <-------------- (or why not)
//!  start the syscall listener
//!  Go: arming, if asked for -------> watch allocations, arm
//!                                    device parts, entry ... exit
//!  join <--------------------------- state word final, report
//! ```

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender};

use core_runtime::mesh::{MeshError, MeshSeat};
use core_runtime::partition::state::PartitionState;
use core_runtime::partition::{
    Partition, PartitionError, PartitionExit, PartitionParts, TableError,
};
use hybrid_shm::Word32;
use rustix::io::Errno;

use super::spec::Entry;
use super::table::Table;
use crate::affinity::{PinError, pin_to};
use crate::backend::DeviceIngredients;
use crate::sys::alloc_guard::{AllocReport, unwatch_this_thread, watch_this_thread};
use crate::sys::memfd::MemoryRefused;
use crate::sys::realtime::{RtPriority, RtRefused};
use crate::sys::resident::LockedStack;
use crate::sys::state_memory::{self, StateFile};
use crate::sys::syscall_guard::{Arming, GuardUnavailable};
use crate::sys::usage::ThreadUsage;

/// What crosses to the thread.
pub(super) struct Launch {
    pub(super) parts: PartitionParts,
    pub(super) args: Vec<u8>,
    pub(super) entry: Entry,
    pub(super) device: Option<DeviceIngredients>,
    pub(super) cpu: u32,
    pub(super) rt_priority: Option<RtPriority>,
    pub(super) seat: Option<MeshSeat>,
    pub(super) tables: Vec<Table>,
    pub(super) state: Option<StateFile>,
    pub(super) ready: SyncSender<Result<Ready, NotReady>>,
    pub(super) go: Receiver<Go>,
}

/// The partition is assembled.
pub(super) struct Ready {
    /// Why its stack is not locked.
    pub(super) stack_unlocked: Option<Errno>,
    pub(super) state_word: Word32<'static>,
}

/// It is not.
#[derive(Debug)]
pub(super) enum NotReady {
    Pin(PinError),
    Realtime(RtRefused),
    Mesh(MeshError),
    Table(TableError),
    State(MemoryRefused),
    Assembly(PartitionError),
}

/// The host lets it run.
pub(super) struct Go {
    pub(super) arming: Option<Arming>,
}

/// What the thread leaves behind.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) exit: PartitionExit,
    pub(super) allocations: Option<AllocReport>,
    pub(super) usage: ThreadUsage,
    pub(super) guard_failed: Option<GuardUnavailable>,
}

/// The thread's body; `None` if it never ran because the host gave up or was told why not.
pub(super) fn run(launch: Launch) -> Option<Ended> {
    let Launch { parts, args, entry, device, cpu, rt_priority, seat, tables, state, ready, go } =
        launch;
    if let Err(error) = pin_to(cpu) {
        let _ = ready.send(Err(NotReady::Pin(error)));
        return None;
    }
    if let Some(Err(refused)) = rt_priority.map(RtPriority::set_for_this_thread) {
        let _ = ready.send(Err(NotReady::Realtime(refused)));
        return None;
    }
    let stack = LockedStack::of_this_thread();
    let partition = match parts.assemble(&args) {
        Ok(partition) => partition,
        Err(error) => {
            let _ = ready.send(Err(NotReady::Assembly(error)));
            return None;
        }
    };
    if let Some(Err(error)) = seat.map(|seat| partition.join_mesh(&seat)) {
        let _ = ready.send(Err(NotReady::Mesh(error)));
        return None;
    }
    let mut tables = tables.iter();
    let added = tables.try_for_each(|table| partition.add_table(table.name(), table.view()));
    if let Err(error) = added {
        let _ = ready.send(Err(NotReady::Table(error)));
        return None;
    }
    match state.as_ref().and_then(StateFile::file).map(state_memory::map) {
        Some(Ok(state)) => partition.give_state_memory(state),
        Some(Err(refused)) => {
            let _ = ready.send(Err(NotReady::State(refused)));
            return None;
        }
        None => {}
    }
    let state_word = partition.state_word();
    ready.send(Ok(Ready { stack_unlocked: stack.as_ref().err().copied(), state_word })).ok()?;
    let Go { arming } = go.recv().ok()?;
    let running = PartitionState::Running.to_word();
    watch_this_thread(state_word, running);
    let before = ThreadUsage::now();
    let guard_failed = arming.and_then(|arming| arming.arm().err());
    let exit = match catch_unwind(AssertUnwindSafe(|| entry.enter(partition, device))) {
        Ok(exit) => exit,
        Err(panic) => panicked(partition, panic.as_ref()),
    };
    if partition.state() == PartitionState::Running {
        // It did not come back from its loop: this is when it stopped running.
        partition.enter_stopping();
    }
    partition.publish_exit(&exit);
    let usage = ThreadUsage::now().since(before);
    Some(Ended { exit, allocations: unwatch_this_thread(), usage, guard_failed })
}

/// A panic in thread mode ends the partition, not the host. The loop did not come back, so the
/// device may be in the middle of anything: its keeper is stopped before any memory is touched.
fn panicked(partition: &'static Partition, panic: &(dyn Any + Send)) -> PartitionExit {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text");
    let task = partition.scheduler().current().map_or("", |task| task.name);
    let (before, after) = if task.is_empty() { ("", "") } else { (" in task ", task) };
    PartitionExit::failed(PANIC_CODE, format_args!("panicked{before}{after}: {message}"))
}

/// The code of an exit by panic: Rust's own.
pub(super) const PANIC_CODE: u32 = 101;
