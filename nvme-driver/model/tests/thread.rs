//! The model on its own thread, its registers behind a mailbox.

mod host;

use core_runtime::clock::Clock;
use core_runtime::mailbox::{MailboxClient, MailboxError, MailboxLayout};
use core_runtime::mem::{DmaRegion, Iova};
use hybrid_shm::leak_zeroed;
use nvme_model::{Idle, Model, ModelThread, ThreadError, ThreadOptions};
use nvme_spec::registers::{Aqa, Asq, Cap, Cc, Csts, Register};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A second: far above what a busy machine needs to run the other thread.
const TIMEOUT_NS: u64 = 20_000_000_000;

#[test]
fn a_host_brings_the_model_up_through_the_mailbox() {
    let mut model = Model::new(host::config()).expect("good");
    model.map_dma(DmaRegion::leak(65_536, Iova(host::BASE))).expect("room");
    let mailbox = leak_zeroed(MailboxLayout::BYTES);
    let started = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&started);
    let options = ThreadOptions {
        name: "the-model".to_owned(),
        idle: Idle::Yield { after_steps: 100 },
        on_start: Some(Box::new(move || {
            assert_eq!(std::thread::current().name(), Some("the-model"));
            flag.store(true, Ordering::Release);
        })),
        ..ThreadOptions::default()
    };
    let thread = ModelThread::spawn(model, Some(mailbox), options).expect("spawned");
    let clock = Clock::tsc(1_000_000_000);
    let client = MailboxClient::new(mailbox, clock, TIMEOUT_NS).expect("a mailbox");
    let cap = Cap::checked(client.read64(Cap::OFFSET).expect("served")).expect("present");
    assert_eq!(cap.max_queue_entries(), 1024);
    assert!(started.load(Ordering::Acquire));
    client.write32(Aqa::OFFSET, Aqa::of(16).into_raw()).expect("served");
    client.write64(Asq::OFFSET, host::BASE).expect("served");
    client.write64(0x30, host::BASE + 4096).expect("served");
    client.write32(Cc::OFFSET, host::Host::cc().into_raw()).expect("served");
    assert!(Csts::from_raw(client.read32(Csts::OFFSET).expect("served")).rdy());
    let resets = thread.call(|model| model.stats().resets).expect("running");
    assert_eq!(resets, 0);
    assert!(thread.is_running());
    let mut model = thread.stop().expect("ended well");
    model.assert_no_mistakes();
    assert_eq!(client.read32(Csts::OFFSET), Err(MailboxError::Gone));
}

/// A partition that is started again has its model on a new thread. Commands would have to wait for
/// as long as the one before had run, and pass their deadline.
#[test]
fn a_model_that_had_a_thread_before_goes_on_in_its_own_time() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let mut model = Model::new(host::config()).expect("good");
    model.step(HOUR_NS);
    let thread = ModelThread::spawn(model, None, ThreadOptions::default()).expect("spawned");
    let begun = std::time::Instant::now();
    while thread.call(|model| model.now_ns()).expect("it runs") <= HOUR_NS {
        assert!(begun.elapsed().as_secs() < 60, "its time stands still");
    }
    let model = thread.stop().expect("ended well");
    assert!(model.now_ns() < 2 * HOUR_NS);
}

#[test]
fn a_mailbox_that_is_too_small_is_refused() {
    let model = Model::new(host::config()).expect("good");
    let spawned = ModelThread::spawn(model, Some(leak_zeroed(8)), ThreadOptions::default());
    assert!(matches!(spawned, Err(ThreadError::Mailbox(_))));
}

#[test]
fn a_thread_that_panics_is_an_error_and_answers_no_calls() {
    let model = Model::new(host::config()).expect("good");
    let options = ThreadOptions {
        idle: Idle::Sleep { after_steps: 10, sleep_us: 50 },
        on_start: Some(Box::new(|| panic!("on purpose"))),
        ..ThreadOptions::default()
    };
    let thread = ModelThread::spawn(model, None, options).expect("spawned");
    assert_eq!(thread.call(|model| model.stats().io), None);
    assert!(matches!(thread.stop(), Err(ThreadError::Panicked)));
}
