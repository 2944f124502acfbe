//! Shadow doorbells under every interleaving: no command waits for a doorbell that never comes,
//! and what was posted is seen by who looks. Run with `--cfg loom`.
//!
//! The host's half is the very file that the driver uses. The device's half is written here as the
//! controller model does it (`nvme-driver/model/src/shadow.rs`), which NVMe Base 2.0, section 5.8
//! leaves to the controller. Each half once more without its fence: the test must then find the
//! command that waits for ever.
#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
}

#[path = "../src/mem/eventidx.rs"]
mod eventidx;

/// What a controller leaves in the register when it goes to sleep: no index.
const ASLEEP: u32 = u32::MAX;

/// Index that both sides know at the start. The event word is behind it: the device was awake.
const KNOWN: u16 = 5;

/// Entries that the host posts, each with a doorbell of its own.
const POSTS: u16 = 2;

struct World {
    shadow: AtomicU32,
    event: AtomicU32,
    register: AtomicU32,
    /// Written plainly before they are told: a missing edge is a data race.
    entries: [UnsafeCell<u16>; POSTS as usize],
}

/// How each side does its part.
#[derive(Clone, Copy)]
struct Rules {
    host_fence: bool,
    device_fence: bool,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            shadow: AtomicU32::new(KNOWN.into()),
            event: AtomicU32::new(0),
            register: AtomicU32::new(KNOWN.into()),
            entries: [UnsafeCell::new(0), UnsafeCell::new(0)],
        })
    }

    /// The host posts and rings, entry by entry.
    fn host(&self, rules: Rules) {
        for post in 0..POSTS {
            let (old, new) = (KNOWN + post, KNOWN + post + 1);
            // SAFETY: the device reads an entry only after it saw an index beyond it.
            self.entries[usize::from(post)].with_mut(|entry| unsafe { *entry = new });
            let must = if rules.host_fence {
                eventidx::tell(&self.shadow, &self.event, old, new)
            } else {
                self.shadow.store(new.into(), Ordering::Release);
                eventidx::passed(self.event.load(Ordering::Relaxed) as u16, old, new)
            };
            if must {
                self.register.store(new.into(), Ordering::Release);
            }
        }
    }

    /// The device looks once, finds nothing new or something, and in the former case goes to
    /// sleep. Gives the index that it knows, and whether it is awake.
    fn device(&self, rules: Rules) -> (u16, bool) {
        let index = self.shadow.load(Ordering::Acquire) as u16;
        if index != KNOWN {
            self.fetch(index);
            return (index, true);
        }
        self.register.store(ASLEEP, Ordering::Relaxed);
        self.event.store(KNOWN.into(), Ordering::Relaxed);
        if rules.device_fence {
            fence(Ordering::SeqCst);
        }
        let again = self.shadow.load(Ordering::Acquire) as u16;
        self.fetch(again);
        (again, again != KNOWN)
    }

    /// Reads the entries up to `index`.
    fn fetch(&self, index: u16) {
        for post in 0..index - KNOWN {
            // SAFETY: the host wrote it before it told of an index beyond it, and never again.
            let entry = self.entries[usize::from(post)].with(|entry| unsafe { *entry });
            assert_eq!(entry, KNOWN + post + 1, "an entry that was told of is there");
        }
    }
}

// Both sides run on threads of their own: loom lets the first operation of the main thread see
// only what was there before the others began.
fn every_order(rules: Rules) {
    loom::model(move || {
        let world = World::new();
        let host = {
            let world = world.clone();
            thread::spawn(move || world.host(rules))
        };
        let device = {
            let world = world.clone();
            thread::spawn(move || world.device(rules))
        };
        host.join().unwrap();
        let (known, awake) = device.join().unwrap();
        // Awake, it looks at the shadow again; asleep, only the register wakes it.
        let woken = awake || world.register.load(Ordering::Acquire) != ASLEEP;
        assert!(woken || known == KNOWN + POSTS, "a lost wake-up");
    });
}

#[test]
fn a_device_that_goes_to_sleep_is_woken_by_what_it_missed() {
    every_order(Rules { host_fence: true, device_fence: true });
}

#[test]
#[should_panic(expected = "a lost wake-up")]
fn without_the_hosts_fence_a_wake_up_is_lost() {
    every_order(Rules { host_fence: false, device_fence: true });
}

#[test]
#[should_panic(expected = "a lost wake-up")]
fn without_the_devices_fence_a_wake_up_is_lost() {
    every_order(Rules { host_fence: true, device_fence: false });
}
