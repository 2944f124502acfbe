//! Wakes from other threads, and from another process through shared memory.

use core::cell::Cell;
use core::future::poll_fn;
use core::task::{Poll, Waker};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;

use crate::support::Rig;
use core_runtime::task::{
    REMOTE_LINES, REMOTE_WORDS_BYTES, RemoteLines, RemoteWaker, TaskOptions, WakeSlot,
};
use hybrid_conventions::testing::Random;
use hybrid_shm::leak_zeroed;

#[test]
fn a_waker_that_moved_to_another_thread_takes_the_long_way() {
    let rig = Rig::new();
    let (sender, receiver) = mpsc::channel::<Waker>();
    let polls = Rc::new(Cell::new(0));
    let count = polls.clone();
    rig.spawn(
        TaskOptions::normal("t"),
        poll_fn(move |cx| {
            count.set(count.get() + 1);
            sender.send(cx.waker().clone()).expect("the test listens");
            Poll::<()>::Pending
        }),
    )
    .detach();
    rig.tick();
    let waker = receiver.recv().expect("it was polled");
    std::thread::spawn(move || {
        waker.wake_by_ref();
        waker.wake();
    })
    .join()
    .expect("no panic");
    let tick = rig.tick();
    assert_eq!((tick.remote_wakes, tick.polled(), polls.get()), (1, 1, 2));
    assert_eq!(rig.tick().polled(), 0);
}

#[test]
fn a_stale_waker_on_another_thread_is_harmless() {
    let rig = Rig::new();
    let (sender, receiver) = mpsc::channel::<Waker>();
    let handle = rig.spawn(
        TaskOptions::normal("short"),
        poll_fn(move |cx| {
            sender.send(cx.waker().clone()).expect("the test listens");
            Poll::Ready(())
        }),
    );
    rig.tick();
    drop(handle);
    let polls = Rc::new(Cell::new(0));
    let count = polls.clone();
    rig.spawn(
        TaskOptions::normal("next"),
        poll_fn(move |_| {
            count.set(count.get() + 1);
            Poll::<()>::Pending
        }),
    )
    .detach();
    rig.tick();
    let stale = receiver.recv().expect("it was polled");
    std::thread::spawn(move || stale.wake()).join().expect("no panic");
    let tick = rig.tick();
    assert_eq!((tick.remote_wakes, polls.get()), (0, 1));
}

#[test]
fn a_slot_that_holds_a_foreign_scheduler_s_waker_wakes_it_there() {
    let rig = Rig::new();
    let (sender, receiver) = mpsc::channel::<Waker>();
    rig.spawn(
        TaskOptions::normal("t"),
        poll_fn(move |cx| {
            sender.send(cx.waker().clone()).expect("the test listens");
            Poll::<()>::Pending
        }),
    )
    .detach();
    rig.tick();
    let waker = receiver.recv().expect("it was polled");
    std::thread::spawn(move || {
        let slot = WakeSlot::new();
        slot.register(&waker);
        assert!(slot.wake());
    })
    .join()
    .expect("no panic");
    assert_eq!(rig.tick().remote_wakes, 1);
}

/// Counters that threads add to, each followed by a wake: in the end every task has seen all.
#[test]
fn no_wake_of_many_threads_is_lost() {
    const TASKS: usize = 8;
    let (threads, rounds) = if cfg!(miri) { (2, 30) } else { (3, 20_000) };
    let rig = Rig::new();
    let counters: Arc<[AtomicU64; TASKS]> = Arc::new(Default::default());
    let seen: Rc<[Cell<u64>; TASKS]> = Rc::default();
    let (sender, receiver) = mpsc::channel::<Waker>();
    for task in 0..TASKS {
        let (counters, seen) = (counters.clone(), seen.clone());
        let mut sender = Some(sender.clone());
        rig.spawn(
            TaskOptions::normal("t"),
            poll_fn(move |cx| {
                if let Some(sender) = sender.take() {
                    sender.send(cx.waker().clone()).expect("the test listens");
                }
                seen[task].set(counters[task].load(Ordering::Relaxed));
                Poll::<()>::Pending
            }),
        )
        .detach();
    }
    rig.tick();
    let wakers: Vec<Waker> = receiver.try_iter().collect();
    assert_eq!(wakers.len(), TASKS);
    let running = Arc::new(AtomicU32::new(threads));
    let joins: Vec<_> = (0..threads)
        .map(|thread| {
            let (counters, wakers, running) = (counters.clone(), wakers.clone(), running.clone());
            std::thread::spawn(move || {
                let mut random = Random::new(u64::from(thread) + 7);
                for _ in 0..rounds {
                    let task = usize::try_from(random.below(TASKS as u64)).unwrap();
                    counters[task].fetch_add(1, Ordering::Relaxed);
                    wakers[task].wake_by_ref();
                }
                running.fetch_sub(1, Ordering::Release);
            })
        })
        .collect();
    while running.load(Ordering::Acquire) > 0 {
        rig.tick();
        // Local wakes in between race with the remote ones.
        wakers[0].wake_by_ref();
        std::thread::yield_now();
    }
    for join in joins {
        join.join().expect("no panic");
    }
    rig.settle(10);
    for task in 0..TASKS {
        let sent = counters[task].load(Ordering::Relaxed);
        assert_eq!(seen[task].get(), sent, "task {task} missed its last wake");
    }
}

#[test]
fn another_process_wakes_by_line_and_wakes_add_up() {
    let rig = Rig::new();
    let span = leak_zeroed(REMOTE_WORDS_BYTES);
    let mut waker = RemoteWaker::new(span).expect("room");
    let lines: &'static RemoteLines =
        Box::leak(Box::new(RemoteLines::new(span.read_only()).expect("room")));
    assert!(rig.scheduler.attach_remote(lines));
    let got = Rc::new(Cell::new((0, 0)));
    for (line, slot) in [(0_usize, 0), (REMOTE_LINES - 1, 1)] {
        let got = got.clone();
        rig.spawn(TaskOptions::normal("line"), async move {
            loop {
                let wakes = lines.woken(line).await;
                let (first, last) = got.get();
                got.set(if slot == 0 { (first + wakes, last) } else { (first, last + wakes) });
            }
        })
        .detach();
    }
    assert_eq!(rig.tick().remote_wakes, 0);
    waker.wake(0).expect("a line");
    waker.wake(0).expect("a line");
    let tick = rig.tick();
    assert_eq!((tick.remote_wakes, tick.polled(), got.get()), (1, 1, (2, 0)));
    waker.wake(REMOTE_LINES - 1).expect("a line");
    waker.wake(3).expect("a line that nobody waits for");
    assert_eq!(rig.tick().remote_wakes, 2);
    assert_eq!(got.get(), (2, 1));
    assert!(rig.tick().is_idle());
    assert!(waker.wake(REMOTE_LINES).is_err());
    assert!(waker.wake(usize::MAX).is_err());
}

#[test]
fn garbage_in_the_peer_s_words_is_bounded_work() {
    let rig = Rig::new();
    let span = leak_zeroed(REMOTE_WORDS_BYTES);
    let lines: &'static RemoteLines =
        Box::leak(Box::new(RemoteLines::new(span.read_only()).expect("room")));
    assert!(rig.scheduler.attach_remote(lines));
    let mut random = Random::new(99);
    for _ in 0..200 {
        for offset in (0..REMOTE_WORDS_BYTES).step_by(4) {
            let value = u32::try_from(random.below(1 << 32)).unwrap();
            span.word32(offset).expect("inside").store(value);
        }
        assert!(rig.tick().remote_wakes as usize <= REMOTE_LINES);
    }
    assert!(RemoteLines::new(leak_zeroed(REMOTE_WORDS_BYTES - 1).read_only()).is_err());
}
