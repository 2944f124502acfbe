//! Cancellation at every point of a task's life, reuse of storage, stale wakers, and what may fail.

use core::cell::{Cell, RefCell};
use core::future::{Future, pending, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll, Waker};
use std::rc::Rc;

use crate::support::{Rig, outcome};
use core_runtime::task::{
    JoinError, JoinHandle, SchedulerConfig, SpawnError, TaskOptions, TaskStorage, yield_now,
};

/// Counts its drops.
#[derive(Clone, Default)]
struct Drops(Rc<Cell<u32>>);

struct Guard(Drops);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() + 1);
    }
}

impl Drops {
    fn guard(&self) -> Guard {
        Guard(self.clone())
    }

    fn count(&self) -> u32 {
        self.0.get()
    }
}

const NORMAL: TaskOptions = TaskOptions::normal("task");

#[test]
fn dropping_the_handle_before_the_first_poll_drops_the_future_unpolled() {
    let rig = Rig::new();
    let drops = Drops::default();
    let guard = drops.guard();
    let handle = rig.spawn(NORMAL, async move {
        let _guard = guard;
        panic!("polled after it was cancelled");
    });
    drop::<JoinHandle<()>>(handle);
    assert_eq!(drops.count(), 0, "the scheduler drops it, not the handle");
    let tick = rig.tick();
    assert_eq!((tick.cancelled, tick.polled(), drops.count()), (1, 0, 1));
}

#[test]
fn cancellation_after_each_number_of_polls_drops_once() {
    for polls in 0..4 {
        let rig = Rig::new();
        let drops = Drops::default();
        let guard = drops.guard();
        let handle = rig.spawn(NORMAL, async move {
            let _guard = guard;
            yield_now().await;
            yield_now().await;
        });
        for _ in 0..polls {
            rig.tick();
        }
        drop(handle);
        rig.settle(5);
        assert_eq!(drops.count(), 1, "after {polls} polls");
        assert_eq!(rig.scheduler.stats().live_tasks, 0);
        assert_eq!(rig.tick().polled(), 0);
    }
}

#[test]
fn a_waiting_task_is_cancelled_without_a_poll() {
    let rig = Rig::new();
    let drops = Drops::default();
    let guard = drops.guard();
    let handle = rig.spawn(NORMAL, async move {
        let _guard = guard;
        pending::<()>().await;
    });
    rig.tick();
    handle.cancel();
    let tick = rig.tick();
    assert_eq!((tick.cancelled, tick.polled(), drops.count()), (1, 0, 1));
    assert_eq!(outcome(&rig, handle), Err(JoinError::Cancelled));
}

#[test]
fn a_task_that_drops_its_own_handle_ends_after_that_poll() {
    let rig = Rig::new();
    let own: Rc<RefCell<Option<JoinHandle<()>>>> = Rc::default();
    let drops = Drops::default();
    let (mine, guard) = (own.clone(), drops.guard());
    let handle = rig.spawn(NORMAL, async move {
        let _guard = guard;
        drop(mine.take());
        yield_now().await;
        panic!("polled after it was cancelled");
    });
    *own.borrow_mut() = Some(handle);
    rig.settle(5);
    assert_eq!(drops.count(), 1);
    assert_eq!(rig.scheduler.stats().cancelled, 1);
}

#[test]
fn a_task_that_drops_its_own_handle_and_ends_at_once_frees_its_block() {
    let rig = Rig::new();
    for _ in 0..3 {
        let own: Rc<RefCell<Option<JoinHandle<u8>>>> = Rc::default();
        let mine = own.clone();
        let handle = rig.spawn(NORMAL, async move {
            drop(mine.take());
            7
        });
        *own.borrow_mut() = Some(handle);
        rig.settle(5);
    }
    assert_eq!(rig.scheduler.tasks().count(), 0);
    let used = rig.scheduler.stats().task_memory_used;
    assert!(used <= 1024, "one block serves them all, {used} bytes used");
}

#[test]
fn a_result_that_nobody_takes_is_dropped_once() {
    for taken in [false, true] {
        for detached in [false, true] {
            let rig = Rig::new();
            let drops = Drops::default();
            let guard = drops.guard();
            let handle = rig.spawn(NORMAL, async move { guard });
            if detached {
                handle.detach();
                rig.tick();
            } else {
                rig.tick();
                assert!(handle.is_finished());
                assert_eq!(drops.count(), 0, "it waits for the handle");
                if taken {
                    drop(outcome(&rig, handle));
                } else {
                    drop(handle);
                }
            }
            assert_eq!(drops.count(), 1, "taken {taken}, detached {detached}");
            assert_eq!(rig.scheduler.tasks().count(), 0);
        }
    }
}

#[test]
fn detaching_a_finished_task_drops_its_result() {
    let rig = Rig::new();
    let drops = Drops::default();
    let guard = drops.guard();
    let handle = rig.spawn(NORMAL, async move { guard });
    rig.tick();
    handle.detach();
    assert_eq!(drops.count(), 1);
}

#[test]
fn a_result_is_taken_once() {
    let rig = Rig::new();
    let mut handle = rig.spawn(NORMAL, async { 5 });
    rig.tick();
    let mut context = Context::from_waker(Waker::noop());
    assert_eq!(Pin::new(&mut handle).poll(&mut context), Poll::Ready(Ok(5)));
    let again = Pin::new(&mut handle).poll(&mut context);
    assert_eq!(again, Poll::Ready(Err(JoinError::Cancelled)));
}

#[test]
fn cancel_all_ends_every_task() {
    let rig = Rig::new();
    let drops = Drops::default();
    for _ in 0..20 {
        let guard = drops.guard();
        rig.spawn(NORMAL, async move {
            let _guard = guard;
            pending::<()>().await;
        })
        .detach();
    }
    rig.tick();
    rig.scheduler.cancel_all();
    rig.settle(5);
    assert_eq!(drops.count(), 20);
    assert_eq!(rig.scheduler.stats().live_tasks, 0);
}

/// A future type that can be named, for `TaskStorage`.
struct Named {
    rounds: u32,
    keep: Rc<RefCell<Option<Waker>>>,
}

impl Future for Named {
    type Output = u32;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<u32> {
        *self.keep.borrow_mut() = Some(cx.waker().clone());
        if self.rounds == 0 {
            return Poll::Ready(9);
        }
        self.rounds -= 1;
        Poll::Pending
    }
}

#[test]
fn storage_is_reusable_after_task_and_handle_are_gone() {
    let rig = Rig::new();
    let storage: &'static TaskStorage<Named> = Box::leak(Box::new(TaskStorage::new()));
    let keep: Rc<RefCell<Option<Waker>>> = Rc::default();
    let named = |rounds| Named { rounds, keep: keep.clone() };
    let spawner = rig.spawner();
    let handle = spawner.spawn_in(storage, NORMAL, named(1)).expect("free");
    let busy = spawner.spawn_in(storage, NORMAL, named(0));
    assert_eq!(busy.err(), Some(SpawnError::StorageBusy));
    rig.tick();
    let first_waker = keep.take().expect("polled");
    first_waker.wake_by_ref();
    rig.tick();
    assert!(handle.is_finished());
    let busy = spawner.spawn_in(storage, NORMAL, named(0));
    assert_eq!(busy.err(), Some(SpawnError::StorageBusy), "its result waits");
    assert_eq!(outcome(&rig, handle), Ok(9));

    let second = spawner.spawn_in(storage, NORMAL, named(1)).expect("free again");
    rig.tick();
    first_waker.wake_by_ref();
    first_waker.wake();
    assert_eq!(rig.tick().polled(), 0, "a stale waker wakes nobody");
    keep.take().expect("polled").wake();
    assert_eq!(outcome(&rig, second), Ok(9));
    assert_eq!(rig.scheduler.stats().spawned, 2);
}

#[test]
fn storage_stays_with_its_scheduler() {
    let (rig, other) = (Rig::new(), Rig::new());
    let storage: &'static TaskStorage<Named> = Box::leak(Box::new(TaskStorage::new()));
    let named = || Named { rounds: 0, keep: Rc::default() };
    let handle = rig.spawner().spawn_in(storage, NORMAL, named()).expect("free");
    assert_eq!(outcome(&rig, handle), Ok(9));
    let error = other.spawner().spawn_in(storage, NORMAL, named());
    assert_eq!(error.err(), Some(SpawnError::OtherScheduler));
}

#[test]
fn a_task_that_is_done_but_still_queued_keeps_its_storage() {
    let rig = Rig::new();
    let storage = Box::leak(Box::new(TaskStorage::new()));
    // Wakes itself and ends in the same poll: the header is in the run queue when it is done.
    let ends = || {
        poll_fn(|cx: &mut Context<'_>| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        })
    };
    // The storage's type is inferred from the first use.
    fn spawn<F: Future<Output = ()> + 'static>(
        rig: &Rig,
        storage: &'static TaskStorage<F>,
        future: F,
    ) -> Result<JoinHandle<()>, SpawnError> {
        rig.spawner().spawn_in(storage, NORMAL, future)
    }
    let storage: &'static TaskStorage<_> = storage;
    spawn(&rig, storage, ends()).expect("free").detach();
    rig.tick();
    assert_eq!(rig.scheduler.stats().completed, 1);
    let busy = spawn(&rig, storage, ends());
    assert_eq!(busy.err(), Some(SpawnError::StorageBusy));
    let tick = rig.tick();
    assert_eq!((tick.polled(), tick.ready_left), (0, 0));
    spawn(&rig, storage, ends()).expect("free again").detach();
    rig.settle(3);
    assert_eq!(rig.scheduler.stats().completed, 2);
}

#[test]
fn full_tables_and_memory_are_named_and_later_room_is_found() {
    let rig = Rig::with(SchedulerConfig {
        max_tasks: 3,
        task_memory_bytes: 64 * 1024,
        ..SchedulerConfig::default()
    });
    let handles: Vec<_> = (0..3).map(|_| rig.spawn(NORMAL, pending::<()>())).collect();
    let full = rig.spawner().spawn(NORMAL, pending::<()>());
    assert_eq!(full.err(), Some(SpawnError::TableFull { capacity: 3 }));
    drop(handles);
    rig.settle(3);
    for _ in 0..10 {
        rig.spawn(NORMAL, async {}).detach();
        rig.settle(3);
    }

    let big = [0_u8; 100 * 1024];
    let error = rig.spawner().spawn(NORMAL, async move {
        yield_now().await;
        assert_eq!(big[1], 0);
    });
    let Err(SpawnError::TaskMemory { wanted, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(wanted > 100 * 1024);

    #[repr(align(4096))]
    struct Wide(u8);
    let wide = Wide(0);
    let error = rig.spawner().spawn(NORMAL, async move {
        let whole = wide;
        yield_now().await;
        assert_eq!(whole.0, 0);
    });
    assert!(matches!(error, Err(SpawnError::Alignment { wanted: 4096, .. })));
}

#[test]
fn a_drop_inside_the_scheduler_may_spawn_wake_and_cancel() {
    struct Busy {
        rig: core_runtime::task::Spawner,
        ran: Rc<Cell<u32>>,
        other: Option<JoinHandle<()>>,
    }
    impl Drop for Busy {
        fn drop(&mut self) {
            let ran = self.ran.clone();
            let count = async move { ran.set(ran.get() + 1) };
            self.rig.spawn(NORMAL, count).expect("room").detach();
            drop(self.other.take());
        }
    }
    let rig = Rig::new();
    let ran = Rc::new(Cell::new(0));
    let busy =
        Busy { rig: rig.spawner(), ran: ran.clone(), other: Some(rig.spawn(NORMAL, pending())) };
    let handle = rig.spawn(NORMAL, async move {
        let _busy = busy;
        pending::<()>().await;
    });
    rig.tick();
    drop(handle);
    rig.settle(5);
    let stats = rig.scheduler.stats();
    assert_eq!((ran.get(), stats.cancelled, stats.live_tasks), (1, 2, 0));
}

#[test]
fn after_a_caught_panic_every_tick_is_refused() {
    let rig = Rig::new();
    rig.spawn(TaskOptions::normal("bad"), async { panic!("as planned") }).detach();
    let (scheduler, now) = (rig.scheduler, rig.now());
    let caught = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| scheduler.tick(now)));
    assert!(caught.is_err());
    assert_eq!(scheduler.current().map(|task| task.name), Some("bad"));
    assert!(scheduler.tick(now).refused);
}
