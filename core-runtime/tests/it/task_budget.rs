//! Budgets, overruns, yields under pressure, gaps and stolen time.

use core::future::pending;
use std::rc::Rc;

use crate::support::{Log, Rig, outcome};
use core_runtime::clock::{Instant, ManualClock, Ticks};
use core_runtime::task::{
    GapHistogram, Log2Histogram, SchedulerConfig, TaskOptions, WakeSlot, yield_now,
};

/// Each poll takes the next of `costs` nanoseconds.
async fn costly(clock: &'static ManualClock, costs: &'static [u64]) {
    for cost in costs {
        clock.advance(*cost);
        yield_now().await;
    }
    pending::<()>().await;
}

#[test]
fn overruns_and_the_longest_poll_are_counted_per_task() {
    let rig = Rig::new();
    rig.spawn(TaskOptions::latency("tight"), costly(rig.clock, &[500, 501, 100, 1_524])).detach();
    rig.spawn(TaskOptions::normal("roomy").budget_ns(2_000), costly(rig.clock, &[2_000, 1]))
        .detach();
    for _ in 0..8 {
        rig.tick();
    }
    let tasks: Vec<_> = rig.scheduler.tasks().collect();
    let (tight, roomy) = (&tasks[0], &tasks[1]);
    assert_eq!((tight.overruns, tight.longest.get()), (2, 1_524));
    assert_eq!((tight.budget.get(), tight.total.get()), (500, 2_625));
    assert_eq!(tight.exceeded_by[1], 1, "by 1 tick");
    assert_eq!(tight.exceeded_by[11], 1, "by 1024 ticks");
    assert_eq!(tight.exceeded_by.iter().sum::<u64>(), 2);
    assert_eq!((roomy.overruns, roomy.longest.get()), (0, 2_000));
    assert_eq!(rig.scheduler.stats().overruns, 2);
    let exceeded = rig.scheduler.exceeded();
    assert_eq!((exceeded.count(), exceeded.longest().get()), (2, 1_024));
    assert_eq!(rig.scheduler.stats().poll_ticks, 4_626);
}

#[test]
fn a_task_sees_its_budget_from_inside() {
    let rig = Rig::new();
    let (spawner, clock) = (rig.spawner(), rig.clock);
    // Its predecessor's time is not charged to it.
    rig.spawn(TaskOptions::normal("before"), async move { clock.advance(3_000) }).detach();
    let handle = rig.spawn(TaskOptions::normal("task"), async move {
        let budget = spawner.budget();
        let fresh = (budget.remaining().get(), budget.exceeded());
        clock.advance(5_000);
        let spent = (budget.remaining().get(), budget.exceeded());
        clock.advance(1);
        (fresh, spent, budget.exceeded(), budget.limit().get())
    });
    let seen = outcome(&rig, handle).expect("ended");
    assert_eq!(seen, ((5_000, false), (0, false), true, 5_000));
    assert_eq!(rig.spawner().budget().remaining(), Ticks::MAX, "outside a poll");
}

#[test]
fn background_work_yields_to_latency_work_and_to_its_budget() {
    let rig = Rig::new();
    let log = Log::default();
    let slot = Rc::new(WakeSlot::new());
    let (spawner, clock) = (rig.spawner(), rig.clock);
    let (noted, waits) = (log.clone(), slot.clone());
    rig.spawn(TaskOptions::latency("urgent"), async move {
        core::future::poll_fn(|cx| {
            if noted.is_empty() {
                waits.register(cx.waker());
                return core::task::Poll::Pending;
            }
            core::task::Poll::Ready(())
        })
        .await;
        noted.note("urgent");
    })
    .detach();
    let noted = log.clone();
    rig.spawn(TaskOptions::background("chunks"), async move {
        assert!(!spawner.should_yield());
        noted.note("chunk");
        slot.wake();
        assert!(spawner.should_yield(), "latency work is ready");
        spawner.yield_if_needed().await;
        noted.note("chunk");
        assert!(!spawner.should_yield());
        clock.advance(1_000_001);
        assert!(spawner.should_yield(), "its budget is used up");
        spawner.yield_if_needed().await;
        assert!(!spawner.should_yield());
        noted.note("end");
    })
    .detach();
    rig.settle(10);
    assert_eq!(log.take(), ["chunk", "urgent", "chunk", "end"]);
}

#[test]
fn a_gap_that_polls_explain_is_not_stolen() {
    let rig = Rig::new();
    rig.spawn(TaskOptions::normal("slow"), costly(rig.clock, &[50_000, 60_000])).detach();
    for _ in 0..4 {
        rig.tick();
        rig.clock.advance(100);
    }
    let stats = rig.scheduler.stats();
    assert_eq!((stats.stolen_gaps, stats.longest_gap.get()), (0, 60_100));

    // The loop stands still for 40 us without a reason.
    rig.clock.advance(39_900);
    rig.tick();
    let stats = rig.scheduler.stats();
    assert_eq!((stats.stolen_gaps, stats.stolen.get()), (1, 40_000));
    assert_eq!(stats.longest_stolen.get(), 40_000);
    let bucket = GapHistogram::bucket_of(Ticks::new(40_000));
    assert_eq!(rig.scheduler.stolen().get(bucket), 1);

    // What the loop owns up to is not stolen either.
    rig.clock.advance(70_000);
    let end = rig.now().ticks() - 1_000;
    rig.scheduler.explain_until(Instant::from_ticks(end));
    rig.tick();
    assert_eq!(rig.scheduler.stats().stolen_gaps, 1);
    rig.clock.advance(70_000);
    rig.scheduler.explain_until(Instant::from_ticks(rig.now().ticks() - 20_000));
    rig.scheduler.explain(Ticks::new(19_000));
    rig.tick();
    assert_eq!(rig.scheduler.stats().stolen_gaps, 1);
    assert_eq!(rig.scheduler.poll_to_poll().count(), 6, "one fewer than the ticks");
}

#[test]
fn a_task_is_not_charged_with_what_the_loop_did_before_the_tick() {
    let rig = Rig::new();
    rig.spawn(TaskOptions::latency("tight"), costly(rig.clock, &[500, 500])).detach();
    for _ in 0..2 {
        let now = rig.now();
        // The devices are polled between the stamp and the tick.
        rig.clock.advance(40_000);
        rig.scheduler.tick(now);
    }
    let task = rig.scheduler.tasks().next().unwrap();
    assert_eq!((task.overruns, task.longest.get(), task.total.get()), (0, 500, 1_000));
    rig.tick();
    assert_eq!(rig.scheduler.stats().stolen_gaps, 0, "and that time was the loop's own");
}

#[test]
fn without_timed_polls_nothing_is_charged() {
    let rig = Rig::with(SchedulerConfig { time_polls: false, ..SchedulerConfig::default() });
    rig.spawn(TaskOptions::latency("slow"), costly(rig.clock, &[50_000])).detach();
    rig.tick();
    let stats = rig.scheduler.stats();
    assert_eq!((stats.overruns, stats.poll_ticks), (0, 0));
}

#[test]
fn a_clock_that_goes_back_does_no_harm() {
    let rig = Rig::new();
    rig.spawn(TaskOptions::normal("t"), costly(rig.clock, &[5, 5, 5])).detach();
    let sleeper = rig.spawn(TaskOptions::normal("s"), rig.spawner().sleep(Ticks::new(2_000)));
    rig.tick();
    rig.clock.set(10);
    rig.tick();
    assert!(!sleeper.is_finished());
    rig.clock.set(10_000);
    assert_eq!(outcome(&rig, sleeper), Ok(()));
    assert_eq!(rig.scheduler.stats().overruns, 0);
}

#[test]
fn histogram_buckets_are_bit_lengths() {
    for (ticks, bucket) in [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1 << 29, 30), (u64::MAX, 31)] {
        assert_eq!(Log2Histogram::bucket_of(Ticks::new(ticks)), bucket, "{ticks}");
    }
    for bucket in 0..31 {
        let most = Log2Histogram::upper_bound(bucket);
        assert_eq!(Log2Histogram::bucket_of(most), bucket);
        assert_eq!(Log2Histogram::bucket_of(most.saturating_add(Ticks::new(1))), bucket + 1);
    }
}
