//! The exact order of polls: classes, wakes, yields, caps.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use std::rc::Rc;

use crate::support::{Log, Rig, outcome};
use core_runtime::task::{Class, SchedulerConfig, TaskOptions, TaskState, WakeSlot, yield_now};

fn named(log: &Log, name: &'static str, rounds: u32) -> impl Future<Output = ()> + use<> {
    let log = log.clone();
    async move {
        for round in 0..rounds {
            log.note(format!("{name}{round}"));
            yield_now().await;
        }
    }
}

/// A task that notes each poll and then waits for its slot.
fn waiting(log: &Log, name: &'static str, slot: &Rc<WakeSlot>) -> impl Future<Output = ()> + use<> {
    let (log, slot) = (log.clone(), slot.clone());
    poll_fn(move |cx| {
        log.note(name);
        slot.register(cx.waker());
        Poll::Pending
    })
}

#[test]
fn classes_run_in_order_and_fifo_within_one() {
    let rig = Rig::new();
    let log = Log::default();
    for (name, class) in [
        ("b", Class::Background),
        ("n", Class::Normal),
        ("m", Class::Normal),
        ("l", Class::Latency),
        ("k", Class::Latency),
    ] {
        let options = TaskOptions::new(name, class);
        rig.spawn(options, named(&log, name, 2)).detach();
    }
    let tick = rig.tick();
    assert_eq!(log.take(), ["l0", "k0", "n0", "l1", "k1", "m0"]);
    assert_eq!((tick.polled_latency, tick.polled_normal), (6, 2));
    assert_eq!((tick.polled_background, tick.ready_left), (0, 3));
    rig.tick();
    assert_eq!(log.take(), ["n1", "m1"]);
    // The normal tasks end in this tick, and only then the background task runs.
    let tick = rig.tick();
    assert_eq!(log.take(), ["b0"]);
    assert_eq!((tick.completed, tick.polled_background), (2, 1));
    rig.settle(3);
    assert_eq!(log.take(), ["b1"]);
    assert_eq!(rig.scheduler.stats().live_tasks, 0);
}

#[test]
fn a_double_wake_is_one_poll() {
    let rig = Rig::new();
    let log = Log::default();
    let slot = Rc::new(WakeSlot::new());
    rig.spawn(TaskOptions::normal("w"), waiting(&log, "w", &slot)).detach();
    rig.tick();
    assert_eq!(rig.tick().polled(), 0);
    assert!(slot.wake());
    assert!(!slot.wake(), "a slot wakes once");
    let tick = rig.tick();
    assert_eq!((tick.polled(), log.take().len()), (1, 2));

    let waker: Rc<RefCell<Option<Waker>>> = Rc::default();
    let keep = waker.clone();
    let polls = Rc::new(Cell::new(0));
    let count = polls.clone();
    rig.spawn(
        TaskOptions::normal("x"),
        poll_fn(move |cx| {
            count.set(count.get() + 1);
            *keep.borrow_mut() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }),
    )
    .detach();
    rig.tick();
    let waker = waker.take().expect("it was polled");
    waker.wake_by_ref();
    let copy = waker.clone();
    copy.wake();
    waker.wake();
    rig.tick();
    rig.tick();
    assert_eq!(polls.get(), 2);
}

#[test]
fn a_wake_during_its_own_poll_comes_after_those_that_were_ready() {
    let rig = Rig::new();
    let log = Log::default();
    for name in ["a", "b", "c"] {
        rig.spawn(TaskOptions::normal(name), named(&log, name, 2)).detach();
    }
    let tick = rig.tick();
    assert_eq!(log.take(), ["a0", "b0", "c0"]);
    assert_eq!(tick.ready_left, 3);
    rig.tick();
    assert_eq!(log.take(), ["a1", "b1", "c1"]);
}

#[test]
fn tasks_run_in_the_order_of_their_wakes() {
    let rig = Rig::new();
    let log = Log::default();
    let slots: Vec<_> = (0..4).map(|_| Rc::new(WakeSlot::new())).collect();
    for (name, slot) in ["a", "b", "c", "d"].into_iter().zip(&slots) {
        rig.spawn(TaskOptions::normal(name), waiting(&log, name, slot)).detach();
    }
    rig.tick();
    log.take();
    for index in [2, 0, 3, 1] {
        slots[index].wake();
    }
    rig.tick();
    assert_eq!(log.take(), ["c", "a", "d", "b"]);
}

#[test]
fn a_latency_task_woken_by_a_normal_one_runs_before_the_next_normal_one() {
    let rig = Rig::new();
    let log = Log::default();
    let slot = Rc::new(WakeSlot::new());
    rig.spawn(TaskOptions::latency("l"), waiting(&log, "l", &slot)).detach();
    rig.tick();
    log.take();
    for name in ["n", "m"] {
        let (log, slot) = (log.clone(), slot.clone());
        rig.spawn(TaskOptions::normal(name), async move {
            log.note(name);
            slot.wake();
        })
        .detach();
    }
    rig.tick();
    assert_eq!(log.take(), ["n", "l", "m", "l"]);
}

#[test]
fn background_waits_while_a_normal_task_stays_ready() {
    let rig = Rig::new();
    let log = Log::default();
    rig.spawn(TaskOptions::background("b"), named(&log, "b", 1)).detach();
    rig.spawn(TaskOptions::normal("n"), named(&log, "n", 3)).detach();
    for _ in 0..3 {
        assert_eq!(rig.tick().polled_background, 0);
    }
    assert_eq!(rig.tick().polled_background, 1);
    assert_eq!(log.take(), ["n0", "n1", "n2", "b0"]);
}

#[test]
fn a_tick_is_bounded_by_its_caps() {
    let rig = Rig::with(SchedulerConfig {
        latency_polls: 3,
        normal_polls: 2,
        ..SchedulerConfig::default()
    });
    for _ in 0..5 {
        for class in [Class::Latency, Class::Normal] {
            let forever = async {
                loop {
                    yield_now().await;
                }
            };
            rig.spawn(TaskOptions::new("t", class), forever).detach();
        }
    }
    for _ in 0..10 {
        let tick = rig.tick();
        assert_eq!((tick.polled_latency, tick.polled_normal), (3, 2));
        assert_eq!(tick.ready_left, 10);
    }
    let polls: Vec<_> = rig.scheduler.tasks().map(|task| task.polls).collect();
    assert_eq!(polls.iter().sum::<u64>(), 50);
    let fair = polls.iter().all(|polls| (4..=6).contains(polls));
    assert!(fair, "FIFO under a cap is fair: {polls:?}");
}

#[test]
fn a_task_spawned_from_inside_runs_in_its_turn() {
    let rig = Rig::new();
    let log = Log::default();
    let (spawner, inner) = (rig.spawner(), log.clone());
    rig.spawn(TaskOptions::normal("outer"), async move {
        inner.note("outer");
        let child = named(&inner, "child", 1);
        spawner
            .spawn(TaskOptions::normal("child"), child)
            .expect("room")
            .await
            .expect("not cancelled");
        inner.note("joined");
    })
    .detach();
    rig.spawn(TaskOptions::normal("n"), named(&log, "n", 1)).detach();
    rig.tick();
    assert_eq!(log.take(), ["outer", "n0"]);
    rig.settle(5);
    assert_eq!(log.take(), ["child0", "joined"]);
}

#[test]
fn a_tick_inside_a_task_is_refused() {
    let rig = Rig::new();
    let (scheduler, clock) = (rig.scheduler, rig.clock);
    let handle = rig
        .spawn(TaskOptions::normal("nested"), async move { scheduler.tick(clock.now()).refused });
    let tick = rig.tick();
    assert!(!tick.refused);
    assert_eq!(outcome(&rig, handle), Ok(true));
}

#[test]
fn task_statistics_tell_state_and_name() {
    let rig = Rig::new();
    let scheduler = rig.scheduler;
    let slot = Rc::new(WakeSlot::new());
    let waits = slot.clone();
    rig.spawn(
        TaskOptions::latency("first"),
        poll_fn(move |cx| {
            waits.register(cx.waker());
            Poll::<()>::Pending
        }),
    )
    .detach();
    let second = rig.spawn(TaskOptions::normal("second"), async move {
        let current = scheduler.current().expect("inside a poll");
        let running = scheduler.tasks().nth(1).expect("two tasks");
        assert_eq!((current.id, running.state), (running.id, TaskState::Running));
        current.name
    });
    rig.tick();
    let state = |index| scheduler.tasks().nth(index).map(|task| task.state);
    assert_eq!(state(0), Some(TaskState::Waiting));
    assert_eq!(state(1), Some(TaskState::Done));
    slot.wake();
    assert_eq!(state(0), Some(TaskState::Ready));
    assert_eq!(outcome(&rig, second), Ok("second"));
    assert_eq!(scheduler.tasks().count(), 1, "a finished task is not listed");
    assert!(scheduler.current().is_none());
}
