//! Backends: what the driver is put on.
//!
//! [`Backend`] is all that the suite knows of a device; what else [`Stepped`] and [`Threaded`] can
//! do (look into the model, plant faults) are methods of their own, for the tests of faults.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use core_runtime::clock::{Clock, Instant, ManualClock};
use core_runtime::mailbox::{MailboxClient, MailboxLayout};
use core_runtime::mem::{Bump, DmaArena, DoorbellRegion, Iova};
use host_bridge::backend::SteppedRegs;
use hybrid_shm::leak_zeroed;
use nvme_driver::{Controller, ControllerConfig, ControllerError, ControllerParts, DeviceParts};
use nvme_model::{
    FaultAction, FaultPlan, FaultRule, Idle, Model, ModelConfig, ModelThread, ThreadOptions,
};
use nvme_spec::NvmOpcode;

/// A region's first IOVA: no pointer of this process, and above 4 GiB.
const IOVA: Iova = Iova(0x12_3400_0000);

/// Passes after which something that should have ended is said to hang. At up to a millisecond of
/// virtual time each they are over half an hour.
const MAX_PASSES: u64 = 4_000_000;

/// Private memory of a controller: queues of 4,095 commands and 16 of them fit.
const CONTROLLER_BYTES: usize = 8 << 20;

/// A device and its time.
pub trait Backend {
    /// What the driver is given.
    fn parts(&self) -> DeviceParts;
    /// Lets the device work and time pass; `idle` says that the host had nothing to do.
    fn pass(&self, idle: bool);
    /// The time.
    fn now(&self) -> Instant;
    /// Makes a controller over [`Backend::parts`], in memory that lives as long as it.
    ///
    /// # Errors
    /// Those of [`Controller::new`].
    fn controller(&self, config: ControllerConfig) -> Result<&'static Controller, ControllerError> {
        Controller::new(self.parts(), &Bump::leak(CONTROLLER_BYTES), config)
    }
    /// Whether what did not happen in so many passes since `begun` will not happen any more.
    fn gives_up(&self, begun: Instant, passes: u64) -> bool {
        let _ = begun;
        passes >= MAX_PASSES
    }
    /// Lets the device leave reads unanswered from now on, or answer again; false where nobody can
    /// make it do so.
    fn stall(&self, on: bool) -> bool {
        let _ = on;
        false
    }
    /// The driver's mistakes that the device noticed so far; empty where it does not tell.
    fn complaints(&self) -> Vec<String> {
        Vec::new()
    }
    /// Forgets these mistakes: they were made on purpose.
    fn pardon(&self) {}
}

impl<B: Backend + ?Sized> Backend for &B {
    fn parts(&self) -> DeviceParts {
        (**self).parts()
    }

    fn pass(&self, idle: bool) {
        (**self).pass(idle);
    }

    fn now(&self) -> Instant {
        (**self).now()
    }

    fn controller(&self, config: ControllerConfig) -> Result<&'static Controller, ControllerError> {
        (**self).controller(config)
    }

    fn gives_up(&self, begun: Instant, passes: u64) -> bool {
        (**self).gives_up(begun, passes)
    }

    fn stall(&self, on: bool) -> bool {
        (**self).stall(on)
    }

    fn complaints(&self) -> Vec<String> {
        (**self).complaints()
    }

    fn pardon(&self) {
        (**self).pardon();
    }
}

/// Whether waiting since `begun` took longer than `limit_ns`, for backends in real time.
pub(crate) fn is_over(clock: Clock, begun: Instant, limit_ns: u64) -> bool {
    clock.ticks_to_ns(clock.now().since(begun)) > limit_ns
}

fn stall_reads(model: &mut Model, on: bool) {
    let drop = FaultRule::io(NvmOpcode::READ, FaultAction::Drop);
    model.reconfigure(|config| {
        config.faults = if on { FaultPlan::none().with(drop) } else { FaultPlan::none() };
    });
}

fn complaints_of(model: &mut Model) -> Vec<String> {
    model.mistakes().iter().map(ToString::to_string).collect()
}

fn arena_of(model: &mut Model, dma_bytes: usize) -> &'static DmaArena {
    let arena = DmaArena::leak(dma_bytes, IOVA).expect("an arena");
    model.map_dma(arena.region()).expect("the region is mapped once");
    arena
}

/// The model on this thread; time is virtual and passes only in [`Backend::pass`]. When it goes,
/// the model must have seen no mistake, except those that a test took.
#[derive(Debug)]
pub struct Stepped {
    model: Rc<RefCell<Model>>,
    regs: &'static SteppedRegs,
    doorbells: DoorbellRegion,
    arena: &'static DmaArena,
    clock: &'static ManualClock,
    idle_passes: Cell<u32>,
}

impl Stepped {
    /// A model of `config` with `dma_bytes` of memory.
    #[must_use]
    pub fn new(config: ModelConfig, dma_bytes: usize) -> Self {
        let mut model = Model::new(config).expect("a legal model");
        let arena = arena_of(&mut model, dma_bytes);
        let doorbells = model.doorbells();
        let model = Rc::new(RefCell::new(model));
        let regs = SteppedRegs::leak(&model);
        // Not 0, so that a forgotten time stamp shows.
        let clock = Box::leak(Box::new(ManualClock::new(1_000_000_000)));
        Self { model, regs, doorbells, arena, clock, idle_passes: Cell::new(0) }
    }

    /// Lets the clock jump by `ns` without a pass.
    pub fn jump(&self, ns: u64) {
        self.clock.advance(ns);
    }

    /// Does something with the model.
    pub fn with_model<R>(&self, f: impl FnOnce(&mut Model) -> R) -> R {
        f(&mut self.model.borrow_mut())
    }
}

/// A mistake of the host that no test asked about is an error of the test.
impl Drop for Stepped {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.model.borrow_mut().assert_no_mistakes();
        }
    }
}

impl Backend for Stepped {
    fn parts(&self) -> DeviceParts {
        DeviceParts::Nvme(ControllerParts {
            regs: self.regs,
            doorbells: self.doorbells,
            arena: self.arena,
            clock: Clock::manual(self.clock),
            crash: None,
            probes: None,
        })
    }

    fn pass(&self, idle: bool) {
        let report = self.model.borrow_mut().step(self.clock.now().ticks());
        // A microsecond a pass; the longer nothing happens, the longer, up to a millisecond.
        let idle = idle && report.commands == 0 && report.completions == 0;
        self.idle_passes.set(if idle { self.idle_passes.get().saturating_add(1) } else { 0 });
        let doublings = (self.idle_passes.get() / 16).min(10);
        self.clock.advance(1_000 << doublings);
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn stall(&self, on: bool) -> bool {
        self.with_model(|model| stall_reads(model, on));
        true
    }

    fn complaints(&self) -> Vec<String> {
        self.with_model(complaints_of)
    }

    fn pardon(&self) {
        self.with_model(|model| drop(model.take_mistakes()));
    }
}

/// The model on a thread of its own, registers through a mailbox, in real time.
#[derive(Debug)]
pub struct Threaded {
    thread: ModelThread,
    regs: &'static MailboxClient,
    doorbells: DoorbellRegion,
    arena: &'static DmaArena,
    clock: Clock,
}

impl Threaded {
    /// A model of `config` with `dma_bytes` of memory, on a thread that gives way when idle.
    #[must_use]
    pub fn new(config: ModelConfig, dma_bytes: usize) -> Self {
        let mut model = Model::new(config).expect("a legal model");
        let arena = arena_of(&mut model, dma_bytes);
        let doorbells = model.doorbells();
        let mailbox = leak_zeroed(MailboxLayout::BYTES);
        let options =
            ThreadOptions { idle: Idle::Yield { after_steps: 64 }, ..ThreadOptions::default() };
        let thread = ModelThread::spawn(model, Some(mailbox), options).expect("a thread");
        // Ticks of a guessed frequency do: nothing here compares them with real seconds.
        let clock = Clock::tsc(2_000_000_000);
        // Generous: on a machine with more threads than cores the server may not run for a while.
        let client = MailboxClient::new(mailbox, clock, 2_000_000_000).expect("a mailbox");
        Self { thread, regs: Box::leak(Box::new(client)), doorbells, arena, clock }
    }

    /// Does something with the model, on its thread.
    ///
    /// # Panics
    /// If its thread is gone.
    pub fn with_model<R: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Model) -> R + Send + 'static,
    ) -> R {
        self.thread.call(f).expect("the model's thread runs")
    }
}

impl Backend for Threaded {
    fn parts(&self) -> DeviceParts {
        DeviceParts::Nvme(ControllerParts {
            regs: self.regs,
            doorbells: self.doorbells,
            arena: self.arena,
            clock: self.clock,
            crash: None,
            probes: None,
        })
    }

    fn pass(&self, idle: bool) {
        if idle {
            std::thread::yield_now();
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn gives_up(&self, begun: Instant, _passes: u64) -> bool {
        // The clock's frequency is a guess: between ten seconds and a minute and a half.
        is_over(self.clock, begun, 30_000_000_000)
    }

    fn stall(&self, on: bool) -> bool {
        self.with_model(move |model| stall_reads(model, on));
        true
    }

    fn complaints(&self) -> Vec<String> {
        self.with_model(complaints_of)
    }

    fn pardon(&self) {
        self.with_model(|model| drop(model.take_mistakes()));
    }
}
