//! Joins and selects.

use core::future::{Future, pending, ready};
use std::rc::Rc;

use crate::support::{Rig, outcome};
use core_runtime::clock::Ticks;
use core_runtime::task::{
    Either, Either3, TaskOptions, join, join_array, join3, join4, select, select_array, select3,
    yield_now,
};

async fn after<T>(rounds: u32, value: T) -> T {
    for _ in 0..rounds {
        yield_now().await;
    }
    value
}

fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    let rig = Rig::new();
    let handle = rig.spawn(TaskOptions::normal("task"), future);
    outcome(&rig, handle).expect("not cancelled")
}

#[test]
fn joins_wait_for_all_and_keep_the_order() {
    assert_eq!(run(join(after(2, 1), after(0, "b"))), (1, "b"));
    assert_eq!(run(join3(after(0, 1), after(3, 2), after(1, 3))), (1, 2, 3));
    let four = join4(ready(1), after(1, 2), ready(3), after(2, 4));
    assert_eq!(run(four), (1, 2, 3, 4));
    assert_eq!(run(join_array([3, 0, 2].map(|n| after(n, n * 10)))), [30, 0, 20]);
    let none: [core::future::Ready<i32>; 0] = [];
    assert_eq!(run(join_array(none)), [0; 0]);
}

#[test]
fn a_select_gives_the_first_and_prefers_the_earlier() {
    assert_eq!(run(select(after(1, 1), after(0, 2))), Either::Second(2));
    assert_eq!(run(select(ready(1), ready(2))), Either::First(1));
    let third = select3(pending::<()>(), after(2, 2), after(1, 3));
    assert_eq!(run(third), Either3::Third(3));
}

#[test]
fn an_array_select_is_fair_from_poll_to_poll() {
    let winners = run(async {
        // Child n is ready from its second poll on, so every child is ready in the second poll.
        let select = select_array([0, 1, 2].map(|n| after(1, n)));
        let first = select.await;
        let second = select_array([0, 1, 2].map(|n| after(0, n))).await;
        (first, second)
    });
    assert_eq!(winners, ((1, 1), (0, 0)));
}

#[test]
fn losers_are_dropped_with_the_select() {
    let value = Rc::new(());
    let loser = value.clone();
    let (rig, inner) = (Rig::new(), value.clone());
    let spawner = rig.spawner();
    let handle = rig.spawn(TaskOptions::normal("task"), async move {
        let slow = async move {
            spawner.sleep(Ticks::new(1_000)).await;
            drop(loser);
        };
        let won = select(slow, after(2, 7)).await;
        let timers = Rc::strong_count(&inner);
        (won, timers)
    });
    let (won, held) = outcome(&rig, handle).expect("ended");
    assert!(matches!(won, Either::Second(7)));
    assert_eq!(held, 2, "the test's and the task's");
    assert_eq!(rig.scheduler.stats().live_timers, 0, "its timer went with it");
}

#[test]
fn a_cancelled_join_drops_outputs_and_futures_alike() {
    let rig = Rig::new();
    let value = Rc::new(());
    let (done, waits) = (value.clone(), value.clone());
    let handle = rig.spawn(
        TaskOptions::normal("task"),
        join(ready(done), async move {
            pending::<()>().await;
            drop(waits);
        }),
    );
    rig.tick();
    assert_eq!(Rc::strong_count(&value), 3);
    drop(handle);
    rig.tick();
    assert_eq!(Rc::strong_count(&value), 1);
}

#[test]
#[should_panic(expected = "polled after it was ready")]
fn a_join_polled_after_it_was_ready_says_so() {
    let mut join = Box::pin(join(ready(1), ready(2)));
    let mut context = core::task::Context::from_waker(core::task::Waker::noop());
    assert!(join.as_mut().poll(&mut context).is_ready());
    let _ = join.as_mut().poll(&mut context);
}
