//! A controller on a backend, and the loop that runs it.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use core_runtime::mem::{DmaArena, DmaBuf, DmaStats};
use nvme_driver::{
    Controller, ControllerConfig, ControllerError, ControllerState, DeviceParts, Namespace,
    PollReport,
};
use nvme_model::ModelConfig;
use nvme_spec::Nsid;

use crate::backend::{Backend, Stepped};

/// A waker that remembers.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// A flag that is up, and its waker.
    #[must_use]
    pub fn raised() -> (Arc<Self>, Waker) {
        let flag = Arc::new(Self(AtomicBool::new(true)));
        (flag.clone(), Waker::from(flag))
    }

    /// Whether it was up; it is down then.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// Whether it is up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Raises it by hand.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A controller on a backend.
#[derive(Debug)]
pub struct Rig<B: Backend = Stepped> {
    /// The backend.
    pub backend: B,
    /// The controller.
    pub controller: &'static Controller,
    /// Its DMA memory.
    pub arena: &'static DmaArena,
    baseline: Cell<DmaStats>,
    passes: Cell<u64>,
}

/// A stepped rig that is ready: `model` with 64 MiB, `config` for the driver.
///
/// # Panics
/// If bring-up fails.
#[must_use]
pub fn quick(model: ModelConfig, config: ControllerConfig) -> Rig<Stepped> {
    let rig = Rig::new(Stepped::new(model, 64 << 20), config).expect("a controller");
    rig.bring_up().expect("ready");
    rig
}

impl<B: Backend> Rig<B> {
    /// Makes a controller; it is not brought up yet.
    ///
    /// # Errors
    /// Those of [`Controller::new`].
    pub fn new(backend: B, config: ControllerConfig) -> Result<Self, ControllerError> {
        let DeviceParts::Nvme(parts) = backend.parts() else {
            return Err(ControllerError::NotAController);
        };
        let controller = backend.controller(config)?;
        Ok(Self {
            controller,
            arena: parts.arena,
            baseline: Cell::new(parts.arena.stats()),
            passes: Cell::new(0),
            backend,
        })
    }

    /// Does something with another controller on the same backend; this rig's own is not polled
    /// meanwhile.
    pub fn with_controller(mut self, next: &'static Controller, f: impl FnOnce(&Self)) {
        self.controller = next;
        f(&self);
    }

    /// Waits until the controller is ready.
    ///
    /// # Errors
    /// Why it never will be.
    pub fn bring_up(&self) -> Result<(), ControllerError> {
        self.run(self.controller.ready())
    }

    /// One pass of the loop without tasks.
    pub fn pass(&self) -> PollReport {
        let report = self.controller.poll(self.backend.now());
        self.controller.ring();
        self.backend.pass(report.is_idle());
        let passes = self.passes.get() + 1;
        self.passes.set(passes);
        report
    }

    /// Runs a future to its end, polling it only when it was woken.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        let (flag, waker) = Flag::raised();
        let mut cx = Context::from_waker(&waker);
        let (begun, passes) = (self.backend.now(), self.passes.get());
        loop {
            if flag.take()
                && let Poll::Ready(output) = future.as_mut().poll(&mut cx)
            {
                return output;
            }
            self.pass();
            if self.backend.gives_up(begun, self.passes.get() - passes) {
                break;
            }
        }
        panic!("it hangs; state {:?}, {:?}", self.controller.state(), self.controller.stats());
    }

    /// Passes until `done`.
    ///
    /// # Panics
    /// If that never happens.
    pub fn until(&self, mut done: impl FnMut(&Controller) -> bool) {
        let (begun, passes) = (self.backend.now(), self.passes.get());
        while !self.backend.gives_up(begun, self.passes.get() - passes) {
            if done(self.controller) {
                return;
            }
            self.pass();
        }
        panic!("never; state {:?}, {:?}", self.controller.state(), self.controller.stats());
    }

    /// Passes for `ns` of the backend's time.
    pub fn wait_ns(&self, ns: u64) {
        let clock = self.backend.parts().clock();
        let end = self.backend.now() + clock.ns_to_ticks(ns);
        while self.backend.now() < end {
            self.pass();
        }
    }

    /// Namespace 1.
    ///
    /// # Panics
    /// If it is not there.
    #[must_use]
    pub fn ns(&self) -> &'static Namespace {
        self.controller.namespace(Nsid(1)).expect("namespace 1")
    }

    /// A buffer whose bytes are all `byte`.
    ///
    /// # Panics
    /// If there is no memory.
    #[must_use]
    pub fn filled(&self, len: usize, byte: u8) -> DmaBuf {
        let mut buf = self.arena.alloc(len).expect("memory");
        buf.as_mut_slice().fill(byte);
        buf
    }

    /// Waits for orphans, shuts down, and checks that nothing is lost: every buffer is back, none
    /// is quarantined, the controller says it is off, and the device has no complaint.
    ///
    /// # Panics
    /// If anything is amiss.
    pub fn finish(&self) {
        self.until(|c| c.stats().io.in_flight == 0);
        self.run(self.controller.shutdown()).expect("an orderly shutdown");
        assert_eq!(self.controller.state(), ControllerState::Off);
        self.assert_no_leak();
        self.assert_no_mistakes();
    }

    /// Checks that all buffers are back and none is quarantined.
    ///
    /// # Panics
    /// If not.
    pub fn assert_no_leak(&self) {
        let (now, then) = (self.arena.stats(), self.baseline.get());
        assert_eq!(now.live, then.live, "buffers are missing or left over");
        assert_eq!(now.live_bytes, then.live_bytes);
        assert_eq!(now.quarantined, 0, "buffers are quarantined");
    }

    /// Checks that the device saw no mistake of the driver, as far as it tells.
    ///
    /// # Panics
    /// If it did.
    pub fn assert_no_mistakes(&self) {
        let complaints = self.backend.complaints();
        assert!(complaints.is_empty(), "the device complains of its host: {complaints:#?}");
    }
}
