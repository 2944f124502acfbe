//! Timers: order, no loss, never early, cancellation, capacity; timeouts and intervals.

use core::cell::RefCell;
use core::future::{Future, pending, ready};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::support::{Log, Rig, outcome};
use core_runtime::clock::{Instant, Ticks};
use core_runtime::task::{
    Elapsed, JoinHandle, SchedulerConfig, TaskOptions, WakeSlot, join, yield_now,
};
use hybrid_conventions::testing::Random;

const NORMAL: TaskOptions = TaskOptions::normal("sleeper");

fn at(rig: &Rig, after: u64) -> Instant {
    rig.now() + Ticks::new(after)
}

fn noting(rig: &Rig, log: &Log, name: &str, deadline: Instant) -> JoinHandle<()> {
    let (spawner, log, name) = (rig.spawner(), log.clone(), name.to_owned());
    rig.spawn(NORMAL, async move {
        spawner.sleep_until(deadline).await;
        log.note(name);
    })
}

#[test]
fn a_timer_fires_at_its_deadline_and_not_a_tick_before() {
    let rig = Rig::new();
    let log = Log::default();
    noting(&rig, &log, "a", at(&rig, 100)).detach();
    rig.tick();
    assert_eq!(rig.scheduler.next_deadline(), Some(at(&rig, 100)));
    rig.clock.advance(99);
    assert!(rig.tick().is_idle());
    rig.clock.advance(1);
    let tick = rig.tick();
    assert_eq!((tick.timers_fired, tick.polled()), (1, 1));
    assert_eq!(log.take(), ["a"]);
    assert_eq!(rig.scheduler.next_deadline(), None);
}

#[test]
fn equal_deadlines_fire_in_the_order_of_their_start() {
    let rig = Rig::new();
    let log = Log::default();
    let (soon, later) = (at(&rig, 10), at(&rig, 20));
    for (name, deadline) in [("c", later), ("a", soon), ("d", later), ("b", soon)] {
        noting(&rig, &log, name, deadline).detach();
    }
    rig.tick();
    rig.clock.advance(50);
    rig.tick();
    assert_eq!(log.take(), ["a", "b", "c", "d"]);
}

#[test]
fn a_deadline_that_has_passed_needs_no_timer() {
    let rig = Rig::new();
    let spawner = rig.spawner();
    let handle = rig.spawn(NORMAL, async move {
        spawner.sleep(Ticks::ZERO).await;
        spawner.sleep_until(Instant::MIN).await;
    });
    rig.tick();
    assert!(handle.is_finished());
    assert_eq!(rig.scheduler.stats().live_timers_high_water, 0);
}

#[test]
fn dropping_a_sleep_frees_its_timer_at_once() {
    let rig = Rig::new();
    let handles: Vec<_> =
        (0..10).map(|n| rig.spawn(NORMAL, rig.spawner().sleep(Ticks::new(100 + n)))).collect();
    rig.tick();
    assert_eq!(rig.scheduler.stats().live_timers, 10);
    drop(handles);
    rig.tick();
    let stats = rig.scheduler.stats();
    assert_eq!((stats.live_timers, stats.live_timers_high_water), (0, 10));
    assert_eq!(rig.scheduler.next_deadline(), None);
}

#[test]
fn a_full_timer_table_delays_nothing_and_is_counted() {
    let rig = Rig::with(SchedulerConfig { max_timers: 2, ..SchedulerConfig::default() });
    let log = Log::default();
    for (name, after) in [("c", 30), ("b", 20), ("a", 10)] {
        noting(&rig, &log, name, at(&rig, after)).detach();
    }
    for _ in 0..40 {
        rig.tick();
        rig.clock.advance(1);
    }
    assert_eq!(log.take(), ["a", "b", "c"]);
    assert!(rig.scheduler.stats().timers_full > 0);
}

#[test]
fn a_scheduler_without_timers_still_sleeps() {
    let rig = Rig::with(SchedulerConfig { max_timers: 0, ..SchedulerConfig::default() });
    let log = Log::default();
    noting(&rig, &log, "a", at(&rig, 2)).detach();
    rig.tick();
    assert_eq!(log.take().len(), 0);
    rig.clock.advance(2);
    rig.tick();
    assert_eq!(log.take(), ["a"]);
}

#[test]
fn timers_beyond_the_cap_of_a_tick_fire_in_the_next() {
    let rig = Rig::with(SchedulerConfig { timers_per_tick: 4, ..SchedulerConfig::default() });
    let log = Log::default();
    for n in 0..10 {
        noting(&rig, &log, &n.to_string(), at(&rig, 5)).detach();
    }
    rig.tick();
    rig.clock.advance(5);
    let fired: Vec<_> = (0..4).map(|_| rig.tick().timers_fired).collect();
    assert_eq!(fired, [4, 4, 2, 0]);
    assert_eq!(log.take(), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

/// Random starts, cancellations and steps of the clock against a map ordered by (deadline, start).
fn play(seed: u64, steps: usize, capacity: u32) {
    let rig = Rig::with(SchedulerConfig {
        max_timers: capacity,
        max_tasks: capacity,
        timers_per_tick: 7,
        normal_polls: 7,
        ..SchedulerConfig::default()
    });
    let mut random = Random::new(seed);
    let fired: Rc<RefCell<Vec<(Instant, u64)>>> = Rc::default();
    let mut model: BTreeMap<(Instant, u64), JoinHandle<()>> = BTreeMap::new();
    let mut started = 0;
    for step in 0..steps {
        match random.below(8) {
            0..=3 if model.len() < capacity as usize => {
                let key = (at(&rig, 1 + random.below(500)), started);
                started += 1;
                let (spawner, fired) = (rig.spawner(), fired.clone());
                let handle = rig.spawn(TaskOptions::latency("timer"), async move {
                    spawner.sleep_until(key.0).await;
                    assert!(spawner.tick_now() >= key.0, "early");
                    fired.borrow_mut().push(key);
                });
                model.insert(key, handle);
                rig.tick();
            }
            4 if !model.is_empty() => {
                let nth = usize::try_from(random.below(model.len() as u64)).unwrap();
                let key = *model.keys().nth(nth).expect("inside");
                model.remove(&key);
                rig.tick();
            }
            _ => {
                rig.clock.advance(random.below(40));
                rig.tick();
            }
        }
        for key in fired.take() {
            let (first, handle) = model.pop_first().expect("nothing fires that was cancelled");
            assert_eq!(key, first, "seed {seed}, step {step}");
            assert!(handle.is_finished());
        }
    }
    rig.clock.advance(1_000);
    while !model.is_empty() {
        assert!(!rig.tick().is_idle(), "seed {seed}: {} timers are lost", model.len());
        for key in fired.take() {
            assert_eq!(Some(key), model.pop_first().map(|(first, _)| first));
        }
    }
    rig.settle(10);
    assert_eq!(rig.scheduler.stats().live_timers, 0);
    assert_eq!(rig.scheduler.stats().timers_full, 0);
}

#[test]
fn random_timers_fire_as_an_ordered_map_says() {
    let (seeds, steps) = if cfg!(miri) { (1, 80) } else { (30, 3_000) };
    for seed in 1..=seeds {
        play(seed, steps, if seed % 2 == 0 { 200 } else { 9 });
    }
}

#[test]
fn a_timeout_gives_the_output_or_ends_at_its_deadline() {
    let rig = Rig::new();
    let spawner = rig.spawner();
    let quick = rig.spawn(NORMAL, async move { spawner.timeout(Ticks::new(10), ready(7)).await });
    let slow = rig.spawn(NORMAL, async move {
        let result = spawner.timeout(Ticks::new(10), pending::<()>()).await;
        (result, spawner.tick_now())
    });
    let due = at(&rig, 10);
    rig.tick();
    assert_eq!(rig.scheduler.stats().live_timers, 1, "only who waits takes a timer");
    assert_eq!(outcome(&rig, quick), Ok(Ok(7)));
    rig.clock.advance(10);
    assert_eq!(outcome(&rig, slow), Ok((Err(Elapsed), due)));
    assert_eq!(rig.scheduler.stats().live_timers, 0);
}

#[test]
fn a_future_that_is_ready_at_the_deadline_wins() {
    let rig = Rig::new();
    let spawner = rig.spawner();
    let slot = Rc::new(WakeSlot::new());
    let (waits, mut polls) = (slot.clone(), 0);
    let twice = core::future::poll_fn(move |cx| {
        waits.register(cx.waker());
        polls += 1;
        if polls == 2 {
            return core::task::Poll::Ready(1);
        }
        core::task::Poll::Pending
    });
    let handle = rig.spawn(NORMAL, spawner.timeout(Ticks::new(10), twice));
    rig.tick();
    rig.clock.advance(10);
    assert_eq!(outcome(&rig, handle), Ok(Ok(1)));
}

#[test]
fn an_interval_keeps_its_rate_and_counts_what_it_missed() {
    let rig = Rig::new();
    let spawner = rig.spawner();
    let start = rig.now();
    let log = Log::default();
    let noted = log.clone();
    rig.spawn(NORMAL, async move {
        let mut interval = spawner.interval(Ticks::new(100));
        loop {
            let due = interval.beat().await;
            noted.note(format!("{} {}", due.since(start).get(), interval.missed()));
        }
    })
    .detach();
    rig.tick();
    for step in [100, 99, 1, 350, 49, 1] {
        rig.clock.advance(step);
        rig.tick();
    }
    // After the gap of 350 the beats of 400 and 500 are gone; 300 comes late, 600 in time.
    assert_eq!(log.take(), ["100 0", "200 0", "300 2", "600 2"]);
}

#[test]
fn two_sleeps_in_one_task_wake_it_both() {
    let rig = Rig::new();
    let spawner = rig.spawner();
    let handle = rig.spawn(NORMAL, async move {
        join(spawner.sleep(Ticks::new(5)), spawner.sleep(Ticks::new(9))).await;
        yield_now().await;
        spawner.tick_now()
    });
    let due = at(&rig, 9);
    rig.tick();
    for _ in 0..9 {
        rig.clock.advance(1);
        rig.tick();
    }
    assert_eq!(outcome(&rig, handle), Ok(due));
}

#[test]
fn a_sleep_may_move_to_another_task_between_polls() {
    let rig = Rig::new();
    let mut sleep = Box::pin(rig.spawner().sleep(Ticks::new(10)));
    let first = rig.spawn(NORMAL, async move {
        let mut context = core::task::Context::from_waker(core::task::Waker::noop());
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        Some(sleep)
    });
    let sleep = outcome(&rig, first).expect("ended").expect("given back");
    let second = rig.spawn(NORMAL, sleep);
    rig.tick();
    rig.clock.advance(10);
    assert_eq!(outcome(&rig, second), Ok(()));
}
