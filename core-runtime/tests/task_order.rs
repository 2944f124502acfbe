//! The exact order of polls: classes, wakes, yields, caps.

mod support;

use core::future::poll_fn;
use core::task::Poll;
use std::rc::Rc;

use core_runtime::task::{Class, SchedulerConfig, TaskOptions, WakeSlot, yield_now};
use support::{Log, Rig};

fn named(log: &Log, name: &'static str, rounds: u32) -> impl Future<Output = ()> + use<> {
    let log = log.clone();
    async move {
        for round in 0..rounds {
            log.note(format!("{name}{round}"));
            yield_now().await;
        }
    }
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
}
