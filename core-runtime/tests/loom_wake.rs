//! The cross-core wake list under every interleaving: no wake is lost, none is handed over twice at
//! once, and what the waker stored is seen by who drains. Run with `--cfg loom`.
#![cfg(loom)]

use core::ptr::NonNull;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
}

#[path = "../src/task/remote.rs"]
mod remote;

use remote::{RemoteLink, RemoteNode, RemoteQueue};

struct Node {
    link: RemoteLink<Node>,
    /// Stored Relaxed before the push: the push must publish it.
    events: AtomicU32,
    /// Written plainly before the only push of a node: a missing edge is a data race.
    payload: UnsafeCell<u32>,
}

impl Node {
    fn new() -> Self {
        Self { link: RemoteLink::new(), events: AtomicU32::new(0), payload: UnsafeCell::new(0) }
    }
}

impl RemoteNode for Node {
    fn link(&self) -> &RemoteLink<Self> {
        &self.link
    }
}

struct World {
    queue: RemoteQueue<Node>,
    nodes: [Node; 2],
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self { queue: RemoteQueue::new(), nodes: [Node::new(), Node::new()] })
    }

    fn push(&self, index: usize) -> bool {
        // SAFETY: each thread holds the world until it has ended, and the model ends after them.
        unsafe { self.queue.push(NonNull::from(&self.nodes[index])) }
    }

    /// Drains once; adds up the events that each node shows when it is handed over.
    fn drain(&self, seen: &mut [u32; 2]) -> u32 {
        self.queue.drain(|node| {
            let index = usize::from(node != NonNull::from(&self.nodes[0]));
            seen[index] = self.nodes[index].events.load(Ordering::Relaxed);
        })
    }
}

// The drain that races runs on a thread of its own: loom lets the first operation of the main
// thread see only what was there before the others began.

#[test]
fn two_wakers_of_one_task_lose_no_event() {
    loom::model(|| {
        let world = World::new();
        let drainer = {
            let world = world.clone();
            thread::spawn(move || {
                let mut seen = [0; 2];
                world.drain(&mut seen);
                seen
            })
        };
        let waker = {
            let world = world.clone();
            thread::spawn(move || {
                world.nodes[0].events.fetch_add(1, Ordering::Relaxed);
                world.push(0);
            })
        };
        world.nodes[0].events.fetch_add(1, Ordering::Relaxed);
        world.push(0);
        waker.join().unwrap();
        let mut seen = drainer.join().unwrap();
        world.drain(&mut seen);
        assert_eq!(seen, [2, 0], "an event was stored, woken for, and not seen");
    });
}

#[test]
fn a_wake_publishes_what_was_stored_before_it() {
    loom::model(|| {
        let world = World::new();
        let check = |world: &World| {
            world.queue.drain(|node| {
                // SAFETY: the node is in `world`; its writer pushed it after it wrote.
                let payload = unsafe { node.as_ref().payload.with(|at| *at) };
                assert_eq!(payload, 7);
            })
        };
        let drainer = {
            let world = world.clone();
            thread::spawn(move || check(&world))
        };
        for index in 0..2 {
            // SAFETY: the drain reads it only after the push below.
            world.nodes[index].payload.with_mut(|at| unsafe { *at = 7 });
            assert!(world.push(index));
        }
        let first = drainer.join().unwrap();
        assert_eq!(first + check(&world), 2, "each is handed over exactly once");
    });
}

#[test]
fn a_task_woken_again_while_it_is_drained_comes_back() {
    loom::model(|| {
        let world = World::new();
        world.nodes[0].events.store(1, Ordering::Relaxed);
        assert!(world.push(0));
        assert!(!world.push(0), "a second wake before the drain is the same wake");
        let waker = {
            let world = world.clone();
            thread::spawn(move || {
                world.nodes[0].events.store(2, Ordering::Relaxed);
                world.push(0)
            })
        };
        let mut seen = [0; 2];
        let first = world.drain(&mut seen);
        assert_eq!(first, 1);
        let pushed_again = waker.join().unwrap();
        let second = world.drain(&mut seen);
        assert_eq!(second, u32::from(pushed_again));
        assert_eq!(seen[0], 2, "either drain sees the second event");
    });
}

#[test]
fn a_wake_in_the_middle_of_a_drain_cuts_off_nobody() {
    loom::model(|| {
        let world = World::new();
        for index in 0..2 {
            world.nodes[index].events.store(1, Ordering::Relaxed);
            assert!(world.push(index));
        }
        let waker = {
            let world = world.clone();
            thread::spawn(move || {
                world.nodes[0].events.store(2, Ordering::Relaxed);
                world.push(0);
            })
        };
        let mut seen = [0; 2];
        world.drain(&mut seen);
        assert_eq!(seen[1], 1, "the second task was in the list when the drain began");
        waker.join().unwrap();
        world.drain(&mut seen);
        assert_eq!(seen, [2, 1]);
    });
}
