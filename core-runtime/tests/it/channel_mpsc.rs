//! Channels: order, back-pressure, closing, cancellation, and a random history against a model.

use core::cell::{Cell, RefCell};
use core::future::Future;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::support::{Log, Rig, outcome};
use core_runtime::channel::{
    AlreadySplit, Channel, Notify, Oneshot, Receiver, Semaphore, SendError, SenderGone, Signal,
    TryRecvError, TrySendError,
};
use core_runtime::task::{JoinHandle, TaskOptions, yield_now};
use hybrid_conventions::testing::Random;

const NORMAL: TaskOptions = TaskOptions::normal("task");

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

#[test]
fn values_arrive_in_order_and_a_full_channel_makes_senders_wait_in_theirs() {
    let rig = Rig::new();
    let log = Log::default();
    let (sender, mut receiver) = leak(Channel::<u32, 2>::new()).split().expect("fresh");
    for value in 0..5 {
        let (sender, log) = (sender.clone(), log.clone());
        rig.spawn(NORMAL, async move {
            sender.send(value).await.expect("open");
            log.note(format!("sent {value}"));
        })
        .detach();
    }
    rig.tick();
    assert_eq!(log.take(), ["sent 0", "sent 1"]);
    assert_eq!(sender.try_send(9), Err(TrySendError::Full(9)));
    for value in 0..5 {
        assert_eq!(receiver.try_recv(), Ok(value));
        rig.tick();
        if value < 3 {
            assert_eq!(log.take(), [format!("sent {}", value + 2)]);
        }
    }
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    assert_eq!((sender.channel().high_water(), sender.channel().capacity()), (2, 2));
}

#[test]
fn try_send_does_not_overtake_who_waits() {
    let rig = Rig::new();
    let (sender, mut receiver) = leak(Channel::<u32, 1>::new()).split().expect("fresh");
    sender.try_send(1).expect("room");
    for value in [2, 3] {
        let sender = sender.clone();
        rig.spawn(NORMAL, async move { sender.send(value).await }).detach();
    }
    rig.tick();
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!(sender.try_send(9), Err(TrySendError::Full(9)), "3 waits still");
    rig.tick();
    assert_eq!(receiver.try_recv(), Ok(2));
    rig.tick();
    assert_eq!(receiver.try_recv(), Ok(3));
    sender.try_send(9).expect("nobody waits");
}

#[test]
fn a_waiting_sender_that_is_cancelled_passes_its_turn_on() {
    let rig = Rig::new();
    let (sender, mut receiver) = leak(Channel::<u32, 1>::new()).split().expect("fresh");
    sender.try_send(1).expect("room");
    let send = |value| {
        let sender = sender.clone();
        rig.spawn(NORMAL, async move { sender.send(value).await })
    };
    let (first, second) = (send(2), send(3));
    rig.tick();
    assert_eq!(receiver.try_recv(), Ok(1));
    drop(first);
    rig.settle(5);
    assert_eq!(receiver.try_recv(), Ok(3));
    assert_eq!(outcome(&rig, second), Ok(Ok(())));
}

#[test]
fn the_receiver_gets_what_is_left_and_then_the_end() {
    let rig = Rig::new();
    let channel = leak(Channel::<u32, 4>::new());
    let (sender, mut receiver) = channel.split().expect("fresh");
    let handle = rig.spawn(NORMAL, async move {
        let mut all = Vec::new();
        while let Some(value) = receiver.recv().await {
            all.push(value);
        }
        (all, receiver)
    });
    rig.tick();
    sender.try_send(1).expect("room");
    sender.try_send(2).expect("room");
    drop(sender);
    let (all, receiver) = outcome(&rig, handle).expect("ended");
    assert_eq!(all, [1, 2]);
    assert_eq!(channel.split().err(), Some(AlreadySplit));
    drop(receiver);
    assert!(channel.split().is_ok());
}

#[test]
fn senders_get_their_values_back_when_the_receiver_goes() {
    let rig = Rig::new();
    let channel = leak(Channel::<Rc<()>, 1>::new());
    let (sender, receiver) = channel.split().expect("fresh");
    let value = Rc::new(());
    sender.try_send(value.clone()).expect("room");
    let (other, mine) = (sender.clone(), value.clone());
    let waits = rig.spawn(NORMAL, async move { other.send(mine).await });
    rig.tick();
    drop(receiver);
    assert_eq!(outcome(&rig, waits), Ok(Err(SendError(Rc::new(())))));
    assert!(sender.is_closed());
    let back = sender.try_send(value.clone());
    assert_eq!(back, Err(TrySendError::Closed(Rc::new(()))));
    drop(back);
    assert_eq!(Rc::strong_count(&value), 1, "nothing is left in the channel");
}

/// Senders and a receiver that come, go and are cancelled at random; each sender's values arrive
/// in its order, and what arrived plus what came back is what was sent.
fn play(seed: u64, steps: usize) {
    const SENDERS: usize = 5;
    let rig = Rig::new();
    let mut random = Random::new(seed);
    let (sender, mut receiver) = leak(Channel::<(usize, u32), 3>::new()).split().expect("fresh");
    let sent: Rc<RefCell<[VecDeque<u32>; SENDERS]>> = Rc::default();
    let mut running: [Option<JoinHandle<()>>; SENDERS] = Default::default();
    let mut next = 0;
    let mut arrived = 0;
    let take = |receiver: &mut Receiver<(usize, u32), 3>| match receiver.try_recv() {
        Ok((from, value)) => {
            let expected = sent.borrow_mut()[from].pop_front();
            assert_eq!(Some(value), expected, "seed {seed}, sender {from}");
            1
        }
        Err(_) => 0,
    };
    for _ in 0..steps {
        let who = usize::try_from(random.below(SENDERS as u64)).unwrap();
        match random.below(8) {
            0..=2 if running[who].as_ref().is_none_or(JoinHandle::is_finished) => {
                let (sender, sent) = (sender.clone(), sent.clone());
                let first = next;
                let count = 1 + u32::try_from(random.below(4)).unwrap();
                next += count;
                running[who] = Some(rig.spawn(NORMAL, async move {
                    for value in first..first + count {
                        sender.send((who, value)).await.expect("open");
                        sent.borrow_mut()[who].push_back(value);
                    }
                }));
            }
            3 => drop(running[who].take()),
            4 | 5 => arrived += take(&mut receiver),
            _ => {
                rig.tick();
            }
        }
    }
    for _ in 0..200 {
        rig.tick();
        arrived += take(&mut receiver);
    }
    assert!(sent.borrow().iter().all(VecDeque::is_empty), "seed {seed}: values are lost");
    let stuck = running.iter().flatten().filter(|task| !task.is_finished()).count();
    assert_eq!(stuck, 0, "seed {seed}: a sender was not woken");
    assert!(arrived > steps / 40, "seed {seed}: only {arrived}");
}

#[test]
fn random_senders_lose_and_double_nothing() {
    let (seeds, steps) = if cfg!(miri) { (1, 200) } else { (100, 2_000) };
    for seed in 1..=seeds {
        play(seed, steps);
    }
}

#[test]
fn a_oneshot_delivers_once_or_says_that_the_sender_went() {
    let rig = Rig::new();
    let oneshot = leak(Oneshot::<u32>::new());
    let (sender, receiver) = oneshot.split().expect("fresh");
    assert_eq!(oneshot.split().err(), Some(AlreadySplit));
    let handle = rig.spawn(NORMAL, receiver);
    rig.tick();
    sender.send(4).expect("open");
    assert_eq!(outcome(&rig, handle), Ok(Ok(4)));

    let (sender, receiver) = oneshot.split().expect("both ends are gone");
    let handle = rig.spawn(NORMAL, receiver);
    rig.tick();
    drop(sender);
    assert_eq!(outcome(&rig, handle), Ok(Err(SenderGone)));

    let (sender, receiver) = oneshot.split().expect("both ends are gone");
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(sender.send(5), Err(5));
    let (sender, receiver) = oneshot.split().expect("both ends are gone");
    sender.send(6).expect("open");
    drop(receiver);
    let (_sender, receiver) = oneshot.split().expect("both ends are gone");
    let handle = rig.spawn(NORMAL, receiver);
    rig.tick();
    assert!(!handle.is_finished(), "the old value is gone");
}

#[test]
fn a_signal_keeps_the_latest_value() {
    let rig = Rig::new();
    let signal = leak(Signal::<u32>::new());
    assert_eq!(signal.set(1), None);
    assert_eq!(signal.set(2), Some(1));
    let handle = rig.spawn(NORMAL, async move { (signal.wait().await, signal.wait().await) });
    rig.tick();
    assert!(!handle.is_finished());
    signal.set(3);
    assert_eq!(outcome(&rig, handle), Ok((2, 3)));
    assert_eq!(signal.take(), None);
}

async fn counting(count: Rc<Cell<u32>>, event: impl Future<Output = ()>) {
    event.await;
    count.set(count.get() + 1);
}

#[test]
fn a_notification_reaches_everyone_who_asked_before_it() {
    let rig = Rig::new();
    let notify = leak(Notify::new());
    let count = Rc::new(Cell::new(0));
    let waiting = |future| rig.spawn(NORMAL, counting(count.clone(), future)).detach();
    waiting(notify.notified());
    waiting(notify.notified());
    rig.tick();
    let unpolled = notify.notified();
    assert_eq!(notify.notify_all(), 2);
    let late = notify.notified();
    waiting(late);
    rig.tick();
    assert_eq!(count.get(), 2, "the late one waits");
    waiting(unpolled);
    rig.tick();
    assert_eq!(count.get(), 3, "it asked before, though it was polled first after others waited");
    notify.notify_all();
    rig.tick();
    assert_eq!(count.get(), 4);
}

#[test]
fn permits_go_round_in_order() {
    let rig = Rig::new();
    let log = Log::default();
    let window = leak(Semaphore::new(2));
    for name in ["a", "b", "c", "d"] {
        let log = log.clone();
        rig.spawn(NORMAL, async move {
            let _permit = window.acquire().await;
            log.note(name);
            yield_now().await;
        })
        .detach();
    }
    rig.tick();
    assert_eq!(log.take(), ["a", "b"]);
    assert_eq!(window.available(), 0);
    assert!(window.try_acquire().is_none());
    rig.settle(10);
    assert_eq!(log.take(), ["c", "d"]);
    assert_eq!(window.available(), 2);
    window.try_acquire().expect("free").forget();
    assert_eq!(window.available(), 1);
    window.add(1);
    assert_eq!(window.available(), 2);
}
