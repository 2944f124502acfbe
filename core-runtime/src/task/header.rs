//! A task in memory: its header, its storage, and the functions that know its future's type.
//!
//! Called by the scheduler, the wakers and the join handles. A header lives for ever; the same
//! storage serves one task after another. Core-local but for the fields marked *shared*.
//!
//! ```text
//!        Spawner::spawn          Scheduler::finish (poll gave Ready)
//!   Free ──────────────> Live ─────────────────────────────────────────> Done
//!    ^                    │ JoinHandle::cancel, drop     Scheduler::     ^  │
//!    │                    └─────────────────> Cancelling ────────────────┘  │
//!    │                                                   cancel_now         │
//!    └──────────────────────────────────────────────────────────────────────┘
//!      Scheduler::release: the handle is gone and the header is in no run queue
//! ```
//!
//! Invariants: those of [`super`].

use core::cell::{Cell, UnsafeCell};
use core::future::Future;
use core::mem::MaybeUninit;
use core::pin::Pin;
use core::ptr::NonNull;
use core::task::{Context, Poll};

use super::owner::current_core;
use super::queue::{NOT_QUEUED, RunQueue};
use super::remote::{RemoteLink, RemoteNode, RemoteQueue};
use super::scheduler::Scheduler;
use super::stats::{Log2Histogram, bump};
use super::sync::{AtomicPtr, AtomicUsize, Ordering};
use super::wake_slot::WakeSlot;
use super::{Class, TaskId};
use crate::clock::Ticks;

/// Bits of an address that a packed task reference keeps; the generation takes the rest.
const ADDRESS_BITS: u32 = 48;

/// Where a task stands; see the drawing above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The storage can take a task.
    Free,
    /// The storage holds a future.
    Live,
    /// As live, but the future is to be dropped and not polled.
    Cancelling,
    /// The future is gone; the storage holds its output, or nothing if it was cancelled.
    Done,
}

/// Counters of one task.
pub(super) struct Meter {
    pub(super) name: Cell<&'static str>,
    pub(super) class: Cell<Class>,
    pub(super) budget: Cell<Ticks>,
    pub(super) polls: Cell<u64>,
    pub(super) overruns: Cell<u64>,
    pub(super) longest: Cell<Ticks>,
    pub(super) total: Cell<u64>,
    pub(super) exceeded: Log2Histogram,
}

impl Meter {
    const fn new() -> Self {
        Self {
            name: Cell::new(""),
            class: Cell::new(Class::Normal),
            budget: Cell::new(Ticks::MAX),
            polls: Cell::new(0),
            overruns: Cell::new(0),
            longest: Cell::new(Ticks::ZERO),
            total: Cell::new(0),
            exceeded: Log2Histogram::new(),
        }
    }

    pub(super) fn restart(&self, name: &'static str, class: Class, budget: Ticks) {
        self.name.set(name);
        self.class.set(class);
        self.budget.set(budget);
        self.polls.set(0);
        self.overruns.set(0);
        self.longest.set(Ticks::ZERO);
        self.total.set(0);
        self.exceeded.clear();
    }

    /// Charges one poll; returns by how much it exceeded the budget.
    #[inline]
    pub(super) fn charge(&self, spent: Ticks) -> Option<Ticks> {
        self.total.set(self.total.get().wrapping_add(spent.get()));
        if spent > self.longest.get() {
            self.longest.set(spent);
        }
        if spent <= self.budget.get() {
            return None;
        }
        bump(&self.overruns);
        let by = spent.saturating_sub(self.budget.get());
        self.exceeded.record(by);
        Some(by)
    }
}

/// What every task has, whatever its future is. 64-byte aligned: the first line is all a wake
/// needs.
#[repr(C, align(64))]
pub(super) struct TaskHeader {
    /// Next in the run queue, or [`NOT_QUEUED`].
    pub(super) next: Cell<*const TaskHeader>,
    /// *Shared*: the packed reference of the task that lives here now; anything else is stale.
    tag: AtomicUsize,
    /// *Shared*: the core that may touch the rest.
    owner: AtomicUsize,
    /// The run queue of the task's class.
    pub(super) queue: Cell<*const RunQueue>,
    pub(super) state: Cell<State>,
    pub(super) handle_held: Cell<bool>,
    generation: Cell<u16>,
    pub(super) vtable: Cell<&'static Vtable>,
    /// *Shared*: where other cores push the header.
    remote: AtomicPtr<RemoteQueue<TaskHeader>>,
    /// *Shared*.
    link: RemoteLink<TaskHeader>,
    pub(super) scheduler: Cell<Option<&'static Scheduler>>,
    /// Who waits in the join handle.
    pub(super) join: WakeSlot,
    pub(super) id: Cell<TaskId>,
    /// Size class of a block from the scheduler's memory; `None` for a caller's storage.
    pub(super) block: Cell<Option<u8>>,
    pub(super) next_free: Cell<Option<TaskRef>>,
    pub(super) meter: Meter,
}

impl TaskHeader {
    pub(super) fn new() -> Self {
        Self {
            next: Cell::new(NOT_QUEUED),
            tag: AtomicUsize::new(0),
            owner: AtomicUsize::new(0),
            queue: Cell::new(core::ptr::null()),
            state: Cell::new(State::Free),
            handle_held: Cell::new(false),
            generation: Cell::new(0),
            vtable: Cell::new(&EMPTY),
            remote: AtomicPtr::new(core::ptr::null_mut()),
            link: RemoteLink::new(),
            scheduler: Cell::new(None),
            join: WakeSlot::new(),
            id: Cell::new(TaskId(0)),
            block: Cell::new(None),
            next_free: Cell::new(None),
            meter: Meter::new(),
        }
    }

    #[inline(always)]
    pub(super) fn is_queued(&self) -> bool {
        self.next.get() != NOT_QUEUED
    }
}

impl RemoteNode for TaskHeader {
    fn link(&self) -> &RemoteLink<Self> {
        &self.link
    }
}

/// A reference to a header that lives for ever. Its pointer may reach the whole storage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct TaskRef(NonNull<TaskHeader>);

impl TaskRef {
    /// # Safety
    /// `header` starts a task's storage that lives for ever, and the pointer may access all of it.
    pub(super) const unsafe fn new(header: NonNull<TaskHeader>) -> Self {
        Self(header)
    }

    #[inline(always)]
    pub(super) const fn as_ptr(self) -> NonNull<TaskHeader> {
        self.0
    }

    #[inline(always)]
    pub(super) fn header(self) -> &'static TaskHeader {
        // SAFETY: invariant 1; all its fields are cells or atomics.
        unsafe { self.0.as_ref() }
    }

    /// The header's address with `generation` in its top bits.
    fn pack(self, generation: u16) -> *const () {
        let low = (1 << ADDRESS_BITS) - 1;
        self.0
            .as_ptr()
            .cast_const()
            .cast::<()>()
            .map_addr(|addr| (addr & low) | (usize::from(generation) << ADDRESS_BITS))
    }

    /// The header that `data` was packed from, whatever its generation.
    ///
    /// # Safety
    /// `data` came from [`pack`](Self::pack) of a reference that [`fits`](Self::fits).
    #[inline(always)]
    unsafe fn unpack(data: *const ()) -> Self {
        const SPARE: u32 = usize::BITS - ADDRESS_BITS;
        let header = data.map_addr(|addr| ((addr << SPARE).cast_signed() >> SPARE).cast_unsigned());
        // SAFETY: the shifts restore the address that was packed, which was not null.
        Self(unsafe { NonNull::new_unchecked(header.cast::<TaskHeader>().cast_mut()) })
    }

    /// Whether the address survives packing: canonical in 48 bits. Every user-space address that
    /// Linux gives without being asked for more is.
    pub(super) fn fits(self) -> bool {
        // SAFETY: only the address is looked at.
        unsafe { Self::unpack(self.pack(u16::MAX)) == self }
    }

    /// The data pointer of the wakers of the task that lives here now: its tag as a pointer.
    #[inline(always)]
    pub(super) fn waker_data(self) -> *const () {
        let tag = self.header().tag.load(Ordering::Relaxed);
        let whole = self.0.as_ptr().cast_const().cast::<()>();
        whole.map_addr(|_| tag)
    }

    /// Makes the wakers of the header's generation the valid ones.
    fn set_tag(self) {
        let header = self.header();
        let tag = self.pack(header.generation.get()).addr();
        header.tag.store(tag, Ordering::Relaxed);
    }

    /// Makes wakers valid for the task that is about to live here.
    pub(super) fn open(self, scheduler: &'static Scheduler, remote: *mut RemoteQueue<TaskHeader>) {
        let header = self.header();
        header.scheduler.set(Some(scheduler));
        header.owner.store(current_core(), Ordering::Relaxed);
        header.remote.store(remote, Ordering::Relaxed);
        self.set_tag();
    }

    /// Makes every waker of the task stale.
    pub(super) fn close(self) {
        let header = self.header();
        let generation = &header.generation;
        generation.set(generation.get().wrapping_add(1));
        self.set_tag();
    }

    /// Its number, as probes and figures have it: its place in the table, counted from 1.
    #[inline(always)]
    pub(super) fn number(self) -> u32 {
        self.header().id.get().0.wrapping_add(1)
    }

    /// Puts the task at the end of its run queue unless it is in it. Owning core only.
    #[inline(always)]
    pub(super) fn enqueue(self) {
        let header = self.header();
        if header.is_queued() {
            return;
        }
        // SAFETY: invariant 3: an opened task has its queue, which lives as long as its scheduler.
        unsafe { &*header.queue.get() }.push(self);
    }
}

/// Wakes the task that `data` names, from any core. On the owning core: stores into the header and
/// the run queue, no atomic read-modify-write.
///
/// # Safety
/// `data` is the data pointer of one of our wakers.
#[inline(always)]
pub(super) unsafe fn wake_data(data: *const ()) {
    // SAFETY: the caller's promise.
    let task = unsafe { TaskRef::unpack(data) };
    let header = task.header();
    if header.tag.load(Ordering::Relaxed) != data.addr() {
        return;
    }
    if header.owner.load(Ordering::Relaxed) == current_core() {
        task.enqueue();
    } else {
        wake_remote(task);
    }
}

#[cold]
fn wake_remote(task: TaskRef) {
    let remote = task.header().remote.load(Ordering::Relaxed);
    // SAFETY: invariants 1 and 3: an opened task has its scheduler's queue, the only one it is
    // ever pushed to, because a storage never changes its scheduler.
    unsafe { (*remote).push(task.as_ptr()) };
}

/// What a storage holds beside the header.
enum Stage<F: Future> {
    Future(F),
    Output(F::Output),
    Empty,
}

/// Room for one task at a time whose future is an `F`, reusable after the task has ended and its
/// handle is gone. The caller gives it for ever (`&'static`): leaked, in a
/// [`Bump`](crate::mem::Bump), or wherever the partition's memory comes from.
///
/// It stays on the core, and with the scheduler, that first used it:
///
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::task::TaskStorage<core::future::Ready<()>>>();
/// ```
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::task::TaskStorage<core::future::Ready<()>>>();
/// ```
#[repr(C)]
pub struct TaskStorage<F: Future> {
    header: TaskHeader,
    stage: UnsafeCell<MaybeUninit<Stage<F>>>,
}

impl<F: Future> Default for TaskStorage<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Future> TaskStorage<F> {
    /// Empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self { header: TaskHeader::new(), stage: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The storage as a type-erased task.
    pub(super) fn as_task(&'static self) -> TaskRef {
        let whole = NonNull::from(self).cast::<TaskHeader>();
        // SAFETY: invariant 1: `repr(C)` puts the header first, and the pointer is the whole's.
        unsafe { TaskRef::new(whole) }
    }
}

/// The functions that know a task's types. Each takes the task whose storage they were made for.
pub(super) struct Vtable {
    /// Polls the future of a live task; true: it is done and its output is in its place.
    pub(super) poll: unsafe fn(TaskRef, &mut Context<'_>) -> bool,
    /// Drops what the storage holds: the future or the output.
    pub(super) clear: unsafe fn(TaskRef),
    /// Moves the output, if there is one, to an `Option<F::Output>`.
    pub(super) take_output: unsafe fn(TaskRef, *mut ()),
}

/// Of a storage that never held a task.
static EMPTY: Vtable = Vtable { poll: |_, _| false, clear: |_| (), take_output: |_, _| () };

/// Makes the vtable of one future type.
struct Typed<F>(F);

impl<F: Future> Typed<F> {
    const VTABLE: Vtable =
        Vtable { poll: poll::<F>, clear: clear::<F>, take_output: take_output::<F> };
}

/// Places `future` into a free storage of its type. Afterwards it can be opened and made live.
///
/// # Safety
/// `task` is free, and starts a `TaskStorage<F>` (or a block of at least its size and alignment)
/// that its pointer may access.
pub(super) unsafe fn place<F: Future>(task: TaskRef, future: F) {
    task.header().vtable.set(&Typed::<F>::VTABLE);
    // SAFETY: the caller's promise; a free storage holds nothing that would have to be dropped.
    unsafe { stage_of::<F>(task).write(Stage::Future(future)) };
}

fn stage_of<F: Future>(task: TaskRef) -> *mut Stage<F> {
    let storage = task.as_ptr().as_ptr().cast::<TaskStorage<F>>();
    // SAFETY: invariant 1: in bounds of the storage, no reference is made.
    let stage = unsafe { &raw const (*storage).stage };
    UnsafeCell::raw_get(stage).cast::<Stage<F>>()
}

/// # Safety
/// The task is live, holds an `F`, and is not being polled (invariant 4).
unsafe fn poll<F: Future>(task: TaskRef, cx: &mut Context<'_>) -> bool {
    let stage = stage_of::<F>(task);
    // SAFETY: invariant 4: nobody else touches the stage meanwhile.
    let Stage::Future(future) = (unsafe { &mut *stage }) else {
        return false;
    };
    // SAFETY: invariant 5: the future stays where it is until it is dropped in place.
    match unsafe { Pin::new_unchecked(future) }.poll(cx) {
        Poll::Pending => false,
        Poll::Ready(output) => {
            // SAFETY: invariant 4; the assignment drops the future in place.
            unsafe { *stage = Stage::Output(output) };
            true
        }
    }
}

/// # Safety
/// As for [`poll`], or the task is done.
unsafe fn clear<F: Future>(task: TaskRef) {
    // SAFETY: invariant 4.
    unsafe { *stage_of::<F>(task) = Stage::Empty };
}

/// # Safety
/// The task is done, and `out` points to an `Option<F::Output>`.
unsafe fn take_output<F: Future>(task: TaskRef, out: *mut ()) {
    let stage = stage_of::<F>(task);
    // SAFETY: invariant 4: the future is gone, only the handle looks at the stage.
    let taken = match unsafe { stage.replace(Stage::Empty) } {
        Stage::Output(output) => Some(output),
        Stage::Future(_) | Stage::Empty => None,
    };
    // SAFETY: the caller's promise.
    unsafe { *out.cast::<Option<F::Output>>() = taken };
}
