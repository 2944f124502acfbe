//! The handle of a spawned task: its result, or its end.
//!
//! Core-local; a handle belongs to the core of its task.

use core::fmt;
use core::future::Future;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::TaskId;
use super::header::{State, TaskRef};

/// Why a task gave no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// It was cancelled before it was done (or its result was taken already).
    #[error("task was cancelled")]
    Cancelled,
}

/// Waits for a task's result. Dropping it cancels the task: its future is dropped by the scheduler
/// on the same core, in this tick or the next. [`detach`](Self::detach) lets the task go on alone.
///
/// ```compile_fail,E0277
/// fn needs_send<T: Send>() {}
/// needs_send::<core_runtime::task::JoinHandle<()>>();
/// ```
/// ```compile_fail,E0277
/// fn needs_sync<T: Sync>() {}
/// needs_sync::<core_runtime::task::JoinHandle<()>>();
/// ```
#[must_use = "dropping a join handle cancels its task; call `detach` to let it run"]
pub struct JoinHandle<T> {
    task: TaskRef,
    output: PhantomData<(T, *const ())>,
}

/// The output is never pinned in the handle.
impl<T> Unpin for JoinHandle<T> {}

impl<T> JoinHandle<T> {
    /// # Safety
    /// The task was just made live with an output of type `T`, its header says that a handle is
    /// held, and this is the only one.
    pub(super) const unsafe fn new(task: TaskRef) -> Self {
        Self { task, output: PhantomData }
    }

    /// The task's place in the table.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.task.header().id.get()
    }

    /// Whether the task has ended, or was cancelled and its future dropped.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.task.header().state.get() == State::Done
    }

    /// Asks the scheduler to drop the task's future; the handle then yields
    /// [`JoinError::Cancelled`], or the result if the task is done already.
    pub fn cancel(&self) {
        cancel(self.task);
    }

    /// Lets the task go on without a handle; its result will be dropped.
    pub fn detach(self) {
        let this = ManuallyDrop::new(self);
        if this.task.header().state.get() == State::Done {
            drop_result(this.task);
        } else {
            this.task.header().handle_held.set(false);
        }
    }
}

fn cancel(task: TaskRef) {
    let header = task.header();
    if header.state.get() == State::Live {
        header.state.set(State::Cancelling);
        task.enqueue();
    }
}

/// The handle counts as held while the result is dropped, so that a tick inside the result's own
/// `drop` cannot free the storage under it.
fn drop_result(task: TaskRef) {
    let header = task.header();
    // SAFETY: invariant 4: the task is done, and its only handle is going away.
    unsafe { (header.vtable.get().clear)(task) };
    header.handle_held.set(false);
    if let Some(scheduler) = header.scheduler.get() {
        scheduler.release(task);
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        let header = self.task.header();
        header.join.clear();
        if header.state.get() == State::Done {
            drop_result(self.task);
        } else {
            header.handle_held.set(false);
            cancel(self.task);
        }
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let header = self.task.header();
        if header.state.get() != State::Done {
            header.join.register(cx.waker());
            return Poll::Pending;
        }
        let mut output: Option<T> = None;
        let out = (&raw mut output).cast::<()>();
        // SAFETY: invariant 4: the task is done, and `T` is its output (the promise of `new`).
        unsafe { (header.vtable.get().take_output)(self.task, out) };
        Poll::Ready(output.ok_or(JoinError::Cancelled))
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinHandle({:?})", self.id())
    }
}
