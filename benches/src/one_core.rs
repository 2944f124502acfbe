//! Driver and model on one core: who wants to time or count the driver alone steps the model where
//! nothing is measured. Registers reach the model directly; there is no thread.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Context as _, Result, bail};
use core_runtime::clock::Clock;
use core_runtime::mem::{Bump, DmaArena, Iova};
use host_bridge::backend::SteppedRegs;
use nvme_driver::{Controller, ControllerConfig, ControllerParts, ControllerState, Namespace};
use nvme_model::{Model, ModelConfig, NamespaceConfig};

/// Blocks of the null namespace.
pub const BLOCKS: u64 = 1 << 24;

/// A region's first IOVA: no pointer of this process, and above 4 GiB.
const IOVA: Iova = Iova(0x12_3400_0000);

/// Passes until the controller is ready: it takes some hundred of a manual clock, many more of a
/// real one.
const BRING_UP: u32 = 1_000_000;

/// A controller that is ready, over a null namespace.
#[derive(Debug)]
pub struct OneCore {
    /// To be stepped.
    pub model: Rc<RefCell<Model>>,
    /// The driver's side; it takes no latencies.
    pub controller: &'static Controller,
    /// Memory for buffers, some MiB.
    pub arena: &'static DmaArena,
    /// The driver's clock.
    pub clock: Clock,
}

impl OneCore {
    /// Brings it up; before each pass `time` moves the clock, if it needs that, and tells the
    /// model's time.
    ///
    /// # Errors
    /// If the model or the driver cannot be made, or does not come up.
    pub fn new(clock: Clock, time: impl FnMut() -> u64) -> Result<Self> {
        let namespaces = vec![NamespaceConfig::null(1, BLOCKS, 7)];
        Self::over(ModelConfig { namespaces, ..ModelConfig::default() }, 8 << 20, clock, time)
    }

    /// The same over another model, with `dma_bytes` of memory.
    ///
    /// # Errors
    /// Those of [`OneCore::new`].
    pub fn over(
        model: ModelConfig,
        dma_bytes: usize,
        clock: Clock,
        mut time: impl FnMut() -> u64,
    ) -> Result<Self> {
        let mut model = Model::new(model)?;
        let arena = DmaArena::leak(dma_bytes, IOVA)?;
        model.map_dma(arena.region())?;
        let doorbells = model.doorbells();
        let model = Rc::new(RefCell::new(model));
        let regs = SteppedRegs::leak(&model);
        let parts = ControllerParts { regs, doorbells, arena, clock, crash: None, probes: None };
        let config = ControllerConfig { latency_sampling: 0, ..ControllerConfig::default() };
        let controller = Controller::new(parts.into(), &Bump::leak(8 << 20), config)?;
        for _ in 0..BRING_UP {
            let now = time();
            controller.poll(clock.now());
            controller.ring();
            model.borrow_mut().step(now);
            if controller.state() == ControllerState::Ready {
                return Ok(Self { model, controller, arena, clock });
            }
        }
        bail!("the controller does not come up: {:?}", controller.state())
    }

    /// Its namespace.
    ///
    /// # Errors
    /// If there is none.
    pub fn namespace(&self) -> Result<&'static Namespace> {
        self.controller.namespaces().next().context("a namespace")
    }
}
